"""The vector code of `gemm` and `dots`: a register tile's multiply-adds, and what stores it."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from llvmlite import ir

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa

TO_TILE, WHOLE, SOME = 0, 1, 2  # where `multiply` stores: in its tile, or in y whole vectors that are neighbours, or those lanes that count

# Steps that `multiply` takes together: on a core whose units another thread shares it then reaches 0.96 of the speed of multiply-adds alone,
# and 0.87 one at a time with tables for both operands (36 and 43 instructions for 24 of them).
UNROLLED = 4
PIXELS = 2  # vectors of pixels that `multiply_pixels` takes together where they are whole; four: no faster (0.77, 0.75 of PyTorch, five layers)


@functools.cache
def multiply(isa: Isa, dtype: np.dtype[Any], vectors: int, per_lane: bool = False, packed: bool = True) -> Any:
    """Return a compiled-code function for a register tile.

    Its sums over ``count`` ≥ 1 steps k, for ROWS rows r and ``vectors`` vectors of lanes l, are

        s[r, l] = Σ_k a[ai + k·ROWS + r] · b[bi + k·L + l] (+ tile[ti + r·L + l] if ``add``),

    or if not ``packed`` of a[ai + r·row + k]. Its parameters are (a, ai, row, b, bi, count, tile, ti, add, store, y, yi, y_row, valid,
    masks, mi, targets, di, bias, ci, relu, soon, si, soon_steps, ss, slow). With ``store`` TO_TILE the sums go to the tile. Else
    bias[ci + r] (bias[ci + l] if ``per_lane``) is added, negative ones are replaced by 0 if ``relu``, and vector v of row r goes to
    y[yi + r·y_row + targets[di + v]]: the lanes that masks[mi + v] has bits for, side by side; or all of them, and those of v + 1 behind
    them, if WHOLE. It returns whether a sum stored in y is not finite. VECTORS loads and ROWS broadcasts feed ROWS·VECTORS multiply-adds
    into as many registers. Steps are taken UNROLLED at a time: a and b have zeros up to there; what is not packed has as many. Rows
    from ``valid`` on, which a packed one repeats, are those of the last valid one. Meanwhile it asks the caches for the lines of y that
    it will store, and for those at soon[si + soon_steps[ss + n]], n = k / UNROLLED / 2^``slow``.
    """
    rows, size = isa.rows, 64 // dtype.itemsize
    lines = -(-vectors * isa.vector_bytes // 64)

    @vector_code(
        isa, dtype, "a[] row b[] count tile[] add store y[] y_row valid masks[] targets[] bias[] relu soon[] soon_steps[] slow", returns=True
    )
    def multiply(v: Vectors, a, row, b, count, tile, add, store, y, y_row, valid, masks, targets, bias, relu, soon, soon_steps, slow):  # type: ignore[no-untyped-def]
        builder, last = v.builder, v.builder.sub(valid, I64(1))
        kept = [builder.select(builder.icmp_signed("<", I64(r), valid), I64(r), last) for r in range(rows)]
        apart = [] if packed else v.rows(a, row, valid)
        groups = builder.sdiv(builder.add(count, I64(UNROLLED - 1)), I64(UNROLLED))
        first = builder.select(builder.icmp_signed("<", groups, I64(rows // 2)), groups, I64(rows // 2))
        stored = builder.icmp_signed("!=", store, I64(TO_TILE))
        first = builder.select(stored, first, I64(0))
        result = v.at(y, builder.load(targets))

        def group(k, sums):  # type: ignore[no-untyped-def]
            factors, lanes, results = v.at(a, (k, UNROLLED * rows)), v.at(b, (k, UNROLLED * vectors * v.width)), list(sums)
            for u in range(UNROLLED):
                loads = [v.load(lanes, u * vectors + n) for n in range(vectors)]
                for r in range(rows):
                    some = slice(r * vectors, (r + 1) * vectors)
                    if packed and r % 2 and v.reads_factors():  # as many as the units for loads have time for: 1 to 2 % less time
                        results[some] = v.fma_memory(factors, u * rows + r, loads, results[some])
                        continue
                    factor = v.splat(builder.load(v.at(factors, u * rows + r) if packed else v.at(apart[r], (k, UNROLLED), u)))
                    results[some] = v.here([v.fma(factor, loads[n], results[some][n]) for n in range(vectors)])
            return results

        def summing(k, sums):  # type: ignore[no-untyped-def]
            there = builder.gep(soon, [builder.load(builder.gep(soon_steps, [builder.lshr(k, slow)]))])
            for line in range(lines):
                v.prefetch(v.at(there, line * size), level=2)
            return group(k, sums)

        def storing(k, sums):  # type: ignore[no-untyped-def]
            for half, line in itertools.product((0, rows // 2), range(lines)):
                v.prefetch(v.at(result, (y_row, builder.add(k, I64(half))), line * size), write=True)
            return summing(k, sums)

        sums = v.loop(first, [v.zero] * (rows * vectors), storing, True)
        sums = v.loop(builder.sub(groups, first), sums, lambda k, sums: summing(builder.add(first, k), sums), True)
        results = v.choose(builder.icmp_signed("==", add, I64(0)), lambda: sums, lambda: [v.add(s, v.load(tile, n)) for n, s in enumerate(sums)])

        def finished(whole):  # type: ignore[no-untyped-def]
            lower, strange = v.lower_bound(relu), [v.zero] * vectors  # apart, so that none waits for the others
            bits = [builder.load(builder.gep(masks, [I64(n)])) for n in range(vectors)]
            chosen, lanes = [v.mask(some) for some in bits], [v.first(builder.ctpop(some)) for some in bits]
            places = [builder.load(builder.gep(targets, [I64(n)])) for n in range(vectors)]
            for r in range(rows):
                here = v.at(y, (y_row, kept[r]))
                for n in range(vectors):
                    shift = v.load(bias, n) if per_lane else v.splat(builder.load(builder.gep(bias, [kept[r]])))
                    value = v.add(results[r * vectors + n], shift)
                    if whole:
                        strange[n] = v.note_strange(value, strange[n])
                        v.store(v.at_least(value, lower), v.at(here, places[0]), n)
                        continue
                    strange[n] = v.note_strange(builder.select(chosen[n], value, v.zero), strange[n])
                    v.store(v.compress(v.at_least(value, lower), bits[n]), v.at(here, places[n]), mask=lanes[n])
            return [v.any_strange(functools.reduce(v.add, strange))]

        def to_tile():  # type: ignore[no-untyped-def]
            for n, value in enumerate(results):
                v.store(value, tile, n)
            return [I64(0)]

        def to_y():  # type: ignore[no-untyped-def]
            return v.choose(builder.icmp_signed("==", store, I64(WHOLE)), lambda: finished(True), lambda: finished(False))

        return v.choose(stored, to_y, to_tile)[0]

    return multiply


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

    Steps are taken UNROLLED at a time: a and b have zeros up to there.
    """
    rows, width = isa.rows, isa.width(dtype)
    vectors, parts = UNROLLED * rows // width, max(1, rows // width)  # of a group of steps, and of a step
    apart = min(vectors, max(2, parts))  # sums of a column, so that one need not wait for the other

    @vector_code(isa, dtype, "a[] b[] pitch count tile[] add")
    def multiply_beside(v: Vectors, a, b, pitch, count, tile, add):  # type: ignore[no-untyped-def]
        builder = v.builder

        def group(k, sums):  # type: ignore[no-untyped-def]
            results, here = list(sums), builder.mul(k, I64(UNROLLED * rows))
            for n in range(vectors):
                factors = v.load(v.at(a, here), n)
                for c in range(columns):
                    at = c * apart + n % apart
                    results[at] = v.fma(factors, v.load(v.at(b, here, (pitch, c)), n), results[at])
            return v.here(results)

        groups = builder.sdiv(builder.add(count, I64(UNROLLED - 1)), I64(UNROLLED))
        sums, mask = v.loop(groups, [v.zero] * (columns * apart), group), v.first(I64(rows))
        for c in range(columns):
            for part in range(parts):
                total = functools.reduce(v.add, sums[c * apart + part : (c + 1) * apart : parts])
                half = v.width // 2
                while half >= rows:
                    total, half = v.add(total, v.shuffle(total, total, [(lane + half) % v.width for lane in range(v.width)])), half // 2
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
