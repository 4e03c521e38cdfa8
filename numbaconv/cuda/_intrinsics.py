"""The primitives of kernels as LLVM code for GPUs; `_twins` says the same in Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

I32 = ir.IntType(32)
int32 = types.int32
SLAB = 8


def _address(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Return the address of an element of a pointer argument or a shared array."""
    base = memory if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, memory).data
    element = context.get_data_type(kind.dtype)
    return builder.gep(builder.bitcast(base, element.as_pointer(base.type.addrspace)), [builder.zext(index, ir.IntType(64))])


def _load(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> list[Any]:
    """Load four neighbours, as vectors of 16 bytes."""
    element = context.get_data_type(kind.dtype)
    width = 16 // context.get_abi_sizeof(element)
    values = []
    for first in range(0, 4, width):
        vector = ir.VectorType(element, width)
        at = _address(context, builder, kind, memory, builder.add(index, I32(first)))
        loaded = builder.load(builder.bitcast(at, vector.as_pointer(at.type.addrspace)))
        loaded.align = 16
        values += [builder.extract_element(loaded, I32(i)) for i in range(width)]
    return values


def _forgotten(builder: Any, value: Any) -> Any:
    """Copy a value so that LLVM doesn't know it."""
    return builder.asm(ir.FunctionType(I32, [I32]), "mov.u32 $0, $1;", "=r,r", [value], side_effect=True)


def _fma(builder: Any, element: Any) -> Callable[..., Any]:
    """Return the function that emits a·b + c."""
    function = builder.module.declare_intrinsic("llvm.fma", [element], ir.FunctionType(element, [element] * 3))
    return lambda a, b, c: builder.call(function, [a, b, c])


def _element(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Load one element."""
    return builder.load(_address(context, builder, kind, memory, index))


@intrinsic
def load4(typingctx, memory, index):  # type: ignore[no-untyped-def]
    """Return memory[index : index + 4]; the address is a multiple of 16 bytes."""
    result = types.UniTuple(memory.dtype, 4)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return context.make_tuple(builder, result, _load(context, builder, memory, *args))

    return result(memory, types.int32), codegen


def _further(builder: Any, address: Any, step: Any, count: int = 1) -> Any:
    """Return the address some steps further on: a constant distance, for a constant step, is part of the instruction that uses it."""
    return builder.gep(address, [builder.zext(builder.mul(step, I32(count)), ir.IntType(64))])


@intrinsic
def peek(typingctx, memory, index, further):  # type: ignore[no-untyped-def]
    """Return memory[index + further], which costs no addition if ``further`` is constant."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, at, by = args
        return builder.load(_further(builder, _address(context, builder, memory, source, at), by))

    return memory.dtype(memory, types.int32, types.int32), codegen


@intrinsic
def poke(typingctx, memory, index, further, value):  # type: ignore[no-untyped-def]
    """Set memory[index + further] = value, which costs no addition if ``further`` is constant."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, at, by, given = args
        builder.store(given, _further(builder, _address(context, builder, memory, target, at), by))
        return context.get_dummy_value()

    return types.void(memory, types.int32, types.int32, memory.dtype), codegen


@intrinsic
def load2(typingctx, memory, index, further):  # type: ignore[no-untyped-def]
    """Return two neighbours at index + further, both even; a constant ``further`` costs no addition."""
    result = types.UniTuple(memory.dtype, 2)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, at, by = args
        element = context.get_data_type(memory.dtype)
        address = _further(builder, _address(context, builder, memory, source, at), by)
        loaded = builder.load(builder.bitcast(address, ir.VectorType(element, 2).as_pointer(address.type.addrspace)))
        loaded.align = 2 * context.get_abi_sizeof(element)
        return context.make_tuple(builder, result, [builder.extract_element(loaded, I32(i)) for i in range(2)])

    return result(memory, types.int32, types.int32), codegen


def _store(context: Any, builder: Any, kind: Any, memory: Any, index: Any, given: Any, count: int) -> Any:
    """Store neighbours, as vectors of 16 bytes or of all that there are."""
    element = context.get_data_type(kind.dtype)
    width = min(count, 16 // context.get_abi_sizeof(element))
    for first in range(0, count, width):
        vector = ir.Constant(ir.VectorType(element, width), ir.Undefined)
        for i in range(width):
            vector = builder.insert_element(vector, builder.extract_value(given, first + i), I32(i))
        at = _address(context, builder, kind, memory, builder.add(index, I32(first)))
        stored = builder.store(vector, builder.bitcast(at, vector.type.as_pointer(at.type.addrspace)))
        stored.align = width * context.get_abi_sizeof(element)
    return context.get_dummy_value()


@intrinsic
def store4(typingctx, memory, index, values):  # type: ignore[no-untyped-def]
    """Set memory[index : index + 4] = values; the address is a multiple of 16 bytes."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _store(context, builder, memory, *args, 4)

    return types.void(memory, types.int32, values), codegen


@intrinsic
def store2(typingctx, memory, index, values):  # type: ignore[no-untyped-def]
    """Set memory[index : index + 2] = values; the index is even."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _store(context, builder, memory, *args, 2)

    return types.void(memory, types.int32, values), codegen


def _planes(context: Any, builder: Any, kind: Any, memory: Any, plane: Any, at: Any) -> tuple[Any, Any]:
    """Return the addresses of one element in two planes."""
    real = _address(context, builder, kind, memory, at)
    return real, _further(builder, real, plane, 1)


@intrinsic
def spread(typingctx, memory, plane, at, step, values):  # type: ignore[no-untyped-def]
    """Set memory[at + i·step] and memory[plane + at + i·step] to the real and the imaginary part of the i-th value, a pair."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, second, first, by, given = args
        for part, start in enumerate(_planes(context, builder, memory, target, second, first)):
            for i in range(values.count):
                builder.store(builder.extract_value(given, [i, part]), _further(builder, start, by, i))
        return context.get_dummy_value()

    return types.void(memory, types.int32, types.int32, types.int32, values), codegen


@intrinsic
def gathered(typingctx, memory, plane, at, one, two):  # type: ignore[no-untyped-def]
    """Return 16 complex numbers, as pairs, of two planes: the i-th at at + (i div 2)·two + (i mod 2)·one."""
    pair = types.UniTuple(memory.dtype, 2)
    result = types.UniTuple(pair, 16)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, second, first, by, by_two = args
        starts = _planes(context, builder, memory, source, second, first)
        addresses = [[_further(builder, _further(builder, start, by_two, i // 2), by, i % 2) for start in starts] for i in range(16)]
        found = [[builder.load(address) for address in pair_of] for pair_of in addresses]
        return context.make_tuple(builder, result, [context.make_tuple(builder, pair, parts) for parts in found])

    return result(memory, types.int32, types.int32, types.int32, types.int32), codegen


@intrinsic
def raise_flag(typingctx, memory, index):  # type: ignore[no-untyped-def]
    """Set memory[index] = 1; several threads may do so at once."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(context.get_data_type(memory.dtype)(1), _address(context, builder, memory, *args))
        return context.get_dummy_value()

    return types.void(memory, types.int32), codegen


@functools.cache
def zeros(count: int) -> Any:
    """Return the function that makes a register tile of a zero."""

    @intrinsic
    def make(typingctx, zero):  # type: ignore[no-untyped-def]
        result = types.UniTuple(zero, count)

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return context.make_tuple(builder, result, [args[0]] * count)

        return result(zero), codegen

    return make


tile = zeros(64)


@intrinsic
def multiply_slab(typingctx, acc, a, a_at, a_row, a_half, b, b_at, b_row, b_half):  # type: ignore[no-untyped-def]
    """Return acc + Σ_k outer(a_k, b_k) over the 8 rows of a slab; of a row a_k takes 4 elements at a_at and 4 a_half further on."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        acc_value, a_memory, a_index, a_width, a_step, b_memory, b_index, b_width, b_step = args
        fma, sums = _fma(builder, context.get_value_type(acc.dtype)), [builder.extract_value(acc_value, i) for i in range(64)]
        sides = ((a, a_memory, a_index, a_width, a_step), (b, b_memory, b_index, b_width, b_step))
        for k in range(SLAB):
            rows = []
            for kind, memory, index, width, half in sides:
                at = builder.add(index, builder.mul(width, I32(k)))
                rows.append(_load(context, builder, kind, memory, at) + _load(context, builder, kind, memory, builder.add(at, half)))
            for i in range(8):
                for j in range(8):
                    sums[i * 8 + j] = fma(rows[0][i], rows[1][j], sums[i * 8 + j])
        return context.make_tuple(builder, acc, sums)

    return acc(acc, a, types.int32, types.int32, types.int32, b, types.int32, types.int32, types.int32), codegen


def _window(context: Any, builder: Any, kind: Any, memory: Any, row_at: Any, part_on: Any, width: int, across: int) -> dict[Any, Any]:
    """Load what 4 neighbouring outputs read of a row, by phase and column."""
    window = {}
    for first in range(min(across, width)):
        for quad in range(0, 4 + (width - 1 - first) // across, 4):
            at = builder.add(builder.add(row_at, builder.mul(part_on, I32(first))), I32(quad), flags=("nuw", "nsw"))
            for e, value in enumerate(_load(context, builder, kind, memory, at)):
                window[first, quad + e] = value
    return window


@functools.cache
def correlate(height: int, width: int, down: int, across: int) -> Any:
    """Return the function that adds all taps of a filter to a register tile, 4 rows of 4 neighbouring outputs.

    Of the input in shared memory, rows lie ``pitch`` apart and every ``across``-th column side by side, the next ones ``part`` further on;
    output rows are ``down`` input rows apart. The tile's first column is aligned; w[w_at + r·w_row + s·w_column] are the taps.
    """

    @intrinsic
    def add_taps(typingctx, acc, shared, at, pitch, part, w, w_at, w_row, w_column):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            acc_value, memory, index, row_on, part_on, w_memory, w_index, w_down, w_across = args
            fma = _fma(builder, context.get_value_type(acc.dtype))
            sums, taps = [builder.extract_value(acc_value, i) for i in range(16)], {}
            for r in range(height):
                tap_at = builder.add(w_index, builder.mul(w_down, I32(r)))
                for s in range(width):
                    taps[r, s] = _element(context, builder, w, w_memory, builder.add(tap_at, builder.mul(w_across, I32(s))))
            for i in range(3 * down + height):
                rows = [(j, i - j * down) for j in range(4) if 0 <= i - j * down < height]
                row_at = builder.add(index, builder.mul(row_on, I32(i)))
                window = _window(context, builder, shared, memory, row_at, part_on, width, across) if rows else {}
                for s in range(width):
                    for j, r in rows:
                        for e in range(4):
                            sums[4 * j + e] = fma(window[s % across, s // across + e], taps[r, s], sums[4 * j + e])
            return context.make_tuple(builder, acc, sums)

        i32 = types.int32
        return acc(acc, shared, i32, i32, i32, w, i32, i32, i32), codegen

    return add_taps


@functools.cache
def correlate_last(height: int, width: int, down: int, across: int) -> Any:
    """Return the function that adds all taps of 4 channels' filters to a register tile, 2 rows of 4 outputs of those channels.

    Of the input in shared memory, rows lie ``pitch`` apart and columns ``column``; neighbouring outputs are ``down`` rows and ``across``
    columns of the input apart. Taps lie w_tap apart, row by row, those of the 4 channels side by side.
    """

    @intrinsic
    def add_taps(typingctx, acc, shared, at, pitch, column, w, w_at, w_tap):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            acc_value, memory, index, row_on, column_on, w_memory, w_index, w_on = args
            fma = _fma(builder, context.get_value_type(acc.dtype))
            sums = [builder.extract_value(acc_value, i) for i in range(32)]
            for i in range(down + height):
                rows = [(j, i - j * down) for j in range(2) if 0 <= i - j * down < height]
                row_at, window = builder.add(index, builder.mul(row_on, I32(i))), {}
                if down * height > SLAB:
                    w_index = _forgotten(builder, w_index)  # or taps would be kept from the row of one output to that of the other
                for s in range(width if rows else 0):
                    for q in range(s, s + 3 * across + 1, across):  # no sooner than they are needed: registers are short
                        if q not in window:
                            quad_at = builder.add(row_at, builder.mul(column_on, I32(q)))
                            window[q] = _load(context, builder, shared, memory, quad_at)
                    for j, r in rows:
                        taps = _load(context, builder, w, w_memory, builder.add(w_index, builder.mul(w_on, I32(r * width + s))))
                        for q in range(4):
                            for e in range(4):
                                at = (j * 4 + q) * 4 + e
                                sums[at] = fma(window[q * across + s][e], taps[e], sums[at])
            return context.make_tuple(builder, acc, sums)

        i32 = types.int32
        return acc(acc, shared, i32, i32, i32, w, i32, i32), codegen

    return add_taps


@functools.cache
def correlate_gradient(height: int, width: int, down: int, across: int) -> Any:
    """Return the function that adds, to one sum for each tap, its input times the gradient of each of 4 × 4 outputs.

    The input lies in shared memory as for `correlate`.
    """

    @intrinsic
    def add_outputs(typingctx, acc, shared, at, pitch, part, gradient):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            acc_value, memory, index, row_on, part_on, dy = args
            fma = _fma(builder, context.get_value_type(acc.dtype))
            sums, dy = ([builder.extract_value(value, i) for i in range(n)] for value, n in ((acc_value, height * width), (dy, 16)))
            for i in range(3 * down + height):
                rows = [(j, i - j * down) for j in range(4) if 0 <= i - j * down < height]
                row_at = builder.add(index, builder.mul(row_on, I32(i)))
                window = _window(context, builder, shared, memory, row_at, part_on, width, across) if rows else {}
                for e in range(4):
                    for j, r in rows:
                        for s in range(width):
                            sums[r * width + s] = fma(window[s % across, s // across + e], dy[4 * j + e], sums[r * width + s])
            return context.make_tuple(builder, acc, sums)

        i32 = types.int32
        return acc(acc, shared, i32, i32, i32, gradient), codegen

    return add_outputs


@functools.cache
def correlate_last_gradient(width: int, across: int) -> Any:
    """Return the function that adds, to sums for each tap of a row and each of 4 channels, the input times the gradient of 4 outputs.

    Columns of the input lie ``column`` apart in shared memory, outputs ``across`` of them; their gradients are given output by output.
    """

    @intrinsic
    def add_outputs(typingctx, acc, shared, at, column, gradient):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            acc_value, memory, index, column_on, dy = args
            fma = _fma(builder, context.get_value_type(acc.dtype))
            sums, dy = ([builder.extract_value(value, i) for i in range(n)] for value, n in ((acc_value, 4 * width), (dy, 16)))
            for i in range(3 * across + width):
                pairs = [(q, i - q * across) for q in range(4) if 0 <= i - q * across < width]
                if pairs:
                    values = _load(context, builder, shared, memory, builder.add(index, builder.mul(column_on, I32(i))))
                for q, s in pairs:
                    for e in range(4):
                        sums[4 * s + e] = fma(values[e], dy[4 * q + e], sums[4 * s + e])
            return context.make_tuple(builder, acc, sums)

        return acc(acc, shared, types.int32, types.int32, gradient), codegen

    return add_outputs


@intrinsic
def warp_sums(typingctx, acc):  # type: ignore[no-untyped-def]
    """Return the sums over the lanes of a warp of each element of a tile, in every lane."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        element, i64 = context.get_value_type(acc.dtype), ir.IntType(64)

        def swapped(value, by):  # type: ignore[no-untyped-def]
            return builder.asm(ir.FunctionType(I32, [I32]), f"shfl.sync.bfly.b32 $0, $1, {by}, 0x1f, 0xffffffff;", "=r,r", [value], side_effect=True)

        sums = [builder.extract_value(args[0], i) for i in range(len(acc))]
        for by in (16, 8, 4, 2, 1):
            for i, value in enumerate(sums):
                if acc.dtype == types.float32:
                    other = builder.bitcast(swapped(builder.bitcast(value, I32), by), element)
                else:
                    bits = builder.bitcast(value, i64)
                    low, high = (swapped(builder.trunc(half, I32), by) for half in (bits, builder.lshr(bits, i64(32))))
                    other = builder.bitcast(builder.or_(builder.shl(builder.zext(high, i64), i64(32)), builder.zext(low, i64)), element)
                sums[i] = builder.fadd(value, other)
        return context.make_tuple(builder, acc, sums)

    return acc(acc), codegen


@intrinsic
def store_tile(typingctx, memory, index, values):  # type: ignore[no-untyped-def]
    """Set memory[index : index + n] = the n values."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, index, given = args
        for i in range(len(values)):
            builder.store(builder.extract_value(given, i), _address(context, builder, memory, target, builder.add(index, I32(i))))
        return context.get_dummy_value()

    return types.void(memory, types.int32, values), codegen


@intrinsic
def tap(typingctx, acc, shared, at, pitch, column, weight):  # type: ignore[no-untyped-def]
    """Return acc + weight · shared[at + j·pitch + e·column] for a register tile of 4 × 4 outputs (j, e)."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        acc_value, memory, index, row_on, column_on, factor = args
        fma, sums = _fma(builder, context.get_value_type(acc.dtype)), []
        for i in range(16):
            index_i = builder.add(builder.add(index, builder.mul(row_on, I32(i // 4))), builder.mul(column_on, I32(i % 4)))
            sums.append(fma(_element(context, builder, shared, memory, index_i), factor, builder.extract_value(acc_value, i)))
        return context.make_tuple(builder, acc, sums)

    i32 = types.int32
    return acc(acc, shared, i32, i32, i32, acc.dtype), codegen


@intrinsic
def add_tiles(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Return the sum of two register tiles."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pairs = [[builder.extract_value(value, i) for value in args] for i in range(len(a))]
        return context.make_tuple(builder, a, [builder.fadd(*pair) for pair in pairs])

    return a(a, a), codegen


@intrinsic
def within(typingctx, index, size):  # type: ignore[no-untyped-def]
    """Return 0 <= index < size, as one comparison."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.icmp_unsigned("<", *args)

    return types.boolean(types.int32, types.int32), codegen


@intrinsic
def divide(typingctx, number, by):  # type: ignore[no-untyped-def]
    """Return the quotient and the rest of two numbers that are not negative."""
    result = types.UniTuple(types.int32, 2)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return context.make_tuple(builder, result, [builder.udiv(*args), builder.urem(*args)])

    return result(types.int32, types.int32), codegen


@intrinsic
def forgotten(typingctx, value):  # type: ignore[no-untyped-def]
    """Return the value; what was computed from it before is computed anew rather than kept in registers."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _forgotten(builder, args[0])

    return types.int32(types.int32), codegen


@cuda.jit(device=True)
def warp_sum(value):  # type: ignore[no-untyped-def]
    """Return the sum of the values of a warp's lanes, the same in each."""
    for apart in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, apart)
    return value
