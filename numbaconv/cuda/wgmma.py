"""Hopper's tensor cores: bfloat16 and float16, and fprop and dgrad of float32 in tf32 where that is asked for. Sums are float32.

`tensor`'s products by instructions of four warps that read both operands from shared memory, along channels that lie side by side: an input
whose channels are not last is first copied so that they are, filled up to whole slabs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import _geometry, _wgmma_wgrad, _wgrad, gemm, tensor
from numbaconv.cuda._backend import SIMULATED, Kernel, capability_of, current_device, empty, kept
from numbaconv.cuda._geometry import Product
from numbaconv.cuda._store import THREADS
from numbaconv.cuda._tensor_prims import narrow
from numbaconv.cuda._wgmma import BLOCK, CAPABILITY, LINE, MOST_TAPS, PIXELS, REARRANGERS, STAGES, Variant, fill_up, kernel, rearrange
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Unsupported

PRECISIONS = tensor.PRECISIONS
TILES = ((PIXELS, 128), (PIXELS, 64))  # pixels × columns
LEAST_TERMS = 512  # of a piece
LEAST_USES = 4  # of an element of x, from which on it is rounded to tf32 beforehand
# Measured on an H200: what a block takes beside its slabs, and a slab of each block where a multiprocessor holds so many.
BLOCK_SECONDS = 5e-6
SLAB_SECONDS = {(128, 2): 1.05e-6, (128, 1): 0.51e-6, (64, 3): 1.1e-6, (64, 2): 0.66e-6, (64, 1): 0.36e-6}
MOST_RESIDENT = {128: 2, 64: 3}
WGRAD_SLAB_SECONDS = {True: 1.1e-6, False: 0.9e-6}  # of two blocks, by whether they are tall


def _slab(kind: str) -> int:
    """Return how many rows of the contraction are multiplied at a time."""
    return LINE // tensor.cell_of(kind).itemsize


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
        _check_wgrad(problem, kind)
        return kind
    p = problem.transpose() if op == "dgrad" else problem
    if p.in_channels == 0:
        raise Unsupported("needs channels")
    taps = math.prod(max(len(phase.taps) for phase in _geometry.axis_phases(p, axis)) for axis in range(3) if p.output[axis])
    if taps > MOST_TAPS:
        raise Unsupported(f"needs at most {MOST_TAPS} taps that reach an output, got {taps}")
    if not p.channels_last:
        _check_copy(p.batch, p.groups * _room(problem, op, kind))
    tensor.check_grid(problem, op, _cut(problem, op, kind))
    return kind


def cost(problem: ConvProblem, op: Op, dtype: Any) -> float:
    """Estimate the seconds on a large GPU."""
    kind = _check(problem, op, dtype)
    if op == "wgrad":
        return _cost_of_wgrad(problem)
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
        sums = _sum_of(problem)
        return 2 * (sums.copied_x + sums.copied_y) + 4 * sums.copies * sums.tables.geo.out_size
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
        _run_wgrad(problem, tensor.cells(a, kind), tensor.cells(b, kind), tensor.cells(out, kind), kind)
        return
    cut, room = _cut(problem, op, kind), _room(problem, op, kind)
    product, table = _tables(problem, op, kind), _on_device(problem, op, kind, "table")
    weights = prepare(problem, op, b) if options.packed is None else options.packed
    p = problem.transpose() if op == "dgrad" else problem
    x = tensor.cells(a, kind)
    copied, planes = _copied(problem, op, kind), _as_planes(problem, op, kind)
    if copied:
        x = _copy(p, x, p.in_channels, math.prod(p.input), empty(copied, x.dtype), kind, room)
    activation, partial = (None, True) if cut.pieces > 1 else (options.activation, False)
    variant = Variant(kind, cut.tile[1], cut.resident, p.channels_last, planes, kind == "tf32" and not room, gemm.has_depth(p), activation, partial)
    tensor.multiply(p, kernel(variant), cut, product, (x, weights, table), out, options)


def _copy(p: ConvProblem, image: Any, all_channels: int, pixels: int, copy: Any, kind: str, room: int) -> Any:
    """Fill a copy of the input, or of dy, whose channels are last, each group's with ``room``; return it."""
    channels = all_channels // p.groups
    if p.channels_last:
        vectors = copy.size * copy.itemsize // 16
        fill_up(kind).launch((-(-vectors // REARRANGERS), 1, 1), (image, copy), (vectors, channels, room))
    else:
        grid = (-(-pixels // BLOCK), -(-p.groups * room // BLOCK), p.batch)
        rearrange(kind).launch(grid, (image, copy), (pixels, p.groups, channels, room))
    return copy


def _check_copy(images: int, channels: int) -> None:
    if images > gemm.GRID_LIMIT or channels > gemm.GRID_LIMIT * BLOCK:
        raise Unsupported(f"needs at most {gemm.GRID_LIMIT} images and {gemm.GRID_LIMIT * BLOCK} channels where those are not last")


class WgradSum(NamedTuple):
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
        return geo.rows // (128 if self.tall else 64), -(-geo.columns // (_wgmma_wgrad.UNITS * _wgmma_wgrad.UNIT)), geo.groups * self.pieces


def _check_wgrad(problem: ConvProblem, kind: str) -> None:
    if kind == "tf32":
        raise Unsupported("needs 16-bit numbers for wgrad")
    found = _sum_of(problem)
    if max(found.grid) > gemm.GRID_LIMIT:
        raise Unsupported("needs fewer groups and filters: a launch has no room for so many blocks")
    if not problem.channels_last:
        _check_copy(problem.batch, problem.groups * max(found.tables.geo.rows, found.tables.geo.channels))


def _sum_of(problem: ConvProblem) -> WgradSum:
    """Return how a wgrad is computed, worked out once."""
    key = ("cuda wgmma wgrad",)
    if key not in problem.derived:
        problem.derived[key] = _best_sum(problem)
    return problem.derived[key]


def _best_sum(problem: ConvProblem) -> WgradSum:
    groups, slab = problem.groups, _slab("bf16")
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
    units = -(-columns // (_wgmma_wgrad.UNITS * _wgmma_wgrad.UNIT)) * -(-rows // (128 if tall else 64)) * groups
    slabs, size = -(-pixels // _wgmma_wgrad.SLAB), 4 * math.prod(p.shape("w"))
    share = 1 if tall else 2  # copies of dw of a piece
    fewest = max(1, -(-pixels // (tensor.CHUNK * share)))
    best = None
    for pieces in range(fewest, max(fewest, min(gemm.MOST_PIECES, gemm.PIECES_BYTES // (size * share), slabs)) + 1):
        held = -(-units * pieces // gemm.MULTIPROCESSORS)
        seconds = -(-held // _wgmma_wgrad.RESIDENT) * (BLOCK_SECONDS + -(-slabs // pieces) * WGRAD_SLAB_SECONDS[tall])
        seconds += 2 * size * pieces * share / gemm.BANDWIDTH + gemm.LAUNCH
        if best is None or seconds < best[0]:
            best = seconds, pieces
    assert best is not None
    seconds, pieces = best
    return WgradSum(_wgrad.tables(p, pieces * share, True), tall, pieces, pieces * share, seconds, *copied)


def _cost_of_wgrad(problem: ConvProblem) -> float:
    found = _sum_of(problem)
    moved = sum(math.prod(problem.shape(t)) for t in ("x", "y")) * 2 / gemm.BANDWIDTH
    copying = sum(4 * copied / gemm.BANDWIDTH + gemm.LAUNCH for copied in (found.copied_x, found.copied_y) if copied)
    return float(max(found.seconds, moved) + gemm.LAUNCH + copying)


def _run_wgrad(problem: ConvProblem, dy: Any, x: Any, dw: Any, kind: str) -> None:
    found = _sum_of(problem)
    geo = found.tables.geo._replace(pieces=found.pieces)
    if found.copied_x:
        x = _copy(problem, x, problem.in_channels, math.prod(problem.input), empty(found.copied_x, x.dtype), kind, geo.channels)
    if found.copied_y:
        dy = _copy(problem, dy, problem.out_channels, math.prod(problem.output), empty(found.copied_y, x.dtype), kind, geo.rows)
    table = kept(problem.derived, ("cuda wgmma wgrad", "table"), lambda: found.tables.table)
    target = empty((found.copies, geo.out_size), np.float32)
    _wgmma_wgrad.kernel(kind, found.tall, gemm.has_depth(problem)).launch(found.grid, (dy, x, target, table), geo)
    own = problem.out_channels // problem.groups, problem.in_channels // problem.groups
    sizes = (geo.out_size, found.copies, geo.columns, geo.channels, geo.taps, geo.flipped, geo.rows, *own)
    _finish_wgrad(kind).launch((-(-geo.out_size // THREADS), 1, 1), (target, dw), sizes)


def _finish_wgrad(kind: str) -> Kernel:
    return _wgrad.finish(np.dtype(np.float32), np.dtype(np.uint16), narrow(kind))


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name; bfloat16 stands for float16."""
    for kind, (columns, resident), last in itertools.product(("tf32", "bf16"), STAGES, (False, True)):
        name = f"wgmma {kind} 128×{columns}, {resident} at once, {'NHWC' if last else 'NCHW'}"
        yield name, kernel(Variant(kind, columns, resident, last, False, kind == "tf32" and last, False, "relu", False))
    for kind in ("tf32", "bf16"):
        yield f"wgmma {kind} partial", kernel(Variant(kind, 64, 1, False, False, False, True, None, True))
        yield f"wgmma rearrange {kind}", rearrange(kind)
        yield f"wgmma fill up {kind}", fill_up(kind)
    for columns, resident in STAGES:
        name = f"wgmma bf16 128×{columns}, {resident} at once, planes"
        yield name, kernel(Variant("bf16", columns, resident, False, True, False, False, None, False))
    for tall in (True, False):
        yield f"wgmma wgrad bf16 {128 if tall else 64}×128", _wgmma_wgrad.kernel("bf16", tall, False)
    yield "wgmma wgrad f16 volume", _wgmma_wgrad.kernel("f16", True, True)
    yield "wgmma wgrad finish bf16", _finish_wgrad("bf16")
    yield "wgmma f16 128×128", kernel(Variant("f16", 128, 2, True, False, False, True, None, False))
