"""The way of `stencil` for 1×1 filters, few of them to a group: planes are read once, at the speed of the memory.

For channels first. A piece of y stays in the cache while the channels of x are added to it (wgrad: multiplied with it), some at a time;
what is read next is asked for, since no core sees so many planes coming.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _isa, _parallel
from numbaconv.cpu._simd_pointwise import add_channels, add_products
from numbaconv.cpu._simd_slab import lane_sums
from numbaconv.cpu._sum import add_pairwise, carry, levels, total
from numbaconv.cpu.bias import activate
from numbaconv.problem import ConvProblem, Op

MOST_FILTERS = 8  # of a group: of so many gemm may be quicker (64→8 @112 0.13 ms, not 0.19), which the estimates decide
TOGETHER, FACTORS = 8, 16  # channels that are added at a time, and vectors of factors that stay in registers
PIECE = 1024  # elements of a plane, so that those of the channels that come next, which are asked for, are in L1, too: 1.0 ms for 1.5 (64→2 @388)
CHUNK, SPLITS = 64, 32  # terms of wgrad's sums in a lane, and parts of them where there are too few groups to share
MOST_SUMS = 2048  # of wgrad: vectors that stay in L2
MOST_CHANNELS, CHANNELS = 2048, 128  # of a group; and of one accumulator: of more they have another, which is added at the end
Array = np.ndarray[Any, Any]


class Pointwise(NamedTuple):
    """How planes are cut into pieces, and what the kernel reads."""

    kernel: Kernel
    tables: tuple[Array]  # geometry
    tiles: int
    together: int  # channels
    parts: int = 1  # of wgrad's sums
    scratch: int = 0  # elements a thread

    def work(self, p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
        """Count what moves between memory and cache, and multiply-adds, with what they read of y and write."""
        size = dtype.itemsize / 4
        return {"pass": 1, "move": (math.prod(p.shape("x")) + math.prod(p.shape("y"))) * size, "lane": p.macs * (1 + 2 / self.together) * size}


def plan(p: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any]) -> Pointwise | None:
    """Return how p, of which ``op`` is asked, is done in pieces, None if it can't be."""
    filters, channels, one = p.out_channels // p.groups, p.in_channels // p.groups, (1, 1, 1)
    same = p.filter == p.stride == p.input_dilation == one and p.low == (0, 0, 0) and p.output == p.input and not p.channels_last
    if not same or 0 in p.gemm_shape("fprop") or filters > MOST_FILTERS or not 1 < channels <= MOST_CHANNELS:
        return None
    together, plane = max(1, min(TOGETHER, channels, FACTORS // filters)), math.prod(p.input)
    pieces = -(-plane // (CHUNK * isa.width(dtype) if op == "wgrad" else PIECE))
    if op == "wgrad":
        if filters * channels > MOST_SUMS:
            return None
        parts = min(p.batch * pieces, -(-SPLITS // p.groups))
        geometry = np.array((pieces, p.groups, channels, plane, p.batch), np.int64)
        squares = -(-filters * channels // isa.width(dtype))
        scratch = squares * isa.width(dtype) * (isa.width(dtype) * levels(-(-p.batch * pieces // parts), 1) + 1)
        return Pointwise(_wgrad(isa, dtype, filters, together), (geometry,), p.groups * parts, together, parts, scratch)
    wk, wc = (1, filters) if op == "dgrad" else (channels, 1)
    geometry = np.array((pieces, p.groups, channels, plane, wk, wc), np.int64)
    scratch = filters * PIECE if channels > CHANNELS else 0
    return Pointwise(_kernel(isa, dtype, filters, together), (geometry,), p.batch * p.groups * pieces, together, scratch=scratch)


def run_wgrad(found: Pointwise, dy: Array, x: Array, dw: Array, seconds: float) -> None:
    """Overwrite the gradient of the filters."""
    parts = np.empty((found.parts, dw.size), dw.dtype)
    _parallel.run(found.kernel, found.tiles, (found.scratch, dw.dtype), (dy.reshape(-1), x.reshape(-1), parts, *found.tables), seconds)
    dw.reshape(-1)[:] = add_pairwise(parts)


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], filters: int, together: int) -> Kernel:
    some, one, zero, lowest = add_channels(isa, dtype, filters, together), add_channels(isa, dtype, filters, 1), dtype.type(0), dtype.type(-np.inf)

    @inline
    def add_chunk(x, at_x, plane, channels, first, last, w, at_w, wk, wc, y, at_y, row, bias, k, add, least, count):  # type: ignore[no-untyped-def]
        # Channels first … last − 1; the next piece of the first channel is read after the last of all.
        c = first
        while c < last:
            taken = together if last - c >= together else 1
            here, factors, ahead = at_x + c * plane, at_w + c * wc, taken * plane if c + taken < channels else count - c * plane
            floor = least if c + taken == last else lowest
            if taken == together:
                some(x, here, plane, ahead, w, factors, wk, wc, y, at_y, row, bias, k, add or c > first, floor, count)
            else:
                one(x, here, plane, ahead, w, factors, wk, wc, y, at_y, row, bias, k, add or c > first, floor, count)
            c += taken

    @inline
    def add_back(y, at, plane, later, count, least):  # type: ignore[no-untyped-def]
        for f in range(filters):
            for i in range(count):
                value = y[unsigned(at + f * plane + i)] + later[unsigned(f * PIECE + i)]
                y[unsigned(at + f * plane + i)] = least if value < least else value  # NaN stays

    def pointwise(first, last, workers, scratch, x, w, y, bias, code, broken, geometry):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,i] = Σ_c w[k,c] · x[n,c,i].
        # THE SCHEDULE: a tile is a piece of the planes of a group's filters, which takes a few channels after the other.
        pieces, groups, channels, plane, wk, wc = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        least = zero if code == 1 else lowest
        for worker in prange(workers):
            later = scratch[worker]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                unit, start = tile // pieces, tile % pieces * PIECE
                group, count = unit % groups, min(PIECE, plane - start)
                at_x, at_y, at_w, k = unit * channels * plane + start, unit * filters * plane + start, group * filters * channels, group * filters
                for c in range(0, channels, CHANNELS):
                    stop = min(channels, c + CHANNELS)
                    floor = least if stop == channels else lowest
                    if c == 0:
                        add_chunk(x, at_x, plane, channels, c, stop, w, at_w, wk, wc, y, at_y, plane, bias, k, 0, floor, count)
                        continue
                    for i in range(filters * PIECE):
                        later[unsigned(i)] = zero
                    add_chunk(x, at_x, plane, channels, c, stop, w, at_w, wk, wc, later, 0, PIECE, bias, k, 1, lowest, count)
                    add_back(y, at_y, plane, later, count, floor)
                for f in range(filters if code > 1 else 0):
                    activate(y, at_y + f * plane, count, code)

    return Kernel(pointwise, f"-{isa.name}-{dtype.name}-{filters}x{together}")


@functools.cache
def _wgrad(isa: _isa.Isa, dtype: np.dtype[Any], filters: int, together: int) -> Kernel:
    some, one, add_lanes = add_products(isa, dtype, filters, together), add_products(isa, dtype, filters, 1), lane_sums(isa, dtype)
    width, size = isa.width(dtype), CHUNK * isa.width(dtype)

    def wgrad(first, last, workers, scratch, dy, x, parts, geometry):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k,c] = Σ_n Σ_i dy[n,k,i] · x[n,c,i].
        # THE SCHEDULE: a tile is a group over some pieces of its planes; each pair of a filter and a channel has a vector of sums in L1, CHUNK terms
        # to a lane, and those of the pieces are added pairwise.
        pieces, groups, channels, plane, batch = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
        squares = (filters * channels + width - 1) // width
        room = squares * width * width
        for worker in prange(workers):
            sums, added = scratch[worker], scratch[worker][len(scratch[worker]) - squares * width :]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                group, part = tile // len(parts), tile % len(parts)
                for i in range(room):
                    sums[unsigned(i)] = 0
                begin, end = batch * pieces * part // len(parts), batch * pieces * (part + 1) // len(parts)
                for unit in range(begin, end):
                    start = unit % pieces * size
                    at, count, c = unit // pieces * groups + group, min(size, plane - start), 0
                    while c < channels:
                        taken = together if channels - c >= together else 1
                        ahead = taken * plane if c + taken < channels else count - c * plane
                        here, there, to = (at * channels + c) * plane + start, at * filters * plane + start, c * filters * width
                        if taken == together:
                            some(x, here, plane, ahead, dy, there, plane, sums, to, count)
                        else:
                            one(x, here, plane, ahead, dy, there, plane, sums, to, count)
                        c += taken
                    if unit + 1 < end:
                        carry(sums, room, room, unit - begin)
                total(sums, room, room, end - begin - 1)
                add_lanes(sums, 0, squares, added, 0)
                for c in range(channels):
                    for f in range(filters):
                        parts[part, (group * filters + f) * channels + c] = added[c * filters + f]

    return Kernel(wgrad, f"-{isa.name}-{dtype.name}-{filters}x{together}")
