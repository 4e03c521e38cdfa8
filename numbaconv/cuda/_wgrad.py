"""The kernel of wgrad: products of register tiles whose contraction runs over the pixels of y."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._geometry import LIMIT, NOWHERE, SLAB
from numbaconv.cuda._prims import copy4, copy8, divide, forgotten, int32, load4, multiply_slab, tile, wait_all, within
from numbaconv.cuda._product import RESIDENT_THREADS, begin, with_sums_aside
from numbaconv.cuda._store import THREADS, put4, same
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
    images: int
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
    pieces: int = 1  # of the contraction, each with a copy of dw of its own
    chunk: int = LIMIT  # slabs that are added up in one accumulator
    in_order: int = 0  # whether the output is such copies, whose columns lie in the order of the product, instead of dw


@dataclass(frozen=True)
class Sum:
    """A wgrad as a matrix product: what the kernel reads; ``table`` has four numbers for each tap, as in `_geometry`, or for each column."""

    geo: Geometry
    table: Array
    one_tap: bool


def tables(p: ConvProblem, pieces: int, one_tap: bool) -> Sum:
    """Return the tables of a wgrad; ``one_tap``: all columns of a tile have one tap."""
    if p.input_dilation != (1, 1, 1):
        raise Unsupported("needs an input that is not dilated for wgrad")
    channels, rows, taps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.filter)
    steps = p.strides("x")
    deltas = [np.arange(r) * d - lo for r, d, lo in zip(p.filter, p.dilation, p.low, strict=True)]
    grid = [axis.reshape(-1) for axis in np.meshgrid(*deltas, indexing="ij")]
    last = [(out - 1) * s for out, s in zip(p.output, p.stride, strict=True)]
    inside = [(d < size) & (d > NOWHERE) & (d + most >= 0) for d, size, most in zip(grid, p.input, last, strict=True)]
    reached = np.logical_and.reduce(inside)
    offset = sum(delta * step for delta, step in zip(grid, steps[2:], strict=True))
    table = np.stack([offset, *grid], axis=1)
    if not one_tap:
        table = np.repeat(table, channels, axis=0)
        table[:, 0] += np.tile(np.arange(channels) * steps[1], taps)
        reached = np.repeat(reached, channels)
    table[~reached] = 0, NOWHERE, NOWHERE, NOWHERE
    rest, far = SLAB, []
    for size in reversed(p.output):
        far.append(rest % max(size, 1))
        rest //= max(size, 1)
    values: list[int] = [
        p.groups, rows, channels * taps, channels, taps, int(p.flipped), p.batch * math.prod(p.output), p.batch, math.prod(p.shape("w")),
        *p.input, *p.output, rest, *reversed(far), *p.stride, *steps, *p.strides("y"),
    ]  # fmt: skip
    geo = Geometry(*values)
    reach = [(size + SLAB) * step for size, step in zip(p.output, p.stride, strict=True)]
    if max(*geo, *reach, int(np.abs(table).max(initial=0)), math.prod(p.shape("x")), math.prod(p.shape("y")), geo.out_size * pieces) > LIMIT:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    return Sum(geo, table.astype(np.int32).reshape(-1), one_tap)


@device
def place_in_filter(column, channels, taps, flipped):  # type: ignore[no-untyped-def]
    """Return where in a filter a column of the product is."""
    tap, channel = divide(column, channels)
    return int32(channel * taps + (taps - 1 - tap if flipped else tap))


@functools.cache
def finish(dtype: np.dtype[Any], stored: np.dtype[Any] | None = None, narrower: Any = same) -> Kernel:
    """Return the kernel that adds the pieces of dw and puts their columns where they belong; ``stored`` is the dtype of dw, if not dtype.

    Pieces may have room for more rows and channels of a group than dw has; what they have there is left out.
    """
    wide, narrow = np.float64, dtype.type
    narrower = device(narrower) if narrower is same else narrower

    def finish_pieces(pieces, dw, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, place of column] = Σ_p pieces[p, k, column], the pieces in their order and in float64.
        # THE SCHEDULE: a thread owns one element, and has four pieces under way at once.
        size, count, columns, channels, taps, flipped, rows, own_rows, own_channels = sizes
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= size:
            return
        row, column = divide(at, columns)
        group, row = divide(row, rows)
        tap, channel = divide(column, channels)
        if row >= own_rows or channel >= own_channels:
            return
        total, here = wide(0), at
        for _ in range(count // 4):
            p0, p1 = pieces[here], pieces[int32(here + size)]
            p2, p3 = pieces[int32(here + 2 * size)], pieces[int32(here + 3 * size)]
            total = total + wide(p0) + wide(p1) + wide(p2) + wide(p3)
            here = int32(here + 4 * size)
        for _ in range(count % 4):
            total = total + wide(pieces[here])
            here = int32(here + size)
        tap = int32(taps - 1 - tap) if flipped else tap
        dw[int32(((group * own_rows + row) * own_channels + channel) * taps + tap)] = narrower(narrow(total))

    return Kernel(finish_pieces, (dtype, stored or dtype), 9, THREADS)


@functools.cache
def kernel(dtype: np.dtype[Any], rows: int, columns: int, channels_last: bool, one_tap: bool, depth: bool) -> Kernel:
    """Return the kernel for tiles of ``rows`` × ``columns``.

    Frozen are the layout, whether all columns of a tile have ``one_tap`` and whether there is a third axis (``depth``).
    """
    threads = rows * columns // 64
    span = threads // SLAB  # threads that load the same pixel
    a_row, b_row = rows + PAD, columns + PAD
    b_first, one_stage = SLAB * a_row, SLAB * (a_row + b_row)
    both_stages = 2 * one_stage
    copy1 = copy4 if dtype.itemsize == 4 else copy8
    a_gap, b_gap, across = rows // 2, columns // 2, columns // 8
    zero = dtype.type(0)
    zeros = (zero, zero, zero, zero)
    put, (put_chunk, sum_with) = put4(None, dtype), with_sums_aside(both_stages, threads)

    def moved_on(geo, n, z, p, q):  # type: ignore[no-untyped-def]
        """Return the output pixel that lies a slab further on."""
        q, p, n = int32(q + geo.far_w), int32(p + geo.far_h), int32(n + geo.far_n)
        if q >= geo.out_w:
            q, p = int32(q - geo.out_w), int32(p + 1)
        if depth:
            z = int32(z + geo.far_d)
            if p >= geo.out_h:
                p, z = int32(p - geo.out_h), int32(z + 1)
            if z >= geo.out_d:
                z, n = int32(z - geo.out_d), int32(n + 1)
        elif p >= geo.out_h:
            p, n = int32(p - geo.out_h), int32(n + 1)
        return n, z, p, q

    moved_on = device(moved_on)

    def fetch_y(dy, shared, to, geo, at, row, ok):  # type: ignore[no-untyped-def]
        """Start to copy a thread's rows of one pixel, span apart."""
        for i in range(rows // span):
            far = int32(i * span)
            copy1(shared, to, int32(0), far, dy, int32(at + far * geo.y_k), ok and int32(row + far) < geo.rows)

    def reached(geo, delta, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Return whether a tap meets the input."""
        inside = within(int32(h0 + delta[2]), geo.in_h) and within(int32(w0 + delta[3]), geo.in_w)
        return inside and within(int32(d0 + delta[1]), geo.in_d) if depth else inside

    reached = device(reached)

    def of_one_tap(x, shared, to, table, geo, at, column, d0, h0, w0, ok):  # type: ignore[no-untyped-def]
        """Start to copy a thread's columns of one pixel, span apart: channels of one tap."""
        tap, channel = divide(column, geo.channels)
        delta = load4(table, int32(tap * 4))
        inside, at = ok and reached(geo, delta, d0, h0, w0), int32(at + delta[0] + channel * geo.x_c)
        for i in range(columns // span):
            copy1(shared, to, int32(0), int32(i * span), x, int32(at + i * span * geo.x_c), inside)

    def each_by_itself(x, shared, to, table, geo, at, column, d0, h0, w0, ok):  # type: ignore[no-untyped-def]
        """Start to copy a thread's columns of one pixel, span apart, each by a tap of its own."""
        column = forgotten(column)  # or where the columns' entries are would be kept in registers
        for i in range(columns // span):
            here = int32(column + i * span)
            delta = load4(table, int32(here * 4 if here < geo.columns else 0))
            inside = ok and here < geo.columns and reached(geo, delta, d0, h0, w0)
            copy1(shared, to, int32(0), int32(i * span), x, int32(at + delta[0]), inside)

    fetch_y, fetch_x = device(fetch_y), device(of_one_tap if one_tap else each_by_itself)

    def fetch(dy, x, shared, a_to, b_to, table, geo, n, z, p, q, row, column, group, ok):  # type: ignore[no-untyped-def]
        """Start to copy a thread's part of a slab: 4, 8 or 16 rows and as many columns of its pixel."""
        d0, h0, w0 = int32(z * geo.step_d), int32(p * geo.step_h), int32(q * geo.step_w)
        y_at = int32(n * geo.y_n + z * geo.y_d + p * geo.y_h + q * geo.y_w + (group * geo.rows + row) * geo.y_k)
        x_at = int32(n * geo.x_n + d0 * geo.x_d + h0 * geo.x_h + w0 * geo.x_w + group * geo.channels * geo.x_c)
        fetch_y(dy, shared, a_to, geo, y_at, row, ok)
        fetch_x(x, shared, b_to, table, geo, x_at, column, d0, h0, w0, ok)

    fetch = device(fetch)

    def sum_over_pixels(dy, x, dw, table, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, (tap, c)] = Σ_pixel dy[pixel, k] · x[pixel's input + tap, c] for one group.
        # THE SCHEDULE: a block owns rows × columns of dw, a thread 8 × 8 of them in registers. Slabs of 8 pixels pass through shared
        # memory as in `_product`, in chunks and pieces as there; neighbouring threads load neighbours in memory.
        shared = cuda.shared.array(0, dtype, alignment=16)
        t, at = forgotten(int32(cuda.threadIdx.x)), cuda.blockIdx
        piece, group = divide(forgotten(int32(at.z)), geo.groups)
        first_row, first_column = int32(forgotten(int32(at.x)) * rows), int32(forgotten(int32(at.y)) * columns)
        slabs = int32((geo.pixels + SLAB - 1) // SLAB)
        slab = begin(slabs, piece, geo.pieces)
        left = int32(begin(slabs, int32(piece + 1), geo.pieces) - slab)
        lane, index = (int32(t // span), int32(t % span)) if channels_last else (int32(t % SLAB), int32(t // SLAB))
        row, column, pixel = int32(first_row + index), int32(first_column + index), int32(slab * SLAB + lane)
        rest, q = divide(pixel, geo.out_w)
        n, p = divide(rest, geo.out_h)
        z = int32(0)
        if depth:
            n, z = divide(n, geo.out_d)
        a_put, b_put = int32(lane * a_row + index), int32(b_first + lane * b_row + index)
        a_get, b_get = int32(t // across * 4), int32(t % across * 4)
        acc, put, step, chunk = tile(zero), int32(0), int32(-1), geo.chunk
        while step < left:
            wait_all(shared)
            cuda.syncthreads()
            if int32(step + 1) < left:
                a_to, b_to = int32(put + a_put), int32(put + b_put)
                fetch(dy, x, shared, a_to, b_to, table, geo, n, z, p, q, row, column, group, n < geo.images)
                n, z, p, q = moved_on(geo, n, z, p, q)
            put = int32(one_stage - put)  # from now on what is multiplied
            if step == chunk:
                put_chunk(shared, int32(cuda.threadIdx.x), chunk > geo.chunk, acc)
                acc, chunk = tile(zero), int32(chunk + geo.chunk)
            if step >= int32(0):
                acc = multiply_slab(acc, shared, int32(put + a_get), a_row, a_gap, shared, int32(put + b_first + b_get), b_row, b_gap)
            step = int32(step + 1)
        acc = sum_with(shared, int32(cuda.threadIdx.x), chunk > geo.chunk, acc)
        piece, group = divide(forgotten(int32(at.z)), geo.groups)
        first_row, first_column = int32(forgotten(int32(at.x)) * rows), int32(forgotten(int32(at.y)) * columns)
        write(dw, geo, int32(piece * geo.out_size), group, int32(first_row + a_get), int32(first_column + b_get), acc)

    def place(geo, column):  # type: ignore[no-untyped-def]
        """Return where in a row of the output a column is, or −1 beyond the last."""
        if column >= geo.columns:
            return int32(-1)
        return column if geo.in_order else place_in_filter(column, geo.channels, geo.taps, geo.flipped)

    place = device(place)

    def further(at, by):  # type: ignore[no-untyped-def]
        return int32(at + by) if at >= int32(0) else int32(-1)

    further = device(further)

    def write_row(dw, geo, base, group, row, places, values):  # type: ignore[no-untyped-def]
        if row < geo.rows:
            at, vector = int32(base + (group * geo.rows + row) * geo.columns), geo.in_order != 0 and geo.columns % 4 == 0
            c0, c1, c2, c3, d0, d1, d2, d3 = places
            put(dw, further(c0, at), further(c1, at), further(c2, at), further(c3, at), values[0:4], zeros, False, vector)
            put(dw, further(d0, at), further(d1, at), further(d2, at), further(d3, at), values[4:8], zeros, False, vector)

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
    size, resident = (both_stages + 64 * threads) * dtype.itemsize, RESIDENT_THREADS[threads] * 4 // dtype.itemsize // threads
    return Kernel(sum_over_pixels, (dtype, dtype, dtype, np.int32), Geometry, threads, resident, shared=size)
