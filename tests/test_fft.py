"""Transforms of tiles: every instruction set, the ways to cut a problem, what is large, small, NaN or infinite."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cases import exact_sum, fill, operands, poisoned
from tolerance import norms

import numbaconv as nc
from numbaconv import reference
from numbaconv._jit import compiled
from numbaconv.cpu import _isa, _overlap, _transform, fft
from numbaconv.problem import OPS, TENSORS, ConvProblem, Options

LAYERS = [
    ((1, 1, 1000), (1, 1, 300), {"padding": 150}),
    ((3, 1, 500), (1, 1, 500), {"padding": 499}),
    ((2, 3, 700), (4, 3, 60), {"stride": 3, "dilation": 2, "padding": 20}),
    ((2, 4, 40, 50), (4, 1, 11, 9), {"groups": 4, "padding": (5, 4)}),
    ((1, 2, 30, 31), (3, 2, 30, 31), {}),
    ((2, 2, 9, 12, 14), (2, 2, 5, 4, 6), {"padding": 2}),
]


def problems() -> Any:
    for x, w, options in LAYERS:
        for last in (False, True):
            yield ConvProblem.from_shapes((x[0], *x[2:], x[1]) if last else x, w, rank=len(x) - 2, channels_last=last, **options)


def compute(problem: ConvProblem, op: Any, a: Any, b: Any) -> Any:
    out = poisoned(problem.shape(TENSORS[op][2]), a.dtype)
    fft.run(problem, op, a, b, out, Options())
    return out


HOST = _isa.host().name


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in _isa.ISAS), (HOST, "complex128")])
def test_every_instruction_set(name, dtype, rng, monkeypatch):
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    for problem, op in itertools.product(list(problems())[:: 1 if name == HOST else 3], OPS):
        a, b = operands(problem, op, dtype, rng, "signed")
        error = np.abs(compute(problem, op, a, b) - exact_sum(problem, op, a, b)).max()
        assert error <= np.finfo(dtype).eps * norms(a, b), (problem, op)


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in _isa.ISAS), (HOST, "float64")])
def test_transforms_of_every_length(name, dtype, rng):
    isa, dtype = _isa.ISAS[name], np.dtype(dtype)
    width = isa.width(dtype)
    for size in ((1, 1, width**2 * n) for n in (1, 2, 3, 5, 8, 30, 64)):
        check_transform(isa, dtype, size, rng)
    for size in ((1, width, width), (3, width, 2 * width), (width, 5, 3 * width), (4, 6 * width, width)):
        check_transform(isa, dtype, size, rng)


def check_transform(isa: Any, dtype: Any, size: Any, rng: Any) -> None:
    """Transform, multiply by a spectrum and transform back: a circular convolution."""
    made, n = _transform.transform(isa, dtype, size), int(np.prod(size))
    forward, inverse, multiply = transforms(isa, dtype, size[:2] == (1, 1))
    x, h = (rng.standard_normal(size) + 1j * rng.standard_normal(size) for _ in range(2))

    def planes(z: Any) -> Any:
        return np.concatenate([z.real.ravel(), z.imag.ravel()]).astype(dtype)

    data, spectrum = planes(x), planes(h)
    forward(spectrum, n, *made[1:], spectrum)
    multiply(data, n, *made[1:], spectrum)
    inverse(spectrum, n, *made[1:], spectrum)
    found, back = ((z[:n] + 1j * z[n:]).reshape(size) / n for z in (data, spectrum))
    exact = np.fft.ifftn(np.fft.fftn(x) * np.fft.fftn(h))
    assert np.max(abs(found - exact)) <= 8 * np.finfo(dtype).eps * np.max(abs(exact)), size
    assert np.max(abs(back - h)) <= 8 * np.finfo(dtype).eps * np.max(abs(h)), size


def transforms(isa: Any, dtype: Any, flat: bool) -> list[Any]:
    """Return the compiled transforms, there, back and both, as functions of whole arrays."""

    def make(function: Any, name: str) -> Any:
        def run(data, plane, sizes, stages, factors, spectrum):  # type: ignore[no-untyped-def]
            function(data, 0, plane, sizes, stages, factors, spectrum, 0)

        return compiled(run, f"test-{name}-{isa.name}-{dtype.name}-{flat}")

    return [make(function, name) for function, name in zip(_transform.functions(isa, dtype, flat), ("there", "back", "both"), strict=True)]


def test_factors_multiply_to_the_length():
    for n in (1, 2, 3, 4, 5, 6, 7 * 0 + 8, 9, 15, 16, 24, 45, 64, 96, 128, 1024, 2048, 3 * 2**15, 5 * 2**13):
        for largest in (4, 8):
            radices = _transform.factorise(n, largest)
            assert int(np.prod(radices, dtype=object)) == n
            assert set(radices) <= {2, 3, 4, 5, 8}
            assert max(radices, default=1) <= max(largest, 5)


def test_lengths_are_at_least_what_is_needed_and_not_much_more():
    for least, unit in itertools.product((1, 7, 100, 1000, 99_999), (1, 16, 256)):
        found = _transform.lengths(least, unit)
        assert all(n >= least and n % unit == 0 for n in found)
        assert found[0] <= max(unit, 1.25 * least + unit)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_nan_and_infinity_spread_as_in_the_direct_sum(dtype, rng):
    problem = ConvProblem.from_shapes((2, 1, 4000), (1, 1, 100), rank=1, padding=50)
    for bad in (np.nan, np.inf, -np.inf):
        x, w = operands(problem, "fprop", dtype, rng, "signed")
        x[0, 0, 0, 0, 3000], x[1, 0, 0, 0, 0] = bad, bad
        with np.errstate(invalid="ignore"):
            expected, found = reference.run(problem, "fprop", x, w), compute(problem, "fprop", x, w)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        if dtype != "complex64":
            np.testing.assert_array_equal(np.isposinf(found), np.isposinf(expected))
        fine = np.isfinite(expected)
        assert np.max(abs(found[fine] - expected[fine])) < 7e-4
        w[0, 0, 0, 0, 5] = bad
        with np.errstate(invalid="ignore"):
            expected, found = reference.run(problem, "fprop", x, w), compute(problem, "fprop", x, w)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("op", OPS)
def test_values_whose_products_are_finite_but_whose_spectra_are_not(op, rng):
    problem = ConvProblem.from_shapes((1, 2, 900), (2, 2, 100), rank=1)
    a, b = operands(problem, op, "float32", rng, "signed")
    a *= np.float32(1e36)
    error = abs(compute(problem, op, a, b) - exact_sum(problem, op, a, b))
    assert np.all(error <= 1e-5 * reference.run(problem, op, abs(a).astype(float), abs(b).astype(float)))


@pytest.mark.parametrize("spike", [1e3, 1e5, 1e8])
def test_one_huge_sample_does_not_drown_the_rest(spike, rng):
    problem = ConvProblem.from_shapes((1, 1, 12_000), (1, 1, 200), rank=1)
    x, w = operands(problem, "fprop", "float32", rng, "signed")
    x[0, 0, 0, 0, 5999] = spike
    exact, found = exact_sum(problem, "fprop", x, w), compute(problem, "fprop", x, w)
    error = abs(found - exact)[0, 0, 0, 0]
    untouched = np.ones(error.size, bool)
    untouched[5999 - 199 : 6000] = False
    assert error[untouched].max() < 1.2e-3  # of values near 14


def test_a_quiet_signal_beside_a_loud_one_keeps_its_precision(rng):
    x, w = fill((4, 1, 1, 1, 3000), "float32", rng, "signed"), fill((1, 1, 1, 1, 300), "float32", rng, "signed")
    x[1] *= np.float32(1e6)
    x[3] = 0
    problem = ConvProblem.from_shapes((4, 1, 3000), (1, 1, 300), rank=1)
    error = abs(compute(problem, "fprop", x, w) - exact_sum(problem, "fprop", x, w)).max((1, 2, 3, 4))
    assert error[0] < 1e-3 and error[2] < 1e-3 and error[3] == 0


def test_prepared_filters_give_the_same(rng):
    problem = next(problems())
    x, w = operands(problem, "fprop", "float32", rng, "signed")
    out = poisoned(problem.shape("y"), "float32")
    fft.run(problem, "fprop", x, np.full_like(w, np.nan), out, Options(packed=fft.prepare(problem, "fprop", w)))
    np.testing.assert_array_equal(out, compute(problem, "fprop", x, w))


def test_filters_prepared_for_another_dilation_are_not_taken(rng):
    x, w = fill((1, 1, 200), "float32", rng, "signed"), fill((1, 1, 9), "float32", rng, "signed")
    prepared = nc.prepare(w, x.shape, method="fft")
    for dilation in (1, 2, 3):
        options = {"method": "fft", "dilation": dilation}
        np.testing.assert_array_equal(nc.conv1d(x, prepared, **options), nc.conv1d(x, w, **options))


def test_every_cut_of_an_axis_covers_it():
    for problem in problems():
        for op, axis in itertools.product(("fprop", "wgrad"), range(3)):
            outputs = (problem.output[axis] - 1) * problem.stride[axis] + 1
            for cut in _overlap.cuts(problem, op, axis, 16):
                assert cut.length % 16 == 0 and cut.tiles * cut.step >= outputs and (cut.tiles - 1) * cut.step < outputs
                assert cut.tiles == 1 or cut.step <= cut.length - _overlap.extent(problem, axis) + 1
