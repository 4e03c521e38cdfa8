"""What the fused kernel of `fft` loads and stores: pairs of tiles, filters, spectra; and how loud a tile is."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.cuda._backend import device
from numbaconv.cuda._fft_prims import load2, peek, poke, store2
from numbaconv.cuda._fft_radix import EACH, for_sixteen, largest_of, mul, sixteen_of, sum_of
from numbaconv.cuda._prims import divide, int32, within
from numbaconv.cuda._store import activation as activation_of

NOWHERE = -(2**30)  # an input index that no signal has
# A number dominates its tile, which is then better computed directly, if it has more than a 16th of its energy and 128 times its share.
PEAKED, SHARE = 16, 128


def loader(dtype: np.dtype[Any], threads: int, complex_: bool, plain: bool) -> Any:
    """Return what loads a thread's 16 numbers of a pair of tiles, or of one of them (part 1 or 2), zeros where there is no signal."""
    zero, size, parts = dtype.type(0), threads * EACH, 1 + complex_

    def pick(x, p, by, geo):  # type: ignore[no-untyped-def]
        # An index into the signal, or −1.
        at = int32(p[1] + by)
        if not plain:
            if at < int32(0):
                return int32(-1)
            at, rest = divide(at, geo.input_dilation)
            if rest != int32(0):
                return int32(-1)
        return int32((p[0] + at * geo.x_w) * parts) if within(at, geo.size) else int32(-1)

    pick = device(pick)

    def one_anywhere(a, by):  # type: ignore[no-untyped-def]
        x, p, q, geo = a
        at = pick(x, p, by, geo)
        if complex_:
            return load2(x, at, 0) if at >= int32(0) else (zero, zero)
        other = pick(x, q, by, geo)
        return x[at] if at >= int32(0) else zero, x[other] if other >= int32(0) else zero

    def one_inside(a, by):  # type: ignore[no-untyped-def]
        x, p, q, geo = a
        if complex_:
            return load2(x, int32(2 * (p[0] + p[1])), 2 * by)
        return peek(x, int32(p[0] + p[1]), by), peek(x, int32(q[0] + q[1]), by)

    def start(member, there, channel, geo):  # type: ignore[no-untyped-def]
        n, tile = divide(member, geo.tiles)
        there = there and member < geo.members
        return int32(n * geo.x_n + channel * geo.x_c), int32(tile * geo.valid - geo.low) if there else int32(NOWHERE)

    anywhere, inside, start = sixteen_of(device(one_anywhere), threads), sixteen_of(device(one_inside), threads), device(start)

    def load(x, k, pair, part, t, geo):  # type: ignore[no-untyped-def]
        channel, _ = divide(k, geo.rows)
        first = int32(pair if complex_ else 2 * pair)
        p, q = start(first, part != int32(2), channel, geo), start(int32(first + 1), part != int32(1), channel, geo)
        all_of_p = p[1] >= int32(0) and int32(p[1] + size) <= geo.size
        all_of_q = complex_ or (q[1] >= int32(0) and int32(q[1] + size) <= geo.size)
        a = x, (p[0], int32(p[1] + t)), (q[0], int32(q[1] + t)), geo
        if plain:
            if all_of_p and all_of_q:
                return inside(a)
        return anywhere(a)

    return device(load)


