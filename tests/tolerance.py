"""How far a result may be from the exact sum: the numerics table of the design, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter

# Error / (eps · Σ|x||w|) for random-sign and for all-positive data; what is not listed sums directly and keeps to DIRECT.
DIRECT = (4.0, 8.0)
# Of fft the bound is eps · ‖x‖₂‖w‖₂, whatever the output (`allowed`); on data without outliers that is a few Σ|x||w|.
TABLE = {"winograd": (64.0, 64.0), "fft": (8.0, 8.0)}
WINOGRAD_TILE = 4
INEXACT = frozenset({"winograd", "fft"})  # these do not promise exact results for small integers in floats


def tolerance(dtype: Any, contraction_length: int, algorithm: str, *, positive: bool = False) -> float:
    """Return the largest allowed error / Σ|x||w|.

    Sums of n products also obey the bound that holds in any order of summation, n/2 eps, which is the sharper one for short
    sums; a complex product is two real ones in each part. float16 is rounded once, from float32.
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "iub":
        return 0.0
    if dtype == np.float16:
        return 0.5 * float(np.finfo(dtype).eps) + tolerance(np.float32, contraction_length, algorithm, positive=positive)
    promise = TABLE.get(algorithm, DIRECT)[positive]
    complex_ = dtype.kind == "c"
    if algorithm not in INEXACT:
        promise = min(promise, (contraction_length * (1 + complex_) + 1) / 2)
    return promise * (2**0.5 if complex_ else 1.0) * float(np.finfo(dtype).eps)


def allowed(
    magnitude: Any,
    dtype: Any,
    contraction_length: int,
    algorithm: str,
    *,
    positive: bool = False,
    activation: str | None = None,
    channels_last: bool = False,
    norms: float | None = None,
) -> Any:
    """Return the largest allowed absolute error per output, for Σ|x||w| (+ |bias|) in ``magnitude``.

    A tile of Winograd is computed as a whole, so that an output is as far off as the largest of its neighbours allows. Of fft
    every output may be off by eps times the product of both arrays' ``norms``.
    """
    dtype = np.dtype(dtype)
    if algorithm == "winograd":
        size = 2 * WINOGRAD_TILE - 1
        magnitude = maximum_filter(np.asarray(magnitude, np.float64), (1, 1, size, size, 1) if channels_last else (1, 1, 1, size, size))
    if algorithm == "fft":
        assert norms is not None
        magnitude = magnitude + norms / TABLE["fft"][0]
    bound = tolerance(dtype, contraction_length + 1, algorithm, positive=positive) * magnitude
    if dtype.kind in "fc":
        bound = bound + contraction_length * float(np.finfo(dtype).smallest_subnormal)
        if activation is not None:  # slopes are at most 1.13; evaluating it costs a few roundings of a value of this size
            bound = 1.13 * bound + 4 * float(np.finfo(dtype).eps) * (1 + magnitude)
    return bound


def norms(a: Any, b: Any) -> float:
    """Return the product of two arrays' Euclidean norms, which the errors of fft are relative to."""
    return float(np.linalg.norm(a.astype(np.result_type(a, np.float64)).ravel()) * np.linalg.norm(b.astype(np.result_type(b, np.float64)).ravel()))
