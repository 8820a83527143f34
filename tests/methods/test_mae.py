"""MAE: the loss as a slow loop computes it, what stays hidden, and images in which nothing can be filled in."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.mae import MAE


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(channels: int = 1, gap: bool = True, **options) -> MAE:
    """The method with one block on 8 x 8 patches of 2 x 2 pixels."""
    trunk = vit_small(channels, 16, blocks=1, width=48, gap=gap)
    config = {"name": "own", "in_channels": channels, "image_size": 16}
    plain = {"crop": 1.0, "flip": 0.0, "decoder_dim": 32}
    return MAE(ImageEncoder(Adapt("color", channels), trunk, config), **plain | options)


def give(method: MAE, visible: Tensor, hidden: Tensor) -> MAE:
    method.mask = lambda images: (visible, hidden)  # type: ignore[method-assign]
    return method


def planes(samples: int) -> Tensor:
    """A brightness that rises evenly in one direction: any part of it tells the rest."""
    slope = (torch.rand(samples, 2, 1, 1) - 0.5) / 16
    line = torch.arange(16) - 7.5
    return 0.5 + slope[:, :1] * line + slope[:, 1:] * line[:, None]


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 1, 16, 16)


def trained(method: MAE, world, steps: int) -> float:
    """Loss on 200 new images after a short training, divided by that of predicting the mean."""
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"image": world(32)}).backward()
        optimizer.step()
    with torch.no_grad():
        return method({"image": world(200)}).item() / (3 / 4)


def patch(image: Tensor, number: int) -> Tensor:
    """A patch of 2 x 2 pixels of an image of 16 x 16, (channels, 2, 2)."""
    row, column = 2 * (number // 8), 2 * (number % 8)
    return image[:, row : row + 2, column : column + 2]


def concealed(hidden: Tensor) -> Tensor:
    """Pixels of hidden patches, bool, shape (batch, 1, 16, 16)."""
    cells = torch.zeros(len(hidden), 64, dtype=torch.bool).scatter(1, hidden, True).view(-1, 1, 8, 8)
    return cells.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("gap", [True, False])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(gap: bool) -> None:
    method = small(2, gap=gap).double()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    images = torch.rand(3, 2, 16, 16).double()
    visible, hidden = method.mask(images)
    give(method, visible, hidden)
    model, rows = method.encoder.trunk.model, []
    for image, seen in zip(images, visible.tolist()):
        filters, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
        tokens = [] if gap else [model.cls_token[0, 0] + model.pos_embed[0, 0]]
        for number in seen:
            answer = [(one * (patch(image, number) - 0.5) / 0.25).sum() for one in filters]
            tokens.append(torch.stack(answer) + bias + model.pos_embed[0, number + (not gap)])
        rows.append(torch.stack(tokens))
    tokens = model.norm(model.blocks(torch.stack(rows)))[:, 0 if gap else 1 :]
    answers = method.decoder(tokens, visible, hidden, (8, 8))
    slow = torch.zeros((), dtype=torch.double)
    for image, asked, answer in zip(images, hidden.tolist(), answers):
        for number, predicted in zip(asked, answer):
            values = patch(image, number).flatten()
            mean = values.sum() / 8
            deviation = ((values - mean).square().sum() / 7).sqrt() + 1e-6
            slow = slow + ((predicted - (values - mean) / deviation) ** 2).sum() / (3 * 48 * 8)
    fast = method({"image": images})
    torch.testing.assert_close(fast, slow)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (fast, slow))):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("mask", "count"), [(0.75, 48), (0.6, 38), (0.02, 1), (0.999, 63)])
def test_exactly_as_many_patches_are_hidden_and_all_equally_often(mask: float, count: int) -> None:
    visible, hidden = small(mask=mask).mask(torch.zeros(4000))
    assert visible.shape == (4000, 64 - count) and hidden.shape == (4000, count)
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(64).expand(4000, -1))
    often = hidden.flatten().bincount(minlength=64) / 4000
    assert (often - count / 64).abs().max() < 4.5 * math.sqrt(count / 64 * (1 - count / 64) / 4000)


def test_the_encoder_sees_the_visible_patches_alone_and_nothing_visible_counts() -> None:
    method, images = small(), torch.rand(3, 1, 16, 16)
    visible, hidden = method.mask(images)
    give(method, visible, hidden)
    place, seen = concealed(hidden), []
    method.encoder.trunk.model.blocks[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    answers = [method.predict(x, visible, hidden) for x in (images, torch.where(place, 9.0, images))]
    assert torch.equal(seen[0], seen[1]) and torch.equal(*answers) and seen[0].shape == (3, 16, 48)
    assert method.predict(torch.where(place, images, 0.5), visible, hidden).ne(answers[0]).any()
    method.predict = lambda *given: answers[0]  # type: ignore[method-assign]
    others = torch.where(place, images, torch.rand_like(images))
    losses = [method({"image": x}).item() for x in (images, others, torch.rand_like(images))]
    assert losses[0] == losses[1] != losses[2]


def test_targets_have_mean_0_and_variance_1_in_each_patch_over_all_colours() -> None:
    images = torch.rand(2, 3, 16, 16) * torch.tensor([1.0, 0.1, 0.01]).view(1, 3, 1, 1)
    targets = small(3).targets(images)
    assert targets.shape == (2, 64, 12)
    torch.testing.assert_close(targets.mean(2), torch.zeros(2, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2), torch.ones(2, 64), atol=1e-3, rtol=0)
    assert targets.view(2, 64, 3, 4).std((0, 1, 3)).diff().abs().min() > 0.05  # unlike colour by colour
    assert torch.equal(small(3).targets(torch.full((1, 3, 16, 16), 0.25)), torch.zeros(1, 64, 12))


def test_chance_is_the_loss_of_predicting_the_mean() -> None:
    method, images = small(2), torch.randint(256, (200, 2, 16, 16), dtype=torch.uint8)
    method.prepare(open_data(images))
    assert method.chance(8) == pytest.approx(7 / 8, abs=1e-3)
    assert method({"image": images}).item() == pytest.approx(7 / 8, abs=0.01)  # first predictions are near 0


def test_what_is_visible_tells_what_is_hidden_where_it_can_and_noise_stays_at_chance() -> None:
    assert trained(small(), planes, 40) < 0.5
    assert trained(small(), noise, 40) > 0.99


def test_positions_are_fixed_and_every_other_weight_learns() -> None:
    method = MAE(encoders.build("vit-gap-tiny", image_size=16), decoder_dim=32)
    before = method.encoder.trunk.model.pos_embed.clone()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the last layer of the decoder starts near 0
        method({"image": torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)}).backward()
        optimizer.step()
    still = [
        name for name, weight in method.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert still == ["encoder.trunk.model.pos_embed"]
    assert torch.equal(before, method.encoder.trunk.model.pos_embed)


def test_pictures_of_perfect_predictions_show_the_view() -> None:
    hidden = torch.tensor([[0, 17, 5]] * 3)
    method = give(small(3), torch.tensor([[1, 2]] * 3), hidden)
    batch = {"image": torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)}
    true = method.targets(batch["image"] / 255)[torch.arange(3)[:, None], hidden]
    method.predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures(batch)
    torch.testing.assert_close(shown["view"], batch["image"] / 255)
    torch.testing.assert_close(shown["completed"], shown["view"])
    grey = (shown["visible"] == 0.5).all(1, keepdim=True)  # type: ignore[union-attr]
    assert torch.equal(grey, concealed(hidden))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="mask must hide at least one of the 64 patches of an image"):
        small(mask=0.01)
    with pytest.raises(ValueError, match="patches must be at least 2 pixels wide, got 1 with image_size 8"):
        MAE(encoders.build("vit-gap-tiny", image_size=8))
    with pytest.raises(ValueError, match="be a vision transformer, such as vit-gap-small, got conv4"):
        MAE(encoders.build("conv4"))
    with pytest.raises(ValueError, match="width of a predictor must be a multiple of 32, got 40"):
        small(decoder_dim=40)
