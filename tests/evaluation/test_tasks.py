"""Tasks: units of their own, statistics that are no means, twins with random weights."""

import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.evaluation.intervals import LeftOut, leave_one_out, of_left_out
from unlabeled.evaluation.scores import Measurement, Scores
from unlabeled.evaluation.tasks import TASKS, Subject
from unlabeled.evaluation.tasks import measure as measure_task


def rank(features: str, value: float, without: list[float], better: str = "higher") -> Measurement:
    return Measurement(
        "similarity", None, "all", features, torch.tensor([[value]]), "", "Spearman", better,  # type: ignore[arg-type]
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
    assert "beats every control beyond noise in similarity: Spearman (+1)" in scores.verdict()
    table = scores.table()
    assert "gzip" in table and "similarity: Spearman on 50 test samples" in table and "labels" not in table
    assert "[95 % interval over 9 word pairs]" in table


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
        found = importlib.import_module(f"unlabeled.evaluation.tasks.{module}")
        assert callable(getattr(found, name, None) or found.measure)


def test_a_task_does_not_change_what_it_measures() -> None:
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = from_images(images)
    data.factors = {"red": images[:, 0].float().mean((1, 2))}
    encoder = encoders.fitted("conv4", data).eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    measure_task("factors", Subject(encoder, None), data, seed=0, device=torch.device("cpu"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
