"""numbaconv beside its peers: ``python -m benchmarks.compare --suite resnet50 images --ops forward grad_weight --threads 1``.

All contenders of a case get the same fresh random operands and as many threads, take turns in one process, and must agree.
A ratio is a peer's median time over numbaconv's: above 1, numbaconv is faster. The columns beside the peers':

- best: the fastest peer's ratio (so that of PyTorch's two layouts and SciPy's two functions the better one counts);
- cap: the best peer's time over the least that the machine allows (see roofline.py); no ratio can pass it but by an algorithm
  with fewer operations;
- reached: that least time over numbaconv's, and what takes it;
- workspace: what numbaconv allocates besides its result.

The suites of signals convolve as ``scipy.signal.convolve`` does, or filter as the function of SciPy that a case names; the dtype
stands in place of the operation, results are compared in units of eps · ‖x‖₂‖h‖₂, and there is no cap. Their summary counts SciPy by
its fastest function in each case, and lists the cases in which numbaconv is clearly behind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import numbaconv as nc
from benchmarks import peers, roofline
from benchmarks.alternate import duration, geometric_mean, markdown, medians
from benchmarks.cases import OPS, SIGNALS, Array
from benchmarks.networks import LAYERS, NETWORKS

AGREEMENT = 256  # in eps · Σ|x||w|: what Winograd may be off by, on either side, and then some
FFT_AGREEMENT = 16  # in eps · ‖x‖₂‖h‖₂: likewise for the FFT
BEHIND, MOMENT = 0.9, 20e-6  # a ratio below counts as behind where the best peer takes longer than so many seconds
HOPELESS, PATIENCE = 10, 0.5  # a peer that takes so many times as long as the fastest, and so many seconds, is called only once
LIBRARIES = {"torch": "torch", "scipy": "SciPy"}  # by how contenders' names begin: the best of each counts


@dataclass(frozen=True)
class Row:
    """One case: the median seconds of everyone who can do it, and for a layer what the machine and numbaconv's plan say of it."""

    suite: str
    case: str
    op: str  # of a layer; the dtype of a signal
    asked_batch: int
    batch: int
    seconds: dict[str, float]
    floor: float | None = None
    limit: str = ""
    method: str = ""
    workspace: int | None = None

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over numbaconv's."""
        return {name: time / self.seconds["numbaconv"] for name, time in self.seconds.items() if name != "numbaconv"}

    @property
    def libraries(self) -> dict[str, float]:
        """The same, of each library the better contender."""
        found: dict[str, float] = {}
        for name, ratio in self.ratios.items():
            library = LIBRARIES.get(re.split("[ .]", name)[0], name)
            found[library] = min(ratio, found.get(library, ratio))
        return found

    @property
    def best(self) -> float | None:
        """The fastest peer's time over numbaconv's."""
        return min(self.ratios.values(), default=None)

    @property
    def behind(self) -> bool:
        """Whether a peer is clearly faster, in a call that takes a moment."""
        return self.best is not None and self.best < BEHIND and self.best * self.seconds["numbaconv"] > MOMENT

    @property
    def reached(self) -> float | None:
        """The least time that the machine allows, over numbaconv's."""
        return self.floor / self.seconds["numbaconv"] if self.floor else None

    @property
    def cap(self) -> float | None:
        """The fastest peer's time over the least that the machine allows."""
        return self.best / self.reached if self.best and self.reached else None


@dataclass(frozen=True)
class Settings:
    """What is asked for on the command line, for every case."""

    ops: list[str]
    batch: list[int]
    match: str
    dtype: str
    threads: int
    seconds: float
    prepared: bool


def layers(suite: str, settings: Settings, machine: roofline.Roofline | None) -> Iterator[Row]:
    """Compare the layers of a network."""
    assert machine
    dtype, names = settings.dtype, [name for name in LAYERS[suite] if settings.match in name]
    for batch, op, name in itertools.product(settings.batch, settings.ops, names):
        layer = LAYERS[suite][name].batched(batch)
        a, b = layer.operands(op, dtype)
        function = layer.bound(op)
        contenders: dict[str, Callable[[], Any]] = {peer: call for peer, make in peers.LAYER_PEERS.items() if (call := make(layer, op, a, b))}
        sums = function(np.abs(a), np.abs(b))
        if settings.prepared and op == "forward":
            b = nc.prepare(b, layer.x_shape, transposed=layer.transposed, **layer.options)
        contenders |= {"numbaconv": lambda function=function, a=a, b=b: function(a, b)}
        seconds = _measure(f"{suite}: {name}, {op}", contenders, AGREEMENT * sums, settings)
        plan = layer.plan(op, dtype)
        yield Row(suite, name, op, batch, layer.x_shape[0], seconds, *machine.floor(layer, dtype), plan.name, plan.workspace)


