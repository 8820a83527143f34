"""Slow trainings whose numbers stand in docs/benchmarks.md: make golden."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import unlabeled
from unlabeled.data import open_splits
from unlabeled.demo import demo

pytestmark = pytest.mark.golden
CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


def accuracy(
    scores: Iterable[dict[str, Any]], features: str, probe: str, labels: int | str = "all"
) -> dict[str, Any]:
    (record,) = (
        r
        for r in scores
        if (r["features"], r["probe"], r["labels_per_class"], r["layer"]) == (features, probe, labels, None)
    )
    return record


def test_demo_wins_clearly_where_labels_are_few(tmp_path: Path) -> None:
    run = demo(tmp_path / "demo")
    for labels, least in ((1, 0.75), (5, 0.92)):
        # Of one label of each class supervised sees one draw only, too few for a win.
        for control in ("raw", "hog", "dictionary", "random", *(["supervised"] if labels > 1 else [])):
            assert accuracy(run.scores, control, "linear", labels)["margin_low"] > 0
        assert accuracy(run.scores, "unlabeled", "linear", labels)["value"] > least
    assert (run.path / "report.html").is_file()


@pytest.mark.skipif(not CIFAR.exists(), reason="needs CIFAR-10 as parquet beside the repository")
@pytest.mark.parametrize(("method", "epochs"), [("simclr", 5), ("moco", 11)])
def test_five_epochs_of_cifar_beat_pixels_among_neighbours(method: str, epochs: int, tmp_path: Path) -> None:
    train, test = open_splits(CIFAR)
    train = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:10_000])
    views = {"crop": 0.2, "jitter": 0.5, "gray": 0.2} | ({"queue": 2048} if method == "moco" else {})
    run = unlabeled.pretrain(
        method,
        train,
        out=tmp_path / method,
        encoder="resnet10",
        epochs=epochs,
        batch_size=256,
        lr=2e-3,
        **views,
    )
    scores = unlabeled.evaluate(run, (train, test), controls=("raw", "random"))
    assert accuracy(scores, "unlabeled", "knn")["value"] > accuracy(scores, "raw", "knn")["value"]
    assert accuracy(scores, "raw", "linear")["margin_low"] > 0


def test_denoising_filters_turn_from_fuzz_to_strokes(tmp_path: Path) -> None:
    """As in the classic figure: with more destroyed, neighbouring weights of a filter agree more."""
    agreements = []
    for amount in (0.0, 0.25, 0.5):
        run = unlabeled.pretrain(
            "denoising",
            "digits",
            out=tmp_path / str(amount),
            encoder="dense",
            decoder="linear",
            loss="cross_entropy",
            amount=amount,
            crop=1.0,
            flip=0.0,
            epochs=300,
            weight_decay=0.0,
        )
        weight = next(p for p in run.encoder.parameters() if p.ndim == 2).detach().reshape(-1, 8, 8)
        weight = (weight - weight.mean((1, 2), keepdim=True)) / weight.std((1, 2), keepdim=True)
        agreements.append(
            ((weight[:, 1:] * weight[:, :-1]).mean() + (weight[:, :, 1:] * weight[:, :, :-1]).mean()) / 2
        )
    print([f"{agreement:.3f}" for agreement in agreements])
    assert agreements[0] < agreements[1] < agreements[2]
