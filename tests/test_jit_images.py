"""convolve2d, correlate2d and scipy.ndimage's filters in nopython code beside SciPy's in the interpreter."""

from __future__ import annotations

import itertools

import numba
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from cases import fill
from test_jit import SHAPES_2D, cases, refused, same

EDGES = ("reflect", "constant", "nearest", "mirror", "wrap", "grid-mirror", "grid-constant", "grid-wrap")


@numba.njit
def both(in1, in2, mode, boundary, fillvalue):  # type: ignore[no-untyped-def]
    return scipy.signal.convolve2d(in1, in2, mode, boundary, fillvalue), scipy.signal.correlate2d(in1, in2, mode, boundary, fillvalue)


@pytest.mark.parametrize("kinds", ["dd", "fF", "DD", "ib"])
def test_two_axes(kinds, rng):
    for in1, in2, mode in cases((*SHAPES_2D, ((2, 9), (5, 1))), *kinds, rng):
        for boundary, value in (("fill", 0), ("fill", 3), ("wrap", 0), ("symm", 0), ("circular", 1), ("symmetric", 0)):
            expected = [f(in1, in2, mode, boundary, value) for f in (scipy.signal.convolve2d, scipy.signal.correlate2d)]
            for found, reference in zip(both(in1, in2, mode, boundary, value), expected, strict=True):
                same(found, reference, np.append(in1.ravel(), value), in2, where=f"{in1.shape} {in2.shape} {mode} {boundary} {value}")


def test_two_axes_by_default(rng):
    @numba.njit
    def edges(x, h):  # type: ignore[no-untyped-def]
        return scipy.signal.convolve2d(x, h, boundary="symm", mode="same"), scipy.signal.correlate2d(x, h)

    x, h = fill((6, 9), "f", rng, "signed"), fill((3, 2), "f", rng, "signed")
    first, second = edges(x[:, ::2], h.T)
    same(first, scipy.signal.convolve2d(x[:, ::2], h.T, boundary="symm", mode="same"), x, h)
    same(second, scipy.signal.correlate2d(x[:, ::2], h.T), x, h)


@numba.njit
def filtered(x, w, mode, cval, origin):  # type: ignore[no-untyped-def]
    return scipy.ndimage.correlate(x, w, None, mode, cval, origin), scipy.ndimage.convolve(x, w, mode=mode, cval=cval, origin=origin)


@numba.njit
def filtered_along(x, w, axis, mode, cval, origin):  # type: ignore[no-untyped-def]
    return (
        scipy.ndimage.correlate1d(x, w, axis, None, mode, cval, origin),
        scipy.ndimage.convolve1d(x, w, axis, mode=mode, cval=cval, origin=origin),
    )


@pytest.mark.parametrize("kinds", ["fd", "dd", "Df", "Bd", "?d"])
def test_filters_over_all_axes(kinds, rng):
    for shape, taps in (((7, 9), (3, 3)), ((7, 9), (2, 4)), ((3, 2), (5, 7)), ((1, 1), (1, 2))):
        x, w = fill(shape, kinds[0], rng, "signed"), fill(taps, kinds[1], rng, "signed")
        for mode, origin in itertools.product(EDGES, (0, -1) if min(taps) > 1 else (0,)):
            where = f"{shape} {taps} {mode} {origin}"
            expected = [f(x, w, None, mode, 2.0, origin) for f in (scipy.ndimage.correlate, scipy.ndimage.convolve)]
            for found, reference in zip(filtered(x, w, mode, 2.0, origin), expected, strict=True):
                same(found, reference, np.append(x.ravel(), 2), w, where=where)


