"""Losses over two films of the same moments: mining, closed forms, slow twins and invariances."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import gather
from unlabeled.parts.time_contrast import mine, negatives, npairs_loss, triplet_loss


def vectors(seed: int = 0, batch: int = 3, moments: int = 5, dim: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, 2, moments, dim, generator=generator, dtype=torch.float64), dim=-1)


def times(batch: int = 3, moments: int = 5) -> Tensor:
    return torch.arange(moments).expand(batch, 2, -1)


def test_mining_takes_the_closest_that_is_farther_than_the_positive_else_the_farthest() -> None:
    distances = torch.tensor(
        [
            [0.0, 0.5, 0.9, 0.7],  # farther than 0.6 are numbers 2 and 3: the closest of them is 3
            [
                0.5,
                0.0,
                0.3,
                0.4,
            ],  # none is farther than 0.6: the farthest allowed is 3, although 0 is farther still
            [0.9, 0.3, 0.0, 0.6],  # 0.6 itself is not farther than 0.6: number 0
            [0.7, 0.4, 0.6, 0.0],  # only numbers 1 and 2 are allowed, none is farther: 2
        ]
    )
    allowed = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    assert mine(distances, torch.full((4,), 0.6), allowed).tolist() == [3, 3, 0, 2]


def test_negatives_are_frames_farther_away_than_the_radius() -> None:
    time = torch.tensor([[[0, 3, 9], [1, 2, 8]]])
    assert negatives(time, 2)[0].int().tolist() == [
        [0, 1, 1, 0, 0, 1],
        [1, 0, 1, 0, 0, 1],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 1],
        [0, 0, 1, 0, 0, 1],
        [1, 1, 0, 1, 1, 0],
    ]


def test_triplet_loss_equals_a_slow_loop() -> None:
    embeddings, total = vectors(), []
    for scene in embeddings:
        frames = [(view, moment) for view in range(2) for moment in range(5)]
        for view, moment in frames:
            anchor = scene[view, moment]
            positive = (anchor - scene[1 - view, moment]).square().sum()
            others = [(anchor - scene[place]).square().sum() for place in frames if place[1] != moment]
            farther = [distance for distance in others if distance > positive]
            total.append(max(0.0, float(positive - (min(farther) if farther else max(others)) + 0.2)))
    value = triplet_loss(embeddings, times(), 0, 0.2)
    assert float(value) == pytest.approx(sum(total) / len(total), rel=1e-6)


def test_npairs_loss_equals_a_slow_loop() -> None:
    embeddings, total = 2 * vectors(), 0.0
    for scene in embeddings:
        for first, second in ((0, 1), (1, 0)):
            for moment in range(5):
                products = [math.exp(scene[first, moment] @ scene[second, other]) for other in range(5)]
                total -= math.log(products[moment] / sum(products))
    value = npairs_loss(embeddings, times(), 0)
    assert float(value) == pytest.approx(total / (3 * 2 * 5) + 0.001 * 4, rel=1e-6)


def test_penalty_of_npairs_is_a_quarter_of_both_mean_squared_lengths() -> None:
    """Equal logits leave the entropy at ln(moments); what is beyond it is 0.25 * 0.002 * (anchors + positives)."""
    embeddings = torch.zeros(3, 2, 5, 4, dtype=torch.float64)
    embeddings[:, 0, :, 0] = 2.0  # anchors of squared length 4, positives of 9, all at right angles
    embeddings[:, 1, :, 1] = 3.0
    value = float(npairs_loss(embeddings, times(), 0)) - math.log(5)
    assert value == pytest.approx(0.25 * 0.002 * (4 + 9), rel=1e-9)


def test_npairs_leaves_out_moments_within_the_radius() -> None:
    embeddings, changed = vectors(), vectors()
    time = torch.tensor([[[0, 1, 5, 9, 13], [0, 1, 5, 9, 13]]]).expand(3, -1, -1)
    first = torch.zeros(5, 5, dtype=torch.float64)
    value = npairs_loss(embeddings, time, 2)
    for row, scene in enumerate(embeddings):
        shown = (time[row, 0][:, None] - time[row, 1]).abs() > 2
        logits = (scene[0] @ scene[1].T).masked_fill(~shown & ~torch.eye(5, dtype=torch.bool), -torch.inf)
        first[row, 0] = F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))
    assert float(value) == pytest.approx(float(first[:3, 0].mean()) / 2 + 0.001, rel=1e-6)
    assert torch.equal(embeddings, changed)


@pytest.mark.parametrize("objective", ["triplet", "npairs"])
def test_loss_does_not_care_which_camera_comes_first(objective: str) -> None:
    def value(embeddings: Tensor) -> Tensor:
        if objective == "triplet":
            return triplet_loss(embeddings, times(), 0, 0.2)
        return npairs_loss(embeddings, times(), 0)

    embeddings = vectors()
    torch.testing.assert_close(value(embeddings.flip(1)), value(embeddings))
    order = torch.tensor([2, 0, 4, 1, 3])
    torch.testing.assert_close(value(embeddings[:, :, order]), value(embeddings))
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    torch.testing.assert_close(value(embeddings @ rotation), value(embeddings))
    assert not torch.isclose(value(embeddings[:, :, order] + vectors(1)), value(embeddings))


def test_gradients_are_the_numeric_ones() -> None:
    embeddings = vectors(batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: triplet_loss(x, times(1), 0, 0.2), embeddings)
    assert torch.autograd.gradcheck(lambda x: npairs_loss(x, times(1), 0), embeddings)


def test_triplets_are_averaged_over_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with fewer triplets counts less: DDP takes the plain mean of what the processes give."""
    first, second = vectors(1), vectors(2)
    time = times()
    short = torch.zeros_like(time)  # no moment has a negative
    short[0] = time[0]
    counts = torch.tensor([30.0, 10.0])
    monkeypatch.setattr(gather, "mean_over_processes", lambda value: counts.mean())
    apart = (triplet_loss(first, time, 0, 0.2) + triplet_loss(second, short, 0, 0.2)) / 2
    monkeypatch.undo()
    together = triplet_loss(torch.cat([first, second]), torch.cat([time, short]), 0, 0.2)
    torch.testing.assert_close(apart, together)
