"""Micro-kernels of `winograd`: transforms of a tile, squares transposed in registers, products with any strides."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv.cpu._simd import Isa


def _scalar(dtype: np.dtype[Any]) -> Any:
    return ir.FloatType() if dtype == np.float32 else ir.DoubleType()


def _integer(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


class _Emitter:
    """Vectors of one type in a function that is being written."""

    def __init__(self, context: Any, builder: Any, dtype: np.dtype[Any], width: int) -> None:
        self.context, self.builder, self.dtype, self.width = context, builder, dtype, width
        self.vector, self.indices = ir.VectorType(_scalar(dtype), width), ir.VectorType(ir.IntType(64), width)
        self.suffix = f"v{width}{'f32' if dtype == np.float32 else 'f64'}"

    def data(self, array_type: Any, array: Any) -> Any:
        """Return the pointer to an array's first element."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def pointer(self, base: Any, offset: Any) -> Any:
        """Return base + offset elements, as a pointer to a vector."""
        return self.builder.bitcast(self.builder.gep(base, [offset]), self.vector.as_pointer())

    def load(self, base: Any, offset: Any) -> Any:
        """Load a vector, aligned or not."""
        return self.builder.load(self.pointer(base, offset), align=self.dtype.itemsize)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """Store a vector, aligned or not."""
        self.builder.store(value, self.pointer(base, offset), align=self.dtype.itemsize)

    def spread(self, value: Any, kind: Any) -> Any:
        """Return a vector of one value."""
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def between(self, first: Any, last: Any) -> Any:
        """Return the mask of the lanes first ≤ lane < last."""
        lanes = ir.Constant(self.indices, list(range(self.width)))
        above = self.builder.icmp_signed(">=", lanes, self.spread(first, self.indices))
        return self.builder.and_(above, self.builder.icmp_signed("<", lanes, self.spread(last, self.indices)))

    def masked(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call llvm.masked.load or llvm.masked.store; lanes outside the mask are not touched."""
        kind = ir.FunctionType(result, [a.type for a in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.masked.{name}.{self.suffix}.p0")
        return self.builder.call(function, arguments)

    def load_lanes(self, base: Any, offset: Any, mask: Any) -> Any:
        """Load the lanes of the mask, zeros elsewhere."""
        zero = ir.Constant(self.vector, [ir.Constant(_scalar(self.dtype), 0.0)] * self.width)
        align = ir.Constant(ir.IntType(32), self.dtype.itemsize)
        return self.masked("load", self.vector, self.pointer(base, offset), align, mask, zero)

    def store_lanes(self, value: Any, base: Any, offset: Any, mask: Any) -> None:
        """Store the lanes of the mask."""
        align = ir.Constant(ir.IntType(32), self.dtype.itemsize)
        self.masked("store", ir.VoidType(), value, self.pointer(base, offset), align, mask)

    def prefetch(self, base: Any, offset: Any, write: bool) -> None:
        """Ask for a cache line that will soon be read or written; an address outside of the array does no harm."""
        kind, word = ir.FunctionType(ir.VoidType(), [base.type, *[ir.IntType(32)] * 3]), ir.IntType(32)
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(function, [self.builder.gep(base, [offset]), *(ir.Constant(word, n) for n in (int(write), 2, 1))])

    def transpose(self, rows: list[Any]) -> list[Any]:
        """Transpose width × width elements: log₂(width) rounds, each of which interleaves the halves of the list."""
        half, n = self.width // 2, self.width
        masks = [[start + i // 2 + n * (i % 2) for i in range(n)] for start in (0, half)]
        low, high = (ir.Constant(ir.VectorType(ir.IntType(32), n), mask) for mask in masks)
        for _ in range(n.bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [self.builder.shuffle_vector(a, b, mask) for a, b in pairs for mask in (low, high)]
        return rows


class Term:
    """A vector in a formula: sums, differences and multiples of it are written as such, and contracted to multiply-adds."""

    def __init__(self, emitter: _Emitter, value: Any) -> None:
        self.emitter, self.value = emitter, value

    def __add__(self, other: Term) -> Term:
        return Term(self.emitter, self.emitter.builder.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: Term) -> Term:
        return Term(self.emitter, self.emitter.builder.fsub(self.value, other.value, flags=("contract",)))

    def __rmul__(self, factor: float) -> Term:
        constant = ir.Constant(self.value.type, [ir.Constant(_scalar(self.emitter.dtype), factor)] * self.emitter.width)
        return Term(self.emitter, self.emitter.builder.fmul(constant, self.value, flags=("contract",)))


Formula = Callable[[list[Term]], list[Term]]


@functools.cache
def transform_tile(isa: Isa, dtype: np.dtype[Any], vertical: tuple[int, Formula], horizontal: tuple[int, Formula]) -> Any:
    """Return a compiled-code function (source, si, sr, sc, out, oi, or_, oc) -> None that transforms the same tile of many channels.

    Element (i, j) of the tile is the vector at source[si + i·sr + j·sc], and likewise of the result. ``vertical`` and
    ``horizontal`` are the tile's size along an axis and what becomes of a list of that many vectors.
    """
    width = isa.width(dtype)

    @intrinsic
    def transform(typing, source, si, sr, sc, out, oi, or_, oc):  # type: ignore[no-untyped-def]
        signature = types.void(source, *[types.int64] * 3, out, *[types.int64] * 3)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit = _Emitter(context, builder, dtype, width)

            def place(start, row, column, i, j):  # type: ignore[no-untyped-def]
                return builder.add(start, builder.add(builder.mul(row, _integer(i)), builder.mul(column, _integer(j))))

            x, y = emit.data(signature.args[0], arguments[0]), emit.data(signature.args[4], arguments[4])
            columns = []
            for j in range(horizontal[0]):
                loaded = [Term(emit, emit.load(x, place(*arguments[1:4], i, j))) for i in range(vertical[0])]
                columns.append(vertical[1](loaded))
            for i, row in enumerate(zip(*columns, strict=True)):
                for j, term in enumerate(horizontal[1](list(row))):
                    emit.store(term.value, y, place(*arguments[5:8], i, j))
            return context.get_dummy_value()

        return signature, generate

    return transform


@functools.cache
def load_transposed(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (source, at, stride, rows, first, last, ahead, out, to) -> None for a square of vectors.

    It computes out[to + j·width + r] = source[at + min(r, rows − 1)·stride + j] for first ≤ j < last, zeros for other j,
    and prefetches what lies ``ahead`` elements behind each row.
    """
    width = isa.width(dtype)

    @intrinsic
    def load(typing, source, at, stride, rows, first, last, ahead, out, to):  # type: ignore[no-untyped-def]
        signature = types.void(source, *[types.int64] * 6, out, types.int64)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit = _Emitter(context, builder, dtype, width)
            _, at, stride, rows, first, last, ahead, _, to = arguments
            x, y = emit.data(signature.args[0], arguments[0]), emit.data(signature.args[7], arguments[7])
            mask, last_row, loaded = emit.between(first, last), builder.sub(rows, _integer(1)), []
            for r in range(width):
                row = builder.select(builder.icmp_signed("<", _integer(r), rows), _integer(r), last_row)
                place = builder.add(at, builder.mul(row, stride))
                loaded.append(emit.load_lanes(x, place, mask))
                emit.prefetch(x, builder.add(place, ahead), False)
            for j, value in enumerate(emit.transpose(loaded)):
                emit.store(value, y, builder.add(to, _integer(j * width)))
            return context.get_dummy_value()

        return signature, generate

    return load


@functools.cache
def store_transposed(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (source, at, out, to, stride, rows, last, ahead) -> None for a square of vectors.

    It computes out[to + r·stride + j] = source[at + j·width + r] for r < rows and j < last, and prefetches what lies ``ahead``
    elements behind each row.
    """
    width = isa.width(dtype)

    @intrinsic
    def store(typing, source, at, out, to, stride, rows, last, ahead):  # type: ignore[no-untyped-def]
        signature = types.void(source, types.int64, out, *[types.int64] * 5)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit = _Emitter(context, builder, dtype, width)
            _, at, _, to, stride, rows, last, ahead = arguments
            x, y = emit.data(signature.args[0], arguments[0]), emit.data(signature.args[2], arguments[2])
            values = emit.transpose([emit.load(x, builder.add(at, _integer(j * width))) for j in range(width)])
            for r, value in enumerate(values):
                inside = builder.icmp_signed("<", _integer(r), rows)
                here = builder.select(inside, last, _integer(0))
                place = builder.add(to, builder.mul(stride, builder.select(inside, _integer(r), _integer(0))))  # no page that may be missing
                emit.store_lanes(value, y, place, emit.between(_integer(0), here))
                emit.prefetch(y, builder.add(place, ahead), True)
            return context.get_dummy_value()

        return signature, generate

    return store


@functools.cache
def copy_lanes(isa: Isa, dtype: np.dtype[Any], load: bool) -> Any:
    """Return a compiled-code function (source, at, out, to, lanes) -> None that copies the first lanes of a vector.

    With ``load`` it writes a whole vector, zeros behind the lanes, and else nothing behind them.
    """
    width = isa.width(dtype)

    @intrinsic
    def copy(typing, source, at, out, to, lanes):  # type: ignore[no-untyped-def]
        signature = types.void(source, types.int64, out, types.int64, types.int64)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit = _Emitter(context, builder, dtype, width)
            _, at, _, to, lanes = arguments
            x, y = emit.data(signature.args[0], arguments[0]), emit.data(signature.args[2], arguments[2])
            mask = emit.between(_integer(0), lanes)
            if load:
                emit.store(emit.load_lanes(x, at, mask), y, to)
            else:
                emit.store_lanes(emit.load(x, at), y, to, mask)
            return context.get_dummy_value()

        return signature, generate

    return copy


@functools.cache
def multiply_strided(isa: Isa, dtype: np.dtype[Any], vectors: int) -> Any:
    """Return a compiled-code function (panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more) -> None for count ≥ 1.

    It computes out[oi + r·os + l] = Σ_k rows[ri + r·rr + k·rs] · panel[pi + k·ps + l] over count steps of k, for isa.rows rows
    and ``vectors`` vectors of lanes; with ``more``, the sum is added to what is there.
    """
    height, width = isa.rows, isa.width(dtype)

    @intrinsic
    def multiply(typing, panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more):  # type: ignore[no-untyped-def]
        signature = types.void(panel, *[types.int64] * 2, rows, *[types.int64] * 4, out, *[types.int64] * 3)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit = _Emitter(context, builder, dtype, width)
            _, pi, ps, _, ri, rr, rs, count, _, oi, os, more = arguments
            p, w, y = (emit.data(signature.args[i], arguments[i]) for i in (0, 3, 8))
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(emit.vector, [emit.vector] * 3), f"llvm.fmuladd.{emit.suffix}")
            before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("sums")
            offsets = [builder.mul(rr, _integer(r)) for r in range(height)]
            starts = [builder.gep(p, [pi]), builder.gep(w, [ri])]
            builder.branch(loop)
            builder.position_at_end(loop)
            k, x, v = (builder.phi(kind) for kind in (ir.IntType(64), p.type, w.type))
            sums = [builder.phi(emit.vector) for _ in range(height * vectors)]
            lanes = [emit.load(x, _integer(n * width)) for n in range(vectors)]
            results = []
            for r in range(height):
                factor = emit.spread(builder.load(builder.gep(v, [offsets[r]])), emit.vector)
                results += [builder.call(fma, [factor, lanes[n], sums[r * vectors + n]]) for n in range(vectors)]
            following = builder.add(k, _integer(1))
            zero = ir.Constant(emit.vector, [ir.Constant(_scalar(dtype), 0.0)] * width)
            steps = [following, builder.gep(x, [ps]), builder.gep(v, [rs]), *results]
            for phi, first, later in zip((k, x, v, *sums), (_integer(0), *starts, *[zero] * len(sums)), steps, strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            builder.position_at_end(after)
            places = [builder.add(oi, builder.add(builder.mul(os, _integer(r)), _integer(n * width))) for r in range(height) for n in range(vectors)]
            with builder.if_else(builder.icmp_signed("!=", more, _integer(0))) as (then, otherwise):
                with then:
                    for place, value in zip(places, results, strict=True):
                        emit.store(builder.fadd(emit.load(y, place), value), y, place)
                with otherwise:
                    for place, value in zip(places, results, strict=True):
                        emit.store(value, y, place)
            return context.get_dummy_value()

        return signature, generate

    return multiply
