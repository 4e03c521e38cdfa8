"""Winograd convolution: a tile of m outputs of a 3-tap filter costs m + 2 products per axis instead of 3·m (float32 and float64).

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]        fprop, and dgrad as the fprop of the transposed problem
    dg = Gᵀ [(A dy) ⊙ (Bᵀ d)]      wgrad

on the last axis, or nested on the last two (A. Lavin and S. Gray, arXiv:1509.09308). A tile has m = 2 or m = 4 outputs per axis; its
points are 0, ±1, ∞ and for m = 4 also ½ and −2, which halve the error of ±2. With a stride of 2 it costs 2·m + 1 products: F(m, 2) does the outer
two taps, and the one between them meets inputs that no other tap does (`_winograd_maps`). Each of the tile's positions is a matrix
product: over channels and the filter's other axes for y, over tiles for dg. The transforms have channels in their vector lanes, so that
neither the image's size nor its edges matter to them; a channels-first image is transposed in L1, strip by strip.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.arrays import empty
from numbaconv.cpu import _isa, _parallel, _seconds, direct
from numbaconv.cpu._sum import add_pairwise
from numbaconv.cpu._winograd import ALIGNMENT, CHUNK, STRIP, kernels
from numbaconv.cpu._winograd_maps import AXES, DILATED, PLAIN, SHIFTED, STRIDED, Tile
from numbaconv.cpu.bias import CODES
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

EXACT = False  # its errors are several times those of the direct sum
TILES, POSITIONS = 64, 36  # tiles of a block at the most; of wgrad fewer if they have more positions, for a thread's 4 MiB
BLOCK = 3 << 18  # elements of a block's transformed tiles at the most: 3 MiB of float32
# Elements of transformed weights, and of products, that stay in L2: 1 and 2 MiB of float32 (512→512 on 14×14 7.2 → 5.8 ms, in turns).
LOCAL, PRODUCTS = 1 << 18, 1 << 19
# Elements of all transformed tiles that are made first even if the weights have fewer: 128→460 1×3×3 s2 on 8×28² 5.1 ms, a block at a time 5.35. More
# would be more than the input and 4 MiB: 52 MB of 512→512 3×3 s2 @499×39, which took no longer by blocks.
SHARED = 3 << 19
FILTERS, CHANNELS = 128, 96  # of a job of wgrad, at the most: its products at all positions are 1.7 MiB of float32; 256 filters were slower
SPLITS = 16  # jobs that wgrad is cut into at the least, and blocks that a piece of its sum has at the most:
MOST_BLOCKS = 64

# Steps that a sum takes the time of besides its own: 1024→1024 3×3 s2 in 32 groups @14, 16 samples, 4.0 ms, of which 3.1 were estimated without (gemm
# 3.9, and 3.5 from memory, where this takes 5.0); wgrad of 256→921 1×3×3 s1×2×2 @4×14² 5.3 ms, not 4.8 (gemm 4.3).
APART = 6

SECONDS = _seconds.of("winograd")  # for one of each that `work` counts
ALONE = 2.5  # times as long as in the fit of whole calls takes what comes before the products: 256→256 on 14² 52 µs instead of 22
Array = np.ndarray[Any, Any]


class Packed(NamedTuple):
    """Transformed weights, (groups, kinds, panels of lanes, steps, lanes), and the tile that they are for."""

    tile: Tile
    weights: Array


class Layout(NamedTuple):
    """How one operation is cut up: what the kernels unpack, and the elements that are allocated."""

    tile: Tile
    work: dict[str, float]
    geometry: tuple[int, ...]
    image: tuple[int, ...]  # of x, as the kernels unpack it
    result: tuple[int, ...]  # of y
    jobs: int
    pieces: int  # of the transformed tiles: jobs of their own where they come first
    panels: int
    splits: int
    stationary: bool  # whether a panel of weights meets all tiles, because the tiles are the smaller operand
    weights: int  # elements of all transformed weights
    transformed: int  # elements of all transformed tiles
    scratch: int  # elements a thread
    shared: int  # elements that all threads share

    @property
    def seconds(self) -> float:
        """Estimated time on one core."""
        return sum(SECONDS[name] * count for name, count in self.work.items())


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time with the cheaper tile, or say why it can't be done. Elements count by their size, in float32's."""
    return _layout(problem, op, dtype).work


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    return _layout(problem, op, dtype).seconds


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: the transformed weights or tiles, or wgrad's pieces, and a block with its products per thread."""
    layout = _layout(problem, op, dtype)
    return (layout.shared + layout.jobs + layout.scratch * _parallel.get_num_threads()) * dtype.itemsize + ALIGNMENT


