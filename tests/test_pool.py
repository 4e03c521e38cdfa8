"""The pool of threads by itself: kernels that count their tiles, fail, take long, or come from many callers."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import numbaconv as nc
from numbaconv import _share
from numbaconv._jit import Kernel, compiled
from numbaconv.cpu import _parallel, _pool
from numbaconv.cpu._pool import ALONE, IN_A_ROW, JOBS, LOOK_OUT_SECONDS, OFTEN_SECONDS, SHORT_SECONDS, WAKE_SECONDS, Pool

SLOW = 2_000_000  # turns of a loop that takes about a millisecond


def count(first, last, workers, scratch, times, turns, fails):  # type: ignore[no-untyped-def]
    """Count how often each tile is computed, and in the scratch by whom."""
    for tile in range(first, last):
        total = 0.0
        for i in range(turns):
            total += np.sqrt(i + scratch[0, 1])
        scratch[0, 2] += 1
        scratch[0, 1] = total * 0
        times[tile] += 1
        if tile == fails:
            raise ArithmeticError("here")


def touch(first, last, workers, scratch, times):  # type: ignore[no-untyped-def]
    for tile in range(first, last):
        times[tile] += 1


KERNEL, FRESH = Kernel(count, "-test-pool"), Kernel(touch, "-test-fresh")
DRAW = compiled(lambda job, behind: _share.draw(job, behind), "test-draw")


def run(pool: Pool, tiles: int, draws: int, workers: int, turns: int = 0, fails: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each tile was computed, and how many by each thread, the caller first."""
    times, scratch = np.zeros(tiles, int), np.zeros((workers, 8))
    each = -(-tiles // draws)
    pool.run(KERNEL.pooled, tiles, scratch, (times, turns, fails), workers, each, each)
    return times, scratch[:, 2]


def idle(pool: Pool) -> bool:
    """Return whether no job is left, nor anybody at one."""
    return len(pool.free) == JOBS and not pool.board[:, _share.GATE].any()


def all_share(pool: Pool) -> bool:
    """Return whether four threads draw tiles that take long, on a busy machine after some calls."""
    shares = np.zeros(4)
    for _ in range(20):
        shares += run(pool, 200, 200, 4, SLOW)[1]
        if shares.all():
            return True
    return False


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_tile_is_computed_once(workers: int) -> None:
    """Few draws and many, with pauses in which helpers fall asleep and without."""
    pool = Pool()
    for pause in (0.0, 0.0, 1e-3, 5e-3, 0.0):
        for tiles, draws in ((1, 1), (7, 7), (100, 9), (1000, 500)):
            times, shares = run(pool, tiles, draws, workers)
            assert (times == 1).all() and shares.sum() == tiles
        time.sleep(pause)
    assert len(pool.helpers) == workers - 1 and idle(pool)


def test_helpers_share_the_work() -> None:
    """Tiles that take long are drawn by as many threads as were asked for, woken or awake."""
    pool = Pool()
    for pause in (0.0, 0.01, 0.0):
        time.sleep(pause)
        assert all_share(pool)


def test_callers_at_once() -> None:
    """Results are right when several threads share the same helpers, also when there are more than the board has room for."""
    pool, wrong = Pool(), []

    def call() -> None:
        for n in range(200):
            times, shares = run(pool, 50 + n % 7, 1 + n % 11, 3)
            wrong.extend(times[times != 1])
            wrong.extend([shares.sum()] if shares.sum() != len(times) else [])

    threads = [threading.Thread(target=call) for _ in range(2 * JOBS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and idle(pool)


def test_an_error_reaches_the_caller_and_the_pool_goes_on() -> None:
    """Whoever meets it. Kernels raise nothing; should one do so all the same, it is no result."""
    pool = Pool()
    for fails in (0, 99):
        with pytest.raises((ArithmeticError, SystemError)):
            run(pool, 100, 100, 3, SLOW // 10, fails)
        assert idle(pool)
    assert (run(pool, 10, 10, 2)[0] == 1).all()


def test_an_error_of_a_helper_is_one() -> None:
    """It has nobody to raise it to but the caller, who meets none."""
    pool, scratch, times = Pool(), np.zeros((2, 8)), np.zeros(400, int)
    run(pool, 1000, 10, 2)

    def compute(first: int, last: int, job: np.ndarray, *arguments: Any) -> None:
        job[_share.TURN] = 0  # share it, but leave the last tile to the helper,
        KERNEL.pooled(first, last, job, *arguments)
        pool.bell.put(None)  # who may have fallen asleep between the bell and the opening of the gate
        end = time.monotonic() + 20
        while not job[_share.FAILED] and time.monotonic() < end:
            time.sleep(1e-3)
        job[_share.TURN] = 400
        KERNEL.pooled(first, last, job, *arguments)

    with pytest.raises(SystemError, match="another thread"):
        pool.run(compute, 400, scratch, (times, 0, 399), 2, 1, 1)
    assert idle(pool) and scratch[0, 2] > 0 and scratch[1, 2] > 0


def test_threads_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller does all the work, and nothing is left behind."""
    pool = Pool()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        for _ in range(20):
            times, shares = run(pool, 10, 5, 4)
            assert (times == 1).all() and shares[0] == 10
    assert pool.bell.empty() and not pool.helpers and not pool.awake[0] and idle(pool)
    assert all_share(pool)


def test_an_interrupt_waits_for_helpers() -> None:
    """What nobody has drawn is cancelled, and the interrupt is raised when no helper writes any more."""
    pool = Pool()
    times, scratch = np.zeros(50, int), np.zeros((3, 8))

    def compute(first: int, last: int, job: np.ndarray, *arguments: Any) -> None:
        job[_share.TURN] = 0  # share it, but leave all to the helpers,
        KERNEL.pooled(first, last, job, *arguments)
        pool.bell.put(None)  # who may have fallen asleep between the bell and the opening of the gate
        while not scratch.any():
            time.sleep(1e-4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run(compute, 50, scratch, (times, 100 * SLOW, -1), 3, 1, 1)
    done = times.copy()
    assert idle(pool) and 0 < done.sum() < 50
    time.sleep(0.1)
    assert (times == done).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals")
@pytest.mark.parametrize("tiles", [20, 2000])
def test_interrupts_at_any_moment(tiles: int) -> None:
    """Even several for a call: no job is lost, no helper is left inside, and the next call is right."""
    pool, left, met, chance = Pool(), [0], [0], np.random.default_rng(0)
    run(pool, 1000, 10, 3)

    def handler(*_: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            met[0] += 1
            raise TimeoutError

    def guarded(level: int, often: int) -> None:
        """Swallow whatever comes at whatever step, if it comes less often than there are levels."""
        try:
            if level:
                guarded(level - 1, often)
            else:
                left[0] = often
            while not level:
                run(pool, tiles, 20, 3, 100)
                assert left[0], "an interrupt was swallowed"
        except TimeoutError:
            pass

    gc.disable()  # what its callbacks raise is lost
    signal.signal(signal.SIGALRM, handler)
    try:
        for n in range(400):
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(5e-6, 4e-4), 2e-5)
            guarded(5, 1 + n % 3)
            left[0] = 0
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert idle(pool)
            times, shares = run(pool, 100, 20, 3)
            assert (times == 1).all() and shares.sum() == 100
    finally:
        left[0] = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, lambda *_: None)  # a helper may be about to note one, for which the default ends the process
        gc.enable()
    assert met[0] > 100 and len(pool.helpers) == 2


def test_only_the_system_s_errors_are_nothing_as_helpers_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler's TimeoutError is an OSError, too."""
    pool = Pool()
    for error in (PermissionError(errno.EPERM, "no"), TimeoutError(), TimeoutError(errno.ETIMEDOUT, "late")):

        def refuse(pid: int, error: OSError = error) -> set[int]:
            raise error

        pool.avoided = -1
        monkeypatch.setattr(os, "sched_getaffinity", refuse, raising=False)
        with pytest.raises(TimeoutError) if isinstance(error, TimeoutError) else contextlib.nullcontext():
            pool._keep_off(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_in_the_middle_of_a_job() -> None:
    """The child of a signal handler's fork has no helpers and not what they computed: an error, and the parent is none the wiser."""
    pool, scratch, times = Pool(), np.zeros((3, 8)), np.zeros(100, int)
    run(pool, 1000, 10, 3)
    turns = []

    def compute(first: int, last: int, job: np.ndarray, *arguments: Any) -> None:
        job[_share.TURN] = 1
        KERNEL.pooled(first, last, job, *arguments)
        turns.append(1)
        if len(turns) == 2:
            children.append(os.fork())
            if children == [0]:
                pool.after_fork()

    children: list[int] = []
    try:
        pool.run(compute, 100, scratch, (times, SLOW // 10, -1), 3, 1, 1)
        code = 0
    except RuntimeError as error:
        code = 7 if "forked" in str(error) and idle(pool) else 8
    if children == [0]:
        os._exit(code)
    assert code == 0 and (times == 1).all() and idle(pool)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7


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
    run(pool, 4, 4, 3)
    time.sleep(0.1)
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.1
    assert not pool.awake[0]


def test_a_helper_stops_looking_while_its_caller_holds_the_gil() -> None:
    """And is woken for the next job: who had to wait for the GIL to say that it stopped missed jobs that came between."""
    pool, interval = Pool(), sys.getswitchinterval()
    run(pool, 4, 4, 2)
    sys.setswitchinterval(60)
    try:
        end = time.monotonic() + 20
        while pool.awake.item(0) and time.monotonic() < end:
            pass
    finally:
        sys.setswitchinterval(interval)
    assert not pool.awake[0]
    assert any(run(pool, 200, 200, 2, SLOW)[1][1] for _ in range(20))


def test_a_helper_that_is_no_longer_counted_sees_what_is_shared_for_a_while_longer() -> None:
    """Somebody may have seen it counted just before."""
    for looks, longer in ((0, 1), (1, 0), (1, 1)):
        board, scratch, times, awake = np.zeros((1, _share.WORDS), np.int64), np.zeros((2, 8)), np.zeros(4, int), np.zeros(1, np.int64)
        board[0, : _share.PACKED] = _pool._words(4, 2, 1, 1, True)
        board[0, _share.TURN] = 0
        KERNEL.pooled(0, 4, board[0], scratch, times, 0, -1)
        _pool.serve(board, looks, longer, awake)
        assert (times == 1).all() and scratch[1, 2] == 4 and awake[0] == 0


def test_who_is_awake_or_about_to_be_is_not_rung_for() -> None:
    for awake, ringing, wanted in ((0, 0, 2), (1, 0, 1), (0, 1, 1), (2, 0, 0), (0, 2, 0), (1, 1, 0), (2, 2, 0)):
        pool, rung = Pool(), list[None]()
        pool.helpers[:] = [SimpleNamespace(native_id=None)] * 2  # type: ignore[list-item]
        pool.awake[0] = awake
        pool.bell = SimpleNamespace(qsize=lambda n=ringing: n, put=rung.append)  # type: ignore[assignment]
        assert (run(pool, 4, 4, 3)[0] == 1).all() and len(rung) == wanted


def test_a_short_job_wakes_nobody_unless_calls_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a long one is worth it always, a very short one only if many follow each other, or somebody is awake."""
    now, pool = 0.0, Pool()
    monkeypatch.setattr(_pool, "time", SimpleNamespace(perf_counter=lambda: now))

    def pays(seconds: float, after: float) -> bool:
        nonlocal now
        now += after
        return pool.pays(seconds)

    soon, often, pause = LOOK_OUT_SECONDS / 2, OFTEN_SECONDS / 2, 2 * OFTEN_SECONDS
    assert not pays(WAKE_SECONDS / 2, pause)
    assert pays(WAKE_SECONDS, pause)
    assert pays(WAKE_SECONDS / 2, often)
    assert not pays(WAKE_SECONDS / 2, pause)
    assert [pays(SHORT_SECONDS / 2, soon) for _ in range(IN_A_ROW)] == [False] * (IN_A_ROW - 1) + [True]
    assert not pays(SHORT_SECONDS / 2, often)
    pool.awake[0] = 1
    assert pays(WAKE_SECONDS / 2, pause) and pays(SHORT_SECONDS / 2, pause)


@pytest.mark.parametrize("tiles", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("behind", [[False], [True], [False, True], [False, True, True]])
def test_draws(tiles: int, workers: int, behind: list[bool]) -> None:
    """They cover all tiles, from either end, none is larger than allowed or than those before it, and only the last smaller than allowed."""
    for least, most in ((1, 1), (1, 10), (4, 1000), (50, 60)):
        job, sizes, first, stop = np.zeros(_share.WORDS, np.int64), [], 0, tiles
        job[: _share.PACKED] = _pool._words(tiles, workers, least, most, True)
        while (drawn := DRAW(job, last := behind[len(sizes) % len(behind)]))[1] > drawn[0]:
            assert drawn[1] == stop if last else drawn[0] == first
            first, stop = (first, drawn[0]) if last else (drawn[1], stop)
            sizes.append(drawn[1] - drawn[0])
            assert _share.count_drawn(job) == sum(sizes)
        assert first == stop and sum(sizes) == tiles and DRAW(job, False) == DRAW(job, True) == (tiles, tiles)
        assert max(sizes) <= most
        assert (np.diff(sizes) <= 0).all()
        assert (np.array(sizes[:-1]) >= min(least, most)).all()
        assert sizes[0] <= max(least, -(-tiles // (2 * workers)))


def test_scratch_is_marked_as_fresh() -> None:
    """Its first word is 0 when a thread comes to a job; rows without room for one, and what lies behind them, stay as they are."""
    words = np.full(4, 7.0)
    for row in (words[:1], words[1:2].view(np.float32)[:1], words[2:2]):
        job, times = np.zeros(_share.WORDS, np.int64), np.zeros(4, int)
        job[: _share.PACKED] = _pool._words(4, 1, 4, 4, True)
        FRESH.pooled(0, 4, job, row[None], times)
        assert (times == 1).all()
    assert words.tolist() == [0, 7, 7, 7]


def test_a_gate_lets_in_as_many_as_are_wanted() -> None:
    """And nobody once it is closed; who closes it waits for so long."""
    board, scratch, times = np.zeros((1, _share.WORDS), np.int64), np.zeros((3, 8)), np.zeros(10, int)
    job = board[0]
    job[: _share.PACKED] = _pool._words(10, 3, 1, 1, True)
    job[_share.TURN] = 4
    KERNEL.pooled(0, 10, job, scratch, times, 0, -1)
    assert job[_share.GATE] == 2 * _share.ONE and times.sum() == 4 and not job[_share.DONE]
    awake = np.zeros(1, np.int64)
    _pool.serve(board, 2, 0, awake)  # in twice, the second time in vain
    assert awake[0] == job[_share.GATE] == 0 and job[_share.SLOT] == 3 and (times == 1).all() and scratch[:, 2].tolist() == [4, 6, 0]
    job[_share.GATE] = 5 * _share.ONE + 1  # somebody is inside
    KERNEL.pooled(0, 10, job, scratch, times, 0, -1)
    assert job[_share.GATE] == 1 and not job[_share.DONE]
    waiter = threading.Thread(target=_pool.finish, args=(board, 0))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    job[_share.GATE] = 0
    waiter.join(10)
    assert not waiter.is_alive() and job[_share.DONE]
    assert 10 < _pool.looks() < 1e7


def test_more_arguments_than_a_job_has_room_for() -> None:
    """It is an error when the kernel is compiled, not memory that is overwritten."""
    names = [f"a{n}" for n in range(100)]
    scope: dict[str, Any] = {"__name__": __name__}
    exec(f"def many(first, last, workers, scratch, {', '.join(names)}):\n    pass", scope)
    with pytest.raises(NotImplementedError, match="no room"):
        Kernel(scope["many"], "-test-many").pooled(0, 1, ALONE, np.zeros((1, 1)), *(np.zeros((2, 2)) for _ in names))


def test_a_thread_keeps_scratch_for_jobs_that_it_shares(monkeypatch, threads_restored):
    """But what is called in the middle of a job, by a signal handler, does not get the job's."""
    given, f4, depth = [], np.dtype(np.float32), []

    def note(compute: Any, tiles: int, scratch: np.ndarray, *others: Any) -> None:
        given.append(scratch)
        if depth:
            depth.pop()
            _parallel.run(KERNEL, 10, (2000, f4), (), 0.01)

    monkeypatch.setattr(_parallel._pool, "run", note)
    monkeypatch.setattr(_parallel, "_own", _parallel._Own())
    nc.set_num_threads(3)
    for size in (2000, 10, 4000, 2000, _parallel.KEPT):
        _parallel.run(KERNEL, 10, (size, f4), (), 0.01)
        assert given[-1].shape[0] == 3 and size <= given[-1].shape[1] < size + 16 and given[-1].dtype == f4
        assert given[-1].flags.carray and given[-1].ctypes.data % 64 == 0
    shared = [np.shares_memory(given[2], other) for other in given]
    assert shared == [False, False, True, True, False], "enough is used again, too much is not kept"
    depth.append(1)
    _parallel.run(KERNEL, 10, (4000, f4), (), 0.01)
    assert np.shares_memory(given[-2], given[2]) and not np.shares_memory(given[-1], given[-2])


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
