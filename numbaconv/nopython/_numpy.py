"""np.convolve and np.correlate on this library's kernels, in nopython code: what `numbaconv.jit.accelerate_numpy` registers.

Numba's own come after what is registered for the CPU, and are taken where this raises: for two arrays of booleans, say. As in NumPy the sums
are direct whatever the sizes.
"""

from __future__ import annotations

import numpy as np

from numbaconv.nopython._arrays import taken
from numbaconv.nopython._compile import overloads
from numbaconv.nopython._convolution import operands
from numbaconv.nopython._kinds import choice
from numbaconv.nopython._sums import DIRECT, FULL, LONGER, LONGER_REVERSED, VALID, convolution, mirrored

MODES = {"full": FULL, "same": LONGER, "valid": VALID}


@overloads(np.convolve, target="cpu")
def convolve(a, v, mode="full"):  # type: ignore[no-untyped-def]
    """Compile numpy.convolve."""
    dtype = operands(a, v, ("a", "v"), 1)
    first, second, extent, sums = taken(a, dtype), taken(v, dtype), choice("mode", mode, MODES), convolution(dtype, 1, "direct")

    def implementation(a, v, mode="full"):  # type: ignore[no-untyped-def]
        return sums(first(a), second(v), extent(mode), DIRECT)

    return implementation


@overloads(np.correlate, target="cpu")
def correlate(a, v, mode="valid"):  # type: ignore[no-untyped-def]
    """Compile numpy.correlate."""
    dtype = operands(a, v, ("a", "v"), 1)
    first, second, extent, sums = taken(a, dtype), taken(v, dtype), choice("mode", mode, MODES), convolution(dtype, 1, "direct")

    def implementation(a, v, mode="valid"):  # type: ignore[no-untyped-def]
        code = extent(mode)
        if code == LONGER and len(a) < len(v):
            code = LONGER_REVERSED
        return sums(first(a), mirrored(second(v)), code, DIRECT)

    return implementation
