"""SimCLR: pull two views of one image together and push all other images apart.

Withheld: which of the other views in the batch shows the same image. Predicted: that view, by cosine similarity.

Source: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", 2020, https://arxiv.org/abs/2002.05709; head_layers 3 and feature_layer 1 are version 2: Chen,
Kornblith, Swersky, Norouzi, Hinton, "Big Self-Supervised Models are Strong Semi-Supervised Learners", 2020,
https://arxiv.org/abs/2006.10029
Differs: the defaults are for small images and short runs (temperature 0.2, no blur; the paper has 0.1 and blur for
ImageNet, 0.5 and none for CIFAR-10). The optimizer is AdamW without decay of norms and biases, not LARS with batches of
4,096. Crops are resampled bilinearly, the paper's for ImageNet bicubically.
Shortcut: crops of one image share their colour histogram, so colours are jittered; with batch norm per process the
local statistics identify the partner, so several processes need synchronised norms.
"""

import math
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, ViewOptions, WholeNumber
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import nt_xent, supervised_contrastive
from unlabeled.parts.two_views import TwoViews

__all__ = ["SimCLR", "supervised_contrastive"]


class SimCLR(TwoViews, Method[ImageEncoder]):
    """Pull two views of one image together and push all other images apart.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature; lower penalises hard negatives more.
        projection_dim: Width of the compared vectors.
        head_layers: Layers of the projection head.
        feature_layer: Layer of the head whose output becomes the features: it stays with the encoder, to be probed and
            fine-tuned; 0 for the encoder's own output.
        **views: How the views are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.08, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)
    recipe: ClassVar = {"epochs": 16, "lr": 2e-3, "crop": 0.2, "jitter": 0.5, "gray": 0.2}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.2,
        projection_dim: Count = 128,
        head_layers: Count = 2,
        feature_layer: WholeNumber = 0,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.temperature = temperature
        if feature_layer >= head_layers:
            raise UserError(f"feature_layer must be below head_layers, {head_layers}, got {feature_layer}")
        layers = len(encoder.config.get("neck", ()))  # feature_layer of them in the encoder of a saved run
        if 0 < feature_layer < layers:
            raise UserError(
                f"feature_layer must be at least {layers}, the layers that the encoder has, got {feature_layer}"
            )
        if feature_layer:
            encoder.extend(*[encoder.dim] * (feature_layer - layers))
        hidden = [encoder.dim] * (head_layers - feature_layer)
        self.head = mlp(*hidden, projection_dim, last_norm=True)

    def chance(self, samples: int) -> float:
        return math.log(2 * samples - 1)

    def forward(self, batch: Batch) -> Tensor:
        first, second = self.head(self.encoder(torch.cat(self.two_views(batch)))).chunk(2)
        return nt_xent(first, second, self.temperature)
