"""``python -m numbaconv bench``: typical layers, their gradients and filters, timed on this machine beside SciPy and, if installed, PyTorch.

The functions are called in turn in one process, after results were compared, and medians are taken: on a machine that does other
things too, ratios mean more than times.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import signal

import numbaconv as nc

Call = Callable[[], Any]
FEWEST, MOST = 5, 200
PATIENCE = 0.5  # seconds: what takes longer is called once


class Case(NamedTuple):
    """A call: shapes, options and what is computed."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    options: dict[str, Any]
    op: str = "forward"
    transposed: bool = False


IMAGE, LAYER = ((1, 1, 512, 512), (1, 1, 5, 5), {"padding": 2}), ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1})
CASES = (
    Case("signal of 10⁵, 31 taps", (1, 1, 10**5), (1, 1, 31), {"padding": 15}),
    Case("signal of 10⁵, 31 taps", (1, 1, 10**5), (1, 1, 31), {"padding": 15}, "grad_weight"),
    Case("image 512², 5×5", *IMAGE),
    Case("image 512², 5×5", *IMAGE, "grad_input"),
    Case("image 512², 15×15", (1, 1, 512, 512), (1, 1, 15, 15), {"padding": 7}),
    Case("64→64 3×3 @56", *LAYER),
    Case("64→64 3×3 @56", *LAYER, "grad_input"),
    Case("64→64 3×3 @56", *LAYER, "grad_weight"),
    Case("256→64 1×1 @28", (1, 256, 28, 28), (64, 256, 1, 1), {}),
    Case("3→32 3×3 stride 2 @112", (1, 3, 112, 112), (32, 3, 3, 3), {"padding": 1, "stride": 2}),
    Case("depthwise 96 3×3 @56", (1, 96, 56, 56), (96, 1, 3, 3), {"padding": 1, "groups": 96}),
    Case("transposed 64→32 2×2 stride 2 @28", (1, 64, 28, 28), (64, 32, 2, 2), {"stride": 2}, "forward", True),
    Case("1-D 64→64 3 dilation 4 @2000", (1, 64, 2000), (64, 64, 3), {"padding": 4, "dilation": 4}),
    Case("3-D 16→16 3×3×3 @8×28×28", (1, 16, 8, 28, 28), (16, 16, 3, 3, 3), {"padding": 1}),
)


class Row(NamedTuple):
    """A case with the median seconds of everybody who can do it."""

    name: str
    times: dict[str, float]

    def ratio(self, peer: str) -> float:
        """Return the time of a peer over ours; NaN if it cannot do the case."""
        return self.times.get(peer, math.nan) / self.times["numbaconv"]


def ours(case: Case, x: Any, w: Any, dy: Any) -> Call:
    """Return the call of this library."""
    function = getattr(nc, f"conv{'_transpose' if case.transposed else ''}{x.ndim - 2}d{'' if case.op == 'forward' else '_' + case.op}")
    operands = {"forward": (x, w), "grad_input": (dy, w, x.shape), "grad_weight": (x, dy, w.shape)}[case.op]
    return lambda: function(*operands, **case.options)


def scipys(case: Case, x: Any, w: Any, dy: Any) -> Call | None:
    """Return SciPy's way with a signal or an image; it knows neither layers of many channels nor strides nor dilations."""
    if w.size > math.prod(w.shape[2:]) or case.options.keys() - {"padding"}:
        return None
    padding = case.options.get("padding", 0)
    padded = np.pad(x[0, 0], padding)
    if case.op == "forward":
        return lambda: signal.correlate(padded, w[0, 0], "valid")[None, None]
    if case.op == "grad_weight":
        return lambda: signal.correlate(padded, dy[0, 0], "valid")[None, None]
    inside = tuple(slice(padding, padding + size) for size in x.shape[2:])
    return lambda: signal.convolve(dy[0, 0], w[0, 0])[inside][None, None]


