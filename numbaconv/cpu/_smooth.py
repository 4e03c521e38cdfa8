"""tanh, sigmoid, SiLU and GELU as plain arithmetic, without branches, tables or calls, so that LLVM makes vector code of a loop over them.

Errors, in units in the last place, besides a few of the smallest subnormals (tests/test_activations.py): tanh and sigmoid 3.5, SiLU
4, GELU 5. Infinities and NaN come out as from PyTorch's functions; a zero keeps its sign.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv._jit import exact


class Table(NamedTuple):
    """The constants of a dtype. Polynomials interpolate at Chebyshev nodes, lowest power first."""

    bits: int  # of the mantissa
    upper: int  # a mask of all but the lower half of the mantissa
    bias: int  # of the exponent, and what is added to keep that of 2ⁿ positive
    lift: int
    round: float  # x + round − round is x rounded to an integer, which the lowest bits of x + round hold
    log2: tuple[float, float]  # ln 2 in two parts: the first times an exponent is exact
    lowest: float  # exp of it is 0
    one: float  # tanh of what is larger is 1
    none: float  # Φ of less than minus it is 0
    exp: tuple[float, ...]  # (eʳ − 1 − r) / r² for |r| ≤ ln 2 / 2
    tail: tuple[float, ...]  # (1 + a) · Φ(−a) · exp(a²/2) in (a − 4) / (a + 4), for 0 ≤ a ≤ ``none``


TABLES = {
    np.dtype(np.float32): Table(
        23, ~0xFFF, 127, 64, 1.5 * 2**23, (0.693359375, -2.12194440e-4), -104.0, 10.0, 14.5,
        (0.5, 0.16666667, 0.041666456, 0.0083333105, 0.0013934541, 0.0001989198),
        (0.4720532, -0.09670347, 0.013999636, 0.028600033, -0.032197814, 0.01793945, -0.005002141, -0.00029991876, 0.00069084484,
         -6.6737186e-05, -7.437455e-05),
    ),
    np.dtype(np.float64): Table(
        52, ~0x7FFFFFF, 1023, 512, 1.5 * 2**52, (0.693145751953125, 1.42860682030941723212e-6), -746.0, 20.0, 38.7,
        (0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333325544, 0.0013888888888883327, 0.00019841269876864356,
         2.4801587327007187e-05, 2.755725283351691e-06, 2.75572718102198e-07, 2.5106274733573296e-08, 2.0915442297780116e-09),
        (0.47205320650984467, -0.0967034773265258, 0.013999634724425405, 0.02860036405355088, -0.03219783742808545, 0.017936097479672987,
         -0.005002378591050549, -0.0002856230979733444, 0.0006948971046100352, -9.443025388719951e-05, -8.785318378131222e-05,
         2.125004946489111e-05, 1.3626869656340193e-05, -3.4321997119225085e-06, -2.6129103224764573e-06, 4.0448526036329704e-07,
         5.520151010249323e-07, 1.4676600593283318e-09, -1.110328886877407e-07, -1.9913251999238056e-08, 1.7674889651836897e-08,
         6.249113664698089e-09, -1.5506980833004738e-09, -7.916719925880278e-10),
    ),
}  # fmt: skip


def polynomial(coefficients: tuple[float, ...]) -> Any:
    """Make the function of x that is the sum of coefficients[n] · xⁿ."""

    @intrinsic
    def evaluate(typing, x):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            (at,) = arguments
            kind = ir.FunctionType(at.type, [at.type] * 3)
            add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.f{32 if at.type == ir.FloatType() else 64}")
            total = at.type(coefficients[-1])
            for coefficient in reversed(coefficients[:-1]):
                total = builder.call(add, [total, at, at.type(coefficient)])
            return total

        return x(x), generate

    return evaluate


def on_bits(change: Callable[[Any, Any], Any]) -> Any:
    """Make the function of x that changes its bits, an integer: change(builder, bits) → bits."""

    @intrinsic
    def changed(typing, x):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            (value,) = arguments
            integer = ir.IntType(32 if value.type == ir.FloatType() else 64)
            return builder.bitcast(change(builder, builder.bitcast(value, integer)), value.type)

        return x(x), generate

    return changed


@functools.cache
def functions(dtype: np.dtype[Any]) -> dict[str, Callable[..., Any]]:
    """Make the functions of a float dtype by name; of numbers, to be called in compiled code."""
    table, number = TABLES[dtype], dtype.type
    zero, half, one, two, four, log2e, root = map(number, (0, 0.5, 1, 2, 4, 1 / math.log(2), 0.5**0.5))
    shift, high, low, lowest, flat, none = map(number, (table.round, *table.log2, table.lowest, table.one, table.none))
    series, tail = polynomial(table.exp), polynomial(table.tail)
    # 2ⁿ may be subnormal: it is made with ``lift`` added to n.
    power = on_bits(lambda builder, v: builder.shl(builder.add(v, v.type(table.bias + table.lift)), v.type(table.bits)))
    upper, drop = on_bits(lambda builder, v: builder.and_(v, v.type(table.upper))), number(2.0**-table.lift)

    @exact
    def reduced(x, rest):  # type: ignore[no-untyped-def]
        # exp(x + rest) − 1 is p · s + (s − 1) with s = 2ⁿ; ``rest`` is small. Returns p and s · 2^lift.
        z = x * log2e + shift
        n = z - shift
        r = x - n * high - n * low + rest
        p = r + r * r * series(r)
        return p, power(z)

    @exact
    def exp(x, rest):  # type: ignore[no-untyped-def]
        # For x ≤ 0.
        p, s = reduced(lowest if x < lowest else x, rest)
        return (one + p) * s * drop

    @exact
    def sigmoid(x):  # type: ignore[no-untyped-def]
        e = exp(-abs(x), zero)
        y = one / (one + e)
        return e * y if x < zero else y

    @exact
    def tanh(x):  # type: ignore[no-untyped-def]
        a = abs(x)
        p, s = reduced(two * (flat if a > flat else a), zero)
        s *= drop
        e = p * s + (s - one)
        return math.copysign(e / (e + two), x)

    @exact
    def normal(x):  # type: ignore[no-untyped-def]
        # Φ(x) by that of −|x|; the square is split so that its first part, of half of the bits, is exact.
        a = abs(x)
        a = none if a > none else a
        u = upper(a)
        density = exp(-half * u * u, -half * ((a - u) * (a + u)))
        y = density * (tail((a - four) / (a + four)) / (one + a))
        return y if x < zero else one - y

    @exact
    def silu(x):  # type: ignore[no-untyped-def]
        return x * sigmoid(x)

    @exact
    def gelu(x):  # type: ignore[no-untyped-def]
        return x * normal(x)

    return {"silu": silu, "gelu": gelu, "tanh": tanh, "sigmoid": sigmoid}
