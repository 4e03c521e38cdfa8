"""Interleaved planes: every stride, dilation, padding and size against the reference, and where they are chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

import numbaconv as nc
from numbaconv.cpu import _interleaved, _isa, _rolls, _slabs, direct, stencil
from numbaconv.problem import OPS, ConvProblem, Op, Options
from tests.cases import check_stencil, check_stencil_not_finite

FLOATS = [np.float32, np.float64]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interleave whatever can be."""
    monkeypatch.setattr(_rolls, "plan", lambda *arguments: None)
    monkeypatch.setattr(_slabs, "passes", lambda *arguments: [])


def planes(p: ConvProblem, op: Op, dtype: Any = np.float32) -> Any:
    """Return how an operation's planes are interleaved, or None."""
    found = stencil._planes(stencil._forward(p, op), op, np.dtype(dtype))
    return found if isinstance(found, _interleaved.Interleaved) else None


@pytest.mark.parametrize("name", list(_isa.ISAS))
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_instruction_set(name: str, dtype: Any, alone: None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    for taps, stride, pad in ((3, 1, 1), (5, 2, 2)):
        p = ConvProblem.from_shapes((2, 19, 7, 9), (19, 1, taps, taps), rank=2, stride=stride, padding=pad, groups=19)
        assert planes(p, "fprop", dtype) and bool(planes(p, "dgrad", dtype)) == (stride == 1)
        assert planes(p, "wgrad", dtype)
        check_stencil(p, rng, dtype, OPS if stride == 1 else ("fprop", "wgrad"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_random_problems(dtype: Any, alone: None, rng: np.random.Generator) -> None:
    """Dilations, unequal and negative paddings, flipped filters, batches, slices of volumes, lines; blocks of channels that overlap."""
    counts = dict.fromkeys(OPS, 0)
    for _ in range(24):
        taps, stride, dilation = ([int(n) for n in rng.integers(1, most + 1, 2)] for most in (4, 2, 2))
        low, high = ([int(n) for n in rng.integers(-1, 3, 2)] for _ in range(2))
        size, groups = [int(n) for n in rng.integers(1, 24, 2)], int(rng.integers(16, 40))
        if any(n + a + b < (t - 1) * d + 1 for n, a, b, t, d in zip(size, low, high, taps, dilation, strict=True)):
            continue
        shapes = (2, groups, int(rng.integers(1, 3)), *size), (groups, 1, 1, *taps)
        padding = ((0, 0), *zip(low, high, strict=True))
        p = ConvProblem.from_shapes(*shapes, rank=3, stride=(1, *stride), dilation=(1, *dilation), groups=groups, padding=padding)
        p = replace(p, flipped=bool(rng.integers(2)), derived={})
        ops: tuple[Op, ...] = tuple(op for op in OPS if planes(p, op, dtype))
        check_stencil(p, rng, dtype, ops)
        for op in ops:
            counts[op] += 1
    assert counts["fprop"] > 8 and counts["dgrad"] > 2 and counts["wgrad"] > 4, counts


@pytest.mark.parametrize("dtype", FLOATS)
def test_filters_of_signals(dtype: Any, alone: None, rng: np.random.Generator) -> None:
    """Channels of a signal, with more taps than there are registers, an even number too; more taps than samples."""
    for samples, taps, pad in ((249, 31, 15), (50, 32, 0), (9, 23, 12)):
        check_stencil(ConvProblem.from_shapes((2, 18, samples), (18, 1, taps), rank=1, padding=pad, groups=18), rng, dtype, ("fprop", "dgrad"))


@pytest.mark.parametrize("samples", [1, 3, 40])
def test_sums_of_many_planes(samples: int, alone: None, rng: np.random.Generator) -> None:
    """The weights' gradient of several samples, slices and bands of rows, by any number of threads; many samples are asked for ahead."""
    for size, channels in (((7, 7), 403), ((40, 50), 33)):
        p = ConvProblem.from_shapes((samples, channels, 2, *size), (channels, 1, 1, 3, 3), rank=3, padding=(0, 1, 1), groups=channels)
        found = planes(p, "wgrad")
        if found is None:  # large planes that are far
            assert size[0] == 40 and samples == 40
            continue
        assert found.parts == min(2 * samples, -(-32 // -(-channels // _isa.host().width(np.dtype(np.float32))))) and found.tables[0][-1] == (
            samples == 40
        )
        check_stencil(p, rng, np.float32, ("wgrad",))


@pytest.mark.parametrize("samples", [1, 40])
def test_bias_and_activations(samples: int, rng: np.random.Generator) -> None:
    """Each is applied once to every output, also to those of overlapping blocks; many samples are asked for ahead."""
    x, w, bias = (rng.integers(-3, 4, s).astype(np.float32) for s in ((samples, 403, 7, 7), (403, 1, 5, 5), (403,)))
    how: dict[str, Any] = {"padding": 2, "groups": 403, "method": "stencil"}
    found = planes(ConvProblem.from_shapes(x.shape, w.shape, rank=2, padding=2, groups=403), "fprop")
    assert found and found.tables[0][-1] == (samples > 1)
    sums = nc.conv2d(x, w, **{**how, "method": "direct"}) + bias[:, None, None]
    for activation, expected in ((None, sums), ("relu", np.maximum(sums, 0)), ("silu", sums * expit(sums)), ("tanh", np.tanh(sums))):
        out = np.full(sums.shape, np.nan, np.float32)
        nc.conv2d(x, w, bias, activation=activation, out=out, **how)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 7), (14, 14)], ids=str)
def test_nothing_else_is_written(size: tuple[int, int], alone: None, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 21, *size), dtype=np.float32), rng.standard_normal((21, 1, 3, 3), dtype=np.float32)
    how: dict[str, Any] = {"padding": 1, "groups": 21, "method": "stencil"}
    y = nc.conv2d(x, w, **how)
    for result, call in ((y, lambda out: nc.conv2d(x, w, out=out, **how)), (x, lambda out: nc.conv2d_grad_input(y, w, x.shape, out=out, **how))):
        room = np.full(result.size + 128, np.nan, np.float32)
        call(room[64 : 64 + result.size].reshape(result.shape))
        assert np.isnan(room[:64]).all() and np.isnan(room[-64:]).all() and not np.isnan(room[64:-64]).any()


