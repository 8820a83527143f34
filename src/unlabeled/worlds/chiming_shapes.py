"""Shapes that chime: a picture of a shape, and a second of the sound that goes with its class.

A sample is a coloured shape on a noisy ground and a sound at 8 kHz. Only the class corresponds:

| class    | sound                        | pitch in hertz |
|----------|------------------------------|----------------|
| disc     | a pure tone                  | 280 to 320     |
| square   | odd harmonics, hollow        | 400 to 460     |
| triangle | all harmonics, bright        | 575 to 660     |
| cross    | the partials of a struck bar | 830 to 950     |

Everything else is drawn independently and so cannot be predicted from the other side: colours, size, position and
rotation of the shape; pitch within the class, the moments of the strikes, how fast they fade, loudness and noise of
the sound. With `distractor` a second shape of another class is in the picture, away from the first, and makes no sound:
only the sound reveals which of the two is meant.

Factors: shape, pitch_hz, hue, radius, x, y; silent_shape with a distractor.

Baselines: random pairs have the same class one time in four, so that the accuracy of correspondence is at most 7/8.
A linear probe fitted on 2,000 pairs predicts the shape of 28 % of 800 others from raw pixels (32x32; chance level is
25 %), but of all of them from mean and deviation of the mel bands of the sound. The centre of the picture is in the
sounding shape in 12 % of 2,000 pictures of two; picking one of the two at random is right half of the time.
"""

import math

import torch
from torch import Tensor

from unlabeled import check

__all__ = ["CLASSES", "SAMPLE_RATE", "make"]

CLASSES = ("disc", "square", "triangle", "cross")
SAMPLE_RATE = 8000
"""Samples of sound per second, in hertz."""

PITCHES = ((280, 320), (400, 460), (575, 660), (830, 950))
PARTIALS = (
    ((1.0, 1.0),),
    ((1.0, 1.0), (3.0, 0.6), (5.0, 0.4), (7.0, 0.25)),
    ((1.0, 1.0), (2.0, 0.8), (3.0, 0.6), (4.0, 0.5), (5.0, 0.4)),
    ((1.0, 1.0), (2.756, 0.7), (3.9, 0.5)),
)
"""Of each class: frequency over the pitch, and amplitude."""

STRIKES = 3
RADII = (0.13, 0.2)
"""Of a circle around the shape, over the side of the picture."""
TURN = math.radians(15)
TRIES = 64
CHUNK = 256


def make(n: int, seed: int, *, distractor: bool = False, image_size: int = 64) -> dict[str, Tensor]:
    """Make pairs of a picture and a sound.

    Args:
        n: Pairs, at least 1.
        seed: The same number gives the same pairs.
        distractor: Whether a shape of another class, which makes no sound, is in the picture as well.
        image_size: Side of the pictures in pixels, at least 16.

    Returns:
        `image` uint8 (n, 3, image_size, image_size); `waveform` float32 (n, 8000) in -1..1; `masks` uint8
        (n, image_size, image_size), 1 in the sounding shape, 2 in the silent one, 0 elsewhere; `labels` int64
        (n,), the class; and the factors, each (n,): `shape` and `silent_shape` (-1 for none) int64, `pitch_hz`,
        `hue` in 0..1, `radius`, `x` and `y` (of the centre, from the left and the top) as fractions of the side.
    """
    check.whole(n=n, image_size=image_size)
    check.at_least(1, n=n)
    check.at_least(16, image_size=image_size)
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    count = len(CLASSES)
    labels = torch.randint(count, (n,), generator=generator)
    silent = (labels + torch.randint(1, count, (n,), generator=generator)) % count
    shapes = torch.stack([labels, silent], 1)
    radii = uniform(n, 2, low=RADII[0], high=RADII[1])
    first = radii[:, :1] + (1 - 2 * radii[:, :1]) * uniform(n, 2)
    centres = torch.stack([first, _apart(first, radii, uniform(n, TRIES, 2))], 1)
    turns = uniform(n, 2, low=-TURN, high=TURN)
    hues = uniform(n, 3)
    ground = _colors(hues[:, 2], uniform(n, low=0.0, high=0.5), uniform(n, low=0.15, high=0.45))
    ink = _colors(hues[:, :2], uniform(n, 2, low=0.3, high=1.0), uniform(n, 2, low=0.65, high=1.0))
    if not distractor:
        silent = torch.full_like(silent, -1)

    limits = torch.tensor(PITCHES)[labels]
    pitch = limits[:, 0] + (limits[:, 1] - limits[:, 0]) * uniform(n)
    onsets = torch.cat([uniform(n, 1, high=0.3), uniform(n, STRIKES - 1, high=0.9)], 1)
    strengths, fades = uniform(n, STRIKES, low=0.4), uniform(n, 1, low=4.0, high=12.0)
    phases, loudness = uniform(n, 8, high=2 * math.pi), uniform(n, 1, low=0.2, high=0.9)

    image = torch.empty(n, 3, image_size, image_size, dtype=torch.uint8)
    masks = torch.empty(n, image_size, image_size, dtype=torch.uint8)
    waveform = torch.empty(n, SAMPLE_RATE)
    for rows in torch.arange(n).split(CHUNK):
        inside = _inside(shapes[rows], centres[rows], radii[rows], turns[rows], image_size)
        inside = inside[:, : 1 + distractor]
        image[rows], masks[rows] = _painted(inside, ground[rows], ink[rows], generator)
        envelope = _envelope(onsets[rows], strengths[rows], fades[rows])
        tone = _tone(labels[rows], pitch[rows], phases[rows]) * envelope
        tone = loudness[rows] * tone / tone.abs().amax(1, keepdim=True)
        waveform[rows] = (tone + 0.005 * torch.randn(tone.shape, generator=generator)).clamp(-1, 1)
    factors = {"shape": labels, "silent_shape": silent, "pitch_hz": pitch, "hue": hues[:, 0]}
    factors |= {"radius": radii[:, 0], "x": centres[:, 0, 0], "y": centres[:, 0, 1]}
    return {"image": image, "waveform": waveform, "masks": masks, "labels": labels} | factors


