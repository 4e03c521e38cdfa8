"""The tables of `gemm`: which rows and lanes a product has, where their operands lie and where the results go.

`build` takes no more time and memory than the tables it returns.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.arrays import empty
from numbaconv.cpu import _grid, _isa, _panels, _products
from numbaconv.cpu._grid import Grid
from numbaconv.cpu._products import Shape
from numbaconv.cpu._simd_tile import COUNT, LINE, MASKS, MOST, PLACES, TARGETS, WHOLE
from numbaconv.problem import ConvProblem, Op

# Bytes of the input that stay in L2: more is prefetched, from one sample to the next, too (1152→320 1×1 on 7×7, 16 samples from memory, 3.35 → 2.82
# ms; layers of 1×1 filters 7 % on average).
IN_CACHE = 512 << 10
# Bytes of what wgrad reads that its tiles find in the caches: 512→512 3×3 s2 on 499×39 (40 MB) 230 → 132 ms, on 60×39 (5 MB) 15.4 → 15.1; of 1 to
# 2 MB prefetching took 3 % (Zen 5).
WGRAD_IN_CACHE = 4 << 20
SLAB = 1 << 12  # vectors whose lanes are worked out at once
Array = np.ndarray[Any, Any]


class Tables(NamedTuple):
    """What the product kernel takes besides its operands."""

    geometry: Array
    a_steps: Array
    runs: Array  # of each step, how many from it on are neighbours in a, and how many lie within a vector
    b_steps: Array
    blocks: Array
    columns: Array  # line after line
    stretches: Array  # see `_stretches`; none if neighbours in a line are neighbours in y throughout
    starts: Array  # where a line's stretches begin
    tails: Array  # place and target of each column left over, and whether another target is beside it
    row_targets: Array  # of each row, where rows are not evenly apart in y


def build(p: ConvProblem, op: Op, g: Grid, shape: Shape, isa: _isa.Isa, dtype: np.dtype[Any], past: bool = False) -> Tables:
    """Return the tables of one product, whose results may go ``past`` the caches."""
    make = _wgrad if op == "wgrad" else _pixel_rows if p.channels_last else _pixel_lanes
    strides, a_steps, b_steps, blocks, (columns, targets, apart, tails), row_targets = make(p, op, g, shape, isa, dtype)
    supers, line_groups = -(-shape.blocks // shape.blocks_each), max(1, -(-shape.lines // shape.lines_each))
    tiles = p.groups * supers * shape.outer * line_groups * shape.pieces
    size = p.in_channels * g.plane * dtype.itemsize
    if op == "wgrad":  # goes through all samples again for each tile
        far = p.batch * size > WGRAD_IN_CACHE and not _products.turns(p, op, g)
    else:
        far = p.batch * size > IN_CACHE and not p.channels_last
    channels = p.in_channels // p.groups
    geometry = (
        tiles, shape.blocks_each, supers, shape.outer, shape.lines_each, line_groups, shape.pieces, shape.reps, shape.steps,
        max(b_steps, default=0), int(shape.kept), *strides, int(far), apart, len(shape.parts), channels * _products.count_taps(shape.parts[:1]),
        math.prod(p.input) if _products.turns(p, op, g) else 0, int(past), _panel_steps(shape, channels),
    )  # fmt: skip
    stretches, starts = _stretches(targets, apart, isa.width(dtype), p.output[2])
    runs, longer = _runs(np.asarray(a_steps), isa.width(dtype)), np.append(b_steps, np.zeros(_products.AHEAD, np.int64))
    tables = (
        geometry, a_steps, runs, longer, blocks, columns.reshape(-1), stretches, starts, np.reshape(tails, (-1, 3)), row_targets,
    )  # fmt: skip
    return Tables(*(np.asarray(values, np.int64) for values in tables))


def _panel_steps(shape: Shape, channels: int) -> int:
    """Return how many steps of a block's panel there is room for: those of a chunk if all panels are made at once."""
    if not shape.ready:
        return _panels.CHUNK
    return max(_panels.even_chunks.py_func(channels * _products.count_taps((part,)))[0] for part in shape.parts)


