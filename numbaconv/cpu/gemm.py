"""Implicit GEMM: a dense convolution as a matrix product that is never laid out (float32 and float64).

Rows times columns, summed over steps (per group):

    op      rows        columns         steps           gathered from
    fprop   k           pixels of y     (c, t, r, s)    x
    dgrad   c           pixels of x     (k, t, r, s)    dy      the fprop of the transposed problem
    wgrad   k           (c, t, r, s)    pixels of y     x

With zeros around it for the padding (and between its elements for a transposed stride), the address of an input element is
place[column] + offset[step], whatever the stride and dilation; so a block of columns is gathered straight into a panel that
stays in the cache, as cuDNN does it on a GPU (S. Chetlur et al., arXiv:1410.0759). The other operand is packed so that a step
is ROWS neighbours.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _parallel, _simd, direct
from numbaconv.cpu._packing import PACK_SECONDS, PAD_SECONDS, Packed, needs_padding, pack, padded_axes, padded_size, reads_zeros, with_padding
from numbaconv.cpu._sum import carry, levels, total
from numbaconv.cpu.bias import CODES, store_row
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

CHUNK = 256  # steps of a panel: 256 × 48 floats stay in L2, and rounding within 8 eps (tests/test_numerics.py)
ROW_BLOCK = 128  # rows that share a gathered panel
MOST_KEPT = 1 << 16  # offsets kept with a problem; longer tables (wgrad of large images) cost little beside their sums

# Seconds for one of each that `work` counts, on one core: benchmarks/calibrate.py, 2026-11 (AVX-512).
SECONDS = {
    "call": 9.5e-06, "pad": PAD_SECONDS, "pack": PACK_SECONDS, "tile": 1e-07, "run": 1.7e-09, "gather": 7.4e-11, "scatter": 1.8e-10,
    "fma": 9.1e-12, "store": 1.3e-08,
}  # fmt: skip
Array = np.ndarray[Any, Any]


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    p = _forward(problem, op)
    if op == "wgrad" and p.flipped:
        raise Unsupported("needs taps that are not flipped for wgrad")
    columns, rows, steps = _product_shape(p, op)
    if steps == 0:
        raise Unsupported("needs a sum of at least one term")
    isa = _simd.host()
    lanes, size = isa.lanes(dtype), dtype.itemsize / 4
    blocks, high = p.groups * -(-columns // lanes), -(-rows // isa.rows) * isa.rows
    panels = blocks * -(-rows // ROW_BLOCK)
    row = p.filter[2] if op == "wgrad" else p.output[2]
    step = p.dilation[2] if op == "wgrad" else p.stride[2]
    runs = -(-lanes // row) if step == 1 else lanes
    near = runs <= lanes // 4
    return {
        "call": 1,
        "pad": padded_size(p) * size if needs_padding(p) else 0,
        "pack": p.groups * high * steps * size,
        "tile": panels,
        "run": panels * steps * runs if near else 0,
        "gather" if near else "scatter": panels * steps * lanes * size,
        "fma": blocks * lanes * high * steps * size,
        "store": blocks * rows,
    }


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    return sum(SECONDS[name] * count for name, count in work(problem, op, dtype).items())


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: a padded copy of the input, the packed rows, the steps' offsets, and a panel with its sums per thread."""
    p, isa = _forward(problem, op), _simd.host()
    _, rows, steps = _product_shape(p, op)
    copy = padded_size(p) if needs_padding(p) else 0
    packed = p.groups * -(-rows // isa.rows) * isa.rows * steps
    return (copy + packed + _scratch(steps, isa, dtype) * _parallel.get_num_threads()) * dtype.itemsize + steps * 8


def prepare(problem: ConvProblem, op: Op, w: Array) -> Packed:
    """Pack weights (for wgrad: dy), and note whether all of them are finite."""
    isa, p = _simd.host(), _forward(problem, op)
    _, rows, steps = _product_shape(p, op)
    channels, taps, volume = p.in_channels // p.groups, math.prod(p.filter), math.prod(p.output)
    if op == "fprop":
        strides = (rows * channels * taps, channels * taps, taps, taps, 1, int(p.flipped))
    elif op == "dgrad":  # rows are the weights' second axis
        strides = (rows * channels * taps, taps, taps, rows * taps, 1, int(p.flipped))
    else:
        n, k, _, _, v = p.strides("y")
        strides = (rows * k, k, volume, n, v, 0)
    return pack(w, p.groups, rows, steps, isa.rows, strides)


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    isa, p = _simd.host(), _forward(problem, op)
    x, other = (b, a) if op == "wgrad" else (a, b)
    packed: Packed = prepare(problem, op, other) if options.packed is None else options.packed
    if not packed.finite and reads_zeros(p):
        # 0·∞ in the padding would be NaN: only the sum that leaves the padding out is right.
        return direct.run(problem, op, a, b, out, options)
    geometry, offsets, steps, seconds = _derived(problem, op, isa, out.dtype)
    x = with_padding(p, x) if needs_padding(p) else x
    bias = np.empty(0, out.dtype) if options.bias is None else options.bias
    arguments = (x.reshape(-1), packed.rows.reshape(-1), out.reshape(-1), bias, CODES[options.activation], geometry, offsets)
    _parallel.run(_kernel(isa, out.dtype), int(geometry[0]), (_scratch(steps, isa, out.dtype), out.dtype), arguments, seconds)


@inline
def _locate(places, runs, lanes, column, valid, P, Q, V, start, xn, xz, xp, xq):  # type: ignore[no-untyped-def]
    """Write each lane's place, and the runs of lanes whose places are neighbours; lanes past the last repeat it."""
    n, v = column // V, column % V
    z, p, q = v // Q // P, v // Q % P, v % Q
    count = 0
    for lane in range(valid):
        places[lane] = start + n * xn + z * xz + p * xp + q * xq
        if lane > 0 and places[lane] == places[lane - 1] + 1:
            runs[2 * count] += 1
        else:
            runs[1 + 2 * count], runs[2 + 2 * count] = lane, 1
            count += 1
        q += 1
        if q == Q:
            p, q = p + 1, 0
            if p == P:
                z, p = z + 1, 0
                if z * P * Q == V:
                    n, z = n + 1, 0
    for lane in range(valid, lanes):
        places[lane] = places[valid - 1]
        runs[1 + 2 * count], runs[2 + 2 * count] = lane, 1
        count += 1
    runs[0] = count


@functools.cache
def _kernel(isa: _simd.Isa, dtype: np.dtype[Any]) -> Kernel:
    """Make the product kernel of an instruction set: its tile shape is part of the code."""
    multiply, lanes, height = _simd.multiply_tile(isa, dtype), isa.lanes(dtype), isa.rows
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
        # THE ALGORITHM: y[row, column] = Σ_step packed[row, step] · x[place[column] + offsets[step]].
        # THE SCHEDULE: a tile is L columns × ROW_BLOCK rows. CHUNK steps at a time, the L columns are gathered into a panel
        # (L2), and each block of ROWS rows multiplies it in registers; the chunks' sums are added pairwise. A column is
        # (n, z, p, q), q fastest, of sizes (·, V/P/Q, P, Q): a pixel, or for wgrad a weight (c, t, r, s).
        blocks, row_blocks, rows, steps, depth = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        columns, P, Q, V, yn, yk, yv = geometry[6], geometry[7], geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
        xn, xz, xp, xq, xg = geometry[13], geometry[14], geometry[15], geometry[16], geometry[17]
        size = ROW_BLOCK * lanes
        for worker in prange(workers):
            panel, sums = scratch[worker][indices:], scratch[worker][indices + CHUNK * lanes :]
            places, runs = scratch[worker][:indices].view(np.int64)[:lanes], scratch[worker][:indices].view(np.int64)[lanes:]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                row0, rest = tile % row_blocks * ROW_BLOCK, tile // row_blocks
                column, group = rest % blocks * lanes, rest // blocks
                valid, high = min(lanes, columns - column), min(ROW_BLOCK, rows - row0)
                _locate(places, runs, lanes, column, valid, P, Q, V, group * xg, xn, xz, xp, xq)
                filled = (high + height - 1) // height
                for chunk in range((steps + CHUNK - 1) // CHUNK):
                    step = chunk * CHUNK
                    count = min(CHUNK, steps - step)
                    gather(panel, x, 0, places, runs, offsets, step, count)
                    for b in range(filled):
                        at = ((group * depth + row0 // height + b) * steps + step) * height
                        multiply(panel, 0, packed, at, count, sums, b * height * lanes)
                    if step + count < steps:
                        carry(sums, filled * height * lanes, size, chunk)
                total(sums, filled * height * lanes, size, (steps - 1) // CHUNK)
                lane, n, v = 0, column // V, column % V
                while lane < valid:
                    length = min(valid - lane, V - v)
                    for r in range(high):
                        row = group * rows + row0 + r
                        store_row(y, n * yn + row * yk + v * yv, yv, length, sums, r * lanes + lane, bias, row, code)
                    lane, n, v = lane + length, n + 1, 0

    return Kernel(product, f"-{isa.name}-{dtype.name}")


def _forward(problem: ConvProblem, op: Op) -> ConvProblem:
    """Return the problem whose input is gathered: dgrad is the transposed problem's fprop."""
    if op != "dgrad":
        return problem
    if "transposed" not in problem.derived:
        problem.derived["transposed"] = problem.transpose()
    return problem.derived["transposed"]


def _product_shape(p: ConvProblem, op: Op) -> tuple[int, int, int]:
    """Return (columns, rows, steps) per group."""
    pixels, rows, steps = p.gemm_shape("fprop")
    return (steps, rows, pixels) if op == "wgrad" else (pixels, rows, steps)


def _scratch(steps: int, isa: _simd.Isa, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: the lanes' places, the panel and the levels of the pairwise sum."""
    return _indices(isa, dtype) + isa.lanes(dtype) * (CHUNK + ROW_BLOCK * levels(steps, CHUNK))


def _indices(isa: _simd.Isa, dtype: np.dtype[Any]) -> int:
    """Elements of the scratch that hold, as int64, the lanes' places and their runs; a multiple of a cache line."""
    return -(-(3 * isa.lanes(dtype) + 1) // 8) * 64 // dtype.itemsize


def _derived(problem: ConvProblem, op: Op, isa: _simd.Isa, dtype: np.dtype[Any]) -> tuple[Array, Array, int, float]:
    """Return the geometry as the kernel unpacks it, each step's offset, the steps and the cost; worked out once per problem."""
    key = ("gemm", op, isa.name, dtype)
    if key in problem.derived:
        return problem.derived[key]
    derived = (*_derive(_forward(problem, op), op, isa, dtype), cost(problem, op, dtype))
    if len(derived[1]) <= MOST_KEPT:
        problem.derived[key] = derived
    return derived


def _derive(p: ConvProblem, op: Op, isa: _simd.Isa, dtype: np.dtype[Any]) -> tuple[Array, Array, int]:
    columns, rows, steps = _product_shape(p, op)
    _, H, W = axes = padded_axes(p)
    plane, size, volume, channels = H * W, math.prod(axes), math.prod(p.output), p.in_channels // p.groups
    # Strides of the gathered input along a pixel's axes (n, z, p, q) and along a weight's (c, t, r, s).
    pixel = (p.in_channels * size, p.stride[0] * plane, p.stride[1] * W, p.stride[2])
    weight = (size, p.dilation[0] * plane, p.dilation[1] * W, p.dilation[2])
    if op == "wgrad":
        of_column, of_step, step_axes, column_axes = weight, pixel, (p.batch, *p.output), p.filter
        out = (math.prod(p.filter), columns, 1)
    else:
        of_column, of_step, step_axes, column_axes = pixel, weight, (channels, *p.filter), p.output
        out = (p.out_channels * volume, 1, p.out_channels) if p.channels_last else (p.out_channels * volume, volume, 1)
    blocks, row_blocks = -(-columns // isa.lanes(dtype)), -(-rows // ROW_BLOCK)
    values = (
        p.groups * blocks * row_blocks, blocks, row_blocks, rows, steps, -(-rows // isa.rows), columns,
        column_axes[1], column_axes[2], math.prod(column_axes), *out, *of_column, channels * size,
    )  # fmt: skip
    offsets = sum(i * stride for i, stride in zip(np.ix_(*map(np.arange, step_axes)), of_step, strict=True))
    return np.array(values, np.int64), np.ascontiguousarray(offsets, np.int64).reshape(-1), steps
