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
from numbaconv.cpu.bias import CODES
from numbaconv.problem import LAYOUTS

CASES: dict[int, list[tuple[Any, ...]]] = {  # x, w, stride, padding, dilation, groups
    1: [((2, 3, 17), (4, 3, 5), 1, 2, 1, 1), ((2, 4, 20), (6, 2, 3), 3, 1, 2, 2)],
    2: [((2, 3, 9, 8), (4, 3, 3, 2), 1, 1, 1, 1), ((1, 4, 11, 12), (4, 1, 3, 3), 2, 2, 2, 4)],
    3: [((1, 2, 5, 6, 7), (3, 2, 2, 3, 3), 2, 1, 1, 1)],
}
TRANSPOSED: dict[int, list[tuple[Any, ...]]] = {  # x, w, stride, padding, dilation, groups, output_padding
    1: [((2, 4, 7), (4, 3, 5), 1, 2, 1, 1, 0), ((2, 4, 8), (4, 2, 3), 3, 1, 2, 2, 2)],
    2: [((2, 3, 5, 4), (3, 4, 3, 2), 2, 1, 1, 1, 1), ((1, 4, 6, 5), (4, 1, 3, 3), 2, 2, 3, 4, 0)],
    3: [((1, 2, 3, 4, 3), (2, 3, 2, 3, 3), 2, 1, 1, 1, 0)],
}
SUFFIXES = ("", "_grad_input", "_grad_weight", "_grad_bias")


def functions(name: str) -> Any:
    forward, grad_input, grad_weight, grad_bias = (getattr(nc, name + suffix) for suffix in SUFFIXES)
    if "transpose" in name:

        @numba.njit
        def run(x, w, bias, dy, stride, padding, dilation, groups, layout, output_padding):  # type: ignore[no-untyped-def]
            return (
                forward(x, w, None, stride, padding, dilation, groups, None, layout, output_padding=output_padding),
                forward(x, w, bias, stride, padding, dilation, groups, None, layout, output_padding=output_padding),
                grad_input(dy, w, x.shape, stride, padding, dilation, groups, layout, output_padding=output_padding),
                grad_weight(x, dy, w.shape, stride, padding, dilation, groups, layout, output_padding=output_padding),
                grad_bias(dy, layout),
            )
    else:

        @numba.njit
        def run(x, w, bias, dy, stride, padding, dilation, groups, layout, output_padding):  # type: ignore[no-untyped-def]
            return (
                forward(x, w, None, stride, padding, dilation, groups, None, layout),
                forward(x, w, bias, stride, padding, dilation, groups, None, layout),
                grad_input(dy, w, x.shape, stride, padding, dilation, groups, layout),
                grad_weight(x, dy, w.shape, stride, padding, dilation, groups, layout),
                grad_bias(dy, layout),
            )

    def interpreted(x: Any, w: Any, bias: Any, dy: Any, layout: str, **options: Any) -> tuple[Any, ...]:
        options["layout"] = layout
        return (
            forward(x, w, **options), forward(x, w, bias, **options), grad_input(dy, w, x.shape, **options),
            grad_weight(x, dy, w.shape, **options), grad_bias(dy, layout=layout),
        )  # fmt: skip

    return run, interpreted


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("conv1d", "D"), ("conv2d", "f"), ("conv2d", "l"), ("conv3d", "d"), ("conv_transpose1d", "D"), ("conv_transpose2d", "f"),
     ("conv_transpose3d", "l")],
)  # fmt: skip
def test_layers(name, dtype, rng):
    compiled, interpreted = functions(name)
    rank, transposed = int(name[-2]), "transpose" in name
    for x_shape, w_shape, *options in (TRANSPOSED if transposed else CASES)[rank]:
        stride, padding, dilation, groups, *extra = options
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        if transposed:
            geometry["output_padding"] = extra[0]
        w, bias = fill(w_shape, dtype, rng), fill((w_shape[1] * groups if transposed else w_shape[0],), dtype, rng)
        for layout in LAYOUTS[rank]:
            x = fill((x_shape[0], *x_shape[2:], x_shape[1]) if layout.endswith("C") else x_shape, dtype, rng)
            dy = fill(getattr(nc, name)(x, w, layout=layout, **geometry).shape, dtype, rng)
            found = compiled(x, w, bias, dy, stride, padding, dilation, groups, layout, *(extra or [0]))
            expected = interpreted(x, w, bias, dy, layout, **geometry)
            for y, reference in zip(found, expected, strict=True):
                assert y.dtype == reference.dtype
                np.testing.assert_allclose(y, reference, rtol=1e-5 if dtype == "f" else 1e-12, atol=1e-4 if dtype == "f" else 1e-12)


