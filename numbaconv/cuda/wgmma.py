"""Hopper's tensor cores: bfloat16 and float16, and fprop and dgrad of float32 in tf32 where that is asked for. Sums are float32.

`tensor`'s products by instructions of four warps that read both operands from shared memory, along channels that lie side by side: an input
whose channels are not last is first copied so that they are, filled up to whole slabs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv.cuda import _geometry, _wgmma_copies, _wgmma_sums, gemm, tensor
from numbaconv.cuda._backend import SIMULATED, Kernel, capability_of, current_device, kept
from numbaconv.cuda._geometry import Product
from numbaconv.cuda._tensor_layout import cell_of
from numbaconv.cuda._wgmma import CAPABILITY, LINE, MOST_TAPS, PIXELS, STAGES, Variant, kernel
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Unsupported

PRECISIONS = tensor.PRECISIONS
TILES = ((PIXELS, 128), (PIXELS, 64))  # pixels × columns
LEAST_TERMS = 512  # of a piece; like the next one an estimate
LEAST_USES = 4  # of an element of x, from which on it is rounded to tf32 beforehand
# Measured on an H200: what a block takes beside its slabs, and a slab of each block where a multiprocessor holds so many.
BLOCK_SECONDS = 5e-6
SLAB_SECONDS = {(128, 2): 1.05e-6, (128, 1): 0.51e-6, (64, 3): 1.1e-6, (64, 2): 0.66e-6, (64, 1): 0.36e-6}
MOST_RESIDENT = {128: 2, 64: 3}


def _slab(kind: str) -> int:
    """Return how many rows of the contraction are multiplied at a time."""
    return LINE // cell_of(kind).itemsize


def _room(problem: ConvProblem, op: Op, kind: str) -> int:
    """Return how many channels of each group the input is read with; 0 where its channels are last and it is read as it lies."""
    p = problem.transpose() if op == "dgrad" else problem
    channels, slab = p.in_channels // p.groups, _slab(kind)
    whole = -(-channels // slab) * slab
    uses = math.prod(p.filter) * -(-p.out_channels // p.groups // TILES[0][1])
    in_place = p.channels_last and whole == channels and (kind != "tf32" or uses < LEAST_USES)
    return 0 if in_place else whole


def _cut(problem: ConvProblem, op: Op, kind: str) -> gemm.Cut:
    """Return how the outputs are shared out, and into how many pieces sums are cut: what is done first."""
    key = ("cuda wgmma cut", op, kind)
    if key not in problem.derived:
        problem.derived[key] = _best_cut(problem, op, kind)
    return problem.derived[key]


def _as_planes(problem: ConvProblem, op: Op, kind: str) -> bool:
    """Return whether the planes of an input are read as they lie: by one tap, where they are whole vectors."""
    p = problem.transpose() if op == "dgrad" else problem
    one_to_one = p.filter == p.stride == p.input_dilation == (1, 1, 1) and p.input == p.output and not any(p.low)
    return one_to_one and not p.channels_last and kind != "tf32" and math.prod(p.input) % 8 == 0


def _best_cut(problem: ConvProblem, op: Op, kind: str) -> gemm.Cut:
    p, slab = problem.transpose() if op == "dgrad" else problem, _slab(kind)
    rows, columns, _ = problem.gemm_shape(op)
    phases = max(1, math.prod(gemm.phases_of(problem, op)))
    slabs = -(-p.in_channels // p.groups // slab) * -(-math.prod(p.filter) // phases)
    size = 4 * max(1, math.prod(problem.shape(TENSORS[op][2])))
    fewest = max(1, -(-slabs * slab // tensor.CHUNK))
    most = max(fewest, min(gemm.MOST_PIECES, gemm.PIECES_BYTES // size, slabs * slab // LEAST_TERMS))
    best = None
    for tile, pieces in itertools.product(TILES, range(fewest, most + 1)):
        blocks = -(-max(1, rows // phases) // tile[0]) * -(-max(1, columns) // tile[1]) * phases * problem.groups * pieces
        held = -(-blocks // gemm.MULTIPROCESSORS)
        resident = min(held, MOST_RESIDENT[tile[1]])
        seconds = -(-held // resident) * (BLOCK_SECONDS + -(-slabs // pieces) * SLAB_SECONDS[tile[1], resident])
        if pieces > 1:
            seconds += 2 * size * pieces / gemm.BANDWIDTH + gemm.LAUNCH
        if best is None or seconds < best.seconds:
            best = gemm.Cut(tile, pieces, seconds, resident)
    assert best is not None
    return best


def _check(problem: ConvProblem, op: Op, dtype: Any) -> str:
    kind = tensor.kind_of(dtype)
    if not SIMULATED and capability_of(current_device()) != CAPABILITY:
        raise Unsupported(f"needs a GPU of compute capability {'.'.join(map(str, CAPABILITY))}")
    if op == "wgrad":
        _wgmma_sums.check(problem, kind)
        return kind
    p = problem.transpose() if op == "dgrad" else problem
    if p.in_channels == 0:
        raise Unsupported("needs channels")
    taps = math.prod(max(len(phase.taps) for phase in _geometry.axis_phases(p, axis)) for axis in range(3) if p.output[axis])
    if taps > MOST_TAPS:
        raise Unsupported(f"needs at most {MOST_TAPS} taps that reach an output, got {taps}")
    if not p.channels_last and _copied(problem, op, kind):
        _wgmma_copies.check(p.batch, p.groups * _room(problem, op, kind))
    tensor.check_grid(problem, op, _cut(problem, op, kind))
    return kind


def cost(problem: ConvProblem, op: Op, dtype: Any) -> float:
    """Estimate the seconds on a large GPU."""
    kind = _check(problem, op, dtype)
    if op == "wgrad":
        return _wgmma_sums.cost(problem)
    _tables(problem, op, kind)  # raises for arrays that int32 cannot index
    size = np.dtype(dtype).itemsize
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * size
    p, copied = problem.transpose() if op == "dgrad" else problem, 0.0
    if _copied(problem, op, kind):
        copied = (math.prod(p.shape("x")) + _copied(problem, op, kind)) * size / gemm.BANDWIDTH + gemm.LAUNCH
    return float(max(_cut(problem, op, kind).seconds, traffic / gemm.BANDWIDTH) + 2 * gemm.LAUNCH + copied)


def _copied(problem: ConvProblem, op: Op, kind: str) -> int:
    """Return how many elements the copy of the input has, 0 where there is none."""
    if _as_planes(problem, op, kind):
        return 0
    p = problem.transpose() if op == "dgrad" else problem
    return p.batch * math.prod(p.input) * p.groups * _room(problem, op, kind)


def workspace(problem: ConvProblem, op: Op, dtype: Any) -> int:
    """Bytes allocated besides the output: the packed weights, the copy of the input, and the pieces of sums, which are float32."""
    if op == "wgrad":
        return _wgmma_sums.workspace(problem)
    kind = tensor.kind_of(dtype)
    product, pieces = _tables(problem, op, kind), _cut(problem, op, kind).pieces
    out = math.prod(problem.shape("y" if op == "fprop" else "x"))
    own = gemm.packed_size(product, problem.groups) + _copied(problem, op, kind)
    return own * np.dtype(dtype).itemsize + (out * pieces * 4 if pieces > 1 else 0)


def _tables(problem: ConvProblem, op: Op, kind: str) -> Product:
    key = ("cuda wgmma", op, kind)
    if key not in problem.derived:
        cut = _cut(problem, op, kind)
        found = _geometry.product(problem, op, cut.tile, cut.pieces, _slab(kind), _room(problem, op, kind))
        if _as_planes(problem, op, kind):
            p = problem.transpose() if op == "dgrad" else problem
            x_n, x_c, *_ = p.strides("x")
            found = replace(found, geo=found.geo._replace(x_n=x_n, x_c=x_c, x_group=p.in_channels // p.groups * x_c))
        problem.derived[key] = found
    return problem.derived[key]


def _on_device(problem: ConvProblem, op: Op, kind: str, name: str) -> Any:
    """Return a table where kernels read it."""
    return kept(problem.derived, ("cuda wgmma", op, kind, name), lambda: getattr(_tables(problem, op, kind), name))


def packing(problem: ConvProblem, op: Op, dtype: Any) -> tuple[Any, ...] | None:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    if op == "wgrad":
        return None
    kind = tensor.kind_of(dtype)
    return current_device(), kind, *_tables(problem, op, kind).packing


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Pack the weights; what `run` reads."""
    kind = tensor.kind_of(w.dtype)
    return tensor.packed(_tables(problem, op, kind), _on_device(problem, op, kind, "weight_rows"), w, problem.groups, _slab(kind))


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``; a bias has its dtype."""
    kind = tensor.kind_of(a.dtype)
    if op == "wgrad":
        _wgmma_sums.run(problem, tensor.cells(a, kind), tensor.cells(b, kind), tensor.cells(out, kind), kind)
        return
    cut, room = _cut(problem, op, kind), _room(problem, op, kind)
    product, table = _tables(problem, op, kind), _on_device(problem, op, kind, "table")
    weights = prepare(problem, op, b) if options.packed is None else options.packed
    p = problem.transpose() if op == "dgrad" else problem
    x = tensor.cells(a, kind)
    copied, planes = _copied(problem, op, kind), _as_planes(problem, op, kind)
    if copied:
        x = _wgmma_copies.channels_last(p, x, p.in_channels, math.prod(p.input), copied, kind, room)
    activation, partial = (None, True) if cut.pieces > 1 else (options.activation, False)
    variant = Variant(kind, cut.tile[1], cut.resident, p.channels_last, planes, kind == "tf32" and not room, gemm.has_depth(p), activation, partial)
    tensor.multiply(p, kernel(variant), cut, product, (x, weights, table), out, options)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name; bfloat16 stands for float16."""
    for kind, (columns, resident), last in itertools.product(("tf32", "bf16"), STAGES, (False, True)):
        name = f"wgmma {kind} 128×{columns}, {resident} at once, {'NHWC' if last else 'NCHW'}"
        yield name, kernel(Variant(kind, columns, resident, last, False, kind == "tf32" and last, False, "relu", False))
    for kind in ("tf32", "bf16"):
        yield f"wgmma {kind} partial", kernel(Variant(kind, 64, 1, False, False, False, True, None, True))
        yield f"wgmma rearrange {kind}", _wgmma_copies.rearrange(kind)
        yield f"wgmma fill up {kind}", _wgmma_copies.fill_up(kind)
    for columns, resident in STAGES:
        name = f"wgmma bf16 128×{columns}, {resident} at once, planes"
        yield name, kernel(Variant("bf16", columns, resident, False, True, False, False, None, False))
    yield from _wgmma_sums.kernels()
    yield "wgmma f16 128×128", kernel(Variant("f16", 128, 2, True, False, False, True, None, False))
