"""Filters along the two last axes in one sweep, and 2-D filters that are an outer product, which cost rows + columns instead of rows × columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbaconv import boundary, memory
from numbaconv.arrays import Array, empty
from numbaconv.cpu import separable as sweep

SMALLEST = 6  # taps on either axis from which a sweep is faster than one sum over both: of 1024² about 0.7 ms for 0.8 at 5×5, for 1.7 at 7×7
MOST_TAPS = 96  # of a filter in a sweep: longer ones are transformed, which takes 12 ms for 1024² and 65 taps beside 8.6
FAR_OFF = 1e-4  # what is further from being an outer product, of the first element and one in the middle, is none in any dtype
ROUNDINGS = 4  # by how many eps an element may differ from the product


def factors(h: Array, dtype: np.dtype[Any]) -> tuple[Array, Array] | None:
    """Return (column, row) whose outer product is the 2-D filter h, each element within 4 eps of a floating ``dtype``, else None.

    The bound is relative to each element, so that the two passes keep to bounds in terms of Σ|x||h| as one pass does. Filters whose largest
    element is so large or so small that a pass could leave the range of the dtype are none either.

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
    if abs(one - other) > FAR_OFF * abs(one):  # so for most filters
        return None
    i, j = divmod(int(np.argmax(abs(h))), h.shape[1])
    pivot, limits = h[i, j], np.finfo(dtype)
    if not math.sqrt(float(limits.tiny)) <= abs(pivot) <= math.sqrt(float(limits.max)):
        return None
    column, row = h[:, j] / 1.0, h[i] / pivot
    bound = ROUNDINGS * float(limits.eps) * abs(h)
    return (column, row) if bool(np.all(abs(np.multiply.outer(column, row) - h) <= bound)) else None


def outside(value: float, column: Array) -> float | None:
    """Return what an image with a value beyond its ends is there once ``column`` was applied; None if only the sum over both axes tells."""
    found = value * float(column.sum(dtype=np.float64)) if value else 0.0
    return found if math.isfinite(found) else None


def fits(down: Array, across: Array) -> bool:
    """Return whether two filters are short enough for a sweep."""
    return max(len(down), len(across)) <= MOST_TAPS


def correlate(
    x: Array, down: Array, across: Array, low: tuple[int, int], boundaries: tuple[str, str], values: tuple[float, float], out: Array | None = None,
    size: tuple[int, int] | None = None,
) -> Array:  # fmt: skip
    """Return a stack of images correlated with ``down`` along their columns and the result of that with ``across`` along its rows.

    All are of one dtype, float32 or float64, and no array is empty. Each axis has the low padding, the boundary and the value of its own, and as
    many outputs as elements unless ``size`` says otherwise. ``out``, if given, is filled and returned; it shares no memory with x.
    """
    given = (*x.shape[:-2], *(x.shape[-2:] if size is None else size))
    memory.require((math.prod(given) + x.size) * x.itemsize, f"an output of shape {given} with a contiguous image in {x.dtype}")
    place = out is not None and out.dtype == x.dtype and out.flags.carray
    y: Array = out if place else empty(given, x.dtype)  # type: ignore[assignment]
    first, second = (
        sweep.Axis(np.ascontiguousarray(w, x.dtype), boundary.sources(elements, -before, outputs - before + len(w) - 1, kind), value)
        for elements, outputs, w, before, kind, value in zip(x.shape[-2:], given[-2:], (down, across), low, boundaries, values, strict=True)
    )
    with np.errstate(over="ignore"):  # a value that is infinite in the dtype
        sweep.correlate(np.ascontiguousarray(x.reshape(-1, *x.shape[-2:])), first, second, y.reshape(-1, *given[-2:]))
    if out is None or place:
        return y
    out[...] = y
    return out
