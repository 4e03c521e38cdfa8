"""The filters of `signal` against scipy.signal: one body for both, over parameters, modes, dtypes, shapes and axes, errors included."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.signal
from cases import fill
from tolerance import allowed, norms, tolerance

import numbaconv as nc
from numbaconv import signal
from numbaconv.signal import vjp

UPFIRDN_MODES = ("constant", "symmetric", "reflect", "edge", "wrap", "smooth", "line", "antisymmetric", "antireflect")
RATES = ((1, 1), (2, 1), (1, 3), (3, 2), (2, 3), (4, 2), (7, 5), (40, 37))


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a call returns, or the exception that it raises."""
    try:
        with np.errstate(all="ignore"):
            return function(*arguments, **options)
    except Exception as error:
        return error


def same(name: str, *arguments: Any, slack: float = 1.0, **options: Any) -> Any:
    """Assert that both libraries return or raise the same; return what ours did.

    Results may differ by the rounding of a sum of as many terms as the arguments have elements, of the size of the largest result
    or of ``slack``, whichever is larger.
    """
    expected = outcome(getattr(scipy.signal, name), *arguments, **options)
    found = outcome(getattr(signal, name), *arguments, **options)
    where = f"{name} {[getattr(a, 'shape', a) for a in arguments]} {options}"
    if isinstance(expected, Exception):
        assert type(found) is type(expected) and str(found) == str(expected), f"{where}: {found!r} for {expected!r}"
        return found
    assert not isinstance(found, Exception), f"{where}: {found!r}"
    assert isinstance(found, tuple) == isinstance(expected, tuple), where
    terms = max(np.size(a) for a in arguments)
    for y, reference in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        assert type(y) is type(reference) and np.shape(y) == np.shape(reference), where
        if np.size(reference) == 0:
            continue
        assert y.dtype == reference.dtype and y.flags.writeable, f"{where}: {y.dtype} for {reference.dtype}"
        if reference.dtype == object:
            assert y.tolist() == reference.tolist(), where
            continue
        size = max(slack, float(np.max(np.abs(reference))))
        bound = 2 * tolerance(reference.dtype, terms, "direct", positive=True) * size
        np.testing.assert_allclose(y, reference, rtol=0, atol=bound, err_msg=where)
    return found


@pytest.mark.parametrize("mode", UPFIRDN_MODES)
@pytest.mark.parametrize(("up", "down"), RATES)
def test_upfirdn(up, down, mode, rng):
    for dtype, (taps, size) in itertools.product(("float32", "complex128"), ((1, 5), (3, 2), (7, 6), (30, 4), (50, 90))):
        h, x = fill((taps,), dtype, rng, "signed"), fill((size,), dtype, rng, "signed")
        same("upfirdn", h, x, up, down, mode=mode, cval=0.5, slack=float(np.abs(h).sum() * 4 * taps))


@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (3, 20, 2), (2, 20, 11), (5, 1, 3), (0, 6), (2, 3, 2, 9)])
def test_upfirdn_along_any_axis(shape, rng):
    for axis, (up, down), kinds in itertools.product(range(-len(shape), len(shape)), ((1, 1), (1, 2), (3, 2), (40, 37)), ("dd", "dD", "Dd", "fF")):
        h, x = fill((9,), kinds[0], rng, "signed"), fill(shape, kinds[1], rng, "signed")
        if shape[axis]:
            same("upfirdn", h, x, up, down, axis, slack=20)
        x = np.asfortranarray(x)[..., ::-1]
        if shape[axis]:
            same("upfirdn", h, x, up, down, axis, "edge", slack=20)


def test_upfirdn_promotes_as_scipy(rng):
    for first, second in itertools.product("?bBhHiIlLqQefdFD", repeat=2):
        same("upfirdn", fill((3,), first, rng), fill((7,), second, rng), 2, 3)
    same("upfirdn", fill((3,), ">f4", rng), fill((7,), ">i2", rng), 2)


