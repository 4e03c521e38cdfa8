"""Transforms in nopython code by rocket-fft and by this library: what is taken, and that the results are the same."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbaconv
from numbaconv.nopython import _compile

PROGRAM = """
import sys
import numba
import numpy as np
import scipy.signal
import numbaconv.jit
from numbaconv.nopython import _compile
which, when, file = sys.argv[1:]
assert _compile.rocket()
if which == "own":
    _compile.rocket = lambda: ""
if when == "before":
    import rocket_fft
spectrum = numba.njit(lambda x: np.fft.fft(x))
if when == "first":
    spectrum(np.ones(4))
all_of = numba.njit(lambda x, h: (scipy.signal.convolve(x, h), scipy.signal.correlate(x, h, "same", "fft"), scipy.signal.fftconvolve(x, h, "valid")))
along = numba.njit(lambda x, h: scipy.signal.oaconvolve(x, h, axes=1))
found, rng = [], np.random.default_rng(0)
for shape, taps in (((300,), (33,)), ((33,), (300,)), ((1,), (1,)), ((2500,), (1100,)), ((12, 9, 20), (5, 4, 7))):
    for kind in "fD":
        x, h = (rng.standard_normal(size).astype(kind) for size in (shape, taps))
        if kind == "D":
            x, h = x + 1j * x[::-1], h - 1j * h[..., ::-1]
        found += all_of(x, h)
found.append(along(rng.standard_normal((3, 400)), rng.standard_normal((3, 90))))
assert abs(spectrum(np.ones(4))[0] - 4) < 1e-12
assert ("numbaconv.nopython._rocket" in sys.modules) == (which == "rocket")
np.savez(file, *found)
"""


@pytest.mark.skipif(importlib.util.find_spec("rocket_fft") is None, reason="rocket-fft is not installed")
def test_results_are_the_same_whoever_transforms(tmp_path: Path) -> None:
    results = []
    for which, when in (("own", "before"), ("rocket", "before"), ("rocket", "first"), ("rocket", "last")):
        file = tmp_path / f"{which}-{when}.npz"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, which, when, str(file)],
            env={**os.environ, "NUMBACONV_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(numbaconv.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        with np.load(file) as arrays:
            results.append(list(arrays.values()))
    own, *others = results
    for other in others:
        for a, b in zip(own, other, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=4 * np.finfo(a.dtype).eps * np.linalg.norm(a))


@pytest.mark.parametrize(("installed", "taken"), [("0.3.2", False), ("0.4.1", True), ("0.4.1.post1", True), ("1.0", True), (None, False)])
def test_which_versions_are_taken(monkeypatch: pytest.MonkeyPatch, installed: str | None, taken: bool) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert _compile.rocket.__wrapped__() == (installed if taken else "")


def test_kept_code_is_of_one_or_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for version in ("", "0.4.1", "0.5.0"):
        monkeypatch.setattr(_compile, "rocket", lambda version=version: version)
        names.add(_compile.sources.__wrapped__())
    assert len(names) == 3


def test_the_extra_asks_for_the_oldest_version_that_is_taken() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(numbaconv.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["rocket"] == ["rocket-fft>=" + ".".join(map(str, _compile.ROCKET))]
