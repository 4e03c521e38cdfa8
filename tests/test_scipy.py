"""The layer functions against scipy.signal: full, valid and same are paddings of one sum."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cases import fill
from scipy import ndimage, signal
from tolerance import allowed

import numbaconv as nc

CONV = {1: nc.conv1d, 2: nc.conv2d, 3: nc.conv3d}


def padding_of(mode: str, size: tuple[int, ...], taps: tuple[int, ...], low_of_same: Any) -> Any:
    if mode == "valid":
        return 0
    if mode == "full":
        return tuple((r - 1, r - 1) for r in taps)
    return tuple((low_of_same(r), r - 1 - low_of_same(r)) for r in taps)


def cross_correlate(x: Any, w: Any, padding: Any, **options: Any) -> Any:
    return CONV[x.ndim](x[None], np.conj(w)[None, None], padding=padding, precision="highest", **options)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "int32", "int64", "uint8"])
@pytest.mark.parametrize("mode", ["full", "valid", "same"])
def test_correlate_and_convolve_of_one_to_three_axes(dtype, mode, rng):
    for rank, _ in itertools.product((1, 2, 3), range(8)):
        taps = tuple(int(v) for v in rng.integers(1, 6, rank))
        size = tuple(int(r + v) for r, v in zip(taps, rng.integers(0, 7, rank), strict=True))
        x, w = fill(size, dtype, rng), fill(taps, dtype, rng)
        padding = padding_of(mode, size, taps, lambda r: r // 2)
        np.testing.assert_array_equal(cross_correlate(x, w, padding), signal.correlate(x, w, mode, "direct"), err_msg=f"{size} {taps}")
        reverse = np.conj(w[(slice(None, None, -1),) * rank])
        padding = padding_of(mode, size, taps, lambda r: r // 2)
        np.testing.assert_array_equal(cross_correlate(x, reverse, padding), signal.convolve(x, w, mode, "direct"), err_msg=f"{size} {taps}")


@pytest.mark.parametrize("mode", ["full", "valid", "same"])
def test_correlate2d_centres_even_filters_elsewhere(mode, rng):
    for taps in itertools.product((1, 2, 3, 4), (1, 2, 5)):
        x, w = fill((7, 8), "complex128", rng), fill(taps, "complex128", rng)
        found = cross_correlate(x, w, padding_of(mode, x.shape, taps, lambda r: (r - 1) // 2))
        np.testing.assert_array_equal(found, signal.correlate2d(x, w, mode), err_msg=str(taps))


def test_ndimage_correlate_with_zeros_outside(rng):
    for taps in itertools.product((1, 2, 3, 4), (1, 2, 5)):
        x, w = fill((9, 8), "float64", rng), fill(taps, "float64", rng)
        found = cross_correlate(x, w, padding_of("same", x.shape, taps, lambda r: r // 2))
        np.testing.assert_array_equal(found, ndimage.correlate(x, w, mode="constant"), err_msg=str(taps))


def test_real_values_are_within_the_table(rng):
    for dtype, (size, taps) in itertools.product(("float32", "float64"), ((5000, 300), (700, 701), (100, 7))):
        x, w = fill((size,), dtype, rng, "signed"), fill((taps,), dtype, rng, "signed")
        exact = np.correlate(x.astype(np.float64), w.astype(np.float64), "full")
        bound = 2 * allowed(np.correlate(abs(x), abs(w), "full"), dtype, taps, "direct", positive=True)
        assert np.all(abs(cross_correlate(x, w, taps - 1) - exact) <= bound)


def test_upfirdn_is_a_transposed_and_a_strided_convolution(rng):
    for up, down, taps in itertools.product((1, 2, 3), (1, 2, 3), (1, 4, 7)):
        x, h = fill((11,), "float64", rng), fill((taps,), "float64", rng)
        spread = nc.conv_transpose1d(x[None], h[None, None], stride=up)[0]
        np.testing.assert_array_equal(spread[::down], signal.upfirdn(h, x, up, down))
