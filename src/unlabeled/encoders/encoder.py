"""What every encoder can do, whatever kind of data it reads: the networks that a run keeps."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from unlabeled.files import atomic
from unlabeled.notebook import facts

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Encoder"]

LONGEST = 60
"""Characters of an argument that a notebook shows; vocabularies are longer."""


class Encoder(nn.Module):
    """Base class of encoders; a subclass for each kind of data defines `inputs`, `features` and `raw`.

    Statistics of the data stand below a module called `adapt`: controls take them from a trained encoder.

    Args:
        config: Arguments of `build` that give this architecture again.
        dim: Width of the vector.
        map_dims: Width of each named layer, early to late.
    """

    kind: ClassVar[str]
    raw_detail: str = ""
    """What `raw` is, in words."""

    def __init__(self, config: dict[str, Any], dim: int, map_dims: dict[str, int]) -> None:
        super().__init__()
        self.config, self.dim, self.map_dims = config, dim, map_dims
        self.maker: Callable[..., Any] | None = None
        """The user's function that builds the network, where it was named by one."""
        self.notes: list[str] = []
        """Lines about how it was built that a user must see: conversions, automatic choices, omissions."""

    def _repr_html_(self) -> str:
        """What it is and reads, for notebooks; its layers are in its repr."""
        weights = sum(parameter.numel() for parameter in self.parameters())
        short = {
            key: value
            for key, value in self.config.items()
            if value is not None and len(str(value)) < LONGEST
        }
        name = short.pop("name", "")
        maps = ", ".join(f"{name} ({dim})" for name, dim in self.map_dims.items())
        values = short | {
            "kind": self.kind,
            "features": self.dim,
            "weights": f"{weights:,}",
            "maps": maps or "none",
        }
        return facts(f"{type(self).__name__} {name}".strip(), values)

    def evaluation_view(self, data: "Data") -> "Data":
        """Data as this encoder reads it: one sample, the same each time, for each thing with a label."""
        return data

    def inputs(self, batch: dict[str, Tensor]) -> Any:
        """What `forward` takes, from a batch, without random changes."""
        raise NotImplementedError

    def forward(self, x: Any) -> Tensor:
        """Features, float, shape (batch, dim), of what `inputs` gives."""
        raise NotImplementedError

    def run_all(self, x: Any) -> None:
        """Run every part of the network once on what `inputs` gives, so that all norms see data."""
        self(x)

    def features(self, x: Any, layer: str | None = None) -> Tensor:
        """Vector of each sample, from the end of the network or from a named layer.

        Args:
            x: What `inputs` gives.
            layer: Name of a layer in `map_dims`; None for the features of `forward`.

        Returns:
            Float, shape (batch, numbers).

        Raises:
            ValueError: The layer does not exist.
        """
        raise NotImplementedError

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """The input as a linear probe can use it without any network, float, shape (batch, numbers)."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str], state: Mapping[str, Tensor] | None = None) -> None:
        """Write weights and architecture to one safetensors file, whole or not at all.

        Args:
            path: The file.
            state: The weights by name, where they do not lie in this network; None for its own.
        """
        from safetensors.torch import save_file

        # Tied weights share memory, which the format refuses.
        given = self.state_dict() if state is None else state
        copies = {name: value.detach().clone().contiguous() for name, value in given.items()}
        with atomic(Path(path)) as temporary:
            save_file(copies, temporary, metadata={"format": "pt", "unlabeled": json.dumps(self.config)})
