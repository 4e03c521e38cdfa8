"""lfilter, sosfilt, filtfilt and sosfiltfilt in nopython code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.signal
from numba import types
from numba.extending import register_jitable
from numba.np.numpy_support import as_dtype
from numba.np.unsafe.ndarray import to_fixed_tuple

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import in_lines, taken
from numbaconv.nopython._compile import family, kernel, overloads
from numbaconv.nopython._direct import H, X, Y, convolve_directly
from numbaconv.nopython._gust import filtering_by_gust
from numbaconv.nopython._kinds import choice, dtype_of, integers, is_none, known, refuse
from numbaconv.nopython._recursive import PADDINGS, filter_both_ways, filter_lines, filter_sections, normalised

PAD, GUST = 0, 1


def coefficients(argument: str, value: Any) -> np.dtype[Any]:
    """Return the dtype of a filter's coefficients, which may be one number."""
    return as_dtype(types.unliteral(value)) if isinstance(value, types.Number) else dtype_of(argument, value, 1)


def floating(names: str, *dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to which others promote, which has to be one of floats."""
    dtype = np.result_type(*dtypes)
    if dtype.kind not in "fc":
        raise refuse(names, dtype, "of a floating dtype, one at least,")
    return dtype


@kernel
def spread_state(zi, zi_shape, expected, z):  # type: ignore[no-untyped-def]
    """Copy a state, repeated on axes where it has one element."""
    axes = len(expected)
    for axis in range(axes):
        if zi_shape[axis] != expected[axis] and zi_shape[axis] != 1:
            raise ValueError("Unexpected shape for parameter zi")
    for k in range(z.size):
        rest, at, scale = k, 0, 1
        for axis in range(axes - 1, -1, -1):
            i = rest % expected[axis]
            at += (i if zi_shape[axis] == expected[axis] else 0) * scale
            scale, rest = scale * zi_shape[axis], rest // expected[axis]
        z[k] = zi[at]


@kernel
def filter_once(b, a, x, rows, n, inner, z, y):  # type: ignore[no-untyped-def]
    """Filter lines: by the sum itself if there is nothing recursive in it."""
    order = max(b.size, a.size) - 1
    if a.size > 1 or b.size < 8:
        filter_lines(b, a, x, rows, n, inner, z, y)
        return
    taps = normalised(b, a, order)[: order + 1]
    sizes = np.zeros((4, 2 if inner == 1 else 3), np.int64)
    sizes[X, 0], sizes[H, 0], sizes[Y, 0] = rows, 1, rows
    sizes[X, 1], sizes[H, 1], sizes[Y, 1] = n, order + 1, n + order
    if inner != 1:
        sizes[X, 2], sizes[H, 2], sizes[Y, 2] = inner, 1, inner
    whole = np.empty(rows * (n + order) * inner, x.dtype)
    convolve_directly(x, taps, whole, sizes)
    for row in range(rows):
        start = row * (n + order) * inner
        for k in range(order * inner):
            whole[start + k] += z[row * order * inner + k]
        for k in range(n * inner):
            y[row * n * inner + k] = whole[start + k]
        for k in range(order * inner):
            z[row * order * inner + k] = whole[start + n * inner + k]


@family
def filtering(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (b, a, x, axis) -> y."""

    def run(b, a, x, axis):  # type: ignore[no-untyped-def]
        shape = in_lines(x.shape, axis)
        rows, n, inner = shape[0], shape[1], shape[2] if len(shape) == 3 else 1
        y, z = np.empty_like(x), np.zeros(rows * (max(b.size, a.size, 1) - 1) * inner, dtype)
        filter_once(b, a, x.reshape(-1), rows, n, inner, z, y.reshape(-1))
        return y

    return run


@family
def filtering_on(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (b, a, x, axis, zi) -> y and the state after it."""

    def run(b, a, x, axis, zi):  # type: ignore[no-untyped-def]
        shape = in_lines(x.shape, axis)
        rows, n, inner = shape[0], shape[1], shape[2] if len(shape) == 3 else 1
        expected, given = np.empty(axes, np.int64), np.empty(axes, np.int64)
        for k in range(axes):
            expected[k], given[k] = x.shape[k], zi.shape[k]
        expected[axis] = max(b.size, a.size, 1) - 1
        y, z = np.empty_like(x), np.empty(to_fixed_tuple(expected, axes), dtype)
        spread_state(zi.reshape(-1), given, expected, z.reshape(-1))
        filter_once(b, a, x.reshape(-1), rows, n, inner, z.reshape(-1), y.reshape(-1))
        return y, z

    return run


@overloads(scipy.signal.lfilter)
def lfilter(b, a, x, axis=-1, zi=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.lfilter."""
    integers(axis=axis)
    dtypes = [coefficients("b", b), coefficients("a", a), dtype_of("x", x)]
    axes = getattr(x, "ndim", 1)
    if is_none(zi):
        dtype = floating("b, a and x", *dtypes)
        top, bottom, signal, run = taken(b, dtype), taken(a, dtype), taken(x, dtype), filtering(dtype, axes)

        def implementation(b, a, x, axis=-1, zi=None):  # type: ignore[no-untyped-def]
            return run(top(b), bottom(a), signal(x), axis)

        return implementation
    dtype = floating("b, a, x and zi", *dtypes, dtype_of("zi", zi, axes))
    top, bottom, signal, state, run_on = taken(b, dtype), taken(a, dtype), taken(x, dtype), taken(zi, dtype), filtering_on(dtype, axes)

    def continued(b, a, x, axis=-1, zi=None):  # type: ignore[no-untyped-def]
        return run_on(top(b), bottom(a), signal(x), axis, state(zi))

    return continued


@kernel
def check_sections(sos, rows, columns):  # type: ignore[no-untyped-def]
    """Refuse what are no sections."""
    if columns != 6:
        raise ValueError("sos array must be shape (n_sections, 6)")
    for s in range(rows):
        if sos[6 * s + 3] != 1:
            raise ValueError("sos[:, 3] should be all ones")


@family
def filtering_by_sections(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (sos, x, axis, z) -> y that overwrites the state z, which is flat."""

    def run(sos, x, axis, z):  # type: ignore[no-untyped-def]
        shape = in_lines(x.shape, axis)
        rows, n, inner = shape[0], shape[1], shape[2] if len(shape) == 3 else 1
        check_sections(sos.reshape(-1), sos.shape[0], sos.shape[1])
        sections = sos.shape[0]
        state = np.zeros(sections * rows * 2 * inner, dtype) if z.size == 0 else z
        y = np.empty_like(x)
        filter_sections(sos.reshape(-1), sections, x.reshape(-1), rows, n, inner, state, y.reshape(-1))
        return y

    return run


@overloads(scipy.signal.sosfilt)
def sosfilt(sos, x, axis=-1, zi=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.sosfilt."""
    integers(axis=axis)
    dtypes = [dtype_of("sos", sos, 2), dtype_of("x", x)]
    axes = getattr(x, "ndim", 1)
    if is_none(zi):
        dtype = floating("sos and x", *dtypes)
        sections, signal, run = taken(sos, dtype), taken(x, dtype), filtering_by_sections(dtype, axes)

        def implementation(sos, x, axis=-1, zi=None):  # type: ignore[no-untyped-def]
            return run(sections(sos), signal(x), axis, np.empty(0, dtype))

        return implementation
    dtype = floating("sos, x and zi", *dtypes, dtype_of("zi", zi, axes + 1))
    sections, signal, run = taken(sos, dtype), taken(x, dtype), filtering_by_sections(dtype, axes)
    copied = taken(types.Array(types.boolean, axes + 1, "A"), dtype)  # never the array itself, which the filter would overwrite

    def continued(sos, x, axis=-1, zi=None):  # type: ignore[no-untyped-def]
        if zi.shape[0] != sos.shape[0]:
            raise ValueError("Invalid zi shape: its first axis must be the sections of sos")
        for k in range(axes):
            if zi.shape[k + 1] != (2 if k == axis or k == axis + axes else x.shape[k]):
                raise ValueError("Invalid zi shape: it must be that of x with 2 on the axis, behind the sections of sos")
        z = copied(zi)
        return run(sections(sos), signal(x), axis, z.reshape(-1)), z

    return continued


def two_ways(argument: str, filters: list[np.dtype[Any]], x: Any, padtype: Any, padlen: Any) -> tuple[Any, ...]:
    """Return what `filtfilt` and `sosfiltfilt` have in common: dtype, the conversion of x, the padding and its length or −1."""
    steady = np.result_type(*filters)
    kind = dtype_of("x", x)
    dtype = np.result_type(steady if steady.kind in "fc" else np.float64, np.int64 if kind.kind == "b" else kind)
    return dtype, taken(x, dtype), choice("padtype", padtype, PADDINGS), optional_integer("padlen", padlen)


def optional_integer(argument: str, value: Any) -> Callable[[Any], int]:
    """Return a function for compiled code that gives an integer, −1 for None."""
    if is_none(value):

        def integer(value):  # type: ignore[no-untyped-def]
            return -1

    elif isinstance(value, types.Integer):

        def integer(value):  # type: ignore[no-untyped-def]
            if value < 0:
                raise ValueError("padlen and irlen must not be negative")
            return value

    else:
        raise refuse(argument, value, "None or an integer")
    function: Callable[[Any], int] = register_jitable(named_apart(integer))
    return function


@family
def filtering_both_ways(dtype: np.dtype[Any], axes: int) -> Callable[..., Any]:
    """Make a kernel (coefficients, orders, x, axis, padding, edge) -> y."""

    def run(filters, orders, x, axis, padding, edge):  # type: ignore[no-untyped-def]
        shape = in_lines(x.shape, axis)
        y = np.empty_like(x)
        reach = 0 if padding == 3 else edge
        filter_both_ways(filters, orders, x.reshape(-1), shape[0], shape[1], shape[2] if len(shape) == 3 else 1, reach, padding, y.reshape(-1))
        return y

    return run


@kernel
def one_section(b, a):  # type: ignore[no-untyped-def]
    """Return both, normalised and of one length, in one array."""
    return normalised(b, a, max(b.size, a.size) - 1)


@kernel
def zeros_among(sos, sections):  # type: ignore[no-untyped-def]
    """Return how many sections are of order 1, of numerators or of denominators, whichever are fewer."""
    top = bottom = 0
    for s in range(sections):
        top += sos[6 * s + 2] == 0
        bottom += sos[6 * s + 5] == 0
    return min(top, bottom)


@overloads(scipy.signal.filtfilt)
def filtfilt(b, a, x, axis=-1, padtype="odd", padlen=None, method="pad", irlen=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.filtfilt."""
    integers(axis=axis)
    kinds = [coefficients("b", b), coefficients("a", a)]
    dtype, signal, padding, length = two_ways("b", kinds, x, padtype, padlen)
    top, bottom, run, way = (
        taken(b, dtype),
        taken(a, dtype),
        filtering_both_ways(dtype, getattr(x, "ndim", 1)),
        choice("method", method, {"pad": PAD, "gust": GUST}),
    )

    def pad(b, a, x, axis, padtype, padlen):  # type: ignore[no-untyped-def]
        both, edge = one_section(top(b), bottom(a)), length(padlen)
        orders = np.empty(1, np.int64)
        orders[0] = both.size // 2 - 1
        if orders[0] == 0:
            raise ValueError("b or a must have at least 2 coefficients")
        return run(both, orders, signal(x), axis, padding(padtype), edge if edge >= 0 else 3 * (orders[0] + 1))

    padded = register_jitable(named_apart(pad))
    if known(method) == "pad":
        optional_integer("irlen", irlen)

        def implementation(b, a, x, axis=-1, padtype="odd", padlen=None, method="pad", irlen=None):  # type: ignore[no-untyped-def]
            return padded(b, a, x, axis, padtype, padlen)

        return implementation
    if np.result_type(*kinds).kind == "c":
        raise refuse("b and a", "complex ones", 'of real numbers for method "gust"')
    cut, gust = optional_integer("irlen", irlen), filtering_by_gust(dtype, getattr(x, "ndim", 1))
    above, below = (taken(value, np.dtype(np.float64)) for value in (b, a))

    def either(b, a, x, axis=-1, padtype="odd", padlen=None, method="pad", irlen=None):  # type: ignore[no-untyped-def]
        if way(method) == GUST:
            return gust(above(b), below(a), signal(x), axis, cut(irlen))
        return padded(b, a, x, axis, padtype, padlen)

    return either


@overloads(scipy.signal.sosfiltfilt)
def sosfiltfilt(sos, x, axis=-1, padtype="odd", padlen=None):  # type: ignore[no-untyped-def]
    """Compile scipy.signal.sosfiltfilt."""
    integers(axis=axis)
    dtype, signal, padding, length = two_ways("sos", [dtype_of("sos", sos, 2)], x, padtype, padlen)
    sections, run = taken(sos, dtype), filtering_both_ways(dtype, getattr(x, "ndim", 1))

    def implementation(sos, x, axis=-1, padtype="odd", padlen=None):  # type: ignore[no-untyped-def]
        filters, edge, count = sections(sos).reshape(-1), length(padlen), sos.shape[0]
        check_sections(filters, count, sos.shape[1])
        orders = np.empty(count, np.int64)
        orders[:] = 2
        reach = edge if edge >= 0 else 3 * (2 * count + 1 - zeros_among(filters, count))
        return run(filters, orders, signal(x), axis, padding(padtype), reach)

    return implementation
