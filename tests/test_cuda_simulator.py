"""What the simulator is for: mistakes that a GPU would let pass, or hide, are errors here."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv.cuda import _simulator, _twins
from numbaconv.cuda._backend import SIMULATED, cuda
from numbaconv.cuda._prims import int32

if not SIMULATED:
    pytest.skip("these are about the simulator", allow_module_level=True)

THREADS = 64


def launch(kernel, *arrays, grid=(1, 1, 1), threads=THREADS, integers=()):
    _simulator.launch(kernel, grid, threads, arrays, integers)


def test_a_block_reverses_its_part_through_shared_memory():
    def reverse(x, y, sizes):
        held = cuda.shared.array(THREADS, np.float32, alignment=16)
        t = int32(cuda.threadIdx.x)
        first = int32(cuda.blockIdx.x) * THREADS
        held[t] = x[first + t]
        cuda.syncthreads()
        y[first + t] = held[THREADS - 1 - t]

    x = np.arange(4 * THREADS, dtype=np.float32)
    y = np.full_like(x, np.nan)
    launch(reverse, x, y, grid=(4, 1, 1))
    np.testing.assert_array_equal(y, x.reshape(4, -1)[:, ::-1].ravel())


def test_a_missing_barrier_is_a_race():
    def reverse(x, y, sizes):
        held = cuda.shared.array(THREADS, np.float32)
        t = int32(cuda.threadIdx.x)
        held[t] = x[t]
        y[t] = held[THREADS - 1 - t]

    x = np.arange(THREADS, dtype=np.float32)
    with pytest.raises(RuntimeError, match="a race: thread"):
        launch(reverse, x, np.zeros_like(x))


def test_reading_what_a_later_thread_overwrites_is_a_race():
    def shift(x, y, sizes):
        held = cuda.shared.array(THREADS, np.float32)
        t = int32(cuda.threadIdx.x)
        held[t] = x[t]
        cuda.syncthreads()
        value = held[(t + 1) % THREADS]
        held[t] = value

    x = np.arange(THREADS, dtype=np.float32)
    with pytest.raises(RuntimeError, match="a race: thread"):
        launch(shift, x, np.zeros_like(x))


def test_two_blocks_that_write_one_element_are_a_race():
    def both(x, y, sizes):
        y[int32(cuda.threadIdx.x)] = x[int32(cuda.threadIdx.x)]

    x = np.arange(THREADS, dtype=np.float32)
    with pytest.raises(RuntimeError, match="a race: thread"):
        launch(both, x, np.zeros_like(x), grid=(2, 1, 1))


@pytest.mark.parametrize("index", [-1, THREADS])
def test_an_index_out_of_bounds(index):
    def touch(x, y, sizes):
        y[int32(cuda.threadIdx.x)] = x[int32(cuda.threadIdx.x) if int32(cuda.threadIdx.x) else sizes[0]]

    x = np.arange(THREADS, dtype=np.float32)
    with pytest.raises(IndexError, match=f"touched elements {index}"):
        launch(touch, x, np.zeros_like(x), integers=(index,))


def test_a_barrier_that_some_threads_do_not_reach():
    def half(x, y, sizes):
        if int32(cuda.threadIdx.x) < 32:
            cuda.syncthreads()

    x = np.zeros(1, np.float32)
    with pytest.raises(RuntimeError, match="some threads of a block end"):
        launch(half, x, x.copy())


def test_shared_memory_starts_as_what_was_never_written():
    def copy(x, y, sizes):
        held = cuda.shared.array(THREADS, np.float32)
        y[int32(cuda.threadIdx.x)] = held[int32(cuda.threadIdx.x)]

    y = np.zeros(THREADS, np.float32)
    launch(copy, y.copy(), y)
    assert np.isnan(y).all()


@_simulator.collective
def lane_sum(values):
    return [sum(values)] * len(values)


def test_a_collective_sees_a_whole_warp():
    def warp_sums(x, y, sizes):
        y[int32(cuda.threadIdx.x)] = lane_sum(x[int32(cuda.threadIdx.x)])

    x = np.arange(THREADS, dtype=np.float32)
    y = np.zeros_like(x)
    launch(warp_sums, x, y)
    np.testing.assert_array_equal(y, np.repeat(x.reshape(2, 32).sum(axis=1), 32))


def test_a_number_that_int32_cannot_hold():
    with pytest.raises(AssertionError, match="no int32"):
        _twins.int32(2**31)


def test_an_address_that_is_not_aligned():
    with pytest.raises(AssertionError, match="not aligned"):
        _twins.load4(_simulator.Memory(np.zeros(16, np.float32)), 2)
