"""What a call decides, and how it is carried out: words and shapes to a problem, an operation and a plan; arrays checked, then run.

A call whose shapes and options were seen before costs one look-up: `_recipes` keeps what was decided. Where the arrays are moreover as
kernels take them, `again` does nothing else but allocate the result and compute: it looks in `_known`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from numbaconv import memory
from numbaconv import plan as planning
from numbaconv.arrays import COMPUTE, Array, check_out, contiguous, copied_bytes, empty
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Run, is_channels_last
from numbaconv.reference import ACTIVATIONS

Kind = Literal["forward", "grad_input", "grad_weight"]

# Which operation a word means: the problem of a transposed convolution has x as its output, so that forward is its dgrad.
OPERATIONS: dict[tuple[bool, Kind], Op] = {
    (False, "forward"): "fprop", (False, "grad_input"): "dgrad", (False, "grad_weight"): "wgrad",
    (True, "forward"): "dgrad", (True, "grad_input"): "fprop", (True, "grad_weight"): "wgrad",
}  # fmt: skip
MOST_RECIPES = 4096
PLAIN = {int, str, type(None)}  # of options that are dictionary keys as they are


class Function(NamedTuple):
    """What a user called, but for the options."""

    transposed: bool
    kind: Kind
    rank: int


class Asked(NamedTuple):
    """The options of a call, as a user gave them."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1
    layout: Any = None
    output_padding: Any = 0
    method: Any = "auto"
    precision: Any = "default"
    device: Any = None


@dataclass(frozen=True)
class Recipe:
    """What was decided for one combination of shapes, dtypes and options."""

    plan: planning.Plan
    run: Run  # without bias and activation
    dtype: np.dtype[Any]
    grad_shape: tuple[int, ...] | None
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    full_out_shape: tuple[int, ...]
    channels: int
    bytes: int


_recipes: dict[Any, Recipe] = {}
_known: dict[Any, Recipe] = {}
_gpu: Any = None  # `cuda.calls` and CuPy's kind of array, once there is something to know of them


def _plain(value: Any) -> Any:
    """Return an option as a dictionary key; TypeError for one that has no plain value, and so is never looked up."""
    kind = type(value)
    if kind is int or kind is str or value is None:
        return value
    if kind is tuple or kind is list:
        return tuple([_plain(v) for v in value])
    raise TypeError


def recipe_for(function: Function, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype[Any], asked: Asked) -> Recipe:
    """Look up what was decided for this call, or decide it; shapes are tuples of ints: an array's own or made so by `shape_of`."""
    options: tuple[Any, ...] = asked
    if not PLAIN.issuperset(map(type, options)):  # 1.0 and True are not to find what was decided for 1
        try:
            options = tuple(map(_plain, options))
        except TypeError:
            return _decide(function, x_shape, w_shape, dtype, asked)
    key = (function, x_shape, w_shape, dtype, options)
    recipe = _recipes.get(key)
    if recipe is None:
        recipe = _decide(function, x_shape, w_shape, dtype, asked)
        if len(_recipes) >= MOST_RECIPES:
            _recipes.clear()
        _recipes[key] = recipe
    return recipe


