"""Measure the coefficients of the cost models on this machine: ``python benchmarks/calibrate.py``.

It prints what `numbaconv.cpu.direct` and `numbaconv.cpu.gemm` call RATE and …_SECONDS, one thread, medians of random inputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import numbaconv as nc
from numbaconv.cpu import _parallel, gemm
from numbaconv.problem import ConvProblem, Op, Options


def seconds(function: Callable[[], Any], repeat: int = 15) -> float:
    """Return the median time of a call after a warm-up."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def timed(problem: ConvProblem, op: Op, method: str, dtype: str) -> float:
    """Return the median seconds of one algorithm on one operation."""
    from numbaconv.plan import room

    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(problem.shape(t)).astype(dtype) for t in ("x", "w", "y"))
    a, b, out = {"fprop": (x, w, y), "dgrad": (y, w, x), "wgrad": (y, x, w)}[op]
    algorithm, out = room("cpu")[method], np.empty_like(out)
    return seconds(lambda: algorithm.run(problem, op, a, b, out, Options()))


def square(channels: int, size: int, taps: int = 3, **options: Any) -> ConvProblem:
    """Return a dense square layer with as many filters as channels."""
    return ConvProblem.from_shapes((1, channels, size, size), (channels, channels, taps, taps), rank=2, **options)


def main() -> None:
    """Print one line per coefficient."""
    nc.set_num_threads(1)
    for dtype in ("float32", "float64"):
        # Many rows per gathered element: what remains is the micro-kernel.
        p = square(128, 50)
        print(f"gemm RATE[{np.dtype(dtype).itemsize}]      {p.macs / timed(p, 'fprop', 'gemm', dtype):.3g} multiply-adds/s")
    one_block = ConvProblem.from_shapes((1, 64, 64, 98), (8, 64, 3, 3), rank=2)
    strided = ConvProblem.from_shapes((1, 64, 64, 194), (8, 64, 3, 3), rank=2, stride=(1, 2))
    rate = gemm.RATE[4]
    near, scattered = (timed(p, "fprop", "gemm", "float32") for p in (one_block, strided))
    for name, time_taken, p in (("GATHER_SECONDS   ", near, one_block), ("SCATTERED_SECONDS", scattered, strided)):
        print(f"gemm {name} {(time_taken - p.macs / rate) / (p.macs / 8):.2g} s an element")
    p = square(512, 3)
    w = np.random.default_rng(0).standard_normal(p.shape("w")).astype(np.float32)
    print(f"gemm PACK_SECONDS      {seconds(lambda: gemm.prepare(p, 'fprop', w)) / w.size:.2g} s an element")
    p = square(64, 56, padding=1)
    x = np.random.default_rng(0).standard_normal(p.shape("x")).astype(np.float32)
    print(f"gemm PAD_SECONDS       {seconds(lambda: gemm._with_padding(p, x)) / gemm._padded_size(p):.2g} s an element")
    print(f"gemm CALL_SECONDS      {timed(square(1, 3), 'fprop', 'gemm', 'float32'):.2g} s")
    for op in ("fprop", "wgrad"):
        wide, narrow = (ConvProblem.from_shapes((1, 16, 2048 // n, n + 2), (16, 16, 1, 3), rank=2) for n in (256, 16))
        t_wide, t_narrow = (timed(p, op, "direct", "float32") / p.macs for p in (wide, narrow))  # type: ignore[arg-type]
        loop = (t_narrow - t_wide) / (1 / (4 * 16) - 1 / (4 * 256))
        print(f"direct LOOP_SECONDS    {loop:.2g} s an inner loop ({op})")
        print(f"direct RATE[{op}]    {1 / (t_wide - loop / (4 * 256)):.2g} multiply-adds/s")
    print(f"_parallel hand-over    {hand_over():.2g} s")


def hand_over() -> float:
    """Return what a second thread adds to a small call: the same work forced through the pool and done serially."""
    p = square(16, 16)
    before, _parallel.SERIAL_SECONDS = _parallel.SERIAL_SECONDS, 0.0
    try:
        with nc.num_threads(2):
            shared = timed(p, "fprop", "direct", "float32")
    finally:
        _parallel.SERIAL_SECONDS = before
    return shared - timed(p, "fprop", "direct", "float32") / 2


if __name__ == "__main__":
    main()
