"""The stencil's slabs at the ends of planes: they overlap, or spill into rows stored later, or are masked; the sums are the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

import numbaconv as nc
from numbaconv import reference
from numbaconv.cpu import _interleaved, _isa, _pointwise, _rolls, _slabs, stencil
from numbaconv.problem import ConvProblem, Options

# Heights and widths of planes: less than a slab or a vector, one more, one less, and (113) a last slab in a tile of its own.
SIZES = [(7, 7), (6, 9), (20, 15), (15, 17), (113, 8), (3, 3), (29, 64)]


@pytest.fixture(autouse=True)
def without_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to slabs what strips and interleaved planes would do: slabs do it for other layers."""
    for other in (_rolls, _interleaved, _pointwise):
        monkeypatch.setattr(other, "plan", lambda *arguments: None)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("options", [{}, {"stride": 2}], ids=["stride 1", "stride 2"])
def test_outputs_of_every_size(size: tuple[int, int], options: dict[str, int], rng: np.random.Generator) -> None:
    p = ConvProblem.from_shapes((2, 5, *size), (5, 1, 3, 3), rank=2, padding=1, groups=5, **options)
    x, w, dy = (rng.integers(-4, 5, p.shape(t, 2)).astype(np.float32) for t in ("x", "w", "y"))
    x5, w5, dy5 = (array.reshape(p.shape(t)) for array, t in zip((x, w, dy), "xwy", strict=True))
    how = {"padding": 1, "groups": 5, "method": "stencil", **options}
    for threads in (1, 3):
        with nc.num_threads(threads):
            out = np.full(p.shape("y", 2), np.nan, np.float32)
            assert np.array_equal(nc.conv2d(x, w, out=out, **how), reference.run(p, "fprop", x5, w5).reshape(out.shape))
            assert np.array_equal(nc.conv2d_grad_input(dy, w, x.shape, **how), reference.run(p, "dgrad", dy5, w5).reshape(x.shape))
            assert np.array_equal(nc.conv2d_grad_weight(x, dy, w.shape, **how), reference.run(p, "wgrad", dy5, x5).reshape(w.shape))
            # An activation is applied to each output once, whichever slabs it is in.
            exact = out.astype(float)
            assert np.allclose(nc.conv2d(x, w, activation="silu", **how), exact / (1 + np.exp(-exact)), rtol=1e-5, atol=1e-5)


def test_nothing_outside_of_a_plane_is_written(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 3, 7, 7), dtype=np.float32), rng.standard_normal((3, 1, 3, 3), dtype=np.float32)
    room = np.full(3 * 49 + 64, np.nan, np.float32)
    nc.conv2d(x, w, padding=1, groups=3, method="stencil", out=room[32 : 32 + 3 * 49].reshape(1, 3, 7, 7))
    assert np.isnan(room[:32]).all() and np.isnan(room[-32:]).all() and not np.isnan(room[32:-32]).any()


def test_slabs_are_full_where_they_can_be() -> None:
    p, isa = ConvProblem.from_shapes((1, 8, 30, 30), (8, 1, 3, 3), rank=2, padding=1, groups=8), _isa.host()
    (part,) = _slabs.passes(p, "fprop", np.dtype(np.float32))
    reads, rows, full = part.shape.reads, part.shape.rows, (1 << isa.width(np.dtype(np.float32))) - 1
    stored = part.bands[:, 2 * reads + rows : 2 * reads + 2 * rows]
    assert (stored & full == full).all() and (part.blocks[:, 1] & full == full).all()


