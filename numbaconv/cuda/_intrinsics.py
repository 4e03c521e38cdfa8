"""The primitives of kernels as LLVM code for GPUs; `_twins` says the same in Python."""

from __future__ import annotations

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


@intrinsic
def tile(typingctx, zero):  # type: ignore[no-untyped-def]
    """Return a register tile of zeros."""
    result = types.UniTuple(zero, 64)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return context.make_tuple(builder, result, [args[0]] * 64)

    return result(zero), codegen


@intrinsic
def multiply_slab(typingctx, acc, a, a_at, a_row, b, b_at, b_row):  # type: ignore[no-untyped-def]
    """Return acc + Σ_k outer(a_k, b_k) over the 8 rows of a slab; of a row a_k takes 4 elements at a_at and 4 half a row further on."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        acc_value, a_memory, a_index, a_width, b_memory, b_index, b_width = args
        element = context.get_value_type(acc.dtype)
        fma = builder.module.declare_intrinsic("llvm.fma", [element], ir.FunctionType(element, [element] * 3))
        sums = [builder.extract_value(acc_value, i) for i in range(64)]
        halves = [builder.lshr(a_width, I32(1)), builder.lshr(b_width, I32(1))]
        for k in range(SLAB):
            rows = []
            for kind, memory, index, width, half in ((a, a_memory, a_index, a_width, halves[0]), (b, b_memory, b_index, b_width, halves[1])):
                at = builder.add(index, builder.mul(width, I32(k)))
                rows.append(_load(context, builder, kind, memory, at) + _load(context, builder, kind, memory, builder.add(at, half)))
            for i in range(8):
                for j in range(8):
                    sums[i * 8 + j] = builder.call(fma, [rows[0][i], rows[1][j], sums[i * 8 + j]])
        return context.make_tuple(builder, acc, sums)

    return acc(acc, a, types.int32, types.int32, b, types.int32, types.int32), codegen


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
        return builder.asm(ir.FunctionType(I32, [I32]), "mov.u32 $0, $1;", "=r,r", [args[0]], side_effect=True)

    return types.int32(types.int32), codegen


@cuda.jit(device=True)
def warp_sum(value):  # type: ignore[no-untyped-def]
    """Return the sum of the values of a warp's lanes, the same in each."""
    for apart in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, apart)
    return value
