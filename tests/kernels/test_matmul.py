"""Products in every layout, and none of them slow."""

import time

import pytest
import torch
from torch import Tensor

from unlabeled.kernels.matmul import matmul_nt

LAYOUTS = {
    "as it comes": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every second column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "one row for all": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_products_in_every_layout(left: str, right: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = LAYOUTS[left](torch.randn(37, 19, generator=generator, dtype=dtype))
    others = LAYOUTS[right](torch.randn(23, 19, generator=generator, dtype=dtype))
    torch.testing.assert_close(matmul_nt(rows, others), rows @ others.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_nothing_has_products_of_zero(shape: tuple[int, int, int]) -> None:
    rows, dim, others = shape
    found = matmul_nt(torch.ones(rows, dim), torch.ones(others, dim))
    assert torch.equal(found, torch.full((rows, others), float(dim)))


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_no_layout_is_slow(left: str, right: str) -> None:
    rows, others = LAYOUTS[left](torch.randn(2000, 256)), LAYOUTS[right](torch.randn(64, 256))

    def seconds(rows: Tensor, others: Tensor) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            matmul_nt(rows, others)
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(rows, others) < 10 * seconds(rows.contiguous(), others.contiguous()) + 1e-3
