"""The distance of directions against known values; who learns and who follows."""

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.byol import BYOL, loss
from unlabeled.parts.teacher import cosine_momentum


def build(**options) -> BYOL:
    torch.manual_seed(0)
    return BYOL(encoders.build("conv4", image_size=8), **{"projection_dim": 6, "hidden_dim": 12} | options)


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def give(method: BYOL, first: Tensor, second: Tensor) -> BYOL:
    method.views = (lambda batch: first), (lambda batch: second)  # type: ignore
    return method


def rows(seed: int) -> Tensor:
    return torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("factor", "value"), [(2.0, 0), (-0.5, 8)])
def test_both_directions_sum_to_0_for_equal_and_8_for_opposite_vectors(factor: float, value: float) -> None:
    vectors = rows(1)
    assert (loss(vectors, factor * vectors) * 2).item() == pytest.approx(value, abs=1e-12)


def test_orthogonal_vectors_have_the_value_that_chance_names() -> None:
    first, second = torch.eye(4, dtype=torch.float64)[:2], torch.eye(4, dtype=torch.float64)[2:]
    assert 2 * loss(first, second).item() == build().chance(4) == 4
    many = torch.randn(2, 20_000, 8, generator=torch.Generator().manual_seed(0))
    assert 2 * loss(many[0], many[1]).item() == pytest.approx(4, abs=0.03)


def test_loss_is_the_squared_distance_of_unit_vectors() -> None:
    first, second = rows(1), rows(2)
    slow = sum(((a / a.norm() - b / b.norm()) ** 2).sum() for a, b in zip(first, second)) / 5
    torch.testing.assert_close(loss(first, second), slow)
    torch.testing.assert_close(loss(3 * first, 0.1 * second), slow)


def test_gradient_is_the_numeric_one_radial_free_and_none_reaches_the_target() -> None:
    first, second = rows(1).requires_grad_(), rows(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, second.detach()), first)
    loss(first, second).backward()
    assert second.grad is None and first.grad is not None
    torch.testing.assert_close((first.grad * first).sum(1), torch.zeros(5).double(), atol=1e-15, rtol=0)


def test_teacher_starts_as_the_student_without_the_predictor_and_is_not_trained() -> None:
    method = build()
    student = [*method.encoder.parameters(), *method.head.parameters()]
    teacher = list(method.teacher.parameters())
    assert len(student) == len(teacher) and all(torch.equal(a, b) for a, b in zip(student, teacher))
    method({"image": images()}).backward()
    assert all(not p.requires_grad and p.grad is None for p in teacher)
    assert all(p.grad is not None for p in [*student, *method.predictor.parameters()])


def test_teacher_follows_with_the_scheduled_momentum() -> None:
    method, expected = build(momentum=0.9), []
    with torch.no_grad():
        for parameter in [*method.encoder.parameters(), *method.head.parameters()]:
            expected.append(parameter.clone())
            parameter.add_(1)
    for progress in (0.25, 0.5, 0.75, 1.0):
        method.after_step(progress)
        momentum = cosine_momentum(0.9, progress)
        goals = [*method.encoder.parameters(), *method.head.parameters()]
        expected = [momentum * old + (1 - momentum) * goal for old, goal in zip(expected, goals)]
    for now, value in zip(method.teacher.parameters(), expected):
        torch.testing.assert_close(now, value)


def test_swapping_the_views_leaves_the_loss() -> None:
    first, second = images(), images().flip(3)
    torch.testing.assert_close(give(build(), first, second)({}), give(build(), second, first)({}))


def test_loss_pairs_each_prediction_with_the_target_of_the_other_view() -> None:
    first, second = images(), images().flip(3)
    method = give(build(), first, second)
    value = method({})
    online = [method.predictor(method.head(method.encoder(view))) for view in (first, second)]
    expected = loss(online[0], method.teacher(second)) + loss(online[1], method.teacher(first))
    torch.testing.assert_close(value, expected)


def test_teacher_norms_use_the_statistics_of_the_batch() -> None:
    method = give(build(), images() + 3, images() - 3)
    before = [norm.clone() for name, norm in method.teacher.named_buffers() if "running_mean" in name]
    method({})
    after = [norm for name, norm in method.teacher.named_buffers() if "running_mean" in name]
    assert before and not any(torch.equal(a, b) for a, b in zip(before, after))


def test_only_the_second_view_is_solarized() -> None:
    method = build(solarize=1.0, jitter=0.0, gray=0.0, crop=1.0, flip=0.0)
    first, second = method.two_views({"image": torch.full((2, 3, 8, 8), 250, dtype=torch.uint8)})
    assert first.min() > 0.9 and second.max() < 0.1


@pytest.mark.parametrize("count", [2, 4])
def test_training_step_in_bfloat16_is_finite_down_to_two_images(count: int) -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and 0 <= value.item() <= 8
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_a_teacher_refuses_to_follow_networks_that_are_no_longer_the_methods() -> None:
    method = build()
    method.prepare(None)
    method.encoder = encoders.build("conv4", image_size=8)
    with pytest.raises(ValueError, match="networks of BYOL must be those that it was built with"):
        method.prepare(None)
