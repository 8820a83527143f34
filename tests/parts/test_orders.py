"""Orders up to reversal: what the classes are, and that labels say what is shown."""

import itertools

import pytest
import torch

from unlabeled.parts.orders import orders_up_to_reversal, shuffle


@pytest.mark.parametrize(("frames", "classes"), [(3, 3), (4, 12), (5, 60)])
def test_classes_and_their_reverses_are_all_orders(frames, classes):
    orders = [tuple(order) for order in orders_up_to_reversal(frames).tolist()]
    assert len(orders) == classes
    assert sorted(orders + [order[::-1] for order in orders]) == sorted(itertools.permutations(range(frames)))


def test_labels_say_what_is_shown_and_all_orders_are_equally_likely():
    torch.manual_seed(0)
    orders = orders_up_to_reversal(4)
    clips = torch.arange(4).expand(4800, 4)[..., None]
    shown, labels = shuffle(clips, orders)
    forward = (shown[..., 0] == orders[labels]).all(1)
    assert (forward ^ (shown[..., 0] == orders[labels].flip(1)).all(1)).all()
    counts = torch.bincount(2 * labels + forward, minlength=24)
    assert (counts - 200).abs().max() < 4 * 200**0.5
