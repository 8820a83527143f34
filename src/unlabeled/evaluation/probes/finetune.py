"""Fine-tuning: the encoder moves too; started from random weights it is the supervised control."""

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.method import Batch

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder
    from unlabeled.evaluation.probes.linear import Linear

__all__ = ["predict", "steps_for"]

LEAST_STEPS, PASSES = 300, 20
WARM_UP = 0.1


def steps_for(labels: int, batch_size: int) -> int:
    """Generous optimizer steps: 20 passes over the labels, 300 at least."""
    return max(LEAST_STEPS, PASSES * math.ceil(labels / batch_size))


def predict(
    encoder: "Encoder",
    train: "Data",
    rows: Tensor,
    labels: Tensor,
    test: "Data",
    classes: int,
    *,
    head: "Linear | None" = None,
    learning_rate: float = 1e-3,
    encoder_factor: float = 1.0,
    weight_decay: float = 0.05,
    steps: int | None = None,
    batch_size: int = 64,
    augment: Callable[[Batch], Tensor] | None = None,
    seed: int = 0,
) -> tuple[Tensor, str]:
    """Train a copy of the encoder with a linear classifier on some labels, and predict the test samples.

    The recipe is fixed (AdamW, warm-up, cosine), so that nothing is chosen by looking at the test set.

    Args:
        encoder: Where training starts; it is not changed.
        train: Where images come from.
        rows: Which samples of `train` may be used, int64, shape (labelled,).
        labels: Class of each sample of `train`, int64, shape (samples,).
        test: Samples to predict.
        classes: Number of classes.
        head: Classifier to start from, such as the linear probe; None starts at random.
        learning_rate: Peak rate of the classifier, at least 0.
        encoder_factor: Rate of the encoder as a share of `learning_rate`.
        weight_decay: Decoupled weight decay of matrices and kernels.
        steps: Optimizer steps; None takes `steps_for`.
        batch_size: Labelled samples a step, fewer where there are not as many.
        augment: Random view of a batch, float, shape (batch, channels, height, width); None takes mild crops
            and colour changes and no flips of images, and other kinds of data as they are.
        seed: Seed of order, views and the classifier.

    Returns:
        Predicted classes, int64, shape (test samples,), and the recipe in words.
    """
    check.at_least(0, learning_rate=learning_rate, encoder_factor=encoder_factor)
    if augment is None and encoder.kind != "image":
        augment = encoder.inputs
    if augment is None:
        from unlabeled.parts.augment import Views

        augment = Views(encoder.config["image_size"], crop=0.6, jitter=0.2, gray=0.0, flip=0.0)
    steps = steps_for(len(rows), batch_size) if steps is None else steps
    device = next(encoder.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = copy.deepcopy(encoder).requires_grad_(True).train()
        classifier = nn.Linear(encoder.dim if head is None else len(head.weight), classes)
        if head is not None:
            classifier.weight.data.copy_(head.weight.T)
            classifier.bias.data.copy_(head.bias)
        classifier.to(device)
        groups = _groups(network, learning_rate * encoder_factor, weight_decay) + _groups(
            classifier, learning_rate, weight_decay
        )
        optimizer = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
        for order in _order(len(rows), min(batch_size, len(rows)), steps):
            chosen = rows[order]
            logits = classifier(network(augment(train.batch(chosen))))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[chosen.to(labels.device)]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        logits = [classifier(network(network.inputs(batch))) for batch in test.batches(256)]
    rates = f"rate {learning_rate:g}" + (f", encoder x{encoder_factor:g}" if encoder_factor != 1 else "")
    return torch.cat(logits).argmax(1), f"{steps} steps, {rates}"


def _rate(progress: float) -> float:
    """Share of the peak learning rate: linear warm-up, then a half cosine to 0."""
    warm_up = min(1.0, (progress + 1e-3) / WARM_UP)
    return warm_up * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def _groups(module: nn.Module, learning_rate: float, weight_decay: float) -> list[dict]:
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": learning_rate, "weight_decay": 0.0},
    ]


def _order(samples: int, batch_size: int, steps: int) -> list[Tensor]:
    """Batches of row numbers: all rows in a new random order, again and again, every batch full."""
    passes = -(-steps * batch_size // samples)
    order = torch.cat([torch.randperm(samples) for _ in range(passes)])
    return list(order[: steps * batch_size].split(batch_size))
