"""The loop: schedules, optimizers, resuming, stopping, defaults."""

import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import unlabeled
from unlabeled import check, encoders
from unlabeled.data import open_data
from unlabeled.data.video.data import from_videos
from unlabeled.files import atomic, locked, new_folder
from unlabeled.method import Batch, Method
from unlabeled.run import CHECKPOINT, CONFIG, Run, read_checkpoint, write_checkpoint
from unlabeled.training import checkpoints, judge, loop, optimizers, processes, progress
from unlabeled.training import folder as folders
from unlabeled.training.schedule import learning_rate
from unlabeled.training.seeds import mix
from unlabeled.training.settings import Settings

pytestmark = pytest.mark.usefixtures("small_networks")

FAST: dict[str, Any] = {"batch_size": 8, "quiet": True}


class Plain(Method):
    """The smallest method: the mean feature wants to be 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.progress: list[float] = []

    def forward(self, batch: Batch) -> Tensor:
        return (self.encoder(self.encoder.inputs(batch)).mean() - 1).square()

    def after_step(self, progress: float) -> None:
        self.progress.append(progress)


def pictures(count: int = 24, size: int = 16) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain(encoders.build("conv4", image_size=16))


def killed_at(step: int) -> Callable[[int], None]:
    """A watcher that ends the training before a step."""

    def watch(current: int) -> None:
        if current == step:
            raise RuntimeError("killed")

    return watch


def test_learning_rate_climbs_then_follows_a_cosine() -> None:
    rates = [learning_rate(step, 200, 2.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[105] == pytest.approx(1.0)
    assert rates[199] == pytest.approx(1 + math.cos(math.pi * 189 / 190))
    assert learning_rate(0, 1, 3.0) == 3.0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_step_equals_the_formula_and_spares_norms_and_biases(decay: float) -> None:
    method = plain()
    settings = Settings(optimizer="lars", lr=0.5, weight_decay=decay)
    optimizer = optimizers.make(method, settings)
    method(open_data(pictures()).sample(8)).backward()
    before = {
        name: (p.detach().clone(), p.grad.clone())
        for name, p in method.named_parameters()
        if p.grad is not None
    }
    optimizer.step()
    for name, parameter in method.named_parameters():
        weight, gradient = before[name]
        if weight.ndim > 1:
            update = gradient + decay * weight
            update = update * 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm() + 1e-8)
        else:
            update = gradient
        torch.testing.assert_close(parameter.detach(), weight - 0.5 * update, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_weight_decay_is_off_for_norms_and_biases(optimizer: str) -> None:
    groups = optimizers.make(plain(), Settings(optimizer=optimizer, lr=1.0, weight_decay=0.3)).param_groups  # type: ignore[arg-type]
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_a_method_of_ones_own_trains_and_leaves_a_whole_run(tmp_path: Path) -> None:
    method = plain()
    run = unlabeled.pretrain(method, open_data(pictures()), out=tmp_path / "run", epochs=4, **FAST)
    assert method.progress == pytest.approx([(step + 1) / 12 for step in range(12)])
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3, 4]
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    again = unlabeled.load(tmp_path / "run")
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(again.encoder(x), method.eval().encoder(x))
    assert (tmp_path / "run" / "skipped.csv").read_text().strip() == "path,reason"
    stored = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert stored["settings"]["epochs"] == 4 and stored["data"]["samples"] == 24


def test_config_repeats_a_run_bit_by_bit(tmp_path: Path) -> None:
    first = unlabeled.pretrain(
        "simclr", open_data(pictures()), out=tmp_path / "a", steps=3, seed=5, temperature=0.3, **FAST
    )
    second = unlabeled.pretrain(
        "simclr", open_data(pictures()), out=tmp_path / "b", config=first.path / "run.toml", quiet=True
    )
    for one, other in zip(
        first.encoder.state_dict().values(), second.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert (
        second.config["options"] == first.config["options"] and first.config["options"]["temperature"] == 0.3
    )


def test_config_chooses_anew_what_depended_on_what_is_changed(tmp_path: Path) -> None:
    first = unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "a", steps=1, **FAST)
    changed: dict[str, Any] = {"config": first.path / "run.toml", "quiet": True}
    second = unlabeled.pretrain(
        "simclr", open_data(pictures()), out=tmp_path / "b", optimizer="sgd", **changed
    )
    fresh = unlabeled.pretrain(
        "simclr", open_data(pictures()), out=tmp_path / "c", optimizer="sgd", steps=1, **FAST
    )
    assert second.config["settings"] == fresh.config["settings"] != first.config["settings"]
    with pytest.raises(ValueError, match="method must be simclr to repeat"):
        unlabeled.pretrain("rotnet", open_data(pictures()), out=tmp_path / "d", **changed)


def test_resume_refuses_other_options_and_other_data(tmp_path: Path) -> None:
    unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "a", steps=1, **FAST)
    again: dict[str, Any] = {"out": tmp_path / "a", "resume": True, "quiet": True}
    with pytest.raises(ValueError, match=r"temperature must be 0.2 to resume .*, got 0.9"):
        unlabeled.pretrain("simclr", open_data(pictures()), temperature=0.9, **again)
    with pytest.raises(ValueError, match=r"optimizer must be adamw to resume .*, got sgd"):
        unlabeled.pretrain("simclr", open_data(pictures()), optimizer="sgd", **again)
    with pytest.raises(ValueError, match=r"samples of the data must be 24 to resume .*, got 20"):
        unlabeled.pretrain("simclr", open_data(pictures(20)), **again)
    other = pictures()
    other[-1] = 0
    with pytest.raises(ValueError, match=r"where 1 of 24 samples have different content, such as .*23"):
        unlabeled.pretrain("simclr", open_data(other), **again)


def test_a_checkpoint_without_its_run_toml_is_refused_in_one_line(tmp_path: Path) -> None:
    run = unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "a", steps=1, **FAST)
    (run.path / "run.toml").unlink()
    with pytest.raises(
        ValueError, match=r"out must be a folder that pretrain wrote to resume it, .* no run\.toml"
    ):
        unlabeled.pretrain("simclr", open_data(pictures()), out=run.path, resume=True, quiet=True)
    with pytest.raises(
        ValueError, match=r"none\.toml must be the run\.toml of a run, but there is no such file"
    ):
        unlabeled.pretrain("simclr", open_data(pictures()), config=tmp_path / "none.toml", quiet=True)


def test_an_instance_refuses_what_it_already_has(tmp_path: Path) -> None:
    for given in ({"encoder": "conv4"}, {"image_size": 8}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match=f"{next(iter(given))} must be left out"):
            unlabeled.pretrain(plain(), open_data(pictures()), out=tmp_path / "a", **given, **FAST)


def test_explicit_none_asks_for_the_default(tmp_path: Path) -> None:
    run = unlabeled.pretrain(
        "deepcluster", open_data(pictures()), out=tmp_path / "a", steps=1, clusters=None, lr=None, **FAST
    )
    assert "clusters" not in run.config["options"] and run.config["settings"]["lr"] > 0


def test_features_that_diverge_at_the_end_of_an_epoch_are_named(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="must be finite"):
        unlabeled.pretrain("rotnet", open_data(pictures()), out=tmp_path / "a", lr=1e30, epochs=2, **FAST)


def test_plain_output_warns_and_estimates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BEFORE_ESTIMATE", 0.0)
    shown = progress.Progress()
    settings = Settings(steps=10, batch_size=4)
    shown.start("simclr", open_data(pictures()), settings, {}, Path("x"))
    entry = {"epoch": 1, "step": 5, "loss": 1.0, "chance": 2.0, "spread": 0.0, "rank": 1.0}
    entry |= {"samples_per_second": 3.0, "verdict": "Collapsed: all alike.", "metrics": {}}
    shown.step(5, 4, 1.0)
    shown.epoch(entry, alarm=True, last=False)
    text = capsys.readouterr().err
    assert " left" in text and "epoch 1 step 5 loss 1.0000 (chance 2.000)" in text
    assert "warning: Collapsed: all alike." in text


def test_a_warning_is_said_once_and_taken_back_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(progress, "LINES_SHARE", 0.0)
    shown = progress.Progress()
    entry = {"epoch": 1, "step": 5, "loss": 1.0, "chance": 2.0, "spread": 0.0, "rank": 1.0}
    entry |= {"samples_per_second": 3.0, "metrics": {}}
    bad, other, good = "Collapsed: all alike (spread 0", "Diverged: the loss is nan", "Healthy: all differ"
    verdicts = [
        (good, False),
        (f"{bad}).", True),
        (f"{bad}.1).", True),
        (other, True),
        ("", False),
        (good, False),
        (good, False),
    ]
    for verdict, alarm in verdicts:
        shown.epoch(entry | {"verdict": verdict}, alarm=alarm, last=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if "epoch 1" not in line]
    assert lines == [
        f"warning: {bad}).",
        f"warning: {other}",
        f"the warning no longer holds: Diverged. {good}",
    ]


def test_counts_say_what_they_count_and_which_part_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = from_videos(torch.zeros(3, 9, 1, 4, 4, dtype=torch.uint8), name="black")
    assert progress.counted(videos.clips(2), videos) == "3 videos, 12 clips"
    assert progress.counted(videos, videos) == "3 videos"
    settings = FAST | {"encoder": "conv4", "steps": 1, "quiet": False}
    unlabeled.pretrain("rotnet", "digits", out=tmp_path / "a", **settings)
    line = "training uses the training part of digits only; not read: test"
    assert line in capsys.readouterr().err
    unlabeled.pretrain("rotnet", open_data("digits", split="test"), out=tmp_path / "b", **settings)
    assert "not read" not in capsys.readouterr().err


def test_a_run_that_is_killed_behind_its_first_checkpoint_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: Any, **state: Any) -> None:
        write_checkpoint(*arguments, **state)
        raise RuntimeError("killed")

    settings = FAST | {"encoder": "conv4", "steps": 3}
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr(checkpoints, "write_checkpoint", die)
        unlabeled.pretrain("rotnet", pictures(), out=tmp_path / "run", **settings)
    unlabeled.pretrain("rotnet", pictures(), out=tmp_path / "run", resume=True, quiet=True)
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]["step"] == 3


def test_steps_that_are_left_out_count_as_samples_of_the_time_that_they_took(tmp_path: Path) -> None:
    class Twice(Plain):
        """Every other loss is infinite."""

        def forward(self, batch: Batch) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(batch) / (self.calls % 2)

    settings = FAST | {"epochs": 1, "batch_size": 4, "skip_nan": 3}
    torch.manual_seed(0)
    run = unlabeled.pretrain(Twice, pictures(), encoder=plain().encoder, out=tmp_path / "run", **settings)
    seconds = read_checkpoint(run.path / "checkpoint.safetensors")[1]["seconds"]
    assert run.history[-1]["skipped_steps"] == 3
    assert run.history[-1]["samples_per_second"] * seconds == pytest.approx(24)


def test_a_part_named_loss_hides_no_other(tmp_path: Path) -> None:
    class Parts(Plain):
        def forward(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
            loss = super().forward(batch)
            return {"loss": loss, "rest": loss * torch.nan}

    with pytest.raises(FloatingPointError, match="rest nan at step 0"):
        unlabeled.pretrain(Parts(plain().encoder), pictures(), out=tmp_path / "run", steps=1, **FAST)


def test_a_loss_of_several_numbers_is_refused(tmp_path: Path) -> None:
    class Several(Plain):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch).expand(8)

    with pytest.raises(ValueError, match=r"loss must be one number, got shape \(8,\)"):
        unlabeled.pretrain(Several(plain().encoder), pictures(), out=tmp_path / "run", steps=1, **FAST)


def test_buffers_may_grow_and_shrink_back_with_a_step_that_is_left_out(tmp_path: Path) -> None:
    class Grows(Plain):
        seen: Tensor

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__(encoder)
            self.register_buffer("seen", torch.ones(1))

        def forward(self, batch: Batch) -> Tensor:
            self.seen.resize_(len(self.seen) + 1).fill_(1.0)
            return super().forward(batch) * (torch.nan if len(self.seen) == 3 else 1.0)

    method = Grows(plain().encoder)
    unlabeled.pretrain(method, pictures(), out=tmp_path / "run", steps=3, skip_nan=2, **FAST)
    assert method.seen.tolist() == [1.0, 1.0]


def test_mixed_precision_takes_almost_the_same_steps(tmp_path: Path) -> None:
    losses = {}
    for precision in ("32", "bf16"):
        settings = FAST | {
            "steps": 3,
            "accumulate": 2,
            "batch_size": 4,
            "precision": precision,
            "device": "cpu",
        }
        run = unlabeled.pretrain(plain(), pictures(), out=tmp_path / precision, **settings)
        losses[precision] = run.history[-1]["loss"]
    assert losses["32"] != losses["bf16"] == pytest.approx(losses["32"], rel=0.05)


def test_accumulation_counts_optimizer_steps_and_averages_gradients(tmp_path: Path) -> None:
    class Sum(Plain):
        """A loss that is a mean over samples, without batch norm in its way."""

        def forward(self, batch: Batch) -> Tensor:
            return (self.scale * batch["image"].float().mean((1, 2, 3)) / 255).mean() + 0 * super().forward(
                batch
            )

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__(encoder)
            self.scale = nn.Parameter(torch.ones(1))

    def scale(batch_size: int, accumulate: int) -> Tensor:
        torch.manual_seed(0)
        method = Sum(encoders.build("conv4", image_size=16))
        settings = {"quiet": True, "optimizer": "sgd", "lr": 0.1, "steps": 2}
        out = tmp_path / f"{batch_size}-{accumulate}"
        unlabeled.pretrain(
            method, open_data(pictures()), out=out, batch_size=batch_size, accumulate=accumulate, **settings
        )
        assert method.progress == [0.5, 1.0]
        return method.scale.detach()

    torch.testing.assert_close(scale(12, 1), scale(3, 4))


def test_sigterm_saves_first_and_resume_finishes_the_same(tmp_path: Path) -> None:
    class Stopped(Plain):
        def after_step(self, progress: float) -> None:
            if len(self.progress) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            super().after_step(progress)

    torch.manual_seed(0)
    stopped = Stopped(encoders.build("conv4", image_size=16))
    with pytest.raises(KeyboardInterrupt, match="after step 5"):
        unlabeled.pretrain(stopped, open_data(pictures()), out=tmp_path / "run", epochs=3, **FAST)
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"] == 5
    with pytest.raises(ValueError, match="method must be Stopped"):
        unlabeled.pretrain(plain(), open_data(pictures()), out=tmp_path / "run", resume=True, quiet=True)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nan_loss_stops_with_step_and_samples_and_keeps_the_good_state(tmp_path: Path) -> None:
    class Breaks(Plain):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch) * (float("nan") if len(self.progress) == 2 else 1.0)

    torch.manual_seed(0)
    method = Breaks(encoders.build("conv4", image_size=16))
    with pytest.raises(FloatingPointError, match=r"at step 2 on samples \[\d+"):
        unlabeled.pretrain(method, open_data(pictures()), out=tmp_path / "run", epochs=2, **FAST)
    state, position = read_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert position["step"] == 2 and all(value.isfinite().all() for value in state["method"].values())


@pytest.fixture
def many_judged(small_networks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many samples are judged as usual: the features of a few cannot tell a collapse."""
    monkeypatch.setattr(judge, "PROBE_SAMPLES", {"image": 512})


