"""The kernels of `stencil` for channels last: threads along channels, a tile of the input in shared memory, sums in registers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._formats import reading, rounding
from numbaconv.cuda._prims import divide, forgotten, int32, store4, within, zeros
from numbaconv.cuda._stencil_geometry import LastGeometry
from numbaconv.cuda._stencil_passes import CHUNK, Kind
from numbaconv.cuda._stencil_prims import add_tiles, correlate_last, correlate_last_gradient, store_tile
from numbaconv.cuda._stencil_tiles import MOST_LANES, SHARED_LAST, THREADS
from numbaconv.cuda._store import put4

LONGEST = 32  # tiles, 8 terms each, that wgrad sums in one accumulator


@device
def tile_of(geo, block):  # type: ignore[no-untyped-def]
    """Return the image, the first output and the first channel of a block, channels last."""
    rest, chunk = divide(block, geo.chunks)
    rest, tile_q = divide(rest, geo.tiles_q)
    n, tile_p = divide(rest, geo.tiles_p)
    return n, int32(tile_p * geo.tile_rows), int32(tile_q * geo.tile_columns), int32(chunk * geo.column)


@device
def place(geo, t, block):  # type: ignore[no-untyped-def]
    """Return a thread's row, column and quad in the tile, and its first channel."""
    rest, lane = divide(t, geo.lanes)
    row, column = divide(rest, geo.across)
    return row, column, lane, int32(divide(block, geo.chunks)[1] * geo.column + 4 * lane)


def _last_filler(dtype: np.dtype[Any], form: str | None = None) -> Any:
    """Return the function that copies what a block reads of one channel of each group into shared memory, zeros around the image."""
    zero, (one_of, four_of) = dtype.type(0), reading(form)

    def channel(x, geo, at, k, c):  # type: ignore[no-untyped-def]
        if k >= geo.out_channels:
            return zero
        return one_of(x, int32(at + divide(k, geo.filters)[0] * geo.channels + c))

    def fetch(x, geo, base, h, w, k, c, lane, column, row):  # type: ignore[no-untyped-def]
        h, w, k = int32(h + row), int32(w + column), int32(k + 4 * lane)
        if row >= geo.fill_h or not (within(h, geo.in_h) and within(w, geo.in_w)):
            return zero, zero, zero, zero
        at = int32(base + h * geo.x_h + w * geo.x_w)
        if geo.vector:
            return four_of(x, int32(at + k)) if k < geo.out_channels else (zero, zero, zero, zero)
        return of(x, geo, at, k, c), of(x, geo, at, int32(k + 1), c), of(x, geo, at, int32(k + 2), c), of(x, geo, at, int32(k + 3), c)

    def keep(shared, geo, lane, column, row, values):  # type: ignore[no-untyped-def]
        if row < geo.fill_h:
            store4(shared, int32(row * geo.pitch + column * geo.column + 4 * lane), values)

    def further(geo, lane, column, row):  # type: ignore[no-untyped-def]
        lane, column, row = int32(lane + geo.on_lanes), int32(column + geo.on_w), int32(row + geo.on_h)
        if lane >= geo.lanes:
            lane, column = int32(lane - geo.lanes), int32(column + 1)
        return (lane, int32(column - geo.fill_w), int32(row + 1)) if column >= geo.fill_w else (lane, column, row)

    of, fetch, keep, further = device(channel), device(fetch), device(keep), device(further)

    def fill(shared, x, geo, t, block, c, down):  # type: ignore[no-untyped-def]
        n, p0, q0, k = tile_of(geo, block)
        base = int32(n * geo.x_n)
        h, w = int32(p0 * geo.stride_h + geo.delta_h + down), int32(q0 * geo.stride_w + geo.delta_w)
        rest, l0 = divide(t, geo.lanes)
        r0, c0 = divide(rest, geo.fill_w)
        while r0 < geo.fill_h:  # four loads are under way before the first is waited for
            l1, c1, r1 = further(geo, l0, c0, r0)
            l2, c2, r2 = further(geo, l1, c1, r1)
            l3, c3, r3 = further(geo, l2, c2, r2)
            v0, v1 = fetch(x, geo, base, h, w, k, c, l0, c0, r0), fetch(x, geo, base, h, w, k, c, l1, c1, r1)
            v2, v3 = fetch(x, geo, base, h, w, k, c, l2, c2, r2), fetch(x, geo, base, h, w, k, c, l3, c3, r3)
            keep(shared, geo, l0, c0, r0, v0)
            keep(shared, geo, l1, c1, r1, v1)
            keep(shared, geo, l2, c2, r2, v2)
            keep(shared, geo, l3, c3, r3, v3)
            l0, c0, r0 = further(geo, l3, c3, r3)

    return device(fill)


