"""The transposed convolution layers: PyTorch's order of arguments, the rest shared with `conv`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbaconv.nn.conv import ConvBase, Padding, documented
from numbaconv.nn.linear import Rng
from numbaconv.problem import axis_values


class _ConvTranspose(ConvBase):
    transposed = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Padding = 0, output_padding: Any = 0,
                 groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros", *, dtype: DTypeLike = np.float32,
                 layout: str | None = None, activation: str | None = None, rng: Rng = None) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         dtype=dtype, layout=layout, activation=activation, rng=rng)  # fmt: skip
        self.output_padding = axis_values(output_padding, self.rank, "output_padding", minimum=0)


@documented
class ConvTranspose1d(_ConvTranspose):
    """Transposed 1-D convolution layer around `numbaconv.conv_transpose1d`: (N, C, W) to (N, K, W').

    Attributes
    ----------
    weight : Parameter, (C, K/groups, S)
    bias : Parameter, (K,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1)(np.ones((1, 2, 5), np.float32)).shape
    (1, 3, 10)
    """

    rank = 1


@documented
class ConvTranspose2d(_ConvTranspose):
    """Transposed 2-D convolution layer around `numbaconv.conv_transpose2d`: (N, C, H, W) to (N, K, H', W').

    Attributes
    ----------
    weight : Parameter, (C, K/groups, R, S)
    bias : Parameter, (K,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1)(np.ones((1, 2, 5, 5), np.float32)).shape
    (1, 3, 10, 10)
    """

    rank = 2


@documented
class ConvTranspose3d(_ConvTranspose):
    """Transposed 3-D convolution layer around `numbaconv.conv_transpose3d`: (N, C, D, H, W) to (N, K, D', H', W').

    Attributes
    ----------
    weight : Parameter, (C, K/groups, T, R, S)
    bias : Parameter, (K,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.ConvTranspose3d(2, 3, 2, stride=2)(np.ones((1, 2, 3, 3, 3), np.float32)).shape
    (1, 3, 6, 6, 6)
    """

    rank = 3
