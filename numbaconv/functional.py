"""The functions that users call: conv1d … conv3d, conv_transpose1d … 3d and the gradients of each.

Only this file and `recipe` speak users' words (forward, grad_input, grad_weight); rooms say fprop, dgrad and wgrad.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numbaconv import plan as planning
from numbaconv._docs import document
from numbaconv.arrays import COMPUTE, Array, as_array, check_shape, contiguous, device_of, result_type
from numbaconv.problem import LAYOUTS, axis_values, is_channels_last
from numbaconv.recipe import OPERATIONS, Asked, Function, Kind, again, carry_out, planned, problem_for, recipe_for, remember, shape_of
from numbaconv.reference import ACTIVATIONS


class PreparedWeights:
    """Weights packed for one kind of call; accepted wherever ``w`` is. Made by `prepare`, a snapshot: later changes to w are not seen."""

    def __init__(self, w: Array, packed: Any, packed_for: tuple[Any, ...]) -> None:
        self._w, self._packed, self._packed_for = w, packed, packed_for
        self.w = w.view()
        if isinstance(w, np.ndarray):
            self.w.setflags(write=False)
        self._last: tuple[Any, Any] = None, None  # a plan, and what it reads

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedWeights, (self._w, self._packed, self._packed_for)  # a plan holds modules and kernels, which no file can

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self.w.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weights."""
        return self.w.dtype

    def packed_for(self, chosen: planning.Plan) -> Any:
        """Return the packed form if that is what the plan's algorithm reads, else None."""
        last, packed = self._last
        if chosen is not last:
            packed = self._packed if self._packed is not None and self._packed_for == _packing(chosen) else None
            if chosen.device == "cpu":  # elsewhere it depends on the current device, too
                self._last = chosen, packed
        return packed


def _packing(chosen: planning.Plan) -> tuple[Any, ...]:
    packing = getattr(chosen.algorithm, "packing", None)  # of algorithms whose packed form depends on more than is said here
    further = None if packing is None else packing(chosen.problem, chosen.op, chosen.dtype)
    return chosen.device, chosen.name, chosen.op, chosen.dtype, chosen.problem.groups, chosen.problem.shape("w"), further


def _forward(
    function: Function, x: Any, w: Any, bias: Any, activation: str | None, out: Array | None, stream: Any, options: tuple[Any, ...]
) -> Array:
    alone, packed_for = out is stream is None, None
    if isinstance(w, PreparedWeights):
        w, packed_for = w._w, w.packed_for
    if alone and (done := again(function, x, w, options, packed_for, bias, activation)) is not None:
        return done
    asked = Asked(*options)
    x, w = as_array(x, "x"), as_array(w, "w")
    if bias is None:
        dtype = result_type(x, w)
    else:
        bias = as_array(bias, "bias")
        dtype = result_type(x, w, bias)
    if activation is not None:
        _check_activation(activation, dtype)
    if not (type(x) is type(w) is np.ndarray and (bias is None or type(bias) is np.ndarray)):
        asked = asked._replace(device=device_of(asked.device, {"x": x, "w": w, "bias": bias}))
    recipe = recipe_for(function, x.shape, w.shape, dtype, asked)
    if bias is not None:
        check_shape(bias, (recipe.channels,), "bias", "one value per output channel")
    packed = packed_for(recipe.plan) if packed_for else None
    y = carry_out(recipe, {"x": x, "w": w}, bias, activation, out, stream, packed)
    if alone and (bias is activation is None or type(x) is np.ndarray):  # on a GPU calls with either are not looked up
        remember(recipe, function, (x, w), options)
    return y


def _check_activation(activation: Any, dtype: np.dtype[Any]) -> None:
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None or one of {tuple(ACTIVATIONS)}, got {activation!r}")
    if dtype.kind == "c" or (dtype.kind in "iu" and activation != "relu"):
        raise TypeError(f"activation {activation!r} is not defined for {dtype}")


