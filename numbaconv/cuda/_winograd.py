"""The transforms of `winograd`: a tile of 2 × 2 outputs of a 3 × 3 filter, by 16 products instead of 36."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._prims import divide, int32, raise_flag, within
from numbaconv.cuda._store import activation

THREADS = 256


class Tiles(NamedTuple):
    """What the transforms of x and y take by value: an image's place in memory, and that of its tiles at 16 positions."""

    size: int  # threads that have something to do: channels × tiles
    channels: int
    tiles: int
    across: int  # tiles along W
    down: int  # and H
    depth: int
    height: int  # of the image
    width: int
    low_h: int  # outputs' first tile begins so far before the image
    low_w: int
    n: int  # elements of the image from one sample, channel, … to the next
    c: int
    d: int
    h: int
    w: int
    t: int  # and of the tiles, from one tile, channel and position to the next
    t_c: int
    position: int
    has_bias: int = 0


@device
def image_of(tile, geo):  # type: ignore[no-untyped-def]
    """Return where the image of a tile begins, and the tile's row and column in it."""
    rest, column = divide(tile, geo.across)
    rest, row = divide(rest, geo.down)
    n, z = divide(rest, geo.depth)
    return int32(n * geo.n + z * geo.d), int32(2 * row), int32(2 * column)


@device
def put4(memory, at, step, values):  # type: ignore[no-untyped-def]
    """Set the elements of four positions, ``step`` apart."""
    memory[at], memory[int32(at + step)] = values[0], values[1]
    memory[int32(at + 2 * step)], memory[int32(at + 3 * step)] = values[2], values[3]


def owned_by(channels_last: bool) -> Any:
    """Return a function from a thread's number to its channel and tile: neighbours are neighbours in memory."""

    def owned(at, geo):  # type: ignore[no-untyped-def]
        if channels_last:
            tile, channel = divide(at, geo.channels)
        else:
            channel, tile = divide(at, geo.tiles)
        return channel, tile

    return device(owned)


