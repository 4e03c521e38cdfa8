"""convolve, correlate and their relatives: what scipy.signal gives under these names, computed by Numba kernels.

Every function prepares a `numbaconv.signal._calls.Call` and computes it; where there is none, it is SciPy's function that answers.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from numbaconv import correlation, tuning
from numbaconv import plan as planning
from numbaconv.arrays import COMPUTE, Array, check_out
from numbaconv.correlation import Ints
from numbaconv.cpu import fir
from numbaconv.signal._arrange import Arrangement, arrange
from numbaconv.signal._calls import Call, available, compute, compute_known, known, prepare, prepare_2d, prepare_fft, remember_fastest

SHORT = "fdFDilqhb"  # dtypes of short vectors that are convolved without further ado, and
FEW_PRODUCTS, MOST_PRODUCTS, MOST_TAPS = 1 << 13, 1 << 19, 128  # up to how many products; the second is for float32 and float64
MEASURED_SECONDS, MEASURED_CALLS = 0.1, 50  # `choose_conv_method` measures each method for so long, or so often


def _by_scipy(name: str, out: Any, in1: Any, in2: Any, *options: Any) -> Any:
    """Return what SciPy's function answers, or let it raise."""
    result = getattr(importlib.import_module("scipy.signal"), name)(in1, in2, *options)
    if out is None:
        return result
    check_out(out, np.shape(result), result.dtype, {"in1": np.asarray(in1), "in2": np.asarray(in2)})
    out[...] = result
    return out


def _short(in1: Array, in2: Array, mode: Any, method: Any, reverse: bool) -> Array | None:
    """Return the convolution of two vectors of one dtype that are soon done, in2 reversed for a correlation of real ones; None for all others."""
    if in1.ndim != 1 or in2.ndim != 1:
        return None
    size, taps, kind = in1.size, in2.size, in1.dtype.char
    if not 0 < taps <= size or size * taps > (MOST_PRODUCTS if kind in "fd" else FEW_PRODUCTS) or taps > MOST_TAPS:
        return None
    if (kind not in SHORT) or (reverse and kind in "FD") or method not in ("auto", "direct") or not (in1.flags.carray and in2.flags.carray):
        return None
    if mode == "full":
        start, outputs = 0, size + taps - 1
    elif mode == "same":
        start, outputs = (taps - 1) // 2, size
    elif mode == "valid":
        start, outputs = taps - 1, size - taps + 1
    else:
        return None
    y = np.empty(outputs, in1.dtype)
    fir.convolve(in1, in2, reverse, start, y)
    return y


def _sum_of_products(name: str, in1: Any, in2: Any, mode: Any, method: Any, out: Array | None) -> Any:
    if out is None and type(in1) is np.ndarray and type(in2) is np.ndarray and in1.dtype is in2.dtype and in1.dtype.isnative:
        quick = _short(in1, in2, mode, method, name == "correlate")
        if quick is not None:
            return quick
        if method != "fft" and in1.dtype.char in "fd" and (seen := known(name, in1, in2, mode, method)) is not None:
            return compute_known(seen, in1, in2)
    call = prepare(name, in1, in2, mode, method)
    if call is None:
        return _by_scipy(name, out, in1, in2, mode, method)
    result = compute(call, out)
    if method == "fft" and call.method == "fft" and not np.isfinite(result).all():
        warnings.warn(
            "Use of fft convolution on input with NAN or inf results in NAN or inf output. Consider using method='direct' instead.",
            category=RuntimeWarning,
            stacklevel=3,
        )
    return result