@pytest.mark.usefixtures("many_judged")
def test_collapse_is_said_in_words_after_two_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Collapses(Plain):
        def features(self, batch: Batch, layer: str | None = None) -> Tensor:
            return torch.ones(len(batch["image"]), 64) + 1e-4 * torch.randn(len(batch["image"]), 64)

    torch.manual_seed(0)
    method = Collapses(encoders.build("conv4", image_size=16))
    run = unlabeled.pretrain(method, open_data(pictures()), out=tmp_path / "run", epochs=3, batch_size=8)
    assert run.history[0]["verdict"] == "" and "Collapsed" in run.history[1]["verdict"]
    assert "warning" in capsys.readouterr().err


def test_user_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "run", steps=2, **FAST)
    assert torch.equal(torch.rand(3), expected)


def test_seeds_of_steps_and_streams_never_meet() -> None:
    seeds = {mix(seed, step, stream) for seed in range(3) for step in range(500) for stream in range(-2, 4)}
    assert len(seeds) == 3 * 500 * 6 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"lr": float("inf")}, "lr must be finite, got inf"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"device": "cuda"}, "device must be auto or cpu"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"epochs": 2, "steps": 3}, "steps must be left out where epochs are given, got 3 and 2 epochs"),
        ({"optimizer": "adam"}, "optimizer must be one of adamw, sgd, lars, got adam"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"clip": math.inf}, "clip must be finite, got inf"),
        ({"betas": [0.9]}, r"betas must be two numbers of at least 0 and below 1, got \[0.9\]"),
        ({"betas": [0.9, 1.0]}, "betas must be two numbers"),
        ({"betas": "0.9,0.95"}, "betas must be two numbers"),
        ({"betas": (0.9, 0.95), "optimizer": "sgd"}, "betas must be left out for sgd"),
        ({"sgd_momentum": 1.0, "optimizer": "sgd"}, "sgd_momentum must be at least 0 and below 1, got 1.0"),
        ({"sgd_momentum": 0.5}, "sgd_momentum must be left out for adamw"),
        ({"holdout": 0.6}, "holdout must be between 0 and 0.5, got 0.6"),
        ({"max_broken": 2.0}, "max_broken must be between 0 and 1, got 2.0"),
        ({"temprature": 0.1}, "simclr has no option temprature; did you mean temperature"),
        ({"encoder": "conv5"}, "conv"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
    ],
)
def test_bad_setting_is_refused_by_name_and_leaves_no_run(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        unlabeled.pretrain(
            "simclr", open_data(pictures()), out=tmp_path / "run", **({"quiet": True} | settings)
        )
    assert not (tmp_path / "run" / "run.toml").exists()


class Vectors(Plain):
    """Its loss is refused in the first step, when everything has been written down."""

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch).expand(8)


