"""The tensor cores' primitives as LLVM code for GPUs; `_tensor_twins` says the same in Python, and what the fragments are."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from numbaconv.cuda._intrinsics import I32, address, place_in_shared, shared_address

F32, I16, WORDS = ir.FloatType(), ir.IntType(16), ir.VectorType(I32, 4)
MMA = {"tf32": "m16n8k8.row.col.f32.tf32.tf32.f32", "bf16": "m16n8k16.row.col.f32.bf16.bf16.f32", "f16": "m16n8k16.row.col.f32.f16.f16.f32"}
FROM_F32 = {"bf16": "cvt.rn.bf16.f32 $0, $1;", "f16": "cvt.rn.f16.f32 $0, $1;"}
TO_F32 = {"bf16": "{ .reg .b16 none; mov.b16 none, 0; mov.b32 $0, {none, $1}; }", "f16": "cvt.f32.f16 $0, $1;"}


def _one_to_one(result: Any, argument: Any, to: Any, of: Any, code: str, constraints: str) -> Any:
    """Return an intrinsic of one argument that is one instruction."""

    @intrinsic
    def convert(typingctx, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.asm(ir.FunctionType(to, [of]), code, constraints, args, side_effect=False)

        return result(argument), codegen

    return convert


round_tf32 = _one_to_one(types.float32, types.float32, F32, F32, "{ .reg .b32 near; cvt.rna.tf32.f32 near, $1; mov.b32 $0, near; }", "=f,f")


@functools.cache
def widen(kind: str) -> Any:
    """Return a function from one 16-bit pattern to float32."""
    return _one_to_one(types.float32, types.uint16, F32, I16, TO_F32[kind], "=f,h")


@functools.cache
def narrow(kind: str) -> Any:
    """Return a function from float32 to the nearest 16-bit pattern."""
    return _one_to_one(types.uint16, types.float32, I16, F32, FROM_F32[kind], "=h,f")


@intrinsic
def store2(typingctx, memory, index, first, second):  # type: ignore[no-untyped-def]
    """Set memory[index : index + 2]; the address is a multiple of both elements' size."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, index, *given = args
        element = context.get_data_type(memory.dtype)
        vector = ir.Constant(ir.VectorType(element, 2), ir.Undefined)
        for i in range(2):
            vector = builder.insert_element(vector, given[i], I32(i))
        at = address(context, builder, memory, target, index)
        builder.store(vector, builder.bitcast(at, vector.type.as_pointer(at.type.addrspace))).align = 2 * context.get_abi_sizeof(element)
        return context.get_dummy_value()

    return types.void(memory, types.int32, memory.dtype, memory.dtype), codegen


@intrinsic
def put_vector(typingctx, memory, index, values):  # type: ignore[no-untyped-def]
    """Set memory[index :] = values, 16 bytes; the address is a multiple of that."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        target, index, given = args
        at = address(context, builder, memory, target, index)
        parts = [builder.extract_value(given, i) for i in range(len(values))]
        if len(parts) == 8:  # as words: vectors of 16-bit elements would be stored in halves
            low, high = ([builder.zext(part, I32) for part in parts[first::2]] for first in (0, 1))
            parts = [builder.or_(a, builder.shl(b, I32(16))) for a, b in zip(low, high, strict=True)]
        words = ir.Constant(WORDS, ir.Undefined)
        for i, part in enumerate(parts):
            words = builder.insert_element(words, builder.bitcast(part, I32), I32(i))
        builder.store(words, builder.bitcast(at, WORDS.as_pointer(at.type.addrspace))).align = 16
        return context.get_dummy_value()

    return types.void(memory, types.int32, values), codegen


@intrinsic
def get_vector(typingctx, memory, index):  # type: ignore[no-untyped-def]
    """Return the 16 bytes from memory[index] on; the address is a multiple of that."""
    result = types.UniTuple(memory.dtype, 128 // memory.dtype.bitwidth)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at = address(context, builder, memory, *args)
        words = builder.load(builder.bitcast(at, WORDS.as_pointer(at.type.addrspace)))
        words.align = 16
        parts, element = [builder.extract_element(words, I32(i)) for i in range(4)], context.get_data_type(memory.dtype)
        if len(result) == 8:
            parts = [builder.trunc(half, element) for word in parts for half in (word, builder.lshr(word, I32(16)))]
        return context.make_tuple(builder, result, [builder.bitcast(part, element) for part in parts])

    return result(memory, types.int32), codegen


@intrinsic
def keep(typingctx, shared, to, flip, further, value):  # type: ignore[no-untyped-def]
    """Set shared[(to ^ flip) + further]."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at = place_in_shared(context, builder, shared, *args[:4])
        builder.store(args[4], builder.inttoptr(at, context.get_data_type(shared.dtype).as_pointer(3)))
        return context.get_dummy_value()

    return types.void(shared, types.int32, types.int32, types.int32, shared.dtype), codegen


