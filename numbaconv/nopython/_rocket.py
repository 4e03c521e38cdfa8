"""Convolution by transforms of tiles that overlap, with rocket-fft's transforms: `numbaconv.nopython._fft` where that is not installed.

It is in float64 too, and tiles are cut and put together by the same functions. Real and imaginary parts are transformed as two real arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from numbaconv.nopython._arrays import flat
from numbaconv.nopython._compile import family, kernel
from numbaconv.nopython._direct import H, X
from numbaconv.nopython._fft import GRID, TILE, loading, place, storing


@kernel
def multiply(spectrum, values, parts):  # type: ignore[no-untyped-def]
    """Multiply what two arrays were transformed to, of which the imaginary part is the second half if there are two."""
    half = values.size // parts
    for j in range(half):
        re, im = spectrum[j], spectrum[half * (parts - 1) + j]
        a, b = values[j], values[half * (parts - 1) + j]
        values[j] = re * a
        if parts == 2:
            values[j], values[half + j] = re * a - im * b, re * b + im * a


@family
def by_rocket(axes: int) -> Callable[..., Any]:
    """Make the kernel, for arrays of some number of axes."""
    from rocket_fft import c2r, r2c

    load, store, rank = loading(axes == 1), storing(axes == 1), axes + 1

    def convolve_by_rocket(x, h, y, sizes, tiles, parts):  # type: ignore[no-untyped-def]
        # As `by_transforms` does.
        elements, number, shape, along = 1, 1, np.empty(rank, np.int64), np.empty(axes, np.int64)
        shape[0] = parts
        for axis in range(axes):
            shape[axis + 1], along[axis] = tiles[TILE, axis], axis + 1
            elements, number = elements * tiles[TILE, axis], number * tiles[GRID, axis]
        rows = elements // tiles[TILE, axes - 1]
        tile = np.empty(to_fixed_tuple(shape, rank), np.float64)
        shape[axes] = shape[axes] // 2 + 1
        spectrum, values = np.empty(to_fixed_tuple(shape, rank), np.complex128), np.empty(to_fixed_tuple(shape, rank), np.complex128)
        data = flat(tile)
        load(h, sizes, H, tiles, rows, parts, data, 0, elements)
        r2c(tile, spectrum, along, True, 1.0, 1)
        for which in range(number):
            place(which, sizes, tiles, 1)
            load(x, sizes, X, tiles, rows, parts, data, 0, elements)
            r2c(tile, values, along, True, 1.0, 1)
            multiply(flat(spectrum), flat(values), parts)
            c2r(values, tile, along, False, 1.0, 1)
            place(which, sizes, tiles, 0)
            store(data, 0, elements, sizes, tiles, rows, 1.0 / elements, y, parts)

    return convolve_by_rocket
