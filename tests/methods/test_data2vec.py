"""data2vec: targets and loss as a slow loop computes them, what stays hidden, and no collapse."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.data2vec import Data2Vec
from unlabeled.parts.token_masks import numbers, pick


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(gap: bool = True, blocks: int = 1, **options) -> Data2Vec:
    """The method with few blocks on 8 x 8 patches of 2 x 2 pixels."""
    trunk = vit_small(1, 16, blocks=blocks, width=48, gap=gap)
    encoder = ImageEncoder(Adapt("color", 1), trunk, {"name": "own", "in_channels": 1, "image_size": 16})
    return Data2Vec(encoder, **{"crop": 1.0, "flip": 0.0, "layers": blocks, "momentum": 0.97} | options)


def shades(samples: int) -> Tensor:
    """Images of one brightness each."""
    return torch.rand(samples, 1, 1, 1).expand(-1, -1, 16, 16)


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 1, 16, 16)


def trained(method: Data2Vec, world, steps: int = 60) -> Data2Vec:
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        method({"image": world(16)}).backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
    return method


@torch.no_grad()
def explained(method: Data2Vec, images: Tensor) -> float:
    """Fraction of how targets at a place differ between images that the predictions explain, at most 1."""
    mask = method.mask(images[:1]).expand(len(images), -1)
    predicted, targets = method.predict(images, mask), pick(method.targets(images), numbers(mask))
    return 1 - ((predicted - targets).square().sum() / (targets - targets.mean(0)).square().sum()).item()


@pytest.mark.parametrize(("gap", "layers"), [(True, 2), (False, 1)])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(gap: bool, layers: int) -> None:
    method = small(gap, blocks=2, layers=layers, beta=0.7).double()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if parameter.requires_grad or name.startswith("teacher"):
                parameter += 0.1 * torch.randn_like(parameter)
    images, prefix = torch.rand(2, 1, 16, 16).double(), 0 if gap else 1
    mask = method.mask(images)
    method.mask = lambda images: mask  # type: ignore[method-assign]
    fast = method({"image": images})
    answers = method.encoder.tokens(images, masked=(mask, method.hidden_token))[:, prefix:]
    answers = answers @ method.head.weight.T + method.head.bias
    model = method.teacher.networks[0].trunk.model  # type: ignore[union-attr]
    state, states = (images - 0.5) / 0.25, []
    state = model.patch_embed(state).flatten(1, 2)  # type: ignore
    if prefix:
        state = torch.cat([model.cls_token.expand(2, -1, -1), state], 1)  # type: ignore
    state = state + model.pos_embed  # type: ignore
    for block in model.blocks:  # type: ignore
        state = block(state)
        states.append(state[:, prefix:].detach())
    slow, count = torch.zeros((), dtype=torch.double), 0
    for sample, hidden in enumerate(mask.tolist()):
        for number, gone in enumerate(hidden):
            if gone:
                mean = sum(part[sample, number] for part in states[-layers:]) / layers
                true = (mean - mean.mean()) / ((mean - mean.mean()).square().sum() / 48 + 1e-5).sqrt()  # type: ignore
                error = (answers[sample, number] - true).abs()
                slow = slow + torch.where(error < 0.7, error**2 / 1.4, error - 0.35).sum()
                count += 48
    assert count == 2 * 38 * 48
    torch.testing.assert_close(fast, slow / count)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (fast, slow / count))):
        torch.testing.assert_close(one, other)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_targets_do_not_know_the_mask_and_zero_predictions_have_the_chance_loss() -> None:
    method, images = small(), torch.rand(4, 1, 16, 16)
    first = method.targets(images)
    method({"image": images})
    assert torch.equal(method.targets(images), first) and not first.requires_grad
    torch.testing.assert_close(first.mean(2), torch.zeros(4, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.var(2, correction=0), torch.ones(4, 64), atol=0.02, rtol=0)
    method.targets = lambda images: torch.randn(len(images), 64, 48)  # type: ignore[method-assign]
    loss = method({"image": torch.rand(200, 1, 16, 16)}).item()  # first predictions are near 0
    assert loss == pytest.approx(method.chance(8), abs=0.005) == pytest.approx(0.2471, abs=0.005)


@pytest.mark.parametrize(("mask", "count"), [(0.6, 38), (0.4, 25), (0.02, 1)])
def test_exactly_as_many_patches_are_hidden(mask: float, count: int) -> None:
    assert (small(mask=mask).mask(torch.zeros(500, 1)).sum(1) == count).all()


def test_hidden_pixels_reach_no_prediction_but_set_the_targets() -> None:
    method, images = trained(small(), noise, 1), torch.rand(3, 1, 16, 16)
    mask = method.mask(images)
    place = mask.view(3, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    others = torch.where(place, torch.rand_like(images), images)
    assert torch.equal(*(method.predict(x, mask) for x in (images, others)))
    first, second = (pick(method.targets(x), numbers(mask)) for x in (images, others))
    assert (first - second).abs().max() > 0.1
    assert not torch.equal(*(method.predict(x, mask) for x in (images, 1 - images)))


def test_hidden_features_are_predicted_and_do_not_collapse_as_they_would_with_a_gradient() -> None:
    """The loss is low either way."""
    cured, collapsing = small(), small()

    def own_targets(images: Tensor) -> Tensor:
        tokens = collapsing.tokens(images)
        collapsing.metrics = {"target std": tokens.flatten(0, 1).std(0).mean()}
        return F.layer_norm(tokens, tokens.shape[2:])

    collapsing.targets = own_targets  # type: ignore[method-assign]
    trained(collapsing, shades)
    trained(cured, shades)
    assert explained(cured, shades(200)) > 0.7
    assert cured.metrics["target std"] > 0.2 > 0.1 > collapsing.metrics["target std"]


def test_of_noise_nothing_is_predicted_but_the_place() -> None:
    assert explained(trained(small(), noise), noise(200)) < 0.05


def test_pictures_of_perfect_predictions_show_the_view() -> None:
    method, mask = small(), torch.zeros(3, 64, dtype=torch.bool)
    mask[:, [5, 6, 13, 14]] = True
    method.mask = lambda images: mask  # type: ignore[method-assign]
    images = torch.randint(256, (3, 1, 16, 16), dtype=torch.uint8)
    true = pick(method.targets(images / 255), numbers(mask))
    method.predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures({"image": images})
    assert torch.equal(shown["best fit"], shown["view"])  # type: ignore[arg-type]
    place = mask.view(3, 1, 8, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(shown["visible"], torch.where(place, 0.5, shown["view"]))  # type: ignore[arg-type]


def test_every_weight_learns_and_nonsense_is_refused() -> None:
    method = Data2Vec(encoders.build("vit-gap-tiny", image_size=16))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the head starts near 0
        loss = method({"image": torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)})
        loss.backward()
        optimizer.step()
    learned = [(name, weight) for name, weight in method.named_parameters() if weight.requires_grad]
    assert not [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    assert math.isfinite(loss.item())
    with pytest.raises(ValueError, match="layers must be at most the 1 of the encoder, got 2"):
        small(layers=2)
    with pytest.raises(ValueError, match="be a vision transformer, such as vit-gap-small, got conv4"):
        Data2Vec(encoders.build("conv4"))
