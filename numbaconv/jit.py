"""The library's functions inside ``@njit``: importing this makes numbaconv's own callable there, as scipy.signal's are without an import.

What is registered, and when, is in `numbaconv._extension`, which is Numba's entry point; `numbaconv.nopython` has what is compiled.
"""

from __future__ import annotations

import importlib

from numbaconv._extension import WATCHED, register

__all__ = ["accelerate_numpy", "register"]

WATCHED.update(
    {
        **{f"numbaconv.signal.{name}": {} for name in ("convolution", "choice", "filters", "smoothing")},
        "numbaconv.ndimage": {},
        "numbaconv.functional": {"_layers": ""},
    }
)


def accelerate_numpy() -> None:
    """Put ``numpy.convolve`` and ``numpy.correlate`` in nopython code on this library's kernels, for functions that are compiled from now on.

    Every dtype of theirs is several times as fast. A function with ``cache=True`` that was compiled without it stays as it is in the cache.

    Examples
    --------
    >>> import numba
    >>> import numpy as np
    >>> import numbaconv.jit
    >>> numbaconv.jit.accelerate_numpy()
    >>> @numba.njit
    ... def smooth(x):
    ...     return np.convolve(x, np.ones(3), "valid")
    >>> smooth(np.arange(5.0))
    array([3., 6., 9.])
    """
    importlib.import_module("numbaconv.nopython._numpy")


register()
