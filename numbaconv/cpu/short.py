"""Convolutions of short vectors, where a call costs more than the sum: one compiled function, no plan and no threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv._jit import Kernel

MOST_PRODUCTS, MOST_TAPS = 1 << 13, 64  # of larger problems the plan's choice is worth its time
Array = np.ndarray[Any, Any]


def _convolve(x, h, reverse, start, y):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: y[k] = Σ_r x[k + start − r] · h[r], or h with its taps reversed. THE SCHEDULE: tap by tap over all of y.
    n, taps = len(x), len(h)
    for k in range(len(y)):
        y[k] = 0
    for r in range(taps):
        tap = h[taps - 1 - r] if reverse else h[r]
        first, last = max(0, r - start), min(len(y), n + r - start)
        for k in range(first, last):
            y[k] += x[k + start - r] * tap


_kernel = Kernel(_convolve)


def convolve(x: Array, h: Array, reverse: bool, start: int, size: int) -> Array:
    """Return ``size`` elements of the full convolution of x with h, or with h reversed, from ``start`` on; contiguous, of one dtype."""
    y = np.empty(size, x.dtype)
    _kernel.serial(x, h, reverse, start, y)
    return y
