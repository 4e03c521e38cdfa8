"""Vector code that moves what kernels read: copies, transposes, and the packing of operands into panels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cpu._emit import I64, Vectors, vector_code
from numbaconv.cpu._isa import Isa

AHEAD = 4  # vectors between what `transpose` reads and what it asks the caches for


@functools.cache
def move(isa: Isa, dtype: np.dtype[Any], stride: int) -> Any:
    """Return a compiled-code function (x, xi, y, yi, start, stop, count) -> None, for a stride that is a power of 2, at most W.

    For l < min(count, W) it stores y[yi + l] = x[xi + l·stride] where start ≤ l < stop, and 0 elsewhere.
    """

    @vector_code(isa, dtype, "x[] y[] start stop count")
    def move(v: Vectors, x, y, start, stop, count):  # type: ignore[no-untyped-def]
        builder, width = v.builder, I64(v.width)

        def moved(some):  # type: ignore[no-untyped-def]
            low, high = builder.mul(start, I64(stride)), builder.sub(builder.mul(stop, I64(stride)), I64(stride - 1))
            parts = []
            for n in range(stride):
                ends = (builder.sub(end, I64(n * v.width)) for end in (low, high))
                parts.append(v.load(x, n, v.between(*ends) if some else None))
            while len(parts) > 1:
                parts = [v.shuffle(a, b, list(range(0, 2 * v.width, 2))) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            v.store(parts[0], y, mask=v.first(count) if some else None)

        if v.masks == "registers":
            moved(True)
            return
        # Without registers for masks they cost more than the moves; the elements behind the last are not touched.
        within = [(start, "<=", I64(0)), (stop, ">=" if stride == 1 else ">", width), (count, ">=", width)]
        whole = functools.reduce(builder.and_, [builder.icmp_signed(sign, value, bound) for value, sign, bound in within])
        with builder.if_else(whole) as (then, otherwise):
            with then:
                moved(False)
            with otherwise:
                moved(True)

    return move


@functools.cache
def move_lines(isa: Isa, dtype: np.dtype[Any], stride: int) -> Any:
    """Return a compiled-code function (x, xi, y, yi, table, ti, count, ahead) -> None for count ≥ 1 lines of a vector, in the order of the table.

    A line's entries are s, d, the bits of the lanes of y that are stored, and of those that are loaded, for ``stride`` vectors of x:
    y[yi + d + l] = x[xi + s + l·stride], 0 where that is not loaded. It asks the caches for what lies ``ahead`` elements behind.
    """

    @vector_code(isa, dtype, "x[] y[] table[] count ahead")
    def move_lines(v: Vectors, x, y, table, count, ahead):  # type: ignore[no-untyped-def]
        def line(k, _):  # type: ignore[no-untyped-def]
            entries = v.at(table, (k, 3 + stride))
            source, target, stored, *loaded = (v.builder.load(v.at(entries, n)) for n in range(3 + stride))
            for n in range(stride):
                v.prefetch(v.at(x, source, ahead, n * v.width))
            parts = [v.load(v.at(x, source), n, v.mask(bits)) for n, bits in enumerate(loaded)]
            while len(parts) > 1:
                parts = [v.shuffle(a, b, list(range(0, 2 * v.width, 2))) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            v.store(parts[0], v.at(y, target), bits=(stored,))
            return []

        v.loop(count, [], line)

    return move_lines


@functools.cache
def move_phases(isa: Isa, dtype: np.dtype[Any], stride: int) -> Any:
    """Return a compiled-code function (x, xi, y, yi, table, ti, count, ahead, apart) -> None for count ≥ 1 lines of all phases of a stride.

    A line's entries are those of `move_lines`, the lanes that are loaded those of neighbouring vectors: for the phases f < stride,
    y[yi + d + f·apart + l] = x[xi + s + l·stride + f], 0 where that is not loaded.
    """

    @vector_code(isa, dtype, "x[] y[] table[] count ahead apart")
    def move_phases(v: Vectors, x, y, table, count, ahead, apart):  # type: ignore[no-untyped-def]
        def phases(parts: list[Any]) -> list[Any]:
            if len(parts) == 1:
                return parts
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            halves = [phases([v.shuffle(a, b, list(range(odd, 2 * v.width, 2))) for a, b in pairs]) for odd in range(2)]
            return [value for pair in zip(*halves, strict=True) for value in pair]

        def line(k, _):  # type: ignore[no-untyped-def]
            entries = v.at(table, (k, 3 + stride))
            source, target, stored, *loaded = (v.builder.load(v.at(entries, n)) for n in range(3 + stride))
            for n in range(stride):
                v.prefetch(v.at(x, source, ahead, n * v.width))
            for phase, value in enumerate(phases([v.load(v.at(x, source), n, v.mask(bits)) for n, bits in enumerate(loaded)])):
                v.store(value, v.at(y, target, (phase, apart)), bits=(stored,))
            return []

        v.loop(count, [], line)

    return move_phases


@functools.cache
def move_pairs(isa: Isa, dtype: np.dtype[Any], stride: int, length: int) -> Any:
    """Return a compiled-code function (x, xi, y, yi, table, ti, count, ahead) -> None for count ≥ 1 pairs of lines, in the order of the table.

    Lines are ``length`` ≤ W/2 elements of (length − 1)·stride < W. A pair's entries are s, t, d, the bits of the lanes of y that are stored, and
    of those of x that are loaded for either line: y[yi + d + l] = x[xi + s + l·stride], y[yi + d + length + l] = x[xi + t + l·stride], 0 where
    that is not loaded. It asks the caches for what lies ``ahead`` elements behind.
    """
    lanes = [first + n * stride for first in (0, isa.width(dtype)) for n in range(length)]

    @vector_code(isa, dtype, "x[] y[] table[] count ahead")
    def move_pairs(v: Vectors, x, y, table, count, ahead):  # type: ignore[no-untyped-def]
        def pair(k, _):  # type: ignore[no-untyped-def]
            entries = v.at(table, (k, 6))
            first, second, target, stored, *loaded = (v.builder.load(v.at(entries, n)) for n in range(6))
            for source in (first, second):
                v.prefetch(v.at(x, source, ahead))
            a, b = (v.load(v.at(x, source), 0, v.mask(bits)) for source, bits in zip((first, second), loaded, strict=True))
            v.store(v.shuffle(a, b, lanes + lanes[-1:] * (v.width - len(lanes))), v.at(y, target), bits=(stored,))
            return []

        v.loop(count, [], pair)

    return move_pairs


@functools.cache
def transpose(isa: Isa, dtype: np.dtype[Any], whole: bool = False) -> Any:
    """Return a compiled-code function (x, xi, row, rows, columns, y, yi, column) -> None.

    For r < min(rows, W) and l < min(columns, W) it stores y[yi + l·column + r] = x[xi + r·row + l], and if ``whole`` zeros for other r < W.
    """

    @vector_code(isa, dtype, "x[] row rows columns y[] column")
    def transpose(v: Vectors, x, row, rows, columns, y, column):  # type: ignore[no-untyped-def]
        builder, in_rows, in_columns = v.builder, v.first(rows), v.first(columns)
        vectors = []
        for r in range(v.width):
            here = builder.select(builder.icmp_signed("<", I64(r), rows), in_columns, v.none)
            vectors.append(v.load(v.at(x, (row, r)), mask=here))
            v.prefetch(v.at(x, (row, r), AHEAD * v.width))
        for r, vector in enumerate(v.transpose(vectors)):
            here = builder.select(builder.icmp_signed("<", I64(r), columns), v.first(I64(v.width)) if whole else in_rows, v.none)
            v.store(vector, v.at(y, (column, r)), mask=here)

    return transpose


@functools.cache
def load_transposed(isa: Isa, dtype: np.dtype[Any], height: int) -> Any:
    """Return a compiled-code function (source, at, stride, rows, first, last, ahead, out, to) -> None for ``height`` vectors.

    For r < height and j < W it stores out[to + j·height + r] = source[at + min(r, rows − 1)·stride + j] if first ≤ j < last, zeros for
    other j, and prefetches what lies ``ahead`` elements behind each row.
    """

    @vector_code(isa, dtype, "source[] stride rows first last ahead out[]")
    def load(v: Vectors, source, stride, rows, first, last, ahead, out):  # type: ignore[no-untyped-def]
        mask, last_row, loaded = v.between(first, last), v.builder.sub(rows, I64(1)), []
        for r in range(height):
            row = v.at(source, (v.builder.select(v.builder.icmp_signed("<", I64(r), rows), I64(r), last_row), stride))
            loaded.append(v.load(row, mask=mask))
            v.prefetch(v.at(row, ahead), level=2)
        for j, value in enumerate(v.transpose(loaded)):
            v.store(value, out, j)

    return load


@functools.cache
def pack_apart(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (a, ai, row, valid, panel, ti) -> None for a step of rows that are apart.

    For ROWS rows r it stores panel[ti + r] = a[ai + min(r, valid − 1)·row].
    """

    @vector_code(isa, dtype, "a[] row valid panel[]")
    def pack_apart(v: Vectors, a, row, valid, panel):  # type: ignore[no-untyped-def]
        for r, value in enumerate([v.builder.load(here) for here in v.rows(a, row, valid)]):
            v.builder.store(value, v.at(panel, r))

    return pack_apart


