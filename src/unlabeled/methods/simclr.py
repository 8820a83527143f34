"""SimCLR: pull two views of one image together and push all other images apart.

Withheld: which of the other views in the batch shows the same image. Predicted: that view, by cosine similarity.

Source: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", 2020, https://arxiv.org/abs/2002.05709
Differs: the defaults are for small images and short runs (temperature 0.2, no blur; the paper has 0.1 and blur for
ImageNet, 0.5 and none for CIFAR-10). The weights are updated by the loop's AdamW, without decay of norms and biases;
the paper has LARS and batches of 4,096. Crops are resampled bilinearly, the paper's for ImageNet bicubically.
Shortcut: crops of one image share their colour histogram, so colours are jittered; with batch norm per process the
local statistics identify the partner, so several processes need synchronised norms.
"""

import math

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.method import Batch, Method
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import nt_xent, supervised_contrastive
from unlabeled.parts.two_views import TwoViews

__all__ = ["SimCLR", "supervised_contrastive"]


class SimCLR(TwoViews, Method):
    """Pull two views of one image together and push all other images apart.

    Args:
        encoder: Network whose features are kept.
        temperature: Sharpness of the softmax over similarities; lower punishes look-alikes more.
        projection_dim: Width of the vectors that are compared.
        crop: Smallest share of the image's area that a view shows.
        jitter: Strength of the colour changes; 1 is the paper's for ImageNet, 0.5 for CIFAR-10.
        gray: Probability that a view loses its colours.
        blur: Probability that a view is blurred.
        flip: Probability that a view is mirrored; 0 where left and right differ in meaning, as in digits.
        degrees: Largest rotation of a view, to either side.
    """

    compares_samples = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: float = 0.2,
        projection_dim: int = 128,
        crop: float = 0.08,
        jitter: float = 0.5,
        gray: float = 0.2,
        blur: float = 0.0,
        flip: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        check.positive(temperature=temperature, projection_dim=projection_dim)
        self.temperature = temperature
        size = self.encoder.image_size
        self.views = Views(size, crop=crop, jitter=jitter, gray=gray, blur=blur, flip=flip, degrees=degrees)
        self.head = mlp(self.encoder.dim, self.encoder.dim, projection_dim, last_norm=True)

    def chance(self, samples: int) -> float:
        return math.log(2 * samples - 1)

    def forward(self, batch: Batch) -> Tensor:
        first, second = self.head(self.encoder(torch.cat(self.two_views(batch)))).chunk(2)
        return nt_xent(first, second, self.temperature)
