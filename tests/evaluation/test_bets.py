"""The bet: what its cells say together, the words for them, and a bet that is killed twice and goes on."""

import json
import math
import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import unlabeled
from unlabeled import cli
from unlabeled.data import from_images, open_data
from unlabeled.evaluation import bet_data, bets, cells
from unlabeled.evaluation.bet_words import SUPERVISED, Bet, Terms, called
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.labels_worth import Worth
from unlabeled.evaluation.measurement import Measurement, record_of
from unlabeled.evaluation.supervised_pretraining import Supervised
from unlabeled.reporting.bet_page import write_page

pytestmark = pytest.mark.usefixtures("small_networks")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def accuracies(value: float, features: str = "unlabeled", draws: int = 3, samples: int = 300) -> Measurement:
    """Predictions that are correct with a probability, on samples of unequal difficulty."""
    difficulty = torch.rand(samples, generator=generator())
    noise = 0.02 * torch.rand(draws, samples, generator=generator(1))
    return Measurement("classification", features, (difficulty + noise < value).double(), labels=samples)


def statistic(values: Tensor) -> Measurement:
    """The standard deviation of values with what it is without each unit, by two seeds."""
    lefts = [leave_one_out(lambda rows, own=own: float(own[rows].std()), len(own)) for own in values]
    each = [
        Measurement(
            "segmentation", "unlabeled", torch.tensor([[value]]).double(), unit="mean IoU", left_out=left
        )
        for value, left in lefts
    ]
    return cells.together(each)


def test_differences_of_means_and_of_statistics_are_the_margins_of_scores() -> None:
    first, second = accuracies(0.8), accuracies(0.75, "random")
    record = record_of(second, first)
    found = cells.contrast([(1, first), (-1, second)], (-1.0, 1.0))
    assert (found.value, found.low, found.high) == pytest.approx(
        (record["margin"], record["margin_low"], record["margin_high"])
    )
    draws = torch.rand(2, 2, 30, generator=generator()).double()
    first, second = statistic(draws[0]), statistic(draws[1] ** 2)
    record = record_of(replace(second, features="random"), first)
    found = cells.contrast([(1, first), (-1, second)])
    assert (found.value, found.low, found.high) == pytest.approx(
        (record["margin"], record["margin_low"], record["margin_high"])
    )


def test_weights_of_a_contrast_are_those_of_a_mean() -> None:
    ones = [accuracies(value) for value in (0.3, 0.5, 0.9)]
    weights = [0.5, -2.0, 1.5]
    found = cells.contrast([*zip(weights, ones)])
    assert found.value == pytest.approx(sum(w * float(one.values.mean()) for w, one in zip(weights, ones)))


