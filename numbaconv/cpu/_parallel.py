"""Tiles over threads: how every CPU kernel of the library is run.

A kernel is a range of tiles ``first … last``, each of which owns its outputs, so the result does not depend on who computes
which. There are two ways to share them, from one kernel source:

"pool"   (the default) a few Python threads draw batches of tiles, and the calling thread draws with them. Waiting threads sleep, any
         number of callers can share it, it is rebuilt after a fork, and a Ctrl-C is seen between two batches.
"numba"  Numba's own threads (``parallel=True``). Less time to launch on an idle machine; its layers abort or hang where
         DESIGN's reliability rules ask for a result, so calls are serialised, and a forked child goes back to the pool.

Measured on two cores by benchmarks/threads.py: see the README's table.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np

from numbaconv._jit import Kernel
from numbaconv.arrays import CACHE_LINE, empty

BATCH_SECONDS = 0.004  # long enough to hide a 13 µs hand-over, short enough for a prompt Ctrl-C
YIELD_SECONDS = 0.3e-3  # a caller that sleeps at the end of a call is woken on the core of the thread that it waited for
SERIAL_SECONDS = 60e-6  # below this a second thread costs more than it brings
MOST_SHARED, TILE_MACS = 32, 1 << 20  # tiles for the threads to share; multiply-adds of one: some 20 µs
FEW = 1 << 14  # bytes of scratch that are not worth the microseconds of aligning them
MOST_THREADS = 1024  # more would be a mistake, and start that many
Array = np.ndarray[Any, Any]

_mode = "pool"
_threads: int | None = None
_override: ContextVar[int | None] = ContextVar("numbaconv_threads", default=None)
_numba_lock = threading.RLock()  # reentrant: a signal handler may call while its thread holds it


def _find_getcpu() -> Callable[[], int]:
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError, TypeError):
        return lambda: -1


current_cpu = _find_getcpu()  # the core that this thread runs on, −1 where the system does not say


def move_off(cpus: set[int]) -> None:
    """Leave a core of ``cpus``, where others of the same job run, for a free one, and add ours to the set.

    Linux wakes a thread on the waker's core and lets both stay there: after 0.3 s without a call a second thread then brought
    nothing (1.45 ms a call instead of 0.86, for many calls on end; Linux 6.18, benchmarks/threads.py). The thread stays off that
    core until the next conflict: given back at the end of the job, the gain was lost (1.8 ms instead of 1.1 at first calls).
    """
    cpu = current_cpu()
    if cpu in cpus and cpu >= 0:
        if free := os.sched_getaffinity(os.getpid()) - cpus:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, free)
            cpu = current_cpu()
    cpus.add(cpu)


class _Job:
    """One kernel launch: the batches not yet drawn and who is still at work."""

    def __init__(self, kernel: Any, tiles: int, batches: int, scratch: Array, arguments: tuple[Any, ...]) -> None:
        self.kernel, self.tiles, self.batches, self.scratch, self.arguments = kernel, tiles, batches, scratch, arguments
        self.drawn, self.slots = itertools.count(), itertools.count()
        self.lock, self.finished = threading.Lock(), threading.Semaphore(0)
        self.helpers, self.closed, self.cancelled = 0, False, False
        self.cpus = {current_cpu()}
        self.error: BaseException | None = None

    def draw(self) -> None:
        """Compute batches until none is left."""
        slot = next(self.slots)
        scratch = self.scratch[slot : slot + 1]
        while not self.cancelled and (batch := next(self.drawn)) < self.batches:
            first, last = self.tiles * batch // self.batches, self.tiles * (batch + 1) // self.batches
            self.kernel(first, last, 1, scratch, *self.arguments)

    def help(self) -> None:
        """Join in from a pool thread, unless the job is over."""
        with self.lock:
            if self.closed:
                return
            self.helpers += 1
            move_off(self.cpus)
        try:
            self.draw()
        except BaseException as error:
            self.error, self.cancelled = error, True
        finally:
            with self.lock:
                self.helpers -= 1
                last = self.closed and self.helpers == 0
            if last:
                self.finished.release()

    def finish(self) -> None:
        """Wait for the helpers that joined; an interrupt cancels what they have not drawn and is raised after them."""
        interrupt: BaseException | None = None
        with self.lock:
            self.closed = True
            waiting = self.helpers > 0
        end = time.perf_counter() + YIELD_SECONDS
        while waiting:
            try:
                while self.helpers and time.perf_counter() < end:
                    time.sleep(0)
                self.finished.acquire()
                waiting = False
            except BaseException as caught:
                interrupt, self.cancelled = caught, True
        if interrupt or self.error:
            raise interrupt or self.error  # type: ignore[misc]


class _Pool:
    """Threads that wait for jobs without spinning; they are daemons, started when first needed."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.lock, self.size = threading.RLock(), 0  # reentrant, for signal handlers

    def run(self, job: _Job, helpers: int) -> None:
        if self.size < helpers:
            self._grow(helpers)
        try:
            for _ in range(helpers):
                self.jobs.put(job)
            job.draw()
        except BaseException:
            job.cancelled = True
            raise
        finally:
            job.finish()

    def _grow(self, helpers: int) -> None:
        with self.lock:
            while self.size < helpers:
                try:
                    threading.Thread(target=self._work, name=f"numbaconv-{self.size}", daemon=True).start()
                except RuntimeError:  # no more threads to be had, or the interpreter is going down: the caller works alone
                    return
                self.size += 1

    def _work(self) -> None:
        while True:
            self.jobs.get().help()


_pool = _Pool()


def fewest_tiles(macs: int) -> int:
    """Return into how many tiles a problem should be cut at least, however many threads there are; small ones into fewer."""
    return max(1, min(MOST_SHARED, macs // TILE_MACS))


def run(kernel: Kernel, tiles: int, scratch: tuple[int, Any], arguments: tuple[Any, ...], seconds: float) -> None:
    """Run ``kernel`` over ``tiles`` tiles; ``scratch`` is (elements, dtype) for each thread, ``seconds`` the estimated serial time."""
    if tiles == 0:
        return
    workers, batches = 1, 1
    if seconds >= SERIAL_SECONDS:
        workers, batches = min(get_num_threads(), tiles), min(tiles, max(1, math.ceil(seconds / BATCH_SECONDS)))
    if workers == batches == 1:
        kernel.serial(0, tiles, 1, aligned(1, *scratch), *arguments)
    elif _mode == "numba" and workers > 1:
        _run_numba(kernel, tiles, workers, aligned(workers, *scratch), arguments, seconds)
    else:
        batches = min(tiles, max(batches, 4 * workers)) if workers > 1 else batches
        job = _Job(kernel.serial, tiles, batches, aligned(workers, *scratch), arguments)
        _pool.run(job, workers - 1)


def aligned(workers: int, size: int, dtype: np.dtype[Any]) -> Array:
    """Allocate a row for each worker, which starts on a cache line if it is worth it."""
    line = CACHE_LINE // dtype.itemsize
    return empty((workers, -(-size // line) * line), dtype, FEW)


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
    _pool, _mode, _numba_lock = _Pool(), "pool", threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
