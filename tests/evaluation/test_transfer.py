"""Transfer to labelled images: draws, parts that learn, maps that heads see; multilabel and segmentation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import from_images, open_data
from unlabeled.data.image.annotated import AnnotatedImages, Things
from unlabeled.evaluation import evaluate, transfer
from unlabeled.evaluation.intervals import leave_one_out, leave_out_each, of_left_out
from unlabeled.evaluation.measurement import record_of
from unlabeled.evaluation.model import EvaluatedModel, Transfer
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.sources import Source
from unlabeled.evaluation.tasks import multilabel, segmentation
from unlabeled.evaluation.tasks.segmentation import FCN, confusion, intersection_over_union

pytestmark = pytest.mark.usefixtures("small_networks")


def encoder(name: str = "conv4", size: int = 16) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, image_size=size).eval()


def test_draws_are_nested_and_differ_by_seed() -> None:
    few, more = transfer.draw(50, 10, 3), transfer.draw(50, 25, 3)
    assert len(few) == 10 and {*few.tolist()} < {*more.tolist()}
    assert few.tolist() != transfer.draw(50, 10, 4).tolist()
    assert transfer.draw(50, "all", 1).tolist() == list(range(50)) and len(transfer.draw(50, "10%", 0)) == 5
    with pytest.raises(ValueError, match="labels must be at most the 50 labelled training images, got 51"):
        transfer.draw(50, 51, 0)


@pytest.mark.parametrize("name", ["conv4", "resnet10", "vit-small"])
def test_from_a_map_upward_only_what_comes_after_it_changes(name: str) -> None:
    """The maps before it stay bit for bit, it and all after it move: whatever the network calls its layers."""
    network = encoder(name)
    names = list(network.map_dims)
    part = names[len(names) // 2]
    transfer.limit_training_(network, part)
    x = torch.rand(2, 3, 16, 16)
    before = {layer: map_.detach().clone() for layer, map_ in network.maps(x).items()}
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight += torch.randn(weight.shape)
    after = network.maps(x)
    same = [torch.equal(after[layer], before[layer]) for layer in names]
    assert same == [number < names.index(part) for number in range(len(names))]


def test_head_and_all_and_fixed_norms() -> None:
    network = encoder()
    network.extend(8)
    transfer.limit_training_(network, "head")
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning and all(name.startswith("neck.") for name in learning)
    transfer.limit_training_(network, "all")
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(module.training for module in network.modules())


def test_heads_see_the_deepest_map_of_each_stride_from_four_pixels() -> None:
    assert transfer.choose_maps(encoder(), 64) == {"s3": 4, "s4": 8}
    assert transfer.choose_maps(encoder("resnet10"), 64) == {"layer2": 4, "layer3": 8, "layer4": 16}
    assert transfer.choose_maps(encoder("vit-small"), 32) == {"block4": 2}
    assert transfer.choose_maps(encoder(), 64, ("s4", "s2")) == {"s2": 2, "s4": 8}
    with pytest.raises(ValueError, match="maps must be one of s1, s2, s3, s4, got s9"):
        transfer.choose_maps(encoder(), 64, ("s9",))
    with pytest.raises(ValueError, match="encoder must have maps with several positions, got dense"):
        transfer.choose_maps(encoder("dense"), 16)


def test_statistics_computed_together_are_those_computed_alone() -> None:
    values = torch.rand(12, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(12) // 2
    whole, left = leave_out_each(
        lambda rows: [float(values[rows].std()), float(values[rows].max())], 12, groups
    )
    for number, statistic in enumerate((torch.std, torch.max)):
        value, alone = leave_one_out(lambda rows, s=statistic: float(s(values[rows])), 12, groups)
        assert value == whole[number] and torch.equal(alone.values, left[number].values)
    bundled = leave_out_each(lambda rows: [float(values[rows].mean())], 12, most=4)[1][0]
    assert len(bundled.values) == 4 and bundled.units == 12


def test_seeds_widen_the_interval_of_a_statistic() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0))
    value, left = leave_one_out(lambda rows: float(values[rows].mean()), 40)
    alone = of_left_out(value, left, bounds=(0.0, 1.0))
    same = of_left_out(value, left, bounds=(0.0, 1.0), draws=torch.full((3,), value))
    wide = of_left_out(value, left, bounds=(0.0, 1.0), draws=torch.tensor([value - 0.1, value, value + 0.1]))
    assert alone.low is not None and same.low == pytest.approx(alone.low) and alone.std is None
    assert wide.low is not None and wide.low < alone.low - 0.05 and wide.std == pytest.approx(0.1)


def folder(root: Path, count: int, seed: int = 0) -> Path:
    """Squares of two colours on noise, with masks of their classes and a void rim."""
    generator = np.random.default_rng(seed)
    for part, size in (("train", count), ("test", 6)):
        for number in range(size):
            image = generator.integers(0, 80, (48, 64, 3), dtype=np.uint8)
            mask = np.zeros((48, 64), np.uint8)
            for kind in (1, 2):
                if generator.random() < 0.6 or kind == number % 2 + 1:
                    top, left = generator.integers(0, 28), generator.integers(0, 44)
                    image[top : top + 20, left : left + 20] = (255, 0, 0) if kind == 1 else (0, 255, 0)
                    mask[top : top + 20, left : left + 20] = kind
            mask[:2] = 255
            for name, pixels in (("images", image), ("masks", mask)):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / part / name / f"{part}{number}.png")
    (root / "classes.json").write_text('["ground", "red", "green"]')
    return root


def test_confusion_and_intersection_over_union_equal_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.randint(4, (2, 9, 7), generator=generator) for _ in range(2))
    true[0, :2] = 255
    counts = sum(confusion(*pair, 5) for pair in zip(predicted, true))
    assert torch.is_tensor(counts) and counts.sum() == (true != 255).sum()
    values = intersection_over_union(counts).tolist()
    for label in range(4):
        own, other = (predicted == label) & (true != 255), true == label
        assert values[label] == pytest.approx(float((own & other).sum() / (own | other).sum()))
    assert math.isnan(values[4])  # is nowhere


def test_the_mean_is_over_all_pixels_together_not_over_images() -> None:
    first = confusion(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    second = confusion(torch.tensor([1] * 98), torch.tensor([1] * 98), 2)
    assert intersection_over_union(first + second).tolist() == pytest.approx([1 / 2, 98 / 99])


def test_void_pixels_have_no_gradient_and_no_score() -> None:
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    masks = torch.full((1, 4, 4), 255)
    masks[0, 0, 0] = 1
    torch.nn.functional.cross_entropy(logits, masks, ignore_index=segmentation.VOID).backward()
    assert logits.grad is not None and logits.grad[0, :, 0, 0].abs().min() > 0
    assert logits.grad.sum((0, 1))[1:].abs().max() == 0
    assert confusion(torch.zeros(16), torch.full((16,), 255), 3).sum() == 0


def test_scores_of_all_maps_are_summed_at_the_finest() -> None:
    network = FCN(encoder(), ["s3", "s4"], 3).eval()
    x = torch.rand(1, 3, 32, 48)
    maps = network.encoder.maps(x)
    first, second = (head(maps[name]) for name, head in zip(network.maps, network.heads))
    coarse = torch.nn.functional.interpolate(second, first.shape[2:], mode="bilinear")
    whole = torch.nn.functional.interpolate(first + coarse, (32, 48), mode="bilinear")
    torch.testing.assert_close(network(x), whole)


def opened(task: Any, model: EvaluatedModel, root: Path) -> Any:
    return task.parts(Source.of(model.encoder, model.encoder, root), model.size)


def test_segmentation_measures_ours_and_its_controls(tmp_path: Path) -> None:
    model = EvaluatedModel(encoder(), size=24, steps=2, transfer=Transfer(labels=(3,), seeds=2))
    parts = opened(segmentation.TASK, model, folder(tmp_path, 5))
    assert parts.train.sizes[0].tolist() == [24, 32]
    measured = segmentation.TASK(model, tmp_path)
    assert [m.features for m in measured] == ["most frequent class", "unlabeled", "random", "rescaled"]
    constant = measured[0]
    masks = torch.stack([parts.test.mask(row) for row in range(6)])
    ground = float((masks == 0).sum() / (masks != 255).sum())
    assert float(constant.values) == pytest.approx(ground / 3) and constant.by_class["red"] == 0
    assert measured[1].values.shape == (2, 1) and list(measured[1].pictures) == ["true", "unlabeled"]
    record = record_of(measured[2], measured[1])
    assert record["by_class"].keys() == {"ground", "red", "green"} and record["counted"] == "test images"
    text = str(Scores.of(measured))
    assert "segmentation: IoU by class with 3 images" in text and "green" in text


def test_segmentation_learns_colours_and_not_where_masks_are_shuffled(tmp_path: Path) -> None:
    model = EvaluatedModel(encoder(size=32), size=24, steps=60)
    cells = iter(segmentation.TASK.measure(model, opened(segmentation.TASK, model, folder(tmp_path, 8))))
    constant, ours = (float(next(cells).values) for _ in range(2))
    assert ours > constant + 0.25
    for number in range(8):  # the mask of another image, turned around
        other = tmp_path / f"train/masks/train{number}.png"
        Image.fromarray(
            np.random.default_rng(number).permutation(np.array(Image.open(other)).ravel()).reshape(48, 64)
        ).save(other)
    cells = iter(segmentation.TASK.measure(model, opened(segmentation.TASK, model, tmp_path)))
    constant, ours = (float(next(cells).values) for _ in range(2))
    assert ours < constant + 0.1


def labelled(count: int, seed: int, known: bool = True) -> AnnotatedImages:
    """Images that are red, green, both or none; nothing tells which where they are not `known`."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(count, 2, generator=generator) < 0.5
    shown = present if known else torch.rand(count, 2, generator=generator) < 0.5
    images = torch.randint(90, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    images[:, :2] += (150 * shown)[:, :, None, None].to(torch.uint8)
    things = []
    for row in present:
        labels = row.nonzero()[:, 0]
        things.append(Things(torch.ones(len(labels), 4).double(), labels, labels < 0))
    data = from_images(images, name="colours")
    return AnnotatedImages(data, torch.full((count, 2), 16), ["red", "green"], things=things)


def values(measured: list[Any], unit: str) -> dict[tuple[str, str], float]:
    return {(m.layer, m.features): float(m.values.mean()) for m in measured if m.unit == unit}


def test_multilabel_measures_every_part_beside_the_frequency() -> None:
    transfers = Transfer(labels=(12,), seeds=2, train=("frozen", "head", "s3"))
    data = labelled(24, 0), labelled(20, 1)
    measured = multilabel.TASK(EvaluatedModel(encoder(), steps=1, transfer=transfers), data)
    found = values(measured, "mean AP")
    assert {layer for layer, _ in found} == {"frozen", "head only", "s3 and up"}
    present = data[1].present().float().mean()
    assert found["frozen", "class frequency"] == pytest.approx(float(present), abs=1e-6)
    assert found["frozen", "unlabeled"] > 0.9
    scores = Scores.of(measured)
    assert "multilabel frozen: unlabeled" in scores.verdict() and "mean AP with 12 images" in scores.verdict()


def test_multilabel_is_at_chance_where_nothing_can_be_known() -> None:
    model = EvaluatedModel(encoder(), transfer=Transfer(train=("frozen",)))
    found = values(multilabel.TASK(model, (labelled(40, 0, False), labelled(200, 1, False))), "mean AP")
    assert abs(found["frozen", "unlabeled"] - found["frozen", "class frequency"]) < 0.1


def test_training_all_learns_what_frozen_random_weights_hide() -> None:
    model = EvaluatedModel(encoder(), steps=40, transfer=Transfer(train=("all",)))
    parts = multilabel.TASK.parts(Source.of(model.encoder, model.encoder, (labelled(40, 0), labelled(60, 1))))
    measured = (m for m in multilabel.TASK.measure(model, parts) if m.features == "unlabeled")
    assert float(next(measured).values) > 0.9


def test_evaluate_saves_after_every_network_and_names_wrong_options(tmp_path: Path) -> None:
    folder(tmp_path, 4)
    saved: list[int] = []
    lines: list[str] = []
    scores = evaluate(
        encoder(), str(tmp_path), probe="segmentation", size=24, steps=1, transfer=Transfer(labels=(2, "all")),
        save=lambda one: saved.append(len(one)), progress=lines.append, device="cpu",
    )  # fmt: skip
    assert saved == list(range(1, 9)) and len(scores) == 8
    assert scores.about["options"]["transfer"] == {"labels": [2, "all"]} and list(scores.pictures) == [
        "segmentation"
    ]
    assert any(line.startswith("segmentation, 2 labelled images, unlabeled: mean IoU") for line in lines)
    for options, words in (
        (
            {"probe": "knn", "transfer": Transfer(seeds=2)},
            "transfer is for the tasks multilabel, segmentation",
        ),
        ({"probe": "segmentation", "transfer": Transfer(labels=("few",))}, "labels must be whole numbers"),
        (
            {"probe": "segmentation", "transfer": Transfer(train=("frozen",))},
            "train must be one of head, all",
        ),
        (
            {"probe": "segmentation", "transfer": Transfer(labels=(9,))},
            "at most the 4 labelled training images",
        ),
        ({"probe": "detection"}, "data must have boxes"),
        (
            {"probe": "knn", "size": 24},
            "size is for the tasks propagation, segmentation, detection",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(encoder(), str(tmp_path), device="cpu", **options)


def test_pretraining_sees_no_mask(tmp_path: Path) -> None:
    assert len(open_data(folder(tmp_path, 4))) == 4


def norm_statistics(network: Any) -> list[Tensor]:
    return [value for name, value in network.state_dict().items() if "running_mean" in name]


def test_norms_of_ours_and_random_see_the_training_images_alike() -> None:
    model = EvaluatedModel(encoder())
    data = labelled(20, 0)
    random, again = (transfer.start(model, "random", data, 0) for _ in range(2))
    other = transfer.start(model, "random", data, 1)
    assert random is not None and other is not None
    assert all(map(torch.equal, norm_statistics(random), norm_statistics(again)))
    assert not all(map(torch.equal, norm_statistics(random), norm_statistics(other)))
    ours = transfer.start(model, "unlabeled", data, 0)
    assert ours is not None and ours is not model.encoder


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_part_without_any_known_class_is_refused_before_training(part: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0)
    for folder, known in (("train", part == "test"), ("test", part == "training")):
        for number in range(3):
            pixels = values.integers(0, 255, (8, 8), dtype=np.uint8)
            mask = values.integers(0, 2, (8, 8), dtype=np.uint8) if known else np.full((8, 8), 255, np.uint8)
            for name, content in (("images", pixels), ("masks", mask)):
                (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(tmp_path / folder / name / f"{folder}{number}.png")
    with pytest.raises(
        ValueError, match=f"masks of a known class in its {part} part, got .* none in 3 images"
    ):
        transfer.open_annotated(Source(tmp_path, None, {"kind": "image"}), "boxes", "masks")
