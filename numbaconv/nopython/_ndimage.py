"""scipy.ndimage's convolve, correlate, convolve1d, correlate1d, gaussian_filter1d and gaussian_filter in nopython code.

Sums are in float64 or complex128, as SciPy's are, and rounded or cut off to the dtype of the output.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage
from numba import types
from numba.extending import register_jitable
from numba.np.numpy_support import as_dtype

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import in_lines, taken
from numbaconv.nopython._boundary import CONSTANT, MIRROR, NEAREST, REFLECT, WRAP, correlate_extended
from numbaconv.nopython._compile import family, kernel, overloads
from numbaconv.nopython._kinds import choice, dtype_of, is_none, known, refuse

BOUNDARIES = {
    "reflect": REFLECT, "grid-mirror": REFLECT, "mirror": MIRROR, "nearest": NEAREST,
    "wrap": WRAP, "grid-wrap": WRAP, "constant": CONSTANT, "grid-constant": CONSTANT,
}  # fmt: skip


class Plan:
    """What the types of an image, of weights and of an output lead to."""

    def __init__(self, image: Any, weights: Any, output: Any, mode: Any, cval: Any) -> None:
        kind, taps = dtype_of("input", image), dtype_of("weights", weights)
        complex_ = "c" in (kind.kind, taps.kind)
        self.sum = np.dtype(np.complex128 if complex_ else np.float64)
        self.axes = getattr(image, "ndim", 1)
        if isinstance(cval, (complex, types.Complex)) and not complex_:
            raise refuse("cval", cval, "a real number for an image of real numbers")
        self.image, self.weights, self.boundary, self.number = (
            taken(image, self.sum),
            taken(weights, self.sum),
            choice("mode", mode, BOUNDARIES),
            self.sum.type,
        )
        default = np.promote_types(kind, np.complex64) if complex_ else kind
        self.dtype, given = asked(output, default, self.axes), isinstance(output, types.Array)
        self.stored = storing(self.dtype, given)


def asked(output: Any, default: np.dtype[Any], axes: int) -> np.dtype[Any]:
    """Return the dtype that an output asks for."""
    if is_none(output):
        return default
    if isinstance(output, types.Array) and (output.ndim != axes or not output.mutable):
        raise refuse("output", output, f"an array of {axes} axes that can be written to")
    if not isinstance(output, (types.Array, types.NumberClass, types.DType)):
        raise refuse("output", output, "None, an array or a dtype")
    dtype = as_dtype(output.dtype)
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
            return value != 0

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
    """Make a kernel (image, weights, origins, boundary, value) -> sums, over all axes; the taps are reversed if they are ``flipped``."""

    def correlate(image, weights, origins, boundary, value):  # type: ignore[no-untyped-def]
        x_shape, h_shape, before = np.empty(axes, np.int64), np.empty(axes, np.int64), np.empty(axes, np.int64)
        for axis in range(axes):
            x_shape[axis], h_shape[axis] = image.shape[axis], weights.shape[axis]
        place_filter(h_shape, origins, flipped, before)
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


def over_axes(image: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any, flipped: bool) -> tuple[Any, ...]:
    """Return what `correlate` and `convolve` call."""
    if not is_none(axes):
        raise refuse("axes", axes, "None, which is all axes,")
    plan = Plan(image, weights, output, mode, cval)
    if getattr(weights, "ndim", 1) != plan.axes:
        raise refuse("weights", weights, f"an array of as many axes as input, {plan.axes},")
    return (
        plan.image,
        plan.weights,
        plan.boundary,
        plan.number,
        plan.stored,
        each("origin", origin, plan.axes, types.Integer),
        correlation(plan.sum, plan.axes, flipped),
    )


def each(argument: str, value: Any, axes: int, kind: Any) -> Callable[[Any], Any]:
    """Return a function for compiled code that gives an array of one number for each axis: one is repeated."""
    number = value.value if isinstance(value, types.Omitted) else value
    dtype: Any = np.int64 if kind is types.Integer else np.float64
    if isinstance(number, (int, float, types.Number)):

        def spread(value):  # type: ignore[no-untyped-def]
            result = np.empty(axes, dtype)
            result[:] = value
            return result

    elif isinstance(number, (types.Sequence, types.Array)):

        def spread(value):  # type: ignore[no-untyped-def]
            if len(value) != axes:
                raise ValueError("one number for each axis is needed, or one for all")
            result = np.empty(axes, dtype)
            for i in range(axes):
                result[i] = value[i]
            return result

    else:
        raise refuse(argument, value, "a number, or a sequence of one for each axis,")
    function: Callable[[Any], Any] = register_jitable(named_apart(spread))
    return function


@overloads(scipy.ndimage.correlate)
def correlate(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.correlate."""
    image, taps, beyond, number, store, spread, sums = over_axes(input, weights, output, mode, cval, origin, axes, False)

    def implementation(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
        return store(sums(image(input), taps(weights), spread(origin), beyond(mode), number(cval)), output)

    return implementation


@overloads(scipy.ndimage.convolve)
def convolve(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.convolve."""
    image, taps, beyond, number, store, spread, sums = over_axes(input, weights, output, mode, cval, origin, axes, True)

    def implementation(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
        return store(sums(image(input), taps(weights), spread(origin), beyond(mode), number(cval)), output)

    return implementation


def along_axis(image: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, flipped: bool) -> tuple[Any, ...]:
    """Return what `correlate1d` and `convolve1d` call."""
    plan = Plan(image, weights, output, mode, cval)
    dtype_of("weights", weights, 1)
    return plan.image, plan.weights, plan.boundary, plan.number, plan.stored, correlation_along(plan.sum, plan.axes, flipped)


@overloads(scipy.ndimage.correlate1d)
def correlate1d(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.correlate1d."""
    image, taps, beyond, number, store, sums = along_axis(input, weights, axis, output, mode, cval, False)

    def implementation(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
        return store(sums(image(input), taps(weights), axis, origin, beyond(mode), number(cval)), output)

    return implementation


@overloads(scipy.ndimage.convolve1d)
def convolve1d(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.convolve1d."""
    image, taps, beyond, number, store, sums = along_axis(input, weights, axis, output, mode, cval, True)

    def implementation(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
        return store(sums(image(input), taps(weights), axis, origin, beyond(mode), number(cval)), output)

    return implementation


@overloads(scipy.ndimage.gaussian_filter1d)
def gaussian_filter1d(input, sigma, axis=-1, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.gaussian_filter1d."""
    plan, reach = Plan(input, types.float64[::1], output, mode, cval), extent_of(radius)
    image, beyond, number, store, sums = plan.image, plan.boundary, plan.number, plan.stored, correlation_along(plan.sum, plan.axes, False)
    taps = taken(types.float64[::1], plan.sum)

    def implementation(input, sigma, axis=-1, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None):  # type: ignore[no-untyped-def]
        weights = taps(gaussian(float(sigma), order, reach(radius, float(truncate) * float(sigma))))
        return store(sums(image(input), weights, axis, 0, beyond(mode), number(cval)), output)

    return implementation


def extent_of(radius: Any) -> Callable[[Any, Any], Any]:
    """Return a function (radius, truncation) for compiled code that gives how far a Gaussian reaches."""
    if is_none(radius):

        def reach(radius, truncation):  # type: ignore[no-untyped-def]
            return int(truncation + 0.5)

    elif isinstance(radius, types.Integer) or isinstance(known(radius), int):

        def reach(radius, truncation):  # type: ignore[no-untyped-def]
            return radius

    else:
        raise refuse("radius", radius, "None or an integer")
    function: Callable[[Any, Any], Any] = register_jitable(named_apart(reach))
    return function


@overloads(scipy.ndimage.gaussian_filter)
def gaussian_filter(input, sigma, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None, axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.gaussian_filter."""
    if not is_none(axes):
        raise refuse("axes", axes, "None, which is all axes,")
    plan, reach = Plan(input, types.float64[::1], output, mode, cval), extent_of(radius)
    image, beyond, number, store, sums = plan.image, plan.boundary, plan.number, plan.stored, correlation_along(plan.sum, plan.axes, False)
    sigmas, orders, axes_ = each("sigma", sigma, plan.axes, types.Float), each("order", order, plan.axes, types.Integer), plan.axes
    taps, kept = taken(types.float64[::1], plan.sum), cut_off(plan.dtype)

    def implementation(input, sigma, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None, axes=None):  # type: ignore[no-untyped-def]
        y, widths, derivatives = image(input), sigmas(sigma), orders(order)
        for axis in range(axes_):
            if widths[axis] > 1e-15:
                weights = taps(gaussian(widths[axis], derivatives[axis], reach(radius, float(truncate) * widths[axis])))
                y = sums(y, weights, axis, 0, beyond(mode), number(cval))
                flat = y.reshape(-1)
                for i in range(flat.size):
                    flat[i] = kept(flat[i])
        return store(y, output)

    return implementation
