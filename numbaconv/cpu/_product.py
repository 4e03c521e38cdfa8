"""The product kernel of `gemm`: where its operands and results lie is in tables, so that one kernel does every operation and layout."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _isa, _panels, _product_store, _simd, _simd_tile
from numbaconv.cpu._panels import BESIDE, CHUNK, CHUNKS, PANELS, STEPS
from numbaconv.cpu._simd_tile import AHEAD, COUNT, LINE, MOST, PAST, PLACES, SOME, TO_SUMS, UNROLLED, WHOLE, WHOLES

# Elements of the scratch, whole cache lines, whose first word notes what rows it holds, for the thread's next draw of the job: 1 + `wanted`, or 0.
# Whoever shares a job finds 0 there (`_share._work`); who works alone does the tiles in order, and has none at the first.
NOTED = 16
MARKED = 62  # lines that the bits of an integer can tell apart


@functools.cache
def kernel(isa: _isa.Isa, dtype: np.dtype[Any], bias_per_lane: bool, smooth: bool, packs: bool = True) -> Kernel:
    """Make the product kernel of an instruction set, whose tile shape is part of the code; without the ``smooth`` activations it compiles faster.

    Without ``packs`` the rows are read where they lie: for those that serve a few lines only, and whose steps are neighbours.
    """
    width, height = isa.width(dtype), isa.rows
    multiply, settle = _simd_tile.multiply(isa, dtype, bias_per_lane, packs), _simd_tile.settle(isa, dtype)
    most = max(PANELS * MOST * width, BESIDE * height)  # elements of a step in the panels
    beside, beside_one = (_simd.multiply_beside(isa, dtype, columns) for columns in (BESIDE, 1))
    few, zero = _simd.multiply_few(isa, dtype), dtype.type(0)
    together = BESIDE if packs else max(1, width // height)  # columns left over that are multiplied at once
    widest = isa.vectors
    even_chunks, (inside, pack_lanes, pack_rows) = _panels.even_chunks, _panels.packers(isa, dtype)
    store_tile, store_tails, activate_rows = _product_store.stores(isa, dtype, bias_per_lane, smooth, together)

    @inline
    def multiply_tails(rows, rows_at, a_row, to_block, blocks, first, filled, b, at_b, tails, b_steps, step, count, sums, base, panel, add):  # type: ignore[no-untyped-def]
        # Columns left over: beside packed rows each of their elements is there ROWS times; others have the steps in their lanes.
        each = height if packs else 1
        pitch = (CHUNK + width - 1) // width * width * each
        padded, columns = (count + width - 1) // width * width, (len(tails) + together - 1) // together * together
        for c0 in range(0, columns, together):
            for c in range(1 if packs and len(tails) - c0 == 1 else together):
                source, to = at_b + tails[min(c0 + c, len(tails) - 1), 0], c * pitch
                for k in range(padded):
                    at = source + b_steps[step + k]  # a column that one of two parts has may lie behind the array for the other
                    value = b[unsigned(at)] if k < count and at < b.size else zero
                    for r in range(each):
                        panel[unsigned(to + k * each + r)] = value
            for block in range(filled):
                to = base + (block * columns + c0) * height
                if packs and len(tails) - c0 == 1:
                    for i in range(height, 0 if add else together * height):  # the others, which activations see, too
                        sums[unsigned(to + i)] = 0
                    beside_one(rows, rows_at + block * to_block, panel, 0, pitch, count, sums, to, add)
                elif packs:
                    beside(rows, rows_at + block * to_block, panel, 0, pitch, count, sums, to, add)
                else:
                    few(rows, rows_at + blocks[first + block, 0], a_row, blocks[first + block, 1], panel, 0, pitch, count, sums, to, add)

    @inline
    def add_lines(rows, rows_at, a_row, to_block, b, at_b, turned, reach, columns, line0, count_lines, span, blocks, first, filled, b_steps, step,  # type: ignore[no-untyped-def]
                  stop, count, sums, base, panels, add, last, whole, y, y_place, y_row, bias, bias_at, relu, far, next_rows, to_next):  # fmt: skip
        # A chunk of a tile's lines: some lines of each block, so that long runs of y are written one after the other. The last chunk of a sum
        # goes to y, the others to the sums. The first block packs the lanes that are not packed yet; the others ask the caches for what lies
        # ahead, each for its share, and where they are too few the first for all of it.
        each, broken, asking, slow = (count + UNROLLED - 1) // UNROLLED * UNROLLED * widest * width, 0, max(1, filled - 1), 0 if far else 62
        at_once = min(MARKED, max(1, (PANELS if whole < PAST else 1) * MOST * CHUNK * width // each))
        while far and UNROLLED << slow + 1 <= asking:
            slow += 1
        for i0 in range(0, count_lines, at_once):
            some, unpacked = min(at_once, count_lines - i0), 0
            for i in range(some):
                line = (line0 + i0 + i) * LINE
                if filled > 1 and not turned and columns[line + COUNT] == widest and count % UNROLLED == 0 and inside(b, at_b, columns, line, reach):
                    unpacked |= 1 << i
                else:
                    pack_lanes(panels, i * each, b, at_b, turned, reach, columns, line, b_steps, step, count)
            for block in range(filled):
                at, place = rows_at + (block * to_block if packs else blocks[first + block, 0]), y_place + blocks[first + block, 2]
                shift, share = bias_at + blocks[first + block, 3], count * max(0, block - 1) // asking
                if not packs:  # rows are asked for a block ahead: 1024 of 256 steps on 14×14, 57 layers in turn, 525 → 460 µs, as long as from L3
                    after = first + (block + 1 if block + 1 < filled else 0)
                    next_rows = blocks[after, 0] - blocks[first + block, 0] + (0 if block + 1 < filled else count)
                for i in range(some):
                    line, ahead, soon, sample = (line0 + i0 + i) * LINE, (line0 + i0 + i + some) * LINE, share, 0
                    if i0 + i + some >= count_lines:  # of the next chunk, or the next tile, which may be the next sample's
                        more = step + count < stop
                        soon, sample = soon + (count if more else -step), 0 if more else to_next
                        ahead = ahead - count_lines * LINE if more else ahead - columns.size if sample else min(ahead, columns.size - LINE)
                    gathers = unpacked >> i & 1 if block == 0 else 0
                    to = base + (i0 + i) * span + block * height * columns[line + COUNT] * width
                    store = TO_SUMS if not last else whole if columns[line + WHOLE] else SOME
                    pace, next_at = 62 if gathers and asking >= UNROLLED else slow, sample + columns[ahead + PLACES]
                    if gathers and far and i0 == 0:  # the next line, which nobody asked for if another thread had the tile before
                        pace, next_at, soon = 0, columns[min(line + LINE, columns.size - LINE) + PLACES], 0
                    broken |= multiply(rows, at, a_row, panels, i * each, gathers, b, at_b, b_steps, step, next_at, soon, pace, columns,
                                       line, count, sums, to, add, store, y, place, y_row, blocks[first + block, 1], bias, shift, relu,
                                       next_rows if packs or i == 0 else 0)  # fmt: skip
        return broken

    @inline
    def find(unit, chunk, chunks, start, stop, group, n, geometry):  # type: ignore[no-untyped-def]
        # A unit of a sum, which is a chunk of a repetition: its first step, how many there are, and where their operands begin.
        rep, step, planes, rows = unit // chunks, start + unit % chunks * chunk, geometry[27], geometry[28]
        sample, plane, row = rep // rows // planes, rep // rows % planes, rep % rows
        at_a = group * geometry[11] + n * geometry[12] + sample * geometry[13] + plane * geometry[14] + row * geometry[15]
        at_b = group * geometry[17] + n * geometry[18] + sample * geometry[19] + plane * geometry[20] + row * geometry[21]
        return step, min(chunk, stop - step), at_a, at_b

    @inline
    def carry(sums, base, upper, size, first):  # type: ignore[no-untyped-def]
        # Sums of CHUNKS chunks are added to those of the chunks before.
        for i in range(size):
            sums[unsigned(base + i)] += 0 if first else upper[unsigned(i)]
            upper[unsigned(i)] = sums[unsigned(base + i)]

    def product(first, last, workers, scratch, a, ready, b, y, bias, zeros, code, strange,  # type: ignore[no-untyped-def]
                geometry, a_steps, runs, b_steps, blocks, columns, stretches, starts, tails, row_targets):  # fmt: skip
        # THE ALGORITHM: y[row, lane] = Σ_step a[place(row) + a_steps[step]] · b[place(lane) + b_steps[step]].
        # THE SCHEDULE: a tile is some blocks of ROWS rows times some lines of up to MOST vectors of columns. CHUNK steps at a time its rows
        # are packed, for L2, then lines of columns, as the first block is multiplied, and each block of them in registers; the sums of the tile stay
        # in L2. Rows that are ``ready`` were packed before (`_tables.packed_rows`). strange[0] says whether a sum is not finite.
        blocks_each, supers, outer, lines_each, line_groups = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        pieces, reps, steps, reach, kept = geometry[6], geometry[7], geometry[STEPS], geometry[9], geometry[10]
        a_row, rows_alike = geometry[16], outer if geometry[12] == 0 else 1  # samples that read the same rows
        y_group, y_outer, y_piece, y_row, bias_group = geometry[22], geometry[23], geometry[24], geometry[25], geometry[26]
        far, apart, parts, first_steps, turned = geometry[29], geometry[30], geometry[31], geometry[32], geometry[33]
        whole = PAST if geometry[34] and code < 2 else WHOLES  # what the other activations read once more stays in the caches
        to_block, next_rows = geometry[35] * height, AHEAD * UNROLLED * height if ready.size else 0  # from panel to panel, and to what is asked for
        span, lines = blocks_each * height * MOST * width, columns.size // LINE
        room, panel_room, per_chunk = lines_each * span, most * CHUNK, height * blocks_each * CHUNK
        first_chunks = (first_steps + CHUNK - 1) // CHUNK if parts > 1 else 0
        all_chunks = first_chunks + (steps - (first_steps if parts > 1 else 0) + CHUNK - 1) // CHUNK
        packed_room = per_chunk * (all_chunks if kept else 1) + 2 * height * width
        second = room if parts > 1 else 0
        for worker in prange(workers):
            noted, own = scratch[worker][:NOTED].view(np.int64), scratch[worker][NOTED:]
            sums, upper, panel = own[: parts * room], own[parts * room :][:room], own[(parts + 1) * room :]
            packed, tail_sums = panel[panel_room:], panel[panel_room + packed_room :]
            room_tails, have = len(tail_sums) // parts, noted[0] - 1 if first > 0 else -1
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                rest, part_of_lines = tile // line_groups, tile % line_groups
                wanted, rest, n = rest // rows_alike, rest // outer, rest % outer  # rows of the tiles before may be wanted again
                rest, part_of_blocks = rest // supers, rest % supers
                group, piece = rest // pieces, rest % pieces
                line0, block0 = lines * part_of_lines // line_groups, blocks.shape[0] * part_of_blocks // supers  # tiles of about the same size
                count_lines, filled = lines * (part_of_lines + 1) // line_groups - line0, blocks.shape[0] * (part_of_blocks + 1) // supers - block0
                place, bias_at, broken = group * y_group + n * y_outer + piece * y_piece, group * bias_group, 0
                to_next = geometry[18] if line0 + count_lines == lines and n + 1 < outer else 0  # from the sample's lanes to those that follow
                straight = False  # from the registers to y
                for part in range(parts):
                    base_tails = part * room_tails
                    base, start, stop = part * room, part * first_steps, steps if part + 1 == parts else first_steps
                    chunk, chunks = even_chunks(stop - start)
                    begin, end = reps * chunks * piece // pieces, reps * chunks * (piece + 1) // pieces
                    straight = parts == 1 and 0 < end - begin <= CHUNKS and starts.size == 0
                    for unit in range(begin, end):
                        step, count, at_a, at_b = find(unit, chunk, chunks, start, stop, group, n, geometry)
                        add, last_chunk = int((unit - begin) % CHUNKS != 0), straight and unit == end - 1
                        slot = (part * first_chunks + unit if kept else 0) * per_chunk
                        rows, rows_at = packed if packs else a, slot if packs else at_a + a_steps[step]
                        if packs and ready.size:
                            rows = ready
                            rows_at = ((group * all_chunks + part * first_chunks + unit) * blocks.shape[0] + block0) * to_block
                        elif packs and have != wanted:
                            pack_rows(packed, slot, a, at_a, a_row, blocks, block0, filled, a_steps, runs, step, count)
                        broken |= add_lines(rows, rows_at, a_row, to_block, b, at_b, turned, reach, columns, line0, count_lines, span, blocks, block0,
                                            filled, b_steps, step, stop, count, sums, base, panel, add, last_chunk, whole, y, place, y_row, bias,
                                            bias_at, code == 1, far, next_rows, to_next)  # fmt: skip
                        if len(tails) and line0 + count_lines == lines:
                            multiply_tails(rows, rows_at, a_row, to_block, blocks, block0, filled, b, at_b, tails, b_steps, step, count, tail_sums,
                                           base_tails, panel, add)  # fmt: skip
                        if end - begin > CHUNKS and ((unit - begin) % CHUNKS == CHUNKS - 1 or unit == end - 1):
                            carry(sums, base, upper, count_lines * span, unit - begin < CHUNKS)
                    if kept and part + 1 == parts:
                        have = wanted
                    if begin == end:
                        for i in range(count_lines * span):
                            sums[unsigned(base + i)] = 0
                        tail_sums[base_tails : base_tails + room_tails] = 0
                if smooth:
                    activate_rows(y, place, y_row, columns, line0, count_lines if straight else 0, blocks, block0, filled, code)
                if not straight:
                    broken |= store_tile(sums, span, second, columns, stretches, starts, apart, row_targets, line0, count_lines, blocks, block0,
                                         filled, place, y, y_row, bias, bias_at, zeros, code)  # fmt: skip
                for part in range(parts if len(tails) and line0 + count_lines == lines else 0):
                    broken |= store_tails(tail_sums, part * room_tails, part, tails, row_targets, blocks, block0, filled, place, y, y_row,
                                          bias, bias_at, code)  # fmt: skip
                if broken:
                    strange[0] = 1
            noted[0] = have + 1
            if whole == PAST:
                settle()

    return Kernel(product, f"-{isa.name}-{dtype.name}{'-lanes' * bias_per_lane}{'-smooth' * smooth}{'-direct' * (not packs)}")


def scratch(blocks_each: int, lines_each: int, parts: int, tails: int, chunks: int, isa: _isa.Isa, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: a tile's sums of each part and once more, its panels, and the sums of the columns left over."""
    width, height, most = isa.width(dtype), isa.rows, max(BESIDE, isa.width(dtype) // isa.rows)
    room, packed = MOST * width * lines_each * blocks_each * height, height * (blocks_each * chunks * CHUNK + 2 * width)
    tail_sums = parts * -(-tails // most) * most * blocks_each * height
    return NOTED + (parts + 1) * room + max(PANELS * MOST * width, BESIDE * height) * CHUNK + packed + tail_sums
