"""Register-tile micro-kernels: the only place that emits LLVM IR.

`multiply` keeps ROWS × VECTORS accumulators in vector registers over one loop: VECTORS loads and ROWS broadcasts feed
ROWS·VECTORS multiply-adds. LLVM's own vectoriser spills such a tile; written as phi nodes it runs at the speed of the FMA units.
`store` and `transpose` are what surrounds it.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I64, I32, I1, VOID = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.VoidType()


@dataclass(frozen=True)
class Isa:
    """An instruction set as a tile sees it: the bytes of a vector and the shape that fills its registers."""

    name: str
    vector_bytes: int
    rows: int
    vectors: int
    stencil_rows: tuple[int, ...]  # of a stencil's tile, one vector wide

    def width(self, dtype: np.dtype[Any]) -> int:
        """Elements of a vector."""
        return self.vector_bytes // dtype.itemsize

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Elements of a tile's row."""
        return self.vectors * self.vector_bytes // dtype.itemsize


# Accumulators + loaded vectors + one broadcast must fit the registers: 32 of 64 bytes, 16 of 32, 32 of 16, and 16 of 16 (SSE2).
ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 64, 8, 3, (14, 7, 4)),
        Isa("avx2", 32, 4, 3, (7, 4)),
        Isa("neon", 16, 8, 3, (14, 7, 4)),
        Isa("portable", 16, 4, 2, (7, 4)),
    )
}


