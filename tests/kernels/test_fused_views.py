"""The compiled loop against the tensor form of the same views."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled.kernels import fused_views
from unlabeled.kernels.view_parameters import ViewParameters
from unlabeled.parts import augment
from unlabeled.parts.augment import Views

LEVEL = 1e-3 / 255  # a thousandth of a gray level
# Three factors of 3 multiply the last bit of a float by 27: both forms are that far from the exact value.
EXTREME = 2 * LEVEL


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pictures(samples: int, channels: int, height: int, width: int) -> Tensor:
    """Noise, with pure colours, grays, black and white in it."""
    images = torch.randint(0, 256, (samples, channels, height, width), dtype=torch.uint8)
    images[:, :, : height // 4] = images[:, :, : height // 4] // 128 * 255
    images[:, :, height // 4 : height // 2] = images[:, :1, height // 4 : height // 2]
    return images


def assert_both_agree(images: Tensor, drawn: ViewParameters, level: float = LEVEL) -> None:
    expected, ours = augment.apply_tensors(images, drawn), fused_views.apply(images, drawn)
    assert ours.shape == expected.shape and ours.dtype == expected.dtype and ours.is_contiguous()
    error = (ours - expected).abs()
    if drawn.solarized is not None:
        # A value within the rounding of the threshold may be solarised by one and not by the other.
        error = error[(1 - 2 * expected).abs() > 0.01]
    assert not error.numel() or error.max() < level


CHAINS: dict[str, dict[str, Any]] = {
    "crop": {"jitter": 0, "gray": 0},
    "simclr": {"jitter": 1.0, "blur": 0.5},
    "everything": {"jitter": 1.0, "gray": 0.5, "blur": 0.5, "solarize": 0.3, "degrees": 30, "crop": 0.3},
    "extreme": {"jitter": 2.5, "jitter_probability": 1.0, "gray": 0, "blur": 1.0, "crop": 0.001},
    "turned": {"jitter": 0, "gray": 0, "degrees": 180, "aspect": 1},
    "large": {"jitter": 0.5, "crop": 0.95, "crop_max": 1.0, "flip": 1.0},
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(
    "source, size",
    [
        ((32, 32), 32),
        ((47, 61), 32),
        ((20, 20), 48),
        ((7, 90), 13),
        ((300, 40), 16),
        ((250, 190), 100),
        ((1, 1), 2),
    ],
)
def test_both_forms_agree(chain: str, channels: int, source: tuple[int, int], size: int) -> None:
    images = pictures(16, channels, *source)
    drawn = Views(size, **CHAINS[chain]).draw({"image": images})
    assert_both_agree(images, drawn, EXTREME if chain == "extreme" else LEVEL)


@pytest.mark.parametrize("chain", ["simclr", "extreme", "turned"])
def test_both_forms_agree_on_photos(chain: str) -> None:
    images = pictures(8, 3, 256, 320)
    drawn = Views(224, **CHAINS[chain]).draw({"image": images})
    assert_both_agree(images, drawn, EXTREME if chain == "extreme" else LEVEL)


def test_both_forms_agree_on_random_sizes() -> None:
    for seed in range(60):
        torch.manual_seed(seed)
        height, width, size, channels = (int(torch.randint(1, limit, ())) for limit in (80, 80, 70, 5))
        images = pictures(4, channels, height, width)
        name = list(CHAINS)[seed % len(CHAINS)]
        # There is nothing to reflect in one pixel.
        chain = CHAINS[name] | ({"blur": 0} if size == 1 else {})
        drawn = Views(size, **chain).draw({"image": images})
        assert_both_agree(images, drawn, EXTREME if name == "extreme" else LEVEL)


def test_the_ends_of_every_range_agree() -> None:
    ends = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, 3.0])] * 3, torch.tensor([-0.5, 0.0, 0.5]))
    images = pictures(len(ends), 3, 24, 24)
    boxes = torch.tensor([[0, 0, 24, 24], [23, 23, 1, 1], [0, 5, 24, 1]])[torch.arange(len(ends)) % 3]
    for order in torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [4, 4, 1, 4], [4, 3, 4, 2]]):
        drawn = ViewParameters(24, boxes, factors=ends, order=order.expand(len(ends), 4))
        assert_both_agree(images, drawn, EXTREME)
    sigmas = torch.tensor([1e-3, 0.1, 0.5, 2.0, 40.0])
    for size in (2, 3, 24, 100):
        blurred = torch.ones(5, dtype=torch.bool)
        assert_both_agree(images[:5], ViewParameters(size, boxes[:5], blurred=blurred, sigmas=sigmas))
    degrees = torch.tensor([-180.0, -90, 0, 45, 90, 180])
    for size in (1, 2, 24, 33):
        assert_both_agree(images[:6], ViewParameters(size, boxes[:6], degrees=degrees))


def test_images_that_are_not_contiguous_agree() -> None:
    images = pictures(6, 3, 40, 30)
    views = Views(24, blur=0.5)
    for other in (
        images.contiguous(memory_format=torch.channels_last),
        images[:1].expand(6, -1, -1, -1),
        images.flip(3)[:, :, ::2],
        images.mT,
    ):
        assert_both_agree(other, views.draw({"image": other}))


def test_padding_is_never_seen() -> None:
    sizes = torch.randint(1, 40, (300, 2))
    rows, columns = torch.arange(40)[:, None], torch.arange(40)
    inside = (rows < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    canvas = torch.where(inside[:, None], 0, 255).expand(-1, 3, -1, -1).to(torch.uint8)
    for views in (Views(16, jitter=0, gray=0), Views(48, jitter=0, gray=0.5, blur=1, degrees=45)):
        drawn = views.draw({"image": canvas, "size": sizes})
        assert (fused_views.apply(canvas, drawn) == 0).all()
        assert_both_agree(torch.randint_like(canvas, 256), drawn)


def test_every_gray_level_is_the_float_that_a_division_gives() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    drawn = ViewParameters(16, torch.tensor([[0, 0, 16, 16]]), solarized=torch.tensor([True]))
    assert torch.equal(fused_views.apply(levels, replace(drawn, solarized=None)), levels / 255)
    assert torch.equal(fused_views.apply(levels, drawn), augment.apply_tensors(levels, drawn))


@pytest.mark.parametrize("size", [32, 20])
def test_threads_do_not_change_a_bit(size: int) -> None:
    images = pictures(50, 3, 48, 40)
    drawn = Views(size, jitter=1, blur=0.5, solarize=0.3, degrees=10).draw({"image": images})
    one = fused_views.apply(images, drawn, threads=1)
    assert torch.equal(fused_views.apply(images, drawn, threads=2), one)
    assert torch.equal(fused_views.apply(images, drawn, threads=7), one)


def test_threads_follow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_views, "VALUES_PER_THREAD", 1000)
    images = pictures(64, 3, 32, 32)
    drawn = Views(32, blur=0.5).draw({"image": images})
    shares: list[tuple[int, int]] = []
    compiled = fused_views._views

    def counted(*arguments: Any) -> None:
        shares.append(arguments[-2:])
        compiled(*arguments)

    monkeypatch.setattr(fused_views, "_views", counted)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(fused_views.apply(images, drawn))
    assert len(shares) == 1 + 8 and sorted(shares[1:])[-1][1] == 64
    assert torch.equal(*results)


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    images = pictures(8, 3, 20, 20)
    drawn = Views(16, blur=0.5, solarize=0.3, degrees=10).draw({"image": images})
    whole = fused_views.apply(images, drawn)
    images[1:] = 255 - images[1:]
    assert torch.equal(fused_views.apply(images, drawn)[0], whole[0])


def test_no_images_make_no_views() -> None:
    images = torch.zeros(0, 3, 20, 20, dtype=torch.uint8)
    assert Views(16, blur=0.5, degrees=10)({"image": images}).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("box", [[-1, 0, 4, 4], [0, 0, 9, 4], [0, 5, 4, 4], [0, 0, 0, 4]])
def test_boxes_beyond_the_image_are_refused(box: list[int]) -> None:
    with pytest.raises(ValueError, match="boxes must lie inside the images"):
        fused_views.apply(pictures(1, 3, 8, 8), ViewParameters(4, torch.tensor([box])))


def test_an_order_that_repeats_the_contrast_is_refused() -> None:
    boxes, order = torch.tensor([[0, 0, 8, 8]]), torch.tensor([[1, 0, 1, 4]])
    with pytest.raises(ValueError, match="order must name no change twice"):
        fused_views.apply(
            pictures(1, 3, 8, 8), ViewParameters(4, boxes, factors=torch.ones(1, 4), order=order)
        )


class Loops:
    """Counts the batches that the compiled loop gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.apply = 0, fused_views.apply
        monkeypatch.setattr(fused_views, "apply", self)

    def __call__(self, images: Tensor, parameters: ViewParameters) -> Tensor:
        self.count += 1
        return self.apply(images, parameters)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> Loops:
    return Loops(monkeypatch)


