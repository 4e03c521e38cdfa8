"""Implicit GEMM: fprop and dgrad as products of register tiles, of float32 or float64, in either layout, for any geometry.

The weights are packed first, tap by tap and channel by channel, so that a block reads them in rows; the input is gathered where it lies.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.cuda import _geometry, _product
from numbaconv.cuda._backend import Kernel, arrays, cuda, on_device
from numbaconv.cuda._geometry import SLAB, Product
from numbaconv.cuda._prims import divide, int32
from numbaconv.cuda._store import PER_BLOCK, THREADS, finish
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

TILES = ((128, 128), (128, 64), (64, 64))  # pixels × columns; a thread owns 8 × 8
CHUNK = 64  # slabs of one accumulator: 512 terms keep all-positive sums within 8 eps
BLOCKS = 264  # that fill a large GPU: two for each of 132 multiprocessors. A constant, so that results don't depend on the GPU
MOST_PIECES = 64  # of a sum whose outputs are too few blocks
LEAST_SLABS = 16  # of a piece
GRID_LIMIT = 65535  # of a grid's second and third axis
PEAK = {4: 50e12, 8: 25e12}  # operations a second, by the size of an element
BANDWIDTH = 3e12  # bytes a second
LAUNCH = 5e-6  # seconds


def _tile(problem: ConvProblem, op: Op) -> tuple[tuple[int, int], int]:
    """Return the tile that takes the fewest waves of blocks, by their size, and the number of those blocks."""
    rows, columns, _ = problem.gemm_shape(op)
    phases = max(1, math.prod(_phases(problem, op)))
    best: tuple[float, tuple[int, int], int] | None = None
    for tile, overhead in zip(TILES, (1.0, 1.05, 1.15), strict=True):
        blocks = -(-max(1, rows // phases) // tile[0]) * -(-columns // tile[1]) * phases * problem.groups
        resident = 2 * 128 * 128 // (tile[0] * tile[1])
        waves = -(-blocks // (BLOCKS // 2 * resident))
        taken = waves * resident * tile[0] * tile[1] * overhead
        if best is None or taken < best[0]:
            best = taken, tile, blocks
    assert best is not None
    return best[1], best[2]


def _phases(problem: ConvProblem, op: Op) -> list[int]:
    p = problem.transpose() if op == "dgrad" else problem
    steps = (u // math.gcd(u, s) for u, s in zip(p.input_dilation, p.stride, strict=True))
    return [min(step, out) for step, out in zip(steps, p.output, strict=True)]


def _pieces(problem: ConvProblem, op: Op) -> int:
    """Return into how many pieces sums are cut because there are too few outputs to occupy the GPU."""
    _, blocks = _tile(problem, op)
    slabs = -(-problem.gemm_shape(op)[2] // SLAB // max(1, math.prod(_phases(problem, op))))
    return max(1, min(BLOCKS // max(1, blocks), slabs // LEAST_SLABS, MOST_PIECES))


def _check(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> None:
    if op == "wgrad":
        raise Unsupported("needs fprop or dgrad")
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype}")
    tile, _ = _tile(problem, op)
    phases = math.prod(_phases(problem, op))
    if problem.groups * phases * MOST_PIECES > GRID_LIMIT or -(-problem.gemm_shape(op)[1] // tile[1]) > GRID_LIMIT:
        raise Unsupported("needs fewer groups, strides and filters: a launch has no room for so many blocks")


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU."""
    _check(problem, op, dtype)
    p = _tables(problem, op)  # raises for arrays that int32 cannot index
    tile, blocks = _tile(problem, op)
    share = min(1.0, blocks * _pieces(problem, op) / BLOCKS)
    padded = max(blocks, 1) * tile[0] * tile[1] * p.slabs * SLAB
    seconds = 2 * padded / PEAK[dtype.itemsize] / max(share, 1e-3)
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * dtype.itemsize
    return float(max(seconds, traffic / BANDWIDTH) + 2 * LAUNCH)


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the packed weights, and the pieces of sums."""
    product, pieces = _tables(problem, op), _pieces(problem, op)
    out = math.prod(problem.shape("y" if op == "fprop" else "x"))
    return (_packed_size(product, problem.groups) + (out * pieces if pieces > 1 else 0)) * dtype.itemsize


def _tables(problem: ConvProblem, op: Op) -> Product:
    key = ("cuda gemm", op)
    if key not in problem.derived:
        problem.derived[key] = _geometry.product(problem, op, _tile(problem, op)[0], _pieces(problem, op))
    return problem.derived[key]


def _packed_size(product: Product, groups: int) -> int:
    return max(1, product.weight_rows.size * groups * product.padded_columns)


def _on_device(problem: ConvProblem, op: Op) -> tuple[Any, Any]:
    """Return the table and the rows of the weights where kernels read them, kept per problem and device."""
    key = ("cuda gemm", op, _device())
    if key not in problem.derived:
        product = _tables(problem, op)
        problem.derived[key] = on_device(product.table), on_device(product.weight_rows)
    return problem.derived[key]


def _device() -> int:
    xp = arrays()
    return 0 if xp is np else int(xp.cuda.runtime.getDevice())


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


def prepare(problem: ConvProblem, op: Op, w: Any, stream: Any = None) -> Any:
    """Pack the weights; what `run` reads."""
    product = _tables(problem, op)
    size = product.weight_rows.size * problem.groups * product.padded_columns
    packed = arrays().empty(_packed_size(product, problem.groups), w.dtype)
    sizes = (size, problem.groups, product.columns, product.padded_columns, *product.weight_strides)
    _pack_kernel(w.dtype).launch((-(-size // PER_BLOCK), 1, 1), stream, (w, _on_device(problem, op)[1], packed), sizes)
    return packed


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``."""
    product, tile, pieces, stream = _tables(problem, op), _tile(problem, op)[0], _pieces(problem, op), options.stream
    packed = prepare(problem, op, b, stream) if options.packed is None else options.packed
    table, _ = _on_device(problem, op)
    p = problem.transpose() if op == "dgrad" else problem
    grid = (-(-product.most_rows // tile[0]), product.padded_columns // tile[1], product.phases * p.groups * pieces)
    target = arrays().empty((pieces, out.size), out.dtype) if pieces > 1 else out
    bias = target if options.bias is None else options.bias
    depth = p.filter[0] > 1 or p.output[0] > 1 or p.input[0] > 1
    # Pieces work side by side; chunks, of a sum that would be too long for one accumulator, one after the other.
    parts = pieces if pieces > 1 else max(1, -(-product.slabs // CHUNK))
    kernel = _product.kernel(out.dtype, *tile, p.channels_last, product.aligned, depth, options.activation if pieces == 1 else None)
    for part in range(1 if pieces > 1 else parts):
        changes = {"has_bias": int(options.bias is not None), "part": part, "parts": parts, "again": int(part > 0)}
        geo = product.geo._replace(**changes, last=int(pieces == 1 and part == parts - 1))
        kernel.launch(grid, stream, (a, packed, target, bias, table), geo)
    if pieces > 1:
        inner = 1 if p.channels_last else math.prod(p.output)
        sizes = (out.size, pieces, p.out_channels, inner, int(options.bias is not None))
        finish(options.activation, out.dtype).launch((-(-out.size // PER_BLOCK), 1, 1), stream, (target, bias, out), sizes)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name: every tile, layout and way of gathering."""
    for (pixels, columns), last, aligned in itertools.product(TILES, (False, True), (False, True)):
        name = f"gemm {pixels}×{columns} {'NHWC' if last else 'NCHW'} {'aligned' if aligned else 'any channels'}"
        yield name, _product.kernel(np.dtype(np.float32), pixels, columns, last, aligned, False, "relu")
    yield "gemm float64", _product.kernel(np.dtype(np.float64), 64, 64, False, True, True, None)
    yield "pack", _pack_kernel(np.dtype(np.float32))
    for activation in (None, "relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid"):
        yield f"finish {activation}", finish(activation, np.dtype(np.float32))
