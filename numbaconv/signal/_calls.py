"""A call of `signal`, checked and ready to be computed; the functions and their gradients share it.

Valid calls with integers, float16/32/64 and complex64/128 are computed here. For everything else, objects, Decimal, long double, two
boolean or empty arrays, and what is not valid at all, there is no call: SciPy's function computes it or raises its own error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from numbaconv import boundary as extended
from numbaconv import correlation, memory, separable
from numbaconv.arrays import COMPUTE, Array, as_numbers, check_out, contiguous, empty
from numbaconv.correlation import METHODS, Ints
from numbaconv.signal._arrange import Arrangement, Kind, arrange

KINDS: dict[str, Kind] = {"correlate": "correlate", "correlate2d": "correlate2d"}  # all others convolve
BOUNDARIES = {"fill": "constant", "pad": "constant", "wrap": "wrap", "circular": "wrap", "symm": "reflect", "symmetric": "reflect"}
MOST_KNOWN = 4096
MANY_OUTPUTS = 1 << 15  # of a filter that is looked at whether it is separable, which takes some 20 µs
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
fastest: dict[tuple[Ints, Ints, str, np.dtype[Any]], str] = {}  # what choose_conv_method measured


class Call(NamedTuple):
    """A valid call, ready to be computed; ``boundary``, ``value`` and ``method`` are those of `numbaconv.boundary`."""

    arranged: Arrangement
    in1: Array
    in2: Array
    dtype: np.dtype[Any]
    method: str
    boundary: str = "zeros"
    value: complex = 0


def prepare(name: str, in1: Any, in2: Any, mode: Any, method: Any = "auto") -> Call | None:
    """Prepare `convolve` or `correlate`; None means that SciPy must answer, as in the two functions below."""
    if type(in1) is not np.ndarray or type(in2) is not np.ndarray:
        in1, in2 = as_numbers(in1=in1, in2=in2)
    dtype = _promoted(in1.dtype, in2.dtype)
    if dtype is None or not isinstance(mode, str) or method not in METHODS:
        return None
    arranged = arrange(KINDS.get(name, "convolve"), in1.shape, in2.shape, mode)
    if arranged is None:
        return None
    if method == "auto":
        method = fastest.get((in1.shape, in2.shape, mode, dtype), "auto") if fastest else "auto"
    return Call(arranged, in1, in2, dtype, available(method, dtype))


def prepare_fft(in1: Any, in2: Any, mode: Any, axes: Any) -> Call | None:
    """Prepare `fftconvolve` or `oaconvolve`: they broadcast, and integers become floats."""
    in1, in2 = as_numbers(in1=in1, in2=in2)
    axes = _axes(axes, in1.ndim)
    if axes is None or not isinstance(mode, str):
        return None
    arranged = arrange("convolve", in1.shape, in2.shape, mode, axes)
    if arranged is None:
        return None
    dtypes = [in1.dtype, in2.dtype] if arranged.multiplies else [_floating(in1.dtype), _floating(in2.dtype)]
    dtype = _promoted(*dtypes)
    return dtype and Call(arranged, in1, in2, dtype, available("fft", dtype))


def prepare_2d(name: str, in1: Any, in2: Any, mode: Any, boundary: Any, fillvalue: Any) -> Call | None:
    """Prepare `convolve2d` or `correlate2d`."""
    in1, in2 = as_numbers(in1=in1, in2=in2)
    dtype = _promoted(in1.dtype, in2.dtype)
    if in1.ndim != 2 or dtype is None or not isinstance(mode, str) or not isinstance(boundary, str) or boundary not in BOUNDARIES:
        return None
    value = _fill(fillvalue, dtype)
    if value is None:
        return None
    beyond = BOUNDARIES[boundary]
    if 0 in in1.shape and beyond != "constant":  # SciPy would divide by 0, and end the process
        raise ValueError(f"in1 is empty, of shape {in1.shape}: nothing can be shown beyond its ends with boundary {boundary!r}")
    if mode == "valid" or (beyond == "constant" and value == 0):
        beyond = "zeros"
    arranged = arrange(KINDS.get(name, "convolve"), in1.shape, in2.shape, mode, None, beyond == "zeros")
    return arranged and Call(arranged, in1, in2, dtype, "auto", beyond, value)


class Known(NamedTuple):
    """A call without batch, boundary and conjugates, whose shapes were seen before: no more than its arrays is looked at."""

    swapped: bool  # in2 is x
    flip: tuple[slice, ...] | None  # of h
    ready: correlation.Ready
    shape: Ints
    sweep: tuple[Ints, correlation.Axes] | None  # shape of x as a stack of images, if it may be worth looking whether h is separable


_known: dict[Any, Known | None] = {}


def known(name: str, in1: Array, in2: Array, mode: Any, method: Any) -> Known | None:
    """Return what is known of a call of two arrays of one floating dtype; None if it must be prepared."""
    key = (name, in1.shape, in2.shape, in1.dtype.char, mode, method)
    try:
        return _known[key]
    except KeyError:
        pass
    except TypeError:  # a mode or a method that is no key is none at all
        return None
    if len(_known) >= MOST_KNOWN:
        _known.clear()
    found = _known[key] = _learn(prepare(name, in1, in2, mode, method))
    return found


def _learn(call: Call | None) -> Known | None:
    if call is None or call.arranged.order is not None or call.arranged.multiplies or call.in1.ndim > 3:
        return None
    x, h, axes = call.arranged.x, call.arranged.h, call.arranged.axes
    if any(part not in (None, slice(None)) for part in x.view):
        return None
    ready = correlation.ready("fprop", x.shape, h.shape, axes, call.dtype, call.method)
    if ready.size > memory.UNCHECKED_BYTES:
        return None
    flip = tuple(part for part in h.view if part is not None)
    sweep = (x.shape, axes) if _may_be_separable(x.shape, h.shape, call.dtype, axes, call.method) else None
    return Known(x.source == 1, None if all(part == slice(None) for part in flip) else flip, ready, call.arranged.shape, sweep)


def compute_known(call: Known, in1: Array, in2: Array, out: Array | None) -> Array | None:
    """Return the result of a call that is known; None if ``out`` is not what it should be, is not contiguous or may overlap an input."""
    x, h = (in2, in1) if call.swapped else (in1, in2)
    if call.flip is not None:
        h = h[call.flip].copy()
    elif not h.flags.carray:
        h = contiguous(h, h.dtype)
    if not x.flags.carray:
        x = contiguous(x, x.dtype)
    if out is None:
        out = empty(call.shape, x.dtype)
    elif out.shape != call.shape or out.dtype != x.dtype or not out.flags.carray or _may_overlap(out, in1, in2):
        return None
    if call.sweep is not None and _swept(x.reshape(call.sweep[0]), h, call.sweep[1], "zeros", 0, out[None]) is not None:
        return out
    call.ready.run(x, h, out)
    return out


def _may_overlap(out: Array, in1: Array, in2: Array) -> bool:
    return np.may_share_memory(out, in1) or np.may_share_memory(out, in2)


def _may_be_separable(x_shape: Ints, h_shape: Ints, dtype: np.dtype[Any], axes: correlation.Axes, method: str) -> bool:
    images = len(x_shape) == 3 and h_shape[0] == 1 and axes.stride == axes.up == (1, 1) and dtype in (FLOAT32, FLOAT64) and method == "auto"
    if not images or x_shape[0] * math.prod(axes.size) < MANY_OUTPUTS:
        return False
    return separable.SMALLEST <= min(h_shape[1:]) and max(h_shape[1:]) <= separable.MOST_TAPS


def _swept(x: Array, h: Array, axes: correlation.Axes, beyond: str, value: complex, out: Array | None) -> Array | None:
    """Return a stack of images correlated with a filter that is an outer product, one factor after the other; None if it is none."""
    pair = separable.factors(h, x.dtype) if type(x) is np.ndarray else None
    after = separable.outside(value.real, pair[0]) if pair else None
    if pair is None or after is None:
        return None
    (low_h, low_w), (p, q) = axes.low, axes.size
    return separable.correlate(x, *pair, (low_h, low_w), (beyond, beyond), (value.real, after), out, (p, q))


def remember_fastest(call: Call, mode: str, method: str) -> None:
    """Keep what was measured for method "auto" of the same shapes."""
    fastest[call.in1.shape, call.in2.shape, mode, call.dtype] = method
    _known.clear()


def compute(call: Call, out: Array | None = None) -> Any:
    """Return the result, which is a scalar for two scalars; ``out``, if given, is checked, filled and returned."""
    arranged = call.arranged
    if out is not None:
        check_result(out, arranged.shape, call.dtype, {"in1": call.in1, "in2": call.in2})
    place = out[None] if out is not None and arranged.order is None else None
    if arranged.multiplies:
        y = arranged.product(call.in1, call.in2, call.dtype)
    else:
        x, h = arranged.operands(call.in1, call.in2, call.dtype)
        y = None
        if _may_be_separable(x.shape, h.shape, x.dtype, arranged.axes, call.method):
            y = _swept(x, h[0], arranged.axes, call.boundary, call.value, place)
        if y is None:
            y = extended.correlate(x, h, arranged.axes, call.boundary, call.value, call.method, place)
        y = arranged.result(y)
    if out is None:
        return y
    if place is None:
        out[...] = y
    return out


def check_result(out: Any, shape: Ints, dtype: np.dtype[Any], inputs: dict[str, Array]) -> None:
    """Raise unless ``out`` can take a result: where the inputs are, of this shape and dtype, overlapping none of them."""
    if all(type(array) is np.ndarray for array in inputs.values()):
        check_out(out, shape, dtype, inputs)
    else:
        from numbaconv.cuda import calls

        calls.check_result(out, shape, dtype, inputs)


def _promoted(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype of a result, if it is one that is computed here."""
    if first is not second or first not in COMPUTE:
        try:
            first = np.result_type(first, second)
        except TypeError:
            return None
    return first if first in COMPUTE else None


