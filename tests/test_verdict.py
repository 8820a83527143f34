"""One verdict for command line and page, which names what was measured and claims no more."""

import html
import itertools
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from unlabeled.evaluation import Scores
from unlabeled.evaluation.verdict import Evaluated, comparisons, headline, labels, lead, verdict
from unlabeled.reporting import page
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.evaluations import rounds

CONTROLS = ("raw", "random", "rescaled", "supervised")
WORDS = {
    "raw": "raw input",
    "random": "random weights",
    "rescaled": "rescaled random weights",
    "supervised": "supervised, same labels",
}
ENDS = {"won": (0.1, 0.2), "lost": (-0.2, -0.1), "open": (-0.1, 0.2), "unknown": (None, None)}


def ours(**changes: Any) -> dict[str, Any]:
    return {"probe": "linear", "features": "unlabeled", "layer": None, "labels_per_class": "all"} | {
        "value": 0.5, "low": 0.4, "high": 0.6, "units": 40, "samples": 40, "counted": "test samples",
    } | changes  # fmt: skip


def control(features: str, outcome: str, **changes: Any) -> dict[str, Any]:
    low, high = ENDS[outcome]
    margin = 0.15 if low is None else (low + high) / 2  # type: ignore[operator]
    return ours(features=features, value=0.5 - margin) | {
        "margin": margin, "margin_low": low, "margin_high": high,
    } | changes  # fmt: skip


def on_the_page(records: list[dict[str, Any]]) -> str:
    run = SimpleNamespace(
        path="runs/a", config={"method": "simclr"}, history=[], skipped=[], encoder=nn.Linear(2, 2)
    )
    entries = [Entry(run, [{"records": records}], None)]
    text = page.render("verdict.html", entries=entries, caveats={})
    return html.unescape(" ".join(re.findall(r'<(?:li|p class="note")>(.*?)</', text)))


def outcome(stands: tuple[str, ...]) -> str:
    for one in ("lost", "unknown", "open"):
        if one in stands:
            return one
    return "won"


@pytest.mark.parametrize("names", [c for n in range(5) for c in itertools.combinations(CONTROLS, n)])
def test_page_and_command_line_say_the_same_with_any_controls(names: tuple[str, ...]) -> None:
    for stands in itertools.product(ENDS, repeat=len(names)):
        records = [*map(control, names, stands), ours()]
        said = Scores(records).verdict()
        assert said == verdict(records) and on_the_page(records) == said.replace("\n", " ")
        for name, word in WORDS.items():
            assert (word in said.replace(WORDS["rescaled"], "") or name == "rescaled") == (
                name in names or name == "rescaled"
            ), said
        if not names:
            assert said == "No control was measured, so nothing can be claimed."
            continue
        assert [one.outcome for one in comparisons(records)] == [outcome(stands)]
        assert ("beats every control beyond noise" in said) == (set(stands) == {"won"})
        assert ("loses with" in said) == ("lost" in stands)


def test_the_headline_counts_every_column_of_all_evaluations_once_with_its_worst_lead() -> None:
    first = [control("raw", "lost"), ours()]
    second = [control("random", "won"), ours()]
    other = [control("random", "won", probe="knn"), ours(probe="knn")]
    assert headline([Evaluated("a", first), Evaluated("a", second), Evaluated("a", other)]) == (
        "In 3 evaluations with 2 comparisons, unlabeled beats every control beyond noise in 1, loses in 1. "
        "Controls: raw input (in 1); random weights."
    )
    # The same column on other data is another one; a later win hides no earlier loss.
    assert "3 comparisons, unlabeled beats every control beyond noise in 1, loses in 2." in headline(
        [Evaluated("a", second), Evaluated("a", first), Evaluated("b", first), Evaluated("b", other)]
    )
    assert headline([Evaluated("a", [ours()])]) == ""


def test_the_headline_counts_features_apart_and_no_win_over_a_control_that_was_not_measured() -> None:
    lost, won = [control("raw", "lost"), ours()], [control("raw", "won"), ours()]
    named = [Evaluated("a", lost), Evaluated("a", lost, "layer2:whiten"), Evaluated("a", won, "layer2")]
    assert "with 3 comparisons, unlabeled beats every control beyond noise in 1, loses in 2." in headline(
        named
    )
    missing = [["linear", None, "all", "supervised"], ["knn", None, "all", "raw"]]
    said = headline([Evaluated("a", won, missing=missing), Evaluated("b", lost, missing=missing)])
    assert "loses in 1, cannot be judged in 1. Controls: raw input." in said
    whole = [control("supervised", "won"), ours()]  # measured by then
    assert "beats every control beyond noise in 1." in headline(
        [Evaluated("a", won, missing=missing), Evaluated("a", whole)]
    )


def test_the_page_names_the_features_of_verdicts_where_there_are_several() -> None:
    won, lost = [control("raw", "won"), ours()], [control("raw", "lost"), ours()]
    run = SimpleNamespace(
        path="a",
        config={"settings": {"features": "contrast"}},
        history=[],
        skipped=[],
        encoder=nn.Linear(2, 2),
    )
    about = {"data": "digits", "options": {}}
    evaluations = [about | {"records": won, "options": {"features": "layer2"}}, about | {"records": lost}]
    entries = [Entry(run, evaluations, None)]
    text = page.render("verdict.html", entries=entries, caveats={})
    assert re.findall("<h4>(.*?)</h4>", text) == [
        "On digits, features layer2",
        "On digits, features contrast",
    ]
    assert [one.heading for one in rounds(entries)] == [
        "digits · features layer2",
        "digits · features contrast",
    ]
    entries = [Entry(run, [about | {"records": won}, about | {"records": lost}], None)]
    assert "features" not in page.render("verdict.html", entries=entries, caveats={})


