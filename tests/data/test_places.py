"""Places: which images a batch shows of a group, from a folder of the user's too, and what is refused or said."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled.data import Images, from_images, open_data
from unlabeled.data.image.places import Places, places_of
from unlabeled.data.notes import note


def numbered(groups: list[int]) -> Images:
    """Images whose pixels are their number."""
    pixels = torch.arange(len(groups), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    data = from_images(pixels.clone())
    data.groups = torch.tensor(groups)
    return data


def drawn(data: Places, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return data.batch(torch.arange(len(data)))["video"][:, :, 0, 0, 0].long()


def test_a_batch_shows_different_images_of_one_group_in_random_order() -> None:
    groups = [7, 3, 7, 3, 7, 3, 3, 9, 9]
    data = places_of(numbered(groups), 3, "test")
    assert len(data) == 3 and data.shape == {"channels": 1, "image_size": 2}
    seen: list[set[tuple[int, ...]]] = [set(), set(), set()]
    for seed in range(200):
        for place, numbers in enumerate(drawn(data, seed).tolist()):
            assert len({groups[number] for number in numbers}) == 1
            assert len(set(numbers)) == min(3, groups.count(groups[numbers[0]]))
            assert numbers[0] not in numbers[1:]
            seen[place].add(tuple(numbers))
    assert [len(orders) for orders in seen] == [4 * 3 * 2, 3 * 2, 2]  # all that are possible


def test_groups_of_one_image_are_left_out_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    note.cache_clear()
    with caplog.at_level(logging.WARNING):
        data = places_of(numbered([0, 1, 1, 2]), 3, "test")
    assert len(data) == 1 and drawn(data).unique().tolist() == [1, 2]
    assert caplog.messages == ["array: 2 of 3 groups are skipped, as they have only one image"]


def test_without_groups_or_with_single_images_the_error_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"images must have groups for seco.*--group folder"):
        places_of(from_images(torch.zeros(4, 3, 2, 2, dtype=torch.uint8)), 3, "seco")
    with pytest.raises(ValueError, match="at least 2 images for seco, got 4 groups of 1"):
        places_of(numbered([0, 1, 2, 3]), 3, "seco")
    with pytest.raises(ValueError, match="draws must be at least 2"):
        places_of(numbered([0, 0]), 1, "seco")


def test_a_folder_of_places_opens_by_folder_with_sizes_where_these_differ(tmp_path: Path) -> None:
    for place, times in (("north", 3), ("south", 2)):
        (tmp_path / place).mkdir()
        for time in range(times):
            side = 6 + 2 * (place == "south")
            pixels = np.full((side, side, 3), 40 * time + 100 * (place == "south"), np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f"2020-0{time + 1}.png")
    data = places_of(open_data(tmp_path, group="folder", cache=False), 3, "seco")
    batch = data.batch(torch.arange(2))
    assert batch["video"].shape == (2, 3, 3, 8, 8)
    assert batch["size"].tolist() == [[[6, 6]] * 3, [[8, 8]] * 3]
    corner = batch["video"][:, :, 0, 0, 0].tolist()
    assert sorted(corner[0]) == [0, 40, 80] and {*corner[1]} == {100, 140}


def test_subsets_and_digests_are_those_of_the_places() -> None:
    images = numbered([0, 0, 1, 1, 1, 2, 2])
    data = places_of(images, 3, "test")
    part = data.subset(torch.tensor([2, 0]))
    assert drawn(part)[0].unique().tolist() == [5, 6] and drawn(part)[1].unique().tolist() == [0, 1]
    again = numbered([0, 0, 1, 1, 1, 2, 2])
    again.groups = again.groups.flip(0)  # type: ignore[union-attr]
    other = places_of(again, 3, "test")
    assert torch.equal(data.digests(), places_of(images, 2, "test").digests())
    assert len(data.digests().unique()) == 3 and not torch.equal(data.digests(), other.digests())


def test_built_in_seasons_are_groups_of_five() -> None:
    data = open_data("seasons", split="test")
    assert data.group_unit == "places" and torch.equal(data.groups.bincount(), torch.full((100,), 5))  # type: ignore
    assert {*data.factors} == {"season_sin", "season_cos", "haze"}
    assert open_data("seasons", split="test", channels=1).shape == {"channels": 1, "image_size": 32}
    with pytest.raises(ValueError, match="variant"):
        open_data("seasons:nonsense")


def test_images_of_places_of_any_size_are_drawn_equally_often_without_padding_to_the_largest() -> None:
    data = places_of(numbered([0] * 100 + [1] * 2 + [2] * 4), 3, "test")
    assert data.rows.shape == (106,)
    numbers = data.images.batch(torch.arange(106))["image"][:, 0, 0, 0]
    assert torch.equal(numbers, torch.arange(106, dtype=torch.uint8))
    seen = torch.zeros(3, 106)
    torch.manual_seed(0)
    for _ in range(400):
        pictures = data.batch(torch.arange(3))["video"][:, :, 0, 0, 0].long()
        assert pictures[0].unique().numel() == 3 and pictures[2].unique().numel() == 3
        seen.scatter_add_(1, pictures, torch.ones(3, 3))
    assert seen[0, 100:].sum() == seen[1, :100].sum() == seen[2, :102].sum() == 0
    assert (seen[2, 102:] / 400 - 0.75).abs().max() < 0.1 and (seen[0, :100] / 400 - 0.03).abs().max() < 0.04
