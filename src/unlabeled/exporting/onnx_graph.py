"""ONNX graphs of encoders: from images, tokens or waveforms to features."""

import contextlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import Encoder
from unlabeled.encoders.text import TextInput
from unlabeled.exporting import proof

__all__ = ["write"]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Named = dict[str, Tensor]


def write(encoder: Encoder, x: Any, path: Path) -> tuple[Tensor, str]:
    """Write a graph for any number of samples, and of any size where the network takes them.

    Args:
        encoder: An encoder of images, texts or sounds.
        x: What its `inputs` gives.
        path: Where to write.

    Returns:
        Features of `x` as onnxruntime computes them, and what a user must know of the graph.

    Raises:
        ValueError: A package is missing, or torch cannot export the network.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"format onnx needs {', '.join(missing)}; run pip install 'unlabeled[onnx]'")
    if encoder.kind == "image":
        return _write_images(encoder, x, path)
    graph = _texts(encoder, x) if encoder.kind == "text" else _sounds(encoder, x)
    try:
        _save(graph.network, graph.inputs, graph.axes, path, graph.metadata)
    except Exception as error:  # torch refuses networks in ways of its own
        raise UserError(
            f"encoder must be one that torch exports for format onnx, got {encoder.config['name']} "
            f"({_reason(error)}). Take safetensors"
        ) from error
    for inputs in graph.others:
        worst = proof.difference(_run(path, inputs), graph.network(*inputs.values()))
        if not worst <= proof.tolerance(encoder):
            shape = tuple(next(iter(inputs.values())).shape)
            raise UserError(
                f"features must agree to {proof.tolerance(encoder)} in onnx, got a difference of {worst:.2g} "
                f"for inputs of shape {shape}. Take safetensors"
            )
    return _run(path, graph.inputs), graph.note


def _reason(error: BaseException) -> str:
    """What lies below the general advice that torch gives, without its colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return check.one_line(re.sub(r"\x1b\[\d*m", "", f"{type(error).__name__}: {error}"))


class Graph(NamedTuple):
    """What becomes a graph.

    Attributes:
        network: From `inputs`, in their order, to features.
        inputs: Inputs of the proof by their names.
        axes: Names of the axes of each input.
        others: Inputs of other sizes, on which the graph must agree too.
        note: What a user must know of the graph.
        metadata: What the file holds beside the graph.
    """

    network: nn.Module
    inputs: Named
    axes: dict[str, tuple[str, ...]]
    others: list[Named]
    note: str
    metadata: dict[str, str]


class _OfTokens(nn.Module):
    """Features of tokens as tokenizers give them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(TextInput(input_ids, attention_mask.bool(), torch.zeros_like(input_ids)))


def _texts(encoder: Any, x: Any) -> Graph:
    """Tokens and which of them are real; the tokenizer goes with the graph."""
    if not isinstance(x, TextInput):
        name = encoder.config["name"]
        raise UserError(f"encoder must read tokens and a mask for format onnx, got {name}. Take safetensors")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(encoder.tokenizer.to_str())
    tokenizer.enable_truncation(encoder.length)
    tokenizer.enable_padding(pad_id=0, pad_token=tokenizer.id_to_token(0))  # as batches are padded here

    def inputs(tokens: Tensor, mask: Tensor) -> Named:
        return {"input_ids": tokens, "attention_mask": mask.long()}

    longest = torch.arange(2 * encoder.length).view(2, -1) % encoder.vocabulary
    real = torch.arange(encoder.length) < torch.tensor([[encoder.length], [3]])
    note = (
        f"it takes input_ids and attention_mask of any number of texts of at most {encoder.length} tokens, padded at "
        "the end; its metadata hold the tokenizer, as Tokenizer.from_str of tokenizers reads it"
    )
    return Graph(
        network=_OfTokens(encoder),
        inputs=inputs(x.tokens, x.mask),
        axes=dict.fromkeys(("input_ids", "attention_mask"), ("batch", "tokens")),
        others=[inputs(x.tokens[:1, :4], x.mask[:1, :4]), inputs(longest, real)],
        note=note,
        metadata={"tokenizer": tokenizer.to_str()},
    )


class _OfWaveforms(nn.Module):
    """Features of waveforms."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, waveform: Tensor, length: Tensor | None = None) -> Tensor:
        batch = {"waveform": waveform} if length is None else {"waveform": waveform, "length": length}
        return self.encoder(self.encoder.inputs(batch))


