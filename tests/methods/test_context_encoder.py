from types import SimpleNamespace

import pytest
import torch

from unlabeled import encoders
from unlabeled.methods.context_encoder import ContextEncoder, reconstruction
from unlabeled.parts.masks import central, region

MASKS = ["central", "blocks", "region"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=16, channels=3, **options):
    encoder = encoders.build("conv4", in_channels=channels, image_size=size)
    return ContextEncoder(encoder, crop=1.0, flip=0.0, **options)


def batch(count=8, size=16, channels=3):
    return {"image": torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)}


def data(images):
    return SimpleNamespace(channels=images.shape[1], sample=lambda count: {"image": images[:count]})


def test_reconstruction_matches_a_slow_loop():
    predicted, images = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    weight = torch.rand(2, 1, 4, 4)
    total = 0.0
    for row in range(2):
        error = sum(
            weight[row, 0, y, x] * (predicted[row, c, y, x] - images[row, c, y, x]) ** 2 / 3
            for c in range(3)
            for y in range(4)
            for x in range(4)
        )
        total += error / weight[row].sum() / 2
    torch.testing.assert_close(reconstruction(predicted, images, weight), torch.as_tensor(total))


@pytest.mark.parametrize("mask", MASKS)
def test_no_gradient_outside_the_hole_and_its_border(mask):
    painter = method(mask=mask)
    images = torch.rand(4, 3, 16, 16)
    predicted = torch.rand(4, 3, 16, 16, requires_grad=True)
    drop = painter.drop(images)
    weight = painter.weight(drop)
    reconstruction(predicted, images, weight).backward()
    assert ((predicted.grad != 0) == (weight > 0)).all()
    assert (weight[drop] == 1).all()
    outside = weight[~drop].unique().tolist()
    assert outside == ([0, 10] if mask == "central" else [0])