@pytest.mark.parametrize("kinds", ["fd", "dD", "hd"])
def test_filters_along_an_axis(kinds, rng):
    for shape, taps in (((5, 8, 3), 3), ((5, 8, 3), 4), ((2, 3, 1), 9)):
        x, w = fill(shape, kinds[0], rng, "signed"), fill((taps,), kinds[1], rng, "signed")
        for mode, axis, origin in itertools.product(EDGES, (0, 1, -1), (0, 1)):
            expected = [f(x, w, axis, None, mode, 2.0, origin) for f in (scipy.ndimage.correlate1d, scipy.ndimage.convolve1d)]
            for found, reference in zip(filtered_along(x, w, axis, mode, 2.0, origin), expected, strict=True):
                same(found, reference, np.append(x.ravel(), 2), w, where=f"{shape} {taps} {mode} {axis} {origin}")


def test_filters_by_default_and_into_an_output(rng):
    @numba.njit
    def filters(x, w, out):  # type: ignore[no-untyped-def]
        scipy.ndimage.convolve(x, w, output=out)
        return scipy.ndimage.correlate(x, w), scipy.ndimage.correlate(x, w, output=np.int32), scipy.ndimage.convolve1d(x, w[0])

    x, w = fill((9, 8), "d", rng, "signed"), fill((3, 3), "d", rng, "signed")
    out = np.zeros((8, 9), np.float32)
    found = filters(x, w, out.T)
    expected = scipy.ndimage.correlate(x, w), scipy.ndimage.correlate(x, w, output=np.int32), scipy.ndimage.convolve1d(x, w[0])
    for y, reference in zip(found, expected, strict=True):
        same(y, reference, x, w)
    same(out.T, scipy.ndimage.convolve(x, w, output=np.float32), x, w)


@numba.njit
def gaussians(x, sigma, order, mode, axis):  # type: ignore[no-untyped-def]
    return (
        scipy.ndimage.gaussian_filter1d(x, sigma, axis, order, mode=mode),
        scipy.ndimage.gaussian_filter1d(x, sigma, axis, order, None, mode, 1.0, 2.5),
        scipy.ndimage.gaussian_filter(x, sigma, order, None, mode, 1.0),
        scipy.ndimage.gaussian_filter(x, (sigma, 0.0), (order, 0), mode=mode),
        scipy.ndimage.gaussian_filter1d(x, sigma, radius=3),
    )


@pytest.mark.parametrize("kind", ["f", "d", "D", "i"])
def test_gaussians(kind, rng):
    x = fill((12, 17), kind, rng, "signed") * 100
    x = x.astype(kind)
    for sigma, order, mode, axis in itertools.product((0.4, 2.0), (0, 1, 3), ("reflect", "constant", "wrap"), (0, -1)):
        expected = (
            scipy.ndimage.gaussian_filter1d(x, sigma, axis, order, mode=mode),
            scipy.ndimage.gaussian_filter1d(x, sigma, axis, order, None, mode, 1.0, 2.5),
            scipy.ndimage.gaussian_filter(x, sigma, order, None, mode, 1.0),
            scipy.ndimage.gaussian_filter(x, (sigma, 0.0), (order, 0), mode=mode),
            scipy.ndimage.gaussian_filter1d(x, sigma, radius=3),
        )
        for found, reference in zip(gaussians(x, sigma, order, mode, axis), expected, strict=True):
            same(found, reference, x, np.full(17, 10.0), where=f"{sigma} {order} {mode} {axis}")


@numba.njit
def over_some(x, w, v, axes, origin, mode, sigma, modes, radius):  # type: ignore[no-untyped-def]
    return (
        scipy.ndimage.correlate(x, w, mode=mode, origin=origin, axes=axes),
        scipy.ndimage.convolve(x, w, None, mode, 1.0, origin, axes=axes),
        scipy.ndimage.convolve(x, v, "float32", mode, axes=1),
        scipy.ndimage.correlate(x, w, axes=[-1, 0]),
        scipy.ndimage.gaussian_filter(x, sigma, mode=modes, axes=axes),
        scipy.ndimage.gaussian_filter(x, (1.5, 1), (0, 1), None, ("wrap", "nearest"), 0.0, 3, radius=radius, axes=axes),
        scipy.ndimage.gaussian_filter(x, np.array([0.7, 2.0]), mode=["wrap", "mirror"], output=float, radius=[2, 3], axes=[1, 0]),
    )


