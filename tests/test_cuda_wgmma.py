"""Hopper's tensor cores in the simulator: operands as a warpgroup reads them, the kernels against the reference."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.cuda import _wgmma, _wgmma_sums, _wgmma_twins, gemm, tensor, wgmma
from numbaconv.cuda._backend import SIMULATED, capability_of
from numbaconv.cuda._simulator import launch
from numbaconv.cuda._twins import copy16, zeros
from numbaconv.problem import OPS, ConvProblem, Options, Unsupported
from tests.cases import NAMED, on_gpu, operands, poisoned, random_problem
from tests.test_cuda_tensor import KINDS, check, coded, read

simulated = pytest.mark.skipif(not SIMULATED, reason="about the simulator")
if not SIMULATED and capability_of(0) != _wgmma.CAPABILITY:
    pytest.skip("needs a Hopper GPU", allow_module_level=True)
cuda = SimpleNamespace()  # the simulator gives kernels their own
SLABS = {"tf32": 32, "f16": 64, "bf16": 64}


def able(problem, op, kind):
    """Return whether it computes a problem."""
    try:
        wgmma.cost(problem, op, np.dtype(KINDS[kind]))
    except Unsupported:
        return False
    return True


def swizzled(rows, kind):
    """Return lines of 128 bytes as Hopper's 128-byte swizzle puts them: bits 4 to 6 of an address xor-ed with bits 7 to 9."""
    flat = np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    at = np.arange(flat.size)
    out = np.empty_like(flat)
    out[at ^ (at >> 7 & 7) << 4] = flat
    return out.view(rows.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", (64, 128))
@simulated
def test_a_warpgroup_multiplies_what_the_manual_says(kind, width, rng):
    slab = SLABS[kind]
    a, b = (coded(rng.integers(-4, 5, (n, slab)), kind) for n in (64, width))
    cells = [np.asarray(t).view(np.uint16) if kind != "tf32" else t for t in (a, b)]
    memory = np.concatenate([swizzled(t, kind) for t in cells])
    product, settled = _wgmma_twins.multiply(kind, width, False), _wgmma_twins.settle(0)

    def multiply_once(shared, sums, sizes):
        acc = zeros(sizes[1])(np.float32(1))
        acc = product(acc, shared, 0, sizes[0], cuda.threadIdx.x // 32)
        acc = settled(acc, shared)
        for i in range(sizes[1]):
            sums[cuda.threadIdx.x * sizes[1] + i] = acc[i]

    sums = poisoned((128, width // 2), np.float32)
    launch(multiply_once, (1, 1, 1), 128, (memory, sums), (a.size, width // 2))
    expected = 1 + read(a, kind) @ read(b, kind).T
    # PTX manual, register fragments of wgmma.mma_async: d[4j + 2i + e] of a lane is row 16 · warp + lane/4 + 8i, column 8j + 2 (lane % 4) + e.
    for thread in range(128):
        for d in range(width // 2):
            row, column = 16 * (thread // 32) + thread % 32 // 4 + d // 2 % 2 * 8, d // 4 * 8 + thread % 4 * 2 + d % 2
            assert sums[thread, d] == expected[row, column]


@pytest.mark.parametrize("lines", (32, 64))
@simulated
def test_a_warpgroup_multiplies_down_the_lines(lines, rng):
    a, b, c = (rng.integers(-4, 5, (lines, 64)).astype(np.float16) for _ in range(3))
    memory = np.zeros(3 * 4096, np.uint16)
    for place, part in zip((0, 4096, 8192), (a, b, c), strict=True):
        memory[place : place + part.size] = swizzled(part, "f16").view(np.uint16)
    product, settled = _wgmma_twins.multiply_down("f16", lines), _wgmma_twins.settle(0)

    def multiply_once(shared, sums, sizes):
        acc = zeros(64)(np.float32(1))
        acc = product(acc, shared, 0, 4096, cuda.threadIdx.x // 32)
        acc = settled(acc, shared)
        for i in range(64):
            sums[cuda.threadIdx.x * 64 + i] = acc[i]

    sums = poisoned((128, 64), np.float32)
    launch(multiply_once, (1, 1, 1), 128, (memory, sums), (0,))
    expected = 1 + np.float64(a).T @ np.concatenate((b, c), 1)
    for thread in range(128):
        for d in range(64):
            assert sums[thread, d] == expected[16 * (thread // 32) + thread % 32 // 4 + d // 2 % 2 * 8, d // 4 * 8 + thread % 4 * 2 + d % 2]


@simulated
def test_an_operand_must_stay_until_it_was_multiplied():
    product, settled = _wgmma_twins.multiply("tf32", 128, False), _wgmma_twins.settle(0)

    def too_early(x, sums, sizes):
        shared = cuda.shared.array(192 * 32, np.dtype(np.float32))
        for i in range(48):
            shared[cuda.threadIdx.x + 128 * i] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        acc = product(zeros(64)(np.float32(0)), shared, 0, 64 * 32, cuda.threadIdx.x // 32)
        cuda.syncthreads()
        if sizes[0] and cuda.threadIdx.x == 0:
            copy16(shared, 0, 0, 0, x, 0, True)
        cuda.syncthreads()
        acc = settled(acc, shared)
        sums[cuda.threadIdx.x] = acc[0]

    x, sums = np.ones(128, np.float32), poisoned((128,), np.float32)
    launch(too_early, (1, 1, 1), 128, (x, sums), (0,))
    assert (sums == 32).all()
    with pytest.raises(AssertionError, match="overwritten"):
        launch(too_early, (1, 1, 1), 128, (x, sums), (1,))


@pytest.mark.parametrize("number", range(len(NAMED)), ids=[case.name for case in NAMED])
def test_named_problems_are_exact(number, rng):
    problem = NAMED[number].problem
    slow = NAMED[number].name.startswith(("row-", "many-taps", "stem", "long-")) or problem.groups > 2
    for op in OPS if not slow else (OPS[number % 3],):
        kind = list(KINDS)[(number + OPS.index(op)) % 3] if op != "wgrad" else ("f16", "bf16")[number % 2]
        if able(problem, op, kind) and problem.macs < 2e5:
            check(problem, op, kind, rng, algorithm=wgmma)


@pytest.mark.parametrize("kind", KINDS)
def test_random_problems(kind, rng):
    for _ in range(3):
        problem = random_problem(rng, generic=True, largest=4)
        for op, how in (("fprop", {"activation": "relu", "bias": True}), ("dgrad", {"fill_kind": "signed"})):
            if able(problem, op, kind):
                check(problem, op, kind, rng, **how, algorithm=wgmma)
    while kind != "tf32":
        problem = random_problem(rng, largest=4)
        if able(problem, "wgrad", kind):
            check(problem, "wgrad", kind, rng, algorithm=wgmma)
            break


@pytest.mark.parametrize(("columns", "resident"), _wgmma.STAGES)
@pytest.mark.parametrize("last", (False, True), ids=("NCHW", "NHWC"))
@pytest.mark.parametrize("kind", KINDS)
def test_every_tile_and_layout(kind, last, columns, resident, rng, monkeypatch):
    monkeypatch.setattr(wgmma, "_best_cut", lambda *_: gemm.Cut((128, columns), 1, 1e-5, resident))
    odd = resident < 3 and int(rng.integers(-5, 6))  # else x is read as it lies, where channels are last
    channels = SLABS[kind] * int(rng.integers(1, 3)) + odd
    monkeypatch.setattr(wgmma, "LEAST_USES", 1000)
    filters = int(rng.integers(60, 75))
    shapes = (2, 9, 8, channels) if last else (2, channels, 9, 8), (filters, channels, 2, 3)
    problem = ConvProblem.from_shapes(*shapes, rank=2, channels_last=last, padding=1, stride=int(rng.integers(1, 3)))
    assert bool(wgmma._room(problem, "fprop", kind)) == (not last or odd != 0)
    check(problem, "fprop", kind, rng, bias=True, algorithm=wgmma)


@pytest.mark.parametrize(("columns", "resident"), _wgmma.STAGES)
@pytest.mark.parametrize("kind", ("f16", "bf16"))
def test_planes_are_read_as_they_lie(kind, columns, resident, rng, monkeypatch):
    monkeypatch.setattr(wgmma, "_best_cut", lambda *_: gemm.Cut((128, columns), 1, 1e-5, resident))
    for channels, groups, op in ((70, 1, "fprop"), (6, 2, "dgrad"), (128, 1, "fprop")):
        problem = ConvProblem.from_shapes((3, channels, 8, 11), (columns - 4, channels // groups, 1, 1), rank=2, groups=groups)
        assert wgmma._as_planes(problem, op, kind) and not wgmma._copied(problem, op, kind)
        check(problem, op, kind, rng, bias=op == "fprop", algorithm=wgmma)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_a_third_axis_and_phases(kind, rng):
    slab = SLABS[kind]
    for number, op in enumerate(OPS[: 2 if kind == "tf32" else 3]):
        last = (number + len(kind)) % 2 == 0
        x, w = (1, 2, 3, 5, 2 * slab), (2 * slab, slab, 2, 2, 2)
        x = x if last else (1, 2 * slab, 2, 3, 5)
        problem = ConvProblem.from_shapes(x, w, rank=3, channels_last=last, stride=(1, 2, 1), padding=1, groups=2)
        check(problem, op, kind, rng, algorithm=wgmma)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_sum(kind, rng, monkeypatch):
    for module, name, value in ((gemm, "LAUNCH", 0.0), (gemm, "BANDWIDTH", math.inf), (wgmma, "LEAST_TERMS", 500)):
        monkeypatch.setattr(module, name, value)
    problem = ConvProblem.from_shapes((1, 130, 5, 4), (4, 130, 3, 3), rank=2)
    assert wgmma._cut(problem, "fprop", kind).pieces > 1
    check(problem, "fprop", kind, rng, "integers" if kind == "tf32" else "signed", bias=True, activation="silu", algorithm=wgmma)


@pytest.mark.parametrize("kind", ("f16", "bf16"))
@pytest.mark.parametrize("last", (False, True), ids=("NCHW", "NHWC"))
def test_weights_gradients(kind, last, rng, monkeypatch):
    """Tall and short tiles, several slabs of pixels and pieces, channels that fill lines and others."""
    monkeypatch.setattr(gemm, "LAUNCH", 0.0)
    monkeypatch.setattr(_wgmma_sums, "BLOCK_SECONDS", 0.0)
    # Tall, short, neither filling lines, several blocks of rows of both, and a number of units that is no multiple of a block's.
    for rows, channels, pieces, taps in (
        (128, 64, 1, (2, 3)),
        (64, 64, 3, (2, 3)),
        (70, 9, 2, (1, 3)),
        (3, 130, 1, (1, 1)),
        (190, 5, 1, (1, 1)),
        (250, 5, 1, (1, 1)),
    ):
        monkeypatch.setattr(gemm, "MOST_PIECES", pieces)
        if pieces == 1 and (kind == "f16") == last and taps == (1, 1):
            continue  # half of them by each
        shapes = (2, 10, 20, channels) if last else (2, channels, 10, 20), (rows, channels, *taps)
        problem = ConvProblem.from_shapes(*shapes, rank=2, channels_last=last, padding=1, stride=1 if pieces > 1 else int(rng.integers(1, 3)))
        found = _wgmma_sums.sum_of(problem)
        assert found.tall == (rows in (70, 128, 250)) and found.pieces == pieces
        check(problem, "wgrad", kind, rng, algorithm=wgmma)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activations(activation, rng):
    for kind, x in (("bf16", (1, 8, 6, 5)), ("tf32", (1, 6, 5, 8))):
        problem = ConvProblem.from_shapes(x, (5, 8, 1, 1), rank=2, channels_last=kind == "tf32")
        check(problem, "fprop", kind, rng, "signed", bias=True, activation=activation, algorithm=wgmma)


def test_tf32_is_rounded_not_cut_off(rng):
    for last in (False, True):
        for taps in (1, 4):  # rounded as it is read, and beforehand
            problem = ConvProblem.from_shapes((1, 1, 7, 32) if last else (1, 32, 1, 7), (8, 32, 1, taps), rank=2, channels_last=last)
            assert bool(wgmma._room(problem, "fprop", "tf32")) == (taps > 1 or not last)
            x, w = (np.full(problem.shape(t), v, np.float32) for t, v in (("x", 1 + 2**-11 + 2**-12), ("w", 1)))
            out = on_gpu(wgmma.run, problem, "fprop", x, w, poisoned(problem.shape("y"), np.float32))
            np.testing.assert_array_equal(out, np.float32(32 * taps * (1 + 2**-10)))


@simulated
def test_prepared_weights(rng):
    problem = ConvProblem.from_shapes((1, 64, 6, 5), (4, 64, 3, 3), rank=2)
    x, w = (coded(v, "f16") for v in operands(problem, "fprop", np.float32, rng))
    out = poisoned(problem.shape("y"), np.float16)
    expected = on_gpu(wgmma.run, problem, "fprop", x, w, out.copy())
    np.testing.assert_array_equal(on_gpu(wgmma.run, problem, "fprop", x, None, out, Options(packed=wgmma.prepare(problem, "fprop", w))), expected)
    one, many = (ConvProblem.from_shapes((n, 64, 6, 5), (4, 64, 3, 3), rank=2) for n in (1, 40))
    assert wgmma.packing(one, "fprop", w.dtype) == wgmma.packing(many, "fprop", w.dtype)


def test_what_it_refuses():
    problem = ConvProblem.from_shapes((1, 5, 7, 64), (4, 64, 3, 3), rank=2, channels_last=True)
    assert all(able(problem, op, "f16") for op in OPS) and not able(problem, "wgrad", "tf32")
    assert able(ConvProblem.from_shapes((1, 3, 5, 40), (2, 3, 1, 31), rank=2), "fprop", "f16")
    with pytest.raises(Unsupported, match="at most 31 taps"):
        wgmma.cost(ConvProblem.from_shapes((1, 3, 5, 9), (2, 3, 4, 8), rank=2, padding=1), "fprop", np.dtype(np.float16))
    for op, x, w in (
        ("fprop", (1, 4194368, 1, 1), (8, 4194368, 1, 1)),
        ("wgrad", (1, 4194368, 1, 1), (1, 4194368, 1, 1)),
        ("fprop", (65536, 1, 2, 2), (1, 1, 2, 2)),
    ):
        with pytest.raises(Unsupported, match="images and 4194240 channels"):
            wgmma.cost(ConvProblem.from_shapes(x, w, rank=2), op, np.dtype(np.float16))
    with pytest.raises(Unsupported, match="float64"):
        wgmma.cost(problem, "fprop", np.dtype(np.float64))


def test_as_many_taps_as_there_are_bits(rng):
    check(ConvProblem.from_shapes((1, 3, 1, 40), (2, 3, 1, 31), rank=2), "fprop", "bf16", rng, algorithm=wgmma)


def test_operands_begin_where_the_swizzle_does():
    """Behind the tables, which lie first: at multiples of 1024 bytes."""
    for variant in (kernel for name, kernel in wgmma.kernels() if kernel.shared):
        cells = dict(zip(variant.function.__code__.co_freevars, (c.cell_contents for c in variant.function.__closure__), strict=True))
        assert 4 * cells.get("words", _wgmma.PLACES) % 1024 == 0 and cells["last_stage"] * cells["cell"].itemsize % 1024 == 0


def test_workspace_says_what_is_copied():
    problem = ConvProblem.from_shapes((2, 70, 9, 8), (64, 70, 1, 2), rank=2)
    assert wgmma.workspace(problem, "fprop", np.dtype(np.float16)) >= 2 * (2 * 72 * 128 + 2 * 128 * 64)
    planes = ConvProblem.from_shapes((2, 70, 8, 8), (64, 70, 1, 1), rank=2)
    assert wgmma.workspace(planes, "fprop", np.dtype(np.float16)) == 2 * 128 * 64
    assert tensor.workspace(problem, "fprop", np.dtype(np.float16)) < 2 * 2 * 72 * 128


def test_memory_is_not_touched_beyond_its_ends(rng):
    """One image of one pixel, one channel, one filter: nearly all of a tile is beyond the ends."""
    for kind in KINDS:
        for op in OPS[: 2 if kind == "tf32" else 3]:
            check(ConvProblem.from_shapes((1, 1, 1, 1), (1, 1, 1, 1), rank=2), op, kind, rng, algorithm=wgmma)
