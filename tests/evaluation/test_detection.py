"""Detection: scores of hand-made cases by two rules against slow twins, boxes in training, and the task as a whole."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.data.image.annotated import AnnotatedImages, Things
from unlabeled.evaluation.detection_scores import Detections, Scorer, voc_matches
from unlabeled.evaluation.model import EvaluatedModel, Transfer
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.sources import Source
from unlabeled.evaluation.tasks import detection
from unlabeled.evaluation.tasks.detection import TASK, _example, _pictures, _truth, build

pytest.importorskip("pycocotools")


def things(*boxes: tuple[int, ...], difficult: tuple[int, ...] = ()) -> Things:
    """Things, each left, top, right, bottom and class."""
    rows = torch.tensor(boxes, dtype=torch.double).view(-1, 5)
    hard = torch.tensor([number in difficult for number in range(len(boxes))], dtype=torch.bool)
    return Things(rows[:, :4], rows[:, 4].long(), hard)


def found(*boxes: tuple[float, ...]) -> Detections:
    """Detections, each left, top, right, bottom, class and score."""
    rows = torch.tensor(boxes, dtype=torch.double).view(-1, 6)
    return Detections(rows[:, :4], rows[:, 4].long(), rows[:, 5])


def scores(true: list[Things], detections: list[Detections], classes: int = 1) -> list[float]:
    names = [f"class {number}" for number in range(classes)]
    return Scorer(true, detections, names).statistics(torch.arange(len(true)))


def test_hand_made_cases() -> None:
    true = [things((0, 0, 10, 10, 0)), things((0, 0, 10, 10, 0))]
    assert scores(true, [found((0, 0, 10, 10, 0, 0.9)), found((0, 0, 10, 10, 0, 0.8))]) == pytest.approx(
        [1] * 4
    )
    assert scores(true, [found(), found()]) == [0] * 4
    # One of two, ranked below a wrong one: precision 1/2 up to recall 1/2.
    half = [found((50, 50, 60, 60, 0, 0.9), (0, 0, 10, 10, 0, 0.8)), found()]
    ap50, ap, ap75, eleven = scores(true, half)
    assert (ap50, ap, ap75, eleven) == pytest.approx((51 / 202, 51 / 202, 51 / 202, 6 / 22))
    # An overlap of 0.6 counts at .5, .55 and .6, not at .75.
    ap50, ap, ap75, eleven = scores([things((0, 0, 10, 10, 0))], [found((0, 0, 10, 6.001, 0, 0.9))])
    assert (ap50, ap, ap75, eleven) == pytest.approx((1, 0.3, 0, 1))


def test_a_thing_is_found_once_and_of_its_class() -> None:
    true = [things((0, 0, 10, 10, 0), (30, 30, 40, 40, 1))]
    twice = [found((0, 0, 10, 10, 0, 0.9), (0, 0, 10, 9, 0, 0.8), (30, 30, 40, 40, 1, 0.9))]
    matches, right = voc_matches(twice[0], true[0], 0)
    assert matches.tolist() == pytest.approx([0.9, 0.8]) and right.tolist() == [True, False]
    assert scores(true, twice, 2) == pytest.approx([1] * 4)
    swapped = [found((0, 0, 10, 10, 1, 0.9), (30, 30, 40, 40, 0, 0.9))]
    assert scores(true, swapped, 2) == [0] * 4


def test_difficult_things_neither_count_as_missed_nor_as_wrong() -> None:
    true = [things((0, 0, 10, 10, 0), (30, 30, 40, 40, 0), difficult=(1,))]
    assert scores(true, [found((0, 0, 10, 10, 0, 0.5))]) == pytest.approx([1] * 4)
    assert scores(true, [found((0, 0, 10, 10, 0, 0.5), (30, 30, 40, 40, 0, 0.9))]) == pytest.approx([1] * 4)
    only = [things((0, 0, 10, 10, 0), difficult=(0,))]
    assert all(map(math.isnan, scores(only, [found()])))


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_coco(true: list[Things], detections: list[Detections], label: int, least: float) -> float:
    """AP of COCO by its definition: the best free thing, and the highest precision at 101 recalls."""
    ranked = []
    for image, (one, own) in enumerate(zip(true, detections)):
        free = {n: box for n, box in enumerate(one.boxes.tolist()) if one.labels[n] == label}
        rows = [
            row
            for row in own.scores.argsort(descending=True, stable=True).tolist()
            if own.labels[row] == label
        ]
        for row in rows:
            near = {n: overlap(box, own.boxes[row].tolist()) for n, box in free.items()}
            best = max(near, key=near.__getitem__, default=None)
            hit = best is not None and near[best] >= least
            if hit:
                del free[best]
            ranked.append((-float(own.scores[row]), image, hit))
    total = sum(int((one.labels == label).sum()) for one in true)
    hits = [hit for _, _, hit in sorted(ranked, key=lambda entry: entry[:2])]
    precision = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    recall = [sum(hits[: n + 1]) / total for n in range(len(hits))]
    points = [
        max((p for p, r in zip(precision, recall) if r >= t), default=0.0) for t in np.linspace(0, 1, 101)
    ]
    return sum(points) / 101


def slow_voc(true: list[Things], detections: list[Detections], label: int) -> float:
    """VOC's 11-point AP by its definition."""
    entries = [
        (float(own.scores[row]), image, row)
        for image, own in enumerate(detections)
        for row in range(len(own.scores))
        if own.labels[row] == label
    ]
    taken, hits = set(), []
    for _, image, row in sorted(entries, key=lambda entry: -entry[0]):
        boxes = {n: b for n, b in enumerate(true[image].boxes.tolist()) if true[image].labels[n] == label}
        near = {n: overlap(box, detections[image].boxes[row].tolist()) for n, box in boxes.items()}
        best = max(near, key=near.__getitem__, default=None)
        hits.append(best is not None and near[best] >= 0.5 and (image, best) not in taken)
        if best is not None and near[best] >= 0.5:
            taken.add((image, best))
    total = sum(int((one.labels == label).sum()) for one in true)
    counts = np.cumsum(hits)
    precision = counts / np.arange(1, len(hits) + 1)
    return (
        sum(
            max([p for p, c in zip(precision, counts) if 10 * c >= t * total], default=0.0) for t in range(11)
        )
        / 11
    )


