"""Planning: it computes nothing, takes the cheapest, says why, remembers, and refuses what does not fit in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import numbaconv as nc
from numbaconv import memory, recipe
from numbaconv import plan as planning
from numbaconv.problem import OPS, ConvProblem, Unsupported

PROBLEM = ConvProblem.from_shapes((1, 3, 8, 8), (4, 3, 3, 3), rank=2)
F4 = np.dtype("float32")


def fake(answer: float | str, workspace: int = 0) -> Any:
    def cost(problem: Any, op: Any, dtype: Any) -> float:
        if isinstance(answer, str):
            raise Unsupported(answer)
        return answer

    def run(*_: Any) -> None:
        raise AssertionError("planning must not compute")

    return SimpleNamespace(cost=cost, workspace=lambda *_: workspace, run=run)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(**algorithms: Any) -> None:
        monkeypatch.setattr(planning, "room", lambda device: algorithms)

    return put


def test_the_cheapest_is_chosen(room):
    room(slow=fake(2.0), fast=fake(1.0, 77), never=fake("needs rain"))
    chosen = planning.plan(PROBLEM, "fprop", F4)
    assert (chosen.name, chosen.workspace) == ("fast", 77)


def test_ties_go_by_the_order_of_the_table(room):
    room(first=fake(1.0), second=fake(1.0))
    assert planning.plan(PROBLEM, "fprop", F4).name == "first"
    room(second=fake(1.0), first=fake(1.0))
    assert planning.plan(PROBLEM, "fprop", F4).name == "second"


def test_a_named_method_is_taken_whatever_it_costs(room):
    room(slow=fake(9e9), fast=fake(1.0))
    assert planning.plan(PROBLEM, "fprop", F4, "slow").name == "slow"


def test_a_named_method_that_cannot_says_why(room):
    room(winograd=fake("needs a 3×3 filter, got 5×5"), direct=fake(1.0))
    with pytest.raises(NotImplementedError, match="winograd.*needs a 3×3 filter, got 5×5"):
        planning.plan(PROBLEM, "fprop", F4, "winograd")


def test_unknown_names_list_the_known_ones(room):
    room(one=fake(1.0), two=fake(1.0))
    with pytest.raises(ValueError, match=r"method must be 'auto' or one of \('one', 'two'\), got 'three'"):
        planning.plan(PROBLEM, "fprop", F4, "three")
    with pytest.raises(ValueError, match="precision must be one of .*'sloppy'"):
        planning.plan(PROBLEM, "fprop", F4, precision="sloppy")


def test_unknown_devices_are_refused():
    with pytest.raises((NotImplementedError, ValueError), match="device.*'abacus'"):
        planning.plan(PROBLEM, "fprop", F4, device="abacus")


def test_planning_a_problem_of_any_size_allocates_nothing():
    planning.explain_problem(PROBLEM, "fprop", F4)  # what is imported now does not count
    huge = ConvProblem.from_shapes((64, 512, 3000, 3000, 3000), (512, 512, 3, 3, 3), rank=3, padding=1)
    tracemalloc.start()
    for op in OPS:
        planning.plan(huge, op, F4)
        planning.explain_problem(huge, op, F4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_explain_shows_each_algorithm_with_its_cost_or_refusal(room):
    room(winograd=fake("needs a 3×3 filter"), gemm=fake(0.5, 3 << 20), direct=fake(2.0))
    text = str(nc.explain((1, 3, 8, 8), (4, 3, 3, 3)))
    lines = text.splitlines()
    assert lines[0] == "conv2d forward (fprop): x (1, 3, 8, 8), w (4, 3, 3, 3), output (1, 4, 6, 6), float32 on cpu"
    assert [line.split()[0] for line in lines if line.startswith("→")] == ["→"]
    chosen = next(line for line in lines if line.startswith("→"))
    assert "gemm" in chosen and "500.000 ms" in chosen and "3.0 MiB" in chosen
    assert any("winograd" in line and "needs a 3×3 filter" in line for line in lines)
    assert any("direct" in line and "2000.000 ms" in line for line in lines)
    assert "36 × 4 × 27" in text


def test_explain_measures_what_can_do_the_problem(room):
    counts = {"gemm": 0, "direct": 0, "slow": 0}

    def counted(name: str, cost: float) -> Any:
        def run(problem: Any, op: Any, a: Any, b: Any, out: Any, options: Any) -> None:
            assert (a.shape, b.shape, out.shape) == ((1, 4, 1, 6, 6), (1, 3, 1, 8, 8), (4, 3, 1, 3, 3))
            assert a.dtype == out.dtype == np.float64 and a.any() and b.any()
            counts[name] += 1

        return SimpleNamespace(cost=lambda *_: cost, workspace=lambda *_: 1 << 20, run=run)

    room(winograd=fake("needs a 3×3 filter"), gemm=counted("gemm", 0.2), direct=counted("direct", 1e-5), slow=counted("slow", 0.4))
    lines = nc.explain((1, 3, 8, 8), (4, 3, 3, 3), op="grad_weight", dtype="float64", measure=True).splitlines()
    assert ["(measured)" in line for line in lines] == [False, False, False, True, True, False]
    assert lines[4].startswith("→ direct") and "0.010 ms on one core (estimated)," in lines[4] and lines[4].endswith(", 1.0 MiB of workspace")
    assert "not measured, too slow" in lines[5]
    assert counts == {"gemm": 51, "direct": 51, "slow": 0}


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int8", "uint16"])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
def test_explain_measures_every_dtype(op, dtype):
    assert "(measured)" in nc.explain((1, 2, 6), (4, 1, 3), op=op, dtype=dtype, groups=2, layout="NCW", transposed=False, measure=True)


def test_measuring_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 0.0)
    with pytest.raises(MemoryError, match="measuring"):
        nc.explain((1, 1, 10**7), (1, 1, 3), measure=True)


def test_explain_prints_as_a_table_at_the_prompt():
    explanation = nc.explain((1, 3, 8, 8), (4, 3, 3, 3))
    assert repr(explanation) == str(explanation) and "\n" in repr(explanation)


@pytest.mark.parametrize(("op", "transposed", "word"), [
    ("forward", False, "fprop"), ("grad_input", False, "dgrad"), ("grad_weight", False, "wgrad"),
    ("forward", True, "dgrad"), ("grad_input", True, "fprop"), ("grad_weight", True, "wgrad"),
])  # fmt: skip
def test_explain_translates_the_users_words(op, transposed, word):
    name, output = ("conv_transpose1d", (1, 3, 10)) if transposed else ("conv1d", (1, 3, 6))
    explanation = nc.explain((1, 3, 8), (3, 3, 3), op=op, transposed=transposed)
    assert explanation.splitlines()[0] == f"{name} {op} ({word}): x (1, 3, 8), w (3, 3, 3), output {output}, float32 on cpu"


def test_explain_checks_what_it_is_asked() -> None:
    for options, error in (
        ({"method": "magic"}, ValueError), ({"precision": "low"}, ValueError), ({"dtype": object}, TypeError), ({"strde": 1}, TypeError),
        ({"dtype": "int32", "method": "gemm"}, NotImplementedError),
    ):  # fmt: skip
        with pytest.raises(error):
            nc.explain((1, 3, 8), (3, 3, 3), **options)
    assert "int16" in nc.explain((1, 3, 8), (3, 3, 3), dtype=">i2")


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"op": "sideways"}, ValueError, "op.*'sideways'"),
    ({"colour": 1}, TypeError, "colour"),
    ({"dtype": "bool"}, TypeError, "dtype.*bool"),
    ({"dtype": "object"}, TypeError, "dtype.*object"),
    ({"layout": "CHWN"}, ValueError, "layout.*'CHWN'"),
    ({"stride": 0}, ValueError, "stride.*0"),
    ({"output_padding": 1}, TypeError, "output_padding"),
])  # fmt: skip
def test_explain_refuses_wrong_arguments_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        nc.explain((1, 3, 8, 8), (4, 3, 3, 3), **arguments)


def test_a_repeated_call_does_not_plan_again(monkeypatch):
    calls = []
    original = planning.plan
    monkeypatch.setattr(planning, "plan", lambda *a, **k: calls.append(a) or original(*a, **k))
    monkeypatch.setattr(recipe, "_recipes", {})
    monkeypatch.setattr(recipe, "_known", {})
    x, w = np.ones((1, 2, 9), np.float32), np.ones((3, 2, 3), np.float32)
    for _ in range(5):
        nc.conv1d(x, w, stride=2)
    assert len(calls) == 1
    nc.conv1d(x, w, stride=1)
    nc.conv1d(x[:, :, 1:], w, stride=2)
    nc.conv1d(x.astype(np.float64), w, stride=2)
    nc.conv1d(x, w, stride=2, method="direct")
    assert len(calls) == 5


def test_recipes_are_not_confused_by_options_that_look_alike():
    x, w = np.arange(12, dtype=np.float32).reshape(1, 1, 12), np.ones((1, 1, 2), np.float32)
    assert nc.conv1d(x, w, stride=1).shape == (1, 1, 11)
    for wrong in (1.0, "1"):
        with pytest.raises((TypeError, ValueError), match="stride"):
            nc.conv1d(x, w, stride=wrong)
    with pytest.raises(TypeError, match="padding"):
        nc.conv1d(x, w, padding=0.0)

    class Whole:
        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            return self.value

        def __repr__(self) -> str:
            return "a whole number"

    assert nc.conv1d(x, w, stride=Whole(2)).shape == (1, 1, 6)
    assert nc.conv1d(x, w, stride=Whole(3)).shape == (1, 1, 4)


def test_what_is_known_is_not_confused_by_what_looks_alike(rng):
    x, w = rng.standard_normal((2, 3, 9, 7)).astype(np.float32), rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    grad = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    options = {"stride": (2, 2), "padding": 0}
    calls = (
        lambda x, w, grad, **more: nc.conv2d(x, w, **{**options, **more}),
        lambda x, w, grad, **more: nc.conv2d_grad_input(grad, w, (2, 3, 9, 7), **{**options, **more}),
        lambda x, w, grad, **more: nc.conv2d_grad_weight(x, grad, (4, 3, 3, 3), **{**options, **more}),
        lambda x, w, grad, **more: nc.conv_transpose2d_grad_weight(grad, x, (3, 3), **{**options, **more}),
    )
    for call in calls:
        expected = call(x, w, grad)
        np.testing.assert_array_equal(call(x, w, grad), expected)
        other = [np.asfortranarray(a) for a in (x, w, grad)]  # in another order in memory,
        np.testing.assert_array_equal(call(*other), expected)
        read_only = [a.copy() for a in (x, w, grad)]
        for array in read_only:
            array.setflags(write=False)
        np.testing.assert_array_equal(call(*read_only), expected)
        swapped = [a.astype(">f4") for a in (x, w, grad)]  # of another order of bytes,
        np.testing.assert_array_equal(call(*swapped), expected)
        shifted = [np.frombuffer(b"\0" + a.tobytes(), np.float32, offset=1).reshape(a.shape) for a in (x, w, grad)]  # not aligned
        np.testing.assert_array_equal(call(*shifted), expected)
        np.testing.assert_array_equal(call(x, w, grad, stride=[2, 2]), expected)
        double = call(*(a.astype(float) for a in (x, w, grad)))
        assert double.dtype == np.float64
        np.testing.assert_allclose(double, expected, rtol=1e-4, atol=1e-4)
        for wrong in ((2.0, 2.0), (True, 2.0), 2.0, np.float32(2)):
            with pytest.raises(TypeError, match="stride"):
                call(x, w, grad, stride=wrong)
        with pytest.raises((TypeError, ValueError), match="padding"):
            call(x, w, grad, padding=0.0)
        with pytest.raises((TypeError, ValueError), match="layout"):
            call(x, w, grad, layout=b"NCHW")
    assert nc.conv2d(x, w, **options) is not nc.conv2d(x, w, **options), "results are not shared"
    with pytest.raises(ValueError, match="stream"):
        nc.conv2d(x, w, stream=0, **options)


def test_weights_that_are_not_finite_are_met_by_what_is_known():
    for groups, shape in ((1, (4, 2, 3, 3)), (2, (2, 1, 3, 3))):
        x, w = np.ones((1, 2, 6, 6), np.float32), np.ones(shape, np.float32)
        nc.conv2d(x, w, padding=1, groups=groups)
        w[0, 0, 0, 0] = np.inf  # beside the input: no 0·∞ there
        y = nc.conv2d(x, w, padding=1, groups=groups)
        assert np.isinf(y[0, 0, 1:, 1:]).all() and np.isfinite(y[0, 0, 0]).all() and np.isfinite(y[0, 1]).all()


def test_recipes_are_not_confused_by_iterators():
    x, w = np.zeros((1, 1, 12), np.float32), np.ones((1, 1, 2), np.float32)
    sizes = []
    for stride in (1, 2, 3, 4) * 5:
        try:
            sizes.append((stride, nc.conv1d(x, w, stride=iter([stride])).shape[2]))
        except (TypeError, ValueError):
            continue  # refusing an iterator is fine too
    assert all(size == (12 - 2) // stride + 1 for stride, size in sizes), sizes


def test_the_recipes_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(recipe, "MOST_RECIPES", 5)
    monkeypatch.setattr(recipe, "_recipes", {})
    monkeypatch.setattr(recipe, "_known", {})
    w = np.ones((1, 1, 2), np.float32)
    for size in range(2, 20):
        nc.conv1d(np.ones((1, 1, size), np.float32), w)
        assert max(len(recipe._recipes), len(recipe._known)) <= 5


def peak_of(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match="available"):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_output_larger_than_memory_is_refused_before_anything_is_allocated():
    x, w = np.ones((1, 1, 10), np.float32), np.ones((1, 1, 1), np.float32)
    assert peak_of(lambda: nc.conv1d(x, w, padding=10**14)) < 1 << 20
    wide = np.broadcast_to(np.float32(1), (1, 1, 2**22, 2**22))
    assert peak_of(lambda: nc.conv2d(wide, np.ones((1, 1, 1, 1), np.float32))) < 1 << 20
    assert peak_of(lambda: nc.conv_transpose1d(x, w, stride=10**14)) < 1 << 20
    assert peak_of(lambda: nc.conv1d_grad_input(np.ones((1, 1, 1), np.float32), w, (1, 1, 10**14), stride=10**14)) < 1 << 20


@pytest.mark.parametrize("call", [
    lambda big: nc.conv1d(big, np.ones((1, 1, 2**26), np.float32)[:, :, ::1], stride=2**26),
    lambda big: nc.conv1d(big, np.ones((1, 1, 1), np.float32), stride=2**26),
    lambda big: nc.conv1d(big.astype(np.float32)[:, :, : 2**25], np.ones((1, 1, 1), np.float64), stride=2**25),
])  # fmt: skip
def test_copies_of_the_inputs_count_as_memory(monkeypatch, call):
    monkeypatch.setattr(memory, "available", lambda: 1.0 * (80 << 20))
    with pytest.raises(MemoryError, match="available"):
        call(np.broadcast_to(np.float32(1), (1, 1, 2**26)))


def test_what_the_system_says_about_memory_is_believed(monkeypatch):
    memory.require(memory.UNCHECKED_BYTES, "a small thing")
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    memory.require(10**9, "a thing that fits")
    with pytest.raises(MemoryError, match=r"a mountain needs 1.9 GiB, but 0.9 GiB are available"):
        memory.require(2 * 10**9, "a mountain")
    monkeypatch.undo()
    assert memory.available() > 0
