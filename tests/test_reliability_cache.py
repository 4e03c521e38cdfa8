"""The cache of compiled code: used, never stale, never trusted blindly, never the cause of an error."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import numpy as np, numbaconv as nc
from numbaconv.cpu import bias, direct
y, kernel = {}
print(y.ravel().tolist(), sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""
# Each calls an activation: a kernel beside it, which compiles in a moment, and one in another file.
BESIDE = SCRIPT.format('bias.activated(np.array([-1, 1, -1], "f"), "leaky_relu"), bias._each.pooled')
ELSEWHERE = SCRIPT.format(
    'nc.conv1d(np.array([[[1, -2, 3, -4]]], "f"), np.array([[[1, 1]]], "f"), activation="leaky_relu", method="direct"), direct._fprop.pooled'
)
RESULT = [float.fromhex("-0x1.47ae14p-7"), 1.0, float.fromhex("-0x1.47ae14p-7")]


def compute(cache: Path | str, parent: Path = ROOT, before: str = "", script: str = BESIDE, **environment: str) -> tuple[list[float], int, int]:
    """Run a script in a process of its own; return its result, its cache hits and its misses."""
    variables = {**os.environ, "NUMBACONV_CACHE_DIR": str(cache), "PYTHONPATH": str(parent), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run([sys.executable, "-W", "error", "-c", before + script], env=variables, capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    values, hits, misses = done.stdout.strip().rsplit(" ", 2)
    return eval(values), int(hits), int(misses)


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.bin"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    assert compute(folder) == (RESULT, 0, 1)
    return folder


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "cache"))


def test_a_second_process_loads_what_the_first_compiled(cache: Path) -> None:
    assert files(cache)
    assert compute(cache) == (RESULT, 1, 0)


def test_files_are_for_the_owner_alone(cache: Path) -> None:
    for path in [*files(cache), *(p.parent for p in files(cache))]:
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "garbage", "folder"])
def test_a_damaged_file_is_compiled_again_and_replaced(damage: str, cache: Path) -> None:
    for path in files(cache):
        content = path.read_bytes()
        if damage == "folder":
            path.unlink()
            path.mkdir()
            continue
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        changed = {"truncated": content[: len(content) // 2], "empty": b"", "flipped": bytes(flipped), "garbage": os.urandom(1000)}
        path.write_bytes(changed[damage])
    assert compute(cache) == (RESULT, 0, 1)
    if damage != "folder":
        assert compute(cache) == (RESULT, 1, 0)


class _Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


def _with_trap(path: Path, marker: Path) -> None:
    """Replace a cache file by a well-formed one that makes a folder when it is unpickled."""
    magic = path.read_bytes()[:18]
    assert magic == b"numbaconv-cache-1\n"
    payload = pickle.dumps(_Trap(marker))
    path.write_bytes(magic + hashlib.sha256(payload).digest() + payload)


def test_the_trap_works_where_files_are_ours(cache: Path, tmp_path: Path) -> None:
    # So that the next two tests can fail: this file is trusted, and what it holds merely isn't compiled code.
    for path in files(cache):
        _with_trap(path, tmp_path / "sprung")
    assert compute(cache) == (RESULT, 0, 1)
    assert (tmp_path / "sprung").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("who", ["file others can write", "file of another owner", "folder others can write", "cache others can write"])
def test_what_others_could_have_written_is_not_unpickled(who: str, cache: Path, tmp_path: Path) -> None:
    if who == "file of another owner" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in files(cache):
        _with_trap(path, tmp_path / "sprung")
        if who == "file others can write":
            path.chmod(0o666)
        elif who == "file of another owner":
            os.chown(path, 12345, 12345)
        elif who == "folder others can write":
            path.parent.chmod(0o777)
    if who == "cache others can write":
        cache.chmod(0o777)
    value, hits, misses = compute(cache, TMPDIR=str(tmp_path))
    assert (value, hits, misses) == (RESULT, 0, 1)
    assert not (tmp_path / "sprung").exists()


def test_two_versions_of_a_kernel_source_share_a_folder(tmp_path: Path) -> None:
    # The change is in a callee, in another file than the kernel: Numba's own cache would return the old code.
    versions = []
    for name in ("old", "new"):
        shutil.copytree(ROOT / "numbaconv", tmp_path / name / "numbaconv", ignore=shutil.ignore_patterns("__pycache__"))
        versions.append(tmp_path / name)
    source = versions[1] / "numbaconv" / "cpu" / "bias.py"
    changed = source.read_text().replace("dtype.type(0.01)", "dtype.type(0.5)")
    assert changed != source.read_text()
    source.write_text(changed)
    shared = tmp_path / "shared"
    for hits in (0, 1):
        assert compute(shared, versions[0], script=ELSEWHERE) == (RESULT, hits, 1 - hits)
        assert compute(shared, versions[1], script=ELSEWHERE) == ([-0.5, 1.0, -0.5], hits, 1 - hits)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="uses /proc as a place where nobody, root included, can write")
def test_nothing_can_be_written_anywhere(tmp_path: Path) -> None:
    """A read-only site-packages, HOME and temporary folder."""
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "numbaconv", site / "numbaconv", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = sorted(site.rglob("*"))
    no_temporary_folder = "import tempfile; tempfile.tempdir = '/proc'\n"
    for cache in ("", "/proc/none"):
        assert compute(cache, site, no_temporary_folder, HOME="/proc", XDG_CACHE_HOME="")[0] == RESULT
    assert sorted(site.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="uses /proc as a place where nobody, root included, can write")
def test_an_unwritable_home_falls_back_to_the_temporary_folder(tmp_path: Path) -> None:
    assert compute("", HOME="/proc", XDG_CACHE_HOME="", TMPDIR=str(tmp_path)) == (RESULT, 0, 1)
    assert len(files(tmp_path)) == 1
    assert compute("", HOME="/proc", XDG_CACHE_HOME="", TMPDIR=str(tmp_path)) == (RESULT, 1, 0)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk(tmp_path: Path) -> None:
    # No file may grow beyond 4 KiB: every write of compiled code fails halfway.
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    assert compute(tmp_path, before=full) == (RESULT, 0, 1)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_without_numbas_private_cache_hook(tmp_path: Path) -> None:
    # The canary: should Numba rename what _jit relies on, kernels compile in every process and nothing else changes.
    hidden = "import numba.core.compiler as c\nc.CompileResult._rebuild = c.CompileResult._reduce = None\n"
    assert compute(tmp_path, before=hidden) == (RESULT, 0, 1)


def test_kernels_of_two_processes_share_no_symbols(tmp_path: Path) -> None:
    # Numba counts functions from 1 in every process: two that compile other kernels would give their functions the same names.
    script = """
import numpy as np, numbaconv as nc
rng = np.random.default_rng(0)
for kind in {kinds}:
    if kind == "one":
        x, w = rng.standard_normal((2, 6, 3), dtype=np.float32), rng.standard_normal((10, 3, 1), dtype=np.float32)
        found, expected = nc.conv1d(x, w, layout="NWC", method="stencil"), x @ w[:, :, 0].T
    else:
        x, w = rng.standard_normal((1, 1, 18, 1), dtype=np.float32), rng.standard_normal((1, 1, 4, 1), dtype=np.float32)
        found = nc.conv2d(x, w, padding=((2, 3), (0, 0)), stride=(2, 1), dilation=(2, 1), method="stencil")
        padded = np.pad(x[0, 0, :, 0], (2, 3))
        expected = sum(w[0, 0, tap, 0] * padded[2 * tap : 2 * tap + 17 : 2] for tap in range(4)).reshape(1, 1, 9, 1)
    assert np.allclose(found, expected, atol=1e-4), kind
"""
    variables = {**os.environ, "NUMBACONV_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for kinds in (("one",), ("other",), ("one", "other")):
        done = subprocess.run([sys.executable, "-c", script.format(kinds=kinds)], env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