@functools.cache
def kernel(dtype: np.dtype[Any], kind: Kind, activation: str | None, form: str | None = None) -> Kernel:
    """Return the kernel for channels last; ``form``: x and y are of a 16-bit format, everything else of ``dtype``."""
    zero, none, size, line, long = dtype.type(0), zeros(32), SHARED_LAST // dtype.itemsize, kind.line, kind.long
    fill, put, unrolled = _last_filler(dtype, form), put4(activation, dtype, *rounding(form)), kind.height > 0
    taps = correlate_last(max(1, kind.height), max(1, kind.width), kind.down, kind.across)

    def in_loops(acc, shared, w, geo, at, w_at):  # type: ignore[no-untyped-def]
        total, terms = none(zero), int32(0)
        for r in range(geo.taps_h):
            here = int32(at + int32(r) * geo.dilation_h * geo.pitch)
            for _ in range(geo.taps_w):
                acc = taps(acc, shared, here, geo.row_on, geo.column_on, w, w_at, int32(0))
                here, w_at = int32(here + geo.dilation_w * geo.column), int32(w_at + geo.w_tap)
                if long:
                    terms = int32(terms + 1)
                    if terms == CHUNK:
                        total, acc, terms = add_tiles(total, acc), none(zero), int32(0)
        return add_tiles(total, acc) if long else acc

    def at_once(acc, shared, w, geo, at, w_at):  # type: ignore[no-untyped-def]
        # Forgotten, or every address would be kept from channel to channel.
        return taps(acc, shared, forgotten(at), forgotten(geo.row_on), forgotten(geo.column), w, w_at, forgotten(geo.w_tap))

    def write(y, bias, geo, y_at, p, q, k, channel, values):  # type: ignore[no-untyped-def]
        if p < geo.count_p and q < geo.count_q:
            b0 = b1 = b2 = b3 = zero
            i1, i2, i3 = int32(k + 1) < geo.out_channels, int32(k + 2) < geo.out_channels, int32(k + 3) < geo.out_channels
            if geo.has_bias:
                b0 = bias[k]
                b1, b2 = bias[int32(k + 1)] if i1 else zero, bias[int32(k + 2)] if i2 else zero
                b3 = bias[int32(k + 3)] if i3 else zero
            a0 = int32(y_at + p * geo.y_row + q * geo.y_column + k)
            a1, a2, a3 = int32(a0 + 1) if i1 else int32(-1), int32(a0 + 2) if i2 else int32(-1), int32(a0 + 3) if i3 else int32(-1)
            put(y, a0, a1, a2, a3, values, (b0, b1, b2, b3), True, geo.vector != 0)

    sums, write = device(at_once if unrolled else in_loops), device(write)

    def write_row(y, bias, geo, y_at, p, q, k, values):  # type: ignore[no-untyped-def]
        write(y, bias, geo, y_at, p, q, k, k, values[0:4])
        write(y, bias, geo, y_at, p, int32(q + 1), k, k, values[4:8])
        write(y, bias, geo, y_at, p, int32(q + 2), k, k, values[8:12])
        write(y, bias, geo, y_at, p, int32(q + 3), k, k, values[12:16])

    write_row = device(write_row)

    def stencil_last(x, w, y, bias, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n, p, q, k] = Σ_c Σ_r Σ_s x[n, delta + p·stride + r·dilation, …, c] · w[c, r, s, k], c in the group of k.
        # THE SCHEDULE: a block owns a tile of rows × columns of some quads of channels and copies what that reads to shared memory, one
        # channel of each group at a time. Threads lie along quads of channels; one owns 2 rows × 4 columns of a quad in registers.
        shared = cuda.shared.array(size, dtype, alignment=16)
        t, block = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        row, column, lane, k = place(geo, t, block)
        at, w_at = int32(row * 2 * geo.stride_h * geo.pitch + column * 4 * geo.stride_w * geo.column + 4 * lane), k
        busy = row < geo.down and k < geo.out_channels
        acc = none(zero)
        for c in range(geo.channels):
            fill(shared, x, geo, forgotten(t), forgotten(block), int32(c), int32(0))
            cuda.syncthreads()
            if busy:
                acc = sums(acc, shared, w, geo, at, w_at)
            w_at = int32(w_at + geo.taps_h * geo.taps_w * geo.w_tap)
            cuda.syncthreads()
        if busy:
            n, p, q, _ = tile_of(geo, forgotten(block))
            row, column, _, k = place(geo, forgotten(t), forgotten(block))
            y_at, p, q = int32(n * geo.y_n + geo.y_first), int32(p + row * 2), int32(q + column * 4)
            p_on, q_on = (int32(0), int32(4 * geo.across)) if line else (int32(1), int32(0))
            write_row(y, bias, geo, y_at, p, q, k, acc[0:16])
            write_row(y, bias, geo, y_at, int32(p + p_on), int32(q + q_on), k, acc[16:32])

    resident = 3 if kind.height * kind.down > 8 else 4
    cell = dtype if form is None else np.dtype(np.uint16)
    return Kernel(stencil_last, (cell, dtype, cell, dtype), LastGeometry, THREADS, resident * 4 // dtype.itemsize)


def _gradient(kind: Kind, dtype: np.dtype[Any], form: str | None) -> Any:
    """Return the function that adds a thread's 2 × 4 outputs of 4 channels to its sums, one for each tap of a row and channel."""
    zero, line, add = dtype.type(0), kind.line, correlate_last_gradient(kind.width, kind.across)
    one_of, four_of = reading(form)

    def four(dy, geo, y_at, p, q, k):  # type: ignore[no-untyped-def]
        if p >= geo.count_p or q >= geo.count_q:
            return zero, zero, zero, zero
        at = int32(y_at + p * geo.y_row + q * geo.y_column + k)
        if geo.vector:
            return four_of(dy, at)
        left = int32(geo.out_channels - k)
        v1 = one_of(dy, int32(at + 1)) if left > int32(1) else zero
        v2 = one_of(dy, int32(at + 2)) if left > int32(2) else zero
        return one_of(dy, at), v1, v2, (one_of(dy, int32(at + 3)) if left > int32(3) else zero)

    four = device(four)

    def row_of_outputs(dy, geo, y_at, p, q, k):  # type: ignore[no-untyped-def]
        a, b = four(dy, geo, y_at, p, q, k), four(dy, geo, y_at, p, int32(q + 1), k)
        c, d = four(dy, geo, y_at, p, int32(q + 2), k), four(dy, geo, y_at, p, int32(q + 3), k)
        return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]

    row_of_outputs = device(row_of_outputs)

    def gradient(acc, shared, dy, geo, t, block):  # type: ignore[no-untyped-def]
        n, p, q, _ = tile_of(geo, block)
        row, column, lane, k = place(geo, t, block)
        if row >= geo.down or k >= geo.out_channels:
            return acc
        y_at, p, q = int32(n * geo.y_n + geo.y_first), int32(p + row * 2), int32(q + column * 4)
        at = int32(row * 2 * geo.stride_h * geo.pitch + column * 4 * geo.stride_w * geo.column + 4 * lane)
        acc = add(acc, shared, at, geo.column, row_of_outputs(dy, geo, y_at, p, q, k))
        p, q = (p, int32(q + 4 * geo.across)) if line else (int32(p + 1), q)
        return add(acc, shared, int32(at + geo.row_on), geo.column, row_of_outputs(dy, geo, y_at, p, q, k))

    return device(gradient)


