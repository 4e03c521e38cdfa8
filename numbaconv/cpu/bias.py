"""Bias and activation: fused into the store of every kernel, and the gradient of the bias."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from numbaconv._jit import inline, unsigned

# The codes that kernels compare against; what each name means is written in reference.ACTIVATIONS.
CODES = {None: 0, "relu": 1, "leaky_relu": 2, "silu": 3, "gelu": 4, "tanh": 5, "sigmoid": 6}
Array = np.ndarray[Any, Any]


def activate(value, code):  # type: ignore[no-untyped-def]
    """Apply activation ``code`` to one value: floats any, integers relu alone, complex values none."""
    raise NotImplementedError("only callable in compiled code")


@overload(activate)
def _activate(value, code):  # type: ignore[no-untyped-def]
    if isinstance(value, types.Complex):
        return lambda value, code: value
    zero = value.cast_python_value(0)
    if isinstance(value, types.Integer):
        return lambda value, code: value if code == 0 or value > zero else zero
    one, half, slope, root = (value.cast_python_value(v) for v in (1.0, 0.5, 0.01, math.sqrt(0.5)))

    def real(value, code):  # type: ignore[no-untyped-def]
        # Comparisons are written so that NaN falls through to the value itself.
        if code == 1:
            return zero if value < zero else value
        if code == 2:
            return value * slope if value < zero else value
        if code == 3:
            return value / (one + math.exp(-value))
        if code == 4:
            return value * half * math.erfc(-value * root)  # not 1 + erf, which cancels for negative values
        if code == 5:
            return math.tanh(value)
        if code == 6:
            return one / (one + math.exp(-value))
        return value

    return real


@inline
def store_row(y, at, step, n, sums, first, bias, k, code):  # type: ignore[no-untyped-def]
    """Write n finished sums of channel k to y[at::step], bias added (if there is one) and activation applied."""
    shift = bias[k] if bias.size else sums.dtype.type(0)
    if code == 0:
        for q in range(n):
            y[unsigned(at + q * step)] = sums[unsigned(first + q)] + shift
    else:
        for q in range(n):
            value = sums.dtype.type(sums[unsigned(first + q)] + shift)  # integers wrap before the activation sees them
            y[unsigned(at + q * step)] = activate(value, code)


def grad_bias(dy: Array, channels_last: bool) -> Array:
    """Sum dy over all axes but the channels; float32 in float64, the rest pairwise along contiguous rows."""
    if channels_last:
        rows = np.ascontiguousarray(dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1]).T)[None]
    else:
        rows = dy.reshape(*dy.shape[:2], math.prod(dy.shape[2:]))
    wide = np.float64 if dy.dtype == np.float32 else np.complex128 if dy.dtype == np.complex64 else dy.dtype
    with np.errstate(invalid="ignore", over="ignore"):
        partial = rows.sum(axis=2, dtype=wide)
        return np.ascontiguousarray(partial.T).sum(axis=1, dtype=wide).astype(dy.dtype)
