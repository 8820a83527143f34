"""Choosing: how candidates are written, scored and halved, what is said, and what failures and interruptions do."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unlabeled
from unlabeled.evaluation import candidate_scores, candidates, choosing
from unlabeled.evaluation.candidate_scores import (
    Score,
    best,
    by_criterion,
    by_labels,
    cross_validated,
    margin,
)
from unlabeled.evaluation.choice import AGREEMENT, Choice, Entry, Round, Terms
from unlabeled.progress import telling
from unlabeled.training import duration

SMALL: dict[str, Any] = {"encoder": "conv4", "image_size": 8, "batch_size": 16}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch):
    """Clocks that tick with each look: rounds are as long whatever else the machine does."""
    monkeypatch.setattr(candidate_scores, "REPEATS", 1)
    ticks = iter(range(10**9))
    monkeypatch.setattr(choosing, "clock", lambda: float(next(ticks)))
    times = iter(range(10**9))
    monkeypatch.setattr(duration, "clock", lambda: float(next(times)))


def images(count: int = 48) -> Tensor:
    """Dark and bright images, unlabelled, always the same."""
    noise = torch.randint(200, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return (noise + 10 * (torch.arange(count) % 2)[:, None, None, None]).to(torch.uint8)


def labelled(count: int = 24) -> unlabeled.data.Data:  # type: ignore[name-defined]
    data = unlabeled.open_data(images(count))
    data.labels, data.classes = torch.arange(count) % 2, ["dark", "bright"]
    return data


def played(out: Path, **terms: Any) -> Choice:
    return unlabeled.choose(
        images(),
        out=out,
        minutes=1.0,
        **{"labels": labelled(), "methods": ("rotnet", "autoencoder"), **SMALL, **terms},
    )


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (3, [3]), (4, [4, 2]), (8, [8, 3]), (10, [10, 4, 2])])
def test_a_third_goes_on_until_three_are_left(count: int, sizes: list[int]):
    assert choosing.rounds(count) == sizes


def test_candidates_are_methods_with_settings_and_recipes():
    one, other = candidates.parse(["simclr:recipe:temperature=0.5", "rotnet"], "image", False, {"lr": 0.1})
    assert one.method == "simclr" and one.settings["temperature"] == 0.5 and one.settings["crop"] == 0.2
    assert "epochs" not in one.settings and "lr" not in one.settings and not other.settings
    assert len(candidates.parse([], "image", False, {})) == 8
    assert len(candidates.parse([], "image", False, {"encoder": "resnet10"})) == 7  # auto chooses networks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simclr"], "at least 2 to choose among, got simclr"),
        (["simclr", "simclr"], "every candidate once, got simclr"),
        (["simclr", "bert"], "data of kind image, got bert, for text"),
        (["simclr", "rotnet:temperature=1"], "a setting in rotnet:temperature=1 must be one of"),
        (["simclr", "rotnet:epochs=3"], "got epochs"),
        (["simclr", "rotnet:fast"], "METHOD:recipe:SETTING=VALUE"),
        (["simclr", "auto:recipe"], "must name auto alone"),
        (["simclr", "simclear"], "no method is called simclear"),
    ],
)
def test_bad_candidates_are_refused(words: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        candidates.parse(words, "image", False, {})


def test_no_sample_is_predicted_by_its_own_label_or_group():
    features, labels = torch.randn(60, 100), torch.randint(2, (60,))
    assert abs(float(cross_validated(features, labels, None).mean()) - 0.5) < 0.2  # 1 if it saw them
    groups = torch.arange(60) // 6
    telling = torch.nn.functional.one_hot(groups).float()  # tells the group, which tells the label
    assert cross_validated(telling, groups % 2, None).mean() == 1
    assert cross_validated(telling, groups % 2, groups).mean() < 0.7
    assert cross_validated(features + 5 * labels[:, None], labels, None).mean() > 0.95


def test_probabilities_and_margins_are_of_the_same_resamples():
    noise = torch.randn(4000, dtype=torch.double)
    first, second = Score(0.52, 0.52 + noise), Score(0.5, 0.5 + noise)  # noise that both share cancels
    assert best([first, second]) == [1.0, 0.0]
    assert best([first, first]) == [0.5, 0.5]
    assert margin(first, second) == pytest.approx((0.02, 0.02, 0.02))
    other = Score(0.5, 3.0 + torch.randn(4000, dtype=torch.double))  # of halves, whose mean is another
    assert best([first, other])[0] == pytest.approx(0.505, abs=0.03)
    value, low, high = margin(first, other)
    assert value == pytest.approx(0.02) and high - low == pytest.approx(2 * 1.96 * 2**0.5, abs=0.2)


def test_resamples_take_whole_groups():
    data = labelled(40)
    data.groups = torch.arange(40) // 20
    features = torch.cat(
        [data.labels[:20, None].float().repeat(1, 4), torch.zeros(20, 4)]
    )  # one group is readable
    score = by_labels(lambda batch, layer: features[batch["index"]], data)
    assert len(score.resampled.unique()) <= 3


@pytest.mark.parametrize("name", ["rankme", "alpha", "lidar", "silhouette"])
def test_criteria_are_higher_for_the_richer_features(name: str):
    encoder = unlabeled.encoders.build("conv4", image_size=8, in_channels=3).eval()  # type: ignore[attr-defined]
    data = unlabeled.open_data(images(60))
    score = by_criterion(name, encoder, lambda batch, layer: encoder.features(encoder.inputs(batch)), data)
    assert torch.isfinite(score.resampled).all() and score.resampled.std() > 0
    assert (
        score.value
        == by_criterion(
            name, encoder, lambda batch, layer: encoder.features(encoder.inputs(batch)), data
        ).value
    )


def test_a_failed_candidate_is_told_and_the_rest_go_on(tmp_path: Path):
    lines: list[str] = []
    choice = played(
        tmp_path / "out", methods=("rotnet", "mae"), progress=lines.append
    )  # mae needs a transformer
    assert choice.winner.name == "rotnet" and choice.ranking[-1].failure
    assert any(line.startswith("mae failed and is skipped: encoder must") for line in lines)
    assert "mae failed and was skipped" in str(choice) and choice.margin is None
    with pytest.raises(ValueError, match="all failed"):
        played(tmp_path / "other", methods=("simmim", "mae"))


def test_a_time_that_will_not_do_is_said_after_the_first_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(choosing, "clock", partial(next, itertools.count(0.0, 20.0)))
    lines: list[str] = []
    played(tmp_path / "run", progress=lines.append)
    (place,) = (number for number, line in enumerate(lines) if line.startswith("this will take about "))
    assert "not 60 s: by the first, each of 2 candidates takes " in lines[place]
    assert lines[place - 1].startswith("rotnet: ")
    assert any(line.startswith("autoencoder: ") for line in lines[place:])


@pytest.mark.parametrize(
    ("seconds", "sizes", "words"),
    # 8 x 5 + 0.85 x 20 + 3 x 1 = 60, no more than was asked for; 8 x 15 + 0.85 x 6 + 3 x 1 = 128.1
    [
        (5.0, [8, 3], ""),
        (15.0, [8, 3], "about 2 min, not 60 s: by the first, each of 8 candidates takes 15 s"),
    ],
)
def test_the_time_of_all_rounds_is_estimated_by_the_first_candidate(
    seconds: float, sizes: list[int], words: str, tmp_path: Path
):
    choice = Choice(tmp_path, Terms("DATA", None, None, "rankme", 1.0, (), 0, {}), [])
    lines: list[str] = []
    with telling(lines.append):
        choosing._Halving(choice, "DATA", None, "cpu", True, {})._warn(
            Round(10, seconds, 1.0, 0.1, 0.5), sizes
        )
    assert len(lines) == bool(words) and words in "".join(lines)


def test_the_best_goes_on_and_an_interrupted_choice_comes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(choosing, "LAST", 1)  # two candidates, then one
    whole = played(tmp_path / "whole")
    assert [len(one.rounds) for one in whole.ranking] == [2, 1]
    assert whole.ranking[0].rounds[0].score >= whole.ranking[1].rounds[0].score
    assert all((one.folder / "encoder.safetensors").is_file() for one in whole.entries)
    stored = json.loads((tmp_path / "whole" / "choice.json").read_text())
    assert stored["winner"] == whole.winner.name and stored["candidates"][0]["rounds"][0]["steps"] >= 10
    words = str(whole)
    assert "is chosen, by 24 of 24 labels" in words and "--resume" in words
    calls, pretrain = 0, choosing.pretrain

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # in the second round
            on_step = keywords["on_step"]

            def stop(step: int) -> None:
                on_step(step)
                if step == keywords["steps"] - 3:
                    raise KeyboardInterrupt

            keywords["on_step"] = stop
        return pretrain(*arguments, **keywords)

    monkeypatch.setattr(choosing, "pretrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        played(tmp_path / "parts")
    parts = played(tmp_path / "parts")
    assert calls == 4  # both, the second round of one, and its rest
    for one, other in zip(whole.entries, parts.entries, strict=True):
        assert [(a.steps, a.score) for a in one.rounds] == [(a.steps, a.score) for a in other.rounds]
    again = played(tmp_path / "parts")  # nothing is done again
    assert calls == 4 and again.as_json() == parts.as_json()
    with pytest.raises(ValueError, match="holds a choice with seed 0, not 1"):
        played(tmp_path / "parts", seed=1)


def test_a_criterion_and_labels_exclude_each_other(tmp_path: Path):
    with pytest.raises(ValueError, match="criterion must be left out with labels"):
        played(tmp_path / "out", criterion="rankme")


def test_without_labels_it_says_that_the_criterion_is_not_to_be_trusted_alone(tmp_path: Path):
    entries = [Entry(name, "simclr", {}, tmp_path / name, [Round(10, 1, 0.1, 0.1, 20.0)]) for name in "ab"]
    choice = Choice(tmp_path, Terms("DATA", None, None, "rankme", 1.0, (), 0, {}), entries)
    for number, one in enumerate(entries):
        Score(20.0 - number, 20.0 - number + torch.randn(50).double()).write(choice.score_file(one, 0))
    words = str(choice)
    assert "a is chosen, by RankMe, without labels: 20" in words and "not to be trusted alone" in words
    assert {*AGREEMENT} == {*candidate_scores.CRITERIA} and "0.27 [-0.33, 0.80] on CIFAR-10" in words
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert all(number in page for pair in AGREEMENT.values() for number in pair)
    assert "probability of" in words and "which of the two is better is open" in words


def test_the_ranking_puts_later_rounds_first_and_failures_last(tmp_path: Path):
    def entry(name: str, *scores: float, failure: str = "") -> Entry:
        return Entry(
            name, name, {}, tmp_path / name, [Round(10, 1, 0.1, 0.1, one) for one in scores], failure
        )

    terms = Terms("DATA", None, "all", None, 1.0, (), 0, {})
    entries = [entry("a", 0.9), entry("b", 0.5, 0.6), entry("c", failure="no"), entry("d", 0.4, 0.7)]
    choice = Choice(tmp_path, terms, entries)
    assert [one.name for one in choice.ranking] == ["d", "b", "a", "c"]
    assert [one.name for one in choice.finalists] == ["d", "b"]
