"""How weights move: the optimizers and limits of the gradient."""

from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.method import Method
from unlabeled.training import sharding
from unlabeled.training.layer_rates import factors
from unlabeled.training.settings import Settings

__all__ = ["clip", "load", "make", "state"]

BETAS, MOMENTUM = (0.9, 0.999), 0.9
"""Defaults of AdamW, and of SGD and LARS."""


def make(method: Method, settings: Settings) -> torch.optim.Optimizer:
    """Optimizer by the rules in `Settings`, with the method's own factors on the learning rate.

    Its groups also have `factor`, on the learning rate, `heads`, whether they move from the first step on, and
    `numbers`, by which files know the weights.
    """
    own = {} if settings.encoder_rate == settings.layer_decay == 1 else _encoder_rates(method, settings)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            part = name.partition(".")[0]
            factor = method.learning_rates.get(part, 1.0) * own.get(name, 1.0)
            heads = settings.head_warmup == 0 or part != "encoder"
            groups.setdefault((factor, parameter.ndim > 1, heads), []).append(parameter)
    decay = settings.weight_decay or 0.0
    parameters: list[dict[str, Any]] = []
    first = 0
    for (factor, decays, heads), members in groups.items():
        numbered = list(enumerate(members, first))
        first += len(members)
        for kind in (True, False):  # operations on lists refuse mixed ones
            some = [(number, member) for number, member in numbered if sharding.is_sharded(member) == kind]
            if some:
                numbers, weights = zip(*some, strict=True)
                rules = {"weight_decay": decay if decays else 0.0, "factor": factor, "heads": heads}
                parameters.append({"params": list(weights), "numbers": numbers, **rules})
    lr = settings.lr or 0.0
    if settings.optimizer == "adamw":
        first, second = settings.betas or BETAS
        return torch.optim.AdamW(parameters, lr=lr, betas=(first, second))
    momentum = MOMENTUM if settings.sgd_momentum is None else settings.sgd_momentum
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    from timm.optim.lars import Lars

    # Otherwise it adapts the rates of groups with weight decay only.
    for group in parameters:
        group["always_adapt"] = group["params"][0].ndim > 1
    return Lars(parameters, lr=lr, momentum=momentum)  # type: ignore[arg-type]


def _encoder_rates(method: Method, settings: Settings) -> dict[str, float]:
    """Factors on the learning rate of the encoder's weights, by their names in the method."""
    rates = factors(method.encoder, settings.encoder_rate, settings.layer_decay)
    return {f"encoder.{name}": factor for name, factor in rates.items()}


def clip(method: Method, most: float) -> None:
    """Scale gradients down whose norm is above a limit, for each player alone.

    Args:
        method: The method, whose gradients are those of the whole step.
        most: Largest Euclidean norm of the gradient of all weights of a player.
    """
    players: dict[str, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        player = name.partition(".")[0]
        players.setdefault(player if player in method.learning_rates else "", []).append(parameter)
    for weights in players.values():
        sharding.clip(weights, most)


def state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors of an optimizer by "NUMBER OF THE PARAMETER.NAME", as files hold them."""
    slots, numbers = optimizer.state_dict()["state"], [number for number, _ in _numbered(optimizer)]
    return {
        f"{numbers[slot]}.{name}": value for slot, values in slots.items() for name, value in values.items()
    }


def load(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Load what `state` gave."""
    places = {number: (slot, weight) for slot, (number, weight) in enumerate(_numbered(optimizer))}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, _, name = key.partition(".")
        slot, weight = places[int(number)]
        slots.setdefault(slot, {}).update(sharding.parts({name: value}, {name: weight}))
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})


def _numbered(optimizer: torch.optim.Optimizer) -> list[tuple[int, nn.Parameter]]:
    """Weights with their numbers in files, in the order of the optimizer."""
    return [one for group in optimizer.param_groups for one in zip(group["numbers"], group["params"])]
