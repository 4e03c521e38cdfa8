"""The kernel of fprop and dgrad: products of register tiles, the input gathered by a table of taps. One source for every variant."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._geometry import (
    FIRST_ENTRY,
    NOWHERE,
    PHASE_SIZE,
    ROWS,
    SIZE_D,
    SIZE_H,
    SIZE_W,
    SLAB,
    SLABS,
    W_FIRST,
    Y_FIRST,
    Geometry,
)  # fmt: skip
from numbaconv.cuda._prims import (
    and_aside,
    copy4,
    copy8,
    copy16,
    divide,
    forgotten,
    int32,
    load4,
    multiply_slab,
    put_aside,
    scatter,
    tile,
    wait_all,
    within,
)
from numbaconv.cuda._store import put4

RESIDENT_THREADS = {256: 512, 128: 512, 64: 384}  # of a multiprocessor, by those of a block: 128 registers each, 168 for the smallest


@device
def begin(size, part, parts):  # type: ignore[no-untyped-def]
    """Return size · part div parts, where the product may be too large for an int32."""
    whole, rest = divide(size, parts)
    return int32(whole * part + divide(int32(rest * part), parts)[0])


@device
def position(table, phase, row):  # type: ignore[no-untyped-def]
    """Return (image, z, p, q) of an output pixel within its phase."""
    rest, q = divide(row, table[int32(phase + SIZE_W)])
    rest, p = divide(rest, table[int32(phase + SIZE_H)])
    n, z = divide(rest, table[int32(phase + SIZE_D)])
    return n, z, p, q


@device
def address(table, geo, phase, row):  # type: ignore[no-untyped-def]
    """Return where an output pixel's first channel is, or −1 beyond the last pixel."""
    if row >= table[int32(phase + ROWS)]:
        return int32(-1)
    n, z, p, q = position(table, phase, row)
    first = int32(table[int32(phase + Y_FIRST)] + n * geo.y_n + z * geo.out_d * geo.y_d)
    return int32(first + p * geo.out_h * geo.y_h + q * geo.out_w * geo.y_w)


@device
def moved(at, by, inside):  # type: ignore[no-untyped-def]
    """Return an address further on, if it is one and inside holds; else −1."""
    return int32(at + by) if at >= int32(0) and inside else int32(-1)


def with_sums_aside(first: int, threads: int) -> tuple[Any, Any]:
    """Return two functions for a thread's sums of chunks, in shared memory from ``first`` on: to add a chunk to them, and to get their sum.

    Both say whether there are any yet; where a thread's are is worked out anew each time, for want of registers.
    """
    apart = 4 * threads

    def put_chunk(shared, thread, any_yet, acc):  # type: ignore[no-untyped-def]
        at = int32(first + forgotten(thread) * 4)
        if any_yet:
            acc = and_aside(acc, shared, at, int32(apart))
        put_aside(shared, at, int32(apart), acc)

    def sum_with(shared, thread, any_yet, acc):  # type: ignore[no-untyped-def]
        return and_aside(acc, shared, int32(first + forgotten(thread) * 4), int32(apart)) if any_yet else acc

    return device(put_chunk), device(sum_with)


