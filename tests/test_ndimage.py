"""One body run against scipy.ndimage and numbaconv.ndimage: results, dtypes and errors are to be the same, integers to the last bit."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import ndimage as scipy_ndimage
from tolerance import allowed

from numbaconv import boundary, correlation, ndimage, separable
from numbaconv.correlation import Axes

NAMES = ndimage.vjp.__all__
MODES = ("reflect", "constant", "nearest", "mirror", "wrap", "grid-mirror", "grid-constant", "grid-wrap")
INTEGERS = ("?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q")
DTYPES = (*INTEGERS, "f", "d", "F", "D", ">f4", ">i2", ">c16")
SCIPY = {name: getattr(scipy_ndimage, name) for name in NAMES}


@pytest.fixture(autouse=True)
def nothing_left_to_scipy(monkeypatch):
    """Let SciPy's functions only raise when numbaconv calls them: a call that they would carry out is one that we should have."""

    def refusing(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            SCIPY[name](*args, **kwargs)
            pytest.fail(f"{name} was left to SciPy, which computed it")

        return call

    for name in NAMES:
        monkeypatch.setattr(scipy_ndimage, name, refusing(name))


def image(shape: tuple[int, ...], dtype: str, rng: np.random.Generator, whole_range: bool = False) -> Any:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        low, high = (info.min, info.max) if whole_range else (max(info.min, -20), 20)
        return rng.integers(low, high, shape, kind.newbyteorder("="), endpoint=True).astype(kind)
    values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if kind.kind == "c" else 0)
    return np.asarray(values).astype(kind)


def magnitude(name: str, x: Any, second: Any, options: dict[str, Any]) -> float:
    """Return a bound of Σ|x||w| of every pixel."""
    largest = max(float(abs(x).max(initial=0)), abs(options.get("cval", 0)))
    if name.startswith("gaussian"):
        return largest * 8.0 ** (np.max(options.get("order", 0)) * max(1, x.ndim))
    return largest * (float(abs(np.asarray(second)).sum()) if name.startswith("co") else 1.0)


