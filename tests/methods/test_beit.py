"""BEiT: the loss as a slow loop computes it, clusters that stand still, and images in which nothing can be told."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.beit import BEiT


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(channels: int = 1, gap: bool = True, **options) -> BEiT:
    """The method with one block on 8 x 8 patches of 2 x 2 pixels."""
    trunk = vit_small(channels, 16, blocks=1, width=48, gap=gap)
    config = {"name": "own", "in_channels": channels, "image_size": 16}
    plain = {"crop": 1.0, "flip": 0.0, "jitter": 0.0, "codes": 4}
    return BEiT(ImageEncoder(Adapt("color", channels), trunk, config), **plain | options)


def ready(method: BEiT, world) -> BEiT:
    method.prepare(open_data((255 * world(100)).round().to(torch.uint8)))
    return method


def planes(samples: int) -> Tensor:
    """A brightness that rises along one of four directions: any patch tells that of the others."""
    line = (torch.arange(16) - 7.5) / 20
    both = torch.stack([line.expand(16, -1), line[:, None].expand(-1, 16)])
    both = torch.cat([both, -both])
    return 0.5 + both[torch.randint(4, (samples,))][:, None]


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 1, 16, 16)


def trained(method: BEiT, world, steps: int = 50) -> float:
    """Loss on 200 new images after a short training, divided by the entropy of the clusters."""
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"image": world(16)}).backward()
        optimizer.step()
    with torch.no_grad():
        return method({"image": world(200)}).item() / method.chance(8)  # type: ignore[operator]


@pytest.mark.parametrize("gap", [True, False])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(gap: bool) -> None:
    method = ready(small(gap=gap), noise).double()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    images = torch.rand(3, 1, 16, 16).double()
    mask = method.mask(images)
    method.mask = lambda images: mask  # type: ignore[method-assign]
    fast = method({"image": images})
    tokens = method.encoder.tokens(images, masked=(mask, method.hidden_token))[:, 0 if gap else 1 :]
    slow, count = torch.zeros((), dtype=torch.double), 0
    for sample, hidden in enumerate(mask.tolist()):
        for number, gone in enumerate(hidden):
            if gone:
                row, column = 2 * (number // 8), 2 * (number % 8)
                values = images[sample, 0, row : row + 2, column : column + 2].flatten()
                values = values - values.mean()
                values = values / (values.square().mean() + 10 / 255**2).sqrt()
                code = min(range(4), key=lambda one: (values - method.centres[one]).square().sum().item())
                logits = method.head.weight @ tokens[sample, number] + method.head.bias
                slow = slow + logits.exp().sum().log() - logits[code]
                count += 1
    assert count == 3 * 25
    torch.testing.assert_close(fast, slow / count)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (fast, slow / count))):
        torch.testing.assert_close(one, other)


def test_hidden_pixels_reach_no_prediction_and_visible_ones_have_no_code_to_predict() -> None:
    method = ready(small(), noise)
    trained(method, noise, 1)
    images = torch.rand(3, 1, 16, 16)
    mask = method.mask(images)
    place = mask.view(3, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    answers = [method.predict(x, mask) for x in (images, torch.where(place, 9.0, images))]
    assert torch.equal(*answers) and answers[0].shape == (75, 4)
    method.mask = lambda images: mask  # type: ignore[method-assign]
    method.predict = lambda *given: answers[0]  # type: ignore[method-assign]
    others = torch.where(place, images, torch.rand_like(images))
    losses = [method({"image": x}).item() for x in (images, others, torch.rand_like(images))]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("mask", "count"), [(0.4, 25), (0.6, 38), (0.02, 1)])
def test_exactly_as_many_patches_are_hidden(mask: float, count: int) -> None:
    assert (small(mask=mask).mask(torch.zeros(500, 1)).sum(1) == count).all()


def test_clusters_are_those_of_the_directions_and_stand_still_and_brightness_does_not_count() -> None:
    method = ready(small(), planes)
    assert method.chance(8) == pytest.approx(math.log(4), abs=0.05)
    codes = method.targets(planes(200))
    assert torch.equal(codes, codes[:, :1].expand_as(codes)) and codes.unique().numel() == 4
    images = planes(20)
    assert torch.equal(method.targets(images), method.targets(images + 0.1))
    before = method.centres.clone()
    trained(method, planes, 3)
    assert torch.equal(method.centres, before)
    assert method.metrics["codes"].item() == pytest.approx(4, abs=0.3)


def test_first_loss_is_that_of_guessing_and_falls_below_the_entropy_where_it_can() -> None:
    method = ready(small(), planes)
    assert method({"image": planes(64)}).item() == pytest.approx(math.log(4), abs=0.05)
    assert trained(method, planes, 80) < 0.3 and method.metrics["accuracy"] > 0.9
    assert trained(ready(small(), noise), noise) > 0.99


def test_pictures_of_true_codes_show_the_true_patches() -> None:
    method = ready(small(), planes)
    images = planes(5)
    mask = method.mask(images)
    method.mask = lambda images: mask  # type: ignore[method-assign]
    true = torch.nn.functional.one_hot(method.targets(images)[mask], 4).float()
    method.predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures({"image": (255 * images).round().to(torch.uint8)})
    assert torch.equal(shown["true codes"], shown["predicted codes"])  # type: ignore[arg-type]
    torch.testing.assert_close(shown["true codes"], images, atol=0.02, rtol=0)
    assert int((shown["visible"] == 0.5).sum()) >= 5 * 25 * 4  # type: ignore[union-attr]


def test_every_weight_learns_and_nonsense_is_refused() -> None:
    method = BEiT(encoders.build("vit-gap-tiny", image_size=16), codes=8)
    method.prepare(open_data(torch.randint(256, (20, 3, 16, 16), dtype=torch.uint8)))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the head starts near 0
        method({"image": torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)}).backward()
        optimizer.step()
    learned = [(name, weight) for name, weight in method.named_parameters() if weight.requires_grad]
    assert not [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    with pytest.raises(ValueError, match="must have patches that differ, got one cluster for all"):
        small().prepare(open_data(torch.full((20, 1, 16, 16), 9, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="codes must be at most the 64 patches of array, got 65"):
        small(codes=65).prepare(open_data(torch.randint(256, (1, 1, 16, 16), dtype=torch.uint8)))
    with pytest.raises(ValueError, match="be a vision transformer, such as vit-gap-small, got conv4"):
        BEiT(encoders.build("conv4"))