@functools.cache
def kernel_gradient(dtype: np.dtype[Any], kind: Kind, form: str | None = None) -> Kernel:
    """Return the kernel of wgrad, channels last; ``form``: dy and x are of a 16-bit format."""
    size, own, width, wide, zero = SHARED_LAST // dtype.itemsize, 4 * kind.width, kind.width, np.float64(0), dtype.type(0)
    fill, gradient, none, most = _last_filler(dtype, form), _gradient(kind, dtype, form), zeros(4 * kind.width), MOST_LANES * 4 * kind.width

    def stencil_wgrad_last(dy, x, dw, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, c, r, s] = Σ_n Σ_p Σ_q dy[n, p, q, k] · x[n, delta + p·stride + r·dilation, …, c], c in the group of k.
        # THE SCHEDULE: a block owns a piece of the tiles of one row r of the filters of some quads of channels. A thread owns 2 rows × 4
        # columns of a quad and keeps a sum for each s; after LONGEST tiles the sums of all threads are added, in an order that is fixed.
        shared = cuda.shared.array(size, dtype, alignment=16)
        totals = cuda.shared.array(most, np.float64)
        t = int32(cuda.threadIdx.x)
        rest, chunk = divide(int32(cuda.blockIdx.x), geo.chunks)
        rest, r = divide(rest, geo.taps_h)
        piece, c = divide(rest, geo.channels)
        tile = divide(int32(geo.tiles * piece), geo.pieces)[0]
        stop = divide(int32(geo.tiles * int32(piece + 1)), geo.pieces)[0]
        sums = int32(geo.lanes * own)  # of a block, each by one thread
        for i in range(t, sums, THREADS):
            totals[i] = wide
        acc, held = none(zero), int32(0)
        while tile < stop:
            fill(shared, x, geo, t, int32(tile * geo.chunks + chunk), c, int32(r * geo.dilation_h))
            cuda.syncthreads()
            acc = gradient(acc, shared, dy, geo, t, int32(tile * geo.chunks + chunk))
            tile, held = int32(tile + 1), int32(held + 1)
            cuda.syncthreads()
            if held == LONGEST or tile == stop:
                store_tile(shared, int32(t * own), acc)
                cuda.syncthreads()
                for i in range(t, sums, THREADS):
                    total = totals[i]
                    for slot in range(geo.across * geo.down):
                        total = total + shared[int32(slot * sums + i)]
                    totals[i] = total
                acc, held = none(zero), int32(0)
                cuda.syncthreads()
        for i in range(t, sums, THREADS):
            lane, which = divide(int32(i), own)
            s, e = divide(which, 4)
            k = int32(chunk * geo.column + lane * 4 + e)
            if k < geo.out_channels:
                to = int32((k * geo.channels + c) * geo.taps_h * width + geo.w_first + r * geo.w_row + s * geo.w_column)
                dw[int32(piece * geo.w_size + to)] = totals[i]

    cell = dtype if form is None else np.dtype(np.uint16)
    return Kernel(stencil_wgrad_last, (cell, cell, dtype), LastGeometry, THREADS, 4 * 4 // dtype.itemsize)
