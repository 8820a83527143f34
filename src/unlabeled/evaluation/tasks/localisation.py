"""Task `localisation`: point at what is heard.

The place of a picture that fits the sound best must lie in the thing that makes the sound (the pointing game).
Beside it stand the centre of the picture, the same pictures with the sounds of other samples, and a network with
random weights. Where a second thing in the picture makes no sound, it is also asked which of the two fits better:
half is a coin.

A network often fits best on the rim of a thing, where its outline is; so the game is also played with a margin of
a 16th of the picture's side, for all controls alike.

Source: Arandjelović, Zisserman, "Objects that Sound", 2018, https://arxiv.org/abs/1712.06651; the margin is from
Zhang and others, "Top-down Neural Attention by Excitation Backprop", 2016, https://arxiv.org/abs/1608.00507
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.evaluation import opening
from unlabeled.evaluation.scores import Measurement, of_groups

if TYPE_CHECKING:
    from unlabeled.evaluation.tasks import Subject

__all__ = ["CHOOSING", "NEARBY", "POINTING", "chosen", "measure", "pointed"]

POINTING, NEARBY, CHOOSING = "pointing", "pointing nearby", "sounding over silent"
MARGIN = 16
"""Sides of the picture over the margin of what counts as nearby."""
BATCH = 128


def pointed(maps: Tensor, masks: Tensor, margin: int = 0) -> Tensor:
    """Whether the largest value of each map lies in the thing that is heard.

    Args:
        maps: Float, shape (samples, rows, columns), enlarged to the size of the masks: linearly, the places at
            the multiples of the stride, where convolutions that pad by half their size look.
        masks: uint8, shape (samples, height, width), 1 in what is heard.
        margin: Pixels to any side by which it may be missed.

    Returns:
        1 where it does, else 0, float, shape (samples,).
    """
    best = _enlarged(maps, masks).flatten(1).argmax(1, keepdim=True)
    heard = F.max_pool2d((masks == 1).float()[:, None], 2 * margin + 1, 1, margin)
    return heard.flatten(1).gather(1, best)[:, 0]


def chosen(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether what is heard has a larger value somewhere than what is silent has anywhere.

    Args:
        maps: As in `pointed`.
        masks: As in `pointed`, and 2 in what is silent.

    Returns:
        1 where it does, 0.5 where both are alike, else 0, float, shape (samples,).
    """
    values = _enlarged(maps, masks)
    heard, silent = (values.masked_fill(masks != number, -torch.inf).flatten(1).amax(1) for number in (1, 2))
    return ((heard > silent).float() + (heard >= silent).float()) / 2


def measure(
    subject: "Subject", data: Any, *, seed: int = 0, device: torch.device | str = "cpu"
) -> list[Measurement]:
    """Play the pointing game.

    Args:
        subject: What is measured.
        data: Audio-visual data with masks, such as `chiming_shapes:distractor`.
        seed: Seed of the sounds that are taken for wrong ones.
        device: Where to compute.

    Raises:
        ValueError: The encoder has no places, the data no masks, or there are fewer than 2 clips.
    """
    encoder = subject.encoder
    check.choice(("audio-visual",), encoder=encoder.kind)
    if isinstance(data, Data):
        data = (data, data)
    train, test = opening.pair(data, None, opening.options(subject.method or encoder, encoder), encoder)
    masks = getattr(test, "masks", None)
    if masks is None:
        raise UserError(f"data must have masks, such as chiming_shapes:distractor, got {test.name} without")
    check.at_least(2, clips=len(test))
    test, masks = test.to(device), masks.to(device)
    generator = torch.Generator().manual_seed(seed)
    turn = int(torch.randint(1, len(test), (), generator=generator))
    places, sounds = read(encoder, test)
    wrong = torch.roll(sounds, turn, 0)
    centre = torch.zeros(masks.shape, device=masks.device)
    centre[:, masks.shape[1] // 2, masks.shape[2] // 2] = 1
    shown = {
        "centre of the picture": centre,
        "another sample's sound": fits(places, wrong),
        "random": fits(*read(subject.untrained(train.to(device)), test)),
        "unlabeled": fits(places, sounds),
    }
    margin = round(min(masks.shape[1:]) / MARGIN)
    measured = [
        _measurement(unit, name, pointed(maps, masks, by), test)
        for unit, by in {POINTING: 0, NEARBY: margin}.items()
        for name, maps in shown.items()
    ]
    both = ((masks == 1).flatten(1).any(1) & (masks == 2).flatten(1).any(1)).nonzero()[:, 0]
    if len(both):
        del shown["centre of the picture"]  # it often lies in neither
        measured += [
            _measurement(CHOOSING, name, chosen(maps[both], masks[both]), test.subset(both))
            for name, maps in shown.items()
        ]
    return measured


@torch.no_grad()
def read(encoder: Any, data: Data) -> tuple[Tensor, Tensor]:
    """Directions of all places, shape (samples, dim, rows, columns), and of all sounds, shape (samples, dim)."""
    inputs = [encoder.inputs(batch) for batch in data.batches(BATCH)]
    places = torch.cat([encoder.positions(x.image) for x in inputs])
    return places, torch.cat([encoder.sound(x.waveform) for x in inputs])


def fits(places: Tensor, sounds: Tensor) -> Tensor:
    """Cosines of every place with the sound, float, shape (samples, rows, columns)."""
    return einsum(places, sounds, "samples dim rows columns, samples dim -> samples rows columns")


def _enlarged(maps: Tensor, masks: Tensor) -> Tensor:
    for axis in (1, 2):
        size, wanted = maps.shape[axis], masks.shape[axis]
        place = (torch.arange(wanted, device=maps.device) * size / wanted).clamp(max=size - 1)
        before = place.long()
        share = (place - before)[:, None] if axis == 1 else place - before
        after = (before + 1).clamp(max=size - 1)
        maps = torch.lerp(maps.index_select(axis, before), maps.index_select(axis, after), share)
    return maps


def _measurement(unit: str, features: str, values: Tensor, test: Data) -> Measurement:
    return Measurement(
        "localisation", None, "all", features, values[None].cpu(), unit=unit,
        groups=test.groups, counted=of_groups(test), bounds=(0.0, 1.0),
    )  # fmt: skip
