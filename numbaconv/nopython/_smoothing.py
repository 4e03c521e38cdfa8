"""savgol_filter, savgol_coeffs and deconvolve in nopython code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from numba.extending import register_jitable

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import in_lines, taken
from numbaconv.nopython._boundary import CONSTANT, MIRROR, NEAREST, WRAP
from numbaconv.nopython._compile import family, kernel, overloads
from numbaconv.nopython._kinds import choice, dtype_of, integers, is_none, numbers, refuse
from numbaconv.nopython._ndimage_sums import correlation_along, storing

INTERP = 9
MODES = {"interp": INTERP, "mirror": MIRROR, "constant": CONSTANT, "nearest": NEAREST, "wrap": WRAP}


@kernel
def fit(window, order, derivative, delta, place, taps):  # type: ignore[no-untyped-def]
    """Fill in what makes a derivative, at a place, of the polynomial that fits ``window`` samples best, of the samples.

    The polynomials are orthogonal on the samples (G. E. Forsythe, "Generation and use of orthogonal polynomials for data-fitting", 1957): each
    follows from the two before, p[k + 1] = (t − α)·p[k] − β·p[k − 1] with t from −1 to 1, and so do its derivatives at the place.
    """
    scale = 2.0 / max(1, window - 1)
    t = place * scale - 1
    here, before, following = np.ones(window), np.zeros(window), np.empty(window)
    at, at_before = np.zeros(derivative + 1), np.zeros(derivative + 1)  # derivatives at the place
    at[0], norm_before = 1.0, 1.0
    for i in range(window):
        taps[i] = 0.0
    for k in range(order + 1):
        norm = alpha = 0.0
        for i in range(window):
            norm += here[i] * here[i]
            alpha += (i * scale - 1) * here[i] * here[i]
        for i in range(window):
            taps[i] += here[i] * at[derivative] / norm
        alpha, beta = alpha / norm, norm / norm_before if k else 0.0
        for i in range(window):
            following[i] = (i * scale - 1 - alpha) * here[i] - beta * before[i]
            before[i], here[i] = here[i], following[i]
        for d in range(derivative, -1, -1):
            value = (t - alpha) * at[d] + (d * at[d - 1] if d else 0.0) - beta * at_before[d]
            at_before[d], at[d] = at[d], value
        norm_before = norm
    factor = (scale / delta) ** derivative
    for i in range(window):
        taps[i] *= factor


@kernel
def savgol_taps(window, order, derivative, delta, place, reverse):  # type: ignore[no-untyped-def]
    """Return the taps of a filter, those of a convolution if they are to be reversed; a negative place is the middle."""
    if order >= window:
        raise ValueError("polyorder must be less than window_length.")
    if window < 1 or order < 0 or derivative < 0:
        raise ValueError("window_length must be positive, polyorder and deriv must not be negative")
    if place >= window:
        raise ValueError("pos must be nonnegative and less than window_length")
    taps, result = np.zeros(window), np.empty(window)
    if derivative <= order:
        fit(window, order, derivative, delta, (window - 1) / 2 if place < 0 else place, taps)
    for i in range(window):
        result[i] = taps[window - 1 - i] if reverse else taps[i]
    return result


@kernel
def fit_ends(x, rows, n, inner, window, order, derivative, delta, y):  # type: ignore[no-untyped-def]
    """Overwrite the first and the last window // 2 samples of each line of y by the polynomials of the first and the last window."""
    taps = np.zeros(window)
    for end in range(2):
        for k in range(window // 2):
            place = k + end * (window - window // 2)
            if derivative <= order:
                fit(window, order, derivative, delta, float(place), taps)
            for line in range(rows * inner):
                start = line // inner * n * inner + line % inner + end * (n - window) * inner
                total = 0.0
                for i in range(window):
                    total += taps[i] * x[start + i * inner]
                y[start + place * inner] = total


@family
def smoothing(axes: int) -> Callable[..., Any]:
    """Make the kernel of `savgol_filter`, in float64."""
    along = correlation_along(np.dtype(np.float64), axes, True)

    def smooth(x, window, order, derivative, delta, axis, mode, value):  # type: ignore[no-untyped-def]
        shape = in_lines(x.shape, axis)
        if mode == INTERP and window > shape[1]:
            raise ValueError("If mode is 'interp', window_length must be less than or equal to the size of x.")
        y = along(x, savgol_taps(window, order, derivative, delta, -1.0, True), axis, 0, CONSTANT if mode == INTERP else mode, value)
        if mode == INTERP:
            fit_ends(x.reshape(-1), shape[0], shape[1], shape[2] if len(shape) == 3 else 1, window, order, derivative, delta, y.reshape(-1))
        return y

    return smooth


@overloads(scipy.signal.savgol_coeffs)
def savgol_coeffs(window_length, polyorder, deriv=0, delta=1.0, pos=None, use="conv"):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.savgol_coeffs."""
    integers(window_length=window_length, polyorder=polyorder, deriv=deriv)
    numbers(float, delta=delta, **({} if is_none(pos) else {"pos": pos}))
    reverse = choice("use", use, {"dot": 0, "conv": 1})
    if is_none(pos):

        def place(pos):  # type: ignore[no-untyped-def]
            return -1.0

    else:

        def place(pos):  # type: ignore[no-untyped-def]
            if pos < 0:
                raise ValueError("pos must be nonnegative and less than window_length")
            return float(pos)

    place_of = register_jitable(named_apart(place))

    def implementation(window_length, polyorder, deriv=0, delta=1.0, pos=None, use="conv"):  # type: ignore[no-untyped-def]
        return savgol_taps(window_length, polyorder, deriv, float(delta), place_of(pos), reverse(use) == 1)

    return implementation


@overloads(scipy.signal.savgol_filter)
def savgol_filter(x, window_length, polyorder, deriv=0, delta=1.0, axis=-1, mode="interp", cval=0.0):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.savgol_filter."""
    integers(window_length=window_length, polyorder=polyorder, deriv=deriv, axis=axis)
    numbers(float, delta=delta, cval=cval)
    kind, axes = dtype_of("x", x), getattr(x, "ndim", 1)
    if kind.kind == "c":
        raise refuse("x", kind, "an array of real numbers")
    signal, beyond, smooth = taken(x, np.dtype(np.float64)), choice("mode", mode, MODES), smoothing(axes)
    store = storing(kind if kind == np.float32 else np.dtype(np.float64), False)

    def implementation(x, window_length, polyorder, deriv=0, delta=1.0, axis=-1, mode="interp", cval=0.0):  # type: ignore[no-untyped-def]
        return store(smooth(signal(x), window_length, polyorder, deriv, float(delta), axis, beyond(mode), float(cval)), None)

    return implementation


@kernel
def divide(signal, divisor):  # type: ignore[no-untyped-def]
    """Return the quotient of two polynomials and what remains."""
    if signal.size == 0 or divisor.size == 0:
        raise ValueError("signal and divisor must not be empty")
    if divisor[0] == 0 and signal.size >= divisor.size:
        raise ValueError("divisor[0] must not be 0")
    quotient, rest = np.empty(max(0, signal.size - divisor.size + 1), signal.dtype), signal.copy()
    for i in range(quotient.size):
        quotient[i] = rest[i] / divisor[0]
        for k in range(divisor.size):
            rest[i + k] -= quotient[i] * divisor[k]
    return quotient, rest


@overloads(scipy.signal.deconvolve)
def deconvolve(signal, divisor):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.deconvolve."""
    dtype = np.result_type(dtype_of("signal", signal, 1), dtype_of("divisor", divisor, 1), np.float64)
    dividend, by = taken(signal, dtype), taken(divisor, dtype)

    def implementation(signal, divisor):  # type: ignore[no-untyped-def]
        return divide(dividend(signal), by(divisor))

    return implementation
