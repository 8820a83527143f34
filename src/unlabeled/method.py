"""The contract between a method and the loop that trains it."""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Self

from torch import Tensor, nn
from typing_extensions import TypeVar

from unlabeled import options
from unlabeled.check import UserError
from unlabeled.options import EncoderNeeds, ViewOptions
from unlabeled.parts.teacher import Follower

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["Batch", "EncoderNeeds", "Losses", "Method", "Pictures", "Waveforms"]

Batch = dict[str, Tensor]
Losses = Tensor | dict[str, Tensor]


class Waveforms(NamedTuple):
    """Sounds that the page plays.

    Attributes:
        waveform: Float, shape (samples, length), in -1..1; louder ones are scaled down.
        length: True samples of each, int64, shape (samples,).
        sample_rate: In hertz.
    """

    waveform: Tensor
    length: Tensor
    sample_rate: int


Pictures = Mapping[str, Tensor | list[str] | Waveforms]
EncoderT = TypeVar("EncoderT", bound="Encoder", default=Any)
VIEWS_OFF = ViewOptions(jitter=0, gray=0, blur=0, solarize=0, flip=0, degrees=0)


def _restart(method: "Method", data: Any) -> None:
    """Let parts that follow the training start anew."""
    modules = set(method.modules())
    for part in method.modules():
        if isinstance(part, Follower):
            if not modules.issuperset(part.students):
                raise UserError(
                    f"networks of {type(method).__name__} must be those that it was built with, which its "
                    f"{type(part).__name__.lower()} follows, got others; build the method anew"
                )
            part.restart()


def _follow(method: "Method", progress: float) -> None:
    """Let parts that follow the training move."""
    for part in method.modules():
        if isinstance(part, Follower):
            part.follow(progress)


