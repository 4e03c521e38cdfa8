"""numbaconv beside its peers: ``python -m benchmarks.compare [--suite layers] [--ops …] [--match resnet] [--threads 2] [--json FILE]``.

All contenders of a case get the same fresh random operands and as many threads, take turns in one process, and must agree.
A ratio is a peer's median time over numbaconv's: above 1, numbaconv is faster.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import numbaconv as nc
from benchmarks import peers
from benchmarks.alternate import duration, geometric_mean, markdown, medians
from benchmarks.cases import LAYERS, OPS, SIGNALS, Array

AGREEMENT = 256  # in eps · Σ|x||w|: what Winograd may be off by, on either side, and then some


@dataclass(frozen=True)
class Row:
    """One case: the median seconds of everyone who can do it."""

    case: str
    seconds: dict[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over numbaconv's."""
        return {name: time / self.seconds["numbaconv"] for name, time in self.seconds.items() if name != "numbaconv"}


def layers(ops: list[str], match: str, dtype: str, seconds: float) -> Iterator[Row]:
    """Compare the named layers."""
    for name, layer in LAYERS.items():
        for op in ops if match in name else ():
            a, b = layer.operands(op, dtype)
            function = layer.bound(op)
            contenders = {"numbaconv": lambda function=function, a=a, b=b: function(a, b)}
            contenders |= {peer: call for peer, make in peers.LAYER_PEERS.items() if (call := make(layer, op, a, b))}
            sums = layer.call(op, np.abs(a), np.abs(b), method="direct")
            yield _measure(f"{name}, {op}", contenders, sums, dtype, seconds)


def signals(ops: list[str], match: str, dtype: str, seconds: float) -> Iterator[Row]:
    """Compare the named signals and images."""
    try:
        from numbaconv import signal
    except ImportError:
        raise SystemExit("this version has no numbaconv.signal") from None
    for name, case in SIGNALS.items():
        if match in name:
            x, h = case.operands(dtype)
            contenders = {"numbaconv": lambda x=x, h=h: signal.convolve(x, h, mode="same")}
            contenders |= {peer: call for peer, make in peers.SIGNAL_PEERS.items() if (call := make(case, x, h))}
            sums = np.linalg.norm(x) * np.linalg.norm(h)  # what an FFT's error is relative to
            yield _measure(name, contenders, np.asarray(sums), dtype, seconds)


SUITES: dict[str, Callable[..., Iterator[Row]]] = {"layers": layers, "signals": signals}


def _measure(case: str, contenders: dict[str, Callable[[], Any]], sums: Array, dtype: str, seconds: float) -> Row:
    """Warm everyone up, check that they agree, and time them."""
    results = {name: peers.as_numpy(call()) for name, call in contenders.items()}
    ours, bound = results.pop("numbaconv"), AGREEMENT * np.finfo(dtype).eps * np.maximum(sums, np.finfo(dtype).tiny)
    for name, theirs in results.items():
        if ours.shape != theirs.shape or (worst := float(np.max(np.abs(ours - theirs) / bound))) > 1:
            raise SystemExit(f"{case}: numbaconv and {name} disagree ({ours.shape} and {theirs.shape}, {worst:.3g} times what is allowed)")
    return Row(case, medians(contenders, seconds))


def table(rows: list[Row]) -> str:
    """Return a markdown table with the ratio per case and, in its last line, the geometric means."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    lines = [[row.case, duration(row.seconds["numbaconv"]), *(_ratio(row.ratios.get(name)) for name in names), _ratio(_best(row))] for row in rows]
    means = [geometric_mean(row.ratios[name] for row in rows if name in row.ratios) for name in names]
    best = geometric_mean(ratio for row in rows if (ratio := _best(row)))
    lines.append(["**geometric mean**", "", *map(_ratio, means), _ratio(best)])
    return markdown(["case", "numbaconv", *(f"{name} ÷ numbaconv" for name in names), "best peer ÷ numbaconv"], lines)


def _best(row: Row) -> float | None:
    return min(row.ratios.values(), default=None)


def _ratio(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Print one table per suite."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=["layers"])
    parser.add_argument("--ops", nargs="+", choices=OPS, default=["forward"])
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=nc.get_num_threads(), help="for everyone")
    parser.add_argument("--seconds", type=float, default=2.0, help="per case, all contenders together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians there too")
    options = parser.parse_args(arguments)
    nc.set_num_threads(options.threads)
    peers.use_threads(options.threads)
    found = {}
    for suite in options.suite:
        found[suite] = list(SUITES[suite](options.ops, options.match, options.dtype, options.seconds))
        print(f"\n{suite}, {options.dtype}, {options.threads} thread(s), {platform.machine()}, Python {platform.python_version()}\n")
        print(table(found[suite]))
    if options.json:
        report = {"threads": options.threads, "dtype": options.dtype, **{suite: [asdict(row) for row in rows] for suite, rows in found.items()}}
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
