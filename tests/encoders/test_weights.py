"""Pretrained weights: found under any prefix, proven to fit, and told apart from those of a larger network."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.encoders import build

IMAGES = torch.rand(2, 3, 72, 72, generator=torch.Generator().manual_seed(0))
PREFIXES = {
    "DDP": "module.",
    "MoCo": "module.encoder_q.",
    "Lightning": "model.backbone.",
    "DINO": "teacher.backbone.",
    "VISSL": "classy_state_dict.base_model.model.trunk._feature_blocks.",
    "solo-learn": "state_dict.backbone.",
    "timm": "state_dict.",
    "compiled": "_orig_mod.",
}


@pytest.fixture(scope="module")
def resnet() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = timm.create_model("resnet18", num_classes=5).state_dict()
    return {
        key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()
    }


def nested(names: str, value: Any) -> dict[str, Any]:
    """A dictionary in which a dotted name is dictionaries within each other."""
    first, _, rest = names.partition(".")
    return {first: nested(rest, value) if rest else value}


def theirs(state: dict[str, Tensor]) -> nn.Module:
    model = timm.create_model("resnet18", num_classes=5)
    model.load_state_dict(state, strict=False)
    model.reset_classifier(0)
    return model.eval()


def same(encoder: Any, state: dict[str, Tensor]) -> None:
    loaded, wanted = encoder.trunk.model.state_dict(), theirs(state).state_dict()
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("library", PREFIXES)
def test_prefixes_of_other_libraries_are_no_obstacle(
    library: str, resnet: dict[str, Tensor], tmp_path: Path
) -> None:
    prefix = PREFIXES[library]
    save_file({f"{prefix}{key}": value for key, value in resnet.items()}, tmp_path / "w.safetensors")
    encoder = build("resnet18", image_size=72, weights=tmp_path / "w.safetensors")
    same(encoder, resnet)
    assert (
        f"120 tensors of w.safetensors loaded, named {prefix}..., head fc (5 outputs) dropped"
        in encoder.notes[-1]
    )
    if prefix.count(".") == 1:  # as torch.save has them: dictionaries beside an optimizer and an epoch
        torch.save({prefix[:-1]: resnet, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
        same(build("resnet18", image_size=72, weights=tmp_path / "w.pth"), resnet)


def test_the_online_network_and_the_teacher_are_taken_before_their_copies(
    resnet: dict[str, Tensor], tmp_path: Path
) -> None:
    other = {key: torch.zeros_like(value) for key, value in resnet.items()}
    for first, second in (("encoder_q.", "encoder_k."), ("teacher.", "student."), ("net.", "momentum_net.")):
        state = {f"{second}{key}": value for key, value in other.items()}
        state |= {f"{first}{key}": value for key, value in resnet.items()}
        save_file(state, tmp_path / "w.safetensors")
        same(build("resnet18", image_size=72, weights=tmp_path / "w.safetensors"), resnet)


def test_children_of_a_resnet_in_a_sequential_are_recognised(
    resnet: dict[str, Tensor], tmp_path: Path
) -> None:
    sequential = nn.Sequential(*list(theirs(resnet).children())[:-1])
    save_file(
        {f"backbone.{key}": value for key, value in sequential.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    same(build("resnet18", image_size=72, weights=tmp_path / "w.safetensors"), resnet)


def test_counters_of_norms_may_be_missing_and_nothing_else(resnet: dict[str, Tensor], tmp_path: Path) -> None:
    state = {key: value for key, value in resnet.items() if "num_batches" not in key}
    save_file(state, tmp_path / "w.safetensors")
    encoder = build("resnet18", image_size=72, weights=tmp_path / "w.safetensors")
    same(encoder, resnet)
    assert "20 counters of norms at 0" in encoder.notes[-1]
    del state["layer3.0.bn1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights must fit resnet18, .*1 missing \(layer3.0.bn1.weight\)"):
        build("resnet18", image_size=72, weights=tmp_path / "w.safetensors")


def test_a_larger_network_is_not_cut_down_to_a_smaller_one(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"weights must fit resnet18, got w.pt: \d+ unexpected \(layer1.2"):
        build("resnet18", image_size=72, weights=tmp_path / "w.pt")


def test_shapes_that_differ_are_printed_with_the_size_that_they_fit(
    resnet: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(resnet, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=r"1 misshapen \(conv1.weight 64x3x7x7 for 64x3x3x3\)\. They fit with image_size=96"
    ):
        build("resnet18", image_size=48, weights=tmp_path / "w.safetensors")


def test_weights_that_are_not_finite_are_refused(resnet: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(resnet | {"bn1.bias": torch.full((64,), torch.nan)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights must be finite, got NaN or infinity in bn1.bias of w.saf"):
        build("resnet18", image_size=72, weights=tmp_path / "w.safetensors")


def test_weights_for_colours_on_grey_images_see_grey_in_every_channel(
    resnet: dict[str, Tensor], tmp_path: Path
) -> None:
    mild = theirs(resnet)
    state = {key: value for key, value in timm.create_model("resnet18", num_classes=0).state_dict().items()}
    mild.load_state_dict(state)
    save_file(state, tmp_path / "w.safetensors")
    grey = IMAGES[:, :1]
    encoder: Any = build("resnet18", image_size=72, in_channels=1, weights=tmp_path / "w.safetensors").eval()
    mean, std = (torch.tensor(mild.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))  # type: ignore[index]
    torch.testing.assert_close(encoder(grey), mild((grey.expand(-1, 3, -1, -1) - mean) / std))
    assert encoder.notes[0] == "the one channel of color is repeated for a network that takes 3 channels"
    encoder.save(tmp_path / "e.safetensors")
    assert torch.equal(encoders.load(tmp_path / "e.safetensors").eval()(grey), encoder(grey))
    data = open_data((IMAGES[:, :1] * 255).to(torch.uint8))
    fitted = encoders.fitted("resnet18", data, image_size=72, weights=tmp_path / "w.safetensors")
    assert torch.equal(fitted.eval()(grey), encoder(grey))


def test_weights_for_grey_on_colour_images_see_their_grey(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0, in_chans=1).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder: Any = build("resnet18", image_size=72, weights=tmp_path / "w.safetensors").eval()
    luma = (IMAGES * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(encoder(IMAGES), model((luma - encoder.adapt.mean) / encoder.adapt.std))
    assert encoder.notes[0] == "colours are converted to grey for a network that takes 1 channel"
    with pytest.raises(
        ValueError, match=r"take the 5 channels that input color has, got w\.safetensors, which take 1"
    ):
        build("resnet18", image_size=72, in_channels=5, weights=tmp_path / "w.safetensors")


def test_positions_of_a_vit_are_resampled_to_other_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit", num_classes=0, img_size=64, depth=1).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    arguments = {"image_size": 64, "weights": tmp_path / "w.pth"}
    with pytest.raises(ValueError, match="missing"):  # six blocks are not one
        build("test_vit", **arguments)
    whole: Any = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    torch.save({"model": whole.state_dict()}, tmp_path / "w.pth")
    encoder: Any = build("test_vit", image_size=96, weights=tmp_path / "w.pth").eval()
    assert "positions of 4x4 patches resampled to 6x6" in encoder.notes[-1]
    assert torch.equal(encoder.trunk.model.pos_embed[:, 0], whole.pos_embed[:, 0])
    kept = build("test_vit", **arguments).eval()
    x = IMAGES[:, :, :64, :64]
    expected = whole((x - kept.adapt.mean[:, None, None]) / kept.adapt.std[:, None, None])
    torch.testing.assert_close(kept(x), expected)


def test_pickles_that_need_code_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hparams": argparse.Namespace(lr=1)}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match=r"weights must be tensors alone, got w.ckpt .*Namespace") as caught:
        build("conv4", weights=tmp_path / "w.ckpt")
    assert "\n" not in str(caught.value)
    (tmp_path / "w.pt").write_bytes(b"no file of torch")
    with pytest.raises(ValueError, match=r"w.pt must be a readable file of torch|weights must be tensors"):
        build("conv4", weights=tmp_path / "w.pt")
    torch.save({"epoch": 1}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"weights must hold tensors by name, got w.pt without any"):
        build("conv4", weights=tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"weights must be a file that ends in one of .safetensors, .*got w.h5"
    ):
        (tmp_path / "w.h5").touch()
        build("conv4", weights=tmp_path / "w.h5")
    with pytest.raises(ValueError, match="weights must be a file or folder that exists"):
        build("conv4", weights=tmp_path / "none.pt")


def test_an_encoder_that_names_another_file_is_refused(tmp_path: Path) -> None:
    build("conv4", image_size=8).save(tmp_path / "other.safetensors")
    config = {
        "kind": "image",
        "name": "conv4",
        "image_size": 8,
        "weights": str(tmp_path / "other.safetensors"),
    }
    save_file(
        load_file(tmp_path / "other.safetensors"),
        tmp_path / "x.safetensors",
        metadata={"unlabeled": json.dumps(config)},
    )
    with pytest.raises(ValueError, match="its architecture names another file"):
        encoders.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("about", ["[]", "{", json.dumps({"neck": [-1]}), json.dumps({"neck": 3})])
def test_headers_that_hold_anything_are_refused_in_one_line(about: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(build("conv4", image_size=16).state_dict(), path, {"unlabeled": about})
    with pytest.raises(ValueError, match=r"weights must be of an encoder, got w\.safetensors: "):
        build("conv4", image_size=16, weights=path)
