"""The product kernel of `gemm`: where its operands and results lie is in tables, so that one kernel does every operation and layout."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _emit, _simd
from numbaconv.cpu.bias import activate

CHUNK = 256  # steps summed in registers: an operand's tile stays in the caches, and rounding within 8 eps (tests/test_numerics.py)
CHUNKS = 32  # chunks added in one place; sums of longer ones are added in a second (the rounding of both is that of 32 terms)
MOST = 3  # vectors of a tile's row: what a line of the table of columns has room for
# A line of the table of columns: how many vectors, whether they are neighbours, and per vector its place, its lanes (bits) and their place in y.
# NEIGHBOURS is WHOLE if all lanes of all of them count and their places in y are neighbours too.
WHOLE = 2
COUNT, NEIGHBOURS, PLACES, MASKS, TARGETS, LINE = 0, 1, 2, 2 + MOST, 2 + 2 * MOST, 2 + 3 * MOST
Array = np.ndarray[Any, Any]


@functools.cache
def kernel(isa: _emit.Isa, dtype: np.dtype[Any], bias_per_lane: bool) -> Kernel:
    """Make the product kernel of an instruction set: its tile shape is part of the code."""
    width, height = isa.width(dtype), isa.rows
    tiles = [_simd.multiply(isa, dtype, v) for v in range(1, isa.vectors + 1)]
    one, two, three = (tiles + tiles[-1:] * 2)[:3]
    store, prefetch = _simd.store(isa, dtype, bias_per_lane), _simd.prefetch(isa, dtype)
    whole_one, whole_two, whole_three = (_simd.store_all(isa, dtype, bias_per_lane, min(v, isa.vectors)) for v in (1, 2, 3))

    @inline
    def gather(panel, b, place, line, vectors, b_steps, step, count):  # type: ignore[no-untyped-def]
        # Vectors that are no neighbours, or end behind the array, are copied side by side.
        for k in range(count):
            for v in range(vectors):
                source, to = place + line[PLACES + v] + b_steps[step + k], (k * vectors + v) * width
                if source + width <= b.size:
                    for i in range(width):
                        panel[unsigned(to + i)] = b[unsigned(source + i)]
                else:
                    for i in range(width):
                        panel[unsigned(to + i)] = b[source + i] if source + i < b.size else 0

    @inline
    def multiply_rows(a, place, a_row, blocks, first, filled, a_steps, step, b, b_place, b_steps, b_step, count, vectors, sums, add, every,  # type: ignore[no-untyped-def]
                      ahead, ahead_step):  # fmt: skip
        size = height * vectors * width
        for block in range(filled):
            at, valid, to = place + blocks[first + block, 0], blocks[first + block, 1], block * size
            if every:
                for k in range(count * block // filled, count * (block + 1) // filled, every):
                    prefetch(b, ahead + b_steps[ahead_step + k])
            if vectors == 1:
                one(a, at, a_row, valid, a_steps, step, b, b_place, b_steps, b_step, count, sums, to, add)
            elif vectors == 2:
                two(a, at, a_row, valid, a_steps, step, b, b_place, b_steps, b_step, count, sums, to, add)
            else:
                three(a, at, a_row, valid, a_steps, step, b, b_place, b_steps, b_step, count, sums, to, add)

    @inline
    def finish(sums, at, vectors, valid, line, bias, bias_at, code):  # type: ignore[no-untyped-def]
        # Activations other than relu are applied before the store, which then adds zeros; returns whether a sum is not finite.
        broken = 0
        for r in range(valid):
            for v in range(vectors):
                first, shift_at = at + (r * vectors + v) * width, bias_at + (v * width if bias_per_lane else r)
                if line[NEIGHBOURS] == WHOLE:
                    broken |= whole_one(sums, first, sums, first, bias, shift_at, False)
                    continue
                for i in range(width):
                    sums[first + i] += bias[shift_at + i if bias_per_lane else shift_at]
                    if line[MASKS + v] >> i & 1 and not np.isfinite(sums[first + i]):
                        broken = 1
        activate(sums, at, valid * vectors * width, code)
        return broken

    @inline
    def scatter(sums, at, vectors, targets, y, place, bias, bias_at):  # type: ignore[no-untyped-def]
        broken = 0
        shift = sums.dtype.type(0) if bias_per_lane else bias[bias_at]
        for i in range(vectors * width):
            if targets[i] >= 0:
                value = sums[at + i] + shift
                y[place + targets[i]] = value
                broken |= not np.isfinite(value)
        return broken

    @inline
    def add_chunk(a, at_a, a_row, b, at_b, reach, line, blocks, first, filled, a_steps, b_steps, panel_table, step, count, sums, panel, add,  # type: ignore[no-untyped-def]
                  every, ahead, ahead_step):  # fmt: skip
        vectors = line[COUNT]
        if line[NEIGHBOURS] and at_b + line[PLACES] + reach + vectors * width <= b.size:
            multiply_rows(a, at_a, a_row, blocks, first, filled, a_steps, step, b, at_b + line[PLACES], b_steps, step, count, vectors, sums, add,
                          every, ahead, ahead_step)  # fmt: skip
        else:
            gather(panel, b, at_b, line, vectors, b_steps, step, count)
            table = panel_table + (vectors - 1) * CHUNK
            multiply_rows(a, at_a, a_row, blocks, first, filled, a_steps, step, panel, 0, b_steps, table, count, vectors, sums, add,
                          0, ahead, ahead_step)  # fmt: skip

    @inline
    def store_rows(sums, span, columns, targets, line0, count_lines, blocks, block, slot, place, y, y_row, bias, bias_at, zeros, code):  # type: ignore[no-untyped-def]
        # Line after line of a row, so that neighbours in y are written together.
        valid, here, broken = blocks[block, 1], place + blocks[block, 2], 0
        before = code > 1 or code == 1 and targets.size > 0  # the store itself knows relu alone, and scatter nothing
        if before:
            for i in range(count_lines):
                line = columns[line0 + i]
                shift_at = bias_at + (line[TARGETS] if bias_per_lane else blocks[block, 3])
                broken |= finish(sums, i * span + slot * height * line[COUNT] * width, line[COUNT], valid, line, bias, shift_at, code)
        for r in range(valid):
            for i in range(count_lines):
                line = columns[line0 + i]
                vectors = line[COUNT]
                source = i * span + (slot * height + r) * vectors * width
                shift_at = 0 if before else bias_at + (line[TARGETS] if bias_per_lane else blocks[block, 3] + r)
                if targets.size:
                    broken |= scatter(sums, source, vectors, targets[line0 + i], y, here + r * y_row, zeros if before else bias, shift_at)
                    continue
                if line[NEIGHBOURS] == WHOLE:
                    to = here + r * y_row + line[TARGETS]
                    if vectors == 1:
                        broken |= whole_one(sums, source, y, to, zeros if before else bias, shift_at, code == 1)
                    elif vectors == 2:
                        broken |= whole_two(sums, source, y, to, zeros if before else bias, shift_at, code == 1)
                    else:
                        broken |= whole_three(sums, source, y, to, zeros if before else bias, shift_at, code == 1)
                    continue
                for v in range(vectors):
                    which = shift_at + (v * width if bias_per_lane else 0)
                    to = here + r * y_row + line[TARGETS + v]
                    broken |= store(sums, source + v * width, y, to, line[MASKS + v], zeros if before else bias, which, code == 1)
        return broken

    def product(first, last, workers, scratch, a, b, y, bias, zeros, code, flags,  # type: ignore[no-untyped-def]
                geometry, a_steps, b_steps, blocks, columns, targets):  # fmt: skip
        # THE ALGORITHM: y[row, lane] = Σ_step a[place(row) + a_steps[step]] · b[place(lane) + b_steps[step]].
        # THE SCHEDULE: a tile is some blocks of ROWS rows times some lines of up to MOST vectors of columns. CHUNK steps at a time
        # each block of each line is multiplied in registers; the sums of the tile stay in L2. Lines are innermost, so that the
        # rows' operand, of a size for L2 (gemm.py), serves all of them. flags[tile] says whether a sum is not finite.
        blocks_each, supers, outer, lines_each, line_groups = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        pieces, reps, steps, reach, panel_table = geometry[6], geometry[7], geometry[8], geometry[9], geometry[10]
        a_group, a_outer, a_row, b_group, b_outer = geometry[11], geometry[12], geometry[16], geometry[17], geometry[18]
        y_group, y_outer, y_piece, y_row, bias_group = geometry[22], geometry[23], geometry[24], geometry[25], geometry[26]
        planes, rows, every = geometry[27], geometry[28], geometry[29]
        chunks, span = (steps + CHUNK - 1) // CHUNK, blocks_each * height * MOST * width
        for worker in prange(workers):
            sums, upper = scratch[worker][: lines_each * span], scratch[worker][lines_each * span : 2 * lines_each * span]
            panel = scratch[worker][2 * lines_each * span :]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                rest, line0 = tile // line_groups, tile % line_groups * lines_each
                rest, n = rest // outer, rest % outer
                rest, block0 = rest // supers, rest % supers * blocks_each
                group, piece = rest // pieces, rest % pieces
                filled, count_lines = min(blocks_each, blocks.shape[0] - block0), min(lines_each, columns.shape[0] - line0)
                begin, end = reps * chunks * piece // pieces, reps * chunks * (piece + 1) // pieces
                for unit in range(begin, end):
                    rep, step, done = unit // chunks, unit % chunks * CHUNK, unit - begin
                    sample, plane, row = rep // rows // planes, rep // rows % planes, rep % rows
                    at_a = group * a_group + n * a_outer + sample * geometry[13] + plane * geometry[14] + row * geometry[15]
                    at_b = group * b_group + n * b_outer + sample * geometry[19] + plane * geometry[20] + row * geometry[21]
                    count, add = min(CHUNK, steps - step), int(done % CHUNKS != 0)
                    for i in range(count_lines):
                        following = columns[line0 + i + 1 if i + 1 < count_lines else line0, PLACES]
                        ahead, ahead_step = at_b + following, step
                        if i + 1 == count_lines:  # the next chunk, else the next tile
                            ahead_step = step + CHUNK if step + CHUNK < steps else 0
                            if ahead_step == 0:
                                ahead = at_b + columns[min(line0 + count_lines, columns.shape[0] - 1), PLACES]
                        add_chunk(a, at_a, a_row, b, at_b, reach, columns[line0 + i], blocks, block0, filled, a_steps, b_steps,
                                  panel_table, step, count, sums[i * span :], panel, add, every, ahead, ahead_step)  # fmt: skip
                    if end - begin > CHUNKS and (done % CHUNKS == CHUNKS - 1 or unit == end - 1):
                        for i in range(count_lines * span):
                            sums[unsigned(i)] += upper[unsigned(i)] if done >= CHUNKS else 0
                            upper[unsigned(i)] = sums[unsigned(i)]
                if begin == end:
                    sums[:] = 0
                place, bias_at, broken = group * y_group + n * y_outer + piece * y_piece, group * bias_group, 0
                for slot in range(filled):
                    broken |= store_rows(sums, span, columns, targets, line0, count_lines, blocks, block0 + slot, slot, place, y, y_row,
                                         bias, bias_at, zeros, code)  # fmt: skip
                flags[tile] = broken

    return Kernel(product, f"-{isa.name}-{dtype.name}{'-lanes' if bias_per_lane else ''}")


def scratch(blocks_each: int, lines_each: int, isa: _emit.Isa, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: the sums of a tile, twice, and a panel of gathered columns."""
    return MOST * isa.width(dtype) * (2 * lines_each * blocks_each * isa.rows + CHUNK)
