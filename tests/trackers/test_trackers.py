"""Trackers show what the log says, go on where a run goes on, and never stop one."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled import encoders, pretrain
from unlabeled.check import UserError
from unlabeled.cli import main
from unlabeled.data import from_images
from unlabeled.method import Batch, Method, Waveforms
from unlabeled.run import CHECKPOINT, Run, read_checkpoint
from unlabeled.trackers import Trackers, parse, scalars
from unlabeled.trackers.several import _sheet, require

pytestmark = pytest.mark.usefixtures("small_networks")
IMAGES = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Seen(Method):
    """Learns the brightness of an image, and shows images, texts and sounds."""

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self.head = torch.nn.Linear(encoder.dim, 1)

    def forward(self, batch: Batch) -> Tensor:
        mean = batch["image"].float().mean((1, 2, 3)) / 255
        return (self.head(self.encoder(self.encoder.inputs(batch)))[:, 0] - mean).square().mean()

    def pictures(self, batch: Batch) -> dict[str, Any]:
        count = len(batch["image"])
        sounds = Waveforms(torch.zeros(count, 4), torch.full((count,), 4), 8)
        return {"input": batch["image"] / 255, "words": ["a", "b"], "sounds": sounds}


def train(out: Path, **settings: Any) -> Run:
    torch.manual_seed(0)
    method = Seen(encoders.build("conv4", image_size=8))
    settings = {"batch_size": 8, "steps": 14, "device": "cpu", "track": "wandb"} | settings
    return pretrain(method, from_images(IMAGES), out=out, **settings)


class Fake(ModuleType):
    """Stands in for wandb or trackio: every run, with its arguments, what was logged to it, and how it ended."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: list[SimpleNamespace] = []
        self.fails_from = sys.maxsize
        self.failure: type[BaseException] = ConnectionError

    def init(self, **arguments: Any) -> SimpleNamespace:
        run = SimpleNamespace(arguments=arguments, rows=[], ended=[], number=len(self.runs))
        run.id, run.name = arguments.get("id") or f"id{run.number}", arguments["name"]

        def log(values: dict[str, Any], step: int | None = None) -> None:
            if len(run.rows) >= self.fails_from:
                raise self.failure("no route\nto host")
            run.rows.append({**values, "step": values.get("step", step)})

        run.log, run.finish = log, lambda **how: run.ended.append(how)
        run.define_metric = lambda *names, **how: run.arguments.update(metric=(names, how))
        self.runs.append(run)
        return run

    @staticmethod
    def Image(pixels: np.ndarray) -> np.ndarray:
        return pixels

    @staticmethod
    def Table(columns: list[str], data: list[list[str]]) -> list[list[str]]:
        return data


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake("trackio")
    fake.run = ModuleType("trackio.run")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    return fake


