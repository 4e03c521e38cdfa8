"""`numbaconv.signal` and the layers on CuPy arrays: without a GPU, on a stand-in for CuPy whose arrays are recognised by their type alone.

The stand-in's arrays are NumPy's under another class, so that kernels can run in the simulator; NumPy's functions refuse them, as they
refuse CuPy's, unless CuPy has the function too.
"""

from __future__ import annotations

import itertools
import sys
import types

import numpy as np
import pytest

import numbaconv as nc
from numbaconv import signal
from numbaconv.cuda._backend import SIMULATED
from numbaconv.recipe import _known

# What CuPy has, of what is used here.
FUNCTIONS = ("add", "asarray", "ascontiguousarray", "broadcast_to", "concatenate", "conj", "empty", "may_share_memory", "moveaxis", "take", "zeros")


class DeviceArray(np.ndarray):
    """An array that says it is on a GPU."""

    @property
    def __cuda_array_interface__(self):
        """What makes it one."""
        return {**self.__array_interface__, "version": 3}

    @property
    def data(self):
        """Where it is, as CuPy says it."""
        return types.SimpleNamespace(ptr=self.ctypes.data, device_id=0)

    def __array_function__(self, function, kinds, arguments, options):
        """Let through what CuPy answers too."""
        if function.__name__ in ("broadcast_to", "moveaxis", "take", "concatenate", "result_type", "shape", "may_share_memory"):
            return super().__array_function__(function, kinds, arguments, options)
        raise TypeError(f"numpy.{function.__name__} does not take arrays of a GPU")


def stand_in():
    module = types.ModuleType("cupy")

    def on_device(function):
        def call(*arguments, **options):
            found = function(*arguments, **options)
            return found.view(DeviceArray) if isinstance(found, np.ndarray) else found

        return call

    for name in FUNCTIONS:
        function = getattr(np, name)
        setattr(module, name, function if name in ("add", "may_share_memory") else on_device(function))
    module.ndarray = DeviceArray
    module.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDevice=lambda: 0))
    return module


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    if not SIMULATED:
        import cupy

        return cupy
    module = stand_in()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(DeviceArray, "__module__", "cupy")
    return module


def to_host(array):
    return np.asarray(array).view(np.ndarray) if SIMULATED else array.get()


def same(found, expected, cupy, exact=True):
    assert type(found) is cupy.ndarray and found.dtype == expected.dtype and found.shape == expected.shape
    if exact:
        np.testing.assert_array_equal(to_host(found), expected)
    else:
        np.testing.assert_allclose(to_host(found), expected, rtol=1e-4, atol=1e-4)


def integers(rng, shape, dtype):
    values = rng.integers(-3, 4, shape).astype(dtype)
    return values + 1j * rng.integers(-3, 4, shape).astype(dtype) if np.dtype(dtype).kind == "c" else values


@pytest.mark.parametrize("name", ("convolve", "correlate"))
def test_convolve_and_correlate(name, cupy, rng):
    for (first, second), mode, dtype in itertools.product((((9,), (4,)), ((3,), (8,)), ((5, 6), (2, 3))), ("full", "same", "valid"), ("f4", "f8")):
        a, b = integers(rng, first, dtype), integers(rng, second, dtype)
        found = getattr(signal, name)(cupy.asarray(a), cupy.asarray(b), mode, "direct")
        same(found, getattr(signal, name)(a, b, mode, "direct"), cupy)


@pytest.mark.parametrize("boundary", ("fill", "wrap", "symm"))
def test_two_dimensions_with_boundaries(boundary, cupy, rng):
    a, b = integers(rng, (6, 7), "f4"), integers(rng, (3, 2), "f4")
    for name, mode in itertools.product(("convolve2d", "correlate2d"), ("full", "same", "valid")):
        found = getattr(signal, name)(cupy.asarray(a), cupy.asarray(b), mode, boundary, 2)
        same(found, getattr(signal, name)(a, b, mode, boundary, 2), cupy)


@pytest.mark.parametrize("name", ("fftconvolve", "oaconvolve"))
def test_transforms_with_axes_and_broadcasting(name, cupy, rng):
    a, b = integers(rng, (2, 9), "f4"), integers(rng, (1, 4), "f4")
    found = getattr(signal, name)(cupy.asarray(a), cupy.asarray(b), "same", axes=1)
    same(found, getattr(signal, name)(a, b, "same", axes=1), cupy, exact=False)


def test_upfirdn(cupy, rng):
    h, x = integers(rng, (4,), "f4"), integers(rng, (2, 9), "f4")
    for up, down, mode in ((1, 1, "constant"), (1, 2, "symmetric"), (1, 3, "line")):
        same(signal.upfirdn(cupy.asarray(h), cupy.asarray(x), up, down, -1, mode), signal.upfirdn(h, x, up, down, -1, mode), cupy, exact=False)


