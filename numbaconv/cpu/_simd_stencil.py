"""The vector code of `stencil`: tiles of outputs that stay in registers while all taps pass, dot products for wgrad, moves of rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba.core import cgutils

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import ISAS, Isa


@functools.cache
def stencil_tile(isa: Isa, dtype: np.dtype[Any], rows: int, taps: int, shared: bool) -> Any:
    """Return a compiled-code function (x, xi, xstep, columns, ci, count, weights, wi, out, oi, ostep, add) -> None for count ≥ 1.

    out[oi + b·ostep + l] (+)= Σ_m Σ_t weights[m, t] · x[xi + columns[ci + m] + (b + t)·xstep + l] for ``rows`` rows b, ``count``
    columns m of ``taps`` taps t each and the lanes l of one vector; weights[m, t] is one element from wi on if they are
    ``shared`` by the lanes, a vector otherwise; ``add`` says whether out is added to. Each loaded vector feeds up to ``taps`` rows.
    """

    @vector_code(isa, dtype, "x[] xstep columns[] count weights[] out[] ostep add")
    def stencil(v: Vectors, x, xstep, columns, count, weights, out, ostep, add):  # type: ignore[no-untyped-def]
        builder, size = v.builder, 1 if shared else v.width

        def column(k, sums):  # type: ignore[no-untyped-def]
            start, first = v.at(x, builder.load(builder.gep(columns, [k]))), v.at(weights, (k, taps * size))
            places = [v.at(first, t * size) for t in range(taps)]
            w = [v.splat(builder.load(place)) if shared else v.load(place) for place in places]
            for row in range(rows + taps - 1):
                values = v.load(v.at(start, (xstep, row)))
                for t in range(max(0, row - rows + 1), min(taps, row + 1)):
                    sums[row - t] = v.fma(w[t], values, sums[row - t])
            return sums

        targets, before = [v.at(out, (ostep, b)) for b in range(rows)], builder.block
        with builder.if_then(builder.icmp_signed("!=", add, I64(0))):
            older, there = [v.load(target) for target in targets], builder.block
        initial = [builder.phi(v.type) for _ in targets]
        for phi, value in zip(initial, older, strict=True):
            phi.add_incoming(v.zero, before)
            phi.add_incoming(value, there)
        for value, target in zip(v.loop(count, initial, column), targets, strict=True):
            v.store(value, target)

    return stencil


@functools.cache
def stencil_dots(isa: Isa, dtype: np.dtype[Any], rows: int, taps: int) -> Any:
    """Return a compiled-code function (x, xi, dy, di, step, x_places, xp, dy_places, dp, count, sums, si) -> None for count ≥ 1.

    sums[si + t·L + l] += Σ_m Σ_b dy[di + dy_places[dp + m] + b·step + l] · x[xi + x_places[xp + m] + (b + t)·step + l] for ``taps``
    taps t and the L lanes l of one vector, over ``count`` places m and ``rows`` rows b: a place's rows of dy stay in registers.
    """
    sets = -(-8 // taps)  # sums of a tap, so that one multiply-add need not wait for the one before

    @vector_code(isa, dtype, "x[] dy[] step x_places[] dy_places[] count sums[]")
    def dots(v: Vectors, x, dy, step, x_places, dy_places, count, sums):  # type: ignore[no-untyped-def]
        builder = v.builder

        def place(k, totals):  # type: ignore[no-untyped-def]
            start, first = (v.at(base, builder.load(builder.gep(places, [k]))) for base, places in ((x, x_places), (dy, dy_places)))
            d = [v.load(v.at(first, (step, b))) for b in range(rows)]
            for row in range(rows + taps - 1):
                values = v.load(v.at(start, (step, row)))
                for t in range(max(0, row - rows + 1), min(taps, row + 1)):
                    n = t * sets + (row - t) % sets
                    totals[n] = v.fma(d[row - t], values, totals[n])
            return totals

        totals = v.loop(count, [v.zero] * (taps * sets), place)
        for t in range(taps):
            parts = totals[t * sets : (t + 1) * sets]
            while len(parts) > 1:
                parts = [v.add(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + parts[len(parts) // 2 * 2 :]
            v.store(v.add(v.load(sums, t), parts[0]), sums, t)

    return dots


@functools.cache
def move(isa: Isa, dtype: np.dtype[Any], step: int = 1) -> Any:
    """Return a compiled-code function (source, si, out, oi, n, shift) -> None: out[oi + i] = source[si + i·step] + shift for i < n.

    ``step`` is 1 or 2. Written as masked vectors, since rows are often shorter than what LLVM would unroll.
    """

    @vector_code(isa, dtype, "source[] out[] n shift.")
    def move(v: Vectors, source, out, n, shift):  # type: ignore[no-untyped-def]
        builder, shift = v.builder, v.splat(shift)

        def part(start, count):  # type: ignore[no-untyped-def]
            """Move ``count`` elements, a vector of them if None."""
            at, read = v.at(source, (start, step)), None if count is None else builder.mul(count, I64(step))
            if step == 1:
                value = v.load(at, 0, None if count is None else v.first(read))
            else:  # nothing behind the last element is touched
                odd = I64(2 * v.width - 1) if count is None else builder.sub(read, I64(1))
                low = v.load(at, 0, None if count is None else v.first(odd))
                value = v.shuffle(low, v.load(at, 1, v.first(builder.sub(odd, I64(v.width)))), list(range(0, 2 * v.width, 2)))
            v.store(v.add(value, shift), v.at(out, start), 0, None if count is None else v.first(count))

        rest = builder.and_(n, I64(v.width - 1))
        with cgutils.for_range(builder, builder.ashr(n, I64(v.width.bit_length() - 1))) as loop:
            part(builder.mul(loop.index, I64(v.width)), None)
        with builder.if_then(builder.icmp_signed("!=", rest, I64(0))):
            part(builder.sub(n, rest), rest)

    return move


@functools.cache
def prefetch(write: bool) -> Any:
    """Return a compiled-code function (array, index) -> None that asks for a cache line, to be written to or read; any index will do."""

    @vector_code(ISAS["portable"], np.dtype(np.float32), "array[]")
    def ask(v: Vectors, array):  # type: ignore[no-untyped-def]
        v.prefetch(array, write)

    return ask


@functools.cache
def transpose(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (source, si, sstep, rows, count, out, oi, ostep, columns, length) -> None for a square of L lanes.

    out[oi + j·ostep + i] = source[si + i·sstep + j] for i < length and j < columns, where rows from ``rows`` on repeat the last and
    columns from ``count`` on are zeros.
    """

    @vector_code(isa, dtype, "source[] sstep rows count out[] ostep columns length")
    def transpose(v: Vectors, source, sstep, rows, count, out, ostep, columns, length):  # type: ignore[no-untyped-def]
        builder, read, written = v.builder, v.first(count), v.first(length)

        def row(start, step, number, last):  # type: ignore[no-untyped-def]
            kept = builder.select(builder.icmp_signed("<", I64(number), last), I64(number), builder.sub(last, I64(1)))
            return v.at(start, (kept, step))

        values = v.transpose([v.load(row(source, sstep, n, rows), mask=read) for n in range(v.width)])
        for n in reversed(range(v.width)):  # those past the last are overwritten by it
            v.store(values[n], row(out, ostep, n, columns), mask=written)

    return transpose
