"""Kernels for nopython code: each is compiled once on a machine, and users' code calls it through a symbol.

Numba links what a function calls into the function, and would compile a kernel again with each user's function, and again at every
level between. So a kernel stays a library of its own, in the library's own cache. What is linked in is a call of a symbol, which is
named by the kernel, its signature and the hash of all sources.

A user's function with ``cache=True`` is kept by Numba under a key that knows nothing of this library. So a `Stamp` for each symbol is
left among the constants of the code that calls it, and Numba keeps these with the function. Reading a stamp loads the kernel. If it is
one of other sources, it raises what Numba takes for a missing file, and the function is compiled anew.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from numbaconv._jit import FASTMATH, CodeCache, named_apart, source_hash

# Nobody calls them from Python.
OPTIONS = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
ROCKET = (0, 4, 1)  # as in pyproject.toml


@functools.cache
def rocket() -> str:
    """Return the version of rocket-fft that is installed, or nothing if there is none or an older one than the extra asks for."""
    try:
        version = importlib.metadata.version("rocket-fft")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return version if tuple(map(int, re.findall(r"\d+", version)[:3])) >= ROCKET else ""


@functools.cache
def sources() -> str:
    """Return a hash of everything that compiled code may come from, or of nothing where the sources cannot be read."""
    try:
        here = b"\0".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    except OSError:
        return ""
    return hashlib.sha256(here + f"{source_hash()} {rocket()}".encode()).hexdigest()[:24]


class Recipe(NamedTuple):
    """Where a kernel comes from: a name in a module or, with arguments, what a function of that name returns."""

    module: str
    name: str
    arguments: tuple[Any, ...] | None = None

    def kernel(self) -> Kernel:
        """Return the kernel."""
        found = getattr(importlib.import_module(self.module), self.name)
        kernel: Kernel = (found if self.arguments is None else found(*self.arguments)).kernel
        return kernel


class Stamp(NamedTuple):
    """A constant of compiled code that calls a kernel: to read it back is to load the kernel."""

    recipe: Recipe
    signature: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (sources(), self.recipe, self.signature)


def restored(written: str, recipe: Recipe, signature: tuple[Any, ...]) -> Stamp:
    """Load the kernel of a stamp that these sources wrote. The name is part of users' files: it has to stay."""
    if not written or written != sources():
        raise OSError("compiled from other sources of numbaconv")
    recipe.kernel().symbol(signature)
    return Stamp(recipe, signature)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python from looking for garbage in what Numba allocates while it compiles, which takes a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Kernel:
    """A function that compiled code calls through a symbol."""

    def __init__(self, function: Callable[..., Any], recipe: Recipe) -> None:
        self.recipe, self.symbols = recipe, dict[Any, str]()
        self.parameters = list(inspect.signature(function).parameters)
        self.name = f"jit-{recipe.name}-{hashlib.sha256(repr((recipe, sources())).encode()).hexdigest()[:16]}"
        self.dispatcher = numba.njit(named_apart(function), **OPTIONS)
        if hasattr(self.dispatcher, "_cache"):  # as in numbaconv._jit
            self.dispatcher._cache = CodeCache(self.dispatcher, self.name)

    def symbol(self, signature: tuple[Any, ...]) -> str:
        """Compile or load it for the types of its arguments, and return the name by which that can be called."""
        if signature not in self.symbols:
            with _no_collections():
                self.dispatcher.compile(signature)
            compiled = self.dispatcher.overloads[signature]
            name = f"numbaconv.{self.name}.{hashlib.sha256(repr(signature).encode()).hexdigest()[:16]}"
            llvm.add_symbol(name, compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))
            self.symbols[signature] = name
        return self.symbols[signature]

    def call(self) -> Any:
        """Return the intrinsic that calls it."""

        def typed(typing, *given):  # type: ignore[no-untyped-def]
            signature = tuple(types.unliteral(kind) for kind in given)
            self.symbol(signature)
            return self.dispatcher.overloads[signature].signature.return_type(*signature), generate

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kind = context.call_conv.get_function_type(signature.return_type, signature.args)
            function = cgutils.get_or_insert_function(builder.module, kind, self.symbol(signature.args))
            context.environment.consts.append(Stamp(self.recipe, signature.args))
            status, result = context.call_conv.call_function(builder, function, signature.return_type, signature.args, arguments)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return result

        names = ["typing", *self.parameters]  # Numba looks their number up
        typed.__signature__ = inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names])  # type: ignore[attr-defined]
        typed.__name__ = typed.__qualname__ = self.recipe.name
        called = intrinsic(typed)
        called.kernel = self
        return called


def kernel(function: Callable[..., Any]) -> Any:
    """Make a function of a module one that compiled code calls as a kernel."""
    return Kernel(function, Recipe(function.__module__, function.__name__)).call()


def family(make: Callable[..., Callable[..., Any]]) -> Callable[..., Any]:
    """Make the functions that a function of a module returns kernels, one for each of its arguments."""

    @functools.cache
    def made(*arguments: Any) -> Any:
        return Kernel(make(*arguments), Recipe(make.__module__, make.__name__, arguments)).call()

    return functools.wraps(make)(made)


def helper(function: Callable[..., Any]) -> Any:
    """Compile a helper once for all that call it in a kernel; a call of it stays one."""
    return numba.njit(named_apart(function), **OPTIONS)


# What compiles SciPy's functions, by module and name; `numbaconv._extension` registers it, for this library's functions of those names too.
CHOICES: dict[tuple[str, str], Callable[..., Any]] = {}


def overloads(*functions: Callable[..., Any], **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that chooses the implementation of each of some functions from the types of their arguments."""

    def register(choose: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(choose)
        def chosen(*args: Any, **kwargs: Any) -> Any:
            return named_apart(choose(*args, **kwargs))

        for function in functions:
            library, *rest = function.__module__.split(".")
            if library == "scipy":
                CHOICES[rest[0], function.__name__] = chosen
            else:
                overload(function, prefer_literal=True, **options)(chosen)
        return choose

    return register
