"""Two layers small enough to follow by hand: every product of the forward pass, then the gradients and one SGD step.

The sums printed here are done with Python's integers; numbaconv's results are compared with them before a line is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

import numbaconv as nc

Array = np.ndarray[Any, Any]
SERIES = np.array([1, 2, 1, 0, 1, 2, 1])
TAPS = np.array([1, 0, -1])
IMAGE = np.array([[1, 2, 1], [0, 1, 2], [2, 1, 0]])
FILTER = np.array([[1, -1], [-1, 1]])
BIAS = 1
RATE = 0.1


def agree(name: str, by_hand: Any, computed: Any) -> None:
    """Raise RuntimeError unless the library's result is exactly what the printed arithmetic gives."""
    if not np.array_equal(np.asarray(by_hand), np.asarray(computed)):
        raise RuntimeError(f"the sum by hand gives {name} = {by_hand!r}, but numbaconv gives {computed!r}")


def number(value: float) -> str:
    """Write a number briefly, with a true minus sign."""
    return f"{value:g}".replace("-", "−")


def row(values: Iterable[float], width: int = 3) -> str:
    """Write numbers under one another's columns."""
    return " ".join(f"{number(v):>{width}}" for v in values)


def products(pairs: Iterable[tuple[int, int]]) -> str:
    """Write a·b + c·d + …, negative factors in brackets."""
    return " + ".join("·".join(f"({number(v)})" if v < 0 else number(v) for v in pair) for pair in pairs)


def total(terms: Iterable[int]) -> str:
    """Write 1 + 0 − 1 = 0."""
    terms = list(terms)
    text = "".join(f" {'−' if t < 0 else '+'} {abs(t)}" for t in terms)
    text = text[3:] if text.startswith(" +") else "−" + text[3:]
    return f"{text} = {number(sum(terms))}"


def forward_1d() -> list[str]:
    """Show the filter sliding over the series: one line per output."""
    n, taps = len(SERIES), len(TAPS)
    outputs, lines = [], [f"  x = {row(SERIES)}", f"  w = {row(TAPS)}", ""]
    for o in range(n - taps + 1):
        pairs = [(int(SERIES[o + r]), int(TAPS[r])) for r in range(taps)]
        terms = [a * b for a, b in pairs]
        outputs.append(sum(terms))
        cells = "".join(("[" if i == o else " ") + str(v) + ("]" if i == o + taps - 1 else " ") for i, v in enumerate(SERIES))
        lines.append(f"  {cells}  y[{o}] = {products(pairs):<22} = {total(terms)}")
    x, w = SERIES[None, None].astype(float), TAPS[None, None].astype(float)
    agree("y", outputs, nc.conv1d(x, w)[0, 0])
    agree("ReLU(y)", [max(v, 0) for v in outputs], nc.conv1d(x, w, activation="relu")[0, 0])
    return [*lines, "", f"  feature map  y       = {row(outputs)}", f"  activation   ReLU(y) = {row(max(v, 0) for v in outputs)}"]


def forward_2d() -> list[str]:
    """Show the filter sliding over the image: one block per output, its sum on one line."""
    (height, width), (rows, columns) = IMAGE.shape, FILTER.shape
    outputs = np.zeros((height - rows + 1, width - columns + 1), int)
    heading = zip(("x =", "   ", "   "), map(row, IMAGE), ("   w =", "      ", ""), [*map(row, FILTER), ""], ("   bias", "", ""), strict=True)
    lines = ["  " + " ".join(parts).rstrip() for parts in heading]
    lines[0] += f" = {BIAS}"
    for p, q in np.ndindex(outputs.shape):
        at = list(product(range(rows), range(columns)))
        pairs = [(int(IMAGE[p + r, q + s]), int(FILTER[r, s])) for r, s in at]
        terms = [*(a * b for a, b in pairs), BIAS]
        outputs[p, q] = sum(terms)
        lines.append("")
        for i in range(height):
            inside = p <= i < p + rows
            cells = "".join(
                ("[" if inside and j == q else " ") + str(v) + ("]" if inside and j == q + columns - 1 else " ") for j, v in enumerate(IMAGE[i])
            )
            sums = f"   y[{p},{q}] = {products(pairs)} + {BIAS} = {total(terms)}" if i == p else ""
            lines.append(f"  {cells}{sums}".rstrip())
    x, w, bias = IMAGE[None, None].astype(float), FILTER[None, None].astype(float), np.array([float(BIAS)])
    agree("y", outputs, nc.conv2d(x, w, bias)[0, 0])
    active = np.maximum(outputs, 0)
    agree("ReLU(y)", active, nc.conv2d(x, w, bias, activation="relu")[0, 0])
    lines += ["", "  feature map y    ReLU(y)"]
    return lines + [f"    {row(y)}        {row(a)}" for y, a in zip(outputs, active, strict=True)]


