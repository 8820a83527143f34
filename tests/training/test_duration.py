"""The length of a run by time: how it is chosen, kept, made shorter, and told."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import unlabeled
from unlabeled import encoders
from unlabeled.cli import main
from unlabeled.data import open_data
from unlabeled.encoders import image, stages
from unlabeled.method import Batch, Method
from unlabeled.run import CHECKPOINT, load, read_checkpoint
from unlabeled.training import checkpoints, duration, loop, progress
from unlabeled.training.duration import Costs, choose, seconds_of, steps_within
from unlabeled.training.schedule import Cut, Schedule, learning_rate
from unlabeled.training.settings import Settings

pytestmark = pytest.mark.usefixtures("small_networks")

FAST: dict[str, Any] = {"batch_size": 8, "encoder": "conv4"}


def pictures(count: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return encoders.build("conv4", image_size=16)


class Clock:
    """A clock that only a method moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


class Slow(Method):
    """A forward pass takes a second, the first one a minute; features of the probe take two seconds."""

    most_epochs = 800
    seconds = 1.0

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.register_buffer("compiled", torch.zeros((), dtype=torch.bool))

    compiled: Tensor

    def forward(self, batch: Batch) -> Tensor:
        CLOCK.now += self.seconds if self.compiled else 60.0
        self.compiled.fill_(True)
        return (self.encoder(self.encoder.inputs(batch)).mean() - 1).square()

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        CLOCK.now += 2.0
        return super().features(batch, layer)


