"""How a run is trained: the run options, their rules, and what is chosen where they are left open."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["BUDGET", "MACHINE_SETTINGS", "READING", "Settings"]

RECIPES = {"adamw": (1e-3, 0.05), "sgd": (0.03 * 4, 5e-4), "lars": (0.3, 1e-6)}
"""Learning rate at 256 samples a step and weight decay by optimizer."""
MACHINE_SETTINGS = ("device", "devices", "nodes", "workers", "max_broken", "skip_nan")
"""Settings that tell machines and patience apart, not runs: they may differ when a run is resumed."""
BUDGET = ("epochs", "steps")
"""Settings that say how long is trained; one of them is set."""
LARGEST_CHOICE = {"cpu": 64, "cuda": 224}
"""Largest image size in pixels that is chosen for the user; more is theirs to ask for."""
READING = ("label", "text_column", "encoding", "group")
"""Settings that say how data is read, as far as its files do not; whatever opens data has them."""

FEWEST_STEPS, MOST_EPOCHS = 250, 800
"""Steps that are chosen at least, however small the data is, and passes over it that are chosen at most."""
MOST_HELD_OUT = 0.5


@dataclass(frozen=True)
class Settings:
    """How a run is trained; None asks for a choice by the size of the data.

    The learning rate climbs linearly over the first 5 % of the steps, then falls to 0 along a cosine. Weights of one
    dimension, which are norms and biases, have no decay and, in LARS, no adapted rate. AdamW: betas 0.9 and 0.999,
    eps 1e-8. SGD and LARS: momentum 0.9, no Nesterov; LARS: trust coefficient 0.001.

    Args:
        encoder: Name of the network to train: one of our small ones, any timm model, or module:function that builds it.
        weights: File to start the encoder from, instead of random weights: safetensors, or tensors saved by torch.
        init: How the encoder's random weights are drawn; rescaled equalises layers on the data first.
        epochs: Passes over the data.
        steps: Optimizer steps, instead of epochs.
        batch_size: Samples in each forward pass, over all processes.
        lr: Peak learning rate, as given (not scaled further).
        optimizer: adamw, sgd or lars, the last two with momentum 0.9.
        weight_decay: Decay of all weights but norms and biases.
        betas: Decay rates of adamw's two moment estimates, with a comma between them [default: 0.9,0.999].
        clip: Largest norm of the gradient, above which it is scaled down; no limit if left out.
        holdout: Share of the samples held out of training, on which the loss is logged; none below 50 samples.
        image_size: Height and width in pixels of the encoder's input.
        store_size: Shorter side in pixels at which decoded pictures are kept; larger ones are shrunk to it once.
        levels: Values that become black and white, as LOW,HIGH, where images have more than 8 bits; chosen if left out.
        pages: How image files of several pages are read: first page, all (each an image) or bands (of one image).
        seed: Seed of every random choice.
        device: auto, cpu, cuda or mps.
        precision: auto, 32, or bf16 (mixed precision).
        accumulate: Forward passes for each optimizer step.
        workers: Threads that decode files the first time.
        max_broken: Share of unreadable files above which nothing is trained.
        group: Groups of samples that stay in one part, as they are not independent: a column of a table, a regular
            expression for paths such as (speaker[0-9]+)_ with one capture group, folder, or none.
        skip_nan: How many steps with a loss or gradient that is not finite are skipped before the run stops.
        label: Column of the labels, where several or none have a usual name; training never sees it.
        encoding: Encoding of texts, such as gbk or cp1252; detected if left out.
        text_column: Column of the texts in a table, or several with commas between them, which are joined.
        segmenter: Word segmenter for languages without spaces: characters, jieba or pythainlp.
        devices: Processes on this machine.
        nodes: Machines.
    """

    encoder: str | None = None
    weights: str | None = None
    init: Literal["default", "rescaled"] = "default"
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    weight_decay: float | None = None
    betas: list[float] | None = None
    clip: float | None = None
    holdout: float = 0.02
    image_size: int | None = None
    store_size: int | None = None
    levels: str | None = None
    pages: Literal["first", "all", "bands"] | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    accumulate: int = 1
    workers: int | None = None
    max_broken: float = 0.1
    group: str | None = None
    skip_nan: int = 0
    label: str | None = None
    encoding: str | None = None
    text_column: str | None = None
    segmenter: str | None = None
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        sizes = ("epochs", "steps", "batch_size", "image_size", "store_size")
        counts = (*sizes, "accumulate", "workers", "devices", "nodes")
        counted = {name: given[name] for name in counts if name in given}
        check.whole(**counted, seed=self.seed, skip_nan=self.skip_nan)
        check.at_least(1, **counted)
        check.at_least(0, skip_nan=self.skip_nan)
        if "lr" in given:
            check.positive(lr=given["lr"])
        if "clip" in given:
            check.positive(clip=given["clip"])
        if "weight_decay" in given:
            check.at_least(0, weight_decay=given["weight_decay"])
        self._check_betas()
        if not isinstance(self.holdout, int | float) or not 0 <= self.holdout <= MOST_HELD_OUT:
            raise UserError(f"holdout must be between 0 and {MOST_HELD_OUT}, got {self.holdout}")
        for name in ("lr", "weight_decay", "clip"):
            if name in given and given[name] == math.inf:
                raise UserError(f"{name} must be finite, got inf")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be at least 0 and below 2**63, got {self.seed}")
        check.fraction(max_broken=self.max_broken)
        check.choice(RECIPES, optimizer=self.optimizer)
        check.choice(("default", "rescaled"), init=self.init)
        check.choice((None, "first", "all", "bands"), pages=self.pages)
        check.choice(("auto", "cpu", "cuda", "mps"), device=self.device)
        check.choice(("auto", "32", "bf16"), precision=self.precision)
        if self.epochs and self.steps:
            raise UserError(
                f"steps must be left out where epochs are given, got {self.steps} and {self.epochs} epochs"
            )

    def _check_betas(self) -> None:
        if self.betas is None:
            return
        given = self.betas if isinstance(self.betas, list | tuple) else [self.betas]
        numbers = [beta for beta in given if isinstance(beta, int | float)]
        if not len(numbers) == len(given) == 2 or not all(0 <= beta < 1 for beta in numbers):
            raise UserError(f"betas must be two numbers of at least 0 and below 1, got {self.betas}")
        if self.optimizer != "adamw":
            raise UserError(f"betas must be left out for {self.optimizer}, which has none, got {self.betas}")
        object.__setattr__(self, "betas", [float(beta) for beta in numbers])

    def steps_per_epoch(self, samples: int) -> int:
        """Optimizer steps in a pass over the samples; the rest that fills no batch is left for another epoch."""
        assert self.batch_size
        return samples // (self.batch_size * self.accumulate)

    def total_steps(self, samples: int) -> int:
        """Optimizer steps of the whole training."""
        return self.steps or (self.epochs or 1) * self.steps_per_epoch(samples)

    def with_network(
        self, image_size: int | None, cuda: bool, suited: Mapping[str, Any] | None = None
    ) -> Self:
        """These settings with those that the encoder is built from, chosen where they were left open.

        Args:
            image_size: Size in pixels that suits the data; None where no image encoder is to be built.
            cuda: Whether there is a GPU.
            suited: Settings that suit the method, by name.
        """
        budget = BUDGET if self.epochs or self.steps else ()
        settings = replace(
            self,
            **{
                name: value
                for name, value in (suited or {}).items()
                if getattr(self, name) is None and name not in budget
            },
        )
        if image_size is None:
            return settings
        size = settings.image_size or min(image_size, LARGEST_CHOICE["cuda" if cuda else "cpu"])
        small = "conv4" if size < 24 else "resnet10"
        return replace(settings, image_size=size, encoder=settings.encoder or ("resnet18" if cuda else small))

    def resolve(self, samples: int, cuda: bool, processes: int = 1, most_epochs: int = MOST_EPOCHS) -> Self:
        """These settings with everything chosen that was left open, by the number of samples and the machine.

        Args:
            samples: Samples that are trained on.
            cuda: Whether there is a GPU.
            processes: Processes that share each batch.
            most_epochs: Epochs that are chosen at most, unless they make fewer than 250 steps.

        Raises:
            ValueError: Batches do not fit the data or the processes.
        """
        if self.accumulate * processes > samples:
            raise UserError(
                f"accumulate must be at most {samples // processes} for this data, got {self.accumulate}"
            )
        most = samples // self.accumulate // processes * processes
        batch_size = min(self.batch_size or (512 if cuda else 256), most)
        if batch_size % processes:
            raise UserError(f"batch_size must be a multiple of the {processes} processes, got {batch_size}")
        epochs = self.epochs
        if not self.steps and not self.epochs:
            wanted = 20_000 if cuda else 2_000
            each = samples // (batch_size * self.accumulate)
            most = min(MOST_EPOCHS, max(most_epochs, -(-FEWEST_STEPS // each)))
            epochs = min(most, max(10, round(wanted / each)))
        lr, weight_decay = RECIPES[self.optimizer]
        scale = batch_size * self.accumulate / 256
        return replace(
            self,
            batch_size=batch_size,
            epochs=epochs,
            lr=self.lr or lr * (math.sqrt(scale) if self.optimizer == "adamw" else scale),
            weight_decay=weight_decay if self.weight_decay is None else self.weight_decay,
            precision=("bf16" if cuda else "32") if self.precision == "auto" else self.precision,
        )

    def chosen_beside(self, asked: Self) -> dict[str, Any]:
        """What these settings have that was not asked for: by name, in the order of the fields."""
        return {name: value for name, value in asdict(self).items() if value != getattr(asked, name)}