class LateRefusal(Plain):
    """Refused when its second epoch begins, after the first was logged."""

    epochs = 0

    def begin_epoch(self, data: Any) -> Tensor | None:
        self.epochs += 1
        if self.epochs == 2:
            raise check.UserError("second epoch")
        return super().begin_epoch(data)


def refused(folder: Path, out: str | None, method: Any, **settings: Any) -> list[str]:
    """What a training that is refused leaves in a folder in which it is started."""
    with chdir(folder), pytest.raises(check.UserError):
        unlabeled.pretrain(method, pictures(), out=out, **FAST | settings)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("out", [None, "a/b/run"])
def test_a_refused_run_leaves_no_folder(out: str | None, tmp_path: Path) -> None:
    assert refused(tmp_path, out, "simclr", features="nonsense") == []
    assert refused(tmp_path, out, Vectors(plain().encoder), steps=1) == []


@pytest.mark.parametrize("out", [None, "a/b/run"])
def test_a_run_that_is_refused_after_an_epoch_keeps_its_log(out: str | None, tmp_path: Path) -> None:
    left = refused(tmp_path, out, LateRefusal(plain().encoder), epochs=3)
    assert any(name.startswith(out or "runs/") and name.endswith("/log.jsonl") for name in left)


def test_a_refused_run_leaves_the_folder_that_another_run_has_just_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beside_another(stem: Path) -> Path:
        stem.mkdir(parents=True)  # of a process that is about to lock it
        return new_folder(stem)

    monkeypatch.setattr(folders, "new_folder", beside_another)
    left = refused(tmp_path, None, "simclr", features="nonsense")
    assert len(left) == 2 and left[0] == "runs"


