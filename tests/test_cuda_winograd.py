"""Winograd on the GPU, in the simulator, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.cuda import winograd
from numbaconv.problem import TENSORS, ConvProblem, Options, Unsupported
from tests.cases import Case, fill, on_gpu, operands, poisoned, to_gpu

EPS = 2.0**-23
CASES = (
    Case("textbook", "same size, odd and even", (2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    Case("one-output", "less than a tile", (1, 2, 3, 3), (3, 2, 3, 3)),
    Case("wide-padding", "tiles that see padding alone", (1, 2, 3, 4), (2, 2, 3, 3), {"padding": 5}),
    Case("asymmetric", "four different sides", (1, 2, 5, 6), (2, 2, 3, 3), {"padding": ((1, 2), (0, 3))}),
    Case("cropped", "negative padding", (1, 2, 9, 8), (2, 2, 3, 3), {"padding": ((-2, 1), (1, -3))}),
    Case("grouped", "groups with odd channel counts", (1, 6, 4, 5), (10, 3, 3, 3), {"groups": 2, "padding": (1, 0)}),
    Case("aligned", "channels that fill slabs", (1, 16, 6, 6), (5, 16, 3, 3), {"padding": 1}),
    Case("last", "channels last", (2, 6, 5, 3), (4, 3, 3, 3), {"layout": "NHWC", "padding": 1}),
    Case("last-aligned", "channels last, in vectors", (1, 5, 4, 8), (8, 8, 3, 3), {"layout": "NHWC"}),
    Case("last-grouped", "channels last in groups", (1, 6, 5, 4), (6, 2, 3, 3), {"layout": "NHWC", "groups": 2}),
    Case("slices", "a volume whose filter is flat", (1, 2, 3, 5, 4), (3, 2, 1, 3, 3), {"padding": (0, 1, 1)}),
    Case("up", "transposed: flipped taps", (1, 3, 5, 4), (3, 4, 3, 3), {"padding": 1}, True),
    Case("no-images", "an empty batch", (0, 3, 6, 5), (4, 3, 3, 3)),
    Case("no-input-channels", "a sum of nothing is zero", (1, 0, 5, 4), (3, 0, 3, 3)),
)


def of_tiles(size, channels_last):
    """Return the largest value of each tile of 2 × 2 outputs, at each of them."""
    size = np.moveaxis(size, -1, 1) if channels_last else size
    h, w = size.shape[-2:]
    padded = np.pad(size, [(0, 0)] * 3 + [(0, h % 2), (0, w % 2)])
    tiles = padded.reshape(*size.shape[:-2], -(-h // 2), 2, -(-w // 2), 2).max((-3, -1))
    size = tiles.repeat(2, -2).repeat(2, -1)[..., :h, :w]
    return np.moveaxis(size, 1, -1) if channels_last else size


def check(problem, op, rng, kind, bias=False, activation=None):
    a, b = operands(problem, op, np.float32, rng, kind)
    channels = problem.out_channels if op == "fprop" else problem.in_channels
    shift = fill((channels,), np.float32, rng) if bias else None
    out = on_gpu(winograd.run, problem, op, a, b, poisoned(problem.shape(TENSORS[op][2]), np.float32), Options(shift, activation))
    good = reference.run(problem, op, np.float64(a), np.float64(b), None if shift is None else np.float64(shift), activation)
    if kind == "integers" and activation in (None, "relu"):
        np.testing.assert_array_equal(out, good)  # halves and quarters of small integers are exact too
    else:
        size = reference.run(problem, op, np.abs(np.float64(a)), np.abs(np.float64(b))) + (0 if shift is None else np.abs(shift).max())
        size = size.max((-1, -2), keepdims=True) if op == "wgrad" else of_tiles(size, problem.channels_last)
        assert np.all(np.abs(out - good) <= 8 * EPS * size)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_problems_are_exact(case, rng):
    both = case.name in ("textbook", "grouped", "last", "up")
    for op in ("fprop", "dgrad") if both else (("fprop", "dgrad")[CASES.index(case) % 2],):
        check(case.problem, op, rng, "integers", bias=True, activation="relu")
    if 0 not in (case.problem.batch, case.problem.in_channels):
        check(case.problem, "wgrad", rng, "integers")


@pytest.mark.parametrize(("kind", "last"), (("signed", False), ("positive", True)))
def test_errors(kind, last, rng):
    for channels in (1, 10):
        x = (1, 6, 5, channels) if last else (1, channels, 6, 5)
        problem = ConvProblem.from_shapes(x, (3, channels, 3, 3), rank=2, channels_last=last, padding=1)
        check(problem, "fprop", rng, kind)
        check(problem, "wgrad", rng, kind)


def test_a_gradient_that_is_not_finite_is_mended(rng):
    problem = CASES[0].problem
    dy, x = operands(problem, "wgrad", np.float32, rng)
    x[0, 1, 0, 2, 2], x[1, 2, 0, 0, 0] = np.inf, np.nan
    out = on_gpu(winograd.run, problem, "wgrad", dy, x, poisoned(problem.shape("w"), np.float32))
    np.testing.assert_array_equal(out, reference.run(problem, "wgrad", dy, x))


@pytest.mark.parametrize("activation", ("gelu", "tanh"))  # all of them are tested with the kernels that share them
def test_bias_and_activations(activation, rng):
    check(CASES[0].problem, "fprop", rng, "signed", bias=True, activation=activation)


def test_prepared_weights(rng):
    problem = CASES[0].problem
    x, w = operands(problem, "fprop", np.float32, rng)
    packed = winograd.prepare(problem, "fprop", to_gpu(w))
    out = on_gpu(winograd.run, problem, "fprop", x, w, poisoned(problem.shape("y"), np.float32), Options(packed=packed))
    np.testing.assert_array_equal(out, reference.run(problem, "fprop", x, w))


def test_what_it_refuses_and_what_it_takes():
    dtype = np.dtype(np.float32)
    for options, reason in (({"stride": 2}, "stride 1"), ({"dilation": 2}, "dilation"), ({"w": (4, 3, 3, 2)}, "3×2")):
        options = dict(options)
        problem = ConvProblem.from_shapes((2, 3, 9, 9), options.pop("w", (4, 3, 3, 3)), rank=2, **options)
        with pytest.raises(Unsupported, match=reason):
            winograd.cost(problem, "fprop", dtype)
    cropped = ConvProblem(2, 1, 1, 1, (1, 65536, 40000), (1, 3, 3), (1, 8, 8), low=(0, -5, -5), rank=2)
    for op in ("fprop", "wgrad"):
        with pytest.raises(Unsupported, match="2³¹"):
            winograd.cost(cropped, op, dtype)
    with pytest.raises(Unsupported, match="float32"):
        winograd.cost(CASES[0].problem, "fprop", np.dtype(np.float64))
    large = ConvProblem.from_shapes((32, 64, 56, 56), (64, 64, 3, 3), rank=2, padding=1)
    tiles = 32 * 28 * 28
    assert winograd.workspace(large, "fprop", dtype) >= 16 * 4 * (2 * 64 * tiles + 64 * 64)
    assert winograd.cost(large, "fprop", dtype) > 0