def _gradient(function: Function, grad_out: Any, other: Any, shape: Any, out: Array | None, stream: Any, options: tuple[Any, ...]) -> Array:
    if isinstance(other, PreparedWeights):
        other = other._w
    swapped = function.transposed and function.kind == "grad_weight"
    known_as = (*options, shape)
    if out is stream is None and (done := again(function, *((other, grad_out) if swapped else (grad_out, other)), known_as)) is not None:
        return done
    asked = Asked(*options)
    grad_out = as_array(grad_out, "grad_out")
    name = "w" if function.kind == "grad_input" else "x"
    other = as_array(other, name)
    dtype = result_type(grad_out, other)
    if not type(grad_out) is type(other) is np.ndarray:
        asked = asked._replace(device=device_of(asked.device, {"grad_out": grad_out, name: other}))
    if function.kind == "grad_input":
        recipe = recipe_for(function, shape_of(shape, "input_shape"), other.shape, dtype, asked)
    else:
        shape = _full_kernel_shape(function, shape_of(shape, "kernel_shape"), other, grad_out, asked)
        recipe = recipe_for(function, other.shape, shape, dtype, asked)
    assert recipe.grad_shape is not None
    check_shape(grad_out, recipe.grad_shape, "grad_out", "that of the output")
    inputs = {name: other, "grad_out": grad_out} if swapped else {"grad_out": grad_out, name: other}
    result = carry_out(recipe, inputs, None, None, out, stream, conjugate=name)
    if out is stream is None:
        remember(recipe, function, tuple(inputs.values()), known_as)
    return result


