"""numbaconv.conv1d, conv2d, conv3d and their gradients in nopython code: for loops of one's own, and parallel over samples if the loop is.

Arrays are flat, with sizes as tuples of five: (N, C, D, H, W) and (K, C/groups, T, R, S). With ``out`` given, and arrays that are contiguous
and of its dtype, nothing is allocated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable
from numba.np.numpy_support import as_dtype

from numbaconv import functional
from numbaconv._jit import named_apart, unsigned
from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import helper, kernel, overloads
from numbaconv.nopython._kinds import dtype_of, is_none, known, refuse
from numbaconv.problem import LAYOUTS

# Which of five sizes the axes of an array are.
AXES = {1: (0, 1, 4), 2: (0, 1, 3, 4), 3: (0, 1, 2, 3, 4)}


@helper
def overlap(n, step, offset, outputs):  # type: ignore[no-untyped-def]
    """Return the first o and the one behind the last for which 0 ≤ o·step + offset < n."""
    return max(0, (step - 1 - offset) // step), max(0, min(outputs, (n - offset + step - 1) // step))


@kernel
def forward(x, x_size, w, w_size, y, y_size, stride, dilation, low, groups):  # type: ignore[no-untyped-def]
    """Add y[n,k,o] += Σ w[k,c,r] · x[n,c,o·stride + r·dilation − low], a row of x and a tap at a time."""
    N, C, D, H, W = x_size
    K, per_group, T, R, S = w_size
    _, _, Z, P, Q = y_size
    for row in range(N * K * Z * P):
        rest, p = row // P, row % P
        rest, z = rest // Z, rest % Z
        n, k = rest // K, rest % K
        first = k // (K // groups) * per_group
        for tap in range(per_group * T * R):
            rest, r = tap // R, tap % R
            c, t = rest // T, rest % T
            d, h = z * stride[0] + t * dilation[0] - low[0], p * stride[1] + r * dilation[1] - low[1]
            if d < 0 or d >= D or h < 0 or h >= H:
                continue
            line = (((n * C + first + c) * D + d) * H + h) * W
            for s in range(S):
                begin, end = overlap(W, stride[2], s * dilation[2] - low[2], Q)
                value, at = w[(k * per_group * T * R + tap) * S + s], line + s * dilation[2] - low[2]
                if stride[2] == 1:
                    for o in range(begin, end):
                        y[unsigned(row * Q + o)] += value * x[unsigned(at + o)]
                else:
                    for o in range(begin, end):
                        y[unsigned(row * Q + o)] += value * x[unsigned(at + o * stride[2])]


@kernel
def backward_input(dy, y_size, w, w_size, dx, x_size, stride, dilation, low, groups):  # type: ignore[no-untyped-def]
    """Add the adjoint of `forward` in x: every product goes back to where its x came from."""
    N, C, D, H, W = x_size
    K, per_group, T, R, S = w_size
    _, _, Z, P, Q = y_size
    for row in range(N * K * Z * P):
        rest, p = row // P, row % P
        rest, z = rest // Z, rest % Z
        n, k = rest // K, rest % K
        first = k // (K // groups) * per_group
        for tap in range(per_group * T * R):
            rest, r = tap // R, tap % R
            c, t = rest // T, rest % T
            d, h = z * stride[0] + t * dilation[0] - low[0], p * stride[1] + r * dilation[1] - low[1]
            if d < 0 or d >= D or h < 0 or h >= H:
                continue
            line = (((n * C + first + c) * D + d) * H + h) * W
            for s in range(S):
                begin, end = overlap(W, stride[2], s * dilation[2] - low[2], Q)
                value, at = w[(k * per_group * T * R + tap) * S + s].conjugate(), line + s * dilation[2] - low[2]
                if stride[2] == 1:
                    for o in range(begin, end):
                        dx[unsigned(at + o)] += value * dy[unsigned(row * Q + o)]
                else:
                    for o in range(begin, end):
                        dx[unsigned(at + o * stride[2])] += value * dy[unsigned(row * Q + o)]


@kernel
def backward_weight(x, x_size, dy, y_size, dw, w_size, stride, dilation, low, groups):  # type: ignore[no-untyped-def]
    """Add the adjoint of `forward` in w: dot products of rows, of one sample each, one after the other."""
    N, C, D, H, W = x_size
    K, per_group, T, R, S = w_size
    _, _, Z, P, Q = y_size
    for row in range(N * K * Z * P):
        rest, p = row // P, row % P
        rest, z = rest // Z, rest % Z
        n, k = rest // K, rest % K
        first = k // (K // groups) * per_group
        for tap in range(per_group * T * R):
            rest, r = tap // R, tap % R
            c, t = rest // T, rest % T
            d, h = z * stride[0] + t * dilation[0] - low[0], p * stride[1] + r * dilation[1] - low[1]
            if d < 0 or d >= D or h < 0 or h >= H:
                continue
            line = (((n * C + first + c) * D + d) * H + h) * W
            for s in range(S):
                begin, end = overlap(W, stride[2], s * dilation[2] - low[2], Q)
                total, at = dw.dtype.type(0), line + s * dilation[2] - low[2]
                for o in range(begin, end):
                    total += dy[unsigned(row * Q + o)] * x[unsigned(at + o * stride[2])].conjugate()
                dw[(k * per_group * T * R + tap) * S + s] += total


@kernel
def fill_channels(y, y_size, bias):  # type: ignore[no-untyped-def]
    """Fill y with one number for each of its channels, or with zeros if there are none."""
    N, K, Z, P, Q = y_size
    pixels = Z * P * Q
    if bias.size not in (0, K):
        raise ValueError("bias must have one value per output channel")
    for plane in range(N * K):
        value = bias[plane % K] if bias.size else y.dtype.type(0)
        for j in range(pixels):
            y[plane * pixels + j] = value


@kernel
def add_up(dy, y_size, out):  # type: ignore[no-untyped-def]
    """Overwrite out[k] = Σ dy[:, k]."""
    N, K, Z, P, Q = y_size
    pixels = Z * P * Q
    for k in range(K):
        out[k] = 0
    for plane in range(N * K):
        total = dy.dtype.type(0)
        for j in range(pixels):
            total += dy[plane * pixels + j]
        out[plane % K] += total


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


class Options:
    """Options that every function of a rank has, checked, and the functions that read them in compiled code."""

    def __init__(self, rank: int, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any, device: Any, stream: Any) -> None:
        for name, value, only in (("layout", layout, LAYOUTS[rank][0]), ("device", device, None), ("stream", stream, None)):
            if known(value) != only:
                raise refuse(name, value, repr(only))
        if not isinstance(groups, (int, types.Integer)) and not isinstance(known(groups), int):
            raise refuse("groups", groups, "an integer")
        self.stride, self.dilation = triple("stride", stride, rank, 1), triple("dilation", dilation, rank, 1)
        self.padding = paddings(padding, rank)


def result(out: Any, dtype: np.dtype[Any], axes: int) -> Callable[[Any, Any], Any]:
    """Return a function (out, shape) for compiled code that gives the array for a result."""
    if is_none(out):

        def place(out, shape):  # type: ignore[no-untyped-def]
            return np.empty(shape, dtype)

    else:
        if not isinstance(out, types.Array) or out.ndim != axes or out.layout != "C" or not out.mutable or as_dtype(out.dtype) != dtype:
            raise refuse("out", out, f"None or a contiguous array of {axes} axes and {dtype} that can be written to")

        def place(out, shape):  # type: ignore[no-untyped-def]
            if out.shape != shape:
                raise ValueError("out must have the shape of the result")
            return out

    return register_jitable(named_apart(place))


def operand(name: str, value: Any, rank: int, unbatched: bool = True) -> np.dtype[Any]:
    """Return the dtype of an array of a rank."""
    dtype = dtype_of(name, value)
    if getattr(value, "ndim", 1) not in (rank + 2, *([rank + 1] if unbatched else [])):
        raise refuse(name, value, f"an array of {rank + 2} axes")
    return dtype


def _register(rank: int) -> None:
    default = LAYOUTS[rank][0]
    names = [getattr(functional, f"conv{rank}d{suffix}") for suffix in ("", "_grad_input", "_grad_weight", "_grad_bias")]
    whole = five(rank, rank + 2)

    @overloads(names[0])
    def conv(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
             method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
        if not is_none(activation):
            raise refuse("activation", activation, "None")
        options = Options(rank, stride, padding, dilation, groups, layout, device, stream)
        dtypes = [operand("x", x, rank), operand("w", w, rank, False), *([] if is_none(bias) else [dtype_of("bias", bias, 1)])]
        dtype, axes = np.result_type(*dtypes), x.ndim
        image, weights, sizes, shape, place = taken(x, dtype), taken(w, dtype), five(rank, axes), shape_of(rank, axes), result(out, dtype, axes)
        steps, spread, pads = options.stride, options.dilation, options.padding
        values = taken(bias, dtype) if not is_none(bias) else None
        begin = _fill(values)

        def implementation(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
            x_size, w_size, s, d = sizes(x.shape), whole(w.shape), steps(stride), spread(dilation)
            low, high = pads(padding, x_size, w_size, s, d)
            y_size = output_size(x_size, w_size, s, d, low, high, groups)
            y = place(out, shape(y_size))
            flat = y.reshape(-1)
            begin(flat, y_size, bias)
            forward(image(x).reshape(-1), x_size, weights(w).reshape(-1), w_size, flat, y_size, s, d, low, groups)
            return y

        return implementation

    @overloads(names[1])
    def grad_input(grad_out, w, input_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                   method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
        options = Options(rank, stride, padding, dilation, groups, layout, device, stream)
        dtype, axes = np.result_type(operand("grad_out", grad_out, rank), operand("w", w, rank, False)), grad_out.ndim
        if not isinstance(input_shape, types.BaseTuple) or len(input_shape) != axes:
            raise refuse("input_shape", input_shape, f"a tuple of {axes} integers")
        gradient, weights, sizes, shape, place = (
            taken(grad_out, dtype),
            taken(w, dtype),
            five(rank, axes),
            shape_of(rank, axes),
            result(out, dtype, axes),
        )
        steps, spread, pads, begin = options.stride, options.dilation, options.padding, _fill(None)

        def implementation(grad_out, w, input_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
            x_size, w_size, s, d = sizes(input_shape), whole(w.shape), steps(stride), spread(dilation)
            low, high = pads(padding, x_size, w_size, s, d)
            y_size = output_size(x_size, w_size, s, d, low, high, groups)
            if sizes(grad_out.shape) != y_size:
                raise ValueError("grad_out must have the shape of the output")
            dx = place(out, shape(x_size))
            flat = dx.reshape(-1)
            begin(flat, x_size, None)
            backward_input(gradient(grad_out).reshape(-1), y_size, weights(w).reshape(-1), w_size, flat, x_size, s, d, low, groups)
            return dx

        return implementation

    @overloads(names[2])
    def grad_weight(x, grad_out, kernel_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                    method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
        options = Options(rank, stride, padding, dilation, groups, layout, device, stream)
        dtype = np.result_type(operand("x", x, rank), operand("grad_out", grad_out, rank))
        if not isinstance(kernel_shape, types.BaseTuple) or len(kernel_shape) != rank + 2:
            raise refuse("kernel_shape", kernel_shape, f"a tuple of {rank + 2} integers")
        if x.ndim != grad_out.ndim:
            raise refuse("grad_out", grad_out, f"an array of as many axes as x, {x.ndim},")
        image, gradient, sizes, place = taken(x, dtype), taken(grad_out, dtype), five(rank, x.ndim), result(out, dtype, rank + 2)
        shape, steps, spread, pads, begin = shape_of(rank, rank + 2), options.stride, options.dilation, options.padding, _fill(None)

        def implementation(x, grad_out, kernel_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
            x_size, w_size, s, d = sizes(x.shape), whole(kernel_shape), steps(stride), spread(dilation)
            low, high = pads(padding, x_size, w_size, s, d)
            y_size = output_size(x_size, w_size, s, d, low, high, groups)
            if sizes(grad_out.shape) != y_size:
                raise ValueError("grad_out must have the shape of the output")
            dw = place(out, shape(w_size))
            flat = dw.reshape(-1)
            begin(flat, w_size, None)
            backward_weight(image(x).reshape(-1), x_size, gradient(grad_out).reshape(-1), y_size, flat, w_size, s, d, low, groups)
            return dw

        return implementation

    @overloads(names[3])
    def grad_bias(grad_out, layout=default):  # type: ignore[no-untyped-def]
        if known(layout) != default:
            raise refuse("layout", layout, repr(default))
        dtype, sizes = operand("grad_out", grad_out, rank), five(rank, grad_out.ndim)
        gradient = taken(grad_out, dtype)

        def implementation(grad_out, layout=default):  # type: ignore[no-untyped-def]
            y_size = sizes(grad_out.shape)
            sums = np.empty(y_size[1], dtype)
            add_up(gradient(grad_out).reshape(-1), y_size, sums)
            return sums

        return implementation


def _fill(values: Any) -> Callable[..., Any]:
    """Return a function (flat, size, bias) for compiled code that begins a sum with the bias, or with zeros."""
    if values is None:

        def begin(flat, size, bias):  # type: ignore[no-untyped-def]
            fill_channels(flat, size, flat[:0])

    else:

        def begin(flat, size, bias):  # type: ignore[no-untyped-def]
            fill_channels(flat, size, values(bias))

    return register_jitable(named_apart(begin))


for _rank in AXES:
    _register(_rank)
