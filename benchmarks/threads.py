"""Who should run the kernels: ``python -m benchmarks.threads``: the library's pool, Numba's threads, or the caller alone.

The three take turns in one process (after a pause, since Numba's threads spin on after a call), first on the machine as it
is, then with a busy process for every core.
A ratio is one thread's median time over that mode's: above 1, the mode is faster than one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import numbaconv as nc
from benchmarks.alternate import duration, geometric_mean, markdown, medians
from benchmarks.networks import MIXED

CASES = ("smallest 3×3@5", "mobilenetv2 depthwise 144@56", "resnet50 3×3 256@14", "resnet50 3×3 64@56", "image 1024² 5×5", "vgg16 conv1_2 64@224")
ONE, POOL, NUMBA = "one thread", "pool", "numba"


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep that many cores busy inside a ``with`` block."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def modes(call: Callable[[], object], threads: int) -> dict[str, Callable[[], object]]:
    """Return the call in the three modes; setting a mode is a store to a global, and costs nothing beside a kernel."""

    def in_mode(mode: str, n: int) -> Callable[[], object]:
        def run() -> object:
            nc.set_threading(mode)
            nc.set_num_threads(n)
            return call()

        return run

    return {ONE: in_mode("pool", 1), POOL: in_mode("pool", threads), NUMBA: in_mode("numba", threads)}


def measure(names: list[str], threads: int, seconds: float) -> list[tuple[str, dict[str, float]]]:
    """Return the medians of every case in every mode."""
    found = []
    for name in names:
        layer = MIXED[name]
        (a, b), function = layer.operands("forward"), layer.bound("forward")
        functions = modes(lambda function=function, a=a, b=b: function(a, b), threads)
        for warm in functions.values():
            warm()
        found.append((name, medians(functions, seconds, settle=True)))
    return found


def table(found: list[tuple[str, dict[str, float]]]) -> str:
    """Return a markdown table of ratios, their geometric means last."""
    pairs = ((ONE, POOL), (ONE, NUMBA), (NUMBA, POOL))
    rows = [[name, duration(times[ONE]), *(f"{times[a] / times[b]:.2f}" for a, b in pairs)] for name, times in found]
    rows.append(["**geometric mean**", "", *(f"{geometric_mean(times[a] / times[b] for _, times in found):.2f}" for a, b in pairs)])
    return markdown(["case", ONE, *(f"{a} ÷ {b}" for a, b in pairs)], rows)


def main(arguments: list[str] | None = None) -> None:
    """Print one table for the machine as it is and one for a contended one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=nc.get_num_threads())
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=6.0, help="per case, all modes together")
    options = parser.parse_args(arguments)
    names = [name for name in CASES if options.match in name]
    mode, count = nc.get_threading(), nc.get_num_threads()
    try:
        for title, processes in (("idle", 0), ("contended", options.threads)):
            with busy(processes):
                found = measure(names, options.threads, options.seconds)
            print(f"\n{title}: {options.threads} threads beside {processes} busy processes\n\n{table(found)}")
    finally:
        nc.set_threading(mode)
        nc.set_num_threads(count)


if __name__ == "__main__":
    main()
