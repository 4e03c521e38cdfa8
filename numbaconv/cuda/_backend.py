"""The one place that imports the CUDA backend: how a kernel is compiled and launched, and where its arrays live.

On a GPU arrays are CuPy's. Under Numba's simulator (NUMBA_ENABLE_CUDASIM=1, which plain Numba brings) kernels run as Python threads and
arrays are NumPy's. Kernels take flat pointers and int32 values; in the simulator a pointer is a `Memory`, which refuses any index that a
GPU would have read wrongly without a word.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

INSTALL = "pip install 'numbaconv[cuda13]' (or cuda12, for older drivers)"


class CudaError(RuntimeError):
    """There is no GPU, no driver, or a package is missing; the message says what to install."""


def _simulated() -> bool:
    from numba.core import config

    return bool(config.ENABLE_CUDASIM)


SIMULATED = _simulated()
try:
    from numba import cuda
except ImportError as error:  # numba without a CUDA target, or numba-cuda without its bindings
    raise CudaError(f"device='cuda' needs numba-cuda, which cannot be imported ({error}): {INSTALL}") from error

if SIMULATED:
    from numbaconv.cuda import _simulator


def device(function: Callable[..., Any]) -> Any:
    """Make a function callable from kernels. It must not use `cuda` itself: the simulator runs it as it is."""
    return function if SIMULATED else cuda.jit(device=True)(function)


@functools.cache
def arrays() -> Any:
    """Return the module whose arrays kernels take: CuPy, or NumPy under the simulator."""
    if SIMULATED:
        return np
    if not hasattr(cuda, "implementation"):
        raise CudaError(f"device='cuda' needs numba-cuda; the CUDA target within Numba is no longer maintained: {INSTALL}")
    try:
        import cupy
    except ImportError as error:
        raise CudaError(f"device='cuda' needs CuPy ({error}): {INSTALL}") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise CudaError(f"device='cuda' needs an NVIDIA GPU and its driver: {error}") from error
    if not count:
        raise CudaError("device='cuda' needs an NVIDIA GPU, and there is none")
    return cupy


def on_device(array: Any) -> Any:
    """Return a NumPy array's copy where kernels can read it."""
    return array if SIMULATED else arrays().asarray(array)


class Kernel:
    """A CUDA kernel, compiled for a device at its first launch there.

    It takes one pointer for each dtype in ``pointers``, then one tuple of int32 values (int64 if ``wide``): ``integers`` of them, or the
    fields of a NamedTuple class. ``threads`` is its block; ``resident`` says how many blocks of it a multiprocessor is to hold, which
    bounds its registers.
    """

    def __init__(
        self, function: Callable[..., None], pointers: Sequence[Any], integers: Any, threads: int, resident: int = 1, wide: bool = False
    ) -> None:
        self.function, self.threads, self.bounds, self.wide = function, threads, (threads, resident), wide
        self.pointers, self.integers = tuple(map(np.dtype, pointers)), integers
        self._compiled: dict[int, Any] = {}
        self._lock = threading.Lock()

    def signature(self) -> Any:
        """Return its argument types as Numba spells them."""
        from numba.cuda import types

        names = [types.CPointer(getattr(types, dtype.name)) for dtype in self.pointers]
        integer = types.int64 if self.wide else types.int32
        if isinstance(self.integers, int):
            return (*names, types.UniTuple(integer, self.integers))
        return (*names, types.NamedUniTuple(integer, len(self.integers._fields), self.integers))

    def launch(self, grid: tuple[int, int, int], stream: Any, arrays_: Sequence[Any], integers: tuple[int, ...]) -> None:
        """Enqueue it on a stream (None: CuPy's current one); arrays are flat or will be read as if they were."""
        assert len(arrays_) == len(self.pointers)
        if 0 in grid:
            return
        if SIMULATED:
            _simulator.launch(self.function, grid, self.threads, arrays_, integers)
            return
        xp = arrays()
        device = xp.cuda.runtime.getDevice()
        compiled = self._compiled.get(device) or self._compile(device)
        compiled.launch([*(array.data.ptr for array in arrays_), integers], grid, (self.threads, 1, 1), stream_for(stream))

    def _compile(self, device: int) -> Any:
        with self._lock:
            if device not in self._compiled:
                dispatcher = cuda.jit(launch_bounds=self.bounds)(self.function)
                self._compiled[device] = dispatcher.compile(self.signature())
            return self._compiled[device]


def stream_for(stream: Any) -> Any:
    """Return the backend's stream for what a user gave: None, an address, or a stream of CuPy, PyTorch or Numba."""
    pointer = stream_pointer(stream)
    return _external_stream(pointer)


def stream_pointer(stream: Any) -> int:
    """Return the address of a stream, by any of the names that libraries give it."""
    if stream is None:
        return 0 if SIMULATED else int(arrays().cuda.get_current_stream().ptr)
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    for name in ("ptr", "cuda_stream"):
        if isinstance(value := getattr(stream, name, None), int):
            return value
    if hasattr(stream, "__cuda_stream__"):
        described = stream.__cuda_stream__() if callable(stream.__cuda_stream__) else stream.__cuda_stream__
        return int(described[1])
    handle = getattr(stream, "handle", None)
    value = getattr(handle, "value", handle)
    if isinstance(value, int):
        return value
    raise TypeError(f"stream must be None, an address, or a stream of CuPy, PyTorch or Numba, got {type(stream).__name__}")


@functools.lru_cache(maxsize=64)
def _external_stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else cuda.default_stream()


def multiprocessors() -> int:
    """Return how many multiprocessors the device has: an H200's for the simulator."""
    if SIMULATED:
        return 132
    return int(arrays().cuda.Device().attributes["MultiProcessorCount"])


__all__ = ["SIMULATED", "CudaError", "Kernel", "arrays", "cuda", "device", "multiprocessors", "on_device", "stream_pointer"]
