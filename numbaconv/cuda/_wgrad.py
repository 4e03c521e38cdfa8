"""The kernel of wgrad: products of register tiles whose contraction runs over the pixels of y."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._geometry import LIMIT, NOWHERE, SLAB
from numbaconv.cuda._prims import divide, int32, load4, multiply_slab, tile, within
from numbaconv.cuda._product import RESIDENT_THREADS, begin
from numbaconv.cuda._store import put4
from numbaconv.problem import ConvProblem, Unsupported

Array = np.ndarray[Any, Any]
PAD = 4  # elements between the rows of shared memory, so that the eight pixels of a slab are stored to different banks


class Geometry(NamedTuple):
    """What the kernel takes by value."""

    groups: int
    rows: int  # output channels of a group
    columns: int  # its input channels × taps, channels side by side
    channels: int
    taps: int
    flipped: int
    pixels: int
    out_size: int
    in_d: int
    in_h: int
    in_w: int
    out_d: int
    out_h: int
    out_w: int
    far_n: int  # a slab's pixels as images, planes, rows and columns: how far a thread moves from slab to slab
    far_d: int
    far_h: int
    far_w: int
    step_d: int
    step_h: int
    step_w: int
    x_n: int
    x_c: int
    x_d: int
    x_h: int
    x_w: int
    y_n: int
    y_k: int
    y_d: int
    y_h: int
    y_w: int
    part: int = 0  # of the contraction: what this launch computes in the first piece, and how much further on it is in the next one
    part_step: int = 1
    parts: int = 1
    again: int = 0  # whether the output holds the sum of earlier parts


@dataclass(frozen=True)
class Sum:
    """A wgrad as a matrix product: what the kernel reads; ``table`` has four numbers for each tap, as in `_geometry`."""

    geo: Geometry
    table: Array


def tables(p: ConvProblem, pieces: int) -> Sum:
    """Return the tables of a wgrad."""
    if p.input_dilation != (1, 1, 1):
        raise Unsupported("needs an input that is not dilated for wgrad")
    channels, rows, taps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.filter)
    steps = p.strides("x")
    deltas = [np.arange(r) * d - lo for r, d, lo in zip(p.filter, p.dilation, p.low, strict=True)]
    grid = [axis.reshape(-1) for axis in np.meshgrid(*deltas, indexing="ij")]
    reached = np.logical_and.reduce([(delta < size) & (delta > NOWHERE) for delta, size in zip(grid, p.input, strict=True)])
    offset = sum(delta * step for delta, step in zip(grid, steps[2:], strict=True))
    table = np.stack([offset, *grid], axis=1)
    table[~reached] = 0, NOWHERE, NOWHERE, NOWHERE
    rest, far = SLAB, []
    for size in reversed(p.output):
        far.append(rest % max(size, 1))
        rest //= max(size, 1)
    values: list[int] = [
        p.groups, rows, channels * taps, channels, taps, int(p.flipped), p.batch * math.prod(p.output), math.prod(p.shape("w")),
        *p.input, *p.output, rest, *reversed(far), *p.stride, *steps, *p.strides("y"),
    ]  # fmt: skip
    geo = Geometry(*values)
    reach = [(size + SLAB) * step for size, step in zip(p.output, p.stride, strict=True)]
    if max(*geo, *reach, int(np.abs(table).max(initial=0)), math.prod(p.shape("x")), math.prod(p.shape("y")), geo.out_size * pieces) > LIMIT:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    return Sum(geo, table.astype(np.int32).reshape(-1))


@device
def moved_on(geo, n, z, p, q):  # type: ignore[no-untyped-def]
    """Return the output pixel that lies a slab further on."""
    q, p, z, n = int32(q + geo.far_w), int32(p + geo.far_h), int32(z + geo.far_d), int32(n + geo.far_n)
    if q >= geo.out_w:
        q, p = int32(q - geo.out_w), int32(p + 1)
    if p >= geo.out_h:
        p, z = int32(p - geo.out_h), int32(z + 1)
    if z >= geo.out_d:
        z, n = int32(z - geo.out_d), int32(n + 1)
    return n, z, p, q


@functools.cache
def kernel(dtype: np.dtype[Any], rows: int, columns: int, channels_last: bool, one_tap: bool) -> Kernel:
    """Return the kernel for tiles of ``rows`` × ``columns``; frozen are the layout and whether all columns of a tile have ``one_tap``."""
    threads = rows * columns // 64
    span = threads // SLAB  # threads that load the same pixel
    tall_a, tall_b = rows // span == 8, columns // span == 8  # 8 elements of an operand in a slab, not 4
    a_row, b_row = rows + PAD, columns + PAD
    b_first, buffer_size = SLAB * a_row, SLAB * (a_row + b_row)
    both_buffers = 2 * buffer_size
    a_gap, b_gap, across = rows // 2, columns // 2, columns // 8
    zero = dtype.type(0)
    zeros = (zero, zero, zero, zero)
    put = put4(None, dtype)

    def four_of_y(dy, geo, at, row, ok):  # type: ignore[no-untyped-def]
        """Return four rows of one pixel, span apart."""
        step = int32(span * geo.y_k)
        v0 = dy[at] if ok and row < geo.rows else zero
        v1 = dy[int32(at + step)] if ok and int32(row + span) < geo.rows else zero
        v2 = dy[int32(at + 2 * step)] if ok and int32(row + 2 * span) < geo.rows else zero
        v3 = dy[int32(at + 3 * step)] if ok and int32(row + 3 * span) < geo.rows else zero
        return v0, v1, v2, v3

    def one_of_x(x, table, geo, at, column, d0, h0, w0, ok):  # type: ignore[no-untyped-def]
        """Return a column of one pixel."""
        if not (ok and column < geo.columns):
            return zero
        tap, channel = divide(column, geo.channels)
        delta = load4(table, int32(tap * 4))
        inside = within(int32(d0 + delta[1]), geo.in_d) and within(int32(h0 + delta[2]), geo.in_h) and within(int32(w0 + delta[3]), geo.in_w)
        return x[int32(at + delta[0] + channel * geo.x_c)] if inside else zero

    one = device(one_of_x)

    def four_of_x(x, table, geo, at, column, d0, h0, w0, ok):  # type: ignore[no-untyped-def]
        """Return four columns of one pixel, span apart."""
        if one_tap:
            tap, channel = divide(column, geo.channels)
            delta = load4(table, int32(tap * 4))
            inside = within(int32(d0 + delta[1]), geo.in_d) and within(int32(h0 + delta[2]), geo.in_h) and within(int32(w0 + delta[3]), geo.in_w)
            if not (ok and inside):
                return zeros
            at, step = int32(at + delta[0] + channel * geo.x_c), int32(span * geo.x_c)
            return x[at], x[int32(at + step)], x[int32(at + 2 * step)], x[int32(at + 3 * step)]
        c1, c2, c3 = int32(column + span), int32(column + 2 * span), int32(column + 3 * span)
        v0, v1 = one(x, table, geo, at, column, d0, h0, w0, ok), one(x, table, geo, at, c1, d0, h0, w0, ok)
        return v0, v1, one(x, table, geo, at, c2, d0, h0, w0, ok), one(x, table, geo, at, c3, d0, h0, w0, ok)

    y4, x4 = device(four_of_y), device(four_of_x)

    def load(dy, x, table, geo, n, z, p, q, row, column, group, ok):  # type: ignore[no-untyped-def]
        """Return a thread's part of a slab: 4 or 8 rows and as many columns of its pixel."""
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        y_at = int32(n * geo.y_n + z * geo.y_d + p * geo.y_h + q * geo.y_w + (group * geo.rows + row) * geo.y_k)
        x_at = int32(n * geo.x_n + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w + group * geo.channels * geo.x_c)
        a0 = a1 = y4(dy, geo, y_at, row, ok)
        if tall_a:
            a1 = y4(dy, geo, int32(y_at + 4 * span * geo.y_k), int32(row + 4 * span), ok)
        b0 = b1 = x4(x, table, geo, x_at, column, d0, h0, w0, ok)
        if tall_b:
            b1 = x4(x, table, geo, x_at, int32(column + 4 * span), d0, h0, w0, ok)
        return a0, a1, b0, b1

    def keep(shared, a_put, b_put, loaded):  # type: ignore[no-untyped-def]
        """Write it where the block can read it."""
        a0, a1, b0, b1 = loaded
        shared[a_put], shared[int32(a_put + span)] = a0[0], a0[1]
        shared[int32(a_put + 2 * span)], shared[int32(a_put + 3 * span)] = a0[2], a0[3]
        shared[b_put], shared[int32(b_put + span)] = b0[0], b0[1]
        shared[int32(b_put + 2 * span)], shared[int32(b_put + 3 * span)] = b0[2], b0[3]
        if tall_a:
            shared[int32(a_put + 4 * span)], shared[int32(a_put + 5 * span)] = a1[0], a1[1]
            shared[int32(a_put + 6 * span)], shared[int32(a_put + 7 * span)] = a1[2], a1[3]
        if tall_b:
            shared[int32(b_put + 4 * span)], shared[int32(b_put + 5 * span)] = b1[0], b1[1]
            shared[int32(b_put + 6 * span)], shared[int32(b_put + 7 * span)] = b1[2], b1[3]

    load, keep = device(load), device(keep)

    def sum_over_pixels(dy, x, dw, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, (tap, c)] = Σ_pixel dy[pixel, k] · x[pixel's input + tap, c] for one group.
        # THE SCHEDULE: a block owns rows × columns of dw, a thread 8 × 8 of them in registers. Slabs of 8 pixels pass through shared
        # memory, the next one loaded while this one is multiplied; neighbouring threads load neighbours in memory. Pieces and parts
        # of the contraction as in `_product`.
        shared = cuda.shared.array(both_buffers, dtype, alignment=16)
        t = int32(cuda.threadIdx.x)
        piece, group = divide(int32(cuda.blockIdx.z), geo.groups)
        first_row, first_column = int32(int32(cuda.blockIdx.x) * rows), int32(int32(cuda.blockIdx.y) * columns)
        slabs, part = int32((geo.pixels + SLAB - 1) // SLAB), int32(geo.part + piece * geo.part_step)
        slab = begin(slabs, part, geo.parts)
        left = int32(begin(slabs, int32(part + 1), geo.parts) - slab)
        lane, index = (int32(t // span), int32(t % span)) if channels_last else (int32(t % SLAB), int32(t // SLAB))
        row, column, pixel = int32(first_row + index), int32(first_column + index), int32(slab * SLAB + lane)
        rest, q = divide(pixel, geo.out_w)
        rest, p = divide(rest, geo.out_h)
        n, z = divide(rest, geo.out_d)
        a_put, b_put = int32(lane * a_row + index), int32(b_first + lane * b_row + index)
        a_get, b_get = int32(t // across * 4), int32(t % across * 4)
        acc, buffer = tile(zero), int32(0)
        if left > int32(0):
            loaded = load(dy, x, table, geo, n, z, p, q, row, column, group, pixel < geo.pixels)
            while True:
                keep(shared, int32(buffer + a_put), int32(buffer + b_put), loaded)
                cuda.syncthreads()
                left = int32(left - 1)
                if left > int32(0):
                    n, z, p, q = moved_on(geo, n, z, p, q)
                    pixel = int32(pixel + SLAB)
                    loaded = load(dy, x, table, geo, n, z, p, q, row, column, group, pixel < geo.pixels)
                acc = multiply_slab(acc, shared, int32(buffer + a_get), a_row, a_gap, shared, int32(buffer + b_first + b_get), b_row, b_gap)
                if left <= int32(0):
                    break
                buffer = int32(buffer_size - buffer)
        write(dw, geo, int32(piece * geo.out_size), group, int32(first_row + a_get), int32(first_column + b_get), acc)

    def place(geo, column):  # type: ignore[no-untyped-def]
        """Return where in a filter a column is, or −1 beyond the last."""
        if column >= geo.columns:
            return int32(-1)
        tap, channel = divide(column, geo.channels)
        return int32(channel * geo.taps + (geo.taps - 1 - tap if geo.flipped else tap))

    place = device(place)

    def further(at, by):  # type: ignore[no-untyped-def]
        return int32(at + by) if at >= int32(0) else int32(-1)

    further = device(further)

    def write_row(dw, geo, base, group, row, places, values):  # type: ignore[no-untyped-def]
        if row < geo.rows:
            at, again = int32(base + (group * geo.rows + row) * geo.columns), geo.again != 0
            c0, c1, c2, c3, d0, d1, d2, d3 = places
            put(dw, further(c0, at), further(c1, at), further(c2, at), further(c3, at), values[0:4], zeros, again, False, False)
            put(dw, further(d0, at), further(d1, at), further(d2, at), further(d3, at), values[4:8], zeros, again, False, False)

    row_of = device(write_row)

    def write(dw, geo, base, group, row, column, acc):  # type: ignore[no-untyped-def]
        """Store a thread's 8 × 8 sums."""
        other = int32(column + b_gap)
        c0, c1, c2, c3 = place(geo, column), place(geo, int32(column + 1)), place(geo, int32(column + 2)), place(geo, int32(column + 3))
        d0, d1, d2, d3 = place(geo, other), place(geo, int32(other + 1)), place(geo, int32(other + 2)), place(geo, int32(other + 3))
        places = (c0, c1, c2, c3, d0, d1, d2, d3)
        row_of(dw, geo, base, group, row, places, acc[0:8])
        row_of(dw, geo, base, group, int32(row + 1), places, acc[8:16])
        row_of(dw, geo, base, group, int32(row + 2), places, acc[16:24])
        row_of(dw, geo, base, group, int32(row + 3), places, acc[24:32])
        row_of(dw, geo, base, group, int32(row + a_gap), places, acc[32:40])
        row_of(dw, geo, base, group, int32(row + a_gap + 1), places, acc[40:48])
        row_of(dw, geo, base, group, int32(row + a_gap + 2), places, acc[48:56])
        row_of(dw, geo, base, group, int32(row + a_gap + 3), places, acc[56:64])

    write = device(write)
    return Kernel(sum_over_pixels, (dtype, dtype, dtype, np.int32), Geometry, threads, RESIDENT_THREADS[threads] * 4 // dtype.itemsize // threads)
