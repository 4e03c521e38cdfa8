"""The least time that a layer can take on this machine: by its arithmetic at the measured peak, or by its data at the measured bandwidth.

``floor`` is the largest of three times, so that no kernel of the same algorithms is faster:

- the multiply-adds that meet data, not padding, at the speed of the register-tile micro-kernel on operands that stay in the L1
  cache. Winograd's tiles of 4 outputs need half of all on each axis of 3 taps, three quarters with a stride of 2, padding counted: the
  fewer are taken where networks have such layers: float32, 3×3 taps on the last two axes or 3 on the last (others have a single one), a
  stride of 1 or 2 there, dilation 1, one group, at least 16 channels in and out; for all three operations alike. Others that numbaconv
  may compute so (3×3×3 taps, float64, fewer channels), and FFT, which needs fewer still for large filters, are not counted;
- each element of the two operands and the result moved once, at the speed of a triad a + s·b → c whose arrays are as far away as
  the layer's: in a shared cache for up to CACHED bytes, in memory beyond;
- the call of a compiled function.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from benchmarks.cases import Array, Layer, random
from numbaconv._jit import FASTMATH
from numbaconv.cpu import _isa, _simd_tile

CACHED = 16 << 20  # bytes; between the two working sets below
NEAR, FAR = 8 << 20, 96 << 20  # bytes of the triads' three arrays, of all threads together
SECONDS = 1.0  # for each measurement: long enough to outlast what a neighbour does
STEPS = 128  # of the micro-kernel: its panel takes half of a 48 KB cache
compiled = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", _nrt=False)


@dataclass(frozen=True)
class Roofline:
    """What the machine can do, with the dtype and the threads that it was measured with."""

    flops: float  # per second
    cache: float  # bytes per second
    memory: float
    call: float  # seconds

    def floor(self, layer: Layer, dtype: str) -> tuple[float, str]:
        """Return the least seconds of one operation, and what they are spent on."""
        size = layer.elements * np.dtype(dtype).itemsize
        near = size <= CACHED
        times = {
            "multiply-adds": 2 * useful_macs(layer) / self.flops,
            "cache" if near else "memory": size / (self.cache if near else self.memory),
            "call": self.call,
        }
        if (fewer := winograd_share(layer, dtype) * 2 * layer.macs / self.flops) < times["multiply-adds"]:
            times["Winograd"] = fewer
            del times["multiply-adds"]
        return max((seconds, limit) for limit, seconds in times.items())

    def __str__(self) -> str:
        """Say it in words."""
        bandwidths = f"{self.cache / 1e9:.0f} GB/s from cache, {self.memory / 1e9:.0f} from memory"
        return f"{self.flops / 1e9:.0f} Gflop/s, {bandwidths}, {self.call * 1e6:.1f} µs a call"


def useful_macs(layer: Layer) -> int:
    """Return the multiply-adds whose input lies inside the array."""
    p, pairs = layer.problem, 1
    for i, r, o, stride, dilation, low in zip(p.input, p.filter, p.output, p.stride, p.dilation, p.low, strict=True):
        index = np.add.outer(np.arange(o) * stride, np.arange(r) * dilation - low)
        pairs *= int(np.count_nonzero((index >= 0) & (index < i)))
    return p.batch * p.out_channels * (p.in_channels // p.groups) * pairs


def winograd_share(layer: Layer, dtype: str) -> float:
    """Return which part of a layer's multiply-adds Winograd's algorithm needs, with tiles of 4 outputs an axis; 1 where it can't be used."""
    p = layer.problem
    axes = [axis for axis in range(3) if p.filter[axis] > 1]
    taps = axes in ([2], [1, 2]) and {p.filter[axis] for axis in axes} == {3} and p.stride[0] == 1
    if not taps or dtype != "float32" or p.groups > 1 or p.dilation != (1, 1, 1) or max(p.stride) > 2 or min(layer.w_shape[:2]) < 16:
        return 1.0
    return math.prod(0.5 if p.stride[axis] == 1 else 0.75 for axis in axes)


def measure(dtype: str, threads: int) -> Roofline:
    """Measure with ``threads`` threads at once; the best of what each of the three did."""
    with ThreadPoolExecutor(threads) as pool:

        def best(make: Callable[[], Callable[[], Any]]) -> float:
            functions = [make() for _ in range(threads)]
            end, least = time.perf_counter() + SECONDS, math.inf
            while least == math.inf or time.perf_counter() < end:
                start = time.perf_counter()
                list(pool.map(lambda function: function(), functions))
                least = min(least, time.perf_counter() - start)
            return least

        flops, products = _products(np.dtype(dtype))
        near, far = (_triads(dtype, size // threads) for size in (NEAR, FAR))
        bandwidths = [threads * moved / best(triads) for moved, triads in (near, far)]
        return Roofline(threads * flops / best(products), *bandwidths, _call(dtype))


def _products(dtype: np.dtype[Any]) -> tuple[int, Callable[[], Callable[[], Any]]]:
    """Return the operations of a millisecond or so of micro-kernels, and what makes a function that does them."""
    isa, repeats = _isa.host(), 1000
    multiply, lanes, line = _simd_tile.multiply(isa, dtype), isa.lanes(dtype), np.zeros(_simd_tile.LINE, np.int64)
    line[_simd_tile.COUNT] = isa.vectors

    @compiled
    def products(panel: Array, weights: Array, tile: Array) -> None:
        for _ in range(repeats):
            multiply(weights, 0, 1, panel, 0, 0, panel, 0, line, 0, 0, 0, 62, line, 0, STEPS, tile, 0, 0, 0, tile, 0, 0, 1, tile, 0, 0, 0)

    def make() -> Callable[[], Any]:
        arrays = [random((STEPS * lanes,), dtype.name), random((STEPS * isa.rows,), dtype.name), random((isa.rows * lanes,), dtype.name)]
        products(*arrays)
        return lambda: products(*arrays)

    return 2 * isa.rows * lanes * STEPS * repeats, make


def _triads(dtype: str, size: int) -> tuple[int, Callable[[], Callable[[], Any]]]:
    """Return the bytes that several triads move, of three arrays with ``size`` bytes, and what makes a function that moves them."""
    length, repeats = size // 3 // np.dtype(dtype).itemsize, max(1, FAR // size)

    def make() -> Callable[[], Any]:
        arrays = [random((length,), dtype) for _ in range(3)]
        _triad(*arrays, np.dtype(dtype).type(0.5), 1)
        return lambda: _triad(*arrays, np.dtype(dtype).type(0.5), repeats)

    return 3 * length * np.dtype(dtype).itemsize * repeats, make


def _call(dtype: str, calls: int = 1000) -> float:
    """Return the seconds of a call of a compiled function that does next to nothing."""
    arguments, times = [*(random((1,), dtype) for _ in range(3)), np.dtype(dtype).type(0.5), 1], []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(calls):
            _triad(*arguments)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


@compiled
def _triad(a: Array, b: Array, c: Array, s: Any, repeats: int) -> None:
    for _ in range(repeats):
        for i in range(a.size):
            c[i] = a[i] + s * b[i]
