"""The swapped loss against a slow twin; prototypes, queue and crops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.swav import SwAV
from unlabeled.parts.multi_crop import swapped_prediction
from unlabeled.parts.sinkhorn import sinkhorn


def build(encoder: str = "conv4", **options) -> SwAV:
    torch.manual_seed(0)
    small = {"prototypes": 5, "projection_dim": 6, "hidden_dim": 12, "freeze_steps": 0, "local_crops": 2}
    return SwAV(encoders.build(encoder, image_size=8), **small | options)


def batch(count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {"image": torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)}


def scores(samples: int = 64, prototypes: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    vectors, clusters = (
        F.normalize(torch.randn(rows, 32, dtype=torch.float64, generator=generator), dim=1)
        for rows in (samples, prototypes)
    )
    return vectors @ clusters.T


def test_collapsed_vectors_get_uniform_codes_and_the_loss_of_chance() -> None:
    equal = torch.full((4, 6, 10), 0.3, dtype=torch.float64)
    codes = torch.stack([sinkhorn(crop, 0.05, 3) for crop in equal[:2]])
    torch.testing.assert_close(codes, torch.full((2, 6, 10), 0.1, dtype=torch.float64))
    assert swapped_prediction(equal, codes, 0.1).item() == pytest.approx(
        build(prototypes=10).chance(6), rel=1e-12
    )
    assert build(prototypes=512).chance(6) == pytest.approx(6.238, abs=5e-4)


def test_loss_equals_a_slow_loop_over_pairs_of_different_crops() -> None:
    crops = scores(5 * 6, 4).view(5, 6, 4)
    codes = torch.stack([sinkhorn(crop, 0.05, 3) for crop in crops[:2]])
    terms = []
    for assigned in range(2):
        for crop in range(5):
            if crop != assigned:
                for sample in range(6):
                    weights = [math.exp(value / 0.1) for value in crops[crop, sample]]
                    logs = [math.log(weight / sum(weights)) for weight in weights]
                    terms.append(-sum(q * log for q, log in zip(codes[assigned, sample].tolist(), logs)))
    assert swapped_prediction(crops, codes, 0.1).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_gradient_of_the_loss_is_the_numeric_one() -> None:
    crops, codes = scores(12, 3).view(3, 4, 3).requires_grad_(), torch.rand(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: swapped_prediction(x, codes, 0.5), crops)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    ],
    ids=["sgd", "adamw", "adam"],
)
def test_frozen_prototypes_do_not_move_by_a_bit_and_then_stay_unit_vectors(optimizer) -> None:
    method = build(freeze_steps=3)
    optimizer = optimizer([parameter for parameter in method.parameters() if parameter.requires_grad])
    start = method.prototypes.detach().clone()
    for step in range(5):
        optimizer.zero_grad()
        method(batch()).backward()
        optimizer.step()
        method.after_step((step + 1) / 5)
        assert torch.equal(method.prototypes, start) == (step < 3)
        torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(5))


def test_queue_balances_the_codes_once_it_is_full_and_late_enough() -> None:
    method = build(queue=8, queue_steps=3)
    queue = method.queues[0]
    for step in range(5):
        vectors, stored = F.normalize(torch.randn(6, 6), dim=1), queue.rows.clone()
        samples = vectors if step < 3 else torch.cat([vectors, stored])
        expected = sinkhorn(samples @ method.prototypes.T, 0.05, 3)[:6].detach()
        torch.testing.assert_close(method.codes(vectors, queue), expected)
        method.after_step(0.0)


def test_queue_is_not_used_before_it_is_full() -> None:
    method, vectors = build(queue=100, queue_steps=0), F.normalize(torch.randn(6, 6), dim=1)
    for _ in range(3):
        codes = method.codes(vectors, method.queues[0])
        torch.testing.assert_close(codes, sinkhorn(vectors @ method.prototypes.T, 0.05, 3).detach())


def test_queue_adds_no_rows_to_the_loss_and_survives_the_state_dict() -> None:
    method, resumed = build(queue=4, queue_steps=0), build(queue=4, queue_steps=0)
    for _ in range(2):
        method(batch())
        method.after_step(0.0)
    resumed.load_state_dict(method.state_dict())
    values = []
    for one in (method, resumed):
        torch.manual_seed(3)
        values.append(one(batch()))
    assert torch.equal(*values)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(method.queues, resumed.queues))
    assert method.codes(F.normalize(torch.randn(6, 6), dim=1), method.queues[0]).shape == (6, 5)


def test_crops_of_one_size_share_a_forward_that_equals_one_forward_for_each() -> None:
    method = build().eval()
    crops = [torch.rand(6, 3, size, size) for size in (8, 8, 4, 4)]
    large, small = iter(crops[:2]), iter(crops[2:])
    method.views = lambda batch: next(large)  # type: ignore[assignment]
    method.small_crops = lambda batch: list(small)  # type: ignore[assignment]
    vectors = torch.stack([F.normalize(method.head(method.encoder(crop)), dim=1) for crop in crops])
    codes = torch.stack([method.codes(crop, method.queues[0]) for crop in vectors[:2]])
    torch.testing.assert_close(method({}), swapped_prediction(vectors @ method.prototypes.T, codes, 0.1))


@pytest.mark.parametrize(("encoder", "size"), [("conv4", 4), ("vit-small", 4)])
def test_small_crops_are_half_as_large_and_fit_the_patches_of_a_vit(encoder: str, size: int) -> None:
    method = build(encoder)
    assert method.small_crops.views(batch()).shape[2:] == (size, size)
    assert method(batch()).isfinite()


def test_two_large_crops_alone_are_enough() -> None:
    assert build(local_crops=0)(batch()).isfinite()


def test_small_crops_show_less_than_large_ones() -> None:
    with pytest.raises(ValueError, match=r"local_crop must be above 0 and at most crop \(0.2\), got 0.3"):
        build(crop=0.2, local_crop=0.3)


def test_training_step_in_bfloat16_is_finite() -> None:
    # Large crops: torch's bfloat16 convolution on the CPU reads unset memory for maps of one pixel.
    method = build(epsilon=0.03, queue=4, queue_steps=0, local_size=8)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            value = method(batch())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
