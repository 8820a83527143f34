"""iBOT: predict to which prototypes a slowly moving copy of the network assigns other crops and hidden patches.

Withheld: the teacher's assignment of a large crop of an image to many learned prototypes, and rectangles of patches in
half of the large crops, which a learned token replaces in the encoder's input. Predicted: that assignment, by the
student from every other crop, as in DINO; and the teacher's assignment of each hidden patch, of which it sees the whole
crop. So the teacher is a tokenizer of patches that is learned along the way.

Source: Zhou, Wei, Wang, Shen, Xie, Yuille, Kong, "iBOT: Image BERT Pre-Training with Online Tokenizer", 2021,
https://arxiv.org/abs/2111.07832
Differs: on small data the paper's settings learn little, so that by default there are 512 prototypes (8,192), narrower
heads with ReLU, a teacher's temperature that stays at 0.04 and a momentum that starts at 0.99 (0.996), and four small
crops of half the size (ten). Exactly half of the large crops have hidden patches, not each with probability one half,
and their shares are spread evenly. The center of patches is the mean over hidden patches, not over all, and moves once
per step. The network is small and has no stochastic depth. No blur, no solarisation; weight decay is constant.
Shortcut: as in DINO, one prototype for all or all in equal parts; the centers and the low temperature of the teacher
prevent them, the metrics `used`, `patch used` and `entropy` show them. A patch could be copied from its neighbours, so
whole rectangles are hidden. The token that hides a patch has no content: what the teacher sees there is learned from
the rest of the crop alone.
"""

from typing import ClassVar, Unpack

from torch import Tensor

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
from unlabeled.parts.hidden_patches import HiddenPatches
from unlabeled.parts.multi_crop import SmallCrops
from unlabeled.parts.self_distillation import MaskedDistillation

__all__ = ["IBOT"]


class IBOT(HiddenPatches, Method[ImageEncoder]):
    """Predict to which prototypes a slowly moving copy of the network assigns other crops and hidden patches.

    The metric `entropy` is the mean entropy of the teacher's assignments of crops in nats, from 0 to ln(prototypes),
    where they say nothing; `used` and `patch used` are the effective numbers of prototypes that crops and hidden
    patches use, 1 if all share one.

    Args:
        encoder: Network whose features are kept, such as vit-small; of networks without a class token the mean over
            the patches takes its place.
        prototypes: Number of prototypes; about a tenth of the number of images, at most 8192.
        patch_weight: Weight of the loss of hidden patches.
        masked_crops: Fraction of the large crops in which patches are hidden; at 0 it is DINO.
        mask_min: Smallest fraction of the patches of such a crop that is hidden.
        mask_max: Largest fraction of them.
        shared_head: Whether crops and patches have the same head and prototypes.
        temperature: Softmax temperature of the student.
        teacher_temperature: Softmax temperature of the teacher, below that of the student.
        momentum: Initial momentum of the teacher; rises to 1 along a cosine.
        center_momentum: Fraction of the centers that a step keeps; 1 switches them off.
        hidden_dim: Width of the two hidden layers of a head; 2048 in the paper.
        bottleneck_dim: Width of the vectors that are compared with the prototypes; 256 in the paper.
        freeze_steps: Optimizer steps before the prototypes move; an epoch in the paper.
        local_crops: Number of small crops of each image, in addition to the two large ones.
        local_size: Side of the small crops in pixels. [default: about half of the large ones']
        local_crop: Smallest fraction of the image's area in a small crop; the largest is `crop`.
        **views: How the crops are drawn.
    """

    defaults: ClassVar = {"encoder": "vit-small", "batch_size": 64, "clip": 3.0}
    view_defaults = ViewOptions(crop=0.4, jitter=0.5, gray=0.2, blur=0.0, solarize=0.0, flip=0.5)
    smallest: ClassVar = {"encoder": "vit-gap-tiny", "prototypes": 8, "local_crops": 2, "hidden_dim": 32}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        prototypes: Several = 512,
        patch_weight: NonNegative = 1.0,
        masked_crops: Fraction = 0.5,
        mask_min: PositiveFraction = 0.1,
        mask_max: PositiveFraction = 0.5,
        shared_head: bool = True,
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
            assignments=(teacher_temperature, center_momentum),
        )
        self.patch_weight = patch_weight

    def chance(self, samples: int) -> float:
        return self.distill.chance(self.patch_weight)

    def forward(self, batch: Batch) -> Tensor:
        large = [self.views(batch) for _ in range(2)]
        distilled = self.distill(self.encoder, self.hidden_token, large, batch)
        self.metrics = distilled.metrics
        return distilled.crops + self.patch_weight * distilled.hidden

    def embed_features(self, features: Tensor) -> Tensor:
        return self.distill.heads[0](features)

    def patch_pictures(self, images: Tensor, patches: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Hidden patches are replaced by the patch of any image whose scores fit the prediction best."""
        return self.distill.patch_pictures(self.encoder, self.hidden_token, images, patches, mask)
