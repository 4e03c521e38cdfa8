"""Copies of what `wgmma` reads: channels last, those of a group filled up with zeros to whole lines, float32 rounded to tf32."""

from __future__ import annotations

import functools
from typing import Any

from numbaconv.cuda._backend import Kernel, cuda, device, empty
from numbaconv.cuda._prims import divide, int32
from numbaconv.cuda._store import THREADS
from numbaconv.cuda._tensor_layout import cell_of
from numbaconv.cuda._tensor_prims import get_vector, put_vector, round_tf32
from numbaconv.cuda.gemm import GRID_LIMIT
from numbaconv.problem import ConvProblem, Unsupported

BLOCK = 64  # pixels and channels that a block of `rearrange` owns


def channels_last(p: ConvProblem, image: Any, all_channels: int, pixels: int, size: int, kind: str, room: int) -> Any:
    """Return a copy, of ``size`` elements, of the input or of dy whose channels are last, each group's with ``room``."""
    copy = empty(size, image.dtype)
    channels = all_channels // p.groups
    if p.channels_last:
        vectors = copy.size * copy.itemsize // 16
        fill_up(kind).launch((-(-vectors // THREADS), 1, 1), (image, copy), (vectors, channels, room))
    else:
        grid = (-(-pixels // BLOCK), -(-p.groups * room // BLOCK), p.batch)
        rearrange(kind).launch(grid, (image, copy), (pixels, p.groups, channels, room))
    return copy


def check(images: int, channels: int) -> None:
    """Raise if a launch has no room for a copy of an image whose channels are not last."""
    if images > GRID_LIMIT or channels > GRID_LIMIT * BLOCK:
        raise Unsupported(f"needs at most {GRID_LIMIT} images and {GRID_LIMIT * BLOCK} channels where those are not last")


@functools.cache
def fill_up(kind: str) -> Kernel:
    """Return the kernel that copies an input whose channels are last, those of a group filled up with zeros; tf32 is rounded."""
    cell = cell_of(kind)
    vector, zero, tf32 = 16 // cell.itemsize, cell.type(0), kind == "tf32"

    def one(x, source, left):  # type: ignore[no-untyped-def]
        value = x[source] if left > int32(0) else zero
        return round_tf32(value) if tf32 else value

    def four(x, source, left):  # type: ignore[no-untyped-def]
        v0, v1 = single(x, source, left), single(x, int32(source + 1), int32(left - 1))
        return v0, v1, single(x, int32(source + 2), int32(left - 2)), single(x, int32(source + 3), int32(left - 3))

    def eight(x, source, left):  # type: ignore[no-untyped-def]
        a, b = half(x, source, left), half(x, int32(source + 4), int32(left - 4))
        return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]

    single, half = device(one), device(four)
    gathered = half if vector == 4 else device(eight)

    def fill_up_input(x, y, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[pixel, group, c] = x[pixel, group, c], or 0 for c beyond the group's last channel.
        # THE SCHEDULE: a thread owns 16 bytes of y.
        count, channels, room = sizes
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at < count:
            line, number = divide(at, divide(room, int32(vector))[0])
            first = int32(number * vector)
            put_vector(y, int32(at * vector), gathered(x, int32(line * channels + first), int32(channels - first)))

    return Kernel(fill_up_input, (cell, cell), 3, THREADS)


@functools.cache
def rearrange(kind: str) -> Kernel:
    """Return the kernel that copies an input so that channels are last, those of a group filled up with zeros; tf32 is rounded."""
    cell = cell_of(kind)
    zero, tf32 = cell.type(0), kind == "tf32"
    vector = 16 // cell.itemsize
    vectors, pitch = BLOCK // vector, BLOCK + 4 // cell.itemsize  # of a line; elements from one pixel to the next, an odd number of words
    held = BLOCK * pitch

    def keep(shared, at, value):  # type: ignore[no-untyped-def]
        shared[at] = round_tf32(value) if tf32 else value

    def kept4(shared, at, v):  # type: ignore[no-untyped-def]
        hold(shared, at, v[0])
        hold(shared, int32(at + pitch), v[1])
        hold(shared, int32(at + 2 * pitch), v[2])
        hold(shared, int32(at + 3 * pitch), v[3])

    def kept8(shared, at, v):  # type: ignore[no-untyped-def]
        keep4(shared, at, v[0:4])
        keep4(shared, int32(at + 4 * pitch), v[4:8])

    def taken4(shared, at):  # type: ignore[no-untyped-def]
        return shared[at], shared[int32(at + 1)], shared[int32(at + 2)], shared[int32(at + 3)]

    def taken8(shared, at):  # type: ignore[no-untyped-def]
        a, b = take4(shared, at), take4(shared, int32(at + 4))
        return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]

    hold, keep4, take4 = device(keep), device(kept4), device(taken4)
    take, keep_all = (take4, keep4) if cell.itemsize == 4 else (device(taken8), device(kept8))

    def rearrange_input(x, y, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n, pixel, group, c] = x[n, group, c, pixel], or 0 for c beyond the group's last channel.
        # THE SCHEDULE: a block owns 64 pixels × 64 channels, which it reads along the pixels and writes along the channels, 16 bytes at a
        # time where the pixels of a channel begin at a multiple of that.
        pixels, groups, channels, room = sizes
        shared = cuda.shared.array(held, cell, alignment=16)
        t = int32(cuda.threadIdx.x)
        p0, k0, n = int32(int32(cuda.blockIdx.x) * BLOCK), int32(int32(cuda.blockIdx.y) * BLOCK), int32(cuda.blockIdx.z)
        together = pixels % vector == 0
        p, k = int32(t % vectors * vector), int32(t // vectors)
        for _ in range(BLOCK * vectors // THREADS):
            group, c = divide(int32(k0 + k), room)
            here, at = c < channels and group < groups, int32(p * pitch + k)
            source = int32(((n * groups + group) * channels + c) * pixels + p0 + p)
            if together and here and int32(p0 + p) < pixels:
                keep_all(shared, at, get_vector(x, source))
            else:
                for e in range(vector):
                    value = x[int32(source + e)] if here and int32(p0 + p + e) < pixels else zero
                    hold(shared, int32(at + e * pitch), value)
            k = int32(k + THREADS // vectors)
        cuda.syncthreads()
        k, p = int32(t % vectors * vector), int32(t // vectors)
        for _ in range(BLOCK * vectors // THREADS):
            if int32(p0 + p) < pixels and int32(k0 + k) < groups * room:
                put_vector(y, int32((n * pixels + p0 + p) * groups * room + k0 + k), take(shared, int32(p * pitch + k)))
            p = int32(p + THREADS // vectors)

    return Kernel(rearrange_input, (cell, cell), 4, THREADS)
