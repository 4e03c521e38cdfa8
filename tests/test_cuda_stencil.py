"""The GPU's stencil kernels in the simulator, against the reference, and their index arithmetic over thousands of problems."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.cuda import _stencil, _stencil_last, _stencil_passes, _stencil_tiles, stencil
from numbaconv.cuda._stencil_geometry import LastGeometry
from numbaconv.cuda._stencil_tiles import SHARED, SHARED_LAST
from numbaconv.problem import OPS, ConvProblem, Options, Unsupported
from numbaconv.recipe import TENSORS
from tests.cases import FLOATS, NAMED, exact_sum, fill, on_gpu, operands, poisoned, random_problem, to_gpu
from tests.tolerance import allowed

BLOCKS = 16  # that a test simulates


def supported(problem, op, dtype="float32"):
    """Return whether the stencil takes a problem, and does it in few blocks."""
    try:
        stencil.cost(problem, op, np.dtype(dtype))
    except Unsupported:
        return False
    return sum(p.blocks for p in stencil._passes(problem, op, np.dtype(dtype))) <= BLOCKS


def computed(problem, op, a, b, options=None):
    return on_gpu(stencil.run, problem, op, a, b, poisoned(problem.shape(TENSORS[op][2]), a.dtype), options)


def same(problem, op, dtype, rng, activation=None):
    a, b = operands(problem, op, dtype, rng)
    if op == "wgrad":
        options, expected = Options(), reference.run(problem, op, a, b)
    else:
        shift = fill((problem.out_channels if op == "fprop" else problem.in_channels,), dtype, rng)
        options, expected = Options(shift, activation), reference.run(problem, op, a, b, shift, activation)
    np.testing.assert_array_equal(computed(problem, op, a, b, options), expected, err_msg=f"{problem} {op}")


def layer(batch, channels, filters, size, taps, stride, padding, groups, last, dilation=1):
    x = (batch, *size, channels) if last else (batch, channels, *size)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "channels_last": last}
    return ConvProblem.from_shapes(x, (filters, channels // groups, *taps), rank=len(size), **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", OPS)
def test_named_cases(op, dtype, rng):
    done = 0
    for case in NAMED:
        if supported(case.problem, op, dtype):
            same(case.problem, op, dtype, rng, "relu" if done % 2 else None)
            done += 1
    assert done > 25 or op == "wgrad"


@pytest.mark.parametrize("op", OPS)
def test_random_generic_problems(op, rng):
    done = 0
    for i in range(150):
        problem = random_problem(rng, generic=True)
        if supported(problem, op, FLOATS[i % 2]):
            same(problem, op, FLOATS[i % 2], rng)
            done += 1
    assert done > 25 or op == "wgrad"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_filters_that_have_kernels_of_their_own(size, stride, last, rng):
    for width, filters in ((16, 8), (13, 16)):
        plane = layer(1, 8, filters, (9, width), (size, size), stride, size // 2, 8, last)
        line = layer(2, 3, 3, (5 * width,), (size,), stride, (size - 1) // 2, 3, last)
        for problem in (plane, line):
            kinds = [p.kind for p in stencil._passes(problem, "fprop", np.dtype(np.float32))]
            assert [k.width for k in kinds] == [size]
            same(problem, "fprop", "float32", rng, "relu")
            if stride == 1 or size == 3:
                same(problem, "dgrad", "float32", rng)
            if supported(problem, "wgrad"):
                same(problem, "wgrad", "float32", rng)


def test_small_images_share_a_block_and_large_ones_are_cut(rng):
    small, large = layer(3, 5, 5, (7, 7), (3, 3), 1, 1, 5, False), layer(1, 1, 1, (50, 140), (3, 3), 1, 1, 1, False)
    (one,), (other,) = (stencil._passes(p, "fprop", np.dtype(np.float32)) for p in (small, large))
    assert one.geo.units > 1 and other.geo.tiles_p * other.geo.tiles_q > 1
    for problem in (small, large):
        same(problem, "fprop", "float32", rng)


@pytest.mark.parametrize("last", [False, True])
def test_long_filters(last, rng):
    """More taps than one accumulator sums, in runs of eight and one by one."""
    for taps, dilation in (((700,), 1), ((530,), 2), ((3, 190), 1)):
        size = (taps[-1] * dilation + 9,) if len(taps) == 1 else (4, 210)
        problem = layer(1, 2, 2, size, taps, 1, 0, 2, last, dilation)
        assert stencil._passes(problem, "fprop", np.dtype(np.float32))[0].kind.long
        same(problem, "fprop", "float32", rng)
        for kind in ("signed", "positive"):
            a, b = operands(problem, "fprop", "float32", rng, kind)
            exact, magnitude = exact_sum(problem, "fprop", a, b), exact_sum(problem, "fprop", abs(a), abs(b))
            terms = problem.gemm_shape("fprop")[2]
            assert (
                abs(computed(problem, "fprop", a, b) - exact) <= allowed(magnitude, "float32", terms, "stencil", positive=kind == "positive")
            ).all()


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_activations(activation, rng):
    for last in (False, True):
        problem = layer(1, 4, 4, (6, 9), (3, 3), 1, 1, 4, last)
        a, b = operands(problem, "fprop", "float32", rng, "signed")
        shift = fill((4,), "float32", rng, "signed")
        expected = reference.run(problem, "fprop", a.astype("f8"), b, shift, activation)
        np.testing.assert_allclose(computed(problem, "fprop", a, b, Options(shift, activation)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_nan_and_infinity_reach_the_outputs_that_see_them_and_no_others(last, rng):
    for taps, padding in (((3, 3), 1), ((2, 4), 2)):
        problem = layer(2, 3, 3, (6, 9), taps, 1, padding, 3, last)
        x, w = operands(problem, "fprop", "float32", rng, "positive")
        x.reshape(-1)[[0, 7, 20]] = np.inf, np.nan, -np.inf
        with np.errstate(invalid="ignore"):
            expected = reference.run(problem, "fprop", x, w)
        np.testing.assert_allclose(computed(problem, "fprop", x, w), expected, rtol=1e-5)


def test_wgrad_sums_many_tiles_and_pieces(monkeypatch, rng):
    monkeypatch.setattr(_stencil, "LONGEST", 2)
    monkeypatch.setattr(_stencil_last, "LONGEST", 2)
    images, channels = layer(70, 2, 2, (6, 9), (3, 3), 1, 1, 2, False), layer(2, 3, 1, (40, 130), (5, 5), 2, 2, 1, False)
    row = layer(60, 1, 1, (700,), (7,), 2, 3, 1, True)
    last, line = layer(7, 6, 6, (6, 9), (3, 3), 1, 1, 3, True), layer(3, 8, 8, (200,), (5,), 2, 2, 8, True)
    for pieces, problems in ((1, (images, line)), (2, (channels, row, last))):
        monkeypatch.setattr(_stencil_tiles, "MOST_PIECES", pieces)
        for problem in problems:
            (one,) = stencil._passes(problem, "wgrad", np.dtype(np.float32))
            assert one.geo.tiles > 2 and one.geo.pieces == pieces
            same(problem, "wgrad", "float32", rng)


@pytest.mark.parametrize("last", [False, True])
def test_errors_of_wgrad_stay_small_on_positive_data(last, rng):
    problem = layer(1, 2, 2, (90, 90), (3, 3), 1, 1, 2, last)
    dy, x = operands(problem, "wgrad", "float32", rng, "positive")
    exact = exact_sum(problem, "wgrad", dy, x)
    terms = problem.gemm_shape("wgrad")[2]
    assert (abs(computed(problem, "wgrad", dy, x) - exact) <= allowed(exact, "float32", terms, "stencil", positive=True)).all()


def test_prepared_weights(rng):
    for last in (False, True):
        problem = layer(1, 4, 4, (6, 9), (3, 3), 2, 1, 4, last)
        for op in ("fprop", "dgrad"):
            a, w = operands(problem, op, "float32", rng)
            packed = stencil.prepare(problem, op, to_gpu(w))
            np.testing.assert_array_equal(computed(problem, op, a, w, Options(packed=packed)), reference.run(problem, op, a, w))


def test_refusals_say_why():
    deep, volume = layer(1, 8, 8, (6, 9), (3, 3), 1, 1, 1, False), layer(1, 1, 1, (4, 4, 4), (3, 3, 3), 1, 1, 1, False)
    wide = layer(1, 1, 1, (300, 300), (200, 200), 1, 0, 1, False)
    for problem, dtype, reason in (
        (deep, "float32", "4 channels"),
        (volume, "float32", "axes"),
        (wide, "float32", "shared memory"),
        (replace(volume, derived={}), "int32", "float64"),
    ):
        with pytest.raises(Unsupported, match=reason):
            stencil.cost(problem, "fprop", np.dtype(dtype))


def test_passes_are_the_equation(rng):
    """Every (output, tap, input) of an axis is in exactly one phase, at the place that the phase says."""
    for _ in range(3000):
        p = random_problem(rng, generic=True)
        for axis in (1, 2):
            found = set()
            for a in _stencil_passes.axes(p, axis):
                for e, r in itertools.product(range(a.count), range(a.taps)):
                    i = a.delta + e * a.stride + r * a.dilation
                    if 0 <= i < p.input[axis]:
                        triple = (a.first + e * a.step, a.w_first + r * a.w_step, i)
                        assert triple not in found
                        found.add(triple)
            pairs = ((tap, reference.pairs(p, axis, tap)) for tap in range(p.filter[axis]))
            assert found == {(o, tap, i) for tap, (ins, outs) in pairs for i, o in zip(ins, outs, strict=True)}


def test_tiles_fit_and_cover(rng):
    """Tiles cover all outputs, fit in shared memory and have no more threads than a block."""
    for _ in range(1500):
        p = random_problem(rng, generic=True, largest=int(rng.choice([8, 60])))
        op, itemsize = OPS[int(rng.integers(2))], int(rng.choice([4, 8]))
        try:
            found = _stencil_tiles.passes(p, op, itemsize)
        except Unsupported:
            continue
        for one in found:
            g, rows = one.geo, 2 if isinstance(one.geo, LastGeometry) else 4
            assert g.tiles_p * g.tile_rows >= g.count_p and g.tiles_q * g.tile_columns >= g.count_q
            assert g.tile_rows * g.tile_columns == g.across * g.down * rows * 4
            read_h = (g.tile_rows - 1) * g.stride_h + (max(g.taps_h, 1) - 1) * g.dilation_h + 1
            read_w = (g.tile_columns - 1) * g.stride_w + (max(g.taps_w, 1) - 1) * g.dilation_w + 1
            if isinstance(g, LastGeometry):
                assert g.lanes * g.across * g.down <= _stencil_tiles.THREADS and g.chunks * g.lanes * 4 >= g.out_channels
                assert (g.fill_h, g.fill_w) == (read_h, read_w) and read_h * g.pitch * itemsize <= SHARED_LAST
                assert ((g.on_h * g.fill_w) + g.on_w) * g.lanes + g.on_lanes == _stencil_tiles.THREADS
            else:
                assert g.units * g.across * g.down <= _stencil_tiles.THREADS
                assert (g.fill_h, g.width) == (read_h, read_w) and 4 * g.fill_w >= read_w + 3 * g.vector_in
                assert g.fill_planes * g.fill_h * g.pitch * itemsize <= SHARED and g.pitch % 4 == g.part % 4 == 0
                assert (g.on_planes * g.fill_h + g.on_h) * g.fill_w + g.on_w == _stencil_tiles.THREADS
