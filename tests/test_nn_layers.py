"""Layers: forward and backward against finite differences, against PyTorch where it is installed, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbaconv as nc
from numbaconv import nn
from numbaconv.nn.activation import TABLE

EPS = float(np.finfo(np.float64).eps)
Array = np.ndarray[Any, Any]

CONVOLUTIONS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("Conv1d", {"kernel_size": 3}, (2, 2, 7)),
    ("Conv1d", {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "groups": 2}, (2, 2, 9)),
    ("Conv1d", {"kernel_size": 4, "padding": "same", "bias": False}, (2, 2, 6)),
    ("Conv2d", {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}, (2, 2, 5, 4)),
    ("Conv2d", {"kernel_size": 3, "groups": 2, "padding": 1}, (2, 4, 4)),
    ("Conv3d", {"kernel_size": 2, "padding": 1, "stride": 2}, (1, 2, 3, 4, 3)),
    ("ConvTranspose1d", {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}, (2, 2, 5)),
    ("ConvTranspose1d", {"kernel_size": 2, "groups": 2, "dilation": 3, "bias": False}, (2, 4)),
    ("ConvTranspose2d", {"kernel_size": (2, 3), "stride": (1, 2)}, (2, 2, 3, 3)),
    ("ConvTranspose3d", {"kernel_size": 2, "stride": 2, "padding": 1}, (1, 2, 2, 3, 3)),
]
ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "silu": "SiLU", "gelu": "GELU", "tanh": "Tanh", "sigmoid": "Sigmoid"}
POOLS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("MaxPool1d", {"kernel_size": 2}, (2, 3, 7)),
    ("MaxPool1d", {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}, (3, 8)),
    ("MaxPool2d", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 2, 7, 6)),
    ("MaxPool2d", {"kernel_size": (2, 3), "stride": 1}, (2, 5, 5)),
    ("MaxPool2d", {"kernel_size": 1, "stride": 3, "ceil_mode": True}, (2, 5, 6)),
    ("MaxPool3d", {"kernel_size": 2, "ceil_mode": True}, (1, 2, 3, 4, 5)),
    ("AvgPool1d", {"kernel_size": 2}, (2, 3, 7)),
    ("AvgPool1d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (3, 8)),
    ("AvgPool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}, (2, 2, 7, 6)),
    ("AvgPool2d", {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0), "ceil_mode": True}, (2, 5, 6)),
    ("AvgPool2d", {"kernel_size": 3, "padding": 1, "ceil_mode": True, "count_include_pad": False}, (2, 5, 6)),
    ("AvgPool3d", {"kernel_size": 2, "padding": 1}, (1, 2, 3, 4, 5)),
]


def conv(name: str, options: dict[str, Any], **more: Any) -> Any:
    """Return a float64 layer from 2 to 4 channels with fixed weights."""
    return getattr(nn, name)(2, 4, **options, **{"dtype": np.float64, "rng": 0, **more})


def check_gradients(layer: nn.Module, x: Array, rng: np.random.Generator) -> None:
    """Compare every gradient with central differences of L = Σ g·y.

    With h = ∛eps rounding contributes about eps·|L|/h and truncation h²·|L'''|, both of the order of eps^⅔.
    """
    y = layer(x)
    g = rng.standard_normal(y.shape)
    layer.zero_grad()
    grads = [layer.backward(g), *(p.grad for p in layer.parameters())]
    h = EPS ** (1 / 3)
    bound = EPS ** (2 / 3) * np.abs(g).sum() * (1 + np.abs(y).max())
    for array, grad in zip([x, *(p.data for p in layer.parameters())], grads, strict=True):
        assert grad is not None and grad.shape == array.shape and grad.dtype == array.dtype
        for at in np.ndindex(array.shape):
            value, losses = array[at], []
            for shift in (h, -h):
                array[at] = value + shift
                losses.append(np.vdot(g, layer(x)))
            array[at] = value
            assert abs((losses[0] - losses[1]) / (2 * h) - grad[at]) <= bound


@pytest.mark.parametrize(("name", "options", "shape"), CONVOLUTIONS)
def test_conv_finite_differences(name: str, options: dict[str, Any], shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Every convolution, with its parameters."""
    check_gradients(conv(name, options), rng.standard_normal(shape), rng)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["Conv1d", "ConvTranspose1d"])
def test_conv_activation_finite_differences(name: str, activation: str, rng: np.random.Generator) -> None:
    """The derivative of a layer's own activation."""
    check_gradients(conv(name, {"kernel_size": 3}, activation=activation), rng.standard_normal((2, 2, 5)), rng)


@pytest.mark.parametrize("layer", [nn.Linear(3, 4, dtype=np.float64, rng=0), nn.Linear(3, 2, False, dtype=np.float64, rng=0)])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
def test_linear_finite_differences(layer: nn.Module, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Linear, for samples and for batches of any rank."""
    check_gradients(layer, rng.standard_normal(shape), rng)


@pytest.mark.parametrize("layer", [*(getattr(nn, n)() for n in ACTIVATIONS.values()), nn.LeakyReLU(-0.5), nn.Flatten(), nn.Flatten(0, 1)])
def test_elementwise_finite_differences(layer: nn.Module, rng: np.random.Generator) -> None:
    """Layers without parameters."""
    check_gradients(layer, rng.standard_normal((2, 3, 4)), rng)


@pytest.mark.parametrize(("name", "options", "shape"), POOLS)
def test_pool_finite_differences(name: str, options: dict[str, Any], shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Pooling, away from ties."""
    check_gradients(getattr(nn, name)(**options), rng.standard_normal(shape), rng)


def test_network_finite_differences(rng: np.random.Generator) -> None:
    """Layers in a chain, fused and not."""
    f8 = {"dtype": np.float64, "rng": rng}
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, **f8), nn.GELU(), nn.MaxPool2d(2), nn.Sequential(nn.ConvTranspose2d(2, 2, 2, **f8), nn.LeakyReLU()),
        nn.AvgPool2d(2, 1), nn.Conv2d(2, 2, 1, activation="silu", **f8), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3, **f8),
    )  # fmt: skip
    check_gradients(net, rng.standard_normal((2, 1, 6, 6)), rng)


def torch_pair(ours: nn.Module, name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Return torch and its module of that name in float64, with our parameters."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    module = getattr(torch.nn, name)(*args, **options).double()
    module.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    return torch, module


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # PyTorch's remark on even kernels
@pytest.mark.parametrize(("name", "options", "shape"), CONVOLUTIONS)
def test_conv_against_torch(name: str, options: dict[str, Any], shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Small integers, so that all sums are exact."""
    ours = conv(name, options)
    for parameter in ours.parameters():
        parameter.data = rng.integers(-9, 10, parameter.shape)
    torch, theirs = torch_pair(ours, name, 2, 4, **options)
    x = rng.integers(-9, 10, shape).astype(np.float64)
    tx = torch.from_numpy(x).requires_grad_()
    y, ty = ours(x), theirs(tx)
    g = rng.integers(-9, 10, y.shape).astype(np.float64)
    ty.backward(torch.from_numpy(g))
    np.testing.assert_array_equal(y, ty.detach().numpy(), strict=True)
    np.testing.assert_array_equal(ours.backward(g), tx.grad.numpy(), strict=True)
    for (key, parameter), (other, reference) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert key == other
        np.testing.assert_array_equal(parameter.grad, reference.grad.numpy(), strict=True)


@pytest.mark.parametrize(("name", "options", "shape"), POOLS)
@pytest.mark.parametrize("special", [None, np.nan, -np.inf])
def test_pool_against_torch(name: str, options: dict[str, Any], shape: tuple[int, ...], special: float | None, rng: np.random.Generator) -> None:
    """Few distinct values, so that there are ties. Maxima are exact; t shares, each rounded, make (t + 1) eps of the largest."""
    ours = getattr(nn, name)(**options)
    torch, theirs = torch_pair(ours, name, **options)
    x = rng.integers(-2, 3, shape).astype(np.float64)
    if special is not None:
        x[rng.random(shape) < 0.4] = special
    tx = torch.from_numpy(x).requires_grad_()
    y, ty = ours(x), theirs(tx)
    g = rng.integers(1, 10, y.shape).astype(np.float64)
    ty.backward(torch.from_numpy(g))
    taps = int(np.prod(np.broadcast_to(ours.kernel_size, ours.rank)))
    tolerance = 0.0 if name.startswith("Max") else (taps + 1) * EPS
    np.testing.assert_allclose(y, ty.detach().numpy(), rtol=0, atol=2 * tolerance, strict=True)  # |x| ≤ 2
    np.testing.assert_allclose(ours.backward(g), tx.grad.numpy(), rtol=0, atol=9 * tolerance, strict=True)  # |g| ≤ 9
    np.testing.assert_array_equal(ours.eval()(x), y)


@pytest.mark.parametrize("name", [*ACTIVATIONS.values()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activation_against_torch(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """Errors are relative but for the tail of GELU, where 1 + erf cancels: there they are eps · |x|."""
    ours = getattr(nn, name)()
    torch, theirs = torch_pair(ours, name)
    x = np.concatenate([rng.uniform(-12, 12, 200), [0.0, -0.0, -30.0, 30.0]]).astype(dtype)
    tx = torch.from_numpy(x).requires_grad_()
    y, ty, g = ours(x), theirs(tx), rng.standard_normal(x.shape).astype(dtype)
    ty.backward(torch.from_numpy(g))
    eps = float(np.finfo(dtype).eps)
    reference, grad = ty.detach().numpy(), tx.grad.numpy()
    tail = 4 * eps * np.abs(x) if name == "GELU" else 0.0
    assert y.dtype == dtype and np.all(np.abs(y - reference) <= 4 * eps * np.abs(reference) + tail)
    # The factors of a derivative (1 − y², 1 + x·(1 − s)) cancel, down to eps · (1 + |x|).
    assert np.all(np.abs(ours.backward(g) - grad) <= 4 * eps * np.abs(g) * (1 + np.abs(x)))
    if name == "ReLU":
        np.testing.assert_array_equal(y, reference)


def test_relu_nan_as_torch() -> None:
    """A NaN passes, and lets the gradient pass."""
    ours = nn.ReLU()
    torch, theirs = torch_pair(ours, "ReLU")
    x = np.array([np.nan, -1.0, np.inf, -np.inf, 0.0])
    tx = torch.from_numpy(x).requires_grad_()
    theirs(tx).backward(torch.ones(5, dtype=torch.float64))
    np.testing.assert_array_equal(ours(x), np.array([np.nan, 0, np.inf, 0, 0]))
    np.testing.assert_array_equal(ours.backward(np.ones(5)), tx.grad.numpy())


@pytest.mark.parametrize(
    ("name", "size", "x"),
    [("Conv1d", 3, [[[1, 2, 1, 0, 1, 2, 1]]]), ("Conv2d", 2, [[[[1, 2, 1], [0, 1, 2], [2, 1, 0]]]])],
)
def test_textbook(name: str, size: int, x: list[Any]) -> None:
    """The two snippets of every first lesson, with PyTorch's initial weights; |x| ≤ 2, |w| ≤ 1, t taps and a bias."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(in_channels=1, out_channels=1, kernel_size=size)
    ours = getattr(nn, name)(in_channels=1, out_channels=1, kernel_size=size)
    ours.load_state_dict(theirs.state_dict())
    x32 = np.array(x, np.float32)
    y, reference = ours(x32), theirs(torch.from_numpy(x32)).detach().numpy()
    taps = ours.weight.data.size
    assert y.dtype == np.float32 and y.shape == reference.shape
    assert np.abs(y - reference).max() <= (taps + 1) * float(np.finfo(np.float32).eps) * (2 * taps + 1)


@pytest.mark.parametrize(("name", "size", "expected"), [("Conv1d", 3, [[[0, 2, 0, -2, 0]]]), ("Conv2d", 2, [[[[2, 4], [1, 1]]]])])
def test_textbook_by_hand(name: str, size: int, expected: list[Any]) -> None:
    """The same two with weights for which the answer is plain."""
    layer = getattr(nn, name)(in_channels=1, out_channels=1, kernel_size=size)
    x = [[[1, 2, 1, 0, 1, 2, 1]]] if name == "Conv1d" else [[[[1, 2, 1], [0, 1, 2], [2, 1, 0]]]]
    layer.weight.data = [[[1, 0, -1]]] if name == "Conv1d" else [[[[1, 0], [0, 1]]]]
    layer.bias.data = [0]
    np.testing.assert_array_equal(layer(np.array(x, np.float32)), np.array(expected, np.float32), strict=True)


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear"])
def test_initial_values_as_torch(name: str) -> None:
    """The bound must be PyTorch's: of n uniform draws the largest misses it by a factor of 1 − 20/n with probability e⁻²⁰."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    torch.manual_seed(0)
    arguments = (48, 96) if name == "Linear" else (48, 96, 2)
    ours, theirs = getattr(nn, name)(*arguments, rng=0), getattr(torch.nn, name)(*arguments)
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        a, b = parameter.data, other.detach().numpy()
        assert a.shape == b.shape and a.dtype == b.dtype
        assert abs(np.abs(a).max() / np.abs(b).max() - 1) <= 20 / a.size
        # The mean of n draws within ±bound has the deviation bound/√(3n), their mean square bound²/√(11.25 n).
        bound, n = np.abs(b).max(), a.size
        assert abs(a.mean()) <= 5 * bound / (3 * n) ** 0.5
        assert abs((a.astype(float) ** 2).mean() - bound**2 / 3) <= 5 * bound**2 / (11.25 * n) ** 0.5


def test_seed_makes_weights() -> None:
    """The seed decides the weights, as a number or as a generator."""
    one, same, other = (nn.Conv2d(2, 3, 3, rng=seed).weight.data for seed in (1, np.random.default_rng(1), 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "MaxPool", "AvgPool"])
@pytest.mark.parametrize(("rank", "layout"), [(1, "NWC"), (2, "NHWC"), (3, "NDHWC")])
def test_channels_last(kind: str, rank: int, layout: str, rng: np.random.Generator) -> None:
    """Another order of the axes, the same numbers; batches and samples."""
    if "Conv" in kind:
        first, last = (conv(f"{kind}{rank}d", {"kernel_size": 2, "stride": 2}, layout=order) for order in (None, layout))
        for parameter in first.parameters():
            parameter.data = rng.integers(-9, 10, parameter.shape)
        last.load_state_dict(first.state_dict())
    else:
        first, last = getattr(nn, f"{kind}{rank}d")(2), getattr(nn, kind)(2, layout=layout)
    x = rng.integers(-9, 10, (2, 2, 5, 4, 6)[: rank + 2]).astype(np.float64)
    for sample in (x, x[0]):
        axis = sample.ndim - rank - 1
        y, y_last = first(sample), last(np.moveaxis(sample, axis, -1))
        np.testing.assert_array_equal(np.moveaxis(y_last, -1, axis), y)
        g = rng.integers(-9, 10, y.shape).astype(np.float64)
        np.testing.assert_array_equal(np.moveaxis(last.backward(np.moveaxis(g, axis, -1)), -1, axis), first.backward(g))


def test_pool_takes_the_rank_from_the_input() -> None:
    """MaxPool and AvgPool serve all ranks."""
    for rank in (1, 2, 3):
        x = np.arange(4**rank).reshape(1, 1, *[4] * rank)
        np.testing.assert_array_equal(nn.MaxPool(2)(x), getattr(nn, f"MaxPool{rank}d")(2)(x))
        np.testing.assert_array_equal(nn.AvgPool(2)(x), getattr(nn, f"AvgPool{rank}d")(2)(x))
    with pytest.raises(ValueError, match=r"x must be \(N, C, \*1 to 3 spatial axes\), got shape \(4, 4\)"):
        nn.MaxPool(2)(np.ones((4, 4)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sequential_fuses(activation: str, training: bool, rng: np.random.Generator) -> None:
    """Fused or apart, results differ by the rounding of one activation, whose error is a few eps of a value below 1 + |y|."""
    layer, follower = conv("Conv1d", {"kernel_size": 3}), getattr(nn, ACTIVATIONS[activation])()
    net = nn.Sequential(layer, follower).train(training)
    x = rng.standard_normal((2, 2, 9))
    apart = TABLE[activation].forward(conv("Conv1d", {"kernel_size": 3})(x))
    assert np.abs(net(x) - apart).max() <= 4 * EPS * (1 + np.abs(apart).max())
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    if training:
        assert (follower._kept is None) == TABLE[activation].keeps_output, "fused exactly where the output tells the derivative"
        g = rng.standard_normal(apart.shape)
        grad = net.backward(g)
        fused = conv("Conv1d", {"kernel_size": 3}, activation=activation)
        fused(x)
        # 3 taps × 4 channels of products g·f′(y)·w with |w| ≤ 1; f′ within a few eps of one that is at most 1.13.
        np.testing.assert_allclose(grad, fused.backward(g), rtol=0, atol=12 * 6 * EPS * np.abs(g).max())


def test_sequential_does_not_fuse_what_a_convolution_cannot() -> None:
    """Another slope, or a convolution that has an activation already."""
    x = -np.ones((1, 1, 3))
    layer = nn.Conv1d(1, 1, 1, dtype=np.float64)
    layer.weight.data, layer.bias.data = [[[1]]], [0]
    np.testing.assert_array_equal(nn.Sequential(layer, nn.LeakyReLU(0.5))(x), 0.5 * x)
    layer.activation = "relu"
    np.testing.assert_array_equal(nn.Sequential(layer, nn.Sigmoid())(x), np.full_like(x, 0.5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_is_kept(dtype: Any) -> None:
    """Outputs and gradients stay in the dtype of inputs and parameters."""
    for name in ACTIVATIONS.values():
        net = nn.Sequential(nn.Conv2d(1, 2, 3, dtype=dtype), getattr(nn, name)(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(),
                            nn.Linear(2, 3, dtype=dtype))  # fmt: skip
        y = net(np.ones((2, 1, 6, 6), dtype))
        assert y.dtype == dtype and net.backward(np.ones_like(y)).dtype == dtype
        assert all(p.grad is not None and p.grad.dtype == dtype for p in net.parameters())


def test_integers_and_lists() -> None:
    """What is not floating point promotes as in NumPy; maxima stay integers."""
    assert nn.Linear(2, 1)([[1, 2]]).dtype == np.float64
    assert nn.MaxPool1d(2)(np.array([[[-5, -3, -4]]], np.int8)).dtype == np.int8
    np.testing.assert_array_equal(nn.MaxPool1d(2, padding=1)(np.array([[[-5, -3, -4]]], np.int8)), [[[-5, -3]]])


def test_empty_batch() -> None:
    """No samples in, none out."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.ReLU())
    y = net(np.ones((0, 2, 3), np.float32))
    assert y.shape == (0, 2) and net.backward(y).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (RuntimeError, "ReLU.backward needs a forward", lambda: nn.ReLU().backward([1.0])),
        (RuntimeError, "Conv1d.backward needs a forward", lambda: nn.Conv1d(1, 1, 1).backward([1.0])),
        (ValueError, "in_channels must be at least 1", lambda: nn.Conv1d(0, 1, 1)),
        (TypeError, "out_features must be an int", lambda: nn.Linear(1, 2.5)),
        (ValueError, "kernel_size must be at least 1", lambda: nn.Conv2d(1, 1, 0)),
        (ValueError, "groups must divide", lambda: nn.Conv2d(4, 6, 1, groups=4)),
        (ValueError, "padding_mode must be 'zeros'", lambda: nn.Conv2d(1, 1, 1, padding_mode="reflect")),
        (ValueError, "padding must be", lambda: nn.Conv2d(1, 1, 1, padding="full")),
        (ValueError, "layout must be one of", lambda: nn.Conv2d(1, 1, 1, layout="NWC")),
        (ValueError, "layout must be None or one of", lambda: nn.MaxPool2d(1, layout="NWC")),
        (ValueError, "activation must be None or one of", lambda: nn.Conv2d(1, 1, 1, activation="softmax")),
        (TypeError, "dtype must be float16, float32 or float64", lambda: nn.Conv2d(1, 1, 1, dtype=np.int32)),
        (ValueError, "8 channels, but x of shape", lambda: nn.Conv2d(8, 1, 1)(np.ones((1, 3, 4, 4)))),
        (TypeError, "x must be real", lambda: nn.Linear(1, 1)(np.ones(1, complex))),
        (ValueError, "x must have in_features=3", lambda: nn.Linear(3, 1)(np.ones((3, 1)))),
        (ValueError, "padding must be at most half", lambda: nn.MaxPool1d(3, padding=2)),
        (ValueError, "must fit in x of shape", lambda: nn.AvgPool1d(5)(np.ones((1, 1, 4)))),
        (ValueError, "x must be NCHW, or one sample of it", lambda: nn.AvgPool2d(2)(np.ones((4, 4)))),
        (TypeError, "layers must be Modules", lambda: nn.Sequential(nn.ReLU(), "relu")),
        (ValueError, "must not appear twice", lambda: nn.Sequential(*[nn.ReLU()] * 2)),
        (ValueError, "must not be after end_dim", lambda: nn.Flatten(2, 1)(np.ones((1, 2, 3)))),
        (NotImplementedError, "must define forward", lambda: nn.Module()(1)),
    ],
)
def test_errors(error: type[Exception], message: str, call: Any) -> None:
    """Errors say what was wrong and what was expected."""
    with pytest.raises(error, match=message):
        call()


def test_backward_once_per_forward_and_of_the_right_shape() -> None:
    """A refused gradient changes nothing; an accepted one uses up the forward."""
    layer = nn.Conv1d(1, 2, 3)
    y = layer(np.ones((1, 1, 5), np.float32))
    with pytest.raises(ValueError, match=r"grad_out must have shape \(1, 2, 3\)"):
        layer.backward(y[0])
    layer.backward(y)
    with pytest.raises(RuntimeError, match="one forward for each backward"):
        layer.backward(y)


def test_eval_keeps_nothing() -> None:
    """Evaluation mode holds no activations, not even those of the training before."""
    net = nn.Sequential(nn.Conv1d(1, 2, 3, activation="silu"), nn.GELU(), nn.MaxPool1d(2), nn.AvgPool1d(1), nn.Flatten(), nn.Linear(2, 1))
    x = np.ones((1, 1, 5), np.float32)
    net(x)
    assert all(module._kept is not None for module in net.modules())
    assert all(module._kept is None for module in net.eval().modules())
    y = net(x)
    assert all(module._kept is None and not module.training for module in net.modules())
    with pytest.raises(RuntimeError, match="training mode"):
        net.backward(y)
    assert all(module.training for module in net.train().modules())


def _evaluating(rng: np.random.Generator, **options: Any) -> tuple[nn.Conv2d, np.ndarray[Any, Any]]:
    """Return a layer in evaluation mode that has prepared its weights, and its input."""
    layer = nn.Conv2d(16, 16, 3, padding=1, rng=0, **options)
    layer.eval()
    x = rng.standard_normal((1, 16, 14, 14)).astype(np.float32)
    for _ in range(2):
        layer(x)
    assert isinstance(layer._prepared[1], nc.PreparedWeights)
    return layer, x


def _by_assignment(layer: nn.Conv2d) -> None:
    layer.weight.data = layer.weight.data * 2


def _in_place(layer: nn.Conv2d) -> None:
    layer.weight.data *= 2


def _by_index(layer: nn.Conv2d) -> None:
    layer.weight.data[...] *= 2


def _through_an_array(layer: nn.Conv2d) -> None:
    np.asarray(layer.weight)[...] *= 2


def _by_loading(layer: nn.Conv2d) -> None:
    layer.load_state_dict({name: value * (2 if name == "weight" else 1) for name, value in layer.state_dict().items()})


def _by_another_parameter(layer: nn.Conv2d) -> None:
    layer.weight = nn.Parameter(layer.weight.data * 2)


def _by_a_step(layer: nn.Conv2d) -> None:
    layer.weight.grad = -layer.weight.data
    nn.SGD([layer.weight], lr=1.0).step()


CHANGES = (_by_assignment, _in_place, _by_index, _through_an_array, _by_loading, _by_another_parameter, _by_a_step)


@pytest.mark.parametrize("change", CHANGES)
def test_prepared_weights_follow_every_change(change, rng):
    layer, x = _evaluating(rng)
    kept, change_twice = layer._prepared[1], range(2)
    for _ in change_twice:
        change(layer)
        for _ in range(3):  # unprepared, prepared, kept
            np.testing.assert_array_equal(layer(x), nc.conv2d(x, layer.weight._data, layer.bias.data, padding=1))
    assert layer._prepared[1] is not kept and layer._prepared[1] is not None


@pytest.mark.parametrize("view", [lambda data: data, lambda data: data[0], lambda data: data.reshape(-1), memoryview])
def test_weights_that_somebody_holds_are_not_kept(view, rng):
    layer, x = _evaluating(rng)
    held = view(layer.weight.data)
    for _ in range(3):
        layer(x)
    changed = np.asarray(held)
    changed[...] = 0
    assert layer._prepared[1] is None or layer._prepared[0][1] != layer.weight._accesses
    np.testing.assert_array_equal(layer(x), np.broadcast_to(nc.conv2d(x, layer.weight._data, layer.bias.data, padding=1), x.shape))
    del held, changed
    for _ in range(2):
        layer(x)
    assert layer._prepared[1] is not None


def test_prepared_weights_are_dropped(rng):
    layer, x = _evaluating(rng, activation="gelu")
    y, kept = layer(x), layer._prepared[1]
    np.testing.assert_array_equal(layer(x), y)
    assert layer._prepared[1] is kept
    np.testing.assert_array_equal(layer(x[:, :, 2:]), nc.conv2d(x[:, :, 2:], layer.weight.data, layer.bias.data, padding=1, activation="gelu"))
    for mode in (True, False):
        layer.train(mode)
        assert layer._prepared is None
        layer(x)
    layer.train()(x)
    assert layer._prepared is None


def test_no_gradient_of_the_input_where_none_is_asked_for(rng, monkeypatch):
    calls = []
    original = nn.Conv2d._function

    def counted(self: Any, suffix: str = "") -> Any:
        function = original(self, suffix)
        return (lambda *a, **k: calls.append(k["needs"]) or function(*a, **k)) if suffix == "_backward" else function

    monkeypatch.setattr(nn.Conv2d, "_function", counted)
    layers = (nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.Conv2d(4, 3, 3, rng=1), nn.Flatten(), nn.Linear(3 * 4 * 4, 2, rng=2))
    net, x = nn.Sequential(nn.AvgPool2d(1), nn.Sequential(*layers[:3]), *layers[3:]), rng.standard_normal((2, 1, 8, 8)).astype(np.float32)
    y = net(x)
    assert net.backward(np.ones_like(y)).shape == x.shape
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    net(x)
    assert net.backward(np.ones_like(y), input_gradient=False) is None
    for p, grad in zip(net.parameters(), expected, strict=True):
        np.testing.assert_array_equal(p.grad, grad)
    assert calls == [(True, True, True)] * 3 + [(False, True, True)]
    for again in net, net[0]:
        with pytest.raises(RuntimeError, match="needs a forward"):
            again.backward(np.ones_like(y))


def test_own_modules_need_not_know_about_input_gradient(rng):
    class Twice(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Linear(3, 3, rng=0)

        def forward(self, x: Any) -> Any:
            return self.inner(x) * 2

        def backward(self, grad_out: Any) -> Any:
            return self.inner.backward(grad_out * 2)

    net, x = nn.Sequential(Twice(), nn.ReLU()), rng.standard_normal((2, 3))
    assert net.backward(np.ones_like(net(x)), input_gradient=False) is None
    assert next(net.parameters()).grad is not None
    idle = nn.Sequential(nn.ReLU(), nn.Flatten())
    assert idle.backward(np.ones_like(idle(x)), input_gradient=False) is None
