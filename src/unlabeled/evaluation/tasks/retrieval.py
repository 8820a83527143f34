"""Search between pictures and sounds: find sounds by pictures, pictures by sounds, and each by its own kind.

Everything is ranked by cosine in the space where pictures and sounds meet. From one kind to the other, recall
says whether the clip's own partner is among the first 1, 5 or 10. With classes, nDCG@30 says how many of the
first 30 are of the query's class, early ones counting more: 1 where all are, the fraction of the class by chance. Its
query and the other half of its clip are then taken out of what is ranked. Within a kind, recall says whether
anything of the class is among the first.

Source: Arandjelović, Zisserman, "Objects that Sound", 2018, https://arxiv.org/abs/1712.06651
Differs: things of one class are relevant and all others are not, where the paper grades by a tree of classes.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.data import Data
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.progress import watched

__all__ = ["DEPTH", "RANKS", "TASK", "hits", "measure", "ndcg", "ranking"]

RANKS = (1, 5, 10)
DEPTH = 30
BATCH = 128
LAYERS = {"im-aud": (0, 1), "aud-im": (1, 0), "im-im": (0, 0), "aud-aud": (1, 1)}
"""Direction of each search, as the kinds of the query and of the results: 0 for pictures, 1 for sounds."""


def ranking(similarity: Tensor, without_own: bool, seed: int = 0) -> Tensor:
    """Results of each query, the most similar first; what is equally similar in random order.

    Args:
        similarity: Float, shape (queries, results).
        without_own: Whether the result with the query's own number is omitted.
        seed: Seed of the random order, without which a network that gives the same for all would find its own.

    Returns:
        Numbers of the results, int64, shape (queries, results), one fewer without the own one.
    """
    queries, count = similarity.shape
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(similarity.device)
    ranked = order[similarity[:, order].sort(dim=1, descending=True, stable=True).indices]
    if not without_own:
        return ranked
    others = ranked != torch.arange(queries, device=ranked.device)[:, None]
    return ranked[others].view(queries, count - 1)


def hits(relevant: Tensor, k: int) -> Tensor:
    """Whether anything relevant is among the first.

    Args:
        relevant: Bool, shape (queries, results), in the order of the ranking.
        k: How many are looked at.

    Returns:
        1 or 0, float, shape (queries,).
    """
    return relevant[:, :k].any(1).float()


def ndcg(relevant: Tensor, k: int = DEPTH) -> Tensor:
    """Normalised discounted cumulative gain.

    Args:
        relevant: How relevant each is, bool or float from 0, shape (queries, results), in the order of the ranking.
        k: How many are looked at.

    Returns:
        Gain over that of the best order, in 0..1, float, shape (queries,); NaN where nothing is relevant.
    """
    gains = relevant.float()
    k = min(k, gains.shape[1])
    discounts = 1 / torch.log2(torch.arange(k, device=gains.device) + 2.0)
    best = gains.sort(1, descending=True).values
    return (gains[:, :k] @ discounts) / (best[:, :k] @ discounts)


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Rank the test data, from pictures and from sounds.

    Args:
        model: What is measured; its seed orders what is equally similar.
        parts: Audio-visual data; classes are used where they are known.

    Raises:
        ValueError: The encoder has no common space, or there are fewer than 2 clips.
    """
    encoder: Any = model.encoder
    check.choice(("audio-visual",), encoder=encoder.kind)
    train, test = parts.views(encoder, model.device)
    check.at_least(2, clips=len(test))
    ours, twin = (read(network, test) for network in (encoder, model.untrained(train)))
    labels = None if test.labels is None else test.labels.to(ours[0].device)
    measurements = []
    for layer, (query, target) in LAYERS.items():
        same_kind = query == target
        values = {
            "random": _values(twin[query], twin[target], same_kind, labels, model.seed),
            "unlabeled": _values(ours[query], ours[target], same_kind, labels, model.seed),
            "chance": _by_chance(len(test), same_kind, labels),
        }
        measurements += [
            _measurement(layer, features, unit, scores, test)
            for features, by_unit in values.items()
            for unit, scores in by_unit.items()
        ]
    return measurements


@torch.no_grad()
def read(encoder: Any, data: Data) -> tuple[Tensor, Tensor]:
    """Directions of all pictures and of all sounds, float, shape (samples, dim) each."""
    batches = watched(data.batches(BATCH), -(-len(data) // BATCH), "retrieval", "batches")
    inputs = [encoder.inputs(batch) for batch in batches]
    pictures = torch.cat([encoder.picture(x.image) for x in inputs])
    return pictures, torch.cat([encoder.sound(x.waveform) for x in inputs])


def _values(
    queries: Tensor, targets: Tensor, same_kind: bool, labels: Tensor | None, seed: int
) -> dict[str, Tensor]:
    """Each measure by its unit, float, shape (queries,)."""
    similarity, values = queries @ targets.T, {}
    own = torch.arange(len(queries), device=queries.device)[:, None]
    if not same_kind:
        partner = ranking(similarity, False, seed) == own
        values |= {f"recall@{k}": hits(partner, k) for k in RANKS if k < len(queries)}
    if labels is not None and len(known := _known(labels)):
        relevant = labels[ranking(similarity, True, seed)] == labels[:, None]
        if same_kind:
            values |= {f"recall@{k}": hits(relevant[known], k) for k in RANKS if k < len(queries)}
        values[f"nDCG@{DEPTH}"] = ndcg(relevant[known])
    return values


def _by_chance(clips: int, same_kind: bool, labels: Tensor | None) -> dict[str, Tensor]:
    """What a random order gives on average for each query, as `_values` names it."""
    values = {}
    if not same_kind:
        values |= {f"recall@{k}": torch.full((clips,), k / clips) for k in RANKS if k < clips}
    if labels is not None and len(known := _known(labels)):
        same = (labels[:, None] == labels).sum(1)[known] - 1.0
        others = clips - 1
        if same_kind:
            for k in (k for k in RANKS if k < clips):
                before = torch.arange(k, device=same.device)
                missed = ((others - same[:, None] - before) / (others - before)).clamp(min=0).prod(1)
                values[f"recall@{k}"] = 1 - missed
        discounts = 1 / torch.log2(torch.arange(min(DEPTH, others), device=same.device) + 2.0)
        best = discounts.cumsum(0)[same.clamp(max=len(discounts)).long() - 1]
        values[f"nDCG@{DEPTH}"] = same / others * discounts.sum() / best
    return values


def _known(labels: Tensor) -> Tensor:
    """Queries whose class is known and not theirs alone."""
    counts = (labels[:, None] == labels).sum(1)
    return ((labels >= 0) & (counts > 1)).nonzero()[:, 0]


def _measurement(layer: str, features: str, unit: str, values: Tensor, test: Data) -> Measurement:
    groups = test.groups
    if groups is not None and len(values) < len(test):  # the queries were those whose class is known
        assert test.labels is not None
        groups = groups[_known(test.labels.cpu())]
    return Measurement(
        "retrieval", features, values[None].cpu(), layer=layer, unit=unit,
        groups=groups, counted=group_unit(test), bounds=(0.0, 1.0),
    )  # fmt: skip


TASK = Task(measure, partial(Source.open, whole=True), kinds=("audio-visual",))
