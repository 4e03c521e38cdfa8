"""Both tiles of Winograd, forced: errors, instruction sets, prepared weights, workspace, and what spreads NaN."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import exact_sum, operands, poisoned
from tolerance import allowed

import numbaconv as nc
from numbaconv import reference
from numbaconv.cpu import _isa, _parallel, winograd
from numbaconv.cpu._winograd_maps import AXES
from numbaconv.plan import plan
from numbaconv.problem import OPS, ConvProblem, Options, Unsupported
from numbaconv.recipe import TENSORS

PROMISE = {2: 8.0, 4: 64.0}  # error / (eps · Σ|x||w|) of F(2,3) and F(4,3)
SPARSE = {2: 16.0, 4: 64.0}  # of the input's gradient with a stride, whose sums have one to four of nine taps
LAYERS = [
    ((2, 5, 9, 10), (7, 5, 3, 3), {"padding": 1}),  # more lanes than channels
    ((1, 64, 14, 14), (72, 64, 3, 3), {"padding": 1}),  # fewer tiles than filters, and the other way round:
    ((3, 18, 29, 33), (20, 18, 3, 3), {"padding": ((0, 2), (2, 1))}),
    ((1, 300, 6, 6), (33, 300, 3, 3), {}),  # several chunks of the sum, several blocks of channels
    ((1, 34, 12, 70), (200, 34, 3, 3), {"padding": 1}),  # several blocks of filters, rows longer than a strip
    ((2, 20, 8, 7, 6), (12, 10, 3, 3, 3), {"padding": 1, "groups": 2}),  # the first axis is part of the sum
    ((2, 20, 50), (33, 20, 3), {"padding": 1}),  # one axis
    ((1, 12, 21, 20), (17, 12, 2, 3), {"padding": (3, 1)}),  # one axis, the other part of the sum
]
STRIDED = [  # with padding that puts the gradient's first output at one tap and at two, and with inputs that no output reads
    ((2, 5, 9, 10), (7, 5, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 64, 27, 28), (72, 64, 3, 3), {"padding": 1, "stride": 2}),
    ((3, 18, 29, 33), (20, 18, 3, 3), {"padding": ((0, 2), (2, 1)), "stride": (2, 1)}),
    ((1, 300, 12, 13), (33, 300, 3, 3), {"stride": 2}),
    ((1, 34, 12, 150), (200, 34, 3, 3), {"padding": (1, 0), "stride": (1, 2)}),
    ((2, 20, 8, 7, 9), (12, 10, 3, 3, 3), {"padding": 1, "groups": 2, "stride": (1, 2, 2)}),
    ((2, 20, 102), (33, 20, 3), {"padding": 2, "stride": 2}),
    ((1, 12, 21, 40), (17, 12, 2, 3), {"padding": (3, 1), "stride": (1, 2)}),
]


def problem_of(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any], last: bool) -> ConvProblem:
    shape = (x[0], *x[2:], x[1]) if last else x
    return ConvProblem.from_shapes(shape, w, rank=len(x) - 2, channels_last=last, **options)


def only(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    every = winograd._tiles
    monkeypatch.setattr(winograd, "_tiles", lambda *problem: [t for t in every(*problem) if t[1][0] == str(tile)])


def compute(problem: ConvProblem, op: Any, a: Any, b: Any, packed: Any = None) -> Any:
    out = poisoned(problem.shape(TENSORS[op][2]), a.dtype)
    winograd.run(problem, op, a, b, out, Options(None, None, packed))
    return out


def cases() -> Iterator[ConvProblem]:
    for layer in LAYERS + STRIDED:
        for last in (False, True):
            yield problem_of(*layer, last)


def check_errors(problem: ConvProblem, op: Any, dtype: str, rng: np.random.Generator, tile: int) -> None:
    promise = (SPARSE if op == "dgrad" and problem.stride != (1, 1, 1) else PROMISE)[tile]
    for kind in ("signed", "positive"):
        a, b = operands(problem, op, dtype, rng, kind)
        magnitude = reference.run(problem, op, abs(a).astype(np.float64), abs(b).astype(np.float64))
        last = problem.channels_last and op != "wgrad"
        bound = allowed(magnitude, dtype, problem.gemm_shape(op)[2], "winograd", channels_last=last) * promise / PROMISE[4]
        error = abs(compute(problem, op, a, b) - exact_sum(problem, op, a, b))
        assert np.all(error <= bound), (problem, kind, float(np.max(error / bound)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("tile", [2, 4])
def test_errors_of_each_tile(tile, op, dtype, rng, monkeypatch):
    only(tile, monkeypatch)
    monkeypatch.setattr(winograd.direct, "run", lambda *_: pytest.fail("a finite result was taken for another"))
    for problem in cases():
        check_errors(problem, op, dtype, rng, tile)


@pytest.mark.parametrize("name", [name for name in AXES if name != "1"])
def test_the_maps_of_an_axis(name, rng):
    """In numbers: a tile is the sum over its taps, and the gradient's maps are those of the same products the other way round."""
    axis, one = AXES[name], np.eye(3)
    d, g, dy = ([*rng.standard_normal(n)] for n in (axis.inputs, 3, axis.outputs))

    def tile(taps: Any) -> Any:
        kinds = axis.filter([*taps])
        return np.array(axis.output([value * kinds[kind] for value, kind in zip(axis.input(d), axis.kinds, strict=True)]))

    u, lead = (2, int(name[-1] == "e")) if name[-1] in "de" else (1, 0)  # an input that is dilated, and the outputs' shift
    wide = np.zeros(u * (axis.inputs + 1))
    wide[lead : lead + u * axis.inputs : u] = d
    stride = 2 if name[-1] == "s" else 1
    np.testing.assert_allclose(tile(g), [wide[o * stride : o * stride + 3] @ g for o in range(axis.outputs)], rtol=0, atol=1e-12)
    if u == 1:
        sums = np.zeros(axis.transformed)
        np.add.at(sums, list(axis.kinds), np.multiply(axis.input(d), axis.gradient(dy)))
        np.testing.assert_allclose(axis.taps([*sums]), [tile(one[r]) @ dy for r in range(3)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("tile", [2, 4])
def test_strides_of_axes_that_are_summed_directly(tile, rng, monkeypatch):
    only(tile, monkeypatch)
    for x, w, stride in (((2, 6, 9, 8, 10), (8, 6, 3, 3, 3), (3, 2, 1)), ((1, 12, 23, 20), (17, 12, 2, 3), (3, 2))):
        for last in (False, True):
            problem = problem_of(x, w, {"padding": 1, "stride": stride}, last)
            check_errors(problem, "fprop", "float32", rng, tile)
            check_errors(problem, "wgrad", "float32", rng, tile)
            with pytest.raises(Unsupported, match="does not transform"):
                winograd.cost(problem, "dgrad", np.dtype("float32"))


@pytest.mark.parametrize("tile", [2, 4])
def test_transposed_convolutions(tile, rng, monkeypatch):
    """Their forward is a strided one's gradient; the first and the last output have one tap or two."""
    only(tile, monkeypatch)
    for padding, more, last in itertools.product((0, 1, 2), (0, 1), (False, True)):
        shape, options = (2, 9, 11, 20) if last else (2, 20, 9, 11), {"padding": padding, "output_padding": more}
        problem = ConvProblem.from_transposed_shapes(shape, (20, 9, 3, 3), rank=2, stride=2, groups=2, channels_last=last, **options)
        check_errors(problem, "dgrad", "float32", rng, tile)


@pytest.mark.parametrize("name", list(_isa.ISAS))
def test_every_instruction_set(name, rng, monkeypatch):
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    for layer, (op, dtype) in itertools.product((LAYERS[1], STRIDED[1]), (("fprop", "float64"), ("dgrad", "float32"), ("wgrad", "float32"))):
        problem = problem_of(*layer, False)
        a, b = operands(problem, op, dtype, rng)
        np.testing.assert_allclose(compute(problem, op, a, b), reference.run(problem, op, a, b), rtol=0, atol=2e-3)


@pytest.mark.parametrize("op", ["fprop", "dgrad"])
def test_prepared_weights_serve_images_of_any_size(op, rng):
    small, large = (ConvProblem.from_shapes((1, 40, size, size), (24, 40, 3, 3), rank=2, padding=1) for size in (6, 40))
    for made, used in ((small, small), (small, large), (large, small)):
        a, w = operands(used, op, "float32", rng)
        np.testing.assert_allclose(compute(used, op, a, w, winograd.prepare(made, op, w)), reference.run(used, op, a, w), rtol=0, atol=2e-3)


def test_weights_prepared_for_another_stride_are_not_taken(rng):
    w = rng.standard_normal((32, 32, 3, 3), dtype=np.float32)
    x = rng.standard_normal((1, 32, 40, 40), dtype=np.float32)
    strides = 1, 2, (1, 2), (2, 1)
    for made, used in itertools.product(strides, strides):
        prepared = nc.prepare(w, x.shape, stride=made, padding=1, method="winograd")
        options = {"stride": used, "padding": 1, "method": "winograd"}
        np.testing.assert_array_equal(nc.conv2d(x, prepared, **options), nc.conv2d(x, w, **options))


def test_workspace_is_what_is_allocated(rng, monkeypatch):
    sizes: list[int] = []

    def counting(shape: Any, dtype: Any = float) -> Any:
        array = empty(shape, dtype)
        sizes.append(array.nbytes)
        return array

    empty = np.empty
    for problem in cases():
        for op in OPS:
            a, b = operands(problem, op, "float32", rng)
            out = empty(problem.shape(TENSORS[op][2]), np.float32)
            with nc.num_threads(1):
                asked = winograd.workspace(problem, op, a.dtype)
                winograd.run(problem, op, a, b, out, Options())  # compiles
                sizes.clear()
                with monkeypatch.context() as patch:
                    patch.setattr(_parallel.np, "empty", counting)
                    patch.setattr(_parallel, "own_scratch", lambda size, dtype: _parallel.aligned(1, size, dtype))
                    winograd.run(problem, op, a, b, out, Options())
            assert max(sizes) <= asked <= sum(sizes) + 4096, (problem, op)


def test_what_it_cannot_do():
    def layer(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvProblem:
        return ConvProblem.from_shapes(x, w, rank=len(x) - 2, **options)

    for problem, reason in (
        (layer((1, 4, 9, 9), (4, 4, 5, 5)), "3 taps"), (layer((1, 4, 9, 9), (4, 4, 3, 3), stride=3), "stride"),
        (layer((1, 4, 9, 9), (4, 4, 3, 3), stride=2, padding=3), "meet the input"),
        (layer((1, 4, 9, 9), (4, 4, 3, 3), dilation=2), "dilation"), (layer((1, 4, 2, 9), (4, 4, 3, 3), padding=1), "tile"),
        (layer((1, 4, 9, 9), (4, 4, 3, 3), padding=3), "meet the input"), (layer((0, 4, 9, 9), (4, 4, 3, 3)), "tile"),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match=reason):
            winograd.cost(problem, "fprop", np.dtype("float32"))
    for padding in ((2, -1), (-1, 2)):
        with pytest.raises(Unsupported, match="taps that all meet"):
            winograd.cost(layer((1, 4, 3, 6), (4, 4, 3, 3), padding=(padding, (1, 1))), "wgrad", np.dtype("float32"))


def test_the_highest_precision_leaves_it_out_unless_it_is_named():
    problem, dtype = ConvProblem.from_shapes((1, 64, 56, 56), (64, 64, 3, 3), rank=2, padding=1), np.dtype("float32")
    assert plan(problem, "fprop", dtype).name == "winograd"
    assert plan(problem, "fprop", dtype, precision="highest").name != "winograd"
    assert plan(problem, "fprop", dtype, "winograd", "highest").name == "winograd"


def test_nan_stays_where_it_is_and_an_overflow_of_the_transform_does_no_harm(rng):
    problem = ConvProblem.from_shapes((1, 16, 30, 30), (16, 16, 3, 3), rank=2, padding=1)
    x, w = operands(problem, "fprop", "float32", rng, "signed")
    x[0, 3, 0, 10, 11] = math.nan
    y = compute(problem, "fprop", x, w)
    assert np.isnan(y[..., 9:12, 10:13]).all() and np.isnan(y).sum() == 16 * 9
    y = compute(problem, "fprop", np.full_like(x, 1e38), np.full_like(w, 1e-3))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("op", ["fprop", "dgrad"])
def test_weights_in_pieces_that_stay_in_the_cache(op, rng, monkeypatch):
    monkeypatch.setattr(winograd, "LOCAL", 36 * 48 * 8)
    for x, w, options in (
        ((1, 75, 14, 14), (80, 75, 3, 3), {"padding": 1}),
        ((1, 70, 4, 8, 8), (96, 70, 3, 3, 3), {"padding": 1}),
        ((1, 3, 12, 6, 6), (48, 3, 10, 3, 3), {}),  # fewer channels than a piece would have
    ):
        problem = problem_of(x, w, options, False)
        a, b = operands(problem, op, "float32", rng, "signed")
        magnitude = reference.run(problem, op, abs(a).astype(np.float64), abs(b).astype(np.float64))
        bound = allowed(magnitude, "float32", problem.gemm_shape(op)[2], "winograd", channels_last=False)
        found = compute(problem, op, a, b)
        assert np.all(abs(found - exact_sum(problem, op, a, b)) <= bound), problem
        np.testing.assert_array_equal(compute(problem, op, a, b, winograd.prepare(problem, op, b)), found)
