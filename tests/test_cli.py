"""The command line: what it prints, what it deletes and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import numbaconv as nc
from numbaconv.__main__ import main
from numbaconv._kept import clear, compiled_files


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m numbaconv``."""
    return subprocess.run(
        [sys.executable, "-m", "numbaconv", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment}, cwd=Path(__file__).parents[1],
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip


def fill(root: Path) -> tuple[list[Path], list[Path]]:
    """Fill a cache folder with files of the library and others; return both lists."""
    folder, mixed = root / ("0a" * 12), root / ("1b" * 12)
    ours = [folder / "direct_fprop-pool-0123456789abcdef.bin", folder / ".new-abc", mixed / "direct_wgrad-pool-00.bin"]
    others = [root / "notes.bin", root / "sub" / "x.bin", root / ("0A" * 12) / "x.bin", root / ("0a" * 13) / "x.bin", mixed / "README"]
    for path in ours + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    return ours, others


def test_info_names_what_it_runs_on(tmp_path: Path) -> None:
    """Versions, threads and the cache are there."""
    done = run("info", NUMBACONV_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    assert rows["numbaconv"] == nc.__version__
    assert rows["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"NumPy", "SciPy", "Numba", "CPU", "SIMD", "threads", "GPU"} <= rows.keys()
    assert str(tmp_path) in done.stdout
    assert "nothing yet" in done.stdout


def test_cache_reports_and_clears_only_its_own_files(tmp_path: Path) -> None:
    """Other files stay, and so do folders that hold any."""
    ours, others = fill(tmp_path)
    done = run("cache", NUMBACONV_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    assert "3 files" in done.stdout
    assert all(path.exists() for path in ours + others)
    done = run("cache", "--clear", NUMBACONV_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "3 deleted" in done.stdout
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    assert not ours[0].parent.exists()
    assert "0 files" in run("cache", NUMBACONV_CACHE_DIR=str(tmp_path)).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege on Windows")
def test_clearing_follows_no_links(tmp_path: Path) -> None:
    """Neither a linked folder nor a linked file is touched."""
    root, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    ours, _ = fill(root)
    elsewhere.mkdir()
    foreign = elsewhere / "precious.bin"
    foreign.write_text("content")
    (root / ("2c" * 12)).symlink_to(elsewhere)
    (ours[0].parent / "linked.bin").symlink_to(foreign)
    assert {file.path for file in compiled_files(root)} == set(ours)
    assert clear(root) == (3, 0)
    assert foreign.exists()
    assert (root / ("2c" * 12)).is_symlink()
    assert (ours[0].parent / "linked.bin").is_symlink()


def test_clearing_nothing(tmp_path: Path) -> None:
    """A cache that does not exist is empty."""
    assert clear(None) == clear(tmp_path / "missing") == (0, 0)


def test_compiled_code_is_listed(tmp_path: Path) -> None:
    """A kernel that another process compiled is seen by info, and gone after clear."""
    code = "import numpy as np, numbaconv as nc; nc.conv1d(np.ones((1, 1, 5)), np.ones((1, 1, 3)), method='direct')"
    environment = {**os.environ, "NUMBACONV_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[1], check=True, timeout=120)
    assert "direct_fprop-pool-" in run("info", NUMBACONV_CACHE_DIR=str(tmp_path)).stdout
    assert run("cache", "--clear", NUMBACONV_CACHE_DIR=str(tmp_path)).returncode == 0
    assert "nothing yet" in run("info", NUMBACONV_CACHE_DIR=str(tmp_path)).stdout


def test_warmup_covers_every_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    """Each algorithm of the CPU room and both dtypes are named, with the gradients."""
    from numbaconv import plan

    assert main(["warmup"]) == 0
    printed = capsys.readouterr().out
    kinds = ("float32", "float64", "forward, grad_input, grad_weight, grad_bias")
    for word in (*plan.room("cpu"), "StreamingConvolver", "conv2d_grad_weight in nopython code", *kinds):
        assert word in printed


def test_info_says_whether_the_estimates_are_tuned(tmp_path: Path) -> None:
    """Coefficients in the cache are named with their day, and go with it."""
    environment = {"NUMBACONV_CACHE_DIR": str(tmp_path)}
    assert "as shipped" in run("info", **environment).stdout
    code = "from numbaconv import plan, tuning; print(tuning.keep({n: a.SECONDS for n, a in plan.room('cpu').items()}))"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, cwd=Path(__file__).parents[1], check=True, timeout=120)
    printed = run("info", **environment).stdout
    assert "tuned on this machine, 20" in printed and "nothing yet" in printed
    assert "1 deleted" in run("cache", "--clear", **environment).stdout
    assert "as shipped" in run("info", **environment).stdout


@pytest.mark.parametrize("bar", [True, False])
def test_tuning_says_what_it_found(bar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With tqdm and without; one thread; only what chooses no worse is kept."""
    from numbaconv import __main__, tuning

    seconds = {"gemm": {"call": 1e-5}}
    if not bar:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    for losses in ([1.0, 1.1], [1.2, 1.3]):

        def tune(room: object, show: object, losses: list[float] = losses) -> tuning.Report:
            assert nc.get_num_threads() == 1
            for i in range(20):
                show(i, 20, "fprop float32")  # type: ignore[operator]
            return tuning.Report(seconds, {"gemm": [1.5], "direct": []}, [1.2, 1.1], losses)

        kept: list[object] = []
        monkeypatch.setattr(tuning, "tune", tune)
        monkeypatch.setattr(tuning, "keep", lambda found, kept=kept: kept.append(found) or tmp_path)
        assert __main__.measure() == 0
        printed = capsys.readouterr()
        assert "factor of 1.50" in printed.out and "mean of 2 cases" in printed.out
        assert ("18 of 20 fprop float32" in printed.out) is not bar
        assert kept == ([seconds] if losses[0] == 1.0 else [])
        assert ("stay" in printed.out) is (losses[0] != 1.0)


def test_tuning_that_timed_nothing_keeps_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a machine so slow that the time was over before it began."""
    from numbaconv import __main__, tuning

    monkeypatch.setattr(tuning, "tune", lambda room, show: tuning.Report({}, {"gemm": []}, [], []))
    monkeypatch.setattr(tuning, "keep", lambda seconds: pytest.fail("kept"))
    assert __main__.measure() == 1
    assert "nothing was kept" in capsys.readouterr().out


def test_bench_prints_a_table_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each case, peers where they are installed, the geometric mean and the picture."""
    pytest.importorskip("matplotlib")
    assert main(["bench", "--match", "image 512², 5×5", "--seconds", "0", "--plot", str(tmp_path / "a.svg")]) == 0
    printed = capsys.readouterr().out
    assert "image 512², 5×5, forward" in printed and "image 512², 5×5, grad_input" in printed and "geometric mean" in printed
    assert "SciPy" in printed and " ms" in printed
    assert (tmp_path / "a.svg").stat().st_size > 1000


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bench_compares_the_same(dtype: str) -> None:
    """Every case in every peer; what differs is an error."""
    from numbaconv import bench

    for case in bench.CASES:
        row = bench.time_case(case, dtype, 0.0)
        assert row.times["numbaconv"] > 0 and row.name.endswith(case.op)


def test_bench_notices_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of results that differ are not compared."""
    from numbaconv import bench

    monkeypatch.setitem(bench.PEERS, "wrong", lambda case, x, w, dy: lambda: bench.ours(case, x, w, dy)() + 1)
    with pytest.raises(RuntimeError, match="numbaconv and wrong differ"):
        bench.time_case(bench.CASES[0], "float32", 0.0)


def test_bench_refuses_a_plot_that_it_could_not_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any time is spent."""
    assert main(["bench", "--plot", str(tmp_path / "missing" / "a.png")]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["bogus"], ["bench", "--threads", "0"], ["demo", "--epochs", "0"], ["demo", "--seed", "-1"], ["demo", "--seed", "4294967296"]]
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Argparse's status 2 and a line on stderr."""
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_terminal_of_ascii_still_shows_minus_signs() -> None:
    """What the terminal cannot show is written in letters that it can."""
    code = "from numbaconv.__main__ import main; from numbaconv.demo import textbook; main(['cache']); textbook.show()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, cwd=Path(__file__).parents[1],
        capture_output=True, encoding="ascii", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0*1 + 1*0 + 2*(-1)     = 0 + 0 - 2 = -2" in done.stdout
    assert "dL/dx[6] = w[2]               = -1" in done.stdout
    assert "?" not in done.stdout


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what to install; nothing is created."""
    for module in ("pywt", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "PyWavelets" in captured.err
    assert "matplotlib" in captured.err
    assert 'pip install "numbaconv[demo]"' in captured.err
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The error comes before any work and names the folder."""
    from numbaconv import demo

    monkeypatch.setattr(demo, "require_extras", lambda pictures: None)
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "sub"):
        assert main(["demo", "--output", str(output)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert str(output) in captured.err
        assert "--output" in captured.err
