"""wgrad by `_wgmma_wgrad`: which operands are copied first, what a block owns, and into how many pieces the contraction is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import _wgmma_copies, _wgrad, gemm
from numbaconv.cuda._backend import Kernel, empty, kept
from numbaconv.cuda._store import THREADS
from numbaconv.cuda._tensor_prims import narrow
from numbaconv.cuda._wgmma_wgrad import RESIDENT, SLAB, UNIT, UNITS, kernel
from numbaconv.cuda.tensor import CHUNK
from numbaconv.problem import ConvProblem, Unsupported

# What a block takes beside its slabs, and a slab of two blocks, by whether they are tall: with these, six layers were estimated within a
# quarter of what they took on an H200.
BLOCK_SECONDS = 5e-6
SLAB_SECONDS = {True: 1.1e-6, False: 0.9e-6}


class Sum(NamedTuple):
    """How a wgrad is computed."""

    tables: _wgrad.Sum  # of the problem whose channels fill lines and are last
    tall: bool
    pieces: int
    copies: int  # of dw
    seconds: float
    copied_x: int  # elements of the copy of x, 0 where it is read as it lies
    copied_y: int  # and of dy

    @property
    def grid(self) -> tuple[int, int, int]:
        """The blocks of a launch."""
        geo = self.tables.geo
        return geo.rows // (128 if self.tall else 64), -(-geo.columns // (UNITS * UNIT)), geo.groups * self.pieces


def check(problem: ConvProblem, kind: str) -> None:
    """Raise unless it can be computed."""
    if kind == "tf32":
        raise Unsupported("needs 16-bit numbers for wgrad")
    found = sum_of(problem)
    if max(found.grid) > gemm.GRID_LIMIT:
        raise Unsupported("needs fewer groups and filters: a launch has no room for so many blocks")
    if not problem.channels_last:
        _wgmma_copies.check(problem.batch, problem.groups * max(found.tables.geo.rows, found.tables.geo.channels))


def sum_of(problem: ConvProblem) -> Sum:
    """Return how a wgrad is computed, worked out once."""
    key = ("cuda wgmma wgrad",)
    if key not in problem.derived:
        problem.derived[key] = _best_sum(problem)
    return problem.derived[key]


def _best_sum(problem: ConvProblem) -> Sum:
    groups, slab = problem.groups, UNIT
    if 0 in (problem.in_channels, problem.out_channels, problem.batch, *problem.output):
        raise Unsupported("needs a problem that is not empty")
    rooms = [-(-channels // groups // slab) * slab for channels in (problem.in_channels, problem.out_channels)]
    images = [problem.batch * math.prod(size) for size in (problem.input, problem.output)]
    given = problem.in_channels, problem.out_channels
    own = [problem.channels_last and room * groups == channels for room, channels in zip(rooms, given, strict=True)]
    copied = [0 if as_is else size * groups * room for as_is, size, room in zip(own, images, rooms, strict=True)]
    p = replace(problem, in_channels=groups * rooms[0], out_channels=groups * rooms[1], channels_last=True, derived={})
    rows, columns, pixels = p.gemm_shape("wgrad")
    tall = rows % 128 == 0
    units = -(-columns // (UNITS * UNIT)) * -(-rows // (128 if tall else 64)) * groups
    slabs, size = -(-pixels // SLAB), 4 * math.prod(p.shape("w"))
    share = 1 if tall else 2  # copies of dw of a piece
    fewest = max(1, -(-pixels // (CHUNK * share)))
    best = None
    for pieces in range(fewest, max(fewest, min(gemm.MOST_PIECES, gemm.PIECES_BYTES // (size * share), slabs)) + 1):
        held = -(-units * pieces // gemm.MULTIPROCESSORS)
        seconds = -(-held // RESIDENT) * (BLOCK_SECONDS + -(-slabs // pieces) * SLAB_SECONDS[tall])
        seconds += 2 * size * pieces * share / gemm.BANDWIDTH + gemm.LAUNCH
        if best is None or seconds < best[0]:
            best = seconds, pieces
    assert best is not None
    seconds, pieces = best
    return Sum(_wgrad.tables(p, pieces * share, True), tall, pieces, pieces * share, seconds, *copied)


def cost(problem: ConvProblem) -> float:
    """Estimate the seconds on a large GPU."""
    found = sum_of(problem)
    moved = sum(math.prod(problem.shape(t)) for t in ("x", "y")) * 2 / gemm.BANDWIDTH
    copying = sum(4 * copied / gemm.BANDWIDTH + gemm.LAUNCH for copied in (found.copied_x, found.copied_y) if copied)
    return float(max(found.seconds, moved) + gemm.LAUNCH + copying)


def run(problem: ConvProblem, dy: Any, x: Any, dw: Any, kind: str) -> None:
    """Overwrite all of ``dw``; 16-bit formats are patterns."""
    found = sum_of(problem)
    geo = found.tables.geo._replace(pieces=found.pieces)
    if found.copied_x:
        x = _wgmma_copies.channels_last(problem, x, problem.in_channels, math.prod(problem.input), found.copied_x, kind, geo.channels)
    if found.copied_y:
        dy = _wgmma_copies.channels_last(problem, dy, problem.out_channels, math.prod(problem.output), found.copied_y, kind, geo.rows)
    table = kept(problem.derived, ("cuda wgmma wgrad", "table"), lambda: found.tables.table)
    target = empty((found.copies, geo.out_size), np.float32)
    kernel(kind, found.tall, gemm.has_depth(problem)).launch(found.grid, (dy, x, target, table), geo)
    own = problem.out_channels // problem.groups, problem.in_channels // problem.groups
    sizes = (geo.out_size, found.copies, geo.columns, geo.channels, geo.taps, geo.flipped, geo.rows, *own)
    finish(kind).launch((-(-geo.out_size // THREADS), 1, 1), (target, dw), sizes)


def finish(kind: str) -> Kernel:
    """Return the kernel that adds the copies of dw."""
    return _wgrad.finish(np.dtype(np.float32), np.dtype(np.uint16), narrow(kind))


def workspace(problem: ConvProblem) -> int:
    """Bytes allocated besides the output: copies of the operands and of dw."""
    found = sum_of(problem)
    return 2 * (found.copied_x + found.copied_y) + 4 * found.copies * found.tables.geo.out_size


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name; bfloat16 stands for float16."""
    for tall in (True, False):
        yield f"wgmma wgrad bf16 {128 if tall else 64}×128", kernel("bf16", tall, False)
    yield "wgmma wgrad f16 volume", kernel("f16", True, True)
    yield "wgmma wgrad finish bf16", finish("bf16")
