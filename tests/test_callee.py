"""Functions that only kernels call: they are compiled into these, and no further by themselves."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import prange
from numba.extending import overload

from numbaconv._callee import CalleeCompiler
from numbaconv._jit import FASTMATH, CodeCache, Kernel, exact, inline
from numbaconv.cpu._pool import ALONE


def test_what_a_kernel_calls_is_compiled_into_it_alone() -> None:
    @exact
    def third(x, i):  # type: ignore[no-untyped-def]
        return x[i] / 3

    @inline
    def more(x, i):  # type: ignore[no-untyped-def]
        return third(x, i) + 1

    def kernel(first, last, workers, scratch, x, y):  # type: ignore[no-untyped-def]
        for i in prange(first, last):
            y[i] = more(x, i)

    x = np.random.default_rng(0).standard_normal(7)
    for compute, alone in ((Kernel(kernel, "-test-callee").pooled, ALONE), (Kernel(kernel, "-test-callee").parallel, 1)):
        y = np.full(7, np.nan)
        compute(0, 7, alone, np.zeros((1, 0)), x, y)
        np.testing.assert_allclose(y, x / 3 + 1, rtol=1e-15)
    for function in (third, more):
        assert function._compiler.pipeline_class is CalleeCompiler
        for compiled in function.overloads.values():
            library = compiled.library
            assert library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0  # there is no machine code of it


def test_python_cannot_call_it() -> None:
    @inline
    def twice(x):  # type: ignore[no-untyped-def]
        return 2 * x

    with pytest.raises(TypeError, match="not callable"):
        twice(1.5)


def test_an_overload_is_compiled_by_each_kernel_s_own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of one kernel's call is not used by another whose sums are rounded as written, nor what a user's function compiled."""
    monkeypatch.setattr(CodeCache, "load_overload", lambda *arguments: None)  # all are compiled here

    def difference(x, y, z):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    @overload(difference)
    def compiled_difference(x, y, z):  # type: ignore[no-untyped-def]
        return lambda x, y, z: x / y - z

    def found(fastmath: set[str], name: str, *values: float) -> float:
        def kernel(first, last, workers, scratch, y, values):  # type: ignore[no-untyped-def]
            for i in prange(first, last):
                y[i] = difference(values[0], values[1], values[2])

        y = np.zeros(1)
        Kernel(kernel, f"-test-overload-{name}", fastmath).pooled(0, 1, ALONE, np.zeros((1, 0)), y, np.array(values))
        return float(y[0])

    assert found(FASTMATH, "first", 1.0, 0.0, 0.0) == np.inf
    assert numba.njit(lambda x, y, z: difference(x, y, z))(3.0, 2.0, 1.0) == 0.5  # in which a division by zero is an error
    assert found(FASTMATH, "again", 1.0, 0.0, 0.0) == np.inf
    assert found(set(), "in order", 1.0, 0.0, 0.0) == np.inf
    assert numba.njit(lambda x, y, z: difference(x, y, z))(3.0, 2.0, 1.0) == 0.5
    assert found(set(), "in order again", 1.0, 0.0, 0.0) == np.inf
