"""What `_wgmma` needs beyond Python, as intrinsics for Hopper GPUs or as plain Python for the simulator."""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._wgmma_twins import copy_lines, every, multiply, publish, put_sums, round_lines, settle, take_sums
else:
    from numbaconv.cuda._wgmma_intrinsics import copy_lines, every, multiply, publish, put_sums, round_lines, settle, take_sums

__all__ = ["copy_lines", "every", "multiply", "publish", "put_sums", "round_lines", "settle", "take_sums"]
