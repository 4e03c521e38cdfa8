"""The filters of scipy.signal that extend what they filter: sepfir2d and savgol_filter.

What SciPy would refuse is handed to it, as in `filters`.
"""

from __future__ import annotations

import functools
import numbers
from typing import Any, NamedTuple

import numpy as np
import scipy.signal

from numbaconv import boundary
from numbaconv import separable as separable_filters
from numbaconv.arrays import Array, NotOurs, contiguous
from numbaconv.correlation import Axes
from numbaconv.signal._lines import checked_axis, checked_scalar, lines_of, numeric, ours

SAVGOL_MODES = ("mirror", "constant", "nearest", "interp", "wrap")


def separable(input: Any, hrow: Any, hcol: Any) -> tuple[Array, Array, Array]:
    """Check the arguments of `sepfir2d` and return them in the dtype of the result."""
    image, row, column = numeric(input, hrow, hcol)
    dtype = np.result_type(image.dtype, np.float32)
    filters = (row, column)
    if image.ndim != 2 or any(h.ndim != 1 or h.size % 2 == 0 or not np.can_cast(h.dtype, dtype, "safe") for h in filters):
        raise NotOurs
    return image.astype(dtype, copy=False), row.astype(dtype), column.astype(dtype)


def sepfir2d(input: Any, hrow: Any, hcol: Any) -> Array:
    """Filter an image along its rows and along its columns, mirrored about its edges: `scipy.signal.sepfir2d`.

    Parameters
    ----------
    input : array_like, (H, W)
        Image.
    hrow : array_like, (R,)
        Filter along the rows, of odd length.
    hcol : array_like, (S,)
        Filter along the columns, of odd length.

    Returns
    -------
    ndarray, (H, W)
        In the dtype to which NumPy promotes the image and float32; the filters must be safe to cast to it.

    Raises
    ------
    TypeError, ValueError
        As SciPy does.

    Notes
    -----
    Beyond an edge the image is repeated in reverse, the edge included, and so on and on; SciPy reads beyond its memory where a filter has
    more than one element more than the axis.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv.signal import sepfir2d
    >>> sepfir2d(np.eye(3), [1.0, 1.0, 1.0], [0.0, 1.0, 0.0])
    array([[2., 1., 0.],
           [1., 1., 1.],
           [0., 1., 2.]])
    """
    found: tuple[Array, Array, Array] | None = ours(separable, input, hrow, hcol)
    if found is None:
        result: Array = scipy.signal.sepfir2d(input, hrow, hcol)
        return result
    return both_ways(*found)


