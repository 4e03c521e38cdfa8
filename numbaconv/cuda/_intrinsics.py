"""The primitives of kernels as LLVM code for GPUs; `_twins` says the same in Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)
int32 = types.int32
SLAB = 8


def address(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Return the address of an element of a pointer argument or a shared array."""
    base = memory if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, memory).data
    element = context.get_data_type(kind.dtype)
    return builder.gep(builder.bitcast(base, element.as_pointer(base.type.addrspace)), [builder.zext(index, ir.IntType(64))])


def load(context: Any, builder: Any, kind: Any, at: Any, count: int = 4) -> list[Any]:
    """Load neighbours from an address on, as vectors of 16 bytes or of all that there are."""
    element = context.get_data_type(kind.dtype)
    width = min(count, 16 // context.get_abi_sizeof(element))
    values = []
    for first in range(0, count, width):
        vector = ir.VectorType(element, width)
        place = further_on(builder, at, I32(first))
        loaded = builder.load(builder.bitcast(place, vector.as_pointer(place.type.addrspace)))
        loaded.align = width * context.get_abi_sizeof(element)
        values += [builder.extract_element(loaded, I32(i)) for i in range(width)]
    return values


def opaque(builder: Any, value: Any) -> Any:
    """Copy a value so that LLVM doesn't know it."""
    return builder.asm(ir.FunctionType(I32, [I32]), "mov.u32 $0, $1;", "=r,r", [value], side_effect=True)


def fma_of(builder: Any, element: Any) -> Callable[..., Any]:
    """Return the function that emits a·b + c."""
    function = builder.module.declare_intrinsic("llvm.fma", [element], ir.FunctionType(element, [element] * 3))
    return lambda a, b, c: builder.call(function, [a, b, c])


def element_at(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Load one element."""
    return builder.load(address(context, builder, kind, memory, index))


@intrinsic
def load4(typingctx, memory, index):  # type: ignore[no-untyped-def]
    """Return memory[index : index + 4]; the address is a multiple of 16 bytes, or of the four elements' size if that is less."""
    result = types.UniTuple(memory.dtype, 4)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return context.make_tuple(builder, result, load(context, builder, memory, address(context, builder, memory, *args)))

    return result(memory, types.int32), codegen


def further_on(builder: Any, address: Any, step: Any, count: int = 1) -> Any:
    """Return the address some steps further on: a constant distance, for a constant step, is part of the instruction that uses it."""
    return builder.gep(address, [builder.zext(builder.mul(step, I32(count)), ir.IntType(64))])


def store(context: Any, builder: Any, kind: Any, memory: Any, index: Any, given: Any, count: int) -> Any:
    """Store neighbours, as vectors of 16 bytes or of all that there are."""
    element = context.get_data_type(kind.dtype)
    width = min(count, 16 // context.get_abi_sizeof(element))
    for first in range(0, count, width):
        vector = ir.Constant(ir.VectorType(element, width), ir.Undefined)
        for i in range(width):
            vector = builder.insert_element(vector, builder.extract_value(given, first + i), I32(i))
        at = address(context, builder, kind, memory, builder.add(index, I32(first)))
        stored = builder.store(vector, builder.bitcast(at, vector.type.as_pointer(at.type.addrspace)))
        stored.align = width * context.get_abi_sizeof(element)
    return context.get_dummy_value()


@intrinsic
def store4(typingctx, memory, index, values):  # type: ignore[no-untyped-def]
    """Set memory[index : index + 4] = values; the address is a multiple of 16 bytes, or of the four elements' size if that is less."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return store(context, builder, memory, *args, 4)

    return types.void(memory, types.int32, values), codegen


@intrinsic
def scatter(typingctx, memory, index, step, values):  # type: ignore[no-untyped-def]
    """Set memory[index], memory[index + step], … to the values, one after the other."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, index, step, given = args
        first = address(context, builder, memory, target, index)
        for i in range(len(values)):
            builder.store(builder.extract_value(given, i), further_on(builder, first, step, i))
        return context.get_dummy_value()

    return types.void(memory, types.int32, types.int32, values), codegen


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
        fma, sums = fma_of(builder, context.get_value_type(acc.dtype)), [builder.extract_value(acc_value, i) for i in range(64)]
        a_first, b_first = address(context, builder, a, a_memory, a_index), address(context, builder, b, b_memory, b_index)
        sides = ((a, a_first, a_width, a_step), (b, b_first, b_width, b_step))
        for k in range(SLAB):
            rows = []
            for kind, first, width, half in sides:
                at = further_on(builder, first, width, k)
                rows.append(load(context, builder, kind, at) + load(context, builder, kind, further_on(builder, at, half)))
            for i in range(8):
                for j in range(8):
                    sums[i * 8 + j] = fma(rows[0][i], rows[1][j], sums[i * 8 + j])
        return context.make_tuple(builder, acc, sums)

    return acc(acc, a, types.int32, types.int32, types.int32, b, types.int32, types.int32, types.int32), codegen


@intrinsic
def put_aside(typingctx, memory, index, step, acc):  # type: ignore[no-untyped-def]
    """Store a register tile as quads, the first at memory[index], the next ones ``step`` further on."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, index, step, given = args
        element = context.get_data_type(memory.dtype)
        width, first = 16 // context.get_abi_sizeof(element), address(context, builder, memory, target, index)
        for quad in range(len(acc) // 4):
            for part in range(0, 4, width):
                vector = ir.Constant(ir.VectorType(element, width), ir.Undefined)
                for i in range(width):
                    vector = builder.insert_element(vector, builder.extract_value(given, 4 * quad + part + i), I32(i))
                at = further_on(builder, further_on(builder, first, step, quad), I32(part))
                builder.store(vector, builder.bitcast(at, vector.type.as_pointer(at.type.addrspace))).align = 16
        return context.get_dummy_value()

    return types.void(memory, types.int32, types.int32, acc), codegen


@intrinsic
def and_aside(typingctx, acc, memory, index, step):  # type: ignore[no-untyped-def]
    """Return a register tile plus the one that was put aside."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        given, source, index, step = args
        first, sums = address(context, builder, memory, source, index), []
        for quad in range(len(acc) // 4):
            held = load(context, builder, memory, further_on(builder, first, step, quad))
            sums += [builder.fadd(held[i], builder.extract_value(given, 4 * quad + i)) for i in range(4)]
        return context.make_tuple(builder, acc, sums)

    return acc(acc, memory, types.int32, types.int32), codegen


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
        return opaque(builder, args[0])

    return types.int32(types.int32), codegen


@intrinsic
def raise_flag(typingctx, memory, index):  # type: ignore[no-untyped-def]
    """Set memory[index] = 1; several threads may do so at once."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(context.get_data_type(memory.dtype)(1), address(context, builder, memory, *args))
        return context.get_dummy_value()

    return types.void(memory, types.int32), codegen


def shared_address(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Return an element's address within shared memory."""
    at = address(context, builder, kind, memory, index)
    return builder.ptrtoint(builder.addrspacecast(at, at.type.pointee.as_pointer(3)), I32)


def place_in_shared(context: Any, builder: Any, kind: Any, memory: Any, to: Any, flip: Any, further: Any) -> Any:
    """Return the address of element (to ^ flip) + further within shared memory; what a loop knows of it becomes the instruction's offset."""
    size = I32(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    start = shared_address(context, builder, kind, memory, to)
    return builder.add(builder.xor(start, builder.mul(flip, size)), builder.mul(further, size))


def _copy(code: str, size: int) -> Any:
    @intrinsic
    def copy(typingctx, shared, to, flip, further, memory, index, inside):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            target = place_in_shared(context, builder, shared, *args[:4])
            source = builder.ptrtoint(address(context, builder, memory, args[4], args[5]), I64)
            count = builder.select(args[6], I32(size), I32(0))
            kind = ir.FunctionType(ir.VoidType(), [I32, I64, I32])
            builder.asm(kind, f"{code} [$0], [$1], {size}, $2;", "r,l,r,~{memory}", [target, source, count], side_effect=True)
            return context.get_dummy_value()

        return types.void(shared, types.int32, types.int32, types.int32, memory, types.int32, types.boolean), codegen

    return copy


copy16 = _copy("cp.async.cg.shared.global", 16)
copy8 = _copy("cp.async.ca.shared.global", 8)
copy4 = _copy("cp.async.ca.shared.global", 4)


def _alone(code: str) -> Any:
    @intrinsic
    def instruction(typingctx, shared):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            builder.asm(ir.FunctionType(ir.VoidType(), []), code, "~{memory}", [], side_effect=True)
            return context.get_dummy_value()

        return types.void(shared), codegen

    return instruction


commit = _alone("cp.async.commit_group;")
wait = _alone("cp.async.wait_group 1;")
wait_all = _alone("cp.async.wait_all;")
