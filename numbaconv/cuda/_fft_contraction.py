"""The kernel that multiplies spectra, frequency by frequency, and adds the products over channels, or over images for wgrad."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._fft_prims import load2, store2
from numbaconv.cuda._prims import divide, int32
from numbaconv.cuda._store import THREADS

TILE = 4  # rows and columns of spectra that a thread multiplies


class Contraction(NamedTuple):
    """What `multiply` takes: c[group, row, column] = Σ a[group, row, term] · b[group, column, term] for each frequency."""

    frequencies: int
    groups: int
    rows: int
    columns: int
    terms: int
    a_group: int  # spectra from one group, row, … to the next
    a_row: int
    a_term: int
    b_group: int
    b_column: int
    b_term: int
    c_group: int
    c_row: int
    c_column: int
    row_tiles: int
    column_tiles: int
    again: int  # whether c holds the sum of earlier terms


def tiled(geo: Contraction) -> tuple[Contraction, bool, int]:
    """Return the product with the fewer spectra as its rows and cut into tiles, whether they are several rows high, and their number."""
    if geo.rows > geo.columns:
        geo = geo._replace(
            rows=geo.columns, columns=geo.rows, a_group=geo.b_group, a_row=geo.b_column, a_term=geo.b_term, b_group=geo.a_group,
            b_column=geo.a_row, b_term=geo.a_term, c_row=geo.c_column, c_column=geo.c_row,
        )  # fmt: skip
        geo, tall, count = tiled(geo)
        return geo, tall, count
    tall = geo.rows > 1
    geo = geo._replace(row_tiles=-(-geo.rows // TILE) if tall else 1, column_tiles=-(-geo.columns // TILE))
    return geo, tall, geo.row_tiles * geo.column_tiles * geo.groups * -(-geo.frequencies // THREADS)


@device
def added(sum_, a, b):  # type: ignore[no-untyped-def]
    """Return sum + a · b of complex numbers."""
    return sum_[0] + a[0] * b[0] - a[1] * b[1], sum_[1] + a[0] * b[1] + a[1] * b[0]


@device
def added_row(row, a, b):  # type: ignore[no-untyped-def]
    """Return a row of four sums, plus one number of a times four of b."""
    return added(row[0], a, b[0]), added(row[1], a, b[1]), added(row[2], a, b[2]), added(row[3], a, b[3])


@device
def four_of(spectra, at, step, last):  # type: ignore[no-untyped-def]
    """Return four complex numbers a step apart; those behind the last are the last."""
    a1, a2, a3 = int32(min(int32(1), last)), int32(min(int32(2), last)), int32(min(int32(3), last))
    z0, z1 = load2(spectra, int32(2 * at), 0), load2(spectra, int32(2 * (at + a1 * step)), 0)
    return z0, z1, load2(spectra, int32(2 * (at + a2 * step)), 0), load2(spectra, int32(2 * (at + a3 * step)), 0)


@device
def store_row(spectra, at, step, last, row):  # type: ignore[no-untyped-def]
    """Store those of four complex numbers that are not behind the last."""
    store2(spectra, int32(2 * at), row[0])
    if last >= int32(1):
        store2(spectra, int32(2 * (at + step)), row[1])
    if last >= int32(2):
        store2(spectra, int32(2 * (at + 2 * step)), row[2])
    if last >= int32(3):
        store2(spectra, int32(2 * (at + 3 * step)), row[3])


@functools.cache
def multiply(dtype: np.dtype[Any], tall: bool) -> Kernel:
    """Return the kernel that multiplies spectra; ``tall`` tiles are 4 × 4 spectra, the others 1 × 4."""
    zero = dtype.type(0)

    def products_of_spectra(a, b, c, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: c[group, row, column, f] = Σ_term a[group, row, term, f] · b[group, column, term, f].
        # THE SCHEDULE: a thread owns one frequency of a tile, a block 256 neighbouring ones, so that every load is of neighbours. Blocks
        # with the same frequencies follow one another: what they share they find in the second-level cache.
        rest, column = divide(int32(cuda.blockIdx.x), geo.column_tiles)
        rest, row = divide(rest, geo.row_tiles)
        block, group = divide(rest, geo.groups)
        f, n = int32(block * THREADS + int32(cuda.threadIdx.x)), geo.frequencies
        row, column = int32(row * (TILE if tall else 1)), int32(column * TILE)
        last_row, last_column = int32(geo.rows - 1 - row), int32(geo.columns - 1 - column)
        a_step, b_step, c_row, c_column = int32(geo.a_row * n), int32(geo.b_column * n), int32(geo.c_row * n), int32(geo.c_column * n)
        if f < n:
            a_at = int32((group * geo.a_group + row * geo.a_row) * n + f)
            b_at = int32((group * geo.b_group + column * geo.b_column) * n + f)
            c_at = int32((group * geo.c_group + row * geo.c_row + column * geo.c_column) * n + f)
            nothing = ((zero, zero), (zero, zero), (zero, zero), (zero, zero))
            s0, s1, s2, s3 = nothing, nothing, nothing, nothing
            if geo.again:
                s0 = four_of(c, c_at, c_column, last_column)
                if tall:
                    s1 = four_of(c, int32(c_at + min(int32(1), last_row) * c_row), c_column, last_column)
                    s2 = four_of(c, int32(c_at + min(int32(2), last_row) * c_row), c_column, last_column)
                    s3 = four_of(c, int32(c_at + min(int32(3), last_row) * c_row), c_column, last_column)
            for _ in range(geo.terms):
                of_b = four_of(b, b_at, b_step, last_column)
                if tall:
                    of_a = four_of(a, a_at, a_step, last_row)
                    s0, s1, s2, s3 = (
                        added_row(s0, of_a[0], of_b),
                        added_row(s1, of_a[1], of_b),
                        added_row(s2, of_a[2], of_b),
                        added_row(s3, of_a[3], of_b),
                    )
                else:
                    s0 = added_row(s0, load2(a, int32(2 * a_at), 0), of_b)
                a_at, b_at = int32(a_at + geo.a_term * n), int32(b_at + geo.b_term * n)
            store_row(c, c_at, c_column, last_column, s0)
            if tall:
                if last_row >= int32(1):
                    store_row(c, int32(c_at + c_row), c_column, last_column, s1)
                if last_row >= int32(2):
                    store_row(c, int32(c_at + 2 * c_row), c_column, last_column, s2)
                if last_row >= int32(3):
                    store_row(c, int32(c_at + 3 * c_row), c_column, last_column, s3)

    return Kernel(products_of_spectra, (dtype,) * 3, Contraction, THREADS)
