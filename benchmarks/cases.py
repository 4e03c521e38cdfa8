"""What is measured: named layers of real networks and named signals, shared by the asv suites and by compare.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

import numbaconv as nc

Array = np.ndarray[Any, Any]
OPS = ("forward", "grad_input", "grad_weight")


@dataclass(frozen=True)
class Layer:
    """One convolution of a network, at batch 1 so that the slowest algorithm on one core still takes well under two seconds."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    transposed: bool = False

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
            return (self.x_shape[0], self.w_shape[1] * self.options.get("groups", 1), *sizes)
        sizes = [(self.x_shape[2 + i] + 2 * lo[i] - extent[i]) // s[i] + 1 for i in range(self.rank)]
        return (self.x_shape[0], self.w_shape[0], *sizes)

    @property
    def macs(self) -> int:
        """Multiply-adds of each of the three operations, padding counted."""
        grid = self.x_shape if self.transposed else self.y_shape
        return grid[0] * prod(grid[2:]) * prod(self.w_shape)

    def axes(self, option: str, default: int) -> tuple[int, ...]:
        """Return an option as one int per axis."""
        value = self.options.get(option, default)
        return (value,) * self.rank if isinstance(value, int) else tuple(value)

    def operands(self, op: str, dtype: str = "float32") -> tuple[Array, Array]:
        """Return fresh random operands, in the order in which numbaconv takes them; never zeros, which compute faster."""
        a, b = {"forward": ("x", "w"), "grad_input": ("y", "w"), "grad_weight": ("x", "y")}[op]
        shapes = {"x": self.x_shape, "w": self.w_shape, "y": self.y_shape}
        return random(shapes[a], dtype), random(shapes[b], dtype)

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
    return np.random.default_rng().standard_normal(shape).astype(dtype)


LAYERS = {
    # ResNet-50 and ResNeXt-50
    "resnet50 stem 7×7 s2": Layer((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    "resnet50 1×1 256→64": Layer((1, 256, 56, 56), (64, 256, 1, 1)),
    "resnet50 1×1 256→512 s2": Layer((1, 256, 56, 56), (512, 256, 1, 1), {"stride": 2}),
    "resnet50 3×3 64@56": Layer((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "resnet50 3×3 128@28": Layer((1, 128, 28, 28), (128, 128, 3, 3), {"padding": 1}),
    "resnet50 3×3 256@14": Layer((1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    "resnet50 3×3 512@7": Layer((1, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    "resnext50 3×3 32×4": Layer((1, 128, 56, 56), (128, 4, 3, 3), {"padding": 1, "groups": 32}),
    # VGG-16
    "vgg16 conv1_2 64@224": Layer((1, 64, 224, 224), (64, 64, 3, 3), {"padding": 1}),
    "vgg16 conv4_2 512@28": Layer((1, 512, 28, 28), (512, 512, 3, 3), {"padding": 1}),
    # MobileNet-V2
    "mobilenetv2 expand 24→144": Layer((1, 24, 56, 56), (144, 24, 1, 1)),
    "mobilenetv2 depthwise 144@56": Layer((1, 144, 56, 56), (144, 1, 3, 3), {"padding": 1, "groups": 144}),
    "mobilenetv2 depthwise 96@112 s2": Layer((1, 96, 112, 112), (96, 1, 3, 3), {"stride": 2, "padding": 1, "groups": 96}),
    # ConvNeXt-T, DeepLab-v3, the up-sampling of a U-Net
    "convnext depthwise 7×7 96@56": Layer((1, 96, 56, 56), (96, 1, 7, 7), {"padding": 3, "groups": 96}),
    "deeplabv3 3×3 256@33 d12": Layer((1, 256, 33, 33), (256, 256, 3, 3), {"padding": 12, "dilation": 12}),
    "unet up 2×2 128→64@28": Layer((1, 128, 28, 28), (128, 64, 2, 2), {"stride": 2}, transposed=True),
    # sound and video: WaveNet (one second at 16 kHz), R3D-18, R(2+1)D-18
    "wavenet 64→128 d64": Layer((1, 64, 16000), (128, 64, 2), {"dilation": 64}),
    "r3d18 3×3×3 256@4×14": Layer((1, 256, 4, 14, 14), (256, 256, 3, 3, 3), {"padding": 1}),
    "r2plus1d 3×1×1 144→64": Layer((1, 144, 8, 28, 28), (64, 144, 3, 1, 1), {"padding": (1, 0, 0)}),
    # a grey image
    "image 1024² 5×5": Layer((1, 1, 1024, 1024), (1, 1, 5, 5), {"padding": 2}),
    "image 512² 15×15": Layer((1, 1, 512, 512), (1, 1, 15, 15), {"padding": 7}),
    # the smallest call: overhead
    "smallest 3×3@5": Layer((1, 1, 5, 5), (1, 1, 3, 3)),
}  # fmt: skip

SIGNALS = {
    **{f"10⁶ samples, {taps} taps": Signal((10**6,), (taps,)) for taps in (5, 31, 127, 1023, 8191)},
    **{f"1024² image, {k}×{k}": Signal((1024, 1024), (k, k)) for k in (3, 11, 31, 63)},
    "smallest 7, 3 taps": Signal((7,), (3,)),
}


def by_size(cases: dict[str, Any]) -> list[str]:
    """Return the names, smallest first."""
    return sorted(cases, key=lambda name: cases[name].macs)
