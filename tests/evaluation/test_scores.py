"""Tables and the verdict say what the records say, and never more."""

import json

import pytest
import torch

from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.scores import Scores, side_by_side


def measured(
    features: str, right: torch.Tensor, count: int | str = "all", probe: str = "linear"
) -> Measurement:
    return Measurement(probe, features, right.float(), labels_per_class=count, detail="penalty 0.01")


def first(share: float, draws: int = 1, samples: int = 400) -> torch.Tensor:
    return (torch.arange(samples) < share * samples).expand(draws, samples)


def test_a_record_holds_what_a_reader_needs():
    (raw, ours) = Scores.of([measured("raw", first(0.5)), measured("unlabeled", first(0.75))])
    assert raw["value"] == 0.5
    assert raw["low"] < 0.5 < raw["high"]
    assert (raw["samples"], raw["draws"], raw["std"]) == (400, 1, None)
    assert raw["margin"] == 0.25
    assert "margin" not in ours
    assert (raw["units"], raw["counted"]) == (400, "test samples")
    assert raw["interval"] == "95 %, cluster-robust, over 400 test samples"


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.9, "linear: unlabeled beats every control beyond noise with all labels (+30.0).\n"),
        (0.3, "linear: unlabeled loses with all labels (-30.0 to raw input).\n"),
    ],
)
def test_the_verdict_names_what_was_won_and_lost(share, said):
    assert said in Scores.of([measured("raw", first(0.6)), measured("unlabeled", first(share))]).verdict()


def test_runs_side_by_side_share_a_table_and_what_is_the_same_is_said_once():
    good = Scores.of(
        [measured("raw", first(0.5)), measured("random", first(0.6)), measured("unlabeled", first(0.9))]
    )
    bad = Scores.of(
        [measured("raw", first(0.5)), measured("random", first(0.7)), measured("unlabeled", first(0.3))]
    )
    bad.about["note"] = "the moon was full"
    lines = side_by_side([("moco", good), ("byol", bad)]).splitlines()
    rows = ["raw input", "random weights of moco", "random weights of byol", "moco", "byol"]
    assert [line[: len(row)] for line, row in zip(lines[2:], rows, strict=False)] == rows
    assert lines[7:] == [
        "linear: moco beats every control beyond noise with all labels (+30.0).",
        "linear: byol loses with all labels (-40.0 to random weights).",
        "In parentheses: points of accuracy above the best control.",
        "Controls: raw input; random weights.",
        "byol: Note that the moon was full.",
    ]


def test_the_verdict_claims_nothing_within_noise():
    generator = torch.Generator().manual_seed(0)
    raw, ours = torch.rand(1, 100, generator=generator) < 0.70, torch.rand(1, 100, generator=generator) < 0.72
    verdict = Scores.of([measured("raw", raw), measured("unlabeled", ours)]).verdict()
    assert "within noise" in verdict
    assert "beats" not in verdict


def test_beating_one_control_is_not_beating_all():
    scores = Scores.of(
        [measured("raw", first(0.2)), measured("supervised", first(0.9)), measured("unlabeled", first(0.6))]
    )
    assert "beats" not in scores.verdict()
    assert "to supervised, same labels" in scores.verdict()


def test_the_verdict_without_controls_says_nothing():
    assert "nothing can be claimed" in Scores.of([measured("unlabeled", first(0.6))]).verdict()


def test_chance_wins_are_claimed_in_few_of_many_ties():
    generator = torch.Generator().manual_seed(0)
    claims = 0
    for _ in range(100):
        raw, ours = torch.rand(2, 5, 200, generator=generator) < 0.7
        claims += "beats" in Scores.of([measured("raw", raw, 5), measured("unlabeled", ours, 5)]).verdict()
    assert claims <= 6


def test_the_table_has_a_row_for_each_feature_and_a_column_for_each_number_of_labels():
    rows = [
        measured(features, first(share, draws=1 if count == "all" else 5), count)
        for count in (1, "all")
        for features, share in (("raw", 0.5), ("unlabeled", 0.75))
    ]
    title, header, raw, ours = Scores.of(rows).table().splitlines()
    assert "400 test samples" in title
    assert header.split() == ["labels", "per", "class", "1", "all"]
    assert raw.startswith("raw input")
    assert "50.0 ± 0.0" in raw
    assert "75.0 [" in ours
    assert len(header) == len(raw) == len(ours)


def test_scores_survive_a_file(tmp_path):
    scores = Scores.of([measured("raw", first(0.5)), measured("unlabeled", first(0.75))])
    scores.to_json(tmp_path / "scores.json")
    again = Scores.from_json(tmp_path / "scores.json")
    assert again.records == scores.records
    assert again.verdict() == scores.verdict()
    assert again.best["value"] == 0.75


def test_scores_say_what_they_were_measured_on_and_old_files_still_open(tmp_path):
    file, about = tmp_path / "scores.json", {"data": "digits", "note": "the moon was full"}
    scores = Scores.of([measured("unlabeled", first(0.75))], about=about)
    scores.to_json(file)
    assert json.loads(file.read_text()) == {**about, "records": scores.records}
    assert Scores.from_json(file).about == about
    assert Scores.from_json(file).verdict().endswith("\nNote that the moon was full.")
    file.write_text(json.dumps(scores.records))
    assert (Scores.from_json(file).records, Scores.from_json(file).about) == (scores.records, {})


def test_the_title_of_neighbours_holds_for_every_column():
    rows = [
        Measurement("knn", features, first(0.5).float(), labels_per_class=count, detail=detail)
        for count, k in ((1, 3), ("all", 20))
        for features, detail in (("unlabeled", f"k={k}, T=0.07, centred"), ("supervised", "300 steps"))
    ]
    assert "knn (k=3 or 20, T=0.07, centred): accuracy" in Scores.of(rows).table()
