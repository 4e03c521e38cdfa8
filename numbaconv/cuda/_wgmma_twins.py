"""The primitives of `_wgmma` in plain Python, for the simulator; `_wgmma_intrinsics` says the same for Hopper GPUs.

Both operands of a product lie by lines of 128 bytes, the contraction along them, in shared memory: eight lines fill 1024 bytes that begin
at a multiple of that, and the eight vectors of 16 bytes of a line are permuted, the number of each xor-ed with the line's (the 128-byte
swizzle). A warp of the four gets the sums of 16 of each 64 lines of the first operand (PTX manual, "Register fragments for wgmma").
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cuda._simulator import collective, running_thread
from numbaconv.cuda._tensor_twins import GROUP, IN_GROUP, rounded, widened
from numbaconv.cuda._twins import copy16, wait

LINE = 128


def publish(shared: Any) -> None:
    """Make what the thread has written to shared memory visible to products that start after the next barrier."""


def _lines(shared: Any, at: int, first: int, count: int, kind: str) -> Any:
    """Return some lines of an operand as numbers, tf32 cut off as the hardware does."""
    each = LINE // shared.array.itemsize
    vector = each // 8
    assert at * shared.array.itemsize % 1024 == 0, f"an operand at {at} is not aligned"
    line = first + np.arange(count)[:, None]
    place = np.arange(each)[None]
    bits = shared[at + line * each + ((place // vector) ^ (line % 8)) * vector + place % vector]
    return (bits.view(np.uint32) & 0xFFFFE000).view(np.float32) if kind == "tf32" else widened(bits, kind)


def _places(width: int) -> tuple[Any, Any]:
    """Return which line and column of 16 × width sums each lane has, one after the other."""
    rows = GROUP[:, None, None, None] + 8 * np.arange(2)[:, None]
    return rows, IN_GROUP[:, None, None, None] * 2 + 8 * np.arange(width // 8)[:, None, None] + np.arange(2)


def _start(shared: Any, kind: str, parts: Any) -> None:
    """Note that a product reads parts of shared memory until it is waited for."""
    shared.pending.setdefault(("products", running_thread() // 32), []).append((kind, tuple(parts)))


def _units(shared: Any, at: int, lines: int, count: int) -> list[tuple[int, int, int]]:
    """Return the parts of shared memory where so many units of 64 elements a line lie, one after the other."""
    return [(at + number * 8192 // shared.array.itemsize, 0, lines) for number in range(count)]


@functools.cache
def multiply(kind: str, width: int, planes: bool) -> Any:
    """Return the start of a warpgroup's product, acc + a · b transposed over one slab: 64 lines of a, ``width`` of b.

    acc[4j + 2i + e] is line 16 · quarter + lane//4 + 8i of a, line 8j + lane%4·2 + e of b. ``planes``: instead of such lines b has, for each
    64 of them, as many lines of the contraction.
    """
    places = _places(width)

    @collective
    def product(acc, shared, a_at, b_at, quarter):  # type: ignore[no-untyped-def]
        assert len({*zip(a_at, b_at, quarter, strict=True)}) == 1
        parts = [(a_at[0], 16 * quarter[0], 16)]
        parts += _units(shared[0], b_at[0], 64, width // 64) if planes else [(b_at[0], 0, width)]
        a, *b = (_lines(shared[0], *part, kind) for part in parts)
        _start(shared[0], kind, zip(parts, (a, *b), strict=True))
        return list(np.array(acc, np.float32) + (a @ (np.concatenate(b, 1) if planes else b[0].T))[places].reshape(32, width // 2))

    return product


@functools.cache
def multiply_down(kind: str, lines: int) -> Any:
    """Return the start of a warpgroup's product, acc + a transposed · b over so many lines: 64 elements of each of a, twice 64 of b.

    acc[4j + 2i + e] is element 16 · quarter + lane//4 + 8i of a, 8j + lane%4·2 + e of b, whose second 64 lie 8192 bytes from the first.
    """
    places = _places(128)

    @collective
    def product(acc, shared, a_at, b_at, quarter):  # type: ignore[no-untyped-def]
        assert len({*zip(a_at, b_at, quarter, strict=True)}) == 1
        parts = [(a_at[0], 0, lines), *_units(shared[0], b_at[0], lines, 2)]
        a, *b = (_lines(shared[0], *part, kind) for part in parts)
        _start(shared[0], kind, zip(parts, (a, *b), strict=True))
        sums = a[:, 16 * quarter[0] : 16 * quarter[0] + 16].T @ np.concatenate(b, 1)
        return list(np.array(acc, np.float32) + sums[places].reshape(32, 64))

    return product


@functools.cache
def settle(pending: int) -> Any:
    """Return the wait for all products but the ``pending`` newest ones; until then they may read their operands."""

    @collective
    def settled(acc, shared):  # type: ignore[no-untyped-def]
        started = shared[0].pending.setdefault(("products", running_thread() // 32), [])
        while len(started) > pending:
            kind, operands = started.pop(0)
            for part, read in operands:
                np.testing.assert_array_equal(_lines(shared[0], *part, kind), read, "overwritten before it was multiplied")
        return acc

    return settled


@functools.cache
def every(count: int) -> Any:
    """Return a function that reads ``count`` elements, some apart."""
    return lambda memory, index, step: tuple(memory[index + step * i] for i in range(count))


@functools.cache
def copy_lines(apart: int) -> Any:
    """Return the start of 16-byte copies, one for each of some lines that lie ``apart`` bytes from each other in shared memory.

    The i-th is of memory[bases[i] + offset], or of zeros unless masks[i] has the bit ``tap``.
    """

    def copy(shared, to, memory, bases, masks, offset, tap):  # type: ignore[no-untyped-def]
        for i, (base, mask) in enumerate(zip(bases, masks, strict=True)):
            copy16(shared, to, 0, i * apart // shared.array.itemsize, memory, base + offset, bool(mask >> tap & 1))

    return copy


@functools.cache
def round_lines(count: int, apart: int) -> Any:
    """Return the rounding to tf32, where they lie, of 16 bytes of each of some lines."""

    def rounding(shared, at):  # type: ignore[no-untyped-def]
        for i in range(count):
            first = at + i * apart // 4
            shared[first : first + 4] = rounded(shared[first : first + 4])

    return rounding


@functools.cache
def put_sums(pitch: int) -> Any:
    """Return a function that puts a thread's sums into shared memory as float32, lines ``pitch`` apart, its first one at ``at``."""

    def put(shared, at, acc):  # type: ignore[no-untyped-def]
        values, each = np.array(acc, np.float32).view(shared.array.dtype), 4 // shared.array.itemsize
        number = np.arange(0, len(acc), 2)
        places = at + 8 * (number // 2 % 2) * pitch + number // 4 * 8
        shared[(places[:, None] * each + np.arange(2 * each)).reshape(-1)] = values

    return put


@functools.cache
def take_sums(count: int) -> Any:
    """Return a function that reads ``count`` neighbouring float32 of shared memory, four at a time."""

    def take(shared, at):  # type: ignore[no-untyped-def]
        assert at % min(count, 4) == 0, f"sums at {at} are not aligned"
        each = 4 // shared.array.itemsize
        return tuple(shared[at * each : (at + count) * each].view(np.float32))

    return take


@functools.cache
def wait_for(pending: int) -> Any:
    """Return the wait for all of the thread's groups of copies but the ``pending`` newest ones."""
    return lambda shared: wait(shared, pending)
