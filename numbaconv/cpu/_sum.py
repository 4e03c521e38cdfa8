"""Pairwise sums of chunks, as a binary counter carries: level l of ``parts`` stands for 2^(l−1) chunks, level 0 is the chunk at work.

The rounding error of a long sum then grows with log n instead of n (N. J. Higham, Accuracy and Stability of Numerical
Algorithms, section 4.2), and the order of additions depends on the problem alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv._jit import inline, unsigned

Array = np.ndarray[Any, Any]
TERMS = 148  # of one accumulator at the most: of sums of positive terms the rounding then stays within 8 eps


def levels(terms: int, chunk: int) -> int:
    """Return how many levels a sum of ``terms`` terms needs, the chunk at work included."""
    return 2 + (-(-terms // chunk)).bit_length()


@inline
def carry(parts, size, width, chunks):  # type: ignore[no-untyped-def]
    """Add the finished chunk parts[:size] to the levels, each ``width`` apart, and clear it; ``chunks`` were finished before."""
    level = 1
    while chunks & 1:
        for i in range(size):
            parts[unsigned(i)] += parts[unsigned(level * width + i)]
        chunks >>= 1
        level += 1
    for i in range(size):
        parts[unsigned(level * width + i)] = parts[unsigned(i)]
        parts[unsigned(i)] = 0


@inline
def total(parts, size, width, chunks):  # type: ignore[no-untyped-def]
    """Add every occupied level to parts[:size]."""
    level = 1
    while chunks:
        if chunks & 1:
            for i in range(size):
                parts[unsigned(i)] += parts[unsigned(level * width + i)]
        chunks >>= 1
        level += 1


def add_pairwise(pieces: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Add up pieces[0], pieces[1], …, in place and in an order that depends on their number alone."""
    if len(pieces) == 1:
        return pieces[0]
    with np.errstate(invalid="ignore", over="ignore"):  # as in the kernels, ∞ − ∞ is NaN and no more said
        while len(pieces) > 1:
            half = len(pieces) // 2
            pieces[:half] += pieces[len(pieces) - half :]
            pieces = pieces[: len(pieces) - half]
    return pieces[0]
