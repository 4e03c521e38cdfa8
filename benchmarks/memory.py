"""asv: peak memory of a process that computes one layer, and the workspace that an algorithm asks for.

``python -m benchmarks.memory --samples 100000000`` prints what overlap-add needs besides a long signal in a file and its result.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np

from benchmarks.cases import OPS, by_size, random
from benchmarks.layers import METHODS
from benchmarks.networks import MIXED
from benchmarks.signals import module

NAMES = [name for name in by_size(MIXED) if name.startswith(("smallest", "resnet50", "vgg16", "r3d18", "image"))]

CHUNK = 10**6  # samples written at a time


class Peak:
    """Peak resident memory of the process: Python, NumPy and Numba (which the smallest case shows) and the call."""

    params = (NAMES, OPS)
    param_names = ("layer", "op")

    def setup(self, layer: str, op: str) -> None:
        """Make the inputs; compiling is part of the peak in the first run alone, after which the cache has it."""
        self.operands, self.function = MIXED[layer].operands(op), MIXED[layer].bound(op)

    def peakmem_layer(self, *params: str) -> None:
        """Call once."""
        self.function(*self.operands)


class Workspace:
    """What an algorithm will allocate besides its output, which is known before anything is."""

    params = (NAMES, OPS, METHODS)
    param_names = ("layer", "op", "method")

    def setup(self, name: str, op: str, method: str) -> None:
        """Plan; a NotImplementedError means that the method cannot do the problem."""
        self.bytes = MIXED[name].plan(op, method=method).workspace

    def track_workspace(self, *params: str) -> int:
        """Return the bytes."""
        return self.bytes

    track_workspace.unit = "bytes"  # type: ignore[attr-defined]


def main(arguments: list[str] | None = None) -> None:
    """Print how far ``signal.oaconvolve`` of a mapped file into ``out`` raises the peak memory of the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="memory of oaconvolve, float32, mode same")
    parser.add_argument("--samples", type=int, required=True, help="10⁸ take a file and 0.8 GB of memory")
    parser.add_argument("--taps", type=int, default=1000)
    options = parser.parse_args(arguments)
    oaconvolve, h = module("signal").oaconvolve, random((options.taps,))
    with tempfile.NamedTemporaryFile() as file:
        for start in range(0, options.samples, CHUNK):
            random((min(CHUNK, options.samples - start),)).tofile(file)
        file.flush()
        x, out = np.memmap(file.name, np.float32, "r"), np.zeros(options.samples, np.float32)
        oaconvolve(x[:100], h[:10], mode="same")  # compiles
        out.fill(x.max())  # every page of both is in memory
        before = _peak()
        oaconvolve(x, h, mode="same", out=out)
        print(f"oaconvolve of {options.samples} samples with {options.taps} taps: {(_peak() - before) / 2**20:.1f} MiB beyond input and output")


def _peak() -> int:
    """Return the bytes that the process has held in memory at most."""
    import resource  # of Unix alone

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
