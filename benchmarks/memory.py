"""asv: peak memory of a process that computes one layer, and the workspace that an algorithm asks for."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import LAYERS, OPS, by_size
from benchmarks.layers import METHODS
from numbaconv.plan import plan
from numbaconv.recipe import OPERATIONS, problem_for

NAMES = [name for name in by_size(LAYERS) if name.startswith(("smallest", "resnet50", "vgg16", "r3d18", "image"))]


class Peak:
    """Peak resident memory of the process: Python, NumPy and Numba (which the smallest case shows) and the call."""

    params = (NAMES, OPS)
    param_names = ("layer", "op")

    def setup(self, layer: str, op: str) -> None:
        """Make the inputs; compiling is part of the peak in the first run alone, after which the cache has it."""
        self.operands, self.function = LAYERS[layer].operands(op), LAYERS[layer].bound(op)

    def peakmem_layer(self, *params: str) -> None:
        """Call once."""
        self.function(*self.operands)


class Workspace:
    """What an algorithm will allocate besides its output, which is known before anything is."""

    params = (NAMES, OPS, METHODS)
    param_names = ("layer", "op", "method")

    def setup(self, name: str, op: str, method: str) -> None:
        """Plan; a NotImplementedError means that the method cannot do the problem."""
        layer = LAYERS[name]
        geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "layout": None, **layer.options}
        problem, _ = problem_for(layer.transposed, "forward", layer.rank, layer.x_shape, layer.w_shape, geometry)
        chosen = plan(problem, OPERATIONS[layer.transposed, op], np.dtype(np.float32), method)  # type: ignore[index]
        self.bytes = chosen.workspace

    def track_workspace(self, *params: str) -> int:
        """Return the bytes."""
        return self.bytes

    track_workspace.unit = "bytes"  # type: ignore[attr-defined]
