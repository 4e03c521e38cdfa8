"""`fft` for whole images: planes filled, transformed by CuPy's cuFFT (by SciPy under the simulator), multiplied, transformed back, picked from."""

from __future__ import annotations

import importlib
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import _fft_contraction, _fft_spectra
from numbaconv.cuda._backend import SIMULATED, arrays
from numbaconv.cuda._fft_contraction import Contraction
from numbaconv.cuda._fft_spectra import Circle, Filling, Picking
from numbaconv.problem import ConvProblem, Op, Options, Triple

MOST_TERMS = 512  # spectra that are added one after the other
CHUNK_BYTES = 1 << 30  # of images, and of what becomes of them, that are transformed at a time
LIMIT = 2**30  # of an index: twice it fits int32
# Rates are what data sheets and machine code let expect; what an H100 has measured of it took 0.8 to 1.5 times as long (benchmarks/gpu_check.py).
PEAK = {4: 15e12, 8: 8e12}  # operations a second of transforms: they are not fused multiply-adds alone
BANDWIDTH = 2.5e12  # bytes a second
LAUNCH = 5e-6  # seconds

Array = Any


class Planes(NamedTuple):
    """A problem for transforms of whole images."""

    circles: tuple[Circle, Circle, Circle]
    size: Triple
    frequencies: int  # that are kept of a plane
    images: int  # of a chunk
    seconds: float
    bytes: int
    blocks: int = 0  # that raise flags of their own


def _transforms() -> Any:
    """Return the module whose transforms keep float32."""
    return importlib.import_module("scipy.fft" if SIMULATED else "cupyx.scipy.fft")


def real_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(dtype.char.lower())


def numbers(array: Array) -> Array:
    """Return an array's numbers, real and imaginary parts in turn, in one row."""
    flat = array.reshape(-1)
    return flat.view(real_of(np.dtype(flat.dtype))) if flat.dtype.kind == "c" else flat


