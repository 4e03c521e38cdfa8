"""What `_wgmma` needs beyond Python, as intrinsics for Hopper GPUs or as plain Python for the simulator."""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._wgmma_twins import copy_lines, every, multiply, multiply_down, publish, put_sums, round_lines, settle, take_sums, wait_for
else:
    from numbaconv.cuda._wgmma_intrinsics import (
        copy_lines,
        every,
        multiply,
        multiply_down,
        publish,
        put_sums,
        round_lines,
        settle,
        take_sums,
        wait_for,
    )

__all__ = ["copy_lines", "every", "multiply", "multiply_down", "publish", "put_sums", "round_lines", "settle", "take_sums", "wait_for"]
