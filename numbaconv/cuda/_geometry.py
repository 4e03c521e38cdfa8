"""The index arithmetic of `gemm` on the host: which taps reach which outputs, as tables of int32 that kernels read.

Outputs of an input dilation u (the stride of a problem whose dgrad is wanted) fall into u/gcd(u, stride) phases on each axis. Within a
phase every output sees the same taps, at input index e·step + delta for the phase's e-th output: an ordinary convolution.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from numbaconv.problem import ConvProblem, Op, Unsupported

Array = np.ndarray[Any, Any]
SLAB = 8  # rows of the contraction that a block holds at a time
LIMIT = 2**31 - 1
NOWHERE = -(2**30)  # an input index that no problem has


class Geometry(NamedTuple):
    """What the kernel takes by value: numbers that stay in the constant bank, where reading them costs nothing."""

    phases: int
    groups: int
    columns: int  # output channels of a group
    padded_columns: int
    vector: int  # whether four neighbouring outputs can be stored at once
    out_size: int
    in_d: int
    in_h: int
    in_w: int
    step_d: int  # of the input index, from one output of a phase to the next
    step_h: int
    step_w: int
    x_n: int  # elements of x from one image, channel, … to the next
    x_c: int
    x_d: int
    x_h: int
    x_w: int
    x_group: int
    y_n: int
    y_k: int
    y_d: int
    y_h: int
    y_w: int
    y_group: int
    out_d: int  # of the output index, from one output of a phase to the next
    out_h: int
    out_w: int
    per_entry: int  # slabs of one entry of the table
    x_slab: int  # elements of x from one slab of a tap to the next
    w_row: int
    has_bias: int = 0
    pieces: int = 1  # of the contraction, each with a copy of y of its own
    chunk: int = LIMIT  # slabs that are added up in one accumulator
    last: int = 1  # whether nothing is added to y afterwards


# A table in memory: PHASE_SIZE numbers for each phase, then the entries, four numbers each: an offset in the input and the input index's
# difference on the three axes. An entry is one tap where the channels of a group fill slabs, else one row of the contraction.
(ROWS, SIZE_D, SIZE_H, SIZE_W, Y_FIRST, FIRST_ENTRY, SLABS, W_FIRST) = range(8)
PHASE_SIZE = 8


@dataclass(frozen=True)
class AxisPhase:
    """The outputs first, first + step, … of one axis and the taps that reach them: (index in w, delta)."""

    first: int
    count: int
    taps: tuple[tuple[int, int], ...]


def axis_phases(p: ConvProblem, axis: int) -> list[AxisPhase]:
    """Return the phases of an axis; taps that meet padding alone are left out."""
    s, u, d, lo = p.stride[axis], p.input_dilation[axis], p.dilation[axis], p.low[axis]
    size, taps, outputs = p.input[axis], p.filter[axis], p.output[axis]
    common = math.gcd(s, u)
    step, advance = u // common, s // common
    phases = []
    for first in range(min(step, outputs)):
        count = -(-(outputs - first) // step)
        reached = []
        for r in range(taps):
            delta, rest = divmod(first * s + r * d - lo, u)
            if rest == 0 and delta < size and delta + (count - 1) * advance >= 0:
                reached.append((taps - 1 - r if p.flipped else r, delta))
        phases.append(AxisPhase(first, count, tuple(reached)))
    return phases


@dataclass(frozen=True)
class Product:
    """An fprop as matrix products: what kernels read, where each row of the packed weights comes from, and the sizes of a launch."""

    geo: Geometry
    table: Array
    weight_rows: Array  # offset in w of each row of the contraction, −1 for a row of zeros; all phases one after the other
    weight_strides: tuple[int, int]  # in w, from one column (output channel) to the next and from group to group
    columns: int
    padded_columns: int
    phases: int
    most_rows: int  # output pixels of the largest phase
    aligned: bool

    @functools.cached_property
    def packing(self) -> tuple[Any, ...]:
        """What packed weights are packed for: which element of w each of them is. Asked for at every call with prepared weights."""
        return self.padded_columns, self.columns, *self.weight_strides, hashlib.sha256(self.weight_rows.tobytes()).digest()


def product(problem: ConvProblem, op: Op, tile: tuple[int, int], pieces: int, slab: int = SLAB, room: int = 0) -> Product:
    """Return the tables of fprop or dgrad for tiles of so many pixels and columns, and slabs of so many rows of the contraction.

    ``room``: the input is read from a copy whose channels are last, each group's with so much room, of which the rest is zeros.
    """
    p = problem.transpose() if op == "dgrad" else problem
    groups, channels, columns = p.groups, p.in_channels // p.groups, p.out_channels // p.groups
    taps_of_w = math.prod(p.filter)
    if op == "dgrad":
        from_column, from_channel = taps_of_w, columns * taps_of_w
    else:
        from_column, from_channel = channels * taps_of_w, taps_of_w
    aligned = channels > 0 and (room or channels) % slab == 0
    padded = -(-columns // tile[1]) * tile[1]
    xn, xc, xd, xh, xw = replace(p, in_channels=groups * room, channels_last=True).strides("x") if room else p.strides("x")
    room = room or channels
    yn, yk, yd, yh, yw = p.strides("y")
    by_axis = [axis_phases(p, axis) for axis in range(3)]
    rows: list[list[int]] = []
    entries: list[tuple[int, int, int, int]] = []
    weight_rows: list[int] = []
    most_rows = 0
    for phase in itertools.product(*by_axis):
        sizes = [a.count for a in phase]
        taps = [((rd * p.filter[1] + rh) * p.filter[2] + rw, dd, dh, dw)
                for (rd, dd), (rh, dh), (rw, dw) in itertools.product(*(a.taps for a in phase))]  # fmt: skip
        if aligned:
            own = [(dd * xd + dh * xh + dw * xw, dd, dh, dw) for _, dd, dh, dw in taps]
            sources = [tap + c * from_channel if c < channels else -1 for tap, *_ in taps for c in range(room)]
        else:
            own = [(dd * xd + dh * xh + dw * xw + c * xc, dd, dh, dw) for _, dd, dh, dw in taps for c in range(channels)]
            sources = [tap + c * from_channel for tap, *_ in taps for c in range(channels)]
            missing = -len(own) % slab
            own += [(0, NOWHERE, NOWHERE, NOWHERE)] * missing
            sources += [-1] * missing
        first = [a.first for a in phase]
        slabs = len(sources) // slab
        most_rows = max(most_rows, p.batch * math.prod(sizes))
        rows.append([p.batch * math.prod(sizes), *sizes, first[0] * yd + first[1] * yh + first[2] * yw, len(entries), slabs, len(weight_rows)])
        entries += own
        weight_rows += sources
    steps = [s // math.gcd(s, u) for s, u in zip(p.stride, p.input_dilation, strict=True)]
    out_steps = [u // math.gcd(s, u) for s, u in zip(p.stride, p.input_dilation, strict=True)]
    values: list[int] = [
        len(rows), groups, columns, padded, int(_vectors(p, columns, out_steps)), math.prod(p.shape("y")), *p.input, *steps,
        xn, xc, xd, xh, xw, room * xc, yn, yk, yd, yh, yw, columns * yk, *out_steps,
        room // slab if aligned else 1, slab * xc, groups * padded,
    ]  # fmt: skip
    geo = Geometry(*values)
    for row in rows:
        row[FIRST_ENTRY] = PHASE_SIZE * len(rows) + 4 * row[FIRST_ENTRY]
        row[W_FIRST] *= groups * padded
    table = np.array([*itertools.chain(*rows), *itertools.chain(*entries)], np.int64)
    biggest = [*geo, int(np.abs(table).max(initial=0)), math.prod(p.shape("x")), p.batch * xn, geo.out_size * pieces,
               len(weight_rows) * groups * padded]  # fmt: skip
    reach = [size * step for size, step in zip(p.output, steps, strict=True)]
    if max(biggest + reach) > LIMIT:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    return Product(
        geo, table.astype(np.int32), np.array(weight_rows, np.int32), (from_column, channels * columns * taps_of_w), columns, padded,
        len(rows), most_rows, aligned,
    )  # fmt: skip


def _vectors(p: ConvProblem, columns: int, out_steps: list[int]) -> bool:
    """Return whether four neighbouring pixels (channels, if those are last) of a tile always lie side by side on a multiple of four."""
    if p.channels_last:
        return columns % 4 == 0
    return out_steps == [1, 1, 1] and math.prod(p.output) % 4 == 0