def test_upfirdn_of_an_empty_axis():
    for taps, (up, down), cval in itertools.product((1, 3, 9), ((1, 1), (2, 1), (5, 1), (5, 7)), (0, 3.0)):
        same("upfirdn", np.arange(1.0, taps + 1), np.ones((2, 0)), up, down, cval=cval)
    with pytest.raises(ValueError, match="an empty axis cannot be extended by"):
        signal.upfirdn([1.0, 2.0], np.ones(0), mode="line")


def test_upfirdn_refuses_as_scipy():
    ones = np.ones(3)
    for arguments, options in [
        (([], ones), {}), (([[1.0]], ones), {}), ((2.0, ones), {}), ((ones, 5.0), {}), ((ones, ones, 0), {}), ((ones, ones, 1, -1), {}),
        ((ones, ones, "a"), {}), ((ones, ones, 1, None), {}), ((ones, ones), {"axis": 1}), ((ones, ones), {"axis": -2}),
        ((ones, ones), {"axis": 1.5}), ((ones, ones), {"mode": "mirror"}), ((ones, ones), {"mode": 3}), ((ones, ones), {"cval": 2j}),
        ((ones, ones), {"cval": "1"}), ((ones, ones), {"cval": None}), ((ones, ones.astype(object)), {}), ((ones, ones.astype("g")), {}),
        ((ones, ones.astype("U3")), {}), ((ones, ones, 2.7, "3"), {}), ((ones, 1j * ones), {"cval": 3j}), ((ones, ones), {"mode": "EDGE"}),
        ((ones, ones), {"cval": np.float32(2)}), ((ones, ones), {"cval": np.ones(2)}),
    ]:  # fmt: skip
        same("upfirdn", *arguments, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_lfilter_of_finite_responses(dtype, rng):
    for taps, shape, state in itertools.product((1, 2, 9, 40), ((30,), (3, 8), (2, 9, 3), (4, 1)), (False, True)):
        for axis in range(-len(shape), len(shape)):
            b, x = fill((taps,), dtype, rng, "signed"), fill(shape, dtype, rng, "signed")
            full = list(shape)
            full[axis] = taps - 1
            same("lfilter", b, [2.5], x, axis, *([fill(tuple(full), dtype, rng, "signed")] if state else []), slack=10)


def test_lfilter_repeats_a_state_of_one(rng):
    x, b = fill((4, 6, 5), "float64", rng, "signed"), fill((3,), "float64", rng, "signed")
    for shape, axis in (((1, 2, 1), 1), ((4, 2, 1), 1), ((1, 6, 2), 2), ((2, 1, 1), 0), ((2, 6, 5), 0)):
        same("lfilter", b, 1.0, x, axis, zi=fill(shape, "float64", rng, "signed"), slack=10)


def test_lfilter_in_blocks_is_lfilter_of_the_whole(rng):
    b, x = fill((11,), "float64", rng, "signed"), fill((2, 40), "float64", rng, "signed")
    state, blocks = np.zeros((2, 10)), []
    for block in np.split(x, [3, 4, 20, 31], axis=1):
        y, state = signal.lfilter(b, 1, block, zi=state)
        blocks.append(y)
    np.testing.assert_allclose(np.concatenate(blocks, 1), scipy.signal.lfilter(b, 1, x), rtol=0, atol=1e-14)


def test_lfilter_promotes_and_refuses_as_scipy(rng):
    for kinds in itertools.product("?bilefdFDO", repeat=3):
        b, a, x = (fill(n, k, rng) if k != "O" else np.ones(n, object) for n, k in zip(((3,), (1,), (5,)), kinds, strict=True))
        a[:] = 1
        same("lfilter", b, a, x)
    one, x = np.ones(1), np.ones((2, 3))
    for arguments, options in [
        (([], one, x), {}), ((one, [], x), {}), ((np.ones((2, 2)), one, x), {}), ((one, one, 5.0), {}), ((one, one, np.ones(0)), {}),
        ((one, one, np.ones((0, 3))), {}), ((one, one, x, 2), {}), ((one, one, x, -3), {}), ((np.ones(2), [0.0], x), {}),
        ((np.ones(2), one, x), {"zi": [1.0]}), ((np.ones(2), one, x), {"zi": np.ones((2, 2))}), ((np.ones(2), one, x), {"zi": np.ones((3, 1))}),
        ((np.ones(2), one, x), {"zi": np.ones((1, 1)), "axis": 5}), ((one, one, x), {"zi": np.ones((2, 0))}), ((3.0, 2.0, x), {}),
        ((np.ones(2), one, x), {"zi": np.ones((2, 1), "i")}), ((np.ones(2, "f"), np.ones(1, "f"), x.astype("f")), {"zi": np.ones((2, 1))}),
        ((np.ones(2), one, x), {"zi": np.ones((2, 1)) * 1j}), ((np.ones(2), one, x), {"axis": 0.5}), ((np.ones(2), ["a"], x), {}),
        ((np.ones(3), [1.0, 0.5], x), {}), ((np.ones(3), [1.0, 0.5], x), {"zi": np.ones((2, 2))}), ((np.ones(2), [2.0, 0, 0], x), {}),
    ]:  # fmt: skip
        same("lfilter", *arguments, **options)


@pytest.mark.parametrize("padtype", [*UPFIRDN_MODES, "mean", "median", "minimum", "maximum"])
def test_resample_poly(padtype, rng):
    for dtype, (up, down), size in itertools.product(("float32", "float64", "complex128"), ((2, 1), (3, 2), (2, 6), (40, 37)), (2, 7, 40)):
        same("resample_poly", fill((size,), dtype, rng, "signed"), up, down, padtype=padtype, slack=200)
        same("resample_poly", fill((3, size, 2), dtype, rng, "signed"), up, down, 1, padtype=padtype, slack=200)


def test_resample_poly_with_a_window(rng):
    x = fill((20,), "float64", rng, "signed")
    for window in ([1, 2, 1], [1.0, 2.0], np.ones(9, "f"), np.ones(4) * 1j, ("kaiser", 3.0), "hann", np.ones(1, "u1")):
        for up, down in ((3, 1), (1, 2), (3, 2), (5, 5)):
            same("resample_poly", x, up, down, window=window, slack=10)


def test_resample_poly_promotes_and_refuses_as_scipy(rng):
    for kind, padtype in itertools.product("?bBhilefdFD", ("constant", "mean", "median", "minimum", "edge")):
        same("resample_poly", fill((9,), kind, rng), 3, 2, padtype=padtype, slack=10)
    x = np.ones((4, 5))
    for arguments, options in [
        ((x, 2.5, 1), {}), ((x, 2.0, 1), {}), ((x, 0, 1), {}), ((x, "a", 1), {}), ((x, 1, -2), {}), ((x, 2, 1, 2), {}), ((5.0, 2, 1), {}),
        ((x, 2, 1), {"window": [[1.0]]}), ((x, 2, 1), {"window": []}), ((x, 2, 1), {"window": np.array(1.0)}), ((x, 2, 1), {"window": "foo"}),
        ((x, 2, 1), {"window": (1, 2)}), ((x, 300, 1), {"window": np.ones(3, "u1")}), ((x, 2, 1), {"window": np.ones(3, bool)}),
        ((x, 2, 1), {"padtype": "foo"}), ((x, 2, 1), {"padtype": "Wrap"}), ((x, 2, 1), {"padtype": "line", "cval": 1}),
        ((x, 2, 1), {"cval": 2.5}), ((x, 2, 1), {"cval": 1j}), ((x.astype("g"), 2, 1), {}), ((np.ones((0, 3)), 2, 1), {}),
        ((np.ones((3, 0)), 2, 1), {}), ((x, 3, 3, 7), {}), ((x.astype(int), 4, 4), {}), ((np.ones((0, 3)), 2, 1), {"padtype": "minimum"}),
    ]:  # fmt: skip
        same("resample_poly", *arguments, **options)


def test_deconvolve(rng):
    for kinds, (size, taps) in itertools.product(itertools.product("?bilefdFD", repeat=2), ((9, 1), (9, 4), (4, 4), (3, 5))):
        signal, divisor = fill((size,), kinds[0], rng), fill((taps,), kinds[1], rng)
        divisor[0] = 1
        same("deconvolve", signal, divisor, slack=1e5 * (size > taps > 1) + 1)
    for arguments in (([], [1]), ([1], []), ([[1]], [1]), ([1, 2], [[1]]), ([1.0, 2.0], [0.0, 1.0]), (3, 2), (["a"], [1]), (3.0, np.ones((1, 1)))):
        same("deconvolve", *arguments)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_sepfir2d(dtype, rng):
    for shape, row, column in itertools.product(((9, 12), (4, 30), (1, 1)), (1, 3, 5), (1, 3)):
        if shape[1] < row or shape[0] < column:  # SciPy reads beyond its memory
            continue
        same("sepfir2d", fill(shape, dtype, rng, "signed"), fill((row,), dtype, rng, "signed"), fill((column,), dtype, rng, "signed"))


def test_sepfir2d_promotes_and_refuses_as_scipy(rng):
    for kinds in itertools.product("?bhilefdgFDO", repeat=2):
        image, h = (np.ones(s, k) for s, k in zip(((5, 6), (3,)), kinds, strict=True))
        if kinds[0] not in "gO":
            same("sepfir2d", image, h, np.ones(1, kinds[0]))
    image, h = np.ones((5, 6)), np.ones(3)
    for arguments in (
        (image, np.ones(2), h), (image, h, np.ones(4)), (image, [], h), (image[0], h, h), (image[None], h, h), (image, h[None], h),
        (image, 5.0, h), (image.astype("g"), h, h), (image.astype(">f8")[:, ::-1], h, h), (image.tolist(), [1, 2, 1], [1]), ("a", h, h),
    ):  # fmt: skip
        same("sepfir2d", *arguments)


def test_sepfir2d_mirrors_again_and_again():
    x = np.arange(3.0)[None]
    assert signal.sepfir2d(x, np.eye(9)[0], [1.0]).tolist() == [[1.0, 0.0, 0.0]]  # 0 1 2 | 2 1 0 | 0 1 2, four to the right
    assert signal.sepfir2d(np.ones((4, 0)), [1.0, 1.0, 1.0], [1.0]).shape == (4, 0)


@pytest.mark.parametrize("mode", ["interp", "mirror", "constant", "nearest", "wrap"])
def test_savgol_filter(mode, rng):
    slack = 2000 if mode == "interp" else 1000  # of sums of large terms; SciPy's fits of the ends are 4e-12 off on a Zen 5, of 190
    for kind, (window, order, deriv) in itertools.product("dile", ((1, 0, 0), (5, 2, 0), (5, 4, 2), (4, 1, 1), (7, 3, 4), (11, 3, 1))):
        for shape in ((20,), (3, 12), (12, 3), (2, 11, 4)):
            for axis in range(-len(shape), len(shape)):
                x = fill(shape, kind, rng)
                same("savgol_filter", x, window, order, deriv, 0.5, axis, mode, 2.0, slack=slack)


def test_savgol_filter_refuses_as_scipy():
    x = np.ones(9)
    for arguments, options in [
        ((x, 5, 5), {}), ((x, 11, 2), {}), ((x, 11, 2), {"mode": "mirror"}), ((x, 5, 2), {"mode": "reflect"}), ((x, 5, 2), {"axis": 1}),
        ((x, 5, 2, 1, 0.0), {}), ((x, 5, 2, 0, 0.0), {}), ((x, 5.0, 2), {}), ((x, 5, 2.0), {}), ((x, 5, 2.5), {}), ((x, 5, -1), {}), ((x, 0, -1), {}),
        ((x, 5, 2, -1), {}), ((x, 5, 2, 1.0), {}), ((x, 5, 2, 1, "a"), {}), ((x, 5, 2), {"mode": "constant", "cval": 1j}),
        ((x, 5, 2), {"mode": "constant", "cval": "1"}), ((np.float64(3), 1, 0), {}), ((x.astype("g"), 5, 2), {}), ((x.astype(object), 5, 2), {}),
        ((x.astype(">f4"), 5, 2), {}), ((np.ones((20, 0)), 5, 2), {"mode": "wrap", "axis": 0}), ((np.ones((0, 20)), 5, 2), {"mode": "wrap"}),
        ((np.ones((20, 0)), 5, 2), {"mode": "wrap"}), ((x, np.int64(5), 2), {}), (("a", 5, 2), {}),
    ]:  # fmt: skip
        same("savgol_filter", *arguments, **options)


@pytest.mark.parametrize("mode", ["interp", "mirror", "constant", "nearest", "wrap"])
def test_savgol_filter_of_float32_is_as_exact_as_its_samples(mode):
    x = 1000 + np.linspace(0, 1, 500, dtype=np.float32)
    for deriv in (0, 1):
        found = signal.savgol_filter(x, 11, 3, deriv, mode=mode)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, scipy.signal.savgol_filter(x.astype(np.float64), 11, 3, deriv, mode=mode), rtol=1e-6, atol=1e-11)


