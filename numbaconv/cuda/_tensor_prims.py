"""What the tensor cores' kernels need beyond Python, as intrinsics for GPUs or as plain Python for the simulator."""

from numbaconv.cuda._backend import SIMULATED

if SIMULATED:
    from numbaconv.cuda._tensor_twins import get_vector, keep, multiply, narrow, put_vector, round_tf32, store2, widen
else:
    from numbaconv.cuda._tensor_intrinsics import get_vector, keep, multiply, narrow, put_vector, round_tf32, store2, widen

__all__ = ["get_vector", "keep", "multiply", "narrow", "put_vector", "round_tf32", "store2", "widen"]
