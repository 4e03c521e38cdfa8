"""Convolution for people who live in NumPy: layers and signals, forward and backward, in Numba kernels.

Names are imported when they are first used: ``import numbaconv`` loads neither Numba nor CUDA.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FUNCTIONS = (
    *(f"{kind}{rank}d{suffix}" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)
      for suffix in ("", "_grad_input", "_grad_weight", "_grad_bias", "_backward")),
    "explain", "prepare", "PreparedWeights",
)  # fmt: skip
_THREADING = ("set_num_threads", "get_num_threads", "num_threads", "set_threading", "get_threading")
_MEMORY = ("get_kept_memory", "set_kept_memory")
_HOMES = {
    **dict.fromkeys(_FUNCTIONS, "numbaconv.functional"),
    **dict.fromkeys(_THREADING, "numbaconv.cpu._parallel"),
    **dict.fromkeys(_MEMORY, "numbaconv.memory"),
}
_MODULES = ("nn", "functional", "ndimage", "signal")
__all__ = ["__version__", *_HOMES, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # what the table above says, for editors and type checkers
    from numbaconv import functional as functional
    from numbaconv import ndimage as ndimage
    from numbaconv import nn as nn
    from numbaconv import signal as signal
    from numbaconv.cpu._parallel import get_num_threads as get_num_threads
    from numbaconv.cpu._parallel import get_threading as get_threading
    from numbaconv.cpu._parallel import num_threads as num_threads
    from numbaconv.cpu._parallel import set_num_threads as set_num_threads
    from numbaconv.cpu._parallel import set_threading as set_threading
    from numbaconv.functional import PreparedWeights as PreparedWeights
    from numbaconv.functional import conv1d as conv1d
    from numbaconv.functional import conv1d_backward as conv1d_backward
    from numbaconv.functional import conv1d_grad_bias as conv1d_grad_bias
    from numbaconv.functional import conv1d_grad_input as conv1d_grad_input
    from numbaconv.functional import conv1d_grad_weight as conv1d_grad_weight
    from numbaconv.functional import conv2d as conv2d
    from numbaconv.functional import conv2d_backward as conv2d_backward
    from numbaconv.functional import conv2d_grad_bias as conv2d_grad_bias
    from numbaconv.functional import conv2d_grad_input as conv2d_grad_input
    from numbaconv.functional import conv2d_grad_weight as conv2d_grad_weight
    from numbaconv.functional import conv3d as conv3d
    from numbaconv.functional import conv3d_backward as conv3d_backward
    from numbaconv.functional import conv3d_grad_bias as conv3d_grad_bias
    from numbaconv.functional import conv3d_grad_input as conv3d_grad_input
    from numbaconv.functional import conv3d_grad_weight as conv3d_grad_weight
    from numbaconv.functional import conv_transpose1d as conv_transpose1d
    from numbaconv.functional import conv_transpose1d_backward as conv_transpose1d_backward
    from numbaconv.functional import conv_transpose1d_grad_bias as conv_transpose1d_grad_bias
    from numbaconv.functional import conv_transpose1d_grad_input as conv_transpose1d_grad_input
    from numbaconv.functional import conv_transpose1d_grad_weight as conv_transpose1d_grad_weight
    from numbaconv.functional import conv_transpose2d as conv_transpose2d
    from numbaconv.functional import conv_transpose2d_backward as conv_transpose2d_backward
    from numbaconv.functional import conv_transpose2d_grad_bias as conv_transpose2d_grad_bias
    from numbaconv.functional import conv_transpose2d_grad_input as conv_transpose2d_grad_input
    from numbaconv.functional import conv_transpose2d_grad_weight as conv_transpose2d_grad_weight
    from numbaconv.functional import conv_transpose3d as conv_transpose3d
    from numbaconv.functional import conv_transpose3d_backward as conv_transpose3d_backward
    from numbaconv.functional import conv_transpose3d_grad_bias as conv_transpose3d_grad_bias
    from numbaconv.functional import conv_transpose3d_grad_input as conv_transpose3d_grad_input
    from numbaconv.functional import conv_transpose3d_grad_weight as conv_transpose3d_grad_weight
    from numbaconv.functional import explain as explain
    from numbaconv.functional import prepare as prepare
    from numbaconv.memory import get_kept_memory as get_kept_memory
    from numbaconv.memory import set_kept_memory as set_kept_memory
else:

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        elif name in _MODULES:
            value = importlib.import_module(f"numbaconv.{name}")
        else:
            raise AttributeError(f"module 'numbaconv' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
