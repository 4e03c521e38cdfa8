"""The one place that imports the CUDA backend: how a kernel is compiled and launched, and where its arrays live.

On a GPU arrays are CuPy's. Under Numba's simulator (NUMBA_ENABLE_CUDASIM=1, which plain Numba brings) kernels run as Python threads and
arrays are NumPy's. Kernels take flat pointers and int32 values; in the simulator a pointer is a `Memory`, which refuses any index that a
GPU would have read wrongly without a word.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

STATIC_SHARED = 48 << 10  # bytes of shared memory that every kernel may have
# KiB of shared memory of a multiprocessor, by compute capability (CUDA C++ Programming Guide, technical specifications).
SHARED_OF, SHARED_OF_OTHERS, SHARED_OF_SYSTEM = {(8, 0): 164, (8, 7): 164, (9, 0): 228, (10, 0): 228}, 100, 1 << 10
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
if not SIMULATED and getattr(cuda, "implementation", "") != "NVIDIA":  # the CUDA target within Numba, which is no longer maintained
    raise CudaError(f"device='cuda' needs numba-cuda, which is not installed: {INSTALL}")

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


class Recording(threading.local):
    """What the thread's running call launches, with the memory that it takes; `sequence` plays it back."""

    launches: list[tuple[Kernel, tuple[int, int, int], Sequence[Any], tuple[int, ...]]] | None = None  # None: nothing is recorded
    workspace: list[Any]
    zeroed: list[int]  # of these, those that are zeros at first
    tables: list[Any]


recording = Recording()


def empty(shape: Any, dtype: Any) -> Any:
    """Return memory for what lies between two launches, on the current device."""
    array = arrays().empty(shape, dtype)
    if recording.launches is not None:
        recording.workspace.append(array)
    return array


def zeros(count: int, dtype: Any) -> Any:
    """Return memory for what lies between two launches, on the current device, all zeros."""
    array = arrays().zeros(count, dtype)
    if recording.launches is not None:
        recording.workspace.append(array)
        recording.zeroed.append(len(recording.workspace) - 1)
    return array


