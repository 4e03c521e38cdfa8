"""The oracle: the three operations in NumPy, slow and obviously right.

Each axis lists the (i, o) pairs that the equation of `problem` allows for every tap; each tap then adds one product of
slices. Integers are exact, and floats are summed by NumPy in the dtype of the arrays given (pass float64 for an oracle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from numbaconv.problem import ConvProblem, Op

Array = np.ndarray[Any, Any]


def _sigmoid(v: Array) -> Array:
    from scipy.special import expit

    return expit(v)


def _gelu(v: Array) -> Array:
    from scipy.special import erfc

    return v * 0.5 * erfc(-v * 0.5**0.5)


# What each activation means; the leaky slope is PyTorch's default, and gelu is the exact one.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0),
    "leaky_relu": lambda v: np.where(v > 0, v, v * 0.01),
    "silu": lambda v: v * _sigmoid(v),
    "gelu": _gelu,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
}


def pairs(problem: ConvProblem, axis: int, tap: int) -> tuple[list[int], list[int]]:
    """Return the i and the o for which i·u + lo = o·s + tap·d on one axis, by trying every o."""
    u, s, d, lo = (v[axis] for v in (problem.input_dilation, problem.stride, problem.dilation, problem.low))
    r = problem.filter[axis] - 1 - tap if problem.flipped else tap
    hits = [(divmod(o * s + r * d - lo, u), o) for o in range(problem.output[axis])]
    good = [(i, o) for (i, rest), o in hits if rest == 0 and 0 <= i < problem.input[axis]]
    return [i for i, _ in good], [o for _, o in good]


def _taps(problem: ConvProblem) -> Iterator[tuple[Any, Any, Any]]:
    for tap in product(*(range(size) for size in problem.filter)):
        axes = [pairs(problem, axis, r) for axis, r in enumerate(tap)]
        yield tap, np.ix_(*(i for i, _ in axes)), np.ix_(*(o for _, o in axes))


def _grouped(t: Array, groups: int) -> Array:
    """(N, C, D, H, W) -> (N, groups, C/groups, D, H, W)."""
    return t.reshape(t.shape[0], groups, t.shape[1] // groups, *t.shape[2:])


def run(problem: ConvProblem, op: Op, a: Array, b: Array, bias: Array | None = None, activation: str | None = None) -> Array:
    """Compute ``op``; a and b in the problem's layout with all three spatial axes, as an algorithm's ``run`` gets them.

    fprop takes (x, w) and gives y, dgrad takes (dy, w) and gives dx, wgrad takes (dy, x) and gives dw.
    """
    g = problem.groups
    if problem.channels_last:
        a = np.moveaxis(a, -1, 1)
        b = np.moveaxis(b, -1, 1) if op == "wgrad" else b
    dtype = np.result_type(a, b)
    a = _grouped(a, g)
    b = _grouped(b, g) if op == "wgrad" else b.reshape(g, b.shape[0] // g, *b.shape[1:])
    k, c = problem.out_channels // g, problem.in_channels // g
    if op == "wgrad":
        out = np.zeros((g, k, c, *problem.filter), dtype)
    else:
        channels, size = (k, problem.output) if op == "fprop" else (c, problem.input)
        out = np.zeros((problem.batch, g, channels, *size), dtype)
    for tap, i, o in _taps(problem):
        at_i, at_o, at_tap = ((..., *index) for index in (i, o, tap))
        if op == "fprop":
            out[at_o] += np.einsum("ngcdhw,gkc->ngkdhw", a[at_i], b[at_tap])
        elif op == "dgrad":
            out[at_i] += np.einsum("ngkdhw,gkc->ngcdhw", a[at_o], b[at_tap])
        else:
            out[at_tap] += np.einsum("ngkdhw,ngcdhw->gkc", a[at_o], b[at_i])
    if op == "wgrad":
        return out.reshape(g * k, c, *problem.filter)
    out = out.reshape(out.shape[0], out.shape[1] * out.shape[2], *out.shape[3:])
    if bias is not None:
        out = out + bias.reshape(-1, 1, 1, 1)
    if activation is not None:
        out = ACTIVATIONS[activation](out)
    return np.moveaxis(out, 1, -1) if problem.channels_last else out
