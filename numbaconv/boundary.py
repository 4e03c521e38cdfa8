"""What an array is taken to be beyond its ends, for the correlations of `signal` and `ndimage`; and the adjoint of that.

    zeros      0 0 0 | a b c d | 0 0 0        constant   the same with another value
    reflect    c b a | a b c d | d c b        wrap       b c d | a b c d | a b c
    mirror     d c b | a b c d | c b a        nearest    a a a | a b c d | d d d

The names are those of `scipy.ndimage`. A correlation with a boundary is one of the array extended by it; its gradient is folded back
onto the elements that the extension was copied from.
"""

from __future__ import annotations

import numpy as np

from numbaconv import correlation
from numbaconv.arrays import Array
from numbaconv.correlation import Axes, Ints

BOUNDARIES = ("zeros", "constant", "reflect", "mirror", "nearest", "wrap")


def sources(size: int, before: int, after: int, boundary: str) -> Array:
    """Return which element each place of an extended axis shows: from ``-before`` to ``size + after − 1``, −1 for a constant."""
    place = np.arange(-before, size + after)
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
    """Return x with as many elements more before and after it on an axis; negative numbers cut elements off."""
    size = x.shape[axis]
    source = sources(size, max(before, 0), max(after, 0), boundary)
    source = source[max(-before, 0) : len(source) - max(-after, 0)]
    shape = list(x.shape)
    shape[axis] = len(source)
    wide = np.empty(shape, x.dtype)
    to, from_ = np.moveaxis(wide, axis, 0), np.moveaxis(x, axis, 0)
    first = min(max(before, 0), len(source))
    last = max(first, len(source) - max(after, 0))
    start = max(-before, 0)
    to[first:last] = from_[start : start + last - first]
    for part in (slice(0, first), slice(last, len(source))):
        if boundary in ("zeros", "constant"):
            to[part] = value if boundary == "constant" else 0
        else:
            to[part] = from_[source[part]]
    return wide


def fold(wide: Array, axis: int, before: int, after: int, size: int, boundary: str) -> Array:
    """Return the adjoint of `extend`: each element's sum of what stands where it was copied to; ``size`` is that of the axis."""
    source = sources(size, max(before, 0), max(after, 0), boundary)
    source = source[max(-before, 0) : len(source) - max(-after, 0)]
    shape = list(wide.shape)
    shape[axis] = size
    x = np.zeros(shape, wide.dtype)
    to, from_ = np.moveaxis(x, axis, 0), np.moveaxis(wide, axis, 0)
    first = min(max(before, 0), len(source))
    last = max(first, len(source) - max(after, 0))
    start = max(-before, 0)
    to[start : start + last - first] = from_[first:last]
    for part in (slice(0, first), slice(last, len(source))):
        kept = source[part] >= 0
        np.add.at(to, source[part][kept], from_[part][kept])
    return x


def _reach(x_shape: Ints, h_shape: Ints, axes: Axes) -> list[tuple[int, int]]:
    """Return by how much each axis is extended so that no tap meets anything else."""
    return [
        (lo, (o - 1) * s + r - lo - i)
        for i, r, lo, o, s in zip(x_shape[1:], h_shape[1:], axes.low, axes.size, axes.stride, strict=True)
    ]  # fmt: skip


def correlate(x: Array, h: Array, axes: Axes, boundary: str = "zeros", value: complex = 0, method: str = "auto", out: Array | None = None) -> Array:
    """Return `correlation.correlate` of x extended by a boundary; inputs are not dilated."""
    if boundary == "zeros":
        return correlation.correlate(x, h, axes, method, out)
    for axis, (before, after) in enumerate(_reach(x.shape, h.shape, axes), 1):
        x = extend(x, axis, before, after, boundary, value)
    return correlation.correlate(x, h, axes._replace(low=(0,) * len(axes.low)), method, out)


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
