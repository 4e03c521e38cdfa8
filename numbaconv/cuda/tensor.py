"""Tensor cores: fprop and dgrad of bfloat16 and float16, and of float32 in tf32 where that is asked for. Sums are float32.

The products are `gemm`'s, in the same tables; the weights are packed as blocks hold them in shared memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbaconv.cuda import _formats, _geometry, gemm
from numbaconv.cuda._backend import SIMULATED, Kernel, capability_of, current_device, empty, kept
from numbaconv.cuda._geometry import Product
from numbaconv.cuda._store import PER_BLOCK, THREADS, finish
from numbaconv.cuda._tensor import kernel, pack
from numbaconv.cuda._tensor_layout import Variant, cell_of
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

KINDS = {"float32": "tf32", **_formats.FORMATS}  # what each dtype is computed in
PRECISIONS = {"float32": ("tf32",), **_formats.PRECISIONS}
CHUNK = 16384  # terms of one accumulator: tensor cores cut sums off rather than round them, which 2,000 steps later is 2⁻¹³
LEAST_TERMS = 256  # of a piece
RATE = {"tf32": 0.43e12, "bf16": 0.55e12, "f16": 0.55e12}  # multiply-adds a second of a multiprocessor, measured on an H100


def _slab(problem: ConvProblem, op: Op, kind: str) -> tuple[int, bool]:
    """Return how many rows of the contraction are multiplied at a time, and whether x is copied by vectors of 16 bytes."""
    p = problem.transpose() if op == "dgrad" else problem
    channels, word = p.in_channels // p.groups, 1 if kind == "tf32" else 2
    if p.channels_last and channels and channels % (8 * word) == 0:
        return (16 if channels % (16 * word) == 0 else 8) * word, True
    return 16, False


def _cut(problem: ConvProblem, op: Op, kind: str) -> gemm.Cut:
    """Return how the outputs are shared out, and into how many pieces sums are cut: to occupy the GPU, and so that none is too long."""
    key = ("cuda tensor cut", op, kind)
    if key not in problem.derived:
        terms = -(-problem.gemm_shape(op)[2] // max(1, math.prod(gemm.phases_of(problem, op))))
        problem.derived[key] = gemm.cut_of(problem, op, RATE[kind], gemm.TILES, LEAST_TERMS, max(1, -(-terms // CHUNK)))
    return problem.derived[key]


def kind_of(dtype: Any) -> str:
    """Return what a dtype is computed in."""
    if np.dtype(dtype).name not in KINDS:
        raise Unsupported(f"needs {', '.join(KINDS)}, got {dtype}")
    return KINDS[np.dtype(dtype).name]


def _check(problem: ConvProblem, op: Op, dtype: Any) -> str:
    if op == "wgrad":
        raise Unsupported("needs fprop or dgrad")
    kind = kind_of(dtype)
    if not SIMULATED and capability_of(current_device()) < (8, 0):
        raise Unsupported("needs a GPU of compute capability 8.0 or more")
    check_grid(problem, op, _cut(problem, op, kind))
    return kind


def check_grid(problem: ConvProblem, op: Op, cut: gemm.Cut) -> None:
    """Raise if a launch has no room for all blocks."""
    blocks = problem.groups * math.prod(gemm.phases_of(problem, op)) * cut.pieces
    if blocks > gemm.GRID_LIMIT or -(-problem.gemm_shape(op)[1] // cut.tile[1]) > gemm.GRID_LIMIT:
        raise Unsupported("needs fewer groups, strides and filters: a launch has no room for so many blocks")


def cost(problem: ConvProblem, op: Op, dtype: Any) -> float:
    """Estimate the seconds on a large GPU."""
    kind = _check(problem, op, dtype)
    _tables(problem, op, kind)  # raises for arrays that int32 cannot index
    traffic = sum(math.prod(problem.shape(t)) for t in ("x", "w", "y")) * np.dtype(dtype).itemsize
    return float(max(_cut(problem, op, kind).seconds, traffic / gemm.BANDWIDTH) + 2 * gemm.LAUNCH)


def workspace(problem: ConvProblem, op: Op, dtype: Any) -> int:
    """Bytes allocated besides the output: the packed weights, and the pieces of sums, which are float32."""
    product, pieces = _tables(problem, op, kind_of(dtype)), _cut(problem, op, kind_of(dtype)).pieces
    out = math.prod(problem.shape("y" if op == "fprop" else "x"))
    return gemm.packed_size(product, problem.groups) * np.dtype(dtype).itemsize + (out * pieces * 4 if pieces > 1 else 0)


def _tables(problem: ConvProblem, op: Op, kind: str) -> Product:
    slab, _ = _slab(problem, op, kind)
    key = ("cuda tensor", op, kind)
    if key not in problem.derived:
        cut = _cut(problem, op, kind)
        problem.derived[key] = _geometry.product(problem, op, cut.tile, cut.pieces, slab)
    return problem.derived[key]


def _on_device(problem: ConvProblem, op: Op, kind: str, name: str) -> Any:
    """Return a table where kernels read it."""
    return kept(problem.derived, ("cuda tensor", op, kind, name), lambda: getattr(_tables(problem, op, kind), name))


def cells(array: Any, kind: str) -> Any:
    """Return an array as kernels take it."""
    return array if kind == "tf32" else array.view(np.uint16)


def packing(problem: ConvProblem, op: Op, dtype: Any) -> tuple[Any, ...]:
    """Return what the weights that `prepare` packs are good for: any call for which this is the same."""
    kind = kind_of(dtype)
    return current_device(), kind, _slab(problem, op, kind)[0], *_tables(problem, op, kind).packing


def prepare(problem: ConvProblem, op: Op, w: Any) -> Any:
    """Pack the weights; what `run` reads."""
    kind = kind_of(w.dtype)
    return packed(_tables(problem, op, kind), _on_device(problem, op, kind, "weight_rows"), w, problem.groups, _slab(problem, op, kind)[0])


def packed(product: Product, rows: Any, w: Any, groups: int, slab: int) -> Any:
    """Return weights as blocks will hold them, a slab of rows of the contraction after the other."""
    kind = kind_of(w.dtype)
    size = product.weight_rows.size * groups * product.padded_columns
    target = empty(gemm.packed_size(product, groups), cell_of(kind))
    per_tap = product.geo.per_entry if product.aligned and product.phases == 1 else max(1, product.weight_rows.size // slab)
    taps = max(1, product.weight_rows.size // slab // per_tap)
    sizes = (size, groups, product.columns, product.padded_columns, *product.weight_strides, slab, taps, per_tap)
    vectors = size * target.itemsize // 16
    pack(kind).launch((-(-vectors // THREADS), 1, 1), (cells(w, kind), rows, target), sizes)
    return target


def run(problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options) -> None:
    """Overwrite all of ``out``; a bias has its dtype."""
    kind = kind_of(a.dtype)
    (slab, vectors), cut = _slab(problem, op, kind), _cut(problem, op, kind)
    product, table = _tables(problem, op, kind), _on_device(problem, op, kind, "table")
    weights = prepare(problem, op, b) if options.packed is None else options.packed
    p = problem.transpose() if op == "dgrad" else problem
    activation, partial = (None, True) if cut.pieces > 1 else (options.activation, False)
    variant = Variant(kind, *cut.tile, slab, p.channels_last, vectors, product.aligned, gemm.has_depth(p), activation, partial)
    multiply(p, kernel(variant), cut, product, (cells(a, kind), weights, table), out, options)


def multiply(p: ConvProblem, product_of: Kernel, cut: gemm.Cut, product: Product, operands: tuple[Any, Any, Any], out: Any, options: Options) -> None:
    """Launch a kernel on its input, packed weights and table, and what adds the pieces of its sums if there are several."""
    (x, w, table), kind, pieces = operands, kind_of(out.dtype), cut.pieces
    grid = (-(-product.most_rows // cut.tile[0]), product.padded_columns // cut.tile[1], product.phases * p.groups * pieces)
    y = cells(out, kind)
    target = empty((pieces, out.size), np.float32) if pieces > 1 else y
    bias, has_bias = (y, 0) if options.bias is None else (cells(options.bias, kind), 1)
    product_of.launch(grid, (x, w, target, bias, table), product.geo._replace(has_bias=has_bias, pieces=pieces))
    if pieces > 1:
        inner = 1 if p.channels_last else math.prod(p.output)
        sizes = (out.size, pieces, p.out_channels, inner, has_bias)
        finish_of(options.activation, kind).launch((-(-out.size // PER_BLOCK), 1, 1), (target, bias, y), sizes)


def finish_of(activation: str | None, kind: str) -> Kernel:
    """Return the kernel that adds the pieces of sums of a kind."""
    return finish(activation, np.dtype(np.float32)) if kind == "tf32" else _formats.finish(kind, activation)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """Yield the kernels that the compile gate looks at, by name: every layout and way of gathering; bfloat16 stands for float16."""
    for kind in ("tf32", "bf16"):
        long = 16 if kind == "tf32" else 32
        ways = {
            "NCHW aligned": (16, False, False, True),
            "NCHW any channels": (16, False, False, False),
            "NHWC any channels": (16, True, False, False),
            "NHWC vectors": (long, True, True, True),
            "NHWC short vectors": (long // 2, True, True, True),
        }
        for columns, (name, (slab, last, vectors, aligned)) in itertools.product((128, 64), ways.items()):
            yield f"tensor {kind} 128×{columns} {name}", kernel(Variant(kind, 128, columns, slab, last, vectors, aligned, False, "relu", False))
        yield f"tensor {kind} partial", kernel(Variant(kind, 64, 64, 16, False, False, True, True, None, True))
        yield f"tensor pack {kind}", pack(kind)
        yield f"tensor finish {kind}", finish_of("gelu", kind)
    yield "tensor f16 128×128", kernel(Variant("f16", 128, 128, 32, True, True, True, True, None, False))
