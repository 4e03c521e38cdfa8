"""The way of `stencil` for 1×1 filters, few of them to a group: planes are read once, at the speed of the memory.

For fprop and dgrad, channels first. A piece of y stays in the cache while the channels of x are added to it, some at a time; what is
read next is asked for, since no core sees so many planes coming.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel
from numbaconv.cpu import _isa
from numbaconv.cpu._simd_pointwise import add_channels
from numbaconv.cpu.bias import activate
from numbaconv.problem import ConvProblem, Op

MOST_FILTERS = 8  # of a group
TOGETHER, FACTORS = 8, 16  # channels that are added at a time, and vectors of factors that stay in registers
PIECE = 1024  # elements of a plane, so that those of the channels that come next are in L1, too
MOST_CHANNELS = 256  # terms of an output's sum, which has one accumulator: rounding stays within 8 eps (tests/test_numerics.py)
Array = np.ndarray[Any, Any]


class Pointwise(NamedTuple):
    """How planes are cut into pieces, and what the kernel reads."""

    kernel: Kernel
    tables: tuple[Array]  # geometry
    tiles: int
    together: int  # channels
    scratch: int = 0

    def work(self, p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
        """Count what moves between memory and cache, and multiply-adds, with what they read of y and write."""
        size = dtype.itemsize / 4
        return {"pass": 1, "move": (math.prod(p.shape("x")) + math.prod(p.shape("y"))) * size, "lane": p.macs * (1 + 2 / self.together) * size}


def plan(p: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any]) -> Pointwise | None:
    """Return how fprop is done in pieces, None if it can't be."""
    filters, channels, one = p.out_channels // p.groups, p.in_channels // p.groups, (1, 1, 1)
    same = p.filter == p.stride == p.input_dilation == one and p.low == (0, 0, 0) and p.output == p.input and not p.channels_last
    if not same or 0 in p.gemm_shape("fprop") or filters > MOST_FILTERS or not 1 < channels <= MOST_CHANNELS:
        return None
    together = max(1, min(TOGETHER, channels, FACTORS // filters))
    plane = math.prod(p.input)
    wk, wc = (1, filters) if op == "dgrad" else (channels, 1)
    pieces = -(-plane // PIECE)
    geometry = np.array((pieces, p.groups, channels, plane, wk, wc), np.int64)
    return Pointwise(_kernel(isa, dtype, filters, together), (geometry,), p.batch * p.groups * pieces, together)


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], filters: int, together: int) -> Kernel:
    some, one, zero, lowest = add_channels(isa, dtype, filters, together), add_channels(isa, dtype, filters, 1), dtype.type(0), dtype.type(-np.inf)

    def pointwise(first, last, workers, scratch, x, w, y, bias, code, broken, geometry):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,i] = Σ_c w[k,c] · x[n,c,i].
        # THE SCHEDULE: a tile is a piece of the planes of a group's filters, which takes a few channels after the other.
        pieces, groups, channels, plane, wk, wc = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        for worker in prange(workers):
            found = 0
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                unit, start = tile // pieces, tile % pieces * PIECE
                group, count = unit % groups, min(PIECE, plane - start)
                at_x, at_y, at_w, k = unit * channels * plane + start, unit * filters * plane + start, group * filters * channels, group * filters
                c = 0
                while c < channels:
                    many = channels - c >= together
                    taken = together if many else 1
                    ahead = taken * plane if c + taken < channels else count - c * plane
                    least = zero if code == 1 and c + taken == channels else lowest
                    here, factors = at_x + c * plane, at_w + c * wc
                    if many:
                        found |= some(x, here, plane, ahead, w, factors, wk, wc, y, at_y, plane, bias, k, c, least, count)
                    else:
                        found |= one(x, here, plane, ahead, w, factors, wk, wc, y, at_y, plane, bias, k, c, least, count)
                    c += taken
                for f in range(filters if code > 1 else 0):
                    activate(y, at_y + f * plane, count, code)
            if found:
                broken[0] = 1

    return Kernel(pointwise, f"-{isa.name}-{dtype.name}-{filters}x{together}")
