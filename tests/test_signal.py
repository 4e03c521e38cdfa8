"""One body, run against scipy.signal and numbaconv.signal: results, dtypes and errors are the same, but for what is listed here."""

from __future__ import annotations

import decimal
import inspect
import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
from cases import MODES, fill, poisoned, two_shapes
from tolerance import allowed, norms

import numbaconv
from numbaconv import signal
from numbaconv.signal import _arrange, _calls, choice

DTYPES = "?bhilqBHILQefdgFDG"
ANY_RANK = ("convolve", "correlate")
FFT = ("fftconvolve", "oaconvolve")
TWO_AXES = ("convolve2d", "correlate2d")
WITH_OUT = ("convolve", "fftconvolve", "oaconvolve")


def outcome(module: Any, name: str, *args: Any, **options: Any) -> Any:
    """Return the result, or the type and the message of the error."""
    try:
        return getattr(module, name)(*args, **options)
    except Exception as error:
        return type(error), str(error)


def check(name: str, in1: Any, in2: Any, **options: Any) -> Any:
    """Compare the outcomes for arrays of small integers: values are the same, to the rounding of both where floats are transformed."""
    with np.errstate(all="ignore"):
        theirs, ours = outcome(scipy.signal, name, in1, in2, **options), outcome(signal, name, in1, in2, **options)
    what = f"{name}, {np.shape(in1)} {np.asarray(in1).dtype}, {np.shape(in2)} {np.asarray(in2).dtype}, {options}"
    if isinstance(theirs, tuple) or isinstance(ours, tuple):
        assert ours == theirs, what
        return ours
    assert type(ours) is type(theirs), what
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype and ours.dtype.isnative, what
    if ours.dtype.kind in "fc" and ours.dtype.char not in "gG":
        exact = theirs if name in TWO_AXES else np.round(theirs)
        magnitude = min(in1.size, in2.size) * float(np.max(abs(in1))) * float(np.max(abs(in2)))
        bound = allowed(magnitude, ours.dtype, in2.size, "fft", norms=norms(in1, in2))
        np.testing.assert_allclose(ours, exact, rtol=0, atol=bound, err_msg=what)
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=what)
    return ours


def agree(name: str, *args: Any, **options: Any) -> Any:
    """Compare the outcomes exactly, and return ours."""
    theirs, ours = outcome(scipy.signal, name, *args, **options), outcome(signal, name, *args, **options)
    if isinstance(theirs, tuple) or isinstance(ours, tuple):
        assert ours == theirs
    else:
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(ours, theirs)
    return ours


@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES])
def test_every_pair_of_dtypes(name, rng):
    for first, second in itertools.product(DTYPES, DTYPES):
        rank = 2 if name in TWO_AXES or rng.random() < 0.2 else 1
        in1, in2 = fill((4,) * rank, first, rng), fill((3,) * rank, second, rng)
        if np.result_type(in1, in2) == np.float16 and rank == 2 and name not in FFT:
            continue  # see below
        for options in [{"method": "direct"}, {"method": "fft"}] if name in ANY_RANK else [{}]:
            if options.get("method") == "fft" and first + second == "??":
                continue  # SciPy calls rounding errors true: either is its own
            check(name, in1, in2, **options)


@pytest.mark.parametrize("name", [*ANY_RANK, *TWO_AXES])
def test_float16_images_are_computed_which_scipy_refuses(name, rng):
    in1, in2 = fill((5, 4), np.float16, rng), fill((3, 2), np.float16, rng)
    assert outcome(scipy.signal, name, in1, in2)[0] is ValueError
    ours = getattr(signal, name)(in1, in2)
    assert ours.dtype == np.float16
    np.testing.assert_array_equal(ours, getattr(scipy.signal, name)(in1.astype("f"), in2.astype("f")))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ANY_RANK)
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_convolve_and_correlate(name, mode, rank, rng):
    for _ in range(40 if rank < 4 else 12):
        dtype = rng.choice(["float64", "complex128", "int64"])
        first, second = two_shapes(rng, rank, {1: 40, 2: 8, 3: 5, 4: 4}[rank])
        in1, in2 = fill(first, dtype, rng), fill(second, dtype, rng)
        for method in ("auto", "direct", "fft"):
            check(name, in1, in2, mode=mode, method=method)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FFT)
