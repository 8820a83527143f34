"""The moving average against its closed form, and its schedule against known values."""

import pytest
import torch
from torch import nn

from unlabeled.parts.teacher import Teacher, cosine_momentum


@pytest.mark.parametrize(
    ("start", "values"),
    [(0.996, [0.996, 0.996586, 0.998, 0.999414, 1]), (0.99, [0.99, 0.991464, 0.995, 0.998536, 1])],
)
def test_momentum_rises_along_half_a_cosine(start: float, values: list[float]) -> None:
    for progress, value in zip([0, 0.25, 0.5, 0.75, 1], values):
        assert cosine_momentum(start, progress) == pytest.approx(value, abs=5e-7)


def test_teacher_of_a_frozen_student_follows_the_closed_form() -> None:
    teacher, student = Teacher(nn.Linear(3, 2).double()), nn.Linear(3, 2).double()
    before = [parameter.clone() for parameter in teacher.parameters()]
    for _ in range(20):
        teacher.update(0.9, student)
    for start, now, goal in zip(before, teacher.parameters(), student.parameters()):
        torch.testing.assert_close(now, 0.9**20 * start + (1 - 0.9**20) * goal, rtol=1e-12, atol=1e-12)


def test_momentum_1_stands_still_and_momentum_0_copies() -> None:
    teacher, student = Teacher(nn.Linear(3, 2)), nn.Linear(3, 2)
    before = teacher.networks[0].weight.clone()
    teacher.update(1.0, student)
    assert torch.equal(teacher.networks[0].weight, before)
    teacher.update(0.0, student)
    assert torch.equal(teacher.networks[0].weight, student.weight)


def test_teacher_starts_equal_and_gives_no_gradient_to_itself_or_its_input() -> None:
    encoder, head = nn.Linear(4, 3), nn.Linear(3, 2)
    teacher, inputs = Teacher(encoder, head), torch.randn(5, 4, requires_grad=True)
    output = teacher(inputs)
    torch.testing.assert_close(output, head(encoder(inputs)))
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert encoder.weight.requires_grad


def test_norms_of_the_teacher_keep_their_own_statistics_until_it_restarts() -> None:
    student = nn.BatchNorm1d(2)
    teacher = Teacher(student)
    teacher(torch.randn(64, 2) + 5)
    own = teacher.networks[0].running_mean.clone()
    teacher.update(0.5, student)
    assert torch.equal(teacher.networks[0].running_mean, own) and own.min() > 0
    teacher.restart(student)
    assert torch.equal(teacher.networks[0].running_mean, student.running_mean)


def test_teacher_moves_by_a_thousandth_although_the_student_computes_in_bfloat16() -> None:
    student = nn.Linear(1, 1, bias=False)
    nn.init.ones_(student.weight)
    teacher = Teacher(student)
    nn.init.constant_(student.weight, 1.5)
    with torch.autocast("cpu", torch.bfloat16):
        teacher.update(0.999, student)
    assert teacher.networks[0].weight.item() == pytest.approx(1.0005, abs=1e-6)


def test_teacher_in_half_precision_is_refused() -> None:
    student = nn.Linear(2, 2).bfloat16()
    with pytest.raises(ValueError, match=r"teacher must be float32, got torch\.bfloat16"):
        Teacher(student).update(0.9, student)