def torchs(case: Case, x: Any, w: Any, dy: Any) -> Call | None:
    """Return PyTorch's function, if it is installed; arrays are converted beforehand."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    tensors, rank = [torch.from_numpy(array) for array in (x, w, dy)], x.ndim - 2
    stride, padding, dilation = ([case.options.get(name, default)] * rank for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
    rest = (stride, padding, dilation, case.transposed, [0] * rank, case.options.get("groups", 1))

    def run() -> Any:
        with torch.inference_mode():
            if case.op == "forward":
                return torch.convolution(tensors[0], tensors[1], None, *rest).numpy()
            wanted = (case.op == "grad_input", case.op == "grad_weight", False)
            return torch.ops.aten.convolution_backward(tensors[2], tensors[0], tensors[1], None, *rest, wanted)[wanted.index(True)].numpy()

    return run


PEERS: dict[str, Callable[[Case, Any, Any, Any], Call | None]] = {"SciPy": scipys, "PyTorch": torchs}


def medians(calls: Mapping[str, Call], seconds: float) -> dict[str, float]:
    """Call everybody in turn for about so many seconds in all, and return the median time of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for turn in range(MOST):
        if turn >= FEWEST and time.perf_counter() > end:
            break
        for name, call in calls.items():
            if times[name] and times[name][0] > PATIENCE:
                continue
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def time_case(case: Case, dtype: str, seconds: float) -> Row:
    """Time one case with everybody who can do it; RuntimeError if a result differs from ours."""
    rng, rank = np.random.default_rng(0), len(case.x) - 2
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (case.x, case.w))
    forward: Any = getattr(nc, f"conv{'_transpose' if case.transposed else ''}{rank}d")
    dy = rng.standard_normal(forward(x, w, **case.options).shape).astype(dtype)
    calls = {"numbaconv": ours(case, x, w, dy)}
    expected = calls["numbaconv"]()
    for name, make in PEERS.items():
        if call := make(case, x, w, dy):
            difference = float(np.abs(call() - expected).max() / np.abs(expected).max())
            if not difference < 1e-3:
                raise RuntimeError(f"{case.name}, {case.op}: the results of numbaconv and {name} differ by {difference:.1e} of the largest")
            calls[name] = call
    return Row(f"{case.name}, {case.op}", medians(calls, seconds))


def run(dtype: str, threads: int, seconds: float, match: str, file: Path | None) -> None:
    """Print a line for each case and the geometric means, and draw them if a file is given."""
    rows, peers = [], ["SciPy"]
    try:
        torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        peers.append("PyTorch")
    except ImportError:
        pass
    print(f"{dtype}, {threads} thread{'' if threads == 1 else 's'} (SciPy uses one); peers: time over that of numbaconv, above 1 it is ahead")
    print(f"{'':<48}{'numbaconv':>12}" + "".join(f"{peer:>10}" for peer in peers), flush=True)
    with nc.num_threads(threads):
        for case in CASES:
            if match in f"{case.name}, {case.op}":
                row = time_case(case, dtype, seconds)
                print(f"{row.name:<48}{row.times['numbaconv'] * 1e3:>9.3f} ms" + "".join(_cell(row.ratio(peer)) for peer in peers), flush=True)
                rows.append(row)
    print(f"{'geometric mean':<60}" + "".join(_cell(mean(rows, peer)) for peer in peers))
    if file:
        plot(rows, peers, file)


def _cell(ratio: float) -> str:
    return f"{'—' if math.isnan(ratio) else f'{ratio:.2f}':>10}"


def mean(rows: list[Row], peer: str) -> float:
    """Return the geometric mean of the ratios that there are."""
    logarithms = [math.log(ratio) for ratio in (row.ratio(peer) for row in rows) if not math.isnan(ratio)]
    return math.exp(statistics.fmean(logarithms)) if logarithms else math.nan


def plot(rows: list[Row], peers: list[str], file: Path) -> None:
    """Draw the ratios as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.4 * len(rows)), layout="constrained")
    axes, height = figure.subplots(), 0.8 / len(peers)
    for n, peer in enumerate(peers):
        axes.barh([i + n * height for i in range(len(rows))], [row.ratio(peer) for row in rows], height, label=peer)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], [row.name for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("time ÷ time of numbaconv: above 1, numbaconv is ahead")
    axes.legend()
    figure.savefig(file)
