"""Convolutions in nopython code beside SciPy's in the interpreter: one body for both, over modes, methods, dtypes, shapes and memory layouts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
import scipy.signal
from cases import fill
from numba import prange
from numba.core.errors import TypingError
from tolerance import allowed, norms

import numbaconv.jit  # noqa: F401

MODES = ("full", "same", "valid")
SHAPES_1D = (((7,), (3,)), ((3,), (7,)), ((4,), (4,)), ((1,), (1,)), ((50,), (16,)), ((300,), (33,)), ((33,), (300,)), ((2500,), (1100,)))
SHAPES_2D = (((5, 6), (3, 2)), ((3, 2), (5, 6)), ((4, 4), (4, 4)), ((20, 33), (6, 9)), ((70, 50), (30, 21)))
SHAPES_3D = (((4, 5, 6), (2, 3, 3)), ((12, 9, 20), (5, 4, 7)))


def same(found: Any, expected: Any, in1: Any, in2: Any, algorithm: str = "direct", where: str = "") -> None:
    """Assert equal dtypes, shapes and values, to the rounding of a sum or of a transform."""
    assert found.dtype == expected.dtype and found.shape == expected.shape, f"{where}: {found.dtype} {found.shape}"
    dtype = expected.dtype
    if dtype.kind in "biu":
        np.testing.assert_array_equal(found, expected, err_msg=where)
        return
    terms = min(in1.size, in2.size)
    size = float(np.abs(in1.astype(complex)).max() * np.abs(in2.astype(complex)).max() * terms)
    bound = allowed(np.full(expected.shape, size), dtype, terms, algorithm, norms=norms(in1, in2)) + 4 * np.finfo(dtype).eps * norms(in1, in2)
    assert np.all(np.abs(found - expected) <= bound), f"{where}: {np.max(np.abs(found - expected) / bound)}"


def valid(in1: Any, in2: Any) -> bool:
    return all(a >= b for a, b in zip(in1.shape, in2.shape, strict=True)) or all(a <= b for a, b in zip(in1.shape, in2.shape, strict=True))


def cases(shapes: Any, first: str, second: str, rng: np.random.Generator) -> Iterator[tuple[Any, Any, str]]:
    for (shape1, shape2), mode in itertools.product(shapes, MODES):
        in1, in2 = fill(shape1, first, rng, "signed"), fill(shape2, second, rng, "signed")
        if mode != "valid" or valid(in1, in2):
            yield in1, in2, mode


@numba.njit
def convolve(in1, in2, mode, method):  # type: ignore[no-untyped-def]
    return scipy.signal.convolve(in1, in2, mode, method)


@numba.njit
def correlate(in1, in2, mode, method):  # type: ignore[no-untyped-def]
    return scipy.signal.correlate(in1, in2, mode=mode, method=method)


@pytest.mark.parametrize("kinds", ["dd", "fd", "ff", "FF", "DD", "dD", "ii", "bb", "HI", "?f", "lf"])
def test_convolve_and_correlate(kinds, rng):
    for in1, in2, mode in cases(SHAPES_1D, *kinds, rng):
        for method, (name, function) in itertools.product(("auto", "direct", "fft"), (("convolve", convolve), ("correlate", correlate))):
            expected = getattr(scipy.signal, name)(in1, in2, mode, "direct")
            same(function(in1, in2, mode, method), expected, in1, in2, where=f"{name} {in1.shape} {in2.shape} {mode} {method}")


@pytest.mark.parametrize("kinds", ["ff", "DD"])
@pytest.mark.parametrize("shapes", [SHAPES_2D, SHAPES_3D], ids=["2d", "3d"])
def test_several_axes(kinds, shapes, rng):
    for in1, in2, mode in cases(shapes, *kinds, rng):
        for method, (name, function) in itertools.product(("auto", "direct", "fft"), (("convolve", convolve), ("correlate", correlate))):
            expected = getattr(scipy.signal, name)(in1, in2, mode, "direct")
            same(function(in1, in2, mode, method), expected, in1, in2, where=f"{name} {in1.shape} {in2.shape} {mode} {method}")


@numba.njit
def defaults(in1, in2):  # type: ignore[no-untyped-def]
    return scipy.signal.convolve(in1, in2), scipy.signal.correlate(in1, in2, "same", "direct"), scipy.signal.oaconvolve(in1, in2, mode="valid")


def test_defaults_and_literals_in_every_layout(rng):
    in1, in2 = fill((40, 30), "d", rng, "signed"), fill((6, 7), "d", rng, "signed")
    read_only = in2.copy()
    read_only.flags.writeable = False
    for a, b in ((in1, in2), (in1.T, in2), (in1[::-2, ::3], np.asfortranarray(in2)), (in1, read_only)):
        full, middle, inner = defaults(a, b)
        same(full, scipy.signal.convolve(a, b, method="direct"), a, b)
        same(middle, scipy.signal.correlate(a, b, "same", "direct"), a, b)
        same(inner, scipy.signal.convolve(a, b, "valid", "direct"), a, b)


@numba.njit
def transformed(in1, in2, mode):  # type: ignore[no-untyped-def]
    return scipy.signal.fftconvolve(in1, in2, mode)


@pytest.mark.parametrize("kinds", ["ff", "dD", "ii", "??"])
def test_fftconvolve(kinds, rng):
    for in1, in2, mode in cases(SHAPES_1D, *kinds, rng):
        expected = scipy.signal.fftconvolve(in1, in2, mode)
        if in1.size > 1:  # the product of two single integers stays one
            same(transformed(in1, in2, mode), expected, in1, in2, "fft", where=f"{in1.shape} {in2.shape} {mode}")


def test_axes_of_one_element_are_no_reason_to_refuse_valid(rng):
    for shape1, shape2 in (((4, 3), (1, 5)), ((4, 1), (2, 3))):
        in1, in2 = fill(shape1, "d", rng, "signed"), fill(shape2, "d", rng, "signed")
        same(transformed(in1, in2, "valid"), scipy.signal.fftconvolve(in1, in2, "valid"), in1, in2, "fft")


def test_fftconvolve_over_some_axes(rng):
    one = numba.njit(lambda a, b, mode, axes: scipy.signal.fftconvolve(a, b, mode, axes))
    two = numba.njit(lambda a, b, mode: scipy.signal.oaconvolve(a, b, mode, axes=(0, -1)))
    for (shape1, shape2), mode in itertools.product((((3, 9, 4), (3, 4, 4)), ((1, 4, 5), (2, 6, 1)), ((2, 5, 1), (2, 5, 3))), MODES):
        in1, in2 = fill(shape1, "d", rng, "signed"), fill(shape2, "d", rng, "signed")
        same(one(in1, in2, mode, 1), scipy.signal.fftconvolve(in1, in2, mode, 1), in1, in2, "fft")
        same(one(in1, in2, mode, -2), scipy.signal.fftconvolve(in1, in2, mode, -2), in1, in2, "fft")
    in1, in2 = fill((5, 3, 6), "d", rng, "signed"), fill((4, 1, 2), "d", rng, "signed")
    for mode in MODES:
        same(two(in1, in2, mode), scipy.signal.oaconvolve(in1, in2, mode, axes=(0, -1)), in1, in2, "fft")
    with pytest.raises(ValueError, match="axes exceeds"):
        one(in1, in2, "full", 3)
    with pytest.raises(ValueError, match="incompatible shapes"):
        one(in1, in2, "full", 1)


def test_auto_sums_where_transforms_would_spread_what_is_not_finite(rng):
    in1, in2 = fill((5000,), "d", rng, "signed"), fill((1500,), "d", rng, "signed")
    in1[4000] = np.nan
    found = convolve(in1, in2, "full", "auto")
    np.testing.assert_array_equal(np.isnan(found), np.isnan(np.convolve(in1, in2)))
    assert np.isnan(convolve(in1, in2, "full", "fft")[:4000]).any()


def test_lags():
    @numba.njit
    def lags(n, m, mode):  # type: ignore[no-untyped-def]
        return scipy.signal.correlation_lags(n, m, mode), scipy.signal.correlation_lags(n, m)

    for n, m, mode in itertools.product(range(1, 7), range(1, 7), MODES):
        found, full = lags(n, m, mode)
        np.testing.assert_array_equal(found, scipy.signal.correlation_lags(n, m, mode), err_msg=f"{n} {m} {mode}")
        np.testing.assert_array_equal(full, scipy.signal.correlation_lags(n, m))


def test_lists_and_tuples():
    @numba.njit
    def smooth(x):  # type: ignore[no-untyped-def]
        return (
            scipy.signal.convolve(x, (1.0, 2.0, 1.0), "same"),
            scipy.signal.convolve(x, [1, 2], "valid"),
            scipy.signal.correlate((1, 2.5), x),
        )

    first, second, third = smooth(np.arange(5.0))
    np.testing.assert_array_equal(third, np.correlate((1, 2.5), np.arange(5.0), "full"))
    np.testing.assert_array_equal(first, np.convolve(np.arange(5.0), [1, 2, 1], "same"))
    np.testing.assert_array_equal(second, np.convolve(np.arange(5.0), [1, 2], "valid"))


def test_in_a_parallel_loop_over_signals(rng):
    @numba.njit(parallel=True)
    def all_of(signals, taps):  # type: ignore[no-untyped-def]
        out = np.empty_like(signals)
        for i in prange(len(signals)):
            out[i] = scipy.signal.convolve(signals[i], taps, mode="same")
        return out

    signals, taps = fill((1000, 256), "d", rng, "signed"), fill((31,), "d", rng, "signed")
    found = all_of(signals, taps)
    for x, y in zip(signals, found, strict=True):
        same(y, np.convolve(x, taps, "same"), x, taps)


def refused(function: Callable[..., Any], *arguments: Any, match: str) -> None:
    with pytest.raises(TypingError, match=match):
        numba.njit(function)(*arguments)


def test_what_is_not_supported_says_so():
    x = np.ones(5)
    refused(lambda a: scipy.signal.convolve(a, a, 3), x, match="mode must be")
    refused(lambda a, b: scipy.signal.convolve(a, b), x, np.ones((2, 2)), match="in2 must be an array of as many axes as in1")
    refused(lambda a: scipy.signal.convolve(a, 2.0), x, match="in2 must be an array of numbers")
    refused(lambda a: scipy.signal.convolve(a, a), x > 0, match="two boolean arrays")
    refused(lambda a: scipy.signal.fftconvolve(a, a, axes=0.5), x, match="axes must be None, an integer, or a tuple")
    refused(lambda a: scipy.signal.convolve(a, a), np.ones(5, np.float16), match="in1 must be an array of float32 or float64")
    refused(lambda a: scipy.signal.correlation_lags(a, 3), x, match="in1_len must be an integer")


def test_errors_at_run_time():
    x = np.ones((3, 4))
    with pytest.raises(ValueError, match=r"mode must be one of \('full', 'same', 'valid'\)"):
        convolve(x, x, "middle", "auto")
    with pytest.raises(ValueError, match="mode must be one of"):
        numba.njit(lambda a: scipy.signal.convolve(a, a, "middle"))(x)
    with pytest.raises(ValueError, match="method must be one of"):
        convolve(x, x, "full", "slow")
    with pytest.raises(ValueError, match="For 'valid' mode, one must be at least as large"):
        convolve(x, np.ones((4, 3)), "valid", "auto")
    with pytest.raises(ValueError, match="must not be empty"):
        convolve(x, x[:0], "full", "auto")


def test_accelerated_numpy(rng):
    numbaconv.jit.accelerate_numpy()

    @numba.njit
    def both(a, v, mode):  # type: ignore[no-untyped-def]
        return np.convolve(a, v, mode), np.correlate(a, v, mode), np.convolve(a, v), np.correlate(a, v)

    for kinds in ("ff", "dD", "bh"):
        for (shape1, shape2), mode in itertools.product(SHAPES_1D, MODES):
            a, v = fill(shape1, kinds[0], rng, "signed"), fill(shape2, kinds[1], rng, "signed")
            found = both(a, v, mode)
            expected = np.convolve(a, v, mode), np.correlate(a, v, mode), np.convolve(a, v), np.correlate(a, v)
            for y, reference in zip(found, expected, strict=True):
                same(y, reference, a, v, where=f"{kinds} {shape1} {shape2} {mode}")
