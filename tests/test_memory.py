"""The memory of large results: used again when nobody refers to a result any more, and never before."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import numbaconv as nc
from numbaconv import memory
from numbaconv.arrays import empty

F4, MANY = np.dtype(np.float32), memory.REUSED // 2  # float32 numbers, of twice the bytes from which memory is used again


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    before = nc.get_kept_memory()
    nc.set_kept_memory(256 << 20)
    yield
    nc.set_kept_memory(before)


def where(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_the_memory_of_a_result_is_used_again():
    first = empty((4, MANY // 4), F4)
    assert first.flags.carray and where(first) % memory.CACHE_LINE == 0 and first.dtype is F4
    place = where(first)
    first[:] = 1
    del first
    again = empty((MANY - 3,), F4)  # about as large
    assert where(again) == place and again.flags.carray
    other = empty((MANY,), F4)
    assert where(other) != place
    del again
    assert where(empty((MANY // 2,), F4)) != place, "half of it would be spared"
    assert where(empty((MANY,), np.dtype(np.int32))) == place


@pytest.mark.parametrize("hold", [
    lambda y: y[3:5], lambda y: y.reshape(-1)[::7], lambda y: y.view(np.uint8), memoryview, lambda y: np.frombuffer(y, np.int64), lambda y: [y],
    lambda y: y.T.view(np.matrix), lambda y: np.lib.stride_tricks.as_strided(y, (2, 2), (4, 4)), lambda y: y.ctypes,
    lambda y: np.asarray(memoryview(y)[1:]), lambda y: np.from_dlpack(y),
])  # fmt: skip
def test_what_is_still_referred_to_is_left_alone(hold):
    y = empty((1024, MANY // 1024), F4)
    place, held = where(y), hold(y)
    del y
    other = empty((MANY,), F4)
    assert where(other) != place
    del held
    gc.collect()
    assert where(empty((MANY,), F4)) == place


def test_a_tensor_of_torch_holds_it():
    torch = pytest.importorskip("torch")
    y = empty((MANY,), F4)
    place, held = where(y), torch.from_numpy(y)[3:]
    del y
    other = empty((MANY,), F4)
    assert where(other) != place
    del held
    assert where(empty((MANY,), F4)) == place


def test_calls_use_it(rng):
    x, w = rng.standard_normal((1, 8, 700, 700)).astype(F4), rng.standard_normal((8, 8, 3, 3)).astype(F4)
    expected = nc.conv2d(x, w).copy()
    places = set()
    for _ in range(5):
        y = nc.conv2d(x, w)
        np.testing.assert_array_equal(y, expected)
        places.add(where(y))
        y[:] = np.nan
        del y
    assert len(places) == 1
    kept = [nc.conv2d(x, w) for _ in range(4)]
    assert len({where(y) for y in kept}) == 4
    for y in kept:
        np.testing.assert_array_equal(y, expected)


def test_no_more_is_kept_than_was_said():
    nc.set_kept_memory(5 * memory.REUSED)
    assert nc.get_kept_memory() == 5 * memory.REUSED
    arrays = [empty((MANY,), F4) for _ in range(10)]
    assert sum(b.size for b in memory._blocks) <= 5 * memory.REUSED
    place = where(arrays[-1])
    del arrays
    assert where(empty((MANY,), F4)) == place or len(memory._blocks) == 2
    empty((10 * MANY,), F4)  # larger than all that may be kept
    assert not memory._blocks
    nc.set_kept_memory(0)
    empty((MANY,), F4)
    assert not memory._blocks


@pytest.mark.parametrize(("most", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError), (None, TypeError)])
def test_wrong_limits_are_refused(most, error):
    with pytest.raises(error, match="most"):
        nc.set_kept_memory(most)


def test_by_default_a_share_of_the_machine_is_kept(monkeypatch):
    for physical, expected in ((1e9, 1e9 / 32), (1e12, 256 << 20)):
        monkeypatch.setattr(memory, "_most", None)
        monkeypatch.setattr(memory, "_physical", lambda physical=physical: physical)
        assert nc.get_kept_memory() == int(expected)


def test_threads_do_not_share_a_block():
    stop = threading.Event()

    def work(number: int) -> int:
        done = 0
        while not stop.is_set() and done < 200:
            a, b = empty((MANY // 2,), F4), empty((MANY // 2,), F4)
            a[::99] = number
            b[::99] = -number
            if not (a[::99] == number).all() or not (b[::99] == -number).all():
                stop.set()
                return -1
            done += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(1, 9))) == [200] * 8


def test_whoever_comes_while_another_is_looking_gets_new_memory():
    empty((MANY,), F4)
    assert memory._lock.acquire(blocking=False)
    try:
        a, b = empty((MANY,), F4), empty((MANY,), F4)
        assert a.flags.carray and where(a) != where(b) and len(memory._blocks) == 1
    finally:
        memory._lock.release()


def test_memory_that_is_kept_makes_room(monkeypatch):
    empty((MANY,), F4)
    answers = iter([1e6, 1e12])
    monkeypatch.setattr(memory, "available", lambda: next(answers))
    memory.require(100 << 20, "a result")
    assert not memory._blocks


def test_kept_memory_is_given_up_before_there_is_none(monkeypatch):
    empty((MANY,), F4)
    original, kept = np.empty, []

    def failing(*arguments):
        if arguments[0] > MANY:
            kept.append([b.size for b in memory._blocks])
            if len(kept) == 1:
                raise MemoryError
        return original(*arguments)

    monkeypatch.setattr(memory.np, "empty", failing)
    array = memory.block(40 * MANY)
    assert array.size == 40 * MANY and len(kept) == 2 and kept[0] and not kept[1]


def test_nothing_is_said_when_python_ends():
    code = "import numpy as np, numbaconv as nc\nfrom numbaconv.arrays import empty\nkept = [empty((1 << 22,), np.dtype('f4')) for _ in range(3)]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr


def test_the_list_may_be_cleared_at_any_time(monkeypatch):
    original = memory._free

    def cleared(blocks: list[np.ndarray], needed: int) -> int | None:
        found = original(blocks, needed)
        nc.set_kept_memory(256 << 20)
        return found

    monkeypatch.setattr(memory, "_free", cleared)
    for _ in range(3):
        a, b = empty((MANY,), F4), empty((MANY,), F4)
        assert where(a) != where(b)


def test_a_block_that_somebody_changed_is_not_used_again():
    changes = (lambda b: b.setflags(write=False), lambda b: setattr(b, "dtype", np.int8), lambda b: setattr(b, "shape", (1, -1)))
    for change in changes:
        y = empty((MANY,), F4)
        change(y.base)
        del y
        assert empty((MANY,), F4).flags.carray
        assert empty((MANY,), F4).base.flags.carray


def test_a_profiler_that_refers_to_everything_does_not_confuse_it():
    def profile(frame, event, argument):
        frame.f_locals  # noqa: B018

    held = []
    sys.setprofile(profile)
    try:
        for _ in range(4):
            held += [empty((MANY,), F4), empty((MANY,), F4)]
            assert len({where(y) for y in held}) == len(held)
            held.pop()
    finally:
        sys.setprofile(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_uses_memory_again():
    with memory._lock:
        child = os.fork()
        if child == 0:
            place = where(empty((MANY,), F4))
            os._exit(0 if where(empty((MANY,), F4)) == place and memory._blocks else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about the GNU C library")
@pytest.mark.parametrize("kept", [True, False])
def test_smaller_results_do_not_pay_for_their_pages_each_time(kept):
    code = f"""
import resource, numpy as np, numbaconv as nc
from numbaconv import memory
from numbaconv.arrays import empty
nc.set_kept_memory(memory.HEAP - {not kept})
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    first, second = (empty((memory.REUSED // 2,), np.dtype(np.uint8)) for _ in range(2))
    first[:], second[:] = 1, 2
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(5)))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 100) == kept  # of 2048 pages
