"""Exemplar: classes that stay, a loss over those that there are, and no way to them but content."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.data.image.data import Images
from unlabeled.methods.exemplar import Exemplar
from unlabeled.parts.distortion import cut


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Fixed(nn.Module):
    """An encoder without weights that remembers what it saw."""

    dim, in_channels, image_size = 12, 3, 24

    def evaluation_view(self, data):
        return data

    def inputs(self, batch):
        return batch["image"].float() / 255

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def images(count: int = 20, size: int = 24) -> Images:
    return open_data(torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8))


def prepared(encoder: nn.Module, data: Images, **options) -> Exemplar:
    method = Exemplar(encoder, **options)  # type: ignore[arg-type]
    method.prepare(method.training_view(data))
    return method


def train(method: Exemplar, data: Images, steps: int, lr: float = 1e-2) -> float:
    optimizer = torch.optim.Adam(method.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        losses.append(method(data.batch(torch.arange(len(data)))))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses[-5:]).mean().item()


def test_first_loss_is_at_chance_over_the_seeds_in_use():
    data = images(20)
    for classes, seeds in ((None, 20), (7, 7)):
        method = prepared(Fixed(), data, classes=classes)
        batch = method.training_view(data).sample(6)
        assert method(batch).item() == pytest.approx(math.log(seeds), abs=1e-2)
        assert method.chance(6) == pytest.approx(math.log(seeds))
        assert method.logits(torch.rand(2, 3, 12, 12)).shape == (2, seeds)


def test_loss_and_its_gradient_match_a_slow_loop():
    data, encoder = images(9), Fixed()
    method = prepared(encoder, data)
    nn.init.normal_(method.head.weight)
    batch = data.batch(torch.tensor([4, 0, 7]))
    loss = method(batch)
    loss.backward()
    vectors = F.adaptive_avg_pool2d(encoder.seen, 2).flatten(1).double()
    weight, bias = method.head.weight.detach().double(), method.head.bias.detach().double()
    total, gradient = 0.0, torch.zeros_like(weight)
    for vector, label in zip(vectors, (4, 0, 7)):
        scores = [math.exp(float(weight[seed] @ vector + bias[seed])) for seed in range(9)]
        total -= math.log(scores[label] / sum(scores)) / 3
        for seed in range(9):
            gradient[seed] += (scores[seed] / sum(scores) - (seed == label)) / 3 * vector
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert method.head.weight.grad is not None and not method.head.weight.grad[9:].any()
    torch.testing.assert_close(method.head.weight.grad.double(), gradient, rtol=1e-4, atol=1e-6)


def test_classes_are_images_spread_over_the_data_and_keep_their_indices():
    data = images(20)
    method = prepared(Fixed(), data, classes=5)
    view = method.training_view(data)
    assert len(view) == len(method.seeds) == 5
    every = data.batch(torch.arange(20))["image"]
    assert torch.equal(view.batch(torch.arange(5))["image"], every[::4])
    assert torch.equal(view.batch(torch.tensor([3]))["index"], torch.tensor([3]))
    assert len(Exemplar(Fixed()).training_view(data)) == 20  # type: ignore[arg-type]


def test_without_distortion_the_encoder_sees_the_seed():
    data, encoder = images(8), Fixed()
    off = {"translation": 0.0, "scale": 1.0, "degrees": 0.0, "jitter": 0.0}
    method = prepared(encoder, data, **off)
    assert method.side == 12
    batch = data.batch(torch.arange(8))
    method(batch)
    torch.testing.assert_close(encoder.seen, cut(batch["image"] / 255, method.seeds, 12), atol=1e-4, rtol=0)


def test_a_few_textures_are_learned():
    data = images(20, 16)
    method = prepared(
        encoders.build("conv4", image_size=16),
        data,
        classes=20,
        jitter=0.3,
        translation=0.05,
        patch_ratio=1.0,
    )
    assert train(method, data, 25) < 0.6 * math.log(20)


def test_equal_images_cannot_be_told_apart():
    """A negative control: where content says nothing, neither place, angle nor blank corners do."""
    data = open_data(torch.full((16, 3, 16, 16), 90, dtype=torch.uint8))
    method = prepared(encoders.build("conv4", image_size=16), data, classes=16)
    assert train(method, data, 20) > math.log(16) - 0.02


def test_colour_that_identifies_the_seed_is_a_shortcut_that_colour_changes_prevent():
    """Images without content, each in a grey of its own."""
    levels = torch.linspace(80, 170, 16)[:, None, None, None].expand(16, 3, 16, 16).to(torch.uint8)
    data = open_data(levels)

    def last(jitter: float) -> float:
        torch.manual_seed(0)
        method = prepared(encoders.build("conv4", image_size=16), data, jitter=jitter, classes=16)
        return train(method, data, 40)

    assert last(0.0) < 1.5
    assert last(1.0) > math.log(16) - 0.7


def test_seeds_do_not_depend_on_the_batches_and_are_saved_with_the_state():
    data = images(20)
    torch.manual_seed(3)
    first = prepared(Fixed(), data)
    assert set(first.state_dict()) >= {"seeds", "distort.mean", "distort.axes"}
    torch.manual_seed(3)
    assert torch.equal(prepared(Fixed(), data).seeds, first.seeds)
    axes = first.distort.axes
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-5, rtol=0)


def test_pictures_find_the_seed_of_patches_that_are_not_distorted():
    data = images(6)
    method = prepared(Fixed(), data, translation=0.0, scale=1.0, degrees=0.0, jitter=0.0)
    shown = method.pictures(data.batch(torch.arange(6)))
    torch.testing.assert_close(shown["nearest seed"], shown["seed"])
    torch.testing.assert_close(shown["distorted"], shown["seed"], atol=1e-4, rtol=0)


def test_more_classes_than_images_and_missing_preparation_are_refused():
    with pytest.raises(ValueError, match="classes must be at most the number of images, 20, got 21"):
        prepared(Fixed(), images(20), classes=21)
    with pytest.raises(ValueError, match=r"seeds must be drawn first: call prepare\(data\)"):
        Exemplar(Fixed())(images(4).sample(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 1),
        ("patch_ratio", 0.0),
        ("translation", 1.5),
        ("scale", 0.9),
        ("degrees", 181),
        ("jitter", -1.0),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Exemplar(Fixed(), **{name: value})  # type: ignore[arg-type]
