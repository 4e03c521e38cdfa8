"""The vector code of `fft`: a stage of a transform between vectors, and its last one between the lanes of vectors.

Real and imaginary parts lie in two planes, so that a vector holds the real or the imaginary parts of neighbouring elements.
A forward stage is a butterfly and then its factors (decimation in frequency), an inverse stage the factors and then the butterfly:
the forward transform leaves its frequencies in another order, and the inverse one takes them in that order.
"""

from __future__ import annotations

import cmath
import functools
import math
from typing import Any

import numpy as np

from numbaconv.cpu._emit import Vectors, vector_code
from numbaconv.cpu._isa import Isa
from numbaconv.cpu._term import Term

FORWARD, INVERSE = -1, 1  # the sign of the exponent


class Complex:
    """A vector of complex numbers in a formula."""

    def __init__(self, re: Term, im: Term) -> None:
        self.re, self.im = re, im

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.re + other.re, self.im + other.im)

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.re - other.re, self.im - other.im)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re)

    def __rmul__(self, factor: float) -> Complex:
        return Complex(factor * self.re, factor * self.im)

    def rotated(self, quarters: int) -> Complex:
        """Return it multiplied by a power of i."""
        quarters %= 4
        if quarters == 0:
            return self
        if quarters == 2:
            return Complex(-1.0 * self.re, -1.0 * self.im)
        return Complex(-1.0 * self.im, self.re) if quarters == 1 else Complex(self.im, -1.0 * self.re)

    def turned(self, n: int, steps: int) -> Complex:
        """Return it multiplied by exp(2πi · steps / n)."""
        if 4 * steps % n == 0:
            return self.rotated(4 * steps // n)
        factor = cmath.exp(2j * math.pi * steps / n)
        if 8 * steps % n == 0:  # both parts are ±√½
            a, b = (self.re - self.im, self.re + self.im) if factor.real * factor.imag > 0 else (self.re + self.im, self.im - self.re)
            scale = math.copysign(math.sqrt(0.5), factor.real)
            return Complex(scale * a, scale * b)
        return Complex(factor.real * self.re - factor.imag * self.im, factor.imag * self.re + factor.real * self.im)


def times(value: Complex, factor: Complex, sign: int) -> Complex:
    """Return the product with a factor, or with its conjugate for an inverse transform."""
    if sign == FORWARD:
        return Complex(value.re * factor.re - value.im * factor.im, value.re * factor.im + value.im * factor.re)
    return Complex(value.re * factor.re + value.im * factor.im, value.im * factor.re - value.re * factor.im)


def butterfly(z: list[Complex], sign: int) -> list[Complex]:
    """Return the discrete Fourier transform of a list of vectors, in order: Σ_j z[j] · exp(sign · 2πi · jk / n)."""
    n = len(z)
    if n == 1:
        return z
    if n == 2:
        return [z[0] + z[1], z[0] - z[1]]
    if n == 4:
        a, b, c, d = z[0] + z[2], z[0] - z[2], z[1] + z[3], z[1] - z[3]
        # b ± i·d, without a multiplication
        e, f = Complex(b.re - d.im, b.im + d.re), Complex(b.re + d.im, b.im - d.re)
        return [a + c, e, a - c, f] if sign == INVERSE else [a + c, f, a - c, e]
    if n in (3, 5):
        return _odd(z, sign)
    few = 4 if n % 4 == 0 and n > 8 else 2
    many = n // few
    # n = few × many: transforms of every few-th element, factors, transforms across them.
    inner = [butterfly(z[start::few], sign) for start in range(few)]
    result: list[Any] = [None] * n
    for k in range(many):
        across = butterfly([inner[j][k].turned(n, sign * j * k) for j in range(few)], sign)
        for q in range(few):
            result[k + many * q] = across[q]
    return result


def _odd(z: list[Complex], sign: int) -> list[Complex]:
    """Pairs of outputs k and n − k differ by the sign of the part that the differences of pairs of inputs give."""
    n = len(z)
    pairs = [(z[j] + z[n - j], z[j] - z[n - j]) for j in range(1, (n + 1) // 2)]
    result: list[Any] = [None] * n
    result[0] = functools.reduce(Complex.__add__, [total for total, _ in pairs], z[0])
    for k in range(1, (n + 1) // 2):
        angles = [2 * math.pi * (j + 1) * k / n for j in range(len(pairs))]
        even = functools.reduce(Complex.__add__, [math.cos(a) * total for a, (total, _) in zip(angles, pairs, strict=True)], z[0])
        odd = functools.reduce(Complex.__add__, [sign * math.sin(a) * difference for a, (_, difference) in zip(angles, pairs, strict=True)])
        result[k] = Complex(even.re - odd.im, even.im + odd.re)
        result[n - k] = Complex(even.re + odd.im, even.im - odd.re)
    return result


def _load(v: Vectors, at: Any, plane: Any, *terms: Any) -> Complex:
    return Complex(*(Term(v, v.load(v.at(at, *terms, *more))) for more in ((), (plane,))))


def _store(v: Vectors, value: Complex, at: Any, plane: Any, *terms: Any) -> None:
    v.store(value.re.value, v.at(at, *terms))
    v.store(value.im.value, v.at(at, *terms, plane))


@functools.cache
def stage(isa: Isa, dtype: np.dtype[Any], radix: int, sign: int, factors: str) -> Any:
    """Return a compiled-code function (data, at, plane, step, count, table, from, apart) -> None: butterflies of ``count`` vectors.

    Leg q of a butterfly is the vector at data[at + q·step + i·width], its imaginary part ``plane`` behind it. ``factors`` says what
    leg q > 0 is multiplied by: "none" nothing, "one" the number at table[from + 2(q − 1)] and behind it, "each" the vectors at
    table[from + (q − 1)·apart + i·width] and (radix − 1)·apart behind.
    """

    @vector_code(isa, dtype, "data[] plane step count table[] apart")
    def run(v: Vectors, data, plane, step, count, table, apart):  # type: ignore[no-untyped-def]
        fixed = []
        if factors == "one":
            numbers = [v.builder.load(v.at(table, n)) for n in range(2 * (radix - 1))]
            fixed = [Complex(Term(v, v.splat(re)), Term(v, v.splat(im))) for re, im in zip(numbers[::2], numbers[1::2], strict=True)]

        def body(i, _):  # type: ignore[no-untyped-def]
            place = v.at(data, (i, v.width))
            legs = [_load(v, place, plane, (step, q)) for q in range(radix)]
            if factors == "each":
                row = v.at(table, (i, v.width))
                moved = [_load(v, row, v.builder.mul(apart, apart.type(radix - 1)), (apart, q)) for q in range(radix - 1)]
            else:
                moved = fixed
            if sign == INVERSE and moved:
                legs[1:] = [times(leg, factor, sign) for leg, factor in zip(legs[1:], moved, strict=True)]
            legs = butterfly(legs, sign)
            if sign == FORWARD and moved:
                legs[1:] = [times(leg, factor, sign) for leg, factor in zip(legs[1:], moved, strict=True)]
            for q, leg in enumerate(legs):
                _store(v, leg, place, plane, (step, q))
            return []

        v.loop(count, [], body)

    return run


@functools.cache
def turn(isa: Isa, dtype: np.dtype[Any], what: str) -> Any:
    """Return a compiled-code function (data, at, plane, count, spectrum, from) -> None: the last stage, between lanes.

    Each of ``count`` squares of vectors is transposed and transformed ("forward"), the reverse ("inverse"), or the first, multiplied by
    the same square of the spectrum, and then the second ("multiply"). The planes of both are ``plane`` apart.
    """

    @vector_code(isa, dtype, "data[] plane count spectrum[]")
    def run(v: Vectors, data, plane, count, spectrum):  # type: ignore[no-untyped-def]
        def across(square: list[Complex]) -> list[Complex]:
            planes = [v.transpose([getattr(z, part).value for z in square]) for part in ("re", "im")]
            return [Complex(Term(v, re), Term(v, im)) for re, im in zip(*planes, strict=True)]

        def body(i, _):  # type: ignore[no-untyped-def]
            offset = (i, v.width * v.width)
            place = v.at(data, offset)
            square = [_load(v, place, plane, r * v.width) for r in range(v.width)]
            if what != "inverse":
                square = butterfly(across(square), FORWARD)
            if what == "multiply":
                other = v.at(spectrum, offset)
                square = [z * _load(v, other, plane, r * v.width) for r, z in enumerate(square)]
            if what != "forward":
                square = across(butterfly(square, INVERSE))
            for r, z in enumerate(square):
                _store(v, z, place, plane, r * v.width)
            return []

        v.loop(count, [], body)

    return run


@functools.cache
def products(isa: Isa, dtype: np.dtype[Any], conjugated: bool = False, add: bool = False) -> Any:
    """Return a compiled-code function (out, at, a, from, b, from, plane, count, terms, a_step, b_step) -> None: sums of products.

    It computes out = Σ_t a[t] · b[t] of ``count`` vectors, or adds that to out; the terms are ``a_step`` and ``b_step`` apart, the planes of all
    three ``plane``. With ``conjugated`` it is the conjugate of b.
    """

    @vector_code(isa, dtype, "out[] a[] b[] plane count terms a_step b_step")
    def run(v: Vectors, out, a, b, plane, count, terms, a_step, b_step):  # type: ignore[no-untyped-def]
        def body(i, _):  # type: ignore[no-untyped-def]
            place = v.at(out, (i, v.width))
            start = _load(v, place, plane) if add else Complex(Term(v, v.zero), Term(v, v.zero))

            def one(t, sums):  # type: ignore[no-untyped-def]
                first, second = (_load(v, v.at(from_, (i, v.width), (t, step)), plane) for from_, step in ((a, a_step), (b, b_step)))
                re, im = (Term(v, value) for value in sums)
                # Multiply-adds one after the other: each part takes two.
                if conjugated:
                    re, im = re + first.re * second.re + first.im * second.im, im + first.im * second.re - first.re * second.im
                else:
                    re, im = re + first.re * second.re - first.im * second.im, im + first.re * second.im + first.im * second.re
                return [re.value, im.value]

            re, im = v.loop(terms, [start.re.value, start.im.value], one)
            _store(v, Complex(Term(v, re), Term(v, im)), place, plane)
            return []

        v.loop(count, [], body)

    return run
