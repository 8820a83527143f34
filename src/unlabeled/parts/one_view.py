"""What methods share that predict from a random view of an image which unit vector belongs to the image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.precision import full

__all__ = ["OneView"]


class OneView:
    """Base beside `Method` of methods with `views`, which makes a random view, and `head`, which predicts a vector."""

    encoder: Any
    head: Any
    views: Any

    def embed_features(self, features: Tensor) -> Tensor:
        """Predictions, unit vectors, float, shape (batch, dim), of features."""
        return F.normalize(full(self.head(features)), dim=1)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which of the images shown has the prediction that is nearest to that of a view.

        The images may be other ones than those of the training, of which alone there are stored vectors.
        """
        views, images = self.views(batch), self.encoder.inputs(batch)
        guess, known = (self.embed_features(self.encoder(x)) for x in (views, images))
        return {"view": views, "its image": images, "nearest image": images[(guess @ known.T).argmax(1)]}