def test_options_as_tuples_and_words(rng):
    def run(x, w, padding):  # type: ignore[no-untyped-def]
        return (
            nc.conv2d(x, w, stride=(1, 2), padding=((0, 1), (-1, 2)), dilation=(2, 1)),
            nc.conv2d(x, w, padding="same", stride=2),
            nc.conv2d(x, w, padding=padding),
            nc.conv2d(x[0], w, padding=(1,), method="direct", device="cpu"),
            nc.conv2d(x[:, :, ::2], w.astype(np.float64)),
            nc.conv_transpose2d(x, x[:3, :2, :4, :4], padding=padding, stride=(2, 3)),
            nc.conv2d_grad_weight(x, x[:, :2, :8, :7], (3, 3)),
            nc.conv_transpose2d_grad_weight(x[:, :, :8, :7], x, (3, 3)),
        )

    x, w = fill((3, 3, 10, 9), "f", rng), fill((4, 3, 2, 4), "f", rng)
    compiled = numba.njit(run)
    for padding in ("valid", "same", "same_lower"):
        for y, reference in zip(compiled(x, w, padding), run(x, w, padding), strict=True):
            assert y.dtype == reference.dtype
            np.testing.assert_allclose(y, reference, atol=1e-4)


@pytest.mark.parametrize("dtype", ["f", "l"])
def test_activations(dtype, rng):
    def run(x, w, bias, activation):  # type: ignore[no-untyped-def]
        return nc.conv1d(x, w, bias, activation=activation), nc.conv_transpose1d(x, w, activation="relu")

    x, w, bias = fill((2, 3, 9), dtype, rng, "signed"), fill((3, 3, 2), dtype, rng, "signed"), fill((3,), dtype, rng, "signed")
    compiled = numba.njit(run)
    for activation in filter(None, CODES) if dtype == "f" else ("relu",):
        for y, reference in zip(compiled(x, w, bias, activation), run(x, w, bias, activation), strict=True):
            assert y.dtype == reference.dtype
            np.testing.assert_allclose(y, reference, atol=1e-6, err_msg=activation)


def test_all_gradients_at_once(rng):
    def run(dy, x, w):  # type: ignore[no-untyped-def]
        return (
            *nc.conv1d_backward(dy, x, w, stride=2, layout="NWC"),
            *nc.conv1d_backward(dy, x, w, needs=(True, False, True), stride=2, layout="NWC"),
            *nc.conv_transpose1d_backward(x, dy, w, needs=(False, True, False), stride=2, layout="NWC"),
        )

    dy, x, w = fill((2, 4, 5), "d", rng), fill((2, 9, 3), "d", rng), fill((5, 3, 3), "d", rng)
    for y, reference in zip(numba.njit(run)(dy, x, w), run(dy, x, w), strict=True):
        assert (y is None) == (reference is None)
        if y is not None:
            np.testing.assert_allclose(y, reference, atol=1e-12)


@numba.njit
def into(x, w, y, dx, dw, pixels, last, back):  # type: ignore[no-untyped-def]
    nc.conv2d(x, w, padding=1, out=y)
    nc.conv2d(pixels, w, padding=1, activation="gelu", layout="NHWC", out=last)
    nc.conv_transpose2d(y, w, padding=1, activation="tanh", out=back)
    nc.conv2d_grad_input(y, w, x.shape, padding=1, out=dx)
    nc.conv2d_grad_weight(x, y, w.shape, padding=1, out=dw)


@numba.njit
def repeated(times, *arrays):  # type: ignore[no-untyped-def]
    for _ in range(times):
        into(*arrays)


