"""A chain of layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from numbaconv.arrays import Array, as_array
from numbaconv.nn.activation import TABLE, ActivationBase
from numbaconv.nn.conv import ConvBase
from numbaconv.nn.module import Module


class Sequential(Module):
    """Layers one after the other; backward goes through them in reverse.

    A convolution followed by an activation layer applies it as it stores its output. Names and parameters stay the same.

    Parameters
    ----------
    *layers : Module
        In order; each object once, since a layer keeps what its own last forward saw.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 10))
    >>> net(np.ones((5, 1, 8, 8), np.float32)).shape
    (5, 10)
    >>> list(net.state_dict())
    ['0.weight', '0.bias', '4.weight', '4.bias']
    """

    def __init__(self, *layers: Module) -> None:
        for layer in layers:
            if not isinstance(layer, Module):
                raise TypeError(f"layers must be Modules, got {layer!r}")
        self._layers = layers
        inside = list(self.modules())
        if len({id(module) for module in inside}) < len(inside):
            raise ValueError("a layer must not appear twice: it keeps the activations of one forward; make another one")

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the layers, named by their positions."""
        for index, layer in enumerate(self._layers):
            yield str(index), layer

    def forward(self, x: Any) -> Array:
        """Return the output of the last layer."""
        x = as_array(x, "x")
        ran: list[Module] = []
        rest = list(self._layers)
        while rest:
            layer = rest.pop(0)
            if rest and (name := _fusible(layer, rest[0])):
                assert isinstance(layer, ConvBase)
                x = layer.forward_with(x, name)
                rest.pop(0)
            else:
                x = layer(x)
            ran.append(layer)
        return self._keep(x, ran)

    def backward(self, grad_out: Any, input_gradient: bool = True) -> Any:
        """Return the gradient of the input; add to those of all parameters.

        Parameters
        ----------
        grad_out : array_like
            Gradient of the loss with respect to the output of the last ``forward``, of its shape.
        input_gradient : bool
            False to compute no more than the parameters' gradients, and return None: the first layer of a network computes
            in vain what becomes of its data. A layer is told so if its ``backward`` has this parameter.
        """
        grad_out, ran = self._recall(grad_out)
        first = 0 if input_gradient else next((i for i, layer in enumerate(ran) if any(layer.parameters())), len(ran))
        for layer in reversed(ran[first:]):
            if layer is ran[first] and not input_gradient and "input_gradient" in inspect.signature(layer.backward).parameters:
                layer.backward(grad_out, input_gradient=False)
            else:
                grad_out = layer.backward(grad_out)
        for module in (module for layer in ran[:first] for module in layer.modules()):
            module._kept = None  # as its backward would have done
        return grad_out if input_gradient else None

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers)

    def __getitem__(self, index: int | slice) -> Module:
        return Sequential(*self._layers[index]) if isinstance(index, slice) else self._layers[index]


def _fusible(layer: Module, follower: Module) -> str | None:
    """Return the name of the activation that ``layer`` can apply for ``follower``, if any."""
    if not isinstance(layer, ConvBase) or layer.activation is not None or not isinstance(follower, ActivationBase):
        return None
    name = follower.fused_name
    # To train, the derivative must follow from the output: a fused convolution never has anything else.
    return name if name and (TABLE[name].keeps_output or not layer.training) else None
