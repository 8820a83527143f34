"""Jigsaw: tiles in the right order, and no way to the answer but their content."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders
from unlabeled.methods.jigsaw import Jigsaw
from unlabeled.parts import patches


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Fixed(nn.Module):
    """An encoder without weights that remembers what it saw."""

    dim, in_channels, image_size = 12, 3, 24

    def inputs(self, batch):
        return batch["image"].float() / 255

    def forward(self, x):
        self.seen = x
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def batch(samples: int = 6, size: int = 24) -> dict[str, torch.Tensor]:
    return {"image": torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8)}


def train(method: Jigsaw, images: torch.Tensor, steps: int) -> float:
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = method({"image": images})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


@pytest.mark.parametrize("permutations, grid", [(9, 3), (64, 3), (1000, 3), (24, 2)])
def test_step_zero_is_at_chance(permutations, grid):
    method = Jigsaw(Fixed(), permutations=permutations, grid=grid)
    assert method(batch()).item() == pytest.approx(math.log(permutations), abs=1e-2)
    assert method.chance(6) == pytest.approx(math.log(permutations))
    assert method.state_dict()["permutations"].shape == (permutations, grid**2)


def test_loss_equals_a_slow_twin_with_the_permutation_from_the_slides():
    encoder = Fixed()
    method = Jigsaw(encoder, permutations=64, tile_ratio=1.0, crop=1.0, gray=0.0, head_dim=16).eval()
    method.permutations[63] = torch.tensor([9, 4, 6, 8, 3, 2, 5, 1, 7]) - 1
    nn.init.normal_(method.head[-1].weight)  # type: ignore[arg-type]
    images = batch(3)
    torch.manual_seed(5)
    loss = method(images)
    seen = encoder.seen.view(3, 9, 3, 8, 8)
    cells = patches.standardize(patches.cells(images["image"].float() / 255, 3).flatten(0, 1), 0.5, 0.25)
    cells = cells.view(3, 9, 3, 8, 8)
    total = 0.0
    for image in range(3):
        matching = [
            number
            for number, permutation in enumerate(method.permutations)
            if torch.allclose(cells[image][permutation], seen[image], atol=1e-4)
        ]
        assert len(matching) == 1  # tiles are permuted before the encoder, and one label fits
        vector = torch.cat([encoder(cells[image, j][None])[0] for j in method.permutations[matching[0]]])
        logits = method.head(vector[None])[0].detach()
        total -= float(logits[matching[0]] - torch.logsumexp(logits, 0)) / 3
    assert loss.item() == pytest.approx(total, rel=1e-4)
    puzzle = patches.permute(cells[:1], method.permutations[63:])
    assert torch.equal(puzzle[0, 0], cells[0, 8]) and torch.equal(puzzle[0, 7], cells[0, 0])


@pytest.mark.parametrize("tile_size, side", [(None, 7), (4, 4), (20, 20)])
def test_encoder_sees_tiles_of_equal_brightness_and_contrast(tile_size, side):
    encoder = Fixed()
    Jigsaw(encoder, gray=0.0, tile_size=tile_size)(batch(4))
    assert encoder.seen.shape == (36, 3, side, side)
    torch.testing.assert_close(encoder.seen.mean(dim=(2, 3)), torch.full((36, 3), 0.5), atol=1e-4, rtol=0)
    deviation = encoder.seen.std(dim=(2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.full((36, 3), 0.25), atol=1e-4, rtol=0)


def test_tiles_of_small_images_keep_room_for_a_random_place():
    class Small(Fixed):
        image_size = 12

    assert Jigsaw(Small()).cut == 3
    assert Jigsaw(Small(), tile_ratio=1.0).cut == 4
    Small.image_size = 8
    with pytest.raises(ValueError, match="image_size must be at least 12, got 8"):
        Jigsaw(Small())


def test_images_make_several_different_puzzles():
    encoder = Fixed()
    Jigsaw(encoder, puzzles=3)(batch(2))
    puzzles = encoder.seen.view(3, 2, 9, -1)
    assert not torch.equal(puzzles[0], puzzles[1])


def test_share_of_images_is_gray():
    encoder = Fixed()
    Jigsaw(encoder, gray=0.3, normalize=False)(batch(400))
    seen = encoder.seen.view(400, 9, 3, 7, 7)
    gray = (seen[:, :, 0] - seen[:, :, 1]).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert gray.float().mean().item() == pytest.approx(0.3, abs=0.08)


class Borders(Fixed):
    """An encoder that sees nothing but how bright the border is, at four places of each side."""

    dim, in_channels = 16, 1

    def forward(self, x):
        sides = torch.cat([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], dim=1)
        return 4 * F.adaptive_avg_pool1d(sides, 4).flatten(1) - 2


def test_texture_that_continues_over_the_seams_is_a_shortcut_which_gaps_close():
    """Images of blurred noise have no layout: only the seams tell in which order their tiles were."""

    def last_loss(tile_ratio: float) -> float:
        torch.manual_seed(0)
        method = Jigsaw(Borders(), permutations=2, grid=2, tile_ratio=tile_ratio, crop=1.0, head_dim=128)
        optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
        losses = []
        for _ in range(150):
            optimizer.zero_grad()
            losses.append(method({"image": F.avg_pool2d(torch.rand(128, 1, 26, 26), 3, stride=1)}))
            losses[-1].backward()
            optimizer.step()
        return torch.stack(losses[-20:]).mean().item()

    assert last_loss(1.0) < 0.45
    assert last_loss(0.85) > math.log(2) - 0.05


def test_brightness_that_tells_the_position_is_a_shortcut_which_normalisation_closes():
    """Cells without content, each as bright as its position says: only brightness could solve the puzzle."""
    ramp = torch.linspace(20, 230, 9).view(1, 9, 1, 1, 1).expand(16, 9, 3, 8, 8)
    images = patches.assemble(ramp, 3).to(torch.uint8)
    leaky = Jigsaw(
        encoders.build("conv4", image_size=24),
        permutations=9,
        crop=1.0,
        normalize=False,
        tile_ratio=1.0,
        head_dim=64,
    )
    assert train(leaky, images, 20) < 0.7
    guarded = Jigsaw(encoders.build("conv4", image_size=24), permutations=9, crop=1.0, head_dim=64)
    assert train(guarded, images, 20) > math.log(9) - 0.1


def test_vit_gets_tiles_of_its_own_size():
    method = Jigsaw(encoders.build("vit-small", image_size=32), grid=2, permutations=12, head_dim=16)
    assert method.tile_size == 32
    assert method(batch(2, 32)).isfinite()


def test_pictures_put_the_tiles_back_by_the_prediction():
    method = Jigsaw(Fixed(), permutations=9, tile_ratio=1.0, crop=1.0, gray=0.0).eval()
    nn.init.zeros_(method.head[-1].weight)  # type: ignore[arg-type] # always answers the first permutation
    shown = method.pictures(batch(8))
    assert all(picture.shape == (8, 3, 24, 24) for picture in shown.values())
    first = method.permutations[0]
    back = patches.permute(patches.cells(shown["shuffled"], 3), first.argsort().expand(8, 9))
    assert torch.equal(shown["put back"], patches.assemble(back, 3))
    torch.testing.assert_close(shown["image"].sum(), shown["shuffled"].sum())


@pytest.mark.parametrize(
    "name, value",
    [
        ("permutations", 1),
        ("grid", 1),
        ("tile_ratio", 0.0),
        ("tile_ratio", 1.1),
        ("tile_size", 0),
        ("gray", -1.0),
        ("puzzles", 0),
        ("head_dim", 0),
        ("crop", 2.0),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Jigsaw(Fixed(), **{name: value})
