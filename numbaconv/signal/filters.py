"""The filters of scipy.signal along an axis: upfirdn, lfilter, resample_poly and deconvolve.

What SciPy would refuse is handed to it and refused in its words; so are dtypes that kernels have no arithmetic for (objects, long
doubles), which it may compute. Everything else is computed here, but for the recursive part of `lfilter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.signal

from numbaconv.arrays import Array, NotOurs, as_numbers, check_out
from numbaconv.signal._calls import check_result
from numbaconv.signal._extension import MODES
from numbaconv.signal._lines import (
    Outside,
    Rate,
    checked_axis,
    checked_scalar,
    lines_of,
    numeric,
    numeric_anywhere,
    operands,
    ours,
    real_of,
    resample,
    resample_extended,
    shape_with,
)

BACKGROUNDS: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median, "minimum": np.min, "maximum": np.max}


class Problem(NamedTuple):
    """A call of `upfirdn` or of what is like it, checked: operands of one precision, where it runs and what it returns."""

    h: Array
    x: Array
    axis: int
    rate: Rate
    outside: Outside
    dtype: np.dtype[Any]

    @property
    def lines(self) -> Array:
        """The array x as (rows, size, inner)."""
        return lines_of(self.x, self.axis)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return shape_with(self.x, self.axis, self.rate.outputs)

    def run(self, out: Array | None = None) -> Array:
        """Return the result; ``out`` is checked already."""
        direct = out is not None and out.flags.c_contiguous
        target = lines_of(out, self.axis) if out is not None and direct else None
        y = resample_extended(self.h, self.lines, self.rate, self.outside, target).reshape(self.shape)
        if out is None:
            return y
        if not direct:
            out[...] = y
        return out


def _handed_over(out: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Let SciPy compute or refuse a call."""
    result = function(*arguments)
    if out is None:
        return result
    y, *rest = result if isinstance(result, tuple) else (result,)
    check_out(out, y.shape, y.dtype, {})
    out[...] = y
    return (out, *rest) if rest else out


def upfirdn_problem(h: Any, x: Any, up: Any, down: Any, axis: Any, mode: Any, cval: Any) -> Problem:
    """Check the arguments of `upfirdn`."""
    h, x = numeric_anywhere(h=h, x=x)
    axis = checked_axis(axis, x.ndim)
    dtype = np.result_type(h.dtype, x.dtype, np.float32)
    try:
        up, down, mode = int(up), int(down), mode.lower()
    except (TypeError, ValueError, AttributeError) as error:
        raise NotOurs from error
    value = checked_scalar(cval, dtype)
    count = ((x.shape[axis] - 1) * up + h.size - 1) // down + 1 if min(up, down) > 0 else -1
    if h.ndim != 1 or h.size == 0 or mode not in MODES or count < 0:
        raise NotOurs
    h, x = operands(h, x, dtype)
    return Problem(h, x, axis, Rate(up, down, 0, count), Outside(mode, value), dtype)


def upfirdn(
    h: Any, x: Any, up: int = 1, down: int = 1, axis: int = -1, mode: str = "constant", cval: complex = 0, *, out: Array | None = None
) -> Array:
    """Insert zeros between samples, filter, and keep every so many-th sample: `scipy.signal.upfirdn`.

    Parameters
    ----------
    h : array_like, (R,)
        Filter.
    x : array_like
        Signals along an axis.
    up, down : int
        ``up − 1`` zeros go between samples; of the filtered ones every ``down``-th is kept.
    axis : int
        The axis of x.
    mode : {"constant", "symmetric", "reflect", "edge", "wrap", "smooth", "line", "antisymmetric", "antireflect"}
        What x is taken to be beyond its ends.
    cval : scalar
        The value of "constant".
    out : ndarray, optional
        Where to write the result: right shape and dtype, not overlapping an input.

    Returns
    -------
    ndarray, like x but ((size − 1)·up + R − 1) // down + 1 on the axis
        In the dtype to which NumPy promotes h, x and float32.

    Raises
    ------
    TypeError, ValueError, IndexError
        As SciPy does; ValueError too for an empty axis that is to be extended by anything but a constant.

    Examples
    --------
    >>> from numbaconv.signal import upfirdn
    >>> upfirdn([0.5, 1, 0.5], [1, 1, 1], 2)
    array([0.5, 1. , 1. , 1. , 1. , 1. , 0.5])
    """
    problem: Problem | None = ours(upfirdn_problem, h, x, up, down, axis, mode, cval)
    if problem is None:
        return _handed_over(out, scipy.signal.upfirdn, h, x, up, down, axis, mode, cval)
    if out is not None:
        check_result(out, problem.shape, problem.dtype, dict(zip("hx", as_numbers(h=h, x=x), strict=True)))
    return problem.run(out)


