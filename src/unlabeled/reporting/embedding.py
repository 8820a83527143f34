"""What the features of a sample of the data look like: neighbours and a flat map."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.method import Batch

__all__ = ["agreement", "embed", "flat", "nearest", "pixels", "queries", "raw"]

TSNE_FROM = 50  # samples; fewer are too few for neighbourhoods


@torch.no_grad()
def embed(method: Any, encoder: Any, batch: Batch, device: str, *, step: int = 128) -> Tensor:
    """Features of a batch in evaluation mode, a few samples at a time.

    Args:
        method: Method whose `features` are read, or None to read the encoder's.
        encoder: Network with `inputs` and `features`.
        batch: The samples.
        device: Where to compute.
        step: Samples at a time.

    Returns:
        Float, shape (samples, dim), on the CPU.
    """
    model = method if method is not None else encoder
    trains = model.training
    model.to(device).eval()
    rows = []
    for first in range(0, len(batch["index"]), step):
        part = {name: value[first : first + step].to(device) for name, value in batch.items()}
        features = method.features(part) if method is not None else encoder.features(encoder.inputs(part))
        rows.append(features.float().cpu())
    model.train(trains)
    return torch.cat(rows)


@torch.no_grad()
def raw(encoder: Any, batch: Batch, device: str, *, step: int = 128) -> Tensor:
    """The input as the controls use it, float, shape (samples, numbers), on the CPU."""
    encoder.to(device)
    rows = []
    for first in range(0, len(batch["index"]), step):
        part = {name: value[first : first + step].to(device) for name, value in batch.items()}
        rows.append(encoder.raw(part).flatten(1).float().cpu())
    return torch.cat(rows)


def pixels(encoder: Any, batch: Batch) -> Tensor:
    """A picture of each sample, float, shape (samples, channels, height, width), in 0..1; none of texts.

    Images are shown as the encoder receives them, videos by their middle frame, scenes by that of their first
    camera, sounds by their spectrograms.
    """
    if "image" in batch and encoder.kind == "image":
        return encoder.inputs(batch).float().cpu()
    if "image" in batch:
        return batch["image"].float() / 255
    if "video" in batch:
        return batch["video"][:, batch["video"].shape[1] // 2].float() / 255
    if "views" in batch:
        return batch["views"][:, 0, batch["views"].shape[2] // 2].float() / 255
    if "waveform" in batch:
        return _spectrograms(batch["waveform"])
    return torch.empty(0)


def _spectrograms(waveform: Tensor) -> Tensor:
    """Spectrograms with 50 dB between black and white, low tones at the bottom; (samples, 1, 64, frames)."""
    window = torch.hann_window(256, device=waveform.device)
    power = torch.stft(waveform, 256, 128, window=window, return_complex=True).abs().square()[:, :128]
    decibels = 10 * power.clamp_min(1e-10).log10()
    level = 1 + (decibels - decibels.amax((1, 2), keepdim=True)) / 50
    pictures = level.clamp(0, 1).flip(1)[:, None]
    return F.interpolate(pictures, (64, min(96, pictures.shape[-1])), mode="area")


def nearest(features: Tensor, count: int) -> Tensor:
    """Find the nearest other samples by cosine.

    Args:
        features: Float, shape (samples, dim).
        count: Neighbours to find, at most samples - 1.

    Returns:
        Int64, shape (samples, count), nearest first; never the sample itself.
    """
    units = F.normalize(features.nan_to_num(0, 0, 0), dim=1)
    return (units @ units.T).fill_diagonal_(-torch.inf).topk(count, dim=1).indices


def queries(labels: Tensor | None, samples: int, count: int) -> list[int]:
    """Choose samples to show: the first of as many different classes as there are, or simply the first.

    Args:
        labels: Int64, shape (samples,), or None.
        samples: How many there are, in random order.
        count: How many to choose.

    Returns:
        Rows; what they look like has no say.
    """
    if labels is None:
        return list(range(min(count, samples)))
    first: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        first.setdefault(label, row)
    chosen = [first[label] for label in sorted(first) if label >= 0]
    return [*chosen, *(row for row in range(samples) if row not in chosen)][:count]


def agreement(labels: Tensor, neighbors: Tensor) -> float:
    """Share of neighbours with the label of their query, where both labels are known.

    Args:
        labels: Int64, shape (samples,), -1 where unknown.
        neighbors: Rows of the neighbours of each sample, int64, shape (samples, count).

    Returns:
        From 0 to 1; NaN where no pair of labels is known.
    """
    known = (labels[:, None] >= 0) & (labels[neighbors] >= 0)
    return (labels[neighbors] == labels[:, None])[known].double().mean().item()


def flat(features: Tensor) -> tuple[Tensor, str] | None:
    """Lay features out in a plane: t-SNE from a PCA start, or PCA alone where samples are few.

    Args:
        features: Float, shape (samples, dim).

    Returns:
        Points, float, shape (samples, 2), in 0..1, and the name of the map; None where the features are not
        finite or all the same.
    """
    if len(features) < 3 or not features.isfinite().all():
        return None
    centered = features.double() - features.double().mean(0)
    if centered.norm() <= 1e-5 * features.double().norm().clamp(min=1e-12):
        return None
    components, name = _principal(centered), "PCA"
    if len(features) >= TSNE_FROM and components.shape[1] > 2:
        from sklearn.manifold import TSNE

        start = components[:, :2] / components[:, 0].std() * 1e-4
        mapper = TSNE(
            init=start.numpy(),  # type: ignore[arg-type]
            perplexity=min(30, len(features) // 4),
            random_state=0,
            max_iter=500,
        )
        components, name = (
            torch.from_numpy(mapper.fit_transform(components[:, :50].numpy())).double(),
            "t-SNE",
        )
    points = F.pad(components[:, :2], (0, max(0, 2 - components.shape[1])))
    low, high = points.amin(0), points.amax(0)
    middle, side = (low + high) / 2, (high - low).max().clamp(min=1e-12)
    return ((points - middle) / side + 0.5).float(), name


def _principal(points: Tensor) -> Tensor:
    """Coordinates along the principal axes, widest first, shape (samples, min(samples, dim))."""
    samples, dim = points.shape
    if dim <= samples:
        left, values, _ = torch.linalg.svd(points, full_matrices=False)
        return left * values
    squares, vectors = torch.linalg.eigh(points @ points.T)
    return (vectors * squares.clamp(min=0).sqrt()).flip(1)