def tap_loader(dtype: np.dtype[Any], size: int, complex_: bool) -> Any:
    """Return what loads a thread's 16 numbers of a filter: tap r is at −r·dilation, so that products of spectra are correlations."""
    zero, scale = dtype.type(0), dtype.type(1 / size)

    def one(a, by):  # type: ignore[no-untyped-def]
        w, k, t, geo = a
        at = int32(t + by + (geo.taps - 1) * geo.dilation)
        if at >= size:
            at = int32(at - size)
        tap, rest = divide(at, geo.dilation)
        if rest != int32(0) or tap >= geo.taps:
            return zero, zero
        if geo.flipped == 0:
            tap = int32(geo.taps - 1 - tap)
        tap = int32(k * geo.taps + tap)
        if complex_:
            re, im = load2(w, int32(2 * tap), 0)
            return re * scale, im * scale
        return w[tap] * scale, zero

    taps = sixteen_of(device(one), size // EACH)

    def load(w, k, pair, part, t, geo):  # type: ignore[no-untyped-def]
        return taps((w, k, t, geo))

    return device(load)


@device
def times_spectrum(a, z, by):  # type: ignore[no-untyped-def]
    """Return a product whose real and imaginary parts have changed places, which makes the next transform an inverse."""
    spectra, at = a
    product = mul(z, load2(spectra, at, 2 * by))
    return product[1], product[0]


@device
def keep(a, z, by):  # type: ignore[no-untyped-def]
    """Store a number of a spectrum."""
    spectra, at = a
    store2(spectra, int32(at + 2 * by), z)
    return at


@device
def real_square(a, z, by):  # type: ignore[no-untyped-def]
    """Return the square of a real part."""
    return z[0] * z[0]


@device
def imaginary_square(a, z, by):  # type: ignore[no-untyped-def]
    """Return the square of an imaginary part."""
    return z[1] * z[1]


@device
def both_squares(a, z, by):  # type: ignore[no-untyped-def]
    """Return the square of a complex number's size."""
    return z[0] * z[0] + z[1] * z[1]


def energies(dtype: np.dtype[Any], complex_: bool) -> Any:
    """Return what returns the sums of squares of both tiles; complex numbers are one tile."""
    zero = dtype.type(0)
    real, imaginary, both = (for_sixteen(square, 0) for square in (real_square, imaginary_square, both_squares))

    def of_thread(z):  # type: ignore[no-untyped-def]
        return (sum_of(both(0, z)), zero) if complex_ else (sum_of(real(0, z)), sum_of(imaginary(0, z)))

    return device(of_thread)


def peaked(dtype: np.dtype[Any], size: int, complex_: bool) -> Any:
    """Return what says whether one of a thread's numbers dominates its tile, whose sums of squares are a and b."""
    as_real, most, share = dtype.type, dtype.type(PEAKED), dtype.type(SHARE)
    real, imaginary, both = (for_sixteen(square, 0) for square in (real_square, imaginary_square, both_squares))

    def dominates(largest, total, member, geo):  # type: ignore[no-untyped-def]
        _, tile = divide(member, geo.tiles)
        first = int32(tile * geo.valid - geo.low)
        last = min(int32((geo.size - 1) * geo.input_dilation + 1), int32(first + size))
        count, _ = divide(max(int32(last - max(first, int32(0))), int32(0)), geo.input_dilation)
        return largest * most > total and largest * as_real(count) > share * total

    dominates = device(dominates)

    def of_thread(z, a, b, member, geo):  # type: ignore[no-untyped-def]
        if complex_:
            return dominates(largest_of(both(0, z)), a, member, geo)
        return dominates(largest_of(real(0, z)), a, member, geo) or dominates(largest_of(imaginary(0, z)), b, int32(member + 1), geo)

    return device(of_thread)


def storer(dtype: np.dtype[Any], threads: int, complex_: bool, plain: bool, activation: str | None) -> Any:
    """Return what stores the outputs among a thread's 16 numbers, and returns NaN if one of them is not finite, else 0."""
    zero, activate = dtype.type(0), activation_of(activation, dtype)

    def put(y, p, t, by, value, shift, geo):  # type: ignore[no-untyped-def]
        # p: where the channel begins, the tile's first output before strides, how many there are.
        if int32(t + by) >= p[2]:
            return zero
        if plain:
            poke(y, int32(p[0] + p[1] + t), by, activate(value + shift))
            return value * zero
        at, rest = divide(int32(p[1] + t + by), geo.stride)
        if rest != int32(0):
            return zero
        y[int32(p[0] + at * geo.y_w)] = activate(value + shift)
        return value * zero

    put = device(put)

    def one_of_two(a, z, by):  # type: ignore[no-untyped-def]
        y, p, q, t, shift, geo = a
        return put(y, p, t, by, z[1], shift[0], geo) + put(y, q, t, by, z[0], shift[0], geo)

    def one_complex(a, z, by):  # type: ignore[no-untyped-def]
        y, p, q, t, shift, geo = a
        if int32(t + by) >= p[2]:
            return zero
        at, rest = divide(int32(p[1] + t + by), geo.stride)
        if rest != int32(0):
            return zero
        store2(y, int32(2 * (p[0] + at * geo.y_w)), (z[1] + shift[0], z[0] + shift[1]))
        return (z[0] + z[1]) * zero

    def start(member, there, k, geo):  # type: ignore[no-untyped-def]
        n, tile = divide(member, geo.tiles)
        first = int32(tile * geo.valid)
        count = min(geo.valid, int32((geo.outputs - 1) * geo.stride + 1 - first))
        return int32(n * geo.y_n + k * geo.y_k), first, int32(count) if there and member < geo.members else int32(0)

    each, start = for_sixteen(device(one_complex if complex_ else one_of_two), threads), device(start)

    def store(y, bias, k, pair, part, t, z, geo):  # type: ignore[no-untyped-def]
        first = int32(pair if complex_ else 2 * pair)
        p, q = start(first, part != int32(2), k, geo), start(int32(first + 1), part != int32(1), k, geo)
        shift = zero, zero
        if geo.has_bias:
            shift = load2(bias, int32(2 * k), 0) if complex_ else (bias[k], zero)
        return sum_of(each((y, p, q, t, shift, geo), z))

    return device(store)
