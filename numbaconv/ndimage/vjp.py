"""The filters of `numbaconv.ndimage` with their gradients: ``vjp.<name>(…) -> (y, pull)``, with the arguments of ``ndimage.<name>``.

``pull(grad_y)`` returns the gradients of a real number L for the image, and for the weights where a filter has some, given that for y.
Those of complex arrays are ∂L/∂re + i·∂L/∂im, as PyTorch's are; a real array has the real part. They have the dtype of what they are
gradients for, or that of y if that was an integer one.

>>> import numpy as np
>>> from numbaconv.ndimage import vjp
>>> y, pull = vjp.correlate1d(np.arange(4.0), [1.0, 2.0, 0.0], mode="nearest")
>>> y
array([0., 2., 5., 8.])
>>> grad_input, grad_weights = pull(np.array([1.0, 0.0, 0.0, 0.0]))
>>> grad_input, grad_weights
(array([3., 0., 0., 0.]), array([0., 0., 1.]))
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage as scipy_ndimage

from numbaconv import boundary
from numbaconv.arrays import Array, NotOurs
from numbaconv.ndimage import _calls
from numbaconv.ndimage._calls import Call, Pass
from numbaconv.ndimage._passes import METHOD, carry_out, compute_dtype, layout, warn_of_promotion

Pull = Callable[[Any], Any]


def _checked(check: Callable[..., Call], *args: Any, **kwargs: Any) -> Call:
    """Return the call, or raise what SciPy raises."""
    try:
        call = check(*args, **kwargs)
    except NotOurs:
        getattr(scipy_ndimage, check.__name__)(*args, **kwargs)
        raise TypeError(f"gradients of {check.__name__} are for arrays of integers, float32/64 and complex64/128") from None
    if call.output.dtype.kind not in "fc":
        raise TypeError(f"an output of dtype {call.output.dtype} has no gradient: ask for a floating-point one, output=float")
    warn_of_promotion(call, level=4)
    return call


def _given(grad_y: Any, y: Array) -> Array:
    """Return a gradient as an array of the shape and dtype of y."""
    grad = np.asarray(grad_y)
    if grad.shape != y.shape:
        raise ValueError(f"grad_y must have shape {y.shape}, that of the output, got {grad.shape}")
    if grad.dtype.kind not in ("biufc" if y.dtype.kind == "c" else "biuf"):
        raise TypeError(f"grad_y must hold numbers of the output's kind, {y.dtype}, got dtype {grad.dtype}")
    return grad.astype(y.dtype.newbyteorder("="), copy=False)


def _dtype(step: Pass, x: Array, grad: Array) -> np.dtype[Any]:
    """Return what a pass's gradients are computed in."""
    real = compute_dtype(x.real.dtype, step.weights, grad.real.dtype)
    return np.promote_types(real, np.complex64) if "c" in (x.dtype.kind, grad.dtype.kind, step.weights.dtype.kind) else real


def _for_input(step: Pass, grad: Array, x: Array) -> Array:
    """Return the gradient for the image of one pass."""
    if not x.size:
        return np.zeros_like(grad)
    shape, taps, axes = layout(step, x.shape)
    dtype = _dtype(step, x, grad)
    w = step.weights.conj().astype(dtype).reshape(taps)
    dy = grad.astype(dtype, copy=False).reshape(shape[:1] + axes.size)
    return boundary.grad_x(dy, w, shape, axes, step.boundary, METHOD).reshape(x.shape)


def _for_weights(step: Pass, grad: Array, x: Array) -> Array:
    """Return the gradient for the weights of one pass, as the sum takes them."""
    if not x.size:
        return np.zeros_like(step.weights)
    shape, taps, axes = layout(step, x.shape)
    dtype = _dtype(step, x, grad)
    dy, image = grad.astype(dtype, copy=False).reshape(shape[:1] + axes.size), x.conj().astype(dtype, copy=False).reshape(shape)
    return boundary.grad_h(dy, image, taps, axes, step.boundary, np.conj(step.cval), METHOD).reshape(step.weights.shape)


def _like(grad: Array, original: Array, y: Array) -> Array:
    """Return a gradient in the dtype of what it is for, the real part for real arrays."""
    dtype = original.dtype.newbyteorder("=") if original.dtype.kind in "fc" else y.real.dtype.newbyteorder("=")
    return (grad.real if dtype.kind != "c" else grad).astype(dtype, copy=False)


def _smoothing(check: Callable[..., Call]) -> Callable[..., tuple[Array, Pull]]:
    """Make the function for a filter without weights of its own."""

    @functools.wraps(check)
    def with_pull(*args: Any, **kwargs: Any) -> tuple[Array, Pull]:
        call = _checked(check, *args, **kwargs)
        y = carry_out(call)

        def pull(grad_y: Any) -> Array:
            grad = _given(grad_y, y)
            for step in reversed(call.passes):
                grad = _for_input(step, grad, call.input)
            return _like(grad, call.input, y)

        return y, pull

    with_pull.__doc__ = f"Return ``ndimage.{check.__name__}`` of the same arguments, and ``pull(grad_y) -> grad_input``."
    with_pull.__module__ = __name__
    return with_pull


def _weighted(check: Callable[..., Call]) -> Callable[..., tuple[Array, Pull]]:
    """Make the function for a filter with weights."""
    flipped = check.__name__.startswith("convolve")

    @functools.wraps(check)
    def with_pull(input: Any, weights: Any, *args: Any, **kwargs: Any) -> tuple[Array, Pull]:
        call = _checked(check, input, weights, *args, **kwargs)
        (step,), x, w = call.passes, call.input, np.asarray(weights)
        if np.may_share_memory(call.output, x):
            x = x.copy()  # which the gradient for the weights is made of
        y = carry_out(call)

        def pull(grad_y: Any) -> tuple[Array, Array]:
            grad = _given(grad_y, y)
            grad_w = _for_weights(step, grad, x)
            grad_w = grad_w[(slice(None, None, -1),) * grad_w.ndim] if flipped else grad_w.conj()
            return _like(_for_input(step, grad, x), x, y), _like(grad_w.reshape(w.shape), w, y)

        return y, pull

    with_pull.__doc__ = f"Return ``ndimage.{check.__name__}`` of the same arguments, and ``pull(grad_y) -> (grad_input, grad_weights)``."
    with_pull.__module__ = __name__
    return with_pull


correlate, convolve = _weighted(_calls.correlate), _weighted(_calls.convolve)
correlate1d, convolve1d = _weighted(_calls.correlate1d), _weighted(_calls.convolve1d)
gaussian_filter, gaussian_filter1d = _smoothing(_calls.gaussian_filter), _smoothing(_calls.gaussian_filter1d)
uniform_filter, uniform_filter1d = _smoothing(_calls.uniform_filter), _smoothing(_calls.uniform_filter1d)

__all__ = [
    "convolve", "convolve1d", "correlate", "correlate1d", "gaussian_filter", "gaussian_filter1d", "uniform_filter", "uniform_filter1d",
]  # fmt: skip
