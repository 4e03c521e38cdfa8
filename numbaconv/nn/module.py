"""What every layer is: parameters with gradients, a forward that keeps what its backward needs, and a state to save."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from numbaconv.arrays import Array, as_array, check_shape


def as_real(value: Any, name: str) -> Array:
    """Return ``value`` as an array of real numbers: parameters have no complex gradients."""
    array = as_array(value, name)
    if array.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got dtype {array.dtype}")
    return array


class Parameter:
    """An array that is learnt, with the gradient that the backward passes add up.

    Parameters
    ----------
    data : array_like
        Initial values; floating point.

    Attributes
    ----------
    data : ndarray
        The values. Assigning converts to the same dtype and checks the shape; changing them in place is fine too.
    grad : ndarray or None
        Gradient of the loss, like ``data``; None until the first backward and after ``zero_grad``.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> weight = nn.Parameter(np.zeros(3, np.float32))
    >>> weight.data = [1, 2, 3]
    >>> weight.data
    array([1., 2., 3.], dtype=float32)
    """

    def __init__(self, data: Any) -> None:
        self._data = np.array(data)
        if self._data.dtype.kind != "f":
            raise TypeError(f"a parameter must be floating point, got dtype {self._data.dtype}")
        self.grad: Array | None = None
        self._accesses = 0

    @property
    def data(self) -> Array:
        """The values."""
        self._accesses += 1
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._accesses += 1
        if value is self._data:  # `parameter.data -= step` has changed the values already
            return
        array = np.array(value, dtype=self.dtype)
        check_shape(array, self.shape, "data", "that of the parameter")
        self._data = array

    def _accesses_if_settled(self) -> int | None:
        """Return a number that changes before the values can, or None while somebody else holds them and may write to them.

        Whoever changes values in place must first get them from ``data``, which counts, or have kept them, or a view of them,
        from before, which the references to the array tell.
        """
        return self._accesses if sys.getrefcount(self._data) <= _OWN_REFERENCES else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values and of the gradient."""
        return self._data.dtype

    def accumulate(self, grad: Array) -> None:
        """Add ``grad`` to the gradient, which keeps the dtype of the values."""
        if self.grad is None:
            self.grad = grad.astype(self.dtype, copy=False)
        else:
            self.grad = (self.grad + grad).astype(self.dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Parameter({self._data!r})"


class _Alone:
    """Like a parameter whose values nobody else holds: the references that `Parameter._accesses_if_settled` counts then."""

    def __init__(self) -> None:
        self._data = np.zeros(1)

    def references(self) -> int:
        return sys.getrefcount(self._data)


_OWN_REFERENCES = _Alone().references()


class Module:
    """A layer or a network: call it for the output, then ``backward`` for the gradients.

    A subclass has ``forward(x)`` and ``backward(grad_out)``; parameters and modules that are its attributes are found by
    name. In training mode, the initial one, ``forward`` keeps what ``backward`` needs (arrays themselves, not copies: do
    not change an input in between) and ``backward`` releases it; in evaluation mode nothing is kept.

    In evaluation mode a convolution keeps its weights prepared, from the second input of one shape on. It drops them when the weights may
    have changed: after any access to ``weight.data`` (an optimiser's step and ``load_state_dict`` are some), another Parameter in its
    place, ``train`` or ``eval``. While you hold the array, or a view of it, nothing is kept, so that changes in place are always seen.

    Attributes
    ----------
    training : bool
        Set by ``train`` and ``eval``.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> class Residual(nn.Module):
    ...     def __init__(self, inner):
    ...         self.inner = inner
    ...     def forward(self, x):
    ...         return x + self.inner(x)
    ...     def backward(self, grad_out):
    ...         return grad_out + self.inner.backward(grad_out)
    >>> net = Residual(nn.Conv1d(2, 2, 3, padding=1))
    >>> [name for name, _ in net.named_parameters()]
    ['inner.weight', 'inner.bias']
    >>> y = net(np.ones((1, 2, 5), np.float32))
    >>> net.backward(np.ones_like(y)).shape
    (1, 2, 5)
    """

    training = True
    _kept: tuple[Any, ...] | None = None
    _prepared: tuple[Any, ...] | None = None  # what evaluation mode may use again

    def __call__(self, x: Any) -> Array:
        """Return ``forward(x)``."""
        return self.forward(x)

    def forward(self, x: Any) -> Array:
        """Return the output for ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")

    def backward(self, grad_out: Any) -> Array:
        """Return the gradient of the input; add to ``grad`` of each parameter.

        Parameters
        ----------
        grad_out : array_like
            Gradient of the loss with respect to the output of the last ``forward``, of its shape.

        Raises
        ------
        RuntimeError
            If there was no ``forward`` in training mode since the last ``backward``.
        ValueError
            If ``grad_out`` does not have the shape of the output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define backward(grad_out)")

    def _keep(self, output: Array, *values: Any) -> Array:
        """Keep what backward needs, if this is training; return the output."""
        self._kept = (output.shape, *values) if self.training else None
        return output

    def _recall(self, grad_out: Any) -> tuple[Any, ...]:
        """Return the checked ``grad_out`` and what was kept, and release it."""
        if self._kept is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward in training mode before it: one forward for each backward")
        grad_out = as_real(grad_out, "grad_out")
        check_shape(grad_out, self._kept[0], "grad_out", "that of the output")
        values = self._kept[1:]
        self._kept = None
        return (grad_out, *values)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the modules directly inside this one, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """Yield this module and all inside it."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def _all_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child._all_parameters(f"{prefix}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield every parameter once, with its dotted name."""
        seen: set[int] = set()
        for name, parameter in self._all_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Module:
        """Set training mode here and in all modules inside; return self."""
        for module in self.modules():
            module.training = bool(mode)
            module._kept = module._prepared = None
        return self

    def eval(self) -> Module:
        """Set evaluation mode: nothing is kept for ``backward``, and layers may keep their weights as kernels read them; return self."""
        return self.train(False)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters by name; names and shapes are PyTorch's."""
        return {name: parameter.data.copy() for name, parameter in self._all_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all parameters, or none if anything does not fit.

        Parameters
        ----------
        state : mapping of str to array_like
            As ``state_dict`` gives it, or that of a PyTorch model; converted to the parameters' dtypes.

        Raises
        ------
        ValueError
            If names are missing or unexpected, or shapes or dtypes do not fit; the message lists all of them.
        """
        own = dict(self._all_parameters())
        given = {name: np.asarray(value) for name, value in state.items()}
        wrong = [f"{name} is missing" for name in own if name not in given]
        wrong += [f"{name} is unexpected" for name in given if name not in own]
        for name, parameter in own.items():
            if name not in given:
                continue
            if given[name].shape != parameter.shape:
                wrong.append(f"{name} must have shape {parameter.shape}, got {given[name].shape}")
            elif not np.can_cast(given[name].dtype, parameter.dtype, "same_kind"):
                wrong.append(f"{name} must hold real numbers, got dtype {given[name].dtype}")
        if wrong:
            raise ValueError(f"the state does not fit this {type(self).__name__}, nothing was loaded: {'; '.join(wrong)}")
        for name, parameter in own.items():
            parameter.data = given[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and not isinstance(value, Parameter | None):
            raise TypeError(f"{name} is a Parameter: assign its values with .{name}.data = ..., got {type(value).__name__}")
        super().__setattr__(name, value)

    def _settings(self) -> str:
        return ""

    def __repr__(self) -> str:
        children = [f"  {name}: {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n" + "\n".join(children) + "\n" if children else self._settings()
        return f"{type(self).__name__}({inside})"
