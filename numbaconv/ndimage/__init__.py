"""SciPy's linear image filters, several times as fast and with gradients: ``from numbaconv import ndimage`` is the whole migration.

`convolve`, `correlate`, `convolve1d`, `correlate1d`, `gaussian_filter`, `gaussian_filter1d`, `uniform_filter` and `uniform_filter1d` have the
names, arguments, defaults, results, dtypes and errors of `scipy.ndimage`. Every other name, ``median_filter`` say, is SciPy's own function.
`vjp` holds the same filters with their gradients.

Integer and boolean results are SciPy's to the last bit. float32 is computed in float32, where SciPy computes in float64 and rounds: a pass is
within 8 eps · Σ|x||w| of the exact sum. float64 keeps to the same bound. What SciPy refuses is refused with SciPy's error, float16 too.

Differences, where SciPy's result depends on its way of computing: in a mean of floats NaN and Inf stay within their window, where SciPy
carries them on to the end of the line; sums beyond 3.4e38 overflow in float32; an output that overlaps the input is right in every case; so are
filters over several axes that are larger than four times the image, for which SciPy reads beyond it; and ``axes=-1`` is the last axis for
`correlate` and `convolve` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scipy import ndimage as _scipy

from numbaconv.arrays import Array, NotOurs
from numbaconv.ndimage import _calls, vjp
from numbaconv.ndimage._calls import Call
from numbaconv.ndimage._passes import carry_out, warn_of_promotion

_OPTIONS = """output : ndarray or dtype, optional
        Where to write the result, or its dtype; by default that of the input. It may be the input.
    mode : {{"reflect", "constant", "nearest", "mirror", "wrap", "grid-mirror", "grid-constant", "grid-wrap"}}{modes}
        What the image is taken to be beyond its ends: d c b a | a b c d | d c b a, c c | a b c d | c c with ``cval``,
        a a | a b c d | d d, d c b | a b c d | c b a, or a b c d | a b c d | a b c d; grid-mirror is reflect.
    cval : scalar
        The value beyond the ends for "constant"; complex for complex images alone."""
_ORIGIN = """origin : int{each}
        Shifts the filter: positive ones to the left, so that more of what is before a pixel is seen."""
_AXES = """axes : None, int or tuple of int
        The axes that are filtered; by default all of them."""
_RETURNS = """ndarray, {shape}
        ``output``, or a new array; complex if the image{operands} complex."""
_RAISES = """RuntimeError, ValueError, TypeError
        As SciPy does, before anything is computed."""


def _documented(function: Callable[..., Array]) -> Callable[..., Array]:
    """Fill in what the documentation of the filters has in common."""
    each, weighted = " or sequence of int", " or the weights are"
    assert function.__doc__
    function.__doc__ = function.__doc__.format(
        options=_OPTIONS.format(modes=""), options_each=_OPTIONS.format(modes=" or sequence of them"), origin=_ORIGIN.format(each=""),
        origin_each=_ORIGIN.format(each=each), axes=_AXES, raises=_RAISES,
        returns=_RETURNS.format(shape="like input", operands=" is"), returns_weighted=_RETURNS.format(shape="like input", operands=weighted),
    )  # fmt: skip
    return function


def _filtered(check: Callable[..., Call], *args: Any, **kwargs: Any) -> Array:
    """Carry a call out, or leave it to SciPy's function of the same name."""
    try:
        call = check(*args, **kwargs)
    except NotOurs:
        result: Array = getattr(_scipy, check.__name__)(*args, **kwargs)
        return result
    warn_of_promotion(call, level=4)
    return carry_out(call)


@_documented
def correlate(
    input: Any, weights: Any, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0, *, axes: Any = None
) -> Array:  # fmt: skip
    """Correlate an image of any number of axes with a filter; complex weights are conjugated.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    weights : array_like
        The filter, with as many axes as are filtered; its centre is element ``size // 2`` of each. Weights of at most 2.2e-16 are
        left out of the sum.
    {options}
    {origin_each}
    {axes}

    Returns
    -------
    {returns_weighted}

    Raises
    ------
    {raises}

    Notes
    -----
    A 2-D filter of floats that is the outer product of two is applied as these, one axis after the other, in one sweep.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import ndimage
    >>> ndimage.correlate(np.arange(9).reshape(3, 3), [[0, 1, 0], [1, -4, 1], [0, 1, 0]], mode="nearest")
    array([[ 4,  3,  2],
           [ 1,  0, -1],
           [-2, -3, -4]])
    """
    return _filtered(_calls.correlate, input, weights, output, mode, cval, origin, axes=axes)


@_documented
def convolve(
    input: Any, weights: Any, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0, *, axes: Any = None
) -> Array:  # fmt: skip
    """Convolve an image of any number of axes with a filter: a correlation with the taps reversed, nothing conjugated.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    weights : array_like
        The filter, with as many axes as are filtered; its centre is element ``size // 2`` of each. Weights of at most 2.2e-16 are
        left out of the sum.
    {options}
    {origin_each}
    {axes}

    Returns
    -------
    {returns_weighted}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import ndimage
    >>> ndimage.convolve(np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]), [[1, 2], [3, 4]], mode="constant")
    array([[1., 2., 0.],
           [3., 4., 0.],
           [0., 0., 0.]])
    """
    return _filtered(_calls.convolve, input, weights, output, mode, cval, origin, axes=axes)


