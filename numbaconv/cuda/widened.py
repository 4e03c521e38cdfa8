"""bfloat16 and float16 computed in float32: operands are widened before, the result is rounded after. For what tensor cores are no help to.

These are filters of few channels a group, whose products leave most of a tensor core's tile empty, and wgrad.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from numbaconv.cuda import direct, gemm, stencil, tensor
from numbaconv.cuda._backend import Kernel, cuda, empty
from numbaconv.cuda._prims import int32
from numbaconv.cuda._store import PER_BLOCK, THREADS
from numbaconv.cuda._tensor_prims import narrow, widen
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Unsupported

PRECISIONS = {"uint16": ("bf16",)}
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
    if tensor.KINDS.get(np.dtype(dtype).name) not in ("bf16", "f16"):
        raise Unsupported(f"needs bfloat16 or float16, got {dtype}")
    if _elements(problem) > 2**31 - 1:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    return _inner(problem, op)[0] + 6 * _elements(problem) / gemm.BANDWIDTH + 3 * gemm.LAUNCH


def workspace(problem: ConvProblem, op: Op, dtype: Any) -> int:
    """Bytes allocated besides the output: everything once more, as float32."""
    return 4 * _elements(problem) + int(_inner(problem, op)[1].workspace(problem, op, FLOAT32))


@functools.cache
def converter(kind: str, to_float32: bool) -> Kernel:
    """Return the kernel that widens numbers, or rounds them."""
    convert = widen(kind) if to_float32 else narrow(kind)

    def convert_numbers(x, y, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[i] = x[i], as the nearest number that it can hold.
        # THE SCHEDULE: a thread owns four elements, a block's width apart.
        at = int32(int32(cuda.blockIdx.x) * PER_BLOCK + int32(cuda.threadIdx.x))
        for _ in range(4):
            if at < sizes[0]:
                y[at] = convert(x[at])
            at = int32(at + THREADS)

    dtypes = (np.uint16, np.float32) if to_float32 else (np.float32, np.uint16)
    return Kernel(convert_numbers, dtypes, 1, THREADS)


def _convert(kind: str, to_float32: bool, source: Any, target: Any) -> Any:
    size = math.prod(source.shape)
    converter(kind, to_float32).launch((-(-size // PER_BLOCK), 1, 1), (source, target), (size,))
    return target


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``; a bias has its dtype."""
    kind = tensor.KINDS[np.dtype(a.dtype).name]
    given = [None if array is None else array.view(np.uint16) for array in (a, b, options.bias)]
    wide = [None if array is None else _convert(kind, True, array, empty(array.shape, np.float32)) for array in given]
    result = empty(problem.shape(TENSORS[op][2]), np.float32)
    _inner(problem, op)[1].run(problem, op, wide[0], wide[1], result, Options(wide[2], options.activation))
    _convert(kind, False, result, out.view(np.uint16))


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name."""
    for kind in ("bf16", "f16"):
        yield f"widen {kind}", converter(kind, True)
        yield f"round {kind}", converter(kind, False)
