"""The direct sum on a GPU: every operation, dtype and geometry, however large; a thread computes one output.

fprop, dgrad and wgrad are one kernel. On each axis an output at ``o`` sums over ``v``, reading the image at (o·of_out + v·of_sum − low) / u:
for fprop o is an output and v a tap, for wgrad they change places; flipped taps count down from the end. All indices are int64.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device, empty
from numbaconv.cuda._store import PER_BLOCK, THREADS, activation, finish, held
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

CHUNK = 128  # terms of one accumulator, accumulators of the next: all-positive sums stay within 8 eps up to 128⁴ terms
FILLED = 1 << 16  # threads that occupy a large GPU. A constant, so that results don't depend on the GPU
MOST_PIECES = 128  # of a sum whose outputs are too few threads
LEAST_ROWS = 16  # of a piece
MENDERS = 1056  # blocks that look for outputs to mend: eight for each of 132 multiprocessors
# Measured on an H100 for float32 (benchmarks/gpu_check.py), the others in proportion to their instructions.
RATE = {"f": 0.4e12, "c": 0.1e12, "i": 0.25e12, "u": 0.25e12}  # products of 4 bytes a second, by kind
BANDWIDTH = 2e12  # bytes a second
LAUNCH = 4e-6  # seconds


class Geometry(NamedTuple):
    """What the kernel takes by value. An output has coordinates a, group, b and three places; a sum three places and m."""

    outputs: int
    size_a: int
    groups: int
    size_b: int
    out_0: int
    out_1: int
    out_2: int
    rows: int  # of the sum: all places v
    sum_1: int
    sum_2: int
    size_m: int
    of_out_0: int  # of the image's numerator, from one output to the next
    of_out_1: int
    of_out_2: int
    of_sum_0: int
    of_sum_1: int
    of_sum_2: int
    low_0: int
    low_1: int
    low_2: int
    u_0: int
    u_1: int
    u_2: int
    in_0: int
    in_1: int
    in_2: int
    x_a: int  # elements of the image from one a to the next
    x_group: int
    x_m: int
    x_0: int
    x_1: int
    x_2: int
    w_group: int  # of the other operand
    w_b: int
    w_m: int
    w_0: int
    w_1: int
    w_2: int
    y_a: int  # of the output
    y_group: int
    y_b: int
    y_0: int
    y_1: int
    y_2: int
    last: int  # whether channels are the fastest axis of the outputs
    has_bias: int = 0
    pieces: int = 1


def geometry(problem: ConvProblem, op: Op) -> Geometry:
    """Return what the kernel reads, by value."""
    p = problem.transpose() if op == "dgrad" else problem
    channels, filters, taps = p.in_channels // p.groups, p.out_channels // p.groups, math.prod(p.filter)
    dilation = [-d if p.flipped else d for d in p.dilation]
    low = tuple(lo - (r - 1) * d * p.flipped for lo, r, d in zip(p.low, p.filter, p.dilation, strict=True))
    xn, xc, *x = p.strides("x")
    yn, yk, *y = p.strides("y")
    w_k, w_c = (taps, filters * taps) if op == "dgrad" else (channels * taps, taps)
    w_group, w = channels * filters * taps, (p.filter[1] * p.filter[2], p.filter[2], 1)
    if op == "wgrad":
        outputs = p.groups * w_group
        out, over, factors = p.filter, p.output, (*dilation, *p.stride)
        sizes, size_m, image = (channels, p.groups, filters), p.batch, (xc, channels * xc, xn)
        operands, last = (filters * yk, yk, yn, *y, w_c, w_group, w_k, *w), 0
    else:
        outputs = math.prod(p.shape("y"))
        out, over, factors = p.output, p.filter, (*p.stride, *dilation)
        sizes, size_m, image = (p.batch, p.groups, filters), channels, (xn, channels * xc, xc)
        operands, last = (w_group, w_k, w_c, *w, yn, filters * yk, yk, *y), int(p.channels_last)
    values = (outputs, *sizes, *out, math.prod(over), *over[1:], size_m, *factors, *low, *p.input_dilation, *p.input, *image, *x, *operands, last)
    return Geometry._make((*values, 0, 1))


def _pieces(geo: Geometry) -> int:
    """Return into how many pieces sums are cut because there are too few outputs to occupy the GPU."""
    return max(1, min(FILLED // max(1, geo.outputs), geo.rows // LEAST_ROWS, MOST_PIECES))


@device
def place(numerator, u, size):  # type: ignore[no-untyped-def]
    """Return the input index of a numerator, or −1 where there is none."""
    if u != 1:
        index = numerator // u
        if index * u != numerator:
            return -1
        numerator = index
    return numerator if 0 <= numerator < size else -1


@device
def outputs_place(at, geo):  # type: ignore[no-untyped-def]
    """Return a, group, b and the three places of an output, channels fastest if they are last."""
    if geo.last:
        at, b = at // geo.size_b, at % geo.size_b
        at, group = at // geo.groups, at % geo.groups
    rest, o2 = at // geo.out_2, at % geo.out_2
    rest, o1 = rest // geo.out_1, rest % geo.out_1
    rest, o0 = rest // geo.out_0, rest % geo.out_0
    if not geo.last:
        rest, b = rest // geo.size_b, rest % geo.size_b
        rest, group = rest // geo.groups, rest % geo.groups
    return rest, group, b, o0, o1, o2


@functools.cache
def _sum(dtype: np.dtype[Any]) -> Any:
    """Return the function that adds a sum's rows from ``row`` up to ``stop``; CHUNK terms make a sum, CHUNK of those the next, and so on."""
    zero = dtype.type(0)

    def sum_of_rows(x, w, geo, a, group, b, o0, o1, o2, row, stop):  # type: ignore[no-untyped-def]
        rest, v2 = row // geo.sum_2, row % geo.sum_2
        v0, v1 = rest // geo.sum_1, rest % geo.sum_1
        first1, first2 = o1 * geo.of_out_1 - geo.low_1, o2 * geo.of_out_2 - geo.low_2
        from0 = o0 * geo.of_out_0 - geo.low_0 + v0 * geo.of_sum_0
        from1, from2 = first1 + v1 * geo.of_sum_1, first2 + v2 * geo.of_sum_2
        image, other = a * geo.x_a + group * geo.x_group, group * geo.w_group + b * geo.w_b
        s0 = s1 = s2 = s3 = zero
        terms = 0
        while row < stop:
            i0, i1, i2 = place(from0, geo.u_0, geo.in_0), place(from1, geo.u_1, geo.in_1), place(from2, geo.u_2, geo.in_2)
            if i0 >= 0 and i1 >= 0 and i2 >= 0:
                x_at = image + i0 * geo.x_0 + i1 * geo.x_1 + i2 * geo.x_2
                w_at = other + v0 * geo.w_0 + v1 * geo.w_1 + v2 * geo.w_2
                for _ in range(geo.size_m):
                    s0 = s0 + x[x_at] * w[w_at]
                    x_at, w_at, terms = x_at + geo.x_m, w_at + geo.w_m, terms + 1
                    if terms % CHUNK == 0:
                        s1, s0 = s1 + s0, zero
                        if terms % (CHUNK * CHUNK) == 0:
                            s2, s1 = s2 + s1, zero
                            if terms % (CHUNK * CHUNK * CHUNK) == 0:
                                s3, s2 = s3 + s2, zero
            row, v2, from2 = row + 1, v2 + 1, from2 + geo.of_sum_2
            if v2 == geo.sum_2:
                v2, from2, v1, from1 = 0, first2, v1 + 1, from1 + geo.of_sum_1
                if v1 == geo.sum_1:
                    v1, from1, v0, from0 = 0, first1, v0 + 1, from0 + geo.of_sum_0
        return s3 + (s2 + (s1 + s0))

    return device(sum_of_rows)


