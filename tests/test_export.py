"""Each format is read by the other library and gives the same features."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unlabeled import encoders
from unlabeled.export import export


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def fitted(name: str, images: torch.Tensor, **arguments) -> encoders.Encoder:
    torch.manual_seed(0)
    encoder = encoders.build(name, **arguments)
    encoder.adapt.fit(images)
    encoder(images)
    return encoder


def test_safetensors_loads_equal_and_overwrites(images: torch.Tensor, tmp_path: Path) -> None:
    encoder = fitted("conv4", images)
    out = tmp_path / "new" / "x.safetensors"
    export(SimpleNamespace(encoder=encoder), out)
    result = export(SimpleNamespace(encoder=encoder), out)
    assert result == (out, 0)
    assert encoder.training
    assert torch.equal(encoders.load(result.path).eval()(images), encoder.eval()(images))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_timm_makes_the_same_model_from_the_folder(images: torch.Tensor, tmp_path: Path) -> None:
    import timm
    from timm.data.config import resolve_data_config

    encoder = fitted("vit-small", images).eval()
    result = export(encoder, tmp_path / "vit", format="timm")
    assert result.difference < 1e-5
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval()
    data = resolve_data_config(model=model)
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(model((images - mean) / std), encoder(images), atol=1e-5, rtol=1e-5)
    assert data["input_size"] == (3, 32, 32)
    assert (
        json.loads((tmp_path / "vit" / "config.json").read_text())["architecture"] == "vit_tiny_patch16_224"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("conv4", {}, "encoder must be a model that timm has, got conv4 for images of 32 pixels"),
        ("resnet18", {}, "encoder must be a model that timm has, got resnet18 for images of 32 pixels"),
        ("vit-small", {"input": "lightness"}, "input must be color for timm, got lightness"),
    ],
)
def test_what_timm_cannot_carry_is_refused(name: str, arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(encoders.build(name, **arguments), tmp_path / "x", format="timm")
    assert not list(tmp_path.iterdir())


def test_onnx_runs_equal_for_any_number_of_images_and_quietly(
    images: torch.Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    encoder = fitted("vit-small", images, input="lab").eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    assert result.difference < 1e-5
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        features = np.asarray(session.run(["features"], {"images": images[:count].numpy()})[0])
        np.testing.assert_allclose(features, encoder(images[:count]).detach().numpy(), atol=1e-5, rtol=1e-5)


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda package: None if package == "onnxruntime" else object()
    )
    with pytest.raises(ValueError, match=r"format onnx needs onnxruntime\. Install unlabeled\[onnx\]"):
        export(encoders.build("conv4"), tmp_path / "x.onnx", format="onnx")


def test_features_that_differ_leave_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    honest = encoders.load

    def tampered(path: Path) -> encoders.Encoder:
        encoder = honest(path)
        encoder.adapt.mean += 0.01
        return encoder

    monkeypatch.setattr(encoders, "load", tampered)
    with pytest.raises(ValueError, match="features must agree to 1e-05 in safetensors, got a difference of"):
        export(encoders.build("conv4"), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "format", "message"),
    [
        ("x.pt", "safetensors", r"out must end in \.safetensors, got x\.pt"),
        ("x", "onnx", r"out must end in \.onnx, got x"),
        ("x", "coreml", "format must be one of safetensors, timm, onnx, transformers, word2vec, got coreml"),
    ],
)
def test_bad_values_name_the_parameter(out: str, format, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(encoders.build("conv4"), tmp_path / out, format=format)
