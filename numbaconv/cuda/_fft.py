"""The fused kernel of `fft`: a tile of a signal through both transforms in one block, for one channel a group and one axis.

Two tiles of real numbers are the real and the imaginary part of one complex transform: as the filter is real, so are both results.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._prims import divide, forgotten, gathered, int32, load2, raise_flag, spread, store2, within
from numbaconv.cuda._radix import EACH, Pass, leaves_at, mul, passes, place, shared_elements, transforms, turn_eights, turn_sixteen
from numbaconv.cuda._store import activation as activation_of

NOWHERE = -(2**30)  # an input index that no signal has


class Fused(NamedTuple):
    """What the kernel takes by value."""

    pairs: int  # of tiles of one channel; of complex numbers every tile is by itself
    members: int  # tiles of one channel, of all images
    tiles: int  # of one image
    valid: int  # outputs of a tile, before a stride leaves some of them out
    low: int
    size: int
    input_dilation: int
    outputs: int
    stride: int
    rows: int  # filters of a channel
    x_n: int  # elements of x from one image, channel, … to the next
    x_c: int
    x_w: int
    y_n: int
    y_k: int
    y_w: int
    taps: int
    dilation: int
    flipped: int
    has_bias: int = 0


def _turner(made: Pass, threads: int) -> Any:
    """Return what multiplies a thread's numbers with the factors of a pass."""
    before, first = made.before, made.factors
    apart = threads % before  # the second transform of 8 has factors of its own unless this is 0

    def read(table, power, at):  # type: ignore[no-untyped-def]
        return load2(table, int32(2 * (first + power * before + at % before)))

    read = device(read)

    def turn(table, z, t):  # type: ignore[no-untyped-def]
        return turn_sixteen(z, read(table, 0, t), read(table, 1, t), read(table, 2, t), read(table, 3, t))

    def turn_twice(table, z, t):  # type: ignore[no-untyped-def]
        v1, v2, v4 = read(table, 0, t), read(table, 1, t), read(table, 2, t)
        w1, w2, w4 = v1, v2, v4
        if apart:
            u = int32(t + threads)
            w1, w2, w4 = read(table, 0, u), read(table, 1, u), read(table, 2, u)
        return turn_eights(z, v1, v2, v4, w1, w2, w4)

    return device(turn if made.radix == EACH else turn_twice)


def _leaver(made: Pass, threads: int, plane: int) -> Any:
    """Return what leaves a thread's results of a pass in shared memory."""
    before, radix, shift, pad = made.before, made.radix, made.shift, made.pad
    further = place(made, leaves_at(made, threads))  # from a thread's first transform of 8 to its second

    def leave(shared, z, t):  # type: ignore[no-untyped-def]
        block, rest = divide(t, before)
        at = int32(block * (before * radix) + rest)
        at = int32(at + (at >> shift) * pad)
        if radix == EACH:
            spread(shared, plane, at, before, z)
        else:
            spread(shared, plane, at, before, (z[0], z[2], z[4], z[6], z[8], z[10], z[12], z[14]))
            spread(shared, plane, int32(at + further), before, (z[1], z[3], z[5], z[7], z[9], z[11], z[13], z[15]))

    return device(leave)


def _taker(made: Pass, threads: int, plane: int) -> Any:
    """Return what reads the numbers of a thread's next pass."""
    shift, pad, one, two = made.shift, made.pad, place(made, threads), place(made, 2 * threads)

    def take(shared, t):  # type: ignore[no-untyped-def]
        return gathered(shared, plane, int32(t + (t >> shift) * pad), one, two)

    return device(take)


