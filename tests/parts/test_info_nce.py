"""Contrastive losses against closed forms, slow twins and their invariances."""

import math
import sys
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from unlabeled.parts import gather
from unlabeled.parts.info_nce import negatives, nt_xent, supervised_contrastive, with_queue


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
    result = nt_xent(vectors, vectors, temperature).item()
    assert result == pytest.approx(math.log1p(6 * math.exp(-1 / temperature)), rel=1e-12)
    assert result == pytest.approx(value, abs=1e-6)


def test_nt_xent_equals_a_slow_double_loop() -> None:
    for images, temperature in product([2, 5], [0.1, 0.7]):
        first, second = pair(images)
        assert nt_xent(first, second, temperature).item() == pytest.approx(
            slow(first, second, temperature), rel=1e-12
        )


def test_nt_xent_ignores_order_of_images_swap_of_views_length_and_rotation() -> None:
    first, second = pair()
    value = nt_xent(first, second, 0.3)
    order = torch.randperm(len(first))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    lengths = torch.rand(len(first), 1, dtype=torch.float64) + 0.1
    for other in (
        nt_xent(first[order], second[order], 0.3),
        nt_xent(second, first, 0.3),
        nt_xent(first * lengths, second * 7, 0.3),
        nt_xent(first @ rotation, second @ rotation, 0.3),
    ):
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    assert not torch.isclose(nt_xent(first[order], second, 0.3), value)


def test_low_temperature_leaves_only_the_hardest_candidate() -> None:
    first, second = pair()
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    similarity = (views @ views.T).fill_diagonal_(-2)
    partner = similarity[torch.arange(12), (torch.arange(12) + 6) % 12]
    limit = (similarity.max(1).values - partner).mean()
    torch.testing.assert_close(1e-4 * nt_xent(first, second, 1e-4), limit, rtol=1e-6, atol=1e-8)


def test_gradient_of_nt_xent_is_the_numeric_one_and_has_no_radial_part() -> None:
    first, second = (vectors.requires_grad_() for vectors in pair(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (first, second))
    nt_xent(first, second, 0.5).backward()
    for vectors in (first, second):
        assert vectors.grad is not None and vectors.grad.norm() > 0.01
        torch.testing.assert_close(
            (vectors.grad * vectors).sum(1), torch.zeros(3).double(), atol=1e-15, rtol=0
        )


def test_similarities_are_not_rounded_by_mixed_precision() -> None:
    first, second = (vectors.float() for vectors in pair())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nt_xent(first, second, 0.04)
        rounded = nt_xent(first.bfloat16(), second.bfloat16(), 0.04)
    assert torch.equal(mixed, nt_xent(first, second, 0.04)) and rounded.isfinite()


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
    torch.testing.assert_close(found, nt_xent(first, second, 0.3), rtol=1e-12, atol=0)


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


def supervised_in_two(folder: Path) -> None:
    how = "fork" if sys.platform == "linux" else "spawn"
    start_processes(supervised_in_process, (folder,), nprocs=2, start_method=how)


def test_two_processes_have_the_supervised_loss_and_gradient_of_one(
    tmp_path: Path, fresh_process: Any
) -> None:
    ended = fresh_process(supervised_in_two, tmp_path)
    assert ended.code == 0, ended.said
    values, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)))
    vectors = labelled()
    expected = supervised_contrastive(vectors, LABELS, 0.3)
    (gradient,) = torch.autograd.grad(expected, vectors)
    # A training averages values and gradients over processes.
    torch.testing.assert_close(sum(values) / 2, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(gradients) / 2, gradient, rtol=1e-10, atol=1e-14)


def unit(rows: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def test_loss_with_a_queue_equals_a_slow_loop() -> None:
    queries, keys, queue = unit(4, 5, 1), unit(4, 5, 2), unit(7, 5, 3)
    total = 0.0
    for query, key in zip(queries, keys):
        own = math.exp(query @ key / 0.3)
        total -= math.log(own / (own + sum(math.exp(query @ other / 0.3) for other in queue)))
    assert with_queue(queries * 3, keys, queue, 0.3).item() == pytest.approx(total / 4, rel=1e-12)


def test_loss_with_a_queue_ignores_order_of_queue_and_batch_and_a_common_rotation() -> None:
    queries, keys, queue = unit(4, 5, 1), unit(4, 5, 2), unit(7, 5, 3)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    order, value = torch.tensor([2, 0, 3, 1]), with_queue(queries, keys, queue, 0.3)
    torch.testing.assert_close(with_queue(queries[order], keys[order], queue.flip(0), 0.3), value)
    torch.testing.assert_close(with_queue(queries @ rotation, keys @ rotation, queue @ rotation, 0.3), value)
    assert not torch.isclose(with_queue(queries[order], keys, queue, 0.3), value)


def test_gradient_with_a_queue_is_the_numeric_one_and_has_no_radial_part() -> None:
    queries, keys, queue = unit(4, 5, 1).mul(2).requires_grad_(), unit(4, 5, 2), unit(7, 5, 3)
    assert torch.autograd.gradcheck(lambda x: with_queue(x, keys, queue, 0.3), queries)
    (gradient,) = torch.autograd.grad(with_queue(queries, keys, queue, 0.3), queries)
    torch.testing.assert_close((gradient * queries).sum(1), torch.zeros(4).double(), atol=1e-15, rtol=0)


def test_negatives_are_other_positions_each_as_likely() -> None:
    count = torch.tensor([6, 9, 2])
    drawn = negatives(count, 9, 20_000)
    for row, hidden in enumerate(count.tolist()):
        for place in range(hidden):
            found = drawn[row, place].bincount(minlength=9)
            assert found[place] == 0 and not found[hidden:].any()
            expected = 20_000 / (hidden - 1)
            others = torch.cat([found[:place], found[place + 1 : hidden]])
            assert ((others - expected).square() / expected).sum() < 35
