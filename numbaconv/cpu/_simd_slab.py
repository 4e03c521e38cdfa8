"""The vector code of `stencil`'s slabs: outputs that stay in registers over all taps and channels, and the sums of their wgrad."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa


class Slab(NamedTuple):
    """The shape of a slab of outputs, which is part of its code."""

    rows: int  # vectors of outputs, one below the other
    channels: int  # channels of outputs
    shared: bool  # that read the same channels of x
    beside: int  # vectors of outputs beside each other: 1 or 2
    taps: int  # rows of the filter
    down: int  # strides: 1 or 2
    across: int
    fold: int  # rows of outputs in a vector: of narrow planes
    woven: bool  # the even and the odd columns of outputs are apart, with taps of their own
    pairs: bool  # columns of taps come two by two, next to each other, from what is loaded once: for a stride of 2
    single: bool  # … and there is another; without pairs they all are
    adds: bool  # the sums of some channels are added to those of others, which are in y

    @property
    def stacked(self) -> bool:
        """Whether a vector's rows are put together from vectors of their own; else they follow each other in x."""
        return self.fold > 1 and self.across > 1

    @property
    def reads(self) -> int:
        """Rows of x."""
        return ((self.rows - 1) * self.fold + self.stacked) * self.down + self.taps

    @property
    def parts(self) -> int:
        """Vectors of a row of x."""
        return 1 if self.stacked else self.across * self.beside

    @property
    def stores(self) -> tuple[int, int]:
        """Stores per vector of rows, and side by side."""
        return self.fold if self.stacked else 1, max(self.beside, 1 + self.woven)


def _entry(v: Vectors, table: Any, *terms: Any) -> Any:
    return v.builder.load(v.at(table, *terms))


def _rows(
    v: Vectors, shape: Slab, band: Any, sources: list[Any], there: list[Any], count: int, ahead: Any = None
) -> Iterator[tuple[int, list[list[Any]]]]:
    """Load a slab's rows of x from each source, and yield each with its number, as it meets ``count`` columns of taps.

    If it is given, the caches are asked for what lies so many elements ``ahead``.
    """
    kept: dict[int, list[Any]] = {}
    for read in range(shape.reads):
        place, masks = _entry(v, band, read), [v.mask(_entry(v, band, shape.reads + read), part) for part in there]
        loaded = [[v.load(v.at(row, place), part, mask) for part, mask in enumerate(masks)] for row in sources]
        for row, part in itertools.product(sources if ahead is not None else [], range(len(masks))):
            v.prefetch(v.at(row, place, ahead, part * v.width))
        j = read - shape.stacked * shape.down
        if shape.stacked:
            kept[read] = [row for (row,) in loaded]
            if j < 0:
                continue
            loaded = [list(pair) for pair in zip(kept.pop(j), kept[read], strict=True)]
        if shape.across == 2:
            loaded = [[v.shuffle(low, high, list(range(n, 2 * v.width, 2))) for n in range(count)] for low, high in loaded]
        yield j, loaded