def signals(suite: str, settings: Settings, machine: roofline.Roofline | None) -> Iterator[Row]:
    """Compare a suite of signals and images."""
    makers = peers.FILTER_PEERS if suite == "filters" else peers.SIGNAL_PEERS
    for name, case in SIGNALS[suite].items():
        if settings.match in name and case.takes(settings.dtype):
            x, h = case.operands(settings.dtype)
            try:
                contenders: dict[str, Callable[[], Any]] = {"numbaconv": case.call("numbaconv", x, h)}
            except ImportError as reason:
                raise SystemExit(f"this version cannot run {suite}: {reason}") from None
            contenders |= {peer: call for peer, make in makers.items() if (call := make(case, x, h))}
            seconds = _measure(f"{suite}: {name}", contenders, FFT_AGREEMENT * case.scale(x, h), settings)
            yield Row(suite, name, settings.dtype, 1, 1, seconds)


Suite = Callable[[str, Settings, roofline.Roofline | None], Iterator[Row]]
SUITES: dict[str, Suite] = {**dict.fromkeys(LAYERS, layers), **dict.fromkeys(SIGNALS, signals)}
GROUPS = {"networks": NETWORKS, "signals": SIGNALS}


def _measure(case: str, contenders: dict[str, Callable[[], Any]], allowed: Array, settings: Settings) -> dict[str, float]:
    """Warm everyone up, check that they agree, differences allowed in units of eps, and time them."""
    first: dict[str, float] = {}
    results: dict[str, Array] = {}
    for name, call in contenders.items():
        start = time.perf_counter()
        result = call()
        first[name] = time.perf_counter() - start
        results[name] = peers.as_numpy(result)
    ours, real = results.pop("numbaconv"), np.finfo(settings.dtype)
    bound = real.eps * np.maximum(allowed, real.tiny)
    for name, theirs in results.items():
        if ours.shape != theirs.shape or not (worst := float(np.max(np.abs(ours - theirs) / bound))) <= 1:
            raise SystemExit(f"{case}: numbaconv and {name} disagree ({ours.shape} and {theirs.shape}, {worst:.3g} times what is allowed)")
    hopeless = {name: first[name] for name in results if first[name] > max(HOPELESS * min(first.values()), PATIENCE)}
    timed = {name: call for name, call in contenders.items() if name not in hopeless}
    times = medians(timed, settings.seconds, settle=settings.threads > 1) | hopeless
    return {name: times[name] for name in contenders}