@functools.cache
def host() -> Isa:
    """Return the widest instruction set of this CPU."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return ISAS["avx512"]
    if features.get("avx2") and features.get("fma"):
        return ISAS["avx2"]
    return ISAS["neon" if platform.machine() in ("aarch64", "arm64") else "portable"]


class _Code:
    """What the intrinsics of one vector type share."""

    def __init__(self, isa: Isa, dtype: np.dtype[Any]) -> None:
        self.width, self.size = isa.width(dtype), dtype.itemsize
        self.scalar = ir.FloatType() if dtype == np.float32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.width)
        self.bits = ir.VectorType(I1, self.width)
        self.suffix = f"v{self.width}{'f32' if dtype == np.float32 else 'f64'}"
        self.zero = ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.width)

    def pointer(self, context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
        """Return the address of array[index]."""
        return builder.gep(context.make_array(kind)(context, builder, array).data, [index])

    def load(self, builder: Any, pointer: Any, v: int = 0) -> Any:
        """Load the v-th vector behind a pointer that need not be aligned."""
        return builder.load(self._cast(builder, pointer, v), align=self.size)

    def save(self, builder: Any, value: Any, pointer: Any, v: int = 0) -> None:
        """Store the v-th vector behind a pointer."""
        builder.store(value, self._cast(builder, pointer, v), align=self.size)

    def _cast(self, builder: Any, pointer: Any, v: int) -> Any:
        return builder.bitcast(builder.gep(pointer, [I64(v * self.width)]), self.vector.as_pointer())

    def first(self, builder: Any, count: Any) -> Any:
        """Return a mask of the first ``count`` lanes: none of a negative count, all of one above W."""
        lanes = ir.Constant(ir.VectorType(I32, self.width), list(range(self.width)))
        return builder.icmp_signed("<", lanes, self.splat(builder, builder.trunc(count, I32)))

    def load_some(self, builder: Any, pointer: Any, mask: Any) -> Any:
        """Load the lanes of a mask, 0 in the others, which are not touched."""
        pointer = builder.bitcast(pointer, self.vector.as_pointer())
        return self.call(builder, f"llvm.masked.load.{self.suffix}.p0", self.vector, pointer, I32(self.size), mask, self.zero)

    def save_some(self, builder: Any, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes of a mask."""
        pointer = builder.bitcast(pointer, self.vector.as_pointer())
        self.call(builder, f"llvm.masked.store.{self.suffix}.p0", VOID, value, pointer, I32(self.size), mask)

    def splat(self, builder: Any, value: Any) -> Any:
        """Return a vector of one value."""
        undefined = ir.Constant(ir.VectorType(value.type, self.width), ir.Undefined)
        zeros = ir.Constant(ir.VectorType(I32, self.width), [0] * self.width)
        return builder.shuffle_vector(builder.insert_element(undefined, value, I32(0)), undefined, zeros)

    def here(self, builder: Any, values: list[Any]) -> list[Any]:
        """Return the values unchanged, computed before any load that follows, and not in an unrolled loop.

        LLVM would load the factors of all rows first, or unroll, and then spill accumulators: half the speed. The assembly has
        no instruction, it only takes the values through registers.
        """
        letter = {"x86_64": "v", "AMD64": "v", "aarch64": "w", "arm64": "w"}.get(platform.machine())
        if letter is None:
            return values
        kinds = [value.type for value in values]
        result = kinds[0] if len(values) == 1 else ir.LiteralStructType(kinds)
        constraints = ",".join([f"={letter}"] * len(values) + [str(n) for n in range(len(values))] + ["~{memory}"])
        through = builder.asm(ir.FunctionType(result, kinds), "", constraints, values, True)
        through.attributes.add("convergent")
        return [through] if len(values) == 1 else [builder.extract_value(through, n) for n in range(len(values))]

    def call(self, builder: Any, name: str, result: Any, *arguments: Any) -> Any:
        """Call an LLVM intrinsic (llvmlite's own declarations take no vector types)."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@functools.cache
def multiply(isa: Isa, dtype: np.dtype[Any], vectors: int) -> Any:
    """Return a compiled-code function (a, ai, row, valid, a_steps, as, b, bi, b_steps, bs, count, tile, ti, add) -> None.

    Over ``count`` ≥ 1 steps k it computes, for each of ROWS rows r and W·``vectors`` lanes l,

        tile[ti + r·L + l] = Σ_k a[ai + r·row + a_steps[as + k]] · b[bi + b_steps[bs + k] + l]        (added to it if ``add``)

    Rows from ``valid`` on repeat the last valid one.
    """
    code, rows = _Code(isa, dtype), isa.rows

    @intrinsic
    def multiply(typing, a, ai, row, valid, a_steps, a_step, b, bi, b_steps, b_step, count, tile, ti, add):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(a, i, i, i, a_steps, i, b, i, b_steps, i, i, tile, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            a, b, a_steps, b_steps, out = (
                code.pointer(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 6, 4, 8, 11)
            )
            row, valid, count, add = (arguments[n] for n in (2, 3, 10, 13))
            last = builder.sub(valid, I64(1))
            row_at = [builder.mul(row, builder.select(builder.icmp_signed("<", I64(r), valid), I64(r), last)) for r in range(rows)]
            before = builder.block
            loop, fresh, old, end = (builder.append_basic_block(n) for n in ("step", "fresh", "old", "end"))
            builder.branch(loop)
            builder.position_at_end(loop)
            k, sums = builder.phi(I64), [builder.phi(code.vector) for _ in range(rows * vectors)]
            a, b = (builder.gep(base, [builder.load(builder.gep(steps, [k]))]) for base, steps in ((a, a_steps), (b, b_steps)))
            loads = [code.load(builder, b, v) for v in range(vectors)]
            results = []
            for r in range(rows):
                factor = code.splat(builder, builder.load(builder.gep(a, [row_at[r]]) if r else a))
                for v in range(vectors):
                    results.append(code.call(builder, f"llvm.fmuladd.{code.suffix}", code.vector, factor, loads[v], sums[r * vectors + v]))
                results[-vectors:] = code.here(builder, results[-vectors:])
            following = builder.add(k, I64(1))
            for phi, first, later in zip((k, *sums), (I64(0), *[code.zero] * len(sums)), (following, *results), strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            done = builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
            builder.position_at_end(done)
            builder.cbranch(builder.icmp_signed("==", add, I64(0)), fresh, old)
            for block, older in ((fresh, False), (old, True)):
                builder.position_at_end(block)
                for n, value in enumerate(results):
                    code.save(builder, builder.fadd(value, code.load(builder, out, n)) if older else value, out, n)
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return signature, generate

    return multiply


@functools.cache
def store(isa: Isa, dtype: np.dtype[Any], per_lane: bool) -> Any:
    """Return a compiled-code function (tile, ti, y, yi, mask, bias, bi, relu) -> whether a stored value was not finite.

    It stores the lanes of tile[ti : ti + W] that ``mask`` has bits for, side by side from y[yi] on: with bias[bi] added (or
    bias[bi + lane], if ``per_lane``) and negative ones replaced by 0 if ``relu``.
    """
    code = _Code(isa, dtype)

    @intrinsic
    def store(typing, tile, ti, y, yi, mask, bias, bi, relu):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.int64(tile, i, y, i, i, bias, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            tile, y, bias = (code.pointer(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 2, 5))
            bits, integer = arguments[4], ir.IntType(code.width)
            mask = builder.bitcast(builder.trunc(bits, integer), code.bits)
            shift = code.load(builder, bias) if per_lane else code.splat(builder, builder.load(bias))
            value = builder.fadd(code.load(builder, tile), shift)
            difference = builder.fsub(value, value)  # 0, or NaN for what is not finite
            broken = builder.bitcast(builder.and_(builder.fcmp_unordered("uno", difference, code.zero), mask), integer)
            negative = builder.and_(builder.fcmp_ordered("<", value, code.zero), code.splat(builder, builder.icmp_signed("!=", arguments[7], I64(0))))
            value = builder.select(negative, code.zero, value)
            value = code.call(
                builder, f"llvm.experimental.vector.compress.{code.suffix}", code.vector, value, mask, ir.Constant(code.vector, ir.Undefined)
            )
            count = builder.zext(builder.ctpop(builder.trunc(bits, integer)), I64)
            code.save_some(builder, value, y, code.first(builder, count))
            return builder.zext(builder.icmp_unsigned("!=", broken, integer(0)), I64)

        return signature, generate

    return store


@functools.cache
def store_all(isa: Isa, dtype: np.dtype[Any], per_lane: bool, vectors: int) -> Any:
    """Return `store` for all lanes of ``vectors`` neighbouring vectors: (tile, ti, y, yi, bias, bi, relu) -> whether one was not finite."""
    code = _Code(isa, dtype)

    @intrinsic
    def store_all(typing, tile, ti, y, yi, bias, bi, relu):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.int64(tile, i, y, i, bias, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            tile, y, bias = (code.pointer(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 2, 4))
            one = None if per_lane else code.splat(builder, builder.load(bias))
            relu = code.splat(builder, builder.icmp_signed("!=", arguments[6], I64(0)))
            broken = ir.Constant(code.bits, [0] * code.width)
            for v in range(vectors):
                value = builder.fadd(code.load(builder, tile, v), code.load(builder, bias, v) if per_lane else one)
                broken = builder.or_(broken, builder.fcmp_unordered("uno", builder.fsub(value, value), code.zero))
                negative = builder.and_(builder.fcmp_ordered("<", value, code.zero), relu)
                code.save(builder, builder.select(negative, code.zero, value), y, v)
            bits = builder.bitcast(broken, ir.IntType(code.width))
            return builder.zext(builder.icmp_unsigned("!=", bits, bits.type(0)), I64)

        return signature, generate

    return store_all


@functools.cache
def transpose(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (x, xi, row, rows, columns, y, yi, column) -> None.

    For r < min(rows, W) and l < min(columns, W) it stores y[yi + l·column + r] = x[xi + r·row + l].
    """
    code = _Code(isa, dtype)
    width = code.width

    @intrinsic
    def transpose(typing, x, xi, row, rows, columns, y, yi, column):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(x, i, i, i, i, y, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x, y = (code.pointer(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 5))
            row, rows, columns, column = (arguments[n] for n in (2, 3, 4, 7))
            in_rows, in_columns, none = code.first(builder, rows), code.first(builder, columns), ir.Constant(code.bits, [0] * width)
            vectors = []
            for r in range(width):
                here = builder.select(builder.icmp_signed("<", I64(r), rows), in_columns, none)
                vectors.append(code.load_some(builder, builder.gep(x, [builder.mul(row, I64(r))]), here))
            half = width // 2
            while half:  # exchange the off-diagonal quarters of each square of 2·half
                upper = [n // half % 2 * width + n - n // half % 2 * half for n in range(width)]
                lower = [n // half % 2 * width + n + (1 - n // half % 2) * half for n in range(width)]
                for r in range(width):
                    if r // half % 2 == 0:
                        pair = vectors[r], vectors[r + half]
                        vectors[r], vectors[r + half] = (
                            builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, width), order)) for order in (upper, lower)
                        )
                half //= 2
            for r, vector in enumerate(vectors):
                here = builder.select(builder.icmp_signed("<", I64(r), columns), in_rows, none)
                code.save_some(builder, vector, builder.gep(y, [builder.mul(column, I64(r))]), here)
            return context.get_dummy_value()

        return signature, generate

    return transpose


