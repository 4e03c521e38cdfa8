"""The documentation of the thirty functions of `functional`, written once: they differ in rank and in what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SPATIAL = {1: "W", 2: "H, W", 3: "D, H, W"}
FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}

OPTIONS = """stride, dilation : int or sequence of int
    Steps of the output and of the filter, one for all axes or one per axis.
padding : int, sequence of int, sequence of (low, high) pairs, "same", "same_lower" or "valid"
    Zeros added around x; a negative number crops. "same" makes output = ceil(input / stride), with the odd zero
    after the data ("same_lower": before it).
groups : int
    Channels are split in this many groups that do not see each other; C of them make a depthwise convolution."""

TRANSPOSED_OPTIONS = """stride, dilation : int or sequence of int
    Steps of the *input* over the output, and of the filter.
padding : int, sequence of int, sequence of (low, high) pairs, "same", "same_lower" or "valid"
    How much is cropped from the ends of the full result. "same" makes output = input × stride.
output_padding : int or sequence of int
    Added to the high end of the output; smaller than the stride or the dilation.
groups : int
    Channels are split in this many groups that do not see each other."""

HOW = """layout : {{"{first}", "{last}"}}
    Order of the axes of x and of the output; w has one order.
method : str
    "auto" takes the cheapest algorithm, a name ("gemm", "dots", "winograd", "fir", "stencil", "fft", "direct"; on a GPU also "tensor" and
    "widened") that one. `explain` says which can do a problem.
precision : {{"default", "highest", "tf32", "bf16"}}
    Which error bounds "auto" allows: by default those of Winograd too, 64 eps · Σ|x||w| of a tile's largest output, and of Fourier
    transforms, 4 eps · ‖x‖₂‖w‖₂; "highest" keeps to the bounds of the direct sum. On a GPU, "tf32" lets tensor cores round float32 operands to
    2⁻¹¹, and "bf16" says that arrays of uint16 are bfloat16.
out : ndarray, optional
    Where to write the result: right shape and dtype, not overlapping an input.
device : {{None, "cuda"}}
    "cuda" computes NumPy arrays on a GPU; arrays that are there are computed there.
stream : stream of CuPy, PyTorch or Numba, optional
    On a GPU, by default CuPy's current one; the CPU has none."""

RAISES = """TypeError
    If an array is masked or of an unsupported dtype, or an option of the wrong type.
ValueError
    If shapes or options do not fit together; the message names the argument.
NotImplementedError
    If the algorithm that ``method`` names cannot do the problem.
MemoryError
    If output and workspace need more memory than there is."""

SIZE = "(input + low + high − dilation·(taps − 1) − 1) // stride + 1"
TRANSPOSED_SIZE = "(input − 1)·stride − low − high + dilation·(taps − 1) + output_padding + 1"


def document(function: Callable[..., Any], name: str, rank: int, transposed: bool, suffix: str) -> Callable[..., Any]:
    """Give a function its name and its numpydoc."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "numbaconv"
    function.__doc__ = _MAKERS[suffix](name, rank, transposed)
    return function


def _words(rank: int, transposed: bool) -> dict[str, str]:
    spatial, taps = SPATIAL[rank], {1: "S", 2: "R, S", 3: "T, R, S"}[rank]
    sizes = ("2, " * rank)[:-2]
    return {
        "rank": str(rank),
        "x": f"(N, C, {spatial}) or (C, {spatial})",
        "y": f"(N, K, {spatial}) or (K, {spatial})",
        "w": f"(C, K/groups, {taps})" if transposed else f"(K, C/groups, {taps})",
        "size": TRANSPOSED_SIZE if transposed else SIZE,
        "options": TRANSPOSED_OPTIONS if transposed else OPTIONS,
        "how": HOW.format(first=FIRST[rank], last=LAST[rank]),
        "example_x": f"np.ones((1, 3, {', '.join(['5'] * rank)}), np.float32)",
        "example_w": f"np.ones(({'3, 4' if transposed else '4, 3'}, {sizes}), np.float32)",
        "output": "6" if transposed else "4",
        "kind": "transposed convolution" if transposed else "convolution",
    }


def _repeat(size: str, rank: int) -> str:
    return ", ".join([size] * rank)


def _forward(name: str, rank: int, transposed: bool) -> str:
    v = _words(rank, transposed)
    head = (
        f"Transposed {rank}-D convolution: the gradient of conv{rank}d with respect to its input, as an operation of its own."
        if transposed
        else f"{rank}-D convolution of a batch with learnable filters (cross-correlation: the taps are not reversed)."
    )
    return f"""{head}

Output size per axis: {v["size"]}.

Parameters
----------
x : array_like, {v["x"]}
    Input; a sample without the batch axis gives one without.
