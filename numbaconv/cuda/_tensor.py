"""The kernel of fprop and dgrad on tensor cores: `_product` in tf32, bfloat16 or float16. One source for every variant."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._geometry import FIRST_ENTRY, NOWHERE, PHASE_SIZE, ROWS, SLABS, W_FIRST, Geometry
from numbaconv.cuda._prims import divide, forgotten, int32, load4, tile, within
from numbaconv.cuda._product import address, moved, position
from numbaconv.cuda._store import PER_BLOCK, THREADS, activation
from numbaconv.cuda._tensor_prims import commit, copy4, copy16, multiply, narrow, round_tf32, store2, wait, widen

RESIDENT_THREADS = 512  # of a multiprocessor: 128 registers each
STAGES = 3  # slabs in shared memory: one is multiplied, two are on their way


class Variant(NamedTuple):
    """What is frozen into a kernel."""

    kind: str  # tf32, bf16 or f16
    pixels: int
    columns: int
    slab: int  # rows of the contraction that are multiplied between two barriers: 8 or 16 words of each pixel and column
    channels_last: bool
    vectors: bool  # whether x is copied 16 bytes, neighbouring channels, at a time
    aligned: bool  # whether the channels of a group fill slabs
    depth: bool  # whether there is a third axis
    activation: str | None
    partial: bool  # whether y takes float32 sums that something is added to

    @property
    def cell(self) -> np.dtype[Any]:
        """The dtype of the arrays: 16-bit formats are read as patterns."""
        return np.dtype(np.float32 if self.kind == "tf32" else np.uint16)

    @property
    def threads(self) -> int:
        """A warp owns 64 × 32 outputs."""
        return self.pixels * self.columns // 64


# The shared memory of a stage holds the weights' tile, then x's. The weights lie by columns and x, if copied by vectors, by pixels, the
# slab's rows side by side; which vector of 16 bytes of a line stands where is a permutation by the line's number, so that the eight lines
# that one ldmatrix reads lie in different banks. Otherwise x lies by rows of the contraction, its pixels permuted in vectors of eight.


def vector_mask(slab: int, word: int, line: int) -> int:
    """Return what a vector's number within its line is xor-ed with; kernels call it too."""
    return int32(line >> 1 & 3) if slab == 16 * word else int32(line >> 2 & 1)


vector_mask_of = device(vector_mask)


