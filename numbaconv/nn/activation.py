"""Activations: what each computes and its derivative, as layers and for the convolutions that fuse them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import erf, expit

from numbaconv.arrays import COMPUTE, Array
from numbaconv.nn.module import Module, as_real


def _smooth(name: str) -> Callable[[Array], Array]:
    """Return the function that convolutions fuse, for arrays by themselves."""

    def apply(x: Array) -> Array:
        from numbaconv.cpu.bias import activated

        return activated(x.astype(COMPUTE[x.dtype], copy=False), name)

    return apply


class Activation(NamedTuple):
    """A function of x, its gradient from (kept, grad_out), and whether what is kept is the output instead of the input."""

    function: Callable[[Array], Array]
    gradient: Callable[[Array, Array], Array]
    keeps_output: bool

    def forward(self, x: Array) -> Array:
        """Return the function of x, in its dtype."""
        return self.function(x).astype(x.dtype, copy=False)

    def backward(self, kept: Array, grad: Array) -> Array:
        """Return the gradient of the input."""
        return self.gradient(kept, grad).astype(np.result_type(kept, grad), copy=False)


def _silu_backward(x: Array, grad: Array) -> Array:
    s = expit(x)
    return grad * (s * (1 + x * (1 - s)))


def _gelu_backward(x: Array, grad: Array) -> Array:
    density = np.exp(-0.5 * x * x) * (2 * np.pi) ** -0.5
    return grad * (0.5 * (1 + erf(x * 0.5**0.5)) + x * density)


# As reference.ACTIVATIONS.
# Where the derivative follows from the output, that is kept: the next layer keeps it anyway, and a fused convolution has no other.
TABLE = {
    "relu": Activation(lambda x: np.maximum(x, 0), lambda y, grad: np.where(y <= 0, 0, grad), True),
    "leaky_relu": Activation(lambda x: np.where(x > 0, x, x * 0.01), lambda y, grad: np.where(y > 0, grad, grad * 0.01), True),
    "silu": Activation(_smooth("silu"), _silu_backward, False),
    "gelu": Activation(_smooth("gelu"), _gelu_backward, False),
    "tanh": Activation(_smooth("tanh"), lambda y, grad: grad * (1 - y * y), True),
    "sigmoid": Activation(_smooth("sigmoid"), lambda y, grad: grad * ((1 - y) * y), True),
}


class ActivationBase(Module):
    """What the activation layers share; a subclass has a name, or another row than the table's."""

    fused_name: str | None  # what a convolution calls it; None if it cannot fuse it

    def _table(self) -> Activation:
        assert self.fused_name is not None
        return TABLE[self.fused_name]

    def forward(self, x: Any) -> Array:
        """Apply to each element of ``x``, of any shape; integers become float64."""
        x = as_real(x, "x")
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        activation = self._table()
        y = activation.forward(x)
        return self._keep(y, y if activation.keeps_output else x)

    def backward(self, grad_out: Any) -> Array:
        """Return grad_out times the derivative."""
        grad_out, kept = self._recall(grad_out)
        return self._table().backward(kept, grad_out)


class ReLU(ActivationBase):
    """max(x, 0), for any shape.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.ReLU()([-1.0, 2.0])
    array([0., 2.])
    """

    fused_name = "relu"


class LeakyReLU(ActivationBase):
    """Identity where x is positive, ``negative_slope`` times x elsewhere, for any shape.

    Parameters
    ----------
    negative_slope : float
        Slope below zero; a convolution fuses the default alone.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.LeakyReLU(0.5)([-1.0, 2.0])
    array([-0.5,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = float(negative_slope)
        self.fused_name = "leaky_relu" if self.negative_slope == 0.01 else None

    def _table(self) -> Activation:
        slope = self.negative_slope  # of any sign, so that only the input tells the side
        return Activation(lambda x: np.where(x > 0, x, x * slope), lambda x, grad: np.where(x > 0, grad, grad * slope), False)

    def _settings(self) -> str:
        return f"negative_slope={self.negative_slope}"


class SiLU(ActivationBase):
    """x · sigmoid(x), for any shape.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.SiLU()([0.0, 100.0])
    array([  0., 100.])
    """

    fused_name = "silu"


class GELU(ActivationBase):
    """x · Φ(x) with the normal distribution's Φ, exact (by erf), for any shape.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.GELU()([0.0, 100.0])
    array([  0., 100.])
    """

    fused_name = "gelu"


class Tanh(ActivationBase):
    """tanh(x), for any shape.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.Tanh()([0.0, 100.0])
    array([0., 1.])
    """

    fused_name = "tanh"


class Sigmoid(ActivationBase):
    """1 / (1 + exp(−x)), for any shape.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.Sigmoid()([0.0, 100.0])
    array([0.5, 1. ])
    """

    fused_name = "sigmoid"
