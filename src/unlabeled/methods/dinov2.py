"""DINOv2: iBOT with separate heads, features that are kept apart and, by option, anchored patches.

Withheld: a teacher's assignment of a large crop of an image to many learned prototypes, and rectangles of patches in
half of the large crops. Predicted: that assignment, by the student from every other crop, and the teacher's assignment
of each hidden patch. Besides, each feature vector is pushed away from the nearest other one (KoLeo), and in the last
part of a training similarities between the patches of an image can be held to those of an earlier teacher (Gram
anchoring), as local features decay in long trainings.

Source: Oquab, Darcet, Moutakanni, Vo, Szafraniec, Khalidov and others, "DINOv2: Learning Robust Visual Features without
Supervision", 2023, https://arxiv.org/abs/2304.07193
Gram anchoring is from Siméoni, Vo, Seitzer, Baldassarre, Oquab and others, "DINOv3", 2025,
https://arxiv.org/abs/2508.10104. Registers, learned tokens that are never read, come with the encoder
`vit-registers-small`.
Differs: the paper's settings are for millions of images; by default there are 512 prototypes (131,072), narrower
heads with ReLU, centers instead of Sinkhorn's algorithm, a teacher's temperature that stays at 0.04, a momentum that
starts at 0.99 (0.994) and four small crops of half the size. All layers have the same learning rate, and weight decay
is constant. KoLeo compares crops of all processes; a softened distance makes its gradient 0 where features are equal,
while the authors' grows beyond all bounds. The Gram teacher is taken once and sees crops at the student's size.
Shortcut: as in DINO, one prototype for all or all in equal parts; centers (or Sinkhorn's algorithm) and the low
temperature of the teacher prevent them, the metrics `used`, `patch used` and `entropy` show them. KoLeo keeps features
apart but not the assignments.
"""

import copy
from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveFraction,
    Several,
    ViewOptions,
    WholeNumber,
)
from unlabeled.parts import gather
from unlabeled.parts.hidden_patches import HiddenPatches
from unlabeled.parts.multi_crop import SmallCrops
from unlabeled.parts.precision import full_precision
from unlabeled.parts.self_distillation import MaskedDistillation, read
from unlabeled.parts.teacher import Follower, Teacher

__all__ = ["DINOv2", "GramTeacher", "gram", "koleo"]

LEAST_DISTANCE = 1e-4


@full_precision
def koleo(features: Tensor) -> Tensor:
    """Mean negative logarithm of the distance of each feature vector, as a unit vector, to the nearest other one.

    Args:
        features: Float, shape (batch, dim); compared with those of all processes.

    Returns:
        Scalar, -0.35 for orthogonal vectors, at most 9.2, where vectors are equal; 0 for a single sample.
    """
    vectors = F.normalize(features, dim=1)
    everyone = gather.gather(vectors)
    if len(everyone) == 1:
        return vectors.sum() * 0
    own = gather.own_rows(len(vectors), vectors.device)
    cosines = (vectors @ everyone.T).detach().scatter(1, own[:, None], -torch.inf)
    squares = (vectors - everyone[cosines.argmax(1)]).square().sum(1)
    return -0.5 * (squares + LEAST_DISTANCE**2).log().mean()


