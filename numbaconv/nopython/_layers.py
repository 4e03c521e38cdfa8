"""numbaconv.conv1d, conv2d, conv3d and their gradients in nopython code: for loops of one's own, and parallel over samples if the loop is.

With ``out`` given, and arrays that are contiguous and of its dtype, nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable
from numba.np.numpy_support import as_dtype

from numbaconv import functional
from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import overloads
from numbaconv.nopython._kinds import dtype_of, is_none, known, refuse
from numbaconv.nopython._layer_geometry import AXES, LayerOptions, five, output_size, shape_of
from numbaconv.nopython._layer_sums import add_up, fill_channels, sums_in
from numbaconv.problem import LAYOUTS

forward, backward_input, backward_weight = sums_in("y"), sums_in("x"), sums_in("w")


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
        options = LayerOptions(rank, stride, padding, dilation, groups, layout, device, stream)
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
        options = LayerOptions(rank, stride, padding, dilation, groups, layout, device, stream)
        dtype, axes = np.result_type(operand("grad_out", grad_out, rank), operand("w", w, rank, False)), grad_out.ndim
        if not isinstance(input_shape, types.BaseTuple) or len(input_shape) != axes:
            raise refuse("input_shape", input_shape, f"a tuple of {axes} integers")
        gradient, weights, sizes = taken(grad_out, dtype), taken(w, dtype), five(rank, axes)
        shape, place = shape_of(rank, axes), result(out, dtype, axes)
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
            backward_input(flat, x_size, weights(w).reshape(-1), w_size, gradient(grad_out).reshape(-1), y_size, s, d, low, groups)
            return dx

        return implementation

    @overloads(names[2])
    def grad_weight(x, grad_out, kernel_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                    method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
        options = LayerOptions(rank, stride, padding, dilation, groups, layout, device, stream)
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
            backward_weight(image(x).reshape(-1), x_size, flat, w_size, gradient(grad_out).reshape(-1), y_size, s, d, low, groups)
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
