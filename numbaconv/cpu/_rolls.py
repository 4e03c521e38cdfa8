"""The quick way of `stencil` where a group has one channel of input: strips of outputs that move down a plane.

For fprop and dgrad of planes (channels first), depthwise layers and images, with filters whose factors all stay in registers,
strides of 1 or 2 and any dilation. A vector of x is loaded once per column of taps and multiplied into all the rows of outputs that it meets,
each row is complete and stored after the last row of x that it needs; nothing is done per tile of outputs. A strided
dgrad is done in one go: rows and columns of its outputs fall into phases, each with some of the taps.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline
from numbaconv.cpu import _emit
from numbaconv.cpu._grid import Reads, reads
from numbaconv.cpu._simd_roll import Roll, roll
from numbaconv.cpu.bias import activate
from numbaconv.problem import ConvProblem

REGISTERS = 32  # of vectors. Of strips two vectors wide all values are kept there, of others a few may not be:
MOST_REGISTERS = 40  # 5×5 with a stride of 2, dgrad, 172 → 92 µs; beside each other, 240 planes of 28² took 130 instead of 125
FEW = 9  # factors of narrow planes, whose rows do not fill a vector; a slab's do (5×5 on 1152 of 7²: 69 µs instead of 93)
LONGEST, WIDEST = 64, 1 << 14  # rows of outputs of a tile; columns of all
ABSENT = -(1 << 40)
Array = np.ndarray[Any, Any]


class Rolls(NamedTuple):
    """How planes are cut into strips, and what the kernel reads."""

    shape: Roll
    kernel: Kernel
    tables: tuple[Array, Array, Array]  # geometry, blocks: see `roll`; the offsets of the filter's taps
    tiles: int


def plan(p: ConvProblem, isa: _emit.Isa, dtype: np.dtype[Any]) -> Rolls | None:
    """Return how fprop is done in strips, None if it can't be or slabs are quicker."""
    if not _possible(p) or isa.masks != "registers":
        return None
    rows, columns, width, count = reads(p, 1), reads(p, 2), isa.width(dtype), p.batch * p.out_channels * p.output[0]
    each = max(part.outputs for part in columns)
    shape, base, groups = _shape(p, rows, columns)
    if each <= width or shape.registers > REGISTERS:
        shape = shape._replace(beside=1)
    high = -(-p.output[1] // (-(-p.output[1] // LONGEST) * len(rows))) * len(rows)
    bands = -(-p.output[1] // high)
    if 2 * each <= width and bands == 1 and count > 1:
        if shape.across == shape.phases == 1 and shape.high * shape.wide > FEW:
            return None
        shape = shape._replace(planes=max(shape.across, shape.phases))
    earliest, latest = -((base + shape.down - 1) // shape.down), (p.input[1] - 1 - base) // shape.down + 1  # steps that read rows of x
    begins, ends = (np.arange(bands) * high // len(rows), -(-np.minimum(p.output[1], (np.arange(bands) + 1) * high) // len(rows)))
    read = np.minimum(ends, latest) - np.maximum(begins - max(shape.lags), earliest)
    if shape.registers > MOST_REGISTERS or earliest > 0 or (read < 1).any():  # rows of padding alone
        return None
    blocks = _blocks(p, shape, groups, each, width)
    taps = np.array([r * p.filter[2] + s for r in _numbers(rows) for s in _numbers(columns)], np.int64)
    geometry = (
        bands, p.output[0], p.out_channels, p.out_channels // p.groups, *p.input[1:], *p.output[1:], base, high, len(taps), earliest, latest,
    )  # fmt: skip
    return Rolls(shape, _kernel(isa, dtype, shape), (np.array(geometry, np.int64), blocks, taps), -(-count // shape.planes) * bands)


def _possible(p: ConvProblem) -> bool:
    (T, R, S), (_, P, Q) = p.filter, p.output
    planes = T == p.stride[0] == p.input_dilation[0] == 1 and p.low[0] == 0 and p.output[0] == p.input[0] and not p.channels_last
    return (
        planes and p.in_channels == p.groups and 0 not in p.gemm_shape("fprop") and 1 < R and R * S < MOST_REGISTERS
        and 1 < P and Q <= WIDEST and max(*p.stride, *p.input_dilation) <= 2
    )  # fmt: skip


def work(found: Rolls, p: ConvProblem, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what is loaded and multiplied (elements of vectors), and what moves between memory and cache."""
    shape, blocks = found.shape, found.tables[1]
    steps = -(-p.output[1] // shape.up) + found.tables[0][0] * max(shape.lags)
    vectors = p.batch * p.out_channels * p.output[0] * len(blocks) * float(steps) * shape.beside * _emit.host().vector_bytes / 4
    return {
        "pass": 1,
        "row": vectors * shape.down * len(shape.groups) * shape.across,
        "term": vectors * sum(len(met) for met in shape.rows) * sum(len(group) for group in shape.groups),
        "move": (math.prod(p.shape("x")) + math.prod(p.shape("y"))) * dtype.itemsize / 4,
    }


def _numbers(parts: list[Reads]) -> list[int]:
    """Return the taps of all phases."""
    return [tap for part in parts for tap, _ in part.taps]


def _shape(p: ConvProblem, rows: list[Reads], columns: list[Reads]) -> tuple[Roll, int, list[int]]:
    """Return the shape, the first row of x that step 0 reads if it completes row 0, and what groups are off in a row of x."""
    (_, down, across), offsets = p.stride, [offset for part in rows for _, offset in part.taps]
    base = max(offsets) - (down - 1)
    met: list[list[tuple[int, int, int]]] = [[] for _ in range(down)]
    lags, number = [], 0
    for e, part in enumerate(rows):
        lag = 0
        for _, offset in part.taps:
            j = (offset - base) % down
            met[j].append((number, e, (base + j - offset) // down))
            lag, number = max(lag, met[j][-1][2]), number + 1
        lags.append(lag)
    groups: dict[int, list[tuple[int, int, int]]] = {}
    numbers = iter(range(p.filter[2]))
    for e, part in enumerate(columns):
        for _, offset in part.taps:
            groups.setdefault(offset // across, []).append((next(numbers), e, offset % across))
    shape = Roll(
        tuple(map(tuple, met)), tuple(lags), tuple(tuple(groups[m]) for m in sorted(groups)), *p.filter[1:], len(columns), across, 2, 1
    )  # fmt: skip
    return shape, base, [m * across for m in sorted(groups)]


def _blocks(p: ConvProblem, shape: Roll, groups: list[int], each: int, width: int) -> Array:
    """Return a row of `roll`'s table per strip; the last one overlaps the one before rather than be partly empty."""
    across, lanes = shape.beside * width, np.arange(width)
    first = np.arange(0, each, across)
    if each >= across:
        first[-1] = each - across
    starts = first[:, None] * shape.across + np.array(groups)

    def there(begin: Array, parts: int, bound: int) -> Array:
        """Return masks of the lanes of a strip's vectors, ``parts`` for one of outputs of a phase, that are elements of a row."""
        at = np.arange(shape.beside * parts * width).reshape(shape.beside, parts, width)
        if shape.planes == 2:
            at = np.where(lanes // (width // 2) == [[0], [1]], lanes % (width // 2), ABSENT) if parts == 1 else np.stack([lanes, lanes])
        at = begin[..., None, None, None] + at.reshape(shape.beside, -1, width)
        return ((at >= 0) & (at < bound)) @ (1 << lanes)

    tables = first * shape.phases, starts, there(starts, shape.across, p.input[2]), there(first * shape.phases, shape.phases, p.output[2])
    return np.concatenate([part.reshape(len(first), -1) for part in tables], 1).astype(np.int64)


@functools.cache
def _kernel(isa: _emit.Isa, dtype: np.dtype[Any], shape: Roll) -> Kernel:
    compute, down, up, before, zero, lowest = (
        roll(isa, dtype, shape),
        shape.down,
        shape.up,
        max(shape.lags),
        dtype.type(0),
        dtype.type(-np.inf),
    )
    pairs = shape.planes == 2

    @inline
    def following(z, k, filter, group, image, Z, K, per_g):  # type: ignore[no-untyped-def]
        # The next plane of outputs: counted on rather than divided, which takes as long as a small plane.
        z += 1
        if z == Z:
            z, k, filter = 0, k + 1, filter + 1
            if filter == per_g:
                filter, group = 0, group + 1
            if k == K:
                k, group, image = 0, 0, image + 1
        return z, k, filter, group, image

    def rolls(first, last, workers, scratch, x, w, y, bias, code, broken, geometry, blocks, taps):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,z,p,q] = Σ_r Σ_s w[k,r,s] · x[n,g,z,p·stride + r·dilation − low,q·stride + s·dilation − low], g = k's group.
        # THE SCHEDULE: a tile is a band of rows of one plane, or of two narrow ones, a strip of it after the other.
        bands, Z, K, per_g, H, W, P, Q = (geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5], geometry[6], geometry[7])
        base, rows, volume, earliest, latest = geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
        least, C, planes = zero if code == 1 else lowest, K // per_g, y.size // (P * Q)
        for worker in prange(workers):
            start, stop = first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers
            plane, top, found = start // bands * (1 + pairs), start % bands * rows, 0
            image, k, z = plane // (Z * K), plane // Z % K, plane % Z
            group, filter = k // per_g, k % per_g
            for _ in range(start, stop):
                at_x, at_y, count, at_k, other = ((image * C + group) * Z + z) * H * W, plane * P * Q + top * Q, min(rows, P - top), k, 0
                next_x = next_k = 0
                if pairs and plane + 1 < planes:
                    z, k, filter, group, image = following(z, k, filter, group, image, Z, K, per_g)
                    next_x, next_k, other = ((image * C + group) * Z + z) * H * W - at_x, k - at_k, 1
                low, high = top // up - before, (top + count + up - 1) // up  # steps, those that read from ``begin`` on
                begin, end = max(low, earliest), min(high, latest)
                for block in range(len(blocks)):
                    found |= compute(x, at_x, W, H, base + begin * down, end - begin, high - end, w, at_k * volume, taps, 0,
                                     blocks, block * blocks.shape[1], y, at_y, Q, begin * up - top, count, bias, at_k, least,
                                     next_x, next_k * volume, other * P * Q, next_k)  # fmt: skip
                if code > 1:
                    activate(y, at_y, count * Q + other * P * Q, code)
                top += rows
                if top >= P:
                    top, plane = 0, plane + 1 + pairs
                    z, k, filter, group, image = following(z, k, filter, group, image, Z, K, per_g)
            if found:
                broken[0] = 1

    return Kernel(rolls, f"-{isa.name}-{dtype.name}-{hashlib.sha256(repr(shape).encode()).hexdigest()[:16]}")
