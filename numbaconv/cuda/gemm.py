"""Implicit GEMM: all three operations as products of register tiles, of float32 or float64, in either layout, for any geometry.

The weights are packed first, tap by tap and channel by channel, so that a block reads them in rows; the input is gathered where it lies.
wgrad reads dy and x where they lie; its sum over the pixels is cut into pieces that depend on the problem alone and are added in order.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import _geometry, _product, _wgrad
from numbaconv.cuda._backend import SIMULATED, Kernel, capability_of, cuda, current_device, empty, kept
from numbaconv.cuda._geometry import Product
from numbaconv.cuda._prims import divide, int32
from numbaconv.cuda._store import PER_BLOCK, THREADS, finish
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Unsupported

TILES = {(128, 128): 2, (128, 64): 4, (64, 64): 6}  # pixels × columns, a thread owns 8 × 8; and how many a multiprocessor holds at once
CHUNK = 32  # slabs of one accumulator, and these of one sum of sums: 256 terms keep all-positive sums within 8 eps
MOST_TERMS = 65536  # of a piece
MULTIPROCESSORS = 132  # of a large GPU. A constant, so that results don't depend on the GPU
PIECES_BYTES = 64 << 20  # of a sum's pieces, as float32
MOST_PIECES = 256
MOST_WEIGHTS = 1 << 22
ROOT_OF_LIMIT = 46340  # pieces, whose square an int32 holds
LEAST_TERMS = 128  # of a piece
GRID_LIMIT = 65535  # of a grid's second and third axis
# Measured on an H100 (benchmarks/gpu_check.py, Nsight Compute): a multiprocessor with 512 threads, and how much fewer threads slow it down.
RATE = {4: 170e9, 8: 85e9}  # multiply-adds a second, by the size of an element
SLOW_THREADS = 128  # of t threads the rate is t / (t + these), up to a factor
ROUND = 8e-6  # seconds that blocks take to begin and to store what they have, once for each time that a multiprocessor is filled
BANDWIDTH = 2.6e12  # bytes a second
LAUNCH = 4e-6  # seconds


class Cut(NamedTuple):
    """How an operation is shared out: its tile, and into how many pieces the sums are cut."""

    tile: tuple[int, int]
    pieces: int  # side by side, where there are too few outputs to occupy the GPU, or a sum is too long
    seconds: float  # that its products take
    resident: int = 1  # blocks that a multiprocessor holds, for kernels that are made for so many


def cut_of(problem: ConvProblem, op: Op, rate: float, tiles: Iterable[tuple[int, int]], least: int, fewest: int) -> Cut:
    """Take the tile and the pieces that leave the multiprocessor with the most blocks done first.

    ``rate`` is a multiprocessor's, ``least`` the terms of the smallest piece, ``fewest`` the pieces that there have to be.
    """
    rows, columns, terms = problem.gemm_shape(op)
    phases = max(1, math.prod(phases_of(problem, op)))
    terms = -(-terms // phases)
    rows //= phases
    size = 4 * max(1, math.prod(problem.shape(TENSORS[op][2])))
    most = max(fewest, min(MOST_PIECES, PIECES_BYTES // size, terms // least))
    best = None
    for tile in tiles:
        blocks = -(-max(1, rows) // tile[0]) * -(-max(1, columns) // tile[1]) * phases * problem.groups
        for pieces in range(max(1, fewest), max(1, most) + 1):
            seconds = _seconds(blocks * pieces, tile, -(-terms // pieces), rate)
            if pieces > 1:
                seconds += 2 * size * pieces / BANDWIDTH + LAUNCH
            if best is None or seconds < best[0]:
                best = seconds, tile, pieces
    assert best is not None
    seconds, tile, pieces = best
    return Cut(tile, pieces, seconds)


def _seconds(blocks: int, tile: tuple[int, int], terms: int, rate: float) -> float:
    """Return how long the multiprocessor with the most blocks is busy."""
    held, rounds, seconds = -(-blocks // MULTIPROCESSORS), TILES[tile], 0.0
    for count, times in ((rounds, held // rounds), (held % rounds, 1)):
        if count and times:
            threads = count * tile[0] * tile[1] // 64
            speed = rate * threads / (threads + SLOW_THREADS) * (512 + SLOW_THREADS) / 512
            seconds += times * (count * tile[0] * tile[1] * terms / min(speed, rate) + ROUND)
    return seconds


def phases_of(problem: ConvProblem, op: Op) -> list[int]:
    """Return into how many phases the outputs fall on each axis."""
    if op == "wgrad":
        return [1]
    p = problem.transpose() if op == "dgrad" else problem
    steps = (u // math.gcd(u, s) for u, s in zip(p.input_dilation, p.stride, strict=True))
    return [min(step, out) for step, out in zip(steps, p.output, strict=True)]


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU, or say why it can't be done."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype}")
    cut, (_, columns, terms) = _cut(problem, op, dtype), problem.gemm_shape(op)
    phases = math.prod(phases_of(problem, op))
    if problem.groups * phases * cut.pieces > GRID_LIMIT or -(-columns // cut.tile[1]) > GRID_LIMIT:
        raise Unsupported("needs fewer groups, strides and filters: a launch has no room for so many blocks")
    if columns * terms > MOST_WEIGHTS and op != "wgrad":
        raise Unsupported(f"needs at most {MOST_WEIGHTS} weights in a group")
    if cut.pieces > ROOT_OF_LIMIT:
        raise Unsupported("needs a shorter sum: it is cut into too many pieces")
    if not SIMULATED and capability_of(current_device()) < (8, 0):
        raise Unsupported("needs a GPU of compute capability 8.0 or more")
    _tables(problem, op, dtype)  # raises for arrays that int32 cannot index
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * dtype.itemsize
    return float(max(cut.seconds, traffic / BANDWIDTH) + 2 * LAUNCH)


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the packed weights, and the pieces of sums."""
    cut, out = _cut(problem, op, dtype), math.prod(problem.shape(TENSORS[op][2]))
    packed = 0 if op == "wgrad" else packed_size(_tables(problem, op, dtype), problem.groups)
    copies = cut.pieces if cut.pieces > 1 else 0
    return (packed + out * copies) * dtype.itemsize


