"""Assignments of crops and patches to prototypes by a teacher, and a student that predicts them."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.parts import gather
from unlabeled.parts.cubes import fits
from unlabeled.parts.heads import PrototypeHead
from unlabeled.parts.multi_crop import SmallCrops, swapped_prediction
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.sinkhorn import sinkhorn
from unlabeled.parts.teacher import Follower, Teacher
from unlabeled.parts.token_masks import numbers, pick, some_blockwise

__all__ = [
    "Assignments",
    "Distilled",
    "MaskedDistillation",
    "entropy",
    "masked_prediction",
    "read",
    "usage",
]

ITERATIONS = 3
"""Of Sinkhorn's algorithm."""


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats, shape (...), of distributions, shape (..., outcomes)."""
    return torch.special.entr(probabilities).sum(-1)


def usage(codes: Tensor) -> Tensor:
    """Effective number of prototypes that assignments of all processes use, scalar: 1 if all share one.

    Args:
        codes: Probabilities, float, shape (samples, prototypes), not necessarily equally many in every process.
    """
    total = gather.sum_over_processes(codes.sum(0))
    return entropy(total / total.sum().clamp(min=1)).exp()


class Assignments(Follower):
    """Soft assignments from the scores of a teacher, so that neither one prototype nor all of them take everything.

    A running mean of the scores, the center, is subtracted and a low temperature divides what is left; or Sinkhorn's
    algorithm lets the samples of a step use all prototypes about equally. The center moves once per optimizer step.

    Args:
        prototypes: Number of prototypes.
        temperature: Softmax temperature, above 0.
        momentum: Fraction of the center that a step keeps; 1 switches the center off.
        balance: What keeps the prototypes in use.
    """

    center: Tensor
    total: Tensor
    count: Tensor

    def __init__(
        self,
        prototypes: int,
        temperature: float,
        momentum: float,
        balance: Literal["center", "sinkhorn"] = "center",
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.balance = temperature, momentum, balance
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("total", torch.zeros(prototypes))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def forward(self, scores: Tensor) -> Tensor:
        """Probabilities, float, shape (samples, prototypes).

        Args:
            scores: Float, the same shape, not necessarily equally many samples in every process, or any.
        """
        if self.balance == "sinkhorn":
            return sinkhorn(scores, self.temperature, ITERATIONS, True)
        if self.training:
            self.total += gather.sum_over_processes(scores.sum(0))
            self.count += gather.sum_over_processes(self.count.new_tensor(len(scores)))
        return ((scores - self.center) / self.temperature).softmax(1)

    @torch.no_grad()
    def restart(self) -> None:
        """Forget everything."""
        for buffer in (self.center, self.total, self.count):
            buffer.zero_()

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Move the center towards the mean score since the last step, if there was any."""
        mean = self.total / self.count.clamp(min=1)
        self.center.lerp_(mean, (1 - self.momentum) * (self.count > 0).to(mean))
        self.total.zero_()
        self.count.zero_()


