"""Batches: what they hold, where they lie, and that subsets share memory."""

import pytest
import torch

from unlabeled.data import Images, from_images
from unlabeled.data.image import data as images

SIZES = [(2, 3), (4, 1), (2, 3), (1, 5)]


def ragged() -> tuple[Images, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]
    data = Images(
        torch.cat([part.flatten() for part in parts]),
        torch.tensor(SIZES),
        channels=3,
        name="ragged",
        paths=list("abcd"),
        labels=torch.tensor([0, 1, 0, 1]),
    )
    return data, parts


def equal_sizes(samples: int = 10) -> tuple[Images, torch.Tensor]:
    pixels = torch.arange(samples * 12).reshape(samples, 3, 2, 2).to(torch.uint8)
    return from_images(pixels, torch.arange(samples) % 2), pixels


def test_equal_images_are_indexed_and_carry_no_size():
    data, pixels = equal_sizes()
    index = torch.tensor([7, 0, 7])
    batch = data.batch(index)
    assert set(batch) == {"image", "index"}
    assert torch.equal(batch["image"], pixels[index]) and torch.equal(batch["index"], index)
    assert data.pixels.data_ptr() == pixels.data_ptr(), "the images were copied"


def test_images_of_different_sizes_are_padded_at_the_bottom_and_right():
    data, parts = ragged()
    index = torch.tensor([3, 0, 1])
    batch = data.batch(index)
    assert batch["image"].shape == (3, 3, 4, 5)
    assert batch["size"].tolist() == [list(SIZES[row]) for row in index]
    for image, row in zip(batch["image"], index.tolist()):
        height, width = SIZES[row]
        assert torch.equal(image[:, :height, :width], parts[row])
        assert image.sum() == parts[row].sum()


def test_labels_are_in_no_batch():
    data, _ = equal_sizes()
    assert data.labels is not None
    assert all(set(batch) == {"image", "index"} for batch in data.batches(3))


def test_batches_give_all_samples_in_order():
    data, pixels = equal_sizes()
    batches = list(data.batches(4))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), pixels)


def test_samples_are_different_rows_and_repeat_with_the_seed():
    data, _ = equal_sizes()
    first = data.sample(6, seed=1)["index"]
    assert len(first.unique()) == 6
    assert torch.equal(first, data.sample(6, seed=1)["index"])
    assert not torch.equal(first, data.sample(6, seed=2)["index"])
    assert len(data.sample(100)["index"]) == 10


@pytest.mark.parametrize("rows", [torch.tensor([3, 1]), torch.tensor([False, True, False, True])])
def test_subsets_count_their_own_rows_and_share_the_memory(rows):
    data, parts = ragged()
    subset = data.subset(rows)
    chosen = torch.arange(4)[rows].tolist()
    assert subset.pixels.data_ptr() == data.pixels.data_ptr()
    assert subset.paths == [data.paths[row] for row in chosen]
    assert subset.labels is not None and subset.labels.tolist() == [1, 1]
    for number, row in enumerate(chosen):
        image = subset.batch(torch.tensor([number]))["image"][0]
        assert torch.equal(image, parts[row])
    assert len(data) == 4 and data.paths == list("abcd")


def test_subsets_of_subsets_lead_to_the_same_images():
    data, pixels = equal_sizes()
    subset = data.subset(torch.arange(2, 9)).subset(torch.tensor([4, 0]))
    assert torch.equal(subset.batch(torch.arange(2))["image"], pixels[[6, 2]])


def test_a_subset_of_one_size_needs_no_padding():
    data, parts = ragged()
    batch = data.subset(torch.tensor([0, 2])).batch(torch.arange(2))
    assert set(batch) == {"image", "index"}
    assert torch.equal(batch["image"], torch.stack([parts[0], parts[2]]))


def test_data_moves_to_a_device_where_it_fits_and_else_its_batches_do(monkeypatch):
    for data in (equal_sizes()[0], ragged()[0]):
        index = torch.tensor([1, 0])
        there = data.to("meta")
        assert there.pixels.device.type == "meta" and data.pixels.device.type == "cpu"
        monkeypatch.setattr(images, "fits_on", lambda size, device: False)
        apart = data.to("meta")
        assert apart.pixels.device.type == "cpu"
        assert all(value.device.type == "meta" for value in apart.batch(index).values())
        assert torch.equal(apart.to("cpu").batch(index)["image"], data.batch(index)["image"])
        monkeypatch.undo()


def test_training_size_is_the_common_or_the_usual_shorter_side():
    assert equal_sizes()[0].image_size == 2
    assert (
        Images(
            torch.zeros(3000), torch.tensor([[10, 100], [100, 20]]), channels=1, name="", paths=["a", "b"]
        ).image_size
        == 10
    )
