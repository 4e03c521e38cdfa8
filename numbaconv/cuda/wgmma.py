"""Hopper's tensor cores: fprop and dgrad of bfloat16 and float16, and of float32 in tf32 where that is asked for. Sums are float32.

`tensor`'s products by instructions of four warps that read both operands from shared memory, along channels that lie side by side: an input
whose channels are not last is first copied so that they are, filled up to whole slabs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.cuda import _geometry, gemm, tensor
from numbaconv.cuda._backend import SIMULATED, Kernel, capability_of, current_device, empty, kept
from numbaconv.cuda._geometry import Product
from numbaconv.cuda._wgmma import BLOCK, CAPABILITY, LINE, MOST_TAPS, PIXELS, Variant, kernel, rearrange
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

PRECISIONS = tensor.PRECISIONS
TILES = ((PIXELS, 128), (PIXELS, 64))  # pixels × columns
LEAST_TERMS = 512  # of a piece
RATE = {"tf32": 1.0e12, "bf16": 1.8e12, "f16": 1.8e12}  # multiply-adds a second of a multiprocessor


def _slab(kind: str) -> int:
    """Return how many rows of the contraction are multiplied at a time."""
    return LINE // tensor.cell_of(kind).itemsize


def _room(problem: ConvProblem, op: Op, kind: str) -> int:
    """Return how many channels of each group the copy of the input has; 0 where it is read as it lies."""
    p = problem.transpose() if op == "dgrad" else problem
    channels, slab = p.in_channels // p.groups, _slab(kind)
    whole = -(-channels // slab) * slab
    return 0 if p.channels_last and whole == channels else whole


def _cut(problem: ConvProblem, op: Op, kind: str) -> gemm.Cut:
    """Return how the outputs are shared out, and into how many pieces sums are cut."""
    key = ("cuda wgmma cut", op, kind)
    if key not in problem.derived:
        terms = -(-problem.gemm_shape(op)[2] // max(1, math.prod(gemm.phases_of(problem, op))))
        problem.derived[key] = gemm.cut_of(problem, op, RATE[kind], TILES, LEAST_TERMS, max(1, -(-terms // tensor.CHUNK)))
    return problem.derived[key]


def _check(problem: ConvProblem, op: Op, dtype: Any) -> str:
    if op == "wgrad":
        raise Unsupported("needs fprop or dgrad")
    kind = tensor.kind_of(dtype)
    if not SIMULATED and capability_of(current_device()) != CAPABILITY:
        raise Unsupported(f"needs a GPU of compute capability {'.'.join(map(str, CAPABILITY))}")
    p = problem.transpose() if op == "dgrad" else problem
    if p.in_channels == 0:
        raise Unsupported("needs channels")
    taps = math.prod(max(len(phase.taps) for phase in _geometry.axis_phases(p, axis)) for axis in range(3) if p.output[axis])
    if taps > MOST_TAPS:
        raise Unsupported(f"needs at most {MOST_TAPS} taps that reach an output, got {taps}")
    if p.channels_last and _room(problem, op, kind):
        raise Unsupported(f"needs a multiple of {_slab(kind)} channels a group where channels are last")
    if p.batch > gemm.GRID_LIMIT:
        raise Unsupported(f"needs at most {gemm.GRID_LIMIT} images")
    tensor.check_grid(problem, op, _cut(problem, op, kind))
    return kind


def cost(problem: ConvProblem, op: Op, dtype: Any) -> float:
    """Estimate the seconds on a large GPU."""
    kind = _check(problem, op, dtype)
    _tables(problem, op, kind)  # raises for arrays that int32 cannot index
    size = np.dtype(dtype).itemsize
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * size
    rows, _, terms = problem.gemm_shape(op)
    p, room = problem.transpose() if op == "dgrad" else problem, _room(problem, op, kind)
    filled = room / (p.in_channels // p.groups) if room else 1.0  # zeros are multiplied too
    copied = (math.prod(p.shape("x")) + _copied(problem, op, kind)) * size / gemm.BANDWIDTH + gemm.LAUNCH if room else 0.0
    return float(max(_cut(problem, op, kind).seconds * filled, traffic / gemm.BANDWIDTH) + 2 * gemm.LAUNCH + copied)


def _copied(problem: ConvProblem, op: Op, kind: str) -> int:
    """Return how many elements the copy of the input has."""
    p = problem.transpose() if op == "dgrad" else problem
    return p.batch * math.prod(p.input) * p.groups * _room(problem, op, kind)


def workspace(problem: ConvProblem, op: Op, dtype: Any) -> int:
    """Bytes allocated besides the output: the packed weights, the copy of the input, and the pieces of sums, which are float32."""
    kind = tensor.kind_of(dtype)
    product, pieces = _tables(problem, op, kind), _cut(problem, op, kind).pieces
    out = math.prod(problem.shape("y" if op == "fprop" else "x"))
    own = gemm.packed_size(product, problem.groups) + _copied(problem, op, kind)
    return own * np.dtype(dtype).itemsize + (out * pieces * 4 if pieces > 1 else 0)


def _tables(problem: ConvProblem, op: Op, kind: str) -> Product:
    key = ("cuda wgmma", op, kind)
    if key not in problem.derived:
        cut = _cut(problem, op, kind)
        problem.derived[key] = _geometry.product(problem, op, cut.tile, cut.pieces, _slab(kind), _room(problem, op, kind))
    return problem.derived[key]


def _on_device(problem: ConvProblem, op: Op, kind: str, name: str) -> Any:
    """Return a table where kernels read it."""
    return kept(problem.derived, ("cuda wgmma", op, kind, name), lambda: getattr(_tables(problem, op, kind), name))


def packing(problem: ConvProblem, op: Op, dtype: Any) -> tuple[Any, ...]:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    kind = tensor.kind_of(dtype)
    return current_device(), kind, *_tables(problem, op, kind).packing


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Pack the weights; what `run` reads."""
    kind = tensor.kind_of(w.dtype)
    return tensor.packed(_tables(problem, op, kind), _on_device(problem, op, kind, "weight_rows"), w, problem.groups, _slab(kind))


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``; a bias has its dtype."""
    kind = tensor.kind_of(a.dtype)
    cut, room = _cut(problem, op, kind), _room(problem, op, kind)
    product, table = _tables(problem, op, kind), _on_device(problem, op, kind, "table")
    weights = prepare(problem, op, b) if options.packed is None else options.packed
    p = problem.transpose() if op == "dgrad" else problem
    x = tensor.cells(a, kind)
    if room:
        x = _channels_last(p, x, empty(_copied(problem, op, kind), x.dtype), kind, room)
    activation, partial = (None, True) if cut.pieces > 1 else (options.activation, False)
    variant = Variant(kind, cut.tile[1], p.channels_last, kind == "tf32" and not room, gemm.has_depth(p), activation, partial)
    tensor.multiply(p, kernel(variant), cut, product, (x, weights, table), out, options)


def _channels_last(p: ConvProblem, x: Any, copy: Any, kind: str, room: int) -> Any:
    pixels = math.prod(p.input)
    grid = (-(-pixels // BLOCK), -(-p.groups * room // BLOCK), p.batch)
    rearrange(kind).launch(grid, (x, copy), (pixels, p.groups, p.in_channels // p.groups, room))
    return copy


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name; bfloat16 stands for float16."""
    for kind, columns, last in itertools.product(("tf32", "bf16"), (128, 64), (False, True)):
        name = f"wgmma {kind} 128×{columns} {'NHWC' if last else 'NCHW'}"
        yield name, kernel(Variant(kind, columns, last, kind == "tf32" and last, False, "relu", False))
    for kind in ("tf32", "bf16"):
        yield f"wgmma {kind} partial", kernel(Variant(kind, 64, False, False, True, None, True))
        yield f"wgmma rearrange {kind}", rearrange(kind)
    yield "wgmma f16 128×128", kernel(Variant("f16", 128, True, False, True, None, False))
