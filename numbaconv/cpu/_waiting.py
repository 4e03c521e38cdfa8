"""How threads that share a job wait for each other for a short time: in compiled code without the GIL, looking at a word of memory.

To wake a thread that sleeps takes 50 to 100 µs on a virtual machine, longer than many a layer. A thread that looks again and
again sees a new job after a microsecond.
"""

from __future__ import annotations

import functools
import platform
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv._jit import Kernel

JOINED, LEFT = 0, 1  # words of a job: how many helpers have joined it, and how many of them have left it
WORDS = 16  # of an array: two cache lines, so that whatever its address, one has nothing else
# The instruction that tells a core that its thread is waiting: an LLVM intrinsic and its arguments.
PAUSES = {
    "x86_64": ("llvm.x86.sse2.pause",),
    "AMD64": ("llvm.x86.sse2.pause",),
    "aarch64": ("llvm.aarch64.hint", 1),
    "arm64": ("llvm.aarch64.hint", 1),
}


def words() -> np.ndarray[Any, Any]:
    """Return words to wait at, all 0."""
    return np.zeros(WORDS, np.int64)


def _place(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    return builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])


@intrinsic
def _count(typing, array, index):  # type: ignore[no-untyped-def]
    """Add 1 to a word that other threads write, too."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", _place(context, builder, signature, arguments), ir.IntType(64)(1), "seq_cst")

    return types.int64(array, types.int64), generate


@intrinsic
def _look(typing, array, index):  # type: ignore[no-untyped-def]
    """Read a word that other threads write, after a short pause."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if platform.machine() in PAUSES:
            name, *numbers = PAUSES[platform.machine()]
            values = [ir.IntType(32)(number) for number in numbers]
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
        return builder.load_atomic(_place(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, types.int64), generate


def leave(job, posted, seen, looks, grace):  # type: ignore[no-untyped-def]
    """Count that a helper left a job; then return whether posted[0] is another than ``seen``, after so many looks at it at most.

    It returns some looks later than it sees that: then the thread that has posted something has given the GIL back.
    """
    _count(job, LEFT)
    while _look(posted, 0) == seen:
        if looks <= 0:
            return False
        looks -= 1
    for _ in range(grace):
        _look(posted, 0)
    return True


def until_left(job, looks):  # type: ignore[no-untyped-def]
    """Return when all helpers that joined a job have left it, or after so many looks."""
    while looks > 0 and _look(job, LEFT) < _look(job, JOINED):
        looks -= 1


leaving, waiting = Kernel(leave), Kernel(until_left)


@functools.cache
def look_seconds() -> float:
    """Return how long a look takes."""
    nothing, times, looks = words(), [], 2000
    for _ in range(4):
        start = time.perf_counter()
        leaving.serial(nothing, nothing, 0, looks, 0)
        times.append(time.perf_counter() - start)
    return min(times) / looks
