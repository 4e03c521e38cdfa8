"""Fourier transforms of a tile in a core's cache, on vectors of neighbouring elements: which stages, their factors, and how they run.

A tile has three axes. The first two are transformed by stages across rows, whole rows as elements; the last by stages within a row
until sub-transforms of as many elements as a vector has lanes remain, which are done on transposed squares of vectors.
The tile is complex: two tiles of real numbers are its two parts.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv._jit import exact, inline
from numbaconv.cpu import _isa
from numbaconv.cpu._simd_fft import FORWARD, INVERSE, stage, turn
from numbaconv.problem import Triple

Array = np.ndarray[Any, Any]
RADICES = (2, 3, 4, 5, 8)
LINES = 9  # cache lines beyond what a plane holds
CHUNK_BYTES = 1 << 15  # of a tile that goes through the later stages of the last axis at a time: what the first-level cache holds


def plane(elements: int, dtype: np.dtype[Any]) -> int:
    """Return how far the imaginary part of a tile lies from its real one: planes a power of two apart would share few sets of the cache.

    65,536 points there and back took 243 µs without the extra lines, 192 with 4 and 186 with 9 (AVX-512, 2026-11).
    """
    return elements + LINES * 64 // dtype.itemsize


class Transform(NamedTuple):
    """The stages of a tile of a size, and their factors."""

    size: Triple
    sizes: Array  # elements, elements of a chunk, stages of the first two axes, of the last before the chunks, all stages
    stages: Array  # radix, sub-transforms, butterflies of one, elements of a leg, place of the factors
    factors: Array  # of the real dtype


def factorise(n: int, largest: int) -> list[int]:
    """Return radices whose product is n, the largest first; n has no prime factor but 2, 3 and 5."""
    radices = []
    for prime in (5, 3):
        while n % prime == 0:
            radices.append(prime)
            n //= prime
    twos = n.bit_length() - 1
    step = largest.bit_length() - 1
    parts = -(-twos // step)
    return [*sorted((1 << (twos // parts + (i < twos % parts)) for i in range(parts)), reverse=True), *radices] if twos else radices


def lengths(least: int, unit: int = 1) -> list[int]:
    """Return the lengths that suit a transform of at least so many elements, one for each combination of small factors 3 and 5."""
    found = set()
    for odd in (1, 3, 5, 9, 15):
        n = -(-least // (unit * odd))
        found.add(unit * odd << max(0, (n - 1).bit_length()))
    return sorted(found)


@functools.lru_cache(maxsize=256)
def transform(isa: _isa.Isa, dtype: np.dtype[Any], size: Triple) -> Transform:
    """Return how a tile is transformed; its last axis is a multiple of a vector's lanes, and it is one of the square of them."""
    width, largest = isa.width(dtype), 8 if isa.vector_bytes == 64 else 4
    elements, rows, table, place = math.prod(size), [], [], 0
    inner, leading = elements, 0
    for axis, length in enumerate(size):
        inner //= length
        n = length
        for radix in factorise(length if axis < 2 else length // width, largest):
            m = n // radix
            # One number for a row of elements; or for each leg those of all butterflies, real parts first.
            turns = -2 * np.pi / n * np.arange(m)
            legs = [[np.cos(q * turns), np.sin(q * turns)] for q in range(1, radix)]
            values = np.array(legs, dtype)  # leg, part, butterfly
            values = values.transpose(2, 0, 1) if axis < 2 else values.transpose(1, 0, 2)
            rows.append((radix, elements // inner // n, m, inner, place))
            table.append(values.ravel())
            place += values.size
            n = m
        if axis == 1:
            leading = len(rows)
    chunk = size[2]
    first = leading
    while chunk * dtype.itemsize * 2 > CHUNK_BYTES and first < len(rows) and chunk // rows[first][0] % width**2 == 0:
        chunk //= rows[first][0]
        first += 1
    while chunk % width**2 or (chunk * dtype.itemsize * 4 <= CHUNK_BYTES and elements % (2 * chunk) == 0):
        chunk *= 2
    if elements % chunk:
        chunk = elements
    numbers = np.concatenate(table) if table else np.zeros(1, dtype)
    sizes = np.array([elements, chunk, leading, first, len(rows)], np.int64)
    return Transform(size, sizes, np.array(rows, np.int64).reshape(-1, 5), numbers)


@functools.cache
def functions(isa: _isa.Isa, dtype: np.dtype[Any], flat: bool) -> tuple[Any, Any, Any]:
    """Return compiled-code functions (data, at, plane, sizes, stages, factors, spectrum, from) -> None.

    With ``flat`` they are for tiles of one axis, and sooner compiled.

    The first transforms a tile, the second transforms it back, and the third does both with a multiplication by a spectrum between.
    Nothing is scaled.
    """
    across = {sign: _no_stage if flat else _across(isa, dtype, sign) for sign in (FORWARD, INVERSE)}
    within = {sign: _within(isa, dtype, sign) for sign in (FORWARD, INVERSE)}
    turned = {what: turn(isa, dtype, what) for what in ("forward", "inverse", "multiply")}
    square = isa.width(dtype) ** 2

    def make(what: str) -> Any:
        there, back, last = what != "inverse", what != "forward", turned[what]
        across_forward, within_forward, across_inverse, within_inverse = across[FORWARD], within[FORWARD], across[INVERSE], within[INVERSE]

        @inline
        def run(data, at, plane, sizes, stages, factors, spectrum, start):  # type: ignore[no-untyped-def]
            elements, chunk, leading, first, count = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
            if there:
                for s in range(leading):
                    across_forward(data, at, plane, stages[s], factors, stages[s, 1])
                for s in range(leading, first):
                    within_forward(data, at, plane, stages[s], factors, stages[s, 1])
            for c in range(elements // chunk):
                place, share = at + c * chunk, elements // chunk
                if there:
                    for s in range(first, count):
                        within_forward(data, place, plane, stages[s], factors, stages[s, 1] // share)
                last(data, place, plane, chunk // square, spectrum, start + c * chunk)
                if back:
                    for s in range(count - 1, first - 1, -1):
                        within_inverse(data, place, plane, stages[s], factors, stages[s, 1] // share)
            if back:
                for s in range(first - 1, leading - 1, -1):
                    within_inverse(data, at, plane, stages[s], factors, stages[s, 1])
                for s in range(leading - 1, -1, -1):
                    across_inverse(data, at, plane, stages[s], factors, stages[s, 1])

        return run

    return make("forward"), make("inverse"), make("multiply")


@inline
def _no_stage(data, at, plane, row, factors, subs):  # type: ignore[no-untyped-def]
    pass


@functools.cache
def _by_radix(isa: _isa.Isa, dtype: np.dtype[Any], sign: int, factors: str) -> Any:
    """Make the function of a row of butterflies of any radix, which is its first argument; the others are those of `stage`."""
    two, three, four, five, eight = (stage(isa, dtype, radix, sign, factors) for radix in RADICES)

    @exact  # as a call of its own it takes a fifth of a transform's time
    def run(radix, data, at, plane, step, count, table, start, apart):  # type: ignore[no-untyped-def]
        if radix == 8:
            eight(data, at, plane, step, count, table, start, apart)
        elif radix == 4:
            four(data, at, plane, step, count, table, start, apart)
        elif radix == 2:
            two(data, at, plane, step, count, table, start, apart)
        elif radix == 3:
            three(data, at, plane, step, count, table, start, apart)
        else:
            five(data, at, plane, step, count, table, start, apart)

    return run


@functools.cache
def _across(isa: _isa.Isa, dtype: np.dtype[Any], sign: int) -> Any:
    """Make the function of a stage whose elements are rows: all butterflies of all its sub-transforms."""
    plain, turned, width = _by_radix(isa, dtype, sign, "none"), _by_radix(isa, dtype, sign, "one"), isa.width(dtype)

    @inline
    def run(data, at, plane, row, factors, subs):  # type: ignore[no-untyped-def]
        radix, m, inner, place = row[0], row[2], row[3], row[4]
        step, count, some = m * inner, inner // width, 2 * (radix - 1)
        for b in range(subs):
            here = at + b * radix * m * inner
            plain(radix, data, here, plane, step, count, factors, place, 0)
            for j in range(1, m):
                turned(radix, data, here + j * inner, plane, step, count, factors, place + j * some, 0)

    return run


@functools.cache
def _within(isa: _isa.Isa, dtype: np.dtype[Any], sign: int) -> Any:
    """Make the function of a stage of the last axis: neighbouring butterflies side by side in vectors."""
    each, width = _by_radix(isa, dtype, sign, "each"), isa.width(dtype)

    @inline
    def run(data, at, plane, row, factors, subs):  # type: ignore[no-untyped-def]
        radix, m, place = row[0], row[2], row[4]
        for b in range(subs):
            each(radix, data, at + b * radix * m, plane, m, m // width, factors, place, m)

    return run
