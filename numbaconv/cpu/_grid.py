"""Where a convolution's input lies in memory once its zeros are around it, so that a tap is an address: place[output] + offset[tap].

A strided convolution reads its input in phases, i mod stride: with each phase in a plane of its own, neighbouring outputs read
neighbouring elements. The fprop of a dilated input (the dgrad of a strided problem) falls into phases of its output, each an
ordinary convolution with some of the taps; no inserted zero is ever multiplied.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu import _isa, _seconds
from numbaconv.problem import ConvProblem

LEFT_OVER = 1.5  # lanes that a column left over takes the time of: a step of it takes longer
MOST_MORE = 3 << 20  # bytes that planes for each column of taps may take more than one for each phase, of what is copied at once
# Groups of planes, and the outputs of one: 144→64 3×1×1 on 16×56² took 14.4 ms with zeros around x, 11.4 without.
MOST_PIECES, LEAST_PLANE = 8, 48
WEIGHTS_SECONDS = 3e-10  # of an element of the weights that is read and packed for a group: 1152→512 on 2×7², 7 MB, 1.6 ms, in two groups 2.2
SLACK = 64  # elements behind a copy that may be read and are never used
Array = np.ndarray[Any, Any]


class Reads(NamedTuple):
    """What some outputs of an axis read: output first + m·every reads the input at m·stride + offset for each (tap, offset)."""

    first: int
    every: int
    outputs: int
    taps: tuple[tuple[int, int], ...]


def reads(p: ConvProblem, axis: int) -> list[Reads]:
    """Return the phases of an axis' outputs (one, unless the input is dilated), from i·u + lo = o·s + r·d."""
    s, d, u, low, taps, outputs = p.stride[axis], p.dilation[axis], p.input_dilation[axis], p.low[axis], p.filter[axis], p.output[axis]
    found = []
    for first in range(min(u, outputs)):
        at = [(r, first * s + r * d - low) for r in range(taps)]
        kept = tuple((p.filter[axis] - 1 - r if p.flipped else r, i // u) for r, i in at if i % u == 0)
        found.append(Reads(first, u, -(-(outputs - first) // u), kept))
    return found


class Axis(NamedTuple):
    """An axis of the copy: element j of a phase's plane is the input's element (low + j)·stride + phase, or a zero."""

    stride: int
    phases: tuple[int, ...]
    low: int
    pitch: int  # elements from one line to the next; the zeros at the end of a line may be those at the start of the next
    size: int
    step: int  # by how much m + 1 is further than m
    apart: bool = False  # the phases are the offsets of the taps themselves, each with a plane of just what its outputs read

    def place(self, offset: int) -> tuple[int, int]:
        """Return where the first of a tap's outputs reads: an element of a line, and the number of the phase."""
        element, phase = (self.low, offset) if self.apart else divmod(offset, self.stride)
        return element - self.low, self.phases.index(phase)


class Grid(NamedTuple):
    """The three axes, and whether the input must be copied to have them."""

    axes: tuple[Axis, Axis, Axis]
    copied: bool

    @property
    def plane(self) -> int:
        """Elements of a channel."""
        return math.prod(len(axis.phases) * axis.pitch for axis in self.axes)

    @property
    def slack(self) -> int:
        """Elements behind the last channel that a read may reach."""
        _, h, w = self.axes
        return (h.size - h.pitch) * w.pitch + w.size - w.pitch + SLACK

    def offsets(self, parts: tuple[Reads, ...]) -> Array:
        """Return the offset of every tap of three axes' reads, in their order."""
        d, h, w = self.axes
        plane = d.pitch * h.pitch * w.pitch
        units = (h.pitch * w.pitch, w.pitch, 1)
        jumps = (len(h.phases) * len(w.phases) * plane, len(w.phases) * plane, plane)
        terms = []
        for part, axis, unit, jump in zip(parts, self.axes, units, jumps, strict=True):
            at = [axis.place(offset) for _, offset in part.taps]
            terms.append(np.array([j * unit + phase * jump for j, phase in at], np.int64))
        return sums(terms)


def sums(terms: list[Array]) -> Array:
    """Return the sum of every combination, the last axis fastest."""
    return sum(np.ix_(*terms)).astype(np.int64).reshape(-1)  # type: ignore[union-attr]


def taps(p: ConvProblem, parts: tuple[Reads, ...]) -> Array:
    """Return the index in the filter of every tap of three axes' reads, in their order."""
    _, R, S = p.filter
    return sums([np.array([tap for tap, _ in part.taps], np.int64) * unit for part, unit in zip(parts, (R * S, S, 1), strict=True)])


def grid(p: ConvProblem, split: bool, pieces: bool = False, itemsize: int = 8) -> tuple[Grid, list[tuple[Reads, ...]]]:
    """Return the grid that p's outputs read, in phases if ``split``, and those outputs in groups that read alike.

    With ``pieces`` planes of outputs that reach into a padding may be groups of their own, so that no zeros are needed. An element of a sample
    takes ``itemsize`` bytes, times as many samples as are copied at once.
    """
    per_axis = [reads(p, axis) for axis in range(3)]
    if split and pieces and (some := _pieces(p, per_axis[0])):
        axes, copied = _axes(p, [some, *per_axis[1:]], split)
        if not copied:
            return Grid(axes, False), list(itertools.product(some, *per_axis[1:]))
    axes, copied = _axes(p, per_axis, split)
    found = Grid(axes, copied)
    if split and copied and len({part.outputs for part in per_axis[2]}) == 1:
        found = _in_line(p, found, per_axis, MOST_MORE // itemsize)
    return found, list(itertools.product(*per_axis))


def _axes(p: ConvProblem, per_axis: list[list[Reads]], split: bool) -> tuple[tuple[Axis, Axis, Axis], bool]:
    """Return the axes that are read, and whether the input must be copied to have them."""
    axes, copied = [], False
    for a, parts in enumerate(per_axis):
        stride = p.stride[a] if split and any(part.outputs > 1 for part in parts) else 1  # one output after the other needs no phases
        step = 1 if split else p.stride[a]
        ends = [(offset // stride, (part.outputs - 1) * step + offset // stride, offset % stride) for part in parts for _, offset in part.taps]
        low, last = min((e[0] for e in ends), default=0), max((e[1] for e in ends), default=0)
        before, behind = max(0, -low), max(0, last - (p.input[a] - 1) // stride)
        spread = max(((part.outputs - 1) * step for part in parts), default=0)  # of the outputs, which must stay apart
        size = max(last - low, spread) + 1
        copied |= stride > 1 or before + behind > 0 or spread >= p.input[a]
        shared = min(before, behind, size - 1 - spread) if stride == 1 and a > 0 else 0
        axes.append(Axis(stride, tuple(sorted({e[2] for e in ends})) or (0,), low, size - shared, size, step))
    if not copied:  # the input itself, all of it
        axes = [Axis(1, (0,), 0, p.input[a], p.input[a], axis.step) for a, axis in enumerate(axes)]
    return tuple(axes), copied  # type: ignore[return-value]


def _pieces(p: ConvProblem, parts: list[Reads]) -> list[Reads]:
    """Return the planes of outputs in groups, each with the taps that reach the input; nothing if that does not pay.

    Planes that are not all read, by a stride, are groups of their own. Each group packs the weights of its taps.
    """
    Z, D, step, taps = p.output[0], p.input[0], p.stride[0], parts[0].taps
    if p.input_dilation != (1, 1, 1) or len(taps) == 1 or math.prod(p.output[1:]) < LEAST_PLANE or (step > 1 and Z > MOST_PIECES):
        return []
    cuts = {0, Z} if step == 1 else set(range(Z + 1))
    for _, offset in taps:  # reaches the input from one plane to another
        cuts |= {min(Z, max(0, -(offset // step))), min(Z, max(0, (D - 1 - offset) // step + 1))}
    starts = sorted(cuts)
    found = [Reads(z, 1, end - z, tuple((tap, z * step + at) for tap, at in taps if 0 <= z * step + at < D)) for z, end in itertools.pairwise(starts)]
    if len(found) > MOST_PIECES:
        return []
    zeros = sum(part.outputs * (len(taps) - len(part.taps)) for part in found)
    seconds, (_, P, Q), weights = _seconds.of("gemm"), p.output, math.prod(p.shape("w"))
    saved = seconds["fma"] * zeros * P * Q * weights / len(taps) + seconds["copy"] * p.in_channels * math.prod(p.input)
    return found if saved > WEIGHTS_SECONDS * len(found) * weights else []


def patches(p: ConvProblem) -> Grid:
    """Return the grid with a plane for each tap of a channel, of just what its outputs read; the input is not dilated."""
    axes = [
        Axis(p.stride[axis], tuple(offset for _, offset in reads(p, axis)[0].taps), 0, p.output[axis], p.output[axis], 1, True) for axis in range(3)
    ]
    return Grid(tuple(axes), True)  # type: ignore[arg-type]


def _in_line(p: ConvProblem, g: Grid, per_axis: list[list[Reads]], most: int) -> Grid:
    """Return the grid with a plane for each column of taps if that pays and takes at most so many elements more.

    What the outputs of a plane (z) read is then in one line: there are no elements between the outputs' lines that are multiplied, too.
    """
    _, h, w = g.axes
    z, y, q = (parts[0].outputs for parts in per_axis)
    phases = sorted({offset for part in per_axis[2] for _, offset in part.taps})
    narrow = Grid((*g.axes[:2], Axis(w.stride, tuple(phases) or (0,), 0, q, q, 1, True)), True)
    lines, lanes = (z - 1) * h.pitch + y - 1, _isa.host().width(np.dtype(np.float32))
    now, then = (_filled_lanes(lines * pitch + q, lanes) for pitch in (w.pitch, q))
    now = min(now, z * y * -(-q // lanes) * lanes)
    more = p.in_channels * (narrow.plane - g.plane)  # of a sample, as what is saved
    saved = p.macs / max(1, p.batch) / math.prod(p.input_dilation) * (now - then) / (z * y * q)
    return narrow if more <= most and _pays(saved, more) else g


def _filled_lanes(outputs: int, lanes: int) -> float:
    """Return the lanes that outputs side by side take: whole vectors, or what columns left over are worth."""
    left = outputs % lanes
    return outputs - left + (LEFT_OVER * left if left <= lanes // 2 else lanes)


def _pays(saved: float, more: int) -> bool:
    """Return whether so many multiply-adds of lanes are worth copying so many more elements."""
    seconds = _seconds.of("gemm")
    return saved * seconds["fma"] > more * seconds["copy"]


def reads_zeros(p: ConvProblem) -> bool:
    """Return whether zeros around or between the input's elements are part of any sum."""
    return p.input_dilation != (1, 1, 1) or any(low > 0 for low in p.low) or any(high > 0 for high in p.high)
