"""Long and broken runs can be trusted: numbers that are not finite, full disks, odd machines, memory, and leaks."""

import ctypes
import gc
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numba
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import unlabeled
from unlabeled import encoders
from unlabeled.cli import main
from unlabeled.data import Data, from_images, open_data
from unlabeled.data.video import decode as decode_video
from unlabeled.evaluation import logistic, protocol
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.controls import random
from unlabeled.evaluation.features import Representation, standardization
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe
from unlabeled.evaluation.probe import Settings as ProbeSettings
from unlabeled.evaluation.probes import knn, linear
from unlabeled.kernels import lanes
from unlabeled.method import Batch, Method
from unlabeled.methods.moco import MoCo
from unlabeled.run import CHECKPOINT, LOG, Run, read_checkpoint
from unlabeled.training import checkpoints, guard, loop, seeds, train
from unlabeled.training.settings import Settings

pytestmark = pytest.mark.usefixtures("small_networks")

FAST: dict[str, Any] = {"batch_size": 8, "quiet": True}
BAD = 5
"""The sample that makes a loss or a gradient infinite or NaN."""


def pictures(count: int = 24, size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return encoders.build("conv4", image_size=16)


def state_of(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    return read_checkpoint(folder / CHECKPOINT)


def assert_same_state(first: Path, second: Path) -> None:
    one, other = state_of(first)[0], state_of(second)[0]
    assert one.keys() == other.keys()
    for group, tensors in one.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, other[group][key]), f"{group} {key}"


def command(*words: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return int(stopped.value.code or 0)


# Numbers that are not finite.


class _Poison(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * torch.nan


class Broken(MoCo):
    """Running statistics, a queue and a teacher, and NaN from the input on where the bad sample is in the batch."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder, projection_dim=8, queue=20)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> Tensor:
        if BAD in batch["index"]:
            batch = {"index": batch["index"], "image": batch["image"] * torch.nan}
        return super().forward(batch)


class Steep(Broken):
    """A finite loss, but a gradient that is NaN."""

    def forward(self, batch: Batch) -> Tensor:
        loss = MoCo.forward(self, batch)
        return _Poison.apply(loss) if BAD in batch["index"] else loss  # type: ignore[return-value]


def leave_out_bad_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that never looks at a batch with the bad sample."""
    step = loop.Loop._step

    def careful(current: Any) -> None:
        first = current.step % current.steps_per_epoch * current.batch_size
        if BAD not in current.order[first:][: current.batch_size]:
            step(current)
            return
        current.step, current.skipped = current.step + 1, current.skipped + 1

    monkeypatch.setattr(loop.Loop, "_step", careful)


@pytest.mark.parametrize("kind", [Broken, Steep])
def test_steps_that_are_left_out_leave_no_trace(
    kind: type[Method], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "skip_nan": 3, "batch_size": 8}
    run = unlabeled.pretrain(kind, pictures(), encoder=network(), out=tmp_path / "skipped", **settings)
    shown = capsys.readouterr().err
    assert "step skipped, 3 of at most 3" in shown and "steps skipped 3" in shown
    leave_out_bad_steps(monkeypatch)
    unlabeled.pretrain(kind, pictures(), encoder=network(), out=tmp_path / "never", quiet=True, **settings)
    assert_same_state(tmp_path / "skipped", tmp_path / "never")
    assert [entry["skipped_steps"] for entry in run.history] == [1, 2, 3]
    assert [entry["loss"] for entry in run.history] == [
        entry["loss"] for entry in Run(tmp_path / "never").history
    ]


@pytest.mark.parametrize(
    ("kind", "found"), [(Broken, "loss must be finite, got loss nan"), (Steep, "gradients must be finite")]
)
def test_one_bad_step_too_many_stops_with_step_samples_and_a_good_state(
    kind: type[Method], found: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "encoder": network(), "out": tmp_path / "run", **FAST}
    with pytest.raises(FloatingPointError, match=found) as caught:
        unlabeled.pretrain(kind, pictures(), skip_nan=1, **settings)
    state, position = state_of(tmp_path / "run")
    step, message = position["step"], str(caught.value)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seeds.mix(0, 1, -2)))
    rows = order[(step - 3) * 8 :][:8].tolist()
    assert BAD in rows and 3 <= step < 6 and position["skipped"] == 1
    assert f"at step {step} on samples {rows};" in message
    assert f"the state after step {step} is kept in {tmp_path / 'run'}" in message
    assert all(value.isfinite().all() for value in state["method"].values())
    # What was counted before counts on: one more is allowed now, and the one after it stops.
    with pytest.raises(FloatingPointError, match="on samples"):
        unlabeled.pretrain(kind, pictures(), skip_nan=2, resume=True, **settings | {"epochs": None})
    assert state_of(tmp_path / "run")[1]["step"] >= 6 and state_of(tmp_path / "run")[1]["skipped"] == 2
    again = settings | {"epochs": None, "encoder": network()}
    unlabeled.pretrain(kind, pictures(), skip_nan=3, resume=True, **again)
    whole = settings | {"out": tmp_path / "whole", "encoder": network()}
    unlabeled.pretrain(kind, pictures(), skip_nan=3, **whole)
    assert_same_state(tmp_path / "run", tmp_path / "whole")


def test_of_many_samples_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"samples \[(\d+, ){7}\d+\] and 16 more;"):
        unlabeled.pretrain(
            Broken, pictures(), encoder=network(), out=tmp_path / "run", epochs=1, batch_size=24, quiet=True
        )


