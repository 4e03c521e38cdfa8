"""scipy.signal inside ``@njit``: after ``pip install numbaconv`` users' compiled functions can call it, without an import of this library.

Numba calls `register` when a process compiles its first function. What belongs to a module that is not imported by then, scipy.signal say,
is registered when it is: until then nothing is imported, not even this library's other modules. ``import numbaconv.jit`` does the same.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SIGNAL = ("_convolution", "_two_axes", "_filters", "_resampling", "_smoothing")
# Modules whose functions can be called in nopython code, and where they are compiled.
_COMPILED = {
    "scipy.signal": _SIGNAL,
    "scipy.ndimage": ("_ndimage",),
    **dict.fromkeys((f"numbaconv.signal.{name}" for name in ("convolution", "choice", "filters", "smoothing")), _SIGNAL),
    "numbaconv.ndimage": ("_ndimage",),
    "numbaconv.functional": ("_layers",),
}


def register() -> None:
    """Make the functions callable in nopython code: those of modules that are imported already now, the others when they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        for name in _COMPILED:
            if name in sys.modules and not getattr(sys.modules[name].__spec__, "_initializing", False):
                _load(name)


def accelerate_numpy() -> None:
    """Put ``numpy.convolve`` and ``numpy.correlate`` in nopython code on this library's kernels, for functions that are compiled from now on.

    Every dtype of theirs is several times as fast. A function with ``cache=True`` that was compiled without it stays as it is in the cache.

    Examples
    --------
    >>> import numba
    >>> import numpy as np
    >>> import numbaconv.jit
    >>> numbaconv.jit.accelerate_numpy()
    >>> @numba.njit
    ... def smooth(x):
    ...     return np.convolve(x, np.ones(3), "valid")
    >>> smooth(np.arange(5.0))
    array([3., 6., 9.])
    """
    importlib.import_module("numbaconv.jit._numpy")
    _refresh()


def _load(name: str) -> None:
    for part in _COMPILED[name]:
        importlib.import_module(f"numbaconv.jit.{part}")
    if name.startswith(("numbaconv.signal", "numbaconv.ndimage")):
        importlib.import_module("numbaconv.jit._compile").register_like_scipy(sys.modules[name])
    _refresh()


def _refresh() -> None:
    """Let Numba see what was registered, in case it is compiling a function at the moment."""
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


class _Finder:
    """Sees the import of modules that we wait for, and leaves it to the other finders."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders return, with a loader that registers afterwards."""
        if name not in _COMPILED:
            return None
        for finder in sys.meta_path:
            found = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, "find_spec") else None
            if found is not None:
                _then_load(found)
                return found
        return None


def _then_load(spec: ModuleSpec) -> None:
    load = spec.loader.exec_module if spec.loader is not None else None

    def load_and_register(module: ModuleType) -> None:
        assert load is not None
        load(module)
        _load(spec.name)

    if load is not None:
        spec.loader.exec_module = load_and_register  # type: ignore[method-assign, union-attr]


register()
