"""The windows of `resample_poly` in nopython code, and its low-pass filter under each; names and formulas are those of scipy.signal.windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable

from numbaconv._jit import named_apart
from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import helper, kernel
from numbaconv.nopython._kinds import choice, dtype_of, known, refuse

(BOXCAR, TRIANG, BARTLETT, BARTHANN, BOHMAN, PARZEN, COSINE, LANCZOS, TUKEY, KAISER, GAUSSIAN, EXPONENTIAL, HANN, HAMMING, BLACKMAN,
 NUTTALL, BLACKMANHARRIS, FLATTOP) = range(18)  # fmt: skip
NAMES = {
    BOXCAR: "boxcar box ones rect rectangular", TRIANG: "triang triangle tri", BARTLETT: "bartlett bart brt", BARTHANN: "barthann brthan bth",
    BOHMAN: "bohman bman bmn", PARZEN: "parzen parz par", COSINE: "cosine halfcosine", LANCZOS: "lanczos sinc", TUKEY: "tukey tuk",
    EXPONENTIAL: "exponential poisson", HANN: "hann han", HAMMING: "hamming hamm ham", BLACKMAN: "blackman black blk",
    NUTTALL: "nuttall nutl nut", BLACKMANHARRIS: "blackmanharris blackharr bkh", FLATTOP: "flattop flat flt",
}  # fmt: skip
ALONE = {name: code for code, names in NAMES.items() for name in names.split()}
WITH_ONE = {
    "kaiser": KAISER, "ksr": KAISER, "gaussian": GAUSSIAN, "gauss": GAUSSIAN, "gss": GAUSSIAN, "general_hamming": HAMMING,
    "general hamming": HAMMING, "tukey": TUKEY, "tuk": TUKEY,
}  # fmt: skip
WITH_TWO = dict.fromkeys(("general_gaussian", "general gaussian", "general_gauss", "general gauss", "ggs"), GAUSSIAN)
COSINES = np.array([  # of the sums of cosines, from HANN on
    [0.5, 0.5, 0, 0, 0], [0.54, 0.46, 0, 0, 0], [0.42, 0.5, 0.08, 0, 0], [0.3635819, 0.4891775, 0.1365995, 0.0106411, 0],
    [0.35875, 0.48829, 0.14128, 0.01168, 0], [0.21557895, 0.41663158, 0.277263158, 0.083578947, 0.006947368],
])  # fmt: skip


@helper
def bessel(x):  # type: ignore[no-untyped-def]
    """Return the modified Bessel function I0, by its series."""
    term = total = 1.0
    k = 0
    while term > 1e-17 * total:
        k += 1
        term *= (x / (2 * k)) ** 2
        total += term
    return total


@helper
def weight(code, i, half, first, second):  # type: ignore[no-untyped-def]
    """Return a window's value i places from the middle, with ``half`` places on either side."""
    x, n = i / half, float(i)
    size = 2 * half + 1
    if code == BOXCAR:
        return 1.0
    if code == TRIANG:
        return 1 - n / (half + 1)
    if code == BARTLETT:
        return 1 - x
    if code == BARTHANN:
        return 0.62 - 0.24 * x + 0.38 * math.cos(math.pi * x)
    if code == BOHMAN:
        return (1 - x) * math.cos(math.pi * x) + math.sin(math.pi * x) / math.pi if i < half else 0.0
    if code == PARZEN:
        y = 2 * n / size
        return 1 - 6 * y**2 + 6 * y**3 if n <= (size - 1) / 4 else 2 * (1 - y) ** 3
    if code == COSINE:
        return math.cos(math.pi * n / size)
    if code == LANCZOS:
        return math.sin(math.pi * x) / (math.pi * x) if i else 1.0
    if code == TUKEY:
        if first <= 0:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (1 - (1 - x) / min(first, 1.0)))) if 1 - x < min(first, 1.0) else 1.0
    if code == KAISER:
        return bessel(first * math.sqrt(max(0.0, 1 - x * x))) / bessel(first)
    if code == GAUSSIAN:
        return math.exp(-0.5 * (n / second) ** (2 * first))
    if code == EXPONENTIAL:
        return math.exp(-n / first)
    total = 0.0
    for k in range(5):
        total += (-1) ** k * COSINES[code - HANN, k] * math.cos(k * math.pi * (1 - x))
    return total