def test_filters_over_some_axes(rng):
    x, w, v = fill((6, 7, 5), "d", rng, "signed"), fill((3, 4), "d", rng, "signed"), fill((3,), "d", rng, "signed")
    for axes, origin, mode in itertools.product(((0, 2), (2, 0), (-2, 0)), ((0, 0), (-1, 1)), ("reflect", "constant")):
        arguments = x, w, v, axes, origin, mode, (2.0, 0.5), (mode, "mirror"), (4, 2)
        for found, reference in zip(over_some(*arguments), over_some.py_func(*arguments), strict=True):
            same(found, reference, x, np.full(9, 3.0), where=f"{axes} {origin} {mode}")
    x, w = x[:, :, 0], w.T
    every = numba.njit(lambda x, w, axes, origin: scipy.ndimage.correlate(x, w, axes=axes, origin=origin))
    same(every(x, w, (1, 0), (1, 0)), every.py_func(x, w, (1, 0), (1, 0)), x, w)
    for axes, message in (((0, 0), "axes must be unique"), ((0, 2), "axis is out of range")):
        with pytest.raises(ValueError, match=message):
            every(x, w, axes, (0, 0))


def test_what_is_not_supported_says_so():
    x = np.ones((5, 5))
    refused(lambda a: scipy.signal.convolve2d(a, a[0]), x, match="in2 must be an array of 2 axes")
    refused(lambda a: scipy.signal.convolve2d(a, a, fillvalue=1j), x, match="fillvalue must be a real number")
    refused(lambda a: scipy.ndimage.correlate(a, a[0]), x, match="weights must be an array of as many axes as input")
    refused(lambda a: scipy.ndimage.correlate(a, a, axes=1), x, match="weights must be an array of as many axes as axes, 1,")
    refused(lambda a: scipy.ndimage.correlate(a, a, axes=0.5), x, match="axes must be None, an integer or a sequence of integers")
    refused(lambda a: scipy.ndimage.correlate(a, a, output=3.0), x, match="output must be None, an array or a dtype")
    refused(lambda a: scipy.ndimage.correlate(a, a, output=np.complex64), x, match="output must be of a real dtype")
    refused(lambda a: scipy.ndimage.correlate(a, a, cval=1j), x, match="cval must be a real number")
    refused(lambda a: scipy.ndimage.correlate(a, a, origin=0.5), x, match="origin must be an integer, or a sequence of one for each axis")
    refused(lambda a: scipy.ndimage.correlate(a, a, ("wrap", "wrap")), x, match="output must be None")
    refused(lambda a: scipy.ndimage.correlate(a, a, mode=("wrap", "wrap")), x, match="mode must be a string")
    refused(lambda a: scipy.ndimage.convolve1d(a, a[0], 0.5), x, match="axis must be an integer")
    refused(lambda a: scipy.ndimage.gaussian_filter1d(a, 1.0, radius=1.5), x, match="radius must be None or an integer")
    refused(lambda a: scipy.ndimage.gaussian_filter1d(a, (1.0, 1.0)), x, match="sigma must be a number")
    refused(lambda a: scipy.ndimage.gaussian_filter(a, 1.0, truncate="far"), x, match="truncate must be a number")
    refused(lambda a: scipy.ndimage.gaussian_filter(a, 1.0, radius=(1, None)), x, match="radius must be an integer, or a sequence")
    with pytest.raises(ValueError, match="boundary must be one of"):
        both(x, x, "full", "mirror", 0)
    with pytest.raises(ValueError, match="invalid origin"):
        filtered(x, x, "wrap", 0.0, 3)
    with pytest.raises(ValueError, match="axis is out of bounds"):
        filtered_along(x, x[0], 2, "wrap", 0.0, 0)
