"""Numba's entry point: makes scipy.signal callable in nopython code, at no cost for those who don't call it.

Numba calls `register` when a process compiles its first function. What belongs to a module that is not imported by then is registered when
it is. Registered are names: this library's other modules are imported when compiled code calls one of the functions. `numbaconv.jit` adds
this library's own functions.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Modules whose functions can be called in nopython code, and the parts of numbaconv.nopython where they are compiled.
WATCHED: dict[str, dict[str, str]] = {
    "scipy.signal": {
        "_convolution": "convolve correlate fftconvolve oaconvolve correlation_lags",
        "_two_axes": "convolve2d correlate2d",
        "_filters": "lfilter sosfilt filtfilt sosfiltfilt",
        "_resampling": "upfirdn resample_poly",
        "_smoothing": "savgol_coeffs savgol_filter deconvolve",
    },
    "scipy.ndimage": {"_ndimage": "correlate convolve correlate1d convolve1d gaussian_filter1d gaussian_filter"},
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


def _refresh() -> None:
    """Let Numba see what was registered, in case it is compiling a function that imported the module."""
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
    for part, functions in WATCHED[like or name].items():
        for function in functions.split():
            _promise(sys.modules[name], (like or name).partition(".")[2], function, part)
        if not functions:
            importlib.import_module(f"numbaconv.nopython.{part}")
    _done.add(name)
    for other in [other for other in WATCHED if _model(other) == name and other in sys.modules]:
        _load(other)


def _promise(module: ModuleType, area: str, name: str, part: str) -> None:
    """Register a function of a module, if that is where it comes from; the part that compiles it is imported at the first call of it."""
    from numba.core.errors import TypingError
    from numba.extending import overload

    function, library = getattr(module, name, None), module.__name__.partition(".")[0]
    if function is None or (library != "scipy" and function.__module__ != module.__name__):
        return

    def choose(*args: Any, **kwargs: Any) -> Any:
        if not hasattr(choose, "__wrapped__"):
            importlib.import_module(f"numbaconv.nopython.{part}")
            choices = importlib.import_module("numbaconv.nopython._compile").CHOICES
            choose.__wrapped__ = choices[area, name]  # type: ignore[attr-defined]  # Numba asks for its signature
            try:
                inspect.signature(choose).bind(*args, **kwargs)
            except TypeError as error:  # as Numba does where it knows the signature
                raise TypingError(str(error)) from error
        return choose.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    choose.__name__ = choose.__qualname__ = name  # for messages
    overload(function, prefer_literal=True)(choose)


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
            _refresh()
        except Exception as reason:  # somebody else's import is not to fail by what we add to it
            warnings.warn(f"numbaconv cannot make {spec.name} callable in nopython code: {reason!r}", RuntimeWarning, stacklevel=2)

    if load is not None:
        spec.loader.exec_module = load_and_register  # type: ignore[method-assign, union-attr]
