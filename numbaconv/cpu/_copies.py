"""What is moved before or after a product: an input with its zeros around it (`_grid`), in either layout, and matrices transposed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.arrays import empty
from numbaconv.cpu import _isa, _parallel, _simd_move
from numbaconv.cpu._grid import Grid
from numbaconv.problem import ConvProblem

# Seconds for an element of float32 on one core: benchmarks/calibrate.py, 2026-11 (AVX-512).
COPY_SECONDS, TRANSPOSE_SECONDS = 2.1e-10, 2.9e-10
# Elements of a channel up to which the caches are asked for the next one meanwhile, and those ahead in a larger one: 1024 of 14² in phases from
# memory 162 → 47 µs, 128 of 56² 209 → 76 (Zen 5; 40 and 74 from the caches), 3 of 16×112² 290 → 200.
NEAR, FOLLOWING = 1 << 14, 512
FEW = 4  # rows that are not worth transposing in registers
STRIP = 16  # rows or columns of a matrix that are moved together
PIECE = 1 << 15  # elements of a tile of pixels: 512 channels of 3199 pixels, on two threads 249 → 131 µs
# Vectors of the lines of a channel that are moved by a table: three times as fast as working out each line at 14×14, twice at 16×112×112 in phases.
MOST_LINES = 1 << 15
Array = np.ndarray[Any, Any]


def planes_copier(p: ConvProblem, g: Grid, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """Return a function of x (channels first): x with its zeros and phases, flat: (N, C, phases, planes), and the slack."""
    size, isa, stride = p.batch * p.in_channels * g.plane, _isa.host(), g.axes[2].stride
    tables: tuple[Any, ...]
    lines = g.plane // max(1, g.axes[2].pitch) * -(-g.axes[2].pitch // isa.width(dtype))
    if lines <= MOST_LINES and stride in (1, 2, 4) and stride <= isa.width(dtype):
        if together := _phases_together(g, isa.width(dtype)):
            table, length = _lines_of_phases(p.input, g, isa.width(dtype)), 0
        else:
            table, length = _lines(p.input, g, isa.width(dtype))
        apart = math.prod(axis.pitch for axis in g.axes)
        kernel, tables = _small_planes(isa, dtype, stride, length, together), (table, math.prod(p.input), g.plane, apart)
    else:
        phases = np.array([phase for axis in g.axes for phase in axis.phases], np.int64)
        numbers = [(len(a.phases), a.pitch, a.low, a.stride) for a in g.axes]
        kernel, tables = _planes(isa, dtype), (np.array([*p.input, *(n for axis in numbers for n in axis)], np.int64), phases)
    return _copier(kernel, p.batch * p.in_channels, size, g.slack, dtype, tables, COPY_SECONDS)


def _copier(
    kernel: Kernel, tiles: int, size: int, slack: int, dtype: np.dtype[Any], tables: tuple[Any, ...], seconds: float
) -> Callable[[Array], Array]:
    def copy(x: Array) -> Array:
        out = empty((size + slack,), dtype)
        out[size:] = 0
        _parallel.run(kernel, tiles, (0, dtype), (x.reshape(-1), out, *tables), size * seconds)
        return out

    return copy


def _phases_together(g: Grid, width: int) -> bool:
    """Return whether lines of all phases of the columns are moved at once: 3 of 224² in 4×4 phases 49 → 15 µs, 96 of 56² in 2×2 37 → 27."""
    w = g.axes[2]
    return w.phases == tuple(range(w.stride)) and w.stride > 1 and 2 * w.pitch > width


@functools.lru_cache(maxsize=4)
def _lines_of_phases(size: tuple[int, int, int], g: Grid, width: int) -> Array:
    """Return the table of `move_phases` for a channel. Each vector that is stored reaches into the next of its phase, stored after it."""
    (D, H, W), (d, h, w) = size, g.axes
    jd, jh, j = np.arange(d.pitch), np.arange(h.pitch), np.arange(0, w.pitch, width)
    depth = (np.array(d.phases)[:, None] + (d.low + jd) * d.stride)[:, None, :, None, None]
    height = (np.array(h.phases)[:, None] + (h.low + jh) * h.stride)[None, :, None, :, None]
    first = (w.low + j) * w.stride
    column = first[:, None] + np.arange(width * w.stride)
    there = ((column >= 0) & (column < W)).reshape(len(j), w.stride, width)
    bits = (there << np.arange(width)).sum(-1) * ((depth >= 0) & (depth < D) & (height >= 0) & (height < H))[..., None]
    source = np.where(bits.any(-1), (depth * H + height) * W + first, 0)
    lines = np.arange(math.prod(source.shape[:-1])).reshape(source.shape[:-1])
    plane = d.pitch * h.pitch * w.pitch
    to = lines[..., None] * w.pitch + j
    to = to + to // plane * plane * (w.stride - 1)  # the first phase of the columns; the others follow
    stored = (1 << np.minimum(width, plane - to % plane)) - 1
    table = np.concatenate([np.stack([source, to, stored], -1), bits], -1)
    return table.astype(np.int64).reshape(-1)


@functools.lru_cache(maxsize=4)
def _lines(size: tuple[int, int, int], g: Grid, width: int) -> tuple[Array, int]:
    """Return the table of `move_lines` for a channel, a vector of a line after the other, or of `move_pairs` and the length of its lines (or 0).

    Each vector that is stored reaches into the next, stored after it.
    """
    (D, H, W), (d, h, w) = size, g.axes
    short = 2 * w.pitch <= width and (w.pitch - 1) * w.stride < width
    aw, jd, jh, j = np.array(w.phases), np.arange(d.pitch), np.arange(h.pitch), np.arange(0, w.pitch, width)
    depth = (np.array(d.phases)[:, None] + (d.low + jd) * d.stride)[:, None, None, :, None, None, None]
    height = (np.array(h.phases)[:, None] + (h.low + jh) * h.stride)[None, :, None, None, :, None, None]
    column = j[:, None] + np.arange(width)
    there = ((w.low + column) * w.stride + aw[:, None, None] >= 0) & ((w.low + column) * w.stride + aw[:, None, None] < W) & (column < w.pitch)
    there = (depth >= 0) & (depth < D) & (height >= 0) & (height < H) & there[None, None, :, None, None]
    source = (depth * H + height) * W + (aw[:, None] + (w.low + j) * w.stride)[None, None, :, None, None, :, None]
    loaded = np.zeros((*there.shape[:-1], width, w.stride), np.int64)
    loaded[..., 0] = there
    bits = (loaded.reshape(*there.shape[:-1], w.stride, width) << np.arange(width)).sum(-1).reshape(-1, w.stride)
    to = (np.arange(len(bits) // len(j))[:, None] * w.pitch + j).reshape(-1)
    source = np.where(there.any(-1, keepdims=True), source, 0).reshape(-1)
    if short:
        odd = np.zeros(len(to) % 2, np.int64)  # beside the last of an odd number
        sources, bits, to = np.append(source, odd).reshape(-1, 2), np.append(bits[:, 0], odd).reshape(-1, 2), to[::2]
    else:
        sources = source[:, None]
    stored = (1 << np.minimum(width, g.plane - to)) - 1
    return np.column_stack([sources, to, stored, bits]).astype(np.int64).reshape(-1), w.pitch if short else 0


@functools.cache
def _small_planes(isa: _isa.Isa, dtype: np.dtype[Any], stride: int, length: int, together: bool) -> Kernel:
    entries = 6 if length else 3 + stride
    if together:
        move = _simd_move.move_phases(isa, dtype, stride)
    else:
        lines = _simd_move.move_pairs(isa, dtype, stride, length) if length else _simd_move.move_lines(isa, dtype, stride)

        @inline
        def move(x, xi, y, yi, table, ti, count, ahead, apart):  # type: ignore[no-untyped-def]
            lines(x, xi, y, yi, table, ti, count, ahead)

    def small_planes(first, last, workers, scratch, x, out, table, size, plane, apart):  # type: ignore[no-untyped-def]
        # THE SCHEDULE: a tile is one channel of one sample; where its lines are from is the same for all, and in a table. The caches are asked for
        # the same lines of the next channel, or of a large one for what follows.
        ahead = size if size <= NEAR else FOLLOWING
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                move(x, tile * size, out, tile * plane, table, 0, len(table) // entries, ahead, apart)

    return Kernel(small_planes, f"-{isa.name}-{dtype.name}-{stride}-{length}{'-phases' * together}")


@functools.cache
def _planes(isa: _isa.Isa, dtype: np.dtype[Any]) -> Kernel:
    one, two, four = (_simd_move.move(isa, dtype, min(stride, isa.width(dtype))) for stride in (1, 2, 4))
    width = isa.width(dtype)

    def planes(first, last, workers, scratch, x, out, geometry, phases):  # type: ignore[no-untyped-def]
        # THE SCHEDULE: a tile is one channel of one sample, line by line; a line's last vector reaches into the next, written after it.
        D, H, W = geometry[0], geometry[1], geometry[2]
        nd, pd, ld, sd, nh, ph, lh, sh = geometry[3], geometry[4], geometry[5], geometry[6], geometry[7], geometry[8], geometry[9], geometry[10]
        nw, pw, lw, sw = geometry[11], geometry[12], geometry[13], geometry[14]
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                at, to, end_of_tile = tile * D * H * W, tile * nd * nh * nw * pd * ph * pw, (tile + 1) * nd * nh * nw * pd * ph * pw
                for slot in range(nd * nh * nw):
                    ad, ah, aw = phases[slot // nw // nh], phases[nd + slot // nw % nh], phases[nd + nh + slot % nw]
                    # (lw + j)·sw + aw lies in 0 … W − 1 for start ≤ j < stop
                    start, stop = min(pw, max(0, -((lw * sw + aw) // sw))), min(pw, max(0, (W - 1 - aw) // sw - lw + 1))
                    for jd in range(pd):
                        for jh in range(ph):
                            d, h = (ld + jd) * sd + ad, (lh + jh) * sh + ah
                            inside = 0 <= d < D and 0 <= h < H
                            begin, end, source = start if inside else 0, stop if inside else 0, at + (d * H + h) * W + lw * sw + aw
                            for j in range(0, pw, width):
                                if sw == 1:
                                    one(x, source + j, out, to + j, begin - j, end - j, end_of_tile - to - j)
                                elif sw == 2:
                                    two(x, source + 2 * j, out, to + j, begin - j, end - j, end_of_tile - to - j)
                                elif sw == 4 and width >= 4:
                                    four(x, source + 4 * j, out, to + j, begin - j, end - j, end_of_tile - to - j)
                                else:
                                    for i in range(j, min(j + width, pw)):
                                        out[unsigned(to + i)] = x[source + i * sw] if begin <= i < end else 0
                            to += pw

    return Kernel(planes, f"-{isa.name}-{dtype.name}")


def pixels_copier(p: ConvProblem, g: Grid, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """Return a function of x, of either layout: x with its zeros and its channels last, flat: (groups, N, planes, C/groups), and the slack."""
    channels = p.in_channels // p.groups
    numbers = [(a.pitch, a.low) for a in g.axes]
    run = max(STRIP, PIECE // max(1, channels) // STRIP * STRIP)  # pixels of a tile
    pieces = max(1, -(-g.axes[2].pitch // run))
    geometry = np.array([p.batch, channels, *p.input, *(n for axis in numbers for n in axis), *p.strides("x"), run, pieces], np.int64)
    tiles, size = pieces * p.groups * p.batch * g.axes[0].pitch * g.axes[1].pitch, p.batch * p.in_channels * g.plane
    return _copier(_pixels(_isa.host(), dtype), tiles, size, g.slack * channels, dtype, (geometry,), TRANSPOSE_SECONDS)


def _transposer(isa: _isa.Isa, dtype: np.dtype[Any]) -> Any:
    """Return the function (x, xi, row, rows, columns, y, yi, column) that stores the transpose of rows × columns elements."""
    block, width = _simd_move.transpose(isa, dtype), isa.width(dtype)

    @inline
    def transpose(x, xi, row, rows, columns, y, yi, column):  # type: ignore[no-untyped-def]
        if rows <= FEW:
            for c in range(columns):
                for r in range(rows):
                    y[unsigned(yi + c * column + r)] = x[unsigned(xi + r * row + c)]
            return
        for c in range(0, columns, width):
            for r in range(0, rows, width):
                block(x, xi + r * row + c, row, rows - r, columns - c, y, yi + c * column + r, column)

    return transpose


@functools.cache
def _pixels(isa: _isa.Isa, dtype: np.dtype[Any]) -> Kernel:
    transpose = _transposer(isa, dtype)

    def pixels(first, last, workers, scratch, x, out, geometry):  # type: ignore[no-untyped-def]
        # THE SCHEDULE: a tile is a piece of a line of pixels (group, n, d, h) with all channels of the group.
        N, C, D, H, W = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
        pd, ld, ph, lh, pw, lw = geometry[5], geometry[6], geometry[7], geometry[8], geometry[9], geometry[10]
        xn, xc, xd, xh, xw = geometry[11], geometry[12], geometry[13], geometry[14], geometry[15]
        start, stop, run, pieces = max(0, -lw), W - lw, geometry[16], geometry[17]
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                line, j0 = tile // pieces, tile % pieces * run
                rest, h = line // ph, lh + line % ph
                rest, d = rest // pd, ld + rest % pd
                group, n, j1, to = rest // N, rest % N, min(pw, j0 + run), line * pw * C
                begin, end = min(j1, max(j0, start)), min(j1, stop)
                inside = 0 <= d < D and 0 <= h < H and begin < end
                if not inside:
                    begin, end = j1, j1
                for i in range(j0 * C, begin * C):
                    out[unsigned(to + i)] = 0
                for i in range(end * C, j1 * C):
                    out[unsigned(to + i)] = 0
                at = n * xn + group * C * xc + d * xd + h * xh + (lw + begin) * xw
                if not inside:
                    continue
                if xw == 1:
                    transpose(x, at, xc, C, end - begin, out, to + begin * C, C)
                else:
                    for j in range(end - begin):
                        for c in range(C):
                            out[unsigned(to + (begin + j) * C + c)] = x[unsigned(at + j * xw + c)]

    return Kernel(pixels, f"-{isa.name}-{dtype.name}")


def transposed(x: Array, count: int, rows: int, columns: int, pitch: int, out: Array | None = None) -> Array:
    """Return the transposes of ``count`` matrices of rows × columns, their rows ``pitch`` elements apart with zeros at the end."""
    out = empty((count * columns * pitch,), x.dtype) if out is None else out
    wide = max(STRIP, 4096 // rows // STRIP * STRIP)
    strips = -(-columns // wide)
    arguments = (x.reshape(-1), out, rows, columns, pitch, strips, wide)
    _parallel.run(_strips(_isa.host(), x.dtype), count * strips, (0, x.dtype), arguments, out.size * TRANSPOSE_SECONDS)
    return out


@functools.cache
def _strips(isa: _isa.Isa, dtype: np.dtype[Any]) -> Kernel:
    transpose = _transposer(isa, dtype)

    def strip(first, last, workers, scratch, x, out, rows, columns, pitch, strips, wide):  # type: ignore[no-untyped-def]
        # THE SCHEDULE: a tile is a strip of columns of one matrix.
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                matrix, column = tile // strips, tile % strips * wide
                count, to = min(wide, columns - column), (matrix * columns + column) * pitch
                transpose(x, matrix * rows * columns + column, columns, rows, count, out, to, pitch)
                for c in range(count):
                    for r in range(rows, pitch):
                        out[unsigned(to + c * pitch + r)] = 0

    return Kernel(strip, f"-{isa.name}-{dtype.name}")


def exchanged(x: Array, count: int, rows: int, columns: int, run: int, out: Array | None = None) -> Array:
    """Return (count, rows, columns, run) as (count, columns, rows, run)."""
    if run == 1:
        return transposed(x, count, rows, columns, rows, out)
    out = np.empty(x.size, x.dtype) if out is None else out
    strips = -(-rows // STRIP)
    arguments = (x.reshape(-1), out, rows, columns, run, strips)
    _parallel.run(_runs(_isa.host(), x.dtype), count * strips, (0, x.dtype), arguments, out.size * TRANSPOSE_SECONDS)
    return out


@functools.cache
def _runs(isa: _isa.Isa, dtype: np.dtype[Any]) -> Kernel:
    move, width = _simd_move.move(isa, dtype, 1), isa.width(dtype)

    def exchange(first, last, workers, scratch, x, out, rows, columns, run, strips):  # type: ignore[no-untyped-def]
        # THE SCHEDULE: a tile is STRIP rows, so that runs are read and written near those before.
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                n, row = tile // strips, tile % strips * STRIP
                for c in range(columns):
                    for r in range(row, min(row + STRIP, rows)):
                        at, to = ((n * rows + r) * columns + c) * run, ((n * columns + c) * rows + r) * run
                        for i in range(0, run, width):
                            move(x, at + i, out, to + i, 0, run - i, run - i)

    return Kernel(exchange, f"-{isa.name}-{dtype.name}")