def _sounds(encoder: Any, x: tuple[Tensor, Tensor]) -> Graph:
    """Waveforms and how many samples of each are real."""
    rate: int = encoder.config["sample_rate"]
    padded = not getattr(getattr(encoder, "trunk", None), "norm_over_time", False)

    def inputs(waveform: Tensor, length: Tensor) -> Named:
        return {"waveform": waveform, "length": length} if padded else {"waveform": waveform}

    waveform, length = x
    size = waveform.shape[1]
    longer = torch.cat([waveform, waveform.flip(1)[:, : size // 3]], 1)
    lengths = torch.tensor([longer.shape[1], size // 7, 10])
    silent = torch.arange(longer.shape[1]) >= lengths[:, None]
    others = [
        inputs(waveform[:1, : size // 2], length[:1] // 2),
        inputs(waveform[:2, :10], lengths[2:].repeat(2)),
    ]
    others += [inputs(longer.masked_fill(silent, 0), lengths)]
    what = "waveform and its length in samples" if padded else "waveform"
    alike = "" if padded else ", all of one length in a batch, as its norm over time includes padding"
    return Graph(
        network=_OfWaveforms(encoder),
        inputs=inputs(waveform, length),
        axes={"waveform": ("batch", "samples"), **({"length": ("batch",)} if padded else {})},
        others=others if padded else others[:2],
        note=f"it takes {what} of any number of sounds in -1..1 at {rate} Hz{alike}; "
        "everything from there on is part of the graph",
        metadata={"sample_rate": str(rate)},
    )


def _write_images(encoder: Any, images: Tensor, path: Path) -> tuple[Tensor, str]:
    """A graph from images in 0..1 to features, of any size where that passes a test."""
    takes = f"it takes images as float32 in 0..1, shape (batch, {images.shape[1]}, height, width),"
    if reason := _free_sizes(encoder, images, path):
        size = encoder.image_size
        _save_images(encoder, images, path, ("batch",))
        return _run(path, {"images": images}), f"{takes} of {size} x {size} pixels only ({reason})"
    return _run(path, {"images": images}), f"{takes} of any size that the encoder takes"


def _free_sizes(encoder: Any, images: Tensor, path: Path) -> str:
    """Write a graph for images of any size and test it on two other sizes; why there is none, empty if it passes."""
    step, size = encoder.patch_size or 32, encoder.image_size
    shapes = [(1, images.shape[1], size + step, size), (2, images.shape[1], size + step, size + 2 * step)]
    generator = torch.Generator().manual_seed(0)
    others = [torch.rand(shape, generator=generator) for shape in shapes]
    try:
        expected = [encoder(other) for other in others]
    except Exception:  # networks refuse sizes in ways of their own
        return "the encoder takes no others"
    try:
        _save_images(encoder, images, path, ("batch", None, "height", "width"))
        features = [_run(path, {"images": other}) for other in others]
    except Exception as error:
        return check.one_line(f"others cannot be exported: {type(error).__name__}")
    if any(one.shape != other.shape for one, other in zip(features, expected, strict=True)):
        return "others give another number of features"
    worst = max(proof.difference(*pair) for pair in zip(features, expected, strict=True))
    return "" if worst <= proof.tolerance(encoder) else f"others differ by {worst:.1g}"


def _save_images(encoder: Encoder, images: Tensor, path: Path, axes: tuple[str | None, ...]) -> None:
    _save(encoder, {"images": images}, {"images": axes}, path, {})


def _save(
    network: nn.Module,
    inputs: Named,
    axes: Mapping[str, tuple[str | None, ...]],
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write a graph whose inputs have any length along the axes with a name."""
    dims = {"batch": torch.export.Dim("batch")}
    shapes = tuple(
        {axis: dims.get(name, torch.export.Dim.DYNAMIC) for axis, name in enumerate(axes[key]) if name}
        for key in inputs
    )
    with proof.quiet(), _written_out():
        # Exported with another number of samples than the proof uses, so that a fixed number would be noticed.
        program: Any = torch.onnx.export(
            network,
            tuple(value[: proof.SAMPLES - 1] for value in inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["features"],
            dynamic_shapes=shapes,
        )
        program.model.metadata_props.update(metadata)
        program.save(path, external_data=False)


@contextlib.contextmanager
def _written_out() -> Iterator[None]:
    """Without the single operations that torch has for whole layers of a transformer, and ONNX has not."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _run(path: Path, inputs: Named) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {name: value.numpy() for name, value in inputs.items()}
    return torch.from_numpy(session.run(["features"], given)[0])