def test_a_refused_run_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    left = refused(tmp_path, "run", Vectors(plain().encoder), steps=1)
    assert {"run/notes.txt", f"run/{CONFIG}"} <= {*left}
    run = unlabeled.pretrain(plain(), pictures(), out=tmp_path / "whole", steps=1, **FAST)
    before = sorted(run.path.iterdir())
    with pytest.raises(check.UserError):
        unlabeled.pretrain(Vectors(plain().encoder), pictures(), out=run.path, resume=True, steps=2, **FAST)
    assert sorted(run.path.iterdir()) == before and Run(run.path).history[-1]["step"] == 1


def test_defaults_follow_the_size_of_the_data() -> None:
    asked = Settings()
    small = asked.with_network(image_size=8, cuda=False).resolve(samples=1300, cuda=False, processes=2)
    large = asked.with_network(image_size=32, cuda=False).resolve(samples=50_000, cuda=False)
    assert asked == Settings() and {"encoder", "epochs", "lr"} <= small.choices(asked).keys()
    assert small.encoder == "conv4" and large.encoder == "resnet10"
    assert (small.epochs or 0) > (large.epochs or 0) >= 10
    assert small.batch_size and small.lr and small.steps is None
    tiny = asked.with_network(image_size=500, cuda=False).resolve(samples=5, cuda=False, processes=2)
    assert tiny.batch_size == 4 and tiny.image_size == 64
    with pytest.raises(ValueError, match="accumulate must be at most 5 for this data, got 6"):
        Settings(accumulate=6).resolve(samples=5, cuda=False)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 processes, got 3"):
        Settings(batch_size=3).resolve(samples=50, cuda=False, processes=2)


def test_settings_that_suit_a_method_yield_to_those_of_the_user() -> None:
    suited = {"encoder": "gru2", "batch_size": 64, "steps": 100}
    settings = Settings(batch_size=9, epochs=2).with_network(None, cuda=False, suited=suited)
    assert (settings.encoder, settings.batch_size, settings.steps) == ("gru2", 9, None)


