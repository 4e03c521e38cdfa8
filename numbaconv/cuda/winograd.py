"""Winograd's F(2×2, 3×3): float32 with 3 × 3 filters, stride 1 and no dilation (A. Lavin and S. Gray, arXiv:1509.09308).

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A        on tiles of 2 × 2 outputs

The sums over channels at the 16 positions of a tile are `gemm`'s: a 1 × 1 convolution of the tiles, in 16 times as many groups. wgrad is the
adjoint, Gᵀ [Σ (A dy Aᵀ) ⊙ (Bᵀ d B)] G, whose sums over tiles are the gradient of that convolution's weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import direct, gemm
from numbaconv.cuda._backend import Kernel, empty, zeros
from numbaconv.cuda._geometry import LIMIT
from numbaconv.cuda._winograd import THREADS, Tiles, filters, forward, gather, inverse, spread
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

EXACT = False  # its errors are several times those of the direct sum
WORTH = 1e-5  # seconds that it must save
POSITIONS = 16


class Plan(NamedTuple):
    """A problem as its transforms and its products."""

    products: ConvProblem
    inputs: Tiles
    outputs: Tiles
    weights: tuple[int, ...]  # size, columns, channels and where w's elements are
    flipped: bool


def _check(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> None:
    if dtype != np.float32:
        raise Unsupported(f"needs float32, got {dtype}")
    if problem.filter != (1, 3, 3):
        raise Unsupported(f"needs a 3×3 filter, got {'×'.join(map(str, problem.filter[3 - problem.rank :]))}")
    if problem.stride != (1, 1, 1) or problem.dilation != (1, 1, 1) or problem.input_dilation != (1, 1, 1):
        raise Unsupported("needs stride 1 and no dilation")
    sizes = [math.prod(problem.shape(t)) for t in ("x", "w", "y")]
    if op == "wgrad" and 0 in sizes:
        raise Unsupported("needs a problem that is not empty for wgrad")
    reach = [abs(lo) + size for lo, size in zip(problem.low, problem.input, strict=True)]
    if max(*sizes, *reach) > LIMIT:
        raise Unsupported("needs arrays of fewer than 2³¹ elements")
    if problem.low[0] or problem.input[0] != problem.output[0]:
        raise Unsupported("needs no padding along the first axis")


def _plan(problem: ConvProblem, op: Op) -> Plan:
    key = ("cuda winograd", op)
    if key in problem.derived:
        return problem.derived[key]
    p = problem.transpose() if op == "dgrad" else problem
    groups, channels, columns = p.groups, p.in_channels // p.groups, p.out_channels // p.groups
    depth, down, across = p.output[0], -(-p.output[1] // 2), -(-p.output[2] // 2)
    tiles = p.batch * depth * down * across
    # gemm stores fours, and nobody reads what is beyond the last tile; but wgrad would sum it.
    room = tiles if op == "wgrad" else -(-tiles // 4) * 4
    products = ConvProblem(
        1, POSITIONS * p.in_channels, POSITIONS * p.out_channels, POSITIONS * groups,
        (1, 1, room), (1, 1, 1), (1, 1, room), channels_last=p.channels_last, rank=1,
    )  # fmt: skip

    def side(tensor: Any, total: int, size: tuple[int, int, int], low: tuple[int, int]) -> Tiles:
        n, c, d, h, w = p.strides(tensor)
        places = (POSITIONS * total, 1, total) if p.channels_last else (1, room, total * room)
        return Tiles(total * tiles, total, tiles, across, down, depth, *size[1:], *low, n, c, d, h, w, *places)

    taps = (9, columns * 9) if op == "dgrad" else (channels * 9, 9)
    plan = Plan(
        products, side("x", p.in_channels, p.input, p.low[1:]), side("y", p.out_channels, p.output, (0, 0)),
        (groups * columns * channels, columns, channels, *taps, columns * channels * 9), p.flipped,
    )  # fmt: skip
    problem.derived[key] = plan
    return plan


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU."""
    _check(problem, op, dtype)
    plan = _plan(problem, op)
    traffic = (plan.inputs.size + plan.outputs.size) * (4 + POSITIONS) * dtype.itemsize
    product: Op = "wgrad" if op == "wgrad" else "fprop"
    return float(gemm.cost(plan.products, product, dtype) + traffic / gemm.BANDWIDTH + 5 * gemm.LAUNCH)


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: transformed inputs and weights, products, and what `gemm` takes for them."""
    plan = _plan(problem, op)
    elements = math.prod(plan.products.shape("x")) + math.prod(plan.products.shape("y")) + POSITIONS * plan.weights[0]
    return elements * dtype.itemsize + gemm.workspace(plan.products, "wgrad" if op == "wgrad" else "fprop", dtype)


def _blocks(size: int) -> tuple[int, int, int]:
    return -(-size // THREADS), 1, 1


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...] | None:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    if op == "wgrad":
        return None
    plan = _plan(problem, op)
    return plan.flipped, plan.weights, gemm.packing(plan.products, "fprop", dtype)


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Transform and pack the weights; what `run` reads."""
    plan = _plan(problem, op)
    transformed = empty(plan.products.shape("w"), w.dtype)
    filters(w.dtype, plan.flipped).launch(_blocks(plan.weights[0]), (w, transformed), plan.weights)
    return gemm.prepare(plan.products, "fprop", transformed)


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``."""
    plan, flags = _plan(problem, op), zeros(1, np.int32)
    (_run_wgrad if op == "wgrad" else _run)(problem, op, plan, a, b, out, flags, options)
    direct.mend(problem, op, a, b, out, options, flags, direct.Tiling(0, 1, 1, 1))  # where a NaN has spread over its tile


def _run(problem: ConvProblem, op: Op, plan: Plan, a: Any, b: Any, out: Any, flags: Any, options: Options) -> None:
    packed = prepare(problem, op, b) if options.packed is None else options.packed
    tiles, sums = (empty(plan.products.shape(t), out.dtype) for t in ("x", "y"))
    last = plan.products.channels_last
    forward(out.dtype, last).launch(_blocks(plan.inputs.size), (a, tiles), plan.inputs)
    gemm.run(plan.products, "fprop", tiles, None, sums, Options(packed=packed))
    bias = out if options.bias is None else options.bias
    geo = plan.outputs._replace(has_bias=int(options.bias is not None))
    inverse(out.dtype, last, options.activation).launch(_blocks(geo.size), (sums, bias, out, flags), geo)


def _run_wgrad(problem: ConvProblem, op: Op, plan: Plan, dy: Any, x: Any, dw: Any, flags: Any, options: Options) -> None:
    images, gradients, sums = (empty(plan.products.shape(t), dw.dtype) for t in ("x", "y", "w"))
    last = plan.products.channels_last
    forward(dw.dtype, last).launch(_blocks(plan.inputs.size), (x, images), plan.inputs)
    spread(dw.dtype, last).launch(_blocks(plan.outputs.size), (dy, gradients), plan.outputs)
    gemm.run(plan.products, "wgrad", gradients, images, sums, Options())
    gather(dw.dtype, plan.flipped).launch(_blocks(plan.weights[0]), (sums, dw, flags), plan.weights)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name; the products are `gemm`'s."""
    dtype = np.dtype(np.float32)
    for last in (False, True):
        yield f"winograd input {'NHWC' if last else 'NCHW'}", forward(dtype, last)
        yield f"winograd output {'NHWC' if last else 'NCHW'}", inverse(dtype, last, "gelu")
        yield f"winograd weights{' flipped' * last}", filters(dtype, last)
        yield f"winograd dy {'NHWC' if last else 'NCHW'}", spread(dtype, last)
        yield f"winograd dw{' flipped' * last}", gather(dtype, last)
