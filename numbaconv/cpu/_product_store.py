"""How the sums of a tile of `gemm` get to y where they do not go there straight from the registers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv._jit import inline
from numbaconv.cpu import _isa, _simd, _simd_stencil
from numbaconv.cpu._simd_tile import COUNT, LINE, MASKS, TARGETS
from numbaconv.cpu.bias import activate


@functools.cache
def stores(isa: _isa.Isa, dtype: np.dtype[Any], bias_per_lane: bool, smooth: bool, together: int) -> tuple[Any, Any, Any]:
    """Return the compiled-code functions `store_tile`, `store_tails` (of columns left over, ``together`` at a time) and `activate_rows`."""
    width, height = isa.width(dtype), isa.rows
    store, store_second, store_pair = (_simd.store(isa, dtype, bias_per_lane, *how) for how in ((1,), (2,), (2, True)))
    soon_written = _simd_stencil.prefetch(True)

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

    @inline
    def store_tails(sums, base, part, tails, row_targets, blocks, first, filled, place, y, y_row, bias, bias_at, code):  # type: ignore[no-untyped-def]
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

    return store_tile, store_tails, activate_rows
