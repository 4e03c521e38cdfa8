"""What users hand in, as kernels need it: NumPy arrays, contiguous, aligned, native, of one dtype. Checks come before any work.

Arrays on a GPU become CuPy's, in which `numbaconv.cuda` computes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from numbaconv.memory import CACHE_LINE, HELD, REUSED, address, block, hold_freed

Array = np.ndarray[Any, Any]

# The dtype that kernels compute in, by the dtype of the result; float16 has no arithmetic on a CPU. Of two C types of one size, as
# long and long long, it is the one that NumPy gives by default.
COMPUTE = {np.dtype(t): np.dtype(np.dtype(t).name) for t in "bhilqBHILQfdFD"} | {np.dtype("e"): np.dtype("f")}

LARGE = 1 << 19  # bytes of a result from which it starts on a cache line: 64→256 1×1 on 56×56 took 1.13 ms, not 1.26
GPU_ALIGNMENT = 16  # bytes, of what kernels load at once
CUDA_OF_DLPACK = (2, 13)  # the device types of memory that a GPU's kernels can read


class NotOurs(Exception):  # noqa: N818 - an answer, not a failure
    """A call that SciPy's own function is to answer: it refuses the arguments in its words, or knows dtypes that kernels do not."""


def as_array(value: Any, name: str) -> Array:
    """Return ``value`` as an array of a supported dtype, or raise a TypeError that names the argument."""
    if type(value) is not np.ndarray:
        value = as_cupy(value, name) if is_on_gpu(value) else _as_numpy(value, name)
    dtype = value.dtype
    if dtype not in COMPUTE and dtype.newbyteorder("=") not in COMPUTE and dtype != np.bool_:
        raise TypeError(f"{name} must hold integers, float16/32/64 or complex64/128, got dtype {value.dtype}")
    return value


def _as_numpy(value: Any, name: str) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it first, {name}.filled(0)")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array or nested sequences of equal lengths, got {type(value).__name__}: {error}") from error


def is_on_gpu(value: Any) -> bool:
    """Return whether a value is an array in the memory of a GPU."""
    if type(value) is np.ndarray:
        return False
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] in CUDA_OF_DLPACK


def as_cupy(value: Any, name: str) -> Any:
    """Return a GPU array as CuPy's, without a copy."""
    try:
        import cupy
    except ImportError as error:
        raise NotImplementedError(f"{name} is on a GPU, for which CuPy is needed ({error}): pip install 'numbaconv[cuda13]'") from error
    if not isinstance(value, cupy.ndarray):
        value = cupy.asarray(value) if hasattr(value, "__cuda_array_interface__") else cupy.from_dlpack(value)
    number = value.data.device_id
    if number != (current := cupy.cuda.runtime.getDevice()):
        raise ValueError(f"{name} is on GPU {number}, but the current one is {current}: with cupy.cuda.Device({number}): …")
    return value


def namespace(array: Any) -> Any:
    """Return the module whose functions take such an array: NumPy or CuPy."""
    return np if type(array) is np.ndarray else sys.modules[type(array).__module__.partition(".")[0]]


def as_numbers(**values: Any) -> list[Any]:
    """Return values as arrays of whatever dtype, all of them NumPy's or all CuPy's; errors say their names."""
    arrays = {name: as_cupy(value, name) if is_on_gpu(value) else np.asarray(value) for name, value in values.items()}
    device_of(None, arrays)
    return list(arrays.values())


def device_of(device: Any, arrays: dict[str, Any]) -> str:
    """Return where a call is computed, "cpu" or "cuda": where its arrays are, or where ``device`` says that NumPy arrays shall be."""
    names = [name for name, array in arrays.items() if array is not None and type(array) is not np.ndarray]
    if names:
        here = [name for name, array in arrays.items() if type(array) is np.ndarray]
        if here:
            raise TypeError(f"all arrays must be in one place, got {', '.join(names)} on a GPU and {', '.join(here)} in main memory")
        if device not in (None, "cuda"):
            raise ValueError(f"device must be None or 'cuda' for arrays on a GPU, got {device!r}")
        return "cuda"
    return "cpu" if device is None else device


def result_type(*arrays: Array) -> np.dtype[Any]:
    """Promote as NumPy does; two boolean arrays have no sum of products."""
    dtype = arrays[0].dtype
    if dtype not in COMPUTE or any([a.dtype is not dtype for a in arrays]):
        dtype = np.result_type(*(a.dtype for a in arrays))
    if dtype not in COMPUTE:
        raise TypeError(f"at least one array must be numeric, got dtypes {[a.dtype.name for a in arrays]}")
    return dtype


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], large: int = LARGE) -> Array:
    """Return an array to be overwritten. One of ``large`` bytes starts on a cache line: a vector that straddles two takes twice as long to move."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < large:
        return np.empty(shape, dtype)
    if size >= REUSED:
        return block(size).view(dtype).reshape(shape)
    if size >= HELD:
        hold_freed()
    memory = np.empty(count + CACHE_LINE // dtype.itemsize, dtype)
    skipped = -address(memory) % CACHE_LINE // dtype.itemsize
    return memory[skipped : skipped + count].reshape(shape)


def contiguous(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``array`` as a C-contiguous, aligned, writable array of ``dtype``; kernels do not write to it, so no copy for that."""
    if type(array) is not np.ndarray:
        if array.dtype != dtype or not array.flags.c_contiguous:
            array = namespace(array).ascontiguousarray(array, dtype)
        return array.copy() if array.data.ptr % GPU_ALIGNMENT else array  # type: ignore[attr-defined]
    if array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
        array = array.astype(dtype, order="C", subok=False)
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))  # a read-only array would be another type, and another compilation
    return array


def copied_bytes(array: Array, dtype: np.dtype[Any]) -> int:
    """Return how many bytes `contiguous` will allocate."""
    flags = array.flags
    return 0 if array.dtype == dtype and flags.c_contiguous and flags.aligned else array.size * dtype.itemsize


class _Writable:
    """The same memory, said to be writable."""

    def __init__(self, array: Array) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self.owner = array


def check_shape(array: Array, expected: Sequence[int], name: str, why: str) -> None:
    """Raise ValueError unless ``array`` has the expected shape."""
    if array.shape != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, {why}, got {array.shape}")


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Array]) -> None:
    """Raise unless ``out`` is a writable array of this shape and dtype that shares no memory with an input."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    for name, array in inputs.items():
        if np.may_share_memory(out, array) and _overlap(out, array):
            raise ValueError(f"out must not overlap an input: it shares memory with {name}")


def _overlap(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