@full_precision
def gram(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference between the cosines of all pairs of patches of an image.

    Args:
        student: Float, shape (images, patches, dim).
        teacher: Float, shape (images, patches, other dim).

    Returns:
        Scalar in 0..4.
    """
    first, second = (x @ x.mT for x in (F.normalize(student, dim=2), F.normalize(teacher, dim=2)))
    return (first - second).square().mean()


class GramTeacher(Follower):
    """A copy of a teacher's encoder as it is at one point of the training.

    Args:
        teacher: Whose first network is copied.
        at: Fraction of the training after which it is taken, in 0..1.
        start: Fraction of the training after which `ready`, in 0..1.
    """

    progress: Tensor

    def __init__(self, teacher: Teacher, at: float, start: float) -> None:
        super().__init__()
        self.network, self.students = copy.deepcopy(teacher.network), (teacher.network,)
        self.at, self.start = at, start
        self.register_buffer("progress", torch.tensor(-1.0))

    @property
    def ready(self) -> bool:
        """Whether it is time to use it; once it is, it stays so if a training is extended."""
        return float(self.progress) >= self.start

    def restart(self) -> None:
        """Begin anew."""
        self.progress.fill_(-1.0)

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Become equal to the teacher when the time has come."""
        if float(self.progress) < self.at <= progress:
            self.network.load_state_dict(self.students[0].state_dict())
        self.progress.clamp_(min=progress)


class DINOv2(HiddenPatches, Method[ImageEncoder]):
    """iBOT with separate heads, features that are kept apart and, by option, anchored patches.

    The metric `entropy` is the mean entropy of the teacher's assignments of crops in nats, from 0 to ln(prototypes),
    where they say nothing; `used` and `patch used` are the effective numbers of prototypes that crops and hidden
    patches use, 1 if all share one. `koleo` and `gram` are the values of these losses before they are weighted; they
    are not part of the chance-level loss.

    Args:
        encoder: Network whose features are kept, such as vit-small or vit-registers-small; of networks without a class
            token the mean over the patches takes its place.
        prototypes: Number of prototypes; about a tenth of the number of images, at most 131072.
        patch_weight: Weight of the loss of hidden patches.
        koleo: Weight of the loss that keeps features apart; use 0 if many images are nearly the same.
        balance: What keeps prototypes in use: a center that is subtracted, or Sinkhorn's algorithm, for large batches.
        gram: Weight of Gram anchoring; 0 switches it off, 2 in the paper.
        gram_from: Fraction of the training after which Gram anchoring begins.
        gram_teacher: Fraction of the training after which the teacher is kept that it compares with, at most
            `gram_from`.
        masked_crops: Fraction of the large crops in which patches are hidden.
        mask_min: Smallest fraction of the patches of such a crop that is hidden.
        mask_max: Largest fraction of them.
        shared_head: Whether crops and patches have the same head and prototypes.
        temperature: Softmax temperature of the student.
        teacher_temperature: Softmax temperature of the teacher, below that of the student.
        momentum: Initial momentum of the teacher; rises to 1 along a cosine.
        center_momentum: Fraction of the centers that a step keeps.
        hidden_dim: Width of the two hidden layers of a head; 2048 in the paper.
        bottleneck_dim: Width of the vectors that are compared with the prototypes; 384 in the paper.
        freeze_steps: Optimizer steps before the prototypes move; an epoch in the paper.
        local_crops: Number of small crops of each image, in addition to the two large ones; 8 in the paper.
        local_size: Side of the small crops in pixels. [default: about half of the large ones']
        local_crop: Smallest fraction of the image's area in a small crop; the largest is `crop`.
        **views: How the crops are drawn.
    """

    compares_samples = True
    defaults: ClassVar = {"encoder": "vit-small", "batch_size": 64, "clip": 3.0}
    view_defaults = ViewOptions(crop=0.32, jitter=0.5, gray=0.2, blur=0.0, solarize=0.0, flip=0.5)
    smallest: ClassVar = {"encoder": "vit-gap-tiny", "prototypes": 8, "local_crops": 1, "hidden_dim": 24}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        prototypes: Several = 512,
        patch_weight: NonNegative = 1.0,
        koleo: NonNegative = 0.1,
        balance: Literal["center", "sinkhorn"] = "center",
        gram: NonNegative = 0.0,
        gram_from: Fraction = 0.75,
        gram_teacher: Fraction = 0.5,
        masked_crops: Fraction = 0.5,
        mask_min: PositiveFraction = 0.1,
        mask_max: PositiveFraction = 0.5,
        shared_head: bool = False,
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
        super().__init__(encoder, views, mask_max, token=True)
        self.distill = MaskedDistillation(
            encoder,
            SmallCrops(encoder, self.view_options(views), local_crops, local_size, local_crop),
            masks=(masked_crops, mask_min, mask_max),
            widths=(hidden_dim, bottleneck_dim, prototypes),
            shared=shared_head,
            freeze_steps=freeze_steps,
            momentum=momentum,
            temperature=temperature,
            assignments=(teacher_temperature, center_momentum, balance),
        )
        if gram_teacher > gram_from:
            raise UserError(f"gram_teacher must be at most gram_from ({gram_from}), got {gram_teacher}")
        self.weights = patch_weight, koleo, gram
        self.gram_teacher = GramTeacher(self.distill.teacher, gram_teacher, gram_from) if gram else None

    def chance(self, samples: int) -> float:
        return self.distill.chance(self.weights[0])

    def forward(self, batch: Batch) -> Tensor:
        large = [self.views(batch), self.views(batch)]
        one = self.distill(self.encoder, self.hidden_token, large, batch)
        first, second = one.features.chunk(2)
        spread = koleo(first) + koleo(second)
        self.metrics = one.metrics | {"koleo": spread.detach()}
        loss = one.crops + self.weights[0] * one.hidden + self.weights[1] * spread
        if self.gram_teacher is not None and self.gram_teacher.ready:
            with torch.no_grad():
                earlier = read(self.gram_teacher.network, torch.cat(large))[1]
            similarity = gram(one.patches, earlier)
            self.metrics["gram"] = similarity.detach()
            loss = loss + self.weights[2] * similarity
        return loss

    def embed_features(self, features: Tensor) -> Tensor:
        return self.distill.heads[0](features)

    def patch_pictures(self, images: Tensor, patches: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Hidden patches are replaced by the patch of any image whose scores fit the prediction best."""
        return self.distill.patch_pictures(self.encoder, self.hidden_token, images, patches, mask)
