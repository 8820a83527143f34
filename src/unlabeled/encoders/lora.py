"""Low-rank adaptation: the encoder is frozen, and a product of two matrices is trained beside each linear layer.

Source: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
https://arxiv.org/abs/2106.09685, as peft has it.
Differs: every linear layer that the encoder calls has one, not queries and values alone, except those whose weights are
shared with others, to which a product would be added too; the product is not scaled.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unlabeled.check import UserError

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["add", "merge", "merged"]

NAME = "lora"
"""Name of the adapter in peft."""
BASE, FIRST, SECOND = ".base_layer.", f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"
"""In names of weights: the frozen layer, and the two matrices."""
SAMPLES = 2
"""Samples that show which layers are called."""


def add(encoder: "Encoder", rank: int, data: "Data") -> None:
    """Freeze an encoder and add matrices to be trained, whose product is 0 at first; a note counts them.

    Args:
        encoder: Changed in place.
        rank: Rank of the products, at least 1.
        data: What it will be trained on; a few samples show which layers it runs.

    Raises:
        ValueError: peft is missing, or no linear layer is run.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"lora needs peft ({error}); run pip install 'unlabeled[lora]'") from error
    network: Any = getattr(encoder, "trunk", encoder)
    names = _linear_layers(encoder, network, data)
    if not names:
        raise UserError(
            f"lora must be left out for networks that run no nn.Linear, got {rank} for {encoder.config['name']}"
        )
    every = sum(weight.numel() for weight in encoder.parameters())
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), network, NAME)
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(name.endswith((FIRST, SECOND)))
    trained = sum(weight.numel() for weight in encoder.parameters() if weight.requires_grad)
    encoder.notes.append(
        f"lora: the {every:,} weights of the encoder stay, {trained:,} are trained beside {len(names)} linear layers "
        f"with rank {rank}, and added to them at the end"
    )


def _linear_layers(encoder: "Encoder", network: nn.Module, data: "Data") -> list[str]:
    """Names in a network of the linear layers that are called, and whose weights no other layer uses."""
    called: set[str] = set()
    uses = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in network.named_modules()
        if type(module) is nn.Linear and uses[id(module.weight)] == 1
    ]
    training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()(encoder.inputs(encoder.evaluation_view(data).sample(SAMPLES)))
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    return [name for name, _ in network.named_modules() if name in called]


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the same networks without `add`, whose weights hold the products; of others, their own.

    Args:
        state: Tensors by name, as of an encoder or of a method with several.
    """
    plain = {}
    for name, value in state.items():
        layer, _, part = name.partition(BASE)
        first, second = state.get(layer + FIRST), state.get(layer + SECOND)
        if name.endswith((FIRST, SECOND)):
            continue
        if first is None or second is None:
            plain[name] = value
        else:
            plain[f"{layer}.{part}"] = value + second @ first if part == "weight" else value
    return plain


def merge(encoder: nn.Module) -> None:
    """Add the products to the weights and take the matrices out, in place; all weights can be trained again."""
    state = merged(encoder.state_dict())
    for name, module in [*encoder.named_modules()]:
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            encoder.set_submodule(name, module.get_base_layer())  # type: ignore[operator]
    encoder.load_state_dict(state)
    encoder.requires_grad_(True)
