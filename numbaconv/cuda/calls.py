"""From a user's arrays to kernels and back: copies to the GPU where they were asked for, streams, and the checks of ``out``."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.arrays import GPU_ALIGNMENT, Array, check_out, contiguous, namespace
from numbaconv.cuda._backend import SIMULATED, arrays, current_device, on_device, on_stream
from numbaconv.problem import Options


def require_memory(size: int, purpose: str) -> None:
    """Raise MemoryError if ``size`` bytes cannot be had on the current device."""
    if SIMULATED:
        return
    xp = arrays()
    free = xp.cuda.runtime.memGetInfo()[0] + xp.get_default_memory_pool().free_bytes()
    if size > free:
        raise MemoryError(f"{purpose} needs {size / 2**30:.1f} GiB on the GPU, but {free / 2**30:.1f} GiB are available")


def ready(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return an array of ``dtype`` that kernels can read: on the device, contiguous, in native order."""
    array = contiguous(array, dtype)
    return on_device(array) if type(array) is np.ndarray else array


def check_result(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Any]) -> None:
    """Raise unless ``out`` can take the result: an array like the inputs, of this shape and dtype, that overlaps none of them."""
    if all(type(array) is np.ndarray for array in inputs.values()):
        check_out(out, shape, dtype, inputs)
        return
    xp = namespace(next(iter(inputs.values())))
    if not isinstance(out, xp.ndarray):
        raise TypeError(f"out must be a CuPy array, as the inputs are on a GPU, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    for name, array in inputs.items():
        if xp.may_share_memory(out, array):
            raise ValueError(f"out must not overlap an input: it may share memory with {name}")


def carry_out(recipe: Any, inputs: dict[str, Any], bias: Any, activation: str | None, out: Any, packed: Any, conjugate: str, stream: Any) -> Array:
    """Compute what `recipe.carry_out` computes, on the current GPU: NumPy arrays give NumPy arrays, CuPy's give CuPy's."""
    dtype, given = recipe.plan.dtype, namespace(next(iter(inputs.values())))
    if out is not None:
        check_result(out, recipe.out_shape, recipe.dtype, inputs if bias is None else {**inputs, "bias": bias})
    host = given is np and not SIMULATED
    xp = arrays() if given is np else given
    with on_stream(stream):
        operands = {name: ready(array, dtype) for name, array in inputs.items()}
        if conjugate and dtype.kind == "c":
            operands[conjugate] = xp.conj(operands[conjugate])
        a, b = operands.values()
        direct = out is not None and not host and out.dtype == dtype and out is contiguous(out, dtype)
        result = out if direct else xp.empty(recipe.out_shape, dtype)
        options = Options(None if bias is None else ready(bias, dtype), activation, packed)
        recipe.run(a, b, result, options)
        if host:
            result = xp.asnumpy(result)
        if direct:
            return result
        if out is None:
            return result.astype(recipe.dtype, copy=False)
        out[...] = result
        return out


def are_readable(a: Any, b: Any, number: int) -> bool:
    """Return whether two CuPy arrays, the first of them on that GPU, are both there, on the current GPU, and start where kernels can load."""
    aligned = not (a.data.ptr | b.data.ptr) % GPU_ALIGNMENT
    return aligned and b.data.device_id == number == current_device()


def again(recipe: Any, a: Any, b: Any) -> Any:
    """Compute what was computed before from two CuPy arrays like these, on CuPy's current stream."""
    out = type(a)(recipe.out_shape, recipe.dtype)  # as empty(), without the way there
    recipe.run(a, b, out)
    return out


def synchronized(call: Any) -> None:
    """Call, and wait until the GPU has done it: for timing."""
    call()
    if not SIMULATED:
        arrays().cuda.get_current_stream().synchronize()
