"""Training: losses and optimisers against PyTorch, states and files, and that networks learn."""

from __future__ import annotations

import builtins
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numbaconv import nn

FORMATS = ("safetensors", "npz")


def need(suffix: str) -> None:
    """Skip where the format needs a package that is not installed."""
    if suffix == "safetensors":
        pytest.importorskip("safetensors", reason="the optional package safetensors is not installed")


def network(rng: int = 0) -> nn.Sequential:
    """Return a small classifier of 8×8 images with every kind of parameter name."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Sequential(nn.ConvTranspose2d(4, 2, 2, bias=False, rng=rng)),
        nn.Flatten(), nn.Linear(2 * 5 * 5, 3, rng=rng),
    )  # fmt: skip


def finite_difference(loss: Any, prediction: np.ndarray[Any, Any], target: Any, grad_out: Any) -> np.ndarray[Any, Any]:
    """Return the gradient of Σ grad_out · loss by central differences."""
    h = float(np.finfo(np.float64).eps) ** (1 / 3)
    grad = np.zeros_like(prediction)
    for at in np.ndindex(prediction.shape):
        up, down = prediction.copy(), prediction.copy()
        up[at] += h
        down[at] -= h
        grad[at] = np.sum(grad_out * (loss(up, target) - loss(down, target))) / (2 * h)
    return grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 5, 2, 2)])
@pytest.mark.parametrize("name", ["CrossEntropyLoss", "MSELoss"])
def test_loss(name: str, shape: tuple[int, ...], reduction: str, rng: np.random.Generator) -> None:
    """Values and gradients against finite differences, and to a few eps per element against PyTorch."""
    loss = getattr(nn, name)(reduction=reduction)
    prediction = rng.standard_normal(shape)
    target = rng.standard_normal(shape) if name == "MSELoss" else rng.integers(0, 5, shape[:-1] if len(shape) < 3 else (3, 2, 2))
    value = loss(prediction, target)
    grad_out = rng.standard_normal(np.shape(value)) if reduction == "none" else np.float64(1)
    grad = loss.backward(grad_out)
    eps = float(np.finfo(np.float64).eps)
    scale = np.abs(grad_out).sum() * (1 + np.abs(value).max())
    assert np.abs(grad - finite_difference(loss, prediction, target, grad_out)).max() <= eps ** (2 / 3) * scale
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    logits = torch.from_numpy(prediction).requires_grad_()
    theirs = getattr(torch.nn, name)(reduction=reduction)(logits, torch.from_numpy(np.asarray(target)))
    theirs.backward(torch.from_numpy(np.asarray(grad_out)))
    assert np.abs(value - theirs.detach().numpy()).max() <= prediction.size * eps * (1 + np.abs(value).max())
    assert np.abs(grad - logits.grad.numpy()).max() <= 8 * eps * np.abs(grad_out).max() * (1 + np.abs(prediction).max() + np.abs(target).max())


def test_cross_entropy_by_hand_and_far_from_zero() -> None:
    """Nothing overflows, and equal logits give the logarithm of the number of classes."""
    loss = nn.CrossEntropyLoss(reduction="none")
    np.testing.assert_array_equal(loss(np.array([[1e4, 0.0], [0.0, 1e4], [-1e4, -2e4]], np.float32), [1, 1, 0]), np.float32([1e4, 0, 0]))
    np.testing.assert_array_equal(loss.backward(np.ones(3)), np.float32([[1, -1], [0, 0], [0, 0]]))
    assert abs(nn.CrossEntropyLoss()(np.zeros((4, 8)), [0, 3, 7, 1]) - np.log(8)) <= 4 * np.finfo(np.float64).eps


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_loss_keeps_the_dtype(dtype: Any) -> None:
    """Loss and gradient have the dtype of the prediction."""
    for loss, target in ((nn.CrossEntropyLoss(), [0, 1]), (nn.MSELoss(), np.ones((2, 3), dtype))):
        assert loss(np.zeros((2, 3), dtype), target).dtype == dtype
        assert loss.backward().dtype == dtype


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.01}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_optimizer_against_torch(name: str, options: dict[str, Any], dtype: Any, rng: np.random.Generator) -> None:
    """Each step rounds a few times values below max|p| + the step; gradients are given, so that errors only add up."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    steps, start = 12, rng.standard_normal((3, 4)).astype(dtype)
    ours, theirs = nn.Parameter(start), torch.nn.Parameter(torch.from_numpy(start.copy()))
    idle = nn.Parameter(start)
    optimizer, reference = getattr(nn, name)([ours, idle], **options), getattr(torch.optim, name)([theirs], **options)
    grads = list(rng.standard_normal((steps, *start.shape)).astype(dtype))
    before = np.array(grads)
    for grad in grads:
        ours.grad, theirs.grad = grad, torch.from_numpy(grad.copy())
        optimizer.step()
        reference.step()
    np.testing.assert_array_equal(grads, before)
    difference = np.abs(ours.data - theirs.detach().numpy()).max()
    assert ours.dtype == dtype and difference <= 8 * steps * float(np.finfo(dtype).eps) * (1 + np.abs(ours.data).max())
    np.testing.assert_array_equal(idle.data, start)
    optimizer.zero_grad()
    assert ours.grad is None


