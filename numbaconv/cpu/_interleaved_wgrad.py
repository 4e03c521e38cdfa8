"""The gradient of the weights in interleaved planes (see `_interleaved`): x and dy are turned, the sums of a row of taps stay in registers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _isa, _parallel
from numbaconv.cpu._ahead import is_far
from numbaconv.cpu._interleaved import Interleaved, layout, turner
from numbaconv.cpu._simd_interleaved import Row, deinterleave, dots, sums_of_a_tap
from numbaconv.cpu._sum import add_pairwise, carry, levels, total
from numbaconv.problem import ConvProblem

MOST_ACROSS = 8  # taps of a row of the filter, whose sums stay in registers
CHUNK, CHUNKS = 64, 32  # terms summed in one register, and such sums in one place; these are added pairwise
L1_BYTES = 32 << 10  # of rows of x and dy that all rows of taps pass over: 144 3×3 @56 took 124 µs, 175 when each row of taps passed over the plane
SPLITS = 32  # pieces of a sum where there are too few channels to share
Array = np.ndarray[Any, Any]


def plan(p: ConvProblem, isa: _isa.Isa, dtype: np.dtype[Any]) -> Interleaved | None:
    """Return how wgrad is done in interleaved planes, None if it can't be."""
    width, (_, R, S), planes = isa.width(dtype), p.filter, p.batch * p.output[0]
    found = layout(p, isa, dtype)
    if found is None or p.flipped or S > MOST_ACROSS:
        return None
    H, W, P, Q = *p.input[1:], *p.output[1:]
    low, count = found.there.argmax(0), found.there.sum(0)
    reading = np.stack([low, low + count, found.first[0] * found.pitch * width], 1)
    at = np.append((np.arange(P)[:, None] * found.across + np.arange(Q)).reshape(-1), np.full(-(P * Q) % width, P * found.across)) * width
    blocks, line = -(-p.groups // width), (p.stride[1] * found.pitch + found.across) * isa.vector_bytes
    most = max(1, min(CHUNK * sums_of_a_tap(isa, found.shape) // found.shape.outputs, L1_BYTES // line))
    parts = min(planes, -(-SPLITS // blocks))
    units = -(-planes // parts) * -(-P // most) * (found.across // found.shape.outputs)
    slopes = (H * found.pitch + 1) * width
    sums = slopes + (P * found.across + 1) * width
    size = -(-R * S // width) * width * width  # squares of vectors
    geometry = (p.output[0], p.groups, H * W, P * Q, P, Q, found.pitch * width, found.across * width, slopes, sums, R * S, S * width, planes,
                most, p.stride[1], parts, is_far(p, dtype))  # fmt: skip
    turned = planes * blocks * (H * W + P * Q) * width + parts * blocks * size
    tables = tuple(np.array(table, np.int64) for table in (geometry, found.places, at, reading))
    return Interleaved(
        _kernel(isa, dtype, found.shape), tables, blocks * parts, sums + size * levels(units, CHUNKS), turned,
        planes * blocks * width * found.across * S * int(count.sum()), parts,
    )  # fmt: skip


def run(found: Interleaved, dy: Array, x: Array, dw: Array, seconds: float) -> bool:
    """Overwrite the gradient of the filters, and return whether a sum is not finite."""
    flat = dw.reshape(-1)
    parts = np.empty((found.parts, dw.size), dw.dtype)
    _parallel.run(found.kernel, found.tiles, (found.scratch, dw.dtype), (dy.reshape(-1), x.reshape(-1), parts.reshape(-1), *found.tables), seconds)
    flat[:] = add_pairwise(parts)
    return not np.isfinite(flat).all()


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], shape: Row) -> Kernel:
    turn_all, turn_back, add_row = turner(isa, dtype), deinterleave(isa, dtype), dots(isa, dtype, shape)
    zero, outputs, lanes, across = dtype.type(0), shape.outputs, isa.width(dtype), shape.stride * isa.width(dtype)

    def wgrad(first, last, workers, scratch, dy, x, parts, geometry, places, slope_places, reading):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k,r,s] = Σ_n Σ_z Σ_p Σ_q dy[n,k,z,p,q] · x[n,k,z,p·stride + r·dilation − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is a vector of channels, the last of which overlap those before, over some of their planes; all rows of taps, one
        # after the other in registers, pass over a piece of some rows, which stays in L1.
        Z, K, plane, results, P, Q, pitch, pitch_y = (geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6],
                                                      geometry[7])  # fmt: skip
        slopes, start, volume, size_row, planes, most, stride, count_parts, far = (geometry[8], geometry[9], geometry[10], geometry[11], geometry[12],
                                                                                geometry[13], geometry[14], geometry[15], geometry[16])  # fmt: skip
        size = (volume + lanes - 1) // lanes * lanes * lanes
        for worker in prange(workers):
            block, sums = scratch[worker], scratch[worker][start:]
            for i in range(start):
                block[i] = zero
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                k, part = min(tile // count_parts * lanes, K - lanes), tile % count_parts
                for i in range(size):
                    sums[unsigned(i)] = zero
                begin, end, used, chunks = planes * part // count_parts, planes * (part + 1) // count_parts, 0, 0
                for unit in range(begin, end):
                    at = (unit // Z * K + k) * Z + unit % Z
                    after = (unit + 1) // Z * K * Z + k * Z + (unit + 1) % Z if unit + 1 < end else at + lanes * Z
                    # What comes next is asked for row by row: 576 3×3 @14, 16 samples, 0.93 ms, and 1.66 when all of it was asked for at once.
                    turn_all(x, at * plane, Z * plane, plane, (after - at) * plane if far else 0, places, block, 0)
                    turn_all(dy, at * results, Z * results, results, (after - at) * results if far else 0, slope_places, block, slopes)
                    for p in range(0, P, most):
                        for q in range(0, Q, outputs):
                            if used == CHUNKS:
                                carry(sums, size, size, chunks)
                                used, chunks = 0, chunks + 1
                            used += 1
                            for r in range(len(reading)):
                                top = max(p, reading[r, 0])
                                count, row = min(p + most, reading[r, 1]) - top, reading[r, 2] + top * stride * pitch + q * across
                                if count > 0:
                                    add_row(block, row, stride * pitch, block, slopes + top * pitch_y + q * lanes, pitch_y, count, sums, r * size_row)
                total(sums, size, size, chunks)
                for i in range(0, volume, lanes):
                    turn_back(sums, i * lanes, parts, (part * K + k) * volume + i, volume, volume - i)

    return Kernel(wgrad, f"-{isa.name}-{dtype.name}-{'x'.join(map(str, shape))}")
