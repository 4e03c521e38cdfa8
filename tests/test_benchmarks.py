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
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import benchmarks
from benchmarks import activations, calibrate, choice, compare, gpu_check, jit, memory, overhead, roofline, threads
from benchmarks.cases import OPS, Array, Layer, layer
from benchmarks.networks import LAYERS
from numbaconv import tuning
from numbaconv.plan import room

PREFIXES = ("time_", "timeraw_", "track_", "peakmem_")


@pytest.fixture(autouse=True)
def _short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.0)


def _suites() -> Iterator[tuple[type, str]]:
    for module in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
        for _, suite in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if suite.__module__ == module.name:
                yield from ((suite, name) for name, _ in inspect.getmembers(suite) if name.startswith(PREFIXES))


def _combinations(suite: Any) -> Iterator[tuple[Any, ...]]:
    params = getattr(suite, "params", ())
    return itertools.product(*(params if not params or isinstance(params[0], (list, tuple)) else [params]))


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


@pytest.mark.parametrize("suite", LAYERS)
def test_case_shapes_are_those_of_the_library(suite: str) -> None:
    """Output shapes and multiply-adds, which cases.py computes for itself, are the library's."""
    for case in LAYERS[suite].values():
        assert case.problem.shape("x" if case.transposed else "y", case.rank) == case.y_shape
        assert case.problem.macs == case.macs


def test_notation() -> None:
    """Every part of a layer's line."""
    assert layer("3→64 7×7 s2 @224") == Layer((1, 3, 224, 224), (64, 3, 7, 7), {"stride": 2, "padding": 3})
    assert layer("8→8 3×3 p0 d2 g8 @9×5") == Layer((1, 8, 9, 5), (8, 1, 3, 3), {"dilation": 2, "groups": 8})
    assert layer("4→6 up 2×2 s2 g2 @5") == Layer((1, 4, 5, 5), (4, 3, 2, 2), {"stride": 2, "groups": 2}, transposed=True)
    assert layer("3→45 1×7×7 s1×2×2 @4×9×9").options == {"stride": (1, 2, 2), "padding": (0, 3, 3)}
    with pytest.raises(ValueError, match="C→K filter options @size"):
        layer("3→64 7×7 s2")


def test_batches_stay_at_half_a_second() -> None:
    """Large layers get fewer samples than asked for, never none."""
    assert layer("64→64 3×3 @56").batched(16).x_shape[0] == 16
    assert layer("512→512 3×3 @28").batched(16).x_shape[0] == 16
    assert layer("128→64 3×3 p0 @392").batched(16).x_shape[0] == 2
    assert layer("3→3 31×31 g3 @1024").batched(16).x_shape[0] == 1


def test_least_times() -> None:
    """The largest of what arithmetic, data and the call take; Winograd where it may be used."""
    machine = roofline.Roofline(flops=1e9, cache=1e9, memory=1e8, call=1e-6)
    assert roofline.useful_macs(layer("1→1 3×3 @2")) == 16  # of 36 with the padding
    assert roofline.useful_macs(layer("2→3 up 2×2 s2 @4")) == 2 * 3 * 4 * 16
    assert machine.floor(layer("8→8 3×3 p0 @6"), "float32") == (2 * 64 * 9 * 16 / 1e9, "multiply-adds")
    assert machine.floor(layer("16→16 3×3 p0 @6"), "float32") == (2 * 256 * 9 * 16 / 4 / 1e9, "Winograd")
    assert machine.floor(layer("16→16 3×3 p0 @6"), "float64")[1] == "multiply-adds"
    for name, share in {
        "3×3 s2 @6": 9 / 16,
        "1×3×3 s1×1×2 @4": 3 / 8,
        "3 @9": 1 / 2,
        "3 s2 @9": 3 / 4,
        "3×1 @9": 1,
        "3×3×3 @4": 1,
        "3×3 d2 @9": 1,
    }.items():
        assert roofline.winograd_share(layer("16→16 " + name), "float32") == share
    assert machine.floor(layer("1→1 1×1 @64"), "float32") == (4 * (2 * 64**2 + 1) / 1e9, "cache")
    assert machine.floor(layer("1→1 1×1 @2048"), "float32")[1] == "memory"
    assert machine.floor(layer("1→1 1×1 @1"), "float32") == (1e-6, "call")