def _cut(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Cut:
    """Return how the outputs are shared out, worked out once."""
    key = ("cuda gemm cut", op, dtype)
    if key not in problem.derived:
        terms = -(-problem.gemm_shape(op)[2] // max(1, math.prod(phases_of(problem, op))))
        tiles = TILES if dtype.itemsize == 4 else [*TILES][-1:]  # what a multiprocessor of any GPU has shared memory for
        problem.derived[key] = cut_of(problem, op, RATE[dtype.itemsize], tiles, LEAST_TERMS, max(1, -(-terms // MOST_TERMS)))
    return problem.derived[key]


def _tables(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Any:
    key = ("cuda gemm", op, dtype)
    if key not in problem.derived:
        cut = _cut(problem, op, dtype)
        if op == "wgrad":
            channels = problem.in_channels // problem.groups
            problem.derived[key] = _wgrad.tables(problem, cut.pieces, channels > 0 and channels % cut.tile[1] == 0)
        else:
            problem.derived[key] = _geometry.product(problem, op, cut.tile, cut.pieces)
    return problem.derived[key]


def packed_size(product: Product, groups: int) -> int:
    """Return how many elements the packed weights have."""
    return max(1, product.weight_rows.size * groups * product.padded_columns)


def _on_device(problem: ConvProblem, op: Op, dtype: np.dtype[Any], name: str) -> Any:
    """Return a table where kernels read it."""
    return kept(problem.derived, ("cuda gemm", op, dtype, name), lambda: getattr(_tables(problem, op, dtype), name))


@functools.cache
def _pack_kernel(dtype: np.dtype[Any]) -> Kernel:
    zero = dtype.type(0)

    def pack_weights(w, rows, packed, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: packed[row, group, column] = w[rows[row] + group's and column's offset], or 0 beyond the last column.
        # THE SCHEDULE: a thread owns four elements, a block's width apart.
        size, groups, columns, padded, from_column, from_group = sizes
        at = int32(int32(cuda.blockIdx.x) * PER_BLOCK + int32(cuda.threadIdx.x))
        for _ in range(4):
            if at < size:
                rest, column = divide(at, padded)
                row, group = divide(rest, groups)
                source = rows[row]
                filled = source >= int32(0) and column < columns
                packed[at] = w[int32(source + group * from_group + column * from_column)] if filled else zero
            at = int32(at + THREADS)

    return Kernel(pack_weights, (dtype, np.int32, dtype), 6, THREADS)


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...] | None:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    return None if op == "wgrad" else (current_device(), *_tables(problem, op, np.dtype(dtype)).packing)


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Pack the weights; what `run` reads."""
    product = _tables(problem, op, np.dtype(w.dtype))
    size = product.weight_rows.size * problem.groups * product.padded_columns
    packed = empty(packed_size(product, problem.groups), w.dtype)
    sizes = (size, problem.groups, product.columns, product.padded_columns, *product.weight_strides)
    pointers = (w, _on_device(problem, op, np.dtype(w.dtype), "weight_rows"), packed)
    _pack_kernel(w.dtype).launch((-(-size // PER_BLOCK), 1, 1), pointers, sizes)
    return packed


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``."""
    dtype = np.dtype(out.dtype)
    cut, tables = _cut(problem, op, dtype), _tables(problem, op, dtype)
    if op == "wgrad":
        _run_wgrad(problem, a, b, out, cut, tables)
        return
    p = problem.transpose() if op == "dgrad" else problem
    target = empty((cut.pieces, out.size), out.dtype) if cut.pieces > 1 else out
    bias, has_bias = (target, 0) if options.bias is None else (options.bias, 1)
    activation = options.activation if cut.pieces == 1 else None
    kernel = _product.kernel(out.dtype, *cut.tile, p.channels_last, tables.aligned, has_depth(p), activation)
    packed = prepare(problem, op, b) if options.packed is None else options.packed
    grid = (-(-tables.most_rows // cut.tile[0]), tables.padded_columns // cut.tile[1], tables.phases * p.groups * cut.pieces)
    geo = tables.geo._replace(has_bias=has_bias, pieces=cut.pieces, chunk=CHUNK, last=int(cut.pieces == 1))
    kernel.launch(grid, (a, packed, target, bias, _on_device(problem, op, dtype, "table")), geo)
    if cut.pieces > 1:
        inner = 1 if p.channels_last else math.prod(p.output)
        sizes = (out.size, cut.pieces, max(1, p.out_channels), max(1, inner), has_bias)
        finish(options.activation, out.dtype).launch((-(-out.size // PER_BLOCK), 1, 1), (target, bias, out), sizes)


def has_depth(p: ConvProblem) -> bool:
    """Return whether there is a third axis."""
    return p.filter[0] > 1 or p.output[0] > 1 or p.input[0] > 1


def _run_wgrad(problem: ConvProblem, a: Any, b: Any, out: Any, cut: Cut, tables: Any) -> None:
    kernel = _wgrad.kernel(out.dtype, *cut.tile, problem.channels_last, tables.one_tap, has_depth(problem))
    grid = (-(-tables.geo.rows // cut.tile[0]), -(-tables.geo.columns // cut.tile[1]), problem.groups * cut.pieces)
    in_order = cut.pieces > 1
    target = empty((cut.pieces, out.size), out.dtype) if in_order else out
    geo = tables.geo._replace(pieces=cut.pieces, chunk=CHUNK, in_order=int(in_order))
    kernel.launch(grid, (a, b, target, _on_device(problem, "wgrad", np.dtype(out.dtype), "table")), geo)
    if in_order:
        sizes = (out.size, cut.pieces, geo.columns, geo.channels, geo.taps, geo.flipped, geo.rows, geo.rows, geo.channels)
        _wgrad.finish(out.dtype).launch((-(-out.size // THREADS), 1, 1), (target, out), sizes)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name: every tile, layout and way of gathering."""
    for (pixels, columns), last, aligned in itertools.product(TILES, (False, True), (False, True)):
        name = f"gemm {pixels}×{columns} {'NHWC' if last else 'NCHW'} {'aligned' if aligned else 'any channels'}"
        yield name, _product.kernel(np.dtype(np.float32), pixels, columns, last, aligned, False, "relu")
    for (rows, columns), last, one_tap in itertools.product(TILES, (False, True), (False, True)):
        name = f"gemm wgrad {rows}×{columns} {'NHWC' if last else 'NCHW'} {'one tap' if one_tap else 'any channels'}"
        yield name, _wgrad.kernel(np.dtype(np.float32), rows, columns, last, one_tap, False)
    yield "gemm wgrad volume", _wgrad.kernel(np.dtype(np.float32), 128, 128, False, True, True)
    yield "gemm float64", _product.kernel(np.dtype(np.float64), 64, 64, False, True, True, None)
    yield "pack", _pack_kernel(np.dtype(np.float32))
    yield "gemm wgrad finish", _wgrad.finish(np.dtype(np.float32))
    for activation in (None, "relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid"):
        yield f"finish {activation}", finish(activation, np.dtype(np.float32))
