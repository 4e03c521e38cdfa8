"""The quick way of `stencil`: outputs in slabs of 7 rows × two vectors that stay in registers over all taps and channels.

For fprop and dgrad of planes (channels first) with filters of up to 7 rows and strides of 1 or 2; the phases of a strided dgrad are
convolutions with some of the taps, whose results are woven together. Nothing is copied: the input is
read where it lies, through masks that put zeros where its padding would be, and outputs are stored as they leave the registers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _emit, _parallel
from numbaconv.cpu._grid import Reads, reads
from numbaconv.cpu._simd_stencil import STENCIL_ROWS, prefetch, slab
from numbaconv.cpu.bias import CODES, activate
from numbaconv.problem import ConvProblem, Op, Options

MOST_TAPS = 256  # terms of an output's sum, which has one accumulator: rounding stays within 8 eps (tests/test_numerics.py)
soon, soon_written = prefetch(False), prefetch(True)
IN_CACHE = 1 << 20  # bytes that an L2 keeps from one call to the next; more is prefetched
MOST_PHASES = 4  # of an axis of a strided dgrad
STRIPS = 16  # slabs of a column in a tile
Array = np.ndarray[Any, Any]


class Phase(NamedTuple):
    """Some outputs, every so many, of a convolution whose input is dilated: a convolution with some of the taps."""

    problem: ConvProblem
    rows: Reads
    columns: Reads


def phases(p: ConvProblem) -> list[Phase]:
    """Return p, or the phases of its output, if all can be done in slabs; else nothing. Worked out once per problem."""
    if "phases" not in p.derived:
        p.derived["phases"] = _phases(p)
    return p.derived["phases"]


def _phases(p: ConvProblem) -> list[Phase]:
    (T, R, _), (_, dh, dw), (ud, uh, uw) = p.filter, p.dilation, p.input_dilation
    planes = T == 1 and p.stride[0] == ud == 1 and p.low[0] == 0 and p.output[0] == p.input[0] and not p.channels_last
    steps = max(p.stride) <= 2 and max(uh, uw) <= MOST_PHASES and (uh == 1 or p.stride[1] == dh == 1) and (uw == 1 or p.stride[2] == dw == 1)
    small = 0 < p.in_channels // p.groups * math.prod(p.filter) <= MOST_TAPS and 0 not in p.gemm_shape("fprop")
    if not (planes and steps and small and R <= STENCIL_ROWS and dh == 1 and p.output[1] > 1):
        return []
    return [Phase(_phase(p, rows, columns), rows, columns) for rows in reads(p, 1) for columns in reads(p, 2)]


def _phase(p: ConvProblem, rows: Reads, columns: Reads) -> ConvProblem:
    if p.input_dilation == (1, 1, 1):
        return p
    taps, lows = zip(*((len(r.taps), -r.taps[0][1] if r.taps else 0) for r in (rows, columns)), strict=True)
    output = (p.output[0], rows.outputs, columns.outputs)
    return replace(p, filter=(1, *taps), output=output, input_dilation=(1, 1, 1), low=(0, *lows), flipped=False, derived={})


def _vectors(p: ConvProblem, isa: _emit.Isa, dtype: np.dtype[Any]) -> int:
    """Vectors of a slab's row: one for narrow images, strided ones and CPUs of few registers."""
    return 1 if p.output[2] <= isa.width(dtype) or p.stride[2] > 1 or isa.rows < 8 else 2


