from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from torch import nn

from unlabeled.parts import gather
from unlabeled.parts.stack import Stack, frozen

SHAPES = [(3, 8, 8), (5, 8, 8), (7, 4, 4)]


def test_each_decoder_goes_from_the_output_of_its_stage_to_its_input():
    for kind in ("conv", "linear"):
        stack = Stack(kind, SHAPES)
        for decoder, (before, after) in zip(stack.decoders, pairwise(SHAPES), strict=True):
            assert decoder(torch.rand(2, *after)).shape == (2, *before)
        assert stack(torch.rand(2, 7, 4, 4)).shape == (2, 3, 8, 8)


def test_the_current_stage_is_saved_and_restarts():
    stack, other = Stack("conv", SHAPES), Stack("conv", SHAPES)
    stack.follow(0.5)
    assert stack.stage == 1
    other.load_state_dict(stack.state_dict())
    assert other.stage == 1
    stack.follow(1.0)
    assert stack.stage == 2
    stack.restart()
    assert stack.stage == 0
    assert stack.progress.dtype == torch.float32  # an Apple GPU has no float64


def test_a_run_resumed_with_more_steps_returns_to_no_earlier_stage():
    stack = Stack("conv", SHAPES)
    stack.follow(1.0)
    stack.follow(0.5)  # the first step of a second half
    assert stack.stage == 2
    stack.restart()
    stack.follow(0.5)
    assert stack.stage == 1


def test_frozen_stages_use_what_their_norms_have_learned_and_learn_nothing():
    torch.manual_seed(0)
    stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Conv2d(4, 2, 1)])
    images = torch.rand(5, 3, 8, 8)
    for _ in range(3):
        stages[0](images)
    before = {name: value.clone() for name, value in stages.state_dict().items()}
    output = frozen(list(stages), images)
    assert not output.requires_grad and stages[0].training and stages[0][1].training
    torch.testing.assert_close(output[:1], frozen(list(stages), images[:1]))  # no statistics of the batch
    assert all(torch.equal(value, before[name]) for name, value in stages.state_dict().items())


def test_several_processes_are_refused():
    with (
        patch.object(gather, "processes", lambda: 2),
        pytest.raises(ValueError, match=r"devices and nodes must be 1 .* got 2 processes"),
    ):
        Stack("conv", SHAPES).restart()
