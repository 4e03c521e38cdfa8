"""Optimisers: ``step`` changes the parameters in place, by their gradients."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from numbaconv.arrays import Array
from numbaconv.nn.module import Parameter


class _Optimizer:
    """What the optimisers share: the parameters, checked, and the loop over those that have a gradient."""

    def __init__(self, params: Iterable[Parameter], lr: float, **rates: float) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("params must hold at least one Parameter, got none")
        for parameter in self.params:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"params must be Parameters, as layer.parameters() gives them, got {type(parameter).__name__}")
        if len({id(parameter) for parameter in self.params}) < len(self.params):
            raise ValueError("params must hold each Parameter once")
        for name, value in {"lr": lr, **rates}.items():
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.lr = lr  # may be changed between steps

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.params:
            parameter.grad = None

    def step(self) -> None:
        """Change each parameter that has a gradient."""
        for index, parameter in enumerate(self.params):
            if parameter.grad is not None:
                self._update(index, parameter.data, parameter.grad)

    def _update(self, index: int, data: Array, grad: Array) -> None:
        raise NotImplementedError


class SGD(_Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    Parameters
    ----------
    params : iterable of Parameter
        What to learn: ``net.parameters()``.
    lr : float
        Learning rate, the attribute ``lr``.
    momentum, dampening : float
        velocity = momentum · velocity + (1 − dampening) · grad; the first velocity is grad.
    weight_decay : float
        Times the parameter, added to its gradient.
    nesterov : bool
        Whether to step by grad + momentum · velocity instead of velocity; needs momentum without dampening.

    References
    ----------
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> weight = nn.Parameter(np.array([1.0, 2.0]))
    >>> weight.grad = np.array([10.0, -10.0])
    >>> nn.SGD([weight], lr=0.1).step()
    >>> weight.data
    array([0., 3.])
    """

    def __init__(self, params: Iterable[Parameter], lr: float = 1e-3, momentum: float = 0, dampening: float = 0,
                 weight_decay: float = 0, nesterov: bool = False) -> None:  # fmt: skip
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"nesterov needs a positive momentum and no dampening, got momentum={momentum}, dampening={dampening}")
        self.momentum, self.dampening, self.weight_decay, self.nesterov = momentum, dampening, weight_decay, nesterov
        self._velocity: dict[int, Array] = {}

    def _update(self, index: int, data: Array, grad: Array) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * data
        if self.momentum:
            if index in self._velocity:
                velocity = self._velocity[index]
                velocity *= self.momentum
                velocity += (1 - self.dampening) * grad
            else:
                velocity = self._velocity[index] = grad.copy()
            grad = grad + self.momentum * velocity if self.nesterov else velocity
        data -= self.lr * grad


class Adam(_Optimizer):
    """Adam: steps of about ``lr``, scaled per element by running means of the gradient and of its square.

    Parameters
    ----------
    params : iterable of Parameter
        What to learn: ``net.parameters()``.
    lr : float
        Learning rate, the attribute ``lr``.
    betas : (float, float)
        Decay of the two running means, in [0, 1).
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        Times the parameter, added to its gradient.

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> weight = nn.Parameter(np.array([1.0, 2.0]))
    >>> weight.grad = np.array([10.0, -10.0])
    >>> nn.Adam([weight], lr=0.5).step()
    >>> weight.data.round(6)
    array([0.5, 2.5])
    """

    def __init__(self, params: Iterable[Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0) -> None:  # fmt: skip
        super().__init__(params, lr, eps=eps, weight_decay=weight_decay)
        self.betas, self.eps, self.weight_decay = (betas[0], betas[1]), eps, weight_decay
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        self._means: dict[int, tuple[Array, Array]] = {}
        self._steps = dict.fromkeys(range(len(self.params)), 0)

    def _update(self, index: int, data: Array, grad: Array) -> None:
        if self.weight_decay:
            grad = grad + self.weight_decay * data
        if index not in self._means:
            self._means[index] = np.zeros_like(data), np.zeros_like(data)
        mean, square = self._means[index]
        self._steps[index] += 1
        (beta1, beta2), steps = self.betas, self._steps[index]
        mean += (1 - beta1) * (grad - mean)
        square *= beta2
        square += (1 - beta2) * (grad * grad)
        # Both means start at zero, hence 1 − βⁿ.
        root = np.sqrt(square) / (1 - beta2**steps) ** 0.5 + self.eps
        data -= self.lr / (1 - beta1**steps) * (mean / root)
