"""Dot products along the pixels: the gradient of the weights of a dense convolution with channels first (float32 and float64).

dw[k, c, tap] is the dot product of two planes, dy[k] and the pixels of x[c] that the tap meets. Both have their pixels side by
side, strided ones once x is split into phases (`_grid`), so that nothing is transposed as for `gemm`, and a few filters or
channels leave no lanes of a vector unused; but images with narrow lines do.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _batches, _copies, _grid, _isa, _parallel, _seconds, _simd, direct
from numbaconv.cpu._sum import add_pairwise
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

CHUNK = 40  # vectors of pixels summed in registers: a block of dy stays in L1, and rounding within 8 eps (tests/test_numerics.py)
CHUNKS = 32  # chunks added in one place; those of longer sums are added in a second
COLUMNS = 3  # channels and taps multiplied together with ROWS filters
BLOCKS, TRIPLES = 8, 16  # of filters and of columns in a tile, at most
MOST_TOGETHER, MOST_STEPS, MOST_TAPS = 1 << 14, 1 << 19, 1 << 14  # vectors of one table, unless an image has more; and taps of an axis

SECONDS = _seconds.of("dots")  # for one of each that `work` counts
Array = np.ndarray[Any, Any]


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    if op != "wgrad":
        raise Unsupported(f"needs the gradient of the weights (wgrad), got {op}")
    if problem.channels_last:
        raise Unsupported("needs channels first")
    if problem.flipped or problem.input_dilation != (1, 1, 1):
        raise Unsupported("needs taps that are not flipped and an input that is not dilated")
    if max(problem.filter) > MOST_TAPS:
        raise Unsupported(f"needs at most {MOST_TAPS} taps on an axis, got {max(problem.filter)}")
    if 0 in problem.gemm_shape("wgrad"):
        raise Unsupported("needs at least one weight and a sum of at least one term")
    isa, size, problem, batch = _isa.host(), dtype.itemsize / 4, _part(problem, dtype), problem.batch
    g, _ = _grid_of(problem, dtype)
    s = _shape(problem, g, isa, dtype)
    if s.steps > MOST_STEPS:
        raise Unsupported(f"needs images of at most {MOST_STEPS} vectors of pixels, got {s.steps}")
    tiles = problem.groups * s.turns * s.blocks * s.triples
    counted = {
        "call": 1,
        "copy": problem.batch * problem.in_channels * g.plane * size if g.copied else 0,
        "fma": tiles * s.steps * isa.rows * COLUMNS * isa.width(dtype) * size,
        "sum": tiles * -(-s.steps // CHUNK),
        "store": s.pieces * math.prod(problem.shape("w")),
    }
    return {name: count * batch / problem.batch for name, count in counted.items()}


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    return sum(SECONDS[name] * count for name, count in work(problem, op, dtype).items())


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the input with its zeros, tables, sums, and pieces of the result."""
    problem, batch = _part(problem, dtype), problem.batch
    g, _ = _grid_of(problem, dtype)
    s = _shape(problem, g, _isa.host(), dtype)
    elements = problem.batch * problem.in_channels * g.plane + g.slack if g.copied else 0
    parts = -(-batch // problem.batch)
    elements += sum(pieces for pieces in (s.pieces, parts) if pieces > 1) * math.prod(problem.shape("w"))
    return (elements + s.scratch * _parallel.get_num_threads()) * dtype.itemsize + 8 * (4 * s.steps + s.triples * COLUMNS)


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``, a part of the samples after the other where they are copied."""
    isa, dtype = _isa.host(), out.dtype
    if (part := _part(problem, dtype)) is not problem:
        return _batches.add_parts(lambda p, dy, x, dw: run(p, op, dy, x, dw, options), problem, part, a, b, out)
    key = ("dots", isa.name, dtype)
    if key not in problem.derived:
        g, parts = _grid_of(problem, dtype)
        s = _shape(problem, g, isa, dtype)
        copier = _copies.planes_copier(problem, g, dtype) if g.copied else None
        problem.derived[key] = g, s, _tables(problem, g, parts[0], s, isa, dtype), cost(problem, op, dtype), copier
    g, s, tables, seconds, copier = problem.derived[key]
    x = copier(b) if copier else b.reshape(-1)
    tiles = problem.groups * -(-s.blocks // BLOCKS) * -(-s.triples // TRIPLES) * s.pieces
    pieces = np.empty((s.pieces, out.size), dtype) if s.pieces > 1 else out.reshape(1, -1)
    flags = np.zeros(tiles, np.int8)
    _parallel.run(_kernel(isa, dtype), tiles, (s.scratch, dtype), (a.reshape(-1), x, pieces, flags, *tables), seconds)
    if s.pieces > 1:
        out.reshape(-1)[:] = add_pairwise(pieces)
    if flags.any() and g.copied and not np.isfinite(a).all():
        direct.run(problem, op, a, b, out, options)  # 0·∞ in the padding is NaN: only the sum that leaves the padding out is right


def _part(problem: ConvProblem, dtype: np.dtype[Any]) -> ConvProblem:
    """Return the problem of as many samples as are copied at once."""
    key = "dots part", _isa.host().name, dtype
    if key not in problem.derived:
        g, _ = _grid.grid(problem, split=True, itemsize=dtype.itemsize)
        problem.derived[key] = _batches.part(problem, "wgrad", problem.in_channels * g.plane if g.copied else 0, dtype.itemsize)
    return problem.derived[key]


def _grid_of(problem: ConvProblem, dtype: np.dtype[Any]) -> tuple[_grid.Grid, list[tuple[_grid.Reads, ...]]]:
    """Return the grid that the columns read, and how; all samples of a part are copied at once."""
    return _grid.grid(problem, split=True, itemsize=dtype.itemsize * max(1, problem.batch))


class Shape(NamedTuple):
    """The sizes of the sums of one group: ``turns`` × ``steps`` vectors for ``blocks`` × ``triples`` tiles of registers."""

    lines: int
    pixels: int  # of a line
    together: int  # samples
    turns: int
    steps: int
    blocks: int
    triples: int
    pieces: int
    scratch: int


def _shape(p: ConvProblem, g: _grid.Grid, isa: _isa.Isa, dtype: np.dtype[Any]) -> Shape:
    (z, y, q), (_, h, w), width = p.output, g.axes, isa.width(dtype)
    lines, pixels = z * y, q  # those that follow each other in x as they do in dy are one
    if w.pitch == q or z * y == 1:
        lines, pixels = (1, z * y * q) if h.pitch == y or z == 1 else (z, y * q)
    vectors, columns = lines * -(-pixels // width), p.in_channels // p.groups * math.prod(p.filter)
    together = next(n for n in range(min(p.batch, max(1, MOST_TOGETHER // vectors)), 0, -1) if p.batch % n == 0)
    blocks, triples, steps, turns = -(-(p.out_channels // p.groups) // isa.rows), -(-columns // COLUMNS), vectors * together, p.batch // together
    tiles = p.groups * -(-blocks // BLOCKS) * -(-triples // TRIPLES)
    pieces = max(1, min(turns * -(-steps // CHUNK), -(-_parallel.fewest_tiles(p.macs) // tiles)))
    scratch = 2 * min(BLOCKS, blocks) * min(TRIPLES, triples) * isa.rows * COLUMNS
    return Shape(lines, pixels, together, turns, steps, blocks, triples, pieces, scratch)


class Tables(NamedTuple):
    """What the kernel takes besides its operands: sizes, of each vector of pixels its places in dy and x and its lanes, and the columns' places."""

    geometry: Array
    dy_steps: Array
    x_steps: Array
    lanes: Array
    wholes: Array  # of each vector, how many from it on have all lanes and follow each other in dy and x
    columns: Array


def _tables(p: ConvProblem, g: _grid.Grid, part: tuple[_grid.Reads, ...], s: Shape, isa: _isa.Isa, dtype: np.dtype[Any]) -> Tables:
    (_, h, w), (_, y, _), volume = g.axes, p.output, math.prod(p.output)
    channels, filters = p.in_channels // p.groups, p.out_channels // p.groups
    samples, line, start = np.arange(s.together), np.arange(s.lines), np.arange(0, s.pixels, isa.width(dtype))
    z, row = np.divmod(line * (s.pixels // p.output[2]), y)
    dy_steps = _grid.sums([samples * p.out_channels * volume, line * s.pixels, start])
    x_steps = _grid.sums([samples * p.in_channels * g.plane, (z * h.pitch + row) * w.pitch, start])
    lanes = np.tile(np.minimum(isa.width(dtype), s.pixels - start), s.together * s.lines)
    columns = np.add.outer(np.arange(channels) * g.plane, g.offsets(part)).reshape(-1)
    geometry = (
        s.pieces, s.turns, s.steps, s.blocks, s.triples, len(columns), filters, volume,
        s.together * p.out_channels * volume, s.together * p.in_channels * g.plane, channels * g.plane,
    )  # fmt: skip
    columns = np.append(columns, np.full(s.triples * COLUMNS - len(columns), columns[-1]))
    width = isa.width(dtype)
    after = (lanes[:-1] == width) & (lanes[1:] == width) & (np.diff(dy_steps) == width) & (np.diff(x_steps) == width)
    ends = np.flatnonzero(np.append(~after, True)) + 1
    wholes = (np.repeat(ends, np.diff(np.append(0, ends))) - np.arange(len(lanes))) * (lanes == width)
    return Tables(*(np.asarray(table, np.int64) for table in (geometry, dy_steps, x_steps, lanes, wholes, columns)))


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any]) -> Kernel:
    """Make the kernel of an instruction set."""
    multiply, height = _simd.multiply_pixels(isa, dtype, COLUMNS), isa.rows
    size = height * COLUMNS

    def dots(first, last, workers, scratch, dy, x, y, flags, geometry, dy_steps, x_steps, lanes, wholes, columns):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, column] = Σ_pixel dy[k, place(pixel)] · x[place(column) + place(pixel)].
        # THE SCHEDULE: a tile is some blocks of filters times some triples of columns, for one piece of the sum. A block of dy, CHUNK
        # vectors of pixels, stays in L1 for all triples; the sums of the tile stay in the caches.
        pieces, steps, blocks, triples, taps, filters, volume = (
            geometry[0],
            geometry[2],
            geometry[3],
            geometry[4],
            geometry[5],
            geometry[6],
            geometry[7],
        )
        chunks, across = (steps + CHUNK - 1) // CHUNK, (triples + TRIPLES - 1) // TRIPLES
        supers = (blocks + BLOCKS - 1) // BLOCKS
        for worker in prange(workers):
            sums, upper = scratch[worker][: scratch.shape[1] // 2], scratch[worker][scratch.shape[1] // 2 :]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                rest, triple0 = tile // across, tile % across * TRIPLES
                rest, block0 = rest // supers, rest % supers * BLOCKS
                group, piece = rest // pieces, rest % pieces
                high, wide = min(BLOCKS, blocks - block0), min(TRIPLES, triples - triple0)
                begin, end = geometry[1] * chunks * piece // pieces, geometry[1] * chunks * (piece + 1) // pieces
                for unit in range(begin, end):
                    turn, step, done = unit // chunks, unit % chunks * CHUNK, unit - begin
                    at_dy = turn * geometry[8] + (group * filters + block0 * height) * volume
                    at_x, count, add = turn * geometry[9] + group * geometry[10], min(CHUNK, steps - step), int(done % CHUNKS != 0)
                    for block in range(high):
                        at, valid = at_dy + block * height * volume, min(height, filters - (block0 + block) * height)
                        for triple in range(wide):
                            multiply(dy, at, volume, valid, dy_steps, step, x, at_x, columns, (triple0 + triple) * COLUMNS, x_steps, step,
                                     lanes, step, wholes, step, count, sums, (block * wide + triple) * size, add)  # fmt: skip
                    if end - begin > CHUNKS and (done % CHUNKS == CHUNKS - 1 or unit == end - 1):
                        for i in range(high * wide * size):
                            sums[unsigned(i)] += upper[unsigned(i)] if done >= CHUNKS else 0
                            upper[unsigned(i)] = sums[unsigned(i)]
                strange = sums.dtype.type(0)
                for i in range(high * wide * size):
                    strange += sums[unsigned(i)] * 0
                for block in range(high):
                    for r in range(min(height, filters - (block0 + block) * height)):
                        to = (group * filters + (block0 + block) * height + r) * taps + triple0 * COLUMNS
                        count = min(wide * COLUMNS, taps - triple0 * COLUMNS)
                        for c in range(COLUMNS):
                            at = block * wide * size + c * height + r
                            for column in range(c, count, COLUMNS):
                                y[piece, unsigned(to + column)] = sums[unsigned(at)]
                                at += size
                flags[tile] = not np.isfinite(strange)

    return Kernel(dots, f"-{isa.name}-{dtype.name}")
