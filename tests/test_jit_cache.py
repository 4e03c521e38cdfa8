"""What nopython code costs those who do not use it, and that no kept code outlives the sources that it came from."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import numbaconv
from numbaconv import _extension

PACKAGE = Path(numbaconv.__file__).parent
USERS = """
import sys
import numba
import numpy as np
import scipy.signal
import numbaconv.jit

@numba.njit(cache=True)
def inner(x, h):
    return scipy.signal.convolve(x, h, "valid", "direct")

@numba.njit(cache=True)
def smooth(x, h):
    return inner(x, h)

@numba.njit(cache=True, parallel=True)
def all_of(xs, h):
    out = np.empty_like(xs)
    for i in numba.prange(len(xs)):
        out[i] = scipy.signal.convolve(xs[i], h, "same", "direct")
    return out

h = np.array([1.0, 2.0])
print(smooth(np.arange(3.0), h).tolist(), all_of(np.ones((2, 3)), h).tolist())
print([sum(f.stats.cache_hits.values()) for f in (smooth, all_of)])
"""


def run(code: str | Path, folder: Path, **environment: str) -> list[str]:
    arguments = [str(code)] if isinstance(code, Path) else ["-c", code]
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_kept_function_does_not_outlive_the_sources(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "numbaconv", ignore=shutil.ignore_patterns("__pycache__"))
    program = tmp_path / "users.py"
    program.write_text(USERS)
    options: dict[str, Any] = {"NUMBACONV_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    old = ["[1.0, 4.0] [[1.0, 3.0, 3.0], [1.0, 3.0, 3.0]]"]
    assert run(program, tmp_path, **options) == [*old, "[0, 0]"]
    assert run(program, tmp_path, **options) == [*old, "[1, 1]"]
    shutil.rmtree(tmp_path / "cache")  # the kernels are compiled again, and the functions still call them
    assert run(program, tmp_path, **options) == [*old, "[1, 1]"]
    source = tmp_path / "numbaconv" / "nopython" / "_direct.py"
    changed = source.read_text().replace("+= value * x[", "+= 10 * value * x[")
    assert changed != source.read_text()
    source.write_text(changed)
    new = ["[10.0, 40.0] [[10.0, 30.0, 30.0], [10.0, 30.0, 30.0]]"]
    assert run(program, tmp_path, **options) == [*new, "[0, 0]"]
    assert run(program, tmp_path, **options) == [*new, "[1, 1]"]


COSTS = """
import sys
import numba
{imports}
import numpy as np
before = set(sys.modules)
from numbaconv._extension import register
register()
numba.njit(lambda x: x + 1)(1.0)
print([n for n in set(sys.modules) - before if n.startswith(("scipy.signal", "scipy.ndimage", "numbaconv.")) and n != "numbaconv._extension"])
from scipy.signal import convolve
print(numba.njit(lambda x: convolve(x, x, "full", "direct"))(np.ones(2)).tolist())
"""


@pytest.mark.parametrize("imports", ["", "import scipy.signal, scipy.ndimage"])
def test_who_does_not_use_it_pays_nothing(imports):
    assert run(COSTS.format(imports=imports), PACKAGE.parent) == ["[]", "[1.0, 2.0, 1.0]"]


def test_the_entry_point_is_the_one_of_the_project_file():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (value,) = project["entry-points"]["numba_extensions"].values()
    assert EntryPoint("init", value, "numba_extensions").load() is _extension.register


def test_what_is_promised_is_what_is_compiled():
    areas = {name.partition(".")[2]: parts for name, parts in _extension.WATCHED.items() if name.startswith("scipy.")}
    for parts in areas.values():
        for part in parts:
            importlib.import_module(f"numbaconv.nopython.{part}")
    promised = {(area, name) for area, parts in areas.items() for names in parts.values() for name in names.split()}
    assert promised == set(importlib.import_module("numbaconv.nopython._compile").CHOICES)


def test_the_first_call_refuses_arguments_as_later_ones_do():
    lines = run(REFUSED, PACKAGE.parent)
    assert len(set(lines)) == 1 and "unexpected keyword argument 'modus'" in lines[0], lines


REFUSED = """
import numba
import numpy as np
import scipy.signal
from numbaconv._extension import register
register()
for _ in range(2):
    try:
        numba.njit(lambda x: scipy.signal.convolve(x, x, modus="full"))(np.ones(3))
    except numba.TypingError as error:
        print(*[line.strip() for line in str(error).splitlines() if "modus" in line and "lambda" not in line])
"""

BROKEN = """
import warnings
from numbaconv import _extension
_extension.WATCHED["wave"] = {"_what_is_not_there": ""}
_extension.register()
with warnings.catch_warnings(record=True) as caught:
    import wave
print(wave.open is not None, [str(w.message)[:65] for w in caught if w.category is RuntimeWarning])
"""


def test_an_import_does_not_fail_by_what_is_added_to_it():
    assert run(BROKEN, PACKAGE.parent) == ["True ['numbaconv cannot make wave callable in nopython code: ModuleNotFo']"]


LAZY = """
import numba
import numpy as np
import numbaconv as nc
import numbaconv.jit
print(numba.njit(lambda x: nc.conv1d(x, x))(np.ones((1, 1, 4))).tolist())
"""


def test_a_module_may_be_imported_while_numba_looks_a_function_up():
    assert run(LAZY, PACKAGE.parent) == ["[[[4.0]]]"]


OWN = """
import sys
import numba
import numpy as np
import numbaconv as nc
from numbaconv import signal
from numbaconv._extension import register
register()
x = np.arange(4.0)
signal.convolve(x, x), nc.conv1d(x.reshape(1, 1, -1), x.reshape(1, 1, -1))
print([n for n in sys.modules if n.startswith(("scipy.signal", "numbaconv.jit", "numbaconv.nopython"))])
import numbaconv.jit
from numbaconv import ndimage
print(numba.njit(lambda x: signal.convolve(x, x, "valid", "direct"))(x).tolist())
print(numba.njit(lambda x: ndimage.correlate1d(x, np.ones(1)))(x).tolist())
print(numba.njit(lambda x: nc.conv1d(x, x))(x.reshape(1, 1, -1)).tolist())
"""


def test_the_librarys_own_functions_wait_for_the_import_of_jit():
    assert run(OWN, PACKAGE.parent) == ["[]", "[4.0]", "[0.0, 1.0, 2.0, 3.0]", "[[[14.0]]]"]
