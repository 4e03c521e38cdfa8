"""The launches of `stencil`: tiles of outputs for blocks, and all that kernels take by value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from numbaconv.cuda._geometry import LIMIT
from numbaconv.cuda._stencil_geometry import Geometry, LastGeometry
from numbaconv.cuda._stencil_passes import CHUNK, FILTERS, Axis, Kind, axes, kind_of, union
from numbaconv.problem import ConvProblem, Op, Unsupported

THREADS = 128
SHARED = 24576  # bytes of a block's tile, channels first: eight blocks to a multiprocessor
SHARED_LAST = 40960  # channels last: registers allow four blocks
MOST_CHANNELS = 4  # of a group; more are the business of gemm
MOST_PASSES = 16
FILLED = 528  # blocks that occupy a large GPU. A constant, so that results don't depend on the GPU
MOST_PIECES = 132  # of wgrad's sums
PHASE_SIZE = 12
Array = np.ndarray[Any, Any]
ROWS, QUAD = 4, 4  # outputs of a thread, channels first
MOST_LANES = 16  # quads of channels of a block
LAST_ROWS = 2  # and 4 columns of 4 channels, channels last


@dataclass(frozen=True)
class Pass:
    """A launch: its kernel, what that takes, and its size."""

    kind: Kind
    geo: Geometry | LastGeometry
    blocks: int
    products: int  # that its threads form, idle ones counted
    source: tuple[int, int, int, int, int, int]  # in w: the first tap, then from group to group, filter, channel, row and column
    table: Array | None = None  # of the phases, PHASE_SIZE numbers each


def passes(problem: ConvProblem, op: Op, itemsize: int) -> list[Pass]:
    """Return the launches that make up fprop or dgrad, or say why there are none."""
    p = problem.transpose() if op == "dgrad" else problem
    channels, filters = p.in_channels // p.groups, p.out_channels // p.groups
    _check(p, channels)
    if p.in_channels == p.out_channels == 1:
        p = replace(p, channels_last=False)  # there is no difference
    if (count := math.prod(u // math.gcd(u, s) for u, s in zip(p.input_dilation, p.stride, strict=True))) > MOST_PASSES:
        raise Unsupported(f"needs strides of at most {MOST_PASSES} phases, got {count}")
    taps = math.prod(p.filter)
    from_k, from_c = (taps, filters * taps) if op == "dgrad" else (channels * taps, taps)
    found = []
    by_axis = axes(p, 1), axes(p, 2)
    if count > 1 and not p.channels_last and all(by_axis):
        return [_phased(p, *by_axis, SHARED // itemsize, (0, channels * filters * taps, from_k, from_c))]
    for rows, columns in itertools.product(*by_axis):
        kind = kind_of(rows, columns, channels)
        source = (rows.w_first * p.filter[2] + columns.w_first, channels * filters * taps, from_k, from_c, rows.w_step * p.filter[2], columns.w_step)
        make, capacity = (_last, SHARED_LAST) if p.channels_last else (_first, SHARED)
        found.append(make(p, kind, rows, columns, capacity // itemsize, source))
        _check_sizes(p, rows, columns, found[-1])
    return found


def _phased(p: ConvProblem, all_rows: list[Axis], all_columns: list[Axis], capacity: int, source: tuple[int, int, int, int]) -> Pass:
    """Return the pass that computes all phases from one copy of what they read, channels first."""
    rows, columns, channels = union(all_rows), union(all_columns), p.in_channels // p.groups
    line = len(all_rows) == 1 and rows.count == 1 and rows.taps == 1
    longest = max(a.taps for a in all_rows) * max(a.taps for a in all_columns) * channels
    one = _first(p, Kind(0, 0, 1, 1, line, False, longest > CHUNK, True), rows, columns, capacity, (*source, 0, 0))
    assert isinstance(one.geo, Geometry)
    _, _, _, yh, yw = p.strides("y")
    table = []
    for r, c in itertools.product(all_rows, all_columns):
        on = (r.delta - rows.delta) * one.geo.pitch * (r.taps > 0) + (c.delta - columns.delta) * (c.taps > 0)
        w_first, y_first = r.w_first * p.filter[2] + c.w_first, r.first * yh + c.first * yw
        table.append([r.taps, c.taps, r.dilation, c.dilation, r.w_step * p.filter[2], c.w_step, on, w_first, y_first, r.count, c.count, 0])
    taps = sum(row[0] * row[1] for row in table)
    found = replace(one, geo=one.geo._replace(phases=len(table)), products=one.products * taps // (rows.taps * columns.taps))
    _check_sizes(p, rows, columns, found)
    return replace(found, table=np.array(table, np.int32))


def gradient_pass(p: ConvProblem, itemsize: int) -> Pass:
    """Return the launch that makes up wgrad, or say why there is none."""
    channels = p.in_channels // p.groups
    _check(p, channels)
    if p.input_dilation != (1, 1, 1) or min(p.output) == 0:
        raise Unsupported("needs an input that is not dilated for wgrad")
    if p.in_channels == p.out_channels == 1:
        p = replace(p, channels_last=False)  # there is no difference
    (rows,), (columns,) = axes(p, 1), axes(p, 2)
    kind, taps = kind_of(rows, columns, 1), math.prod(p.filter)
    if p.channels_last and columns.taps in FILTERS and columns.stride <= 2 and columns.dilation == 1:
        kind = Kind(1, columns.taps, 1, columns.stride, rows.count == 1)  # row by row of the filter
    if not kind.height or (rows.taps, columns.taps) != p.filter[1:]:
        raise Unsupported(f"needs filters of {FILTERS} taps, stride 1 or 2, not dilated, all of them within reach of the image, for wgrad")
    source = (rows.w_first * p.filter[2] + columns.w_first, taps, taps, taps, rows.w_step * p.filter[2], columns.w_step)
    if p.channels_last:
        found = _gradient_last(p, kind, rows, columns, SHARED_LAST // itemsize, source)
    else:
        found = _gradient_first(p, kind, rows, columns, SHARED // itemsize, source)
    _check_sizes(p, rows, columns, found)
    return found


def _pieces(tiles: int, blocks: int) -> int:
    return max(1, min(tiles, 2 * FILLED // max(1, blocks), MOST_PIECES))


def _gradient_first(p: ConvProblem, kind: Kind, rows: Axis, columns: Axis, capacity: int, source: tuple[int, int, int, int, int, int]) -> Pass:
    """Return wgrad with channels first: a unit is an image of one channel."""
    channels, filters = p.in_channels // p.groups, p.out_channels // p.groups
    one = _first(replace(p, in_channels=1, out_channels=1, groups=1, derived={}), kind, rows, columns, capacity, source)
    assert isinstance(one.geo, Geometry)
    x_plane, y_plane, pairs = math.prod(p.input), math.prod(p.output), p.out_channels * channels
    pieces = _pieces(one.blocks, pairs)
    geo = one.geo._replace(
        groups=p.groups, channels=channels, filters=filters, plane=p.in_channels * x_plane, y_plane=p.out_channels * y_plane, pieces=pieces,
        tiles=one.blocks, x_channel=x_plane, y_channel=y_plane, w_size=math.prod(p.shape("w")),
    )  # fmt: skip
    return Pass(kind, geo, pairs * pieces, one.products * pairs, source)


def _gradient_last(p: ConvProblem, kind: Kind, rows: Axis, columns: Axis, capacity: int, source: tuple[int, int, int, int, int, int]) -> Pass:
    """Return wgrad with channels last: a block owns one row of the filters, so that a tile reads no more than that row does."""
    one = _last(p, kind, replace(rows, taps=1), columns, capacity, source)
    assert isinstance(one.geo, LastGeometry)
    tiles, owners = one.blocks // one.geo.chunks, one.geo.chunks * rows.taps * one.geo.channels
    row_on = one.geo.row_on if kind.line else one.geo.pitch * rows.stride
    geo = one.geo._replace(row_on=row_on, taps_h=rows.taps, pieces=_pieces(tiles, owners), tiles=tiles, w_size=math.prod(p.shape("w")),
                           w_first=source[0], w_row=source[4], w_column=source[5])  # fmt: skip
    return Pass(kind, geo, owners * geo.pieces, one.products * rows.taps, source)


def _check(p: ConvProblem, channels: int) -> None:
    if not 0 < channels <= MOST_CHANNELS:
        raise Unsupported(f"needs 1 to {MOST_CHANNELS} channels in a group, got {channels}")
    if p.input[0] != 1 or p.output[0] != 1 or p.filter[0] != 1 or p.low[0] != 0:
        raise Unsupported("needs one or two axes")


def _check_sizes(p: ConvProblem, rows: Axis, columns: Axis, found: Pass) -> None:
    geo = found.geo
    reach = [axis.reach(axis.count + 16 * THREADS) + abs(axis.delta) for axis in (rows, columns)]
    last = 0 if found.kind.line else (geo.tiles_p * geo.tile_rows + 1) * geo.y_row
    sizes = [math.prod(p.shape("x")), math.prod(p.shape("w")), math.prod(p.shape("y")), found.blocks * THREADS]
    if max(last, *reach, *sizes, *map(abs, geo)) > LIMIT // 2:
        raise Unsupported("needs arrays of fewer than 2³⁰ elements")


def _round4(value: int) -> int:
    return -(-value // 4) * 4


def _tiles(pieces_p: int, pieces_q: int, most: int) -> Iterator[tuple[int, int]]:
    """Go through tiles of threads: so many side by side, so many one below the other."""
    for across in range(min(pieces_q, most), 0, -1):
        for down in range(1, min(pieces_p, most // across) + 1):
            yield across, down


def _shape(kind: Kind, rows: Axis, columns: Axis, across: int, down: int, own: int) -> tuple[int, int, int, int]:
    """Return the outputs of a tile, rows and columns, and the inputs that they read, of which a thread owns ``own`` rows."""
    tile_rows, tile_columns = (1, own * QUAD * across) if kind.line else (own * down, QUAD * across)
    return tile_rows, tile_columns, rows.reach(tile_rows), columns.reach(tile_columns)


def _first(p: ConvProblem, kind: Kind, rows: Axis, columns: Axis, capacity: int, source: tuple[int, int, int, int, int, int]) -> Pass:
    """Return the pass with the tile that loads and multiplies least, channels first."""
    channels, filters, all_units = p.in_channels // p.groups, p.out_channels // p.groups, p.batch * p.groups
    terms = channels * rows.taps * columns.taps * filters
    pieces = (1, -(-columns.count // (ROWS * QUAD))) if kind.line else (-(-rows.count // ROWS), -(-columns.count // QUAD))
    vector = int(p.input[2] % 4 == 0)
    best: tuple[float, int, int, int] | None = None
    for across, down in _tiles(*pieces, THREADS):
        *_, height, width = _shape(kind, rows, columns, across, down, ROWS)
        planes = channels * height * kind.across * _round4(-(-width // kind.across) + 1)
        units = min(THREADS // (across * down), all_units, capacity // planes)
        if units < 1:
            continue
        blocks = -(-pieces[0] // down) * -(-pieces[1] // across) * -(-all_units // units)
        score = blocks * (THREADS * ROWS * QUAD * max(1.0, terms / 16) + units * channels * height * _round4(width + 3 * vector))
        if best is None or score < best[0]:
            best = score, across, down, units
    if best is None:
        if all_units * rows.count * columns.count:
            raise Unsupported("needs a filter and strides for which what a tile reads fits in shared memory")
        best = 0.0, 1, 1, 1
    _, across, down, units = best
    tile_rows, tile_columns, height, width = _shape(kind, rows, columns, across, down, ROWS)
    part = _round4(-(-width // kind.across) + 1)
    pitch, fill_w = kind.across * part, _round4(width + 3 * vector) // 4
    step_w, step_h = (1, 1) if kind.height else (columns.stride, rows.stride)
    row_on = QUAD * across * step_w if kind.line else step_h * pitch
    rest, on_w = divmod(THREADS, fill_w)
    on_planes, on_h = divmod(rest, height)
    _, y_plane, _, yh, yw = p.strides("y")
    y_first, y_row, y_column = rows.first * yh + columns.first * yw, rows.step * yh, columns.step * yw
    vector_out = int(y_column == 1 and columns.count % 4 == y_first % 4 == y_row % 4 == y_plane % 4 == 0 and (kind.height > 0 or kind.runs))
    tiles_p, tiles_q = -(-rows.count // tile_rows), -(-columns.count // tile_columns)
    geo = Geometry(
        tiles_p, tiles_q, tile_rows, tile_columns, units, all_units, p.groups, channels, filters, across, down, rows.count, columns.count,
        p.input[1], p.input[2], p.input[1] * p.input[2], rows.delta, columns.delta, rows.stride, columns.stride, rows.dilation, columns.dilation,
        rows.taps, columns.taps, row_on, 1 if kind.runs else across * columns.stride, vector, vector_out, fill_w, height, units * channels, width,
        pitch, part, on_w, on_h, on_planes, *source, y_first, y_plane, y_row, y_column,
    )  # fmt: skip
    blocks = tiles_p * tiles_q * -(-all_units // units)
    return Pass(kind, geo, blocks, blocks * THREADS * ROWS * QUAD * terms, source)


def _last(p: ConvProblem, kind: Kind, rows: Axis, columns: Axis, capacity: int, source: tuple[int, int, int, int, int, int]) -> Pass:
    """Return the pass with the tile that loads and multiplies least, channels last."""
    channels, filters, quads = p.in_channels // p.groups, p.out_channels // p.groups, -(-p.out_channels // 4)
    terms = channels * rows.taps * columns.taps
    pieces = (1, -(-columns.count // (LAST_ROWS * QUAD))) if kind.line else (-(-rows.count // LAST_ROWS), -(-columns.count // QUAD))
    best: tuple[float, int, int, int] | None = None
    for lanes in range(min(quads, MOST_LANES), 0, -1):
        for across, down in _tiles(*pieces, THREADS // lanes):
            *_, height, width = _shape(kind, rows, columns, across, down, LAST_ROWS)
            if height * width * 4 * lanes > capacity:
                continue
            blocks = -(-pieces[0] // down) * -(-pieces[1] // across) * -(-quads // lanes) * p.batch
            # Less than 8 quads side by side leave parts of the memory's sectors unread.
            score = blocks * (THREADS * LAST_ROWS * QUAD * 4 * max(1.0, terms / 16) + channels * height * width * 4 * max(lanes, min(quads, 8)))
            if best is None or score < best[0]:
                best = score, lanes, across, down
    if best is None:
        if p.batch * quads * rows.count * columns.count:
            raise Unsupported("needs a filter and strides for which what a tile reads fits in shared memory")
        best = 0.0, 1, 1, 1
    _, lanes, across, down = best
    tile_rows, tile_columns, height, width = _shape(kind, rows, columns, across, down, LAST_ROWS)
    column = 4 * lanes
    pitch = width * column
    row_on = QUAD * across * columns.stride * column if kind.line else pitch * (1 if kind.height else rows.stride)
    column_on = column * (1 if kind.height else columns.stride)
    rest, on_lanes = divmod(THREADS, lanes)
    on_h, on_w = divmod(rest, width)
    xn, _, _, xh, xw = p.strides("x")
    yn, _, _, yh, yw = p.strides("y")
    tiles_p, tiles_q, chunks = -(-rows.count // tile_rows), -(-columns.count // tile_columns), -(-quads // lanes)
    geo = LastGeometry(
        tiles_p, tiles_q, chunks, tile_rows, tile_columns, lanes, across, down, rows.count, columns.count, p.input[1], p.input[2],
        p.out_channels, channels, filters, rows.delta, columns.delta, rows.stride, columns.stride, rows.dilation, columns.dilation,
        rows.taps, columns.taps, row_on, column_on, int(channels == filters == 1 and p.out_channels % 4 == 0), width, height, pitch, column,
        on_lanes, on_w, on_h, xn, xh, xw, 4 * quads, yn, rows.first * yh + columns.first * yw, rows.step * yh, columns.step * yw,
    )  # fmt: skip
    blocks = tiles_p * tiles_q * chunks * p.batch
    return Pass(kind, geo, blocks, blocks * THREADS * LAST_ROWS * QUAD * 4 * terms, source)
