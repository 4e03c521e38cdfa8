"""What kernels need beyond Python: vectors of 16 bytes, products of register tiles, 32-bit arithmetic.

Each has two forms with one meaning: an intrinsic for GPUs (`_intrinsics`) and plain Python for the simulator (`_twins`). A register tile is
a tuple of 64 sums, 8 rows of 8; it is never indexed by a loop's variable, or it would lie in memory.
"""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._twins import (
        divide,
        forgotten,
        gathered,
        int32,
        load2,
        load4,
        multiply_slab,
        peek,
        poke,
        raise_flag,
        spread,
        store2,
        store4,
        tile,
        warp_sum,
        within,
    )
else:
    from numbaconv.cuda._intrinsics import (
        divide,
        forgotten,
        gathered,
        int32,
        load2,
        load4,
        multiply_slab,
        peek,
        poke,
        raise_flag,
        spread,
        store2,
        store4,
        tile,
        warp_sum,
        within,
    )

__all__ = [
    "divide",
    "forgotten",
    "gathered",
    "int32",
    "load2",
    "load4",
    "multiply_slab",
    "peek",
    "poke",
    "raise_flag",
    "spread",
    "store2",
    "store4",
    "tile",
    "warp_sum",
    "within",
]
