"""Filters along two neighbouring axes, one after the other, in one sweep over the image: what is between them stays in the caches.

Two passes over the whole image would write an image in between and read it again, which takes longer than the sums of short filters.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.arrays import CACHE_LINE
from numbaconv.cpu import _isa, _parallel, fir
from numbaconv.cpu._simd_stencil import move, stencil_tile

# Of outputs in a tile, and of a row of them: what a tile reads stays in the L2 (1024² float64, 9 and 9 taps: 1.8 ms, with 4 KiB 2.7).
ROWS, BYTES = 32, 1 << 13
LINES, CHAIN = 8, 4  # rows of outputs that are filtered down at once, taps between which their sums stay in registers
TERM_SECONDS, OUTPUT_SECONDS = 2.7e-11, 3.5e-10  # of a product, of an output besides: of float32, on one core (1024², 5 to 17 taps, Zen 4)
Array = np.ndarray[Any, Any]


class Axis(NamedTuple):
    """A filter along an axis, and which element each place of the extended axis shows, −1 for the value outside."""

    weights: Array
    sources: Array
    outside: float


def correlate(x: Array, down: Axis, across: Axis, y: Array) -> None:
    """Fill y[b, p, q] = Σ_s z[b, p, q + s]·across[s] with z[b, p, c] = Σ_r x[b, p + r, c]·down[r], both of extended axes.

    x, y and the weights are contiguous and of one dtype, float32 or float64; ``sources`` are as long as the outputs and weights − 1.
    """
    (batch, P, Q), dtype, line = y.shape, y.dtype, CACHE_LINE // y.itemsize
    R, S, columns = len(down.weights), len(across.weights), BYTES // dtype.itemsize
    bands, blocks = -(-P // ROWS), -(-Q // columns)
    pitch = (-(-(min(columns, Q) + S - 1) // line) | 1) * line  # odd, so that rows are in different sets of the L1
    steps = np.concatenate([np.arange(R // CHAIN) * CHAIN, np.arange(CHAIN)]) * pitch  # from chain to chain, and from tap to tap
    first, last = _in_order(across.sources)
    geometry = (*x.shape[1:], P, Q, bands, blocks, ROWS, columns, pitch, first, last, across.sources[first] if first < last else 0)
    arguments = (
        x.reshape(-1), y.reshape(-1), down.weights, across.weights, down.sources, across.sources, steps, dtype.type(down.outside),
        dtype.type(across.outside), geometry,
    )  # fmt: skip
    seconds = y.size * dtype.itemsize / 4 * ((R + S) * TERM_SECONDS + OUTPUT_SECONDS)
    scratch = (min(ROWS, P) + LINES + R - 1 + LINES) * pitch
    _parallel.run(_kernel(_isa.host(), dtype), batch * bands * blocks, (scratch, dtype), arguments, seconds)


def _in_order(sources: Array) -> tuple[int, int]:
    """Return the longest range of places that shows neighbours in order, an empty one if no place shows an element."""
    ends = np.flatnonzero((np.diff(sources) != 1) | (sources[:-1] < 0)) + 1
    starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(sources)]])
    lengths = np.where(sources[starts] >= 0, stops - starts, 0)
    longest = int(np.argmax(lengths))
    return int(starts[longest]), int(starts[longest] + lengths[longest])


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any]) -> Kernel:
    row, copy, width, zero = fir.row_code(isa, dtype), move(isa, dtype), isa.vector_bytes // dtype.itemsize, dtype.type(0)
    chains, singles = (stencil_tile(isa, dtype, LINES, taps, True) for taps in (CHAIN, 1))

    @inline
    def extend(block, at, n, x, base, sources, q, first, last, source, outside):  # type: ignore[no-untyped-def]
        # The places q … q + n − 1 of a row, those from first to last − 1 neighbours in x.
        start, stop = min(n, max(0, first - q)), min(n, max(0, last - q))
        if start < stop:
            copy(x, base + source + q + start - first, block, at + start, stop - start, zero)
        for other in range(n - max(0, stop - start)):
            j = other if other < start else other + max(0, stop - start)
            c = sources[q + j]
            block[unsigned(at + j)] = x[unsigned(base + c)] if c >= 0 else outside

    def separable(first, last, workers, scratch, x, y, down, across, sources_h, sources_w, steps, outside_h, outside_w, geometry):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: see `correlate`.
        # THE SCHEDULE: a tile is a block of columns of some rows. What it reads is copied to the L2, extended; it is filtered down the
        # columns into LINES lines in the L1, a vector of which stays in registers over CHAIN taps, and these along the rows into y.
        H, W, P, Q, bands, blocks, high, columns, pitch, begin, end, source = geometry
        R, S = len(down), len(across)
        many, rest = R // CHAIN, R % CHAIN
        for worker in prange(workers):
            block = scratch[worker]
            lines = len(block) - LINES * pitch
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                image, p0, q0 = tile // (bands * blocks), tile // blocks % bands * high, tile % blocks * columns
                rows, n = min(high, P - p0), min(columns, Q - q0)
                m = n + S - 1
                for r in range(rows + R - 1):
                    h = sources_h[p0 + r]
                    if h >= 0:
                        extend(block, r * pitch, m, x, (image * H + h) * W, sources_w, q0, begin, end, source, outside_h)
                    else:
                        for j in range(m):
                            block[unsigned(r * pitch + j)] = outside_h
                for p in range(0, rows, LINES):
                    for j in range(0, m, width):
                        if many:
                            chains(block, p * pitch + j, pitch, steps, 0, many, down, 0, block, lines + j, pitch, 0)
                        if rest:
                            singles(block, (p + many * CHAIN) * pitch + j, pitch, steps, len(steps) - CHAIN, rest, down, many * CHAIN, block,
                                    lines + j, pitch, many)  # fmt: skip
                    for i in range(min(LINES, rows - p)):
                        for j in range(min(m, begin - q0)):
                            if sources_w[q0 + j] < 0:
                                block[unsigned(lines + i * pitch + j)] = outside_w
                        for j in range(max(0, end - q0), m):
                            if sources_w[q0 + j] < 0:
                                block[unsigned(lines + i * pitch + j)] = outside_w
                        row(block, lines + i * pitch, m, across, 0, 1, S, 1, y, (image * P + p0 + p + i) * Q + q0, 0, n, 0)

    return Kernel(separable, f"-{isa.name}-{dtype.name}")