def _apart(first: Tensor, radii: Tensor, draws: Tensor) -> Tensor:
    """The first of some random positions at which a second shape touches neither the first one nor the border."""
    own = radii[:, 1, None, None]
    positions = own + (1 - 2 * own) * draws
    distances = (positions - first[:, None]).norm(dim=2)
    free = distances > radii.sum(1, keepdim=True)
    # An argmax of booleans is the first true one; where none is free, the farthest will do.
    index = torch.where(free.any(1), free.int().argmax(1), distances.argmax(1))
    return positions[torch.arange(len(positions)), index]


def _inside(shapes: Tensor, centres: Tensor, radii: Tensor, turns: Tensor, size: int) -> Tensor:
    """Pixels whose centre lies in a shape, bool, shape (batch, shapes, size, size)."""
    grid = (torch.arange(size) + 0.5) / size
    dx = (grid - centres[..., 0, None])[:, :, None, :]
    dy = (grid - centres[..., 1, None])[:, :, :, None]
    cos, sin = turns.cos()[..., None, None], turns.sin()[..., None, None]
    radius = radii[..., None, None]
    x, y = (cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius
    square = torch.maximum(x.abs(), y.abs()) < 0.5**0.5
    triangle = (y < 0.5) & (3**0.5 * x.abs() - y < 1)
    arms = torch.minimum(x.abs(), y.abs()) < 0.28
    cross = arms & (torch.maximum(x.abs(), y.abs()) < 0.96)
    kinds = torch.stack([x.square() + y.square() < 0.72, square, triangle, cross], -1)
    which = shapes[..., None, None, None].expand(*kinds.shape[:-1], 1)
    return kinds.gather(-1, which)[..., 0]


def _painted(
    inside: Tensor, ground: Tensor, ink: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures of shapes, the first in front, uint8 (batch, 3, size, size), and masks, uint8 (batch, size, size)."""
    size = inside.shape[-1]
    noise = torch.randn(len(inside), 3, size, size, generator=generator)
    canvas = ground[:, :, None, None] + 0.04 * noise
    masks = torch.zeros(len(inside), size, size, dtype=torch.uint8)
    for number in reversed(range(inside.shape[1])):
        canvas = torch.where(inside[:, number, None], ink[:, number][:, :, None, None], canvas)
        masks = torch.where(inside[:, number], number + 1, masks).to(torch.uint8)
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8), masks


def _tone(labels: Tensor, pitch: Tensor, phases: Tensor) -> Tensor:
    """One second of the partials of each class at a pitch, float, shape (batch, 8000)."""
    seconds = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = torch.zeros(len(labels), SAMPLE_RATE)
    for label, partials in enumerate(PARTIALS):
        rows = (labels == label).nonzero()[:, 0]
        for number, (ratio, amplitude) in enumerate(partials):
            angle = 2 * math.pi * ratio * pitch[rows, None] * seconds + phases[rows, number, None]
            tone[rows] += amplitude * angle.sin()
    return tone


def _envelope(onsets: Tensor, strengths: Tensor, fades: Tensor) -> Tensor:
    """Strikes that fade, each from its onset in seconds, float, shape (batch, 8000)."""
    since = torch.arange(SAMPLE_RATE) / SAMPLE_RATE - onsets[..., None]
    strikes = strengths[..., None] * torch.where(since < 0, 0.0, (-fades[..., None] * since).exp())
    return strikes.sum(1)


def _colors(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Red, green and blue in 0..1 as a last axis."""
    sectors = (hue[..., None] * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    dip = torch.minimum(sectors, 4 - sectors).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * dip)
