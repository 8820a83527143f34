"""Evaluations of a run are kept: none is overwritten by another, not even by one at the same moment."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlabeled import cli
from unlabeled.evaluation import Scores, evaluate
from unlabeled.reporting import report
from unlabeled.run import Run, load
from unlabeled.training.train import pretrain

pytestmark = pytest.mark.usefixtures("small_networks")


def about(**changes: Any) -> dict[str, Any]:
    options = {"source": "digits", "probe": ["knn"]} | changes.pop("options", {})
    return {"data": "digits", "encoder": "0123", "seed": 0, "options": options} | changes


def run(folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text('method = "simclr"\n')
    return load(folder)


def record(value: float) -> dict[str, Any]:
    return {"probe": "knn", "features": "unlabeled", "layer": None, "labels_per_class": "all", "value": value}


@pytest.fixture
def shapes(tmp_path: Path) -> str:
    """Few images of two classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = generator.integers(0, 156, (60, 8, 8)) + 100 * labels[:, None, None] * (np.arange(8) < 4)
    np.savez(tmp_path / "shapes.npz", images=images.astype(np.uint8), labels=labels)
    return str(tmp_path / "shapes.npz")


def test_an_evaluation_that_was_lost_is_not_overwritten(tmp_path: Path) -> None:
    opened = run(tmp_path)
    assert opened.evaluations == [] and opened.scores == []
    opened.add_evaluation(about(), [record(0.1)])
    opened.add_evaluation(about(data="others"), [record(0.2)])
    opened.add_evaluation(about(options={"probe": ("linear",)}), [record(0.3)])
    opened.add_evaluation(about(encoder="4567"), [record(0.4)])
    assert [one["records"][0]["value"] for one in opened.evaluations] == [0.4, 0.3, 0.2, 0.1]
    assert opened.scores == [record(0.4)] and opened.measured["encoder"] == "4567"
    assert "time" in opened.measured and "earlier" not in opened.measured
    last = Scores.from_json(tmp_path / "scores.json")
    assert last.records == [record(0.4)] and "earlier" not in last.about


def test_the_same_evaluation_again_replaces_itself_alone(tmp_path: Path) -> None:
    opened = run(tmp_path)
    opened.add_evaluation(about(options={"probe": ("knn",)}), [record(0.1)])
    opened.add_evaluation(about(data="others"), [record(0.2)])
    opened.add_evaluation(about(note="the moon was full"), [record(0.3)])
    assert [one["records"][0]["value"] for one in opened.evaluations] == [0.3, 0.2]


def test_what_is_unfinished_is_replaced_by_more_and_replaces_nothing_complete(tmp_path: Path) -> None:
    opened = run(tmp_path)
    part = about(data="as named", unfinished=True)
    opened.add_evaluation(about(), [record(0.1)])
    opened.add_evaluation(part, [record(0.2)])
    opened.add_evaluation(part | {"data": "as opened"}, [record(0.3)])
    assert [one["records"][0]["value"] for one in opened.evaluations] == [0.3, 0.1]
    opened.add_evaluation(about(), [record(0.4)])
    assert [one["records"][0]["value"] for one in opened.evaluations] == [0.4]


def test_ctrl_c_prints_and_keeps_what_was_measured(
    shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"steps": 1, "batch_size": 8, "encoder": "conv4", "quiet": True}
    opened = pretrain("rotnet", shapes, out=tmp_path / "run", **words)

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unlabeled.evaluation.controls.supervised.predictions", interrupt)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", str(opened.path), shapes, "--controls", "raw,supervised", "--probe", "knn"])
    said = capsys.readouterr()
    assert stopped.value.code == 130 and "the scores so far are in" in said.err
    assert "raw input" in said.out and "stopped before everything was measured" in said.out
    (kept,) = opened.evaluations
    assert kept["unfinished"] and [one["features"] for one in kept["records"]] == ["raw", "unlabeled"]
    assert "stopped before everything was measured" in report(opened.path).read_text(encoding="utf-8")


def test_files_of_earlier_versions_open_and_are_kept(tmp_path: Path) -> None:
    opened = run(tmp_path)
    for stored in ([record(0.1)], {"data": "digits", "encoder": "0123", "seed": 0, "records": [record(0.1)]}):
        (tmp_path / "scores.json").write_text(json.dumps(stored))
        assert opened.scores == [record(0.1)] and len(opened.evaluations) == 1
        opened.add_evaluation(about(), [record(0.2)])
        assert [one["records"][0]["value"] for one in opened.evaluations] == [0.2, 0.1]


@pytest.mark.parametrize(
    "content", ["{", '{"records": [], "earlier": 3}', '{"records": [], "earlier": [{}]}']
)
def test_damaged_scores_are_put_aside_and_the_new_ones_kept(tmp_path: Path, content: str) -> None:
    opened = run(tmp_path)
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(ValueError, match="must be a file that a run wrote"):
        _ = opened.evaluations
    with pytest.warns(UserWarning, match=r"renamed to scores.json.damaged"):
        opened.add_evaluation(about(), [record(0.2)])
    assert opened.scores == [record(0.2)]
    assert (tmp_path / "scores.json.damaged").read_text() == content


def _add(folder: Path, number: int) -> None:
    for place in range(10):
        load(folder).add_evaluation(about(seed=(number, place)), [record(number)])


def test_evaluations_at_the_same_moment_are_all_kept(tmp_path: Path) -> None:
    run(tmp_path)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(tmp_path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    seeds = {tuple(one["seed"]) for one in load(tmp_path).evaluations}
    assert seeds == {(number, place) for number in range(4) for place in range(10)}


def test_the_page_shows_every_evaluation_and_flags_those_of_earlier_states(
    shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"steps": 1, "batch_size": 8, "encoder": "conv4", "quiet": True}
    opened = pretrain("rotnet", shapes, out=tmp_path / "run", **words)
    for probe in ("knn", "linear"):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["evaluate", str(opened.path), shapes, "--probe", probe, "--controls", "raw"])
    assert len(opened.evaluations) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"next: unlabeled report {opened.path}" and "next:" not in said.out
    verdicts = [line for line in said.out.splitlines() if ": unlabeled " in line]
    text = report(opened.path).read_text(encoding="utf-8")
    assert [line for line in verdicts if line not in text] == [] and len(verdicts) == 2
    assert text.index("In 2 evaluations with 2 comparisons, unlabeled ") < text.index("Controls: raw input.")
    name = opened.measured["data"]
    assert text.index(f"1. {name}") < text.index(f"2. {name}") and "earlier state" not in text
    stored = json.loads((opened.path / "scores.json").read_text())
    stored["earlier"][0]["encoder"] = "of another state"
    (opened.path / "scores.json").write_text(json.dumps(stored))
    text = report(opened.path).read_text(encoding="utf-8")
    assert verdicts[0] not in text and verdicts[1] in text
    assert f"2. {name} · earlier state of the encoder" in text and text.count("has changed since") == 1


@pytest.mark.parametrize(("name", "value"), [("probe", ""), ("labels-per-class", ",")])
def test_an_evaluation_of_nothing_is_refused_and_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    run(tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["evaluate", str(tmp_path / "run"), "digits", f"--{name}", value])
    assert stopped.value.code == 2 and f"--{name} must be" in capsys.readouterr().err
    assert not (tmp_path / "run" / "scores.json").exists()


def test_a_path_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run must be a folder that pretrain wrote, got"):
        evaluate(tmp_path, "digits")