@_documented
def correlate1d(
    input: Any, weights: Any, axis: Any = -1, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0
) -> Array:  # fmt: skip
    """Correlate the lines of an image along one axis with a filter; complex weights are conjugated.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    weights : array_like, (taps,)
        The filter; its centre is element ``taps // 2``.
    axis : int
        The axis.
    {options}
    {origin}

    Returns
    -------
    {returns_weighted}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> from numbaconv import ndimage
    >>> ndimage.correlate1d([2.0, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([ 8., 26.,  8., 12.,  7., 28., 36.,  9.])
    """
    return _filtered(_calls.correlate1d, input, weights, axis, output, mode, cval, origin)


@_documented
def convolve1d(
    input: Any, weights: Any, axis: Any = -1, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0
) -> Array:  # fmt: skip
    """Convolve the lines of an image along one axis with a filter: a correlation with the taps reversed, nothing conjugated.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    weights : array_like, (taps,)
        The filter; its centre is element ``taps // 2``.
    axis : int
        The axis.
    {options}
    {origin}

    Returns
    -------
    {returns_weighted}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> from numbaconv import ndimage
    >>> ndimage.convolve1d([2.0, 8, 0, 4, 1, 9, 9, 0], weights=[1, 3])
    array([14., 24.,  4., 13., 12., 36., 27.,  0.])
    """
    return _filtered(_calls.convolve1d, input, weights, axis, output, mode, cval, origin)


@_documented
def gaussian_filter1d(
    input: Any, sigma: Any, axis: Any = -1, order: Any = 0, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, truncate: Any = 4.0,
    *, radius: Any = None,
) -> Array:  # fmt: skip
    """Smooth the lines of an image along one axis with a Gaussian, or filter them with a derivative of one.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    sigma : float
        The standard deviation, in pixels.
    axis : int
        The axis.
    order : int
        0 for the Gaussian, n for its n-th derivative.
    {options}
    truncate : float
        At how many standard deviations the filter is cut off.
    radius : int, optional
        The same in pixels, in place of ``truncate``.

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> from numbaconv import ndimage
    >>> ndimage.gaussian_filter1d([1.0, 2.0, 3.0, 4.0, 5.0], 1).round(3)
    array([1.427, 2.068, 3.   , 3.932, 4.573])
    """
    return _filtered(_calls.gaussian_filter1d, input, sigma, axis, order, output, mode, cval, truncate, radius=radius)


@_documented
def gaussian_filter(
    input: Any, sigma: Any, order: Any = 0, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, truncate: Any = 4.0,
    *, radius: Any = None, axes: Any = None,
) -> Array:  # fmt: skip
    """Smooth an image with a Gaussian, axis after axis, or filter it with derivatives of one.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    sigma : float or sequence of float
        The standard deviation, in pixels; an axis with at most 1e-15 is left as it is.
    order : int or sequence of int
        0 for the Gaussian, n for its n-th derivative.
    {options_each}
    truncate : float
        At how many standard deviations the filter is cut off.
    radius : None, int or sequence of int
        The same in pixels, in place of ``truncate``.
    {axes}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Notes
    -----
    What one axis gives is kept in the output's dtype before the next: integers are cut off after each.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import ndimage
    >>> ndimage.gaussian_filter(np.arange(50, step=2).reshape(5, 5), sigma=1)[0]
    array([ 4,  6,  8,  9, 11])
    """
    return _filtered(_calls.gaussian_filter, input, sigma, order, output, mode, cval, truncate, radius=radius, axes=axes)


@_documented
def uniform_filter1d(
    input: Any, size: Any, axis: Any = -1, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0
) -> Array:  # fmt: skip
    """Replace each pixel by the mean of its neighbours along one axis.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    size : int
        How many neighbours, the pixel counted.
    axis : int
        The axis.
    {options}
    {origin}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> from numbaconv import ndimage
    >>> ndimage.uniform_filter1d([2, 8, 0, 4, 1, 9, 9, 0], size=3)
    array([4, 3, 4, 1, 4, 6, 6, 3])
    """
    return _filtered(_calls.uniform_filter1d, input, size, axis, output, mode, cval, origin)


@_documented
def uniform_filter(
    input: Any, size: Any = 3, output: Any = None, mode: Any = "reflect", cval: Any = 0.0, origin: Any = 0, *, axes: Any = None
) -> Array:  # fmt: skip
    """Replace each pixel by the mean of a box around it, axis after axis.

    Parameters
    ----------
    input : array_like
        The image: integers, booleans, float32/64 or complex64/128.
    size : int or sequence of int
        The sides of the box.
    {options_each}
    {origin_each}
    {axes}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Notes
    -----
    What one axis gives is kept in the output's dtype before the next: integers are cut off after each.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import ndimage
    >>> ndimage.uniform_filter(np.arange(9.0).reshape(3, 3) * 9).round(6)[1]
    array([30., 36., 42.])
    """
    return _filtered(_calls.uniform_filter, input, size, output, mode, cval, origin, axes=axes)


__all__ = [*vjp.__all__, "vjp"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Return SciPy's function for every name that is not here."""
    if name.startswith("_") or not hasattr(_scipy, name):
        raise AttributeError(f"module 'numbaconv.ndimage' has no attribute {name!r}, nor has scipy.ndimage")
    return getattr(_scipy, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_scipy.__all__})
