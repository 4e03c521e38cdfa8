"""What an array is taken to be beyond its ends, for the correlations of `signal` and `ndimage`; and the adjoint of that.

    zeros      0 0 0 | a b c d | 0 0 0        constant   the same with another value
    reflect    c b a | a b c d | d c b        wrap       b c d | a b c d | a b c
    mirror     d c b | a b c d | c b a        nearest    a a a | a b c d | d d d

The names are those of `scipy.ndimage`. A correlation with a boundary is one of the array extended by it; its gradient is folded back
onto the elements that the extension was copied from.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from numbaconv import correlation
from numbaconv.arrays import Array, namespace
from numbaconv.correlation import Axes, Ints

BOUNDARIES = ("zeros", "constant", "reflect", "mirror", "nearest", "wrap")
# From this many outputs on, and where at most one in so many sees beyond the ends, only those are computed from extended slices.
MANY, FEW_AT_BORDERS = 1 << 15, 8
SMALL = 1 << 13  # elements of an array that is extended quickest by looking each of them up


def sources(size: int, start: int, stop: int, boundary: str) -> Array:
    """Return which element each of the places ``start … stop − 1`` of an extended axis shows, −1 for a constant."""
    place = np.arange(start, stop)
    if boundary in ("zeros", "constant"):
        return np.where((place >= 0) & (place < size), place, -1)
    if size == 0:
        raise ValueError(f"an empty axis cannot be extended by {boundary!r}")
    if boundary == "nearest":
        return place.clip(0, size - 1)
    if boundary == "wrap":
        return place % size
    if boundary == "reflect":
        place = place % (2 * size)
        return np.where(place < size, place, 2 * size - 1 - place)
    if boundary == "mirror":
        place = place % max(1, 2 * size - 2)
        return np.where(place < size, place, 2 * size - 2 - place)
    raise ValueError(f"boundary must be one of {BOUNDARIES}, got {boundary!r}")


def extend(x: Array, axis: int, before: int, after: int, boundary: str, value: complex = 0) -> Array:
    """Return x with as many elements more before and after it on an axis; negative numbers cut elements off. Nothing more: x itself."""
    if before == after == 0:
        return x
    source, first, last, start = _copied(x.shape[axis], before, after, boundary)
    xp, constant = namespace(x), boundary in ("zeros", "constant")
    if not constant and x.size < SMALL:
        return xp.take(x, xp.asarray(source), axis)
    shape = list(x.shape)
    shape[axis] = len(source)
    wide = xp.empty(shape, x.dtype)
    others: Any = (slice(None),) * axis
    wide[(*others, slice(first, last))] = x[(*others, slice(start, start + last - first))]
    for part in (slice(0, first), slice(last, len(source))):
        wide[(*others, part)] = (value if boundary == "constant" else 0) if constant else x[(*others, xp.asarray(source[part]))]
    return wide


def fold(wide: Array, axis: int, before: int, after: int, size: int, boundary: str) -> Array:
    """Return the adjoint of `extend`: each element's sum of what stands where it was copied to; ``size`` is that of the axis."""
    if before == after == 0:
        return wide
    source, first, last, start = _copied(size, before, after, boundary)
    shape = list(wide.shape)
    shape[axis] = size
    xp = namespace(wide)
    x = xp.zeros(shape, wide.dtype)
    to, from_ = xp.moveaxis(x, axis, 0), xp.moveaxis(wide, axis, 0)
    to[start : start + last - first] = from_[first:last]
    for part in (slice(0, first), slice(last, len(source))):
        kept = np.flatnonzero(source[part] >= 0)
        if kept.size:
            xp.add.at(to, xp.asarray(source[part][kept]), from_[part][xp.asarray(kept)])
    return x


@functools.lru_cache(maxsize=1024)
def _copied(size: int, before: int, after: int, boundary: str) -> tuple[Array, int, int, int]:
    """Return the sources of an axis after `extend`, its places ``first … last`` that show the axis in order, and from which element on."""
    source = sources(size, -before, max(size + after, -before), boundary)
    source.setflags(write=False)
    first = min(max(before, 0), len(source))
    return source, first, max(first, len(source) - max(after, 0)), max(-before, 0)


def _reach(x_shape: Ints, h_shape: Ints, axes: Axes) -> list[tuple[int, int]]:
    """Return by how much each axis is extended so that no tap meets anything else."""
    return [
        (lo, (o - 1) * s + r - lo - i)
        for i, r, lo, o, s in zip(x_shape[1:], h_shape[1:], axes.low, axes.size, axes.stride, strict=True)
    ]  # fmt: skip


