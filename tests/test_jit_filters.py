"""The recursive filters, resampling and smoothing in nopython code beside SciPy's in the interpreter."""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
import pytest
import scipy.signal
from cases import fill
from test_jit import refused

import numbaconv.jit  # noqa: F401
from numbaconv.nopython._windows import ALONE, WITH_ONE, WITH_TWO

SHAPES = ((40,), (2, 37, 3))


def close(found: Any, expected: Any, slack: float = 64, where: str = "") -> None:
    """Assert equal dtypes, shapes, and values to some roundings of the largest."""
    assert isinstance(found, tuple) == isinstance(expected, tuple), where
    for y, reference in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        assert y.dtype == reference.dtype and y.shape == reference.shape, f"{where}: {y.dtype} {y.shape} for {reference.dtype} {reference.shape}"
        size = max(1.0, float(np.abs(reference).max(initial=0)))
        np.testing.assert_allclose(y, reference, rtol=0, atol=slack * float(np.finfo(reference.dtype).eps) * size, err_msg=where)


@numba.njit
def once(b, a, x, axis, zi):  # type: ignore[no-untyped-def]
    return scipy.signal.lfilter(b, a, x, axis), scipy.signal.lfilter(b, a, x, axis=axis, zi=zi)


@pytest.mark.parametrize("kinds", ["dd", "fF", "DD", "id"])
def test_lfilter(kinds, rng):
    for shape, (taps, poles) in itertools.product(SHAPES, ((4, 4), (2, 5), (6, 3), (1, 1), (5, 1), (12, 1), (1, 3))):
        b, a, x = fill((taps,), kinds[0], rng), 0.2 * fill((poles,), kinds[0], rng), fill(shape, kinds[1], rng, "signed")
        a[0] = 2
        a, b = a.astype(kinds[0]), b.astype(kinds[0])
        if kinds[0] == "i":
            a[1:] = 0
        for axis in range(-len(shape), len(shape)):
            state = list(shape)
            state[axis] = max(taps, poles) - 1
            if len(shape) > 1:
                state[axis % len(shape) - 1] = 1  # is repeated
            zi = fill(tuple(state), np.result_type(*kinds), rng, "signed")
            expected = scipy.signal.lfilter(b, a, x, axis), scipy.signal.lfilter(b, a, x, axis=axis, zi=zi)
            found = once(b, a, x, axis, zi)
            for y, reference in zip(found, expected, strict=True):
                close(y, reference, where=f"{kinds} {shape} {taps} {poles} {axis}")


def test_lfilter_with_lists_and_numbers(rng):
    @numba.njit
    def smooth(x):  # type: ignore[no-untyped-def]
        return scipy.signal.lfilter([0.5, 0.5], 1.0, x), scipy.signal.lfilter((1.0, 2.0, 1.0), [2.0, 0.5], x[:, ::2], 0)

    x = fill((5, 8), "d", rng, "signed")
    close(smooth(x), (scipy.signal.lfilter([0.5, 0.5], 1.0, x), scipy.signal.lfilter((1.0, 2.0, 1.0), [2.0, 0.5], x[:, ::2], 0)))


@numba.njit
def sectioned(sos, x, axis, zi):  # type: ignore[no-untyped-def]
    return scipy.signal.sosfilt(sos, x, axis), scipy.signal.sosfilt(sos, x, axis=axis, zi=zi)


@numba.njit
def both_ways(b, a, sos, x, axis, padtype, padlen):  # type: ignore[no-untyped-def]
    return (
        scipy.signal.filtfilt(b, a, x, axis, padtype, padlen),
        scipy.signal.sosfiltfilt(sos, x, axis, padtype, padlen),
        scipy.signal.filtfilt(b, a, x, axis=axis),
        scipy.signal.sosfiltfilt(sos, x, axis, padtype=None),
    )


