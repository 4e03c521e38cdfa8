"""Dense layers: Linear and Flatten."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbaconv.arrays import COMPUTE, Array, as_array, result_type
from numbaconv.nn.module import Module, Parameter, as_real

Rng = int | np.random.Generator | None


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return ``dtype`` if parameters can have it."""
    dtype = np.dtype(dtype)
    if dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"dtype must be float16, float32 or float64, got {dtype}")
    return dtype


def positive(value: Any, name: str) -> int:
    """Return ``value`` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return number


def initial(shape: tuple[int, ...], bias: int, dtype: DTypeLike, rng: Rng) -> tuple[Parameter, Parameter | None]:
    """Draw weights of ``shape`` and ``bias`` biases as PyTorch does: uniform within 1/√fan_in.

    That is kaiming_uniform with a = √5 (He et al., arXiv:1502.01852); fan_in counts all axes of the weights but the first.
    """
    rng, dtype = np.random.default_rng(rng), float_dtype(dtype)
    bound = float(np.prod(shape[1:])) ** -0.5
    weight = Parameter(rng.uniform(-bound, bound, shape).astype(dtype))
    return weight, Parameter(rng.uniform(-bound, bound, bias).astype(dtype)) if bias else None


def _matmul(a: Array, b: Array) -> Array:
    dtype = result_type(a, b)
    compute = COMPUTE[dtype]
    return (a.astype(compute, copy=False) @ b.astype(compute, copy=False)).astype(dtype, copy=False)


class Linear(Module):
    """y = x · weightᵀ + bias over the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Length of the last axis of x and of y: x is (..., in_features), y is (..., out_features).
    bias : bool
        Whether to add a bias.
    dtype : dtype
        Of the parameters: float16, float32 or float64.
    rng : int or numpy.random.Generator, optional
        What draws the initial values, uniform within 1/√in_features.

    Attributes
    ----------
    weight : Parameter, (out_features, in_features)
    bias : Parameter, (out_features,), or None

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> layer = nn.Linear(3, 2)
    >>> layer.weight.data, layer.bias.data = [[1, 2, 3], [4, 5, 6]], [0, 1]
    >>> layer(np.array([1, 0, 1], np.float32))
    array([ 4., 11.], dtype=float32)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = np.float32, rng: Rng = None) -> None:
        self.in_features, self.out_features = positive(in_features, "in_features"), positive(out_features, "out_features")
        shape = self.out_features, self.in_features
        self.weight, self.bias = initial(shape, self.out_features if bias else 0, dtype, rng)

    def forward(self, x: Any) -> Array:
        """Return (..., out_features) for x of (..., in_features)."""
        x = as_real(x, "x")
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have in_features={self.in_features} values on its last axis, got shape {x.shape}")
        y = _matmul(x, self.weight.data.T)
        if self.bias is not None:
            y = y + self.bias.data
        return self._keep(y, x)

    def backward(self, grad_out: Any, input_gradient: bool = True) -> Any:
        """Return the gradient of x, or None if it is not asked for; add to those of weight and bias."""
        grad_out, x = self._recall(grad_out)
        rows = grad_out.reshape(-1, self.out_features)
        self.weight.accumulate(_matmul(rows.T, x.reshape(-1, self.in_features)))
        if self.bias is not None:
            self.bias.accumulate(_matmul(np.ones(len(rows), rows.dtype), rows))
        return _matmul(grad_out, self.weight.data) if input_gradient else None

    def _settings(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Flatten(Module):
    """Join the axes from ``start_dim`` to ``end_dim`` in one: (N, C, H, W) becomes (N, C·H·W).

    Parameters
    ----------
    start_dim, end_dim : int
        First and last axis to join.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.Flatten()(np.ones((2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = operator.index(start_dim), operator.index(end_dim)

    def forward(self, x: Any) -> Array:
        """Return a view of x where NumPy can."""
        x = as_array(x, "x")
        if not (-x.ndim <= self.start_dim < x.ndim and -x.ndim <= self.end_dim < x.ndim):
            raise ValueError(f"x must have the axes {self.start_dim} to {self.end_dim}, got shape {x.shape}")
        first, last = self.start_dim % x.ndim, self.end_dim % x.ndim
        if first > last:
            raise ValueError(f"start_dim={self.start_dim} must not be after end_dim={self.end_dim}, got shape {x.shape}")
        joined = int(np.prod(x.shape[first : last + 1]))  # written out: reshape's -1 has no answer for an empty batch
        return self._keep(x.reshape(*x.shape[:first], joined, *x.shape[last + 1 :]), x.shape)

    def backward(self, grad_out: Any) -> Array:
        """Return grad_out in the shape of x."""
        grad_out, shape = self._recall(grad_out)
        return grad_out.reshape(shape)

    def _settings(self) -> str:
        return f"{self.start_dim}, {self.end_dim}"