class FakeMLflow(ModuleType):
    """Stands in for MLflow: names of experiments, and what each run holds."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.experiments: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.MlflowClient = lambda: self
        self.entities = ModuleType("mlflow.entities")
        self.entities.Metric = lambda *values: (values[0], values[1], values[3])  # type: ignore[attr-defined]
        self.entities.Param = lambda *values: values  # type: ignore[attr-defined]

    def get_experiment_by_name(self, name: str) -> Any:
        known = name in self.experiments
        return SimpleNamespace(experiment_id=self.experiments.index(name)) if known else None

    def create_experiment(self, name: str) -> int:
        self.experiments.append(name)
        return len(self.experiments) - 1

    def create_run(self, experiment: int, run_name: str) -> Any:
        run = {"experiment": experiment, "name": run_name, "params": [], "metrics": [], "files": {}}
        self.runs.append(run)
        return SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.runs) - 1)))

    def update_run(self, run: str, status: str) -> None:
        self.runs[int(run)]["status"] = status

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        self.runs[int(run)]["metrics"] += metrics
        self.runs[int(run)]["params"] += params

    def log_image(self, run: str, image: np.ndarray, artifact_file: str) -> None:
        self.runs[int(run)]["files"][artifact_file] = image

    def log_text(self, run: str, text: str, artifact_file: str) -> None:
        self.runs[int(run)]["files"][artifact_file] = text

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[int(run)]["status"] = status


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMLflow]:
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    yield fake


def test_names_are_words_or_lists_and_none_is_none() -> None:
    assert parse(" wandb, mlflow,wandb") == ("wandb", "mlflow") == parse(["wandb", "mlflow"])
    assert parse(None) == parse("none") == parse("") == ()
    with pytest.raises(ValueError, match=r"track must be one of tensorboard, wandb, .*, got weights"):
        parse("wandb,weights")


def test_scalars_are_the_finite_numbers_of_a_line_each_at_its_step() -> None:
    losses = {"5": 2.0, "10": 1.5}
    line = {"epoch": 1, "step": 10, "loss": 1.0, "chance": None, "spread": float("nan"), "holdout_loss": 1.5}
    line |= {"verdict": "Healthy.", "holdout_losses": losses, "metrics": {"accuracy": 0.5}}
    last = {"epoch": 1, "loss": 1.0, "holdout_loss": 1.5, "metrics/accuracy": 0.5}
    assert scalars(line) == [(5, {"holdout_loss": 2.0}), (10, last)]


def test_pictures_stand_side_by_side_with_their_pixels_enlarged() -> None:
    images = torch.stack(
        [torch.zeros(1, 16, 16), torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), torch.nan)]
    )
    images[0, 0, 2, 3] = 1
    sheet = _sheet(images)
    assert sheet.dtype == np.uint8 and sheet.shape == (64, 3 * 64 + 2 * 2, 3)
    expected = np.zeros((64, 64, 3))
    expected[8:12, 12:16] = 255
    assert (sheet[:, :64] == expected).all() and (sheet[:, 64:66] == 255).all()
    assert (sheet[:, 66:130] == 51).all() and not sheet[:, 132:].any()
    assert _sheet(torch.stack([torch.full((5, 64, 64), 0.4)])).shape == (64, 64, 3)


def test_runs_are_tracked_as_they_are_logged(
    tmp_path: Path, wandb: Fake, trackio: Fake, mlflow: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "mine", track=["wandb", "trackio", "mlflow"])
    (one,), (other,), (third,) = wandb.runs, trackio.runs, mlflow.runs
    assert "not tracked, as they are sounds: sounds" in capsys.readouterr().err
    assert run.config["settings"]["track"] == "wandb,trackio,mlflow"
    expected = [row | {"step": step} for line in run.history for step, row in scalars(line)]
    assert {"loss", "holdout_loss", "spread", "rank", "learning_rate"} <= expected[-1].keys()
    assert [row["step"] for row in expected] == [7, 14]
    assert one.rows[:2] == expected == other.rows[:2]
    pictures, texts = one.rows[2:]
    assert pictures["pictures/input"].shape == (64, 8 * 64 + 7 * 2, 3) and pictures["step"] == 14
    assert texts == {"pictures/words": [["a"], ["b"]], "step": 14} == other.rows[3]
    assert one.arguments["name"] == "mine" and one.arguments["project"] == "unlabeled"
    assert one.arguments["metric"] == (("*",), {"step_metric": "step"})
    assert one.arguments["config"]["settings/lr"] == run.config["settings"]["lr"]
    assert one.ended == [{"exit_code": 0}] and other.ended == [{}]
    assert third["name"] == "mine" and mlflow.experiments == ["unlabeled"] and third["status"] == "FINISHED"
    assert ("loss", run.history[1]["loss"], 14) in third["metrics"] and ("method", "Seen") in third["params"]
    assert third["files"]["pictures/words.txt"] == "a\n\nb"
    assert (third["files"]["pictures/input.png"] == pictures["pictures/input"]).all()


def test_a_resumed_run_goes_on_in_the_same_tracked_run(
    tmp_path: Path, wandb: Fake, trackio: Fake, mlflow: FakeMLflow
) -> None:
    def stop(step: int) -> None:
        if step == 9:
            raise KeyboardInterrupt

    names = "wandb,trackio,mlflow"
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "x", track=names, on_step=stop)
    assert wandb.runs[0].ended == [{"exit_code": 1}] and mlflow.runs[0]["status"] == "KILLED"
    train(tmp_path / "x", track=None, resume=True)  # by what run.toml says
    first, second = wandb.runs
    assert second.arguments["id"] == first.id and second.arguments["resume"] == "allow"
    assert [row["step"] for row in first.rows] == [7] and second.rows[0]["step"] == 14
    assert second.ended == [{"exit_code": 0}]
    first, second = trackio.runs
    assert second.name == first.name and (first.arguments["resume"], second.arguments["resume"]) == (
        "never",
        "allow",
    )
    assert len(mlflow.runs) == 1 and mlflow.runs[0]["status"] == "FINISHED"
    assert [step for name, _, step in mlflow.runs[0]["metrics"] if name == "loss"] == [7, 14]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "y", on_step=stop)
    train(tmp_path / "y", track="none", resume=True)
    assert len(wandb.runs) == 3


def test_what_a_tracker_does_changes_no_bit_of_a_run_and_stops_none(
    tmp_path: Path, wandb: Fake, trackio: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "plain", track=None)
    wandb.fails_from = 1
    capsys.readouterr()
    train(tmp_path / "tracked", track="wandb,trackio")
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    message = "wandb failed at step 14 and no longer tracks this run; training continues (no route to host)"
    assert said == [f"warning: {message}"]
    assert len(wandb.runs[0].rows) == 1 and len(trackio.runs[0].rows) == 4
    states = [read_checkpoint(tmp_path / name / CHECKPOINT)[0] for name in ("plain", "tracked")]
    for group, tensors in states[0].items():
        assert all(torch.equal(value, states[1][group][name]) for name, value in tensors.items())


def test_trackers_that_end_the_process_are_treated_as_those_that_fail(
    tmp_path: Path, wandb: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    wandb.failure, wandb.fails_from = SystemExit, 0
    with Trackers(said.append) as trackers:
        trackers.open(["wandb"], tmp_path, {}, None)
        trackers.epoch({"step": 3, "loss": 1.0})
        assert not trackers.running and "wandb failed at step 3" in said[0] and "no route to host" in said[0]

    def leave(*_: Any, **__: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(wandb, "init", leave)
    with pytest.raises(UserError, match=r"trackers that can be started, got wandb \(.*3\)"):
        Trackers(said.append).open(["wandb"], tmp_path, {}, None)
    monkeypatch.setattr("importlib.import_module", leave)
    with pytest.raises(UserError, match=r"trackers that are installed, got wandb"):
        require(["wandb"])


def test_missing_and_broken_trackers_are_named_before_anything_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wandb: Fake,
    mlflow: FakeMLflow,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(SystemExit):
        main(["pretrain", "simclr", str(tmp_path / "nowhere"), "--track", "wandb,trackio"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "installed, got trackio" in said and "; pip install trackio" in said
    monkeypatch.setattr(mlflow, "create_run", lambda *_, **__: json.loads("refused"))
    with pytest.raises(ValueError, match="track must name trackers that can be started, got mlflow"):
        train(tmp_path / "x", track="wandb,mlflow")
    assert (
        wandb.runs[0].ended == [{"exit_code": 1}] and not (tmp_path / "x" / "checkpoint.safetensors").exists()
    )


def test_a_run_of_the_users_own_is_used_and_left_open(tmp_path: Path, wandb: Fake) -> None:
    own = wandb.init(name="sweep")
    wandb.run = own  # type: ignore[attr-defined]
    tracked = Trackers(print)
    with tracked:
        tracked.open(["wandb"], tmp_path, {}, None)
        tracked.epoch({"step": 3, "loss": 1.0})
    assert len(wandb.runs) == 1 and own.rows == [{"loss": 1.0, "step": 3}] and not own.ended


def test_tensorboard_shows_a_resumed_run_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    line = {"epoch": 1, "loss": 1.0, "metrics": {}}
    with Trackers(print) as tracked:
        tracked.open(["tensorboard"], tmp_path, {"method": "x", "settings": {"lr": 0.1}}, None)
        for step in (5, 10, 15):
            tracked.epoch(line | {"step": step})
    with Trackers(print) as tracked:
        tracked.open(["tensorboard"], tmp_path, {}, 10)
        tracked.epoch(line | {"step": 12, "loss": 2.0})
        tracked.pictures({"input": torch.zeros(2, 1, 8, 8), "words": ["a", "b"]})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(5, 1.0), (10, 1.0), (12, 2.0)]
    assert (events.Images("pictures/input")[0].width, events.Images("pictures/input")[0].step) == (130, 12)
    assert b"| settings/lr | 0.1 |" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
