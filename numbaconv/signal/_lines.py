"""The sum under the filters of `signal`: every line along an axis with one filter, at a rational rate; and its gradients.

    y[m] = Σ_k h[k] · x[(m·down + start − k) / up]        over the k that leave no remainder, zeros outside x

An array is taken as (rows, size, inner), what stands before the axis, on it and behind it: a view where it is contiguous. The adjoint of
such a sum is another, with up and down exchanged and the taps reversed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numbaconv import correlation, memory
from numbaconv.arrays import COMPUTE, Array, NotOurs, as_numbers, contiguous, empty, is_on_gpu, namespace
from numbaconv.correlation import Axes
from numbaconv.cpu import polyphase
from numbaconv.signal import _extension

NARROW = 8  # elements behind the axis: fewer are put before it, so that vectors are filled by its own neighbours


def ours(check: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a check of arguments returns, or None where it raises `NotOurs`."""
    try:
        return check(*arguments)
    except NotOurs:
        return None


class Rate(NamedTuple):
    """How y is sampled: the factors, where its first sample lies on the axis between, and how many samples it has."""

    up: int
    down: int
    start: int
    outputs: int

    def adjoint(self, taps: int, size: int) -> Rate:
        """Return the rate that leads from y back to x of a size, with the taps reversed."""
        return Rate(self.down, self.up, taps - 1 - self.start, size)

    def reach(self, taps: int, size: int) -> tuple[int, int]:
        """Return how many samples before x and after it are met by a tap."""
        first = self.start // self.up - (-(-taps // self.up) - 1)
        last = ((self.outputs - 1) * self.down + self.start) // self.up
        return max(0, -first), max(0, last - (size - 1))


class Outside(NamedTuple):
    """What x is taken to be beyond its ends: a mode of `extension`, and the value of "constant"."""

    mode: str = "constant"
    value: complex = 0

    @property
    def is_zero(self) -> bool:
        """Whether nothing has to be added to x."""
        return self.mode == "constant" and self.value == 0


def numeric(*values: Any) -> list[Array]:
    """Return values as arrays of numbers that kernels have arithmetic for, booleans included."""
    try:
        return _numbers([np.asarray(value) for value in values])
    except (TypeError, ValueError) as error:
        raise NotOurs from error


def numeric_anywhere(**values: Any) -> list[Array]:
    """Return the same of values that may be on a GPU, under the names that users know them by."""
    return _numbers(as_numbers(**values)) if any(map(is_on_gpu, values.values())) else numeric(*values.values())


def _numbers(arrays: list[Array]) -> list[Array]:
    if any(a.dtype.newbyteorder("=") not in COMPUTE and a.dtype != np.bool_ for a in arrays):
        raise NotOurs
    return arrays


def checked_axis(axis: Any, rank: int) -> int:
    """Return an axis counted from the first."""
    try:
        axis = operator.index(axis)
    except TypeError as error:
        raise NotOurs from error
    if not -rank <= axis < rank:
        raise NotOurs
    return int(axis % rank)


def checked_scalar(value: Any, dtype: np.dtype[Any]) -> complex:
    """Return a number that an array of the dtype can hold."""
    if isinstance(value, (str, bytes)):
        raise NotOurs
    try:
        return complex(value) if dtype.kind == "c" else float(value)
    except (TypeError, ValueError) as error:
        raise NotOurs from error


def lines_of(x: Array, axis: int) -> Array:
    """Return x as (rows, size, inner)."""
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))


def shape_with(x: Array, axis: int, size: int) -> tuple[int, ...]:
    """Return the shape of x with another size on an axis."""
    return (*x.shape[:axis], size, *x.shape[axis + 1 :])


def real_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the parts of complex numbers; real ones are their own."""
    return np.empty(0, dtype).real.dtype


def operands(h: Array, x: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return both in the dtype of the result, but real taps of a complex result in that of its parts: half the products."""
    real_taps = dtype.kind == "c" and h.dtype.kind != "c" and x.dtype.kind == "c"
    return contiguous(h, real_of(dtype) if real_taps else dtype), contiguous(x, dtype)


def _geometry(h: Array, inner: int, rate: Rate) -> tuple[tuple[int, ...], Axes]:
    """Return the shape of a filter along the middle axis, for lines with something behind it or not, and the axes."""
    low = len(h) - 1 - rate.start
    if inner == 1:
        return (1, len(h)), Axes.of((low,), (rate.outputs,), (rate.down,), (rate.up,))
    return (1, len(h), 1), Axes.of((low, 0), (rate.outputs, inner), (rate.down, 1), (rate.up, 1))


def _flat(x: Array) -> Array:
    """Return lines with nothing behind the axis as (rows, size)."""
    return x[..., 0] if x.shape[2] == 1 else x