def work(p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count the vectors that are loaded and multiplied, the slabs, and what is woven together."""
    isa, size = _emit.host(), dtype.itemsize / 4
    counts = {"call": 0.0, "slab": 0.0, "row": 0.0, "term": 0.0, "weave": 0.0}
    found = phases(p)
    for part, *_ in found:
        width = isa.width(dtype) * _vectors(part, isa, dtype)
        slabs = part.batch * part.out_channels * part.output[0] * -(-part.output[1] // STENCIL_ROWS) * -(-part.output[2] // width)
        taps, rows = part.in_channels // part.groups * part.filter[2], (STENCIL_ROWS - 1) * part.stride[1] + part.filter[1]
        counts["call"] += 1
        counts["slab"] += slabs
        counts["row"] += slabs * taps * rows * width * size * part.stride[2]
        counts["term"] += slabs * taps * part.filter[1] * STENCIL_ROWS * width * size
        counts["weave"] += math.prod(part.shape("y")) * size if len(found) > 1 else 0
    return counts


def workspace(p: ConvProblem, dtype: np.dtype[Any]) -> int:
    """Bytes allocated: a bias, and where there are several phases those of some rows."""
    found = phases(p)
    apart = sum(math.prod(part.shape("y")) + math.prod(part.shape("w")) for part, *_ in found[: p.input_dilation[2]]) if len(found) > 1 else 0
    return (p.out_channels + apart) * dtype.itemsize


def run(p: ConvProblem, op: Op, x: Array, w: Array, y: Array, options: Options, seconds: float) -> bool:
    """Overwrite all of y, and return whether a sum is not finite."""
    found, across = phases(p), p.input_dilation[2]
    if p.input_dilation == (1, 1, 1):
        return _run(p, op, x, w, y, options, seconds)
    broken, beside, planes = False, min(across, p.output[2]), p.batch * p.out_channels * p.output[0]
    for first in range(0, len(found), beside):  # phases of the same rows
        parts = []
        for part, rows, columns in found[first : first + beside]:
            taps = np.ix_([tap for tap, _ in rows.taps], [tap for tap, _ in columns.taps])
            some = np.ascontiguousarray(w.reshape(*w.shape[:2], *p.filter)[:, :, 0][:, :, taps[0], taps[1]])
            parts.append(np.empty(part.shape("y"), y.dtype))
            if some.size:
                broken |= _run(part, op, x, some, parts[-1], options, seconds / len(found))
            else:
                bias = np.empty(0, y.dtype) if options.bias is None else options.bias
                size, code = rows.outputs * columns.outputs, CODES[options.activation]
                arguments = (parts[-1].reshape(-1), bias, code, p.out_channels, p.output[0], size)
                _parallel.run(_fill, planes, (0, y.dtype), arguments, parts[-1].size * 1e-10)
        sizes = np.array((p.output[1], p.output[2], rows.outputs, rows.first, rows.every, across), np.int64)
        if across <= 2:
            woven = (parts[0].reshape(-1), parts[-1].reshape(-1), y.reshape(-1), sizes)
            _parallel.run(_weave, planes, (0, y.dtype), woven, y.size * 1e-10)
        else:
            for column, part_ in enumerate(parts):
                y[..., rows.first :: rows.every, column::across] = part_
    return broken


@Kernel
def _fill(first, last, workers, scratch, y, bias, code, channels, planes, size):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is a plane of outputs that no tap reaches: the activation of the bias.
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            for i in range(size):
                y[unsigned(tile * size + i)] = bias[tile // planes % channels] if bias.size else 0
            activate(y, tile * size, size, code)


@Kernel
def _weave(first, last, workers, scratch, even, odd, y, sizes):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is a plane. Its rows ``start``, start + every, … take their columns in turn from two arrays, or from one.
    P, Q, count, start, every, across = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]
    evens, odds = (Q + 1) // 2, Q // 2
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            for row in range(count):
                to = (tile * P + start + row * every) * Q
                if across == 1 or odds == 0:
                    at = (tile * count + row) * Q
                    for q in range(Q):
                        y[unsigned(to + q)] = even[unsigned(at + q)]
                    continue
                a, b = (tile * count + row) * evens, (tile * count + row) * odds
                for q in range(odds):
                    y[unsigned(to + 2 * q)] = even[unsigned(a + q)]
                    y[unsigned(to + 2 * q + 1)] = odd[unsigned(b + q)]
                if evens > odds:
                    y[unsigned(to + Q - 1)] = even[unsigned(a + odds)]


def _run(p: ConvProblem, op: Op, x: Array, w: Array, y: Array, options: Options, seconds: float) -> bool:
    isa, dtype = _emit.host(), y.dtype
    kernel = _kernel(isa, dtype, p.filter[1], p.stride[1], p.stride[2], _vectors(p, isa, dtype))
    filters, channels, taps = p.out_channels // p.groups, p.in_channels // p.groups, math.prod(p.filter)
    wk, wc = (taps, filters * taps) if op == "dgrad" else (channels * taps, taps)
    strips = -(-p.output[1] // (STENCIL_ROWS * STRIPS))
    tiles = p.batch * p.out_channels * p.output[0] * strips
    geometry = (
        strips, p.output[0], p.out_channels, filters, channels, *p.input[1:], *p.output[1:], *p.stride[1:], *p.low[1:], p.dilation[2], p.filter[2],
        p.in_channels, wk, wc, filters * channels * taps, taps - 1 if p.flipped else 0, -1 if p.flipped else 1,
        int((x.nbytes + y.nbytes) > IN_CACHE),
    )  # fmt: skip
    bias = np.zeros(p.out_channels, dtype) if options.bias is None else options.bias
    flags = np.zeros(tiles, np.int8)
    arguments = (x.reshape(-1), w.reshape(-1), y.reshape(-1), bias, CODES[options.activation], flags, np.array(geometry, np.int64))
    _parallel.run(kernel, tiles, (0, dtype), arguments, seconds)
    return bool(flags.any())


@functools.cache
def _kernel(isa: _emit.Isa, dtype: np.dtype[Any], taps: int, down: int, across: int, vectors: int) -> Kernel:
    inner, outer = (slab(isa, dtype, taps, down, across, vectors, edge) for edge in (False, True))
    width, rows, per_line = isa.width(dtype) * vectors, STENCIL_ROWS, 64 // dtype.itemsize

    def slabs(first, last, workers, scratch, x, w, y, bias, code, flags, geometry):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_c Σ_r Σ_s w[k,c,r,s] · x[n,c,z,p·stride + r − low,q·stride + s·dilation − low].
        # THE SCHEDULE: a tile is a column of slabs of one plane, or all of it. A row of x is loaded once for each tap (c, s) of a
        # slab and multiplied into all the rows of outputs that it meets.
        strips, Z, K, per_k, per_c = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4]
        H, W, P, Q, sh, sw, lh, lw, dw, S = (
            geometry[5],
            geometry[6],
            geometry[7],
            geometry[8],
            geometry[9],
            geometry[10],
            geometry[11],
            geometry[12],
            geometry[13],
            geometry[14],
        )  # noqa: E501
        C, wk, wc, wg, start, step, far = geometry[15], geometry[16], geometry[17], geometry[18], geometry[19], geometry[20], geometry[21]
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                rest, strip = tile // strips, tile % strips
                rest, z = rest // Z, rest % Z
                n, k = rest // K, rest % K
                group = k // per_k
                at_x, at_y = ((n * C + group * per_c) * Z + z) * H * W, (rest * Z + z) * P * Q
                at_w, broken = group * wg + (k - group * per_k) * wk + start, 0
                for p in range(strip * STRIPS * rows, min(P, (strip + 1) * STRIPS * rows), rows):
                    h = p * sh - lh
                    for q in range(0, Q, width):
                        for j in range(rows * sh if far else 0):  # what the next slab below, or in the next plane, will read and write
                            for i in range(0, width * sw, per_line):
                                soon(x, at_x + (h + taps - sh + rows * sh + j) * W + q * sw + i)
                        for j in range(rows if far else 0):
                            for i in range(0, width, per_line):
                                soon_written(y, at_y + (p + rows + j) * Q + q + i)
                        if h >= 0 and h + (rows - 1) * sh + taps <= H:
                            broken |= inner(x, at_x + h * W, W, Z * H * W, h, H, q * sw - lw, W, dw, S, per_c, w, at_w, step, wc,
                                            y, at_y + p * Q + q, Q, P - p, Q - q, bias[k], code == 1)  # fmt: skip
                        else:
                            broken |= outer(x, at_x + h * W, W, Z * H * W, h, H, q * sw - lw, W, dw, S, per_c, w, at_w, step, wc,
                                            y, at_y + p * Q + q, Q, P - p, Q - q, bias[k], code == 1)  # fmt: skip
                    if code > 1:
                        activate(y, at_y + p * Q, (min(P, p + rows) - p) * Q, code)
                flags[tile] = broken

    return Kernel(slabs, f"-{isa.name}-{dtype.name}-{taps}-{down}-{across}-{vectors}")
