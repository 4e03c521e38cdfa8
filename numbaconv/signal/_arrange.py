"""How a call becomes a correlation: which argument is x and which h, what is flipped, conjugated and moved; and the same backwards.

In full, the convolution of in1 with b is Σ_r in1[k − r] · b[r], k = 0 … I + R − 2 on each axis, and every mode is a range of k.
b is in2, or for a correlation in2 flipped and conjugated. Convolution commutes: the larger of the two becomes x, where it may, and the
other, flipped, becomes h. Axes that are not convolved are a batch, in front.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from numbaconv.arrays import Array, namespace
from numbaconv.correlation import Axes, Ints

MODES = ("full", "same", "valid")
Kind = Literal["convolve", "correlate", "correlate2d"]


class Operand(NamedTuple):
    """How an argument becomes x or h."""

    source: int  # 0 is in1, 1 is in2
    conjugate: bool
    view: tuple[Any, ...]  # flips it, or picks of it what the result shows; without a batch it puts one row in front
    batch: Ints  # sizes of the axes of the batch: of the whole batch, or ones
    shape: Ints  # rows, then the sizes that are convolved

    def pick(self, array: Array, dtype: np.dtype[Any]) -> Array:
        """Return what is used of the argument, in the order of its own axes."""
        array = array[self.view]
        if array.dtype is not dtype:
            array = array.astype(dtype)
        return array.conj() if self.conjugate and dtype.kind == "c" else array

    def enter(self, array: Array, order: Ints | None, dtype: np.dtype[Any]) -> Array:
        """Return the argument as x or h."""
        array = self.pick(array, dtype)
        if order is None:
            return array
        array = array.transpose(order)
        return namespace(array).broadcast_to(array, self.batch + array.shape[len(self.batch) :]).reshape(self.shape)

    def leave(self, grad: Array, order: Ints | None, shape: Ints) -> Array:
        """Return the gradient of the argument, of a shape, for that of x or h: the adjoint of `enter`."""
        if self.conjugate:
            grad = grad.conj()
        result = namespace(grad).zeros(shape, grad.dtype)
        place = result[self.view]
        if order is not None:
            target = place.transpose(order)
            spread = tuple(axis for axis, size in enumerate(self.batch) if target.shape[axis] != size)
            grad = grad.reshape(self.batch + target.shape[len(self.batch) :]).sum(spread, keepdims=True)
            target[...] = grad
        else:
            place[...] = grad
        return result


class Arrangement(NamedTuple):
    """A call as a correlation."""

    x: Operand
    h: Operand
    axes: Axes
    shape: Ints  # of the result
    rows: Ints  # the same with all axes of the batch in one
    order: Ints | None  # with a batch: its axes, then those that are convolved
    multiplies: bool  # no axis is convolved

    def operands(self, in1: Array, in2: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return x and h."""
        pair = in1, in2
        return self.x.enter(pair[self.x.source], self.order, dtype), self.h.enter(pair[self.h.source], self.order, dtype)

    def product(self, in1: Array, in2: Array, dtype: np.dtype[Any]) -> Any:
        """Return the result if no axis is convolved."""
        pair = in1, in2
        return self.x.pick(pair[self.x.source], dtype) * self.h.pick(pair[self.h.source], dtype)

    def result(self, y: Array) -> Array:
        """Return the correlation of x and h as the caller's result."""
        if self.order is None:
            return y.reshape(self.shape)
        moved = y.reshape([self.shape[axis] for axis in self.order])
        return namespace(y).ascontiguousarray(moved.transpose([int(axis) for axis in np.argsort(self.order)])).reshape(self.shape)

    def grad_result(self, grad: Array) -> Array:
        """Return a gradient of the caller's result as one of the correlation."""
        return (grad if self.order is None else grad.transpose(self.order)).reshape(self.rows)

    def gradients(self, grad_x: Array, grad_h: Array, shape1: Ints, shape2: Ints) -> tuple[Array, Array]:
        """Return the gradients of in1 and in2."""
        first, second = ((self.x, grad_x), (self.h, grad_h)) if self.x.source == 0 else ((self.h, grad_h), (self.x, grad_x))
        return first[0].leave(first[1], self.order, shape1), second[0].leave(second[1], self.order, shape2)


