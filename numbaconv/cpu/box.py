"""Means of windows along an axis at a cost that does not depend on their size: sums from block boundaries, two of which make a window.

Unlike a sum that moves along, whose roundings pile up and which keeps a NaN for ever, these see their own window alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _parallel

LANES = 64  # neighbouring lines of a tile: their sums of a block stay in the L2
STEP_SECONDS = 2e-9  # of one output, on one core
Array = np.ndarray[Any, Any]


# THE ALGORITHM of both: y[b, i, q] = Σ_r x[b, i + r, q] / size. The axis is cut into blocks of ``size``; a window that starts in a block at r
# is the block's sum from r on (row r of scratch) and the next block's sum up to r, added up as the window moves. All sums are float64.


@Kernel
def _means(first, last, workers, scratch, x, y, size):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is LANES neighbours q of one b; the next block's sums are the last row of scratch.
    inner, outputs, scale = y.shape[2], y.shape[1], 1.0 / size
    tiles = (inner + LANES - 1) // LANES
    for worker in prange(workers):
        sums = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            b, at = tile // tiles, tile % tiles * LANES
            n = min(LANES, inner - at)
            for block in range(0, outputs, size):
                for q in range(n):
                    sums[unsigned((size - 1) * n + q)] = x[b, block + size - 1, unsigned(at + q)]
                    sums[unsigned(size * n + q)] = 0.0
                for r in range(size - 2, -1, -1):
                    for q in range(n):
                        sums[unsigned(r * n + q)] = sums[unsigned((r + 1) * n + q)] + x[b, block + r, unsigned(at + q)]
                for r in range(min(size, outputs - block)):
                    if r:
                        for q in range(n):
                            sums[unsigned(size * n + q)] += x[b, block + size + r - 1, unsigned(at + q)]
                    for q in range(n):
                        y[b, block + r, unsigned(at + q)] = (sums[unsigned(r * n + q)] + sums[unsigned(size * n + q)]) * scale


@Kernel
def _means_of_lines(first, last, workers, scratch, x, y, size):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is a line b, whose elements are neighbours; the next block's sum stays in a register.
    outputs, scale = y.shape[1], 1.0 / size
    for worker in prange(workers):
        sums = scratch[worker]
        for b in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            for block in range(0, outputs, size):
                total = 0.0
                for r in range(size - 1, -1, -1):
                    total += x[b, unsigned(block + r), 0]
                    sums[unsigned(r)] = total
                total = 0.0
                y[b, block, 0] = sums[0] * scale
                for r in range(1, min(size, outputs - block)):
                    total += x[b, unsigned(block + size + r - 1), 0]
                    y[b, unsigned(block + r), 0] = (sums[unsigned(r)] + total) * scale


def means(x: Array, size: int) -> Array:
    """Return the means of ``size`` neighbours along the middle one of three axes of a contiguous float32 or float64 array."""
    y = np.empty((x.shape[0], x.shape[1] - size + 1, x.shape[2]), x.dtype)
    lanes = min(LANES, x.shape[2])
    scratch = (lanes * (size + 1), np.dtype(np.float64))
    kernel = _means_of_lines if x.shape[2] == 1 else _means
    _parallel.run(kernel, x.shape[0] * math.ceil(x.shape[2] / LANES), scratch, (x, y, size), y.size * STEP_SECONDS)
    return y
