"""What every encoder can do: the networks that are kept, whatever kind of data they read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from unlabeled.files import atomic

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """An adaptation of the input followed by a network; what a run keeps.

    A subclass for each kind of data says what `inputs`, `features` and `raw` are.

    Args:
        adapt: Turns what `inputs` gives into what the network sees, with statistics of the data.
        trunk: Network with `dim`, `map_dims` and a forward to (batch, dim).
        config: Arguments of `build` that give this architecture again.
    """

    kind: ClassVar[str]
    raw_detail: str = ""
    """What `raw` is, in words."""

    def __init__(self, adapt: nn.Module, trunk: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        self.adapt: Any = adapt
        self.trunk: Any = trunk
        self.config = config
        self.maker: Callable[..., Any] | None = None
        """Function of the user's that builds the network, where it was named by one."""
        self.notes: list[str] = []
        """Lines about how it was built that a user must see: what was converted, chosen or left out."""

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.trunk.dim

    @property
    def map_dims(self) -> dict[str, int]:
        """Width of each named layer, early to late."""
        return self.trunk.map_dims

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and architecture to one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        # Tied weights share memory, which the format refuses.
        state = {name: value.detach().clone().contiguous() for name, value in self.state_dict().items()}
        with atomic(Path(path)) as temporary:
            save_file(state, temporary, metadata={"format": "pt", "unlabeled": json.dumps(self.config)})