def test_out(rng):
    h, x = fill((5,), "float64", rng, "signed"), fill((4, 30), "float64", rng, "signed")
    for call, shape in (
        (lambda **o: signal.upfirdn(h, x, 3, 2, **o), (4, 46)),
        (lambda **o: signal.upfirdn(h, x, 40, 37, axis=0, **o), (4, 30)),
        (lambda **o: signal.upfirdn(h, x, mode="wrap", **o), (4, 34)),
        (lambda **o: signal.lfilter(h, 2, x, **o), (4, 30)),
        (lambda **o: signal.lfilter(h, [2, 1], x, **o), (4, 30)),
        (lambda **o: signal.lfilter(h, 2, x, zi=np.ones((4, 4)), **o)[0], (4, 30)),
    ):
        expected = call()
        for order in "CF":
            out = np.full(shape, np.nan, order=order)
            assert call(out=out) is out
            np.testing.assert_array_equal(out, expected)
        with pytest.raises(ValueError, match="out must have shape"):
            call(out=np.empty(3))
        with pytest.raises(TypeError, match="out must have dtype float64"):
            call(out=np.empty(shape, np.float32))
    with pytest.raises(ValueError, match="shares memory with x"):
        signal.lfilter(h, 1, x, out=x)


def test_real_filters_of_long_complex_signals(rng):
    x = fill((3, 5000), "complex64", rng, "signed")
    for h in (fill((101,), "float32", rng, "signed"), fill((101,), "complex64", rng, "signed")):
        same("upfirdn", h, x, slack=30)
        same("lfilter", h, np.ones(1, "f"), x, slack=30)
        same("resample_poly", x, 160, 147, 1, slack=10)


def test_long_filters_at_a_rate_that_no_other_algorithm_takes(rng):
    x = fill((3000,), "float32", rng, "signed")
    for taps, (up, down) in itertools.product((20_001, 90_000), ((160, 147), (3, 1))):
        h = fill((taps,), "float32", rng, "signed")
        exact, bound = (scipy.signal.upfirdn(f(h).astype("d"), f(x).astype("d"), up, down) for f in (np.asarray, np.abs))
        error = np.abs(signal.upfirdn(h, x, up, down) - exact)
        assert np.all(error <= allowed(bound, "float32", -(-taps // up), "fft", norms=norms(x, h)))


def test_results_do_not_depend_on_the_number_of_threads(rng):
    h = fill((3000,), "float64", rng, "signed")
    for shape, axis in (((20_000,), 0), ((200, 30), 0)):
        results = []
        for threads in (1, 2, 3):
            with nc.num_threads(threads):
                y, pull = vjp.upfirdn(h, fill(shape, "float64", np.random.default_rng(0), "signed"), 160, 147, axis)
                results.append((y, *pull(y)))
        for other in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
