"""The first layer of atoms: what it is made of, how it scales, and which networks have one."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unlabeled
from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.encoders import ImageEncoder, fill_first_layer_, first_layer
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.first_layer import first_convolution, folded
from unlabeled.encoders.stages import Stages
from unlabeled.parts.dictionary import Dictionary


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for small networks, in less time."""
    monkeypatch.setattr(first_layer, "PATCHES", 5_000)


def smooth(count: int = 64, channels: int = 3, size: int = 16) -> Tensor:
    """Images whose pixels are correlated, in 0..1."""
    noise = torch.rand(count, channels, size + 4, size + 4, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 5, 1) * 0.7 + 0.3 * noise[:, :, 2:-2, 2:-2]


def one_layer(filters: int = 16, side: int = 3, bias: bool = True, channels: int = 3) -> ImageEncoder:
    torch.manual_seed(1)
    trunk = Stages({"s1": nn.Conv2d(channels, filters, side, bias=bias)}, [filters])
    return ImageEncoder(Adapt(in_channels=channels), trunk, {"name": "one", "image_size": 16})


def layer(encoder: ImageEncoder) -> nn.Conv2d:
    return next(part for part in encoder.trunk.modules() if isinstance(part, nn.Conv2d))


def test_planted_atoms_become_the_filters() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.cat([torch.ones(27, 1), torch.randn(27, 8, generator=generator)], 1))[0]
    basis = basis.T[1:]  # without a mean, like the patches that are compared
    kinds = torch.randint(8, (600,), generator=generator)
    sizes = (0.2 + 0.3 * torch.rand(600, 1, generator=generator)) * torch.randn(
        600, 1, generator=generator
    ).sign()
    images = (0.5 + sizes * basis[kinds]).view(600, 3, 3, 3)  # each image is one patch
    encoder = one_layer()
    fill_first_layer_(encoder, images)
    likeness = (F.normalize(layer(encoder).weight.flatten(1), dim=1) @ basis.T).abs()
    assert (likeness.amax(0) > 0.99).all(), "each planted atom is a filter"
    assert (likeness.amax(1) > 0.99).all(), "and no filter is anything else"


@pytest.mark.parametrize("bias", [False, True])
def test_every_channel_has_variance_1_and_mean_0(bias: bool) -> None:
    encoder, images = one_layer(bias=bias), smooth()
    fill_first_layer_(encoder, images)
    maps = encoder.maps(images)["s1"]
    assert (maps.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert not bias or maps.mean((0, 2, 3)).abs().max() < 0.05
    brighter = encoder.maps(images + 0.1)["s1"]
    assert not bias or (brighter - maps).abs().max() < 1e-4, "what all channels share does not count"


def test_whitening_in_the_filters_equals_the_two_steps() -> None:
    torch.manual_seed(0)
    patches = F.unfold(smooth(20), 3).transpose(1, 2).reshape(-1, 27)
    atoms = Dictionary(10, 27, eps=0.01, whitening_eps=0.1).train()
    atoms.begin(patches)
    atoms(patches)
    filters = folded(atoms)
    for patch in patches[:20]:
        white = atoms.whitening @ (patch - patch.mean())
        torch.testing.assert_close(filters @ patch, atoms.atoms @ white, rtol=1e-4, atol=1e-5)


def test_filters_decorrelate_neighbours_that_pixels_share() -> None:
    """Smooth images hide fine detail from random filters; whitened ones answer to it."""
    encoder, images = one_layer(24), smooth()
    fine = torch.tensor([1.0, -1.0]).repeat(8)[:, None] * torch.tensor([1.0, -1.0]).repeat(8)

    def answer() -> float:
        with torch.no_grad():
            flat, detailed = (encoder.maps(x)["s1"] for x in (images, images + 0.05 * fine))
        return float(((detailed - flat).std() / flat.std()).mean())

    before = answer()
    fill_first_layer_(encoder, images)
    assert answer() > 1.5 * before


@pytest.mark.parametrize(
    ("name", "channels", "input"),
    [
        ("conv4", 3, "color"),
        ("conv4", 1, "color"),
        ("conv4", 5, "color"),
        ("alexnet", 3, "sobel"),
        ("nin", 3, "lab"),
        ("resnet10", 3, "color"),
        ("vit-small", 3, "color"),
    ],
)
def test_only_the_first_weights_change_and_the_state_has_the_same_names(
    name: str, channels: int, input: Any
) -> None:
    encoder = encoders.build(name, in_channels=channels, image_size=16, input=input)
    before = copy.deepcopy(encoder.state_dict())
    said = fill_first_layer_(encoder, smooth(32, channels))
    after = encoder.state_dict()
    assert list(before) == list(after)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    first = next(key for key, part in encoder.named_modules() if isinstance(part, nn.Conv2d))
    assert f"{first}.weight" in changed and changed <= {f"{first}.weight", f"{first}.bias"}
    assert encoder.config["init"] == "dictionary" and encoder.training
    height = layer(encoder).kernel_size[0]
    filters = len(layer(encoder).weight)
    line = f"the {filters} filters of the first layer are initialised with atoms of {height}x{height} patches"
    assert said == line


def test_timm_networks_and_custom_networks_are_supported() -> None:
    encoder = encoders.build("resnet18", image_size=66)
    fill_first_layer_(encoder, smooth(8, size=66))
    assert layer(encoder).kernel_size == (7, 7)
    own = encoders.wrap(nn.Sequential(nn.Identity(), nn.Conv2d(3, 8, (2, 3)), nn.ReLU()), image_size=16)
    fill_first_layer_(own, smooth(16))
    assert (own.maps(smooth(16))["last"]).isfinite().all()


def test_filters_depend_on_the_seed() -> None:
    def weights(seed: int) -> Tensor:
        encoder = one_layer()
        torch.manual_seed(seed)
        fill_first_layer_(encoder, smooth())
        return layer(encoder).weight

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))