def both_ways(image: Array, row: Array, column: Array) -> Array:
    """Return an image filtered along its rows and its columns, all of one dtype, mirrored about its edges."""
    in_range = image.size and np.isfinite(row).all() and np.isfinite(column).all()  # else it matters which filter comes first
    if image.dtype.kind == "f" and in_range and separable_filters.fits(column, row):
        low = ((len(column) - 1) // 2, (len(row) - 1) // 2)
        return separable_filters.correlate(image, column[::-1], row[::-1], low, ("reflect", "reflect"), (0.0, 0.0))
    return along(along(image, row, 1, "reflect"), column, 0, "reflect")


def centred(x: Array, taps: int, axis: int) -> tuple[Array, tuple[int, ...], Axes]:
    """Return x, the shape of a filter along an axis and the axes of an output of the same size; even filters are centred as by ndimage."""
    lines = lines_of(x, axis)
    _, size, inner = lines.shape
    low = (taps - 1) // 2
    if inner == 1:
        return lines[..., 0], (1, taps), Axes.of((low,), (size,))
    return lines, (1, taps, 1), Axes.of((low, 0), (size, inner))


def along(x: Array, h: Array, axis: int, mode: str, value: complex = 0) -> Array:
    """Convolve x along an axis with h, both of one dtype, with a boundary of `numbaconv.boundary`."""
    if x.size == 0:
        return x.copy()
    lines, shape, axes = centred(x, len(h), axis)
    return boundary.correlate(lines, contiguous(h[::-1], h.dtype).reshape(shape), axes, mode, value).reshape(x.shape)


class Smoothing(NamedTuple):
    """A call of `savgol_filter`, checked: x in float64 and the taps; with ``ends``, a matrix for each end of the lines."""

    x: Array
    h: Array
    axis: int
    boundary: str
    value: float
    ends: tuple[Array, Array] | None
    dtype: np.dtype[Any]


def smoothing(x: Any, window_length: Any, polyorder: Any, deriv: Any, delta: Any, axis: Any, mode: Any, cval: Any) -> Smoothing:
    """Check the arguments of `savgol_filter`."""
    if mode not in SAVGOL_MODES:
        raise NotOurs
    (x,) = numeric(x)
    dtype = x.dtype if x.dtype == np.float32 else np.dtype(np.float64)
    axis = checked_axis(axis, x.ndim)
    h = scipy.signal.savgol_coeffs(window_length, polyorder, deriv=deriv, delta=delta)
    if mode != "interp":
        return Smoothing(x.astype(np.float64), h, axis, mode, float(checked_scalar(cval, dtype).real), None, dtype)
    if not all(isinstance(n, numbers.Integral) for n in (window_length, polyorder)) or polyorder < 0 or window_length > x.shape[axis]:
        raise NotOurs
    ends = end_maps(int(window_length), int(polyorder), int(deriv), float(delta))
    return Smoothing(x.astype(np.float64), h, axis, "zeros", 0.0, ends, dtype)


@functools.lru_cache(maxsize=64)
def end_maps(window: int, order: int, deriv: int, delta: float) -> tuple[Array, Array]:
    """Return what makes the first window // 2 outputs of the first ``window`` samples, and the last of the last.

    It is the value, or a derivative, of the polynomial that fits them best, in Legendre's polynomials on −1 … 1.
    """
    legendre, half = np.polynomial.legendre, window // 2
    step = 2 / max(1, window - 1)
    place = np.arange(window) * step - 1
    fit = np.linalg.pinv(legendre.legvander(place, order))
    derivative = legendre.legder(np.eye(order + 1), deriv, scl=step)
    values = legendre.legvander(place, len(derivative) - 1) @ derivative @ fit / delta**deriv
    return values[:half], values[window - half :]


def savgol_filter(
    x: Any, window_length: int, polyorder: int, deriv: int = 0, delta: float = 1.0, axis: int = -1, mode: str = "interp", cval: float = 0.0
) -> Array:
    """Smooth or differentiate by fitting polynomials to a sliding window (Savitzky and Golay): `scipy.signal.savgol_filter`.

    Parameters
    ----------
    x : array_like
        Signals along an axis.
    window_length : int
        Samples to which a polynomial is fitted.
    polyorder : int
        Its degree, smaller than ``window_length``.
    deriv : int
        Which derivative to return; 0 smooths.
    delta : float
        Distance of the samples, for derivatives.
    axis : int
        The axis of x.
    mode : {"interp", "mirror", "constant", "nearest", "wrap"}
        "interp" evaluates the polynomials of the first and the last window for what is nearer to the ends; the others extend x.
    cval : float
        The value of "constant".

    Returns
    -------
    ndarray, like x
        float32 stays, everything else becomes float64. The sums are in float64: derivatives are differences of large terms.

    Raises
    ------
    TypeError, ValueError
        As SciPy does.

    Notes
    -----
    The polynomials of the ends are fitted in a basis that stays exact at any degree: from a degree of about 20 on, SciPy's are not.

    References
    ----------
    A. Savitzky and M. J. E. Golay, "Smoothing and Differentiation of Data by Simplified Least Squares Procedures", Analytical Chemistry
    36 (1964).

    Examples
    --------
    >>> from numbaconv.signal import savgol_filter
    >>> savgol_filter([2, 2, 5, 2, 1, 0, 1, 4, 9], 5, 2).round(2)
    array([1.66, 3.17, 3.54, 2.86, 0.66, 0.17, 1.  , 4.  , 9.  ])
    """
    found: Smoothing | None = ours(smoothing, x, window_length, polyorder, deriv, delta, axis, mode, cval)
    if found is None:
        result: Array = scipy.signal.savgol_filter(x, window_length, polyorder, deriv, delta, axis, mode, cval)
        return result
    y = along(found.x, found.h, found.axis, found.boundary, found.value)
    if found.ends is not None:
        first, last = found.ends
        source, target = lines_of(found.x, found.axis), lines_of(y, found.axis)
        target[:, : len(first)] = first @ source[:, : len(found.h)]
        target[:, target.shape[1] - len(last) :] = last @ source[:, source.shape[1] - len(found.h) :]
    return y.astype(found.dtype, copy=False)
