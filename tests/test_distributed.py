"""Two processes with half of the batch each train exactly as one process with the whole batch.

Each process sees its rows of fixed views, in float64, and DDP averages the gradients, as in training.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from unlabeled import encoders
from unlabeled.method import Method
from unlabeled.methods.byol import BYOL
from unlabeled.methods.colorization import Colorization
from unlabeled.methods.moco import MoCo
from unlabeled.methods.simclr import SimCLR
from unlabeled.methods.swav import SwAV
from unlabeled.parts import gather, shuffle
from unlabeled.parts.norm import synchronize
from unlabeled.run import read_checkpoint

SAMPLES, SIZE, STEPS, SECONDS = 16, 8, 3, 120
State = dict[str, Tensor]


class Given:
    """Fixed views of numbered samples, one after the other."""

    def __init__(self, *seeds: int, size: int = SIZE) -> None:
        shape = (SAMPLES, 3, size, size)
        self.views = [
            torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double() for seed in seeds
        ]
        self.turn = 0

    def __call__(self, batch: State) -> Tensor:
        self.turn += 1
        return self.views[self.turn % len(self.views)][batch["index"]]


build = partial(encoders.build, "conv4", image_size=SIZE)


def simclr() -> Method:
    method = SimCLR(build(), projection_dim=6)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def moco(splits: int, symmetric: bool) -> Method:
    method = MoCo(build(), projection_dim=6, queue=20, momentum=0.9, splits=splits, symmetric=symmetric)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def byol() -> Method:
    method = BYOL(build(), momentum=0.9, projection_dim=6, hidden_dim=12)
    method.first_views, method.second_views = Given(1), Given(2)  # type: ignore[assignment]
    return method


def swav() -> Method:
    steps: dict[str, int] = {"queue": 20, "queue_steps": 1, "freeze_steps": 1, "local_crops": 3}
    method = SwAV(build(), prototypes=5, projection_dim=6, hidden_dim=12, **steps)
    method.views, method.local_views = Given(1, 2), Given(3, 4, 5, size=4)  # type: ignore[assignment]
    return method


class DoubleColorization(Colorization):
    """The bins stay in float32, as all colours in Lab are."""

    def double(self) -> Self:
        super().double()
        self.centers = self.centers.float()
        return self


def colorization() -> Method:
    method = DoubleColorization(build(input="lightness"))
    method.views = Given(1)  # type: ignore[assignment]
    method.importance.copy_(torch.linspace(0.5, 4, len(method.importance)))
    return method


METHODS: dict[str, Callable[[], Method]] = {
    "simclr": simclr,
    "moco": partial(moco, splits=1, symmetric=True),
    "byol": byol,
    "swav": swav,
    "colorization": colorization,
}


def rows() -> Tensor:
    """Numbers of the samples of this process."""
    return gather.own(torch.arange(SAMPLES))


def train(make: Callable[[], Method], synchronized: bool = True) -> dict[str, State]:
    """Gradients of every step, and the state at the end, of a short training."""
    torch.manual_seed(0)
    method = make().double()
    module: nn.Module = method
    if gather.processes() > 1:
        module = DistributedDataParallel(synchronize(method) if synchronized else method)
    parameters = {name: value for name, value in method.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.9, weight_decay=0.01)
    gradients: State = {}
    for step in range(STEPS):
        torch.manual_seed(100 * step + gather.rank())
        optimizer.zero_grad()
        module({"index": rows()}).backward()
        for name, value in parameters.items():
            assert value.grad is not None
            gradients[f"{step} {name}"] = value.grad.clone()
        optimizer.step()
        method.after_step((step + 1) / STEPS)
    return {
        "gradients": gradients,
        "state": {name: value.clone() for name, value in method.state_dict().items()},
    }


def norms() -> dict[str, State]:
    """Outputs, gradients and statistics of norms in a network with a loss over the own rows."""
    results: dict[str, State] = {}
    torch.manual_seed(0)
    for name, norm, shape in [
        ("vectors", nn.BatchNorm1d(4), (SAMPLES, 4)),
        ("maps", nn.BatchNorm2d(4), (SAMPLES, 4, 3, 3)),
        ("volumes", nn.BatchNorm3d(4, momentum=None), (SAMPLES, 4, 2, 2, 2)),
        ("plain", nn.BatchNorm1d(4, affine=False, track_running_stats=False), (SAMPLES, 4)),
    ]:
        inputs, goals = 3 * torch.randn(shape).double() + 7, torch.randn(shape).double()
        values = inputs[rows()].requires_grad_()
        norm = norm.double()
        if gather.processes() > 1:
            synchronize(norm)
        norm(values)
        outputs = norm(values)
        loss = (outputs - goals[rows()]).square().flatten(1).sum(1).mean()
        found = torch.autograd.grad(loss, [values, *norm.parameters()])
        evaluated = norm.eval()(values)
        results[name] = {"outputs": outputs.detach(), "evaluated": evaluated.detach(), "input": found[0]}
        results[name] |= {f"gradient {number}": gradient for number, gradient in enumerate(found[1:])}
        results[name] |= norm.state_dict()
    return results


def collectives() -> State:
    """A loss that compares own rows with all rows, and what the collectives return."""
    torch.manual_seed(0)
    everyone = torch.randn(SAMPLES, 3, 2, 2).double().to(memory_format=torch.channels_last)
    own = everyone[rows()].requires_grad_()
    gathered = gather.gather(own)
    loss = (torch.cdist(own.flatten(1), gathered.flatten(1) + 1) ** 3).mean()
    total = gather.sum_over_processes(own.sum((0, 2, 3)) / SAMPLES)
    loss = loss + (total.exp() * (own.mean((2, 3)) + 1)).sum(1).mean()
    loss.backward()
    assert own.grad is not None
    number = torch.tensor([gather.rank() + 5])
    return {
        "gathered": gathered.detach(),
        "gradient": own.grad,
        "total": total.detach(),
        "first": gather.broadcast(number),
    }


def everything() -> dict[str, Any]:
    results: dict[str, Any] = {name: train(make) for name, make in METHODS.items()}
    groups = 1 if gather.processes() > 1 else 2
    results["moco in groups"] = train(partial(moco, splits=groups, symmetric=False), synchronized=False)
    with patch.object(shuffle, "SMALLEST_GROUP", 2):  # else these few samples would not be split
        results["moco as trained"] = train(partial(moco, splits=4, symmetric=False))
    return results | {"norms": norms(), "collectives": collectives()}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, timedelta(seconds=30), world_size=2, rank=rank)
    torch.save(everything(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    processes = spawn(work, (folder,), nprocs=2, join=False)
    assert processes is not None
    deadline = time.monotonic() + SECONDS
    while not processes.join(timeout=0.5):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"two processes did not end within {SECONDS} seconds")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one process finds."""
    return everything()


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_have_the_gradients_of_one(
    name: str, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert max(gradient.abs().max().item() for gradient in one[name]["gradients"].values()) > 1e-3
    for process in two:
        assert_same(process[name]["gradients"], one[name]["gradients"])


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_end_in_the_state_of_one(
    name: str, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    """Parameters, teachers, queues, prototypes, running statistics."""
    for process in two:
        assert_same(process[name]["state"], one[name]["state"])


@pytest.mark.parametrize("name", ["moco", "moco in groups", "moco as trained", "swav"])
def test_queues_are_bit_equal_in_all_processes(name: str, two: list[dict[str, Any]]) -> None:
    first, second = (process[name]["state"] for process in two)
    queues = [key for key in first if key.startswith("queue")]
    assert queues and all(torch.equal(first[key], second[key]) for key in queues)


def test_processes_with_own_norms_are_the_groups_of_one_process(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    """The shuffling reaches over the processes: keys meet other images in the norms than their queries do."""
    for process in two:
        assert_same(process["moco in groups"]["gradients"], one["moco in groups"]["gradients"])
        queue = {"rows": process["moco in groups"]["state"]["queue.rows"]}
        assert_same(queue, {"rows": one["moco in groups"]["state"]["queue.rows"]})


def test_groups_with_synchronized_norms_have_one_finite_gradient(two: list[dict[str, Any]]) -> None:
    """The setting of a real training on several devices."""
    first, second = (process["moco as trained"]["gradients"] for process in two)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        assert gradient.isfinite().all() and torch.equal(gradient, second[name])
    name = "0 encoder.trunk.s1.0.weight"
    assert not torch.allclose(first[name], two[0]["moco"]["gradients"][name], rtol=1e-3)


def test_groups_change_the_gradients_so_that_the_test_above_is_not_vacuous(one: dict[str, Any]) -> None:
    name = "0 encoder.trunk.s1.0.weight"
    assert not torch.allclose(
        one["moco in groups"]["gradients"][name], one["moco"]["gradients"][name], rtol=1e-3
    )


def test_synchronized_norms_equal_batch_norm_on_the_whole_batch(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for name, expected in one["norms"].items():
        found = dict(two[0]["norms"][name])
        for key in ("outputs", "evaluated", "input"):
            found[key] = torch.cat([process["norms"][name][key] for process in two])
        found["input"] = (
            found["input"] / 2
        )  # each process divides its loss by its own rows, the mean comes later
        for key in found:
            if key.startswith("gradient"):
                found[key] = (two[0]["norms"][name][key] + two[1]["norms"][name][key]) / 2
        assert_same(found, expected)


def test_gathered_rows_are_in_order_and_their_gradient_is_exact(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    expected = one["collectives"]
    for process in two:
        assert torch.equal(process["collectives"]["gathered"], expected["gathered"])
        torch.testing.assert_close(process["collectives"]["total"], expected["total"])
        assert process["collectives"]["first"].item() == 5
    gradient = torch.cat([process["collectives"]["gradient"] for process in two]) / 2
    torch.testing.assert_close(gradient, expected["gradient"], rtol=1e-12, atol=1e-14)


def test_a_signal_to_one_process_stops_both_and_saves(tmp_path):
    """Schedulers signal the first process only; the others must not wait for it for ever."""
    words = "pretrain simclr digits --encoder conv4 --batch-size 16 --steps 100000 --device cpu --devices 2"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNLABELED_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "unlabeled", *words.split(), "--out", str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(600):
            if (out / "log.jsonl").is_file():
                break
            time.sleep(0.1)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped after step" in errors
    state, position = read_checkpoint(out / "checkpoint.safetensors")
    assert position["step"] >= 81 and "optimizer" in state
