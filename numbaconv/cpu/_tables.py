"""The tables of `gemm`: which rows and lanes a product has, where their operands lie and where the results go.

Everything but `build` is arithmetic, so that a problem of any size can be planned; `build` takes no more than the tables it returns.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu import _emit, _grid, _parallel, _product
from numbaconv.cpu._grid import Grid, Reads
from numbaconv.cpu._product import ALL, CHUNK, COUNT, LINE, MASKS, MOST, NEIGHBOURS, PLACES, TARGETS
from numbaconv.cpu._simd import STEPS_AHEAD
from numbaconv.problem import ConvProblem, Op

SUMS_BYTES = 256 << 10  # of the sums of a tile: a quarter of a usual L2
BLOCKS, LINES = 32, 8  # blocks of rows and lines of columns of a tile, at most
PACKED_COST = 3  # of copying an element of the lanes first, beside reading one of the rows: 0.31 and 0.11 ns on AVX2
PACKED_ROWS = 256  # of a tile whose lanes are copied first: 1024→256 1×1 on 14×14 takes 1.65 ms with 128 and 1.50 with 256
IN_CACHE = 512 << 10  # bytes of a sample that stay in L2: more is prefetched
MOST_STEPS = 1 << 16  # of one table: wgrad of larger images goes by planes or lines
MOST_IN_LANES = _product.CHUNK * _product.CHUNKS  # steps of a sum whose columns left over have the steps in the lanes
SLAB = 1 << 12  # vectors whose lanes are worked out at once
Array = np.ndarray[Any, Any]
Parts = tuple[Reads, Reads, Reads]


class Tables(NamedTuple):
    """What the product kernel takes besides its operands."""

    geometry: Array
    a_steps: Array
    b_steps: Array
    blocks: Array
    columns: Array  # line after line
    stretches: Array  # see `_stretches`; none if neighbours in a line are neighbours in y throughout
    starts: Array  # where a line's stretches begin
    tails: Array  # place and target of each column left over, and whether another target is beside it
    row_targets: Array  # of each row, where rows are not evenly apart in y


class Shape(NamedTuple):
    """The sizes of one product.

    ``reps`` × ``steps`` terms are summed; ``together`` says which axes of pixels are steps, and ``phases`` how many there are among the rows.
    Two ``parts``, the outputs' even and odd columns, have a sum each, of the first and of the other steps.
    """

    parts: tuple[Parts, ...]
    phases: int
    outer: int
    blocks: int
    vectors: int
    tails: int  # columns left over, that would be less than half a vector
    lines: int
    scatters: bool
    reps: int
    steps: int
    together: tuple[int, int, int, int]
    blocks_each: int
    lines_each: int
    pieces: int
    scratch: int
    entries: int


def channels_last(p: ConvProblem, op: Op) -> bool:
    """Return whether the kernel wants the channels of the input last."""
    return p.channels_last or op == "wgrad"


def copies(p: ConvProblem, op: Op, g: Grid) -> bool:
    """Return whether the kernel cannot read the input itself."""
    return g.copied or (channels_last(p, op) and (p.groups > 1 or not p.channels_last) and not turns(p, op, g))


def turns(p: ConvProblem, op: Op, g: Grid) -> bool:
    """Return whether the kernel transposes the input of wgrad itself, a panel at a time: of one tap, channels first, the steps from one sample."""
    plain = op == "wgrad" and not g.copied and not p.channels_last
    return plain and p.filter == p.stride == (1, 1, 1) and p.input == p.output and _together(p)[0] == 1


def pitch(p: ConvProblem, isa: _emit.Isa, dtype: np.dtype[Any]) -> int:
    """Elements of a step of transposed weights: whole vectors."""
    width = isa.width(dtype)
    return -(-(p.out_channels // p.groups) // width) * width


def shapes(p: ConvProblem, op: Op, isa: _emit.Isa, dtype: np.dtype[Any]) -> tuple[Grid, list[Shape]]:
    """Return the grid of the input and the products that make up an operation, whose forward problem is p."""
    g, parts = _grid.grid(p, split=not channels_last(p, op))
    if op == "dgrad" and not p.channels_last and _alike(p, g, parts):  # type: ignore[arg-type]
        return g, [_shape(p, op, g, (parts[0],), len(parts), isa, dtype)]  # type: ignore[arg-type]
    together = 2 if p.input_dilation[2] == 2 and p.output[2] > 1 and not p.channels_last else 1
    products = [tuple(parts[n : n + together]) for n in range(0, len(parts), together)]
    return g, [_shape(p, op, g, some, 1, isa, dtype) for some in products]  # type: ignore[arg-type]


def _alike(p: ConvProblem, g: Grid, parts: list[Parts]) -> bool:
    """Return whether all phases read the same, with taps that follow each other from phase to phase: one product then has them among its rows.

    With several taps each, the weights of a row are evenly apart for a single channel only.
    """
    if len(parts) == 1 or not all(r.taps for part in parts for r in part):
        return False
    if len({(*(r.outputs for r in part), *g.offsets(part)) for part in parts}) > 1:
        return False
    taps = np.array(sorted(_grid.taps(p, part).tolist() for part in parts))
    one_channel = p.out_channels == p.groups or len(parts) == math.prod(p.filter)
    return one_channel and np.array_equal(taps - taps[:1], np.broadcast_to(np.arange(len(parts))[:, None], taps.shape))


def _shape(p: ConvProblem, op: Op, g: Grid, parts: tuple[Parts, ...], phases: int, isa: _emit.Isa, dtype: np.dtype[Any]) -> Shape:
    part, width, channels, filters, tails = parts[0], isa.width(dtype), p.in_channels // p.groups, p.out_channels // p.groups, 0
    steps, outer, reps, together, scatters = channels * _taps(parts), p.batch, 1, (1, 1, 1, 1), False
    blocks = -(-filters * phases // isa.rows)
    if op == "wgrad":
        outer, runs, together = 1, _runs(p), _together(p)
        steps = math.prod(together)
        reps = p.batch * math.prod(p.output) // steps
        vectors, lines = (sum(-(-size // each) for size in runs) for each in (width, width * isa.vectors))
        lines = sum(_line_counts(-(-size // width), isa.vectors)[0] for size in runs)
        scatters = p.flipped and p.filter != (1, 1, 1)
    elif p.channels_last:
        z, q = _merged(p, g, part)
        blocks, vectors = z * -(-q // isa.rows), pitch(p, isa, dtype) // width
        lines = _line_counts(vectors, isa.vectors)[0]
    else:
        (vectors, tails), scatters = _vectors(p, g, parts, steps, width, op == "dgrad", phases > 1), any(r.every > 1 for r in part)
        each = _row(part, vectors, tails, width)
        lines = vectors // each * _line_counts(each, isa.vectors)[0] if _apart(each) else _line_counts(vectors, isa.vectors)[0]
    units, fewest = reps * -(-steps // CHUNK), _parallel.fewest_tiles(p.macs)
    most = 1 if turns(p, op, g) else fewest  # what is transposed for each tile is rather shared as pieces of the sum
    blocks_each, lines_each = _tile_size(blocks, lines, op == "wgrad", p.groups * outer, most, isa, vectors * width, len(parts))
    tiles = p.groups * outer * -(-blocks // blocks_each)
    groups = max(1, -(-lines // lines_each))
    pieces = max(1, min(units, -(-fewest // (tiles * groups)))) if op == "wgrad" else 1
    scratch = _product.scratch(blocks_each, lines_each, len(parts), tails, isa, dtype)
    entries = 2 * steps + (MOST * (MOST + 1) // 2 + 4) * CHUNK + 4 * blocks + lines * (LINE + (MOST * width if scatters else 0))
    return Shape(
        parts, phases, outer, blocks, vectors, tails, lines, scatters, reps, steps, together, blocks_each, lines_each, pieces, scratch, entries
    )


def _taps(parts: tuple[Parts, ...]) -> int:
    return sum(math.prod(len(r.taps) for r in part) for part in parts)


def _tile_size(blocks: int, lines: int, whole: bool, products: int, fewest: int, isa: _emit.Isa, lanes: int, sums: int) -> tuple[int, int]:
    """Return how many blocks and lines a tile has: enough tiles for all threads, and of those what reads the operands the fewest times.

    With ``whole`` all lines are together if they can: the sum is shared among threads, too.
    """
    block_bytes = isa.rows * MOST * isa.vector_bytes * sums  # of a block and a line
    packed = blocks >= isa.packed and not whole
    lanes_cost, fewest = (PACKED_COST, -(-fewest // 2)) if packed else (1, fewest)  # larger tiles copy less
    found, each = [], max(1, min(PACKED_ROWS // isa.rows if packed else BLOCKS, blocks))
    while True:
        most = max(1, min(lines if whole else LINES, lines, SUMS_BYTES // (each * block_bytes)))
        for together in range(most if whole else 1, most + 1):
            supers, groups = -(-blocks // each), max(1, -(-lines // together))
            tiles = products * supers * (1 if whole else groups)
            found.append((-min(tiles, fewest), blocks * isa.rows * groups + lanes_cost * lanes * supers, -each, together))
        if each <= 8:
            break
        each = -(-each // 2)
    _, _, each, together = min(found)
    return -each, together


def _vectors(p: ConvProblem, g: Grid, parts: tuple[Parts, ...], steps: int, width: int, transposed: bool, merged: bool) -> tuple[int, int]:
    """Return the vectors that cover a channel's outputs, and the columns left over.

    In one go, junk between the lines included, or line by line if those are fewer, or a tenth fewer if short lines share a tile.
    Columns are left over where they are too few for a vector and weights are neighbours: those of a row in the order of the steps,
    or those of a step.
    """
    (z, y, q), (_, h, w), part = (r.outputs for r in parts[0]), g.axes, parts[0]
    each, flat = -(-q // width), ((z - 1) * h.pitch + y - 1) * w.pitch + q
    if z * y * each <= (1 if _apart(each) else 0.9) * -(-flat // width):
        return z * y * each, 0
    taps, size = _grid.taps(p, part), math.prod(p.filter)
    beside = size == 1 or merged if transposed else np.array_equal(taps, np.arange(size))
    return (flat // width, flat % width) if beside and 0 < steps <= MOST_IN_LANES and flat % width <= width // 2 else (-(-flat // width), 0)


def _row(part: Parts, vectors: int, tails: int, width: int) -> int:
    """Return the vectors of a line of pixels if so many cover the outputs line by line, else 0."""
    z, y, q = (r.outputs for r in part)
    each = -(-q // width)
    return each if vectors == z * y * each and not tails else 0


def _apart(each: int) -> bool:
    """Return whether lines of so many vectors have tiles of their own, whose vectors are neighbours."""
    return each >= MOST


def _merged(p: ConvProblem, g: Grid, part: Parts) -> tuple[int, int]:
    """Return the lines of pixels and their length, lines that follow each other evenly in both input and output taken as one."""
    (z, h, q), w = (r.outputs for r in part), g.axes[2]
    if not copies(p, "fprop", g) and all(r.every == 1 for r in part) and p.filter == (1, 1, 1) and w.step == g.axes[1].step == g.axes[0].step == 1:
        if (z, h, q) == p.input:
            return 1, z * h * q
    return z * h, q


def _runs(p: ConvProblem) -> list[int]:
    """Return the lengths of wgrad's runs of neighbouring lanes: (s, c) of each (t, r) where the taps are neighbours, else c."""
    T, R, S = p.filter
    channels = p.in_channels // p.groups
    return [S * channels] * (T * R) if p.dilation[2] == 1 else [channels] * (T * R * S)


