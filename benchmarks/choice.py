"""How often "auto" takes the fastest algorithm: ``python -m benchmarks.choice --suite networks --ops forward grad_input grad_weight``.

Every layer of the suites is timed with the algorithm that the cost models choose and with all others whose estimate is at most
SLOWEST times as long, by turns, on one core. A loss is the time of the chosen one over that of the fastest.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial

import numpy as np

import numbaconv as nc
from benchmarks.alternate import duration, markdown, medians
from benchmarks.cases import OPS, Layer
from benchmarks.networks import LAYERS
from numbaconv.plan import candidates
from numbaconv.recipe import OPERATIONS

SLOWEST = 5.0
CLOSE = 1.1  # a loss that no one minds


def times(layer: Layer, op: str, dtype: str, seconds: float) -> tuple[str, dict[str, float]]:
    """Return the algorithm that is chosen for an operation, and the seconds of each that might be."""
    chosen = layer.plan(op, dtype).name
    estimates = {name: cost for name, cost in candidates(layer.problem, OPERATIONS[layer.transposed, op], np.dtype(dtype)) if isinstance(cost, float)}
    able = [name for name, cost in estimates.items() if name == chosen or cost <= SLOWEST * min(estimates.values())]
    a, b = layer.operands(op, dtype)
    calls = {name: partial(layer.bound(op, method=name), a, b) for name in able}
    for call in calls.values():
        call()  # compiled
    return chosen, medians(calls, seconds)


def main(arguments: list[str] | None = None) -> None:
    """Print the worst choices, and how many of each suite are close."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=["networks"], choices=["networks", *LAYERS], help="networks: all of them")
    parser.add_argument("--ops", nargs="+", default=list(OPS), choices=OPS)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.05, help="per case, all algorithms together")
    parser.add_argument("--match", default="", help="only layers whose name contains this")
    options = parser.parse_args(arguments)
    suites = [name for name in LAYERS if name != "mixed"] if "networks" in options.suite else options.suite
    losses: dict[tuple[str, str], list[float]] = {}
    worst = []
    with nc.num_threads(1):
        for suite, op in itertools.product(suites, options.ops):
            for name, layer in LAYERS[suite].items():
                if options.match not in name:
                    continue
                chosen, found = times(layer.batched(options.batch), op, options.dtype, options.seconds)
                best = min(found, key=found.__getitem__)
                losses.setdefault((suite, op), []).append(loss := found[chosen] / found[best])
                if loss > CLOSE:
                    worst.append((loss, [f"{suite}: {name}, {op}", chosen, duration(found[chosen]), best, duration(found[best]), f"{loss:.2f}"]))
    print(markdown(["case", "chosen", "time", "fastest", "time", "loss"], [row for _, row in sorted(worst, reverse=True)]), "\n")
    rows = [[f"{suite}, {op}", *summary(values)] for (suite, op), values in losses.items()]
    rows.append(["**all**", *summary([loss for values in losses.values() for loss in values])])
    print(markdown(["suite", "cases", "within 10 %", "worst"], rows))


def summary(losses: list[float]) -> list[str]:
    """Return how many there are, the share that is close, and the worst."""
    return [str(len(losses)), f"{np.mean(np.array(losses) <= CLOSE):.0%}" if losses else "", f"{max(losses, default=1.0):.2f}"]


if __name__ == "__main__":
    main()
