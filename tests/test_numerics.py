"""Rounding errors against the table of the design, for sums of 1 to 10⁶ terms; NaN, infinity and wrap-around."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
from cases import exact_sum, fill, operands, poisoned
from tolerance import INEXACT, allowed, norms, tolerance

import numbaconv as nc
from numbaconv import reference
from numbaconv.plan import room
from numbaconv.problem import OPS, ConvProblem, Op, Options, Unsupported
from numbaconv.recipe import TENSORS

LENGTHS = (1, 2, 10, 128, 129, 600, 4097, 50_000, 1_000_000)


def compute(algorithm: str, problem: ConvProblem, op: Op, a: Any, b: Any) -> Any:
    out = poisoned(problem.shape(TENSORS[op][2]), a.dtype)
    try:
        room("cpu")[algorithm].cost(problem, op, out.dtype)
    except Unsupported as reason:
        pytest.skip(f"{algorithm} {reason}")
    room("cpu")[algorithm].run(problem, op, a, b, out, Options())
    return out


def refuses(algorithm: str, problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> bool:
    try:
        room("cpu")[algorithm].cost(problem, op, dtype)
    except Unsupported:
        return True
    return False


def problem_of_length(op: Op, length: int, shape: str) -> ConvProblem:
    """Return a cheap problem whose sum for ``op`` has ``length`` terms, along many channels, many taps or many outputs."""
    few = 5 if length > 10_000 else 17
    if op == "wgrad":  # the sum runs over the batch and the outputs
        batch = {"taps": 1, "channels": length, "rows": max(1, math.isqrt(length))}[shape]
        size = max(1, length // batch)
        if shape == "rows":
            return ConvProblem.from_shapes((1, 2, batch, size), (few, 2, 1, 1), rank=2)
        return ConvProblem.from_shapes((batch, 2, size + 2), (few, 2, 3), rank=1)
    taps = {"taps": length, "channels": 1, "rows": max(1, math.isqrt(length) // 8)}[shape]
    channels = max(1, length // taps)
    if op == "fprop":
        x, w = ((1, channels, taps + 9), (few, channels, taps)) if shape != "rows" else ((1, channels, 3, taps + 2), (few, channels, 1, taps))
    else:  # padded so that each of the three inputs meets every tap
        x, w = ((1, 2, 3), (channels, 2, taps)) if shape != "rows" else ((1, 3, 2, 3), (channels, 3, 1, taps))
    pad = (taps - 1) * (op == "dgrad")
    return ConvProblem.from_shapes(x, w, rank=len(w) - 2, padding=((0, 0),) * (len(w) - 3) + ((pad, pad),))


@functools.cache
def exact_and_magnitude(op: Op, length: int, shape: str, dtype: str, kind: str, seed: int) -> tuple[Any, Any]:
    """Return the sums of `problem_of_length`'s operands and those of their magnitudes: once for all algorithms."""
    problem = problem_of_length(op, length, shape)
    a, b = operands(problem, op, dtype, np.random.default_rng(seed), kind)
    exact = exact_sum(problem, op, a, b)
    return exact, exact if kind == "positive" else reference.run(problem, op, abs(a).astype(np.float64), abs(b).astype(np.float64))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", OPS)
def test_errors_do_not_grow_with_the_length_of_the_sum(algorithm, op, dtype, record_property):
    worst = {"signed": 0.0, "positive": 0.0}
    late: list[str] = []
    done = 0
    for shape in ("taps", "channels", "rows"):
        for length in LENGTHS:
            if length > (1000 if (shape == "taps") == (op != "wgrad") else 5000 if dtype == "float64" else 10**6):
                continue  # the reference takes a step for every tap, and sums in extended precision slowly
            problem = problem_of_length(op, length, shape)
            if refuses(algorithm, problem, op, np.dtype(dtype)):
                continue
            done += 1
            for seed, kind in enumerate(worst):
                a, b = operands(problem, op, dtype, np.random.default_rng(seed), kind)
                exact, magnitude = exact_and_magnitude(op, length, shape, dtype, kind, seed)
                error = abs(compute(algorithm, problem, op, a, b) - exact)
                worst[kind] = max(worst[kind], float(np.max(error / np.maximum(magnitude, 1e-30))) / float(np.finfo(dtype).eps))
                length_of_sum = problem.gemm_shape(op)[2]
                limit = allowed(magnitude, dtype, length_of_sum, algorithm, positive=kind == "positive", norms=norms(a, b))
                if not np.all(error <= limit):
                    late.append(f"{shape} {length} {kind}: {float(np.max(error / np.maximum(limit, 1e-30))):.2f} of what is allowed")
    record_property("worst", str(worst))
    if not done:
        pytest.skip(f"{algorithm} does none of these problems")
    print(f"\n{algorithm} {op} {dtype}: worst {worst['signed']:.2f} eps random-sign, {worst['positive']:.2f} eps all-positive")
    assert not late, "\n".join(late)