@functools.cache
def forward(dtype: np.dtype[Any], channels_last: bool) -> Kernel:
    """Return the kernel that transforms x."""
    zero, owned = dtype.type(0), owned_by(channels_last)

    def four(x, at, h, w, geo):  # type: ignore[no-untyped-def]
        inside = within(h, geo.height)
        at = int32(at + h * geo.h + w * geo.w)
        x0 = x[at] if inside and within(w, geo.width) else zero
        x1 = x[int32(at + geo.w)] if inside and within(int32(w + 1), geo.width) else zero
        x2 = x[int32(at + 2 * geo.w)] if inside and within(int32(w + 2), geo.width) else zero
        x3 = x[int32(at + 3 * geo.w)] if inside and within(int32(w + 3), geo.width) else zero
        return x0 - x2, x1 + x2, x2 - x1, x1 - x3

    row = device(four)

    def transform_input(x, v, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: v[position, c, tile] = (Bᵀ d B)[position], d the 4 × 4 inputs that the tile's outputs see.
        # THE SCHEDULE: a thread owns one tile of one channel; d stays in registers, its rows transformed as they are loaded.
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= geo.size:
            return
        channel, tile = owned(at, geo)
        first, h, w = image_of(tile, geo)
        first, h, w = int32(first + channel * geo.c), int32(h - geo.low_h), int32(w - geo.low_w)
        a, b = row(x, first, h, w, geo), row(x, first, int32(h + 1), w, geo)
        c, d = row(x, first, int32(h + 2), w, geo), row(x, first, int32(h + 3), w, geo)
        to, step = int32(tile * geo.t + channel * geo.t_c), geo.position
        put4(v, to, step, (a[0] - c[0], a[1] - c[1], a[2] - c[2], a[3] - c[3]))
        put4(v, int32(to + 4 * step), step, (b[0] + c[0], b[1] + c[1], b[2] + c[2], b[3] + c[3]))
        put4(v, int32(to + 8 * step), step, (c[0] - b[0], c[1] - b[1], c[2] - b[2], c[3] - b[3]))
        put4(v, int32(to + 12 * step), step, (b[0] - d[0], b[1] - d[1], b[2] - d[2], b[3] - d[3]))

    return Kernel(transform_input, (dtype, dtype), Tiles, THREADS)


@functools.cache
def inverse(dtype: np.dtype[Any], channels_last: bool, name: str | None) -> Kernel:
    """Return the kernel that makes outputs of products."""
    zero, owned, activate = dtype.type(0), owned_by(channels_last), activation(name, dtype)

    def two(m, at, step):  # type: ignore[no-untyped-def]
        m1, m2 = m[int32(at + step)], m[int32(at + 2 * step)]
        return m[at] + m1 + m2, m1 - m2 - m[int32(at + 3 * step)]

    row = device(two)

    def transform_output(m, bias, y, flags, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[2 × 2 outputs of a tile, k] = activation(Aᵀ m A + bias[k]), m the sums over channels at 16 positions; a flag
        # says that one is not finite.
        # THE SCHEDULE: a thread owns one tile of one channel.
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= geo.size:
            return
        channel, tile = owned(at, geo)
        first, h, w = image_of(tile, geo)
        of, step = int32(tile * geo.t + channel * geo.t_c), geo.position
        a, b = row(m, of, step), row(m, int32(of + 4 * step), step)
        c, d = row(m, int32(of + 8 * step), step), row(m, int32(of + 12 * step), step)
        shift = bias[channel] if geo.has_bias else zero
        to = int32(first + channel * geo.c + h * geo.h + w * geo.w)
        right, below = int32(w + 1) < geo.width, int32(h + 1) < geo.height
        y00, y01, y10, y11 = a[0] + b[0] + c[0], a[1] + b[1] + c[1], b[0] - c[0] - d[0], b[1] - c[1] - d[1]
        y[to] = activate(y00 + shift)
        if right:
            y[int32(to + geo.w)] = activate(y01 + shift)
        if below:
            to = int32(to + geo.h)
            y[to] = activate(y10 + shift)
            if right:
                y[int32(to + geo.w)] = activate(y11 + shift)
        if not (y00 + y01 + y10 + y11) * zero == zero:
            raise_flag(flags, int32(0))

    return Kernel(transform_output, (dtype, dtype, dtype, np.dtype(np.int32)), Tiles, THREADS)


@functools.cache
def filters(dtype: np.dtype[Any], flipped: bool) -> Kernel:
    """Return the kernel that transforms weights."""
    half = dtype.type(0.5)

    def four(w0, w1, w2):  # type: ignore[no-untyped-def]
        ends = w0 + w2
        return w0, half * (ends + w1), half * (ends - w1), w2

    across = device(four)

    def column_of(w, at):  # type: ignore[no-untyped-def]
        if flipped:
            return across(w[int32(at + 8)], w[int32(at + 5)], w[int32(at + 2)])
        return across(w[at], w[int32(at + 3)], w[int32(at + 6)])

    column = device(column_of)
    by = -1 if flipped else 1

    def transform_weights(w, u, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: u[position, group, k, c] = (G g Gᵀ)[position], g the 3 × 3 filter of an output and an input channel.
        # THE SCHEDULE: a thread owns one filter.
        size, columns, channels, from_column, from_channel, from_group = sizes
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= size:
            return
        rest, channel = divide(at, channels)
        group, k = divide(rest, columns)
        of = int32(group * from_group + k * from_column + channel * from_channel)
        a, b, c = column(w, of), column(w, int32(of + by)), column(w, int32(of + 2 * by))
        put4(u, at, size, across(a[0], b[0], c[0]))
        put4(u, int32(at + 4 * size), size, across(a[1], b[1], c[1]))
        put4(u, int32(at + 8 * size), size, across(a[2], b[2], c[2]))
        put4(u, int32(at + 12 * size), size, across(a[3], b[3], c[3]))

    return Kernel(transform_weights, (dtype, dtype), 6, THREADS)


@functools.cache
def spread(dtype: np.dtype[Any], channels_last: bool) -> Kernel:
    """Return the kernel that transforms dy, the adjoint of what makes outputs of products."""
    zero, owned = dtype.type(0), owned_by(channels_last)

    def four(first, second):  # type: ignore[no-untyped-def]
        return first, first + second, first - second, -second

    across = device(four)

    def transform_gradient(dy, u, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: u[position, k, tile] = (A d Aᵀ)[position], d the gradients of the tile's 2 × 2 outputs.
        # THE SCHEDULE: a thread owns one tile of one channel.
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= geo.size:
            return
        channel, tile = owned(at, geo)
        first, h, w = image_of(tile, geo)
        of = int32(first + channel * geo.c + h * geo.h + w * geo.w)
        right, below = int32(w + 1) < geo.width, int32(h + 1) < geo.height
        a = across(dy[of], dy[int32(of + geo.w)] if right else zero)
        of = int32(of + geo.h)
        b = across(dy[of] if below else zero, dy[int32(of + geo.w)] if right and below else zero)
        to, step = int32(tile * geo.t + channel * geo.t_c), geo.position
        put4(u, to, step, a)
        put4(u, int32(to + 4 * step), step, (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]))
        put4(u, int32(to + 8 * step), step, (a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]))
        put4(u, int32(to + 12 * step), step, (-b[0], -b[1], -b[2], -b[3]))

    return Kernel(transform_gradient, (dtype, dtype), Tiles, THREADS)


@functools.cache
def gather(dtype: np.dtype[Any], flipped: bool) -> Kernel:
    """Return the kernel that makes the weights' gradient of products, the adjoint of the transform of the weights."""
    half, zero = dtype.type(0.5), dtype.type(0)

    def three(m0, m1, m2, m3):  # type: ignore[no-untyped-def]
        ends = half * (m1 + m2)
        return m0 + ends, half * (m1 - m2), ends + m3

    across = device(three)

    def row_of(m, at, step):  # type: ignore[no-untyped-def]
        return across(m[at], m[int32(at + step)], m[int32(at + 2 * step)], m[int32(at + 3 * step)])

    def put3(dw, at, v0, v1, v2):  # type: ignore[no-untyped-def]
        if flipped:
            v0, v2 = v2, v0
        dw[at], dw[int32(at + 1)], dw[int32(at + 2)] = v0, v1, v2

    row, put = device(row_of), device(put3)
    first_row, last_row = (6, 0) if flipped else (0, 6)

    def transform_sums(m, dw, flags, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[3 × 3 taps of k and c] = Gᵀ m G, m the sums over tiles at 16 positions; a flag says that one is not finite.
        # THE SCHEDULE: a thread owns one filter.
        size, columns, channels, from_column, from_channel, from_group = sizes
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= size:
            return
        rest, channel = divide(at, channels)
        group, k = divide(rest, columns)
        to = int32(group * from_group + k * from_column + channel * from_channel)
        a, b = row(m, at, size), row(m, int32(at + 4 * size), size)
        c, d = row(m, int32(at + 8 * size), size), row(m, int32(at + 12 * size), size)
        x, y, z = across(a[0], b[0], c[0], d[0]), across(a[1], b[1], c[1], d[1]), across(a[2], b[2], c[2], d[2])
        put(dw, int32(to + first_row), x[0], y[0], z[0])
        put(dw, int32(to + 3), x[1], y[1], z[1])
        put(dw, int32(to + last_row), x[2], y[2], z[2])
        if not (x[0] + y[0] + z[0] + x[1] + y[1] + z[1] + x[2] + y[2] + z[2]) * zero == zero:
            raise_flag(flags, int32(0))

    return Kernel(transform_sums, (dtype, dtype, np.dtype(np.int32)), 6, THREADS)
