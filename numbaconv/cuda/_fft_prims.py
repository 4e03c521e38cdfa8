"""What the kernels of transforms need beyond `_prims`: planes of real and imaginary parts, sums over a warp."""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._fft_twins import gathered, load2, peek, poke, spread, store2, warp_sum
else:
    from numbaconv.cuda._fft_intrinsics import gathered, load2, peek, poke, spread, store2, warp_sum

__all__ = ["gathered", "load2", "peek", "poke", "spread", "store2", "warp_sum"]
