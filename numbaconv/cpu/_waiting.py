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

from numbaconv._jit import Kernel
from numbaconv.cpu._emit import I32, I64, ISAS, VOID, Vectors, vector_code

JOINED, LEFT = 0, 1  # words of a job: how many helpers have joined it, and how many of them have left it
WORDS = 16  # of an array: two cache lines, so that whatever its address, one has nothing else
X86, ARM = ("llvm.x86.sse2.pause",), ("llvm.aarch64.hint", 1)
PAUSES: dict[str, tuple[Any, ...]] = {
    "x86_64": X86,
    "AMD64": X86,
    "aarch64": ARM,
    "arm64": ARM,
}  # LLVM intrinsics for the core to know that its thread waits


def words() -> np.ndarray[Any, Any]:
    """Return words to wait at, all 0."""
    return np.zeros(WORDS, np.int64)


ANY = ISAS["portable"], np.dtype(np.float32)  # what is written below has no vectors


@vector_code(*ANY, "word[]", returns=True)
def _count(v: Vectors, word):  # type: ignore[no-untyped-def]
    """Add 1 to a word that other threads write, too."""
    return v.builder.atomic_rmw("add", word, I64(1), "seq_cst")


@vector_code(*ANY, "word[]", returns=True)
def _look(v: Vectors, word):  # type: ignore[no-untyped-def]
    """Read a word that other threads write, after a short pause."""
    if platform.machine() in PAUSES:
        name, *numbers = PAUSES[platform.machine()]
        v.call(name, VOID, *map(I32, numbers))
    return v.builder.load_atomic(word, "acquire", 8)


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
