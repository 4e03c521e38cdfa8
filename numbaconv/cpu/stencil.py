"""Stencils: convolutions with few channels in a group, where the taps are the long axis (float32 and float64).

Depthwise and grouped layers, images, FIR filters. A block of outputs copies what it reads, padding included, into a cache of its
own, with strides and transposed strides split into phases (see `_blocks`), so that a tap is an offset and a vector load. A
tile of rows × one vector of outputs then stays in registers over all taps, and a loaded vector feeds a tap of each row above it.
The lanes of a vector are neighbouring outputs of a row, or, where rows are short or channels last, neighbouring channels.
Most planes need no such copy: `_rolls` and `_slabs` read those of depthwise layers and images where they lie, as `_pointwise` does for
1×1 filters; `_interleaved` turns small ones.
dgrad is the fprop of the transposed problem.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline
from numbaconv.cpu import (
    _interleaved,
    _interleaved_wgrad,
    _isa,
    _parallel,
    _pointwise,
    _rolls,
    _seconds,
    _simd_stencil,
    _slabs,
    _slabs_wgrad,
    _ways,
    direct,
)
from numbaconv.cpu._blocks import CHUNK, LARGEST, Blocks, build
from numbaconv.cpu._grid import reads_zeros
from numbaconv.cpu._stencil_moves import channel_copier, channel_storer, clear, copier, storer
from numbaconv.cpu._sum import add_pairwise, carry, levels, total
from numbaconv.cpu.bias import CODES
from numbaconv.problem import ConvProblem, Op, Options, Run, Unsupported

soon_written = _simd_stencil.prefetch(True)
MOST_TAPS = 1 << 14  # each has an entry in a table
MOST_INTERLEAVED = 32  # outputs of a row: longer ones fill vectors by themselves (benchmarks/layers.py: 0.12 ms for 0.17 at 28, 0.42 for 0.36 at 56)
MANY, CACHED = 8, 4 << 20  # filters of a group, and bytes of the results, from which on planes that lie far apart cost more
SPLITS = 32  # pieces of wgrad's sum when there are too few groups to share

SECONDS = _seconds.of("stencil")  # for one of each that `work` counts
Array = np.ndarray[Any, Any]


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    if problem.in_channels * problem.out_channels == 0:
        raise Unsupported("needs a sum of at least one term")
    if (taps := math.prod(problem.filter)) > MOST_TAPS:
        raise Unsupported(f"needs a filter of at most {MOST_TAPS} taps, got {taps}")
    if op == "wgrad" and problem.input_dilation != (1, 1, 1):
        raise Unsupported("needs an input that is not dilated for wgrad")
    p = _forward(problem, op)
    far = {"far": _far(p, dtype)} if op != "wgrad" else {}
    if planes := _planes(p, op, dtype):
        return planes.work(p, dtype) | far
    if found := _slabs.passes(p, op, dtype):
        return _slabs.work(found, p, op, dtype) | far
    blocks = _blocks(problem, op, dtype)
    if op == "wgrad" and (scratch := _wgrad_scratch(blocks, dtype)) > 2 * LARGEST:
        raise Unsupported(f"needs fewer channels or taps: their sums take {scratch} elements")
    size, sizes = dtype.itemsize / 4, [int(value) for value in blocks.sizes]
    bands = sizes[0] * sizes[6] * (sizes[10] // sizes[12])  # rows of tiles
    multiplied = bands * sizes[7] * sizes[18] * size
    copied = sizes[0] * (sizes[17] + sizes[6] * sizes[20] * (op == "wgrad")) * size
    strided = problem.channels_last and not blocks.channels and problem.in_channels > 1
    counts = {"call": 1, "strided" if strided else "copy": copied}
    if op == "wgrad":
        return counts | {"dot": multiplied, "chain": bands // sizes[12] * len(blocks.columns)}
    return counts | far | {"fma": multiplied, "micro": bands * sizes[13] * len(blocks.calls)}


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    key = ("stencil seconds", op, dtype)
    if key not in problem.derived:
        problem.derived[key] = _seconds_of(work(problem, op, dtype))
    return problem.derived[key]


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: per thread a block's input, weights and sums, and wgrad's pieces."""
    p = _forward(problem, op)
    if planes := _planes(p, op, dtype):
        more = p.out_channels if isinstance(planes, _rolls.Rolls) or op != "wgrad" else planes.parts * math.prod(p.shape("w"))
        return (more + planes.scratch * _parallel.get_num_threads()) * dtype.itemsize  # pieces of wgrad or a bias, and factors
    if found := _slabs.passes(p, op, dtype):
        if op != "wgrad":
            return p.out_channels * dtype.itemsize  # a bias
        sums = _slabs_wgrad.scratch(found[0], p, dtype) * _parallel.get_num_threads()
        return (_slabs.pieces(found[0], p) * math.prod(p.shape("w")) + sums) * dtype.itemsize
    blocks = _blocks(problem, op, dtype)
    if op == "wgrad":
        pieces = _pieces(blocks) * math.prod(problem.shape("w"))
        return (pieces + _wgrad_scratch(blocks, dtype) * _parallel.get_num_threads()) * dtype.itemsize
    return blocks.scratch * dtype.itemsize * _parallel.get_num_threads()


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    if op == "wgrad":
        return _run_wgrad(problem, a, b, out)
    p, seconds, found = _ready(problem, op, out.dtype)
    if found:
        if _ways.run(found, a, b, out, options, seconds) and not np.isfinite(b).all():
            direct.run(problem, op, a, b, out, options)  # 0·∞ in the padding is NaN: only the sum that leaves the padding out is right
        return None
    if reads_zeros(p) and not np.isfinite(b).all():
        # 0·∞ in the padding would be NaN: only the sum that leaves the padding out is right.
        return direct.run(problem, op, a, b, out, options)
    blocks = _blocks(problem, op, out.dtype)
    bias = np.empty(0, out.dtype) if options.bias is None else options.bias
    arguments = (a.reshape(-1), b.reshape(-1), out.reshape(-1), bias, CODES[options.activation], *blocks[:8])
    kernel = _fprop(_isa.host(), out.dtype, blocks.rows, blocks.chain, blocks.channels)
    _parallel.run(kernel, int(blocks.sizes[0]), (blocks.scratch, out.dtype), arguments, seconds)


