"""The public functions: what they take, what they give, and what they say when something is wrong."""

from __future__ import annotations

import copy
import doctest
import inspect
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from cases import fill
from tolerance import INEXACT

import numbaconv as nc
from numbaconv import _docs, functional, memory
from numbaconv.plan import room

FORWARD = [f"conv{t}{rank}d" for t in ("", "_transpose") for rank in (1, 2, 3)]
ERRORS = (TypeError, ValueError, MemoryError, NotImplementedError)
X, W = np.arange(24, dtype=np.float32).reshape(1, 2, 12), np.ones((3, 2, 3), np.float32)
X2, W2 = np.ones((2, 3, 8, 7), np.float32), np.ones((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize("name", [n for n in functional.__all__ if n != "PreparedWeights"])
def test_every_function_has_its_name_a_documentation_and_an_example(name):
    function = getattr(nc, name)
    assert function.__name__ == name and inspect.getdoc(function)
    for section in ("Parameters", "Returns", "Examples"):
        assert section in function.__doc__, section
    assert len(inspect.getdoc(function).splitlines()[0]) < 150


def test_the_examples_in_the_documentation_run():
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner()
    seen = 0
    for name in functional.__all__:
        for example in finder.find(getattr(functional, name), name, module=False, globs={}):
            seen += bool(example.examples)
            runner.run(example)
    assert seen >= 32
    assert runner.summarize(verbose=False).failed == 0


def test_documented_parameters_are_those_of_the_signature():
    for name, suffix in itertools.product(FORWARD, ("", "_grad_input", "_grad_weight", "_grad_bias")):
        function = getattr(nc, name + suffix)
        text = function.__doc__.split("Returns\n")[0]
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert parameter.name in text, f"{function.__name__} does not document {parameter.name}"


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        nc.conv1d(X, W, None, 2)
    with pytest.raises(TypeError):
        nc.conv1d_grad_input(np.ones((1, 3, 10)), W, X.shape, 1)


def test_unknown_options_are_refused():
    for call in (
        lambda: nc.conv1d(X, W, strides=2),
        lambda: nc.conv1d(X, W, output_padding=1),
        lambda: nc.conv1d_grad_input(np.ones((1, 3, 10)), W, X.shape, output_padding=1),
        lambda: nc.conv1d_grad_weight(X, np.ones((1, 3, 10)), W.shape, colour=1),
        lambda: nc.conv1d_backward(np.ones((1, 3, 10)), X, W, colour=1),
        lambda: nc.prepare(W, X.shape, colour=1),
    ):
        with pytest.raises(TypeError, match="strides|output_padding|colour"):
            call()


# Arguments


def test_lists_and_scalars_of_all_kinds_are_taken():
    assert nc.conv1d([[[1, 2, 3]]], [[[1, 1]]]).tolist() == [[[3, 5]]]
    assert nc.conv1d([[1.0, 2, 3]], [[[1, 1]]], [1]).tolist() == [[4, 6]]
    assert nc.conv1d(((1, 2, 3),), (((1, 1),),), stride=np.int8(1), padding=[np.int16(1)], dilation=(1,)).tolist() == [[1, 3, 5, 3]]


@pytest.mark.parametrize("bad", [
    "text", [["a", "b"]], None, object(), {"a": 1}, np.array(["x"]), np.zeros(3, "M8[s]"), np.zeros(3, "i4,f4"), [1, None],
])  # fmt: skip
def test_what_holds_no_numbers_is_a_type_error_that_names_the_argument(bad):
    with pytest.raises(TypeError, match=r"\bx must"):
        nc.conv1d(bad, W)
    with pytest.raises(TypeError, match=r"\bw must"):
        nc.conv1d(X, bad)
    if bad is not None:
        with pytest.raises(TypeError, match=r"\bbias must"):
            nc.conv1d(X, W, bad)
    with pytest.raises(TypeError, match=r"\bgrad_out must"):
        nc.conv1d_grad_input(bad, W, X.shape)
    with pytest.raises(TypeError, match=r"\bgrad_out must"):
        nc.conv1d_grad_bias(bad)


@pytest.mark.parametrize("dtype", ["O", "longdouble", "clongdouble"])
def test_dtypes_that_kernels_lack_are_refused(dtype):
    if np.dtype(dtype) in (np.dtype("d"), np.dtype("D")):
        pytest.skip("long double is double here")
    with pytest.raises(TypeError, match="x must hold.*got dtype"):
        nc.conv1d(X.astype(dtype), W)


def test_masked_arrays_are_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r"x must not be a masked array.*x\.filled"):
        nc.conv1d(np.ma.masked_less(X, 3), W)
    with pytest.raises(TypeError, match="out must be a NumPy array"):
        nc.conv1d(X, W, out=np.ma.zeros((1, 3, 10), np.float32))


def test_arrays_on_a_gpu_are_refused_by_this_room():
    class OnGPU:
        __cuda_array_interface__ = {"shape": (1, 2, 12), "typestr": "<f4", "data": (0, False), "version": 3}

    with pytest.raises(NotImplementedError, match="x is on a GPU"):
        nc.conv1d(OnGPU(), W)


def test_subclasses_and_memory_maps_are_taken(tmp_path):
    class Mine(np.ndarray):
        pass

    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    mapped[...] = X
    for x in (X.view(Mine), mapped):
        y = nc.conv1d(x, W)
        np.testing.assert_array_equal(y, nc.conv1d(X, W))
        assert type(y) is np.ndarray


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: nc.conv2d(X2[0, 0], W2), ValueError, r"x must be NCHW \(4 axes\).*\(8, 7\)"),
    (lambda: nc.conv2d(X2, W2[0]), ValueError, r"w must have 4 axes.*\(3, 3, 3\)"),
    (lambda: nc.conv2d(X2, W2[:, :2]), ValueError, r"w has shape \(4, 2, 3, 3\).*x of shape \(2, 3, 8, 7\) has 3"),
    (lambda: nc.conv2d(X2, W2, np.ones(3)), ValueError, r"bias must have shape \(4,\).*got \(3,\)"),
    (lambda: nc.conv2d(X2, W2, np.ones((4, 1))), ValueError, r"bias must have shape \(4,\).*got \(4, 1\)"),
    (lambda: nc.conv2d(X2, W2, 1.0), ValueError, r"bias must have shape \(4,\).*got \(\)"),
    (lambda: nc.conv2d(X2, W2, stride=0), ValueError, "stride must be at least 1, got 0"),
    (lambda: nc.conv2d(X2, W2, stride=1.5), TypeError, "stride.*1.5"),
    (lambda: nc.conv2d(X2, W2, padding="some"), ValueError, "padding.*'some'"),
    (lambda: nc.conv2d(X2, W2, padding=0.5), TypeError, "padding.*0.5"),
    (lambda: nc.conv2d(X2, W2, padding=None), TypeError, "padding.*None"),
    (lambda: nc.conv2d(X2, W2, dilation=9), ValueError, "covers"),
    (lambda: nc.conv2d(X2, W2, groups=2), ValueError, "groups=2"),
    (lambda: nc.conv2d(X2, W2, groups="two"), TypeError, "groups.*'two'"),
    (lambda: nc.conv2d(X2, W2, layout="CHWN"), ValueError, r"layout must be one of \('NCHW', 'NHWC'\).*'CHWN'"),
    (lambda: nc.conv1d(X, W, layout="NCHW"), ValueError, r"layout must be one of \('NCW', 'NWC'\).*'NCHW'"),
    (lambda: nc.conv2d(X2, W2, layout=3), ValueError, "layout.*3"),
    (lambda: nc.conv2d(X2, W2, activation="softmax"), ValueError, "activation.*'softmax'"),
    (lambda: nc.conv2d(X2, W2, activation=["relu"]), (TypeError, ValueError), "activation"),
    (lambda: nc.conv2d(X2.astype("c8"), W2, activation="relu"), TypeError, "activation 'relu'.*complex64"),
    (lambda: nc.conv2d(X2.astype("i4"), W2.astype("i4"), activation="tanh"), TypeError, "activation 'tanh'.*int32"),
    (lambda: nc.conv2d(X2, W2, method="magic"), ValueError, "method.*'magic'"),
    (lambda: nc.conv2d(X2, W2, method=3), TypeError, "method.*3"),
    (lambda: nc.conv2d(X2, W2, method=None), TypeError, "method.*None"),
    (lambda: nc.conv2d(X2, W2, precision="low"), ValueError, "precision.*'low'"),
    (lambda: nc.conv2d(X2, W2, precision=["highest"]), (TypeError, ValueError), "precision"),
    (lambda: nc.conv2d(X2, W2, device="abacus"), NotImplementedError, "device.*'abacus'"),
    (lambda: nc.conv2d(X2, W2, device=["cpu"]), (*ERRORS,), "device"),
    (lambda: nc.conv2d(X2, W2, stream=7), ValueError, "stream.*7"),
    (lambda: nc.conv2d(X2 > 0, W2 > 0), TypeError, "at least one array must be numeric.*bool"),
    (lambda: nc.conv2d_grad_bias(X2 > 0), TypeError, "bool"),
    (lambda: nc.conv2d_grad_bias(X2[0, 0]), ValueError, r"grad_out.*\(8, 7\)"),
    (lambda: nc.conv2d_grad_bias(X2, layout="CN"), ValueError, "layout.*'CN'"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 6)), W2, X2.shape), ValueError, r"grad_out must have shape \(2, 4, 6, 5\).*got \(2, 4, 6, 6\)"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, (2, 3, 8)), ValueError, r"grad_out|input_shape"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, 8), TypeError, "input_shape.*8"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, None), TypeError, "input_shape.*None"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, (2, 3, 8.0, 7)), TypeError, "input_shape.*8.0"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, (2, 3, 8.9, 7)), TypeError, "input_shape.*8.9"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, ("2", "3", "8", "7")), TypeError, "input_shape"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, (2, 3, -8, 7)), ValueError, "input_shape.*-8"),
    (lambda: nc.conv2d_grad_input(np.ones((2, 4, 6, 5)), W2, (2, 5, 8, 7)), ValueError, "input_shape"),
    (lambda: nc.conv2d_grad_weight(X2, np.ones((2, 4, 6, 5)), (4, 3, 3)), ValueError, r"kernel_shape must have 4 axes.*\(4, 3, 3\)"),
    (lambda: nc.conv2d_grad_weight(X2, np.ones((2, 4, 6, 5)), 3), TypeError, "kernel_shape.*3"),
    (lambda: nc.conv2d_grad_weight(X2, np.ones((2, 4, 6, 5)), (3.0, 3)), TypeError, "kernel_shape.*3.0"),
    (lambda: nc.conv2d_grad_weight(X2, np.ones((1, 4, 6, 5)), (3, 3)), ValueError, r"grad_out must have shape \(2, 4, 6, 5\).*got \(1, 4, 6, 5\)"),
    (lambda: nc.conv2d_backward(np.ones((2, 4, 6, 5)), X2, W2, needs=(True, True)), ValueError, r"needs.*\(True, True\)"),
    (lambda: nc.conv2d_backward(np.ones((2, 4, 6, 5)), X2, W2, needs=True), ValueError, "needs.*True"),
    (lambda: nc.conv_transpose2d(X2, W2), ValueError, r"w is \(in_channels"),
    (lambda: nc.conv_transpose2d(X2, W2[:3], output_padding=1), ValueError, "output_padding"),
    (lambda: nc.prepare(W2[0, 0], (1, 3, 8, 7)), ValueError, "w must have 3, 4 or 5 axes.*2"),
    (lambda: nc.prepare(W2, (1, 3, 8, 7), dtype=object), TypeError, "dtype"),
    (lambda: nc.prepare(W2, (1, 3, 8, 7), dtype="longdouble"), TypeError, "dtype"),
    (lambda: nc.prepare(W2, 3), TypeError, "x"),
    (lambda: nc.set_num_threads(0), ValueError, "at least 1, got 0"),
    (lambda: nc.set_num_threads(1.0), TypeError, "1.0"),
    (lambda: nc.set_num_threads(True), TypeError, "True"),
    (lambda: nc.set_threading("mpi"), ValueError, "threading.*'mpi'"),
])  # fmt: skip
def test_errors_name_the_argument_and_what_was_given(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_options_beyond_64_bits_give_an_ordinary_error_or_the_right_result(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    one = np.ones((1, 1, 3), np.float32)
    for size in (2**31, 2**40, 2**62, 2**63, 2**64, 10**30):
        for options in (
            {"stride": size}, {"padding": size, "stride": size}, {"padding": ((size, -size),)}, {"padding": ((-size, size),)}, {"padding": -size},
            {"dilation": size}, {"padding": size}, {"groups": size}, {"stride": size, "padding": ((0, size),)},
        ):  # fmt: skip
            for w in (one[:, :, :1], one):
                try:
                    y = nc.conv1d(one, w, **options)
                except ERRORS:
                    continue
                assert y.size < 100 and 0 <= y.min() and y.max() <= 3 and y.sum() <= 9, (options, y)


# Results


@pytest.mark.parametrize(("dtypes", "expected"), [
    (("f2", "f2"), "f2"), (("f2", "f4"), "f4"), (("i1", "i2"), "i2"), (("i1", "u1"), "i2"), (("i4", "f4"), "f8"), (("i2", "f4"), "f4"),
    (("u8", "i8"), "f8"), (("?", "f4"), "f4"), (("?", "i1"), "i1"), (("f4", "c8"), "c8"), (("f8", "c8"), "c16"), (("i1", "f2"), "f2"),
    ((">f4", ">f4"), "f4"), ((">i2", ">i2"), "i2"), ((">f4", "f8"), "f8"),
    (("f4", "f4", "f8"), "f8"), (("i1", "i1", "f2"), "f2"), (("f4", "f4", "?"), "f4"), (("f4", "f4", "c8"), "c8"),
])  # fmt: skip
def test_dtypes_promote_as_numpys(dtypes, expected):
    arrays = [t.astype(d) for t, d in zip((X % 3, W, np.ones(3)), dtypes, strict=False)]
    y = nc.conv1d(*arrays)
    assert y.dtype == expected and y.dtype.isnative
    np.testing.assert_array_equal(y, nc.conv1d(*(t.astype("c16") for t in arrays)))


def test_the_gradient_of_the_bias_keeps_its_dtype():
    for dtype in ("f2", "f4", "f8", "c8", "c16", "i1", "u2", "i8", ">f4"):
        dy = (np.arange(48) % 5).reshape(2, 3, 8).astype(dtype)
        db = nc.conv1d_grad_bias(dy)
        assert db.dtype == np.dtype(dtype).newbyteorder("="), dtype
        np.testing.assert_array_equal(db, dy.sum((0, 2)))
        np.testing.assert_array_equal(nc.conv1d_grad_bias(dy, layout="NWC"), dy.sum((0, 1)))
        np.testing.assert_array_equal(nc.conv1d_grad_bias(dy[0]), dy[0].sum(1))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (2, 3, 0), (0, 0, 0)])
