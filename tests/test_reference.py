"""The oracle pinned by values worked out by hand, so that it does not vouch for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbaconv import reference
from numbaconv.problem import ConvProblem


def nested(values: Any, rank: int) -> Any:
    """Return an int64 array with the leading spatial axes of size 1 that a room expects (after two axes of N and C)."""
    array = np.array(values, np.int64)
    return array.reshape(*array.shape[:2], *(1,) * (3 - rank), *array.shape[2:])


def run(op: str, a: Any, b: Any, x: tuple[int, ...], w: tuple[int, ...], transposed: bool = False, **options: Any) -> list[Any]:
    rank = len(w) - 2
    make = ConvProblem.from_transposed_shapes if transposed else ConvProblem.from_shapes
    problem = make(x, w, rank=rank, **options)
    out = reference.run(problem, op, nested(a, rank), nested(b, rank))  # type: ignore[arg-type]
    return out.reshape(*out.shape[:2], *out.shape[5 - rank :]).tolist()


X, W = [[[1, 2, 3, 4, 5]]], [[[1, 0, -2]]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1 - 6, 2 - 8, 3 - 10]),
        ({"padding": 1}, [-4, -5, -6, -7, 4]),
        ({"padding": ((2, 0),)}, [-2, -4, -5, -6, -7]),
        ({"padding": ((-1, 0),)}, [2 - 8, 3 - 10]),
        ({"stride": 2}, [-5, -7]),
        ({"stride": 2, "padding": 1}, [-4, -6, 4]),
        ({"dilation": 2}, [1 - 10]),
        ({"dilation": 2, "padding": 2}, [-6, -8, -9, 2, 3]),
        ({"padding": "same", "stride": 2}, [-4, -6, 4]),
    ],
)
def test_one_axis(options, expected):
    assert run("fprop", X, W, (1, 1, 5), (1, 1, 3), **options) == [[expected]]


def test_even_filter_same_pads_after_the_data():
    assert run("fprop", [[[1, 2, 3]]], [[[10, 1]]], (1, 1, 3), (1, 1, 2), padding="same") == [[[12, 23, 30]]]
    assert run("fprop", [[[1, 2, 3]]], [[[10, 1]]], (1, 1, 3), (1, 1, 2), padding="same_lower") == [[[1, 12, 23]]]


def test_two_axes_two_channels_two_filters():
    x = [[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]
    w = [[[[1, 0], [0, 1]], [[0, 0], [0, 1]]], [[[0, 1], [1, 0]], [[1, 1], [1, 1]]]]
    assert run("fprop", x, w, (1, 2, 2, 2), (2, 2, 2, 2)) == [[[[1 + 4 + 8]], [[2 + 3 + 26]]]]


def test_two_axes_with_padding_and_stride():
    x = [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]
    w = [[[[1, 2], [3, 4]]]]
    # windows at rows and columns −1 and 1 of the image
    assert run("fprop", x, w, (1, 1, 3, 3), (1, 1, 2, 2), padding=1, stride=2) == [[[[4, 6 + 12], [8 + 28, 5 + 12 + 24 + 36]]]]


def test_groups_do_not_see_each_other():
    x = [[[1, 2], [10, 20]]]
    w = [[[1, 1]], [[1, -1]], [[2, 1]], [[0, 1]]]
    assert run("fprop", x, w, (1, 2, 2), (4, 1, 2), groups=2) == [[[3], [-1], [40], [20]]]


def test_three_axes():
    x = np.arange(8).reshape(1, 1, 2, 2, 2)
    w = [[[[[1, 0], [0, 0]], [[0, 0], [0, 10]]]]]
    assert run("fprop", x, w, (1, 1, 2, 2, 2), (1, 1, 2, 2, 2)) == [[[[[0 + 70]]]]]


def test_channels_last_is_the_same_sum_in_another_order():
    problem = ConvProblem.from_shapes((1, 2, 2), (2, 2, 1), rank=1, channels_last=True)
    x = np.array([[1, 2], [3, 4]]).reshape(1, 1, 1, 2, 2)  # positions × channels
    w = np.array([[1, 10], [0, 1]]).reshape(2, 2, 1, 1, 1)
    assert reference.run(problem, "fprop", x, w).reshape(2, 2).tolist() == [[21, 2], [43, 4]]


def test_gradient_of_the_input():
    # every output sends w · dy back: dy₀ to 0, 1, 2 and dy₁ to 2, 3, 4
    assert run("dgrad", [[[1, 10]]], W, (1, 1, 5), (1, 1, 3), stride=2) == [[[1, 0, -2 + 10, 0, -20]]]
    assert run("dgrad", [[[1, 10, 100]]], W, (1, 1, 5), (1, 1, 3), stride=2, padding=1) == [[[0, -2 + 10, 0, -20 + 100, 0]]]


def test_gradient_of_the_filters():
    assert run("wgrad", [[[1, 10, 100]]], X, (1, 1, 5), (1, 1, 3)) == [[[321, 432, 543]]]
    assert run("wgrad", [[[1, 10]]], X, (1, 1, 5), (1, 1, 3), stride=2) == [[[31, 42, 53]]]
    assert run("wgrad", [[[1, 10]]], X, (1, 1, 5), (1, 1, 2), dilation=3) == [[[21, 54]]]


def test_gradient_of_the_filters_sums_over_the_batch():
    assert run("wgrad", [[[1]], [[10]]], [[[1, 2]], [[3, 4]]], (2, 1, 2), (1, 1, 2)) == [[[31, 42]]]


def test_transposed_convolution():
    assert run("dgrad", [[[1, 2]]], [[[1, 10, 100]]], (1, 1, 2), (1, 1, 3), True) == [[[1, 12, 120, 200]]]
    assert run("dgrad", [[[1, 2]]], [[[1, 10, 100]]], (1, 1, 2), (1, 1, 3), True, stride=2) == [[[1, 10, 102, 20, 200]]]
    assert run("dgrad", [[[1, 2]]], [[[1, 10, 100]]], (1, 1, 2), (1, 1, 3), True, stride=2, padding=1) == [[[10, 102, 20]]]
    assert run("dgrad", [[[1, 2]]], [[[1, 10]]], (1, 1, 2), (1, 1, 2), True, stride=3, output_padding=2) == [[[1, 10, 0, 2, 20, 0, 0]]]


def test_transposed_convolution_sums_over_its_inputs():
    assert run("dgrad", [[[1], [2]]], [[[1, 2]], [[10, 20]]], (1, 2, 1), (2, 1, 2), True) == [[[21, 42]]]


def test_flipped_taps_make_a_convolution_and_input_dilation_spreads_the_input():
    shape = {"batch": 1, "in_channels": 1, "out_channels": 1, "groups": 1}
    flipped = ConvProblem(**shape, input=(1, 1, 3), filter=(1, 1, 2), output=(1, 1, 4), low=(0, 0, 1), flipped=True)
    x, w = np.array([1, 2, 3]).reshape(1, 1, 1, 1, 3), np.array([10, 1]).reshape(1, 1, 1, 1, 2)
    assert reference.run(flipped, "fprop", x, w).ravel().tolist() == np.convolve([1, 2, 3], [10, 1]).tolist() == [10, 21, 32, 3]
    spread = ConvProblem(**shape, input=(1, 1, 3), filter=(1, 1, 2), output=(1, 1, 4), input_dilation=(1, 1, 2))
    assert reference.run(spread, "fprop", x, w).ravel().tolist() == [10, 2, 20, 3]  # 1 0 2 0 3


def test_bias_then_activation():
    problem = ConvProblem.from_shapes((1, 1, 3), (2, 1, 1), rank=1)
    x, w = np.array([-2.0, 0, 1]).reshape(1, 1, 1, 1, 3), np.array([1.0, 2]).reshape(2, 1, 1, 1, 1)
    out = reference.run(problem, "fprop", x, w, np.array([1.0, -1]), "relu")
    assert out.reshape(2, 3).tolist() == [[0, 1, 2], [0, 0, 1]]


def test_activations_by_value():
    at = {name: f(np.array([-1.0, 0.0, 2.0])) for name, f in reference.ACTIVATIONS.items()}
    np.testing.assert_allclose(at["leaky_relu"], [-0.01, 0, 2])
    np.testing.assert_allclose(at["sigmoid"], [0.2689414213699951, 0.5, 0.8807970779778823])
    np.testing.assert_allclose(at["silu"], [-0.2689414213699951, 0, 1.7615941559557646])
    np.testing.assert_allclose(at["tanh"], [-0.7615941559557649, 0, 0.9640275800758169])
    np.testing.assert_allclose(at["gelu"], [-0.15865525393145707, 0, 1.9544997361036416], atol=1e-15)


def test_integers_wrap_and_do_not_pass_through_a_float():
    problem = ConvProblem.from_shapes((1, 1, 1), (1, 1, 1), rank=1)
    one = np.ones((1, 1, 1, 1, 1), np.int64)
    assert reference.run(problem, "fprop", one * (2**62 + 1), one).item() == 2**62 + 1
    assert reference.run(problem, "fprop", one.astype(np.int8) * 100, one.astype(np.int8) * 2).item() == 200 - 256