@functools.cache
def kernel(dtype: np.dtype[Any], pixels: int, columns: int, channels_last: bool, aligned: bool, depth: bool, activation: str | None) -> Kernel:
    """Return the kernel for tiles of ``pixels`` × ``columns``.

    Frozen are the layout, whether the channels of a group fill slabs (``aligned``), whether there is a third axis (``depth``) and the
    activation; sizes, strides, dilations, padding, filters and groups are read from the table.
    """
    threads = pixels * columns // 64
    tall = SLAB * pixels // threads == 8  # a thread gathers 8 rows of its pixel, not 4
    rows_each = 8 if tall else 4
    two = SLAB * columns // threads == 8  # and loads two vectors of weights
    vectors = columns // 4
    further = threads // vectors  # rows of weights between a thread's two vectors
    w_half = SLAB * pixels  # where the weights begin in a stage
    one_stage = SLAB * (pixels + columns)
    both_stages = 2 * one_stage
    copy1, per_copy = (copy4, 4) if dtype.itemsize == 4 else (copy8, 2)
    by_registers = aligned and channels_last  # four channels of a pixel are neighbours in memory, but not in a stage
    across = (columns if channels_last else pixels) // 8  # threads along the tile's side whose outputs are neighbours in memory
    x_gap, w_gap = pixels // 2, columns // 2  # between the two quads of a thread
    zero = dtype.type(0)
    put, (put_chunk, sum_with) = put4(activation, dtype), with_sums_aside(both_stages, threads)

    def reached(geo, tap, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Return whether a tap meets the input."""
        inside = within(int32(h0 + tap[2]), geo.in_h) and within(int32(w0 + tap[3]), geo.in_w)
        if depth:
            inside = inside and within(int32(d0 + tap[1]), geo.in_d)
        return inside

    reached = device(reached)

    def one(x, shared, to, row, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        tap = load4(table, int32(entry + 4 * row))
        copy1(shared, to, int32(0), int32(row * pixels), x, int32(base + tap[0]), reached(geo, tap, d0, h0, w0))

    one = device(one)

    def each_by_itself(x, shared, to, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Start to copy the rows of the contraction for one pixel, each by a tap of its own."""
        for row in range(rows_each):
            one(x, shared, to, int32(row), table, geo, entry, base, d0, h0, w0)

    def of_one_tap(x, shared, to, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Start to copy the rows of the contraction for one pixel: channels of one tap."""
        tap = load4(table, entry)
        at, c, inside = int32(base + tap[0]), geo.x_c, reached(geo, tap, d0, h0, w0)
        copy1(shared, to, int32(0), int32(0), x, at, inside)
        copy1(shared, to, int32(0), int32(pixels), x, int32(at + c), inside)
        copy1(shared, to, int32(0), int32(2 * pixels), x, int32(at + 2 * c), inside)
        copy1(shared, to, int32(0), int32(3 * pixels), x, int32(at + 3 * c), inside)
        if tall:
            copy1(shared, to, int32(0), int32(4 * pixels), x, int32(at + 4 * c), inside)
            copy1(shared, to, int32(0), int32(5 * pixels), x, int32(at + 5 * c), inside)
            copy1(shared, to, int32(0), int32(6 * pixels), x, int32(at + 6 * c), inside)
            copy1(shared, to, int32(0), int32(7 * pixels), x, int32(at + 7 * c), inside)

    def of_one_pixel(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Return the rows of the contraction for one pixel, neighbours in memory."""
        tap = load4(table, entry)
        v0 = v1 = (zero, zero, zero, zero)
        if reached(geo, tap, d0, h0, w0):
            v0 = v1 = load4(x, int32(base + tap[0]))
            if tall:
                v1 = load4(x, int32(base + tap[0] + 4))
        return v0, v1

    def keep_pixel(shared, to, loaded):  # type: ignore[no-untyped-def]
        """Write them where the block can read them."""
        scatter(shared, to, int32(pixels), loaded[0])
        if tall:
            scatter(shared, int32(to + 4 * pixels), int32(pixels), loaded[1])

    fetch, keep = device(of_one_pixel if by_registers else of_one_tap if aligned else each_by_itself), device(keep_pixel)

    def fetch_weights(w, shared, to, geo, w_at):  # type: ignore[no-untyped-def]
        """Start to copy a thread's part of a slab's weights: 4 columns of one or two rows."""
        copy16(shared, to, int32(0), int32(0), w, w_at, True)
        if per_copy == 2:
            copy16(shared, to, int32(0), int32(2), w, int32(w_at + 2), True)
        if two:
            w_at = int32(w_at + further * geo.w_row)
            copy16(shared, to, int32(0), int32(further * columns), w, w_at, True)
            if per_copy == 2:
                copy16(shared, to, int32(0), int32(further * columns + 2), w, int32(w_at + 2), True)

    fetch_w = device(fetch_weights)

    def place_of_block(geo, x, y, z):  # type: ignore[no-untyped-def]
        """Return a block's first row and column, its group and piece, and where its phase is in the table."""
        rest, group = divide(forgotten(z), geo.groups)
        piece, phase = divide(rest, geo.phases)
        return int32(forgotten(x) * pixels), int32(forgotten(y) * columns), group, piece, int32(phase * PHASE_SIZE)

    place = device(place_of_block)

    def implicit_product(x, w, y, bias, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[pixel, k] = Σ_tap Σ_c x[pixel's input + tap, c] · w[tap, c, k] for one phase and group.
        # THE SCHEDULE: a block owns pixels × columns outputs, a thread 8 × 8 of them in registers, as 2 × 2 quads half a tile apart.
        # Slabs of 8 rows of the contraction pass through two stages of shared memory: asynchronous copies fill one while the other is
        # multiplied. After every chunk of slabs the sums so far are put aside, so that no accumulator is added to too often. Each piece
        # of the contraction has a copy of y of its own.
        shared, at = cuda.shared.array(0, dtype, alignment=16), cuda.blockIdx
        t = forgotten(int32(cuda.threadIdx.x))
        first_row, first_column, group, piece, phase = place(geo, int32(at.x), int32(at.y), int32(at.z))
        rows = table[int32(phase + ROWS)]
        if first_row >= rows:
            return
        # What a thread loads: rows_each rows of one pixel, 4 columns of one or two rows of the weights.
        slabs = table[int32(phase + SLABS)]
        slab = begin(slabs, piece, geo.pieces)
        left = int32(begin(slabs, int32(piece + 1), geo.pieces) - slab)
        pixel, x_row = int32(t % pixels), int32(t // pixels * rows_each)
        n, z, p, q = position(table, phase, int32(first_row + pixel))
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        base = int32(n * geo.x_n + group * geo.x_group + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w)
        if int32(first_row + pixel) >= rows:
            w0 = int32(NOWHERE)
        entry, channel = divide(slab, geo.per_entry)
        if aligned:
            entry, channel = int32(table[int32(phase + FIRST_ENTRY)] + entry * 4), int32(channel * geo.x_slab)
            base = int32(base + channel + x_row * geo.x_c)
        else:
            entry = int32(table[int32(phase + FIRST_ENTRY)] + (slab * SLAB + x_row) * 4)
        w_row, w_column = int32(t // vectors), int32(t % vectors * 4)
        w_at = int32(table[int32(phase + W_FIRST)] + (slab * SLAB + w_row) * geo.w_row + group * geo.padded_columns + first_column + w_column)
        # Where it keeps that, and what it computes: 2 quads on the side of a, 2 on the side of b, whose outputs are neighbours in memory.
        x_put, w_put = int32(x_row * pixels + pixel), int32(w_half + w_row * columns + w_column)
        x_get, w_get = (int32(t // across * 4), int32(t % across * 4)) if channels_last else (int32(t % across * 4), int32(t // across * 4))
        acc, put, step, chunk = tile(zero), int32(0), int32(-1), geo.chunk
        while step < left:
            wait_all(shared)
            cuda.syncthreads()
            more = int32(step + 1) < left
            if more:
                fetch_w(w, shared, int32(put + w_put), geo, w_at)
                if by_registers:
                    loaded = fetch(x, table, geo, entry, base, d0, h0, w0)
                else:
                    fetch(x, shared, int32(put + x_put), table, geo, entry, base, d0, h0, w0)
                w_at = int32(w_at + SLAB * geo.w_row)
                if aligned:
                    channel, base = int32(channel + geo.x_slab), int32(base + geo.x_slab)
                    if channel == geo.x_group:
                        channel, base, entry = int32(0), int32(base - geo.x_group), int32(entry + 4)
                else:
                    entry = int32(entry + 4 * SLAB)
            if step == chunk:
                put_chunk(shared, int32(cuda.threadIdx.x), chunk > geo.chunk, acc)
                acc, chunk = tile(zero), int32(chunk + geo.chunk)
            xa, wa = int32(one_stage - put + x_get), int32(one_stage - put + w_half + w_get)
            if step >= int32(0):
                if channels_last:
                    acc = multiply_slab(acc, shared, xa, pixels, x_gap, shared, wa, columns, w_gap)
                else:
                    acc = multiply_slab(acc, shared, wa, columns, w_gap, shared, xa, pixels, x_gap)
            if by_registers:
                if more:
                    keep(shared, int32(put + x_put), loaded)
            put, step = int32(one_stage - put), int32(step + 1)
        acc = sum_with(shared, int32(cuda.threadIdx.x), chunk > geo.chunk, acc)
        first_row, first_column, group, piece, phase = place(geo, int32(at.x), int32(at.y), int32(at.z))
        y_base, m, k = int32(piece * geo.out_size + group * geo.y_group), int32(first_row + x_get), int32(first_column + w_get)
        write(y, bias, table, geo, phase, group, y_base, m, k, acc, geo.last != 0)

    def write_pixels(y, bias, geo, y_base, pixels8, column, values, b_first, last):  # type: ignore[no-untyped-def]
        """Store 8 pixels of one channel."""
        inside, vector = column < geo.columns, geo.vector != 0
        by, shift = int32(y_base + column * geo.y_k), zero
        if geo.has_bias and inside:
            shift = bias[int32(b_first + column)]
        b4 = (shift, shift, shift, shift)
        p0, p1, p2, p3, q0, q1, q2, q3 = pixels8
        put(y, moved(p0, by, inside), moved(p1, by, inside), moved(p2, by, inside), moved(p3, by, inside), values[0:4], b4, last, vector)
        put(y, moved(q0, by, inside), moved(q1, by, inside), moved(q2, by, inside), moved(q3, by, inside), values[4:8], b4, last, vector)

    def write_channels(y, bias, geo, y_base, pixel, column, values, b_first, last):  # type: ignore[no-untyped-def]
        """Store 8 channels of one pixel."""
        four(y, bias, geo, y_base, pixel, column, values[0:4], b_first, last)
        four(y, bias, geo, y_base, pixel, int32(column + w_gap), values[4:8], b_first, last)

    def write_four(y, bias, geo, y_base, pixel, column, values, b_first, last):  # type: ignore[no-untyped-def]
        size, vector = geo.columns, geo.vector != 0
        i0, i1, i2, i3 = column < size, int32(column + 1) < size, int32(column + 2) < size, int32(column + 3) < size
        b0 = b1 = b2 = b3 = zero
        if geo.has_bias:
            at = int32(b_first + column)
            if i0:
                b0 = bias[at]
            if i1:
                b1 = bias[int32(at + 1)]
            if i2:
                b2 = bias[int32(at + 2)]
            if i3:
                b3 = bias[int32(at + 3)]
        by = int32(y_base + column)
        put(y, moved(pixel, by, i0), moved(pixel, int32(by + 1), i1), moved(pixel, int32(by + 2), i2), moved(pixel, int32(by + 3), i3),
            values, (b0, b1, b2, b3), last, vector)  # fmt: skip

    four = device(write_four)
    row = device(write_channels if channels_last else write_pixels)

    def write_tile_pixels(y, bias, table, geo, phase, group, y_base, m, k, acc, last):  # type: ignore[no-untyped-def]
        """Store a thread's 8 channels × 8 pixels."""
        p0, p1 = address(table, geo, phase, m), address(table, geo, phase, int32(m + 1))
        p2, p3 = address(table, geo, phase, int32(m + 2)), address(table, geo, phase, int32(m + 3))
        m = int32(m + x_gap)
        q0, q1 = address(table, geo, phase, m), address(table, geo, phase, int32(m + 1))
        q2, q3 = address(table, geo, phase, int32(m + 2)), address(table, geo, phase, int32(m + 3))
        pixels8 = (p0, p1, p2, p3, q0, q1, q2, q3)
        b_at = int32(group * geo.columns)
        row(y, bias, geo, y_base, pixels8, k, acc[0:8], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + 1), acc[8:16], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + 2), acc[16:24], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + 3), acc[24:32], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + w_gap), acc[32:40], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + w_gap + 1), acc[40:48], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + w_gap + 2), acc[48:56], b_at, last)
        row(y, bias, geo, y_base, pixels8, int32(k + w_gap + 3), acc[56:64], b_at, last)

    def write_tile_channels(y, bias, table, geo, phase, group, y_base, m, k, acc, last):  # type: ignore[no-untyped-def]
        """Store a thread's 8 pixels × 8 channels."""
        b_at = int32(group * geo.columns)
        row(y, bias, geo, y_base, address(table, geo, phase, m), k, acc[0:8], b_at, last)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 1)), k, acc[8:16], b_at, last)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 2)), k, acc[16:24], b_at, last)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 3)), k, acc[24:32], b_at, last)
        m = int32(m + x_gap)
        row(y, bias, geo, y_base, address(table, geo, phase, m), k, acc[32:40], b_at, last)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 1)), k, acc[40:48], b_at, last)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 2)), k, acc[48:56], b_at, last)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 3)), k, acc[56:64], b_at, last)

    write = device(write_tile_channels if channels_last else write_tile_pixels)
    resident = RESIDENT_THREADS[threads] * 4 // dtype.itemsize // threads
    size = (both_stages + 64 * threads) * dtype.itemsize
    return Kernel(implicit_product, (dtype, dtype, dtype, dtype, np.int32), Geometry, threads, resident, shared=size)
