"""The moving average against its closed form, and its schedule against known values."""

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from unlabeled.method import Method
from unlabeled.parts.teacher import Teacher, cosine_momentum, token_targets


@pytest.mark.parametrize(
    ("start", "values"),
    [(0.996, [0.996, 0.996586, 0.998, 0.999414, 1]), (0.99, [0.99, 0.991464, 0.995, 0.998536, 1])],
)
def test_momentum_rises_along_half_a_cosine(start: float, values: list[float]) -> None:
    for progress, value in zip([0, 0.25, 0.5, 0.75, 1], values):
        assert cosine_momentum(start, progress) == pytest.approx(value, abs=5e-7)


def moved(network: nn.Module, seed: int = 1) -> nn.Module:
    """The network with other weights, as after some optimizer steps."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def test_teacher_of_a_frozen_student_follows_the_closed_form() -> None:
    student = nn.Linear(3, 2).double()
    teacher = Teacher(student, momentum=0.9)
    before = [parameter.clone() for parameter in teacher.parameters()]
    moved(student)
    for _ in range(20):
        teacher.follow(0.5)
    for start, now, goal in zip(before, teacher.parameters(), student.parameters()):
        torch.testing.assert_close(now, 0.9**20 * start + (1 - 0.9**20) * goal, rtol=1e-12, atol=1e-12)


def test_momentum_1_freezes_the_teacher_and_momentum_0_copies_the_student() -> None:
    student = nn.Linear(3, 2)
    still, twin = Teacher(student, momentum=1.0), Teacher(student, momentum=0.0)
    before = still.networks[0].weight.clone()
    moved(student)
    still.follow(0.5)
    assert torch.equal(still.networks[0].weight, before)
    twin.follow(0.5)
    assert torch.equal(twin.networks[0].weight, student.weight)


def test_rising_momentum_freezes_the_teacher_at_the_end() -> None:
    student = nn.Linear(3, 2)
    teacher = Teacher(student, momentum=0.5, rising=True)
    before = teacher.networks[0].weight.clone()
    moved(student)
    teacher.follow(1.0)
    assert torch.equal(teacher.networks[0].weight, before)
    teacher.follow(0.5)
    expected = 0.75 * before + 0.25 * student.weight
    torch.testing.assert_close(teacher.networks[0].weight, expected.detach())


def test_teacher_starts_equal_and_gives_no_gradient_to_itself_or_its_input() -> None:
    encoder, head = nn.Linear(4, 3), nn.Linear(3, 2)
    teacher, inputs = Teacher(encoder, head, momentum=0.9), torch.randn(5, 4, requires_grad=True)
    output = teacher(inputs)
    torch.testing.assert_close(output, head(encoder(inputs)))
    assert not output.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert encoder.weight.requires_grad


def test_students_are_not_submodules_of_the_teacher() -> None:
    teacher = Teacher(nn.Linear(4, 3), nn.Linear(3, 2), momentum=0.9)
    assert list(teacher.state_dict()) == [
        f"networks.{n}.{name}" for n in (0, 1) for name in ("weight", "bias")
    ]
    assert len(list(teacher.parameters())) == 4


def test_norms_of_the_teacher_keep_their_own_statistics_until_it_restarts() -> None:
    student = nn.BatchNorm1d(2)
    teacher = Teacher(student, momentum=0.5)
    teacher(torch.randn(64, 2) + 5)
    own = teacher.networks[0].running_mean.clone()
    teacher.follow(0.5)
    assert torch.equal(teacher.networks[0].running_mean, own) and own.min() > 0
    teacher.restart()
    assert torch.equal(teacher.networks[0].running_mean, student.running_mean)


def test_teacher_moves_by_a_thousandth_although_the_student_computes_in_bfloat16() -> None:
    student = nn.Linear(1, 1, bias=False)
    nn.init.ones_(student.weight)
    teacher = Teacher(student, momentum=0.999)
    nn.init.constant_(student.weight, 1.5)
    with torch.autocast("cpu", torch.bfloat16):
        teacher.follow(0.5)
    assert teacher.networks[0].weight.item() == pytest.approx(1.0005, abs=1e-6)


def test_teacher_in_half_precision_is_refused() -> None:
    student = nn.Linear(2, 2).bfloat16()
    with pytest.raises(ValueError, match=r"teacher must be float32, got torch\.bfloat16"):
        Teacher(student, momentum=0.9).follow(0.5)


class Student(Method):
    """A method whose hooks are not its own."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.parts = nn.ModuleList([Teacher(self.encoder, momentum=0.0)])

    def same(self) -> bool:
        return torch.equal(self.parts[0].networks[0].weight, self.encoder.weight)


class Encoder(nn.Linear):
    """As little of an encoder as a method accepts."""

    dim, inputs = 2, None


def test_a_method_updates_its_teachers_wherever_they_are_even_in_a_copy_of_it() -> None:
    original = Student(Encoder(3, 2))
    for method in (original, copy.deepcopy(original)):
        moved(method.encoder, seed=2)
        assert not method.same()
        method.after_step(0.5)
        assert method.same()
        moved(method.encoder, seed=3)
        method.prepare(None)  # type: ignore[arg-type]
        assert method.same()


def test_teachers_are_updated_once_whether_or_not_hooks_call_super() -> None:
    class Mixin:
        def after_step(self, progress: float) -> None:
            self.order.append(("mixin", self.parts[0].networks[0].weight.item()))

    class Deaf(Mixin, Student):
        order: ClassVar[list[tuple[str, float]]] = []

        def prepare(self, data: Any) -> None:
            self.order.append(("prepare", self.parts[0].networks[0].weight.item()))

    class Polite(Deaf):
        def after_step(self, progress: float) -> None:
            super().after_step(progress)

        def prepare(self, data: Any) -> None:
            super().prepare(data)

    for kind in (Deaf, Polite):
        kind.order.clear()
        method = kind(Encoder(1, 1, bias=False))
        method.parts[0].momentum = 0.5
        nn.init.constant_(method.encoder.weight, 4.0)
        method.prepare(None)
        nn.init.constant_(method.encoder.weight, 8.0)
        method.after_step(0.5)
        assert kind.order == [("prepare", 4.0), ("mixin", 6.0)]


def test_targets_of_tokens_are_normalised_and_their_spread_shows_a_collapse() -> None:
    tokens = torch.randn(50, 20, 16) * torch.linspace(1, 3, 16) + 7
    targets, spread = token_targets(tokens)
    torch.testing.assert_close(targets.mean(2), torch.zeros(50, 20), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2, correction=0), torch.ones(50, 20), atol=1e-3, rtol=0)
    assert spread.item() == pytest.approx(2.0, rel=0.05)
    targets, spread = token_targets(tokens[:1, :1].expand(50, 20, -1))
    assert spread.item() < 1e-5 and targets.var(2).min() > 0.9  # the targets themselves do not show it
