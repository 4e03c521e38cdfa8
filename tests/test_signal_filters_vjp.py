"""The gradients of the filters against finite differences, and as adjoints."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import fill
from test_signal_filters import RATES, UPFIRDN_MODES

from numbaconv import signal
from numbaconv.signal import vjp

KINDS = ("dd", "DD", "dD", "Dd")
STEP = 1e-4


def inner(a: Any, b: Any) -> float:
    """Return Re Σ conj(a) · b, over all parts of a result."""
    parts = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return float(sum(np.vdot(p, q).real for p, q in parts))


def like(value: Any, rng: np.random.Generator) -> Any:
    """Return random numbers of the shape and dtype of each part."""
    if isinstance(value, tuple):
        return tuple(like(part, rng) for part in value)
    return fill(np.shape(value), np.asarray(value).dtype, rng, "signed")


def check(name: str, call: Callable[..., tuple[Any, ...]], arguments: list[Any], rng: np.random.Generator) -> None:
    """Compare each gradient with how much the result changes along a random direction.

    ``call`` gives a function's positional arguments for those that have gradients.
    """
    forward, backward = getattr(signal, name), getattr(vjp, name)
    y, pull = backward(*call(*arguments))
    expected = forward(*call(*arguments))
    for part, reference in zip(*((r if isinstance(r, tuple) else (r,)) for r in (y, expected)), strict=True):
        np.testing.assert_array_equal(part, reference)
    dy = like(y, rng)
    grads = pull(*dy) if isinstance(dy, tuple) else pull(dy)
    grads = grads if isinstance(grads, tuple) else (grads,)
    assert len(grads) == len(arguments)
    for k, (argument, grad) in enumerate(zip(arguments, grads, strict=True)):
        assert grad.shape == np.shape(argument) and grad.dtype == argument.dtype
        direction = like(argument, rng)
        ends = [forward(*call(*arguments[:k], argument + sign * STEP * direction, *arguments[k + 1 :])) for sign in (1, -1)]
        change = (inner(dy, ends[0]) - inner(dy, ends[1])) / (2 * STEP)
        size = 1 + float(np.abs(grad).sum()) + abs(change)
        assert abs(inner(grad, direction) - change) < 1e-7 * size, f"{name}, argument {k}: {inner(grad, direction)} for {change}"


@pytest.mark.parametrize("mode", UPFIRDN_MODES)
@pytest.mark.parametrize(("up", "down"), RATES)
def test_upfirdn(up, down, mode, rng):
    for kinds, (taps, shape, axis) in itertools.product(KINDS, ((1, (5,), 0), (9, (2, 7), 1), (20, (4, 3), 0), (6, (2, 8, 9), 1))):
        h, x = fill((taps,), kinds[0], rng, "signed"), fill(shape, kinds[1], rng, "signed")
        cval = 0.5 + 0.25j if "D" in kinds else 0.5
        check("upfirdn", lambda h, x: (h, x, up, down, axis, mode, cval), [h, x], rng)  # noqa: B023


def test_lfilter(rng):
    for kinds, taps, (shape, axis) in itertools.product(KINDS, (1, 2, 6, 12), (((9,), 0), ((3, 7), 1), ((5, 3), 0), ((2, 4, 9), -2))):
        b, x = fill((taps,), kinds[0], rng, "signed"), fill(shape, kinds[1], rng, "signed")
        a = [2.0 + 1j] if "D" in kinds else [2.0]
        check("lfilter", lambda b, x: (b, a, x, axis), [b, x], rng)  # noqa: B023
        state = [1] * len(shape)
        state[axis] = taps - 1
        for zi_shape in (tuple(state), (*shape[: axis % len(shape)], taps - 1, *shape[axis % len(shape) + 1 :])):
            zi = fill(zi_shape, kinds[1], rng, "signed")
            check("lfilter", lambda b, x, zi: (b, a, x, axis, zi), [b, x, zi], rng)  # noqa: B023


def test_lfilter_refuses_recursive_filters():
    with pytest.raises(NotImplementedError, match="a must have one coefficient"):
        vjp.lfilter([1.0], [1.0, 0.5], [1.0, 2.0])


@pytest.mark.parametrize("padtype", [*UPFIRDN_MODES, "mean", "median", "minimum", "maximum"])
def test_resample_poly(padtype, rng):
    for kind, (up, down), (shape, axis) in itertools.product("dD", ((2, 1), (3, 2), (2, 6), (40, 37), (3, 3)), (((6,), 0), ((7, 3), 0), ((2, 5), 1))):
        if kind == "D" and padtype in ("median", "minimum", "maximum"):
            continue  # the order of complex numbers jumps
        x = fill(shape, kind, rng, "signed")
        check("resample_poly", lambda x: (x, up, down, axis, ("kaiser", 5.0), padtype), [x], rng)  # noqa: B023
        check("resample_poly", lambda x, w: (x, up, down, axis, w, padtype), [x, fill((9,), "d", rng, "signed")], rng)  # noqa: B023


def test_ties_share_a_gradient():
    _, pull = vjp.resample_poly([1.0, 1.0, 2.0], 2, 1, window=[0.0], padtype="minimum")
    assert pull(np.ones(6))[0].tolist() == [3.0, 3.0, 0.0]


def test_deconvolve(rng):
    for kinds, (size, taps) in itertools.product(KINDS, ((7, 3), (5, 1), (4, 4))):
        divisor = fill((taps,), kinds[1], rng, "signed")
        divisor[0] = 3
        check("deconvolve", lambda s, d: (s, d), [fill((size,), kinds[0], rng, "signed"), divisor], rng)
    (quotient, remainder), pull = vjp.deconvolve([1.0, 2.0], [1.0, 2.0, 3.0])
    assert quotient == [] and [g.tolist() for g in pull([], remainder)] == [[1.0, 2.0], [0.0, 0.0, 0.0]]


def test_sepfir2d(rng):
    for kind, shape, row, column in itertools.product("dD", ((6, 7), (2, 9), (1, 1)), (1, 5), (1, 3)):
        arguments = [fill(shape, kind, rng, "signed"), fill((row,), kind, rng, "signed"), fill((column,), "d", rng, "signed")]
        check("sepfir2d", lambda image, row, column: (image, row, column), arguments, rng)


@pytest.mark.parametrize("mode", ["interp", "mirror", "constant", "nearest", "wrap"])
def test_savgol_filter(mode, rng):
    for (window, order, deriv), (shape, axis) in itertools.product(
        ((1, 0, 0), (5, 2, 0), (4, 1, 1), (7, 3, 2)), (((9,), 0), ((3, 8), 1), ((7, 2), 0), ((2, 8, 3), 1))
    ):
        check("savgol_filter", lambda x: (x, window, order, deriv, 0.5, axis, mode, 2.0), [fill(shape, "d", rng, "signed")], rng)  # noqa: B023


def test_gradients_have_the_dtype_of_their_argument(rng):
    for kinds, expected in (("ef", "ef"), ("if", "df"), ("iD", "dD"), ("fF", "fF"), ("?b", "ff")):
        h, x = fill((3,), kinds[0], rng), fill((8,), kinds[1], rng)
        y, pull = vjp.upfirdn(h, x, 3, 2)
        assert [grad.dtype.char for grad in pull(np.ones_like(y))] == list(expected)
    _, pull = vjp.savgol_filter(np.ones(9, np.float32), 5, 2)
    assert pull(np.ones(9)).dtype == np.float32


def test_the_pull_of_a_linear_function_is_its_adjoint(rng):
    x, h = fill((2, 300), "complex64", rng, "signed"), fill((41,), "float32", rng, "signed")
    for name, call in (
        ("upfirdn", lambda x: (h, x, 3, 2)), ("upfirdn", lambda x: (h, x, 160, 147)), ("lfilter", lambda x: (h, np.ones(1, "f"), x)),
        ("resample_poly", lambda x: (x, 160, 147, 1)),
    ):  # fmt: skip
        y, pull = getattr(vjp, name)(*call(x))
        dy = like(y, rng)
        grad = pull(dy)
        grad = grad[1] if isinstance(grad, tuple) else grad
        assert abs(inner(dy, y) - inner(grad, x)) < 1e-5 * float(np.linalg.norm(dy) * np.linalg.norm(y)), name


def test_what_has_no_gradient_is_refused():
    ones = np.ones(3)
    for call in (
        lambda: vjp.upfirdn(ones, ones.astype(object)),
        lambda: vjp.resample_poly(ones.astype("U3"), 2, 1),
        lambda: vjp.savgol_filter(ones.astype("g"), 3, 1),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="h must be 1-D with non-zero length"):
        vjp.upfirdn([], ones)
    _, pull = vjp.upfirdn(ones, ones)
    with pytest.raises(ValueError, match=r"grad_y must have shape \(5,\), that of the result, got \(4,\)"):
        pull(np.ones(4))
