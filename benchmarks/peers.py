"""What numbaconv is compared with. A peer answers a case with a function of no arguments, or None where it has no such function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from benchmarks.cases import Array, Filter, Layer, Signal

Call = Callable[[], Any]


def _importable(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torch, cv2, onnx, onnxruntime = map(_importable, ("torch", "cv2", "onnx", "onnxruntime"))
MOST_NDIMAGE = 7 * 7  # taps: its time grows with them, to seconds where others take milliseconds
# What peers of signals are called for at most: multiply-adds that take a second or two, as dot products, in plain loops, or in N-D by
# iterators and by PyTorch; and, for all but dot products, as many taps as the FFT leaves them a chance with.
MOST_DOTS, MOST_LOOPS, MOST_STEPS, MOST_TAPS = 2 * 10**10, 2 * 10**9, 2 * 10**8, 500
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


def numpy_convolve(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``numpy.convolve``."""
    if x.ndim > 1 or case.macs > MOST_DOTS:
        return None
    return lambda: np.convolve(x, h, case.mode)


def scipy_signal(name: str, **options: Any) -> Callable[[Signal, Array, Array], Call]:
    """Return what makes a call of a function of ``scipy.signal``."""

    def make(case: Signal, x: Array, h: Array) -> Call:
        from scipy import signal

        function = getattr(signal, name)
        return lambda: function(x, h, mode=case.mode, **options)

    return make


def scipy_direct(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``scipy.signal.convolve`` with its method "direct", in one dimension ``numpy.convolve``; "fft" is ``fftconvolve``."""
    affordable = case.macs <= MOST_DOTS if x.ndim == 1 else _few_taps(case, MOST_STEPS)
    return scipy_signal("convolve", method="direct")(case, x, h) if affordable else None


def scipy_convolve2d(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``scipy.signal.convolve2d``."""
    return scipy_signal("convolve2d")(case, x, h) if x.ndim == case.rank == 2 and _few_taps(case, MOST_LOOPS) else None


def scipy_lfilter(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``scipy.signal.lfilter`` of a batch, padded beforehand and cut; of one signal it is ``numpy.convolve`` itself."""
    if case.rank != 1 or x.ndim == 1 or case.mode != "same" or case.macs > MOST_DOTS:
        return None
    from scipy import signal

    late = (case.taps[0] - 1) // 2
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, late)])
    return lambda: signal.lfilter(h.ravel(), x.dtype.type(1), padded)[..., late:]


def scipy_ndimage(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``scipy.ndimage.convolve1d`` or ``convolve``, which agree with ``scipy.signal`` where the number of taps is odd."""
    if not _centred(case) or not _few_taps(case, MOST_LOOPS):
        return None
    from scipy import ndimage

    if case.rank == 1:
        return lambda: ndimage.convolve1d(x, h.ravel(), mode="constant")
    return lambda: ndimage.convolve(x, h, mode="constant")


def _few_taps(case: Signal, macs: int) -> bool:
    return case.macs <= macs and prod(case.taps) <= MOST_TAPS


def _centred(case: Signal) -> bool:
    """Return whether the output is as large as the input and every tap has its counterpart on the other side of it."""
    return case.mode == "same" and all(r % 2 for r in case.taps)


def opencv_images(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``cv2.filter2D`` of each real image, which takes the DFT for large filters."""
    if not cv2 or case.rank != 2 or not _centred(case) or x.dtype.kind != "f":
        return None
    taps = np.ascontiguousarray(h.reshape(case.taps)[::-1, ::-1])
    if x.ndim == 2:
        return lambda: cv2.filter2D(x, -1, taps, borderType=cv2.BORDER_CONSTANT)

    def each() -> Array:
        out = np.empty_like(x)
        for image, result in zip(x, out, strict=True):
            cv2.filter2D(image, -1, taps, result, borderType=cv2.BORDER_CONSTANT)
        return out

    return each


def torch_signal(case: Signal, x: Array, h: Array) -> Call | None:
    """Return ``conv1d`` or ``conv2d`` of signals of one channel; the taps are reversed and all is converted beforehand."""
    if not torch or x.dtype.kind != "f" or not _few_taps(case, MOST_STEPS) or (case.mode == "same" and not _centred(case)):
        return None
    batch, axes = x.shape[: -case.rank], tuple(range(-case.rank, 0))
    signals = torch.from_numpy(x.reshape(-1, 1, *x.shape[-case.rank :]))
    taps = torch.from_numpy(np.ascontiguousarray(np.flip(h, axes)).reshape(1, 1, *case.taps))
    padding = [{"full": r - 1, "same": r // 2, "valid": 0}[case.mode] for r in case.taps]
    convolve = getattr(torch.nn.functional, f"conv{case.rank}d")

    def call() -> Any:
        y = convolve(signals, taps, padding=padding)
        return y.reshape(*batch, *y.shape[2:])

    return _without_gradients(call)


def scipy_twin(case: Filter, x: Array, h: Array) -> Call:
    """Return the same call with SciPy."""
    return case.call("scipy", x, h)


def opencv_twin(case: Filter, x: Array, h: Array) -> Call | None:
    """Return OpenCV's function of the same result."""
    function = case.opencv
    return (lambda: function(cv2, x)) if cv2 and function and x.dtype.kind == "f" else None


LAYER_PEERS = {
    "torch": torch_layer, "torch channels_last": torch_channels_last, "ONNX Runtime": onnx_layer, "OpenCV": opencv_layer,
    "scipy.ndimage": ndimage_layer, "scipy.signal": signal_layer,
}  # fmt: skip
SIGNAL_PEERS: dict[str, Callable[[Any, Array, Array], Call | None]] = {
    "numpy.convolve": numpy_convolve, "scipy.signal.convolve": scipy_signal("convolve"), "scipy.signal.convolve direct": scipy_direct,
    "scipy.signal.fftconvolve": scipy_signal("fftconvolve"), "scipy.signal.oaconvolve": scipy_signal("oaconvolve"),
    "scipy.signal.convolve2d": scipy_convolve2d, "scipy.signal.lfilter": scipy_lfilter, "scipy.ndimage": scipy_ndimage,
    "OpenCV": opencv_images, "torch": torch_signal,
}  # fmt: skip
FILTER_PEERS: dict[str, Callable[[Any, Array, Array], Call | None]] = {"scipy": scipy_twin, "OpenCV": opencv_twin}


def as_numpy(result: Any) -> Array:
    """Return a peer's result as an array in NumPy's order of axes."""
    if isinstance(result, list):  # OpenCV's images
        return np.stack([np.moveaxis(np.atleast_3d(image), -1, 0) for image in result])
    return result.numpy() if torch and isinstance(result, torch.Tensor) else np.asarray(result)
