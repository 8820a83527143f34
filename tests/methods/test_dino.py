"""DINO: the loss of a step against a slow twin, center and prototypes, and both ways to collapse."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.dino import DINO
from unlabeled.parts.self_distillation import entropy

SIZES = {"prototypes": 5, "hidden_dim": 12, "bottleneck_dim": 6, "freeze_steps": 0, "local_crops": 2}


def build(encoder: str = "conv4", **options) -> DINO:
    torch.manual_seed(0)
    return DINO(encoders.build(encoder, image_size=8), **SIZES | options)


def batch(count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {"image": torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)}


def give(method: DINO, count: int = 6) -> list[Tensor]:
    """Fixed crops, which the method then sees: two large and two small ones."""
    generator = torch.Generator().manual_seed(count)
    crops = [
        torch.rand(count, 3, size, size, generator=generator).to(method.assign.center)
        for size in (8, 8, 4, 4)
    ]
    method.two_views = lambda batch: (crops[0], crops[1])  # type: ignore[method-assign]
    method.small_crops = lambda batch: crops[2:]  # type: ignore[assignment]
    return crops


def test_value_and_gradient_are_those_of_a_loop_over_pairs_of_different_crops() -> None:
    method = build().double().eval()
    method.assign.center.copy_(torch.linspace(-0.2, 0.2, 5))
    crops, terms = give(method), []
    for assigned in range(2):
        for seen in range(4):
            if seen != assigned:
                for image in range(6):
                    teacher = method.teacher(crops[assigned])[image] - method.assign.center
                    student = method.head(method.encoder(crops[seen]))[image]
                    target = F.softmax(teacher / 0.04, 0)
                    terms.append(-(target * F.log_softmax(student / 0.1, 0)).sum())
    value, expected = method({}), torch.stack(terms).mean()
    assert len(terms) == 6 * 6
    torch.testing.assert_close(value, expected)
    weights = [method.head.prototypes, method.encoder.trunk["s1"][0].weight]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights) for x in (value, expected))):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 1e-5


def test_scores_are_cosines_with_unit_prototypes() -> None:
    method = build().eval()
    features = torch.randn(4, method.encoder.dim)
    vectors = method.head.layers(features)
    slow = [[F.cosine_similarity(v, p, 0) for p in method.head.prototypes] for v in vectors]
    torch.testing.assert_close(method.head(features), torch.stack([torch.stack(row) for row in slow]))


def test_a_uniform_student_has_the_loss_of_chance_whatever_the_teacher() -> None:
    method = build(prototypes=1024)
    give(method)
    with torch.no_grad():
        method.head.prototypes.copy_(torch.ones(1024, 6))
    assert method({}).item() == pytest.approx(method.chance(6), rel=1e-5)
    assert method.chance(6) == pytest.approx(6.9315, abs=5e-5)


def test_a_number_added_to_all_scores_of_the_teacher_changes_nothing() -> None:
    method = build().eval()
    large = tuple(give(method)[:2])
    before = method.assignments(large)
    method.assign.center += 0.7
    torch.testing.assert_close(method.assignments(large), before)
    assert (before.sum(2) - 1).abs().max() < 1e-6


class Constant(nn.Module):
    """A teacher with the same scores for all crops."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.arange(5.0).expand(len(images), 5)


def test_the_center_follows_the_mean_scores_once_per_step() -> None:
    method = build(center_momentum=0.9)
    give(method)
    method.teacher = Constant()  # type: ignore[assignment]
    for step in range(1, 4):
        for _ in range(step):  # however many passes a step has
            method({})
        method.after_step(0.5)
        torch.testing.assert_close(method.assign.center, (1 - 0.9**step) * torch.arange(5.0))
    method.eval()({})
    assert not method.assign.total.any() and not method.assign.count