def test_a_file_holds_all_of_a_measurement(tmp_path: Path) -> None:
    pictures = {"true": torch.rand(2, 3, 4, 5, generator=generator())}
    one = statistic(torch.rand(1, 9, generator=generator()).double())
    for whole in (
        replace(one, pictures=pictures, by_class={"a": 0.5}, bounds=(0.0, 1.0)),
        replace(accuracies(0.4), groups=torch.arange(300) // 3, detail="some"),
    ):
        cells.write(tmp_path / "cell.json", whole)
        again = cells.read(tmp_path / "cell.json")
        for name, value in vars(whole).items():
            if name not in ("values", "left_out", "groups", "pictures"):
                assert getattr(again, name) == value, name
        assert torch.equal(again.values, whole.values)
        assert (again.left_out is None) == (whole.left_out is None)
        if whole.left_out is not None and again.left_out is not None:
            assert torch.equal(again.left_out.values, whole.left_out.values)
            assert again.left_out.units == whole.left_out.units
            assert (again.pictures["true"] - pictures["true"]).abs().max() < 0.003
        else:
            assert (
                again.groups is not None
                and whole.groups is not None
                and torch.equal(again.groups, whole.groups)
            )
        (tmp_path / "cell.safetensors").unlink(missing_ok=True)


def played(scores: dict[str, list[float]], samples: int = 300, **terms: Any) -> Bet:
    """A bet of three budgets with these accuracies, and a control."""
    found = {
        (features, steps, samples): accuracies(value, features, samples=samples)
        for features, values in scores.items()
        for steps, value in zip((100, 200, 400), values)
    }
    found["random", 0, samples] = accuracies(0.3, "random", samples=samples)
    return Bet(Path(), Terms("digits", "digits", **terms), found)


def test_a_winner_is_named_only_beyond_noise() -> None:
    for ours, theirs, words in (
        (0.8, 0.6, "pre-training without labels won; without labels"),
        (0.6, 0.8, "pre-training with labels won; without labels"),
        (0.7, 0.7, "neither won beyond noise"),
    ):
        line = played({"unlabeled": [0.5, 0.6, ours], SUPERVISED: [0.5, 0.6, theirs]}).lines()[0]
        assert line.startswith("Classification with all 300 labelled samples: ") and words in line
    line = played({"unlabeled": [0.5, 0.6, 0.9], SUPERVISED: [0.5, 0.6, 0.1]}, samples=4).lines()[0]
    assert "it cannot be judged" in line


def test_the_trend_over_the_budgets_is_that_of_a_straight_line() -> None:
    text = "\n".join(played({"unlabeled": [0.4, 0.6, 0.8], SUPERVISED: [0.6, 0.6, 0.6]}).lines())
    assert "more budget would probably favour pre-training without labels" in text
    assert "at 800 steps" in text
    lead = [accuracies(0.8), accuracies(0.4)]
    gain = 100 * float(lead[0].values.mean() - lead[1].values.mean()) / 2
    assert (
        f"without labels by +{gain:.1f} [" in text
    )  # the slope through three points is that of the outer two
    text = "\n".join(played({"unlabeled": [0.6, 0.6, 0.6], SUPERVISED: [0.6, 0.6, 0.6]}).lines())
    assert "no trend in the difference beyond noise" in text


def test_labels_are_worth_something_only_where_pretraining_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, scratch = [10, 20, 40, 80], [0.2, 0.4, 0.6, 0.8]
    found = {("random", 0, count): accuracies(score, "random") for count, score in zip(counts, scratch)}
    found |= {
        ("unlabeled", 50, count): accuracies(min(0.9, score + 0.2)) for count, score in zip(counts, scratch)
    }
    done = Bet(Path(), Terms("digits", "digits", labels=counts), found)
    worths = done.worths("unlabeled")
    assert [one.labels for one in worths] == counts and worths[0].alike == pytest.approx(20, rel=0.1)
    text = "\n".join(done.lines())
    assert "With 10 labels after pre-training without labels it is as good as the best control with" in text
    assert (
        "With 80 labels after pre-training without labels it is as good as the best control with more than 80"
        in text
    )
    assert (
        "neither won" not in text and "without labels won" not in text
    )  # nothing was pre-trained with labels
    worths = [Worth(10, 12.0, 0.0, math.inf), Worth(20, 30.0, 15.0, 40.0), Worth(80, 60.0, 0.0, math.inf)]
    monkeypatch.setattr(Bet, "worths", lambda *_: worths)
    text = "\n".join(done.lines())
    assert (
        "With 10 or 80 labels after pre-training without labels, how many labels that was worth cannot"
        in text
    )
    assert "With 20 labels after pre-training without labels it is as good as" in text


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"task": "knitting"}, "task must be one of classification"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"size": 64}, "size must come with the task segmentation or detection, got 64"),
        ({"train": "head"}, "train must be one of all, frozen"),
        ({"epochs": 3}, "epochs must be left out, as budgets are steps, got 3"),
        ({"method": "apc"}, "method must learn from images for a bet, got apc"),
        ({"labels": [99999]}, "labels must be at most the 1297 labelled training images, got 99999"),
        ({"target": None}, "target must be a name or a path, got none"),
        ({"config": "bad.toml"}, "config must be a bet.toml"),
        ({"config": "none.toml"}, "config must be the bet.toml of a bet, got .*none.toml, which is no file"),
        ({"encoder": "torchvision-none"}, "encoder of torchvision must be one of .* got none"),
    ],
)
def test_bad_terms_are_refused_before_anything_is_trained(
    terms: dict[str, Any], words: str, tmp_path: Path
) -> None:
    if "config" in terms:
        (tmp_path / "bad.toml").write_text("= 3")
        terms = {"config": tmp_path / terms["config"]}
    said: list[str] = []
    own = {"pretraining": "digits", "target": "digits", "out": tmp_path / "bet", "progress": said.append}
    with pytest.raises(ValueError, match=words):
        bets.bet(**own | terms)
    assert said == []
    assert not [*tmp_path.glob("bet/unlabeled*")]