def _loader(dtype: np.dtype[Any], threads: int, complex_: bool, stepped: bool) -> Any:
    """Return what loads a thread's 16 numbers of a pair of tiles, zeros where there is no signal."""
    zero = dtype.type(0)

    def index(at, geo):  # type: ignore[no-untyped-def]
        if stepped:
            if at < int32(0):
                return int32(-1)
            found, rest = divide(at, geo.input_dilation)
            at = found if rest == int32(0) else int32(-1)
        return int32(at * geo.x_w) if within(at, geo.size) else int32(-1)

    index = device(index)

    def pick(x, base, at, geo):  # type: ignore[no-untyped-def]
        found = index(at, geo)
        return x[int32(base + found)] if found >= int32(0) else zero

    pick = device(pick)

    def of_two(x, p, q, by, geo):  # type: ignore[no-untyped-def]
        return pick(x, p[0], int32(p[1] + by), geo), pick(x, q[0], int32(q[1] + by), geo)

    def of_complex(x, p, q, by, geo):  # type: ignore[no-untyped-def]
        found = index(int32(p[1] + by), geo)
        return load2(x, int32(2 * (p[0] + found))) if found >= int32(0) else (zero, zero)

    one = device(of_complex if complex_ else of_two)

    def start(member, channel, geo):  # type: ignore[no-untyped-def]
        n, tile = divide(member, geo.tiles)
        return int32(n * geo.x_n + channel * geo.x_c), int32(tile * geo.valid - geo.low if member < geo.members else NOWHERE)

    start = device(start)

    def load(x, k, pair, t, geo):  # type: ignore[no-untyped-def]
        channel, _ = divide(k, geo.rows)
        first = int32(pair if complex_ else 2 * pair)
        p, q = start(first, channel, geo), start(int32(first + 1), channel, geo)
        p, q = (p[0], int32(p[1] + t)), (q[0], int32(q[1] + t))
        z0, z1, z2, z3 = one(x, p, q, 0, geo), one(x, p, q, threads, geo), one(x, p, q, 2 * threads, geo), one(x, p, q, 3 * threads, geo)
        z4, z5, z6 = one(x, p, q, 4 * threads, geo), one(x, p, q, 5 * threads, geo), one(x, p, q, 6 * threads, geo)
        z7, z8, z9 = one(x, p, q, 7 * threads, geo), one(x, p, q, 8 * threads, geo), one(x, p, q, 9 * threads, geo)
        z10, z11, z12 = one(x, p, q, 10 * threads, geo), one(x, p, q, 11 * threads, geo), one(x, p, q, 12 * threads, geo)
        z13, z14, z15 = one(x, p, q, 13 * threads, geo), one(x, p, q, 14 * threads, geo), one(x, p, q, 15 * threads, geo)
        return z0, z1, z2, z3, z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, z14, z15

    return device(load)


def _tap_loader(dtype: np.dtype[Any], size: int, complex_: bool) -> Any:
    """Return what loads a thread's 16 numbers of a filter: tap r is at −r·dilation, so that products of spectra are correlations."""
    zero, scale, threads = dtype.type(0), dtype.type(1 / size), size // EACH

    def one(w, k, at, geo):  # type: ignore[no-untyped-def]
        at = int32(at + (geo.taps - 1) * geo.dilation)
        if at >= size:
            at = int32(at - size)
        tap, rest = divide(at, geo.dilation)
        if rest != int32(0) or tap >= geo.taps:
            return zero, zero
        if geo.flipped == 0:
            tap = int32(geo.taps - 1 - tap)
        tap = int32(k * geo.taps + tap)
        if complex_:
            re, im = load2(w, int32(2 * tap))
            return re * scale, im * scale
        return w[tap] * scale, zero

    one = device(one)

    def load(w, k, pair, t, geo):  # type: ignore[no-untyped-def]
        z0, z1, z2 = one(w, k, t, geo), one(w, k, int32(t + threads), geo), one(w, k, int32(t + 2 * threads), geo)
        z3, z4, z5 = one(w, k, int32(t + 3 * threads), geo), one(w, k, int32(t + 4 * threads), geo), one(w, k, int32(t + 5 * threads), geo)
        z6, z7, z8 = one(w, k, int32(t + 6 * threads), geo), one(w, k, int32(t + 7 * threads), geo), one(w, k, int32(t + 8 * threads), geo)
        z9, z10, z11 = one(w, k, int32(t + 9 * threads), geo), one(w, k, int32(t + 10 * threads), geo), one(w, k, int32(t + 11 * threads), geo)
        z12, z13 = one(w, k, int32(t + 12 * threads), geo), one(w, k, int32(t + 13 * threads), geo)
        z14, z15 = one(w, k, int32(t + 14 * threads), geo), one(w, k, int32(t + 15 * threads), geo)
        return z0, z1, z2, z3, z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, z14, z15

    return device(load)


