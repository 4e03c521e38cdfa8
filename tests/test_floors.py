"""Imports run only downward: every file of the library has a floor, and a new one must be given its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import numbaconv

ROOT = Path(numbaconv.__file__).parent
# A file imports from lower floors alone, and within its own folder if it is one of those. Folders stand for all their files.
FLOORS = {
    "memory": 0, "_callee": 0, "_share": 0, "_kept": 0,
    "_extension": 1, "problem": 1, "arrays": 1, "_jit": 1, "_docs": 1,
    "reference": 2, "tuning": 2,
    "cpu": 3, "cuda": 3,
    "plan": 4,
    "recipe": 5, "correlation": 5,
    "functional": 6, "boundary": 6,
    "separable": 7,
    "nn": 8, "signal": 8, "ndimage": 8,
    "nopython": 9, "jit": 9,
    "demo": 10, "bench": 10,
    "__main__": 11,
}  # fmt: skip
FOLDERS = {"cpu", "cuda", "nn", "signal", "ndimage", "nopython", "demo"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def unit(module: str) -> str:
    """numbaconv.cpu.direct -> cpu, numbaconv.plan -> plan."""
    return module.split(".")[1] if "." in module else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every module of the library that a file imports, wherever in the file, and whether it is for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test) for node in ast.walk(block)
    }
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base]))
            names = [f"{base}.{alias.name}" for alias in node.names] if base in ("numbaconv", package) else [base]
        yield from ((name, node in typing_only) for name in names)


def test_every_file_has_a_floor():
    for path in FILES:
        name = unit(module_of(path))
        assert name in FLOORS, f"{path.name} is new: give it a floor in tests/test_floors.py"
        assert (len(path.relative_to(ROOT).parts) > 1) == (name in FOLDERS), f"{path} is where no file of its kind belongs"


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path))
def test_imports_run_downward(path):
    here = unit(module_of(path))
    for target, typing_only in imports(path):
        if target != "numbaconv" and not target.startswith("numbaconv."):
            continue
        if target == "numbaconv" or not unit(target) or unit(target) == "__version__":
            assert FLOORS[here] >= FLOORS["jit"] or typing_only, f"{path} imports the whole library from below its top"
            continue
        other = unit(target)
        if other == here and here in FOLDERS:
            continue
        assert other in FLOORS, f"{path} imports {target}, which has no floor"
        assert FLOORS[other] < FLOORS[here], f"{path} (floor {FLOORS[here]}) imports {target} (floor {FLOORS[other]})"


def test_rooms_do_not_import_each_other():
    assert FLOORS["cpu"] == FLOORS["cuda"] and FLOORS["nn"] == FLOORS["signal"] == FLOORS["ndimage"]


def test_only_one_place_compiles():
    for path in FILES:
        if module_of(path) == "numbaconv._jit" or unit(module_of(path)) in ("nopython", "cuda"):
            continue
        called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)}
        assert not called & {"njit", "numba.njit", "jit", "numba.jit"}, f"{path} calls njit: kernels go through _jit"


def test_the_package_itself_imports_nothing_but_the_standard_library():
    for target, typing_only in imports(ROOT / "__init__.py"):
        assert typing_only or target.split(".")[0] in sys.stdlib_module_names, target


def test_importing_loads_neither_numba_nor_numpy():
    code = (
        "import sys, numbaconv; "
        "print([m for m in ('numba', 'numpy', 'scipy', 'llvmlite') if m in sys.modules], 'conv2d' in dir(numbaconv), numbaconv.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT.parent, check=True)
    assert done.stdout.startswith("[] True"), done.stdout + done.stderr


def test_every_public_name_can_be_had():
    for name in numbaconv.__all__:
        try:
            assert getattr(numbaconv, name) is not None
        except ModuleNotFoundError:
            pytest.fail(f"numbaconv.{name} is promised, but its module is missing")
    with pytest.raises(AttributeError, match="no attribute 'conv4d'"):
        numbaconv.conv4d  # noqa: B018
