"""How a block's sums of `_wgmma` become outputs: by way of shared memory, then bias and activation, 16 bytes at a time where they lie together."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._backend import device
from numbaconv.cuda._prims import int32
from numbaconv.cuda._tensor_prims import put_vector
from numbaconv.cuda._tensor_store import finishing
from numbaconv.cuda._wgmma_prims import take_sums

GAP = 8  # float32 between two lines of sums: then the squares that a warp writes lie in different banks


def writer(kind: str, out: np.dtype[Any], shape: tuple[int, int], threads: int, channels_last: bool, act: str | None, partial: bool) -> Any:
    """Return how a tile of sums, lines of ``shape`` in shared memory, becomes outputs; where a pixel's begin is read there too.

    Lines are pixels, of columns, where the channels of y are last, else columns, of pixels. A thread owns one vector of every so-many-th line.
    """
    done, shift = finishing(kind, out, act, partial)
    lines, width = shape
    pitch, vector = width + GAP, 16 // out.itemsize
    vectors = width // vector  # of a line
    step = threads // vectors  # from one line of a thread to the next
    take, one = take_sums(vector), take_sums(1)

    def four(v, b):  # type: ignore[no-untyped-def]
        return done(v[0], b[0]), done(v[1], b[1]), done(v[2], b[2]), done(v[3], b[3])

    def eight(v, b):  # type: ignore[no-untyped-def]
        c, d = half(v[0:4], b[0:4]), half(v[4:8], b[4:8])
        return c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]

    def four_shifts(bias, geo, at, column):  # type: ignore[no-untyped-def]
        b0, b1 = shift(bias, geo, at, column < geo.columns), shift(bias, geo, int32(at + 1), int32(column + 1) < geo.columns)
        b2, b3 = shift(bias, geo, int32(at + 2), int32(column + 2) < geo.columns), shift(bias, geo, int32(at + 3), int32(column + 3) < geo.columns)
        return b0, b1, b2, b3

    def eight_shifts(bias, geo, at, column):  # type: ignore[no-untyped-def]
        b, c = half_shifts(bias, geo, at, column), half_shifts(bias, geo, int32(at + 4), int32(column + 4))
        return b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]

    def lines_of_channels(y, bias, geo, shared, begins, t, y_base, b_base, first_column):  # type: ignore[no-untyped-def]
        number, line = int32(t % vectors * vector), int32(t // vectors)
        column, together = int32(first_column + number), geo.columns % vector == 0
        b, by, at = shifts(bias, geo, int32(b_base + column), column), int32(y_base + column), int32(line * pitch + number)
        for _ in range(lines // step):
            pixel = begins[line]
            if pixel >= int32(0) and column < geo.columns:
                if together:
                    put_vector(y, int32(pixel + by), finish(take(shared, at), b))
                else:
                    for e in range(vector):
                        if int32(column + e) < geo.columns:
                            own = shift(bias, geo, int32(b_base + column + e), True)
                            y[int32(pixel + by + e)] = done(one(shared, int32(at + e))[0], own)
            line, at = int32(line + step), int32(at + step * pitch)

    def lines_of_pixels(y, bias, geo, shared, begins, t, y_base, b_base, first_column):  # type: ignore[no-untyped-def]
        number, line = int32(t % vectors * vector), int32(t // vectors)
        pixel, together = begins[number], geo.vector != 0 and geo.y_k % vector == 0
        at = int32(line * pitch + number)
        for _ in range(lines // step):
            column = int32(first_column + line)
            if pixel >= int32(0) and column < geo.columns:
                b, by = shift(bias, geo, int32(b_base + column), True), int32(y_base + column * geo.y_k)
                if together:
                    put_vector(y, int32(pixel + by), finish(take(shared, at), same(b)))
                else:
                    for e in range(vector):
                        place = begins[int32(number + e)]
                        if place >= int32(0):
                            y[int32(place + by)] = done(one(shared, int32(at + e))[0], b)
            line, at = int32(line + step), int32(at + step * pitch)

    half, half_shifts = device(four), device(four_shifts)
    finish, shifts = (half, half_shifts) if vector == 4 else (device(eight), device(eight_shifts))
    same = device((lambda b: (b, b, b, b)) if vector == 4 else (lambda b: (b, b, b, b, b, b, b, b)))
    return device(lines_of_channels if channels_last else lines_of_pixels)