def test_axes_and_broadcasting(name, mode, rng):
    for _ in range(120):
        rank = int(rng.integers(1, 5))
        first, second = two_shapes(rng, rank, 5)
        axes = [int(a) for a in rng.permutation(rank)[: rng.integers(1, rank + 1)]]
        second = tuple(s if a in axes or rng.random() < 0.1 else int(rng.choice([1, f])) for a, (f, s) in enumerate(zip(first, second, strict=True)))
        first = tuple(1 if a not in axes and rng.random() < 0.3 else f for a, f in enumerate(first))
        in1, in2 = (fill(s, rng.choice(["float64", "complex128", "int32"]), rng) for s in (first, second))
        some: Any = axes[0] if len(axes) == 1 else [a - rank if rng.random() < 0.5 else a for a in axes]
        for given in (some, None, np.array(axes)):
            check(name, in1, in2, mode=mode, axes=given)


@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm", "pad", "circular", "symmetric"])
@pytest.mark.parametrize("name", TWO_AXES)
def test_boundaries(name, boundary, rng):
    for mode, _ in itertools.product(MODES, range(20)):
        dtype = rng.choice(["float64", "complex128", "int64"])
        first, second = tuple(rng.integers(1, 7, 2)), tuple(rng.integers(1, 15 if rng.random() < 0.3 else 6, 2))
        value = rng.choice([0, 1, 2.5, True]) + (1j if dtype == "complex128" else 0)
        check(name, fill(first, dtype, rng), fill(second, dtype, rng), mode=mode, boundary=boundary, fillvalue=value)


@pytest.mark.parametrize("value", [1.5, -0.5, 2 + 1j, 2 + 0j, [1], [[2]], [1, 2], [[1], [2, 3]], "x", None, True, 300, -1, np.float32(2), object()])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "float64", "complex64"])
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_fillvalues(value, dtype, rng):
    in1, in2 = fill((4, 4), dtype, rng), fill((3, 3), dtype, rng)
    agree("convolve2d", in1, in2, fillvalue=value)


BAD: list[tuple[Any, Any, dict[str, Any]]] = [
    (np.ones(3), np.ones((2, 2)), {}),
    (np.ones((3, 4)), np.ones((4, 2)), {"mode": "valid"}),
    (np.ones(3), np.ones(2), {"mode": "bad"}),
    (np.ones((3, 3)), np.ones((2, 2)), {"mode": 2}),
    (np.ones(3), np.ones(2), {"mode": ["full"]}),
    (np.ones(3), np.ones(2), {"mode": None}),
    (np.ones(3, "M8[s]"), np.ones(2), {}),
    (["a"], ["b"], {}),
    (np.ones((3, 3)), 2.0, {}),
    ([1.0, [2.0]], [1.0], {}),
    (None, [1.0], {}),
    ({1: 2}, {3}, {}),
]


@pytest.mark.parametrize("case", range(len(BAD)))
@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES, "choose_conv_method"])
def test_bad_arguments_raise_what_scipy_raises(name, case):
    in1, in2, options = BAD[case]
    agree(name, in1, in2, **options)


@pytest.mark.parametrize("options", [{"method": "bad"}, {"method": None}, {"method": ["fft"]}, {"mode": "bad", "method": "direct"}])
@pytest.mark.parametrize("name", ANY_RANK)
def test_bad_methods(name, options):
    for in1, in2 in ((np.ones(4), np.ones(3)), (np.ones((2, 2)), np.ones((2, 1)))):
        assert isinstance(agree(name, in1, in2, **options), tuple)


@pytest.mark.parametrize("axes", [[], [0, 0], 2, -3, 0.5, [0, 2], "a", [0, -2], (None,), np.array([0.0])], ids=str)
@pytest.mark.parametrize("name", FFT)
def test_bad_axes(name, axes):
    assert isinstance(agree(name, np.ones((3, 4)), np.ones((2, 2)), axes=axes), tuple)


