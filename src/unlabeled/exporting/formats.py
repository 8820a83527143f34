"""Give an encoder to other libraries: each file is loaded there again and must give the same features."""

import copy
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from unlabeled import check, encoders
from unlabeled.check import UserError
from unlabeled.encoders import Encoder
from unlabeled.exporting import onnx_graph, proof
from unlabeled.files import require_own_folder
from unlabeled.run import opened

__all__ = ["Exported", "export"]

HOLD_READOUTS = ("safetensors", "onnx")
"""Formats that hold an encoder with what reads other features from it."""
NOUNS = {"image": "images", "text": "texts", "words": "word vectors", "audio": "sounds", "video": "videos"}
TIMM_HINT = "Take safetensors or onnx, or pretrain with --encoder resnet18 --image-size 96"
OF_TRANSFORMERS = "Take transformers, safetensors or onnx"


class Exported(NamedTuple):
    """What was written, and how well it agrees.

    Args:
        path: The file, or the folder for timm and transformers.
        difference: Largest difference of a feature between the encoder and the file as another library reads
            it, in units of the largest feature or of 1.
        note: What a user must know of the file, such as that it takes one image size only; empty where nothing.
        usage: An expression in Python that opens it.
    """

    path: Path
    difference: float
    note: str = ""
    usage: str = ""


def export(
    source: Any,
    out: str | os.PathLike[str],
    *,
    format: Literal["safetensors", "timm", "onnx", "transformers", "word2vec"] = "safetensors",
) -> Exported:
    """Write an encoder in the format of another library, and prove that it gives the same features there.

    Args:
        source: A run or its folder, a method, or an encoder, such as one of `evaluation.readout`, which gives other
            features than the output.
        out: Where to write: a file for `safetensors` (`encoders.load` reads it), `onnx` (from images
            in 0..1, tokens or waveforms to features, any number and, where the network allows it, of any size; the
            tokenizer or the sample rate is in its metadata) and `word2vec` (word
            vectors as text), a folder for `timm` (`timm.create_model("local-dir:OUT")`) and `transformers`
            (`AutoModel.from_pretrained("OUT")`, its tokenizer, feature extractor or image processor beside it).
        format: `safetensors`; for encoders of images `timm`, of images, text and sound `onnx`, for those of them that
            are models of transformers `transformers`, for word vectors `word2vec`.

    Returns:
        The path, the largest difference of a feature, a note, and how to open it.

    Raises:
        ValueError: The format cannot carry this encoder, a package is missing, or the features differ.
    """
    out, encoder = Path(out), _encoder(source)
    check_format(encoder, out, format, encoder.spec if isinstance(encoder, encoders.Readout) else None)
    inputs = encoder.inputs(proof.example(encoder))
    # What is refused must leave no folder.
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(dir=existing, prefix=".export-") as folder, torch.no_grad():
        path = Path(folder) / out.name
        expected = encoder(inputs)
        features, note = FORMATS[format].write(encoder, inputs, path)
        worst = proof.difference(features, expected)
        if not worst <= (tolerance := proof.tolerance(encoder)):
            raise UserError(
                f"features must agree to {tolerance} in {format}, got a difference of {worst:.2g}"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        _move(path, out)
    usage = FORMATS[format].usage.format(out)
    if format == "safetensors" and _is_own(encoder):
        usage = f"{usage[:-1]}, module)"
    return Exported(out, worst, note, usage)


def check_format(encoder: Encoder, out: Path, format: str, features: object = None) -> None:
    """Refuse a format that does not fit, before features are fitted.

    Args:
        encoder: The encoder to export.
        out: Where to write.
        format: Name of the format.
        features: Features other than the output of the encoder that it shall give; None for its output.

    Raises:
        ValueError: The format does not suit the kind of encoder, the features or the path.
    """
    check.choice(FORMATS, format=format)
    suited = [name for name, one in FORMATS.items() if one.kinds is None or encoder.kind in one.kinds]
    if format not in suited:
        kinds = NOUNS.get(encoder.kind, encoder.kind)
        raise UserError(f"format must be {' or '.join(suited)} for an encoder of {kinds}, got {format}")
    if features is not None and format not in HOLD_READOUTS:
        others = " or ".join(name for name in HOLD_READOUTS if name in suited)
        raise UserError(f"features must be output for format {format}, got {features}; {others} takes others")
    _check_path(out, format)


def _check_path(out: Path, format: str) -> None:
    suffix = FORMATS[format].suffix
    if suffix and out.suffix != suffix:
        raise UserError(f"out must end in {suffix}, got {out.name}")
    if out.exists() and out.is_dir() == bool(suffix):
        needed, present = ("file", "folder") if out.is_dir() else ("folder", "file")
        raise UserError(f"out must be a {needed} for format {format}, got the {present} {out}")
    if not suffix:
        require_own_folder(out, ("config.json",), "one that export wrote")


def _encoder(source: Any) -> Encoder:
    """A copy of an encoder, or of that of a run or method, on the CPU in evaluation mode."""
    source = opened(source)
    encoder = source if isinstance(source, Encoder) else getattr(source, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UserError(
            f"source must be a run or its folder, a method or an encoder, got {type(source).__name__}"
        )
    return copy.deepcopy(encoder).cpu().float().eval()


def _is_own(encoder: Encoder) -> bool:
    """Whether the network is one of the user's, which a file cannot build again."""
    return encoder.maker is not None or encoder.config["name"] == encoders.OWN_NETWORK


def _safetensors(encoder: Encoder, inputs: Any, path: Path) -> tuple[Tensor, str]:
    """A file as `encoders.load` reads it."""
    encoder.save(path)
    return encoders.load(path, copy.deepcopy(encoder) if _is_own(encoder) else None).eval()(inputs), ""


def _transformers(encoder: Any, inputs: Any, path: Path) -> tuple[Tensor, str]:
    """A folder as transformers itself saves models."""
    if not hasattr(encoder, "write_transformers"):
        name = encoder.config["name"]
        raise UserError(f"encoder must be a model of transformers, got {name}. Take safetensors")
    with proof.quiet():
        encoder.write_transformers(path)
        features = encoder.read_transformers(path, inputs)
    reading = f"its features are {encoder.trunk.reading}" if encoder.kind == "image" else ""
    return features, reading


def _word2vec(encoder: Any, inputs: Any, path: Path) -> tuple[Tensor, str]:
    """Lines of a word and its vector, as gensim reads them."""
    encoder.save_word2vec(path)
    other = copy.deepcopy(encoder)
    with path.open(encoding="utf-8") as lines:
        count, dim = map(int, next(lines).split())
        for row, line in zip(range(count), lines, strict=True):
            word, *numbers = line.rstrip("\n").split(" ")
            if word != encoder.vocabulary[row] or len(numbers) != dim:
                raise UserError(f"line {row + 2} must be {encoder.vocabulary[row]} and {dim} numbers")
            other.vectors[row] = torch.tensor([float(number) for number in numbers])
    assert count == len(encoder.vocabulary)
    return other(inputs), ""


def _timm(encoder: Any, images: Tensor, path: Path) -> tuple[Tensor, str]:
    """A folder as timm itself saves models."""
    import timm
    from safetensors.torch import save_file

    if not getattr(encoder.trunk, "standard", False):
        name = f"{encoder.config['name']} for images of {encoder.image_size} pixels"
        hint = OF_TRANSFORMERS if "architecture" in encoder.config else TIMM_HINT
        raise UserError(f"encoder must be a model that timm has, got {name}. {hint}")
    if len(encoder.neck):
        raise UserError(
            "encoder must be a model that timm has, got one with layers of a head. Take safetensors or onnx"
        )
    if encoder.adapt.input != "color" or encoder.in_channels > encoder.adapt.out_channels:
        got = "color converted to grey" if encoder.adapt.input == "color" else encoder.adapt.input
        raise UserError(f"input must be color for timm, got {got}. Take safetensors or onnx")
    path.mkdir()
    config = _timm_config(encoder)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    state = {name: value.contiguous() for name, value in encoder.trunk.model.state_dict().items()}
    save_file(state, path / "model.safetensors")
    other = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][name])[:, None, None] for name in ("mean", "std"))
    channels = encoder.adapt.out_channels
    note = f"it takes {channels} channels, in each of which grey is repeated" if encoder.adapt.notes else ""
    return other((images - mean) / std), note


