"""The assignment of rows to columns with the least total cost, each column once (the Hungarian method).

Source: Kuhn, "The Hungarian Method for the Assignment Problem", 1955, https://doi.org/10.1002/nav.3800020109; as
shortest augmenting paths in Jonker, Volgenant, "A Shortest Augmenting Path Algorithm for Dense and Sparse Linear
Assignment Problems", 1987, https://doi.org/10.1007/BF02278710
"""

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.kernels.lanes import jit_cached

__all__ = ["assign"]


def assign(costs: Tensor) -> Tensor:
    """Column of each row such that the sum of the costs is the least; computed on the CPU in time of rows ** 3.

    Args:
        costs: Finite, float, shape (rows, rows).

    Returns:
        A permutation, int64, shape (rows,), on the device of the costs.

    Raises:
        UserError: The costs are not a square of finite numbers.
    """
    if costs.ndim != 2 or costs.shape[0] != costs.shape[1]:
        raise UserError(f"costs must be square, got shape {tuple(costs.shape)}")
    if not costs.isfinite().all():
        raise UserError("costs must be finite, got infinite or NaN ones")
    values = costs.detach().to("cpu", torch.float64).contiguous().numpy()
    return torch.from_numpy(_shortest_paths(values)).to(costs.device)


def _shortest_paths(costs):
    """Match one row after the other, by the cheapest path through rows that are matched to a column that is free."""
    size = len(costs)
    row_price, column_price = np.zeros(size), np.zeros(size)
    row_of, column_of = np.full(size, -1), np.full(size, -1)
    for start in range(size):
        distance = np.full(size, np.inf)  # of each column from the start, in costs less prices
        previous = np.full(size, -1)  # row before each column on its shortest path
        done = np.zeros(size, np.bool_)
        row, reached, column = start, 0.0, -1
        while row >= 0:
            best = np.inf
            for other in range(size):
                if not done[other]:
                    length = reached + costs[row, other] - row_price[row] - column_price[other]
                    if length < distance[other]:
                        distance[other], previous[other] = length, row
                    if distance[other] < best:
                        best, column = distance[other], other
            reached = best
            done[column] = True
            row = row_of[column]
        row_price[start] += reached
        for other in range(size):
            if done[other] and other != column:
                row_price[row_of[other]] += reached - distance[other]
                column_price[other] -= reached - distance[other]
        while row != start:  # each column on the path takes the row before it, which leaves its own column
            row = previous[column]
            row_of[column] = row
            own = column_of[row]
            column_of[row] = column
            column = own
    return column_of


_shortest_paths = jit_cached(_shortest_paths)
