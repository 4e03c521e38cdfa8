"""What scipy.ndimage's filters share in nopython code: what their arguments lead to, and their sums.

Sums are in float64 or complex128, as SciPy's are, and rounded or cut off to the dtype of the output.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable
from numba.np.numpy_support import as_dtype

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import in_lines, taken
from numbaconv.nopython._boundary import CONSTANT, MIRROR, NEAREST, REFLECT, WRAP, correlate_extended
from numbaconv.nopython._compile import family, kernel
from numbaconv.nopython._kinds import dtype_of, is_none, known, numbers, refuse

BOUNDARIES = {
    "reflect": REFLECT, "grid-mirror": REFLECT, "mirror": MIRROR, "nearest": NEAREST,
    "wrap": WRAP, "grid-wrap": WRAP, "constant": CONSTANT, "grid-constant": CONSTANT,
}  # fmt: skip


class Plan:
    """What the types of an image, of weights, of an output and of a constant lead to."""

    def __init__(self, image: Any, weights: Any, output: Any, cval: Any) -> None:
        kind, taps = dtype_of("input", image), dtype_of("weights", weights)
        complex_ = "c" in (kind.kind, taps.kind)
        self.sum = np.dtype(np.complex128 if complex_ else np.float64)
        self.axes = getattr(image, "ndim", 1)
        numbers(kind, cval=cval)
        self.image, self.weights, self.number = taken(image, self.sum), taken(weights, self.sum), self.sum.type
        default = np.promote_types(kind, np.complex64) if complex_ else kind
        self.dtype, given = asked(output, default, self.axes), isinstance(output, types.Array)
        self.stored = storing(self.dtype, given)


def asked(output: Any, default: np.dtype[Any], axes: int) -> np.dtype[Any]:
    """Return the dtype that an output asks for."""
    if is_none(output):
        return default
    if isinstance(output, types.Array) and (output.ndim != axes or not output.mutable):
        raise refuse("output", output, f"an array of {axes} axes that can be written to")
    name = known(output)
    if isinstance(name, str) and name in np.sctypeDict:
        dtype = np.dtype(name)
    elif getattr(output, "typing_key", None) in (int, float, complex):
        dtype = np.dtype(output.typing_key)
    elif isinstance(output, (types.Array, types.NumberClass, types.DType)):
        dtype = as_dtype(output.dtype)
    else:
        raise refuse("output", output, "None, an array or a dtype")
    if (default.kind == "c") != (dtype.kind == "c"):
        raise refuse("output", dtype, f"of a {'complex' if default.kind == 'c' else 'real'} dtype")
    return dtype


@functools.cache
def storing(dtype: np.dtype[Any], given: bool) -> Callable[[Any, Any], Any]:
    """Return a function (sums, output) for compiled code that stores sums, in an output that is given or in a new array."""
    round_to = cut_off(dtype)

    if given:

        def store(sums, output):  # type: ignore[no-untyped-def]
            if sums.shape != output.shape:
                raise ValueError("output shape not correct")
            i, flat = 0, sums.reshape(-1)
            for place in np.ndindex(output.shape):
                output[place] = round_to(flat[i])
                i += 1
            return output

    else:

        def store(sums, output):  # type: ignore[no-untyped-def]
            result, flat = np.empty(sums.shape, dtype), sums.reshape(-1)
            there = result.reshape(-1)
            for i in range(flat.size):
                there[i] = round_to(flat[i])
            return result

    function: Callable[[Any, Any], Any] = register_jitable(named_apart(store))
    return function


def cut_off(dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    """Return a function for compiled code that turns a sum into a number of a dtype, as C does it: negative ones wrap where there are none."""
    number: Any = dtype.type

    if dtype.kind == "b":

        def rounded(value):  # type: ignore[no-untyped-def]
            return np.uint8(np.int64(value)) != 0  # SciPy stores what a byte holds

    elif dtype.kind in "iu":

        def rounded(value):  # type: ignore[no-untyped-def]
            return number(np.int64(value)) if value < 9.2e18 else number(value)

    else:

        def rounded(value):  # type: ignore[no-untyped-def]
            return number(value)

    function: Callable[[Any], Any] = register_jitable(named_apart(rounded))
    return function


@family
def correlation(dtype: np.dtype[Any], axes: int, flipped: bool) -> Callable[..., Any]:
    """Make a kernel (image, weights, chosen, origins, boundary, value) -> sums, over the chosen axes; ``flipped``: with reversed taps."""

    def correlate(image, weights, chosen, origins, boundary, value):  # type: ignore[no-untyped-def]
        x_shape, h_shape, shifts = np.empty(axes, np.int64), np.ones(axes, np.int64), np.zeros(axes, np.int64)
        before, k = np.empty(axes, np.int64), 0
        for axis in range(axes):
            x_shape[axis] = image.shape[axis]
            if axis in chosen:  # the axes of the weights are in order whatever the order of the chosen ones
                h_shape[axis] = weights.shape[k]
                k += 1
        for k in range(chosen.size):
            shifts[chosen[k] if chosen.size < axes else k] = origins[k]
        place_filter(h_shape, shifts, flipped, before)
        y = np.empty_like(image)
        correlate_extended(
            image.reshape(-1), x_shape, in_order(weights.reshape(-1), flipped), h_shape, before, y.reshape(-1), x_shape, boundary, value
        )
        return y

    return correlate


@family
def correlation_along(dtype: np.dtype[Any], axes: int, flipped: bool) -> Callable[..., Any]:
    """Make the kernel (image, weights, axis, origin, boundary, value) -> sums, along one axis."""

    def correlate(image, weights, axis, origin, boundary, value):  # type: ignore[no-untyped-def]
        x_shape = in_lines(image.shape, axis)
        h_shape, origins, before = np.ones_like(x_shape), np.zeros_like(x_shape), np.zeros_like(x_shape)
        h_shape[1], origins[1] = weights.size, origin
        place_filter(h_shape, origins, flipped, before)
        y = np.empty_like(image)
        correlate_extended(image.reshape(-1), x_shape, in_order(weights, flipped), h_shape, before, y.reshape(-1), x_shape, boundary, value)
        return y

    return correlate


@kernel
def place_filter(h_shape, origins, flipped, before):  # type: ignore[no-untyped-def]
    """Fill in how many taps lie before the one in the centre."""
    for axis in range(len(h_shape)):
        taps = h_shape[axis]
        origin = -origins[axis] - (taps + 1) % 2 if flipped else origins[axis]
        if taps == 0:
            raise ValueError("no filter weights given")
        if not 0 <= taps // 2 + origin < taps:
            raise ValueError("invalid origin")
        before[axis] = taps // 2 + origin


@kernel
def in_order(weights, flipped):  # type: ignore[no-untyped-def]
    """Return taps in the order of a convolution; those of a correlation are reversed and conjugated."""
    h = np.empty(weights.size, weights.dtype)
    for i in range(h.size):
        h[i] = weights[i] if flipped else weights[h.size - 1 - i].conjugate()
    return h


@kernel
def gaussian(sigma, order, radius):  # type: ignore[no-untyped-def]
    """Return the taps of a Gaussian or of a derivative of one, in the order of a correlation."""
    if order < 0:
        raise ValueError("order must be non-negative")
    if radius < 0:
        raise ValueError("Radius must be a nonnegative integer.")
    taps, total = np.empty(2 * radius + 1), 0.0
    for i in range(taps.size):
        taps[i] = math.exp(-0.5 / (sigma * sigma) * (i - radius) ** 2)
        total += taps[i]
    # A derivative is the Gaussian times a polynomial, each of which follows from the one before: q' − x·q/σ².
    polynomial, following = np.zeros(order + 2), np.zeros(order + 2)
    polynomial[0] = 1
    for _ in range(order):
        for k in range(order + 1):
            following[k] = (k + 1) * polynomial[k + 1] - (polynomial[k - 1] / (sigma * sigma) if k else 0.0)
        polynomial[:] = following
    result = np.empty(taps.size)
    for i in range(taps.size):
        value, x = 0.0, float(i - radius)
        for k in range(order, -1, -1):
            value = value * x + polynomial[k]
        result[taps.size - 1 - i] = taps[i] / total * value
    return result