def _gather(v: Variant) -> tuple[Any, Any]:
    """Return how a thread's part of a slab of x is read and how it is kept: at once by asynchronous copies, or through registers."""
    lanes = v.threads // v.pixels  # threads of a pixel
    each = v.slab // lanes  # rows of each
    vector = 16 // v.cell.itemsize  # elements
    aligned, depth, pixels, through_registers = v.aligned, v.depth, v.pixels, v.kind != "tf32"
    zero = v.cell.type(0)

    def inside_of(table, geo, entry, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Return where a tap leads and whether that is within the input."""
        tap = load4(table, entry)
        inside = within(int32(h0 + tap[2]), geo.in_h) and within(int32(w0 + tap[3]), geo.in_w)
        if depth:
            inside = inside and within(int32(d0 + tap[1]), geo.in_d)
        return tap[0], inside

    def by_vectors(x, shared, put, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        offset, inside = reached(table, geo, entry, d0, h0, w0)
        at = int32(base + offset) if inside else int32(0)
        for j in range(0, each, vector):
            copy16(shared, int32(put ^ int32(j * lanes)), x, int32(at + j * lanes), inside)

    def by_elements(x, shared, put, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        if aligned:
            offset, inside = reached(table, geo, entry, d0, h0, w0)
            at, step = int32(base + offset) if inside else int32(0), geo.x_c if inside else int32(0)
            for j in range(each):
                copy4(shared, int32(int32(put + j * pixels) ^ int32(j % 8 * 8)), x, at, inside)
                at = int32(at + step)
        else:
            for j in range(each):
                offset, inside = reached(table, geo, int32(entry + 4 * j), d0, h0, w0)
                copy4(shared, int32(int32(put + j * pixels) ^ int32(j % 8 * 8)), x, int32(base + offset) if inside else int32(0), inside)

    def four(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        if aligned:
            offset, inside = reached(table, geo, entry, d0, h0, w0)
            at, c = int32(base + offset), geo.x_c
            if inside:
                return x[at], x[int32(at + c)], x[int32(at + 2 * c)], x[int32(at + 3 * c)]
            return zero, zero, zero, zero
        i, e = reached(table, geo, entry, d0, h0, w0), reached(table, geo, int32(entry + 4), d0, h0, w0)
        v0, v1 = x[int32(base + i[0])] if i[1] else zero, x[int32(base + e[0])] if e[1] else zero
        i, e = reached(table, geo, int32(entry + 8), d0, h0, w0), reached(table, geo, int32(entry + 12), d0, h0, w0)
        return v0, v1, x[int32(base + i[0])] if i[1] else zero, x[int32(base + e[0])] if e[1] else zero

    def load8(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        further = int32(0 if aligned else 16)
        a, b = four_of(x, table, geo, entry, base, d0, h0, w0), four_of(x, table, geo, int32(entry + further), int32(base + quad(geo)), d0, h0, w0)
        return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]

    def quad_of(geo):  # type: ignore[no-untyped-def]
        return int32(4 * geo.x_c if aligned else 0)

    def load16(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        further = int32(0 if aligned else 32)
        first = eight_of(x, table, geo, entry, base, d0, h0, w0)
        return first, eight_of(x, table, geo, int32(entry + further), int32(base + 2 * quad(geo)), d0, h0, w0)

    def keep8(shared, put, values):  # type: ignore[no-untyped-def]
        shared[put], shared[int32(int32(put + pixels) ^ 8)] = values[0], values[1]
        shared[int32(int32(put + 2 * pixels) ^ 16)], shared[int32(int32(put + 3 * pixels) ^ 24)] = values[2], values[3]
        shared[int32(int32(put + 4 * pixels) ^ 32)], shared[int32(int32(put + 5 * pixels) ^ 40)] = values[4], values[5]
        shared[int32(int32(put + 6 * pixels) ^ 48)], shared[int32(int32(put + 7 * pixels) ^ 56)] = values[6], values[7]

    def keep16(shared, put, values):  # type: ignore[no-untyped-def]
        keep_eight(shared, put, values[0])
        keep_eight(shared, int32(put + 8 * pixels), values[1])

    reached = device(inside_of)
    if v.vectors or not through_registers:
        return device(by_vectors if v.vectors else by_elements), None
    four_of, quad, keep_eight = device(four), device(quad_of), device(keep8)
    eight_of = device(load8)
    return (eight_of, keep_eight) if each == 8 else (device(load16), device(keep16))


def _write(v: Variant) -> Any:
    """Return how a warp's sums become outputs: a thread has 8 rows, 8 apart, of 4 pairs of neighbours in memory, 8 apart too."""
    zero, out = np.float32(0), v.cell if not v.partial else np.dtype(np.float32)
    plain = out == np.float32
    wider, narrower = (None, None) if plain else (widen(v.kind), narrow(v.kind))
    activate = activation(None if v.partial else v.activation, np.dtype(np.float32))
    partial = v.partial

    def finished(value, shift):  # type: ignore[no-untyped-def]
        if partial:
            return value
        if plain:
            return activate(value + shift)
        return narrower(activate(value + shift))

    def shift_of(bias, geo, at, inside):  # type: ignore[no-untyped-def]
        if partial:
            return zero
        if geo.has_bias and inside:
            if plain:
                return bias[at]
            return wider(bias[at])
        return zero

    def pair(y, a0, a1, v0, v1, b0, b1, vector):  # type: ignore[no-untyped-def]
        if vector:
            if a0 >= int32(0):
                store2(y, a0, done(v0, b0), done(v1, b1))
        else:
            if a0 >= int32(0):
                y[a0] = done(v0, b0)
            if a1 >= int32(0):
                y[a1] = done(v1, b1)

    def row_of_pixels(y, bias, geo, y_base, at, column, values, b_first):  # type: ignore[no-untyped-def]
        """Store 8 pixels of one channel."""
        inside, by, vector = column < geo.columns, int32(y_base + column * geo.y_k), geo.vector != 0
        b = shift(bias, geo, int32(b_first + column), inside)
        put(y, moved(at[0], by, inside), moved(at[1], by, inside), values[0], values[1], b, b, vector)
        put(y, moved(at[2], by, inside), moved(at[3], by, inside), values[2], values[3], b, b, vector)
        put(y, moved(at[4], by, inside), moved(at[5], by, inside), values[4], values[5], b, b, vector)
        put(y, moved(at[6], by, inside), moved(at[7], by, inside), values[6], values[7], b, b, vector)

    def two_channels(y, bias, geo, y_base, pixel, column, v0, v1, b_first):  # type: ignore[no-untyped-def]
        by, i0, i1 = int32(y_base + column), column < geo.columns, int32(column + 1) < geo.columns
        at = int32(b_first + column)
        b0, b1 = shift(bias, geo, at, i0), shift(bias, geo, int32(at + 1), i1)
        put(y, moved(pixel, by, i0), moved(pixel, int32(by + 1), i1), v0, v1, b0, b1, geo.vector != 0)

    def row_of_channels(y, bias, geo, y_base, pixel, column, values, b_first):  # type: ignore[no-untyped-def]
        """Store 8 channels of one pixel."""
        two(y, bias, geo, y_base, pixel, column, values[0], values[1], b_first)
        two(y, bias, geo, y_base, pixel, int32(column + 8), values[2], values[3], b_first)
        two(y, bias, geo, y_base, pixel, int32(column + 16), values[4], values[5], b_first)
        two(y, bias, geo, y_base, pixel, int32(column + 24), values[6], values[7], b_first)

    def eight_pixels(table, geo, phase, m):  # type: ignore[no-untyped-def]
        a0, a1 = address(table, geo, phase, m), address(table, geo, phase, int32(m + 1))
        a2, a3 = address(table, geo, phase, int32(m + 8)), address(table, geo, phase, int32(m + 9))
        a4, a5 = address(table, geo, phase, int32(m + 16)), address(table, geo, phase, int32(m + 17))
        return a0, a1, a2, a3, a4, a5, address(table, geo, phase, int32(m + 24)), address(table, geo, phase, int32(m + 25))

    def tile_pixels(y, bias, table, geo, phase, group, y_base, m, k, acc):  # type: ignore[no-untyped-def]
        at, b = addresses(table, geo, phase, m), int32(group * geo.columns)
        row(y, bias, geo, y_base, at, k, acc[0:8], b)
        row(y, bias, geo, y_base, at, int32(k + 8), acc[8:16], b)
        row(y, bias, geo, y_base, at, int32(k + 16), acc[16:24], b)
        row(y, bias, geo, y_base, at, int32(k + 24), acc[24:32], b)
        row(y, bias, geo, y_base, at, int32(k + 32), acc[32:40], b)
        row(y, bias, geo, y_base, at, int32(k + 40), acc[40:48], b)
        row(y, bias, geo, y_base, at, int32(k + 48), acc[48:56], b)
        row(y, bias, geo, y_base, at, int32(k + 56), acc[56:64], b)

    def tile_channels(y, bias, table, geo, phase, group, y_base, m, k, acc):  # type: ignore[no-untyped-def]
        b = int32(group * geo.columns)
        row(y, bias, geo, y_base, address(table, geo, phase, m), k, acc[0:8], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 8)), k, acc[8:16], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 16)), k, acc[16:24], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 24)), k, acc[24:32], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 32)), k, acc[32:40], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 40)), k, acc[40:48], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 48)), k, acc[48:56], b)
        row(y, bias, geo, y_base, address(table, geo, phase, int32(m + 56)), k, acc[56:64], b)

    done, shift = device(finished), device(shift_of)
    put, two, addresses = device(pair), device(two_channels), device(eight_pixels)
    row = device(row_of_channels if v.channels_last else row_of_pixels)
    return device(tile_channels if v.channels_last else tile_pixels)


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
    gather, keep = _gather(v)
    if keep is None:
        keep = gather  # never called
    product = multiply(v.kind, slab, 0 if vectors else pixels, channels_last)
    write = _write(v)

    def of_rows(lane, first):  # type: ignore[no-untyped-def]
        """Return where a lane reads a fragment that lies by pixels or columns."""
        line = int32(lane % 16)
        return int32((first + line) * slab + int32(int32(lane // 16) ^ vector_mask_of(slab, word, line)) * vector)

    def of_pixels(lane, first):  # type: ignore[no-untyped-def]
        """Return where a lane reads a fragment that lies by rows of the contraction."""
        if tf32:
            k, pixel = int32(lane % 4), int32(lane // 4)
        else:
            k, pixel = int32(int32(lane // 16 * 8) + lane % 8), int32(lane // 8 % 2 * 8)
        return int32(k * pixels + int32(int32(first + pixel) ^ int32(k % 8 * 8)))

    def fetch_weights(w, shared, put, at, t):  # type: ignore[no-untyped-def]
        """Start to copy a slab's weights, which lie in memory as they shall lie here."""
        for j in range(w_copies):
            by = int32(int32(t + j * threads) * vector)
            copy16(shared, int32(put + by), w, int32(at + by), True)

    w_lines, x_lines, fetch = device(of_rows), device(of_rows if vectors else of_pixels), device(fetch_weights)

    def tensor_product(x, w, y, bias, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[pixel, k] = Σ_tap Σ_c x[pixel's input + tap, c] · w[tap, c, k] for one phase and group, in 16 × 8 products.
        # THE SCHEDULE: a block owns pixels × columns outputs, a warp 64 × 32 of them in registers. Slabs of the contraction pass through
        # three stages of shared memory: asynchronous copies fill two while one is multiplied. (x of 16 bits in single elements comes
        # through registers.) The contraction is cut into geo.parts pieces, each with its own place in y.
        shared = cuda.shared.array(all_stages, cell, alignment=128)
        t = int32(cuda.threadIdx.x)
        rest, group = divide(int32(cuda.blockIdx.z), geo.groups)
        piece, phase = divide(rest, geo.phases)
        phase = int32(phase * PHASE_SIZE)
        first_row, first_column = int32(int32(cuda.blockIdx.x) * pixels), int32(int32(cuda.blockIdx.y) * columns)
        rows, slabs = table[int32(phase + ROWS)], table[int32(phase + SLABS)]
        if first_row >= rows:
            return
        first = divide(int32(slabs * piece), geo.parts)[0]
        left = int32(divide(int32(slabs * int32(piece + 1)), geo.parts)[0] - first)
        # What a thread fetches: a part of one pixel's rows of x, and of the weights.
        pixel, share = (int32(t // lanes), int32(t % lanes)) if vectors else (int32(t % pixels), int32(t // pixels))
        n, z, p, q = position(table, phase, int32(first_row + pixel))
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        base = int32(n * geo.x_n + group * geo.x_group + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w)
        if int32(first_row + pixel) >= rows:
            w0 = int32(NOWHERE)
        row = int32(share * vector) if vectors else int32(share * (slab // lanes))
        x_put = int32(x_half + row * pixels + pixel)
        if vectors:
            x_put = int32(x_half + pixel * slab + int32(share ^ vector_mask_of(slab, word, pixel)) * vector)
        entry, channel = divide(first, geo.per_entry)
        if aligned:
            entry, channel = int32(table[int32(phase + FIRST_ENTRY)] + entry * 4), int32(channel * geo.x_slab)
            base = int32(base + channel + row * geo.x_c)
        else:
            entry = int32(table[int32(phase + FIRST_ENTRY)] + (first * slab + row) * 4)
        w_at = int32(table[int32(phase + W_FIRST)] + (first * geo.w_row + group * geo.padded_columns + first_column) * slab)
        # What its warp computes.
        a_first, b_first = int32(t // 32 % warps * 64), int32(t // 32 // warps * 32)
        x_first, w_first = (a_first, b_first) if channels_last else (b_first, a_first)
        x_get, w_get = int32(x_half + x_lines(int32(t % 32), x_first)), w_lines(int32(t % 32), w_first)
        acc, put, get, step = tile(np.float32(0)), int32(0), int32(one_stage), int32(-2)
        while step < left:
            wait(shared)
            cuda.syncthreads()
            more = int32(step + 2) < left
            if more:
                fetch(w, shared, put, w_at, t)
                if by_registers:
                    loaded = gather(x, table, geo, entry, base, d0, h0, w0)
                else:
                    gather(x, shared, int32(put + x_put), table, geo, entry, base, d0, h0, w0)
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
                    keep(shared, int32(put + x_put), loaded)
            put, get, step = get, int32(0) if get == last_stage else int32(get + one_stage), int32(step + 1)
        lane = forgotten(int32(t % 32))
        ahead, beside = int32(lane // 4), int32(lane % 4 * 2)
        m, k = int32(first_row + x_first + (ahead if channels_last else beside)), int32(first_column + w_first + (beside if channels_last else ahead))
        write(y, bias, table, geo, forgotten(phase), group, int32(piece * geo.out_size + group * geo.y_group), m, k, acc)

    out = np.dtype(np.float32) if v.partial else cell
    return Kernel(tensor_product, (cell, cell, out, cell, np.int32), Geometry, threads, RESIDENT_THREADS // threads)


@functools.cache
def pack(kind: str) -> Kernel:
    """Return the kernel that packs weights as blocks will hold them, rounded to what tensor cores read."""
    cell = np.dtype(np.float32 if kind == "tf32" else np.uint16)
    word = 4 // cell.itemsize
    vector, zero, tf32 = 4 * word, cell.type(0), kind == "tf32"

    def pack_weights(w, rows, packed, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: packed[slab, group, column, place of row] = w[rows[row] + group's and column's offset], or 0 beyond the last column.
        # THE SCHEDULE: a thread owns four elements, a block's width apart.
        size, groups, columns, padded, from_column, from_group, slab = sizes
        at = int32(int32(cuda.blockIdx.x) * PER_BLOCK + int32(cuda.threadIdx.x))
        for _ in range(4):
            if at < size:
                rest, place = divide(at, slab)
                rest, column = divide(rest, padded)
                number, group = divide(rest, groups)
                which, row = divide(place, int32(vector))
                which = int32(which ^ vector_mask_of(slab, word, column))
                source = rows[int32(number * slab + which * vector + row)]
                value = zero
                if source >= int32(0) and column < columns:
                    value = w[int32(source + group * from_group + column * from_column)]
                packed[at] = round_tf32(value) if tf32 else value
            at = int32(at + THREADS)

    return Kernel(pack_weights, (cell, np.int32, cell), 7, THREADS)
