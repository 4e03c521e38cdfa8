"""The convolution layers: parameters around the functions of `numbaconv.functional`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from numbaconv import functional
from numbaconv.arrays import Array
from numbaconv.nn.activation import TABLE
from numbaconv.nn.linear import Rng, initial, positive
from numbaconv.nn.module import Module, as_real
from numbaconv.problem import LAYOUTS, PADDING_NAMES, axis_values

_PARAMETERS = """Parameters
----------
in_channels, out_channels : int
    Channels of x and of the output, C and K.
kernel_size, stride, dilation : int or sequence of int
    Of the filter, as in the function; one for all axes or one per axis.
padding : int, sequence of int, sequence of (low, high) pairs, "same", "same_lower" or "valid"
    As in the function.{output_padding}
groups : int
    Divides both numbers of channels.
bias : bool
    Whether to add a bias.
padding_mode : {{"zeros"}}
    What the padding holds.
dtype : dtype
    Of the parameters: float16, float32 or float64.
layout : {{"{first}", "{last}"}}
    Order of the axes of x and of the output; the parameters have one order.
activation : {{None, "relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid"}}
    Applied to the output, and in backward its derivative.
rng : int or numpy.random.Generator, optional
    What draws the initial values, as PyTorch: uniform within 1/√(weight.shape[1] · taps).

"""
_OUTPUT_PADDING = """
output_padding : int or sequence of int
    Added to the high end of the output; smaller than the stride or the dilation."""

Padding = Any  # an int, ints, pairs or a name: checked by the functional layer
C = TypeVar("C", bound=type)


def documented(layer: C) -> C:
    """Write the parameters, which all six layers share, into the class's documentation, before its attributes."""
    first, last = LAYOUTS[layer.rank]  # type: ignore[attr-defined]
    output_padding = _OUTPUT_PADDING if layer.transposed else ""  # type: ignore[attr-defined]
    parameters = _PARAMETERS.format(first=first, last=last, output_padding=output_padding)
    layer.__doc__ = inspect.cleandoc(layer.__doc__ or "").replace("Attributes\n---", f"{parameters}Attributes\n---")
    return layer


