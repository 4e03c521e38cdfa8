"""Implicit GEMM: a dense convolution as a matrix product that is never laid out (fprop, float32 and float64).

Output pixels are the columns, output channels the rows and (c, t, r, s) the contraction. On an input with its padding around
it, the address of an element is offset[pixel] + offset[c,t,r,s], whatever the stride and dilation; so a block of columns is
gathered straight into a panel that stays in the cache, as S. Chetlur et al. (cuDNN, arXiv:1410.0759) do it on a GPU.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _parallel, _simd
from numbaconv.cpu._sum import carry, levels, total
from numbaconv.cpu.bias import CODES, store_row
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

CHUNK = 256  # contraction steps of a panel: 256 × 48 floats stay in L2, and rounding within 8 eps (tests/test_numerics.py)
K_BLOCK = 128  # output channels that share a gathered panel

# Multiply-adds per second and core by itemsize; seconds per gathered element and per byte padded. benchmarks/calibrate.py, 2026-11.
RATE = {4: 75e9, 8: 36e9}
GATHER_SECONDS, SCATTERED_SECONDS, PAD_SECONDS, CALL_SECONDS = 0.12e-9, 0.5e-9, 0.25e-9, 12e-6
Array = np.ndarray[Any, Any]


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    if op != "fprop":
        raise Unsupported(f"computes fprop only, not {op}")
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    if problem.input_dilation != (1, 1, 1) or problem.flipped:
        raise Unsupported("needs an input that is not dilated and taps that are not flipped")
    pixels, filters, steps = problem.gemm_shape(op)
    if steps == 0:
        raise Unsupported("needs at least one input channel")
    isa = _simd.host()
    lanes = isa.lanes(dtype)
    padded = -(-pixels // lanes) * lanes
    macs = padded * -(-filters // isa.rows) * isa.rows * steps
    near = problem.stride[2] == 1 and problem.output[2] * 4 >= lanes
    gathered = padded * steps * -(-filters // K_BLOCK) * (GATHER_SECONDS if near else SCATTERED_SECONDS)
    around = _padded_size(problem) * problem.batch * problem.in_channels * PAD_SECONDS if _needs_padding(problem) else 0.0
    per_group = macs / RATE[dtype.itemsize] + gathered * dtype.itemsize / 4
    return CALL_SECONDS + problem.groups * per_group + around


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: a padded copy of x, the packed filters, and a panel with its sums per thread."""
    isa = _simd.host()
    _, filters, steps = problem.gemm_shape(op)
    copy = _padded_size(problem) * problem.batch * problem.in_channels if _needs_padding(problem) else 0
    packed = problem.groups * -(-filters // isa.rows) * isa.rows * steps
    return (copy + packed + _scratch(problem, isa, dtype) * _parallel.get_num_threads()) * dtype.itemsize


def prepare(problem: ConvProblem, op: Op, w: Array) -> Array:
    """Pack filters as the micro-kernel reads them: (groups, blocks of ROWS filters, contraction, ROWS), zeros at the end."""
    rows = _simd.host().rows
    _, filters, steps = problem.gemm_shape(op)
    blocks = -(-filters // rows)
    packed = np.empty((problem.groups, blocks, steps, rows), w.dtype)
    arguments = (w.reshape(-1), packed.reshape(-1), blocks, filters, steps, rows)
    _parallel.run(_pack_filters, problem.groups * blocks, (0, w.dtype), arguments, packed.size * 1e-9)
    return packed


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    isa = _simd.host()
    packed = prepare(problem, op, b) if options.packed is None else options.packed
    geometry, offsets, seconds = _derived(problem, isa, out.dtype)
    x = _with_padding(problem, a) if _needs_padding(problem) else a
    bias = np.empty(0, out.dtype) if options.bias is None else options.bias
    arguments = (x.reshape(-1), packed.reshape(-1), out.reshape(-1), bias, CODES[options.activation], geometry, offsets)
    scratch = (_scratch(problem, isa, out.dtype), out.dtype)
    _parallel.run(_kernel(isa, out.dtype), int(geometry[0]), scratch, arguments, seconds)


@Kernel
def _pack_filters(first, last, workers, scratch, w, packed, blocks, filters, steps, rows):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is one block of ROWS filters, interleaved so that a step of the contraction is ROWS neighbours.
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            group, block = tile // blocks, tile % blocks
            for r in range(rows):
                k = block * rows + r
                at = (group * filters + k) * steps
                for step in range(steps):
                    packed[unsigned((tile * steps + step) * rows + r)] = w[unsigned(at + step)] if k < filters else 0


@Kernel
def _pad(first, last, workers, scratch, x, padded, geometry):  # type: ignore[no-untyped-def]
    # THE SCHEDULE: a tile is one padded row (n, d, h) of all channels, so that a channels-last row is transposed within L1.
    C, D, H, W, Dp, Hp, Wp, ld, lh, lw = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6], geometry[7], geometry[8], geometry[9]  # fmt: skip
    sn, sc, sd, sh, sw = geometry[10], geometry[11], geometry[12], geometry[13], geometry[14]
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            h, rest = tile % Hp, tile // Hp
            d, n = rest % Dp, rest // Dp
            inside = ld <= d < ld + D and lh <= h < lh + H
            start, stop = (max(0, lw), max(0, min(Wp, lw + W))) if inside else (Wp, Wp)
            for c in range(C):
                row = (((n * C + c) * Dp + d) * Hp + h) * Wp
                at = n * sn + c * sc + (d - ld) * sd + (h - lh) * sh - lw * sw
                for i in range(min(start, Wp)):
                    padded[unsigned(row + i)] = 0
                if sw == 1:
                    for i in range(start, stop):
                        padded[unsigned(row + i)] = x[unsigned(at + i)]
                else:
                    for i in range(start, stop):
                        padded[unsigned(row + i)] = x[unsigned(at + i * sw)]
                for i in range(max(start, stop), Wp):
                    padded[unsigned(row + i)] = 0


@functools.cache
def _kernel(isa: _simd.Isa, dtype: np.dtype[Any]) -> Kernel:
    """Make the product kernel of an instruction set: its tile shape is part of the code."""
    multiply, lanes, rows = _simd.multiply_tile(isa, dtype), isa.lanes(dtype), isa.rows
    indices = _indices(isa, dtype)

    @inline
    def gather(panel, x, at, places, runs, offsets, step, count):  # type: ignore[no-untyped-def]
        # places holds the address of each lane's pixel, runs (first lane, lanes) of neighbouring addresses.
        if runs[0] == 1:
            for k in range(count):
                source = places[0] + offsets[step + k]
                for lane in range(lanes):
                    panel[unsigned(at + k * lanes + lane)] = x[unsigned(source + lane)]
        elif runs[0] <= lanes // 4:
            for k in range(count):
                for run in range(runs[0]):
                    lane = runs[1 + 2 * run]
                    source, to = places[lane] + offsets[step + k], at + k * lanes + lane
                    for i in range(runs[2 + 2 * run]):
                        panel[unsigned(to + i)] = x[unsigned(source + i)]
        else:
            for k in range(count):
                for lane in range(lanes):
                    panel[unsigned(at + k * lanes + lane)] = x[unsigned(places[lane] + offsets[step + k])]

    def product(first, last, workers, scratch, x, packed, y, bias, code, geometry, offsets):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[k, pixel] = Σ_step packed[k, step] · x[place[pixel] + offsets[step]], step = (c, t, r, s).
        # THE SCHEDULE: a tile is L output pixels × K_BLOCK channels. CHUNK steps at a time, the L pixels are gathered into
        # a panel (L2), and each block of ROWS channels multiplies it in registers; the chunks' sums are added pairwise.
        blocks, k_blocks, filters, steps, depth = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        pixels, P, Q, V, yn, yk, yv = geometry[6], geometry[7], geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
        xn, xz, xp, xq, xg = geometry[13], geometry[14], geometry[15], geometry[16], geometry[17]
        size = K_BLOCK * lanes
        for worker in prange(workers):
            panel, sums = scratch[worker][indices:], scratch[worker][indices + CHUNK * lanes :]
            places, runs = scratch[worker][:indices].view(np.int64)[:lanes], scratch[worker][:indices].view(np.int64)[lanes:]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                k_block, rest = tile % k_blocks, tile // k_blocks
                block, group = rest % blocks, rest // blocks
                pixel, k0 = block * lanes, k_block * K_BLOCK
                valid, channels = min(lanes, pixels - pixel), min(K_BLOCK, filters - k0)
                runs[0] = 0
                for lane in range(lanes):
                    m = pixel + min(lane, valid - 1)
                    n, v = m // V, m % V
                    places[lane] = group * xg + n * xn + v // Q // P * xz + v // Q % P * xp + v % Q * xq
                    if lane == 0 or places[lane] != places[lane - 1] + 1:
                        runs[1 + 2 * runs[0]], runs[2 + 2 * runs[0]] = lane, 0
                        runs[0] += 1
                    runs[2 * runs[0]] += 1
                filled = (channels + rows - 1) // rows
                for chunk in range((steps + CHUNK - 1) // CHUNK):
                    step = chunk * CHUNK
                    count = min(CHUNK, steps - step)
                    gather(panel, x, 0, places, runs, offsets, step, count)
                    for b in range(filled):
                        at = ((group * depth + k0 // rows + b) * steps + step) * rows
                        multiply(panel, 0, packed, at, count, sums, b * rows * lanes)
                    if step + count < steps:
                        carry(sums, filled * rows * lanes, size, chunk)
                total(sums, filled * rows * lanes, size, (steps - 1) // CHUNK)
                for k in range(channels):
                    lane, channel = 0, group * filters + k0 + k
                    while lane < valid:
                        n, v = (pixel + lane) // V, (pixel + lane) % V
                        length = min(valid - lane, V - v)
                        store_row(y, n * yn + channel * yk + v * yv, yv, length, sums, k * lanes + lane, bias, channel, code)
                        lane += length

    return Kernel(product, f"-{isa.name}-{dtype.name}")


def _scratch(problem: ConvProblem, isa: _simd.Isa, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: the panel and the levels of the pairwise sum."""
    _, _, steps = problem.gemm_shape("fprop")
    return _indices(isa, dtype) + isa.lanes(dtype) * (CHUNK + K_BLOCK * levels(steps, CHUNK))


def _indices(isa: _simd.Isa, dtype: np.dtype[Any]) -> int:
    """Elements of the scratch that hold, as int64, the lanes' places and their runs; a multiple of a cache line."""
    return -(-(3 * isa.lanes(dtype) + 1) // 8) * 64 // dtype.itemsize


def _needs_padding(problem: ConvProblem) -> bool:
    return problem.channels_last or any(problem.low) or any(high > 0 for high in problem.high)


def _padded_axes(problem: ConvProblem) -> tuple[int, int, int]:
    """Return the sizes of the input with what is read around it; the part behind the last tap is left out."""
    if not _needs_padding(problem):
        return problem.input
    d, h, w = (
        (o - 1) * s + (r - 1) * dil + 1
        for o, s, r, dil in zip(problem.output, problem.stride, problem.filter, problem.dilation, strict=True)
    )
    return d, h, w


def _padded_size(problem: ConvProblem) -> int:
    return math.prod(_padded_axes(problem))


def _with_padding(problem: ConvProblem, x: Array) -> Array:
    """Return x as (N, C, D, H, W) with its padding around it."""
    axes = _padded_axes(problem)
    padded = np.empty((problem.batch, problem.in_channels, *axes), x.dtype)
    strides = problem.strides("x")
    geometry = np.array((problem.in_channels, *problem.input, *axes, *problem.low, *strides), np.int64)
    seconds = padded.size * PAD_SECONDS
    _parallel.run(_pad, problem.batch * axes[0] * axes[1], (0, x.dtype), (x.reshape(-1), padded.reshape(-1), geometry), seconds)
    return padded


def _derived(problem: ConvProblem, isa: _simd.Isa, dtype: np.dtype[Any]) -> tuple[Array, Array, float]:
    """Return the geometry as the kernel unpacks it, the offset of every (c, t, r, s) and the cost; worked out once per problem."""
    key = ("gemm", isa.name, dtype)
    if key not in problem.derived:
        problem.derived[key] = (*_derive(problem, isa, dtype), cost(problem, "fprop", dtype))
    return problem.derived[key]


def _derive(problem: ConvProblem, isa: _simd.Isa, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    pixels, filters, steps = problem.gemm_shape("fprop")
    lanes = isa.lanes(dtype)
    _, H, W = axes = _padded_axes(problem)
    plane, volume = H * W, math.prod(problem.output)
    per_group = problem.in_channels // problem.groups
    blocks, k_blocks = -(-pixels // lanes), -(-filters // K_BLOCK)
    channels = problem.out_channels
    out = (channels * volume, 1, channels) if problem.channels_last else (channels * volume, volume, 1)
    sz, sp, sq = problem.stride
    values = (
        problem.groups * blocks * k_blocks, blocks, k_blocks, filters, steps, -(-filters // isa.rows), pixels,
        problem.output[1], problem.output[2], volume, *out,
        problem.in_channels * math.prod(axes), sz * plane, sp * W, sq, per_group * math.prod(axes),
    )  # fmt: skip
    c, t, r, s = np.ix_(*(np.arange(n) for n in (per_group, *problem.filter)))
    dt, dr, ds = problem.dilation
    offsets = c * math.prod(axes) + t * dt * plane + r * dr * W + s * ds
    return np.array(values, np.int64), np.ascontiguousarray(offsets, np.int64).reshape(-1)
