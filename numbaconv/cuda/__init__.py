"""The GPU room: the same algorithms under the same names as the CPU's. `plan` chooses from its table.

Besides the functions of every algorithm, a module lists one of each of its ``kernels`` for the compile gate (tests/test_cuda_code.py).
"""

from numbaconv.cuda import fft, gemm

ALGORITHMS = {"gemm": gemm, "fft": fft}
