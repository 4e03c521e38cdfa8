"""The vector code of `_rolls`: a strip of outputs that moves down a plane, with the sums of the rows that are not complete in registers."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu._emit import I64, Isa, Vectors, vector_code


class Roll(NamedTuple):
    """What a strip computes, which is part of its code.

    In a step it reads ``len(rows)`` rows of x and completes a row of outputs of each phase (two if x is dilated in rows). A row of
    outputs meets its taps in the steps before; how many steps are left then is a lag. Columns of taps that need the same
    vectors of x are a group; with a stride of 2 these are two vectors, whose even and odd lanes are its halves.
    """

    rows: tuple[tuple[tuple[int, int, int], ...], ...]  # of x in a step: the (row of taps, phase of rows, lag) that meet it
    lags: tuple[int, ...]  # the largest, by phase of rows
    groups: tuple[tuple[tuple[int, int, int], ...], ...]  # the (column of taps, phase of columns, half) of each
    high: int  # rows of taps
    wide: int  # columns of taps
    phases: int  # of columns
    across: int  # stride
    beside: int  # vectors of outputs of a phase, next to each other
    planes: int  # 2 of narrow planes, whose rows are the halves of vectors

    @property
    def down(self) -> int:
        """Rows of x in a step: the stride."""
        return len(self.rows)

    @property
    def up(self) -> int:
        """Rows of outputs that a step completes: how far x is dilated."""
        return len(self.lags)

    @property
    def registers(self) -> int:
        """Vectors that are kept: factors, sums, bounds, what is loaded."""
        return self.high * self.wide + sum(1 + lag for lag in self.lags) * self.phases * self.beside + 2 + self.across


@functools.cache
def roll(isa: Isa, dtype: np.dtype[Any], shape: Roll) -> Any:
    """Return a compiled-code function that computes a strip of one plane; it returns whether an output is not finite.

    The arguments are (x, xi, xs, H, base, reading, more, w, wi, taps, ti, block, bi, y, yi, ys, begin, stop, bias, ai, least, xo, wo, yo, ao).
    Step i reads rows
    base + i·len(rows) + j of x (zeros where there is none), and completes rows begin + i·len(lags) + phase of outputs, which it stores if they
    are among 0 … stop − 1. There are ``reading`` ≥ 1 steps and then ``more`` in which no row of x is left. xi and yi are where the planes
    begin, xs and ys what is from row to row. The tables: taps, the offset in w of each tap; block, offsets of the strip in a row of
    outputs and of each group in a row of x, masks of x (by group, vector, part) and of outputs (by vector, part). bias[ai] is added,
    and what is below ``least`` replaced by it. A part is one of the vectors, or one of two planes; the second plane's x, w, y and bias are
    xo, wo, yo and ao from the first's.
    """
    down, up = shape.down, shape.up
    places = list(itertools.product(range(shape.beside), range(shape.phases)))
    kept = [(e, lag, place) for e in range(up) for lag in range(1, shape.lags[e] + 1) for place in places]
    apart = len(places) == up == 1 and shape.high < 4  # few sums: a multiply-add would wait for the one before

    @vector_code(isa, dtype, "x[] xs H base reading more w[] taps[] block[] y[] ys begin stop bias[] least. xo wo yo ao", returns=True)
    def roll(v: Vectors, x, xs, H, base, reading, more, w, taps, block, y, ys, begin, stop, bias, least, xo, wo, yo, ao):  # type: ignore[no-untyped-def]
        builder = v.builder

        def entry(table: Any, n: int) -> Any:
            return builder.load(v.at(table, n))

        def splat(first: Any, other: Any) -> Any:
            """Return a vector of a number, or of the numbers of two planes."""
            value = v.splat(builder.load(first))
            if shape.planes == 2:
                value = v.shuffle(value, v.splat(builder.load(v.at(first, other))), [n // half * v.width for n in range(v.width)])
            return value

        half, both = v.width // 2, shape.planes == 2
        factors = [splat(v.at(w, entry(taps, n)), wo) for n in range(shape.high * shape.wide)]
        added, lowest, groups = splat(bias, ao), v.splat(least), len(shape.groups)
        starts, seen = [v.at(x, entry(block, 1 + g)) for g in range(groups)], 1 + groups
        x_parts, y_parts = max(shape.across, shape.planes), max(shape.phases, shape.planes)
        target, there = v.at(y, entry(block, 0)), seen + groups * shape.beside * x_parts
        masks = {key: entry(block, seen + n) for n, key in enumerate(itertools.product(range(groups), range(shape.beside), range(x_parts)))}
        stored = {key: entry(block, there + n) for n, key in enumerate(itertools.product(range(shape.beside), range(y_parts)))}

        def load(at: Any, g: int, n: int, allowed: tuple[Any, ...]) -> list[Any]:
            """Return what a group reads, or its even and its odd lanes."""
            some = [v.mask(masks[g, n, part], *allowed) for part in range(x_parts)]
            if shape.across == 2:
                pair = [v.load(v.at(at, (part, xo if both else I64(v.width))), 0, mask) for part, mask in enumerate(some)]
                return [v.shuffle(pair[0], pair[1], list(range(odd, 2 * v.width, 2))) for odd in range(2)]
            value = v.load(at, 0, some[0])
            return [v.load(v.at(at, xo, -half), 0, some[1], value) if both else value]

        def weave(values: list[Any]) -> list[Any]:
            """Return vectors of neighbouring outputs."""
            if shape.phases == 1:
                return values * shape.planes
            return [v.shuffle(values[0], values[1], [first + k // 2 + k % 2 * v.width for k in range(v.width)]) for first in (0, half)]

        def inside(n: Any, bound: Any) -> Any:
            """Return all ones if 0 ≤ n < bound, else 0."""
            return builder.sext(builder.icmp_unsigned("<", n, bound), I64)

        def read(i: Any, sums: dict[Any, Any]) -> None:
            """Add what the rows of x of a step contribute."""
            fresh: dict[Any, Any] = {}
            for j, met in enumerate(shape.rows):
                h = builder.add(base, builder.add(builder.mul(i, I64(down)), I64(j)))
                allowed = (inside(h, H),) if down > 1 else ()
                for (g, columns), n in itertools.product(enumerate(shape.groups), range(shape.beside)):
                    parts = load(v.at(starts[g], (h, xs), n * shape.across * v.width), g, n, allowed)
                    for (column, phase, odd), (tap, e, lag) in itertools.product(columns, met):
                        key, into = (e, lag, (n, phase)), fresh if apart and g else sums
                        into[key] = v.fma(factors[tap * shape.wide + column], parts[odd], into.get(key, v.zero))
            for key, value in fresh.items():
                sums[key] = builder.fadd(sums[key], value)

        def store(i: Any, sums: dict[Any, Any], check: Any) -> Any:
            """Store the rows of outputs that a step completes."""
            for e in range(up):
                p = builder.add(begin, builder.add(builder.mul(i, I64(up)), I64(e)))
                to, ready = v.at(target, (p, ys)), inside(p, stop)
                for n in range(shape.beside):
                    values = [sums[e, 0, (n, phase)] for phase in range(shape.phases)]
                    for value in values:
                        check = builder.fadd(check, value)
                    for k, value in enumerate(weave([v.at_least(value, lowest) for value in values])):
                        place = v.at(to, (k, yo), -half * k if shape.phases == 1 else 0) if both else v.at(to, (n * shape.phases + k) * v.width)
                        v.store(value, place, bits=(stored[n, k], ready))
            return check

        def step(i: Any, state: list[Any], reads: bool) -> list[Any]:
            sums = {(e, lag - 1, place): value for (e, lag, place), value in zip(kept, state, strict=False)}
            sums |= {(e, shape.lags[e], place): added for e in range(up) for place in places}
            if reads:
                read(i, sums)
            check = store(i, sums, state[-1])
            return [*(sums[key] for key in kept), check]

        state = v.loop(reading, [*(added for _ in kept), v.zero], lambda i, state: step(i, state, True))

        def rest() -> list[Any]:
            return v.loop(more, state, lambda i, state: step(builder.add(i, reading), state, False))[-1:]

        (check,) = v.choose(builder.icmp_signed(">", more, I64(0)), rest, lambda: state[-1:])
        return v.any(builder.fcmp_unordered("uno", builder.fsub(check, check), v.zero))

    return roll
