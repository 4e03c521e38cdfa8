"""What one of each thing that an algorithm's `work` counts takes on one core, by instruction set and maker: the shipped cost models.

Each table was printed by benchmarks/calibrate.py on a CPU with those instructions; `warmup --tune` measures the machine at hand.
"""

from __future__ import annotations

from numbaconv.cpu import _isa

SECONDS: dict[str, dict[str, dict[str, float]]] = {
    # 2026-11, Intel Xeon (Emerald Rapids), 163 Gflop/s a core in float32
    "avx512": {
        "gemm": {
            "call": 9.8e-06, "copy": 2.2e-10, "transpose": 6.5e-10, "pack": 5.6e-11, "fma": 1.4e-11, "chunk": 3e-08, "store": 1.5e-12,
            "scatter": 3.6e-10,
        },
        "dots": {"call": 7e-06, "copy": 3.1e-10, "fma": 1.6e-11, "sum": 4.2e-08, "store": 3.6e-10},
        "winograd": {"call": 1.4e-05, "input": 2e-10, "weights": 2.3e-10, "fma": 1.9e-11, "output": 3.7e-10, "sum": 5.9e-11},
        "stencil": {
            "call": 1.1e-05, "copy": 2.4e-10, "strided": 6e-10, "fma": 1.9e-11, "micro": 7.6e-08, "dot": 2.6e-11, "chain": 6.5e-08,
            "pass": 5.2e-06, "row": 1.9e-11, "term": 2.3e-11, "sum": 9.7e-12, "move": 8.2e-11,
            # an AMD EPYC's (Zen 5, below), times 1.7, as its estimates of gemm were then too long
            "load": 5.6e-12, "factor": 1.2e-11, "stream": 4.5e-11, "turn": 1.2e-10, "lane": 1.3e-11,
            "far": 3e-11,  # by hand: 3→64 3×3 @224 took gemm 2.3 ms and older strips 4.1; the EPYC takes 0.86 and 0.71
        },
        "fir": {"call": 9.1e-06, "row": 1e-07, "output": 1.8e-10, "fma": 2.4e-11},
        "fft": {"call": 1.4e-05, "element": 1.1e-10, "stage": 9.7e-11, "filter": 1e-10, "multiply": 5.1e-10, "pair": 1.2e-07, "line": 2.9e-08},
        "direct": {
            "call": 4.7e-06, "loop": 2.2e-08, "four": 1.7e-10, "one": 4e-11, "strided": 7.3e-10, "strided one": 4.7e-11,
            "store": 2.6e-10, "dots": 4.8e-08, "dot": 2.6e-08, "four dots": 1.8e-12, "strided dots": 1.9e-10,
        },
    },
    # 2026-11, AMD EPYC (Zen 5), 242 Gflop/s a core in float32; a Zen 4 takes it unmeasured. By hand after benchmarks.choice, since the fit had
    # gemm's multiply-adds faster than the units: gemm's fma, chunk and scatter, dots' fma, winograd's weights, stencil's dot and chain, fft's
    # stage and multiply, direct's dot.
    "avx512 zen": {
        "gemm": {
            # transpose: by hand, too; 1.5e-10 from the caches and 3.1e-10 from memory
            "call": 7.9e-06, "copy": 7.9e-11, "transpose": 2e-10, "pack": 5.8e-11, "fma": 8.5e-12, "chunk": 2.2e-08, "store": 9.3e-13,
            "scatter": 1.2e-09,
        },
        "dots": {"call": 4e-06, "copy": 2.1e-10, "fma": 1.02e-11, "sum": 2e-08, "store": 2.3e-10},
        "winograd": {"call": 8.2e-06, "input": 1.1e-10, "weights": 1.8e-10, "fma": 8.1e-12, "output": 1.8e-10, "sum": 3.6e-11},
        "stencil": {
            "call": 6.1e-06, "copy": 1e-10, "strided": 3.3e-10, "fma": 1.1e-11, "micro": 3.8e-08, "dot": 1.4e-11, "chain": 2e-08,
            # 0.6 of the Xeon's, as gemm's fma is, so that what is chosen among slabs and gemm stays as it was measured; strips' and planes' own below
            "pass": 3.2e-06, "row": 1.15e-11, "term": 1.4e-11, "sum": 5.9e-12, "move": 5e-11, "far": 1.8e-11,
            "load": 3.4e-12, "factor": 7.1e-12, "stream": 2.7e-11, "turn": 7e-11, "lane": 7.6e-12,
        },
        "fir": {"call": 4.2e-06, "row": 1.1e-07, "output": 2.3e-11, "fma": 1.6e-11},
        "fft": {"call": 9e-06, "element": 1.1e-10, "stage": 6.5e-11, "filter": 3.6e-11, "multiply": 3.5e-10, "pair": 1.2e-07, "line": 1.7e-08},
        "direct": {
            "call": 2.7e-06, "loop": 1.6e-08, "four": 6.6e-11, "one": 2.4e-11, "strided": 2.1e-10, "strided one": 3.3e-11,
            "store": 1.5e-10, "dots": 2.3e-08, "dot": 1.6e-08, "four dots": 1.3e-12, "strided dots": 5.9e-11,
        },
    },
    # 2026-11, AMD EPYC (Zen 3), 87 Gflop/s a core in float32
    "avx2": {
        "gemm": {
            "call": 3.6e-05, "copy": 1.9e-09, "transpose": 1.1e-09, "pack": 2e-10, "fma": 2.8e-11, "chunk": 2.7e-08, "store": 2.9e-12,
            "scatter": 7.6e-10,
        },
        "dots": {"call": 8.6e-06, "copy": 9.4e-10, "fma": 6.2e-11, "sum": 4e-08, "store": 4.7e-10},
        "winograd": {"call": 2.5e-05, "input": 4.5e-10, "weights": 3.1e-10, "fma": 2.2e-11, "output": 8e-10, "sum": 3.6e-10},
        "stencil": {
            "call": 1.8e-05, "copy": 2.7e-10, "strided": 8.5e-10, "fma": 3.9e-11, "micro": 1.8e-08, "dot": 3.9e-11,
            # row and term: the fit gave all to the rows; shared out so that 3×3 and 7×7 are both right
            "chain": 5.5e-08, "pass": 9.1e-06, "row": 9e-11, "term": 1.2e-11, "sum": 3.8e-11, "move": 1.2e-10,
            "load": 1.1e-11, "factor": 2.7e-11, "stream": 1.2e-10,  # not measured, since there are no strips with AVX2
            "far": 4.8e-10, "turn": 8e-11, "lane": 2.5e-11,  # the same EPYC's (Zen 5) 5.4e-11 and 1.8e-11 with AVX2, likewise
        },
        "direct": {
            "call": 6.9e-06, "loop": 2.6e-08, "four": 2.6e-10, "one": 4.4e-11, "strided": 1.1e-09, "strided one": 7.2e-11,
            "store": 4.7e-10, "dots": 5.7e-08, "dot": 3.8e-08, "four dots": 2.1e-12, "strided dots": 3.7e-10,
        },
        "fir": {"call": 1e-05, "row": 1e-07, "output": 4e-10, "fma": 5e-11},
        "fft": {"call": 4e-05, "element": 2e-10, "stage": 1.6e-10, "filter": 6e-10, "multiply": 6e-10, "pair": 3e-07, "line": 4e-08},
    },
}  # fmt: skip


def of(algorithm: str) -> dict[str, float]:
    """Return an algorithm's coefficients, its own to change: those of this CPU's instruction set and maker, or of the nearest."""
    wide = "avx512 zen" if _isa.cpu().startswith("znver") else "avx512"
    return dict(SECONDS[wide if _isa.host().vector_bytes >= 64 else "avx2"][algorithm])
