"""The geometry of pooling: which elements lie under each tap of the windows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from numbaconv.arrays import Array
from numbaconv.nn.module import Module
from numbaconv.problem import LAYOUTS, axis_values, conv_output_size


class Windows(NamedTuple):
    """Where the windows of one input lie: per axis its size, that of the output, and the padding at both ends."""

    first_axis: int
    size: tuple[int, ...]
    output: tuple[int, ...]
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]  # the last window reaches this far: more than ``low`` in ceil_mode, less where the stride skips the end

    def pad(self, x: Array, fill: Any) -> Array:
        """Return x with its windows complete, ``fill`` added."""
        if not any(self.low) and max(self.high) <= 0:
            return x
        widths = [(0, 0)] * x.ndim
        for axis, (lo, hi) in enumerate(zip(self.low, self.high, strict=True), self.first_axis):
            widths[axis] = lo, max(hi, 0)
        return np.pad(x, widths, constant_values=fill)

    def crop(self, padded: Array) -> Array:
        """Undo ``pad``."""
        inside = tuple(slice(lo, lo + size) for lo, size in zip(self.low, self.size, strict=True))
        return padded[(slice(None),) * self.first_axis + inside]

    def slices(self) -> Iterator[tuple[slice, ...]]:
        """Yield for each tap the elements of the padded input under it, in row-major order."""
        for tap in product(*map(range, self.taps)):
            axes = zip(tap, self.output, self.stride, self.dilation, strict=True)
            windows = tuple(slice(r * d, r * d + (n - 1) * s + 1, s) for r, n, s, d in axes)
            yield (slice(None),) * self.first_axis + windows

    def along(self, axis: int, values: Array, ndim: int) -> Array:
        """Reshape ``values``, one per output of a spatial axis, to broadcast over arrays of ``ndim`` axes."""
        return np.expand_dims(values, tuple(a for a in range(ndim) if a != self.first_axis + axis))

    def starts(self, axis: int) -> Array:
        """Index of the first tap of each window on one axis; negative in the padding."""
        return np.arange(self.output[axis]) * self.stride[axis] - self.low[axis]


class Pool(Module):
    """What all pooling layers share. A rank of None takes it from the layout or from the input, batched."""

    rank: int | None = None

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, layout: str | None) -> None:
        names = [name for rank, both in LAYOUTS.items() if self.rank in (None, rank) for name in both]
        if layout is not None and layout not in names:
            raise ValueError(f"layout must be None or one of {names}, got {layout!r}")
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.ceil_mode, self.layout = bool(ceil_mode), layout
        if self.rank:
            self._options(self.rank)

    def _options(self, rank: int) -> list[tuple[int, ...]]:
        taps = axis_values(self.kernel_size, rank, "kernel_size", minimum=1)
        stride = taps if self.stride is None else axis_values(self.stride, rank, "stride", minimum=1)
        padding = axis_values(self.padding, rank, "padding", minimum=0)
        dilation = axis_values(self.dilation, rank, "dilation", minimum=1)
        if any(2 * p > d * (k - 1) + 1 for p, k, d in zip(padding, taps, dilation, strict=True)):
            raise ValueError(f"padding must be at most half of the window, got padding={self.padding} for kernel_size={self.kernel_size}")
        return [taps, stride, dilation, padding]

    def _windows(self, x: Array) -> Windows:
        rank = self.rank or next((r for r, names in LAYOUTS.items() if self.layout in names), x.ndim - 2)
        if rank not in LAYOUTS or x.ndim not in (rank + 1, rank + 2):
            expected = f"{self.layout or LAYOUTS[rank][0]}, or one sample of it" if rank in LAYOUTS else "(N, C, *1 to 3 spatial axes)"
            raise ValueError(f"x must be {expected}, got shape {x.shape}")
        first = x.ndim - rank - (self.layout == LAYOUTS[rank][1])
        size = x.shape[first : first + rank]
        taps, stride, dilation, padding = self._options(rank)
        output, high = [], []
        for i, r, s, d, p in zip(size, taps, stride, dilation, padding, strict=True):
            n = conv_output_size(i, r, s, d, 2 * p + (s - 1 if self.ceil_mode else 0))
            if self.ceil_mode and (n - 1) * s >= i + p:  # a window must start in the data or in the low padding
                n -= 1
            if n < 1:
                raise ValueError(f"windows of {taps} (dilation {dilation}) must fit in x of shape {x.shape} with padding {padding}")
            output.append(n)
            high.append((n - 1) * s + d * (r - 1) + 1 - p - i)
        return Windows(first, size, tuple(output), taps, stride, dilation, padding, tuple(high))

    def _settings(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, ceil_mode={self.ceil_mode}"