def _turned(x: Array) -> Array:
    """Put what stands behind the axis before it."""
    rows, size, inner = x.shape
    return namespace(x).ascontiguousarray(x.swapaxes(1, 2)).reshape(rows * inner, size, 1)


def resample(h: Array, x: Array, rate: Rate, out: Array | None = None) -> Array:
    """Return y, (rows, outputs, inner), for x with zeros outside; h may be real where x is complex. ``out``, if given, is filled."""
    rows, size, inner = x.shape
    xp = namespace(x)
    if x.dtype != h.dtype:
        y = xp.empty((rows, rate.outputs, inner), x.dtype) if out is None else out
        y.real, y.imag = resample(h, xp.concatenate((x.real, x.imag)), rate).reshape(2, *y.shape)
        return y
    if 1 < inner < NARROW:
        y = resample(h, _turned(x), rate).reshape(rows, inner, rate.outputs).swapaxes(1, 2)
        return _into(xp.ascontiguousarray(y) if out is None else y, out)
    shape, axes = _geometry(h, inner, rate)
    flat, taps = _flat(x), h[::-1].reshape(shape)
    resamples = max(rate.up, rate.down) > 1 and x.size > 0 and rate.outputs > 0
    if xp is np and resamples and correlation.plan("fprop", flat.shape, shape, axes, x.dtype, "direct").name == "direct":
        return _polyphase(h, x, rate, out)
    target = None if out is None else _flat(out)
    # Zeros between the samples are nothing to transform.
    method = "direct" if resamples else "auto"
    return correlation.correlate(flat, taps, axes, method, target).reshape(rows, rate.outputs, inner)


def _polyphase(h: Array, x: Array, rate: Rate, out: Array | None) -> Array:
    """Compute what would be a sum over zeros for the other algorithms: a large ``up``, or complex numbers."""
    shape = (len(x), rate.outputs, x.shape[2])
    direct = out is not None and out.flags.carray
    memory.require((math.prod(shape) + 2 * len(h) + 2 * rate.up) * x.itemsize, f"an output of shape {shape}")
    y: Array = out if direct else empty(shape, x.dtype)  # type: ignore[assignment]
    polyphase.run(contiguous(x, x.dtype), polyphase.bank(h, rate.up), y, rate.down, rate.start)
    return y if direct else _into(y, out)


def _into(y: Array, out: Array | None) -> Array:
    if out is None:
        return y
    out[...] = y
    return out


def resample_extended(h: Array, x: Array, rate: Rate, outside: Outside, out: Array | None = None) -> Array:
    """Return y for x extended by a mode."""
    wide, rate = extended(x, len(h), rate, outside)
    return resample(h, wide, rate, out)


def extended(x: Array, taps: int, rate: Rate, outside: Outside) -> tuple[Array, Rate]:
    """Return x with as much of its surroundings as the taps reach, and the rate on it."""
    if outside.is_zero or x.size == 0 and outside.mode != "constant" and rate.outputs == 0:
        return x, rate
    before, after = rate.reach(taps, x.shape[1])
    return _extension.extend(x, before, after, outside.mode, outside.value), rate._replace(start=rate.start + before * rate.up)


def grad_x(dy: Array, h: Array, size: int, rate: Rate, outside: Outside) -> Array:
    """Return Σ dy · ∂y/∂x for x of a size along the axis; no conjugates."""
    if outside.is_zero:
        return resample(h[::-1], dy, rate.adjoint(len(h), size))
    before, after = rate.reach(len(h), size)
    rate = rate._replace(start=rate.start + before * rate.up)
    wide = resample(h[::-1], dy, rate.adjoint(len(h), before + size + after))
    return _extension.fold(wide, before, after, outside.mode)


def grad_h(dy: Array, x: Array, taps: int, rate: Rate, outside: Outside) -> Array:
    """Return Σ dy · ∂y/∂h for as many taps; no conjugates."""
    x, rate = extended(x, taps, rate, outside)
    if 1 < x.shape[2] and (x.shape[2] < NARROW or rate.up > 1):
        x, dy = _turned(x), _turned(dy)
    # Other algorithms than the direct sum have no dilated inputs in this gradient.
    if namespace(x) is np and rate.up > 1 and dy.size > 0 and x.size > 0:
        return polyphase.grad_taps(contiguous(dy[..., 0], dy.dtype), contiguous(x[..., 0], x.dtype), taps, rate.up, rate.down, rate.start)
    shape, axes = _geometry(np.empty(taps, dy.dtype), x.shape[2], rate)
    return correlation.grad_h(_flat(dy), _flat(x), shape, axes).reshape(-1)[::-1]
