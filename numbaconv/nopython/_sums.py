"""Convolutions of whole arrays: sizes, which of the two is cut into tiles, and whether they are summed or transformed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable
from numba.np.unsafe.ndarray import to_fixed_tuple

from numbaconv._jit import named_apart
from numbaconv.nopython._compile import family, helper
from numbaconv.nopython._direct import convolve_directly
from numbaconv.nopython._fft import by_transforms, tile_of

# LONGER and LONGER_REVERSED are as large as the larger input, as NumPy has it; axes of one element don't count for VALID_BUT_FOR_ONES.
FULL, SAME, VALID, LONGER, LONGER_REVERSED, VALID_BUT_FOR_ONES = range(6)
MODES = {"full": FULL, "same": SAME, "valid": VALID}
AUTO, DIRECT, FFT = 0, 1, 2
ANY = "auto direct fft"
METHODS = {"auto": AUTO, "direct": DIRECT, "fft": FFT}
# Nanoseconds of a product of the direct sum for each byte of a number, and of an element of a tile and a stage of a transform (AVX-512,
# 2026-11); what a transform must save, so that short sums of small integers stay exact.
PRODUCT, STAGE, WORTH = 0.01, 0.35, 5e4


@helper
def measure(first, second, mode, a, b, start, outputs):  # type: ignore[no-untyped-def]
    """Fill in the sizes of two arrays, where on each axis of the whole convolution the result of a mode begins, and its size."""
    larger, smaller = False, False
    for axis in range(len(a)):
        n, taps = first[axis], second[axis]
        a[axis], b[axis] = n, taps
        if n == 0 or taps == 0:
            raise ValueError("the inputs must not be empty in nopython code")
        if mode == VALID or (n > 1 and taps > 1):
            larger, smaller = larger or taps > n, smaller or taps < n
        if mode == FULL:
            start[axis], outputs[axis] = 0, n + taps - 1
        elif mode == SAME:
            start[axis], outputs[axis] = (taps - 1) // 2, n
        elif mode == VALID or mode == VALID_BUT_FOR_ONES:
            start[axis], outputs[axis] = (taps - 1, n - taps + 1) if n >= taps else (n - 1, taps - n + 1)
        elif n >= taps:
            start[axis], outputs[axis] = (taps - 1 + mode - LONGER) // 2, n
        else:
            start[axis], outputs[axis] = (n - 1 + mode - LONGER) // 2, taps
    if (mode == VALID or mode == VALID_BUT_FOR_ONES) and larger and smaller:
        raise ValueError("For 'valid' mode, one must be at least as large as the other in every dimension")


@functools.cache
def real_view(dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    """Return a function for compiled code that views a flat array as real numbers."""
    real = np.empty(0, dtype).real.dtype

    if dtype.kind == "c":

        def view(values):  # type: ignore[no-untyped-def]
            return values.view(real)
    else:

        def view(values):  # type: ignore[no-untyped-def]
            return values

    function: Callable[[Any], Any] = register_jitable(named_apart(view))
    return function


def convolver(dtype: np.dtype[Any], axes: int, methods: str = ANY) -> Any:
    """Return a kernel (x, x_shape, h, h_shape, start, y, y_shape, method) -> None that does what is asked for, or what is sooner done.

    Only what may be asked for is compiled: transforms never for integers, which are exact.
    """
    if dtype.kind not in "fc" or methods == "direct":
        return directly
    return by_choice(dtype, axes == 1, methods == ANY)


@helper
def directly(x, x_shape, h, h_shape, start, y, y_shape, method):  # type: ignore[no-untyped-def]
    """Sum, whatever the method."""
    convolve_directly(x, x_shape, h, h_shape, start, y, y_shape)


@family
def by_choice(dtype: np.dtype[Any], flat: bool, may_sum: bool) -> Callable[..., Any]:
    """Make a kernel that chooses, or that transforms in any case."""
    transform, real, parts, product = by_transforms(flat), real_view(dtype), 1 + (dtype.kind == "c"), PRODUCT * dtype.itemsize
    sum_up = directly if may_sum else _do_nothing

    def convolve(x, x_shape, h, h_shape, start, y, y_shape, method):  # type: ignore[no-untyped-def]
        forced = method == FFT or not may_sum
        size, most = np.empty(len(x_shape), np.int64), 1.0 * y.size * h.size * product - WORTH
        work = tile_of(h_shape, y_shape, size) if forced or (method == AUTO and most > 0) else math.inf
        if forced or most > work * STAGE * parts:
            result = real(y)
            transform(real(x), x_shape, real(h), h_shape, start, result, y_shape, parts, size)
            total = 0.0
            for j in range(result.size):
                total += result[j]
            if forced or math.isfinite(total):
                return
        sum_up(x, x_shape, h, h_shape, start, y, y_shape, method)

    return convolve


@helper
def _do_nothing(x, x_shape, h, h_shape, start, y, y_shape, method):  # type: ignore[no-untyped-def]
    pass


@functools.cache
def empty(dtype: np.dtype[Any], axes: int) -> Callable[[Any], Any]:
    """Return a function for compiled code that gives an array of the sizes in another; that of one axis is sooner compiled."""
    if axes == 1:

        def allocate(sizes):  # type: ignore[no-untyped-def]
            return np.empty(sizes[0], dtype)
    else:

        def allocate(sizes):  # type: ignore[no-untyped-def]
            return np.empty(to_fixed_tuple(sizes, axes), dtype)

    function: Callable[[Any], Any] = register_jitable(named_apart(allocate))
    return function


@family
def convolution(dtype: np.dtype[Any], axes: int, methods: str = ANY) -> Callable[..., Any]:
    """Make a kernel (first, second, mode, method, mirrored) -> array; the second is reversed and conjugated if it is to be ``mirrored``."""
    convolve_into, allocate = convolver(dtype, axes, methods), empty(dtype, axes)

    def convolve(first, second, mode, method, mirrored):  # type: ignore[no-untyped-def]
        a, b, start, outputs = np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty(axes, np.int64)
        measure(first.shape, second.shape, mode, a, b, start, outputs)
        x, h = first.reshape(-1), second.reshape(-1)
        if mirrored:
            flat, h = h, np.empty(h.size, dtype)
            for i in range(h.size):
                h[i] = flat[h.size - 1 - i].conjugate()
        y = allocate(outputs)
        if x.size < h.size:
            x, h, a, b = h, x, b, a
        convolve_into(x, a, h, b, start, y.reshape(-1), outputs, method)
        return y

    return convolve
