"""Finite impulse responses: one axis, one channel in a group, taps straight from memory (floats, real and complex).

Nothing is copied and nothing planned for: a few vectors of outputs stay in registers over all taps, each of which is a broadcast and
a load at its offset. Where taps reach beyond the input, outputs are summed tap by tap over those that it meets. Short
signals are computed in one call (`convolve`), long ones in chunks that threads share. dgrad is the fprop of the transposed problem.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange

from numbaconv._jit import Kernel, compiled, inline, unsigned
from numbaconv.cpu import _isa, _parallel, _seconds
from numbaconv.cpu._emit import Vectors, vector_code
from numbaconv.cpu._isa import Isa
from numbaconv.cpu.bias import CODES, activate
from numbaconv.problem import ConvProblem, Op, Options, Unsupported

MOST_TAPS = 256  # summed one after the other; of positive numbers 1,152 terms are 9.5 eps off, beyond the bound of 8
DTYPES = {np.dtype(letter) for letter in "fdFD"}
CHUNK = 1 << 13  # outputs of a job
VECTORS = 8  # of outputs in registers: with a load for each, more would not be faster

SECONDS = _seconds.of("fir")  # for one of each that `work` counts
Array = np.ndarray[Any, Any]


def work(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> dict[str, float]:
    """Count what takes time, or say why it can't be done. Elements count by their size, in float32's."""
    if dtype not in DTYPES:
        raise Unsupported(f"needs float32/64 or complex64/128, got {dtype.name}")
    if op == "wgrad":
        raise Unsupported("needs an operation that is summed over taps, got wgrad")
    p = problem.transpose() if op == "dgrad" else problem
    if p.in_channels != p.groups or p.out_channels != p.groups or (p.channels_last and p.groups > 1):
        raise Unsupported("needs one channel in and out of each group, in front of the axis")
    if p.filter[:2] != (1, 1) or p.input[:2] != (1, 1) or p.output[:2] != (1, 1) or p.low[:2] != (0, 0):
        raise Unsupported(f"needs one axis, got a filter of {p.filter} and an input of {p.input}")
    if p.stride != (1, 1, 1) or p.input_dilation != (1, 1, 1):
        raise Unsupported(f"needs a stride and an input dilation of 1, got {p.stride} and {p.input_dilation}")
    if p.filter[2] > MOST_TAPS:
        raise Unsupported(f"needs at most {MOST_TAPS} taps, got {p.filter[2]}")
    if 0 in (p.batch, p.groups, p.input[2]):
        raise Unsupported("needs a sum of at least one term")
    outputs = p.batch * p.groups * p.output[2] * dtype.itemsize / 4
    return {"call": 1.0, "row": float(p.batch * p.groups), "output": outputs, "fma": outputs * p.filter[2] * (1.25 if dtype.kind == "c" else 1)}


def cost(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> float:
    """Estimate the seconds on one core, or say why it can't be done."""
    key = ("fir seconds", op, dtype)
    if key not in problem.derived:
        problem.derived[key] = sum(SECONDS[name] * count for name, count in work(problem, op, dtype).items())
    return problem.derived[key]


