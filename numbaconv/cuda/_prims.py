"""What kernels need beyond Python: vectors of 16 bytes, products of register tiles, 32-bit arithmetic.

Each has two forms with one meaning: an intrinsic for GPUs (`_intrinsics`) and plain Python for the simulator (`_twins`). A register tile is
a tuple of 64 sums, 8 rows of 8; it is never indexed by a loop's variable, or it would lie in memory.
"""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._twins import (
        add_tiles,
        correlate,
        correlate_gradient,
        correlate_last,
        correlate_last_gradient,
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
        store_tile,
        tap,
        tile,
        warp_sum,
        warp_sums,
        within,
        zeros,
    )
else:
    from numbaconv.cuda._intrinsics import (
        add_tiles,
        correlate,
        correlate_gradient,
        correlate_last,
        correlate_last_gradient,
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
        store_tile,
        tap,
        tile,
        warp_sum,
        warp_sums,
        within,
        zeros,
    )

__all__ = [
    "add_tiles", "correlate", "correlate_gradient", "correlate_last", "correlate_last_gradient", "divide", "forgotten", "gathered", "int32",
    "load2", "load4", "multiply_slab", "peek", "poke", "raise_flag", "spread", "store2", "store4", "store_tile", "tap", "tile", "warp_sum",
    "warp_sums", "within", "zeros",
]  # fmt: skip
