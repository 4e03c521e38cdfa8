"""The GPU room: the same algorithms under the same names as the CPU's. `plan` chooses from its table.

Besides the functions of every algorithm, a module lists one of each of its ``kernels`` for the compile gate (tests/test_cuda_code.py).
"""

from numbaconv.cuda import direct, fft, fold, gemm, stencil, tensor, wgmma, widened, winograd
from numbaconv.cuda._backend import SIMULATED, arrays, capability_of, current_device

ALGORITHMS = {
    "gemm": gemm, "tensor": tensor, "wgmma": wgmma, "widened": widened, "winograd": winograd, "stencil": stencil, "fold": fold,
    "fft": fft, "direct": direct,
}  # fmt: skip


def check() -> None:
    """Raise unless there is a GPU, with its driver and the packages that it takes, or the simulator."""
    arrays()


def describe() -> str:
    """Say which GPU is used."""
    if SIMULATED:
        return "simulated, one thread after the other (NUMBA_ENABLE_CUDASIM)"
    number = current_device()
    name = arrays().cuda.runtime.getDeviceProperties(number)["name"].decode()
    return f"{name}, compute capability {'.'.join(map(str, capability_of(number)))}"
