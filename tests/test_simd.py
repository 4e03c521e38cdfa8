"""Every instruction set's register tile, forced on whatever CPU runs the tests: another shape, the same sums."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numba import types

import numbaconv as nc
from numbaconv import reference
from numbaconv.cpu import _copies, _grid, _isa, _transform
from numbaconv.problem import ConvProblem

CASES = [
    ((2, 3, 9, 11), (5, 3, 3, 2), {"padding": 1}),
    ((1, 4, 30, 31), (17, 4, 3, 3), {"stride": 2, "dilation": 2, "padding": ((2, 1), (0, 3))}),
    ((3, 8, 7, 7), (24, 4, 1, 1), {"groups": 2}),
    ((2, 300, 7, 7), (13, 300, 1, 1), {}),  # a column of pixels left over, whose sum has several chunks
    ((1, 9, 2, 2), (11, 9, 1, 1), {}),  # nothing but columns left over
    ((1, 130, 5, 5), (140, 130, 3, 3), {"padding": 1}),  # several chunks of the sum and blocks of rows
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(_isa.ISAS))
def test_tiles_of_every_instruction_set(name: str, dtype: type, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    for x_shape, w_shape, options in CASES:
        for channels_last in (False, True):
            p = ConvProblem.from_shapes(
                (x_shape[0], *x_shape[2:], x_shape[1]) if channels_last else x_shape, w_shape, rank=2, channels_last=channels_last, **options
            )
            layout = "NHWC" if channels_last else "NCHW"
            x, w, dy = (rng.integers(-4, 5, p.shape(t, 2)).astype(dtype) for t in ("x", "w", "y"))
            x5, w5, dy5 = (array.reshape(p.shape(t)) for array, t in zip((x, w, dy), "xwy", strict=True))
            how = {**options, "layout": layout, "method": "gemm"}
            assert np.array_equal(nc.conv2d(x, w, **how), reference.run(p, "fprop", x5, w5).reshape(p.shape("y", 2)))
            assert np.array_equal(nc.conv2d_grad_weight(x, dy, w.shape, **how), reference.run(p, "wgrad", dy5, x5).reshape(w.shape))
            if not channels_last:
                found = nc.conv2d_grad_weight(x, dy, w.shape, **{**how, "method": "dots"})
                assert np.array_equal(found, reference.run(p, "wgrad", dy5, x5).reshape(w.shape))
            if p.stride[2] == 1:
                assert np.array_equal(nc.conv2d_grad_input(dy, w, x.shape, **how), reference.run(p, "dgrad", dy5, w5).reshape(x.shape))


@pytest.mark.parametrize(
    ("method", "w_shape", "groups"), [("winograd", (20, 18, 3, 3), 1), ("stencil", (6, 1, 3, 3), 6), ("stencil", (6, 2, 5, 2), 3)]
)
@pytest.mark.parametrize("name", list(_isa.ISAS))
def test_other_kernels_of_every_instruction_set(
    name: str, method: str, w_shape: tuple[int, ...], groups: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    p = ConvProblem.from_shapes((2, w_shape[1] * groups, 13, 40), w_shape, rank=2, padding=1, groups=groups)
    x, w, dy = (rng.integers(-4, 5, p.shape(t, 2)).astype(np.float32) for t in ("x", "w", "y"))
    x5, w5, dy5 = (array.reshape(p.shape(t)) for array, t in zip((x, w, dy), "xwy", strict=True))
    how, near = {"padding": 1, "groups": groups, "method": method}, 1e-2 if method == "winograd" else 0.0
    results = (
        (nc.conv2d(x, w, **how), reference.run(p, "fprop", x5, w5)),
        (nc.conv2d_grad_input(dy, w, x.shape, **how), reference.run(p, "dgrad", dy5, w5)),
        (nc.conv2d_grad_weight(x, dy, w.shape, **how), reference.run(p, "wgrad", dy5, x5)),
    )
    for found, expected in results:
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=0, atol=near)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(_isa.ISAS))
def test_copies_with_zeros_around(name: str, dtype: type, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    host = lambda: _isa.ISAS[name]  # noqa: E731
    monkeypatch.setattr(_isa, "host", host)
    for size, taps, options in (
        ((7, 7), (3, 3), {"padding": 1}), ((14, 14), (3, 3), {"padding": 1, "stride": 2}), ((9, 40), (2, 5), {"padding": (0, 3), "stride": (1, 4)}),
        ((1, 1), (3, 3), {"padding": 2}), ((5, 33), (3, 2), {"padding": ((0, 2), (-1, 4)), "dilation": 2}), ((20, 21), (1, 1), {"stride": 3}),
        ((14, 14), (3, 3), {"padding": 1, "stride": 2, "filters": 300}), ((7, 6), (3, 4), {"padding": 3, "dilation": 2, "filters": 300}),
        ((11, 30), (3, 5), {"padding": (2, 4), "stride": 4, "filters": 300}),
    ):  # fmt: skip
        filters = options.pop("filters", 3)
        p = ConvProblem.from_shapes((2, 3, *size), (filters, 3, *taps), rank=2, **options)
        monkeypatch.setattr(_grid, "_pays", lambda saved, more, filters=filters: filters > 3)
        x, (g, _) = rng.integers(1, 9, p.shape("x")).astype(dtype), _grid.grid(p, split=True)
        assert g.axes[2].apart == (filters > 3)
        expected = np.zeros((6, *(len(axis.phases) for axis in g.axes), *(axis.pitch for axis in g.axes)), dtype)
        for place in np.ndindex(expected.shape[1:]):
            i = [(a.low + j) * a.stride + a.phases[n] for a, n, j in zip(g.axes, place[:3], place[3:], strict=True)]
            if all(0 <= k < n for k, n in zip(i, p.input, strict=True)):
                expected[(slice(None), *place)] = x.reshape(6, *p.input)[(slice(None), *i)]
        expected = np.concatenate([expected.reshape(-1), np.zeros(g.slack, dtype)])
        by_table = _copies.planes_copier(p, g, x.dtype)(x)
        monkeypatch.setattr(_copies, "MOST_LINES", -1)
        by_line = _copies.planes_copier(p, g, x.dtype)(x)
        monkeypatch.undo()
        monkeypatch.setattr(_isa, "host", host)
        np.testing.assert_array_equal(by_table, expected, err_msg=str(p))
        np.testing.assert_array_equal(by_line, expected, err_msg=str(p))


def test_the_host_is_in_the_table() -> None:
    assert _isa.host() in _isa.ISAS.values()


@pytest.mark.parametrize("name", list(_isa.ISAS))
def test_vectors_of_pixels_are_taken_together_where_they_are_whole(name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    for x_shape, w_shape, options in (
        ((3, 7, 13, 41), (11, 7, 1, 1), {}),  # one line of 533 pixels
        ((2, 3, 9, 115), (9, 3, 3, 3), {"stride": 2}),  # lines of 57
        ((3, 2, 5, 224), (8, 2, 2, 2), {"stride": 2}),  # of 112, seven vectors each
        ((40, 4, 2, 2), (5, 4, 1, 1), {}),  # none is whole
    ):
        p = ConvProblem.from_shapes(x_shape, w_shape, rank=2, **options)
        x, dy = (rng.integers(-4, 5, p.shape(t)).astype(np.float32) for t in "xy")
        found = nc.conv2d_grad_weight(x.reshape(x_shape), dy.reshape(p.shape("y", 2)), w_shape, method="dots", **options)
        assert np.array_equal(found.reshape(p.shape("w")), reference.run(p, "wgrad", dy, x))


def test_llvm_is_not_free_to_change_sums() -> None:
    """A formula is rounded alike in every kernel that it is compiled into: nothing in it may be reordered or contracted."""
    numbers, one, many = types.float32[::1], types.int64[::1], types.int64[:, ::1]
    for function in _transform.functions(_isa.host(), np.dtype(np.float32), False):
        signature = (numbers, types.int64, types.int64, one, many, numbers, numbers, types.int64)
        function.compile(signature)
        code = str(function.overloads[signature].library._get_module_for_linking())
        sums = re.findall(r"= f(?:add|sub|mul) ([a-z ]*)<", code)
        assert sums and set(sums) == {"arcp "}
        assert "llvm.fmuladd" in code
