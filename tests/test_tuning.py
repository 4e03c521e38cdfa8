"""Tuned coefficients: fitted, kept, read again, and never trusted when anything about the file is wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from numbaconv import _jit, tuning
from numbaconv.cpu import _isa, _seconds
from numbaconv.problem import Unsupported

GOOD = {"one": {"call": 1e-5, "fma": 1e-11}, "two": {"call": 2e-5}}


def algorithms() -> dict[str, Any]:
    return {name: SimpleNamespace(SECONDS=dict(seconds)) for name, seconds in GOOD.items()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "folder" / tuning.FILE
    monkeypatch.setattr(tuning, "path", lambda: file)
    return file


def test_what_is_kept_is_read_again(place):
    assert tuning.read(algorithms()) is None
    better = {name: {key: value * 1.25 for key, value in each.items()} for name, each in GOOD.items()}
    assert tuning.keep(better) == place
    assert [path.name for path in place.parent.iterdir()] == [tuning.FILE]
    tuned, changed = tuning.read(algorithms()), algorithms()
    assert tuned is not None and tuned.seconds == better and len(tuned.date) == 10
    tuning.apply(changed)
    assert {name: each.SECONDS for name, each in changed.items()} == better


def _with(name: str, key: str, value: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], key: value}}  # type: ignore[dict-item]


WRONG = {
    "negative": _with("one", "call", -1e-5), "zero": _with("one", "fma", 0.0), "nan": _with("one", "fma", math.nan),
    "infinite": _with("two", "call", math.inf), "huge": _with("two", "call", 1e9), "text": _with("two", "call", "1e-5"),
    "true": _with("two", "call", True), "null": _with("two", "call", None), "list": _with("one", "fma", [1e-11]),
    "unknown coefficient": _with("one", "extra", 1e-5), "unknown algorithm": {**GOOD, "three": {"call": 1e-5}},
    "missing coefficient": {**GOOD, "one": {"call": 1e-5}}, "missing algorithm": {"one": GOOD["one"]},
    "no algorithms": {}, "not an object": 3, "pairs": [["one", 1]],
}  # fmt: skip


@pytest.mark.parametrize("seconds", WRONG.values(), ids=WRONG.keys())
def test_wrong_coefficients_are_not_used(seconds, place):
    place.parent.mkdir()
    place.write_text(json.dumps({"date": "2026-11-23", "seconds": seconds}))
    place.chmod(0o600)
    assert tuning.read(algorithms()) is None


@pytest.mark.parametrize("content", [
    b"", b"{", b"null", b"\xff\xfe", b"[]", json.dumps({"seconds": GOOD}).encode(), json.dumps({"date": 3, "seconds": GOOD}).encode(),
    json.dumps({"date": "yesterday", "seconds": GOOD}).encode(), b"[" * 50_000, b" " * tuning.LARGEST_FILE + json.dumps(GOOD).encode(),
])  # fmt: skip
def test_damaged_files_are_not_used(content, place):
    place.parent.mkdir()
    place.write_bytes(content)
    place.chmod(0o600)
    assert tuning.read(algorithms()) is None
    changed = algorithms()
    tuning.apply(changed)
    assert {name: each.SECONDS for name, each in changed.items()} == GOOD


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the permissions of POSIX")
def test_files_that_others_could_have_written_are_not_used(place):
    tuning.keep(GOOD)
    assert tuning.read(algorithms()) is not None
    place.chmod(0o666)
    assert tuning.read(algorithms()) is None


def test_places_that_cannot_be_used(monkeypatch, tmp_path):
    for path in (None, tmp_path / "file" / "below" / tuning.FILE, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(tuning, "path", lambda path=path: path)
        assert tuning.read(algorithms()) is None
        assert tuning.keep(GOOD) is None


def test_coefficients_lie_with_the_code_of_these_kernels_on_this_cpu(monkeypatch):
    first = tuning.path()
    assert first is not None and first.name == tuning.FILE and first.parent.parent == _jit.cache_folder()
    monkeypatch.setattr(_jit, "source_hash", lambda: "0" * 64)
    _jit.version_folder.cache_clear()
    try:
        other = tuning.path()
        assert other is not None and other.parent != first.parent
        other.parent.rmdir()
    finally:
        _jit.version_folder.cache_clear()


def test_a_process_plans_with_what_was_tuned(tmp_path):
    code = "from numbaconv import plan, tuning; print(*[a.SECONDS['call'] for a in plan.room('cpu').values()], tuning.path())"

    def run() -> list[str]:
        environment = {**os.environ, "NUMBACONV_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.split()

    *shipped, file = run()
    from numbaconv.plan import room

    Path(file).write_text(json.dumps({"date": "2026-11-23", "seconds": {n: dict.fromkeys(a.SECONDS, 0.25) for n, a in room("cpu").items()}}))
    Path(file).chmod(0o600)
    assert set(shipped) != {"0.25"} and set(run()[:-1]) == {"0.25"}
    Path(file).write_text("{")
    assert run()[:-1] == shipped


def test_the_fit_finds_the_coefficients(rng):
    true = {"call": 1e-5, "fma": 1e-11, "copy": 3e-10}
    works = {i: {"call": 1.0, "fma": 10.0 ** rng.uniform(3, 8), "copy": 10.0 ** rng.uniform(2, 6)} for i in range(60)}
    times = {i: sum(true[name] * count for name, count in work.items()) * rng.uniform(0.97, 1.03) for i, work in works.items()}
    found = tuning.fit(works, times, {"call": 2e-5, "fma": 4e-12, "copy": 2e-10})
    for name, value in true.items():
        assert abs(math.log(found[name] / value)) < 0.1, found


def test_coefficients_that_nothing_measured_follow_the_others():
    before = {"call": 1e-5, "fma": 1e-11, "unseen": 5e-9}
    works = {i: {"call": 1.0, "fma": 10.0**i} for i in range(3, 9)}
    times = {i: 3 * (1e-5 + 1e-11 * work["fma"]) for i, work in works.items()}
    found = tuning.fit(works, times, before)
    for name, value in before.items():
        assert found[name] == pytest.approx(3 * value, rel=0.01)
    assert tuning.fit({}, {}, before) == before


def fake(seconds: float, refuses: str = "") -> Any:
    def cost(problem: Any, op: str, dtype: Any) -> float:
        if op == refuses:
            raise Unsupported("needs something else")
        return seconds

    return SimpleNamespace(
        SECONDS={"call": seconds}, cost=cost, work=lambda *_: {"call": 1.0}, run=lambda problem, op, a, b, out, options: out.fill(a.flat[0])
    )


def test_tuning_times_what_can_be_and_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr(tuning, "LAYERS", [((1, 2, 9), (4, 2, 3), {}), ((1, 1, 5, 5), (1, 1, 3, 3), {})])
    ticks: list[int] = []
    counted: Callable[..., float] = lambda call, budget, most=0: ticks.append(1) or call() or 1e-3  # noqa: E731
    monkeypatch.setattr(tuning, "measured", counted)
    shown: list[tuple[int, int]] = []
    room = {"fast": fake(1e-5), "picky": fake(2e-5, refuses="wgrad"), "slow": fake(1.0)}
    report = tuning.tune(room, show=lambda done, total, what: shown.append((done, total)))
    assert shown == [(n, 24) for n in range(24)] and len(ticks) == 24 + 16
    assert set(report.seconds) == set(room) and report.seconds["slow"] == {"call": 1.0}
    assert report.seconds["fast"]["call"] == pytest.approx(1e-3)
    assert report.off["slow"] == [] and max(report.off["fast"]) == pytest.approx(1)
    assert report.losses == report.losses_before == [1.0] * 16 and report.better
    assert tuning.tune(room, limit=-1.0).off == {"fast": [], "picky": [], "slow": []}


def test_real_algorithms_can_be_tuned(monkeypatch):
    from numbaconv.plan import room

    monkeypatch.setattr(tuning, "LAYERS", [((1, 4, 10, 10), (4, 4, 3, 3), {"padding": 1})])
    report = tuning.tune(room("cpu"), budget=0.0)
    values = [value for each in report.seconds.values() for value in each.values()]
    assert np.isfinite(values).all() and min(values) > 0 and min(report.losses) == 1.0
    assert tuning._fits(report.seconds, room("cpu"))


def test_shipped_coefficients_are_those_of_the_cpu(monkeypatch):
    counted = [{name: set(some) for name, some in tables.items()} for tables in _seconds.SECONDS.values()]
    assert counted.count(counted[0]) == len(counted), "every table has the same names"
    zen, intel = ("znver5", "avx512", "avx512 zen"), ("sapphirerapids", "avx512", "avx512")
    for cpu, isa, table in (zen, intel, ("znver3", "avx2", "avx2"), ("", "neon", "avx2")):
        monkeypatch.setattr(_isa, "cpu", lambda cpu=cpu: cpu)
        monkeypatch.setattr(_isa, "host", lambda isa=isa: _isa.ISAS[isa])
        assert all(_seconds.of(name) == some for name, some in _seconds.SECONDS[table].items())
