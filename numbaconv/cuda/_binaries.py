"""Machine code of kernels, kept in the library's cache folder: one file for each kernel, what it freezes, its sources and an architecture."""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numba

from numbaconv import _jit
from numbaconv.cuda._backend import Kernel

ENTRY = re.compile(r"\.visible \.entry (\w+)")


def load(kernel: Kernel, capability: tuple[int, int]) -> Any:
    """Return a kernel as `cuda.core.launch` takes it, from its file or compiled now."""
    from cuda.core import ObjectCode

    name, code = binary(kernel, capability)
    return ObjectCode.from_cubin(code, name=name).get_kernel(name)


def binary(kernel: Kernel, capability: tuple[int, int]) -> tuple[str, bytes]:
    """Return the kernel's name and its machine code; whatever is wrong with its file, it is compiled again."""
    file = _file(kernel, capability)
    if file and (kept := _jit.read_verified(file)):
        entry, _, machine_code = kept.partition(b"\0")
        return entry.decode(), machine_code
    name, code = _compiled(kernel, capability)
    if file:
        try:
            _jit.write_verified(file, name.encode() + b"\0" + code)
        except OSError:
            pass
    return name, code


def _compiled(kernel: Kernel, capability: tuple[int, int]) -> tuple[str, bytes]:
    from cuda.core import Linker, LinkerOptions, ObjectCode

    ptx = kernel.ptx(capability)
    found = ENTRY.search(ptx)
    assert found is not None
    arch = f"sm_{capability[0]}{capability[1]}{'a' if kernel.only else ''}"
    linker = Linker(ObjectCode.from_ptx(ptx.encode(), name=found[1]), options=LinkerOptions(arch=arch))
    return found[1], bytes(linker.link("cubin").code)


def _file(kernel: Kernel, capability: tuple[int, int]) -> Path | None:
    folder = _jit.folder_of(("cuda", *_versions(), repr(capability)))
    key = (described(kernel.function), str(kernel.signature()), kernel.bounds, kernel.shared)
    return folder and folder / f"{kernel.function.__name__}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.bin"


@functools.cache
def _versions() -> tuple[str, ...]:
    """Return what else the code depends on: the sources of the room, and the compilers."""
    sources = b"\0".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    packages = [metadata.version(name) for name in ("numba-cuda", "cuda-core", "cuda-bindings")]
    return (hashlib.sha256(sources).hexdigest(), numba.__version__, *packages)


def described(value: Any) -> Any:
    """Return what a kernel, or a function that it calls, freezes, so that equal descriptions mean equal code."""
    function = getattr(value, "py_func", getattr(value, "_defn", value))  # of what `device` makes, and of an intrinsic
    if not hasattr(function, "__code__"):
        return repr(value)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return function.__module__, function.__qualname__, [(name, described(cell.cell_contents)) for name, cell in cells]
