"""Convolution by Fourier transforms of tiles, for long filters (float32, float64, complex64 and complex128).

A tile is transformed, multiplied by the filter's spectrum and transformed back while it lies in the cache (overlap-save; A. V.
Oppenheim and R. W. Schafer, Discrete-Time Signal Processing, section 8.7). The transforms are complex: of real numbers two tiles are
computed at once, as real and imaginary part. With several channels the products of their spectra are summed before the way back.
wgrad sums the products of dy's and x's tiles, whose way back it takes once.

An error is relative to the largest numbers of a tile. So two tiles of very different size are not computed together, a tile of float32 in
which few numbers dwarf the rest is computed in float64, and one with NaN or infinity by the direct sum.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from numbaconv._jit import Kernel
from numbaconv.cpu import _isa, _overlap, _parallel, _seconds, _transform, direct
from numbaconv.cpu._fft import STRANGE, kernels
from numbaconv.cpu._overlap import Tiles
from numbaconv.cpu._sum import add_pairwise
from numbaconv.cpu.bias import CODES
from numbaconv.problem import ConvProblem, Op, Options, Triple, Unsupported

EXACT = False  # its errors are relative to the largest numbers of a tile
WORTH = 5e-5  # seconds that it must save: sums of a few small integers stay exact
MOST_SUMS = 1 << 22  # elements of wgrad's sums that a job keeps
MOST_CHANNELS = 512  # their spectra are added one after the other: a million of positive numbers were 60 times beyond the bound
SPLITS, MOST_TILES = 8, 64  # jobs that wgrad is cut into at the least, and pairs of tiles of one at the most
IN_CACHE, BEYOND = 1 << 16, 0.4  # elements of a tile that a core's second-level cache holds, and how much slower each doubling is

SECONDS = _seconds.of("fft")  # for one of each that `work` counts
Array = np.ndarray[Any, Any]


class Layout(NamedTuple):
    """How one operation is cut up, what takes time, and what the kernels unpack."""

    tiles: Tiles
    real: np.dtype[Any]  # of the transforms
    plane: int  # elements from the real to the imaginary part of a tile
    members: int  # tiles of a group
    pairs: int  # transforms of a group
    splits: int  # pieces of wgrad's sum
    filters: int  # of a job of wgrad
    spectra: int  # elements of all filters' spectra
    scratch: int  # elements of a thread: the tiles of a group's channels, and sums
    work: dict[str, float]
    geometry: Array
    taps: Array  # the filter's size and its dilation
    jobs: int

    @property
    def transform(self) -> _transform.Transform:
        """Stages and factors of a tile; they are made when they are needed, not in planning."""
        return _transform.transform(_isa.host(), self.real, self.tiles.size)

    @property
    def seconds(self) -> float:
        """Estimated time on one core."""
        return sum(SECONDS[name] * count for name, count in self.work.items())

    @property
    def kernels(self) -> tuple[Kernel, Kernel, Kernel]:
        """The kernels for its tiles."""
        return kernels(_isa.host(), self.real, self.tiles.size[:2] == (1, 1))


class Packed(NamedTuple):
    """The spectra of filters, (filters, channels, planes), and what they are for: the size of a tile and the dilation."""

    size: Triple
    dilation: Triple
    spectra: Array


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    return _layout(problem, op, dtype).work


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    return _layout(problem, op, dtype).seconds


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the filters' spectra, or wgrad's pieces, and the tiles of a thread."""
    layout = _layout(problem, op, dtype)
    shared = layout.splits * math.prod(problem.shape("w")) * (1 + (dtype.kind == "c")) if op == "wgrad" else layout.spectra
    return (shared + layout.scratch * _parallel.get_num_threads()) * layout.real.itemsize


def prepare(problem: ConvProblem, op: Op, w: Array) -> Packed | None:
    """Transform weights; None for those that need the direct sum."""
    layout = _layout(problem, op, w.dtype)
    spectra, fine = _pack(layout, w)
    return Packed(layout.tiles.size, problem.dilation, spectra) if fine else None


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    layout = _layout(problem, op, out.dtype)
    if op == "wgrad":
        if not _wgrad(problem, layout, a, b, out):
            direct.run(problem, op, a, b, out, options)
        return
    if options.packed and options.packed[:2] == (layout.tiles.size, problem.dilation):
        spectra, fine = options.packed.spectra, True
    else:
        spectra, fine = _pack(layout, b)
    if not fine:
        direct.run(problem, op, a, b, out, options)
        return
    fused = options if out.dtype.kind == "f" else Options()
    flags = np.zeros(layout.jobs, np.uint8)
    _fprop(layout, a, spectra, out, fused, flags, _all(layout.jobs))
    if flags.any():
        _again(problem, op, layout, flags, a, b, out, fused)
    if fused is not options and options.bias is not None:
        out += options.bias if problem.channels_last else options.bias.reshape(-1, 1, 1, 1)


