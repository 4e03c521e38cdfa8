"""Implicit GEMM: a dense convolution as a matrix product that is never laid out (float32 and float64).

Every operation is rows times lanes, summed over steps (per group):

    op      layout          rows           lanes        steps           rows' operand    lanes' operand
    fprop   channels first  k              pixels of y  (c, t, r, s)    w as it is       x
    fprop   channels last   pixels of y    k            (c, t, r, s)    x                w, transposed
    dgrad   as fprop, of the transposed problem, one product for each phase of the stride
    wgrad   both            k              (s, c)       pixels of y     dy as it is      x, channels last

With the zeros of the padding around it (`_grid`), the address of an input element is place[pixel] + offset[step], whatever the
stride and dilation. So both operands are read where they lie, by tables of places and offsets, and nothing is gathered, as
cuDNN does it on a GPU (S. Chetlur et al., arXiv:1410.0759) and E. Georganas et al. on CPUs (arXiv:1808.05567).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu import _grid, _parallel, _product, _simd, direct
from numbaconv.cpu._product import CHUNK, MOST
from numbaconv.cpu._sum import add_pairwise
from numbaconv.cpu.bias import CODES
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

SUMS_BYTES = 256 << 10  # of the sums of a tile: a quarter of a usual L2
BLOCKS, LINES = 32, 8  # blocks of rows and lines of columns of a tile, at most
FEWEST_TILES = 32  # to share among threads: tiles are made smaller, and wgrad's sum is cut into pieces, whoever computes them
IN_CACHE = 512 << 10  # bytes of a sample that stay in L2: more is prefetched
MOST_KEPT = 1 << 19  # entries of the tables kept with a problem; larger ones cost little beside their sums

# Seconds for one of each that `work` counts, on one core: benchmarks/calibrate.py, 2026-11 (AVX-512).
SECONDS = {
    "call": 1.0e-05, "copy": _grid.COPY_SECONDS, "transpose": _grid.TRANSPOSE_SECONDS, "fma": 8e-12, "chunk": 1e-8, "store": 1e-9, "scatter": 5e-10,
}  # fmt: skip
Array = np.ndarray[Any, Any]


class Launch(NamedTuple):
    """One product: the kernel's geometry and tables."""

    geometry: Array
    a_steps: Array
    b_steps: Array
    blocks: Array
    columns: Array
    targets: Array
    scratch: int
    pieces: int


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    p = _forward(problem, op)
    if op == "wgrad" and (problem.flipped or problem.input_dilation != (1, 1, 1)):
        raise Unsupported("needs taps that are not flipped and an input that is not dilated for wgrad")
    if any(s > 1 and u > 1 for s, u in zip(p.stride, p.input_dilation, strict=True)):
        raise Unsupported("needs an axis to have a stride or a dilated input, not both")
    if 0 in p.gemm_shape("fprop"):
        raise Unsupported("needs at least one output and a sum of at least one term")
    isa, size = _simd.host(), dtype.itemsize / 4
    width, channels, filters = isa.width(dtype), p.in_channels // p.groups, p.out_channels // p.groups
    as_pixels = p.channels_last or op == "wgrad"
    g, parts = _grid.grid(p, split=not as_pixels)
    counted = dict.fromkeys(SECONDS, 0.0)
    if as_pixels and (g.copied or not p.channels_last or p.groups > 1):
        counted["transpose"] += p.batch * p.in_channels * g.plane * size
    elif g.copied:
        counted["copy"] = p.batch * p.in_channels * g.plane * size
    if p.channels_last and op != "wgrad":
        counted["transpose"] += math.prod(p.shape("w")) * size
    for part in parts:
        count, taps = math.prod(r.count for r in part), math.prod(len(r.taps) for r in part)
        if op == "wgrad":
            rows, steps, repeats = -(-filters // isa.rows), p.batch * count, p.groups
            vectors = sum(-(-run // width) for run in _runs(p))
        elif p.channels_last:
            rows, steps, repeats = part[0].count * part[1].count * -(-part[2].count // isa.rows), taps * channels, p.groups * p.batch
            vectors = -(-filters // width)
        else:
            rows, steps, repeats = -(-filters // isa.rows), taps * channels, p.groups * p.batch
            vectors = _vectors(g, part, width)
        counted["call"] += 1
        counted["fma"] += repeats * rows * isa.rows * vectors * width * max(steps, 1) * size
        counted["chunk"] += repeats * rows * vectors * -(-steps // CHUNK)
        store = "scatter" if op == "wgrad" or any(r.every > 1 for r in part) and not p.channels_last else "store"
        counted[store] += repeats * rows * isa.rows * vectors * (width if store == "scatter" else 1)
    return counted


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    return sum(SECONDS[name] * count for name, count in work(problem, op, dtype).items())


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the input with its zeros, weights transposed for channels last, tables, sums, and wgrad's pieces."""
    p, isa = _forward(problem, op), _simd.host()
    launches, g, pixels, _ = _launches(problem, op, isa, dtype)
    elements = p.batch * p.in_channels * g.plane + g.slack * p.in_channels if _copies(p, g, pixels) else 0
    if p.channels_last and op != "wgrad":
        elements += math.prod(p.shape("w")) // (p.out_channels // p.groups) * _pitch(p, isa, dtype)
    elements += max(launch.scratch for launch in launches) * _parallel.get_num_threads()
    elements += max(launch.pieces for launch in launches) * math.prod(p.shape("w")) if op == "wgrad" else 0
    tables = sum(array.nbytes for launch in launches for array in launch if isinstance(array, np.ndarray))
    return elements * dtype.itemsize + tables


def prepare(problem: ConvProblem, op: Op, w: Array) -> Array | None:
    """Put weights in the order in which they are read: those of dgrad and of channels-last problems; others are read as they are."""
    p, isa = _forward(problem, op), _simd.host()
    if op == "wgrad" or not (p.channels_last or op == "dgrad"):
        return None
    filters, channels, taps = p.out_channels // p.groups, p.in_channels // p.groups, math.prod(p.filter)
    if not p.channels_last:
        return _grid.exchanged(w, p.groups, channels, filters, taps)
    if op == "fprop":
        return _grid.transposed(w, p.groups, filters, channels * taps, _pitch(p, isa, w.dtype))
    return _grid.transposed(w, p.groups * channels, filters, taps, _pitch(p, isa, w.dtype))


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    isa, p, dtype = _simd.host(), _forward(problem, op), out.dtype
    x, other = (b, a) if op == "wgrad" and p is problem else (a, b)
    launches, g, pixels, seconds = _launches(problem, op, isa, dtype)
    if _copies(p, g, pixels):
        x = _grid.copy_pixels(p, x, g) if pixels else _grid.copy_planes(p, x, g)
    finite = other
    if op != "wgrad" and (p.channels_last or op == "dgrad"):
        other = prepare(problem, op, other) if options.packed is None else options.packed
    rows, lanes = (x, other) if p.channels_last and op != "wgrad" else (other, x)
    zeros = np.zeros(p.out_channels + MOST * isa.width(dtype), dtype)
    bias = zeros
    if options.bias is not None:
        bias = zeros.copy()
        bias[: p.out_channels] = options.bias
    kernel, broken = _product.kernel(isa, dtype, p.channels_last and op != "wgrad"), False
    apart = op == "wgrad" and not _as_stored(p, problem)
    for launch in launches:
        y = np.empty((launch.pieces, out.size), dtype) if launch.pieces > 1 or apart else out
        flags = np.zeros(int(launch.geometry[0]), np.int8)
        arguments = (rows.reshape(-1), lanes.reshape(-1), y.reshape(-1), bias, zeros, CODES[options.activation], flags, *launch[:6])
        _parallel.run(kernel, len(flags), (launch.scratch, dtype), arguments, seconds / len(launches))
        if y is not out:
            y = add_pairwise(y)
            if apart:
                _put_in_order(p, problem, y, out.reshape(-1))
            else:
                out.reshape(-1)[:] = y
        broken |= bool(flags.any())
    if broken and g.zeros and not np.isfinite(finite).all():
        # 0·∞ in the padding is NaN: only the sum that leaves the padding out is right.
        direct.run(problem, op, a, b, out, options)


def _forward(problem: ConvProblem, op: Op) -> ConvProblem:
    """Return the problem whose input has zeros around it: dgrad is the transposed problem's fprop.

    wgrad may be the transposed problem's wgrad, x and dy exchanged: that pays where dy is the smaller of the two to transpose.
    """
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


def _put_in_order(p: ConvProblem, problem: ConvProblem, y: Array, out: Array) -> None:
    """Write wgrad's (groups, rows, taps, lanes) in the order of w, (groups, K/groups, C/groups, taps)."""
    rows, lanes, taps = p.out_channels // p.groups, p.in_channels // p.groups, math.prod(p.filter)
    if p is problem:
        _grid.transposed(y, p.groups * rows, taps, lanes, taps, out)
    else:  # rows are c, lanes are k
        swapped = y if taps == 1 else _grid.transposed(y, p.groups * rows, taps, lanes, taps)
        _grid.exchanged(swapped, p.groups, rows, lanes, taps, out)


def _copies(p: ConvProblem, g: _grid.Grid, pixels: bool) -> bool:
    """Return whether the kernel cannot read the input itself."""
    return g.copied or (pixels and (p.groups > 1 or not p.channels_last))


def _pitch(p: ConvProblem, isa: _simd.Isa, dtype: np.dtype[Any]) -> int:
    """Elements of a step of transposed weights: whole vectors."""
    width = isa.width(dtype)
    return -(-(p.out_channels // p.groups) // width) * width


def _runs(p: ConvProblem) -> list[int]:
    """Return the lengths of wgrad's runs of neighbouring lanes: (s, c) of each (t, r) where the taps are neighbours, else c."""
    T, R, S = p.filter
    channels = p.in_channels // p.groups
    return [S * channels] * (T * R) if p.dilation[2] == 1 else [channels] * (T * R * S)


def _vectors(g: _grid.Grid, part: tuple[_grid.Reads, ...], width: int) -> int:
    """Vectors that cover a channel's outputs: in one go, junk between the lines included, or line by line if that is a tenth fewer."""
    (z, p, q), (_, h, w) = (r.count for r in part), g.axes
    flat = (((z - 1) * h.pitch + p - 1) * w.pitch + q - 1) * 1 + 1
    at_once, by_line = -(-flat // width), z * p * -(-q // width)
    return by_line if by_line <= 0.9 * at_once else at_once


def _launches(problem: ConvProblem, op: Op, isa: _simd.Isa, dtype: np.dtype[Any]) -> tuple[list[Launch], _grid.Grid, bool, float]:
    """Return what to launch, the grid of the input, and whether its channels are last, and the cost; worked out once per problem."""
    key = ("gemm", op, isa.name, dtype)
    if key in problem.derived:
        return problem.derived[key]
    p = _forward(problem, op)
    pixels = p.channels_last or op == "wgrad"
    g, parts = _grid.grid(p, split=not pixels)
    make = _wgrad if op == "wgrad" else _pixel_rows if p.channels_last else _pixel_lanes
    derived = [make(p, op, g, part, isa, dtype) for part in parts], g, pixels, cost(problem, op, dtype)
    if sum(array.size for launch in derived[0] for array in launch[1:6]) <= MOST_KEPT:  # type: ignore[union-attr]
        problem.derived[key] = derived
    return derived


def _weight_steps(p: ConvProblem, part: tuple[_grid.Reads, ...]) -> tuple[Array, int, int]:
    """Return the offset of each step (c, tap) in w, and how far apart rows and groups are."""
    channels, filters, taps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.filter)
    return np.add.outer(np.arange(channels) * taps, _grid.taps(p, part)).reshape(-1), channels * taps, filters * channels * taps


def _pixel_lanes(p: ConvProblem, op: Op, g: _grid.Grid, part: tuple[_grid.Reads, ...], isa: _simd.Isa, dtype: np.dtype[Any]) -> Launch:
    """Rows are output channels, lanes are pixels: channels first."""
    channels, filters, volume = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.output)
    a_steps, a_row, a_group = _weight_steps(p, part)
    b_steps = np.add.outer(np.arange(channels) * g.plane, g.offsets(part)).reshape(-1)
    first = np.arange(0, filters, isa.rows)
    blocks = np.stack([first * a_row, np.minimum(isa.rows, filters - first), first * volume, first], 1)
    places, targets = g.places(part), _targets(p, part)
    columns, table = _columns(places, targets, isa.width(dtype), isa.vectors, _vectors(g, part, isa.width(dtype)))
    b = (channels * g.plane, p.in_channels * g.plane, 0)
    y = (filters * volume, p.out_channels * volume, 0, volume)
    return _launch(p, p.batch, 1, 1, (a_group, 0, 0, a_row), b, y, filters, a_steps, b_steps, blocks, columns, table, isa, dtype, _every(p, g, dtype))


def _pixel_rows(p: ConvProblem, op: Op, g: _grid.Grid, part: tuple[_grid.Reads, ...], isa: _simd.Isa, dtype: np.dtype[Any]) -> Launch:
    """Rows are neighbouring pixels, lanes are output channels: channels last."""
    channels, filters, pitch, volume = p.in_channels // p.groups, p.out_channels // p.groups, _pitch(p, isa, dtype), math.prod(p.output)
    # The input: (groups, N, pixels, C/groups) if it was copied, else as it came.
    split = _copies(p, g, True)
    stride, group, sample = (channels, p.batch * g.plane * channels, g.plane * channels) if split else (p.in_channels, 0, g.plane * p.in_channels)
    a_steps = np.add.outer(np.arange(channels), g.offsets(part) * stride).reshape(-1)
    b_steps = np.arange(channels * math.prod(p.filter)).reshape(channels, -1)[:, _grid.taps(p, part)].reshape(-1) * pitch
    places, targets = g.places(part) * stride, _targets(p, part) * p.out_channels
    a_row, y_row = g.axes[2].step * stride, part[2].every * p.out_channels
    blocks = _pixel_blocks(places, targets, a_row, y_row, isa.rows)
    width = isa.width(dtype)
    lanes = np.arange(filters)
    columns, table = _columns(lanes, lanes, width, isa.vectors, pitch // width)
    y = (filters, p.out_channels * volume, 0, y_row)
    return _launch(p, p.batch, 1, 1, (group, sample, 0, a_row), (channels * math.prod(p.filter) * pitch, 0, 0), y, filters, a_steps, b_steps,
                   blocks, columns, table, isa, dtype, 0)  # fmt: skip


def _wgrad(p: ConvProblem, op: Op, g: _grid.Grid, part: tuple[_grid.Reads, ...], isa: _simd.Isa, dtype: np.dtype[Any]) -> Launch:
    """Rows are output channels, lanes are (s, c) of one (t, r), steps are the pixels of some samples."""
    channels, filters, volume, taps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.output), math.prod(p.filter)
    together = next(m for m in range(min(p.batch, max(1, CHUNK // volume)), 0, -1) if p.batch % m == 0)
    yn, yk, _, _, yv = p.strides("y")
    samples, places = np.arange(together), g.places(part)
    a_steps = np.add.outer(samples * yn, np.arange(volume) * yv).reshape(-1)
    b_steps = np.add.outer(samples * g.plane, places).reshape(-1) * channels
    first = np.arange(0, filters, isa.rows)
    blocks = np.stack([first * yk, np.minimum(isa.rows, filters - first), first * channels * taps, first], 1)
    lanes = (g.offsets(part)[:, None] * channels + np.arange(channels)).reshape(-1)
    targets = (_grid.taps(p, part)[:, None] * channels + np.arange(channels)).reshape(-1)  # (k, tap, c): `_stored` puts them right
    lines, tables, at = [], [], 0
    for run in _runs(p):
        here = slice(at, at + run)
        line, table = _columns(lanes[here], targets[here], isa.width(dtype), isa.vectors, -(-run // isa.width(dtype)), p.flipped)
        lines.append(line)
        tables.append(table)
        at += run
    b = (p.batch * g.plane * channels, 0, together * g.plane * channels)
    y = (filters * channels * taps, 0, p.out_channels * channels * taps, channels * taps)
    return _launch(p, 1, p.batch // together, None, (filters * yk, 0, together * yn, yk), b, y, 0, a_steps, b_steps,
                   blocks, np.concatenate(lines), np.concatenate(tables), isa, dtype, 0)  # fmt: skip


def _every(p: ConvProblem, g: _grid.Grid, dtype: np.dtype[Any]) -> int:
    """Return which steps' lines of the input to prefetch: taps that are neighbours read the same; 0 for a sample that stays in L2."""
    if p.in_channels * g.plane * dtype.itemsize <= IN_CACHE:
        return 0
    return p.filter[2] if p.dilation[2] == 1 and p.stride[2] == 1 else 1


def _targets(p: ConvProblem, part: tuple[_grid.Reads, ...]) -> Array:
    """Return the pixel of the output that each of three axes' reads make, in their order."""
    _, P, Q = p.output
    return _grid._sums([(r.first + np.arange(r.count) * r.every) * unit for r, unit in zip(part, (P * Q, Q, 1), strict=True)])


def _pixel_blocks(places: Array, targets: Array, a_row: int, y_row: int, height: int) -> Array:
    """Cut pixels into blocks of up to ``height`` that are evenly spaced in both the input and the output."""
    breaks = np.flatnonzero((np.diff(places) != a_row) | (np.diff(targets) != y_row)) + 1
    edges = np.concatenate([[0], breaks, [len(places)]])
    first = np.concatenate([np.arange(lo, hi, height) for lo, hi in zip(edges[:-1], edges[1:], strict=True)])
    valid = np.diff(np.append(first, len(places)))
    return np.stack([places[first], valid, targets[first], np.zeros_like(first)], 1)


def _columns(places: Array, targets: Array, width: int, most: int, vectors: int, scatter: bool = False) -> tuple[Array, Array]:
    """Return the table of columns for lanes at ascending ``places``, and that of each lane's target unless targets are neighbours.

    The lanes are covered by ``vectors`` vectors from the first place on, or, if those are too few or too many, each vector
    begins where the one before has left off.
    """
    first, last = int(places[0]), int(places[-1])
    if vectors * width > last - first:
        of, starts = (places - first) // width, first + np.arange(vectors) * width
    else:
        chosen, at = [], 0
        while at < len(places):
            chosen.append(at)
            at = int(np.searchsorted(places, places[at] + width))
        starts = places[chosen]
        of = np.searchsorted(starts, places, side="right") - 1
        vectors = len(starts)
    lane = places - starts[of]
    masks = np.zeros(vectors, np.int64)
    np.bitwise_or.at(masks, of, np.int64(1) << lane)
    begin = np.searchsorted(of, np.arange(vectors))
    begin = np.minimum(begin, len(targets) - 1)
    scatter |= bool((np.diff(targets) != 1).any())
    counts = [most] * (vectors // most) + ([vectors % most] if vectors % most else [])
    if most > 2 and len(counts) > 1 and counts[-1] == 1:
        counts[-2:] = [most - 1, 2]
    columns, table = np.zeros((len(counts), _product.LINE), np.int64), np.full((len(counts) if scatter else 0, most * width), -1, np.int64)
    at = 0
    for line, count in zip(columns, counts, strict=True):
        here = slice(at, at + count)
        line[_product.COUNT] = count
        line[_product.NEIGHBOURS] = bool((np.diff(starts[here]) == width).all())
        for column, values in ((_product.PLACES, starts), (_product.MASKS, masks), (_product.TARGETS, targets[begin])):
            line[column : column + count] = values[here]
        at += count
    if scatter:
        line_of = np.repeat(np.arange(len(counts)), counts)
        before = np.concatenate([[0], np.cumsum(counts)])[:-1]
        table[line_of[of], (of - before[line_of[of]]) * width + lane] = targets
    return columns, table


def _launch(p, outer, reps, pieces, a, b, y, bias_group, a_steps, b_steps, blocks, columns, targets, isa, dtype, every) -> Launch:  # type: ignore[no-untyped-def]
    """Choose the sizes of tiles and assemble a launch."""
    steps, size = len(a_steps), dtype.itemsize
    line_bytes = isa.rows * MOST * isa.width(dtype) * size  # of the sums of a block and a line
    blocks_each = min(BLOCKS, len(blocks))
    others = p.groups * outer * len(columns) if pieces else 1
    while blocks_each > 8 and others * -(-len(blocks) // blocks_each) < FEWEST_TILES:
        blocks_each = -(-blocks_each // 2)
    lines_each = max(1, min(len(columns) if pieces is None else LINES, SUMS_BYTES // (blocks_each * line_bytes)))
    if pieces:
        lines_each = max(1, min(lines_each, p.groups * outer * len(columns) * -(-len(blocks) // blocks_each) // FEWEST_TILES))
    supers, line_groups = -(-len(blocks) // blocks_each), -(-len(columns) // lines_each)
    tiles = p.groups * supers * outer * line_groups
    if pieces is None:
        pieces = max(1, min(reps * -(-steps // CHUNK), -(-FEWEST_TILES // tiles)))
    geometry = (
        tiles * pieces, blocks_each, supers, outer, lines_each, line_groups, pieces, reps, steps, max(b_steps, default=0), steps,
        *a, *b, *y, bias_group, every,
    )  # fmt: skip
    panel = np.concatenate([np.arange(CHUNK) * v * isa.width(dtype) for v in range(1, MOST + 1)])
    scratch = _product.scratch(blocks_each, lines_each, isa, dtype)
    table = np.concatenate([b_steps, panel])
    tables = (np.array(values, np.int64) for values in (geometry, a_steps, table, blocks))
    return Launch(*tables, columns, targets, scratch, pieces)
