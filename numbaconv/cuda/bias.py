"""The gradient of the bias on a GPU: dy summed over all axes but the channels, in an order that depends on its shape alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, arrays, cuda, device
from numbaconv.cuda._store import THREADS, held

LANES = 32  # channels side by side of a block, where they are last
FILLED = 528  # blocks that occupy a large GPU. A constant, so that results don't depend on the GPU
LEAST = 2048  # elements of a channel that are worth a block
WIDE = {"float32": np.dtype(np.float64), "complex64": np.dtype(np.complex128)}


class Sizes(NamedTuple):
    """What the kernel takes by value; a row is what has one element of each channel."""

    channels: int
    rows: int
    pixels: int  # rows of an image
    pieces: int
    per_piece: int  # rows
    images_on: int  # how many images and pixels further a thread's next row is
    pixels_on: int


@functools.cache
def _kernel(dtype: np.dtype[Any], result: np.dtype[Any], channels_last: bool) -> Kernel:
    """Return the kernel that sums values of a dtype to pieces of another one."""
    wide = WIDE.get(dtype.name, dtype)
    zero, lanes, hold = wide.type(0), LANES if channels_last else 1, held(result)
    first_step = THREADS // 2

    def value(dy, sizes, channel, row, image, pixel, stop):  # type: ignore[no-untyped-def]
        if row >= stop or channel >= sizes.channels:
            return zero
        if channels_last:
            return zero + dy[row * sizes.channels + channel]
        return zero + dy[(image * sizes.channels + channel) * sizes.pixels + pixel]

    def further(sizes, image, pixel):  # type: ignore[no-untyped-def]
        image, pixel = image + sizes.images_on, pixel + sizes.pixels_on
        return (image + 1, pixel - sizes.pixels) if pixel >= sizes.pixels else (image, pixel)

    value, further = device(value), device(further)

    def sum_channels(dy, sums, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: sums[channel, piece] = Σ dy over the piece's rows.
        # THE SCHEDULE: a block owns a piece of one channel, or of LANES channels side by side; every thread sums each so many rows, four
        # loads at a time, and halves of the block are added until one row of threads is left.
        shared = cuda.shared.array(THREADS, wide)
        t, piece = cuda.threadIdx.x, cuda.blockIdx.y
        channel, row = cuda.blockIdx.x * lanes + t % lanes, piece * sizes.per_piece + t // lanes
        stop = min(sizes.rows, (piece + 1) * sizes.per_piece)
        image, pixel = row // sizes.pixels, row % sizes.pixels
        total = zero
        on = THREADS // lanes
        while row < stop:
            v0 = value(dy, sizes, channel, row, image, pixel, stop)
            image, pixel = further(sizes, image, pixel)
            v1 = value(dy, sizes, channel, row + on, image, pixel, stop)
            image, pixel = further(sizes, image, pixel)
            v2 = value(dy, sizes, channel, row + 2 * on, image, pixel, stop)
            image, pixel = further(sizes, image, pixel)
            v3 = value(dy, sizes, channel, row + 3 * on, image, pixel, stop)
            image, pixel = further(sizes, image, pixel)
            total = total + ((v0 + v1) + (v2 + v3))
            row = row + 4 * on
        shared[t] = total
        step = first_step
        while step >= lanes:
            cuda.syncthreads()
            if t < step:
                total = total + shared[t + step]
                shared[t] = total
            step = step // 2
        if t < lanes and channel < sizes.channels:
            sums[channel * sizes.pieces + piece] = hold(total)

    return Kernel(sum_channels, (dtype, result), Sizes, THREADS, wide=True)


def _sizes(images: int, channels: int, pixels: int, lanes: int) -> Sizes:
    rows, on = images * pixels, THREADS // lanes
    blocks = -(-channels // lanes)
    pieces = max(1, min(FILLED // max(1, blocks), rows // max(1, LEAST // lanes)))
    per_piece = -(-rows // pieces)
    return Sizes(channels, rows, max(1, pixels), pieces, per_piece, *divmod(on, max(1, pixels)))


def grad_bias(dy: Any, channels_last: bool) -> Any:
    """Sum dy, (N, K, …) or (N, …, K), over all axes but the channels; float32 in float64, integers wrap."""
    images, channels, pixels = dy.shape[0], dy.shape[-1 if channels_last else 1], math.prod(dy.shape[1:-1] if channels_last else dy.shape[2:])
    lanes = LANES if channels_last else 1
    sizes, wide = _sizes(images, channels, pixels, lanes), WIDE.get(dy.dtype.name, dy.dtype)
    out = arrays().empty(channels, dy.dtype)
    grid = (-(-channels // lanes), sizes.pieces, 1)
    if sizes.pieces == 1:
        _kernel(dy.dtype, dy.dtype, channels_last).launch(grid, (dy, out), sizes)
        return out
    parts = arrays().empty((channels, sizes.pieces), wide)
    _kernel(dy.dtype, wide, channels_last).launch(grid, (dy, parts), sizes)
    again = Sizes(channels, sizes.pieces, sizes.pieces, 1, sizes.pieces, *divmod(THREADS, sizes.pieces))
    _kernel(wide, dy.dtype, False).launch((channels, 1, 1), (parts, out), again)
    return out


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name."""
    for name in ("float32", "complex64", "int8"):
        dtype = np.dtype(name)
        yield f"grad_bias {name}", _kernel(dtype, WIDE.get(name, dtype), False)
    yield "grad_bias channels last", _kernel(np.dtype(np.float32), np.dtype(np.float32), True)
    yield "grad_bias of pieces", _kernel(np.dtype(np.complex128), np.dtype(np.complex64), False)
