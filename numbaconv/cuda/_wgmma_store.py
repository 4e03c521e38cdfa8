"""How a warpgroup's sums of `_wgmma` become outputs: bias and activation, then pairs of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._backend import device
from numbaconv.cuda._prims import int32
from numbaconv.cuda._product import moved
from numbaconv.cuda._store import activation
from numbaconv.cuda._tensor_prims import narrow, store2, widen


def writer(kind: str, cell: np.dtype[Any], channels_last: bool, wide: bool, act: str | None, partial: bool) -> Any:
    """Return how sums become outputs: a thread has 16 squares of 2 × 2, rows 8 apart and columns neighbours.

    Rows are pixels and columns channels where the channels of y are last, else the other way round. ``wide`` says that all squares lie beside
    each other; otherwise the second eight lie 64 rows below the first. Where a pixel's outputs begin is read from shared memory.
    """
    zero, plain = np.float32(0), cell == np.float32
    wider, narrower = (None, None) if plain else (widen(kind), narrow(kind))
    activate = activation(None if partial else act, np.dtype(np.float32))
    below, beside = (0, 64) if wide else (64, 0)

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

    def of_channels(y, bias, geo, y_base, b_base, begins, row, column, v):  # type: ignore[no-untyped-def]
        """Store two channels of two pixels."""
        by, i0, i1 = int32(y_base + column), column < geo.columns, int32(column + 1) < geo.columns
        b0, b1 = shift(bias, geo, int32(b_base + column), i0), shift(bias, geo, int32(b_base + column + 1), i1)
        p0, p1 = begins[row], begins[int32(row + 8)]
        put(y, moved(p0, by, i0), moved(p0, int32(by + 1), i1), v[0], v[1], b0, b1, geo.vector != 0)
        put(y, moved(p1, by, i0), moved(p1, int32(by + 1), i1), v[2], v[3], b0, b1, geo.vector != 0)

    def of_pixels(y, bias, geo, y_base, b_base, begins, row, column, v):  # type: ignore[no-untyped-def]
        """Store two pixels of two channels."""
        k0, k1, p0, p1 = row, int32(row + 8), begins[column], begins[int32(column + 1)]
        by, inside = int32(y_base + k0 * geo.y_k), k0 < geo.columns
        b = shift(bias, geo, int32(b_base + k0), inside)
        put(y, moved(p0, by, inside), moved(p1, by, inside), v[0], v[1], b, b, geo.vector != 0)
        by, inside = int32(y_base + k1 * geo.y_k), k1 < geo.columns
        b = shift(bias, geo, int32(b_base + k1), inside)
        put(y, moved(p0, by, inside), moved(p1, by, inside), v[2], v[3], b, b, geo.vector != 0)

    def four(y, bias, geo, y_base, b_base, begins, row, column, v):  # type: ignore[no-untyped-def]
        square(y, bias, geo, y_base, b_base, begins, row, column, v[0:4])
        square(y, bias, geo, y_base, b_base, begins, row, int32(column + 8), v[4:8])
        square(y, bias, geo, y_base, b_base, begins, row, int32(column + 16), v[8:12])
        square(y, bias, geo, y_base, b_base, begins, row, int32(column + 24), v[12:16])

    def all_of(y, bias, geo, y_base, b_base, begins, row, column, acc):  # type: ignore[no-untyped-def]
        quarter(y, bias, geo, y_base, b_base, begins, row, column, acc[0:16])
        quarter(y, bias, geo, y_base, b_base, begins, row, int32(column + 32), acc[16:32])
        row, column = int32(row + below), int32(column + beside)
        quarter(y, bias, geo, y_base, b_base, begins, row, column, acc[32:48])
        quarter(y, bias, geo, y_base, b_base, begins, row, int32(column + 32), acc[48:64])

    done, shift, put = device(finished), device(shift_of), device(pair)
    square = device(of_channels if channels_last else of_pixels)
    quarter = device(four)
    return device(all_of)
