"""ABX: whether a sound is nearer to another one of its class than to one of another class.

A and X are sounds of one class, B is of another. The error is the fraction of such triples in which X is further from A
than from B, a tie counting one half: 0.5 is chance, and nothing is trained. Within speakers all three are of one
speaker; across speakers A and B are of one and X is of another, so that what tells speakers apart misleads. Distances
are mean angles between frames along the cheapest path of time warping, or angles between the means over time.

Errors are averaged over the triples of two classes in this order, one speaker and, across speakers, another; then over
these other speakers, then over speakers, then over all ordered pairs of classes, so that frequent classes and speakers
count no more than others. Where a factor `context` says which sounds stand around a sound, all three have the same, and
errors are averaged over contexts first.

Source: Schatz and others, "Evaluating speech features with the Minimal-Pair ABX task: Analysis of the classical
MFC/PLP pipeline", 2013; Kahn and others, "Libri-Light: A Benchmark for ASR with Limited or No Supervision", 2019,
https://arxiv.org/abs/1912.07875
Differs: a frame of zeros is orthogonal to all others; it is opposite to them in the authors' code. Sounds and speakers
are chosen once for all pairs of classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.groups import numbers_of
from unlabeled.evaluation.controls.mfcc import cepstra, slopes
from unlabeled.evaluation.features import require_finite, standardization
from unlabeled.evaluation.intervals import LeftOut
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.time_warping import angles, directions, warped_distances
from unlabeled.method import Batch
from unlabeled.parts import ragged
from unlabeled.progress import watched

__all__ = ["TASK", "Errors", "Items", "Settings", "measure", "triples"]

SPEAKER, CONTEXT = ("speaker", "speaker_id"), "context"
"""Names of the factors that say who speaks, and what stands around a sound."""
COEFFICIENTS = 13
STATISTICS_SOUNDS, SECONDS = 256, 5.0
"""Training sounds by which the frames of controls are standardised, and the longest piece of each."""
BATCH = 64
Read = Callable[[Batch], tuple[Tensor, Tensor]]
"""From a batch to frames, float, shape (batch, frames, numbers), and how many are real, int64, shape (batch,)."""


@dataclass(frozen=True)
class Settings:
    """How much is compared, and what.

    Attributes:
        sounds: Most sounds of each class and speaker (and context).
        others: Most other speakers whose sounds are X for each speaker's A and B.
        pairs: Most pairs of sounds whose distance is computed; where there would be more, fewer sounds of each class
            and speaker are taken, and if two of each are still too many, fewer speakers.
        layer: Named layer of the encoder; None for its last.
    """

    sounds: int = 10
    others: int = 5
    pairs: int = 200_000
    layer: str | None = None

    def __post_init__(self) -> None:
        check.at_least(2, sounds=self.sounds)
        check.at_least(1, others=self.others, pairs=self.pairs)


class Items(NamedTuple):
    """The sounds that are compared.

    Attributes:
        rows: Their rows in the test data, int64, shape (sounds,).
        classes: Class of each, int64, shape (sounds,).
        speakers: Speaker of each from 0, int64, shape (sounds,).
        contexts: Context of each, int64, shape (sounds,).
        others: Whose sounds are X for whose A and B, bool, shape (speakers, speakers).
    """

    rows: Tensor
    classes: Tensor
    speakers: Tensor
    contexts: Tensor
    others: Tensor

    def pairs(self) -> Tensor:
        """Pairs of sounds whose distance matters, each once, int64, shape (pairs, 2)."""
        mask = self._compared()[self.speakers][:, self.speakers] & (self.contexts[:, None] == self.contexts)
        return mask.triu(1).nonzero()

    def bound(self) -> int:
        """No fewer than there are pairs."""
        sizes, compared = self.speakers.bincount(minlength=len(self.others)), self._compared()
        return int((compared * sizes * sizes[:, None]).sum()) // 2

    def _compared(self) -> Tensor:
        return self.others | self.others.T | torch.eye(len(self.others), dtype=torch.bool)


class Errors(NamedTuple):
    """Mean error of the triples of two classes, speakers and a context.

    Attributes:
        values: Float64, shape (cells,).
        keys: Class of A and X, class of B, speaker of A and B, context, and speaker of X, int64, shape (cells, 5).
    """

    values: Tensor
    keys: Tensor

    def mean(self, without: int | None = None) -> float:
        """Over contexts and speakers of X, then speakers of A and B, then pairs of classes.

        Args:
            without: Speaker who is left out as A, B and X; None for none.
        """
        keep = (self.keys[:, [2, 4]] != (-1 if without is None else without)).all(1)
        values, keys = self.values[keep], self.keys[keep]
        for columns in (3, 2):
            keys, number = keys[:, :columns].unique(dim=0, return_inverse=True)
            counts = number.bincount(minlength=len(keys))
            values = values.new_zeros(len(keys)).index_add_(0, number, values) / counts
        return float(values.mean())


def triples(distances: Tensor, items: Items, *, across: bool) -> Errors:
    """Errors of all triples.

    Args:
        distances: Float, shape (sounds, sounds), symmetric; only those of `items.pairs` are looked at.
        items: The sounds.
        across: Whether X is of another speaker than A and B.
    """
    values, keys = [], []
    for context, speaker, other in _groups(items, across):
        near, xs = (
            ((items.contexts == context) & (items.speakers == s)).nonzero()[:, 0] for s in (speaker, other)
        )
        for a in items.classes[xs].unique().tolist():
            x, mine = xs[items.classes[xs] == a], near[items.classes[near] == a]
            theirs = near[items.classes[near] != a]
            different = x[:, None] != mine  # X is no A of its own
            if not different.any() or not len(theirs):
                continue
            to_a, to_b = distances[x][:, mine, None], distances[x][:, None, theirs]
            wrong = (to_a > to_b).double() + (to_a == to_b).double() / 2
            by_b = (wrong * different[:, :, None]).sum((0, 1)) / different.sum()
            for b in items.classes[theirs].unique().tolist():
                values.append(by_b[items.classes[theirs] == b].mean())
                keys.append([a, b, speaker, context, other])
    return Errors(torch.stack(values) if values else torch.zeros(0).double(), torch.tensor(keys).view(-1, 5))


def _groups(items: Items, across: bool) -> Iterator[tuple[int, int, int]]:
    """Context, speaker of A and B, and speaker of X."""
    for context in items.contexts.unique().tolist():
        for speaker in range(len(items.others)):
            for other in items.others[speaker].nonzero()[:, 0].tolist() if across else [speaker]:
                yield context, speaker, other


def measure(model: EvaluatedModel, parts: Parts, settings: Settings | None = None) -> list[Measurement]:
    """ABX errors on the test data: of ours, of the untrained network, and of the frames of two spectrograms.

    Args:
        model: What is measured; its seed chooses sounds and speakers.
        parts: Sounds with classes and speakers.
        settings: How much is compared; None for the defaults.

    Returns:
        Errors within and across speakers, with time warping and of means over time; speakers are the independent units.

    Raises:
        ValueError: The encoder gives no frames, or the data has no classes or speakers to compare.
    """
    settings, encoder = settings or Settings(), model.encoder
    if encoder.kind != "audio" or not hasattr(encoder, "layers"):
        name = encoder.config["name"]
        raise UserError(f"encoder must be one of audio with layers over time for abx, got {name}")
    train, test = parts.views(encoder, model.device)
    layer = settings.layer or list(encoder.map_dims)[-1]
    check.choice(encoder.map_dims, layer=layer)
    items, counted, about = _items(test, settings, model.seed)
    bins: int = encoder.spectrogram.bins  # type: ignore[assignment]
    readers = {
        "raw": (
            _standardised(partial(_bands, encoder), train, model.seed),
            f"{bins} log-mel bands, standardised",
        ),
        "mfcc": (
            _standardised(partial(_cepstra, encoder), train, model.seed),
            "13 MFCC and two slopes, standardised",
        ),
        "random": (partial(_layer, model.untrained(train), layer), f"layer {layer}"),
        "unlabeled": (partial(_layer, encoder, layer), f"layer {layer}"),
    }
    chosen, pairs, measurements = test.subset(items.rows), items.pairs(), []
    for name, (read, detail) in readers.items():
        for pooling, distances in _distances(_frames(read, chosen, name), pairs).items():
            for where in ("within", "across"):
                errors = triples(distances, items, across=where == "across")
                if len(errors.values):
                    column = f"{where}{pooling}"
                    measurements.append(
                        _measurement(name, column, errors, items, counted, f"{detail}; {about}")
                    )
    if not measurements:
        raise UserError(
            "data must have two classes of one speaker, and two sounds of one class, for abx, got none in "
            f"{test.name}"
        )
    return measurements


def _measurement(
    features: str, column: str, errors: Errors, items: Items, counted: str, detail: str
) -> Measurement:
    sizes = items.speakers.bincount().double()
    without = [errors.mean(speaker) for speaker in range(len(sizes))]
    left_out = LeftOut(torch.tensor(without).double(), sizes / sizes.sum(), len(sizes))
    return Measurement(
        "abx", features, torch.tensor([[errors.mean()]]), layer=column, unit="ABX error", better="lower",
        detail=detail, left_out=left_out, samples=len(items.rows), counted=counted, bounds=(0.0, 1.0),
    )  # fmt: skip


def _items(test: Data, settings: Settings, seed: int) -> tuple[Items, str, str]:
    """The sounds to compare, what their speakers are called, and how many they are, in words."""
    speakers, counted = _speakers(test)
    if test.labels is None:
        raise UserError(f"data must have labels for abx, got {test.name} without any")
    contexts = test.factors.get(CONTEXT, torch.zeros(len(test), dtype=torch.int64)).long()
    rows = ((test.labels >= 0) & (speakers >= 0)).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    if not len(rows):
        raise UserError(f"data must have sounds of known class and speaker for abx, got none in {test.name}")
    # Numbered in a random order, so that the first of them are a random choice.
    speakers, classes, contexts = (
        numbers_of(speakers[rows].tolist()),
        test.labels[rows].long(),
        contexts[rows],
    )
    rank = _ranks(numbers_of([*zip(classes.tolist(), speakers.tolist(), contexts.tolist(), strict=True)]))
    people = int(speakers.max()) + 1

    def some(most: int, people: int) -> Items:
        keep = (rank < most) & (speakers < people)
        others = _others(people, settings, seed)
        return Items(rows[keep], classes[keep], speakers[keep], contexts[keep], others)

    sizes = [(most, people) for most in range(settings.sounds, 1, -1)]
    sizes += [(2, max(2, people >> halvings)) for halvings in range(1, people.bit_length())]
    choices = (some(*size) for size in sizes)
    items = next((items for items in choices if items.bound() <= settings.pairs), some(*sizes[-1]))
    about = f"{len(items.rows)} of {len(test)} sounds of {len(items.others)} {counted}, chance 0.5"
    return items, counted, about


def _speakers(test: Data) -> tuple[Tensor, str]:
    """Number of the speaker of each sound, int64, shape (sounds,), -1 for unknown ones, and what they are called."""
    grouped = test.groups is not None
    factor = next((name for name in SPEAKER if name in test.factors), None)
    if factor is not None and not (grouped and test.group_unit == "groups"):  # the user names groups
        return test.factors[factor].long(), "speakers"
    if not grouped:
        raise UserError(
            f"data must name the speakers for abx, got {test.name} without a factor speaker or groups. Name the "
            "column, or what stands for the speaker in paths, as in --group 'speaker(\\d+)_'"
        )
    return test.groups, group_unit(test)  # type: ignore[return-value]


def _ranks(places: Tensor) -> Tensor:
    """How many equal numbers come before each, int64, shape (numbers,), of numbers from 0."""
    order, counts = places.argsort(stable=True), places.bincount()
    ranks = torch.empty_like(places)
    ranks[order] = torch.arange(len(places)) - (counts.cumsum(0) - counts)[places[order]]
    return ranks


def _others(people: int, settings: Settings, seed: int) -> Tensor:
    """Random other speakers of each, bool, shape (speakers, speakers)."""
    chance = torch.rand(people, people, generator=torch.Generator().manual_seed(seed)).fill_diagonal_(-1)
    best = chance.topk(max(0, min(settings.others, people - 1)), dim=1).indices
    return torch.zeros(people, people, dtype=torch.bool).scatter_(1, best, True)


def _layer(encoder: Any, layer: str, batch: Batch) -> tuple[Tensor, Tensor]:
    layers, frames = encoder.layers(encoder.inputs(batch))
    return layers[layer], frames[layer] if isinstance(frames, dict) else frames


def _bands(encoder: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    waveform, length = encoder.inputs(batch)
    bands = rearrange(encoder.spectrogram(waveform), "batch bins frames -> batch frames bins")
    return bands, encoder.spectrogram.frames(length)


def _cepstra(encoder: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    bands, frames = _bands(encoder, batch)
    coefficients = cepstra(bands, COEFFICIENTS)
    first = slopes(coefficients, frames)
    return torch.cat([coefficients, first, slopes(first, frames)], 2), frames


def _standardised(read: Read, train: Any, seed: int) -> Read:
    """The same frames, each number with mean 0 and deviation 1 over those of training sounds."""
    frames, counts = read(train.crops(SECONDS).sample(STATISTICS_SOUNDS, seed))
    mean, scale = standardization(frames[ragged.real(counts, frames.shape[1])])

    def scaled(batch: Batch) -> tuple[Tensor, Tensor]:
        frames, counts = read(batch)
        return (frames - mean) / scale, counts

    return scaled


@torch.no_grad()
def _frames(read: Read, sounds: Data, name: str) -> list[Tensor]:
    """Frames of each sound, float, shape (frames, numbers)."""
    frames: list[Tensor] = []
    for batch in watched(sounds.batches(BATCH), -(-len(sounds) // BATCH), f"frames of {name}", "batches"):
        values, counts = read(batch)
        frames += [sound[:count] for sound, count in zip(values, counts.tolist(), strict=True)]
    require_finite(torch.cat(frames), "frames")
    return frames


def _distances(frames: list[Tensor], pairs: Tensor) -> dict[str, Tensor]:
    """Distances by how time is treated, float, shape (sounds, sounds); NaN, time-warped, beside the pairs."""
    warping = torch.full((len(frames), len(frames)), torch.nan)
    warping[pairs[:, 0], pairs[:, 1]] = warping[pairs[:, 1], pairs[:, 0]] = warped_distances(
        frames, pairs
    ).cpu()
    means = directions(torch.stack([sound.mean(0) for sound in frames]))
    return {"": warping, ", of means": angles(means, means).cpu()}


TASK = Task(measure, partial(Source.open, whole=True), kinds=("audio",))
