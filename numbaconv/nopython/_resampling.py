"""upfirdn and resample_poly in nopython code: y[o] = Σ_k h[k] · x[(o·down + offset − k) / up] over the k for which that is an integer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from numba import types
from numba.extending import register_jitable
from numba.np.unsafe.ndarray import to_fixed_tuple

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import in_lines, taken
from numbaconv.nopython._compile import family, helper, overloads
from numbaconv.nopython._extension import CONSTANT, MODES, sample
from numbaconv.nopython._kinds import choice, dtype_of, integers, is_none, numbers
from numbaconv.nopython._windows import window_of

BACKGROUNDS = {"mean": 20, "median": 21, "minimum": 22, "maximum": 23}  # resample_poly takes them off first and adds them afterwards


@helper
def phases(h, up, per_phase):  # type: ignore[no-untyped-def]
    """Return the taps of each phase side by side, the last one first, with zeros where there is none."""
    taps = np.zeros(up * per_phase, h.dtype)
    for k in range(h.size):
        taps[(k % up + 1) * per_phase - 1 - k // up] = h[k]
    return taps


@functools.cache
def background(dtype: np.dtype[Any]) -> Callable[[Any, int], Any]:
    """Return a function (line, padtype) for compiled code; complex numbers are in order of their real parts, then of their imaginary ones."""
    if dtype.kind == "c":

        def sort(line):  # type: ignore[no-untyped-def]
            by_second = line[np.argsort(line.imag, kind="mergesort")]
            return by_second[np.argsort(by_second.real, kind="mergesort")]
    else:

        def sort(line):  # type: ignore[no-untyped-def]
            return np.sort(line)

    in_order = register_jitable(named_apart(sort))

    def level(line, padtype):  # type: ignore[no-untyped-def]
        if padtype == 20:
            return line.sum() / line.size
        values = in_order(line)
        if padtype == 21:
            return (values[(values.size - 1) // 2] + values[values.size // 2]) / 2
        return values[0] if padtype == 22 else values[values.size - 1]

    function: Callable[[Any, int], Any] = register_jitable(named_apart(level))
    return function


@family
def resampling(dtype: np.dtype[Any], with_background: bool) -> Callable[..., Any]:
    """Make a kernel (h, x, rows, n, inner, up, down, offset, mode, value, y, outputs) -> None for flat arrays."""
    level_of = background(dtype) if with_background else _no_level

    def resample(h, x, rows, n, inner, up, down, offset, mode, value, y, outputs):  # type: ignore[no-untyped-def]
        if n == 0 and mode != CONSTANT:
            raise ValueError("an empty axis cannot be extended")
        per_phase = (h.size + up - 1) // up
        taps, before = phases(h, up, per_phase), per_phase - 1
        wide = np.empty(before + max(n, ((outputs - 1) * down + offset) // up + 1), dtype)
        for line in range(rows * inner):
            at, to = line // inner * n * inner + line % inner, line // inner * outputs * inner + line % inner
            for i in range(n):
                wide[before + i] = x[at + i * inner]
            level, beyond = dtype.type(0), mode
            if mode >= 20:
                level, beyond = dtype.type(level_of(wide[before : before + n], mode)), CONSTANT
                for i in range(n):
                    wide[before + i] -= level
            for i in range(before):
                wide[i] = sample(wide, before, n, i - before, beyond, value)
            for i in range(before + n, wide.size):
                wide[i] = sample(wide, before, n, i - before, beyond, value)
            for o in range(outputs):
                place = o * down + offset
                first, tap, total = place // up, place % up * per_phase, dtype.type(0)
                for k in range(per_phase):
                    total += taps[tap + k] * wide[first + k]
                y[to + o * inner] = total + level

    return resample


@helper
def _no_level(line, padtype):  # type: ignore[no-untyped-def]
    return line[0]


@family
def resampled(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (h, x, up, down, axis, mode, value) -> y, which is `upfirdn`."""
    resample = resampling(dtype, False)

    def run(h, x, up, down, axis, mode, value):  # type: ignore[no-untyped-def]
        if h.size == 0:
            raise ValueError("h must be 1-D with non-zero length")
        if up < 1 or down < 1:
            raise ValueError("Both up and down must be >= 1")
        shape = in_lines(x.shape, axis)
        n, inner, sizes = shape[1], shape[2] if len(shape) == 3 else 1, np.empty(axes, np.int64)
        for k in range(axes):
            sizes[k] = x.shape[k]
        outputs = ((n - 1) * up + h.size - 1) // down + 1
        sizes[axis] = outputs
        y = np.empty(to_fixed_tuple(sizes, axes), dtype)
        resample(h, x.reshape(-1), shape[0], n, inner, up, down, 0, mode, value, y.reshape(-1), outputs)
        return y

    return run


