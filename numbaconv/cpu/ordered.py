"""Sums in float64 in a stated order, each step rounded, as `scipy.ndimage` computes them: what is cut to integers depends on the last bit.

A filter of three equal taps of 1/3 gives 1 or 0.9999999999999999 on ones, by the order of the sum, and so the integer 1 or 0. The arrays
here are extended already, contiguous, and float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import in_order, unsigned
from numbaconv.cpu import _parallel

BLOCK = 1024  # neighbouring outputs of a tile: their sums stay in the L1
TERM_SECONDS, STEP_SECONDS = 0.3e-9, 3e-9  # of one term of a sum, and of one step of a moving sum, on one core
Array = np.ndarray[Any, Any]


@in_order
def _sum(first, last, workers, scratch, x, starts, length, at, mirrored, sign, weights, y):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: y[row, q] = Σ_k x[starts[row] + at[k] + q]·w[k], from the first k to the last; from the second on, and where the
    # sign is not 0, of x[… at[k] …] ± x[… mirrored[k] …] in place of x.
    # THE SCHEDULE: a tile is BLOCK neighbours of a row, whose sums lie in scratch; every term is a pass over them in vectors.
    blocks = (length + BLOCK - 1) // BLOCK
    for worker in prange(workers):
        sums = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            row, block = tile // blocks, tile % blocks
            n = min(BLOCK, length - block * BLOCK)
            start = starts[row] + block * BLOCK
            for k in range(weights.size):
                w, a, b = weights[k], start + at[k], start + mirrored[k]
                if k == 0:
                    for q in range(n):
                        sums[unsigned(q)] = x[unsigned(a + q)] * w
                elif sign == 0:
                    for q in range(n):
                        sums[unsigned(q)] += x[unsigned(a + q)] * w
                elif sign > 0:
                    for q in range(n):
                        sums[unsigned(q)] += (x[unsigned(a + q)] + x[unsigned(b + q)]) * w
                else:
                    for q in range(n):
                        sums[unsigned(q)] += (x[unsigned(a + q)] - x[unsigned(b + q)]) * w
            to = row * length + block * BLOCK
            for q in range(n):
                y[unsigned(to + q)] = sums[unsigned(q)]


@in_order
def _move(first, last, workers, scratch, x, y, size):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: y[b, i, q] = s_i / size with s_0 = Σ_r x[b, r, q] and s_i = s_(i − 1) + (x[b, i + size − 1, q] − x[b, i − 1, q]).
    # THE SCHEDULE: a tile is BLOCK neighbours q of one b, whose sums lie in scratch and move along the axis.
    inner = y.shape[2]
    blocks = (inner + BLOCK - 1) // BLOCK
    for worker in prange(workers):
        sums = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            b, at = tile // blocks, tile % blocks * BLOCK
            n = min(BLOCK, inner - at)
            for q in range(n):
                sums[unsigned(q)] = 0.0
            for r in range(size):
                for q in range(n):
                    sums[unsigned(q)] += x[b, r, unsigned(at + q)]
            for q in range(n):
                y[b, 0, unsigned(at + q)] = sums[unsigned(q)] / size
            for i in range(1, y.shape[1]):
                for q in range(n):
                    sums[unsigned(q)] += x[b, i + size - 1, unsigned(at + q)] - x[b, i - 1, unsigned(at + q)]
                    y[b, i, unsigned(at + q)] = sums[unsigned(q)] / size


@in_order
def _move_along_lines(first, last, workers, scratch, x, y, size):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: that of _move where the third axis has one element.
    # THE SCHEDULE: a tile is a line b, whose sum stays in a register.
    for worker in prange(workers):
        for b in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            total = 0.0
            for r in range(size):
                total += x[b, r, 0]
            y[b, 0, 0] = total / size
            for i in range(1, y.shape[1]):
                total += x[b, unsigned(i + size - 1), 0] - x[b, unsigned(i - 1), 0]
                y[b, unsigned(i), 0] = total / size


def correlate(x: Array, weights: Array, terms: Array, sign: int, shape: tuple[int, ...]) -> Array:
    """Return the correlation of an extended x, of a shape.

    ``terms`` are the flat indices of the taps in the order in which they are added. With ``sign`` ±1 every term but the first
    is a tap's weight times the sum, or difference, of what that tap and its mirror image see.
    """
    y = np.zeros(shape)
    if not y.size or not terms.size:
        return y
    steps = np.array(x.strides) // x.itemsize
    outer, length = len(shape) - 1, shape[-1] if shape else 1
    while outer > 0 and weights.shape[outer] == 1:  # the filter does not see this axis: its elements are neighbours as those of the one before
        outer -= 1
        length *= shape[outer]
    at = steps @ np.unravel_index(terms, weights.shape) if weights.ndim else np.zeros(1, np.int64)
    whole = steps @ (np.array(weights.shape, np.int64) - 1) if weights.ndim else 0
    starts = np.ravel(sum(np.ix_(*(np.arange(n) * step for n, step in zip(shape[: max(outer, 0)], steps, strict=False))), np.int64(0)))
    arguments = x.reshape(-1), starts, length, at, whole - at, sign, weights.reshape(-1)[terms], y.reshape(-1)
    _parallel.run(_sum, len(starts) * math.ceil(length / BLOCK), (BLOCK, y.dtype), arguments, y.size * terms.size * TERM_SECONDS)
    return y


def moving_mean(x: Array, size: int) -> Array:
    """Return the means of ``size`` neighbours along the middle one of three axes of an extended x."""
    y = np.empty((x.shape[0], x.shape[1] - size + 1, x.shape[2]))
    kernel = _move_along_lines if x.shape[2] == 1 else _move
    _parallel.run(kernel, x.shape[0] * math.ceil(x.shape[2] / BLOCK), (BLOCK, y.dtype), (x, y, size), y.size * STEP_SECONDS)
    return y
