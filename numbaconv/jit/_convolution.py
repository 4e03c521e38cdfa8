"""convolve, correlate, fftconvolve, oaconvolve and correlation_lags in nopython code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from numba import types

from numbaconv.jit._arrays import taken
from numbaconv.jit._compile import kernel, overloads
from numbaconv.jit._kinds import choice, dtype_of, known, refuse
from numbaconv.jit._sums import ANY, FFT, METHODS, MODES, convolution


def operands(in1: Any, in2: Any, names: tuple[str, str] = ("in1", "in2"), axes: int | None = None) -> np.dtype[Any]:
    """Return the dtype of a result."""
    first, second = dtype_of(names[0], in1, axes), dtype_of(names[1], in2, axes)
    if isinstance(in1, types.Array) and isinstance(in2, types.Array) and in1.ndim != in2.ndim:
        raise refuse(names[1], f"{in2.ndim} axes", f"an array of as many axes as {names[0]}, {in1.ndim},")
    dtype = np.result_type(first, second)
    if dtype.kind == "b":
        raise refuse(" and ".join(names), "two boolean arrays", "arrays of which one at least is not of booleans")
    return dtype


def product(in1: Any, in2: Any, mode: Any, method: Any) -> tuple[Any, ...]:
    """Return what `convolve` and `correlate` call: the conversions of both arrays, the codes of both strings and the sum."""
    dtype = operands(in1, in2)
    asked = known(method)
    how = choice("method", method, METHODS)
    sums = convolution(dtype, getattr(in1, "ndim", 1), asked if asked in ("direct", "fft") else ANY)
    return taken(in1, dtype), taken(in2, dtype), choice("mode", mode, MODES), how, sums


@overloads(scipy.signal.convolve)
def convolve(in1, in2, mode="full", method="auto"):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.convolve."""
    first, second, extent, how, sums = product(in1, in2, mode, method)

    def implementation(in1, in2, mode="full", method="auto"):  # type: ignore[no-untyped-def]
        return sums(first(in1), second(in2), extent(mode), how(method), False)

    return implementation


@overloads(scipy.signal.correlate)
def correlate(in1, in2, mode="full", method="auto"):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.correlate."""
    first, second, extent, how, sums = product(in1, in2, mode, method)

    def implementation(in1, in2, mode="full", method="auto"):  # type: ignore[no-untyped-def]
        return sums(first(in1), second(in2), extent(mode), how(method), True)

    return implementation


@overloads(scipy.signal.fftconvolve, scipy.signal.oaconvolve)
def fftconvolve(in1, in2, mode="full", axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.fftconvolve and oaconvolve, which are one computation."""
    if known(axes) is not None:
        raise refuse("axes", axes, "None, which is all axes,")
    dtype = operands(in1, in2)
    if dtype.kind not in "fc":
        dtype = np.dtype(np.float64)
    first, second, extent = taken(in1, dtype), taken(in2, dtype), choice("mode", mode, MODES)
    sums = convolution(dtype, getattr(in1, "ndim", 1), "fft")

    def implementation(in1, in2, mode="full", axes=None):  # type: ignore[no-untyped-def]
        return sums(first(in1), second(in2), extent(mode), FFT, False)

    return implementation


@kernel
def lags(n, m, mode):  # type: ignore[no-untyped-def]
    """Return the lags of a correlation of n elements with m."""
    if mode == 0:
        return np.arange(1 - m, n)
    if mode == 1:
        whole = np.arange(1 - m, n)
        middle, half = whole.size // 2, n // 2
        return whole[middle - half : middle - half + n] if n % 2 == 0 else whole[middle - half : middle + half + 1]
    return np.arange(n - m + 1) if n >= m else np.arange(n - m, 1)


@overloads(scipy.signal.correlation_lags)
def correlation_lags(in1_len, in2_len, mode="full"):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.correlation_lags."""
    for name, value in (("in1_len", in1_len), ("in2_len", in2_len)):
        if not isinstance(value, types.Integer):
            raise refuse(name, value, "an integer")
    extent: Callable[[Any], int] = choice("mode", mode, MODES)

    def implementation(in1_len, in2_len, mode="full"):  # type: ignore[no-untyped-def]
        return lags(in1_len, in2_len, extent(mode))

    return implementation
