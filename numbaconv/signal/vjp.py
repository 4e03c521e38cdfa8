"""Gradients of the functions of `numbaconv.signal`: each returns its result and a function that pulls a gradient back through it.

    y, pull = signal.vjp.convolve(x, h, mode="same")
    grad_x, grad_h = pull(grad_y)

For complex arrays in PyTorch's convention, Re⟨grad_y, dy⟩ = Re⟨grad_in, d in⟩: the other operand is conjugated, and the gradient of a real
input beside a complex one is real. A gradient has the dtype of its input, float64 if that is an integer. The arrays must
not change before ``pull`` is called; it may be called many times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv import boundary as extended
from numbaconv.arrays import Array, as_array, check_shape, namespace
from numbaconv.correlation import Ints
from numbaconv.signal import convolution
from numbaconv.signal._calls import Call, compute, prepare, prepare_2d, prepare_fft
from numbaconv.signal._filters_vjp import deconvolve, lfilter, resample_poly, upfirdn
from numbaconv.signal._smoothing_vjp import savgol_filter, sepfir2d

__all__ = [
    "convolve", "convolve2d", "correlate", "correlate2d", "deconvolve", "fftconvolve", "lfilter", "oaconvolve", "resample_poly", "savgol_filter",
    "sepfir2d", "upfirdn",
]  # fmt: skip

Pull = Callable[[Any], tuple[Any, Any]]


def _vjp(name: str, call: Call | None, *arguments: Any) -> tuple[Any, Pull]:
    """Return the result of a call and its pull; SciPy raises for a call that is not valid."""
    if call is None:
        getattr(convolution, name)(*arguments)
        raise TypeError(f"{name} has gradients for non-empty arrays of integers, float16/32/64 or complex64/128, with at least one not boolean")

    def pull(grad_y: Any) -> tuple[Any, Any]:
        grad = as_array(grad_y, "grad_y")
        check_shape(grad, call.arranged.shape, "grad_y", "that of the result")
        return _gradients(call, grad)

    return compute(call), pull


def _gradients(call: Call, grad_y: Array) -> tuple[Any, Any]:
    """Return the gradients of both inputs."""
    dtype = np.result_type(_inexact(call.dtype), grad_y.dtype)
    arranged = call.arranged
    x, h = arranged.operands(call.in1, call.in2, dtype)
    dy = arranged.grad_result(grad_y.astype(dtype, copy=False))
    if arranged.multiplies:
        grad_x, grad_h = _sum_to(dy * h.conj(), x.shape), _sum_to(dy * x.conj(), h.shape)
    else:
        grad_x = extended.grad_x(dy, h.conj(), x.shape, arranged.axes, call.boundary, call.method)
        grad_h = extended.grad_h(dy, x.conj(), h.shape, arranged.axes, call.boundary, np.conj(call.value), call.method)
    first, second = arranged.gradients(grad_x, grad_h, call.in1.shape, call.in2.shape)
    return _like(first, call.in1), _like(second, call.in2)


def _sum_to(grad: Array, shape: Ints) -> Array:
    """Add up the rows if one row served all."""
    return grad if grad.shape == shape else grad.sum(0, keepdims=True)


def _inexact(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.kind in "fc" else np.dtype(np.float64)


def _like(grad: Array, given: Array) -> Any:
    """Return a gradient in the dtype of its input."""
    real = grad.real if given.dtype.kind != "c" else grad
    found = namespace(real).ascontiguousarray(real, _inexact(given.dtype).newbyteorder("=")).reshape(given.shape)
    return found if found.ndim else found[()]


def convolve(in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> tuple[Any, Pull]:
    """Return `signal.convolve` of the same arguments, and its pull.

    Parameters
    ----------
    in1, in2, mode, method
        As for `signal.convolve`.

    Returns
    -------
    y : ndarray
        The result.
    pull : callable
        ``pull(grad_y) -> (grad_in1, grad_in2)``, in the shapes of y, in1 and in2.

    Raises
    ------
    TypeError, ValueError
        As `signal.convolve`, for arrays that only SciPy computes, and in pull if grad_y is not an array of the shape of y.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> y, pull = signal.vjp.convolve(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0]))
    >>> pull(np.ones(4))
    (array([11., 11., 11.]), array([6., 6.]))
    """
    return _vjp("convolve", prepare("convolve", in1, in2, mode, method), in1, in2, mode, method)


def correlate(in1: Any, in2: Any, mode: Any = "full", method: Any = "auto") -> tuple[Any, Pull]:
    """Return `signal.correlate` of the same arguments, and its pull; see `convolve`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> y, pull = signal.vjp.correlate(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0]), mode="valid")
    >>> pull(np.array([1.0, 0.0]))
    (array([ 1., 10.,  0.]), array([1., 2.]))
    """
    return _vjp("correlate", prepare("correlate", in1, in2, mode, method), in1, in2, mode, method)


def fftconvolve(in1: Any, in2: Any, mode: Any = "full", axes: Any = None) -> tuple[Any, Pull]:
    """Return `signal.fftconvolve` of the same arguments, and its pull; see `convolve`. Gradients are summed over what was broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> y, pull = signal.vjp.fftconvolve(np.ones((4, 10)), np.ones((1, 3)), axes=1)
    >>> [grad.shape for grad in pull(np.ones_like(y))]
    [(4, 10), (1, 3)]
    """
    return _vjp("fftconvolve", prepare_fft(in1, in2, mode, axes), in1, in2, mode, axes)


def oaconvolve(in1: Any, in2: Any, mode: Any = "full", axes: Any = None) -> tuple[Any, Pull]:
    """Return `signal.oaconvolve` of the same arguments, and its pull; see `fftconvolve`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> y, pull = signal.vjp.oaconvolve(np.ones(10), np.ones(3))
    >>> [grad.shape for grad in pull(np.ones_like(y))]
    [(10,), (3,)]
    """
    return _vjp("oaconvolve", prepare_fft(in1, in2, mode, axes), in1, in2, mode, axes)


def convolve2d(in1: Any, in2: Any, mode: Any = "full", boundary: Any = "fill", fillvalue: Any = 0) -> tuple[Any, Pull]:
    """Return `signal.convolve2d` of the same arguments, and its pull; see `convolve`. ``fillvalue`` is a constant.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> y, pull = signal.vjp.convolve2d(np.ones((3, 3)), np.ones((1, 2)), mode="same", boundary="wrap")
    >>> pull(np.ones((3, 3)))[1]
    array([[9., 9.]])
    """
    call = prepare_2d("convolve2d", in1, in2, mode, boundary, fillvalue)
    return _vjp("convolve2d", call, in1, in2, mode, boundary, fillvalue)


def correlate2d(in1: Any, in2: Any, mode: Any = "full", boundary: Any = "fill", fillvalue: Any = 0) -> tuple[Any, Pull]:
    """Return `signal.correlate2d` of the same arguments, and its pull; see `convolve2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> y, pull = signal.vjp.correlate2d(np.ones((3, 3)), np.ones((1, 2)), mode="same", boundary="symm")
    >>> pull(np.ones((3, 3)))[1]
    array([[9., 9.]])
    """
    call = prepare_2d("correlate2d", in1, in2, mode, boundary, fillvalue)
    return _vjp("correlate2d", call, in1, in2, mode, boundary, fillvalue)
