"""asv: what a call costs besides its arithmetic, on the smallest arrays. asv chooses the number of calls per measurement.

``python -m benchmarks.overhead`` prints the same of ``signal.convolve`` beside NumPy and SciPy, which take turns, and a block of a stream.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import signal

import numbaconv as nc
from benchmarks.alternate import duration, markdown, medians
from benchmarks.cases import OPS, Array, Signal, random
from benchmarks.networks import MIXED
from benchmarks.signals import module

SAMPLES, CALLS = (7, 100), 50
CHANNELS, BLOCK, TAPS = (1, 8), 64, 4096


class Overhead:
    """Calls whose arithmetic takes nanoseconds."""

    params = OPS
    param_names = ("op",)

    def setup(self, op: str) -> None:
        """Call once, so that compiling is not timed."""
        case = MIXED["smallest 3×3@5"]
        self.operands, self.function = case.operands(op), case.bound(op)
        self.function(*self.operands)

    def time_conv2d(self, op: str) -> None:
        """Time a 3×3 filter on 5×5 pixels."""
        self.function(*self.operands)


class Conv1d:
    """The same in one dimension, with everything that can be decided ahead decided ahead."""

    def setup(self) -> None:
        """Call once, so that compiling is not timed."""
        self.x, self.w, self.out = random((1, 1, 7)), random((1, 1, 3)), random((1, 1, 5))
        self.prepared = nc.prepare(self.w, self.x.shape)
        self.time_plain()
        self.time_prepared_out()

    def time_plain(self) -> None:
        """Time 3 taps on 7 samples."""
        nc.conv1d(self.x, self.w)

    def time_prepared_out(self) -> None:
        """Time the same with prepared weights and ``out``."""
        nc.conv1d(self.x, self.prepared, out=self.out)


class SignalConvolve:
    """``signal.convolve`` of few samples and 3 taps."""

    params = SAMPLES
    param_names = ("samples",)

    def setup(self, samples: int) -> None:
        """Call once, so that compiling is not timed."""
        (self.x, self.h), self.convolve = Signal((samples,), (3,)).operands("float64"), module("signal").convolve
        self.time_convolve(samples)

    def time_convolve(self, samples: int) -> None:
        """Time one call."""
        self.convolve(self.x, self.h)


def main(arguments: list[str] | None = None) -> None:
    """Print the median time of a call of each library's ``convolve``, and of a stream's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description="the smallest signals, beside NumPy and SciPy, and a stream")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case")
    seconds, lines = parser.parse_args(arguments).seconds, []
    functions = {"numbaconv": module("signal").convolve, "numpy": np.convolve, "scipy.signal": signal.convolve}
    for samples in SAMPLES:
        x, h = Signal((samples,), (3,)).operands("float64")
        times = medians({name: repeated(function, x, h) for name, function in functions.items()}, seconds)
        lines.append([f"{samples} samples, 3 taps", *(duration(time / CALLS) for time in times.values())])
    for channels in CHANNELS:
        stream = module("signal").StreamingConvolver(random((TAPS,)), block=BLOCK)
        block, out = random((channels, BLOCK)), np.empty((channels, BLOCK), np.float32)
        time = medians({"numbaconv": repeated(stream.process, block, out)}, seconds)["numbaconv"]
        lines.append([f"StreamingConvolver, {BLOCK} samples of {channels} channel(s), {TAPS} taps", duration(time / CALLS), "", ""])
    print(markdown(["a call of", *functions], lines))


def repeated(function: Callable[..., Any], *operands: Array) -> Callable[[], None]:
    """Return what calls a function so often that reading the clock takes nothing beside it."""

    def run() -> None:
        for _ in range(CALLS):
            function(*operands)

    return run


if __name__ == "__main__":
    main()
