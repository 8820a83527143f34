"""NT-Xent against closed forms, a slow twin and its invariances."""

import math
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from unlabeled import encoders
from unlabeled.methods.simclr import SimCLR, loss, supervised_contrastive
from unlabeled.parts import gather


def pair(images: int = 6, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, images, dim, dtype=torch.float64, generator=generator)
    return rows[0], rows[1]


def slow(first: Tensor, second: Tensor, temperature: float) -> float:
    """One view after the other, one candidate after the other."""
    views = [vector / vector.norm() for vector in [*first, *second]]
    images, total = len(first), 0.0
    for own, view in enumerate(views):
        partner = (own + images) % (2 * images)
        candidates = [math.exp(view @ views[k] / temperature) for k in range(2 * images) if k != own]
        total -= math.log(math.exp(view @ views[partner] / temperature) / sum(candidates))
    return total / (2 * images)


@pytest.mark.parametrize(
    ("temperature", "value"), [(0.1, 2.724e-4), (0.2, 0.039632), (0.5, 0.594438), (1, 1.165422)]
)
def test_orthonormal_images_with_equal_partners_have_the_closed_form(
    temperature: float, value: float
) -> None:
    vectors = torch.eye(4, dtype=torch.float64)
    result = loss(vectors, vectors, temperature).item()
    assert result == pytest.approx(math.log1p(6 * math.exp(-1 / temperature)), rel=1e-12)
    assert result == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("images", "value"), [(4, 1.9459), (256, 6.23637), (512, 6.93049)])
def test_collapsed_vectors_have_the_loss_of_chance(images: int, value: float) -> None:
    vectors = torch.ones(images, 3, dtype=torch.float64)
    chance = SimCLR(encoders.build("conv4", image_size=8)).chance(images)
    assert loss(vectors, vectors, 0.2).item() == pytest.approx(chance, rel=1e-12)
    assert chance == pytest.approx(value, abs=5e-5)


def test_loss_equals_a_slow_double_loop() -> None:
    for images, temperature in product([2, 5], [0.1, 0.7]):
        first, second = pair(images)
        assert loss(first, second, temperature).item() == pytest.approx(
            slow(first, second, temperature), rel=1e-12
        )


def test_loss_ignores_order_of_images_swap_of_views_length_and_rotation() -> None:
    first, second = pair()
    value = loss(first, second, 0.3)
    order = torch.randperm(len(first))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    lengths = torch.rand(len(first), 1, dtype=torch.float64) + 0.1
    for other in (
        loss(first[order], second[order], 0.3),
        loss(second, first, 0.3),
        loss(first * lengths, second * 7, 0.3),
        loss(first @ rotation, second @ rotation, 0.3),
    ):
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    assert not torch.isclose(loss(first[order], second, 0.3), value)


def test_low_temperature_leaves_only_the_hardest_candidate() -> None:
    first, second = pair()
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    similarity = (views @ views.T).fill_diagonal_(-2)
    partner = similarity[torch.arange(12), (torch.arange(12) + 6) % 12]
    limit = (similarity.max(1).values - partner).mean()
    torch.testing.assert_close(1e-4 * loss(first, second, 1e-4), limit, rtol=1e-6, atol=1e-8)


def test_gradient_is_the_numeric_one_and_has_no_radial_part() -> None:
    first, second = (vectors.requires_grad_() for vectors in pair(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, 0.5), (first, second))
    loss(first, second, 0.5).backward()
    for vectors in (first, second):
        assert vectors.grad is not None and vectors.grad.norm() > 0.01
        torch.testing.assert_close(
            (vectors.grad * vectors).sum(1), torch.zeros(3).double(), atol=1e-15, rtol=0
        )


def test_similarities_are_not_rounded_by_mixed_precision() -> None:
    first, second = (vectors.float() for vectors in pair())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(first, second, 0.04)
        rounded = loss(first.bfloat16(), second.bfloat16(), 0.04)
    assert torch.equal(mixed, loss(first, second, 0.04)) and rounded.isfinite()


def test_training_step_in_bfloat16_is_finite() -> None:
    method = SimCLR(encoders.build("conv4", image_size=8), temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


LABELS = torch.tensor([7, 7, 2, -1, 3, 3, 3, 2, 0, 7])
"""Classes of three, two, one, three and one; two processes have three and four samples with a partner."""


def labelled() -> Tensor:
    return torch.randn(
        10, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    ).requires_grad_()


def slow_supervised(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """One anchor after the other, one partner after the other; anchors without a partner are left out."""
    vectors, terms = torch.nn.functional.normalize(vectors, dim=1), []
    for own, label in enumerate(labels.tolist()):
        others = [k for k in range(len(labels)) if k != own]
        partners = [k for k in others if labels[k] == label]
        total = torch.stack([(vectors[own] @ vectors[k] / temperature).exp() for k in others]).sum()
        shares = [(vectors[own] @ vectors[k] / temperature).exp() / total for k in partners]
        terms += [-torch.stack(shares).log().mean()] if shares else []
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.015, 0.1, 0.7, 20.0])
def test_supervised_loss_equals_a_slow_double_loop_in_value_and_gradient(temperature: float) -> None:
    vectors = labelled()
    value, expected = (f(vectors, LABELS, temperature) for f in (supervised_contrastive, slow_supervised))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    found, gradient = (torch.autograd.grad(result, vectors)[0] for result in (value, expected))
    torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-14)


def test_supervised_loss_of_one_class_for_each_image_is_that_of_pairs() -> None:
    first, second = pair()
    found = supervised_contrastive(torch.cat([first, second]), torch.arange(6).repeat(2), 0.3)
    torch.testing.assert_close(found, loss(first, second, 0.3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_perfect_clusters_have_the_closed_form(temperature: float) -> None:
    classes, members = 4, 6
    labels = torch.arange(classes).repeat(members)
    vectors = torch.eye(classes, dtype=torch.float64)[labels]
    expected = math.log(members - 1 + (classes - 1) * members * math.exp(-1 / temperature))
    assert supervised_contrastive(vectors, labels, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("samples", [1, 4])
def test_nobody_with_a_partner_gives_no_loss_and_no_gradient(samples: int) -> None:
    for temperature in (0.2, 0.01):
        vectors = torch.randn(samples, 3).requires_grad_()
        value = supervised_contrastive(vectors, torch.arange(samples), temperature)
        (gradient,) = torch.autograd.grad(value, vectors)
        assert value.item() == 0 and torch.equal(gradient, torch.zeros(samples, 3))


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_supervised_gradient_is_the_numeric_one(temperature: float) -> None:
    assert torch.autograd.gradcheck(lambda x: supervised_contrastive(x, LABELS, temperature), labelled())


def test_labels_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one for each of 10 vectors, got shape \(5,\)"):
        supervised_contrastive(labelled(), LABELS[:5], 0.1)


def supervised_in_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, timedelta(seconds=30), world_size=2, rank=rank)
    vectors = gather.own(labelled().detach()).requires_grad_()
    value = supervised_contrastive(vectors, gather.own(LABELS), 0.3)
    value.backward()
    torch.save((value.detach(), vectors.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_supervised_loss_and_gradient_of_one(tmp_path: Path) -> None:
    spawn(supervised_in_process, (tmp_path,), nprocs=2)
    values, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)))
    vectors = labelled()
    expected = supervised_contrastive(vectors, LABELS, 0.3)
    (gradient,) = torch.autograd.grad(expected, vectors)
    # A training averages values and gradients over processes.
    torch.testing.assert_close(sum(values) / 2, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(gradients) / 2, gradient, rtol=1e-10, atol=1e-14)
