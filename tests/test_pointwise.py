"""1×1 filters, few to a group: planes of every size against the reference, and where they are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit

import numbaconv as nc
from numbaconv.cpu import _isa, _pointwise, direct, stencil
from numbaconv.problem import OPS, ConvProblem, Op, Options
from tests.cases import check_stencil, check_stencil_not_finite

FLOATS = [np.float32, np.float64]


def pointwise(p: ConvProblem, op: Op, dtype: Any = np.float32) -> bool:
    return isinstance(stencil._planes(stencil._forward(p, op), op, np.dtype(dtype)), _pointwise.Pointwise)


def check(p: ConvProblem, rng: np.random.Generator, dtype: Any) -> None:
    """Check whichever operations are done this way; at least one is."""
    ops: tuple[Op, ...] = tuple(op for op in OPS if pointwise(p, op, dtype))
    assert ops and ("fprop" in ops) == ("wgrad" in ops)
    check_stencil(p, rng, dtype, ops)


@pytest.mark.parametrize("name", list(_isa.ISAS))
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_instruction_set(name: str, dtype: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    check(ConvProblem.from_shapes((2, 13, 5, 7), (2, 13, 1, 1), rank=2), rng, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 4), (31, 33), (32, 32), (41, 50), (1, 2048)], ids=str)
def test_sizes(size: tuple[int, int], dtype: Any, rng: np.random.Generator) -> None:
    """Planes below a vector and a piece, just those, and of several pieces; filters and groups; volumes and lines."""
    for channels, filters, groups in ((9, 1, 1), (16, 3, 1), (6, 16, 2), (2, 2, 1), (11, 88, 11)):
        check(ConvProblem.from_shapes((2, channels, *size), (filters, channels // groups, 1, 1), rank=2, groups=groups), rng, dtype)
    check(ConvProblem.from_shapes((1, 5, 3, *size), (2, 5, 1, 1, 1), rank=3), rng, dtype)
    check(ConvProblem.from_shapes((40, 3, *size), (2, 3, 1, 1), rank=2), rng, dtype)  # more pieces than are added up by themselves
    check(ConvProblem.from_shapes((3, 70, size[1]), (1, 70, 1), rank=1), rng, dtype)


def test_bias_and_activations(rng: np.random.Generator) -> None:
    x, w, bias = (rng.integers(-3, 4, s).astype(np.float32) for s in ((2, 19, 37, 40), (3, 19, 1, 1), (3,)))
    sums = nc.conv2d(x, w, method="direct") + bias[:, None, None]
    for activation, expected in ((None, sums), ("relu", np.maximum(sums, 0)), ("silu", sums * expit(sums)), ("tanh", np.tanh(sums))):
        out = np.full(sums.shape, np.nan, np.float32)
        nc.conv2d(x, w, bias, activation=activation, out=out, method="stencil")
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (33, 40)], ids=str)
def test_nothing_else_is_written(size: tuple[int, int], rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 21, *size), dtype=np.float32), rng.standard_normal((3, 21, 1, 1), dtype=np.float32)
    room = np.full(3 * size[0] * size[1] + 128, np.nan, np.float32)
    nc.conv2d(x, w, method="stencil", out=room[64:-64].reshape(1, 3, *size))
    assert np.isnan(room[:64]).all() and np.isnan(room[-64:]).all() and not np.isnan(room[64:-64]).any()


def test_values_that_are_not_finite(rng: np.random.Generator) -> None:
    check_stencil_not_finite(ConvProblem.from_shapes((1, 11, 7, 7), (2, 11, 1, 1), rank=2), rng, ("fprop", "wgrad"))


def test_where_they_are_used() -> None:
    """Where planes need no zeros and filters are few; many filters are a matrix product's."""

    def layer(filters: int, channels: int = 64, **options: Any) -> ConvProblem:
        return ConvProblem.from_shapes((1, channels, 388, 388), (filters, channels, 1, 1), rank=2, **options)

    assert pointwise(layer(2), "fprop") and not pointwise(layer(2), "dgrad") and pointwise(layer(64, 2), "dgrad") and pointwise(layer(2), "wgrad")
    assert "→ stencil" in str(nc.explain((1, 64, 388, 388), (2, 64, 1, 1)))
    assert not pointwise(layer(9), "fprop") and not pointwise(layer(2, 3000), "fprop")
    assert pointwise(layer(2, 1000), "wgrad") and not pointwise(layer(3, 1000), "wgrad"), "sums that leave the L2"
    assert not pointwise(layer(2, padding=1), "fprop") and not pointwise(layer(2, stride=2), "fprop")


@pytest.mark.parametrize("channels", [129, 148, 256, 700])
def test_rounding(channels: int, rng: np.random.Generator) -> None:
    """Sums of positive terms are within 8 eps of the exact ones, of as many channels as are done this way."""
    p = ConvProblem.from_shapes((1, channels, 250, 250), (1, channels, 1, 1), rank=2)
    x, w, dy = (rng.random(p.shape(t), dtype=np.float32) for t in "xwy")
    operands: dict[Op, Any] = {"fprop": (x, w), "wgrad": (dy, x)}
    for op, (a, b) in operands.items():
        assert pointwise(p, op)
        exact, out = np.empty(p.shape("y" if op == "fprop" else "w")), np.full(p.shape("y" if op == "fprop" else "w"), np.nan, np.float32)
        direct.run(p, op, a.astype(float), b.astype(float), exact, Options())
        stencil.run(p, op, a, b, out, Options())
        assert np.max(np.abs(out - exact) / exact) <= 8 * np.finfo(np.float32).eps
