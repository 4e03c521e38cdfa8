"""The library's own threads: helpers that draw a kernel's tiles together with the thread that called.

What they do together is done in compiled code (_share.py). Here are the threads, who sleep between jobs unless the next comes soon, and the
board with the jobs that they look at.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

from numbaconv import _share
from numbaconv._jit import compiled

JOBS = 8  # that can be shared at a time (a look at all takes 24 ns); further callers work alone
LOOK_OUT_SECONDS = 0.3e-3  # for which a helper waits awake: several times what waking one takes
LONGER_SECONDS = 50e-6  # for which it looks on after it counts as asleep: who saw it awake just before has rung no bell
NAP_SECONDS = 50e-6  # between two looks of a caller who has waited for helpers as long as they look out
# To wake a helper costs the caller 15 µs, and it comes 50 µs later: for less than WAKE_SECONDS more than it brings (32→32 1×1 on 28², every 2 ms:
# 123 µs instead of 74), unless a call follows another within OFTEN_SECONDS; for less than SHORT_SECONDS, unless so many IN_A_ROW each follow
# another within LOOK_OUT_SECONDS, so that it is awake.
WAKE_SECONDS, OFTEN_SECONDS, SHORT_SECONDS, IN_A_ROW = 0.2e-3, 1e-3, 0.1e-3, 8
MOST_TILES = _share.ONE >> 1  # that can be shared: two counts of them in a word with a sign
REFUSALS = {errno.EPERM, errno.ESRCH, errno.EINVAL, errno.ENOSYS}  # to move a thread to other cores
ALONE = np.empty(0, np.int64)  # the job of who works alone
Array = np.ndarray[Any, Any]


def _find_getcpu() -> Callable[[], int]:
    try:
        return ctypes.PyDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else lambda: -1
    except (OSError, AttributeError, TypeError):
        return lambda: -1


current_cpu = _find_getcpu()  # the core that this thread runs on, −1 where the system does not say or threads cannot be moved
serve, finish = compiled(_share.serve, "serve"), compiled(_share.finish, "finish")


@functools.cache
def looks() -> int:
    """Return how often a helper looks at the board in `LOOK_OUT_SECONDS`."""
    board, tries, times = np.zeros((JOBS, _share.WORDS), np.int64), 2000, []
    for _ in range(4):
        start = time.perf_counter()
        serve(board, tries, 0, np.zeros(1, np.int64))
        times.append(time.perf_counter() - start)
    finish(board, 0)  # compiled here, too
    return int(LOOK_OUT_SECONDS / min(times) * tries)


@functools.lru_cache(1024)
def _words(tiles: int, workers: int, least: int, most: int, alone: bool) -> Array:
    """Return the words of a job that has not begun."""
    words = np.zeros(_share.PACKED, np.int64)
    words[_share.SLOT], words[_share.LAST], words[_share.WORKERS] = 1, tiles, workers
    words[_share.LEAST], words[_share.MOST], words[_share.TURN] = least, most, most
    words[_share.LOOKS] = looks() if alone else 1
    return words


class Pool:
    """Helpers and the board; they are daemons, started when first needed."""

    def __init__(self) -> None:
        line = 64 // 8
        words = np.zeros(JOBS * _share.WORDS + line, np.int64)
        self.board = words[-words.ctypes.data // 8 % line :][: JOBS * _share.WORDS].reshape(JOBS, _share.WORDS)
        self.free = list(range(JOBS))  # jobs that nobody has
        self.finish = functools.partial(finish, self.board)
        self.forked = False  # without its helpers
        self.bell: SimpleQueue[None] = SimpleQueue()  # wakes a helper for each item
        self.lock, self.helpers = threading.RLock(), list[threading.Thread]()  # reentrant, for signal handlers
        self.awake = np.zeros(2 * line, np.int64)[line:]  # how many helpers are, in the first word
        self.called, self.in_a_row = 0.0, 0  # when there was a job to share, shared or not; how many followed each other
        self.avoided = -1  # the core that the helpers keep off

    def pays(self, seconds: float) -> bool:
        """Return whether it pays to share a job that takes a thread so long."""
        before, self.called = self.called, time.perf_counter()
        short = seconds < SHORT_SECONDS
        self.in_a_row = self.in_a_row + 1 if self.called - before < (LOOK_OUT_SECONDS if short else OFTEN_SECONDS) else 0
        often = self.in_a_row >= (IN_A_ROW if short else 1)
        return often or seconds >= WAKE_SECONDS or self.awake.item(0) > 0

    def run(self, compute: Any, tiles: int, scratch: Array, arguments: tuple[Any, ...], workers: int, least: int, most: int) -> None:
        """Run a `Kernel.pooled` by so many threads, or as many as there can be, that draw ``least`` to ``most`` tiles.

        ``scratch`` has a row for each. After ``most`` tiles the caller is back in Python, where an interrupt can reach it.
        """
        if len(self.helpers) < workers - 1:
            self._grow(workers - 1)
        workers = min(workers, len(self.helpers) + 1)
        # Signals are looked for between steps of Python code, and a handler may raise at any of them: so a job is taken and recorded in one
        # step, and finished, when no helper writes any more, and given back in one.
        held = list[int]()
        given_back = map(self.finish, held)
        try:
            if workers > 1 and tiles < MOST_TILES:
                try:  # contextlib.suppress takes 0.2 µs
                    held.extend(map(self.free.pop, (-1,)))
                except IndexError:
                    pass
            if held:
                self._together(self.board[held[0]], compute, tiles, scratch, arguments, workers, least, most)
            else:
                for first in range(0, tiles, most):
                    compute(first, min(tiles, first + most), ALONE, scratch, *arguments)
        finally:
            self.free.extend(given_back)

    def _together(
        self, job: Array, compute: Any, tiles: int, scratch: Array, arguments: tuple[Any, ...], workers: int, least: int, most: int
    ) -> None:
        alone = len(self.free) == JOBS - 1  # else another caller has use for this core
        job[: _share.PACKED] = _words(tiles, workers, least, most, alone)
        if alone:
            self._keep_off(current_cpu())
        for _ in range(min(workers - 1, len(self.helpers)) - self.awake.item(0) - self.bell.qsize()):
            self.bell.put(None)
        compute(0, tiles, job, scratch, *arguments)
        while not job.item(_share.DONE):
            if _share.count_drawn(job) >= tiles:  # helpers are at the last ones
                time.sleep(NAP_SECONDS)
            compute(0, tiles, job, scratch, *arguments)
        if job.item(_share.FAILED):
            raise SystemError("a kernel met an error in another thread")
        if self.forked:
            raise RuntimeError("a signal handler forked the process in the middle of this call; what its threads computed is lost in the child")

    def after_fork(self) -> None:
        """Note, in the child, that there are no helpers any more, also not in a job in whose middle a signal handler forked."""
        self.forked = True
        self.board[:, _share.GATE] = 0

    def _keep_off(self, cpu: int) -> None:
        """Keep the helpers off a core, on which their caller runs.

        Linux wakes a thread on the waker's core if the others are halted, and lets both stay there: a second thread then brought
        nothing, for many calls on end (Linux 6.18 on a virtual machine, benchmarks/threads.py).
        """
        if cpu == self.avoided or cpu < 0:
            return
        try:
            allowed = os.sched_getaffinity(0)
            for helper in self.helpers:
                if helper.native_id is not None:  # it is about to start
                    os.sched_setaffinity(helper.native_id, allowed - {cpu} or allowed)
        except OSError as error:
            if error.errno not in REFUSALS:  # not the system's, but a signal handler's: a TimeoutError is an OSError, too
                raise
        self.avoided = cpu

    def _grow(self, size: int) -> None:
        looks()  # compiled before there are threads, since a fork must not meet one of them at it
        with self.lock:
            while len(self.helpers) < size:
                name = f"numbaconv-{len(self.helpers)}"
                helper = threading.Thread(target=self._work, name=name, daemon=True)
                self.helpers.append(helper)
                try:
                    helper.start()
                except RuntimeError:  # no more threads to be had, or the interpreter is going down: the caller works alone
                    return
                finally:
                    if helper.ident is None:
                        self.helpers.remove(helper)
                self.avoided = -1

    def _work(self) -> None:
        longer = int(looks() * LONGER_SECONDS / LOOK_OUT_SECONDS)
        while True:
            serve(self.board, looks(), longer, self.awake)
            self.bell.get()
