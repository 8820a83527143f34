"""Runs killed at random moments, whatever they were doing, end with the bits of runs that were left alone.

SIGKILL leaves no time to save or to tidy up. Runs are killed again and again and resumed from what is on disk, `KILLS`
times for methods of every shape; `make golden` runs it.
"""

import multiprocessing
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.files import LOCK
from unlabeled.run import CHECKPOINT, read_checkpoint

PROGRAM = """
import torch
from unlabeled.training import checkpoints, train
from unlabeled.data import open_data
torch.set_num_threads(1)
checkpoints.SECONDS_BETWEEN_CHECKPOINTS = 0.05
data = open_data(source).subset(torch.arange(64))
settings = {"resume": True} if resume else {"batch_size": 8, "steps": steps}
train.pretrain(method, data, out=out, quiet=True, **settings)
"""
SHAPES = {
    "plain": ("rotnet", "digits", 300),
    "teacher": ("byol", "digits", 200),
    "queue": ("moco", "digits", 200),
    "prototypes": ("swav", "digits", 150),
    "players": ("context_encoder", "photos", 60),
    "clusters": ("deepcluster", "photos", 60),
    "sound": ("apc", "tones", 60),
    "words": ("skipgram", "topics", 1500),
}
KILLS, SECONDS = 50, 1800
FORK = multiprocessing.get_context("forkserver")
"""New processes come from one that has imported what takes long, so that kills meet the training."""


def start(name: str, out: Path, resume: bool) -> ForkServerProcess:
    FORK.set_forkserver_preload(["unlabeled.training.train", "lightning_fabric", "timm", "torchvision"])
    values: dict[str, Any] = dict(zip(("method", "source", "steps"), SHAPES[name], strict=True))
    process = FORK.Process(target=exec, args=(PROGRAM, values | {"out": str(out), "resume": resume}))
    process.start()
    return process


@pytest.mark.golden
@pytest.mark.parametrize("name", SHAPES)
def test_a_run_killed_at_random_moments_ends_bit_identical(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    for out in ("first", "whole"):  # the first one decodes and compiles
        usual = time.monotonic()
        process = start(name, tmp_path / out, resume=False)
        process.join(SECONDS)
        assert process.exitcode == 0
    usual = time.monotonic() - usual
    whole, _ = read_checkpoint(tmp_path / "whole" / CHECKPOINT)
    moments, steps, trial, writing = random.Random(name), [], 0, 0
    while len(steps) < KILLS:  # a run that was killed late may complete soon: then comes another
        trial, complete, reached = trial + 1, False, None
        parts = tmp_path / f"parts{trial}"
        while not complete:
            since, resume, before = (
                time.monotonic(),
                (parts / CHECKPOINT).is_file(),
                {parts / LOCK, *parts.glob(".*")},
            )
            process = start(name, parts, resume)
            process.join(moments.uniform(0, 1.1) * usual)
            if killed := process.is_alive():
                process.kill()
                process.join()
            assert killed or process.exitcode == 0
            complete, step = not killed, None
            if (parts / CHECKPOINT).is_file():  # no moment leaves one that cannot be read
                step = read_checkpoint(parts / CHECKPOINT)[1]["step"]
            if killed:
                steps.append(step)
                writing += not before.issuperset(parts.glob(".*"))
            # The machine may be busier than it was, or less.
            if killed and step == reached:
                usual *= 1.1
            elif complete and not resume:
                usual = time.monotonic() - since
            reached = step
            assert time.monotonic() - began < SECONDS
        state, _ = read_checkpoint(parts / CHECKPOINT)
        assert whole.keys() == state.keys()
        for group, tensors in whole.items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, state[group][key]), f"{group} {key}"
        assert not list(parts.glob(".*")), "what killed writers left is swept"
    print(f"{name}: {len(steps)} kills after {len(set(steps))} different steps, {writing} amid a file")