def squares(root: Path) -> Path:
    """Bright squares on noise, with their masks."""
    values = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(5):
            image, mask = values.integers(0, 80, (32, 40), dtype=np.uint8), np.zeros((32, 40), np.uint8)
            top, left = values.integers(0, 16, 2)
            image[top : top + 12, left : left + 16], mask[top : top + 12, left : left + 16] = 250, 1
            for name, pixels in (("images", image), ("masks", mask)):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / part / name / f"{part}{number}.png")
    return root


def test_tasks_train_on_the_target_and_the_page_shows_their_predictions(tmp_path: Path) -> None:
    done = bets.bet(
        "digits", squares(tmp_path / "squares"), task="segmentation", budgets=[1], seeds=2, size=24, steps=1,
        encoder="conv4", batch_size=16, out=tmp_path / "bet",
    )  # fmt: skip
    names = ["unlabeled", SUPERVISED, "random", "rescaled"]
    guess = "most frequent class"
    assert [features for features, _, _ in done.cells] == [*names[:2], guess, *names[2:]]
    assert done.counts == [5] and f"all 5 labelled samples, difference from {guess}: " in str(done)
    for features in names:
        one = done.get(features, 5)
        assert (
            one is not None
            and one.unit == "mean IoU"
            and one.values.shape == (2, 1)
            and one.left_out is not None
        )
        assert {*one.pictures} == {"true", features}
    text = write_page(done).read_text()
    assert (
        text.count("<img") == 5 * 4
        and "mean IoU, by labelled samples" in text
        and "rescaled random weights" in text
    )
    assert "Segmentation with all 5 labelled samples" in str(done)
    with pytest.raises(ValueError, match="data must have boxes"):
        bets.bet("digits", tmp_path / "squares", task="detection", out=tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"labels of at least 2 classes to pre-train with labels, got .*squares with 0"
    ):
        bets.bet(tmp_path / "squares", "digits", out=tmp_path / "another")
    with pytest.raises(ValueError, match=r"data must have labels to evaluate on, got .*squares without any"):
        bets.bet("digits", tmp_path / "squares", out=tmp_path / "third")
    assert not [*tmp_path.glob("third/unlabeled*")]
    with pytest.raises(ValueError, match="holds a bet with batch_size 16, not 8"):
        bets.bet(config=tmp_path / "bet" / "bet.toml", out=tmp_path / "bet", batch_size=8)


@pytest.mark.parametrize(("task", "unit"), [("detection", "AP50"), ("multilabel", "mean AP")])
def test_boxes_are_a_target_and_lines_on_the_progress_name_the_network(
    task: str, unit: str, tmp_path: Path, small_worlds: None
) -> None:
    root, lines = squares(tmp_path / "squares"), []
    for part in ("train", "test"):
        images = [{"id": n, "file_name": f"{part}{n}.png", "width": 40, "height": 32} for n in range(5)]
        boxes = [
            {"image_id": n, "category_id": (n + kind) % 2, "bbox": [4 + 16 * kind, 4, 12, 12]}
            for n in range(5)
            for kind in range(1 + n % 2)
        ]
        kinds = [{"id": 0, "name": "left"}, {"id": 1, "name": "right"}]
        whole = {"images": images, "annotations": boxes, "categories": kinds}
        (root / part / "boxes.json").write_text(json.dumps(whole))
    done = bets.bet(
        "digits", root, task=task, budgets=[1], labels=[3], seeds=1, steps=1, encoder="conv4", batch_size=16,
        out=tmp_path / "bet", progress=lines.append, **({"size": 32} if task == "detection" else {}),
    )  # fmt: skip
    names = ["unlabeled", SUPERVISED, "random", "rescaled"]
    guesses = ["class frequency"] if task == "multilabel" else []
    assert [features for features, _, _ in done.cells] == [*names[:2], *guesses, *names[2:]]
    assert {one.unit for one in done.cells.values()} == {unit} and unit in write_page(done).read_text()
    trained = [line for line in lines if line.startswith(f"{task}, 3 labelled images, ") and "seed 0" in line]
    assert [line.split(", ")[2] for line in trained] == [called(name, 1).split(", ")[0] for name in names]
    assert "1e-" not in str(done)


