"""Weights in shards (fsdp) train as whole ones (ddp), and leave the same files."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from shutil import copytree
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from unlabeled import pretrain
from unlabeled.methods.simclr import SimCLR
from unlabeled.parts import gather
from unlabeled.run import CHECKPOINT, Run, read_checkpoint
from unlabeled.training import sharding

SIZE, STEPS, TOLERANCE = 16, 4, 1e-5
ALL: dict[str, Any] = {"clip": 0.5, "accumulate": 2, "distill_weight": 0.3, "snapshots": 1}
"""Settings whose code touches weights or gradients."""


class Scaled(SimCLR):
    """simclr on images as they are, with weights outside of any layer, whose gradients FSDP does not average."""

    def __init__(self, encoder: Any, *, projection_dim: int = 6) -> None:
        super().__init__(encoder, projection_dim=projection_dim)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def two_views(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        view = self.scale * batch["image"].float() / 255
        return view, view.flip(3)


def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randint(256, (60, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def train(method: Any, out: Path, stop_after: int = 0, **settings: Any) -> None:
    """Train for some steps, or until it was stopped after some of them."""

    def on_step(step: int) -> None:
        if step == stop_after - 1:
            raise KeyboardInterrupt

    every = {"image_size": SIZE, "batch_size": 8, "steps": STEPS, "lr": 1e-3, "device": "cpu", "quiet": True}
    try:
        pretrain(method, pictures(), out=out, on_step=on_step, **every | settings)
    except KeyboardInterrupt:
        assert stop_after


def compare(method: Any, folder: Path, settings: dict[str, Any]) -> float:
    """Train in several ways that must end in the same state; the fraction of the weights that a process keeps."""
    place, fractions = sharding.place, []

    def placed(fabric: Any, trained: Any, *others: Any) -> sharding.Replicated:
        count = sum(weight.numel() for weight in trained.parameters())
        result = place(fabric, trained, *others)
        fractions.append(sum(sharding.local(weight).numel() for weight in trained.parameters()) / count)
        return result

    train(method, folder / "ddp", **settings)
    train(method, folder / "ddp then fsdp", stop_after=2, **settings)
    with patch.object(sharding, "place", placed):
        train(method, folder / "fsdp", stop_after=2, strategy="fsdp", **settings)
        if gather.rank() == 0:
            copytree(folder / "fsdp", folder / "fsdp then one process")
        train(method, folder / "fsdp", resume=True, **settings)
        train(method, folder / "ddp then fsdp", resume=True, strategy="fsdp", **settings)
    return max(fractions)


def work(rank: int, folder: Path, method: Any, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=2, rank=rank)
    torch.save(compare(method, folder, settings), folder / f"{rank}.pt")
    dist.destroy_process_group()


def start(folder: Path, method: Any, settings: dict[str, Any]) -> None:
    """Start the processes from one that has imported what takes long, which they inherit."""
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    how = "fork" if sys.platform == "linux" else "spawn"
    start_processes(work, (folder, method, settings), nprocs=2, start_method=how)


def assert_equal_runs(method: Any, folder: Path, settings: dict[str, Any], fresh_process: Any) -> None:
    ended = fresh_process(start, folder, method, settings)
    assert ended.code == 0, ended.said
    kept = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert max(kept) < 0.55 and sum(kept) >= 1
    expected, position = read_checkpoint(folder / "ddp" / CHECKPOINT)
    assert position["step"] == STEPS
    train(method, folder / "fsdp then one process", resume=True, **settings)
    for name in ("fsdp", "ddp then fsdp", "fsdp then one process"):
        found, position = read_checkpoint(folder / name / CHECKPOINT)
        assert position["step"] == STEPS and found.keys() == expected.keys()
        for group, tensors in expected.items():
            torch.testing.assert_close(found[group], tensors, rtol=0, atol=TOLERANCE, msg=f"{name}, {group}")
        for entry, other in zip(Run(folder / name).history, Run(folder / "ddp").history, strict=True):
            assert entry["loss"] == pytest.approx(other["loss"], abs=1e-4)
            assert entry["spread"] == pytest.approx(other["spread"], abs=1e-4)
        encoder = Run(folder / name).encoder.state_dict()
        own = {key: found["method"][f"encoder.{key}"] for key in encoder}
        assert all(torch.equal(value, own[key]) for key, value in encoder.items())


def test_shards_train_as_whole_weights_and_each_resumes_the_other(tmp_path: Path, fresh_process: Any) -> None:
    """SGD, as AdamW makes whole steps of gradients that are 0 but for rounding, such as that of a bias before a norm."""
    settings = {"encoder": "vit-gap-tiny", "optimizer": "sgd", "lr": 0.1, **ALL}
    assert_equal_runs(Scaled, tmp_path, settings, fresh_process)
