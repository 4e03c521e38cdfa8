"""A small convolutional network learns to read scikit-learn's handwritten digits, in NumPy arrays and numbaconv's layers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from numbaconv import nn

Array = np.ndarray[Any, Any]
WANTED = 0.97  # of the held-back digits
BATCH = 32
RATE = 5e-3
HELD_BACK = 0.25


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) in 0 … 1 and their labels, to learn from and held back."""

    x: Array
    labels: Array
    x_held: Array
    labels_held: Array


@dataclass(frozen=True)
class Training:
    """What the training gave: the network, and per epoch the mean loss and the held-back accuracy."""

    network: nn.Sequential
    losses: list[float]
    accuracies: list[float]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Part of the held-back digits that the trained network reads right."""
        return self.accuracies[-1]


def load(seed: int) -> Digits:
    """Return the 1,797 digits, a quarter of each class held back."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images[:, None] / 16).astype(np.float32)
    split = train_test_split(images, bunch.target, test_size=HELD_BACK, stratify=bunch.target, random_state=seed)
    return Digits(split[0], split[2], split[1], split[3])


def build(seed: int) -> nn.Sequential:
    """Return the network: two 3 × 3 convolutions, a pooling and a dense layer."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10, rng=rng),
    )


def predict(network: nn.Sequential, x: Array) -> Array:
    """Return the ten scores of each image, without keeping anything for a backward pass."""
    network.eval()
    scores = network(x)
    network.train()
    return scores


def train(digits: Digits, epochs: int, seed: int) -> Training:
    """Train with Adam on the cross-entropy; report every epoch on stderr, as a bar if that is a terminal."""
    from tqdm import tqdm

    network, order = build(seed), np.random.default_rng(seed)
    loss, adam = nn.CrossEntropyLoss(), nn.Adam(network.parameters(), lr=RATE)
    losses: list[float] = []
    accuracies: list[float] = []
    start = time.perf_counter()
    bar = tqdm(total=epochs, desc="  training", unit="epoch", disable=not sys.stderr.isatty())
    for epoch in range(1, epochs + 1):
        adam.lr = RATE * (1 - (epoch - 1) / epochs)  # smaller steps towards the end: the last epochs agree with each other
        summed = 0.0
        shuffled = order.permutation(len(digits.x))
        for first in range(0, len(shuffled), BATCH):
            batch = shuffled[first : first + BATCH]
            network.zero_grad()
            summed += float(loss(network(digits.x[batch]), digits.labels[batch])) * len(batch)
            network.backward(loss.backward(), input_gradient=False)
            adam.step()
        losses.append(summed / len(digits.x))
        accuracies.append(float(np.mean(predict(network, digits.x_held).argmax(1) == digits.labels_held)))
        report = f"loss {losses[-1]:.4f}, held-back digits {100 * accuracies[-1]:.2f} % right"
        bar.set_postfix_str(report)
        bar.update()
        if bar.disable:
            print(f"  epoch {epoch:>2} of {epochs}: {report}", flush=True)
    bar.close()
    return Training(network, losses, accuracies, time.perf_counter() - start)


def save_and_reload(trained: Training, digits: Digits, seed: int, path: Path) -> None:
    """Save the weights, load them into a new network and raise RuntimeError unless it answers the same, bit for bit."""
    nn.save(path, trained.network.state_dict())
    again = build(seed + 1)
    again.load_state_dict(nn.load(path))
    if not np.array_equal(predict(again, digits.x_held), predict(trained.network, digits.x_held)):
        raise RuntimeError(f"the network reloaded from {path} does not give the scores of the one that was saved")


def way_through(network: nn.Sequential, x: Array) -> tuple[list[tuple[str, Array]], Array]:
    """Return the maps of one image after each layer that gives maps, and the ten probabilities."""
    network.eval()
    maps, values = [], x[None]
    names: dict[type, Callable[[int], str]] = {
        nn.Conv2d: lambda n: f"convolution {n}",
        nn.ReLU: lambda n: f"ReLU {n}",
        nn.MaxPool2d: lambda n: "max-pooling",
    }
    seen: dict[type, int] = {}
    for layer in network:
        values = layer(values)
        if type(layer) in names:
            seen[type(layer)] = seen.get(type(layer), 0) + 1
            maps.append((names[type(layer)](seen[type(layer)]), values[0].copy()))
    network.train()
    shifted = np.exp(values[0] - values[0].max())
    return maps, shifted / shifted.sum()
