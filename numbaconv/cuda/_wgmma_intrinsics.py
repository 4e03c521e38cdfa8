"""The primitives of `_wgmma` as LLVM code for Hopper GPUs; `_wgmma_twins` says the same in Python, and how operands lie."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from numbaconv.cuda._intrinsics import I32, I64, _alone, address, further_on, shared_address
from numbaconv.cuda._tensor_intrinsics import F32

# Of an instruction: its depth, its types, and whether the contraction of an operand may run from line to line.
SHAPE = {"tf32": ("k8", "tf32.tf32", False), "bf16": ("k16", "bf16.bf16", True), "f16": ("k16", "f16.f16", True)}
# A descriptor beside the address (PTX manual, "Matrix descriptor"): lines of 128 bytes, swizzled, eight of them 1024 bytes from the next eight.
# The contraction runs along the lines, or down from line to line: then 64 rows of the operand lie beside each other, the next 64 8192 bytes on.
SWIZZLED = 1 << 62
ALONG, DOWN = 1024 >> 4 << 32 | 1 << 16, 1024 >> 4 << 32 | 8192 >> 4 << 16
LINE, STEP = 128, 32  # bytes of a line, and of the part of it that one instruction multiplies

publish = _alone("fence.proxy.async.shared::cta;")


def _descriptor(context: Any, builder: Any, kind: Any, memory: Any, index: Any, way: int) -> Any:
    at = builder.lshr(shared_address(context, builder, kind, memory, index), I32(4))
    return builder.or_(builder.zext(at, I64), I64(SWIZZLED | way))


def _with_sums(context: Any, builder: Any, acc: Any, given: Any, lines: list[str], others: list[Any]) -> Any:
    """Emit lines of PTX in which $0 … are sums, read and written, and the numbers from twice theirs on the other values."""
    count = len(acc)
    constraints = ",".join(["=f"] * count + [str(i) for i in range(count)] + ["l"] * len(others) + ["~{memory}"])
    function = ir.FunctionType(ir.LiteralStructType([F32] * count), [F32] * count + [I64] * len(others))
    sums = [builder.extract_value(given, i) for i in range(count)]
    done = builder.asm(function, "\n\t".join(lines), constraints, [*sums, *others], side_effect=True)
    return context.make_tuple(builder, acc, [builder.extract_value(done, i) for i in range(count)])


def _product(kind: str, width: int, steps: int, ways: tuple[int, int]) -> Any:
    """Return the start of a warpgroup's product of so many instructions: 64 · ``width`` sums, the operands each in one of the ways."""
    depth, kinds, may_be_down = SHAPE[kind]
    rest = "".join(f", {int(way == DOWN)}" for way in ways) if may_be_down else ""
    apart = [{ALONG: STEP, DOWN: 16 * LINE}[way] >> 4 for way in ways]

    @intrinsic
    def product(typingctx, acc, shared, a_at, b_at, quarter):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            given, memory, *indices, _ = args
            sides = [_descriptor(context, builder, shared, memory, *which) for which in zip(indices, ways, strict=True)]
            registers, a, b = ", ".join(f"${i}" for i in range(width // 2)), f"${width}", f"${width + 1}"
            lines = ["{ .reg .pred add; .reg .b64 a, b;", "setp.eq.b32 add, 0, 0;", "wgmma.fence.sync.aligned;"]
            for step in range(steps):
                lines += [f"add.s64 a, {a}, {step * apart[0]};", f"add.s64 b, {b}, {step * apart[1]};"]
                lines.append(f"wgmma.mma_async.sync.aligned.m64n{width}{depth}.f32.{kinds} {{{registers}}}, a, b, add, 1, 1{rest};")
            lines += ["wgmma.commit_group.sync.aligned;", "}"]
            return _with_sums(context, builder, acc, given, lines, sides)

        return acc(acc, shared, types.int32, types.int32, types.int32), codegen

    return product


@functools.cache
def multiply(kind: str, width: int, planes: bool) -> Any:
    """Return the start of a warpgroup's product, acc + a · b transposed over one slab: 64 lines of a, ``width`` of b.

    ``planes``: instead of such lines b has, for each 64 of them, as many lines of the contraction.
    """
    return _product(kind, width, LINE // STEP, (ALONG, DOWN if planes else ALONG))


@functools.cache
def multiply_down(kind: str, lines: int) -> Any:
    """Return the start of a warpgroup's product, acc + a transposed · b over so many lines: 64 elements of each of a, twice 64 of b."""
    return _product(kind, 128, lines // 16, (DOWN, DOWN))


@functools.cache
def settle(pending: int) -> Any:
    """Return the wait for all products but the ``pending`` newest ones."""

    @intrinsic
    def settled(typingctx, acc, shared):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return _with_sums(context, builder, acc, args[0], [f"wgmma.wait_group.sync.aligned {pending};"], [])

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
                code = f"cp.async.cg.shared.global [$0+{i * apart}], [$1], 16, $2;"
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


def _float_address(context: Any, builder: Any, shared: Any, memory: Any, index: Any) -> Any:
    """Return where in shared memory, whatever it holds else, the ``index``-th float32 is."""
    start = shared_address(context, builder, shared, memory, I32(0))
    return builder.inttoptr(builder.add(start, builder.shl(index, I32(2))), F32.as_pointer(3))


@functools.cache
def put_sums(pitch: int) -> Any:
    """Return a function that puts a thread's sums into shared memory as float32, lines ``pitch`` apart, its first one at ``at``."""

    @intrinsic
    def put(typingctx, shared, at, acc):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            first = _float_address(context, builder, shared, *args[:2])
            for number in range(0, len(acc), 2):
                pair = ir.Constant(ir.VectorType(F32, 2), ir.Undefined)
                for i in range(2):
                    pair = builder.insert_element(pair, builder.extract_value(args[2], number + i), I32(i))
                place = builder.gep(first, [I32(8 * (number // 2 % 2) * pitch + number // 4 * 8)])
                builder.store(pair, builder.bitcast(place, pair.type.as_pointer(3))).align = 8
            return context.get_dummy_value()

        return types.void(shared, types.int32, acc), codegen

    return put


@functools.cache
def take_sums(count: int) -> Any:
    """Return a function that reads ``count`` neighbouring float32 of shared memory, four at a time."""
    result = types.UniTuple(types.float32, count)

    @intrinsic
    def take(typingctx, shared, at):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            first, values = _float_address(context, builder, shared, *args), []
            width = min(count, 4)
            vector = ir.VectorType(F32, width)
            for number in range(0, count, width):
                loaded = builder.load(builder.bitcast(builder.gep(first, [I32(number)]), vector.as_pointer(3)))
                loaded.align = 4 * width
                values += [builder.extract_element(loaded, I32(i)) for i in range(width)]
            return context.make_tuple(builder, result, values)

        return result(shared, types.int32), codegen

    return take


@functools.cache
def wait_for(pending: int) -> Any:
    """Return the wait for all of the thread's groups of copies but the ``pending`` newest ones."""
    return _alone(f"cp.async.wait_group {pending};")
