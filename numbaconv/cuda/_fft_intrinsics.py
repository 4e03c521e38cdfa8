"""The primitives of transforms as LLVM code for GPUs; `_fft_twins` says the same in Python."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

from numbaconv.cuda._intrinsics import I32, address, further_on, store


@intrinsic
def peek(typingctx, memory, index, further):  # type: ignore[no-untyped-def]
    """Return memory[index + further], which costs no addition if ``further`` is constant."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, at, by = args
        return builder.load(further_on(builder, address(context, builder, memory, source, at), by))

    return memory.dtype(memory, types.int32, types.int32), codegen


@intrinsic
def poke(typingctx, memory, index, further, value):  # type: ignore[no-untyped-def]
    """Set memory[index + further] = value, which costs no addition if ``further`` is constant."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, at, by, given = args
        builder.store(given, further_on(builder, address(context, builder, memory, target, at), by))
        return context.get_dummy_value()

    return types.void(memory, types.int32, types.int32, memory.dtype), codegen


@intrinsic
def load2(typingctx, memory, index, further):  # type: ignore[no-untyped-def]
    """Return two neighbours at index + further, both even; a constant ``further`` costs no addition."""
    result = types.UniTuple(memory.dtype, 2)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, at, by = args
        element = context.get_data_type(memory.dtype)
        place = further_on(builder, address(context, builder, memory, source, at), by)
        loaded = builder.load(builder.bitcast(place, ir.VectorType(element, 2).as_pointer(place.type.addrspace)))
        loaded.align = 2 * context.get_abi_sizeof(element)
        return context.make_tuple(builder, result, [builder.extract_element(loaded, I32(i)) for i in range(2)])

    return result(memory, types.int32, types.int32), codegen


@intrinsic
def store2(typingctx, memory, index, values):  # type: ignore[no-untyped-def]
    """Set memory[index : index + 2] = values; the index is even."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return store(context, builder, memory, *args, 2)

    return types.void(memory, types.int32, values), codegen


def _planes(context: Any, builder: Any, kind: Any, memory: Any, plane: Any, at: Any) -> tuple[Any, Any]:
    """Return the addresses of one element in two planes."""
    real = address(context, builder, kind, memory, at)
    return real, further_on(builder, real, plane, 1)


@intrinsic
def spread(typingctx, memory, plane, at, step, values):  # type: ignore[no-untyped-def]
    """Set memory[at + i·step] and memory[plane + at + i·step] to the real and the imaginary part of the i-th value, a pair."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, second, first, by, given = args
        for part, start in enumerate(_planes(context, builder, memory, target, second, first)):
            for i in range(values.count):
                builder.store(builder.extract_value(given, [i, part]), further_on(builder, start, by, i))
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
        addresses = [[further_on(builder, further_on(builder, start, by_two, i // 2), by, i % 2) for start in starts] for i in range(16)]
        found = [[builder.load(place) for place in pair_of] for pair_of in addresses]
        return context.make_tuple(builder, result, [context.make_tuple(builder, pair, parts) for parts in found])

    return result(memory, types.int32, types.int32, types.int32, types.int32), codegen


@cuda.jit(device=True)
def warp_sum(value):  # type: ignore[no-untyped-def]
    """Return the sum of the values of a warp's lanes, the same in each."""
    for apart in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(0xFFFFFFFF, value, apart)
    return value