def _decide(function: Function, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype[Any], asked: Asked) -> Recipe:
    problem, unbatched = problem_for(function, x_shape, w_shape, asked)
    (transposed, kind, rank), device = function, asked.device or "cpu"
    op = OPERATIONS[transposed, kind]
    for name, value in (("method", asked.method), ("precision", asked.precision), ("device", device)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {value!r}")
    chosen = planned(problem, op, dtype, asked.method, asked.precision, device)
    a, b, out = TENSORS[op]
    shapes = {t: problem.shape(t, rank)[1 if unbatched and t != "w" else 0 :] for t in ("x", "w", "y")}
    grad_shape = shapes["x" if transposed else "y"] if kind != "forward" else None
    size = int(np.prod(problem.shape(out), dtype=object)) * chosen.dtype.itemsize
    channels = problem.in_channels if transposed else problem.out_channels
    full = problem.shape(a), problem.shape(b), shapes[out], problem.shape(out)
    return Recipe(chosen, chosen.bound(), dtype, grad_shape, *full, channels, size + chosen.workspace)


def planned(problem: ConvProblem, op: Op, dtype: np.dtype[Any], method: str, precision: str, device: str) -> planning.Plan:
    """Plan in the dtype of the result where a GPU can compute in it, else in the one that stands for it."""
    if device == "cuda" and COMPUTE[dtype] != dtype:
        try:
            return planning.plan(problem, op, dtype, method, precision, device)
        except NotImplementedError:
            pass
    return planning.plan(problem, op, COMPUTE[dtype], method, precision, device)


def problem_for(function: Function, x_shape: tuple[int, ...], w_shape: tuple[int, ...], asked: Asked) -> tuple[ConvProblem, bool]:
    """Build the problem of a call and say whether x came without a batch axis."""
    transposed, kind, rank = function
    channels_last = is_channels_last(asked.layout, rank)
    geometry = {"stride": asked.stride, "padding": asked.padding, "dilation": asked.dilation, "groups": asked.groups}
    if transposed:
        geometry["output_padding"] = asked.output_padding
    names = ("input_shape" if kind == "grad_input" else "x", "kernel_shape" if kind == "grad_weight" else "w")
    unbatched = len(x_shape) == rank + 1
    make = ConvProblem.from_transposed_shapes if transposed else ConvProblem.from_shapes
    problem = make((1, *x_shape) if unbatched else x_shape, w_shape, rank=rank, channels_last=channels_last, names=names, **geometry)
    return problem, unbatched


def shape_of(value: Any, name: str) -> tuple[int, ...]:
    """Return a shape that a user gave as a tuple of Python ints."""
    try:
        return tuple(operator.index(size) for size in value)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of ints, got {value!r}") from None


def again(
    function: Function,
    a: Any,
    b: Any,
    options: tuple[Any, ...],
    packed_for: Callable[[planning.Plan], Any] | None = None,
    bias: Any = None,
    activation: str | None = None,
) -> Array | None:
    """Do what was done before for two operands and options like these; None if there was nothing, or they may need more care than that.

    ``packed_for`` says which packed form of b a plan can read.
    """
    plain = bias is activation is None
    if not (type(a) is type(b) is np.ndarray and a.flags.carray and b.flags.carray and _are_plain(options)):
        return None if _gpu is None or packed_for or not plain else _again_on_gpu(function, a, b, options)
    recipe = _known.get((function, a.shape, b.shape, a.dtype, b.dtype, options))
    if recipe is None or not (plain or _are_ready(recipe, bias, activation)):
        return None
    out, packed = empty(recipe.out_shape, recipe.dtype), packed_for(recipe.plan) if packed_for else None
    if not plain:
        _run_with(recipe, a, b, out, Options(bias, activation, packed))
    elif packed is None:
        recipe.run(a, b, out)
    else:
        recipe.run(a, b, out, packed)
    return out


def _are_ready(recipe: Recipe, bias: Any, activation: Any) -> bool:
    """Return whether a bias and an activation are right as they are; those that are not meet their errors, or are converted, elsewhere."""
    if bias is not None and not (type(bias) is np.ndarray and bias.dtype is recipe.dtype and bias.shape == (recipe.channels,) and bias.flags.carray):
        return False
    return activation is None or type(activation) is str and activation in ACTIVATIONS


def _run_with(recipe: Recipe, a: Array, b: Array, out: Array, options: Options) -> None:
    plan = recipe.plan
    plan.algorithm.run(plan.problem, plan.op, a.reshape(recipe.a_shape), b.reshape(recipe.b_shape), out.reshape(recipe.full_out_shape), options)


def _again_on_gpu(function: Function, a: Any, b: Any, options: tuple[Any, ...]) -> Array | None:
    calls, kind = _gpu
    if not (type(a) is type(b) is kind and a.flags.c_contiguous and b.flags.c_contiguous and _are_plain(options)):
        return None
    here = a.data.device_id
    recipe = _known.get((function, a.shape, b.shape, a.dtype, b.dtype, options, here))
    if recipe is None or not calls.are_readable(a, b, here):
        return None
    return calls.again(recipe, a, b)


def remember(recipe: Recipe, function: Function, operands: tuple[Array, ...], options: tuple[Any, ...]) -> None:
    """Have `again` know a recipe that was carried out, if nothing has to be checked or converted but what the key says."""
    global _gpu
    a, b = operands
    if not (a.dtype == b.dtype == recipe.dtype == recipe.plan.dtype and recipe.dtype.kind != "c" and _are_plain(options)):
        return
    key = function, a.shape, b.shape, a.dtype, b.dtype, options
    if recipe.plan.device == "cpu":
        if recipe.dtype.kind != "f" or recipe.bytes > memory.UNCHECKED_BYTES or not a.dtype is b.dtype is recipe.dtype is recipe.plan.dtype:
            return
    elif type(a) is type(b) is not np.ndarray:
        from numbaconv.cuda import calls

        _gpu = calls, type(a)
        key = *key, a.data.device_id  # type: ignore[assignment,attr-defined]
    else:
        return
    if len(_known) >= MOST_RECIPES:
        _known.clear()
    _known[key] = recipe


def _are_plain(options: tuple[Any, ...]) -> bool:
    """Return whether options are ints, strings, None and tuples of ints: such that are equal mean the same."""
    return PLAIN.issuperset(map(type, options)) or all(
        type(option) in PLAIN or (type(option) is tuple and set(map(type, option)) == {int}) for option in options
    )


def carry_out(
    recipe: Recipe,
    inputs: dict[str, Array],
    bias: Array | None,
    activation: str | None,
    out: Array | None,
    stream: Any = None,
    packed: Any = None,
    conjugate: str = "",
) -> Array:
    """Check ``out`` and the memory, then compute; nothing is written before everything was checked.

    ``inputs`` holds the operation's two operands under the names that the user knows them by; the one called ``conjugate`` is
    conjugated if it is complex.
    """
    chosen, dtype = recipe.plan, recipe.plan.dtype
    if chosen.device != "cpu":
        return _carry_out_on_gpu(recipe, inputs, bias, activation, out, stream, packed, conjugate)
    if stream is not None:
        raise ValueError(f"stream must be None on the CPU, got {stream!r}")
    if out is not None:
        check_out(out, recipe.out_shape, recipe.dtype, inputs if bias is None else {**inputs, "bias": bias})
    a, b = inputs.values()
    needed = recipe.bytes + copied_bytes(a, dtype) + copied_bytes(b, dtype)
    if needed > memory.UNCHECKED_BYTES:
        memory.require(needed, f"an output of shape {recipe.out_shape} with the workspace of {chosen.name!r}")
    if conjugate and inputs[conjugate].dtype.kind == "c":
        a, b = (np.conj(array) if name == conjugate else array for name, array in inputs.items())
    direct = out is not None and out.dtype == dtype and out.flags.carray
    result = out if direct else empty(recipe.out_shape, dtype)
    a, b = contiguous(a, dtype), contiguous(b, dtype)
    if bias is activation is packed is None:
        recipe.run(a, b, result)
    else:
        _run_with(recipe, a, b, result, Options(None if bias is None else contiguous(bias, dtype), activation, packed))  # type: ignore[arg-type]
    if direct or (out is None and recipe.dtype == dtype):
        return result  # type: ignore[return-value]
    if out is None:
        return result.astype(recipe.dtype)  # type: ignore[union-attr]
    out[...] = result
    return out


def _carry_out_on_gpu(recipe: Recipe, inputs: Any, bias: Any, activation: Any, out: Any, stream: Any, packed: Any, conjugate: str) -> Array:
    from numbaconv.cuda import calls

    if recipe.bytes > memory.UNCHECKED_BYTES:
        calls.require_memory(recipe.bytes, f"an output of shape {recipe.out_shape} with the workspace of {recipe.plan.name!r}")
    return calls.carry_out(recipe, inputs, bias, activation, out, packed, conjugate, stream)