def _together(p: ConvProblem) -> tuple[int, int, int, int]:
    """Return how many samples, planes, lines and pixels of wgrad's sum one table of steps covers: enough for a chunk, where there are."""
    sizes, taken = (p.batch, *p.output), [1, 1, 1, 1]
    for axis in (3, 2, 1, 0):
        inner = math.prod(taken)
        if axis > 0 and (axis == 3 or inner * sizes[axis] <= MOST_STEPS):
            taken[axis] = sizes[axis]
        elif axis == 0 and math.prod(taken[1:]) == math.prod(p.output):
            taken[0] = next(m for m in range(min(p.batch, max(1, CHUNK // max(1, inner))), 0, -1) if p.batch % m == 0)
        else:
            break
    return taken[0], taken[1], taken[2], taken[3]


def _line_counts(vectors: int, most: int) -> tuple[int, list[int]]:
    """Return how many lines of at most ``most`` vectors there are, and the sizes of the last two, none of which is 1 if that can be."""
    lines = -(-vectors // most)
    if lines == 0:
        return 0, [0, 0]
    last = vectors - (lines - 1) * most
    return lines, [most - 1, 2] if most > 2 and last == 1 and lines > 1 else [most, last]


def build(p: ConvProblem, op: Op, g: Grid, shape: Shape, isa: _emit.Isa, dtype: np.dtype[Any]) -> Tables:
    """Return the tables of one product."""
    make = _wgrad if op == "wgrad" else _pixel_rows if p.channels_last else _pixel_lanes
    strides, a_steps, b_steps, blocks, (columns, targets, apart, tails), row_targets = make(p, op, g, shape, isa, dtype)
    supers, line_groups = -(-shape.blocks // shape.blocks_each), max(1, -(-shape.lines // shape.lines_each))
    tiles = p.groups * supers * shape.outer * line_groups * shape.pieces
    every = 0 if channels_last(p, op) else _every(p, g, dtype)
    channels = p.in_channels // p.groups
    geometry = (
        tiles, shape.blocks_each, supers, shape.outer, shape.lines_each, line_groups, shape.pieces, shape.reps, shape.steps,
        max(b_steps, default=0), shape.steps, *strides, every, apart, len(shape.parts), channels * _taps(shape.parts[:1]),
        math.prod(p.input) if turns(p, op, g) else 0,
    )  # fmt: skip
    a_steps = np.append(a_steps, np.resize(a_steps, STEPS_AHEAD) if len(a_steps) else np.zeros(STEPS_AHEAD, np.int64))
    panel = [np.arange(CHUNK) * v * isa.width(dtype) for v in range(1, MOST + 1)]
    stretches, starts = _stretches(targets, apart, isa.width(dtype), p.output[2])
    tables = (
        geometry, a_steps, np.concatenate([b_steps, *panel]), blocks, columns.reshape(-1), stretches, starts, np.reshape(tails, (-1, 3)), row_targets,
    )  # fmt: skip
    return Tables(*(np.asarray(values, np.int64) for values in tables))


# Each of the following returns the strides that the kernel unpacks (a: group, outer, rep ×3, row; b: group, outer, rep ×3; y: group, outer,
# piece, row; bias: group; the reps' sizes), the steps' offsets in a and b, the table of blocks, and that of columns with each lane's target, how far
# apart those of neighbouring lanes are, and the columns left over; and the targets of rows that are not evenly apart.


def _pixel_lanes(p, op, g, shape, isa, dtype):  # type: ignore[no-untyped-def]
    """Rows are output channels, lanes are pixels: channels first."""
    channels, filters, volume = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.output)
    taps = math.prod(p.filter)
    row, step = (taps, filters * taps) if op == "dgrad" else (channels * taps, taps)  # of w: (C, K/groups, taps) of the transposed problem
    rows, orders, row_targets = filters, [_grid.taps(p, part) for part in shape.parts], np.zeros(0, np.int64)
    if shape.phases > 1:
        (_, P, Q), firsts = p.output, []
        for axis in range(3):
            firsts.append(np.array([first for _, first in sorted((min(r.taps)[0], r.first) for r in _grid.reads(p, axis))]))
        targets = _grid.sums([first * unit for first, unit in zip(firsts, (P * Q, Q, 1), strict=True)])
        rows, row, orders = filters * shape.phases, 1, [orders[0] - orders[0].min()]
        row_targets = np.add.outer(np.arange(filters) * volume, targets).reshape(-1)
    a_steps = np.concatenate([np.add.outer(np.arange(channels) * step, order).reshape(-1) for order in orders])
    b_steps = np.concatenate([np.add.outer(np.arange(channels) * g.plane, g.offsets(part)).reshape(-1) for part in shape.parts])
    first = np.arange(0, rows, isa.rows)
    blocks = np.stack([first * row, np.minimum(isa.rows, rows - first), first * volume, first], 1)
    strides = (
        filters * channels * taps, 0, 0, 0, 0, row, channels * g.plane, p.in_channels * g.plane, 0, 0, 0,
        filters * volume, p.out_channels * volume, 0, volume, rows, 1, 1,
    )  # fmt: skip
    return strides, a_steps, b_steps, blocks, _pixel_columns(p, g, shape, isa, isa.width(dtype)), row_targets


def _pixel_rows(p, op, g, shape, isa, dtype):  # type: ignore[no-untyped-def]
    """Rows are neighbouring pixels, lanes are output channels: channels last."""
    channels, filters, volume, steps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.output), pitch(p, isa, dtype)
    # The input: (groups, N, pixels, C/groups) if it was copied, else as it came.
    copied = copies(p, "fprop", g)
    apart, group, sample = (channels, p.batch * g.plane * channels, g.plane * channels) if copied else (p.in_channels, 0, g.plane * p.in_channels)
    a_steps = np.add.outer(np.arange(channels), g.offsets(shape.parts[0]) * apart).reshape(-1)
    b_steps = np.arange(channels * math.prod(p.filter)).reshape(channels, -1)[:, _grid.taps(p, shape.parts[0])].reshape(-1) * steps
    (d, h, w), part, (_, P, Q) = g.axes, shape.parts[0], p.output
    lines, length = _merged(p, g, part)
    z, y = (0, 0) if lines == 1 else np.divmod(np.arange(lines), part[1].outputs)
    at = (z * d.step * h.pitch + y * h.step) * w.pitch
    to = ((part[0].first + z * part[0].every) * P + part[1].first + y * part[1].every) * Q + part[2].first
    q = np.arange(0, length, isa.rows)
    valid = np.broadcast_to(np.minimum(isa.rows, length - q), (lines, len(q)))
    blocks = np.stack(
        [np.add.outer(at, q * w.step).reshape(-1) * apart, valid.reshape(-1), np.add.outer(to, q * part[2].every).reshape(-1) * p.out_channels,
         np.zeros(lines * len(q), np.int64)], 1
    )  # fmt: skip
    strides = (
        group, sample, 0, 0, 0, w.step * apart, channels * math.prod(p.filter) * steps, 0, 0, 0, 0,
        filters, p.out_channels * volume, 0, part[2].every * p.out_channels, filters, 1, 1,
    )  # fmt: skip
    return strides, a_steps, b_steps, blocks, (*_neighbours(0, np.arange(filters), isa.width(dtype), isa.vectors, False), 1, []), []


def _wgrad(p, op, g, shape, isa, dtype):  # type: ignore[no-untyped-def]
    """Rows are output channels, lanes are (s, c) of one (t, r), steps are pixels; the result is (groups, K/groups, taps, C/groups)."""
    channels, filters, taps, width = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.filter), isa.width(dtype)
    d, h, w = g.axes
    y = p.strides("y")
    a_units = (y[0], y[2], y[3], y[4])
    group, lane = p.batch * g.plane * channels, 1
    b_units = tuple(unit * channels for unit in (g.plane, d.step * h.pitch * w.pitch, h.step * w.pitch, w.step))
    if turns(p, op, g):
        x, lane = p.strides("x"), math.prod(p.input)
        group, b_units = channels * x[1], (x[0], x[2], x[3], x[4])
    a_steps, b_steps = (_grid.sums([np.arange(n) * u for n, u in zip(shape.together, units, strict=True)]) for units in (a_units, b_units))
    reps = [size // n for size, n in zip((p.batch, *p.output), shape.together, strict=True)]
    a_reps, b_reps = ([unit * n for unit, n in zip(units, shape.together, strict=True)][:3] for units in (a_units, b_units))
    first = np.arange(0, filters, isa.rows)
    blocks = np.stack([first * y[1], np.minimum(isa.rows, filters - first), first * channels * taps, first], 1)
    offsets, order = g.offsets(shape.parts[0]) * channels, _grid.taps(p, shape.parts[0]) * channels
    lines, tables, tap = [], [], 0
    for run in _runs(p):
        these = slice(tap, tap + run // channels)
        targets = (order[these, None] + np.arange(channels)).reshape(-1)
        columns, table = _neighbours(offsets[tap], targets, width, isa.vectors, shape.scatters)
        lines.append(columns)
        tables.append(table)
        tap += run // channels
    for columns in lines:
        columns[:, PLACES : PLACES + MOST] *= lane
    strides = (
        filters * y[1], 0, *a_reps, y[1], group, 0, *b_reps,
        filters * channels * taps, 0, p.out_channels * channels * taps, channels * taps, 0, *reps[1:3],
    )  # fmt: skip
    return strides, a_steps, b_steps, blocks, (np.concatenate(lines), np.concatenate(tables), 1, []), []


def _every(p: ConvProblem, g: Grid, dtype: np.dtype[Any]) -> int:
    """Return which steps' lines of the input to prefetch: taps that are neighbours read the same; 0 for a sample that stays in L2."""
    if p.in_channels * g.plane * dtype.itemsize <= IN_CACHE:
        return 0
    return p.filter[2] if p.dilation[2] == 1 and p.stride[2] == 1 else 1


def _columns(places: Array, masks: Array, firsts: Array, width: int, most: int, each: int = 0) -> tuple[Array, Array, Array]:
    """Return the table of columns of vectors, a new line after ``each`` of them if given, and each vector's line and slot in it."""
    vectors = len(places)
    each = each or vectors
    parts, (_, last) = _line_counts(each, most)
    start = np.add.outer(np.arange(0, vectors, max(1, each)), np.minimum(np.arange(parts) * most, each - last)).reshape(-1)
    lines, count = len(start), np.diff(np.append(start, vectors))
    line = np.repeat(np.arange(lines), count)
    slot = np.arange(vectors) - start[line]
    columns = np.zeros((lines, LINE), np.int64)
    columns[:, COUNT] = count
    for column, values in ((PLACES, places), (MASKS, masks), (TARGETS, firsts)):
        columns[line, column + slot] = values
    gaps = np.zeros(lines, np.int64)
    np.add.at(gaps, line[1:], (slot[1:] > 0) & (np.diff(places) != width))
    columns[:, NEIGHBOURS] = gaps == 0
    np.add.at(gaps, line, masks != (1 << width) - 1)
    np.add.at(gaps, line[1:], (slot[1:] > 0) & (np.diff(firsts) != width))
    columns[gaps == 0, NEIGHBOURS] = ALL
    return columns, line, slot


def _neighbours(place: int, targets: Array, width: int, most: int, scatter: bool) -> tuple[Array, Array]:
    """Return the table of columns for lanes that lie side by side from ``place`` on, and that of their targets if they are to scatter."""
    vectors = -(-len(targets) // width)
    counts = np.minimum(width, len(targets) - np.arange(vectors) * width)
    columns, line, slot = _columns(place + np.arange(vectors) * width, (1 << counts) - 1, targets[::width], width, most)
    table = np.full((len(columns) if scatter else 0, MOST * width), -1, np.int64)
    if scatter:
        lane = np.arange(len(targets))
        table[line[lane // width], slot[lane // width] * width + lane % width] = targets
    return columns, table


def _stretches(targets: Array, apart: int, width: int, outputs: int) -> tuple[Array, Array]:
    """Return the stretches of lanes whose targets are ``apart`` from each other, and where those of each line start; nothing for no targets.

    A stretch is its vector, its lanes (bits), its first target, and how many ``outputs`` of a row it has if each lane has a second one.
    """
    if targets.size == 0:
        return np.zeros((0, 4), np.int64), np.zeros(0, np.int64)
    lane, valid = np.arange(targets.shape[1]), targets >= 0
    follows = (lane[1:] % width > 0) & valid[:, :-1] & (np.diff(targets, axis=1) == apart)
    first = valid.copy()
    first[:, 1:] &= ~follows
    which = np.cumsum(first) - 1
    bits = np.broadcast_to(2.0 ** (lane % width), targets.shape)[valid]
    masks = np.bincount(which.reshape(targets.shape)[valid], bits).astype(np.int64)
    vectors = np.broadcast_to(lane // width, targets.shape)[first]
    lanes = np.bincount(which.reshape(targets.shape)[valid])
    pairs = np.minimum(2 * lanes, outputs - targets[first] % outputs) if outputs % 2 else 2 * lanes
    return np.stack([vectors, masks, targets[first], pairs], 1), np.append(0, np.cumsum(first.sum(1)))


def _pixel_columns(p: ConvProblem, g: Grid, shape: Shape, isa: _emit.Isa, width: int) -> tuple[Array, Array, int, Array]:
    """Return the table of columns for a channel's pixels, their targets if the output is strided, how far apart, and the columns left over."""
    part, (_, h, w), (_, P, Q) = shape.parts[0], g.axes, p.output
    z, y, q = (r.outputs for r in part)
    by_line = per_line = _row(part, shape.vectors, shape.tails, width)

    def pixels(index: Array, lanes: int) -> tuple[Array, Array, Array]:
        """Return the places of some vectors, of each lane whether it is a pixel, and their targets."""
        if by_line:
            line, column = np.divmod(index, per_line)
            at = np.add.outer(column * width, np.arange(lanes))
            i, j = (part_[:, None] for part_ in np.divmod(line, y))
            places = (line // y * h.pitch + line % y) * w.pitch + column * width
            inside = at < q
        else:
            places = index * width
            row, at = np.divmod(np.add.outer(places, np.arange(lanes)), w.pitch)
            i, j = np.divmod(row, h.pitch)
            inside = (i < z) & (j < y) & (at < q)
        return places, inside, ((part[0].first + i * part[0].every) * P + part[1].first + j * part[1].every) * Q + part[2].first + at * part[2].every

    places, masks, firsts = (np.zeros(shape.vectors, np.int64) for _ in range(3))
    table = np.full((shape.lines if shape.scatters else 0, MOST * width), -1, np.int64)
    lanes = []
    for begin in range(0, shape.vectors, SLAB):
        index = np.arange(begin, min(begin + SLAB, shape.vectors))
        places[index], inside, to = pixels(index, width)
        masks[index] = (inside << np.arange(width)).sum(1)
        firsts[index] = np.take_along_axis(to, inside.argmax(1)[:, None], 1)[:, 0]
        if shape.scatters:
            lanes.append(np.where(inside, to, -1))
    columns, line, slot = _columns(places, masks, firsts, width, isa.vectors, per_line if _apart(per_line) else 0)
    for n, values in enumerate(lanes):
        index = np.arange(n * SLAB, n * SLAB + len(values))
        table[line[index, None], slot[index, None] * width + np.arange(width)] = values
    place, inside, to = pixels(np.array([shape.vectors]), shape.tails)
    return columns, table, part[2].every, np.stack([(place[:, None] + np.arange(shape.tails))[inside], to[inside], to[inside] % Q < Q - 1], 1)