def test_constant_images_leave_finite_weights() -> None:
    encoder = one_layer()
    fill_first_layer_(encoder, torch.full((4, 3, 16, 16), 0.5))
    assert all(parameter.isfinite().all() for parameter in encoder.parameters())


class Squared(nn.Module):
    """A convolution of something else than the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.square())


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3)), r"Conv2d\(3, 8, kernel_size=\(1, 1\).*"),
        (nn.Conv2d(3, 9, 3, groups=3), r"Conv2d\(3, 9.*groups=3.*"),
        (nn.Conv2d(3, 9, 3, dilation=2), r"Conv2d\(3, 9.*dilation=\(2, 2\).*"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), "BatchNorm2d.*"),
        (Squared(), "Conv2d.*"),
        ("dense", r"Linear\(in_features=768.*"),
        ("dictionary-16", "no such layer"),
    ],
)
def test_other_first_layers_are_refused(network: nn.Module | str, got: str) -> None:
    if isinstance(network, str):
        encoder, name = encoders.build(network, image_size=16), network
    else:
        encoder, name = encoders.wrap(network, image_size=16), "own"
    with pytest.raises(ValueError, match=f"init dictionary needs .* got {got} in {name}"):
        fill_first_layer_(encoder, smooth(4))


def test_filters_larger_than_images_are_refused() -> None:
    encoder = encoders.wrap(nn.Conv2d(3, 8, 5, padding=2), image_size=4)
    with pytest.raises(ValueError, match=r"image_size must be at least 5 with init dictionary, .*, got 4"):
        fill_first_layer_(encoder, smooth(4, size=4))


def test_the_search_leaves_no_hooks_and_restores_the_mode() -> None:
    encoder = encoders.build("conv4", image_size=16)
    statistics = copy.deepcopy(dict(encoder.named_buffers()))
    first_convolution(encoder.trunk, smooth(4), "conv4")
    assert encoder.training and not any(part._forward_pre_hooks for part in encoder.modules())
    assert all(torch.equal(value, statistics[name]) for name, value in encoder.named_buffers())


def pictures() -> Tensor:
    return (255 * smooth(24)).to(torch.uint8)


def test_a_run_logs_it_and_resumes_bit_exactly(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    settings: Any = {"encoder": "conv4", "init": "dictionary", "batch_size": 8, "steps": 4}
    whole = unlabeled.pretrain("rotnet", open_data(pictures()), out=tmp_path / "whole", **settings)
    assert "the 32 filters of the first layer are initialised with atoms of 3x3 patches" in "".join(
        capfd.readouterr()
    )
    assert tomllib.loads((whole.path / "run.toml").read_text())["settings"]["init"] == "dictionary"

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    cut: Any = {"out": tmp_path / "cut", "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        unlabeled.pretrain("rotnet", open_data(pictures()), on_step=stop, **cut, **settings)
    again = unlabeled.pretrain("rotnet", open_data(pictures()), resume=True, **cut)
    state = again.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.encoder.state_dict().items())
    settings |= {"init": "default", "steps": 1}
    plain = unlabeled.pretrain(
        "rotnet", open_data(pictures()), out=tmp_path / "plain", quiet=True, **settings
    )
    assert list(plain.encoder.state_dict()) == list(state)


@pytest.mark.usefixtures("small_worlds")
def test_it_works_only_for_images_and_without_weights(tmp_path: Path) -> None:
    data = open_data(pictures())
    encoders.fitted("conv4", data).save(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"init must be default or rescaled with weights, .* got dictionary"):
        encoders.fitted("conv4", data, init="dictionary", weights=tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="init must be default for encoders of audio, got dictionary"):
        encoders.fitted("gru3", open_data("tones"), kind="audio", init="dictionary")