@pytest.mark.parametrize("boundary", ["reflect", "bad", 1, None, ["fill"]], ids=str)
@pytest.mark.parametrize("name", TWO_AXES)
def test_bad_boundaries(name, boundary):
    assert isinstance(agree(name, np.ones((3, 4)), np.ones((2, 2)), boundary=boundary), tuple)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", [*ANY_RANK, *FFT])
def test_scalars_and_empty_arrays(name):
    for first, second in itertools.product((3, 2.5, 1 - 2j, np.float32(2), np.True_, np.array(4)), repeat=2):
        agree(name, first, second)
        agree(name, first, second, mode="bad")
    for first, second in itertools.product(((0,), (3,), (0, 3), (2, 3), (2, 0)), repeat=2):
        if 0 in first + second:
            agree(name, np.ones(first), np.ones(second))


@pytest.mark.parametrize("make", [decimal.Decimal, Fraction, lambda v: v])
@pytest.mark.parametrize("name", ANY_RANK)
def test_objects_are_computed_by_scipy(name, make):
    in1, in2 = (np.array([make(v) for v in values], object) for values in ([3, 1, 4], [1, 5]))
    for mode, method in itertools.product(MODES, ("auto", "direct")):
        assert agree(name, in1, in2, mode, method).dtype == object


class Subclass(np.ndarray[Any, Any]):
    """An array that is not a plain one."""


@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES])
def test_whatever_holds_the_numbers(name, rng, tmp_path):
    plain = fill((6, 7), np.float64, rng)
    other = fill((3, 2), np.float64, rng)
    expected = getattr(scipy.signal, name)(plain, other)
    on_disk = np.memmap(tmp_path / "x", np.float64, "w+", shape=plain.shape)
    on_disk[:] = plain
    wide = np.zeros((12, 21))
    wide[::2, ::3] = plain
    read_only = plain.copy()
    read_only.setflags(write=False)
    unaligned = np.zeros(plain.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(plain.shape)
    unaligned[:] = plain
    masked = np.ma.array(plain, mask=plain > 1)
    held = [plain, plain.tolist(), on_disk, wide[::2, ::3], np.asfortranarray(plain), plain[::-1, ::-1].copy()[::-1, ::-1], read_only, unaligned]
    for given in (*held, plain.astype(">f8"), masked, plain.view(Subclass)):
        before = np.array(given)
        for pair in ((given, other), (given, other.astype(">f8")[::-1].copy()[::-1])):
            found = getattr(signal, name)(*pair)
            assert type(found) is np.ndarray and found.dtype.isnative and found.flags.writeable and found.flags.c_contiguous
            np.testing.assert_allclose(found, np.round(expected), atol=1e-9)
        np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WITH_OUT)
def test_out_is_filled(name, mode, rng):
    for dtype, first, second in itertools.product(("float32", "complex128", "int32"), ((9,), (5, 6), (4, 1, 5)), ((4,), (3, 2), (1, 1, 3))):
        if len(first) != len(second):
            continue
        in1, in2 = fill(first, dtype, rng), fill(second, dtype, rng)
        expected = getattr(signal, name)(in1, in2, mode)
        out = poisoned(expected.shape, expected.dtype)
        assert getattr(signal, name)(in1, in2, mode, out=out) is out
        np.testing.assert_array_equal(out, expected)
        strided = poisoned((*expected.shape, 2), expected.dtype)[..., 0]
        assert getattr(signal, name)(in1, in2, mode, out=strided) is strided
        np.testing.assert_array_equal(strided, expected)


def test_out_of_scalars_and_of_what_scipy_computes():
    out = np.zeros(())
    assert signal.convolve(2.0, 3.0, out=out) is out and out == 6
    objects = np.empty(2, object)
    assert signal.convolve(np.array([Fraction(1, 2)]), np.array([2, 4]), out=objects) is objects and list(objects) == [1, 2]
    with pytest.raises(ValueError, match=r"out must have shape \(2,\)"):
        signal.convolve(np.array([Fraction(1, 2)]), np.array([2, 4]), out=np.empty(3, object))