def test_the_teacher_gets_no_gradient_and_follows_after_the_step() -> None:
    method = build(momentum=0.9)
    give(method)
    student, teacher = (
        [*method.encoder.parameters(), *method.head.parameters()],
        [*method.teacher.parameters()],
    )
    assert len(student) == len(teacher) and all(torch.equal(a, b) for a, b in zip(student, teacher))
    method({}).backward()
    assert all(p.grad is None for p in teacher) and all(p.grad is not None for p in student)
    start = [parameter.clone() for parameter in teacher]
    with torch.no_grad():
        for parameter in student:
            parameter.add_(1)
    method.after_step(0.0)
    for before, now, goal in zip(start, teacher, student):
        torch.testing.assert_close(now, 0.9 * before + 0.1 * goal)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_prototypes_keep_their_directions_whatever_the_optimizer(optimizer: str) -> None:
    method = build(freeze_steps=3)
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    }
    descent = kinds[optimizer]([p for p in method.parameters() if p.requires_grad])
    start = method.head.prototypes.detach().clone()
    for step in range(5):
        descent.zero_grad()
        method(batch()).backward()
        descent.step()
        method.after_step((step + 1) / 5)
        same = F.cosine_similarity(start, method.head.prototypes, 1).min() > 1 - 1e-6
        assert bool(same) == (step < 3)


def test_the_head_has_norms_except_for_vits() -> None:
    def norms(method: DINO) -> int:
        return sum(isinstance(part, nn.BatchNorm1d) for part in method.head.modules())

    assert norms(build()) == 2 and norms(build("vit-small")) == 0


def test_resumed_method_goes_on_with_the_same_bits() -> None:
    method, resumed = build(), build()
    for one in (method, resumed):
        give(one)
    for step in range(2):
        method({})
        method.after_step(step / 4)
    resumed.load_state_dict(method.state_dict())
    values = [one({}) for one in (method, resumed)]
    assert torch.equal(*values)
    for one in (method, resumed):
        one.after_step(0.5)
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), resumed.state_dict().values()))


@cache
def trained(wrong: bool = False, **options) -> tuple[dict[str, float], float]:
    """Metrics after a short training on noisy copies of eight images, and how often student and teacher agree.

    Where it is wrong, the two views show different images.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU())
    small = {"prototypes": 16, "hidden_dim": 32, "bottleneck_dim": 16, "local_crops": 0, "momentum": 0.9}
    method = DINO(encoders.wrap(network, image_size=4), **SIZES | small | options)
    kinds = torch.rand(8, 3, 4, 4).repeat(8, 1, 1, 1)

    def two_views(batch: object) -> tuple[Tensor, Tensor]:
        others = kinds[torch.randperm(64)] if wrong else kinds
        return kinds + 0.1 * torch.randn_like(kinds), others + 0.1 * torch.randn_like(kinds)

    method.two_views = two_views  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 3e-3)
    for step in range(150):
        optimizer.zero_grad()
        method({}).backward()
        optimizer.step()
        method.after_step(step / 150)
    with torch.no_grad():
        first, second = two_views({})
        agree = method.assignments((first,))[0].argmax(1) == method.head(method.encoder(second)).argmax(1)
    return {name: value.item() for name, value in method.metrics.items()}, agree.float().mean().item()


def test_crops_of_an_image_share_a_prototype_but_not_where_they_show_different_images() -> None:
    metrics, agreement = trained()
    assert metrics["used"] > 5 and metrics["entropy"] < 0.5 and agreement > 0.9
    assert trained(wrong=True)[1] < 0.6


def test_without_the_center_all_images_share_one_prototype() -> None:
    """Where views share nothing, so that it is the easiest prediction; with a center that remains impossible."""
    assert trained(wrong=True, center_momentum=1.0)[0]["used"] < 2 < 10 < trained(wrong=True)[0]["used"]


def test_without_a_low_temperature_of_the_teacher_all_prototypes_are_equally_likely() -> None:
    metrics, _ = trained(teacher_temperature=1.0)
    assert metrics["entropy"] > 0.97 * math.log(16)


def test_entropy_is_0_for_one_outcome_and_the_logarithm_for_equal_ones() -> None:
    assert entropy(torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]])).tolist() == pytest.approx(
        [0, math.log(3)]
    )


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build(local_size=8)
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch())
    value.backward()
    assert value.dtype == method.assign.center.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
