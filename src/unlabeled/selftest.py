"""Does it work on this machine: closed forms, a tiny run of every method, two processes against one, resuming."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlabeled import methods
from unlabeled.data import BUILT_IN, Data, open_data
from unlabeled.parts import gather
from unlabeled.progress import watched
from unlabeled.run import CHECKPOINT, Run, read_checkpoint
from unlabeled.training.train import pretrain

__all__ = ["Check", "example", "selftest", "size", "smallest"]

SAMPLES, STEPS = 24, 4
JOIN_SECONDS = 120


class Check(NamedTuple):
    """What was checked, the result in words, and whether that is right."""

    name: str
    result: str
    right: bool
    seconds: float


def selftest(tell: Callable[[Check], None] = lambda check: None) -> list[Check]:
    """Run all checks.

    Args:
        tell: Called with each check when it is done.

    Returns:
        The checks; one that raised an error is not right and says which.
    """
    checks: list[Check] = []
    for name, run in watched(_checks(), size(), "selftest", "checks"):
        began = time.perf_counter()
        try:
            result, right = run()
        except Exception as error:
            result, right = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}", False
        checks.append(Check(name, result, right, time.perf_counter() - began))
        tell(checks[-1])
    return checks


def size() -> int:
    """How many checks there are."""
    return sum(1 for _ in _checks())


def _checks() -> Iterator[tuple[str, Callable[[], tuple[str, bool]]]]:
    for name, function, expected in _closed_forms():
        yield f"closed form: {name}", lambda f=function, e=expected: _equal(f(), e)
    for name in methods.names():
        yield f"{name} trains", lambda n=name: _trains(n)
    yield "a killed run resumes bit by bit", _resumes
    yield "two processes give the gradient of one", _distributes


def _closed_forms() -> Iterator[tuple[str, Callable[[], float], float]]:
    """Losses whose value is known without computing them."""
    from unlabeled.evaluation.probes import knn
    from unlabeled.parts.color import lab_to_rgb, rgb_to_lab
    from unlabeled.parts.info_nce import nt_xent, with_queue
    from unlabeled.training.schedule import learning_rate

    same, units = torch.ones(10, 4), torch.eye(10)
    yield "NT-Xent of equal views is ln(2 N - 1)", lambda: float(nt_xent(same, same, 0.5)), math.log(19)
    exact = math.log(1 + 18 * math.exp(-2))  # the partner at cosine 1, eighteen others at 0, temperature 0.5
    yield "NT-Xent of unit vectors", lambda: float(nt_xent(units, units, 0.5)), exact
    yield (
        "InfoNCE of equal keys is ln(K + 1)",
        lambda: float(with_queue(same, same / 2, same[:7] / 2, 0.2)),
        math.log(8),
    )
    yield "learning rate ends at 0", lambda: learning_rate(100, 100, 1.0), 0.0
    colors = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    yield (
        "Lab and back leaves colours alone",
        lambda: float((lab_to_rgb(rgb_to_lab(colors)) - colors).abs().max()),
        0.0,
    )
    labels = torch.arange(10)
    yield (
        "nearest neighbour of a known sample is itself",
        lambda: float((knn.predict(units, labels, units, 10, k=1) == labels).float().mean()),
        1.0,
    )


def _equal(value: float, expected: float) -> tuple[str, bool]:
    return f"{value:.6f} (expected {expected:.6f})", math.isclose(value, expected, rel_tol=1e-5, abs_tol=1e-5)


def example(name: str) -> str:
    """A built-in set that a method can learn from."""
    method = methods.describe(name)
    return method.example or next(name for name, kind in BUILT_IN.items() if kind == method.kind)


def smallest(name: str) -> dict[str, Any]:
    """Options of a method, and perhaps encoder and image_size, for two dozen samples."""
    method = methods.describe(name)
    return ({"encoder": "conv4"} if method.kind == "image" else {}) | method.smallest


def _tiny(name: str) -> tuple[Data, dict[str, Any]]:
    data = open_data(example(name))
    settings = {"batch_size": 8, "steps": STEPS, "quiet": True, **smallest(name)}
    return data.subset(torch.arange(min(SAMPLES, len(data)))), settings


def _trains(name: str) -> tuple[str, bool]:
    data, settings = _tiny(name)
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(name, data, out=Path(folder) / "run", **settings)
        losses = [entry["loss"] for entry in run.history]
        finite = all(map(math.isfinite, losses))
        loaded = Run(run.path).encoder.state_dict()
        same = all(torch.equal(value, loaded[key]) for key, value in run.encoder.state_dict().items())
    return f"{STEPS} steps, loss {losses[-1]:.3f}, encoder saved and loaded", finite and same


def _resumes() -> tuple[str, bool]:
    """A run that is stopped in the middle and resumed must end with the bits of one that is not."""

    def stop(step: int) -> None:
        if step == STEPS // 2:
            raise KeyboardInterrupt

    data, settings = _tiny("moco")
    with tempfile.TemporaryDirectory() as folder:
        whole = pretrain("moco", data, out=Path(folder) / "whole", **settings)
        with suppress(KeyboardInterrupt):
            pretrain("moco", data, out=Path(folder) / "parts", on_step=stop, **settings)
        resumed = pretrain("moco", data, out=Path(folder) / "parts", resume=True, quiet=True)
        first, second = (read_checkpoint(run.path / CHECKPOINT)[0] for run in (whole, resumed))
    same = first.keys() == second.keys() and all(
        torch.equal(tensor, second[group][key]) for group in first for key, tensor in first[group].items()
    )
    count = sum(len(tensors) for tensors in first.values())
    return f"{count} tensors of weights, teacher, queue and optimizer compared", same


def _views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(8, 6, dtype=torch.double, generator=generator) for _ in range(2))  # type: ignore[return-value]


def _gradient(views: tuple[Tensor, Tensor]) -> Tensor:
    """Gradient of a loss that compares samples, with respect to a weight that all processes share."""
    from unlabeled.parts.info_nce import nt_xent

    weight = torch.linspace(-1, 1, 18, dtype=torch.double).view(6, 3).requires_grad_()
    nt_xent(*(gather.own(view) @ weight for view in views), 0.2).backward()
    assert weight.grad is not None
    return gather.mean_over_processes(weight.grad.detach())


def _process(rank: int, store: str, out: str) -> None:
    import torch.distributed as dist
    from safetensors.torch import save_file

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        gradient = _gradient(_views())
        if rank == 0:
            save_file({"gradient": gradient}, out)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _distributes() -> tuple[str, bool]:
    from safetensors.torch import load_file
    from torch.multiprocessing.spawn import spawn

    if sys.platform == "win32":
        return "not checked on Windows", True
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "gradient.safetensors")
        context = spawn(_process, (str(Path(folder) / "store"), out), nprocs=2, join=False)
        assert context is not None
        ends = time.monotonic() + JOIN_SECONDS
        while not context.join(timeout=1):
            if time.monotonic() > ends:
                for process in filter(None, context.processes):
                    process.kill()
                return f"no answer within {JOIN_SECONDS} s", False
        difference = float((load_file(out)["gradient"] - _gradient(_views())).abs().max())
    return f"largest difference {difference:.1g}", difference < 1e-9
