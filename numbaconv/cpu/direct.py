"""Direct convolution: the sum as it is written, for every problem and dtype.

dgrad is the fprop kernel on the transposed problem. Sums longer than CHUNK terms are cut into chunks that are added pairwise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _parallel, _seconds
from numbaconv.cpu._sum import add_pairwise, carry, levels, total
from numbaconv.cpu.bias import CODES, store_row
from numbaconv.problem import ConvProblem, Op, Options

KB = 4  # output channels of a tile: each loaded input feeds four sums
QB = 256  # outputs of a row in a tile: KB·QB accumulators stay in L1
SB = 16  # taps of a row in a wgrad tile
CHUNK = 128  # terms summed in one accumulator: all-positive data then stays within 8 eps (tests/test_numerics.py)
SEGMENT = 4096  # outputs of a row in one unit of wgrad's work
SPLITS = 32  # pieces of wgrad's sum when there are too few outputs to share

SECONDS = _seconds.of("direct")  # for one of each that `work` counts
Array = np.ndarray[Any, Any]


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time: inner loops and the elements in them, by their size in float32's, for KB channels at once or one."""
    p = problem.transpose() if op == "dgrad" else problem
    channels = p.out_channels // p.groups
    row = -(-p.output[2] // p.input_dilation[2])
    elements = p.macs // max(1, channels) / p.input_dilation[0] / p.input_dilation[1] / p.input_dilation[2]
    block = min(row, CHUNK if op == "wgrad" else max(1, QB // p.input_dilation[2]))
    loops = elements / max(1, block)
    fours, ones = divmod(channels, KB)
    size = dtype.itemsize / 4 * (2 if dtype.kind == "c" else 1)
    strided = p.stride[2] != 1 or p.input_dilation[2] != 1 or p.channels_last
    if op == "wgrad":
        return {
            "call": 1,
            "dots": loops * fours,
            "dot": loops * ones,
            "strided dots" if strided else "four dots": elements * (fours + ones / 2) * size,
        }
    return {
        "call": 1,
        "loop": loops * (fours + ones),
        "strided" if strided else "four": elements * fours * size,
        "strided one" if strided else "one": elements * ones * size,
        "store": math.prod(p.shape("y")) * size,
    }


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core."""
    return sum(SECONDS[name] * count for name, count in work(problem, op, dtype).items())


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: one tile of partial sums per thread, and wgrad's pieces."""
    tile = _scratch(problem, op) * dtype.itemsize * _parallel.get_num_threads()
    return tile + (_splits(problem) * math.prod(problem.shape("w")) * dtype.itemsize if op == "wgrad" else 0)


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    geometry, tables, elements, seconds = _derived(problem, op, out.dtype)
    scratch = (elements, out.dtype)
    if op == "wgrad":
        tiles, splits = int(geometry[0]), int(geometry[1])
        pieces = np.empty((splits, out.size), out.dtype)
        _parallel.run(_wgrad, tiles, scratch, (a.reshape(-1), b.reshape(-1), pieces, geometry, *tables), seconds)
        out.reshape(-1)[:] = add_pairwise(pieces)
        return
    bias = np.empty(0, out.dtype) if options.bias is None else options.bias
    arguments = (a.reshape(-1), b.reshape(-1), out.reshape(-1), bias, CODES[options.activation], geometry, *tables)
    _parallel.run(_fprop, int(geometry[0]), scratch, arguments, seconds)


@inline
def _input_of(axes, axis, o, r):  # type: ignore[no-untyped-def]
    """Return i with i·u + lo = o·s + r·d, or −1 if there is none."""
    at = o * axes[axis, 0] + r * axes[axis, 1] - axes[axis, 2]
    dilation = axes[axis, 3]
    i = at if dilation == 1 else at // dilation
    return i if i >= 0 and i < axes[axis, 4] and i * dilation == at else -1


@inline
def _row_of_four(acc, at, step, x, xi, xstep, n, w0, w1, w2, w3):  # type: ignore[no-untyped-def]
    one, two, three = unsigned(QB), unsigned(2 * QB), unsigned(3 * QB)
    if step == 1 and xstep == 1:
        for m in range(n):
            q, value = unsigned(at + m), x[unsigned(xi + m)]
            acc[q] += w0 * value
            acc[q + one] += w1 * value
            acc[q + two] += w2 * value
            acc[q + three] += w3 * value
    else:
        for m in range(n):
            q, value = unsigned(at + m * step), x[unsigned(xi + m * xstep)]
            acc[q] += w0 * value
            acc[q + one] += w1 * value
            acc[q + two] += w2 * value
            acc[q + three] += w3 * value


@inline
def _row_of_one(acc, at, step, x, xi, xstep, n, w):  # type: ignore[no-untyped-def]
    if step == 1 and xstep == 1:
        for m in range(n):
            acc[unsigned(at + m)] += w * x[unsigned(xi + m)]
    else:
        for m in range(n):
            acc[unsigned(at + m * step)] += w * x[unsigned(xi + m * xstep)]


@Kernel
def _fprop(first, last, workers, scratch, x, w, y, bias, code, geometry, axes, row_q, row_i, row_n):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: y[n,k,z,p,q] = Σ_c Σ_t Σ_r Σ_s w[k,c,t,r,s] · x[n,c,i(z,t),i(p,r),i(q,s)], taps that leave x skipped.
    # THE SCHEDULE: a tile is KB channels × QB outputs of one row, its accumulators in L1; for each (c,t,r,s) the part of the
    # input row that meets it is added KB times. row_q, row_i and row_n hold the first output, the first input and the count
    # for each s.
    groups, per_k, per_c, k_blocks, q_blocks = geometry[2], geometry[3], geometry[4], geometry[5], geometry[6]
    Z, P, Q, T, R, S = geometry[7], geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
    q_step, i_step, reverse, wk, wc = geometry[13], geometry[14], geometry[15], geometry[16], geometry[17]
    xn, xc, xd, xh, xw = geometry[18], geometry[19], geometry[20], geometry[21], geometry[22]
    yn, yk, yd, yh, yw = geometry[23], geometry[24], geometry[25], geometry[26], geometry[27]
    for worker in prange(workers):
        acc = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            rest, q0 = tile // q_blocks, tile % q_blocks * QB
            rest, p = rest // P, rest % P
            rest, z = rest // Z, rest % Z
            rest, k0 = rest // k_blocks, rest % k_blocks * KB
            n, group = rest // groups, rest % groups
            width, channels = min(QB, Q - q0), min(KB, per_k - k0)
            size = channels * QB
            terms, chunks = 0, 0
            acc[:size] = 0
            for c in range(per_c):
                at_w = (group * per_k * per_c) * T * R * S + k0 * wk + c * wc
                for t in range(T):
                    for r in range(R):
                        d, h = _input_of(axes, 0, z, t), _input_of(axes, 1, p, r)
                        if d < 0 or h < 0:
                            continue
                        at_x = n * xn + (group * per_c + c) * xc + d * xd + h * xh
                        for s in range(S):
                            start = max(0, -((row_q[s] - q0) // q_step))
                            stop = min(row_n[s], -((row_q[s] - q0 - width) // q_step))
                            if start >= stop:
                                continue
                            tap = (t * R + r) * S + s
                            wi = at_w + (T * R * S - 1 - tap if reverse else tap)
                            at, xi = row_q[s] + start * q_step - q0, at_x + (row_i[s] + start * i_step) * xw
                            if channels == KB:
                                _row_of_four(acc, at, q_step, x, xi, i_step * xw, stop - start, w[wi], w[wi + wk], w[wi + 2 * wk], w[wi + 3 * wk])
                            else:
                                for j in range(channels):
                                    _row_of_one(acc, j * QB + at, q_step, x, xi, i_step * xw, stop - start, w[wi + j * wk])
                            terms += 1
                            if terms == CHUNK:
                                carry(acc, size, KB * QB, chunks)
                                terms, chunks = 0, chunks + 1
            total(acc, size, KB * QB, chunks)
            for j in range(channels):
                k = group * per_k + k0 + j
                store_row(y, n * yn + k * yk + z * yd + p * yh + q0 * yw, yw, width, acc, j * QB, bias, k, code)


@inline
def _dot_of_four(sums, at, x, xi, xs, dy, di, ds, k, n):  # type: ignore[no-untyped-def]
    s0 = s1 = s2 = s3 = sums.dtype.type(0)
    if xs == 1 and ds == 1:
        for m in range(n):
            value, d = x[unsigned(xi + m)], di + m
            s0 += value * dy[unsigned(d)]
            s1 += value * dy[unsigned(d + k)]
            s2 += value * dy[unsigned(d + 2 * k)]
            s3 += value * dy[unsigned(d + 3 * k)]
    else:
        for m in range(n):
            value, d = x[unsigned(xi + m * xs)], di + m * ds
            s0 += value * dy[unsigned(d)]
            s1 += value * dy[unsigned(d + k)]
            s2 += value * dy[unsigned(d + 2 * k)]
            s3 += value * dy[unsigned(d + 3 * k)]
    sums[at] += s0
    sums[at + SB] += s1
    sums[at + 2 * SB] += s2
    sums[at + 3 * SB] += s3


@inline
def _dot_of_one(sums, at, x, xi, xs, dy, di, ds, n):  # type: ignore[no-untyped-def]
    dot = sums.dtype.type(0)
    if xs == 1 and ds == 1:
        for m in range(n):
            dot += x[unsigned(xi + m)] * dy[unsigned(di + m)]
    else:
        for m in range(n):
            dot += x[unsigned(xi + m * xs)] * dy[unsigned(di + m * ds)]
    sums[at] += dot


@Kernel
def _wgrad(first, last, workers, scratch, dy, x, pieces, geometry, axes, row_q, row_i, row_n):  # type: ignore[no-untyped-def]
    # THE ALGORITHM: dw[k,c,t,r,s] = Σ_n Σ_z Σ_p Σ_q dy[n,k,z,p,q] · x[n,c,i(z,t),i(p,r),i(q,s)].
    # THE SCHEDULE: a tile is KB filters × SB neighbouring taps of one (c,t,r) over one piece of the (n,z,p,q-segment) units;
    # each row of x is multiplied with KB rows of dy, CHUNK outputs at a time. The pieces are added up afterwards.
    splits, groups, per_k, per_c, k_blocks = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
    segments, s_blocks, N = geometry[6], geometry[28], geometry[29]
    Z, P, Q, T, R, S = geometry[7], geometry[8], geometry[9], geometry[10], geometry[11], geometry[12]
    q_step, i_step, reverse = geometry[13], geometry[14], geometry[15]
    xn, xc, xd, xh, xw = geometry[18], geometry[19], geometry[20], geometry[21], geometry[22]
    yn, yk, yd, yh, yw = geometry[23], geometry[24], geometry[25], geometry[26], geometry[27]
    units = N * Z * P * segments
    for worker in prange(workers):
        sums = scratch[worker]
        for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
            rest, s0 = tile // s_blocks, tile % s_blocks * SB
            rest, r = rest // R, rest % R
            rest, t = rest // T, rest % T
            rest, c = rest // per_c, rest % per_c
            rest, k0 = rest // k_blocks, rest % k_blocks * KB
            piece, group = rest // groups, rest % groups
            taps, filters = min(SB, S - s0), min(KB, per_k - k0)
            sums[: KB * SB] = 0
            terms, chunks = 0, 0
            for unit in range(units * piece // splits, units * (piece + 1) // splits):
                row, segment = unit // segments, unit % segments
                n, z, p = row // P // Z, row // P % Z, row % P
                d, h = _input_of(axes, 0, z, t), _input_of(axes, 1, p, r)
                if d < 0 or h < 0:
                    continue
                at_x = n * xn + (group * per_c + c) * xc + d * xd + h * xh
                at_y = n * yn + (group * per_k + k0) * yk + z * yd + p * yh
                for q0 in range(segment * SEGMENT, min(Q, (segment + 1) * SEGMENT), CHUNK):
                    q1 = min(Q, q0 + CHUNK)
                    for j in range(taps):
                        s = s0 + j
                        start = max(0, -((row_q[s] - q0) // q_step))
                        count = min(row_n[s], -((row_q[s] - q1) // q_step)) - start
                        if count <= 0:
                            continue
                        xi, di = at_x + (row_i[s] + start * i_step) * xw, at_y + (row_q[s] + start * q_step) * yw
                        if filters == KB:
                            _dot_of_four(sums, j, x, xi, i_step * xw, dy, di, q_step * yw, yk, count)
                        else:
                            for f in range(filters):
                                _dot_of_one(sums, f * SB + j, x, xi, i_step * xw, dy, di + f * yk, q_step * yw, count)
                    terms += q1 - q0
                    if terms >= CHUNK:
                        carry(sums, KB * SB, KB * SB, chunks)
                        terms, chunks = 0, chunks + 1
            total(sums, KB * SB, KB * SB, chunks)
            for f in range(filters):
                at_w = ((group * per_k + k0 + f) * per_c + c) * T * R * S
                for j in range(taps):
                    tap = (t * R + r) * S + s0 + j
                    pieces[piece, at_w + (T * R * S - 1 - tap if reverse else tap)] = sums[f * SB + j]


def _scratch(problem: ConvProblem, op: Op) -> int:
    """Elements that a thread needs: a tile of sums for each level of the pairwise sum."""
    return KB * (SB if op == "wgrad" else QB) * levels(problem.gemm_shape(op)[2], CHUNK)


def _derived(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Array, tuple[Array, ...], int, float]:
    """Return the geometry as the kernels unpack it, the tables of the last axis, the scratch and the cost; worked out once per problem."""
    key = ("direct", op, dtype)
    if key not in problem.derived:
        problem.derived[key] = (*_derive(problem, op), _scratch(problem, op), cost(problem, op, dtype))
    return problem.derived[key]


def _derive(problem: ConvProblem, op: Op) -> tuple[Array, tuple[Array, ...]]:
    p = problem.transpose() if op == "dgrad" else problem
    per_k, per_c = p.out_channels // p.groups, p.in_channels // p.groups
    taps = math.prod(p.filter)
    wk, wc = (taps, per_k * taps) if op == "dgrad" else (per_c * taps, taps)
    k_blocks = -(-per_k // KB)
    q_step, i_step = _steps(p.stride[2], p.input_dilation[2])
    if op == "wgrad":
        blocks, splits, s_blocks = -(-p.output[2] // SEGMENT), _splits(p), -(-p.filter[2] // SB)
        tiles = splits * p.groups * k_blocks * per_c * p.filter[0] * p.filter[1] * s_blocks
    else:
        blocks, splits, s_blocks = -(-p.output[2] // QB), 1, 0
        tiles = p.batch * p.groups * k_blocks * p.output[0] * p.output[1] * blocks
    values = [
        tiles, splits, p.groups, per_k, per_c, k_blocks, blocks, *p.output, *p.filter, q_step, i_step, int(p.flipped), wk, wc,
        *p.strides("x"), *p.strides("y"), s_blocks, p.batch,
    ]  # fmt: skip
    axes = np.array([(p.stride[a], p.dilation[a], p.low[a], p.input_dilation[a], p.input[a]) for a in (0, 1)], np.int64)
    starts = [_row_start(p, tap, q_step) for tap in range(p.filter[2])]
    columns = [np.array([start[c] for start in starts], np.int64) for c in range(3)]
    return np.array(values, np.int64), (axes, *columns)


def _steps(stride: int, input_dilation: int) -> tuple[int, int]:
    """Return by how much o and i advance from one pair of a tap to the next."""
    common = int(np.gcd(stride, input_dilation))
    return input_dilation // common, stride // common


def _row_start(p: ConvProblem, tap: int, q_step: int) -> tuple[int, int, int]:
    """Return the first o of a tap on the last axis, its i, and how many pairs follow at constant steps."""
    s, u, size, outputs = p.stride[2], p.input_dilation[2], p.input[2], p.output[2]
    offset = tap * p.dilation[2] - p.low[2]
    low = max(0, -(offset // s))  # the first o with o·s + offset ≥ 0
    for o in range(low, min(low + q_step, outputs)):
        if (o * s + offset) % u == 0:
            last = min(outputs - 1, ((size - 1) * u - offset) // s)
            return o, (o * s + offset) // u, max(0, (last - o) // q_step + 1)
    return 0, 0, 0


def _splits(p: ConvProblem) -> int:
    """Return into how many pieces wgrad's sum is cut: as many as keep SPLITS tiles busy, whoever computes them."""
    outputs = p.groups * -(-p.out_channels // p.groups // KB) * (p.in_channels // p.groups) * p.filter[0] * p.filter[1] * -(-p.filter[2] // SB)
    units = p.batch * p.output[0] * p.output[1] * -(-p.output[2] // SEGMENT)
    return max(1, min(units, -(-SPLITS // max(1, outputs))))
