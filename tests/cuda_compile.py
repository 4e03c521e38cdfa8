"""Compile every kernel of the CUDA room for one compute capability (python cuda_compile.py 90) and print, as JSON, what came out."""

from __future__ import annotations

import collections
import gc
import hashlib
import importlib
import json
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any


def tool(name: str) -> str:
    import nvidia

    return str(next(Path(next(iter(nvidia.__path__))).rglob(f"bin/{name}")))


def look_at(kernel: Any, capability: int, folder: Path) -> dict[str, Any]:
    """Compile one kernel; return its registers, its stack and how often each instruction stands in it."""
    from numbaconv.cuda import _binaries

    source, binary = folder / "kernel.ptx", folder / "kernel.cubin"
    ptx, file = kernel.ptx(divmod(capability, 10)), _binaries._file(kernel, divmod(capability, 10))
    source.write_text(ptx)
    done = subprocess.run(
        [tool("ptxas"), f"-arch=sm_{capability}{'a' if kernel.only else ''}", "-v", source, "-o", binary], capture_output=True, text=True, check=True
    )
    lines = subprocess.run([tool("nvdisasm"), "-c", binary], capture_output=True, text=True, check=True).stdout
    counts = collections.Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)", lines, re.M))
    return {
        "resources": " ".join(re.findall(r"\d+ bytes stack.*|Used .*", done.stderr)),
        "registers": int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        "stack": int(re.search(r"(\d+) bytes stack", done.stderr)[1]),
        "threads": kernel.threads,
        "tables": sum(map(int, re.findall(r"\.shared \.align \d+ \.b8 \S+\[(\d+)\];", ptx))),
        "file": file.name if file else "",
        "code": hashlib.sha256(re.sub(r"\d+", "", ptx).encode()).hexdigest(),
        "counts": counts,
    }


def for_capability(capability: int) -> None:
    """Make functions that kernels call for that: they are compiled for the current device, which there is none of."""
    import numba.cuda.dispatcher

    device = types.SimpleNamespace(compute_capability=divmod(capability, 10))
    numba.cuda.dispatcher.get_current_device = lambda: device


def main(capability: int) -> None:
    """Go through the room's table."""
    gc.set_threshold(50_000, 20, 20)  # most of what is made stays
    for_capability(capability)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        modules = [*importlib.import_module("numbaconv.cuda").ALGORITHMS.values(), importlib.import_module("numbaconv.cuda.bias")]
        for module in modules:
            for name, kernel in module.kernels():
                if kernel.only not in (None, divmod(capability, 10)):
                    continue
                found[name] = look_at(kernel, capability, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
