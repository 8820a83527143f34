from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unlabeled import encoders
from unlabeled.methods.autoencoder import Autoencoder, loss


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Linear(nn.Module):
    """One layer from images of 4 x 4 to a vector."""

    in_channels, image_size = 1, 4

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.layer = nn.Linear(16, dim)

    def inputs(self, batch):
        return batch["image"]

    def forward(self, images):
        return self.layer(images.flatten(1))


def data(images):
    return SimpleNamespace(channels=images.shape[1], sample=lambda count: {"image": images[:count]})


def linear_autoencoder(images, code_dim, steps):
    method = Autoencoder(Linear(code_dim), code_dim=code_dim, decoder="linear", crop=1.0, flip=0.0)
    method.prepare(data(images))
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=steps, line_search_fn="strong_wolfe")
    errors = []

    def error():
        optimizer.zero_grad()
        value = loss(method.predict(images), images)
        value.backward()
        errors.append(value.item())
        return value

    optimizer.step(error)
    return method, errors


def correlated_images(count=256):
    """Three strong directions and a little noise in all others."""
    directions = torch.linalg.qr(torch.randn(16, 16)).Q
    scales = torch.tensor([0.5, 0.4, 0.3] + [0.05] * 13)
    return (0.5 + torch.randn(count, 16) * scales @ directions.T).view(count, 1, 4, 4)


def test_loss_is_the_mean_over_elements():
    predicted, images = torch.zeros(2, 1, 2, 2), torch.arange(8.0).view(2, 1, 2, 2)
    assert loss(predicted, images).item() == sum(i * i for i in range(8)) / 8


def test_linear_autoencoder_finds_the_principal_subspace_and_never_beats_it():
    images = correlated_images()
    method, errors = linear_autoencoder(images, code_dim=3, steps=200)
    rows = images.flatten(1) - images.flatten(1).mean(0)
    _, singular, axes = torch.linalg.svd(rows, full_matrices=False)
    residual = singular[3:].square().sum().item() / rows.numel()
    assert min(errors) >= residual * (1 - 1e-4)
    assert errors[-1] <= residual * 1.01
    found = torch.linalg.qr(method.decoder.last.weight.detach()).Q
    cosines = torch.linalg.svdvals(axes[:3] @ found)
    assert cosines.min().acos().rad2deg() < 5


def test_without_bottleneck_the_copy_is_perfect_and_a_warning_says_so():
    with pytest.warns(UserWarning, match="no bottleneck, no corruption"):
        _, errors = linear_autoencoder(torch.rand(64, 1, 4, 4), code_dim=16, steps=200)
    assert errors[-1] < 0.001 * errors[0]


def test_an_encoder_narrower_than_the_image_is_a_bottleneck_itself():
    Autoencoder(Linear(3), code_dim=100)


def test_first_loss_is_chance_the_variance_around_the_mean_image():
    images = torch.randint(0, 256, (256, 3, 16, 16), dtype=torch.uint8)
    method = Autoencoder(encoders.build("conv4", image_size=16), crop=1.0, flip=0.0)
    assert method.chance(256) is None
    method({"image": images})
    assert not method.metrics
    method.prepare(data(images))
    variance = (images / 255).var(0, correction=0).mean().item()
    assert method.chance(256) == pytest.approx(variance, rel=1e-4)
    assert method({"image": images}).item() == pytest.approx(variance, rel=0.02)
    assert method.metrics["explained"].item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("code_dim", [1, 7, 40])
def test_the_code_has_the_wanted_width(code_dim):
    method = Autoencoder(encoders.build("conv4", in_channels=1, image_size=8), code_dim=code_dim)
    codes = []
    method.code.register_forward_hook(lambda module, inputs, output: codes.append(output))
    pictures = method.pictures({"image": torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)})
    assert codes[0].shape == (2, code_dim)
    assert list(pictures) == ["image", "predicted"]
    assert all(picture.shape == (2, 1, 8, 8) for picture in pictures.values())


def test_learns_where_a_square_is():
    images = torch.zeros(25, 1, 8, 8)
    for index in range(25):
        row, column = index // 5, index % 5
        images[index, :, row : row + 4, column : column + 4] = 1
    method = Autoencoder(encoders.build("conv4", in_channels=1, image_size=8), crop=1.0, flip=0.0)
    method.prepare(data(images))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.003)
    for _ in range(60):
        optimizer.zero_grad()
        method({"image": images}).backward()
        optimizer.step()
    error = method({"image": images}).item()
    assert error < 0.3 * method.chance(25)
    assert method.metrics["explained"].item() == pytest.approx(1 - error / method.chance(25))
    assert not method.metrics["explained"].requires_grad
