"""The primitives of kernels in plain Python, for the simulator; `_intrinsics` says the same for GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._simulator import running_thread

SLAB = 8
_ROWS, _HALVES, _FOUR = np.arange(SLAB)[:, None], np.repeat([0, 1], 4), np.tile(np.arange(4), 2)


def int32(value: Any) -> int:
    """Return the value as an int32 would hold it; one that it cannot hold is a mistake."""
    value = int(value)
    assert -(2**31) <= value < 2**31, f"{value} is no int32"
    return value


def load4(memory: Any, index: int) -> Any:
    """Return memory[index : index + 4]; the address is a multiple of 16 bytes, or of the four elements' size if that is less."""
    assert index * memory.array.itemsize % min(16, 4 * memory.array.itemsize) == 0, f"element {index} is not aligned"
    return memory[index : index + 4]


def store4(memory: Any, index: int, values: Any) -> None:
    """Set memory[index : index + 4] = values; the address is a multiple of 16 bytes, or of the four elements' size if that is less."""
    assert index * memory.array.itemsize % min(16, 4 * memory.array.itemsize) == 0, f"element {index} is not aligned"
    memory[index : index + 4] = values


def scatter(memory: Any, index: int, step: int, values: Any) -> None:
    """Set memory[index], memory[index + step], … to the values, one after the other."""
    for i, value in enumerate(values):
        memory[index + i * step] = value


def zeros(count: int) -> Any:
    """Return the function that makes a register tile of a zero."""
    return lambda zero: np.full(count, zero)


tile = zeros(64)


def multiply_slab(acc: Any, a: Any, a_at: int, a_row: int, a_half: int, b: Any, b_at: int, b_row: int, b_half: int) -> Any:
    """Return acc + Σ_k outer(a_k, b_k) over the 8 rows of a slab; of a row a_k takes 4 elements at a_at and 4 a_half further on."""
    assert a_at % 4 == b_at % 4 == a_row % 4 == b_row % 4 == a_half % 4 == b_half % 4 == 0, "a quad is not aligned"
    sides = ((a, a_at, a_row, a_half), (b, b_at, b_row, b_half))
    a_rows, b_rows = (memory[at + row * _ROWS + half * _HALVES + _FOUR] for memory, at, row, half in sides)
    return acc + (a_rows.T @ b_rows).reshape(-1)


def _quads(memory: Any, index: int, step: int, count: int) -> Any:
    assert index % 4 == step % 4 == 0, "a quad is not aligned"
    return index + step * np.arange(count // 4)[:, None] + np.arange(4)


def put_aside(memory: Any, index: int, step: int, acc: Any) -> None:
    """Store a register tile as quads, the first at memory[index], the next ones ``step`` further on."""
    memory[_quads(memory, index, step, len(acc)).reshape(-1)] = acc


def and_aside(acc: Any, memory: Any, index: int, step: int) -> Any:
    """Return a register tile plus the one that was put aside."""
    return acc + memory[_quads(memory, index, step, len(acc)).reshape(-1)]


def within(index: int, size: int) -> bool:
    """Return 0 <= index < size."""
    return 0 <= index < size


def divide(number: int, by: int) -> tuple[int, int]:
    """Return the quotient and the rest of two numbers that are not negative."""
    assert number >= 0 and by > 0, f"divide({number}, {by})"
    return divmod(number, by)


def forgotten(value: int) -> int:
    """Return the value; what was computed from it before is computed anew rather than kept in registers."""
    return value


def raise_flag(memory: Any, index: int) -> None:
    """Set memory[index] = 1; several threads may do so at once."""
    memory.array[index] = 1


# A copy may land at any time from its start until its group has been waited for. So its target is spoilt at the start, which is when it
# clashes with those who still read there, and written when it is waited for.


def copy16(shared: Any, to: int, flip: int, further: int, memory: Any, index: int, inside: bool) -> None:
    """Start to copy 16 bytes, or zeros, to shared[(to ^ flip) + further :]; both addresses are multiples of 16."""
    count, to = 16 // shared.array.itemsize, (to ^ flip) + further
    assert to % count == 0 and (not inside or index % count == 0), f"a copy from {index} to {to} is not aligned"
    _copy(shared, slice(to, to + count), memory[index : index + count] if inside else 0)


def copy4(shared: Any, to: int, flip: int, further: int, memory: Any, index: int, inside: bool) -> None:
    """Start to copy 4 bytes, or a zero, to shared[(to ^ flip) + further]."""
    assert shared.array.itemsize == 4
    _copy(shared, (to ^ flip) + further, memory[index] if inside else 0)


def copy8(shared: Any, to: int, flip: int, further: int, memory: Any, index: int, inside: bool) -> None:
    """Start to copy 8 bytes, or zeros, to shared[(to ^ flip) + further]."""
    assert shared.array.itemsize == 8
    _copy(shared, (to ^ flip) + further, memory[index] if inside else 0)


def _copy(shared: Any, to: Any, values: Any) -> None:
    shared[to] = np.nan if shared.array.dtype.kind == "f" else 0xFFFF
    shared.pending.setdefault(running_thread(), [[]])[-1].append((to, values))


def commit(shared: Any) -> None:
    """Make the copies that the thread has started since the last time a group."""
    shared.pending.setdefault(running_thread(), [[]]).append([])


def wait(shared: Any, pending: int = 1) -> None:
    """Wait for all of the thread's groups but the newest ones, one unless another number is said."""
    groups = shared.pending.setdefault(running_thread(), [[]])
    while len(groups) > pending + 1:
        for at, values in groups.pop(0):
            shared[at] = values


def wait_all(shared: Any) -> None:
    """Wait for all copies that the thread has started."""
    for group in shared.pending.pop(running_thread(), []):
        for at, values in group:
            shared[at] = values
