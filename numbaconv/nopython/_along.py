"""fftconvolve over some axes: one convolution after the other, in arrays that have one element on all other axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from numbaconv.nopython._arrays import flat
from numbaconv.nopython._compile import family, helper, kernel
from numbaconv.nopython._direct import H, X, Y
from numbaconv.nopython._sums import FFT, SAME, convolver, measure


@kernel
def mark_axis(axis, marks):  # type: ignore[no-untyped-def]
    """Set the mark of an axis, which may be counted from the end."""
    if axis < -len(marks) or axis >= len(marks):
        raise ValueError("axes exceeds dimensionality of input")
    if marks[axis]:
        raise ValueError("all axes must be unique")
    marks[axis] = 1


@helper
def corner(shape, marks, item, whole):  # type: ignore[no-untyped-def]
    """Return where in a flat array an item of the axes without a mark begins, an axis of one element being repeated."""
    at, scale = 0, 1
    for axis in range(len(shape) - 1, -1, -1):
        if not marks[axis]:
            at += (item % whole[axis] if shape[axis] > 1 else 0) * scale
            item //= whole[axis]
        scale *= shape[axis]
    return at


@helper
def move(large, shape, start, part, small, back):  # type: ignore[no-untyped-def]
    """Copy what begins at ``start`` of a large array to a small one, or the other way."""
    for k in range(small.size):
        at, scale, rest = start, 1, k
        for axis in range(len(shape) - 1, -1, -1):
            at, scale, rest = at + rest % part[axis] * scale, scale * shape[axis], rest // part[axis]
        if back:
            large[at] = small[k]
        else:
            small[k] = large[at]


@family
def convolution_along(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (first, second, mode, marks) -> array."""
    transform = convolver(dtype, axes, "fft")

    def convolve(first, second, mode, marks):  # type: ignore[no-untyped-def]
        a, b, whole, items, total = np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty(axes, np.int64), 1, np.ones(3, np.int64)
        a_of, b_of, sizes = np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty((4, axes), np.int64)
        for axis in range(axes):
            a[axis], b[axis] = first.shape[axis], second.shape[axis]
            a_of[axis], b_of[axis] = (a[axis], b[axis]) if marks[axis] else (1, 1)
        measure(a_of, b_of, mode, sizes)
        for axis in range(axes):
            whole[axis] = sizes[Y, axis] if marks[axis] else a[axis] if mode == SAME else max(a[axis], b[axis])
            if not marks[axis]:
                items *= whole[axis]
                if a[axis] != b[axis] and min(a[axis], b[axis]) != 1:
                    raise ValueError("incompatible shapes for in1 and in2: they must agree on the other axes, or be 1")
            for row in (X, H, Y):
                total[row] *= sizes[row, axis]
        # In mode "same" SciPy gives the shape of in1 there too: if that is 1, what in2 has in the middle.
        middle, scale = 0, 1
        for axis in range(axes - 1, -1, -1):
            middle += (b[axis] - 1) // 2 * scale if mode == SAME and not marks[axis] and a[axis] == 1 else 0
            scale *= b[axis]
        y = np.empty(to_fixed_tuple(whole, axes), dtype)
        x, h, z = np.empty(total[X], dtype), np.empty(total[H], dtype), np.empty(total[Y], dtype)
        for item in range(items):
            move(flat(first), a, corner(a, marks, item, whole), sizes[X], x, False)
            move(flat(second), b, middle + corner(b, marks, item, whole), sizes[H], h, False)
            transform(x, h, z, sizes, FFT)
            move(flat(y), whole, corner(whole, marks, item, whole), sizes[Y], z, True)
        return y

    return convolve