class Compiled(Slow):
    """As it is after the first step of its process."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.compiled.fill_(True)


class Slower(Compiled):
    seconds = 30.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    CLOCK.now = 0.0
    monkeypatch.setattr(duration, "clock", CLOCK)
    yield CLOCK


def killed_at(step: int, current: int) -> None:
    """As `on_step`: end the training before a step."""
    if current == step:
        raise RuntimeError("killed")


def state_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_checkpoint(folder / CHECKPOINT)


def assert_same_state(one: Path, other: Path) -> None:
    first, second = state_of(one)[0], state_of(other)[0]
    assert first.keys() == second.keys()
    for group, tensors in first.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[group][name]), f"{group} {name}"


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Learning rates of all steps that runs take from here on, those of trials aside."""
    taken: list[float] = []
    step = loop.Loop._step

    def spy(current: loop.Loop) -> None:
        step(current)
        if not isinstance(current, duration.Trial):
            taken.append(current.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(loop.Loop, "_step", spy)
    return taken


# The choice.


@pytest.mark.parametrize(("method", "samples", "minutes"), [(Compiled, 100, 2.0), (Slow, 400, 4.0)])
def test_a_run_takes_the_time_that_is_asked_for_and_ends_with_a_rate_of_0(
    method: type[Method], samples: int, minutes: float, clock: Clock, rates: list[float], tmp_path: Path
) -> None:
    unlabeled.pretrain(
        method,
        pictures(samples),
        out=tmp_path / "run",
        encoder=network(),
        minutes=minutes,
        lr=0.1,
        batch_size=8,
    )
    compiling = 60.0 if method is Slow else 0.0  # the copy that was tried has compiled for itself alone
    assert clock.now - compiling == pytest.approx(60 * minutes, rel=0.2)
    assert rates == [learning_rate(step, len(rates), 0.1) for step in range(len(rates))] and rates[-1] < 1e-3


def test_a_run_longer_than_the_time_takes_the_fewest_steps_and_says_so(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    unlabeled.pretrain(Slower, pictures(), out=out, encoder=network(), minutes=1, batch_size=8)
    said = capsys.readouterr().err
    assert state_of(out)[1]["step"] == 10
    assert re.search(
        r"10 steps \(3.33 epochs\) at 30 s each: about 5 min after \d+ (s|min) of preparation, "
        "more than the 1 min, but 10 steps are the minimum",
        said,
    )


def test_steps_that_cost_more_in_a_later_part_are_counted(clock: Clock, tmp_path: Path) -> None:
    class Layered(Compiled):
        layer = 1

        @property
        def changes_at(self) -> float:
            return 0.25

        def after_step(self, progress: float) -> None:
            if self.layer == 1 and progress >= self.changes_at:
                self.layer, self.seconds = 2, 5.0
                CLOCK.now += 20.0

    unlabeled.pretrain(
        Layered, pictures(), out=tmp_path / "run", encoder=network(), minutes=6, batch_size=8, quiet=True
    )
    assert clock.now == pytest.approx(360, rel=0.2)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest steps that are chosen for small data are 60: 20 epochs of 24 samples."""
    monkeypatch.setattr("unlabeled.training.settings.FEWEST_STEPS", 60)


@pytest.mark.usefixtures("few_steps")
def test_small_data_is_not_memorised_to_fill_the_time(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Brief(Compiled):
        most_epochs = 20
        seconds = 0.01

    run = unlabeled.pretrain(
        Brief, pictures(), out=tmp_path / "run", encoder=network(), minutes=60, batch_size=8
    )
    assert run.config["settings"]["epochs"] == 20 and "steps" not in run.config["settings"]
    said = capsys.readouterr().err
    assert "of 60 min, as no more than 20 epochs are chosen for this data" in said


def test_a_method_with_steps_of_its_own_takes_no_more_of_them_to_fill_the_time(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Brief(Compiled):
        defaults: ClassVar = {"steps": 40}
        seconds = 0.01

    network_, words = network(), {"batch_size": 8, "minutes": 60, "features": "standardize"}
    run = unlabeled.pretrain(Brief, pictures(), out=tmp_path / "run", encoder=network_, **words)
    assert run.config["settings"]["steps"] == 40
    said = capsys.readouterr().err
    assert re.search(
        r"of 60 min, as Brief takes no more steps, then about \d+ s to fit features standardize; ", said
    )


def test_the_time_holds_what_fitting_features_takes_and_says_where_it_cannot() -> None:
    whole, part = (
        choose(Costs(1.0), 2.0, before=10.0, each=100, most=999, why="", after=after, features=", then 60 s")
        for after in (0.0, 60.0)
    )
    assert whole.steps - part.steps == 60 and part.note.startswith(
        "50 steps (0.5 epochs) at 1 s each: about 50 s, then"
    )
    late = choose(Costs(1.0), 2.0, 10.0, 100, 999, "", 300.0, ", then 5 min")
    assert (
        "10 s, then 5 min after 10 s of preparation, more than the 2 min, but 10 steps are the minimum"
        in late.note
    )


def test_steps_fill_the_time_and_nothing_more() -> None:
    """Against counting one by one."""
    costs = Costs(step=0.3, epoch=1.5, measurement=0.7, checkpoint=2.0)
    for seconds in (1, 40, 600):
        counts = [count for count in range(10, 3000) if seconds_of(count, 7, costs) <= seconds]
        assert steps_within(seconds, 7, costs, 2999) == max(counts, default=10)
    assert steps_within(600, 7, costs, 50) == 50 and steps_within(600, 7, costs, 4) == 4
    # 14 steps in 2 epochs, 2 measurements, and checkpoints at the start, at the end and each minute.
    assert seconds_of(14, 7, costs) == pytest.approx((14 * 0.3 + 2 * 1.5 + 2 * 0.7) * (1 + 2 / 60) + 4)


@pytest.mark.parametrize("method", ["moco", "byol", "deepcluster", "context_encoder"])
def test_trial_steps_leave_no_trace_in_the_weights(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = FAST | {"quiet": True} | ({"queue": 16} if method == "moco" else {})
    unlabeled.pretrain(method, pictures(), out=tmp_path / "timed", minutes=1e-4, **settings)
    assert load(tmp_path / "timed").config["settings"]["steps"] == 10
    unlabeled.pretrain(method, pictures(), out=tmp_path / "counted", steps=10, **settings)
    assert_same_state(tmp_path / "timed", tmp_path / "counted")
    assert not list((tmp_path / "timed").glob(".*"))


@pytest.mark.usefixtures("few_steps")
def test_a_method_that_cannot_be_copied_has_a_length_without_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Held(Compiled):
        most_epochs = 20

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__(encoder)
            self.history = torch.ones(1, requires_grad=True) * 2  # no leaf

    settings: dict[str, Any] = {"encoder": network(), "batch_size": 8}
    with pytest.raises(ValueError, match="epochs or steps must be given for a method that cannot be copied"):
        unlabeled.pretrain(Held, pictures(), out=tmp_path / "a", minutes=1, **settings)
    run = unlabeled.pretrain(Held, pictures(), out=tmp_path / "b", **settings)
    assert run.config["settings"]["epochs"] == 20
    assert "20 epochs, whatever time they take: epochs or steps must be given" in capsys.readouterr().err


def test_time_limits_what_nobody_named() -> None:
    assert Settings().time_limit(cuda=False) == 10 and Settings().time_limit(cuda=True) == 60
    assert Settings(minutes=3).time_limit(cuda=True) == 3
    assert (
        Settings(steps=3).time_limit(cuda=False) is None and Settings(epochs=3).time_limit(cuda=False) is None
    )
    suited = {"epochs": 10, "batch_size": 4}
    plain = Settings().with_network(None, cuda=False, suited=suited)
    assert plain.epochs == 10 and plain.time_limit(cuda=False) is None
    named = Settings(minutes=2).with_network(None, cuda=False, suited=suited)
    assert named.epochs is None and named.time_limit(cuda=False) == 2 and named.batch_size == 4
    chosen = named.resolve(samples=4000, cuda=False)
    assert chosen.epochs == 800 and chosen.minutes is None  # 10 epochs would be chosen without a time
    assert "minutes" not in chosen.choices(named)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"epochs": 3, "minutes": 2.0},
            "minutes must be left out where epochs are given, got 2.0 and 3 epochs",
        ),
        ({"steps": 3, "minutes": 2.0}, "minutes must be left out where steps are given, got 2.0 and 3 steps"),
        ({"minutes": 0.0}, "minutes must be above 0, got 0.0"),
        ({"minutes": "long"}, "minutes must be a number"),
    ],
)
def test_one_length_is_named(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**named)


# Repeating, resuming, ending earlier.


def test_a_chosen_length_is_repeated_and_resumed_without_a_trial(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"encoder": network(), "quiet": True}
    timed: dict[str, Any] = {"minutes": 1.0, "batch_size": 8, **settings}
    changed: dict[str, Any] = {"encoder": network()}
    whole = unlabeled.pretrain(Compiled, pictures(), out=tmp_path / "whole", **timed)
    steps = whole.config["settings"]["steps"]
    assert whole.config["minutes"] == 1 and "steps" in whole.config["chosen"] and steps > 15
    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain(
            Compiled, pictures(), out=tmp_path / "part", on_step=partial(killed_at, 12),
            **(timed | changed),
        )  # fmt: skip
    monkeypatch.setattr(duration, "costs", None)
    again: dict[str, Any] = {"config": whole.path / "run.toml", "quiet": True}
    unlabeled.pretrain(Compiled, pictures(), out=tmp_path / "again", encoder=network(), **again)
    # The same command with --resume, as a job that may be interrupted is started.
    unlabeled.pretrain(Compiled, pictures(), out=tmp_path / "part", resume=True, **timed)
    unlabeled.pretrain(Compiled, pictures(), out=tmp_path / "part", resume=True, **timed)
    for name in ("again", "part"):
        assert state_of(tmp_path / name)[1]["step"] == steps
        assert load(tmp_path / name, network()).config["settings"]["steps"] == steps
        assert_same_state(tmp_path / "whole", tmp_path / name)


def test_time_is_chosen_anew_where_what_it_was_chosen_for_is_changed(clock: Clock, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"quiet": True}
    first = unlabeled.pretrain(
        Compiled, pictures(), out=tmp_path / "a", encoder=network(), minutes=1.0, batch_size=8, **settings
    )
    again = unlabeled.pretrain(
        Compiled, pictures(), out=tmp_path / "b", encoder=network(), batch_size=4,
        config=first.path / "run.toml", **settings,
    )  # fmt: skip
    assert again.config["minutes"] == 1 and again.config["settings"]["steps"] > 15
    assert again.config["settings"]["batch_size"] == 4


def test_a_run_that_ends_earlier_falls_from_where_it_is_to_0(
    rates: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    for name, kill in (("whole", None), ("part", 16)):
        out = tmp_path / name
        with pytest.raises(RuntimeError, match="killed"):
            unlabeled.pretrain(
                "byol", pictures(), out=out, steps=40, lr=0.5, on_step=partial(killed_at, 10), **FAST
            )
        shorter: dict[str, Any] = {"out": out, "resume": True}
        if kill:
            with pytest.raises(RuntimeError, match="killed"):
                unlabeled.pretrain("byol", pictures(), steps=20, on_step=partial(killed_at, kill), **shorter)
            unlabeled.pretrain("byol", pictures(), **shorter)
        else:
            unlabeled.pretrain("byol", pictures(), steps=20, **shorter)
            said = capsys.readouterr().err
            before = [learning_rate(step, 40, 0.5) for step in range(11)]
            assert rates[:10] == before[:10] and len(rates) == 20
            assert rates[10] == before[10] and rates[10:] == sorted(rates[10:], reverse=True)
            assert rates[15] == pytest.approx(before[10] / 2) and rates[19] < 0.05 * before[10]
            assert (
                f"ends at step 20 instead of 40: from step 10 on the learning rate falls from {before[10]:.4g} to 0"
                in said
            )
    assert (
        load(tmp_path / "part").config["settings"]["steps"] == 20
        and state_of(tmp_path / "part")[1]["step"] == 20
    )
    assert_same_state(tmp_path / "whole", tmp_path / "part")
    longer = unlabeled.pretrain("byol", pictures(), steps=25, resume=True, out=tmp_path / "part", quiet=True)
    assert rates[-5:] == [learning_rate(step, 5, 0.5) for step in range(5)] and longer.config["ends"] == [20]
    with pytest.raises(ValueError, match=r"steps must be above 25, to which .* is trained, got 25|24"):
        unlabeled.pretrain("byol", pictures(), steps=24, resume=True, out=tmp_path / "part", quiet=True)


def test_schedules_end_at_their_end_and_progress_never_goes_back() -> None:
    plain, peak = Schedule(100), 2.0
    hardly = plain.shorter(50, 3, peak)
    assert hardly == Schedule(50, (3,)) and hardly.rate(3, peak) == learning_rate(0, 47, peak)
    assert plain.shorter(50, 0, peak) == Schedule(50)
    cut = plain.shorter(50, 20, peak)
    assert cut == Schedule(50, (), Cut(20, plain.rate(20, peak), 0.2))
    assert cut.rate(20, peak) == plain.rate(20, peak) and cut.rate(49, peak) < 0.01
    progresses = [plain.progress(step) for step in range(1, 21)] + [
        cut.progress(step) for step in range(21, 51)
    ]
    assert progresses == sorted(progresses) and progresses[-1] == 1
    assert cut.shorter(40, 20, peak) == Schedule(40, (), cut.cut)
    again = cut.shorter(40, 30, peak)
    assert again.rate(30, peak) == cut.rate(30, peak) and again.progress(40) == 1
    # Of a run that was made longer, what has not begun is dropped, and the stage that has begun stays.
    longer = plain.longer(300)
    assert longer.shorter(200, 50, peak) == Schedule(200, (100,))
    assert longer.shorter(100, 50, peak) == plain
    assert longer.shorter(80, 50, peak) == plain.shorter(80, 50, peak)


@pytest.mark.parametrize(("killed", "steps"), [(10, "fewer"), (None, "more")])
def test_minutes_from_now_on(
    killed: int | None, steps: str, clock: Clock, rates: list[float], tmp_path: Path
) -> None:
    """An unfinished run ends after them, a finished one is trained longer."""
    settings: dict[str, Any] = {"out": tmp_path / "run", "quiet": True}
    try:
        unlabeled.pretrain(
            Compiled, pictures(), encoder=network(), steps=300 if killed else 12, batch_size=8, lr=0.1,
            on_step=partial(killed_at, killed or -1), **settings,
        )  # fmt: skip
    except RuntimeError:
        assert killed
    done, began = state_of(tmp_path / "run")[1]["step"], clock.now
    del rates[:]
    run = unlabeled.pretrain(Compiled, pictures(), encoder=network(), resume=True, minutes=2, **settings)
    assert clock.now - began == pytest.approx(120, rel=0.2)
    assert run.config["settings"]["steps"] == done + len(rates) and run.config["minutes"] == 2
    assert rates[-1] < 1e-3 and state_of(tmp_path / "run")[1]["stopped"] is None
    assert run.config["ends"] == ([] if done == 0 else [12])


def test_an_unfinished_run_is_not_made_longer_by_minutes(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"out": tmp_path / "run"}
    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain(
            Compiled,
            pictures(),
            encoder=network(),
            steps=12,
            batch_size=8,
            on_step=partial(killed_at, 5),
            **settings,
        )
    run = unlabeled.pretrain(Compiled, pictures(), encoder=network(), resume=True, minutes=60, **settings)
    assert "of 60 min, as the run ends there as planned" in capsys.readouterr().err
    assert run.config["settings"]["steps"] == 12 and run.config["ends"] == []


TWO = """
import os, sys, torch, unlabeled
from unlabeled import encoders
from unlabeled.training import duration
rank, real = int(os.environ.get("LOCAL_RANK", 0)), duration.clock
duration.clock = lambda: real() * (1 + 30 * rank)  # the second process believes to be slow
images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
unlabeled.pretrain("moco", images, out=sys.argv[1], batch_size=8, encoder="conv4", queue=16, devices=2, device="cpu",
                   **{sys.argv[2]: float(sys.argv[2] == "minutes") * 0.05 or int(sys.argv[3])})
"""


@pytest.mark.golden
def test_processes_whose_clocks_disagree_take_the_same_steps_as_those_that_were_told(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    steps = 0
    for out, name in (("timed", "minutes"), ("counted", "steps")):
        words = [sys.executable, str(tmp_path / "two.py"), str(tmp_path / out), name, str(steps)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-2000:]
        steps = load(tmp_path / out).config["settings"]["steps"]
        assert state_of(tmp_path / out)[1]["step"] == steps
    assert_same_state(tmp_path / "timed", tmp_path / "counted")


def test_a_dry_run_tells_what_is_chosen_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["pretrain", "rotnet", "digits", "--dry-run", "--encoder", "conv4", "--batch-size", "16"]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--steps", "30"])
    said = capsys.readouterr()
    command = "unlabeled pretrain rotnet digits --encoder conv4 --steps 30 --batch-size 16"
    assert said.err.splitlines()[-1] == f"next: {command}"
    lines = said.out.splitlines()
    assert lines[0] == "rotnet on digits: 1,271 images"
    assert {"encoder conv4", "steps 30", "batch_size 16", "lr 0.00025 (chosen)", "flip 0.5"} <= set(lines)
    assert lines[-1].startswith("about ") and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--minutes", "0.00001"])
    out = capsys.readouterr().out
    assert (
        "steps 10 (chosen)" in out and "but 10 steps are the minimum" in out and not list(tmp_path.iterdir())
    )
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--resume"])
    assert "--dry-run must be left out to resume" in capsys.readouterr().err


# Starting where nothing is there to resume.


def test_resume_starts_afresh_where_nothing_is_there_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (None, "elsewhere"):
        settings: dict[str, Any] = FAST | {"steps": 2, "resume": True, "out": out}
        run = unlabeled.pretrain("rotnet", pictures(), **settings)
        folder = out or "runs/rotnet-array"
        assert f"{folder} holds nothing to resume yet: a new run starts" in capsys.readouterr().err
        unlabeled.pretrain("rotnet", pictures(), **settings)
        assert "a new run starts" not in capsys.readouterr().err and state_of(run.path)[1]["step"] == 2
    (tmp_path / "elsewhere" / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="checkpoint must be a file that pretrain wrote"):
        unlabeled.pretrain("rotnet", pictures(), out="elsewhere", resume=True, quiet=True)


def killed_by_the_system(out: Path) -> None:
    narrow = {"conv4": partial(stages.conv4, share=4)}  # as in small_networks
    with patch.dict(image.NAMES, narrow):
        unlabeled.pretrain(
            "moco",
            pictures(),
            out=out,
            steps=8,
            batch_size=8,
            encoder="conv4",
            queue=16,
            on_step=lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == 3 else None,
        )


def test_a_run_killed_in_its_first_minute_ends_bit_identical(tmp_path: Path, fresh_process: Any) -> None:
    ended = fresh_process(killed_by_the_system, tmp_path / "run")
    assert ended.code == -signal.SIGKILL, ended.said
    assert state_of(tmp_path / "run")[1]["step"] == 0
    settings: dict[str, Any] = FAST | {"steps": 8, "queue": 16, "quiet": True}
    unlabeled.pretrain("moco", pictures(), out=tmp_path / "run", resume=True, **settings)
    unlabeled.pretrain("moco", pictures(), out=tmp_path / "whole", **settings)
    assert_same_state(tmp_path / "run", tmp_path / "whole")


# What is told.


def told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    expected: float | None,
) -> list[str]:
    """Lines of a plain log of 1,000 steps that take so many seconds each."""
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    shown = progress.Progress()
    shown.start("simclr", open_data(pictures()), Settings(steps=1000, batch_size=4), {}, Path("x"), expected)
    for step in range(1, 1001):
        now += seconds
        shown.step(step, 4, 1.0)
    return capsys.readouterr().err.splitlines()[1:]


def test_the_time_left_is_told_again_and_again_but_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(monkeypatch, capsys, 3.6, None)
    assert lines[0] == "step 3 of 1,000: 1 images/s, about 60 min left"
    steps = [int(line.split()[1]) for line in lines]
    pauses = [3.6 * (later - earlier) for earlier, later in pairwise(steps)]
    assert 30 <= pauses[0] < 36 and pauses == sorted(pauses) and len(lines) < 12
    assert 600 <= max(pauses) < 604 and steps[-1] > 800  # so a training of hours is told of too


def test_a_training_that_became_slower_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not [line for line in told(monkeypatch, capsys, 0.5, 400) if "slower" in line]
    (line,) = [line for line in told(monkeypatch, capsys, 0.5, 300) if "slower" in line]
    assert line.startswith("slower than at the start: about 8 min left instead of 4 min; Ctrl-C stops")
