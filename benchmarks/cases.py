"""What a case is: a layer or a signal, how it is written down, its sizes and its operands; networks.py lists the layers.

A layer is written as ``C→K filter options @size``, of an input with C channels and that size, at batch 1:

    3→64 7×7 s2 @224        2-D: stride 2, input 224×224; the padding, where not given, is dilation · (taps − 1) // 2
    64→64 3×3 p0 d2 @56     padding 0, dilation 2
    96→96 3×3 g96 @112      96 groups: depthwise
    128→64 up 2×2 s2 @28    a transposed convolution
    3→45 1×7×7 s1×2×2 @16×112×112
    512→512 3 s2 p0 @3199   1-D: 3 taps
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

import numbaconv as nc
from numbaconv.plan import Plan, plan
from numbaconv.problem import ConvProblem
from numbaconv.recipe import OPERATIONS, problem_for

Array = np.ndarray[Any, Any]
OPS = ("forward", "grad_input", "grad_weight")
NOTATION = re.compile(r"(\d+)→(\d+) (up )?([\d×]+)(?: s([\d×]+))?(?: p([\d×]+))?(?: d([\d×]+))?(?: g(\d+))? @([\d×]+)")

# Multiply-adds of a case that take everyone about half a second on one core: dense layers, and those with one channel in a group.
MOST_DENSE, MOST_SPARSE = 3 * 10**10, 2 * 10**9


@dataclass(frozen=True)
class Layer:
    """One convolution of a network."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    transposed: bool = False
    one_filter: bool = False  # the same for every channel, as image libraries have it

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.w_shape) - 2

    @cached_property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the output, by the formula of the documentation."""
        s, lo, d = (self.axes(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
        extent = [d[i] * (self.w_shape[2 + i] - 1) + 1 for i in range(self.rank)]
        if self.transposed:
            sizes = [(self.x_shape[2 + i] - 1) * s[i] - 2 * lo[i] + extent[i] for i in range(self.rank)]
            return (self.x_shape[0], self.w_shape[1] * self.groups, *sizes)
        sizes = [(self.x_shape[2 + i] + 2 * lo[i] - extent[i]) // s[i] + 1 for i in range(self.rank)]
        return (self.x_shape[0], self.w_shape[0], *sizes)

    @property
    def macs(self) -> int:
        """Multiply-adds of each of the three operations, padding counted."""
        grid = self.x_shape if self.transposed else self.y_shape
        return grid[0] * prod(grid[2:]) * prod(self.w_shape)

    @property
    def elements(self) -> int:
        """Elements of x, w and y together: what every operation has to read and write."""
        return prod(self.x_shape) + prod(self.w_shape) + prod(self.y_shape)

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return int(self.options.get("groups", 1))

    def axes(self, option: str, default: int) -> tuple[int, ...]:
        """Return an option as one int per axis."""
        value = self.options.get(option, default)
        return (value,) * self.rank if isinstance(value, int) else tuple(value)

    def batched(self, batch: int) -> Layer:
        """Return the layer with ``batch`` samples, or half as many as often as it takes to stay at about half a second on one core."""
        most = MOST_DENSE if self.w_shape[1] > 1 else MOST_SPARSE
        while batch > 1 and batch * self.macs > most:
            batch //= 2
        return replace(self, x_shape=(batch, *self.x_shape[1:]))

    @cached_property
    def problem(self) -> ConvProblem:
        """What numbaconv makes of it."""
        geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "layout": None, **self.options}
        return problem_for(self.transposed, "forward", self.rank, self.x_shape, self.w_shape, geometry)[0]

    def plan(self, op: str, dtype: str = "float32", method: str = "auto") -> Plan:
        """Return how numbaconv would compute ``op``; NotImplementedError where the method cannot."""
        return plan(self.problem, OPERATIONS[self.transposed, op], np.dtype(dtype), method)  # type: ignore[index]

    def operands(self, op: str, dtype: str = "float32") -> tuple[Array, Array]:
        """Return fresh random operands, in the order in which numbaconv takes them; never zeros, which compute faster."""
        a, b = {"forward": ("x", "w"), "grad_input": ("y", "w"), "grad_weight": ("x", "y")}[op]
        shapes = {"x": self.x_shape, "w": self.w_shape, "y": self.y_shape}
        first, second = random(shapes[a], dtype), random(shapes[b], dtype)
        if self.one_filter and b == "w":
            second[1:] = second[0]
        return first, second

    def call(self, op: str, a: Array, b: Array, **how: Any) -> Array:
        """Compute ``op`` with numbaconv."""
        return self.bound(op, **how)(a, b)

    def bound(self, op: str, **how: Any) -> Callable[[Array, Array], Array]:
        """Return the function of two operands that computes ``op`` with numbaconv."""
        name = f"conv{'_transpose' if self.transposed else ''}{self.rank}d"
        options = {**self.options, **how}
        if op == "forward":
            function = getattr(nc, name)
            return lambda a, b: function(a, b, **options)
        function, shape = getattr(nc, f"{name}_{op}"), self.x_shape if op == "grad_input" else self.w_shape
        return lambda a, b: function(a, b, shape, **options)


@dataclass(frozen=True)
class Signal:
    """A signal (or image) and a filter."""

    shape: tuple[int, ...]
    taps: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the direct sum."""
        return prod(self.shape) * prod(self.taps)

    def operands(self, dtype: str = "float32") -> tuple[Array, Array]:
        """Return a fresh random signal and filter."""
        return random(self.shape, dtype), random(self.taps, dtype)


def random(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Return normal numbers, other ones in every call."""
    return np.random.default_rng().standard_normal(shape, dtype)


def layer(notation: str) -> Layer:
    """Read a layer as it is written in this file."""
    match = NOTATION.fullmatch(notation)
    if not match:
        raise ValueError(f"a layer is written 'C→K filter options @size', got {notation!r}")
    channels, filters, groups = int(match[1]), int(match[2]), int(match[8] or 1)
    taps = _numbers(match[4], 1)
    stride, dilation, size = (_numbers(match[n] or "1", len(taps)) for n in (5, 7, 9))
    padding = _numbers(match[6], len(taps)) if match[6] else tuple(d * ((r - 1) // 2) for r, d in zip(taps, dilation, strict=True))
    axes = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    options: dict[str, Any] = {name: value for name, (value, default) in axes.items() if set(value) != {default}}
    options = {name: value[0] if len(set(value)) == 1 else value for name, value in options.items()}  # as people write them
    w_shape = (channels, filters // groups, *taps) if match[3] else (filters, channels // groups, *taps)
    return Layer((1, channels, *size), w_shape, options | ({"groups": groups} if groups > 1 else {}), bool(match[3]))


def _numbers(text: str, count: int) -> tuple[int, ...]:
    values = tuple(map(int, text.split("×")))
    return values * count if len(values) == 1 else values


def network(layers: str) -> dict[str, Layer]:
    """Read a network's distinct layers, one to a line, under what is written there as their names."""
    return {line: layer(line) for line in map(str.strip, layers.strip().splitlines())}


SIGNALS = {
    **{f"10⁶ samples, {taps} taps": Signal((10**6,), (taps,)) for taps in (5, 31, 127, 1023, 8191)},
    **{f"1024² image, {k}×{k}": Signal((1024, 1024), (k, k)) for k in (3, 11, 31, 63)},
    "smallest 7, 3 taps": Signal((7,), (3,)),
}


def by_size(cases: dict[str, Any]) -> list[str]:
    """Return the names, smallest first."""
    return sorted(cases, key=lambda name: cases[name].macs)
