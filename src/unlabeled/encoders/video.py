"""Encoders of videos: image encoders frame by frame, an LSTM, 3-D convolutions, transformers and dictionaries."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import image, video_vit
from unlabeled.encoders.adapt import Adapt, Input
from unlabeled.encoders.cube_code import CubeCode, cube_code
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.image import ImageEncoder, pool
from unlabeled.encoders.stages import Stages
from unlabeled.parts import augment

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.data.video import Videos

__all__ = ["NAMES", "Clips", "Frames", "Recurrent", "VideoEncoder", "build", "fitted"]

SAMPLE = 64
"""Videos that set the statistics of an encoder's input."""

RAW_FRAMES, RAW_SIZE = 4, 16
"""Frames and side in pixels of raw videos; more would cost much and help no linear classifier."""

FRAMES_PREFIX, LSTM_PREFIX = "frames-", "lstm-"

LSTM_SIZE = 16
"""Side in pixels of the frames that an LSTM reads: all pixels of a frame are one vector."""


class VideoEncoder(Encoder):
    """Base class of encoders of videos: how they read data, and the input of a probe without a network."""

    kind = "video"

    def __init__(self, config: dict[str, Any], dim: int, map_dims: dict[str, int]) -> None:
        super().__init__(config, dim, map_dims)
        size = min(RAW_SIZE, self.image_size)
        self.raw_detail = f"{size}x{size} pixels of {min(RAW_FRAMES, self.frames)} frames"

    @property
    def in_channels(self) -> int:
        """Channels of the frames."""
        return self.config["in_channels"]

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the frames that `inputs` gives."""
        return self.config["image_size"]

    @property
    def frames(self) -> int:
        """Frames of a video that are read for evaluation."""
        return self.config["frames"]

    def evaluation_view(self, data: "Data", number: int = 0, of: int = 1) -> "Data":
        """One clip of each video: `frames` frames in a row around its middle, or one of several at even distances."""
        middle: Callable[..., Data] | None = getattr(data, "middle", None)
        return data if middle is None else middle(self.frames, number=number, of=of)

    def labelled_view(self, data: "Videos") -> "Videos":
        """What training on labels reads of each video: a clip that starts elsewhere each time."""
        return data.anywhere(self.frames)

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Frames without random changes: resized on the shorter side, the centre cut out.

        Args:
            batch: `video` uint8, shape (batch, frames, channels, height, width).

        Returns:
            Float, shape (batch, frames, in_channels, image_size, image_size), in 0..1.
        """
        return _fit(batch["video"], self.image_size)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """Pixels of up to four evenly spread frames, at most 16 on a side."""
        video = batch["video"]
        count = min(RAW_FRAMES, self.frames, video.shape[1])
        index = torch.linspace(0, video.shape[1] - 1, count).round().long()
        return _fit(video[:, index.to(video.device)], min(RAW_SIZE, self.image_size)).flatten(1)


class Frames(VideoEncoder):
    """An encoder of images that reads a video frame by frame; its features are averaged over the frames.

    Args:
        frame: The encoder of images; methods that read single frames train this.
        config: Arguments of `build` that give this architecture again.
    """

    def __init__(self, frame: ImageEncoder, config: dict[str, Any]) -> None:
        super().__init__(config, frame.dim, frame.map_dims)
        self.trunk = frame

    @property
    def frame(self) -> ImageEncoder:
        """The encoder of images, which takes (batch, in_channels, image_size, image_size) in 0..1."""
        return self.trunk

    def evaluation_view(self, data: "Data", number: int = 0, of: int = 1) -> "Data":
        """Frames that are spread evenly over each video, or one of several such views without a frame in common."""
        spread: Callable[..., Data] | None = getattr(data, "spread", None)
        return data if spread is None else spread(self.frames, number, of)

    def labelled_view(self, data: "Videos") -> "Videos":
        """What training on labels reads of each video: frames that are spread evenly over it."""
        return data.spread(self.frames)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of single frames, as those of the encoder of images."""
        return self.frame.maps(images)

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the frames of their features, float, shape (batch, dim), of what `inputs` gives."""
        return _over_frames(self.frame, x)

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        return _over_frames(lambda images: self.frame.features(images, layer), x)


