"""The modes of `upfirdn` and `resample_poly`: what lines are taken to be beyond their ends; and the adjoint of that.

    constant    0 0 0 | a b c d | 0 0 0        symmetric      c b a | a b c d | d c b       edge   a a a | a b c d | d d d
    wrap        b c d | a b c d | a b c        reflect        d c b | a b c d | c b a

    antisymmetric  symmetric with the sign of each copy reversed          smooth  the line through the two samples at each end
    antireflect    reflected in the point at each end                     line    the line through the first and the last sample

The first five are boundaries of `numbaconv.boundary`. The others add differences of samples to a sample, and of one sample alone they
all repeat it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numbaconv import boundary
from numbaconv.arrays import Array, namespace

BOUNDARIES = {"constant": "constant", "symmetric": "reflect", "reflect": "mirror", "edge": "nearest", "wrap": "wrap"}
SLOPES = ("antisymmetric", "antireflect", "smooth", "line")
MODES = (*BOUNDARIES, *SLOPES)


class _Sums(NamedTuple):
    """What stands at each place: sign · x[sample] + Σ weight · (x[plus] − x[minus]) over the differences."""

    sign: Array
    sample: Array
    differences: tuple[tuple[Array, Array, Array], ...]  # of weights, plus, minus


def _sums(place: Array, size: int, mode: str) -> _Sums:
    """Return what stands at places before 0 or from ``size`` on."""
    if size == 0:
        raise ValueError(f"an empty axis cannot be extended by {mode!r}")
    last = size - 1
    left = place < 0
    one, near = np.ones(len(place), np.int64), np.where(left, 0, last)
    beyond = np.where(left, place, place - last)  # how far from the near end
    if mode == "antisymmetric":
        rest = place % (2 * size)
        return _Sums(np.where((place // size) % 2, -one, one), np.where(rest < size, rest, 2 * size - 1 - rest), ())
    if last == 0:
        return _Sums(one, near, ())
    if mode == "line":
        return _Sums(one, near, ((beyond / last, 0 * place + last, 0 * place),))
    if mode == "smooth":
        return _Sums(one, near, ((beyond, np.where(left, 1, last), np.where(left, 0, last - 1)),))
    turns, rest = divmod(abs(beyond), 2 * last)  # each turn adds twice the difference of the ends, half a turn once
    half = rest > last
    step = np.where(half, 2 * last - rest, rest)  # how far from the near end is the sample whose reflection stands here
    mirrored = np.where(left, step, last - step)
    far = np.where(left, last, 0)
    whole = 2 * turns + 2 * half
    return _Sums(one, near, ((whole, near, far), (np.where(half, -1, 1), near, mirrored)))


def _reached(size: int, before: int, after: int) -> Array:
    return np.concatenate((np.arange(-before, 0), np.arange(size, size + after)))


def extend(x: Array, before: int, after: int, mode: str, value: complex) -> Array:
    """Return x, (rows, size, inner), with as many samples more before and after it on the middle axis."""
    if mode in BOUNDARIES:
        return boundary.extend(x, 1, before, after, BOUNDARIES[mode], value)
    rows, size, inner = x.shape
    place = _reached(size, before, after)
    xp, sums = namespace(x), _sums(place, size, mode)
    real = x.real.dtype
    outside = x[:, xp.asarray(sums.sample)] * xp.asarray(sums.sign.astype(real))[:, None]
    for weight, plus, minus in sums.differences:
        outside += xp.asarray(weight.astype(real))[:, None] * (x[:, xp.asarray(plus)] - x[:, xp.asarray(minus)])
    return xp.concatenate((outside[:, :before], x, outside[:, before:]), 1)


def fold(wide: Array, before: int, after: int, mode: str) -> Array:
    """Return the adjoint of `extend`: each sample's sum of what stands where it has gone to."""
    size = wide.shape[1] - before - after
    if mode in BOUNDARIES:
        return boundary.fold(wide, 1, before, after, size, BOUNDARIES[mode])
    place = _reached(size, before, after)
    xp, sums = namespace(wide), _sums(place, size, mode)
    real = wide.real.dtype
    x = wide[:, before : before + size].swapaxes(0, 1).copy()
    outside = wide[:, xp.asarray(place + before)].swapaxes(0, 1)
    xp.add.at(x, xp.asarray(sums.sample), outside * xp.asarray(sums.sign.astype(real))[:, None, None])
    for weight, plus, minus in sums.differences:
        weighted = outside * xp.asarray(weight.astype(real))[:, None, None]
        xp.add.at(x, xp.asarray(plus), weighted)
        xp.add.at(x, xp.asarray(minus), -weighted)
    return xp.ascontiguousarray(x.swapaxes(0, 1))
