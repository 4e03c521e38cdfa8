"""The pool of threads by itself: jobs of Python functions, whose tiles are counted, that fail, take long, or come from many callers."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest

import numbaconv as nc
from numbaconv.cpu import _parallel, _waiting
from numbaconv.cpu._pool import WAKE_SECONDS, Job, Pool

SCRATCH = np.zeros((8, 1))


def count(first: int, last: int, workers: int, scratch: np.ndarray, times: np.ndarray, who: set[int], seconds: float) -> None:
    """Count how often each tile is computed, and by which thread."""
    who.add(threading.get_ident())
    time.sleep(seconds)
    times[first:last] += 1


def cut(tiles: int, batches: int) -> tuple[int, ...]:
    """Return the bounds of batches that are alike."""
    return tuple(tiles * n // batches for n in range(batches + 1))


def run(pool: Pool, tiles: int, batches: int, helpers: int, seconds: float = 0.0) -> tuple[np.ndarray, set[int]]:
    times, who = np.zeros(tiles, int), set[int]()
    pool.run(Job(count, cut(tiles, batches), SCRATCH, (times, who, seconds)), helpers)
    return times, who


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_every_tile_is_computed_once(helpers: int) -> None:
    """Few batches and many, with pauses in which helpers fall asleep and without."""
    pool = Pool()
    for pause in (0.0, 0.0, 1e-3, 5e-3, 0.0):
        for tiles, batches in ((1, 1), (7, 7), (100, 9), (1000, 500)):
            times, _ = run(pool, tiles, batches, helpers)
            assert (times == 1).all()
        time.sleep(pause)
    assert len(pool.helpers) == helpers


def test_helpers_share_the_work() -> None:
    """Batches that take long are drawn by as many threads as were asked for, woken or awake."""
    pool = Pool()
    for _ in range(3):
        assert len(run(pool, 40, 40, 3, 0.002)[1]) == 4


def test_callers_at_once() -> None:
    """Results are right when several threads post jobs to the same helpers."""
    pool, wrong = Pool(), []

    def call() -> None:
        for n in range(200):
            times, _ = run(pool, 50 + n % 7, 1 + n % 11, 2)
            wrong.extend(times[times != 1])

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not pool.running


def test_an_error_in_a_helper_reaches_the_caller_and_the_pool_goes_on() -> None:
    """Whoever meets it; the batches that nobody has drawn are dropped."""
    pool, caller = Pool(), threading.get_ident()

    def fail(first: int, last: int, workers: int, scratch: np.ndarray, in_helper: bool) -> None:
        time.sleep(0.005)
        if (threading.get_ident() != caller) == in_helper:
            raise ArithmeticError("here")

    for in_helper in (True, False):
        with pytest.raises(ArithmeticError, match="here"):
            pool.run(Job(fail, cut(50, 50), SCRATCH, (in_helper,)), 1)
        assert not pool.running
    assert (run(pool, 10, 10, 1)[0] == 1).all()


def test_threads_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller does all the work, and nothing is left behind."""
    pool = Pool()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        for _ in range(20):
            assert (run(pool, 10, 5, 3)[0] == 1).all()
    assert pool.jobs.empty() and not pool.helpers and len(pool.looking) <= 3 and not pool.running
    assert len(run(pool, 40, 40, 3, 0.002)[1]) == 4


def test_an_interrupt_waits_for_helpers() -> None:
    """One that comes when the caller has no more to do cancels what nobody has drawn, and is raised when no helper writes any more."""
    pool, working = Pool(), []

    class Interrupted(Job):
        def draw(self) -> None:
            if threading.current_thread() is threading.main_thread():
                time.sleep(0.05)
                raise KeyboardInterrupt
            super().draw()

    def slow(first: int, last: int, workers: int, scratch: np.ndarray) -> None:
        working.append(1)
        time.sleep(0.2)
        working.pop()

    with pytest.raises(KeyboardInterrupt):
        pool.run(Interrupted(slow, cut(50, 50), SCRATCH, ()), 2)
    assert not working and not pool.running