class Moves(Method):
    """A method that moves its weights itself, to where they are of no use."""

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            next(self.encoder.parameters()).fill_(torch.nan)
        return torch.tensor(torch.nan)


def test_weights_that_a_method_itself_has_moved_to_nan_are_not_saved(tmp_path: Path) -> None:
    """Such weights cannot be taken back: the step is not left out, and not saved."""
    settings: dict[str, Any] = {"encoder": network(), "out": tmp_path / "run", "steps": 3, **FAST}
    with pytest.raises(FloatingPointError, match="the state after step 0 is kept"):
        unlabeled.pretrain(Moves, pictures(), skip_nan=3, **settings)
    state, position = state_of(tmp_path / "run")
    assert position["step"] == 0 and all(value.isfinite().all() for value in state["method"].values())


class Drifts(Method):
    """Every loss is finite, but a weight is not."""

    def forward(self, batch: Batch) -> Tensor:
        return self.encoder(self.encoder.inputs(batch)).mean()

    def after_step(self, progress: float) -> None:
        if progress == 1:
            next(self.encoder.parameters()).data.fill_(torch.inf)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(loop.Loop, "_end_epoch", lambda loop: None)
    settings: dict[str, Any] = {"encoder": network(), "out": tmp_path / "run", "steps": 3, **FAST}
    with pytest.raises(
        FloatingPointError, match=r"weights must be finite, .*; the state after step 2 is kept"
    ):
        unlabeled.pretrain(Drifts, pictures(), **settings)
    assert state_of(tmp_path / "run")[1]["step"] == 2


def test_a_norm_that_overflows_is_no_reason_to_stop() -> None:
    method = Drifts(network())
    for parameter in method.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    assert guard.finite_gradients(method.parameters())
    next(method.parameters()).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
    assert not guard.finite_gradients(method.parameters())


def test_skip_nan_is_checked_and_may_change_when_a_run_is_resumed() -> None:
    with pytest.raises(ValueError, match="skip_nan must be at least 0, got -1"):
        Settings(skip_nan=-1)
    with pytest.raises(ValueError, match=r"skip_nan must be a whole number, got 1\.5"):
        Settings(skip_nan=1.5)  # type: ignore[arg-type]


TWO = """
import sys, torch
from unlabeled import encoders, pretrain
from unlabeled.methods.moco import MoCo
from unlabeled.parts import gather
class Broken(MoCo):
    def forward(self, batch):
        if 5 in batch["index"]:
            print("seen by", gather.rank(), file=sys.stderr, flush=True)
            batch = {"index": batch["index"], "image": batch["image"] * torch.nan}
        return super().forward(batch)
images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
torch.manual_seed(0)
encoder = encoders.build("conv4", image_size=16)
pretrain(Broken, images, encoder=encoder, out=sys.argv[1], epochs=3, batch_size=8, devices=2, device="cpu",
         skip_nan=int(sys.argv[2]), quiet=True, queue=20, projection_dim=8)
"""