def backward_1d() -> list[str]:
    """Show both gradients for ∂L/∂y = 1 at every output, L = Σ y, and one step of gradient descent."""
    n, taps = len(SERIES), len(TAPS)
    size = n - taps + 1
    lines, grad_w, grad_x = ["  Let L = Σ y, so that ∂L/∂y = 1 everywhere.", ""], [], []
    for r in range(taps):
        terms = [int(SERIES[o + r]) for o in range(size)]
        grad_w.append(sum(terms))
        lines.append(f"  ∂L/∂w[{r}] = Σ x[o+{r}] = {total(terms)}")
    lines.append("")
    for i in range(n):
        terms = [int(TAPS[i - o]) for o in range(size) if 0 <= i - o < taps]
        grad_x.append(sum(terms))
        met = " + ".join(f"w[{i - o}]" for o in range(size) if 0 <= i - o < taps)
        lines.append(f"  ∂L/∂x[{i}] = {met:<18} = {total(terms) if len(terms) > 1 else number(terms[0])}")
    x, w = SERIES[None, None].astype(float), TAPS[None, None].astype(float)
    gradients = nc.conv1d_backward(np.ones((1, 1, size)), x, w)
    agree("∂L/∂w", grad_w, gradients[1][0, 0])
    agree("∂L/∂x", grad_x, gradients[0][0, 0])
    stepped = w - RATE * gradients[1]
    before, after = nc.conv1d(x, w).sum(), nc.conv1d(x, stepped).sum()
    squares = sum(g * g for g in grad_w)
    if abs(after - (before - RATE * squares)) > 1e-12 * squares:
        raise RuntimeError(f"one SGD step should change L by {-RATE * squares}, got {after - before}")
    return [
        *lines,
        "",
        f"  one SGD step, rate {RATE}:  w − {RATE}·∂L/∂w = {row(stepped[0, 0], 4)}",
        f"  L goes from {number(before)} to {number(after)}: by −{RATE}·({' + '.join(f'{g}²' for g in grad_w)}) = {number(-RATE * squares)}.",
    ]


def backward_2d() -> list[str]:
    """Show the same for the image: gradients with respect to filter, bias and image, and one step."""
    rows, columns = FILTER.shape
    height, width = IMAGE.shape[0] - rows + 1, IMAGE.shape[1] - columns + 1
    lines = ["  Again L = Σ y: each weight's gradient is the sum of the pixels that it met.", ""]
    grad_w, grad_x = np.zeros_like(FILTER), np.zeros_like(IMAGE)
    for r, s in np.ndindex(FILTER.shape):
        terms = [int(IMAGE[p + r, q + s]) for p, q in np.ndindex(height, width)]
        grad_w[r, s] = sum(terms)
        lines.append(f"  ∂L/∂w[{r},{s}] = {total(terms)}")
    for p, q in np.ndindex(height, width):
        for r, s in np.ndindex(FILTER.shape):
            grad_x[p + r, q + s] += FILTER[r, s]
    x, w, bias = IMAGE[None, None].astype(float), FILTER[None, None].astype(float), np.array([float(BIAS)])
    ones = np.ones((1, 1, height, width))
    gradients = nc.conv2d_backward(ones, x, w)
    for name, by_hand, computed in zip(("∂L/∂x", "∂L/∂w"), (grad_x, grad_w), gradients, strict=False):
        agree(name, by_hand, computed[0, 0])
    agree("∂L/∂bias", [height * width], gradients[2])
    new_w, new_bias = w - RATE * gradients[1], bias - RATE * gradients[2]
    before, after = nc.conv2d(x, w, bias).sum(), nc.conv2d(x, new_w, new_bias).sum()
    lines += [f"  ∂L/∂bias   = {' + '.join('1' * (height * width))} = {height * width}", ""]
    labels = ["  ∂L/∂x =", *["         "] * (len(IMAGE) - 1)]
    lines += [f"{label} {row(values)}" for label, values in zip(labels, grad_x, strict=True)]
    steps = [row(values, 4) for values in new_w[0, 0]]
    lines += ["", f"  one SGD step, rate {RATE}:  w = {steps[0]}   bias = {number(new_bias[0])}"]
    lines += [" " * 30 + step for step in steps[1:]]
    return [*lines, f"  L goes from {number(before)} to {number(after)}."]


def show() -> None:
    """Print both layers, step by step.

    Raises
    ------
    RuntimeError
        If a printed number is not the one that numbaconv computes.
    """
    taps, (rows, columns) = len(TAPS), FILTER.shape
    parts = (
        (f"A 1-D layer: {len(SERIES)} numbers, {taps} taps, {len(SERIES)} − {taps} + 1 = {len(SERIES) - taps + 1} outputs", forward_1d),
        ("Its gradients and one step of learning", backward_1d),
        (f"A 2-D layer: a {IMAGE.shape[0]} × {IMAGE.shape[1]} image, a {rows} × {columns} filter and a bias", forward_2d),
        ("Its gradients and one step of learning", backward_2d),
    )
    for title, part in parts:
        print(f"\n  {title}\n  {'-' * len(title)}", *part(), sep="\n")
    print("\n  Every number above was compared with nc.conv1d, nc.conv2d and their gradients: equal.")
