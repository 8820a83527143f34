"""SimMIM: the loss as a slow loop computes it, squares of whole patches, and what stays hidden."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.simmim import SimMIM, loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(channels: int = 1, gap: bool = True, **options) -> SimMIM:
    """The method with one block on 8 x 8 patches of 2 x 2 pixels."""
    trunk = vit_small(channels, 16, blocks=1, width=48, gap=gap)
    config = {"name": "own", "in_channels": channels, "image_size": 16}
    encoder = ImageEncoder(Adapt("color", channels), trunk, config)
    return SimMIM(encoder, **{"crop": 1.0, "flip": 0.0} | options)


def give(method: SimMIM, mask: Tensor) -> SimMIM:
    method.mask = lambda images: mask  # type: ignore[method-assign]
    return method


def shades(samples: int) -> Tensor:
    """Images of one brightness each."""
    return torch.rand(samples, 1, 1, 1).expand(-1, -1, 16, 16)


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 1, 16, 16)


def trained(method: SimMIM, world, steps: int = 60) -> float:
    """Loss on 200 new images after a short training, divided by that of predicting the mean."""
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"image": world(16)}).backward()
        optimizer.step()
    with torch.no_grad():
        return method({"image": world(200)}).item() / (0.25 / 0.25)


def pixels(mask: Tensor) -> Tensor:
    """Pixels of hidden patches, bool, shape (batch, 1, 16, 16)."""
    return mask.view(-1, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("gap", [True, False])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(gap: bool) -> None:
    method = small(2, gap=gap).double()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    images = torch.rand(3, 2, 16, 16).double()
    mask = method.mask(images)
    fast = give(method, mask)({"image": images})
    model, slow, count = method.encoder.trunk.model, torch.zeros((), dtype=torch.double), 0
    for image, hidden in zip(images, mask.tolist()):
        normal, rows = (image - 0.5) / 0.25, [] if gap else [model.cls_token[0, 0] + model.pos_embed[0, 0]]
        for number, gone in enumerate(hidden):
            row, column = 2 * (number // 8), 2 * (number % 8)
            square = normal[:, row : row + 2, column : column + 2]
            projection = model.patch_embed.proj
            seen = torch.stack([(one * square).sum() for one in projection.weight]) + projection.bias
            rows.append(
                (method.hidden_token if gone else seen)
                + model.pos_embed[0, number + len(rows[:1]) * (not gap)]
            )
        tokens = model.norm(model.blocks(torch.stack(rows)[None]))[0, 0 if gap else 1 :]
        for number, gone in enumerate(hidden):
            if gone:
                row, column = 2 * (number // 8), 2 * (number % 8)
                answer = (method.head.weight @ tokens[number] + method.head.bias).view(2, 2, 2)
                slow = slow + (answer - normal[:, row : row + 2, column : column + 2]).abs().sum()
                count += 8
    assert count == 3 * 10 * 4 * 8
    torch.testing.assert_close(fast, slow / count)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (fast, slow / count))):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("mask", "square", "count"), [(0.6, 2, 10), (0.5, 2, 8), (0.01, 4, 1), (0.3, 1, 20), (0.7, 4, 3)]
)
def test_exactly_as_many_whole_squares_are_hidden_and_all_equally_often(
    mask: float, square: int, count: int
) -> None:
    found = small(mask=mask, square=square).mask(torch.zeros(2000))
    assert torch.equal(found.sum(1), torch.full((2000,), count * square**2))
    by_square = found.view(2000, 8 // square, square, 8 // square, square).movedim(3, 2).flatten(3)
    assert torch.equal(by_square, by_square[..., :1].expand_as(by_square))
    share = count / (8 // square) ** 2
    often = found.float().mean(0)
    assert (often - share).abs().max() <= 4.5 * math.sqrt(share * (1 - share) / 2000)


def test_hidden_pixels_reach_no_prediction_and_visible_ones_are_no_target() -> None:
    method, images = trained_once(small()), torch.rand(3, 1, 16, 16)
    mask = method.mask(images)
    place = pixels(give(method, mask).mask(images))
    answers = [method.predict(x, mask) for x in (images, torch.where(place, 9.0, images))]
    assert torch.equal(*answers) and answers[0].shape == (3, 40, 4)
    assert method.predict(torch.where(place, images, 0.5), mask).ne(answers[0]).any()
    method.predict = lambda *given: answers[0]  # type: ignore[method-assign]
    others = torch.where(place, images, torch.rand_like(images))
    losses = [method({"image": x}).item() for x in (images, others, torch.rand_like(images))]
    assert losses[0] == losses[1] != losses[2]


def trained_once(method: SimMIM) -> SimMIM:
    """After one step, so that predictions are not 0."""
    trained(method, noise, 1)
    return method


def test_chance_is_the_loss_of_predicting_the_mean_colour() -> None:
    assert loss(torch.zeros(100, 100, 10), torch.randn(100, 100, 10)).item() == pytest.approx(
        math.sqrt(2 / math.pi), abs=0.01
    )
    method, data = small(3), open_data(torch.randint(256, (200, 3, 16, 16), dtype=torch.uint8))
    method.prepare(data)  # brightness is uniform in -2..2
    assert method.chance(8) == pytest.approx(1.0, abs=0.01)
    assert method(data.sample(200)).item() == pytest.approx(1.0, abs=0.02)  # first predictions are near 0


def test_predictions_stand_where_their_pixels_are() -> None:
    method, mask = small(3), torch.zeros(2, 64, dtype=torch.bool)
    mask[:, [0, 17, 63]] = True
    images = torch.rand(2, 3, 16, 16)
    true = method.targets(images)[mask].view(2, 3, 12)
    give(method, mask).predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures({"image": (255 * images).round().to(torch.uint8)})
    torch.testing.assert_close(shown["completed"], images, atol=0.01, rtol=0)
    assert torch.equal((shown["visible"] == 0.5).all(1, keepdim=True), pixels(mask))  # type: ignore[union-attr]
    true[:, 1, 4] = 9.0  # the first green pixel of patch 17, in row 4 and column 2
    change = (method.pictures({"image": (255 * images).round().to(torch.uint8)})["completed"] - images).abs()  # type: ignore
    assert (change > 0.01).nonzero()[:, 1:].unique(dim=0).tolist() == [[1, 4, 2]]


def test_what_is_visible_tells_what_is_hidden_where_it_can_and_noise_stays_at_chance() -> None:
    assert trained(small(), shades) < 0.4
    assert trained(small(), noise) > 0.98


def test_every_weight_learns_the_token_included_and_nonsense_is_refused() -> None:
    method = SimMIM(encoders.build("vit-gap-tiny", image_size=16))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the head starts near 0
        method({"image": torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)}).backward()
        optimizer.step()
    still = [
        name for name, weight in method.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert still == ["encoder.trunk.model.pos_embed"]
    assert [SimMIM(encoders.build("vit-gap-tiny", image_size=size)).square for size in (32, 28, 36)] == [
        2,
        1,
        3,
    ]
    with pytest.raises(ValueError, match="square must divide the 8 patches on a side of an image, got 3"):
        small(square=3)
    for square, mask, count in ((4, 0.8, 4), (8, 0.6, 1)):
        with pytest.raises(
            ValueError, match=f"mask must leave one of the {count} squares of an image visible, got {mask}"
        ):
            small(square=square, mask=mask)
    with pytest.raises(ValueError, match="be a vision transformer, such as vit-gap-small, got conv4"):
        SimMIM(encoders.build("conv4"))
