"""The vector code of `stencil`'s 1×1 filters: sums of some channels, added to those of others, and the sums of wgrad."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa


@functools.cache
def add_channels(isa: Isa, dtype: np.dtype[Any], filters: int, channels: int) -> Any:
    """Return a compiled-code function (x, xi, plane, ahead, w, wi, wk, wc, y, yi, yk, bias, bi, add, least, count) -> None.

    For ``filters`` f and i < count it stores y[f·yk + i] = max(least, Σ_c w[f·wk + c·wc] · x[c·plane + i] + (y[f·yk + i] if add else bias[f]))
    over ``channels`` c, and asks for the same of x ``ahead`` elements on.
    """
    parameters = "x[] plane ahead w[] wk wc y[] yk bias[] add least. count"

    @vector_code(isa, dtype, parameters)
    def add_channels(v: Vectors, x, plane, ahead, w, wk, wc, y, yk, bias, add, least, count):  # type: ignore[no-untyped-def]
        builder = v.builder
        factors = [[v.splat(builder.load(v.at(w, (f, wk), (c, wc)))) for c in range(channels)] for f in range(filters)]
        shifts, adds, lowest = [v.splat(builder.load(v.at(bias, f))) for f in range(filters)], v.nonzero(add), v.splat(least)

        def vector(k, _=(), mask=None):  # type: ignore[no-untyped-def]
            at = builder.mul(k, I64(v.width))
            rows = [v.at(x, at, (c, plane)) for c in range(channels)]
            for row in rows:
                v.prefetch(v.at(row, ahead))
            values, results = [v.load(row, mask=mask) for row in rows], [v.at(y, at, (f, yk)) for f in range(filters)]
            sums = [builder.select(adds, v.load(result, mask=mask), shift) for result, shift in zip(results, shifts, strict=True)]
            for c, f in itertools.product(range(channels), range(filters)):
                sums[f] = v.fma(factors[f][c], values[c], sums[f])
            for value, result in zip(sums, results, strict=True):
                v.store(v.at_least(value, lowest), result, mask=mask)
            return []

        wholes, rest = builder.sdiv(count, I64(v.width)), builder.srem(count, I64(v.width))
        v.loop(wholes, [], vector, perhaps=True)
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            vector(wholes, mask=v.first(rest))

    return add_channels


@functools.cache
def add_products(isa: Isa, dtype: np.dtype[Any], filters: int, channels: int) -> Any:
    """Return a compiled-code function (x, xi, plane, ahead, dy, yi, yk, sums, si, count) -> None.

    For ``channels`` c, ``filters`` f and the lanes l of a vector sums[(c·F + f)·W + l] += Σ_i x[c·plane + i] · dy[f·yk + i] over i < count with
    i mod W = l; it asks for the same of x ``ahead`` elements on.
    """

    @vector_code(isa, dtype, "x[] plane ahead dy[] yk sums[] count")
    def add_products(v: Vectors, x, plane, ahead, dy, yk, sums, count):  # type: ignore[no-untyped-def]
        builder, pairs = v.builder, list(itertools.product(range(channels), range(filters)))

        def vector(k, totals, mask=None):  # type: ignore[no-untyped-def]
            at = builder.mul(k, I64(v.width))
            rows = [v.at(x, at, (c, plane)) for c in range(channels)]
            for row in rows:
                v.prefetch(v.at(row, ahead))
            slopes, values = [v.load(v.at(dy, at, (f, yk)), mask=mask) for f in range(filters)], [v.load(row, mask=mask) for row in rows]
            return [v.fma(values[c], slopes[f], total) for (c, f), total in zip(pairs, totals, strict=True)]

        wholes, rest = builder.sdiv(count, I64(v.width)), builder.srem(count, I64(v.width))
        totals = v.loop(wholes, [v.zero] * len(pairs), vector, perhaps=True)
        totals = v.choose(builder.icmp_signed(">", rest, I64(0)), lambda: vector(wholes, totals, v.first(rest)), lambda: totals)
        for n, total in enumerate(totals):
            v.store(v.add(v.load(sums, n), total), sums, n)

    return add_products