def test_optimizers_by_hand() -> None:
    """Momentum by hand, and a learning rate that changes."""
    weight = nn.Parameter([1.0])
    sgd = nn.SGD([weight], lr=0.5, momentum=0.5)
    for expected in (0.0, -1.5, -3.25):  # velocities 2, 3, 3.5
        weight.grad = np.array([2.0])
        sgd.step()
        np.testing.assert_array_equal(weight.data, [expected])
    sgd.lr = 0.0
    sgd.step()
    np.testing.assert_array_equal(weight.data, [-3.25])


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_network_learns(optimizer: str) -> None:
    """Three textures: rows, columns, checks; chance is log 3 = 1.1."""
    rng = np.random.default_rng(0)
    target = np.arange(48) % 3
    i, j = np.indices((8, 8))
    x = (np.stack([i, j, i + j])[target] % 2 + 0.3 * rng.standard_normal((48, 8, 8)))[:, None].astype(np.float32)
    net, loss = network(), nn.CrossEntropyLoss()
    step = nn.SGD(net.parameters(), lr=0.1, momentum=0.9) if optimizer == "SGD" else nn.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        losses.append(loss(net(x), target))
        net.zero_grad()
        net.backward(loss.backward())
        step.step()
    assert 0.8 < losses[0] < 1.5 and losses[-1] < 0.1
    assert np.all(net.eval()(x).argmax(axis=1) == target)


