"""Room × algorithm × op × dtype × case against the reference; outputs start as NaN, so that what is not written shows."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import COMPLEX, COMPUTED, FLOATS, INTEGERS, NAMED, Case, exact_sum, fill, operands, poisoned, random_case, random_problem
from tolerance import INEXACT, allowed, norms

import numbaconv as nc
from numbaconv import reference
from numbaconv.cpu import _parallel
from numbaconv.plan import room
from numbaconv.problem import OPS, ConvProblem, Op, Options, Unsupported
from numbaconv.recipe import TENSORS

ACTIVATIONS = tuple(reference.ACTIVATIONS)


def refuses(algorithm: str, problem: ConvProblem, op: Op, dtype: Any) -> bool:
    try:
        room("cpu")[algorithm].cost(problem, op, np.dtype(dtype))
    except Unsupported as reason:
        assert str(reason), "a refusal gives its reason"
        return True
    return False


def compute(algorithm: str, problem: ConvProblem, op: Op, a: Any, b: Any, bias: Any = None, activation: str | None = None) -> Any:
    out = poisoned(problem.shape(TENSORS[op][2]), a.dtype)
    untouched = a.copy(), b.copy()
    room("cpu")[algorithm].run(problem, op, a, b, out, Options(bias, activation))
    assert np.array_equal(a, untouched[0]) and np.array_equal(b, untouched[1]), "an input was written to"
    return out


def channels_last(problem: ConvProblem, op: Op) -> bool:
    return problem.channels_last and op != "wgrad"


def check_exact(algorithm: str, problem: ConvProblem, op: Op, dtype: str, rng: np.random.Generator) -> bool:
    """Compare on small integers, where floats must be exact too; return whether the algorithm took the problem."""
    if refuses(algorithm, problem, op, dtype):
        return False
    a, b = operands(problem, op, dtype, rng)
    expected = reference.run(problem, op, a, b)
    found = compute(algorithm, problem, op, a, b)
    if algorithm in INEXACT:
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=f"{algorithm} {op} {dtype} {problem}")
    else:
        np.testing.assert_array_equal(found, expected, err_msg=f"{algorithm} {op} {dtype} {problem}")
    return True


def check_near(algorithm: str, problem: ConvProblem, op: Op, dtype: str, rng: np.random.Generator, kind: str) -> None:
    a, b = operands(problem, op, dtype, rng, kind)
    exact = exact_sum(problem, op, a, b)
    magnitude = reference.run(problem, op, np.abs(a).astype(np.float64), np.abs(b).astype(np.float64))
    error = np.abs(compute(algorithm, problem, op, a, b) - exact)
    options = {"channels_last": channels_last(problem, op), "norms": norms(a, b)}
    bound = allowed(magnitude, dtype, problem.gemm_shape(op)[2], algorithm, positive=kind == "positive", **options)
    assert np.all(error <= bound), f"{algorithm} {op} {dtype} {kind}: {np.nanmax(error / np.maximum(bound, 1e-300))} of the bound, {problem}"


@pytest.mark.parametrize("op", OPS)
def test_named_cases_are_exact_on_small_integers(algorithm, op, rng):
    for number, case in enumerate(NAMED):  # each in one of the floats: a kernel is made, and compiled, for every geometry and dtype
        for dtype in (FLOATS[number % 2], "int32", "complex64"):
            check_exact(algorithm, case.problem, op, dtype, rng)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", COMPUTED)
def test_random_layers_are_exact_on_small_integers(algorithm, op, dtype, rng):
    count = 50 if dtype in FLOATS else 25
    done = sum(check_exact(algorithm, random_problem(rng), op, dtype, rng) for _ in range(count))
    assert done or algorithm != "direct"


@pytest.mark.parametrize("op", OPS)
def test_dilated_inputs_and_flipped_taps_are_exact_on_small_integers(algorithm, op, rng):
    for _ in range(150):
        check_exact(algorithm, random_problem(rng, generic=True), op, "float32", rng)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS + COMPLEX)
def test_random_layers_are_within_the_table(algorithm, op, dtype, rng):
    for number in range(30):
        problem = random_problem(rng)
        if not refuses(algorithm, problem, op, dtype):
            check_near(algorithm, problem, op, dtype, rng, ("signed", "positive")[number % 2])


def test_direct_supports_everything_and_is_last(rng):
    assert list(room("cpu"))[-1] == "direct"
    for op, dtype in itertools.product(OPS, COMPUTED):
        for generic in (False, True):
            assert not refuses("direct", random_problem(rng, generic), op, dtype)


def test_cost_is_a_positive_float_and_workspace_a_size(algorithm, rng):
    for op, dtype, _ in itertools.product(OPS, ("float32", "complex128"), range(30)):
        problem = random_problem(rng)
        if refuses(algorithm, problem, op, dtype):
            continue
        cost = room("cpu")[algorithm].cost(problem, op, np.dtype(dtype))
        size = room("cpu")[algorithm].workspace(problem, op, np.dtype(dtype))
        assert type(cost) is float and cost > 0, (op, problem)
        assert type(size) is int and size >= 0, (op, problem)


@pytest.mark.parametrize("op", ("fprop", "dgrad"))
@pytest.mark.parametrize("dtype", FLOATS)
def test_bias_and_activation_are_fused_exactly_as_defined(algorithm, op, dtype, rng):
    for number, activation in itertools.product(range(8), (None, *ACTIVATIONS)):
        problem = random_problem(rng)
        if refuses(algorithm, problem, op, dtype):
            continue
        a, b = operands(problem, op, dtype, rng, "signed")
        channels = problem.out_channels if op == "fprop" else problem.in_channels
        bias = fill((channels,), dtype, rng, "signed") if number % 4 else None
        exact = exact_sum(problem, op, a, b)
        if bias is not None:
            exact = exact + (bias if problem.channels_last else bias.reshape(-1, 1, 1, 1))
        if activation is not None:
            exact = reference.ACTIVATIONS[activation](exact if activation != "gelu" else exact.astype(np.float64))
        size = reference.run(problem, op, np.abs(a), np.abs(b), None if bias is None else np.abs(bias)).astype(np.float64)
        options = {"channels_last": channels_last(problem, op), "norms": norms(a, b)}
        bound = allowed(size, dtype, problem.gemm_shape(op)[2], algorithm, activation=activation, **options)
        error = np.abs(compute(algorithm, problem, op, a, b, bias, activation) - exact)
        assert np.all(error <= bound), (activation, problem, float(np.max(error / bound)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_add_bias_and_relu_with_wrap_around(algorithm, dtype, rng):
    info = np.iinfo(dtype)
    for activation, _ in itertools.product((None, "relu"), range(6)):
        problem = random_problem(rng)
        if refuses(algorithm, problem, "fprop", dtype):
            continue
        x, w = (rng.integers(info.min, info.max, problem.shape(t), dtype=dtype, endpoint=True) for t in ("x", "w"))
        bias = rng.integers(info.min, info.max, problem.out_channels, dtype=dtype, endpoint=True)
        expected = reference.run(problem, "fprop", x, w, bias, activation)
        np.testing.assert_array_equal(compute(algorithm, problem, "fprop", x, w, bias, activation), expected, err_msg=f"{activation} {problem}")


@pytest.mark.parametrize("op", OPS)
def test_integers_of_full_range_wrap_and_are_never_rounded(algorithm, op, rng):
    for dtype, _ in itertools.product(INTEGERS, range(8)):
        info, problem = np.iinfo(dtype), random_problem(rng)
        if refuses(algorithm, problem, op, dtype):
            continue
        a, b = (rng.integers(info.min, info.max, problem.shape(t), dtype=dtype, endpoint=True) for t in TENSORS[op][:2])
        expected = reference.run(problem, op, a, b)
        np.testing.assert_array_equal(compute(algorithm, problem, op, a, b), expected, err_msg=f"{op} {dtype} {problem}")


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_bias(algorithm, dtype, rng):
    for _ in range(8):
        problem = random_problem(rng)
        if not refuses(algorithm, problem, "fprop", dtype):
            a, b = operands(problem, "fprop", dtype, rng)
            bias = fill((problem.out_channels,), dtype, rng)
            found, atol = compute(algorithm, problem, "fprop", a, b, bias), 1e-3 if algorithm in INEXACT else 0
            np.testing.assert_allclose(found, reference.run(problem, "fprop", a, b, bias), rtol=0, atol=atol)


# Through the public functions: layouts in memory, ranks, batches.


def expected_of(case: Case, kind: str, x: Any, w: Any, dy: Any = None) -> Any:
    """Return what the reference makes of a public call, in the shape that the call has."""
    problem, rank = case.problem, case.rank
    unbatched = len(case.x) == rank + 1

    def full(t: Any, tensor: Any) -> Any:
        return t.reshape(problem.shape(tensor))

    inner, outer = ("y", "x") if case.transposed else ("x", "y")
    if kind == "forward":
        out = reference.run(problem, "dgrad" if case.transposed else "fprop", full(x, inner), full(w, "w"))
        shape = problem.shape(outer, rank)
    elif kind == "grad_input":
        out = reference.run(problem, "fprop" if case.transposed else "dgrad", full(dy, outer), full(w, "w"))
        shape = problem.shape(inner, rank)
    else:
        a, b = (x, dy) if case.transposed else (dy, x)
        out = reference.run(problem, "wgrad", full(a, "y"), full(b, "x"))
        return out.reshape(case.w)
    return out.reshape(shape[1:] if unbatched else shape)


def out_shape(case: Case) -> tuple[int, ...]:
    shape = case.problem.shape("x" if case.transposed else "y", case.rank)
    return shape[1:] if len(case.x) == case.rank + 1 else shape


def check_call(case: Case, dtypes: tuple[str, str], rng: np.random.Generator, view: Any, method: str = "auto") -> int:
    """Compare the three functions; return how many of them the method could do."""
    x, w, dy = fill(case.x, dtypes[0], rng), fill(case.w, dtypes[1], rng), fill(out_shape(case), dtypes[0], rng)
    dtype = np.result_type(*dtypes)
    # Auto may take Winograd, which is not exact; "highest" leaves it out.
    f, options = case.function, {**case.options, "method": method, "precision": "highest" if method == "auto" else "default"}
    calls = {
        "forward": lambda: getattr(nc, f)(view(x), view(w), **options),
        "grad_input": lambda: getattr(nc, f + "_grad_input")(view(dy), view(w), case.x, **options),
        "grad_weight": lambda: getattr(nc, f + "_grad_weight")(view(x), view(dy), case.w, **options),
    }
    done = 0
    for kind, call in calls.items():
        try:
            found = call()
        except NotImplementedError:
            assert method not in ("auto", "direct")
            continue
        done += 1
        promoted = np.dtype(dtypes[0]) if kind == "grad_weight" else dtype  # x and dy have the same dtype here
        wx, wdy, ww = x.astype(promoted), dy.astype(promoted), w.astype(dtype)
        if kind != "forward" and promoted.kind == "c":
            wx, ww = np.conj(wx), np.conj(ww)
        expected = expected_of(case, kind, wx, ww, wdy).astype(promoted)
        assert found.dtype == promoted and found.flags.c_contiguous and found.flags.writeable
        atol = 1e-3 if method in INEXACT else 0.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=f"{kind} {dtypes} {case}")
    return done


def as_is(t: Any) -> Any:
    return t


def fortran(t: Any) -> Any:
    return np.asfortranarray(t)


def reversed_steps(t: Any) -> Any:
    return t[(slice(None, None, -1),) * t.ndim].copy()[(slice(None, None, -1),) * t.ndim]


def every_second(t: Any) -> Any:
    wide = np.full(tuple(2 * s for s in t.shape), 99, t.dtype)
    wide[(slice(None, None, 2),) * t.ndim] = t
    return wide[(slice(None, None, 2),) * t.ndim]


def read_only(t: Any) -> Any:
    t = t.copy()
    t.setflags(write=False)
    return t


def swapped(t: Any) -> Any:
    return t.astype(t.dtype.newbyteorder())


def unaligned(t: Any) -> Any:
    raw = np.empty(t.nbytes + 1, np.uint8)
    view = raw[1:].view(t.dtype).reshape(t.shape)
    view[...] = t
    assert not view.flags.aligned or t.dtype.itemsize == 1 or not t.size
    return view


def nested_list(t: Any) -> Any:
    return memoryview(t) if t.dtype.kind == "u" else t.transpose().copy().transpose()


VIEWS = (as_is, fortran, reversed_steps, every_second, read_only, swapped, unaligned, nested_list)


@pytest.mark.parametrize("view", VIEWS)
def test_any_memory_layout_of_the_inputs(view, rng):
    for case in NAMED:
        check_call(case, ("float32", "float32"), rng, view)
    for dtype in ("float64", "complex64", "int16", "float16"):
        for _ in range(6):
            check_call(random_case(rng), (dtype, dtype), rng, view)


def test_hundreds_of_random_calls_of_all_functions(algorithm, rng):
    done = sum(check_call(random_case(rng), ("float32", "float32"), rng, as_is, algorithm) for _ in range(200))
    if algorithm == "fir" and not done:
        pytest.skip("none has one axis, one channel in a group and no stride: test_fir has such calls")
    assert done


@pytest.mark.parametrize("dtype", (*COMPUTED, "float16"))
def test_random_calls_of_every_dtype(dtype, rng):
    for _ in range(12):
        check_call(random_case(rng), (dtype, dtype), rng, as_is)


def test_mixed_dtypes_are_computed_in_the_promoted_one(rng):
    pairs = [("int8", "int16"), ("uint8", "int8"), ("float16", "float32"), ("float32", "float64"), ("int32", "float32"), ("int16", "float32"),
             ("float32", "complex64"), ("complex64", "float64"), ("float16", "int8"), ("uint16", "int16"), ("uint64", "int64")]  # fmt: skip
    for pair, _ in itertools.product(pairs, range(4)):
        check_call(random_case(rng), pair, rng, as_is)


def test_float16_is_computed_in_float32_and_rounded_once(rng):
    for _ in range(60):
        case = random_case(rng, transposed=False)
        x, w = fill(case.x, "float16", rng, "signed"), fill(case.w, "float16", rng, "signed")
        found = getattr(nc, case.function)(x, w, **case.options)
        exact = expected_of(case, "forward", x.astype(np.float64), w.astype(np.float64))
        magnitude = expected_of(case, "forward", np.abs(x).astype(np.float64), np.abs(w).astype(np.float64))
        length = case.problem.gemm_shape("fprop")[2]
        rounding = 0.5 * np.finfo(np.float16).eps * np.abs(exact) * (1 + 2**-9)
        assert found.dtype == np.float16
        assert np.all(np.abs(found - exact) <= rounding + allowed(magnitude, np.float32, length, "direct") + 2.0**-25), case


# Large enough to be cut into many batches: the result must not depend on who computes which.

LARGE = (
    ("3x3", (4, 17, 40, 37), (19, 17, 3, 3), {"padding": 1}),
    ("strided", (3, 40, 81, 80), (41, 40, 3, 5), {"stride": (2, 3), "padding": 2}),
    ("depthwise", (4, 32, 56, 56), (32, 1, 5, 5), {"groups": 32, "padding": 2}),
    ("long", (1, 1, 60000), (5, 1, 101), {"padding": 50}),
    ("pointwise", (2, 60, 41, 40), (70, 60, 1, 1), {}),
    ("last", (2, 40, 41, 24), (31, 24, 3, 3), {"layout": "NHWC", "padding": 1}),
)
# With Numba's threads, for which a kernel takes two to three times as long to compile, an algorithm has two of them, or one that it takes.
FOR_NUMBA = {"winograd": ("3x3",), "fir": ("long",)}


@pytest.mark.parametrize("op", OPS)
def test_results_are_bit_identical_for_any_number_of_threads_and_both_pools(algorithm, op, rng, threads_restored, monkeypatch):
    batches = []

    def noting(kernel: Any, tiles: int, scratch: Any, arguments: Any, seconds: float) -> None:
        batches.append(seconds >= _parallel.SERIAL_SECONDS and tiles > 1)
        original(kernel, tiles, scratch, arguments, seconds)

    original = _parallel.run
    monkeypatch.setattr(_parallel, "run", noting)
    for name, x, w, options in LARGE:
        problem = Case(name, "", x, w, options).problem
        if refuses(algorithm, problem, op, "float32"):
            continue
        a, b = operands(problem, op, "float32", rng, "signed")
        bias = fill((problem.out_channels,), "float32", rng, "signed") if op == "fprop" else None
        results = {}
        batches.clear()
        for mode in ("pool", "numba") if name in FOR_NUMBA.get(algorithm, ("depthwise", "pointwise")) else ("pool",):
            nc.set_threading(mode)
            for count in (1, 2, 3, 4, 8):
                with nc.num_threads(count):
                    results[mode, count] = compute(algorithm, problem, op, a, b, bias, "relu" if op == "fprop" else None)
        assert any(batches), f"{name} is too small to be shared"
        first = results["pool", 1]
        different = {
            key: f"{np.count_nonzero(result != first)} of {first.size} by {np.abs(result - first).max()}"
            for key, result in results.items()
            if result.tobytes() != first.tobytes()
        }
        assert not different, f"{algorithm} {op} {name}, whose results reach {np.abs(first).max()}, differs for {different}"


def test_concurrent_callers_get_what_a_single_one_gets(rng):
    from concurrent.futures import ThreadPoolExecutor

    case = Case("", "", (2, 8, 40, 40), (8, 8, 3, 3), {"padding": 1})
    x, w = fill(case.x, "float32", rng, "signed"), fill(case.w, "float32", rng, "signed")
    expected = nc.conv2d(x, w, padding=1)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: nc.conv2d(x, w, padding=1), range(60)):
            np.testing.assert_array_equal(found, expected)


FROM_CACHE = """
import hashlib
import numpy as np
import numbaconv as nc
from numbaconv.cpu import _parallel
_parallel.SERIAL_SECONDS = 0.0
rng = np.random.default_rng(0)
x, w = rng.standard_normal((2, 4, 56, 56), np.float32), rng.standard_normal((4, {channels}, {taps}, {taps}), np.float32)
for mode in ("pool", "numba"):
    nc.set_threading(mode)
    with nc.num_threads(2):
        y = nc.conv2d(x, w, groups=4 // {channels}, padding=2, method="{method}")
    print(hashlib.sha256(y.tobytes()).hexdigest())
"""


@pytest.mark.parametrize(("method", "channels", "taps"), [("fft", 1, 5), ("winograd", 4, 3)])
def test_kernels_that_come_from_the_cache_agree_too(method: str, channels: int, taps: int) -> None:
    """Of kernels compiled in one process one may call the other's functions, which have the same names; those of the cache have their own."""
    code = FROM_CACHE.format(method=method, channels=channels, taps=taps)
    for _ in range(2):  # the second finds all in the cache, if there is one
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
        first, *others = done.stdout.split()
        assert others == [first]