def _after(first: Callable[..., None], name: str, hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that does something else first: once, whether or not overrides call those that they override."""

    @wraps(hook)
    def act(method: "Method", *arguments: Any, **keywords: Any) -> None:
        if getattr(type(method), name) is act:
            first(method, *arguments, **keywords)
        hook(method, *arguments, **keywords)

    return act


class Method(nn.Module, Generic[EncoderT]):
    """A way to learn without labels: calling it on a batch returns its loss.

    A method owns the encoder that is kept, the heads that are thrown away and every bit of state that training
    needs (queues, centres, vocabularies: as buffers, so that resuming is exact). It knows no device, optimizer,
    rank, path or epoch, and draws random numbers from torch's default generator only.

    `Method[ImageEncoder]` names the class of its encoder for type checkers. The keyword arguments of the constructor
    are its options; their annotations say what is allowed, and `Method` checks it. Class variables that are literals
    are also read from the source, without importing it.
    """

    kind: ClassVar[str] = "image"
    """Kind of data that it learns from."""
    encoder_kind: ClassVar[str | None] = None
    """Kind of encoder that it trains, where that is not the kind of the data."""
    encoder_needs: ClassVar[EncoderNeeds | None] = None
    """What the encoder must be able to do beyond its kind."""
    defaults: ClassVar[dict[str, Any]] = {}
    """Run settings that suit it where the user sets nothing, such as the encoder's name."""
    view_defaults: ClassVar[ViewOptions] = ViewOptions()
    """The view options that it has, with their defaults."""
    recipe: ClassVar[dict[str, Any]] = {}
    """Settings and options for a small budget on two CPU cores, where they differ from the defaults."""
    smallest: ClassVar[dict[str, Any]] = {}
    """Options, and perhaps encoder and image_size, for two dozen samples, where the defaults are too large or slow."""
    example: ClassVar[str | None] = None
    """Built-in set to try it on, where the first set of its kind lacks what it needs, such as colour."""
    encoder_input: ClassVar[Literal["color", "lightness", "sobel", "lab"]] = "color"
    compares_samples: ClassVar[bool] = False
    """Whether the loss compares the samples of a batch, so that smaller batches make another task."""
    learning_rates: ClassVar[dict[str, float]] = {}
    """Factors on the learning rate, by the first part of a parameter's name. Each such part is a player of its own,
    whose gradient is clipped separately."""
    held_out: ClassVar[Literal["undefined", "warn", "stop"]] = "warn"
    """Meaning of the loss on held-out samples. "undefined": none, as the task is made of the training samples. "warn":
    a warning is given when it rises. "stop": it measures what was learned, so that its rise also ends a training whose
    length was chosen for the user."""
    readout: ClassVar[str | None] = None
    """Features by which its encoders are measured and embedded where the user names none, such as layer2:2x2:whiten;
    None for the encoder's output. Set by measurement on held-out training labels only."""
    fsdp: ClassVar[bool] = False
    """Whether `--strategy fsdp` can train it: what is outside of `forward`, `features` and `pictures` must not use
    weights of its networks but in operations that shards allow, such as the update of a teacher."""
    most_epochs: ClassVar[int] = 800
    """Most passes over the data that are chosen for the user; after more, small data is memorised."""

    encoder: EncoderT
    """The network whose features are kept."""
    built_with: tuple[tuple[Any, ...], dict[str, Any]]
    """Arguments of the constructor besides the encoder, so that the same method can be built anew."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "reads" in vars(cls):  # its name in 0.1, which nothing would call any more
            raise UserError(f"{cls.__name__}.reads must be called training_view since 0.2, got reads")
        if "__init__" in vars(cls):
            cls.__init__ = options.checked(cls.__init__)
        cls.prepare = _after(_restart, "prepare", cls.prepare)
        cls.after_step = _after(_follow, "after_step", cls.after_step)

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        method = super().__new__(cls)
        keywords.pop("encoder", None)
        object.__setattr__(method, "built_with", (args[1:], keywords))
        return method

    def __init__(self, encoder: EncoderT) -> None:
        super().__init__()
        missing = [name for name in ("dim", "inputs") if not hasattr(encoder, name)]
        if missing:
            raise UserError(
                f"encoder must be an Encoder, got {type(encoder).__name__} without {', '.join(missing)}. "
                "unlabeled.encoders.wrap makes one of any network"
            )
        if (needs := self.encoder_needs) is not None:
            value = getattr(encoder, needs.attribute, None)
            if value is None or needs.value not in (None, value):
                config = getattr(encoder, "config", {})
                name = config.get("name", type(encoder).__name__)
                if "architecture" in config:
                    name = f"{json.loads(config['architecture'])['model_type']} of {name}"
                raise UserError(f"encoder must {needs.rule}, got {name}")
        self.encoder = encoder
        self.metrics: dict[str, Tensor] = {}
        """Detached scalars of the last call that are worth logging, such as the accuracy on the pretext."""
        self.notes: list[str] = []
        """Lines that a user must see, such as what a teacher is given."""
        self.chosen: dict[str, Any] = {}
        """Options that were left open until `training_view` saw the data, with what was chosen; a run stores them."""

    def choose(self, **options: Any) -> None:
        """Set options that were left open, so that a method that is built anew has them too."""
        self.chosen |= options
        object.__setattr__(self, "built_with", (self.built_with[0], {**self.built_with[1], **options}))

    def view_options(self, views: ViewOptions) -> dict[str, Any]:
        """Options for `Views`: those given, else the defaults of this method; operations without a default are off."""
        return {**VIEWS_OFF, **self.view_defaults, **views}

    def chance(self, samples: int) -> float | None:
        """Chance-level loss: that of a method that has learned nothing, with `samples` per step over all processes.

        By default what the buffer `baseline` holds, where a method has one and `prepare` has measured it on the data:
        the loss of always predicting the same, such as the mean image.
        """
        baseline = dict(self.named_buffers(recurse=False)).get("baseline")
        return None if baseline is None else float(baseline) or None

    @property
    def whole_task(self) -> bool:
        """Whether the loss is now that of the whole task.

        A method that trains its parts one by one before says False meanwhile. Their losses have scales of their own, so
        no held-out loss is measured and reports do not compare them with later ones.
        """
        return True

    @property
    def changes_at(self) -> float | None:
        """Progress of the training at which steps begin to cost otherwise, as with a second layer; None for never."""
        return None

    def training_view(self, data: Any) -> "Data":
        """Data of this kind, as samples that training needs, such as clips of videos."""
        return self.encoder.evaluation_view(data)

    def prepare(self, data: Any) -> None:
        """Look once, before training, at what `training_view` gave: priors, palettes, sizes of per-sample state.

        Parts that follow the training, such as a teacher, start anew before it.
        """

    def begin_epoch(self, data: Any) -> Tensor | None:
        """Act before an epoch; may return one sampling weight per sample, float, shape (samples,)."""
        return None

    def forward(self, batch: Batch) -> Losses:
        """Return the loss, or named losses to be summed where several players are optimised.

        A loss without a gradient says that the method has moved its weights itself, which it must not in evaluation
        mode.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Act after an optimizer step; progress runs from 0 to 1 over the training.

        Parts that follow the training, such as a teacher, move before it.
        """

    def pictures(self, batch: Batch) -> Pictures:
        """Show what was withheld and what was predicted.

        Returns:
            By name, images as float, shape (samples, channels, height, width), in 0..1, a text for each sample, or
            sounds.
        """
        return {}

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        """Features as the paper reads them, float, shape (batch, dim), from the vector or from a named map."""
        return self.encoder.features(self.encoder.inputs(batch), layer)

    def embed_features(self, features: Tensor) -> Tensor:
        """What the loss compares, where a head computes it from `features`, float, shape (batch, dim)."""
        return features

    def embedding(self, batch: Batch) -> Tensor:
        """What the loss compares, float, shape (batch, dim): where a collapse shows first."""
        return self.embed_features(self.features(batch))
