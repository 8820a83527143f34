"""Shared code of methods that compare random views of an image in the space of a projection head."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.options import ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.multi_crop import SmallCrops, crop_outputs
from unlabeled.parts.precision import full

__all__ = ["TwoViews", "asymmetric"]


class TwoViews:
    """Base beside `Method` of methods with `head`, which projects the features of random views.

    Args:
        encoder: Network whose features are kept.
        views: How the views are drawn.
        second_blur: Probability that the second view is blurred, where it is drawn differently from the first, as
            `asymmetric` says.
        small: Number of small crops of each image, their side in pixels, None for about half of the large ones', and
            the smallest fraction of the area in them.
    """

    fsdp: ClassVar[bool] = True
    view_names: ClassVar[tuple[str, str]] = ("view 1", "view 2")
    encoder: Any
    head: Any
    view_options: Any

    def __init__(
        self,
        encoder: Any,
        views: ViewOptions,
        *,
        second_blur: float | None = None,
        small: tuple[int, int | None, float] = (0, None, 1.0),
    ) -> None:
        super().__init__(encoder)  # type: ignore[call-arg]
        size, options = encoder.image_size, self.view_options(views)
        self.small_crops = SmallCrops(encoder, options, *small)
        self.views: Any = (
            Views(size, **options) if second_blur is None else asymmetric(size, options, second_blur)
        )

    def two_views(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Two random views of each image, float in 0..1, shape (batch, channels, size, size) each."""
        first, second = self.views if isinstance(self.views, tuple) else (self.views, self.views)
        return first(batch), second(batch)

    def projections(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs of the head for two random views of each image, float, shape (batch, dim) each."""
        first, second = (self.head(self.encoder(view)) for view in self.two_views(batch))
        return first, second

    def crop_projections(self, batch: dict[str, Tensor]) -> Tensor:
        """Outputs of the head for two views and all small crops, float, shape (crops, batch, dim)."""
        return crop_outputs(self.encoder, self.head, self.two_views(batch), self.small_crops(batch))

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images, two views, the second view whose projection is most similar to that of the first, any small crop."""
        views = self.two_views(batch)
        queries, keys = (F.normalize(full(self.embed_features(self.encoder(x))), dim=1) for x in views)
        nearest = views[1][(queries @ keys.T).argmax(1)]
        named = dict(zip(self.view_names, views)) | {f"most similar {self.view_names[1]}": nearest}
        return {"image": self.encoder.inputs(batch)} | named | self.small_crops.pictures(batch)


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
