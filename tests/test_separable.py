"""Filters along two axes in one sweep beside two passes, one after the other: every instruction set, boundary and edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from cases import fill, poisoned

import numbaconv as nc
from numbaconv import boundary, memory, ndimage, separable, signal
from numbaconv.cpu import _isa
from numbaconv.cpu import separable as sweep


def passes(x: Any, down: Any, across: Any, low: Any, boundaries: Any, values: Any) -> Any:
    """Return what the sweep should: each axis extended and summed tap by tap."""
    for axis, (w, before, kind, value) in enumerate(zip((down, across), low, boundaries, values, strict=True), 1):
        wide = boundary.extend(x, axis, before, len(w) - 1 - before, kind, value)
        windows = np.lib.stride_tricks.sliding_window_view(wide, len(w), axis)
        x = (windows.astype(np.float64) @ w).astype(x.dtype)
    return x


@pytest.mark.parametrize("name", list(_isa.ISAS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_instruction_set(name, dtype, rng, monkeypatch):
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    monkeypatch.setattr(sweep, "ROWS", 16)
    monkeypatch.setattr(sweep, "BYTES", 1 << 8)
    kinds = [kind for kind in boundary.BOUNDARIES if kind != "zeros"]
    for _ in range(60):
        shape = tuple(int(n) for n in rng.integers((1, 1, 1), (3, 40, 200)))
        down, across = (fill((int(rng.choice([1, 2, 3, 4, 5, 8, 9, 13, 30])),), dtype, rng) for _ in range(2))
        low = tuple(int(rng.integers(0, len(w))) for w in (down, across))
        kind, values = tuple(rng.choice(kinds, 2)), (2.0, -1.0)
        x, y = fill(shape, dtype, rng), poisoned(shape, dtype)
        assert separable.correlate(x, down, across, low, kind, values, y) is y
        np.testing.assert_array_equal(y, passes(x, down, across, low, kind, values), err_msg=f"{shape} {len(down)} {len(across)} {low} {kind}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_and_tall_images_in_tiles(dtype, rng):
    for shape in ((3, 70, 5000), (1, 2500, 3), (2, 1, 4097)):
        x, w = rng.standard_normal(shape).astype(dtype), rng.standard_normal(11).astype(dtype)
        expected = scipy.ndimage.correlate1d(scipy.ndimage.correlate1d(x.astype(np.float64), w, 1, mode="mirror"), w, 2, mode="mirror")
        once = [separable.correlate(x, w, w, (5, 5), ("mirror", "mirror"), (0.0, 0.0))]
        with nc.num_threads(3):
            once.append(separable.correlate(x, w, w, (5, 5), ("mirror", "mirror"), (0.0, 0.0)))
        np.testing.assert_array_equal(*once)
        np.testing.assert_allclose(once[0], expected, rtol=0, atol=60 * np.finfo(dtype).eps * abs(expected).max())


def test_what_is_not_finite_stays_in_its_window(rng):
    x = rng.standard_normal((1, 50, 90)).astype("float32")
    x[0, 20, 30], x[0, 45, 88] = np.nan, np.inf
    y = separable.correlate(x, np.ones(5, "float32"), np.ones(7, "float32"), (2, 3), ("constant", "reflect"), (0.0, 0.0))
    strange = np.zeros(x.shape, bool)
    strange[0, 18:23, 27:34] = strange[0, 43:48, 85:90] = True
    np.testing.assert_array_equal(~np.isfinite(y), strange)


def test_any_out_is_filled(rng):
    x, w = rng.standard_normal((2, 40, 50)), rng.standard_normal(7)
    options: Any = ((3, 3), ("reflect", "wrap"), (0.0, 0.0))
    expected = separable.correlate(x, w, w, *options)
    for out in (np.full((2, 40, 50), np.nan, order="F"), np.full((2, 40, 100), np.nan)[..., ::2], np.full((2, 40, 50), np.nan, "float32")):
        assert separable.correlate(x, w, w, *options, out) is out
        np.testing.assert_array_equal(out, expected.astype(out.dtype))


def test_a_size_of_its_own(rng):
    x, w = rng.standard_normal((1, 20, 30)), rng.standard_normal(6)
    whole = separable.correlate(x, w, w, (5, 5), ("zeros", "zeros"), (0.0, 0.0), size=(25, 35))
    np.testing.assert_allclose(whole[0], scipy.signal.correlate(x[0], np.outer(w, w)), atol=1e-12)
    np.testing.assert_array_equal(separable.correlate(x, w, w, (-3, 4), ("zeros", "zeros"), (0.0, 0.0), size=(4, 9))[0], whole[0, 8:12, 1:10])
    nothing = separable.correlate(x, w, w, (-100, 0), ("constant", "zeros"), (2.0, 0.0), size=(3, 5))
    np.testing.assert_allclose(nothing[0], np.full((3, 5), 2 * w.sum() ** 2), atol=1e-12)


def test_memory_is_asked_for(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    with pytest.raises(MemoryError, match="an output of shape"):
        ndimage.gaussian_filter(np.zeros((3000, 3000)), 2)


def test_factors_that_would_leave_the_range_are_none():
    for scale in (1e-30, 1e30):
        assert separable.factors(np.full((7, 7), scale, "float32"), np.dtype("float32")) is None
        assert separable.factors(np.full((7, 7), scale), np.dtype("float64")) is not None
    assert separable.outside(0.0, np.full(7, 1e308)) == 0
    assert separable.outside(np.inf, np.ones(7)) is None
    for x, h in ((np.full((200, 200), 1e-10, "float32"), np.full((7, 7), 1e38, "float32")), (np.full((200, 200), 1e-10), np.full((7, 7), 1e308))):
        assert np.isfinite(signal.convolve(x, h)).all() and np.isfinite(ndimage.correlate(x, h, mode="constant")).all()
    mixed = np.outer([1, 1, 1, -1, -1, -0.5], np.ones(7))
    theirs = scipy.signal.convolve2d(np.ones((200, 200)), mixed, fillvalue=np.inf)
    np.testing.assert_array_equal(signal.convolve2d(np.ones((200, 200)), mixed, fillvalue=np.inf), theirs)
    ndimage.gaussian_filter(np.ones((9, 9), "float32"), 2, mode="constant", cval=1e300)  # warns of nothing
