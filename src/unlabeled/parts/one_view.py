"""What methods share that predict from a random view of an image which unit vector belongs to the image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.precision import full

__all__ = ["OneView"]


class OneView:
    """Base beside `Method` of methods with `views`, which makes a random view, `head`, and a vector of each image."""

    encoder: Any
    head: Any
    views: Any

    def vectors_of(self, index: Tensor) -> Tensor:
        """Unit vectors of images by their numbers, float, shape (batch, dim), of int64, shape (batch,)."""
        raise NotImplementedError

    def embed_features(self, features: Tensor) -> Tensor:
        """Predictions, unit vectors, float, shape (batch, dim), of features."""
        return F.normalize(full(self.head(features)), dim=1)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which of the images shown has the vector that is nearest to the prediction from a view."""
        views, images = self.views(batch), self.encoder.inputs(batch)
        products = self.embed_features(self.encoder(views)) @ self.vectors_of(batch["index"]).T
        return {"view": views, "its image": images, "predicted image": images[products.argmax(1)]}
