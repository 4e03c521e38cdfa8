"""Filters of one axis straight from memory: every instruction set, edges, and the call for short vectors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cases import fill, poisoned

from numbaconv import reference
from numbaconv.cpu import _isa, fir
from numbaconv.problem import ConvProblem, Options


@pytest.mark.parametrize("name", list(_isa.ISAS))
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_instruction_set(name, dtype, rng, monkeypatch):
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    activation = None if dtype.startswith("complex") else "relu"
    for size, taps, dilation in itertools.product((1, 5, 16, 130, 700, 9000), (1, 3, 31), (1, 4)):
        low = int(rng.integers(-2, (taps - 1) * dilation + 3))
        output = int(rng.integers(1, size + 5))
        rows = 2 if size < 1000 else 1
        problem = ConvProblem(rows, 3, 3, 3, (1, 1, size), (1, 1, taps), (1, 1, output), (1, 1, 1), (1, 1, dilation), low=(0, 0, low), rank=1)
        for op in ("fprop", "dgrad"):
            a = fill(problem.shape("x" if op == "fprop" else "y"), dtype, rng)
            w, bias = fill(problem.shape("w"), dtype, rng), fill((3,), dtype, rng)
            out = poisoned(problem.shape("y" if op == "fprop" else "x"), dtype)
            fir.run(problem, op, a, w, out, Options(bias, activation))
            expected = reference.run(problem, op, a, w, bias, activation)
            np.testing.assert_array_equal(out, expected, err_msg=str(problem))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "int8", "int16", "int32", "int64"])
def test_the_call_for_short_vectors(dtype, rng):
    for n, taps, reverse in itertools.product((1, 2, 17, 100, 400), (1, 2, 9, 17), (False, True)):
        if taps > n:
            continue
        x, h = fill((n,), dtype, rng), fill((taps,), dtype, rng)
        full = np.convolve(x, h[::-1] if reverse else h)
        for start in (0, taps - 1, (taps - 1) // 2):
            y: Any = poisoned((n - start,), dtype)
            fir.convolve(x, h, reverse, start, y)
            np.testing.assert_array_equal(y, full[start:n])
