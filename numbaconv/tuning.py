"""The coefficients of the cost models, measured on this machine: timed, fitted, kept beside the compiled code and read from there.

Every algorithm counts its ``work`` and multiplies by its ``SECONDS``. What is shipped was measured on one machine; `tune` measures
on this one. The file lies in the folder of compiled code for these kernel sources, these versions and this CPU, so that it is
never used for others. Whatever is wrong with it, the shipped coefficients hold.
"""

from __future__ import annotations

import datetime
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from numbaconv.problem import OPS, TENSORS, ConvProblem, Op, Options, Unsupported

FILE = "coefficients.json"
LARGEST_FILE = 1 << 16
SMALLEST = 1e-13  # seconds: what costs nothing would be taken whatever its size
LONGEST = 0.1  # estimated seconds of a call that is worth timing
TRUST = 0.02  # weight of the coefficients that were there before: they decide what the measurements say nothing about
DTYPES = ("float32", "float64")
# x, w and options; each makes another part of the work dominate.
LAYERS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 5, 5), (1, 1, 3, 3), {}),
    ((1, 1, 256, 256), (1, 1, 3, 3), {}),
    ((1, 1, 256, 256), (1, 1, 9, 9), {}),
    ((1, 3, 128, 128), (8, 3, 3, 3), {"padding": 1}),
    ((1, 3, 128, 128), (32, 3, 7, 7), {"padding": 3, "stride": 2}),
    ((2, 4, 40, 40), (4, 4, 3, 3), {}),
    ((1, 8, 64, 64), (8, 8, 3, 3), {}),
    ((1, 16, 64, 64), (1, 16, 3, 3), {}),
    ((1, 16, 64, 64), (30, 16, 1, 1), {}),
    ((16, 16, 8, 8), (32, 16, 3, 3), {"padding": 1}),
    ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    ((1, 32, 56, 56), (64, 32, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 128, 56, 56), (64, 128, 1, 1), {}),
    ((2, 64, 14, 14), (128, 64, 3, 3), {"padding": 1}),
    ((1, 256, 7, 7), (256, 256, 3, 3), {"padding": 1}),
    ((4, 32, 30, 30), (32, 32, 3, 3), {"padding": 1}),
    ((1, 128, 28, 28), (128, 128, 3, 3), {"padding": 1}),
    ((4, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    ((1, 512, 7, 7), (512, 512, 1, 1), {}),
    ((1, 256, 28, 28), (512, 256, 1, 1), {"stride": 2}),
    ((1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    ((4, 512, 7, 7), (512, 512, 3, 3), {"padding": 1}),
    ((4, 64, 56, 56), (128, 64, 1, 1), {}),
    ((1, 64, 28, 28), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ((1, 64, 28, 28), (64, 4, 3, 3), {"padding": 1, "groups": 16}),
    ((1, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ((1, 96, 56, 56), (96, 1, 3, 3), {"padding": 1, "groups": 96, "stride": 2}),
    ((1, 256, 7, 7), (256, 1, 3, 3), {"padding": 1, "groups": 256}),
    ((1, 128, 28, 28), (128, 4, 3, 3), {"padding": 1, "groups": 32, "stride": 2}),
    ((1, 256, 14, 14), (256, 16, 3, 3), {"padding": 1, "groups": 16, "stride": 2}),
    ((4, 64, 14, 14), (64, 1, 7, 7), {"padding": 3, "groups": 64}),
    ((1, 1, 512, 512), (1, 1, 5, 5), {"padding": 2}),
    ((1, 1, 100_000), (1, 1, 31), {}),
    ((1, 1, 300_000), (1, 1, 5), {}),
    ((1, 1, 3000), (1, 1, 127), {}),
    ((1, 1, 100_000), (1, 1, 1023), {}),
    ((1, 1, 1_000_000), (1, 1, 30_000), {}),
    ((1, 1, 256, 256), (1, 1, 31, 31), {"padding": 15}),
    ((1, 1, 512, 512), (1, 1, 15, 15), {"padding": 7}),
    ((1, 4, 5000), (4, 4, 500), {}),
    ((1, 1, 8000), (128, 1, 10), {"stride": 5}),
    ((1, 64, 2000), (64, 1, 31), {"padding": 15, "groups": 64}),
    ((1, 64, 128, 128), (2, 64, 1, 1), {}),
    ((1, 32, 4000), (64, 32, 2), {"dilation": 16}),
    ((1, 64, 2000), (64, 64, 3), {"padding": 1}),
    ((1, 8, 8, 28, 28), (16, 8, 3, 3, 3), {"padding": 1}),
]
Coefficients = dict[str, dict[str, float]]
Show = Callable[[int, int, str], None]  # cases done, of how many, and what is timed now


class Tuned(NamedTuple):
    """What the file holds: the day, and the seconds of every algorithm."""

    date: str
    seconds: Coefficients


class Report(NamedTuple):
    """What tuning found; a loss is the time of the algorithm that was chosen over that of the fastest, for every case with a choice."""

    seconds: Coefficients
    off: dict[str, list[float]]  # by how much each estimate is off, a factor of at least 1
    losses_before: list[float]
    losses: list[float]

    @property
    def better(self) -> bool:
        """Whether the new coefficients choose no worse than those before."""
        return math.fsum(map(math.log, self.losses)) <= math.fsum(map(math.log, self.losses_before))


def path() -> Path | None:
    """Return where the coefficients of these kernels on this CPU are kept, if there is such a place."""
    from numba.core.registry import cpu_target

    from numbaconv import _jit

    folder = _jit.version_folder(repr(cpu_target.target_context.codegen().magic_tuple()))
    return folder and folder / FILE


def read(algorithms: Mapping[str, ModuleType]) -> Tuned | None:
    """Return what was tuned, or None if nothing was or what is there is not as `tune` writes it."""
    from numbaconv import _jit

    try:
        place = path()
        content = _jit.read_ours(place, LARGEST_FILE) if place else None
        if content is None:
            return None
        found = json.loads(content)
        tuned = Tuned(found["date"], {name: dict(seconds) for name, seconds in found["seconds"].items()})
        datetime.date.fromisoformat(tuned.date)
        return tuned if _fits(tuned.seconds, algorithms) else None
    except Exception:  # a file that anything may have happened to
        return None


def _fits(seconds: Coefficients, algorithms: Mapping[str, ModuleType]) -> bool:
    names = {name: algorithm.SECONDS.keys() for name, algorithm in algorithms.items()}
    values = [value for each in seconds.values() for value in each.values()]
    return {n: each.keys() for n, each in seconds.items()} == names and all(type(v) is float and 0 < v < 1 for v in values)


def apply(algorithms: Mapping[str, ModuleType]) -> None:
    """Put the tuned coefficients, if there are any, in the place of the shipped ones."""
    if tuned := read(algorithms):
        for name, seconds in tuned.seconds.items():
            algorithms[name].SECONDS.update(seconds)


def keep(seconds: Coefficients) -> Path | None:
    """Write the coefficients for later processes; return where, or None where no file can be written."""
    from numbaconv import _jit

    place, content = path(), {"date": datetime.date.today().isoformat(), "seconds": seconds}
    try:
        if place:
            _jit.write_atomically(place, json.dumps(content, indent=1).encode())
        return place
    except OSError:
        return None


def measured(function: Callable[[], Any], budget: float, most: int = 200) -> float:
    """Return the median seconds of a call, of at least three after one that does not count, for about ``budget`` seconds."""
    function()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < most):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def operands(problem: ConvProblem, op: Op, dtype: np.dtype[Any]) -> tuple[Any, Any, Any]:
    """Return random operands of an operation, and an array for its result."""
    rng = np.random.default_rng(0)
    first, second, result = TENSORS[op]
    with np.errstate(invalid="ignore"):  # integers get more than zeros, and negative ones wrap
        a, b = ((rng.standard_normal(problem.shape(t)) * 100).astype(dtype) for t in (first, second))
    return a, b, np.zeros(problem.shape(result), dtype)


def problems() -> Iterator[tuple[ConvProblem, Op, np.dtype[Any]]]:
    """Yield every layer in both layouts, for each operation and dtype."""
    for x, w, options in LAYERS:
        for channels_last in (False, True):
            shape = (x[0], *x[2:], x[1]) if channels_last else x
            p = ConvProblem.from_shapes(shape, w, rank=len(x) - 2, channels_last=channels_last, **options)
            yield from ((p, op, np.dtype(dtype)) for op in OPS for dtype in DTYPES)


def tune(algorithms: Mapping[str, ModuleType], limit: float = 150.0, budget: float = 0.03, show: Show = lambda *_: None) -> Report:
    """Time every algorithm on small layers of all kinds, with the current number of threads, and fit its coefficients.

    Cases come in a fixed random order, so that those that do not fit in ``limit`` seconds are of all kinds too.
    """
    cases = list(problems())
    order, end = np.random.default_rng(0).permutation(len(cases)), time.perf_counter() + limit
    times: dict[str, dict[int, float]] = {name: {} for name in algorithms}
    for done, i in enumerate(map(int, order)):
        if time.perf_counter() > end:
            break
        problem, op, dtype = cases[i]
        show(done, len(cases), f"{op} {dtype.name}")
        a, b, out = operands(problem, op, dtype)
        for name, algorithm in algorithms.items():
            try:
                if algorithm.cost(problem, op, dtype) > LONGEST:
                    continue
            except Unsupported:
                continue
            times[name][i] = measured(lambda: algorithm.run(problem, op, a, b, out, Options()), budget)  # noqa: B023
    seconds, off, before, after = {}, {}, {}, {}
    for name, algorithm in algorithms.items():
        works = {i: algorithm.work(*cases[i]) for i in times[name]}
        seconds[name] = fit(works, times[name], algorithm.SECONDS)
        before[name], after[name] = (_estimates(works, each) for each in (algorithm.SECONDS, seconds[name]))
        off[name] = [max(t / after[name][i], after[name][i] / t) for i, t in times[name].items()]
    return Report(seconds, off, _losses(before, times), _losses(after, times))


def fit(works: Mapping[int, Mapping[str, float]], times: Mapping[int, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return the coefficients, none negative, for which the relative errors of the estimates are least in the sum of squares."""
    from scipy.optimize import nnls

    if not works:
        return dict(before)
    counts = np.array([[works[i].get(name, 0.0) / times[i] for name in before] for i in works])
    # In units of the coefficients before, made as much faster or slower as this machine is.
    shares = counts * np.array(list(before.values()))
    scale = 1 / statistics.median(shares.sum(axis=1).tolist())
    weight = TRUST * math.sqrt(len(works))
    rows = np.vstack([shares * scale, weight * np.eye(len(before))])
    factors = nnls(rows, np.concatenate([np.ones(len(works)), np.full(len(before), weight)]))[0]
    return {name: max(SMALLEST, float(value * factor * scale)) for (name, value), factor in zip(before.items(), factors, strict=True)}


def _estimates(works: Mapping[int, Mapping[str, float]], seconds: Mapping[str, float]) -> dict[int, float]:
    return {i: sum(seconds[name] * count for name, count in work.items()) for i, work in works.items()}


def _losses(estimates: Mapping[str, Mapping[int, float]], times: Mapping[str, Mapping[int, float]]) -> list[float]:
    losses = []
    for i in sorted({i for each in times.values() for i in each}):
        able = [name for name, each in times.items() if i in each]
        if len(able) > 1:
            chosen = min(able, key=lambda name: estimates[name][i])  # noqa: B023
            losses.append(times[chosen][i] / min(times[name][i] for name in able))
    return losses