def test_float64_against_fsum(algorithm, rng):
    for length, kind in ((3, "signed"), (1000, "signed"), (5000, "positive"), (100_000, "positive")):
        taps = min(length, 100)
        channels = length // taps
        x, w = fill((1, channels, 1, 1, taps + 1), "float64", rng, kind), fill((9, channels, 1, 1, taps), "float64", rng, kind)
        problem = ConvProblem.from_shapes((1, channels, taps + 1), (9, channels, taps), rank=1)
        y = compute(algorithm, problem, "fprop", x, w)
        for k, q in ((0, 0), (8, 1)):
            terms = (x[0, :, 0, 0, q : q + taps] * w[k, :, 0, 0]).ravel()
            exact = math.fsum(terms)  # the products are rounded: half an eps each at most
            bound = tolerance("float64", length, algorithm, positive=kind == "positive") + np.finfo(np.float64).eps / 2
            assert abs(y[0, k, 0, 0, q] - exact) <= bound * np.abs(terms).sum(), (length, kind)


def test_a_large_offset_does_not_drown_the_rest(algorithm, rng):
    x = (rng.standard_normal((1, 3, 1, 40, 40)) + 1e4).astype(np.float32)
    w = fill((8, 3, 1, 3, 3), "float32", rng, "signed")
    problem = ConvProblem.from_shapes((1, 3, 40, 40), w.shape[:2] + (3, 3), rank=2, padding=1)
    error = abs(compute(algorithm, problem, "fprop", x, w) - exact_sum(problem, "fprop", x, w))
    assert np.all(error <= allowed(reference.run(problem, "fprop", abs(x), abs(w)), "float32", 27, algorithm, norms=norms(x, w)))


GEOMETRIES = (
    ((2, 3, 9, 8), (5, 3, 3, 3), {}),
    ((2, 4, 9, 30), (8, 2, 3, 3), {"groups": 2, "stride": 2}),
    ((1, 3, 70, 70), (9, 3, 3, 3), {"stride": (1, 2)}),
    ((3, 2, 300), (6, 2, 5), {"dilation": 2}),
    ((2, 9, 8, 3), (5, 3, 3, 3), {"layout": "NHWC"}),
)


def non_finite(values: Any, rng: np.random.Generator, what: tuple[float, ...]) -> Any:
    values = values.copy()
    flat = values.reshape(-1)
    flat[rng.choice(flat.size, len(what), replace=False)] = what
    return values


def same_pattern(found: Any, expected: Any, message: str) -> None:
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=f"NaN: {message}")
    np.testing.assert_array_equal(np.where(np.isinf(found), np.sign(found), 0), np.where(np.isinf(expected), np.sign(expected), 0), err_msg=message)


def spread(algorithm: str, op: Op, padding: bool, which: int, what: tuple[float, ...], rng: np.random.Generator) -> None:
    from numbaconv.problem import LAYOUTS

    for x, w, options in GEOMETRIES:
        rank = len(w) - 2
        extra = dict(options)
        last = extra.pop("layout", None) == LAYOUTS[rank][1]
        problem = ConvProblem.from_shapes(x, w, rank=rank, channels_last=last, padding=2 if padding else 0, **extra)
        arrays = list(operands(problem, op, "float32", rng, "signed"))
        arrays[which] = non_finite(arrays[which], rng, what)
        with np.errstate(all="ignore"):
            expected = reference.run(problem, op, *(t.astype(np.float64) for t in arrays))
        out = poisoned(expected.shape, "float32")
        try:
            room("cpu")[algorithm].cost(problem, op, out.dtype)
        except Unsupported:
            continue
        out[...] = 0
        room("cpu")[algorithm].run(problem, op, *arrays, out, Options())
        same_pattern(out, expected, f"{algorithm} {op} {what} in array {which}, {problem}")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("what", [(math.nan,), (math.inf,), (-math.inf, math.inf), (math.inf, math.nan, -math.inf)])
