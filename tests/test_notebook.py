"""Notebooks: what runs, scores and encoders look like, progress, and the example."""

import ast
import builtins
import json
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from unlabeled import encoders, notebook
from unlabeled.evaluation import Scores
from unlabeled.run import load
from unlabeled.training.progress import Progress

EXAMPLE = Path(__file__).parents[1] / "docs" / "example.ipynb"
LOG = {"epoch": 3, "step": 30, "loss": 1.25, "chance": 2.0, "verdict": "Healthy: <ok>.", "metrics": {}}


class ZMQInteractiveShell:
    """The class by whose name a Jupyter kernel is known."""


def test_curves_go_through_their_values_and_names_are_escaped() -> None:
    parsed = ET.fromstring(notebook.curve([1.0, 0.0, 0.5], reference=2.0))
    line, points = parsed
    assert points.attrib["points"] == "2.0,18.0 80.0,34.0 158.0,26.0"
    assert (line.attrib["y1"], line.attrib["y2"]) == ("2.0", "2.0")
    assert (
        len(ET.fromstring(notebook.curve([float(n) for n in range(999)]))[0].attrib["points"].split()) <= 101
    )
    assert notebook.curve([1.0]) == "" and "nan" not in notebook.curve([1.0, 1.0], 1.0)
    shown = notebook.facts("<x>", {"a&b": "<i>"}) + notebook.table(
        "<x>", [["<h>"]], [["<n>", "<c>"]], bold=["<n>"]
    )
    assert not any(tag in shown for tag in ("<x>", "<i>", "<h>", "<n>", "<c>", "a&b"))
    ET.fromstring(f"<r>{shown}</r>")


def test_runs_show_what_they_are_and_how_they_went(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'method = "<b>"\n[data]\nname = "pictures"\n[settings]\nencoder = "conv4"\n'
    )
    assert "nothing yet" in load(tmp_path)._repr_html_()
    lines = [LOG | {"epoch": epoch, "step": 10 * epoch, "loss": 2.0 - epoch / 4} for epoch in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = load(tmp_path)._repr_html_()
    text = " ".join(ET.fromstring(shown).itertext())
    for part in ("<b>", "pictures", "conv4", "3 epochs, 30 steps", "1.25 (chance 2)", "Healthy: <ok>."):
        assert part in text
    assert len(shown) < 3000 and "<polyline" in shown
    (tmp_path / "log.jsonl").write_text("[]\n")
    assert "damaged" in load(tmp_path)._repr_html_()


def test_scores_show_their_tables_and_verdict() -> None:
    about = {"probe": "knn", "layer": None, "labels_per_class": "all", "unit": "accuracy", "better": "higher"}
    about |= {
        "std": None,
        "draws": 1,
        "samples": 50,
        "units": 50,
        "counted": "test samples",
        "detail": "k=10",
    }
    records = [
        about | {"features": features, "value": value, "low": value - 0.1, "high": value + 0.1}
        for features, value in (("raw", 0.8), ("<i>", 0.1), ("unlabeled", 0.4))
    ]
    scores = Scores(records)
    parsed = ET.fromstring(scores._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in parsed.iter("tr")]
    assert rows[1:] == [
        ["raw input", "80.0 [70.0, 90.0]"],
        ["<i>", "10.0 [0.0, 20.0]"],
        ["unlabeled", "40.0 [30.0, 50.0]"],
    ]
    assert [line.text for line in parsed.iter("p")] == scores.verdict().splitlines()
    assert "loses" in scores.verdict()


@pytest.mark.usefixtures("small_networks")
def test_encoders_show_what_they_read_and_give() -> None:
    encoder = encoders.build("conv4", image_size=8)
    text = " ".join(ET.fromstring(encoder._repr_html_()).itertext())
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    assert "ImageEncoder conv4" in text and f"{weights:,}" in text and f"features {encoder.dim}" in text


@pytest.mark.parametrize("jupyter", [True, False])
def test_progress_is_plain_lines(
    jupyter: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In notebooks on standard output, as what stands on standard error looks like an error there."""
    if jupyter:
        monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    with Progress() as progress:
        progress.decoding(1, 2)
        progress.decoding(2, 2)
        progress.say("one [line] that is longer than the width of a terminal " * 3)
    said = capsys.readouterr()
    lines, nothing = (said.out, said.err) if jupyter else (said.err, said.out)
    assert nothing == "" and lines == "one [line] that is longer than the width of a terminal " * 3 + "\n"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a code cell, and give the value of its last expression."""
    body = ast.parse(source).body
    last = body[-1].value if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body if last is None else body[:-1], []), str(EXAMPLE), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last), str(EXAMPLE), "eval"), names)


@pytest.mark.usefixtures("small_networks")
def test_the_example_runs_in_seconds() -> None:
    cells = json.loads(EXAMPLE.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    began = time.process_time()
    shown = [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert time.process_time() - began < 5
    run, scores, features, encoder, loss, exported, _ = shown
    assert all("<table>" in thing._repr_html_() for thing in (run, scores, encoder))
    assert features[0] == (1797, encoder.dim) and loss.requires_grad and exported.difference < 1e-5
    assert not any(cell.get("outputs") for cell in cells)
