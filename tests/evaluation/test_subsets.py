"""Draws of labels are balanced, nested and repeatable."""

import pytest
import torch

from unlabeled.evaluation.subsets import counts, draw

LABELS = torch.tensor([0, 1, 2] * 20 + [0] * 15)


def test_each_class_has_the_asked_number():
    for rows in draw(LABELS, 7, classes=3):
        assert LABELS[rows].bincount().tolist() == [7, 7, 7]
        assert len(rows.unique()) == 21


def test_a_draw_with_fewer_labels_lies_inside_the_one_with_more():
    for few, many in zip(draw(LABELS, 3, classes=3), draw(LABELS, 10, classes=3), strict=True):
        assert set(few.tolist()) < set(many.tolist())


def test_draws_differ_and_repeat_with_their_seed():
    first, again, other = (draw(LABELS, 5, classes=3, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_too_few_labels_name_the_class_and_its_count():
    with pytest.raises(ValueError, match="got 21: class dog has 20"):
        draw(LABELS, 21, classes=["cat", "dog", "owl"])


def test_classes_that_do_not_occur_are_left_out():
    from_one = LABELS + 1  # as in data whose first class is 1, beside a name that nothing has
    (rows,) = draw(from_one, 4, classes=["none", "cat", "dog", "owl", "emu"], draws=1)
    assert from_one[rows].bincount().tolist() == [0, 4, 4, 4]
    with pytest.raises(ValueError, match="got 21: class dog has 20"):
        draw(from_one, 21, classes=["none", "cat", "dog", "owl"])


def test_a_share_is_of_each_class_by_itself_and_at_least_one():
    for rows in draw(LABELS, "10%", classes=3):
        assert LABELS[rows].bincount().tolist() == [4, 2, 2]  # of 35, 20 and 20
    for rows in draw(LABELS, "1%", classes=3):
        assert LABELS[rows].bincount().tolist() == [1, 1, 1]
    for few, many in zip(draw(LABELS, "10%", classes=3), draw(LABELS, "50%", classes=3), strict=True):
        assert set(few.tolist()) < set(many.tolist())


def test_one_percent_lies_inside_ten_percent_of_the_same_draw():
    labels = torch.arange(900) % 3
    for few, many in zip(draw(labels, "1%", classes=3), draw(labels, "10%", classes=3), strict=True):
        assert labels[few].bincount().tolist() == [3, 3, 3] and set(few.tolist()) < set(many.tolist())


def test_counts_are_numbers_then_shares_then_all():
    assert counts(["all", "10%", "1 %", 5, "1", "0.5%", "1.0%"]) == [1, 5, "0.5%", "1%", "10%", "all"]
    assert counts(["100%"]) == ["all"]


@pytest.mark.parametrize("count", [0, -1, 1.5, "0%", "101%", "-1%", "few", "", True])
def test_other_counts_are_refused_by_name(count):
    with pytest.raises(
        ValueError, match="labels_per_class must be whole numbers above 0, percentages such as 1% or all"
    ):
        counts([count])


def test_no_count_at_all_is_refused():
    with pytest.raises(ValueError, match=r"labels_per_class must be .*, got nothing"):
        counts([])