@pytest.mark.parametrize("name", WITH_OUT)
def test_an_out_that_does_not_fit_is_left_alone(name, rng):
    in1, in2 = fill((9,), np.float64, rng), fill((4,), np.float64, rng)
    function = getattr(signal, name)
    out = poisoned((12,), np.float64)
    read_only = out.copy()
    read_only.setflags(write=False)
    shared = np.zeros(20)
    for bad, error, message in (
        (poisoned((11,), np.float64), ValueError, r"out must have shape \(12,\), got \(11,\)"),
        (poisoned((12,), np.float32), TypeError, "out must have dtype float64, got float32"),
        (read_only, ValueError, "out must be writable"),
        ([0.0] * 12, TypeError, "out must be a NumPy array, got list"),
    ):
        before = np.array(bad)
        with pytest.raises(error, match=message):
            function(in1, in2, out=bad)
        np.testing.assert_array_equal(bad, before)
    with pytest.raises(ValueError, match="shares memory with in1"):
        function(shared[:9], in2, out=shared[5:17])
    with pytest.raises(ValueError, match="shares memory with in2"):
        function(in1, shared[:4], out=shared[3:15])
    function(shared[:4], shared[4:8], out=shared[8:15])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("name", ANY_RANK)
def test_integers_wrap_by_every_method(name, dtype, rng):
    info = np.iinfo(dtype)
    in1, in2 = (rng.integers(info.min, info.max, shape, dtype, endpoint=True) for shape in ((40, 9), (11, 5)))
    for first, second in ((in1, in2), (in1[:, 0], in2[:, 0])):
        expected = getattr(scipy.signal, name)(first, second, method="direct")
        for method in ("auto", "direct", "fft"):
            np.testing.assert_array_equal(getattr(signal, name)(first, second, method=method), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*ANY_RANK, *FFT])
def test_values_are_within_the_table(name, dtype, rng):
    for first, second in (((3000,), (301,)), ((77,), (2000,)), ((60, 50), (9, 7))):
        in1, in2 = fill(first, dtype, rng, "signed"), fill(second, dtype, rng, "signed")
        plain = "correlate" if name == "correlate" else "convolve"
        exact = getattr(scipy.signal, plain)(in1.astype(np.longdouble), in2.astype(np.longdouble), method="direct")
        magnitude = scipy.signal.convolve(abs(in1), abs(in2), method="direct").max()
        bound = allowed(magnitude, dtype, min(in1.size, in2.size), "fft", norms=norms(in1, in2))
        assert np.abs(getattr(signal, name)(in1, in2) - exact).max() <= bound


def test_nan_and_infinity_spread_no_further_than_in_the_sum():
    x = np.ones(50)
    x[20], x[30] = np.nan, np.inf
    for name in ANY_RANK:
        for method in ("auto", "direct"):
            np.testing.assert_array_equal(
                getattr(signal, name)(x, np.ones(3), method=method), getattr(scipy.signal, name)(x, np.ones(3), method="direct")
            )


def test_a_transform_of_nan_warns_as_scipy_does():
    x = np.ones(1000)
    x[100] = np.nan
    with pytest.warns(RuntimeWarning, match="Use of fft convolution on input with NAN or inf"):
        signal.convolve(x, np.ones(200), "same", method="fft")


@pytest.mark.parametrize("mode", MODES)
def test_correlation_lags(mode):
    for first, second in itertools.product((1, 2, 5, 8), repeat=2):
        agree("correlation_lags", first, second, mode)
    assert agree("correlation_lags", 3, 4, "bad")[0] is ValueError


@pytest.fixture
def nothing_measured():
    """Forget what `choose_conv_method` measured, before and afterwards."""
    _calls.fastest.clear()
    yield
    _calls.fastest.clear()


