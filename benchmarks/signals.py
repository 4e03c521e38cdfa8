"""asv: signals, images and filters through the functions that SciPy's users know, their gradients, and streams."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.cases import SIGNALS, Signal, by_size, random

SIZES, TAPS = (10**2, 10**4, 10**6, 256, 1024), (3, 11, 31, 127, 8191)
CASES: dict[str, Signal] = {
    name: case
    for name, case in (SIGNALS["signals-1d"] | SIGNALS["signals-2d"]).items()
    if case.mode == "same" and case.shape[0] in SIZES and case.taps[0] in TAPS
}


def module(name: str) -> Any:
    """Import a part of numbaconv; NotImplementedError, which asv skips, in versions without it."""
    try:
        return import_module(f"numbaconv.{name}")
    except ImportError:
        raise NotImplementedError(f"this version has no numbaconv.{name}") from None


class Signals:
    """``signal.convolve``, mode "same"; its method "auto" is what users get."""

    params = (by_size(CASES), ("float32", "float64", "complex64"), ("auto", "direct", "fft"))
    param_names = ("signal", "dtype", "method")
    number, rounds, repeat, warmup_time = 1, 1, (3, 20, 1.0), 0.0

    def setup(self, name: str, dtype: str, method: str) -> None:
        """Make fresh inputs and call once, so that compiling is not timed."""
        convolve, case = module("signal").convolve, CASES[name]
        if method == "direct" and case.macs > 2e9:
            raise NotImplementedError("the direct sum takes seconds")
        x, h = case.operands(dtype)
        self.function = lambda: convolve(x, h, mode=case.mode, method=method)
        self.function()

    def time_convolve(self, *params: str) -> None:
        """Time one call."""
        self.function()


class Gradients:
    """The pullback of ``signal.vjp.convolve``, mode "same": the gradients of both operands."""

    params = (by_size(CASES), ("float32", "complex64"))
    param_names = ("signal", "dtype")
    number, rounds, repeat, warmup_time = 1, 1, (3, 20, 1.0), 0.0

    def setup(self, name: str, dtype: str) -> None:
        """Go forward and back once."""
        case = CASES[name]
        y, self.pull = module("signal").vjp.convolve(*case.operands(dtype), mode=case.mode)
        self.grad_y = random(y.shape, dtype)
        self.pull(self.grad_y)

    def time_pull(self, *params: str) -> None:
        """Time one call."""
        self.pull(self.grad_y)


class Streaming:
    """``signal.StreamingConvolver`` with 4096 taps: one block of 64 samples, float32."""

    params = (1, 8)
    param_names = ("channels",)
    BLOCK, TAPS = 64, 4096

    def setup(self, channels: int) -> None:
        """Stream as many samples as there are taps, so that all parts of the filter have work."""
        make = getattr(module("signal"), "StreamingConvolver", None)
        if not make:
            raise NotImplementedError("this version has no signal.StreamingConvolver")
        self.process = make(random((self.TAPS,)), block=self.BLOCK).process
        self.block = random((channels, self.BLOCK))
        self.out = np.empty_like(self.block)
        for _ in range(self.TAPS // self.BLOCK):
            self.process(self.block, out=self.out)

    def time_process(self, channels: int) -> None:
        """Time one block; blocks that complete a longer part of the filter take longer than others."""
        self.process(self.block, out=self.out)


class Filters:
    """The other functions of ``signal`` and ``ndimage``."""

    params = (list(SIGNALS["filters"]), ("float32", "float64"))
    param_names = ("filter", "dtype")
    number, rounds, repeat, warmup_time = 1, 1, (3, 20, 1.0), 0.0

    def setup(self, name: str, dtype: str) -> None:
        """Make fresh inputs and call once."""
        case = SIGNALS["filters"][name]
        module(case.module)
        self.function = case.call("numbaconv", *case.operands(dtype))
        self.function()

    def time_filter(self, *params: str) -> None:
        """Time one call."""
        self.function()


class Peak:
    """Peak resident memory of the process: Python, NumPy and Numba, the signal and the result, and what the call needs besides."""

    def setup(self) -> None:
        """Make 10⁷ samples and 10³ taps."""
        self.oaconvolve = module("signal").oaconvolve
        self.operands = random((10**7,)), random((10**3,))

    def peakmem_oaconvolve(self) -> None:
        """Call once."""
        self.oaconvolve(*self.operands)
