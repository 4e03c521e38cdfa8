"""Register-tile micro-kernels: the only place that emits LLVM IR.

A micro-kernel keeps ROWS × VECTORS accumulators in vector registers over one loop: VECTORS loads and ROWS broadcasts feed
ROWS·VECTORS multiply-adds. LLVM's own vectoriser spills such a tile; written as phi nodes it runs at the speed of the FMA units.
"""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@dataclass(frozen=True)
class Isa:
    """An instruction set as a tile sees it: the bytes of a vector and the shape that fills its registers."""

    name: str
    vector_bytes: int
    rows: int
    vectors: int

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Elements of a tile's row."""
        return self.vectors * self.vector_bytes // dtype.itemsize


# Accumulators + loaded vectors + one broadcast must fit the registers: 32 of 64 bytes, 16 of 32, 32 of 16, and 16 of 16 (SSE2).
ISAS = {isa.name: isa for isa in (Isa("avx512", 64, 8, 3), Isa("avx2", 32, 4, 3), Isa("neon", 16, 8, 3), Isa("portable", 16, 4, 2))}


@functools.cache
def host() -> Isa:
    """Return the widest instruction set of this CPU."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return ISAS["avx512"]
    if features.get("avx2") and features.get("fma"):
        return ISAS["avx2"]
    return ISAS["neon" if platform.machine() in ("aarch64", "arm64") else "portable"]


@functools.cache
def multiply_tile(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Return a compiled-code function (panel, pi, weights, wi, count, tile, ti) -> None for count ≥ 1.

    It computes tile[ti + r·L + l] = Σ_k weights[wi + k·ROWS + r] · panel[pi + k·L + l] over count steps of k.
    """
    rows, vectors, lanes = isa.rows, isa.vectors, isa.lanes(dtype)
    scalar = ir.FloatType() if dtype == np.float32 else ir.DoubleType()
    width = lanes // vectors
    vector = ir.VectorType(scalar, width)
    suffix = f"v{width}{'f32' if dtype == np.float32 else 'f64'}"

    @intrinsic
    def multiply(typing, panel, pi, weights, wi, count, tile, ti):  # type: ignore[no-untyped-def]
        signature = types.void(panel, types.int64, weights, types.int64, types.int64, tile, types.int64)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            panel, pi, weights, wi, count, tile, ti = arguments
            data = [context.make_array(t)(context, builder, v).data for t, v in zip(signature.args[::2][:2], (panel, weights), strict=True)]
            out = builder.gep(context.make_array(signature.args[5])(context, builder, tile).data, [ti])
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{suffix}")
            before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("done")
            starts = [builder.gep(data[0], [pi]), builder.gep(data[1], [wi])]
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(ir.IntType(64))
            x, w = (builder.phi(start.type) for start in starts)
            sums = [builder.phi(vector) for _ in range(rows * vectors)]
            loads = []
            for v in range(vectors):
                pointer = builder.bitcast(builder.gep(x, [ir.Constant(ir.IntType(64), v * width)]), vector.as_pointer())
                loads.append(builder.load(pointer, align=dtype.itemsize))
            results = []
            for r in range(rows):
                value = builder.load(builder.gep(w, [ir.Constant(ir.IntType(64), r)]))
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
                factor = builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)
                results += [builder.call(fma, [factor, loads[v], sums[r * vectors + v]]) for v in range(vectors)]
            following = builder.add(k, ir.Constant(ir.IntType(64), 1))
            steps = [builder.gep(p, [ir.Constant(ir.IntType(64), n)]) for p, n in ((x, lanes), (w, rows))]
            zero = ir.Constant(vector, [ir.Constant(scalar, 0.0)] * width)
            for phi, first, later in zip((k, x, w, *sums), (ir.Constant(ir.IntType(64), 0), *starts, *[zero] * len(sums)),
                                         (following, *steps, *results), strict=True):  # fmt: skip
                phi.add_incoming(first, before)
                phi.add_incoming(later, loop)
            builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
            builder.position_at_end(after)
            for n, value in enumerate(results):
                pointer = builder.bitcast(builder.gep(out, [ir.Constant(ir.IntType(64), n * width)]), vector.as_pointer())
                builder.store(value, pointer, align=dtype.itemsize)
            return context.get_dummy_value()

        return signature, generate

    return multiply
