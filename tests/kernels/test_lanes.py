"""Sixteen numbers at a time: every operation beside NumPy's."""

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from unlabeled.kernels.lanes import LANES, add, fma, lane_sums, load, prefetch, splat, store, zeros  # noqa: E402


@numba.njit
def _line(a, b, out):
    prefetch(a, 0)
    store(out, 1, fma(add(load(a, 2), zeros(a)), load(b, 3), splat(b[0])))


@numba.njit
def _totals(a, out):
    store(
        out,
        0,
        lane_sums(
            load(a, 0),
            load(a, 16),
            load(a, 32),
            load(a, 48),
            load(a, 64),
            load(a, 80),
            load(a, 96),
            load(a, 112),
            load(a, 128),
            load(a, 144),
            load(a, 160),
            load(a, 176),
        ),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_do_what_numpy_does(dtype):
    generator = np.random.default_rng(0)
    a, b, out = generator.random(40, dtype), generator.random(40, dtype), np.full(20, 7, dtype)
    _line(a, b, out)
    np.testing.assert_allclose(out[1 : 1 + LANES], a[2:18] + b[3:19] * b[0], rtol=1e-6)
    assert out[0] == 7 and (out[17:] == 7).all()  # nothing beside the sixteen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_stand_in_the_order_of_the_registers(dtype):
    a, out = np.random.default_rng(1).normal(size=192).astype(dtype), np.ones(16, dtype)
    _totals(a, out)
    np.testing.assert_allclose(out[:12], a.reshape(12, 16).sum(1), rtol=1e-4, atol=1e-5)
    assert not out[12:].any()
