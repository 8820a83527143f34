"""Seasons: places seen from above at several times of the year, with other colours each time.

A place is a map of fields, woods, meadows, water and houses, nearly two thirds of which have one land cover. The map
and its texture persist; colours change with the season, and haze and light differ from picture to picture.

Factors of each picture: `cover`, the most common land cover of its place; `season_sin` and `season_cos`, the time of
the year; `haze` in 0..1.

Baselines (400 places of seed 0 and 100 of seed 1, five pictures each, linear probes) from pixels, from the mean colour
and from a random network of four convolutions: the accuracy of `cover`, one of five, is 43 %, 61 % and 73 %; R² of
`season_sin` is below 0, 0.46 and 0.50; R² of `haze` is below 0, 0.39 and 0.78. The picture with the most similar
features (centred, by cosine) is of the same place in 76 %, 2 % and 24 % of cases.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check

__all__ = ["COVERS", "make"]

COVERS = ["field", "wood", "meadow", "water", "houses"]
COLORS = (
    ((0.45, 0.36, 0.26), (0.48, 0.58, 0.26), (0.84, 0.72, 0.34), (0.55, 0.42, 0.30)),
    ((0.36, 0.31, 0.29), (0.30, 0.50, 0.22), (0.12, 0.36, 0.14), (0.66, 0.40, 0.14)),
    ((0.52, 0.50, 0.34), (0.40, 0.66, 0.28), (0.58, 0.64, 0.32), (0.44, 0.52, 0.28)),
    ((0.74, 0.78, 0.82), (0.20, 0.30, 0.38), (0.14, 0.28, 0.34), (0.22, 0.28, 0.32)),
    ((0.78, 0.77, 0.77), (0.58, 0.54, 0.52), (0.62, 0.56, 0.52), (0.56, 0.52, 0.50)),
)
"""Red, green and blue of each land cover in the middle of winter, spring, summer and autumn."""
GRAIN = ((2, 0.05), (3, 0.10), (8, 0.04), (8, 0.02), (1, 0.18))
"""Size in 32nds of the side, and strength, of the texture of each land cover."""
PARCELS = 10
"""Number of parcels of land of a place: the Voronoi cells of as many random points."""
COMMON = 0.5
"""Probability that a parcel gets the most common land cover; otherwise all are equally likely."""
SHIFT = 0.06
"""Standard deviation of the shift of a parcel's year, and of its brightness."""
CHUNK = 256
"""Places that are drawn together."""


def make(n: int, seed: int, *, times: int = 5, size: int = 32, unrelated: bool = False) -> dict[str, Tensor]:
    """Draw pictures of places.

    Args:
        n: Number of places.
        seed: Seed of everything.
        times: Number of pictures of each place, at random times of the year.
        size: Height and width in pixels.
        unrelated: Whether each picture shows a place of its own, so that none says anything about another: a control.

    Returns:
        `image` uint8 (n, times, 3, size, size), and of each picture `cover` int64, its index in `COVERS`,
        `season_sin`, `season_cos` and `haze`, float, shape (n, times).

    Raises:
        ValueError: A number is too small.
    """
    check.at_least(1, n=n, times=times)
    check.at_least(8, size=size)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in torch.arange(n).split(CHUNK):
        count = len(rows) * times if unrelated else len(rows)
        cover, land, phase, shade = _maps(count, size, generator)
        if not unrelated:
            cover, land, phase, shade = (v.repeat_interleave(times, 0) for v in (cover, land, phase, shade))
        season, haze = torch.rand(2, len(rows) * times, generator=generator)
        light = 0.8 + 0.4 * torch.rand(len(rows) * times, generator=generator)
        image = _render(land, season[:, None, None] + phase, shade, light, 0.5 * haze.square())
        angle = 2 * math.pi * season
        factors = {"cover": cover, "season_sin": angle.sin(), "season_cos": angle.cos(), "haze": haze}
        parts.append({"image": (255 * image).round().to(torch.uint8), **factors})
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return {key: value.unflatten(0, (n, times)) for key, value in joined.items()}


def _maps(places: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What persists: most common cover (places,), and of each pixel the cover, shift of the year and shade."""
    common = torch.randint(len(COVERS), (places,), generator=generator)
    cover = torch.randint(len(COVERS), (places, PARCELS), generator=generator)
    is_common = torch.rand(places, PARCELS, generator=generator) < COMMON
    cover = torch.where(is_common, common[:, None], cover)
    cover[:, 0] = common
    centre = torch.rand(places, PARCELS, 2, generator=generator)
    phase, shade = SHIFT * torch.randn(2, places, PARCELS, generator=generator)
    axis = (torch.arange(size) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
    parcel = torch.cdist(pixels.expand(places, -1, -1), centre).argmin(2)
    land, phase, shade = (
        values.gather(1, parcel).unflatten(1, (size, size)) for values in (cover, phase, shade)
    )
    for number, (cell, strength) in enumerate(GRAIN):
        knots = max(2, round(32 / cell))
        noise = torch.randn(places, 1, knots, knots, generator=generator)
        grain = F.interpolate(noise, (size, size), mode="bicubic")[:, 0]
        shade = torch.where(land == number, shade + strength * grain, shade)
    return common, land, phase, shade


def _render(land: Tensor, season: Tensor, shade: Tensor, light: Tensor, haze: Tensor) -> Tensor:
    """Pictures in 0..1, float, shape (pictures, 3, size, size).

    Args:
        land: Land cover of each pixel, int64, shape (pictures, size, size).
        season: Time of the year of each pixel, 0 and 1 in the middle of winter, float, the same shape.
        shade: How much brighter or darker each pixel is, float, the same shape.
        light: Brightness of each picture, float, shape (pictures,).
        haze: Fraction of each picture that is white haze, float, shape (pictures,).
    """
    colors = torch.tensor(COLORS)
    quarter = 4 * season.remainder(1)
    first = quarter.long().clamp(max=3)
    weight = (0.5 - 0.5 * (math.pi * (quarter - first)).cos())[..., None]
    color = torch.lerp(colors[land, first], colors[land, (first + 1) % 4], weight) * (1 + shade)[..., None]
    color = color * light[:, None, None, None]
    return rearrange(
        torch.lerp(color, torch.ones(()), haze[:, None, None, None]).clamp(0, 1), "n h w c -> n c h w"
    )
