"""What numbaconv is compared with. A peer answers a case with a function of no arguments, or None where it has no such function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import Array, Layer, Signal

Call = Callable[[], Any]


def _importable(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torch, cv2 = _importable("torch"), _importable("cv2")


def use_threads(n: int) -> None:
    """Give every peer ``n`` threads; SciPy's functions use one."""
    if torch:
        torch.set_num_threads(n)
    if cv2:
        cv2.setNumThreads(n)


def torch_layer(layer: Layer, op: str, a: Array, b: Array, channels_last: bool = False) -> Call | None:
    """Return the operation in PyTorch, its operands converted beforehand."""
    if not torch or (channels_last and layer.rank == 1):
        return None
    order = (None, torch.channels_last, torch.channels_last_3d)[layer.rank - 1] if channels_last else torch.contiguous_format
    first, second = (torch.from_numpy(t).contiguous(memory_format=order) for t in (a, b))
    stride, padding, dilation = (layer.axes(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
    rest = (stride, padding, dilation, layer.transposed, (0,) * layer.rank, layer.options.get("groups", 1))
    if op == "forward":
        call = lambda: torch.convolution(first, second, None, *rest)  # noqa: E731
    elif op == "grad_input":
        x = torch.empty(layer.x_shape, dtype=first.dtype).contiguous(memory_format=order)  # only its shape is read
        call = lambda: torch.ops.aten.convolution_backward(first, x, second, None, *rest, (True, False, False))[0]  # noqa: E731
    else:
        w = torch.empty(layer.w_shape, dtype=first.dtype).contiguous(memory_format=order)
        call = lambda: torch.ops.aten.convolution_backward(second, first, w, None, *rest, (False, True, False))[1]  # noqa: E731
    return _without_gradients(call)


def torch_channels_last(layer: Layer, op: str, a: Array, b: Array) -> Call | None:
    """Return the same with images in rows of pixels, which oneDNN likes best."""
    return torch_layer(layer, op, a, b, channels_last=True)


def _without_gradients(call: Call) -> Call:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def scipy_layer(layer: Layer, op: str, a: Array, b: Array) -> Call | None:
    """Return the operation in SciPy, which has one-channel images with a stride of 1 alone."""
    plain = layer.x_shape[:2] == (1, 1) == layer.w_shape[:2] and not layer.transposed and set(layer.options) <= {"padding"}
    if op != "forward" or not plain or set(layer.axes("padding", 0)) - {0, *((r - 1) // 2 for r in layer.w_shape[2:])}:
        return None
    from scipy import signal

    mode = "same" if any(layer.axes("padding", 0)) else "valid"
    return lambda: signal.correlate(a[0, 0], b[0, 0], mode)[None, None]


def scipy_auto(case: Signal, x: Array, h: Array) -> Call:
    """Return ``scipy.signal.convolve`` with its method "auto"."""
    from scipy import signal

    return lambda: signal.convolve(x, h, mode="same")


def scipy_overlap_add(case: Signal, x: Array, h: Array) -> Call:
    """Return ``scipy.signal.oaconvolve``."""
    from scipy import signal

    return lambda: signal.oaconvolve(x, h, mode="same")


def opencv(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``cv2.filter2D`` of a float32 image."""
    if not cv2 or x.ndim != 2 or x.dtype != np.float32:
        return None
    taps = np.ascontiguousarray(h[::-1, ::-1])
    return lambda: cv2.filter2D(x, -1, taps, borderType=cv2.BORDER_CONSTANT)


LAYER_PEERS = {"torch": torch_layer, "torch channels_last": torch_channels_last, "SciPy": scipy_layer}
SIGNAL_PEERS = {"scipy.signal.convolve": scipy_auto, "scipy.signal.oaconvolve": scipy_overlap_add, "OpenCV": opencv}


def as_numpy(result: Any) -> Array:
    """Return a peer's result as an array in NumPy's order of axes."""
    return result.numpy() if torch and isinstance(result, torch.Tensor) else np.asarray(result)
