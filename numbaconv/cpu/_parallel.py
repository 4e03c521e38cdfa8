"""Tiles over threads: how every CPU kernel of the library is run.

A kernel is a range of tiles ``first … last``, each of which owns its outputs, so the result does not depend on who computes
which. There are two ways to share them, from one kernel source:

"pool"   (the default) a few threads of the library's own draw tiles, and the calling thread draws with them. Any number of callers
         can share it, it is rebuilt after a fork, and a Ctrl-C is seen between two draws.
"numba"  Numba's own threads (``parallel=True``). Less time to launch on an idle machine; its layers abort or hang where
         DESIGN's reliability rules ask for a result, so calls are serialised, and a forked child goes back to the pool.

Measured on two cores by benchmarks/threads.py: see the README's table.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numba
import numpy as np

from numbaconv._jit import Kernel
from numbaconv.arrays import CACHE_LINE, empty
from numbaconv.cpu._pool import ALONE, Pool

BATCH_SECONDS = 0.004  # of a draw at the most, for a prompt Ctrl-C,
LEAST_SECONDS = 5e-6  # and at the least, as long as threads may wait for each other at the end
SERIAL_SECONDS = 15e-6  # below this a second thread is not worth the 5 to 8 µs that it costs (1152→1152 3×3 g1152 on 7²: 20 µs, shared 18.5)
MOST_SHARED, TILE_MACS = 32, 1 << 20  # tiles for the threads to share; multiply-adds of one: some 20 µs
FEW = 1 << 14  # bytes of scratch that are not worth the microsecond of aligning them
KEPT, VIEWS = 1 << 20, 256  # bytes of scratch that a thread keeps, the size of a usual L2; and how many sizes of it are looked up
MOST_THREADS = 1024  # more would be a mistake, and start that many
Array = np.ndarray[Any, Any]

_mode = "pool"
_threads: int | None = None
_override: ContextVar[int | None] = ContextVar("numbaconv_threads", default=None)
_numba_lock = threading.RLock()  # reentrant: a signal handler may call while its thread holds it
_pool = Pool()


def fewest_tiles(macs: int) -> int:
    """Return into how many tiles a problem should be cut at least, however many threads there are; small ones into fewer."""
    return max(1, min(MOST_SHARED, macs // TILE_MACS))


def evenly(parts: int) -> int:
    """Return into how many parts to cut what would be a few: an even number, which two threads share evenly."""
    return parts + parts % 2 if 2 < parts < 8 else parts


def run(kernel: Kernel, tiles: int, scratch: tuple[int, Any], arguments: tuple[Any, ...], seconds: float) -> None:
    """Run ``kernel`` over ``tiles`` tiles; ``scratch`` is (elements, dtype) for each thread, ``seconds`` the estimated serial time."""
    if tiles == 0:
        return
    workers = 1
    if seconds >= SERIAL_SECONDS:
        workers = min(get_num_threads(), tiles)
        if workers > 1 and _mode == "pool" and not _pool.pays(seconds):
            workers = 1
    if workers == 1 and seconds <= BATCH_SECONDS:
        kernel.pooled(0, tiles, ALONE, own_scratch(*scratch), *arguments)
    elif _mode == "numba" and workers > 1:
        _run_numba(kernel, tiles, workers, aligned(workers, *scratch), arguments, seconds)
    else:
        _run_pool(kernel, tiles, workers, scratch, arguments, seconds)


_NOTHING = np.empty(0, np.uint8)


class _Own(threading.local):
    """Scratch that a thread keeps: nothing in it outlives a job, and it is in the caches more often than fresh one."""

    def __init__(self) -> None:
        self.memory = self.shared = _NOTHING  # for kernels that it runs alone, and with others
        self.views: dict[tuple[int, np.dtype[Any]], Array] = {}


_own = _Own()


def own_scratch(size: int, dtype: np.dtype[Any]) -> Array:
    """Return a row of scratch for a kernel that the calling thread runs alone; it starts on a cache line."""
    found = _own.views.get((size, dtype))
    return _own_view(size, dtype) if found is None else found


def _own_view(size: int, dtype: np.dtype[Any]) -> Array:
    needed = size * dtype.itemsize
    if needed > KEPT:
        return aligned(1, size, dtype)
    if needed > _own.memory.size:
        _own.memory = empty((max(needed, min(KEPT, 2 * _own.memory.size)),), np.dtype(np.uint8), 0)
        _own.views.clear()
    if len(_own.views) >= VIEWS:
        _own.views.clear()
    view = _own.views[size, dtype] = _own.memory[:needed].view(dtype).reshape(1, size)
    return view


def aligned(workers: int, size: int, dtype: np.dtype[Any]) -> Array:
    """Allocate a row for each worker, which starts on a cache line if it is worth it."""
    return empty((workers, _row(size, dtype)), dtype, FEW)


def _row(size: int, dtype: np.dtype[Any]) -> int:
    line = CACHE_LINE // dtype.itemsize
    return -(-size // line) * line


def _run_pool(kernel: Kernel, tiles: int, workers: int, scratch: tuple[int, Any], arguments: tuple[Any, ...], seconds: float) -> None:
    size, dtype = scratch
    each = _row(size, dtype)
    needed = workers * each * dtype.itemsize
    kept, _own.shared = _own.shared, _NOTHING  # a signal handler that calls meanwhile gets other memory
    memory = kept if needed <= kept.size else empty((needed,), kept.dtype, FEW)
    try:
        least, most = max(1, int(tiles * LEAST_SECONDS / seconds)), max(1, int(tiles * BATCH_SECONDS / seconds))
        _pool.run(kernel.pooled, tiles, memory[:needed].view(dtype).reshape(workers, each), arguments, workers, least, most)
    finally:
        _own.shared = memory if needed <= workers * KEPT else kept


def _run_numba(kernel: Kernel, tiles: int, workers: int, scratch: Array, arguments: tuple[Any, ...], seconds: float) -> None:
    compiled = kernel.parallel
    rounds = min(max(1, tiles // workers), max(1, math.ceil(seconds / (BATCH_SECONDS * 8 * workers))))
    workers = min(workers, numba.config.NUMBA_NUM_THREADS)
    with _numba_lock:
        before = numba.get_num_threads()
        numba.set_num_threads(workers)
        try:
            for r in range(rounds):
                compiled(tiles * r // rounds, tiles * (r + 1) // rounds, workers, scratch, *arguments)
        finally:
            numba.set_num_threads(before)


def available_threads() -> int:
    """Return how many threads this process may keep busy: affinity and container quota counted; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_file).read_text().split()
            period = float(words[1] if period_file is None else Path(period_file).read_text())
            if words[0] not in ("max", "-1"):
                count = min(count, max(1, math.ceil(float(words[0]) / period)))
        except (OSError, ValueError, IndexError):
            continue
    return count


