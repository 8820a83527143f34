"""Weights trained elsewhere: found in a file whatever their prefixes, and checked to fit.

Files are read without executing anything: safetensors, or what torch.load reads with weights_only.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["Matched", "match", "read", "stem_channels"]

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
SHOWN = 3
SECOND_CHOICE = ("encoder_k", "momentum", "target", "student", "ema", "key_encoder")
"""Words in the prefix of a copy that is taken only where the file holds no other."""
NOT_LEARNED = (
    "num_batches_tracked",
    "relative_position_index",
    "attn_mask",
    "relative_coords_table",
    "position_ids",
    "total_ops",
    "total_params",
)
"""Ends of the names of tensors without learned values, which a network may lack."""
HEADS = (
    "fc",
    "head",
    "heads",
    "classifier",
    "cls",
    "lm_head",
    "last_linear",
    "project_q",
    "quantizer",
    "decoder",
)
"""First parts of the names of heads, which no encoder has."""
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Names in a ResNet of the children of a Sequential that was made from it, as lightly does."""


class Matched(NamedTuple):
    """Weights of a file by the names of the network.

    Attributes:
        state: Tensors by name, all that the network needs.
        note: What was loaded, from which prefix, and what was omitted, in a line.
    """

    state: dict[str, Tensor]
    note: str


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by their dotted names, nested dictionaries included.

    Raises:
        ValueError: The file is missing, damaged, without tensors, or needs code to be read; or a tensor is complex or
            without values.
    """
    state = _read(path)
    for name, value in state.items():
        if value.is_meta or value.is_complex():
            what = "without values" if value.is_meta else "complex"
            raise UserError(f"tensors of {path.name} must be real numbers, got {name}, which is {what}")
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"weights must be a file or folder that exists, got {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} must be a readable safetensors file: {check.reason(error)}") from error
    if path.suffix not in PICKLES:
        endings = ", ".join((".safetensors", *PICKLES))
        raise UserError(f"weights must be a file that ends in one of {endings}, got {path.name}")
    state = {".".join(names): value for names, value in _tensors(_unpickled(path))}
    if not state:
        raise UserError(f"weights must hold tensors by name, got {path.name} without any")
    return state


def _unpickled(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > 2 * path.stat().st_size + 2**20:
                raise UserError(f"it unpacks to {unpacked} bytes")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({foreign[1]})" if foreign else ""
        raise UserError(
            f"weights must be tensors alone, got {path.name} with objects that only code can read{what}. "
            "Save the state_dict alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # damaged files fail in any way
        raise UserError(f"{path} must be a readable file of torch: {check.reason(error)}") from error


def _tensors(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield names, value
    elif isinstance(value, Mapping) and len(names) < 8:
        for name, inner in value.items():
            yield from _tensors(inner, (*names, str(name)))


def match(
    model: nn.Module, state: dict[str, Tensor], name: str, file: str, beside: Sequence[str] = ()
) -> Matched:
    """Find the weights of a network among those of a file.

    Args:
        model: The network.
        state: Tensors by name; the names may have prefixes of training loops and of other libraries.
        name: What the network is called in messages.
        file: Name of the file in messages.
        beside: Names of what the file holds beside `state`, which is ignored.

    Raises:
        ValueError: Something is missing, has another shape or is not finite, or the file holds a larger network.
    """
    own = model.state_dict()
    prefix, candidates = _best(own, state)
    resized = _resize_positions(model, own, candidates)
    missing = [key for key in own if key not in candidates and not key.endswith("num_batches_tracked")]
    misshapen = [key for key in own if key in candidates and candidates[key].shape != own[key].shape]
    extra = [key for key in candidates if key not in own and not key.endswith(NOT_LEARNED)]
    parts = {key.partition(".")[0] for key in own}
    heads = _heads(model, {key: candidates[key] for key in extra} | dict.fromkeys(beside))
    deeper = [key for key in extra if key.partition(".")[0] in parts and not _within(key, heads)]
    shapes = [f"{key} {_shape(candidates[key])} for {_shape(own[key])}" for key in misshapen]
    faults = {"missing": missing, "unexpected": deeper or (extra if missing else []), "misshapen": shapes}
    if any((missing, misshapen, deeper)):
        listing = "; ".join(f"{len(keys)} {fault} ({_few(keys)})" for fault, keys in faults.items() if keys)
        raise UserError(f"weights must fit {name}, got {file}: {listing}")
    weights = {key: candidates[key] for key in own if key in candidates}
    floats = {key: value for key, value in weights.items() if value.is_floating_point()}
    if broken := [key for key, value in floats.items() if not value.isfinite().all()]:
        raise UserError(f"weights must be finite, got NaN or infinity in {_few(broken)} of {file}")
    others = [*extra, *beside, *(key for key in state if not key.startswith(prefix))]
    ignored = [key for key in others if not _within(key, heads)]
    counters = len(own) - len(weights)
    details = [
        f"named {prefix}..." if prefix else "",
        f"{counters} counters of norms at 0" if counters else "",
        *(f"head {head}{outputs} dropped" for head, outputs in heads.items()),
        f"{len(ignored)} ignored ({_few(ignored)})" if ignored else "",
        resized,
    ]
    return Matched(
        {**{key: own[key] for key in own if key not in weights}, **weights},
        ", ".join([f"{len(weights)} tensors of {file} loaded", *filter(None, details)]),
    )


def _heads(model: Any, extra: Mapping[str, Tensor | None]) -> dict[str, str]:
    """Names of heads among weights that a network lacks, each with its number of outputs in words, if that is clear."""
    known = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = [known] if isinstance(known, str) else [*known]
    parts = {key.partition(".")[0] for key in model.state_dict()}
    names += [part for part in HEADS if part not in parts]
    heads = {}
    for head in names:
        weights = {key: value for key, value in extra.items() if _within(key, (head,))}
        matrices = [value for value in weights.values() if value is not None and value.ndim == 2]
        if weights:
            heads[head] = f" ({len(matrices[0]):,} outputs)" if len(matrices) == 1 else ""
    return heads


def _within(key: str, parts: Iterable[str]) -> bool:
    """Whether a weight is in one of some parts of a network."""
    return any(key.startswith(f"{part}.") for part in parts)


def stem_channels(model: nn.Module, state: dict[str, Tensor]) -> int | None:
    """Channels that the first convolution has in a file, where only these differ from the network's; else None."""
    first = next(
        (f"{key}.weight" for key, part in model.named_modules() if isinstance(part, nn.Conv2d)), None
    )
    own = model.state_dict()
    candidates = _best(own, state)[1]
    if first is None or first not in candidates or first not in own or candidates[first].ndim != 4:
        return None
    theirs, ours = candidates[first].shape, own[first].shape
    same = theirs[0] == ours[0] and theirs[2:] == ours[2:]
    return theirs[1] if same and theirs[1] != ours[1] else None


