"""From a pool to a balanced part of it: copies out, clusters of clusters, as many samples of each."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.curating import anomalies, balance
from unlabeled.curating.hierarchy import default_clusters, flat_sizes, hierarchy
from unlabeled.evaluation.embedded import AUTO, Embedded, embedded, model
from unlabeled.evaluation.geometry import unit_components
from unlabeled.options import Reading
from unlabeled.progress import telling

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Curation", "curate"]

KINDS = ("image", "text", "audio", "video")
"""Kinds of data whose samples can be written one by one, so that they are read again."""
SHARE = 0.5
"""Fraction of the pool that is taken where nobody says how much."""


@dataclass(frozen=True)
class Curation:
    """What was taken from a pool, and why the rest was not.

    Attributes:
        name: What the pool is called.
        data: The pool.
        rows: Samples taken, in order, int64, shape (taken,).
        reasons: Why each other sample was omitted, by its row.
        levels: Cluster of each sample at each level, the finest first, int64, shape (levels, samples); -1 for copies,
            and for outliers that are omitted.
        isolation: Mean distance of each sample to its nearest others, one minus the cosine, shape (samples,); NaN for
            copies.
        outliers: Rows of the most isolated samples, the farthest first, int64.
        fence: Distance above which a sample is an outlier.
        notes: What a reader must know, a sentence each.
        settings: What it was made with, of JSON types.
    """

    name: str
    data: "Data"
    rows: Tensor
    reasons: dict[int, str]
    levels: Tensor
    isolation: Tensor
    outliers: Tensor
    fence: float
    notes: list[str]
    settings: dict[str, Any]

    @property
    def subset(self) -> "Data":
        """The samples taken."""
        return self.data.subset(self.rows)

    @property
    def taken(self) -> Tensor:
        """Whether each sample was taken, bool, shape (samples,)."""
        return torch.zeros(len(self.data), dtype=torch.bool).index_fill_(0, self.rows, True)

    def sizes(self, level: int = -1) -> tuple[Tensor, Tensor]:
        """Samples of each cluster of a level, and how many of them were taken, int64, shape (clusters,) each."""
        clusters = self.levels[level]
        own, selection = clusters >= 0, self.taken & (clusters >= 0)
        count = int(clusters.max()) + 1 if own.any() else 0
        return clusters[own].bincount(minlength=count), clusters[selection].bincount(minlength=count)

    def summary(self) -> list[str]:
        """What was done, a sentence each."""
        unit, pool = self.data.unit, len(self.data)
        kinds = Counter(reason.partition(" ")[0].rstrip(":") for reason in self.reasons.values())
        lines = [f"{self.name}: {len(self.rows):,} of {pool:,} {unit} taken"]
        lines += [
            f"omitted: {kinds['equal']:,} equal to others, {kinds['near-duplicate']:,} near-duplicates, "
            f"{kinds['outlier']:,} outliers, {kinds['surplus']:,} surplus of large clusters"
        ]
        sizes, selection_sizes = self.sizes()
        if len(sizes):
            before, after = (
                100 * float(part.max()) / max(int(part.sum()), 1) for part in (sizes, selection_sizes)
            )
            lines.append(
                f"the largest of {len(sizes):,} clusters: {before:.1f} % before, {after:.1f} % after"
            )
        outlier_count = int(self.taken[self.outliers].sum())
        lines.append(
            f"outliers, farther than {self.fence:.3f} from others: {len(self.outliers):,}, {outlier_count:,} taken"
        )
        return lines + self._classes() + self.notes

    def _classes(self) -> list[str]:
        """How large classes are before and after, where they are known."""
        labels = self.data.class_names()
        pool = Counter(label for label in labels if label is not None)
        if len(pool) < 2:
            return []
        part = Counter(labels[row] for row in self.rows.tolist())
        (most, _), (fewest, _) = pool.most_common()[0], pool.most_common()[-1]
        shares = [
            f"{name} {100 * pool[name] / len(labels):.1f} % -> {100 * part[name] / max(len(self.rows), 1):.1f} %"
            for name in (most, fewest)
        ]
        return [f"largest and smallest class (labels played no part): {', '.join(shares)}"]


def curate(
    data: Any,
    run: Any = AUTO,
    *,
    size: int | None = None,
    share: float | None = None,
    clusters: Sequence[int] | None = None,
    rounds: int = 10,
    near: bool = True,
    outliers: Literal["keep", "omit"] = "keep",
    features: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
    **reading: Unpack[Reading],
) -> Curation:
    """Choose a balanced part of data by hierarchical k-means on features, without copies; labels play no part.

    Source: Vo et al., "Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach", 2024,
    https://arxiv.org/abs/2405.15613

    Args:
        data: What `open_data` takes; of several splits the training part, which `pretrain` would read.
        run: A run or its folder, a method or an encoder; weights as timm:NAME, torchvision:NAME, hf:OWNER/NAME; or
            "auto", which trains what `pretrain auto` chooses on the data first.
        size: Samples to take. [default: as share says]
        share: Fraction of the pool to take instead, in 0..1. [default: 0.5]
        clusters: Clusters of each level, the finest first. [default: a fortieth of the samples, then a tenth of these,
            and so on while at least ten are left]
        rounds: How often each level is clustered again from what is nearest to its centres.
        near: Whether near-duplicates of images and texts are omitted, not only equal samples.
        outliers: Whether samples that are far from all others may be taken; they are listed in any case.
        features: As in `evaluate`.
        seed: Seed of all random choices.
        out: Folder for the run that "auto" trains. [default: a temporary one]
        device: auto, cpu or cuda.
        progress: Called with a line on what is done.
        **reading: label, text_column, encoding, group and fold, as in `open_data`; None takes those of the run.

    Raises:
        ValueError: An option is out of its range, or there is no such data or run.
    """
    _verify(size, share, rounds, outliers)
    for count in clusters or ():  # else only after "auto" has trained
        check.at_least(1, clusters=count)
    name = os.fspath(run) if isinstance(run, str | os.PathLike) else type(run).__name__
    settings = {"run": name, "features": features, "near": near, "outliers": outliers, "rounds": rounds}
    settings |= {"size": size, "share": share, "clusters": clusters, "seed": seed}
    with TemporaryDirectory() as temporary, telling(progress):
        words = {"reading": reading, "device": device, "progress": progress}
        folder = Path(temporary if out is None else out) / "run"
        encoder = model(run, data, out=folder, seed=seed, **words)
        opened = embedded(encoder, data, features=features, whole=False, **words)
        return _curated(opened, settings, progress or (lambda line: None))


def _verify(size: int | None, share: float | None, rounds: int, outliers: str) -> None:
    if size is not None and share is not None:
        raise UserError(f"share must be left out where there is a size, got {share:g} and {size:,}")
    if size is not None:
        check.whole(size=size)
        check.at_least(1, size=size)
    if share is not None:
        check.within(check.Range(above=0, at_most=1), share=share)
    check.at_least(0, rounds=rounds)
    check.choice(("keep", "omit"), outliers=outliers)


def _curated(opened: Embedded, settings: dict[str, Any], say: Callable[[str], None]) -> Curation:
    """Find copies and outliers, cluster the others, and draw from the clusters."""
    pool, count, seed = opened.data, len(opened.data), settings["seed"]
    if pool.kind not in KINDS:
        raise UserError(f"data must be of kind {', '.join(KINDS)} to curate it, got {pool.kind}")
    say(f"curating {count:,} {pool.unit} by {opened.features.shape[1]} features")
    duplicates = anomalies.copies(pool, near=settings["near"], seed=seed, progress=say)
    rows = (duplicates.of == torch.arange(count)).nonzero().flatten()
    points, reasons = unit_components(opened.features[rows]), dict(duplicates.reasons)
    isolation = torch.full((count,), torch.nan)
    isolation[rows] = distances = anomalies.isolation(points, seed=seed)
    fence = anomalies.fence(distances)
    order = distances.argsort(descending=True, stable=True)
    far = order[distances[order] > fence]
    outlying = rows[far]
    if settings["outliers"] == "omit":
        for row in outlying.tolist():
            reasons[row] = f"outlier: {isolation[row]:.3f} from its nearest samples, above {fence:.3f}"
        own = torch.ones(len(rows), dtype=torch.bool).index_fill_(0, far, False)
        rows, points = rows[own], points[own]
    counts = default_clusters(len(rows)) if settings["clusters"] is None else [*settings["clusters"]]
    levels = hierarchy(points, counts, rounds=settings["rounds"], seed=seed)
    share = SHARE if settings["share"] is None else settings["share"]
    size = settings["size"] or max(1, math.floor(share * count))
    selection = balance.draw(levels, counts, min(size, len(rows)), seed=seed)
    reasons |= _surplus(rows, selection, levels[0], counts[0])
    of_samples = torch.full((len(levels), count), -1)
    cluster = torch.arange(len(rows))
    for level, assignments in enumerate(levels):
        cluster = assignments[cluster]
        of_samples[level, rows] = cluster
    notes = _notes(opened, duplicates, size, len(rows))
    settings = settings | {"clusters": counts, "size": size}
    reasons = dict(sorted(reasons.items()))
    return Curation(
        opened.name, pool, rows[selection], reasons, of_samples, isolation, outlying, fence, notes, settings
    )


def _notes(opened: Embedded, duplicates: anomalies.Copies, size: int, left: int) -> list[str]:
    """What a reader must know, a sentence each."""
    notes = []
    if size > left:
        notes.append(f"{size:,} were asked for, but only {left:,} are left")
    if duplicates.threshold is not None:
        notes.append(f"near-duplicates are pairs that score {duplicates.threshold:.3f} or more")
    if opened.other_splits:
        notes.append(f"of its splits only {opened.parts[0].split} was curated")
    return notes


def _surplus(rows: Tensor, selection: Tensor, assignments: Tensor, count: int) -> dict[int, str]:
    """Why samples that were not drawn were not, by row."""
    sizes = flat_sizes([assignments], [count])[0].tolist()
    selection_sizes = assignments[selection].bincount(minlength=count).tolist()
    left = torch.ones(len(rows), dtype=torch.bool).index_fill_(0, selection, False)
    pairs = zip(rows[left].tolist(), assignments[left].tolist())
    return {
        row: f"surplus: {selection_sizes[cluster]:,} of the {sizes[cluster]:,} of cluster {cluster} taken"
        for row, cluster in pairs
    }
