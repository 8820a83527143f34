"""SimCLR: pull two views of one image together and push all other images apart.

Withheld: which of the other views in the batch shows the same image. Predicted: that view, by its
cosine similarity.

Source: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", 2020, https://arxiv.org/abs/2002.05709
Differs: the defaults are for small images and short runs (temperature 0.2, no blur; the paper has 0.1 and blur for
ImageNet, 0.5 and none for CIFAR-10). The weights move by the loop's AdamW, and norms and biases do not decay; the
paper has LARS and batches of 4,096. Crops are resampled bilinearly, the paper's for ImageNet bicubically.
Shortcut: crops of one image share their colour histogram, so colours are jittered; with batch norm per
process the local statistics identify the partner, so several processes need synchronized norms.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import ImageEncoder
from unlabeled.kernels.partition import log_partition
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full_precision

__all__ = ["SimCLR", "supervised_contrastive"]


@full_precision
def loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent: the partner's share in a softmax over all other views of all processes.

    Args:
        first: Projections of one view of each image, float, shape (batch, dim); only their directions count.
        second: Projections of the other view, row by row the same images, float, shape (batch, dim).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the rows of this process, scalar, in nats; ln(2 * images - 1) when all vectors are equal.
    """
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    views = everyone = torch.cat([first, second])
    if gather.processes() > 1:
        everyone = torch.cat([gather.gather(first), gather.gather(second)])
    own = torch.arange(len(first), device=first.device) + gather.rank() * len(first)
    own = torch.cat([own, own + len(everyone) // 2])
    agreement = (first * second).sum(1).repeat(2) / temperature
    # A view is not its own partner, so it is left out.
    return (log_partition(views, everyone, 1 / temperature, own) - agreement).mean()


@full_precision
def supervised_contrastive(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon: NT-Xent for your own labels, where all other samples of a class are partners.

    This is the form that averages outside the logarithm, L_out of Khosla et al., "Supervised Contrastive Learning",
    2020, https://arxiv.org/abs/2004.11362, without the factor of their code, temperature / 0.07.

    Args:
        vectors: Projections, float, shape (samples, dim); only their directions count. Two views of an image are two
            samples.
        labels: Classes, any integers, shape (samples,); as many samples in every process.
        temperature: Divides the cosines, above 0.

    Returns:
        Scalar, in nats; its mean over the processes is the mean over all samples. A sample alone in its class has no
        partner and is left out of the mean, but others are still compared with it; 0 where none has a partner.
    """
    check.positive(temperature=temperature)
    if labels.shape != vectors.shape[:1]:
        raise UserError(
            f"labels must be one for each of {len(vectors)} vectors, got shape {tuple(labels.shape)}"
        )
    vectors = F.normalize(vectors, dim=1)
    _, classes, sizes = gather.gather(labels).unique(return_inverse=True, return_counts=True)
    classes, paired = gather.own(classes), sizes > 1
    # The cosines of the own samples with all partners, summed in each class, without a matrix of pairs.
    sums = vectors.new_zeros(len(sizes), vectors.shape[1]).index_add(0, classes, vectors)
    squares = vectors.detach().square().sum(1)  # the same for all unit vectors, so without a gradient
    itself = vectors.new_zeros(len(sizes)).index_add(0, classes, squares)
    cosines = (sums * gather.sum_over_processes(sums)).sum(1) - itself
    agreement = (cosines[paired] / (sizes[paired] - 1)).sum() / temperature
    own = torch.arange(len(vectors), device=vectors.device) + gather.rank() * len(vectors)
    everyone = log_partition(vectors, gather.gather(vectors), 1 / temperature, own)
    # Every process divides by the same number, though they may differ in how many have partners.
    counted = sizes[paired].sum().clamp(min=1)
    return (everyone[paired[classes]].sum() - agreement) * gather.processes() / counted


class SimCLR(Method[ImageEncoder]):
    """Pull two views of one image together and push all other images apart.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature; lower penalises hard negatives more.
        projection_dim: Width of the compared vectors.
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
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.temperature = temperature
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = mlp(encoder.dim, encoder.dim, projection_dim, last_norm=True)

    def chance(self, samples: int) -> float:
        return math.log(2 * samples - 1)

    def forward(self, batch: Batch) -> Tensor:
        images = torch.cat([self.views(batch), self.views(batch)])
        first, second = self.head(self.encoder(images)).chunk(2)
        return loss(first, second, self.temperature)

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": self.encoder.inputs(batch), "view 1": self.views(batch), "view 2": self.views(batch)}
