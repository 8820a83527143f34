"""Near duplicates: planted copies are found, others are not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unlabeled.auditing import candidates, near_images, thumbnails
from unlabeled.data import open_data

DATA = Path(__file__).parents[3] / "shared" / "data"
Change = Callable[[Tensor, np.random.Generator], Tensor]


def clouds(count: int, side: int, seed: int) -> Tensor:
    """Random colours at several scales, uint8, shape (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16):
        noise = torch.rand(count, 3, cells, cells, generator=generator)
        images += F.interpolate(noise, (side, side), mode="bicubic") / cells**0.5
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low) * 255).round().to(torch.uint8)


def crop(image: Tensor, numbers: np.random.Generator) -> Tensor:
    """A part of at least 80 % of each side, at any place."""
    height, width = image.shape[-2:]
    rows, columns = (int(np.ceil(side * numbers.uniform(0.8, 1))) for side in (height, width))
    top, left = numbers.integers(height - rows + 1), numbers.integers(width - columns + 1)
    return image[:, top : top + rows, left : left + columns]


def compressed(image: Tensor, numbers: np.random.Generator) -> Tensor:
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "jpeg", quality=60)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)


def mirrored(image: Tensor, numbers: np.random.Generator) -> Tensor:
    return image.flip(-1)


def halved(image: Tensor, numbers: np.random.Generator) -> Tensor:
    small = F.interpolate(image[None].float(), scale_factor=0.5, mode="bicubic", antialias=True)
    return small[0].round().clamp(0, 255).to(torch.uint8)


CHANGES: list[Change] = [crop, compressed, mirrored, halved]


def planted(images: Tensor, each: int) -> tuple[Tensor, dict[tuple[int, int], str]]:
    """Thumbnails of images and of copies of some, and the change of each pair of an image and its copy."""
    numbers, copies, pairs = np.random.default_rng(0), [], {}
    for change in CHANGES:
        for row in numbers.choice(len(images), each, replace=False).tolist():
            pairs[row, len(images) + len(copies)] = change.__name__
            copies.append(near_images.thumbnails(change(images[row], numbers)[None]))
    return torch.cat([near_images.thumbnails(images), *copies]), pairs


def recall_and_precision(small: Tensor, pairs: dict[tuple[int, int], str]) -> tuple[float, float]:
    """Two copies of one image count as right, too."""
    source = {copy: row for row, copy in pairs}
    reported = [tuple(pair) for pair in near_images.near_pairs(small).pairs.tolist()]
    right = [pair for pair in reported if source.get(pair[0], pair[0]) == source.get(pair[1], pair[1])]
    return len(set(reported) & set(pairs)) / len(pairs), len(right) / len(reported)


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.golden)])
def test_planted_copies_are_found_and_no_others(count: int) -> None:
    recall, precision = recall_and_precision(*planted(clouds(count, 64, seed=1), 60))
    assert recall >= 0.99 and precision >= 0.95


def test_planted_copies_of_grey_images_are_found() -> None:
    grey = clouds(400, 48, seed=2)[:, :1].expand(-1, 3, -1, -1)
    small, pairs = planted(grey, 40)
    recall, precision = recall_and_precision(small[:, :1], pairs)
    assert recall >= 0.99 and precision >= 0.95


@pytest.mark.skipif(not (DATA / "cifar10").exists(), reason="real images are not there")
def test_planted_copies_of_real_images_are_found() -> None:
    images = open_data(DATA / "cifar10", split="test").batch(torch.arange(400))["image"]
    small, pairs = planted(images, 50)
    before = {tuple(pair) for pair in near_images.near_pairs(near_images.thumbnails(images)).pairs.tolist()}
    found = near_images.near_pairs(small)
    reported = {tuple(pair) for pair in found.pairs.tolist()}
    assert len(set(pairs) & reported) >= 0.99 * len(pairs)
    # These images hold a few true copies of their own (0.1 %, looked at); all others must be planted.
    source = {copy: row for row, copy in pairs}
    right = {p for p in reported if source.get(p[0], p[0]) == source.get(p[1], p[1])}
    assert len(before) <= 4
    assert len(right) >= 0.95 * len(reported - before)


def test_flat_images_and_gradients_are_no_copies_of_one_another() -> None:
    noise = torch.randint(-2, 3, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    flat = (torch.linspace(20, 220, 40).view(-1, 1, 1, 1) + noise).to(torch.uint8)
    slope = torch.linspace(0, 255, 32).expand(20, 3, 32, 32).to(torch.uint8)
    small = torch.cat([flat, slope, slope.mT])
    assert not thumbnails.has_detail(small).any()
    assert len(near_images.near_pairs(small).pairs) == 0


def test_a_mirrored_copy_is_said_to_be_mirrored() -> None:
    images = clouds(30, 32, seed=3)
    found = near_images.near_pairs(torch.cat([images, images[:1].flip(-1)]))
    assert found.pairs.tolist() == [[0, 30]] and found.mirrored.tolist() == [True]
    assert float(found.score[0]) > 0.99


def test_descriptors_name_the_same_candidates_as_a_sort_of_whole_rows() -> None:
    even, odd, bias = (
        torch.randn(200, *shape, generator=torch.Generator().manual_seed(4)) for shape in ((6,), (4,), ())
    )
    scores = even @ even.T + (odd @ odd.T).abs() - bias
    scores.fill_diagonal_(-torch.inf)
    chosen = candidates.most_likely(even, odd, bias)
    width = chosen.shape[1]
    assert torch.equal(chosen.sort(1).values, scores.topk(width, 1).indices.sort(1).values)


def test_features_of_a_mirror_image_differ_in_the_sign_of_the_odd_half() -> None:
    planes = thumbnails.planes(near_images.thumbnails(clouds(5, 32, seed=5)))
    even, odd = candidates.features(planes)
    mirror_even, mirror_odd = candidates.features(planes.flip(-1))
    torch.testing.assert_close(mirror_even, even, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mirror_odd, -odd, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_images_are_compared(count: int) -> None:
    images = clouds(1, 32, seed=6).repeat(count, 1, 1, 1)
    assert len(near_images.near_pairs(near_images.thumbnails(images)).pairs) == count * (count - 1) // 2


def test_the_threshold_rises_with_pairs_that_nearly_reach_it() -> None:
    copies = torch.full((100,), 0.99)
    chance = 1 - 0.2 * torch.rand(20_000, generator=torch.Generator().manual_seed(7)) ** (1 / 5)
    assert near_images._threshold(copies) == pytest.approx(0.92)
    threshold = near_images._threshold(torch.cat([copies, chance]))
    assert 0.93 < threshold < 0.98
    assert int((chance >= threshold).sum()) <= 5


def test_images_of_other_channels_are_compared_by_their_mean() -> None:
    assert near_images.thumbnails(torch.zeros(2, 5, 40, 20, dtype=torch.uint8)).shape == (2, 1, 32, 32)
