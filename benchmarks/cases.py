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
from importlib import import_module
from math import prod
from typing import Any

import numpy as np

import numbaconv as nc
from numbaconv.plan import Plan, plan
from numbaconv.problem import ConvProblem
from numbaconv.recipe import OPERATIONS, Asked, Function, problem_for

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
        return problem_for(Function(self.transposed, "forward", self.rank), self.x_shape, self.w_shape, Asked(**self.options))[0]

    def plan(self, op: str, dtype: str = "float32", method: str = "auto", **how: Any) -> Plan:
        """Return how numbaconv would compute ``op``; NotImplementedError where the method cannot."""
        return plan(self.problem, OPERATIONS[self.transposed, op], np.dtype(dtype), method, **how)  # type: ignore[index]

    def operands(self, op: str, dtype: str = "float32", draw: Callable[..., Any] | None = None) -> tuple[Any, Any]:
        """Return fresh random operands, in the order in which numbaconv takes them; never zeros, which compute faster."""
        draw = draw or random
        a, b = {"forward": ("x", "w"), "grad_input": ("y", "w"), "grad_weight": ("x", "y")}[op]
        shapes = {"x": self.x_shape, "w": self.w_shape, "y": self.y_shape}
        first, second = draw(shapes[a], dtype), draw(shapes[b], dtype)
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
    """Signals (or images) and the filter that they are convolved with; axes of ``shape`` before those of the filter are a batch."""

    shape: tuple[int, ...]
    taps: tuple[int, ...]
    mode: str = "same"

    @property
    def rank(self) -> int:
        """Number of axes that are filtered."""
        return len(self.taps)

    @property
    def macs(self) -> int:
        """Multiply-adds of the direct sum, as many outputs as inputs."""
        return prod(self.shape) * prod(self.taps)

    def takes(self, dtype: str) -> bool:
        """Return whether the call exists for that dtype."""
        return True

    def operands(self, dtype: str = "float32") -> tuple[Array, Array]:
        """Return fresh random signals and a filter of as many axes."""
        return random(self.shape, dtype), random((1,) * (len(self.shape) - self.rank) + self.taps, dtype)

    def call(self, library: str, x: Array, h: Array) -> Callable[[], Array]:
        """Return the call with "scipy" or "numbaconv", its method left to the library."""
        convolve = import_module(f"{library}.signal").convolve
        return lambda: convolve(x, h, mode=self.mode)

    def scale(self, x: Array, h: Array) -> Array:
        """Return ‖x‖₂‖h‖₂ of each signal: what the errors of an FFT are relative to."""
        return np.sqrt(np.sum(np.abs(x) ** 2, axis=tuple(range(-self.rank, 0)), keepdims=True, dtype=np.float64)) * np.linalg.norm(h)


@dataclass(frozen=True)
class Filter:
    """Any other call that is written alike with SciPy and with numbaconv."""

    shape: tuple[int, ...]
    module: str
    function: Callable[[Any, Array, Array], Array]  # of that module, an array and taps
    taps: tuple[int, ...] = (0,)
    opencv: Callable[[Any, Array], Array] | None = None  # the same of cv2, for real arrays
    kinds: str = "fc"

    def takes(self, dtype: str) -> bool:
        """Return whether the call exists for that dtype."""
        return np.dtype(dtype).kind in self.kinds

    def operands(self, dtype: str = "float32") -> tuple[Array, Array]:
        """Return a fresh random array and taps, none where the function makes its own."""
        return random(self.shape, dtype), random(self.taps, dtype)

    def call(self, library: str, x: Array, h: Array) -> Callable[[], Array]:
        """Return the call with "scipy" or "numbaconv"."""
        module = import_module(f"{library}.{self.module}")
        return lambda: self.function(module, x, h)

    def scale(self, x: Array, h: Array) -> Array:
        """Return ‖x‖₂‖h‖₂; filters that a function makes have a norm of about 1 or less."""
        return np.asarray(np.linalg.norm(x) * (np.linalg.norm(h) or 1))


