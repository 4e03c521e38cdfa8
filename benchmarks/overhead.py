"""asv: what a call costs besides its arithmetic, on the smallest arrays. asv chooses the number of calls per measurement."""

from __future__ import annotations

import numbaconv as nc
from benchmarks.cases import OPS, Signal, random
from benchmarks.networks import MIXED


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
    """``signal.convolve`` of 7 samples and 3 taps."""

    def setup(self) -> None:
        """Call once, so that compiling is not timed."""
        try:
            from numbaconv.signal import convolve
        except ImportError:
            raise NotImplementedError("this version has no numbaconv.signal") from None
        (self.x, self.h), self.convolve = Signal((7,), (3,)).operands("float64"), convolve
        self.time_convolve()

    def time_convolve(self) -> None:
        """Time one call."""
        self.convolve(self.x, self.h)
