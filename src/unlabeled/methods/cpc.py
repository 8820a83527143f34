"""CPC: predict the patches in the lower rows of an image from the rows above, among all patches of the batch.

Withheld: the lower rows of a grid of overlapping patches, each encoded separately. Predicted: the code (output of the
encoder) of a patch some rows below another one, from a summary of that one's row and all rows above it.

Source: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
https://arxiv.org/abs/1807.03748; the context network and the augmentation of each patch from Hénaff et al.,
"Data-Efficient Image Recognition with Contrastive Predictive Coding", 2019, https://arxiv.org/abs/1905.09272
Differs: the encoder is any network; its batch norms use statistics of patches that are measured once before training,
where the second paper has layer norm. The grid has 5 x 5 patches, not 7 x 7, and the context network is narrower.
Predictions go downwards only, to the second and third row below; the first paper predicts up to five rows, the second
in several directions. The loss is averaged over the distances. The optimizer is AdamW, not Adam. Each patch is cropped,
jittered and sometimes converted to grayscale; the second paper drops colour channels. The features are those of whole
images, not averaged over patches.
Shortcut: neighbouring patches overlap, so the row directly below is not predicted; each patch has its own crop and
colours, else edges and colours that continue would identify it. Batch statistics would leak information between
patches.
"""

import math
from typing import Any, ClassVar, Self, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.kernels.compat import BATCH_NORMS
from unlabeled.kernels.partition import log_partition
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, PositiveFraction, Several, ViewOptions, WholeNumber
from unlabeled.parts import gather, patches
from unlabeled.parts.augment import Views
from unlabeled.parts.padding import input_size
from unlabeled.parts.precision import full_precision
from unlabeled.parts.row_context import RowContext

__all__ = ["CPC", "loss"]

CALIBRATION = 256
"""Images whose patches set the statistics of batch norms."""


@full_precision
def loss(predictions: Tensor, targets: Tensor, distance: int, scale: float) -> Tensor:
    """InfoNCE of predicted patches among all patches of all images of all processes.

    Args:
        predictions: Prediction made at each patch, float, shape (batch, rows, columns, dim); those of the last
            `distance` rows are ignored.
        targets: Float, shape (batch, rows, columns, dim).
        distance: Rows from a patch down to the predicted one, below `rows`.
        scale: Multiplies the inner products of predictions and targets.

    Returns:
        Mean over the predictions of this process, scalar, in nats; ln(patches of all images) if all scores are equal.
    """
    predicted, positives = predictions[:, :-distance].flatten(0, 2), targets[:, distance:].flatten(0, 2)
    candidates = gather.gather(targets).flatten(0, 2)
    return (log_partition(predicted, candidates, scale) - scale * (predicted * positives).sum(1)).mean()


