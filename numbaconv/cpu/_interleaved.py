"""The way of `stencil` for depthwise layers of narrow planes or many taps: the planes of neighbouring channels, interleaved.

For fprop, and the dgrad of stride 1. A row of a narrow plane does not fill a vector; a vector of as many channels is always full.
Planes are turned into lanes, with columns of zeros beside them, and so are the filters; a piece of a row of outputs stays in
registers over all taps, rows of padding are left out, and outputs are turned back on their way to y.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline
from numbaconv.cpu import _isa
from numbaconv.cpu._ahead import asker, is_far
from numbaconv.cpu._simd_interleaved import Row, deinterleave, interleave, row
from numbaconv.cpu._simd_stencil import prefetch
from numbaconv.cpu._sum import TERMS
from numbaconv.cpu.bias import activate
from numbaconv.problem import ConvProblem

MOST_ACROSS = 32  # taps of a row of the filter, whose multiply-adds are all written out
WIDEST = 4  # times the elements of a plane that its rows with their zeros may be: steps between taps and outputs make them long
LARGEST = 16 << 10  # bytes of a plane; half of that where they are far: 96 7×7 @56, 16 samples, took 3.6 ms, slabs 3.1 (one sample 160 µs, 185)
Array = np.ndarray[Any, Any]


class Interleaved(NamedTuple):
    """How planes are computed, or summed, and what the kernel reads."""

    kernel: Kernel
    tables: tuple[Array, ...]  # geometry; places of x's elements, and of the taps or dy's elements; rows of outputs, or of taps
    tiles: int
    scratch: int  # elements a thread
    turned: int  # elements, to and fro
    multiplied: int  # … of multiply-adds
    parts: int = 1  # of wgrad's sums

    def work(self, p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
        """Count elements of vectors: those turned, and those of multiply-adds."""
        size = dtype.itemsize / 4
        return {"pass": 1, "turn": self.turned * size, "lane": self.multiplied * size}


class Layout(NamedTuple):
    """How a plane of x lies in lanes, and which of its rows are read."""

    shape: Row
    pitch: int  # vectors of a row
    across: int  # outputs of a row, in whole pieces
    places: Array  # of x's elements; those that no output reads go behind all rows
    first: Array  # row of x, of each row of outputs and row of the filter,
    there: Array  # and whether there is such a row


def layout(p: ConvProblem, isa: _isa.Isa, dtype: np.dtype[Any]) -> Layout | None:
    """Return how the planes of x are interleaved, None if they cannot be."""
    largest = LARGEST // dtype.itemsize // (1 + is_far(p, dtype))
    if not _possible(p, width := isa.width(dtype), largest):
        return None
    (_, H, W), (_, P, Q), S = p.input, p.output, p.filter[2]
    outputs = min(isa.stencil_rows, key=lambda n: -(-Q // n) * (n + 2))
    shape, across = Row(outputs, S, p.stride[2], p.dilation[2]), -(-Q // outputs) * outputs
    pitch = (across - 1) * shape.stride + (S - 1) * shape.dilation + 1
    if max(H, p.dilation[1]) * pitch > WIDEST * largest:
        return None
    first = np.arange(P)[:, None] * p.stride[1] + np.arange(p.filter[1]) * p.dilation[1] - p.low[1]
    column = np.arange(W) + p.low[2]
    places = np.where((column >= 0) & (column < pitch), np.arange(H)[:, None] * pitch + column, H * pitch).reshape(-1)
    places = np.append(places, np.full(-(H * W) % width, H * pitch)) * width
    return Layout(shape, pitch, across, places, first, (first >= 0) & (first < H))


def plan(p: ConvProblem, isa: _isa.Isa, dtype: np.dtype[Any]) -> Interleaved | None:
    """Return how fprop is done in interleaved planes, None if it can't be."""
    found = layout(p, isa, dtype)
    if found is None or not found.there.any(1).all():
        return None
    (_, H, W), (Z, P, Q), (_, R, S), width, pitch = p.input, p.output, p.filter, isa.width(dtype), found.pitch
    taps = np.arange(R * S)[:: -1 if p.flipped else 1]
    taps = np.append(taps, np.full(-(R * S) % width, R * S)) * width
    start, count = found.there.argmax(1), found.there.sum(1)
    reading = np.stack([found.first[np.arange(P), start] * pitch * width, count, start * S * width], 1)
    blocks = -(-p.groups // width)
    geometry = (blocks, Z, p.groups, H * W, P * Q, Q, p.dilation[1] * pitch * width, R * S, (H * pitch + 1) * width, is_far(p, dtype))
    scratch, tiles = (H * pitch + 1 + R * S + 1 + P * Q + max(found.shape.outputs, width)) * width, p.batch * blocks * Z
    turned, multiplied = (tiles * (H * W + P * Q) + p.batch * blocks * R * S) * width, tiles * width * found.across * S * int(count.sum())
    tables = tuple(np.array(table, np.int64) for table in (geometry, found.places, taps, reading))
    return Interleaved(_kernel(isa, dtype, found.shape), tables, tiles, scratch, turned, multiplied)


def _possible(p: ConvProblem, width: int, largest: int) -> bool:
    (T, R, S), one = p.filter, (1, 1, 1)
    planes = T == p.stride[0] == 1 and p.input_dilation == one and p.low[0] == 0 and p.output[0] == p.input[0] and not p.channels_last
    depthwise = p.in_channels == p.groups == p.out_channels >= width
    small = max(math.prod(part[1:]) for part in (p.input, p.output)) <= largest and S <= MOST_ACROSS and R * S <= TERMS
    return planes and depthwise and small and 0 not in p.gemm_shape("fprop")


@functools.cache
def turner(isa: _isa.Isa, dtype: np.dtype[Any]) -> Any:
    """Make the function that turns ``count`` elements of rows into lanes, each to its place, and asks for those ``ahead`` elements on, if not 0."""
    turn, lanes = interleave(isa, dtype), isa.width(dtype)

    @inline
    def turn_all(x, at, row, count, ahead, places, block, to):  # type: ignore[no-untyped-def]
        for i in range(0, count, lanes):
            turn(x, at + i, row, count - i, ahead, places, i, block, to)

    return turn_all


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], shape: Row) -> Kernel:
    turn_all, ask, turn_back, compute = turner(isa, dtype), asker(dtype), deinterleave(isa, dtype), row(isa, dtype, shape)
    zero, lowest, outputs, lanes, across = dtype.type(0), dtype.type(-np.inf), shape.outputs, isa.width(dtype), shape.stride * isa.width(dtype)
    soon = prefetch(False)

    def interleaved(first, last, workers, scratch, x, w, y, bias, code, broken, geometry, places, taps, reading):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_r Σ_s w[k,r,s] · x[n,k,z,p·stride + r·dilation − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is the planes (n, z) of a vector of channels, the last of which overlap those before.
        blocks, Z, K, plane, results, Q = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        step, volume, weights, far, P = geometry[6], geometry[7], geometry[8], geometry[9], len(reading)
        sums, least = weights + (volume + 1) * lanes, zero if code == 1 else lowest
        for worker in prange(workers):
            block, found, before = scratch[worker], 0, -1
            for i in range(weights):
                block[i] = zero
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                n, z, k = tile // Z // blocks, tile % Z, min(tile // Z % blocks * lanes, K - lanes)
                if k != before:
                    turn_all(w, k * volume, volume, volume, 0, taps, block, weights)
                    before = k
                at_x, at_y = ((n * K + k) * Z + z) * plane, ((n * K + k) * Z + z) * results
                turn_all(x, at_x, Z * plane, plane, 0, places, block, 0)
                for p in range(P):
                    if far:
                        now, then = lanes * p // P, lanes * (p + 1) // P
                        ask(x, at_x + lanes * Z * plane, Z * plane, plane, y, at_y, Z * results, results, now, then)
                    for i in range(p, volume, P):  # those of the next channels are asked for: 768 of 7×7 taps from memory 42 → 27 µs
                        soon(w, (k + lanes) * volume + i * lanes)
                    at, factors, to = reading[p, 0], weights + reading[p, 2], sums + p * Q * lanes
                    for q in range(0, Q, outputs):  # what is behind the end of a row is overwritten by the next
                        found |= compute(block, at + q * across, step, reading[p, 1], block, factors, bias, k, block, to + q * lanes, least)
                if code > 1:
                    activate(block, sums, results * lanes, code)
                for i in range(0, results, lanes):
                    turn_back(block, sums + i * lanes, y, at_y + i, Z * results, results - i)
            if found:
                broken[0] = 1

    return Kernel(interleaved, f"-{isa.name}-{dtype.name}-{'x'.join(map(str, shape))}")