class FirProblem(NamedTuple):
    """A call of `lfilter` with an FIR filter, checked; ``b`` is normalised and ``zi``, if there is one, has its full shape."""

    filter: Problem
    zi: Array | None

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of the state, zi and zf."""
        return shape_with(self.filter.x, self.filter.axis, len(self.filter.h) - 1)

    def final(self) -> Array:
        """Return what the samples have left in the delays: the convolution beyond its end."""
        h, lines = self.filter.h, self.filter.lines
        tail = lines[:, max(0, lines.shape[1] - len(h) + 1) :]
        rate = Rate(1, 1, tail.shape[1], len(h) - 1)
        return resample(h, np.ascontiguousarray(tail), rate).reshape(self.state_shape)


def fir_problem(b: Any, a: Any, x: Any, axis: Any, zi: Any) -> FirProblem:
    """Check the arguments of `lfilter`."""
    b, a, x, *given = numeric(b, a, x, *([] if zi is None else [zi]))
    b, a = np.atleast_1d(b), np.atleast_1d(a)
    dtype = np.result_type(b, a, x, *given)
    if b.ndim != 1 or b.size == 0 or a.shape != (1,) or x.size == 0 or dtype.char not in "fdFD":
        raise NotOurs
    axis = checked_axis(axis, x.ndim)
    state = shape_with(x, axis, b.size - 1)
    if given:
        fits = len(state) == given[0].ndim and all(
            found in (n, 1) if k != axis else found == n for k, (found, n) in enumerate(zip(given[0].shape, state, strict=True))
        )
        if not fits:
            raise NotOurs
        zi = np.broadcast_to(given[0], state).astype(dtype, copy=False)
    taps = dtype if "c" in (b.dtype.kind, a.dtype.kind) else real_of(dtype)
    h, x = operands(b.astype(taps) / a.astype(taps), x, dtype)
    return FirProblem(Problem(h, x, axis, Rate(1, 1, 0, x.shape[axis]), Outside(), dtype), zi)


def lfilter(b: Any, a: Any, x: Any, axis: int = -1, zi: Any = None, *, out: Array | None = None) -> Any:
    """Filter along an axis: `scipy.signal.lfilter`.

    Finite impulse responses, those with one coefficient in ``a``, are computed here; recursive filters by SciPy.

    Parameters
    ----------
    b, a : array_like, (R,) and (1,)
        Numerator and denominator; both are divided by ``a[0]``.
    x : array_like
        Signals along an axis.
    axis : int
        The axis of x.
    zi : array_like, optional
        State of the delays at the start: like x, but R − 1 on the axis; sizes of 1 elsewhere are repeated.
    out : ndarray, optional
        Where to write y: right shape and dtype, not overlapping an input.

    Returns
    -------
    y : ndarray, like x
        In the dtype to which NumPy promotes the arguments.
    zf : ndarray
        The state at the end, with ``zi`` alone.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As SciPy does: NotImplementedError if no argument is float32, float64 or complex.

    Examples
    --------
    >>> from numbaconv.signal import lfilter
    >>> lfilter([1.0, 1.0], 2, [1, 2, 3], zi=[0])
    (array([0.5, 1.5, 2.5]), array([1.5]))
    """
    found: FirProblem | None = ours(fir_problem, b, a, x, axis, zi)
    if found is None:
        return _handed_over(out, scipy.signal.lfilter, b, a, x, axis, zi)
    problem, state = found
    if out is not None:
        check_out(out, problem.shape, problem.dtype, {"b": np.asarray(b), "x": np.asarray(x), **({} if zi is None else {"zi": np.asarray(zi)})})
    y = problem.run(out)
    if state is None:
        return y
    zf, k = found.final(), problem.axis
    shared = min(y.shape[k], zf.shape[k])  # a state that is longer than x is handed on
    np.moveaxis(y, k, 0)[:shared] += np.moveaxis(state, k, 0)[:shared]
    np.moveaxis(zf, k, 0)[: zf.shape[k] - shared] += np.moveaxis(state, k, 0)[shared:]
    return y, zf


class Resampling(NamedTuple):
    """A call of `resample_poly`, checked: without its background, if it has one, x is resampled and that is added again."""

    problem: Problem
    background: Array | None
    factor: int  # by which the window was multiplied


def _window(window: Any, up: int, down: int, dtype: np.dtype[Any]) -> tuple[Array, int]:
    """Return the filter between the rates, and its centre."""
    if isinstance(window, (list, np.ndarray, np.generic)):
        (h,) = numeric(window)
        if h.ndim != 1 or h.size == 0:
            raise NotOurs
        h = h.copy()
        centre = (h.size - 1) // 2
    else:
        centre = 10 * max(up, down)
        h = scipy.signal.firwin(2 * centre + 1, 1.0 / max(up, down), window=window)
        h = h.astype(real_of(dtype)) if dtype.kind in "fc" else h
    h *= up
    return h, centre


def resampling(x: Any, up: Any, down: Any, axis: Any, window: Any, padtype: Any, cval: Any) -> Resampling | Array:
    """Check the arguments of `resample_poly`; return a copy of x if its rate does not change."""
    (x,) = numeric(x)
    try:
        if up != int(up) or down != int(down):
            raise NotOurs
        up, down = int(up), int(down)
    except (TypeError, ValueError) as error:
        raise NotOurs from error
    if min(up, down) < 1 or (cval is not None and padtype != "constant"):
        raise NotOurs
    common = math.gcd(up, down)
    up, down = up // common, down // common
    if up == down:
        return x.copy()
    axis = checked_axis(axis, x.ndim)
    if not isinstance(padtype, str) or padtype not in (*BACKGROUNDS, *MODES):
        raise NotOurs
    h, centre = _window(window, up, down, x.dtype)
    background = None
    if padtype in BACKGROUNDS:
        background = BACKGROUNDS[padtype](x, axis=axis, keepdims=True)
        x, padtype = x - background, "constant"
    dtype = np.result_type(h.dtype, x.dtype, np.float32)
    outside = Outside(padtype, checked_scalar(cval or 0, dtype))
    h, x = operands(h, x, dtype)
    rate = Rate(up, down, centre, -(-x.shape[axis] * up // down))
    return Resampling(Problem(h, x, axis, rate, outside, dtype), background, up)


def resample_poly(x: Any, up: int, down: int, axis: int = 0, window: Any = ("kaiser", 5.0), padtype: str = "constant", cval: Any = None) -> Array:
    """Resample by a rational factor with a zero-phase low-pass filter: `scipy.signal.resample_poly`.

    Parameters
    ----------
    x : array_like
        Signals along an axis.
    up, down : int
        The new rate is up / down times the old one.
    axis : int
        The axis of x.
    window : str, tuple or array_like
        Window from which `scipy.signal.firwin` makes the filter, or, as a list or an array, the filter itself.
    padtype : str
        What x is taken to be beyond its ends: "constant", "mean", "median", "minimum", "maximum" or another mode of `upfirdn`.
    cval : scalar, optional
        The value of "constant"; by default 0.

    Returns
    -------
    ndarray, like x but ceil(size·up / down) on the axis
        float32 and complex64 stay, integers become float64.

    Raises
    ------
    TypeError, ValueError, IndexError
        As SciPy does.

    Notes
    -----
    A sample that is not finite reaches the outputs that a tap of the filter leads to; in SciPy also those of the zeros added to it.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import resample_poly
    >>> resample_poly(np.ones(100), 3, 2).shape
    (150,)
    """
    found: Resampling | Array | None = ours(resampling, x, up, down, axis, window, padtype, cval)
    if found is None:
        result: Array = scipy.signal.resample_poly(x, up, down, axis, window, padtype, cval)
        return result
    if not isinstance(found, Resampling):
        return found
    y = found.problem.run()
    if found.background is not None:
        y += found.background
    return y


def division(signal: Any, divisor: Any) -> tuple[Array, Array]:
    """Check the arguments of `deconvolve` and return them as 1-D arrays."""
    dividend, filter_ = (np.atleast_1d(array) for array in numeric(signal, divisor))
    if dividend.ndim != 1 or filter_.ndim != 1 or dividend.size == 0 or filter_.size == 0:
        raise NotOurs
    return dividend, filter_


def deconvolve(signal: Any, divisor: Any) -> tuple[Any, Array]:
    """Divide a signal by a filter, as polynomials: `scipy.signal.deconvolve`.

    Parameters
    ----------
    signal : array_like, (N,)
        Dividend.
    divisor : array_like, (D,)
        What it is divided by; its first element must not be 0.

    Returns
    -------
    quotient : ndarray, (N − D + 1,), or an empty list if D > N
        In float64 or complex128.
    remainder : ndarray, (N,)
        What is left: signal − convolve(divisor, quotient).

    Raises
    ------
    TypeError, ValueError
        As SciPy does.

    Examples
    --------
    >>> from numbaconv.signal import deconvolve
    >>> deconvolve([2.0, 5.0, 3.0], [2.0, 3.0])
    (array([1., 1.]), array([0., 0., 0.]))
    """
    found: tuple[Array, Array] | None = ours(division, signal, divisor)
    if found is None:
        result: tuple[Any, Array] = scipy.signal.deconvolve(signal, divisor)
        return result
    dividend, filter_ = found
    size = dividend.size - filter_.size + 1
    if size < 1:
        return [], dividend
    impulse = np.zeros(size)
    impulse[0] = 1
    quotient = lfilter(dividend, filter_, impulse)
    h, x = operands(filter_, quotient[None, :, None], np.result_type(filter_, quotient))
    return quotient, dividend - resample(h, x, Rate(1, 1, 0, dividend.size)).reshape(-1)