def _timm_config(encoder: Any) -> dict[str, Any]:
    trunk, model = encoder.trunk, encoder.trunk.model
    return {
        "architecture": trunk.architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": trunk.arguments,
        "pretrained_cfg": {
            "input_size": [encoder.adapt.out_channels, encoder.image_size, encoder.image_size],
            "mean": encoder.adapt.mean.tolist(),
            "std": encoder.adapt.std.tolist(),
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": 0,
            "first_conv": model.pretrained_cfg.get("first_conv"),
            "classifier": model.pretrained_cfg.get("classifier"),
        },
    }


def _move(path: Path, out: Path) -> None:
    """Move a finished file, or the files of a finished folder, to where they belong."""
    if not path.is_dir():
        os.replace(path, out)
        return
    out.mkdir(exist_ok=True)
    for file in path.iterdir():
        os.replace(file, out / file.name)


class Format(NamedTuple):
    """A format of another library."""

    write: Callable[[Any, Any, Path], tuple[Tensor, str]]
    """Writes an encoder to a path; returns its features of some inputs as read back from there, and `Exported.note`."""
    suffix: str = ""
    """Ending of the file; empty for a folder."""
    kinds: tuple[str, ...] | None = None
    """Kinds of encoders that it can carry; None for all."""
    usage: str = ""
    """An expression in Python that opens it, with {} for the path."""


FORMATS = {
    "safetensors": Format(_safetensors, ".safetensors", usage="unlabeled.encoders.load('{}')"),
    "timm": Format(_timm, kinds=("image",), usage="timm.create_model('local-dir:{}', pretrained=True)"),
    "onnx": Format(
        onnx_graph.write, ".onnx", ("image", "text", "audio"), "onnxruntime.InferenceSession('{}')"
    ),
    "transformers": Format(
        _transformers, kinds=("image", "text", "audio"), usage="transformers.AutoModel.from_pretrained('{}')"
    ),
    "word2vec": Format(
        _word2vec, ".txt", ("words",), "gensim.models.KeyedVectors.load_word2vec_format('{}')"
    ),
}