class CPC(Method[ImageEncoder]):
    """Predict the patches in the lower rows of an image from the rows above, among all patches of the batch.

    Args:
        encoder: Network whose features are kept; it sees one patch at a time.
        grid: Patches per side, each overlapping the next by half.
        skip: Number of rows directly below that are not predicted, as they overlap.
        ahead: Number of rows after those that are predicted.
        patch_crop: Smallest fraction of a patch's area that the encoder sees; the position is random.
        patch_size: Side in pixels to which patches are resized for the encoder. [default: as cut, or larger where the
            encoder takes no such size or some of its weights would see only padding; a ViT's own size]
        target_dim: Width of the compared vectors.
        context_dim: Width of the hidden layers of the context network.
        blocks: Number of blocks of the context network; each sees one row farther up.
        scale: Multiplies the scores, which are inner products of predictions and targets.
        **views: How the images are cropped and mirrored, and how the colours of each patch change.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.5, jitter=0.5, gray=0.2, flip=0.5)
    smallest: ClassVar = {"grid": 4}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        grid: Several = 5,
        skip: WholeNumber = 1,
        ahead: Count = 2,
        patch_crop: PositiveFraction = 0.6,
        patch_size: Count | None = None,
        target_dim: Count = 64,
        context_dim: Count = 64,
        blocks: Count = 5,
        scale: Positive = 0.1,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        if skip + ahead >= grid:
            raise UserError(f"skip + ahead must be below grid ({grid}), got {skip} + {ahead}")
        check.at_least(grid + 1, image_size=encoder.image_size)
        self.grid, self.distances, self.scale = grid, range(skip + 1, skip + ahead + 1), scale
        self.stride = encoder.image_size // (grid + 1)
        options = self.view_options(views)
        colors = {name: options.pop(name) for name in ("jitter", "gray")}
        self.views = Views((grid + 1) * self.stride, **options | {"jitter": 0, "gray": 0})
        self.patch_views = Views(2 * self.stride, crop=patch_crop, flip=0, **colors)
        self.patch_size = input_size(encoder, 2 * self.stride, patch_size=patch_size)
        self.context = RowContext(encoder.dim, context_dim, blocks)
        self.target = nn.Conv2d(encoder.dim, target_dim, 1)
        self.predict = nn.ModuleList(nn.Conv2d(encoder.dim, target_dim, 1) for _ in self.distances)
        self.train()

    def chance(self, samples: int) -> float:
        return math.log(samples * self.grid**2)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self._norms():
            norm.eval()  # otherwise the code of a patch would depend on all other patches
        return self

    @torch.no_grad()
    def prepare(self, data: Data) -> None:
        """Set the batch norms to the statistics of patches as they are in training."""
        device = self.target.weight.device
        batch = {name: value.to(device) for name, value in data.sample(CALIBRATION).items()}
        momenta = {norm: norm.momentum for norm in self._norms()}
        for norm in momenta:
            norm.train()
            norm.momentum = 1.0
        self.codes(self.tiles(batch))
        for norm, momentum in momenta.items():
            norm.momentum = momentum
            norm.eval()

    def _norms(self) -> list[Any]:
        return [part for part in self.encoder.modules() if isinstance(part, BATCH_NORMS)]

    def tiles(self, batch: Batch) -> Tensor:
        """Patches, each augmented separately, float, shape (batch * grid * grid, channels, 2 * stride, 2 * stride)."""
        return self.patch_views({"image": patches.overlapping(self.views(batch), self.stride)})

    def codes(self, tiles: Tensor) -> Tensor:
        """Codes of patches, each encoded separately, float, shape (batch, dim, grid, grid)."""
        if self.patch_size is not None:
            tiles = F.interpolate(tiles, self.patch_size, mode="bilinear", antialias=True)
        codes = self.encoder(tiles)
        return rearrange(codes, "(b row column) d -> b d row column", row=self.grid, column=self.grid)

    def targets_and_predictions(self, codes: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Targets, and predictions for each distance, float, shape (batch, grid, grid, target_dim) each."""
        context = self.context(codes)
        maps = [self.target(codes), *(predict(context) for predict in self.predict)]
        targets, *predictions = (rearrange(x, "b d row column -> b row column d") for x in maps)
        return targets, predictions

    def forward(self, batch: Batch) -> Tensor:
        targets, predictions = self.targets_and_predictions(self.codes(self.tiles(batch)))
        pairs = zip(predictions, self.distances, strict=True)
        return torch.stack([loss(x, targets, distance, self.scale) for x, distance in pairs]).mean()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The upper rows, and below them those patches of all images shown that the last visible row predicts."""
        tiles = patches.overlapping(self.views(batch), self.stride)
        targets, predictions = self.targets_and_predictions(self.codes(tiles))
        start = self.stride // 2
        cells = tiles[:, :, start : start + self.stride, start : start + self.stride]
        grid = rearrange(cells, "(b row column) c h w -> b row column c h w", row=self.grid, column=self.grid)
        last = self.grid - 1 - self.distances[-1]
        visible = grid.clone()
        visible[:, last + 1 :] = 0.5
        predicted = visible.clone()
        for prediction, distance in zip(predictions, self.distances, strict=True):
            best = (prediction[:, last] @ targets.flatten(0, 2).T).argmax(2)
            predicted[:, last + distance] = cells[best]
        rows = {"image": grid, "visible": visible, "predicted": predicted}
        return {name: patches.assemble(row.flatten(1, 2), self.grid) for name, row in rows.items()}
