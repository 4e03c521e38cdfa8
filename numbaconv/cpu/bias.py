"""Bias and activation: fused into the store of every kernel, and the gradient of the bias."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numba.extending import overload
from numba.np.numpy_support import as_dtype

from numbaconv._jit import Kernel, inline, named_apart, unsigned
from numbaconv.cpu import _parallel
from numbaconv.cpu._smooth import functions
from numbaconv.problem import Options

# The codes that kernels compare against; what each name means is written in reference.ACTIVATIONS.
CODES = {None: 0, "relu": 1, "leaky_relu": 2, "silu": 3, "gelu": 4, "tanh": 5, "sigmoid": 6}
PIECE = 1 << 14
Array = np.ndarray[Any, Any]


def activate(values, at, n, code):  # type: ignore[no-untyped-def]
    """Apply activation ``code`` to values[at : at + n] in place: floats any, integers relu alone, complex values none."""
    raise NotImplementedError("only callable in compiled code")


@overload(activate)
def _activate(values, at, n, code):  # type: ignore[no-untyped-def]
    dtype = as_dtype(values.dtype)
    zero = dtype.type(0)
    if dtype.kind == "c":
        return lambda values, at, n, code: None

    def relu(values, at, n, code):  # type: ignore[no-untyped-def]
        for i in range(at, at + n):
            value = values[unsigned(i)]
            values[unsigned(i)] = zero if value < zero else value  # NaN stays

    if dtype.kind != "f":
        return named_apart(relu)
    slope, smooth = dtype.type(0.01), functions(dtype)
    silu, gelu, tanh, sigmoid = smooth["silu"], smooth["gelu"], smooth["tanh"], smooth["sigmoid"]

    def real(values, at, n, code):  # type: ignore[no-untyped-def]
        # A loop for each, so that LLVM makes vector code of it.
        if code == 1:
            for i in range(at, at + n):
                value = values[unsigned(i)]
                values[unsigned(i)] = zero if value < zero else value  # NaN stays
        elif code == 2:
            for i in range(at, at + n):
                value = values[unsigned(i)]
                values[unsigned(i)] = value * slope if value < zero else value
        elif code == 3:
            for i in range(at, at + n):
                values[unsigned(i)] = silu(values[unsigned(i)])
        elif code == 4:
            for i in range(at, at + n):
                values[unsigned(i)] = gelu(values[unsigned(i)])
        elif code == 5:
            for i in range(at, at + n):
                values[unsigned(i)] = tanh(values[unsigned(i)])
        elif code == 6:
            for i in range(at, at + n):
                values[unsigned(i)] = sigmoid(values[unsigned(i)])

    return named_apart(real)


@inline
def store_row(y, at, step, n, sums, first, bias, k, code):  # type: ignore[no-untyped-def]
    """Write n finished sums of channel k, which are scratch, to y[at::step], bias added (if there is one) and activation applied."""
    shift = bias[k] if bias.size else sums.dtype.type(0)
    if code:
        for q in range(n):
            sums[unsigned(first + q)] += shift  # integers wrap before the activation sees them
        activate(sums, first, n, code)
        shift = sums.dtype.type(0)
    for q in range(n):
        y[unsigned(at + q * step)] = sums[unsigned(first + q)] + shift


@Kernel
def _each(first, last, workers, scratch, values, code):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: values[i] = activation(values[i]).
    # THE SCHEDULE: a tile is PIECE neighbours.
    for worker in prange(workers):
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            activate(values, tile * PIECE, min(PIECE, values.size - tile * PIECE), code)


def activated(x: Array, name: str) -> Array:
    """Return an activation of every element of a float32 or float64 array."""
    y = np.array(x, order="C")
    _parallel.run(_each, -(-y.size // PIECE), (0, y.dtype), (y.reshape(-1), CODES[name]), y.size * 1e-9)
    return y


def fill(y: Array, options: Options, channels_last: bool) -> None:
    """Overwrite y with what an empty sum gives: the activation of each channel's bias, or of 0."""
    values = np.zeros(1, y.dtype) if options.bias is None else options.bias
    if options.activation is not None:
        values = activated(values, options.activation)
    y[...] = values if channels_last else values.reshape(-1, *[1] * (y.ndim - 2))


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
