"""CPC: the loss against a slow twin, what a prediction may depend on, and what is learned."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.kernels.compat import BATCH_NORMS
from unlabeled.methods.cpc import CPC, loss
from unlabeled.parts import patches


def build(network: str = "conv4", **options) -> CPC:
    torch.manual_seed(0)
    options = {"grid": 4, "skip": 1, "ahead": 1, "context_dim": 8, "blocks": 3, "target_dim": 8} | options
    method = CPC(encoders.build(network, image_size=20), **options)
    method.prepare(open_data(images(24)))
    return method


def images(count: int = 6, seed: int = 0) -> Tensor:
    """Vertical stripes of an own colour and width, so that rows tell what is below."""
    generator = torch.Generator().manual_seed(seed)
    color, wave = (
        torch.rand(count, 3, 1, 1, generator=generator),
        torch.rand(count, 1, 1, generator=generator),
    )
    stripes = torch.sin(torch.arange(20) * (0.3 + 2 * wave)).expand(count, 20, 20)[:, None]
    return (255 * (0.5 + 0.5 * color * stripes)).to(torch.uint8)


def rows(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow(predictions: Tensor, targets: Tensor, distance: int, scale: float) -> Tensor:
    """Row by row, with the number of the right target among all: image, then row, then column."""
    batch, height, width, _ = targets.shape
    everyone, terms = targets.reshape(batch * height * width, -1), []
    for image in range(batch):
        for row in range(height - distance):
            for column in range(width):
                scores = everyone @ predictions[image, row, column] * scale
                label = image * height * width + (row + distance) * width + column
                terms.append(-F.log_softmax(scores, 0)[label])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_value_and_gradient_are_those_of_a_loop_over_patches(distance: int) -> None:
    predictions, targets = rows(2, 4, 3, 5).requires_grad_(), rows(2, 4, 3, 5, seed=2).requires_grad_()
    fast, expected = (form(predictions, targets, distance, 0.7) for form in (loss, slow))
    torch.testing.assert_close(fast, expected)
    found, wanted = (torch.autograd.grad(value, (predictions, targets)) for value in (fast, expected))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 1e-3


@pytest.mark.parametrize(("batch", "grid", "value"), [(16, 7, 6.6644), (32, 6, 7.0493)])
def test_equal_scores_have_the_chance_loss(batch: int, grid: int, value: float) -> None:
    ones = torch.ones(batch, grid, grid, 2, dtype=torch.float64)
    chance = build(grid=grid).chance(batch)
    assert loss(ones, ones, 2, 0.1).item() == pytest.approx(chance) == pytest.approx(value, abs=5e-5)


def test_target_is_the_patch_in_the_same_column_that_many_rows_below() -> None:
    targets = torch.eye(24, dtype=torch.float64).view(2, 4, 3, 24)
    for distance in (1, 2):
        right = targets.roll(-distance, 1)
        assert loss(right, targets, distance, 50.0).item() == pytest.approx(0, abs=1e-9)
        assert loss(right, targets, 3 - distance, 50.0).item() == pytest.approx(50, abs=1e-6)


def test_predictions_do_not_change_with_the_pixels_below() -> None:
    method = build(grid=4).train()
    shown = torch.rand(3, 3, 20, 20)
    changed = shown.clone()
    changed[:, :, 12:] = torch.rand(3, 3, 8, 20)  # rows of patches end at 8, 12, 16 and 20
    first, second = (
        method.targets_and_predictions(method.codes(patches.overlapping(x, 4))) for x in (shown, changed)
    )
    for before, after in zip(first[1], second[1], strict=True):
        assert torch.equal(before[:, :2], after[:, :2]) and not torch.equal(before[:, 2:], after[:, 2:])


def test_no_patch_depends_on_another_image_as_it_would_by_batch_statistics() -> None:
    method = build().train()
    tiles = patches.overlapping(torch.rand(3, 3, 20, 20), 4)
    other = tiles.clone()
    other[16:] = torch.rand(32, 3, 8, 8)
    assert torch.equal(method.codes(tiles)[0], method.codes(other)[0])
    method.encoder.train()
    assert not torch.allclose(method.codes(tiles)[0], method.codes(other)[0], rtol=1e-3)


def test_norms_have_the_statistics_of_patches_and_keep_them() -> None:
    method = build(crop=1.0, flip=0.0)
    seen: list[Tensor] = []
    changed = method.patch_views

    def watched(batch: dict[str, Tensor]) -> Tensor:
        seen.append(changed(batch))
        return seen[-1]

    method.patch_views = watched  # type: ignore[assignment]
    data = open_data(images(24))
    method.prepare(data)
    (tiles,) = seen  # cropped and in colours of their own, as in training
    assert tiles.shape == (24 * 16, 3, 8, 8)
    assert not torch.allclose(tiles, patches.overlapping(images(24) / 255, 4), atol=0.1)
    if method.patch_size is not None:
        tiles = F.interpolate(tiles, method.patch_size, mode="bilinear", antialias=True)
    norm = method.encoder.trunk["s1"][1]
    maps = method.encoder.trunk["s1"][0](method.encoder.adapt(tiles))
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)).detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)).detach(), rtol=1e-3, atol=1e-4)
    before = {name: value.clone() for name, value in method.encoder.named_buffers()}
    method.train()({"image": images()})
    assert all(torch.equal(value, before[name]) for name, value in method.encoder.named_buffers())
    norms = [part for part in method.modules() if isinstance(part, BATCH_NORMS)]
    assert norms and not any(part.training for part in norms) and method.encoder.training
    assert all(part.momentum == 0.1 for part in norms)


def test_each_patch_has_colours_of_its_own() -> None:
    method = build(crop=1.0, flip=0.0, jitter=1.0, gray=0.0)
    seen: list[Tensor] = []
    method.encoder.adapt.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method({"image": torch.full((2, 3, 20, 20), 100, dtype=torch.uint8)})
    means = seen[0].mean((1, 2, 3))
    assert len(seen[0]) == 32 and len(means.round(decimals=4).unique()) > 16


def test_grids_without_rows_to_predict_are_refused() -> None:
    with pytest.raises(ValueError, match=r"skip \+ ahead must be below grid \(4\), got 2 \+ 2"):
        build(skip=2, ahead=2)
    with pytest.raises(ValueError, match="image_size must be at least 31"):
        build(grid=30)


def test_pictures_show_the_visible_rows_and_below_them_patches_of_the_images_shown() -> None:
    method = build(grid=4, ahead=2)
    pictures = method.pictures({"image": images()})
    assert list(pictures) == ["image", "visible", "predicted"]
    assert all(picture.shape == (6, 3, 16, 16) for picture in pictures.values())
    assert torch.equal(pictures["visible"][:, :, :4], pictures["image"][:, :, :4])
    assert (pictures["visible"][:, :, 4:] == 0.5).all() and (pictures["predicted"][:, :, 4:8] == 0.5).all()
    cells = patches.cells(pictures["image"], 4).flatten(0, 1)
    for cell in patches.cells(pictures["predicted"], 4)[:, 8:].flatten(0, 1):
        assert (cells == cell).flatten(1).all(1).any()


def gain(wrong: bool) -> float:
    """How far the loss on new images is below chance, after a training with rows of one image or of several."""
    method = build(jitter=0.2, gray=0.0, crop=0.8, patch_crop=0.8)
    changed = method.patch_views

    def mixed(batch: dict[str, Tensor]) -> Tensor:
        """The last two rows of patches, which are predicted, from other images."""
        tiles = changed(batch).unflatten(0, (-1, 4, 4))
        return torch.cat([tiles[:, :2], tiles[torch.randperm(len(tiles)), 2:]], 1).flatten(0, 2)

    if wrong:
        method.patch_views = mixed  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(20):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method({"image": images(8, seed=step)}).backward()
        optimizer.step()
    with torch.no_grad():
        return method.chance(8) - method({"image": images(8, seed=99)}).item()


def test_rows_below_are_predicted_but_not_if_they_are_from_other_images() -> None:
    assert gain(wrong=False) > 0.2
    assert gain(wrong=True) < 0.1


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": images(4)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and math.isfinite(method.chance(4))
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
