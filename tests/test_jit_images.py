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


@pytest.mark.parametrize("kinds", ["fd", "dd", "Df", "Bd"])
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


def test_what_is_not_supported_says_so():
    x = np.ones((5, 5))
    refused(lambda a: scipy.signal.convolve2d(a, a[0]), x, match="in2 must be an array of 2 axes")
    refused(lambda a: scipy.signal.convolve2d(a, a, fillvalue=1j), x, match="fillvalue must be a real number")
    refused(lambda a: scipy.ndimage.correlate(a, a[0]), x, match="weights must be an array of as many axes as input")
    refused(lambda a: scipy.ndimage.correlate(a, a, axes=(0, 1)), x, match="axes must be None")
    refused(lambda a: scipy.ndimage.correlate(a, a, output=3.0), x, match="output must be None, an array or a dtype")
    refused(lambda a: scipy.ndimage.gaussian_filter1d(a, 1.0, radius=1.5), x, match="radius must be None or an integer")
    with pytest.raises(ValueError, match="boundary must be one of"):
        both(x, x, "full", "mirror", 0)
    with pytest.raises(ValueError, match="invalid origin"):
        filtered(x, x, "wrap", 0.0, 3)
    with pytest.raises(ValueError, match="axis is out of bounds"):
        filtered_along(x, x[0], 2, "wrap", 0.0, 0)
