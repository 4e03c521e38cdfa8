"""The vector code of `stencil`'s interleaved planes: they are turned into lanes and back; rows of outputs over all taps; the sums of wgrad."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa


class Row(NamedTuple):
    """A piece of a row of outputs, which is part of its code."""

    outputs: int
    taps: int  # of a row of the filter
    stride: int  # columns of x between neighbouring outputs,
    dilation: int  # and between neighbouring taps


@functools.cache
def interleave(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (x, xi, row, count, ahead, places, pi, y, yi) -> None for W rows.

    For l < W it stores the vector y[yi + places[pi + l] + r] = x[xi + r·row + l] of the lanes r; zeros for l ≥ ``count``. If ``ahead`` is not 0
    the caches are asked for what lies so many elements behind each row.
    """

    @vector_code(isa, dtype, "x[] row count ahead places[] y[]")
    def interleave(v: Vectors, x, row, count, ahead, places, y):  # type: ignore[no-untyped-def]
        mask = v.first(count)
        with v.builder.if_then(v.builder.icmp_signed("!=", ahead, I64(0))):
            for r in range(v.width):
                v.prefetch(v.at(x, ahead, (row, r)))
        for lane, value in enumerate(v.transpose([v.load(v.at(x, (row, r)), mask=mask) for r in range(v.width)])):
            v.store(value, v.at(y, v.builder.load(v.at(places, lane))))

    return interleave


@functools.cache
def deinterleave(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (x, xi, y, yi, row, count) -> None for W vectors: y[yi + l·row + r] = x[xi + r·W + l] for r < count, l < W."""

    @vector_code(isa, dtype, "x[] y[] row count")
    def deinterleave(v: Vectors, x, y, row, count):  # type: ignore[no-untyped-def]
        mask = v.first(count)
        for lane, value in enumerate(v.transpose([v.load(x, r) for r in range(v.width)])):
            v.store(value, v.at(y, (row, lane)), mask=mask)

    return deinterleave


@functools.cache
def row(isa: Isa, dtype: np.dtype[Any], shape: Row) -> Any:
    """Return a compiled-code function (x, xi, xstep, count, w, wi, bias, bi, y, yi, least) -> whether a sum is not finite.

    For the outputs o of a row it stores the vectors y[o] = max(least, bias + Σ_r Σ_s w[r·taps + s] · x[r·xstep + o·stride + s·dilation]) over
    ``count`` ≥ 1 rows r of the filter: indices of w and y are vectors behind wi and yi, those of x behind xi + r·xstep elements.
    """

    @vector_code(isa, dtype, "x[] xstep count w[] bias[] y[] least.", returns=True)
    def row(v: Vectors, x, xstep, count, w, bias, y, least):  # type: ignore[no-untyped-def]
        def taps(r, sums):  # type: ignore[no-untyped-def]
            here, factors, sums = v.at(x, (r, xstep)), v.at(w, (r, shape.taps * v.width)), list(sums)
            weights = [v.load(factors, s) for s in range(shape.taps)]
            for column, met in _columns(shape):
                values = v.load(here, column)
                for o, s in met:
                    sums[o] = v.fma(weights[s], values, sums[o])
            return sums

        sums, lowest, strange = v.loop(count, [v.load(bias)] * shape.outputs, taps), v.splat(least), v.zero
        for o, value in enumerate(sums):
            strange = v.note_strange(value, strange)
            v.store(v.at_least(value, lowest), y, o)
        return v.any_strange(strange)

    return row


def sums_of_a_tap(isa: Isa, shape: Row) -> int:
    """Return how many sums `dots` has for each tap, so that none waits for the one before."""
    registers = 32 if isa.stencil_rows[0] > 7 else 16
    return max(1, min(-(-8 // shape.taps), (registers - 1 - shape.outputs) // shape.taps))


@functools.cache
def dots(isa: Isa, dtype: np.dtype[Any], shape: Row) -> Any:
    """Return a compiled-code function (x, xi, xstep, dy, yi, ystep, count, sums, si) -> None.

    For the taps s of a row of the filter it adds Σ_p Σ_o dy[p·ystep + o] · x[p·xstep + o·stride + s·dilation] over ``count`` ≥ 1 rows p and the
    outputs o of a piece of a row to the vector sums[s]: indices are vectors behind xi, yi and si, steps elements.
    """
    sets = sums_of_a_tap(isa, shape)

    @vector_code(isa, dtype, "x[] xstep dy[] ystep count sums[]")
    def dots(v: Vectors, x, xstep, dy, ystep, count, sums):  # type: ignore[no-untyped-def]
        def line(p, totals):  # type: ignore[no-untyped-def]
            here, there, totals = v.at(x, (p, xstep)), v.at(dy, (p, ystep)), list(totals)
            slopes = [v.load(there, o) for o in range(shape.outputs)]
            for column, met in _columns(shape):
                values = v.load(here, column)
                for o, s in met:
                    at = s * sets + o % sets
                    totals[at] = v.fma(slopes[o], values, totals[at])
            return totals

        totals = v.loop(count, [v.zero] * (shape.taps * sets), line)
        for s in range(shape.taps):
            value = functools.reduce(v.add, totals[s * sets : (s + 1) * sets])
            v.store(v.add(v.load(sums, s), value), sums, s)

    return dots


def _columns(shape: Row) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield the columns of x that outputs o meet with taps s, each with its pairs (o, s)."""
    for column in range((shape.outputs - 1) * shape.stride + (shape.taps - 1) * shape.dilation + 1):
        met = [(o, column - o * shape.stride) for o in range(shape.outputs)]
        met = [(o, at // shape.dilation) for o, at in met if at % shape.dilation == 0 and 0 <= at // shape.dilation < shape.taps]
        if met:
            yield column, met