def layout(p: ConvProblem, op: Op, dtype: np.dtype[Any]) -> Planes | str:
    """Return the sizes of transforms, or why there are none."""
    circles = _fft_spectra.circle(p, op, 0), _fft_spectra.circle(p, op, 1), _fft_spectra.circle(p, op, 2)
    size = circles[0].length, circles[1].length, circles[2].length
    complex_, places = dtype.kind == "c", math.prod(size)
    kept = places if complex_ else size[0] * size[1] * (size[2] // 2 + 1)
    channels, rows = p.in_channels // p.groups, p.out_channels // p.groups
    terms, filters = (p.batch if op == "wgrad" else channels), p.out_channels * channels
    if terms > MOST_TERMS:
        what = "images" if op == "wgrad" else "channels in a group"
        return f"needs at most {MOST_TERMS} {what}, whose spectra are added one after the other, got {terms}"
    # Per image its planes and spectra, in and out; cuFFT's own room is about that of the spectra.
    each = (p.in_channels + p.out_channels) * (places * dtype.itemsize + 3 * kept * real_of(dtype).itemsize * 2)
    images = max(1, min(p.batch, CHUNK_BYTES // each))
    fixed = filters * (places * dtype.itemsize + 3 * kept * real_of(dtype).itemsize * 2)
    biggest = max(images * p.in_channels, images * p.out_channels, filters) * max(places, 2 * kept) * (1 + complex_)
    elements = max(math.prod(p.shape(t)) for t in ("x", "w", "y")) * (1 + complex_)
    reach = max(n + abs(lo) + (o - 1) * s + i * u for n, lo, o, s, i, u in
                zip(size, p.low, p.output, p.stride, p.input, p.input_dilation, strict=True))  # fmt: skip
    if max(biggest, elements, reach) > LIMIT:
        return "needs arrays of fewer than 2³⁰ elements"
    transformed = p.batch * (p.in_channels + p.out_channels) + filters
    operations = 5 * places * math.log2(max(2, places)) * transformed / (1 if complex_ else 2)
    products = 8 * kept * p.batch * p.groups * channels * rows
    passes = sum(n > 1 for n in size) * 2 + 4
    seconds = transformed * places * dtype.itemsize * passes / BANDWIDTH + (operations + products) / PEAK[real_of(dtype).itemsize]
    return Planes(circles, size, kept, images, seconds + 10 * LAUNCH * -(-p.batch // images), fixed + images * each)


def _filling(p: ConvProblem, layout: Planes, tensor: str, images: int) -> Filling:
    """Return how x, the filters or, for wgrad, dy are laid on planes."""
    circles = layout.circles
    if tensor == "x":
        inners, strides, steps, whole = p.in_channels, p.strides("x"), p.input_dilation, p.input
    else:
        whole, steps = (p.filter, p.dilation) if tensor == "w" else (p.output, p.stride)
        inners = p.in_channels // p.groups if tensor == "w" else p.out_channels
        n, taps = math.prod(whole), whole[1] * whole[2]
        strides = (inners * n, n, taps, whole[2], 1) if tensor == "w" else p.strides("y")
        axes = zip(layout.size, whole, steps, strict=True)
        d, h, w = (Circle(length, (count - 1) * step, length, count) for length, count, step in axes)
        circles = d, h, w
    planes = (p.out_channels if tensor == "w" else images) * inners
    sizes = [c.from_ for c in circles] + [c.wrap for c in circles] + [*steps] + [c.size for c in circles]
    turned = int(tensor == "dy" or (tensor == "w" and not p.flipped))
    blocks, _ = _fft_spectra.blocks_of(planes, math.prod(layout.size))
    return Filling._make([planes, blocks, *layout.size, *sizes, turned, inners, *strides, *whole])


def _axes(size: Triple) -> tuple[int, ...]:
    """Return the lengths from the first axis that has any."""
    return size[min(next((a for a in range(3) if size[a] > 1), 2), 2) :]


def spectra_of(p: ConvProblem, op: Op, layout: Planes, tensor: str, array: Array) -> Array:
    """Lay an array on planes and transform them; the numbers of the spectra in one row."""
    dtype, complex_, lengths = np.dtype(array.dtype), array.dtype.kind == "c", _axes(layout.size)
    geo = _filling(p, layout, tensor, array.shape[0])
    planes = arrays().empty((geo.rows, *lengths), dtype)
    _, blocks = _fft_spectra.blocks_of(geo.rows, math.prod(lengths))
    _fft_spectra.fill(real_of(dtype), complex_).launch((blocks, 1, 1), (numbers(array), numbers(planes)), geo)
    module, axes = _transforms(), tuple(range(1, planes.ndim))
    return numbers((module.fftn if complex_ else module.rfftn)(planes, axes=axes))


def run(p: ConvProblem, op: Op, layout: Planes, a: Array, b: Array, out: Array, options: Options, flags: Array) -> None:
    """Compute chunk by chunk of the images; ``b`` is x for wgrad and else the filters' spectra."""
    real = real_of(np.dtype(out.dtype))
    filters = p.out_channels * (p.in_channels // p.groups)
    sums = arrays().empty(2 * layout.frequencies * filters, real) if op == "wgrad" else None
    for first in range(0, p.batch, layout.images):
        part = slice(first, first + layout.images)
        if op == "wgrad":
            factors = spectra_of(p, op, layout, "dy", a[part]), spectra_of(p, op, layout, "x", b[part])
            _multiply(p, op, layout, *factors, sums, len(a[part]), first > 0)
        else:
            images = a[part]
            spectra = arrays().empty(2 * layout.frequencies * len(images) * p.out_channels, real)
            _multiply(p, op, layout, spectra_of(p, op, layout, "x", images), b, spectra, len(images), False)
            _pick(p, op, layout, spectra, out[part], options, flags)
    if op == "wgrad":
        _pick(p, op, layout, sums, out, Options(), flags)


def _multiply(p: ConvProblem, op: Op, layout: Planes, a: Array, b: Array, c: Array, images: int, again: bool) -> None:
    """Multiply spectra and add the products: of x and filters over channels, of dy and x over images."""
    channels, rows, filters = p.in_channels // p.groups, p.out_channels // p.groups, (p.out_channels, p.in_channels)
    if op == "wgrad":
        strides = rows, 1, filters[0], channels, 1, filters[1], rows * channels, channels, 1
        geo = Contraction(layout.frequencies, p.groups, rows, channels, images, *strides, 1, 1, int(again))
    else:
        of_w = (1, rows) if op == "dgrad" else (channels, 1)  # dgrad's filters are stored by the other channel first
        strides = channels, filters[1], 1, rows * channels, *of_w, rows, filters[0], 1
        geo = Contraction(layout.frequencies, p.groups, images, rows, channels, *strides, 1, 1, int(again))
    cut, tall, blocks = _fft_contraction.tiled(geo)
    first, second = (a, b) if cut.rows == geo.rows and cut.a_row == geo.a_row else (b, a)
    _fft_contraction.multiply(np.dtype(c.dtype), tall).launch((blocks, 1, 1), (first, second, c), cut)


def _pick(p: ConvProblem, op: Op, layout: Planes, spectra: Array, out: Array, options: Options, flags: Array) -> None:
    """Transform spectra back and store outputs."""
    real, complex_, lengths, module = real_of(np.dtype(out.dtype)), out.dtype.kind == "c", _axes(layout.size), _transforms()
    if op == "wgrad":
        size, steps, inners = p.filter, p.dilation, p.in_channels // p.groups
        outer, taps = p.out_channels, math.prod(size)
        strides: tuple[int, ...] = (inners * taps, taps, size[1] * size[2], size[2], 1)
    else:
        size, steps, inners, outer, strides = p.output, p.stride, p.out_channels, len(out), p.strides("y")
    halves = (*lengths[:-1], layout.frequencies // math.prod(lengths[:-1]))
    spectra, axes = spectra.view(np.result_type(real, np.complex64)).reshape(outer * inners, *halves), tuple(range(1, len(lengths) + 1))
    if complex_:
        planes = module.ifftn(spectra, axes=axes, norm="forward", overwrite_x=True)
    else:
        planes = module.irfftn(spectra, lengths, axes=axes, norm="forward", overwrite_x=True)
    target = numbers(out)
    bias = target if options.bias is None else numbers(options.bias)
    points, has_bias, (each, blocks) = math.prod(layout.size), int(options.bias is not None), _fft_spectra.blocks_of(outer * inners, math.prod(size))
    geo = Picking._make([outer * inners, each, inners, *size, *layout.size, *steps, *strides, points, has_bias])
    kernel = _fft_spectra.pick(real, complex_, options.activation)
    kernel.launch((blocks, 1, 1), (numbers(arrays().ascontiguousarray(planes)), bias, target, flags), geo)
