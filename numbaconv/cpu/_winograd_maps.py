"""The tiles of `winograd`: the five linear maps along an axis, F(2, 3) and F(4, 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Formula = Callable[[list[Any]], list[Any]]


class Axis(NamedTuple):
    """One axis of a tile: its outputs and the five linear maps, written for vectors (or numbers)."""

    outputs: int
    input: Formula  # Bᵀ: inputs to positions
    filter: Formula  # G: taps to positions
    output: Formula  # Aᵀ: positions to outputs
    gradient: Formula  # A: outputs to positions
    taps: Formula  # Gᵀ: positions to taps

    @property
    def positions(self) -> int:
        """How many inputs a tile reads, and products it needs."""
        return self.outputs + 2 if self.outputs > 1 else 1


def _same(d: list[Any]) -> list[Any]:
    return d


def _input2(d: list[Any]) -> list[Any]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]


def _filter2(g: list[Any]) -> list[Any]:
    ends, middle = 0.5 * (g[0] + g[2]), 0.5 * g[1]
    return [g[0], ends + middle, ends - middle, g[2]]


def _output2(p: list[Any]) -> list[Any]:
    return [p[0] + (p[1] + p[2]), (p[1] - p[2]) + p[3]]


def _gradient2(y: list[Any]) -> list[Any]:
    return [y[0], y[0] + y[1], y[0] - y[1], y[1]]


def _taps2(p: list[Any]) -> list[Any]:
    total, difference = 0.5 * (p[1] + p[2]), 0.5 * (p[1] - p[2])
    return [p[0] + total, difference, total + p[3]]


def _input4(d: list[Any]) -> list[Any]:
    u, v = d[3] - d[1], d[4] - d[2]
    return [
        (d[0] - d[2]) + v + 1.5 * u, u + v + 1.5 * (d[2] + d[3]), v - u + 1.5 * (d[3] - d[2]),
        v + 2.0 * u, v - 0.5 * u, (d[5] - d[3]) - u + 1.5 * v,
    ]  # fmt: skip


def _filter4(g: list[Any]) -> list[Any]:
    ends, middle = 1 / 3 * (g[0] + g[2]), 1 / 3 * g[1]
    half = -16 / 15 * g[0] + -8 / 15 * g[1] + -4 / 15 * g[2]
    return [g[0], ends + middle, middle - ends, half, 1 / 15 * g[0] + -2 / 15 * g[1] + 4 / 15 * g[2], g[2]]


def _output4(p: list[Any]) -> list[Any]:
    s, t = p[1] + p[2], p[1] - p[2]
    return [p[0] + s + (p[3] + p[4]), t + 0.5 * p[3] + -2.0 * p[4], s + 0.25 * p[3] + 4.0 * p[4], (t + p[5]) + 0.125 * p[3] + -8.0 * p[4]]


def _gradient4(y: list[Any]) -> list[Any]:
    even, odd = y[0] + y[2], y[1] + y[3]
    half = y[0] + 0.5 * y[1] + 0.25 * y[2] + 0.125 * y[3]
    return [y[0], even + odd, even - odd, half, y[0] + -2.0 * y[1] + 4.0 * y[2] + -8.0 * y[3], y[3]]


def _taps4(p: list[Any]) -> list[Any]:
    s, t = 1 / 3 * (p[1] - p[2]), 1 / 3 * (p[1] + p[2])
    return [p[0] + s + -16 / 15 * p[3] + 1 / 15 * p[4], t + -8 / 15 * p[3] + -2 / 15 * p[4], s + -4 / 15 * p[3] + 4 / 15 * p[4] + p[5]]


AXES = {
    1: Axis(1, _same, _same, _same, _same, _same),
    2: Axis(2, _input2, _filter2, _output2, _gradient2, _taps2),
    4: Axis(4, _input4, _filter4, _output4, _gradient4, _taps4),
}
Tile = tuple[int, int]  # outputs on the last but one axis (1 if that one is summed directly) and on the last
