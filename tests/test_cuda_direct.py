"""The GPU's direct sum and grad_bias: every operation, dtype and geometry against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.cpu import bias as cpu_bias
from numbaconv.cuda import bias, direct
from numbaconv.cuda._backend import SIMULATED
from numbaconv.problem import OPS, ConvProblem, Options
from numbaconv.recipe import TENSORS
from tests.cases import COMPUTED, NAMED, exact_sum, fill, on_gpu, operands, poisoned, random_problem, to_gpu, to_host
from tests.tolerance import allowed

host_functions = pytest.mark.skipif(not SIMULATED, reason="about functions that only kernels can call on a GPU")
MOST = 20_000  # products that the simulator gets through in no time; float32 gets more


def computed(problem, op, dtype, a, b, options=None):
    return on_gpu(direct.run, problem, op, a, b, poisoned(problem.shape(TENSORS[op][2]), dtype), options)


def same(problem, op, dtype, rng):
    a, b = operands(problem, op, dtype, rng)
    np.testing.assert_array_equal(computed(problem, op, dtype, a, b), reference.run(problem, op, a, b), err_msg=f"{problem} {op}")


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("op", OPS)
def test_named_cases(op, dtype, rng):
    for case in NAMED:
        if case.problem.macs <= (MOST if dtype != "float32" else 4 * MOST):
            same(case.problem, op, dtype, rng)


@pytest.mark.parametrize("op", OPS)
def test_random_generic_problems(op, rng):
    for i in range(60):
        problem = random_problem(rng, generic=True, largest=5)
        if problem.macs <= MOST:
            same(problem, op, COMPUTED[i % len(COMPUTED)], rng)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_integers_wrap_before_the_activation(dtype, rng):
    problem = NAMED[2].problem
    info = np.iinfo(dtype)
    x, w, shift = (rng.integers(info.min, info.max, shape, dtype, endpoint=True) for shape in (problem.shape("x"), problem.shape("w"), (4,)))
    for activation in (None, "relu"):
        expected = reference.run(problem, "fprop", x, w, shift, activation)
        np.testing.assert_array_equal(computed(problem, "fprop", dtype, x, w, Options(shift, activation)), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("last", [False, True])
def test_bias_and_activations(dtype, last, rng):
    problem = replace(NAMED[2].problem, channels_last=last, derived={})
    a, b = operands(problem, "fprop", dtype, rng, "signed")
    shift = fill((problem.out_channels,), dtype, rng, "signed")
    for activation in (None, *(reference.ACTIVATIONS if np.dtype(dtype).kind == "f" else ())):
        expected = reference.run(problem, "fprop", a.astype(np.result_type(dtype, "f8")), b, shift, activation)
        out = computed(problem, "fprop", dtype, a, b, Options(shift, activation))
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int16"])
def test_sums_with_few_outputs_are_cut_into_pieces(dtype, rng):
    line = ConvProblem(1, 1, 2, 1, (1, 1, 3000), (1, 1, 3000), (1, 1, 1), rank=1)
    wide = ConvProblem(2, 2, 2, 2, (1, 1, 1000), (1, 1, 3), (1, 1, 998), rank=1, channels_last=True)
    for problem, op in ((line, "fprop"), (wide, "wgrad")):
        assert direct.workspace(problem, op, np.dtype(dtype)) > 0
        same(problem, op, dtype, rng)
    a, b = operands(line, "fprop", dtype, rng)
    shift = fill((2,), dtype, rng)
    activation = None if dtype == "complex64" else "relu"
    expected = reference.run(line, "fprop", a, b, shift, activation)
    np.testing.assert_array_equal(computed(line, "fprop", dtype, a, b, Options(shift, activation)), expected)


@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_errors_stay_small_on_long_sums(kind, rng):
    long = ConvProblem(1, 1, 1, 1, (1, 1, 20_000), (1, 1, 20_000), (1, 1, 1), rank=1)
    deep = ConvProblem(1, 5000, 1, 1, (1, 2, 2), (1, 2, 2), (1, 1, 1), rank=2)
    for problem in (long, deep):
        a, b = operands(problem, "fprop", "float32", rng, kind)
        exact, magnitude = exact_sum(problem, "fprop", a, b), exact_sum(problem, "fprop", abs(a), abs(b))
        error = abs(computed(problem, "fprop", "float32", a, b) - exact)
        assert (error <= allowed(magnitude, "float32", problem.gemm_shape("fprop")[2], "direct", positive=kind == "positive")).all()


def test_nan_and_infinity_reach_the_outputs_that_see_them_and_no_others(rng):
    problem = NAMED[2].problem
    for op in OPS:
        for where in range(2):
            arrays = operands(problem, op, "float32", rng, "positive")
            arrays[where].reshape(-1)[[0, 7, 20]] = np.inf, np.nan, -np.inf
            with np.errstate(invalid="ignore"):
                expected = reference.run(problem, op, *arrays)
            np.testing.assert_allclose(computed(problem, op, "float32", *arrays), expected, rtol=1e-5)


@host_functions
def test_geometry_of_problems_beyond_32_bits():
    """A thread's indices, by the kernel's own functions, are those of the equation for outputs that int32 could not number."""
    problem = ConvProblem(3, 4, 6, 2, (1, 40_000, 50_000), (1, 3, 2), (1, 39_998, 49_999), rank=2, channels_last=True)
    geo = direct.geometry(problem, "fprop")
    assert geo.outputs == 3 * 6 * 39_998 * 49_999 > 2**33
    for coordinates in ((2, 1, 2, 0, 39_997, 49_998), (0, 0, 1, 0, 5, 6)):
        n, group, k, z, p, q = coordinates
        at = np.ravel_multi_index((n, z, p, q, group * 3 + k), problem.shape("y"))
        assert direct.outputs_place(int(at), geo) == coordinates
        assert at == n * geo.y_a + group * geo.y_group + k * geo.y_b + z * geo.y_0 + p * geo.y_1 + q * geo.y_2


@host_functions
def test_places_are_those_of_the_equation(rng):
    for u in (1, 2, 3):
        for numerator in range(-7, 20):
            index, rest = divmod(numerator, u)
            assert direct.place(numerator, u, 5) == (index if rest == 0 and 0 <= index < 5 else -1)


@pytest.mark.parametrize("dtype", COMPUTED)
def test_grad_bias(dtype, rng):
    for shape, last in (
        ((3, 2, 5, 7), False),
        ((2, 5, 3, 33), True),
        ((40, 1, 130), False),
        ((1, 700, 3), True),
        ((0, 3, 4), False),
        ((2, 3, 0), False),
    ):
        dy = fill(shape, dtype, rng)
        result = to_host(bias.grad_bias(to_gpu(dy), last))
        assert result.dtype == dy.dtype
        np.testing.assert_array_equal(result, cpu_bias.grad_bias(dy, last), err_msg=str(shape))


def test_grad_bias_of_float32_is_summed_in_float64(rng):
    for shape, last in (((2, 1, 3000), False), ((1, 2000, 2), True)):
        dy = rng.random(shape, np.float32)
        result = to_host(bias.grad_bias(to_gpu(dy), last))
        np.testing.assert_allclose(result, dy.sum(axis=(0, 1) if last else (0, 2), dtype=np.float64), rtol=1.2e-7)
