"""convolve2d and correlate2d in nopython code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal

from numbaconv.nopython._arrays import flat, taken
from numbaconv.nopython._boundary import CONSTANT, REFLECT, WRAP, correlate_extended
from numbaconv.nopython._compile import family, overloads
from numbaconv.nopython._convolution import operands
from numbaconv.nopython._direct import START, H, X, Y
from numbaconv.nopython._kinds import choice, numbers
from numbaconv.nopython._sums import MODES, SAME, VALID, measure

BOUNDARIES = {"fill": CONSTANT, "pad": CONSTANT, "wrap": WRAP, "circular": WRAP, "symm": REFLECT, "symmetric": REFLECT}


@family
def images(dtype: np.dtype[Any], mirrored: bool) -> Callable[..., Any]:
    """Make a kernel (in1, in2, mode, boundary, value) -> array; in2 is reversed and conjugated if it is to be ``mirrored``."""

    def convolve(in1, in2, mode, boundary, value):  # type: ignore[no-untyped-def]
        sizes = np.empty((4, 2), np.int64)
        measure(in1.shape, in2.shape, mode, sizes)
        a, b, x, h = X, H, flat(in1), flat(in2)
        swapped = mode == VALID and h.size > x.size
        if mirrored:
            given, h = h, np.empty(h.size, dtype)
            for i in range(h.size):
                h[i] = given[h.size - 1 - i] if swapped else given[h.size - 1 - i].conjugate()
            if swapped:
                # As in SciPy it is the smaller that is conjugated.
                given, x = x, np.empty(x.size, dtype)
                for i in range(x.size):
                    x[i] = given[i].conjugate()
        y = np.empty((sizes[Y, 0], sizes[Y, 1]), dtype)
        if swapped:
            x, h, a, b = h, x, b, a
        before = np.empty(2, np.int64)
        for axis in range(2):
            before[axis] = sizes[b, axis] - 1 - (sizes[b, axis] // 2 if mirrored and mode == SAME else sizes[START, axis])
        correlate_extended(x, sizes[a], h, sizes[b], before, flat(y), sizes[Y], boundary, value)
        return y

    return convolve


def image_sum(in1: Any, in2: Any, mode: Any, boundary: Any, fillvalue: Any, mirrored: bool) -> tuple[Any, ...]:
    """Return what both call."""
    dtype = operands(in1, in2, ("in1", "in2"), 2)
    numbers(dtype, fillvalue=fillvalue)
    return (
        taken(in1, dtype),
        taken(in2, dtype),
        choice("mode", mode, MODES),
        choice("boundary", boundary, BOUNDARIES),
        images(dtype, mirrored),
        dtype.type,
    )


@overloads(scipy.signal.convolve2d)
def convolve2d(in1, in2, mode="full", boundary="fill", fillvalue=0):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.convolve2d."""
    first, second, extent, beyond, sums, number = image_sum(in1, in2, mode, boundary, fillvalue, False)

    def implementation(in1, in2, mode="full", boundary="fill", fillvalue=0):  # type: ignore[no-untyped-def]
        return sums(first(in1), second(in2), extent(mode), beyond(boundary), number(fillvalue))

    return implementation


@overloads(scipy.signal.correlate2d)
def correlate2d(in1, in2, mode="full", boundary="fill", fillvalue=0):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.correlate2d."""
    first, second, extent, beyond, sums, number = image_sum(in1, in2, mode, boundary, fillvalue, True)

    def implementation(in1, in2, mode="full", boundary="fill", fillvalue=0):  # type: ignore[no-untyped-def]
        return sums(first(in1), second(in2), extent(mode), beyond(boundary), number(fillvalue))

    return implementation
