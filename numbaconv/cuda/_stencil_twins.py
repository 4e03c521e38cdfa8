"""The primitives of stencils in plain Python, for the simulator; `_stencil_intrinsics` says the same for GPUs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cuda._simulator import collective


@functools.cache
def correlate(height: int, width: int, down: int, across: int) -> Any:
    """Return the function that adds all taps of a filter to a register tile, 4 rows of 4 neighbouring outputs.

    Of the input in shared memory, rows lie ``pitch`` apart and every ``across``-th column side by side, the next ones ``part`` further on;
    output rows are ``down`` input rows apart. The tile's first column is aligned; w[w_at + r·w_row + s·w_column] are the taps.
    """
    size = [-(-(4 + (width - 1 - first) // across) // 4) * 4 for first in range(min(across, width))]

    def add_taps(acc: Any, shared: Any, at: int, pitch: int, part: int, w: Any, w_at: int, w_row: int, w_column: int) -> Any:
        assert at % 4 == pitch % 4 == 0 and (across == 1 or part % 4 == 0), "a quad is not aligned"
        sums = np.array(acc).reshape(4, 4)
        taps = [[w[w_at + r * w_row + s * w_column] for s in range(width)] for r in range(height)]
        for i in range(3 * down + height):
            rows = [(j, i - j * down) for j in range(4) if 0 <= i - j * down < height]
            window = [shared[at + i * pitch + first * part + np.arange(n)] for first, n in enumerate(size) if rows]
            for s in range(width):
                for j, r in rows:
                    sums[j] += window[s % across][s // across : s // across + 4] * taps[r][s]
        return sums.reshape(-1)

    return add_taps


@functools.cache
def correlate_gradient(height: int, width: int, down: int, across: int) -> Any:
    """Return the function that adds, to one sum for each tap, its input times the gradient of each of 4 × 4 outputs.

    The input lies in shared memory as for `correlate`.
    """

    def add_outputs(acc: Any, shared: Any, at: int, pitch: int, part: int, gradient: Any) -> Any:
        assert at % 4 == pitch % 4 == 0 and (across == 1 or part % 4 == 0), "a quad is not aligned"
        sums = np.array(acc).reshape(height, width)
        for r in range(height):
            for s in range(width):
                rows, columns = (np.arange(4)[:, None] * down + r) * pitch, np.arange(4) + s // across + s % across * part
                sums[r, s] += (shared[at + rows + columns].reshape(-1) * np.array(gradient)).sum()
        return sums.reshape(-1)

    return add_outputs


@functools.cache
def correlate_last_gradient(width: int, across: int) -> Any:
    """Return the function that adds, to sums for each tap of a row and each of 4 channels, the input times the gradient of 4 outputs.

    Columns of the input lie ``column`` apart in shared memory, outputs ``across`` of them; their gradients are given output by output.
    """

    def add_outputs(acc: Any, shared: Any, at: int, column: int, gradient: Any) -> Any:
        assert at % 4 == column % 4 == 0, "a quad is not aligned"
        sums, dy = np.array(acc).reshape(width, 4), np.array(gradient).reshape(4, 4)
        for s in range(width):
            sums[s] += (shared[at + (np.arange(4)[:, None] * across + s) * column + np.arange(4)] * dy).sum(axis=0)
        return sums.reshape(-1)

    return add_outputs


@collective
def warp_sums(lanes: Any) -> Any:
    """Return the sums over the lanes of a warp of each element of a tile, in every lane."""
    sums = np.array(lanes)
    for by in (16, 8, 4, 2, 1):
        sums = sums + sums[np.arange(32) ^ by]
    return list(sums)


def store_tile(memory: Any, index: int, values: Any) -> None:
    """Set memory[index : index + n] = the n values."""
    memory[index : index + len(values)] = values


@functools.cache
def correlate_last(height: int, width: int, down: int, across: int) -> Any:
    """Return the function that adds all taps of 4 channels' filters to a register tile, 2 rows of 4 outputs of those channels.

    Of the input in shared memory, rows lie ``pitch`` apart and columns ``column``; neighbouring outputs are ``down`` rows and ``across``
    columns of the input apart. Taps lie w_tap apart, row by row, those of the 4 channels side by side.
    """

    def add_taps(acc: Any, shared: Any, at: int, pitch: int, column: int, w: Any, w_at: int, w_tap: int) -> Any:
        assert at % 4 == pitch % 4 == column % 4 == w_at % 4 == w_tap % 4 == 0, "a quad is not aligned"
        sums = np.array(acc).reshape(2, 4, 4)
        for i in range(down + height):
            rows = [(j, i - j * down) for j in range(2) if 0 <= i - j * down < height]
            columns = np.arange(3 * across + width if rows else 0)[:, None] * column
            window = shared[at + i * pitch + columns + np.arange(4)] if rows else columns
            for j, r in rows:
                for s in range(width):
                    sums[j] += window[s : s + 3 * across + 1 : across] * w[w_at + (r * width + s) * w_tap + np.arange(4)]
        return sums.reshape(-1)

    return add_taps


def tap(acc: Any, shared: Any, at: int, pitch: int, column: int, weight: Any) -> Any:
    """Return acc + weight · shared[at + j·pitch + e·column] for a register tile of 4 × 4 outputs (j, e)."""
    return acc + shared[at + np.arange(16) // 4 * pitch + np.arange(16) % 4 * column] * weight


def add_tiles(a: Any, b: Any) -> Any:
    """Return the sum of two register tiles."""
    return a + b