def table(rows: list[Row]) -> str:
    """Return a markdown table with the ratios per case and, in its last line, the geometric means."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    lines = [
        [
            _label(row), row.method, duration(row.seconds["numbaconv"]), *(_ratio(row.ratios.get(name)) for name in names),
            _ratio(row.best), _ratio(row.cap), f"{row.reached:.0%} {row.limit}" if row.reached else "", _kibibytes(row.workspace),
        ]
        for row in rows
    ]  # fmt: skip
    means = [_mean(row.ratios.get(name) for row in rows) for name in names]
    lines.append(["**geometric mean**", "", "", *means, _mean(row.best for row in rows), _mean(row.cap for row in rows), "", ""])
    return _filled(["case", "method", "numbaconv", *names, "best", "cap", "reached", "workspace"], lines)


def summary(rows: list[Row]) -> str:
    """Return a markdown table of geometric means, a line per suite, operation and batch, and one of all for each operation."""
    names = list(dict.fromkeys(name for row in rows for name in row.libraries))
    lines = []
    groups, ops = _grouped(rows), dict.fromkeys(row.op for row in rows)
    of_all = {f"**all, {op}**": [row for row in rows if row.op == op] for op in ops} if len(groups) > len(ops) else {}
    for title, group in {**groups, **of_all}.items():
        ahead = sum(row.best is not None and row.best >= 1 for row in group)
        means = [_mean(row.libraries.get(name) for row in group) for name in names]
        ends = [_mean(get(row) for row in group) for get in (lambda row: row.best, lambda row: row.cap)]
        worst = min((row.best for row in group if row.best), default=None)
        lines.append([title, str(len(group)), *means, *ends, f"{ahead}", _ratio(worst)])
    return _filled(["geometric means", "cases", *names, "best", "cap", "cases ahead", "worst"], lines)


def behind(rows: list[Row]) -> str:
    """Return a line per suite that lists the cases in which numbaconv is behind, the worst first."""
    lines = [f"Below {BEHIND} where the best peer takes more than {MOMENT * 1e6:.0f} µs:"]
    for title, group in _grouped(rows).items():
        found = sorted((row.best, row.case) for row in group if row.best and row.behind)
        lines.append(f"- {title}: {len(found)} of {len(group)}{': ' if found else ''}{'; '.join(f'{case} ({ratio:.2f})' for ratio, case in found)}")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Draw the best peer's time over numbaconv's, a dot per case, a bar for each group's geometric mean and a tick for its cap."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    groups = {title: [row for row in group if row.best] for title, group in _grouped(rows).items()}
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.4 * len(groups)), layout="constrained")
    for place, group in enumerate(groups.values()):
        mean, cap = (geometric_mean(value for row in group if (value := get(row))) for get in (lambda row: row.best, lambda row: row.cap))
        axes.barh(place, mean - 1, left=1, color="tab:blue", alpha=0.3)
        axes.plot([row.best for row in group], [place] * len(group), "o", color="black", markersize=3, alpha=0.5)
        axes.plot(cap, place, "|", color="tab:orange", markersize=16, markeredgewidth=2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(
        xscale="log", xlabel="best peer's time ÷ numbaconv's (bar: geometric mean; tick: the cap)", yticks=range(len(groups)), yticklabels=groups
    )
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.invert_yaxis()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _filled(head: list[str], lines: list[list[str]]) -> str:
    """Return a markdown table without the columns that no line has anything in."""
    kept = [n for n in range(len(head)) if not lines or any(line[n] for line in lines)]
    return markdown([head[n] for n in kept], [[line[n] for n in kept] for line in lines])


def _label(row: Row) -> str:
    limited = f" of {row.asked_batch}" if row.batch < row.asked_batch else ""
    return f"{row.case}, {row.op}" + (f", batch {row.batch}{limited}" if row.asked_batch > 1 else "")


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row.suite}, {row.op}" + (f", batch {row.asked_batch}" if row.asked_batch > 1 else ""), []).append(row)
    return groups


def _mean(ratios: Iterable[float | None]) -> str:
    return _ratio(geometric_mean(ratio for ratio in ratios if ratio is not None))


def _ratio(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.2f}"


def _kibibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1024:.0f} KiB"


def main(arguments: list[str] | None = None) -> None:
    """Print one table per suite and a summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", choices=[*SUITES, *GROUPS], default=["mixed"], help="networks, signals: all of them")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=["forward"], help="of layers")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="of layers; fewer where a call would take much longer than half a second")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--dtype", choices=("float32", "float64", "complex64"), default="float32", help="complex64: signals alone")
    parser.add_argument("--threads", type=int, default=nc.get_num_threads(), help="for everyone")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case, all contenders together")
    parser.add_argument("--prepared", action="store_true", help="pack numbaconv's filters beforehand (forward), as ONNX Runtime always does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios there, as .png or .svg")
    options = parser.parse_args(arguments)
    settings = Settings(options.ops, options.batch, options.match, options.dtype, options.threads, options.seconds, options.prepared)
    nc.set_num_threads(settings.threads)
    peers.use_threads(settings.threads)
    suites = dict.fromkeys(itertools.chain.from_iterable(GROUPS.get(suite, [suite]) for suite in options.suite))
    if settings.dtype == "complex64" and not suites.keys() <= SIGNALS.keys():
        parser.error("complex64 is for the suites of signals")
    machine = roofline.measure(settings.dtype, settings.threads) if suites.keys() & LAYERS.keys() else None
    found: list[Row] = []
    print(
        f"{settings.dtype}, {settings.threads} thread(s), {platform.machine()}, Python {platform.python_version()}{f': {machine}' if machine else ''}"
    )
    for suite in suites:
        rows = list(SUITES[suite](suite, settings, machine))
        if rows:
            print(f"\n{suite}\n\n{table(rows)}", flush=True)
        found += rows
    print(f"\n{summary(found)}")
    if filtered := [row for row in found if row.suite in SIGNALS]:
        print(f"\n{behind(filtered)}")
    if options.json:
        report = {
            **asdict(settings),
            "roofline": machine and asdict(machine),
            "rows": [asdict(row) | {"best": row.best, "cap": row.cap} for row in found],
        }
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False))
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
