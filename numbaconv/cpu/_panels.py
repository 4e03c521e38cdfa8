"""The panels of `gemm`: pieces of both operands in the order in which its register tiles read them.

A panel of lanes is a chunk of one line of columns, near L1; a panel of rows a chunk of one block, for L2, of each step its rows side by side.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv._jit import inline, unsigned
from numbaconv.cpu import _isa, _simd_move
from numbaconv.cpu._simd_tile import COUNT, MASKS, PLACES, UNROLLED

CHUNK = 148  # steps summed in registers at the most, the 147 of a 7×7 stem in one: a panel fits L1, rounding in 8 eps (test_numerics)
CHUNKS = 56  # chunks added in one place; sums of longer ones are added in a second (each with the rounding of so many terms at the most)
TOGETHER = 4  # blocks of rows that are packed together if they are neighbours: two lines of the caches
# Panels of lanes, of CHUNK steps, that a thread has room for: shorter ones of more lines. With 1, 2, 4 five 1×1 were at 0.92, 0.96, 0.99 of PyTorch.
PANELS = 4
BESIDE = 2  # columns left over that are multiplied together: with ROWS sums each, they fill half of the registers
STEPS = 8  # where the geometry says how many terms a sum has


@functools.cache
def packers(isa: _isa.Isa, dtype: np.dtype[Any]) -> tuple[Any, Any, Any]:
    """Return the compiled-code functions `inside`, `pack_lanes` and `pack_rows`."""
    width, height = isa.width(dtype), isa.rows
    gather_one, gather_two, gather_three = (_simd_move.gather(isa, dtype, v) for v in (1, 2, 3))
    transpose, load_transposed = _simd_move.transpose(isa, dtype, True), _simd_move.load_transposed(isa, dtype, height)
    pack_apart, pack_near = _simd_move.pack_apart(isa, dtype), _simd_move.pack_near(isa, dtype)
    pack_beside, pack_blocks = _simd_move.pack_beside(isa, dtype), _simd_move.pack_blocks(isa, dtype, TOGETHER)

    @inline
    def inside(b, place, columns, line, reach):  # type: ignore[no-untyped-def]
        # Whether no vector of a line ends behind the array.
        last = 0
        for v in range(columns[line + COUNT]):
            last = max(last, columns[line + PLACES + v])
        return place + last + reach + width <= b.size

    @inline
    def gather(panel, base, b, place, columns, line, b_steps, step, count, reach):  # type: ignore[no-untyped-def]
        # Vectors side by side, those that end behind the array element by element.
        vectors = columns[line + COUNT]
        if inside(b, place, columns, line, reach):
            if vectors == 1:
                gather_one(b, place, columns, line + PLACES, b_steps, step, count, panel, base)
            elif vectors == 2:
                gather_two(b, place, columns, line + PLACES, b_steps, step, count, panel, base)
            else:
                gather_three(b, place, columns, line + PLACES, b_steps, step, count, panel, base)
            return
        for k in range(count):
            for v in range(vectors):
                source, to = place + columns[line + PLACES + v] + b_steps[step + k], base + (k * vectors + v) * width
                for i in range(width):
                    panel[unsigned(to + i)] = b[source + i] if source + i < b.size else 0

    @inline
    def turn(panel, base, b, place, columns, line, channel, count):  # type: ignore[no-untyped-def]
        # The same of vectors whose lanes are ``channel`` elements apart, and whose steps are neighbours. Lanes that do not count are 0:
        # what lay there before may be denormal, and a multiply-add of such numbers takes a hundred times as long.
        vectors = columns[line + COUNT]
        for v in range(vectors):
            lanes, mask = 0, columns[line + MASKS + v]
            while mask:
                lanes, mask = lanes + 1, mask >> 1
            for k in range(0, count, width):
                at, to = place + columns[line + PLACES + v] + k, base + (k * vectors + v) * width
                transpose(b, at, channel, lanes, count - k, panel, to, vectors * width)

    @inline
    def fill_up(panel, at, count, each):  # type: ignore[no-untyped-def]
        # Zeros for the steps up to where `multiply` takes the last ones together.
        for i in range(at + count * each, at + (count + UNROLLED - 1) // UNROLLED * UNROLLED * each):
            panel[unsigned(i)] = 0

    @inline
    def pack_lanes(panel, base, b, place, turned, reach, columns, line, b_steps, step, count):  # type: ignore[no-untyped-def]
        if turned:
            turn(panel, base, b, place + b_steps[step], columns, line, turned, count)
        else:
            gather(panel, base, b, place, columns, line, b_steps, step, count, reach)
        fill_up(panel, base, count, columns[line + COUNT] * width)

    @inline
    def pack_rows(panel, base, a, place, a_row, blocks, first, filled, a_steps, runs, step, count):  # type: ignore[no-untyped-def]
        # A chunk of a tile's rows, block after block, of each step its rows side by side.
        done = 0
        while a_row == 1 and done < filled and blocks[first + done, 1] == height and blocks[first + done, 0] - blocks[first, 0] == done * height:
            done += 1
        done = done // TOGETHER * TOGETHER
        if done:
            pack_blocks(a, place + blocks[first, 0], a_steps, step, count, done // TOGETHER, panel, base, height * CHUNK)
        along, k = runs[step, 0] >= count, 0
        while a_row != 1 and not along and k < count:  # steps near each other are read together, those of all blocks after one another
            near, bits = min(runs[step + k, 1], count - k), 0
            for i in range(near):
                bits |= 1 << a_steps[step + k + i] - a_steps[step + k]
            ahead = a_steps[step + k + near] - a_steps[step + k] if k + near < count else 0
            for block in range(filled):
                at, valid = place + blocks[first + block, 0] + a_steps[step + k], blocks[first + block, 1]
                to = base + (block * CHUNK + k) * height
                if near > 1:
                    pack_near(a, at, a_row, valid, bits, ahead, panel, to)
                else:
                    pack_apart(a, at, a_row, valid, panel, to)
            k += near
        for block in range(filled):
            at, valid, to = place + blocks[first + block, 0], blocks[first + block, 1], base + block * height * CHUNK
            if a_row == 1 and block >= done:
                pack_beside(a, at, a_steps, step, valid, count, panel, to)
            for k in range(0, count if a_row != 1 and along else 0, width):
                load_transposed(a, at + a_steps[step + k], a_row, valid, 0, count - k, CHUNK, panel, to + k * height)
            fill_up(panel, to, count, height)

    return inside, pack_lanes, pack_rows


@inline
def even_chunks(terms):  # type: ignore[no-untyped-def]
    """Return how many steps chunks of nearly the same size have, and how many there are."""
    most = max(1, (terms + CHUNK - 1) // CHUNK)
    chunk = max(1, ((terms + most - 1) // most + UNROLLED - 1) // UNROLLED) * UNROLLED
    return chunk, (terms + chunk - 1) // chunk
