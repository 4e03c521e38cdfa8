"""The primitives of stencils as LLVM code for GPUs; `_stencil_twins` says the same in Python."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from numbaconv.cuda._intrinsics import I32, SLAB, address, element_at, fma_of, further_on, load, opaque


def _window(context: Any, builder: Any, kind: Any, memory: Any, row_at: Any, part_on: Any, width: int, across: int) -> dict[Any, Any]:
    """Load what 4 neighbouring outputs read of a row, by phase and column."""
    window = {}
    for first in range(min(across, width)):
        at = address(context, builder, kind, memory, builder.add(row_at, builder.mul(part_on, I32(first))))
        for quad in range(0, 4 + (width - 1 - first) // across, 4):
            for e, value in enumerate(load(context, builder, kind, further_on(builder, at, I32(quad)))):
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
            fma = fma_of(builder, context.get_value_type(acc.dtype))
            sums, taps = [builder.extract_value(acc_value, i) for i in range(16)], {}
            for r in range(height):
                tap_at = builder.add(w_index, builder.mul(w_down, I32(r)))
                for s in range(width):
                    taps[r, s] = element_at(context, builder, w, w_memory, builder.add(tap_at, builder.mul(w_across, I32(s))))
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
            fma = fma_of(builder, context.get_value_type(acc.dtype))
            sums = [builder.extract_value(acc_value, i) for i in range(32)]
            for i in range(down + height):
                rows = [(j, i - j * down) for j in range(2) if 0 <= i - j * down < height]
                row_at, window = builder.add(index, builder.mul(row_on, I32(i))), {}
                if down * height > SLAB:
                    w_index = opaque(builder, w_index)  # or taps would be kept from the row of one output to that of the other
                for s in range(width if rows else 0):
                    for q in range(s, s + 3 * across + 1, across):  # no sooner than they are needed: registers are short
                        if q not in window:
                            quad_at = builder.add(row_at, builder.mul(column_on, I32(q)))
                            window[q] = load(context, builder, shared, address(context, builder, shared, memory, quad_at))
                    for j, r in rows:
                        tap_at = builder.add(w_index, builder.mul(w_on, I32(r * width + s)))
                        taps = load(context, builder, w, address(context, builder, w, w_memory, tap_at))
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
            fma = fma_of(builder, context.get_value_type(acc.dtype))
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
            fma = fma_of(builder, context.get_value_type(acc.dtype))
            sums, dy = ([builder.extract_value(value, i) for i in range(n)] for value, n in ((acc_value, 4 * width), (dy, 16)))
            for i in range(3 * across + width):
                pairs = [(q, i - q * across) for q in range(4) if 0 <= i - q * across < width]
                if pairs:
                    column_at = builder.add(index, builder.mul(column_on, I32(i)))
                    values = load(context, builder, shared, address(context, builder, shared, memory, column_at))
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
            builder.store(builder.extract_value(given, i), address(context, builder, memory, target, builder.add(index, I32(i))))
        return context.get_dummy_value()

    return types.void(memory, types.int32, values), codegen


@intrinsic
def tap(typingctx, acc, shared, at, pitch, column, weight):  # type: ignore[no-untyped-def]
    """Return acc + weight · shared[at + j·pitch + e·column] for a register tile of 4 × 4 outputs (j, e)."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        acc_value, memory, index, row_on, column_on, factor = args
        fma, sums = fma_of(builder, context.get_value_type(acc.dtype)), []
        for i in range(16):
            index_i = builder.add(builder.add(index, builder.mul(row_on, I32(i // 4))), builder.mul(column_on, I32(i % 4)))
            sums.append(fma(element_at(context, builder, shared, memory, index_i), factor, builder.extract_value(acc_value, i)))
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
