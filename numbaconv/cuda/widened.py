"""bfloat16 and float16 computed in float32: operands are widened before, the result is rounded after. For what tensor cores are no help to.

These are filters of several channels a group, whose products leave most of a tensor core's tile empty; without Hopper's, wgrad too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from numbaconv.cuda import _formats, direct, gemm, stencil
from numbaconv.cuda._backend import Kernel, empty
from numbaconv.cuda._formats import convert, format_of
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Unsupported

PRECISIONS = _formats.PRECISIONS
FLOAT32 = np.dtype(np.float32)
IN_FLOAT32 = (gemm, stencil, direct)  # the room's sums that keep to the bounds of a direct one


def _inner(problem: ConvProblem, op: Op) -> tuple[float, ModuleType]:
    """Return what computes it in float32, and how long that takes."""
    key = ("cuda widened", op)
    if key not in problem.derived:
        able = []
        for number, algorithm in enumerate(IN_FLOAT32):
            try:
                able.append((algorithm.cost(problem, op, FLOAT32), number))
            except Unsupported:
                continue
        if not able:
            raise Unsupported("needs a problem that can be computed in float32")
        seconds, number = min(able)
        problem.derived[key] = seconds, IN_FLOAT32[number]
    return problem.derived[key]


def _elements(problem: ConvProblem) -> int:
    return sum(math.prod(problem.shape(name)) for name in ("x", "w", "y"))


def cost(problem: ConvProblem, op: Op, dtype: Any) -> float:
    """Estimate the seconds on a large GPU."""
    if format_of(dtype) is None:
        raise Unsupported(f"needs bfloat16 or float16, got {dtype}")
    _formats.check(dtype)
    if _elements(problem) > 2**31 - 1:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    return _inner(problem, op)[0] + 6 * _elements(problem) / gemm.BANDWIDTH + 3 * gemm.LAUNCH


def workspace(problem: ConvProblem, op: Op, dtype: Any) -> int:
    """Bytes allocated besides the output: everything once more, as float32."""
    return 4 * _elements(problem) + int(_inner(problem, op)[1].workspace(problem, op, FLOAT32))


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``; a bias has its dtype."""
    kind = format_of(a.dtype)
    assert kind
    given = [None if array is None else array.view(np.uint16) for array in (a, b, options.bias)]
    wide = [None if array is None else convert(kind, True, array, empty(array.shape, np.float32)) for array in given]
    result = empty(problem.shape(TENSORS[op][2]), np.float32)
    _inner(problem, op)[1].run(problem, op, wide[0], wide[1], result, Options(wide[2], options.activation))
    convert(kind, False, result, out.view(np.uint16))


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name."""
    return _formats.kernels()
