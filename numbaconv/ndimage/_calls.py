"""What a call of `scipy.ndimage`'s linear filters asks for: its arguments checked, as passes over an image.

Nothing is computed here. A call that SciPy refuses, or whose dtypes are not ours, is `NotOurs`: SciPy then says, or does, what is right.
"""

from __future__ import annotations

import math
import numbers
import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from numbaconv.arrays import Array, NotOurs, empty

REAL = {np.dtype(t) for t in "?bhilqBHILQfd"}
COMPLEX = {np.dtype(t) for t in "FD"}
BOUNDARIES = {
    "reflect": "reflect", "grid-mirror": "reflect", "mirror": "mirror", "nearest": "nearest",
    "wrap": "wrap", "grid-wrap": "wrap", "constant": "constant", "grid-constant": "constant",
}  # fmt: skip
NEGLIGIBLE = float(np.finfo(np.float64).eps)  # SciPy leaves out smaller weights, and takes weights that differ by less for equal


@dataclass(frozen=True)
class Pass:
    """One correlation, y[o] = Σ x[o + r − low]·w[r], along one axis or, where that is None, over all of them.

    ``mean`` says that the weights are equal ones, for which SciPy moves a sum along.
    """

    weights: Array
    axis: int | None
    low: tuple[int, ...]
    boundary: str
    cval: complex
    mean: bool = False


@dataclass(frozen=True)
class Call:
    """An image, the array for the result, and the passes from one to the other; with none of them the image is copied.

    ``promoted`` says that a complex result took the place of the dtype that was asked for, of which SciPy warns.
    """

    input: Array
    output: Array
    passes: tuple[Pass, ...]
    promoted: bool = False


def correlate(
    input: Any, weights: Any, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0, *, axes: Any = None
) -> Call:  # fmt: skip
    """Return the call of a filter over several axes."""
    return _over_axes(input, weights, output, mode, cval, origin, axes, flipped=False)


def convolve(
    input: Any, weights: Any, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0, *, axes: Any = None
) -> Call:  # fmt: skip
    """Return the call of a filter over several axes whose taps are reversed."""
    return _over_axes(input, weights, output, mode, cval, origin, axes, flipped=True)


def correlate1d(
    input: Any, weights: Any, axis: Any = -1, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0
) -> Call:  # fmt: skip
    """Return the call of a filter along one axis."""
    return _along_axis(input, weights, axis, output, mode, cval, origin, flipped=False)


def convolve1d(
    input: Any, weights: Any, axis: Any = -1, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0
) -> Call:  # fmt: skip
    """Return the call of a filter along one axis whose taps are reversed."""
    return _along_axis(input, weights, axis, output, mode, cval, origin, flipped=True)


def gaussian_filter1d(
    input: Any, sigma: Any, axis: Any = -1, order: Any = 0, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, truncate: Any = 4.0,
    *, radius: Any = None,
) -> Call:  # fmt: skip
    """Return the call of a Gaussian, or of a derivative of one, along one axis."""
    return correlate1d(input, _gaussian(sigma, order, truncate, radius), axis, output, mode, cval, 0)


