"""Gradients of the filters: each function returns what its namesake does, and how to pull a gradient of that back to its arguments.

A gradient is such that a change of an argument changes the loss by the real part of Σ conj(gradient) · change, which is PyTorch's
convention: the other operand is conjugated, and a real argument gets the real part. It has the argument's dtype if that is a float or
complex, else the real or complex float dtype of the result. Arguments are checked as by the namesake; a dtype that kernels have no
arithmetic for is refused with a TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal

from numbaconv.arrays import Array, as_numbers, check_shape, contiguous
from numbaconv.signal import _lines, filters
from numbaconv.signal._lines import Rate, lines_of, ours, real_of
from numbaconv.signal.filters import BACKGROUNDS, Problem, Resampling

Pull = Callable[..., Any]


def checked_call(check: Callable[..., Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a check returns; what it refuses SciPy refuses in its words, or it has a dtype without gradients."""
    found = ours(check, *arguments)
    if found is None:
        function(*arguments)
        raise TypeError(f"{function.__name__} has gradients for integers, float16/32/64 and complex64/128 alone")
    return found


def gradient(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the gradient of a result, checked, in the dtype of the computation."""
    (grad,) = checked_call(lambda given: _lines.numeric_anywhere(**{name: given}), np.asarray, value)
    check_shape(grad, shape, name, "that of the result")
    return contiguous(grad if dtype.kind == "c" else grad.real, dtype)


def like(grad: Array, argument: Any) -> Array:
    """Return the gradient of an argument as the module says."""
    kind = as_numbers(argument=argument)[0].dtype
    if kind.kind == "c":
        return grad.astype(kind, copy=False)
    return grad.real.astype(kind if kind.kind == "f" else real_of(grad.dtype), copy=False)


def _pull(problem: Problem, dy: Array) -> tuple[Array, Array]:
    """Return the gradients of the taps and of x, in the dtype of the computation."""
    x, rows, outside = problem.lines, lines_of(dy, problem.axis), problem.outside
    around = outside._replace(value=np.conj(outside.value))  # x is conjugated with all that surrounds it
    grad_h = _lines.grad_h(rows, x.conj(), len(problem.h), problem.rate, around)
    grad_x = _lines.grad_x(rows, problem.h.conj(), x.shape[1], problem.rate, outside)
    return grad_h, grad_x.reshape(problem.x.shape)


def upfirdn(
    h: Any, x: Any, up: int = 1, down: int = 1, axis: int = -1, mode: str = "constant", cval: complex = 0
) -> tuple[Array, Callable[[Any], tuple[Array, Array]]]:
    """Return `upfirdn` and its pull: grad_y -> (grad_h, grad_x).

    Parameters
    ----------
    h, x, up, down, axis, mode, cval
        As for `numbaconv.signal.upfirdn`.

    Returns
    -------
    y : ndarray
        The result.
    pull : callable
        ``pull(grad_y)`` returns (grad_h, grad_x).

    Raises
    ------
    TypeError, ValueError, IndexError
        As `upfirdn` does; pull raises ValueError for a gradient of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import vjp
    >>> y, pull = vjp.upfirdn([1.0, 1.0], [1.0, 2.0, 3.0], 2)
    >>> pull(np.ones_like(y))
    (array([6., 6.]), array([2., 2., 2.]))
    """
    problem = checked_call(filters.upfirdn_problem, scipy.signal.upfirdn, h, x, up, down, axis, mode, cval)

    def pull(grad_y: Any) -> tuple[Array, Array]:
        grad_h, grad_x = _pull(problem, gradient(grad_y, "grad_y", problem.shape, problem.dtype))
        return like(grad_h, h), like(grad_x, x)

    return problem.run(), pull


def lfilter(b: Any, a: Any, x: Any, axis: int = -1, zi: Any = None) -> tuple[Any, Pull]:
    """Return `lfilter` and its pull: grad_y -> (grad_b, grad_x), or with a state (grad_y, grad_zf) -> (grad_b, grad_x, grad_zi).

    Parameters
    ----------
    b, a, x, axis, zi
        As for `numbaconv.signal.lfilter`; ``a`` has one coefficient, which is taken as a constant.

    Returns
    -------
    y : ndarray, or (ndarray, ndarray) with ``zi``
        The result, with zf.
    pull : callable
        ``pull(grad_y)``, or ``pull(grad_y, grad_zf)`` with ``zi``.

    Raises
    ------
    NotImplementedError
        If ``a`` has more than one coefficient: recursive filters have no gradients here.
    TypeError, ValueError
        As `lfilter` does; pull raises ValueError for a gradient of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import vjp
    >>> y, pull = vjp.lfilter([1.0, 1.0], 1.0, [1.0, 2.0, 3.0])
    >>> pull(np.ones_like(y))
    (array([6., 3.]), array([2., 2., 1.]))
    """
    if np.size(a) > 1:
        raise NotImplementedError(f"a must have one coefficient: recursive filters have no gradients here, got {np.size(a)}")
    found = checked_call(filters.fir_problem, scipy.signal.lfilter, b, a, x, axis, zi)
    problem, (scale,) = found.filter, np.ravel(a)

    def pulled(dy: Array) -> tuple[Array, Array]:
        """Gradients for a gradient of the convolution up to its end, or beyond it."""
        size = dy.shape[problem.axis]
        grad_h, grad_x = _pull(problem._replace(rate=Rate(1, 1, 0, size)), dy)
        return like(grad_h / np.conj(scale), b).reshape(np.shape(b)), like(grad_x, x)

    def pull(grad_y: Any) -> tuple[Array, Array]:
        return pulled(gradient(grad_y, "grad_y", problem.shape, problem.dtype))

    def pull_with_state(grad_y: Any, grad_zf: Any) -> tuple[Array, Array, Array]:
        dy = gradient(grad_y, "grad_y", problem.shape, problem.dtype)
        dzf = gradient(grad_zf, "grad_zf", found.state_shape, problem.dtype)
        whole = np.concatenate((dy, dzf), problem.axis)
        grad_zi = np.moveaxis(np.moveaxis(whole, problem.axis, 0)[: len(problem.h) - 1], 0, problem.axis)
        repeated = tuple(k for k, n in enumerate(np.shape(zi)) if n != grad_zi.shape[k])
        return (*pulled(whole), like(grad_zi.sum(repeated, keepdims=True), zi))

    result = filters.lfilter(b, a, x, axis, zi)
    return result, pull if zi is None else pull_with_state


def resample_poly(
    x: Any, up: int, down: int, axis: int = 0, window: Any = ("kaiser", 5.0), padtype: str = "constant", cval: Any = None
) -> tuple[Array, Callable[[Any], Any]]:
    """Return `resample_poly` and its pull: grad_y -> grad_x, or (grad_x, grad_window) where the window is a filter itself.

    Parameters
    ----------
    x, up, down, axis, window, padtype, cval
        As for `numbaconv.signal.resample_poly`.

    Returns
    -------
    y : ndarray
        The result.
    pull : callable
        ``pull(grad_y)``. Where samples tie for the minimum or the maximum, they share its gradient.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `resample_poly` does; pull raises ValueError for a gradient of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import vjp
    >>> y, pull = vjp.resample_poly([1.0, 2.0, 3.0], 2, 1, window=[0.5, 1.0, 0.5])
    >>> pull(np.ones_like(y))
    (array([3., 4., 4.]), array([10., 12., 12.]))
    """
    found = checked_call(filters.resampling, scipy.signal.resample_poly, x, up, down, axis, window, padtype, cval)
    is_filter = isinstance(window, (list, np.ndarray))
    y = filters.resample_poly(x, up, down, axis, window, padtype, cval)
    real = np.result_type(y.dtype, np.float32)

    def pull(grad_y: Any) -> Any:
        if not isinstance(found, Resampling):
            grad_x = like(gradient(grad_y, "grad_y", y.shape, real), x)
            return (grad_x, np.zeros_like(np.asarray(window, np.result_type(window, np.float32)))) if is_filter else grad_x
        dy = gradient(grad_y, "grad_y", y.shape, found.problem.dtype)
        grad_h, grad_x = _pull(found.problem, dy)
        if found.background is not None:
            of_background = dy.sum(found.problem.axis, keepdims=True) - grad_x.sum(found.problem.axis, keepdims=True)
            grad_x = grad_x + of_background * _shares(np.asarray(x), found.background, found.problem.axis, padtype)
        return (like(grad_x, x), like(grad_h * found.factor, window)) if is_filter else like(grad_x, x)

    return y, pull


def _shares(x: Array, background: Array, axis: int, padtype: str) -> Array:
    """Return how much of a change of each sample the background of its line takes on."""
    assert padtype in BACKGROUNDS
    if padtype == "mean":
        return np.broadcast_to(np.float64(1 / x.shape[axis]), x.shape)
    if padtype == "median":
        size, order = x.shape[axis], np.argsort(np.argsort(x, axis, kind="stable"), axis)
        return ((order == size // 2).astype(float) + (order == (size - 1) // 2)) / 2
    there = x == background
    return there / there.sum(axis, keepdims=True)


def deconvolve(signal: Any, divisor: Any) -> tuple[tuple[Any, Array], Callable[[Any, Any], tuple[Array, Array]]]:
    """Return `deconvolve` and its pull: (grad_quotient, grad_remainder) -> (grad_signal, grad_divisor).

    Parameters
    ----------
    signal, divisor
        As for `numbaconv.signal.deconvolve`.

    Returns
    -------
    quotient_and_remainder : (ndarray or empty list, ndarray)
        The result.
    pull : callable
        ``pull(grad_quotient, grad_remainder)``; the quotient's is an empty list if the quotient is.

    Raises
    ------
    TypeError, ValueError
        As `deconvolve` does; pull raises ValueError for a gradient of another shape.

    Examples
    --------
    >>> from numbaconv.signal import vjp
    >>> (quotient, remainder), pull = vjp.deconvolve([2.0, 4.0], [2.0])
    >>> pull([1.0, 1.0], [0.0, 0.0])
    (array([0.5, 0.5]), array([-1.5]))
    """
    _, h = checked_call(filters.division, scipy.signal.deconvolve, signal, divisor)
    quotient, remainder = filters.deconvolve(signal, divisor)
    dtype = np.result_type(np.asarray(quotient).dtype, remainder.dtype, np.float64)

    def pull(grad_quotient: Any, grad_remainder: Any) -> tuple[Array, Array]:
        # signal = divisor * quotient + remainder, where the quotient alone makes the remainder's first elements 0.
        size = len(quotient)
        dq = gradient(grad_quotient, "grad_quotient", (size,), dtype)
        dr = gradient(grad_remainder, "grad_remainder", remainder.shape, dtype)
        if size == 0:
            return like(dr, signal).reshape(np.shape(signal)), like(np.zeros(h.shape, dtype), divisor).reshape(np.shape(divisor))
        taps, q = h.astype(dtype).conj(), np.asarray(quotient, dtype).conj()
        rate = Rate(1, 1, 0, len(dr))
        dq = dq - _lines.grad_x(dr[None, :, None], taps, size, rate, _lines.Outside())[0, :, 0]
        inner = np.zeros_like(dr)  # the gradient of the first elements of the signal, through the quotient
        inner[:size] = filters.lfilter([1.0], taps, dq[::-1])[::-1]
        grad_h = _lines.grad_h((inner + dr)[None, :, None], q[None, :, None], len(h), rate, _lines.Outside())
        return like(inner + dr, signal).reshape(np.shape(signal)), like(-grad_h, divisor).reshape(np.shape(divisor))

    return (quotient, remainder), pull
