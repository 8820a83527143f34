"""Tasks: units of their own, statistics that are no means, twins with random weights."""

import subprocess
import sys
from pathlib import Path

import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.evaluation.intervals import LeftOut, leave_one_out, of_left_out
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.probe import Probe
from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.registry import Registry
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.tasks import TASKS


def rank(features: str, value: float, without: list[float], better: str = "higher") -> Measurement:
    return Measurement(
        "similarity", features, torch.tensor([[value]]), unit="Spearman", better=better,  # type: ignore[arg-type]
        left_out=LeftOut(torch.tensor(without), torch.full((len(without),), 1 / len(without)), len(without)),
        samples=50, counted="word pairs",
    )  # fmt: skip


def test_a_statistic_that_is_no_mean_has_an_interval_from_what_it_is_without_each_unit() -> None:
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    value, left_out = leave_one_out(lambda rows: float(values[rows].std()), 100)
    assert value == float(values.std()) and len(left_out.values) == left_out.units == 100
    assert left_out.values[7] == float(values[torch.arange(100) != 7].std())
    found = of_left_out(value, left_out)
    assert found.low is not None and found.high is not None
    textbook = 2 * 1.98 * value * ((1.8 - 1) / 400) ** 0.5  # kurtosis of a uniform distribution: 1.8
    assert found.low < value < found.high and found.high - found.low < 1.5 * textbook


def test_margins_of_statistics_are_taken_unit_by_unit() -> None:
    noise = torch.linspace(-0.003, 0.003, 101)
    ours = rank("unlabeled", 0.5, (0.5 + noise).tolist())
    control = rank("random", 0.4, (0.4 + noise).tolist())  # moves with ours, so the lead is sure
    record = next(r for r in Scores.of([control, ours]) if r["features"] == "random")
    assert abs(record["margin"] - 0.1) < 1e-6 and abs(record["margin_low"] - 0.1) < 1e-6


def test_lower_is_better_where_a_task_says_so() -> None:
    ours = rank("unlabeled", 2.0, [1.99, 2.0, 2.01] * 3, "lower")
    control = rank("gzip", 3.0, [3.0] * 9, "lower")
    scores = Scores.of([control, ours])
    assert next(r for r in scores if r["features"] == "gzip")["margin"] == 1.0
    assert "similarity: unlabeled beats every control beyond noise in Spearman (+1.00)." in scores.verdict()
    table = scores.table()
    assert "gzip" in table and "similarity: Spearman on 50 test samples" in table and "labels" not in table
    assert "[95 % interval over 9 word pairs]" in table


def test_several_units_of_a_task_are_columns() -> None:
    values = torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
    rows = [
        Measurement("retrieval", features, values * fraction, unit=unit)
        for features, fraction in (("chance", 0.1), ("unlabeled", 1.0))
        for unit in ("recall@1", "nDCG@30")
    ]
    lines = Scores.of(rows).table().splitlines()
    assert lines[1].split() == ["recall@1", "nDCG@30"] and lines[2].startswith("chance")


def test_every_file_is_a_probe_or_a_task_and_none_has_two_names() -> None:
    assert all(isinstance(PROBES.load(name), Probe) for name in PROBES)
    assert all(isinstance(TASKS.load(name), Task) for name in TASKS)
    titles = [*PROBES.values(), *TASKS.values()]
    assert len({*titles}) == len(titles) and not {*PROBES} & {*TASKS}
    assert PROBES["knn"] == "nearest neighbours" and TASKS["perplexity"] == "prediction of unseen texts"


def test_a_file_in_the_folder_is_an_entry(tmp_path: Path) -> None:
    (tmp_path / "guess.py").write_text('"""Guessing: nothing is learned."""\nPROBE = 7\n')
    (tmp_path / "__init__.py").touch()
    registry = Registry("no.such.package", str(tmp_path / "__init__.py"), "PROBE")
    assert dict(registry) == {"guess": "guessing"} and str(registry) == "guess (guessing)"


def test_names_and_titles_of_probes_and_tasks_need_no_torch() -> None:
    program = (
        "import sys\nfrom unlabeled.evaluation.probes import PROBES\nfrom unlabeled.evaluation.tasks import TASKS\n"
        "print(PROBES, TASKS)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_task_does_not_change_what_it_measures() -> None:
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = from_images(images)
    data.factors = {"red": images[:, 0].float().mean((1, 2))}
    encoder = encoders.fitted("conv4", data).eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    TASKS.load("factors")(EvaluatedModel(encoder), data)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
