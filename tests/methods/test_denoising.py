import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unlabeled import encoders
from unlabeled.encoders.adapt import Adapt
from unlabeled.methods.denoising import Denoising, loss


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Sigmoids(nn.Module):
    """One fully connected layer with a sigmoid, as in the classic figure of filters."""

    def __init__(self, pixels, dim):
        super().__init__()
        self.dim, self.map_dims = dim, {"hidden": dim}
        self.layer = nn.Linear(pixels, dim)

    def maps(self, x):
        return {"hidden": self.layer(x.flatten(1)).sigmoid()[:, :, None, None]}

    def forward(self, x):
        return self.maps(x)["hidden"].flatten(1)


def connected(size=4, dim=32):
    return encoders.ImageEncoder(Adapt("color", 1), Sigmoids(size**2, dim), {"image_size": size})


def data(images):
    return SimpleNamespace(channels=images.shape[1], sample=lambda count: {"image": images[:count]})


def seen_by(method):
    """List that collects the images which the encoder is given."""
    seen = []
    method.encoder.adapt.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("kind", ["squared", "cross_entropy"])
@pytest.mark.parametrize("emphasis", [0.0, 0.3, 0.5, 1.0])
def test_loss_matches_a_slow_loop(kind, emphasis):
    predicted, clean = torch.randn(3, 1, 2, 3), torch.rand(3, 1, 2, 3)
    where = torch.rand(3, 1, 2, 3) < 0.5
    total = 0.0
    for row in range(3):
        errors = weights = 0.0
        for p, x, corrupted in zip(predicted[row].flatten(), clean[row].flatten(), where[row].flatten()):
            z = 1 / (1 + math.exp(-p))
            entropy = -float(x) * math.log(z) - (1 - float(x)) * math.log(1 - z)
            weight = emphasis if corrupted else 1 - emphasis
            errors += weight * (float((p - x) ** 2) if kind == "squared" else entropy)
            weights += weight
        total += errors / weights / 3
    assert loss(predicted, clean, where, kind=kind, emphasis=emphasis).item() == pytest.approx(
        total, rel=1e-5
    )


def test_full_emphasis_ignores_what_was_left_untouched():
    predicted = torch.randn(4, 3, 8, 8, requires_grad=True)
    where = torch.rand(4, 1, 8, 8) < 0.5
    loss(predicted, torch.rand(4, 3, 8, 8), where, emphasis=1.0).backward()
    assert (predicted.grad[~where.expand_as(predicted)] == 0).all()
    assert (predicted.grad[where.expand_as(predicted)] != 0).all()


@pytest.mark.parametrize("kind", ["squared", "cross_entropy"])
@pytest.mark.parametrize("noise", ["mask", "salt_pepper", "gaussian"])
def test_first_loss_is_chance(kind, noise):
    images = torch.randint(0, 256, (256, 1, 16, 16), dtype=torch.uint8)
    encoder = encoders.build("conv4", in_channels=1, image_size=16)
    method = Denoising(encoder, loss=kind, noise=noise, emphasis=0.8, crop=1.0, flip=0.0)
    assert method.chance(256) is None
    method.prepare(data(images))
    mean = (images / 255).mean(0)
    entropy = -(mean * mean.log() + (1 - mean) * (1 - mean).log()).mean().item()
    expected = (images / 255).var(0, correction=0).mean().item() if kind == "squared" else entropy
    assert method.chance(256) == pytest.approx(expected, rel=1e-3)
    assert method({"image": images}).item() == pytest.approx(expected, rel=0.03)


def test_corrupts_in_training_and_never_in_evaluation():
    images = torch.rand(8, 1, 4, 4) + 0.1
    method = Denoising(connected(), crop=1.0, flip=0.0, amount=0.5)
    seen = seen_by(method)
    method({"image": images})
    method({"image": images})
    method.eval()({"image": images})
    method.features({"image": images})
    assert all(((noisy == 0).flatten(1).sum(1) == 8).all() for noisy in seen[:2])
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[2], images)
    torch.testing.assert_close(seen[3], images)


def test_with_everything_destroyed_the_best_guess_is_the_mean_of_the_clean_images():
    images = torch.rand(64, 1, 4, 4)
    method = Denoising(connected(), amount=1.0, decoder="linear", crop=1.0, flip=0.0)
    method.prepare(data(images))
    nn.init.zeros_(method.decoder.last.weight)
    method({"image": images}).backward()
    assert method.decoder.last.bias.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["squared", "cross_entropy"])
def test_fills_masked_elements_better_than_the_mean_with_a_fully_connected_first_layer(kind):
    images = (0.5 + 0.2 * torch.randn(512, 3) @ torch.randn(3, 16)).clamp(0, 1).view(512, 1, 4, 4)
    method = Denoising(connected(dim=64), loss=kind, decoder="linear", emphasis=1.0, crop=1.0, flip=0.0)
    method.prepare(data(images))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        method({"image": images}).backward()
        optimizer.step()
    assert (method.encoder.trunk.layer.weight.grad != 0).all()
    noisy, where = method.corrupt(images)
    predicted = method.predict(noisy).detach()
    predicted = predicted.sigmoid() if kind == "cross_entropy" else predicted
    error = (predicted - images)[where].square().mean()
    assert error < 0.4 * (images.mean(0) - images)[where].square().mean()


def test_pictures_show_the_corruption_in_evaluation_as_well():
    method = Denoising(encoders.build("conv4", image_size=28), amount=0.5, loss="cross_entropy").eval()
    pictures = method.pictures({"image": torch.randint(1, 256, (2, 3, 28, 28), dtype=torch.uint8)})
    assert list(pictures) == ["image", "corrupted", "predicted"]
    assert ((pictures["corrupted"] == 0).flatten(1).float().mean(1) == 0.5).all()
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in pictures.values())


def test_refuses_more_than_everything():
    with pytest.raises(ValueError, match=r"amount must be between 0 and 1, got 1\.5"):
        Denoising(connected(), amount=1.5)
    Denoising(connected(), noise="gaussian", amount=1.5)
    with pytest.raises(ValueError, match="emphasis"):
        Denoising(connected(), emphasis=2.0)
    with pytest.raises(ValueError, match="amount must be above 0"):
        Denoising(connected(), emphasis=1.0, amount=0.0)
