"""The quick way of `stencil`: slabs of outputs that stay in registers over all taps and channels.

For fprop and dgrad of planes (channels first) with filters of up to 7 rows and strides of 1 or 2. Nothing is copied: the input is
read where it lies, through masks that put zeros where its padding would be, and outputs are stored as they leave the registers.
A vector holds several rows of a narrow plane. A strided dgrad is done in phases, convolutions with some of the taps; those of the
columns leave the registers together. Where to read and what to mask is the same for all planes: tables, made once per problem.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel
from numbaconv.cpu import _isa, _parallel
from numbaconv.cpu._grid import Reads, reads
from numbaconv.cpu._simd_slab import Slab, slab
from numbaconv.cpu._simd_stencil import prefetch
from numbaconv.cpu._sum import TERMS
from numbaconv.cpu.bias import activate
from numbaconv.problem import ConvProblem, Op

MOST_ROWS = 7  # of a filter: their factors stay in registers
MOST_SUMS = 1024  # of wgrad: vectors that stay in L2
SPLITS = 32  # pieces of wgrad's sum when there are too few groups to share
LONGEST = 1 << 14  # rows and columns of outputs: so many have entries in tables
MOST_PHASES = 4  # of the rows of a strided dgrad
L1_SETS, L1_WAYS = 4096, 8  # bytes after which lines share a set, and how many of a set stay: as of almost every CPU
AHEAD = 8 << 10  # bytes of a plane from which the next one is asked for: 1.2 times as fast at 112×112, not worth it at 28×28
FAR = 128 << 10  # bytes of a plane from which the next row of slabs is asked for instead: a 512² image that was not in the L2 took 211 µs, not 340
LARGEST = 16 << 20  # bytes of a plane of outputs that are asked for: 4096² float32 took 12 ms instead of 10.5, 2048² 2.2 instead of 2.6
TOGETHER = 8  # large planes that are read at a time: of more a core reads none ahead, 64 of 388² took 2.1 ms, not 4.6
STRIPS, LONG_STRIPS = 16, 64  # slabs of a column in a tile, at most; of large planes that are read some at a time
Array = np.ndarray[Any, Any]


class Pass(NamedTuple):
    """Some rows of the outputs, every so many: how they are cut into slabs, and what the kernel reads."""

    shape: Slab
    kernel: Kernel  # of fprop and dgrad
    geometry: Array
    bands: Array  # see `slab`: a row per slab of a column
    blocks: Array  # … and per slab of a row
    taps: Array  # offsets of the filter's taps, column after column
    tiles: int

    @property
    def scratch(self) -> int:
        """Elements a thread."""
        return 0

    @property
    def tables(self) -> tuple[Array, Array, Array, Array]:
        """What a kernel reads besides tensors."""
        return self.geometry, self.bands, self.blocks, self.taps


def passes(p: ConvProblem, op: Op, dtype: np.dtype[Any]) -> list[Pass]:
    """Return the passes in which p, of which ``op`` is asked, can be done, none if it cannot. Worked out once per problem."""
    key = ("slabs", op, _isa.host().name, dtype)
    if key not in p.derived:
        seen = _in_vectors(p, _isa.host().width(dtype))
        columns = reads(seen, 2) if _possible(seen, op) else []
        p.derived[key] = [_pass(seen, op, _isa.host(), dtype, rows, columns) for rows in reads(seen, 1)] if columns else []
    return p.derived[key]


def _in_vectors(p: ConvProblem, width: int) -> ConvProblem:
    """Return a problem of 1×1 filters with rows of a vector, or as near to it as the size of a plane allows: a slab is one piece of memory."""
    (T, H, W), one = p.input, (1, 1, 1)
    if p.output != p.input or not p.filter == p.stride == p.input_dilation == one or p.low != (0, 0, 0) or p.channels_last or not H * W:
        return p
    row = math.gcd(H * W, width)
    if row == H * W:  # there must be two rows
        row = math.gcd(H * W, max(1, width // 2))
    while H * W // row > LONGEST and H * W % (2 * row) == 0:
        row *= 2
    size = (T, H * W // row, row)
    return replace(p, input=size, output=size, derived={}) if 1 < size[1] <= LONGEST else p


def _possible(p: ConvProblem, op: Op) -> bool:
    (T, R, _), (_, dh, dw), (ud, uh, uw) = p.filter, p.dilation, p.input_dilation
    planes = T == 1 and p.stride[0] == ud == 1 and p.low[0] == 0 and p.output[0] == p.input[0] and not p.channels_last
    steps = max(p.stride) <= 2 and uh <= MOST_PHASES and uw <= 2 and (uh == 1 or p.stride[1] == dh == 1) and (uw == 1 or p.stride[2] == dw == 1)
    small = 0 < p.in_channels // p.groups * math.prod(p.filter) <= (MOST_SUMS if op == "wgrad" else TERMS) and 0 not in p.gemm_shape("fprop")
    return planes and steps and small and R <= MOST_ROWS and dh == 1 and 1 < p.output[1] <= LONGEST and p.output[2] <= LONGEST


def _shape(p: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any], rows: Reads, woven: bool) -> Slab:
    """Return the shape of slabs that wastes the least: outputs, factors and what is loaded must fit the registers."""
    width, (_, down, across), plain, registers = isa.width(dtype), p.stride, p.input_dilation == (1, 1, 1), isa.stencil_rows[0]
    fold, taps = 1, max(1, len(rows.taps))
    if across == down == 1 and plain and p.input[2] == p.output[2]:
        fold = max(1, min(width // p.input[2], rows.outputs))
    elif across == 2 and 2 * p.output[2] <= width:
        fold = 2
    pairs = across == 2 and p.dilation[2] == 1 and p.filter[2] > 1
    shared = p.out_channels > p.groups
    per_k = p.out_channels // p.groups if shared else p.groups
    channels = 2 if per_k % 2 == 0 and not (pairs and taps > 3) and registers > 7 else 1
    apart = L1_SETS // math.gcd(p.input[2] * dtype.itemsize, L1_SETS) * L1_WAYS - taps  # more rows of x would not stay in L1 together

    def fitting(beside: int) -> tuple[int, ...]:
        most = registers // (channels * beside * (1 + woven))
        return tuple(n for n in isa.stencil_rows if n <= most and (n - 1) * fold * down <= apart) or isa.stencil_rows[-1:]

    left = registers > 7 or fitting(1)[0] < registers  # registers that one vector beside another would use
    beside = 2 if channels == across == 1 and p.output[2] > width and left and not woven and op != "wgrad" else 1
    vectors = -(-rows.outputs // fold)
    high = min(fitting(beside), key=lambda n: -(-vectors // n) * (n + 2))
    large = p.input[1] * p.input[2] * dtype.itemsize >= FAR and p.in_channels // p.groups > TOGETHER
    adds = large and down == across == 1 and not woven and op != "wgrad"
    return Slab(high, channels, shared, beside, taps, down, across, fold, woven, pairs, not pairs or p.filter[2] % 2 == 1, adds)


def _pass(p: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any], rows: Reads, columns: list[Reads]) -> Pass:
    shape, (_, H, W), Q, S = _shape(p, op, isa, dtype, rows, len(columns) == 2), p.input, p.output[2], p.filter[2]
    width = isa.width(dtype)
    lanes = np.arange(width)

    def bits(chosen: Array) -> Array:
        """Return masks as integers, of their last axis."""
        return (chosen * (1 << lanes)).sum(-1)

    flat = 1 if shape.stacked else shape.fold  # rows of a vector that follow each other in x
    of_row, of_column = (lanes // W, lanes % W) if flat > 1 else (0 * lanes, lanes)
    per_band = shape.rows * shape.fold
    twice = op != "wgrad" and not shape.adds  # outputs may be stored
    first = _starts(rows.outputs, per_band, twice)  # row of outputs
    low = rows.taps[0][1] if rows.taps else H
    h = (first * shape.down + low)[:, None] + np.arange(shape.reads)
    there = bits((h[..., None] + of_row >= 0) & (h[..., None] + of_row < H) & (of_row < flat))
    high, wide = shape.stores
    o = first[:, None, None] + np.arange(shape.rows)[:, None] * shape.fold + np.arange(high)
    jump, start = (width // 2, lanes // (width // 2)) if shape.stacked else (0, 0 * lanes)  # a row of a stack begins at its half
    stored = (o[..., None] + of_row < rows.outputs) & (of_row < flat) & (start == np.arange(high)[:, None])
    across = width // shape.fold if shape.stacked else width * shape.beside  # outputs of a slab's row, of each phase
    spills = twice and not shape.stacked and len(columns) == rows.every == 1 and Q <= across == width and len(first) <= STRIPS
    if spills:  # lanes behind a row are those of rows that are stored later: only the last rows need a mask
        stored = np.where((o[..., None] * Q + width <= p.output[1] * Q), True, stored & (of_column < Q))
    stored = bits(stored)
    to = np.where(stored, (rows.first + o * rows.every) * Q - np.arange(high) * jump, 0)
    bands = [np.where(there, h * W, 0), there, to, stored, first[:, None]]

    q = _starts(columns[0].outputs, across, twice and len(columns) * columns[0].outputs == Q)
    y_first = q[:, None] * len(columns)
    place = of_column % (width // shape.fold) if shape.stacked else lanes
    stored = bits((y_first + np.arange(wide) * width)[..., None] + place < Q) if flat == 1 and not spills else np.full((1, 1), -1)
    blocks = [y_first, stored]
    taps = []
    found = [tap for part in columns for tap in part.taps or ((0, None),)]
    pairs = len(found) // 2 if shape.pairs else 0
    for at, (s, offset) in enumerate(found):
        taps += [r * S + s for r, _ in rows.taps] or [0]
        if at < 2 * pairs and at % 2:  # with the one before
            continue
        column = q * shape.across + (offset or 0)
        parts = (column[:, None] + np.arange(shape.parts) * width)[..., None] + of_column
        seen = bits((parts >= 0) & (parts < W)) * (offset is not None)
        blocks += [np.where(seen.any(-1), column, 0)[:, None], seen]
    even = pairs if shape.pairs else max(1, len(columns[0].taps))
    odd = len(found) - 2 * pairs if shape.pairs or not shape.woven else len(found) - even
    tables = [np.concatenate([part.reshape(len(table[0]), -1) for part in table], 1).astype(np.int64) for table in (bands, blocks)]
    filters, channels, volume = p.out_channels // p.groups, p.in_channels // p.groups, math.prod(p.filter)
    # About as many slabs in each, so that the last two, which may overlap, are in one; on two threads 5×5 of 512² 63 → 58 µs.
    strips = _parallel.evenly(-(-len(first) // (LONG_STRIPS if shape.adds else STRIPS)))
    wk, wc = (volume, filters * volume) if op == "dgrad" else (channels * volume, volume)
    geometry = (
        strips, p.output[0], p.out_channels // shape.channels, max(1, filters // shape.channels), channels, H * W, p.output[1] * Q, p.in_channels,
        wk, wc, filters * channels * volume, even, odd, rows.first, rows.every, rows.outputs, Q,
    )  # fmt: skip
    tiles = p.batch * p.out_channels // shape.channels * p.output[0] * strips
    return Pass(shape, _kernel(isa, dtype, shape), np.array(geometry, np.int64), tables[0], tables[1], np.array(taps, np.int64), tiles)


def _starts(outputs: int, each: int, twice: bool) -> Array:
    """Return where slabs start: the last one overlaps the one before, if outputs may be stored ``twice``, rather than be partly empty."""
    starts = np.arange(-(-outputs // each)) * each
    if twice and outputs >= each:
        starts[-1] = outputs - each
    return starts


def work(found: list[Pass], p: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count the passes, what is loaded and multiplied in them (elements of vectors), and what moves between memory and cache."""
    counts, width = dict.fromkeys(("pass", "row", "term", "sum", "move"), 0.0), _isa.host().vector_bytes / 4
    for part in found:
        shape, planes = part.shape, p.batch * p.output[0] * (p.out_channels // part.shape.channels)
        slabs, channels = planes * len(part.bands) * len(part.blocks), p.in_channels // p.groups
        columns = (part.blocks.shape[1] - 1 - shape.stores[1]) // (1 + shape.parts)
        counts["pass"] += 1
        counts["row"] += slabs * channels * columns * shape.reads * shape.parts * (1 if shape.shared else shape.channels) * width
        counts["term"] += slabs * channels * len(part.taps) * shape.rows * shape.channels * width
        if op == "wgrad":
            counts["sum"] += (slabs + 4 * pieces(part, p) * p.out_channels // shape.channels) * channels * len(part.taps) * shape.channels * width
    counts["move"] = (math.prod(p.shape("x")) + math.prod(p.shape("y"))) * dtype.itemsize / 4
    return counts


def pieces(part: Pass, p: ConvProblem) -> int:
    """Return into how many pieces wgrad's sum is cut: as many as keep SPLITS tiles busy, whoever computes them."""
    units, blocks = p.batch * p.output[0] * len(part.bands), p.out_channels // part.shape.channels
    return max(1, min(units, -(-SPLITS // blocks)))


@functools.cache
def _kernel(isa: _isa.Isa, dtype: np.dtype[Any], shape: Slab) -> Kernel:
    soon, soon_written, line = prefetch(False), prefetch(True), 64 // dtype.itemsize
    least_ahead, least_far, across = AHEAD // dtype.itemsize, FAR // dtype.itemsize, isa.width(dtype) * shape.beside
    most_asked, adds, together = LARGEST // dtype.itemsize, shape.adds, TOGETHER
    compute, rows, zero, lowest = slab(isa, dtype, shape), shape.rows * shape.fold, dtype.type(0), dtype.type(-np.inf)
    filters, shared = shape.channels, shape.shared

    def slabs(first, last, workers, scratch, x, w, y, bias, code, broken, geometry, bands, blocks, taps):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_c Σ_r Σ_s w[k,c,r,s] · x[n,c,z,p·stride + r − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is a column of slabs of some planes, or all of it. A row of x is loaded once for each tap (c, s), or pair
        # of taps, of a slab and multiplied into all the rows of outputs that it meets.
        strips, Z, K, per_k, per_c, HW, PQ, C = (geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6],
                                                 geometry[7])  # fmt: skip
        wk, wc, wg, even, odd, begin, every, P, Q = (geometry[8], geometry[9], geometry[10], geometry[11], geometry[12], geometry[13],
                                                     geometry[14], geometry[15], geometry[16])  # fmt: skip
        least, groups, wf = zero if code == 1 else lowest, 1 if shared else filters, wk if shared else wg
        # A slab's share of the next plane is asked for, or, of large planes, of the next row of slabs: what caches guess ends with a row of slabs.
        planes = per_c if shared else groups * per_c
        asks, far = max(HW, PQ) >= least_ahead, max(HW, PQ) >= least_far
        share = (HW // (len(bands) * len(blocks)) + line) // line * line
        next_x = share * len(blocks) * 3 if far else HW if Z > 1 else planes * HW
        next_y = rows * every * Q if far else PQ if Z > 1 else filters * PQ
        asked = planes if not adds and (far or (asks and not shared)) else 0
        for worker in prange(workers):
            start, stop = first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers
            plane, strip, found = start // strips, start % strips, 0
            image, k, z = plane // (Z * K), plane // Z % K, plane % Z
            group, filter = k // per_k * groups, k % per_k
            for _ in range(start, stop):
                at_x, at_y = ((image * C + group * per_c) * Z + z) * HW, ((image * K + k) * filters * Z + z) * PQ
                for c in range(0, per_c, together if adds else per_c):
                    count, floor = min(together, per_c - c) if adds else per_c, least if not adds or c + together >= per_c else lowest
                    for band in range(len(bands) * strip // strips, len(bands) * (strip + 1) // strips):
                        top = bands[band, bands.shape[1] - 1]
                        for block in range(len(blocks)):
                            for other in range(asked):
                                ahead = at_x + next_x + other * Z * HW + (band * len(blocks) + block) * share
                                for i in range(ahead, ahead + share, line):
                                    soon(x, i)
                            for i in range(top, min(P, top + rows) if asks and PQ <= most_asked and c == 0 else 0):
                                for f in range(filters):
                                    ahead = at_y + next_y + f * Z * PQ + (begin + i * every) * Q + blocks[block, 0]
                                    for j in range(0, across, line):
                                        soon_written(y, ahead + j)
                            found |= compute(x, at_x + c * Z * HW, per_c * Z * HW, Z * HW, count, bands, band * bands.shape[1], blocks,
                                             block * blocks.shape[1], taps, 0, even, odd, w, group * wg + filter * filters * wk + c * wc, wf, wc,
                                             y, at_y, Z * PQ, bias, k * filters, floor, c)  # fmt: skip
                        for p in range(top, min(P, top + rows) if code > 1 and c + count == per_c else 0):
                            for f in range(filters):
                                activate(y, at_y + f * Z * PQ + (begin + p * every) * Q, Q, code)
                strip += 1  # counted on rather than divided, which takes as long as a small plane
                if strip == strips:
                    strip, z = 0, z + 1
                    if z == Z:
                        z, k, filter = 0, k + 1, filter + 1
                        if filter == per_k:
                            filter, group = 0, group + groups
                            if k == K:
                                k, group, image = 0, 0, image + 1
            if found:
                broken[0] = 1

    return Kernel(slabs, f"-{isa.name}-{dtype.name}-{'-'.join(str(int(n)) for n in shape)}")