def prepare(problem: ConvProblem, op: Op, w: Array) -> Packed:
    """Transform weights."""
    return _prepare(_layout(problem, op, w.dtype), w, problem.groups)


def packing(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the order of the weights depends on, beside their shape and groups."""
    p = problem.transpose() if op == "dgrad" else problem
    return _isa.host().name, _kind(p, 1) if p.filter[1] == 3 else PLAIN, _kind(p, 2)


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``. What is not finite is computed again by the direct sum, which spreads NaN and infinity as it should."""
    if not (_wgrad(problem, a, b, out) if op == "wgrad" else _fprop(problem, op, a, b, out, options)):
        direct.run(problem, op, a, b, out, options)


def _prepare(layout: Layout, w: Array, groups: int) -> Packed:
    packed, isa = empty((layout.weights,), w.dtype, 0), _isa.host()
    arguments = (w.reshape(-1), packed, np.array(layout.geometry, np.int64))
    seconds = layout.weights * w.dtype.itemsize / 4 * SECONDS["weights"] * ALONE
    _parallel.run(kernels(isa, w.dtype, layout.tile)["weights"], groups * layout.panels, (layout.scratch, w.dtype), arguments, seconds)
    return Packed(layout.tile, packed)


def _fprop(problem: ConvProblem, op: Op, x: Array, w: Array, y: Array, options: Options) -> bool:
    """Compute fprop or dgrad, and return whether the result is finite."""
    dtype, packed = y.dtype, options.packed
    layout = _layout(problem, op, dtype, packed.tile if packed else None)
    run, scratch = kernels(_isa.host(), dtype, layout.tile), (layout.scratch, dtype)
    bias, flags = np.empty(0, dtype) if options.bias is None else options.bias, np.zeros(layout.jobs, dtype)
    geometry, image, result = (np.array(values, np.int64) for values in (layout.geometry, layout.image, layout.result))
    rest = (y.reshape(-1), bias, CODES[options.activation], flags, geometry, image, result)
    if layout.stationary:
        tiles, seconds = empty((layout.transformed,), dtype, 0), SECONDS["input"] * layout.work["input"] * ALONE
        _parallel.run(run["tiles"], layout.pieces, scratch, (x.reshape(-1), tiles, geometry, image), seconds)
        weights = packed.weights if packed else w.reshape(-1)
        _parallel.run(run["by_panels"], layout.jobs, scratch, (tiles, weights, packed is not None, *rest), layout.seconds)
    else:
        weights = (packed or _prepare(layout, w, problem.groups)).weights
        _parallel.run(run["by_tiles"], layout.jobs, scratch, (x.reshape(-1), weights, *rest), layout.seconds)
    return not flags.any()


def _wgrad(problem: ConvProblem, dy: Array, x: Array, dw: Array) -> bool:
    """Compute wgrad, and return whether the result is finite."""
    dtype, layout = dw.dtype, _layout(problem, "wgrad", dw.dtype)
    flags, pieces = np.zeros(layout.jobs, dtype), dw.reshape(1, -1)
    if layout.splits > 1:
        pieces = np.empty((layout.splits, dw.size), dtype)
    geometry, image, result = (np.array(values, np.int64) for values in (layout.geometry, layout.image, layout.result))
    arguments = (x.reshape(-1), dy.reshape(-1), pieces, flags, geometry, image, result)
    _parallel.run(kernels(_isa.host(), dtype, layout.tile)["wgrad"], layout.jobs, (layout.scratch, dtype), arguments, layout.seconds)
    if layout.splits > 1:
        dw.reshape(-1)[:] = add_pairwise(pieces)
    return not flags.any()


def _layout(problem: ConvProblem, op: Op, dtype: np.dtype[Any], tile: Tile | None = None) -> Layout:
    """Return how an operation is cut up, by default with the cheaper tile; worked out once per problem. Raise Unsupported if it can't be done."""
    isa = _isa.host()
    key = ("winograd", op, isa.name, dtype, tile)
    if key not in problem.derived:
        p = problem.transpose() if op == "dgrad" else problem
        layouts = [_lay_out(p, op, t, isa, dtype) for t in _tiles(p, op, dtype) if tile in (None, t)]
        problem.derived[key] = min(layouts, key=lambda layout: layout.seconds)
    return problem.derived[key]


def _tiles(p: ConvProblem, op: Op, dtype: np.dtype[Any]) -> list[Tile]:
    """Return the tiles that can do the problem, or say why none can."""
    if dtype not in (np.float32, np.float64):
        raise Unsupported(f"needs float32 or float64, got {dtype.name}")
    if p.filter[2] != 3:
        raise Unsupported(f"needs 3 taps on the last axis, got {p.filter[2]}")
    axes = (1, 2) if p.filter[1] == 3 else (2,)
    if p.dilation != (1, 1, 1):
        raise Unsupported(f"needs a dilation of 1, got {p.dilation}")
    if any(s > 1 and u > 1 for s, u in zip(p.stride, p.input_dilation, strict=True)):
        raise Unsupported("needs an axis to have a stride or a dilated input, not both")
    strides = tuple(max(both) for both in zip(p.stride, p.input_dilation, strict=True))  # of a strided problem's gradient the input is dilated
    if any(strides[axis] > 2 for axis in axes):
        raise Unsupported(f"needs a stride of 1 or 2 on the axes that it transforms, got {strides}")
    if any(u > 1 for axis, u in enumerate(p.input_dilation) if axis not in axes):
        raise Unsupported(f"needs, for the gradient of the input, a stride of 1 on the axes that it does not transform, got {strides}")
    if op == "wgrad" and (p.flipped or p.input_dilation != (1, 1, 1)):
        raise Unsupported("needs taps that are not flipped and an input that is not dilated for wgrad")
    if 0 in (p.batch, p.in_channels, p.out_channels, p.input[0]) or any(p.input[axis] < 3 or p.output[axis] < 2 for axis in axes):
        raise Unsupported("needs images of at least a tile")
    if any(max(p.low[axis], p.high[axis]) > 1 + p.input_dilation[axis] for axis in axes):  # where it is dilated the first one outside has one tap: 0
        raise Unsupported("needs outputs that all meet the input, whose error would be that of their neighbours")
    if op == "wgrad" and any((p.output[axis] - 1) * p.stride[axis] < p.low[axis] or p.low[axis] < 3 - p.input[axis] for axis in axes):
        raise Unsupported("needs taps that all meet the input, whose error would be that of their neighbours")
    return [(f"{m}{_kind(p, 1)}" if p.filter[1] == 3 else "1", f"{m}{_kind(p, 2)}") for m in (4, 2)]


def _kind(p: ConvProblem, axis: int) -> str:
    """Return which of the maps of an axis its stride or dilated input needs."""
    if p.input_dilation[axis] == 1:
        return PLAIN if p.stride[axis] == 1 else STRIDED
    return SHIFTED if p.low[axis] % 2 else DILATED


def _up(n: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-n // step) * step


def _share(n: int, most: int, step: int) -> int:
    """Cut n into equal parts of at most ``most``, and round their size up."""
    return _up(-(-n // -(-n // most)), step)


def _lay_out(p: ConvProblem, op: Op, tile: Tile, isa: _isa.Isa, dtype: np.dtype[Any]) -> Layout:
    rows, channels, width = p.out_channels // p.groups, p.in_channels // p.groups, isa.width(dtype)
    axes = vertical, horizontal = AXES[tile[0]], AXES[tile[1]]
    positions, taps = vertical.positions * horizontal.positions, math.prod(p.filter)
    kinds = vertical.transformed * horizontal.transformed  # of transformed weights
    both = vertical.positions > 1
    inner = 9 if both else 3
    outer = taps // inner
    steps = channels * outer
    per_image = (p.output[0], *(-(-p.output[n] // axis.outputs) for n, axis in enumerate(axes, 1)))
    tiles = p.batch * math.prod(per_image)
    most = min(TILES, max(isa.rows, (POSITIONS * TILES if op == "wgrad" else BLOCK // steps) // positions))
    block = _share(tiles, most, isa.rows)
    if op != "wgrad" and tiles > 2 * isa.rows and (few := -(-tiles // block)) in (1, 3):  # for two threads: 128→64 on 30² 242 → 159 µs, one the same
        block = _share(tiles, -(-tiles // (few + 1)), isa.rows)
    blocks, vectors = -(-tiles // block), -(-rows // width)
    panels = _parallel.evenly(-(-vectors // isa.vectors))  # 320→320 on 10² 935 → 772 µs, and no slower on one thread
    splits, row_blocks, column_blocks, each = 1, 1, 1, channels
    stationary = op != "wgrad" and tiles < rows and (tiles * positions < rows * kinds or tiles * positions * steps <= SHARED)
    lanes, pitch = -(-vectors // panels) * width, channels * (outer - 1) + _up(channels, width)
    strip, buffer = max(vertical.inputs, vertical.outputs, 3) * STRIP * width, (max(STRIP * 8, taps) + width) * width
    scale, each_kind = (p.groups * count * dtype.itemsize / 4 for count in (positions, kinds))
    if op == "wgrad":
        lanes, pitch = _share(rows, FILTERS, math.lcm(width, isa.rows)), _share(channels, CHANNELS, width)
        row_blocks, column_blocks = -(-rows // lanes), -(-channels // pitch)
        jobs = p.groups * outer * row_blocks * column_blocks
        splits = max(min(blocks, -(-SPLITS // jobs)), -(-blocks // MOST_BLOCKS))
        jobs *= splits
        # Scratch behind the strip: transformed tiles of x, transformed tiles of dy, products.
        parts = (positions * (block * pitch + 16), positions * (block * lanes + 16), kinds * (lanes * pitch + 16))
        shared = splits * math.prod(p.shape("w")) if splits > 1 else 0
        work = {
            "call": 1,
            "input": scale * tiles * outer * (_up(channels, width) * row_blocks + _up(rows, width) * column_blocks),
            "weights": each_kind * _up(rows, width) * _up(channels, width) * outer * splits,
            "fma": scale * (tiles + APART * blocks) * outer * _up(channels, width) * _up(rows, isa.rows),
            "sum": each_kind * blocks * outer * _up(channels, width) * _up(rows, isa.rows),
        }
    else:
        jobs = p.groups * (panels if stationary else blocks)
        # Scratch behind the strip: transformed tiles or weights, weights before the transform, products.
        products, size = positions * (block * lanes + 16), dtype.itemsize // 4
        if stationary and kinds * lanes * steps * size > LOCAL and blocks * products * size <= PRODUCTS:
            each = min(channels, _share(channels, max(1, LOCAL // (kinds * lanes * outer * size)), 4))
            products *= blocks
        local = kinds * (lanes * each * outer + 16) if stationary else positions * (block * pitch + 16)
        parts = (local, buffer, products)
        work = {
            "call": 1,
            "input": scale * tiles * _up(channels, width) * outer,
            "weights": each_kind * _up(rows, width) * steps,
            "fma": scale * _up(tiles, isa.rows) * (steps + APART * -(-steps // CHUNK)) * _up(rows, width),
            "output": scale * tiles * _up(rows, width),
        }
    weight_step, tile_step = vectors * width * steps + 16, block * pitch + 16
    weights, transformed = p.groups * kinds * weight_step, p.groups * blocks * positions * tile_step
    if op != "wgrad":
        shared = transformed if stationary else weights
    geometry = (
        rows, channels, outer, tiles, block, blocks, panels, pitch, lanes, weight_step, tile_step, taps, inner,
        *((taps, rows * taps) if op == "dgrad" else (channels * taps, taps)), int(p.flipped), 1 if both else p.filter[1],
        strip, strip + parts[0], strip + parts[0] + parts[1], splits, row_blocks, column_blocks, each,
    )  # fmt: skip
    pieces = p.groups * blocks * (1 if outer > 1 and channels % width else -(-channels // width))
    low = (low // u for low, u in zip(p.low, p.input_dilation, strict=True))
    image = (*per_image, *p.input, *low, *p.strides("x"), channels, p.stride[0], 1 if both else p.stride[1])
    result = (*per_image, *p.output, 0, 0, 0, *p.strides("y"), rows, 1, 1)
    return Layout(
        tile, work, geometry, image, result, jobs, pieces, panels, splits, stationary, weights, transformed,
        strip + sum(parts) + ALIGNMENT // dtype.itemsize, shared,
    )  # fmt: skip
