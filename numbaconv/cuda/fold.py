"""dgrad of few channels: one matrix product for all taps together, whose columns are then folded onto the input (col2im).

`gemm`'s dgrad owns a tile of pixels × channels and passes over it tap by tap: with the three channels in front of a stem most of the tile would
be idle. Here a column is a channel and a tap. It costs memory: every column once more for each pixel of y.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import gemm
from numbaconv.cuda._backend import Kernel, cuda, empty
from numbaconv.cuda._geometry import LIMIT
from numbaconv.cuda._prims import divide, int32
from numbaconv.cuda._store import THREADS, activation
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

RATE = 3e12  # columns a second that threads look for, estimated from instructions


class Sizes(NamedTuple):
    """What the kernel takes by value."""

    size: int  # elements of x
    channels: int
    in_d: int
    in_h: int
    in_w: int
    out_d: int
    out_h: int
    out_w: int
    taps_d: int
    taps_h: int
    taps_w: int
    stride_d: int
    stride_h: int
    stride_w: int
    dilation_d: int
    dilation_h: int
    dilation_w: int
    low_d: int
    low_h: int
    low_w: int
    flipped: int
    has_bias: int


def _columns(problem: ConvProblem) -> ConvProblem:
    """Return the layer of single taps whose dgrad the product is: a channel of it is one of x and a tap."""
    if "cuda fold" not in problem.derived:
        ones, taps = (1, 1, 1), math.prod(problem.filter)
        problem.derived["cuda fold"] = replace(
            problem, in_channels=problem.in_channels * taps, input=problem.output, filter=ones, stride=ones, dilation=ones, low=(0, 0, 0),
            flipped=False, derived={},
        )  # fmt: skip
    return problem.derived["cuda fold"]


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU."""
    if op != "dgrad":
        raise Unsupported("needs dgrad")
    if problem.input_dilation != (1, 1, 1):
        raise Unsupported("needs an input that is not dilated")
    sizes = [math.prod(problem.shape(t)) for t in ("x", "w", "y")]
    if 0 in sizes:
        raise Unsupported("needs a problem that is not empty")
    columns, taps = _columns(problem), math.prod(problem.filter)
    read = math.prod(columns.shape("x"))
    reach = [abs(lo) + size + r * d for lo, size, r, d in zip(problem.low, problem.input, problem.filter, problem.dilation, strict=True)]
    if max(read, sizes[0] + THREADS, *reach, *problem.stride) > LIMIT:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    moved = (read + sizes[0]) * dtype.itemsize / gemm.BANDWIDTH
    return gemm.cost(columns, op, dtype) + moved + sizes[0] * taps / RATE + gemm.LAUNCH


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the columns, and what their product takes."""
    columns = _columns(problem)
    return math.prod(columns.shape("x")) * dtype.itemsize + gemm.workspace(columns, op, dtype)


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    return "fold", gemm.packing(_columns(problem), op, dtype)


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Pack the weights; what `run` reads."""
    return gemm.prepare(_columns(problem), op, w)


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``."""
    p, layer = problem, _columns(problem)
    columns = empty(layer.shape("x"), out.dtype)
    gemm.run(layer, op, a, b, columns, Options(packed=options.packed))
    bias, has_bias = (out, 0) if options.bias is None else (options.bias, 1)
    size = math.prod(p.shape("x"))
    sizes = Sizes(size, p.in_channels, *p.input, *p.output, *p.filter, *p.stride, *p.dilation, *p.low, int(p.flipped), has_bias)
    _kernel(np.dtype(out.dtype), p.channels_last, options.activation).launch((-(-size // THREADS), 1, 1), (columns, bias, out), sizes)


@functools.cache
def _kernel(dtype: np.dtype[Any], channels_last: bool, name: str | None) -> Kernel:
    activate, wide, zero = activation(name, dtype), np.float64, dtype.type(0)

    def fold_columns(columns, bias, x, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: x[n, i, c] = activation(Σ columns[n, o, (c, r)] + bias[c]) over taps r and outputs o, i + low = o·stride + r·dilation.
        # THE SCHEDULE: a thread owns one element of x; sums are float64, in the order of the taps.
        at = int32(int32(cuda.blockIdx.x) * THREADS + int32(cuda.threadIdx.x))
        if at >= geo.size:
            return
        rest, c = divide(at, geo.channels) if channels_last else (at, int32(0))
        rest, w = divide(rest, geo.in_w)
        rest, h = divide(rest, geo.in_h)
        n, d = divide(rest, geo.in_d)
        if not channels_last:
            n, c = divide(n, geo.channels)
        taps = int32(geo.taps_d * geo.taps_h * geo.taps_w)
        pixels, total = int32(geo.out_d * geo.out_h * geo.out_w), wide(0)
        for t in range(geo.taps_d):
            from_d = int32(d + geo.low_d - t * geo.dilation_d)
            for r in range(geo.taps_h):
                from_h = int32(h + geo.low_h - r * geo.dilation_h)
                if from_d >= int32(0) and from_h >= int32(0):
                    z, left_d = divide(from_d, geo.stride_d)
                    p, left_h = divide(from_h, geo.stride_h)
                    if left_d == int32(0) and left_h == int32(0) and z < geo.out_d and p < geo.out_h:
                        for s in range(geo.taps_w):
                            from_w = int32(w + geo.low_w - s * geo.dilation_w)
                            if from_w >= int32(0):
                                q, left_w = divide(from_w, geo.stride_w)
                                if left_w == int32(0) and q < geo.out_w:
                                    tap = int32((t * geo.taps_h + r) * geo.taps_w + s)
                                    column = int32(c * taps + (taps - 1 - tap if geo.flipped else tap))
                                    pixel = int32((z * geo.out_h + p) * geo.out_w + q)
                                    if channels_last:
                                        total = total + columns[int32((n * pixels + pixel) * geo.channels * taps + column)]
                                    else:
                                        total = total + columns[int32((n * geo.channels * taps + column) * pixels + pixel)]
        shift = bias[c] if geo.has_bias else zero
        x[at] = activate(dtype.type(total + shift))

    return Kernel(fold_columns, (dtype, dtype, dtype), Sizes, THREADS)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name; the product is `gemm`'s."""
    for last in (False, True):
        yield f"fold {'NHWC' if last else 'NCHW'}", _kernel(np.dtype(np.float32), last, "gelu")
    yield "fold float64", _kernel(np.dtype(np.float64), False, None)
