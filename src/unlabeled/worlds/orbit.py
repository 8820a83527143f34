"""Orbit: an arm of coloured balls turns and rises while several cameras around it watch the same moments.

Each scene has its own cameras (azimuth, height and distance jittered), floor, background, speed, start and sweep of
the arm; the colours of the arm are always the same. All cameras of a scene see the same instants.

Factors, by frame: `progress` of the movement in 0..1, `angle_sin` and `angle_cos` of the arm's turn.

Baselines on 20 scenes of 24 frames of seed 1. Alignment error between the two cameras (chance level 1/3): 32x32 pixels
0.26, a random network of four convolutions 0.32, followed by a random spatial softmax 0.29. The same across scenes
seen by one camera, in progress: pixels 0.15, the random networks 0.34 and 0.31. Ridge regression of
progress on 32x32 pixels, fitted on 120 scenes of seed 0: R² 0.74.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check

__all__ = ["cameras_around", "make", "rays", "render"]

TARGET = (0.0, 0.0, 0.75)
"""Where all cameras look, metres."""
FOCAL = 1.1
"""Focal length in image widths: a field of view of about 49 degrees."""
LIGHT = (0.35, -0.25, 0.9)
RADII = (0.34, 0.24, 0.17, 0.17, 0.21, 0.15, 0.15, 0.24)
COLORS = (
    *((0.25, 0.25, 0.30), (0.85, 0.75, 0.15), (0.90, 0.45, 0.10), (0.90, 0.45, 0.10)),
    *((0.20, 0.60, 0.25), (0.20, 0.35, 0.85), (0.20, 0.35, 0.85), (0.85, 0.10, 0.15)),
)
CHUNK = 256


def make(
    n: int,
    seed: int,
    *,
    frames: int = 20,
    cameras: int = 2,
    size: int = 48,
    jitter: float = 0.2,
    free: bool = False,
    still: bool = False,
) -> dict[str, Tensor]:
    """Draw scenes.

    Args:
        n: Scenes.
        seed: Seed of everything that differs between scenes.
        frames: Moments of each scene.
        cameras: Cameras of each scene, one radian apart.
        size: Height and width in pixels.
        jitter: Largest deviation of a camera from its usual azimuth, radians; its height deviates as much, in metres.
        free: Whether cameras stand at any azimuth and the arm has colours of its own in every scene, which takes
            hundreds of scenes to learn.
        still: Whether nothing moves, so that moments cannot be distinguished: a control.

    Returns:
        `views` uint8 (n, cameras, frames, 3, size, size), and the factors `progress`, `angle_sin` and `angle_cos`,
        float (n, frames).
    """
    check.at_least(1, n=n, frames=frames, cameras=cameras, size=size)
    check.at_least(0, jitter=jitter)
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    steps = torch.linspace(0, 1, frames)
    progress = steps ** uniform(-0.5, 0.5, 1).exp()
    offset, sweep = uniform(-0.4, 0.4, 1), uniform(1.6, 2.6, 1)
    if still:
        progress = torch.full_like(progress, 0.5)
    angle = offset + sweep * (progress - 0.5)
    lift = uniform(0.0, 0.3, 1) + 0.9 * progress
    centers = arm(angle, lift)
    colors = torch.tensor(COLORS).expand(n, -1, -1)
    usual = torch.arange(cameras) - (cameras - 1) / 2
    azimuth = usual + uniform(-jitter, jitter, cameras)
    if free:
        colors = uniform(0.05, 0.95, len(COLORS), 3)
        azimuth = uniform(-math.pi, math.pi, cameras)
    height = 2.0 + uniform(-jitter, jitter, cameras)
    positions = cameras_around(azimuth, height, 3.9 + uniform(-jitter, jitter, cameras))
    background = uniform(0.1, 0.9, 4, 3)

    views = _views(positions, centers, colors, background, size)
    return {"views": views, "progress": progress, "angle_sin": angle.sin(), "angle_cos": angle.cos()}


def _views(positions: Tensor, centers: Tensor, colors: Tensor, background: Tensor, size: int) -> Tensor:
    """Every moment as every camera of its scene sees it, uint8, shape (n, cameras, frames, 3, size, size)."""
    (n, cameras), frames = positions.shape[:2], centers.shape[1]
    views = torch.empty(n, cameras, frames, 3, size, size, dtype=torch.uint8)
    flat = rearrange(views, "n cameras frames c h w -> (n cameras frames) c h w")
    scene = torch.arange(n).repeat_interleave(cameras * frames)
    camera = torch.arange(cameras).repeat_interleave(frames).repeat(n)
    frame = torch.arange(frames).repeat(n * cameras)
    for rows in torch.arange(len(flat)).split(CHUNK):
        s, c, f = scene[rows], camera[rows], frame[rows]
        images = render(positions[s, c], centers[s, f], torch.tensor(RADII), colors[s], background[s], size)
        flat[rows] = (images * 255).round().to(torch.uint8)
    return views


def arm(angle: Tensor, lift: Tensor) -> Tensor:
    """Centres of the balls of the arm.

    Args:
        angle: Turn about the vertical, radians, float, shape (...).
        lift: Elevation of the upper arm, radians, the same shape.

    Returns:
        Float, shape (..., 8, 3), metres, from the foot to the hand.
    """

    def direction(elevation: Tensor) -> Tensor:
        return torch.stack(
            [angle.cos() * elevation.cos(), angle.sin() * elevation.cos(), elevation.sin()], -1
        )

    foot = torch.tensor([0.0, 0.0, 0.2]).expand(*angle.shape, 3)
    shoulder = foot + torch.tensor([0.0, 0.0, 0.4])
    upper, lower = direction(lift), direction(lift - 0.9)
    elbow = shoulder + 0.85 * upper
    return torch.stack(
        [
            *(foot, shoulder, shoulder + 0.3 * upper, shoulder + 0.57 * upper),
            *(elbow, elbow + 0.28 * lower, elbow + 0.5 * lower, elbow + 0.8 * lower),
        ],
        -2,
    )


def cameras_around(azimuth: Tensor, height: Tensor, distance: Tensor) -> Tensor:
    """Positions on circles about the vertical axis, metres, shape (..., 3), azimuth in radians from +x."""
    return torch.stack([distance * azimuth.cos(), distance * azimuth.sin(), height], -1)


def rays(positions: Tensor, size: int) -> Tensor:
    """Unit directions through the pixels of cameras that look at `TARGET`, upright.

    Args:
        positions: Of the cameras, float, shape (images, 3), not above the target.
        size: Height and width of the images in pixels.

    Returns:
        Float, shape (images, size * size, 3), row by row.
    """
    forward = F.normalize(torch.tensor(TARGET) - positions, dim=-1)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).expand_as(forward)), dim=-1)
    up = torch.linalg.cross(right, forward)
    across = (torch.arange(size) + 0.5) / size - 0.5
    down, along = (part.flatten() for part in torch.meshgrid(across, across, indexing="ij"))
    directions = FOCAL * forward[:, None] + along[:, None] * right[:, None] - down[:, None] * up[:, None]
    return F.normalize(directions, dim=-1)


def render(
    positions: Tensor, centers: Tensor, radii: Tensor, colors: Tensor, background: Tensor, size: int
) -> Tensor:
    """Balls above a checkered floor, by intersecting every ray with every ball.

    Args:
        positions: Of the cameras, metres, float, shape (images, 3).
        centers: Of the balls, metres, float, shape (images, balls, 3).
        radii: Metres, float, shape (balls,).
        colors: In 0..1, float, shape (images, balls, 3).
        background: Colours of the horizon, the zenith and the two kinds of tiles, float, shape (images, 4, 3).
        size: Height and width in pixels.

    Returns:
        Float in 0..1, shape (images, 3, size, size).
    """
    directions = rays(positions, size)
    offsets = positions[:, None] - centers
    along = directions @ offsets.mT  # (images, pixels, balls)
    reach = along.square() - (offsets.square().sum(-1) - radii.square())[:, None]
    distance = torch.where(reach > 0, -along - reach.clamp(min=0).sqrt(), torch.inf)
    nearest, ball = distance.min(-1)

    falling = directions[..., 2] < -1e-4
    floor = torch.where(falling, -positions[:, None, 2] / directions[..., 2].clamp(max=-1e-4), torch.inf)
    point = positions[:, None] + floor.where(falling, 0)[..., None] * directions
    odd = (point[..., :2] / 0.8).floor().sum(-1).remainder(2)[..., None]
    tiles = torch.lerp(background[:, 2:3], background[:, 3:4], odd)
    sky = torch.lerp(background[:, 0:1], background[:, 1:2], directions[..., 2:].clamp(0, 1).sqrt())
    image = torch.where(falling[..., None], tiles, sky)

    hit = nearest < floor
    surface = positions[:, None] + nearest.where(hit, 0)[..., None] * directions
    row = torch.arange(len(image))[:, None]
    normal = (surface - centers[row, ball]) / radii[ball][..., None]
    shade = 0.45 + 0.55 * (normal @ F.normalize(torch.tensor(LIGHT), dim=0)).clamp(min=0)
    image = torch.where(hit[..., None], colors[row, ball] * shade[..., None], image)
    return rearrange(image, "images (h w) c -> images c h w", h=size)
