"""How a warp's sums of `_tensor` become outputs: bias and activation, then pairs of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._backend import device
from numbaconv.cuda._prims import int32
from numbaconv.cuda._product import address, moved
from numbaconv.cuda._store import activation
from numbaconv.cuda._tensor_layout import Variant
from numbaconv.cuda._tensor_prims import narrow, store2, widen


def finishing(kind: str, out: np.dtype[Any], name: str | None, partial: bool) -> tuple[Any, Any]:
    """Return two functions: what a sum and its bias are stored as, and the bias of an output; ``partial``: the sum itself, and none."""
    zero, plain = np.float32(0), out == np.float32
    wider, narrower = (None, None) if plain else (widen(kind), narrow(kind))
    activate = activation(None if partial else name, np.dtype(np.float32))

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

    return device(finished), device(shift_of)


def writer(v: Variant) -> Any:
    """Return how a warp's sums become outputs: a thread has 8 rows, 8 apart, of 4 pairs of neighbours in memory, 8 apart too."""
    done, shift = finishing(v.kind, v.cell if not v.partial else np.dtype(np.float32), v.activation, v.partial)

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

    def row_of_channels(y, geo, y_base, pixel, column, values, b):  # type: ignore[no-untyped-def]
        """Store 8 channels of one pixel."""
        two(y, geo, y_base, pixel, column, values[0], values[1], b[0], b[1])
        two(y, geo, y_base, pixel, int32(column + 8), values[2], values[3], b[2], b[3])
        two(y, geo, y_base, pixel, int32(column + 16), values[4], values[5], b[4], b[5])
        two(y, geo, y_base, pixel, int32(column + 24), values[6], values[7], b[6], b[7])

    def two_channels(y, geo, y_base, pixel, column, v0, v1, b0, b1):  # type: ignore[no-untyped-def]
        by, i0, i1 = int32(y_base + column), column < geo.columns, int32(column + 1) < geo.columns
        put(y, moved(pixel, by, i0), moved(pixel, int32(by + 1), i1), v0, v1, b0, b1, geo.vector != 0)

    def two_shifts(bias, geo, first, column):  # type: ignore[no-untyped-def]
        at = int32(first + column)
        return shift(bias, geo, at, column < geo.columns), shift(bias, geo, int32(at + 1), int32(column + 1) < geo.columns)

    def eight_shifts(bias, geo, first, column):  # type: ignore[no-untyped-def]
        b, c = two_b(bias, geo, first, column), two_b(bias, geo, first, int32(column + 8))
        d, e = two_b(bias, geo, first, int32(column + 16)), two_b(bias, geo, first, int32(column + 24))
        return b[0], b[1], c[0], c[1], d[0], d[1], e[0], e[1]

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
        b = shifts(bias, geo, int32(group * geo.columns), k)
        row(y, geo, y_base, address(table, geo, phase, m), k, acc[0:8], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 8)), k, acc[8:16], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 16)), k, acc[16:24], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 24)), k, acc[24:32], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 32)), k, acc[32:40], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 40)), k, acc[40:48], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 48)), k, acc[48:56], b)
        row(y, geo, y_base, address(table, geo, phase, int32(m + 56)), k, acc[56:64], b)

    put, addresses, two_b = device(pair), device(eight_pixels), device(two_shifts)
    two, shifts = device(two_channels), device(eight_shifts)
    row = device(row_of_channels if v.channels_last else row_of_pixels)
    return device(tile_channels if v.channels_last else tile_pixels)
