"""Groups change what a batch norm sees, and nothing else."""

import torch
from torch import Tensor, nn

from unlabeled.parts.shuffle import in_groups, shuffled


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6))


def images(count: int = 32) -> Tensor:
    return torch.randn(count, 1, 2, 3)


def test_groups_are_normalised_one_by_one() -> None:
    outputs = in_groups(network(), images() + torch.arange(32.0).view(32, 1, 1, 1), 4)
    means = outputs.view(4, 8, 6).mean(1)
    torch.testing.assert_close(means, torch.zeros(4, 6), atol=1e-5, rtol=0)


def test_shuffled_rows_come_back_in_their_order() -> None:
    batch = images()
    torch.testing.assert_close(shuffled(nn.Flatten(), batch, 4), batch.flatten(1))


def test_shuffled_groups_are_random_and_not_neighbours() -> None:
    batch = images()
    assert not torch.allclose(shuffled(network(), batch, 4), in_groups(network(), batch, 4), atol=1e-3)
    assert not torch.allclose(shuffled(network(), batch, 4), shuffled(network(), batch, 4), atol=1e-3)


def test_small_batches_are_not_split_into_groups_under_8() -> None:
    batch = images(15)
    torch.testing.assert_close(in_groups(network(), batch, 4), network()(batch))


def test_one_group_is_the_whole_batch_whatever_the_order() -> None:
    batch = images()
    torch.testing.assert_close(shuffled(network(), batch, 1), network()(batch), atol=1e-5, rtol=1e-5)
