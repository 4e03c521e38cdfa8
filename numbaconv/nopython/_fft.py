"""Convolution by transforms of tiles that overlap, with the vector code of `numbaconv.cpu`, in float64 whatever the arrays are of.

A tile of real numbers is one part of a complex tile, the next one is the other. Sizes are powers of two: a long array is cut up so
that little is wasted. One precision is one kernel to compile, and leaves float32 with the rounding of its result alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.cpu import _emit
from numbaconv.cpu._simd_fft import FORWARD, INVERSE, stage, turn
from numbaconv.nopython._compile import family, helper, kernel

FLOAT64 = np.dtype(np.float64)
ISA = _emit.host()
WIDTH = ISA.width(FLOAT64)
SQUARE = WIDTH * WIDTH
LINES = 72  # elements between the planes, so that they do not share sets of the cache
COLUMNS = 5  # of a table of stages: radix, sub-transforms, butterflies of one, elements of a leg, place of the factors


@kernel
def tile_of(h_shape, y_shape, size):  # type: ignore[no-untyped-def]
    """Fill in the size of a tile that is soonest done, axis by axis; return the tiles' elements times their stages, in all."""
    work, stages = 1.0, 1.0
    for axis in range(len(size)):
        n, best, levels = SQUARE if axis == len(size) - 1 else 1, math.inf, 0.0
        while 2 * n <= h_shape[axis]:
            n *= 2
        while True:
            fresh = n - h_shape[axis] + 1
            if fresh > 0:
                cost = (y_shape[axis] + fresh - 1) // fresh * n * (math.log2(n) + 1)
                if cost < best:
                    best, size[axis], levels = cost, n, math.log2(n) + 1
                if fresh >= y_shape[axis]:
                    break
            n *= 2
        work *= best / levels
        stages += levels - 1
    return work * stages


@kernel
def fill_stages(size, stages, factors):  # type: ignore[no-untyped-def]
    """Fill in the stages and their factors; return how many they are."""
    count, place, subs, inner = 0, 0, 1, 1
    for axis in range(len(size)):
        inner *= size[axis]
    for axis in range(len(size)):
        across = axis < len(size) - 1
        inner //= size[axis]
        n, left = size[axis], size[axis] if across else size[axis] // WIDTH
        while left > 1:
            radix = 4 if left >= 4 else 2
            m, row = n // radix, COLUMNS * count
            for j in range(m):
                for q in range(radix - 1):
                    angle = -2 * math.pi * (q + 1) * j / n
                    re = place + (2 * ((radix - 1) * j + q) if across else q * m + j)
                    factors[re], factors[re + (1 if across else (radix - 1) * m)] = math.cos(angle), math.sin(angle)
            stages[row], stages[row + 1], stages[row + 2], stages[row + 3], stages[row + 4] = radix, subs, m, inner, place
            place, subs = place + 2 * (radix - 1) * m, subs * radix
            n, left, count = m, left // radix, count + 1
        subs *= n
    return count