def workspace(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> int:
    """Bytes allocated besides the output: none."""
    return 0


def run(problem: ConvProblem, op: Op, a: Array, b: Array, out: Array, options: Options) -> None:
    """Overwrite all of ``out``."""
    p = problem.transpose() if op == "dgrad" else problem
    rows, outputs = p.batch * p.groups, p.output[2]
    chunks = -(-outputs // CHUNK)
    bias = np.empty(0, out.dtype) if options.bias is None else options.bias
    arguments = (
        a.reshape(-1), b.reshape(-1), out.reshape(-1), p.input[2], outputs, p.filter[2], p.dilation[2], p.low[2], p.flipped, p.groups, chunks,
        bias, CODES[options.activation],
    )  # fmt: skip
    _parallel.run(_kernel(_isa.host(), out.dtype), rows * chunks, (0, out.dtype), arguments, cost(problem, op, out.dtype))


def convolve(x: Array, h: Array, reverse: bool, start: int, y: Array) -> None:
    """Fill y with the full convolution of x with h, or with h reversed, from ``start`` on; vectors, contiguous, of one dtype."""
    taps = len(h)
    whole = _whole(_isa.host(), y.dtype)
    whole(x, h, y, taps - 1 - start, not reverse)


@inline
def _edge(x, from_, size, h, at, step, taps, spread, y, to, first, last, low):  # type: ignore[no-untyped-def]
    """Compute the outputs first … last − 1 tap by tap, each tap where it meets the input."""
    for o in range(first, last):
        y[unsigned(to + o)] = 0
    for r in range(taps):
        tap, shift = h[unsigned(at + r * step)], r * spread - low
        for o in range(max(first, -shift), min(last, size - shift)):
            y[unsigned(to + o)] += x[unsigned(from_ + o + shift)] * tap


@functools.cache
def _inner(isa: Isa, dtype: np.dtype[Any], vectors: int) -> Any:
    """Return a compiled-code function (x, at, h, at, step, taps, spread, y, at, count) -> None: groups of ``vectors`` vectors of outputs.

    Vector v of group g is Σ_r x[at + (g·vectors + v)·width + r·spread] · h[at + r·step]. A complex vector is half as wide, real and imaginary
    parts side by side: there are sums with the real part of h and with its imaginary part, in the second of which they change places.
    """
    if dtype.kind == "c":
        return _inner_complex(isa, _part(dtype), vectors)

    @vector_code(isa, dtype, "x[] h[] step taps spread y[] count")
    def run(v: Vectors, x, h, step, taps, spread, y, count):  # type: ignore[no-untyped-def]
        def group(g, _):  # type: ignore[no-untyped-def]
            place = v.at(x, (g, vectors * v.width))

            def tap(r, sums):  # type: ignore[no-untyped-def]
                factor = v.splat(v.builder.load(v.at(h, (r, step))))
                row = v.at(place, (r, spread))
                return v.here([v.fma(v.load(row, n), factor, total) for n, total in enumerate(sums)])

            for n, total in enumerate(v.loop(taps, [v.zero] * vectors, tap)):
                v.store(total, v.at(y, (g, vectors * v.width)), n)
            return []

        v.loop(count, [], group)

    return run


def _part(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a number's real part."""
    return np.dtype(dtype.type(0).real)


def _inner_complex(isa: Isa, part: np.dtype[Any], vectors: int) -> Any:
    vectors = -(-vectors // 2)  # twice as many sums

    @vector_code(isa, part, "x[] h[] step taps spread y[] count")
    def run(v: Vectors, x, h, step, taps, spread, y, count):  # type: ignore[no-untyped-def]
        builder, places = v.builder, v.scalar.as_pointer()
        x, h, y = (builder.bitcast(pointer, places) for pointer in (x, h, y))
        swapped = [lane ^ 1 for lane in range(v.width)]
        signs = ir.Constant(v.type, [ir.Constant(v.scalar, 2.0 * (lane % 2) - 1) for lane in range(v.width)])

        def group(g, _):  # type: ignore[no-untyped-def]
            start = v.at(x, (g, vectors * v.width))

            def tap(r, sums):  # type: ignore[no-untyped-def]
                factors = [v.splat(builder.load(v.at(h, (r, step, 2), n))) for n in range(2)]
                row = v.at(start, (r, spread, 2))
                values = [v.load(row, n) for n in range(vectors)]
                return v.here([v.fma(values[n // 2], factors[n % 2], total) for n, total in enumerate(sums)])

            sums = v.loop(taps, [v.zero] * (2 * vectors), tap)
            for n in range(vectors):
                turned = v.shuffle(sums[2 * n + 1], sums[2 * n + 1], swapped)
                v.store(v.fma(turned, signs, sums[2 * n]), v.at(y, (g, vectors * v.width)), n)
            return []

        v.loop(count, [], group)

    return run


@functools.cache
def row_code(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Make the function of the outputs first … last − 1 of a row."""
    many, one = _inner(isa, dtype, VECTORS), _inner(isa, dtype, 1)
    width = isa.vector_bytes // dtype.itemsize
    group = VECTORS // (1 + (dtype.kind == "c")) * width
    float_ = dtype in DTYPES

    @inline
    def row(x, from_, size, h, at, step, taps, spread, y, to, first, last, low):  # type: ignore[no-untyped-def]
        # All taps meet the input from start to stop; the last vectors of that overlap the ones before.
        start = min(last, max(first, low))
        stop = max(start, min(last, size - (taps - 1) * spread + low))
        if not float_ or stop - start < width:
            _edge(x, from_, size, h, at, step, taps, spread, y, to, first, last, low)
            return
        _edge(x, from_, size, h, at, step, taps, spread, y, to, first, start, low)
        _edge(x, from_, size, h, at, step, taps, spread, y, to, stop, last, low)
        o, shift = start, from_ - low
        if stop - o >= group:
            many(x, shift + o, h, at, step, taps, spread, y, to + o, (stop - o) // group)
            o += (stop - o) // group * group
        if stop - o >= width:
            one(x, shift + o, h, at, step, taps, spread, y, to + o, (stop - o) // width)
            o += (stop - o) // width * width
        if o < stop:
            one(x, shift + stop - width, h, at, step, taps, spread, y, to + stop - width, 1)

    return row


@inline
def _as_it_is(y, at, n, code):  # type: ignore[no-untyped-def]
    """Stand for `activate` where nothing is defined but the identity: for complex numbers."""


@functools.cache
def _kernel(isa: Isa, dtype: np.dtype[Any]) -> Kernel:
    row, finish = row_code(isa, dtype), activate if dtype.kind == "f" else _as_it_is

    def fir(first, last, workers, scratch, x, h, y, size, outputs, taps, spread, low, flipped, groups, chunks, bias, code):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,o] = Σ_r x[n, o + r·spread − low] · h[n mod groups, r].
        # THE SCHEDULE: a tile is a chunk of a row's outputs; vectors of them stay in registers over all taps.
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                n, start = tile // chunks, tile % chunks * CHUNK
                stop, group = min(outputs, start + CHUNK), n % groups
                at, step = (group * taps + taps - 1, -1) if flipped else (group * taps, 1)
                row(x, n * size, size, h, at, step, taps, spread, y, n * outputs, start, stop, low)
                if bias.size:
                    for o in range(n * outputs + start, n * outputs + stop):
                        y[o] += bias[group]
                finish(y, n * outputs + start, stop - start, code)

    return Kernel(fir, f"-{isa.name}-{dtype.name}")


@functools.cache
def _whole(isa: Isa, dtype: np.dtype[Any]) -> Any:
    """Compile the function of one vector; integers are summed tap by tap."""
    row = row_code(isa, dtype) if dtype in DTYPES else None

    def whole(x, h, y, low, flipped):  # type: ignore[no-untyped-def]
        at, step = (len(h) - 1, -1) if flipped else (0, 1)
        if row is None:
            _edge(x, 0, len(x), h, at, step, len(h), 1, y, 0, 0, len(y), low)
        else:
            for start in range(0, len(y), CHUNK):
                row(x, 0, len(x), h, at, step, len(h), 1, y, 0, start, min(len(y), start + CHUNK), low)

    return compiled(whole, f"fir-whole-{isa.name}-{dtype.name}")
