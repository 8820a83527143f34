"""Random views of uint8 images on a CPU: one compiled loop that finishes a sample while it lies in the cache.

The tensor form, `augment.apply_tensors`, is the definition: the same parameters are applied here with the same
formulas, and both agree to a thousandth of a gray level. A batch of float tensors goes through memory once for each
operation; here only the pixels and the finished view do.

Planes of a view have rows of a multiple of 16 pixels, and as many rows; padding beyond the view is 0 until the
contrast changes. Samples are independent, so that any number of threads computes the same bits.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.kernels.lanes import (
    LANES,
    Compiled,
    Register,
    add,
    fma,
    jit_cached,
    load,
    splat,
    store,
    zeros,
)
from unlabeled.kernels.view_parameters import ViewParameters

__all__ = ["apply"]


BLOCK = 2048
"""Pixels whose colours are changed at once: three channels of them fill half of a first cache."""
VALUES_PER_THREAD = 1_000_000
"""Values of views that are worth a thread of their own."""
TAIL = 3e-7
"""Weight of a Gaussian's farthest pixels that is omitted; a thousandth of a gray level is 4e-6."""
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
TWO, THREE, FOUR, SIX = np.float32(2), np.float32(3), np.float32(4), np.float32(6)
TINY = np.float32(np.finfo(np.float32).tiny)
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
THRESHOLD = np.float32(128 / 255)
FINITE = {"nnan", "nsz"}
"""Nothing is NaN: what a minimum and a maximum need to be one instruction each."""
FUSED = FINITE | {"contract"}
"""Products and sums may have one rounding, where torch's own operation has one."""


def _compiled(fastmath: set[str] | None = None) -> Callable[[Compiled], Compiled]:
    """Compile into what calls it; without `fastmath` every operation rounds as it is written."""
    return numba.njit(nogil=True, fastmath=fastmath or set(), error_model="numpy")  # type: ignore[return-value]


def apply(images: Tensor, parameters: ViewParameters, threads: int | None = None) -> Tensor:
    """Make the views of these parameters.

    Args:
        images: uint8 on the CPU, shape (batch, channels, height, width).
        parameters: Random choices for these images.
        threads: Threads that split the samples; by default those of torch, where there is enough work for each.

    Returns:
        float32 in 0..1, shape (batch, channels, size, size).

    Raises:
        ValueError: A box reaches beyond its image, or an order has the contrast twice.
    """
    size, (samples, channels) = parameters.size, images.shape[:2]
    # numpy asks the system for large pages, which saves most of the time that fresh memory costs.
    views = np.empty((samples, channels, size, size), np.float32)
    arguments = [tensor.detach().contiguous().numpy() for tensor in _tensors(images, parameters)]
    arguments += [size, views.reshape(samples, channels, size**2)]
    if threads is None:
        threads = min(torch.get_num_threads(), views.size // VALUES_PER_THREAD)
    threads = min(threads, samples)
    if threads <= 1:
        _views(*arguments, 0, samples)
        return torch.from_numpy(views)
    # Several parts for each thread: the time that a sample takes depends on its parameters.
    borders = np.linspace(0, samples, min(samples, 4 * threads) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: _views(*arguments, *part), pairwise(borders)))
    return torch.from_numpy(views)


def _tensors(images: Tensor, parameters: ViewParameters) -> list[Any]:
    """The arguments of `_views`, neutral where an operation does not happen."""
    samples = len(images)
    never, zero = torch.zeros(samples, dtype=torch.bool), torch.zeros(samples)
    factors, order, sigmas, angles = zero.expand(4, -1).T, torch.full((samples, 4), 4), zero, torch.zeros(0)
    if parameters.factors is not None and parameters.order is not None:
        factors, order = parameters.factors.float(), parameters.order
    if parameters.blurred is not None and parameters.sigmas is not None:
        sigmas = torch.where(parameters.blurred, parameters.sigmas.float(), 0)
    if parameters.degrees is not None:
        angles = parameters.degrees.double().deg2rad()
    flip, gray, solarized = (
        never if mask is None else mask for mask in (parameters.flip, parameters.gray, parameters.solarized)
    )
    boxes, cos, sin = parameters.boxes.long(), angles.cos().float(), angles.sin().float()
    return [images, boxes, flip, cos, sin, factors, order.long(), gray, sigmas, solarized]


