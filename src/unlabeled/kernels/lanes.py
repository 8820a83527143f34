"""Vector registers of sixteen numbers for loops that numba compiles.

Numba's automatic vectoriser needs one loop, one store and a proof that no two arrays overlap. Here the author spells
out each lane, so that any nest of loops runs on whole registers, rows may overlap, and machines with narrower registers
split the work. Numba's cache of a function notices changes of the function's own file only, not of this one.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
import logging
from collections.abc import Callable, Set
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.extending import intrinsic, models, register_model

from unlabeled import check
from unlabeled.kernels.compat import set_cache

__all__ = [
    "LANES",
    "add",
    "bits_to_float",
    "cache_folder",
    "fma",
    "jit_cached",
    "lane_sums",
    "load",
    "prefetch",
    "splat",
    "store",
    "zeros",
]

LANES = 16
"""Numbers in a register: 16 of float32 fill the widest ones, and a cache line."""

_log = logging.getLogger("unlabeled.kernels")

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


def jit_cached(function: Compiled, fastmath: Set[str] = frozenset()) -> Compiled:
    """Compile at the first call, and cache the machine code on disk where a folder can be written to.

    Args:
        function: What to compile.
        fastmath: Freedoms of rounding, by LLVM's names; without them every operation rounds as it is written.
    """
    compiled = numba.njit(nogil=True, fastmath=set(fastmath), error_model="numpy")(function)
    with suppress(RuntimeError):  # neither the package's folder nor the user's cache can be written to
        set_cache(compiled, _Cache(function))
    return compiled  # type: ignore[return-value]


class _Cache(FunctionCache):
    """numba's own cache, except that a full disk or a damaged file stops no run."""

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a file that was cut short unpickles to anything
            with suppress(OSError):
                self.flush()  # else it could not be saved to
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn_once(self.cache_path, check.reason(error))


def cache_folder() -> Path | None:
    """Where the machine code of compiled loops is kept; None where no folder can be written to."""
    with suppress(RuntimeError):
        return Path(_Cache(cache_folder).cache_path)
    return None


@cache
def _warn_once(folder: str, reason: str) -> None:
    _log.warning("cannot cache compiled loops in %s (%s); the next start compiles them again", folder, reason)


class Register(types.Type):
    """Sixteen floats side by side."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Register({dtype})")


def _vector(dtype: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType(), LANES)


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _vector(kind.dtype))


def _pointer(context, builder, signature, args):
    """Address of `array[start]`."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def zeros(context, array):
    """Sixteen zeros of an array's type."""
    kind = Register(array.dtype)
    return kind(array), lambda context, builder, signature, args: ir.Constant(_vector(kind.dtype), None)


@intrinsic
def splat(context, number):
    """The same number in all lanes."""

    def make(context, builder, signature, args):
        return _splat(builder, args[0], _vector(signature.args[0]))

    return Register(number)(number), make


def _splat(builder, number, vector):
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


@intrinsic
def load(context, array, start):
    """`array[start : start + 16]` of a contiguous array."""

    def make(context, builder, signature, args):
        vector = _vector(signature.args[0].dtype)
        address = builder.bitcast(_pointer(context, builder, signature, args), vector.as_pointer())
        return builder.load(address, align=signature.args[0].dtype.bitwidth // 8)

    return Register(array.dtype)(array, types.intp), make


@intrinsic
def store(context, array, start, register):
    """Set `array[start : start + 16]` of a contiguous array."""

    def make(context, builder, signature, args):
        vector = _vector(signature.args[0].dtype)
        address = builder.bitcast(_pointer(context, builder, signature, args), vector.as_pointer())
        builder.store(args[2], address, align=signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, register), make


@intrinsic
def add(context, left, right):
    """`left + right`, lane by lane."""
    return left(left, left), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def fma(context, total, left, right):
    """`total + left * right`, lane by lane, in one instruction where there is one."""

    def make(context, builder, signature, args):
        product = builder.fmul(args[1], args[2], flags=["contract"])
        return builder.fadd(args[0], product, flags=["contract"])

    return total(total, total, total), make


@intrinsic
def lane_sums(context, a, b, c, d, e, f, g, h, i, j, k, l):  # noqa: E741
    """Sum over the lanes of each of twelve registers: lane n of the result is that of the n-th, the last four are 0."""

    def make(context, builder, signature, args):
        vector = _vector(signature.args[0].dtype)
        rows = [*args, *[ir.Constant(vector, None)] * (LANES - len(args))]
        group = LANES
        # Two registers of partial sums become one with half as many of each: 15 additions instead of 16 times 4.
        while group > 1:
            group //= 2
            lanes = [lane for lane in range(2 * LANES) if lane % (2 * group) < group]
            low, high = (
                ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane + shift for lane in lanes])
                for shift in (0, group)
            )
            rows = [
                builder.fadd(builder.shuffle_vector(x, y, low), builder.shuffle_vector(x, y, high))
                for x, y in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return a(*[a] * 12), make


@intrinsic
def prefetch(context, array, start):
    """Request the cache line of `array[start]` without waiting for it."""

    def make(context, builder, signature, args):
        address = builder.bitcast(_pointer(context, builder, signature, args), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, *(ir.Constant(number, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), make


@intrinsic
def bits_to_float(context, bits):
    """The float32 whose bits are those of an int32."""

    def make(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), make