def _again(problem: ConvProblem, op: Op, layout: Layout, flags: Array, x: Array, w: Array, y: Array, options: Options) -> None:
    """Compute flagged tiles anew: in float64 those of float32, and directly those that are not finite then."""
    p = problem.transpose() if op == "dgrad" else problem
    if layout.real == np.float32:
        wide, found = _layout_of(p, op, layout.tiles, np.dtype(np.float64), y.dtype.kind == "c"), np.flatnonzero(flags)
        flags = np.zeros_like(flags)
        _fprop(wide, x, _pack(wide, w)[0], y, options, flags, found)
    for job in np.flatnonzero(flags == STRANGE):
        _directly(p, op, layout, int(job), x, w, y, options)


@functools.lru_cache(maxsize=64)
def _all(jobs: int) -> Array:
    return np.arange(jobs)


def _real(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(dtype.char.lower())


def _layout(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Layout:
    """Return how an operation is cut up; worked out once per problem. Raise Unsupported if it can't be done."""
    isa = _isa.host()
    key = ("fft", op, isa.name, dtype)
    if key not in problem.derived:
        if dtype.char not in "fdFD":
            raise Unsupported(f"needs floating-point or complex numbers, got {dtype.name}")
        if 0 in (problem.batch, problem.in_channels, problem.out_channels, *problem.input):
            raise Unsupported("needs a sum of at least one term")
        if (channels := problem.gemm_shape(op)[2] // math.prod(problem.filter)) > MOST_CHANNELS and op != "wgrad":
            raise Unsupported(f"needs at most {MOST_CHANNELS} channels in a group, whose spectra are added one after the other, got {channels}")
        if op == "wgrad" and problem.flipped:
            raise Unsupported("needs taps that are not flipped for wgrad")
        p = problem.transpose() if op == "dgrad" else problem
        real, complex_ = _real(dtype), dtype.kind == "c"

        def seconds(elements: int, rows: int, tiles: int) -> float:
            return sum(SECONDS[name] * n for name, n in _work(p, op, elements, rows, tiles, real.itemsize / 4, complex_).items())

        tiles = _overlap.best(p, op, isa.width(real), seconds)
        if tiles is None:
            raise Unsupported(f"needs a filter that fits a tile of {_overlap.LARGEST} elements, got {problem.filter}")
        problem.derived[key] = _layout_of(p, op, tiles, real, complex_)
    return problem.derived[key]


def _layout_of(p: ConvProblem, op: Op, tiles: Tiles, real: np.dtype[Any], complex_: bool) -> Layout:
    elements = math.prod(tiles.size)
    plane = _transform.plane(elements, real)
    members = p.batch * math.prod(tiles.counts)
    pairs = members if complex_ else -(-members // 2)
    channels, rows, taps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.filter)
    filters = max(1, min(rows, MOST_SUMS // (2 * plane * channels)))
    blocks = -(-rows // filters)
    splits = max(min(pairs, -(-SPLITS // (p.groups * blocks))), -(-pairs // MOST_TILES))
    tile = channels + 1 + filters * channels if op == "wgrad" else channels + 1
    jobs = p.groups * (splits * blocks if op == "wgrad" else pairs)
    parts = 1 + complex_
    # dgrad's filters are stored by the other channel first.
    wk, wc = (taps, rows * taps) if op == "dgrad" else (channels * taps, taps)
    geometry = [
        p.groups, channels, rows, members, math.prod(tiles.counts), tiles.counts[1], tiles.counts[2], plane, int(complex_), pairs,
        *(stride * parts for tensor in ("x", "y") for stride in p.strides(tensor)),
        int(p.flipped), wk * parts, wc * parts, taps * parts, *(n * parts for n in (p.filter[1] * p.filter[2], p.filter[2], 1)),
        filters, blocks, splits,
    ]  # fmt: skip
    return Layout(
        tiles, real, plane, members, pairs, splits, filters,
        2 * plane * p.out_channels * channels, 2 * plane * tile,
        _work(p, op, elements, tiles.size[0] * tiles.size[1], math.prod(tiles.counts), real.itemsize / 4, complex_),
        np.array(geometry, np.int64), np.array([p.filter, p.dilation], np.int64), jobs,
    )  # fmt: skip


def _work(p: ConvProblem, op: Op, elements: int, lines: int, tiles: int, size: float, complex_: bool) -> dict[str, float]:
    """Count what takes time with tiles of so many elements in so many lines."""
    channels, rows = p.in_channels // p.groups, p.out_channels // p.groups
    pairs = p.batch * tiles if complex_ else -(-p.batch * tiles // 2)
    there, back, filters = channels * pairs, rows * pairs, rows * channels
    if op == "wgrad":
        there, back, filters = (channels + rows) * pairs, rows * channels, 0
    each = p.groups * elements * size
    slow = 1 + BEYOND * max(0.0, math.log2(elements * size / IN_CACHE))
    return {
        "call": 1.0,
        "element": each * (there + back) * slow,
        "stage": each * (there + back + filters) * math.log2(elements) * slow,
        "filter": each * filters * slow,
        "multiply": each * channels * rows * pairs if channels * rows > 1 or op == "wgrad" else 0.0,
        "pair": float(p.groups * (there + back + filters)),
        "line": float(p.groups * (there + back) * lines),
    }


def _pack(layout: Layout, w: Array) -> tuple[Array, bool]:
    """Transform all filters; return their spectra and whether they are of ordinary size."""
    tile, spectra = layout.transform, np.empty(layout.spectra, layout.real)
    filters = layout.spectra // (2 * layout.plane)
    seconds = SECONDS["filter"] * layout.work["filter"] + SECONDS["stage"] * math.log2(math.prod(tile.size)) * layout.work["filter"]
    flags = np.zeros(filters, np.uint8)
    arguments = (_numbers(w, layout.real), spectra, flags, layout.geometry, layout.taps, tile.size, tile.sizes, tile.stages, tile.factors)
    _parallel.run(layout.kernels[0], filters, (0, layout.real), arguments, seconds)
    return spectra, not flags.any()


def _fprop(layout: Layout, x: Array, spectra: Array, y: Array, options: Options, flags: Array, jobs: Array) -> None:
    """Compute the tiles of ``jobs``, and flag those that need to be computed otherwise."""
    real, tile, tiles = layout.real, layout.transform, layout.tiles
    bias = np.empty(0, real) if options.bias is None else options.bias.astype(real, copy=False)
    arguments = (
        _numbers(x), spectra, _numbers(y), bias, CODES[options.activation], flags, jobs, layout.geometry, tiles.loads, tiles.stores, tile.size,
        tile.sizes, tile.stages, tile.factors,
    )  # fmt: skip
    share = len(jobs) / len(flags)
    _parallel.run(layout.kernels[1], len(jobs), (layout.scratch, real), arguments, layout.seconds * share)


def _numbers(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """Return an array's numbers, real and imaginary parts in turn, in one row."""
    flat = array.reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(_real(flat.dtype))
    return flat if dtype is None else flat.astype(dtype, copy=False)


def _directly(p: ConvProblem, op: Op, layout: Layout, job: int, x: Array, w: Array, y: Array, options: Options) -> None:
    """Compute the tiles of one job by the direct sum."""
    group, pair = divmod(job, layout.pairs)
    channels, rows = p.in_channels // p.groups, p.out_channels // p.groups
    from_, to = slice(group * channels, (group + 1) * channels), slice(group * rows, (group + 1) * rows)
    bias = None if options.bias is None else options.bias[to]
    weights = np.ascontiguousarray(w[from_] if op == "dgrad" else w[to])
    for member in [pair] if y.dtype.kind == "c" else range(2 * pair, min(2 * pair + 2, layout.members)):
        n, tile = divmod(member, math.prod(layout.tiles.counts))
        places = np.unravel_index(tile, layout.tiles.counts)
        spans = [tuple(map(int, _overlap.span.py_func(layout.tiles.stores[a], places[a]))) for a in range(3)]
        if any(first >= last for first, last in spans):
            continue
        d, h, width = (last - first for first, last in spans)
        ld, lh, lw = (lo - first * s for lo, (first, _), s in zip(p.low, spans, p.stride, strict=True))
        part = replace(p, batch=1, in_channels=channels, out_channels=rows, groups=1, output=(d, h, width), low=(ld, lh, lw), derived={})
        image = np.ascontiguousarray(x[n : n + 1, ..., from_] if p.channels_last else x[n : n + 1, from_])
        result = np.empty(part.shape("y"), y.dtype)
        problem, kind = (part.transpose(), op) if op == "dgrad" else (part, op)
        direct.run(problem, kind, image, weights, result, Options(bias, options.activation))
        box: Any = tuple(slice(first, last) for first, last in spans)
        y[(n, *box, to) if p.channels_last else (n, to, *box)] = result[0]


def _wgrad(p: ConvProblem, layout: Layout, dy: Array, x: Array, dw: Array) -> bool:
    """Compute wgrad, and return whether all is finite."""
    real, tile, tiles = layout.real, layout.transform, layout.tiles
    numbers = _numbers(dw)
    pieces, flags = np.empty((layout.splits, numbers.size), real), np.zeros(layout.jobs, np.uint8)
    arguments = (
        _numbers(dy), _numbers(x), pieces, flags, layout.geometry, tiles.loads, tiles.gradients, tiles.stores, tile.size,
        tile.sizes, tile.stages, tile.factors,
    )  # fmt: skip
    _parallel.run(layout.kernels[2], len(flags), (layout.scratch, real), arguments, layout.seconds)
    numbers[:] = add_pairwise(pieces)
    return not flags.any() and bool(np.isfinite(dw).all())
