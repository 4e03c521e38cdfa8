"""The gradients of numbaconv.ndimage against finite differences, and the identity ⟨dy, f(dx)⟩ = ⟨fᵀ(dy), dx⟩ of a linear map."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from numbaconv import ndimage
from numbaconv.ndimage import vjp

MODES = ("reflect", "constant", "nearest", "mirror", "wrap")
WEIGHTED = ("correlate", "convolve", "correlate1d", "convolve1d")
STEP = 1e-6


def normal(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Any:
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape)).astype(dtype) if np.dtype(dtype).kind == "c" else values.astype(dtype)


def inner(a: Any, b: Any) -> float:
    """Return the sum of products of real and imaginary parts, in which the gradient is taken."""
    return float(np.sum(np.conj(a) * b).real)


def numerical(loss: Any, x: Any) -> Any:
    """Return ∂L/∂re + i·∂L/∂im of every element by central differences."""
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        for unit in (1, 1j) if x.dtype.kind == "c" else (1,):
            high, low = x.copy(), x.copy()
            high[i] += STEP * unit
            low[i] -= STEP * unit
            grad[i] += unit * (loss(high) - loss(low)) / (2 * STEP)
    return grad


def check_weighted(name: str, x: Any, w: Any, rng: np.random.Generator, **options: Any) -> None:
    function = getattr(ndimage, name)
    y, pull = getattr(vjp, name)(x, w, **options)
    np.testing.assert_array_equal(y, function(x, w, **options))
    dy = normal(y.shape, y.dtype.name, rng)
    grad_x, grad_w = pull(dy)
    assert (grad_x.shape, grad_x.dtype, grad_w.shape, grad_w.dtype) == (x.shape, x.dtype, w.shape, w.dtype)
    what = f"{name} {x.shape} {x.dtype} {w.shape} {w.dtype} {options}"
    np.testing.assert_allclose(grad_x, numerical(lambda v: inner(dy, function(v, w, **options)), x), atol=1e-7, err_msg=what)
    np.testing.assert_allclose(grad_w, numerical(lambda v: inner(dy, function(x, v, **options)), w), atol=1e-7, err_msg=what)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("mode", MODES)
def test_weighted_filters_against_finite_differences(name, mode, rng):
    for x_dtype, w_dtype in itertools.product(("float64", "complex128"), repeat=2):
        x, cval = normal((4, 5), x_dtype, rng), 1.5 - (2j if x_dtype == "complex128" else 0)
        w = normal((3,) if name.endswith("1d") else (3, 2), w_dtype, rng)
        check_weighted(name, x, w, rng, mode=mode, cval=cval, origin=-1 if name.endswith("1d") else (1, 0))
    if name.endswith("1d"):
        check_weighted(name, normal((2, 3, 2), "float64", rng), normal((8,), "float64", rng), rng, axis=1, mode=mode, cval=2.0)
    else:
        x = normal((2, 3, 4), "float64", rng)
        check_weighted(name, x, normal((3, 5), "float64", rng), rng, axes=(2, 0), origin=(1, -1), mode=mode, cval=2.0)
        check_weighted(name, normal((2, 2, 3, 2), "complex128", rng), normal((2, 1, 3, 1), "float64", rng), rng, mode=mode)


def check_adjoint(name: str, x: Any, extra: Any, rng: np.random.Generator, **options: Any) -> None:
    """Check that pull is the adjoint of the filter without its constant, which is a linear map."""
    y, pull = getattr(vjp, name)(x, extra, **options)
    np.testing.assert_array_equal(y, getattr(ndimage, name)(x, extra, **options))
    dy, dx = normal(y.shape, y.dtype.name, rng), normal(x.shape, x.dtype.name, rng)
    grad = pull(dy)
    assert grad.dtype == x.dtype and grad.shape == x.shape
    change = getattr(ndimage, name)(dx, extra, **{**options, "cval": 0})
    bound = 200 * np.finfo(x.dtype).eps * float(np.linalg.norm(dy.ravel()) * np.linalg.norm(dx.ravel()) + 1)
    assert abs(inner(dy, change) - inner(grad, dx)) <= bound, f"{name} {x.shape} {x.dtype} {extra} {options}"


@pytest.mark.parametrize("mode", [*MODES, "grid-wrap"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_smoothing_filters_are_pulled_back_by_their_adjoint(mode, dtype, rng):
    for shape in ((9,), (6, 7), (3, 5, 4), (1, 6), (300, 260)):
        x = normal(shape, dtype, rng)
        check_adjoint("gaussian_filter", x, 1.1, rng, mode=mode, cval=2.0)
        check_adjoint("gaussian_filter", x, 0.0, rng, mode=mode)
        check_adjoint("gaussian_filter1d", x, 0.8, rng, axis=0, order=1, mode=mode, cval=2.0)
        check_adjoint("uniform_filter", x, 4, rng, mode=mode, origin=-1, cval=2.0)
        check_adjoint("uniform_filter1d", x, 40, rng, axis=-1, mode=mode, cval=2.0)
    check_adjoint("gaussian_filter", normal((4, 5, 6), dtype, rng), (1.0, 0.5), rng, order=(0, 2), axes=(2, 0), mode=(mode, "mirror"))
    check_adjoint("uniform_filter", normal((4, 5, 6), dtype, rng), (3, 1), rng, axes=(2, 1), origin=(1, 0), mode=(mode, "mirror"))


@pytest.mark.parametrize("name", WEIGHTED)
def test_dtypes_of_gradients(name, rng):
    shape = (3,) if name.endswith("1d") else (3, 3)
    for x_dtype, w_dtype, output, expected in (
        ("float32", "float64", None, ("float32", "float64")), ("float32", "int64", None, ("float32", "float32")),
        ("int16", "float32", float, ("float64", "float32")), ("complex64", "float32", None, ("complex64", "float32")),
        ("float64", "complex64", None, ("float64", "complex64")), ("uint8", "complex128", None, ("float32", "complex128")),
    ):  # fmt: skip
        x, w = (9 * normal((5, 6), x_dtype, rng)).astype(x_dtype), (9 * normal(shape, w_dtype, rng)).astype(w_dtype)
        y, pull = getattr(vjp, name)(x, w, output=output)
        assert tuple(grad.dtype.name for grad in pull(np.ones_like(y))) == expected


def test_output_over_the_input_and_views(rng):
    x, w, dy = normal((5, 6), "float64", rng), normal((3, 3), "float64", rng), normal((5, 6), "float64", rng)
    expected = vjp.correlate(x, w)[1](dy)
    memory = np.asfortranarray(x)
    y, pull = vjp.correlate(memory, w[::-1].copy()[::-1], output=memory)
    assert y is memory
    for found, right in zip(pull(np.asfortranarray(dy)), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-13)


def test_empty_images_have_empty_gradients():
    for shape in ((0, 3), (3, 0)):
        (y, pull), (z, smooth) = vjp.correlate(np.zeros(shape), np.ones((3, 3))), vjp.gaussian_filter(np.zeros(shape), 1)
        grad_x, grad_w = pull(y)
        assert grad_x.shape == smooth(z).shape == shape
        np.testing.assert_array_equal(grad_w, np.zeros((3, 3)))


def test_errors(rng):
    x = normal((4, 5), "float64", rng)
    with pytest.raises(RuntimeError, match="boundary mode not supported"):
        vjp.correlate(x, np.ones((3, 3)), mode="valid")
    with pytest.raises(TypeError, match="an output of dtype uint8 has no gradient"):
        vjp.gaussian_filter(np.zeros((4, 5), np.uint8), 1)
    y, pull = vjp.uniform_filter(x, 3)
    with pytest.raises(ValueError, match=r"grad_y must have shape \(4, 5\)"):
        pull(y[:3])
    with pytest.raises(TypeError, match="grad_y must hold numbers of the output's kind"):
        pull(y * 1j)
