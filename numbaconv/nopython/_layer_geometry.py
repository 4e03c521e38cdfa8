"""The geometry of layers in nopython code: shapes as five sizes, options as three numbers, and the size of an output.

A transposed convolution is the adjoint of one whose output its input is: sizes are those of that one, x_size, w_size and y_size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import register_jitable

from numbaconv._jit import named_apart
from numbaconv.nopython._compile import kernel
from numbaconv.nopython._kinds import UNKNOWN, choice, integers, known, refuse
from numbaconv.problem import LAYOUTS

# Which of five sizes the axes of an array are.
AXES = {1: (0, 1, 4), 2: (0, 1, 3, 4), 3: (0, 1, 2, 3, 4)}
VALID, SAME, SAME_LOWER = range(3)
PADDINGS = {"valid": VALID, "same": SAME, "same_lower": SAME_LOWER}


@kernel
def check_options(w_size, stride, dilation, groups):  # type: ignore[no-untyped-def]
    """Refuse what both convolutions refuse."""
    if groups < 1 or w_size[0] % groups:
        raise ValueError("groups must be at least 1 and divide the first size of w")
    if min(stride) < 1 or min(dilation) < 1:
        raise ValueError("stride and dilation must be at least 1")
    if min(w_size[2], w_size[3], w_size[4]) < 1:
        raise ValueError("w must have at least one tap on each axis")


@kernel
def output_size(x_size, w_size, stride, dilation, low, high, groups, extra):  # type: ignore[no-untyped-def]
    """Check sizes and return those of the output."""
    check_options(w_size, stride, dilation, groups)
    if x_size[1] != w_size[1] * groups:
        raise ValueError("x must have as many channels as w per group times groups")
    Z = (x_size[2] + low[0] + high[0] - dilation[0] * (w_size[2] - 1) - 1) // stride[0] + 1
    P = (x_size[3] + low[1] + high[1] - dilation[1] * (w_size[3] - 1) - 1) // stride[1] + 1
    Q = (x_size[4] + low[2] + high[2] - dilation[2] * (w_size[4] - 1) - 1) // stride[2] + 1
    if min(Z, P, Q) < 1:
        raise ValueError("the filter must not be larger than the padded input")
    return x_size[0], w_size[0], Z, P, Q


@kernel
def transposed_size(y_size, w_size, stride, dilation, low, high, groups, extra):  # type: ignore[no-untyped-def]
    """Check sizes and return those of the output of a transposed convolution, whose input is y."""
    check_options(w_size, stride, dilation, groups)
    if y_size[1] != w_size[0]:
        raise ValueError("x must have as many channels as the first size of w")
    for axis in range(3):
        if extra[axis] < 0 or extra[axis] >= max(stride[axis], dilation[axis]):
            raise ValueError("output_padding must not be negative, and smaller than the stride or the dilation")
    D = (y_size[2] - 1) * stride[0] + (w_size[2] - 1) * dilation[0] + 1 + extra[0] - low[0] - high[0]
    H = (y_size[3] - 1) * stride[1] + (w_size[3] - 1) * dilation[1] + 1 + extra[1] - low[1] - high[1]
    W = (y_size[4] - 1) * stride[2] + (w_size[4] - 1) * dilation[2] + 1 + extra[2] - low[2] - high[2]
    if min(D, H, W) < 1:
        raise ValueError("the padding must leave something of the output")
    return y_size[0], w_size[1] * groups, D, H, W


@kernel
def named_padding(code, size, w_size, stride, dilation, extra, transposed):  # type: ignore[no-untyped-def]
    """Return the zeros before and behind each axis that a word stands for."""
    if code == VALID:
        return (0, 0, 0), (0, 0, 0)
    low0, high0 = split(code, size[2], w_size[2], stride[0], dilation[0], extra[0], transposed)
    low1, high1 = split(code, size[3], w_size[3], stride[1], dilation[1], extra[1], transposed)
    low2, high2 = split(code, size[4], w_size[4], stride[2], dilation[2], extra[2], transposed)
    return (low0, low1, low2), (high0, high1, high2)


@kernel
def split(code, size, taps, stride, dilation, extra, transposed):  # type: ignore[no-untyped-def]
    """Return them for an axis: the odd one is behind it for "same", before it for "same_lower"."""
    reach = dilation * (taps - 1) + 1
    if transposed:
        total = (size - 1) * stride + reach + extra - size * stride
    else:
        total = max(0, ((size + stride - 1) // stride - 1) * stride + reach - size)
    low = max(0, total) // 2 if code == SAME else max(0, total) - max(0, total) // 2
    return low, total - low


def places(rank: int, axes: int, last: bool) -> tuple[int, ...]:
    """Return which of five sizes the axes of an array are, in either layout; it may lack N, and C too."""
    found = AXES[rank][rank + 2 - axes :]
    return (*(k for k in found if k != 1), *(k for k in found if k == 1)) if last else found


@functools.cache
def five(rank: int, axes: int) -> Callable[[Any, int], Any]:
    """Return a function (shape, last) for compiled code that gives a shape as five sizes, N being 1 if it is not among them."""
    (a, b, c, d, e), (A, B, C, D, E) = (
        [found.index(k) if k in found else -1 for k in range(5)] for found in (places(rank, axes, False), places(rank, axes, True))
    )

    def sizes(shape, last):  # type: ignore[no-untyped-def]
        if last:
            return (
                shape[A] if A >= 0 else 1, shape[B] if B >= 0 else 1, shape[C] if C >= 0 else 1,
                shape[D] if D >= 0 else 1, shape[E] if E >= 0 else 1,
            )  # fmt: skip
        return (
            shape[a] if a >= 0 else 1, shape[b] if b >= 0 else 1, shape[c] if c >= 0 else 1,
            shape[d] if d >= 0 else 1, shape[e] if e >= 0 else 1,
        )  # fmt: skip

    function: Callable[[Any, int], Any] = register_jitable(named_apart(sizes))
    return function


@functools.cache
def shape_of(rank: int, axes: int) -> Callable[[Any, int], Any]:
    """Return the function (sizes, last) for compiled code that does the reverse."""
    first, last = (register_jitable(named_apart(_picking(places(rank, axes, behind)))) for behind in (False, True))

    def shape(sizes, behind):  # type: ignore[no-untyped-def]
        return last(sizes) if behind else first(sizes)

    function: Callable[[Any, int], Any] = register_jitable(named_apart(shape))
    return function


def _picking(at: tuple[int, ...]) -> Callable[[Any], Any]:
    a, b, c, d, e = *at, *(0,) * (5 - len(at))
    bodies: dict[int, Callable[[Any], Any]] = {
        2: lambda s: (s[a], s[b]), 3: lambda s: (s[a], s[b], s[c]),
        4: lambda s: (s[a], s[b], s[c], s[d]), 5: lambda s: (s[a], s[b], s[c], s[d], s[e]),
    }  # fmt: skip
    return bodies[len(at)]


def is_shape(value: Any) -> bool:
    """Whether a type is that of a tuple of integers."""
    return isinstance(value, types.BaseTuple) and all(isinstance(t, types.Integer) for t in value)


def triple(argument: str, value: Any, rank: int, neutral: int, end: int = -1) -> Callable[[Any], Any]:
    """Return a function for compiled code that gives an option as three numbers, those of absent axes being neutral.

    With an ``end``, 0 or 1, the option is of pairs, and these are the first numbers of each, or the second ones.
    """
    found = value.value if isinstance(value, types.Omitted) else value
    if isinstance(found, (int, types.Integer)):

        def item(value, k):  # type: ignore[no-untyped-def]
            return value

    elif end < 0 and is_shape(found) and len(found) in (1, rank):
        step = int(len(found) > 1)

        def item(value, k):  # type: ignore[no-untyped-def]
            return value[k * step]

    elif end >= 0 and isinstance(found, types.BaseTuple) and len(found) in (1, rank) and all(is_shape(pair) and len(pair) == 2 for pair in found):
        step = int(len(found) > 1)

        def item(value, k):  # type: ignore[no-untyped-def]
            return value[k * step][end]

    else:
        more = ", or one of pairs, or 'valid', 'same' or 'same_lower'," if end >= 0 else ""
        raise refuse(argument, value, f"an integer or a tuple of {rank}{more}")
    pick = register_jitable(named_apart(item))
    bodies: dict[int, Callable[[Any], Any]] = {
        1: lambda value: (neutral, neutral, int(pick(value, 0))),
        2: lambda value: (neutral, int(pick(value, 0)), int(pick(value, 1))),
        3: lambda value: (int(pick(value, 0)), int(pick(value, 1)), int(pick(value, 2))),
    }
    function: Callable[[Any], Any] = register_jitable(named_apart(bodies[rank]))
    return function


def paddings(value: Any, rank: int, transposed: bool) -> Callable[..., Any]:
    """Return a function (padding, size, w_size, stride, dilation, extra) for compiled code that gives the zeros before and behind each axis."""
    if isinstance(value, types.UnicodeType) or isinstance(known(value), str):
        word = choice("padding", value, PADDINGS)

        def pads(padding, size, w_size, stride, dilation, extra):  # type: ignore[no-untyped-def]
            return named_padding(word(padding), size, w_size, stride, dilation, extra, transposed)

    else:
        plain = isinstance(value, types.Omitted) or isinstance(value, types.Integer) or is_shape(value)
        first, second = (triple("padding", value, rank, 0, -1 if plain else end) for end in (0, 1))

        def pads(padding, size, w_size, stride, dilation, extra):  # type: ignore[no-untyped-def]
            return first(padding), second(padding)

    return register_jitable(named_apart(pads))


class LayerOptions:
    """Options that every function of a rank has, checked, and the functions that read them in compiled code."""

    def __init__(
        self, rank: int, transposed: bool, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any, output_padding: Any,
        **fixed: Any,
    ) -> None:  # fmt: skip
        for name, value in fixed.items():
            allowed = {"device": (None, "cpu"), "stream": (None,), "method": ("auto", "direct"), "precision": ("default", "highest")}[name]
            if known(value) not in allowed:
                raise refuse(name, "what is known at run time only" if known(value) is UNKNOWN else repr(known(value)), _listed(allowed))
        integers(groups=groups)
        if not transposed and known(output_padding) != 0:
            raise refuse("output_padding", output_padding, "left out: it is an option of transposed convolutions")
        steps, spread = triple("stride", stride, rank, 1), triple("dilation", dilation, rank, 1)
        more = triple("output_padding", output_padding, rank, 0)
        pads, sizes = paddings(padding, rank, transposed), transposed_size if transposed else output_size
        self.last = last_of(rank, layout)

        def measure(size, w_size, stride, padding, dilation, groups, output_padding):  # type: ignore[no-untyped-def]
            s, d, extra = steps(stride), spread(dilation), more(output_padding)
            low, high = pads(padding, size, w_size, s, d, extra)
            return sizes(size, w_size, s, d, low, high, groups, extra), s, d, low

        # (size of the input, w_size, options) -> size of the output, stride, dilation and padding as three numbers
        self.measure = register_jitable(named_apart(measure))


def last_of(rank: int, layout: Any) -> Callable[[Any], int]:
    """Return a function for compiled code that says whether the channels of a layout come last."""
    return choice("layout", layout, {LAYOUTS[rank][0]: 0, LAYOUTS[rank][1]: 1, **({None: 0} if known(layout) is None else {})})


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(map(repr, values))
