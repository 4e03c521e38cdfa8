"""The kernel of wgrad on Hopper's tensor cores, of bfloat16 and float16: both operands are read as they lie, the contraction from line to line."""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._prims import commit, divide, int32, load4, tile, within
from numbaconv.cuda._product import begin
from numbaconv.cuda._tensor_prims import store2
from numbaconv.cuda._wgmma import CAPABILITY, LINE, THREADS, WARPGROUP
from numbaconv.cuda._wgmma_prims import copy_lines, every, multiply_down, publish, settle, wait_for
from numbaconv.cuda._wgrad import Geometry

SLAB = 64  # pixels that are multiplied at a time
UNIT = 64  # channels of a line
UNITS = 2  # of x that a block has: 64 channels of a tap each
# By whether a block has 128 rows (each warpgroup 64 of them) or 64 (each warpgroup half of the pixels, with a copy of dw of its own):
STAGES = {True: 3, False: 4}
RESIDENT = 2  # blocks of a multiprocessor
INSIDE = 2  # bit of a pixel's word: it is one; the first bits say for each unit whether its tap meets the input


@functools.cache
def kernel(kind: str, tall: bool, depth: bool) -> Kernel:
    """Return the kernel for tiles of 128 (``tall``) or 64 rows × 128 columns; ``depth`` says whether there is a third axis."""
    cell = np.dtype(np.uint16)
    lines = THREADS // 8  # that a block copies at a time, a thread 16 bytes
    each, apart = SLAB // lines, lines * LINE
    unit = SLAB * UNIT  # elements of a slab's lines of one unit
    rows_of = 2 if tall else 1  # units of dy that a block has
    x_first, one_stage = rows_of * unit, (rows_of + UNITS) * unit
    on_way = STAGES[tall] - 1
    last_stage = on_way * one_stage
    ring = (on_way + 1) * SLAB  # pixels in the table: those of slabs that are yet to be fetched
    words = 2 * 4 * SLAB  # room for twice as many, in whole multiples of 1024 bytes: see `_wgmma.PLACES`
    half_a, half_b = (unit, 0) if tall else (SLAB // 2 * UNIT, SLAB // 2 * UNIT)  # from the first warpgroup's operands to the second's
    product, settled, copy = multiply_down(kind, SLAB if tall else SLAB // 2), settle(0), copy_lines(apart)
    arrived, two = wait_for(on_way - 1), every(each)

    def meets(table, geo, number, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Return whether the tap of a unit meets the input."""
        if number * UNIT >= geo.columns:
            return False
        tap = load4(table, int32(divide(int32(number * UNIT), geo.channels)[0] * 4))
        inside = within(int32(h0 + tap[2]), geo.in_h) and within(int32(w0 + tap[3]), geo.in_w)
        return inside and within(int32(d0 + tap[1]), geo.in_d) if depth else inside

    def look(place, slot, table, geo, group, first_unit, pixel):  # type: ignore[no-untyped-def]
        """Put into the table where in x a pixel begins, and its word."""
        rest, q = divide(pixel, geo.out_w)
        n, p = divide(rest, geo.out_h)
        z = int32(0)
        if depth:
            n, z = divide(n, geo.out_d)
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        bits = int32(0)
        if pixel < geo.pixels:
            bits = int32(1 << INSIDE)
            if met(table, geo, first_unit, d0, h0, w0):
                bits = int32(bits | 1)
            if met(table, geo, int32(first_unit + 1), d0, h0, w0):
                bits = int32(bits | 2)
        place[slot] = int32(n * geo.x_n + group * geo.channels + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w)
        place[int32(slot + ring)] = bits

    def fetch(shared, to, place, slot, dy, x, y_at, x_at, geo, line):  # type: ignore[no-untyped-def]
        """Start to copy a thread's part of a slab."""
        bases, bits = two(place, int32(slot + line), int32(lines)), two(place, int32(slot + line + ring), int32(lines))
        pixels = y_at[0], int32(y_at[0] + lines * geo.y_w)
        for i in range(rows_of):
            copy(shared, int32(to + i * unit), dy, pixels, bits, int32(y_at[1] + i * UNIT), int32(INSIDE))
        for i in range(UNITS):
            copy(shared, int32(to + x_first + i * unit), x, bases, bits, x_at[i], int32(i))

    def offset_of(table, geo, number):  # type: ignore[no-untyped-def]
        """Return how far from a pixel's first channel a unit begins."""
        if number * UNIT >= geo.columns:
            return int32(0)
        tap, channel = divide(int32(number * UNIT), geo.channels)
        return int32(table[int32(tap * 4)] + channel)

    def pairs(dw, geo, at, column, v):  # type: ignore[no-untyped-def]
        if column < geo.columns:  # rows fill tiles
            store2(dw, at, v[0], v[1])
            store2(dw, int32(at + 8 * geo.columns), v[2], v[3])

    def four(dw, geo, at, column, v):  # type: ignore[no-untyped-def]
        put(dw, geo, at, column, v[0:4])
        put(dw, geo, int32(at + 8), int32(column + 8), v[4:8])
        put(dw, geo, int32(at + 16), int32(column + 16), v[8:12])
        put(dw, geo, int32(at + 24), int32(column + 24), v[12:16])

    def write(dw, geo, at, column, acc):  # type: ignore[no-untyped-def]
        """Store a thread's squares of 2 × 2 sums."""
        quarter(dw, geo, at, column, acc[0:16])
        quarter(dw, geo, int32(at + 32), int32(column + 32), acc[16:32])
        quarter(dw, geo, int32(at + 64), int32(column + 64), acc[32:48])
        quarter(dw, geo, int32(at + 96), int32(column + 96), acc[48:64])

    met, put, quarter = device(meets), device(pairs), device(four)
    looked, fetched, begins, written = device(look), device(fetch), device(offset_of), device(write)

    def wgmma_wgrad(dy, x, dw, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, (tap, c)] = Σ_pixel dy[pixel, k] · x[pixel's input + tap, c] for one group.
        # THE SCHEDULE: a block owns 128 or 64 rows × 128 columns of dw, of which each 64 lie beside each other in memory. Slabs of 64 pixels
        # pass through the stages as in `_wgmma`; two warps work out ahead where the pixels of later ones are. The contraction is cut into
        # geo.pieces, each with its own copy of dw.
        place = cuda.shared.array(words, np.int32)
        shared = cuda.shared.array(0, cell, alignment=1024)
        t = int32(cuda.threadIdx.x)
        piece, group = divide(int32(cuda.blockIdx.z), geo.groups)
        first_row, first_unit = int32(int32(cuda.blockIdx.x) * rows_of * UNIT), int32(int32(cuda.blockIdx.y) * UNITS)
        slabs = int32((geo.pixels + SLAB - 1) // SLAB)
        first = begin(slabs, piece, geo.pieces)
        left = int32(begin(slabs, int32(piece + 1), geo.pieces) - first)
        if t < int32(ring):
            looked(place, t, table, geo, group, first_unit, int32(first * SLAB + t))
        cuda.syncthreads()
        line, number = int32(t // 8), int32(t % 8)
        mine, across = int32(line * UNIT + int32(number ^ int32(line % 8)) * 8), int32(number * 8)
        x_at = int32(begins(table, geo, first_unit) + across), int32(begins(table, geo, int32(first_unit + 1)) + across)
        y_from, y_line = int32(group * geo.rows + first_row + across), int32((first * SLAB + line) * geo.y_w)
        to, slot = int32(0), int32(0)
        for ahead in range(on_way):
            if int32(ahead) < left:
                fetched(shared, int32(to + mine), place, slot, dy, x, (y_line, y_from), x_at, geo, line)
            commit(shared)
            to, slot, y_line = int32(to + one_stage), int32(slot + SLAB), int32(y_line + SLAB * geo.y_w)
        half = int32(t // WARPGROUP)
        a, b = int32(half * half_a), int32(x_first + half * half_b)
        acc, get, step = tile(np.float32(0)), int32(0), int32(0)
        while step < left:
            arrived(shared)
            publish(shared)
            cuda.syncthreads()
            acc = product(acc, shared, int32(get + a), int32(get + b), int32(t // 32 % 4))
            if int32(step + on_way) < left:
                fetched(shared, int32(to + mine), place, slot, dy, x, (y_line, y_from), x_at, geo, line)
            commit(shared)
            slot, y_line = int32(0) if slot == int32(ring - SLAB) else int32(slot + SLAB), int32(y_line + SLAB * geo.y_w)
            if t < int32(SLAB):
                looked(place, int32(slot + t), table, geo, group, first_unit, int32((first + step + on_way + 1) * SLAB + t))
            acc = settled(acc, shared)
            to = int32(0) if to == last_stage else int32(to + one_stage)
            get, step = int32(0) if get == last_stage else int32(get + one_stage), int32(step + 1)
        row, column = int32(first_row + t // 32 % 4 * 16 + t % 32 // 4), int32(first_unit * UNIT + t % 4 * 2)
        row, piece = (int32(row + half * UNIT), piece) if tall else (row, int32(piece * 2 + half))
        written(dw, geo, int32(piece * geo.out_size + (group * geo.rows + row) * geo.columns + column), column, acc)

    size = STAGES[tall] * one_stage * cell.itemsize
    return Kernel(wgmma_wgrad, (cell, cell, np.float32, np.int32), Geometry, THREADS, RESIDENT, shared=size, only=CAPABILITY)
