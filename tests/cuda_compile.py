"""Compile every kernel of the CUDA room for one compute capability (python cuda_compile.py 90) and print, as JSON, what came out."""

from __future__ import annotations

import collections
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
    from numba import cuda

    options = {"device": False, "abi": "numba", "cc": divmod(capability, 10), "output": "ptx", "launch_bounds": kernel.bounds}
    ptx, _ = cuda.compile(kernel.function, kernel.signature(), **options)
    source, binary = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(ptx)
    done = subprocess.run([tool("ptxas"), f"-arch=sm_{capability}", "-v", source, "-o", binary], capture_output=True, text=True, check=True)
    lines = subprocess.run([tool("nvdisasm"), "-c", binary], capture_output=True, text=True, check=True).stdout
    counts = collections.Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)", lines, re.M))
    return {
        "resources": " ".join(re.findall(r"\d+ bytes stack.*|Used .*", done.stderr)),
        "registers": int(re.search(r"Used (\d+) registers", done.stderr)[1]),
        "stack": int(re.search(r"(\d+) bytes stack", done.stderr)[1]),
        "threads": kernel.threads,
        "counts": counts,
    }


def main(capability: int) -> None:
    """Go through the room's table."""
    import numba.cuda.dispatcher

    # Functions that kernels call are compiled for the current device, which there is none of.
    device = types.SimpleNamespace(compute_capability=divmod(capability, 10))
    numba.cuda.dispatcher.get_current_device = lambda: device
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in importlib.import_module("numbaconv.cuda").ALGORITHMS.values():
            for name, kernel in algorithm.kernels():
                found[name] = look_at(kernel, capability, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
