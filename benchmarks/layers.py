"""asv: the layers of real networks, every operation; a few of them with every algorithm, dtype and number of threads. One call per measurement."""

from __future__ import annotations

import numbaconv as nc
from benchmarks.cases import OPS, by_size
from benchmarks.networks import LAYERS, MIXED
from numbaconv.plan import room

METHODS = ("auto", *room("cpu"))
NAMED = {f"{network}: {name}": layer for network, layers in LAYERS.items() for name, layer in layers.items()}
# One for each kind of layer: the stem of a network, 1×1, 3×3 large and small, through a stride, in groups, depthwise, transposed, 3-D, 1-D, image.
FEW = {name: MIXED[name] for name in (
    "smallest 3×3@5", "resnet50 stem 7×7 s2", "resnet50 1×1 256→64", "resnet50 3×3 64@56", "resnet50 3×3 512@7", "resnet50 1×1 256→512 s2",
    "resnext50 3×3 32×4", "mobilenetv2 depthwise 144@56", "unet up 2×2 128→64@28", "r2plus1d 3×1×1 144→64", "wavenet 64→128 d64", "image 1024² 5×5",
)}  # fmt: skip


class Layers:
    """Every layer on one thread, with the algorithm that "auto" takes."""

    layers = NAMED
    params: tuple[object, ...] = (by_size(NAMED), OPS)
    param_names: tuple[str, ...] = ("layer", "op")
    number, rounds, repeat, warmup_time = 1, 1, (3, 20, 1.0), 0.0

    def setup(self, layer: str, op: str, dtype: str = "float32", method: str = "auto", threads: str = "one") -> None:
        """Make fresh inputs and call once, so that compiling is not timed; a NotImplementedError means: does not apply."""
        if threads == "one":
            nc.set_num_threads(1)
        elif nc.get_num_threads() == 1:
            raise NotImplementedError("this machine has one core")
        self.operands = self.layers[layer].operands(op, dtype)
        self.function = self.layers[layer].bound(op, method=method)
        self.function(*self.operands)

    def time_layer(self, *params: str) -> None:
        """Time one call."""
        self.function(*self.operands)


class Methods(Layers):
    """A few layers in every way."""

    layers = FEW
    params = (by_size(FEW), OPS, ("float32", "float64"), METHODS, ("one", "all"))
    param_names = ("layer", "op", "dtype", "method", "threads")
