"""Micro-kernels of `stencil`: a tile of outputs that stays in registers while all taps pass, dot products for wgrad, moves of rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv.cpu._simd import I32, I64, Isa, _Code

STENCIL_ROWS = 7  # rows of outputs of a slab: with two vectors each, and a factor per tap, they fit 32 registers


class _Vectors:
    """Writes one machine vector's loads, stores and multiply-adds into a function that is being generated."""

    def __init__(self, context: Any, builder: Any, isa: Isa, dtype: np.dtype[Any]) -> None:
        self.context, self.builder, self.align = context, builder, dtype.itemsize
        self.width = isa.vector_bytes // dtype.itemsize
        self.scalar = ir.FloatType() if dtype == np.float32 else ir.DoubleType()
        self.type = ir.VectorType(self.scalar, self.width)
        self.suffix = f"v{self.width}{'f32' if dtype == np.float32 else 'f64'}"
        self._fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.type, [self.type] * 3), f"llvm.fmuladd.{self.suffix}")
        self.zero = ir.Constant(self.type, [ir.Constant(self.scalar, 0.0)] * self.width)

    def at(self, array_type: Any, array: Any, index: Any) -> Any:
        """Return the address of an element of an array argument."""
        return self.builder.gep(self.context.make_array(array_type)(self.context, self.builder, array).data, [index])

    def load(self, pointer: Any, count: Any = None) -> Any:
        """Return a vector, or its first ``count`` lanes and zeros; a count may be negative or too large."""
        if count is None:
            return self.builder.load(self.builder.bitcast(pointer, self.type.as_pointer()), align=self.align)
        return self.masked("load", self.type, [pointer, int32(self.align), self.mask(count), self.zero])

    def store(self, value: Any, pointer: Any, count: Any = None) -> None:
        """Write a vector, or its first ``count`` lanes."""
        if count is None:
            self.builder.store(value, self.builder.bitcast(pointer, self.type.as_pointer()), align=self.align)
        else:
            self.masked("store", ir.VoidType(), [value, pointer, int32(self.align), self.mask(count)])

    def mask(self, count: Any) -> Any:
        """Return which lanes are below the count."""
        indices = ir.VectorType(ir.IntType(64), self.width)
        one = self.builder.insert_element(ir.Constant(indices, ir.Undefined), count, int32(0))
        counts = self.shuffle(one, ir.Constant(indices, ir.Undefined), [0] * self.width)
        return self.builder.icmp_signed("<", ir.Constant(indices, list(range(self.width))), counts)

    def masked(self, what: str, result: Any, arguments: list[Any]) -> Any:
        """Call LLVM's masked load or store."""
        pointer = arguments.index(next(a for a in arguments if isinstance(a.type, ir.PointerType)))
        arguments[pointer] = self.builder.bitcast(arguments[pointer], self.type.as_pointer())
        name = f"llvm.masked.{what}.{self.suffix}.p0"
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def splat(self, pointer: Any) -> Any:
        """Return a vector of one element, repeated."""
        one = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), self.builder.load(pointer), int32(0))
        return self.shuffle(one, ir.Constant(self.type, ir.Undefined), [0] * self.width)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.call(self._fma, [a, b, c])

    def read_if(self, condition: Any, pointers: list[Any]) -> list[Any]:
        """Return what the pointers point to, or zeros unless the condition holds."""
        builder = self.builder
        before = builder.block
        with builder.if_then(condition):
            values = [self.load(pointer) for pointer in pointers]
            read = builder.block
        phis = [builder.phi(self.type) for _ in pointers]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(self.zero, before)
            phi.add_incoming(value, read)
        return phis

    def loop(self, count: Any, initial: list[Any], body: Any) -> list[Any]:
        """Run body(k, sums) -> sums for k below count ≥ 1, the sums in registers, and return them."""
        builder = self.builder
        before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, phis = builder.phi(ir.IntType(64)), [builder.phi(self.type) for _ in initial]
        results = body(k, list(phis))
        following = builder.add(k, int64(1))
        for phi, first, later in zip((k, *phis), (int64(0), *initial), (following, *results), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        builder.position_at_end(after)
        return results


def int32(value: int) -> Any:
    """Return a constant."""
    return ir.Constant(ir.IntType(32), value)


def int64(value: int) -> Any:
    """Return a constant."""
    return ir.Constant(ir.IntType(64), value)


@functools.cache
def stencil_tile(isa: Isa, dtype: np.dtype[Any], rows: int, taps: int, shared: bool) -> Any:
    """Return a compiled-code function (x, xi, xstep, columns, ci, count, weights, wi, out, oi, ostep, add) -> None for count ≥ 1.

    out[oi + b·ostep + l] (+)= Σ_m Σ_t weights[m, t] · x[xi + columns[ci + m] + (b + t)·xstep + l] for ``rows`` rows b, ``count``
    columns m of ``taps`` taps t each and the lanes l of one vector; weights[m, t] is one element from wi on if they are
    ``shared`` by the lanes, a vector otherwise; ``add`` says whether out is added to. Each loaded vector feeds up to ``taps`` rows.
    """

    @intrinsic
    def stencil(typing, x, xi, xstep, columns, ci, count, weights, wi, out, oi, ostep, add):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(x, i, i, columns, i, i, weights, i, out, i, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x, xi, xstep, columns, ci, count, weights, wi, out, oi, ostep, add = arguments
            v = _Vectors(context, builder, isa, dtype)
            source, table = v.at(signature.args[0], x, xi), v.at(signature.args[3], columns, ci)
            factors, target = v.at(signature.args[6], weights, wi), v.at(signature.args[8], out, oi)
            size = 1 if shared else v.width

            def column(k, sums):  # type: ignore[no-untyped-def]
                start = builder.gep(source, [builder.load(builder.gep(table, [k]))])
                first = builder.gep(factors, [builder.mul(k, int64(taps * size))])
                read = v.splat if shared else v.load
                w = [read(builder.gep(first, [int64(t * size)])) for t in range(taps)]
                for row in range(rows + taps - 1):
                    values = v.load(builder.gep(start, [builder.mul(xstep, int64(row))]))
                    for t in range(max(0, row - rows + 1), min(taps, row + 1)):
                        sums[row - t] = v.fma(w[t], values, sums[row - t])
                return sums

            targets = [builder.gep(target, [builder.mul(ostep, int64(b))]) for b in range(rows)]
            initial = v.read_if(builder.icmp_signed("!=", add, int64(0)), targets)
            for value, pointer in zip(v.loop(count, initial, column), targets, strict=True):
                v.store(value, pointer)
            return context.get_dummy_value()

        return signature, generate

    return stencil


@functools.cache
def stencil_dots(isa: Isa, dtype: np.dtype[Any], rows: int, taps: int) -> Any:
    """Return a compiled-code function (x, xi, dy, di, step, places, pi, count, sums, si) -> None for count ≥ 1.

    sums[si + t·L + l] += Σ_m Σ_b dy[di + places[1, pi + m] + b·step + l] · x[xi + places[0, pi + m] + (b + t)·step + l] for ``taps`` taps
    t and the L lanes l of one vector, over ``count`` places m and ``rows`` rows b: a place's rows of dy stay in registers.
    """
    sets = -(-8 // taps)  # sums of a tap, so that one multiply-add need not wait for the one before

    @intrinsic
    def dots(typing, x, xi, dy, di, step, places, pi, count, sums, si):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(x, i, dy, i, i, places, i, i, sums, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x, xi, dy, di, step, places, pi, count, sums, si = arguments
            v = _Vectors(context, builder, isa, dtype)
            source, slopes = v.at(signature.args[0], x, xi), v.at(signature.args[2], dy, di)
            width = builder.extract_value(context.make_array(signature.args[5])(context, builder, places).shape, 1)
            tables = [v.at(signature.args[5], places, index) for index in (pi, builder.add(pi, width))]
            target = v.at(signature.args[8], sums, si)

            def place(k, totals):  # type: ignore[no-untyped-def]
                at = [builder.load(builder.gep(table, [k])) for table in tables]
                start, first = builder.gep(source, [at[0]]), builder.gep(slopes, [at[1]])
                d = [v.load(builder.gep(first, [builder.mul(step, int64(b))])) for b in range(rows)]
                for row in range(rows + taps - 1):
                    values = v.load(builder.gep(start, [builder.mul(step, int64(row))]))
                    for t in range(max(0, row - rows + 1), min(taps, row + 1)):
                        n = t * sets + (row - t) % sets
                        totals[n] = v.fma(d[row - t], values, totals[n])
                return totals

            totals = v.loop(count, [v.zero] * (taps * sets), place)
            for t in range(taps):
                parts = totals[t * sets : (t + 1) * sets]
                while len(parts) > 1:
                    parts = [builder.fadd(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + parts[len(parts) // 2 * 2 :]
                pointer = builder.gep(target, [int64(t * v.width)])
                v.store(builder.fadd(v.load(pointer), parts[0]), pointer)
            return context.get_dummy_value()

        return signature, generate

    return dots


@functools.cache
def move(isa: Isa, dtype: np.dtype[Any], step: int = 1) -> Any:
    """Return a compiled-code function (source, si, out, oi, n, shift) -> None: out[oi + i] = source[si + i·step] + shift for i < n.

    ``step`` is 1 or 2. Written as masked vectors, since rows are often shorter than what LLVM would unroll.
    """

    @intrinsic
    def row(typing, source, si, out, oi, n, shift):  # type: ignore[no-untyped-def]
        signature = types.void(source, types.int64, out, types.int64, types.int64, source.dtype)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, si, out, oi, n, shift = arguments
            v = _Vectors(context, builder, isa, dtype)
            first, to = v.at(signature.args[0], source, si), v.at(signature.args[2], out, oi)
            one = builder.insert_element(ir.Constant(v.type, ir.Undefined), shift, int32(0))
            shift = v.shuffle(one, ir.Constant(v.type, ir.Undefined), [0] * v.width)

            def part(start, count):  # type: ignore[no-untyped-def]
                """Move ``count`` elements, a vector of them if None."""
                at = builder.gep(first, [builder.mul(start, int64(step))])
                if step == 1:
                    value = v.load(at, count)
                else:
                    halves = [builder.sub(builder.mul(count, int64(2)), int64(1 + h * v.width)) if count else None for h in (0, 1)]
                    low = v.load(at, halves[0])
                    high = v.load(builder.gep(at, [int64(v.width)]), halves[1] if count else int64(v.width - 1))
                    value = v.shuffle(low, high, list(range(0, 2 * v.width, 2)))
                v.store(builder.fadd(value, shift), builder.gep(to, [start]), count)

            rest = builder.and_(n, int64(v.width - 1))
            with cgutils.for_range(builder, builder.ashr(n, int64(v.width.bit_length() - 1))) as loop:
                part(builder.mul(loop.index, int64(v.width)), None)
            with builder.if_then(builder.icmp_signed("!=", rest, int64(0))):
                part(builder.sub(n, rest), rest)
            return context.get_dummy_value()

        return signature, generate

    return row


@functools.cache
def prefetch(write: bool) -> Any:
    """Return a compiled-code function (array, index) -> None that asks for a cache line, to be written to or read; any index will do."""

    @intrinsic
    def ask(typing, array, index):  # type: ignore[no-untyped-def]
        signature = types.void(array, types.int64)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            pointer = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
            pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, *[ir.IntType(32)] * 3])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [pointer, int32(int(write)), int32(3), int32(1)])
            return context.get_dummy_value()

        return signature, generate

    return ask


@functools.cache
def transpose(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (source, si, sstep, rows, count, out, oi, ostep, columns, length) -> None for a square of L lanes.

    out[oi + j·ostep + i] = source[si + i·sstep + j] for i < length and j < columns, where rows from ``rows`` on repeat the last and
    columns from ``count`` on are zeros.
    """

    @intrinsic
    def turn(typing, source, si, sstep, rows, count, out, oi, ostep, columns, length):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(source, i, i, i, i, out, i, i, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, si, sstep, rows, count, out, oi, ostep, columns, length = arguments
            v = _Vectors(context, builder, isa, dtype)
            first, to = v.at(signature.args[0], source, si), v.at(signature.args[5], out, oi)

            def row(start, step, number, last):  # type: ignore[no-untyped-def]
                kept = builder.select(builder.icmp_signed("<", int64(number), last), int64(number), builder.sub(last, int64(1)))
                return builder.gep(start, [builder.mul(kept, step)])

            values = [v.load(row(first, sstep, n, rows), count) for n in range(v.width)]
            half = v.width // 2
            while half:  # exchange the off-diagonal quarters of squares of 2·half
                low = [lane if not lane & half else lane - half + v.width for lane in range(v.width)]
                high = [lane + half if not lane & half else lane + v.width for lane in range(v.width)]
                pairs = [(n, n + half) for n in range(v.width) if not n & half]
                turned = {}
                for a, b in pairs:
                    turned[a], turned[b] = v.shuffle(values[a], values[b], low), v.shuffle(values[a], values[b], high)
                values = [turned[n] for n in range(v.width)]
                half //= 2
            for n in reversed(range(v.width)):  # those past the last are overwritten by it
                v.store(values[n], row(to, ostep, n, columns), length)
            return context.get_dummy_value()

        return signature, generate

    return turn


@functools.cache
def slab(isa: Isa, dtype: np.dtype[Any], taps: int, down: int, across: int, vectors: int, edge: bool) -> Any:
    """Return a compiled-code function for ROWS × ``vectors`` vectors of one channel's outputs, over all channels of x and all taps.

    ``taps`` are the filter's rows, ``down`` and ``across`` (1 or 2) the strides, and ``edge`` says that rows of x may be missing
    (they and the columns outside of 0 … W − 1 count as zeros). The arguments are
    (x, xi, pitch, plane, h, H, column, W, dilation, S, C, w, wi, step, wc, y, yi, y_pitch, rows, columns, shift, relu):
    x[xi] is row h, column 0 of the first channel, ``column`` the first lane's column (negative in the padding), the tap (r, s) of
    channel c is w[wi + c·wc + (r·S + s)·step], and ``rows`` × ``columns`` outputs are stored from y[yi] on, ``shift`` added and
    negative ones replaced by 0 if ``relu``. It returns whether one of them is not finite.
    """
    rows = STENCIL_ROWS
    code = _Code(isa, dtype)
    width = code.width

    @intrinsic
    def slab(typing, x, xi, pitch, plane, h, H, column, W, dilation, S, C, w, wi, step, wc,  # type: ignore[no-untyped-def]
             y, yi, y_pitch, valid, columns, shift, relu):  # fmt: skip
        i = types.int64
        scalar = types.float32 if dtype == np.float32 else types.float64
        signature = types.int64(x, *[i] * 10, w, *[i] * 3, y, *[i] * 4, scalar, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x, w, y = (code.pointer(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 11, 15))
            pitch, plane, h, H, column, W, dilation, S, C = arguments[2:11]
            step, wc = arguments[13:15]
            y_pitch, valid, columns, shift, relu = arguments[17:22]
            before, loop, end = builder.block, builder.append_basic_block("tap"), builder.append_basic_block("sums")
            integer, none = ir.IntType(width), ir.Constant(code.bits, [0] * width)
            present = []  # all bits, or none, for each row of x
            for j in range((rows - 1) * down + taps if edge else 0):
                present.append(builder.sext(builder.icmp_unsigned("<", builder.add(h, I64(j)), H), integer))
            builder.branch(loop)
            builder.position_at_end(loop)
            n, s, xo, wo = (builder.phi(I64) for _ in range(4))
            sums = [[builder.phi(code.vector) for _ in range(vectors)] for _ in range(rows)]
            at = builder.add(column, builder.mul(s, dilation))  # the column of the first lane
            factors = []
            for r in range(taps):
                offset = builder.add(wo, builder.mul(builder.mul(S, I64(r)), step))
                factors.append(code.splat(builder, builder.load(builder.gep(w, [offset]))))
            masks = []
            for v in range(vectors * across):
                low, high = (code.first(builder, builder.sub(bound, builder.add(at, I64(v * width)))) for bound in (I64(0), W))
                masks.append(builder.and_(high, builder.not_(low)))
            totals = [list(row) for row in sums]
            for j in range((rows - 1) * down + taps):
                place = builder.add(xo, builder.add(builder.mul(pitch, I64(j)), at))
                if edge:  # no load from a page that may be missing, not even of no lane, which takes long
                    place = builder.select(
                        builder.icmp_signed("!=", present[j], integer(0)), place, builder.add(xo, builder.mul(pitch, builder.neg(h)))
                    )
                loaded = []
                for v in range(vectors * across):
                    mask = builder.bitcast(builder.and_(present[j], builder.bitcast(masks[v], integer)), code.bits) if edge else masks[v]
                    loaded.append(code.load_some(builder, builder.gep(x, [builder.add(place, I64(v * width))]), mask))
                if across == 2:
                    even = ir.Constant(ir.VectorType(I32, width), list(range(0, 2 * width, 2)))
                    loaded = [builder.shuffle_vector(*loaded[2 * v : 2 * v + 2], even) for v in range(vectors)]
                used = [(o, j - o * down) for o in range(rows) if 0 <= j - o * down < taps]
                for o, r in used:
                    for v in range(vectors):
                        totals[o][v] = code.call(builder, f"llvm.fmuladd.{code.suffix}", code.vector, factors[r], loaded[v], totals[o][v])
                kept = iter(code.here(builder, [totals[o][v] for o, _ in used for v in range(vectors)])) if used else iter(())
                for o, _ in used:
                    totals[o] = [next(kept) for _ in range(vectors)]
            wrap = builder.icmp_signed("==", builder.add(s, I64(1)), S)
            following = builder.add(n, I64(1))
            back = builder.mul(step, builder.sub(S, I64(1)))
            later = (
                following,
                builder.select(wrap, I64(0), builder.add(s, I64(1))),
                builder.select(wrap, builder.add(xo, plane), xo),
                builder.select(wrap, builder.add(builder.sub(wo, back), wc), builder.add(wo, step)),
            )
            for phi, value in zip((n, s, xo, wo), later, strict=True):
                phi.add_incoming(I64(0), before)
                phi.add_incoming(value, loop)
            for phis, values in zip(sums, totals, strict=True):
                for phi, value in zip(phis, values, strict=True):
                    phi.add_incoming(code.zero, before)
                    phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, builder.mul(S, C)), loop, end)
            builder.position_at_end(end)
            added, positive = code.splat(builder, shift), code.splat(builder, builder.icmp_signed("!=", relu, I64(0)))
            broken = none
            for o in range(rows):
                there = builder.icmp_signed("<", I64(o), valid)
                place = builder.select(there, builder.mul(y_pitch, I64(o)), I64(0))
                for v in range(vectors):
                    mask = builder.select(there, code.first(builder, builder.sub(columns, I64(v * width))), none)
                    value = builder.fadd(totals[o][v], added)
                    strange = builder.fcmp_unordered("uno", builder.fsub(value, value), code.zero)
                    broken = builder.or_(broken, builder.and_(strange, mask))
                    negative = builder.and_(builder.fcmp_ordered("<", value, code.zero), positive)
                    value = builder.select(negative, code.zero, value)
                    code.save_some(builder, value, builder.gep(y, [builder.add(place, I64(v * width))]), mask)
            bits = builder.bitcast(broken, ir.IntType(width))
            return builder.zext(builder.icmp_unsigned("!=", bits, bits.type(0)), I64)

        return signature, generate

    return slab