@overloads(scipy.signal.upfirdn)
def upfirdn(h, x, up=1, down=1, axis=-1, mode="constant", cval=0):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.upfirdn."""
    integers(up=up, down=down, axis=axis)
    dtype = np.result_type(dtype_of("h", h, 1), dtype_of("x", x), np.float32)
    numbers(dtype, cval=cval)
    taps, signal, beyond, number = taken(h, dtype), taken(x, dtype), choice("mode", mode, MODES), dtype.type
    run = resampled(dtype, getattr(x, "ndim", 1))

    def implementation(h, x, up=1, down=1, axis=-1, mode="constant", cval=0):  # type: ignore[no-untyped-def]
        return run(taps(h), signal(x), up, down, axis, beyond(mode), number(cval))

    return implementation


@family
def resampled_poly(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (h, x, up, down, axis, padtype, value) -> y, which is `resample_poly` for rates without a common divisor."""
    resample = resampling(dtype, True)

    def run(h, x, up, down, axis, padtype, value):  # type: ignore[no-untyped-def]
        shape = in_lines(x.shape, axis)
        n, inner, sizes = shape[1], shape[2] if len(shape) == 3 else 1, np.empty(axes, np.int64)
        if n == 0 or h.size == 0:
            raise ValueError("the window and the axis must not be empty in nopython code")
        for k in range(axes):
            sizes[k] = x.shape[k]
        outputs = (n * up + down - 1) // down
        sizes[axis] = outputs
        y, taps = np.empty(to_fixed_tuple(sizes, axes), dtype), np.empty(h.size, dtype)
        for k in range(h.size):
            taps[k] = h[k] * up
        resample(taps, x.reshape(-1), shape[0], n, inner, up, down, (h.size - 1) // 2, padtype, value, y.reshape(-1), outputs)
        return y

    return run


@overloads(scipy.signal.resample_poly)
def resample_poly(x, up, down, axis=0, window=("kaiser", 5.0), padtype="constant", cval=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.resample_poly."""
    integers(up=up, down=down, axis=axis)
    kind = dtype_of("x", x)
    given, design = window_of(window)
    dtype = np.result_type(kind, given or (kind if kind.kind in "fc" else np.float64), np.float32)
    if not is_none(cval):
        numbers(dtype, cval=cval)
    signal, taps, beyond = taken(x, dtype), taken(types.Array(types.boolean, 1, "A"), dtype), choice("padtype", padtype, {**MODES, **BACKGROUNDS})
    run, number, without = resampled_poly(dtype, getattr(x, "ndim", 1)), dtype.type, is_none(cval)
    copied = taken(types.Array(types.boolean, getattr(x, "ndim", 1), "A"), dtype)
    value = register_jitable(named_apart(_zero if without else _itself))

    def implementation(x, up, down, axis=0, window=("kaiser", 5.0), padtype="constant", cval=None):  # type: ignore[no-untyped-def]
        if up < 1 or down < 1:
            raise ValueError("up and down must be >= 1")
        code = beyond(padtype)
        if not without and code != CONSTANT:
            raise ValueError("cval has no effect when padtype is not 'constant'")
        common = math.gcd(up, down)
        if up == down:
            return copied(signal(x))
        return run(taps(design(window, max(up, down) // common)), signal(x), up // common, down // common, axis, code, number(value(cval)))

    return implementation


def _zero(cval):  # type: ignore[no-untyped-def]
    return 0


def _itself(cval):  # type: ignore[no-untyped-def]
    return cval