def _multiplier(threads: int) -> Any:
    """Return what multiplies with the filter's spectrum; real and imaginary parts change places, which makes the next transform an inverse."""

    def one(z, spectra, at):  # type: ignore[no-untyped-def]
        product = mul(z, load2(spectra, int32(2 * at)))
        return product[1], product[0]

    one = device(one)

    def multiply(z, spectra, at):  # type: ignore[no-untyped-def]
        z0, z1, z2 = one(z[0], spectra, at), one(z[1], spectra, at + threads), one(z[2], spectra, at + 2 * threads)
        z3, z4, z5 = one(z[3], spectra, at + 3 * threads), one(z[4], spectra, at + 4 * threads), one(z[5], spectra, at + 5 * threads)
        z6, z7, z8 = one(z[6], spectra, at + 6 * threads), one(z[7], spectra, at + 7 * threads), one(z[8], spectra, at + 8 * threads)
        z9, z10, z11 = one(z[9], spectra, at + 9 * threads), one(z[10], spectra, at + 10 * threads), one(z[11], spectra, at + 11 * threads)
        z12, z13 = one(z[12], spectra, at + 12 * threads), one(z[13], spectra, at + 13 * threads)
        z14, z15 = one(z[14], spectra, at + 14 * threads), one(z[15], spectra, at + 15 * threads)
        return z0, z1, z2, z3, z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, z14, z15

    return device(multiply)


def _keeper(threads: int) -> Any:
    """Return what stores a thread's 16 numbers of a spectrum."""

    def keep(spectra, at, z):  # type: ignore[no-untyped-def]
        by = int32(2 * threads)
        at = int32(2 * at)
        keep_four(spectra, at, by, z[0], z[1], z[2], z[3])
        keep_four(spectra, int32(at + 4 * by), by, z[4], z[5], z[6], z[7])
        keep_four(spectra, int32(at + 8 * by), by, z[8], z[9], z[10], z[11])
        keep_four(spectra, int32(at + 12 * by), by, z[12], z[13], z[14], z[15])

    return device(keep)


@device
def keep_four(spectra, at, by, a, b, c, d):  # type: ignore[no-untyped-def]
    """Store four complex numbers."""
    store2(spectra, at, a)
    store2(spectra, int32(at + by), b)
    store2(spectra, int32(at + 2 * by), c)
    store2(spectra, int32(at + 3 * by), d)


def _storer(dtype: np.dtype[Any], threads: int, complex_: bool, stepped: bool, activation: str | None) -> Any:
    """Return what stores the outputs among a thread's 16 numbers, and returns NaN if one of them is not finite, else 0."""
    zero, activate = dtype.type(0), activation_of(activation, dtype)

    def index(at, first, geo):  # type: ignore[no-untyped-def]
        # −1 for what is no output: beyond the tile, between strides, or beyond the last.
        if at >= geo.valid:
            return int32(-1)
        at = int32(at + first)
        if stepped:
            found, rest = divide(at, geo.stride)
            at = found if rest == int32(0) else geo.outputs
        return int32(at * geo.y_w) if at < geo.outputs else int32(-1)

    index = device(index)

    def put(y, p, at, value, shift, geo):  # type: ignore[no-untyped-def]
        found = index(at, p[1], geo)
        if found < int32(0):
            return zero
        y[int32(p[0] + found)] = activate(value + shift)
        return value * zero

    put = device(put)

    def of_two(y, p, q, at, z, shift, geo):  # type: ignore[no-untyped-def]
        return put(y, p, at, z[1], shift, geo) + put(y, q, at, z[0], shift, geo)

    def of_complex(y, p, q, at, z, shift, geo):  # type: ignore[no-untyped-def]
        found = index(at, p[1], geo)
        if found < int32(0):
            return zero
        store2(y, int32(2 * (p[0] + found)), (z[1], z[0]))
        return (z[0] + z[1]) * zero

    one = device(of_complex if complex_ else of_two)

    def four(y, p, q, at, a, b, c, d, shift, geo):  # type: ignore[no-untyped-def]
        strange = one(y, p, q, at, a, shift, geo) + one(y, p, q, int32(at + threads), b, shift, geo)
        return strange + one(y, p, q, int32(at + 2 * threads), c, shift, geo) + one(y, p, q, int32(at + 3 * threads), d, shift, geo)

    four = device(four)

    def start(member, k, geo):  # type: ignore[no-untyped-def]
        n, tile = divide(member, geo.tiles)
        return int32(n * geo.y_n + k * geo.y_k), int32(tile * geo.valid if member < geo.members else geo.outputs)

    start = device(start)

    def store(y, bias, k, pair, t, z, geo):  # type: ignore[no-untyped-def]
        first = int32(pair if complex_ else 2 * pair)
        p, q = start(first, k, geo), start(int32(first + 1), k, geo)
        shift = bias[k] if geo.has_bias else zero
        strange = four(y, p, q, t, z[0], z[1], z[2], z[3], shift, geo)
        strange += four(y, p, q, int32(t + 4 * threads), z[4], z[5], z[6], z[7], shift, geo)
        strange += four(y, p, q, int32(t + 8 * threads), z[8], z[9], z[10], z[11], shift, geo)
        return strange + four(y, p, q, int32(t + 12 * threads), z[12], z[13], z[14], z[15], shift, geo)

    return device(store)


