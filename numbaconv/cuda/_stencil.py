"""The kernels of `stencil` for channels first: a tile of the input in shared memory, filters swept over it, sums in registers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._formats import reading, rounding
from numbaconv.cuda._prims import divide, int32, load4, within, zeros
from numbaconv.cuda._stencil_geometry import Geometry
from numbaconv.cuda._stencil_passes import CHUNK, Kind
from numbaconv.cuda._stencil_prims import add_tiles, correlate, correlate_gradient, store_tile, tap, warp_sums
from numbaconv.cuda._stencil_tiles import PHASE_SIZE, SHARED, THREADS
from numbaconv.cuda._store import put4

RUN = 8  # neighbouring taps taken at once
WARPS = THREADS // 32
LONGEST = 16  # tiles, 16 terms each, that wgrad sums in one accumulator


def _filler(dtype: np.dtype[Any], parts: int, form: str | None = None) -> Any:
    """Return the function that copies what a block reads into shared memory, zeros around the image."""
    zero, (one_of, four_of) = dtype.type(0), reading(form)

    def fetch(x, geo, planes, base, h, w, column, row, plane):  # type: ignore[no-untyped-def]
        h = int32(h + row)
        if plane >= planes or not within(h, geo.in_h):
            return zero, zero, zero, zero
        at = int32(base + plane * geo.plane + h * geo.in_w)
        if geo.vector_in:
            w = int32(w + 4 * column)
            return four_of(x, int32(at + w)) if within(w, geo.in_w) else (zero, zero, zero, zero)
        w0 = int32(w + column)
        w1, w2, w3 = int32(w0 + geo.fill_w), int32(w0 + 2 * geo.fill_w), int32(w0 + 3 * geo.fill_w)
        v0 = one_of(x, int32(at + w0)) if within(w0, geo.in_w) else zero
        v1 = one_of(x, int32(at + w1)) if within(w1, geo.in_w) else zero
        v2 = one_of(x, int32(at + w2)) if within(w2, geo.in_w) else zero
        return v0, v1, v2, (one_of(x, int32(at + w3)) if within(w3, geo.in_w) else zero)

    def keep_one(shared, geo, at, column, value):  # type: ignore[no-untyped-def]
        if within(column, geo.width):
            if parts == 2:
                shared[int32(at + (column & 1) * geo.part + (column >> 1))] = value
            else:
                shared[int32(at + column)] = value

    def keep(shared, geo, planes, shift, column, row, plane, values):  # type: ignore[no-untyped-def]
        if plane < planes:
            at = int32((plane * geo.fill_h + row) * geo.pitch)
            first, on = (int32(4 * column - shift), int32(1)) if geo.vector_in else (column, geo.fill_w)
            one(shared, geo, at, first, values[0])
            one(shared, geo, at, int32(first + on), values[1])
            one(shared, geo, at, int32(first + 2 * on), values[2])
            one(shared, geo, at, int32(first + 3 * on), values[3])

    def further(geo, column, row, plane):  # type: ignore[no-untyped-def]
        column, row, plane = int32(column + geo.on_w), int32(row + geo.on_h), int32(plane + geo.on_planes)
        if column >= geo.fill_w:
            column, row = int32(column - geo.fill_w), int32(row + 1)
        return (column, int32(row - geo.fill_h), int32(plane + 1)) if row >= geo.fill_h else (column, row, plane)

    one, fetch, keep, further = device(keep_one), device(fetch), device(keep), device(further)

    def fill(shared, x, geo, t, base, planes, p0, q0):  # type: ignore[no-untyped-def]
        h, w, shift = int32(p0 * geo.stride_h + geo.delta_h), int32(q0 * geo.stride_w + geo.delta_w), int32(0)
        if geo.vector_in:
            shift = int32(w & 3)
            w = int32(w - shift)
        rest, c0 = divide(t, geo.fill_w)
        n0, r0 = divide(rest, geo.fill_h)
        while n0 < planes:  # four loads are under way before the first is waited for
            c1, r1, n1 = further(geo, c0, r0, n0)
            c2, r2, n2 = further(geo, c1, r1, n1)
            c3, r3, n3 = further(geo, c2, r2, n2)
            v0, v1 = fetch(x, geo, planes, base, h, w, c0, r0, n0), fetch(x, geo, planes, base, h, w, c1, r1, n1)
            v2, v3 = fetch(x, geo, planes, base, h, w, c2, r2, n2), fetch(x, geo, planes, base, h, w, c3, r3, n3)
            keep(shared, geo, planes, shift, c0, r0, n0, v0)
            keep(shared, geo, planes, shift, c1, r1, n1, v1)
            keep(shared, geo, planes, shift, c2, r2, n2, v2)
            keep(shared, geo, planes, shift, c3, r3, n3, v3)
            c0, r0, n0 = further(geo, c3, r3, n3)

    return device(fill)


def _sums(kind: Kind, dtype: np.dtype[Any]) -> Any:
    """Return the function that gives a thread's 4 × 4 sums for one filter."""
    zero, none = dtype.type(0), zeros(16)
    run_of_taps, half_run, three, two, one = (correlate(1, count, 1, 1) for count in (RUN, RUN // 2, 3, 2, 1))
    runs, long = kind.runs, kind.long
    unrolled = correlate(kind.height, kind.width, kind.down, kind.across) if kind.height else None

    def in_loops(shared, w, geo, taps, at, w_at):  # type: ignore[no-untyped-def]
        taps_h, taps_w, dilation_h, dilation_w, w_row, w_column = taps
        acc, total, terms = none(zero), none(zero), int32(0)
        for c in range(geo.channels):
            for r in range(taps_h):
                row = int32(at + (int32(c) * geo.fill_h + int32(r) * dilation_h) * geo.pitch)
                weight, s = int32(w_at + int32(c) * geo.w_c + int32(r) * w_row), int32(0)
                if runs:
                    while s <= int32(taps_w - RUN):
                        acc = run_of_taps(acc, shared, int32(row + s), geo.row_on, int32(0), w, weight, int32(0), w_column)
                        s, weight = int32(s + RUN), int32(weight + RUN * w_column)
                        if long:
                            terms = int32(terms + RUN)
                            if terms >= CHUNK:
                                total, acc, terms = add_tiles(total, acc), none(zero), int32(0)
                    # The rest as short runs: taps one by one would have the lanes of a warp read every fourth number, from 8 banks of 32.
                    if s <= int32(taps_w - RUN // 2):
                        acc = half_run(acc, shared, int32(row + s), geo.row_on, int32(0), w, weight, int32(0), w_column)
                        s, weight = int32(s + RUN // 2), int32(weight + RUN // 2 * w_column)
                    left = int32(taps_w - s)
                    if left == int32(3):
                        acc = three(acc, shared, int32(row + s), geo.row_on, int32(0), w, weight, int32(0), w_column)
                    elif left == int32(2):
                        acc = two(acc, shared, int32(row + s), geo.row_on, int32(0), w, weight, int32(0), w_column)
                    elif left == int32(1):
                        acc = one(acc, shared, int32(row + s), geo.row_on, int32(0), w, weight, int32(0), w_column)
                    s = taps_w
                    if long:
                        terms = int32(terms + RUN)
                        if terms >= CHUNK:
                            total, acc, terms = add_tiles(total, acc), none(zero), int32(0)
                while s < taps_w:
                    acc = tap(acc, shared, int32(row + s * dilation_w), geo.row_on, geo.column_on, w[weight])
                    s, weight = int32(s + 1), int32(weight + w_column)
                    if long:
                        terms = int32(terms + 1)
                        if terms >= CHUNK:
                            total, acc, terms = add_tiles(total, acc), none(zero), int32(0)
        return add_tiles(total, acc) if long else acc

    def at_once(shared, w, geo, taps, at, w_at):  # type: ignore[no-untyped-def]
        acc = none(zero)
        for _ in range(geo.channels):
            acc = unrolled(acc, shared, at, geo.row_on, geo.part, w, w_at, geo.w_row, geo.w_column)
            at, w_at = int32(at + geo.fill_h * geo.pitch), int32(w_at + geo.w_c)
        return acc

    return device(at_once if kind.height else in_loops)


@functools.cache
def kernel(dtype: np.dtype[Any], kind: Kind, activation: str | None, form: str | None = None) -> Kernel:
    """Return the kernel for channels first; ``form``: x and y are of a 16-bit format, everything else of ``dtype``."""
    zero, size, line, phased = dtype.type(0), SHARED // dtype.itemsize, kind.line, kind.phased
    fill, sums, put = _filler(dtype, kind.across, form), _sums(kind, dtype), put4(activation, dtype, *rounding(form))
    neighbours = kind.height > 0 or kind.runs  # the columns of a thread's tile, or they lie a tile's threads apart
    shrunk = kind.height > 0  # strides along columns are gone from shared memory

    def address(geo, row, q, count):  # type: ignore[no-untyped-def]
        return int32(row + q * geo.y_column) if q < count else int32(-1)

    address = device(address)

    def phase_of(geo, table, phase):  # type: ignore[no-untyped-def]
        """Return the taps of a phase; its first place in shared memory, w and y; how many outputs it has."""
        if phased:
            at = int32(PHASE_SIZE * phase)
            a, b, c = load4(table, at), load4(table, int32(at + 4)), load4(table, int32(at + 8))
            return (a[0], a[1], a[2], a[3], b[0], b[1]), b[2], b[3], c[0], c[1], c[2]
        taps = geo.taps_h, geo.taps_w, geo.dilation_h, geo.dilation_w, geo.w_row, geo.w_column
        return taps, int32(0), geo.w_first, geo.y_first, geo.count_p, geo.count_q

    def write_row(y, geo, y_at, p, q, count_p, count_q, values, shift):  # type: ignore[no-untyped-def]
        if p < count_p:
            row, on = int32(y_at + p * geo.y_row), int32(1) if neighbours else geo.across
            a0, a1 = address(geo, row, q, count_q), address(geo, row, int32(q + on), count_q)
            a2, a3 = address(geo, row, int32(q + 2 * on), count_q), address(geo, row, int32(q + 3 * on), count_q)
            put(y, a0, a1, a2, a3, values, (shift, shift, shift, shift), True, geo.vector_out != 0)

    write_row, phase_of = device(write_row), device(phase_of)

    def stencil(x, w, y, bias, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n, k, p, q] = Σ_c Σ_r Σ_s x[n, c, delta + p·stride + r·dilation, …] · w[k, c, r, s], c in the group of k.
        # THE SCHEDULE: a block owns a tile of rows × columns of one unit, or whole small ones of several, and copies what that reads to
        # shared memory. A thread owns 4 rows × 4 columns in registers, or 4 pieces of a single row; every filter passes over the copy, for
        # one phase of the outputs after the other, so that neighbours are written by one block.
        shared = cuda.shared.array(size, dtype, alignment=16)
        t = int32(cuda.threadIdx.x)
        rest, tile_q = divide(int32(cuda.blockIdx.x), geo.tiles_q)
        block, tile_p = divide(rest, geo.tiles_p)
        first_unit, p, q = int32(block * geo.units), int32(tile_p * geo.tile_rows), int32(tile_q * geo.tile_columns)
        planes = int32(min(geo.fill_planes, int32((geo.all_units - first_unit) * geo.channels)))
        fill(shared, x, geo, t, int32(first_unit * geo.channels * geo.plane), planes, p, q)
        cuda.syncthreads()
        rest, column = divide(t, geo.across)
        part, row = divide(rest, geo.down)
        unit = int32(first_unit + part)
        if part >= geo.units or unit >= geo.all_units:
            return
        group = divide(unit, geo.groups)[1]
        if neighbours:
            column = int32(column * 4)
        row, q = int32(row * 4), int32(q + column)
        p = int32(p + row)
        p_on, q_on = (int32(0), int32(4 * geo.across)) if line else (int32(1), int32(0))
        at = int32((part * geo.channels * geo.fill_h + row * geo.stride_h) * geo.pitch + column * (1 if shrunk else geo.stride_w))
        for phase in range(geo.phases if phased else 1):
            taps, shared_on, w_first, y_first, count_p, count_q = phase_of(geo, table, int32(phase))
            for k in range(geo.filters):
                channel = int32(group * geo.filters + int32(k))
                acc = sums(shared, w, geo, taps, int32(at + shared_on), int32(w_first + group * geo.w_group + int32(k) * geo.w_k))
                shift = bias[channel] if geo.has_bias else zero
                y_at = int32(y_first + (unit * geo.filters + int32(k)) * geo.y_plane)
                write_row(y, geo, y_at, p, q, count_p, count_q, acc[0:4], shift)
                write_row(y, geo, y_at, int32(p + p_on), int32(q + q_on), count_p, count_q, acc[4:8], shift)
                write_row(y, geo, y_at, int32(p + 2 * p_on), int32(q + 2 * q_on), count_p, count_q, acc[8:12], shift)
                write_row(y, geo, y_at, int32(p + 3 * p_on), int32(q + 3 * q_on), count_p, count_q, acc[12:16], shift)

    cell = dtype if form is None else np.dtype(np.uint16)
    return Kernel(stencil, (cell, dtype, cell, dtype, np.int32), Geometry, THREADS, _resident(kind, dtype))


def _gradient(kind: Kind, dtype: np.dtype[Any], form: str | None) -> Any:
    """Return the function that adds a thread's 4 × 4 outputs to its sums, one for each tap."""
    zero, add = dtype.type(0), correlate_gradient(kind.height, kind.width, kind.down, kind.across)
    line, (one_of, four_of) = kind.line, reading(form)

    def four(dy, geo, at, p, q):  # type: ignore[no-untyped-def]
        at, left = int32(at + p * geo.y_row + q), int32(geo.count_q - q)
        if p >= geo.count_p or left <= int32(0):
            return zero, zero, zero, zero
        if geo.vector_out:
            return four_of(dy, at)
        v1 = one_of(dy, int32(at + 1)) if left > int32(1) else zero
        v2 = one_of(dy, int32(at + 2)) if left > int32(2) else zero
        return one_of(dy, at), v1, v2, (one_of(dy, int32(at + 3)) if left > int32(3) else zero)

    four = device(four)

    def gradient(acc, shared, dy, geo, t, first_unit, p, q, y_at):  # type: ignore[no-untyped-def]
        rest, column = divide(t, geo.across)
        part, row = divide(rest, geo.down)
        unit = int32(first_unit + part)
        if part >= geo.units or unit >= geo.all_units:
            return acc
        row, column = int32(row * 4), int32(column * 4)
        p, q, y_at = int32(p + row), int32(q + column), int32(y_at + unit * geo.y_plane)
        p_on, q_on = (int32(0), int32(4 * geo.across)) if line else (int32(1), int32(0))
        a, b = four(dy, geo, y_at, p, q), four(dy, geo, y_at, int32(p + p_on), int32(q + q_on))
        c, d = four(dy, geo, y_at, int32(p + 2 * p_on), int32(q + 2 * q_on)), four(dy, geo, y_at, int32(p + 3 * p_on), int32(q + 3 * q_on))
        at = int32((part * geo.fill_h + row * geo.stride_h) * geo.pitch + column)
        of_outputs = (a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3])
        return add(acc, shared, at, geo.row_on, geo.part, of_outputs)

    return device(gradient)


@functools.cache
def kernel_gradient(dtype: np.dtype[Any], kind: Kind, form: str | None = None) -> Kernel:
    """Return the kernel of wgrad, channels first; ``form``: dy and x are of a 16-bit format."""
    zero, wide, size, taps, width = dtype.type(0), np.float64(0), SHARED // dtype.itemsize, kind.height * kind.width, kind.width
    fill, gradient, none = _filler(dtype, kind.across, form), _gradient(kind, dtype, form), zeros(taps)
    of_warps = WARPS * taps

    def stencil_wgrad(dy, x, dw, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, c, r, s] = Σ_n Σ_p Σ_q dy[n, k, p, q] · x[n, c, delta + p·stride + r, …], c in the group of k.
        # THE SCHEDULE: a block owns a piece of the tiles of one (k, c) and copies what a tile reads to shared memory. A thread owns 4 × 4
        # outputs of it and keeps a sum for each tap; after LONGEST tiles the sums of all threads are added, in an order that is fixed.
        shared = cuda.shared.array(size, dtype, alignment=16)
        sums = cuda.shared.array(of_warps, dtype)
        t = int32(cuda.threadIdx.x)
        pair, piece = divide(int32(cuda.blockIdx.x), geo.pieces)
        k, c = divide(pair, geo.channels)
        x_at = int32((divide(k, geo.filters)[0] * geo.channels + c) * geo.x_channel)
        tile = divide(int32(geo.tiles * piece), geo.pieces)[0]
        stop = divide(int32(geo.tiles * int32(piece + 1)), geo.pieces)[0]
        acc, total, held = none(zero), wide, int32(0)
        while tile < stop:
            rest, tile_q = divide(tile, geo.tiles_q)
            block, tile_p = divide(rest, geo.tiles_p)
            first_unit, p, q = int32(block * geo.units), int32(tile_p * geo.tile_rows), int32(tile_q * geo.tile_columns)
            planes = int32(min(geo.units, int32(geo.all_units - first_unit)))
            fill(shared, x, geo, t, int32(x_at + first_unit * geo.plane), planes, p, q)
            cuda.syncthreads()
            acc = gradient(acc, shared, dy, geo, t, first_unit, p, q, int32(k * geo.y_channel))
            tile, held = int32(tile + 1), int32(held + 1)
            cuda.syncthreads()
            if held == LONGEST or tile == stop:
                acc = warp_sums(acc)
                if t % 32 == 0:
                    store_tile(sums, int32(t // 32 * taps), acc)
                cuda.syncthreads()
                if t < taps:
                    total = total + ((sums[t] + sums[int32(t + taps)]) + (sums[int32(t + 2 * taps)] + sums[int32(t + 3 * taps)]))
                acc, held = none(zero), int32(0)
        if t < taps:
            dw[int32(piece * geo.w_size + pair * taps + geo.w_first + t // width * geo.w_row + t % width * geo.w_column)] = total

    resident = 3 if taps > 25 else 6
    cell = dtype if form is None else np.dtype(np.uint16)
    return Kernel(stencil_wgrad, (cell, cell, dtype), Geometry, THREADS, resident * 4 // dtype.itemsize)


def _resident(kind: Kind, dtype: np.dtype[Any]) -> int:
    """Return how many blocks a multiprocessor holds: what their registers and shared memory allow."""
    return (4 if kind.height * kind.width > 25 or kind.long else 6) * 4 // dtype.itemsize
