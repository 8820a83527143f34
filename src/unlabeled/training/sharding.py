"""How the weights of a training lie on its processes: whole in each of them (ddp), or in shards (fsdp)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unlabeled import methods
from unlabeled.check import UserError
from unlabeled.encoders import Encoder
from unlabeled.kernels.compat import BATCH_NORMS
from unlabeled.method import Batch, Losses, Method
from unlabeled.parts import gather
from unlabeled.training.keep_close import KeepClose
from unlabeled.training.plan import Plan
from unlabeled.training.settings import Settings

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = [
    "Replicated",
    "Sharded",
    "clip",
    "is_sharded",
    "local",
    "parts",
    "place",
    "refuse",
    "shards",
    "whole",
]

SMALLEST_BLOCK = 2**16
"""Weights of a layer from which on it is gathered by itself; smaller ones are gathered together."""


def shards(settings: Settings) -> bool:
    """Whether weights are cut into shards: one process has them all, whatever the strategy."""
    return settings.strategy == "fsdp" and gather.processes() > 1


def refuse(plan: Plan) -> None:
    """Refuse what cannot be trained in shards, or has not been compared with whole weights.

    Raises:
        ValueError: The method, or what was brought as an object, cannot be sharded.
    """
    if isinstance(plan.method, Method) or plan.network is not None:
        what = "methods" if isinstance(plan.method, Method) else "networks"
        raise UserError(f"strategy must be ddp for {what} that are brought as objects, got fsdp")
    if not plan.method.fsdp:
        able = ", ".join(name for name in methods.names() if methods.load(name).fsdp)
        raise UserError(f"strategy must be ddp for {plan.name}, got fsdp, which is for {able}")


def place(fabric: "Fabric", method: Method, close: KeepClose | None, settings: Settings) -> "Replicated":
    """Prepare a method for being trained by all processes; with fsdp its weights are sharded in place.

    Args:
        fabric: The processes, the device and the precision.
        method: What is trained, on its device and prepared.
        close: What computes its loss, where there is a further one.
        settings: Settings of the run, complete.
    """
    mixed = settings.precision == "bf16"
    if shards(settings):
        return Sharded(fabric, method, close, mixed)
    return Replicated(fabric, close or method, mixed)


class Replicated:
    """All weights in every process, whose gradients DDP averages where there are several.

    Args:
        fabric: The processes, the device and the precision.
        module: What gives the losses of a batch.
        mixed: Whether it computes in mixed precision.

    Attributes:
        forward: Gives the losses of a batch, in the precision of the run.
        backward: Computes the gradients of a loss.
        partly: Context of forward and backward passes after which others add to the same gradients.
    """

    def __init__(self, fabric: "Fabric", module: nn.Module, mixed: bool) -> None:
        self.forward: Callable[[Batch], Losses] = module
        self.backward: Callable[[Tensor], None] = Tensor.backward
        self.partly: Callable[[], AbstractContextManager] = nullcontext
        # Where one process computes in one precision, Fabric's wrapper adds nothing but time.
        if gather.processes() > 1 or mixed:
            self.forward, self.backward = fabric.setup_module(module), fabric.backward
            self.partly = partial(fabric.no_backward_sync, self.forward)

    def gathered(self) -> AbstractContextManager:
        """Context in which all processes use networks of the method for what is no step of the training."""
        return nullcontext()

    def finish(self, weights: Iterable[Tensor]) -> None:
        """Complete the gradients of a step."""


class Sharded(Replicated):
    """A shard of every weight in each process, by FSDP2; what a layer needs is gathered just before it runs.

    Large layers of lists (blocks of a transformer, residual blocks, layers of heads) are gathered one by one, all else
    together for the whole pass.

    Args:
        fabric: The processes, the device and the precision.
        method: What is trained, whole in each process; the first one's values count.
        close: What computes its loss, where there is a further one.
        mixed: Whether it computes in mixed precision.
    """

    def __init__(self, fabric: "Fabric", method: Method, close: KeepClose | None, mixed: bool) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        self.fabric, self.method, self.module = fabric, method, close or method
        self.backward, self.partly = Tensor.backward, nullcontext  # gradients are added up in shards
        self.policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if mixed else None,
            reduce_dtype=torch.float32 if mixed else None,
            cast_forward_inputs=False,
        )
        self._shard(method)
        if close is not None:
            self._shard(close.start)

    def forward(self, batch: Batch) -> Losses:  # type: ignore[override]
        with self.fabric.autocast():
            return self.module(batch)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        network: Any = self.method
        network.unshard()
        try:
            with self.fabric.autocast():  # as weights are gathered in its precision
                yield
        finally:
            network.reshard()

    def finish(self, weights: Iterable[Tensor]) -> None:
        """Average the gradients of the weights that are whole; FSDP has averaged the others."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        own = [gradient for gradient in gradients if not is_sharded(gradient)]
        if own:
            means = gather.mean_over_processes(torch.cat([gradient.flatten() for gradient in own]))
            for gradient, mean in zip(own, means.split([gradient.numel() for gradient in own])):
                gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def _shard(self, network: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.contiguous()  # FSDP refuses channels-last weights
            dist.broadcast(tensor, 0)
        mesh = init_device_mesh(self.fabric.device.type, (gather.processes(),))
        own = _whole_weights(network)
        for block in _blocks(network):
            fully_shard(block, mesh=mesh, mp_policy=self.policy, ignored_params=own)
        fully_shard(
            network, mesh=mesh, mp_policy=self.policy, ignored_params=own, reshard_after_forward=False
        )
        # FSDP takes the first module that runs for the outermost one, but parts of the method may run alone.
        setattr(network, "begin_sharded", lambda: None)  # noqa: B010
        register_fsdp_forward_method(network, "begin_sharded")
        network.begin_sharded()  # type: ignore[operator]
        network.reshard()  # type: ignore[operator]


def _whole_weights(network: nn.Module) -> set[nn.Parameter]:
    """Weights that stay whole in each process.

    They are those that a method itself holds, such as prototypes, as it uses them outside of the pass too; single
    numbers, which have no shards; and those of batch norms, which compute in full precision.
    """
    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    own = {weight for norm in norms for weight in norm.parameters()}
    return own | {weight for name, weight in network.named_parameters() if "." not in name or not weight.ndim}


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Large entries of lists of layers, of which none is in another."""
    listed = isinstance(network, nn.ModuleList | nn.Sequential)
    for child in network.children():
        if sum(weight.numel() for weight in child.parameters()) < SMALLEST_BLOCK:
            continue
        if listed and not isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential | Encoder):
            yield child
        else:
            yield from _blocks(child)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has only a part of a tensor."""
    return hasattr(tensor, "full_tensor")  # torch imports the class only where it is used


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this process has, which shares its memory; the tensor itself if that is whole."""
    with torch.no_grad():
        return tensor.to_local() if is_sharded(tensor) else tensor


def whole(state: Mapping[str, Any], everywhere: bool = False) -> dict[str, Tensor]:
    """Tensors, the sharded ones gathered from all processes, each of which must call this.

    Args:
        state: Tensors by name.
        everywhere: Whether all processes keep what is gathered; else the first one alone.

    Returns:
        The same tensors, those that were sharded on the CPU, and only where they are kept.
    """
    tensors = {}
    for name, value in state.items():
        if not is_sharded(value):
            tensors[name] = value
            continue
        full = value.full_tensor()  # one by one, so that a device holds no more than one
        if everywhere or gather.rank() == 0:
            tensors[name] = full.cpu()
    return tensors


def parts(state: Mapping[str, Tensor], like: Mapping[str, Any]) -> dict[str, Tensor]:
    """Whole tensors as they lie on the processes, each of which has them all.

    Args:
        state: Tensors by name.
        like: Tensors of the training, perhaps sharded, some of them by the same names.
    """
    return {name: _part(value, like.get(name)) for name, value in state.items()}


def _part(value: Tensor, like: Any) -> Tensor:
    if like is None or not is_sharded(like) or like.shape != value.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()


@torch.no_grad()
def clip(weights: Iterable[Tensor], most: float) -> None:
    """Scale the gradients of weights down if their Euclidean norm over all processes is above `most`."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not any(map(is_sharded, gradients)):
        nn.utils.clip_grad_norm_(weights, most)
        return
    squares = torch.zeros((), device=gradients[0].device)
    for gradient in gradients:
        if is_sharded(gradient):
            squares += local(gradient).square().sum()
    squares = gather.sum_over_processes(squares)
    for gradient in gradients:
        if not is_sharded(gradient):
            squares += gradient.square().sum()
    scale = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(scale)