def test_the_method_that_was_measured_is_used(nothing_measured, monkeypatch, rng):
    in1, in2 = fill((200,), np.float32, rng), fill((20,), np.float32, rng)
    assert signal.choose_conv_method(in1, in2) in ("direct", "fft")
    asked = _calls.prepare("convolve", in1, in2, "full")
    assert asked is not None and asked.method == "auto"
    seconds = {"fft": 1.0, "direct": 2.0}
    monkeypatch.setattr(choice, "_seconds", lambda call, method: seconds[method])
    assert signal.choose_conv_method(in1, in2, measure=True) == ("fft", seconds)
    for name in ANY_RANK:
        call = _calls.prepare(name, in1, in2, "full")
        assert call is not None and call.method == "fft"
    for other in (_calls.prepare("convolve", in1, in2, "same"), _calls.prepare("convolve", in1[:-1], in2, "full")):
        assert other is not None and other.method == "auto"
    seconds["direct"] = 0.5
    assert signal.choose_conv_method(in1, in2, measure=True)[0] == "direct"
    call = _calls.prepare("convolve", in1, in2, "full")
    assert call is not None and call.method == "direct"


def test_methods_are_measured(nothing_measured, monkeypatch):
    monkeypatch.setattr(choice, "MEASURED_SECONDS", 1e-3)
    for dtype in ("float64", "int64"):
        method, times = signal.choose_conv_method(np.ones((9, 9), dtype), np.ones((3, 3), dtype), "same", True)
        assert set(times) == {"direct", "fft"} and min(times.values()) > 0
        assert method in ("direct", "fft") if dtype == "float64" else method == "direct"
    for dtype in ("int64", "bool", "object"):
        assert signal.choose_conv_method(np.ones(3000, dtype), np.ones(3000, dtype)) == "direct"
    assert signal.choose_conv_method(np.ones((2,) * 5), np.ones((1,) * 5)) == "direct"


def test_explain():
    table = signal.explain((200, 300), (5, 5), "same", dtype="float64")
    assert table.splitlines()[0] == "convolve (200, 300) with (5, 5), same, float64 on cpu" and "direct" in table and "→" in table
    assert "measured" in signal.explain((20,), (5,), dtype="int32", method="direct", measure=True)
    assert "→" in signal.explain((3,) * 5, (2,) * 5, method="fft")
    for arguments, error in (
        (((3,), (2, 2)), ValueError),
        (((), ()), ValueError),
        (((3,), (2,), "bad"), ValueError),
        (((3, 2), (2, 3), "valid"), ValueError),
    ):
        with pytest.raises(error, match="shapes must have as many axes"):
            signal.explain(*arguments)
    with pytest.raises(TypeError, match="dtype must be"):
        signal.explain((3,), (2,), dtype="bool")
    with pytest.raises(ValueError, match="method must be one of"):
        signal.explain((3,), (2,), method="gemm")


def test_the_problem_is_worked_out_once(rng):
    in1, in2 = fill((31,), np.float32, rng), fill((5,), np.float32, rng)
    signal.convolve(in1, in2)
    before = _arrange.arrange.cache_info()
    signal.convolve(in1, in2)
    after = _arrange.arrange.cache_info()
    assert after.misses == before.misses


def test_a_batch_is_one_problem(rng, monkeypatch):
    calls = []
    run = _calls.extended.correlate
    monkeypatch.setattr(_calls.extended, "correlate", lambda *args: calls.append(args[0].shape) or run(*args))
    in1, in2 = fill((3, 40, 4), np.float64, rng), fill((3, 5, 4), np.float64, rng)
    for other in (in2, in2[:, :, :1], in2[:1, :, :1]):
        np.testing.assert_allclose(signal.fftconvolve(in1, other, axes=1), scipy.signal.fftconvolve(in1, other, axes=1), atol=1e-9)
    assert calls == [(12, 40), (3, 40, 4), (1, 3, 40, 4)]  # nothing is moved where the filter has one tap


@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES, "choose_conv_method", "correlation_lags"])
def test_signatures_are_those_of_scipy(name):
    ours = inspect.signature(getattr(signal, name)).parameters
    theirs = inspect.signature(getattr(scipy.signal, name)).parameters
    assert [(p.name, p.default, p.kind) for p in ours.values() if p.name != "out"] == [(p.name, p.default, p.kind) for p in theirs.values()]
    assert ("out" in ours) == (name in WITH_OUT)


