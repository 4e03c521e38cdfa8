"""The sum under `signal` and `ndimage`: correlations of arrays without channels, over any number of axes, and their gradients.

    y[b, o] = Σ_r x[b, o·stride + r − low] · h[b, r]        on each axis behind the first, zeros outside x

The first axis is a batch: x and h have as many rows, or one of them has one that serves all. Nothing is flipped, conjugated or
rounded here, and an axis's ``low`` may be negative. One to three axes are a problem for a room, planned once; more are
sums over their first axis of such problems.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv import memory
from numbaconv import plan as planning
from numbaconv.arrays import COMPUTE, Array, contiguous, copied_bytes, empty, namespace
from numbaconv.problem import TENSORS, ConvProblem, Op, Run

METHODS = ("auto", "direct", "fft")
Ints = tuple[int, ...]


class Axes(NamedTuple):
    """The geometry, a number for each axis behind the first: low padding, sizes of the output, strides, dilations of the input."""

    low: Ints
    size: Ints
    stride: Ints
    up: Ints

    @classmethod
    def of(cls, low: Ints, size: Ints, stride: Ints | None = None, up: Ints | None = None) -> Axes:
        """Return the geometry with strides and dilations of 1 where none are given."""
        ones = (1,) * len(low)
        return cls(tuple(low), tuple(size), stride or ones, up or ones)

    def behind_first(self) -> Axes:
        """Return the geometry without its first axis."""
        return Axes(self.low[1:], self.size[1:], self.stride[1:], self.up[1:])


def correlate(x: Array, h: Array, axes: Axes, method: str = "auto", out: Array | None = None) -> Array:
    """Return y in the dtype of x and h, which is the same; ``out``, if given, is filled and returned.

    ``method`` is "auto", "direct" (any algorithm as exact as the direct sum) or "fft".
    """
    return _run("fprop", x.shape, h.shape, axes, method, x, h, out)


def grad_x(dy: Array, h: Array, x_shape: Ints, axes: Axes, method: str = "auto") -> Array:
    """Return Σ dy · ∂y/∂x for x of a shape; no conjugates."""
    return _run("dgrad", x_shape, h.shape, axes, method, dy, h)


def grad_h(dy: Array, x: Array, h_shape: Ints, axes: Axes, method: str = "auto") -> Array:
    """Return Σ dy · ∂y/∂h for h of a shape; no conjugates."""
    return _run("wgrad", x.shape, h_shape, axes, method, dy, x)


def explain(
    x_shape: Ints, h_shape: Ints, axes: Axes, dtype: np.dtype[Any], title: str, method: str = "auto", measure: bool = False
) -> planning.Explanation:
    """Say which algorithm computes `correlate` and why."""
    problem = _problem(x_shape, h_shape, axes)
    return planning.explain_problem(problem, "fprop", dtype, title, *_asked(method), measure=measure)


def plan(op: Op, x_shape: Ints, h_shape: Ints, axes: Axes, dtype: np.dtype[Any], method: str = "auto") -> planning.Plan:
    """Return how a problem of one to three axes is computed on the CPU; worked out once."""
    return ready(op, x_shape, h_shape, axes, dtype, method).plan


class Ready(NamedTuple):
    """What is decided for one combination of shapes, dtype and method."""

    plan: planning.Plan
    run: Run
    shape: Ints  # of the result
    size: int  # bytes of the result and of the workspace


@functools.lru_cache(maxsize=4096)
def ready(op: Op, x_shape: Ints, h_shape: Ints, axes: Axes, dtype: np.dtype[Any], method: str, device: str = "cpu") -> Ready:
    """Decide how a problem of one to three axes is computed; worked out once."""
    chosen = planning.plan(_problem(x_shape, h_shape, axes), op, dtype, *_asked(method), device)
    shape = _result_shape(op, x_shape, h_shape, axes)
    return Ready(chosen, chosen.bound(), shape, chosen.workspace + math.prod(shape) * dtype.itemsize)


def _result_shape(op: Op, x_shape: Ints, h_shape: Ints, axes: Axes) -> Ints:
    if op == "fprop":
        return (x_shape[0] if h_shape[0] == 1 else h_shape[0], *axes.size)
    return x_shape if op == "dgrad" else h_shape


def _asked(method: str) -> tuple[str, str]:
    """Return the plan's words, method and precision: of the direct sums the cheapest is taken."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return ("auto", "highest") if method == "direct" else (method, "default")


