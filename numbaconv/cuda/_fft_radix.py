"""Transforms within one thread: 16 complex numbers in registers, as one transform of 16 or two of 8, and the factors between passes.

A transform of N = R₁·R₂·R₃ numbers is three passes over them (Stockham's order; N. K. Govindaraju et al., "High performance discrete Fourier
transforms on graphics processors", 2008). In a pass of radix R, behind passes whose radices multiply to `before`, transform j takes the R
numbers j + r·N/R, each times exp(−2πi·r·(j mod before)/(before·R)), and leaves its results at (j div before)·before·R + j mod before + r·before.
The r-th of a thread's 16 numbers is always the one at t + r·N/16 as a pass begins.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import device

EACH = 16  # numbers of a thread
RADICES = {512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16)}
POWERS = 4  # factors that a pass reads: the powers 1, 2, 4 and 8 of a root of unity, of which it makes the others
BANKS = 32


class Pass(NamedTuple):
    """One pass of a transform: its radix, the product of those before, and how the block's memory is padded as it leaves its results."""

    radix: int
    before: int
    factors: int  # where its factors begin in the table, in complex numbers
    shift: int  # an element at a is kept at a + (a >> shift)·pad, so that no two lanes of a warp meet in a bank
    pad: int


@functools.cache
def passes(size: int) -> tuple[Pass, ...]:
    """Return the passes of a transform of so many numbers."""
    found, before, factors = [], 1, 0
    for radix in RADICES[size]:
        shift = int(math.log2(max(BANKS, before * radix)))
        found.append(Pass(radix, before, factors, shift, before if before < BANKS else 0))
        factors += POWERS * before if before > 1 else 0
        before *= radix
    return tuple(found)


def place(made: Pass, at: int) -> int:
    """Return where an element is kept behind a pass."""
    return at + (at >> made.shift) * made.pad


def leaves_at(made: Pass, j: int) -> int:
    """Return where a pass leaves the first result of its transform j."""
    return j // made.before * made.before * made.radix + j % made.before


def shared_elements(size: int) -> int:
    """Return the elements of one plane in shared memory, padding counted."""
    return max(place(made, size - 1) for made in passes(size)[:2]) + 1


@functools.cache
def factors(size: int, dtype: np.dtype[Any]) -> Any:
    """Return the factors of all passes, (power, j mod before) each, real and imaginary parts in turn."""
    rows = []
    for made in passes(size):
        if made.before > 1:
            angles = np.outer([1, 2, 4, 8], np.arange(made.before)) / (made.before * made.radix)
            rows.append(np.exp(-2j * np.pi * angles).ravel())
    table = np.concatenate(rows)
    return np.stack([table.real, table.imag], 1).astype(dtype)


def sixteen_of(one: Any, step: int) -> Any:
    """Return a function of ``a`` that returns one(a, 0), one(a, step), …, one(a, 15·step)."""

    def all_of(a):  # type: ignore[no-untyped-def]
        return (
            one(a, 0), one(a, step), one(a, 2 * step), one(a, 3 * step), one(a, 4 * step), one(a, 5 * step), one(a, 6 * step), one(a, 7 * step),
            one(a, 8 * step), one(a, 9 * step), one(a, 10 * step), one(a, 11 * step), one(a, 12 * step), one(a, 13 * step),
            one(a, 14 * step), one(a, 15 * step),
        )  # fmt: skip

    return device(all_of)


def for_sixteen(one: Any, step: int) -> Any:
    """Return a function of ``a`` and 16 numbers z that returns one(a, z[0], 0), …, one(a, z[15], 15·step)."""

    def all_of(a, z):  # type: ignore[no-untyped-def]
        return (
            one(a, z[0], 0), one(a, z[1], step), one(a, z[2], 2 * step), one(a, z[3], 3 * step), one(a, z[4], 4 * step),
            one(a, z[5], 5 * step), one(a, z[6], 6 * step), one(a, z[7], 7 * step), one(a, z[8], 8 * step), one(a, z[9], 9 * step),
            one(a, z[10], 10 * step), one(a, z[11], 11 * step), one(a, z[12], 12 * step), one(a, z[13], 13 * step),
            one(a, z[14], 14 * step), one(a, z[15], 15 * step),
        )  # fmt: skip

    return device(all_of)


@device
def sum_of(v):  # type: ignore[no-untyped-def]
    """Return the sum of 16 numbers."""
    first, second = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])), ((v[8] + v[9]) + (v[10] + v[11]))
    return first + (second + ((v[12] + v[13]) + (v[14] + v[15])))


@device
def largest_of(v):  # type: ignore[no-untyped-def]
    """Return the largest of 16 numbers."""
    first = max(max(max(v[0], v[1]), max(v[2], v[3])), max(max(v[4], v[5]), max(v[6], v[7])))
    return max(first, max(max(max(v[8], v[9]), max(v[10], v[11])), max(max(v[12], v[13]), max(v[14], v[15]))))


@device
def add(a, b):  # type: ignore[no-untyped-def]
    """Return the sum of two complex numbers; all are pairs."""
    return a[0] + b[0], a[1] + b[1]


@device
def sub(a, b):  # type: ignore[no-untyped-def]
    """Return a − b."""
    return a[0] - b[0], a[1] - b[1]


