"""PIRL: a step against its formula, what is shuffled and what is stored; the bank is tested in tests/parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.pirl import PIRL
from unlabeled.parts import patches
from unlabeled.parts.memory_bank import softmax


def build(samples: int = 20, **options) -> PIRL:
    torch.manual_seed(0)
    method = PIRL(encoders.build("conv4", image_size=12), **{"projection_dim": 8} | options)
    method.prepare(range(samples))  # type: ignore[arg-type]
    return method


def images(count: int = 20, size: int = 12) -> Tensor:
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(count))
    return (F.interpolate(coarse, size, mode="bilinear") * 255).to(torch.uint8)


def batch(*index: int) -> dict[str, Tensor]:
    rows = torch.tensor(index)
    return {"image": images()[rows], "index": rows}


def give(method: PIRL) -> PIRL:
    """Views and tiles that are not random: the image, and its cells in order."""
    method.views = lambda batch: batch["image"] / 255  # type: ignore[assignment]
    method.tiles = lambda batch: patches.cells(batch["image"] / 255, 3)  # type: ignore[method-assign]
    return method


def test_value_and_gradient_are_the_weighted_recognition_of_view_and_tiles_with_the_bank_before_the_step() -> (
    None
):
    method, given = give(build(puzzle_weight=0.3)), batch(7, 3, 11)
    method.eval()  # so that tiles can be encoded one by one
    before, pixels = method.bank.rows.clone(), given["image"] / 255
    whole = F.normalize(method.head(method.encoder(pixels)), dim=1)
    puzzles = []
    for image in pixels:
        codes = []
        for row in range(3):
            for column in range(3):
                tile = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                tile = F.interpolate(tile[None], method.tile_size, mode="bilinear")
                codes.append(method.tile_head(method.encoder(tile))[0])
        puzzles.append(F.normalize(method.joint_head(torch.cat(codes)), dim=0))
    both = [softmax(x, before, given["index"], 0.1) for x in (whole, torch.stack(puzzles))]
    expected = 0.7 * both[0] + 0.3 * both[1]
    value = method(given)
    torch.testing.assert_close(value, expected)
    weights = [method.head[0].weight, method.tile_head[0].weight, method.encoder.trunk["s1"][0].weight]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights) for x in (value, expected))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert ours.abs().max() > 1e-5


def test_only_vectors_of_views_are_stored_and_only_in_training() -> None:
    method, given = give(build()), batch(7, 3, 11)
    before = method.bank.rows.clone()
    method.eval()(given)
    assert torch.equal(method.bank.rows, before)
    whole = F.normalize(method.train().head(method.encoder(given["image"] / 255)), dim=1)
    method(given)
    torch.testing.assert_close(
        method.bank.rows[given["index"]], F.normalize((before[given["index"]] + whole) / 2, dim=1)
    )
    rest = [number for number in range(20) if number not in (3, 7, 11)]
    assert torch.equal(method.bank.rows[rest], before[rest])


def test_tiles_are_those_of_the_image_in_random_order() -> None:
    method = build(jitter=0.0, gray=0.0, flip=0.0, tile_crop=1.0, tile_ratio=1.0)
    given = {"image": images(30)}
    cells = patches.cells(given["image"] / 255, 3)
    torch.manual_seed(1)
    tiles = method.tiles(given)
    distances = (tiles[:, :, None] - cells[:, None]).abs().flatten(3).amax(3)
    smallest, order = distances.min(2)
    assert smallest.max() < 1e-5  # every tile is a cell of its image
    assert torch.equal(order.sort(1).values, torch.arange(9).expand(30, 9))
    assert len(order.unique(dim=0)) == 30  # and each image has another order
    torch.testing.assert_close(patches.permute(tiles, order.argsort(1)), cells)


def test_each_tile_has_its_own_colours_and_flip() -> None:
    gradient = torch.linspace(60, 190, 12).expand(1, 3, 12, 12).to(torch.uint8)
    method = build(jitter=0.0, gray=0.0, flip=0.5, tile_ratio=1.0)
    tiles = method.tiles({"image": gradient.repeat(50, 1, 1, 1)}).flatten(0, 1)
    rising = tiles[:, 0, 0, -1] > tiles[:, 0, 0, 0]
    assert 0.4 < rising.float().mean() < 0.6
    colored = build(flip=0.0, gray=0.0, jitter=1.0).tiles({"image": gradient})[0]
    assert len(colored.mean((1, 2, 3)).unique()) > 5


def test_the_order_of_the_tiles_reaches_the_head() -> None:
    method = build().eval()
    tiles = torch.rand(2, 9, 3, 3, 3)
    other = method.puzzle_vectors(tiles.flip(1))
    assert not torch.allclose(method.puzzle_vectors(tiles), other, atol=1e-3)
    torch.testing.assert_close(other.norm(dim=1), torch.ones(2))


def test_no_gradient_reaches_the_bank_and_the_constant_stays() -> None:
    method = build(negatives=10)
    method(batch(0, 5, 6)).backward()
    constant = method.bank.log_constant.clone()
    method(batch(0, 1, 2))
    assert not method.bank.rows.requires_grad
    assert constant.isfinite() and torch.equal(method.bank.log_constant, constant)


@pytest.mark.parametrize(("negatives", "value"), [(0, 2.9957), (32_000, 11.3735)])
def test_chance_is_the_loss_of_equal_vectors(negatives: int, value: float) -> None:
    method = give(build(negatives=negatives))
    assert method.chance(2) == pytest.approx(value, abs=5e-5)
    method.bank.rows.copy_(F.normalize(torch.ones(20, 8), dim=1))
    with torch.no_grad():
        for layer in (method.head[0], method.joint_head):
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    assert method(batch(0, 1)).item() == pytest.approx(method.chance(2), abs=1e-3)


def test_chance_is_unknown_before_the_bank_is_filled() -> None:
    method = PIRL(encoders.build("conv4", image_size=12))
    assert method.chance(2) is None
    with pytest.raises(ValueError, match="memory bank must be filled first"):
        method(batch(0))


def recognised(wrong: bool) -> float:
    """Fraction of images recognised from new shuffled tiles, perhaps after numbers have changed owners in each step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 32), nn.ReLU())
    method = PIRL(encoders.wrap(network, image_size=12), projection_dim=8, tile_size=4)
    method.prepare(range(20))  # type: ignore[arg-type]
    method.views = lambda batch: batch["image"] + 0.05 * torch.randn_like(batch["image"])  # type: ignore
    method.tiles = lambda batch: patches.permute(  # type: ignore[method-assign]
        patches.cells(method.views(batch), 3), torch.rand(len(batch["image"]), 9).argsort(1)
    )
    given = {"image": torch.rand(20, 3, 1, 1) + 0.2 * torch.rand(20, 3, 12, 12), "index": torch.arange(20)}
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        method(given | {"index": torch.randperm(20)} if wrong else given).backward()
        optimizer.step()
    vectors = method.puzzle_vectors(method.tiles(given))
    return ((vectors @ method.bank.rows.T).argmax(1) == given["index"]).float().mean().item()


def test_images_are_recognised_from_shuffled_tiles_but_not_under_changing_numbers() -> None:
    assert recognised(wrong=False) > 0.7 > 0.3 > recognised(wrong=True)


def test_pictures_show_the_image_nearest_to_the_tiles() -> None:
    method = build().eval()
    pictures = method.pictures({"image": images(4)})
    assert list(pictures) == ["image", "shuffled tiles", "nearest image"]
    assert pictures["shuffled tiles"].shape == (4, 3, 15, 15)  # tiles of 3 pixels with a border


@pytest.mark.parametrize("negatives", [0, 10])
def test_training_step_in_bfloat16_is_finite(negatives: int) -> None:
    method = build(temperature=0.04, negatives=negatives)
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch(1, 2, 3, 4))
    value.backward()
    assert value.dtype == method.bank.rows.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
