"""The sum itself, for any number of axes: y[o] = Σ_r h[r] · x[start + o − r] with zeros outside of x. All arrays are flat.

Eight taps are multiplied with a stretch of a line at a time, so that the loop which LLVM makes vectors of loads x from the nearest cache and
loads and stores y once in eight products. Sums of many taps are cut into chunks.
"""

from __future__ import annotations

import numpy as np

from numbaconv._jit import unsigned
from numbaconv.nopython._compile import helper, kernel

GROUP = 8  # taps at a time
TILE = 1024  # outputs that stay in the nearest cache
CHUNK = 1024  # taps that are summed in one go
X, H, Y, START = range(4)  # rows of sizes, which have a column for each axis


@kernel
def add_taps(x, xi, n, h, hi, r0, r1, start, y, yi, o0, o1):  # type: ignore[no-untyped-def]
    # Taps r0 … r1 of a line at h[hi] and a line of n elements at x[xi], into outputs o0 … o1 from y[yi] on.
    for r in range(r0, r1, GROUP):
        last = min(r + GROUP, r1)
        low, high = max(o0, last - 1 - start), min(o1, n + r - start)  # where all of them have an x
        if last - r < GROUP or high <= low:
            low = high = o1
        else:
            at, there = xi + start + low - r, yi + low - o0
            h0, h1, h2, h3 = h[hi + r], h[hi + r + 1], h[hi + r + 2], h[hi + r + 3]
            h4, h5, h6, h7 = h[hi + r + 4], h[hi + r + 5], h[hi + r + 6], h[hi + r + 7]
            for j in range(high - low):
                i = at + j
                first = h0 * x[unsigned(i)] + h1 * x[unsigned(i - 1)] + h2 * x[unsigned(i - 2)] + h3 * x[unsigned(i - 3)]
                second = h4 * x[unsigned(i - 4)] + h5 * x[unsigned(i - 5)] + h6 * x[unsigned(i - 6)] + h7 * x[unsigned(i - 7)]
                y[unsigned(there + j)] += first + second
        for k in range(2 * (last - r)):
            # What is before and behind the stretch, tap by tap.
            s = r + k // 2
            begin, end = max(o0, s - start), min(o1, n + s - start)
            if k % 2:
                begin = max(begin, high)
            else:
                end = min(end, low)
            value, at, there = h[hi + s], xi + start + begin - s, yi + begin - o0
            for j in range(end - begin):
                y[unsigned(there + j)] += value * x[unsigned(at + j)]


@helper
def add_lines(x, xi, n, h, hi, taps, start, y, yi, outputs):  # type: ignore[no-untyped-def]
    """Add the convolution of the line of n elements at x[xi] with the line at h[hi] to that at y[yi]."""
    for o0 in range(0, outputs, TILE):
        o1 = min(outputs, o0 + TILE)
        r0, r1 = max(0, start + o0 - n + 1), min(taps, start + o1)  # taps that meet x at all
        if r1 - r0 <= CHUNK:
            add_taps(x, xi, n, h, hi, r0, r1, start, y, yi + o0, o0, o1)
            continue
        sums = np.empty(TILE, y.dtype)
        for r in range(r0, r1, CHUNK):
            for j in range(o1 - o0):
                sums[j] = 0
            add_taps(x, xi, n, h, hi, r, min(r + CHUNK, r1), start, sums, 0, o0, o1)
            for j in range(o1 - o0):
                y[yi + o0 + j] += sums[j]


@kernel
def convolve_lines(x, h, y, sizes):  # type: ignore[no-untyped-def]
    """Overwrite y, all arrays being of one axis."""
    for j in range(y.size):
        y[j] = 0
    add_lines(x, 0, x.size, h, 0, h.size, sizes[START, 0], y, 0, y.size)


@kernel
def convolve_directly(x, h, y, sizes):  # type: ignore[no-untyped-def]
    """Overwrite y, with the last axis in lines and every other axis element by element."""
    last = sizes.shape[1] - 1
    n, taps, outputs, begin = sizes[X, last], sizes[H, last], sizes[Y, last], sizes[START, last]
    lines, filters = 1, 1
    for axis in range(last):
        lines, filters = lines * sizes[Y, axis], filters * sizes[H, axis]
    for j in range(y.size):
        y[j] = 0
    for line in range(lines):
        for row in range(filters):
            at, scale, o, r = 0, 1, line, row
            for axis in range(last - 1, -1, -1):
                many, high, wide = sizes[X, axis], sizes[Y, axis], sizes[H, axis]
                i = sizes[START, axis] + o % high - r % wide
                if i < 0 or i >= many:
                    at = -1
                    break
                at, scale, o, r = at + i * scale, scale * many, o // high, r // wide
            if at < 0:
                continue
            if outputs <= TILE and taps <= CHUNK:  # short lines
                add_taps(x, at * n, n, h, row * taps, max(0, begin - n + 1), min(taps, begin + outputs), begin, y, line * outputs, 0, outputs)
            else:
                add_lines(x, at * n, n, h, row * taps, taps, begin, y, line * outputs, outputs)
