"""What implementations are chosen by: the types of arguments, what is known of them when code is compiled, and what is said of wrong ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, register_jitable
from numba.np.numpy_support import as_dtype

from numbaconv._jit import named_apart

UNKNOWN = object()


def refuse(argument: str, given: Any, supported: str) -> TypingError:
    """Return the error for an argument that compiled code cannot take."""
    return TypingError(f"{argument} must be {supported} in nopython code, got {given}")


def known(value: Any) -> Any:
    """Return an argument's value if it is a literal or a default, else `UNKNOWN`."""
    if isinstance(value, types.Omitted):
        return value.value
    if isinstance(value, types.Literal):
        return value.literal_value
    if isinstance(value, types.NoneType):
        return None
    return UNKNOWN if isinstance(value, types.Type) else value


def is_none(value: Any) -> bool:
    """Whether an argument is None."""
    return known(value) is None


def choice(argument: str, value: Any, codes: Mapping[Any, int]) -> Callable[[Any], int]:
    """Return a function for compiled code that gives the code of a string.

    A literal is looked up here. What is known at run time alone is looked up there, and raises ValueError.
    """
    found = known(value)
    names = tuple(name for name in codes if isinstance(name, str))
    if found is not UNKNOWN:
        if found not in codes:
            raise refuse(argument, repr(found), f"one of {tuple(codes)}")
        return always(codes[found])
    if not isinstance(value, types.UnicodeType):
        raise refuse(argument, value, f"a string, one of {names}")
    return lookup(argument, names, tuple(codes[name] for name in names))


@functools.cache
def always(code: int) -> Callable[[Any], int]:
    """Return a function of one argument that returns a number."""

    def known_code(typing, value):  # type: ignore[no-untyped-def]
        return types.intp(value), lambda context, builder, signature, arguments: context.get_constant(types.intp, code)

    function: Callable[[Any], int] = intrinsic(known_code)
    return function


@functools.cache
def lookup(argument: str, names: tuple[str, ...], codes: tuple[int, ...]) -> Callable[[Any], int]:
    """Return a function that looks a string up."""
    message = f"{argument} must be one of {names}"

    def code_of(value):  # type: ignore[no-untyped-def]
        for i in range(len(names)):
            if value == names[i]:
                return codes[i]
        raise ValueError(message)

    function: Callable[[Any], int] = register_jitable(named_apart(code_of))
    return function


def integers(**arguments: Any) -> None:
    """Refuse arguments that are no integers."""
    for name, value in arguments.items():
        if not isinstance(value, types.Integer) and type(known(value)) is not int:
            raise refuse(name, value, "an integer")


def numbers(dtype: np.dtype[Any] | type, **arguments: Any) -> None:
    """Refuse arguments that are no numbers, and complex ones unless the dtype is."""
    real = np.dtype(dtype).kind != "c"
    for name, value in arguments.items():
        if not isinstance(value, (types.Number, types.Boolean)) and not isinstance(known(value), (int, float, complex)):
            raise refuse(name, value, "a number")
        if real and (isinstance(value, types.Complex) or isinstance(known(value), complex)):
            raise refuse(name, value, "a real number, where arrays are real,")


def dtype_of(argument: str, value: Any, axes: int | None = None) -> np.dtype[Any]:
    """Return the dtype of an array's elements; without ``axes`` it has any number of axes but none at all."""
    if isinstance(value, (types.List, types.UniTuple)) and axes in (None, 1) and isinstance(value.dtype, types.Number):
        return as_dtype(types.unliteral(value.dtype))
    if axes in (None, 1) and isinstance(value, types.Tuple) and value.types and all(isinstance(t, types.Number) for t in value.types):
        return np.result_type(*(as_dtype(types.unliteral(t)) for t in value.types))
    if not isinstance(value, types.Array) or not isinstance(value.dtype, (types.Number, types.Boolean)):
        raise refuse(argument, value, "an array of numbers")
    if value.ndim == 0 or (axes is not None and value.ndim != axes):
        raise refuse(argument, f"{value.ndim} axes", f"an array of {axes or 'one or more'} ax{'i' if axes == 1 else 'e'}s")
    if value.dtype == types.float16:
        raise refuse(argument, value, "an array of float32 or float64, complex64 or complex128, or integers")
    return as_dtype(value.dtype)
