"""Nonlinear probe: the network is frozen up to a named map, and everything above it is trained from scratch.

It measures how much of a network must be relearned, not how linearly separable its maps are, as in the papers' tables
for Conv4 and Conv5 of AlexNet. The maps are the last two, or the one that `features` names, whose grid and scaling do
not matter. Above the map are the rest of the network, with random weights, and a classifier with two hidden layers, as
in AlexNet; layers after the pooled vector are left out. The recipe is that of fine-tuning, including random views.
Features without a network are read by the same classifier, without views.

Source: Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", 2016,
https://arxiv.org/abs/1603.09246; the classifier with batch norms: Gidaris, Singh, Komodakis, "Unsupervised
Representation Learning by Predicting Image Rotations", 2018, https://arxiv.org/abs/1803.07728
Differs: 512 hidden units, not 4,096; AdamW; the number of steps is chosen by held-out labels.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders.readout import OUTPUT, Readout, Spec, bare
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings
from unlabeled.evaluation.probes import finetune
from unlabeled.evaluation.twins import untrained

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["PROBE", "Above", "below", "layers", "probe"]

HIDDEN = 512
MAPS = 2
"""How many of the last maps get a column if none is named."""
RATE = 1e-3


def layers(encoder: "Encoder") -> Sequence[str]:
    """The map that a readout reads, otherwise the last two."""
    names = list(encoder.map_dims)
    if not names:
        raise UserError(f"probe must not be nonlinear for {encoder.config['name']}, which has no named maps")
    if isinstance(encoder, Readout):
        spec: Spec = encoder.spec
        names = names if spec.layer == OUTPUT else [spec.layer]
    return names[-MAPS:]


def below(encoder: "Encoder", layer: str, x: Any) -> tuple[set[str], set[str]]:
    """What a map depends on.

    Args:
        encoder: In evaluation mode; it is not changed.
        layer: Name of the map.
        x: A few samples, as its `inputs` returns them.

    Returns:
        Names of the parameters below the map, and of the modules that have some of them or run before the last of
        these: those whose statistics and mode belong to the frozen part. The last norm of a ViT, through which all of
            its maps
        are read, is below all of them.
    """
    network = copy.deepcopy(encoder).requires_grad_(True)
    parameters = dict(network.named_parameters())
    order: dict[str, int] = {}

    def note(name: str, module: nn.Module, inputs: Any) -> None:
        order.setdefault(name, len(order))

    for name, module in network.named_modules():
        module.register_forward_pre_hook(partial(note, name))
    # Recurrent layers of cuDNN have no gradient in evaluation mode.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        gradients = torch.autograd.grad(
            network.features(x, layer).sum(), list(parameters.values()), allow_unused=True
        )
    names = {name for name, gradient in zip(parameters, gradients) if gradient is not None}
    owners = {name.rpartition(".")[0] for name in names}
    last = max((order.get(owner, -1) for owner in owners), default=len(order))
    bare_leaves = {
        name
        for name, module in network.named_modules()
        if not any(True for _ in module.children()) and not any(True for _ in module.parameters())
    }
    return names, owners | {name for name in bare_leaves if order.get(name, len(order)) < last}


class Above(nn.Module):
    """A network whose weights up to a map are frozen, and whose other weights are random.

    Args:
        encoder: Source of the frozen weights; it is not changed.
        layer: Name of the map.
        x: A few samples, as its `inputs` returns them.
        seed: Seed of the random weights.
    """

    def __init__(self, encoder: "Encoder", layer: str, x: Any, seed: int) -> None:
        super().__init__()
        names, modules = below(encoder, layer, x)
        weights = dict(encoder.named_parameters())
        self.network = copy.deepcopy(encoder)
        if len(names) < len(weights):
            self.network = untrained(encoder, seed)
            modules |= {name for name in dict(self.network.named_modules()) if "adapt" in name.split(".")}
            frozen_state = {
                name: value
                for name, value in encoder.state_dict().items()
                if name in names or (name not in weights and name.rpartition(".")[0] in modules)
            }
            self.network.load_state_dict(frozen_state, strict=False)
        for name, weight in self.network.named_parameters():
            weight.requires_grad_(name not in names)
        self.frozen = [module for name, module in self.network.named_modules() if name in modules]
        self.last = list(encoder.map_dims)[-1]

    def train(self, mode: bool = True) -> Self:
        """Set the mode; dropout and batch norms of the frozen part stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.training = False
        return self

    def inputs(self, batch: dict[str, Tensor]) -> Any:
        """Inputs of the encoder."""
        return self.network.inputs(batch)

    def forward(self, x: Any) -> Tensor:
        """The last map, pooled as by the encoder, float, shape (batch, numbers)."""
        return self.network.features(x, self.last).flatten(1)


class Vectors:
    """Features that need no network, as training data.

    Args:
        values: Float, shape (samples, numbers).
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        return {"values": self.values[index.to(self.values.device)]}

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        return ({"values": part} for part in self.values.split(size))

    def subset(self, index: Tensor) -> "Vectors":
        return Vectors(self.values[index.to(self.values.device)])


class NoNetwork(nn.Module):
    """Stands in for a network where there is none."""

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["values"]

    def forward(self, x: Tensor) -> Tensor:
        return x


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Train the layers above the map and a classifier with two hidden layers on some labels."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        if representation.encoder is None:
            mean, scale = representation.statistics(data.train)
            train, test = (
                Vectors((representation.features(part) - mean) / scale) for part in (data.train, data.test)
            )
            data = replace(data, train=train, test=test)  # type: ignore[arg-type]
            network, numbers, where = NoNetwork(), train.values.shape[1], "no map"
            view = network.inputs
        else:
            encoder = bare(representation.encoder)
            assert layer is not None
            x = encoder.inputs(data.train.batch(torch.arange(min(2, len(data.train)))))
            network, where = Above(encoder, layer, x, settings.seed), f"frozen up to {layer}"
            with torch.no_grad():
                numbers = network.eval()(x).shape[1]
            view = finetune.view_of(encoder, settings.augment)
        head = _head(numbers, len(data.classes)).to(data.labels.device)
        training = finetune.Training(network, head, data, view, {network: RATE, head: RATE})
        steps = finetune.fit(training, rows, settings.steps)
    return training.logits(data.test).argmax(1), f"{where}, {steps}, rate {RATE:g}"


def _head(numbers: int, classes: int) -> nn.Sequential:
    """A classifier with two hidden layers."""
    widths = (numbers, HIDDEN, HIDDEN)
    hidden = [
        part
        for before, after in pairwise(widths)
        for part in (nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, classes))


PROBE = Probe(probe, layers=layers, whole_maps=True)
