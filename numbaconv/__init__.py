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
_HOMES = {
    **dict.fromkeys(_FUNCTIONS, "numbaconv.functional"),
    **dict.fromkeys(_THREADING, "numbaconv.cpu._parallel"),
}
_MODULES = ("nn", "functional")
__all__ = ["__version__", *_HOMES, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from numbaconv import functional, nn  # noqa: F401
    from numbaconv.cpu._parallel import *  # noqa: F403
    from numbaconv.functional import *  # noqa: F403


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