@device
def address_of(geo, a, group, b, o0, o1, o2):  # type: ignore[no-untyped-def]
    """Return where an output is."""
    return a * geo.y_a + group * geo.y_group + b * geo.y_b + o0 * geo.y_0 + o1 * geo.y_1 + o2 * geo.y_2


@functools.cache
def _kernel(dtype: np.dtype[Any], name: str | None) -> Kernel:
    activate, hold, sum_of = activation(name, dtype), held(dtype), _sum(dtype)

    def direct_sum(x, w, y, bias, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[a, group, b, o] = Σ_v Σ_m x[a, group, m, (o·of_out + v·of_sum − low) / u] · w[group, b, m, v].
        # THE SCHEDULE: a thread owns one output, or a piece of its sum.
        at = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if at >= geo.outputs:
            return
        a, group, b, o0, o1, o2 = outputs_place(at, geo)
        row, stop = geo.rows * cuda.blockIdx.y // geo.pieces, geo.rows * (cuda.blockIdx.y + 1) // geo.pieces
        total = sum_of(x, w, geo, a, group, b, o0, o1, o2, row, stop)
        if geo.has_bias:
            total = total + bias[group * geo.size_b + b]
        y[cuda.blockIdx.y * geo.outputs + address_of(geo, a, group, b, o0, o1, o2)] = activate(hold(total))

    return Kernel(direct_sum, (dtype,) * 4, Geometry, THREADS, wide=True)


class Tiling(NamedTuple):
    """Which flag an output belongs to: of tiles of its last axis, one for each pair of them (or for each) and channel."""

    valid: int  # inputs of a tile; 0: there is one flag for all
    tiles: int
    together: int
    pairs: int


Mending = collections.namedtuple("Mending", Geometry._fields + Tiling._fields)  # type: ignore[misc]


@functools.cache
def _mender(dtype: np.dtype[Any], name: str | None) -> Kernel:
    activate, sum_of = activation(name, dtype), _sum(dtype)

    def mend_outputs(x, w, y, bias, flags, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: that of direct_sum, of those outputs whose flag is raised; flags[0] says whether any is.
        # THE SCHEDULE: a thread owns every so-many-th output, and mostly reads flags[0] and ends.
        if flags[0] == 0:
            return
        at = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        while at < geo.outputs:
            a, group, b, o0, o1, o2 = outputs_place(at, geo)
            channel, raised = group * geo.size_b + b, True
            if geo.valid:
                member = a * geo.tiles + o2 * geo.of_out_2 // geo.valid
                raised = flags[1 + channel * geo.pairs + member // geo.together] != 0
            if raised:
                total = sum_of(x, w, geo, a, group, b, o0, o1, o2, 0, geo.rows)
                if geo.has_bias:
                    total = total + bias[channel]
                y[address_of(geo, a, group, b, o0, o1, o2)] = activate(total)
            at += cuda.gridDim.x * THREADS

    return Kernel(mend_outputs, (dtype, dtype, dtype, dtype, np.int32), Mending, THREADS, wide=True)


def mend(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options, flags: Any, tiling: Tiling) -> None:
    """Compute again the outputs whose flag another algorithm has raised; only the GPU knows which, so that nobody waits for it."""
    geo, (image, other) = _geometry(problem, op), (b, a) if op == "wgrad" else (a, b)
    bias, has_bias = (out, 0) if options.bias is None else (options.bias, 1)
    grid = min(-(-geo.outputs // THREADS), MENDERS)
    values = Mending._make((*geo._replace(has_bias=has_bias), *tiling))
    _mender(out.dtype, options.activation).launch((grid, 1, 1), (image, other, out, bias, flags), values)


def _geometry(problem: ConvProblem, op: Op) -> Geometry:
    """Return what kernels read, worked out once."""
    key = ("cuda direct", op)
    if key not in problem.derived:
        problem.derived[key] = geometry(problem, op)
    return problem.derived[key]


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU."""
    if dtype == np.float16:
        raise Unsupported("needs a dtype that GPUs compute in, got float16")
    size = dtype.itemsize / 4
    geo = geometry(problem, op)
    share = min(1.0, geo.outputs * _pieces(geo) / FILLED)
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * dtype.itemsize
    return float(problem.macs * size / RATE[dtype.kind] / max(share, 1e-5) + traffic / BANDWIDTH + (1 if _pieces(geo) == 1 else 2) * LAUNCH)


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the pieces of sums."""
    geo = geometry(problem, op)
    return geo.outputs * pieces * dtype.itemsize if (pieces := _pieces(geo)) > 1 else 0


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``."""
    geo, (image, other) = _geometry(problem, op), (b, a) if op == "wgrad" else (a, b)
    grid, pieces, has_bias = -(-geo.outputs // THREADS), _pieces(geo), int(options.bias is not None)
    bias = out if options.bias is None else options.bias
    if pieces == 1:
        _kernel(out.dtype, options.activation).launch((grid, 1, 1), (image, other, out, bias), geo._replace(has_bias=has_bias))
        return
    parts = empty((pieces, out.size), out.dtype)
    _kernel(out.dtype, None).launch((grid, pieces, 1), (image, other, parts, parts), geo._replace(pieces=pieces))
    inner = 1 if geo.last else geo.out_0 * geo.out_1 * geo.out_2
    sizes = (out.size, pieces, geo.groups * geo.size_b, inner, has_bias)
    finish(options.activation, out.dtype).launch((-(-out.size // PER_BLOCK), 1, 1), (parts, bias, out), sizes)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name."""
    for name in ("float32", "complex64", "complex128", "int8", "uint64"):
        dtype = np.dtype(name)
        yield f"direct {name}", _kernel(dtype, None if dtype.kind == "c" else "relu")
    yield "direct float32 gelu", _kernel(np.dtype(np.float32), "gelu")
    yield "mend", _mender(np.dtype(np.float32), "gelu")
    yield "finish int8", finish("relu", np.dtype(np.int8))
    yield "finish complex64", finish(None, np.dtype(np.complex64))
