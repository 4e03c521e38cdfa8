"""The primitives of transforms in plain Python, for the simulator; `_fft_intrinsics` says the same for GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._simulator import collective


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


@collective
def warp_sum(values: list[Any]) -> list[Any]:
    """Return the sum of the values of a warp's lanes, the same in each."""
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
    return values * 32