def test_without_labels_only_their_worth_is_measured(tmp_path: Path) -> None:
    lines: list[str] = []
    done = bets.bet(
        squares(tmp_path / "squares") / "train", "digits", labels=[20, 40], budgets=[1], seeds=1, train="frozen",
        encoder="conv4", image_size=8, out=tmp_path / "bet", progress=lines.append,
    )  # fmt: skip
    assert {features for features, _, _ in done.cells} == {"unlabeled", "random", "rescaled"}
    assert any("has no labels, so nothing was pre-trained with them" in line for line in lines)
    assert "has no labels" in str(done) and "With 20 " in str(done)


def test_fine_tuned_classes_stand_beside_training_from_scratch_too(tmp_path: Path) -> None:
    """Random weights are trained as ours are, and at the full rate; labels are worth against the better one."""
    done = bets.bet(
        "digits",
        "digits",
        labels=[30],
        budgets=[1],
        seeds=1,
        steps=2,
        encoder="conv4",
        batch_size=16,
        out=tmp_path,
    )
    assert {features for features, _, _ in done.cells} == {
        "unlabeled",
        SUPERVISED,
        "random",
        "rescaled",
        "supervised",
    }
    detail = {features: one.detail for (features, _, _), one in done.cells.items()}
    assert detail["random"] == detail["unlabeled"] == "2 steps, rate 0.001, encoder x0.1"
    assert detail["supervised"] == "2 steps, rate 0.001"
    assert "saw labels of these test images" not in str(done)


def test_test_images_that_pretraining_saw_are_counted_and_equal_numbers_of_labels_once(
    tmp_path: Path,
) -> None:
    values = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    terms: dict[str, Any] = {"target": tmp_path / "images", "budgets": [1], "seeds": 1, "train": "frozen"}
    terms |= {"encoder": "conv4", "batch_size": 16, "labels": [32, "all"], "out": tmp_path / "bet"}
    done = bets.bet(tmp_path / "images", **terms)
    assert done.counts == [32] and {len(one.values) for one in done.cells.values()} == {1}
    assert "The encoder was pre-trained on all test images too" in str(done)
    assert "Pre-training with labels saw labels of these test images" in str(done)
    before = scores(tmp_path / "bet")
    for name, damaged in zip(before, ("", "{}", '{"groups": 3}', "[[")):
        (tmp_path / "bet" / "cells" / name).write_text(damaged)
    with pytest.raises(ValueError, match=r"cells.*json must be a score of a bet, got a damaged file"):
        cells.read(tmp_path / "bet" / "cells" / next(iter(before)))
    said: list[str] = []
    bets.bet(tmp_path / "images", **terms, progress=said.append)
    assert scores(tmp_path / "bet") == before
    assert [line.endswith("it is measured again") for line in said if "damaged" in line] == [True] * 4
    Image.fromarray(values.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / "images" / "a" / "0.png")
    with pytest.raises(
        ValueError, match=r"out must be a new folder, got .*bet, which holds a bet on other samples"
    ):
        bets.bet(tmp_path / "images", **terms)


def test_the_content_of_data_is_its_samples_with_their_answers(tmp_path: Path) -> None:
    def contents() -> list[str]:
        opened = [open_data(root / "train", kind="image", annotations=own) for own in ("masks", "boxes")]
        return [bet_data.content(data) for data in opened]

    root = squares(tmp_path / "squares")
    file, box = root / "train" / "boxes.json", {"image_id": 0, "category_id": 0, "bbox": [4, 4, 12, 12]}
    whole = {
        "images": [{"id": 0, "file_name": "train0.png", "width": 40, "height": 32}],
        "annotations": [box],
    }
    whole["categories"] = [{"id": 0, "name": "left"}]
    file.write_text(json.dumps(whole))
    before = contents()
    assert contents() == before and before[0] != before[1]
    box["bbox"] = [4, 4, 12, 13]
    file.write_text(json.dumps(whole))
    changed = contents()
    assert changed[0] == before[0] and changed[1] != before[1]
    mask = np.array(Image.open(root / "train" / "masks" / "train0.png"))
    mask[0, 0] = 1 - mask[0, 0]
    Image.fromarray(mask).save(root / "train" / "masks" / "train0.png")
    assert contents()[0] != before[0]
    labelled = [
        from_images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), labels=torch.tensor(own))
        for own in ([0, 1], [1, 0])
    ]
    assert bet_data.content(labelled[0]) != bet_data.content(labelled[1])