@kernel
def low_pass(most, code, first, second):  # type: ignore[no-untyped-def]
    """Return 20·most + 1 taps that cut off at 1/most of the highest frequency: a sinc under a window, with a sum of 1."""
    half = 10 * most
    taps, total = np.empty(2 * half + 1), 0.0
    for i in range(half + 1):
        angle = math.pi * i / most
        value = math.sin(angle) / angle if i else 1.0
        if code == HAMMING and first >= 0:  # a general one
            value *= first + (1 - first) * math.cos(math.pi * i / half)
        else:
            value *= weight(code, i, half, first, second)
        taps[half + i] = taps[half - i] = value
    for i in range(taps.size):
        total += taps[i]
    for i in range(taps.size):
        taps[i] /= total
    return taps


def window_of(window: Any) -> tuple[np.dtype[Any] | None, Callable[[Any, int], Any]]:
    """Return the dtype of taps that are given, and a function (window, most) for compiled code that gives the taps."""
    if isinstance(window, (types.Array, types.List)):
        dtype = dtype_of("window", window, 1)
        given = taken(window, np.result_type(dtype, np.float32))

        def taps(window, most):  # type: ignore[no-untyped-def]
            return given(window)

        return dtype, register_jitable(named_apart(taps))
    found = window.value if isinstance(window, types.Omitted) else window
    if isinstance(found, tuple):  # the default
        beta = float(found[1])

        def taps(window, most):  # type: ignore[no-untyped-def]
            return low_pass(most, KAISER, beta, 0.0)

    elif isinstance(found, (int, float, types.Integer, types.Float)):

        def taps(window, most):  # type: ignore[no-untyped-def]
            return low_pass(most, KAISER, float(window), 0.0)

    elif isinstance(found, types.UnicodeType) or isinstance(known(found), str):
        code = choice("window", found, ALONE)

        def taps(window, most):  # type: ignore[no-untyped-def]
            name = code(window)
            return low_pass(most, name, -1.0 if name == HAMMING else 0.5 if name == TUKEY else 1.0, 1.0)

    else:
        taps = _with_parameters(window)
    return None, register_jitable(named_apart(taps))


def _with_parameters(window: Any) -> Callable[[Any, int], Any]:
    parts = tuple(window) if isinstance(window, types.BaseTuple) else ()
    real = [isinstance(part, (types.Integer, types.Float)) for part in parts]
    if len(parts) == 2 and real[1]:
        code = choice("window", parts[0], WITH_ONE)

        def taps(window, most):  # type: ignore[no-untyped-def]
            name = code(window[0])
            if name == GAUSSIAN:
                return low_pass(most, name, 1.0, float(window[1]))
            return low_pass(most, name, float(window[1]), 0.0)

    elif len(parts) == 3 and real[1] and real[2]:
        code = choice("window", parts[0], WITH_TWO)

        def taps(window, most):  # type: ignore[no-untyped-def]
            return low_pass(most, code(window[0]), float(window[1]), float(window[2]))

    elif len(parts) == 3 and isinstance(parts[1], types.NoneType) and real[2]:
        code = choice("window", parts[0], {name: EXPONENTIAL for name in NAMES[EXPONENTIAL].split()})

        def taps(window, most):  # type: ignore[no-untyped-def]
            return low_pass(most, code(window[0]), float(window[2]), 0.0)

    else:
        raise refuse("window", window, "taps, a number, the name of a window, or a tuple of a name and one or two numbers")
    return taps
