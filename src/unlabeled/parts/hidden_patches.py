"""Shared code of methods that hide patches of an image from a vision transformer."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlabeled.options import EncoderNeeds, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.cubes import Grid, cut, pictures
from unlabeled.parts.precision import full
from unlabeled.parts.teacher import token_targets
from unlabeled.parts.token_masks import blockwise, numbers, pick, some

__all__ = ["HiddenPatches", "zero_loss"]


def zero_loss(beta: float) -> float:
    """Mean smooth L1 loss of predicting 0 where targets are normally distributed with variance 1.

    Args:
        beta: Error below which the loss is quadratic, above 0.
    """
    within, density = math.erf(beta / math.sqrt(2)), math.exp(-(beta**2) / 2) / math.sqrt(2 * math.pi)
    return (within / beta - beta * (1 - within)) / 2 + density


class HiddenPatches:
    """Base beside `Method` of methods with `views`, which draws random views, and `mask`, which hides patches of them.

    Args:
        encoder: Network whose features are kept, a ViT.
        views: How the views are drawn.
        mask: Fraction of the patches that `hidden`, rounded down, will be; None where the method counts otherwise.
        token: Whether a learned token, `hidden_token`, replaces hidden patches in the encoder's input; 0 at first.
    """

    fsdp: ClassVar[bool] = True
    encoder_needs = EncoderNeeds("is_vit", "be a vision transformer, such as vit-gap-small", True)
    encoder: Any
    view_options: Any
    metrics: dict[str, Tensor]
    baseline: Tensor

    def __init__(
        self, encoder: Any, views: ViewOptions, mask: float | None = None, token: bool = False
    ) -> None:
        super().__init__(encoder)  # type: ignore[call-arg]
        self.views: Any = Views(encoder.image_size, **self.view_options(views))
        self.side: int = encoder.image_size // encoder.patch_size
        """Patches on a side of an image."""
        self.grid: Grid = (1, self.side, self.side)
        if mask is not None:
            self.hidden = some(mask, self.side**2, "patches of an image")
        if token:
            self.hidden_token = nn.Parameter(torch.zeros(encoder.trunk.dim))
        self.register_buffer("baseline", torch.tensor(0.0))  # type: ignore[attr-defined]

    def draw(self, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Views, float in 0..1, shape (batch, channels, size, size), and what `mask` draws for them."""
        images = self.views(batch)
        return images, self.mask(images)

    def mask(self, images: Tensor) -> Any:
        """Which patches are hidden, in rectangles, bool, shape (batch, patches), `hidden` of each image."""
        return blockwise(len(images), (self.side, self.side), self.hidden, images.device)

    def patches(self, images: Tensor) -> Tensor:
        """Pixels of the patches, row by row, shape (batch, patches, channels, pixels of a channel)."""
        return cut(images[:, None], self.grid)

    def joined(self, images: Tensor) -> Tensor:
        """Patches whose colours are one channel, shape (batch, patches, 1, numbers)."""
        return self.patches(images).flatten(2)[:, :, None]

    def tokens(
        self, images: Tensor, visible: Tensor | None = None, masked: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The encoder's tokens of patches, as in `ImageEncoder.tokens`, without a class token."""
        return full(self.encoder.tokens(images, visible, masked)[:, self.encoder.prefix_tokens :])

    def hidden_tokens(self, images: Tensor, mask: Tensor) -> Tensor:
        """The encoder's tokens of patches that `hidden_token` replaces in its input, shape (batch, hidden, dim)."""
        return pick(self.tokens(images, masked=(mask, self.hidden_token)), numbers(mask))

    def watched(self, tokens: Tensor) -> Tensor:
        """A teacher's tokens as targets, as in `token_targets`, of which the metric `target std` shows a collapse."""
        targets, self.metrics["target std"] = token_targets(tokens)
        return targets

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Views, and what `patch_pictures` says of them."""
        images, mask = self.draw(batch)
        patches = self.patches(images)
        return pictures(self.grid, 1, view=patches, **self.patch_pictures(images, patches, mask))

    def patch_pictures(self, images: Tensor, patches: Tensor, mask: Any) -> dict[str, Tensor]:
        """Pictures by name, in patches, shape (batch, patches, channels, pixels).

        Args:
            images: Views, float in 0..1, shape (batch, channels, size, size).
            patches: Of these.
            mask: What `mask` drew.
        """
        raise NotImplementedError