@functools.lru_cache(maxsize=4096)
def arrange(kind: Kind, shape1: Ints, shape2: Ints, mode: str, axes: Ints | None = None, commutes: bool = True) -> Arrangement | None:
    """Return how arrays of these shapes are put, or None if shapes and mode do not go together: SciPy says why.

    With ``axes``, none of which occurs twice, the others are broadcast, and so is an axis of one element: nothing is convolved on it.
    ``commutes`` says that it does not matter which argument is extended by zeros.
    """
    if len(shape1) != len(shape2) or 0 in shape1 or 0 in shape2 or mode not in MODES:
        return None
    rank = len(shape1)
    convolved = tuple(a for a in range(rank) if axes is None or (a in axes and shape1[a] != 1 and shape2[a] != 1))
    sizes, taps = [shape1[a] for a in convolved], [shape2[a] for a in convolved]
    if mode == "valid" and not (_covers(sizes, taps) or _covers(taps, sizes)):
        return None
    if any(shape1[a] != shape2[a] and 1 not in (shape1[a], shape2[a]) for a in range(rank) if a not in convolved):
        return None
    swapped = (commutes or mode == "valid") and math.prod(taps) > math.prod(sizes)
    convolved = _in_place(convolved, shape1 if swapped else shape2)
    batch = tuple(a for a in range(rank) if a not in convolved)
    x, h = _operands(kind, shape1, shape2, mode, swapped, convolved, batch)
    spans = [_span(kind, shape1[a], shape2[a], mode) for a in convolved]
    shape = list(shape1 if mode == "same" else map(max, shape1, shape2))
    for axis, (_, size) in zip(convolved, spans, strict=True):
        shape[axis] = size
    low = tuple(r - 1 - start for r, (start, _) in zip(h.shape[1:], spans or [(0, 1)], strict=True))
    count = tuple(size for _, size in spans) or (1,)
    order = batch + convolved if batch or not convolved else None
    return Arrangement(x, h, Axes.of(low, count), tuple(shape), (max(x.shape[0], h.shape[0]), *count), order, not convolved)


def _in_place(convolved: Ints, h_shape: Ints) -> Ints:
    """Return the axes to convolve: on the others h may have one tap, which saves moving axes unless those that are convolved are the last."""
    rank = len(h_shape)
    one_tap = [a for a in range(rank) if a not in convolved and h_shape[a] == 1]
    if not convolved or convolved[0] == rank - len(convolved) or len(convolved) + len(one_tap) > 3:
        return convolved
    return tuple(sorted((*convolved, *one_tap)))


def _covers(first: list[int], second: list[int]) -> bool:
    return all(a >= b for a, b in zip(first, second, strict=True))


def _span(kind: Kind, size: int, taps: int, mode: str) -> tuple[int, int]:
    """Return where the result starts in the full one, and its size."""
    if mode == "full":
        return 0, size + taps - 1
    if mode == "same":  # SciPy centres correlate2d one element further on for even taps
        return (taps // 2 if kind == "correlate2d" else (taps - 1) // 2), size
    return min(size, taps) - 1, abs(size - taps) + 1


def _operands(kind: Kind, shape1: Ints, shape2: Ints, mode: str, swapped: bool, convolved: Ints, batch: Ints) -> tuple[Operand, Operand]:
    """Return x and h; see the head of this file for what is flipped."""
    correlates = kind != "convolve"
    flipped = [swapped, correlates == swapped]
    # SciPy's correlate2d conjugates whichever array is the smaller in mode "valid".
    conjugated = 0 if kind == "correlate2d" and mode == "valid" and swapped else 1
    whole = tuple(shape1[a] if mode == "same" else max(shape1[a], shape2[a]) for a in batch)
    made = []
    for source, own in enumerate((shape1, shape2)):
        view: list[Any] = [slice(None, None, -1) if a in convolved and flipped[source] else slice(None) for a in range(len(own))]
        for a in batch:
            if mode == "same" and own[a] > shape1[a]:  # the middle of what it is broadcast to
                middle = (own[a] - 1) // 2
                view[a] = slice(middle, middle + 1)
        spread = any(own[a] != 1 and size != 1 for a, size in zip(batch, whole, strict=True))
        rows = whole if spread else (1,) * len(batch)
        if convolved and not batch:
            view.insert(0, None)
        elif not own:
            view = [...]
        shape = (math.prod(rows), *(own[a] for a in convolved)) if convolved else (math.prod(rows), 1)
        made.append(Operand(source, correlates and source == conjugated, tuple(view), rows, shape))
    return (made[1], made[0]) if swapped else (made[0], made[1])