def _problem(x_shape: Ints, h_shape: Ints, axes: Axes) -> ConvProblem:
    """Rows of the batch are images with one filter, or groups with their own, or filters of one image."""
    (a, *size), (b, *taps) = x_shape, h_shape

    def triple(values: Any, fill: int) -> Any:
        return (fill,) * (3 - len(values)) + tuple(values)

    batch, groups, channels, filters = (a, 1, 1, 1) if b == 1 else (1, 1, 1, b) if a == 1 else (1, b, b, b)
    return ConvProblem(
        batch, channels, filters, groups, triple(size, 1), triple(taps, 1), triple(axes.size, 1), triple(axes.stride, 1), (1, 1, 1),
        triple(axes.up, 1), triple(axes.low, 0), False, False, len(size),
    )  # fmt: skip


def _run(op: Op, x_shape: Ints, h_shape: Ints, axes: Axes, method: str, a: Array, b: Array, out: Array | None = None) -> Array:
    if len(x_shape) > 4:
        return _more_axes(op, x_shape, h_shape, axes, method, a, b, out)
    given, dtype, xp = a.dtype, COMPUTE[a.dtype], namespace(a)
    if not (a.size and b.size and math.prod(axes.size)):
        nothing = xp.zeros(_result_shape(op, x_shape, h_shape, axes), a.dtype) if out is None else out
        nothing[...] = 0
        return nothing
    on_gpu = xp is not np
    found = ready(op, x_shape, h_shape, axes, dtype, method, "cuda" if on_gpu else "cpu")
    needed = found.size + (0 if on_gpu else copied_bytes(a, dtype) + copied_bytes(b, dtype))
    if needed > memory.UNCHECKED_BYTES:
        _require_memory(on_gpu)(needed, f"an output of shape {found.shape} with the workspace of {found.plan.name!r}")
    direct = out is not None and out.dtype == dtype and (out is contiguous(out, dtype) if on_gpu else out.flags.carray)
    result: Array = out if direct else (xp.empty if on_gpu else empty)(found.shape, dtype)  # type: ignore[assignment]
    found.run(contiguous(a, dtype), contiguous(b, dtype), result)
    if direct:
        return result
    if out is None:
        return result if dtype == given else result.astype(given)
    out[...] = result
    return out


def _require_memory(on_gpu: bool) -> Any:
    if not on_gpu:
        return memory.require
    from numbaconv.cuda import calls

    return calls.require_memory


def _more_axes(op: Op, x_shape: Ints, h_shape: Ints, axes: Axes, method: str, a: Array, b: Array, out: Array | None) -> Array:
    """Add up what each triple of positions on the first axis gives, computed over the others."""
    result = namespace(a).zeros(_result_shape(op, x_shape, h_shape, axes), a.dtype)
    rest = axes.behind_first()
    for o in range(axes.size[0]):
        for r in range(h_shape[1]):
            i, between = divmod(o * axes.stride[0] + r - axes.low[0], axes.up[0])
            if between or not 0 <= i < x_shape[1]:
                continue
            places = {"x": i, "w": r, "y": o}
            first, second, third = (places[name] for name in TENSORS[op])
            inner_x, inner_h = (x_shape[0], *x_shape[2:]), (h_shape[0], *h_shape[2:])
            result[:, third] += _run(op, inner_x, inner_h, rest, method, a[:, first], b[:, second])
    if out is None:
        return result
    out[...] = result
    return out
