"""How a run is trained: the run options, their rules, and what is chosen where they are left open."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, Self

from unlabeled.check import Range, UserError
from unlabeled.options import (
    Count,
    Device,
    Fraction,
    NonNegative,
    Positive,
    PositiveFraction,
    WholeNumber,
    verify,
)
from unlabeled.trackers.names import NONE, parse

__all__ = ["ADAPT", "BUDGET", "MACHINE_SETTINGS", "Settings"]

RECIPES = {"adamw": (1e-3, 0.05), "sgd": (0.03 * 4, 5e-4), "lars": (0.3, 1e-6)}
"""Learning rate at 256 samples a step and weight decay by optimizer."""
MACHINE_SETTINGS = (
    *("device", "devices", "nodes", "strategy"),
    *("workers", "cache_size", "max_broken", "skip_nan", "track"),
)
"""Settings that tell machines, patience and trackers apart, not runs: they may differ when a run is resumed."""
BUDGET = ("epochs", "steps", "minutes")
"""Settings that say how long is trained; at most one of them is set."""
ADAPT = {"encoder_rate": 0.1, "layer_decay": 0.75, "head_warmup": 0.1}
"""Defaults of `adapt`, where they differ from those of `pretrain`."""
LARGEST_CHOICE = {"cpu": 64, "cuda": 224}
"""Largest image size in pixels that is chosen for the user; more is theirs to ask for."""

FEWEST_STEPS, MOST_EPOCHS = 250, 800
"""Steps that small data gets at least, and passes over it that are chosen at most."""
MINUTES = {"cpu": 10.0, "cuda": 60.0}
"""Minutes that a training whose length nobody named takes at most."""


@dataclass(frozen=True)
class Settings:
    """How a run is trained; None asks for a choice by the method, the data and the machine.

    The learning rate climbs linearly over the first 5 % of the steps, then falls to 0 along a cosine. Weights of one
    dimension, which are norms and biases, have no decay and, in LARS, no adapted rate. AdamW: betas 0.9 and 0.999,
    eps 1e-8. SGD and LARS: no Nesterov; LARS: trust coefficient 0.001.

    Args:
        encoder: Network to train: a built-in one, any timm model, or module:function that builds one. [default: that of
            the weights; for images resnet10, conv4 below 24 pixels, on a GPU resnet18; else that of the method]
        features: Features that the run's encoder returns, fitted to the training data without labels, as --features
            of evaluate, such as whiten or contrast. [default: the output of the network]
        weights: Weights to start the encoder from: timm:NAME, torchvision:NAME, hf:OWNER/NAME, hub:OWNER/NAME of a
            published run, a folder of transformers or timm, a run, or a file: safetensors, or tensors saved by torch.
            [default: random weights]
        init: Initialisation of the encoder: default, random weights; rescaled, which also equalises the variance of the
            channels in each layer on the data; kmeans, which takes the filters of each layer from clusters of patches
            of its input; or dictionary, where the first convolution starts with atoms of patches of the data.
        epochs: Passes over the data. [default: as many as make 2,000 steps, on a GPU 20,000, but 10 to 800, and no more
            than fit into the minutes]
        steps: Optimizer steps, instead of epochs. [default: as many as the epochs take]
        minutes: Minutes for building the method, training it and fitting its features, instead of epochs; a few trial
            steps decide how many steps fit in, at least 10, fewer where small data would be memorised. [default: at
            most 10, on a GPU 60]
        batch_size: Samples per forward pass, over all processes. [default: 256, on a GPU 512, at most all samples]
        lr: Peak learning rate, used as given. [default: for a batch of 256 samples adamw 0.001, sgd 0.12, lars 0.3;
            scaled by the square root of the batch size for adamw, linearly for the others]
        encoder_rate: Factor on the learning rate of the encoder; heads have the whole.
        layer_decay: Factor on the learning rate of each layer of the encoder in relation to the one above.
        head_warmup: Fraction of the steps at the start in which the encoder stays as it is and only heads are trained.
        distill_weight: Weight of a further loss, the mean of 1 - cosine between the encoder's features and those that
            it had before training.
        lora: Rank of a product of two matrices that is trained beside each linear layer of the encoder, while its own
            weights stay, and added to these at the end; needs unlabeled[lora]. [default: all weights are trained]
        optimizer: Optimizer.
        weight_decay: Weight decay; norms and biases have none. [default: adamw 0.05, sgd 0.0005, lars 1e-06]
        betas: Decay rates of the two moment estimates of adamw, as FIRST,SECOND. [default: 0.9,0.999]
        sgd_momentum: Momentum of sgd and lars. [default: 0.9]
        clip: Maximum norm of the gradient; larger gradients are scaled down to it. [default: no limit]
        holdout: Fraction of the samples held out to monitor the loss; none with fewer than 50 samples.
        snapshots: Encoders to save during training, evenly, at the ends of epochs; evaluate --snapshots measures
            them.
        image_size: Height and width of the encoder's input in pixels. [default: that of the weights; else that of the
            data, at most 64, on a GPU 224]
        store_size: Shorter side in pixels at which decoded images are stored; larger ones are shrunk to it once.
            [default: chosen by the image size]
        levels: Pixel values that become black and white, as LOW,HIGH, in images of more than 8 bits. [default:
            chosen by the data]
        pages: What to read from image files with several pages: the first page, all (each is an image) or bands
            (each is a band of one image).
            [default: first]
        seed: Seed of all random numbers.
        device: Device to train on; auto prefers a GPU.
        precision: Floating-point precision; bf16 is mixed precision, which auto uses on a GPU.
        accumulate: Forward passes per optimizer step, whose gradients are averaged.
        workers: Threads that decode files, once; with stream, processes that decode while training, for each process
            that trains. [default: one per processor]
        stream: Read shards (tar or parquet files, lines of JSON, local or at an address such as s3://bucket/train/)
            while training, for images, sounds and texts that are too large to be kept decoded.
        cache_size: Disk space for streamed shards, on each machine, such as 200GB. [default: half of the free space]
        pieces: Places of streamed data that each batch mixes; a multiple of the processes that divides the batch.
            [default: as many as the batch and the cache allow, at most 64]
        max_broken: Abort if a larger fraction of the files is unreadable.
        group: How to group samples that are not independent, so that no group is split: a column of a table, a regular
            expression for paths with one capture group, such as (speaker[0-9]+)_, folder, or none. [default: detected]
        fold: Number of the official split, of videos that come with several, as those of UCF101 and HMDB51. [default:
            the first]
        skip_nan: Number of steps with a non-finite loss or gradient to skip before aborting.
        label: Column of the labels; training never sees it. [default: detected by its name]
        encoding: Encoding of texts, such as gbk or cp1252. [default: detected]
        text_column: Column of the texts in a table, or several separated by commas, which are joined. [default:
            detected]
        segmenter: Word segmenter for languages without spaces: characters, jieba or pythainlp. [default: none]
        track: Experiment trackers that show the run while it is trained: tensorboard, wandb, trackio or mlflow, several
            separated by commas, or none. [default: none]
        devices: Processes on this machine; with GPUs, one for each.
        nodes: Number of machines.
        strategy: What each of several processes holds between steps: ddp, all weights; fsdp, a shard of the weights and
            of the optimizer's state, for encoders that do not fit one device; not for all methods.
    """

    encoder: str | None = None
    features: str | None = None
    weights: str | None = None
    init: Literal["default", "rescaled", "kmeans", "dictionary"] = "default"
    epochs: Count | None = None
    steps: Count | None = None
    minutes: Positive | None = None
    batch_size: Count | None = None
    lr: Positive | None = None
    encoder_rate: PositiveFraction = 1.0
    layer_decay: PositiveFraction = 1.0
    head_warmup: Annotated[float, Range(at_least=0, below=1)] = 0.0
    distill_weight: NonNegative = 0.0
    lora: Count | None = None
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    weight_decay: NonNegative | None = None
    betas: list[float] | None = None
    sgd_momentum: Annotated[float, Range(at_least=0, below=1)] | None = None
    clip: Positive | None = None
    holdout: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.02
    snapshots: WholeNumber = 0
    image_size: Count | None = None
    store_size: Count | None = None
    levels: str | None = None
    pages: Literal["first", "all", "bands"] | None = None
    seed: WholeNumber = 0
    device: Device = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    accumulate: Count = 1
    workers: Count | None = None
    stream: bool = False
    cache_size: str | None = None
    pieces: Count | None = None
    max_broken: Fraction = 0.1
    group: str | None = None
    fold: Count | None = None
    skip_nan: WholeNumber = 0
    label: str | None = None
    encoding: str | None = None
    text_column: str | None = None
    segmenter: str | None = None
    track: str | None = None
    devices: Count = 1
    nodes: Count = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    def __post_init__(self) -> None:
        for field in fields(self):
            verify(field.name, getattr(self, field.name), field.type)
        self._check_betas()
        if self.track is not None:
            object.__setattr__(self, "track", ",".join(parse(self.track)) or NONE)
        if self.sgd_momentum is not None and self.optimizer == "adamw":
            raise UserError(
                f"sgd_momentum must be left out for adamw, which has none, got {self.sgd_momentum}"
            )
        if self.seed >= 2**63:
            raise UserError(f"seed must be at least 0 and below 2**63, got {self.seed}")
        named = [name for name in BUDGET if getattr(self, name)]
        if len(named) > 1:
            first, second = named[:2]
            raise UserError(
                f"{second} must be left out where {first} are given, got {getattr(self, second)} and "
                f"{getattr(self, first)} {first}"
            )

    def _check_betas(self) -> None:
        if self.betas is None:
            return
        betas = self.betas if isinstance(self.betas, list | tuple) else [self.betas]
        numbers = [beta for beta in betas if isinstance(beta, int | float)]
        if not len(numbers) == len(betas) == 2 or not all(0 <= beta < 1 for beta in numbers):
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
        budget = BUDGET if any(getattr(self, name) for name in BUDGET) else ()
        adam = self.optimizer == "adamw"
        settings = replace(
            self,
            **{
                name: value
                for name, value in (suited or {}).items()
                if getattr(self, name) is None and name not in budget and (name, adam) != ("betas", False)
            },
        )
        if image_size is None:
            return settings
        size = settings.image_size or min(image_size, LARGEST_CHOICE["cuda" if cuda else "cpu"])
        small = "conv4" if size < 24 else "resnet10"
        return replace(settings, image_size=size, encoder=settings.encoder or ("resnet18" if cuda else small))

    def time_limit(self, cuda: bool) -> float | None:
        """Minutes that the training may take; None where epochs or steps are given."""
        if self.epochs or self.steps:
            return None
        return self.minutes or MINUTES["cuda" if cuda else "cpu"]

    def resolve(self, samples: int, cuda: bool, processes: int = 1, most_epochs: int = MOST_EPOCHS) -> Self:
        """These settings with everything chosen that was left open, by the number of samples and the machine.

        Epochs are those that suit the data; how many fit into the time is not known here.

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
            steps = 20_000 if cuda else 2_000
            each = samples // (batch_size * self.accumulate)
            most = min(MOST_EPOCHS, max(most_epochs, -(-FEWEST_STEPS // each)))
            epochs = most if self.minutes else min(most, max(10, round(steps / each)))
        lr, weight_decay = RECIPES[self.optimizer]
        scale = batch_size * self.accumulate / 256
        return replace(
            self,
            batch_size=batch_size,
            epochs=epochs,
            minutes=None,
            lr=self.lr or lr * (math.sqrt(scale) if self.optimizer == "adamw" else scale),
            weight_decay=weight_decay if self.weight_decay is None else self.weight_decay,
            precision=("bf16" if cuda else "32") if self.precision == "auto" else self.precision,
        )

    def choices(self, request: Self) -> dict[str, Any]:
        """What was chosen beside what was asked for, by name and in the order of the fields."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value != getattr(request, name)
        }
