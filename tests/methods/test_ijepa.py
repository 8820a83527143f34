"""I-JEPA: the loss as a slow loop computes it, rectangles that reach everything, what stays hidden, and no collapse."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.from_timm import vit_small
from unlabeled.methods.ijepa import IJEPA, loss
from unlabeled.parts.token_masks import pick


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(size: int = 16, gap: bool = True, **options) -> IJEPA:
    """The method with one block on patches of 2 x 2 pixels."""
    trunk = vit_small(1, size, blocks=1, width=48, gap=gap)
    encoder = ImageEncoder(Adapt("color", 1), trunk, {"name": "own", "in_channels": 1, "image_size": size})
    plain = {"crop": 1.0, "predictor_dim": 32, "predictor_blocks": 1, "momentum": 0.97}
    return IJEPA(encoder, **plain | options)


def give(method: IJEPA, visible: Tensor, hidden: Tensor) -> IJEPA:
    method.mask = lambda images: (visible, hidden)  # type: ignore[method-assign]
    return method


def shades(samples: int) -> Tensor:
    """Images of one brightness each."""
    return torch.rand(samples, 1, 1, 1).expand(-1, -1, 16, 16)


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 1, 16, 16)


def trained(method: IJEPA, world, steps: int = 60) -> IJEPA:
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        method({"image": world(16)}).backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
    return method


@torch.no_grad()
def explained(method: IJEPA, images: Tensor) -> float:
    """Fraction of how targets at a place differ between images that the predictions explain, at most 1."""
    visible, hidden = (part.repeat(len(images), *[1] * (part.ndim - 1)) for part in method.mask(images[:1]))
    predicted = method.predict(images, visible, hidden).flatten(1, 2)
    targets = pick(method.targets(images), hidden.flatten(1))
    return 1 - ((predicted - targets).square().sum() / (targets - targets.mean(0)).square().sum()).item()


def distance(predicted: Tensor, true: Tensor) -> Tensor:
    """Smooth L1: quadratic up to 1."""
    error = (predicted - true).abs()
    return torch.where(error < 1, error**2 / 2, error - 0.5).sum()


@pytest.mark.parametrize("gap", [True, False])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(gap: bool) -> None:
    method = small(gap=gap).double()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if parameter.requires_grad or name.startswith("teacher"):
                parameter += 0.1 * torch.randn_like(parameter)
    images = torch.rand(3, 1, 16, 16).double()
    visible, hidden = method.mask(images)
    fast = give(method, visible, hidden)({"image": images})
    teacher, prefix = method.teacher.networks[0], 0 if gap else 1
    tokens = method.encoder.tokens(images, visible)[:, prefix:]
    slow = torch.zeros((), dtype=torch.double)
    for sample in range(3):
        whole = teacher.tokens(images[sample : sample + 1])[0, prefix:].detach()  # type: ignore[operator]
        for block in hidden[sample]:
            answers = method.predictor(
                tokens[sample : sample + 1], visible[sample : sample + 1], block[None], (8, 8)
            )[0]
            for answer, number in zip(answers, block):
                mean = whole[number].sum() / 48
                deviation = ((whole[number] - mean).square().sum() / 48 + 1e-5).sqrt()
                slow = slow + distance(answer, (whole[number] - mean) / deviation) / hidden.numel() / 48
    torch.testing.assert_close(fast, slow)
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (fast, slow))):
        torch.testing.assert_close(one, other)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_targets_are_normalised_and_predictions_of_0_have_the_chance_loss() -> None:
    method = small()
    targets = method.targets(torch.rand(4, 1, 16, 16))
    torch.testing.assert_close(targets.mean(2), torch.zeros(4, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2, unbiased=False), torch.ones(4, 64), atol=1e-2, rtol=0)
    assert targets.shape == (4, 64, 48) and not targets.requires_grad
    predicted, given = torch.zeros(500, 20, 32).requires_grad_(), torch.randn(500, 20, 32).requires_grad_()
    value = loss(predicted, given)
    value.backward()
    assert value.item() == pytest.approx(method.chance(4), abs=0.005) == pytest.approx(0.4246, abs=0.005)
    assert predicted.grad is not None and given.grad is None


def test_rectangles_are_equally_large_within_a_batch_and_apart_from_what_is_visible() -> None:
    method, sizes = small(), set()
    for _ in range(100):
        visible, hidden = method.mask(torch.zeros(16))
        assert visible.shape[1] >= 4 and hidden.shape[1] == 4
        assert not (visible[:, None, :, None] == hidden[:, :, None]).any()
        rows, columns = hidden // 8, hidden % 8
        height, width = (part.amax(2) - part.amin(2) + 1 for part in (rows, columns))
        assert (height * width == hidden.shape[2]).all() and height.unique().numel() == 1
        assert hidden.diff(dim=2).gt(0).all()
        sizes.add((int(height[0, 0]), int(width[0, 0])))
    assert {(3, 4), (3, 3), (4, 3)} <= sizes <= {(3, 4), (3, 3), (4, 3), (4, 4)}


def test_every_row_and_column_is_visible_and_hidden_in_some_draw() -> None:
    method, seen, asked = small(), torch.zeros(64), torch.zeros(64)
    for _ in range(40):
        visible, hidden = method.mask(torch.zeros(25))
        seen += visible.flatten().bincount(minlength=64) / visible.shape[1]
        asked += hidden.flatten().bincount(minlength=64) / hidden[0].numel()
    assert seen.min() > 0 and asked.min() > 0
    for often in (seen.view(8, 8), asked.view(8, 8)):
        for turned in (often, often.T):
            torch.testing.assert_close(turned.sum(1), turned.flip(0).sum(1), rtol=0.15, atol=0)


@pytest.mark.parametrize(("side", "least"), [(4, 1), (5, 2), (14, 10)])
def test_enough_stays_visible_on_any_grid(side: int, least: int) -> None:
    method = small()
    method.side = side
    for _ in range(100):
        visible, hidden = method.mask(torch.zeros(8))
        assert visible.shape[1] >= least and hidden.shape[:2] == (8, 4)
        assert not (visible[:, None, :, None] == hidden[:, :, None]).any()


def test_hidden_pixels_reach_no_prediction_but_set_the_targets() -> None:
    method, images = trained(small(), noise, 1), torch.rand(3, 1, 16, 16)
    visible, hidden = method.mask(images)
    seen = torch.zeros(3, 64, dtype=torch.bool).scatter(1, visible, True).view(3, 1, 8, 8)
    seen = seen.repeat_interleave(2, 2).repeat_interleave(2, 3)
    others = torch.where(seen, images, torch.rand_like(images))
    assert torch.equal(*(method.predict(x, visible, hidden) for x in (images, others)))
    first, second = (pick(method.targets(x), hidden.flatten(1)) for x in (images, others))
    assert (first - second).abs().max() > 0.1
    assert not torch.equal(*(method.predict(x, visible, hidden) for x in (images, 1 - images)))


def test_rectangles_are_predicted_apart_from_each_other() -> None:
    method, images = trained(small(), noise, 1), torch.rand(3, 1, 16, 16)
    visible, hidden = method.mask(images)
    predicted, order = method.predict(images, visible, hidden), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(method.predict(images, visible, hidden[:, order]), predicted[:, order])
    hidden[:, 1:] = hidden[:, :1]
    torch.testing.assert_close(method.predict(images, visible, hidden)[:, 0], predicted[:, 0])


def test_hidden_features_are_predicted_and_do_not_collapse_as_they_would_with_a_gradient() -> None:
    """The loss is low either way."""
    cured, collapsing = small(), small()

    def own_targets(images: Tensor) -> Tensor:
        tokens = collapsing.tokens(images)
        collapsing.metrics = {"target std": tokens.flatten(0, 1).std(0).mean()}
        return F.layer_norm(tokens, tokens.shape[2:])

    collapsing.targets = own_targets  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlabeled.methods.ijepa.loss", F.smooth_l1_loss)
        trained(collapsing, shades)
    trained(cured, shades)
    spread = [method.encoder(shades(200)).std(0).mean().item() for method in (cured, collapsing)]
    assert explained(cured, shades(200)) > 0.7
    assert spread[0] > 0.2 and spread[1] < 0.05
    assert cured.metrics["target std"] > 0.2 > 0.1 > collapsing.metrics["target std"]


def test_of_noise_nothing_is_predicted_but_the_place() -> None:
    assert explained(trained(small(), noise), noise(200)) < 0.05


def test_the_teacher_follows_and_stands_still_at_the_end() -> None:
    method = small(momentum=0.5)
    with torch.no_grad():
        method.encoder.trunk.model.norm.bias.add_(1.0)
    copy = method.teacher.networks[0].trunk.model.norm.bias  # type: ignore[union-attr]
    for progress in (0.0, 1.0):
        method.after_step(progress)
        torch.testing.assert_close(copy.detach(), torch.full((48,), 0.5))  # type: ignore[union-attr]


def test_pictures_of_perfect_predictions_show_the_view() -> None:
    visible, hidden = torch.tensor([[0, 16]] * 3), torch.tensor([[[5, 6, 13, 14], [50, 51, 58, 59]]] * 3)
    method = give(small(), visible, hidden)
    images = torch.randint(256, (3, 1, 16, 16), dtype=torch.uint8)
    true = pick(method.targets(images / 255), hidden.flatten(1)).unflatten(1, (2, 4))
    method.predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures({"image": images})
    torch.testing.assert_close(shown["view"], images / 255)
    assert torch.equal(shown["best fit"], shown["view"])  # type: ignore[arg-type]
    known = torch.zeros(16, 16, dtype=torch.bool)
    known[:2, :2] = known[4:6, :2] = True
    assert torch.equal(shown["visible"], torch.where(known, shown["view"], 0.5))  # type: ignore[arg-type]


def test_every_weight_learns_and_nonsense_is_refused() -> None:
    method = IJEPA(encoders.build("vit-gap-tiny", image_size=16), predictor_dim=32)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the last layer of the predictor starts near 0
        method({"image": torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)}).backward()
        optimizer.step()
    learned = [(name, weight) for name, weight in method.named_parameters() if weight.requires_grad]
    assert not [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    with pytest.raises(ValueError, match="an image must have at least 4 patches on a side, got 3"):
        IJEPA(encoders.build("vit_tiny_patch16_224", image_size=48))
    with pytest.raises(ValueError, match="be a vision transformer, such as vit-gap-small, got conv4"):
        IJEPA(encoders.build("conv4"))
