"""The quick way of `stencil`: outputs in slabs of 7 rows × two vectors that stay in registers over all taps and channels.

For fprop and dgrad of planes (channels first) with filters of up to 7 rows and strides of 1 or 2. Nothing is copied: the input is
read where it lies, through masks that put zeros where its padding would be, and outputs are stored as they leave the registers.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _parallel, _simd
from numbaconv.cpu._simd_stencil import STENCIL_ROWS, prefetch, slab
from numbaconv.cpu.bias import CODES, activate
from numbaconv.problem import ConvProblem, Op, Options

MOST_TAPS = 256  # terms of an output's sum, which has one accumulator: rounding stays within 8 eps (tests/test_numerics.py)
soon, soon_written = prefetch(False), prefetch(True)
IN_CACHE = 1 << 20  # bytes that an L2 keeps from one call to the next; more is prefetched
STRIPS = 16  # slabs of a column in a tile
Array = np.ndarray[Any, Any]


def fits(p: ConvProblem) -> bool:
    """Return whether the fprop of p can be done in slabs."""
    (sd, sh, sw), (T, R, _), channels = p.stride, p.filter, p.in_channels // p.groups
    planes = T == 1 and sd == 1 and p.low[0] == 0 and p.output[0] == p.input[0]
    rows = R <= STENCIL_ROWS and p.dilation[1] == 1 and p.output[1] > 1
    small = 0 < channels * math.prod(p.filter) <= MOST_TAPS and 0 not in p.gemm_shape("fprop")
    return small and planes and rows and sh <= 2 and sw <= 2 and p.input_dilation == (1, 1, 1) and not p.channels_last


def _vectors(p: ConvProblem, isa: _simd.Isa, dtype: np.dtype[Any]) -> int:
    """Vectors of a slab's row: one for narrow images, strided ones and CPUs of few registers."""
    return 1 if p.output[2] <= isa.width(dtype) or p.stride[2] > 1 or isa.rows < 8 else 2


def work(p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count the vectors that are loaded and multiplied, and the slabs."""
    isa, size = _simd.host(), dtype.itemsize / 4
    width = isa.width(dtype) * _vectors(p, isa, dtype)
    slabs = p.batch * p.out_channels * p.output[0] * -(-p.output[1] // STENCIL_ROWS) * -(-p.output[2] // width)
    taps = p.in_channels // p.groups * p.filter[2]
    rows = (STENCIL_ROWS - 1) * p.stride[1] + p.filter[1]
    return {
        "call": 1,
        "slab": slabs,
        "row": slabs * taps * rows * width * size * p.stride[2],
        "term": slabs * taps * p.filter[1] * STENCIL_ROWS * width * size,
    }


def run(p: ConvProblem, op: Op, x: Array, w: Array, y: Array, options: Options, seconds: float) -> bool:
    """Overwrite all of y, and return whether a sum is not finite."""
    isa, dtype = _simd.host(), y.dtype
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
def _kernel(isa: _simd.Isa, dtype: np.dtype[Any], taps: int, down: int, across: int, vectors: int) -> Kernel:
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
                        for i in range(at_y + p * Q, at_y + min(P, p + rows) * Q):
                            y[unsigned(i)] = activate(y[unsigned(i)], code)
                flags[tile] = broken

    return Kernel(slabs, f"-{isa.name}-{dtype.name}-{taps}-{down}-{across}-{vectors}")