def test_the_gradient_of_the_bias_of_an_empty_array_is_zeros(shape):
    assert nc.conv1d_grad_bias(np.ones(shape)).tolist() == [0.0] * shape[1]
    assert nc.conv1d_grad_bias(np.ones(shape), layout="NWC").tolist() == [0.0] * shape[2]


def test_backward_of_an_empty_batch():
    dx, dw, db = nc.conv2d_backward(np.ones((0, 4, 6, 5)), X2[:0], W2)
    assert dx.shape == (0, 3, 8, 7) and not dw.any() and dw.shape == W2.shape and db.tolist() == [0.0] * 4


def test_results_are_new_arrays_and_inputs_are_left_alone():
    x, w, b = X.copy(), W.copy(), np.ones(3, np.float32)
    for t in (x, w, b):
        t.setflags(write=False)
    y = nc.conv1d(x, w, b, activation="relu")
    assert y.flags.writeable and y.flags.owndata | (y.base is not None)
    assert not any(np.shares_memory(y, t) for t in (x, w, b))
    assert np.array_equal(x, X) and np.array_equal(w, W)
    assert not x.flags.writeable


def test_needs_chooses_the_gradients():
    dy = np.ones((1, 3, 10), np.float32)
    full = nc.conv1d_backward(dy, X, W)
    for needs in itertools.product((True, False, np.True_, 0), repeat=3):
        for one, need, all_ in zip(nc.conv1d_backward(dy, X, W, needs=needs), needs, full, strict=True):
            assert (one is not None) == bool(need)
            assert one is None or np.array_equal(one, all_)


