"""The primitives of kernels in plain Python, for the simulator; `_intrinsics` says the same for GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np

SLAB = 8
_ROWS, _HALVES, _FOUR = np.arange(SLAB)[:, None], np.repeat([0, 1], 4), np.tile(np.arange(4), 2)


def int32(value: Any) -> int:
    """Return the value as an int32 would hold it; one that it cannot hold is a mistake."""
    value = int(value)
    assert -(2**31) <= value < 2**31, f"{value} is no int32"
    return value


def load4(memory: Any, index: int) -> Any:
    """Return memory[index : index + 4]; the address is a multiple of 16 bytes."""
    assert index * memory.array.itemsize % 16 == 0, f"element {index} is not aligned"
    return memory[index : index + 4]


def store4(memory: Any, index: int, values: Any) -> None:
    """Set memory[index : index + 4] = values; the address is a multiple of 16 bytes."""
    assert index * memory.array.itemsize % 16 == 0, f"element {index} is not aligned"
    memory[index : index + 4] = values


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
