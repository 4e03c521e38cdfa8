"""How sums become outputs: pieces added, then bias and activation, four neighbours at a time where they lie side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._prims import int32, store4

THREADS = 256
PER_BLOCK = 4 * THREADS  # elements that a block of an elementwise kernel owns


@functools.cache
def activation(name: str | None, dtype: np.dtype[Any]) -> Any:
    """Return the activation of one value as a function that kernels can call; `reference.ACTIVATIONS` says what each means."""
    zero, one, half, slope = (dtype.type(v) for v in (0, 1, 0.5, 0.01))
    root = dtype.type(0.5**0.5)

    def none(v):  # type: ignore[no-untyped-def]
        return v

    def relu(v):  # type: ignore[no-untyped-def]
        return zero if v < zero else v  # NaN stays

    def leaky_relu(v):  # type: ignore[no-untyped-def]
        return v * slope if v < zero else v

    def sigmoid(v):  # type: ignore[no-untyped-def]
        return one / (one + math.exp(-v)) if v >= zero or v < -half else math.exp(v) / (one + math.exp(v))

    def silu(v):  # type: ignore[no-untyped-def]
        return v / (one + math.exp(-v))

    def gelu(v):  # type: ignore[no-untyped-def]
        return v * (half * math.erfc(-v * root))

    def tanh(v):  # type: ignore[no-untyped-def]
        return math.tanh(v)

    named: dict[str, Callable[..., Any]] = {f.__name__: f for f in (none, relu, leaky_relu, sigmoid, silu, gelu, tanh)}
    return device(named[name or "none"])


@functools.cache
def held(dtype: np.dtype[Any]) -> Any:
    """Return a function that gives a value as the dtype holds it: integers, which kernels compute in 64 bits, wrap."""
    kind = dtype.type

    def wrapped(v):  # type: ignore[no-untyped-def]
        return kind(v)

    def itself(v):  # type: ignore[no-untyped-def]
        return v

    return device(wrapped if dtype.kind in "iu" else itself)


def same(value: Any) -> Any:
    """Return the value."""
    return value


@functools.cache
def put4(name: str | None, dtype: np.dtype[Any], narrower: Any = same) -> Any:
    """Return a function that writes four sums to four addresses, those below zero left out; ``narrower`` makes what is stored of them."""
    activate, narrow = activation(name, dtype), device(same) if narrower is same else narrower

    def put(y, a0, a1, a2, a3, values, bias, last, vector):  # type: ignore[no-untyped-def]
        # last: nothing will be added.
        v0, v1, v2, v3 = values[0], values[1], values[2], values[3]
        if vector:
            if a0 >= int32(0):
                if last:
                    v0, v1, v2, v3 = activate(v0 + bias[0]), activate(v1 + bias[1]), activate(v2 + bias[2]), activate(v3 + bias[3])
                store4(y, a0, (narrow(v0), narrow(v1), narrow(v2), narrow(v3)))
        else:
            if a0 >= int32(0):
                put1(y, a0, v0, bias[0], last)
            if a1 >= int32(0):
                put1(y, a1, v1, bias[1], last)
            if a2 >= int32(0):
                put1(y, a2, v2, bias[2], last)
            if a3 >= int32(0):
                put1(y, a3, v3, bias[3], last)

    def put_one(y, at, value, bias, last):  # type: ignore[no-untyped-def]
        y[at] = narrow(activate(value + bias) if last else value)

    put1 = device(put_one)
    return device(put)


@functools.cache
def finish(name: str | None, dtype: np.dtype[Any], stored: np.dtype[Any] | None = None, wider: Any = same, narrower: Any = same) -> Kernel:
    """Return the kernel that adds the pieces of a sum, then bias and activation; ``stored`` is the dtype of bias and output, if not dtype."""
    activate, zero = activation(name, dtype), dtype.type(0)
    narrow, wide = (dtype.type, np.float64) if dtype.kind == "f" else (held(dtype), held(dtype))
    wider, narrower = (device(f) if f is same else f for f in (wider, narrower))

    def finish_pieces(parts, bias, y, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[i] = activation(Σ_p parts[p, i] + bias[channel of i]), the pieces in their order and in float64.
        # THE SCHEDULE: a thread owns four outputs, a block's width apart.
        size, pieces, channels, inner, has_bias = sizes
        at = int32(int32(cuda.blockIdx.x) * PER_BLOCK + int32(cuda.threadIdx.x))
        for _ in range(4):
            if at < size:
                total = wide(parts[at])
                for piece in range(1, pieces):
                    total = total + wide(parts[int32(at + piece * size)])
                shift = wider(bias[int32(at // inner % channels)]) if has_bias else zero
                y[at] = narrower(activate(narrow(total + shift)))
            at = int32(at + THREADS)

    return Kernel(finish_pieces, (dtype, stored or dtype, stored or dtype), 5, THREADS)