def test_nan_and_infinity_spread_as_in_the_direct_sum(algorithm, op, which, what, rng):
    for _ in range(4):
        spread(algorithm, op, False, which, what, rng)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("which", [0, 1])
def test_padding_is_no_term_of_the_sum_and_makes_no_nan(algorithm, op, which, rng):
    for _ in range(3):
        spread(algorithm, op, True, which, (math.inf, math.nan), rng)


def test_auto_spreads_nan_and_infinity_without_a_warning(rng):
    for what in ((math.nan,), (math.inf,), (math.inf, -math.inf)):
        x = non_finite(fill((2, 8, 33, 34), "float32", rng, "signed"), rng, what)
        w, dy = fill((8, 8, 3, 3), "float32", rng, "signed"), fill((2, 8, 31, 32), "float32", rng, "signed")
        problem = ConvProblem.from_shapes(x.shape, w.shape, rank=2)
        x5, w5, dy5 = x.reshape(problem.shape("x")), w.reshape(problem.shape("w")), dy.reshape(problem.shape("y"))
        with np.errstate(all="ignore"):
            y, dw = reference.run(problem, "fprop", x5, w5), reference.run(problem, "wgrad", dy5, x5)
        same_pattern(nc.conv2d(x, w), y.reshape(dy.shape), f"{what}")
        same_pattern(nc.conv2d_grad_weight(x, dy, w.shape), dw.reshape(w.shape), f"{what}")


def test_the_gradient_of_the_bias_spreads_infinity_without_a_warning():
    dy = np.zeros((2, 3, 4), np.float32)
    dy[0, 0, 0], dy[0, 1, 0], dy[1, 1, 0], dy[0, 2, 1] = math.inf, math.inf, -math.inf, math.nan
    db = nc.conv1d_grad_bias(dy)
    assert db[0] == math.inf and np.isnan(db[1:]).all()


def test_the_gradient_of_the_bias_is_within_the_table(rng):
    for dtype, kind, layout in itertools.product(("float32", "float64"), ("positive", "signed"), ("NCHW", "NHWC")):
        dy = fill((4, 3, 300, 3), dtype, rng, kind)
        db = nc.conv2d_grad_bias(dy, layout=layout)
        axes = (0, 1, 2) if layout == "NHWC" else (0, 2, 3)
        exact, size = (t.astype(np.longdouble).sum(axes) for t in (dy, abs(dy)))
        assert np.all(abs(db - exact) <= tolerance(dtype, dy.size // 3, "direct", positive=kind == "positive") * size)


@pytest.mark.parametrize("activation", sorted(reference.ACTIVATIONS))
def test_activations_of_extreme_values(activation):
    x = np.array([-math.inf, -1e30, -100, -20, -1e-30, 0, 1e-30, 20, 100, 1e30, math.inf, math.nan], np.float32).reshape(1, 1, -1)
    with np.errstate(all="ignore"):
        expected = reference.ACTIVATIONS[activation](x.astype(np.float64)).astype(np.float32)
    found = nc.conv1d(x, np.ones((1, 1, 1), np.float32), activation=activation)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_integers_wrap_as_numpys_do():
    x = np.full((1, 1, 5), 2**62, np.int64)
    assert nc.conv1d(x, np.array([[[1, 1, 1]]])).tolist() == [[[3 * 2**62 - 2**64] * 3]]
    assert nc.conv1d(np.full((1, 1, 2), 100, np.int8), np.full((1, 1, 2), 100, np.int8)).item() == np.int64(20000).astype(np.int8)
    big = np.full((1, 1, 1), 2**53 + 1, np.uint64)
    assert nc.conv1d_grad_weight(big, np.ones((1, 1, 1), np.uint64), (1, 1, 1)).item() == 2**53 + 1


def test_the_sign_and_scale_of_tiny_and_huge_values_survive(algorithm):
    for scale in (2.0**-70, 2.0**60):
        problem = ConvProblem.from_shapes((1, 2, 6, 6), (4, 2, 3, 3), rank=2)
        rng = np.random.default_rng(1)
        x, w = operands(problem, "fprop", "float32", rng)
        found, expected = compute(algorithm, problem, "fprop", x * np.float32(scale), w) / np.float32(scale), reference.run(problem, "fprop", x, w)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 if algorithm in INEXACT else 0.0)
