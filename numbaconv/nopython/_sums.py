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
from numbaconv.nopython._arrays import as_is, flat
from numbaconv.nopython._compile import family, helper, kernel, rocket
from numbaconv.nopython._direct import START, H, X, Y, convolve_directly, convolve_lines
from numbaconv.nopython._fft import TILE_ROWS, by_transforms, tile_of

# LONGER and LONGER_REVERSED are as large as the larger input, as NumPy has it; axes of one element don't count for VALID_BUT_FOR_ONES.
FULL, SAME, VALID, LONGER, LONGER_REVERSED, VALID_BUT_FOR_ONES = range(6)
MODES = {"full": FULL, "same": SAME, "valid": VALID}
AUTO, DIRECT, FFT = 0, 1, 2
ANY = "auto direct fft"
METHODS = {"auto": AUTO, "direct": DIRECT, "fft": FFT}
# Nanoseconds of a product of the direct sum for each byte of a number, and of an element of a tile and a stage of a transform (AVX-512,
# 2026-11; rocket-fft takes up to twice as long, but what is chosen is not to depend on it, as results would); what a transform must save,
# so that short sums of small integers stay exact.
PRODUCT, STAGE, WORTH = 0.01, 0.35, 5e4


@helper
def measure(first, second, mode, sizes):  # type: ignore[no-untyped-def]
    """Fill in the sizes of two arrays, where on each axis of the whole convolution the result of a mode begins, and its size."""
    larger, smaller = False, False
    for axis in range(sizes.shape[1]):
        n, taps = first[axis], second[axis]
        if n == 0 or taps == 0:
            raise ValueError("the inputs must not be empty in nopython code")
        if mode == VALID or (n > 1 and taps > 1):
            larger, smaller = larger or taps > n, smaller or taps < n
        start, size = 0, n + taps - 1
        if mode == SAME:
            start, size = (taps - 1) // 2, n
        elif mode == VALID or mode == VALID_BUT_FOR_ONES:
            start, size = min(n, taps) - 1, abs(n - taps) + 1
        elif mode != FULL:
            start, size = (min(n, taps) - 1 + mode - LONGER) // 2, max(n, taps)
        sizes[X, axis], sizes[H, axis], sizes[Y, axis], sizes[START, axis] = n, taps, size, start
    if (mode == VALID or mode == VALID_BUT_FOR_ONES) and larger and smaller:
        raise ValueError("For 'valid' mode, one must be at least as large as the other in every dimension")


@functools.cache
def real_view(dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    """Return a function for compiled code that views a flat array as real numbers."""
    if dtype.kind != "c":
        return as_is
    real = np.empty(0, dtype).real.dtype

    def view(values):  # type: ignore[no-untyped-def]
        return values.view(real)

    function: Callable[[Any], Any] = register_jitable(named_apart(view))
    return function


def convolver(dtype: np.dtype[Any], axes: int, methods: str = ANY) -> Any:
    """Return a kernel (x, h, y, sizes, method) -> None that does what is asked for, or what is sooner done.

    Only what may be asked for is compiled: transforms never for integers, which are exact.
    """
    if dtype.kind not in "fc" or methods == "direct":
        return directly(axes == 1)
    return by_choice(dtype, axes, methods == ANY)


@functools.cache
def directly(one_axis: bool) -> Any:
    """Make the function that sums whatever the method."""
    sum_up = convolve_lines if one_axis else convolve_directly

    @helper
    def convolve(x, h, y, sizes, method):  # type: ignore[no-untyped-def]
        sum_up(x, h, y, sizes)

    return convolve


@family
def by_choice(dtype: np.dtype[Any], axes: int, may_sum: bool) -> Callable[..., Any]:
    """Make a kernel that chooses, or that transforms in any case."""
    transform, real, parts, product = transforms(axes), real_view(dtype), 1 + (dtype.kind == "c"), PRODUCT * dtype.itemsize
    sum_up = convolve_lines if axes == 1 else convolve_directly

    def convolve(x, h, y, sizes, method):  # type: ignore[no-untyped-def]
        forced = method == FFT or not may_sum
        tiles, most = np.empty((TILE_ROWS, sizes.shape[1]), np.int64), 1.0 * y.size * h.size * product - WORTH
        work = tile_of(sizes, tiles) if forced or (method == AUTO and most > 0) else math.inf
        if forced or most > work * STAGE * parts:
            result = real(y)
            transform(real(x), real(h), result, sizes, tiles, parts)
            total = 0.0
            for j in range(result.size):
                total += result[j]
            if forced or math.isfinite(total):
                return
        if may_sum:
            sum_up(x, h, y, sizes)

    return convolve


def transforms(axes: int) -> Any:
    """Return the kernel of transforms: with rocket-fft's where it is installed, else with this library's own."""
    if rocket():
        from numbaconv.nopython._rocket import by_rocket

        return by_rocket(axes)
    return by_transforms(axes == 1)


@kernel
def mirrored(x):  # type: ignore[no-untyped-def]
    """Return an array reversed and conjugated."""
    y = np.empty_like(x)
    a, b = flat(x), flat(y)
    for i in range(a.size):
        b[i] = a[a.size - 1 - i].conjugate()
    return y


@family
def convolution(dtype: np.dtype[Any], axes: int, methods: str = ANY) -> Callable[..., Any]:
    """Make a kernel (first, second, mode, method) -> array."""
    convolve_into, one_axis = convolver(dtype, axes, methods), axes == 1

    def convolve(first, second, mode, method):  # type: ignore[no-untyped-def]
        sizes = np.empty((4, axes), np.int64)
        measure(first.shape, second.shape, mode, sizes)
        if one_axis:  # sooner compiled
            y = np.empty(sizes[Y, 0], dtype)
        else:
            y = np.empty(to_fixed_tuple(sizes[Y], axes), dtype)
        x, h = flat(first), flat(second)
        if x.size < h.size:
            for axis in range(axes):
                sizes[X, axis], sizes[H, axis] = sizes[H, axis], sizes[X, axis]
            convolve_into(h, x, flat(y), sizes, method)
        else:
            convolve_into(x, h, flat(y), sizes, method)
        return y

    return convolve
