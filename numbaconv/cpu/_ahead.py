"""Planes that `stencil` asks the caches for before they are read or written: no core sees it coming that short plane follows short plane."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from numbaconv._jit import inline
from numbaconv.arrays import CACHE_LINE
from numbaconv.cpu._simd_stencil import prefetch
from numbaconv.problem import ConvProblem

FAR = 4 << 20  # bytes of x and y from which on they are asked for ahead: 240 5×5 @28, 16 samples, 2.05 → 1.45 ms; in the caches 68 → 75 µs


def is_far(p: ConvProblem, dtype: np.dtype[Any]) -> bool:
    """Return whether the caches do not hold what is read and written, so that it is asked for."""
    return math.prod(p.shape("x")) + math.prod(p.shape("y")) >= FAR // dtype.itemsize


@functools.cache
def asker(dtype: np.dtype[Any]) -> Any:
    """Make the function that asks for some of the planes of x, to be read, and of y, to be written."""
    soon, soon_written, line = prefetch(False), prefetch(True), CACHE_LINE // dtype.itemsize

    @inline
    def ask(x, at_x, x_row, x_count, y, at_y, y_row, y_count, start, stop):  # type: ignore[no-untyped-def]
        for r in range(start, stop):
            for i in range(0, x_count, line):
                soon(x, at_x + r * x_row + i)
            for i in range(0, y_count, line):
                soon_written(y, at_y + r * y_row + i)

    return ask