class Recurrent(VideoEncoder):
    """An LSTM that reads all pixels of one frame after the other; its last state is the vector.

    Args:
        units: Cells of the LSTM.
        config: Arguments of `build` that give this architecture again.
    """

    def __init__(self, units: int, config: dict[str, Any]) -> None:
        super().__init__(config, 2 * units, {"mean": units, "hidden": units, "cell": units})
        self.units = units
        self.trunk = nn.LSTM(self.in_channels * self.image_size**2, units, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Last output and cell side by side, float, shape (batch, 2 * units), of what `inputs` gives."""
        return torch.cat(self._read(x)[1:], 1)

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """The last state; as layers its output (`hidden`), its `cell`, and the `mean` output over time."""
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        return dict(zip(self.map_dims, self._read(x)))[layer]

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs, (hidden, cell) = self.trunk(x.flatten(2))
        return outputs.mean(1), hidden[0], cell[0]


class Clips(VideoEncoder):
    """A network of 3-D convolutions over space and time, a vision transformer or a dictionary of cubes.

    Args:
        adapt: Turns frames into the channels that the network sees, with statistics of the data.
        trunk: Network of (batch, channels, frames, height, width).
        config: Arguments of `build` that give this architecture again.
    """

    def __init__(self, adapt: Adapt, trunk: Any, config: dict[str, Any]) -> None:
        super().__init__(config, trunk.dim, trunk.map_dims)
        self.adapt, self.trunk = adapt, trunk

    @property
    def is_dictionary(self) -> bool:
        """Whether `trunk` is a `CubeCode`."""
        return isinstance(self.trunk, CubeCode)

    @property
    def is_vit(self) -> bool:
        """Whether `trunk` is a `VideoViT`, so that `tokens` exists."""
        return isinstance(self.trunk, video_vit.VideoViT)

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the last map over space and time, float, shape (batch, dim), of what `inputs` gives.

        That of a dictionary keeps a coarse grid in space.
        """
        return self.trunk(self.volumes(x))

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Vector, or a named map averaged over time and down to at most 4096 numbers."""
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        return pool(self.trunk.maps(self.volumes(x))[layer].mean(2))

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of a vision transformer that sees only some cubes.

        Args:
            x: Float, shape (batch, frames, in_channels, image_size, image_size), in 0..1.
            keep: Numbers of the cubes to see, counted time by time and row by row, int64, shape (batch, kept); None
                for all.

        Returns:
            Float, shape (batch, kept, dim), as in `keep`.
        """
        return self.trunk.tokens(self.volumes(x), keep)

    def volumes(self, x: Tensor) -> Tensor:
        """What the network takes, float, shape (batch, channels, frames, height, width), of what `inputs` gives."""
        images = self.adapt(rearrange(x, "b t c h w -> (b t) c h w"))
        return rearrange(images, "(b t) c h w -> b c t h w", b=len(x))


def conv3d(in_channels: int) -> Stages:
    """Four 3x3x3 convolutions, halving height and width three times and the frames twice."""
    widths = [16, 32, 64, 128]
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
    stages: dict[str, nn.Module] = {}
    for number, (before, after) in enumerate(zip([in_channels, *widths], widths), 1):
        convolution = nn.Conv3d(before, after, 3, strides[number - 1], 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        stages[f"s{number}"] = nn.Sequential(convolution, nn.BatchNorm3d(after), nn.ReLU(inplace=True))
    return Stages(stages, widths)


def from_torchvision(name: str, in_channels: int) -> Stages:
    """One of torchvision's video networks with random weights, without its classifier."""
    from torchvision.models import video

    model: Any = getattr(video, name)(weights=None)
    if in_channels != 3:
        first = model.stem[0]
        shape = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
        model.stem[0] = nn.Conv3d(in_channels, first.out_channels, bias=False, **shape)
    stages = {part: getattr(model, part) for part in ("stem", "layer1", "layer2", "layer3", "layer4")}
    return Stages(stages, [64, 64, 128, 256, 512])


_TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18")
NAMES = (
    *(f"{FRAMES_PREFIX}conv4", f"{FRAMES_PREFIX}resnet10", f"{FRAMES_PREFIX}resnet18"),
    *(f"{LSTM_PREFIX}256", f"{LSTM_PREFIX}512", f"{LSTM_PREFIX}2048", "conv3d", *_TORCHVISION),
    *(*video_vit.NAMES, "cube-dictionary-256"),
)
"""Encoders of videos; `frames-` takes any encoder of images, `lstm-` any number of cells, `cube-dictionary-` any number
of atoms; this and `vit3d-` perhaps the size of a cube, -8x4 for 8 pixels and 4 frames."""


def build(
    name: str, *, in_channels: int = 3, image_size: int = 32, frames: int = 8, input: Input = "color"
) -> VideoEncoder:
    """Build an encoder with random weights.

    Args:
        name: One of `NAMES`, `frames-` before any name of an image encoder, `lstm-` before a number of cells or
            `cube-dictionary-` before a number of atoms.
        in_channels: Channels of the frames.
        image_size: Height and width in pixels of the frames.
        frames: Frames of a video that evaluation reads.
        input: What the network sees of a frame: color, lightness, sobel or lab; an LSTM reads color.

    Raises:
        ValueError: A name or a number does not fit.
    """
    check.at_least(1, in_channels=in_channels, image_size=image_size, frames=frames)
    config = {"kind": "video", "name": name, "in_channels": in_channels, "image_size": image_size}
    config |= {"frames": frames, "input": input}
    if name.startswith(FRAMES_PREFIX):
        frame_name = name.removeprefix(FRAMES_PREFIX)
        frame = image.build(frame_name, in_channels=in_channels, image_size=image_size, input=input)
        return Frames(frame, config)
    if name.startswith(LSTM_PREFIX):
        units = name.removeprefix(LSTM_PREFIX)
        if not units.isdecimal() or int(units) < 1:
            raise UserError(f"encoder must be lstm- and a number of cells, such as lstm-256, got {name}")
        check.choice(("color",), input=input)
        return Recurrent(int(units), config)
    adapt = Adapt(input, in_channels)
    if name == "conv3d":
        return Clips(adapt, conv3d(adapt.out_channels), config)
    if name in _TORCHVISION:
        return Clips(adapt, from_torchvision(name, adapt.out_channels), config)
    for make in (cube_code, video_vit.video_vit):
        if (trunk := make(name, adapt.out_channels, image_size, frames)) is not None:
            return Clips(adapt, trunk, config)
    raise UserError(f"encoder of videos must be one of {', '.join(NAMES)}, got {name}")


def fitted(
    name: str,
    data: "Data",
    *,
    image_size: int | None = None,
    frames: int | None = None,
    input: Input = "color",
) -> VideoEncoder:
    """Build an encoder for data and set the statistics of its input.

    Args:
        name: As in `build`.
        data: Videos.
        image_size: Height and width in pixels of the frames; None takes the shorter side of the videos, up to
            112, and for an LSTM up to 16.
        frames: Frames of a video that evaluation reads; None takes 8, for an LSTM 10 and for 3-D convolutions
            16, but no more than the videos have.
        input: What the network sees of a frame, as in `build`.
    """
    shape, lstm = data.shape, name.startswith(LSTM_PREFIX)
    size = image_size or min(shape["image_size"], LSTM_SIZE if lstm else 112)
    usual = 8 if name.startswith(FRAMES_PREFIX) else 10 if lstm else 16
    count = frames or min(usual, shape.get("frames", usual))
    encoder = build(name, in_channels=shape["channels"], image_size=size, frames=count, input=input)
    if isinstance(encoder, Frames | Clips):
        adapt = encoder.frame.adapt if isinstance(encoder, Frames) else encoder.adapt
        x = encoder.inputs({"video": encoder.evaluation_view(data).sample(SAMPLE)["video"].cpu()})
        adapt.fit(rearrange(x, "b t c h w -> (b t) c h w"))
    if name in video_vit.NAMES:
        trunk: Any = encoder.trunk
        encoder.notes.append(
            f"{name} reads cubes of {trunk.side}x{trunk.side} pixels and {trunk.depth} frames"
        )
    return encoder


def _fit(video: Tensor, size: int) -> Tensor:
    images = augment.fit(rearrange(video, "b t c h w -> (b t) c h w"), size)
    return rearrange(images, "(b t) c h w -> b t c h w", b=len(video))


def _over_frames(read: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    features = read(rearrange(x, "b t c h w -> (b t) c h w"))
    return rearrange(features, "(b t) d -> b t d", b=len(x)).mean(1)