def test_a_second_run_takes_the_next_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = open_data(pictures())
    names = [unlabeled.pretrain("simclr", data, steps=1, **FAST).path.name for _ in range(3)]
    assert names == [f"simclr-{data.name}", f"simclr-{data.name}-2", f"simclr-{data.name}-3"]
    with pytest.raises(ValueError, match="out must be a new folder"):
        unlabeled.pretrain("simclr", data, steps=1, out=Path("runs") / names[0], **FAST)


def test_resuming_without_out_names_the_run_and_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"steps": 1, "encoder": "conv4", "batch_size": 8, "quiet": True}
    for _ in range(3):
        unlabeled.pretrain("rotnet", pictures(), **settings)
    first = Path("runs/rotnet-array")
    run = unlabeled.pretrain("rotnet", pictures(), resume=True)
    assert run.path.name == f"{first.name}-3"
    assert f"resuming {run.path}, the newest of 3 runs; --out resumes another" in capsys.readouterr().err
    unlabeled.pretrain("rotnet", pictures(), resume=True, out=first)
    assert "newest" not in capsys.readouterr().err


def test_data_in_memory_is_resumed_in_the_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = open_data("digits").subset(torch.arange(30))
    run = unlabeled.pretrain("rotnet", data, steps=1, encoder="conv4", **FAST)
    assert run.path == Path("runs/rotnet-digits")
    unlabeled.pretrain("rotnet", data, resume=True, quiet=True)


def test_a_few_steps_are_too_early_to_be_called_healthy() -> None:
    features = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    fine, early = judge.judge(features, features, 1.0, None, 1.0, steps=5)
    assert fine and early["verdict"].startswith(
        "Too early to judge after 5 steps, as a collapse takes hundreds: so far samples differ in many directions ("
    )
    _, later = judge.judge(features, features, 1.0, None, 1.0, steps=100)
    assert later["verdict"].startswith("Healthy: samples differ in many directions (")
    for steps, total, early in ((99, 200, True), (100, 200, False), (199, 2000, True), (200, 2000, False)):
        fine, chance = judge.judge(features, features, 1.0, 1.0, 1.0, steps, total)
        assert fine == early
        assert chance["verdict"].startswith(
            "Too early to judge after" if early else "Not learning yet: the loss 1.0"
        )
    fine, collapsed = judge.judge(torch.ones(64, 16), torch.ones(64, 16), 1.0, None, 1.0, steps=5)
    assert not fine and collapsed["verdict"].startswith("Collapsed")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic(file) as path:
        path.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    with atomic(file) as path:
        path.write_text(json.dumps([1]))
    assert file.read_text() == "[1]"


def test_truncated_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    run = unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "run", steps=1, **FAST)
    file = run.path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="checkpoint must be a file that pretrain wrote"):
        unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "run", resume=True, quiet=True)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run must be a folder that pretrain wrote"):
        unlabeled.load(tmp_path)


