"""Files of `Encoder.save`: their metadata and weights; nothing in them is executed or imported."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders.encoder import Encoder

__all__ = ["TooLarge", "is_ours", "load_weights", "no_larger_than", "read_header"]

LARGEST_NUMBER = 2**18
"""Number that any encoder may be built from, such as its samples per second; larger ones count its weights."""
TRIALS = 4
"""Most times that an architecture is built on the meta device to find out what it takes."""


class TooLarge(UserError):
    """An architecture has more weights than the file that claims it."""


def read_header(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Metadata of a safetensors file, and how many numbers each of its tensors has.

    Raises:
        ValueError: The file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise UserError(f"path must be a .safetensors file, got {path.name}")
    if not path.is_file():
        raise UserError(f"weights must be a file that exists, got {path}")
    try:
        with safe_open(path, framework="pt") as file:
            sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, sizes
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} must be a readable safetensors file: {check.reason(error)}") from error


def is_ours(path: Path) -> bool:
    """Whether a file is of `Encoder.save`."""
    if path.suffix != ".safetensors":
        return False
    about, sizes = read_header(path)
    return "unlabeled" in about or any(name.startswith("adapt.") for name in sizes)


def load_weights(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a file of `Encoder.save`, whose names and shapes must all fit.

    Raises:
        ValueError: Some do not.
    """
    from safetensors.torch import load_file

    state, own = load_file(path), encoder.state_dict()
    misshapen = {
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    }
    faults = {
        "missing": own.keys() - state.keys(),
        "unexpected": state.keys() - own.keys(),
        "misshapen": misshapen,
    }
    if any(faults.values()):
        listing = "; ".join(
            f"{len(names)} {fault} ({', '.join(sorted(names)[:3])})"
            for fault, names in faults.items()
            if names
        )
        raise UserError(f"weights must fit {encoder.config['name']}, got {path.name}: {listing}")
    encoder.load_state_dict(state)


@contextmanager
def no_larger_than(weights: int, config: Mapping[str, Any]) -> Iterator[None]:
    """Stop building the architecture that a file claims once it has more weights than the file can fill.

    Raises:
        TooLarge: It has.
    """
    largest = max((value for value in config.values() if isinstance(value, int)), default=0)
    if largest > max(LARGEST_NUMBER, weights):
        raise TooLarge(f"{largest} is more than the {weights} weights that it holds")
    most = 2 * weights + LARGEST_NUMBER
    # On the meta device nothing takes memory, but time; a network is built there again for each size that is tried.
    left = {False: most, True: TRIALS * most}

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None:
            return
        left[parameter.is_meta] -= parameter.numel()
        if left[parameter.is_meta] < 0:
            raise TooLarge(f"its architecture has more weights than the {weights} that it holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
