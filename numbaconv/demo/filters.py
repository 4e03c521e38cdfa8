"""A photograph and a heartbeat through hand-made filters, each result compared with SciPy's on the spot."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import numbaconv as nc

Array = np.ndarray[Any, Any]
BOUND = 8  # in units of eps · Σ|x||w|: what the documentation of conv1d … conv3d promises
ROUNDS = 15
BAND = (0.01, 0.12)  # cycles per sample: PyWavelets does not state the recording's sampling rate
TAPS = 151

IMAGE_FILTERS: dict[str, list[Any]] = {
    "Sobel x and y": [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]],
    "Laplacian": [[[0, 1, 0], [1, -4, 1], [0, 1, 0]]],
    "Sharpen": [[[0, -1, 0], [-1, 5, -1], [0, -1, 0]]],
}


@dataclass(frozen=True)
class Check:
    """How far numbaconv's float32 result is from SciPy's float64 one, and what both took."""

    name: str
    error: float
    bound: float
    ratio: float
    seconds: float
    scipy_seconds: float
    scipy_name: str


def gaussian(size: int = 9, sigma: float = 2.0) -> Array:
    """Return a Gaussian filter of ``size`` × ``size`` taps that sum to 1."""
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    line /= line.sum()
    return np.outer(line, line)


def median_times(calls: list[Callable[[], Any]]) -> list[float]:
    """Return each call's median seconds over rounds in which the calls alternate."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def each(function: Callable[..., Array], x: Array, filters: Array, mode: str) -> Callable[[], list[Array]]:
    """Return a call that filters ``x`` by each of ``filters``."""
    return lambda: [function(x, taps, mode=mode) for taps in filters]


def compare(name: str, ours: Callable[[], Array], exact: Array, scale: Array, theirs: Mapping[str, Callable[[], Any]]) -> Check:
    """Check a result against SciPy's and time both; SciPy is represented by the fastest of its functions.

    Parameters
    ----------
    name : str
        What to call the filter.
    ours : callable
        Gives numbaconv's result.
    exact, scale : ndarray
        SciPy's result in float64, and the same sum over |x||w|, which scales the error bound of each output.
    theirs : dict of callable
        SciPy's ways to do the same, on the same float32 arrays.

    Raises
    ------
    RuntimeError
        If an output is farther from SciPy's than the bound.
    """
    error = np.abs(ours().astype(np.float64) - exact)
    bound = BOUND * np.finfo(np.float32).eps * scale
    if (error > bound).any() or not np.isfinite(error).all():
        raise RuntimeError(f"{name}: the largest error against SciPy is {error.max():.3g}, beyond the bound of {bound.max():.3g}")
    seconds, *others = median_times([ours, *theirs.values()])
    fastest = int(np.argmin(others))
    worst = float(np.max(error[bound > 0] / bound[bound > 0]) * BOUND)
    return Check(name, float(error.max()), float(bound.max()), worst, seconds, others[fastest], list(theirs)[fastest])


def filter_photograph() -> tuple[Array, dict[str, Array], list[Check]]:
    """Filter the 512 × 512 photograph; return it, the results (K, 512, 512) by name and the checks."""
    import pywt
    from scipy import ndimage, signal

    photo = pywt.data.camera().astype(np.float32) / 255
    results, checks = {}, []
    for name, taps in {**IMAGE_FILTERS, "Gaussian 9 × 9": [gaussian()]}.items():
        w = np.array(taps, np.float32)[:, None]
        edge = w.shape[-1] // 2
        x = np.pad(photo, edge, mode="edge")  # so that the border is no edge of the picture

        def ours(x: Array = x, w: Array = w) -> Array:
            return nc.conv2d(x[None], w, precision="highest")

        theirs = {
            "scipy.signal.correlate2d": each(signal.correlate2d, x, w[:, 0], "valid"),
            "scipy.signal.correlate": each(signal.correlate, x, w[:, 0], "valid"),
            "scipy.ndimage.correlate": each(ndimage.correlate, x, w[:, 0], "nearest"),
        }
        x64, w64 = x.astype(np.float64), w[:, 0].astype(np.float64)
        exact = np.array([signal.correlate2d(x64, taps, mode="valid") for taps in w64])
        scale = np.array([signal.correlate2d(np.abs(x64), np.abs(taps), mode="valid") for taps in w64])
        checks.append(compare(name, ours, exact, scale, theirs))
        results[name] = ours()
    return photo, results, checks


def filter_heartbeat() -> tuple[Array, Array, Array, Check]:
    """Band-pass the recording; return it, the filter, the result and the check."""
    import pywt
    from scipy import signal

    beats = pywt.data.ecg().astype(np.float32)
    taps = signal.firwin(TAPS, BAND, pass_zero=False, fs=1.0).astype(np.float32)
    x = np.pad(beats, TAPS // 2, mode="edge")
    w = taps[::-1].copy()[None, None]  # a filter is a convolution: the taps run backwards over a layer's cross-correlation

    def ours() -> Array:
        return nc.conv1d(x[None], w, precision="highest")[0]

    theirs = {
        "scipy.signal.lfilter": lambda: signal.lfilter(taps, 1.0, x)[TAPS - 1 :],
        "scipy.signal.convolve": lambda: signal.convolve(x, taps, mode="valid"),
        "scipy.signal.convolve(direct)": lambda: signal.convolve(x, taps, mode="valid", method="direct"),
    }
    x64, taps64 = x.astype(np.float64), taps.astype(np.float64)
    exact = signal.lfilter(taps64, 1.0, x64)[TAPS - 1 :]
    scale = signal.lfilter(np.abs(taps64), 1.0, np.abs(x64))[TAPS - 1 :]
    return beats, taps, ours(), compare(f"Band-pass FIR, {TAPS} taps", ours, exact, scale, theirs)


def table(checks: list[Check]) -> str:
    """Return the checks as a table."""
    lines = [f"  {'filter':<24} {'max error':>10} {'its bound':>10} {'of Σ|x||w|':>11} {'numbaconv':>11} {'SciPy':>10}  SciPy's fastest way"]
    for c in checks:
        errors = f"{c.error:>10.2e} {c.bound:>10.2e} {c.ratio:>7.2f} eps"
        lines.append(f"  {c.name:<24} {errors} {c.seconds * 1e3:>8.3f} ms {c.scipy_seconds * 1e3:>7.3f} ms  {c.scipy_name}")
    return "\n".join(lines)