def _full_kernel_shape(function: Function, shape: tuple[int, ...], x: Array, grad_out: Array, asked: Asked) -> tuple[int, ...]:
    """Complete a kernel_shape of filter sizes alone by the channels, which x and grad_out tell."""
    rank = function.rank
    if len(shape) != rank or min(x.ndim, grad_out.ndim) < rank + 1:
        return shape
    axis = -1 if is_channels_last(asked.layout, rank) else -1 - rank
    filters, channels = (x, grad_out) if function.transposed else (grad_out, x)
    (groups,) = axis_values(asked.groups, 1, "groups", minimum=1)
    return (filters.shape[axis], channels.shape[axis] // groups, *shape)


def _grad_bias(rank: int, grad_out: Any, layout: str | None) -> Array:
    grad_out = as_array(grad_out, "grad_out")
    channels_last = is_channels_last(layout, rank)
    if grad_out.ndim not in (rank + 1, rank + 2):
        raise ValueError(f"grad_out must be {layout or LAYOUTS[rank][0]} ({rank + 2} axes) or one sample of it, got shape {grad_out.shape}")
    dtype = result_type(grad_out)
    batched = contiguous(grad_out if grad_out.ndim == rank + 2 else grad_out[None], COMPUTE[dtype])
    room = planning.DEVICES[device_of(None, {"grad_out": grad_out})]
    return importlib.import_module(f"{room}.bias").grad_bias(batched, channels_last).astype(dtype, copy=False)


def _family(rank: int, transposed: bool) -> list[Callable[..., Any]]:
    """Make the five functions of one rank. They share this body and differ in their documentation."""
    default = LAYOUTS[rank][0]
    kinds: tuple[Kind, ...] = ("forward", "grad_input", "grad_weight")
    forward, of_input, of_weight = (Function(transposed, kind, rank) for kind in kinds)

    # Each makes the tuple of its options in the order of `Asked`.
    def conv(x, w, bias=None, *, stride=1, padding=0, dilation=1, groups=1, activation=None, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
             method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
        options = (stride, padding, dilation, groups, layout, 0, method, precision, device)
        return _forward(forward, x, w, bias, activation, out, stream, options)

    def conv_transpose(x, w, bias=None, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1, activation=None,  # type: ignore[no-untyped-def]  # fmt: skip
                       layout=default, method="auto", precision="default", out=None, device=None, stream=None):  # fmt: skip
        options = (stride, padding, dilation, groups, layout, output_padding, method, precision, device)
        return _forward(forward, x, w, bias, activation, out, stream, options)

    def grad_input(grad_out, w, input_shape, *, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                   method="auto", precision="default", out=None, device=None, stream=None, **more):  # fmt: skip
        options = (stride, padding, dilation, groups, layout, output_padding_of(more), method, precision, device)
        return _gradient(of_input, grad_out, w, input_shape, out, stream, options)

    def grad_weight(x, grad_out, kernel_shape, *, stride=1, padding=0, dilation=1, groups=1, layout=default,  # type: ignore[no-untyped-def]  # fmt: skip
                    method="auto", precision="default", out=None, device=None, stream=None, **more):  # fmt: skip
        options = (stride, padding, dilation, groups, layout, output_padding_of(more), method, precision, device)
        return _gradient(of_weight, grad_out, x, kernel_shape, out, stream, options)

    def output_padding_of(more: dict[str, Any]) -> Any:
        if not more:
            return 0
        allowed = {"output_padding"} if transposed else set()
        if unknown := set(more) - allowed:
            raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
        return more.get("output_padding", 0)

    def grad_bias(grad_out, *, layout=default):  # type: ignore[no-untyped-def]
        return _grad_bias(rank, grad_out, layout)

    def backward(grad_out, x, w, *, needs=(True, True, True), layout=default, **options):  # type: ignore[no-untyped-def]
        if foreign := {"out", "activation", "bias"} & set(options):
            raise TypeError(f"{foreign.pop()} is not an option of backward: it returns three arrays, of the convolution itself")
        asked = _asked(rank, transposed, {**options, "layout": layout})
        asked = asked._replace(device=device_of(asked.device, {"grad_out": as_array(grad_out, "grad_out")}), method="auto")
        try:
            need_x, need_w, need_b = needs
        except (TypeError, ValueError):
            raise ValueError(f"needs must be three truth values, for x, w and bias, got {needs!r}") from None
        w_array = w._w if isinstance(w, PreparedWeights) else as_array(w, "w")
        x, grad_out = as_array(x, "x"), as_array(grad_out, "grad_out")
        # Checked whatever is needed, so that grad_bias alone does not pass a gradient of another shape.
        recipe = recipe_for(of_input, x.shape, w_array.shape, result_type(grad_out, w_array), asked)
        check_shape(grad_out, recipe.grad_shape or (), "grad_out", "that of the output")
        return (
            grad_input(grad_out, w_array, x.shape, layout=layout, **options) if need_x else None,
            grad_weight(x, grad_out, w_array.shape, layout=layout, **options) if need_w else None,
            grad_bias(grad_out, layout=layout) if need_b else None,
        )

    name = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    bodies: dict[str, Callable[..., Any]] = {"": conv_transpose if transposed else conv, "_grad_input": grad_input, "_grad_weight": grad_weight,
              "_grad_bias": grad_bias, "_backward": backward}  # fmt: skip
    return [document(body, name + suffix, rank, transposed, suffix) for suffix, body in bodies.items()]


conv1d, conv1d_grad_input, conv1d_grad_weight, conv1d_grad_bias, conv1d_backward = _family(1, False)  # fmt: skip
conv2d, conv2d_grad_input, conv2d_grad_weight, conv2d_grad_bias, conv2d_backward = _family(2, False)  # fmt: skip
conv3d, conv3d_grad_input, conv3d_grad_weight, conv3d_grad_bias, conv3d_backward = _family(3, False)  # fmt: skip
conv_transpose1d, conv_transpose1d_grad_input, conv_transpose1d_grad_weight, conv_transpose1d_grad_bias, conv_transpose1d_backward = _family(1, True)
conv_transpose2d, conv_transpose2d_grad_input, conv_transpose2d_grad_weight, conv_transpose2d_grad_bias, conv_transpose2d_backward = _family(2, True)
conv_transpose3d, conv_transpose3d_grad_input, conv_transpose3d_grad_weight, conv_transpose3d_grad_bias, conv_transpose3d_backward = _family(3, True)


def prepare(w: Any, x_shape: Sequence[int], *, transposed: bool = False, dtype: Any = None, **options: Any) -> PreparedWeights:
    """Pack weights once for many forward calls with inputs like ``x_shape``.

    Parameters
    ----------
    w : array_like, (K, C/groups, *filter)
        Weights; copied.
    x_shape : sequence of int
        Shape of the inputs to come; calls with other shapes and options work, and pack w again if they need it packed another way.
    transposed : bool
        Whether the weights are for conv_transpose1d … 3d.
    dtype : dtype, optional
        That of the inputs; by default that of w.
    **options
        stride, padding, dilation, groups, layout, method, precision: as for conv1d … conv3d.

    Returns
    -------
    PreparedWeights
        Accepted wherever ``w`` is.

    Examples
    --------
    >>> import numpy as np, numbaconv as nc
    >>> w = np.ones((8, 4, 3, 3), np.float32)
    >>> prepared = nc.prepare(w, (1, 4, 10, 10), padding=1)
    >>> nc.conv2d(np.ones((1, 4, 10, 10), np.float32), prepared, padding=1).shape
    (1, 8, 10, 10)
    """
    w = as_array(w, "w").copy()
    rank = w.ndim - 2
    result = result_type(w) if dtype is None else result_type(w, as_array(np.empty(0, dtype), "dtype"))
    asked = _asked(rank, transposed, options)
    asked = asked._replace(device=device_of(asked.device, {"w": w}))
    chosen = recipe_for(Function(transposed, "forward", rank), shape_of(x_shape, "x_shape"), w.shape, result, asked).plan
    packed = None
    if pack := getattr(chosen.algorithm, "prepare", None):
        packed = pack(chosen.problem, chosen.op, _readable(w, chosen).reshape(chosen.problem.shape("w")))
        if chosen.device == "cuda":  # it may be read on any stream
            importlib.import_module("numbaconv.cuda.calls").synchronized(lambda: None)
    return PreparedWeights(w, packed, _packing(chosen))


def _readable(array: Array, chosen: planning.Plan) -> Array:
    """Return an array as the algorithm of a plan reads it."""
    if chosen.device == "cpu":
        return contiguous(array, chosen.dtype)
    from numbaconv.cuda import calls

    return calls.ready(array, chosen.dtype)


def explain(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    op: str = "forward",
    dtype: Any = "float32",
    transposed: bool = False,
    measure: bool = False,
    **options: Any,
) -> planning.Explanation:
    """Say which algorithm would compute a convolution and why: every algorithm's estimated cost, or why it cannot.

    Parameters
    ----------
    x_shape, w_shape : sequence of int
        Shapes as conv1d … conv3d take them; the rank follows from ``w_shape``.
    op : {"forward", "grad_input", "grad_weight"}
        What is to be computed.
    dtype : dtype
        Of the arrays.
    transposed : bool
        Whether it is conv_transpose1d … 3d.
    measure : bool
        Whether to run every algorithm too, on random numbers and with the current number of threads, and say how long a call takes in the
        median: of at least 3 and at most 50 calls, for about 0.3 s each, after one that may have to compile. An algorithm whose
        estimate is above 0.3 s is not run.
    **options
        stride, padding, dilation, groups, layout, method, precision: as for conv1d … conv3d.

    Returns
    -------
    str
        A table; it prints as such at the prompt.

    Examples
    --------
    >>> import numbaconv as nc
    >>> "direct" in nc.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    True
    >>> print(nc.explain((1, 2, 9), (4, 2, 3), dtype="int64", measure=True).splitlines()[-1])  # doctest: +ELLIPSIS
    → direct     ... ms on one core (estimated), ... ms (measured), ... MiB of workspace
    """
    words = ("forward", "grad_input", "grad_weight")
    if op not in words:
        raise ValueError(f"op must be one of {words}, got {op!r}")
    x_shape, w_shape = shape_of(x_shape, "x_shape"), shape_of(w_shape, "w_shape")
    rank = len(w_shape) - 2
    asked = _asked(rank, transposed, options)
    kind: Kind = op  # type: ignore[assignment]
    given = result_type(as_array(np.empty(0, dtype), "dtype"))
    problem, unbatched = problem_for(Function(transposed, "forward", rank), x_shape, w_shape, asked)
    output = problem.shape("x" if transposed else "y", rank)[1 if unbatched else 0 :]
    name = f"conv{'_transpose' if transposed else ''}{rank}d"
    title = f"{name} {op} ({OPERATIONS[transposed, kind]}): x {x_shape}, w {w_shape}, output {output}"
    operation, device = OPERATIONS[transposed, kind], asked.device or "cpu"
    compute = COMPUTE[given] if device == "cpu" else planned(problem, operation, given, asked.method, asked.precision, device).dtype
    return planning.explain_problem(problem, operation, compute, title, asked.method, asked.precision, device, measure)


def _asked(rank: int, transposed: bool, options: dict[str, Any]) -> Asked:
    """Complete the options of `prepare`, `explain` and backward by conv's defaults; raise TypeError for an unknown one."""
    if rank not in LAYOUTS:
        raise ValueError(f"w must have 3, 4 or 5 axes, for 1-D, 2-D or 3-D, got {rank + 2}")
    known = tuple(name for name in Asked._fields if transposed or name != "output_padding")
    # Those of a call alone are left out, so that one dictionary of options serves the call and its preparation.
    chosen = {name: value for name, value in options.items() if name not in ("bias", "activation", "out", "stream")}
    for name in chosen:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; the options are {known}")
    return Asked(**{"layout": LAYOUTS[rank][0], **chosen})


__all__ = ["PreparedWeights", "explain", "prepare", *(name for name in globals() if name.startswith("conv"))]  # pyright: ignore