def bind(problem: ConvProblem, op: Op, dtype: np.dtype[Any], whole: Run) -> Run | None:
    """Return `run` for these alone, without bias and activation, with everything looked up; None where that would not be noticed.

    ``whole`` does the same for other instructions.
    """
    p, seconds, found = _ready(problem, op, dtype) if op != "wgrad" else (problem, 0.0, [])
    if len(found) != 1 or seconds > _parallel.BATCH_SECONDS:
        return None
    call, isa = _ways.bind(found[0], p, dtype, seconds), _isa.host()

    def bound(a: Array, b: Array, out: Array) -> None:
        if isa is not _isa.host():
            whole(a, b, out)
        elif call(a, b, out) and not np.isfinite(b).all():
            whole(a, b, out)

    return bound


def _run_wgrad(problem: ConvProblem, dy: Array, x: Array, dw: Array) -> None:
    seconds = cost(problem, "wgrad", dw.dtype)
    planes = _planes(problem, "wgrad", dw.dtype)
    if isinstance(planes, _pointwise.Pointwise):
        return _pointwise.run_wgrad(planes, dy, x, dw, seconds)
    if isinstance(planes, _interleaved.Interleaved):
        broken = _interleaved_wgrad.run(planes, dy, x, dw, seconds)
    elif found := _slabs.passes(problem, "wgrad", dw.dtype):
        broken = _slabs_wgrad.run(found[0], problem, dy, x, dw, seconds)
    else:
        broken = _wgrad_in_blocks(problem, dy, x, dw.reshape(-1), seconds)
    if broken:  # it may be 0·∞ in the padding or beyond the end of a row
        direct.run(problem, "wgrad", dy, x, dw, Options())


