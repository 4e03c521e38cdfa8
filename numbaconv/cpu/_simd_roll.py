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

# Registers up to which LLVM is kept from unrolling a strip, where it would move factors around: 5×5 on 56×64, 17.4 → 14.6 cycles a vector; with
# more it does better alone (dgrad of 5×5 with a stride of 2 on 144 of 56², 52 µs, not 61), and so it does with several filters.
MOST_HERE = 36


class Roll(NamedTuple):
    """What a strip computes, which is part of its code.

    In a step it reads ``len(rows)`` rows of x and completes a row of outputs of each phase: two if x is dilated in rows, or if it is to be two rows
    at a time. A row of outputs meets its taps in the steps before; how many steps are left then is a lag. Columns of taps that need the same
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
    near: tuple[int, ...] = ()  # of a stride of 2: how many outputs each group is away from the one that is loaded, if only one is
    masked: tuple[bool, ...] = ()  # by mask of the table: whether it keeps a lane out in any strip; else there is none in the code

    @property
    def down(self) -> int:
        """Rows of x in a step: the stride, or twice that."""
        return len(self.rows)

    @property
    def up(self) -> int:
        """Rows of outputs that a step completes, its phases: how far x is dilated, or two."""
        return len(self.lags)

    @property
    def before(self) -> int:
        """Steps before one in which what it completes meets its first taps."""
        return max(lag + ahead for lag, ahead in zip(self.lags, self.ahead, strict=True))

    @property
    def loaded(self) -> list[tuple[int, int]]:
        """Return what is loaded of a row of x: a group (0 if only one is), and how many vectors behind its first."""
        if self.near:
            return [(0, n) for n in range(-1, self.across * self.beside + 1)]
        return list(itertools.product(range(len(self.groups)), range(self.beside * max(self.across, self.planes))))

    @property
    def registers(self) -> int:
        """Vectors that are kept: sums and factors, bounds and what is loaded."""
        sums = sum(1 + lag for lag in self.lags) * self.phases * self.beside
        return (sums * self.filters or sums + self.high * self.wide) + 2 + self.across

    @property
    def pitch(self) -> int:
        """Elements from the factors of a tap to those of the next: filters, to a power of two."""
        return 1 << (self.filters - 1).bit_length()

    @property
    def terms(self) -> int:
        """Multiply-adds of a step and a channel, in vectors."""
        return sum(map(len, self.rows)) * sum(map(len, self.groups)) * self.beside * max(1, self.filters)


PARAMETERS = "x[] xs H base reading more w[] {} block[] zeros[] y[] ys begin stop bias[] least. xo wo yo ao"


class _Strip:
    """A strip whose code is being written.

    Step i reads rows base + i·down + j of x (those of ``zeros`` where there is none), and completes rows begin + (i + ahead)·up + phase of outputs,
    which it stores if they are among 0 … stop − 1, and else where nobody reads: addresses are chosen instead of masks, which would be one for each
    vector. There are ``reading`` ≥ 1 steps, and then ``more`` in which no row of x is left. x and y
    point to where the planes begin, xs and ys are what is from row to row. The table ``block`` has the offsets of the strip in a row of
    outputs and of each group in a row of x, and masks of x (by group, vector, part) and of outputs (by vector, part): a part is one of the vectors,
    or of two planes. What is below ``least`` is replaced by it. xo and yo are from one plane to the next.
    """

    def __init__(
        self, v: Vectors, shape: Roll, x: Any, xs: Any, H: Any, base: Any, block: Any, zeros: Any, y: Any, ys: Any, begin: Any, stop: Any,
        least: Any, xo: Any, yo: Any,
    ) -> None:  # fmt: skip
        self.v, self.shape, self.lowest, self.half = v, shape, v.splat(least), v.width // 2
        self.xs, self.H, self.base, self.xo = xs, H, base, xo
        self.ys, self.begin, self.stop, self.yo = ys, begin, stop, yo
        groups, y_parts = 1 if shape.near else len(shape.groups), max(shape.phases, shape.planes)
        target, *self.starts = (v.builder.load(v.at(block, n)) for n in range(1 + groups))
        self.x, self.target = x, v.at(y, target)
        self.zeros, self.unread = v.at(zeros, v.width, (self.starts[0], -1)), v.spare(shape.beside * y_parts)
        masks = (v.mask(v.builder.load(v.at(block, 1 + groups + n))) if masked else None for n, masked in enumerate(shape.masked))
        self.masks = {key: next(masks) for key in shape.loaded}
        self.stored = {key: next(masks) for key in itertools.product(range(shape.beside), range(y_parts))}

    def _place(self, n: Any, bound: Any, there: Any, apart: Any, elsewhere: Any) -> tuple[Any, Any]:
        """Return where a row is, and how far from it the next plane's, if 0 ≤ n < bound, and else a pointer ``elsewhere`` for both."""
        builder = self.v.builder
        inside = builder.icmp_unsigned("<", n, bound)
        return builder.select(inside, there, elsewhere), builder.select(inside, apart, I64(0))

    def reads(self, i: Any, channel: Any) -> Iterator[tuple[Any, Any, list[list[Any]]]]:
        """Load the rows of x of a step, ``channel`` elements on; yield the rows and columns of taps that meet a group, and its vectors."""
        v, shape = self.v, self.shape
        for j, met in enumerate(shape.rows):
            h = v.builder.add(self.base, v.builder.add(v.builder.mul(i, I64(shape.down)), I64(j)))
            row, other = v.at(self.x, (h, self.xs), channel), self.xo
            steps = AHEAD if shape.filters else self.stop  # of the next band: 64 of 200² 2.8 → 1.0 ms
            for n in range(shape.beside * shape.across):
                v.prefetch(v.at(row, self.starts[0], (steps, self.xs, shape.down), n * v.width))
            if shape.down > 1:
                row, other = self._place(h, self.H, row, other, self.zeros)
            near = self._near(v.at(row, self.starts[0])) if shape.near else []
            for g, columns in enumerate(shape.groups):
                yield met, columns, near[g] if near else [self._load(v.at(row, self.starts[g]), other, g, n) for n in range(shape.beside)]

    def _load(self, at: Any, other: Any, g: int, n: int) -> list[Any]:
        """Return a vector of a group, or, of a stride of 2, the even and the odd ones of two."""
        v, planes = self.v, self.shape.planes
        if self.shape.across == 2:
            apart = other if planes == 2 else I64(v.width)
            return self._halves(*(v.load(v.at(at, 2 * n * v.width, (part, apart)), 0, self.masks[g, 2 * n + part]) for part in range(2)))
        value = v.load(at, n, self.masks[g, n * planes])
        return [v.load(v.at(at, other, -self.half), 0, self.masks[g, 1], value) if planes == 2 else value]

    def _halves(self, low: Any, high: Any) -> list[Any]:
        return [self.v.shuffle(low, high, list(range(odd, 2 * self.v.width, 2))) for odd in range(2)]

    def _near(self, at: Any) -> list[list[list[Any]]]:
        """Load one group's vectors; return the halves of all groups' vectors: lanes next to those of a half are in the vectors beside it."""
        v, shape, width = self.v, self.shape, self.v.width
        before, *loaded, after = (v.load(at, n, mask) for (_, n), mask in self.masks.items())
        halves = [self._halves(*pair) for pair in zip(loaded[::2], loaded[1::2], strict=True)]

        def moved(n: int, odd: int, by: int) -> Any:
            """Return a half of the n-th vector of the group that is ``by`` outputs away."""
            here, lanes = halves[n][odd], range(by, by + width)
            if by == 0:
                return here
            if by < 0 < n:
                return v.shuffle(halves[n - 1][odd], here, [width + lane for lane in lanes])
            if by < 0:
                return v.shuffle(before, here, [width + (lane if lane >= 0 else 2 * lane + odd) for lane in lanes])
            if n + 1 < len(halves):
                return v.shuffle(here, halves[n + 1][odd], list(lanes))
            return v.shuffle(here, after, [lane if lane < width else width + 2 * (lane - width) + odd for lane in lanes])

        return [[[moved(n, odd, by) for odd in range(2)] for n in range(shape.beside)] for by in shape.near]

    def _store(self, i: Any, sums: dict[Any, Any], f: int, check: Any) -> Any:
        v, shape, builder = self.v, self.shape, self.v.builder
        for e in range(shape.up):
            p = builder.add(self.begin, builder.add(builder.mul(i, I64(shape.up)), I64(e + shape.ahead[e] * shape.up)))
            to, other = self._place(p, self.stop, v.at(self.target, (p, self.ys)), self.yo, self.unread)
            for n in range(shape.beside):
                values = [sums[f, e, 0, n, phase] for phase in range(shape.phases)]
                for value in values:
                    check = v.add(check, value)
                for k, value in enumerate(self._weave([v.at_least(value, self.lowest) for value in values])):
                    place = v.at(to, (n * shape.phases + k) * v.width, (f, other))
                    if shape.planes == 2:
                        place = v.at(to, (k, other), -self.half * k if shape.phases == 1 else 0)
                    v.store(value, place, mask=self.stored[n, k])
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
            if not self.shape.filters and self.shape.registers <= MOST_HERE:
                sums = dict(zip(sums, v.here(list(sums.values())), strict=True))
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

    The arguments are (x, xi, xs, H, base, reading, more, w, wi, taps, ti, block, bi, zeros, zi, y, yi, ys, begin, stop, bias, ai, least, xo, wo,
    yo, ao), as `_Strip` says; taps: the offset in w of each tap. bias[ai] is added. The second plane's w and bias are wo and ao on.
    """
    apart = shape.beside == shape.phases == shape.up == 1 and shape.high < 4  # few sums: a multiply-add would wait for the one before

    @vector_code(isa, dtype, PARAMETERS.format("taps[]"), returns=True)
    def roll(v: Vectors, x, xs, H, base, reading, more, w, taps, block, zeros, y, ys, begin, stop, bias, least, xo, wo, yo, ao):  # type: ignore[no-untyped-def]
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

        strip = _Strip(v, shape, x, xs, H, base, block, zeros, y, ys, begin, stop, least, xo, yo)
        return strip.run(reading, more, lambda f: added, read)

    return roll


@functools.cache
def roll_filters(isa: Isa, dtype: np.dtype[Any], shape: Roll) -> Any:
    """Return a compiled-code function that computes a strip of several filters' outputs; it returns whether one is not finite.

    The arguments are those of `roll`, C instead of taps: channels of x. They are xo apart, outputs yo and biases ao; w[channel, tap, filter] one
    after the other, as `pack` puts them.
    """

    @vector_code(isa, dtype, PARAMETERS.format("C"), returns=True)
    def roll_filters(v: Vectors, x, xs, H, base, reading, more, w, C, block, zeros, y, ys, begin, stop, bias, least, xo, wo, yo, ao):  # type: ignore[no-untyped-def]
        def read(i: Any, sums: dict[Any, Any]) -> None:
            order = list(sums)

            def channel(c: Any, values: list[Any]) -> list[Any]:
                sums, factors = dict(zip(order, values, strict=True)), v.at(w, (c, shape.high * shape.wide * shape.pitch))
                met_by: dict[int, list[tuple[Any, ...]]] = {}  # a factor is read once for all that it meets
                for met, columns, loaded in strip.reads(i, (c, xo)):
                    for (column, phase, odd), (tap, e, lag), (n, parts) in itertools.product(columns, met, enumerate(loaded)):
                        met_by.setdefault(tap * shape.wide + column, []).append((e, lag, n, phase, parts[odd]))
                for (number, meets), f in itertools.product(met_by.items(), range(shape.filters)):
                    factor = v.splat(v.builder.load(v.at(factors, number * shape.pitch + f)))
                    for e, lag, n, phase, value in meets:
                        sums[f, e, lag, n, phase] = v.fma(factor, value, sums[f, e, lag, n, phase])
                return [sums[key] for key in order]

            sums.update(zip(order, v.loop(C, [sums[key] for key in order], channel), strict=True))

        strip = _Strip(v, shape, x, xs, H, base, block, zeros, y, ys, begin, stop, least, xo, yo)
        return strip.run(reading, more, lambda f: v.splat(v.builder.load(v.at(bias, (f, ao)))), read)

    return roll_filters


@functools.cache
def pack(isa: Isa, dtype: np.dtype[Any], shape: Roll) -> Any:
    """Return a compiled-code function (w, wi, row, count, places, pi, factors, fi) -> None that puts factors of several filters side by side.

    For taps t < min(count, W) and filters f it stores factors[fi + places[pi + t]·PITCH + f] = w[wi + f·row + t]. If places[pi] is negative, the
    places are 0, 1, …, and up to PITCH vectors are written.
    """

    @vector_code(isa, dtype, "w[] row count places[] factors[]")
    def pack(v: Vectors, w, row, count, places, factors):  # type: ignore[no-untyped-def]
        builder, mask = v.builder, v.first(count)
        loaded = [v.load(v.at(w, (row, f)), mask=mask) for f in range(shape.filters)]
        turned, each = v.transpose(loaded + [v.zero] * (shape.pitch - shape.filters)), v.width // shape.pitch
        with builder.if_else(builder.icmp_signed("<", builder.load(places), I64(0))) as (in_order, otherwise):
            with in_order:
                for n, value in enumerate(turned):
                    v.store(value, factors, n)
            with otherwise:
                some = v.first(I64(shape.pitch))
                for t in range(v.width):
                    with builder.if_then(builder.icmp_signed("<", I64(t), count)):
                        value = v.shuffle(turned[t // each], v.zero, [(t % each * shape.pitch + lane) % v.width for lane in range(v.width)])
                        v.store(value, v.at(factors, (builder.load(v.at(places, t)), shape.pitch)), mask=some)

    return pack
