"""asv: named layers, every operation, dtype and algorithm; one call per measurement."""

from __future__ import annotations

import numbaconv as nc
from benchmarks.cases import LAYERS, OPS, by_size
from numbaconv.plan import room

METHODS = ("auto", *room("cpu"))


class Layers:
    """One layer on one thread, which is what changes of a kernel show best on."""

    params = (by_size(LAYERS), OPS, ("float32", "float64"), METHODS)
    param_names = ("layer", "op", "dtype", "method")
    number, rounds, repeat, warmup_time = 1, 1, (3, 20, 1.0), 0.0
    threads: int | None = 1

    def setup(self, layer: str, op: str, dtype: str = "float32", method: str = "auto") -> None:
        """Make fresh inputs and call once, so that compiling is not timed; a NotImplementedError means: does not apply."""
        if self.threads:
            nc.set_num_threads(self.threads)
        self.operands = LAYERS[layer].operands(op, dtype)
        self.function = LAYERS[layer].bound(op, method=method)
        self.function(*self.operands)

    def time_layer(self, *params: str) -> None:
        """Time one call."""
        self.function(*self.operands)


class AllThreads(Layers):
    """The algorithm that "auto" takes, with as many threads as a call uses by default."""

    params = (by_size(LAYERS), OPS)  # type: ignore[assignment]
    param_names = ("layer", "op")  # type: ignore[assignment]
    threads = None