def test_values_that_are_not_finite(alone: None, rng: np.random.Generator) -> None:
    for stride in (1, 2):
        p = ConvProblem.from_shapes((1, 20, 7, 7), (20, 1, 3, 3), rank=2, padding=1, groups=20, stride=stride)
        check_stencil_not_finite(p, rng, ("fprop", "wgrad"))


@pytest.mark.parametrize("name", ["avx512", "avx2"])
def test_where_they_are_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depthwise layers of real networks with narrow planes or many taps; not where strips are quicker, nor with few or multiplied channels."""
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    monkeypatch.setattr(stencil, "SECONDS", stencil._seconds.of("stencil"))

    def used(channels: int, size: int, taps: int, stride: int = 1, filters: int = 1) -> bool:
        shapes = (1, channels, size, size), (channels * filters, 1, taps, taps)
        return planes(ConvProblem.from_shapes(*shapes, rank=2, padding=taps // 2, stride=stride, groups=channels), "fprop") is not None

    assert all(used(*case) for case in ((960, 7, 3), (1152, 7, 5), (768, 7, 7), (672, 14, 5, 2), (384, 14, 7)))
    shapes = (1, 960, 7, 7), (960, 1, 3, 3)
    assert planes(ConvProblem.from_shapes(*shapes, rank=2, padding=1, groups=960), "wgrad")
    assert used(384, 14, 3) == used(576, 14, 3, 2) == (name == "avx2")
    assert not used(7, 7, 3) and not used(32, 112, 3) and not used(960, 7, 3, 1, 2)


@pytest.mark.parametrize("name", ["avx512", "avx2"])
def test_rounding(name: str, alone: None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of positive terms are within 8 eps of the exact ones: with as many taps as are done this way, and long rows."""
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    for shapes, options in (
        (((1, 48, 60, 60), (48, 1, 12, 12)), {"padding": 6}), (((1, 120, 4096), (120, 1, 5)), {"padding": 2}), (((1, 120, 4096), (120, 1, 8)), {}),
        (((1, 120, 4096), (120, 1, 2)), {"dilation": 9}), (((9, 32, 56, 56), (32, 1, 3, 3)), {"padding": 1}),
    ):  # fmt: skip
        p = ConvProblem.from_shapes(*shapes, rank=len(shapes[0]) - 2, groups=shapes[0][1], **options)
        x, w, dy = (rng.random(p.shape(t), dtype=np.float32) for t in "xwy")
        operands: dict[Op, Any] = {"fprop": (x, w), "wgrad": (dy, x)}
        for op, (a, b) in operands.items():
            if not planes(p, op):
                continue
            exact, out = np.empty(p.shape("y" if op == "fprop" else "w")), np.full(p.shape("y" if op == "fprop" else "w"), np.nan, np.float32)
            direct.run(p, op, a.astype(float), b.astype(float), exact, Options())
            stencil.run(p, op, a, b, out, Options())
            assert np.max(np.abs(out - exact) / exact) <= 8 * np.finfo(np.float32).eps, (op, shapes)


def test_distant_taps_are_left_to_others(rng: np.random.Generator) -> None:
    """Rows whose taps or outputs are far apart would be mostly zeros."""
    x, w = rng.standard_normal((1, 40, 5, 5)), rng.standard_normal((40, 1, 3, 3))
    for far in (10, 300, 10**9):
        y = nc.conv2d(x, w, padding=far, dilation=far, groups=40)
        np.testing.assert_allclose(y[..., 2, 2], (x * w[:, 0, 1, 1, None, None])[..., 2, 2])
        assert nc.conv2d_grad_weight(x, y, w.shape, padding=far, dilation=far, groups=40).shape == w.shape
        nc.conv2d(x, w, stride=far, groups=40)
    for axis in ((1, 10**9), (10**9, 1)):
        nc.conv2d(x, w, padding=tuple(axis), dilation=axis, groups=40)