def kept(where: dict[Any, Any], key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """Return a table of a problem on the current device, made and copied once; it is there when this returns, as any stream may read it."""
    key = (*key, current_device())
    table = where.get(key)
    if table is None:
        table = on_device(make())
        if not SIMULATED:
            arrays().cuda.get_current_stream().synchronize()
        table = where.setdefault(key, table)
    if recording.launches is not None:
        recording.tables.append(table)
    return table


def current_device() -> int:
    """Return the number of the current device."""
    return 0 if SIMULATED else int(arrays().cuda.runtime.getDevice())


_bound = threading.local()  # the device whose context the thread has


class Kernel:
    """A CUDA kernel, compiled for a GPU's architecture when it is first launched there, and kept on disk for later processes.

    It takes one pointer for each dtype in ``pointers``, then one tuple of int32 values (int64 if ``wide``): ``integers`` of them, or the
    fields of a NamedTuple class. ``threads`` is its block; ``resident`` says how many blocks of it a multiprocessor is to hold, which
    bounds its registers; ``shared`` are the bytes of its shared memory, where it does not say so itself. ``only`` is the one compute
    capability whose own instructions it uses, which no later GPU has.
    """

    def __init__(
        self,
        function: Callable[..., None],
        pointers: Sequence[Any],
        integers: Any,
        threads: int,
        resident: int = 1,
        wide: bool = False,
        shared: int = 0,
        only: tuple[int, int] | None = None,
    ) -> None:
        self.only = only
        self.function, self.threads, self.bounds, self.wide, self.shared = function, threads, (threads, resident), wide, shared
        self.pointers, self.integers = tuple(map(np.dtype, pointers)), integers
        self._loaded: dict[int, Any] = {}
        self._lock = threading.Lock()

    def signature(self) -> Any:
        """Return its argument types as Numba spells them."""
        from numba.cuda import types

        names = [types.CPointer(getattr(types, dtype.name)) for dtype in self.pointers]
        integer = types.int64 if self.wide else types.int32
        if isinstance(self.integers, int):
            return (*names, types.UniTuple(integer, self.integers))
        return (*names, types.NamedUniTuple(integer, len(self.integers._fields), self.integers))

    def ptx(self, capability: tuple[int, int]) -> str:
        """Compile it for an architecture, to NVIDIA's assembly language. Needs no GPU, unless functions are called that were made for it."""
        threads, resident = self.bounds
        if self.shared:
            room = (SHARED_OF.get(capability, SHARED_OF_OTHERS) << 10) // (self.shared + SHARED_OF_SYSTEM)
            resident = max(1, min(resident, room))  # more blocks than have room need not share the registers
        options = {"device": False, "abi": "numba", "cc": capability, "output": "ptx", "launch_bounds": (threads, resident)}
        code = str(cuda.compile(self.function, self.signature(), **options)[0])
        general, own = (".target sm_{}{}" + suffix for suffix in ("", "a"))
        return code.replace(general.format(*capability), own.format(*capability)) if self.only else code

    def launch(self, grid: tuple[int, int, int], arrays_: Sequence[Any], integers: tuple[int, ...]) -> None:
        """Enqueue it on CuPy's current stream, where the arrays are allocated too; they are flat or will be read as if they were."""
        assert len(arrays_) == len(self.pointers)
        if 0 in grid:
            return
        if recording.launches is not None:
            recording.launches.append((self, grid, arrays_, integers))
        if SIMULATED:
            _simulator.launch(self.function, grid, self.threads, arrays_, integers, self.shared)
        else:
            self.bound(grid, integers)(current_stream(), [array.data.ptr for array in arrays_])

    def bound(self, grid: tuple[int, int, int], integers: tuple[int, ...]) -> Launch:
        """Return its launch on the current device, of which only the addresses and the stream are still to be said."""
        number = current_device()
        return Launch(self, self._loaded.get(number) or self._load(number), grid, integers)

    def _load(self, number: int) -> Any:
        from numbaconv.cuda import _binaries

        with self._lock:
            if number not in self._loaded:
                loaded = _binaries.load(self, capability_of(number))
                if self.shared > STATIC_SHARED:
                    _allow_shared(loaded, number, self.shared)
                self._loaded[number] = loaded
            return self._loaded[number]


def _allow_shared(loaded: Any, number: int, size: int) -> None:
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (status,) = driver.cuKernelSetAttribute(attribute, size, driver.CUkernel(int(loaded.handle)), driver.CUdevice(number))
    if int(status):
        raise CudaError(f"a kernel that needs {size} bytes of shared memory cannot be loaded: {status.name}")


class Launch:
    """A loaded kernel with its grid and values: all that it takes but the addresses of its arrays, which are filled in for each call."""

    def __init__(self, kernel: Kernel, loaded: Any, grid: tuple[int, int, int], integers: tuple[int, ...]) -> None:
        count, integer = len(kernel.pointers), ctypes.c_int64 if kernel.wide else ctypes.c_int32
        self._addresses, self._integers = (ctypes.c_uint64 * count)(), (integer * len(integers))(*integers)
        places = [ctypes.addressof(self._addresses) + 8 * i for i in range(count)]
        places += [ctypes.addressof(self._integers) + ctypes.sizeof(integer) * i for i in range(len(integers))]
        self._places, self._loaded = (ctypes.c_void_p * len(places))(*places), loaded
        self._write = struct.Struct(f"{count}Q").pack_into
        self._enqueue = arrays().cuda.driver.launchKernel  # raises what the driver says
        self._shape, self._parameters = (int(loaded.handle), *grid, kernel.threads, 1, 1, kernel.shared), ctypes.addressof(self._places)
        self._lock = threading.Lock()  # the addresses of one call are read before those of another one are written

    def __call__(self, stream: int, addresses: list[int]) -> None:
        with self._lock:
            self._write(self._addresses, 0, *addresses)
            self._enqueue(*self._shape, stream, self._parameters, 0)


def current_stream() -> int:
    """Return the address of CuPy's current stream, the thread made ready to use the current device."""
    number = current_device()
    if getattr(_bound, "number", None) != number:  # a new thread has no context yet
        arrays().cuda.runtime.setDevice(number)
        _bound.number = number
    return int(arrays().cuda.get_current_stream().ptr)


def on_stream(stream: Any) -> Any:
    """Return a context in which CuPy and our kernels use a stream: CuPy's current one for None."""
    if SIMULATED or stream is None:
        return contextlib.nullcontext()
    return _external_stream(_address(stream), current_device())


@functools.lru_cache(maxsize=64)
def _external_stream(pointer: int, device: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what CuPy has instead would destroy the stream with its wrapper
        return arrays().cuda.ExternalStream(pointer)


def capability_of(number: int) -> tuple[int, int]:
    """Return the compute capability of a device."""
    major, minor = divmod(int(arrays().cuda.Device(number).compute_capability), 10)
    return major, minor


def _address(stream: Any) -> int:
    """Return the address of a stream, by any of the names that libraries give it."""
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


__all__ = [
    "SIMULATED", "CudaError", "Kernel", "Launch", "arrays", "capability_of", "cuda", "current_device", "current_stream", "device", "empty",
    "kept", "on_device", "on_stream", "recording", "zeros",
]  # fmt: skip
