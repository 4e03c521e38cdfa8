"""Calls on a GPU that are played back: with other arrays, they compute what they computed when they were written down."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from cases import fill, operands, poisoned, random_problem, to_gpu, to_host
from tolerance import INEXACT

from numbaconv import reference
from numbaconv.cuda import _backend
from numbaconv.cuda.sequence import Sequence, Steps
from numbaconv.plan import room
from numbaconv.problem import OPS, TENSORS, ConvProblem, Options, Unsupported

ROOM = room("cuda")
PLAYED = ("gemm", "tensor", "wgmma", "winograd", "stencil", "fold", "fft", "direct")


def compute(sequence, problem, op, rng, bias, activation, atol, dtype="float32"):
    a, b = (t.astype(dtype) for t in operands(problem, op, "float32", rng))
    shift = fill((problem.out_channels if op == "fprop" else problem.in_channels,), "float32", rng).astype(dtype) if bias else None
    out = to_gpu(poisoned(problem.shape(TENSORS[op][2]), dtype))
    sequence(to_gpu(a), to_gpu(b), out, Options(to_gpu(shift), activation))
    wide = [None if t is None else t.astype(np.float32) for t in (a, b, shift)]
    expected = reference.run(problem, op, *wide, activation)
    np.testing.assert_allclose(to_host(out).astype(np.float32), expected, rtol=0, atol=atol, err_msg=f"{op} {problem}")


@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.parametrize("op", OPS)
def test_what_is_played_back_is_computed_from_the_arrays_at_hand(name, op, rng):
    played = 0
    for number in range(2):
        problem = random_problem(rng, generic=number % 2 == 1, largest=4)
        if name == "winograd":
            last, width = number % 2 == 1, 5 + number % 3
            problem = ConvProblem.from_shapes((1, 6, width, 2) if last else (1, 2, 6, width), (3, 2, 3, 3), rank=2, padding=1, channels_last=last)
        if name == "fft":  # a signal; images do more than to launch kernels
            problem = ConvProblem.from_shapes((1, 2, 90 + number), (2, 1, 31), rank=1, padding=number, groups=2)
        if name == "stencil":
            problem = ConvProblem.from_shapes((2, 3, 6, 5 + number), (3, 1, 3, 3), rank=2, padding=number % 2, groups=3)
        try:
            ROOM[name].cost(problem, op, np.dtype(np.float32))
        except Unsupported:
            continue
        sequence, atol = Sequence(problem, op, ROOM[name].run), 1e-3 if name in INEXACT else 0
        ways = [(False, None)] if op == "wgrad" else [(False, None), (True, "relu"), (True, None)]
        for _ in range(2):
            for bias, activation in ways:
                compute(sequence, problem, op, rng, bias, activation, atol)
        assert len(sequence.known) == len(ways)
        played += sum(isinstance(steps, Steps) for steps in sequence.known.values())
        if all(sequence.known.values()):
            sequence.run = None  # it is not asked again
            compute(sequence, problem, op, rng, *ways[-1], atol)
    assert played or (name, op) in (("tensor", "wgrad"), ("wgmma", "wgrad"), ("fft", "wgrad"), ("fold", "fprop"), ("fold", "wgrad"))


@pytest.mark.parametrize("name", ("wgmma", "stencil", "widened"))
@pytest.mark.parametrize("op", OPS)
def test_16_bits_are_played_back(name, op, rng):
    problem = ConvProblem.from_shapes((2, 3, 5, 4), (3, 1, 3, 3), rank=2, padding=1, groups=3)
    sequence, ways = Sequence(problem, op, ROOM[name].run), [(False, None)] if op == "wgrad" else [(False, None), (True, "relu")]
    for _ in range(3):
        for bias, activation in ways:
            compute(sequence, problem, op, rng, bias, activation, 0, "float16")
    assert name == "stencil" or all(isinstance(steps, Steps) for steps in sequence.known.values())


def test_what_does_more_than_launch_is_carried_out_each_time(rng):
    problem = ConvProblem.from_shapes((1, 1, 20, 18), (1, 1, 9, 8), rank=2)
    sequence = Sequence(problem, "fprop", ROOM["fft"].run)
    for _ in range(2):
        compute(sequence, problem, "fprop", rng, False, None, 1e-3)
    assert set(sequence.known.values()) == {None}


def test_an_array_with_itself_is_not_written_down(rng):
    problem = ConvProblem.from_shapes((2, 2, 3), (2, 2, 3), rank=1, padding=2)
    sequence = Sequence(problem, "fprop", ROOM["direct"].run)
    x, out = to_gpu(fill((2, 2, 3), "float32", rng)), to_gpu(poisoned(problem.shape("y"), "float32"))
    sequence(x, x, out)
    assert not sequence.known
    for _ in range(2):
        compute(sequence, problem, "fprop", rng, False, None, 0)
    assert all(sequence.known.values())


def test_packed_weights_are_read_where_they_are(rng):
    problem = ConvProblem.from_shapes((2, 8, 5, 4), (6, 8, 3, 3), rank=2, padding=1)
    sequence = Sequence(problem, "fprop", ROOM["gemm"].run)
    for _ in range(3):
        x, w = operands(problem, "fprop", "float32", rng)
        out = to_gpu(poisoned(problem.shape("y"), "float32"))
        given = to_gpu(w)
        sequence(to_gpu(x), to_gpu(np.full_like(w, np.nan)), out, Options(packed=ROOM["gemm"].prepare(problem, "fprop", given)))
        np.testing.assert_array_equal(to_host(out), reference.run(problem, "fprop", x, w))
    assert all(isinstance(steps, Steps) for steps in sequence.known.values())


def test_a_failure_leaves_nothing_half_written_down(rng):
    problem = ConvProblem.from_shapes((1, 2, 6), (2, 2, 3), rank=1)
    sequence = Sequence(problem, "fprop", ROOM["direct"].run)
    run, sequence.run = sequence.run, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        compute(sequence, problem, "fprop", rng, False, None, 0)
    assert not sequence.known
    sequence.run = run
    for _ in range(2):
        compute(sequence, problem, "fprop", rng, False, None, 0)


@pytest.mark.parametrize(("wide", "integer"), [(False, ctypes.c_int32), (True, ctypes.c_int64)])
def test_a_launch_gives_the_driver_every_value_where_it_looks_for_it(wide, integer, monkeypatch):
    """What cuLaunchKernel would read: one place for each pointer, then one for each number, of its own size."""
    seen = []

    def launch_kernel(handle, *given):
        *shape, shared, stream, places, extra = given
        at = (ctypes.c_void_p * 5).from_address(places)
        pointers = [ctypes.c_uint64.from_address(place).value for place in at[:2]]
        seen.append((handle, tuple(shape), shared, stream, pointers, [integer.from_address(place).value for place in at[2:]], extra))

    driver = SimpleNamespace(driver=SimpleNamespace(launchKernel=launch_kernel))
    monkeypatch.setattr(_backend, "arrays", lambda: SimpleNamespace(cuda=driver))
    kernel = _backend.Kernel(lambda *_: None, ("f4", "i4"), 3, 96, wide=wide, shared=70_000)
    launch = _backend.Launch(kernel, SimpleNamespace(handle=77), (4, 5, 6), (7, -8, 2**31 - 1))
    calls = (11, [2**40 + 16, 2**63]), (0, [32, 48])
    for call in calls:
        launch(*call)
    assert seen == [(77, (4, 5, 6, 96, 1, 1), 70_000, *call, [7, -8, 2**31 - 1], 0) for call in calls]
