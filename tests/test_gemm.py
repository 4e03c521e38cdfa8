"""gemm: operands that are packed or not; ways of storing: rows of pixels in tiles of their own, phases of a stride together or in one product."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import prange
from scipy.special import expit

import numbaconv as nc
from numbaconv import arrays, reference
from numbaconv._jit import Kernel
from numbaconv.cpu import _batches, _copies, _grid, _isa, _parallel, _product, _products, _simd_move, _simd_tile, _tables, direct, dots, gemm
from numbaconv.cpu._panels import CHUNK
from numbaconv.cpu._pool import ALONE
from numbaconv.cpu._simd_tile import WHOLE
from numbaconv.problem import ConvProblem, Op, Options

# Of every instruction set in one dtype, and of two in both: a product's kernel takes five seconds to compile.
PAIRS = list(dict.fromkeys([*((name, "float32") for name in _isa.ISAS), (_isa.host().name, "float64"), ("portable", "float64")]))


def check(p: ConvProblem, op: Op, rng: np.random.Generator, dtype: str, options: Options = Options()) -> None:  # noqa: B008 - frozen
    a, b = (rng.integers(-3, 4, p.shape(t)).astype(dtype) for t in {"fprop": "xw", "dgrad": "yw", "wgrad": "yx"}[op])
    expected = reference.run(p, op, a, b)
    if options.bias is not None:
        expected = expected + options.bias[:, None, None, None]
    if options.activation == "relu":
        expected = np.maximum(expected, 0)
    if options.activation == "tanh":
        expected = np.tanh(expected)
    for threads in (1, 3):
        with nc.num_threads(threads):
            out = np.full(expected.shape, np.nan, dtype)
            gemm.run(p, op, a, b, out, options)
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6 if options.activation == "tanh" else 0, err_msg=str(p))
            if op != "wgrad":
                again, packed = np.full_like(out, np.nan), gemm.prepare(p, op, b)
                gemm.run(p, op, a, np.full_like(b, np.nan) if np.isfinite(out).all() else b, again, replace(options, packed=packed))
                np.testing.assert_array_equal(again, out, err_msg=f"weights packed before: {p}")


def transposed(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvProblem:
    return ConvProblem.from_transposed_shapes(x, w, rank=len(x) - 2, **options)


def shapes(p: ConvProblem, op: Op, dtype: str = "float32") -> list[_products.Shape]:
    return _products.shapes(gemm._forward(p, op), op, _isa.host(), np.dtype(dtype))[1]


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_even_and_odd_columns_are_stored_together(dtype: str, activation: str | None, isa: str, rng, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for x, w, options in (
        ((2, 9, 7, 7), (9, 10, 3, 3), {"stride": 2, "padding": 1}),  # an odd number of columns: the last even one has none beside it
        ((2, 9, 7, 9), (9, 10, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((1, 40, 7, 7), (40, 17, 1, 1), {"stride": 2}),  # columns left over; odd ones without terms, odd rows without any
        ((1, 40, 7, 7), (40, 17, 1, 1), {"stride": 2, "output_padding": 1}),
        ((2, 5, 33), (5, 6, 4), {"stride": 2, "padding": 1}),
        ((1, 3, 3, 4, 20), (3, 9, 3, 2, 5), {"stride": (1, 3, 2), "padding": (0, 1, 2)}),
        ((1, 300, 6, 5), (300, 9, 2, 3), {"stride": (1, 2)}),  # more than a chunk of steps
    ):  # fmt: skip
        p = transposed(x, w, **options)
        assert all(len(shape.parts) == 2 for shape in shapes(p, "dgrad"))
        bias = None if activation is None else rng.integers(-3, 4, w[1]).astype(dtype)
        check(p, "dgrad", rng, dtype, Options(bias, activation))


@pytest.mark.parametrize("isa", _isa.ISAS)
def test_phases_that_read_alike_are_one_product(isa: str, rng, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for x, w, options, phases in (
        ((2, 9, 7, 8), (9, 10, 2, 2), {"stride": 2}, 4),
        ((1, 70, 50), (70, 1, 10), {"stride": 5}, 5),  # two taps each, of one channel
        ((1, 70, 50), (70, 1, 12), {"stride": 4}, 4),
        ((2, 6, 31), (6, 1, 4), {"stride": 2, "groups": 3}, 2),
        ((1, 7, 50), (7, 2, 10), {"stride": 5}, 1),  # of two channels they are not evenly apart
        ((1, 7, 6, 5), (7, 1, 4, 4), {"stride": 2}, 1),  # nor those of two axes
    ):  # fmt: skip
        p = transposed(x, w, **options)
        assert {shape.phases for shape in shapes(p, "dgrad")} == {phases}
        check(p, "dgrad", rng, "float32", Options(rng.integers(-3, 4, p.in_channels).astype("float32"), "relu"))


def test_lines_of_pixels_have_tiles_of_their_own(rng: np.random.Generator) -> None:
    width = _isa.host().width(np.dtype("float32"))
    for vectors in (3, 4, 5, 7):
        p = ConvProblem.from_shapes((2, 3, 9, vectors * width), (10, 3, 3, 3), rank=2, padding=1)
        (shape,) = shapes(p, "fprop")
        assert shape.vectors == 9 * vectors and shape.lines == 9 * -(-vectors // 3)
        tables = _tables.build(p, "fprop", _grid.grid(p, split=True)[0], shape, _isa.host(), np.dtype("float32"))
        assert tables.columns.reshape(shape.lines, -1)[:, WHOLE].all(), "whole vectors side by side"
        check(p, "fprop", rng, "float32")
        check(ConvProblem.from_shapes((1, 2, 4, vectors * width - 3), (9, 2, 3, 3), rank=2, padding=1), "fprop", rng, "float32")


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_prepared_weights_round_alike(isa: str, dtype: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    read_where_they_lie = 0
    for x, w, options in (
        ((2, 24, 7, 7), (21, 24, 1, 1), {}),
        ((2, 24, 3, 3), (21, 24, 1, 1), {}),
        ((1, 4 * 151, 14, 14), (9, 4 * 151, 1, 1), {}),  # in chunks of which none is a number of whole vectors
        ((1, 25, 5, 5), (17, 25, 3, 3), {"padding": 1}),
        ((1, 36, 9, 9), (10, 18, 3, 3), {"groups": 2, "stride": 2}),
        ((1, 30, 1, 37), (11, 30, 1, 3), {"dilation": 2}),
        ((2, 1, 3), (5, 1, 3), {}),
    ):  # fmt: skip
        p = ConvProblem.from_shapes(x, w, rank=len(x) - 2, **options)  # type: ignore[arg-type]
        read_where_they_lie += not shapes(p, "fprop", dtype)[0].packs
        for op, names in (("fprop", "xwy"), ("dgrad", "ywx")):
            a, b, out = (rng.standard_normal(p.shape(name)).astype(dtype) for name in names)
            packed = gemm.prepare(p, op, b)  # type: ignore[arg-type]
            for threads in (1, 3):
                again = np.full_like(out, np.nan)
                with nc.num_threads(threads):
                    gemm.run(p, op, a, b, out, Options())  # type: ignore[arg-type]
                    gemm.run(p, op, a, b, again, Options(packed=packed))  # type: ignore[arg-type]
                np.testing.assert_array_equal(again, out, err_msg=f"{op} of {p}")
    assert read_where_they_lie, "and those that are must round like those that are packed"


def test_weights_packed_for_other_instructions_are_packed_again(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    p = ConvProblem.from_shapes((1, 5, 6, 6), (7, 5, 3, 3), rank=2)
    x, w = (rng.standard_normal(p.shape(name)).astype("float32") for name in "xw")
    expected, out = (np.full(p.shape("y"), np.nan, np.float32) for _ in range(2))
    gemm.run(p, "fprop", x, w, expected, Options())
    with monkeypatch.context() as other:
        other.setattr(_isa, "host", lambda: _isa.ISAS["portable"])
        packed = gemm.prepare(p, "fprop", w)
    gemm.run(p, "fprop", x, w, out, Options(packed=packed))
    np.testing.assert_array_equal(out, expected)


def test_tiles_are_cut_evenly_and_found_quickly() -> None:
    for blocks, threads in itertools.product((1, 5, 32, 33, 40, 1000, 10**7), (1, 2, 3, 7, 64)):
        found = _products._supers(blocks, 1, threads)
        assert len(found) < 10 and -(-blocks // found[0]) <= _products.BLOCKS and found[-1] <= max(blocks, 1), "a large image takes no longer"
        assert threads > blocks or any(parts % threads == 0 for parts in found)
    for blocks in (33, 40, 70):  # rows of 7×7 pixels for two threads
        p = ConvProblem.from_shapes((1, 960, 7, 7), (8 * blocks, 960, 1, 1), rank=2)
        (shape,) = _products.shapes(p, "fprop", _isa.ISAS["avx512"], np.dtype(np.float32), 2)[1]
        assert -(-blocks // shape.blocks_each) % 2 == 0


def unexpected(*_: Any) -> None:
    raise AssertionError("small problems are computed by what is bound")


def test_what_is_bound_is_the_same(rng: np.random.Generator) -> None:
    for op in ("fprop", "dgrad", "wgrad"):
        for options in ({}, {"channels_last": True}, {"padding": 1}, {"stride": 2}, {"groups": 2}):
            layout = (2, 6, 5, 4) if options.get("channels_last") else (2, 4, 6, 5)
            p = ConvProblem.from_shapes(layout, (6, 4 // options.get("groups", 1), 2, 2), rank=2, **options)  # type: ignore[arg-type]
            a, b = (rng.standard_normal(p.shape(t)).astype(np.float32) for t in {"fprop": "xw", "dgrad": "yw", "wgrad": "yx"}[op])
            expected, out = (np.full(p.shape({"fprop": "y", "dgrad": "x", "wgrad": "w"}[op]), np.nan, np.float32) for _ in range(2))
            gemm.run(p, op, a, b, expected, Options())  # type: ignore[arg-type]
            bound = gemm.bind(p, op, np.dtype(np.float32), unexpected)  # type: ignore[arg-type]
            if bound is not None:
                bound(a.ravel(), b, out)
                np.testing.assert_array_equal(out, expected)
            else:
                assert len(gemm._cut(p, op, _isa.host(), np.dtype(np.float32)).products) > 1  # type: ignore[arg-type]


def test_results_start_on_a_cache_line_where_it_pays() -> None:
    from numbaconv import arrays

    for shape in ((1, 8, 300, 300), (1 << 17,)):
        made = arrays.empty(shape, np.dtype(np.float32))
        assert made.shape == shape and made.flags.c_contiguous and made.ctypes.data % arrays.CACHE_LINE == 0
    assert arrays.empty((3, 0), np.dtype(np.float32)).shape == (3, 0)


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_panels_of_wgrad_are_transposed_as_they_are_read(dtype: str, isa: str, rng, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for x, w, groups in (
        ((2, 70, 13, 23), (21, 70, 1, 1), 1),
        ((1, 6, 300), (10, 3, 1), 2),
        ((1, 50, 4, 9, 9), (300, 50, 1, 1, 1), 1),
        ((3, 5, 600), (40, 5, 1), 1),
    ):
        p = ConvProblem.from_shapes(x, w, rank=len(x) - 2, groups=groups)
        forward = gemm._forward(p, "wgrad")
        assert _products.turns(forward, "wgrad", _grid.grid(forward, split=False)[0])
        check(p, "wgrad", rng, dtype)
    small = ConvProblem.from_shapes((3, 5, 4, 4), (9, 5, 1, 1), rank=2)  # a piece of the sum has pixels of several samples
    assert not _products.turns(small, "wgrad", _grid.grid(small, split=False)[0])
    check(small, "wgrad", rng, dtype)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_vectors_without_a_pixel(activation: str | None, rng: np.random.Generator) -> None:
    for x, w, options in (
        ((1, 9, 8, 37, 37), (20, 9, 3, 3, 3), {"stride": 2, "padding": 1}),
        ((1, 5, 5, 19, 19), (9, 5, 3, 3, 3), {"padding": 1}),
        ((1, 3, 9, 40), (9, 3, 3, 35), {}),
    ):
        p = ConvProblem.from_shapes(x, w, rank=len(x) - 2, **options)  # type: ignore[arg-type]
        a, b = (rng.standard_normal(p.shape(t)).astype(np.float32) for t in "xw")
        expected = reference.run(p, "fprop", a, b).astype(float)
        if activation:
            expected = expected * expit(expected)
        for threads in (1, 3):
            with nc.num_threads(threads):
                out = np.full(expected.shape, np.nan, np.float32)
                gemm.run(p, "fprop", a, b, out, Options(None, activation))
                np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_phases_of_few_outputs(rng: np.random.Generator) -> None:
    # Fewer outputs than the stride, so that some taps are of no phase; and rows of one output, in which nothing is beside another.
    check(transposed((8, 25, 2), (25, 1, 8), stride=4, padding=5), "dgrad", rng, "float32")
    for filters in (1, 5):
        check(ConvProblem.from_shapes((3, 6, 24, 1), (filters, 6, 2, 1), rank=2, stride=2, padding=((0, 0), (2, 2))), "dgrad", rng, "float32")
        check(ConvProblem.from_shapes((3, 6, 24, 1), (filters, 6, 3, 1), rank=2, stride=(3, 2)), "dgrad", rng, "float32")
        check(ConvProblem.from_shapes((3, 6, 24, 2), (filters, 6, 3, 1), rank=2, stride=(3, 2)), "dgrad", rng, "float32")
    check(transposed((1, 40, 1, 17), (40, 8, 1, 1), stride=(1, 2), padding=((0, 0), (1, 0)), output_padding=(0, 1)), "dgrad", rng, "float32")


def test_sums_that_are_not_finite(rng: np.random.Generator) -> None:
    for p, op in (
        (transposed((2, 9, 7, 7), (9, 10, 3, 3), stride=2, padding=1), "dgrad"),
        (transposed((1, 7, 50), (7, 1, 10), stride=5), "dgrad"),
        (ConvProblem.from_shapes((2, 7, 13, 23), (9, 7, 1, 1), rank=2), "wgrad"),
    ):
        a, b = (rng.integers(-3, 4, p.shape(t)).astype(np.float32) for t in {"dgrad": "yw", "wgrad": "yx"}[op])
        a[0, 1, 0, -1, -1], b.reshape(-1)[7] = np.inf, np.nan
        expected = reference.run(p, op, a, b)  # type: ignore[arg-type]
        out = np.zeros(expected.shape, np.float32)
        gemm.run(p, op, a, b, out, Options())  # type: ignore[arg-type]
        np.testing.assert_array_equal(out, expected)


def test_large_problems_are_not_bound() -> None:
    p = ConvProblem.from_shapes((1, 64, 1 << 20, 1 << 20), (64, 64, 1, 1), rank=2)
    assert gemm.bind(p, "fprop", np.dtype(np.float32), unexpected) is None and not any(
        key[0] == "gemm" for key in p.derived if isinstance(key, tuple)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_plane_for_each_column_of_taps(dtype: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of a plane in one line: strides, dilation, few columns, one row, planes of 3-D, and the phases of a strided dgrad."""
    monkeypatch.setattr(_grid, "_pays", lambda saved, more: True)
    seen = 0
    cases: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((1, 64, 14, 14), (64, 64, 3, 3), {"stride": 2, "padding": 1}), ((2, 32, 7, 7), (40, 32, 3, 3), {"padding": 1}),
        ((1, 32, 9, 15), (33, 32, 3, 4), {"stride": 2, "padding": (1, 2), "dilation": 2}),
        ((1, 40, 1, 30), (16, 40, 1, 5), {"stride": 3, "padding": 2}),
        ((1, 24, 5, 9, 9), (48, 24, 3, 3, 3), {"stride": 2, "padding": 1}), ((1, 64, 8, 8), (64, 32, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
        ((1, 64, 12, 13), (64, 64, 5, 5), {"stride": (2, 1), "padding": 2}), ((1, 64, 12, 6), (128, 64, 2, 5), {"stride": (1, 2), "padding": 2}),
    ]  # fmt: skip
    for x_shape, w_shape, options in cases:
        p = ConvProblem.from_shapes(x_shape, w_shape, rank=len(x_shape) - 2, **options)
        for op in ("fprop", "dgrad"):
            forward = gemm._forward(p, op)
            g = _grid.grid(forward, split=True)[0]
            seen += g.axes[2].apart
            assert not g.axes[2].apart or g.axes[2].pitch == -(-forward.output[2] // forward.input_dilation[2])
            check(p, op, rng, dtype)
    assert seen == 14, "all but the dgrads whose columns fall into phases of different length: 15 and 9 by 2"


def test_a_plane_for_each_column_of_taps_is_bounded() -> None:
    for batch, channels, apart in ((1, 512, True), (16, 512, True), (1, 16384, False)):
        p = ConvProblem.from_shapes((batch, channels, 14, 14), (2048, channels, 3, 3), rank=2, stride=2, padding=1)
        assert _grid.grid(p, split=True)[0].axes[2].apart == apart, "of a sample, the copy may take 3 MiB more; samples are copied in parts"
    p = ConvProblem.from_shapes((1, 8192, 14, 14), (2048, 8192, 3, 3), rank=2, stride=2, padding=1)  # 0.66 million elements more
    assert not _grid.grid(p, split=True)[0].axes[2].apart
    assert _grid.grid(p, split=True, itemsize=4)[0].axes[2].apart


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_rows_and_lanes_are_packed(dtype: str, isa: str, rng, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for x, w, options in (
        ((2, 300, 7, 7), (37, 300, 1, 1), {}),  # few lines: rows are read where they lie; a column left over
        ((2, 301, 7, 7), (37, 301, 1, 1), {}),  # not in steps of four: they are not
        ((3, 24, 30, 30), (60, 12, 1, 1), {"groups": 2}),  # rows that serve the next tiles, of two groups and three samples
        ((1, 20, 17, 17), (40, 20, 3, 3), {"stride": 2, "padding": 1}),  # dgrad: rows whose steps are no neighbours
        ((1, 1, 20, 16), (16, 1, 3, 3), {}),  # of one channel, channels last: pixels that are neighbours, but for the ends of lines
        ((2, 1, 8, 8), (16, 1, 3, 3), {}),
    ):
        for last in (False, True):
            shape = (x[0], *x[2:], x[1]) if last else x
            p = ConvProblem.from_shapes(shape, w, rank=2, channels_last=last, **options)
            for op in ("fprop", "dgrad", "wgrad"):
                check(p, op, rng, dtype)


@pytest.mark.parametrize("isa", _isa.ISAS)
def test_steps_near_each_other_are_packed_together(isa: str, rng, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for filters, taps, options in (
        (21, (3, 3), {"stride": 2, "padding": 1}),  # taps 0, 2, 6, 8 of a phase, and a block of five rows
        (40, (5, 5), {"stride": 2}),  # further apart than a vector has lanes
        (12, (1, 31), {"stride": 3}),
        (12, (3, 3), {"dilation": 2, "padding": 2}),  # all of them, in the order of w though the filter is flipped
        (33, (7, 7), {"padding": 3}),
    ):
        p = ConvProblem.from_shapes((2, 19, 12, 36), (filters, 19, *taps), rank=2, **options)
        check(p, "dgrad", rng, "float32")


def test_runs_of_steps(rng: np.random.Generator) -> None:
    for _ in range(50):
        steps = np.cumsum(rng.choice([1, 1, 1, 2, 5, -3, 40], rng.integers(1, 60)))
        for k, (neighbours, near) in enumerate(_tables._runs(steps, 16)):
            behind = steps[k:] - steps[k]
            assert neighbours == next((n for n in range(len(behind)) if behind[n] != n), len(behind))
            ends = (n for n in range(1, len(behind)) if not behind[n - 1] < behind[n] < 16)
            assert near == next(ends, len(behind))
    assert _tables._runs(np.zeros(0, np.int64), 16).shape == (0, 2)


def test_lanes_that_do_not_count_are_zero_in_a_panel() -> None:
    """What is left in the scratch may be denormal: a wgrad of 40 filters took fifty times as long with such numbers there."""
    turn = _simd_move.transpose(_isa.host(), np.dtype(np.float32), True)
    width = _isa.host().width(np.dtype(np.float32))

    def run(first, last, workers, scratch, x, panel, rows):  # type: ignore[no-untyped-def]
        for _ in prange(1):
            turn(x, 0, 20, rows, 5, panel, 0, width)

    x, panel = np.arange(400, dtype=np.float32), np.full(16 * width, np.nan, np.float32)
    Kernel(run, "-test-turn").pooled(0, 1, _parallel.ALONE, np.zeros((1, 0), np.float32), x, panel, width - 3)
    expected = np.zeros((5, width), np.float32)
    expected[:, : width - 3] = x[: 20 * (width - 3)].reshape(-1, 20)[:, :5].T
    np.testing.assert_array_equal(panel[: 5 * width].reshape(5, width), expected)
    assert np.isnan(panel[5 * width :]).all()


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_columns_left_over_do_not_see_each_other(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longest chunk of steps is no whole number of vectors."""
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for steps in (CHUNK, 2 * CHUNK - 4, 2 * CHUNK):
        for pixels in (9, 10, 17, 20):
            x, w = np.ones((1, steps, 1, pixels), np.float32), np.ones((8, steps, 1, 1), np.float32)
            x[0, :, 0, -1] = np.inf
            y = nc.conv2d(x, w, method="gemm")[0, :, 0]
            assert (y[:, :-1] == steps).all() and np.isposinf(y[:, -1]).all()


def test_a_large_bias_does_not_drown_the_sum(rng: np.random.Generator) -> None:
    x, w, bias = (rng.standard_normal(shape) * scale for shape, scale in (((1, 16, 20, 20), 0.03), ((24, 16, 3, 3), 0.03), ((24,), 1.0)))
    x, w, bias = (array.astype(np.float32) for array in (x, w, bias))
    for layout in ("NCHW", "NHWC"):
        a = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        y = nc.conv2d(a, w, bias, method="gemm", layout=layout)
        exact, size = (nc.conv2d(f(a.astype(float)), f(w.astype(float)), f(bias.astype(float)), layout=layout) for f in (lambda v: v, np.abs))
        assert (np.abs(y - exact) / size).max() < 2 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_other_draws_are_not_taken_for_these(dtype: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every tile is a draw, of several products, groups and samples, and where the scratch has held other weights."""
    monkeypatch.setattr(_products, "SUMS_BYTES", 64 << 10)
    monkeypatch.setattr(_products, "BLOCKS", 4)
    for x, w, options in (
        ((1, 32, 40, 40), (96, 32, 1, 1), {}),
        ((3, 16, 24, 24), (64, 8, 3, 3), {"groups": 2, "padding": 1}),
        ((2, 24, 41, 40), (40, 24, 3, 3), {"stride": 2}),
    ):
        problem = ConvProblem.from_shapes(x, w, rank=2, **options)
        for op in ("fprop", "dgrad"):
            assert any(s.kept and s.lines > s.lines_each for s in shapes(problem, op, dtype)), (problem, op)
            for each in (False, True):
                monkeypatch.setattr(_parallel, "BATCH_SECONDS", 1e-12 if each else 1.0)  # of a draw at the most
                monkeypatch.setattr(_parallel, "SERIAL_SECONDS", 0)
                for _ in range(3):
                    check(replace(problem, derived={}), op, rng, dtype)  # type: ignore[arg-type]


def test_rows_are_kept_from_draw_to_draw(rng: np.random.Generator) -> None:
    """The second tile of a job is computed with the weights that were there at the first."""
    problem, isa, dtype = ConvProblem.from_shapes((1, 32, 40, 40), (64, 32, 1, 1), rank=2), _isa.host(), np.dtype("float32")
    with nc.num_threads(1):
        cut = gemm._cut(problem, "fprop", isa, dtype)
    (tables, tiles, _, size, _), (shape,) = cut.products[0], shapes(problem, "fprop")
    assert tiles > 2 and shape.kept and shape.blocks == shape.blocks_each, "all tiles have the same rows"
    x, w = (rng.integers(-3, 4, problem.shape(t)).astype(dtype) for t in "xw")
    y, expected = np.full(problem.shape("y"), np.nan, dtype), reference.run(problem, "fprop", x, w)
    kernel, scratch = _product.kernel(isa, dtype, False, False), _parallel.own_scratch(size, dtype)
    arguments = (w.reshape(-1), cut.zeros[:0], x.reshape(-1), y.reshape(-1), cut.zeros, cut.zeros, 0, np.zeros(1, np.int8), *tables)
    kernel.pooled(0, 1, ALONE, scratch, *arguments)
    w *= 2
    kernel.pooled(1, tiles - 1, ALONE, scratch, *arguments)
    there = np.isfinite(y)
    assert there.any() and not there.all()
    np.testing.assert_array_equal(y[there], expected[there])
    kernel.pooled(0, tiles, ALONE, scratch, *arguments)
    np.testing.assert_array_equal(y, 2 * expected)


def test_rows_that_are_kept_serve_all_samples(rng: np.random.Generator) -> None:
    """One line of a sample is not worth packing rows for; those of many samples are, if their panels can be kept."""
    one, many, long = (ConvProblem.from_shapes((n, c, 7, 7), (64, c, 1, 1), rank=2) for n, c in ((1, 96), (16, 96), (16, 1 << 17)))
    dtype, isa = np.dtype(np.float32), _isa.host()
    for p, packs, kept in ((one, False, False), (many, True, True), (long, False, False)):
        (shape,) = _products.shapes(p, "fprop", isa, dtype)[1]
        assert (shape.packs, shape.kept) == (packs, kept), p.batch
        assert _products.packings(shape, False) == (1 / 16 if packs else 0)
    assert gemm.work(many, "fprop", dtype)["pack"] < 16 * gemm.work(one, "fprop", dtype)["pack"] + 2 * 64 * 96
    check(many, "fprop", rng, "float32")


def test_lines_that_follow_each_other_are_one() -> None:
    """Rows of 48 + 8 or 112 pixels are not cut at their ends where nothing lies between them."""
    isa, dtype = _isa.host(), np.dtype(np.float32)
    for size in ((112, 112), (56, 56), (1, 112), (5, 112, 112)):
        p = ConvProblem.from_shapes((1, 4, *size), (4, 4, *(1,) * len(size)), rank=len(size))
        (shape,) = _products.shapes(p, "fprop", isa, dtype)[1]
        vectors = math.prod(size) // isa.width(dtype)
        assert (shape.vectors, shape.lines) == (vectors, -(-vectors // isa.vectors)), size
    between = ConvProblem.from_shapes((1, 4, 112, 112), (4, 4, 1, 3), rank=2, padding=(0, 1))
    g, (shape,) = _products.shapes(between, "fprop", isa, dtype)
    assert g.axes[2].pitch > 112 and shape.vectors == 112 * -(-112 // isa.width(dtype))


def test_asking_ahead_changes_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of one line and of several, in tiles of several lines or all of them."""
    monkeypatch.setattr(_tables, "IN_CACHE", 0)
    for shape, filters in (((3, 20, 7, 7), 40), ((3, 20, 24, 32), 26), ((2, 150, 9, 80), 70), ((5, 4, 1, 3), 3)):
        for op in ("fprop", "dgrad"):
            check(ConvProblem.from_shapes(shape, (filters, shape[1], 1, 1), rank=2), op, rng, "float32")  # type: ignore[arg-type]


def test_estimates_do_not_depend_on_threads() -> None:
    p = ConvProblem.from_shapes((1, 128, 7, 7), (256, 128, 3, 3), rank=2, padding=1)
    costs = []
    for threads in (1, 2, 16):
        with nc.num_threads(threads):
            costs.append([gemm.cost(p, op, np.dtype(np.float32)) for op in ("fprop", "dgrad", "wgrad")])
    assert costs[0] == costs[1] == costs[2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_results_pass_the_caches(dtype: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are the same for lines of y that start on one of the caches' and for others, with threads, and beside what a line leaves over."""
    monkeypatch.setattr(gemm, "PAST_CACHES", 0)
    for shape, filters, options in (
        ((3, 20, 24, 32), (26, 20, 1, 1), {}), ((2, 4, 9, 80), (17, 4, 3, 3), {"padding": 1}), ((1, 9, 7, 7), (40, 9, 1, 1), {}),
        ((1, 200, 16, 48), (8, 200, 1, 1), {}), ((2, 8, 6, 16), (48, 4, 1, 1), {"groups": 2}), ((2, 7, 8, 33), (9, 7, 2, 2), {"stride": 2}),
    ):  # fmt: skip
        x, w, bias = (rng.integers(-3, 4, size).astype(dtype) for size in (shape, filters, filters[0]))
        for layout, activation in itertools.product(("NCHW", "NHWC"), (None, "relu", "tanh")):
            a = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
            how = {"layout": layout, "activation": activation, **options}
            expected = nc.conv2d(a, w, bias, method="direct", **how)
            memory = arrays.empty((expected.size + 1,), np.dtype(dtype), 0)
            for start, threads in itertools.product((0, 1), (1, 2)):
                out = memory[start:][: expected.size].reshape(expected.shape)
                out.fill(np.nan)
                with nc.num_threads(threads):
                    nc.conv2d(a, w, bias, method="gemm", out=out, **how)
                np.testing.assert_allclose(out, expected, rtol=0, atol=0 if activation != "tanh" else 1e-6)
        p = ConvProblem.from_shapes(shape, filters, rank=2, **options)
        whole = _isa.host().vector_bytes == 64 and np.prod(p.output) * np.dtype(dtype).itemsize % 64 == 0
        assert gemm._passes_caches(p, "fprop", np.dtype(dtype)) == whole and not gemm._passes_caches(p, "wgrad", np.dtype(dtype))
        tables = gemm._cut(p, "fprop", _isa.host(), np.dtype(dtype), whole).products[0][0]
        assert tables.geometry[34] == whole, "what the kernel is told"


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_more_lines_than_an_integer_has_bits(isa: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for x, w, options in (
        ((1, 437, 5, 5), (16, 437, 3, 3), {"stride": 2}), ((1, 416, 6, 6), (16, 416, 3, 3), {"dilation": 2}),
        ((1, 262, 6, 6), (16, 262, 5, 5), {}), ((1, 173, 5, 5), (32, 173, 3, 3), {"stride": 2}),
    ):  # fmt: skip
        check(ConvProblem.from_shapes(x, w, rank=2, **options), "wgrad", rng, "float32")


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
def test_nothing_behind_an_operand_is_read() -> None:
    """A column that only the even outputs have is read for the odd ones, too: at the end of an array there may be no memory behind it."""
    code = """
import ctypes, mmap
import numpy as np
import numbaconv as nc

def guarded(*shape):
    size = 4 * int(np.prod(shape))
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages * mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    array = np.frombuffer(memory, np.float32, size // 4, pages * mmap.PAGESIZE - size).reshape(shape)
    array[:] = 1
    return array

for x, w in (((2, 60, 4, 3), (11, 60, 1, 3)), ((1, 9, 6, 5), (16, 9, 3, 3))):
    y = nc.conv2d(guarded(*x), guarded(*w), stride=2, padding=1, method="gemm").shape
    for _ in range(2):
        nc.conv2d_grad_input(guarded(*y), guarded(*w), x, stride=2, padding=1, method="gemm")
        nc.conv2d_grad_weight(guarded(*x), guarded(*y), w, stride=2, padding=1, method="gemm")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("channels_last", [False, True])
def test_samples_that_are_copied_are_done_in_parts(channels_last: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    single = np.dtype("float32")
    for shape, filters, options in (
        ((5, 6, 9, 11), (10, 3, 3, 3), {"stride": 2, "padding": 1, "groups": 2}), ((3, 4, 1, 40), (9, 4, 1, 5), {"padding": (0, 2), "dilation": 2}),
    ):  # fmt: skip
        results = []
        for copied, parts in ((1, shape[0]), (1500, 2), (1 << 20, 1)):
            monkeypatch.setattr(_batches, "COPIED", copied)
            p = ConvProblem.from_shapes(shape, filters, rank=2, **options)
            p = replace(p, channels_last=channels_last)
            rng, found = np.random.default_rng(0), []
            for op, names in (("fprop", "xwy"), ("dgrad", "ywx")):
                a, b, out = (rng.standard_normal(p.shape(name)).astype(single) for name in names)
                if op == "fprop":
                    assert -(-p.batch // gemm._part(p, op, single).batch) >= parts
                bias = rng.standard_normal(out.shape[-1] if channels_last else out.shape[1]).astype(single)
                out.fill(np.nan)
                gemm.run(p, op, a, b, out, Options(bias, "relu"))  # type: ignore[arg-type]
                found.append(out)
                packed = gemm.prepare(p, op, b)  # type: ignore[arg-type]
                again = np.full_like(out, np.nan)
                gemm.run(p, op, a, b, again, Options(bias, "relu", packed))  # type: ignore[arg-type]
                np.testing.assert_array_equal(again, out)
            x, w = (rng.standard_normal(p.shape(name)).astype(single) for name in "xw")
            w[0, 0, 0, 0, 0] = np.inf  # times a zero of the padding, which is not a number
            y, expected = (np.full(p.shape("y"), np.nan, single) for _ in range(2))
            gemm.run(p, "fprop", x, w, y, Options())
            direct.run(p, "fprop", x, w, expected, Options())
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)
            results.append((*found, gemm.workspace(p, "fprop", single)))
        for *found, _ in results[1:]:
            for one, other in zip(found, results[0], strict=False):
                np.testing.assert_array_equal(one, other)
        assert results[0][-1] < results[-1][-1]


@pytest.mark.parametrize("module", [gemm, dots])
def test_filters_gradients_of_parts_are_added(module: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of about the same size, the last one of fewer samples; as many as their sums are worth; infinity beside the padding."""
    single = np.dtype("float32")
    for shape, filters, options in (
        ((7, 6, 9, 11), (10, 3, 3, 3), {"stride": 2, "padding": 1, "groups": 2}), ((5, 8, 6, 6), (9, 8, 1, 1), {"stride": 2}),
        ((4, 4, 1, 40), (9, 4, 1, 5), {"padding": (0, 2), "dilation": 2}),
    ):  # fmt: skip
        counts, spaces = [], []
        for copied, least in ((1, 0), (4000, 0), (1, 1 << 20), (1 << 20, 0)):
            monkeypatch.setattr(_batches, "COPIED", copied)
            monkeypatch.setattr(_batches, "LEAST", least)
            p = ConvProblem.from_shapes(shape, filters, rank=2, **options)  # type: ignore[arg-type]
            counts.append(-(-p.batch // (gemm._part(p, "wgrad", single) if module is gemm else dots._part(p, single)).batch))
            dy, x = (rng.integers(-3, 4, p.shape(name)).astype(single) for name in "yx")
            expected = reference.run(p, "wgrad", dy, x)
            for threads in (1, 3):
                out = np.full(p.shape("w"), np.nan, single)
                with nc.num_threads(threads):
                    module.run(p, "wgrad", dy, x, out, Options())
                np.testing.assert_array_equal(out, expected)
            dy[-1, 0, 0, 0, 0] = np.inf
            out, expected = (np.full(p.shape("w"), np.nan, single) for _ in range(2))
            module.run(p, "wgrad", dy, x, out, Options())
            direct.run(p, "wgrad", dy, x, expected, Options())
            np.testing.assert_array_equal(out, expected)
            spaces.append(module.workspace(p, "wgrad", single))
        assert counts[0] == p.batch >= counts[1] and counts[2:] == [1, 1]
        assert spaces[2] == spaces[3]


def test_parts_are_not_cut_again(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples alone would not exchange x and dy, as all six do, and would be copied one by one."""
    single = np.dtype("float32")
    p = ConvProblem.from_shapes((6, 32, 7, 7), (16, 16, 2, 2), rank=2, groups=2)
    copied = gemm._forward(p, "wgrad").in_channels * _grid.grid(gemm._forward(p, "wgrad"), split=False)[0].plane
    monkeypatch.setattr(_batches, "COPIED", 2 * copied * single.itemsize)
    monkeypatch.setattr(_batches, "LEAST", 0)
    part = gemm._part(p, "wgrad", single)
    assert gemm._exchanges(p) and not gemm._exchanges(part)
    assert part.batch == 2 and gemm._part(part, "wgrad", single).batch == 1
    batches, run = [], gemm._run
    monkeypatch.setattr(gemm, "_run", lambda cut, problem, *given: batches.append(problem.batch) or run(cut, problem, *given))  # type: ignore[func-returns-value]
    check(p, "wgrad", rng, "float32")
    assert set(batches) == {2}


def test_rows_are_packed_or_not_for_some_numbers_of_threads(rng: np.random.Generator) -> None:
    """And columns left over round alike in either way."""
    p, found = ConvProblem.from_shapes((7, 2048, 7, 3), (104, 2048, 2, 2), rank=2), []
    x, w, y = (rng.standard_normal(p.shape(name)).astype(np.float32) for name in "xwy")
    for threads in (1, 2, 3):
        with nc.num_threads(threads):
            gemm.run(p, "fprop", x, w, y, Options())
            (shape,) = _products.shapes(p, "fprop", _isa.host(), y.dtype, threads)[1]
        found.append((shape.packs, y.copy()))
    if _isa.host().name == "avx512":
        assert len({packs for packs, _ in found}) == 2 and shape.tails
    for _, other in found[1:]:
        np.testing.assert_array_equal(other, found[0][1])


def test_a_batch_is_cut_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    p = ConvProblem.from_shapes((16, 4, 8, 8), (4, 4, 3, 3), rank=2)
    assert _batches.part(p, "fprop", 0, 4) is p
    monkeypatch.setattr(_batches, "COPIED", 7 * 1000 * 4)
    for op, copied, count in (
        ("fprop", 1000, 7),
        ("wgrad", 1000, 6),
        ("fprop", 500, 14),
        ("wgrad", 500, 8),
        ("wgrad", 100_000, 1),
        ("dgrad", 400, 16),
    ):
        assert _batches.part(p, op, copied, 4).batch == count, (op, copied)  # type: ignore[arg-type]
    monkeypatch.setattr(_batches, "COPIED", 1)
    assert _batches.part(p, "fprop", 10, 4).batch == 1
    assert _batches.part(p, "wgrad", 10, 4) is p, "the weights are more than all samples"


def test_filters_gradients_are_cut_into_the_same_pieces_for_any_number_of_threads() -> None:
    """Only which blocks and lines make a tile depends on them."""
    isa, dtype, tiles, problems = _isa.host(), np.dtype(np.float32), set(), 0
    for x, w, options in (
        ((16, 960, 7, 7), (320, 960, 1, 1), {}),
        ((3, 64, 14, 14), (96, 64, 3, 3), {"padding": 1}),
        ((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
        ((1, 64, 56, 56), (256, 64, 1, 1), {}),
        ((2, 32, 20, 20), (40, 16, 2, 2), {"groups": 2, "stride": 2}),
    ):
        p = ConvProblem.from_shapes(x, w, rank=2, **options)  # type: ignore[arg-type]
        cuts = [_products.shapes(gemm._forward(p, "wgrad"), "wgrad", isa, dtype, threads)[1][0] for threads in (1, 2, 16)]
        assert len({(cut.pieces, cut.together, cut.reps, cut.steps) for cut in cuts}) == 1
        tiles |= {(problems, cut.blocks_each, cut.lines_each) for cut in cuts}
        problems += 1
    assert len(tiles) > problems, "and those do"


def test_tables_of_several_samples_fill_their_chunks() -> None:
    for batch, terms, count in ((16, 49, 8), (16, 196, 1), (1, 49, 1), (7, 1, 7), (6, 70, 2), (5, 49, 5), (10**6, 1, 1000), (16, CHUNK, 1)):
        assert _products._samples(batch, terms) == count, (batch, terms)


@pytest.mark.parametrize("channels_last", [False, True])
def test_long_lines_are_copied_in_pieces(channels_last: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels with their channels last: pieces that begin, end or lie in the padding, and those of lines and planes outside."""
    monkeypatch.setattr(_copies, "PIECE", 1)  # elements: 16 pixels, the least
    for x, w, options in (
        ((2, 4, 3, 50), (6, 2, 2, 3), {"padding": 1, "groups": 2}),
        ((1, 3, 33), (4, 3, 5), {"padding": 40}),
        ((1, 7, 37), (5, 7, 3), {"stride": 2, "padding": ((17, 0),)}),
        ((1, 2, 3, 4, 20), (3, 2, 2, 2, 2), {"padding": (1, 0, 2), "dilation": (1, 1, 16)}),
        ((1, 5, 31), (4, 5, 16), {}),
    ):
        problem = replace(ConvProblem.from_shapes(x, w, rank=len(x) - 2, **options), channels_last=channels_last)
        copied = _grid.grid(problem, split=False, pieces=True)[0]
        assert copied.axes[2].pitch > _copies.STRIP
        for op in ("fprop", "wgrad"):
            check(problem, op, rng, "float32")  # type: ignore[arg-type]


def test_what_is_asked_for_is_in_the_table() -> None:
    for filters in range(8, 8 * 33, 8):
        p = ConvProblem.from_shapes((1, 769, 16, 16), (filters, 769, 1, 1), rank=2)
        (shape,) = shapes(p, "fprop")
        (tables, *_), *_ = gemm._cut(p, "fprop", _isa.host(), np.dtype(np.float32)).products
        asking, unrolled = max(1, shape.blocks_each - 1), _simd_tile.UNROLLED
        slow = max(n for n in range(9) if n == 0 or unrolled << n <= asking)
        furthest = shape.steps + max(CHUNK * (asking - 1) // asking + (CHUNK // unrolled - 1 >> slow), CHUNK - 1)
        assert furthest < len(tables.b_steps)


@pytest.mark.parametrize(("isa", "dtype"), PAIRS)
def test_inputs_are_copied_for_each_tap_where_outputs_are_few(isa: str, dtype: str, rng, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[isa])
    for x, w, options in (
        ((1, 5, 14, 14), (60, 5, 3, 3), {"stride": 2, "padding": 1}),
        ((2, 6, 9, 7), (96, 3, 3, 2), {"stride": (4, 3), "padding": ((2, 0), (1, 3)), "groups": 2}),
        ((3, 4, 11), (70, 4, 5), {"dilation": 2, "padding": 4}),
        ((1, 2, 3, 6, 5), (40, 2, 2, 3, 2), {"stride": (1, 2, 1), "padding": (0, 1, 1)}),
        ((1, 33, 8, 8), (128, 33, 2, 2), {"stride": 2}),
        ((1, 3, 1, 1), (8, 3, 3, 3), {"padding": 1}),
        ((1, 16, 12, 12), (64, 2, 9, 9), {"groups": 8, "padding": ((-1, -1), (-1, -1))}),
    ):
        p = ConvProblem.from_shapes(x, w, rank=len(x) - 2, **options)
        check(p, "wgrad", rng, dtype)
        assert p.derived["dense"].filter == (1, 1, 1)
        dy, x5 = (rng.integers(-3, 4, p.shape(t)).astype(dtype) for t in "yx")
        dy[0, 0, 0, 0, 0], dy[-1, -1, -1, -1, -1] = np.inf, np.nan  # times a zero of the padding, which is part of no sum
        out, expected = np.empty(p.shape("w"), dtype), np.empty(p.shape("w"), dtype)
        gemm.run(p, "wgrad", dy, x5, out, Options())
        with np.errstate(invalid="ignore"):
            direct.run(p, "wgrad", dy, x5, expected, Options())
        np.testing.assert_array_equal(out, expected)


def test_calls_that_copy_inputs_for_each_tap_are_bound(rng: np.random.Generator) -> None:
    """Again and again, arrays of the caller's rank, in both layouts; not with so many taps that a table of them would be large."""
    for x, w, options in (
        ((3, 4, 11), (70, 4, 5), {"dilation": 2, "padding": 4}),
        ((2, 23, 8), (12, 8, 1), {"stride": 3, "channels_last": True}),
        ((1, 8, 4, 4), (64, 8, 3, 3), {"stride": 2, "padding": 1}),
        ((1, 7, 9, 8), (12, 8, 1, 1), {"stride": (2, 3), "channels_last": True}),
    ):
        p = ConvProblem.from_shapes(x, w, rank=len(x) - 2, **options)  # type: ignore[arg-type]
        bound = gemm.bind(p, "wgrad", np.dtype(np.float32), unexpected)
        assert bound is not None and p.derived["dense"].filter == (1, 1, 1)
        for _ in range(2):
            a, b = (rng.integers(-3, 4, p.shape(t)).astype(np.float32) for t in "yx")
            out = np.full(w, np.nan, np.float32)
            bound(a, b.reshape(x), out)
            np.testing.assert_array_equal(out.reshape(p.shape("w")), reference.run(p, "wgrad", a, b))
    p = ConvProblem.from_shapes((1, 1, 300), (2, 1, 300), rank=1)
    check(p, "wgrad", rng, "float32")
    assert "dense" not in p.derived


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planes_that_reach_into_the_padding_are_products_of_their_own(dtype: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied, no zeros are multiplied: strides, dilation, unequal padding, a plane that reads nothing, groups, prepared weights."""
    monkeypatch.setattr(_grid, "LEAST_PLANE", 1)
    monkeypatch.setattr(_grid, "WEIGHTS_SECONDS", 0)
    cases: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int]] = [
        ((2, 5, 6, 7, 9), (9, 5, 3, 1, 1), {"padding": (1, 0, 0)}, 3),
        ((1, 6, 9, 5, 4), (12, 3, 3, 1, 2), {"stride": (2, 1, 1), "groups": 2, "padding": (1, 0, 0)}, 5),
        ((1, 4, 5, 3, 17), (8, 4, 2, 1, 1), {"dilation": (3, 1, 1), "padding": ((3, 1), (0, 0), (0, 0))}, 3),
        ((1, 4, 2, 8, 6), (8, 4, 3, 3, 1), {"padding": ((3, 0), (0, 0), (0, 0))}, 3),
        ((1, 4, 3, 8, 6), (8, 4, 3, 1, 1), {"stride": (3, 1, 1), "padding": ((1, 0), (0, 0), (0, 0))}, 1),
    ]  # fmt: skip
    for x, w, options, count in cases:
        p = ConvProblem.from_shapes(x, w, rank=3, **options)
        g, parts = _grid.grid(p, split=True, pieces=True)
        assert len(parts) == count and not g.copied
        for op in ("fprop", "dgrad", "wgrad"):
            check(p, op, rng, dtype)  # type: ignore[arg-type]
        a, b = (rng.standard_normal(p.shape(t)).astype(dtype) for t in "xw")
        a[0, 0, 0, 0, 0], b[0, 0, 0, 0, 0], bias = np.inf, np.nan, rng.standard_normal(p.out_channels).astype(dtype)
        plain, ready = (np.full(p.shape("y"), np.nan, dtype) for _ in range(2))
        gemm.run(p, "fprop", a, b, plain, Options(bias, "relu"))
        gemm.run(p, "fprop", a, b, ready, Options(bias, "relu", packed=gemm.prepare(p, "fprop", b)))
        np.testing.assert_array_equal(plain, ready)