@device
def mul(a, b):  # type: ignore[no-untyped-def]
    """Return a · b."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@device
def sub_turned(a, b):  # type: ignore[no-untyped-def]
    """Return −i·(a − b)."""
    return a[1] - b[1], b[0] - a[0]


@device
def four(a, b, c, d):  # type: ignore[no-untyped-def]
    """Return the transform of four numbers."""
    s, t, u, v = add(a, c), sub(a, c), add(b, d), sub_turned(b, d)
    return add(s, u), add(t, v), sub(s, u), sub(t, v)


@functools.cache
def transforms(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return what transforms a thread's 16 numbers, as two transforms of 8 and as one of 16."""
    half, c, s = (dtype.type(v) for v in (0.5**0.5, math.cos(math.pi / 8), math.sin(math.pi / 8)))

    def eighth(z):  # type: ignore[no-untyped-def]
        return (z[0] + z[1]) * half, (z[1] - z[0]) * half

    def three_eighths(z):  # type: ignore[no-untyped-def]
        return (z[1] - z[0]) * half, -(z[0] + z[1]) * half

    def turned(z):  # type: ignore[no-untyped-def]
        return z[1], -z[0]

    eighth, three_eighths, turned = device(eighth), device(three_eighths), device(turned)

    def eight(z0, z1, z2, z3, z4, z5, z6, z7):  # type: ignore[no-untyped-def]
        e0, e1, e2, e3 = four(z0, z2, z4, z6)
        o0, o1, o2, o3 = four(z1, z3, z5, z7)
        o1, o2, o3 = eighth(o1), turned(o2), three_eighths(o3)
        return add(e0, o0), add(e1, o1), add(e2, o2), add(e3, o3), sub(e0, o0), sub(e1, o1), sub(e2, o2), sub(e3, o3)

    eight = device(eight)

    def twice_eight(z):  # type: ignore[no-untyped-def]
        a0, a1, a2, a3, a4, a5, a6, a7 = eight(z[0], z[2], z[4], z[6], z[8], z[10], z[12], z[14])
        b0, b1, b2, b3, b4, b5, b6, b7 = eight(z[1], z[3], z[5], z[7], z[9], z[11], z[13], z[15])
        return a0, b0, a1, b1, a2, b2, a3, b3, a4, b4, a5, b5, a6, b6, a7, b7

    def sixteen(z):  # type: ignore[no-untyped-def]
        a0, a1, a2, a3 = four(z[0], z[4], z[8], z[12])
        b0, b1, b2, b3 = four(z[1], z[5], z[9], z[13])
        c0, c1, c2, c3 = four(z[2], z[6], z[10], z[14])
        d0, d1, d2, d3 = four(z[3], z[7], z[11], z[15])
        b1, b2, b3 = mul(b1, (c, -s)), eighth(b2), mul(b3, (s, -c))
        c1, c2, c3 = eighth(c1), turned(c2), three_eighths(c3)
        d1, d2, d3 = mul(d1, (s, -c)), three_eighths(d2), mul(d3, (-c, s))
        r0, r4, r8, r12 = four(a0, b0, c0, d0)
        r1, r5, r9, r13 = four(a1, b1, c1, d1)
        r2, r6, r10, r14 = four(a2, b2, c2, d2)
        r3, r7, r11, r15 = four(a3, b3, c3, d3)
        return r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15

    return device(twice_eight), device(sixteen)


@device
def turn_sixteen(z, w1, w2, w4, w8):  # type: ignore[no-untyped-def]
    """Return each number times the power of w of its place."""
    w3, w5, w6, w9, w10, w12 = mul(w1, w2), mul(w1, w4), mul(w2, w4), mul(w1, w8), mul(w2, w8), mul(w4, w8)
    w7, w11, w13, w14 = mul(w3, w4), mul(w3, w8), mul(w5, w8), mul(w6, w8)
    z4, z5, z6, z7 = mul(z[4], w4), mul(z[5], w5), mul(z[6], w6), mul(z[7], w7)
    z8, z9, z10, z11 = mul(z[8], w8), mul(z[9], w9), mul(z[10], w10), mul(z[11], w11)
    z12, z13, z14, z15 = mul(z[12], w12), mul(z[13], w13), mul(z[14], w14), mul(z[15], mul(w7, w8))
    return z[0], mul(z[1], w1), mul(z[2], w2), mul(z[3], w3), z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, z14, z15


@device
def turn_eights(z, v1, v2, v4, w1, w2, w4):  # type: ignore[no-untyped-def]
    """Return the numbers of two transforms of 8, which take turns, times powers of v and of w."""
    v3, v5, v6, w3, w5, w6 = mul(v1, v2), mul(v1, v4), mul(v2, v4), mul(w1, w2), mul(w1, w4), mul(w2, w4)
    z2, z3, z4, z5 = mul(z[2], v1), mul(z[3], w1), mul(z[4], v2), mul(z[5], w2)
    z6, z7, z8, z9 = mul(z[6], v3), mul(z[7], w3), mul(z[8], v4), mul(z[9], w4)
    z10, z11, z12, z13 = mul(z[10], v5), mul(z[11], w5), mul(z[12], v6), mul(z[13], w6)
    return z[0], z[1], z2, z3, z4, z5, z6, z7, z8, z9, z10, z11, z12, z13, mul(z[14], mul(v3, v4)), mul(z[15], mul(w3, w4))
