"""Convolution by Fourier transforms, for long filters (float32, float64, complex64 and complex128).

Signals with one channel a group are cut into tiles that one kernel computes while they lie in registers and shared memory (`_fft`):
overlap-save (A. V. Oppenheim and R. W. Schafer, Discrete-Time Signal Processing, section 8.7), each number read and written once. Everything
else goes through the transforms of CuPy, or of SciPy under the simulator, with kernels around them (`_fft_spectra`).

What is not finite is computed again by the direct sum: kernels raise flags, which a last kernel looks at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import _fft, _fft_contraction, _fft_planes, _fft_radix, _fft_spectra, direct
from numbaconv.cuda._backend import current_device, empty, kept, zeros
from numbaconv.cuda._fft import Fused
from numbaconv.cuda._fft_planes import BANDWIDTH, LAUNCH, LIMIT, PEAK, Planes, numbers, real_of
from numbaconv.problem import ConvProblem, Op, Options, Triple, Unsupported

EXACT = False  # its errors are relative to the largest numbers of a tile
WORTH = 1e-5  # seconds that it must save: sums of a few small integers stay exact
LARGEST_FUSED = {4: 4096, 8: 2048}  # points, by the size of a real number: what fits 48 KiB of shared memory
FULL = 132 * 1024  # threads that keep a large GPU busy
SEGMENT = 32  # outputs of a tile are a multiple of it, for stores of whole segments of memory

Array = Any


class Packed(NamedTuple):
    """Spectra of filters, and what they are for: sizes of the transform and the dilation."""

    size: Triple
    dilation: Triple
    spectra: Array


class Tiles(NamedTuple):
    """A problem for the fused kernel."""

    size: int
    plain: bool  # without strides
    blocks: int
    geo: Fused
    seconds: float


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on a large GPU, or say why it can't be done."""
    return _layout(problem, op, dtype).seconds


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the filters' spectra, and planes and spectra of a chunk of images."""
    layout = _layout(problem, op, dtype)
    if isinstance(layout, Tiles):
        return 2 * layout.size * _working(problem, op).out_channels * real_of(dtype).itemsize + 4 * layout.blocks
    return layout.bytes


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the spectra that `prepare` makes are good for, besides what `run` looks at: any call for which this is the same."""
    return current_device(), isinstance(_layout(problem, op, np.dtype(dtype)), Tiles), _working(problem, op).flipped


def prepare(problem: ConvProblem, op: Op, w: Array) -> Packed:
    """Transform weights."""
    layout = _layout(problem, op, np.dtype(w.dtype))
    if isinstance(layout, Tiles):
        return Packed((1, 1, layout.size), problem.dilation, _pack_tiles(problem, op, layout, w))
    return Packed(layout.size, problem.dilation, _fft_planes.spectra_of(_working(problem, op), op, layout, "w", w))


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    layout = _layout(problem, op, np.dtype(out.dtype))
    packed = options.packed
    if op != "wgrad" and not (packed and packed[:2] == ((1, 1, layout.size) if isinstance(layout, Tiles) else layout.size, problem.dilation)):
        packed = prepare(problem, op, b)
    flags = zeros(1 + layout.blocks, np.int32)
    if isinstance(layout, Tiles):
        _run_tiles(problem, op, layout, a, packed.spectra, out, options, flags)
        geo = layout.geo
        tiling = direct.Tiling(geo.valid, geo.tiles, 1 if out.dtype.kind == "c" else 2, geo.pairs)
    else:
        _fft_planes.run(_working(problem, op), op, layout, a, b if op == "wgrad" else packed.spectra, out, options, flags)
        tiling = direct.Tiling(0, 1, 1, 1)
    direct.mend(problem, op, a, b, out, options, flags, tiling)


def _working(problem: ConvProblem, op: Op) -> ConvProblem:
    return problem.transpose() if op == "dgrad" else problem


def _layout(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Tiles | Planes:
    """Return how an operation is computed, worked out once per problem. Raise Unsupported if it can't be done."""
    key = ("cuda fft", op, dtype)
    if key not in problem.derived:
        if dtype.char not in "fdFD":
            raise Unsupported(f"needs floating-point or complex numbers, got {dtype.name}")
        if 0 in (problem.batch, problem.in_channels, problem.out_channels, *problem.input):
            raise Unsupported("needs a sum of at least one term")
        if op == "wgrad" and problem.flipped:
            raise Unsupported("needs taps that are not flipped for wgrad")
        p = _working(problem, op)
        found = [make(p, op, dtype) for make in (_cut, _fft_planes.layout)]
        able = [layout for layout in found if isinstance(layout, (Tiles, Planes))]
        if not able:
            raise Unsupported(str(found[1]))
        problem.derived[key] = min(able, key=lambda layout: layout.seconds)
    return problem.derived[key]