@pytest.mark.parametrize("kinds", ["dd", "ff", "dD"])
def test_sections_and_both_ways(kinds, rng):
    sos, (b, a) = scipy.signal.butter(5, 0.3, output="sos").astype(kinds[0]), [part.astype(kinds[0]) for part in scipy.signal.butter(3, 0.3)]
    for shape in SHAPES:
        x = fill(shape, kinds[1], rng, "signed")
        for axis in range(-len(shape), len(shape)):
            if shape[axis] < 20:
                continue
            state = list(shape)
            state[axis] = 2
            zi = fill((len(sos), *state), np.result_type(*kinds), rng, "signed")
            before = zi.copy()
            for y, reference in zip(
                sectioned(sos, x, axis, zi), (scipy.signal.sosfilt(sos, x, axis), scipy.signal.sosfilt(sos, x, axis=axis, zi=zi)), strict=True
            ):
                close(y, reference)
            np.testing.assert_array_equal(zi, before)
            for padtype, padlen in itertools.product(("odd", "even", "constant"), (0, 7)):
                expected = (
                    scipy.signal.filtfilt(b, a, x, axis, padtype, padlen),
                    scipy.signal.sosfiltfilt(sos, x, axis, padtype, padlen),
                    scipy.signal.filtfilt(b, a, x, axis=axis),
                    scipy.signal.sosfiltfilt(sos, x, axis, padtype=None),
                )
                for y, reference in zip(both_ways(b, a, sos, x, axis, padtype, padlen), expected, strict=True):
                    close(y, reference, 1000, f"{kinds} {shape} {axis} {padtype} {padlen}")


@pytest.mark.parametrize(("kinds", "shape"), [("dD", SHAPES[1]), ("ff", SHAPES[0])])
def test_both_ways_by_gust(kinds, shape, rng):
    def run(b, a, x, axis, method, irlen):  # type: ignore[no-untyped-def]
        return scipy.signal.filtfilt(b, a, x, axis, method=method), scipy.signal.filtfilt(b, a, x, axis, method="gust", irlen=irlen)

    compiled, x = numba.njit(run), fill(shape, kinds[1], rng, "signed")
    for b, a in (scipy.signal.butter(3, 0.3), ([1.0, 2.0, 0.5], [2.0]), ([3.0, 1.0], [2.0, 1.0]), ([3.0], [2.0])):
        b, a = np.array(b, kinds[0]), np.array(a, kinds[0])
        for axis, (method, irlen) in itertools.product((-1, 0) if len(shape) == 1 else (1, -2), (("gust", 11), ("pad", 30))):
            if b.size > 1 or method == "gust":
                for y, reference in zip(compiled(b, a, x, axis, method, irlen), run(b, a, x, axis, method, irlen), strict=True):
                    close(y, reference, 1e5, f"{kinds} {b} {a} {shape} {axis} {method} {irlen}")


