"""asv: the layers of `gpu_check` on a GPU, between CUDA events; machines without one skip them."""

from __future__ import annotations

from benchmarks.cases import OPS
from benchmarks.gpu_check import LAYERS_OF_THE_BARS, Clock


class GpuLayers:
    """Every layer that the bars are about, in each operation and layout; seconds of the device."""

    params: tuple[object, ...] = (list(LAYERS_OF_THE_BARS), OPS)
    param_names: tuple[str, ...] = ("layer", "op")
    unit = "s"

    def setup(self, layer: str, op: str) -> None:
        """Put fresh operands on the GPU and call once, so that compiling is not timed; a NotImplementedError means: no GPU."""
        try:
            self.clock = Clock()
        except RuntimeError as reason:
            raise NotImplementedError(str(reason)) from reason
        if self.clock.simulated:
            raise NotImplementedError("the simulator's times mean nothing")
        case = LAYERS_OF_THE_BARS[layer]
        a, b = (self.clock.xp.asarray(operand) for operand in case.operands(op))
        self.call = lambda: case.call(op, a, b)
        self.call()

    def track_layer(self, layer: str, op: str) -> float:
        """Return the median seconds of a call."""
        return self.clock.medians({"numbaconv": self.call})["numbaconv"]