def crowd(seed: int, images: int = 5) -> tuple[list[Things], list[Detections]]:
    """Random things, and detections near them, some wrong, all with scores of their own."""
    generator = np.random.default_rng(seed)
    true, detections = [], []
    for _ in range(images):
        count = generator.integers(1, 5)
        corner = generator.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(10, 30, (count, 2))], 1)
        labels = generator.integers(0, 2, count)
        true.append(Things(torch.tensor(boxes), torch.tensor(labels), torch.zeros(count, dtype=torch.bool)))
        near = np.repeat(boxes, 2, 0) + generator.normal(0, 3, (2 * count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = np.where(generator.random(2 * count) < 0.8, np.repeat(labels, 2), 0)
        detections.append(
            Detections(torch.tensor(near), torch.tensor(kinds), torch.tensor(generator.random(2 * count)))
        )
    return true, detections


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_slow_twins_also_without_some_images(seed: int) -> None:
    true, detections = crowd(seed)
    scorer = Scorer(true, detections, ["a", "b"])
    for rows in (torch.arange(5), torch.tensor([0, 1, 3, 4]), torch.arange(5)):
        part = [true[row] for row in rows], [detections[row] for row in rows]
        if {label for one in part[0] for label in one.labels.tolist()} != {0, 1}:
            continue
        values = scorer.by_class(rows)
        for label in range(2):
            aps = [slow_coco(*part, label, least) for least in np.arange(0.5, 1, 0.05).round(2)]
            assert values[0][label] == pytest.approx(aps[0])
            assert values[1][label] == pytest.approx(np.mean(aps))
            assert values[2][label] == pytest.approx(aps[5])
            assert values[3][label] == pytest.approx(slow_voc(*part, label))


def squares(count: int, seed: int) -> AnnotatedImages:
    """White squares on dark noise, 64 pixels wide, with their boxes at twice the size."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(60, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)
    own = []
    for image in images:
        left, top = torch.randint(40, (2,), generator=generator).tolist()
        image[:, top : top + 20, left : left + 20] = 255
        own.append(things((2 * left, 2 * top, 2 * left + 40, 2 * top + 40, 0)))
    data = from_images(images, name="squares")
    return AnnotatedImages(data, torch.full((count, 2), 128), ["square"], things=own)


def encoder() -> Any:
    torch.manual_seed(0)
    return encoders.build("conv4", image_size=32).eval()


@pytest.mark.usefixtures("small_networks")
def test_boxes_are_mirrored_with_their_image() -> None:
    data = squares(3, 0)
    for mirrored in (False, True):
        image, target = _example(data, 1, mirrored)
        left, top, right, bottom = target["boxes"][0].round().int().tolist()
        assert image[:, top:bottom, left:right].min() == 1 and image.sum((1, 2)).max() < 64**2 * 0.4
        assert target["labels"].tolist() == [1]


@pytest.mark.usefixtures("small_networks")
def test_a_detector_sees_the_maps_that_are_named() -> None:
    model = build(encoder(), {"s3": 4, "s4": 8}, 64, 2).eval()
    with torch.no_grad():
        maps = model.backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(map_.shape[2:]) for map_ in maps.values()] == [(16, 24), (8, 12), (4, 6)]
    single = build(encoder(), {"s4": 8}, 64, 2)
    assert [*single.backbone(torch.zeros(1, 3, 64, 64))] == ["s4"]
    assert single.rpn.anchor_generator.sizes == ((16, 32, 64),)


@pytest.mark.usefixtures("small_networks")
def test_the_task_measures_ours_and_its_controls_in_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "WIDTH", 16)
    model = EvaluatedModel(encoder(), size=64, steps=1, transfer=Transfer(labels=(3, "all"), seeds=2))
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    measured = TASK(model, (squares(4, 0), squares(3, 1)))
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    names = [(m.labels_per_class, m.features) for m in measured if m.unit == "AP50"]
    assert names == [(c, f) for c in (3, "all") for f in ("unlabeled", "random", "rescaled")]
    assert all(
        m.values.shape == (2, 1) and m.layer == "all layers" and m.left_out is not None for m in measured
    )
    assert {m.unit for m in measured} == {"AP50", "AP", "AP75", "11-point AP50"}
    pictures = measured[0].pictures
    assert list(pictures) == ["true", "unlabeled"] and pictures["true"].shape == (3, 3, 64, 64)
    scores = Scores.of(measured)
    assert {r["units"] for r in scores} == {3} and {r["counted"] for r in scores} == {"test images"}
    assert scores.verdict() and "labelled images" in scores.table()


@pytest.mark.usefixtures("small_networks")
def test_training_finds_squares_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """From eight images, in the pixels of the original: the world is so simple that few steps must do."""
    for name, value in {"WIDTH": 16, "HIDDEN": 32, "BATCH": 2}.items():
        monkeypatch.setattr(detection, name, value)
    model = EvaluatedModel(encoder(), size=64, steps=60)
    data = squares(8, 0), squares(6, 1)
    parts = TASK.parts(Source.of(model.encoder, model.encoder, data))
    ap50 = next(iter(TASK.measure(model, parts)))
    assert ap50.features == "unlabeled" and float(ap50.values) > 0.5


def test_pictures_name_the_classes_of_boxes_where_there_is_room() -> None:
    def drawn(side: int, name: str) -> torch.Tensor:
        images = from_images(torch.zeros(1, 3, side, side, dtype=torch.uint8), name="black")
        boxes = [things((8, 8, side - 8, side - 8, 0))]
        data = AnnotatedImages(images, torch.full((1, 2), side), [name], things=boxes)
        return _pictures(data, _truth(data), 0)

    assert not torch.equal(drawn(128, "cat"), drawn(128, "dog")), "the names differ"
    assert torch.equal(drawn(64, "cat"), drawn(64, "dog")), "no room for a name"
    assert drawn(128, "猫" * 40).shape == (1, 3, 128, 128)