def test_an_out_is_filled_without_allocating(rng):
    x, w = fill((1, 3, 8, 9), "d", rng), fill((2, 3, 3, 3), "d", rng)
    y, dx, dw = np.full((1, 2, 8, 9), np.nan), np.full(x.shape, np.nan), np.full(w.shape, np.nan)
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    last, back = np.full((1, 8, 9, 2), np.nan), np.full(x.shape, np.nan)
    arrays = (x, w, y, dx, dw, pixels, last, back)
    into(*arrays)
    np.testing.assert_allclose(y, nc.conv2d(x, w, padding=1), atol=1e-12)
    np.testing.assert_allclose(dx, nc.conv2d_grad_input(y, w, x.shape, padding=1), atol=1e-10)
    np.testing.assert_allclose(dw, nc.conv2d_grad_weight(x, y, w.shape, padding=1), atol=1e-10)
    np.testing.assert_allclose(last, nc.conv2d(pixels, w, padding=1, activation="gelu", layout="NHWC"), atol=1e-12)
    np.testing.assert_allclose(back, nc.conv_transpose2d(y, w, padding=1, activation="tanh"), atol=1e-12)
    _nrt_python.memsys_enable_stats()
    try:
        taken = []
        for times in (1, 100):
            before = rtsys.get_allocation_stats().alloc
            repeated(times, *arrays)
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


@numba.njit
def in_words(x, w, activation, layout, padding):  # type: ignore[no-untyped-def]
    return nc.conv1d(x, w, activation=activation, layout=layout, padding=padding)


def test_what_is_not_supported_says_so():
    x, w = np.ones((1, 2, 5)), np.ones((3, 2, 3))
    refused(lambda x, w: nc.conv1d(x, w, activation="tanh"), 1j * x, w, match="activation must be None for complex128")
    refused(lambda x, w: nc.conv1d(x, w, stride=1.5), x, w, match="stride must be an integer or a tuple of 1")
    refused(lambda x, w: nc.conv1d(x, w, padding=0.5), x, w, match="padding must be an integer or a tuple of 1, or one of pairs")
    refused(lambda x, w: nc.conv1d(x, w, groups=x), x, w, match="groups must be an integer")
    refused(lambda x, w: nc.conv1d(x, w, method="fft"), x, w, match="method must be 'auto' or 'direct' .*, got 'fft'")
    refused(lambda x, w: nc.conv1d(x, w, precision="tf32"), x, w, match="precision must be 'default' or 'highest'")
    refused(lambda x, w: nc.conv1d(x, w, device="cuda"), x, w, match="device must be None or 'cpu'")
    refused(lambda x, w: nc.conv1d(x, w, stream=0), x, w, match="stream must be None")
    refused(lambda x, w: nc.conv1d(x, w, output_padding=1), x, w, match="output_padding must be left out")
    refused(lambda x, w: nc.conv2d(x, w), x, w, match="x must be an array of 4 axes")
    refused(lambda x, w: nc.conv1d(x, w, x), x, w, match="bias must be an array of 1 axis")
    refused(lambda x, w: nc.conv1d(x, w, out=x[0]), x, w, match="out must be None or a contiguous array")
    refused(lambda x, w: nc.conv1d_grad_input(x, w, 5), x, w, match="input_shape must be a tuple of 3 integers")
    refused(lambda x, w: nc.conv1d_grad_weight(x, w, (1, 2)), x, w, match="kernel_shape must be a tuple of 3 integers, or of 1")
    refused(lambda x, w: nc.conv1d_backward(x, x, w, needs=(True, x[0, 0, 0] > 0, True)), x, w, match="needs must be a tuple of three literals")
    for words, message in (
        (("swish", "NCW", "valid"), "activation must be one of .*'gelu'"),
        (("relu", "NHWC", "valid"), r"layout must be one of \('NCW', 'NWC'\)"),
        (("relu", "NCW", "full"), "padding must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            in_words(x, w, *words)
    run = numba.njit(lambda x, w, stride: nc.conv1d(x, w, stride=stride))
    for x_shape, stride, message in (
        ((1, 3, 5), 1, "as many channels"),
        ((1, 2, 2), 1, "larger than the padded input"),
        ((1, 2, 5), 0, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(np.ones(x_shape), w, stride)
