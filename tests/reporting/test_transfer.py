"""The pretext beside the features: which states are drawn, and what is said of their ranks."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from unlabeled.cli import main
from unlabeled.data import from_images
from unlabeled.reporting import report
from unlabeled.reporting.transfer import panels, pretext_at, rank_correlation
from unlabeled.run import load
from unlabeled.training.train import pretrain


def line(step: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"epoch": step // 10, "step": step, "loss": loss, "chance": 4.0, "metrics": {}} | more


def evaluation(step: int | None, value: float, **more: Any) -> Any:
    made = {"probe": "knn", "features": "unlabeled", "layer": None, "labels_per_class": "all", "value": value}
    measured = {} if step is None else {"step": step}
    return SimpleNamespace(data="digits", measured=measured, records=[made | more])


def run(
    losses: list[float], values: list[float], name: str = "simclr", history: list[Any] | None = None
) -> Any:
    steps = [10 * number for number in range(1, len(losses) + 1)]
    lines = [line(step, loss) for step, loss in zip(steps, losses)] if history is None else history
    *snapshots, last = [evaluation(step, value) for step, value in zip(steps, values)]
    return SimpleNamespace(
        label=name, name=name, style="s0", history=lines, evaluations=[last], snapshots=snapshots
    )


def test_the_rank_correlation_is_spearmans_even_with_ties() -> None:
    assert rank_correlation([1, 2, 3], [2, 4, 90]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [5, 4, -3]) == pytest.approx(-1)
    numbers = torch.randint(5, (2, 20), generator=torch.Generator().manual_seed(0)).tolist()
    assert rank_correlation(*numbers) == pytest.approx(spearmanr(*numbers).statistic)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_the_measure_of_a_step_is_the_held_out_loss_if_it_is_known() -> None:
    history = [
        line(10, 3.0, metrics={"next_accuracy": 0.5, "copy error": 2.0}),
        line(20, 2.0, holdout_loss=2.5, holdout_chance=3.5, holdout_losses={"15": 2.75, "20": 2.5}),
    ]
    assert pretext_at(history, 10) == {"training loss": 3.0, "chance": 4.0, "next_accuracy": 0.5}
    assert pretext_at(history, 20) == {"held-out loss": 2.5, "chance": 3.5}
    assert pretext_at(history, 15)["held-out loss"] == 2.75
    assert pretext_at(history, 5) == {}


def test_states_of_a_run_are_plotted_and_their_rank_correlation_and_number_are_reported() -> None:
    (panel,) = panels([run([3, 2, 1.5, 1.2], [0.5, 0.6, 0.7, 0.8])])
    assert panel.words == (
        "Rank correlation of a lower training loss on the pretext task with a higher accuracy of the probe: +1.00, "
        "over 4 states of 1 run. So few states say little."
    )
    assert panel.chart.count("<title>") == 4 and "step 20" in panel.chart
    (panel,) = panels([run([3, 2, 1.5, 1.2, 1.1], [0.8, 0.7, 0.6, 0.5, 0.4])])
    assert panel.words.endswith("-1.00, over 5 states of 1 run.")
    assert panels([run([3, 2], [0.5, 0.6])]) == []


def test_only_the_newest_measurement_of_a_state_is_used_and_no_control() -> None:
    one = run([3, 2, 1], [0.1, 0.2, 0.3])
    one.evaluations.append(evaluation(30, 0.9))  # older than the first
    one.evaluations.append(evaluation(None, 0.9))
    one.snapshots.append(evaluation(10, 0.9, features="random"))
    (panel,) = panels([one])
    assert "over 3 states of 1 run" in panel.words and "of the probe in % 90" not in panel.chart


def test_losses_of_several_methods_are_compared_as_fractions_of_chance() -> None:
    without = run([-0.5], [0.9], "simsiam", [line(10, -0.5, chance=None)])
    runs = [run([2], [0.5]), run([1, 3], [0.7, 0.4], "rotnet"), without]
    (panel,) = panels(runs)
    assert "lower training loss on the pretext task as a fraction of chance" in panel.words
    assert "+1.00, over 3 states of 2 runs" in panel.words
    assert panel.words.endswith(
        "Skipped for lack of a training loss on the pretext task as a fraction of chance: 1 state."
    )
    assert "fraction of chance 0.5," in panel.chart


def test_losses_of_a_part_of_the_task_are_left_out_and_counted() -> None:
    parts = [line(10 * n, 0.1 * n, partial=True, metrics={"next_accuracy": 0.1}) for n in (1, 2)]
    whole = [line(10 * n, 5 - n, holdout_loss=5.0 - n) for n in (3, 4, 5)]
    assert pretext_at(parts, 10) == {"chance": 4.0}
    assert pretext_at([line(10, 3.0, partial=True, holdout_loss=2.5)], 10)["held-out loss"] == 2.5
    values = [0.9, 0.1, 0.5, 0.6, 0.7]
    (panel,) = panels([run([0] * 5, values, "denoising", parts + whole)])
    assert panel.words.startswith("Rank correlation of a lower held-out loss")
    assert "+1.00, over 3 states of 1 run" in panel.words and panel.chart.count("<title>") == 3
    assert panel.words.endswith("Skipped for lack of a held-out loss on the pretext task: 2 states.")
    (panel,) = panels([run([0] * 3, values, "denoising", parts + whole[:1])])
    assert not panel.chart
    assert panel.words.endswith("no chart, as only 1 of 3 states has a held-out loss on the pretext task.")


def test_an_accuracy_on_the_pretext_task_is_plotted_if_all_states_have_one() -> None:
    history = [line(10 * n, 5 - n, metrics={"next_accuracy": 0.2 * n}) for n in (1, 2, 3)]
    (panel,) = panels([run([4, 3, 2], [0.3, 0.5, 0.6], "bert", history)])
    assert panel.words.startswith(
        "Rank correlation of a higher training next_accuracy on the pretext task with a higher accuracy of the probe: "
        "+1.00"
    )


def test_snapshots_of_encoders_are_saved_during_training_evaluated_and_plotted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 200, (60, 1, 8, 8))
    images[torch.arange(60), 0, labels] += 50
    data = from_images(images.to(torch.uint8), labels)
    settings: dict[str, Any] = {"encoder": "conv4", "batch_size": 16, "epochs": 4, "holdout": 0}
    made = pretrain("denoising", data, out=tmp_path / "run", snapshots=3, quiet=True, **settings)
    once = load(made.path)
    assert once.snapshots == [3, 6, 9] and once.step == 12
    weights = [load(made.path).encoder.state_dict()] + [
        type(once)(made.path, at=step).encoder.state_dict() for step in once.snapshots
    ]
    firsts = [state["trunk.s1.0.weight"] for state in weights]
    assert not any(torch.equal(a, b) for n, a in enumerate(firsts) for b in firsts[:n])
    with pytest.raises(ValueError, match=r"of step 3 of .* only the encoder was kept"):
        _ = type(once)(made.path, at=3).method
    file = tmp_path / "rows.npz"
    np.savez(file, x=images.to(torch.uint8).numpy(), y=labels.numpy())
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(made.path), str(file), "--probe", "knn", "--controls", "raw", "--snapshots"])
    said = capsys.readouterr().out
    assert [int(step) for step in re.findall(r"^step (\d+): knn \(all\) ", said, re.MULTILINE)] == [3, 6, 9]
    page = report(load(made.path), data=data, out=tmp_path / "page.html").read_text()
    assert "over 4 states of 1 run" in page and page.count('class="scores"') == 1


def test_missing_snapshots_cannot_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = from_images(torch.randint(0, 200, (20, 1, 8, 8)).to(torch.uint8))
    made = pretrain(
        "denoising", data, out=tmp_path / "run", encoder="conv4", steps=1, batch_size=8, quiet=True
    )
    with pytest.raises(SystemExit):
        main(["evaluate", str(made.path), "digits", "--snapshots"])
    assert "snapshots must have been kept by pretrain --snapshots, got none in " in capsys.readouterr().err


def test_accuracies_of_several_methods_are_not_compared() -> None:
    history = [line(10 * n, 5 - n, metrics={"accuracy": 0.2 * n}) for n in (1, 2, 3)]
    (panel,) = panels([run([4, 3, 2], [0.3, 0.5, 0.6], name, history) for name in ("jigsaw", "rotnet")])
    assert "lower training loss on the pretext task as a fraction of chance" in panel.words


def test_too_few_epochs_for_the_snapshots_are_reported_and_scores_are_not_snapshots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = from_images(torch.randint(0, 200, (16, 1, 8, 8)).to(torch.uint8))
    settings: dict[str, Any] = {"encoder": "conv4", "batch_size": 8, "epochs": 2, "holdout": 0}
    made = pretrain("denoising", data, out=tmp_path / "run", snapshots=3, **settings)
    assert "1 of 3 snapshots can be saved: they are taken at the ends of epochs" in capsys.readouterr().err
    assert made.snapshots == [2]
    pretrain("denoising", data, out=tmp_path / "other", snapshots=1, **settings)
    assert "snapshots can be saved" not in capsys.readouterr().err
    own, snapshot = {"value": 1.0}, {"value": 2.0}
    made.add_evaluation({"snapshot": True, "step": 2}, [snapshot])
    assert made.scores == []
    made.add_evaluation({"step": 4}, [own])
    made.add_evaluation({"snapshot": True, "step": 3}, [snapshot])
    assert made.scores == [own] and len(made.evaluations) == 3
