"""Fit the coefficients of the cost models on this machine: ``python -m benchmarks.calibrate``.

Every algorithm counts its ``work`` and multiplies by its ``SECONDS``. This script times each on many small layers, one thread,
medians of random inputs, and prints the SECONDS that fit best (least squares of relative errors, none negative), how far
the fit is off, and how often the cheaper estimate is the faster algorithm.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from scipy.optimize import nnls

import numbaconv as nc
from numbaconv.plan import room
from numbaconv.problem import OPS, ConvProblem, Op, Options, Unsupported

DTYPES = ("float32", "float64")
# x, w and options; each makes another part of the work dominate.
LAYERS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 5, 5), (1, 1, 3, 3), {}),
    ((1, 1, 256, 256), (1, 1, 3, 3), {}),
    ((1, 1, 256, 256), (1, 1, 9, 9), {}),
    ((1, 3, 128, 128), (8, 3, 3, 3), {"padding": 1}),
    ((1, 3, 128, 128), (32, 3, 7, 7), {"padding": 3, "stride": 2}),
    ((2, 4, 40, 40), (4, 4, 3, 3), {}),
    ((1, 8, 64, 64), (8, 8, 3, 3), {}),
    ((1, 16, 64, 64), (1, 16, 3, 3), {}),
    ((1, 16, 64, 64), (30, 16, 1, 1), {}),
    ((16, 16, 8, 8), (32, 16, 3, 3), {"padding": 1}),
    ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    ((1, 32, 56, 56), (64, 32, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 128, 56, 56), (64, 128, 1, 1), {}),
    ((2, 64, 14, 14), (128, 64, 3, 3), {"padding": 1}),
    ((1, 256, 7, 7), (256, 256, 3, 3), {"padding": 1}),
    ((4, 32, 30, 30), (32, 32, 3, 3), {"padding": 1}),
    ((1, 128, 28, 28), (128, 128, 3, 3), {"padding": 1}),
    ((4, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    ((1, 512, 7, 7), (512, 512, 1, 1), {}),
    ((1, 256, 28, 28), (512, 256, 1, 1), {"stride": 2}),
    ((1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    ((4, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    ((4, 64, 56, 56), (128, 64, 1, 1), {}),
    ((1, 64, 28, 28), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ((1, 64, 28, 28), (64, 4, 3, 3), {"padding": 1, "groups": 16}),
    ((1, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ((1, 96, 56, 56), (96, 1, 3, 3), {"padding": 1, "groups": 96, "stride": 2}),
    ((1, 256, 7, 7), (256, 1, 3, 3), {"padding": 1, "groups": 256}),
    ((4, 64, 14, 14), (64, 1, 7, 7), {"padding": 3, "groups": 64}),
    ((1, 1, 512, 512), (1, 1, 5, 5), {"padding": 2}),
    ((1, 1, 100_000), (1, 1, 31), {}),
    ((1, 1, 300_000), (1, 1, 5), {}),
    ((1, 32, 4000), (64, 32, 2), {"dilation": 16}),
    ((1, 64, 2000), (64, 64, 3), {"padding": 1}),
    ((1, 8, 8, 28, 28), (16, 8, 3, 3, 3), {"padding": 1}),
]


def seconds(function: Callable[[], Any], budget: float = 0.15) -> float:
    """Return the median time of a call after a warm-up."""
    function()
    times: list[float] = []
    while sum(times) < budget and len(times) < 200 or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def problems() -> Iterator[tuple[ConvProblem, Op, np.dtype[Any]]]:
    """Yield every layer in both layouts, for each operation and dtype."""
    for x, w, options in LAYERS:
        for channels_last in (False, True):
            shape = (x[0], *x[2:], x[1]) if channels_last else x
            p = ConvProblem.from_shapes(shape, w, rank=len(x) - 2, channels_last=channels_last, **options)
            yield from ((p, op, np.dtype(dtype)) for op in OPS for dtype in DTYPES)


def timed(algorithm: ModuleType, problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Return the median seconds of one algorithm on one operation."""
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(problem.shape(t)).astype(dtype) for t in ("x", "w", "y"))
    a, b, out = {"fprop": (x, w, y), "dgrad": (y, w, x), "wgrad": (y, x, w)}[op]
    out = np.empty_like(out)
    return seconds(lambda: algorithm.run(problem, op, a, b, out, Options()))


def main() -> None:
    """Print SECONDS of every algorithm of the CPU room."""
    nc.set_num_threads(1)
    cases = list(problems())
    measured: dict[str, dict[int, float]] = {}
    fitted: dict[str, dict[int, float]] = {}
    for name, algorithm in room("cpu").items():
        works: dict[int, dict[str, float]] = {}
        for i, case in enumerate(cases):
            try:
                works[i] = algorithm.work(*case)
            except Unsupported:
                continue
        measured[name] = {i: timed(algorithm, *cases[i]) for i in works}
        columns = list(algorithm.SECONDS)
        matrix = np.array([[works[i].get(c, 0.0) / measured[name][i] for c in columns] for i in works])
        scale = np.linalg.norm(matrix, axis=0)
        coefficients = nnls(matrix / scale, np.ones(len(works)))[0] / scale
        fitted[name] = dict(zip(works, matrix @ coefficients * np.array(list(measured[name].values())), strict=True))
        error = np.abs(np.log2(matrix @ coefficients))
        print(f"{name}: " + ", ".join(f'"{c}": {v:.2g}' for c, v in zip(columns, coefficients, strict=True)))
        print(f"  off by a factor of {2 ** np.median(error):.2f} (median), {2 ** np.quantile(error, 0.9):.2f} (9 in 10)")
    both = [i for i in range(len(cases)) if sum(i in m for m in measured.values()) > 1]
    losses = []
    for i in both:
        chosen = min((n for n in fitted if i in fitted[n]), key=lambda n: fitted[n][i])
        losses.append(measured[chosen][i] / min(m[i] for m in measured.values() if i in m))
    print(f"chosen within 10 % of the best: {np.mean(np.array(losses) <= 1.1):.0%} of {len(both)} cases; worst {max(losses):.2f} ×")


if __name__ == "__main__":
    main()
