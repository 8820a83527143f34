"""Networks of one's own: wrong ones are refused in one line, and named ones are found again only when named again."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlabeled import encoders, load, pretrain
from unlabeled.data import open_data
from unlabeled.encoders import from_timm, image
from unlabeled.evaluation import twins

NETS = """
from torch import nn
IMPORTED = True
def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
def sized(in_channels, image_size, width=7):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, width))
class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        import torch
        self.weights = nn.Parameter(torch.randn(3, 4))
    def forward(self, x):
        return x.mean((2, 3)) @ self.weights
def encoder(in_channels, image_size):
    from unlabeled import encoders
    return encoders.build("conv4", in_channels=in_channels, image_size=image_size)
def frozen():
    return nn.Sequential(nn.Conv2d(3, 8, 3)).requires_grad_(False)
def broken():
    raise RuntimeError("no such file")
network = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working folder, not yet imported, and gone afterwards."""
    (tmp_path / "nets_of_a_test.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "nets_of_a_test"
    sys.modules.pop("nets_of_a_test", None)


def grey(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 20, 1), dtype="uint8")
    np.save(tmp_path / "grey.npy", pixels)
    return tmp_path / "grey.npy"


def train(data: Path, encoder: Any, out: Path, **more: Any) -> Any:
    settings = {"steps": 2, "batch_size": 4, "quiet": True} | more
    return pretrain("simclr", data, encoder=encoder, out=out, **settings)


def test_a_named_network_is_trained_saved_by_name_and_opened_when_named_again(
    nets: str, tmp_path: Path
) -> None:
    data, name = grey(tmp_path), f"{nets}:make"
    run = train(data, name, tmp_path / "run")
    assert run.config["settings"]["encoder"] == name and run.own_network
    assert run.encoder.config["network_channels"] == 3  # the one channel is repeated for it
    opened = load(tmp_path / "run", encoder=name)
    x = torch.rand(2, 1, 20, 20)
    torch.testing.assert_close(opened.encoder(x), run.encoder(x))
    batch = open_data(data, channels=1).sample(4)
    torch.testing.assert_close(opened.method.embedding(batch), run.method.embedding(batch))
    other = load(tmp_path / "run", encoder=nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()))
    torch.testing.assert_close(other.encoder(x), run.encoder(x))


def test_nothing_that_a_run_names_is_imported(nets: str, tmp_path: Path) -> None:
    data, name = grey(tmp_path), f"{nets}:make"
    train(data, name, tmp_path / "run")
    del sys.modules[nets]
    with pytest.raises(ValueError, match=rf"module must be given: .* --encoder {name}, .*encoders.load"):
        _ = load(tmp_path / "run").encoder
    with pytest.raises(ValueError, match=rf"--encoder {name}"):
        pretrain("simclr", data, out=tmp_path / "run", resume=True, quiet=True)
    with pytest.raises(ValueError, match=rf"encoder must be named again to repeat .*--encoder {name}"):
        pretrain("simclr", data, out=tmp_path / "new", config=tmp_path / "run" / "run.toml", quiet=True)
    assert nets not in sys.modules
    again = train(data, name, tmp_path / "new", config=tmp_path / "run" / "run.toml")
    assert again.config["settings"]["encoder"] == name


def test_a_run_with_a_named_network_resumes_when_it_is_named(nets: str, tmp_path: Path) -> None:
    data, name = grey(tmp_path), f"{nets}:make"
    whole = train(data, name, tmp_path / "run")
    resumed = pretrain("simclr", data, out=tmp_path / "run", resume=True, encoder=name, quiet=True)
    for key, value in whole.encoder.state_dict().items():
        assert torch.equal(resumed.encoder.state_dict()[key], value)


def test_a_run_with_a_network_that_was_brought_can_be_opened_by_a_name(nets: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
    run = train(grey(tmp_path), network, tmp_path / "run")
    assert run.config["settings"]["encoder"] == "own"
    x = torch.rand(2, 1, 20, 20)
    torch.testing.assert_close(load(tmp_path / "run", f"{nets}:make").encoder(x), run.encoder(x))
    with pytest.raises(ValueError, match="weights must fit"):
        _ = load(tmp_path / "run", f"{nets}:sized").encoder


def test_a_run_with_one_of_our_networks_takes_no_other(tmp_path: Path) -> None:
    train(grey(tmp_path), "conv4", tmp_path / "run")
    with pytest.raises(ValueError, match=r"encoder must be left out for .*, which holds a conv4, got a:b"):
        _ = load(tmp_path / "run", encoder="a:b").encoder


def test_functions_are_given_what_they_take(nets: str, tmp_path: Path) -> None:
    data = open_data(grey(tmp_path))
    encoder = encoders.fitted(f"{nets}:sized", data, image_size=10)
    assert encoder.dim == 7 and encoder.eval()(torch.rand(3, 1, 10, 10)).shape == (3, 7)
    assert json.loads(json.dumps(encoder.config))["name"] == f"{nets}:sized"


def test_named_networks_have_random_twins_that_resetting_could_not_give(nets: str, tmp_path: Path) -> None:
    encoder = encoders.fitted(f"{nets}:Bare", open_data(grey(tmp_path)))
    twin = twins.untrained(encoder.eval())
    assert not (twin.trunk.model.weights == encoder.trunk.model.weights).any()
    assert torch.equal(twin.adapt.mean, encoder.adapt.mean)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"encoder must be built by .*:broken.*RuntimeError: no such file"),
        ("nothing", r"that can be imported, got .*AttributeError"),
        ("network", r"encoder must name a function or class that builds a network, got .*a Linear"),
        ("number", r"encoder must name a function or class that builds a network, got .*an? int"),
    ],
)
def test_names_that_lead_nowhere_are_refused(function: str, message: str, nets: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        encoders.fitted(f"{nets}:{function}", open_data(grey(tmp_path)))
    with pytest.raises(ValueError, match="that can be imported, got no_such_module_at_all:x"):
        encoders.fitted("no_such_module_at_all:x", open_data(grey(tmp_path)))
    with pytest.raises(ValueError, match=r"encoder must be a name, module:function or a network, got make"):

        def make() -> nn.Module:
            return nn.Linear(1, 1)

        train(grey(tmp_path), make, tmp_path / "x")


class Gives(nn.Module):
    """A network whose output is made by a function."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.answer = nn.Conv2d(3, 4, 3), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.layer(x))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda maps: (maps, maps), r"got a tuple of 2; let it return the tensor of the features alone"),
        (lambda maps: {"x": maps}, r"got a dict of 1"),
        (lambda maps: maps.flatten(2), r"got \(2, 4, 196\); tokens must be averaged"),
        (lambda maps: maps.mean(), r"got \(\) for 2 images"),
        (lambda maps: maps.mean(0), r"got \(4, 14, 14\)"),
        (lambda maps: maps.mean((2, 3))[:1], r"got \(1, 4\) for 2 images"),
        (lambda maps: maps.mean((2, 3))[:, :0], r"got \(2, 0\) for 2 images"),
        (lambda maps: maps.mean((2, 3)).argmax(1, keepdim=True), r"got numbers of type torch.int64"),
        (lambda maps: None, r"got a NoneType"),
        (lambda maps: maps @ torch.rand(3, 3), r"failed on them \(RuntimeError: .*image_size"),
        (lambda maps: 1 / 0, r"failed on them \(ZeroDivisionError"),
    ],
)
def test_wrong_networks_are_refused_in_one_line(answer: Callable[[Tensor], Any], message: str) -> None:
    network = Gives(answer).train()
    with pytest.raises(ValueError, match=message) as caught:
        encoders.wrap(network, image_size=16)
    assert "\n" not in str(caught.value) and network.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_of_other_numbers_than_those_of_images_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"failed on them \(RuntimeError"):
        encoders.wrap(nn.Conv2d(3, 4, 3, dtype=dtype), in_channels=3, image_size=9)


