"""The code of a dictionary on a CPU: thresholds and means over cells in one pass over the products.

Operations on whole tensors write and read the products five times; here they are read once, from the cache.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from unlabeled.kernels.lanes import jit_cached

__all__ = ["pool_code"]

FREEDOMS = {"reassoc", "contract", "nnan", "ninf", "nsz"}
WORK = 2**20
"""Products from which on the samples are shared among threads."""


def pool_code(
    products: Tensor, scale: Tensor, offset: Tensor, cells: tuple[int, int], threshold: float
) -> Tensor:
    """Means over cells of what products exceed a threshold by, upwards and downwards, without a gradient.

    Args:
        products: Float32 on a CPU, shape (batch, atoms, rows, columns), channels last.
        scale: What multiplies the products at each position, float32, shape (batch, 1, rows, columns).
        offset: What is added to the products of each atom afterwards, float32, shape (atoms,).
        cells: Cells down and across, at most rows and columns; bounds are those of adaptive average pooling.
        threshold: At least 0.

    Returns:
        Float32, shape (batch, 2 * atoms, *cells), channels last: above the threshold, then below its negative.
    """
    batch, atoms = products.shape[:2]
    values = products.permute(0, 2, 3, 1).contiguous().numpy()
    code = np.empty((batch, *cells, 2 * atoms), np.float32)
    arguments = (
        values,
        scale[:, 0].contiguous().numpy(),
        offset.contiguous().numpy(),
        np.float32(threshold),
        code,
    )
    threads = min(torch.get_num_threads(), batch) if products.numel() >= WORK else 1
    if threads == 1:
        _pool(*arguments, 0, batch)
    else:
        bounds = np.linspace(0, batch, threads + 1).astype(int)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda begin, end: _pool(*arguments, begin, end), bounds[:-1], bounds[1:]))
    return torch.from_numpy(code).permute(0, 3, 1, 2)


def _sum(values, scale, offset, threshold, above, below):
    """Add what one position has beyond the threshold."""
    for atom in range(len(offset)):
        value = values[atom] * scale + offset[atom]
        above[atom] += max(value - threshold, np.float32(0))
        below[atom] += max(-value - threshold, np.float32(0))


_sum = jit_cached(_sum, FREEDOMS)


def _pool(values, scale, offset, threshold, code, begin, end):
    """Fill the code of the samples from `begin` to before `end`."""
    _, rows, columns, atoms = values.shape
    _, down, across, _ = code.shape
    above, below = np.empty(atoms, np.float32), np.empty(atoms, np.float32)
    for sample in range(begin, end):
        for y in range(down):
            top, bottom = y * rows // down, -(-(y + 1) * rows // down)
            for x in range(across):
                left, right = x * columns // across, -(-(x + 1) * columns // across)
                above[:] = 0
                below[:] = 0
                for row in range(top, bottom):
                    for column in range(left, right):
                        _sum(
                            values[sample, row, column],
                            scale[sample, row, column],
                            offset,
                            threshold,
                            above,
                            below,
                        )
                count = np.float32((bottom - top) * (right - left))
                cell = code[sample, y, x]
                for atom in range(atoms):
                    cell[atom] = above[atom] / count
                    cell[atoms + atom] = below[atom] / count


_pool = jit_cached(_pool, FREEDOMS)
