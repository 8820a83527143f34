"""Orders up to the direction of time: what the classes are, and that labels say what is shown."""

import itertools

import pytest
import torch

from unlabeled.parts.orders import orders_up_to_direction, shuffle


@pytest.mark.parametrize(("frames", "classes"), [(3, 3), (4, 12), (5, 60)])
def test_classes_and_the_same_played_backward_are_all_orders(frames, classes):
    orders = orders_up_to_direction(frames)
    assert len(orders) == classes
    both = torch.cat([orders, frames - 1 - orders])
    assert sorted(map(tuple, both.tolist())) == sorted(itertools.permutations(range(frames)))


def test_a_clip_and_the_same_backward_get_one_label_when_they_look_alike():
    """Of (1, 3, 4, 2) that is (4, 2, 1, 3), not (2, 4, 3, 1): the frames are counted from the end."""
    orders = [tuple(order) for order in orders_up_to_direction(4).tolist()]
    assert (0, 2, 3, 1) in orders and (3, 1, 0, 2) not in orders and (1, 3, 2, 0) in orders


def test_labels_say_what_is_shown_and_all_orders_are_equally_likely():
    torch.manual_seed(0)
    orders = orders_up_to_direction(4)
    clips = torch.arange(4).expand(4800, 4)[..., None]
    shown, labels = shuffle(clips, orders)
    forward = (shown[..., 0] == orders[labels]).all(1)
    assert (forward ^ (shown[..., 0] == 3 - orders[labels]).all(1)).all()
    counts = torch.bincount(2 * labels + forward, minlength=24)
    assert (counts - 200).abs().max() < 4 * 200**0.5
