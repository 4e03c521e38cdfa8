"""Correlations of arrays that are extended beyond their ends: a copy of what is seen, and its direct sum. All arrays are flat."""

from __future__ import annotations

import numpy as np

from numbaconv.nopython._compile import helper, kernel
from numbaconv.nopython._direct import START, H, X, Y, convolve_directly

ZEROS, CONSTANT, REFLECT, MIRROR, NEAREST, WRAP = range(6)  # the names are those of numbaconv.boundary


@helper
def source(i, n, boundary):  # type: ignore[no-untyped-def]
    """Return which of n elements is seen at place i, −1 for a constant."""
    if 0 <= i < n:
        return i
    if boundary <= CONSTANT:
        return -1
    if boundary == NEAREST:
        return 0 if i < 0 else n - 1
    if boundary == WRAP:
        return i % n
    period = 2 * n if boundary == REFLECT else max(1, 2 * n - 2)
    i %= period
    return i if i < n else period - (boundary == REFLECT) - i


@kernel
def extend(x, x_shape, before, wide, wide_shape, boundary, value):  # type: ignore[no-untyped-def]
    """Overwrite ``wide``, which shows x from ``before`` elements before it on each axis."""
    last = len(x_shape) - 1
    n, width, lines = x_shape[last], wide_shape[last], 1
    for axis in range(last):
        lines *= wide_shape[axis]
    columns = np.empty(width, np.int64)
    for j in range(width):
        columns[j] = source(j - before[last], n, boundary)
    for line in range(lines):
        at, scale, rest = 0, 1, line
        for axis in range(last - 1, -1, -1):
            i = source(rest % wide_shape[axis] - before[axis], x_shape[axis], boundary)
            if i < 0:
                at = -1
                break
            at, scale, rest = at + i * scale, scale * x_shape[axis], rest // wide_shape[axis]
        for j in range(width):
            wide[line * width + j] = x[at * n + columns[j]] if at >= 0 and columns[j] >= 0 else value


@kernel
def correlate_extended(x, x_shape, h, h_shape, before, y, y_shape, boundary, value):  # type: ignore[no-untyped-def]
    """Overwrite y[o] = Σ_r h[R − 1 − r] · x[o + r − before]: the taps come in the order of a convolution."""
    sizes, size = np.empty((4, len(before)), np.int64), 1
    for axis in range(len(before)):
        sizes[X, axis], sizes[H, axis], sizes[Y, axis] = x_shape[axis], h_shape[axis], y_shape[axis]
        sizes[START, axis] = h_shape[axis] - 1 - before[axis]
        size *= y_shape[axis] + h_shape[axis] - 1
    if boundary == ZEROS:
        convolve_directly(x, h, y, sizes)
        return
    for axis in range(len(before)):
        sizes[X, axis], sizes[START, axis] = y_shape[axis] + h_shape[axis] - 1, h_shape[axis] - 1
    wide = np.empty(size, x.dtype)
    extend(x, x_shape, before, wide, sizes[X], boundary, value)
    convolve_directly(wide, h, y, sizes)
