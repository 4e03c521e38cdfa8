"""The vector code of `winograd`: transforms of a tile, squares transposed in registers, products with any strides."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.arrays import CACHE_LINE
from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa
from numbaconv.cpu._term import Term

UNROLLED = 4  # steps that `multiply_strided` takes together
# Steps by which the caches are asked ahead for what comes from memory: 256→256 on 14×14 with weights prepared, six layers in turn, took 759 µs
# without, 690, 660, 564, 552 with 8, 16, 32, 48, and 583 with 128 (Zen 5). Where the panel is in L2 it costs 5 %.
AHEAD = 48
Formula = Callable[[list[Term]], list[Term]]


@functools.cache
def transform_tile(isa: Isa, dtype: np.dtype[Any], vertical: tuple[int, Formula], horizontal: tuple[int, Formula]) -> Any:
    """Return a compiled-code function (source, si, sr, sc, out, oi, or_, oc) -> None that transforms the same tile of many channels.

    Element (i, j) of the tile is the vector at source[si + i·sr + j·sc], and likewise of the result. ``vertical`` and
    ``horizontal`` are the tile's size along an axis and what becomes of a list of that many vectors.
    """

    @vector_code(isa, dtype, "source[] sr sc out[] or_ oc")
    def transform(v: Vectors, source, sr, sc, out, or_, oc):  # type: ignore[no-untyped-def]
        columns = []
        for j in range(horizontal[0]):
            loaded = [Term(v, v.load(v.at(source, (sr, i), (sc, j)))) for i in range(vertical[0])]
            columns.append(vertical[1](loaded))
        for i, row in enumerate(zip(*columns, strict=True)):
            for j, term in enumerate(horizontal[1](list(row))):
                v.store(term.value, v.at(out, (or_, i), (oc, j)))

    return transform


@functools.cache
def store_transposed(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (source, at, out, to, stride, rows, last, ahead) -> None for a square of vectors.

    It computes out[to + r·stride + j] = source[at + j·width + r] for r < rows and j < last, and prefetches what lies ``ahead``
    elements behind each row.
    """

    @vector_code(isa, dtype, "source[] out[] stride rows last ahead")
    def store(v: Vectors, source, out, stride, rows, last, ahead):  # type: ignore[no-untyped-def]
        lanes = v.first(last)
        for r, value in enumerate(v.transpose([v.load(source, j) for j in range(v.width)])):
            inside = v.builder.icmp_signed("<", I64(r), rows)
            row = v.at(out, (stride, v.builder.select(inside, I64(r), I64(0))))  # no page that may be missing
            v.store(value, row, mask=v.builder.select(inside, lanes, v.none))
            v.prefetch(v.at(row, ahead), write=True, level=2)

    return store


@functools.cache
def copy_lanes(isa: Isa, dtype: np.dtype[Any], load: bool) -> Any:
    """Return a compiled-code function (source, at, out, to, lanes) -> None that copies the first lanes of a vector.

    With ``load`` it writes a whole vector, zeros behind the lanes, and else nothing behind them.
    """

    @vector_code(isa, dtype, "source[] out[] lanes")
    def copy(v: Vectors, source, out, lanes):  # type: ignore[no-untyped-def]
        mask = v.first(lanes)
        if load:
            v.store(v.load(source, mask=mask), out)
        else:
            v.store(v.load(source), out, mask=mask)

    return copy


@functools.cache
def multiply_strided(isa: Isa, dtype: np.dtype[Any], vectors: int) -> Any:
    """Return a compiled-code function (panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more, far) -> None for count ≥ 1.

    It computes out[oi + r·os + l] = Σ_k rows[ri + r·rr + k·rs] · panel[pi + k·ps + l] over count steps of k, for isa.rows rows
    and ``vectors`` vectors of lanes; with ``more``, the sum is added to what is there. A panel that is ``far`` comes from memory: the caches are
    asked for what lies ahead.
    """
    height = isa.rows

    @vector_code(isa, dtype, "panel[] ps rows[] rr rs count out[] os more far")
    def multiply(v: Vectors, panel, ps, rows, rr, rs, count, out, os, more, far):  # type: ignore[no-untyped-def]
        builder = v.builder
        offsets = [builder.mul(rr, I64(r)) for r in range(height)]

        def take(x, w, sums, steps, ask=False):  # type: ignore[no-untyped-def]
            ahead = v.at(x, (ps, AHEAD))
            for u in range(steps):
                for at in range(0, vectors * v.width if ask else 0, CACHE_LINE // v.size):
                    v.prefetch(v.at(ahead, (ps, u), at))
                lanes, results = [v.load(v.at(x, (ps, u)), n) for n in range(vectors)], []
                for r in range(height):
                    factor = v.splat(builder.load(builder.gep(w, [offsets[r]])))
                    results += v.here([v.fma(factor, lanes[n], sums[r * vectors + n]) for n in range(vectors)])
                w, sums = builder.gep(w, [rs]), results
            return [builder.gep(x, [builder.mul(ps, I64(steps))]), w, *sums]

        # With fewer instructions a step it keeps its speed when another thread shares the core.
        state = [panel, rows, *[v.zero] * (height * vectors)]
        groups = builder.sdiv(count, I64(UNROLLED))

        def take_groups(ask):  # type: ignore[no-untyped-def]
            return lambda: v.loop(groups, state, lambda k, state: take(state[0], state[1], state[2:], UNROLLED, ask), True)

        state = v.choose(builder.icmp_signed("==", far, I64(0)), take_groups(False), take_groups(True))
        state = v.loop(builder.srem(count, I64(UNROLLED)), state, lambda k, state: take(state[0], state[1], state[2:], 1), True)
        results = state[2:]
        places = [v.at(out, (os, r), n * v.width) for r in range(height) for n in range(vectors)]
        with builder.if_else(builder.icmp_signed("!=", more, I64(0))) as (then, otherwise):
            with then:
                for place, value in zip(places, results, strict=True):
                    v.store(v.add(v.load(place), value), place)
            with otherwise:
                for place, value in zip(places, results, strict=True):
                    v.store(value, place)

    return multiply