def test_filters_refuse_what_they_cannot_do(rng):
    x, sos = np.ones(30), scipy.signal.butter(5, 0.3, output="sos")
    refused(lambda x: scipy.signal.lfilter([1, 2], [1], x), np.arange(5), match="b, a and x must be of a floating dtype")
    refused(lambda x: scipy.signal.lfilter(x, x, x, zi=3.0), x, match="zi must be an array of numbers")
    refused(lambda x: scipy.signal.filtfilt(x, x, x, padlen=2.5), x, match="padlen must be None or an integer")
    refused(lambda x: scipy.signal.filtfilt(x, x, x, irlen=2.5), x, match="irlen must be None or an integer")
    refused(lambda x: scipy.signal.filtfilt(1j * x, x, x, method="gust"), x, match="b and a must be of real numbers for method .gust.")
    refused(lambda x: scipy.signal.lfilter(x, x, x, axis=0.0), x, match="axis must be an integer")
    refused(lambda x: scipy.signal.sosfilt(x, x), x, match="sos must be an array of 2 axes")
    for message, call in (
        (r"a\[0\] must not be 0", lambda: once(x[:2], 0 * x[:2], x, 0, x[:1])),
        ("Unexpected shape for parameter zi", lambda: once(x[:3], x[:3], x, 0, x[:3])),
        ("axis is out of bounds", lambda: once(x[:2], x[:2], x, 1, x[:1])),
        ("should be all ones", lambda: sectioned(2 * sos, x, 0, np.zeros((3, 2)))),
        ("Invalid zi shape", lambda: sectioned(sos, x, 0, np.zeros((3, 3)))),
        ("at least 2 coefficients", lambda: both_ways(x[:1], x[:1], sos, x, 0, "odd", 0)),
        ("must not be negative", lambda: both_ways(x[:3], x[:3], sos, x, 0, "odd", -1)),
        ("greater than padlen", lambda: both_ways(x[:3], x[:3], sos, x, 0, "odd", 30)),
        ("padtype must be one of", lambda: both_ways(x[:3], x[:3], sos, x, 0, "add", 3)),
        ("method must be one of", lambda: numba.njit(lambda x: scipy.signal.filtfilt(x, x, x, method="fast"))(x)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


UPFIRDN_MODES = ("constant", "symmetric", "reflect", "edge", "wrap", "smooth", "line", "antisymmetric", "antireflect")


@numba.njit
def resampled(h, x, up, down, axis, mode, cval):  # type: ignore[no-untyped-def]
    return scipy.signal.upfirdn(h, x, up, down, axis, mode, cval)


@pytest.mark.parametrize("kinds", ["ff", "dD", "id"])
def test_upfirdn(kinds, rng):
    rates, sizes = ((1, 1), (2, 1), (1, 3), (3, 2), (7, 5), (40, 37)), ((1, 5), (3, 3), (7, 6), (50, 9))
    for (up, down), mode, (taps, size) in itertools.product(rates, UPFIRDN_MODES, sizes):
        h, x = fill((taps,), kinds[0], rng, "signed"), fill((size,), kinds[1], rng, "signed")
        expected = scipy.signal.upfirdn(h, x, up, down, -1, mode, 0.5)
        close(resampled(h, x, up, down, -1, mode, 0.5), expected, 16 * (taps + 4), f"{up} {down} {mode} {taps} {size}")
    along = numba.njit(lambda h, x, axis: scipy.signal.upfirdn(h, x[::-1], 3, axis=axis))
    for axis in range(-3, 3):
        h, x = fill((7,), kinds[0], rng, "signed"), fill((3, 8, 4), kinds[1], rng, "signed")
        close(along(h, x, axis), scipy.signal.upfirdn(h, x[::-1], 3, axis=axis))


@numba.njit
def resampled_poly(x, up, down, axis, padtype, window):  # type: ignore[no-untyped-def]
    return (
        scipy.signal.resample_poly(x, up, down),
        scipy.signal.resample_poly(x, up, down, axis, padtype=padtype),
        scipy.signal.resample_poly(x, up, down, axis, window, padtype),
        scipy.signal.resample_poly(x, up, down, window=("kaiser", 8.0), cval=2.0),
    )


@pytest.mark.parametrize("kind", ["f", "d", "D", "h"])
def test_resample_poly(kind, rng):
    for shape, (up, down) in itertools.product(((30,), (5, 31)), ((3, 2), (2, 4), (1, 7), (160, 147))):
        x, window = fill(shape, kind, rng, "signed"), fill((21,), "f" if kind == "f" else "d", rng, "signed")
        padtypes = ("constant", "line", "edge", "mean", "median", "maximum") if kind == "D" else ("symmetric", "mean", "median", "minimum", "maximum")
        for axis, padtype in itertools.product((0, -1), padtypes):
            expected = (
                scipy.signal.resample_poly(x, up, down),
                scipy.signal.resample_poly(x, up, down, axis, padtype=padtype),
                scipy.signal.resample_poly(x, up, down, axis, window, padtype),
                scipy.signal.resample_poly(x, up, down, window=("kaiser", 8.0), cval=2.0),
            )
            for y, reference in zip(resampled_poly(x, up, down, axis, padtype, window), expected, strict=True):
                close(y, reference, 5000, f"{shape} {up} {down} {axis} {padtype}")
    x = fill((9,), "d", rng)
    np.testing.assert_array_equal(numba.njit(lambda x: scipy.signal.resample_poly(x, 3, 3))(x), x)


@pytest.mark.parametrize("kind", ["d", "F"])
def test_windows_of_resample_poly(kind, rng):
    compiled = numba.njit(lambda x, window: scipy.signal.resample_poly(x, 3, 2, window=window, padtype="minimum"))
    x = fill((15,), kind, rng, "signed")
    windows = (*ALONE, 5, 8.5, *((name, 0.7) for name in WITH_ONE), *((name, 1.5, 9.0) for name in WITH_TWO), ("exponential", None, 3.5))
    for window in (*windows, ("tukey", 2.0), ("tukey", -1.0)) if kind == "d" else ("hann", ("gaussian", 9)):
        close(compiled(x, window), compiled.py_func(x, window), 500, str(window))
    literal = numba.njit(lambda x: (scipy.signal.resample_poly(x, 3, 2, window="hann"), scipy.signal.resample_poly(x, 3, 2, window=("kaiser", 4))))
    close(literal(x), literal.py_func(x), 500)


@numba.njit
def smoothed(x, window, order, deriv, axis, mode):  # type: ignore[no-untyped-def]
    return scipy.signal.savgol_filter(x, window, order, deriv, 0.5, axis, mode, 1.5)


@pytest.mark.parametrize("kind", ["f", "d", "i"])
def test_savgol_filter(kind, rng):
    x = fill((4, 23, 3), kind, rng, "signed")
    for (window, order, deriv), axis, mode in itertools.product(
        ((5, 2, 0), (7, 3, 1), (9, 4, 2), (6, 2, 1), (1, 0, 0), (5, 1, 3)), (1, -2), ("interp", "mirror", "constant", "nearest", "wrap")
    ):
        close(
            smoothed(x, window, order, deriv, axis, mode), scipy.signal.savgol_filter(x, window, order, deriv, 0.5, axis, mode, 1.5), 5000,
            f"{window} {order} {deriv} {mode}",
        )  # fmt: skip


def test_savgol_coeffs():
    @numba.njit
    def both(window, order, deriv, pos, use):  # type: ignore[no-untyped-def]
        return scipy.signal.savgol_coeffs(window, order), scipy.signal.savgol_coeffs(window, order, deriv, 0.25, pos, use)

    for window, order, deriv, pos, use in itertools.product((5, 9, 12), (0, 2, 4), (0, 1, 2), (0, 3), ("conv", "dot")):
        first, second = both(window, order, deriv, pos, use)
        close(first, scipy.signal.savgol_coeffs(window, order), 500)
        close(second, scipy.signal.savgol_coeffs(window, order, deriv, 0.25, pos, use), 5000, f"{window} {order} {deriv} {pos} {use}")


@pytest.mark.parametrize("kinds", ["dd", "fF", "id"])
def test_deconvolve(kinds, rng):
    divide = numba.njit(lambda a, b: scipy.signal.deconvolve(a, b))
    for n, m in ((9, 3), (5, 5), (7, 1)):
        signal, divisor = fill((n,), kinds[0], rng, "signed"), fill((m,), kinds[1], rng, "signed")
        divisor[0] = 4
        close(divide(signal, divisor), scipy.signal.deconvolve(signal, divisor))
    quotient, rest = divide(np.arange(1.0, 3.0), np.ones(5))
    assert quotient.size == 0 and rest.tolist() == [1, 2]


def test_resampling_and_smoothing_refuse_what_they_cannot_do():
    x = np.ones(9)
    refused(lambda x: scipy.signal.upfirdn(x, x, 1.5), x, match="up must be an integer")
    refused(lambda x: scipy.signal.upfirdn(x, x, cval=1j), x, match="cval must be a real number")
    refused(lambda x: scipy.signal.resample_poly(x, 2, 1, window=("hann",)), x, match="window must be taps, a number, the name of a window, or")
    refused(lambda x: scipy.signal.resample_poly(x, 2, 1, cval=1j), x, match="cval must be a real number")
    refused(lambda x: scipy.signal.resample_poly(x, 2, 1, axis=None), x, match="axis must be an integer")
    refused(lambda x: scipy.signal.savgol_filter(x, 5, 2, delta="1"), x, match="delta must be a number")
    refused(lambda x: scipy.signal.savgol_filter(x, 5.0, 2), x, match="window_length must be an integer")
    refused(lambda x: scipy.signal.savgol_filter(x, 5, 2), 1j * x, match="x must be an array of real numbers")
    for message, call in (
        ("up and down must be >= 1", lambda: resampled(x, x, 0, 1, 0, "wrap", 0.0)),
        ("mode must be one of", lambda: resampled(x, x, 1, 1, 0, "bend", 0.0)),
        ("cval has no effect", lambda: numba.njit(lambda x: scipy.signal.resample_poly(x, 2, 1, padtype="mean", cval=1.0))(x)),
        ("window must be one of", lambda: numba.njit(lambda x: scipy.signal.resample_poly(x, 2, 1, window="kaiser"))(x)),
        ("padtype must be one of", lambda: resampled_poly(x, 2, 1, 0, "add", x)),
        ("polyorder must be less than window_length", lambda: smoothed(x, 5, 5, 0, 0, "wrap")),
        ("window_length must be less than or equal to the size", lambda: smoothed(x, 11, 5, 0, 0, "interp")),
        ("must not be 0", lambda: numba.njit(lambda x: scipy.signal.deconvolve(x, 0 * x))(x)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
