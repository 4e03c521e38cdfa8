"""The usual calls in nopython code, which `python -m numbaconv warmup` compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import scipy.ndimage
import scipy.signal

from numbaconv import functional


def calls() -> dict[str, Callable[[Any, Any], Any]]:
    """Return functions of a signal of 2,000 samples and a filter of 300."""
    calls: dict[str, Callable[[Any, Any], Any]] = {
        "scipy.signal.convolve": lambda x, h: scipy.signal.convolve(x, h),
        "scipy.signal.convolve, of images": lambda x, h: scipy.signal.convolve(x.reshape(40, 50), h.reshape(15, 20)),
        "scipy.signal.correlate": lambda x, h: scipy.signal.correlate(x, h),
        "scipy.signal.fftconvolve": lambda x, h: scipy.signal.fftconvolve(x, h),
        "scipy.signal.convolve2d": lambda x, h: scipy.signal.convolve2d(x.reshape(40, 50), h.reshape(15, 20)),
        "scipy.signal.lfilter": lambda x, h: scipy.signal.lfilter(h[:3], h[:3], x),
        "scipy.signal.sosfilt": lambda x, h: scipy.signal.sosfilt(h[:6].reshape(1, 6), x),
        "scipy.signal.filtfilt": lambda x, h: scipy.signal.filtfilt(h[:3], h[:1], x),
        "scipy.signal.resample_poly": lambda x, h: scipy.signal.resample_poly(x, 160, 147),
        "scipy.signal.savgol_filter": lambda x, h: scipy.signal.savgol_filter(x, 11, 3),
        "scipy.ndimage.convolve": lambda x, h: scipy.ndimage.convolve(x.reshape(40, 50), h.reshape(15, 20)),
        "scipy.ndimage.gaussian_filter": lambda x, h: scipy.ndimage.gaussian_filter(x.reshape(40, 50), 1.0),
        "conv1d": lambda x, h: functional.conv1d(x.reshape(1, 1, 2000), h.reshape(1, 1, 300)),
        "conv2d": lambda x, h: functional.conv2d(x.reshape(1, 1, 40, 50), h.reshape(1, 1, 15, 20)),
        "conv2d_grad_input": lambda x, h: functional.conv2d_grad_input(x.reshape(1, 1, 40, 50), h.reshape(1, 1, 15, 20), (1, 1, 54, 69)),
        "conv2d_grad_weight": lambda x, h: functional.conv2d_grad_weight(x.reshape(1, 1, 40, 50), h.reshape(1, 1, 15, 20), (1, 1, 26, 31)),
    }
    return {f"{name} in nopython code": numba.njit(call) for name, call in calls.items()}
