"""Weights in shards (fsdp) train as whole ones (ddp), and leave the same files."""

import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any
from unittest.mock import PropertyMock, patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from unlabeled import encoders, methods, pretrain
from unlabeled.encoders import from_timm
from unlabeled.encoders import image as images
from unlabeled.methods.simclr import SimCLR
from unlabeled.parts import gather
from unlabeled.run import CHECKPOINT, Run, read_checkpoint
from unlabeled.training import judge, sharding, watch
from unlabeled.training import plan as plans

SIZE, STEPS, TOLERANCE = 16, 2, 1e-5
ALL: dict[str, Any] = {"clip": 0.5, "accumulate": 2, "distill_weight": 0.3, "snapshots": 1}
"""Settings whose code touches weights or gradients."""
NETWORK = "vit-gap-tiny"
SHALLOW = {NETWORK: partial(from_timm.vit_small, width=96, gap=True, blocks=2)}
"""Its blocks are as large as the smallest that are gathered by themselves."""


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
    return torch.randint(256, (52, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def train(method: Any, out: Path, stop_after: int = 0, **settings: Any) -> None:
    """Train for some steps, or until it was stopped after some of them."""

    def on_step(step: int) -> None:
        if step == stop_after - 1:
            raise KeyboardInterrupt

    every = {"image_size": SIZE, "batch_size": 8, "steps": STEPS, "lr": 1e-3, "device": "cpu", "quiet": True}
    # All keep the state with the lowest loss, as where the length is chosen for the user.
    stops = patch.object(watch.Watch, "stops", PropertyMock(return_value=True), create=True)
    few, shallow = patch.object(judge, "PROBE_SAMPLES", {"image": 8}), patch.dict(images.NAMES, SHALLOW)
    # By itself AdamW makes whole steps of gradients that are 0 but for rounding, as of a bias before a norm.
    steady = patch.object(torch.optim, "AdamW", partial(torch.optim.AdamW, eps=1e-3))
    try:
        with stops, few, shallow, steady:
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
    train(method, folder / "ddp then fsdp", stop_after=1, **settings)
    with patch.object(sharding, "place", placed):
        train(method, folder / "ddp then fsdp", resume=True, strategy="fsdp", **settings)
        train(method, folder / "fsdp", stop_after=1, strategy="fsdp", **settings)
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
    encoders.build(NETWORK, image_size=SIZE)
    how = "fork" if sys.platform == "linux" else "spawn"
    start_processes(work, (folder, method, settings), nprocs=2, start_method=how)


def assert_equal_runs(
    method: Any, folder: Path, settings: dict[str, Any], fresh_process: Any, draws: bool
) -> None:
    """Runs must be equal, that which goes on in one process only if the method draws nothing, as others draw there."""
    ended = fresh_process(start, folder, method, settings)
    assert ended.code == 0, ended.said
    fractions = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert max(fractions) < 0.55 and sum(fractions) >= 1
    expected, position = read_checkpoint(folder / "ddp" / CHECKPOINT)
    assert position["step"] == STEPS
    copytree(folder / "fsdp", folder / "fsdp then one process")
    train(method, folder / "fsdp then one process", resume=True, **settings)
    for name in ("ddp then fsdp", "fsdp then one process"):
        state, position = read_checkpoint(folder / name / CHECKPOINT)
        assert position["step"] == STEPS and state.keys() == expected.keys()
        with patch.dict(images.NAMES, SHALLOW):
            encoder = Run(folder / name).encoder.state_dict()
        assert all(torch.equal(value, state["method"][f"encoder.{key}"]) for key, value in encoder.items())
        if draws and name == "fsdp then one process":
            continue
        for group, tensors in expected.items():
            torch.testing.assert_close(state[group], tensors, rtol=0, atol=TOLERANCE)
        for entry, other in zip(Run(folder / name).history, Run(folder / "ddp").history, strict=True):
            assert entry["loss"] == pytest.approx(other["loss"], abs=1e-4)
            assert entry["spread"] == pytest.approx(other["spread"], abs=1e-4)


def test_shards_train_as_whole_weights_and_each_resumes_the_other(tmp_path: Path, fresh_process: Any) -> None:
    settings = {"encoder": NETWORK, "optimizer": "sgd", "lr": 0.1, **ALL}
    assert_equal_runs(Scaled, tmp_path, settings, fresh_process, draws=False)


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in methods.names() if methods.load(name).fsdp])
def test_methods_with_random_views_train_in_shards_as_in_whole(
    name: str, tmp_path: Path, fresh_process: Any
) -> None:
    settings = {"encoder": NETWORK, **methods.describe(name).smallest}
    assert_equal_runs(name, tmp_path, settings, fresh_process, draws=True)


def test_what_cannot_be_sharded_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "processes", lambda: 2)
    encoder = encoders.build("conv4", image_size=SIZE)
    for method, settings, message in [
        ("bigan", {}, r"strategy must be ddp for bigan, got fsdp, which is for .*\bbyol\b.*\bsimclr\b"),
        ("simclr", {"encoder": encoder}, "strategy must be ddp for networks that are brought as objects"),
        (SimCLR(encoder), {}, "strategy must be ddp for methods that are brought as objects"),
    ]:
        with pytest.raises(ValueError, match=message):
            sharding.refuse(plans.make(method, {"strategy": "fsdp", **settings}))


def test_one_process_says_that_shards_have_no_effect(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(Scaled, tmp_path / "run", encoder=NETWORK, strategy="fsdp", steps=1, quiet=False)
    assert "strategy fsdp has no effect on one process, which keeps all weights" in capfd.readouterr().err