def random(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Return normal numbers, other ones in every call."""
    rng, part = np.random.default_rng(), np.empty(0, dtype).real.dtype
    real = rng.standard_normal(shape, part)
    return real if np.dtype(dtype) == part else (real + 1j * rng.standard_normal(shape, part)).astype(dtype)


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


def _power(size: int) -> str:
    """Write 1000 as 10³."""
    return "10" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[len(str(size)) - 1]


TAPS, SIDES = (3, 15, 31, 127, 1023, 8191, 10**5), (3, 5, 11, 31, 63, 127)
SAMPLES, PIXELS = tuple(10**n for n in range(2, 8)), (256, 512, 1024, 2048, 4096)
OTHER_MODES = ((10**3, 31, "full"), (10**5, 127, "full"), (10**4, 1023, "valid"), (10**6, 31, "valid"), (10**6, 8191, "valid"))

SIGNALS: dict[str, dict[str, Any]] = {
    "signals-1d": {
        **{f"{_power(n)} samples, {r if r < 10**5 else _power(r)} taps": Signal((n,), (r,)) for n in SAMPLES for r in TAPS if r <= n},
        **{f"{_power(n)} samples, {r} taps, {mode}": Signal((n,), (r,), mode) for n, r, mode in OTHER_MODES},
    },
    "signals-2d": {f"{n}² image, {k}×{k}": Signal((n, n), (k, k)) for n in PIXELS for k in SIDES},
    "signals-batch": {
        **{
            f"{batch} signals of {_power(n)} samples, {r} taps": Signal((batch, n), (r,))
            for batch, n, r in ((8, 100, 15), (1000, 1000, 15), (64, 10**4, 31), (64, 10**4, 1023), (8, 10**5, 127), (8, 10**5, 8191))
        },
        **{
            f"{batch} images of {n}², {k}×{k}": Signal((batch, n, n), (k, k))
            for batch, n, k in ((256, 32, 3), (32, 128, 5), (32, 128, 11), (8, 512, 3), (8, 512, 31))
        },
    },
    "filters": {
        "upfirdn of 10⁵ samples up 2, 31 taps": Filter((10**5,), "signal", lambda signal, x, h: signal.upfirdn(h, x, up=2), (31,)),
        "upfirdn of 10⁶ samples down 4, 127 taps": Filter((10**6,), "signal", lambda signal, x, h: signal.upfirdn(h, x, down=4), (127,)),
        "resample_poly of 10⁵ samples by 2/1": Filter((10**5,), "signal", lambda signal, x, h: signal.resample_poly(x, 2, 1)),
        "resample_poly of 10⁵ samples by 160/147": Filter((10**5,), "signal", lambda signal, x, h: signal.resample_poly(x, 160, 147)),
        "lfilter of 10⁶ samples, 31 taps": Filter((10**6,), "signal", lambda signal, x, h: signal.lfilter(h, x.dtype.type(1), x), (31,)),
        "lfilter of 64 signals of 10⁴ samples, 127 taps": Filter(
            (64, 10**4), "signal", lambda signal, x, h: signal.lfilter(h, x.dtype.type(1), x), (127,)
        ),
        "savgol_filter of 10⁶ samples, window 31": Filter((10**6,), "signal", lambda signal, x, h: signal.savgol_filter(x, 31, 3), kinds="f"),
        "sepfir2d of 1024² image, 9 and 9 taps": Filter((1024, 1024), "signal", lambda signal, x, h: signal.sepfir2d(x, h[0], h[1]), (2, 9)),
        "correlate2d of 512² image, 5×5, symm": Filter((512, 512), "signal", lambda signal, x, h: signal.correlate2d(x, h, "same", "symm"), (5, 5)),
        "convolve of 1024² image, 5×5, reflect": Filter((1024, 1024), "ndimage", lambda ndimage, x, h: ndimage.convolve(x, h), (5, 5)),
        "correlate1d of 1024² image, 31 taps down": Filter((1024, 1024), "ndimage", lambda ndimage, x, h: ndimage.correlate1d(x, h, 0), (31,)),
        "gaussian_filter1d of 10⁶ samples, sigma 8": Filter((10**6,), "ndimage", lambda ndimage, x, h: ndimage.gaussian_filter1d(x, 8)),
        "gaussian_filter of 1024² image, sigma 2": Filter(
            (1024, 1024), "ndimage", lambda ndimage, x, h: ndimage.gaussian_filter(x, 2),
            opencv=lambda cv2, x: cv2.GaussianBlur(x, (17, 17), 2, borderType=cv2.BORDER_REFLECT),
        ),
        "gaussian_filter of 1024² image, sigma 8": Filter(
            (1024, 1024), "ndimage", lambda ndimage, x, h: ndimage.gaussian_filter(x, 8),
            opencv=lambda cv2, x: cv2.GaussianBlur(x, (65, 65), 8, borderType=cv2.BORDER_REFLECT),
        ),
        "uniform_filter of 1024² image, 9×9": Filter(
            (1024, 1024), "ndimage", lambda ndimage, x, h: ndimage.uniform_filter(x, 9),
            opencv=lambda cv2, x: cv2.blur(x, (9, 9), borderType=cv2.BORDER_REFLECT),
        ),
    },
}  # fmt: skip


def by_size(cases: dict[str, Any]) -> list[str]:
    """Return the names, smallest first."""
    return sorted(cases, key=lambda name: cases[name].macs)
