"""Resampling by a rational factor: the convolution of an input with zeros between its samples, of which every so many-th output is kept.

    y[m] = Σ_k h[k] · x[(m·down + start − k) / up]        over the k that leave no remainder, zeros outside x

Which taps an output meets depends on (m·down + start) mod up alone: on its phase. `bank` puts those of a phase side by side, so that an
output is a dot product of neighbouring taps and neighbouring samples, however large ``up`` is. For a small one the algorithms of the room
are faster: they keep a vector of outputs in registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _parallel
from numbaconv.cpu._sum import add_pairwise, carry, levels, total

OUTPUTS = 256  # of a line in a tile
SPLITS = 32  # pieces of the gradient's sum when there are too few phases to share
LANES = 256  # elements of a plane in a tile: the levels of their sums stay in L1
CHUNK = 256  # terms summed in one place
CALL_SECONDS, OUTPUT_SECONDS, TERM_SECONDS = 5e-6, 5e-9, 2e-10  # by eye from calls on an AMD EPYC, 2026-11; it decides threads alone

Array = np.ndarray[Any, Any]


def bank(h: Array, up: int) -> Array:
    """Return the taps by phase and last first, (up, taps): row t holds …, h[t + up], h[t], with zeros before it where h has ended."""
    taps = -(-len(h) // up)
    rows = np.zeros((taps, up), h.dtype)
    rows.reshape(-1)[: len(h)] = h
    return np.ascontiguousarray(rows[::-1].T)


def seconds(outputs: int, taps: int, dtype: np.dtype[Any]) -> float:
    """Estimate the time of a call on one core; ``taps`` are those of a phase."""
    return CALL_SECONDS + outputs * (OUTPUT_SECONDS + TERM_SECONDS * taps * dtype.itemsize / 4)


def run(x: Array, taps: Array, y: Array, down: int, start: int) -> None:
    """Overwrite y, (rows, outputs, inner), with x, (rows, n, inner), resampled along the middle axis by a bank; all are contiguous."""
    rows, outputs, inner = y.shape
    up, count = taps.shape
    time = seconds(y.size, count, y.dtype)
    arguments = (x.reshape(-1), taps.reshape(-1), y.reshape(-1), x.shape[1], outputs, inner, up, count, down, start)
    if inner == 1:
        tiles = rows * -(-outputs // OUTPUTS)
        _parallel.run(_lines, tiles, (levels(count, CHUNK), y.dtype), arguments, time)
    else:
        tiles = rows * outputs * -(-inner // LANES)
        _parallel.run(_planes, tiles, (LANES * levels(count, CHUNK), y.dtype), arguments, time)


def grad_taps(dy: Array, x: Array, taps: int, up: int, down: int, start: int) -> Array:
    """Return Σ dy · ∂y/∂h for as many taps; dy, (rows, outputs), and x, (rows, n), are contiguous."""
    rows, outputs = dy.shape
    count, splits = -(-taps // up), max(1, min(-(-SPLITS // up), rows * -(-outputs // up)))
    pieces = np.empty((splits, up * count), dy.dtype)
    arguments = (dy.reshape(-1), x.reshape(-1), pieces, rows, x.shape[1], outputs, up, count, down, start)
    _parallel.run(_grad_taps, splits * up, (count * levels(rows * outputs // up + 1, CHUNK), dy.dtype), arguments, seconds(dy.size, count, dy.dtype))
    grad = np.zeros((up, count), dy.dtype)
    np.add.at(grad, (np.arange(up) * down + start) % up, add_pairwise(pieces).reshape(up, count))
    return grad.T[::-1].reshape(-1)[:taps]


@inline
def _dot(taps, at, x, xi, n):  # type: ignore[no-untyped-def]
    dot = x.dtype.type(0)
    for j in range(n):
        dot += taps[unsigned(at + j)] * x[unsigned(xi + j)]
    return dot


@Kernel
def _lines(first, last, workers, scratch, x, taps, y, size, outputs, inner, up, count, down, start):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: y[row, m] = Σ_j taps[t, j] · x[row, i − (count − 1) + j], t and i the remainder and quotient of (m·down + start) / up.
    # THE SCHEDULE: a tile is OUTPUTS neighbours of a line. Taps that would meet nothing are left out; an output is a dot product, in
    # vectors of partial sums; the bank and the samples of a tile stay in L1 or L2.
    blocks = (outputs + OUTPUTS - 1) // OUTPUTS
    for worker in prange(workers):
        parts = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            row, block = tile // blocks, tile % blocks
            at = block * OUTPUTS * down + start
            phase, before = at % up, at // up - (count - 1)  # the bank's row, and the sample that its first tap meets
            for m in range(block * OUTPUTS, min(outputs, (block + 1) * OUTPUTS)):
                j, stop = max(0, -before), min(count, size - before)
                from_, xi = phase * count, row * size + before
                chunks, parts[0] = 0, 0
                while stop - j > CHUNK:
                    parts[0] = _dot(taps, from_ + j, x, xi + j, CHUNK)
                    carry(parts, 1, 1, chunks)
                    j, chunks = j + CHUNK, chunks + 1
                parts[0] = _dot(taps, from_ + j, x, xi + j, stop - j)
                total(parts, 1, 1, chunks)
                y[unsigned(row * outputs + m)] = parts[0]
                phase, before = phase + down % up, before + down // up
                if phase >= up:
                    phase, before = phase - up, before + 1


@inline
def _add_four(sums, n, x, xi, step, w0, w1, w2, w3):  # type: ignore[no-untyped-def]
    for q in range(n):
        at = xi + q
        near = w0 * x[unsigned(at)] + w1 * x[unsigned(at + step)]
        sums[unsigned(q)] += near + (w2 * x[unsigned(at + 2 * step)] + w3 * x[unsigned(at + 3 * step)])


@inline
def _add_one(sums, n, x, xi, w):  # type: ignore[no-untyped-def]
    for q in range(n):
        sums[unsigned(q)] += w * x[unsigned(xi + q)]


@Kernel
def _planes(first, last, workers, scratch, x, taps, y, size, outputs, inner, up, count, down, start):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: as for lines, for every element behind the axis.
    # THE SCHEDULE: a tile is LANES neighbouring elements of one output, their sums in L1; four taps are added at once.
    blocks = (inner + LANES - 1) // LANES
    for worker in prange(workers):
        sums = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            rest, lane = tile // blocks, tile % blocks * LANES
            row, at = rest // outputs, rest % outputs * down + start
            before, n = at // up - (count - 1), min(LANES, inner - lane)
            j, stop, w = max(0, -before), min(count, size - before), at % up * count
            xi = (row * size + before) * inner + lane
            terms, chunks = 0, 0
            sums[:n] = 0
            while j < stop:
                if stop - j >= 4:
                    _add_four(sums, n, x, xi + j * inner, inner, taps[w + j], taps[w + j + 1], taps[w + j + 2], taps[w + j + 3])
                    j, terms = j + 4, terms + 4
                else:
                    _add_one(sums, n, x, xi + j * inner, taps[w + j])
                    j, terms = j + 1, terms + 1
                if terms >= CHUNK:
                    carry(sums, n, LANES, chunks)
                    terms, chunks = 0, chunks + 1
            total(sums, n, LANES, chunks)
            for q in range(n):
                y[unsigned(rest * inner + lane + q)] = sums[unsigned(q)]


@Kernel
def _grad_taps(first, last, workers, scratch, dy, x, pieces, rows, size, outputs, up, count, down, start):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: pieces[·, r·count + j] = Σ_m dy[row, m] · x[row, i − (count − 1) + j] over the m that leave r divided by up, which share
    # a phase, and over the rows; i the quotient of (m·down + start) / up.
    # THE SCHEDULE: a tile is one r and one piece of its outputs, its taps' sums in L1; four outputs are added at once. The pieces are added
    # up afterwards.
    for worker in prange(workers):
        sums = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            piece, residue = tile // up, tile % up
            each = (outputs - residue + up - 1) // up  # outputs of a row
            term, stop = rows * each * piece // len(pieces), rows * each * (piece + 1) // len(pieces)
            terms, chunks = 0, 0
            sums[:count] = 0
            while term < stop:
                row, m = term // each, residue + term % each * up
                before = (m * down + start) // up - (count - 1)
                d, xi = row * outputs + m, row * size + before
                together = term + 4 <= stop and m + 3 * up < outputs and before >= 0 and before + 3 * down + count <= size
                if together:
                    _add_four(sums, count, x, xi, down, dy[d], dy[d + up], dy[d + 2 * up], dy[d + 3 * up])
                    term, terms = term + 4, terms + 4
                else:
                    for j in range(max(0, -before), min(count, size - before)):
                        sums[unsigned(j)] += dy[unsigned(d)] * x[unsigned(xi + j)]
                    term, terms = term + 1, terms + 1
                if terms >= CHUNK:
                    carry(sums, count, count, chunks)
                    terms, chunks = 0, chunks + 1
            total(sums, count, count, chunks)
            for j in range(count):
                pieces[piece, unsigned(residue * count + j)] = sums[unsigned(j)]
