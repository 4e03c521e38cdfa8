"""The kernel of fprop and dgrad on Hopper's tensor cores: `_tensor`'s product by instructions of four warps, which read shared memory."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._geometry import FIRST_ENTRY, PHASE_SIZE, ROWS, SLABS, W_FIRST, Geometry
from numbaconv.cuda._prims import commit, copy16, divide, int32, load4, within, zeros
from numbaconv.cuda._product import address, begin, position
from numbaconv.cuda._tensor_layout import cell_of
from numbaconv.cuda._wgmma_prims import copy_lines, every, multiply, publish, put_sums, round_lines, settle, wait_for
from numbaconv.cuda._wgmma_store import GAP, writer

CAPABILITY = (9, 0)  # whose instructions these are
LINE = 128  # bytes of a pixel, or of a filter, that a slab has: 64 channels of 16 bits, 32 of tf32
MOST_TAPS = 31  # of a phase: a pixel's taps within the input are bits of an int32
# Slabs in shared memory, of which one is multiplied and the others are on their way: by a tile's columns and how many blocks a multiprocessor
# is to hold, which has room for 227 KiB of them. Where there are few blocks, each waits for memory alone.
STAGES = {(128, 2): 3, (128, 1): 6, (64, 3): 3, (64, 2): 4, (64, 1): 8}
WARPGROUP, THREADS, PIXELS = 128, 256, 128  # of a block, that is of a tile
# Of the block's table. Dynamic shared memory begins right behind it, whatever alignment is asked for (seen with CUDA 13.0), and operands have to
# begin at multiples of 1024 bytes: so the table fills as many.
PLACES = 4 * PIXELS
# A block's table says of its pixels where in y they begin, then where in x they begin, then which of their taps lie within.
FROM, WITHIN = 1, 2


class Variant(NamedTuple):
    """What is frozen into a kernel."""

    kind: str  # tf32, bf16 or f16
    columns: int  # 128 or 64
    resident: int  # blocks that a multiprocessor is to hold
    channels_last: bool  # of y; those of x are, too, unless its planes are read as they lie
    planes: bool  # whether they are: a filter of one tap, pixels side by side in vectors
    rounds: bool  # whether x is still to be rounded to tf32
    depth: bool  # whether there is a third axis
    activation: str | None
    partial: bool  # whether y takes float32 sums that something is added to


@functools.cache
def kernel(v: Variant) -> Kernel:
    """Return the kernel of a variant; sizes, strides, dilations, padding, filters and groups are read from the table."""
    cell, columns, channels_last, planes, rounds, depth = cell_of(v.kind), v.columns, v.channels_last, v.planes, v.rounds, v.depth
    slab, vector = LINE // cell.itemsize, 16 // cell.itemsize
    lines = THREADS // 8  # that a block copies at a time, a thread 16 bytes
    each, apart = PIXELS // lines, lines * LINE  # lines of a thread, and bytes between them
    x_size = PIXELS * slab
    one_stage = x_size + columns * slab
    on_way = STAGES[columns, v.resident] - 1
    last_stage = on_way * one_stage
    w_copies = columns // lines
    # A warpgroup multiplies 64 lines of one operand, which are also those of its sums, by `width` lines of the other one.
    beside = not channels_last and columns == 64  # the other warpgroup has the same lines of the first operand, else of the second
    width = 64 if columns == 64 else 128
    product, settled, lines_of, sums = multiply(v.kind, width, planes), settle(0), every(each), zeros(width // 2)
    arrived = wait_for(on_way - 1)
    copy_x, round_x = copy_lines(apart), round_lines(each, apart)
    out, shape = np.dtype(np.float32) if v.partial else cell, (PIXELS, columns) if channels_last else (columns, PIXELS)
    pitch = shape[1] + GAP
    put, write = put_sums(pitch), writer(v.kind, out, shape, THREADS, channels_last, v.activation, v.partial)

    def look(place, t, table, geo, phase, group, row, taps):  # type: ignore[no-untyped-def]
        """Put into the block's table where in y and in x a pixel begins and which of its taps lie within."""
        n, z, p, q = position(table, phase, row)
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        first = int32(n * geo.x_n + group * geo.x_group + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w)
        bits, entry = int32(0), table[int32(phase + FIRST_ENTRY)]
        if row < table[int32(phase + ROWS)]:
            for tap in range(taps):
                entry_of = load4(table, int32(entry + 4 * tap))
                inside = within(int32(h0 + entry_of[2]), geo.in_h) and within(int32(w0 + entry_of[3]), geo.in_w)
                if depth:
                    inside = inside and within(int32(d0 + entry_of[1]), geo.in_d)
                if inside:
                    bits = int32(bits | int32(int32(1) << int32(tap)))
        place[t], place[int32(t + FROM * PIXELS)], place[int32(t + WITHIN * PIXELS)] = address(table, geo, phase, row), first, bits

    def weights_of(shared, put, mine, w, w_at):  # type: ignore[no-untyped-def]
        for j in range(w_copies):
            further = int32(mine[1] + j * lines * slab)
            copy16(shared, int32(put + x_size), int32(0), further, w, int32(w_at + further), True)

    def fetch(shared, put, mine, x, bases, masks, w, table, entry, at, geo, more):  # type: ignore[no-untyped-def]
        """Start to copy a slab; return what the next one is: its tap, where that leads, its channel, and where its weights lie."""
        tap, offset, channel, w_at = at
        copy_x(shared, int32(put + mine[0]), x, bases, masks, int32(offset + channel + mine[2]), tap)
        fetch_w(shared, put, mine, w, w_at)
        channel, w_at = int32(channel + slab), int32(w_at + slab * geo.w_row)
        if more and channel == geo.x_group:
            channel, tap = int32(0), int32(tap + 1)
            offset = table[int32(entry + 4 * tap)]
        return tap, offset, channel, w_at

    def fetch_planes(shared, put, mine, x, bases, masks, w, table, entry, at, geo, more):  # type: ignore[no-untyped-def]
        """Start to copy a slab of channels, of the block's pixels in two halves; return what the next one is."""
        tap, channels, channel, w_at = at
        inside, beyond = int32(channel + mine[2]) < channels, int32(channel + mine[2] + lines) < channels
        for half in range(2):
            here = bases[half], int32(bases[half] + lines * geo.x_c)
            bits = masks[half] if inside else int32(0), masks[half] if beyond else int32(0)
            copy_x(shared, int32(put + mine[0] + half * x_size // 2), x, here, bits, int32(channel * geo.x_c), int32(0))
        fetch_w(shared, put, mine, w, w_at)
        return tap, channels, int32(channel + slab), int32(w_at + slab * geo.w_row)

    def of_lines(place, geo, group, first_row, rows, line, number):  # type: ignore[no-untyped-def]
        """Return, of the pixels of a thread, where in x they begin and which taps they have."""
        return lines_of(place, int32(line + FROM * PIXELS), int32(lines)), lines_of(place, int32(line + WITHIN * PIXELS), int32(lines))

    def of_planes(place, geo, group, first_row, rows, line, number):  # type: ignore[no-untyped-def]
        """Return, of a thread's vector of pixels in both halves of the tile, where in x it lies and whether it is one."""
        plane, first = int32(geo.x_c), int32(group * geo.x_group + line * geo.x_c)
        a, b = int32(first_row + number * vector), int32(first_row + number * vector + PIXELS // 2)
        m, n = divide(a, plane), divide(b, plane)
        bases = int32(first + m[0] * geo.x_n + m[1]), int32(first + n[0] * geo.x_n + n[1])
        return bases, (int32(1) if a < rows else int32(0), int32(1) if b < rows else int32(0))

    looked, fetch_w = device(look), device(weights_of)
    fetched, begun = device(fetch_planes if planes else fetch), device(of_planes if planes else of_lines)

    def wgmma_product(x, w, y, bias, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[pixel, k] = Σ_tap Σ_c x[pixel's input + tap, c] · w[tap, c, k] for one phase and group.
        # THE SCHEDULE: a block owns 128 pixels × columns outputs, each of two warpgroups half of them in registers. Slabs of the
        # contraction pass through the stages: asynchronous copies fill the others while the tensor cores read one. Eight neighbouring
        # threads copy a line of 128 bytes. What a pixel is was worked out once, by one thread. The contraction is cut into geo.pieces.
        place = cuda.shared.array(PLACES, np.int32)
        shared = cuda.shared.array(0, cell, alignment=1024)
        t = int32(cuda.threadIdx.x)
        rest, group = divide(int32(cuda.blockIdx.z), geo.groups)
        piece, phase = divide(rest, geo.phases)
        phase = int32(phase * PHASE_SIZE)
        first_row, first_column = int32(int32(cuda.blockIdx.x) * PIXELS), int32(int32(cuda.blockIdx.y) * columns)
        rows, slabs = table[int32(phase + ROWS)], table[int32(phase + SLABS)]
        if first_row >= rows:
            return
        if t < int32(PIXELS):
            looked(place, t, table, geo, phase, group, int32(first_row + t), divide(slabs, geo.per_entry)[0])
        cuda.syncthreads()
        line, number = int32(t // 8), int32(t % 8)
        bases, masks = begun(place, geo, group, first_row, rows, line, number)
        # Where a thread's part of x goes, its part of the weights, and what its channel is of those of a slab.
        channel = line if planes else int32(number * vector)
        mine = int32(line * slab + int32(number ^ int32(line % 8)) * vector), int32(t * vector), channel
        first = begin(slabs, piece, geo.pieces)
        left = int32(begin(slabs, int32(piece + 1), geo.pieces) - first)
        tap, channel = divide(first, geo.per_entry)
        entry = table[int32(phase + FIRST_ENTRY)]
        w_at = int32(table[int32(phase + W_FIRST)] + (first * geo.w_row + group * geo.padded_columns + first_column) * slab)
        offset = table[int32(entry + 4 * tap)] if left > int32(0) else int32(0)
        at = tap, divide(geo.x_group, geo.x_c)[0] if planes else offset, int32(channel * slab), w_at
        to = int32(0)
        for ahead in range(on_way):
            if int32(ahead) < left:
                at = fetched(shared, to, mine, x, bases, masks, w, table, entry, at, geo, int32(ahead + 1) < left)
            commit(shared)
            to = int32(to + one_stage)
        half = int32(t // WARPGROUP * 64)
        line, beyond = (int32(0), half) if beside else (half, int32(0))  # the warpgroup's first line of either operand
        a, b = int32((0 if channels_last else x_size) + line * slab), int32((x_size if channels_last else 0) + beyond * slab)
        acc, get, step = sums(np.float32(0)), int32(0), int32(0)
        while step < left:
            arrived(shared)
            if rounds:
                round_x(shared, int32(get + mine[0]))
            publish(shared)
            cuda.syncthreads()
            acc = product(acc, shared, int32(get + a), int32(get + b), int32(t // 32 % 4))
            if int32(step + on_way) < left:
                at = fetched(shared, to, mine, x, bases, masks, w, table, entry, at, geo, int32(step + on_way + 1) < left)
            commit(shared)
            acc = settled(acc, shared)
            to = int32(0) if to == last_stage else int32(to + one_stage)
            get, step = int32(0) if get == last_stage else int32(get + one_stage), int32(step + 1)
        cuda.syncthreads()
        line = int32(line + t // 32 % 4 * 16 + t % 32 // 4)
        put(shared, int32(line * pitch + beyond + t % 4 * 2), acc)
        cuda.syncthreads()
        y_base, b_base = int32(piece * geo.out_size + group * geo.y_group), int32(group * geo.columns)
        write(y, bias, geo, shared, place, t, y_base, b_base, first_column)

    size = (on_way + 1) * one_stage * cell.itemsize
    return Kernel(wgmma_product, (cell, cell, out, cell, np.int32), Geometry, THREADS, v.resident, shared=size, only=CAPABILITY)
