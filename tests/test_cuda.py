"""The GPU room in the simulator: every algorithm, operation, dtype and case against the reference, and the calls that lead there.

A problem has few outputs here: a thread that Python plays takes milliseconds. The same tests run on a GPU with NUMBA_ENABLE_CUDASIM=0.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from cases import NAMED, exact_sum, fill, on_gpu, operands, poisoned, random_case, random_problem
from tolerance import INEXACT, allowed, norms

import numbaconv as nc
from numbaconv import reference
from numbaconv.cuda import _geometry, gemm
from numbaconv.cuda._backend import SIMULATED
from numbaconv.plan import plan, room
from numbaconv.problem import OPS, TENSORS, ConvProblem, Options, Unsupported

ROOM = room("cuda")
ACTIVATIONS = (None, *reference.ACTIVATIONS)
ROUNDS_INPUTS = ("tensor",)  # to what tensor cores take: test_cuda_tensor.py has its bounds
MOST_MACS = 30_000  # of a named case in the simulator


def refuses(algorithm, problem, op, dtype):
    try:
        ROOM[algorithm].cost(problem, op, np.dtype(dtype))
    except Unsupported as reason:
        assert str(reason), "a refusal gives its reason"
        return True
    return False


def compute(algorithm, problem, op, a, b, bias=None, activation=None):
    before = a.copy(), b.copy()
    found = on_gpu(ROOM[algorithm].run, problem, op, a, b, poisoned(problem.shape(TENSORS[op][2]), a.dtype), Options(bias, activation))
    assert (a.tobytes(), b.tobytes()) == (before[0].tobytes(), before[1].tobytes()), "an input was written to"
    return found


def check_exact(algorithm, problem, op, dtype, rng, bias=False, activation=None):
    if refuses(algorithm, problem, op, dtype):
        return False
    a, b = operands(problem, op, dtype, rng)
    channels = problem.out_channels if op == "fprop" else problem.in_channels
    bias = fill((channels,), dtype, rng) if bias and op != "wgrad" else None
    activation = None if op == "wgrad" else activation
    expected = reference.run(problem, op, a, b, bias, activation)
    np.testing.assert_allclose(
        compute(algorithm, problem, op, a, b, bias, activation), expected, rtol=0, atol=1e-3 if algorithm in INEXACT else 0,
        err_msg=f"{algorithm} {op} {dtype} {problem}",
    )  # fmt: skip
    return True


def pytest_generate_tests(metafunc):
    if "gpu_algorithm" in metafunc.fixturenames:
        metafunc.parametrize("gpu_algorithm", [name for name in ROOM if name != "wgmma"])  # test_cuda_wgmma.py has its own


@pytest.mark.parametrize("op", OPS)
def test_named_cases_are_exact_on_small_integers(gpu_algorithm, op, rng):
    done = 0
    for case in NAMED:
        if case.problem.macs <= MOST_MACS or not SIMULATED:
            done += check_exact(gpu_algorithm, case.problem, op, "float32", rng, bool(rng.integers(2)), rng.choice([None, "relu"]))
    assert done or gpu_algorithm != "gemm"


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_random_problems_are_exact_on_small_integers(gpu_algorithm, op, dtype, rng):
    done = 0
    for number in range(12):
        problem = random_problem(rng, generic=number % 2 == 1, largest=5)
        activation = rng.choice([None, "relu", "leaky_relu"]) if number % 2 else None
        done += check_exact(gpu_algorithm, problem, op, dtype, rng, bool(rng.integers(2)), activation)
    assert done or gpu_algorithm not in ("gemm", "direct")


@pytest.mark.parametrize("op", OPS)
def test_errors_are_within_the_table(gpu_algorithm, op, rng):
    if gpu_algorithm in ROUNDS_INPUTS:
        pytest.skip("rounds its inputs")
    for number in range(4):
        problem, kind = random_problem(rng, largest=5), ("signed", "positive")[number % 2]
        if refuses(gpu_algorithm, problem, op, "float32"):
            continue
        a, b = operands(problem, op, "float32", rng, kind)
        magnitude = reference.run(problem, op, np.abs(a).astype(np.float64), np.abs(b).astype(np.float64))
        error = np.abs(compute(gpu_algorithm, problem, op, a, b) - exact_sum(problem, op, a, b))
        last = problem.channels_last and op != "wgrad"
        length = problem.gemm_shape(op)[2]
        bound = allowed(magnitude, "float32", length, gpu_algorithm, positive=kind == "positive", channels_last=last, norms=norms(a, b))
        assert np.all(error <= bound), f"{gpu_algorithm} {op} {kind} {problem}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_folded_columns_are_finished_like_any_sum(activation, rng):
    problem = ConvProblem.from_transposed_shapes((2, 4, 5, 6), (4, 3, 3, 2), rank=2, stride=2, padding=1)
    a, b = operands(problem, "dgrad", "float32", rng, "signed")
    bias = fill((3,), "float32", rng, "signed")
    found, direct = (compute(name, problem, "dgrad", a, b, bias, activation) for name in ("fold", "direct"))
    np.testing.assert_allclose(found, direct, rtol=1e-5, atol=1e-6)
    a[1, 2, 0, 3, 4], a[0, 0, 0, 0, 0] = np.nan, np.inf
    found, direct = (compute(name, problem, "dgrad", a, b, bias, activation) for name in ("fold", "direct"))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(direct))


def test_the_gradient_of_a_stem_is_folded():
    stem = ConvProblem.from_shapes((32, 3, 224, 224), (64, 3, 7, 7), rank=2, stride=2, padding=3)
    wide = ConvProblem.from_shapes((32, 64, 56, 56), (64, 64, 3, 3), rank=2, padding=1)
    assert [plan(p, "dgrad", np.dtype(np.float32), device="cuda").name for p in (stem, wide)] == ["fold", "gemm"]
    assert ROOM["fold"].workspace(stem, "dgrad", np.dtype(np.float32)) >= 4 * 32 * 147 * 112**2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_fused_as_defined(gpu_algorithm, activation, rng):
    problem = ConvProblem.from_shapes((2, 4, 6, 5), (4, 1 if gpu_algorithm == "stencil" else 4, 3, 3), rank=2, padding=1,
                                      groups=4 if gpu_algorithm == "stencil" else 1)  # fmt: skip
    if refuses(gpu_algorithm, problem, "fprop", "float32") or gpu_algorithm in ROUNDS_INPUTS:
        pytest.skip("cannot do this layer, or rounds its inputs")
    a, b = operands(problem, "fprop", "float32", rng, "signed")
    bias = fill((4,), "float32", rng, "signed")
    exact = exact_sum(problem, "fprop", a, b) + bias.reshape(-1, 1, 1, 1)
    exact = exact if activation is None else reference.ACTIVATIONS[activation](exact)
    size = reference.run(problem, "fprop", np.abs(a), np.abs(b), np.abs(bias)).astype(np.float64)
    bound = allowed(size, "float32", problem.gemm_shape("fprop")[2], gpu_algorithm, activation=activation, norms=norms(a, b))
    error = np.abs(compute(gpu_algorithm, problem, "fprop", a, b, bias, activation) - exact)
    assert np.all(error <= bound), (activation, float(np.max(error / bound)))


def test_long_sums_are_cut_into_pieces_and_chunks(rng, monkeypatch):
    for name, value in (("CHUNK", 3), ("LEAST_TERMS", 32), ("LAUNCH", 0.0), ("BANDWIDTH", math.inf)):
        monkeypatch.setattr(gemm, name, value)
    problem = ConvProblem.from_shapes((2, 9, 7, 6), (5, 9, 3, 3), rank=2, padding=1)
    for op in OPS:
        cut = gemm._cut(problem, op, np.dtype("float32"))
        assert cut.pieces > 1 or op != "fprop"
        assert check_exact("gemm", problem, op, "float32", rng, True, "relu")
    monkeypatch.setattr(gemm, "MOST_PIECES", 1)
    problem = ConvProblem.from_shapes((2, 9, 7, 6), (5, 9, 3, 3), rank=2, padding=1)
    for op in OPS:
        assert gemm._cut(problem, op, np.dtype("float32")).pieces == 1 and problem.gemm_shape(op)[2] > 3 * 8
        assert check_exact("gemm", problem, op, "float32", rng, True, "relu")


def test_every_tile_computes_the_same(rng, monkeypatch):
    """Each tile of the table by itself, with more outputs than one block has."""
    layers = (((1, 8, 13, 11), (70, 8, 1, 2), {"padding": 1}), ((1, 13, 11, 3), (70, 3, 2, 1), {"channels_last": True}))
    for tile, (x, w, options), op in itertools.product(gemm.TILES, layers, OPS):
        monkeypatch.setattr(gemm, "TILES", {tile: 2})
        assert check_exact("gemm", ConvProblem.from_shapes(x, w, rank=2, **options), op, "float32", rng, True)


def test_the_tables_say_what_the_equation_says(rng):
    """Over thousands of problems: the entries of a phase are the taps that meet each of its outputs, at the input index that they say."""
    for _ in range(3000):
        p = random_problem(rng, generic=True, largest=7)
        for axis in range(3):
            u, s = p.input_dilation[axis], p.stride[axis]
            step, advance = u // math.gcd(u, s), s // math.gcd(u, s)
            said = {
                (tap, phase.first + e * step): e * advance + delta
                for phase in _geometry.axis_phases(p, axis)
                for e in range(phase.count)
                for tap, delta in phase.taps
                if 0 <= e * advance + delta < p.input[axis]
            }
            true = {(tap, o): i for tap in range(p.filter[axis]) for i, o in zip(*reference.pairs(p, axis, tap), strict=True)}
            assert said == true, (axis, p)


def test_a_nan_stays_where_the_sum_has_it(gpu_algorithm, rng):
    problem = ConvProblem.from_shapes((1, 1, 9, 8), (2, 1, 3, 3), rank=2, padding=1)
    if refuses(gpu_algorithm, problem, "fprop", "float32"):
        pytest.skip("cannot do this layer")
    for value in (np.nan, np.inf):
        a, b = operands(problem, "fprop", "float32", rng)
        a[0, 0, 0, 4, 3] = value
        b[b == 0] = 1
        with np.errstate(invalid="ignore"):
            expected = reference.run(problem, "fprop", a, b)
        np.testing.assert_allclose(compute(gpu_algorithm, problem, "fprop", a, b), expected, rtol=0, atol=1e-3 if gpu_algorithm in INEXACT else 0)


# Through the public functions.


def test_random_calls_of_all_functions(rng):
    for _ in range(12):
        case = random_case(rng, largest=5)
        x, w = fill(case.x, "float32", rng), fill(case.w, "float32", rng)
        function, options = case.function, {**case.options, "precision": "highest"}
        y = getattr(nc, function)(x, w, **options)
        np.testing.assert_array_equal(getattr(nc, function)(x, w, device="cuda", **options), y, err_msg=str(case))
        dy = fill(y.shape, "float32", rng)
        expected = getattr(nc, function + "_backward")(dy, x, w, **options)
        found = getattr(nc, function + "_backward")(dy, x, w, device="cuda", **options)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(case))


@pytest.mark.parametrize("dtype", ("float16", "float64", "complex64", "int8", "uint32"))
def test_dtypes_promote_as_on_the_cpu(dtype, rng):
    x, w = fill((2, 3, 6, 5), dtype, rng), fill((4, 3, 2, 3), "int8" if dtype == "float16" else dtype, rng)
    found = nc.conv2d(x, w, padding=1, device="cuda")
    expected = nc.conv2d(x, w, padding=1)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_out_bias_and_prepared_weights(rng):
    x, w, b = fill((2, 3, 6, 5), "float32", rng), fill((4, 3, 3, 3), "float32", rng), fill((4,), "float32", rng)
    expected = nc.conv2d(x, w, b, padding=1, activation="relu", precision="highest")
    how = {"padding": 1, "device": "cuda", "precision": "highest"}
    out = np.full_like(expected, np.nan)
    assert nc.conv2d(x, w, b, activation="relu", out=out, **how) is out
    np.testing.assert_array_equal(out, expected)
    prepared = nc.prepare(w, x.shape, **how)
    np.testing.assert_array_equal(nc.conv2d(x, prepared, b, activation="relu", **how), expected)
    np.testing.assert_array_equal(nc.conv2d(x, prepared, b, activation="relu", padding=1, precision="highest"), expected)
    with pytest.raises(ValueError, match="out must not overlap"):
        nc.conv2d(expected, np.ones((4, 4, 1, 1), np.float32), out=expected, device="cuda")
    with pytest.raises(ValueError, match="out must have shape"):
        nc.conv2d(x, w, out=out[:1], **how)


def test_explain_lists_the_room():
    text = nc.explain((1, 8, 12, 12), (8, 8, 3, 3), padding=1, device="cuda")
    assert "on cuda" in text and "on an H100 (estimated)" in text and all(name in text for name in ROOM)
    half = nc.explain((1, 64, 12, 12), (64, 64, 3, 3), dtype="float16", device="cuda")
    assert "float16 on cuda" in half and ("→ tensor" in half or "→ wgmma" in half), "it is computed in its own dtype where there is an algorithm"


def test_without_a_gpu_the_error_says_what_to_install():
    if not SIMULATED:
        pytest.skip("there is a GPU")
    code = "import numpy as np, numbaconv as nc\nx = np.ones((1, 1, 3, 3))\nnc.conv2d(x, x)\nnc.conv2d(x, x, device='cuda')"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode and "line 4" in done.stderr, done.stderr
    assert "CudaError: device='cuda' needs" in done.stderr and ("numbaconv[cuda13]" in done.stderr or "NVIDIA GPU" in done.stderr), done.stderr


@pytest.mark.parametrize(
    ("w", "prepared_for", "used_on", "options", "of_prepare", "of_call"),
    [
        ((4, 3, 3, 3), (1, 4, 4, 4), (1, 4, 4, 4), {"method": "gemm"}, {"stride": 2}, {"stride": 1}),
        ((4, 8, 3, 3), (1, 8, 5, 5), (1, 5, 5, 8), {"method": "tensor", "precision": "tf32"}, {}, {"layout": "NHWC"}),
        ((3, 1, 3, 3), (1, 5, 5, 3), (1, 3, 5, 5), {"method": "stencil", "groups": 3}, {"layout": "NHWC"}, {}),
        ((4, 8, 3, 3), (1, 8, 1, 5), (1, 8, 3, 5), {"method": "gemm", "padding": 1}, {}, {}),
        ((2, 8, 3, 3), (1, 8, 5, 5), (1, 5, 5, 8), {"method": "winograd"}, {}, {"layout": "NHWC"}),
    ],
    ids=["stride", "tensor-layout", "stencil-layout", "taps-that-meet-padding-alone", "winograd-layout"],
)
def test_prepared_weights_are_read_only_by_calls_that_pack_them_alike(w, prepared_for, used_on, options, of_prepare, of_call, rng):
    weights, x = fill(w, "float32", rng), fill(used_on, "float32", rng)
    transposed = "stride" in of_prepare
    prepared = nc.prepare(weights, prepared_for, transposed=transposed, device="cuda", **options, **of_prepare)
    call = nc.conv_transpose2d if transposed else nc.conv2d
    expected = call(x, weights, **{k: v for k, v in (options | of_call).items() if k not in ("method", "precision")}, precision="highest")
    np.testing.assert_allclose(call(x, prepared, device="cuda", **options, **of_call), expected, rtol=0, atol=1e-3)


def test_a_tile_is_no_taller_than_what_it_is_for():
    """A tile's first side is for fprop's pixels and wgrad's output channels; one that is half empty takes twice as long."""
    squeeze = ConvProblem.from_shapes((32, 256, 56, 56), (64, 256, 1, 1), rank=2)
    expand = ConvProblem.from_shapes((32, 64, 56, 56), (256, 64, 1, 1), rank=2)
    tiles = [gemm._cut(problem, "wgrad", np.dtype("float32")).tile for problem in (squeeze, expand)]
    assert tiles[0][0] == 64 and tiles[1][1] == 64
