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


torch, cv2, onnx, onnxruntime = map(_importable, ("torch", "cv2", "onnx", "onnxruntime"))
MOST_NDIMAGE = 7 * 7  # taps: its time grows with them, to seconds where others take milliseconds
_threads = 1


def use_threads(n: int) -> None:
    """Give every peer ``n`` threads; SciPy's functions use one."""
    global _threads
    _threads = n
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
    rest = (stride, padding, dilation, layer.transposed, (0,) * layer.rank, layer.groups)
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


def onnx_layer(layer: Layer, op: str, a: Array, b: Array) -> Call | None:
    """Return the layer in ONNX Runtime: a model of it alone, its weights a constant, as networks have them; inference only."""
    if not onnx or not onnxruntime or op != "forward" or a.dtype != np.float32:
        return None
    axes = {name: layer.axes(option, default) for name, option, default in (("strides", "stride", 1), ("dilations", "dilation", 1))}
    node = onnx.helper.make_node(
        "ConvTranspose" if layer.transposed else "Conv", ["x", "w"], ["y"], **axes,
        kernel_shape=layer.w_shape[2:], pads=layer.axes("padding", 0) * 2, group=layer.groups,
    )  # fmt: skip
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, t) for name, t in (("x", layer.x_shape), ("y", layer.y_shape)))
    graph = onnx.helper.make_graph([node], "layer", [x], [y], [onnx.numpy_helper.from_array(b, "w")])
    # Versions that every ONNX Runtime since 1.20 reads.
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = _threads, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": a})[0]


def _taps(layer: Layer, op: str, w: Array) -> Array | None:
    """Return the filter of a layer that filters every channel of an image with the same one, borders being zeros."""
    channels, per_filter, *taps = layer.w_shape
    same = channels == layer.x_shape[1] and per_filter == 1 and layer.y_shape == layer.x_shape and not layer.transposed
    alike = (channels == 1 or layer.one_filter) and set(layer.axes("stride", 1) + layer.axes("dilation", 1)) == {1}
    return w[0, 0] if op == "forward" and layer.rank == 2 and same and alike and all(r % 2 for r in taps) else None


def opencv_layer(layer: Layer, op: str, a: Array, b: Array) -> Call | None:
    """Return ``cv2.filter2D`` of each image, its channels innermost, as OpenCV has them."""
    taps = _taps(layer, op, b)
    if not cv2 or taps is None:
        return None
    images = [np.ascontiguousarray(np.moveaxis(image, 0, -1)) for image in a]
    return lambda: [cv2.filter2D(image, -1, taps, borderType=cv2.BORDER_CONSTANT) for image in images]


def ndimage_layer(layer: Layer, op: str, a: Array, b: Array) -> Call | None:
    """Return ``scipy.ndimage.correlate`` of each channel."""
    taps = _taps(layer, op, b)
    if taps is None or taps.size > MOST_NDIMAGE:
        return None
    from scipy import ndimage

    return lambda: _each(a, lambda channel: ndimage.correlate(channel, taps, mode="constant"))


def signal_layer(layer: Layer, op: str, a: Array, b: Array) -> Call | None:
    """Return ``scipy.signal.correlate`` of each channel, with its method "auto"."""
    taps = _taps(layer, op, b)
    if taps is None:
        return None
    from scipy import signal

    return lambda: _each(a, lambda channel: signal.correlate(channel, taps, "same"))


def _each(x: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function of images to each channel."""
    results = [function(channel) for channel in x.reshape(-1, *x.shape[2:])]
    return results[0].reshape(x.shape) if len(results) == 1 else np.stack(results).reshape(x.shape)


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


LAYER_PEERS = {
    "torch": torch_layer, "torch channels_last": torch_channels_last, "ONNX Runtime": onnx_layer, "OpenCV": opencv_layer,
    "scipy.ndimage": ndimage_layer, "scipy.signal": signal_layer,
}  # fmt: skip
SIGNAL_PEERS = {"scipy.signal.convolve": scipy_auto, "scipy.signal.oaconvolve": scipy_overlap_add, "OpenCV": opencv}


def as_numpy(result: Any) -> Array:
    """Return a peer's result as an array in NumPy's order of axes."""
    if isinstance(result, list):  # OpenCV's images
        return np.stack([np.moveaxis(np.atleast_3d(image), -1, 0) for image in result])
    return result.numpy() if torch and isinstance(result, torch.Tensor) else np.asarray(result)