class ConvBase(Module):
    """What the six layers share; a subclass has its rank and whether it is transposed."""

    rank: int
    transposed = False
    output_padding: Any = 0

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Padding = 0, dilation: Any = 1,
                 groups: int = 1, bias: bool = True, padding_mode: str = "zeros", *, dtype: DTypeLike = np.float32,
                 layout: str | None = None, activation: str | None = None, rng: Rng = None) -> None:  # fmt: skip
        rank = self.rank
        self.in_channels, self.out_channels = positive(in_channels, "in_channels"), positive(out_channels, "out_channels")
        self.kernel_size = axis_values(kernel_size, rank, "kernel_size", minimum=1)
        self.stride, self.dilation = axis_values(stride, rank, "stride", minimum=1), axis_values(dilation, rank, "dilation", minimum=1)
        self.padding, self.groups, self.layout, self.activation = padding, positive(groups, "groups"), layout or LAYOUTS[rank][0], activation
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups must divide in_channels={in_channels} and out_channels={out_channels}, got {groups}")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}")
        if isinstance(padding, str) and padding not in PADDING_NAMES:
            raise ValueError(f"padding must be an int, ints, (low, high) pairs or one of {PADDING_NAMES}, got {padding!r}")
        if self.layout not in LAYOUTS[rank]:
            raise ValueError(f"layout must be one of {LAYOUTS[rank]} for {rank}-D, got {layout!r}")
        if activation is not None and activation not in TABLE:
            raise ValueError(f"activation must be None or one of {tuple(TABLE)}, got {activation!r}")
        outer, inner = (self.in_channels, self.out_channels) if self.transposed else (self.out_channels, self.in_channels)
        shape = (outer, inner // self.groups, *self.kernel_size)
        self.weight, self.bias = initial(shape, self.out_channels if bias else 0, dtype, rng)

    def _function(self, suffix: str = "") -> Callable[..., Any]:
        return getattr(functional, f"conv{'_transpose' if self.transposed else ''}{self.rank}d{suffix}")

    def _geometry(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "layout", *(("output_padding",) if self.transposed else ()))
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Any) -> Array:
        """Return the convolution of x, a batch or one sample, with bias and activation."""
        return self.forward_with(x, self.activation)

    def forward_with(self, x: Any, activation: str | None) -> Array:
        """Return ``forward(x)`` with another activation than the layer's own."""
        x = as_real(x, "x")
        bias = None if self.bias is None else self.bias.data
        # The derivative of SiLU and of GELU needs the sum before the activation, which a fused call does not store.
        apart = activation is not None and self.training and not TABLE[activation].keeps_output
        y = self._function()(x, self._weights(x), bias, activation=None if apart else activation, **self._geometry())
        if activation is None:
            return self._keep(y, x, None, None)
        if apart:
            return self._keep(TABLE[activation].forward(y), x, activation, y)
        return self._keep(y, x, activation, y)

    def _weights(self, x: Array) -> Any:
        """Return the weights; in evaluation mode prepared for inputs like x, and kept until the weights may have changed."""
        weight = self.weight
        accesses = None if self.training else weight._accesses_if_settled()
        if accesses is None:
            return weight.data
        key, prepared = (weight, accesses, x.shape, x.dtype), None
        if self._prepared and self._prepared[0] == key:  # from the second call on, so that inputs of ever other shapes cost nothing
            prepared = self._prepared[1] or functional.prepare(weight._data, x.shape, transposed=self.transposed, dtype=x.dtype, **self._geometry())
        self._prepared = key, prepared
        return weight._data if prepared is None else prepared

    def backward(self, grad_out: Any, input_gradient: bool = True) -> Any:
        """Return the gradient of x, or None if it is not asked for; add to those of weight and bias."""
        grad_out, x, activation, kept = self._recall(grad_out)
        if activation is not None:
            grad_out = TABLE[activation].backward(kept, grad_out)
        needs = (input_gradient, True, self.bias is not None)
        grad_x, grad_weight, grad_bias = self._function("_backward")(grad_out, x, self.weight.data, needs=needs, **self._geometry())
        self.weight.accumulate(grad_weight)
        if self.bias is not None:
            self.bias.accumulate(grad_bias)
        return grad_x

    def _settings(self) -> str:
        shown = {"kernel_size": self.kernel_size, **self._geometry(), "bias": self.bias is not None, "activation": self.activation}
        return f"{self.in_channels}, {self.out_channels}, " + ", ".join(f"{name}={value!r}" for name, value in shown.items())


@documented
class Conv1d(ConvBase):
    """1-D convolution layer around `numbaconv.conv1d`: (N, C, W) to (N, K, W').

    Attributes
    ----------
    weight : Parameter, (K, C/groups, S)
    bias : Parameter, (K,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> layer = nn.Conv1d(in_channels=1, out_channels=1, kernel_size=3)
    >>> layer.weight.data, layer.bias.data = [[[1, 0, -1]]], [0]
    >>> layer(np.array([[[1, 2, 1, 0, 1, 2, 1]]], np.float32))
    array([[[ 0.,  2.,  0., -2.,  0.]]], dtype=float32)
    """

    rank = 1


@documented
class Conv2d(ConvBase):
    """2-D convolution layer around `numbaconv.conv2d`: (N, C, H, W) to (N, K, H', W').

    Attributes
    ----------
    weight : Parameter, (K, C/groups, R, S)
    bias : Parameter, (K,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> layer = nn.Conv2d(in_channels=1, out_channels=1, kernel_size=2)
    >>> layer.weight.data, layer.bias.data = [[[[1, 0], [0, 1]]]], [0]
    >>> layer(np.array([[[[1, 2, 1], [0, 1, 2], [2, 1, 0]]]], np.float32))
    array([[[[2., 4.],
             [1., 1.]]]], dtype=float32)
    """

    rank = 2


@documented
class Conv3d(ConvBase):
    """3-D convolution layer around `numbaconv.conv3d`: (N, C, D, H, W) to (N, K, D', H', W').

    Attributes
    ----------
    weight : Parameter, (K, C/groups, T, R, S)
    bias : Parameter, (K,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.Conv3d(2, 3, 3, stride=2, padding=1)(np.ones((1, 2, 6, 6, 6), np.float32)).shape
    (1, 3, 3, 3, 3)
    """

    rank = 3
