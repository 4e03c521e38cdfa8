"""The vector code of `gemm`: a register tile's multiply-adds, what stores it, and moves and transposes of what it reads."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir

from numbaconv.cpu._emit import I64, Isa, Vectors, vector_code


@functools.cache
def multiply(isa: Isa, dtype: np.dtype[Any], vectors: int) -> Any:
    """Return a compiled-code function (a, ai, row, valid, a_steps, as, b, bi, b_steps, bs, count, tile, ti, add) -> None.

    Over ``count`` ≥ 1 steps k it computes, for each of ROWS rows r and W·``vectors`` lanes l,

        tile[ti + r·L + l] = Σ_k a[ai + r·row + a_steps[as + k]] · b[bi + b_steps[bs + k] + l]        (added to it if ``add``)

    VECTORS loads and ROWS broadcasts feed ROWS·VECTORS multiply-adds into as many registers. Rows from ``valid`` on repeat the last
    valid one.
    """
    rows = isa.rows

    @vector_code(isa, dtype, "a[] row valid a_steps[] b[] b_steps[] count tile[] add")
    def multiply(v: Vectors, a, row, valid, a_steps, b, b_steps, count, tile, add):  # type: ignore[no-untyped-def]
        builder, last = v.builder, v.builder.sub(valid, I64(1))
        row_at = [builder.mul(row, builder.select(builder.icmp_signed("<", I64(r), valid), I64(r), last)) for r in range(rows)]

        def step(k, sums):  # type: ignore[no-untyped-def]
            here, lanes = (builder.gep(base, [builder.load(builder.gep(steps, [k]))]) for base, steps in ((a, a_steps), (b, b_steps)))
            loads, results = [v.load(lanes, n) for n in range(vectors)], []
            for r in range(rows):
                factor = v.splat(builder.load(builder.gep(here, [row_at[r]]) if r else here))
                results += v.here([v.fma(factor, loads[n], sums[r * vectors + n]) for n in range(vectors)])
            return results

        results = v.loop(count, [v.zero] * (rows * vectors), step)
        with builder.if_else(builder.icmp_signed("==", add, I64(0))) as (fresh, old):
            for branch, older in ((fresh, False), (old, True)):
                with branch:
                    for n, value in enumerate(results):
                        v.store(builder.fadd(value, v.load(tile, n)) if older else value, tile, n)

    return multiply


@functools.cache
def store(isa: Isa, dtype: np.dtype[Any], per_lane: bool) -> Any:
    """Return a compiled-code function (tile, ti, y, yi, mask, bias, bi, relu) -> whether a stored value was not finite.

    It stores the lanes of tile[ti : ti + W] that ``mask`` has bits for, side by side from y[yi] on: with bias[bi] added (or
    bias[bi + lane], if ``per_lane``) and negative ones replaced by 0 if ``relu``.
    """

    @vector_code(isa, dtype, "tile[] y[] mask bias[] relu", returns=True)
    def store(v: Vectors, tile, y, bits, bias, relu):  # type: ignore[no-untyped-def]
        builder = v.builder
        narrow = builder.trunc(bits, ir.IntType(v.width))
        mask = builder.bitcast(narrow, v.bits)
        shift = v.load(bias) if per_lane else v.splat(builder.load(bias))
        value, broken = v.finish(builder.fadd(v.load(tile), shift), v.nonzero(relu))
        undefined = ir.Constant(v.type, ir.Undefined)
        value = v.call(f"llvm.experimental.vector.compress.{v.suffix}", v.type, value, mask, undefined)
        v.store(value, y, mask=v.first(builder.zext(builder.ctpop(narrow), I64)))
        return v.any(builder.and_(broken, mask))

    return store


@functools.cache
def store_all(isa: Isa, dtype: np.dtype[Any], per_lane: bool, vectors: int) -> Any:
    """Return `store` for all lanes of ``vectors`` neighbouring vectors: (tile, ti, y, yi, bias, bi, relu) -> whether one was not finite."""

    @vector_code(isa, dtype, "tile[] y[] bias[] relu", returns=True)
    def store_all(v: Vectors, tile, y, bias, relu):  # type: ignore[no-untyped-def]
        one = None if per_lane else v.splat(v.builder.load(bias))
        positive, strange = v.nonzero(relu), v.none
        for n in range(vectors):
            value, broken = v.finish(v.builder.fadd(v.load(tile, n), v.load(bias, n) if per_lane else one), positive)
            strange = v.builder.or_(strange, broken)
            v.store(value, y, n)
        return v.any(strange)

    return store_all


@functools.cache
def transpose(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (x, xi, row, rows, columns, y, yi, column) -> None.

    For r < min(rows, W) and l < min(columns, W) it stores y[yi + l·column + r] = x[xi + r·row + l].
    """

    @vector_code(isa, dtype, "x[] row rows columns y[] column")
    def transpose(v: Vectors, x, row, rows, columns, y, column):  # type: ignore[no-untyped-def]
        builder, in_rows, in_columns = v.builder, v.first(rows), v.first(columns)
        vectors = []
        for r in range(v.width):
            here = builder.select(builder.icmp_signed("<", I64(r), rows), in_columns, v.none)
            vectors.append(v.load(v.at(x, (row, r)), mask=here))
        for r, vector in enumerate(v.transpose(vectors)):
            here = builder.select(builder.icmp_signed("<", I64(r), columns), in_rows, v.none)
            v.store(vector, v.at(y, (column, r)), mask=here)

    return transpose


@functools.cache
def move(isa: Isa, dtype: np.dtype[Any], stride: int) -> Any:
    """Return a compiled-code function (x, xi, y, yi, start, stop, count) -> None, for a stride of 1 or 2.

    For l < min(count, W) it stores y[yi + l] = x[xi + l·stride] where start ≤ l < stop, and 0 elsewhere.
    """

    @vector_code(isa, dtype, "x[] y[] start stop count")
    def move(v: Vectors, x, y, start, stop, count):  # type: ignore[no-untyped-def]
        builder = v.builder
        start, stop = builder.mul(start, I64(stride)), builder.sub(builder.mul(stop, I64(stride)), I64(stride - 1))
        parts = []
        for n in range(stride):
            low, high = (builder.sub(end, I64(n * v.width)) for end in (start, stop))
            parts.append(v.load(x, n, v.between(low, high)))
        value = parts[0] if stride == 1 else v.shuffle(parts[0], parts[1], list(range(0, 2 * v.width, 2)))
        v.store(value, y, mask=v.first(count))

    return move


@functools.cache
def prefetch(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (array, index) -> None that asks for the 4 cache lines from there on in L2; any index will do."""

    @vector_code(isa, dtype, "array[]")
    def prefetch(v: Vectors, array):  # type: ignore[no-untyped-def]
        for line in range(4):
            v.prefetch(v.at(array, line * 64 // v.size), level=2)

    return prefetch
