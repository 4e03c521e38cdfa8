"""The vector code of `dots`, and of `gemm` beside its register tiles (`_simd_tile`): few columns, and what stores a tile."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa

PIXELS = 2  # vectors of pixels that `multiply_pixels` takes together where they are whole; four: no faster (0.77, 0.75 of PyTorch, five layers)


@functools.cache
def multiply_few(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (a, ai, row, valid, b, bi, b_row, count, tile, ti, add) -> None for a few columns.

    The steps are in the lanes: for ROWS rows r and W/ROWS columns c (at least one), over ``count`` steps k,

        tile[ti + c·ROWS + r] = Σ_k a[ai + r·row + k] · b[bi + c·b_row + k]        (added to it if ``add``)

    where b has zeros behind its last step, to a whole vector. Rows from ``valid`` on repeat the last valid one.
    """
    rows, columns = isa.rows, max(1, isa.width(dtype) // isa.rows)

    @vector_code(isa, dtype, "a[] row valid b[] b_row count tile[] add")
    def multiply_few(v: Vectors, a, row, valid, b, b_row, count, tile, add):  # type: ignore[no-untyped-def]
        builder, last = v.builder, v.builder.sub(valid, I64(1))
        row_at = [builder.mul(row, builder.select(builder.icmp_signed("<", I64(r), valid), I64(r), last)) for r in range(rows)]

        def step(k, sums):  # type: ignore[no-untyped-def]
            at, results = builder.mul(k, I64(v.width)), list(sums)
            mask = v.first(builder.sub(count, at))
            lanes = [v.load(v.at(b, at, (b_row, c))) for c in range(columns)]
            for r in range(rows):
                factors = v.load(v.at(a, at, row_at[r]), mask=mask)
                for c in range(columns):
                    results[c * rows + r] = v.fma(factors, lanes[c], sums[c * rows + r])
            return v.here(results)

        steps = builder.sdiv(builder.add(count, I64(v.width - 1)), I64(v.width))
        sums = v.loop(steps, [v.zero] * (rows * columns), step)
        _add_sums(v, sums, tile, add)

    return multiply_few


@functools.cache
def multiply_beside(isa: Isa, dtype: np.dtype[Any], columns: int) -> Any:
    """Return a compiled-code function (a, ai, b, bi, pitch, count, tile, ti, add) -> None for a few columns c, whose rows are in the lanes.

    Over ``count`` ≥ 1 steps k, for ROWS rows r,

        tile[ti + c·ROWS + r] = Σ_k a[ai + k·ROWS + r] · b[bi + c·pitch + k·ROWS + r]        (added to it if ``add``)

    where b has zeros behind its last step, to a multiple of W steps. It adds in the order of `multiply_few`: steps that are W apart, then the W sums
    in pairs of neighbours.
    """
    rows, width = isa.rows, isa.width(dtype)
    parts = max(1, rows // width)  # vectors of a step

    @vector_code(isa, dtype, "a[] b[] pitch count tile[] add")
    def multiply_beside(v: Vectors, a, b, pitch, count, tile, add):  # type: ignore[no-untyped-def]
        builder, whole = v.builder, v.builder.sdiv(count, I64(width))

        def turn(k, sums, some=False):  # type: ignore[no-untyped-def]
            results, here = list(sums), builder.mul(k, I64(width * rows))
            left = builder.sub(builder.mul(count, I64(rows)), here)
            for n in range(rows):
                factors = v.load(v.at(a, here), n, v.first(builder.sub(left, I64(n * width))) if some else None)
                for c in range(columns):
                    at = c * rows + n
                    results[at] = v.fma(factors, v.load(v.at(b, here, (pitch, c)), n), results[at])
            return v.here(results)

        sums, mask = v.loop(whole, [v.zero] * (columns * rows), turn, True), v.first(I64(rows))
        sums = v.choose(builder.icmp_signed("<", builder.mul(whole, I64(width)), count), lambda: turn(whole, sums, True), lambda: sums)
        for c in range(columns):
            found, half = sums[c * rows : (c + 1) * rows], rows
            while half < width:  # neighbours within a vector
                found = [v.add(s, v.shuffle(s, s, [(lane + half) % width for lane in range(width)])) for s in found]
                half *= 2
            while len(found) > parts:
                pairs = [(n, n + parts) for n in range(len(found)) if n // parts % 2 == 0]
                found = [v.add(found[n], found[m]) for n, m in pairs]
            for part, total in enumerate(found):
                here = v.at(tile, c * rows)
                older = v.load(here, part, mask=builder.and_(mask, v.nonzero(add)))
                v.store(v.add(total, older), here, part, mask=mask)

    return multiply_beside


@functools.cache
def multiply_pixels(isa: Isa, dtype: np.dtype[Any], columns: int) -> Any:
    """Return a compiled-code function for dot products.

    Its parameters are (a, ai, row, valid, a_steps, as, b, bi, places, pi, b_steps, bs, lanes, ls, wholes, ws, count, tile, ti, add). Over
    ``count`` ≥ 1 vectors k of lanes[ls + k] lanes l, for ROWS rows r and ``columns`` columns c, it computes

        tile[ti + c·ROWS + r] = Σ_k Σ_l a[ai + r·row + a_steps[as + k] + l] · b[bi + places[pi + c] + b_steps[bs + k] + l]

    (added to it if ``add``). Rows from ``valid`` on repeat the last valid one. From vector k on wholes[ws + k] have all lanes and follow each
    other in a and in b.
    """
    rows = isa.rows

    @vector_code(isa, dtype, "a[] row valid a_steps[] b[] places[] b_steps[] lanes[] wholes[] count tile[] add")
    def multiply_pixels(v: Vectors, a, row, valid, a_steps, b, places, b_steps, lanes, wholes, count, tile, add):  # type: ignore[no-untyped-def]
        builder, last, together = v.builder, v.builder.sub(valid, I64(1)), I64(PIXELS)
        row_at = [builder.mul(row, builder.select(builder.icmp_signed("<", I64(r), valid), I64(r), last)) for r in range(rows)]
        column_at = [builder.load(builder.gep(places, [I64(c)])) for c in range(columns)]

        def take(here, there, sums, vectors, mask=None):  # type: ignore[no-untyped-def]
            results = list(sums)
            for n in range(vectors):
                values = [v.load(builder.gep(there, [column_at[c]]), n, mask) for c in range(columns)]
                for r in range(rows):
                    factors = v.load(builder.gep(here, [row_at[r]]), n, mask)
                    results[r::rows] = v.here([v.fma(factors, values[c], results[c * rows + r]) for c in range(columns)])
            return results

        def some(k, sums):  # type: ignore[no-untyped-def]
            here, there = (builder.gep(base, [builder.load(builder.gep(steps, [k]))]) for base, steps in ((a, a_steps), (b, b_steps)))
            whole, left = builder.load(builder.gep(wholes, [k])), builder.sub(count, k)
            groups = builder.sdiv(builder.select(builder.icmp_signed("<", whole, left), whole, left), together)

            def many():  # type: ignore[no-untyped-def]
                step = (PIXELS * v.width,)
                taken = v.loop(groups, sums, lambda n, sums: take(v.at(here, (n, *step)), v.at(there, (n, *step)), sums, PIXELS))
                return [builder.mul(groups, together), *taken]

            def one():  # type: ignore[no-untyped-def]
                return [I64(1), *take(here, there, sums, 1, v.first(builder.load(builder.gep(lanes, [k]))))]

            taken, *sums = v.choose(builder.icmp_signed(">", groups, I64(0)), many, one)
            return builder.add(k, taken), sums

        _add_sums(v, v.until(count, [v.zero] * (rows * columns), some), tile, add)

    return multiply_pixels


def _add_sums(v: Vectors, totals: list[Any], tile: Any, add: Any) -> None:
    """Store the sum of each vector's lanes side by side in a tile, added to what is there if ``add``."""
    for first in range(0, len(totals), v.width):
        some = totals[first : first + v.width]
        total, lanes = v.sums(some + [v.zero] * (v.width - len(some))), v.first(I64(len(some)))
        older = v.load(tile, first // v.width, v.builder.and_(lanes, v.nonzero(add)))
        v.store(v.add(total, older), tile, first // v.width, lanes)


@functools.cache
def store(isa: Isa, dtype: np.dtype[Any], per_lane: bool, every: int, pair: bool = False) -> Any:
    """Return a compiled-code function (tile, ti, y, yi, mask, bias, bi, relu) -> whether a stored value was not finite.

    It stores the lanes of tile[ti : ti + W] that ``mask`` has bits for to y[yi], y[yi + every], …, for ``every`` 1 or 2: with bias[bi]
    added (or bias[bi + lane], if ``per_lane``) and negative ones replaced by 0 if ``relu``. With ``pair`` there are two more parameters:
    after ti, n, and the lanes of tile[ti + n :] go between them; after ``mask``, how many elements of y that makes.
    """

    def body(v: Vectors, tiles, y, bits, outputs, bias, relu):  # type: ignore[no-untyped-def]
        builder = v.builder
        mask, shift = v.mask(bits), v.load(bias) if per_lane else v.splat(builder.load(bias))
        count, strange, values = builder.ctpop(bits), v.zero, []
        for tile in tiles:
            value = v.add(v.load(tile), shift)
            strange = v.note_strange(builder.select(mask, value, v.zero), strange)
            values.append(v.compress(v.at_least(value, v.lower_bound(relu)), bits))
        if every == 1:
            v.store(values[0], y, mask=v.first(count))
            return v.any_strange(strange)
        halves = [[half * v.width // 2 + lane // 2 + lane % 2 * v.width for lane in range(v.width)] for half in range(2)]
        halves = [v.shuffle(values[0], values[-1], lanes) for lanes in halves]

        def some():  # type: ignore[no-untyped-def]
            for half, value in enumerate(halves):
                there = v.first(builder.sub(outputs or builder.mul(count, I64(2)), I64(half * v.width)))
                v.store(value, y, half, there if pair else builder.and_(there, ir.Constant(v.bits, [1, 0] * (v.width // 2))))

        if not pair:
            some()
            return v.any_strange(strange)
        with builder.if_else(builder.icmp_signed("==", outputs, I64(2 * v.width))) as (then, otherwise):
            with then:
                for half, value in enumerate(halves):
                    v.store(value, y, half)
            with otherwise:
                some()
        return v.any_strange(strange)

    @vector_code(isa, dtype, "tile[] y[] mask bias[] relu", returns=True)
    def store(v: Vectors, tile, y, bits, bias, relu):  # type: ignore[no-untyped-def]
        return body(v, [tile], y, bits, None, bias, relu)

    @vector_code(isa, dtype, "tile[] other y[] mask outputs bias[] relu", returns=True)
    def store_pair(v: Vectors, tile, other, y, bits, outputs, bias, relu):  # type: ignore[no-untyped-def]
        return body(v, [tile, v.at(tile, other)], y, bits, outputs, bias, relu)

    return store_pair if pair else store
