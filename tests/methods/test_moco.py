"""MoCo: the order of teacher, keys and queue in a step; InfoNCE is tested in tests/parts/test_info_nce.py."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.moco import MoCo
from unlabeled.parts.info_nce import with_queue
from unlabeled.run import load_state


def build(**options) -> MoCo:
    torch.manual_seed(0)
    return MoCo(
        encoders.build("conv4", image_size=8), **{"queue": 20, "projection_dim": 6, "splits": 1} | options
    )


def give(method: MoCo, *views: Tensor) -> MoCo:
    """Let the method see the given views in turn."""
    turns = iter(views * 100)
    method.views = lambda batch: next(turns)  # type: ignore[assignment]
    return method


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(("stored", "value"), [(4096, 8.31801), (65536, 11.09037)])
def test_collapsed_vectors_have_the_loss_of_chance(stored: int, value: float) -> None:
    ones = F.normalize(torch.ones(stored, 2, dtype=torch.float64), dim=1)
    chance = build(queue=stored).chance(8)
    assert with_queue(ones[:3], ones[:3], ones, 0.2).item() == pytest.approx(chance, rel=1e-12)
    assert chance == pytest.approx(value, abs=5e-6)


def test_keys_are_stored_after_they_were_used_and_replace_the_oldest() -> None:
    first, second = images(), images().flip(3)
    method = give(build(), first, second)
    before = method.queue.rows.clone()
    keys = F.normalize(copy.deepcopy(method.teacher)(second), dim=1)
    queries = copy.deepcopy(method.head)(copy.deepcopy(method.encoder)(first))
    torch.testing.assert_close(method({}), with_queue(queries, keys, before, 0.2))
    torch.testing.assert_close(method.queue.rows[:8], keys)
    assert torch.equal(method.queue.rows[8:], before[8:])


def test_queue_need_not_be_a_multiple_of_the_batch() -> None:
    method = give(build(), images(), images())
    for _ in range(3):
        method({})
    assert int(method.queue.pushed) == 24 and method.queue.full
    torch.testing.assert_close(method.queue.rows[:4], method.queue.rows[12:16], atol=1e-6, rtol=1e-5)


def test_teacher_gets_no_gradient_and_moves_only_after_the_step() -> None:
    method = give(build(momentum=0.9), images(), images().flip(3))
    method({}).backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    student = [*method.encoder.parameters(), *method.head.parameters()]
    start = [parameter.clone() for parameter in method.teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(start, student))
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1)
    method({})
    assert all(torch.equal(a, b) for a, b in zip(start, method.teacher.parameters()))
    method.after_step(0.5)
    for before, now, goal in zip(start, method.teacher.parameters(), student):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * goal)


def test_symmetric_loss_is_the_mean_of_both_directions() -> None:
    first, second = images(), images().flip(2)
    one, other = give(build(), first, second)({}), give(build(), second, first)({})
    both = give(build(symmetric=True), first, second)
    torch.testing.assert_close(both({}), (one + other) / 2)
    assert int(both.queue.pushed) == 16


def test_version_1_has_one_linear_layer_and_version_2_two_without_norm() -> None:
    assert [type(layer) for layer in build(projection="linear").head] == [nn.Linear]
    assert [type(layer) for layer in build().head] == [nn.Linear, nn.ReLU, nn.Linear]


def test_resumed_method_goes_on_with_the_same_queue_bits() -> None:
    method, resumed = give(build(), images(), images()), give(build(), images(), images())
    for step in range(3):
        method({})
        method.after_step(step / 4)
    resumed.load_state_dict(method.state_dict())
    torch.manual_seed(5)
    value = method({})
    torch.manual_seed(5)
    assert torch.equal(resumed({}), value)
    assert torch.equal(resumed.queue.rows, method.queue.rows)


def test_evaluation_mode_stores_nothing() -> None:
    method = give(build(), images(), images()).eval()
    before = method.queue.rows.clone()
    method({})
    assert torch.equal(method.queue.rows, before)


def test_norms_see_the_groups_and_not_the_batch() -> None:
    whole, split = (give(build(splits=splits), images(16), images(16).flip(3)) for splits in (1, 2))
    assert not torch.isclose(whole({}), split({}), rtol=1e-4)


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build(temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == method.queue.rows.dtype == torch.float32 and value.isfinite()
    assert method.queue.rows.isfinite().all()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_queue_larger_than_the_data_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"queue \(20\) is larger than the number of images \(8\)"):
        build().prepare(range(8))  # type: ignore[arg-type]
    build(queue=8).prepare(range(8))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_the_default_queue_holds_at_most_one_key_per_image_and_saved_ones_keep_their_size() -> None:
    large, small = build(queue=None), build(queue=None)
    large.prepare(range(5000))  # type: ignore[arg-type]
    small.prepare(range(30))  # type: ignore[arg-type]
    assert (len(large.queue.rows), len(small.queue.rows)) == (4096, 30)
    assert small.chance(8) == pytest.approx(math.log(31))
    give(small, images(), images())({})
    assert small.queue.rows.shape == (30, 6) and int(small.queue.pushed) == 8
    load_state(small, large.state_dict())
    assert torch.equal(small.queue.rows, large.queue.rows)
