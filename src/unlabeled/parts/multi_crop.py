"""Small crops of an image beside its two large ones, and predictions of each crop's clusters from all others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.parts.augment import Views
from unlabeled.parts.precision import full_precision

__all__ = ["SmallCrops", "crop_outputs", "swapped_prediction"]


class SmallCrops:
    """Draws small crops of each image; the largest show as much as the smallest large ones.

    Args:
        encoder: The encoder of images that will see them.
        options: Options of `Views` of the large crops.
        local_crops: Number of crops of each image.
        local_size: Side of a crop in pixels; None takes about half of the large ones'.
        local_crop: Smallest fraction of the image's area in a crop.

    Raises:
        UserError: `local_crop` is larger than that of the large crops, or the encoder takes no such small images.
    """

    def __init__(
        self,
        encoder: Any,
        options: dict[str, Any],
        local_crops: int,
        local_size: int | None,
        local_crop: float,
    ) -> None:
        crop = options["crop"]
        if local_crops and local_crop > crop:
            raise UserError(f"local_crop must be above 0 and at most crop ({crop}), got {local_crop}")
        size, patch = encoder.image_size, encoder.patch_size or 1
        small = local_size or max(1, size // 2 // patch) * patch
        if local_crops and hasattr(encoder, "takes") and not encoder.takes(small):
            name = encoder.config["name"]
            raise UserError(
                f"local_crops must be 0 for {name}, which takes no crops of {small} pixels, got {local_crops}"
            )
        self.count = local_crops
        self.views = Views(small, **options | {"crop": min(local_crop, crop), "crop_max": crop})

    def __call__(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Crops, float in 0..1, shape (batch, channels, size, size) each."""
        return [self.views(batch) for _ in range(self.count)]

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One crop of each image, if there are any."""
        return {"small crop": self.views(batch)} if self.count else {}


def crop_outputs(
    encoder: nn.Module, head: nn.Module, large: Sequence[Tensor], small: Sequence[Tensor]
) -> Tensor:
    """Outputs of a head for crops, those of one size in one forward pass of the encoder and all in one of the head.

    Args:
        encoder: Takes images of both sizes, returns a tensor of shape (batch, features).
        head: Takes these features.
        large: At least one large crop of each image, shape (batch, channels, size, size) each.
        small: Small crops of each image, perhaps none, shape (batch, channels, smaller, smaller) each.

    Returns:
        Float, shape (crops, batch, dim), those of the large crops first.
    """
    features = torch.cat([encoder(torch.cat(list(crops))) for crops in (large, small) if crops])
    return head(features).unflatten(0, (-1, len(large[0])))


@full_precision
def swapped_prediction(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the clusters of each crop with the assignment of every other, assigned crop.

    Args:
        scores: Similarity of each crop and each cluster, float, shape (crops, batch, clusters).
        codes: Assignments of the first crops, probabilities, float, shape (assigned, batch, clusters).
        temperature: Divides the scores, above 0.

    Returns:
        Mean over the batch and all pairs of different crops, scalar, in nats; ln(clusters) at equal scores.
    """
    predictions = (scores / temperature).log_softmax(-1)
    entropy = -torch.einsum("abp,cbp->ac", codes, predictions) / codes.shape[1]
    different = ~torch.eye(*entropy.shape, dtype=torch.bool, device=entropy.device)
    return (entropy * different).sum() / different.sum()
