"""Dividing data: what is equal or of one source is never on both sides."""

import logging

import pytest
import torch
from torch import Tensor

from unlabeled.data import Images, from_images, open_splits
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.groups import joined
from unlabeled.data.splits import contradictions, divide, units


def noise(samples: int, seed: int = 0, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (samples, 1, size, size), generator=generator).to(torch.uint8)


def of(labels: Tensor, groups: Tensor | None) -> Images:
    data = from_images(noise(len(labels)), labels)
    data.groups = groups
    return data


@pytest.mark.parametrize("seed", range(4))
def test_sets_are_those_of_a_search_through_all_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(-9, 9, (25,), generator=generator) * 2**50
    second = torch.randint(0, 18, (25,), generator=generator)
    slow = torch.arange(25)
    for _ in range(25):
        for one in range(25):
            for other in range(25):
                if first[one] == first[other] or second[one] == second[other]:
                    slow[[one, other]] = int(min(slow[one], slow[other]))
    sets = joined(first, second)
    assert ((sets[:, None] == sets) == (slow[:, None] == slow)).all()
    assert sets.unique().tolist() == list(range(int(sets.max()) + 1))


def test_copies_join_groups_that_share_them():
    images = noise(6)
    images[3] = images[0]
    data = from_images(images)
    data.groups = torch.tensor([7, 7, 5, 5, 2, 1])
    assert units(data).tolist() == [0, 0, 0, 0, 1, 2]


def test_equal_images_are_never_on_both_sides():
    data = from_images(noise(100).repeat(4, 1, 1, 1), (torch.arange(100) % 2).repeat(4))
    train, test = open_splits(data)
    assert not {*train.digests().tolist()} & {*test.digests().tolist()}
    assert len(train) == 320 and len(test) == 80
    assert test.labels.bincount().tolist() == [40, 40]


def test_without_groups_or_copies_the_division_is_by_samples():
    labels = torch.arange(50) % 3
    alone, each = divide(of(labels, None)), divide(of(labels, torch.arange(50) * 3))
    assert [part.paths for part in alone] == [part.paths for part in each]


@pytest.mark.parametrize("seed", range(30))
def test_groups_are_whole_and_every_class_of_two_groups_is_in_both_parts(seed):
    generator = torch.Generator().manual_seed(seed)
    samples = 300
    groups = (torch.rand(samples, generator=generator).pow(2) * 40).long()
    pure = seed % 2
    own = torch.randint(0, 4, (40,), generator=generator)
    labels = own[groups] if pure else torch.randint(0, 4, (samples,), generator=generator)
    train, test = divide(of(labels, groups))
    assert not {*train.groups.tolist()} & {*test.groups.tolist()}
    assert len(train) + len(test) == samples and {*train.paths}.isdisjoint(test.paths)
    for label in range(4):
        if len(groups[labels == label].unique()) > 1:
            assert (train.labels == label).any() and (test.labels == label).any()
    largest = int(groups.bincount().max())
    assert abs(len(test) - 0.2 * samples) <= 4 * largest
    assert test.paths == divide(of(labels, groups))[1].paths


def test_six_speakers_who_say_every_word_give_one_for_testing():
    speaker = torch.arange(600) % 6
    _, test = divide(of(torch.arange(600) // 60, speaker))
    assert len(test.groups.unique()) == 1 and test.labels.bincount().tolist() == [10] * 10


def test_copies_are_not_more_often_tested_than_others():
    images = torch.cat([noise(400, 0), noise(200, 1).repeat(2, 1, 1, 1)])
    _, test = divide(from_images(images))
    copies = [row for row in map(int, (path[6:-1] for path in test.paths)) if row >= 400]
    assert len(test) == 160 and 50 <= len(copies) <= 110


def test_a_class_of_one_group_is_for_training_only():
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    train, test = divide(of(labels, torch.tensor([0, 0, 1, 2, 3, 4, 4])))
    assert train.labels.unique().tolist() == [0, 1, 2] and test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "groups"), [([0, 0, 0], [0, 0, 0]), ([0, 0, 1, 1], [0, 0, 1, 1]), ([0, 1, 2], [4, 4, 4])]
)
def test_one_group_for_each_class_cannot_be_divided(labels, groups):
    with pytest.raises(ValueError, match=r"at least 2 groups of a class .* --group none"):
        divide(of(torch.tensor(labels), torch.tensor(groups)))


def test_one_image_many_times_cannot_be_divided():
    with pytest.raises(ValueError, match="got 5, 4 of them equal to others, of 1 classes in array"):
        divide(from_images(noise(1).repeat(5, 1, 1, 1)))


def test_what_was_kept_together_is_said(caplog):
    data = from_images(noise(20).repeat(2, 1, 1, 1), torch.arange(40) // 20, name="twice")
    data.groups, data.group_unit = torch.arange(40) % 10, "scenes"
    with caplog.at_level(logging.WARNING):
        divide(data)
    assert caplog.messages == [
        "twice divided 80 to 20 by 10 scenes; 20 duplicate images kept in the same part; "
        "40 equal images have contradictory labels"
    ]
    caplog.clear()
    for _ in range(2):
        divide(from_images(noise(20), torch.arange(20) % 2, name="singles"))
    assert caplog.messages == ["singles divided 80 to 20 at random within each class, always the same way"]


def test_labels_disagree_only_on_equal_samples_that_are_known():
    digests = torch.tensor([5, 5, 5, -3, -3, 8, 9, 9])
    assert contradictions(digests, torch.tensor([0, 1, 0, 2, 2, 1, -1, 4])) == 3
    assert contradictions(digests, None) == 0


def test_sounds_of_one_recording_stay_together():
    sounds = from_waveforms(torch.rand(40, 30) - 0.5, 8000, labels=torch.arange(40) % 2)
    sounds.groups = torch.arange(40) // 4
    train, test = divide(sounds)
    assert not {*train.groups.tolist()} & {*test.groups.tolist()} and len(test.groups.unique()) == 2
