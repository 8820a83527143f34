"""Images that a program holds are the images of files, and what cannot be used is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data import Data, open_data, open_splits

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def images(data: Data) -> np.ndarray:
    return data.batch(torch.arange(len(data)))["image"].permute(0, 2, 3, 1).numpy()


def labels(data: Data) -> list[str]:
    assert data.labels is not None and data.classes is not None
    return [data.classes[label] for label in data.labels.tolist()]


class Pairs(torch.utils.data.Dataset):
    """A map-style data set."""

    def __init__(self, samples):
        self.given = samples

    def __len__(self):
        return len(self.given)

    def __getitem__(self, row):
        if self.given[row] is None:
            raise OSError("the disk is gone")
        return self.given[row]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(pixels, row % 2) for row, pixels in enumerate(PIXELS)])


def sources(folder: Path) -> dict[str, object]:
    import datasets
    import pandas

    paths = []
    for row, pixels in enumerate(PIXELS):
        paths.append(str(folder / f"{row}.png"))
        Image.fromarray(pixels).save(paths[-1])
    pictures = [Image.fromarray(pixels) for pixels in PIXELS]
    tensors = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    numbers = [row % 2 for row in range(6)]
    known = Pairs(list(zip(pictures, numbers)))
    rows = datasets.Dataset.from_dict({"image": paths, "label": numbers})
    rows = rows.cast_column("image", datasets.Image())
    return {
        "paths": paths,
        "Paths": [Path(path) for path in paths],
        "pictures": pictures,
        "arrays": list(PIXELS),
        "tensors": list(tensors),
        "floats": list(tensors / 255),
        "pairs of paths": list(zip(paths, numbers)),
        "map-style": known,
        "tensors and tensor labels": Pairs([(t, torch.tensor(n)) for t, n in zip(tensors, numbers)]),
        "mappings": Pairs([{"pixel_values": p, "Label": n} for p, n in zip(pictures, numbers)]),
        "subset": torch.utils.data.Subset(known, range(6)),
        "stream": Stream(),
        "datasets": rows,
        "iterable datasets": rows.to_iterable_dataset(),
        "datasets with a transform": rows.with_transform(
            lambda batch: {"pixel_values": [0 for _ in batch["image"]]}
        ),
        "frame of paths": pandas.DataFrame({"path": paths, "label": numbers}),
        "frame of pictures": pandas.DataFrame({"image": pictures, "label": numbers}),
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("paths", "Paths", "pictures", "arrays", "tensors", "floats", "pairs of paths", "map-style"),
        *("tensors and tensor labels", "mappings", "subset", "stream", "datasets", "iterable datasets"),
        "datasets with a transform",
        *("frame of paths", "frame of pictures"),
    ],
)
def test_objects_give_the_images_and_labels_that_they_hold(tmp_path, kind):
    data = open_data(sources(tmp_path)[kind], cache=tmp_path / "cache")
    assert np.array_equal(images(data), PIXELS)
    bare = ("paths", "Paths", "pictures", "arrays", "tensors", "floats")
    assert data.labels is None if kind in bare else labels(data) == ["0", "1"] * 3
    assert data.skipped == []


def test_parts_by_name_are_splits(tmp_path):
    import datasets

    rows = sources(tmp_path)["datasets"]
    train, test = open_splits(datasets.DatasetDict(train=rows, validation=rows), cache=False)
    assert len(train) == len(test) == 6
    train, test = open_splits({"train": list(PIXELS), "test": list(PIXELS[:2])})
    assert (len(train), len(test)) == (6, 2)


def test_names_of_classes_are_those_of_the_data_set(tmp_path):
    known = Pairs([(pixels, row % 2) for row, pixels in enumerate(PIXELS)])
    known.classes = ["low", "high"]
    assert labels(open_data(torch.utils.data.Subset(known, [1, 2]))) == ["high", "low"]


def test_arrays_may_differ_in_size_and_have_any_bands():
    data = open_data([PIXELS[0], PIXELS[1][:2]])
    assert data.sizes.tolist() == [[4, 5], [2, 5]]
    assert open_data(list(np.zeros((2, 8, 9, 5), np.uint8))).channels == 5


def test_a_sample_that_cannot_be_read_is_skipped_with_its_reason():
    given = [Image.fromarray(pixels) for pixels in PIXELS]
    data = open_data(Pairs([*given, None]), max_broken=0.2)
    assert len(data) == 6 and data.skipped == [("Pairs[6]", "the disk is gone")]
    with pytest.raises(ValueError, match="1 of 7 files in Pairs cannot be read"):
        open_data(Pairs([*given, None]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "data must be a path, .* got int"),
        (None, "got NoneType"),
        ([], "got list"),
        ((row for row in PIXELS), "got generator"),
        (torch.utils.data.DataLoader(Pairs([1])), "got DataLoader"),
        ([1, 2], "samples of list must be images, or images and labels, got int"),
        (Pairs([]), "no images in Pairs: it is empty"),
        (["gone.png"], "must be a list of paths of images, got 1 that are not there: .*gone.png"),
        (list(torch.full((3, 3, 4, 4), torch.nan)), "no pixel is a finite number"),
        ({"train": {"a": [], "b": []}}, "got list"),
    ],
)
def test_other_objects_are_refused_in_one_line(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_data(source)
    assert "\n" not in str(caught.value)


def test_a_column_of_records_can_be_named():
    rows = [{"image": pixels, "a": row % 2, "b": row % 3} for row, pixels in enumerate(PIXELS)]
    assert open_data(rows).labels is None
    assert labels(open_data(rows, label="b")) == ["0", "1", "2"] * 2
    with pytest.raises(ValueError, match="label must be a column of list, which has a, b, got c"):
        open_data(rows, label="c")


def test_arrays_that_differ_in_size_share_one_range_and_grey_ones_become_colour():
    deep = [np.full((4, 4), 4095, np.uint16), np.full((5, 5), 255, np.uint16)]
    data = open_data(deep)
    assert data.levels == {"integers": [[0.0, 4095.0]]}
    assert [int(data.batch(torch.tensor([row]))["image"].max()) for row in range(2)] == [255, 16]
    mixed = open_data([np.full((4, 4), 7, np.uint8), np.full((4, 4, 3), 9, np.uint8)])
    assert mixed.shape["channels"] == 3 and images(mixed)[:, 0, 0].tolist() == [[7] * 3, [9] * 3]
