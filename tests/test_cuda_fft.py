"""Transforms on the GPU, in the simulator: index arithmetic as plain functions, fused tiles, whole images, and what is computed directly."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import NAMED, exact_sum, fill, on_gpu, operands, poisoned, random_problem, to_gpu
from tolerance import norms

from numbaconv import reference
from numbaconv.cuda import _fft_contraction, _fft_planes, _fft_radix, _fft_spectra, fft
from numbaconv.cuda import direct as direct_sum
from numbaconv.cuda._backend import SIMULATED
from numbaconv.problem import OPS, TENSORS, ConvProblem, Options, Unsupported

simulated = pytest.mark.skipif(not SIMULATED, reason="about the simulator, or about functions that only kernels can call on a GPU")
MOST = 1.0  # error / (eps · ‖x‖₂‖w‖₂): tests/tolerance.py allows 8
COMPLEX = ("complex64", "complex128")


def compute(problem: ConvProblem, op: Any, a: Any, b: Any, options: Options | None = None) -> Any:
    return on_gpu(fft.run, problem, op, a, b, poisoned(problem.shape(TENSORS[op][2]), a.dtype), options)


def check(problem: ConvProblem, op: Any, dtype: Any, rng: Any, kind: Any = None) -> None:
    """Compute on random numbers and compare; ``kind`` is the class of the layout that is expected."""
    assert kind is None or isinstance(fft._layout(problem, op, np.dtype(dtype)), kind), (problem, op)
    a, b = operands(problem, op, dtype, rng, "signed")
    error = np.abs(compute(problem, op, a, b) - exact_sum(problem, op, a, b)).max(initial=0)
    assert error <= MOST * np.finfo(dtype).eps * norms(a, b), (problem, op, dtype)


@pytest.fixture
def direct(monkeypatch):
    """Return a list of how many flags calls raised, of those that raised any: what the direct sum computes again."""
    raised, original = [], direct_sum.mend

    def mend(problem, op, a, b, out, options, flags, tiling):  # type: ignore[no-untyped-def]
        original(problem, op, a, b, out, options, flags, tiling)
        if flags[0]:
            raised.append(int(flags[1:].sum()))

    monkeypatch.setattr(direct_sum, "mend", mend)
    return raised


# Index arithmetic.


@pytest.mark.parametrize("size", _fft_radix.RADICES)
def test_passes_are_a_transform(size, rng):
    z = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    expected = np.fft.fft(z)
    table = _fft_radix.factors(size, np.dtype(np.float64)) @ [1, 1j]
    for made in _fft_radix.passes(size):
        j, r = np.arange(size // made.radix)[:, None], np.arange(made.radix)
        taken = z[j + r * (size // made.radix)]
        if made.before > 1:
            powers = table[made.factors : made.factors + _fft_radix.POWERS * made.before].reshape(_fft_radix.POWERS, made.before)
            turned = np.ones((made.before, made.radix), complex)
            for bit in range(_fft_radix.POWERS):
                turned[:, (r >> bit & 1).astype(bool)] *= powers[bit, :, None]
            taken = taken * turned[j[:, 0] % made.before]
        z = np.empty_like(z)
        z[_fft_radix.leaves_at(made, j) + r * made.before] = np.fft.fft(taken, axis=1)
    np.testing.assert_allclose(z, expected, atol=1e-10)


@pytest.mark.parametrize("size", _fft_radix.RADICES)
def test_shared_memory_is_reached_without_conflicts_by_constant_distances(size):
    threads = size // _fft_radix.EACH
    for made in _fft_radix.passes(size)[:2]:
        for t, b, r in itertools.product(range(threads), range(_fft_radix.EACH // made.radix), range(made.radix)):
            at = _fft_radix.place(made, _fft_radix.leaves_at(made, t + b * threads) + r * made.before)
            first = _fft_radix.place(made, _fft_radix.leaves_at(made, t)) + b * _fft_radix.place(made, _fft_radix.leaves_at(made, threads))
            assert at == first + r * made.before < _fft_radix.shared_elements(size)
        for t, i in itertools.product(range(threads), range(_fft_radix.EACH)):
            one, two = _fft_radix.place(made, threads), _fft_radix.place(made, 2 * threads)
            assert _fft_radix.place(made, t + i * threads) == _fft_radix.place(made, t) + i // 2 * two + i % 2 * one
        for warp in range(0, threads, _fft_radix.BANKS):
            lanes = range(warp, warp + _fft_radix.BANKS)
            assert len({_fft_radix.place(made, _fft_radix.leaves_at(made, t)) % _fft_radix.BANKS for t in lanes}) == _fft_radix.BANKS
            assert len({_fft_radix.place(made, t) % _fft_radix.BANKS for t in lanes}) == _fft_radix.BANKS


@simulated
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transforms_in_registers(dtype, rng):
    twice_eight, sixteen = _fft_radix.transforms(np.dtype(dtype))
    z = rng.standard_normal((16, 2)).astype(dtype)
    numbers = z.astype(float) @ [1, 1j]

    def found(pairs: Any) -> Any:
        return np.array([[float(v) for v in pair] for pair in pairs]) @ [1, 1j]

    given, eps = tuple(map(tuple, z)), 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(found(sixteen(given)), np.fft.fft(numbers), atol=eps)
    np.testing.assert_allclose(found(twice_eight(given)), np.fft.fft(numbers.reshape(8, 2), axis=0).ravel(), atol=eps)
    w = np.exp(-0.3j)
    powers = [(np.dtype(dtype).type((w**n).real), np.dtype(dtype).type((w**n).imag)) for n in range(9)]
    np.testing.assert_allclose(found(_fft_radix.turn_sixteen(given, *(powers[n] for n in (1, 2, 4, 8)))), numbers * w ** np.arange(16), atol=eps)
    eights = found(_fft_radix.turn_eights(given, powers[1], powers[2], powers[4], powers[2], powers[4], powers[8]))
    np.testing.assert_allclose(eights, numbers * w ** (np.arange(16) // 2 * (1 + np.arange(16) % 2)), atol=eps)


@simulated
def test_circles_hold_what_every_output_sees(rng):
    for _ in range(3000):
        p = random_problem(rng, generic=True)
        for op, axis in itertools.product(("fprop", "wgrad"), range(3)):
            c = _fft_spectra.circle(p, op, axis)
            o, r = np.arange(p.output[axis])[:, None] * p.stride[axis], np.arange(p.filter[axis]) * p.dilation[axis]
            i, rest = np.divmod(o + r - p.low[axis], p.input_dilation[axis])
            expected = np.where((rest == 0) & (i >= 0) & (i < p.input[axis]), i, -1)
            places = (j := np.arange(c.length)) + c.from_
            places = np.where(places >= c.wrap, places - c.wrap, places)
            laid = np.where(
                (places % p.input_dilation[axis] == 0) & (places // p.input_dilation[axis] < c.size), places // p.input_dilation[axis], -1
            )
            np.testing.assert_array_equal(laid[(o + r) % c.length], expected)
            assert len(set(r % c.length)) == r.size and (op == "fprop" or len(set(o.ravel() % c.length)) == o.size)
            k = int(rng.integers(c.length))
            assert _fft_spectra.laid(int(j[k]), c.from_, c.wrap, p.input_dilation[axis], c.size, p.input[axis], 0) == laid[k]


@simulated
@pytest.mark.parametrize(("rows", "columns", "terms"), [(1, 1, 1), (1, 6, 3), (5, 1, 2), (3, 7, 2), (6, 5, 3)])
def test_products_of_spectra(rows, columns, terms, rng):
    groups, n = 2, 37
    a, b, c = (
        fill(shape, "complex64", rng, "signed") for shape in ((groups, rows, terms, n), (groups, columns, terms, n), (groups, rows, columns, n))
    )
    expected = np.einsum("grtf,gctf->grcf", a.astype(complex), b.astype(complex))
    strides = (rows * terms, terms, 1, columns * terms, terms, 1, rows * columns, columns, 1)
    for again in (0, 1):
        found, geo = c.copy(), _fft_contraction.Contraction(n, groups, rows, columns, terms, *strides, 1, 1, again)
        cut, tall, blocks = _fft_contraction.tiled(geo)
        factors = (a, b) if rows <= columns else (b, a)
        numbers = [_fft_planes.numbers(array) for array in (*factors, found)]
        _fft_contraction.multiply(np.dtype(np.float32), tall).launch((blocks, 1, 1), numbers, cut)
        np.testing.assert_allclose(found, expected + again * c, atol=1e-5)


# Fused tiles.


@pytest.mark.parametrize(("size", "taps", "outputs"), [(512, 100, 500), (1024, 400, 1000), (2048, 1000, 1500), (4096, 2500, 2000)])
def test_tiles_of_every_size(size, taps, outputs, rng, monkeypatch):
    monkeypatch.setattr(_fft_radix, "RADICES", {size: _fft_radix.RADICES[size]})
    problem = ConvProblem.from_shapes((1, 1, outputs + taps - 31), (1, 1, taps), rank=1, padding=((9, 21),))
    assert fft._layout(problem, "fprop", np.dtype(np.float32)).size == size
    check(problem, "fprop", "float32", rng, fft.Tiles)


@pytest.mark.parametrize("dtype", ["float64", *COMPLEX])
def test_tiles_of_every_dtype(dtype, rng):
    problem = ConvProblem.from_shapes((3, 1, 300), (1, 1, 200), rank=1, padding=60)
    check(problem, "fprop", dtype, rng, fft.Tiles)


SIGNALS: list[tuple[Any, Any, dict[str, Any]]] = [
    ((2, 3, 90), (6, 1, 20), {"groups": 3, "padding": 7}),
    ((1, 2, 150), (2, 1, 21), {"groups": 2, "stride": 3, "dilation": 2, "padding": ((11, 0),)}),
    ((1, 2, 200), (4, 1, 30), {"groups": 2, "padding": ((-9, -30),)}),
    ((3, 1, 40), (1, 1, 40), {"padding": 39}),
]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_signals(signal, dtype, rng, monkeypatch):
    x, w, options = signal
    monkeypatch.setattr(_fft_planes, "layout", lambda *_: "cannot: only tiles are tested")
    for last in (False, True):
        p = ConvProblem.from_shapes((x[0], *x[2:], x[1]) if last else x, w, rank=1, channels_last=last, **options)
        check(p, "fprop", dtype, rng)
        check(replace(p, flipped=True, derived={}), "fprop", dtype, rng)
        if p.in_channels == p.out_channels:
            check(p, "dgrad", dtype, rng)


def test_a_signal_of_several_blocks(rng):
    problem = ConvProblem.from_shapes((1, 1, 1700), (1, 1, 80), rank=1, stride=1)
    layout = fft._layout(problem, "fprop", np.dtype(np.float32))
    assert layout.geo.members >= 3 and layout.plain
    check(problem, "fprop", "float32", rng)


# Whole images.


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", NAMED, ids=lambda case: case.name)
def test_named_cases(case, op, rng, direct):
    try:
        fft.cost(case.problem, op, np.dtype(np.float32))
    except Unsupported as reason:
        assert "at least one term" in str(reason)
        return
    check(case.problem, op, "float32", rng)


def test_random_images(rng):
    for number in range(60):
        p, op = random_problem(rng, generic=number % 2 == 0, largest=6), OPS[number % 3]
        if (op == "wgrad" and p.flipped) or 0 in p.shape("x") or isinstance(fft._layout(p, op, np.dtype(np.float32)), fft.Tiles):
            continue
        check(p, op, ("float32", "float64", *COMPLEX)[number % 4], rng, fft.Planes)


@pytest.mark.parametrize("op", OPS)
def test_chunks_of_images_give_the_same(op, rng, monkeypatch):
    problem = ConvProblem.from_shapes((5, 3, 8, 9), (2, 3, 4, 5), rank=2, padding=2)
    a, b = operands(problem, op, "float32", rng, "signed")
    whole = compute(problem, op, a, b)
    monkeypatch.setattr(_fft_planes, "CHUNK_BYTES", problem_bytes := 2 * fft.workspace(problem, op, np.dtype(np.float32)) // 6)
    problem.derived.clear()
    assert (
        fft._layout(problem, op, np.dtype(np.float32)).images in (1, 2, 3) and fft.workspace(problem, op, np.dtype(np.float32)) > problem_bytes // 2
    )
    np.testing.assert_allclose(compute(problem, op, a, b), whole, atol=1e-4)


# Options, refusals.


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("shape", [((2, 1, 60), (2, 1, 20), 1), ((2, 2, 9, 8), (3, 2, 4, 3), 2)])
def test_bias_activation_and_prepared_filters(activation, shape, rng):
    problem = ConvProblem.from_shapes(*shape[:2], rank=shape[2], padding=1)
    x, w = operands(problem, "fprop", "float32", rng, "signed")
    bias = fill((problem.out_channels,), "float32", rng, "signed")
    expected = reference.run(problem, "fprop", x.astype(float), w.astype(float), bias.astype(float), activation)
    packed = fft.prepare(problem, "fprop", to_gpu(w))
    found = compute(problem, "fprop", x, np.full_like(w, np.nan), Options(bias, activation, packed))
    assert np.abs(found - expected).max() <= 2 * np.finfo(np.float32).eps * (norms(x, w) + norms(bias, np.ones(1)))
    np.testing.assert_array_equal(found, compute(problem, "fprop", x, w, Options(bias, activation)))


@pytest.mark.parametrize("shape", [((2, 1, 60), (2, 1, 20), 1), ((2, 2, 9, 8), (3, 2, 4, 3), 2)])
def test_bias_of_complex_numbers(shape, rng):
    problem = ConvProblem.from_shapes(*shape[:2], rank=shape[2])
    x, w = operands(problem, "fprop", "complex64", rng, "signed")
    bias = fill((problem.out_channels,), "complex64", rng, "signed")
    error = compute(problem, "fprop", x, w, Options(bias)) - compute(problem, "fprop", x, w) - bias.reshape(-1, 1, 1, 1)
    assert np.abs(error).max() < 1e-5


def test_what_it_refuses():
    problem = ConvProblem.from_shapes((1, 1, 9), (1, 1, 3), rank=1)
    for dtype in ("int32", "uint8"):
        with pytest.raises(Unsupported, match="floating-point"):
            fft.cost(problem, "fprop", np.dtype(dtype))
    with pytest.raises(Unsupported, match="not flipped"):
        fft.cost(replace(problem, flipped=True, derived={}), "wgrad", np.dtype(np.float32))
    with pytest.raises(Unsupported, match="at least one term"):
        fft.cost(ConvProblem.from_shapes((0, 1, 9), (1, 1, 3), rank=1), "fprop", np.dtype(np.float32))
    wide = ConvProblem.from_shapes((1, 600, 9), (1, 600, 3), rank=1)
    with pytest.raises(Unsupported, match="at most 512 channels"):
        fft.cost(wide, "fprop", np.dtype(np.float32))
    huge = ConvProblem.from_shapes((1, 2, 2**29), (2, 2, 3), rank=1)
    with pytest.raises(Unsupported, match="elements"):
        fft.cost(huge, "fprop", np.dtype(np.float32))


# What is not finite, or of very uneven size.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [((2, 1, 900), (1, 1, 40), 1), ((2, 2, 9, 8), (3, 2, 4, 3), 2)])
def test_nan_and_infinity_spread_as_in_the_direct_sum(bad, shape, rng, direct):
    problem = ConvProblem.from_shapes(*shape[:2], rank=shape[2], padding=2)
    for place in ("x", "w"):
        x, w = operands(problem, "fprop", "float32", rng, "signed")
        (x if place == "x" else w)[0, 0, 0, 0, 2] = bad
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(compute(problem, "fprop", x, w), reference.run(problem, "fprop", x, w), atol=1e-4)
    assert len(direct) > 1
    direct.clear()
    compute(problem, "fprop", *operands(problem, "fprop", "float32", rng, "signed"))
    assert not direct


@pytest.mark.parametrize(("op", "last", "stride"), [("fprop", True, 3), ("dgrad", False, 1)])
def test_only_the_tiles_that_need_it_are_computed_directly(op, last, stride, rng, direct):
    shape = (2, 1300, 2) if last else (2, 2, 1300)
    problem = ConvProblem.from_shapes(shape, (2, 1, 40), rank=1, groups=2, padding=5, stride=stride, channels_last=last)
    a, b = operands(problem, op, "float32", rng, "signed")
    a[(1, 0, 0, 700, 1) if last else (1, 1, 0, 0, 700)] = 1e9 if op == "fprop" else np.nan
    options = Options(bias=fill((2,), "float32", rng), activation="relu") if op == "fprop" else Options()
    with np.errstate(invalid="ignore"):
        expected = reference.run(problem, op, a.astype(float), b.astype(float), options.bias, options.activation)
    np.testing.assert_allclose(compute(problem, op, a, b, options), expected, rtol=1e-5, atol=1e-4)
    assert len(direct) == 1 and 0 < direct[0] <= 4


def test_one_huge_sample_does_not_drown_the_rest(rng, direct):
    problem = ConvProblem.from_shapes((1, 1, 2000), (1, 1, 50), rank=1)
    for spike in (1e5, 1e8):
        x, w = operands(problem, "fprop", "float32", rng, "signed")
        x[0, 0, 0, 0, 1000] = spike
        error = np.abs(compute(problem, "fprop", x, w) - exact_sum(problem, "fprop", x, w))[0, 0, 0, 0]
        assert np.delete(error, np.arange(951, 1001)).max() < 1e-4
    assert direct


@pytest.mark.parametrize("every", [16, 32])
def test_what_has_many_zeros_is_no_reason_for_the_direct_sum(every, rng, direct):
    problem = ConvProblem.from_shapes((1, 1, 1000), (1, 1, 50), rank=1)
    x, w = operands(problem, "fprop", "float32", rng, "signed")
    x[..., :] = np.where(np.arange(1000) % every > 0, 0, np.sign(x))
    error = abs(compute(problem, "fprop", x, w) - exact_sum(problem, "fprop", x, w)).max()
    assert error <= MOST * np.finfo(np.float32).eps * norms(x, w) and not direct


def test_positive_numbers_keep_to_a_bound_of_their_own(rng):
    problem = ConvProblem.from_shapes((2, 1, 1000), (1, 1, 150), rank=1)
    a, b = operands(problem, "fprop", "float32", rng, "positive")
    error = abs(compute(problem, "fprop", a, b) - exact_sum(problem, "fprop", a, b)).max()
    assert error <= 2 * np.finfo(np.float32).eps * norms(a, b)  # 0.5 here, 1.4 with 3,000 taps in tiles of 4,096


def test_a_quiet_signal_beside_a_loud_one_keeps_its_precision(rng, direct):
    x, w = fill((4, 1, 1, 1, 300), "float32", rng, "signed"), fill((1, 1, 1, 1, 60), "float32", rng, "signed")
    x[1] *= np.float32(1e6)
    x[3] = 0
    problem = ConvProblem.from_shapes((4, 1, 300), (1, 1, 60), rank=1)
    error = abs(compute(problem, "fprop", x, w) - exact_sum(problem, "fprop", x, w)).max((1, 2, 3, 4))
    assert error[0] < 1e-4 and error[2] < 1e-4 and error[3] == 0 and error[1] > 0 and not direct