def correlate(x: Array, h: Array, axes: Axes, boundary: str = "zeros", value: complex = 0, method: str = "auto", out: Array | None = None) -> Array:
    """Return `correlation.correlate` of x extended by a boundary; inputs are not dilated. ``out`` shares no memory with x or h."""
    if boundary == "zeros" or (boundary == "constant" and value == 0):
        return correlation.correlate(x, h, axes, method, out)
    reach = _reach(x.shape, h.shape, axes)
    borders = [_at_borders(i, r, geometry) for i, r, geometry in zip(x.shape[1:], h.shape[1:], _each(axes), strict=True)]
    outputs = math.prod(axes.size)
    seen = sum(outputs // o * (low + o - high) for o, (low, high) in zip(axes.size, borders, strict=True) if o)
    if outputs < MANY or seen * FEW_AT_BORDERS > outputs:
        for axis, (before, after) in enumerate(reach, 1):
            x = extend(x, axis, before, after, boundary, value)
        return correlation.correlate(x, h, axes._replace(low=(0,) * len(axes.low)), method, out)
    y = correlation.correlate(x, h, axes, method, out)
    for axis, (low, high) in enumerate(borders, 1):
        for first, last in ((0, low), (high, axes.size[axis - 1])):
            if first < last:
                part: Any = (slice(None),) * axis + (slice(first, last),)
                y[part] = _strip(x, h, axes, axis, first, last, reach, boundary, value, method)
    return y


def _each(axes: Axes) -> list[tuple[int, int, int]]:
    """Return low padding, size and stride, axis by axis."""
    return list(zip(axes.low, axes.size, axes.stride, strict=True))


def _at_borders(size: int, taps: int, geometry: tuple[int, int, int]) -> tuple[int, int]:
    """Return the ends of an axis's outputs that see what is before it, and the start of those that see what is after it."""
    low, outputs, stride = geometry
    before = min(max(0, -(-low // stride)), outputs)
    return before, min(max(before, (size + low - taps) // stride + 1), outputs)


def _strip(
    x: Array, h: Array, axes: Axes, axis: int, first: int, last: int, reach: list[tuple[int, int]], boundary: str, value: complex, method: str
) -> Array:
    """Return the outputs ``first … last`` of an axis, and all of the others, from the slice of x extended that they see."""
    low, _, stride = _each(axes)[axis - 1]
    source = sources(x.shape[axis], first * stride - low, (last - 1) * stride - low + h.shape[axis], boundary)
    xp = namespace(x)
    x = xp.take(x, xp.asarray(source), axis)
    if boundary == "constant":
        x[(slice(None),) * axis + (xp.asarray(source < 0),)] = value
    for other, (more, further) in enumerate(reach, 1):
        if other != axis:
            x = extend(x, other, more, further, boundary, value)
    sizes = (*axes.size[: axis - 1], last - first, *axes.size[axis:])
    return correlation.correlate(x, h, axes._replace(low=(0,) * len(axes.low), size=sizes), method)


def grad_x(dy: Array, h: Array, x_shape: Ints, axes: Axes, boundary: str = "zeros", method: str = "auto") -> Array:
    """Return Σ dy · ∂y/∂x; no conjugates."""
    if boundary == "zeros":
        return correlation.grad_x(dy, h, x_shape, axes, method)
    reach = _reach(x_shape, h.shape, axes)
    wide = (x_shape[0], *(i + before + after for i, (before, after) in zip(x_shape[1:], reach, strict=True)))
    grad = correlation.grad_x(dy, h, wide, axes._replace(low=(0,) * len(axes.low)), method)
    for axis, (before, after) in enumerate(reach, 1):
        grad = fold(grad, axis, before, after, x_shape[axis], boundary)
    return grad


def grad_h(dy: Array, x: Array, h_shape: Ints, axes: Axes, boundary: str = "zeros", value: complex = 0, method: str = "auto") -> Array:
    """Return Σ dy · ∂y/∂h; no conjugates."""
    if boundary == "zeros":
        return correlation.grad_h(dy, x, h_shape, axes, method)
    for axis, (before, after) in enumerate(_reach(x.shape, h_shape, axes), 1):
        x = extend(x, axis, before, after, boundary, value)
    return correlation.grad_h(dy, x, h_shape, axes._replace(low=(0,) * len(axes.low)), method)
