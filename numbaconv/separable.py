"""Filters that are an outer product: a pass along each axis costs rows + columns instead of rows × columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv import boundary
from numbaconv.arrays import Array
from numbaconv.cpu import separable as sweep

SMALLEST = 6  # taps on either axis from which two passes are faster than one
MOST_TAPS = 96  # of a filter in one sweep: longer ones are transformed
FAR = 1e-4  # by how much an outer product's elements cannot be apart, in any dtype
ROUNDINGS = 4  # by how many eps an element may differ from the product


def factors(h: Array, dtype: np.dtype[Any]) -> tuple[Array, Array] | None:
    """Return (column, row) whose outer product is the 2-D filter h, each element within 4 eps of a floating ``dtype``, else None.

    The bound is relative to each element, so that the two passes keep to bounds in terms of Σ|x||h| as one pass does.

    >>> column, row = factors(np.outer(np.arange(1, 11), np.arange(11, 21)), np.dtype("float64"))
    >>> column.shape, row.shape, float(column[2] * row[3])
    ((10,), (10,), 42.0)
    >>> factors(np.eye(10), np.dtype("float64")) is None
    True
    """
    if min(h.shape) < SMALLEST or dtype.kind not in "fc":
        return None
    i, j = h.shape[0] // 2, h.shape[1] // 2
    one, other = complex(h[0, 0]) * complex(h[i, j]), complex(h[0, j]) * complex(h[i, 0])
    if abs(one - other) > FAR * abs(one):  # so for most filters
        return None
    i, j = divmod(int(np.argmax(abs(h))), h.shape[1])
    pivot = h[i, j]
    if not np.isfinite(pivot) or pivot == 0:
        return None
    column, row = h[:, j] / 1.0, h[i] / pivot
    bound = ROUNDINGS * float(np.finfo(dtype).eps) * abs(h)
    return (column, row) if bool(np.all(abs(np.multiply.outer(column, row) - h) <= bound)) else None


def correlate(
    x: Array,
    down: Array,
    across: Array,
    low: tuple[int, int],
    boundaries: tuple[str, str],
    values: tuple[float, float],
    out: Array | None = None,
    size: tuple[int, int] | None = None,
) -> Array | None:
    """Return a stack of images correlated with ``down`` along their columns and the result of that with ``across`` along its rows, in one sweep.

    All are of one dtype, float32 or float64. Each axis has the low padding, the boundary and the value of its own, and as many outputs as elements
    unless ``size`` says otherwise. None for filters that are better applied one after the other.
    """
    if max(len(down), len(across)) > MOST_TAPS or not x.size:
        return None
    images = x.reshape(-1, *x.shape[-2:])
    size = x.shape[-2:] if size is None else size
    y = np.empty((*x.shape[:-2], *size), x.dtype) if out is None else out
    first, second = (
        sweep.Axis(np.ascontiguousarray(w, x.dtype), boundary.sources(elements, -before, outputs - before + len(w) - 1, kind), value)
        for elements, outputs, w, before, kind, value in zip(x.shape[-2:], size, (down, across), low, boundaries, values, strict=True)
    )
    sweep.correlate(np.ascontiguousarray(images), first, second, y.reshape(-1, *size))
    return y
