"""Runs killed at random moments, whatever they were doing, end with the bits of runs that were left alone.

SIGKILL leaves no time to save or to tidy up. Each run is killed several times and resumed from what is on disk;
`make golden` runs it, with some fifty kills over methods of every shape, in about a quarter of an hour.
"""

import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from unlabeled.run import CHECKPOINT, read_checkpoint

PROGRAM = """
import sys
from unlabeled import train
from unlabeled.data import open_data
import torch
train.SECONDS_BETWEEN_CHECKPOINTS = 0.05
method, source, steps, out, resume = sys.argv[1:]
data = open_data(source).subset(torch.arange(64))
settings = {"batch_size": 8, "steps": int(steps)} if resume == "no" else {"resume": True}
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
    "words": ("skipgram", "topics", 60),
}
KILLS, SECONDS = 7, 600


def start(name: str, out: Path, resume: bool) -> subprocess.Popen[bytes]:
    method, source, steps = SHAPES[name]
    words = [sys.executable, "-c", PROGRAM, method, source, str(steps), str(out), "yes" if resume else "no"]
    return subprocess.Popen(words, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.mark.golden
@pytest.mark.parametrize("name", SHAPES)
def test_a_run_killed_at_random_moments_ends_bit_identical(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    finish(start(name, tmp_path / "whole", resume=False))
    usual = time.monotonic() - began
    moments, kills, trial = random.Random(name), 0, 0
    while kills < KILLS:  # a run that was killed late may complete soon: then comes another
        trial, complete = trial + 1, False
        parts = tmp_path / f"parts{trial}"
        while not complete:
            process = start(name, parts, resume=(parts / CHECKPOINT).is_file())
            with suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.3, 1.1) * usual)
            killed = process.poll() is None
            if killed:
                process.kill()
                kills += 1
            _, errors = process.communicate()
            assert killed or process.returncode == 0, errors.decode()[-2000:]
            complete = not killed
            if (parts / CHECKPOINT).is_file():
                read_checkpoint(parts / CHECKPOINT)  # no moment leaves one that cannot be read
            assert time.monotonic() - began < SECONDS
        first, second = (read_checkpoint(run / CHECKPOINT)[0] for run in (tmp_path / "whole", parts))
        assert first.keys() == second.keys()
        for group, tensors in first.items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, second[group][key]), f"{group} {key}"
