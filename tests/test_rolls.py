"""Strips that move down a plane: every stride, dilation, padding and size against the reference, and where they are chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

import numbaconv as nc
from numbaconv.cpu import _ahead, _interleaved, _isa, _rolls, stencil
from numbaconv.problem import ConvProblem, Op
from tests.cases import check_stencil, check_stencil_not_finite

FLOATS = [np.float32, np.float64]
WIDE = pytest.mark.skipif(_isa.host().masks != "registers", reason="needs masks in registers")


@pytest.fixture(autouse=True)
def without_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to strips what interleaved planes would do."""
    monkeypatch.setattr(_interleaved, "plan", lambda *arguments: None)


def rolled(p: ConvProblem, op: Op, dtype: Any = np.float32) -> _rolls.Rolls | None:
    """Return how an operation is done in strips, or None."""
    return stencil._planes(stencil._forward(p, op), op, np.dtype(dtype))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("taps", "stride"),
    [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((3, 3), (1, 2)), ((3, 3), (2, 1)), ((2, 5), (1, 2)), ((2, 5), (2, 1)), ((5, 5), (1, 1)), ((5, 5), (2, 2))],
    ids=str,
)
def test_sizes(taps: tuple[int, int], stride: tuple[int, int], rng: np.random.Generator) -> None:
    """Planes narrower than half a vector, of several strips, taller than a tile; an odd number of planes."""
    for size in ((2, 3), (7, 7), (8, 8), (9, 17), (14, 14), (15, 33), (67, 5), (130, 20), (9, 70), (6, 128)):
        for pad in ((0, 0), (taps[0] // 2, taps[1] // 2)):
            if all(n + 2 * q >= t for n, q, t in zip(size, pad, taps, strict=True)):
                check_stencil(ConvProblem.from_shapes((1, 3, *size), (3, 1, *taps), rank=2, stride=stride, padding=pad, groups=3), rng)


@WIDE
def test_planes_that_are_asked_for(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of narrow planes, an odd number of them, slices; large planes are seen coming."""
    monkeypatch.setattr(_ahead, "FAR", 0)
    for size, stride, asked in (((14, 14), 2, True), ((7, 7), 1, True), ((20, 30), 1, True), ((40, 40), 1, False)):
        p = ConvProblem.from_shapes((1, 7, 3, *size), (7, 1, 1, 3, 3), rank=3, stride=(1, stride, stride), padding=(0, 1, 1), groups=7)
        found = rolled(p, "fprop")
        assert found is not None and bool(found.tables[0][16]) == asked, size
        check_stencil(p, rng)


@WIDE
@pytest.mark.parametrize(("dtype", "turns"), [(np.float32, 24), (np.float64, 16)])
def test_random_problems(dtype: Any, turns: int, rng: np.random.Generator) -> None:
    """Dilations, unequal paddings, several filters to a group, flipped filters, batches, slices of volumes."""
    counts = {"fprop": 0, "dgrad": 0}
    for turn in range(turns):
        taps, stride, dilation = ([int(n) for n in rng.integers(1, most + 1, 2)] for most in (5, 2, 2))
        low, high = ([int(n) for n in rng.integers(0, 4, 2)] for _ in range(2))
        size, groups, filters = [int(n) for n in rng.integers(1, 40, 2)], int(rng.integers(1, 4)), int(rng.integers(1, 9)) if turn % 2 else 1
        if any(n + a + b < (t - 1) * d + 1 for n, a, b, t, d in zip(size, low, high, taps, dilation, strict=True)):
            continue
        slices, channels = int(rng.integers(1, 3)), int(rng.integers(1, 4)) if turn % 2 else 1
        shapes = (2, groups * channels, slices, *size), (groups * filters, channels, 1, *taps)
        padding = ((0, 0), *zip(low, high, strict=True))
        p = ConvProblem.from_shapes(*shapes, rank=3, stride=(1, *stride), dilation=(1, *dilation), groups=groups, padding=padding)
        p = replace(p, flipped=bool(rng.integers(2)), derived={})
        ops = tuple(op for op in counts if rolled(p, op, dtype))
        check_stencil(p, rng, dtype, ops)
        for op in ops:
            counts[op] += 1
    assert min(counts.values()) > turns // 8, counts


@pytest.mark.parametrize("size", [(5, 1), (1, 5), (1, 1), (2, 1)], ids=str)
def test_lines(size: tuple[int, int], rng: np.random.Generator) -> None:
    """The gradient of a line has one phase of outputs across: taps of the other meet none of them."""
    for channels, filters, groups in ((3, 3, 3), (4, 6, 1)):
        for stride in ((1, 2), (2, 2), (2, 1)):
            shapes = (2, channels, *size), (filters, channels // groups, 3, 3)
            check_stencil(ConvProblem.from_shapes(*shapes, rank=2, stride=stride, padding=((2, 2), (2, 2)), groups=groups), rng)


@WIDE
def test_where_strips_are_used() -> None:
    """Depthwise layers of real networks and images; not where slabs are quicker or rows are added beyond the input."""

    def layer(size: int, taps: int, **options: Any) -> ConvProblem:
        return ConvProblem.from_shapes((1, 8, size, size), (8, 1, taps, taps), rank=2, padding=taps // 2, groups=8, **options)

    for size, taps, stride in ((112, 3, 1), (56, 3, 1), (14, 3, 1), (7, 3, 1), (28, 5, 1), (112, 3, 2), (14, 3, 2), (14, 5, 2)):
        p = layer(size, taps, stride=stride)
        assert rolled(p, "fprop") and rolled(p, "dgrad"), p
    assert not rolled(layer(56, 7), "fprop") and not rolled(layer(7, 5), "fprop")
    assert rolled(ConvProblem.from_shapes((1, 1, 256, 256), (4, 1, 5, 5), rank=2), "fprop")
    assert not rolled(ConvProblem.from_shapes((1, 1, 1024, 1024), (1, 1, 3, 3), rank=2), "fprop"), "large planes"
    assert not rolled(ConvProblem.from_shapes((1, 128, 98, 98), (64, 128, 2, 2), rank=2, stride=2), "fprop"), "many large channels"
    assert rolled(ConvProblem.from_shapes((1, 3, 32, 32), (8, 3, 3, 3), rank=2), "fprop").shape.filters > 1  # type: ignore[union-attr]
    assert not rolled(ConvProblem.from_shapes((1, 1, 3, 32), (1, 1, 2, 3), rank=2, padding=((90, 90), (0, 0))), "fprop"), "a band of padding alone"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 1}], ids=str)
def test_bias_and_activations(dtype: Any, options: dict[str, int], rng: np.random.Generator) -> None:
    """Each is applied once to every output, also to those that overlapping strips compute twice."""
    groups = options.get("groups", 5)
    for size in ((7, 7), (30, 37), (70, 20)):
        x, w, bias = (rng.integers(-3, 4, s).astype(dtype) for s in ((2, groups, *size), (5, 1, 3, 3), (5,)))
        how = {"padding": 1, "groups": groups, "method": "stencil", "stride": options.get("stride", 1)}
        sums = nc.conv2d(x, w, **{**how, "method": "direct"}) + bias[:, None, None]
        for activation, expected in ((None, sums), ("relu", np.maximum(sums, 0)), ("silu", sums * expit(sums)), ("tanh", np.tanh(sums))):
            out = np.full(sums.shape, np.nan, dtype)
            nc.conv2d(x, w, bias, activation=activation, out=out, **how)
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (30, 37)], ids=str)
def test_nothing_else_is_written(size: tuple[int, int], stride: int, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 3, *size), dtype=np.float32), rng.standard_normal((3, 1, 3, 3), dtype=np.float32)
    how = {"padding": 1, "groups": 3, "stride": stride, "method": "stencil"}
    y = nc.conv2d(x, w, **how)
    for result, call in ((y, lambda out: nc.conv2d(x, w, out=out, **how)), (x, lambda out: nc.conv2d_grad_input(y, w, x.shape, out=out, **how))):
        room = np.full(result.size + 128, np.nan, np.float32)
        call(room[64 : 64 + result.size].reshape(result.shape))
        assert np.isnan(room[:64]).all() and np.isnan(room[-64:]).all() and not np.isnan(room[64:-64]).any()


def test_values_that_are_not_finite(rng: np.random.Generator) -> None:
    for stride in (1, 2):
        for size in ((7, 7), (20, 33)):
            check_stencil_not_finite(ConvProblem.from_shapes((1, 3, *size), (3, 1, 3, 3), rank=2, padding=1, groups=3, stride=stride), rng)
