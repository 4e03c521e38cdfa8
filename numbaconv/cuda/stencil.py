"""Stencils on a GPU: convolutions with few channels in a group, limited by memory: depthwise layers, images, FIR filters.

float32, float64, bfloat16 and float16 (sums are float32), with one or two axes, in either layout. dgrad is the fprop of the transposed
problem, whose strides' phases a block computes one after the other, or, if channels are last, passes do. As in `gemm`, padding is multiplied
as zeros: infinite weights give NaN there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from numbaconv.cuda import _formats, _stencil, _stencil_last, _store
from numbaconv.cuda._backend import Kernel, cuda, current_device, empty, kept
from numbaconv.cuda._formats import format_of, widened
from numbaconv.cuda._prims import divide, int32
from numbaconv.cuda._stencil_geometry import LastGeometry
from numbaconv.cuda._stencil_passes import Kind
from numbaconv.cuda._stencil_tiles import FILLED, Pass, gradient_pass, passes
from numbaconv.cuda._store import PER_BLOCK, THREADS
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

PRECISIONS = _formats.PRECISIONS
# Measured on an H100 (benchmarks/gpu_check.py), but for "loops".
RATE = {"unrolled": 7e12, "runs": 8e12, "loops": 3e12}  # products of float32 a second, by kernel
BANDWIDTH = 2.5e12  # bytes a second
GRADIENT = 2.0  # times as long as fprop wgrad takes: 1.4 to 3.3 there
LAUNCH = 4e-6  # seconds


def _passes(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> list[Pass]:
    if format_of(dtype):
        dtype = np.dtype(np.float32)  # which sums are then
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32, float64, float16 or bfloat16, got {dtype}")
    key = ("cuda stencil", op, dtype)
    if key not in problem.derived:
        problem.derived[key] = [gradient_pass(problem, dtype.itemsize)] if op == "wgrad" else passes(problem, op, dtype.itemsize)
    return problem.derived[key]


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU."""
    _formats.check(dtype)
    found = _passes(problem, op, dtype)
    seconds = LAUNCH
    for p in found:
        rate = RATE["unrolled" if p.kind.height else "runs" if p.kind.runs else "loops"] * 4 / max(4, dtype.itemsize)
        seconds += LAUNCH + p.products / rate / min(1.0, max(1, p.blocks) / FILLED)
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * dtype.itemsize
    seconds += LAUNCH if format_of(dtype) else 0.0  # the weights as float32
    return float(max(seconds, traffic / BANDWIDTH + LAUNCH * (1 + len(found)))) * (GRADIENT if op == "wgrad" else 1.0)


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the packed weights, if channels are last, or as float32; the pieces of wgrad's sums."""
    if op == "wgrad":
        geo = _passes(problem, op, dtype)[0].geo
        return geo.pieces * geo.w_size * max(4, dtype.itemsize) if geo.pieces > 1 or format_of(dtype) else 0
    wide = 4 * math.prod(problem.shape("w")) if format_of(dtype) else 0
    return sum(_packed_size(p) for p in _passes(problem, op, dtype)) * max(4, dtype.itemsize) + wide


def _packed_size(p: Pass) -> int:
    return p.geo.channels * p.geo.taps_h * p.geo.taps_w * p.geo.w_tap if isinstance(p.geo, LastGeometry) else 0


@functools.cache
def _pack_kernel(dtype: np.dtype[Any]) -> Kernel:
    zero = dtype.type(0)

    def pack_taps(w, packed, sizes):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: packed[c, r, s, k] = w[tap (r, s) of channel c of filter k], or 0 beyond the last filter.
        # THE SCHEDULE: a thread owns four elements, a block's width apart.
        size, width, height, padded, filters, per_group, first, from_group, from_k, from_c, from_row, from_column = sizes
        at = int32(int32(cuda.blockIdx.x) * PER_BLOCK + int32(cuda.threadIdx.x))
        for _ in range(4):
            if at < size:
                rest, k = divide(at, padded)
                rest, s = divide(rest, width)
                c, r = divide(rest, height)
                group, k_in = divide(k, per_group)
                source = int32(first + group * from_group + k_in * from_k + c * from_c + r * from_row + s * from_column)
                packed[at] = w[source] if k < filters else zero
            at = int32(at + THREADS)

    return Kernel(pack_taps, (dtype, dtype), 12, THREADS)


