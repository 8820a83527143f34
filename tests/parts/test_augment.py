import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as reference

from unlabeled.kernels import fused_views
from unlabeled.kernels.view_parameters import ViewParameters
from unlabeled.parts import augment
from unlabeled.parts.augment import Views

LEVEL = 1e-3 / 255  # a thousandth of a gray level
ROTATED = 10 * LEVEL  # positions of some hundred pixels are rounded, by each CPU in its own way
BILINEAR = v2.InterpolationMode.BILINEAR


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def uniform(low: float, high: float, samples: int) -> Tensor:
    return torch.empty(samples).uniform_(low, high)


def extreme_images(samples: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Noise with pure colours, grays, black and white in it."""
    images = torch.rand(samples, channels, height, width)
    images[:, :, : height // 4] = images[:, :, : height // 4].round()
    images[:, :, height // 4 : height // 2] = images[:, :1, height // 4 : height // 2]
    return images


def boxes_in(height: int, width: int, samples: int, crop: float = 0.08) -> Tensor:
    return augment.random_boxes(torch.tensor([[height, width]]).expand(samples, 2), crop)


def difference(result: Tensor, expected: list[Tensor]) -> float:
    assert result.shape == torch.stack(expected).shape
    return (result - torch.stack(expected)).abs().max().item()


def cut(image: Tensor, box: list[int], size: int) -> Tensor:
    top, left, height, width = box
    return reference.resized_crop(
        image, top, left, height, width, [size, size], interpolation=BILINEAR, antialias=True
    )


@pytest.mark.parametrize("height, width", [(32, 32), (47, 61), (90, 31), (200, 256), (400, 300)])
@pytest.mark.parametrize("size", [8, 32, 96, 224])
def test_crop_and_flip_equal_torchvision(height: int, width: int, size: int) -> None:
    images, boxes, flip = torch.rand(12, 3, height, width), boxes_in(height, width, 12), torch.rand(12) < 0.5
    expected = []
    for image, box, mirrored in zip(images, boxes.tolist(), flip):
        view = cut(image, box, size)
        expected.append(reference.horizontal_flip(view) if mirrored else view)
    assert difference(augment.crop_resize(images, boxes, size, flip), expected) < LEVEL


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("height, width", [(32, 32), (17, 40), (96, 96)])
def test_each_color_change_equals_torchvision(name: str, height: int, width: int) -> None:
    images = extreme_images(64, height, width)
    values = uniform(-0.5, 0.5, 64) if name == "hue" else uniform(0, 2, 64)
    values[:3] = torch.tensor([-0.5, 0, 0.5]) if name == "hue" else torch.tensor([0.0, 1, 2])
    adjust = getattr(reference, f"adjust_{name}")
    expected = [adjust(image, value) for image, value in zip(images, values.tolist())]
    assert difference(getattr(augment, name)(images, values), expected) < LEVEL


def test_grayscale_and_solarize_equal_torchvision() -> None:
    images = extreme_images(16, 20, 30)
    assert difference(augment.grayscale(images), list(reference.rgb_to_grayscale(images, 3))) < LEVEL
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    inverted = reference.solarize(levels, 128)
    assert torch.equal((augment.solarize(augment.to_float(levels)) * 255).round(), inverted.float())
    for threshold in (0.0, 0.3, 1.0):
        expected = list(reference.solarize(images, threshold))
        assert difference(augment.solarize(images, threshold), expected) < LEVEL


@pytest.mark.parametrize("height, width, kernel", [(32, 32, 3), (64, 64, 7), (40, 25, 5), (160, 224, 23)])
def test_blur_equals_torchvision(height: int, width: int, kernel: int) -> None:
    images, sigmas = extreme_images(8, height, width), uniform(0.1, 2, 8)
    expected = [
        reference.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
        for image, sigma in zip(images, sigmas.tolist())
    ]
    assert difference(augment.blur(images, sigmas, kernel), expected) < LEVEL


@pytest.mark.parametrize("size, kernel", [(2, 3), (32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_spans_a_tenth_of_the_side(size: int, kernel: int) -> None:
    images, sigmas = torch.rand(2, 1, size, size), torch.tensor([0.7, 2.0])
    assert torch.equal(augment.blur(images, sigmas), augment.blur(images, sigmas, kernel))


@pytest.mark.parametrize("height, width", [(32, 32), (33, 20), (96, 96), (200, 224)])
def test_rotate_equals_torchvision(height: int, width: int) -> None:
    images, degrees = torch.rand(16, 3, height, width), uniform(-180, 180, 16)
    expected = [
        reference.rotate(image, angle, interpolation=BILINEAR)
        for image, angle in zip(images, degrees.tolist())
    ]
    assert difference(augment.rotate(images, degrees), expected) < ROTATED


def test_rotate_by_quarter_turns_only_moves_pixels() -> None:
    images = torch.rand(4, 2, 24, 24)
    expected = [image.rot90(turns, (1, 2)) for turns, image in enumerate(images)]
    torch.testing.assert_close(
        augment.rotate(images, torch.tensor([0.0, 90, 180, 270])), torch.stack(expected), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("height, width", [(32, 32), (20, 50), (51, 34), (300, 201)])
@pytest.mark.parametrize("size", [16, 32, 47, 224])
def test_fit_equals_torchvision(height: int, width: int, size: int) -> None:
    images = torch.rand(3, 3, height, width)
    evaluation = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    assert difference(augment.fit(images, size), list(evaluation(images))) < LEVEL


def test_fit_of_padded_images_equals_torchvision_on_the_images_alone() -> None:
    sizes = torch.tensor([[40, 64], [64, 33], [10, 10], [64, 64]])
    canvas, evaluation = torch.rand(4, 3, 64, 64), v2.Compose([v2.Resize(24), v2.CenterCrop(24)])
    pairs = zip(canvas, sizes.tolist())
    expected = [evaluation(image[:, :height, :width]) for image, (height, width) in pairs]
    assert difference(augment.fit(canvas, 24, sizes), expected) < LEVEL


def test_fit_leaves_images_of_the_right_size_as_they_are() -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(augment.fit(images, 16), images / 255)
    assert torch.equal(augment.fit(images, 16, torch.tensor([[16, 16], [16, 16]])), images / 255)


def chain(image: Tensor, drawn: ViewParameters, sample: int) -> Tensor:
    """The same view by torchvision, one operation after the other."""
    view = cut(image, drawn.boxes[sample].tolist(), drawn.size)
    if drawn.flip is not None and drawn.flip[sample]:
        view = reference.horizontal_flip(view)
    if drawn.degrees is not None:
        view = reference.rotate(view, drawn.degrees[sample].item(), interpolation=BILINEAR)
    if drawn.order is not None and drawn.factors is not None:
        adjust = (
            reference.adjust_brightness,
            reference.adjust_contrast,
            reference.adjust_saturation,
            reference.adjust_hue,
        )
        for index in drawn.order[sample].tolist():
            if index < 4:
                view = adjust[index](view, drawn.factors[sample, index].item())
    if drawn.gray is not None and drawn.gray[sample]:
        view = reference.rgb_to_grayscale(view, 3)
    if drawn.blurred is not None and drawn.sigmas is not None and drawn.blurred[sample]:
        kernel = 2 * max(drawn.size // 20, 1) + 1
        view = reference.gaussian_blur(view, [kernel] * 2, [drawn.sigmas[sample].item()] * 2)
    if drawn.solarized is not None and drawn.solarized[sample]:
        view = reference.solarize(view, 128 / 255)
    return view


@pytest.mark.parametrize("source, size", [((32, 32), 32), ((60, 90), 32), ((100, 75), 64), ((20, 20), 48)])
@pytest.mark.parametrize("degrees", [0.0, 30.0])
@pytest.mark.parametrize("form", [augment.apply_tensors, fused_views.apply])
def test_whole_chain_equals_torchvision(
    source: tuple[int, int], size: int, degrees: float, form: Callable[[Tensor, ViewParameters], Tensor]
) -> None:
    views = Views(size, jitter=1.0, blur=0.5, solarize=0.2, degrees=degrees)
    images = torch.randint(0, 256, (64, 3, *source), dtype=torch.uint8)
    drawn = views.draw({"image": images})
    expected = [chain(image / 255, drawn, sample) for sample, image in enumerate(images)]
    error = (form(images, drawn) - torch.stack(expected)).abs()
    # A value within the rounding of the threshold may be solarised by one and not by the other.
    border = (1 - 2 * torch.stack(expected)).abs() < 0.01
    assert error[~border].max() < (ROTATED if degrees else LEVEL)
    assert error.max() < 0.01


def test_a_call_applies_what_is_drawn() -> None:
    views, batch = Views(16, blur=0.3, degrees=20), {"image": torch.rand(8, 3, 20, 24)}
    torch.manual_seed(5)
    called = views(batch)
    torch.manual_seed(5)
    assert torch.equal(called, augment.apply(batch["image"], views.draw(batch)))


@pytest.mark.parametrize("crop, crop_max", [(0.08, 1.0), (0.05, 0.14), (0.9, 1.0)])
@pytest.mark.parametrize("height, width", [(64, 64), (60, 100), (150, 40)])
def test_boxes_are_distributed_as_torchvision_draws_them(
    crop: float, crop_max: float, height: int, width: int
) -> None:
    count = 10_000
    ours = augment.random_boxes(torch.tensor([[height, width]]).expand(count, 2), crop, crop_max)
    image = torch.empty(1, height, width)
    draws = [RandomResizedCrop.get_params(image, [crop, crop_max], [3 / 4, 4 / 3]) for _ in range(count // 5)]
    theirs = torch.tensor(draws)

    def statistics(boxes: Tensor) -> Tensor:
        top, left, tall, wide = boxes.double().unbind(1)
        return torch.stack([top, left, tall, wide, tall * wide, (wide / tall).log()], 1)

    ours, theirs = statistics(ours), statistics(theirs)
    errors = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4.5 * errors + 1e-9).all()
    for ordered, other in zip(ours.sort(0).values.T, theirs.sort(0).values.T):
        smaller = torch.searchsorted(ordered.contiguous(), other.contiguous(), right=True) / len(ordered)
        among = torch.searchsorted(other.contiguous(), other.contiguous(), right=True) / len(other)
        assert (smaller - among).abs().max() < 2.0 * math.sqrt(1 / len(ordered) + 1 / len(other))


def test_boxes_stay_inside_and_reach_every_border() -> None:
    sizes = torch.tensor([[5, 9], [1, 1], [40, 2], [3, 70]]).repeat_interleave(5_000, 0)
    boxes = augment.random_boxes(sizes, 0.08)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    first = boxes[:5_000]
    assert (first[:, :2].amin(0) == 0).all() and ((first[:, :2] + first[:, 2:]).amax(0) == sizes[0]).all()


@pytest.mark.parametrize("size, box", [((100, 20), [36, 0, 27, 20]), ((20, 100), [0, 36, 20, 27])])
def test_a_box_that_never_fits_is_central(size: tuple[int, int], box: list[int]) -> None:
    assert augment.random_boxes(torch.tensor([size]), 1.0).tolist() == [box]


def test_jitter_factors_cover_their_ranges_and_all_orders_occur_equally() -> None:
    views = Views(4, jitter=1.0, jitter_probability=0.8)
    drawn = views.draw({"image": torch.zeros(20_000, 3, 4, 4)})
    assert drawn.factors is not None and drawn.order is not None
    low, high = torch.tensor([0.2, 0.2, 0.2, -0.2]), torch.tensor([1.8, 1.8, 1.8, 0.2])
    torch.testing.assert_close(drawn.factors.amin(0), low, atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn.factors.amax(0), high, atol=1e-3, rtol=0)
    torch.testing.assert_close(drawn.factors.mean(0), (low + high) / 2, atol=0.02, rtol=0)
    changed = drawn.order[:, 0] < 4
    assert abs(changed.float().mean() - 0.8) < 0.015
    assert (drawn.order[~changed] == 4).all()
    orders, counts = drawn.order[changed].unique(dim=0, return_counts=True)
    assert len(orders) == 24 and (orders.sort(1).values == torch.arange(4)).all()
    assert ((counts - counts.float().mean()).abs() < 150).all()


def test_strengths_given_by_name_replace_those_of_jitter() -> None:
    views = Views(4, jitter=0.5, saturation=0.2, hue=0.1)
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.4, 0.4, 0.2, 0.1)


@pytest.mark.parametrize("name", ["gray", "blur", "solarize", "flip"])
def test_probabilities_are_kept(name: str) -> None:
    drawn = Views(4, **{name: 0.3}).draw({"image": torch.zeros(10_000, 3, 4, 4)})
    mask = getattr(drawn, {"blur": "blurred", "solarize": "solarized"}.get(name, name))
    assert abs(mask.float().mean() - 0.3) < 0.02


def test_samples_are_drawn_independently_and_calls_differ() -> None:
    batch = {"image": torch.rand(1, 3, 24, 24).expand(32, -1, -1, -1)}
    views = Views(16, degrees=10, blur=0.5)
    first, second = views(batch), views(batch)
    both = torch.cat([first, second]).flatten(1)
    distances = torch.cdist(both, both) + torch.eye(64)
    assert distances.min() > 1e-3
    drawn = views.draw({"image": torch.zeros(5_000, 3, 24, 24)})
    assert drawn.factors is not None
    masks = drawn.flip, drawn.gray, drawn.blurred
    numbers = [drawn.boxes[:, 0], drawn.degrees, *drawn.factors.T, drawn.sigmas, *masks]
    correlations = torch.corrcoef(torch.stack([torch.as_tensor(number).float() for number in numbers]))
    assert (correlations - torch.eye(len(numbers))).abs().max() < 0.07


def test_seed_repeats_the_views() -> None:
    views, batch = Views(16, blur=0.5, solarize=0.2, degrees=10), {"image": torch.rand(8, 3, 16, 16)}
    torch.manual_seed(3)
    first = views(batch)
    torch.manual_seed(3)
    assert torch.equal(first, views(batch))


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    views, images = Views(16, blur=0.5, solarize=0.3, degrees=10), torch.rand(8, 3, 20, 20)
    drawn = views.draw({"image": images})
    whole = augment.apply(images, drawn)
    images[1:] = 1 - images[1:]
    assert torch.equal(augment.apply(images, drawn)[0], whole[0])


def test_identity_parameters_give_the_images_back() -> None:
    images = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8)
    neutral = Views(20, crop=1.0, jitter=0, gray=0, flip=0)
    assert torch.equal(neutral({"image": images}), images / 255)
    order = torch.arange(4).expand(6, 4)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(6, 4)
    assert (augment.color_jitter(images / 255, factors, order) - images / 255).abs().max() < 1e-6
    untouched = augment.color_jitter(images / 255, torch.rand(6, 4), torch.full((6, 4), 4))
    assert torch.equal(untouched, images / 255)
    assert (augment.rotate(images / 255, torch.zeros(6)) - images / 255).abs().max() < 1e-5


def test_flip_leaves_symmetric_images_and_mirrors_others() -> None:
    images = torch.rand(4, 1, 12, 12)
    boxes, flip = torch.tensor([[0, 0, 12, 12]]).expand(4, 4), torch.tensor([True, False, True, False])
    symmetric = (images + images.flip(3)) / 2
    assert torch.equal(augment.crop_resize(symmetric, boxes, 12, flip), symmetric)
    mirrored = torch.where(flip[:, None, None, None], images.flip(3), images)
    assert torch.equal(augment.crop_resize(images, boxes, 12, flip), mirrored)


def test_inputs_are_left_as_they_were() -> None:
    images = torch.rand(8, 3, 16, 16)
    before = images.clone()
    Views(16, jitter=1, gray=0.5, blur=0.5, solarize=0.5, crop=1.0)({"image": images})
    for name in ("brightness", "contrast", "saturation", "hue", "blur"):
        getattr(augment, name)(images, torch.full((8,), 0.4))
    augment.color_jitter(images, torch.full((8, 4), 0.4), torch.arange(4).expand(8, 4))
    augment.solarize(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_other_channel_counts_keep_their_saturation_and_hue(channels: int) -> None:
    images, values = torch.rand(5, channels, 18, 18), torch.full((5,), 0.3)
    for operation in (partial(augment.saturation, factors=values), partial(augment.hue, turns=values)):
        assert (operation(images) - images).abs().max() < 1e-6
    assert torch.equal(augment.grayscale(images), images)
    mean = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(augment.contrast(images, values), 0.3 * images + 0.7 * mean)
    views = Views(16, blur=0.5, solarize=0.3, degrees=10)({"image": images})
    assert views.shape == (5, channels, 16, 16) and views.min() >= 0 and views.max() <= 1


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_one_channel_equals_torchvision(name: str) -> None:
    images, values = torch.rand(6, 1, 18, 18), torch.full((6,), 0.4)
    expected = list(getattr(reference, f"adjust_{name}")(image, 0.4) for image in images)
    assert difference(getattr(augment, name)(images, values), expected) < LEVEL


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_padding_is_never_seen(dtype: torch.dtype) -> None:
    sizes = torch.randint(1, 40, (300, 2))
    inside = (torch.arange(40)[:, None] < sizes[:, 0, None, None]) & (
        torch.arange(40) < sizes[:, 1, None, None]
    )
    canvas = torch.where(inside[:, None], 0, 255).expand(-1, 3, -1, -1).to(torch.uint8)
    canvas = canvas if dtype == torch.uint8 else canvas / 255 * 1e6
    batch = {"image": canvas, "size": sizes}
    for views in (Views(16, jitter=0, gray=0), Views(48, jitter=0, gray=0.5, blur=1, degrees=45)):
        assert (views(batch) == 0).all()
    assert (augment.fit(canvas, 16, sizes) == 0).all()


def test_padded_images_are_seen_whole() -> None:
    sizes = torch.tensor([[10, 14]]).expand(4_000, 2)
    boxes = augment.random_boxes(sizes, 0.08)
    assert (boxes[:, :2] + boxes[:, 2:]).amax(0).tolist() == [10, 14]


def test_crops_of_another_size_and_area_come_from_the_same_views() -> None:
    views, batch = Views(32, crop=0.14), {"image": torch.rand(6, 3, 40, 40)}
    assert views(batch, size=12, crop=0.05, crop_max=0.14).shape == (6, 3, 12, 12)
    drawn = views.draw({"image": torch.empty(2_000, 3, 100, 100)}, crop=0.05, crop_max=0.14)
    shares = drawn.boxes[:, 2:].prod(1) / 100**2
    assert drawn.size == 32 and shares.min() > 0.045 and shares.max() < 0.145


def test_uint8_and_float_images_agree() -> None:
    images, views = torch.randint(0, 256, (6, 3, 24, 24), dtype=torch.uint8), Views(16, blur=0.5, degrees=10)
    drawn = views.draw({"image": images})
    assert torch.equal(augment.apply_tensors(images, drawn), augment.apply(images / 255, drawn))


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.05), (torch.float64, 1e-4)])
def test_the_precision_of_float_images_is_kept(dtype: torch.dtype, tolerance: float) -> None:
    images, views = torch.rand(8, 3, 24, 24), Views(16, hue=0, blur=0.5, degrees=10)
    drawn = views.draw({"image": images})
    other = augment.apply(images.to(dtype), drawn)
    assert other.dtype == dtype
    assert (other.float() - augment.apply(images, drawn)).abs().mean() < tolerance


def test_autocast_does_not_touch_the_views() -> None:
    images = torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8)
    drawn = Views(16, blur=1.0, solarize=0.3, degrees=10).draw({"image": images})
    expected, fitted = augment.apply_tensors(images, drawn), augment.fit(images, 16)
    fused = augment.apply(images, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment.apply_tensors(images, drawn), expected)
        assert torch.equal(augment.apply(images, drawn), fused)
        assert torch.equal(augment.fit(images, 16), fitted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_cpu() -> None:
    images, views = torch.randint(0, 256, (64, 3, 60, 90), dtype=torch.uint8), Views(32, blur=0.5, degrees=10)
    drawn = views.draw({"image": images})
    fields: dict[str, Any] = {
        name: x.cuda() if isinstance(x, Tensor) else x for name, x in vars(drawn).items()
    }
    other = augment.apply(images.cuda(), ViewParameters(**fields)).cpu()
    assert (other - augment.apply(images, drawn)).abs().max() < 100 * LEVEL
    assert views({"image": images.cuda(), "size": torch.tensor([[50, 70]]).expand(64, 2).cuda()}).is_cuda


def test_an_operation_that_is_drawn_for_no_sample_changes_nothing() -> None:
    images = torch.rand(1, 3, 16, 16)
    batch = {"image": images.expand(40, -1, -1, -1)}
    tiny = 1e-9
    views = Views(
        16, crop=1.0, jitter_probability=tiny, gray=tiny, blur=tiny, solarize=tiny, flip=tiny, degrees=0
    )
    assert torch.equal(views(batch), batch["image"])


@pytest.mark.parametrize(
    "name, value",
    [
        ("size", 0),
        ("crop", 0.0),
        ("crop", 1.5),
        ("crop", math.nan),
        ("crop_max", 1.5),
        ("crop_max", 0.01),
        ("jitter", -1.0),
        ("jitter", math.nan),
        ("jitter", 3.0),
        ("jitter_probability", 1.1),
        ("brightness", -0.1),
        ("contrast", -0.1),
        ("saturation", math.nan),
        ("hue", 0.6),
        ("gray", 1.5),
        ("blur", -0.1),
        ("solarize", 2),
        ("flip", math.nan),
        ("degrees", -1.0),
        ("degrees", 181.0),
    ],
)
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b.* must be .*, got"):
        Views(**({"size": 8} | {name: value}))


def test_bad_values_of_a_call_are_refused_by_name() -> None:
    views, batch = Views(8), {"image": torch.rand(2, 3, 8, 8)}
    with pytest.raises(ValueError, match=r"crop must be above 0, got 0"):
        views(batch, crop=0)
    with pytest.raises(ValueError, match=r"crop_max must be at least 0.5, got 0.2"):
        views(batch, crop=0.5, crop_max=0.2)


def test_aspect_one_draws_squares_from_any_photo():
    boxes = augment.random_boxes(torch.tensor([[40, 120]]).expand(500, 2), 0.1, aspect=1.0)
    assert torch.equal(boxes[:, 2], boxes[:, 3]) and boxes[:, 2].max() <= 40
    with pytest.raises(ValueError, match=r"aspect must be at least 1, got 0\.5"):
        augment.Views(8, aspect=0.5)
