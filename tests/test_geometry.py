"""Geometry chosen by hypothesis, so that a failure comes as the smallest problem that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerance import INEXACT

from numbaconv import reference
from numbaconv.plan import room
from numbaconv.problem import OPS, ConvProblem, Options, Unsupported

AXIS = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(-2, 4), st.integers(-2, 4))


@st.composite
def problems(draw: st.DrawFn) -> ConvProblem:
    """Draw anything that conv1d … conv3d or conv_transpose1d … 3d accept."""
    axes = draw(st.lists(AXIS, min_size=1, max_size=3))
    rank, channels_last = len(axes), draw(st.booleans())
    batch, groups = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 10)), draw(st.integers(1, 3))
    options: dict[str, Any] = {"stride": [a[2] for a in axes], "dilation": [a[3] for a in axes], "groups": groups, "rank": rank}
    transposed = draw(st.booleans())
    named = draw(st.sampled_from(["same", "same_lower", "valid", None]))
    options["padding"] = named or [(a[4], a[5]) for a in axes]
    channels = rows * groups if transposed else columns * groups
    sizes, taps = tuple(a[0] for a in axes), tuple(a[1] for a in axes)
    shape = (batch, *sizes, channels) if channels_last else (batch, channels, *sizes)
    make = ConvProblem.from_transposed_shapes if transposed else ConvProblem.from_shapes
    try:
        return make(shape, (rows * groups, columns, *taps), channels_last=channels_last, **options)
    except ValueError:
        options["padding"] = [(a[1] * a[3], a[1] * a[3]) for a in axes] if not transposed else 0
        return make(shape, (rows * groups, columns, *taps), channels_last=channels_last, **options)


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_every_algorithm_equals_the_reference(problem: ConvProblem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w, dy = (rng.integers(-8, 9, problem.shape(t)).astype(np.float32) for t in ("x", "w", "y"))
    for op, a, b, like in zip(OPS, (x, dy, dy), (w, w, x), (dy, x, w), strict=True):
        want = reference.run(problem, op, a, b)
        assert want.shape == like.shape
        for name, algorithm in room("cpu").items():
            try:
                algorithm.cost(problem, op, like.dtype)
            except Unsupported:
                continue
            out = np.full_like(like, np.nan)
            algorithm.run(problem, op, a, b, out, Options())
            np.testing.assert_allclose(out, want, rtol=0, atol=1e-2 if name in INEXACT else 0, err_msg=f"{name} {op}")


@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_sizes_and_involutions(problem: ConvProblem) -> None:
    assert problem.transpose().transpose() == problem
    assert problem.swap_filter_output().swap_filter_output() == problem
    assert problem.transpose().macs == problem.batch * np.prod(problem.input) * problem.in_channels * (
        problem.out_channels // problem.groups
    ) * np.prod(problem.filter)
    for axis in range(3):
        i, o, r, s, d = (v[axis] for v in (problem.input, problem.output, problem.filter, problem.stride, problem.dilation))
        low, high = problem.low[axis], problem.high[axis]
        assert (o - 1) * s + (r - 1) * d + 1 == i + low + high