def _packed_sizes(p: Pass) -> tuple[int, ...]:
    """Return what the kernel that packs a pass's taps takes by value; nothing for a pass that reads w as it is."""
    geo = p.geo
    return (_packed_size(p), geo.taps_w, geo.taps_h, geo.w_tap, geo.out_channels, geo.filters, *p.source) if isinstance(geo, LastGeometry) else ()


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    return current_device(), format_of(dtype), *(_packed_sizes(p) for p in _passes(problem, op, np.dtype(dtype)))


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Pack the weights for every pass; what `run` reads. If channels are first, they are read as they are."""
    packed, found = [], _passes(problem, op, w.dtype)
    w = widened(w)
    for p in found:
        sizes = _packed_sizes(p)
        if not sizes:
            packed.append(w)
            continue
        packed.append(empty(max(1, _packed_size(p)), w.dtype))
        _pack_kernel(w.dtype).launch((-(-_packed_size(p) // PER_BLOCK), 1, 1), (w, packed[-1]), sizes)
    return packed


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``."""
    if op == "wgrad":
        return _run_wgrad(problem, a, b, out, options)
    packed = prepare(problem, op, b) if options.packed is None else options.packed
    found, form, dtype = _passes(problem, op, out.dtype), format_of(out.dtype), np.dtype(out.dtype)
    if form:
        a, out, dtype = a.view(np.uint16), out.view(np.uint16), np.dtype(np.float32)
    bias, has_bias = (out, 0) if options.bias is None else (widened(options.bias), 1)
    for p, w in zip(found, packed, strict=True):
        geo = p.geo._replace(has_bias=has_bias)
        if isinstance(geo, LastGeometry):
            kernel = _stencil_last.kernel(dtype, p.kind, options.activation, form)
            kernel.launch((p.blocks, 1, 1), (a, w, out, bias), geo)
        else:
            # Without phases there is no table, and nothing reads what is given in its place.
            table = w if p.table is None else kept(problem.derived, ("cuda stencil", op, p.kind, p.geo), lambda found=p: found.table)  # type: ignore[misc]
            kernel = _stencil.kernel(dtype, p.kind, options.activation, form)
            kernel.launch((p.blocks, 1, 1), (a, w, out, bias, table), geo)


def _run_wgrad(problem: ConvProblem, dy: Any, x: Any, dw: Any, options: Options) -> None:
    (p,), form, dtype = _passes(problem, "wgrad", dw.dtype), format_of(dw.dtype), np.dtype(dw.dtype)
    if form:
        dy, x, dw, dtype = dy.view(np.uint16), x.view(np.uint16), dw.view(np.uint16), np.dtype(np.float32)
    make = _stencil_last if isinstance(p.geo, LastGeometry) else _stencil
    pieces, kernel = p.geo.pieces, make.kernel_gradient(dtype, p.kind, form)
    parts = dw if pieces == 1 and not form else empty((pieces, dw.size), dtype)
    kernel.launch((p.blocks, 1, 1), (dy, x, parts), p.geo)
    if pieces > 1 or form:
        finish = _formats.finish(form) if form else _store.finish(None, dtype)
        finish.launch((-(-dw.size // PER_BLOCK), 1, 1), (parts, dw, dw), (dw.size, pieces, 1, 1, 0))


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name: those of each filter that are shortest of registers, and the loops."""
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    lines = {"3 taps": Kind(1, 3, 1, 1, True), "7 taps stride 2": Kind(1, 7, 1, 2, True)}
    loops = {"loops": Kind(0, 0, 1, 1, False), "long loops": Kind(0, 0, 1, 1, True, False, True)}
    phases = {"phases": Kind(0, 0, 1, 1, False, False, False, True), "long phases": Kind(0, 0, 1, 1, True, False, True, True)}
    runs = {"runs": Kind(0, 0, 1, 1, False, True), "long runs": Kind(0, 0, 1, 1, True, True, True)}
    squares = {f"{size}×{size} stride {step}": Kind(size, size, step, step, False) for size, step in ((3, 1), (5, 1), (7, 1), (7, 2))}
    for name, kind in (squares | lines | loops | runs | phases).items():
        yield f"stencil NCHW {name}", _stencil.kernel(single, kind, "relu")
        if name not in runs | phases:
            yield f"stencil NHWC {name}", _stencil_last.kernel(single, kind, "relu")
    for name in ("3×3 stride 1", "7×7 stride 2"):
        kind = squares[name]
        yield f"stencil NCHW wgrad {name}", _stencil.kernel_gradient(single, kind)
        yield f"stencil NHWC wgrad {name}", _stencil_last.kernel_gradient(single, Kind(1, kind.width, 1, kind.across, False))
    largest = Kind(7, 7, 2, 2, False)
    yield "stencil NCHW float64", _stencil.kernel(double, largest, "gelu")
    yield "stencil NHWC float64", _stencil_last.kernel(double, largest, "gelu")
    yield "stencil NCHW wgrad float64", _stencil.kernel_gradient(double, largest)
    yield "stencil NHWC wgrad float64", _stencil_last.kernel_gradient(double, Kind(1, 7, 1, 2, False))
    for name in ("3×3 stride 1", "7×7 stride 2"):
        yield f"stencil NCHW bf16 {name}", _stencil.kernel(single, squares[name], "relu", "bf16")
        yield f"stencil NHWC bf16 {name}", _stencil_last.kernel(single, squares[name], "relu", "bf16")
        yield f"stencil NCHW bf16 wgrad {name}", _stencil.kernel_gradient(single, squares[name], "bf16")
        yield f"stencil NHWC bf16 wgrad {name}", _stencil_last.kernel_gradient(single, replace(squares[name], height=1, down=1), "bf16")
    yield "pack taps", _pack_kernel(single)
