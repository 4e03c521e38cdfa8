"""scipy.signal's convolutions in Numba kernels, with gradients: change the import and keep the code.

The functions listed here are this library's; every other name of scipy.signal (firwin, butter, windows, …) passes through to SciPy, which
is imported when such a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Where each name of ours lives; a module of this package each.
_HOMES = {
    **dict.fromkeys(("convolve", "correlate", "fftconvolve", "oaconvolve", "convolve2d", "correlate2d"), "convolution"),
    **dict.fromkeys(("choose_conv_method", "correlation_lags", "explain"), "choice"),
    **dict.fromkeys(("upfirdn", "lfilter", "resample_poly", "deconvolve"), "filters"),
    **dict.fromkeys(("sepfir2d", "savgol_filter"), "smoothing"),
    "StreamingConvolver": "streaming",
}
_MODULES = ("vjp",)

if TYPE_CHECKING:  # what the table above says, for editors and type checkers
    from numbaconv.signal import vjp as vjp
    from numbaconv.signal.choice import choose_conv_method as choose_conv_method
    from numbaconv.signal.choice import correlation_lags as correlation_lags
    from numbaconv.signal.choice import explain as explain
    from numbaconv.signal.convolution import convolve as convolve
    from numbaconv.signal.convolution import convolve2d as convolve2d
    from numbaconv.signal.convolution import correlate as correlate
    from numbaconv.signal.convolution import correlate2d as correlate2d
    from numbaconv.signal.convolution import fftconvolve as fftconvolve
    from numbaconv.signal.convolution import oaconvolve as oaconvolve
    from numbaconv.signal.filters import deconvolve as deconvolve
    from numbaconv.signal.filters import lfilter as lfilter
    from numbaconv.signal.filters import resample_poly as resample_poly
    from numbaconv.signal.filters import upfirdn as upfirdn
    from numbaconv.signal.smoothing import savgol_filter as savgol_filter
    from numbaconv.signal.smoothing import sepfir2d as sepfir2d
    from numbaconv.signal.streaming import StreamingConvolver as StreamingConvolver


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"numbaconv.signal.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"numbaconv.signal.{name}")
    elif name == "__all__":  # asked for by a star import
        value = __dir__()
    elif name.startswith("_") or not hasattr(scipy := importlib.import_module("scipy.signal"), name):
        raise AttributeError(f"module 'numbaconv.signal' has no attribute {name!r}")
    else:
        value = getattr(scipy, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_HOMES, *_MODULES, *importlib.import_module("scipy.signal").__all__})
