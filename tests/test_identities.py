"""What holds for any correct convolution: adjoints, linearity, shifts and impulses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import FLOATS, NAMED, fill, poisoned, random_problem
from tolerance import INEXACT, norms, tolerance

from numbaconv import reference
from numbaconv.plan import room
from numbaconv.problem import OPS, ConvProblem, Op, Options, Unsupported
from numbaconv.recipe import TENSORS


def compute(algorithm: str, problem: ConvProblem, op: Op, tensors: dict[str, Any]) -> Any:
    """Run ``algorithm``, or direct where it refuses."""
    a, b, out = TENSORS[op]
    result = poisoned(problem.shape(out), tensors[a].dtype)
    try:
        room("cpu")[algorithm].cost(problem, op, result.dtype)
    except Unsupported:
        algorithm = "direct"
    room("cpu")[algorithm].run(problem, op, tensors[a], tensors[b], result, Options())
    return result


def dot(a: Any, b: Any) -> Any:
    return np.sum(a.astype(np.longdouble) * b.astype(np.longdouble))


def problems(rng: np.random.Generator, count: int) -> list[ConvProblem]:
    return [case.problem for case in NAMED] + [random_problem(rng) for _ in range(count)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_the_three_operations_are_adjoint(algorithm, dtype, kind, rng):
    for problem in problems(rng, 30):
        tensors = {t: fill(problem.shape(t), dtype, rng, kind) for t in ("x", "w", "y")}
        sums, sizes = [], []
        for op in OPS:
            out = TENSORS[op][2]
            sums.append(dot(tensors[out], compute(algorithm, problem, op, tensors)))
            bound = tolerance(dtype, problem.gemm_shape(op)[2], algorithm, positive=kind == "positive")
            first, second = (tensors[t] for t in TENSORS[op][:2])
            extra = norms(first, second) * float(np.finfo(dtype).eps) * float(abs(tensors[out]).sum()) if algorithm == "fft" else 0.0
            sizes.append((bound, extra))
        magnitude = float(dot(abs(tensors["y"]), reference.run(problem, "fprop", abs(tensors["x"]), abs(tensors["w"]))))
        for (a, ta), (b, tb) in itertools.combinations(zip(sums, sizes, strict=True), 2):
            assert abs(a - b) <= (ta[0] + tb[0]) * magnitude + ta[1] + tb[1], (problem, float(abs(a - b) / magnitude))


@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_linear_in_both_arrays(algorithm, op, rng):
    first, second, _ = TENSORS[op]
    for problem, varied in itertools.product(problems(rng, 50), (first, second)):
        tensors = {t: fill(problem.shape(t), "float64", rng) for t in ("x", "w", "y")}
        other = fill(problem.shape(varied), "float64", rng)
        separate = 2 * compute(algorithm, problem, op, tensors) - 3 * compute(algorithm, problem, op, {**tensors, varied: other})
        together = compute(algorithm, problem, op, {**tensors, varied: 2 * tensors[varied] - 3 * other})
        if algorithm in INEXACT:
            np.testing.assert_allclose(together, separate, atol=1e-8)
        else:
            np.testing.assert_array_equal(together, separate, err_msg=f"{varied} {problem}")


def test_a_shift_of_the_padding_by_strides_shifts_the_output(algorithm, rng):
    for _ in range(100):
        problem = random_problem(rng, largest=12)
        m = int(rng.integers(1, 4))
        if problem.output[2] <= m:
            continue
        low = (*problem.low[:2], problem.low[2] + m * problem.stride[2])
        shifted = replace(problem, low=low, derived={})
        tensors = {t: fill(problem.shape(t), "float32", rng) for t in ("x", "w")}
        before, after = (compute(algorithm, p, "fprop", tensors) for p in (problem, shifted))
        axis = 3 if problem.channels_last else 4
        kept = problem.output[2] - m
        late, early = np.take(after, range(m, m + kept), axis), np.take(before, range(kept), axis)
        np.testing.assert_allclose(late, early, atol=1e-3 * (algorithm in INEXACT), rtol=0, err_msg=str(problem))


def test_an_impulse_gives_the_reversed_filters(algorithm, rng):
    for rank in (1, 2, 3):
        taps = (3, 4, 2)[:rank]
        w = rng.standard_normal((5, 2, *taps)).astype(np.float32)
        x = np.zeros((1, 2, *(2 * t - 1 for t in taps)), np.float32)
        x[(0, 1, *(t - 1 for t in taps))] = 1
        problem = ConvProblem.from_shapes(x.shape, w.shape, rank=rank)
        y = compute(algorithm, problem, "fprop", {"x": x.reshape(problem.shape("x")), "w": w.reshape(problem.shape("w"))})
        flipped = w[(slice(None), 1, *(slice(None, None, -1),) * rank)]
        bound = 1e-5 if algorithm in INEXACT else 0
        np.testing.assert_allclose(y.reshape(1, 5, *taps)[0], flipped, atol=bound, rtol=0)


def test_an_impulse_of_the_gradient_gives_the_input_and_the_filters(algorithm, rng):
    x, w = rng.standard_normal((1, 2, 1, 7, 8)), rng.standard_normal((3, 2, 1, 3, 4))
    problem = ConvProblem.from_shapes((1, 2, 7, 8), (3, 2, 3, 4), rank=2, stride=(2, 1))
    dy = np.zeros(problem.shape("y"))
    dy[0, 1, 0, 1, 2] = 1
    tensors = {"x": x, "w": w, "y": dy}
    bound = 1e-13 if algorithm in INEXACT else 0
    dw, dx = (compute(algorithm, problem, op, tensors) for op in ("wgrad", "dgrad"))
    np.testing.assert_allclose(dw[1], x[0, :, :, 2:5, 2:6], atol=bound, rtol=0)
    np.testing.assert_allclose(dx[0, :, :, 2:5, 2:6], w[1], atol=bound, rtol=0)
    assert np.count_nonzero(np.abs(dw) > bound) == dw[1].size
    assert np.count_nonzero(np.abs(dx) > bound) == w[1].size