@functools.cache
def move(isa: Isa, dtype: np.dtype[Any], stride: int) -> Any:
    """Return a compiled-code function (x, xi, y, yi, start, stop, count) -> None, for a stride of 1 or 2.

    For l < min(count, W) it stores y[yi + l] = x[xi + l·stride] where start ≤ l < stop, and 0 elsewhere.
    """
    code = _Code(isa, dtype)

    @intrinsic
    def move(typing, x, xi, y, yi, start, stop, count):  # type: ignore[no-untyped-def]
        i = types.int64
        signature = types.void(x, i, y, i, i, i, i)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            x, y = (code.pointer(context, builder, signature.args[n], arguments[n], arguments[n + 1]) for n in (0, 2))
            start, stop = builder.mul(arguments[4], I64(stride)), builder.sub(builder.mul(arguments[5], I64(stride)), I64(stride - 1))
            parts = []
            for v in range(stride):
                low, high = (code.first(builder, builder.sub(end, I64(v * code.width))) for end in (start, stop))
                parts.append(code.load_some(builder, builder.gep(x, [I64(v * code.width)]), builder.and_(high, builder.not_(low))))
            value = parts[0]
            if stride == 2:
                even = ir.Constant(ir.VectorType(I32, code.width), list(range(0, 2 * code.width, 2)))
                value = builder.shuffle_vector(*parts, even)
            code.save_some(builder, value, y, code.first(builder, arguments[6]))
            return context.get_dummy_value()

        return signature, generate

    return move


@intrinsic
def prefetch(typing, array, index):  # type: ignore[no-untyped-def]
    """Ask for the 4 cache lines from array[index] on, which may lie outside, to be brought to L2."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(VOID, [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for line in range(4):
            builder.call(function, [builder.gep(pointer, [I64(64 * line)]), I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


# What Winograd's transforms are made of: whole vectors, loaded, combined and stored at strides.
