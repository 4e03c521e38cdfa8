"""Implicit GEMM: a dense convolution as a matrix product that is never laid out (float32 and float64).

Every operation is rows times lanes, summed over steps (per group):

    op      layout          rows           lanes        steps           rows' operand    lanes' operand
    fprop   channels first  k              pixels of y  (c, t, r, s)    w as it is       x
    fprop   channels last   pixels of y    k            (c, t, r, s)    x                w, transposed
    dgrad   as fprop, of the transposed problem, one product for each phase of the stride, but for the even and the odd columns, which are
            stored together; where phases read alike, with taps of their own, one product, whose rows are (k, phase)
    wgrad   both            k              (s, c)       pixels of y     dy as it is      x, channels last (of one tap: transposed in panels)

With the zeros of the padding around it (`_grid`; planes of a volume may be products of their own instead, of the taps that reach it), the
address of an input element is place[pixel] + offset[step], whatever the stride and dilation. So tables of places and offsets say where
both operands lie, and no matrix is laid out (but for wgrad of few outputs, where that is less than its result: `_taps_apart`): pieces of
them are packed for the caches while they are multiplied, as cuDNN does it on a GPU (S. Chetlur et al., arXiv:1410.0759); the tile and its
loops are those of K. Goto and R. van de Geijn (doi:10.1145/1356052.1356053).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from numbaconv.arrays import CACHE_LINE
from numbaconv.cpu import _batches, _copies, _grid, _isa, _parallel, _product, _products, _seconds, _tables, _taps_apart, direct
from numbaconv.cpu._panels import CHUNK
from numbaconv.cpu._simd_tile import MOST
from numbaconv.cpu._sum import add_pairwise
from numbaconv.cpu.bias import CODES, fill
from numbaconv.problem import ConvProblem, Op, Options, Run, Unsupported

MOST_PHASES = 64  # of a strided dgrad
MOST_TAPS, MOST_TERMS = 1 << 14, 1 << 20  # of an axis, and entries of a table of steps
MOST_KEPT = 1 << 19  # entries of the tables kept with a problem; larger ones cost little beside their sums

# Bytes of a result that are stored past the caches: 32→192 1×1 on 28×28, 16 samples (9.6 MB), 3.1 → 2.3 ms, and 96→384 on 56×56 (4.8 MB) 2.9 → 2.5;
# but who reads 3 or 6 MB next waits as much longer. Where stores were not whole lines side by side, depthwise and Winograd, it was slower.
PAST_CACHES = 8 << 20

TURNED = 0.6  # of the time of a transpose: panels stay in the caches; 64→64 1×1 on 56×56 took 295 µs, and 311 were estimated without
SECONDS = _seconds.of("gemm")  # for one of each that `work` counts
Array = np.ndarray[Any, Any]


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    p = _forward(problem, op)
    if op == "wgrad" and (problem.flipped or problem.input_dilation != (1, 1, 1)):
        raise Unsupported("needs taps that are not flipped and an input that is not dilated for wgrad")
    if any(s > 1 and u > 1 for s, u in zip(p.stride, p.input_dilation, strict=True)):
        raise Unsupported("needs an axis to have a stride or a dilated input, not both")
    if (phases := math.prod(min(u, o) for u, o in zip(p.input_dilation, p.output, strict=True))) > MOST_PHASES:
        raise Unsupported(f"needs at most {MOST_PHASES} phases of a transposed stride, got {phases}")
    taps, terms = max(p.filter), p.in_channels // p.groups * math.prod(p.filter)
    if taps > MOST_TAPS or terms > MOST_TERMS:
        raise Unsupported(f"needs at most {MOST_TAPS} taps on an axis and {MOST_TERMS} channels × taps in a group, got {taps} and {terms}")
    if 0 in p.gemm_shape("fprop"):
        raise Unsupported("needs at least one output and a sum of at least one term")
    part = _part(problem, op, dtype)
    counted = _count(part, op, dtype)
    if part is not problem:
        counted = {name: count * problem.batch / part.batch for name, count in counted.items()}
    if p.channels_last and op == "fprop" or op != "fprop" and math.prod(p.filter) > 1 and (p.channels_last or op == "wgrad"):
        counted["transpose"] += math.prod(p.shape("w")) * dtype.itemsize / 4
    return counted


def _count(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time for each part of the samples."""
    p = _forward(problem, op)
    isa, size, whole, problem = _isa.host(), dtype.itemsize / 4, problem, _taps_apart.dense(problem, op)
    g, shapes = _products.shapes(p, op, isa, dtype)
    strided = op == "dgrad" and p.input_dilation != (1, 1, 1) and not p.channels_last  # weights are read here and there
    counted = dict.fromkeys(SECONDS, 0.0)
    if problem is not whole:
        counted["copy"] += math.prod(problem.shape("x")) * size
    if _products.copies(p, op, g):
        counted["transpose" if _products.channels_last(p, op) else "copy"] += p.batch * p.in_channels * g.plane * size
    if _products.turns(p, op, g):
        panels = math.prod(p.shape("x")) * -(-shapes[0].blocks // shapes[0].blocks_each)
        counted["transpose"] += TURNED * panels * size
    for shape in shapes:
        products = p.groups * shape.outer * shape.blocks * shape.vectors
        counted["call"] += 1
        lanes = shape.vectors * isa.width(dtype) + _grid.LEFT_OVER * shape.tails
        counted["fma"] += p.groups * shape.outer * shape.blocks * isa.rows * lanes * shape.reps * max(shape.steps, 1) * size
        supers = -(-shape.blocks // shape.blocks_each)
        packings = _products.packings(shape, p.channels_last) * (_products.APART_COST if strided else 1)
        packed = shape.blocks * isa.rows * packings + (0 if _products.turns(p, op, g) else shape.vectors * isa.width(dtype) * supers)
        counted["pack"] += p.groups * shape.outer * packed * shape.reps * shape.steps * size
        counted["chunk"] += products * shape.reps * -(-shape.steps // CHUNK)
        counted["scatter" if shape.scatters else "store"] += products * isa.rows * (isa.width(dtype) if shape.scatters else 1)
    return counted


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    return sum(SECONDS[name] * count for name, count in work(problem, op, dtype).items())


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the input with its zeros, weights in another order, tables, sums, and wgrad's pieces."""
    problem, samples = _part(problem, op, dtype), problem.batch
    p, isa, whole, problem = _forward(problem, op), _isa.host(), problem, _taps_apart.dense(problem, op)
    g, shapes = _products.shapes(p, op, isa, dtype, _parallel.get_num_threads())
    elements = math.prod(problem.shape("x")) if problem is not whole else 0
    elements += p.batch * p.in_channels * g.plane + g.slack * p.in_channels if _products.copies(p, op, g) else 0
    weights = math.prod(p.shape("w"))
    if op == "wgrad":
        apart = 0 if _as_stored(p, problem) else 1
        pieces = max(shape.pieces for shape in shapes)
        elements += (pieces if pieces > 1 else apart) * weights + (weights if apart and p is not problem and math.prod(p.filter) > 1 else 0)
        elements += -(-samples // whole.batch) * weights if samples > whole.batch else 0
    elif p.channels_last:
        elements += weights // (p.out_channels // p.groups) * _products.pitch(p, isa, dtype)
    elements += max(shape.scratch for shape in shapes) * _parallel.get_num_threads()
    return elements * dtype.itemsize + 8 * sum(shape.entries for shape in shapes)


class Packed(NamedTuple):
    """Weights in the order in which the kernel of an instruction set reads them: for each product its panels of rows, or all as lanes."""

    isa: str
    weights: tuple[Array, ...]


def prepare(problem: ConvProblem, op: Op, w: Array) -> Packed:
    """Put weights in the order in which they are read."""
    isa = _isa.host()
    if problem.channels_last:
        return Packed(isa.name, (_lanes(problem, op, w),))
    cut, weights = _cut(problem, op, isa, w.dtype, ready=True), np.ascontiguousarray(w).reshape(-1)
    return Packed(isa.name, tuple(_tables.packed_rows(weights, product[0], cut.p.groups, isa) for product in cut.products))


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the order of the weights depends on, beside their shape and groups."""
    p, isa = _forward(problem, op), _isa.host()
    shapes = [] if problem.channels_last else _products.shapes(p, op, isa, dtype)[1]
    taps = tuple(_grid.taps(p, part).tobytes() for shape in shapes for part in shape.parts)
    return isa.name, problem.channels_last, tuple((shape.phases, len(shape.parts), shape.steps) for shape in shapes), taps


def _lanes(problem: ConvProblem, op: Op, w: Array) -> Array:
    """Put the weights of channels-last problems in the order in which they are read."""
    p, isa = _forward(problem, op), _isa.host()
    filters, channels, taps = p.out_channels // p.groups, p.in_channels // p.groups, math.prod(p.filter)
    pitch = _products.pitch(p, isa, w.dtype)
    if op == "fprop":
        return _copies.transposed(w, p.groups, filters, channels * taps, pitch)
    if taps > 1:
        return _copies.transposed(w, p.groups * channels, filters, taps, pitch)
    rows = w.reshape(p.groups * channels, filters)  # in order already
    return rows if pitch == filters else np.pad(rows, ((0, 0), (0, pitch - filters)))


class Cut(NamedTuple):
    """How an operation is cut up: all that does not depend on the operands."""

    problem: ConvProblem
    p: ConvProblem  # the one whose input has zeros around it
    products: list[tuple[_tables.Tables, int, int, int, bool]]  # with their tiles, pieces of the sum and scratch, and whether rows have panels
    empty: bool  # no tap reaches the outputs of some phases or planes, which have no product
    second: bool  # the input is the second operand
    spread: Callable[[Array], Array] | None  # of what wgrad reads, a channel for each tap
    copy: Callable[[Array], Array] | None  # of the input
    padded: bool  # with zeros
    per_lane: bool  # lanes are output channels
    apart: bool  # wgrad's result is put in order afterwards
    repeats: int  # rows of a channel
    zeros: Array
    seconds: float
    ready: bool  # the panels of its rows are


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``, a part of the samples after the other where they are copied."""
    past, part, isa, dtype = _passes_caches(problem, op, out.dtype), _part(problem, op, out.dtype), _isa.host(), out.dtype
    if op == "wgrad" and part is not problem:  # a part is not cut again, even if alone it would exchange x and dy
        return _batches.add_parts(lambda p, dy, x, dw: _run(_cut(p, op, isa, dtype), p, op, dy, x, dw, options), problem, part, a, b, out)
    packed = options.packed if options.packed and options.packed.isa == isa.name else None
    if packed is None and part is not problem and problem.channels_last:
        packed = prepare(problem, op, b)
    options, ready = replace(options, packed=packed), packed is not None and not problem.channels_last
    cut = _cut(part, op, isa, dtype, past, ready)
    if part is problem:
        _run(cut, problem, op, a, b, out, options)
        return
    for first in range(0, problem.batch, part.batch):
        some = slice(first, first + part.batch)
        if len(out[some]) < part.batch:
            part = _batches.samples(problem, len(out[some]))
            cut = _cut(part, op, isa, dtype, past, ready)
        _run(cut, part, op, a[some], b, out[some], options)


def _part(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> ConvProblem:
    """Return the problem of as many samples as are copied at once."""
    if problem.batch == 1:
        return problem
    key = "part", op, _isa.host().name, dtype
    if key not in problem.derived:
        p = _forward(problem, op)
        g, _ = _grid.grid(p, split=not _products.channels_last(p, op), pieces=True, itemsize=dtype.itemsize)
        copied = p.in_channels * g.plane if _products.copies(p, op, g) else 0
        problem.derived[key] = _batches.part(problem, op, copied, dtype.itemsize)
    return problem.derived[key]


def _passes_caches(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> bool:
    """Return whether the result is too large for the caches, and its rows are whole lines of theirs."""
    if op == "wgrad":
        return False
    p, isa = _forward(problem, op), _isa.host()
    row = p.out_channels if p.channels_last else math.prod(p.output)
    whole = isa.vector_bytes == CACHE_LINE and row * dtype.itemsize % CACHE_LINE == 0
    return whole and math.prod(p.shape("y")) * dtype.itemsize >= PAST_CACHES


def _run(cut: Cut, problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    isa, dtype = _isa.host(), out.dtype
    packed = options.packed and options.packed.weights
    rows, lanes, other = _operands(cut, op, a, b, packed)
    bias = cut.zeros
    if options.bias is not None:
        bias = bias.copy()
        bias[: cut.p.out_channels * cut.repeats] = options.bias if cut.repeats == 1 else np.repeat(options.bias, cut.repeats)
    code, broken = CODES[options.activation], np.zeros(1, np.int8)
    if cut.empty:
        fill(out, options, cut.p.channels_last)
    for n, (tables, tiles, pieces, scratch, packs) in enumerate(cut.products):
        kernel = _product.kernel(isa, dtype, cut.per_lane, code > 1, packs)
        y = np.empty((pieces, out.size), dtype) if pieces > 1 or cut.apart else out
        ready = packed[n] if packed and not cut.per_lane else cut.zeros[:0]
        arguments = (rows, ready, lanes, y.reshape(-1), bias, cut.zeros, code, broken, *tables)
        _parallel.run(kernel, tiles, (scratch, dtype), arguments, cut.seconds)
        if cut.apart:
            _put_in_order(cut, add_pairwise(y), out.reshape(-1))
        elif pieces > 1:
            out.reshape(-1)[:] = add_pairwise(y)
    if broken[0] and cut.padded and not np.isfinite(other).all():
        direct.run(problem, op, a, b, out, options)  # 0·∞ in the padding is NaN: only the sum that leaves the padding out is right


def bind(problem: ConvProblem, op: Op, dtype: np.dtype[Any], whole: Run) -> Run | None:
    """Return `run` of one product for these alone, without bias and activation, with everything looked up; None where that would not be noticed.

    ``whole`` does the same for other numbers of threads.
    """
    if (plain := _bind(problem, op, dtype, whole, False)) is None:
        return None
    others: list[Run] = []  # for panels that are ready: made when there are any
    threads = _parallel.get_num_threads()

    def bound(a: Array, b: Array, out: Array, packed: Packed | None = None) -> None:
        if packed is None:
            return plain(a, b, out)
        if not others:
            if _parallel.get_num_threads() != threads:
                return whole(a, b, out, packed)
            others.append(_bind(problem, op, dtype, whole, True) or whole)
        return others[0](a, b, out, packed)

    return bound


def _bind(problem: ConvProblem, op: Op, dtype: np.dtype[Any], whole: Run, ready: bool) -> Run | None:
    isa, seconds, past = _isa.host(), cost(problem, op, dtype), _passes_caches(problem, op, dtype)
    if seconds > _parallel.BATCH_SECONDS or _part(problem, op, dtype) is not problem:
        return None
    cut = _cut(problem, op, isa, dtype, past, ready and not problem.channels_last)
    if len(cut.products) != 1 or cut.empty or _key(op, isa, dtype, past, cut.ready) not in problem.derived:
        return None
    tables, tiles, pieces, scratch, packs = cut.products[0]
    kernel, threads = _product.kernel(isa, dtype, cut.per_lane, False, packs), _parallel.get_num_threads()
    padded, apart, zeros, nothing = cut.padded, cut.apart, cut.zeros, cut.zeros[:0]

    def bound(a: Array, b: Array, out: Array, packed: Packed | None = None) -> None:
        if isa is not _isa.host() or _parallel.get_num_threads() != threads or packed and packed.isa != isa.name:
            return whole(a, b, out, packed)
        rows, lanes, other = _operands(cut, op, a, b, packed and packed.weights)
        panels = packed.weights[0] if packed and cut.ready else nothing
        flat, broken = out.ravel(), np.zeros(1, np.int8)
        y = np.empty((pieces, out.size), dtype) if apart or pieces > 1 else flat
        _parallel.run(kernel, tiles, (scratch, dtype), (rows, panels, lanes, y.reshape(-1), zeros, zeros, 0, broken, *tables), seconds)
        if apart:
            _put_in_order(cut, add_pairwise(y), flat)
        elif pieces > 1:
            flat[:] = add_pairwise(y)
        if broken[0] and padded and not np.isfinite(other).all():
            whole(a, b, out)
        return None

    return bound


def _operands(cut: Cut, op: Op, a: Array, b: Array, packed: Any = None) -> tuple[Array, Array, Array]:
    """Return what the kernel reads as its rows and lanes, and the operand that is not the input."""
    if cut.spread:
        b = cut.spread(b)
    x, other = (b, a) if cut.second else (a, b)
    if cut.copy:
        x = cut.copy(x)
    if not cut.per_lane:
        return other.ravel(), x.ravel(), other
    weights = packed[0] if packed else _lanes(cut.problem, op, other)
    return x.ravel(), weights.ravel(), other


def _forward(problem: ConvProblem, op: Op) -> ConvProblem:
    """Return the problem whose input has zeros around it: dgrad is the transposed problem's fprop.

    wgrad may be the transposed problem's wgrad, x and dy exchanged: that pays where dy is the smaller of the two to transpose.
    """
    problem = _taps_apart.dense(problem, op)
    if op == "fprop" or op == "wgrad" and not _exchanges(problem):
        return problem
    if "transposed" not in problem.derived:
        problem.derived["transposed"] = problem.transpose()
    return problem.derived["transposed"]


def _exchanges(p: ConvProblem) -> bool:
    saved = p.batch * (p.in_channels * math.prod(p.input) - p.out_channels * math.prod(p.output))
    return saved > 2 * math.prod(p.shape("w")) and not p.channels_last and p.stride == (1, 1, 1)


def _as_stored(p: ConvProblem, problem: ConvProblem) -> bool:
    """Return whether wgrad's result comes out in the order of w: rows k, lanes c, one tap."""
    return p is problem and math.prod(p.filter) == 1


def _put_in_order(cut: Cut, y: Array, out: Array) -> None:
    """Write wgrad's (groups, rows, taps, lanes) in the order of w, (groups, K/groups, C/groups, taps)."""
    p = cut.p
    rows, lanes, taps = p.out_channels // p.groups, p.in_channels // p.groups, math.prod(p.filter)
    if p is cut.problem:
        _copies.transposed(y, p.groups * rows, taps, lanes, taps, out)
    else:  # rows are c, lanes are k
        swapped = y if taps == 1 else _copies.transposed(y, p.groups * rows, taps, lanes, taps)
        _copies.exchanged(swapped, p.groups, rows, lanes, taps, out)


def _key(op: Op, isa: _isa.Isa, dtype: np.dtype[Any], past: bool, ready: bool) -> tuple[Any, ...]:
    return "gemm", op, isa.name, dtype, past, ready, _parallel.get_num_threads()


def _cut(problem: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any], past: bool = False, ready: bool = False) -> Cut:
    """Return how an operation is cut up, worked out once per problem; its results may go ``past`` the caches, its rows' panels be ``ready``."""
    key = _key(op, isa, dtype, past, ready)
    if key in problem.derived:
        return problem.derived[key]
    dense, p = _taps_apart.dense(problem, op), _forward(problem, op)
    g, shapes = _products.shapes(p, op, isa, dtype, _parallel.get_num_threads(), ready)
    tables = [_tables.build(p, op, g, shape, isa, dtype, past) for shape in shapes]
    repeats = shapes[0].phases
    some = sum(s.steps > 0 for s in shapes)  # a single product without terms is quicker stored than the whole result filled
    kept = [(t, s) for t, s in zip(tables, shapes, strict=True) if s.steps > 0 or (len(s.parts) > 1 and len(shapes) - some == 1)]
    products = [(t, int(t.geometry[0]), s.pieces, s.scratch, s.packs) for t, s in kept]
    padded = g.copied or dense is not problem and _grid.reads_zeros(problem)
    copier = _copies.pixels_copier if _products.channels_last(p, op) else _copies.planes_copier
    cut = Cut(
        dense, p, products, len(products) < len(tables), op == "wgrad" and p is dense,
        None if dense is problem else _taps_apart.copier(problem, dtype),
        copier(p, g, dtype) if _products.copies(p, op, g) else None, padded, p.channels_last and op != "wgrad",
        op == "wgrad" and not _as_stored(p, dense), repeats, np.zeros(p.out_channels * repeats + MOST * isa.width(dtype), dtype),
        cost(problem, op, dtype) / len(shapes), ready,
    )  # fmt: skip
    if sum(shape.entries for shape in shapes) <= MOST_KEPT:
        problem.derived[key] = cut
    return cut
