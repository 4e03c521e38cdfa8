"""The quick way of `stencil` for small filters: strips of outputs that move down a plane.

For fprop and dgrad of planes (channels first), with strides of 1 or 2 and any dilation: depthwise layers and images, one filter after the other,
its factors in registers; layers with few channels in a group, several filters at a time. A vector of x is loaded once per column
of taps and multiplied into all the rows of outputs that it meets; each row is stored after the last row of x that it needs, and
nothing is done per tile of outputs. A strided dgrad is done in one go: rows and columns of its outputs fall into phases, each
with some of the taps.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline
from numbaconv.cpu import _isa
from numbaconv.cpu._ahead import asker, is_far
from numbaconv.cpu._grid import Reads, reads
from numbaconv.cpu._simd_roll import Roll, pack, roll, roll_filters
from numbaconv.cpu._sum import TERMS
from numbaconv.cpu.bias import activate
from numbaconv.problem import ConvProblem, Op

REGISTERS = 32  # of vectors. Of several filters all values are kept there, of one filter a few may not be:
MOST_BESIDE, MOST_REGISTERS = 36, 40  # two vectors beside each other (5×5 s2 on 144 of 56², 54 → 47 µs), and one (its dgrad, 172 → 92 µs)
FEW = 9  # factors of narrow planes, whose rows do not fill a vector; a slab's do (5×5 on 1152 of 7²: 69 µs instead of 93)
BAND, SHORTEST = 32 << 10, 24  # bytes of a tile that L1 holds beside the next one's: 96 3×3 s2 @112 100 → 85 µs; 200², of few rows, 0.69 → 0.85 ms
LONGEST, WIDEST = 64, 1 << 14  # rows of outputs of a tile, so that threads can share a plane; columns of all, which have entries in a table
LARGEST = 1 << 18  # bytes of a plane: slabs read larger ones row by row, which caches see coming (300² 1.0 ms, not 1.1; 1024² 0.7, not 1.1)
TOGETHER = 8  # channels of a group that may be large; those of more are read for every few filters,
FEW_BYTES = 2 << 20  # all of them (1.6 MB: 3→32 3×3 s2 @224, dgrad, 530 → 235 µs; 20 MB: 92 ms instead of 35)
MOST_FACTORS = 32  # of a filter, whose multiply-adds are all written out: of 7×7 taps gemm is quicker (3→64 s2 @224 2.3 ms, not 2.5)
# Bytes of planes that are asked for if the caches don't hold x and y, and how far ahead: 576 3×3 s2 @14, 16 samples, 869 → 273 µs, s1 672 → 376 (4
# KiB ahead 352 and 423, 16 267 and 401).
SMALL, AHEAD = 4 << 10, 8 << 10
ABSENT = -(1 << 40)  # a column outside of any row
Array = np.ndarray[Any, Any]


class Rolls(NamedTuple):
    """How planes are cut into strips, and what the kernel reads."""

    shape: Roll
    kernel: Kernel
    tables: tuple[Array, Array, Array, Array]  # geometry, blocks: see `_Strip`; the offsets of the filter's taps; a row of zeros
    tiles: int
    scratch: int  # elements a thread

    def work(self, p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
        """Count what is loaded and multiplied (elements of vectors), and what moves between memory and cache."""
        shape, blocks = self.shape, self.tables[1]
        steps = -(-p.output[1] // shape.up) + self.tables[0][0] * shape.before
        strips = p.batch * p.out_channels // max(1, shape.filters) * p.output[0] * len(blocks) * float(steps)
        channels = strips * (p.in_channels // p.groups) * _isa.host().vector_bytes / 4
        return {
            "pass": 1,
            "load": channels * shape.down * len(shape.loaded),
            "factor": channels * shape.terms,
            "stream": (math.prod(p.shape("x")) + math.prod(p.shape("y"))) * dtype.itemsize / 4,
        }


def plan(p: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any]) -> Rolls | None:
    """Return how fprop is done in strips, None if it can't be or slabs are quicker."""
    if isa.masks != "registers" or not _possible(p):
        return None
    rows, columns, width, count = reads(p, 1), reads(p, 2), isa.width(dtype), p.batch * p.out_channels * p.output[0]
    each, channels = max(part.outputs for part in columns), p.in_channels // p.groups
    if not _small(p, rows, columns, dtype) or (found := _shape(p, rows, columns, each > width)) is None:
        return None
    shape, base, groups = found
    longest = _longest(p, shape, dtype)
    high = -(-p.output[1] // (-(-p.output[1] // longest) * shape.up)) * shape.up
    bands = -(-p.output[1] // high)
    if 2 * each <= width and bands == 1 and count > 1 and not shape.filters:
        if shape.across == shape.phases == 1 and shape.high * shape.wide > FEW:
            return None
        shape = shape._replace(planes=max(shape.across, shape.phases))
    steps = -((base + shape.down - 1) // shape.down), (p.input[1] - 1 - base) // shape.down + 1
    if not _reads_something(p, shape, high, *steps):
        return None
    taps = np.array([r * p.filter[2] + s for r in _numbers(rows) for s in _numbers(columns)], np.int64)
    filters, volume = p.out_channels // p.groups, len(taps)
    scratch = channels * volume * shape.pitch + shape.pitch * width if shape.filters else 0
    strides = (volume, filters * volume) if op == "dgrad" else (channels * volume, volume)
    small = bands == 1 and math.prod(p.input[1:]) * dtype.itemsize <= SMALL
    soon = AHEAD // dtype.itemsize if small and is_far(p, dtype) else 0
    geometry = (bands, p.output[0], p.out_channels, filters, channels, *p.input[1:], *p.output[1:], base, high, *steps, volume, *strides, soon)
    shape, groups = _near(shape, groups, width)
    blocks, behind = _blocks(p, shape, groups, each, width), 1 + len(groups)
    shape = shape._replace(masked=tuple((blocks[:, behind:] != (1 << width) - 1).any(0).tolist()))
    zeros = groups[-1] - groups[0] + (shape.beside * shape.across + 2) * width if shape.down > 1 else 0
    if zeros > WIDEST:
        return None
    if shape.filters:  # where factors go, rather than where they are from
        taps = np.array([-1]) if (np.diff(taps) == 1).all() else np.argsort(taps)
    tables = np.array(geometry, np.int64), blocks, taps, np.zeros(zeros, dtype)
    kernel = (_filters_kernel if shape.filters else _kernel)(isa, dtype, shape)
    return Rolls(shape, kernel, tables, -(-count // (shape.planes * max(1, shape.filters))) * bands, scratch)


def _longest(p: ConvProblem, shape: Roll, dtype: np.dtype[Any]) -> int:
    """Return how many rows of outputs a tile may have: what it reads and writes stays in L1 where that is no more work, with few rows read twice."""
    row = (p.input[2] * shape.down / shape.up + p.output[2]) * dtype.itemsize
    return int(BAND / row) if shape.before <= 2 and not shape.filters and SHORTEST <= BAND / row < LONGEST else LONGEST


def _small(p: ConvProblem, rows: list[Reads], columns: list[Reads], dtype: np.dtype[Any]) -> bool:
    """Return whether planes, and what a group reads, stay in the caches, sums are short, and every tap is part of one."""
    x, y = (math.prod(size[1:]) * dtype.itemsize for size in (p.input, p.output))
    channels, terms = p.in_channels // p.groups, math.prod(max(len(part.taps) for part in parts) for parts in (rows, columns))
    # Outputs of a single column have one phase, and no use for the other's taps.
    whole = all(sum(len(part.taps) for part in parts) == taps for parts, taps in zip((rows, columns), p.filter[1:], strict=True))
    return (
        whole
        and math.prod(p.filter) <= MOST_FACTORS
        and max(x, y) <= LARGEST
        and (channels <= TOGETHER or channels * x <= FEW_BYTES)
        and terms * channels <= TERMS
    )


def _reads_something(p: ConvProblem, shape: Roll, high: int, earliest: int, latest: int) -> bool:
    """Return whether no band is of padding alone; steps ``earliest`` … latest − 1 read rows of x."""
    tops = np.arange(0, p.output[1], high)
    first, last = tops // shape.up - shape.before, -(-np.minimum(p.output[1], tops + high) // shape.up)
    return earliest <= -max(shape.ahead) and bool((np.minimum(last, latest) > np.maximum(first, earliest)).all())


def _possible(p: ConvProblem) -> bool:
    (T, R, _), (_, P, Q) = p.filter, p.output
    planes = T == p.stride[0] == p.input_dilation[0] == 1 and p.low[0] == 0 and p.output[0] == p.input[0] and not p.channels_last
    steps = all((s, u) in ((1, 1), (2, 1), (1, 2)) for s, u in zip(p.stride, p.input_dilation, strict=True))
    small = 0 not in p.gemm_shape("fprop") and steps and max(p.filter) <= WIDEST
    return planes and small and 1 < R and 1 < P and Q <= WIDEST


def _numbers(parts: list[Reads]) -> list[int]:
    """Return the taps of all phases."""
    return [tap for part in parts for tap, _ in part.taps]


def _shape(p: ConvProblem, rows: list[Reads], columns: list[Reads], wide: bool) -> tuple[Roll, int, list[int]] | None:
    """Return the shape, the first row of x that step 0 reads if it completes row 0, and what groups are off in a row of x; None if nothing fits."""
    across, numbers = p.stride[2], iter(range(p.filter[2]))
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for e, part in enumerate(columns):
        for _, offset in part.taps:
            groups.setdefault(offset // across, []).append((next(numbers), e, offset % across))
    in_order = sorted(groups)
    for filters, beside, deep in _ways(p, wide):
        base, met, lags, ahead = _meetings(rows, p.stride[1], p.filter[1], deep)
        in_groups = tuple(tuple(groups[m]) for m in in_order)
        shape = Roll(met, lags, ahead, in_groups, p.filter[1], p.filter[2], len(columns), across, beside, 1, filters)
        if shape.registers <= (REGISTERS if filters else MOST_BESIDE if beside > 1 else MOST_REGISTERS):
            return shape, base, [m * across for m in in_order]
    return None


def _meetings(rows: list[Reads], stride: int, taps: int, deep: int) -> tuple[int, Any, Any, Any]:
    """Return the first row of x that step 0 reads if it completes ``deep`` rows of each phase from row 0 on, and `Roll`'s rows, lags and ahead."""
    down, numbers = stride * deep, iter(range(taps))
    numbered = [[(next(numbers), offset) for _, offset in part.taps] for part in rows]
    phases = [[(number, offset + further * stride) for number, offset in part] for further in range(deep) for part in numbered]
    base = max(offset for part in phases for _, offset in part) - (down - 1)
    met: list[list[tuple[int, int, int]]] = [[] for _ in range(down)]
    lags, ahead = [], []
    for e, part in enumerate(phases):
        found = [divmod(base + down - 1 - offset, down) for _, offset in part] or [(0, 0)]
        ahead.append(min(lag for lag, _ in found))
        lags.append(max(lag for lag, _ in found) - ahead[-1])
        for (number, _), (lag, above) in zip(part, found, strict=False):
            met[down - 1 - above].append((number, e, lag - ahead[-1]))
    return base, tuple(map(tuple, met)), tuple(lags), tuple(ahead)


def _ways(p: ConvProblem, wide: bool) -> list[tuple[int, int, int]]:
    """Return how many filters may be computed together, vectors next to each other, and rows of outputs in a step, the best first."""
    if p.in_channels == p.groups == p.out_channels:
        return [(0, 2, 1), (0, 1, 1)] if wide else [(0, 1, 1)]
    filters = [f for f in (8, 6, 4, 3, 2) if p.out_channels // p.groups % f == 0]
    # A factor, which is read from memory, is multiplied twice: 256 of 28² in 32 groups 159 → 143 µs; 512 of 28² with a stride of 2 164 → 147. A
    # second row without a stride gained nothing.
    twice = [(f, 2, 1) for f in filters if wide] + [(f, 1, 2) for f in filters if not wide and p.stride[1] == 2]
    return twice + [(f, 1, 1) for f in filters] + [(1, 1, 1)]


def _near(shape: Roll, groups: list[int], width: int) -> tuple[Roll, list[int]]:
    """Return the shape, and what the groups that are loaded are off in a row of x: of a stride of 2 only one, unless others are far from it."""
    middle = groups[len(groups) // 2]
    near = tuple((group - middle) // shape.across for group in groups)
    if shape.across == 1 or shape.planes == 2 or len(groups) == 1 or 2 * max(map(abs, near)) > width:
        return shape, groups
    return shape._replace(near=near), [middle]


def _blocks(p: ConvProblem, shape: Roll, groups: list[int], each: int, width: int) -> Array:
    """Return a row of `roll`'s table per strip; the last one overlaps the one before rather than be partly empty."""
    across, lanes = shape.beside * width, np.arange(width)
    first = np.arange(0, each, across)
    if each >= across:
        first[-1] = each - across
    starts = first[:, None] * shape.across + np.array(groups)

    def there(begin: Array, parts: int, bound: int, more: int = 0) -> Array:
        """Return masks of the lanes of a strip's vectors that are elements of a row: ``parts`` for one of outputs, and ``more`` on either side."""
        at: Array = np.arange(-more * width, (shape.beside * parts + more) * width)
        if shape.planes == 2:
            at = at.reshape(shape.beside, parts, width)
            at = np.where(lanes // (width // 2) == [[0], [1]], lanes % (width // 2), ABSENT) if parts == 1 else np.stack([lanes, lanes])
        at = begin[..., None, None] + at.reshape(-1, width)
        return ((at >= 0) & (at < bound)) @ (1 << lanes)

    seen = there(starts, shape.across, p.input[2], int(bool(shape.near)))
    tables = first * shape.phases, starts, seen, there(first * shape.phases, shape.phases, p.output[2])
    return np.concatenate([part.reshape(len(first), -1) for part in tables], 1).astype(np.int64)


def _name(isa: _isa.Isa, dtype: np.dtype[Any], shape: Roll) -> str:
    return f"-{isa.name}-{dtype.name}-{hashlib.sha256(repr(shape).encode()).hexdigest()[:16]}"


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], shape: Roll) -> Kernel:
    compute, down, up, before, pairs = roll(isa, dtype, shape), shape.down, shape.up, shape.before, shape.planes == 2
    ask, zero, lowest = asker(dtype), dtype.type(0), dtype.type(-np.inf)

    def rolls(first, last, workers, scratch, x, w, y, bias, code, broken, geometry, blocks, taps, zeros):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_r Σ_s w[k,r,s] · x[n,k,z,p·stride + r·dilation − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is a band of rows of one plane, or of two narrow ones, a strip of it after the other.
        bands, Z, K, H, W, P, Q = geometry[0], geometry[1], geometry[2], geometry[5], geometry[6], geometry[7], geometry[8]
        base, rows, earliest, latest, volume = geometry[9], geometry[10], geometry[11], geometry[12], geometry[13]
        least, planes, soon = zero if code == 1 else lowest, y.size // (P * Q), geometry[16]
        for worker in prange(workers):
            start, stop = first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers
            plane, top, found = start // bands * (1 + pairs), start % bands * rows, 0
            k, z = plane // Z % K, plane % Z
            for _ in range(start, stop):
                at_x, at_y, at_k, at_top, other = plane * H * W, plane * P * Q + top * Q, k, top, k
                more, count = int(pairs and plane + 1 < planes), min(rows, P - top)
                top += rows
                if top >= P:  # counted on rather than divided, which takes as long as a small plane
                    for step in range(1 + pairs):
                        top, plane, z = 0, plane + 1, z + 1
                        if z == Z:
                            z, k = 0, k + 1 if k + 1 < K else 0
                        if more and step == 0:
                            other = k
                low, high = at_top // up - before, (at_top + count + up - 1) // up  # steps, those that read from ``begin`` on
                begin, end = max(low, earliest), min(high, latest)
                if soon:
                    ask(x, at_x + soon, 0, (1 + more) * H * W, y, at_y + soon * P * Q // (H * W), 0, (1 + more) * P * Q, 0, 1)
                for block in range(len(blocks)):
                    found |= compute(x, at_x, W, H, base + begin * down, end - begin, high - end, w, at_k * volume, taps, 0,
                                     blocks, block * blocks.shape[1], zeros, 0, y, at_y, Q, begin * up - at_top, count, bias, at_k, least,
                                     more * H * W, (other - at_k) * volume, more * P * Q, other - at_k)  # fmt: skip
                if code > 1:
                    activate(y, at_y, count * Q + more * P * Q, code)
            if found:
                broken[0] = 1

    return Kernel(rolls, _name(isa, dtype, shape))


@functools.cache
def _filters_kernel(isa: _isa.Isa, dtype: np.dtype[Any], shape: Roll) -> Kernel:
    compute, down, up, before, together = roll_filters(isa, dtype, shape), shape.down, shape.up, shape.before, shape.filters
    put, pitch, lanes = pack(isa, dtype, shape), shape.pitch, isa.width(dtype)
    zero, lowest = dtype.type(0), dtype.type(-np.inf)

    @inline
    def pack_all(w, at, wk, wc, channels, volume, places, packed):  # type: ignore[no-untyped-def]
        runs, count = (1, channels * volume) if places[0] < 0 and wc == volume else (channels, volume)
        for c in range(runs):
            for t in range(0, count, lanes):
                place = min(t, len(places) - 1)
                to = c * volume + t if places[0] < 0 else c * volume
                put(w, at + c * wc + t, wk, count - t, places, place, packed, to * pitch)

    def rolls_of_filters(first, last, workers, scratch, x, w, y, bias, code, broken, geometry, blocks, taps, zeros):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_c Σ_r Σ_s w[k,c,r,s] · x[n,c,z,p·stride + r·dilation − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is a band of rows of some filters' planes, a strip of it after the other; a row of x stays in registers for them all.
        bands, Z, K, filters, C, H, W, P, Q = (geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6], geometry[7],
                                               geometry[8])  # fmt: skip
        base, rows, earliest, latest, volume, wk, wc = (geometry[9], geometry[10], geometry[11], geometry[12], geometry[13], geometry[14],
                                                        geometry[15])  # fmt: skip
        least, units = zero if code == 1 else lowest, K // together
        for worker in prange(workers):
            packed, before_k, found = scratch[worker], -1, 0
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                unit, top = tile // bands, tile % bands * rows
                image, k, z = unit // (Z * units), unit // Z % units * together, unit % Z
                group = k // filters
                if k != before_k:
                    pack_all(w, group * filters * C * volume + (k - group * filters) * wk, wk, wc, C, volume, taps, packed)
                    before_k = k
                count = min(rows, P - top)
                at_x, at_y = ((image * (K // filters) + group) * C * Z + z) * H * W, ((image * K + k) * Z + z) * P * Q + top * Q
                low, high = top // up - before, (top + count + up - 1) // up
                begin, end = max(low, earliest), min(high, latest)
                for block in range(len(blocks)):
                    found |= compute(x, at_x, W, H, base + begin * down, end - begin, high - end, packed, 0, C,
                                     blocks, block * blocks.shape[1], zeros, 0, y, at_y, Q, begin * up - top, count, bias, k, least,
                                     Z * H * W, 0, Z * P * Q, 1)  # fmt: skip
                for f in range(together if code > 1 else 0):
                    activate(y, at_y + f * Z * P * Q, count * Q, code)
            if found:
                broken[0] = 1

    return Kernel(rolls_of_filters, _name(isa, dtype, shape))
