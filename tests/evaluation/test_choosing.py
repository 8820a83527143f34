"""Choosing: how candidates are written, scored and halved, what is said, and what failures and interruptions do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unlabeled
from unlabeled.evaluation import candidates, choosing
from unlabeled.evaluation.candidate_scores import (
    Score,
    best,
    by_criterion,
    by_labels,
    cross_validated,
    margin,
)
from unlabeled.evaluation.choice import Choice, Entry, Round, Terms

SMALL: dict[str, Any] = {"encoder": "conv4", "image_size": 8, "batch_size": 16}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch):
    """Steps that take no time, so that rounds have the same lengths whatever else the machine does."""
    from unlabeled.training import duration

    ticks = iter(range(10**9))
    monkeypatch.setattr(choosing, "clock", lambda: float(next(ticks)))
    times = iter(range(10**9))
    monkeypatch.setattr(duration, "clock", lambda: float(next(times)))


def images(count: int = 48) -> Tensor:
    """Dark and bright images, unlabelled."""
    bright = torch.arange(count) % 2
    return (torch.randint(60, (count, 3, 8, 8)) + 120 * bright[:, None, None, None]).to(torch.uint8)


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
    features, labels = torch.randn(60, 200), torch.randint(2, (60,))
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


def test_the_best_is_chosen_and_all_runs_are_kept(tmp_path: Path):
    choice = played(tmp_path / "out")
    assert {one.name for one in choice.entries} == {"rotnet", "autoencoder"}
    assert choice.winner.rounds[-1].score == max(one.rounds[-1].score for one in choice.entries)
    assert all((one.folder / "encoder.safetensors").is_file() for one in choice.entries)
    stored = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert stored["winner"] == choice.winner.name and stored["candidates"][0]["rounds"][0]["steps"] >= 10
    words = str(choice)
    assert "is chosen, by 24 of 24 labels" in words and "probability" in words and "--resume" in words
    again = played(tmp_path / "out")  # nothing is done again
    assert again.as_json() == choice.as_json()
    with pytest.raises(ValueError, match="holds a choice with seed 0, not 1"):
        played(tmp_path / "out", seed=1)


def test_a_failed_candidate_is_told_and_the_rest_go_on(tmp_path: Path):
    lines: list[str] = []
    choice = played(
        tmp_path / "out", methods=("rotnet", "mae"), progress=lines.append
    )  # mae needs a transformer
    assert choice.winner.name == "rotnet" and choice.ranking[-1].failure
    assert any(line.startswith("mae failed and is left out: encoder must") for line in lines)
    assert "mae failed and was left out" in str(choice) and choice.margin is None
    with pytest.raises(ValueError, match="all failed"):
        played(tmp_path / "other", methods=("simmim", "mae"))


def test_an_interrupted_choice_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    methods = ("rotnet", "autoencoder", "denoising", "simsiam")
    whole = played(tmp_path / "whole", methods=methods)
    calls, pretrain = 0, choosing.pretrain

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # in the second round
            on_step = keywords["on_step"]

            def stop(step: int) -> None:
                on_step(step)
                if step == keywords["steps"] - 3:
                    raise KeyboardInterrupt

            keywords["on_step"] = stop
        return pretrain(*arguments, **keywords)

    monkeypatch.setattr(choosing, "pretrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        played(tmp_path / "parts", methods=methods)
    parts = played(tmp_path / "parts", methods=methods)
    assert calls == 7  # four, the one that was interrupted, its rest, and the other finalist
    for one, other in zip(whole.entries, parts.entries, strict=True):
        assert [(done.steps, done.score) for done in one.rounds] == [
            (done.steps, done.score) for done in other.rounds
        ]
        assert len(one.rounds) == (2 if one in whole.finalists else 1)


def test_without_labels_it_says_that_the_criterion_is_not_to_be_trusted_alone(tmp_path: Path):
    choice = played(tmp_path / "out", labels=None, criterion="rankme")
    assert choice.terms.criterion == "rankme" and "not to be trusted alone" in str(choice)
    with pytest.raises(ValueError, match="criterion must be left out with labels"):
        played(tmp_path / "other", criterion="rankme")


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
