"""Numba's entry point: makes scipy.signal callable in nopython code, at no cost for those who don't call it.

Numba calls `register` when a process compiles its first function. What belongs to a module that is not imported by then is registered when
it is: until then nothing is imported, not even this library's other modules. `numbaconv.jit` adds this library's own functions.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Modules whose functions can be called in nopython code, and the parts of numbaconv.nopython where they are compiled.
WATCHED: dict[str, tuple[str, ...]] = {
    "scipy.signal": ("_convolution", "_two_axes", "_filters", "_resampling", "_smoothing"),
    "scipy.ndimage": ("_ndimage",),
}
_begun: set[str] = set()
_done: set[str] = set()


def register() -> None:
    """Make the functions callable in nopython code: those of modules that are imported already now, the others when they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in list(WATCHED):
        if name in sys.modules and not getattr(sys.modules[name].__spec__, "_initializing", False):
            _load(name)


def refresh() -> None:
    """Let Numba see what was registered, in case it is compiling a function at the moment."""
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def _model(name: str) -> str | None:
    """Return the module of SciPy whose functions those of a module of ours are like."""
    library, _, module = name.partition(".")
    like = f"scipy.{module.partition('.')[0]}"
    return like if library != "scipy" and like in WATCHED else None


def _load(name: str) -> None:
    """Register the functions of a module that is imported; those of ours after those of their model, which is imported for them."""
    if name in _begun:
        return
    if (like := _model(name)) and like not in _done:
        if like not in sys.modules:
            importlib.import_module(like)
        return  # its loading comes back here
    _begun.add(name)
    for part in WATCHED[name]:
        importlib.import_module(f"numbaconv.nopython.{part}")
    if like:
        importlib.import_module("numbaconv.nopython._compile").register_like_scipy(sys.modules[name])
    _done.add(name)
    for other in [other for other in WATCHED if _model(other) == name and other in sys.modules]:
        _load(other)
    refresh()


class _Finder:
    """Sees the import of modules that we wait for, and leaves it to the other finders."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders return, with a loader that registers afterwards."""
        if name not in WATCHED:
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
        try:
            _load(spec.name)
        except Exception as reason:  # somebody else's import is not to fail by what we add to it
            warnings.warn(f"numbaconv cannot make {spec.name} callable in nopython code: {reason!r}", RuntimeWarning, stacklevel=2)

    if load is not None:
        spec.loader.exec_module = load_and_register  # type: ignore[method-assign, union-attr]
