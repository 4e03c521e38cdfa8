"""scipy.ndimage's convolve, correlate, convolve1d, correlate1d, gaussian_filter1d and gaussian_filter in nopython code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.ndimage
from numba import types
from numba.extending import register_jitable

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import kernel, overloads
from numbaconv.nopython._kinds import choice, dtype_of, integers, is_none, known, lookup, numbers, refuse
from numbaconv.nopython._ndimage_sums import BOUNDARIES, Plan, correlation, correlation_along, cut_off, gaussian


@kernel
def normalise_axes(chosen, axes):  # type: ignore[no-untyped-def]
    """Count axes from the first, and refuse those that an array has not."""
    for k in range(chosen.size):
        if chosen[k] < -axes or chosen[k] >= axes:
            raise ValueError("a specified axis is out of range")
        chosen[k] %= axes
        for i in range(k):
            if chosen[i] == chosen[k]:
                raise ValueError("axes must be unique")


def axes_of(value: Any, axes: int) -> tuple[int | None, Callable[[Any], Any]]:
    """Return how many axes are chosen, None if that is known at run time only, and a function for compiled code that gives them."""
    count: int | None
    if is_none(value):
        count = axes

        def choose(value):  # type: ignore[no-untyped-def]
            return np.arange(axes)

    elif isinstance(value, types.Integer):
        count = 1

        def choose(value):  # type: ignore[no-untyped-def]
            chosen = np.empty(1, np.int64)
            chosen[0] = value
            normalise_axes(chosen, axes)
            return chosen

    elif isinstance(value, (types.Sequence, types.Array)) and isinstance(value.dtype, types.Integer) and getattr(value, "ndim", 1) == 1:
        count = len(value) if isinstance(value, types.BaseTuple) else None

        def choose(value):  # type: ignore[no-untyped-def]
            chosen = np.empty(len(value), np.int64)
            for k in range(chosen.size):
                chosen[k] = value[k]
            normalise_axes(chosen, axes)
            return chosen

    else:
        raise refuse("axes", value, "None, an integer or a sequence of integers")
    return count, register_jitable(named_apart(choose))


def each(argument: str, value: Any, dtype: type) -> Callable[[Any, int], Any]:
    """Return a function (value, count) for compiled code that gives an array of one number for each axis: one is repeated."""
    kind = types.Integer if dtype is np.int64 else types.Number
    number = value.value if isinstance(value, types.Omitted) else value
    if isinstance(number, (int, float, kind)) and not isinstance(number, types.Complex):

        def spread(value, count):  # type: ignore[no-untyped-def]
            result = np.empty(count, dtype)
            result[:] = value
            return result

    elif (isinstance(number, (types.Sequence, types.Array)) and isinstance(number.dtype, kind) and getattr(number, "ndim", 1) == 1) or (
        isinstance(number, types.Tuple) and all(isinstance(t, kind) for t in number)
    ):
        convert = taken(number, np.dtype(dtype))

        def spread(value, count):  # type: ignore[no-untyped-def]
            if len(value) != count:
                raise ValueError("one number for each axis is needed, or one for all")
            return convert(value)

    else:
        raise refuse(argument, value, f"{'an integer' if dtype is np.int64 else 'a real number'}, or a sequence of one for each axis,")
    return register_jitable(named_apart(spread))


def choices(argument: str, value: Any, codes: Mapping[Any, int]) -> Callable[[Any, int], Any]:
    """Return a function (value, count) for compiled code that gives an array of the code of a string for each axis: one is repeated."""
    if isinstance(value, types.BaseTuple) and all(known(t) in codes for t in value):
        fixed = tuple(codes[known(t)] for t in value)

        def spread(value, count):  # type: ignore[no-untyped-def]
            if len(fixed) != count:
                raise ValueError("one string for each axis is needed, or one for all")
            return np.array(fixed)

    elif isinstance(value, types.Sequence) and isinstance(value.dtype, types.UnicodeType):
        code_of = lookup(argument, tuple(codes), tuple(codes.values()))

        def spread(value, count):  # type: ignore[no-untyped-def]
            if len(value) != count:
                raise ValueError("one string for each axis is needed, or one for all")
            result = np.empty(count, np.int64)
            for k in range(count):
                result[k] = code_of(value[k])
            return result

    else:
        code = choice(argument, value, codes)

        def spread(value, count):  # type: ignore[no-untyped-def]
            result = np.empty(count, np.int64)
            result[:] = code(value)
            return result

    return register_jitable(named_apart(spread))


def over_axes(image: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any, axes: Any, flipped: bool) -> tuple[Any, ...]:
    """Return what `correlate` and `convolve` call: the conversion of the image, a function that sums, and the one that stores."""
    plan = Plan(image, weights, output, cval)
    taps, rank = plan.weights, getattr(weights, "ndim", 1)
    count, choose = axes_of(axes, plan.axes)
    if rank != (count or rank):
        raise refuse("weights", weights, f"an array of as many axes as {'input' if is_none(axes) else 'axes'}, {count},")
    spread, beyond, number = each("origin", origin, np.int64), choice("mode", mode, BOUNDARIES), plan.number
    add = correlation(plan.sum, plan.axes, flipped)

    def sums(image, weights, axes, origin, mode, cval):  # type: ignore[no-untyped-def]
        chosen = choose(axes)
        if chosen.size != rank:
            raise ValueError("weights must have as many axes as there are in axes")
        return add(image, taps(weights), chosen, spread(origin, chosen.size), beyond(mode), number(cval))

    return plan.image, register_jitable(named_apart(sums)), plan.stored


@overloads(scipy.ndimage.correlate)
def correlate(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.correlate."""
    image, sums, store = over_axes(input, weights, output, mode, cval, origin, axes, False)

    def implementation(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
        return store(sums(image(input), weights, axes, origin, mode, cval), output)

    return implementation


@overloads(scipy.ndimage.convolve)
def convolve(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.convolve."""
    image, sums, store = over_axes(input, weights, output, mode, cval, origin, axes, True)

    def implementation(input, weights, output=None, mode="reflect", cval=0.0, origin=0, axes=None):  # type: ignore[no-untyped-def]
        return store(sums(image(input), weights, axes, origin, mode, cval), output)

    return implementation


def along_axis(image: Any, weights: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any, flipped: bool) -> tuple[Any, ...]:
    """Return what `correlate1d` and `convolve1d` call."""
    integers(axis=axis, origin=origin)
    plan = Plan(image, weights, output, cval)
    dtype_of("weights", weights, 1)
    return plan.image, plan.weights, choice("mode", mode, BOUNDARIES), plan.number, plan.stored, correlation_along(plan.sum, plan.axes, flipped)


@overloads(scipy.ndimage.correlate1d)
def correlate1d(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.correlate1d."""
    image, taps, beyond, number, store, sums = along_axis(input, weights, axis, output, mode, cval, origin, False)

    def implementation(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
        return store(sums(image(input), taps(weights), axis, origin, beyond(mode), number(cval)), output)

    return implementation


@overloads(scipy.ndimage.convolve1d)
def convolve1d(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.convolve1d."""
    image, taps, beyond, number, store, sums = along_axis(input, weights, axis, output, mode, cval, origin, True)

    def implementation(input, weights, axis=-1, output=None, mode="reflect", cval=0.0, origin=0):  # type: ignore[no-untyped-def]
        return store(sums(image(input), taps(weights), axis, origin, beyond(mode), number(cval)), output)

    return implementation


class Gaussian(Plan):
    """What the types of the arguments of Gaussian filters lead to."""

    def __init__(self, image: Any, output: Any, cval: Any, truncate: Any) -> None:
        super().__init__(image, types.float64[::1], output, cval)
        numbers(float, truncate=truncate)
        self.sums, self.taps = correlation_along(self.sum, self.axes, False), taken(types.float64[::1], self.sum)


@overloads(scipy.ndimage.gaussian_filter1d)
def gaussian_filter1d(input, sigma, axis=-1, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.gaussian_filter1d."""
    numbers(float, sigma=sigma)
    integers(axis=axis, order=order)
    plan, reach, beyond = Gaussian(input, output, cval, truncate), radius_of(radius, False), choice("mode", mode, BOUNDARIES)
    image, number, store, sums, taps = plan.image, plan.number, plan.stored, plan.sums, plan.taps

    def implementation(input, sigma, axis=-1, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None):  # type: ignore[no-untyped-def]
        weights = taps(gaussian(float(sigma), order, reach(radius, 1, 0, float(truncate) * float(sigma))))
        return store(sums(image(input), weights, axis, 0, beyond(mode), number(cval)), output)

    return implementation


def radius_of(radius: Any, several: bool) -> Callable[[Any, int, int, Any], Any]:
    """Return a function (radius, count, k, truncation) for compiled code that gives how far a Gaussian reaches, the k-th of some."""
    if is_none(radius):

        def reach(radius, count, k, truncation):  # type: ignore[no-untyped-def]
            return int(truncation + 0.5)

    elif isinstance(radius, types.Integer):

        def reach(radius, count, k, truncation):  # type: ignore[no-untyped-def]
            return radius

    elif several and isinstance(radius, (types.Sequence, types.Array)):
        spread = each("radius", radius, np.int64)

        def reach(radius, count, k, truncation):  # type: ignore[no-untyped-def]
            return spread(radius, count)[k]

    else:
        raise refuse("radius", radius, "None or an integer" + (", or a sequence of integers, one for each axis," if several else ""))
    function: Callable[[Any, int, int, Any], Any] = register_jitable(named_apart(reach))
    return function


@overloads(scipy.ndimage.gaussian_filter)
def gaussian_filter(input, sigma, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None, axes=None):  # type: ignore[no-untyped-def]
    """Compile scipy.ndimage.gaussian_filter."""
    plan, reach, beyond = Gaussian(input, output, cval, truncate), radius_of(radius, True), choices("mode", mode, BOUNDARIES)
    image, number, store, sums, taps, kept = plan.image, plan.number, plan.stored, plan.sums, plan.taps, cut_off(plan.dtype)
    sigmas, orders, (_, choose) = each("sigma", sigma, np.float64), each("order", order, np.int64), axes_of(axes, plan.axes)

    def implementation(input, sigma, order=0, output=None, mode="reflect", cval=0.0, truncate=4.0, radius=None, axes=None):  # type: ignore[no-untyped-def]
        y, chosen = image(input), choose(axes)
        count = chosen.size
        widths, derivatives, boundaries = sigmas(sigma, count), orders(order, count), beyond(mode, count)
        for k in range(count):
            if widths[k] > 1e-15:
                weights = taps(gaussian(widths[k], derivatives[k], reach(radius, count, k, float(truncate) * widths[k])))
                y = sums(y, weights, chosen[k], 0, boundaries[k], number(cval))
                flat = y.reshape(-1)
                for i in range(flat.size):
                    flat[i] = kept(flat[i])
        return store(y, output)

    return implementation
