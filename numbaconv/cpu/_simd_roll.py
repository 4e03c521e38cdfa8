"""The vector code of `_rolls`: strips of outputs that move down a plane, with the sums of the rows that are not complete in registers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa

# Steps by which the caches are asked ahead for the rows of several channels: 32 groups of 512 on 14×14 from memory, 470 µs without and 280, 224, 250
# with 1, 2, 4 (Zen 5; 186 from the caches, with or without).
AHEAD = 2


class Roll(NamedTuple):
    """What a strip computes, which is part of its code.

    In a step it reads ``len(rows)`` rows of x and completes a row of outputs of each phase (two if x is dilated in rows). A row of
    outputs meets its taps in the steps before; how many steps are left then is a lag. Columns of taps that need the same
    vectors of x are a group; with a stride of 2 these are two vectors, whose even and odd lanes are its halves.
    """

    rows: tuple[tuple[tuple[int, int, int], ...], ...]  # of x in a step: the (row of taps, phase of rows, lag) that meet it
    lags: tuple[int, ...]  # the largest, by phase of rows
    ahead: tuple[int, ...]  # by how many steps rows of a phase are complete before those of the last
    groups: tuple[tuple[tuple[int, int, int], ...], ...]  # the (column of taps, phase of columns, half) of each
    high: int  # rows of taps
    wide: int  # columns of taps
    phases: int  # of columns
    across: int  # stride
    beside: int  # vectors of outputs of a phase, next to each other
    planes: int  # 2 of narrow planes with strides, whose rows are the halves of vectors
    filters: int  # whose outputs are computed together; 0 for one filter of one channel, whose factors stay in registers

    @property
    def down(self) -> int:
        """Rows of x in a step: the stride."""
        return len(self.rows)

    @property
    def up(self) -> int:
        """Rows of outputs that a step completes: how far x is dilated."""
        return len(self.lags)

    @property
    def before(self) -> int:
        """Steps before one in which what it completes meets its first taps."""
        return max(lag + ahead for lag, ahead in zip(self.lags, self.ahead, strict=True))

    @property
    def registers(self) -> int:
        """Vectors that are kept: sums and factors, bounds and what is loaded."""
        sums = sum(1 + lag for lag in self.lags) * self.phases * self.beside
        return (sums * self.filters or sums + self.high * self.wide) + 2 + self.across

    @property
    def terms(self) -> int:
        """Multiply-adds of a step and a channel, in vectors."""
        return sum(map(len, self.rows)) * sum(map(len, self.groups)) * self.beside * max(1, self.filters)


PARAMETERS = "x[] xs H base reading more w[] {} block[] y[] ys begin stop bias[] least. xo wo yo ao"


class _Strip:
    """A strip whose code is being written.

    Step i reads rows base + i·down + j of x (zeros where there is none), and completes rows begin + (i + ahead)·up + phase of outputs, which it
    stores if they are among 0 … stop − 1. There are ``reading`` ≥ 1 steps, and then ``more`` in which no row of x is left. x and y
    point to where the planes begin, xs and ys are what is from row to row. The table ``block`` has the offsets of the strip in a row of
    outputs and of each group in a row of x, and masks of x (by group, vector, part) and of outputs (by vector, part): a part is one of the vectors,
    or of two planes. What is below ``least`` is replaced by it. xo and yo are from one plane to the next.
    """

    def __init__(
        self, v: Vectors, shape: Roll, x: Any, xs: Any, H: Any, base: Any, block: Any, y: Any, ys: Any, begin: Any, stop: Any, least: Any,
        xo: Any, yo: Any,
    ) -> None:  # fmt: skip
        self.v, self.shape, self.lowest, self.half = v, shape, v.splat(least), v.width // 2
        self.xs, self.H, self.base, self.xo = xs, H, base, xo
        self.ys, self.begin, self.stop, self.yo = ys, begin, stop, yo
        groups, x_parts, y_parts = len(shape.groups), max(shape.across, shape.planes), max(shape.phases, shape.planes)
        entries = [v.builder.load(v.at(block, n)) for n in range(1 + groups + (groups * x_parts + y_parts) * shape.beside)]
        self.target, self.starts, rest = v.at(y, entries[0]), [v.at(x, start) for start in entries[1 : 1 + groups]], iter(entries[1 + groups :])
        self.masks = {key: next(rest) for key in itertools.product(range(groups), range(shape.beside), range(x_parts))}
        self.stored = {key: next(rest) for key in itertools.product(range(shape.beside), range(y_parts))}

    def _inside(self, n: Any, bound: Any) -> Any:
        """Return all ones if 0 ≤ n < bound, else 0."""
        return self.v.builder.sext(self.v.builder.icmp_unsigned("<", n, bound), I64)

    def reads(self, i: Any, channel: Any) -> Iterator[tuple[Any, Any, list[list[Any]]]]:
        """Load the rows of x of a step, ``channel`` elements on; yield the rows and columns of taps that meet a group, and its vectors."""
        v, shape = self.v, self.shape
        for j, met in enumerate(shape.rows):
            h = v.builder.add(self.base, v.builder.add(v.builder.mul(i, I64(shape.down)), I64(j)))
            allowed = (self._inside(h, self.H),) if shape.down > 1 else ()
            for n in range(0 if shape.filters else shape.beside * shape.across):  # of the next plane: 64 of 200² 2.8 → 1.0 ms
                v.prefetch(v.at(self.starts[0], (h, self.xs), (self.H, self.xs), n * v.width))
            for n in range(shape.beside * shape.across if shape.filters else 0):
                v.prefetch(v.at(self.starts[0], (h, self.xs), channel, (self.xs, AHEAD * shape.down), n * v.width))
            for g, columns in enumerate(shape.groups):
                at = v.at(self.starts[g], (h, self.xs), channel)
                yield met, columns, [self._load(v.at(at, n * shape.across * v.width), g, n, allowed) for n in range(shape.beside)]

    def _load(self, at: Any, g: int, n: int, allowed: tuple[Any, ...]) -> list[Any]:
        v, both = self.v, self.shape.planes == 2
        some = [v.mask(self.masks[g, n, part], *allowed) for part in range(max(self.shape.across, self.shape.planes))]
        if self.shape.across == 2:
            low, high = (v.load(v.at(at, (part, self.xo if both else I64(v.width))), 0, mask) for part, mask in enumerate(some))
            return [v.shuffle(low, high, list(range(odd, 2 * v.width, 2))) for odd in range(2)]
        value = v.load(at, 0, some[0])
        return [v.load(v.at(at, self.xo, -self.half), 0, some[1], value) if both else value]

    def _store(self, i: Any, sums: dict[Any, Any], f: int, check: Any) -> Any:
        v, shape, builder = self.v, self.shape, self.v.builder
        for e in range(shape.up):
            p = builder.add(self.begin, builder.add(builder.mul(i, I64(shape.up)), I64(e + shape.ahead[e] * shape.up)))
            to, ready = v.at(self.target, (p, self.ys)), self._inside(p, self.stop)
            for n in range(shape.beside):
                values = [sums[f, e, 0, n, phase] for phase in range(shape.phases)]
                for value in values:
                    check = v.add(check, value)
                for k, value in enumerate(self._weave([v.at_least(value, self.lowest) for value in values])):
                    place = v.at(to, (n * shape.phases + k) * v.width, (f, self.yo))
                    if shape.planes == 2:
                        place = v.at(to, (k, self.yo), -self.half * k if shape.phases == 1 else 0)
                    v.store(value, place, bits=(self.stored[n, k], ready))
        return check

    def _weave(self, values: list[Any]) -> list[Any]:
        """Return vectors of neighbouring outputs."""
        if self.shape.phases == 1:
            return values * self.shape.planes
        width = self.v.width
        return [self.v.shuffle(values[0], values[1], [first + k // 2 + k % 2 * width for k in range(width)]) for first in (0, self.half)]

    def run(self, reading: Any, more: Any, added: Callable[[int], Any], read: Callable[[Any, dict[Any, Any]], None]) -> Any:
        """Write all steps; ``added`` is the bias of a filter, ``read`` adds what a step reads to sums. Return whether an output is not finite."""
        v, builder, lags, filters = self.v, self.v.builder, self.shape.lags, range(max(1, self.shape.filters))
        places = list(itertools.product(range(self.shape.beside), range(self.shape.phases)))
        kept = [(f, e, lag, *place) for f in filters for e in range(len(lags)) for lag in range(1, lags[e] + 1) for place in places]

        def step(i: Any, state: list[Any], reads: bool) -> list[Any]:
            sums = {(f, e, lag - 1, *place): value for (f, e, lag, *place), value in zip(kept, state, strict=False)}
            sums |= {(f, e, lags[e], *place): added(f) for f in filters for e in range(len(lags)) for place in places}
            if reads:
                read(i, sums)
            check = state[-1]
            for f in filters:
                check = self._store(i, sums, f, check)
            return [*(sums[key] for key in kept), check]

        state = v.loop(reading, [*(added(key[0]) for key in kept), v.zero], lambda i, state: step(i, state, True))

        def rest() -> list[Any]:
            return v.loop(more, state, lambda i, state: step(builder.add(i, reading), state, False))[-1:]

        (check,) = v.choose(builder.icmp_signed(">", more, I64(0)), rest, lambda: state[-1:])
        return v.any(builder.fcmp_unordered("uno", builder.fsub(check, check), v.zero))


@functools.cache
def roll(isa: Isa, dtype: np.dtype[Any], shape: Roll) -> Any:
    """Return a compiled-code function that computes a strip of a plane, or of two; it returns whether an output is not finite.

    The arguments are (x, xi, xs, H, base, reading, more, w, wi, taps, ti, block, bi, y, yi, ys, begin, stop, bias, ai, least, xo, wo, yo, ao), as
    `_Strip` says; taps: the offset in w of each tap. bias[ai] is added. The second plane's w and bias are wo and ao on.
    """
    apart = shape.beside == shape.phases == shape.up == 1 and shape.high < 4  # few sums: a multiply-add would wait for the one before

    @vector_code(isa, dtype, PARAMETERS.format("taps[]"), returns=True)
    def roll(v: Vectors, x, xs, H, base, reading, more, w, taps, block, y, ys, begin, stop, bias, least, xo, wo, yo, ao):  # type: ignore[no-untyped-def]
        def splat(first: Any, other: Any) -> Any:
            value = v.splat(v.builder.load(first))
            if shape.planes == 2:
                value = v.shuffle(value, v.splat(v.builder.load(v.at(first, other))), [n // (v.width // 2) * v.width for n in range(v.width)])
            return value

        factors = [splat(v.at(w, v.builder.load(v.at(taps, n))), wo) for n in range(shape.high * shape.wide)]
        added = splat(bias, ao)

        def read(i: Any, sums: dict[Any, Any]) -> None:
            fresh: dict[Any, Any] = {}
            for number, (met, columns, loaded) in enumerate(strip.reads(i, 0)):
                for (column, phase, odd), (tap, e, lag), (n, parts) in itertools.product(columns, met, enumerate(loaded)):
                    key, into = (0, e, lag, n, phase), fresh if apart and number % len(shape.groups) else sums
                    into[key] = v.fma(factors[tap * shape.wide + column], parts[odd], into.get(key, v.zero))
            for key, value in fresh.items():
                sums[key] = v.add(sums[key], value)

        strip = _Strip(v, shape, x, xs, H, base, block, y, ys, begin, stop, least, xo, yo)
        return strip.run(reading, more, lambda f: added, read)

    return roll


@functools.cache
def roll_filters(isa: Isa, dtype: np.dtype[Any], shape: Roll) -> Any:
    """Return a compiled-code function that computes a strip of several filters' outputs; it returns whether one is not finite.

    The arguments are those of `roll`, C instead of taps: channels of x. They are xo apart, outputs yo and biases ao; w[channel, tap, filter] one
    after the other.
    """

    @vector_code(isa, dtype, PARAMETERS.format("C"), returns=True)
    def roll_filters(v: Vectors, x, xs, H, base, reading, more, w, C, block, y, ys, begin, stop, bias, least, xo, wo, yo, ao):  # type: ignore[no-untyped-def]
        def read(i: Any, sums: dict[Any, Any]) -> None:
            order = list(sums)

            def channel(c: Any, values: list[Any]) -> list[Any]:
                sums, factors = dict(zip(order, values, strict=True)), v.at(w, (c, shape.high * shape.wide * shape.filters))
                for met, columns, loaded in strip.reads(i, (c, xo)):
                    for (column, phase, odd), (tap, e, lag), f in itertools.product(columns, met, range(shape.filters)):
                        factor = v.splat(v.builder.load(v.at(factors, (tap * shape.wide + column) * shape.filters + f)))
                        for n, parts in enumerate(loaded):
                            key = f, e, lag, n, phase
                            sums[key] = v.fma(factor, parts[odd], sums[key])
                return [sums[key] for key in order]

            sums.update(zip(order, v.loop(C, [sums[key] for key in order], channel), strict=True))

        strip = _Strip(v, shape, x, xs, H, base, block, y, ys, begin, stop, least, xo, yo)
        return strip.run(reading, more, lambda f: v.splat(v.builder.load(v.at(bias, (f, ao)))), read)

    return roll_filters
