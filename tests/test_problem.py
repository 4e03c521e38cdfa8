"""The geometry against enumeration: the equation, both involutions, every size formula and every shape error."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import NAMED, random_case, random_problem

from numbaconv import reference
from numbaconv.problem import ConvProblem, axis_values, conv_output_size

Triples = set[tuple[int, int, int]]


def triples(p: ConvProblem, axis: int) -> Triples:
    """Return every (i, o, stored tap) of an axis, by trying all of them in i·u + lo = o·s + r·d."""
    u, s, d, lo, taps = (v[axis] for v in (p.input_dilation, p.stride, p.dilation, p.low, p.filter))
    found = product(range(p.input[axis]), range(p.output[axis]), range(taps))
    return {(i, o, taps - 1 - r if p.flipped else r) for i, o, r in found if i * u + lo == o * s + r * d}


def geometry(p: ConvProblem) -> tuple[Any, ...]:
    return (p.batch, p.in_channels, p.out_channels, p.groups, p.input, p.filter, p.output, p.stride, p.dilation, p.input_dilation, p.low,
            p.flipped, p.channels_last, p.rank)  # fmt: skip


def test_transpose_exchanges_input_and_output_on_4000_geometries(rng):
    for _ in range(4000):
        p = random_problem(rng, generic=True, largest=5)
        t = p.transpose()
        assert geometry(t.transpose()) == geometry(p)
        assert t.transpose() == p
        for axis in range(3):
            assert triples(t, axis) == {(o, i, r) for i, o, r in triples(p, axis)}, (p, axis)
        assert (t.shape("x"), t.shape("y")) == (p.shape("y"), p.shape("x"))


def test_swap_filter_output_exchanges_filter_and_output_on_4000_geometries(rng):
    for _ in range(4000):
        p = random_problem(rng, generic=True, largest=5)
        if p.flipped:
            with pytest.raises(ValueError, match="flipped"):
                p.swap_filter_output()
            continue
        q = p.swap_filter_output()
        assert geometry(q.swap_filter_output()) == geometry(p)
        for axis in range(3):
            assert triples(q, axis) == {(i, r, o) for i, o, r in triples(p, axis)}, (p, axis)


def test_the_pairs_of_the_reference_are_those_of_the_equation(rng):
    for _ in range(1000):
        p = random_problem(rng, generic=True, largest=5)
        for axis in range(3):
            found = {(i, o, r) for r in range(p.filter[axis]) for i, o in zip(*reference.pairs(p, axis, r), strict=True)}
            assert found == triples(p, axis), (p, axis)


def test_wgrad_is_the_fprop_of_the_swapped_problem(rng):
    for _ in range(100):
        p = random_problem(rng, largest=4)
        if p.channels_last or not p.batch:
            continue
        x, dy = rng.integers(-3, 4, p.shape("x")), rng.integers(-3, 4, p.shape("y"))
        g, c = p.groups, p.in_channels // p.groups
        swapped_x = x.reshape(p.batch, g, c, *p.input).transpose(2, 1, 0, 3, 4, 5).reshape(c, g * p.batch, *p.input)
        swapped = reference.run(p.swap_filter_output(), "fprop", swapped_x, dy.swapaxes(0, 1))
        np.testing.assert_array_equal(swapped.swapaxes(0, 1), reference.run(p, "wgrad", dy, x))


def test_output_size_counts_the_windows_that_fit(rng):
    for size, taps, stride, dilation, padding in product(range(0, 9), range(1, 5), range(1, 5), range(1, 4), range(-3, 5)):
        padded, extent = size + padding, (taps - 1) * dilation + 1
        fits = sum(1 for start in range(0, max(0, padded), stride) if start + extent <= padded)
        computed = conv_output_size(size, taps, stride, dilation, padding)
        assert max(computed, 0) == fits, (size, taps, stride, dilation, padding)


def test_sizes_of_random_calls_follow_the_documented_formulas(rng):
    for _ in range(2000):
        case = random_case(rng)
        p, rank = case.problem, case.rank
        options = case.options
        x_size, y_size = (p.output, p.input) if case.transposed else (p.input, p.output)
        for a in range(rank):
            axis, s, d = 3 - rank + a, options["stride"][a], options["dilation"][a]
            extra = options["output_padding"][a] if "output_padding" in options else 0
            size, out, taps, padding = x_size[axis], y_size[axis], p.filter[axis], options["padding"]
            if padding in ("same", "same_lower"):
                assert out == (size * s if case.transposed else -(-size // s)), case
                continue
            lo, hi = (0, 0) if padding == "valid" else padding[a] if isinstance(padding[a], tuple) else (padding[a],) * 2
            full = (size - 1) * s - lo - hi + d * (taps - 1) + extra + 1
            assert out == (full if case.transposed else (size + lo + hi - d * (taps - 1) - 1) // s + 1), case
            assert p.low[axis] == lo
        assert p.input_dilation == (1, 1, 1) and not p.flipped
        assert all(type(v) is int for t in (p.input, p.filter, p.output, p.stride, p.dilation, p.low) for v in t)


def test_high_is_the_padding_that_the_outputs_reach(rng):
    for _ in range(500):
        p = random_problem(rng, generic=True, largest=5)
        for axis in range(3):
            u, s, d, lo = (v[axis] for v in (p.input_dilation, p.stride, p.dilation, p.low))
            dilated = (p.input[axis] - 1) * u + 1
            last_read = (p.output[axis] - 1) * s + (p.filter[axis] - 1) * d
            assert lo + dilated + p.high[axis] == last_read + 1


@pytest.mark.parametrize(("padding", "first"), [("same", 0), ("same_lower", 1)])
def test_same_is_that_of_onnx_and_tensorflow_with_any_stride(padding, first):
    for size, taps, stride, dilation in product(range(1, 12), range(1, 6), range(1, 6), range(1, 4)):
        p = ConvProblem.from_shapes((1, 1, size), (1, 1, taps), rank=1, stride=stride, dilation=dilation, padding=padding)
        out = -(-size // stride)
        total = max((out - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
        assert p.output[2] == out
        assert p.low[2] == (total + first) // 2


def test_transposed_same_is_the_adjoint_of_same():
    for size, taps, stride in product(range(1, 6), range(1, 6), range(1, 5)):
        up = ConvProblem.from_transposed_shapes((1, 1, size), (1, 1, taps), rank=1, stride=stride, padding="same")
        down = ConvProblem.from_shapes((1, 1, size * stride), (1, 1, taps), rank=1, stride=stride, padding="same")
        assert up == down, (size, taps, stride)


def test_ways_to_write_the_same_padding_agree():
    def build(padding: Any) -> ConvProblem:
        return ConvProblem.from_shapes((1, 2, 9, 8), (3, 2, 3, 2), rank=2, padding=padding)

    for ways in (
        [2, (2, 2), [2, 2], (2,), ((2, 2), (2, 2)), ((2, 2),), np.int64(2), np.array([2, 2]), np.array([[2, 2], [2, 2]]), [[2, 2], [2, 2]]],
        [(1, 0), [1, 0], ((1, 1), (0, 0)), [(1, 1), (0, 0)], np.array([1, 0]), (np.int8(1), np.uint16(0))],
        ["valid", 0, ((0, 0), (0, 0))],
    ):
        assert len({geometry(build(way)) for way in ways}) == 1, ways


def test_whole_numbers_of_any_kind_are_taken_and_become_ints():
    one = ConvProblem.from_shapes((2, 4, 9, 8), (6, 2, 3, 2), rank=2, stride=(2, 1), dilation=(1, 3), groups=2, padding=1)
    other = ConvProblem.from_shapes(
        np.array([2, 4, 9, 8], np.int32), [np.uint8(6), np.int16(2), np.int64(3), 2], rank=2,
        stride=np.array([2, 1]), dilation=[np.int8(1), 3], groups=np.int64(2), padding=np.array(1),
    )  # fmt: skip
    assert one == other
    assert all(type(v) is int for t in (other.stride, other.dilation, other.low) for v in t)


@pytest.mark.parametrize("name", ["stride", "dilation", "padding", "groups"])
@pytest.mark.parametrize("value", [1.0, np.float64(2), None, (1.0, 1), "two", 1j])
def test_options_that_are_not_whole_numbers_are_refused_by_name(name, value):
    with pytest.raises((TypeError, ValueError), match=name):
        ConvProblem.from_shapes((1, 2, 9, 8), (2, 2, 3, 2), rank=2, **{name: value})


ERRORS = [
    ((1, 3, 9), (2, 3, 3), {"rank": 2}, ValueError, r"x must be NCHW .*\(1, 3, 9\)"),
    ((1, 3, 9, 9), (2, 3, 3), {"rank": 2}, ValueError, r"w must have 4 axes.*\(2, 3, 3\)"),
    ((1, 3, 9), (2, 4, 3), {"rank": 1}, ValueError, r"w has shape \(2, 4, 3\).*4 channels.*x of shape \(1, 3, 9\) has 3"),
    ((1, 4, 9), (3, 2, 3), {"rank": 1, "groups": 2}, ValueError, "groups must divide.*3.*groups=2"),
    ((1, 4, 9), (4, 4, 3), {"rank": 1, "groups": 0}, ValueError, "groups must be at least 1, got 0"),
    ((1, 4, 9), (4, 4, 3), {"rank": 1, "groups": -2}, ValueError, "groups must be at least 1, got -2"),
    ((1, 4, 9), (4, 4, 0), {"rank": 1}, ValueError, r"w must have at least one tap.*\(4, 4, 0\)"),
    ((1, 4, -9), (4, 4, 3), {"rank": 1}, ValueError, r"negative.*-9"),
    ((1, 4, 9), (4, 4, 3), {"rank": 1, "stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ((1, 4, 9), (4, 4, 3), {"rank": 1, "stride": -1}, ValueError, "stride must be at least 1, got -1"),
    ((1, 4, 9), (4, 4, 3), {"rank": 1, "dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "stride": (1, 2, 3)}, ValueError, r"stride.*\(1, 2, 3\)"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "stride": ()}, ValueError, r"stride.*\(\)"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "stride": (1, 0)}, ValueError, r"stride.*\(1, 0\)"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "padding": (1, 2, 3)}, ValueError, r"padding.*\(1, 2, 3\)"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "padding": ((1, 2), (3, 4), (5, 6))}, ValueError, r"padding.*\(5, 6\)"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "padding": ((1, 2, 3), (3, 4, 5))}, ValueError, r"padding.*\(1, 2, 3\)"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "padding": ((1, 2), 3)}, ValueError, r"padding.*\(1, 2\), 3"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "padding": "full"}, ValueError, "padding.*'full'"),
    ((1, 4, 9, 9), (4, 4, 3, 3), {"rank": 2, "padding": "SAME"}, ValueError, "padding.*'SAME'"),
    ((1, 4, 2), (4, 4, 3), {"rank": 1}, ValueError, r"filter must not be larger than the padded input: w covers \(3,\).*x is \(2,\)"),
    ((1, 4, 4), (4, 4, 3), {"rank": 1, "dilation": 2}, ValueError, r"w covers \(5,\).*x is \(4,\)"),
    ((1, 4, 4), (4, 4, 3), {"rank": 1, "padding": -1}, ValueError, r"x is \(2,\) after padding -1"),
    ((1, 4, 0), (4, 4, 1), {"rank": 1, "padding": "same"}, ValueError, "filter must not be larger"),
]
TRANSPOSED_ERRORS = [
    ((1, 3, 9), (2, 3, 3), {"rank": 1}, ValueError, r"w is \(in_channels.*\(2, 3, 3\).*2 input channels.*has 3"),
    ((1, 3, 9), (3, 3, 3), {"rank": 1, "groups": 2}, ValueError, "groups must divide.*3.*groups=2"),
    ((1, 3, 9), (3, 3, 3), {"rank": 1, "output_padding": 1}, ValueError, "output_padding must be smaller.*1"),
    ((1, 3, 9), (3, 3, 3), {"rank": 1, "stride": 2, "output_padding": 2}, ValueError, "output_padding.*2"),
    ((1, 3, 9), (3, 3, 3), {"rank": 1, "output_padding": -1}, ValueError, "output_padding must be at least 0, got -1"),
    ((1, 3, 9), (3, 3, 3), {"rank": 1, "output_padding": 0.5}, TypeError, "output_padding.*0.5"),
    ((1, 3, 2), (3, 3, 3), {"rank": 1, "padding": 2}, ValueError, r"padding 2 leaves nothing of the output"),
    ((1, 3, 2), (3, 3, 3), {"rank": 1, "padding": "wide"}, ValueError, "padding.*'wide'"),
    ((1, 3, 0), (3, 3, 3), {"rank": 1, "stride": 3}, ValueError, "output|x"),
]


@pytest.mark.parametrize(("x", "w", "options", "error", "message"), ERRORS)
def test_wrong_shapes_and_options_say_what_was_given(x, w, options, error, message):
    with pytest.raises(error, match=message):
        ConvProblem.from_shapes(x, w, **options)


@pytest.mark.parametrize(("x", "w", "options", "error", "message"), TRANSPOSED_ERRORS)
def test_wrong_transposed_shapes_and_options_say_what_was_given(x, w, options, error, message):
    with pytest.raises(error, match=message):
        ConvProblem.from_transposed_shapes(x, w, **options)


def test_axis_values_expand_one_to_all_axes():
    assert axis_values(3, 2, "stride") == axis_values((3,), 2, "stride") == axis_values(np.array([3, 3]), 2, "stride") == (3, 3)
    assert axis_values([1, 2, 3], 3, "stride") == (1, 2, 3)


def test_shapes_and_matrix_sizes_of_a_grouped_volume():
    p = ConvProblem.from_shapes((2, 6, 5, 6, 7), (9, 2, 2, 3, 3), rank=3, groups=3, padding=(0, 1, 1), stride=(1, 2, 1))
    assert (p.shape("x"), p.shape("w"), p.shape("y")) == ((2, 6, 5, 6, 7), (9, 2, 2, 3, 3), (2, 9, 4, 3, 7))
    assert p.gemm_shape("fprop") == (2 * 4 * 3 * 7, 3, 2 * 18)
    assert p.gemm_shape("dgrad") == (2 * 5 * 6 * 7, 2, 3 * 18)
    assert p.gemm_shape("wgrad") == (3, 2 * 18, 2 * 4 * 3 * 7)
    assert p.macs == 2 * 4 * 3 * 7 * 9 * 2 * 18


def test_low_ranks_are_volumes_with_leading_ones():
    p = ConvProblem.from_shapes((2, 9, 4), (3, 4, 3), rank=1, channels_last=True)
    assert (p.input, p.filter, p.output) == ((1, 1, 9), (1, 1, 3), (1, 1, 7))
    assert (p.shape("x", 1), p.shape("y", 1), p.shape("w", 1)) == ((2, 9, 4), (2, 7, 3), (3, 4, 3))
    assert p.shape("x") == (2, 1, 1, 9, 4)


def test_named_cases_have_unique_names_and_a_reason():
    assert len({case.name for case in NAMED}) == len(NAMED)
    assert all(case.reason and case.problem for case in NAMED)
