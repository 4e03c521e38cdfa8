"""The library's own threads: helpers that draw batches of a kernel's tiles together with the thread that called.

Between two jobs a helper looks out for the next for a moment, then it sleeps. All that they share is guarded by locks and a
queue; what is read without one (`_waiting`'s words, who looks out) only decides who waits how.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from numbaconv.cpu import _waiting

LOOK_OUT_SECONDS = 0.3e-3  # for which a thread waits awake: several times what waking one takes
GRACE_SECONDS = 2e-6  # in which a caller that posted a job gets into its kernel; without, 64→64 1×1 on 56² takes 185 instead of 167 µs
WAKE_SECONDS = 0.2e-3  # to wake a helper for less costs more than it brings (32→32 1×1 on 28², every 2 ms: 123 µs instead of 74),
OFTEN_SECONDS = 1e-3  # unless calls follow each other like this, and the next one finds it awake
Array = np.ndarray[Any, Any]


def _find_getcpu() -> Callable[[], int]:
    try:
        return ctypes.PyDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else lambda: -1
    except (OSError, AttributeError, TypeError):
        return lambda: -1


current_cpu = _find_getcpu()  # the core that this thread runs on, −1 where the system does not say or threads cannot be moved


class Job:
    """One kernel launch: the batches not yet drawn, ``bounds[n]`` … ``bounds[n + 1]`` being one, and who is still at work."""

    def __init__(self, kernel: Any, bounds: tuple[int, ...], scratch: Array, arguments: tuple[Any, ...]) -> None:
        self.kernel, self.bounds, self.scratch, self.arguments = kernel, bounds, scratch, arguments
        self.drawn, self.slots = itertools.count(), itertools.count()
        self.lock, self.left = threading.Lock(), threading.Lock()
        self.left.acquire()  # until the last helper leaves a job that the caller has closed
        self.helpers, self.closed, self.cancelled = 0, False, False
        self.words = _waiting.words()
        self.error: BaseException | None = None

    def draw(self) -> None:
        """Compute batches until none is left."""
        slot = next(self.slots)
        scratch = self.scratch[slot : slot + 1]
        while not self.cancelled and (batch := next(self.drawn)) < len(self.bounds) - 1:
            first, last = self.bounds[batch], self.bounds[batch + 1]
            self.kernel(first, last, 1, scratch, *self.arguments)

    def help(self) -> None:
        """Join in from a pool thread, unless the job is over."""
        with self.lock:
            if self.closed:
                return
            self.helpers += 1
            self.words[_waiting.JOINED] += 1
        try:
            self.draw()
        except BaseException as error:
            self.error, self.cancelled = error, True
        finally:
            with self.lock:
                self.helpers -= 1
                last = self.closed and self.helpers == 0
            if last:
                self.left.release()

    def finish(self) -> None:
        """Wait for the helpers that joined; an interrupt cancels what they have not drawn and is raised after them."""
        interrupt: BaseException | None = None
        while True:
            try:
                with self.lock:
                    self.closed = True
                    waiting = self.helpers > 0
                if waiting:
                    self.left.acquire()
                break
            except BaseException as caught:
                interrupt, self.cancelled = caught, True
        self.arguments = ()  # helpers may refer to the job a little longer: what it computed is its caller's alone
        if interrupt or self.error:
            raise interrupt or self.error  # type: ignore[misc]


class Pool:
    """Helpers, and the queue that they get jobs from; they are daemons, started when first needed."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self.posted = _waiting.words()  # the first counts jobs put
        self.lock, self.helpers = threading.RLock(), list[threading.Thread]()  # reentrant, for signal handlers
        self.looking: list[bool] = []  # which helpers look out for a job
        self.running: set[Job] = set()
        self.called, self.avoided = 0.0, -1  # when there was a job to share, shared or not; the core that the helpers keep off

    def pays(self, seconds: float) -> bool:
        """Return whether it pays to share a job that takes a thread so long."""
        before, self.called = self.called, time.perf_counter()
        return seconds >= WAKE_SECONDS or True in self.looking or self.called - before < OFTEN_SECONDS

    def run(self, job: Job, helpers: int) -> None:
        """Run a job with so many helpers, or as many as there can be; with none it can still be interrupted."""
        if len(self.helpers) < helpers:
            self._grow(helpers)
        helpers = min(helpers, len(self.helpers))
        try:
            self.running.add(job)
            if helpers:
                self._post(job, helpers)
            job.draw()
            if helpers and len(self.running) == 1:  # else another caller has use for this core
                _waiting.waiting.serial(job.words, int(LOOK_OUT_SECONDS / _waiting.look_seconds()))
        except BaseException:
            job.cancelled = True
            raise
        finally:
            try:
                job.finish()
            finally:
                self.running.discard(job)

    def _post(self, job: Job, helpers: int) -> None:
        if len(self.running) == 1:
            self._keep_off(current_cpu())
        for _ in range(helpers):
            self.jobs.put(job)
        self.posted[0] += 1

    def _keep_off(self, cpu: int) -> None:
        """Keep the helpers off a core, on which their caller runs.

        Linux wakes a thread on the waker's core if the others are halted, and lets both stay there: a second thread then brought
        nothing, for many calls on end (Linux 6.18 on a virtual machine, benchmarks/threads.py).
        """
        if cpu == self.avoided or cpu < 0:
            return
        self.avoided = cpu
        with contextlib.suppress(OSError):
            allowed = os.sched_getaffinity(0)
            for helper in self.helpers:
                os.sched_setaffinity(helper.native_id, allowed - {cpu} or allowed)  # type: ignore[arg-type]

    def _grow(self, size: int) -> None:
        _waiting.look_seconds()  # compiled before there are threads, since a fork must not meet one of them at it
        with self.lock:
            while len(self.helpers) < size:
                name = f"numbaconv-{len(self.helpers)}"
                helper = threading.Thread(target=self._work, args=(len(self.helpers),), name=name, daemon=True)
                self.looking += [False] * (size - len(self.looking))
                try:
                    helper.start()
                except RuntimeError:  # no more threads to be had, or the interpreter is going down: the caller works alone
                    return
                self.helpers.append(helper)
                self.avoided = -1

    def _work(self, number: int) -> None:
        nothing = left = _waiting.words()
        looks, grace = (int(seconds / _waiting.look_seconds()) for seconds in (LOOK_OUT_SECONDS, GRACE_SECONDS))
        while True:
            seen = self.posted.item(0)
            self.looking[number] = True
            posted = _waiting.leaving.serial(left, self.posted, seen, looks if self.jobs.empty() else 0, grace)
            self.looking[number], left = False, nothing
            try:
                job = self.jobs.get(block=not posted)
            except Empty:  # others took it
                continue
            job.help()
            left = job.words
            del job