def test_border_of_a_central_hole_grows_with_the_image():
    painter = method(mask="central")
    for size, width in ((32, 1), (64, 2), (227, 7)):
        weight = painter.weight(central(1, size, torch.device("cpu")))
        assert (weight == 10).sum() == (size // 2 + 2 * width) ** 2 - (size // 2) ** 2


@pytest.mark.parametrize("mask", MASKS)
def test_what_is_in_the_hole_never_reaches_the_encoder(mask):
    painter = method(mask=mask)
    images = torch.rand(4, 3, 16, 16)
    drop = painter.drop(images)
    other = torch.where(drop, torch.rand_like(images), images)
    assert not torch.equal(images, other)
    assert torch.equal(painter.fill(images, drop), painter.fill(other, drop))
    painter.eval()
    assert torch.equal(painter.predict(images, drop), painter.predict(other, drop))


def test_the_hole_has_the_mean_colour_of_the_data():
    painter = method()
    images = batch(64)["image"]
    painter.prepare(data(images))
    floats = images / 255
    drop = painter.drop(floats)
    filled = painter.fill(floats, drop)
    colour = floats.mean((0, 2, 3))
    torch.testing.assert_close(
        torch.where(drop, filled, colour[:, None, None]), colour[:, None, None].expand_as(filled)
    )
    assert torch.equal(torch.where(drop, floats, filled), floats)


@pytest.mark.parametrize("loss", ["adversarial", "joint"])
@pytest.mark.parametrize("mask", MASKS)
def test_one_backward_of_the_sum_gives_each_player_only_its_own_gradient(mask, loss):
    painter = method(mask=mask, loss=loss, adversarial_weight=0.5)
    losses = painter(batch())
    theirs = [p for name, p in painter.named_parameters() if name.startswith("discriminator.")]
    ours = [p for name, p in painter.named_parameters() if not name.startswith("discriminator.")]
    generator = torch.autograd.grad(losses["generator"], ours, retain_graph=True)
    discriminator = torch.autograd.grad(losses["discriminator"], theirs, retain_graph=True)
    crossed = [(losses["generator"], theirs), (losses["discriminator"], ours)]
    for value, parameters in crossed:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in found)
    sum(losses.values()).backward()
    for parameter, gradient in zip(ours + theirs, generator + discriminator, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
        assert gradient.abs().sum() > 0 or parameter.ndim == 1


def test_joint_loss_weighs_the_players_as_told_and_l2_has_no_second_player():
    torch.manual_seed(0)
    joint = method(loss="joint", adversarial_weight=0.25)
    torch.manual_seed(0)
    pair = {loss: method(loss=loss) for loss in ("l2", "adversarial")}
    for other in pair.values():
        other.load_state_dict(joint.state_dict(), strict=False)
    images, values = batch(), {}
    for name, painter in [("joint", joint), *pair.items()]:
        torch.manual_seed(1)
        values[name] = painter(images)
    expected = 0.75 * values["l2"] + 0.25 * values["adversarial"]["generator"]
    torch.testing.assert_close(values["joint"]["generator"], expected)
    assert not hasattr(pair["l2"], "discriminator")
    assert pair["adversarial"].chance(8) is None


def test_the_discriminator_learns_ten_times_slower():
    painter = method(loss="joint")
    assert painter.learning_rates == {"discriminator": 0.1}
    assert any(name.startswith("discriminator.") for name, _ in painter.named_parameters())


@pytest.mark.parametrize("mask", MASKS)
def test_first_loss_is_chance(mask):
    painter = method(mask=mask)
    images = batch(256)["image"]
    painter.prepare(data(images))
    variance = (images / 255).var(0, correction=0).mean().item()
    assert painter.chance(256) == pytest.approx(variance, rel=0.03)
    assert painter({"image": images}).item() == pytest.approx(painter.chance(256), rel=0.03)


def test_paints_smooth_gradients_better_than_the_mean_colour():
    place = torch.linspace(-1, 1, 16)
    slopes = torch.rand(32, 3, 2, 1, 1) - 0.5
    images = 0.5 + 0.5 * (slopes[:, :, 0] * place[:, None] + slopes[:, :, 1] * place)
    painter = method(mask="region")
    painter.prepare(data(images))
    optimizer = torch.optim.Adam(painter.parameters(), lr=0.003)
    for _ in range(30):
        optimizer.zero_grad()
        painter({"image": images}).backward()
        optimizer.step()
    drop = region(32, 16, torch.device("cpu")).float()
    filled = painter.fill(images, drop.bool())
    mean_psnr = -10 * reconstruction(filled, images, drop).log10()
    painter({"image": images})
    assert painter.metrics["psnr_db"] > mean_psnr + 3


def test_pictures_change_only_the_hole():
    painter = method().eval()
    pictures = painter.pictures(batch())
    assert list(pictures) == ["image", "hole", "predicted", "nearest"]
    known = pictures["hole"] == pictures["image"]
    for name in ("predicted", "nearest"):
        assert torch.equal(pictures[name][known], pictures["image"][known])
        assert not torch.equal(pictures[name], pictures["image"])


@pytest.mark.parametrize("mask", MASKS)
def test_the_nearest_image_is_the_one_with_the_same_surroundings_whatever_is_in_the_hole(mask):
    painter = method(mask=mask).eval()
    surroundings = torch.rand(3, 3, 16, 16).repeat_interleave(2, 0)
    drop = painter.drop(surroundings[:3]).repeat_interleave(2, 0)
    images = torch.where(drop, torch.rand(6, 3, 16, 16), surroundings)
    partner = torch.tensor([1, 0, 3, 2, 5, 4])
    assert torch.equal(painter.nearest(images, drop), images[partner])
    other = torch.where(drop, torch.rand(6, 3, 16, 16), images)
    assert torch.equal(painter.nearest(other, drop), other[partner])


def test_a_single_image_has_no_nearest_one():
    painter = method().eval()
    pictures = painter.pictures(batch(1))
    hole = pictures["hole"] != pictures["image"]
    assert (pictures["nearest"][hole] == 0.5).all()