def _wgrad_in_blocks(problem: ConvProblem, dy: Array, x: Array, dw: Array, seconds: float) -> bool:
    blocks = _blocks(problem, "wgrad", dw.dtype)
    pieces = np.empty((_pieces(blocks), dw.size), dw.dtype)
    arguments = (dy.reshape(-1), x.reshape(-1), pieces, blocks.sizes, blocks.source, blocks.slices, blocks.slopes, blocks.itself,
                 blocks.columns, blocks.taps, blocks.calls, blocks.places)  # fmt: skip
    kernel = _wgrad(_isa.host(), dw.dtype, blocks.rows, blocks.chain, blocks.channels)
    _parallel.run(kernel, int(blocks.sizes[1]) * len(pieces), (_wgrad_scratch(blocks, dw.dtype), dw.dtype), arguments, seconds)
    dw[:] = add_pairwise(pieces)
    return not np.isfinite(dw).all()


@functools.cache
def _fprop(isa: _isa.Isa, dtype: np.dtype[Any], rows: int, chain: int, channels: bool) -> Kernel:
    """Make the kernel for tiles of so many rows and chains of so many taps and one less: both are part of its code."""
    long = _simd_stencil.stencil_tile(isa, dtype, rows, chain, not channels)
    short = _simd_stencil.stencil_tile(isa, dtype, rows, max(1, chain - 1), not channels)
    lanes = isa.vector_bytes // dtype.itemsize
    pixel = lanes if channels else 1
    copy, store = (channel_copier(isa, dtype), channel_storer(isa, dtype)) if channels else (copier(isa, dtype), storer(isa, dtype))

    @inline
    def read_weights(weights, w, group, sizes, taps):  # type: ignore[no-untyped-def]
        for lane in range(min(pixel, sizes[5] - group)):
            for k in range(sizes[6]):
                for tap in range(len(taps)):
                    weights[(k * len(taps) + tap) * pixel + lane] = w[(group + lane) * sizes[8] + k * sizes[9] + taps[tap]]

    @inline
    def add_taps(sums, at, width, block, first, weights, wi, sizes, columns, calls, start, stop):  # type: ignore[no-untyped-def]
        # A row of tiles: each call adds its columns of taps to all of them, chunk after chunk.
        tiles, tile_step, x_step, row_step, out_step, size, chunks = sizes[13], sizes[14], sizes[21], sizes[15], sizes[16], sizes[18], 0
        if start == stop:
            clear(sums, at, size)
        for i in range(start, stop):
            column, count, length, tap, add = calls[i, 0], calls[i, 1], calls[i, 2], wi + calls[i, 3] * pixel, calls[i, 4]
            for tile in range(tiles):
                x, to = first + tile * x_step, at + tile * tile_step
                if length == chain:
                    long(block, x, row_step, columns, column, count, weights, tap, sums, to, out_step, add)
                else:
                    short(block, x, row_step, columns, column, count, weights, tap, sums, to, out_step, add)
            if calls[i, 5]:
                carry(sums[at:], size, width, chunks)
                chunks += 1
        if chunks:
            total(sums[at:], size, width, chunks)

    def stencil(first, last, workers, scratch, x, w, y, bias, code, sizes, source, target, slices, columns, taps, calls, starts):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_c Σ_t Σ_r Σ_s w[k,c,t,r,s] · x[n,c,i(z,t),i(p,r),i(q,s)], padding as zeros.
        # THE SCHEDULE: a tile is a block of rows × outputs of one (n, z) and group (or vector of groups). What it reads is copied
        # to L1 or L2; a row of register tiles takes all taps of one phase, CHUNK terms at a time, and is stored from L1.
        group_blocks, Z, p_blocks, q_blocks, K = sizes[1], sizes[2], sizes[3], sizes[4], sizes[6]
        height, width, high, copied, size, line = sizes[10], sizes[11], sizes[12], sizes[17], sizes[18], sizes[19]
        down, across = target[7], target[8]
        for worker in prange(workers):
            block, weights = scratch[worker], scratch[worker][copied:]
            sums = weights[K * len(taps) * pixel :]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                rest, q0 = tile // q_blocks, tile % q_blocks * width
                rest, p0 = rest // p_blocks, rest % p_blocks * height
                rest, z = rest // Z, rest % Z
                n, group = rest // group_blocks, rest % group_blocks * pixel
                copy(block, 0, x, source, slices, n, group, z, p0, q0)
                read_weights(weights, w, group, sizes, taps)
                for k in range(K):
                    for phase in range(down):
                        for row in range(0, height, high):
                            if phase + down * (p0 + row) >= target[5]:
                                break
                            for pr in range(high):
                                for j in range(0, min(target[6], width * across), lanes):
                                    soon_written(
                                        y,
                                        n * target[0]
                                        + (group * K + k) * target[1]
                                        + z * target[2]
                                        + (phase + down * (p0 + row + pr)) * target[3]
                                        + across * q0 * target[4]
                                        + j * target[4],
                                    )
                            for shift in range(across):
                                start, stop = starts[phase * across + shift], starts[phase * across + shift + 1]
                                at, wi, xi = line + shift * size, k * len(taps) * pixel, row * sizes[15]
                                add_taps(sums, at, across * size, block, xi, weights, wi, sizes, columns, calls, start, stop)
                            store(y, target, sums, line, n, group * K + k, z, p0 + row, q0, phase, high, width, size, bias, code)

    return Kernel(stencil, f"-{isa.name}-{dtype.name}-{rows}x{chain}{'c' * channels}")


