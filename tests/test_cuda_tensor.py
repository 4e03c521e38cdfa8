"""Tensor cores in the simulator: the twins against the PTX manual's fragments, the kernels against the reference."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.cuda import _tensor_twins as twins
from numbaconv.cuda import gemm, stencil, tensor, wgmma, widened
from numbaconv.cuda._backend import SIMULATED, capability_of
from numbaconv.cuda._simulator import Memory, launch
from numbaconv.cuda._tensor_layout import Variant, reader, vector_mask
from numbaconv.cuda._twins import commit, copy4, wait
from numbaconv.plan import plan
from numbaconv.problem import OPS, TENSORS, ConvProblem, Options, Unsupported
from tests.cases import NAMED, fill, on_gpu, operands, poisoned, random_problem

KINDS = {"tf32": np.float32, "f16": np.float16, "bf16": np.uint16}
EPS = {"tf32": 2**-10, "f16": 2**-11, "bf16": 2**-8}  # tf32 rounds both operands, to 2⁻¹¹ each; the others round the output
simulated = pytest.mark.skipif(not SIMULATED, reason="about the simulator, or about functions that only kernels can call on a GPU")
LANES = range(32)
cuda = SimpleNamespace()  # the simulator gives kernels their own


def coded(values, kind):
    """Return float values as arrays of the dtype that stands for a kind."""
    return twins.narrowed(values, kind).view(KINDS[kind]) if kind != "tf32" else values.astype(np.float32)


def read(array, kind):
    return np.float64(array) if kind == "tf32" else twins.widened(array.view(np.uint16), kind).astype(np.float64)


def check(problem, op, kind, rng, fill_kind="integers", bias=False, activation=None, algorithm=tensor):
    a, b = (coded(v, kind) for v in operands(problem, op, np.float32, rng, fill_kind))
    channels = problem.out_channels if op == "fprop" else problem.in_channels
    shift = coded(fill((channels,), np.float32, rng), kind) if bias else None
    out = poisoned(problem.shape(TENSORS[op][2]), KINDS[kind])
    out = on_gpu(algorithm.run, problem, op, a, b, out, Options(shift, activation))
    wide_a, wide_b = read(a, kind), read(b, kind)
    good = reference.run(problem, op, wide_a, wide_b, None if shift is None else read(shift, kind), activation)
    if fill_kind == "integers" and activation in (None, "relu"):
        np.testing.assert_array_equal(read(out, kind), read(coded(good, kind), kind))
    else:
        size = reference.run(problem, op, np.abs(wide_a), np.abs(wide_b)) + (0 if shift is None else np.abs(read(shift, kind)).max())
        assert np.all(np.abs(read(out, kind) - good) <= EPS[kind] * size + 1e-7)


def manual(kind):
    """Return (row, column) of every element of fragments a and c, (row, column) of b, for each lane: as the PTX manual's formulas say."""
    a, b, c = [], [], []
    for lane in LANES:
        group, thread = lane >> 2, lane % 4
        if kind == "tf32":
            a.append([(group + 8 * (i in (1, 3)), thread + 4 * (i >= 2)) for i in range(4)])
            b.append([(thread + 4 * i, group) for i in range(2)])
        else:
            a.append([(group + 8 * (i in (2, 3, 6, 7)), thread * 2 + (i & 1) + 8 * (i >= 4)) for i in range(8)])
            b.append([(thread * 2 + (i & 1) + 8 * (i >= 2), group) for i in range(4)])
        c.append([(group + 8 * (i >= 2), thread * 2 + (i & 1)) for i in range(4)])
    return a, b, c


@pytest.mark.parametrize("kind", KINDS)
def test_fragments_are_the_manual_s(kind, rng):
    depth = 8 if kind == "tf32" else 16
    matrix = coded(rng.integers(-9, 9, (16, depth)), kind)
    a, b, _ = manual(kind)
    held = np.array([[matrix[place] for place in a[lane]] for lane in LANES])
    np.testing.assert_array_equal(twins.matrix_of(held.view(np.uint32), kind, False), read(matrix, kind))
    # Two fragments of b, for 8 columns each, side by side.
    held = [np.array([[matrix[half * 8 + n, k] for k, n in b[lane]] for lane in LANES]).view(np.uint32) for half in range(2)]
    np.testing.assert_array_equal(twins.matrix_of(np.concatenate(held, 1), kind, True), read(matrix, kind))


