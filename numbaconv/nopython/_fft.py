"""Convolution by transforms of tiles that overlap, with the vector code of `numbaconv.cpu`, in float64 whatever the arrays are of.

A tile of real numbers is one part of a complex tile, the next one is the other. Sizes are powers of two: a long array is cut up so
that little is wasted. One precision is one kernel to compile, and leaves float32 with the rounding of its result alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.cpu import _isa
from numbaconv.cpu._simd_fft import FORWARD, INVERSE, stage, turn
from numbaconv.nopython._arrays import flat
from numbaconv.nopython._compile import family, helper, kernel
from numbaconv.nopython._direct import START, H, X, Y

FLOAT64 = np.dtype(np.float64)
ISA = _isa.host()
WIDTH = ISA.width(FLOAT64)
SQUARE = WIDTH * WIDTH
LINES = 72  # elements between the planes, so that they do not share sets of the cache
TILE, GRID, FIRST, TILE_ROWS = 0, 1, 2, 3  # rows of a table with a column for each axis: size of a tile, how many, where one begins


@kernel
def tile_of(sizes, tiles):  # type: ignore[no-untyped-def]
    """Fill in the size of a tile that is soonest done, axis by axis, and how many; return the tiles' elements times their stages, in all."""
    work, stages, axes = 1.0, 1.0, sizes.shape[1]
    for axis in range(axes):
        taps, outputs, least = sizes[H, axis], sizes[Y, axis], SQUARE if axis == axes - 1 else 1
        n, level, fresh, best, size, levels = 1, 0.0, 0, math.inf, 1, 0.0
        while fresh < outputs:
            if n >= least and 2 * n > taps:
                fresh = n - taps + 1
                cost = (outputs + fresh - 1) // fresh * n * (level + 1)
                if fresh > 0 and cost < best:
                    best, size, levels = cost, n, level
            n, level = 2 * n, level + 1
        work *= best / (levels + 1)
        stages += levels
        tiles[TILE, axis], tiles[GRID, axis], tiles[FIRST, axis] = size, (outputs + size - taps) // (size - taps + 1), 0
    return work * stages


@kernel
def fill_stages(tiles, stages, factors):  # type: ignore[no-untyped-def]
    """Fill in the stages and their factors; return how many they are.

    A stage has its radix, sub-transforms, butterflies of one, elements of a leg, place of the factors.
    """
    count, at, subs, inner, axes = 0, 0, 1, 1, tiles.shape[1]
    for axis in range(axes):
        inner *= tiles[TILE, axis]
    for axis in range(axes):
        n = tiles[TILE, axis]
        inner //= n
        left = n if inner > 1 else n // WIDTH
        while left > 1:
            radix = 4 if left >= 4 else 2
            m, legs = n // radix, radix - 1
            for j in range(m):
                for q in range(legs):
                    angle = -2 * math.pi * (q + 1) * j / n
                    re = at + (2 * (legs * j + q) if inner > 1 else q * m + j)
                    factors[re], factors[re + (1 if inner > 1 else legs * m)] = math.cos(angle), math.sin(angle)
            for i, value in enumerate((radix, subs, m, inner, at)):
                stages[5 * count + i] = value
            at, subs, n, left, count = at + 2 * legs * m, subs * radix, m, left // radix, count + 1
        subs *= n
    return count


@family
def through_stages(one_axis: bool) -> Any:
    """Make the function of all stages of a transform or of the way ``back``; that of one axis is sooner compiled."""
    each, one = ([[stage(ISA, FLOAT64, radix, sign, factors) for radix in (4, 2)] for sign in (FORWARD, INVERSE)] for factors in ("each", "one"))
    (four, two), (four_back, two_back) = each
    (four_across, two_across), (four_back_across, two_back_across) = one

    def run(data, plane, stages, count, factors, back):  # type: ignore[no-untyped-def]
        for k in range(count):
            s = 5 * (count - 1 - k if back else k)
            radix, subs, m, inner, at = stages[s], stages[s + 1], stages[s + 2], stages[s + 3], stages[s + 4]
            if one_axis or inner == 1:
                for b in range(subs):
                    here, vectors = b * radix * m, m // WIDTH
                    if back:
                        if radix == 4:
                            four_back(data, here, plane, m, vectors, factors, at, m)
                        else:
                            two_back(data, here, plane, m, vectors, factors, at, m)
                    elif radix == 4:
                        four(data, here, plane, m, vectors, factors, at, m)
                    else:
                        two(data, here, plane, m, vectors, factors, at, m)
            if not one_axis:
                step, vectors = m * inner, inner // WIDTH
                for b in range(subs if inner > 1 else 0):
                    for j in range(m):
                        # Elements are whole rows.
                        here, turned = (b * radix * m + j) * inner, at + 2 * (radix - 1) * j
                        if back:
                            if radix == 4:
                                four_back_across(data, here, plane, step, vectors, factors, turned, 0)
                            else:
                                two_back_across(data, here, plane, step, vectors, factors, turned, 0)
                        elif radix == 4:
                            four_across(data, here, plane, step, vectors, factors, turned, 0)
                        else:
                            two_across(data, here, plane, step, vectors, factors, turned, 0)

    return run