def convolve(in1: Any, in2: Any, mode: Any = "full", method: Any = "auto", *, out: Array | None = None) -> Any:
    """Convolve two arrays of any number of axes: Σ_r in1[k − r] · in2[r], zeros outside.

    Size per axis: I + R − 1 in full, I in mode "same", |I − R| + 1 in mode "valid".

    Parameters
    ----------
    in1 : array_like, (I, …)
        First input.
    in2 : array_like, (R, …)
        Second input, of as many axes; it may be the larger.
    mode : {"full", "valid", "same"}
        The whole result; what needs no zeros, where one input must be at least as large as the other on every axis; or the
        part of the size of in1 in the middle of the whole.
    method : {"auto", "direct", "fft"}
        "direct" sums as exactly as the definition, "fft" transforms, "auto" takes the cheaper. See `explain` and `choose_conv_method`.
    out : ndarray, optional
        Where to write the result: right shape and dtype, not overlapping an input.

    Returns
    -------
    ndarray
        In the dtype to which NumPy promotes the inputs; a scalar if both inputs are.

    Raises
    ------
    TypeError, ValueError, IndexError
        As scipy.signal.convolve does, and if ``out`` does not fit.
    MemoryError
        If output and workspace need more memory than there is.

    Warns
    -----
    RuntimeWarning
        If method "fft", asked for by name, gives NaN or infinity.

    Notes
    -----
    As scipy.signal.convolve, with these differences: integers are exact modulo their width by every method, "fft" too, where SciPy rounds
    a floating-point result; float16 is computed for any number of axes. Objects, long double, two boolean arrays and empty arrays
    are handed to SciPy.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.convolve(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.5]))
    array([0. , 1. , 2.5, 4. , 1.5])
    >>> signal.convolve(np.arange(5), np.array([1, 1, 1]), mode="same")
    array([1, 3, 6, 9, 7])
    """
    return _sum_of_products("convolve", in1, in2, mode, method, out)