@intrinsic
def _load_pixels(context, array, start):
    """Sixteen neighbours of a contiguous array of uint8, divided by 255."""

    def make(context, builder, signature, args):
        pixels = context.make_array(signature.args[0])(context, builder, args[0])
        vector = ir.VectorType(ir.FloatType(), LANES)
        kind = ir.VectorType(ir.IntType(8), LANES)
        address = builder.bitcast(builder.gep(pixels.data, [args[1]]), kind.as_pointer())
        integers = builder.zext(builder.load(address, align=1), ir.VectorType(ir.IntType(32), LANES))
        # n / 255 is n * 257 / 65536, exact, times 1 + 1 / 65535: for all 256 the float that a division gives.
        near = builder.fmul(builder.sitofp(integers, vector), ir.Constant(vector, [257 / 65536] * LANES))
        rest = builder.fmul(near, ir.Constant(vector, [ONE.item() / 65535] * LANES), flags=["contract"])
        return builder.fadd(near, rest, flags=["contract"])

    return Register(types.float32)(array, types.intp), make


@intrinsic
def _transpose(context, source, start, stride, target, begin, step):
    """Copy 16 rows of 16 floats as columns.

    Args:
        source: Contiguous array, read from `start`; a row begins `stride` after the last.
        target: Contiguous array, written from `begin`; a row begins `step` after the last.
    """

    def make(context, builder, signature, args):
        vector = ir.VectorType(ir.FloatType(), LANES)

        def addresses(array, start, stride):
            data = context.make_array(signature.args[array])(context, builder, args[array]).data
            for _ in range(LANES):
                yield builder.bitcast(builder.gep(data, [start]), vector.as_pointer())
                start = builder.add(start, stride)

        rows = [builder.load(address, align=4) for address in addresses(0, *args[1:3])]
        # Four perfect shuffles of 256 numbers exchange the upper and the lower half of their indices' bits.
        for _ in range(4):
            shuffled = []
            for x, y in zip(rows[: LANES // 2], rows[LANES // 2 :], strict=True):
                for half in range(0, LANES, LANES // 2):
                    lanes = [lane + side for lane in range(half, half + LANES // 2) for side in (0, LANES)]
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)
                    shuffled.append(builder.shuffle_vector(x, y, mask))
            rows = shuffled
        for row, address in zip(rows, addresses(3, *args[4:6]), strict=True):
            builder.store(row, address, align=4)
        return context.get_dummy_value()

    number = types.intp
    return types.void(source, number, number, target, number, number), make


@_compiled()
def _line_weights(length, size, flip, first, count, weights):
    """Which pixels of a line make each pixel of the view, and with which weights: see `augment._resampling`.

    Args:
        length: Pixels of the segment that is resized.
        size: Pixels that it becomes.
        flip: Whether these are in reverse.
        first: Written: first pixel for each, shape (side,).
        count: Written: how many pixels, 0 for padding beyond the size, shape (side,).
        weights: Written: their weights, shape (side, taps).
    """
    scale = np.float32(length) / np.float32(size)
    support = max(scale, ONE)
    inverse = ONE / support
    for index in range(size):
        position = size - 1 - index if flip else index
        center = scale * (np.float32(position) + HALF)
        low = max(np.int64(center - support + HALF), 0)
        high = min(np.int64(center + support + HALF), length)
        total = ZERO
        for tap in range(high - low):
            distance = (np.float32(low + tap) - center + HALF) * inverse
            weight = max(ONE - abs(distance), ZERO)
            weights[index, tap] = weight
            total += weight
        for tap in range(high - low):
            weights[index, tap] /= total
        first[index], count[index] = low, high - low
    for index in range(size, len(first)):
        first[index] = count[index] = 0


@_compiled()
def _resample(pixels, shape, box, flip, size, planes, down, across, lines, tile, resized):
    """Cut the box out of an image, resize it and mirror it if `flip`.

    Columns come before rows, and neighbours are added from first to last, because the matrix products of the tensor
    form do so: strong colour changes make the last bits count.

    Args:
        pixels: uint8, those of the image first, then 15 more that may be read, contiguous.
        shape: Channels, height and width of the image.
        box: Top, left, height and width in pixels.
        flip: Whether the view is mirrored.
        size: Its side.
        planes: Written, see the module, shape (channels, pixels).
        down: Room for firsts, counts and weights of the rows, see `_line_weights`.
        across: The same for the columns.
        lines: Room for 16 rows of the box, transposed.
        tile: Room for 16 times 16 numbers.
        resized: Room for all rows of the box, resized.
    """
    channels, tall, wide = shape
    top, left, height, width = box
    first, count, weights = down
    near, taps, blends = across
    _line_weights(height, size, False, first, count, weights)
    _line_weights(width, size, flip, near, taps, blends)
    side = len(first)
    for channel in range(channels):
        corner = (channel * tall + top) * wide + left
        for y in range(0, height, LANES):
            for x in range(0, width, LANES):
                for row in range(LANES):
                    start = corner + min(y + row, height - 1) * wide + x
                    store(tile, row * LANES, _load_pixels(pixels, start))
                _transpose(tile, 0, LANES, lines, x * LANES, LANES)
            for x in range(0, side, LANES):
                for column in range(LANES):
                    start = near[x + column] * LANES
                    total = zeros(planes)
                    for tap in range(taps[x + column]):
                        weight = splat(blends[x + column, tap])
                        total = fma(total, weight, load(lines, start + tap * LANES))
                    store(tile, column * LANES, total)
                _transpose(tile, 0, LANES, resized, y * side + x, side)
        for y in range(side):
            for x in range(0, side, LANES):
                start = first[y] * side + x
                total = zeros(planes)
                for tap in range(count[y]):
                    total = fma(total, splat(weights[y, tap]), load(resized, start + tap * side))
                store(planes, (channel * side + y) * side + x, total)


@_compiled(FINITE)
def _brighten(values, factor):
    for pixel in range(len(values)):
        values[pixel] = min(max(values[pixel] * factor, ZERO), ONE)


@_compiled(FINITE)
def _scale_shift(values, factor, offset):
    for pixel in range(len(values)):
        values[pixel] = min(max(values[pixel] * factor + offset, ZERO), ONE)


@_compiled(FUSED | {"reassoc"})
def _sum(values):
    total = ZERO
    for pixel in range(len(values)):
        total += values[pixel]
    return total


@_compiled(FUSED | {"reassoc"})
def _sum_luma(red, green, blue):
    total = ZERO
    for pixel in range(len(red)):
        total += RED * red[pixel] + GREEN * green[pixel] + BLUE * blue[pixel]
    return total


@_compiled(FUSED)
def _saturate(red, green, blue, factor):
    # As torch's lerp: from the nearer end.
    near = factor < HALF
    weight = factor if near else factor - ONE
    for pixel in range(len(red)):
        r, g, b = red[pixel], green[pixel], blue[pixel]
        luma = BLUE * b + (GREEN * g + RED * r)
        red[pixel] = min(max((luma if near else r) + weight * (r - luma), ZERO), ONE)
        green[pixel] = min(max((luma if near else g) + weight * (g - luma), ZERO), ONE)
        blue[pixel] = min(max((luma if near else b) + weight * (b - luma), ZERO), ONE)


@_compiled(FINITE)
def _shift_hue(red, green, blue, turn):
    shift = SIX * turn
    for pixel in range(len(red)):
        r, g, b = red[pixel], green[pixel], blue[pixel]
        high, low = max(max(r, g), b), min(min(r, g), b)
        span = high - low
        inverse = ONE / max(span, TINY)
        is_red, is_green = r == high, g == high
        more = g if is_red else (b if is_green else r)
        less = b if is_red else (r if is_green else g)
        start = ZERO if is_red else (TWO if is_green else FOUR)
        sixths = (more - less) * inverse + start + shift
        sixths = sixths + SIX if sixths < ZERO else sixths
        sixths = sixths - SIX if sixths >= SIX else sixths
        red[pixel] = low + span * min(max(abs(sixths - THREE) - ONE, ZERO), ONE)
        green[pixel] = low + span * min(max(abs(abs(sixths - TWO) - THREE) - ONE, ZERO), ONE)
        blue[pixel] = low + span * min(max(abs(abs(sixths - FOUR) - THREE) - ONE, ZERO), ONE)


@_compiled(FUSED)
def _gray(red, green, blue):
    for pixel in range(len(red)):
        luma = BLUE * blue[pixel] + (GREEN * green[pixel] + RED * red[pixel])
        red[pixel] = green[pixel] = blue[pixel] = luma


@_compiled()
def _solarize(values):
    for pixel in range(len(values)):
        value = values[pixel]
        values[pixel] = ONE - value if value >= THRESHOLD else value


@_compiled()
def _recolor(planes, start, stop, factors, order, begin, end):
    """Brightness, saturation and hue of some pixels, those of the `order` from `begin` to before `end`."""
    for index in range(begin, end):
        operation = order[index]
        if operation == 0:
            for channel in range(planes.shape[0]):
                _brighten(planes[channel, start:stop], factors[0])
        if planes.shape[0] == 3 and (operation == 2 or operation == 3):
            red, green, blue = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
            if operation == 2:
                _saturate(red, green, blue, factors[2])
            else:
                _shift_hue(red, green, blue, factors[3])


@_compiled()
def _colors(planes, size, factors, order, gray):
    """Colour changes and gray of one view, shape (channels, pixels)."""
    channels, pixels = planes.shape
    begin, shifting, offset = 0, False, ZERO
    for index in range(5):
        last = index == 4
        if not last and order[index] != 1:
            continue
        if not last and shifting:  # the padding is not 0 any more
            raise UserError("order must name no change twice")
        # The contrast needs the mean of all pixels: it parts the changes into two passes.
        mean = 0.0
        for start in range(0, pixels, BLOCK):
            stop = min(start + BLOCK, pixels)
            if shifting:
                for channel in range(channels):
                    _scale_shift(planes[channel, start:stop], factors[1], offset)
            _recolor(planes, start, stop, factors, order, begin, index)
            if channels == 3:
                red, green, blue = planes[0, start:stop], planes[1, start:stop], planes[2, start:stop]
                if not last:
                    mean += _sum_luma(red, green, blue)
                elif gray:
                    _gray(red, green, blue)
            elif not last:
                for channel in range(channels):
                    mean += _sum(planes[channel, start:stop]) / channels
        begin, shifting = index + 1, True
        offset = np.float32(mean / (size * size)) * (ONE - factors[1])


@_compiled()
def _gaussian(size, sigma, weights):
    """Half of a Gaussian, from its middle, as `augment.blur` has it; returns the farthest pixel that counts."""
    radius = max(size // 20, 1)
    total = 1.0
    for offset in range(1, radius + 1):
        total += 2 * math.exp(-0.5 * (offset / sigma) ** 2)
    for offset in range(radius + 1):
        weights[offset] = math.exp(-0.5 * (offset / sigma) ** 2) / total
    tail = 2 * weights[radius]
    while radius > 0 and tail < TAIL:
        radius -= 1
        tail += 2 * weights[radius]
    return radius


@_compiled()
def _weigh(source, start, before, after, weights, radius, target, begin, length):
    """Weighted sums of numbers and of their neighbours on both sides.

    Args:
        source: Contiguous, read from `start`.
        before: How far off the neighbours on one side are, shape (radius + 1 or more,).
        after: The same for the other side.
        weights: Of both sides, first that of the middle.
        radius: Neighbours on each side.
        target: Contiguous, written from `begin`.
        length: How many sums, a multiple of 16.
    """
    x = 0
    while x + 4 * LANES <= length:  # four sums at once, as each step of one waits for its last
        here = start + x
        weight = splat(weights[0])
        a = fma(zeros(source), weight, load(source, here))
        b = fma(zeros(source), weight, load(source, here + LANES))
        c = fma(zeros(source), weight, load(source, here + 2 * LANES))
        d = fma(zeros(source), weight, load(source, here + 3 * LANES))
        for offset in range(1, radius + 1):
            weight = splat(weights[offset])
            up, low = here + before[offset], here + after[offset]
            a = fma(a, weight, add(load(source, up), load(source, low)))
            b = fma(b, weight, add(load(source, up + LANES), load(source, low + LANES)))
            c = fma(c, weight, add(load(source, up + 2 * LANES), load(source, low + 2 * LANES)))
            d = fma(d, weight, add(load(source, up + 3 * LANES), load(source, low + 3 * LANES)))
        store(target, begin + x, a)
        store(target, begin + x + LANES, b)
        store(target, begin + x + 2 * LANES, c)
        store(target, begin + x + 3 * LANES, d)
        x += 4 * LANES
    while x < length:
        here = start + x
        a = fma(zeros(source), splat(weights[0]), load(source, here))
        for offset in range(1, radius + 1):
            both = add(load(source, here + before[offset]), load(source, here + after[offset]))
            a = fma(a, splat(weights[offset]), both)
        store(target, begin + x, a)
        x += LANES


@_compiled()
def _blur(planes, size, sigma, view, line, row, weights, rows, columns):
    """Blur one view; the borders are reflected.

    Args:
        planes: Read, see the module, shape (channels, pixels).
        size: Side of the view.
        sigma: Width of the Gaussian in pixels.
        view: Written, shape (channels, size * size).
        line: Room for a row, a margin before it and one after it.
        row: Room for a row.
        weights: Room for half of the Gaussian.
        rows: Room for how far off the neighbours above and below are, shape (2, margin).
        columns: The same for left and right.
    """
    channels, pixels = planes.shape
    side = len(row)
    radius = _gaussian(size, sigma, weights)
    margin = len(weights)
    above, below = rows
    left, right = columns
    for offset in range(1, radius + 1):
        left[offset], right[offset] = -offset, offset
    for channel in range(channels):
        for y in range(size):
            for offset in range(1, radius + 1):
                up, low = abs(y - offset), y + offset
                low = 2 * (size - 1) - low if low >= size else low
                above[offset], below[offset] = (up - y) * side, (low - y) * side
            start = channel * pixels + y * side
            _weigh(planes, start, above, below, weights, radius, line, margin, side)
            for offset in range(1, radius + 1):
                line[margin - offset] = line[margin + offset]
                line[margin + size - 1 + offset] = line[margin + size - 1 - offset]
            start = (channel * size + y) * size
            if side == size:
                _weigh(line, margin, left, right, weights, radius, view, start, side)
            else:
                _weigh(line, margin, left, right, weights, radius, row, 0, side)
                for column in range(size):
                    view[channel, y * size + column] = row[column]


@_compiled()
def _rotate(source, size, cos, sin, target):
    """Rotate a view, shape (channels, pixels); the roundings of the positions are torch's, see `augment.rotate`."""
    channels = len(source)
    side = -(-size // LANES) * LANES
    half = np.float32(0.5 * size)
    middle = np.float32((size - 1) / 2)
    target[:, :] = ZERO
    for y in range(size):
        for x in range(size):
            right, down = np.float32(x) - middle, np.float32(y) - middle
            across = down * (-sin / half) + right * (cos / half)
            along = down * (cos / half) + right * (sin / half)
            # torch multiplies and subtracts with one rounding.
            column = np.float32(np.float64(across + ONE) * np.float64(half) - 0.5)
            row = np.float32(np.float64(along + ONE) * np.float64(half) - 0.5)
            left, top = math.floor(column), math.floor(row)
            east, south = column - np.float32(left), row - np.float32(top)
            west, north = ONE - east, ONE - south
            start, pixel = top * side + left, y * side + x
            if 0 <= left < size - 1 and 0 <= top < size - 1:
                for channel in range(channels):
                    upper = west * source[channel, start] + east * source[channel, start + 1]
                    lower = west * source[channel, start + side] + east * source[channel, start + side + 1]
                    target[channel, pixel] = north * upper + south * lower
                continue
            for below, weight in ((0, north), (1, south)):
                for later, part in ((0, west), (1, east)):
                    if 0 <= top + below < size and 0 <= left + later < size:
                        for channel in range(channels):
                            value = source[channel, start + below * side + later]
                            target[channel, pixel] += weight * part * value


@jit_cached
def _views(images, boxes, flip, cos, sin, factors, order, gray, sigmas, solarized, size, views, begin, end):
    """Make the views of the samples from `begin` to before `end`; nothing is rotated where `cos` is empty."""
    samples, channels, height, width = images.shape
    side = -(-size // LANES) * LANES
    turns = len(cos) > 0
    tall, wide = 2 * max(height // size + 1, 1) + 3, 2 * max(width // size + 1, 1) + 3
    down = np.empty(side, np.int64), np.empty(side, np.int64), np.empty((side, tall), np.float32)
    across = np.empty(side, np.int64), np.empty(side, np.int64), np.empty((side, wide), np.float32)
    lines, tile = np.empty((width + LANES) * LANES, np.float32), np.empty(LANES * LANES, np.float32)
    resized = np.empty((height + LANES) * side, np.float32)
    margin = max(size // 20, 1) + 1
    line, row = np.zeros(2 * margin + side, np.float32), np.empty(side, np.float32)
    weights = np.empty(margin, np.float32)
    rows, columns = np.empty((2, margin), np.int64), np.empty((2, margin), np.int64)
    planes = np.empty((channels, side * side), np.float32)
    unturned = np.empty((channels, side * side if turns else 0), np.float32)
    extent = channels * height * width
    for sample in range(begin, end):
        pixels = images[sample].reshape(extent)
        if sample == samples - 1:  # nothing may be read beyond the last one
            copy = np.zeros(extent + LANES, np.uint8)
            copy[:extent] = pixels
            pixels = copy
        view, blurred = views[sample], sigmas[sample] > 0
        direct = side == size and not blurred
        colored = view if direct else planes
        resampled = unturned if turns else colored
        shape = channels, height, width
        box = boxes[sample]
        beyond = box[0] + box[2] > height or box[1] + box[3] > width
        if beyond or min(box[0], box[1]) < 0 or min(box[2], box[3]) < 1:
            raise UserError("boxes must lie inside the images")
        _resample(pixels, shape, box, flip[sample], size, resampled, down, across, lines, tile, resized)
        if turns:
            _rotate(resampled, size, cos[sample], sin[sample], colored)
        _colors(colored, size, factors[sample], order[sample], gray[sample])
        if blurred:
            _blur(planes, size, sigmas[sample], view, line, row, weights, rows, columns)
        elif not direct:
            for channel in range(channels):
                for y in range(size):
                    for column in range(size):
                        view[channel, y * size + column] = planes[channel, y * side + column]
        if solarized[sample]:
            for channel in range(channels):
                _solarize(view[channel])
