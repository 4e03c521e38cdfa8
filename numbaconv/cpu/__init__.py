"""The CPU room: each algorithm is a module with ``cost``, ``workspace``, ``run`` and, where weights can be packed, ``prepare``."""

from __future__ import annotations

from types import ModuleType

from numbaconv.cpu import direct, dots, fft, fir, gemm, stencil, winograd

# Ties go by this order; direct supports everything and is last.
ALGORITHMS: dict[str, ModuleType] = {"gemm": gemm, "dots": dots, "winograd": winograd, "fir": fir, "stencil": stencil, "fft": fft, "direct": direct}