def gaussian_filter(
    input: Any, sigma: Any, order: Any = 0, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, truncate: Any = 4.0,
    *, radius: Any = None, axes: Any = None,
) -> Call:  # fmt: skip
    """Return the call of a Gaussian along each of several axes."""
    x = np.asarray(input)
    places = _axes(axes, x.ndim)
    each = zip(places, *(_one_each(value, len(places)) for value in (sigma, order, mode, radius)), strict=True)
    steps = [step for step in each if _exceeds(step[1], 1e-15)]
    if not steps:
        return _copy(output, x, is_complex=False)
    if x.dtype.kind == "c" and isinstance(output, (type, np.dtype)) and np.dtype(output).kind != "c":
        raise NotOurs  # here alone SciPy does not promote it
    passes = []
    for place, s, o, m, r in steps:
        w = _gaussian(s, o, truncate, r)
        passes.append(Pass(w, place, (len(w) // 2,), _boundary(m), _constant(cval, x, w)))
    return _call(x, output, *passes)


def uniform_filter1d(
    input: Any, size: Any, axis: Any = -1, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0
) -> Call:  # fmt: skip
    """Return the call of a mean along one axis."""
    x = np.asarray(input)
    return _call(x, output, _mean(_integer(size), _axis(axis, x.ndim), _integer(origin), mode, cval, x))


def uniform_filter(
    input: Any, size: Any = 3, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0, *, axes: Any = None
) -> Call:  # fmt: skip
    """Return the call of a mean along each of several axes."""
    x = np.asarray(input)
    places = _axes(axes, x.ndim)
    each = zip(places, *(_one_each(value, len(places)) for value in (size, origin, mode)), strict=True)
    steps = [step for step in each if _exceeds(step[1], 1)]
    if not steps:
        return _copy(output, x, is_complex=x.dtype.kind == "c")
    return _call(x, output, *(_mean(_truncated(s), place, _integer(o), m, cval, x) for place, s, o, m in steps))


def _over_axes(input: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any, flipped: bool) -> Call:
    x, w = np.asarray(input), np.asarray(weights)
    places = _axes(axes, x.ndim)
    origins = [_integer(o, no_bool=True) for o in _one_each(origin, len(places))]
    if w.ndim != len(places) or 0 in w.shape:
        raise NotOurs
    if len(places) < x.ndim:  # SciPy takes the axes of the weights in the order of those of the image, origins in that of ``axes``
        w = np.expand_dims(w, tuple(axis for axis in range(x.ndim) if axis not in places))
        given = dict(zip(places, origins, strict=True))
        origins = [given.get(axis, 0) for axis in range(x.ndim)]
    w, low = _oriented(w, origins, flipped)
    return _call(x, output, Pass(w, None, low, _boundary(mode), _constant(cval, x, w)))


def _along_axis(input: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any, flipped: bool) -> Call:
    x, w = np.asarray(input), np.asarray(weights)
    if w.ndim != 1 or not w.size:
        raise NotOurs
    w, low = _oriented(w, [_integer(origin)], flipped)
    return _call(x, output, Pass(w, _axis(axis, x.ndim), low, _boundary(mode), _constant(cval, x, w)))


def _mean(size: int, axis: int, origin: int, mode: Any, cval: Any, x: Array) -> Pass:
    if size < 1 or not 0 <= size // 2 + origin < size:
        raise NotOurs
    weights = np.full(size, 1 / size)
    return Pass(weights, axis, (size // 2 + origin,), _boundary(mode), _constant(cval, x, weights), mean=True)


def _oriented(w: Array, origins: list[int], flipped: bool) -> tuple[Array, tuple[int, ...]]:
    """Return the weights as the sum takes them, float64 or complex128, and the padding before each axis."""
    try:
        kind = np.complex128 if w.dtype.kind == "c" else np.float64
        w = w.conj().astype(kind) if w.dtype.kind == "c" and not flipped else w.astype(kind)
    except (TypeError, ValueError):
        raise NotOurs from None
    if flipped:
        backwards: Any = (*[slice(None, None, -1)] * w.ndim, ...)
        w = w[backwards].copy()
        origins = [-o - (not size & 1) for o, size in zip(origins, w.shape, strict=True)]
    if any(o < -(size // 2) or o > (size - 1) // 2 for o, size in zip(origins, w.shape, strict=True)):
        raise NotOurs
    return w, tuple(size // 2 + o for o, size in zip(origins, w.shape, strict=True))


def _call(x: Array, output: Any, *passes: Pass) -> Call:
    """Return a call of passes over arrays of our dtypes."""
    is_complex = x.dtype.kind == "c" or passes[0].weights.dtype.kind == "c"
    if x.dtype.newbyteorder("=") not in REAL | COMPLEX:
        raise NotOurs
    y, promoted = _output(output, x, is_complex)
    if y.dtype.newbyteorder("=") not in (COMPLEX if is_complex else REAL):
        raise NotOurs
    return Call(x, y, passes, promoted)


def _copy(output: Any, x: Array, is_complex: bool) -> Call:
    """Return the call of a filter that changes nothing, which SciPy grants to numbers of any dtype."""
    if x.dtype.kind not in "biufc":
        raise NotOurs
    y, promoted = _output(output, x, is_complex)
    return Call(x, y, (), promoted)


def _output(output: Any, x: Array, is_complex: bool) -> tuple[Array, bool]:
    """Return the array for the result, new or the one given, and whether the dtype asked for was promoted to a complex one."""
    if output is None:
        dtype = np.promote_types(x.dtype, np.complex64) if is_complex else x.dtype
        return empty(x.shape, dtype.newbyteorder("=")), False
    if isinstance(output, (type, np.dtype, str)):
        dtype, promoted = _output_dtype(output, is_complex)
        return empty(x.shape, dtype), promoted
    y = np.asarray(output)
    if y.shape != x.shape or (is_complex and y.dtype.kind != "c") or not y.flags.writeable:
        raise NotOurs
    return y, False


def _output_dtype(output: Any, is_complex: bool) -> tuple[np.dtype[Any], bool]:
    """Return the dtype that was asked for; SciPy promotes classes and dtypes to a complex one, where it needs that, but not names."""
    try:
        dtype = np.dtype(output)
    except TypeError:
        raise NotOurs from None
    promote = is_complex and dtype.kind != "c"
    if dtype.kind not in "biufc" or (isinstance(output, str) and (promote or dtype.kind == "b")):
        raise NotOurs
    return (np.promote_types(dtype, np.complex64) if promote else dtype), promote


def _boundary(mode: Any) -> str:
    if not isinstance(mode, str) or mode not in BOUNDARIES:
        raise NotOurs
    return BOUNDARIES[mode]


def _constant(cval: Any, x: Array, w: Array) -> complex:
    """Return the value beyond the ends: complex for a complex image alone."""
    try:
        if x.dtype.kind == "c":
            return complex(math.ldexp(np.real(cval), 0), math.ldexp(np.imag(cval), 0))
        if w.dtype.kind == "c" and np.iscomplexobj(cval):
            raise NotOurs
        return math.ldexp(cval, 0)  # takes what SciPy takes for a float: no strings, no complex numbers
    except (TypeError, ValueError):
        raise NotOurs from None


def _integer(value: Any, no_bool: bool = False) -> int:
    if no_bool and isinstance(value, bool):
        raise NotOurs
    try:
        return operator.index(value)
    except TypeError:
        raise NotOurs from None


def _truncated(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise NotOurs from None


def _exceeds(value: Any, limit: float) -> bool:
    try:
        return bool(value > limit)
    except (TypeError, ValueError):
        raise NotOurs from None


def _one_each(value: Any, count: int) -> list[Any]:
    """Return a sequence with an entry per axis, or the value itself for each."""
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise NotOurs
    return values


def _axis(axis: Any, ndim: int) -> int:
    axis = _integer(axis)
    if not -ndim <= axis < ndim:
        raise NotOurs
    return axis % ndim


def _axes(axes: Any, ndim: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(ndim))
    if np.isscalar(axes):
        axes = (axes,)
    if not np.iterable(axes):
        raise NotOurs
    places = tuple(_axis(axis, ndim) for axis in axes)
    if len(set(places)) != len(places):
        raise NotOurs
    return places


def _gaussian(sigma: Any, order: Any, truncate: Any, radius: Any) -> Array:
    """Return the weights of a Gaussian in the order in which a correlation takes them."""
    try:
        sigma = sigma[()] if isinstance(sigma, np.ndarray) else sigma
        reach = int(truncate * float(sigma) + 0.5)
        reach = reach if radius is None else radius
        if not isinstance(reach, numbers.Integral) or reach < 0 or order < 0 or not sigma * sigma:
            raise NotOurs
        return _gaussian_weights(sigma, order, int(reach))
    except (TypeError, ValueError, OverflowError):
        raise NotOurs from None


@lru_cache(maxsize=256, typed=True)
def _gaussian_weights(sigma: Any, order: Any, radius: int) -> Array:
    """Return φ(x)·q(x) at −x for x = −radius … radius, φ the Gaussian, whose sum is 1, and q the polynomial of its derivative.

    (q·φ)′ = (q′ − q·x/σ²)·φ: a matrix times the coefficients of q, once for each order. Every step rounds as SciPy's does.
    """
    variance = sigma * sigma
    x = np.arange(-radius, radius + 1)
    bell = np.exp(-0.5 / variance * x**2)
    bell = bell / bell.sum()
    if order:
        powers = np.arange(order + 1)
        step = np.diag(powers[1:], 1) + np.diag(np.ones(order) / -variance, -1)
        q = np.zeros(order + 1)
        q[0] = 1
        for _ in range(order):
            q = step.dot(q)
        bell = (x[:, None] ** powers).dot(q) * bell
    weights = np.array(bell[::-1], np.float64)
    weights.setflags(write=False)
    return weights