@family
def through_stages(sign: int, flat: bool) -> Any:
    """Make the function of all stages of a transform or, for the other sign, of the way back; ``flat`` is for one axis, and sooner compiled."""
    four, two = (stage(ISA, FLOAT64, radix, sign, "each") for radix in (4, 2))
    across = _nothing if flat else _across(sign)

    def run(data, plane, stages, count, factors):  # type: ignore[no-untyped-def]
        for k in range(count):
            s = COLUMNS * (k if sign == FORWARD else count - 1 - k)
            radix, subs, m, inner, place = stages[s], stages[s + 1], stages[s + 2], stages[s + 3], stages[s + 4]
            if inner > 1:
                across(data, plane, radix, subs, m, inner, factors, place)
                continue
            for b in range(subs):
                if radix == 4:
                    four(data, b * 4 * m, plane, m, m // WIDTH, factors, place, m)
                else:
                    two(data, b * 2 * m, plane, m, m // WIDTH, factors, place, m)

    return run


@helper
def _nothing(data, plane, radix, subs, m, inner, factors, place):  # type: ignore[no-untyped-def]
    pass


@functools.cache
def _across(sign: int) -> Any:
    """Make the function of a stage whose elements are whole rows."""
    four, two = (stage(ISA, FLOAT64, radix, sign, "one") for radix in (4, 2))

    @helper
    def run(data, plane, radix, subs, m, inner, factors, place):  # type: ignore[no-untyped-def]
        for b in range(subs):
            for j in range(m):
                here = (b * radix * m + j) * inner
                if radix == 4:
                    four(data, here, plane, m * inner, inner // WIDTH, factors, place + 6 * j, 0)
                else:
                    two(data, here, plane, m * inner, inner // WIDTH, factors, place + 2 * j, 0)

    return run


@helper
def _find_lines(shape, size, first, lead, lines):  # type: ignore[no-untyped-def]
    """Fill in which line of an array lies on each row of a tile that begins at ``first``: −1 for none, and for rows before ``lead``."""
    for k in range(len(lines)):
        row, at, scale = k, 0, 1
        for axis in range(len(shape) - 2, -1, -1):
            rest = row // size[axis]
            place = row - rest * size[axis]
            i = first[axis] + place
            if i < 0 or i >= shape[axis] or place < lead[axis]:
                at = -1
                break
            at, scale, row = at + i * scale, scale * shape[axis], rest
        lines[k] = at


@helper
def _only_line(shape, size, first, lead, lines):  # type: ignore[no-untyped-def]
    lines[0] = 0


@kernel
def load(x, parts, lines, n, first, width, data, at, plane):  # type: ignore[no-untyped-def]
    """Copy a tile, with zeros where the array ends. A complex array fills both planes, a real one the first."""
    for row in range(len(lines)):
        begin = min(max(0, -first), width)
        end = max(begin, min(width, n - first)) if lines[row] >= 0 else begin
        for part in range(parts):
            to, source = at + part * plane + row * width, parts * (lines[row] * n + first) + part
            for j in range(width):
                data[to + j] = x[source + parts * j] if begin <= j < end else 0.0


@kernel
def store(data, at, plane, lines, width, lead, scale, y, parts, n, first):  # type: ignore[no-untyped-def]
    """Copy the new outputs of a tile to where it begins; those before ``lead`` are not new."""
    for row in range(len(lines)):
        if lines[row] >= 0:
            for part in range(parts):
                source, to = at + part * plane + row * width, parts * (lines[row] * n + first) + part
                for j in range(lead, min(width, n - first)):
                    y[to + parts * j] = scale * data[source + j]


@helper
def _place(which, grid, size, lead, start, first):  # type: ignore[no-untyped-def]
    """Fill in where a tile of outputs begins, with ``lead`` elements before the new ones, and ``start`` further on."""
    for axis in range(len(size) - 1, -1, -1):
        rest = which // grid[axis]
        first[axis] = start[axis] + (which - rest * grid[axis]) * (size[axis] - lead[axis]) - lead[axis]
        which = rest


@family
def by_transforms(flat: bool) -> Callable[..., Any]:
    """Make the kernel, for arrays of one axis or of any number."""
    forward, inverse = through_stages(FORWARD, flat), through_stages(INVERSE, flat)
    last, multiply = turn(ISA, FLOAT64, "forward"), turn(ISA, FLOAT64, "multiply")
    find_lines = _only_line if flat else _find_lines

    def convolve_by_transforms(x, x_shape, h, h_shape, start, y, y_shape, parts, size):  # type: ignore[no-untyped-def]
        # Overwrite y with Σ_r h[r] · x[start + o − r], by tiles of a size that `tile_of` chose.
        # Complex arrays are given as real ones whose elements have two parts.
        axes, rows, tiles, places = len(size), 1, 1, 16
        end = axes - 1
        lead, grid, first, zero = np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty(axes, np.int64)
        for axis in range(axes):
            lead[axis], zero[axis] = h_shape[axis] - 1, 0
            fresh = size[axis] - lead[axis]
            grid[axis] = (y_shape[axis] + fresh - 1) // fresh
            tiles, places = tiles * grid[axis], places + 4 * size[axis]
            rows *= size[axis] if axis < end else 1
        width, elements = size[end], rows * size[end]
        plane, squares, scale = elements + LINES, elements // SQUARE, 1.0 / elements
        stages, lines = np.empty(64 * COLUMNS, np.int64), np.empty(rows, np.int64)
        factors, spectrum, data = np.empty(places, FLOAT64), np.empty(2 * plane, FLOAT64), np.empty(2 * plane, FLOAT64)
        count = fill_stages(size, stages, factors)
        for j in range(2 * plane):
            spectrum[j] = data[j] = 0.0
        find_lines(h_shape, size, zero, zero, lines)
        load(h, parts, lines, h_shape[end], zero[end], width, spectrum, zero[end], plane)
        forward(spectrum, plane, stages, count, factors)
        last(spectrum, 0, plane, squares, spectrum, 0)
        together = 3 - parts  # tiles of a transform
        for tile in range(0, tiles, together):
            for part in range(together):
                _place(min(tile + part, tiles - 1), grid, size, lead, start, first)
                find_lines(x_shape, size, first, zero, lines)
                load(x, parts, lines, x_shape[end], first[end], width, data, part * plane, plane)
            forward(data, plane, stages, count, factors)
            multiply(data, 0, plane, squares, spectrum, 0)
            inverse(data, plane, stages, count, factors)
            for part in range(min(together, tiles - tile)):
                _place(tile + part, grid, size, lead, zero, first)
                find_lines(y_shape, size, first, lead, lines)
                store(data, part * plane, plane, lines, width, lead[end], scale, y, parts, y_shape[end], first[end])

    return convolve_by_transforms
