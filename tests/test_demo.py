"""The demo: its arithmetic, its checks against SciPy and a short run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbaconv as nc
from numbaconv.demo import EXTRAS, filters, textbook

missing = [name for module, name in EXTRAS.items() if importlib.util.find_spec(module) is None]
needs_extras = pytest.mark.skipif(bool(missing), reason=f"the demo extra is not complete: {', '.join(missing)} missing")


def test_textbook_prints_the_sums(capsys: pytest.CaptureFixture[str]) -> None:
    """Products, sums, feature maps, gradients and the step, worked out by hand beforehand."""
    textbook.show()
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "[1 2 1] 0 1 2 1 y[0] = 1·1 + 2·0 + 1·(−1) = 1 + 0 − 1 = 0",
        "1 2 1 [0 1 2] 1 y[3] = 0·1 + 1·0 + 2·(−1) = 0 + 0 − 2 = −2",
        "feature map y = 0 2 0 −2 0",
        "ReLU(y) = 0 2 0 0 0",
        "∂L/∂w[1] = Σ x[o+1] = 2 + 1 + 0 + 1 + 2 = 6",
        "∂L/∂x[6] = w[2] = −1",
        "w − 0.1·∂L/∂w = 0.5 −0.6 −1.5",
        "L goes from 0 to −8.6",
        "1 [2 1] y[0,1] = 2·1 + 1·(−1) + 1·(−1) + 2·1 + 1 = 2 − 1 − 1 + 2 + 1 = 3",
        "∂L/∂w[0,1] = 2 + 1 + 1 + 2 = 6",
        "∂L/∂x = 1 0 −1 0 0 0 −1 0 1",
        "L goes from 2 to −8.",
    ):
        assert text in printed


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv1d_backward", "conv2d_backward"])
def test_textbook_cannot_lie(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that computed something else would be found out."""
    right = getattr(nc, name)

    def wrong(*arguments: object, **options: object) -> object:
        result = right(*arguments, **options)
        return tuple(r + 1 for r in result) if isinstance(result, tuple) else result + 1

    monkeypatch.setattr(nc, name, wrong)
    with pytest.raises(RuntimeError, match="by hand"):
        textbook.show()


def test_compare_refuses_what_is_beyond_the_bound() -> None:
    """An error of 9 eps is refused, one of 7 is measured as such; NaN is refused."""
    exact, eps = np.ones(3), float(np.finfo(np.float32).eps)
    for off in (9 * eps, np.nan):
        with pytest.raises(RuntimeError, match="beyond the bound"):
            filters.compare("off", lambda off=off: exact + off, exact, exact, {})
    check = filters.compare("near", lambda: exact + 7 * eps, exact, exact, {"other": lambda: None})
    assert check.ratio == pytest.approx(7)
    assert check.error == pytest.approx(7 * eps)
    assert check.scipy_name == "other"


def test_gaussian_blurs_without_brightening() -> None:
    """Its taps are symmetric and sum to 1."""
    taps = filters.gaussian()
    assert taps.shape == (9, 9)
    assert taps.sum() == pytest.approx(1)
    assert np.array_equal(taps, taps[::-1, ::-1])


@needs_extras
def test_short_demo(tmp_path: Path) -> None:
    """Three epochs in another process: all files are written, the three parts printed, and the status tells the accuracy."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "numbaconv", "demo", "--epochs", "3", "--output", str(tmp_path / "new" / "out")],
        env={**os.environ, "PYTHONIOENCODING": "utf-8"}, cwd=Path(__file__).parents[1],
        capture_output=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 1) == ("exit status 1" in done.stdout)
    for text in (
        "1. Two layers by hand",
        "2. A photograph and a heartbeat",
        "3. A heartbeat as it arrives",
        "4. Handwritten digits",
        "bit for bit",
        "epoch  3 of 3",
    ):
        assert text in done.stdout
    pictures = ["photograph", "heartbeat", "stream", "deblurring", "digits-filters", "digits-feature-maps", "digits-learning"]
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {f"{name}.png" for name in pictures} | {"digits.npz"}
