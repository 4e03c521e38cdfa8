"""The passes of a call carried out: floats by the engine, integers in SciPy's own order of summation.

An integer result is a float64 sum cut off at the point, so that its last bit matters: such sums are made by `cpu.ordered`, and are
SciPy's own. Complex arrays are filtered as their real and imaginary parts.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv import boundary, memory, separable
from numbaconv.arrays import Array
from numbaconv.correlation import Axes
from numbaconv.cpu import box, ordered
from numbaconv.ndimage._calls import NEGLIGIBLE, Call, Pass

METHOD = "auto"  # long filters by transforms
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
WIDE = 24  # taps from which a mean is made of sums of blocks rather than as a correlation
FITS_SINGLE = {np.dtype(t) for t in "?bBhHf"}  # input dtypes without more digits than float32


def carry_out(call: Call) -> Array:
    """Fill the output of a call and return it."""
    image, output = call.input, call.output
    if not output.size:
        return output
    kept = np.dtype(np.uint8) if output.dtype == np.bool_ else output.dtype  # SciPy's booleans hold whole bytes between passes
    *before, last = call.passes or (None,)
    pair = _in_one_sweep(call) if before else None
    for step in before[:-1] if pair else before:
        image = _apply(step, image, kept, None)
    if last is None:
        output[...] = image
        return output
    place = None if np.may_share_memory(output, image) else output
    result = _sweep(*pair, image.astype(kept.newbyteorder("="), copy=False), place) if pair else _apply(last, image, output.dtype, place)
    if result is not output:
        output[...] = result
    return output


def _in_one_sweep(call: Call) -> tuple[Pass, Pass] | None:
    """Return the last two passes if they can be one: along the last two axes, in order, and computed in the dtype of the output."""
    dtype, rank, (first, second) = call.output.dtype.newbyteorder("="), call.input.ndim, call.passes[-2:]
    given = call.input.dtype if len(call.passes) == 2 else dtype
    if dtype.kind != "f" or given.kind == "c" or (first.axis, second.axis) != (rank - 2, rank - 1):
        return None
    same = compute_dtype(given, first.weights, dtype) == compute_dtype(dtype, second.weights, dtype) == dtype
    if not same or not separable.fits(first.weights, second.weights) or any(step.mean and step.weights.size >= WIDE for step in (first, second)):
        return None
    first, second = (step if step.mean else replace(step, weights=_as_summed(step)) for step in (first, second))
    return first, second


def _sweep(first: Pass, second: Pass, x: Array, out: Array | None) -> Array:
    """Return two passes along the last two axes at once."""
    with np.errstate(over="ignore"):
        down, across = (step.weights.astype(x.dtype) for step in (first, second))
    values = (float(first.cval.real), float(second.cval.real))
    return separable.correlate(x, down, across, (first.low[0], second.low[0]), (first.boundary, second.boundary), values, out)


def warn_of_promotion(call: Call, level: int) -> None:
    """Warn as SciPy does where a complex dtype was not asked for, at the line so many stack levels up."""
    if call.promoted:
        warnings.warn("promoting specified output dtype to complex", stacklevel=level)


def layout(step: Pass, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], Axes]:
    """Return the shapes of an image and of the weights as views of a batch, and the geometry behind the batch.

    Along one axis the image is (what is before it, it, what is behind it), so that nothing is transposed.
    """
    if step.axis is None:
        return (1, *shape), (1, *step.weights.shape), Axes.of(step.low, shape)
    before, size, behind = math.prod(shape[: step.axis]), shape[step.axis], math.prod(shape[step.axis + 1 :])
    if behind == 1:
        return (before, size), (1, step.weights.size), Axes.of(step.low, (size,))
    return (before, size, behind), (1, step.weights.size, 1), Axes.of((*step.low, 0), (size, behind))


def compute_dtype(image: np.dtype[Any], weights: Array, output: np.dtype[Any]) -> np.dtype[Any]:
    """Return what a float result is computed in: float32 if neither image nor result has more digits, and the weights fit its range."""
    largest = float(abs(weights).max(initial=0))
    fits = largest == 0 or math.isnan(largest) or float(np.finfo(SINGLE).tiny) <= largest <= float(np.finfo(SINGLE).max)
    return SINGLE if output.newbyteorder("=") == SINGLE and image.newbyteorder("=") in FITS_SINGLE and fits else DOUBLE


def _apply(step: Pass, x: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
    """Return one pass in a dtype, written to ``out`` if there is one."""
    dtype = dtype.newbyteorder("=")
    if dtype.kind != "c":
        return _real(step, x, dtype, out)
    y = np.empty(x.shape, dtype)
    part = y.real.dtype
    w, c = step.weights, step.cval
    real = replace(step, weights=w.real, cval=c.real)
    y.real = _real(real, x.real, part)
    if w.dtype.kind == "c" and x.dtype.kind == "c":
        y.real -= _real(replace(step, weights=w.imag, cval=c.imag), x.imag, part)
        y.imag = _real(replace(step, weights=w.imag, cval=c.real), x.real, part)
        y.imag += _real(replace(step, weights=w.real, cval=c.imag), x.imag, part)
    elif x.dtype.kind == "c":
        y.imag = _real(replace(real, cval=c.imag), x.imag, part)
    else:
        y.imag = _real(replace(step, weights=w.imag), x, part)
    return y


def _real(step: Pass, x: Array, dtype: np.dtype[Any], out: Array | None = None) -> Array:
    """Return one pass of real numbers."""
    if not step.mean:
        step = replace(step, weights=_as_summed(step))
    if dtype.kind in "biu":
        return _cut(_in_order(step, x), dtype, step.axis is None)
    compute = compute_dtype(x.dtype, step.weights, dtype)
    x = x.astype(compute, copy=False)
    if step.mean and step.weights.size >= WIDE:
        image = _extended(step, x)
        return box.means(image.reshape(*image.shape[:2], -1), step.weights.size).reshape(x.shape).astype(dtype, copy=False)
    left_out = step.axis is None and not step.weights.all()
    pair = separable.factors(step.weights, compute) if step.axis is None and x.ndim == 2 and not left_out else None
    with np.errstate(over="ignore"):
        beyond = separable.outside(step.cval.real, pair[0]) if pair else None
        if pair and beyond is not None:
            column, row = pair
            first = replace(step, weights=column, axis=0, low=step.low[:1])
            step = replace(step, weights=row, axis=1, low=step.low[1:], cval=beyond)
            if separable.fits(column, row):
                return _sweep(first, step, x, out).astype(dtype, copy=False)
            x = _engine(first, x, compute, None)
        y = _engine(step, x, compute, out)
    if left_out and not np.isfinite(y).all():  # 0·Inf is NaN, but what SciPy leaves out is not looked at
        y = _in_order(step, x).astype(dtype)
    return y.astype(dtype, copy=False)


def _as_summed(step: Pass) -> Array:
    """Return the weights as SciPy takes them: over all axes without negligible ones, along one with both halves exactly alike."""
    w = step.weights
    if step.axis is None:
        return np.where(abs(w) > NEGLIGIBLE, w, 0)
    sign = _symmetry(w)
    half = w.size // 2
    return np.concatenate([w[: half + 1], sign * w[:half][::-1]]) if sign else w


def _symmetry(w: Array) -> int:
    """Return 1 for a filter that is its own mirror image, −1 for one that is that of its negative, else 0."""
    if not w.size % 2:
        return 0
    low, high = w[: w.size // 2], w[: w.size // 2 : -1]
    return 1 if np.all(abs(high - low) <= NEGLIGIBLE) else -1 if np.all(abs(high + low) <= NEGLIGIBLE) else 0


def _engine(step: Pass, x: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
    x_shape, w_shape, axes = layout(step, x.shape)
    if out is not None and (out.dtype != dtype or not out.flags.carray):
        out = None
    y = boundary.correlate(
        x.reshape(x_shape), step.weights.astype(dtype).reshape(w_shape), axes, step.boundary, step.cval, METHOD,
        None if out is None else out.reshape(x_shape[:1] + axes.size),
    )  # fmt: skip
    return y.reshape(x.shape) if out is None else out


def _in_order(step: Pass, x: Array) -> Array:
    """Return the float64 sums that SciPy makes, bit by bit."""
    image = _extended(step, x.astype(DOUBLE, copy=False))
    if step.mean:
        return ordered.moving_mean(image.reshape(*image.shape[:2], -1), step.weights.size).reshape(x.shape)
    x_shape, w_shape, axes = layout(step, x.shape)
    terms, sign = _terms(step)
    return ordered.correlate(image, step.weights.reshape(w_shape), terms, sign, (x_shape[0], *axes.size)).reshape(x.shape)


def _extended(step: Pass, x: Array) -> Array:
    """Return the view of an image that `layout` describes, contiguous and extended by what the filter sees beyond its ends."""
    x_shape, w_shape, axes = layout(step, x.shape)
    size = math.prod(i + r - 1 for i, r in zip(x_shape[1:], w_shape[1:], strict=True)) * x_shape[0]
    memory.require((size + x.size) * x.itemsize, f"an image of shape {x.shape}, extended, in {x.dtype}")
    image = np.ascontiguousarray(x.reshape(x_shape))
    for axis, (low, taps) in enumerate(zip(axes.low, w_shape[1:], strict=True), 1):
        image = boundary.extend(image, axis, low, taps - 1 - low, step.boundary, step.cval)
    return image


def _terms(step: Pass) -> tuple[Array, int]:
    """Return the taps in the order in which SciPy adds them, and the sign with which it joins those of symmetric filters."""
    if step.axis is None:
        return np.flatnonzero(step.weights), 0
    size, half = step.weights.size, step.weights.size // 2
    if sign := _symmetry(step.weights):
        return np.concatenate([[half], np.arange(half)]), sign
    return np.concatenate([[size - 1], np.arange(size - 1)]), 0


def _cut(y: Array, dtype: np.dtype[Any], over_axes: bool) -> Array:
    """Return float64 values as integers, cut off at the point and wrapped as SciPy's C code does on common machines."""
    with np.errstate(invalid="ignore"):
        if dtype == np.bool_:
            return y.astype(np.uint8) != 0
        if dtype == np.uint32:
            return y.astype(np.int64).astype(dtype)  # NumPy's own cast of what does not fit differs by the processor
        if dtype == np.uint64 and over_axes:
            return np.where(y > -1, y.astype(dtype), -(-y).astype(dtype))  # SciPy does so for filters over several axes alone
        return y.astype(dtype)
