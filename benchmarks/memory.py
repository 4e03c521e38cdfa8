"""asv: peak memory of a process that computes one layer, and the workspace that an algorithm asks for."""

from __future__ import annotations

from benchmarks.cases import OPS, by_size
from benchmarks.layers import METHODS
from benchmarks.networks import MIXED

NAMES = [name for name in by_size(MIXED) if name.startswith(("smallest", "resnet50", "vgg16", "r3d18", "image"))]


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
