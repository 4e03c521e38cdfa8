"""The primitives of kernels in plain Python, for the simulator; `_intrinsics` says the same for GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._simulator import collective

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


def peek(memory: Any, index: int, further: int) -> Any:
    """Return memory[index + further], which costs no addition if ``further`` is constant."""
    assert index >= 0, f"element {index}"
    return memory[index + further]


def poke(memory: Any, index: int, further: int, value: Any) -> None:
    """Set memory[index + further] = value, which costs no addition if ``further`` is constant."""
    assert index >= 0, f"element {index}"
    memory[index + further] = value


def load2(memory: Any, index: int, further: int) -> Any:
    """Return two neighbours at index + further, both even; a constant ``further`` costs no addition."""
    assert index >= 0 and index % 2 == further % 2 == 0, f"element {index} + {further} is not aligned"
    return memory[index + further], memory[index + further + 1]


def store2(memory: Any, index: int, values: Any) -> None:
    """Set memory[index : index + 2] = values; the index is even."""
    assert index % 2 == 0, f"element {index} is not aligned"
    memory[index], memory[index + 1] = values


def spread(memory: Any, plane: int, at: int, step: int, values: Any) -> None:
    """Set memory[at + i·step] and memory[plane + at + i·step] to the real and the imaginary part of the i-th value, a pair."""
    places = at + step * np.arange(len(values))
    memory[places] = [value[0] for value in values]
    memory[places + plane] = [value[1] for value in values]


def gathered(memory: Any, plane: int, at: int, one: int, two: int) -> Any:
    """Return 16 complex numbers, as pairs, of two planes: the i-th at at + (i div 2)·two + (i mod 2)·one."""
    places = at + np.arange(16) // 2 * two + np.arange(16) % 2 * one
    return tuple(zip(memory[places], memory[places + plane], strict=True))


def raise_flag(memory: Any, index: int) -> None:
    """Set memory[index] = 1; several threads may do so at once."""
    memory.array[index] = 1


def tile(zero: Any) -> Any:
    """Return a register tile of zeros."""
    return np.full(64, zero)


def multiply_slab(acc: Any, a: Any, a_at: int, a_row: int, b: Any, b_at: int, b_row: int) -> Any:
    """Return acc + Σ_k outer(a_k, b_k) over the 8 rows of a slab; of a row a_k takes 4 elements at a_at and 4 half a row further on."""
    assert a_at % 4 == b_at % 4 == a_row % 8 == b_row % 8 == 0, "a quad is not aligned"
    a_rows, b_rows = (m[at + row * _ROWS + row // 2 * _HALVES + _FOUR] for m, at, row in ((a, a_at, a_row), (b, b_at, b_row)))
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


@collective
def warp_sum(values: list[Any]) -> list[Any]:
    """Return the sum of the values of a warp's lanes, the same in each."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values * 32