def test_networks_for_other_channels_see_one_repeated_or_the_grey_of_three() -> None:
    network, x = nn.Conv2d(3, 4, 3), torch.rand(2, 1, 9, 9)
    encoder = encoders.wrap(network, in_channels=1, image_size=9)
    torch.testing.assert_close(encoder(x), network(encoder.adapt(x)).mean((2, 3)))
    assert encoder.adapt(x).shape[1] == 3 and len(encoder.notes) == 1
    lightness = encoders.wrap(network, in_channels=3, image_size=9, input="lightness")
    assert lightness(torch.rand(2, 3, 9, 9)).shape == (2, 4)
    grey = encoders.wrap(nn.Conv2d(1, 4, 3), in_channels=3, image_size=9)
    red = torch.zeros(1, 3, 9, 9)
    red[:, 0] = 1
    torch.testing.assert_close(grey.adapt.channels(red), torch.full((1, 1, 9, 9), 0.299))
    with pytest.raises(ValueError, match="failed on them"):
        encoders.wrap(nn.Conv2d(3, 4, 3), in_channels=5, image_size=9)


def test_networks_without_anything_to_train_and_weights_beside_a_network_are_refused(tmp_path: Path) -> None:
    frozen = nn.Conv2d(3, 4, 3).requires_grad_(False)
    with pytest.raises(
        ValueError, match="encoder must have weights that can be trained, got Conv2d without any"
    ):
        train(grey(tmp_path), frozen, tmp_path / "x")
    for option in ({"weights": "w.pt"}, {"init": "rescaled"}):
        with pytest.raises(
            ValueError, match=f"{next(iter(option))} must be left out where encoder is a network"
        ):
            train(grey(tmp_path), nn.Conv2d(3, 4, 3), tmp_path / "x", **option)
    with pytest.raises(ValueError, match="controls must be raw or none for a network without weights"):
        twins.untrained(encoders.wrap(nn.Flatten(), image_size=4))