def test_a_result_is_the_callers_alone() -> None:
    """No helper refers to a result that has been returned: NumPy reuses and resizes arrays by their reference counts."""
    x, w = np.ones((1, 32, 48, 48), np.float32), np.ones((32, 32, 3, 3), np.float32)
    with nc.num_threads(2):
        most = 0
        for _ in range(300):
            y = nc.conv2d(x, w)
            most = max(most, sys.getrefcount(y))
    assert y.base is None
    assert most == 2  # the variable and the function's parameter


def test_helpers_sleep_between_jobs() -> None:
    """They look out for some tenths of a millisecond: a process that does nothing uses no processor time."""
    pool = Pool()
    run(pool, 4, 4, 2)
    time.sleep(0.1)
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.1
    assert not any(pool.looking)


def test_a_short_job_wakes_nobody_unless_calls_follow_each_other() -> None:
    """And a long one is worth it always."""
    pool = Pool()
    assert not pool.pays(WAKE_SECONDS / 2)
    assert pool.pays(WAKE_SECONDS)
    assert pool.pays(WAKE_SECONDS / 2)
    time.sleep(0.01)
    assert not pool.pays(WAKE_SECONDS / 2)
    pool.looking.append(True)
    assert pool.pays(WAKE_SECONDS / 2)


@pytest.mark.parametrize("tiles", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches(tiles: int, workers: int) -> None:
    """They cover all tiles, none is larger than allowed or than those before it, and only the last smaller than allowed."""
    for least, most in ((1, 1), (1, 10), (4, 1000), (50, 60)):
        sizes = np.diff(_parallel.batches(tiles, workers, least, most))
        assert sizes.sum() == tiles
        assert sizes.max() <= most
        assert (np.diff(sizes) <= 0).all()
        assert (sizes[:-1] >= min(least, most)).all()
        assert sizes[0] <= max(least, -(-tiles // (2 * workers)))


def test_waiting_ends() -> None:
    """A thread that waits in compiled code comes back when the word changes, or else soon."""
    job, posted = _waiting.words(), _waiting.words()
    assert not _waiting.leaving.serial(job, posted, 0, 100, 0)
    assert job[_waiting.LEFT] == 1
    assert _waiting.leaving.serial(job, posted, 1, 100, 5)
    job[_waiting.JOINED] = 3
    _waiting.waiting.serial(job, 100)
    waiter = threading.Thread(target=_waiting.waiting.serial, args=(job, 1 << 40))
    waiter.start()
    _waiting.leaving.serial(job, posted, 1, 0, 0)
    waiter.join(10)
    assert not waiter.is_alive()
    assert 1e-10 < _waiting.look_seconds() < 1e-4


def test_a_thread_keeps_scratch_of_its_own():
    f4, f8 = np.dtype(np.float32), np.dtype(np.float64)
    first = _parallel.own_scratch(1000, f4)
    assert first.shape == (1, 1000) and first.dtype == f4 and first.flags.carray and first.ctypes.data % 64 == 0
    assert _parallel.own_scratch(1000, f4) is first and np.shares_memory(first, _parallel.own_scratch(10, f8))
    large = _parallel.own_scratch(10_000, f8)
    assert large.shape == (1, 10_000) and large.ctypes.data % 64 == 0 and np.shares_memory(large, _parallel.own_scratch(1000, f4))
    huge = _parallel.own_scratch(_parallel.KEPT, f4)
    assert huge.shape == (1, _parallel.KEPT) and not np.shares_memory(huge, _parallel.own_scratch(_parallel.KEPT, f4)), "too much to keep"
    for size in range(1000):
        assert _parallel.own_scratch(size, f4).size == size and len(_parallel._own.views) <= _parallel.VIEWS
    others: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: others.append(_parallel.own_scratch(1000, f4)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], _parallel.own_scratch(1000, f4))