def test_network_of_ones_own_goes_in_and_comes_out(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    before = network[0].weight.detach().clone()
    settings: dict[str, Any] = {"steps": 2, "batch_size": 8, "quiet": True}
    run = unlabeled.pretrain(
        "simclr", open_data(pictures()), out=tmp_path / "run", encoder=network, **settings
    )
    assert not torch.equal(network[0].weight, before)
    assert run.encoder(torch.rand(2, 3, 16, 16)).shape == (2, 8)
    assert run.config["settings"]["encoder"] == "own"
    with pytest.raises(ValueError, match="module must be given"):
        _ = unlabeled.load(tmp_path / "run").encoder


@pytest.mark.usefixtures("many_judged")
def test_collapse_of_the_head_alone_is_said_too(tmp_path: Path) -> None:
    class Falls(Plain):
        def embedding(self, batch: Batch) -> Tensor:
            return torch.ones(len(batch["image"]), 64) + 1e-4 * torch.randn(len(batch["image"]), 64)

    torch.manual_seed(0)
    method = Falls(encoders.build("conv4", image_size=16))
    run = unlabeled.pretrain(method, open_data(pictures(300)), out=tmp_path / "run", epochs=2, **FAST)
    assert run.history[-1]["verdict"].startswith("In the embedding that the loss compares: Collapsed")


def test_accumulation_is_told_to_be_no_large_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, said in (("simclr", True), ("rotnet", False)):
        unlabeled.pretrain(
            method, open_data(pictures()), out=tmp_path / method, steps=1, batch_size=4, accumulate=2
        )
        assert ("compares only its own 4 samples" in capsys.readouterr().err) == said


class PlainVideo(Plain):
    kind = "video"


def test_kernels_of_three_dimensions_can_be_trained(tmp_path: Path) -> None:
    data = open_data("moving_digits").subset(torch.arange(4))
    encoder = encoders.build("conv3d", kind="video", in_channels=1, image_size=16)
    run = unlabeled.pretrain(PlainVideo, data, encoder=encoder, steps=1, out=tmp_path / "run", quiet=True)
    assert run.history[-1]["step"] == 1


def test_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    encoder = encoders.build("conv3d", kind="video", in_channels=3, image_size=16)
    with pytest.raises(ValueError, match="encoder of simclr must be of kind image, got one of video"):
        unlabeled.pretrain("simclr", pictures(), encoder=encoder, out=tmp_path / "run", **FAST)
    with pytest.raises(
        ValueError, match=r"encoder of PlainVideo must be a subclass of Encoder .* got Conv2d"
    ):
        data = open_data("moving_digits").subset(torch.arange(4))
        unlabeled.pretrain(PlainVideo, data, encoder=nn.Conv2d(1, 2, 3), out=tmp_path / "run", **FAST)


@pytest.mark.parametrize("source", [None, [], 3])
def test_data_that_is_nothing_to_open_is_refused_by_its_type(source: Any) -> None:
    with pytest.raises(ValueError, match=rf"data must be a path, .* got {type(source).__name__}"):
        open_data(source)


def test_store_size_is_that_of_the_kept_pictures_and_of_every_later_look(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(16, 48)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    settings: dict[str, Any] = {"steps": 1, "encoder": "conv4", "image_size": 16, "store_size": 20}
    run = unlabeled.pretrain("autoencoder", tmp_path, out=tmp_path / "run", **settings, **FAST)
    assert run.config["settings"]["store_size"] == 20
    assert open_data(tmp_path, **run.reading).shape["image_size"] == 20
    again = unlabeled.pretrain("autoencoder", tmp_path, out=tmp_path / "run", resume=True, quiet=True)
    assert again.config["settings"]["store_size"] == 20
    with pytest.raises(ValueError, match="store_size must be at least 1, got 0"):
        Settings(store_size=0)


def test_masks_that_are_infinite_from_the_start_are_saved(tmp_path: Path) -> None:
    method = plain()
    method.register_buffer("mask", torch.full((2, 2), -math.inf))
    run = unlabeled.pretrain(method, pictures(), out=tmp_path / "run", steps=2, **FAST)
    assert torch.isinf(read_checkpoint(run.path / "checkpoint.safetensors")[0]["method"]["mask"]).all()


def test_checkpoints_of_older_runs_are_resumed(tmp_path: Path) -> None:
    whole = unlabeled.pretrain(plain(), pictures(), out=tmp_path / "run", steps=6, **FAST)
    state, position = read_checkpoint(whole.path / "checkpoint.safetensors")
    for name in ("counted", "skipped"):
        del position[name]
    write_checkpoint(whole.path / "checkpoint.safetensors", state, position)
    assert (
        unlabeled.pretrain(plain(), pictures(), out=whole.path, resume=True, quiet=True).history[-1]["step"]
        == 6
    )


def test_betas_reach_the_optimizer_and_the_run(tmp_path: Path) -> None:
    assert optimizers.make(plain(), Settings(betas=(0.8, 0.95))).param_groups[0]["betas"] == (0.8, 0.95)  # type: ignore[arg-type]
    assert optimizers.make(plain(), Settings()).param_groups[0]["betas"] == (0.9, 0.999)
    settings: dict[str, Any] = FAST | {"encoder": "conv4", "steps": 2}
    run = unlabeled.pretrain("rotnet", pictures(), betas=(0.8, 0.95), out=tmp_path / "run", **settings)
    assert run.config["settings"]["betas"] == [0.8, 0.95]
    unlabeled.pretrain("rotnet", pictures(), betas=(0.8, 0.95), out=run.path, resume=True, quiet=True)
    with pytest.raises(ValueError, match=r"betas must be \[0.8, 0.95\] to resume"):
        unlabeled.pretrain("rotnet", pictures(), betas=(0.9, 0.95), out=run.path, resume=True, quiet=True)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_momentum_reaches_the_optimizer_beside_that_of_the_method(optimizer: Any, tmp_path: Path) -> None:
    assert optimizers.make(plain(), Settings(optimizer=optimizer)).param_groups[0]["momentum"] == 0.9
    made = optimizers.make(plain(), Settings(optimizer=optimizer, sgd_momentum=0.5))
    assert made.param_groups[0]["momentum"] == 0.5
    settings: dict[str, Any] = FAST | {"encoder": "conv4", "steps": 1, "optimizer": optimizer}
    run = unlabeled.pretrain(
        "byol", pictures(), sgd_momentum=0.5, momentum=0.7, out=tmp_path / "run", **settings
    )
    assert run.config["settings"]["sgd_momentum"] == 0.5 and run.config["options"]["momentum"] == 0.7


class Players(Plain):
    """A second player whose gradient is a thousand times as large."""

    learning_rates = {"other": 0.1}  # noqa: RUF012

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.other = nn.Linear(1, 1)

    def forward(self, batch: Batch) -> Tensor:
        return 100 * super().forward(batch) + 1e5 * self.other(torch.ones(1)).sum()


def test_clipping_scales_the_gradient_of_each_player_to_its_limit() -> None:
    method = Players(plain().encoder)
    method(open_data(pictures()).sample(8)).backward()
    before = {
        name: weight.grad.clone() for name, weight in method.named_parameters() if weight.grad is not None
    }
    optimizers.clip(method, 0.5)
    for player in ("other", "encoder"):
        norm = math.sqrt(
            sum(float(g.square().sum()) for name, g in before.items() if name.startswith(player))
        )
        assert norm > 0.5
        for name, weight in method.named_parameters():
            if name.startswith(player) and weight.grad is not None:
                torch.testing.assert_close(weight.grad, before[name] * 0.5 / norm, rtol=1e-4, atol=1e-8)
    optimizers.clip(method, 1e6)
    assert sum(float(w.grad.square().sum()) for w in method.encoder.parameters() if w.grad is not None) == (
        pytest.approx(0.25, rel=1e-3)
    )


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_clipping_sees_the_gradient_of_all_accumulated_batches(tmp_path: Path, precision: str) -> None:
    """With plain SGD a first step moves the weights by the learning rate times the limit."""

    class Sum(Plain):
        def __init__(self, encoder: nn.Module) -> None:
            super().__init__(encoder)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, batch: Batch) -> Tensor:
            # The gradients of single batches are +-100; their mean, that of the first, would be clipped to another.
            sign = batch["index"][:1] % 2 * 2.0 - 1
            return (self.scale * (100 * sign + 3)).sum() + 0 * super().forward(batch)

    moved = {}
    for clip in (None, 0.5):
        method = Sum(plain().encoder)
        settings: dict[str, Any] = {
            "optimizer": "sgd",
            "lr": 0.1,
            "steps": 1,
            "batch_size": 1,
            "accumulate": 24,
            "weight_decay": 0.0,
        }
        unlabeled.pretrain(
            method,
            pictures(),
            out=tmp_path / f"{clip}",
            clip=clip,
            precision=precision,
            device="cpu",
            quiet=True,
            **settings,
        )
        moved[clip] = 1 - method.scale.item()
    assert moved[None] == pytest.approx(0.3, rel=1e-2) and moved[0.5] == pytest.approx(0.05, rel=1e-4)


def test_a_run_is_trained_longer_with_a_schedule_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates: list[float] = []
    step = loop.Loop._step

    def spy(current: Any) -> None:
        step(current)
        rates.append(current.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(loop.Loop, "_step", spy)
    start: dict[str, Any] = {"batch_size": 8, "encoder": "conv4", "lr": 0.5, "out": tmp_path / "run"}
    unlabeled.pretrain("simclr", pictures(), epochs=2, **start)
    again: dict[str, Any] = start | {"resume": True}
    run = unlabeled.pretrain("simclr", pictures(), epochs=5, **again)
    assert rates == [learning_rate(place, 6, 0.5) for place in range(6)] + [
        learning_rate(place, 9, 0.5) for place in range(9)
    ]
    assert "training continues from step 6 to 15" in capsys.readouterr().err
    assert run.config["ends"] == [6] and run.config["settings"]["epochs"] == 5
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3, 4, 5]
    unlabeled.pretrain("simclr", pictures(), epochs=5, **again)  # nothing is left to be done
    assert len(rates) == 15
    run = unlabeled.pretrain("simclr", pictures(), steps=18, **again)
    assert run.config["ends"] == [6, 15] and "epochs" not in run.config["settings"] and len(rates) == 18
    with pytest.raises(ValueError, match=r"steps must be above 18, to which .* is trained, got 16"):
        unlabeled.pretrain("simclr", pictures(), steps=16, **again)
    with pytest.raises(ValueError, match=r"epochs must be above 6, to which .* is trained, got 6"):
        unlabeled.pretrain("simclr", pictures(), epochs=6, **again)


def test_a_longer_training_that_is_killed_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    settings: dict[str, Any] = FAST | {"encoder": "conv4", "clip": 0.1}
    longer: dict[str, Any] = {"epochs": 4, "resume": True, "quiet": True}
    unlabeled.pretrain("byol", pictures(), epochs=2, out=tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain(
            "byol", pictures(), epochs=2, out=tmp_path / "parts", on_step=killed_at(2), **settings
        )
    # It is asked to go on for longer before it has come to its first end.
    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain("byol", pictures(), out=tmp_path / "parts", on_step=killed_at(8), **longer)
    for out in ("whole", "parts"):
        unlabeled.pretrain("byol", pictures(), out=tmp_path / out, **longer)
    first, second = (read_checkpoint(tmp_path / out / CHECKPOINT)[0] for out in ("whole", "parts"))
    for group, tensors in first.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, second[group][key]), f"{group} {key}"


def test_a_run_killed_before_its_first_step_can_be_resumed(tmp_path: Path) -> None:
    settings: dict[str, Any] = FAST | {"encoder": "conv4", "steps": 3}
    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain(
            "moco", pictures(), queue=16, out=tmp_path / "run", on_step=killed_at(0), **settings
        )
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"] == 0
    whole = unlabeled.pretrain("moco", pictures(), queue=16, out=tmp_path / "whole", **settings)
    resumed = unlabeled.pretrain("moco", pictures(), resume=True, out=tmp_path / "run", quiet=True)
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[key]), key


