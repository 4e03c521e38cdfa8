"""asv: the worst float32 error of each algorithm, in units of eps · Σ|x||w|, which is what DESIGN's promises are made in."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import OPS, Array, Layer
from benchmarks.layers import METHODS
from numbaconv import reference
from numbaconv.recipe import OPERATIONS

# Few and many channels, small enough for the reference; 3×3 with stride 1 is what every algorithm can do.
PROBLEMS = [Layer((1, c, 14, 14), (8, c, 3, 3), {"padding": 1}) for c in (1, 32, 256)]
FILLS = {"random sign": lambda values: values, "all positive": np.abs}


class Accuracy:
    """float32 results against the sum in float64 by the NumPy reference."""

    params = (METHODS, OPS, tuple(FILLS))
    param_names = ("method", "op", "data")

    def setup(self, method: str, op: str, data: str) -> None:
        """Find out whether the method can do the operation."""
        PROBLEMS[0].call(op, *PROBLEMS[0].operands(op), method=method)

    def track_error(self, method: str, op: str, data: str) -> float:
        """Return the worst error over all outputs of all problems."""
        return max(_error(layer, method, op, data) for layer in PROBLEMS)

    track_error.unit = "eps·Σ|x||w|"  # type: ignore[attr-defined]


def _error(layer: Layer, method: str, op: str, data: str) -> float:
    a, b = (FILLS[data](operand) for operand in layer.operands(op))
    result = layer.call(op, a, b, method=method)
    bound = exact(layer, op, np.abs(a), np.abs(b)) * np.finfo(np.float32).eps
    return float(np.max(np.abs(result - exact(layer, op, a, b)) / bound))


def exact(layer: Layer, op: str, a: Array, b: Array) -> Array:
    """Compute ``op`` in float64 by the reference."""
    first, second = (b, a) if op == "grad_weight" else (a, b)  # the reference takes dy before x
    axes = (1,) * (3 - layer.rank)
    wide = [t.astype(np.float64).reshape(*t.shape[:2], *axes, *t.shape[2:]) for t in (first, second)]
    shape = {"forward": layer.y_shape, "grad_input": layer.x_shape, "grad_weight": layer.w_shape}[op]
    return reference.run(layer.problem, OPERATIONS[False, op], *wide).reshape(shape)  # type: ignore[index]