def get_num_threads() -> int:
    """Return the number of threads that a call uses at most."""
    global _threads
    if _threads is None:
        _threads = available_threads()
    return _override.get() or _threads


def _checked(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"the number of threads must be an int, got {n!r}")
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, got {n}")
    if n > MOST_THREADS:
        raise ValueError(f"the number of threads must be at most {MOST_THREADS}, got {n}")
    return int(n)


def set_num_threads(n: int) -> None:
    """Set the number of threads for every later call of this process; results do not depend on it."""
    global _threads
    _threads = _checked(n)


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use ``n`` threads inside a ``with`` block, in this thread (or task) alone."""
    token = _override.set(_checked(n))
    try:
        yield
    finally:
        _override.reset(token)


def set_threading(mode: str) -> None:
    """Choose who runs the kernels: "pool" (the library's own threads) or "numba" (Numba's)."""
    global _mode
    if mode not in ("pool", "numba"):
        raise ValueError(f'threading must be "pool" or "numba", got {mode!r}')
    _mode = mode


def get_threading() -> str:
    """Return "pool" or "numba"."""
    return _mode


def _after_fork() -> None:
    global _pool, _mode, _numba_lock
    _pool.after_fork()
    _pool, _mode, _numba_lock = Pool(), "pool", threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