def test_all_columns_are_judged_and_named() -> None:
    records = [
        record | {"labels_per_class": count}
        for count, stands in ((1, "won"), (5, "open"), (10, "lost"))
        for record in (control("raw", stands), ours())
    ]
    assert verdict(records).splitlines() == [
        "linear: unlabeled beats every control beyond noise with 1 label per class (+15.0).",
        "linear: unlabeled is within noise of the best control with 5 labels per class (+5.0).",
        "linear: unlabeled loses with 10 labels per class (-15.0 to raw input).",
        "In parentheses: points of accuracy above the best control.",
        "Controls: raw input.",
    ]


def test_columns_of_one_probe_and_claim_share_a_line() -> None:
    records = [
        record | {"probe": probe, "labels_per_class": count}
        for probe in ("knn", "linear")
        for count in (1, "10%", "all")
        for record in (control("raw", "won"), ours())
    ]
    columns = "1 (+15.0), 10% (+15.0), all (+15.0) labels per class"
    assert verdict(records).splitlines()[:2] == [
        f"{probe}: unlabeled beats every control beyond noise with {columns}." for probe in ("knn", "linear")
    ]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([1], "1 label per class"),
        ([1000], "1,000 labels per class"),
        (["1%"], "1% of the labels"),
        (["all"], "all labels"),
        ([1, 10, "all"], "1, 10, all labels per class"),
    ],
)
def test_numbers_of_labels_in_words(counts: list[int | str], words: str) -> None:
    assert labels(counts) == words


def test_a_mixed_column_is_lost_and_says_what_was_beaten() -> None:
    said = verdict([control("raw", "won"), control("supervised", "lost"), ours()])
    assert (
        "linear: unlabeled loses with all labels (-15.0 to supervised, same labels; but ahead of raw input)."
        in said
    )


def test_controls_are_named_by_probe_where_they_differ() -> None:
    records = [control("raw", "won"), ours()]
    records += [control("supervised", "won", probe="finetune"), ours(probe="finetune")]
    said = verdict(records).splitlines()
    assert (
        "Controls of linear: raw input." in said and "Controls of finetune: supervised, same labels." in said
    )


def test_tasks_are_judged_in_their_units_and_directions() -> None:
    task = {"probe": "perplexity", "unit": "bits per byte", "better": "lower"}
    assert lead(ours(**task, low=1.0, high=1.1), ours(**task, low=1.2, high=1.3)) == "ahead"
    assert lead(ours(**task, low=1.2, high=1.3), ours(**task, low=1.0, high=1.1)) == "behind"
    records = [control("gzip -9", "won", **task), ours(**task)]
    assert "perplexity: unlabeled beats every control beyond noise in bits per byte (+0.150)." in verdict(
        records
    )


def test_without_margins_the_intervals_must_lie_apart() -> None:
    for low, high, stands in ((0.1, 0.3, "ahead"), (0.3, 0.45, "open"), (0.7, 0.9, "behind")):
        assert lead(ours(), ours(features="raw", low=low, high=high)) == stands
    assert lead(ours(), ours(features="raw", low=None, high=None)) == "unknown"
    assert lead(ours(low=float("nan")), ours(features="raw")) == "unknown"


def test_one_unit_is_never_a_win_and_few_are_confessed() -> None:
    single = {"units": 1, "counted": "trajectories", "probe": "zones", "unit": "zones found"}
    said = verdict([control("random", "unknown", **single), ours(**single)])
    assert "zones: unlabeled cannot be judged in zones found (+0.150; no interval of 1 trajectory)." in said
    few = single | {"units": 6}
    assert "Intervals of zones rest on 6 trajectories only." in verdict(
        [control("random", "won", **few), ours(**few)]
    )


def test_of_many_layers_only_the_one_chosen_on_training_labels_counts() -> None:
    layer = {"probe": "layers"}
    records = [
        record | {"layer": name}
        for name, stands in (("s1", "won"), ("s2", "lost"), ("chosen", "open"))
        for record in (control("raw", stands, **layer), ours(**layer))
    ]
    said = verdict(records)
    assert "layers chosen: unlabeled is within noise of the best control with all labels" in said
    assert "beats" not in said and "loses" not in said


def test_scores_that_say_nothing_of_their_controls_still_open() -> None:
    torch.manual_seed(0)
    old = [
        {k: v for k, v in r.items() if k not in ("units", "counted")} for r in (control("raw", "won"), ours())
    ]
    assert "beats every control beyond noise" in verdict(old)


@pytest.mark.parametrize(("units", "outcome"), [(2, "unknown"), (4, "unknown"), (5, "won")])
def test_two_books_beat_nothing_beyond_noise(units: int, outcome: str) -> None:
    books = {"units": units, "counted": "books"}
    records = [control("raw", "won", **books), ours(**books)]
    assert [one.outcome for one in comparisons(records)] == [outcome]
    assert ("beyond noise" in verdict(records)) == (outcome == "won")
    assert ("only 2 books" in verdict(records)) == (units == 2)
    remedy = "To judge linear, test on at least 5 books, or name with --group which samples belong together."
    assert (remedy in verdict(records).splitlines()) == (units < 5)
