"""asv: named signals and images through the functions that SciPy's users know."""

from __future__ import annotations

from benchmarks.cases import SIGNALS, by_size


class Signals:
    """``signal.convolve``, mode "same"; its method "auto" is what users get."""

    params = (by_size(SIGNALS), ("float32", "float64"), ("auto", "direct", "fft"))
    param_names = ("signal", "dtype", "method")
    number, rounds, repeat, warmup_time = 1, 1, (3, 20, 1.0), 0.0

    def setup(self, name: str, dtype: str, method: str) -> None:
        """Make fresh inputs and call once, so that compiling is not timed."""
        try:
            from numbaconv import signal
        except ImportError:
            raise NotImplementedError("this version has no numbaconv.signal") from None
        case = SIGNALS[name]
        if method == "direct" and case.macs > 2e9:
            raise NotImplementedError("the direct sum takes seconds")
        x, h = case.operands(dtype)
        self.function = lambda: signal.convolve(x, h, mode="same", method=method)
        self.function()

    def time_convolve(self, *params: str) -> None:
        """Time one call."""
        self.function()