@pytest.mark.usefixtures("threads_restored")
def test_compare_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line per case and operation, the geometric mean, and the same in JSON."""
    compare.main(["--match", "smallest", "--ops", *OPS, "--seconds", "0", "--threads", "1", "--json", str(tmp_path / "report.json")])
    printed = capsys.readouterr().out
    assert "| smallest 3×3@5, grad_weight |" in printed and "**geometric mean**" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(row["suite"], row["case"], row["op"]) for row in report["rows"]] == [("mixed", "smallest 3×3@5", op) for op in OPS]
    assert all(row["floor"] > 0 and row["workspace"] >= 0 for row in report["rows"])


SMALL = ("2→4 3 s2 @9", "4→4 3×3 d2 @6", "4→8 3×3 g4 @6", "2→3 up 2×2 s2 @4", "2→2 3×1×3 s1×1×2 @4")


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peers_compute_the_same(dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every installed peer, on a layer of each kind and an image; `compare` itself checks that results agree."""
    pytest.importorskip("matplotlib")
    image = {"colour": replace(layer("3→3 5×5 g3 @9"), one_filter=True)}
    monkeypatch.setitem(LAYERS, "mixed", {name: layer(name) for name in SMALL} | image)
    compare.main(
        ["--ops", *OPS, "--batch", "1", "2", "--dtype", dtype, "--seconds", "0", "--prepared", "--threads", "1", "--plot", str(tmp_path / "a.png")]
    )
    printed = capsys.readouterr().out
    assert "| colour, forward, batch 2 |" in printed and "| mixed, grad_input, batch 2 | 6 |" in printed
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.usefixtures("threads_restored")
def test_compare_notices_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of results that differ are not compared."""
    monkeypatch.setitem(compare.peers.LAYER_PEERS, "wrong", lambda layer, op, a, b: lambda: layer.call(op, a, b) + 1)
    with pytest.raises(SystemExit, match="numbaconv and wrong disagree"):
        compare.main(["--match", "smallest", "--seconds", "0"])


@pytest.mark.usefixtures("threads_restored")
def test_compare_calls_a_hopeless_peer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that takes very long is not repeated."""
    calls = []

    def slow(layer: Layer, op: str, a: Array, b: Array) -> Callable[[], Array]:
        return lambda: calls.append(time.sleep(0.2)) or layer.call(op, a, b)

    monkeypatch.setattr(compare, "PATIENCE", 0.1)
    monkeypatch.setitem(compare.peers.LAYER_PEERS, "slow", slow)
    compare.main(["--match", "smallest", "--seconds", "0", "--threads", "1"])
    assert len(calls) == 1


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize(
    ("suite", "case"),
    [
        ("signals-1d", "10² samples, 3 taps"),
        ("signals-1d", "10³ samples, 31 taps, full"),
        ("signals-2d", "256² image, 3×3"),
        ("signals-batch", "8 signals of 10² samples, 15 taps"),
        ("signals-batch", "256 images of 32², 3×3"),
        ("filters", "upfirdn of 10⁵ samples up 2, 31 taps"),
        ("filters", "gaussian_filter of 1024² image, sigma 2"),
    ],
)
def test_compare_signals(suite: str, case: str, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every installed peer of signals, on the smallest cases; `compare` itself checks that results agree."""
    pytest.importorskip("numbaconv.signal")
    pytest.importorskip("numbaconv.ndimage")
    compare.main(["--suite", suite, "--match", case, "--dtype", dtype, "--seconds", "0", "--threads", "1"])
    printed = capsys.readouterr().out
    assert f"| {case}, {dtype} |" in printed and f"| {suite}, {dtype} | 1 |" in printed and f"- {suite}, {dtype}: " in printed


def test_signals_behind_are_listed() -> None:
    """Those whose best peer is a tenth faster and takes a moment, under the best function of SciPy."""
    times = {"slow": (1e-3, 5e-4, 8e-4), "short": (4e-5, 1e-5, 8e-4), "near": (1e-3, 9.5e-4, 8e-3)}
    names = ("numbaconv", "scipy.signal.convolve", "scipy.ndimage")
    rows = [compare.Row("signals-1d", case, "float32", 1, 1, dict(zip(names, seconds, strict=True))) for case, seconds in times.items()]
    assert compare.behind(rows).splitlines()[1:] == ["- signals-1d, float32: 1 of 3: slow (0.50)"]
    assert [row.libraries for row in rows] == [{"SciPy": pytest.approx(ratio)} for ratio in (0.5, 0.25, 0.95)]


def test_compare_has_no_layers_of_complex_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """They would measure nothing that peers have."""
    with pytest.raises(SystemExit):
        compare.main(["--suite", "mixed", "--dtype", "complex64"])
    assert "complex64 is for the suites of signals" in capsys.readouterr().err


def test_signals_smallest_calls(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each number of samples."""
    pytest.importorskip("numbaconv.signal")
    overhead.main(["--seconds", "0"])
    assert "| 7 samples, 3 taps |" in capsys.readouterr().out


def test_memory_of_a_long_signal(capsys: pytest.CaptureFixture[str]) -> None:
    """A line with the mebibytes."""
    pytest.importorskip("numbaconv.signal")
    memory.main(["--samples", "100000"])
    assert "MiB beyond input and output" in capsys.readouterr().out


@pytest.mark.usefixtures("threads_restored")
def test_threads_prints_two_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """One on the machine as it is and one with busy processes."""
    threads.main(["--match", "smallest", "--seconds", "0"])
    printed = capsys.readouterr().out
    assert printed.count("| smallest 3×3@5 |") == 2 and printed.count("**geometric mean**") == 2


@pytest.mark.usefixtures("threads_restored")
def test_activations_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A line per activation."""
    activations.main(["--match", "g96", "--seconds", "0"])
    printed = capsys.readouterr().out
    assert all(f"g96 @112, {name} |" in printed for name in activations.PASSES)


def test_calibrate_prints_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The coefficients of every algorithm, and how good they are."""
    monkeypatch.setattr(tuning, "LAYERS", [((1, 4, 10, 10), (4, 4, 3, 3), {"padding": 1})])
    calibrate.main(["--seconds", "0"])
    printed = capsys.readouterr().out
    assert all(f'{name}: "call": ' in printed for name in room("cpu")) and "now: chosen within 10 %" in printed


def test_choice_times_every_algorithm_that_might_be_taken(capsys: pytest.CaptureFixture[str]) -> None:
    choice.main(["--suite", "convnext_t", "--match", "none", "--seconds", "0"])
    choice.main(["--suite", "mobilenetv2", "--match", "960→960", "--ops", "grad_weight", "--seconds", "0"])
    printed = capsys.readouterr().out
    assert "| mobilenetv2, grad_weight | 1 |" in printed and "within 10 %" in printed
    chosen, found = choice.times(layer("2→3 3×3 @5"), "forward", "float32", 0)
    assert chosen in found and len(found) > 1


def test_gpu_check_measures_and_writes_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "LAYERS_OF_THE_BARS", {"2→3 3×3 @5": layer("2→3 3×3 @5")})
    assert gpu_check.main(["--no-tests", "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    written = json.loads(file.read_text())
    measured = {row["op"] for row in written["rows"] if "seconds" in row and row["precision"] == "float32"}
    assert measured == {*OPS, "signal"} and not any(row.get("wrong") for row in written["rows"])
    assert "| 2→3 3×3 @5 | forward | float32 |" in capsys.readouterr().out
    assert gpu_check.main(["--no-tests", "--results", str(tmp_path), "--limit", "0"]) == 0
    assert "stopped after 0 s, with 1 rows measured" in capsys.readouterr().out


def test_results_that_are_kept_can_be_read(capsys):
    files = sorted((gpu_check.ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        assert gpu_check.main(["--read", str(file)]) == 0
        assert "forward, float32: geometric mean" in capsys.readouterr().out


def test_nopython_code_is_compared(capsys):
    jit.main(["--seconds", "0", "--signals", "3", "--size", "300", "--repeat", "0"])
    printed = capsys.readouterr().out
    assert "Python loop over SciPy" in printed and printed.count("Numba's own") == 2
