"""What the kernels of stencils need beyond `_prims`: register tiles of outputs that all taps are added to."""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._stencil_twins import (
        add_tiles,
        correlate,
        correlate_gradient,
        correlate_last,
        correlate_last_gradient,
        store_tile,
        tap,
        warp_sums,
    )
else:
    from numbaconv.cuda._stencil_intrinsics import (
        add_tiles,
        correlate,
        correlate_gradient,
        correlate_last,
        correlate_last_gradient,
        store_tile,
        tap,
        warp_sums,
    )

__all__ = ["add_tiles", "correlate", "correlate_gradient", "correlate_last", "correlate_last_gradient", "store_tile", "tap", "warp_sums"]
