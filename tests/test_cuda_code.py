"""The compile gate: machine code of every CUDA kernel, made without a GPU, and what it must look like.

It needs the packages of the extra ``gate`` (numba-cuda, ptxas and nvdisasm); they are not there in most environments, hence the skip.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CAPABILITIES = (80, 90)
MAIN = "gemm 128×128"
COMPILE = Path(__file__).with_name("cuda_compile.py")

# A second process finds the machine code of the first; another variant of the kernel has a file of its own.
KEPT = """
import numpy as np
from cuda_compile import for_capability
for_capability(90)
from numbaconv.cuda import _binaries, _store
made = _binaries._compiled
compiled = []
_binaries._compiled = lambda *arguments: compiled.append(1) or made(*arguments)
name, code = _binaries.binary(_store.finish("relu", np.dtype("float32")), (9, 0))
assert "finish_pieces" in name and code[:4] == b"\\x7fELF", name
print(len(compiled))
"""


def needs_the_compilers():
    spec = importlib.util.find_spec("nvidia")
    tools = [found for folder in (spec and spec.submodule_search_locations) or () for found in Path(folder).rglob("bin/*")]
    if not importlib.util.find_spec("numba_cuda") or not {"ptxas", "nvdisasm"} <= {tool.stem for tool in tools}:
        pytest.skip("needs pip install '.[gate]'")


def in_a_process(*arguments, **variables):
    """Run Python without the simulator, which this process has."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"} | variables
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=1800, env=environment, cwd=COMPILE.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@functools.cache
def compiled():
    """Compile everything for both architectures, side by side; return what was found, by architecture and kernel."""
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda capability: json.loads(in_a_process(str(COMPILE), str(capability))), CAPABILITIES)
        return dict(zip(CAPABILITIES, made, strict=True))


@pytest.fixture(params=CAPABILITIES)
def code(request):
    """Return what was found in the machine code, by kernel."""
    needs_the_compilers()
    return compiled()[request.param]


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


def test_kernels_that_share_a_file_are_the_same(code):
    files = collections.defaultdict(set)
    for found in code.values():
        files[found["file"]].add(found["code"])
    assert all(len(made) == 1 for made in files.values()), files


def test_machine_code_is_kept_for_later_processes(tmp_path):
    needs_the_compilers()
    compiled = [in_a_process("-c", KEPT, NUMBACONV_CACHE_DIR=str(tmp_path)).strip() for _ in range(2)]
    assert compiled == ["1", "0"]
    (file,) = tmp_path.glob("*/finish_pieces-*.bin")
    file.write_bytes(file.read_bytes()[:-1])
    assert in_a_process("-c", KEPT, NUMBACONV_CACHE_DIR=str(tmp_path)).strip() == "1"


def test_stencils_load_and_store_16_bytes_at_once(code):
    for size in (3, 5, 7):
        for layout, outputs in (("NCHW", 16), ("NHWC", 32)):
            counts = code[f"stencil {layout} {size}×{size} stride 1"]["counts"]
            assert counts["FFMA"] >= size * size * outputs
            assert all(counts.get(name, 0) >= 4 for name in ("LDG.E.128", "LDS.128", "STG.E.128")), counts


def test_tensor_cores_are_used_and_fed_by_asynchronous_copies(code):
    tensor = {name: found for name, found in code.items() if name.startswith("tensor") and ("×" in name or "partial" in name)}
    assert tensor
    for name, found in tensor.items():
        kinds = {kind: sum(n for op, n in found["counts"].items() if op.startswith(kind)) for kind in ("HMMA", "LDGSTS", "LDSM")}
        assert kinds["HMMA"] >= 16 and kinds["LDGSTS"] >= 1 and kinds["LDSM"] >= 4, (name, kinds)
        crowded = "bf16" in name and "×64" in name and "any channels" in name  # their bound is 168: see _tensor.kernel
        assert found["registers"] <= (168 if crowded else 128), (name, found["registers"])


def test_hopper_s_tensor_cores_multiply_from_shared_memory():
    needs_the_compilers()
    products = {name: found for name, found in compiled()[90].items() if name.startswith("wgmma") and ("×" in name or "volume" in name)}
    assert len(products) >= 2 * 2 * 5 + 5 + 4
    for name, found in products.items():
        kinds = {kind: sum(n for op, n in found["counts"].items() if op.startswith(kind)) for kind in ("HGMMA", "LDGSTS", "STG")}
        assert kinds["HGMMA"] >= 2 and kinds["LDGSTS"] >= 6, (name, kinds)
        assert found["registers"] <= (80 if "3 at once" in name else 128) and found["threads"] == 256, (name, found["registers"])
        assert "wgrad" in name or "volume" in name or any("128" in op for op in found["counts"] if op.startswith("STG")), name
        assert found["tables"] and found["tables"] % 1024 == 0, name  # what is multiplied lies behind them, and has to be aligned
    assert not products.keys() & compiled()[80].keys()


def test_winograd_s_transforms_stay_small(code):
    found = {name: kernel["registers"] for name, kernel in code.items() if name.startswith("winograd")}
    assert found and max(found.values()) <= 64, found