def _cut(p: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Tiles | None:
    """Return the tiles that take least time; None for what is no signal of one channel a group."""
    flat = all((p.input[a], p.filter[a], p.output[a], p.low[a]) == (1, 1, 1, 0) for a in (0, 1))
    if op == "wgrad" or not flat or p.in_channels != p.groups:
        return None
    real, complex_ = real_of(dtype), dtype.kind == "c"
    covers, outputs = (p.filter[2] - 1) * p.dilation[2] + 1, (p.output[2] - 1) * p.stride[2] + 1
    inputs = (p.input[2] - 1) * p.input_dilation[2] + 1
    largest = max(math.prod(p.shape("x")), math.prod(p.shape("y")), outputs + abs(p.low[2]) + covers, inputs, math.prod(p.shape("w")))
    if largest * (1 + complex_) > LIMIT:
        return None
    traffic = (math.prod(p.shape("x")) * (p.out_channels // p.groups) + math.prod(p.shape("y"))) * dtype.itemsize
    best = None
    for size in _fft_radix.RADICES:
        valid = size - covers + 1
        if size > LARGEST_FUSED[real.itemsize] or valid < SEGMENT:
            continue
        valid -= valid % SEGMENT
        tiles = -(-outputs // valid)
        pairs = p.batch * tiles if complex_ else -(-p.batch * tiles // 2)
        blocks = pairs * p.out_channels
        operations = blocks * size * (2 * 5 * math.log2(size) + 30)
        share = min(1.0, blocks * size / _fft_radix.EACH / FULL)
        seconds = max(traffic * size / valid / BANDWIDTH, operations / (PEAK[real.itemsize] * share)) + 2 * LAUNCH
        if blocks < LIMIT and (best is None or seconds < best.seconds):
            xn, xc, _, _, xw = p.strides("x")
            yn, yk, _, _, yw = p.strides("y")
            geo = Fused(
                pairs, p.batch * tiles, tiles, valid, p.low[2], p.input[2], p.input_dilation[2], p.output[2], p.stride[2],
                p.out_channels // p.groups, xn, xc, xw, yn, yk, yw, p.filter[2], p.dilation[2], int(p.flipped),
            )  # fmt: skip
            best = Tiles(size, (p.stride[2], p.input_dilation[2], xw, yw) == (1, 1, 1, 1), blocks, geo, seconds)
    return best


_TABLES: dict[Any, Any] = {}  # of twiddle factors, by size, dtype and device


def _factors(size: int, dtype: np.dtype[Any]) -> Array:
    return kept(_TABLES, (size, dtype), lambda: _fft_radix.factors(size, dtype).reshape(-1))


def _pack_tiles(problem: ConvProblem, op: Op, layout: Tiles, w: Array) -> Array:
    """Return the filters' spectra, one after the other."""
    p, real, taps = _working(problem, op), real_of(np.dtype(w.dtype)), numbers(w)
    spectra = empty(2 * layout.size * p.out_channels, real)
    table, flags = _factors(layout.size, real), zeros(1, np.int32)
    kernel = _fft.kernel(real, layout.size, w.dtype.kind == "c", True, None, True)
    kernel.launch((p.out_channels, 1, 1), (taps, taps, table, spectra, taps, flags), layout.geo._replace(pairs=1))
    return spectra


def _run_tiles(problem: ConvProblem, op: Op, layout: Tiles, x: Array, spectra: Array, y: Array, options: Options, flags: Array) -> None:
    real, complex_ = real_of(np.dtype(y.dtype)), y.dtype.kind == "c"
    target = numbers(y)
    bias = target if options.bias is None else numbers(options.bias)
    kernel = _fft.kernel(real, layout.size, complex_, layout.plain, options.activation)
    table, geo = _factors(layout.size, real), layout.geo._replace(has_bias=int(options.bias is not None))
    kernel.launch((layout.blocks, 1, 1), (numbers(x), spectra, table, target, bias, flags), geo)


def kernels() -> Iterator[tuple[str, Any]]:
    """Yield the kernels that the compile gate looks at, by name."""
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    for size in _fft_radix.RADICES:
        yield f"fft {size}", _fft.kernel(single, size, False, True, None)
        yield f"fft {size} filters", _fft.kernel(single, size, False, True, None, True)
    yield "fft 4096 strides gelu", _fft.kernel(single, 4096, False, False, "gelu")
    yield "fft 4096 complex", _fft.kernel(single, 4096, True, True, None)
    yield "fft 2048 float64", _fft.kernel(double, 2048, False, True, None)
    yield "fft 2048 complex128 strides", _fft.kernel(double, 2048, True, False, None)
    yield "fft 2048 complex128 filters", _fft.kernel(double, 2048, True, True, None, True)
    for dtype, complex_ in ((single, False), (double, True)):
        yield f"fft fill {dtype} {complex_}", _fft_spectra.fill(dtype, complex_)
        yield f"fft pick {dtype} {complex_}", _fft_spectra.pick(dtype, complex_, None)
        yield f"fft multiply {dtype}", _fft_contraction.multiply(dtype, True)
    yield "fft pick gelu", _fft_spectra.pick(single, False, "gelu")
    yield "fft multiply rows", _fft_contraction.multiply(single, False)
