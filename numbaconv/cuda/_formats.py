"""16-bit formats: what they are called, and kernels that turn them into float32 and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.cuda import _store
from numbaconv.cuda._backend import SIMULATED, Kernel, capability_of, cuda, current_device, device, empty
from numbaconv.cuda._prims import int32, load4
from numbaconv.cuda._store import PER_BLOCK, THREADS
from numbaconv.cuda._tensor_prims import narrow, widen
from numbaconv.problem import Unsupported

# NumPy has no bfloat16: it is ml_dtypes' where that is installed, else its patterns as uint16.
FORMATS = {"float16": "f16", "bfloat16": "bf16", "uint16": "bf16"}
PRECISIONS = {"uint16": ("bf16",)}  # by which a dtype has to be asked for; one that is not here needs no asking


def format_of(dtype: Any) -> str | None:
    """Return which 16-bit format a dtype is, if it is one."""
    return FORMATS.get(np.dtype(dtype).name)


def check(dtype: Any) -> None:
    """Raise where a GPU has no instruction that rounds to a format."""
    if format_of(dtype) == "bf16" and not SIMULATED and capability_of(current_device()) < (8, 0):
        raise Unsupported("needs a GPU of compute capability 8.0 or more for bfloat16")


def reading(form: str | None) -> tuple[Any, Any]:
    """Return two functions for kernels that read one number, or four neighbours, of a 16-bit format as float32; of any other for None."""
    if form is None:
        return device(lambda x, at: x[at]), load4
    wide = widen(form)

    def one(x, at):  # type: ignore[no-untyped-def]
        return wide(x[at])

    def four(x, at):  # type: ignore[no-untyped-def]
        v = load4(x, at)
        return wide(v[0]), wide(v[1]), wide(v[2]), wide(v[3])

    return device(one), device(four)


def rounding(form: str | None) -> tuple[Any, ...]:
    """Return the function that rounds to a format as the last argument of `put4`, none for None."""
    return () if form is None else (narrow(form),)


@functools.cache
def converter(kind: str, to_float32: bool) -> Kernel:
    """Return the kernel that widens numbers, or rounds them."""
    convert = widen(kind) if to_float32 else narrow(kind)

    def convert_numbers(x, y, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[i] = x[i], as the nearest number that it can hold.
        # THE SCHEDULE: a thread owns four elements, a block's width apart.
        at = int32(int32(cuda.blockIdx.x) * PER_BLOCK + int32(cuda.threadIdx.x))
        for _ in range(4):
            if at < sizes[0]:
                y[at] = convert(x[at])
            at = int32(at + THREADS)

    dtypes = (np.uint16, np.float32) if to_float32 else (np.float32, np.uint16)
    return Kernel(convert_numbers, dtypes, 1, THREADS)


def convert(kind: str, to_float32: bool, source: Any, target: Any) -> Any:
    """Fill an array with another one's numbers; return it."""
    size = math.prod(source.shape)
    converter(kind, to_float32).launch((-(-size // PER_BLOCK), 1, 1), (source, target), (size,))
    return target


def finish(kind: str, activation: str | None = None) -> Kernel:
    """Return the kernel that adds float32 pieces of a sum, then a bias and an activation, and rounds to the format."""
    return _store.finish(activation, np.dtype(np.float32), np.dtype(np.uint16), widen(kind), narrow(kind))


def widened(array: Any) -> Any:
    """Return a 16-bit array as float32, any other as it is."""
    kind = format_of(array.dtype)
    return convert(kind, True, array.view(np.uint16), empty(array.shape, np.float32)) if kind else array


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name."""
    for kind in ("bf16", "f16"):
        yield f"widen {kind}", converter(kind, True)
        yield f"round {kind}", converter(kind, False)
