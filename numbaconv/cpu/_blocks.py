"""How `stencil` cuts a problem: phases, blocks of outputs, and where in a block's copy of the input each tap meets its input.

On an axis with i·u + lo = o·s + r·d, the outputs o = φ + U·o' of one phase φ, U = u/gcd(u, s), meet the same taps r: those for
which φ·s + r·d − lo is divisible by u, each at i = (φ·s + r·d − lo)/u + o'·S, S = s/gcd(u, s). The copy of the input is split into
S phases in turn, i = first + ψ + S·i', so that neighbouring outputs o' meet neighbouring inputs i' of one phase: a tap is an offset.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu import _isa
from numbaconv.cpu._sum import levels
from numbaconv.problem import ConvProblem, Unsupported

LONGEST = 8  # taps of a chain: their weights and the rows of a tile fill the registers
CHUNK = 256  # terms summed in one accumulator: rounding stays within 8 eps (tests/test_numerics.py)
BLOCK = 8192  # elements of a block's copy of the input if the height of a tile allows: 32 KB of float32 stay in L1
WIDEST, LONGEST_LINE = 512, 4096  # outputs of a row in a block; of the only row
LARGEST = 1 << 20  # elements of a block's copy of the input that are tolerated
MOST_TAPS, MOST_PHASES, MOST_PLANES = 1 << 16, 64, 64
Array = np.ndarray[Any, Any]


class Axis(NamedTuple):
    """Phases of an axis: the taps (r, j) of an output phase meet the inputs first + j + step·o'."""

    phases: int
    step: int
    first: int
    taps: list[list[tuple[int, int]]]
    reach: int  # how many inputs of a phase, beyond the outputs' number, are read
    outputs: int  # of a phase


class Blocks(NamedTuple):
    """What the kernels read: sizes, in the order in which they unpack them, and tables."""

    sizes: Array  # tiles and what a tile is
    source: Array  # the input, and its copy
    target: Array  # the output
    slices: Array  # the input slice that (z, t) meets, or −1
    columns: Array  # per chain of taps: its offset in the copy
    taps: Array  # per tap, chain after chain: its offset in the weights
    calls: Array  # per call of the micro-kernel: first column, columns, length of a chain, first tap, adds to the sum, ends a chunk
    starts: Array  # per phase: its first call; the last entry ends the last phase
    slopes: Array  # for wgrad: dy, and its copy
    itself: Array  # the slice of dy that z meets
    places: Array  # where the tiles of a block begin in the copies of x and of dy
    channels: bool
    rows: int  # vectors of a tile, one below the other
    chain: int  # taps of the longer chains
    scratch: int  # elements: the copy, the weights, a line of output and the sums; the square of lanes is what a transposition may overrun