def result(function: Any, args: Any, options: dict[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **options)
    except Exception as error:
        return error


def same(name: str, *args: Any, **options: Any) -> None:
    """Check that both libraries return, or raise, the same."""
    what = f"{name} {[(v.dtype, v.shape) if isinstance(v, np.ndarray) else v for v in args]} {options}"
    expected, found = result(SCIPY[name], args, options), result(getattr(ndimage, name), args, options)
    if isinstance(expected, Exception):
        assert type(found) is type(expected) and str(found) == str(expected), f"{what}: {found!r} in place of {expected!r}"
        return
    assert not isinstance(found, Exception), f"{what}: {found!r}"
    assert found.dtype == expected.dtype and found.shape == expected.shape and type(found) is np.ndarray, what
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(found, expected, err_msg=what)
    elif expected.size:
        x = np.asarray(args[0])
        coarser = "F" if expected.dtype.kind == "c" and x.dtype == np.complex64 else expected.dtype  # SciPy's parts have the input's digits
        bound = 4 * allowed(magnitude(name, x, args[1] if len(args) > 1 else 3, options), coarser, 64, "direct", positive=True)
        assert abs(found - expected).max() <= bound, f"{what}: {abs(found - expected).max()} > {bound}"


def second(name: str, rank: int, rng: np.random.Generator, dtype: str = "d", taps: int = 4) -> Any:
    """Return what a filter takes besides the image: weights, sigma or size."""
    if name.startswith("co"):
        return image(tuple(int(v) for v in rng.integers(1, taps + 1, 1 if name.endswith("1d") else rank)), dtype, rng)
    return float(rng.choice([0.4, 0.8, 1.5])) if name.startswith("gaussian") else int(rng.integers(1, 6))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_modes(name, dtype, rng):
    for mode, whole_range in itertools.product(MODES, (False, True)):
        x = image((6, 9), dtype, rng, whole_range)
        same(name, x, second(name, 2, rng), mode=mode, cval=1.5)
        same(name, x, second(name, 2, rng), mode=mode, output=rng.choice(DTYPES).item())
        same(name, x, second(name, 2, rng), mode=mode, output=np.dtype(rng.choice(DTYPES)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape", [(), (1,), (17,), (0,), (0, 3), (3, 0), (1, 8), (8, 1), (5, 7), (4, 1, 6), (3, 4, 5), (2, 3, 4, 3), (2, 3, 2, 3, 2)]
)
def test_shapes_axes_and_origins(name, shape, rng):
    rank = len(shape)
    for mode, dtype in itertools.product(MODES[:5], ("d", "B")):
        x = image(shape, dtype, rng)
        if name.endswith("1d"):
            for axis in range(-rank - 1, rank + 1):
                same(name, x, second(name, rank, rng, taps=9), axis=axis, mode=mode)
        else:
            same(name, x, second(name, rank, rng), mode=mode)
            axes = tuple(int(a) for a in rng.permutation(rank)[: rng.integers(0, rank + 1)])
            same(name, x, second(name, len(axes), rng), mode=mode, axes=axes)
        if not name.startswith("gaussian"):
            for origin in (-2, -1, 1, 2):
                same(name, x, second(name, rank, rng), mode=mode, origin=origin)


@pytest.mark.parametrize("mode", MODES)
def test_filters_larger_than_the_image(mode, rng):
    for dtype, taps in itertools.product("dB", (8, 9, 30)):
        x = image((3, 4), dtype, rng)
        if taps < 10:  # from four times the image on, SciPy reads beyond it
            same("correlate", x, rng.standard_normal((taps, 2)), mode=mode, cval=2)
            same("correlate", x, rng.standard_normal((2, taps)), mode=mode, cval=2)
        for axis in (0, 1):
            same("convolve1d", x, rng.standard_normal(taps), axis, mode=mode, cval=2)
            same("uniform_filter1d", x, taps, axis, mode=mode, cval=2)
        same("gaussian_filter", x, 3.0, mode=mode, cval=2)


@pytest.mark.parametrize("name", ["correlate", "convolve", "correlate1d", "convolve1d"])
def test_complex_weights_and_constants(name, rng):
    for dtypes, mode in itertools.product(itertools.product("BfdFD", "bfdFD"), ("constant", "reflect")):
        x, w = image((5, 6), dtypes[0], rng), second(name, 2, rng, dtypes[1])
        for cval, output in itertools.product((0.5, 1 - 2j), (None, "complex64", np.complex128, np.float32, float, "float64")):
            same(name, x, w, mode=mode, cval=cval, output=output)


@pytest.mark.parametrize("name", ["gaussian_filter", "gaussian_filter1d"])
def test_gaussians(name, rng):
    for dtype, order, radius, truncate in itertools.product("dfBF", (0, 1, 2, 3), (None, 0, 2), (4.0, 1.3)):
        same(name, image((9, 11), dtype, rng), 1.2, order=order, radius=radius, truncate=truncate)
    x = image((5, 6), "d", rng)
    for sigma in (0, 0.0, -1, "a", None, 1e-16, np.float32(1.1), np.array(1.3), (1, 0), (1, 2, 3), 2, np.nan):
        same(name, x, sigma)
    for options in (
        {"order": -1},
        {"order": 1.0},
        {"radius": 1.5},
        {"radius": -1},
        {"truncate": "a"},
        {"mode": ["wrap", "mirror"]},
        {"order": [0, 1]},
    ):
        same(name, x, 1.0, **options)
    same("gaussian_filter", x, (1, 0.5), (0, 1), radius=(2, 3), axes=(1, 0), mode=("wrap", "constant"))
    same("gaussian_filter", x.astype(complex), 1.0, output=np.float32)
    same("gaussian_filter", x.astype(complex), 0.0, output=np.float32)


@pytest.mark.parametrize("mode", ["reflect", "mirror", "wrap", "nearest", "constant"])
def test_filters_much_larger_than_the_image(mode, rng):
    padded = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge"}.get(mode, mode)
    for dtype in ("d", "f", "i"):
        x, w = rng.integers(-9, 9, (3, 4)).astype(dtype), rng.integers(-9, 9, (30, 21))
        expected = SCIPY["correlate"](np.pad(x, ((15, 15), (10, 10)), padded), w)[15:-15, 10:-10]
        np.testing.assert_array_equal(ndimage.correlate(x, w, mode=mode), expected)


def test_constant_integer_images_are_cut_where_scipy_cuts_them(rng):
    for value, dtype in itertools.product((1, 7, 100, 255), ("B", "H", "i")):
        x = np.full((12, 13), value, dtype)
        for size in range(1, 8):
            same("uniform_filter", x, size, mode="nearest")
            same("correlate1d", x, np.full(size, 1 / size), mode="wrap")
            same("correlate", x, np.full((size, size), 1 / size**2), mode="mirror")
        for sigma in (0.3, 0.5, 1, 1.7, 2.9):
            same("gaussian_filter", x, sigma, mode="nearest")


def test_weights_that_scipy_leaves_out_or_takes_for_equal(rng):
    x = image((5, 6), "d", rng)
    x[2, 3], x[0, 0] = np.nan, np.inf
    for dtype, w in itertools.product("df", ([[0, 1, 0], [1, 1e-17, 1], [0, -1, 0]], np.zeros((3, 3)), np.full((2, 2), 1e-17))):
        np.testing.assert_allclose(ndimage.correlate(x.astype(dtype), w), SCIPY["correlate"](x.astype(dtype), w), rtol=1e-5)
    for w in ([1e-17, 1, 3e-17], [1e-17, 0, -2e-17], [1e-17, 0, 3e-17], [0, 1, 0]):
        np.testing.assert_allclose(ndimage.correlate1d(x, w), SCIPY["correlate1d"](x, w), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_layouts_and_outputs(name, rng):
    for dtype, x in ((d, image((8, 10), d, rng)) for d in ("d", "f", "B", "D", ">f4")):
        extra = second(name, 2, rng)
        expected = SCIPY[name](x, extra)
        read_only = x.copy()
        read_only.setflags(write=False)
        for view in (
            np.asfortranarray(x),
            x[::-1, ::-1].copy()[::-1, ::-1],
            np.repeat(x, 2, 1)[:, ::2],
            read_only,
            x.tolist() if dtype == "d" else x,
        ):
            same(name, view, extra)
        for out in (np.empty_like(x), np.empty_like(x, order="F"), np.empty((8, 20), dtype)[:, ::2], np.empty((10, 8), dtype).T):
            assert getattr(ndimage, name)(x, extra, output=out) is out
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
        for shifted in (slice(0, 8), slice(1, 9)):
            memory = np.concatenate([x, x[:1]])
            getattr(ndimage, name)(memory[:8], extra, output=memory[shifted])
            np.testing.assert_allclose(memory[shifted], expected, rtol=1e-4, atol=1e-5, err_msg="output overlaps the input")


@pytest.mark.parametrize("name", NAMES)
def test_errors(name, rng):
    x, extra = image((4, 5), "d", rng), second(name, 2, rng)
    frozen = np.zeros((4, 5))
    frozen.setflags(write=False)
    for options in (
        {"mode": "valid"}, {"mode": 3}, {"mode": None}, {"mode": ["wrap", "wrap"]}, {"mode": ["wrap"]}, {"mode": ["wrap", "a"]},
        {"cval": "a"}, {"cval": 1j}, {"cval": None}, {"output": np.zeros((4, 4))}, {"output": frozen}, {"output": "bool"}, {"output": "a"},
        {"output": np.float16}, {"output": np.zeros((4, 5), "e")}, {"output": "complex64"}, {"output": object}, {"output": x.tolist()},
        {"nonsense": 1},
    ):  # fmt: skip
        same(name, x, extra, **options)
    for dtype in ("e", "g", "O", "M8[s]", "S1"):
        same(name, np.zeros((4, 5), dtype), extra)
    if not name.startswith("gaussian"):
        for origin in (9, -9, 1.0, 0.5, "a", None, True, np.int64(1), [0, 0], [0, 0, 0], [1, -1]):
            same(name, x, extra, origin=origin)
    for axes in (5, -3, (0, 0), (0, 2), 1.5, "a", (0, 1, 1), [0], (), np.array(1), np.array([1])):
        same(name, x, extra, **({"axis": axes} if name.endswith("1d") else {"axes": axes}))
    same(name, x)


def test_weights_that_do_not_fit(rng):
    x = image((4, 5), "d", rng)
    for w in (2.0, [], [1.0], [[]], np.ones((2, 2, 2)), [["a"]], np.zeros((0, 3)), np.array([[1, 2]], object), np.ones((2, 2), "g"), None):
        for name in ("correlate", "convolve", "correlate1d", "convolve1d"):
            same(name, x, w)
    for size in (0, -1, 2.7, 1.5, "a", None, [3, 2], [3, 2, 1], [0, 3]):
        same("uniform_filter", x, size)
        same("uniform_filter1d", x, size)


def test_random_calls(rng):
    for _ in range(300):
        name, rank = str(rng.choice(NAMES)), int(rng.integers(1, 5))
        x = image(tuple(int(v) for v in rng.integers(1, 8, rank)), str(rng.choice(DTYPES)), rng, bool(rng.integers(2)))
        options = {"mode": str(rng.choice(MODES)), "cval": float(rng.normal())}
        if not name.startswith("gaussian"):
            options["origin"] = int(rng.integers(-1, 2))
        same(name, x, second(name, rank, rng, str(rng.choice(["f", "d", "i", "?"]))), **options)


def test_large_images_and_filters(rng):
    for dtype, mode in itertools.product("fdB", ("reflect", "constant", "wrap")):
        x = image((260, 300), dtype, rng)
        w = rng.standard_normal((5, 6))
        same("correlate", x, w, mode=mode, cval=3.0, origin=(1, -1))
        same("correlate", x, np.outer(rng.random(13) - 0.3, rng.random(12) - 0.3), mode=mode, cval=3.0, origin=(1, -1))
        same("gaussian_filter", x, 2.5, mode=mode, cval=3.0)
        for size in (15, 64, 299):
            same("uniform_filter", x, size, mode=mode, cval=3.0, origin=-3)
        x = x.reshape(10, 26, 300)
        for axis in range(3):
            same("correlate1d", x, rng.standard_normal(9), axis, mode=mode, cval=3.0)


def test_nan_stays_in_its_window_in_means():
    for size in (3, 60):
        x = np.ones((4, 200))
        x[1, 100] = np.nan
        y = ndimage.uniform_filter1d(x, size)
        assert np.isnan(y).sum() == size and np.allclose(y[~np.isnan(y)], 1)


@pytest.mark.parametrize("name", boundary.BOUNDARIES)
def test_borders_alone_give_what_the_extended_image_gives(name, rng, monkeypatch):
    for shape, taps, low, stride in (
        ((2, 40, 50), (5, 4), (2, 1), (1, 1)), ((1, 70, 64), (3, 7), (0, 6), (2, 3)),
        ((3, 500), (9,), (4,), (1,)), ((1, 90, 80), (4, 1), (5, -2), (1, 1)),
    ):  # fmt: skip
        size = tuple((i + lo - 1) // s + 1 for i, lo, s in zip(shape[1:], low, stride, strict=True))
        axes = Axes.of(low, size, stride)
        for dtype in ("float64", "float32", "complex128", "int64"):
            x, h = rng.integers(-9, 9, shape).astype(dtype), rng.integers(-9, 9, (1, *taps)).astype(dtype)
            wide = x
            for axis, (i, r, lo, o, s) in enumerate(zip(shape[1:], taps, low, size, stride, strict=True), 1):
                wide = boundary.extend(wide, axis, lo, (o - 1) * s + r - lo - i, name, 3)
            expected = correlation.correlate(wide, h, axes._replace(low=(0,) * len(low)), "direct")
            for many in (0, 1 << 60):
                monkeypatch.setattr(boundary, "MANY", many)
                monkeypatch.setattr(boundary, "FEW_AT_BORDERS", 1)
                out = np.full_like(expected, 77)
                assert boundary.correlate(x, h, axes, name, 3, "direct", out) is out
                np.testing.assert_array_equal(out, expected)
                np.testing.assert_array_equal(boundary.correlate(x, h, axes, name, 3, "direct"), expected)


def test_separable_filters_are_found_by_every_element(rng):
    row, column = rng.standard_normal(15), rng.standard_normal(20) * 10.0 ** rng.integers(-8, 8, 20)
    h = np.outer(column, row)
    found = separable.factors(h, np.dtype("float64"))
    assert found is not None
    np.testing.assert_allclose(np.outer(*found), h, rtol=1e-15)
    assert separable.factors(h.astype("float32").astype("float64"), np.dtype("float64")) is None
    assert separable.factors(h.astype("float32").astype("float64"), np.dtype("float32")) is not None
    changed = h.copy()
    changed[np.unravel_index(abs(h).argmin(), h.shape)] *= 1 + 1e-9
    assert separable.factors(changed, np.dtype("float64")) is None, "a small element counts as much as a large one"
    for other in (h[:3], np.zeros_like(h), np.full_like(h, np.nan)):
        assert separable.factors(other, np.dtype("float64")) is None
    assert separable.factors(h.astype(np.int64), np.dtype("int64")) is None


def test_one_axis_may_be_counted_from_the_end(rng):
    x, w = image((3, 4, 5), "d", rng), [1.0, 2.0, 4.0]
    for name in ("correlate", "convolve"):  # SciPy takes it for no axis of the image
        np.testing.assert_array_equal(getattr(ndimage, name)(x, w, axes=-1), getattr(ndimage, name)(x, w, axes=(2,)))


def test_every_other_name_is_scipys():
    assert ndimage.median_filter is scipy_ndimage.median_filter
    assert {"median_filter", "correlate", "vjp"} <= set(dir(ndimage))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        ndimage.nonsense  # noqa: B018


def test_promotion_is_warned_of_at_the_line_of_the_call(rng):
    x = image((4, 5), "D", rng)
    for call in (lambda: ndimage.correlate1d(x, [1, 2], output=float), lambda: ndimage.vjp.correlate1d(x, [1, 2], output=float)):
        with pytest.warns(UserWarning, match="promoting specified output dtype to complex") as caught:
            call()
        assert caught[0].filename == __file__