def test_backward_is_its_three_functions(rng):
    for name, layout in (("conv2d", "NCHW"), ("conv2d", "NHWC"), ("conv_transpose2d", "NCHW"), ("conv_transpose2d", "NHWC")):
        options = {"stride": 2, "padding": 1, "groups": 2, "layout": layout, **({"output_padding": 1} if "transpose" in name else {})}
        x = fill((2, 4, 7, 8) if layout == "NCHW" else (2, 7, 8, 4), "float64", rng)
        w = fill((4, 3, 3, 3) if "transpose" in name else (6, 2, 3, 3), "float64", rng)
        dy = fill(getattr(nc, name)(x, w, **options).shape, "float64", rng)
        dx, dw, db = getattr(nc, name + "_backward")(dy, x, w, **options)
        np.testing.assert_array_equal(dx, getattr(nc, name + "_grad_input")(dy, w, x.shape, **options))
        np.testing.assert_array_equal(dw, getattr(nc, name + "_grad_weight")(x, dy, w.shape, **options))
        np.testing.assert_array_equal(db, dy.sum((0, 2, 3) if layout == "NCHW" else (0, 1, 2)))
        assert (dx.shape, dw.shape) == (x.shape, w.shape)


def test_backward_takes_no_out():
    out = np.full(X.shape, 7, np.float32)
    with pytest.raises(ERRORS):
        nc.conv1d_backward(np.ones((1, 3, 10), np.float32), X, W, out=out)
    assert (out == 7).all(), "nothing is written on an error"


