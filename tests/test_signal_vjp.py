"""Gradients of numbaconv.signal: against finite differences, as adjoints of the functions themselves, and in their dtypes."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cases import MODES, fill, two_shapes

from numbaconv import signal

ANY_RANK = ("convolve", "correlate")
FFT = ("fftconvolve", "oaconvolve")
TWO_AXES = ("convolve2d", "correlate2d")
Call = tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]


def calls(rng: np.random.Generator, count: int) -> list[Call]:
    """Return calls of every function, in every mode and with every boundary."""
    found: list[Call] = []
    for mode in MODES:
        for name, method in itertools.product(ANY_RANK, ("auto", "direct", "fft")):
            found += [(name, *two_shapes(rng, int(rng.integers(1, 4)), 5), {"mode": mode, "method": method}) for _ in range(count)]
        for name, boundary in itertools.product(TWO_AXES, ("fill", "wrap", "symm")):
            found += [(name, *two_shapes(rng, 2, 6), {"mode": mode, "boundary": boundary, "fillvalue": k % 2 * 1.5}) for k in range(count)]
        for name, axes in itertools.product(FFT, (None, 1, [0, 2], [-1, 1])):
            for _ in range(count):
                first, second = two_shapes(rng, 3, 5)
                chosen = range(3) if axes is None else [axes] if isinstance(axes, int) else [a % 3 for a in axes]
                second = tuple(s if a in chosen else int(rng.choice([1, f])) for a, (f, s) in enumerate(zip(first, second, strict=True)))
                first = tuple(1 if a not in chosen and rng.random() < 0.3 else f for a, f in enumerate(first))
                found.append((name, first, second, {"mode": mode, "axes": axes}))
    return found


def is_valid(call: Call) -> bool:
    """Say whether the shapes suit the mode."""
    name, first, second, options = call
    try:
        getattr(signal, name)(np.ones(first), np.ones(second), **options)
    except ValueError:
        return False
    return True


def real_dot(a: Any, b: Any) -> float:
    return float(np.real(np.vdot(a, b)))


@pytest.mark.parametrize(
    "dtypes", [("float64", "float64"), ("complex128", "complex128"), ("float64", "complex128"), ("complex128", "float64")], ids=str
)
def test_gradients_are_the_adjoint_of_the_derivative(dtypes, rng):
    """The functions are bilinear, and affine in one input with a fill value: differences of results are exact derivatives."""
    for name, first, second, options in filter(is_valid, calls(rng, 4)):
        function = getattr(signal, name)
        (in1, step1), (in2, step2) = ([fill(shape, dtype, rng, "signed") for _ in "12"] for shape, dtype in zip((first, second), dtypes, strict=True))
        y, pull = getattr(signal.vjp, name)(in1, in2, **options)
        np.testing.assert_array_equal(y, function(in1, in2, **options))
        grad_y = fill(y.shape, y.dtype, rng, "signed")
        grad1, grad2 = pull(grad_y)
        assert (grad1.shape, grad1.dtype, grad2.shape, grad2.dtype) == (in1.shape, in1.dtype, in2.shape, in2.dtype)
        bound = 1e-12 * (1 + in1.size) * (1 + in2.size)
        forward1 = function(in1 + step1, in2, **options) - y
        forward2 = function(in1, in2 + step2, **options) - y
        what = f"{name} {first} {second} {options}"
        assert abs(real_dot(grad_y, forward1) - real_dot(grad1, step1)) <= bound, what
        assert abs(real_dot(grad_y, forward2) - real_dot(grad2, step2)) <= bound, what


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES])
def test_every_element_against_finite_differences(name, dtype, rng):
    for mode, boundary in itertools.product(MODES, ("fill", "wrap", "symm") if name in TWO_AXES else ("",)):
        options = {"mode": mode, **({"boundary": boundary, "fillvalue": 0.5} if boundary else {})}
        inputs = [fill(shape, dtype, rng, "signed") for shape in ((4, 3), (2, 2))]
        y, pull = getattr(signal.vjp, name)(*inputs, **options)
        grad_y = fill(y.shape, dtype, rng, "signed")
        for which, grad in enumerate(pull(grad_y)):
            found = np.zeros_like(grad)
            for place in np.ndindex(grad.shape):
                for unit in (1.0, 1j) if dtype == "complex128" else (1.0,):
                    moved = [array.copy() for array in inputs]
                    moved[which][place] += 1e-6 * unit
                    ahead = getattr(signal, name)(*moved, **options)
                    moved[which][place] -= 2e-6 * unit
                    behind = getattr(signal, name)(*moved, **options)
                    found[place] += unit * real_dot(grad_y, ahead - behind) / 2e-6
            np.testing.assert_allclose(grad, found, atol=1e-7, err_msg=f"{name} {options}")


@pytest.mark.parametrize("name", ANY_RANK)
def test_one_and_four_axes_and_scalars(name, rng):
    for first, second, mode in (((9,), (4,), "same"), ((4,), (9,), "same"), ((2, 3, 2, 3), (1, 2, 2, 1), "full"), ((), (), "full")):
        in1, in2 = fill(first, "complex128", rng, "signed"), fill(second, "complex128", rng, "signed")
        y, pull = getattr(signal.vjp, name)(in1, in2, mode)
        grad_y, step = fill(y.shape, "complex128", rng, "signed"), fill(first, "complex128", rng, "signed")
        grad1, grad2 = pull(grad_y)
        assert grad1.shape == first and grad2.shape == second
        np.testing.assert_allclose(real_dot(grad_y, getattr(signal, name)(step, in2, mode)), real_dot(grad1, step))


@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES])
def test_dtypes_of_gradients(name, rng):
    expected = {
        "int32": "float64",
        "uint8": "float64",
        "bool": "float64",
        "float16": "float16",
        "float32": "float32",
        "complex64": "complex64",
        ">f8": "<f8",
    }
    for first, second in itertools.product(expected, repeat=2):
        if first == second == "bool":
            continue
        in1, in2 = fill((5, 4), first, rng), fill((2, 3), second, rng)
        y, pull = getattr(signal.vjp, name)(in1, in2)
        for grad_y in (np.ones(y.shape, np.float32), np.ones(y.shape, np.float64), np.ones(y.shape, int), np.ones(y.shape, complex)):
            grads = pull(grad_y)
            assert [g.dtype for g in grads] == [np.dtype(expected[d]) for d in (first, second)], (first, second)
            assert [type(g) for g in grads] == [np.ndarray] * 2


def test_values_of_integers_are_those_of_floats(rng):
    in1, in2 = fill((6,), "int64", rng), fill((3,), "int64", rng)
    y, pull = signal.vjp.convolve(in1, in2)
    assert y.dtype == np.int64
    _, pull_float = signal.vjp.convolve(in1.astype(float), in2.astype(float))
    for grad, other in zip(pull(np.ones(8)), pull_float(np.ones(8)), strict=True):
        np.testing.assert_array_equal(grad, other)


def test_pull_may_be_called_again_and_changes_nothing(rng):
    in1, in2, grad_y = (fill(shape, "complex128", rng) for shape in ((7,), (3,), (9,)))
    kept = [array.copy() for array in (in1, in2, grad_y)]
    _, pull = signal.vjp.correlate(in1, in2)
    first, again = pull(grad_y), pull(grad_y)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for array, before in zip((in1, in2, grad_y), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    for one, other in zip(pull(grad_y[::-1].tolist()), pull(grad_y[::-1]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", [*ANY_RANK, *FFT, *TWO_AXES])
def test_errors(name):
    y, pull = getattr(signal.vjp, name)(np.ones((4, 4)), np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"grad_y must have shape \(5, 5\), that of the result, got \(4, 4\)"):
        pull(np.ones((4, 4)))
    with pytest.raises(TypeError, match="grad_y must hold"):
        pull(np.full((5, 5), "a"))
    with pytest.raises(ValueError, match="(?i)mode"):
        getattr(signal.vjp, name)(np.ones((4, 4)), np.ones((2, 2)), "bad")
    with pytest.raises(ValueError, match="dimensionality|2-D"):
        getattr(signal.vjp, name)(np.ones((4, 4)), np.ones(2))


def test_what_scipy_computes_has_no_gradients():
    for name, array in (
        ("convolve", np.array([Fraction(1, 2)])),
        ("correlate", np.ones(3, bool)),
        ("convolve2d", np.ones((2, 2), np.longdouble)),
        ("fftconvolve", np.ones((0, 2))),
    ):
        with pytest.raises(TypeError, match=f"{name} has gradients for non-empty arrays"):
            getattr(signal.vjp, name)(array, array)


def test_the_table_of_gradients_is_complete():
    for name in (*ANY_RANK, *FFT, *TWO_AXES):
        assert getattr(signal.vjp, name).__doc__