@pytest.mark.golden
def test_processes_agree_on_what_is_left_out(tmp_path: Path) -> None:
    """The bad sample is seen by one process at a time; both leave the step out, and both stop."""
    program = tmp_path / "two.py"
    program.write_text(TWO)
    ended = {}
    for allowed in (3, 2):
        words = [sys.executable, str(program), str(tmp_path / f"run{allowed}"), str(allowed)]
        ended[allowed] = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert ended[3].returncode == 0, ended[3].stderr[-2000:]
    assert ended[3].stderr.count("seen by") == 3
    state, position = state_of(tmp_path / "run3")
    assert position["step"] == 9 and position["skipped"] == 3
    assert all(value.isfinite().all() for value in state["method"].values())
    assert ended[2].returncode != 0 and "loss must be finite, got loss nan at step" in ended[2].stderr
    _, position = state_of(tmp_path / "run2")
    assert position["skipped"] == 2 and 6 <= position["step"] < 9


# Full disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=32m") != 0:
        pytest.skip(f"cannot mount a small disk here ({os.strerror(ctypes.get_errno())})")
    yield place
    libc.umount2(os.fsencode(place), 2)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    free = os.statvfs(disk)
    file = disk / "filler"
    with file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return file


@pytest.mark.parametrize("leave", [0, 300_000])
def test_a_full_disk_stops_in_one_line_and_keeps_the_last_checkpoint(
    leave: int, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    out = small_disk / "run"

    def filling(step: int) -> None:
        if step == 2:
            fill(small_disk, leave)

    words = ["pretrain", "rotnet", "digits", "--encoder", "conv4", "--batch-size", "8", "--steps", "5"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "pretrain", partial(train.pretrain, on_step=filling))
        assert command(*words, "--out", str(out)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"unlabeled: {out / CHECKPOINT} cannot be written after step 3 (")
    assert "No space left on device" in line and "the state after step 2 is kept in" in line
    assert state_of(out)[1]["step"] == 2 and Run(out).encoder and not list(out.glob(".*"))
    (small_disk / "filler").unlink()
    assert command(*words[:3], "--resume", "--out", str(out)) == 0
    assert command(*words, "--out", str(tmp_path / "whole")) == 0
    assert_same_state(out, tmp_path / "whole")


def test_a_run_that_cannot_even_begin_names_the_file(small_disk: Path, capsys: Any) -> None:
    fill(small_disk, 0)
    assert command("pretrain", "rotnet", "digits", "--steps", "1", "--out", str(small_disk / "run")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"unlabeled: No space left on device: {small_disk / 'run' / 'run.toml'}"
    assert not list(small_disk.glob("run/*"))


def test_a_log_that_cannot_be_written_stops_in_one_line(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    end = loop.Loop._end_epoch

    def filling(current: Any) -> None:
        if current.step == 6:
            fill(small_disk, 0)
            (current.checkpoints.folder / LOG).write_bytes(b"")
            fill_rest(current.checkpoints.folder)
        end(current)

    def fill_rest(folder: Path) -> None:
        with (folder / "rest").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
            while True:
                stream.write(bytes(4096))

    monkeypatch.setattr(loop.Loop, "_end_epoch", filling)
    with pytest.raises(OSError, match=r"log.jsonl cannot be written after step 6 \(No space .* after step 5"):
        unlabeled.pretrain("rotnet", pictures(), encoder="conv4", out=small_disk / "run", epochs=3, **FAST)
    assert state_of(small_disk / "run")[1]["step"] == 5 and Run(small_disk / "run").history == []


def test_a_cache_on_a_full_disk_goes_on_in_memory_and_says_so(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for number in range(24):
        pixels = generator.integers(0, 256, (700, 700, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.bmp")
    with caplog.at_level(logging.WARNING, "unlabeled.data"):
        data = open_data(tmp_path / "data", store_size=700, cache=small_disk)
    assert caplog.text.count("No space left on device") == 1 and "kept in memory" in caplog.text
    assert not list(small_disk.iterdir()), "no half-written cache"
    kept = open_data(tmp_path / "data", store_size=700, cache=False)
    assert torch.equal(data.batch(torch.arange(24))["image"], kept.batch(torch.arange(24))["image"])


def _total(numbers):
    total = 0.0
    for number in numbers:
        total += number
    return total


def _largest(numbers):
    return max(numbers[0], numbers[-1])


def compiled_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Loops kept in a folder, called by two starts: how many each of them found there."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    lanes._warn_once.cache_clear()
    found = []
    for _ in range(2):
        loops: list[Any] = [lanes.jit_cached(_total), lanes.jit_cached(_largest)]
        assert [loop(np.arange(4.0)) for loop in loops] == [6.0, 3.0]
        found.append(sum(sum(loop.stats.cache_hits.values()) for loop in loops))
    return found[0], found[1]


def test_compiled_loops_that_cannot_be_kept_are_compiled_again(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(small_disk, 0)
    assert compiled_twice(small_disk, monkeypatch) == (0, 0)
    assert len(caplog.records) == 1 and f"{small_disk}" in caplog.text and "No space left" in caplog.text
    assert not [path for path in small_disk.rglob("*.nb*") if path.stat().st_size], "nothing half-written"
    (small_disk / "filler").unlink()
    assert compiled_twice(small_disk, monkeypatch) == (0, 2)
    assert compiled_twice(Path(NOWHERE), monkeypatch) == (0, 0)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 40])
def test_compiled_loops_that_are_damaged_are_replaced(
    ending: str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert compiled_twice(tmp_path, monkeypatch) == (0, 2)
    files = [*tmp_path.rglob(f"*.{ending}")]
    for file in files:
        os.truncate(file, left)
    assert compiled_twice(tmp_path, monkeypatch) == (0, 2) and len(files) == 2 and not caplog.records


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("checkpoint.safetensors", "encoder.safetensors", "run.toml", "log.jsonl", "skipped.csv"):
        (out / f".{name}.abcd1234").touch()
    for name in (".tmpAbC123", ".mine"):
        (out / name).touch()
    (out / ".tmpGhI789").write_bytes(bytes(4096))
    (out / ".tmpDeF456").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (out / ".tmpfolder").mkdir()
    (out / ".checkpoint.safetensors.efgh5678").mkdir()  # of trial steps, see training/duration.py
    (out / ".checkpoint.safetensors.efgh5678" / "encoder").touch()
    (out / ".tmpnotes1").write_text("not safetensors")
    unlabeled.pretrain("rotnet", pictures(), encoder="conv4", out=out, steps=1, **FAST)
    assert {path.name for path in out.glob(".*")} == {".mine", ".tmpfolder", ".tmpnotes1"}


# Odd machines.


def test_a_clock_that_jumps_back_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"encoder": "conv4", "steps": 5, **FAST}
    unlabeled.pretrain("rotnet", pictures(), out=tmp_path / "steady", **settings)
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    unlabeled.pretrain("rotnet", pictures(), out=tmp_path / "jumping", **settings)
    monkeypatch.undo()
    time.tzset()
    assert_same_state(tmp_path / "steady", tmp_path / "jumping")


def unlabeled_in(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in an environment without a cache of its own."""
    inherited = {key: value for key, value in os.environ.items() if key != "UNLABELED_CACHE"}
    return subprocess.run(
        [sys.executable, "-m", "unlabeled", *words],
        cwd=folder,
        env={**inherited, "HOME": str(folder), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


NOWHERE = "/dev/null/nowhere"
ODD = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kathmandu"},
    "German": {"LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Apia"},
    "homeless": {
        **dict.fromkeys(("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME"), NOWHERE),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",  # not beside the package either
    },
    "cacheless": {"UNLABELED_CACHE": NOWHERE},
}


@pytest.mark.golden
def test_locale_home_and_cache_change_no_bit(tmp_path: Path) -> None:
    """Folders with names that ASCII cannot write, in places where nothing else can be written."""
    for number, picture in enumerate(pictures(24)):
        file = tmp_path / "Bilder ü ı" / f"{'ab'[number % 2]}" / f"größe {number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file)
    for kind, data in (("simclr", "Bilder ü ı"), ("skipgram", "topics")):
        words = ["pretrain", kind, data, "--steps", "4", "--batch-size", "8", "--device", "cpu"]
        for name, environment in {"usual": {}, **ODD}.items():
            out = tmp_path / kind / name
            done = unlabeled_in(tmp_path, environment, *words, "--out", str(out))
            assert done.returncode == 0 and "Traceback" not in done.stderr, (name, done.stderr[-2000:])
            assert_same_state(tmp_path / kind / "usual", out)
        assert "kept in memory" in done.stderr or kind == "skipgram"


@pytest.mark.golden
def test_the_same_commands_give_the_same_scores(tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        train_words = f"pretrain simclr digits --encoder conv4 --steps 30 --device cpu --out {name}"
        judge_words = f"evaluate {name} digits --probe knn,linear,few,finetune --draws 2 --device cpu"
        for words in (train_words, judge_words):
            done = unlabeled_in(tmp_path, {}, *words.split())
            assert done.returncode == 0, done.stderr[-2000:]
        written.append(json.loads((tmp_path / name / "scores.json").read_text()))
        assert written[-1].pop("time")
    assert written[0] == written[1] and len(written[0]["records"]) > 8


# Memory of long runs.


class Held(NamedTuple):
    """What a process holds: tensors, open files, threads and child processes, and mebibytes of memory."""

    tensors: int
    files: int
    tasks: int
    memory: float


def held() -> Held:
    gc.collect()
    tensors = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
    tasks = len(os.listdir("/proc/self/task")) + len(multiprocessing.active_children())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(tensors, len(os.listdir("/proc/self/fd")), tasks, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


class Watched(Method):
    """The mean feature wants to be 1; it notes what the process holds."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.done, self.at, self.held = 0, (), []

    def forward(self, batch: Batch) -> Tensor:
        return (self.encoder(self.encoder.inputs(batch)).mean() - 1).square()

    def after_step(self, progress: float) -> None:
        self.done += 1
        if self.done in self.at:
            self.held.append(held())


class WatchedVideos(Watched):
    kind = "video"

    def training_view(self, data: Any) -> Data:
        return data.clips(frames=4)


def film(path: Path, frames: Tensor) -> None:
    """Encode frames, uint8, shape (frames, channels, height, width)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "4"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[2:], "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def files(kind: str, folder: Path, count: int = 40) -> list[Path]:
    """Files of images of 8 x 8 pixels, or of films of 8 frames of 16 x 16 pixels."""
    folder.mkdir()
    paths = [folder / f"{number}.{'png' if kind == 'image' else 'mp4'}" for number in range(count)]
    for number, path in enumerate(paths):
        if kind == "image":
            Image.fromarray(pictures(1, 8, number)[0].permute(1, 2, 0).numpy()).save(path)
        else:
            film(path, pictures(8, 16, number))
    return paths


def held_after(kind: str, workers: int, folder: Path, at: tuple[int, ...], count: int = 40) -> list[Held]:
    """What the process holds after some steps on files."""
    files(kind, folder / "data", count)
    torch.manual_seed(0)
    network, size = {"image": ("conv4", 8), "video": ("conv3d", 16)}[kind]
    encoder = encoders.build(network, kind=kind, in_channels=3, image_size=size)
    method = (Watched if kind == "image" else WatchedVideos)(encoder)
    method.at = at
    settings: dict[str, Any] = {"batch_size": 2, "workers": workers, "steps": at[-1], "quiet": True}
    unlabeled.pretrain(method, folder / "data", out=folder / "run", **settings)
    return method.held


@pytest.mark.parametrize("kind", ["image", "video"])
def test_steps_leave_no_tensor_behind(kind: str, tmp_path: Path) -> None:
    early, late = held_after(kind, 2, tmp_path, (12, 22), count=20)
    assert late[:3] == early[:3]


@pytest.mark.golden
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_memory_is_flat_over_ten_thousand_steps(kind: str, workers: int, tmp_path: Path) -> None:
    after = held_after(kind, workers, tmp_path, (1_000, 5_000, 10_000))
    print(f"{kind}, {workers} workers:", *after, sep="\n")
    assert after[-1].memory - after[0].memory < 4
    assert after[-1][:3] == after[0][:3]


@pytest.mark.golden
@pytest.mark.parametrize("read", ["films", "damaged films"])
def test_reading_films_again_and_again_keeps_nothing(read: str, tmp_path: Path) -> None:
    paths = files("video", tmp_path / "data")
    if read == "damaged films":
        for path in paths:
            os.truncate(path, path.stat().st_size // 2)
    after = []
    for number in range(10_000):
        which = number % len(paths)
        with pytest.raises(ValueError) if read == "damaged films" else nullcontext():
            decode_video.read_all(paths[which])
        if number + 1 in (1_000, 5_000, 10_000):
            after.append(held())
    print(f"{read}:", *after, sep="\n")
    assert after[-1].memory - after[0].memory < 4
    assert after[-1][:3] == after[0][:3]


# Leaks of the test set.


PROBES, CONTROLS = ("knn", "linear", "few", "finetune"), ("default", "maps", "supervised")


def judged(
    test: Data,
    monkeypatch: pytest.MonkeyPatch,
    probes: tuple[str, ...] = PROBES,
    controls: tuple[str, ...] = CONTROLS,
) -> list[Tensor]:
    """Everything that was fitted or chosen in an evaluation, and what is predicted of the first ten test samples."""
    found: list[Tensor] = []
    fit, predict, measure = logistic.fit, knn.predict, protocol._measurement

    def fitted(features: Tensor, *arguments: Any, **options: Any) -> logistic.Linear:
        classifier = fit(features, *arguments, **options)
        found.extend([*options["statistics"], classifier.weight, classifier.bias])
        found.append(torch.tensor(classifier.penalty))
        return classifier

    def voted(train: Tensor, labels: Tensor, *arguments: Any, k: int, temperature: float) -> Tensor:
        found.extend([train, labels, torch.tensor([k, temperature])])
        return predict(train, labels, *arguments, k=k, temperature=temperature)

    def measured(cell: Any, features: str, predictions: list[Prediction], *rest: Any) -> Any:
        found.extend(classes[:10] for classes, _ in predictions)
        return measure(cell, features, predictions, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(logistic, "fit", fitted)
        patch.setattr(knn, "predict", voted)
        patch.setattr(protocol, "_measurement", measured)
        data, options = (labelled(60, seed=1), test), {"draws": 2, "steps": 3, "device": "cpu"}
        unlabeled.evaluate(network(), data, probe=probes, controls=controls, **options)
    return found


def labelled(count: int, seed: int) -> Data:
    """Noise that is brighter for some classes than for others."""
    labels = torch.arange(count) % 3
    images = pictures(count, seed=seed) // 2 + 40 * labels[:, None, None, None].to(torch.uint8)
    return from_images(images, labels)


def two_test_sets() -> tuple[Data, Data]:
    """The same first ten images, then others; the labels differ everywhere."""
    first, second = labelled(30, seed=2), labelled(30, seed=2)
    images = second.batch(torch.arange(30))["image"].clone()
    images[10:] = 255 - images[10:]
    return first, from_images(images, (torch.arange(30) + 1) % 3)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    assert len(first) == len(second) > 0
    return all(torch.equal(one, other) for one, other in zip(first, second))


def test_no_choice_sees_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [judged(test, monkeypatch) for test in two_test_sets()]
    assert same(*found) and len(found[0]) > 30


def leaky_scale(
    features: Representation, data: Labelled, rows: Tensor, layer: str | None, seed: int
) -> logistic.Linear:
    both = torch.cat([features.features(data.train, layer), features.features(data.test, layer)])
    train, statistics = features.features(data.train, layer)[rows], standardization(both)
    return logistic.fit(train, data.labels[rows], len(data.classes), statistics=statistics)


def leaky_penalty(
    features: Representation, data: Labelled, rows: Tensor, layer: str | None, seed: int
) -> logistic.Linear:
    """The penalty that does best on the test set."""
    train, test = features.features(data.train, layer)[rows], features.features(data.test, layer)
    given: dict[str, Any] = {"statistics": features.statistics(data.train, layer)}
    tried = [
        logistic.fit(train, data.labels[rows], 3, penalty=penalty, **given) for penalty in logistic.PENALTIES
    ]
    best = max(tried, key=lambda classifier: (classifier(test).argmax(1) == data.answers).sum())
    return logistic.fit(train, data.labels[rows], 3, penalty=best.penalty, **given)


def leaky_centre(
    features: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: ProbeSettings
) -> Prediction:
    train, test = features.features(data.train, layer), features.features(data.test, layer)
    centre = torch.cat([train, test]).mean(0)
    given = (train[rows] - centre, data.labels[rows], test - centre, 3)
    return knn.predict(*given, k=settings.k, temperature=settings.temperature), ""


@pytest.mark.parametrize(
    ("probe", "name", "leak"),
    [(linear, "fit", leaky_scale), (linear, "fit", leaky_penalty), (knn, "PROBE", Probe(leaky_centre))],
)
def test_a_planted_leak_is_caught(probe: Any, name: str, leak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, controls = (probe.__name__.rpartition(".")[2],), ("raw",)
    honest = [judged(test, monkeypatch, probes, controls) for test in two_test_sets()]
    monkeypatch.setattr(probe, name, leak)
    leaky = [judged(test, monkeypatch, probes, controls) for test in two_test_sets()]
    assert same(*honest) and not same(*leaky)


def test_norms_calibrated_on_the_test_set_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for test in two_test_sets():
        with monkeypatch.context() as patch:
            leak = Control(lambda encoder, data, seed, test=test: random.make(encoder, test, seed))
            patch.setattr(random, "CONTROL", leak)
            found.append(judged(test, patch, ("knn",), ("random",)))
    assert not same(*found)
