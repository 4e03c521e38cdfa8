"""The tiles of `winograd`: the five linear maps along an axis, F(2, 3) and F(4, 3), and what a stride of 2 makes of them.

With a stride of 2 every other input meets the middle tap alone, and the ones between meet the other two as with a stride of 1: F(m, 2) does
those, at the points 0, 1, ∞ and for m = 4 also −1 and 2, and the others are multiplied as they are. All of those meet the same tap: a tile
of 4 outputs has 9 positions instead of 12 products, but only 6 transformed taps. For a dilated input, of a strided problem's gradient, it
is the outputs that are of two kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Formula = Callable[[list[Any]], list[Any]]


class Axis(NamedTuple):
    """One axis of a tile: its sizes and the five linear maps, written for vectors (or numbers)."""

    outputs: int
    inputs: int  # that a tile reads
    step: int  # inputs from tile to tile
    kinds: tuple[int, ...]  # of each position, the transformed tap that meets it there
    input: Formula  # Bᵀ: inputs to positions
    filter: Formula  # G: taps to transformed ones
    output: Formula  # Aᵀ: positions to outputs
    gradient: Formula  # A: outputs to positions
    taps: Formula  # Gᵀ: sums of products, of each kind, to taps

    @property
    def positions(self) -> int:
        """How many products a tile needs."""
        return len(self.kinds)

    @property
    def transformed(self) -> int:
        """How many transformed taps there are."""
        return max(self.kinds) + 1


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


class Pair(NamedTuple):
    """F(m, 2), a part of the axes with a stride of 2: the maps of m outputs of two taps."""

    outputs: int
    input: Formula
    filter: Formula
    output: Formula
    gradient: Formula
    taps: Formula


def _pair_input2(d: list[Any]) -> list[Any]:
    return [d[0] - d[1], d[1], d[2] - d[1]]


def _pair_filter2(g: list[Any]) -> list[Any]:
    return [g[0], g[0] + g[1], g[1]]


def _pair_output2(p: list[Any]) -> list[Any]:
    return [p[0] + p[1], p[1] + p[2]]


def _pair_gradient2(y: list[Any]) -> list[Any]:
    return [y[0], y[0] + y[1], y[1]]


def _pair_taps2(p: list[Any]) -> list[Any]:
    return [p[0] + p[1], p[1] + p[2]]


def _pair_input4(d: list[Any]) -> list[Any]:
    u = d[3] - d[1]
    return [(d[0] - d[2]) + 0.5 * u, (d[3] - d[2]) + -2.0 * d[1], d[3] + 2.0 * d[1] + -3.0 * d[2], u, (d[4] - d[2]) + -2.0 * u]


def _pair_filter4(g: list[Any]) -> list[Any]:
    return [g[0], -0.5 * (g[0] + g[1]), 1 / 6 * (g[1] - g[0]), 1 / 6 * g[0] + 1 / 3 * g[1], g[1]]


def _pair_output4(p: list[Any]) -> list[Any]:
    s, t = p[1] + p[2], p[1] - p[2]
    return [p[0] + s + p[3], t + 2.0 * p[3], s + 4.0 * p[3], (t + p[4]) + 8.0 * p[3]]


def _pair_gradient4(y: list[Any]) -> list[Any]:
    even, odd = y[0] + y[2], y[1] + y[3]
    return [y[0], even + odd, even - odd, y[0] + 2.0 * y[1] + 4.0 * y[2] + 8.0 * y[3], y[3]]


def _pair_taps4(p: list[Any]) -> list[Any]:
    half, sixth = -0.5 * p[1], 1 / 6 * p[2]
    return [(p[0] + half) - sixth + 1 / 6 * p[3], (half + sixth) + p[4] + 1 / 3 * p[3]]


PAIRS = (
    Pair(2, _pair_input2, _pair_filter2, _pair_output2, _pair_gradient2, _pair_taps2),
    Pair(4, _pair_input4, _pair_filter4, _pair_output4, _pair_gradient4, _pair_taps4),
)


def _strided(pair: Pair) -> Axis:
    """Return the axis of a stride of 2: its positions are those of the even inputs' `Pair`, then the odd inputs themselves."""
    m, both = pair.outputs, pair.outputs + 1
    return Axis(
        m, 2 * m + 1, 2 * m, _kinds(m),
        lambda d: pair.input(d[::2]) + d[1::2],
        lambda g: [*pair.filter(g[::2]), g[1]],
        lambda p: [one + other for one, other in zip(pair.output(p[:both]), p[both:], strict=True)],
        lambda y: pair.gradient(y) + y,
        lambda p: _with_middle(pair.taps(p[:both]), p[both]),
    )  # fmt: skip


def _dilated(pair: Pair, first: int) -> Axis:
    """Return the axis of an input dilated by 2: outputs of two taps, from the ``first`` on every other one, and between them those of one."""
    m, both = pair.outputs, pair.outputs + 1
    return Axis(
        2 * m, both, m, _kinds(m),
        lambda d: pair.input(d) + (d[:m] if first else d[1:]),
        lambda g: [*pair.filter(g[::2]), g[1]],
        lambda p: _in_turn(*(pair.output(p[:both]), p[both:])[:: -1 if first else 1]),
        _unasked, _unasked,
    )  # fmt: skip


def _unasked(_: list[Any]) -> list[Any]:
    raise NotImplementedError("the weights' gradient is that of the problem whose input is not dilated")


def _kinds(m: int) -> tuple[int, ...]:
    return (*range(m + 1), *[m + 1] * m)


def _with_middle(ends: list[Any], middle: Any) -> list[Any]:
    return [ends[0], middle, ends[1]]


def _in_turn(one: list[Any], other: list[Any]) -> list[Any]:
    return [value for pair in zip(one, other, strict=True) for value in pair]


PLAIN, STRIDED, DILATED, SHIFTED = "", "s", "d", "e"  # SHIFTED: dilated, and the first output has one tap
AXES = {
    "1": Axis(1, 1, 1, (0,), _same, _same, _same, _same, _same),
    "2": Axis(2, 4, 2, (0, 1, 2, 3), _input2, _filter2, _output2, _gradient2, _taps2),
    "4": Axis(4, 6, 4, (0, 1, 2, 3, 4, 5), _input4, _filter4, _output4, _gradient4, _taps4),
    **{f"{pair.outputs}{STRIDED}": _strided(pair) for pair in PAIRS},
    **{f"{pair.outputs}{DILATED}": _dilated(pair, 0) for pair in PAIRS},
    **{f"{pair.outputs}{SHIFTED}": _dilated(pair, 1) for pair in PAIRS},
}
Tile = tuple[str, str]  # the axis before the last ("1" if that one is summed directly) and the last
