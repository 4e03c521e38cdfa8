"""The memory of large arrays: whether it can be had, and that of arrays nobody refers to any more, kept for the next ones.

The system hands out memory in pages of zeros, a page at a time as it is first written: an array of 40 MB costs 4 ms before anything
is computed (1→512 3×3 s2 on 1000×80, 9.8 ms or 5.3 with memory that was used before). So `_blocks` remembers the memory of the latest
large results and copies, up to a limit in bytes. A block that nothing but that list refers to, neither an array nor a view of one, is free
for the next array of about its size. There are no finalizers: one that ran as Ctrl-C arrives would swallow it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

UNCHECKED_BYTES = 64 << 20  # smaller requests are made without asking the system first
CACHE_LINE = 64  # bytes
# Bytes of an array from which its memory may be used again. The C library hands out what was freed last, by whomever, which may still be
# in the caches: with blocks, layers between others took 8 % longer at 1 MiB, 2 at 4 (but dgrad of 96→96 3×3 s2 g96 @112, 4.8 MB, 400 µs
# instead of 200), as long at 8, and 20 % less from 32.
REUSED = 8 << 20
# Bytes of the smallest array before which the GNU C library is told to keep what is freed, of the largest that tells it so by being freed (its
# DEFAULT_MMAP_THRESHOLD_MAX, less some pages), and of what it then keeps at the end of its heap.
HELD, SIGNAL, HEAP = 1 << 20, (32 << 20) - (64 << 10), 64 << 20
KEPT_BYTES, KEPT_SHARE = 256 << 20, 1 / 32  # of blocks at most, and of the memory of the machine
SPARE = 1 / 8  # of an array, by which a block for it may be larger

_blocks: list[Array] = []  # the oldest first, free or not; cleared by putting another list in its place, for `block` may be at work on it
_most: int | None = None
_lock = threading.Lock()


def address(array: Array) -> int:
    """Return where the elements of a writable, contiguous array are; array.ctypes says it too, but takes a microsecond."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def block(size: int) -> Array:
    """Return ``size`` bytes to be overwritten that start on a cache line: new ones, or those of an array that is gone."""
    needed = size + CACHE_LINE
    # Whoever comes while another thread is here (or in a signal handler) takes new memory.
    if not _lock.acquire(blocking=False):
        return _aligned(np.empty(needed, np.uint8), size)
    blocks = _blocks
    try:
        found = _free(blocks, needed)
        memory = np.empty(needed, np.uint8) if found is None else blocks.pop(found)
        blocks.append(memory)
        left = sum(b.size for b in blocks) - get_kept_memory()
        while left > 0:
            left -= blocks.pop(0).size
        return _aligned(memory, size)
    except MemoryError:
        blocks.clear()  # what nobody refers to is free now
        return _aligned(np.empty(needed, np.uint8), size)
    finally:
        _lock.release()


@functools.cache
def hold_freed() -> None:
    """Have the GNU C library keep memory that is freed, as it does in a process that has ever freed an array of 32 MB.

    Until then it gives back whatever is larger than the largest array freed so far, or twice that at the end of its heap, and the next array
    pays for its pages again: PyTorch's 3→64 7×7 s2 on 224×224 took 2.1 instead of 1.05 ms in a new process, ours in some, too. No page of this
    array is ever used.
    """
    if get_kept_memory() >= HEAP:
        with contextlib.suppress(MemoryError):
            np.empty(SIGNAL, np.uint8)


def _free(blocks: list[Array], needed: int) -> int | None:
    """Return which block to take: of those that are free and fit, the latest."""
    held = np.empty(1, np.uint8)
    view, known = held[:], [np.empty(1, np.uint8), held]
    *references, free, used = _references([*blocks, *known])  # counted together, since a debugger or profiler may refer to what it sees
    if used != free + 2 or not _counts_references():
        return None
    fit = (n for n, b in enumerate(blocks) if needed <= b.size <= needed * (1 + SPARE) and b.flags.carray and b.dtype == view.dtype and b.ndim == 1)
    return max((n for n in fit if references[n] == free), default=None)


def _references(arrays: Iterable[Array]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]


def _counts_references() -> bool:
    """Return whether a count of references is exact: without the GIL it is not."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _forget() -> None:
    global _blocks
    _blocks = []


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _aligned(memory: Array, size: int) -> Array:
    skipped = -address(memory) % CACHE_LINE
    return memory[skipped : skipped + size]


def get_kept_memory() -> int:
    """Return how many bytes of large results and copies are remembered at most, to be used again when nobody refers to them any more."""
    global _most
    if _most is None:
        _most = int(min(KEPT_BYTES, KEPT_SHARE * _physical()))
    return _most


def set_kept_memory(most: int) -> None:
    """Set how many bytes of large results and copies are remembered at most, to be used again when nobody refers to them any more.

    Results (and copies of inputs) of 8 MiB and more are written to memory that an earlier one has left, if there is some: new memory
    costs up to half of a call's time. The latest are remembered, those still in use included. By default it is 256 MiB, or 1/32 of the
    machine's memory (or the container's) if that is less; 0 frees what is kept, and keeps nothing. Smaller arrays are the C library's;
    the GNU one is told once to keep up to 64 MiB of what they leave, unless ``most`` is less when the first of 1 MiB comes.

    Parameters
    ----------
    most : int
        Bytes, at least 0.

    Examples
    --------
    >>> import numbaconv as nc
    >>> before = nc.get_kept_memory()
    >>> nc.set_kept_memory(0)
    >>> nc.set_kept_memory(before)
    """
    global _most
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)):
        raise TypeError(f"most must be an int, of bytes, got {most!r}")
    if most < 0:
        raise ValueError(f"most must be at least 0, got {most}")
    _most = int(most)
    _forget()


def require(size: int, purpose: str) -> None:
    """Raise MemoryError if ``size`` bytes cannot be had, before anything is allocated."""
    if size > UNCHECKED_BYTES and size > available():
        _forget()
        if size > (free := available()):
            raise MemoryError(f"{purpose} needs {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are available")


def available() -> float:
    """Return the bytes that this process may still allocate: the system's estimate and the container's limit counted."""
    free = float("inf")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        free = _physical()
    limit = _limit()
    try:
        return min(free, limit - float(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        return free


def _limit() -> float:
    """Return the container's limit in bytes."""
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" is no number
    except (OSError, ValueError):
        return float("inf")


@functools.cache
def _physical() -> float:
    """Return the bytes of the machine or of the container, whichever is less."""
    try:
        return min(_limit(), float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    except (AttributeError, ValueError, OSError):
        return _limit()
