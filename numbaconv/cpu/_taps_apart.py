"""Inputs that `gemm`'s wgrad reads copied apart, a channel for each tap, where that is less than what it would do without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv.cpu import _copies, _grid
from numbaconv.problem import ConvProblem, Op

MOST_APART, MOST_TAPS = 1 << 20, 1 << 8  # elements of inputs copied for each tap, 4 MiB of float32; taps, whose lines have entries in a table
Array = np.ndarray[Any, Any]


def dense(p: ConvProblem, op: Op) -> ConvProblem:
    """Return the problem of the inputs that wgrad reads, with a channel for each tap of a channel, if they are copied apart.

    A filter of one tap with strides and no padding leaves most inputs out. Of outputs fewer than filters there is less to copy than in the result,
    which then comes out in order: 512→512 3×3 s2 on 14×14, 9.4 MB, 3.5 → 1.6 ms.
    """
    if op != "wgrad" or not (_skips(p) or _has_few_outputs(p)):
        return p
    if "dense" not in p.derived:
        one = (1, 1, 1)
        channels = p.in_channels * math.prod(p.filter)
        p.derived["dense"] = replace(p, in_channels=channels, input=p.output, filter=one, stride=one, dilation=one, low=(0, 0, 0), derived={})
    return p.derived["dense"]


def _skips(p: ConvProblem) -> bool:
    return p.filter == (1, 1, 1) and p.stride != (1, 1, 1) and p.low == (0, 0, 0) and all(high <= 0 for high in p.high)


def _has_few_outputs(p: ConvProblem) -> bool:
    outputs, taps = p.batch * math.prod(p.output), math.prod(p.filter)
    plain = taps > 1 and not (p.channels_last or p.flipped) and p.input_dilation == (1, 1, 1)
    return plain and taps <= MOST_TAPS and 0 < outputs * p.groups <= p.out_channels and outputs * p.in_channels * taps <= MOST_APART


def copier(p: ConvProblem, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    """Return a function of x: the elements that each tap reads."""
    if p.channels_last:
        shape = p.shape("x")
        read = (slice(None), *(slice(0, outputs * stride, stride) for outputs, stride in zip(p.output, p.stride, strict=True)))
        return lambda x: np.ascontiguousarray(x.reshape(shape)[read])
    apart = _grid.patches(p)
    copy, size = _copies.planes_copier(p, apart, dtype), p.batch * p.in_channels * apart.plane
    return lambda x: copy(x)[:size]