def test_a_run_that_took_no_step_may_be_replaced(tmp_path: Path) -> None:
    settings: dict[str, Any] = FAST | {"encoder": "conv4", "steps": 1, "out": tmp_path / "run"}
    with pytest.raises(RuntimeError, match="killed"):
        unlabeled.pretrain("rotnet", pictures(), on_step=killed_at(0), **settings)
    assert unlabeled.pretrain("autoencoder", pictures(), **settings).config["method"] == "autoencoder"


def test_a_folder_that_another_run_writes_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = FAST | {"encoder": "conv4", "steps": 1, "out": tmp_path / "run"}
    with locked(tmp_path / "run"):
        with pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on ") as caught:
            unlabeled.pretrain("rotnet", pictures(), **settings)
        assert "out must be a folder that no other run is writing" in str(caught.value)
    assert not (tmp_path / "run").exists()
    run = unlabeled.pretrain("rotnet", pictures(), **settings)
    assert not list(run.path.glob(".*"))


def test_the_lock_of_a_process_that_died_holds_nobody_up(tmp_path: Path) -> None:
    lines = (
        "import os, pathlib, sys",
        "from unlabeled.files import locked",
        "with locked(pathlib.Path(sys.argv[1])):",
        "    os._exit(3)",
    )
    words = [sys.executable, "-c", "\n".join(lines), str(tmp_path / "run")]
    assert subprocess.run(words).returncode == 3
    assert (tmp_path / "run" / ".lock").exists()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_two_that_take_the_next_free_folder_get_different_ones(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder(tmp_path / "runs" / "a"), range(24)))
    assert len(set(folders)) == 24 and all(folder.is_dir() for folder in folders)


