"""The vector code of `gemm`'s register tile: its multiply-adds, what packs its lanes, and what stores it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.arrays import CACHE_LINE
from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa

MOST = 3  # vectors of a tile's row: what a line of the table of columns has room for
# A line of the table of columns: how many vectors, whether they are whole, and per vector its place, its lanes (bits) and their place in y.
# WHOLE says whether all lanes of all of them count and their places in y are neighbours.
COUNT, WHOLE, PLACES, MASKS, TARGETS, LINE = 0, 1, 2, 2 + MOST, 2 + 2 * MOST, 2 + 3 * MOST
# Where a tile goes: to its sums, or to y those lanes that count, or whole vectors that are neighbours, or these past the caches
# (through them where a row does not start on a line of theirs).
TO_SUMS, SOME, WHOLES, PAST = range(4)

# Steps that are taken together: on a core whose units another thread shares a tile then reaches 0.96 of the speed of multiply-adds alone,
# and 0.87 one at a time with tables for both operands (36 and 43 instructions for 24 of them).
UNROLLED = 4
# Groups of steps by which the caches are asked ahead for rows that were packed before: 2048 rows of 512 steps on 7×7, fourteen layers in turn,
# took 808 µs without and 494, 487, 492 with 32, 48, 64 (Zen 5; 591 with rows read where they lie).
AHEAD = 32


@functools.cache
def multiply(isa: Isa, dtype: np.dtype[Any], per_lane: bool = False, packed: bool = True) -> Any:
    """Return a compiled-code function for a register tile.

    Its sums over ``count`` ≥ 1 steps k, for ROWS rows r and the lanes l of the vectors of a line of columns, are

        s[r, l] = Σ_k a[ai + k·ROWS + r] · panel[pi + k·L + l] (+ sums[si + r·L + l] if ``add``),

    or if not ``packed`` of a[ai + r·row + k]. Its parameters are (a, ai, row, panel, pi, gathers, x, xi, steps, ki, ahead, soon, slow, columns,
    line, count, sums, si, add, store, y, yi, y_row, valid, bias, ci, relu, more). With ``store`` TO_SUMS they go to the sums. Else bias[ci + r]
    (with ``per_lane``, of the lane's column) is added, negative ones are replaced by 0 if ``relu``, and row r goes to y[yi + r·y_row :], each
    vector where the line says; the lanes that count side by side. It returns whether a sum stored in y is not finite.

    The vectors of a line are loaded once and ROWS broadcasts feed their multiply-adds, into as many registers. Steps are taken UNROLLED at a
    time: a and panel have zeros up to there; what is not packed has as many. Rows from ``valid`` on, which a packed one repeats, are those of
    the last valid one. Meanwhile the caches are asked for the lines of y that will be stored, and for those of group n of steps at
    x[xi + ahead + steps[ki + soon + n / 2^slow] :], and for those of the rows ``more`` elements ahead (of rows that are not packed only if
    that is not 0).

    With ``gathers``, for a line of as many vectors as there can be and a multiple of UNROLLED steps, the panel is filled on the way, for other
    rows: vector v of step k is x[xi + places[v] + steps[ki + k] :]. It asks for what lies ahead only if ``slow`` is 0,
    and then for all steps.
    """
    parameters = "a[] row panel[] gathers x[] steps[] ahead soon slow columns[] count sums[] add store y[] y_row valid bias[] relu more"

    @vector_code(isa, dtype, parameters, returns=True)
    def multiply(v: Vectors, *given):  # type: ignore[no-untyped-def]
        builder, tile = v.builder, _Tile(v, isa.vectors, per_lane, packed, *given)

        def some(vectors: int) -> list[Any]:
            if vectors == isa.vectors:
                return [tile.run(vectors, False)]
            fewer = builder.icmp_signed("==", tile.count_vectors, I64(vectors))
            return v.choose(fewer, lambda: [tile.run(vectors, False)], lambda: some(vectors + 1))

        gathers = builder.icmp_signed("!=", given[3], I64(0))
        return v.choose(gathers, lambda: [tile.run(isa.vectors, True)], lambda: some(1))[0]

    return multiply


class _Tile:
    """A tile whose code is being written; see `multiply`."""

    def __init__(  # type: ignore[no-untyped-def]
        self, v: Vectors, most, per_lane, packed, a, row, panel, gathers, x, steps, ahead, soon, slow, columns, count, sums, add, store, y, y_row,
        valid, bias, relu, more,
    ) -> None:  # fmt: skip
        builder, self.v, self.rows, self.most, self.per_lane, self.packed = v.builder, v, v.isa.rows, most, per_lane, packed
        self.a, self.panel, self.x, self.steps, self.sums, self.add, self.y, self.y_row = a, panel, x, steps, sums, add, y, y_row
        self.soon, self.soon_steps, self.slow, self.columns, self.relu = v.at(x, ahead), v.at(steps, soon), slow, columns, relu
        self.count_vectors, self.store, self.valid = self._column(COUNT), store, valid
        self.apart = [] if packed else v.rows(a, row, valid)
        self.more = more
        self.groups = builder.sdiv(builder.add(count, I64(UNROLLED - 1)), I64(UNROLLED))
        self.bias = v.at(bias, self._column(TARGETS)) if per_lane else bias
        self.result, self.stored = v.at(y, self._column(TARGETS)), builder.icmp_signed("!=", store, I64(TO_SUMS))
        self.size = CACHE_LINE // v.size  # of a line of the caches, in elements

    def _column(self, entry: int) -> Any:
        return self.v.builder.load(self.v.at(self.columns, entry))

    def run(self, vectors: int, gathers: bool) -> Any:
        """Write a tile of so many vectors, and return whether a sum stored in y is not finite."""
        v, builder, past, in_caches = self.v, self.v.builder, None, self.stored
        if v.streams() and vectors == self.most:
            past = builder.and_(builder.icmp_signed("==", self.store, I64(PAST)), v.on_line(self.result, self.y_row))
            in_caches = builder.and_(self.stored, builder.not_(past))
        sums = self._sums(vectors, gathers, in_caches)
        older = lambda: [v.add(value, v.load(self.sums, n)) for n, value in enumerate(sums)]  # noqa: E731
        sums = v.choose(builder.icmp_signed("==", self.add, I64(0)), lambda: sums, older)

        def to_sums() -> list[Any]:
            for n, value in enumerate(sums):
                v.store(value, self.sums, n)
            return [I64(0)]

        def to_y() -> list[Any]:
            all_rows = builder.icmp_signed("==", self.valid, I64(self.rows))
            whole = builder.and_(all_rows, builder.icmp_signed(">=", self.store, I64(WHOLES)))
            return v.choose(whole, lambda: [self._store_whole(sums, vectors, past)], lambda: [self._store_some(sums, vectors)])

        return v.choose(self.stored, to_y, to_sums)[0]

    def _sums(self, vectors: int, gathers: bool, in_caches: Any) -> list[Any]:
        """Write the loop over all steps, which asks for the lines of y if they go through the caches."""
        v, builder, lines = self.v, self.v.builder, -(-vectors * self.v.width // self.size)
        origins = [v.at(self.x, self._column(PLACES + n)) for n in range(vectors)] if gathers else []

        def ask(n: Any) -> None:  # by the last elements of lines: where x does not start on one, their first are in the line before
            there = v.at(self.soon, builder.load(v.at(self.soon_steps, n)))
            for line in range(lines):
                v.prefetch(v.at(there, (line + 1) * self.size - 1), level=2)

        def ask_y(row: Any) -> None:  # by the first: the line behind the last may be another thread's
            for line in range(lines):
                v.prefetch(v.at(self.result, (self.y_row, row), line * self.size), write=True)

        def summing(k: Any, sums: list[Any]) -> list[Any]:
            ask(builder.lshr(k, self.slow))
            return self._group(k, sums, vectors, origins)

        def storing(k: Any, sums: list[Any]) -> list[Any]:
            for half in (0, self.rows // 2):
                ask_y(builder.add(k, I64(half)))
            return summing(k, sums)

        def gathering(k: Any, sums: list[Any]) -> list[Any]:
            with builder.if_then(builder.icmp_signed("==", self.slow, I64(0))):
                for u in range(UNROLLED):
                    ask(builder.add(builder.mul(k, I64(UNROLLED)), I64(u)))
            return self._group(k, sums, vectors, origins)

        sums = [v.zero] * (self.rows * vectors)
        if gathers or vectors < self.most:  # all of y at once and a single loop, which compiles faster
            with builder.if_then(in_caches):
                for r in range(self.rows):
                    ask_y(I64(r))
            sums = v.loop(self.groups, sums, gathering if gathers else summing)
        else:
            first = builder.select(builder.icmp_signed("<", self.groups, I64(self.rows // 2)), self.groups, I64(self.rows // 2))
            first = builder.select(in_caches, first, I64(0))
            sums = v.loop(first, sums, storing, True)
            sums = v.loop(builder.sub(self.groups, first), sums, lambda k, sums: summing(builder.add(first, k), sums), True)
        return sums

    def _group(self, k: Any, sums: list[Any], vectors: int, origins: list[Any]) -> list[Any]:
        """Add UNROLLED steps; their lanes are gathered from ``origins`` if there are any."""
        v, builder, results = self.v, self.v.builder, list(sums)
        factors, panel = v.at(self.a, (k, UNROLLED * self.rows)), v.at(self.panel, (k, UNROLLED * vectors * v.width))
        if self.packed:
            for line in range(UNROLLED * self.rows // self.size):
                v.prefetch(v.at(factors, self.more, line * self.size))
        else:
            first = builder.icmp_signed("==", builder.and_(builder.mul(k, I64(UNROLLED)), I64(self.size - 1)), I64(0))
            with builder.if_then(builder.and_(first, builder.icmp_signed("!=", self.more, I64(0)))):
                for row in self.apart:
                    v.prefetch(v.at(row, (k, UNROLLED), self.more))
        for u in range(UNROLLED):
            if origins:
                offset = builder.load(v.at(self.steps, (k, UNROLLED), u))
                loads = [v.load(v.at(origin, offset)) for origin in origins]
                v.store_row(loads, v.at(panel, u * vectors * v.width))
            else:
                loads = [v.load(panel, u * vectors + n) for n in range(vectors)]
            for r in range(self.rows):
                some = slice(r * vectors, (r + 1) * vectors)
                if self.packed and r % 2 and v.reads_factors():  # as many as the units for loads have time for: 1 to 2 % less time
                    results[some] = v.fma_memory(factors, u * self.rows + r, loads, results[some])
                    continue
                factor = v.splat(builder.load(v.at(factors, u * self.rows + r) if self.packed else v.at(self.apart[r], (k, UNROLLED), u)))
                results[some] = v.here([v.fma(factor, loads[n], results[some][n]) for n in range(vectors)])
        return results

    def _shifted(self, sums: list[Any], vectors: int, kept: list[Any]) -> Iterator[list[Any]]:
        """Give the sums of each row with the bias of the row whose number is kept."""
        v, builder = self.v, self.v.builder
        shifts = [v.load(self.bias, n) for n in range(vectors)] if self.per_lane else []
        for r, row in enumerate(kept):
            here = shifts or [v.splat(builder.load(v.at(self.bias, row)))] * vectors
            yield [v.add(sums[r * vectors + n], here[n]) for n in range(vectors)]

    def _store_whole(self, sums: list[Any], vectors: int, past: Any) -> Any:
        v, lower = self.v, self.v.lower_bound(self.relu)

        def rows(through: bool) -> list[Any]:  # a row after the other: all added and then all stored took a third longer
            strange = [v.zero] * vectors  # apart, so that none waits for the others
            for r, row in enumerate(self._shifted(sums, vectors, list(range(self.rows)))):
                strange = [v.note_strange(value, before) for value, before in zip(row, strange, strict=True)]
                v.store_row([v.at_least(value, lower) for value in row], v.at(self.result, (self.y_row, r)), through)
            return [functools.reduce(v.add, strange)]

        noted = rows(False) if past is None else v.choose(past, lambda: rows(True), lambda: rows(False))
        return v.any_strange(noted[0])

    def _store_some(self, sums: list[Any], vectors: int) -> Any:
        v, builder, strange, lower = self.v, self.v.builder, [self.v.zero] * vectors, self.v.lower_bound(self.relu)
        bits, places = ([self._column(first + n) for n in range(vectors)] for first in (MASKS, TARGETS))
        chosen, lanes = [v.mask(some) for some in bits], [v.first(builder.ctpop(some)) for some in bits]
        last = builder.sub(self.valid, I64(1))
        kept = [builder.select(builder.icmp_signed("<", I64(r), self.valid), I64(r), last) for r in range(self.rows)]
        for row, values in zip(kept, self._shifted(sums, vectors, kept), strict=True):
            here = v.at(self.y, (self.y_row, row))
            for n, value in enumerate(values):
                strange[n] = v.note_strange(builder.select(chosen[n], value, v.zero), strange[n])
                v.store(v.compress(v.at_least(value, lower), bits[n]), v.at(here, places[n]), mask=lanes[n])
        return v.any_strange(functools.reduce(v.add, strange))


@functools.cache
def settle(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function () -> None that waits until all threads see what went PAST the caches."""

    @vector_code(isa, dtype, "")
    def settle(v: Vectors) -> None:
        v.settle()

    return settle