def test_small_crops_of_a_network_for_one_size_are_refused_in_one_line() -> None:
    from unlabeled.methods.swav import SwAV

    encoder: Any = encoders.build("dense", image_size=32)
    assert encoder.takes(32) and not encoder.takes(16) and encoder.training
    with pytest.raises(
        ValueError, match=r"local_crops must be 0 for dense, which takes no crops of 16 pixels, got 4"
    ):
        SwAV(encoder)
    SwAV(encoder, local_crops=0)


VITS = ["test_vit", "swin_tiny_patch4_window7_224", "vit-small"]


@pytest.mark.parametrize("name", VITS)
def test_networks_of_patches_say_which_sizes_are_near_and_take_them(name: str) -> None:
    size = 37 if name == "vit-small" else 50
    with pytest.raises(
        ValueError, match=rf"image_size must suit {name}, got {size} .* Take \d+ or \d+"
    ) as caught:
        encoders.build(name, image_size=size)
    near = [int(word) for word in str(caught.value).rpartition("Take ")[2].split(" or ")]
    assert (
        near == image.nearest_sizes(name, 3, size, image.refusal(name, 3, size)) and near[0] < size < near[1]
    )
    for fine in near:
        assert not image.refusal(name, 3, fine)


def test_the_nearest_size_is_chosen_where_the_user_names_none(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 50, 50, 3), dtype="uint8")
    np.save(tmp_path / "d.npy", pixels)
    run = train(tmp_path / "d.npy", "vit_tiny_patch16_224", tmp_path / "run", steps=1)
    assert run.config["settings"]["image_size"] == run.encoder.config["image_size"] == 48
    with pytest.raises(ValueError, match="Take 48 or 64"):
        train(tmp_path / "d.npy", "vit_tiny_patch16_224", tmp_path / "x", image_size=50)
    encoder = encoders.fitted("vit_tiny_patch16_224", open_data(tmp_path / "d.npy"))
    assert encoder.notes[0].startswith("image_size 48, not 50, for vit_tiny_patch16_224")


def test_models_for_one_size_take_crops_of_others_where_timm_allows_it() -> None:
    for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224"):
        trunk = from_timm.any_timm(name, 3, 64).eval()
        assert trunk(torch.rand(1, 3, 32, 48)).shape == (1, 192)


def test_layers_that_a_method_has_added_to_an_encoder_of_a_function_are_built_again(
    nets: str, tmp_path: Path
) -> None:
    data, name = grey(tmp_path), f"{nets}:encoder"
    run = train(data, name, tmp_path / "run", feature_layer=1)
    opened, twin = load(tmp_path / "run", encoder=name).encoder, twins.untrained(run.encoder)
    x = torch.rand(2, 1, 20, 20)
    torch.testing.assert_close(opened.eval()(x), run.encoder.eval()(x))
    assert opened.config["neck"] == twin.config["neck"] == run.encoder.config["neck"] == [256]


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3)).detach()


def test_what_training_would_not_change_is_refused_for_training_only(nets: str, tmp_path: Path) -> None:
    data = grey(tmp_path)
    with pytest.raises(
        ValueError, match=r"encoder must give features that gradients go through, got Detached"
    ):
        train(data, Detached(), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"encoder must have weights that can be trained, got Sequential without"
    ):
        train(data, f"{nets}:frozen", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert encoders.wrap(Detached())(torch.zeros(1, 3, 32, 32)).shape == (1, 8)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("timm:resnet18", "NAME without timm:"), ("torchvision:resnet18", "torchvision.models:NAME")],
)
def test_names_of_weights_are_told_from_those_of_networks(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"its networks are {hint}; pretrained ones are weights={name}"):
        train(grey(tmp_path), name, tmp_path / "run")