def test_same_gradients_and_training_as_torch() -> None:
    """In float64, a few steps of the same network: every contraction is shorter than 200, its weights are below 1."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    rng = np.random.default_rng(1)
    x, target = rng.standard_normal((5, 1, 8, 8)), np.array([0, 1, 2, 1, 0])
    f8 = {"dtype": np.float64, "rng": 0}
    ours = nn.Sequential(nn.Conv2d(1, 4, 3, **f8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3, **f8))
    theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(36, 3))
    theirs = theirs.double()
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    loss, optimizer = nn.CrossEntropyLoss(), nn.SGD(ours.parameters(), lr=0.05)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.05)
    steps = 4
    for _ in range(steps):
        loss(ours(x), target)
        ours.zero_grad()
        ours.backward(loss.backward())
        optimizer.step()
        reference.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(target)).backward()
        reference.step()
    for name, value in theirs.state_dict().items():
        assert np.abs(ours.state_dict()[name] - value.numpy()).max() <= steps * 200 * np.finfo(np.float64).eps


def test_gradients_add_up() -> None:
    """Two backward passes add, zero_grad forgets."""
    layer, x = nn.Linear(2, 1, dtype=np.float64), np.array([[1.0, 2.0]])
    for _ in range(2):
        layer(x)
        layer.backward([[1.0]])
    np.testing.assert_array_equal(layer.weight.grad, [[2.0, 4.0]])
    layer.zero_grad()
    assert layer.weight.grad is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trip(suffix: str, tmp_path: Path) -> None:
    """Names, values, shapes and dtypes survive; a second save replaces the first."""
    need(suffix)
    path = tmp_path / f"weights.{suffix}"
    state = {
        **network().state_dict(), "file": np.arange(3), "zero-d": np.array(2.5), "empty": np.ones((0, 2)), "half": np.ones(2, np.float16),
        "transposed": np.arange(6.0).reshape(2, 3).T, "swapped": np.arange(3, dtype=">f4"),
    }  # fmt: skip
    nn.save(path, {"old": np.zeros(1)})
    nn.save(path, state)
    assert os.listdir(tmp_path) == [path.name], "no temporary file is left"
    loaded = nn.load(str(path))
    assert sorted(loaded) == sorted(state)
    for name, value in state.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype.newbyteorder("=") and loaded[name].shape == value.shape
    other = network(rng=1)
    other.load_state_dict({name: loaded[name] for name in other.state_dict()})
    x = np.ones((1, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(other(x), network()(x))


def test_state_is_that_of_torch() -> None:
    """The same names, shapes and dtypes, exchanged both ways."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer to compare with, is not installed")
    t = torch.nn
    theirs = t.Sequential(
        t.Conv2d(1, 4, 3, padding=1), t.ReLU(), t.MaxPool2d(2), t.Sequential(t.ConvTranspose2d(4, 2, 2, bias=False)), t.Flatten(), t.Linear(50, 3)
    )
    ours = network()
    assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape), v.numpy().dtype) for k, v in theirs.state_dict().items()
    ]
    ours.load_state_dict(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], value.numpy())
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in network().state_dict().items()})


def test_state_is_a_copy() -> None:
    """A state does not follow the training, nor the parameters the state."""
    layer = nn.Linear(2, 2)
    state = layer.state_dict()
    state["weight"][:] = 7
    assert not np.any(layer.weight.data == 7)
    layer.load_state_dict(state)
    state["weight"][:] = 8
    assert np.all(layer.weight.data == 7)


