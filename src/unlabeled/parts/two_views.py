"""Shared code of methods that compare random views of an image in the space of a projection head."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.augment import Views
from unlabeled.parts.precision import full

__all__ = ["TwoViews", "asymmetric"]


class TwoViews:
    """Base beside `Method` of methods with `views`, which draws random views, and `head`, which projects features."""

    view_names: ClassVar[tuple[str, str]] = ("view 1", "view 2")
    encoder: Any
    head: Any
    views: Any

    def two_views(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Two random views of each image, float in 0..1, shape (batch, channels, size, size) each."""
        return self.views(batch), self.views(batch)

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images, two views of each, and the second view whose projection is most similar to that of the first."""
        views = self.two_views(batch)
        queries, keys = (F.normalize(full(self.embed_features(self.encoder(x))), dim=1) for x in views)
        nearest = views[1][(queries @ keys.T).argmax(1)]
        named = dict(zip(self.view_names, views))
        return {"image": self.encoder.inputs(batch), **named, f"most similar {self.view_names[1]}": nearest}


def asymmetric(image_size: int, options: dict[str, Any], second_blur: float) -> tuple[Views, Views]:
    """The two kinds of views of BYOL, with its saturation jitter; only the second one is solarised.

    Args:
        image_size: Height and width in pixels.
        options: Options of `Views`; `blur` is that of the first view.
        second_blur: Probability that the second view is blurred.
    """
    options = options | {"saturation": 0.4 * options["jitter"]}
    return Views(image_size, **options | {"solarize": 0}), Views(
        image_size, **options | {"blur": second_blur}
    )
