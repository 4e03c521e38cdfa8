"""The compile gate: machine code of every CUDA kernel, made without a GPU, and what it must look like.

It needs the packages of the extra ``gate`` (numba-cuda, ptxas and nvdisasm); they are not there in most environments, hence the skip.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = ("numba_cuda", "nvidia")
MAIN = "gemm 128×128"


@pytest.fixture(scope="module", params=(80, 90))
def code(request):
    """Compile in a process of its own: this one has the simulator. Returns what was found, by kernel."""
    if not all(importlib.util.find_spec(name) for name in NEEDED):
        pytest.skip("needs pip install '.[gate]'")
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, str(Path(__file__).with_name("cuda_compile.py")), str(request.param)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_kernel_compiles_without_stack_or_spills(code):
    bad = {name: found["resources"] for name, found in code.items() if found["stack"]}
    assert not bad, bad


def test_the_main_tiles_are_what_the_design_asks_for(code):
    main = {name: found for name, found in code.items() if name.startswith(MAIN)}
    assert main
    for name, found in main.items():
        assert found["registers"] <= 128 and found["threads"] == 256, name
        assert found["counts"].get("FFMA", 0) >= 512, name
        assert found["counts"].get("LDS.128", 0) >= 32, name


def test_tensor_cores_are_used_and_fed_by_asynchronous_copies(code):
    tensor = {name: found for name, found in code.items() if name.startswith("tensor") and ("×" in name or "partial" in name)}
    assert tensor
    for name, found in tensor.items():
        kinds = {kind: sum(n for op, n in found["counts"].items() if op.startswith(kind)) for kind in ("HMMA", "LDGSTS", "LDSM")}
        assert kinds["HMMA"] >= 16 and kinds["LDGSTS"] >= 1 and kinds["LDSM"] >= 4, (name, kinds)
        crowded = "bf16" in name and "×64" in name and "any channels" in name  # their bound is 168: see _tensor.kernel
        assert found["registers"] <= (168 if crowded else 128), (name, found["registers"])


def test_winograd_s_transforms_stay_small(code):
    found = {name: kernel["registers"] for name, kernel in code.items() if name.startswith("winograd")}
    assert found and max(found.values()) <= 64, found