@pytest.mark.parametrize("size", [(4, 4), (8, 1), (3, 5), (7, 7), (257, 63), (20, 300)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("channels", [(4, 2), (70, 3)], ids=["few channels", "many channels"])
def test_filters_of_one_tap(size: tuple[int, int], channels: tuple[int, int], rng: np.random.Generator) -> None:
    p = ConvProblem.from_shapes((2, channels[0], *size), (channels[1], channels[0], 1, 1), rank=2)
    assert _slabs.passes(p, "fprop", np.dtype(np.float32)), "planes are read as rows of vectors"
    x, w, dy = (rng.integers(-4, 5, p.shape(t)).astype(np.float32) for t in ("x", "w", "y"))
    for op, a, b in (("fprop", x, w), ("dgrad", dy, w), ("wgrad", dy, x)):
        expected = reference.run(p, op, a, b)  # type: ignore[arg-type]
        out = np.full(expected.shape, np.nan, np.float32)
        stencil.run(p, op, a, b, out, Options())  # type: ignore[arg-type]
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_many_large_planes_are_read_some_at_a_time(activation: str | None, rng: np.random.Generator) -> None:
    for channels, filters, groups, size, taps in (
        (11, 2, 1, (200, 180), 1), (20, 3, 1, (190, 177), 1), (24, 4, 2, (256, 130), 1), (9, 1, 1, (183, 183), 1), (10, 2, 1, (200, 180), 3),
    ):  # fmt: skip
        p = ConvProblem.from_shapes((2, channels, *size), (filters, channels // groups, taps, taps), rank=2, groups=groups, padding=taps // 2)
        assert _slabs.passes(p, "fprop", np.dtype(np.float32))[0].shape.adds
        x, w, bias = (rng.integers(-4, 5, shape).astype(np.float32) for shape in (p.shape("x"), p.shape("w"), (filters,)))
        sums = reference.run(p, "fprop", x, w) + bias[:, None, None, None]
        expected = {None: sums, "relu": np.maximum(sums, 0), "silu": sums * expit(sums)}[activation]
        for threads in (1, 3):
            with nc.num_threads(threads):
                out = np.full(expected.shape, np.nan, np.float32)
                stencil.run(p, "fprop", x, w, out, Options(bias, activation))
                np.testing.assert_allclose(out, expected, rtol=0 if activation != "silu" else 1e-5, atol=0 if activation != "silu" else 1e-5)


def test_slabs_that_overlap_are_in_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread computes both, one after the other: an activation is applied to what is in y."""
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS["avx512"])
    overlaps, dtype = 0, np.dtype(np.float32)
    for height in range(100, 900, 7):
        p = ConvProblem.from_shapes((1, 1, height, 70), (1, 1, 3, 3), rank=2, padding=1)
        for part in _slabs.passes(p, "fprop", dtype):
            strips, slabs, starts = int(part.geometry[0]), len(part.bands), part.bands[:, -1]
            overlaps += (overlap := strips > 1 and len(set(np.diff(starts))) > 1)
            assert not overlap or slabs * (strips - 1) // strips <= slabs - 2
            assert strips % 2 == 0 or not 1 < strips < 8
    assert overlaps > 20


def test_large_planes_ask_for_what_is_near(rng: np.random.Generator) -> None:
    for channels, filters, size in ((1, 1, 300), (3, 2, 200), (20, 2, 190)):
        x, w = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((1, channels, size, size), (filters, channels, 3, 3)))
        p = ConvProblem.from_shapes(x.shape, w.shape, rank=2, padding=1)
        expected = reference.run(p, "fprop", x.reshape(p.shape("x")), w.reshape(p.shape("w")))
        np.testing.assert_array_equal(nc.conv2d(x, w, padding=1, method="stencil"), expected.reshape(1, filters, size, size))


def test_what_is_bound_is_the_same(rng: np.random.Generator) -> None:
    p = ConvProblem.from_shapes((1, 1, 20, 30), (1, 1, 3, 3), rank=2, padding=1)
    x, w = rng.standard_normal(p.shape("x")), rng.standard_normal(p.shape("w"))
    call = stencil.bind(p, "fprop", np.dtype(np.float64), lambda a, b, out: stencil.run(p, "fprop", a, b, out, Options()))
    assert call is not None
    for broken in (1.0, np.inf):
        w[..., 0, 0] *= broken
        out, bound = np.full((2, *p.shape("y")), np.nan)
        stencil.run(p, "fprop", x, w, out, Options())
        call(x, w, bound)
        np.testing.assert_array_equal(bound, out)
        assert not np.isnan(out).any(), "what the padding is multiplied with is left out"
