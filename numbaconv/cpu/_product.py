"""The product kernel of `gemm`: where its operands and results lie is in tables, so that one kernel does every operation and layout."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _emit, _simd, _simd_stencil
from numbaconv.cpu.bias import activate

CHUNK = 144  # steps summed in registers at the most: a panel of lanes stays in an L1, and rounding within 8 eps (tests/test_numerics.py)
CHUNKS = 56  # chunks added in one place; sums of longer ones are added in a second (each with the rounding of so many terms at the most)
TOGETHER = 4  # blocks of rows that are packed together if they are neighbours
BESIDE = 4  # columns left over that are multiplied together
MOST = 3  # vectors of a tile's row: what a line of the table of columns has room for
# A line of the table of columns: how many vectors, whether they are whole, and per vector its place, its lanes (bits) and their place in y.
# WHOLE says whether all lanes of all of them count and their places in y are neighbours.
COUNT, WHOLE, PLACES, MASKS, TARGETS, LINE = 0, 1, 2, 2 + MOST, 2 + 2 * MOST, 2 + 3 * MOST
STEPS = 8  # where the geometry says how many terms a sum has
Array = np.ndarray[Any, Any]


@functools.cache
def kernel(isa: _emit.Isa, dtype: np.dtype[Any], bias_per_lane: bool, smooth: bool, packs: bool = True) -> Kernel:
    """Make the product kernel of an instruction set, whose tile shape is part of the code; without the ``smooth`` activations it compiles faster.

    Without ``packs`` the rows are read where they lie: for those that serve a few lines only, and whose steps are neighbours.
    """
    width, height = isa.width(dtype), isa.rows
    tiles = [_simd.multiply(isa, dtype, v, bias_per_lane, packs) for v in range(1, isa.vectors + 1)]
    one, two, three = (tiles + tiles[-1:] * 2)[:3]
    gather_one, gather_two, gather_three = (_simd.gather(isa, dtype, v) for v in (1, 2, 3))
    pack, pack_beside, pack_blocks = _simd.pack(isa, dtype), _simd.pack_beside(isa, dtype), _simd.pack_blocks(isa, dtype, TOGETHER)
    store, store_second, store_pair = (_simd.store(isa, dtype, bias_per_lane, *how) for how in ((1,), (2,), (2, True)))
    soon_written = _simd_stencil.prefetch(True)
    transpose = _simd.transpose(isa, dtype)
    most = max(MOST * width, BESIDE * height)  # elements of a step in a panel
    unrolled, beside, zero = _simd.UNROLLED, _simd.multiply_beside(isa, dtype, BESIDE), dtype.type(0)
    few, few_columns = _simd.multiply_few(isa, dtype), max(1, width // height)

    @inline
    def gather(panel, b, place, columns, line, b_steps, step, count, reach):  # type: ignore[no-untyped-def]
        # Vectors side by side, those that end behind the array element by element.
        vectors, last = columns[line + COUNT], 0
        for v in range(vectors):
            last = max(last, columns[line + PLACES + v])
        if place + last + reach + width <= b.size:
            if vectors == 1:
                gather_one(b, place, columns, line + PLACES, b_steps, step, count, panel, 0)
            elif vectors == 2:
                gather_two(b, place, columns, line + PLACES, b_steps, step, count, panel, 0)
            else:
                gather_three(b, place, columns, line + PLACES, b_steps, step, count, panel, 0)
            return
        for k in range(count):
            for v in range(vectors):
                source, to = place + columns[line + PLACES + v] + b_steps[step + k], (k * vectors + v) * width
                for i in range(width):
                    panel[unsigned(to + i)] = b[source + i] if source + i < b.size else 0

    @inline
    def turn(panel, b, place, columns, line, channel, count):  # type: ignore[no-untyped-def]
        # The same of vectors whose lanes are ``channel`` elements apart, and whose steps are neighbours.
        vectors = columns[line + COUNT]
        for v in range(vectors):
            lanes, mask = 0, columns[line + MASKS + v]
            while mask:
                lanes, mask = lanes + 1, mask >> 1
            for k in range(0, count, width):
                transpose(b, place + columns[line + PLACES + v] + k, channel, lanes, count - k, panel, (k * vectors + v) * width, vectors * width)

    @inline
    def even_chunks(terms):  # type: ignore[no-untyped-def]
        # Chunks of nearly the same size: how many steps, and how many there are.
        most = max(1, (terms + CHUNK - 1) // CHUNK)
        chunk = max(1, ((terms + most - 1) // most + unrolled - 1) // unrolled) * unrolled
        return chunk, (terms + chunk - 1) // chunk

    @inline
    def fill_up(panel, at, count, each):  # type: ignore[no-untyped-def]
        # Zeros for the steps up to where `multiply` takes the last ones together.
        for i in range(at + count * each, at + (count + unrolled - 1) // unrolled * unrolled * each):
            panel[unsigned(i)] = 0

    @inline
    def pack_rows(panel, base, a, place, a_row, blocks, first, filled, a_steps, runs, step, count):  # type: ignore[no-untyped-def]
        # A chunk of a tile's rows, block after block, of each step its rows side by side.
        done = 0
        while a_row == 1 and done < filled and blocks[first + done, 1] == height and blocks[first + done, 0] - blocks[first, 0] == done * height:
            done += 1
        done = done // TOGETHER * TOGETHER
        if done:
            pack_blocks(a, place + blocks[first, 0], a_steps, step, count, done // TOGETHER, panel, base, height * CHUNK)
        if a_row != 1 and count > 1 and runs[step] == 1:  # step after step, whose rows share cache lines with those of other blocks
            done = filled
            for k in range(count):
                for block in range(filled):
                    at, to, valid = (
                        place + blocks[first + block, 0] + a_steps[step + k],
                        base + (block * CHUNK + k) * height,
                        blocks[first + block, 1],
                    )
                    for r in range(height):
                        panel[unsigned(to + r)] = a[unsigned(at + min(r, valid - 1) * a_row)]
        for block in range(filled):
            at, valid, to = place + blocks[first + block, 0], blocks[first + block, 1], base + block * height * CHUNK
            if block < done:
                pass
            elif a_row == 1:
                pack_beside(a, at, a_steps, step, valid, count, panel, to)
            else:
                k = 0
                while k < count:
                    run = min(runs[step + k], width, count - k)
                    if run > 1:
                        pack(a, at + a_steps[step + k], a_row, valid, run, panel, to + k * height)
                    else:
                        for r in range(height):
                            panel[unsigned(to + k * height + r)] = a[unsigned(at + a_steps[step + k] + min(r, valid - 1) * a_row)]
                    k += run
            fill_up(panel, to, count, height)

    @inline
    def multiply_rows(rows, rows_at, a_row, blocks, first, filled, panel, count, columns, line, sums, sums_at, add, store, y, y_place, y_row,  # type: ignore[no-untyped-def]
                      bias, bias_at, relu, b, ahead, b_steps, ahead_step, far):  # fmt: skip
        # Each block of a line; while it is multiplied the caches are asked for its share of what lies ``ahead``.
        vectors, broken, slow = columns[line + COUNT], 0, 0 if far else 62
        size, masks, targets = height * vectors * width, line + MASKS, line + TARGETS
        while far and unrolled << slow + 1 <= filled:
            slow += 1
        for block in range(filled):
            valid, to, soon = blocks[first + block, 1], sums_at + block * size, ahead_step + count * block // filled
            at = rows_at + (block * height * CHUNK if packs else blocks[first + block, 0])
            y_at, shift = y_place + blocks[first + block, 2], bias_at + (columns[targets] if bias_per_lane else blocks[first + block, 3])
            if vectors == 1:
                broken |= one(rows, at, a_row, panel, 0, count, sums, to, add, store, y, y_at, y_row, valid, columns, masks, columns, targets,
                              bias, shift, relu, b, ahead, b_steps, soon, slow)  # fmt: skip
            elif vectors == 2:
                broken |= two(rows, at, a_row, panel, 0, count, sums, to, add, store, y, y_at, y_row, valid, columns, masks, columns, targets,
                              bias, shift, relu, b, ahead, b_steps, soon, slow)  # fmt: skip
            else:
                broken |= three(rows, at, a_row, panel, 0, count, sums, to, add, store, y, y_at, y_row, valid, columns, masks, columns, targets,
                                bias, shift, relu, b, ahead, b_steps, soon, slow)  # fmt: skip
        return broken

    @inline
    def finish(sums, at, vectors, valid, columns, line, bias, bias_at, code):  # type: ignore[no-untyped-def]
        # Activations other than relu are applied before the store, which then adds zeros; returns whether a sum is not finite.
        broken = 0
        for r in range(valid):
            for v in range(vectors):
                first, shift_at = at + (r * vectors + v) * width, bias_at + (v * width if bias_per_lane else r)
                for i in range(width):
                    sums[first + i] += bias[shift_at + i if bias_per_lane else shift_at]
                    if columns[line + MASKS + v] >> i & 1 and not np.isfinite(sums[first + i]):
                        broken = 1
        activate(sums, at, valid * vectors * width, code)
        return broken

    @inline
    def store_some(sums, at, mask, y, to, apart, bias, bias_at, relu):  # type: ignore[no-untyped-def]
        # The lanes of a mask, ``apart`` elements from each other.
        if apart == 1:
            return store(sums, at, y, to, mask, bias, bias_at, relu)
        if apart == 2:
            return store_second(sums, at, y, to, mask, bias, bias_at, relu)
        broken = 0
        for i in range(width):
            if mask >> i & 1:
                value = sums[at + i] + bias[bias_at + (i if bias_per_lane else 0)]
                y[to] = 0 if relu and value < 0 else value
                broken |= not np.isfinite(value)
                to += apart
        return broken

    @inline
    def multiply_tails(rows, rows_at, a_row, blocks, first, filled, b, at_b, tails, b_steps, step, count, sums, base, panel, add):  # type: ignore[no-untyped-def]
        # Columns left over have the rows in the lanes, and each of their elements beside each row; or the steps, if rows are not packed.
        if not packs:
            columns = (len(tails) + few_columns - 1) // few_columns * few_columns
            for c in range(columns):
                source, to = at_b + tails[min(c, len(tails) - 1), 0], c * CHUNK
                for k in range(count):
                    panel[unsigned(to + k)] = b[unsigned(source + b_steps[step + k])]
                for k in range(count, (count + width - 1) // width * width):
                    panel[unsigned(to + k)] = 0
            for c in range(0, columns, few_columns):
                for block in range(filled):
                    at, valid, to = rows_at + blocks[first + block, 0], blocks[first + block, 1], base + (block * columns + c) * height
                    few(rows, at, a_row, valid, panel, c * CHUNK, CHUNK, count, sums, to, add)
            return
        padded, columns = (count + unrolled - 1) // unrolled * unrolled, (len(tails) + BESIDE - 1) // BESIDE * BESIDE
        for c0 in range(0, columns, BESIDE):
            for c in range(BESIDE):
                source, to = at_b + tails[min(c0 + c, len(tails) - 1), 0], c * CHUNK * height
                for k in range(padded):
                    value = b[unsigned(source + b_steps[step + k])] if k < count else zero
                    for r in range(height):
                        panel[unsigned(to + k * height + r)] = value
            for block in range(filled):
                to = base + (block * columns + c0) * height
                beside(rows, rows_at + block * height * CHUNK, panel, 0, CHUNK * height, count, sums, to, add)

    @inline
    def store_tails(sums, base, part, tails, row_targets, blocks, first, filled, place, y, y_row, bias, bias_at, code):  # type: ignore[no-untyped-def]
        together = BESIDE if packs else few_columns
        columns, broken = (len(tails) + together - 1) // together * together, 0
        for block in range(filled):
            for c in range(len(tails)):
                for r in range(blocks[first + block, 1]):
                    at = base + (block * columns + c) * height + r
                    sums[at] += bias[bias_at + blocks[first + block, 3] + r]
                    broken |= not np.isfinite(sums[at])
        if smooth:
            activate(sums, base, filled * height * columns, code)
        for block in range(filled):
            for r in range(blocks[first + block, 1]):
                here = row_targets[blocks[first + block, 3] + r] if row_targets.size else blocks[first + block, 2] + r * y_row
                for c in range(len(tails)):
                    if part > tails[c, 2]:
                        continue
                    value = sums[base + (block * columns + c) * height + r]
                    y[place + here + tails[c, 1] + part] = 0 if code == 1 and value < 0 else value
        return broken

    @inline
    def activate_rows(y, place, y_row, columns, line0, count_lines, blocks, first, filled, code):  # type: ignore[no-untyped-def]
        # What was stored straight from the registers, with activations that those do not know.
        if count_lines == 0 or code <= 1:
            return
        start, line = columns[line0 * LINE + TARGETS], (line0 + count_lines - 1) * LINE
        last = columns[line + COUNT] - 1
        stop, mask = columns[line + TARGETS + last], columns[line + MASKS + last]
        while mask:
            stop, mask = stop + (mask & 1), mask >> 1
        for block in range(first, first + filled):
            for r in range(blocks[block, 1]):
                activate(y, place + blocks[block, 2] + r * y_row + start, stop - start, code)

    @inline
    def ask_rows(columns, stretches, starts, row_targets, line0, count_lines, blocks, block, place, y, y_row):  # type: ignore[no-untyped-def]
        # A core waits for every line that it stores to: these are asked for while others are stored.
        for r in range(blocks[block, 1]):
            here = place + (row_targets[blocks[block, 3] + r] if row_targets.size else blocks[block, 2] + r * y_row)
            for i in range(line0, line0 + count_lines):
                for v in range(0 if starts.size else columns[i * LINE + COUNT]):
                    soon_written(y, here + columns[i * LINE + TARGETS + v])
                for n in range(starts[i] if starts.size else 0, starts[i + 1] if starts.size else 0):
                    soon_written(y, here + stretches[n, 2])
                    soon_written(y, here + stretches[n, 2] + width)

    @inline
    def store_rows(sums, span, second, columns, stretches, starts, apart, row_targets, line0, count_lines, blocks, block, slot, place, y,  # type: ignore[no-untyped-def]
                   y_row, bias, bias_at, zeros, code):  # fmt: skip
        # Line after line of a row, so that neighbours in y are written together.
        valid, broken = blocks[block, 1], 0
        shifts = zeros if code > 1 else bias  # the store itself knows relu alone
        if smooth:
            for i in range(count_lines if code > 1 else 0):
                line = (line0 + i) * LINE
                vectors, shift_at = columns[line + COUNT], bias_at + (columns[line + TARGETS] if bias_per_lane else blocks[block, 3])
                at = i * span + slot * height * vectors * width
                broken |= finish(sums, at, vectors, valid, columns, line, bias, shift_at, code)
                if second:
                    broken |= finish(sums, second + at, vectors, valid, columns, line, bias, shift_at, code)
        # The even and the odd columns of a transposed stride of 2, neighbours in y, are stored together: sums of their own, or a row and the next.
        merged = apart == 2 and row_targets.size > 0 and row_targets[1] - row_targets[0] == 1
        for r in range(0, valid, 1 + merged):
            here = place + (row_targets[blocks[block, 3] + r] if row_targets.size else blocks[block, 2] + r * y_row)
            for i in range(count_lines):
                line = (line0 + i) * LINE
                vectors = columns[line + COUNT]
                source = i * span + (slot * height + r) * vectors * width
                shift_at = 0 if code > 1 else bias_at + (columns[line + TARGETS] if bias_per_lane else blocks[block, 3] + r)
                for v in range(0 if starts.size else vectors):
                    which = shift_at + (v * width if bias_per_lane else 0)
                    to, mask = here + columns[line + TARGETS + v], columns[line + MASKS + v]
                    broken |= store(sums, source + v * width, y, to, mask, shifts, which, code == 1)
                for n in range(starts[line0 + i] if starts.size else 0, starts[line0 + i + 1] if starts.size else 0):
                    v, mask, to = stretches[n, 0], stretches[n, 1], here + stretches[n, 2]
                    which = shift_at + (v * width if bias_per_lane else 0)
                    if second or merged:
                        other = second if second else vectors * width
                        broken |= store_pair(sums, source + v * width, other, y, to, mask, stretches[n, 3], shifts, which, code == 1)
                    else:
                        broken |= store_some(sums, source + v * width, mask, y, to, apart, shifts, which, code == 1)
        return broken

    @inline
    def add_lines(rows, rows_at, a_row, b, at_b, turned, reach, columns, line0, count_lines, span, blocks, first, filled, b_steps, step, stop,  # type: ignore[no-untyped-def]
                  count, sums, base, panel, add, last, y, y_place, y_row, bias, bias_at, relu, far):  # fmt: skip
        # A chunk of a tile's lines; ahead lies the next line, behind the last the next chunk, or the next tile. The last chunk of a sum
        # goes to y, the others to the sums. Numba would compile `multiply_rows` once more for literals.
        broken, lines = 0, columns.size // LINE
        for i in range(count_lines):
            line, ahead_step = (line0 + i) * LINE, step
            ahead = at_b + columns[(line0 + (i + 1 if i + 1 < count_lines else 0)) * LINE + PLACES]
            if i + 1 == count_lines:
                ahead_step = step + count
                if ahead_step >= stop:
                    ahead, ahead_step = at_b + columns[min(line0 + count_lines, lines - 1) * LINE + PLACES], 0
            store = 0 if not last else _simd.WHOLE if columns[line + WHOLE] else _simd.SOME
            if turned:
                turn(panel, b, at_b + b_steps[step], columns, line, turned, count)
            else:
                gather(panel, b, at_b, columns, line, b_steps, step, count, reach)
            fill_up(panel, 0, count, columns[line + COUNT] * width)
            broken |= multiply_rows(rows, rows_at, a_row, blocks, first, filled, panel, count, columns, line, sums, base + i * span, add, store,
                                    y, y_place, y_row, bias, bias_at, relu, b, ahead, b_steps, ahead_step, far)  # fmt: skip
        return broken

    @inline
    def store_tile(sums, span, second, columns, stretches, starts, apart, row_targets, line0, count_lines, blocks, first, filled, place, y,  # type: ignore[no-untyped-def]
                   y_row, bias, bias_at, zeros, code):  # fmt: skip
        ask_rows(columns, stretches, starts, row_targets, line0, count_lines, blocks, first, place, y, y_row)
        broken = 0
        for slot in range(filled):
            if slot + 1 < filled:
                ask_rows(columns, stretches, starts, row_targets, line0, count_lines, blocks, first + slot + 1, place, y, y_row)
            broken |= store_rows(sums, span, second, columns, stretches, starts, apart, row_targets, line0, count_lines, blocks, first + slot,
                                 slot, place, y, y_row, bias, bias_at, zeros, code)  # fmt: skip
        return broken

    def product(first, last, workers, scratch, a, b, y, bias, zeros, code, strange,  # type: ignore[no-untyped-def]
                geometry, a_steps, runs, b_steps, blocks, columns, stretches, starts, tails, row_targets):  # fmt: skip
        # THE ALGORITHM: y[row, lane] = Σ_step a[place(row) + a_steps[step]] · b[place(lane) + b_steps[step]].
        # THE SCHEDULE: a tile is some blocks of ROWS rows times some lines of up to MOST vectors of columns. CHUNK steps at a time its rows
        # are packed, for L2, then each line of columns, for L1, and each block of it is multiplied in registers; the sums of the tile stay
        # in L2. strange[0] says whether a sum is not finite.
        blocks_each, supers, outer, lines_each, line_groups = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        pieces, reps, steps, reach, kept = geometry[6], geometry[7], geometry[STEPS], geometry[9], geometry[10]
        a_group, a_outer, a_row, b_group, b_outer = geometry[11], geometry[12], geometry[16], geometry[17], geometry[18]
        y_group, y_outer, y_piece, y_row, bias_group = geometry[22], geometry[23], geometry[24], geometry[25], geometry[26]
        planes, lines_of, far, apart, parts, first_steps = geometry[27], geometry[28], geometry[29], geometry[30], geometry[31], geometry[32]
        turned, span, lines = geometry[33], blocks_each * height * MOST * width, columns.size // LINE
        room, panel_room, per_chunk = lines_each * span, most * CHUNK, height * blocks_each * CHUNK
        first_chunks = (first_steps + CHUNK - 1) // CHUNK if parts > 1 else 0
        all_chunks = first_chunks + (steps - (first_steps if parts > 1 else 0) + CHUNK - 1) // CHUNK
        packed_room = per_chunk * (all_chunks if kept else 1) + height * width
        second = room if parts > 1 else 0
        for worker in prange(workers):
            sums, upper = scratch[worker][: parts * room], scratch[worker][parts * room :][:room]
            panel = scratch[worker][(parts + 1) * room :]
            packed, tail_sums = panel[panel_room:], panel[panel_room + packed_room :]
            room_tails, have = len(tail_sums) // parts, -1
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                wanted, line0 = tile // line_groups, tile % line_groups * lines_each  # of tiles that follow each other, the rows are the same
                rest, n = wanted // outer, wanted % outer
                rest, block0 = rest // supers, rest % supers * blocks_each
                group, piece = rest // pieces, rest % pieces
                filled, count_lines = min(blocks_each, blocks.shape[0] - block0), min(lines_each, lines - line0)
                place, bias_at, broken = group * y_group + n * y_outer + piece * y_piece, group * bias_group, 0
                straight = False  # from the registers to y
                for part in range(parts):
                    base_tails = part * room_tails
                    base, start, stop = part * room, part * first_steps, steps if part + 1 == parts else first_steps
                    chunk, chunks = even_chunks(stop - start)
                    begin, end = reps * chunks * piece // pieces, reps * chunks * (piece + 1) // pieces
                    straight = parts == 1 and 0 < end - begin <= CHUNKS and starts.size == 0
                    for unit in range(begin, end):
                        rep, step, done = unit // chunks, start + unit % chunks * chunk, unit - begin
                        sample, plane, row = rep // lines_of // planes, rep // lines_of % planes, rep % lines_of
                        at_a = group * a_group + n * a_outer + sample * geometry[13] + plane * geometry[14] + row * geometry[15]
                        at_b = group * b_group + n * b_outer + sample * geometry[19] + plane * geometry[20] + row * geometry[21]
                        count, add = min(chunk, stop - step), int(done % CHUNKS != 0)
                        last_chunk = straight and unit == end - 1
                        slot = (part * first_chunks + unit if kept else 0) * per_chunk
                        rows, rows_at = packed if packs else a, slot if packs else at_a + a_steps[step]
                        if packs and have != wanted:
                            pack_rows(packed, slot, a, at_a, a_row, blocks, block0, filled, a_steps, runs, step, count)
                        broken |= add_lines(rows, rows_at, a_row, b, at_b, turned, reach, columns, line0, count_lines, span, blocks, block0,
                                            filled, b_steps, step, stop, count, sums, base, panel, add, last_chunk, y, place, y_row, bias,
                                            bias_at, code == 1, far)  # fmt: skip
                        if len(tails) and line0 + count_lines == lines:
                            multiply_tails(
                                rows, rows_at, a_row, blocks, block0, filled, b, at_b, tails, b_steps, step, count, tail_sums, base_tails, panel, add
                            )
                        if end - begin > CHUNKS and (done % CHUNKS == CHUNKS - 1 or unit == end - 1):
                            for i in range(count_lines * span):
                                sums[unsigned(base + i)] += upper[unsigned(i)] if done >= CHUNKS else 0
                                upper[unsigned(i)] = sums[unsigned(base + i)]
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

    return Kernel(product, f"-{isa.name}-{dtype.name}{'-lanes' * bias_per_lane}{'-smooth' * smooth}{'-direct' * (not packs)}")


def scratch(blocks_each: int, lines_each: int, parts: int, tails: int, chunks: int, isa: _emit.Isa, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: a tile's sums of each part and once more, its panels, and the sums of the columns left over."""
    width, height, most = isa.width(dtype), isa.rows, max(BESIDE, isa.width(dtype) // isa.rows)
    room, packed = MOST * width * lines_each * blocks_each * height, height * (blocks_each * chunks * CHUNK + width)
    return (parts + 1) * room + max(MOST * width, BESIDE * height) * CHUNK + packed + parts * -(-tails // most) * most * blocks_each * height
