"""What kernels need beyond Python: vectors of 16 bytes, asynchronous copies, products of register tiles, 32-bit arithmetic.

Each has two forms with one meaning: an intrinsic for GPUs (`_intrinsics`) and plain Python for the simulator (`_twins`). A register tile is
a tuple of sums, here 8 rows of 8; it is never indexed by a loop's variable, or it would lie in memory. What only some kernels need is in
files of the same kinds: `_stencil_prims`, `_fft_prims`, `_tensor_prims`.
"""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._twins import (
        and_aside,
        commit,
        copy4,
        copy8,
        copy16,
        divide,
        forgotten,
        int32,
        load4,
        multiply_slab,
        put_aside,
        raise_flag,
        scatter,
        store4,
        tile,
        wait,
        wait_all,
        within,
        zeros,
    )
else:
    from numbaconv.cuda._intrinsics import (
        and_aside,
        commit,
        copy4,
        copy8,
        copy16,
        divide,
        forgotten,
        int32,
        load4,
        multiply_slab,
        put_aside,
        raise_flag,
        scatter,
        store4,
        tile,
        wait,
        wait_all,
        within,
        zeros,
    )

__all__ = [
    "commit", "copy4", "copy8", "copy16", "wait", "wait_all",
    "and_aside", "divide", "forgotten", "int32", "load4", "multiply_slab", "put_aside", "raise_flag", "scatter", "store4", "tile", "within", "zeros",
]  # fmt: skip