@functools.cache
def _wgrad(isa: _isa.Isa, dtype: np.dtype[Any], rows: int, chain: int, channels: bool) -> Kernel:
    """Make wgrad's kernel for places of so many rows and chains of so many taps and one less."""
    long, short = _simd_stencil.stencil_dots(isa, dtype, rows, chain), _simd_stencil.stencil_dots(isa, dtype, rows, max(1, chain - 1))
    lanes, room = isa.vector_bytes // dtype.itemsize, CHUNK // rows
    copy, pixel = (channel_copier(isa, dtype), lanes) if channels else (copier(isa, dtype), 1)

    @inline
    def add_places(sums, block, dy, sizes, columns, calls, places, first, count):  # type: ignore[no-untyped-def]
        for k in range(sizes[6]):
            for i in range(len(calls)):
                column, length = calls[i, 0], calls[i, 2]
                to, slopes = (k * sizes[7] + calls[i, 3]) * lanes, dy + k * sizes[20]
                for m in range(calls[i, 1]):
                    x, at = columns[column + m], to + m * length * lanes
                    if length == chain:
                        long(block, x, block, slopes, sizes[15], places[0], first, places[1], first, count, sums, at)
                    else:
                        short(block, x, block, slopes, sizes[15], places[0], first, places[1], first, count, sums, at)

    @inline
    def store(pieces, piece, sums, group, sizes, taps):  # type: ignore[no-untyped-def]
        for k in range(sizes[6]):
            for tap in range(len(taps)):
                at, half, to = (k * len(taps) + tap) * lanes, lanes // 2, k * sizes[9] + taps[tap]
                if channels:
                    for lane in range(min(lanes, sizes[5] - group)):
                        pieces[piece, (group + lane) * sizes[8] + to] = sums[at + lane]
                    continue
                while half:
                    for lane in range(half):
                        sums[at + lane] += sums[at + lane + half]
                    half //= 2
                pieces[piece, group * sizes[8] + to] = sums[at]

    def wgrad(first, last, workers, scratch, dy, x, pieces, sizes, source, slices, slopes, itself, columns, taps, calls, places):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k,c,t,r,s] = Σ_n Σ_z Σ_p Σ_q dy[n,k,z,p,q] · x[n,c,i(z,t),i(p,r),i(q,s)].
        # THE SCHEDULE: a tile is one group over one piece of the blocks. A block's x and dy are copied to L1 or L2; for each chain
        # of taps the rows of dy stay in registers, and a sum per tap and lane takes all places, CHUNK terms at a time.
        group_blocks, Z, p_blocks, q_blocks, tiles = sizes[1], sizes[2], sizes[3], sizes[4], sizes[13]
        height, width, high, copied = sizes[10], sizes[11], sizes[12], sizes[17]
        size, blocks = sizes[6] * sizes[7] * lanes, sizes[0] // group_blocks
        for worker in prange(workers):
            block = scratch[worker]
            sums = block[copied + sizes[6] * sizes[20] + lanes * lanes :]
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                group, piece, used, chunks = tile // len(pieces) * pixel, tile % len(pieces), 0, 0
                sums[:size] = 0
                for unit in range(blocks * piece // len(pieces), blocks * (piece + 1) // len(pieces)):
                    rest, q0 = unit // q_blocks, unit % q_blocks * width
                    rest, p0 = rest // p_blocks, rest % p_blocks * height
                    n, z = rest // Z, rest % Z
                    copy(block, 0, x, source, slices, n, group, z, p0, q0)
                    copy(block, copied, dy, slopes, itself, n, group, z, p0, q0)
                    done, count = 0, (min(height, slopes[5] - p0) + high - 1) // high * tiles
                    while done < count:
                        now = min(count - done, room - used)
                        add_places(sums, block, copied, sizes, columns, calls, places, done, now)
                        done, used = done + now, used + now
                        if used == room:
                            carry(sums, size, size, chunks)
                            used, chunks = 0, chunks + 1
                total(sums, size, size, chunks)
                store(pieces, piece, sums, group, sizes, taps)

    return Kernel(wgrad, f"-{isa.name}-{dtype.name}-{rows}x{chain}{'c' * channels}")


def _forward(problem: ConvProblem, op: Op) -> ConvProblem:
    """Return the problem whose input is copied: dgrad is the transposed problem's fprop."""
    if op != "dgrad":
        return problem
    if "transposed" not in problem.derived:
        problem.derived["transposed"] = problem.transpose()
    return problem.derived["transposed"]


def _far(p: ConvProblem, dtype: np.dtype[Any]) -> float:
    """Return the elements of y that caches do not hold while the planes of many filters are written a piece at a time."""
    bytes_ = math.prod(p.shape("y")) * dtype.itemsize
    return max(0, bytes_ - CACHED) / 4 if p.out_channels >= MANY * p.groups else 0


def _planes(p: ConvProblem, op: Op, dtype: np.dtype[Any]) -> _ways.Planes | None:
    """Return how p, of which ``op`` is asked, is done in strips, interleaved or by 1×1 filters, if it is; worked out once."""
    key = ("stencil planes", op, _isa.host().name, dtype)
    if key not in p.derived:
        p.derived[key] = _ways.choose(p, op, dtype, _seconds_of)
    return p.derived[key]


def _seconds_of(counts: dict[str, float]) -> float:
    return sum(SECONDS[name] * count for name, count in counts.items())


def _ready(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[ConvProblem, float, list[_slabs.Pass] | list[_ways.Planes]]:
    """Return the problem whose input is copied, the seconds it takes, and the passes of its quick way, or its planes; worked out once."""
    key = ("stencil ready", op, _isa.host().name, dtype)
    if key not in problem.derived:
        p = _forward(problem, op)
        planes = _planes(p, op, dtype)
        problem.derived[key] = p, cost(problem, op, dtype), [planes] if planes else _slabs.passes(p, op, dtype)
    return problem.derived[key]


def _blocks(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Blocks:
    """Return how the problem is cut; worked out once."""
    isa = _isa.host()
    key = ("stencil", op, isa.name, dtype)
    if key not in problem.derived:
        lanes = isa.vector_bytes // dtype.itemsize
        p = _forward(problem, op)
        channels = p.groups > 3 and (p.channels_last or (p.output[2] <= MOST_INTERLEAVED and p.output[1] > 1))
        problem.derived[key] = build(p, op == "dgrad", isa, lanes, channels)
    return problem.derived[key]


def _pieces(blocks: Blocks) -> int:
    """Return into how many pieces wgrad's sum is cut: as many as keep SPLITS tiles busy, whoever computes them."""
    tiles, groups = int(blocks.sizes[0]), int(blocks.sizes[1])
    return max(1, min(tiles // groups, -(-SPLITS // groups)))


def _wgrad_scratch(blocks: Blocks, dtype: np.dtype[Any]) -> int:
    """Elements that a thread needs: the copies of x and dy and the levels of the pairwise sums."""
    tiles, groups, K, taps, copied, dy = (int(blocks.sizes[i]) for i in (0, 1, 6, 7, 17, 20))
    terms = -(-tiles // groups // _pieces(blocks)) * blocks.places.shape[1] * blocks.rows
    lanes = _isa.host().vector_bytes // dtype.itemsize
    return copied + K * dy + lanes**2 + K * taps * lanes * levels(2 * terms, CHUNK)
