"""conv1d, conv2d, conv3d and their gradients in nopython code beside the interpreter's, and numbaconv.signal's names."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from cases import fill
from numba import prange
from numba.core.runtime import _nrt_python, rtsys
from test_jit import refused

import numbaconv as nc
import numbaconv.jit  # noqa: F401
from numbaconv import ndimage, signal

CASES: dict[int, list[tuple[Any, ...]]] = {  # x, w, stride, padding, dilation, groups
    1: [((2, 3, 17), (4, 3, 5), 1, 2, 1, 1), ((2, 4, 20), (6, 2, 3), 3, 1, 2, 2)],
    2: [((2, 3, 9, 8), (4, 3, 3, 2), 1, 1, 1, 1), ((1, 4, 11, 12), (4, 1, 3, 3), 2, 2, 2, 4)],
    3: [((1, 2, 5, 6, 7), (3, 2, 2, 3, 3), 2, 1, 1, 1)],
}


def functions(rank: int) -> Any:
    forward, grad_input, grad_weight, grad_bias = (
        getattr(nc, f"conv{rank}d{suffix}") for suffix in ("", "_grad_input", "_grad_weight", "_grad_bias")
    )

    @numba.njit
    def run(x, w, bias, dy, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        return (
            forward(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups),
            forward(x, w, bias, stride, padding, dilation, groups),
            grad_input(dy, w, x.shape, stride=stride, padding=padding, dilation=dilation, groups=groups),
            grad_weight(x, dy, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups),
            grad_bias(dy),
        )

    def interpreted(x: Any, w: Any, bias: Any, dy: Any, **options: Any) -> tuple[Any, ...]:
        return (
            forward(x, w, **options), forward(x, w, bias, **options), grad_input(dy, w, x.shape, **options),
            grad_weight(x, dy, w.shape, **options), grad_bias(dy),
        )  # fmt: skip

    return run, interpreted


@pytest.mark.parametrize(("rank", "dtype"), [(1, "D"), (2, "f"), (2, "l"), (3, "d")])
def test_layers(rank, dtype, rng):
    compiled, interpreted = functions(rank)
    for x_shape, w_shape, stride, padding, dilation, groups in CASES[rank]:
        x, w, bias = (fill(shape, dtype, rng) for shape in (x_shape, w_shape, w_shape[:1]))
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        forward = getattr(nc, f"conv{rank}d")
        dy = fill(forward(x, w, **options).shape, dtype, rng)
        found = compiled(x, w, bias, dy, stride, padding, dilation, groups)
        expected = interpreted(x, w, bias, dy, **options)
        for y, reference in zip(found, expected, strict=True):
            assert y.dtype == reference.dtype
            np.testing.assert_allclose(y, reference, rtol=1e-5 if dtype == "f" else 1e-12, atol=1e-4 if dtype == "f" else 1e-12)


def test_options_as_tuples_and_words(rng):
    @numba.njit
    def run(x, w):  # type: ignore[no-untyped-def]
        return (
            nc.conv2d(x, w, stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
            nc.conv2d(x, w, padding="same", stride=2),
            nc.conv2d(x, w, padding="same_lower"),
            nc.conv2d(x[0], w, padding="valid"),
            nc.conv2d(x[:, :, ::2], w.astype(np.float64)),
        )

    x, w = fill((2, 3, 10, 9), "f", rng), fill((4, 3, 2, 4), "f", rng)
    expected = (
        nc.conv2d(x, w, stride=(1, 2), padding=(0, 1), dilation=(2, 1)), nc.conv2d(x, w, padding="same", stride=2),
        nc.conv2d(x, w, padding="same_lower"), nc.conv2d(x[0], w, padding="valid"), nc.conv2d(x[:, :, ::2], w.astype(np.float64)),
    )  # fmt: skip
    for y, reference in zip(run(x, w), expected, strict=True):
        assert y.dtype == reference.dtype
        np.testing.assert_allclose(y, reference, atol=1e-4)


@numba.njit
def into(x, w, y, dx, dw):  # type: ignore[no-untyped-def]
    nc.conv2d(x, w, padding=1, out=y)
    nc.conv2d_grad_input(y, w, x.shape, padding=1, out=dx)
    nc.conv2d_grad_weight(x, y, w.shape, padding=1, out=dw)


@numba.njit
def repeated(times, x, w, y, dx, dw):  # type: ignore[no-untyped-def]
    for _ in range(times):
        into(x, w, y, dx, dw)


def test_an_out_is_filled_without_allocating(rng):
    x, w = fill((1, 3, 8, 9), "d", rng), fill((2, 3, 3, 3), "d", rng)
    y, dx, dw = np.full((1, 2, 8, 9), np.nan), np.full(x.shape, np.nan), np.full(w.shape, np.nan)
    into(x, w, y, dx, dw)
    np.testing.assert_allclose(y, nc.conv2d(x, w, padding=1), atol=1e-12)
    np.testing.assert_allclose(dx, nc.conv2d_grad_input(y, w, x.shape, padding=1), atol=1e-10)
    np.testing.assert_allclose(dw, nc.conv2d_grad_weight(x, y, w.shape, padding=1), atol=1e-10)
    _nrt_python.memsys_enable_stats()
    try:
        taken = []
        for times in (1, 100):
            before = rtsys.get_allocation_stats().alloc
            repeated(times, x, w, y, dx, dw)
            taken.append(rtsys.get_allocation_stats().alloc - before)
    finally:
        _nrt_python.memsys_disable_stats()
    assert taken[0] == taken[1]


def test_in_a_parallel_loop(rng):
    @numba.njit(parallel=True)
    def all_of(xs, w):  # type: ignore[no-untyped-def]
        out = np.empty((xs.shape[0], w.shape[0], xs.shape[2] - w.shape[2] + 1), xs.dtype)
        for n in prange(xs.shape[0]):
            nc.conv1d(xs[n], w, out=out[n])
        return out

    x, w = fill((50, 3, 40), "d", rng), fill((4, 3, 5), "d", rng)
    np.testing.assert_allclose(all_of(x, w), nc.conv1d(x, w), atol=1e-12)


def test_signals_names(rng):
    @numba.njit
    def run(x, h):  # type: ignore[no-untyped-def]
        return (
            signal.convolve(x, h, "same"), signal.lfilter(h, [1.0, 0.5], x), nc.signal.savgol_filter(x, 5, 2), signal.upfirdn(h, x, 2),
            ndimage.gaussian_filter1d(x, 2.0), signal.correlation_lags(3, 4), signal.sosfilt(np.ones((1, 6)), x),
        )  # fmt: skip

    x, h = fill((30,), "d", rng, "signed"), fill((4,), "d", rng, "signed")
    expected = (
        signal.convolve(x, h, "same"), signal.lfilter(h, [1.0, 0.5], x), signal.savgol_filter(x, 5, 2), signal.upfirdn(h, x, 2),
        ndimage.gaussian_filter1d(x, 2.0), signal.correlation_lags(3, 4), signal.sosfilt(np.ones((1, 6)), x),
    )  # fmt: skip
    for y, reference in zip(run(x, h), expected, strict=True):
        np.testing.assert_allclose(y, reference, atol=1e-12 * max(1, np.abs(reference).max()))


def test_what_is_not_supported_says_so():
    x, w = np.ones((1, 2, 5)), np.ones((3, 2, 3))
    refused(lambda x, w: nc.conv1d(x, w, activation="relu"), x, w, match="activation must be None")
    refused(lambda x, w: nc.conv1d(x, w, layout="NWC"), x, w, match="layout must be 'NCW'")
    refused(lambda x, w: nc.conv1d(x, w, stride=1.5), x, w, match="stride must be an integer or a tuple of 1")
    refused(lambda x, w: nc.conv1d(x, w, padding="full"), x, w, match="padding must be an integer")
    refused(lambda x, w: nc.conv2d(x, w), x, w, match="w must be an array of 4 axes")
    refused(lambda x, w: nc.conv1d(x, w, out=x[0]), x, w, match="out must be None or a contiguous array")
    refused(lambda x, w: nc.conv1d_grad_input(x, w, 5), x, w, match="input_shape must be a tuple of 3 integers")
    run = numba.njit(lambda x, w, stride: nc.conv1d(x, w, stride=stride))
    for x_shape, stride, message in (
        ((1, 3, 5), 1, "as many channels"),
        ((1, 2, 2), 1, "larger than the padded input"),
        ((1, 2, 5), 0, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(np.ones(x_shape), w, stride)
