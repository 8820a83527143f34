import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unlabeled import encoders, pretrain
from unlabeled.data import open_data
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.stages import Stages
from unlabeled.methods.denoising import Denoising, loss
from unlabeled.run import CHECKPOINT, read_checkpoint


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


def test_full_emphasis_ignores_untouched_elements():
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


def test_images_are_corrupted_in_training_and_never_in_evaluation():
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


def test_with_everything_corrupted_the_best_prediction_is_the_mean_of_the_clean_images():
    images = torch.rand(64, 1, 4, 4)
    method = Denoising(connected(), amount=1.0, decoder="linear", crop=1.0, flip=0.0)
    method.prepare(data(images))
    nn.init.zeros_(method.decoder.last.weight)
    method({"image": images}).backward()
    assert method.decoder.last.bias.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["squared", "cross_entropy"])
def test_masked_elements_are_filled_in_better_than_by_the_mean_image(kind):
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


def test_amounts_above_everything_are_refused():
    with pytest.raises(ValueError, match=r"amount must be between 0 and 1, got 1\.5"):
        Denoising(connected(), amount=1.5)
    Denoising(connected(), noise="gaussian", amount=1.5)
    with pytest.raises(ValueError, match="emphasis"):
        Denoising(connected(), emphasis=2.0)
    with pytest.raises(ValueError, match="amount must be above 0"):
        Denoising(connected(), emphasis=1.0, amount=0.0)


def stack(progress=0.0, size=8, **options):
    """Layers of conv4 trained one by one: the one whose turn it is at some progress."""
    encoder = encoders.build("conv4", image_size=size)
    method = Denoising(encoder, stacked=True, crop=1.0, flip=0.0, **options)
    method.after_step(progress)
    return method