@functools.cache
def slab(isa: Isa, dtype: np.dtype[Any], shape: Slab) -> Any:
    """Return a compiled-code function for the outputs of some channels in a slab, over all channels of x and all taps.

    The arguments are (x, xi, xf, plane, C, band, bi, block, ki, taps, ti, even, odd, w, wi, wf, wc, y, yi, yf, bias, ai, least, add), the
    tables band: per row of x its offset and the mask of its lanes that exist, then the same of the rows of y (see ``stores``);
    block: offset in y and a mask per vector of a row, then per column of taps, or pair, the offset in x and a mask per vector of x;
    taps: per column of taps the offsets in w of its rows. There are ``even`` pairs and ``odd`` single columns, or, if the slab is
    woven, as many columns of either phase. Channels of outputs are xf, wf and yf apart, channels of x ``plane`` and wc. The
    bias, or what is in y if the shape says so and ``add`` is not 0, is added to the sums, and what is below ``least`` replaced by it.
    It returns whether one of them is not finite.
    """
    rows, reads, parts, (high, wide) = shape.rows, shape.reads, shape.parts, shape.stores
    channels, vectors = shape.channels, shape.channels * shape.beside  # of outputs, in a row

    @vector_code(isa, dtype, "x[] xf plane C band[] block[] taps[] even odd w[] wf wc y[] yf bias[] least. add", returns=True)
    def slab(v: Vectors, x, xf, plane, C, band, block, taps, even, odd, w, wf, wc, y, yf, bias, least, add):  # type: ignore[no-untyped-def]
        builder, entry = v.builder, functools.partial(_entry, v)

        def column(at, source, offsets, factors, count, totals):  # type: ignore[no-untyped-def]
            sources = [v.at(source, entry(at), (f, xf)) for f in range(1 if shape.shared else channels)]
            there = [entry(at, 1 + part) for part in range(parts)]
            places = [entry(offsets, r) for r in range(count * shape.taps)]
            weights = [[v.splat(builder.load(v.at(factors, place, (f, wf)))) for place in places] for f in range(channels)]
            for j, loaded in _rows(v, shape, band, sources, there, count):
                step = shape.fold * shape.down
                used = [(o, j - o * step) for o in range(rows) if 0 <= j - o * step < shape.taps]
                for (o, r), i, n in itertools.product(used, range(vectors), range(count)):
                    f, part = divmod(i, shape.beside)
                    factor, value = weights[f][n * shape.taps + r], loaded[0 if shape.shared else f][max(n, part)]
                    totals[o * vectors + i] = v.fma(factor, value, totals[o * vectors + i])
                changed = [o * vectors + i for o, _ in used for i in range(vectors)]
                for place, value in zip(changed, v.here([totals[place] for place in changed]), strict=True):
                    totals[place] = value
            return totals

        def summed(at, offsets, count, columns, totals):  # type: ignore[no-untyped-def]
            """Add ``columns`` times ``count`` columns of taps of all channels."""

            def channel(c, totals):  # type: ignore[no-untyped-def]
                source, factors = v.at(x, (c, plane)), v.at(w, (c, wc))

                def step(n, totals):  # type: ignore[no-untyped-def]
                    return column(v.at(at, (n, 1 + parts)), source, v.at(offsets, (n, count * shape.taps)), factors, count, totals)

                return v.loop(columns, totals, step)

            return v.loop(C, totals, channel)

        totals, at = [v.zero] * (rows * vectors), v.at(block, 1 + wide)
        if shape.pairs:
            totals = summed(at, taps, 2, even, totals)
        behind, rest = (v.at(at, (even, 1 + parts)), v.at(taps, (even, (1 + shape.pairs) * shape.taps))) if shape.pairs or shape.woven else (at, taps)
        if shape.woven:
            totals = summed(at, taps, 1, even, totals)
            pairs = zip(totals, summed(behind, rest, 1, odd, [v.zero] * (rows * vectors)), strict=True)
            halves = [[half + n // 2 + n % 2 * v.width for n in range(v.width)] for half in (0, v.width // 2)]
            totals = [v.shuffle(a, b, lanes) for a, b in pairs for lanes in halves]
        elif shape.single:
            totals = summed(behind, rest, 1, odd, totals)
        added, lowest, check = [v.splat(builder.load(v.at(bias, f))) for f in range(channels)], v.splat(least), []
        there = [entry(block, 1 + n) for n in range(wide)]
        target = v.at(y, entry(block))
        for o, part in itertools.product(range(rows), range(high)):
            place, present = (entry(band, 2 * reads + table * rows * high + o * high + part) for table in range(2))
            for f, n in itertools.product(range(channels), range(wide)):
                older = added[f]
                if shape.adds:
                    mask = builder.and_(v.mask(present, there[n]), v.nonzero(add))
                    older = builder.select(v.nonzero(add), v.load(v.at(target, place, (f, yf)), n, mask), older)
                value = v.add(totals[(o * channels + f) * wide + n], older)
                check += [value] if part == 0 else []
                value = builder.select(builder.fcmp_ordered("<", value, lowest), lowest, value)
                v.store(value, v.at(target, place, (f, yf)), n, bits=(present, there[n]))
        while len(check) > 1:
            check = [v.add(*pair) for pair in zip(check[::2], check[1::2], strict=False)] + check[len(check) // 2 * 2 :]
        return v.any(builder.fcmp_unordered("uno", builder.fsub(check[0], check[0]), v.zero))

    return slab


@functools.cache
def slab_dots(isa: Isa, dtype: np.dtype[Any], shape: Slab) -> Any:
    """Return a compiled-code function that adds a slab's part of the sums of wgrad, all its taps.

    The arguments are (x, xi, xf, plane, C, band, bi, block, ki, even, odd, dy, yi, yf, sums, si, soon, soon_too), the tables those of `slab`. Each
    of the vectors sums[channel, column of taps, filter, row of the filter] is added to; their lanes are for the caller to add up. The caches are
    asked for what lies ``soon`` elements ahead in x and ``soon_too`` in dy.
    """
    filters, taps, reads, (high, _) = shape.channels, shape.taps, shape.reads, shape.stores

    @vector_code(isa, dtype, "x[] xf plane C band[] block[] even odd dy[] yf sums[] soon soon_too")
    def slab_dots(v: Vectors, x, xf, plane, C, band, block, even, odd, dy, yf, sums, soon, soon_too):  # type: ignore[no-untyped-def]
        builder, size = v.builder, filters * taps * v.width
        target, lanes = v.at(dy, _entry(v, block)), _entry(v, block, 1)

        def slope(o, f, part):  # type: ignore[no-untyped-def]
            place, present = (_entry(v, band, 2 * reads + (table * shape.rows + o) * high + part) for table in range(2))
            at = v.at(target, place, (f, yf))
            v.prefetch(v.at(at, soon_too))
            return v.load(at, 0, v.mask(present, lanes))

        slopes = [[slope(o, f, 0) for f in range(filters)] for o in range(shape.rows)]
        for part in range(1, high):  # each has lanes of its own
            slopes = [[v.add(slopes[o][f], slope(o, f, part)) for f in range(filters)] for o in range(shape.rows)]

        def column(at, source, to, count, ahead):  # type: ignore[no-untyped-def]
            sources = [v.at(source, _entry(v, at), (f, xf)) for f in range(1 if shape.shared else filters)]
            there = [_entry(v, at, 1 + part) for part in range(shape.parts)]
            places = [(n, f, r) for n in range(count) for f in range(filters) for r in range(taps)]
            totals = {place: v.load(to, i) for i, place in enumerate(places)}
            for j, loaded in _rows(v, shape, band, sources, there, count, ahead):
                step = shape.fold * shape.down
                used = [(o, (n, f, j - o * step)) for o in range(shape.rows) for n, f, r in places if r == j - o * step]
                for o, place in used:
                    n, f, _ = place
                    totals[place] = v.fma(slopes[o][f], loaded[0 if shape.shared else f][n], totals[place])
                changed = [place for _, place in used]
                totals |= zip(changed, v.here([totals[place] for place in changed]), strict=True)
            for i, place in enumerate(places):
                v.store(totals[place], to, i)

        def channel(c, _):  # type: ignore[no-untyped-def]
            source, at = v.at(x, (c, plane)), v.at(block, 2)
            columns = builder.add(builder.mul(even, I64(2)), odd) if shape.pairs else even
            to = v.at(sums, (c, columns, size))
            for wanted, count, columns in ((shape.pairs, 2, even), (shape.single, 1, odd if shape.pairs else even)):
                if wanted:

                    def step(n, _, at=at, to=to, count=count):  # type: ignore[no-untyped-def]
                        ahead = soon if count == 2 or not shape.pairs else None
                        column(v.at(at, (n, 1 + shape.parts)), source, v.at(to, (n, count * size)), count, ahead)
                        return []

                    v.loop(columns, [], step)
                    at, to = v.at(at, (columns, 1 + shape.parts)), v.at(to, (columns, count * size))
            return []

        v.loop(C, [], channel)

    return slab_dots


@functools.cache
def lane_sums(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (vectors, vi, count, out, oi) -> None: out[oi + n] = the sum of the n-th vector's lanes.

    It takes ``count`` ≥ 1 squares of as many vectors as lanes.
    """

    @vector_code(isa, dtype, "vectors[] count out[]")
    def lane_sums(v: Vectors, vectors, count, out):  # type: ignore[no-untyped-def]
        alternate = [list(range(n, 2 * v.width, 2)) for n in range(2)]

        def square(k, _):  # type: ignore[no-untyped-def]
            values = [v.load(v.at(vectors, (k, v.width * v.width)), n) for n in range(v.width)]
            while len(values) > 1:  # sums of neighbouring lanes, of one vector and then of the next
                values = [v.add(*(v.shuffle(a, b, lanes) for lanes in alternate)) for a, b in zip(values[::2], values[1::2], strict=True)]
            v.store(values[0], v.at(out, (k, v.width)))
            return []

        v.loop(count, [], square)

    return lane_sums
