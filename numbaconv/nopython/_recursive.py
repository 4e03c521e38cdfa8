"""Recursive filters along the lines of an array: sums y[i] = Σ b[k]·x[i − k] − Σ a[k]·y[i − k] in transposed direct form II, and their states.

An array is flat, as (rows, n, inner) of which the middle axis is filtered; a state is (rows, order, inner).
"""

from __future__ import annotations

import numpy as np

from numbaconv.nopython._compile import helper, kernel

ODD, EVEN, CONSTANT, NONE = range(4)
PADDINGS = {"odd": ODD, "even": EVEN, "constant": CONSTANT, None: NONE}


@helper
def normalised(b, a, order):  # type: ignore[no-untyped-def]
    """Return both in one array of 2·(order + 1) numbers, divided by a[0]."""
    if b.size == 0 or a.size == 0:
        raise ValueError("b and a must not be empty")
    if a[0] == 0:
        raise ValueError("a[0] must not be 0")
    both = np.zeros(2 * (order + 1), b.dtype)
    for k in range(b.size):
        both[k] = b[k] / a[0]
    for k in range(a.size):
        both[order + 1 + k] = a[k] / a[0]
    return both


@helper
def run_line(both, order, x, at, step, n, z, y):  # type: ignore[no-untyped-def]
    """Filter n samples from x[at] on, ``step`` apart, into the same places of y; the state z follows."""
    a = order + 1
    if order == 0:
        for i in range(n):
            y[at + i * step] = both[0] * x[at + i * step]
        return
    for i in range(n):
        value = x[at + i * step]
        result = both[0] * value + z[0]
        for k in range(order - 1):
            z[k] = both[k + 1] * value + z[k + 1] - both[a + k + 1] * result
        z[order - 1] = both[order] * value - both[a + order] * result
        y[at + i * step] = result


@helper
def steady(both, order, zi):  # type: ignore[no-untyped-def]
    """Fill in the state in which a step of height 1 passes unchanged (scipy.signal.lfilter_zi)."""
    total, gain = both[order + 1], both[0] * 0
    for k in range(1, order + 1):
        total += both[order + 1 + k]
        gain += both[k] - both[order + 1 + k] * both[0]
    first, seen, passed = gain / total, both[order + 1], both[0] * 0
    for k in range(order):
        zi[k] = seen * first - passed
        seen += both[order + 2 + k]
        passed += both[k + 1] - both[order + 2 + k] * both[0]


@kernel
def filter_lines(b, a, x, rows, n, inner, z, y):  # type: ignore[no-untyped-def]
    """Filter all lines; z is overwritten with the state after them."""
    order = max(b.size, a.size) - 1
    both, state = normalised(b, a, order), np.empty(order + 1, x.dtype)
    for line in range(rows * inner):
        row, column = line // inner, line % inner
        at, there = row * n * inner + column, row * order * inner + column
        for k in range(order):
            state[k] = z[there + k * inner]
        run_line(both, order, x, at, inner, n, state, y)
        for k in range(order):
            z[there + k * inner] = state[k]


@kernel
def filter_sections(sos, sections, x, rows, n, inner, z, y):  # type: ignore[no-untyped-def]
    """Filter all lines by sections of order 2, one after the other; z is (sections, rows, 2, inner)."""
    state = np.empty(2, x.dtype)
    for section in range(sections):
        both = normalised(sos[6 * section : 6 * section + 3], sos[6 * section + 3 : 6 * section + 6], 2)
        for line in range(rows * inner):
            row, column = line // inner, line % inner
            at, there = row * n * inner + column, (section * rows + row) * 2 * inner + column
            state[0], state[1] = z[there], z[there + inner]
            run_line(both, 2, x if section == 0 else y, at, inner, n, state, y)
            z[there], z[there + inner] = state[0], state[1]


@helper
def pad_line(x, at, step, n, edge, padding, wide):  # type: ignore[no-untyped-def]
    """Copy a line with ``edge`` samples more at each end: reflected in the point at the end, mirrored, or that point."""
    first, last = x[at], x[at + (n - 1) * step]
    for i in range(n):
        wide[edge + i] = x[at + i * step]
    for k in range(1, edge + 1):
        before, after = x[at + k * step], x[at + (n - 1 - k) * step]
        if padding == ODD:
            before, after = 2 * first - before, 2 * last - after
        elif padding == CONSTANT:
            before, after = first, last
        wide[edge - k], wide[edge + n - 1 + k] = before, after


@kernel
def filter_both_ways(coefficients, orders, x, rows, n, inner, edge, padding, y):  # type: ignore[no-untyped-def]
    """Filter lines by sections, forward and backward, each from the steady state of its first sample.

    ``coefficients`` holds b and a of each section, of ``orders[s] + 1`` numbers each.
    """
    if n <= edge:
        raise ValueError("The length of the input vector x must be greater than padlen")
    sections, longest = len(orders), 1
    for s in range(sections):
        longest = max(longest, orders[s])
    steadies, state = np.zeros(sections * longest, x.dtype), np.empty(longest, x.dtype)
    scale, at = coefficients[0] * 0 + 1, 0
    for s in range(sections):
        order = orders[s]
        both = coefficients[at : at + 2 * order + 2]
        steady(both, order, state)
        top, bottom = both[0] * 0, both[0] * 0
        for k in range(order + 1):
            top += both[k]
            bottom += both[order + 1 + k]
        for k in range(order):
            steadies[s * longest + k] = scale * state[k]
        scale *= top / bottom
        at += 2 * order + 2
    size = n + 2 * edge
    wide = np.empty(size, x.dtype)
    for line in range(rows * inner):
        start = line // inner * n * inner + line % inner
        pad_line(x, start, inner, n, edge, padding, wide)
        for way in range(2):
            begin, step, at = (size - 1, -1, 0) if way else (0, 1, 0)
            first = wide[begin]
            for s in range(sections):
                order = orders[s]
                for k in range(order):
                    state[k] = steadies[s * longest + k] * first
                run_line(coefficients[at : at + 2 * order + 2], order, wide, begin, step, size, state, wide)
                at += 2 * order + 2
        for i in range(n):
            y[start + i * inner] = wide[edge + i]