@pytest.mark.parametrize("kind", ("f16", "tf32"))
def test_ldmatrix_is_the_manual_s(kind, rng):
    count = 8 if kind == "f16" else 4  # elements of a row of 16 bytes
    values = coded(rng.standard_normal(32 * count), kind)
    starts = rng.permutation(32) * count
    rows = values[starts[:, None] + np.arange(count)].reshape(4, 8, count)
    for transposed in (False, True)[: 1 + (kind == "f16")]:
        words = np.ascontiguousarray(twins.load_matrices(Memory(values), starts, transposed)).view(values.dtype).reshape(32, 4, -1)
        each = words.shape[2]
        for lane, number, e in itertools.product(LANES, range(4), range(each)):
            row, column = lane // 4, lane % 4 * each + e
            assert words[lane, number, e] == (rows[number, column, row] if transposed else rows[number, row, column])


@pytest.mark.parametrize(("kind", "slab", "by_pixels", "x_first"), [
    ("tf32", 16, True, False), ("tf32", 16, True, True), ("tf32", 16, False, True), ("tf32", 8, False, True),
    ("f16", 16, True, False), ("bf16", 16, True, True), ("bf16", 32, False, True), ("f16", 16, False, True),
])  # fmt: skip
@simulated
def test_a_warp_multiplies_by_instructions_of_the_manual(kind, slab, by_pixels, x_first, rng):
    pixels = 64
    v = Variant(kind, pixels, 64, slab, x_first, not by_pixels, True, False, None, False)
    word = 4 // v.cell.itemsize
    x, w = rng.integers(-8, 9, (64, slab)), rng.integers(-8, 9, (64, slab))
    cells = np.zeros(2 * 64 * slab, v.cell)

    def by_lines(line, k):
        vector = 4 * word
        return line * slab + (k // vector ^ vector_mask(slab, word, line)) * vector + k % vector

    for line, k in itertools.product(range(64), range(slab)):
        cells[by_lines(line, k)] = coded(w[line, k : k + 1], kind).view(v.cell)[0]
        cells[64 * slab + (k * pixels + (line ^ k % 8 * 8) if by_pixels else by_lines(line, k))] = coded(x[line, k : k + 1], kind).view(v.cell)[0]
    reads = reader(v, False), reader(v, True)
    first = 32  # of the side with 32
    x_at = [64 * slab + reads[1](lane, 0 if x_first else first) for lane in LANES]
    w_at = [reads[0](lane, first if x_first else 0) for lane in LANES]
    acc = rng.integers(-9, 9, (32, 64)).astype(np.float32)
    product = twins.multiply(kind, slab, pixels if by_pixels else 0, x_first)
    found = np.array(product(list(acc), [Memory(cells)] * 32, w_at, x_at))
    a, b = (x, w[first:]) if x_first else (w, x[first:])
    good = a @ b.T
    c = manual(kind)[2]
    for lane, i, j, e in itertools.product(LANES, range(4), range(4), range(4)):
        row, column = c[lane][e]
        place = 16 * i + 2 * j + (0, 1, 8, 9)[e]
        assert found[lane, place] == acc[lane, place] + good[16 * i + row, 8 * j + column]


def test_roundings():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * np.float32(10.0) ** np.arange(-20, 20).repeat(25)
    values = np.concatenate([values, np.float32([0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8])]).astype(np.float32)
    np.testing.assert_array_equal(twins.narrowed(values, "bf16"), values.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert np.isnan(twins.widened(twins.narrowed(np.float32(np.nan), "bf16"), "bf16"))
    assert np.isnan(twins.rounded(np.float32(np.nan))) and np.isinf(twins.rounded(np.float32(np.inf)))
    assert twins.rounded(np.float32(1 + 2**-11)) == 1 + 2**-10  # half way: away from zero
    assert twins.rounded(np.float32(-1 - 2**-11)) == -1 - 2**-10
    assert twins.rounded(np.float32(1 + 2**-12)) == 1


@simulated
def test_copies_arrive_when_they_are_waited_for_and_not_before():
    def too_early(x, y, sizes):
        shared = cuda.shared.array(32, np.dtype(np.float32))
        copy4(shared, cuda.threadIdx.x, 0, 0, x, cuda.threadIdx.x, True)
        commit(shared)
        if sizes[0]:
            commit(shared)
        wait(shared)
        cuda.syncthreads()
        y[cuda.threadIdx.x] = shared[31 - cuda.threadIdx.x]

    def overwritten(x, y, sizes):
        shared = cuda.shared.array(32, np.dtype(np.float32))
        shared[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        y[cuda.threadIdx.x] = shared[31 - cuda.threadIdx.x]
        copy4(shared, cuda.threadIdx.x, 0, 0, x, cuda.threadIdx.x, True)

    x = np.arange(32, dtype=np.float32)
    for waits in (0, 1):
        y = poisoned(x.shape, x.dtype)
        launch(too_early, (1, 1, 1), 32, (x, y), (waits,))
        assert np.isnan(y).all() if not waits else (y == x[::-1]).all()
    with pytest.raises(RuntimeError, match="a race"):
        launch(overwritten, (1, 1, 1), 32, (x, poisoned(x.shape, x.dtype)), (0,))


@pytest.mark.parametrize("number", range(len(NAMED)), ids=[case.name for case in NAMED])
def test_named_problems_are_exact(number, rng):
    kinds = list(KINDS)
    slow = NAMED[number].name.startswith(("many-", "row-", "long-", "stem"))  # of these one operation, and not tf32, which takes twice as long
    for op, turn in (("fprop", 0), ("dgrad", 1)) if not slow else ((("fprop", "dgrad")[number % 2], 0),):
        check(NAMED[number].problem, op, "f16" if slow else kinds[(number + turn) % 3], rng)


@pytest.mark.parametrize("kind", KINDS)
def test_random_problems(kind, rng):
    for _ in range(4):
        problem = random_problem(rng, generic=True, largest=4)
        check(problem, "fprop", kind, rng, activation="relu", bias=True)
        check(problem, "dgrad", kind, rng, "signed")


SHAPES = {  # channels that fill slabs of words, by the way in which x is gathered
    "vectors": {"tf32": (16, 32), "f16": (32, 64), "bf16": (32,)},
    "short-vectors": {"tf32": (8, 24), "f16": (16, 48), "bf16": (16,)},
    "aligned": {"tf32": (16, 32), "f16": (16, 32), "bf16": (48,)},
    "single": {"tf32": (5,), "f16": (5,), "bf16": (7,)},
}


@pytest.mark.parametrize("tile", gemm.TILES, ids=lambda sizes: "×".join(map(str, sizes)))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", SHAPES)
def test_every_tile_and_way_of_gathering(way, kind, tile, rng, monkeypatch):
    monkeypatch.setattr(gemm, "cut_of", lambda *_: gemm.Cut(tile, 1, 1e-5))
    for channels in SHAPES[way][kind][: 2 if tile == (64, 64) else 1]:
        for last in (False, True) if way == "single" else ((way != "aligned"),):
            columns = int(rng.integers(3, 7) * (4 if rng.random() < 0.5 else 5))
            shapes = (2, 5, 6, channels) if last else (2, channels, 5, 6), (columns, channels, 2, 2)
            problem = ConvProblem.from_shapes(*shapes, rank=2, channels_last=last, padding=1, stride=int(rng.integers(1, 3)))
            slab, vectors = tensor._slab(problem, "fprop", kind)
            assert vectors == ("vectors" in way) and (channels % slab == 0) == (way != "single")
            check(problem, "fprop", kind, rng, bias=True)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_sum(kind, rng, monkeypatch):
    for name, value in (("LAUNCH", 0.0), ("BANDWIDTH", math.inf)):
        monkeypatch.setattr(gemm, name, value)
    problem = ConvProblem.from_shapes((1, 58, 5, 4), (4, 58, 3, 3), rank=2)
    assert tensor._cut(problem, "fprop", kind).pieces == 2
    check(problem, "fprop", kind, rng, "integers" if kind == "tf32" else "signed", bias=True, activation="relu" if kind == "tf32" else "silu")


def test_sums_are_never_too_long():
    problem = ConvProblem.from_shapes((1, 70_000, 64, 64), (512, 70_000, 1, 1), rank=2)
    pieces = tensor._cut(problem, "fprop", "f16").pieces
    assert pieces >= -(-70_000 // tensor.CHUNK) == 5
    assert tensor.workspace(problem, "fprop", np.dtype(np.float16)) == pieces * 4 * 512 * 64**2 + 2 * 512 * 70_000


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_bias_and_activations(activation, rng):
    for kind, last in (("tf32", False), ("bf16", True)):
        x = (1, 6, 5, 8) if last else (1, 8, 6, 5)
        problem = ConvProblem.from_shapes(x, (5, 8, 3, 3), rank=2, channels_last=last)
        check(problem, "fprop", kind, rng, "signed", bias=True, activation=activation)


@simulated
def test_prepared_weights_and_ml_dtypes(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    problem = ConvProblem.from_shapes((1, 3, 6, 5), (4, 3, 3, 3), rank=2)
    x, w = (v.astype(ml_dtypes.bfloat16) for v in operands(problem, "fprop", np.float32, rng))
    packed = tensor.prepare(problem, "fprop", w)
    out = np.empty(problem.shape("y"), ml_dtypes.bfloat16)
    tensor.run(problem, "fprop", x, None, out, Options(packed=packed))
    np.testing.assert_array_equal(out, reference.run(problem, "fprop", np.float64(x), np.float64(w)).astype(ml_dtypes.bfloat16))


def test_what_it_refuses():
    problem = NAMED[2].problem
    for op, dtype in (("wgrad", np.float32), ("fprop", np.float64), ("fprop", np.int16)):
        with pytest.raises(Unsupported):
            tensor.cost(problem, op, np.dtype(dtype))
    assert tensor.cost(problem, "fprop", np.dtype(np.float16)) > 0


FEW_CHANNELS = [
    ConvProblem.from_shapes((2, 7, 6, 6) if last else (2, 6, 7, 6), (6, 1, n, n), rank=2, padding=1, stride=s, groups=6, channels_last=last)
    for last, (n, s) in itertools.product((False, True), ((3, 1), (3, 2), (5, 1), (4, 1)))
] + [
    ConvProblem.from_shapes((2, 1, 40), (2, 1, 12), rank=1),
    ConvProblem.from_shapes((1, 2, 8, 8), (3, 2, 3, 3), rank=2),
    ConvProblem.from_shapes((1, 8, 8, 1), (1, 1, 3, 3), rank=2, channels_last=True),
]


@pytest.mark.parametrize("room", [widened, stencil], ids=["widened", "stencil"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("op", OPS)
def test_16_bits_are_rounded_once(kind, op, room, rng):
    """16-bit formats in float32: what float32 arithmetic gives, rounded to the format, with a bias in it and an activation."""
    problems, done = [random_problem(rng, largest=4) for _ in range(5)] + FEW_CHANNELS[:: 1 if room is stencil else 4], 0
    for problem in problems:
        try:
            room.cost(problem, op, np.dtype(KINDS[kind]))
        except Unsupported:
            continue
        done += 1
        a, b = (coded(t, kind) for t in operands(problem, op, np.float32, rng, "signed"))
        channels = problem.out_channels if op == "fprop" else problem.in_channels
        bias = None if op == "wgrad" else coded(fill((channels,), np.float32, rng, "signed"), kind)
        out = poisoned(problem.shape(TENSORS[op][2]), KINDS[kind])
        found = read(on_gpu(room.run, problem, op, a, b, out, Options(bias, None if bias is None else "relu")), kind)
        wide = [None if t is None else read(t, kind) for t in (a, b, bias)]
        expected = reference.run(problem, op, wide[0], wide[1], wide[2], None if bias is None else "relu")
        np.testing.assert_allclose(found, expected, rtol=1.02 * EPS[kind], atol=1e-5, err_msg=f"{op} {problem}")
    assert done >= (len(FEW_CHANNELS) if op != "wgrad" else 8) or room is widened and done


def test_few_channels_a_group_are_no_matter_for_tensor_cores():
    problem = ConvProblem.from_shapes((32, 96, 112, 112), (96, 1, 3, 3), rank=2, padding=1, groups=96)
    dense = ConvProblem.from_shapes((32, 64, 56, 56), (64, 64, 3, 3), rank=2, padding=1)
    for kind, precision in (("f16", "default"), ("bf16", "bf16")):
        dtype = np.dtype(KINDS[kind])
        assert [plan(problem, op, dtype, precision=precision, device="cuda").name for op in OPS] == ["stencil"] * 3
        names = [plan(dense, op, dtype, precision=precision, device="cuda").name for op in OPS]
        hopper = SIMULATED or capability_of(0) == wgmma.CAPABILITY
        assert names == (["wgmma"] * 3 if hopper else ["tensor", "tensor", "widened"])
