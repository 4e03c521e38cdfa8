"""Losses: called with predictions and targets; ``backward`` gives the gradient of the predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.arrays import COMPUTE, Array, check_shape
from numbaconv.nn.module import as_real

REDUCTIONS = ("mean", "sum", "none")


class _Loss:
    """What the losses share: reduction over all elements, and what backward needs."""

    _kept: tuple[Any, ...] | None = None

    def __init__(self, *, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        self.reduction = reduction

    def __call__(self, prediction: Any, target: Any) -> Any:
        """Return ``forward(prediction, target)``."""
        return self.forward(prediction, target)

    def forward(self, prediction: Any, target: Any) -> Any:
        """Return the loss: one number, or with reduction "none" an array."""
        raise NotImplementedError

    def _reduced(self, losses: Array, dtype: np.dtype[Any], *values: Any) -> Any:
        if self.reduction == "mean" and losses.size == 0:
            raise ValueError("the mean loss of an empty batch is not defined")
        self._kept = (losses.shape, dtype, *values)
        if self.reduction == "none":
            return losses.astype(dtype, copy=False)
        return (losses.mean() if self.reduction == "mean" else losses.sum()).astype(dtype)

    def _recall(self, grad_out: Any) -> tuple[Any, ...]:
        """Return the gradient of each loss before reduction, the dtype of the result and what was kept."""
        if self._kept is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward before it: call the loss first")
        (shape, dtype, *values), grad = self._kept, as_real(grad_out, "grad_out")
        check_shape(grad, shape if self.reduction == "none" else (), "grad_out", "that of the loss")
        grad = grad.astype(COMPUTE[dtype])
        if self.reduction == "mean":
            grad = grad / grad.dtype.type(max(int(np.prod(shape)), 1))
        return (np.broadcast_to(grad, shape), dtype, *values)

    def backward(self, grad_out: Any = 1.0) -> Array:
        """Return the gradient of the last prediction.

        Parameters
        ----------
        grad_out : array_like
            Gradient with respect to the loss, of its shape: one number, or with reduction "none" an array.

        Raises
        ------
        RuntimeError
            If there was no forward.
        """
        raise NotImplementedError


def _floating(value: Any, name: str) -> Array:
    array = as_real(value, name)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


class CrossEntropyLoss(_Loss):
    """Negative logarithm of the softmax probability of the right class.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        How the losses of the batch are joined.

    Notes
    -----
    The logits are (N, classes), (classes,) or (N, classes, ...); the targets have their shape without the classes and hold
    class indices. loss = log Σ exp(logits − m) − (logits[target] − m) with m = max(logits), so that nothing overflows.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> loss = nn.CrossEntropyLoss()
    >>> float(loss(np.array([[0.0, 0.0, 1000.0]]), [2]))
    0.0
    >>> bool(np.all(loss.backward() == 0))
    True
    """

    def forward(self, prediction: Any, target: Any) -> Any:
        """Return the loss of logits ``prediction`` for class indices ``target``."""
        logits, target = _floating(prediction, "prediction"), np.asarray(target)
        if target.dtype.kind not in "iu":
            raise TypeError(f"target must hold class indices, got dtype {target.dtype}")
        if logits.ndim < 1:
            raise ValueError("prediction must be (N, classes), (classes,) or (N, classes, ...), got a number")
        axis = min(logits.ndim - 1, 1)
        check_shape(target, logits.shape[:axis] + logits.shape[axis + 1 :], "target", "that of the prediction without the classes")
        classes = logits.shape[axis]
        if target.size and not (0 <= target.min() and target.max() < classes):
            raise ValueError(f"target must hold indices of {classes} classes, got {target.min()} to {target.max()}")
        at = np.expand_dims(target.astype(np.intp), axis)
        wide = logits.astype(COMPUTE[logits.dtype], copy=False)
        shifted = wide - wide.max(axis, keepdims=True) if wide.size else wide
        exp = np.exp(shifted)
        total = exp.sum(axis, keepdims=True)
        losses = np.log(total) - np.take_along_axis(shifted, at, axis)
        return self._reduced(losses.squeeze(axis), logits.dtype, exp / total, at, axis)

    def backward(self, grad_out: Any = 1.0) -> Array:
        """Return the gradient of the logits: (softmax − one-hot target) · grad_out."""
        grad, dtype, softmax, at, axis = self._recall(grad_out)
        grad = np.expand_dims(grad, axis)
        grad_logits = softmax * grad
        np.put_along_axis(grad_logits, at, np.take_along_axis(grad_logits, at, axis) - grad, axis)
        return grad_logits.astype(dtype, copy=False)


class MSELoss(_Loss):
    """Squared difference of prediction and target, of the same shape.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        How the squares of all elements are joined.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> loss = nn.MSELoss()
    >>> float(loss(np.array([1.0, 2.0]), np.array([1.0, 4.0])))
    2.0
    >>> loss.backward()
    array([ 0., -2.])
    """

    def forward(self, prediction: Any, target: Any) -> Any:
        """Return the loss."""
        prediction, target = _floating(prediction, "prediction"), _floating(target, "target")
        check_shape(target, prediction.shape, "target", "that of the prediction")
        dtype = np.result_type(prediction, target)
        difference = prediction.astype(COMPUTE[dtype]) - target
        return self._reduced(difference * difference, dtype, difference)

    def backward(self, grad_out: Any = 1.0) -> Array:
        """Return the gradient of the prediction: 2 · difference · grad_out."""
        grad, dtype, difference = self._recall(grad_out)
        return (2 * difference * grad).astype(dtype, copy=False)
