"""numbaconv.conv1d … 3d, conv_transpose1d … 3d and their gradients in nopython code: for loops of one's own, and parallel if the loop is.

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
from numbaconv.cpu.bias import CODES
from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import overloads
from numbaconv.nopython._kinds import UNKNOWN, choice, dtype_of, is_none, known, refuse
from numbaconv.nopython._layer_geometry import AXES, LayerOptions, five, is_shape, last_of, shape_of
from numbaconv.nopython._layer_sums import activate_all, add_up, fill_channels, sums_in
from numbaconv.problem import LAYOUTS


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


def sums(target: str, conjugate: str, dtype: np.dtype[Any]) -> Any:
    """Return the kernel that adds to x, w or y."""
    return sums_in(target, conjugate if dtype.kind == "c" else "")


def _register(rank: int, transposed: bool) -> None:
    default = LAYOUTS[rank][0]
    name = f"conv{'_transpose' * transposed}{rank}d"
    forward, grad_input, grad_weight, grad_bias, backward = (
        getattr(functional, name + suffix) for suffix in ("", "_grad_input", "_grad_weight", "_grad_bias", "_backward")
    )
    whole = five(rank, rank + 2)

    @overloads(forward)
    def conv(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
             method="auto", precision="default", out=None, device=None, stream=None, output_padding=0):  # fmt: skip
        options = LayerOptions(rank, transposed, stride, padding, dilation, groups, layout, output_padding,
                               method=method, precision=precision, device=device, stream=stream)  # fmt: skip
        dtypes = [operand("x", x, rank), operand("w", w, rank, False), *([] if is_none(bias) else [dtype_of("bias", bias, 1)])]
        dtype, axes = np.result_type(*dtypes), x.ndim
        image, weights, sizes, shape, place = taken(x, dtype), taken(w, dtype), five(rank, axes), shape_of(rank, axes), result(out, dtype, axes)
        begin, finish = _fill(bias, dtype), _activate(activation, dtype)
        measure, is_last = options.measure, options.last
        add = sums("x" if transposed else "y", "", dtype)

        def implementation(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", out=None, device=None, stream=None, output_padding=0):  # fmt: skip
            last = is_last(layout)
            x_size, w_size = sizes(x.shape, last), whole(w.shape, 0)
            y_size, s, d, low = measure(x_size, w_size, stride, padding, dilation, groups, output_padding)
            y = place(out, shape(y_size, last))
            flat, given = y.reshape(-1), image(x).reshape(-1)
            begin(flat, y_size, bias, last)
            if transposed:
                add(flat, y_size, weights(w).reshape(-1), w_size, given, x_size, s, d, low, groups, last)
            else:
                add(given, x_size, weights(w).reshape(-1), w_size, flat, y_size, s, d, low, groups, last)
            finish(flat, activation)
            return y

        return implementation

    @overloads(grad_input)
    def to_input(grad_out, w, input_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                 method="auto", precision="default", out=None, device=None, stream=None, output_padding=0):  # fmt: skip
        options = LayerOptions(rank, transposed, stride, padding, dilation, groups, layout, output_padding,
                               method=method, precision=precision, device=device, stream=stream)  # fmt: skip
        dtype, axes = np.result_type(operand("grad_out", grad_out, rank), operand("w", w, rank, False)), grad_out.ndim
        if not is_shape(input_shape) or len(input_shape) != axes:
            raise refuse("input_shape", input_shape, f"a tuple of {axes} integers")
        gradient, weights, sizes = taken(grad_out, dtype), taken(w, dtype), five(rank, axes)
        shape, place = shape_of(rank, axes), result(out, dtype, axes)
        begin, measure, is_last = _fill(None, dtype), options.measure, options.last
        add = sums("y" if transposed else "x", "w", dtype)

        def implementation(grad_out, w, input_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", out=None, device=None, stream=None, output_padding=0):  # fmt: skip
            last = is_last(layout)
            x_size, w_size = sizes(input_shape, last), whole(w.shape, 0)
            y_size, s, d, low = measure(x_size, w_size, stride, padding, dilation, groups, output_padding)
            if sizes(grad_out.shape, last) != y_size:
                raise ValueError("grad_out must have the shape of the output")
            dx = place(out, shape(x_size, last))
            flat, dy = dx.reshape(-1), gradient(grad_out).reshape(-1)
            begin(flat, x_size, None, last)
            if transposed:
                add(dy, y_size, weights(w).reshape(-1), w_size, flat, x_size, s, d, low, groups, last)
            else:
                add(flat, x_size, weights(w).reshape(-1), w_size, dy, y_size, s, d, low, groups, last)
            return dx

        return implementation

    @overloads(grad_weight)
    def to_weight(x, grad_out, kernel_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                  method="auto", precision="default", out=None, device=None, stream=None, output_padding=0):  # fmt: skip
        options = LayerOptions(rank, transposed, stride, padding, dilation, groups, layout, output_padding,
                               method=method, precision=precision, device=device, stream=stream)  # fmt: skip
        dtype = np.result_type(operand("x", x, rank), operand("grad_out", grad_out, rank))
        if not is_shape(kernel_shape) or len(kernel_shape) not in (rank, rank + 2):
            raise refuse("kernel_shape", kernel_shape, f"a tuple of {rank + 2} integers, or of {rank}")
        if x.ndim != grad_out.ndim:
            raise refuse("grad_out", grad_out, f"an array of as many axes as x, {x.ndim},")
        image, gradient, sizes, place = taken(x, dtype), taken(grad_out, dtype), five(rank, x.ndim), result(out, dtype, rank + 2)
        shape, begin, measure, is_last = shape_of(rank, rank + 2), _fill(None, dtype), options.measure, options.last
        taps = _completed(rank, transposed, len(kernel_shape) == rank)
        add = sums("w", "y" if transposed else "x", dtype)

        def implementation(x, grad_out, kernel_shape, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", out=None, device=None, stream=None, output_padding=0):  # fmt: skip
            last = is_last(layout)
            x_size, y_size = sizes(x.shape, last), sizes(grad_out.shape, last)
            w_size = taps(kernel_shape, x_size[1], y_size[1], groups)
            expected, s, d, low = measure(x_size, w_size, stride, padding, dilation, groups, output_padding)
            if y_size != expected:
                raise ValueError("grad_out must have the shape of the output")
            dw = place(out, shape(w_size, 0))
            flat, given, dy = dw.reshape(-1), image(x).reshape(-1), gradient(grad_out).reshape(-1)
            begin(flat, w_size, None, 0)
            if transposed:
                add(dy, y_size, flat, w_size, given, x_size, s, d, low, groups, last)
            else:
                add(given, x_size, flat, w_size, dy, y_size, s, d, low, groups, last)
            return dw

        return implementation

    @overloads(grad_bias)
    def to_bias(grad_out, layout=default):  # type: ignore[no-untyped-def]
        dtype, sizes = operand("grad_out", grad_out, rank), five(rank, grad_out.ndim)
        gradient, is_last = taken(grad_out, dtype), last_of(rank, layout)

        def implementation(grad_out, layout=default):  # type: ignore[no-untyped-def]
            last = is_last(layout)
            y_size = sizes(grad_out.shape, last)
            total = np.empty(y_size[1], dtype)
            add_up(gradient(grad_out).reshape(-1), y_size, total, last)
            return total

        return implementation

    @overloads(backward)
    def to_all(grad_out, x, w, needs=(True, True, True), stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
               method="auto", precision="default", device=None, stream=None, output_padding=0):  # fmt: skip
        wanted = tuple(map(known, needs.types)) if isinstance(needs, types.BaseTuple) else known(needs)
        if not isinstance(wanted, tuple) or len(wanted) != 3 or UNKNOWN in wanted:
            raise refuse("needs", needs, "a tuple of three literals, True or False,")
        for_x, for_w, for_b = (f if need else _nothing for f, need in zip((grad_input, grad_weight, grad_bias), wanted, strict=True))

        def implementation(grad_out, x, w, needs=(True, True, True), stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                           method="auto", precision="default", device=None, stream=None, output_padding=0):  # fmt: skip
            return (
                for_x(grad_out, w, x.shape, stride, padding, dilation, groups, layout, method, precision, None, device, stream, output_padding),
                for_w(x, grad_out, w.shape, stride, padding, dilation, groups, layout, method, precision, None, device, stream, output_padding),
                for_b(grad_out, layout),
            )

        return implementation


@register_jitable
def _nothing(*options):  # type: ignore[no-untyped-def]
    return None


def _completed(rank: int, transposed: bool, taps_alone: bool) -> Callable[..., Any]:
    """Return a function (kernel_shape, channels of x, channels of grad_out, groups) for compiled code that gives the sizes of w."""
    whole, taps = five(rank, rank + 2), five(rank, rank)  # places of rank axes are the spatial ones

    if not taps_alone:

        def complete(kernel_shape, x_channels, y_channels, groups):  # type: ignore[no-untyped-def]
            return whole(kernel_shape, 0)
    else:

        def complete(kernel_shape, x_channels, y_channels, groups):  # type: ignore[no-untyped-def]
            _, _, T, R, S = taps(kernel_shape, 0)
            per_group = max(1, groups)
            return (x_channels, y_channels // per_group, T, R, S) if transposed else (y_channels, x_channels // per_group, T, R, S)

    return register_jitable(named_apart(complete))


def _fill(bias: Any, dtype: np.dtype[Any]) -> Callable[..., Any]:
    """Return a function (flat, size, bias, last) for compiled code that begins a sum with the bias, or with zeros."""
    if is_none(bias):

        def begin(flat, size, bias, last):  # type: ignore[no-untyped-def]
            fill_channels(flat, size, flat[:0], last)

    else:
        values = taken(bias, dtype)

        def begin(flat, size, bias, last):  # type: ignore[no-untyped-def]
            fill_channels(flat, size, values(bias), last)

    return register_jitable(named_apart(begin))


def _activate(activation: Any, dtype: np.dtype[Any]) -> Callable[[Any, Any], None]:
    """Return a function (flat, activation) for compiled code that applies an activation."""
    if is_none(activation):

        def finish(flat, activation):  # type: ignore[no-untyped-def]
            pass

    else:
        if dtype.kind == "c":
            raise refuse("activation", activation, f"None for {dtype}")
        code = choice("activation", activation, CODES if dtype.kind == "f" else {None: 0, "relu": 1})

        def finish(flat, activation):  # type: ignore[no-untyped-def]
            activate_all(flat, code(activation))

    return register_jitable(named_apart(finish))


for _rank in AXES:
    _register(_rank, False)
    _register(_rank, True)
