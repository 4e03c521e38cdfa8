"""The index arithmetic of `stencil` on the host: a problem as plain convolutions along each axis, and which kernel suits them.

Outputs of an input dilation u fall into phases (see `_geometry`). Within a phase the taps that reach an output are an arithmetic series, in
the filter as in the input: a convolution with a stride, a dilation and a padding, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numbaconv.cuda._geometry import axis_phases
from numbaconv.problem import ConvProblem

CHUNK = 512  # terms of one accumulator: all-positive sums stay within 8 eps
FILTERS = (3, 5, 7)  # sizes that have kernels of their own


@dataclass(frozen=True)
class Axis:
    """Outputs first, first + step, … (``count`` of them) of an axis: output e reads input delta + e·stride + r·dilation at its tap r.

    Tap r is number w_first + r·w_step of the filter.
    """

    first: int
    step: int
    count: int
    taps: int
    w_first: int
    w_step: int
    delta: int
    stride: int
    dilation: int

    def reach(self, outputs: int) -> int:
        """Return how many neighbouring inputs so many neighbouring outputs read."""
        return (outputs - 1) * self.stride + (max(self.taps, 1) - 1) * self.dilation + 1


def axes(p: ConvProblem, axis: int) -> list[Axis]:
    """Return one for each phase of an axis."""
    common = math.gcd(p.stride[axis], p.input_dilation[axis])
    found = []
    for phase in axis_phases(p, axis):
        taps = phase.taps or ((0, 0),)
        (w_first, delta), (w_second, second) = taps[0], taps[1] if len(taps) > 1 else (taps[0][0], taps[0][1] + 1)
        stride = p.stride[axis] // common if phase.count > 1 else 1
        step = p.input_dilation[axis] // common
        found.append(Axis(phase.first, step, phase.count, len(phase.taps), w_first, w_second - w_first, delta, stride, second - delta))
    return found


def union(phases: list[Axis]) -> Axis:
    """Return an axis whose taps are all inputs that some phase reads."""
    reached = [(a.delta, a.delta + (a.taps - 1) * a.dilation) for a in phases if a.taps] or [(0, 0)]
    low, high = min(first for first, _ in reached), max(last for _, last in reached)
    count, stride = max(a.count for a in phases), max(a.stride for a in phases)
    return Axis(0, phases[0].step, count, high - low + 1, 0, 0, low, stride, 1)


@dataclass(frozen=True)
class Kind:
    """Which kernel: for a filter of ``height`` × ``width`` taps that are unrolled, or of any size in loops (both 0).

    ``line``: there is one row of outputs, and the rows of a thread's tile are pieces of it. ``runs``: taps in loops are neighbours in the
    input, eight are taken at once. ``long``: sums need more than one accumulator. ``phased``: all phases are in one pass.
    """

    height: int
    width: int
    down: int
    across: int
    line: bool
    runs: bool = False
    long: bool = False
    phased: bool = False


def kind_of(rows: Axis, columns: Axis, channels: int) -> Kind:
    """Choose the kernel of a pass."""
    line = rows.count == 1 and rows.taps <= 1
    size, steps = (rows.taps, columns.taps), (rows.stride, columns.stride)
    plain = rows.dilation == columns.dilation == 1 and steps in ((1, 1), (2, 2), (1, 2))
    if plain and size[1] in FILTERS and (size[0] == 1 if line else size[0] == size[1] and steps[0] == steps[1]):
        return Kind(*size, *steps, line)
    runs = columns.stride == columns.dilation == 1 and columns.taps >= 8
    return Kind(0, 0, 1, 1, line, runs, rows.taps * columns.taps * channels > CHUNK)
