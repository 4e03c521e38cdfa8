"""Batches in parts: what is copied of some samples is still in the caches when it is read, if they are done before others are copied."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv.cpu._sum import add_pairwise
from numbaconv.problem import ConvProblem, Op

# Bytes of copied samples that are multiplied before others are copied: 512→512 3×3 s2 on 14×14, 16 samples, 56 → 43 ms, as fast with 1 MiB.
COPIED = 4 << 20
# Bytes of copied samples for each byte of the weights, of which each part has a gradient of its own: for their memory; 0 to 8 took equally long
# (512→512 3×3 s2 g32 and 512→1024 1×1 s2 @28, 192→384 2×2 s2 @28, 128→128 3×3 @56, 16 samples).
LEAST = 2
Array = np.ndarray[Any, Any]


def samples(problem: ConvProblem, count: int) -> ConvProblem:
    """Return the problem of some samples."""
    key = "samples", count
    if count != problem.batch and key not in problem.derived:
        problem.derived[key] = replace(problem, batch=count, derived={})
    return problem if count == problem.batch else problem.derived[key]


def part(problem: ConvProblem, op: Op, copied: int, itemsize: int) -> ConvProblem:
    """Return the problem of as many samples as are copied at once, ``copied`` elements of each; parts of wgrad are of about the same size."""
    if copied == 0 or problem.batch < 2:
        return problem
    count = max(1, COPIED // (copied * itemsize))
    if op == "wgrad":
        count = max(count, -(-LEAST * math.prod(problem.shape("w")) // copied))
        count = -(-problem.batch // -(-problem.batch // count))
    return samples(problem, min(count, problem.batch))


def add_parts(
    run: Callable[[ConvProblem, Array, Array, Array], None], problem: ConvProblem, part: ConvProblem, dy: Array, x: Array, dw: Array
) -> None:
    """Overwrite dw with the sum of what ``run`` finds for each part of the samples."""
    starts = range(0, problem.batch, part.batch)
    pieces = np.empty((len(starts), *dw.shape), dw.dtype)
    for piece, first in zip(pieces, starts, strict=True):
        some = slice(first, first + part.batch)
        run(samples(problem, len(x[some])), dy[some], x[some], piece)
    dw[...] = add_pairwise(pieces)
