"""The smooth activations: their rounding, and what becomes of zeros, infinities, NaN, huge and subnormal numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

import numbaconv as nc
from numbaconv.cpu.bias import PIECE, activated
from numbaconv.nn.activation import TABLE
from numbaconv.reference import ACTIVATIONS

Array = np.ndarray[Any, Any]
SMOOTH = ("silu", "gelu", "tanh", "sigmoid")
FLOATS = (np.float32, np.float64)


def _normal(x: Array) -> Array:
    # Written with erfcx and the exponential of a long double, since ndtr is off by thousands of ulp in its tail.
    wide = np.abs(x.astype(np.longdouble))
    tail = 0.5 * special.erfcx((wide * np.sqrt(np.longdouble(0.5))).astype(np.float64)) * np.exp(-wide * wide / 2)
    return np.where(x < 0, tail, 1 - tail)


def _sigmoid(x: Array) -> Array:
    wide = x.astype(np.longdouble)
    return np.where(wide < 0, np.exp(wide), 1) / (1 + np.exp(-np.abs(wide)))


# In long double, where there is one.
TRUTH: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * _normal(x),
    "tanh": lambda x: np.tanh(x.astype(np.longdouble)),
    "sigmoid": _sigmoid,
}
# In units in the last place. For float64 the truth of gelu is itself off by up to 8, that of erfcx.
BOUNDS = {"silu": 4.0, "gelu": 5.0, "tanh": 3.5, "sigmoid": 3.5}


def _inputs(rng: np.random.Generator, dtype: type) -> Array:
    smallest = np.log10(float(np.finfo(dtype).smallest_subnormal))
    everywhere = 10.0 ** rng.uniform(smallest, 3, 40_000) * rng.choice((-1, 1), 40_000)
    return np.concatenate([*(rng.standard_normal(40_000) * scale for scale in (0.1, 1, 5, 20)), everywhere, np.linspace(-40, 40, 40_001)]).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", SMOOTH)
def test_rounding(name, dtype, rng):
    x = _inputs(rng, dtype)
    if dtype == np.float64 and np.finfo(np.longdouble).eps > 2e-19:
        pytest.skip("needs a long double that is wider than a double")
    truth = TRUTH[name](x.astype(np.float64))
    spacing = np.spacing(np.abs(truth.astype(dtype))).astype(np.longdouble)
    subnormal = float(np.finfo(dtype).smallest_subnormal) * (1 + np.abs(x.astype(np.longdouble)))
    bound = BOUNDS[name] + (8 if name == "gelu" and dtype == np.float64 else 0)
    assert np.all(np.abs(activated(x, name) - truth) <= bound * spacing + subnormal)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", SMOOTH)
def test_special_values(name, dtype):
    small = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, small, -small, 1e4, -1e4], dtype)
    y = activated(x, name)
    with np.errstate(all="ignore"):
        expected = ACTIVATIONS[name](x.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(y, expected)
    if name != "sigmoid":
        np.testing.assert_array_equal(np.signbit(y[:2]), (False, True))


@pytest.mark.parametrize("size", [0, 1, 7, 31, 33, PIECE - 1, PIECE + 1])
def test_every_length_is_written(size, rng):
    x = rng.standard_normal(size).astype(np.float32)
    for name in ACTIVATIONS:
        kept = x.copy()
        np.testing.assert_allclose(activated(x, name), ACTIVATIONS[name](x.astype(np.float64)), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("dtype", (np.float16, *FLOATS))
@pytest.mark.parametrize("name", SMOOTH)
def test_layers_use_the_same_functions(name, dtype, rng):
    x = rng.standard_normal((3, 5)).astype(dtype)
    y = TABLE[name].forward(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, activated(x.astype(np.float64 if dtype == np.float64 else np.float32), name).astype(dtype))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_fused_and_apart_agree(name, layout, algorithm, rng):
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 8, 13, 8), (8, 8, 3, 3), (8,)))
    try:
        plain = nc.conv2d(x, w, bias, padding=1, layout=layout, method=algorithm)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    out = np.full_like(plain, np.nan)
    nc.conv2d(x, w, bias, padding=1, layout=layout, method=algorithm, activation=name, out=out)
    # Sums may be rounded otherwise where the bias is added elsewhere.
    np.testing.assert_allclose(out, activated(plain, name), rtol=1e-5, atol=1e-5)
