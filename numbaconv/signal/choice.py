"""Which method a convolution takes, estimated or measured; and the lags of a correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numbaconv import correlation, tuning
from numbaconv import plan as planning
from numbaconv.arrays import COMPUTE, Array
from numbaconv.correlation import Ints
from numbaconv.signal._arrange import Arrangement, arrange
from numbaconv.signal._calls import Call, available, compute, prepare, remember_fastest
from numbaconv.signal.convolution import by_scipy

MEASURED_SECONDS, MEASURED_CALLS = 0.1, 50  # `choose_conv_method` measures each method for so long, or so often


def choose_conv_method(in1: Any, in2: Any, mode: Any = "full", measure: Any = False) -> Any:
    """Say which method is faster for `convolve` and `correlate`.

    Parameters
    ----------
    in1, in2, mode
        As for `convolve`.
    measure : bool
        Whether to time both, instead of estimating. What was found is kept, in this process, for method "auto" with the same shapes,
        dtype and mode.

    Returns
    -------
    method : {"direct", "fft"}
        Always "direct" for integers, which are never transformed.
    times : dict of float
        With ``measure``: the seconds of a call by each method, the median of at least 3 and at most 50, for about 0.1 s.

    Raises
    ------
    TypeError, ValueError, IndexError
        As scipy.signal.choose_conv_method does.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> signal.choose_conv_method(np.ones(1000, int), np.ones(500, int))
    'direct'
    """
    call = prepare("convolve", in1, in2, mode)
    if call is None:
        return by_scipy("choose_conv_method", None, in1, in2, mode, measure)
    exact = call.dtype.kind in "iu"
    if not measure:
        return "fft" if not exact and _planned(call) == "fft" else "direct"
    times = {method: _seconds(call, method) for method in ("fft", "direct")}
    chosen = "fft" if not exact and times["fft"] < times["direct"] else "direct"
    remember_fastest(call, mode, chosen)
    return chosen, times


def _planned(call: Call) -> str:
    """Return the algorithm of a call; of more than three axes the last three are one problem."""
    x, h, axes = _last_three(call.arranged)
    return correlation.plan("fprop", x, h, axes, COMPUTE[call.dtype], call.method).name


def _last_three(arranged: Arrangement) -> tuple[Ints, Ints, correlation.Axes]:
    x, h, axes = arranged.x.shape, arranged.h.shape, arranged.axes
    while len(x) > 4:
        x, h, axes = (x[0], *x[2:]), (h[0], *h[2:]), axes.behind_first()
    return x, h, axes


def _seconds(call: Call, method: str) -> float:
    timed = call._replace(method=available(method, call.dtype))
    return tuning.measured(lambda: compute(timed), MEASURED_SECONDS, MEASURED_CALLS)


def correlation_lags(in1_len: int, in2_len: int, mode: str = "full") -> Array:
    """Return the lag of each element of a `correlate` of one axis.

    Parameters
    ----------
    in1_len, in2_len : int
        Sizes of the inputs.
    mode : {"full", "valid", "same"}
        As for `correlate`.

    Returns
    -------
    ndarray of int
        As long as the correlation.

    Raises
    ------
    ValueError
        If mode is none of the three.

    Examples
    --------
    >>> from numbaconv import signal
    >>> signal.correlation_lags(4, 3)
    array([-2, -1,  0,  1,  2,  3])
    """
    lags: Array = by_scipy("correlation_lags", None, in1_len, in2_len, mode)
    return lags


def explain(
    in1_shape: Sequence[int],
    in2_shape: Sequence[int],
    mode: str = "full",
    *,
    dtype: Any = "float32",
    method: str = "auto",
    measure: bool = False,
) -> planning.Explanation:
    """Say which algorithm would compute a `convolve` and why: every algorithm's estimated cost, or why it cannot.

    Of values it knows nothing: a 2-D filter that is an outer product may be applied as its two factors instead.

    Parameters
    ----------
    in1_shape, in2_shape : sequence of int
        Shapes of the inputs, of at least one axis; of more than three axes the last three are one of many problems.
    mode, method
        As for `convolve`.
    dtype : dtype
        Of the result: integers, float16/32/64 or complex64/128.
    measure : bool
        Whether to run every algorithm too, on random numbers, and say how long a call takes in the median.

    Returns
    -------
    str
        A table; it prints as such at the prompt.

    Raises
    ------
    TypeError, ValueError
        If an option is none of these, or the shapes do not go together.

    Examples
    --------
    >>> from numbaconv import signal
    >>> print(signal.explain((100_000,), (31,)).splitlines()[0])
    convolve (100000,) with (31,), full, float32 on cpu
    """
    shape1, shape2 = tuple(map(int, in1_shape)), tuple(map(int, in2_shape))
    kept = np.dtype(dtype)
    if kept not in COMPUTE:
        raise TypeError(f"dtype must be an integer, float16/32/64 or complex64/128, got {kept}")
    arranged = arrange("convolve", shape1, shape2, mode) if shape1 else None
    if arranged is None:
        raise ValueError(f"shapes must have as many axes, none empty, and suit the mode 'full', 'valid' or 'same', got {shape1}, {shape2}, {mode!r}")
    x, h, axes = _last_three(arranged)
    title = f"convolve {shape1} with {shape2}, {mode}"
    return correlation.explain(x, h, axes, COMPUTE[kept], title, available(method, kept), measure)
