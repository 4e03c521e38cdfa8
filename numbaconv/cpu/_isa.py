"""The instruction sets: the vectors and register tiles of each, and which one this CPU has."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np


@dataclass(frozen=True)
class Isa:
    """An instruction set as a tile sees it: the bytes of a vector and the shape that fills its registers."""

    name: str
    vector_bytes: int
    rows: int
    vectors: int
    stencil_rows: tuple[int, ...]  # of a stencil's tile, one vector wide
    masks: str  # what loads and stores through a mask: "registers" for it, an "instruction" (slow to store on many CPUs), or "none"

    def width(self, dtype: np.dtype[Any]) -> int:
        """Elements of a vector."""
        return self.vector_bytes // dtype.itemsize

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Elements of a tile's row."""
        return self.vectors * self.vector_bytes // dtype.itemsize


# Accumulators + loaded vectors + one broadcast must fit the registers: 32 of 64 bytes, 16 of 32, 32 of 16, and 16 of 16 (SSE2).
ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 64, 8, 3, (14, 7, 4), "registers"),
        Isa("avx2", 32, 4, 3, (7, 4), "instruction"),
        Isa("neon", 16, 8, 3, (14, 7, 4), "none"),
        Isa("portable", 16, 4, 2, (7, 4), "none"),
    )
}


@functools.cache
def features() -> frozenset[str]:
    """Return what this CPU has, in LLVM's names."""
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


@functools.cache
def cpu() -> str:
    """Return what this CPU is in LLVM's names."""
    return llvm.get_host_cpu_name()


@functools.cache
def widest() -> Isa:
    """Return the instruction set of this CPU."""
    if "avx512f" in features():
        return ISAS["avx512"]
    if {"avx2", "fma"} <= features():
        return ISAS["avx2"]
    return ISAS["neon" if platform.machine() in ("aarch64", "arm64") else "portable"]


def host() -> Isa:
    """Return the instruction set that kernels use: the widest of this CPU, unless tests put another in this function's place."""
    return widest()