@full_precision
def masked_prediction(scores: Tensor, codes: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of predicted with true assignments of hidden patches.

    Args:
        scores: The student's at the hidden patches in order, float, shape (hidden, prototypes).
        codes: The teacher's assignments of these, probabilities, the same shape.
        mask: Which patches of which crops are hidden, bool, shape (crops, patches).
        temperature: Divides the scores, above 0.

    Returns:
        Mean over the hidden patches of a crop, then over all crops, where those without any count 0, scalar, in nats.
    """
    errors = -(codes * (scores / temperature).log_softmax(1)).sum(1)
    share = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return (errors * share.to(errors.dtype)[mask]).sum() / len(mask)


class Distilled(NamedTuple):
    """What a student says of crops, and what it should.

    Attributes:
        crops: Loss of the assignments of whole crops, scalar, in nats.
        hidden: Loss of the assignments of hidden patches, as `masked_prediction` has it.
        features: The student's features of the large crops, float, shape (crops, dim).
        patches: Its tokens of their patches, float, shape (crops, patches, width).
        metrics: Entropy of the teacher's assignments of crops, and how many prototypes crops and patches use.
    """

    crops: Tensor
    hidden: Tensor
    features: Tensor
    patches: Tensor
    metrics: dict[str, Tensor]


class MaskedDistillation(Follower):
    """A teacher with heads, whose assignments of crops and of patches hidden from the student this one predicts.

    Args:
        encoder: Network of the student, a ViT.
        small: Draws small crops.
        masks: Fraction of the large crops with hidden patches, and the smallest and largest fraction of these.
        widths: Numbers of a head: hidden layers, bottleneck, prototypes.
        shared: Whether crops and patches have one head.
        freeze_steps: Optimizer steps before the prototypes move.
        momentum: Initial momentum of the teacher, which rises to 1 along a cosine.
        temperature: Softmax temperature of the student.
        assignments: Temperature, momentum and balance of `Assignments`.
    """

    def __init__(
        self,
        encoder: Any,
        small: SmallCrops,
        *,
        masks: tuple[float, float, float],
        widths: tuple[int, int, int],
        shared: bool,
        freeze_steps: int,
        momentum: float,
        temperature: float,
        assignments: tuple[Any, ...],
    ) -> None:
        super().__init__()
        if masks[1] > masks[2]:
            raise UserError(f"mask_min must be at most mask_max ({masks[2]}), got {masks[1]}")
        self.small_crops, self.masks, self.temperature = small, masks, temperature
        self.grid = (encoder.image_size // encoder.patch_size,) * 2
        hidden, *last = widths
        self.heads = nn.ModuleList(
            PrototypeHead(dim, hidden, hidden, *last, norm=False, freeze_steps=freeze_steps)
            for dim in ([encoder.dim] if shared else [encoder.dim, encoder.trunk.dim])
        )
        self.teacher = Teacher(encoder, *self.heads, momentum=momentum, rising=True)
        self.assign, self.assign_patches = (Assignments(last[1], *assignments) for _ in range(2))

    def chance(self, weight: float) -> float:
        """Loss of a student that always says that all prototypes are equally likely, with a weight of the patches."""
        return (1 + weight * self.masks[0]) * math.log(len(self.assign.center))

    def draw_masks(self, crops: Tensor) -> Tensor:
        """Which patches of large crops are hidden, bool, shape (crops, patches)."""
        return some_blockwise(len(crops), self.grid, self.masks[0], self.masks[1:], crops.device)

    @torch.no_grad()
    def assigned(self, crops: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's assignments of whole crops and of hidden patches in order, float, shape (..., prototypes)."""
        encoder, *heads = self.teacher.networks
        features, patches = read(encoder, crops)
        return self.assign(heads[0](features)), self.assign_patches(heads[-1](patches[mask]))

    def forward(
        self, encoder: Any, token: Tensor, large: Sequence[Tensor], batch: dict[str, Tensor]
    ) -> Distilled:
        """Compare student and teacher.

        Args:
            encoder: Network of the student.
            token: What replaces hidden patches, float, shape (width,).
            large: Two large crops of each image, float in 0..1, shape (batch, channels, size, size) each.
            batch: The images, of which small crops are drawn.
        """
        small = self.small_crops(batch)
        crops = torch.cat(list(large))
        mask = self.draw_masks(crops)
        features, patches = read(encoder, crops, (mask, token))
        parts = [features, *([full(encoder(torch.cat(small)))] if small else [])]
        scores = self.heads[0](torch.cat(parts)).unflatten(0, (-1, len(large[0])))
        codes, patch_codes = self.assigned(crops, mask)
        metrics = {"entropy": entropy(codes).mean(), "used": usage(codes), "patch used": usage(patch_codes)}
        return Distilled(
            swapped_prediction(scores, codes.unflatten(0, (len(large), -1)), self.temperature),
            masked_prediction(self.heads[-1](patches[mask]), patch_codes, mask, self.temperature),
            features,
            patches,
            metrics,
        )

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Count the step."""
        for head in self.heads:
            head.steps += 1  # type: ignore[operator]

    def patch_pictures(
        self, encoder: Any, token: Tensor, images: Tensor, patches: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Pictures in which hidden patches are those of any image whose scores fit the student's best.

        Args:
            encoder: Network of the student.
            token: What replaces hidden patches, float, shape (width,).
            images: Float in 0..1, shape (batch, channels, size, size).
            patches: Of these, shape (batch, patches, channels, pixels).
            mask: Which are hidden, bool, shape (batch, patches), equally many of each image.
        """
        teacher, *heads = self.teacher.networks
        hidden = numbers(mask)
        predicted = self.heads[-1](pick(read(encoder, images, (mask, token))[1], hidden).flatten(0, 1))
        true = heads[-1](read(teacher, images)[1].flatten(0, 1))
        scores = (x.unflatten(0, (len(mask), -1)) - self.assign_patches.center for x in (predicted, true))
        return fits(patches, numbers(~mask), hidden, *scores)


def read(encoder: Any, crops: Tensor, masked: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Features and tokens of the patches in one forward pass of a ViT.

    Args:
        encoder: An encoder of images that is a ViT.
        crops: Float in 0..1, shape (crops, channels, size, size).
        masked: Patches to replace, as in `ImageEncoder.tokens`.

    Returns:
        Float, shape (crops, dim), and float, shape (crops, patches, width).
    """
    tokens = encoder.tokens(crops, masked=masked)
    return full(encoder.pooled(tokens)), full(tokens[:, encoder.prefix_tokens :])
