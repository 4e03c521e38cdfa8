"""The kernel of fprop and dgrad on tensor cores: `_product` in tf32, bfloat16 or float16. One source for every variant."""

from __future__ import annotations

import functools

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._geometry import FIRST_ENTRY, NOWHERE, PHASE_SIZE, ROWS, SLABS, W_FIRST, Geometry
from numbaconv.cuda._prims import commit, copy16, divide, forgotten, int32, tile, wait
from numbaconv.cuda._product import begin, position
from numbaconv.cuda._store import THREADS
from numbaconv.cuda._tensor_layout import Variant, cell_of, gather, reader, vector_mask_of
from numbaconv.cuda._tensor_prims import multiply, put_vector, round_tf32
from numbaconv.cuda._tensor_store import writer

STAGES = 3  # slabs in shared memory: one is multiplied, two are on their way


@functools.cache
def kernel(v: Variant) -> Kernel:
    """Return the kernel of a variant; sizes, strides, dilations, padding, filters and groups are read from the table."""
    word = 4 // v.cell.itemsize
    vector = 4 * word
    pixels, columns, slab, threads, cell, vectors = v.pixels, v.columns, v.slab, v.threads, v.cell, v.vectors
    lanes = threads // pixels
    one_stage = slab * (pixels + columns)
    all_stages, last_stage, x_half = STAGES * one_stage, (STAGES - 1) * one_stage, slab * columns
    w_copies = columns * slab // vector // threads
    warps = (pixels if v.channels_last else columns) // 64  # along the side of the product's rows
    channels_last, aligned, tf32 = v.channels_last, v.aligned, v.kind == "tf32"
    by_registers = not (vectors or tf32)
    fetch_x, keep_x = gather(v)
    if keep_x is None:
        keep_x = fetch_x  # never called
    product = multiply(v.kind, slab, 0 if vectors else pixels, channels_last)
    write = writer(v)

    def fetch_weights(w, shared, put, at, t):  # type: ignore[no-untyped-def]
        """Start to copy a slab's weights, which lie in memory as they shall lie here."""
        for j in range(w_copies):
            by = int32(int32(t + j * threads) * vector)
            copy16(shared, put, int32(0), by, w, int32(at + by), True)

    def share_of(t):  # type: ignore[no-untyped-def]
        """Return the pixel that a thread gathers, its first row of the contraction and where that goes."""
        if vectors:
            pixel, part = int32(t // lanes), int32(t % lanes)
            place = int32(pixel * slab + int32(part ^ vector_mask_of(slab, word, pixel)) * vector)
            return pixel, int32(part * vector), int32(x_half + place)
        pixel, row = int32(t % pixels), int32(t // pixels * (slab // lanes))
        return pixel, row, int32(x_half + row * pixels + pixel)

    def warp_of(t):  # type: ignore[no-untyped-def]
        """Return the first pixel and the first column of a thread's warp."""
        first, second = int32(t // 32 % warps * 64), int32(t // 32 // warps * 32)
        if channels_last:
            return first, second
        return second, first

    def owned_by(t):  # type: ignore[no-untyped-def]
        """Return the first pixel and the first column that a thread has sums of."""
        m, k = warp(t)
        ahead, beside = int32(t % 32 // 4), int32(t % 4 * 2)
        if channels_last:
            return int32(m + ahead), int32(k + beside)
        return int32(m + beside), int32(k + ahead)

    w_lines, x_lines = reader(v, False), reader(v, True)
    fetch_w, share, warp = device(fetch_weights), device(share_of), device(warp_of)
    owned = device(owned_by)

    def tensor_product(x, w, y, bias, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[pixel, k] = Σ_tap Σ_c x[pixel's input + tap, c] · w[tap, c, k] for one phase and group, in 16 × 8 products.
        # THE SCHEDULE: a block owns pixels × columns outputs, a warp 64 × 32 of them in registers. Slabs of the contraction pass through
        # three stages of shared memory: asynchronous copies fill two while one is multiplied. (x of 16 bits in single elements comes
        # through registers.) The contraction is cut into geo.pieces, each with its own place in y.
        shared = cuda.shared.array(all_stages, cell, alignment=256)
        t = int32(cuda.threadIdx.x)
        rest, group = divide(int32(cuda.blockIdx.z), geo.groups)
        piece, phase = divide(rest, geo.phases)
        phase = int32(phase * PHASE_SIZE)
        first_row, first_column = int32(int32(cuda.blockIdx.x) * pixels), int32(int32(cuda.blockIdx.y) * columns)
        rows, slabs = table[int32(phase + ROWS)], table[int32(phase + SLABS)]
        if first_row >= rows:
            return
        first = begin(slabs, piece, geo.pieces)
        left = int32(begin(slabs, int32(piece + 1), geo.pieces) - first)
        # What a thread fetches: a part of one pixel's rows of x, and of the weights.
        pixel, row, x_put = share(t)
        n, z, p, q = position(table, phase, int32(first_row + pixel))
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        base = int32(n * geo.x_n + group * geo.x_group + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w)
        if int32(first_row + pixel) >= rows:
            w0 = int32(NOWHERE)
        entry, channel = divide(first, geo.per_entry)
        if aligned:
            entry, channel = int32(table[int32(phase + FIRST_ENTRY)] + entry * 4), int32(channel * geo.x_slab)
            base = int32(base + channel + row * geo.x_c)
        else:
            entry = int32(table[int32(phase + FIRST_ENTRY)] + (first * slab + row) * 4)
        w_at = int32(table[int32(phase + W_FIRST)] + (first * geo.w_row + group * geo.padded_columns + first_column) * slab)
        x_first, w_first = warp(t)
        x_get, w_get = int32(x_half + x_lines(int32(t % 32), x_first)), w_lines(int32(t % 32), w_first)
        acc, put, get, step = tile(np.float32(0)), int32(0), int32(one_stage), int32(-2)
        while step < left:
            wait(shared)
            cuda.syncthreads()
            more = int32(step + 2) < left
            if more:
                fetch_w(w, shared, put, w_at, t)
                if by_registers:
                    loaded = fetch_x(x, table, geo, entry, base, d0, h0, w0)
                else:
                    fetch_x(x, shared, int32(put + x_put), table, geo, entry, base, d0, h0, w0)
                w_at = int32(w_at + slab * geo.w_row)
                if aligned:
                    channel, base = int32(channel + geo.x_slab), int32(base + geo.x_slab)
                    if channel == geo.x_group:
                        channel, base, entry = int32(0), int32(base - geo.x_group), int32(entry + 4)
                else:
                    entry = int32(entry + 4 * slab)
            commit(shared)
            if step >= int32(0):
                acc = product(acc, shared, int32(get + w_get), int32(get + x_get))
            if by_registers:
                if more:
                    keep_x(shared, int32(put + x_put), loaded)
            put, get, step = get, int32(0) if get == last_stage else int32(get + one_stage), int32(step + 1)
        m, k = owned(forgotten(t))
        y_base = int32(piece * geo.out_size + group * geo.y_group)
        write(y, bias, table, geo, forgotten(phase), group, y_base, int32(first_row + m), int32(first_column + k), acc)

    out = np.dtype(np.float32) if v.partial else cell
    crowded = by_registers and not aligned and slab // lanes > 8  # 16 elements on their way, each by a tap of its own: 168 registers
    resident = 384 if crowded else 512  # threads of a multiprocessor
    return Kernel(tensor_product, (cell, cell, out, cell, np.int32), Geometry, threads, resident // threads)


@functools.cache
def pack(kind: str) -> Kernel:
    """Return the kernel that packs weights as blocks will hold them, rounded to what tensor cores read."""
    cell = cell_of(kind)
    word = 4 // cell.itemsize
    vector, zero, tf32 = 4 * word, cell.type(0), kind == "tf32"

    def one(w, rows, first, i, filled, column):  # type: ignore[no-untyped-def]
        source = rows[int32(first + i)]
        value = w[int32(source + column)] if filled and source >= int32(0) else zero
        return round_tf32(value) if tf32 else value

    def four(w, rows, first, filled, column):  # type: ignore[no-untyped-def]
        v0, v1 = row(w, rows, first, int32(0), filled, column), row(w, rows, first, int32(1), filled, column)
        return v0, v1, row(w, rows, first, int32(2), filled, column), row(w, rows, first, int32(3), filled, column)

    def eight(w, rows, first, filled, column):  # type: ignore[no-untyped-def]
        a, b = quad(w, rows, first, filled, column), quad(w, rows, int32(first + 4), filled, column)
        return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]

    row, quad = device(one), device(four)
    gathered = quad if vector == 4 else device(eight)

    def pack_weights(w, rows, packed, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: packed[slab, group, column, place of row] = w[rows[row] + group's and column's offset], or 0 beyond the last column.
        # THE SCHEDULE: a thread owns 16 bytes of a column's rows; its neighbours have the same rows' other taps, which lie beside them in w.
        size, groups, columns, padded, from_column, from_group, slab, taps, per_tap = sizes
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at < divide(size, int32(vector))[0]:
            rest, which = divide(at, divide(slab, int32(vector))[0])
            rest, tap = divide(rest, taps)
            rest, column = divide(rest, padded)
            number, group = divide(rest, groups)
            number = int32(tap * per_tap + number)
            to = int32(((number * groups + group) * padded + column) * slab + which * vector)
            first = int32(number * slab + int32(which ^ vector_mask_of(slab, word, column)) * vector)
            values = gathered(w, rows, first, column < columns, int32(group * from_group + column * from_column))
            put_vector(packed, to, values)

    return Kernel(pack_weights, (cell, np.int32, cell), 9, THREADS)
