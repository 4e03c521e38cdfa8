"""convolve, correlate, fftconvolve, oaconvolve and correlation_lags in nopython code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from numba import types
from numba.extending import register_jitable

from numbaconv._jit import named_apart
from numbaconv.nopython._along import convolution_along, mark_axis
from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import kernel, overloads
from numbaconv.nopython._kinds import choice, dtype_of, integers, is_none, known, refuse
from numbaconv.nopython._sums import ANY, FFT, METHODS, MODES, VALID_BUT_FOR_ONES, convolution, mirrored


def operands(in1: Any, in2: Any, names: tuple[str, str] = ("in1", "in2"), axes: int | None = None, transformed: bool = False) -> np.dtype[Any]:
    """Return the dtype of a result; what is transformed anyway is of floats."""
    kinds = [dtype_of(name, value, axes) for name, value in zip(names, (in1, in2), strict=True)]
    if isinstance(in1, types.Array) and isinstance(in2, types.Array) and in1.ndim != in2.ndim:
        raise refuse(names[1], f"{in2.ndim} axes", f"an array of as many axes as {names[0]}, {in1.ndim},")
    dtype = np.result_type(*((kind if kind.kind in "fc" else np.dtype(np.float64) for kind in kinds) if transformed else kinds))
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
        return sums(first(in1), second(in2), extent(mode), how(method))

    return implementation


@overloads(scipy.signal.correlate)
def correlate(in1, in2, mode="full", method="auto"):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.correlate."""
    first, second, extent, how, sums = product(in1, in2, mode, method)

    def implementation(in1, in2, mode="full", method="auto"):  # type: ignore[no-untyped-def]
        return sums(first(in1), mirrored(second(in2)), extent(mode), how(method))

    return implementation


@overloads(scipy.signal.fftconvolve, scipy.signal.oaconvolve)
def fftconvolve(in1, in2, mode="full", axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.fftconvolve and oaconvolve, which are one computation."""
    dtype = operands(in1, in2, transformed=True)
    first, second, extent = taken(in1, dtype), taken(in2, dtype), choice("mode", mode, {**MODES, "valid": VALID_BUT_FOR_ONES})
    rank = getattr(in1, "ndim", 1)
    if is_none(axes):
        sums = convolution(dtype, rank, "fft")

        def implementation(in1, in2, mode="full", axes=None):  # type: ignore[no-untyped-def]
            return sums(first(in1), second(in2), extent(mode), FFT)

        return implementation
    mark, broadcast = marked(axes, rank), convolution_along(dtype, rank)

    def along(in1, in2, mode="full", axes=None):  # type: ignore[no-untyped-def]
        return broadcast(first(in1), second(in2), extent(mode), mark(axes))

    return along


def marked(axes: Any, rank: int) -> Callable[[Any], Any]:
    """Return a function for compiled code that marks the axes of an argument by 1, and others by 0."""
    found = axes.value if isinstance(axes, types.Omitted) else axes
    if isinstance(found, types.Integer):

        def mark(axes):  # type: ignore[no-untyped-def]
            marks = np.zeros(rank, np.int64)
            mark_axis(axes, marks)
            return marks

    elif isinstance(found, (types.List, types.UniTuple)) and isinstance(found.dtype, types.Integer):

        def mark(axes):  # type: ignore[no-untyped-def]
            marks = np.zeros(rank, np.int64)
            for axis in axes:
                mark_axis(axis, marks)
            return marks

    else:
        raise refuse("axes", axes, "None, an integer, or a tuple or list of integers")
    function: Callable[[Any], Any] = register_jitable(named_apart(mark))
    return function


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
    integers(in1_len=in1_len, in2_len=in2_len)
    extent = choice("mode", mode, MODES)

    def implementation(in1_len, in2_len, mode="full"):  # type: ignore[no-untyped-def]
        return lags(in1_len, in2_len, extent(mode))

    return implementation
