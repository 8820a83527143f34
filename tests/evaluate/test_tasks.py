"""Tasks: units of their own, statistics that are no means, twins with random weights."""

import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.evaluate.intervals import of_replicates, resampled
from unlabeled.evaluate.scores import Measurement, Scores
from unlabeled.evaluate.tasks import TASKS, Subject
from unlabeled.evaluate.tasks import measure as measure_task


def rank(features: str, value: float, replicates: list[float], better: str = "higher") -> Measurement:
    return Measurement(
        "similarity", None, "all", features, torch.tensor([[value]]), "", "Spearman", better,  # type: ignore[arg-type]
        replicates=torch.tensor(replicates), units=50,
    )  # fmt: skip


def test_a_statistic_that_is_no_mean_has_the_interval_of_its_replicates() -> None:
    values = torch.arange(100.0)
    value, replicates = resampled(lambda rows: float(values[rows].median()), 100, seed=3)
    again = resampled(lambda rows: float(values[rows].median()), 100, seed=3)[1]
    assert value == values.median() and torch.equal(replicates, again)
    found = of_replicates(value, replicates)
    assert 30 < found.low < 49 < found.high < 70


def test_margins_of_replicates_are_taken_draw_by_draw() -> None:
    noise = torch.linspace(-0.3, 0.3, 101)
    ours = rank("unlabeled", 0.5, (0.5 + noise).tolist())
    control = rank("random", 0.4, (0.4 + noise).tolist())  # moves with ours, so the lead is sure
    record = next(r for r in Scores.of([control, ours]) if r["features"] == "random")
    assert abs(record["margin"] - 0.1) < 1e-6 and abs(record["margin_low"] - 0.1) < 1e-6


def test_lower_is_better_where_a_task_says_so() -> None:
    ours = rank("unlabeled", 2.0, [1.9, 2.0, 2.1], "lower")
    control = rank("gzip", 3.0, [3.0, 3.0, 3.0], "lower")
    scores = Scores.of([control, ours])
    assert next(r for r in scores if r["features"] == "gzip")["margin"] == 1.0
    assert "beats every control beyond noise in similarity: Spearman (+1)" in scores.verdict()
    table = scores.table()
    assert "gzip" in table and "similarity: Spearman on 50 test samples" in table and "labels" not in table


def test_several_units_of_a_task_are_columns() -> None:
    values = torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
    rows = [
        Measurement("retrieval", None, "all", features, values * share, "", unit)
        for features, share in (("chance", 0.1), ("unlabeled", 1.0))
        for unit in ("recall@1", "nDCG@30")
    ]
    lines = Scores.of(rows).table().splitlines()
    assert lines[1].split() == ["recall@1", "nDCG@30"] and lines[2].startswith("chance")


def test_every_task_has_its_module() -> None:
    import importlib

    for name, module in TASKS.items():
        found = importlib.import_module(f"unlabeled.evaluate.{module}")
        assert callable(getattr(found, name, None) or found.measure)


def test_a_task_does_not_change_what_it_measures() -> None:
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = from_images(images)
    data.factors = {"red": images[:, 0].float().mean((1, 2))}
    encoder = encoders.fitted("conv4", data).eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    measure_task("factors", Subject(encoder, None), data, seed=0, device=torch.device("cpu"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
