"""The quick ways of `stencil`: which of them does a problem, and how its kernel is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numbaconv.cpu import _interleaved, _interleaved_wgrad, _isa, _parallel, _pointwise, _rolls, _slabs
from numbaconv.cpu._slabs import Pass
from numbaconv.cpu.bias import CODES
from numbaconv.problem import ConvProblem, Op, Options

Array = np.ndarray[Any, Any]
Planes = _rolls.Rolls | _interleaved.Interleaved | _pointwise.Pointwise


def choose(p: ConvProblem, op: Op, dtype: np.dtype[Any], seconds: Callable[[dict[str, float]], float]) -> Planes | None:
    """Return how p, of which ``op`` is asked, is done in one kernel, None if slabs or blocks are quicker by the ``seconds`` of what is counted."""
    isa = _isa.host()
    if pointwise := _pointwise.plan(p, op, isa, dtype):
        return pointwise
    rolls = None if op == "wgrad" else _rolls.plan(p, op, isa, dtype)
    interleaved = _interleaved_wgrad.plan(p, isa, dtype) if op == "wgrad" else _interleaved.plan(p, isa, dtype)
    slabs = [] if rolls or not interleaved else _slabs.passes(p, op, dtype)
    if interleaved and (rolls or slabs):
        other = rolls.work(p, dtype) if rolls else _slabs.work(slabs, p, op, dtype)
        return interleaved if seconds(interleaved.work(p, dtype)) < seconds(other) else rolls
    return interleaved or rolls


def run(found: list[Pass] | list[Planes], x: Array, w: Array, y: Array, options: Options, seconds: float) -> bool:
    """Overwrite all of y, and return whether a sum is not finite."""
    bias = np.zeros(y.shape[1], y.dtype) if options.bias is None else options.bias
    broken = np.zeros(1, np.int8)
    given = (x.reshape(-1), w.reshape(-1), y.reshape(-1), bias, CODES[options.activation], broken)
    for part in found:
        _parallel.run(part.kernel, part.tiles, (part.scratch, y.dtype), (*given, *part.tables), seconds / len(found))
    return bool(broken[0])


def bind(part: Pass | Planes, p: ConvProblem, dtype: np.dtype[Any], seconds: float) -> Callable[[Array, Array, Array], bool]:
    """Return `run` of one pass, without bias and activation, with everything looked up."""
    kernel, tiles, tables = part.kernel, part.tiles, part.tables
    scratch, bias = (part.scratch, dtype), np.zeros(p.out_channels, dtype)

    def run(x: Array, w: Array, y: Array) -> bool:
        broken = np.zeros(1, np.int8)
        _parallel.run(kernel, tiles, scratch, (x.ravel(), w.ravel(), y.ravel(), bias, 0, broken, *tables), seconds)
        return bool(broken[0])

    return run