def test_views_of_bytes_take_the_loop_and_a_seed_gives_the_same_in_both_forms(loops: Loops) -> None:
    views, batch = Views(16, blur=0.5, degrees=10), {"image": pictures(8, 3, 20, 24)}
    torch.manual_seed(3)
    ours = views(batch)
    torch.manual_seed(3)
    assert (ours - augment.apply_tensors(batch["image"], views.draw(batch))).abs().max() < LEVEL
    assert loops.count == 1


def test_what_the_loop_cannot_do_takes_the_tensor_form(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    images, views = pictures(4, 3, 20, 20), Views(16, blur=0.5)
    drawn = views.draw({"image": images})
    expected = augment.apply_tensors(images, drawn)
    assert torch.equal(augment.apply(images / 255, drawn), expected)
    factors = torch.ones(4, 4, requires_grad=True)
    augment.apply(images, replace(drawn, factors=factors, order=torch.full((4, 4), 0))).sum().backward()
    assert factors.grad is not None
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.compiler, "is_compiling", lambda: True)
        assert torch.equal(augment.apply(images, drawn), expected)
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.jit, "is_tracing", lambda: True)
        assert torch.equal(augment.apply(images, drawn), expected)
    with pytest.raises((RuntimeError, IndexError)):
        augment.apply(images[:3], drawn)
    assert loops.count == 0
    with torch.no_grad():
        augment.apply(images, replace(drawn, factors=factors, order=torch.full((4, 4), 0)))
    assert loops.count == 1


def test_numba_is_imported_by_the_first_views_that_are_worth_it() -> None:
    program = (
        "import sys, torch; from unlabeled.parts.augment import Views; assert 'numba' not in sys.modules;"
        "Views(16)({'image': torch.rand(1, 3, 4, 4)}); assert 'numba' not in sys.modules;"
        "Views(15)({'image': torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}); assert 'numba' not in sys.modules;"
        "Views(16)({'image': torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}); assert 'numba' in sys.modules;"
        "from unlabeled.kernels import fused_views; assert fused_views._views.stats.cache_hits"
    )
    images = pictures(1, 3, 4, 4)
    fused_views.apply(images, Views(16).draw({"image": images}))  # so that it is compiled
    subprocess.run([sys.executable, "-c", program], check=True)