@pytest.mark.parametrize("short", [(3, 2), [3, 2], (np.int8(3), 2), np.array([3, 2])], ids=["tuple", "list", "integers", "array"])
@pytest.mark.parametrize("groups", [1, 2, np.int64(2)], ids=["one", "two", "two-numpy"])
def test_kernel_shape_may_be_the_filter_sizes_alone(groups, short, rng):
    for name, layout in itertools.product(("conv2d", "conv_transpose2d"), (None, "NCHW", "NHWC")):
        check_short_kernel_shape(name, layout, groups, short, rng)


def check_short_kernel_shape(name: str, layout: str | None, groups: int, short: Any, rng: np.random.Generator) -> None:
    last = layout == "NHWC"
    x = fill((2, 7, 8, 4) if last else (2, 4, 7, 8), "float32", rng)
    w = fill((4, 3, 3, 2) if "transpose" in name else (6, 4 // groups, 3, 2), "float32", rng)
    options = {"groups": groups, "layout": layout}
    dy = fill(getattr(nc, name)(x, w, **options).shape, "float32", rng)
    function = getattr(nc, name + "_grad_weight")
    expected = function(x, dy, w.shape, **options)
    assert expected.shape == w.shape
    np.testing.assert_array_equal(function(x, dy, short, **options), expected)
    np.testing.assert_array_equal(function(x[0], dy[0], short, **options), function(x[0], dy[0], w.shape, **options))


def test_complex_gradients_conjugate_the_other_operand(rng):
    x, w = fill((2, 2, 9), "complex128", rng), fill((3, 2, 3), "complex128", rng)
    dy = fill((2, 3, 7), "complex128", rng)
    for name in ("conv1d",):
        np.testing.assert_array_equal(nc.conv1d_grad_input(dy, w, x.shape), nc.conv_transpose1d(dy, np.conj(w)))
        by_part = nc.conv1d_grad_weight(x.real, dy.real, w.shape) + nc.conv1d_grad_weight(x.imag, dy.imag, w.shape)
        np.testing.assert_array_equal(nc.conv1d_grad_weight(x, dy, w.shape).real, by_part, err_msg=name)
    # the real part of ⟨dy, y⟩ is the loss whose gradient this is
    real = np.vdot(dy, nc.conv1d(x, w)).real
    assert real == np.vdot(nc.conv1d_grad_input(dy, w, x.shape), x).real == np.vdot(nc.conv1d_grad_weight(x, dy, w.shape), w).real


def test_gradients_take_a_shape_that_does_not_follow_from_the_output():
    dy, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    for size in (8, 9, 10):
        dx = nc.conv1d_grad_input(dy, w, (1, 1, size), stride=2) if size < 10 else None
        if dx is None:
            with pytest.raises(ValueError, match="grad_out"):
                nc.conv1d_grad_input(dy, w, (1, 1, size), stride=2)
        else:
            assert dx.ravel().tolist() == [1.0] * 8 + [0.0] * (size - 8)


# out=


def test_out_is_filled_and_returned(rng):
    for dtype in ("float32", "float16", "complex64", "int8"):
        x, w = fill((2, 3, 9), dtype, rng), fill((4, 3, 3), dtype, rng)
        expected = nc.conv1d(x, w)
        wide = np.full((4, 8, 14), 9, dtype)
        for out in (np.full((2, 4, 7), 9, dtype), np.full((7, 4, 2), 9, dtype).T, wide[::2, 1::2, ::2], wide[1::2, ::-2, ::-2],
                    np.full((2, 4, 8), 9, dtype)[:, :, 1:]):  # fmt: skip
            assert nc.conv1d(x, w, out=out) is out
            np.testing.assert_array_equal(out, expected)
    dx, dw = np.empty((2, 3, 9), "int8"), np.empty((4, 3, 3), "int8")
    assert nc.conv1d_grad_input(expected, w, x.shape, out=dx) is dx
    assert nc.conv1d_grad_weight(x, expected, w.shape, out=dw) is dw
    np.testing.assert_array_equal(dw, nc.conv1d_grad_weight(x, expected, w.shape))


def test_only_the_elements_of_out_are_written():
    frame = np.full((1, 5, 14), 9, np.float32)
    nc.conv1d(X, W, out=frame[:, 1:4, 2:12])
    np.testing.assert_array_equal(frame[:, 1:4, 2:12], nc.conv1d(X, W))
    frame[:, 1:4, 2:12] = 9
    assert (frame == 9).all()


def unwritable() -> Any:
    out = np.full((1, 3, 10), 7, np.float32)
    out.setflags(write=False)
    return out


@pytest.mark.parametrize(("out", "error", "message"), [
    (np.full((1, 3, 9), 7, np.float32), ValueError, r"out must have shape \(1, 3, 10\), got \(1, 3, 9\)"),
    (np.full((3, 10), 7, np.float32), ValueError, r"out must have shape \(1, 3, 10\), got \(3, 10\)"),
    (np.full((1, 3, 10), 7, np.float64), TypeError, "out must have dtype float32, got float64"),
    (np.full((1, 3, 10), 7, ">f4"), TypeError, "out must have dtype float32, got >f4"),
    (unwritable(), ValueError, "out must be writable"),
    ([[[7.0] * 10] * 3], TypeError, "out must be a NumPy array, got list"),
    (7, TypeError, "out must be a NumPy array, got int"),
])  # fmt: skip
def test_a_wrong_out_is_refused_and_left_alone(out, error, message):
    with pytest.raises(error, match=message):
        nc.conv1d(X, W, out=out)
    assert np.all(np.asarray(out) == 7)


def test_an_out_that_overlaps_an_input_is_refused():
    buffer = np.arange(60, dtype=np.float32)
    x, overlapping = buffer[:24].reshape(1, 2, 12), buffer[20:50].reshape(1, 3, 10)
    before = buffer.copy()
    for arguments in ((x, W), (X, buffer[2:20].reshape(3, 2, 3))):
        with pytest.raises(ValueError, match="out must not overlap"):
            nc.conv1d(*arguments, out=overlapping if arguments[1] is W else buffer[10:40].reshape(1, 3, 10))
    with pytest.raises(ValueError, match="overlap.*bias"):
        nc.conv1d(X, W, buffer[30:33], out=overlapping)
    assert np.array_equal(buffer, before)
    interleaved = np.zeros((1, 4, 24), np.float32)  # the memory interleaves, no element is shared
    nc.conv1d(np.ones((1, 2, 12), np.float32), W, out=interleaved[:, :3, 1:20:2])
    neighbours = np.zeros((1, 3, 24), np.float32)
    neighbours[:, :2, ::2] = X
    out = neighbours[:, :, 1:20:2]
    np.testing.assert_array_equal(nc.conv1d(neighbours[:, :2, ::2], W, out=out), nc.conv1d(X, W))


@pytest.mark.parametrize("options", [{"stride": 0}, {"padding": "x"}, {"method": "x"}, {"precision": "x"}, {"layout": "x"}, {"activation": "x"},
                                     {"groups": 7}, {"bias": np.ones(9)}, {"bias": "x"}, {"device": "x"}, {"stream": 1}])  # fmt: skip
def test_nothing_of_out_is_written_on_an_error(options):
    out = np.full((1, 3, 10), 7, np.float32)
    with pytest.raises(ERRORS):
        nc.conv1d(X, W, **options, out=out)
    assert (out == 7).all()


# Prepared weights


@pytest.mark.parametrize("method", ["auto", "direct"])
def test_prepared_weights_serve_wherever_weights_do(method, rng):
    for name, x_shape, w_shape, options in (
        ("conv1d", (2, 3, 20), (5, 3, 4), {"stride": 2, "padding": "same"}),
        ("conv2d", (2, 16, 20, 20), (32, 16, 3, 3), {"padding": 1}),
        ("conv2d", (2, 20, 20, 16), (32, 8, 3, 3), {"padding": 1, "groups": 2, "layout": "NHWC"}),
        ("conv3d", (1, 2, 5, 5, 5), (3, 2, 2, 2, 2), {}),
        ("conv_transpose2d", (2, 16, 10, 10), (16, 8, 4, 4), {"stride": 2, "padding": 1}),
    ):
        transposed = "transpose" in name
        x, w = fill(x_shape, "float32", rng), fill(w_shape, "float32", rng)
        options = {**options, "precision": "highest"}  # exact for small integers
        prepared = nc.prepare(w, x_shape, transposed=transposed, method=method, **options)
        assert isinstance(prepared, nc.PreparedWeights) and prepared.shape == w.shape and prepared.dtype == w.dtype
        forward = getattr(nc, name)
        expected = forward(x, w, **options)
        np.testing.assert_array_equal(forward(x, prepared, **options), expected)
        for other in room("cpu"):  # weights packed for one algorithm and used by another
            try:
                found = forward(x, prepared, method=other, **options)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 if other in INEXACT else 0.0, err_msg=other)
            except NotImplementedError:
                continue
        np.testing.assert_array_equal(forward(x.astype(np.float64), prepared, **options), expected)
        dy = fill(expected.shape, "float32", rng)
        backward, grad_input = getattr(nc, name + "_backward"), getattr(nc, name + "_grad_input")
        for a, b in zip(backward(dy, x, prepared, **options), backward(dy, x, w, **options), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(grad_input(dy, prepared, x_shape, **options), grad_input(dy, w, x_shape, **options))


def test_prepared_weights_serve_other_options_and_shapes_than_they_were_made_for(rng):
    w = fill((16, 8, 3, 3), "float32", rng)
    prepared = nc.prepare(w, (1, 8, 30, 30), padding=1)
    for size, options in (((12, 13), {"stride": 2}), ((30, 30), {"dilation": 2}), ((3, 3), {}), ((9, 9), {"padding": 1})):
        x = fill((2, 8, *size), "float32", rng)
        np.testing.assert_array_equal(nc.conv2d(x, prepared, **options), nc.conv2d(x, w, **options), err_msg=str(options))
    x = fill((2, 16, 9, 9), "float32", rng)  # the same weights in 2 groups
    np.testing.assert_array_equal(nc.conv2d(x, prepared, groups=2), nc.conv2d(x, w, groups=2))
    np.testing.assert_array_equal(nc.conv_transpose2d(x, prepared, stride=2), nc.conv_transpose2d(x, w, stride=2))
    prepared = nc.prepare(w, (1, 16, 30, 30), transposed=True, stride=2, method="gemm")
    for stride, padding, method in itertools.product((1, 2, 3), (0, 1), ("gemm", "auto")):
        options = {"stride": stride, "padding": padding, "method": method}
        for conv, given in ((nc.conv_transpose2d, x), (nc.conv2d, x[:, :8])):
            np.testing.assert_array_equal(conv(given, prepared, **options), conv(given, w, **options), err_msg=f"{conv.__name__} {options}")


@pytest.mark.parametrize("method", ["gemm", "winograd", "fft"])
def test_prepared_calls_read_what_was_packed(method, rng):
    x, w, options = fill((1, 16, 14, 14), "float32", rng), fill((24, 16, 3, 3), "float32", rng), {"padding": 1, "method": method}
    prepared, expected = nc.prepare(w, x.shape, **options), nc.conv2d(x, w, **options)
    prepared._w.fill(np.nan)
    for bias in (None, np.ones(24, np.float32), None):  # the last is looked up
        found = nc.conv2d(x, prepared, bias, **options)
        np.testing.assert_array_equal(found, expected if bias is None else expected + 1)


@pytest.mark.parametrize("method", ["gemm", "winograd"])
def test_prepared_weights_can_be_copied_and_pickled_after_use(method, rng):
    x, w, options = fill((1, 16, 14, 14), "float32", rng), fill((24, 16, 3, 3), "float32", rng), {"padding": 1, "method": method}
    prepared = nc.prepare(w, x.shape, **options)
    expected = [nc.conv2d(x, prepared, **options) for _ in range(2)][0]
    for other in (copy.copy(prepared), copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        np.testing.assert_array_equal(nc.conv2d(x, other, **options), expected)
        assert not other.w.flags.writeable


@pytest.mark.parametrize("transposed", [False, True])
def test_known_calls_with_bias_and_activation_skip_the_checks_only_where_nothing_is_to_be_checked(transposed, rng, monkeypatch):
    conv, names = (nc.conv_transpose2d if transposed else nc.conv2d), (None, "relu", "gelu")
    x, w = rng.standard_normal((1, 6, 9, 8), np.float32), rng.standard_normal((6, 6, 3, 3), np.float32)
    many = rng.standard_normal(12).astype(np.float32)
    for prepared in (w, nc.prepare(w, x.shape, transposed=transposed)):
        expected = {name: conv(x, prepared, many[:6], activation=name) for name in names}
        wide = conv(x, prepared, many[:6].astype(np.float64), activation="relu")
        assert wide.dtype == np.float64
        with monkeypatch.context() as patched:
            patched.setattr(functional, "carry_out", None)  # what checks and converts
            for name in names:
                np.testing.assert_array_equal(conv(x, prepared, many[:6], activation=name), expected[name])
                np.testing.assert_array_equal(conv(x[0].copy()[None], prepared, many[:6].copy(), activation=name), expected[name])
        np.testing.assert_array_equal(conv(x, prepared, many[:6].astype(np.float64), activation="relu"), wide)
        np.testing.assert_array_equal(conv(x, prepared, many[::2], activation="relu"), conv(x, prepared, many[::2].copy(), activation="relu"))
        np.testing.assert_array_equal(conv(x, prepared, many[:6].tolist()), conv(x, prepared, np.array(many[:6].tolist())))
        wrong = [("bias", many[:5], None), ("bias", many[:6, None], None), ("activation", many[:6], "relu6"), ("activation", many[:6], ["relu"])]
        for named, bias, activation in wrong:
            with pytest.raises(ValueError, match=named):
                conv(x, prepared, bias, activation=activation)


def test_prepared_weights_are_a_snapshot(rng):
    w = fill((16, 8, 3, 3), "float32", rng)
    x = fill((1, 8, 10, 10), "float32", rng)
    prepared, expected = nc.prepare(w, x.shape), nc.conv2d(x, w)
    w[...] = 0
    np.testing.assert_array_equal(nc.conv2d(x, prepared), expected)
    assert not prepared.w.flags.writeable


# Threads


def test_the_number_of_threads_can_be_set_and_overridden(threads_restored):
    nc.set_num_threads(3)
    assert nc.get_num_threads() == 3
    with nc.num_threads(1):
        assert nc.get_num_threads() == 1
        with nc.num_threads(np.int64(5)):
            assert nc.get_num_threads() == 5
        assert nc.get_num_threads() == 1
    assert nc.get_num_threads() == 3
    with pytest.raises(RuntimeError), nc.num_threads(2):
        raise RuntimeError
    assert nc.get_num_threads() == 3


def test_the_documentation_covers_exactly_the_functions_there_are():
    assert {f"{name}{suffix}" for name in FORWARD for suffix in _docs._MAKERS} <= set(functional.__all__)


def test_backward_checks_the_output_gradient_whatever_is_needed() -> None:
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    with pytest.raises(ValueError, match="grad_out must have shape"):
        nc.conv1d_backward(np.ones((1, 7, 9)), x, w, needs=(False, False, True))
    with pytest.raises(TypeError, match="strde"):
        nc.conv1d_backward(np.ones((1, 1, 3)), x, w, needs=(False, False, True), strde=3)
    with pytest.raises(TypeError, match="out"):
        nc.conv1d_backward(np.ones((1, 1, 3)), x, w, out=np.empty_like(x))


def test_one_dictionary_of_options_serves_prepare_and_the_call(rng) -> None:
    x, w = rng.standard_normal((1, 8, 20, 20)).astype(np.float32), rng.standard_normal((16, 8, 3, 3)).astype(np.float32)
    options = {"padding": 1, "activation": "relu"}
    assert np.array_equal(nc.conv2d(x, nc.prepare(w, x.shape, **options), **options), nc.conv2d(x, w, **options))


def test_long_filters_cost_memory_and_time_in_proportion() -> None:
    # Tables of outputs × taps once took 0.6 GiB here, and a quadratic search over the taps seconds.
    import tracemalloc

    x, w = np.ones((1, 1, 9000, 1), np.int32), np.ones((1, 1, 3000, 1), np.int32)
    tracemalloc.start()
    y = nc.conv2d(x, w)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (y == 3000).all() and peak < 32 << 20


def test_what_numpy_cannot_read_is_named() -> None:
    with pytest.raises(TypeError, match="x must be an array.*list"):
        nc.conv2d([[1, 2], [3]], np.ones((1, 1, 1, 1)))
    with pytest.raises(TypeError, match="w must be an array"):
        nc.conv1d(np.ones((1, 1, 4)), [[[1, 2]], [[3]]])


def test_out_that_overlaps_a_complex_operand_is_refused_though_a_conjugate_is_a_copy() -> None:
    x = np.ones((1, 1, 4), np.complex64)
    with pytest.raises(ValueError, match="overlap"):
        nc.conv1d_grad_weight(x, x[..., :3], (1, 1, 2), out=x[..., 2:])