def phases(p: ConvProblem, axis: int) -> Axis:
    """Cut an axis in phases."""
    u, s, d, low = p.input_dilation[axis], p.stride[axis], p.dilation[axis], p.low[axis]
    count, step = u // math.gcd(u, s), s // math.gcd(u, s)
    if max(count, step) > MOST_PHASES:
        raise Unsupported(f"needs steps of at most {MOST_PHASES}, got {max(count, step)}")
    found = [[(r, (o * s + r * d - low) // u) for r in range(p.filter[axis]) if (o * s + r * d - low) % u == 0] for o in range(count)]
    first = min((i for taps in found for _, i in taps), default=0)
    taps = [[(r, i - first) for r, i in taps] for taps in found]
    reach = max((j for phase in taps for _, j in phase), default=0) // step
    return Axis(count, step, first, taps, reach, -(-p.output[axis] // count))


def runs(axis: Axis, phase: int) -> list[list[tuple[int, int]]]:
    """Return the taps of an output phase as runs that meet neighbouring inputs of one input phase."""
    found: list[list[tuple[int, int]]] = []
    for r, j in sorted(axis.taps[phase], key=lambda tap: (tap[1] % axis.step, tap[1])):
        if found and found[-1][-1][1] + axis.step == j:
            found[-1].append((r, j))
        else:
            found.append([(r, j)])
    return found


def pieces(length: int, longest: int) -> list[int]:
    """Cut a run into chains of ``longest`` taps and of one less; nothing if that cannot be."""
    count = -(-length // longest)
    long = length - count * (longest - 1)
    return [longest] * long + [longest - 1] * (count - long) if long >= 0 else []


def longest_chain(lengths: list[int], most: int) -> int:
    """Return the length of which, and one less, all runs can be made."""
    wanted = max((-(-n // -(-n // most)) for n in lengths), default=1)
    return next(chain for chain in range(wanted, 0, -1) if all(pieces(n, chain) for n in lengths))


def even(count: int, most: int, unit: int = 1) -> int:
    """Return the length, a multiple of ``unit``, of even parts of a count, none longer than ``most`` if that is a unit."""
    parts = max(1, math.ceil(count / max(unit, most // unit * unit)))
    return max(1, math.ceil(count / parts / unit)) * unit


def build(p: ConvProblem, transposed: bool, isa: _isa.Isa, lanes: int, channels: bool) -> Blocks:
    """Cut a problem's fprop; ``transposed`` says that the filters are those of the problem that it was transposed from.

    The lanes of a vector are neighbouring outputs of a row, or, with ``channels``, the same output of neighbouring groups.
    """
    C, K, T = p.in_channels // p.groups, p.out_channels // p.groups, p.filter[0]
    line = p.input[1] == p.output[1] == p.filter[1] == 1 and p.low[1] == 0
    h, w = (2, 1) if line and channels and p.channels_last else (1, 2)  # lines of channels run down, so that chains can
    high, wide = phases(p, h), phases(p, w)
    flat = high.outputs == 1 and not channels  # a tile's vectors are then one behind the other
    pixel, outputs = (lanes, 1) if channels else (1, lanes)  # elements between neighbours of a row, outputs of a vector
    stretch, across = (wide.step, 1) if channels else (1, wide.step)  # a row of channels needs no phases
    reach = max((j for phase in wide.taps for _, j in phase), default=0) // across
    vectors = even(-(-wide.outputs // outputs), -(-(LONGEST_LINE if flat else WIDEST) // lanes))
    rows = min(isa.stencil_rows, key=lambda n: -(-(vectors if flat else high.outputs) // n) * (n + 3))
    vectors = -(-vectors // rows) * rows if flat else vectors
    pitch = -(-((vectors * outputs - 1) * stretch + 1 + reach) * pixel // lanes) * lanes
    pitch += lanes * (pitch % 256 == 0)  # rows a power of two apart would share few sets of the cache
    copies = C * T * high.step * across
    height = 1 if flat else even(high.outputs, BLOCK // (pitch * copies) - high.reach, rows)
    if C * T > MOST_PLANES or K > MOST_PLANES or C * math.prod(p.filter) > MOST_TAPS:
        raise Unsupported(
            f"needs at most {MOST_PLANES} channels in and out of a group and {MOST_TAPS} taps, got {C * T}, {K} and {C * math.prod(p.filter)}"
        )
    if (size := pitch * (height + high.reach) * copies) > LARGEST:
        raise Unsupported(f"needs taps that are nearer to each other: a block would copy {size} elements")
    columns, taps, calls, starts, chain = _tables(
        p, transposed, (h, high), (w, wide, across), height + high.reach, pitch, pixel, 1 if flat else LONGEST
    )
    blocks = (-(-p.groups // lanes) if channels else p.groups, p.output[0], -(-high.outputs // height), -(-wide.outputs // (vectors * outputs)))
    sums = (1 if flat else rows) * vectors * lanes
    line_size, volume = (wide.phases * vectors + 1) * lanes, math.prod(p.filter)
    xs, ys, order = p.strides("x"), p.strides("y"), (0, 1, 2, 2 + h, 2 + w)
    sizes = (
        p.batch * math.prod(blocks), *blocks, p.groups, K, len(taps), C * K * volume, volume if transposed else C * volume,
        height, vectors * outputs, 1 if flat else rows, vectors // rows if flat else vectors,
        rows * lanes if flat else lanes, lanes if flat else pitch, lanes if flat else vectors * lanes,
        size + lanes**2, sums, line_size, height * pitch,
        rows * lanes if flat else lanes * stretch,
    )  # fmt: skip
    source = (
        *(xs[a] for a in order),
        p.input[h],
        p.input[w],
        high.step,
        across,
        high.first,
        wide.first,
        height + high.reach,
        pitch,
        C,
        T,
        C * xs[1],
        wide.step,
        p.groups,
    )
    slopes = (*(ys[a] for a in order), p.output[h], p.output[w], 1, 1, 0, 0, height, pitch, K, 1, K * ys[1], 1, p.groups)
    down, along = np.arange(0, height, 1 if flat else rows) * pitch, np.arange(0, vectors, rows if flat else 1) * lanes
    target = (*(ys[a] for a in order), p.output[h], p.output[w], high.phases, wide.phases, K * ys[1], p.groups)
    at = np.arange(p.output[0])[:, None] * p.stride[0] + np.arange(T) * p.dilation[0] - p.low[0]
    inside = (at % p.input_dilation[0] == 0) & (at >= 0) & (at // p.input_dilation[0] < p.input[0])
    slices = np.where(inside, at // p.input_dilation[0], -1)
    itself, places = np.arange(p.output[0])[:, None], [(down[:, None] + along * step).reshape(-1) for step in (stretch, 1)]
    scratch = size + lanes**2 + K * len(taps) * pixel + line_size + sums * wide.phases * levels(len(taps), CHUNK) + lanes**2
    tables = [np.array(values, np.int64) for values in (sizes, source, target, slices, columns, taps, calls, starts, slopes, itself, places)]
    return Blocks(*tables, channels, rows, chain, scratch)  # type: ignore[call-arg, arg-type]


def _tables(
    p: ConvProblem, transposed: bool, high: tuple[int, Axis], wide: tuple[int, Axis, int], rows: int, pitch: int, pixel: int, most: int
) -> tuple[list[int], list[int], list[tuple[int, ...]], list[int], int]:
    """Return columns, taps, calls, starts and the length of the longer chains, as `Blocks` says."""
    (h, vertical), (w, horizontal, parts) = high, wide
    C, K, (T, R, S) = p.in_channels // p.groups, p.out_channels // p.groups, p.filter
    volume, tap_strides = T * R * S, (R * S, S, 1)
    c_stride = K * volume if transposed else volume
    part = rows * pitch
    chain = longest_chain([len(run) for phase in range(vertical.phases) for run in runs(vertical, phase)], most)
    columns: list[int] = []
    taps: list[int] = []
    calls: list[tuple[int, ...]] = []
    starts = [0]
    for phase_h, phase_w in itertools.product(range(vertical.phases), range(horizontal.phases)):
        chains: dict[int, list[tuple[int, list[int]]]] = {chain: [], chain - 1: []}
        for c, t, run, (s, across) in itertools.product(range(C), range(T), runs(vertical, phase_h), horizontal.taps[phase_w]):
            done = 0
            for length in pieces(len(run), chain):
                down = run[done][1]
                split = (((c * T + t) * vertical.step + down % vertical.step) * parts + across % parts) * part
                numbers = [t * tap_strides[0] + r * tap_strides[h] + s * tap_strides[w] for r, _ in run[done : done + length]]
                offsets = [c * c_stride + (volume - 1 - n if p.flipped else n) for n in numbers]
                chains[length].append((split + down // vertical.step * pitch + across // parts * pixel, offsets))
                done += length
        summed = 0
        for length, found in chains.items():
            while found:
                now, found = found[: (room := (CHUNK - summed) // length)], found[room:]
                if now:
                    calls.append((len(columns), len(now), length, len(taps), int(summed > 0), 0))
                    columns += [offset for offset, _ in now]
                    taps += [offset for _, offsets in now for offset in offsets]
                    summed += len(now) * length
                if found:
                    calls[-1] = (*calls[-1][:5], 1)
                    summed = 0
        starts.append(len(calls))
    return columns, taps, calls or [(0,) * 6], starts, chain