@functools.cache
def kernel(dtype: np.dtype[Any], size: int, complex_: bool, stepped: bool, activation: str | None, packing: bool = False) -> Kernel:
    """Return the kernel for tiles of ``size`` numbers, or the one that transforms filters (``packing``).

    ``stepped`` ones know strides, of the output and of a dilated input.
    """
    threads, plane = size // EACH, shared_elements(size)
    both_planes, directions = 2 * plane, 1 if packing else 2
    one, two, three = passes(size)
    eights, sixteens = transforms(dtype)
    first, second, third = (eights if made.radix == 8 else sixteens for made in (one, two, three))
    leave_first, leave_second = _leaver(one, threads, plane), _leaver(two, threads, plane)
    take_second, take_third = _taker(one, threads, plane), _taker(two, threads, plane)
    turn_second, turn_third = _turner(two, threads), _turner(three, threads)
    load = _tap_loader(dtype, size, complex_) if packing else _loader(dtype, threads, complex_, stepped)
    multiply, keep, store = _multiplier(threads), _keeper(threads), _storer(dtype, threads, complex_, stepped, activation)
    zero = dtype.type(0)

    def overlap_save(x, spectra, table, y, bias, flags, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y = inverse(forward(x) · spectrum) on each tile; what wrapped around is left out. Or, packing: y = forward(x).
        # THE SCHEDULE: a block owns a pair of tiles of one channel and one filter, a thread 16 numbers of them in registers. Between the
        # three passes of a transform they change hands through shared memory; between the transforms, and between memory and the
        # first and last pass, no thread needs another's. The inverse is the forward transform with both parts exchanged.
        shared = cuda.shared.array(both_planes, dtype)
        t = int32(cuda.threadIdx.x)
        k, pair = divide(int32(cuda.blockIdx.x), geo.pairs)
        z = load(x, k, pair, t, geo)
        # Numbers of an address are made anew where they are needed, or there would be too few registers.
        for back in range(directions):
            z, t = first(z), forgotten(t)
            if back:
                cuda.syncthreads()
            leave_first(shared, z, t)
            cuda.syncthreads()
            z = second(turn_second(table, take_second(shared, t), t))
            cuda.syncthreads()
            leave_second(shared, z, t)
            cuda.syncthreads()
            z, t = third(turn_third(table, take_third(shared, t), t)), forgotten(t)
            if not packing and not back:
                z = multiply(z, spectra, int32(k * size + t))
        if packing:
            keep(y, int32(k * size + t), z)
        else:
            k, pair = divide(forgotten(int32(cuda.blockIdx.x)), geo.pairs)
            strange = store(y, bias, k, pair, t, z, geo)
            if not strange == zero:
                raise_flag(flags, int32(0))

    return Kernel(overlap_save, (dtype,) * 5 + (np.dtype(np.int32),), Fused, threads, max(1, 768 * 4 // dtype.itemsize // threads))
