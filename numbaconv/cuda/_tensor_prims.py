"""What the tensor cores' kernels need beyond Python, as intrinsics for GPUs or as plain Python for the simulator."""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._tensor_twins import commit, copy4, copy16, keep, multiply, narrow, round_tf32, store2, wait, widen
else:
    from numbaconv.cuda._tensor_intrinsics import commit, copy4, copy16, keep, multiply, narrow, round_tf32, store2, wait, widen

__all__ = ["commit", "copy4", "copy16", "keep", "multiply", "narrow", "round_tf32", "store2", "wait", "widen"]