def _fragment(builder: Any, start: Any, kind: str, slab: int, pixels: int, index: int, step: int, second: bool) -> list[Any]:
    """Return a lane's words of 16 rows × 8 words from its address on; the rows are ``index``-th, the words ``step``-th of the slab."""
    word = 1 if kind == "tf32" else 2
    size = 4 // word
    if pixels and kind == "tf32":
        words = []
        for q in range(4):
            rows, deeper = (q // 2, q % 2) if second else (q % 2, q // 2)
            at = builder.xor(start, I32(size * (16 * index ^ 8 * rows ^ 32 * deeper)))
            at = builder.add(at, I32(size * (step * 8 + deeper * 4) * pixels))
            words.append(builder.load(builder.inttoptr(at, I32.as_pointer(3))))
        return words
    four = ir.LiteralStructType([I32] * 4)
    code = f"ldmatrix.sync.aligned.m8n8.x4{'.trans' if pixels else ''}.shared.b16 {{$0, $1, $2, $3}}, [$4];"
    if pixels:
        at = builder.add(builder.xor(start, I32(size * 16 * index)), I32(size * step * 16 * pixels))
    else:
        at = builder.add(builder.xor(start, I32(size * step * 8 * word)), I32(size * index * 16 * slab))
    loaded = builder.asm(ir.FunctionType(four, [I32]), code, "=r,=r,=r,=r,r,~{memory}", [at], side_effect=True)
    return [builder.extract_value(loaded, i) for i in range(4)]


def _nearest(builder: Any, words: list[Any]) -> list[Any]:
    kind = ir.FunctionType(I32, [F32])
    return [builder.asm(kind, "cvt.rna.tf32.f32 $0, $1;", "=r,f", [builder.bitcast(w, F32)], side_effect=False) for w in words]


def _mma(builder: Any, kind: str, a: list[Any], b: list[Any], sums: list[Any]) -> list[Any]:
    """Return the four sums of one instruction."""
    code = f"mma.sync.aligned.{MMA[kind]} {{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, {{$10, $11, $12, $13}};"
    function = ir.FunctionType(ir.LiteralStructType([F32] * 4), [I32] * 6 + [F32] * 4)
    done = builder.asm(function, code, "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3", [*a, *b, *sums], side_effect=False)
    return [builder.extract_value(done, i) for i in range(4)]


@functools.cache
def multiply(kind: str, slab: int, pixels: int, x_first: bool) -> Any:
    """Return the product of a warp: acc + first operand · second operand transposed, 64 × 32, over one slab.

    acc[8r + 2j + e] is row lane//4 + 8r, column lane%4·2 + 8j + e. Weights lie by rows, x does too unless it has ``pixels`` in a row.
    """

    @intrinsic
    def product(typingctx, acc, shared, w_at, x_at):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            given, memory, *indices = args
            sums = [builder.extract_value(given, i) for i in range(64)]
            starts = [shared_address(context, builder, shared, memory, index) for index in indices]
            for step in range(slab // (8 if kind == "tf32" else 16)):
                sides = []
                for count, of_x in ((4, x_first), (2, not x_first)):
                    width, second = pixels if of_x else 0, count == 2
                    parts = [_fragment(builder, starts[of_x], kind, slab, width, i, step, second) for i in range(count)]
                    sides.append([_nearest(builder, part) for part in parts] if kind == "tf32" and of_x else parts)
                for i in range(4):
                    for j in range(4):
                        places = [16 * i + 2 * j + offset for offset in (0, 1, 8, 9)]
                        pair = sides[1][j // 2][j % 2 * 2 :][:2]
                        done = _mma(builder, kind, sides[0][i], pair, [sums[place] for place in places])
                        for place, value in zip(places, done, strict=True):
                            sums[place] = value
            return context.make_tuple(builder, acc, sums)

        return acc(acc, shared, types.int32, types.int32), codegen

    return product
