"""Shared code of methods that predict from a random view of an image the unit vector of that image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.options import ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.precision import full

__all__ = ["OneView"]


class OneView:
    """Base beside `Method` of methods with `views`, which draws random views, and `head`, which predicts a vector.

    Args:
        encoder: Network whose features are kept.
        views: How the views are drawn.
    """

    encoder: Any
    head: Any
    view_options: Any

    def __init__(self, encoder: Any, views: ViewOptions) -> None:
        super().__init__(encoder)  # type: ignore[call-arg]
        self.views: Any = Views(encoder.image_size, **self.view_options(views))

    def embed_features(self, features: Tensor) -> Tensor:
        """Predictions, unit vectors, float, shape (batch, dim), of features."""
        return F.normalize(full(self.head(features)), dim=1)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Views, their images, and the image among these whose prediction is nearest to that of the view.

        Predictions are compared with each other, as only training images have stored vectors.
        """
        views, images = self.views(batch), self.encoder.inputs(batch)
        queries, candidates = (self.embed_features(self.encoder(x)) for x in (views, images))
        nearest = images[(queries @ candidates.T).argmax(1)]
        return {"view": views, "original image": images, "nearest image": nearest}
