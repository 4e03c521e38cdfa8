"""What `gemm` copies before it multiplies: the input with its padding around it, and the other operand in blocks of rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, unsigned
from numbaconv.cpu import _parallel
from numbaconv.problem import ConvProblem

# Seconds for an element of float32 on one core: benchmarks/calibrate.py, 2026-11 (AVX-512).
PACK_SECONDS, PAD_SECONDS = 3.8e-10, 2.5e-10
Array = np.ndarray[Any, Any]


class Packed(NamedTuple):
    """Weights (for wgrad: dy) as the micro-kernel reads them: (groups, blocks of ROWS rows, steps, ROWS), zeros at the end."""

    rows: Array
    finite: bool


def pack(source: Array, groups: int, rows: int, steps: int, height: int, strides: tuple[int, ...]) -> Packed:
    """Pack rows × steps of each group; ``strides`` are those of group, row, and a step's outer and inner axis, as `_pack` says."""
    blocks = -(-rows // height)
    packed, zeros = np.empty((groups, blocks, steps, height), source.dtype), np.empty(groups * blocks, source.dtype)
    arguments = (source.reshape(-1), packed.reshape(-1), zeros, blocks, rows, steps, height, np.array(strides, np.int64))
    _parallel.run(_pack, groups * blocks, (0, source.dtype), arguments, packed.size * PACK_SECONDS)
    return Packed(packed, not zeros.any())


@Kernel
def _pack(first, last, workers, scratch, source, packed, zeros, blocks, rows, steps, height, strides):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is one block of ROWS rows, interleaved. A row's steps are an outer and an inner axis of the source.
    # zeros[tile] becomes the sum of 0·value, which is 0 unless a value is not finite.
    group_stride, row_stride, inner, outer_stride, inner_stride, reverse = strides
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            group, block = tile // blocks, tile % blocks
            zero = packed.dtype.type(0)
            for r in range(height):
                row, to = block * height + r, tile * steps * height + r
                if row >= rows:
                    for step in range(steps):
                        packed[unsigned(to + step * height)] = 0
                    continue
                for outer in range(steps // inner):
                    at = group * group_stride + row * row_stride + outer * outer_stride
                    if reverse:
                        at += (inner - 1) * inner_stride
                    step = -inner_stride if reverse else inner_stride
                    for i in range(inner):
                        value = source[unsigned(at + i * step)]
                        packed[unsigned(to + (outer * inner + i) * height)] = value
                        zero += value * 0
            zeros[tile] = zero


@Kernel
def _pad(first, last, workers, scratch, x, padded, geometry):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is one padded row (n, d, h) of all channels, so that a channels-last row is transposed within L1.
    # Element i of the input goes to i·u + lo; zeros are between and around.
    C, D, H, W, Dp, Hp, Wp = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6]
    ld, lh, lw, ud, uh, uw = geometry[7], geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
    sn, sc, sd, sh, sw = geometry[13], geometry[14], geometry[15], geometry[16], geometry[17]
    start, stop = max(0, -(lw // uw)), min(W, (Wp - lw + uw - 1) // uw)
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            h, rest = (tile % Hp - lh) // uh, tile // Hp
            d, n = (rest % Dp - ld) // ud, rest // Dp
            inside = 0 <= d < D and 0 <= h < H and d * ud + ld == rest % Dp and h * uh + lh == tile % Hp and start < stop
            for c in range(C):
                row = ((n * C + c) * Dp + rest % Dp) * Hp * Wp + tile % Hp * Wp
                at, to = n * sn + c * sc + d * sd + h * sh, row + lw
                if not inside or uw > 1:
                    for i in range(Wp):
                        padded[unsigned(row + i)] = 0
                if not inside:
                    continue
                if uw > 1 or sw > 1:
                    for i in range(start, stop):
                        padded[unsigned(to + i * uw)] = x[unsigned(at + i * sw)]
                else:
                    for i in range(start, stop):
                        padded[unsigned(to + i)] = x[unsigned(at + i)]
                if uw == 1:
                    for i in range(lw + start):
                        padded[unsigned(row + i)] = 0
                    for i in range(lw + stop, Wp):
                        padded[unsigned(row + i)] = 0


def reads_zeros(p: ConvProblem) -> bool:
    """Return whether zeros around or between the input's elements are part of any sum."""
    return p.input_dilation != (1, 1, 1) or any(low > 0 for low in p.low) or any(high > 0 for high in p.high)


def needs_padding(p: ConvProblem) -> bool:
    """Return whether `gemm` cannot gather from the input itself: it lacks the zeros, or its channels are last."""
    return p.channels_last or p.input_dilation != (1, 1, 1) or any(p.low) or any(high > 0 for high in p.high)


def padded_axes(p: ConvProblem) -> tuple[int, int, int]:
    """Return the sizes of the input with what is read around it; the part behind the last tap is left out."""
    if not needs_padding(p):
        return p.input
    d, h, w = ((o - 1) * s + (r - 1) * d + 1 for o, s, r, d in zip(p.output, p.stride, p.filter, p.dilation, strict=True))
    return d, h, w


def padded_size(p: ConvProblem) -> int:
    """Elements of the padded input."""
    return p.batch * p.in_channels * math.prod(padded_axes(p))


def with_padding(p: ConvProblem, x: Array) -> Array:
    """Return x as (N, C, D, H, W) with the zeros of its padding around it and of its dilation between its elements."""
    axes = padded_axes(p)
    padded = np.empty((p.batch, p.in_channels, *axes), x.dtype)
    geometry = np.array((p.in_channels, *p.input, *axes, *p.low, *p.input_dilation, *p.strides("x")), np.int64)
    _parallel.run(_pad, p.batch * axes[0] * axes[1], (0, x.dtype), (x.reshape(-1), padded.reshape(-1), geometry), padded.size * PAD_SECONDS)
    return padded