def test_stacked_layers_train_equally_long_and_then_together():
    turns = [stack(progress).decoder.stage for progress in (0, 0.19, 0.21, 0.41, 0.61, 0.79, 0.81, 1)]
    assert turns == [0, 0, 1, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("layer", range(4))
def test_a_layer_restores_the_clean_output_of_those_before_it_in_value_and_gradient(layer):
    method, images = stack(0.01 + layer / 5, amount=0.0), torch.rand(6, 3, 8, 8)
    stages, decoder = list(method.encoder.trunk.values()), method.decoder.decoders[layer]
    torch.nn.init.normal_(decoder.last.weight, std=0.1)
    method({"image": images}).backward()
    gradient = stages[layer][0].weight.grad.clone()
    value = method({"image": images})
    method.zero_grad()
    code = method.encoder.adapt(images)
    with torch.no_grad():
        for stage in stages[:layer]:
            code = stage.eval()(code)
    target = code if layer else images
    drawn = decoder(stages[layer](code)) + (0 if layer else 0.5)
    twin = ((drawn - target) ** 2).sum() / target.numel()
    twin.backward()
    torch.testing.assert_close(value, twin)
    torch.testing.assert_close(stages[layer][0].weight.grad, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("noise", ["mask", "salt_pepper", "gaussian"])
def test_a_hidden_layer_gets_its_clean_input_with_a_part_corrupted(noise):
    method, given = stack(0.3, noise=noise, amount=0.25), []
    stages = list(method.encoder.trunk.values())
    stages[1].register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    images = torch.rand(6, 3, 8, 8)
    method({"image": images})
    clean = stages[0].eval()(method.encoder.adapt(images))
    peak = clean.flatten(1).amax(1)[:, None, None, None].expand_as(clean)
    if noise == "gaussian":
        assert ((given[0] - clean) / peak).std().item() == pytest.approx(0.25, rel=0.03)
        return
    kept = (given[0] - clean).abs() < 1e-5
    values = given[0][~kept] / peak[~kept]
    low, high = values.abs() < 1e-5, (values - 1).abs() < 1e-5
    assert (low | high).all() and bool(high.any()) == (noise == "salt_pepper")
    assert (~kept).flatten(1).sum(1).max() <= 512 and 0.05 < (~kept).float().mean() <= 0.25


@pytest.mark.parametrize("layer", range(5))
def test_only_the_current_layer_learns_and_the_norms_of_the_others_do_not_change(layer):
    method, images = stack(0.01 + layer / 5), torch.rand(6, 3, 8, 8)
    before = {name: value.clone() for name, value in method.named_buffers()}
    for _ in range(2):
        torch.optim.SGD(method.parameters(), lr=0.1).zero_grad()
        method({"image": images}).backward()
        torch.optim.SGD(method.parameters(), lr=0.1).step()
    parts = [f"encoder.trunk.s{layer + 1}.", f"decoder.decoders.{layer}."]
    for name, parameter in method.named_parameters():
        its_turn = layer == 4 or name.startswith(tuple(parts))
        assert (parameter.grad is not None) == its_turn, name
        assert not its_turn or parameter.ndim == 1 or parameter.grad.abs().sum() > 0, name
    moved = {name for name, value in method.named_buffers() if not torch.equal(value, before[name])}
    norms = {name for name in before if "running" in name or "batches" in name}
    assert moved == {name for name in norms if layer == 4 or name.startswith(tuple(parts))}
    assert method.metrics["layer"] == layer + 1


def test_all_layers_together_reconstruct_the_image_through_all_decoders():
    method, images = stack(0.9), torch.rand(4, 3, 8, 8)
    features = list(method.encoder.eval().maps(images).values())[-1]
    for decoder in reversed(method.decoder.eval().decoders):
        features = decoder(features)
    torch.testing.assert_close(method.predict(images), method.mean + features)


def test_chance_is_the_error_of_the_mean_image_and_unknown_for_hidden_layers():
    images = torch.rand(64, 3, 8, 8)
    for progress, known in ((0.1, True), (0.3, False), (0.7, False), (0.9, True)):
        method = stack()
        method.prepare(data(images))
        method.after_step(progress)
        assert (method.chance(64) is not None) == known
        assert method.whole_task == (progress > 0.8)
    assert Denoising(encoders.build("conv4", image_size=8)).whole_task


def test_an_interrupted_stacked_run_resumes_bit_exactly(tmp_path):
    images = open_data(torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8))
    settings = {
        "encoder": "conv4",
        "stacked": True,
        "batch_size": 16,
        "steps": 12,
        "quiet": True,
        "holdout": 0.1,
    }
    whole = pretrain("denoising", images, out=tmp_path / "whole", **settings)

    def stop(step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain("denoising", images, out=tmp_path / "parts", on_step=stop, **settings)
    resumed = pretrain("denoising", images, out=tmp_path / "parts", resume=True, quiet=True)
    first, second = (read_checkpoint(run.path / CHECKPOINT)[0] for run in (whole, resumed))
    for group, tensors in first.items():
        assert all(torch.equal(value, second[group][name]) for name, value in tensors.items())
    assert [entry["metrics"]["layer"] for entry in whole.history] == pytest.approx([1, 7 / 3, 10 / 3, 14 / 3])
    assert whole.history[3]["chance"] == float(whole.method.baseline)
    # The first step of the fourth epoch still trains a layer alone.
    assert [entry.get("partial") for entry in resumed.history] == [True] * 4


def test_stages_of_single_layers_have_no_held_out_loss(tmp_path):
    images = open_data(torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8))
    settings = {"encoder": "conv4", "batch_size": 18, "epochs": 10, "quiet": True, "holdout": 0.1}
    history = pretrain("denoising", images, out=tmp_path / "run", stacked=True, **settings).history
    layers = [entry["metrics"]["layer"] for entry in history]
    assert layers == pytest.approx([1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    assert ["holdout_loss" in entry for entry in history] == [layer == 5 for layer in layers]
    assert [entry.get("partial", False) for entry in history] == [layer < 5 for layer in layers]
    joint = pretrain("denoising", images, out=tmp_path / "joint", **settings).history
    assert all("holdout_loss" in entry and "partial" not in entry for entry in joint)


def trained_layer_by_layer(images, unseen):
    """A stack of two layers after joint training, and errors of elements of unseen images along the way, by step."""
    widths = {"first": (16, 48), "second": (48, 24)}
    stages = {
        name: nn.Sequential(nn.Flatten(), nn.Linear(*sides), nn.Sigmoid(), nn.Unflatten(1, (sides[1], 1, 1)))
        for name, sides in widths.items()
    }
    encoder = encoders.ImageEncoder(Adapt("color", 1), Stages(stages, [48, 24]), {"image_size": 4})
    method = Denoising(encoder, stacked=True, decoder="linear", emphasis=1.0, crop=1.0, flip=0.0)
    method.prepare(data(images))
    optimizer, errors = torch.optim.Adam(method.parameters(), lr=0.02), {}
    noisy, where = method.corrupt(unseen)
    for step in range(300):
        if step in (0, 200, 299):
            errors[step] = float((method.predict(noisy) - unseen)[where].square().mean().detach())
        optimizer.zero_grad()
        method({"image": images}).backward()
        optimizer.step()
        method.after_step((step + 1) / 300)
    return errors, float((method.mean - unseen)[where].square().mean())


def test_layers_trained_one_by_one_restore_images_and_do_so_better_after_joint_training():
    images = (0.5 + 0.2 * torch.randn(512, 3) @ torch.randn(3, 16)).clamp(0, 1).view(512, 1, 4, 4)
    errors, of_mean = trained_layer_by_layer(images, images)
    assert errors[200] < 0.8 * errors[0] and errors[299] < 0.9 * errors[200] and errors[299] < 0.5 * of_mean


def test_layers_trained_one_by_one_do_not_beat_the_mean_image_where_nothing_can_be_learned():
    errors, of_mean = trained_layer_by_layer(torch.rand(512, 1, 4, 4), torch.rand(512, 1, 4, 4))
    assert min(errors.values()) > 0.98 * of_mean


def test_only_chains_of_layers_are_stacked_and_the_default_has_no_more_state():
    with pytest.raises(
        ValueError, match="encoder must be a chain of layers such as conv4 if stacked, got resnet10"
    ):
        Denoising(encoders.build("resnet10", image_size=32), stacked=True)
    names = dict(Denoising(encoders.build("conv4", image_size=8)).named_buffers())
    assert {name for name in names if not name.startswith(("encoder.", "decoder.stages."))} == {
        "mean",
        "baseline",
    }
