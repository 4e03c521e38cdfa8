"""Values and gradients against torch.nn.functional, on hundreds of random configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, fill
from tolerance import allowed

import numbaconv as nc

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")


def torch_case(rng: np.random.Generator, transposed: bool) -> Case:
    """Return a random call that PyTorch can do as well: symmetric padding, channels first."""
    while True:
        rank, groups = int(rng.integers(1, 4)), int(rng.choice([1, 1, 2, 3]))
        per_c, per_k = (int(v) for v in rng.integers(1, 6, 2))
        size, taps = rng.integers(1, 11 - rank, rank).tolist(), rng.integers(1, 5, rank).tolist()
        options: dict[str, Any] = {
            "stride": tuple(rng.integers(1, 4, rank).tolist()), "dilation": tuple(rng.integers(1, 4, rank).tolist()), "groups": groups,
            "padding": tuple(rng.integers(0, 4, rank).tolist()),
        }  # fmt: skip
        if transposed:
            options["output_padding"] = tuple(int(rng.integers(0, s)) for s in options["stride"])
        x = (int(rng.integers(1, 4)), groups * per_c, *size)
        w = (groups * per_c, per_k, *taps) if transposed else (groups * per_k, per_c, *taps)
        case = Case("random", "", x[rng.integers(2) :] if x[0] == 1 else x, w, options, transposed)
        try:
            case.problem  # noqa: B018
        except ValueError:
            continue
        return case


def compare(case: Case, dtype: str, kind: str, rng: np.random.Generator) -> None:
    x, w = fill(case.x, dtype, rng, kind), fill(case.w, dtype, rng, kind)
    bias = fill((case.w[1] * case.options["groups"] if case.transposed else case.w[0],), dtype, rng, kind)
    tx, tw, tb = (torch.from_numpy(t).requires_grad_() for t in (x, w, bias))
    function = getattr(torch.nn.functional, case.function)
    ty = function(tx, tw, tb, **case.options)
    y = getattr(nc, case.function)(x, w, bias, **case.options)
    dy = fill(y.shape, dtype, rng, kind)
    assert y.shape == tuple(ty.shape), case
    ty.backward(torch.from_numpy(dy))
    found = {"y": y, **dict(zip(("dx", "dw", "db"), getattr(nc, case.function + "_backward")(dy, x, w, **case.options), strict=True))}
    theirs = {"y": ty.detach(), "dx": tx.grad, "dw": tw.grad, "db": tb.grad}
    with torch.no_grad():
        ax, aw, ab, ady = (torch.from_numpy(np.abs(t).astype(np.float64)) for t in (x, w, bias, dy))
    gx, gw, gb = (t.requires_grad_() for t in (ax, aw, ab))
    size = function(gx, gw, gb, **case.options)
    size.backward(ady)
    magnitudes = {"y": size.detach(), "dx": gx.grad, "dw": gw.grad, "db": gb.grad}
    lengths = dict(zip(("y", "dx", "dw"), (case.problem.gemm_shape(op)[2] for op in (("dgrad", "fprop", "wgrad") if case.transposed else ("fprop", "dgrad", "wgrad"))), strict=True))  # type: ignore[arg-type]  # noqa: E501  # fmt: skip
    for name, ours in found.items():
        assert ours.dtype == dtype and ours.shape == tuple(theirs[name].shape), (name, case)
        length = lengths.get(name, dy.size)
        # theirs may round as often as ours
        bound = 2 * allowed(magnitudes[name].numpy(), dtype, length, "direct", positive=True)
        error = np.abs(ours - theirs[name].numpy())
        assert np.all(error <= bound), f"{name} of {case}: {float(np.max(error / np.maximum(bound, 1e-300)))} of the bound"


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])
@pytest.mark.parametrize(("dtype", "count"), [("float64", 40), ("float32", 50), ("complex128", 15), ("complex64", 15)])
def test_values_and_gradients(transposed, dtype, count, rng):
    for _ in range(count):
        compare(torch_case(rng, transposed), dtype, "signed", rng)


def test_same_padding_with_odd_and_even_filters(rng):
    for taps in ((1, 2), (2, 3), (4, 5), (3, 6)):
        for dilation in (1, 2):
            x, w = fill((2, 3, 9, 8), "float64", rng), fill((4, 3, *taps), "float64", rng)
            args = [torch.from_numpy(t) for t in (x, w)]
            padding = [d for t in reversed(taps) for d in ((t - 1) * dilation // 2, (t - 1) * dilation - (t - 1) * dilation // 2)]
            theirs = torch.nn.functional.conv2d(torch.nn.functional.pad(args[0], padding), args[1], dilation=dilation)
            np.testing.assert_array_equal(nc.conv2d(x, w, padding="same", dilation=dilation), theirs.numpy())
            if all(t % 2 for t in taps):
                np.testing.assert_array_equal(theirs.numpy(), torch.nn.functional.conv2d(*args, padding="same", dilation=dilation).numpy())


@pytest.mark.parametrize(("name", "theirs"), [
    ("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid), ("silu", torch.nn.functional.silu),
    ("gelu", torch.nn.functional.gelu), ("leaky_relu", torch.nn.functional.leaky_relu),
])  # fmt: skip
def test_activations_are_torchs(name, theirs):
    x = np.linspace(-12, 12, 401).reshape(1, 1, -1)
    found = nc.conv1d(x, np.ones((1, 1, 1)), activation=name)
    np.testing.assert_allclose(found, theirs(torch.from_numpy(x)).numpy(), rtol=1e-13, atol=1e-15)


def test_gradients_of_named_layers(rng):
    for x, w, options in (
        ((2, 3, 32, 32), (16, 3, 7, 7), {"stride": (2, 2), "padding": (3, 3)}),
        ((2, 16, 14, 14), (32, 16, 3, 3), {"padding": (1, 1)}),
        ((2, 24, 14, 14), (24, 1, 3, 3), {"padding": (1, 1), "groups": 24}),
        ((1, 32, 7, 7), (64, 32, 1, 1), {}),
    ):
        compare(Case("", "", x, w, {"groups": 1, **options}), "float32", "positive", rng)