def correlate(in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> Any:
    """Cross-correlate two arrays of any number of axes: Σ_i in1[i] · conj(in2[i − k]) for the lags k, zeros outside.

    Parameters
    ----------
    in1, in2, mode, method
        As for `convolve`; `correlation_lags` gives the lags of one axis.

    Returns
    -------
    ndarray
        In the dtype to which NumPy promotes the inputs; a scalar if both inputs are.

    Raises
    ------
    TypeError, ValueError, IndexError, MemoryError
        As `convolve`.

    Notes
    -----
    As scipy.signal.correlate, with the differences that `convolve` names.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> x, y = np.array([0, 0, 1, 2, 3]), np.array([1, 2, 3])
    >>> lags = signal.correlation_lags(len(x), len(y))
    >>> int(lags[np.argmax(signal.correlate(x, y))])
    2
    """
    return _sum_of_products("correlate", in1, in2, mode, method, None)


def fftconvolve(in1: Any, in2: Any, mode: Any = "full", axes: Any = None, *, out: Array | None = None) -> Any:
    """Convolve two arrays by fast Fourier transforms, over all axes or over some.

    Parameters
    ----------
    in1, in2, mode, out
        As for `convolve`.
    axes : int or sequence of int, optional
        Which axes to convolve; by default all. Inputs are broadcast on the others.

    Returns
    -------
    ndarray
        In the dtype to which NumPy promotes the inputs, where integers count as float64 and float16 as float32. If on no axis both
        inputs have more than one element, nothing is convolved and integers stay.

    Raises
    ------
    TypeError, ValueError
        As scipy.signal.fftconvolve does, and if ``out`` does not fit.
    MemoryError
        If output and workspace need more memory than there is.

    Notes
    -----
    As scipy.signal.fftconvolve, to rounding; a long input is cut into blocks that overlap, so that this is `oaconvolve` too. Objects,
    long double and empty arrays are handed to SciPy.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.fftconvolve(np.ones((4, 100)), np.ones((1, 9)), axes=1).shape
    (4, 108)
    """
    call = prepare_fft(in1, in2, mode, axes)
    return _by_scipy("fftconvolve", out, in1, in2, mode, axes) if call is None else compute(call, out)


def oaconvolve(in1: Any, in2: Any, mode: Any = "full", axes: Any = None, *, out: Array | None = None) -> Any:
    """Convolve two arrays by fast Fourier transforms of blocks that overlap, over all axes or over some.

    Parameters
    ----------
    in1, in2, mode, axes, out
        As for `fftconvolve`.

    Returns
    -------
    ndarray
        As `fftconvolve`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fftconvolve`.

    Notes
    -----
    The same computation as `fftconvolve`, under SciPy's other name.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.oaconvolve(np.ones(1000), np.ones(9), mode="valid").shape
    (992,)
    """
    call = prepare_fft(in1, in2, mode, axes)
    return _by_scipy("oaconvolve", out, in1, in2, mode, axes) if call is None else compute(call, out)


def convolve2d(in1: Any, in2: Any, mode: Any = "full", boundary: Any = "fill", fillvalue: Any = 0) -> Any:
    """Convolve two arrays of two axes, with a choice of what in1 is taken to be beyond its ends.

    Parameters
    ----------
    in1, in2, mode
        As for `convolve`; the boundary extends in1.
    boundary : {"fill", "wrap", "symm"}
        ``fillvalue``, the other end of in1, or in1 mirrored at its edge. "pad", "circular" and "symmetric" are other names for them.
    fillvalue : scalar
        For boundary "fill"; it must fit the dtype of the result.

    Returns
    -------
    ndarray
        In the dtype to which NumPy promotes the inputs.

    Raises
    ------
    TypeError, ValueError
        As scipy.signal.convolve2d does.
    MemoryError
        If output and workspace need more memory than there is.

    Notes
    -----
    As scipy.signal.convolve2d; float16 is computed too. Objects, long double, two boolean arrays and empty arrays are handed to SciPy.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.convolve2d(np.arange(6).reshape(2, 3), np.array([[1, 1]]), mode="same", boundary="wrap")
    array([[2, 1, 3],
           [8, 7, 9]])
    """
    call = prepare_2d("convolve2d", in1, in2, mode, boundary, fillvalue)
    return _by_scipy("convolve2d", None, in1, in2, mode, boundary, fillvalue) if call is None else compute(call)


def correlate2d(in1: Any, in2: Any, mode: Any = "full", boundary: Any = "fill", fillvalue: Any = 0) -> Any:
    """Cross-correlate two arrays of two axes, with a choice of what in1 is taken to be beyond its ends.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue
        As for `convolve2d`; in2 is conjugated.

    Returns
    -------
    ndarray
        In the dtype to which NumPy promotes the inputs.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `convolve2d`.

    Notes
    -----
    As scipy.signal.correlate2d. Beside `correlate` its mode "same" is one element further on where in2 has an even size; and as in SciPy
    it is in1 that is conjugated if in mode "valid" in2 is the larger.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.correlate2d(np.arange(6).reshape(2, 3), np.array([[1, 1]]), mode="same", boundary="symm")
    array([[ 1,  3,  4],
           [ 7,  9, 10]])
    """
    call = prepare_2d("correlate2d", in1, in2, mode, boundary, fillvalue)
    return _by_scipy("correlate2d", None, in1, in2, mode, boundary, fillvalue) if call is None else compute(call)


def choose_conv_method(in1: Any, in2: Any, mode: Any = "full", measure: Any = False) -> Any:
    """Say which method is faster for `convolve` and `correlate`.

    Parameters
    ----------
    in1, in2, mode
        As for `convolve`.
    measure : bool
        Whether to time both, instead of estimating. What was found is kept, in this process, for method "auto" with the same shapes,
        dtype and mode.

    Returns
    -------
    method : {"direct", "fft"}
        Always "direct" for integers, which are never transformed.
    times : dict of float
        With ``measure``: the seconds of a call by each method, the median of at least 3 and at most 50, for about 0.1 s.

    Raises
    ------
    TypeError, ValueError, IndexError
        As scipy.signal.choose_conv_method does.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.choose_conv_method(np.ones(1000, int), np.ones(500, int))
    'direct'
    """
    call = prepare("convolve", in1, in2, mode)
    if call is None:
        return _by_scipy("choose_conv_method", None, in1, in2, mode, measure)
    exact = call.dtype.kind in "iu"
    if not measure:
        return "fft" if not exact and _planned(call) == "fft" else "direct"
    times = {method: _seconds(call, method) for method in ("fft", "direct")}
    chosen = "fft" if not exact and times["fft"] < times["direct"] else "direct"
    remember_fastest(call, mode, chosen)
    return chosen, times


def _planned(call: Call) -> str:
    """Return the algorithm of a call; of more than three axes the last three are one problem."""
    x, h, axes = _last_three(call.arranged)
    return correlation.plan("fprop", x, h, axes, COMPUTE[call.dtype], call.method).name


def _last_three(arranged: Arrangement) -> tuple[Ints, Ints, correlation.Axes]:
    x, h, axes = arranged.x.shape, arranged.h.shape, arranged.axes
    while len(x) > 4:
        x, h, axes = (x[0], *x[2:]), (h[0], *h[2:]), axes.behind_first()
    return x, h, axes


def _seconds(call: Call, method: str) -> float:
    timed = call._replace(method=available(method, call.dtype))
    return tuning.measured(lambda: compute(timed), MEASURED_SECONDS, MEASURED_CALLS)


def correlation_lags(in1_len: int, in2_len: int, mode: str = "full") -> Array:
    """Return the lag of each element of a `correlate` of one axis.

    Parameters
    ----------
    in1_len, in2_len : int
        Sizes of the inputs.
    mode : {"full", "valid", "same"}
        As for `correlate`.

    Returns
    -------
    ndarray of int
        As long as the correlation.

    Raises
    ------
    ValueError
        If mode is none of the three.

    Examples
    --------
    >>> from numbaconv import signal
    >>> signal.correlation_lags(4, 3)
    array([-2, -1,  0,  1,  2,  3])
    """
    lags: Array = _by_scipy("correlation_lags", None, in1_len, in2_len, mode)
    return lags


def explain(
    in1_shape: Sequence[int],
    in2_shape: Sequence[int],
    mode: str = "full",
    *,
    dtype: Any = "float32",
    method: str = "auto",
    measure: bool = False,
) -> planning.Explanation:
    """Say which algorithm would compute a `convolve` and why: every algorithm's estimated cost, or why it cannot.

    Parameters
    ----------
    in1_shape, in2_shape : sequence of int
        Shapes of the inputs, of at least one axis; of more than three axes the last three are one of many problems.
    mode, method
        As for `convolve`.
    dtype : dtype
        Of the result: integers, float16/32/64 or complex64/128.
    measure : bool
        Whether to run every algorithm too, on random numbers, and say how long a call takes in the median.

    Returns
    -------
    str
        A table; it prints as such at the prompt.

    Raises
    ------
    TypeError, ValueError
        If an option is none of these, or the shapes do not go together.

    Examples
    --------
    >>> from numbaconv import signal
    >>> print(signal.explain((100_000,), (31,)).splitlines()[0])
    convolve (100000,) with (31,), full, float32 on cpu
    """
    shape1, shape2 = tuple(map(int, in1_shape)), tuple(map(int, in2_shape))
    kept = np.dtype(dtype)
    if kept not in COMPUTE:
        raise TypeError(f"dtype must be an integer, float16/32/64 or complex64/128, got {kept}")
    arranged = arrange("convolve", shape1, shape2, mode) if shape1 else None
    if arranged is None:
        raise ValueError(f"shapes must have as many axes, none empty, and suit the mode 'full', 'valid' or 'same', got {shape1}, {shape2}, {mode!r}")
    x, h, axes = _last_three(arranged)
    title = f"convolve {shape1} with {shape2}, {mode}"
    return correlation.explain(x, h, axes, COMPUTE[kept], title, available(method, kept), measure)