def test_rows_are_called_by_what_was_pretrained_how_long() -> None:
    assert called("random", 0) == "random weights"
    assert called(SUPERVISED, 1000) == "pre-training with labels, 1,000 steps"


WORDS = [
    "bet",
    "digits",
    "digits",
    "--budgets",
    "2",
    "--labels",
    "30,60",
    "--seeds",
    "1",
    "--train",
    "frozen",
]
WORDS += ["--encoder", "conv4", "--batch-size", "16", "--method", "rotnet"]


def run_until(kill: tuple[Any, str, int], out: Path) -> int | None:
    """Exit code of the command in a process that is killed at the nth call of a function."""
    owner, name, calls = kill
    original = getattr(owner, name)

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    def act() -> None:
        setattr(owner, name, deadly)
        cli.main([*WORDS, "--out", str(out)])

    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    process.join(60)
    return process.exitcode


def scores(out: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in sorted((out / "cells").glob("*.json"))}


def test_a_bet_that_is_killed_twice_goes_on_and_ends_as_if_undisturbed(tmp_path: Path, capsys: Any) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "killed"
    assert run_until((cells, "write", 1), out) == -signal.SIGKILL
    assert len(scores(out)) == 1
    assert run_until((Supervised, "forward", 1), out) == -signal.SIGKILL
    kept = {file: file.stat().st_mtime_ns for file in (out / "cells").glob("*.json")}
    assert len(kept) == 2
    with pytest.raises(SystemExit, match="0"):
        cli.main([*WORDS, "--out", str(out)])
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    said = capsys.readouterr().out
    assert "labelled samples" in said and "With 30 " in said and str(out / "bet.html") in said
    assert (out / "bet.html").read_text().count("<svg") >= 1
    whole = unlabeled.bet(config=out / "bet.toml", out=tmp_path / "whole")
    assert scores(out) == scores(tmp_path / "whole") and len(scores(out)) == 8
    assert str(whole) in said
    with pytest.raises(
        ValueError, match=r"out must be a new folder, got .*killed, which holds a bet with seeds 1, not 3"
    ):
        unlabeled.bet(config=out / "bet.toml", out=out, seeds=3)


def test_all_labels_are_called_so_and_accuracies_are_in_percent() -> None:
    text = str(played({"unlabeled": [0.5, 0.6, 0.8], SUPERVISED: [0.5, 0.6, 0.6]}))
    assert (
        "accuracy in %, by labelled samples" in text
        and "Classification with all 300 labelled samples" in text
    )
    assert re.search(
        r"without labels \d\d\.\d %, with labels \d\d\.\d % accuracy, difference .*\] points", text
    )
    assert "draw of the labels" not in text
    some = played({"unlabeled": [0.5, 0.6, 0.8]}, labels=[300])
    assert "with 300 labelled samples" in str(some) and "each on its own draw of the labels;" in str(some)
    few = {(name, steps, 20): one for (name, steps, _), one in some.cells.items()}
    both = str(Bet(some.path, Terms("digits", "digits", labels=[20, "all"]), few | some.cells))
    assert "with 20 labelled samples" in both and "with all 300 labelled samples" in both
    assert "its own draw of the labels unless all are used" in both


def test_the_run_to_go_on_with_is_the_winner_unless_a_control_beat_it() -> None:
    for ours, theirs, best in ((0.8, 0.6, "unlabeled-400"), (0.6, 0.8, "labels-400"), (0.1, 0.1, None)):
        done = played(
            {"unlabeled": [0.5, 0.5, ours], SUPERVISED: [0.5, 0.5, theirs]}, budgets=[100, 200, 400]
        )
        assert done.best_run() == (Path(best) if best else None)


def test_a_bet_of_one_budget_and_one_number_of_labels_has_a_chart(tmp_path: Path) -> None:
    (tmp_path / "bet.toml").touch()
    done = played({"unlabeled": [0.8], SUPERVISED: [0.6]})
    text = write_page(replace(done, path=tmp_path)).read_text()
    assert text.count('aria-label="accuracy by labelled samples"') == 1 and "80 %" in text