w : array_like, {v["w"]}
    Filters, or what `prepare` made of them.
bias : array_like, (K,), optional
    Added to each output channel.
{v["options"]}
activation : {{None, "relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid"}}
    Applied as the output is stored.
{v["how"]}

Returns
-------
ndarray, {v["y"]}
    In the dtype to which NumPy promotes the inputs; float16 computes in float32, integers are exact modulo their width.

Raises
------
{RAISES}

Notes
-----
float32 and float64 results are within 8 eps · Σ|x||w| of the exact sum, and bit-identical for any number of threads.

References
----------
V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285.

Examples
--------
>>> import numpy as np, numbaconv as nc
>>> x, w = {v["example_x"]}, {v["example_w"]}
>>> nc.{name}(x, w{", stride=1" if transposed else ""}).shape
(1, 4, {_repeat(v["output"], rank)})
"""


def _gradient(name: str, rank: int, transposed: bool, wrt_input: bool) -> str:
    v = _words(rank, transposed)
    forward = name.rsplit("_grad", 1)[0]
    what, like = ("input", "x") if wrt_input else ("filters", "w")
    given = f"w : array_like, {v['w']}\n    Filters." if wrt_input else f"x : array_like, {v['x']}\n    Input of the forward call."
    shape = "input_shape" if wrt_input else "kernel_shape"
    grad_out = f"grad_out : array_like, {v['y']}\n    Gradient of the loss with respect to the output."
    first, second = (grad_out, given) if wrt_input else (given, grad_out)
    call = f"dy, w, {'x.shape' if wrt_input else 'w.shape'}" if wrt_input else "x, dy, w.shape"
    return f"""Gradient of `{forward}` with respect to its {what}.

It is the gradient of the convolution itself, without bias and activation.

Parameters
----------
{first}
{second}
{shape} : sequence of int
    Shape of {like}{"" if wrt_input else ", or its filter sizes alone"}: it does not follow from the other two when the stride is larger than 1.
{v["options"]}
{v["how"]}

Returns
-------
ndarray, like {like}
    For complex arrays in PyTorch's convention: the other operand is conjugated.

Raises
------
{RAISES}

Examples
--------
>>> import numpy as np, numbaconv as nc
>>> x, w = {v["example_x"]}, {v["example_w"]}
>>> dy = np.ones_like(nc.{forward}(x, w))
>>> nc.{name}({call}).shape == {"x" if wrt_input else "w"}.shape
True
"""


def _bias(name: str, rank: int, transposed: bool) -> str:
    v = _words(rank, transposed)
    return f"""Gradient of `{name.removesuffix("_grad_bias")}` with respect to its bias: grad_out summed over all axes but the channels.

Parameters
----------
grad_out : array_like, {v["y"]}
    Gradient of the loss with respect to the output.
layout : {{"{FIRST[rank]}", "{LAST[rank]}"}}
    Order of its axes.

Returns
-------
ndarray, (K,)

Raises
------
TypeError, ValueError
    If grad_out is not such an array.

Examples
--------
>>> import numpy as np, numbaconv as nc
>>> nc.{name}(np.ones((2, 3, {_repeat("5", rank)})))
array([{", ".join([f"{2 * 5**rank}."] * 3)}])
"""


def _backward(name: str, rank: int, transposed: bool) -> str:
    v = _words(rank, transposed)
    forward = name.removesuffix("_backward")
    return f"""Gradients of `{forward}` with respect to input, filters and bias, in one call.

Parameters
----------
grad_out : array_like, {v["y"]}
    Gradient of the loss with respect to the output.
x : array_like, {v["x"]}
    Input of the forward call.
w : array_like, {v["w"]}
    Filters.
needs : (bool, bool, bool)
    Which of the three to compute; the others are None.
layout, **options
    As for `{forward}_grad_input`, without ``out``.

Returns
-------
grad_x, grad_w, grad_b : ndarray or None
    Like x, like w and (K,).

Raises
------
{RAISES}

Examples
--------
>>> import numpy as np, numbaconv as nc
>>> x, w = {v["example_x"]}, {v["example_w"]}
>>> dx, dw, db = nc.{name}(np.ones_like(nc.{forward}(x, w)), x, w)
>>> dx.shape == x.shape, dw.shape == w.shape, db.shape
(True, True, (4,))
"""


_MAKERS: dict[str, Callable[[str, int, bool], str]] = {
    "": _forward,
    "_grad_input": lambda name, rank, transposed: _gradient(name, rank, transposed, True),
    "_grad_weight": lambda name, rank, transposed: _gradient(name, rank, transposed, False),
    "_grad_bias": _bias,
    "_backward": _backward,
}
