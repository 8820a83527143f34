"""Prediction of the codes of masked frames: the loss, how evenly the codes are used, and pictures of them."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.parts import gather
from unlabeled.parts.kmeans import kmeans, nearest
from unlabeled.parts.pictures import spectrogram
from unlabeled.parts.precision import full

__all__ = ["accuracy", "code_pictures", "entropy", "find", "fit_pictures", "loss"]


def find(points: Tensor, centres: Tensor, baseline: Tensor) -> None:
    """Cluster vectors by k-means, in all processes alike.

    Args:
        points: Float, shape (points, dim).
        centres: Receives the means of the clusters, float, shape (clusters, dim).
        baseline: Receives the entropy of the clusters in nats, scalar.
    """
    centres.copy_(gather.broadcast(kmeans(points, len(centres)).centres))
    baseline.copy_(entropy(nearest(points, centres), len(centres)))


def loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy.

    Args:
        logits: Float, shape (frames, codes), not necessarily equally many frames in every process.
        codes: True code of each frame, int64, shape (frames,).

    Returns:
        Mean over the frames of all processes, scalar, in nats; 0 if there is none.
    """
    return gather.mean(F.cross_entropy(full(logits), codes, reduction="none"))


def accuracy(logits: Tensor, codes: Tensor) -> Tensor:
    """Fraction of the frames whose true code is the most likely one, scalar; 0 if there is none."""
    return (logits.argmax(1) == codes).sum() / max(1, len(codes))


def entropy(codes: Tensor, size: int) -> Tensor:
    """Loss of predicting for every frame how often each code occurs.

    Args:
        codes: Codes of frames, int64, shape (frames,).
        size: Number of different codes that there are.

    Returns:
        Scalar, in nats: 0 if all frames have one code, ln(size) if all codes are equally frequent.
    """
    return torch.special.entr(torch.bincount(codes, minlength=size) / max(1, len(codes))).sum()


def code_pictures(
    bands: Tensor, real: Tensor, masked: Tensor, codes: Tensor, predicted: Tensor
) -> dict[str, Tensor]:
    """Spectrograms in which each masked frame is replaced by the mean of all frames with its code, grey if none.

    Args:
        bands: Log-mel bands, float, shape (batch, bands, columns).
        real: Which frames are within their sound, bool, shape (batch, frames); a frame may be several columns wide.
        masked: Which frames are masked, bool, shape (batch, frames).
        codes: True code of each frame, int64, shape (batch, frames).
        predicted: Predicted code of each frame, int64, shape (batch, frames).

    Returns:
        The sound, what is masked of it, and the true and the predicted codes of the masked frames, float in 0..1, shape
        (batch, 1, bands, columns) each.
    """
    columns = torch.arange(bands.shape[2], device=bands.device) * codes.shape[1] // bands.shape[2]
    codes, predicted = (torch.where(real, x + 1, 0)[:, columns] for x in (codes, predicted))
    within = real[:, None, columns]
    low = bands.masked_fill(~within, torch.inf).amin((1, 2), keepdim=True)
    high = bands.masked_fill(~within, -torch.inf).amax((1, 2), keepdim=True)
    scaled = rearrange((bands - low) / (high - low).clamp(min=1e-6), "b bands columns -> b columns bands")
    count = int(torch.maximum(codes, predicted).max()) + 1
    sums = scaled.new_zeros(count, scaled.shape[2]).index_add(0, codes.flatten(), scaled.flatten(0, 1))
    members = torch.bincount(codes.flatten(), minlength=count)[:, None]
    means = torch.where(members > 0, sums / members, 0.5)
    hidden = masked[:, columns, None]
    rows = {
        "sound": scaled,
        "hidden": torch.where(hidden, 0.5, scaled),
        "true codes": torch.where(hidden, means[codes], scaled),
        "predicted codes": torch.where(hidden, means[predicted], scaled),
    }
    return {name: spectrogram(values.mT, 0, 1) for name, values in rows.items()}


def fit_pictures(
    bands: Tensor, real: Tensor, masked: Tensor, predicted: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Spectrograms in which each masked frame is replaced by that of any sound whose target fits a prediction best.

    Args:
        bands: As of `code_pictures`, like `real` and `masked`.
        real: Which frames are within their sound.
        masked: Which frames are masked.
        predicted: Vectors of the masked frames in order, float, shape (masked, dim); compared by the cosine.
        targets: True vectors of all frames, float, shape (batch, frames, dim).

    Returns:
        The sound, what is masked of it, and the best fits.
    """
    cosines = F.normalize(predicted, dim=1) @ F.normalize(targets[real], dim=1).T
    frames = torch.arange(real.numel(), device=real.device).view(real.shape)
    best = frames.masked_scatter(masked, frames[real][cosines.argmax(1)])
    spectrograms = code_pictures(bands, real, masked, frames, best)
    return {
        "sound": spectrograms["sound"],
        "hidden": spectrograms["hidden"],
        "best fit": spectrograms["predicted codes"],
    }
