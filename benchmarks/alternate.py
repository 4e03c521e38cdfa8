"""Timing several functions fairly on a machine that others use too: alternating calls in one process, medians."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

FEWEST, MOST = 5, 200


SETTLE = 0.3  # seconds after which another library's threads have stopped to spin at their barrier
AWAKE = 0.01  # seconds of calls after such a pause that do not count: a second core is up to its speed after 4 ms of work (Zen 5, virtual machine)


def medians(functions: Mapping[str, Callable[[], Any]], seconds: float, settle: bool = False) -> dict[str, float]:
    """Call the functions in turn, for about ``seconds`` in all, and return the median seconds of each; call each before (to warm up).

    With ``settle`` a turn is a pause, calls that do not count and then several that do: OpenMP's threads spin for a while
    after each call, on the core that the next function's second thread needs.
    """
    if settle:
        return _settled(functions, seconds)
    times: dict[str, list[float]] = {name: [] for name in functions}
    turns, end, rounds = random.Random(0), time.perf_counter() + seconds, 0
    while rounds < FEWEST or (rounds < MOST and time.perf_counter() < end):
        for name in turns.sample(list(functions), len(functions)):  # nobody always follows the same one, whose traces are in the caches
            start = time.perf_counter()
            functions[name]()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def _settled(functions: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    turns, end, rounds = random.Random(0), time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name in turns.sample(list(functions), len(functions)):
            time.sleep(SETTLE)
            awake = time.perf_counter() + AWAKE
            while time.perf_counter() < awake:
                functions[name]()
            turn: list[float] = []
            while len(turn) < FEWEST and sum(turn) < 0.2:
                start = time.perf_counter()
                functions[name]()
                turn.append(time.perf_counter() - start)
            times[name] += turn
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the geometric mean; NaN of nothing."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(statistics.fmean(logarithms)) if logarithms else math.nan


def duration(seconds: float) -> str:
    """Format a time to three digits."""
    scale, unit = (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    return f"{seconds * scale:.3g} {unit}" if seconds * scale < 1000 else f"{seconds * scale:.0f} {unit}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
