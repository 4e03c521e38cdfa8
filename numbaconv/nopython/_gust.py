"""filtfilt's method "gust": the initial states with which forward-backward and backward-forward filtering agree best.

F. Gustafsson, "Determining the initial states in forward-backward filtering", IEEE Transactions on Signal Processing 44, 1996, equations
5 to 7, with section IV for an impulse response that is cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.nopython._arrays import in_lines
from numbaconv.nopython._compile import family, helper, kernel
from numbaconv.nopython._recursive import normalised, run_line
from numbaconv.nopython._sums import real_view


@kernel
def responses(both, order, n, cut):  # type: ignore[no-untyped-def]
    """Return M and W: by how much both ways differ for each initial state, and what the states add to the result, at the ends."""
    m = cut if 0 <= cut and 2 * cut < n else n
    seen, state, nothing = np.zeros((order, m)), np.zeros(order), np.zeros(m)  # the output of a state alone, and that filtered backward
    state[0] = 1
    run_line(both, order, nothing, 0, 1, m, state, seen[0])
    for k in range(1, order):
        seen[k, k:] = seen[0, : max(0, m - k)]
    back = np.zeros((order, m))
    for k in range(order):
        state[:] = 0
        run_line(both, order, seen[k], m - 1, -1, m, state, back[k])  # back[k, i] belongs to sample i
    apart = m < n
    differ, added = np.zeros((m * (1 + apart), 2 * order)), np.zeros((m * (1 + apart), 2 * order))
    for i in range(m):
        for k in range(order):
            differ[i, k], added[i, k] = back[k, i] - seen[k, i], back[k, i]
            at = i + m * apart
            differ[at, order + k], added[at, order + k] = seen[k, m - 1 - i] - back[k, m - 1 - i], seen[k, m - 1 - i]
    return differ, added


@kernel
def least_squares(differ, apart):  # type: ignore[no-untyped-def]
    """Return the states for which the differences are least."""
    return np.linalg.lstsq(differ, apart)[0]


@helper
def both_ways(both, order, line, n, forward):  # type: ignore[no-untyped-def]
    """Return a line filtered in one direction and then in the other, from rest."""
    y = line.copy()
    for way in range(2):
        begin, step = (0, 1) if forward == (way == 0) else (n - 1, -1)
        run_line(both, order, y, begin, step, n, np.zeros(order, y.dtype), y)
    return y


@family
def filtering_by_gust(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (b, a, x, axis, cut) -> y for real coefficients in float64; a negative ``cut`` is none."""
    real, parts = real_view(dtype), 1 + (dtype.kind == "c")

    def run(b, a, x, axis, cut):  # type: ignore[no-untyped-def]
        shape, order = in_lines(x.shape, axis), max(b.size, a.size) - 1
        rows, n, inner = shape[0], shape[1], shape[2] if len(shape) == 3 else 1
        y, both = np.empty_like(x), normalised(b, a, order)
        flat, out = x.reshape(-1), y.reshape(-1)
        if order == 0:
            for i in range(flat.size):
                out[i] = flat[i] * (both[0] * both[0])
            return y
        if n == 0:
            raise ValueError("x must not be empty on the axis")
        differ, added = responses(both, order, n, cut)
        ends = len(differ)
        places, line, apart = np.arange(ends), np.empty(n, x.dtype), np.empty((ends, rows * inner * parts))
        if ends < n:
            places[ends // 2 :] += n - ends
        for k in range(rows * inner):
            start = k // inner * n * inner + k % inner
            for i in range(n):
                line[i] = flat[start + i * inner]
            first, second = both_ways(both, order, line, n, True), both_ways(both, order, line, n, False)
            for i in range(n):
                out[start + i * inner] = first[i]
            difference = real(second - first)
            for i in range(ends):
                for part in range(parts):
                    apart[i, k * parts + part] = difference[places[i] * parts + part]
        states, y_parts = least_squares(differ, apart), real(out)
        for k in range(rows * inner):
            start = k // inner * n * inner + k % inner
            for i in range(ends):
                at = start + places[i] * inner
                for part in range(parts):
                    total = 0.0
                    for j in range(2 * order):
                        total += added[i, j] * states[j, k * parts + part]
                    y_parts[at * parts + part] += total
        return y

    return run
