"""Pre-training with labels: the twin of a run that learns the classes of the same images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unlabeled
from unlabeled import encoders
from unlabeled.data import Data, from_images, open_data
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.model import Transfer
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.supervised_pretraining import WITH_LABELS, Supervised, beside
from unlabeled.run import Run, load

pytestmark = pytest.mark.usefixtures("small_networks")


def method(data: Data, **views: float) -> Supervised:
    torch.manual_seed(0)
    supervised = Supervised(encoders.build("conv4", image_size=8, in_channels=1), **views)
    supervised.prepare(data)
    return supervised


def test_the_loss_is_the_cross_entropy_of_the_samples_whose_class_is_known() -> None:
    data = open_data("digits").subset(torch.arange(12))
    assert data.labels is not None
    data.labels = data.labels.clone()
    data.labels[:4] = -1
    supervised = method(data, crop=1.0, flip=0.0).eval()
    batch = data.batch(torch.arange(12))
    torch.manual_seed(1)
    logits = supervised.classifier(supervised.encoder(supervised.views(batch)))
    known = [int((data.labels[4:].unique() < label).sum()) for label in data.labels[4:]]
    expected = -logits.log_softmax(1)[range(4, 12), known].mean()
    torch.manual_seed(1)
    torch.testing.assert_close(supervised(batch), expected)
    right = (logits[4:].argmax(1) == torch.tensor(known)).float().mean()
    torch.testing.assert_close(supervised.metrics["accuracy"], right)
    supervised.labels.fill_(-1)
    assert supervised(batch).item() == 0 == supervised.metrics["accuracy"].item()


def test_chance_is_the_entropy_of_the_classes() -> None:
    data = from_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 1]))
    expected = torch.distributions.Categorical(torch.tensor([0.75, 0.25])).entropy()
    assert method(data).chance(4) == pytest.approx(float(expected))


def test_data_without_two_classes_is_refused() -> None:
    for labels, count in ((None, 0), (torch.tensor([1, 1]), 1)):
        data = from_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), labels, name="grey")
        with pytest.raises(
            ValueError, match=f"labels of at least 2 classes to pre-train with labels, got grey with {count}"
        ):
            method(data)


def test_the_twin_has_the_budget_the_views_and_the_images_of_the_run(tmp_path: Path) -> None:
    run = unlabeled.pretrain(
        "simclr",
        "digits",
        out=tmp_path / "without",
        quiet=True,
        encoder="conv4",
        steps=3,
        batch_size=20,
        seed=4,
        crop=0.3,
    )
    twin = beside(run, "digits", tmp_path / "with", quiet=True)
    assert twin.step == 3 and twin.config["settings"]["batch_size"] == 20
    for part in ("encoder", "image_size", "holdout", "seed"):
        assert twin.config["settings"][part] == run.config["settings"][part]
    assert twin.config["options"].keys() == set() and twin.method.views.crop == 0.3  # pyright: ignore
    own, others = twin.digests, run.digests
    assert own is not None and others is not None and torch.equal(own, others)
    assert Run(tmp_path / "with").encoder.config == run.encoder.config
    longer = beside(run, "digits", tmp_path / "with", quiet=True, steps=5)
    assert longer.step == 5


def test_labels_are_learned_and_shuffled_ones_are_not(tmp_path: Path) -> None:
    data = open_data("digits")
    assert data.labels is not None
    settings = {"encoder": "conv4", "steps": 40, "quiet": True, "flip": 0.0, "lr": 3e-3}
    run = unlabeled.pretrain(Supervised, data, out=tmp_path / "labels", **settings)
    assert run.history[-1]["loss"] < 1.6
    data.labels = data.labels[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))]
    run = unlabeled.pretrain(Supervised, data, out=tmp_path / "shuffled", **settings)
    assert run.history[-1]["loss"] > 2.2


def squares(root: Path) -> Path:
    """Bright squares on noise, with their masks."""
    values = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(4):
            image, mask = values.integers(0, 80, (16, 16), dtype=np.uint8), np.zeros((16, 16), np.uint8)
            image[:8, number : number + 8], mask[:8, number : number + 8] = 250, 1
            for name, pixels in (("images", image), ("masks", mask)):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / part / name / f"{part}{number}.png")
    return root


def values_of(scores: Scores, features: str) -> list[float]:
    return [record["value"] for record in scores if record["features"] == features]


def test_the_control_is_the_twin_in_the_folder_of_the_run_for_probes_and_tasks(
    tmp_path: Path,
) -> None:
    settings = {"encoder": "conv4", "steps": 2, "batch_size": 16, "quiet": True, "features": "s3:2x2:whiten"}
    run = unlabeled.pretrain("simclr", "digits", out=tmp_path / "run", **settings)
    lines: list[str] = []
    words: dict[str, Any] = {"probe": ("linear", "finetune"), "steps": 1, "device": "cpu"}
    scores = evaluate(run, "digits", controls=("raw", WITH_LABELS), progress=lines.append, **words)
    rows = ["raw", WITH_LABELS, "unlabeled", WITH_LABELS, "unlabeled", "supervised"]
    assert [record["features"] for record in scores] == rows
    assert "supervised pre-training" in scores.verdict() and any(
        "for 2 steps on digits" in one for one in lines
    )
    assert (
        "supervised pre-training saw the labels of 1,271 of the 1,297 training images" in scores.about["note"]
    )
    twin = load(run.path / WITH_LABELS)
    assert twin.step == 2 and twin.config["method"] == "Supervised"
    own = evaluate(twin, "digits", controls=(), features="s3:2x2:whiten", **words)
    assert values_of(own, "unlabeled") == values_of(scores, WITH_LABELS)
    before = (twin.path / "checkpoint.safetensors").stat().st_mtime_ns
    words = {"probe": "segmentation", "steps": 1, "size": 16, "device": "cpu"}
    source = squares(tmp_path / "squares")
    scores = evaluate(run, source, controls=WITH_LABELS, **words)
    assert [one["features"] for one in scores][1:] == ["unlabeled", "random", "rescaled", WITH_LABELS]
    own = evaluate(twin.encoder, source, controls=(), **words)
    assert values_of(own, "unlabeled") == values_of(scores, WITH_LABELS)
    assert (twin.path / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_public_weights_are_trained_beside_ours_by_tasks_and_fine_tuning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoders.build("conv4", image_size=16).save(tmp_path / "other.safetensors")
    ours, other = encoders.build("conv4", image_size=16), encoders.load(tmp_path / "other.safetensors")
    words: dict[str, Any] = {"steps": 1, "device": "cpu"}
    beside = words | {"public_weights": tmp_path / "other.safetensors", "controls": ()}
    source = squares(tmp_path / "squares")
    tasks = words | {"probe": "segmentation", "size": 16}
    scores = evaluate(ours, source, **{**beside, **tasks})
    assert [one["features"] for one in scores][1:] == ["unlabeled", "random", "rescaled", "public"]
    own = evaluate(other, source, controls=(), **tasks)
    assert [one["features"] for one in own] == ["most frequent class", "unlabeled"]  # asked for no controls
    assert values_of(own, "unlabeled") == values_of(scores, "public") != values_of(scores, "unlabeled")
    words |= {"labels_per_class": 1, "draws": 1}
    scores = evaluate(ours, "digits", probe="finetune", **{**beside, **words})
    assert [one["features"] for one in scores] == ["public", "unlabeled", "supervised"]
    own = evaluate(other, "digits", probe="finetune", controls=(), **words)
    assert values_of(own, "unlabeled") == values_of(scores, "public")


def test_public_weights_of_another_network_have_heads_on_their_own_maps(tmp_path: Path) -> None:
    encoders.build("resnet10", image_size=16).save(tmp_path / "other.safetensors")
    scores = evaluate(
        encoders.build("conv4", image_size=16), squares(tmp_path / "squares"), probe="segmentation", size=16,
        steps=1, device="cpu", controls="public", public_weights=tmp_path / "other.safetensors",
    )  # fmt: skip
    assert "public" in [one["features"] for one in scores]


def test_a_part_that_public_weights_do_not_have_is_skipped_in_a_line(tmp_path: Path) -> None:
    encoders.build("resnet10", image_size=16).save(tmp_path / "other.safetensors")
    lines: list[str] = []
    scores = evaluate(
        encoders.build("conv4", image_size=16), squares(tmp_path / "squares"), probe="segmentation", size=16,
        steps=1, device="cpu", controls=(), public_weights=tmp_path / "other.safetensors",
        transfer=Transfer(train=("s3",)), progress=lines.append,
    )  # fmt: skip
    assert "public" not in [one["features"] for one in scores]
    assert "the control public is skipped: its network has no map s3" in lines


def test_where_there_is_no_twin_the_control_is_left_out_and_the_reason_said(tmp_path: Path) -> None:
    settings = {"encoder": "conv4", "steps": 1, "batch_size": 4, "quiet": True, "image_size": 8}
    source = squares(tmp_path / "squares") / "train" / "images"
    run = unlabeled.pretrain("rotnet", source, out=tmp_path / "run", **settings)
    opened = unlabeled.pretrain("rotnet", open_data(source), out=tmp_path / "opened", **settings)
    for model, reason in (
        (run, "labels of at least 2 classes to pre-train with labels, got"),
        (opened, "data that was opened before, which its folder does not name"),
        (run.encoder, "it needs a run of pretrain, whose steps and images are known"),
    ):
        lines: list[str] = []
        scores = evaluate(
            model, "digits", probe="knn", controls=WITH_LABELS, progress=lines.append, device="cpu"
        )
        assert [record["features"] for record in scores] == ["unlabeled"]
        assert any("the control supervised_pretraining is skipped" in one and reason in one for one in lines)