@kernel
def place(which, sizes, tiles, inputs):  # type: ignore[no-untyped-def]
    """Fill in where a tile of outputs begins, with what was before the new ones, or where the inputs do that it is made of."""
    for axis in range(sizes.shape[1] - 1, -1, -1):
        lead, many = sizes[H, axis] - 1, tiles[GRID, axis]
        tiles[FIRST, axis] = which % many * (tiles[TILE, axis] - lead) - lead + inputs * sizes[START, axis]
        which //= many


@helper
def line_of(row, sizes, of, tiles, outputs):  # type: ignore[no-untyped-def]
    """Return which line of an array lies on a row of a tile: −1 for none, and for rows of outputs that are not new."""
    at, scale = 0, 1
    for axis in range(sizes.shape[1] - 2, -1, -1):
        width, n = tiles[TILE, axis], sizes[of, axis]
        k = row % width
        i = tiles[FIRST, axis] + k
        if i < 0 or i >= n or k < outputs * (sizes[H, axis] - 1):
            return -1
        at, scale, row = at + i * scale, scale * n, row // width
    return at


@family
def loading(one_axis: bool) -> Callable[..., Any]:
    """Make the function that copies a tile, with zeros where the array ends. A complex array fills both planes, a real one the first."""

    def load(x, sizes, of, tiles, rows, parts, data, at, plane):  # type: ignore[no-untyped-def]
        end = sizes.shape[1] - 1
        n, width, first = sizes[of, end], tiles[TILE, end], tiles[FIRST, end]
        for row in range(rows):
            line = 0 if one_axis else line_of(row, sizes, of, tiles, 0)
            begin = min(max(0, -first), width)
            stop = max(begin, min(width, n - first)) if line >= 0 else begin
            for part in range(parts):
                to, source = at + part * plane + row * width, parts * (line * n + first) + part
                for j in range(width):
                    data[to + j] = x[source + parts * j] if begin <= j < stop else 0.0

    return load


@family
def storing(one_axis: bool) -> Callable[..., Any]:
    """Make the function that copies the new outputs of a tile to where it begins."""

    def store(data, at, plane, sizes, tiles, rows, scale, y, parts):  # type: ignore[no-untyped-def]
        end = sizes.shape[1] - 1
        n, width, first = sizes[Y, end], tiles[TILE, end], tiles[FIRST, end]
        for row in range(rows):
            line = 0 if one_axis else line_of(row, sizes, Y, tiles, 1)
            if line >= 0:
                for part in range(parts):
                    source, to = at + part * plane + row * width, parts * (line * n + first) + part
                    for j in range(sizes[H, end] - 1, min(width, n - first)):
                        y[to + parts * j] = scale * data[source + j]

    return store


@family
def by_transforms(one_axis: bool) -> Callable[..., Any]:
    """Make the kernel, for arrays of one axis or of any number."""
    run, load, store = through_stages(one_axis), loading(one_axis), storing(one_axis)
    last, multiply = turn(ISA, FLOAT64, "forward"), turn(ISA, FLOAT64, "multiply")

    def convolve_by_transforms(x, h, y, sizes, tiles, parts):  # type: ignore[no-untyped-def]
        # Overwrite y with Σ_r h[r] · x[start + o − r], by tiles of a size that `tile_of` chose.
        # Complex arrays are given as real ones whose elements have two parts.
        elements, number, places = 1, 1, 16
        for axis in range(sizes.shape[1]):
            size = tiles[TILE, axis]
            elements, number, places = elements * size, number * tiles[GRID, axis], places + 4 * size
        rows = elements // tiles[TILE, sizes.shape[1] - 1]
        plane, squares, scale, stages = elements + LINES, elements // SQUARE, 1.0 / elements, flat(np.empty((64, 5), np.int64))
        factors, spectrum, data = np.empty(places, FLOAT64), np.empty(2 * plane, FLOAT64), np.empty(2 * plane, FLOAT64)
        count = fill_stages(tiles, stages, factors)
        for j in range(2 * plane):
            spectrum[j] = data[j] = 0.0
        load(h, sizes, H, tiles, rows, parts, spectrum, 0, plane)
        run(spectrum, plane, stages, count, factors, False)
        last(spectrum, 0, plane, squares, spectrum, 0)
        together = 3 - parts  # tiles of a transform
        for tile in range(0, number, together):
            for part in range(together):
                place(min(tile + part, number - 1), sizes, tiles, 1)
                load(x, sizes, X, tiles, rows, parts, data, part * plane, plane)
            run(data, plane, stages, count, factors, False)
            multiply(data, 0, plane, squares, spectrum, 0)
            run(data, plane, stages, count, factors, True)
            for part in range(min(together, number - tile)):
                place(tile + part, sizes, tiles, 0)
                store(data, part * plane, plane, sizes, tiles, rows, scale, y, parts)

    return convolve_by_transforms
