"""Pointing at what sounds: the position of a picture that fits the sound best must lie in what makes the sound.

This is the pointing game. Beside it stand the centre of the picture, the same pictures with the sounds of other
samples, and a network with random weights. Where a second thing in the picture makes no sound, the task is also to
choose which of the two fits better: half is chance.

A network often fits best on the rim of a thing, where its outline is; so the game is also played with a margin of
a 16th of the picture's side, for all controls alike.

Source: Arandjelović, Zisserman, "Objects that Sound", 2018, https://arxiv.org/abs/1712.06651; the margin is from
Zhang and others, "Top-down Neural Attention by Excitation Backprop", 2016, https://arxiv.org/abs/1608.00507
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.progress import watched

__all__ = ["CHOOSING", "NEARBY", "POINTING", "TASK", "measure", "pointing", "preference"]

POINTING, NEARBY, CHOOSING = "pointing", "pointing nearby", "sounding over silent"
MARGIN = 16
"""Sides of the picture over the margin of what counts as nearby."""
BATCH = 128


def pointing(maps: Tensor, masks: Tensor, margin: int = 0) -> Tensor:
    """Whether the largest value of each map lies in the thing that is heard.

    Args:
        maps: Float, shape (samples, rows, columns), enlarged linearly to the size of the masks; positions lie at the
            multiples of the stride, where convolutions that pad by half their size look.
        masks: uint8, shape (samples, height, width), 1 in what is heard.
        margin: Pixels to any side by which it may be missed.

    Returns:
        1 where it does, else 0, float, shape (samples,).
    """
    best = _enlarge(maps, masks).flatten(1).argmax(1, keepdim=True)
    heard = F.max_pool2d((masks == 1).float()[:, None], 2 * margin + 1, 1, margin)
    return heard.flatten(1).gather(1, best)[:, 0]


def preference(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether what is heard has a larger value somewhere than what is silent has anywhere.

    Args:
        maps: As in `pointing`.
        masks: As in `pointing`, and 2 in what is silent.

    Returns:
        1 where it does, 0.5 where both are alike, else 0, float, shape (samples,).
    """
    values = _enlarge(maps, masks)
    heard, silent = (values.masked_fill(masks != number, -torch.inf).flatten(1).amax(1) for number in (1, 2))
    return ((heard > silent).float() + (heard >= silent).float()) / 2


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Play the pointing game.

    Args:
        model: What is measured.
        parts: Audio-visual data with masks, such as `chiming_shapes:distractor`.

    Raises:
        ValueError: The encoder has no positions, the data no masks, or there are fewer than 2 clips.
    """
    encoder: Any = model.encoder
    check.choice(("audio-visual",), encoder=encoder.kind)
    train, test = parts.views(encoder, model.device)
    masks = getattr(test, "masks", None)
    if masks is None:
        raise UserError(f"data must have masks, such as chiming_shapes:distractor, got {test.name} without")
    check.at_least(2, clips=len(test))
    masks = masks.to(model.device)
    maps = _maps(model, train, test, masks)
    margin = round(min(masks.shape[1:]) / MARGIN)
    measurements = [
        _measurement(unit, name, pointing(fit, masks, by), test)
        for unit, by in {POINTING: 0, NEARBY: margin}.items()
        for name, fit in maps.items()
    ]
    both = ((masks == 1).flatten(1).any(1) & (masks == 2).flatten(1).any(1)).nonzero()[:, 0]
    if len(both):
        del maps["centre of the picture"]  # it often lies in neither
        measurements += [
            _measurement(CHOOSING, name, preference(fit[both], masks[both]), test.subset(both))
            for name, fit in maps.items()
        ]
    return measurements


def _maps(model: EvaluatedModel, train: Data, test: Data, masks: Tensor) -> dict[str, Tensor]:
    """How well each position of the pictures fits the sound, by controls and ours, float, (samples, rows, columns)."""
    generator = torch.Generator().manual_seed(model.seed)
    shift = int(torch.randint(1, len(test), (), generator=generator))
    positions, sounds = read(model.encoder, test)
    centre = torch.zeros(masks.shape, device=masks.device)
    centre[:, masks.shape[1] // 2, masks.shape[2] // 2] = 1
    return {
        "centre of the picture": centre,
        "another sample's sound": cosines(positions, torch.roll(sounds, shift, 0)),
        "random": cosines(*read(model.untrained(train), test)),
        "unlabeled": cosines(positions, sounds),
    }


@torch.no_grad()
def read(encoder: Any, data: Data) -> tuple[Tensor, Tensor]:
    """Directions of all positions, shape (samples, dim, rows, columns), and of all sounds, shape (samples, dim)."""
    batches = watched(data.batches(BATCH), -(-len(data) // BATCH), "localisation", "batches")
    inputs = [encoder.inputs(batch) for batch in batches]
    positions = torch.cat([encoder.positions(x.image) for x in inputs])
    return positions, torch.cat([encoder.sound(x.waveform) for x in inputs])


def cosines(positions: Tensor, sounds: Tensor) -> Tensor:
    """Cosines of every position with the sound, float, shape (samples, rows, columns)."""
    return einsum(positions, sounds, "samples dim rows columns, samples dim -> samples rows columns")


def _enlarge(maps: Tensor, masks: Tensor) -> Tensor:
    """Maps at the size of the masks, linearly between positions."""
    for axis in (1, 2):
        size, target = maps.shape[axis], masks.shape[axis]
        position = (torch.arange(target, device=maps.device) * size / target).clamp(max=size - 1)
        before = position.long()
        weight = (position - before)[:, None] if axis == 1 else position - before
        after = (before + 1).clamp(max=size - 1)
        maps = torch.lerp(maps.index_select(axis, before), maps.index_select(axis, after), weight)
    return maps


def _measurement(unit: str, features: str, values: Tensor, test: Data) -> Measurement:
    return Measurement(
        "localisation", features, values[None].cpu(), unit=unit,
        groups=test.groups, counted=group_unit(test), bounds=(0.0, 1.0),
    )  # fmt: skip


TASK = Task(measure, partial(Source.open, whole=True), kinds=("audio-visual",))
