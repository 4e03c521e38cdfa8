"""The gradient of the weights by slabs (see `_slabs`): a slab's outputs stay in registers while all taps pass over them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _isa, _parallel
from numbaconv.cpu._simd_slab import Slab, lane_sums, slab_dots
from numbaconv.cpu._slabs import AHEAD, Pass, pieces
from numbaconv.cpu._sum import add_pairwise, carry, levels, total
from numbaconv.problem import ConvProblem

CHUNK = 256  # terms summed in one accumulator
Array = np.ndarray[Any, Any]


def scratch(part: Pass, p: ConvProblem, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: the levels of the pairwise sums, and their lanes added up."""
    width = _isa.host().width(dtype)
    size = -(-(p.in_channels // p.groups * len(part.taps) * part.shape.channels) // width) * width  # squares of vectors
    terms = p.batch * p.output[0] * len(part.bands) * len(part.blocks) * part.shape.rows
    return size * (width * levels(2 * terms, CHUNK) + 1)


def run(part: Pass, p: ConvProblem, dy: Array, x: Array, dw: Array, seconds: float) -> bool:
    """Overwrite the gradient of the filters, and return whether a sum is not finite."""
    count, dw, broken = pieces(part, p), dw.reshape(-1), np.zeros(1, np.int8)
    parts = dw.reshape(1, -1) if count == 1 else np.empty((count, dw.size), dw.dtype)
    arguments = (dy.reshape(-1), x.reshape(-1), parts, broken, *part.tables)
    tiles = p.out_channels // part.shape.channels * count
    _parallel.run(_kernel(_isa.host(), dw.dtype, part.shape), tiles, (scratch(part, p, dw.dtype), dw.dtype), arguments, seconds)
    if count > 1:
        dw[:] = add_pairwise(parts)
    return bool(broken[0])


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], shape: Slab) -> Kernel:
    compute, add_lanes, width = slab_dots(isa, dtype, shape), lane_sums(isa, dtype), isa.width(dtype)
    filters, groups, taps_high, room = shape.channels, 1 if shape.shared else shape.channels, shape.taps, CHUNK // shape.rows
    shared, zero = shape.shared, dtype.type(0)
    least_ahead = AHEAD // dtype.itemsize

    def wgrad(first, last, workers, scratch, dy, x, pieces, broken, geometry, bands, blocks, taps):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k,c,r,s] = Σ_n Σ_z Σ_p Σ_q dy[n,k,z,p,q] · x[n,c,z,p·stride + r − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is some filters of a group over one piece of the slabs. The rows of dy of a slab stay in registers while
        # all taps pass; each tap has a vector of sums in L1, CHUNK terms to a lane, and chunks are added pairwise. The next plane is asked for
        # vector by vector: 144 3×3 s2 @56, 16 samples, 2.6 → 1.9 ms, beside a slab's share of it at once.
        Z, K, per_k, per_c, HW, PQ, C = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6], geometry[7]
        wk, wc, wg, even, odd = geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
        squares, columns = (per_c * len(taps) * filters + width - 1) // width, len(taps) // taps_high
        size, batch = squares * width * width, x.size // (C * Z * HW)
        next_x = HW if Z > 1 else C * HW if batch > 1 else groups * per_c * HW
        next_y = PQ if Z > 1 else K * filters * PQ if batch > 1 else filters * PQ
        if max(HW, PQ) < least_ahead:  # nothing is asked for
            next_x = next_y = 0
        for worker in prange(workers):
            sums, added = scratch[worker], scratch[worker][len(scratch[worker]) - squares * width :]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                k, piece, used, chunks = tile // len(pieces), tile % len(pieces), 0, 0
                group, filter = k // per_k * groups, k % per_k * filters
                for i in range(size):
                    sums[unsigned(i)] = 0
                unit, stop = batch * Z * len(bands) * piece // len(pieces), batch * Z * len(bands) * (piece + 1) // len(pieces)
                while unit < stop:
                    plane, top = unit // len(bands), unit % len(bands)
                    image, z = plane // Z, plane % Z
                    at_x, at_y = ((image * C + group * per_c) * Z + z) * HW, ((image * K + k) * filters * Z + z) * PQ
                    for band in range(top, min(len(bands), top + stop - unit)):
                        for block in range(len(blocks)):
                            compute(x, at_x, per_c * Z * HW, Z * HW, per_c, bands, band * bands.shape[1], blocks, block * blocks.shape[1], even, odd,
                                    dy, at_y, Z * PQ, sums, 0, next_x, next_y)  # fmt: skip
                            used += 1
                            if used == room:
                                carry(sums, size, size, chunks)
                                used, chunks = 0, chunks + 1
                        unit += 1
                total(sums, size, size, chunks)
                add_lanes(sums, 0, squares, added, 0)
                i, strange = 0, zero
                for c in range(per_c):
                    for n in range(columns):
                        for f in range(filters):
                            at = group * wg + filter * wk + f * (wk if shared else wg) + c * wc
                            for r in range(taps_high):
                                value = added[unsigned(i + r)]
                                pieces[piece, unsigned(at + taps[unsigned(n * taps_high + r)])] = value
                                strange += value - value
                            i += taps_high
                if strange != 0:  # NaN
                    broken[0] = 1

    return Kernel(wgrad, f"-{isa.name}-{dtype.name}-{'-'.join(str(int(n)) for n in shape)}")
