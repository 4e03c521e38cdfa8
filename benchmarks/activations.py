"""What a fused activation costs: ``python -m benchmarks.activations``.

A layer without an activation, with a fused one, with a pass of NumPy or SciPy behind it, and PyTorch's layer and activation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

import numbaconv as nc
from benchmarks import peers
from benchmarks.alternate import duration, markdown, medians
from benchmarks.cases import layer

LAYERS = ("16→32 3×3 @224", "64→256 1×1 @56", "96→96 3×3 g96 @112")
PASSES: dict[str, Callable[[Any, Any], Any]] = {
    "relu": lambda y, out: np.maximum(y, 0, out=out),
    "tanh": lambda y, out: np.tanh(y, out=out),
    "sigmoid": lambda y, out: special.expit(y, out=out),
    "silu": lambda y, out: np.multiply(y, special.expit(y), out=out),
    "gelu": lambda y, out: np.multiply(y, special.ndtr(y), out=out),
}


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each layer and activation."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.activations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="per row, all contenders together")
    parser.add_argument("--match", default="", help="only layers whose name contains this")
    options = parser.parse_args(arguments)
    nc.set_num_threads(options.threads)
    peers.use_threads(options.threads)
    rows = [row(name, activation, options.dtype, options.seconds) for name in LAYERS if options.match in name for activation in PASSES]
    print(markdown(("case", "without", "fused", "more", "NumPy or SciPy afterwards ÷ fused", "torch ÷ fused"), rows))


def row(name: str, activation: str, dtype: str, seconds: float) -> list[str]:
    """Time one layer with one activation."""
    case, rng = layer(name), np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (case.x_shape, case.w_shape))
    w *= w[0].size ** -0.5  # outputs of the size of 1
    out, after = np.empty(case.y_shape, dtype), PASSES[activation]
    functions: dict[str, Callable[[], Any]] = {
        "none": lambda: nc.conv2d(x, w, out=out, **case.options),
        "fused": lambda: nc.conv2d(x, w, activation=activation, out=out, **case.options),
        "apart": lambda: after(nc.conv2d(x, w, out=out, **case.options), out),
    }
    times = medians(functions, seconds / 2)
    if peers.torch:  # by itself: whoever follows it finds the caches full of its output
        pair = medians({"fused": functions["fused"], "torch": torch_layer(peers.torch, activation, x, w, case.options)}, seconds / 2)
        times["torch"] = pair["torch"] / pair["fused"] * times["fused"]
    none, fused = times["none"], times["fused"]
    ratios = [f"{times[other] / fused:.2f}" if other in times else "" for other in ("apart", "torch")]
    return [f"{name}, {activation}", duration(none), duration(fused), f"{fused / none - 1:.0%}", *ratios]


def torch_layer(torch: Any, activation: str, x: Any, w: Any, options: dict[str, Any]) -> Callable[[], Any]:
    """Return PyTorch's convolution with its activation behind it."""
    a, b, function = torch.from_numpy(x), torch.from_numpy(w), getattr(torch.nn.functional, activation)

    def run() -> Any:
        with torch.inference_mode():
            return function(torch.nn.functional.conv2d(a, b, **options))

    return run


if __name__ == "__main__":
    main()
