"""DINO: predict to which prototypes a slowly moving copy of the network assigns another crop of the image.

Withheld: the teacher's assignment of a large crop of an image to many learned prototypes. Predicted: that assignment,
by the student from every other crop, large or small; no other image is compared.

Source: Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, "Emerging Properties in Self-Supervised Vision
Transformers", 2021, https://arxiv.org/abs/2104.14294
Differs: 512 prototypes, the paper's 65,536, and narrower heads; on small data more stay unused. The teacher's
temperature stays at 0.04, where the paper raises it to 0.07, and its momentum starts at 0.99, the paper's 0.996, for
short runs. Small crops are half as large as the images; four by default, the paper's eight. No blur, no solarisation.
The head has ReLU for GELU and, for networks other than ViTs, batch norm, which the paper leaves out. The center moves
once per optimizer step; the authors' code moves it in each forward pass. Weight decay is constant and gradients are
clipped only if `clip` is set; the paper raises the one and clips the norm of each weight at 3. Crops are resampled
bilinearly.
Shortcut: all images in one prototype, or in all of them equally, is easy to predict. Subtracting a running mean of the
teacher's scores, the center, works against the first and a low temperature of the teacher against the second; alone,
each of them brings about the other. The metrics `used` and `entropy` show either.
"""

import math
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, PositiveFraction, Several, ViewOptions, WholeNumber
from unlabeled.parts.heads import PrototypeHead
from unlabeled.parts.multi_crop import crop_outputs, swapped_prediction
from unlabeled.parts.self_distillation import Assignments, entropy, usage
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.two_views import TwoViews

__all__ = ["DINO"]


class DINO(TwoViews, Method[ImageEncoder]):
    """Predict to which prototypes a slowly moving copy of the network assigns another crop of the image.

    The metric `entropy` is the mean entropy of the teacher's assignments in nats, from 0 to ln(prototypes), where they
    say nothing; `used` is the effective number of prototypes in use, 1 if all images share one.

    Args:
        encoder: Network whose features are kept.
        prototypes: Number of prototypes; about a tenth of the number of images, at most 65536.
        temperature: Softmax temperature of the student.
        teacher_temperature: Softmax temperature of the teacher, below that of the student.
        momentum: Initial momentum of the teacher; rises to 1 along a cosine.
        center_momentum: Fraction of the center that a step keeps; 1 switches the center off.
        hidden_dim: Width of the two hidden layers of the head; 2048 in the paper.
        bottleneck_dim: Width of the vectors that are compared with the prototypes; 256 in the paper.
        freeze_steps: Optimizer steps before the prototypes move; an epoch in the paper.
        local_crops: Number of small crops of each image, in addition to the two large ones.
        local_size: Side of the small crops in pixels. [default: about half of the large ones']
        local_crop: Smallest fraction of the image's area in a small crop; the largest is `crop`.
        **views: How the crops are drawn.
    """

    view_defaults = ViewOptions(crop=0.4, jitter=0.5, gray=0.2, blur=0.0, solarize=0.0, flip=0.5)
    smallest: ClassVar = {"prototypes": 8, "local_crops": 2}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        prototypes: Several = 512,
        temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.04,
        momentum: Fraction = 0.99,
        center_momentum: Fraction = 0.9,
        hidden_dim: Count = 512,
        bottleneck_dim: Count = 64,
        freeze_steps: WholeNumber = 30,
        local_crops: WholeNumber = 4,
        local_size: Count | None = None,
        local_crop: PositiveFraction = 0.1,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, small=(local_crops, local_size, local_crop))
        self.temperature = temperature
        widths = encoder.dim, hidden_dim, hidden_dim, bottleneck_dim
        self.head = PrototypeHead(*widths, prototypes, norm=not encoder.is_vit, freeze_steps=freeze_steps)
        self.teacher = Teacher(encoder, self.head, momentum=momentum, rising=True)
        self.assign = Assignments(prototypes, teacher_temperature, center_momentum)

    def chance(self, samples: int) -> float:
        return math.log(len(self.assign.center))

    def assignments(self, large: tuple[Tensor, ...]) -> Tensor:
        """The teacher's assignments of large crops, float, shape (crops, batch, prototypes)."""
        return self.assign(self.teacher(torch.cat(large))).unflatten(0, (len(large), -1))

    def forward(self, batch: Batch) -> Tensor:
        large, small = self.two_views(batch), self.small_crops(batch)
        codes = self.assignments(large)
        self.metrics = {"entropy": entropy(codes).mean(), "used": usage(codes.flatten(0, 1))}
        scores = crop_outputs(self.encoder, self.head, large, small)
        return swapped_prediction(scores, codes, self.temperature)

    def after_step(self, progress: float) -> None:
        self.head.steps += 1
