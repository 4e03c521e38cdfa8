"""convolve, correlate and their relatives: what scipy.signal gives under these names, computed by Numba kernels.

Every function prepares a `numbaconv.signal._calls.Call` and computes it; where there is none, it is SciPy's function that answers.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from numbaconv.arrays import Array, check_out, is_on_gpu
from numbaconv.cpu import fir
from numbaconv.signal._calls import compute, compute_known, known, prepare, prepare_2d, prepare_fft

FLOATING = "fdFD"
SHORT = "fdFDilqhb"  # dtypes of short vectors that are convolved without further ado, and
FEW_PRODUCTS, MOST_PRODUCTS, MOST_TAPS = 1 << 13, {"f": 1 << 19, "d": 1 << 19, "F": 1 << 17, "D": 1 << 17}, 128  # up to how many products


def by_scipy(name: str, out: Any, in1: Any, in2: Any, *options: Any) -> Any:
    """Return what SciPy's function answers, or let it raise; arrays on a GPU it cannot compute with, only refuse them in its words."""
    on_gpu = is_on_gpu(in1) or is_on_gpu(in2)
    if on_gpu:
        in1, in2 = (np.broadcast_to(np.zeros((), value.dtype), value.shape) for value in (in1, in2))
    result = getattr(importlib.import_module("scipy.signal"), name)(in1, in2, *options)
    if on_gpu:
        raise TypeError(f"{name} on a GPU takes non-empty arrays of numbers that are not both boolean, got {in1.dtype} and {in2.dtype}")
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
    if not 0 < taps <= size or size * taps > MOST_PRODUCTS.get(kind, FEW_PRODUCTS) or taps > MOST_TAPS:
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
    if type(in1) is type(in2) is np.ndarray and in1.dtype is in2.dtype and in1.dtype.isnative and (out is None or type(out) is np.ndarray):
        quick = _short(in1, in2, mode, method, name == "correlate") if out is None else None
        plain = FLOATING if name == "convolve" else "fd"  # nothing is conjugated
        if quick is None and method != "fft" and in1.dtype.char in plain and (seen := known(name, in1, in2, mode, method)) is not None:
            quick = compute_known(seen, in1, in2, out)
        if quick is not None:
            return quick
    call = prepare(name, in1, in2, mode, method)
    if call is None:
        return by_scipy(name, out, in1, in2, mode, method)
    result = compute(call, out)
    if method == "fft" and call.method == "fft" and type(result) is np.ndarray and not np.isfinite(result).all():
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
    a floating-point result; float16 is computed for any number of axes. With method "auto" a 2-D filter of floats that is the outer product
    of two, to rounding, is applied as these. Objects, long double, two boolean arrays and empty arrays
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
    return by_scipy("fftconvolve", out, in1, in2, mode, axes) if call is None else compute(call, out)


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
    return by_scipy("oaconvolve", out, in1, in2, mode, axes) if call is None else compute(call, out)


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
    return by_scipy("convolve2d", None, in1, in2, mode, boundary, fillvalue) if call is None else compute(call)


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
    return by_scipy("correlate2d", None, in1, in2, mode, boundary, fillvalue) if call is None else compute(call)