def test_load_state_dict_is_all_or_nothing() -> None:
    """All faults are listed and nothing is loaded."""
    net, before = network(), network().state_dict()
    state = {name: value + 1 for name, value in before.items()}
    del state["0.bias"]
    state["9.weight"] = np.zeros(1)
    state["5.bias"] = np.zeros(4)
    state["5.weight"] = np.zeros((3, 50), complex)
    message = "0.bias is missing; 9.weight is unexpected; 5.weight must hold real numbers, .*; 5.bias must have shape .3,., got .4,."
    with pytest.raises(ValueError, match=message):
        net.load_state_dict(state)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_parameters() -> None:
    """Parameters are arrays to NumPy, checked when assigned, and counted once when shared."""
    layer = nn.Linear(2, 1)
    np.testing.assert_array_equal(np.asarray(layer.weight), layer.weight.data)
    assert np.asarray(layer.weight, np.float64).dtype == np.float64
    layer.weight.data -= layer.weight.data
    assert np.all(layer.weight.data == 0)
    with pytest.raises(ValueError, match=r"data must have shape \(1, 2\)"):
        layer.weight.data = np.zeros(2)
    with pytest.raises(TypeError, match="weight is a Parameter: assign its values"):
        layer.weight = np.zeros((1, 2))
    with pytest.raises(TypeError, match="must be floating point"):
        nn.Parameter([1, 2])
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert [name for name, _ in tied.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert list(tied.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_sequential_is_a_sequence() -> None:
    """It has a length, items and slices, and prints its layers."""
    net = network()
    assert len(net) == 6 and list(net)[1] is net[1] and isinstance(net[:2], nn.Sequential) and len(net[:2]) == 2
    assert "3: Sequential(\n    0: ConvTranspose2d(4, 2" in repr(net)


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs neither the old weights nor a stray file."""
    path = tmp_path / "weights.npz"
    nn.save(path, {"a": np.ones(2)})

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space left"):
        nn.save(path, {"a": np.zeros(2)})
    assert os.listdir(tmp_path) == [path.name]
    np.testing.assert_array_equal(nn.load(path)["a"], np.ones(2))


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_and_pickled_files_are_refused(suffix: str, tmp_path: Path) -> None:
    """Empty, cut, pickled or foreign files are a ValueError."""
    need(suffix)
    path = tmp_path / f"weights.{suffix}"
    nn.save(path, {"a": np.ones(100)})
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], pickle.dumps({"a": 1}), b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"is not a readable .{suffix}"):
            nn.load(path)


def test_objects_are_refused(tmp_path: Path) -> None:
    """Neither saving nor loading touches objects."""
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="is not a readable .npz"):
        nn.load(path)
    with pytest.raises(TypeError, match="state must map strings to numeric arrays, got 'a' with dtype object"):
        nn.save(path, {"a": [None]})
    np.save(path.with_suffix(".npy"), np.ones(2))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(ValueError, match="is not a readable .npz"):
        nn.load(path)


def test_missing_safetensors_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, and nothing is written."""
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install safetensors"):
        nn.save(tmp_path / "weights.safetensors", {"a": np.ones(1)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (RuntimeError, "MSELoss.backward needs a forward", lambda: nn.MSELoss().backward()),
        (ValueError, "reduction must be one of", lambda: nn.MSELoss(reduction="max")),
        (ValueError, "target must have shape", lambda: nn.MSELoss()(np.ones(3), np.ones((3, 1)))),
        (ValueError, "empty batch", lambda: nn.MSELoss()(np.ones(0), np.ones(0))),
        (TypeError, "target must hold class indices", lambda: nn.CrossEntropyLoss()(np.ones((1, 2)), [1.0])),
        (ValueError, "indices of 2 classes, got 0 to 2", lambda: nn.CrossEntropyLoss()(np.ones((2, 2)), [0, 2])),
        (ValueError, "target must have shape", lambda: nn.CrossEntropyLoss()(np.ones((2, 2)), [0])),
        (ValueError, "at least one Parameter", lambda: nn.SGD([])),
        (TypeError, "params must be Parameters", lambda: nn.Adam([np.ones(2)])),
        (ValueError, "each Parameter once", lambda: nn.Adam([nn.Parameter(1.0)] * 2)),
        (ValueError, "lr must not be negative", lambda: nn.SGD([nn.Parameter(1.0)], lr=-1)),
        (ValueError, "nesterov needs", lambda: nn.SGD([nn.Parameter(1.0)], nesterov=True)),
        (ValueError, "betas must be in", lambda: nn.Adam([nn.Parameter(1.0)], betas=(0.9, 1.0))),
        (ValueError, "must end in one of", lambda: nn.save("weights.pt", {})),
        (ValueError, "must end in one of", lambda: nn.load("weights.pkl")),
        (FileNotFoundError, "nowhere", lambda: nn.load("nowhere.npz")),
    ],
)
def test_errors(error: type[Exception], message: str, call: Any) -> None:
    """Errors say what was wrong and what was expected."""
    with pytest.raises(error, match=message):
        call()


def test_save_takes_a_network_and_either_order(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 3))
    for arguments in ((tmp_path / "a.npz", network), (network, str(tmp_path / "a.npz")), (network.state_dict(), tmp_path / "a.npz")):
        nn.save(*arguments)
        loaded = nn.load(tmp_path / "a.npz")
        assert all(np.array_equal(loaded[name], value) for name, value in network.state_dict().items())
        (tmp_path / "a.npz").unlink()
    for arguments in ((network, network), (3, network), (tmp_path / "a.npz", [1.0])):
        with pytest.raises(TypeError, match="must be"):
            nn.save(*arguments)