def test_gradients(cupy, rng):
    calls = (("convolve", (9,), (4,), ("same",)), ("correlate2d", (5, 6), (2, 3), ("full", "symm")), ("fftconvolve", (2, 9), (1, 4), ("full", 1)))
    for name, first, second, options in calls:
        a, b = integers(rng, first, "f4"), integers(rng, second, "f4")
        y, pull = getattr(signal.vjp, name)(a, b, *options)
        y_gpu, pull_gpu = getattr(signal.vjp, name)(cupy.asarray(a), cupy.asarray(b), *options)
        same(y_gpu, y, cupy, exact=False)
        dy = integers(rng, y.shape, "f4")
        for found, expected in zip(pull_gpu(cupy.asarray(dy)), pull(dy), strict=True):
            same(found, expected, cupy, exact=False)
    h, x = integers(rng, (4,), "f4"), integers(rng, (2, 9), "f4")
    y, pull = signal.vjp.upfirdn(h, x, 1, 2)
    _, pull_gpu = signal.vjp.upfirdn(cupy.asarray(h), cupy.asarray(x), 1, 2)
    dy = integers(rng, y.shape, "f4")
    for found, expected in zip(pull_gpu(cupy.asarray(dy)), pull(dy), strict=True):
        same(found, expected, cupy, exact=False)


def test_out_and_what_is_refused(cupy, rng):
    a, b = integers(rng, (9,), "f4"), integers(rng, (4,), "f4")
    out = cupy.empty(12, np.float32)
    assert signal.convolve(cupy.asarray(a), cupy.asarray(b), out=out) is out
    np.testing.assert_array_equal(to_host(out), np.convolve(a, b))
    with pytest.raises(TypeError, match="all arrays must be in one place"):
        signal.convolve(cupy.asarray(a), b)
    with pytest.raises(TypeError, match="got x on a GPU and h in main memory"):
        signal.upfirdn(b, cupy.asarray(a))
    with pytest.raises(TypeError, match="out must be a CuPy array"):
        signal.convolve(cupy.asarray(a), cupy.asarray(b), out=np.empty(12, np.float32))
    with pytest.raises(ValueError, match="(?i)acceptable mode flags"):
        signal.convolve(cupy.asarray(a), cupy.asarray(b), "half")


def test_layers(cupy, rng):
    x, w, b = integers(rng, (2, 3, 6, 5), "f4"), integers(rng, (4, 3, 3, 3), "f4"), integers(rng, (4,), "f4")
    gpu = [cupy.asarray(t) for t in (x, w, b)]
    y = nc.conv2d(x, w, b, padding=1, precision="highest")
    same(nc.conv2d(*gpu, padding=1, precision="highest"), y, cupy)
    with pytest.raises(TypeError, match="all arrays must be in one place, got x on a GPU and w, bias in main memory"):
        nc.conv2d(gpu[0], w, b)
    with pytest.raises(ValueError, match="device must be None or 'cuda'"):
        nc.conv2d(*gpu, device="cpu")


def test_repeated_calls(cupy, rng):
    """The second call and later ones take the short way; arrays that are not as kernels take them do not."""
    for _ in range(3):
        x, w = integers(rng, (2, 3, 6, 5), "f4"), integers(rng, (4, 3, 3, 3), "f4")
        y = nc.conv2d(x, w, padding=1)
        dy = integers(rng, y.shape, "f4")
        gpu_x, gpu_w, gpu_dy = (cupy.asarray(t) for t in (x, w, dy))
        same(nc.conv2d(gpu_x, gpu_w, padding=1, method="direct"), y, cupy)
        same(nc.conv2d_grad_input(gpu_dy, gpu_w, x.shape, padding=1, method="direct"), nc.conv2d_grad_input(dy, w, x.shape, padding=1), cupy)
        found = nc.conv2d_grad_weight(gpu_x, gpu_dy, w.shape, padding=1, method="direct")
        same(found, nc.conv2d_grad_weight(x, dy, w.shape, padding=1), cupy)
        same(nc.conv2d(cupy.asarray(x[:, :, ::-1])[:, :, ::-1], gpu_w, padding=1, method="direct"), y, cupy)
        shifted = cupy.asarray(np.concatenate([np.zeros(1, np.float32), x.ravel()]))[1:].reshape(x.shape)
        same(nc.conv2d(shifted, gpu_w, padding=1, method="direct"), y, cupy)
    known = [recipe for key, recipe in _known.items() if recipe.plan.device == "cuda" and key[1:3] == (x.shape, w.shape)]
    assert len(known) == 1 and known[0].run.known