def packed_rows(w: Array, tables: Tables, groups: int, isa: _isa.Isa) -> Array:
    """Return the panels of all rows of weights, (groups, chunks, blocks, steps, ROWS), in one array: what `_panels` packs a tile of at a time."""
    geometry, blocks = tables.geometry, tables.blocks
    group, row, first, room = (int(geometry[at]) for at in (11, 16, 32, 35))  # how far both are apart in w; steps of the first part and of a panel
    chunks: list[Array] = []
    for steps in (tables.a_steps[:first], tables.a_steps[first:]) if geometry[31] > 1 else (tables.a_steps,):
        each, _ = _panels.even_chunks.py_func(len(steps))
        chunks += [steps[n * each : (n + 1) * each] for n in range(-(-len(steps) // _panels.CHUNK))]  # the last may be empty
    places = blocks[:, :1] + np.minimum(np.arange(isa.rows), blocks[:, 1:2] - 1) * row  # the last row of a block again where there are no more
    packed = empty((groups, len(chunks), len(blocks), room, isa.rows), w.dtype)
    packed.fill(0)
    for g in range(groups):
        for n, steps in enumerate(chunks):
            packed[g, n, :, : len(steps)] = w[g * group + places[:, None] + steps[:, None]]
    return packed.reshape(-1)


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
    sorts = [np.argsort(order) for order in orders]  # neighbours in w follow each other
    a_steps = np.concatenate([np.add.outer(np.arange(channels) * step, order[sort]).reshape(-1) for order, sort in zip(orders, sorts, strict=True)])
    b_steps = np.concatenate(
        [np.add.outer(np.arange(channels) * g.plane, g.offsets(part)[sort]).reshape(-1) for part, sort in zip(shape.parts, sorts, strict=True)]
    )
    first = np.arange(0, rows, isa.rows)
    blocks = np.stack([first * row, np.minimum(isa.rows, rows - first), first * volume, first], 1)
    strides = (
        filters * channels * taps, 0, 0, 0, 0, row, channels * g.plane, p.in_channels * g.plane, 0, 0, 0,
        filters * volume, p.out_channels * volume, 0, volume, rows, 1, 1,
    )  # fmt: skip
    return strides, a_steps, b_steps, blocks, _pixel_columns(p, g, shape, isa, isa.width(dtype)), row_targets


def _pixel_rows(p, op, g, shape, isa, dtype):  # type: ignore[no-untyped-def]
    """Rows are neighbouring pixels, lanes are output channels: channels last."""
    channels, filters, volume, steps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.output), _products.pitch(p, isa, dtype)
    # The input: (groups, N, pixels, C/groups) if it was copied, else as it came.
    copied = _products.copies(p, "fprop", g)
    apart, group, sample = (channels, p.batch * g.plane * channels, g.plane * channels) if copied else (p.in_channels, 0, g.plane * p.in_channels)
    a_steps = np.add.outer(np.arange(channels), g.offsets(shape.parts[0]) * apart).reshape(-1)
    b_steps = np.arange(channels * math.prod(p.filter)).reshape(channels, -1)[:, _grid.taps(p, shape.parts[0])].reshape(-1) * steps
    (d, h, w), part, (_, P, Q) = g.axes, shape.parts[0], p.output
    lines, length = _products.pixel_lines(p, g, part)
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
    if _products.turns(p, op, g):
        x, lane = p.strides("x"), math.prod(p.input)
        group, b_units = channels * x[1], (x[0], x[2], x[3], x[4])
    a_steps, b_steps = (_grid.sums([np.arange(n) * u for n, u in zip(shape.together, units, strict=True)]) for units in (a_units, b_units))
    reps = [size // n for size, n in zip((p.batch, *p.output), shape.together, strict=True)]
    a_reps, b_reps = ([unit * n for unit, n in zip(units, shape.together, strict=True)][:3] for units in (a_units, b_units))
    first = np.arange(0, filters, isa.rows)
    blocks = np.stack([first * y[1], np.minimum(isa.rows, filters - first), first * channels * taps, first], 1)
    offsets, order = g.offsets(shape.parts[0]) * channels, _grid.taps(p, shape.parts[0]) * channels
    lines, tables, tap = [], [], 0
    for run in _products.lane_runs(p):
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


def _runs(steps: Array, width: int) -> Array:
    """Return of each step how many from it on are neighbours, and how many follow each other less than ``width`` elements behind it."""
    count = len(steps)
    if count == 0:
        return np.zeros((0, 2), np.int64)
    ends = np.flatnonzero(np.append(np.diff(steps) != 1, True)) + 1
    neighbours, near, still = np.repeat(ends, np.diff(np.append(0, ends))) - np.arange(count), np.ones(count, np.int64), np.ones(count, bool)
    for further in range(1, min(width, count)):
        still = still[:-1] & (np.diff(steps)[further - 1 :] > 0) & (steps[further:] - steps[:-further] < width)
        near[: count - further] += still
    return np.stack([neighbours, near], 1)


def _columns(places: Array, masks: Array, firsts: Array, width: int, most: int, each: int = 0) -> tuple[Array, Array, Array]:
    """Return the table of columns of vectors, a new line after ``each`` of them if given, and each vector's line and slot in it."""
    vectors = len(places)
    each = each or vectors
    parts, (_, last) = _products.line_counts(each, most)
    start = np.add.outer(np.arange(0, vectors, max(1, each)), np.minimum(np.arange(parts) * most, each - last)).reshape(-1)
    lines, count = len(start), np.diff(np.append(start, vectors))
    line = np.repeat(np.arange(lines), count)
    slot = np.arange(vectors) - start[line]
    columns = np.zeros((lines, LINE), np.int64)
    columns[:, COUNT] = count
    for column, values in ((PLACES, places), (MASKS, masks), (TARGETS, firsts)):
        columns[line, column + slot] = values
    gaps = np.zeros(lines, np.int64)
    np.add.at(gaps, line, masks != (1 << width) - 1)
    np.add.at(gaps, line[1:], (slot[1:] > 0) & (np.diff(firsts) != width))
    columns[:, WHOLE] = gaps == 0
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

    A stretch is its vector, its lanes (bits), its first target, and how many elements of y these and those beside them are: each lane has one
    beside it, but for the last of an odd number of ``outputs`` in a row.
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


def _pixel_columns(p: ConvProblem, g: Grid, shape: Shape, isa: _isa.Isa, width: int) -> tuple[Array, Array, int, Array]:
    """Return the table of columns for a channel's pixels, their targets if the output is strided, how far apart, and the columns left over."""
    part, (_, h, w), (_, P, Q) = shape.parts[0], g.axes, p.output
    z, y, q = (r.outputs for r in part)
    by_line = per_line = _products.row_vectors(g, part, shape.vectors, shape.tails, width)

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

    places, masks, counts = (np.zeros(shape.vectors, np.int64) for _ in range(3))
    table = np.full((shape.lines if shape.scatters else 0, MOST * width), -1, np.int64)
    lanes = []
    for begin in range(0, shape.vectors, SLAB):
        index = np.arange(begin, min(begin + SLAB, shape.vectors))
        places[index], inside, to = pixels(index, width)
        masks[index] = (inside << np.arange(width)).sum(1)
        counts[index] = inside.sum(1)
        if shape.scatters:
            lanes.append(np.where(inside, to, -1))
    start = (part[0].first * P + part[1].first) * Q + part[2].first
    firsts = start + np.cumsum(counts) - counts  # in y, where it is not scattered; of a vector without a pixel the next one's
    columns, line, slot = _columns(places, masks, firsts, width, isa.vectors, per_line if _products.starts_anew(per_line) else 0)
    for n, values in enumerate(lanes):
        index = np.arange(n * SLAB, n * SLAB + len(values))
        table[line[index, None], slot[index, None] * width + np.arange(width)] = values
    place, inside, to = pixels(np.array([shape.vectors]), shape.tails)
    left = np.stack([(place[:, None] + np.arange(shape.tails))[inside], to[inside], to[inside] % Q < Q - 1], 1)
    return columns, table, part[2].every if Q > 1 else 1, left
