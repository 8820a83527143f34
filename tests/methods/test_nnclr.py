"""NNCLR: neighbours, the order of a step, and what cannot be learned."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.nnclr import NNCLR
from unlabeled.parts.info_nce import in_batch

SIZES = {"queue": 20, "projection_dim": 6, "hidden_dim": 12}


def build(**options) -> NNCLR:
    torch.manual_seed(0)
    return NNCLR(encoders.build("conv4", image_size=8), **SIZES | options)


def give(method: NNCLR, first: Tensor, second: Tensor) -> NNCLR:
    method.two_views = lambda batch: (first, second)  # type: ignore[method-assign]
    return method


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def test_the_neighbour_is_the_stored_vector_of_the_smallest_angle() -> None:
    method = build(queue=4)
    method.queue.rows.copy_(torch.eye(6)[:4])
    vectors = torch.tensor([[0, 0.8, 0.6, 0, 0, 0], [0, 0, 0, 0, 0, 1], [-1, 0, 0, 0.0, 0, 0]])
    vectors[1, 3] = 0.1
    assert method.neighbours(vectors)[:2].tolist() == [1, 3]
    assert method.neighbours(vectors)[2] != 0


def slow(method: NNCLR, first: Tensor, second: Tensor, stored: Tensor) -> Tensor:
    """Cross-entropy of each neighbour with the prediction of its own image among all, row by row."""
    terms = []
    for anchors, others in ((first, second), (second, first)):
        vectors, predictions = (method.head(method.encoder(x)) for x in (anchors, others))
        predictions = method.predictor(predictions)
        for number, vector in enumerate(vectors.detach()):
            neighbour = max(stored, key=lambda row, v=vector: float(F.cosine_similarity(row, v, 0)))
            cosines = torch.stack([F.cosine_similarity(neighbour, p, 0) for p in predictions])
            terms.append((cosines / 0.3).logsumexp(0) - cosines[number] / 0.3)
    return torch.stack(terms).mean()


def test_value_and_gradient_are_those_of_the_formula_row_by_row() -> None:
    first, second = images().double(), images().flip(3).double()
    method = give(build(temperature=0.3).double(), first, second)
    stored = method.queue.rows.clone()
    value = method({})
    expected = slow(method, first, second, stored)
    torch.testing.assert_close(value, expected)
    weights = [method.predictor[0].weight, method.head[0].weight, method.encoder.trunk["s1"][0].weight]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights) for x in (value, expected))):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 1e-5


def test_first_views_are_stored_after_neighbours_were_found_and_replace_the_oldest() -> None:
    method = give(build(), images(), images().flip(3))
    before = method.queue.rows.clone()
    vectors = F.normalize(method.head(method.encoder(images())), dim=1)
    method({})
    torch.testing.assert_close(method.queue.rows[:8], vectors)
    assert torch.equal(method.queue.rows[8:], before[8:])
    assert (vectors * before[(vectors @ before.T).argmax(1)]).sum(1).max() < 0.999  # no vector met itself
    for _ in range(2):
        method({})
    assert int(method.queue.pushed) == 24  # of 20: it need not be a multiple of the batch


def test_neighbours_get_no_gradient_and_evaluation_stores_nothing() -> None:
    method = give(build(), images(), images().flip(3)).eval()
    before = method.queue.rows.clone()
    method({}).backward()
    assert torch.equal(method.queue.rows, before) and not method.queue.rows.requires_grad
    assert all(p.grad is not None for p in [*method.head[0].parameters(), *method.predictor.parameters()])


def test_swapping_the_views_does_not_change_the_loss() -> None:
    first, second = images(), images().flip(3)
    torch.testing.assert_close(give(build(), first, second)({}), give(build(), second, first)({}))


def test_equal_vectors_have_the_loss_of_chance_and_orthogonal_ones_nearly_none() -> None:
    assert build().chance(256) == pytest.approx(5.545, abs=5e-4)
    ones = torch.ones(256, 3)
    assert in_batch(ones, ones, 0.1).item() == pytest.approx(build().chance(256), rel=1e-5)
    units = torch.eye(256)
    assert in_batch(units, units, 0.1).item() == pytest.approx(math.log1p(255 * math.exp(-10)), rel=1e-3)


def test_the_default_queue_holds_at_most_one_vector_per_image() -> None:
    method = build(queue=None)
    method.prepare(range(30))  # type: ignore[arg-type]
    assert len(method.queue.rows) == 30
    with pytest.warns(UserWarning, match=r"queue \(20\) is larger than the number of images \(8\)"):
        build().prepare(range(8))  # type: ignore[arg-type]


def test_resumed_method_goes_on_with_the_same_queue_bits() -> None:
    method, resumed = (give(build(), images(), images().flip(3)) for _ in range(2))
    method({})
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(method({}), resumed({})) and torch.equal(method.queue.rows, resumed.queue.rows)


def recognised(wrong: bool) -> tuple[float, float]:
    """Fraction of images whose prediction is the nearest to their neighbour, and the metric, after a training.

    Eight images of each of eight kinds: neighbours of the same kind are partners that no augmentation makes. Where it
    is wrong, the two views show different images of noise.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU())
    method = NNCLR(encoders.wrap(network, image_size=4), **SIZES | {"queue": 64, "projection_dim": 16})
    kinds = torch.rand(8, 3, 4, 4).repeat(8, 1, 1, 1)

    def two_views(batch: object) -> tuple[Tensor, Tensor]:
        if wrong:
            return torch.rand(64, 3, 4, 4), torch.rand(64, 3, 4, 4)
        return kinds + 0.1 * torch.randn_like(kinds), kinds + 0.1 * torch.randn_like(kinds)

    method.two_views = two_views  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        method({}).backward()
        optimizer.step()
    with torch.no_grad():
        first, second = method.projections({})
        partners = method.queue.rows[method.neighbours(first)]
        best = (partners @ F.normalize(method.predictor(second), dim=1).T).argmax(1)
    return (best % 8 == torch.arange(64) % 8).float().mean().item(), method.metrics["agreement"].item()


def test_kinds_are_recognised_through_neighbours_but_not_where_views_share_nothing() -> None:
    right, agreement = recognised(wrong=False)
    chance, disagreement = recognised(wrong=True)
    assert right > 0.9 and chance < 0.3
    assert agreement > 2 * disagreement


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build(temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == method.queue.rows.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
