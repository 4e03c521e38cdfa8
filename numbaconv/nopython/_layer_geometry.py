"""The geometry of layers in nopython code: shapes as five sizes, options as three numbers, and the size of an output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import register_jitable

from numbaconv._jit import named_apart
from numbaconv.nopython._compile import kernel
from numbaconv.nopython._kinds import known, refuse
from numbaconv.problem import LAYOUTS

# Which of five sizes the axes of an array are.
AXES = {1: (0, 1, 4), 2: (0, 1, 3, 4), 3: (0, 1, 2, 3, 4)}


@kernel
def output_size(x_size, w_size, stride, dilation, low, high, groups):  # type: ignore[no-untyped-def]
    """Check sizes and return those of the output."""
    if groups < 1 or x_size[1] != w_size[1] * groups:
        raise ValueError("x must have as many channels as w per group times groups")
    if w_size[0] % groups:
        raise ValueError("groups must divide the number of filters")
    if min(stride) < 1 or min(dilation) < 1:
        raise ValueError("stride and dilation must be at least 1")
    Z = (x_size[2] + low[0] + high[0] - dilation[0] * (w_size[2] - 1) - 1) // stride[0] + 1
    P = (x_size[3] + low[1] + high[1] - dilation[1] * (w_size[3] - 1) - 1) // stride[1] + 1
    Q = (x_size[4] + low[2] + high[2] - dilation[2] * (w_size[4] - 1) - 1) // stride[2] + 1
    if min(Z, P, Q) < 1 or min(w_size[2], w_size[3], w_size[4]) < 1:
        raise ValueError("the filter must not be empty, nor larger than the padded input")
    return x_size[0], w_size[0], Z, P, Q


@functools.cache
def five(rank: int, axes: int) -> Callable[[Any], Any]:
    """Return a function for compiled code that gives a shape of so many axes as five sizes; N is 1 if it is not among them."""
    places = AXES[rank] if axes == rank + 2 else AXES[rank][1:]
    at = tuple(places.index(k) if k in places else -1 for k in range(5))
    a, b, c, d, e = at

    def sizes(shape):  # type: ignore[no-untyped-def]
        return (
            shape[a] if a >= 0 else 1, shape[b] if b >= 0 else 1, shape[c] if c >= 0 else 1,
            shape[d] if d >= 0 else 1, shape[e] if e >= 0 else 1,
        )  # fmt: skip

    function: Callable[[Any], Any] = register_jitable(named_apart(sizes))
    return function


@functools.cache
def shape_of(rank: int, axes: int) -> Callable[[Any], Any]:
    """Return the function for compiled code that does the reverse."""
    bodies: dict[tuple[int, ...], Callable[[Any], Any]] = {
        (0, 1, 4): lambda s: (s[0], s[1], s[4]),
        (1, 4): lambda s: (s[1], s[4]),
        (0, 1, 3, 4): lambda s: (s[0], s[1], s[3], s[4]),
        (1, 3, 4): lambda s: (s[1], s[3], s[4]),
        (0, 1, 2, 3, 4): lambda s: s,
        (1, 2, 3, 4): lambda s: (s[1], s[2], s[3], s[4]),
    }
    function: Callable[[Any], Any] = register_jitable(named_apart(bodies[AXES[rank] if axes == rank + 2 else AXES[rank][1:]]))
    return function


def triple(argument: str, value: Any, rank: int, neutral: int) -> Callable[[Any], Any]:
    """Return a function for compiled code that gives an option as three numbers, those of absent axes being neutral."""
    found = value.value if isinstance(value, types.Omitted) else value
    if isinstance(found, (int, types.Integer)):

        def item(value, k):  # type: ignore[no-untyped-def]
            return value

    elif isinstance(found, types.BaseTuple) and len(found) == rank and all(isinstance(t, types.Integer) for t in found):

        def item(value, k):  # type: ignore[no-untyped-def]
            return value[k]

    elif isinstance(found, types.BaseTuple) and len(found) == 1 and isinstance(found[0], types.Integer):

        def item(value, k):  # type: ignore[no-untyped-def]
            return value[0]

    else:
        raise refuse(argument, value, f"an integer or a tuple of {rank}")
    pick = register_jitable(named_apart(item))
    bodies: dict[int, Callable[[Any], Any]] = {
        1: lambda value: (neutral, neutral, int(pick(value, 0))),
        2: lambda value: (neutral, int(pick(value, 0)), int(pick(value, 1))),
        3: lambda value: (int(pick(value, 0)), int(pick(value, 1)), int(pick(value, 2))),
    }
    function: Callable[[Any], Any] = register_jitable(named_apart(bodies[rank]))
    return function


def paddings(value: Any, rank: int) -> Callable[..., Any]:
    """Return a function (padding, x_size, w_size, stride, dilation) for compiled code that gives the zeros before and behind each axis."""
    word = known(value)
    if isinstance(word, str):
        if word not in ("valid", "same", "same_lower"):
            raise refuse("padding", repr(word), "an integer, a tuple, 'valid', 'same' or 'same_lower'")
        valid, lower = word == "valid", word == "same_lower"

        def total(size, taps, stride, dilation):  # type: ignore[no-untyped-def]
            return 0 if valid else max(0, ((size + stride - 1) // stride - 1) * stride + dilation * (taps - 1) + 1 - size)

        sum_of = register_jitable(named_apart(total))

        def pads(padding, x_size, w_size, stride, dilation):  # type: ignore[no-untyped-def]
            a = sum_of(x_size[2], w_size[2], stride[0], dilation[0])
            b = sum_of(x_size[3], w_size[3], stride[1], dilation[1])
            c = sum_of(x_size[4], w_size[4], stride[2], dilation[2])
            less, more = (a // 2, b // 2, c // 2), (a - a // 2, b - b // 2, c - c // 2)
            return (more, less) if lower else (less, more)

    else:
        both = triple("padding", value, rank, 0)

        def pads(padding, x_size, w_size, stride, dilation):  # type: ignore[no-untyped-def]
            zeros = both(padding)
            return zeros, zeros

    return register_jitable(named_apart(pads))


class LayerOptions:
    """Options that every function of a rank has, checked, and the functions that read them in compiled code."""

    def __init__(self, rank: int, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any, device: Any, stream: Any) -> None:
        for name, value, only in (("layout", layout, LAYOUTS[rank][0]), ("device", device, None), ("stream", stream, None)):
            if known(value) != only:
                raise refuse(name, value, repr(only))
        if not isinstance(groups, (int, types.Integer)) and not isinstance(known(groups), int):
            raise refuse("groups", groups, "an integer")
        self.stride, self.dilation = triple("stride", stride, rank, 1), triple("dilation", dilation, rank, 1)
        self.padding = paddings(padding, rank)
