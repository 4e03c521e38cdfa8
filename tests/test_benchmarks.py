"""The benchmarks run: the smallest case of every suite, found as asv finds it, and the two scripts."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import math
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks import compare, threads
from benchmarks.cases import LAYERS, OPS

PREFIXES = ("time_", "timeraw_", "track_", "peakmem_")


def _suites() -> Iterator[tuple[type, str]]:
    for module in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
        for _, suite in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if suite.__module__ == module.name:
                yield from ((suite, name) for name, _ in inspect.getmembers(suite) if name.startswith(PREFIXES))


def _combinations(suite: Any) -> Iterator[tuple[Any, ...]]:
    params = getattr(suite, "params", ())
    return itertools.product(*(params if params and not isinstance(params[0], str) else [params] if params else []))


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize(("suite", "name"), [pytest.param(s, n, id=f"{s.__module__}.{s.__name__}.{n}") for s, n in _suites()])
def test_smallest_case_runs(suite: Any, name: str) -> None:
    """Set up and call the first parameters that apply, as asv would."""
    reasons = []
    for params in itertools.islice(_combinations(suite), 20):
        instance = suite()
        try:
            instance.setup(*params) if hasattr(instance, "setup") else None
        except NotImplementedError as reason:
            reasons.append(str(reason))
            continue
        try:
            _run(name, getattr(instance, name)(*params))
        finally:
            instance.teardown(*params) if hasattr(instance, "teardown") else None
        return
    pytest.skip(f"no case applies: {sorted(set(reasons))}")


def _run(name: str, result: Any) -> None:
    if name.startswith("track_"):
        assert math.isfinite(result)
    elif name.startswith("timeraw_"):
        statement, setup = result
        subprocess.run([sys.executable, "-c", f"{setup}\n{statement}"], check=True)


@pytest.mark.parametrize("name", LAYERS)
def test_case_shapes_are_those_of_the_library(name: str) -> None:
    """Output shapes and multiply-adds, which cases.py computes for itself, are the library's."""
    from numbaconv.recipe import problem_for

    layer = LAYERS[name]
    geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "layout": None, **layer.options}
    problem, _ = problem_for(layer.transposed, "forward", layer.rank, layer.x_shape, layer.w_shape, geometry)
    assert problem.shape("x" if layer.transposed else "y", layer.rank) == layer.y_shape
    assert problem.macs == layer.macs


@pytest.mark.usefixtures("threads_restored")
def test_compare_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line per case and operation, the geometric mean, and the same in JSON."""
    compare.main(["--match", "smallest", "--ops", *OPS, "--seconds", "0", "--threads", "1", "--json", str(tmp_path / "report.json")])
    printed = capsys.readouterr().out
    assert "| smallest 3×3@5, grad_weight |" in printed and "**geometric mean**" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["case"] for row in report["layers"]] == [f"smallest 3×3@5, {op}" for op in OPS]


@pytest.mark.usefixtures("threads_restored")
def test_compare_notices_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of results that differ are not compared."""
    monkeypatch.setitem(compare.peers.LAYER_PEERS, "wrong", lambda layer, op, a, b: lambda: layer.call(op, a, b) + 1)
    with pytest.raises(SystemExit, match="numbaconv and wrong disagree"):
        compare.main(["--match", "smallest", "--seconds", "0"])


@pytest.mark.usefixtures("threads_restored")
def test_threads_prints_two_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """One on the machine as it is and one with busy processes."""
    threads.main(["--match", "smallest", "--seconds", "0"])
    printed = capsys.readouterr().out
    assert printed.count("| smallest 3×3@5 |") == 2 and printed.count("**geometric mean**") == 2
