"""Where a convolution's input lies in memory once its zeros are around it, so that a tap is an address: place[output] + offset[tap].

A strided convolution reads its input in phases, i mod stride: with each phase in a plane of its own, neighbouring outputs read
neighbouring elements. The fprop of a dilated input (the dgrad of a strided problem) falls into phases of its output, each an
ordinary convolution with some of the taps; no inserted zero is ever multiplied.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.arrays import empty
from numbaconv.cpu import _isa, _parallel, _seconds, _simd_move
from numbaconv.problem import ConvProblem

# Seconds for an element of float32 on one core: benchmarks/calibrate.py, 2026-11 (AVX-512).
COPY_SECONDS, TRANSPOSE_SECONDS = 2.1e-10, 2.9e-10
FEW = 4  # rows that are not worth transposing in registers
STRIP = 16  # rows or columns of a matrix that are moved together
SMALL = 1 << 16  # elements of a channel whose lines are moved by a table: three times as fast as working out each line at 14×14
LEFT_OVER = 1.5  # lanes that a column left over takes the time of: a step of it takes longer
MOST_MORE = 1 << 19  # elements that a plane for each column of taps may take more than one for each phase
SLACK = 64  # elements behind a copy that may be read and are never used
Array = np.ndarray[Any, Any]


class Reads(NamedTuple):
    """What some outputs of an axis read: output first + m·every reads the input at m·stride + offset for each (tap, offset)."""

    first: int
    every: int
    outputs: int
    taps: tuple[tuple[int, int], ...]


def reads(p: ConvProblem, axis: int) -> list[Reads]:
    """Return the phases of an axis' outputs (one, unless the input is dilated), from i·u + lo = o·s + r·d."""
    s, d, u, low, taps, outputs = p.stride[axis], p.dilation[axis], p.input_dilation[axis], p.low[axis], p.filter[axis], p.output[axis]
    found = []
    for first in range(min(u, outputs)):
        at = [(r, first * s + r * d - low) for r in range(taps)]
        kept = tuple((p.filter[axis] - 1 - r if p.flipped else r, i // u) for r, i in at if i % u == 0)
        found.append(Reads(first, u, -(-(outputs - first) // u), kept))
    return found


class Axis(NamedTuple):
    """An axis of the copy: element j of a phase's plane is the input's element (low + j)·stride + phase, or a zero."""

    stride: int
    phases: tuple[int, ...]
    low: int
    pitch: int  # elements from one line to the next; the zeros at the end of a line may be those at the start of the next
    size: int
    step: int  # by how much m + 1 is further than m
    apart: bool = False  # the phases are the offsets of the taps themselves, each with a plane of just what its outputs read

    def place(self, offset: int) -> tuple[int, int]:
        """Return where the first of a tap's outputs reads: an element of a line, and the number of the phase."""
        element, phase = (self.low, offset) if self.apart else divmod(offset, self.stride)
        return element - self.low, self.phases.index(phase)


class Grid(NamedTuple):
    """The three axes, and whether the input must be copied to have them."""

    axes: tuple[Axis, Axis, Axis]
    copied: bool

    @property
    def plane(self) -> int:
        """Elements of a channel."""
        return math.prod(len(axis.phases) * axis.pitch for axis in self.axes)

    @property
    def slack(self) -> int:
        """Elements behind the last channel that a read may reach."""
        _, h, w = self.axes
        return (h.size - h.pitch) * w.pitch + w.size - w.pitch + SLACK

    def offsets(self, parts: tuple[Reads, ...]) -> Array:
        """Return the offset of every tap of three axes' reads, in their order."""
        d, h, w = self.axes
        plane = d.pitch * h.pitch * w.pitch
        units = (h.pitch * w.pitch, w.pitch, 1)
        jumps = (len(h.phases) * len(w.phases) * plane, len(w.phases) * plane, plane)
        terms = []
        for part, axis, unit, jump in zip(parts, self.axes, units, jumps, strict=True):
            at = [axis.place(offset) for _, offset in part.taps]
            terms.append(np.array([j * unit + phase * jump for j, phase in at], np.int64))
        return sums(terms)


def sums(terms: list[Array]) -> Array:
    """Return the sum of every combination, the last axis fastest."""
    return sum(np.ix_(*terms)).astype(np.int64).reshape(-1)  # type: ignore[union-attr]


def taps(p: ConvProblem, parts: tuple[Reads, ...]) -> Array:
    """Return the index in the filter of every tap of three axes' reads, in their order."""
    _, R, S = p.filter
    return sums([np.array([tap for tap, _ in part.taps], np.int64) * unit for part, unit in zip(parts, (R * S, S, 1), strict=True)])


def grid(p: ConvProblem, split: bool) -> tuple[Grid, list[tuple[Reads, ...]]]:
    """Return the grid that p's outputs read, in phases if ``split``, and those outputs in groups that read alike."""
    per_axis = [reads(p, axis) for axis in range(3)]
    axes, copied = [], False
    for a, parts in enumerate(per_axis):
        stride = p.stride[a] if split else 1
        step = 1 if split else p.stride[a]
        ends = [(offset // stride, (part.outputs - 1) * step + offset // stride, offset % stride) for part in parts for _, offset in part.taps]
        low, last = min((e[0] for e in ends), default=0), max((e[1] for e in ends), default=0)
        before, behind = max(0, -low), max(0, last - (p.input[a] - 1) // stride)
        spread = max(((part.outputs - 1) * step for part in parts), default=0)  # of the outputs, which must stay apart
        size = max(last - low, spread) + 1
        copied |= stride > 1 or before + behind > 0 or spread >= p.input[a]
        shared = min(before, behind, size - 1 - spread) if stride == 1 and a > 0 else 0
        axes.append(Axis(stride, tuple(sorted({e[2] for e in ends})) or (0,), low, size - shared, size, step))
    if not copied:  # the input itself, all of it
        axes = [Axis(1, (0,), 0, p.input[a], p.input[a], axis.step) for a, axis in enumerate(axes)]
    found = Grid(tuple(axes), copied)  # type: ignore[arg-type]
    if split and copied and len({part.outputs for part in per_axis[2]}) == 1:
        found = _in_line(p, found, per_axis)
    return found, list(itertools.product(*per_axis))


def _in_line(p: ConvProblem, g: Grid, per_axis: list[list[Reads]]) -> Grid:
    """Return the grid with a plane for each column of taps if that pays.

    What the outputs of a plane (z) read is then in one line: there are no elements between the outputs' lines that are multiplied, too.
    """
    _, h, w = g.axes
    z, y, q = (parts[0].outputs for parts in per_axis)
    phases = sorted({offset for part in per_axis[2] for _, offset in part.taps})
    narrow = Grid((*g.axes[:2], Axis(w.stride, tuple(phases) or (0,), 0, q, q, 1, True)), True)
    lines, lanes = (z - 1) * h.pitch + y - 1, _isa.host().width(np.dtype(np.float32))
    now, then = (_filled_lanes(lines * pitch + q, lanes) for pitch in (w.pitch, q))
    now = min(now, z * y * -(-q // lanes) * lanes)
    more = p.batch * p.in_channels * (narrow.plane - g.plane)
    saved = p.macs / math.prod(p.input_dilation) * (now - then) / (z * y * q)
    return narrow if _pays(saved, more) else g


def _filled_lanes(outputs: int, lanes: int) -> float:
    """Return the lanes that outputs side by side take: whole vectors, or what columns left over are worth."""
    left = outputs % lanes
    return outputs - left + (LEFT_OVER * left if left <= lanes // 2 else lanes)


def _pays(saved: float, more: int) -> bool:
    """Return whether so many multiply-adds of lanes are worth copying so many more elements."""
    seconds = _seconds.of("gemm")
    return saved * seconds["fma"] > more * seconds["copy"] and more <= MOST_MORE


def reads_zeros(p: ConvProblem) -> bool:
    """Return whether zeros around or between the input's elements are part of any sum."""
    return p.input_dilation != (1, 1, 1) or any(low > 0 for low in p.low) or any(high > 0 for high in p.high)


def planes_copier(p: ConvProblem, g: Grid, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """Return a function of x (channels first): x with its zeros and phases, flat: (N, C, phases, planes), and the slack."""
    size, isa, stride = p.batch * p.in_channels * g.plane, _isa.host(), g.axes[2].stride
    tables: tuple[Any, ...]
    if g.plane <= SMALL and stride in (1, 2, 4) and stride <= isa.width(dtype):
        kernel, tables = _small_planes(isa, dtype, stride), (_lines(p.input, g, isa.width(dtype)), math.prod(p.input), g.plane)
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


@functools.lru_cache(maxsize=64)
def _lines(size: tuple[int, int, int], g: Grid, width: int) -> Array:
    """Return the table of `move_lines` for a channel, a vector of a line after the other: each reaches into the next, written after it."""
    (D, H, W), (d, h, w) = size, g.axes
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
    return np.column_stack([source, to, (1 << np.minimum(width, g.plane - to)) - 1, bits]).astype(np.int64).reshape(-1)


@functools.cache
def _small_planes(isa: _isa.Isa, dtype: np.dtype[Any], stride: int) -> Kernel:
    move_lines = _simd_move.move_lines(isa, dtype, stride)

    def small_planes(first, last, workers, scratch, x, out, table, size, plane):  # type: ignore[no-untyped-def]
        # THE SCHEDULE: a tile is one channel of one sample; where its lines are from is the same for all, and in a table.
        lines = len(table) // (3 + stride)
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                move_lines(x, tile * size, out, tile * plane, table, 0, lines)

    return Kernel(small_planes, f"-{isa.name}-{dtype.name}-{stride}")


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
    geometry = np.array([p.batch, channels, *p.input, *(n for axis in numbers for n in axis), *p.strides("x")], np.int64)
    lines, size = p.groups * p.batch * g.axes[0].pitch * g.axes[1].pitch, p.batch * p.in_channels * g.plane
    return _copier(_pixels(_isa.host(), dtype), lines, size, g.slack * channels, dtype, (geometry,), TRANSPOSE_SECONDS)


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
        # THE SCHEDULE: a tile is one line of pixels (group, n, d, h) with all channels of the group.
        N, C, D, H, W = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
        pd, ld, ph, lh, pw, lw = geometry[5], geometry[6], geometry[7], geometry[8], geometry[9], geometry[10]
        xn, xc, xd, xh, xw = geometry[11], geometry[12], geometry[13], geometry[14], geometry[15]
        start, stop = min(pw, max(0, -lw)), min(pw, max(0, W - lw))
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                rest, h = tile // ph, lh + tile % ph
                rest, d = rest // pd, ld + rest % pd
                group, n = rest // N, rest % N
                to = tile * pw * C
                inside = 0 <= d < D and 0 <= h < H and start < stop
                begin, end = (start, stop) if inside else (pw, pw)
                for i in range(begin * C):
                    out[unsigned(to + i)] = 0
                for i in range(end * C, pw * C):
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
