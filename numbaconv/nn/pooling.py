"""Pooling: the largest or the mean value of each window, one pass over the output per tap of the window."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.arrays import COMPUTE, Array
from numbaconv.nn.module import as_real
from numbaconv.nn.windows import Pool, Windows


class MaxPool(Pool):
    """Largest value of each window, for 1 to 3 spatial axes: as many as the input has besides batch and channels.

    Output size per axis: (input + 2·padding − dilation·(taps − 1) − 1) // stride + 1; rounded up in ``ceil_mode``, less
    windows that would start after the data. A NaN makes its windows NaN; of equal values the first gets the gradient.

    Parameters
    ----------
    kernel_size : int or sequence of int
        Taps of the window, one number for all axes or one per axis.
    stride : int or sequence of int, optional
        Step of the windows; by default the kernel size, so that they do not overlap.
    padding : int or sequence of int
        Positions added at both ends that are never the largest; at most half of the window.
    dilation : int or sequence of int
        Step of the taps.
    ceil_mode : bool
        Whether a last window may reach beyond the input.
    layout : str, optional
        Order of the axes; by default channels before the spatial axes. When given, it tells the rank.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.MaxPool(2)(np.array([[[1, 3, 2, 0]]]))
    array([[[3, 2]]])
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *, ceil_mode: bool = False,
                 layout: str | None = None) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode, layout)

    def forward(self, x: Any) -> Array:
        """Return the largest value of each window."""
        x = as_real(x, "x")
        if x.dtype == bool:
            raise TypeError("x must be numeric, got dtype bool")
        windows = self._windows(x)
        padded = windows.pad(x, np.array(-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min, x.dtype))
        slices = windows.slices()
        if not self.training:
            y = padded[next(slices)].copy()
            for under_tap in slices:
                np.maximum(y, padded[under_tap], out=y)
            return self._keep(y)
        y = padded[next(slices)].copy()
        winner = np.broadcast_to(self._first_taps(windows, x.ndim), y.shape).copy()
        for tap, under_tap in enumerate(slices, 1):
            values = padded[under_tap]
            better = (values > y) | (values != values)
            np.copyto(y, values, where=better)
            winner[better] = tap
        return self._keep(y, windows, winner, padded.shape)

    @staticmethod
    def _first_taps(windows: Windows, ndim: int) -> Array:
        """First tap of each window inside the data: it wins where all values are as low as the padding."""
        number: Any = 0
        for axis, (taps, d) in enumerate(zip(windows.taps, windows.dilation, strict=True)):
            first = np.maximum(-(windows.starts(axis) // d), 0)
            number = number * taps + windows.along(axis, first, ndim)
        return number.astype(np.min_scalar_type(int(np.prod(windows.taps))))

    def backward(self, grad_out: Any) -> Array:
        """Return grad_out at the largest values, zeros elsewhere."""
        grad_out, windows, winner, shape = self._recall(grad_out)
        grad = np.zeros(shape, grad_out.dtype)
        for tap, under_tap in enumerate(windows.slices()):
            grad[under_tap] += np.where(winner == tap, grad_out, 0)
        return windows.crop(grad)


class AvgPool(Pool):
    """Mean of each window, for 1 to 3 spatial axes: as many as the input has besides batch and channels.

    Output size per axis: (input + 2·padding − taps) // stride + 1; rounded up in ``ceil_mode``, less windows that would
    start after the data. Integers become float64.

    Parameters
    ----------
    kernel_size : int or sequence of int
        Taps of the window, one number for all axes or one per axis.
    stride : int or sequence of int, optional
        Step of the windows; by default the kernel size, so that they do not overlap.
    padding : int or sequence of int
        Zeros added at both ends; at most half of the window.
    ceil_mode : bool
        Whether a last window may reach beyond the padded input; what is beyond never counts.
    count_include_pad : bool
        Whether the padding counts in the mean.
    layout : str, optional
        Order of the axes; by default channels before the spatial axes. When given, it tells the rank.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.AvgPool(2)(np.array([[[1.0, 3.0, 2.0, 0.0]]]))
    array([[[2., 1.]]])
    """

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True, *,
                 layout: str | None = None) -> None:  # fmt: skip
        self.count_include_pad = bool(count_include_pad)
        super().__init__(kernel_size, stride, padding, 1, ceil_mode, layout)

    def forward(self, x: Any) -> Array:
        """Return the mean of each window."""
        x = as_real(x, "x")
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        windows = self._windows(x)
        padded = windows.pad(x.astype(COMPUTE[x.dtype], copy=False), 0)
        slices = windows.slices()
        total = padded[next(slices)].copy()
        for under_tap in slices:
            total += padded[under_tap]
        counts = self._counts(windows, x.ndim).astype(total.dtype)
        total /= counts
        return self._keep(total.astype(x.dtype, copy=False), windows, counts, padded.shape)

    def _counts(self, windows: Windows, ndim: int) -> Array:
        counts: Any = 1
        for axis, (size, taps, low) in enumerate(zip(windows.size, windows.taps, windows.low, strict=True)):
            start, extra = windows.starts(axis), low if self.count_include_pad else 0
            number = np.minimum(start + taps, size + extra) - np.maximum(start, -extra)
            counts = counts * windows.along(axis, number, ndim)
        return counts

    def backward(self, grad_out: Any) -> Array:
        """Return grad_out spread evenly over each window."""
        grad_out, windows, counts, shape = self._recall(grad_out)
        share = grad_out / counts
        grad = np.zeros(shape, share.dtype)
        for under_tap in windows.slices():
            grad[under_tap] += share
        return windows.crop(grad).astype(grad_out.dtype, copy=False)


class MaxPool1d(MaxPool):
    """`MaxPool` for (N, C, W) or (C, W).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.MaxPool1d(3, stride=1, padding=1)(np.array([[1, 3, 2, 0]]))
    array([[3, 3, 3, 2]])
    """

    rank = 1


class MaxPool2d(MaxPool):
    """`MaxPool` for (N, C, H, W) or (C, H, W).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.MaxPool2d(2)(np.arange(16).reshape(1, 4, 4))
    array([[[ 5,  7],
            [13, 15]]])
    """

    rank = 2


class MaxPool3d(MaxPool):
    """`MaxPool` for (N, C, D, H, W) or (C, D, H, W).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.MaxPool3d(2)(np.ones((1, 3, 4, 4, 4))).shape
    (1, 3, 2, 2, 2)
    """

    rank = 3


class AvgPool1d(AvgPool):
    """`AvgPool` for (N, C, W) or (C, W).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.AvgPool1d(3, stride=1, padding=1, count_include_pad=False)(np.array([[1.0, 3.0, 2.0]]))
    array([[2. , 2. , 2.5]])
    """

    rank = 1


class AvgPool2d(AvgPool):
    """`AvgPool` for (N, C, H, W) or (C, H, W).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.AvgPool2d(2)(np.arange(16.0).reshape(1, 4, 4))
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]])
    """

    rank = 2


class AvgPool3d(AvgPool):
    """`AvgPool` for (N, C, D, H, W) or (C, D, H, W).

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.AvgPool3d(2)(np.ones((1, 3, 4, 4, 4))).shape
    (1, 3, 2, 2, 2)
    """

    rank = 3
