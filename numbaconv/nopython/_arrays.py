"""Arrays as kernels take them: contiguous, of the dtype of the result; and what an axis leaves of them: lines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, register_jitable
from numba.np.arrayobj import populate_array
from numba.np.numpy_support import as_dtype

from numbaconv._jit import named_apart
from numbaconv.nopython._compile import helper


def taken(value: Any, dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    """Return a function for compiled code that gives an argument of a type as a contiguous array of a dtype, itself if it is one."""
    if isinstance(value, types.Array):
        same = value.layout == "C" and value.mutable and value.aligned and as_dtype(value.dtype) == dtype
        return _converter("same" if same else "line" if value.ndim == 1 else "array", dtype)
    return _converter("tuple" if isinstance(value, types.BaseTuple) else "list" if isinstance(value, types.Sequence) else "number", dtype)


@intrinsic
def flat(typing, array):  # type: ignore[no-untyped-def]
    """Return a contiguous array as one of one axis; reshape takes longer to compile."""
    kind = array.copy(ndim=1)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        given, view = context.make_array(array)(context, builder, arguments[0]), context.make_array(kind)(context, builder)
        populate_array(view, given.data, [given.nitems], [given.itemsize], given.itemsize, given.meminfo, given.parent)
        return impl_ret_borrowed(context, builder, kind, view._getvalue())

    return kind(array), generate


@intrinsic
def as_is(typing, value):  # type: ignore[no-untyped-def]
    """Return an argument; a function would have to be compiled."""
    return value(value), lambda context, builder, signature, arguments: impl_ret_borrowed(context, builder, value, arguments[0])


@functools.cache
def _converter(kind: str, dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    if kind == "same":
        return as_is
    if kind == "number":

        def convert(x):  # type: ignore[no-untyped-def]
            y = np.empty(1, dtype)
            y[0] = x
            return y

    elif kind == "tuple":

        def convert(x):  # type: ignore[no-untyped-def]
            values, y = np.array(x), np.empty(len(x), dtype)
            for i in range(len(x)):
                y[i] = values[i]
            return y

    elif kind == "array":

        def convert(x):  # type: ignore[no-untyped-def]
            y = np.empty(x.shape, dtype)
            line, i = flat(y), 0
            for value in x.flat:
                line[i] = value
                i += 1
            return y

    else:

        def convert(x):  # type: ignore[no-untyped-def]
            y = np.empty(len(x), dtype)
            for i in range(len(x)):
                y[i] = x[i]
            return y

    function: Callable[[Any], Any] = register_jitable(named_apart(convert))
    return function


@helper
def in_lines(shape, axis):  # type: ignore[no-untyped-def]
    """Return an array's shape as one of two axes, of which the second is the axis, or of three if there are any behind it."""
    axes = len(shape)
    if axis < -axes or axis >= axes:
        raise ValueError("axis is out of bounds")
    if axis < 0:
        axis += axes
    rows, inner = 1, 1
    for k in range(axes):
        if k < axis:
            rows *= shape[k]
        elif k > axis:
            inner *= shape[k]
    result = np.empty(2 if inner == 1 else 3, np.int64)
    result[0], result[1] = rows, shape[axis]
    if inner != 1:
        result[2] = inner
    return result
