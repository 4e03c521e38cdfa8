"""The filters of `smoothing` with their gradients, as `numbaconv.signal.vjp` has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal

from numbaconv import boundary
from numbaconv.arrays import Array, contiguous
from numbaconv.signal import smoothing
from numbaconv.signal._filters_vjp import checked_call, gradient, like
from numbaconv.signal._lines import lines_of
from numbaconv.signal.smoothing import Smoothing, centred


def _along_pull(x: Array, h: Array, axis: int, mode: str, dy: Array) -> tuple[Array, Array]:
    """Return the gradients of x and h for `smoothing.along`; that of h for a boundary without a constant."""
    if x.size == 0:
        return x.copy(), np.zeros_like(h)
    rows, shape, axes = centred(x, len(h), axis)
    taps, dy = contiguous(h[::-1].conj(), h.dtype).reshape(shape), dy.reshape(rows.shape)
    grad_x = boundary.grad_x(dy, taps, rows.shape, axes, mode).reshape(x.shape)
    return grad_x, boundary.grad_h(dy, rows.conj(), shape, axes, mode).reshape(-1)[::-1]


def sepfir2d(input: Any, hrow: Any, hcol: Any) -> tuple[Array, Callable[[Any], tuple[Array, Array, Array]]]:
    """Return `sepfir2d` and its pull: grad_y -> (grad_input, grad_hrow, grad_hcol).

    Parameters
    ----------
    input, hrow, hcol
        As for `numbaconv.signal.sepfir2d`.

    Returns
    -------
    y : ndarray
        The result.
    pull : callable
        ``pull(grad_y)`` returns (grad_input, grad_hrow, grad_hcol).

    Raises
    ------
    TypeError, ValueError
        As `sepfir2d` does; pull raises ValueError for a gradient of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import vjp
    >>> y, pull = vjp.sepfir2d(np.eye(2), [1.0], [1.0])
    >>> pull(np.ones_like(y))[1:]
    (array([2.]), array([2.]))
    """
    image, row, column = checked_call(smoothing.separable, scipy.signal.sepfir2d, input, hrow, hcol)

    def pull(grad_y: Any) -> tuple[Array, Array, Array]:
        dy = gradient(grad_y, "grad_y", image.shape, image.dtype)
        between = smoothing.along(image, row, 1, "reflect")
        grad_between, grad_column = _along_pull(between, column, 0, "reflect", dy)
        grad_image, grad_row = _along_pull(image, row, 1, "reflect", grad_between)
        return like(grad_image, input), like(grad_row, hrow), like(grad_column, hcol)

    return smoothing.both_ways(image, row, column), pull


def savgol_filter(
    x: Any, window_length: int, polyorder: int, deriv: int = 0, delta: float = 1.0, axis: int = -1, mode: str = "interp", cval: float = 0.0
) -> tuple[Array, Callable[[Any], Array]]:
    """Return `savgol_filter` and its pull: grad_y -> grad_x.

    Parameters
    ----------
    x, window_length, polyorder, deriv, delta, axis, mode, cval
        As for `numbaconv.signal.savgol_filter`.

    Returns
    -------
    y : ndarray
        The result.
    pull : callable
        ``pull(grad_y)`` returns grad_x.

    Raises
    ------
    TypeError, ValueError
        As `savgol_filter` does; pull raises ValueError for a gradient of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import vjp
    >>> y, pull = vjp.savgol_filter(np.arange(5.0), 3, 1, mode="wrap")
    >>> pull(np.ones_like(y)).round(6)
    array([1., 1., 1., 1., 1.])
    """
    found: Smoothing = checked_call(smoothing.smoothing, scipy.signal.savgol_filter, x, window_length, polyorder, deriv, delta, axis, mode, cval)

    def pull(grad_y: Any) -> Array:
        dy = gradient(grad_y, "grad_y", found.x.shape, found.x.dtype)
        if found.ends is None:
            return like(_along_pull(found.x, found.h, found.axis, found.boundary, dy)[0], x)
        first, last = found.ends
        rows, size, taps = lines_of(dy, found.axis), dy.shape[found.axis], len(found.h)
        middle = rows.copy()
        middle[:, : len(first)] = 0
        middle[:, size - len(last) :] = 0
        grad_x, _ = _along_pull(found.x, found.h, found.axis, found.boundary, middle.reshape(dy.shape))
        target = lines_of(grad_x, found.axis)
        target[:, :taps] += first.T @ rows[:, : len(first)]
        target[:, size - taps :] += last.T @ rows[:, size - len(last) :]
        return like(grad_x, x)

    return smoothing.savgol_filter(x, window_length, polyorder, deriv, delta, axis, mode, cval), pull