def _floating(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what SciPy's transforms make of a dtype."""
    return FLOAT64 if dtype.kind in "biu" else FLOAT32 if dtype.char == "e" else dtype


def available(method: str, dtype: np.dtype[Any]) -> str:
    """Return how to ask for a method; integers are never transformed."""
    return "auto" if method == "fft" and dtype.kind in "iu" else method


def _axes(axes: Any, rank: int) -> Ints | None:
    """Return which axes, counted from the front, or None if they are not valid."""
    if axes is None or rank == 0:
        return tuple(range(rank))
    if isinstance(axes, (int, np.integer)):
        axes = (axes,)
    if not isinstance(axes, (Sequence, np.ndarray)) or not all(isinstance(a, (int, np.integer)) for a in axes):
        return None
    found = tuple(int(a) + rank if a < 0 else int(a) for a in axes)
    return found if found and len(set(found)) == len(found) and all(0 <= a < rank for a in found) else None


def _fill(fillvalue: Any, dtype: np.dtype[Any]) -> complex | None:
    """Return the value as an element of a dtype, or None if it cannot be one."""
    if type(fillvalue) is int and fillvalue == 0:
        return 0
    try:
        given = np.asarray(fillvalue)
    except ValueError:
        return None
    if given.size != 1 or given.dtype.kind not in "biufc":
        return None
    value = complex(given.reshape(-1)[0])  # as in SciPy: large integers are rounded
    if dtype.kind == "c":
        return value
    if given.dtype.kind == "c":
        return None
    if dtype.kind == "f":
        return value.real
    return int(value.real) if np.isfinite(value) and np.iinfo(dtype).min <= value.real <= np.iinfo(dtype).max else None