def test_other_names_pass_through():
    assert signal.firwin is scipy.signal.firwin and signal.windows is scipy.signal.windows
    assert signal.convolve is not scipy.signal.convolve and numbaconv.signal is signal
    assert set(dir(signal)) >= {*scipy.signal.__all__, "explain", "vjp"}
    for name in dir(signal):
        assert getattr(signal, name) is not None
    for name in ("no_such_name", "_signaltools"):
        with pytest.raises(AttributeError, match=f"module 'numbaconv.signal' has no attribute '{name}'"):
            getattr(signal, name)


def test_scipy_signal_is_imported_when_a_name_of_its_own_is_used():
    code = (
        "import sys; from numbaconv import signal; print([m for m in ('numba', 'numpy', 'scipy') if m in sys.modules])\n"
        "import numpy as np; signal.convolve(np.ones(3), np.ones(2)); print('scipy.signal' in sys.modules)\n"
        "from numbaconv.signal import *; print(convolve is signal.convolve, butter.__module__.split('.')[0])"
    )
    root = Path(numbaconv.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root, check=True)
    assert done.stdout.split() == ["[]", "False", "True", "scipy"], done.stdout + done.stderr


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">c8", ">i4"])
def test_swapped_arrays_that_share_a_dtype(dtype, rng):
    x = fill((4000,), np.dtype(dtype).newbyteorder("="), rng).astype(dtype)
    for h in (x[:5], x[100:400]):
        for name in ANY_RANK:
            np.testing.assert_allclose(getattr(signal, name)(x, h), getattr(scipy.signal, name)(x, h), rtol=0, atol=0.1)
    image = x.reshape(50, 80)
    np.testing.assert_allclose(signal.convolve(image, image, "valid"), scipy.signal.convolve(image, image, "valid"), rtol=1e-3)


def test_filters_as_large_as_large_inputs(rng):
    for shapes in (((1100, 1000), (1000, 1100)), ((700_000,), (700_000,))):
        in1, in2 = (fill(shape, "float32", rng, "signed") for shape in shapes)
        found = signal.convolve(in1, in2, "same")
        exact = scipy.signal.fftconvolve(in1.astype(np.float64), in2.astype(np.float64), "same")
        assert np.max(abs(found - exact)) <= np.finfo(np.float32).eps * norms(in1, in2)


def test_nothing_is_shown_beyond_the_ends_of_an_empty_image():
    with pytest.raises(ValueError, match="in1 is empty"):
        signal.convolve2d(np.ones((2, 0)), np.ones((3, 3)), boundary="wrap")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_filters_that_are_outer_products(dtype, rng, monkeypatch):
    swept = []
    monkeypatch.setattr(_calls.separable, "correlate", lambda *args, sweep=_calls.separable.correlate: swept.append(1) or sweep(*args))
    x, h = rng.standard_normal((200, 190)).astype(dtype), np.outer(rng.standard_normal(9), rng.standard_normal(12)).astype(dtype)
    bound = 16 * np.finfo(dtype).eps
    for mode, name in itertools.product(MODES, (*ANY_RANK, *TWO_AXES)):
        for options in [{"boundary": kind, "fillvalue": 2.0} for kind in ("fill", "wrap", "symm")] if name in TWO_AXES else [{}]:
            exact = getattr(scipy.signal, name)(x.astype(np.float64), h.astype(np.float64), mode, **options)
            y = getattr(signal, name)(x, h, mode, **options)
            assert y.dtype == dtype
            np.testing.assert_allclose(y, exact, rtol=0, atol=bound * (abs(h).sum() * abs(x).max() + 40))
            assert swept.pop() and not swept, (name, mode, options)
    out = poisoned((200, 190), dtype)
    assert signal.convolve(x, h, "same", out=out) is out
    np.testing.assert_array_equal(out, signal.convolve(x, h, "same"))
    for out in (np.full((200, 190), np.nan, dtype, order="F"), np.full((190, 200), np.nan, dtype)[::-1].T):
        assert signal.convolve(x, h, "same", out=out) is out
        np.testing.assert_array_equal(out, signal.convolve(x, h, "same"))
    swept.clear()
    h[3, 5] *= 1 + 1e-4
    np.testing.assert_allclose(signal.convolve(x, h), scipy.signal.convolve(x, h, method="direct"), rtol=0, atol=1e-4)
    assert not swept