def _best(own: dict[str, Tensor], state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The prefix of most of the network's names, and all tensors under that prefix by the rest of their names."""
    ends = {key.rpartition(".")[2] for key in own}
    renamed = {key: _as_resnet(key) for key in state} if "layer1.0.conv1.weight" in own else {}
    names = {key: key for key in state} | {
        new: key for key, new in renamed.items() if new and new not in state
    }
    counts: dict[str, int] = {}
    for key in names:
        if re.split(r"[./]", key)[-1] not in ends:
            continue
        for cut in (0, *(mark.end() for mark in re.finditer(r"[./]", key))):
            if key[cut:] in own and not key.endswith("num_batches_tracked"):
                counts[key[:cut]] = counts.get(key[:cut], 0) + 1
    if not counts:
        return "", state

    def worth(prefix: str) -> tuple[int, bool, int]:
        return counts[prefix], not any(word in prefix for word in SECOND_CHOICE), -len(prefix)

    prefix = max(counts, key=worth)
    rest = {key.removeprefix(prefix): names[key] for key in names if key.startswith(prefix)}
    used = {rest[key] for key in rest if key in own}
    return prefix, {
        key: state[old] for key, old in rest.items() if key in own or (old not in used and old in names)
    }


def _as_resnet(key: str) -> str | None:
    """The ResNet's own name for a name in a Sequential of its children."""
    match = re.fullmatch(r"((?:.*?\.)?)([014567])\.(.+)", key)
    inner = match and (match[2] in "01") != bool(re.match(r"\d+\.", match[3]))
    return f"{match[1]}{CHILDREN[match[2]]}.{match[3]}" if match and inner else None


def _resize_positions(model: Any, own: dict[str, Tensor], candidates: dict[str, Tensor]) -> str:
    """Resample learned positions of a ViT that were trained on another number of patches; returns a note of it."""
    key = "pos_embed"
    if key not in own or key not in candidates or candidates[key].shape == own[key].shape:
        return ""
    grid, prefix = getattr(model.patch_embed, "grid_size", None), getattr(model, "num_prefix_tokens", 0)
    before = math.isqrt(max(0, candidates[key].shape[1] - prefix))
    fits = candidates[key].ndim == own[key].ndim == 3 and candidates[key].shape[2] == own[key].shape[2]
    if not fits or grid is None or before**2 != candidates[key].shape[1] - prefix:
        return ""
    from timm.layers.pos_embed import resample_abs_pos_embed

    candidates[key] = resample_abs_pos_embed(candidates[key].float(), list(grid), num_prefix_tokens=prefix)
    return f"positions of {before}x{before} patches resampled to {grid[0]}x{grid[1]}"


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more
