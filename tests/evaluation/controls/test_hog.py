"""HOG against loops written from the definition, and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.data.video.data import from_videos
from unlabeled.evaluation.controls import hog


def slow_hog(image: Tensor, cell: int) -> Tensor:
    """HOG of an image (channels, height, width), pixel by pixel and vote by vote."""
    channels, height, width = image.shape
    rows, columns = height // cell, width // cell
    cells = torch.zeros(rows, columns, hog.DIRECTIONS, dtype=torch.float64)

    def at(channel: int, y: int, x: int) -> float:
        return float(image[channel, min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    for y in range(height):
        for x in range(width):
            edges = [
                (at(c, y + 1, x) - at(c, y - 1, x), at(c, y, x + 1) - at(c, y, x - 1))
                for c in range(channels)
            ]
            down, across = max(edges, key=lambda edge: math.hypot(*edge))
            angle, strength = math.atan2(down, across) % math.pi, math.hypot(down, across)
            for r in range(rows):
                for c in range(columns):
                    for d in range(hog.DIRECTIONS):
                        apart = abs(angle - (d + 0.5) * math.pi / hog.DIRECTIONS)
                        apart = min(apart, math.pi - apart) * hog.DIRECTIONS / math.pi
                        near_y = 1 - abs(y + 0.5 - (r + 0.5) * cell) / cell
                        near_x = 1 - abs(x + 0.5 - (c + 0.5) * cell) / cell
                        share = max(0, 1 - apart) * max(0, near_y) * max(0, near_x)
                        cells[r, c, d] += share * strength
    blocks = torch.zeros(rows - 1, columns - 1, 4 * hog.DIRECTIONS, dtype=torch.float64)
    for r in range(rows - 1):
        for c in range(columns - 1):
            block = torch.cat([cells[r, c], cells[r, c + 1], cells[r + 1, c], cells[r + 1, c + 1]])
            block = (block / (block.square().sum() + hog.FLOOR**2).sqrt()).clamp(max=hog.CLIP)
            blocks[r, c] = block / block.norm().clamp_min(1e-12)
    return blocks


def test_matches_loops_written_from_the_definition() -> None:
    images = torch.rand(2, 3, 9, 12)
    for image, found in zip(images, hog.hog(images, 3)):
        assert torch.allclose(found.double(), slow_hog(image, 3), atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 30, 90, 160])
def test_edges_of_one_direction_vote_only_for_it(degrees: int) -> None:
    angle = math.radians(degrees)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (0.5 + 0.02 * (math.cos(angle) * (x - 8) + math.sin(angle) * (y - 8)))[None, None]
    blocks = hog.hog(ramp, 4)[0, 1, 1].view(4, hog.DIRECTIONS)
    place = degrees / 180 * hog.DIRECTIONS - 0.5
    voted = {math.floor(place) % hog.DIRECTIONS, math.ceil(place) % hog.DIRECTIONS}
    assert {int(one) for one in (blocks[0] > 1e-3).nonzero()} == voted


def test_brightness_contrast_and_negatives_hardly_matter() -> None:
    images = torch.rand(4, 1, 16, 16)
    plain = hog.hog(images, 4)
    assert torch.allclose(hog.hog(images + 0.3, 4), plain, atol=1e-5)
    assert torch.allclose(hog.hog(1 - images, 4), plain, atol=1e-5)
    assert (hog.hog(10 * images, 4) - plain).abs().max() < 0.02


def test_an_image_without_edges_is_zero() -> None:
    assert hog.hog(torch.full((1, 3, 8, 8), 0.7), 2).abs().max() == 0


def test_colours_are_shares_of_pixels() -> None:
    images = torch.rand(2, 3, 16, 16)
    counts = hog.colours(images).view(2, 3, hog.LEVELS, hog.PARTS**2).square()
    assert torch.allclose(counts.sum(2), torch.ones(2, 3, hog.PARTS**2))
    black = hog.colours(torch.zeros(1, 1, 8, 8)).view(hog.LEVELS, -1)
    assert torch.equal(black[0], torch.ones(hog.PARTS**2)) and black[1:].abs().max() == 0


def test_changes_are_those_between_frames() -> None:
    video = torch.zeros(1, 3, 1, 8, 8)
    video[0, 1, :, :2, :2] = 0.5  # the first part flashes once: it changes by 0.5, and by 0.5 again
    video[0, 2, :, :2, :2] = 0.25
    mean, spread = hog.changes(video).view(2, 16)
    assert mean[0] == 0.375 and spread[0] == 0.125 and mean[1:].sum() == 0
    assert hog.changes(video[:, :1]).abs().sum() == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [(8, (2, 4)), (28, (4, 7)), (32, (4, 8)), (105, (14, 7)), (128, (16, 8)), (224, (16, 8)), (3, (2, 2))],
)
def test_cells_cover_the_image(size: int, expected: tuple[int, int]) -> None:
    assert hog.layout(size) == expected


def test_is_a_control_for_encoders_of_images_and_of_videos() -> None:
    images = from_images(torch.randint(256, (3, 3, 20, 20)).to(torch.uint8))
    features = hog.make(encoders.build("conv4", image_size=20), images).features(images)
    assert features.shape == (3, 25 * 36 + 3 * 8 * 16) and features.isfinite().all()
    films = from_videos(torch.randint(256, (2, 5, 3, 20, 20)).to(torch.uint8))
    encoder = encoders.build("frames-conv4", kind="video", image_size=20)
    seen = encoder.evaluation_view(films)
    features = hog.make(encoder, seen).features(seen)
    assert features.shape == (2, 25 * 36 + 3 * 8 * 16 + 32) and features.isfinite().all()