FILE = "import sys; print(getattr(sys.modules['__main__'], '__file__', ''))"
"""Says which file a program was started from."""


@pytest.mark.parametrize("how", ["-c", "stdin", "prompt", "script"])
def test_several_devices_need_a_script(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(FILE)
    words = {"-c": ["-c", FILE], "stdin": ["-"]}.get(how, [str(script)])
    done = subprocess.run([sys.executable, *words], input=FILE, capture_output=True, text=True, check=True)
    main, file = ModuleType("__main__"), done.stdout.strip()
    if file:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    if how == "prompt":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    started = []
    monkeypatch.setattr("lightning_fabric.Fabric.launch", lambda fabric: started.append(fabric))
    if how == "script":
        processes.join(Settings(devices=2, device="cpu"))
        assert len(started) == 1
        return
    with pytest.raises(ValueError, match=r"devices and nodes must be 1 in a notebook, .* torchrun"):
        processes.join(Settings(devices=2, device="cpu"))
    assert not started


def test_more_devices_than_the_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(processes, "_refuse_without_script", lambda settings: None)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    with pytest.raises(ValueError, match=r"devices must be at most 4 with the processors .*, got 5"):
        processes.join(Settings(devices=5, device="cpu"))


def test_repeating_a_run_that_was_trained_longer_says_that_its_schedule_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"out": tmp_path / "a", "quiet": True}
    unlabeled.pretrain("simclr", open_data(pictures()), steps=2, encoder="conv4", batch_size=8, **given)
    first = unlabeled.pretrain("simclr", open_data(pictures()), steps=4, resume=True, **given)
    config = first.path / "run.toml"
    unlabeled.pretrain("simclr", open_data(pictures()), out=tmp_path / "b", config=config, quiet=True)
    assert caplog.messages == [
        f"{config} is from a run that was extended at step 2; it is repeated with one schedule"
    ]


def test_videos_too_short_for_a_clip_are_in_the_list_of_the_run(tmp_path: Path) -> None:
    for name, frames in (("long", 24), ("short", 2)):
        np.save(tmp_path / f"{name}.npy", np.zeros((frames, 32, 32), np.uint8))
    run = unlabeled.pretrain("frame_prediction", tmp_path, out=tmp_path / "run", steps=1, quiet=True)
    assert 'short.npy,"2 frames, fewer than the 20 of a clip"' in (run.path / "skipped.csv").read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1000", "1"]),
        ({"OMP_WAIT_POLICY": "active"}, ["None", "None"]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", "None"]),
    ],
)
def test_waiting_threads_give_way_unless_the_user_says_otherwise(
    given: dict[str, str], expected: list[str]
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    outside = {name: value for name, value in os.environ.items() if name not in names} | given
    program = "import os, {}\nprint(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('KMP_BLOCKTIME'))"
    run: dict[str, Any] = {"capture_output": True, "text": True, "env": outside, "check": True}
    for module in ("unlabeled", "unlabeled.cli"):
        done = subprocess.run([sys.executable, "-c", program.format(module)], **run)
        assert done.stdout.split() == expected


def test_resuming_opens_texts_as_they_were_opened(tmp_path: Path) -> None:
    lines = [f"{row % 3},the note {row} on it,the long text {row % 7} of sample {row}" for row in range(40)]
    (tmp_path / "texts.csv").write_text("\n".join(["label,note,body", *lines]))
    opened: dict[str, Any] = {"text_column": "note", "encoding": "cp1252", "max_broken": 0.5}
    run = unlabeled.pretrain(
        "skipgram",
        tmp_path / "texts.csv",
        encoder="words-8-min1",
        steps=2,
        out=tmp_path / "run",
        quiet=True,
        **opened,
    )
    longer = unlabeled.pretrain(
        "skipgram", tmp_path / "texts.csv", steps=4, out=run.path, resume=True, quiet=True
    )
    assert longer.config["settings"] | opened == longer.config["settings"] and longer.history[-1]["step"] == 4


@pytest.mark.parametrize(
    ("method", "setting", "value"), [("simclr", "encoding", "gbk"), ("apc", "levels", "0,255")]
)
def test_settings_of_another_kind_of_data_are_refused(method: str, setting: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"{setting} must be left out for data of kind .*, got {value}"):
        unlabeled.pretrain(method, "digits", **{setting: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [*[(name, "1") for name in ("lr", "clip", "weight_decay", "holdout", "max_broken")], ("betas", 0.9)],
)
def test_settings_that_are_no_numbers_are_refused_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*, got '?{value}'?$"):
        Settings(**{name: value})


def test_on_step_is_called_before_each_step_and_may_end_the_training(tmp_path: Path) -> None:
    steps: list[int] = []

    def stop(step: int) -> None:
        steps.append(step)
        if step == 2:
            raise RuntimeError("enough")

    settings: dict[str, Any] = FAST | {"encoder": "conv4"}
    with pytest.raises(RuntimeError, match="enough"):
        unlabeled.pretrain("rotnet", pictures(), steps=4, out=tmp_path / "run", on_step=stop, **settings)
    assert steps == [0, 1, 2]


def test_an_interrupt_by_on_step_leaves_a_checkpoint(tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    settings: dict[str, Any] = FAST | {"encoder": "conv4", "steps": 6, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3; --resume continues"):
        unlabeled.pretrain("rotnet", pictures(), on_step=stop, **settings)
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"] == 3