@functools.cache
def pack_near(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (a, ai, row, valid, bits, ahead, panel, ti) -> None for steps near each other.

    For the k-th bit that is set in ``bits``, bit j < W of them, and ROWS rows r it stores panel[ti + k·ROWS + r] = a[ai + min(r, valid − 1)·row + j],
    and asks for what lies ``ahead`` elements behind each row. Nothing beyond those steps is touched.
    """
    rows = isa.rows

    @vector_code(isa, dtype, "a[] row valid bits ahead panel[]")
    def pack_near(v: Vectors, a, row, valid, bits, ahead, panel):  # type: ignore[no-untyped-def]
        builder, there, loaded = v.builder, v.mask(bits), []
        count = builder.mul(builder.ctpop(bits), I64(rows))
        for here in v.rows(a, row, valid):
            loaded.append(v.compress(v.load(here, mask=there), bits))
            v.prefetch(v.at(here, ahead))
        for j, value in enumerate(v.transpose(loaded)):
            v.store(value, panel, j, mask=v.first(builder.sub(count, I64(j * v.width))))

    return pack_near


@functools.cache
def gather(isa: Isa, dtype: np.dtype[Any], vectors: int) -> Any:
    """Return a compiled-code function (b, bi, places, pi, b_steps, bs, count, panel, ti) -> None.

    Over ``count`` ≥ 1 steps k it stores b[bi + places[pi + v] + b_steps[bs + k] :] as the vectors panel[ti + (k·VECTORS + v)·W :].
    """

    @vector_code(isa, dtype, "b[] places[] b_steps[] count panel[]")
    def gather(v: Vectors, b, places, b_steps, count, panel):  # type: ignore[no-untyped-def]
        builder = v.builder
        sources = [v.at(b, builder.load(builder.gep(places, [I64(n)]))) for n in range(vectors)]

        def step(k, _):  # type: ignore[no-untyped-def]
            at, to = builder.load(builder.gep(b_steps, [k])), v.at(panel, (k, vectors * v.width))
            for n, value in enumerate([v.load(v.at(source, at)) for source in sources]):
                v.store(value, to, n)
            return []

        v.loop(count, [], step)

    return gather


@functools.cache
def pack_beside(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (a, ai, a_steps, as, valid, count, panel, ti) -> None for rows that are neighbours.

    For ``count`` ≥ 1 steps k and ROWS rows r it stores panel[ti + k·ROWS + r] = a[ai + a_steps[as + k] + r]. Rows from ``valid`` on repeat
    the last valid one. Up to a vector behind the last may be written.
    """
    rows = isa.rows

    @vector_code(isa, dtype, "a[] a_steps[] valid count panel[]")
    def pack_beside(v: Vectors, a, a_steps, valid, count, panel):  # type: ignore[no-untyped-def]
        builder, vectors, last = v.builder, -(-rows // v.width), v.builder.sub(valid, I64(1))
        masks = [v.first(builder.sub(valid, I64(n * v.width))) for n in range(vectors)]

        def step(k, _):  # type: ignore[no-untyped-def]
            here, to = builder.gep(a, [builder.load(builder.gep(a_steps, [k]))]), v.at(panel, (k, rows))
            others = v.splat(builder.load(builder.gep(here, [last])))
            for n in range(vectors):
                v.store(v.load(here, n, mask=masks[n], others=others), to, n)
            return []

        v.loop(count, [], step)

    return pack_beside


@functools.cache
def pack_blocks(isa: Isa, dtype: np.dtype[Any], blocks: int) -> Any:
    """Return a compiled-code function (a, ai, a_steps, as, count, times, panel, ti, pitch) -> None for blocks of rows that are all neighbours.

    For ``count`` ≥ 1 steps k, ROWS rows r and each block n of ``times`` ≥ 1 times as many as ``blocks`` it stores

        panel[ti + n·pitch + k·ROWS + r] = a[ai + a_steps[as + k] + n·ROWS + r],

    step after step, so that a is read in long runs.
    """
    rows = isa.rows

    @vector_code(isa, dtype, "a[] a_steps[] count times panel[] pitch")
    def pack_blocks(v: Vectors, a, a_steps, count, times, panel, pitch):  # type: ignore[no-untyped-def]
        builder, mask = v.builder, v.first(I64(rows))

        def step(k, _):  # type: ignore[no-untyped-def]
            start = builder.gep(a, [builder.load(builder.gep(a_steps, [k]))])

            def some(time, _):  # type: ignore[no-untyped-def]
                here = v.at(start, (time, blocks * rows))
                vectors = [v.load(here, n) for n in range(-(-blocks * rows // v.width))]
                for row in range(0, blocks * rows, min(rows, v.width)):
                    value, lane = vectors[row // v.width], row % v.width
                    if lane:
                        value = v.shuffle(value, value, [(lane + n) % v.width for n in range(v.width)])
                    to = v.at(panel, (k, rows), (pitch, time, blocks), (pitch, row // rows), row % rows)
                    v.store(value, to, mask=mask if v.width > rows else None)
                return []

            v.loop(times, [], some)
            return []

        v.loop(count, [], step)

    return pack_blocks
