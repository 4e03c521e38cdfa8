"""The primitives of `_wgmma` as LLVM code for Hopper GPUs; `_wgmma_twins` says the same in Python, and how operands lie."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from numbaconv.cuda._intrinsics import I32, I64, _alone, address, further_on, shared_address
from numbaconv.cuda._tensor_intrinsics import F32

SUMS = 64
SHAPE = {"tf32": ("k8", "tf32.tf32", ""), "bf16": ("k16", "bf16.bf16", ", 0, 0"), "f16": ("k16", "f16.f16", ", 0, 0")}
# A descriptor beside the address: lines of 128 bytes, eight of them 1024 bytes from the next eight, swizzled (PTX manual, "Matrix descriptor").
DESCRIPTOR = 1 << 62 | (1024 >> 4) << 32 | 1 << 16
COPY = "cp.async.cg.shared.global"
LINE, STEP = 128, 32  # bytes of a line, and of the part of it that one instruction multiplies

publish = _alone("fence.proxy.async.shared::cta;")


def _descriptor(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    at = builder.lshr(shared_address(context, builder, kind, memory, index), I32(4))
    return builder.or_(builder.zext(at, I64), I64(DESCRIPTOR))


def _with_sums(builder: Any, lines: list[str], sums: list[Any], others: list[Any]) -> list[Any]:
    """Emit lines of PTX in which $0 … are sums, read and written, and $128 … the other values."""
    constraints = ",".join(["=f"] * SUMS + [str(i) for i in range(SUMS)] + ["l"] * len(others) + ["~{memory}"])
    function = ir.FunctionType(ir.LiteralStructType([F32] * SUMS), [F32] * SUMS + [I64] * len(others))
    done = builder.asm(function, "\n\t".join(lines), constraints, [*sums, *others], side_effect=True)
    return [builder.extract_value(done, i) for i in range(SUMS)]


@functools.cache
def multiply(kind: str, blocks: int) -> Any:
    """Return the start of a warpgroup's product, acc + a · b transposed over one slab: blocks · 64 lines of a, 128 / blocks of b."""
    width = 128 // blocks
    depth, kinds, rest = SHAPE[kind]
    each = SUMS // blocks

    @intrinsic
    def product(typingctx, acc, shared, a_at, b_at, quarter):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            given, memory, *indices, _ = args
            sums = [builder.extract_value(given, i) for i in range(SUMS)]
            ends = [_descriptor(context, builder, shared, memory, index) for index in indices]
            lines = ["{ .reg .pred add; .reg .b64 a, b;", "setp.eq.b32 add, 0, 0;", "wgmma.fence.sync.aligned;"]
            for step in range(LINE // STEP):
                for block in range(blocks):
                    registers = ", ".join(f"${i}" for i in range(block * each, (block + 1) * each))
                    lines += [f"add.s64 a, $128, {(block * 64 * LINE + step * STEP) >> 4};", f"add.s64 b, $129, {step * STEP >> 4};"]
                    code = f"wgmma.mma_async.sync.aligned.m64n{width}{depth}.f32.{kinds}"
                    lines.append(f"{code} {{{registers}}}, a, b, add, 1, 1{rest};")
            lines += ["wgmma.commit_group.sync.aligned;", "}"]
            return context.make_tuple(builder, acc, _with_sums(builder, lines, sums, ends))

        return acc(acc, shared, types.int32, types.int32, types.int32), codegen

    return product


@functools.cache
def settle(pending: int) -> Any:
    """Return the wait for all products but the ``pending`` newest ones."""

    @intrinsic
    def settled(typingctx, acc, shared):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            sums = [builder.extract_value(args[0], i) for i in range(SUMS)]
            lines = [f"wgmma.wait_group.sync.aligned {pending};"]
            return context.make_tuple(builder, acc, _with_sums(builder, lines, sums, []))

        return acc(acc, shared), codegen

    return settled


@functools.cache
def every(count: int) -> Any:
    """Return a function that reads ``count`` elements, some apart."""

    @intrinsic
    def read(typingctx, memory, index, step):  # type: ignore[no-untyped-def]
        result = types.UniTuple(memory.dtype, count)

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            first = address(context, builder, memory, args[0], args[1])
            return context.make_tuple(builder, result, [builder.load(further_on(builder, first, args[2], i)) for i in range(count)])

        return result(memory, types.int32, types.int32), codegen

    return read


@functools.cache
def copy_lines(apart: int) -> Any:
    """Return the start of 16-byte copies, one for each of some lines that lie ``apart`` bytes from each other in shared memory."""

    @intrinsic
    def copy(typingctx, shared, to, memory, bases, masks, offset, tap):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            target, to, source, given, bits, offset, tap = args
            start = shared_address(context, builder, shared, target, to)
            kind = ir.FunctionType(ir.VoidType(), [I32, I64, I32])
            for i in range(len(bases)):
                index = builder.add(builder.extract_value(given, i), offset)
                at = builder.ptrtoint(address(context, builder, memory, source, index), I64)
                bit = builder.and_(builder.lshr(builder.extract_value(bits, i), tap), I32(1))
                code = f"{COPY} [$0+{i * apart}], [$1], 16, $2;"
                builder.asm(kind, code, "r,l,r,~{memory}", [start, at, builder.shl(bit, I32(4))], side_effect=True)
            return context.get_dummy_value()

        return types.void(shared, types.int32, memory, bases, masks, types.int32, types.int32), codegen

    return copy


@functools.cache
def round_lines(count: int, apart: int) -> Any:
    """Return the rounding to tf32, where they lie, of 16 bytes of each of some lines."""

    @intrinsic
    def rounded(typingctx, shared, at):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            start = shared_address(context, builder, shared, *args)
            four = ir.FunctionType(ir.VoidType(), [I32])
            values = ", ".join(f"v{i}" for i in range(4))
            for i in range(count):
                lines = [f"{{ .reg .b32 {values};", f"ld.shared.v4.b32 {{{values}}}, [$0+{i * apart}];"]
                lines += [f"cvt.rna.tf32.f32 v{j}, v{j};" for j in range(4)]
                lines += [f"st.shared.v4.b32 [$0+{i * apart}], {{{values}}};", "}"]
                builder.asm(four, "\n\t".join(lines), "r,~{memory}", [start], side_effect=True)
            return context.get_dummy_value()

        return types.void(shared, types.int32), codegen

    return rounded
