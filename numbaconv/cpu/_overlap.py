"""How `fft` cuts a convolution into tiles (overlap-save), and how a tile is loaded and stored.

A tile of L elements on an axis gives V = L − E + 1 outputs, E being what the dilated filter covers: the first E − 1 of its circular
convolution are wrong and are left out. One tile that holds all of the input needs less, since what wraps around may fall on
places that nobody reads. Strides pick outputs as a tile is stored, and a dilated input leaves zeros as it is loaded.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv._jit import inline, unsigned
from numbaconv.cpu._transform import lengths
from numbaconv.cpu.bias import store_row
from numbaconv.problem import ConvProblem, Op, Triple

Array = np.ndarray[Any, Any]
LARGEST = 1 << 26  # elements of a tile
FEW = 7  # lengths of an axis that are tried for several tiles
LONG = 1 << 13  # of one axis alone; of several a 16th


class Cut(NamedTuple):
    """One axis: length of a tile, how many, outputs of each, where the first is loaded from, where its first output is."""

    length: int
    tiles: int
    step: int
    start: int
    first: int


class Tiles(NamedTuple):
    """All axes, as the kernels unpack them: (start, step, limit, input size, dilation) and (first, step, output size, stride) each."""

    size: Triple
    counts: Triple
    loads: Array
    stores: Array
    gradients: Array  # how wgrad loads dy: as an input that the stride dilates, ``step`` elements at a time


def extent(p: ConvProblem, axis: int) -> int:
    """Return how many elements the dilated filter covers on an axis."""
    return (p.filter[axis] - 1) * p.dilation[axis] + 1


def cuts(p: ConvProblem, op: Op, axis: int, unit: int) -> list[Cut]:
    """Return ways to cut an axis, with lengths that are multiples of a unit."""
    covers, outputs = extent(p, axis), (p.output[axis] - 1) * p.stride[axis] + 1
    inputs, low = (p.input[axis] - 1) * p.input_dilation[axis] + 1, p.low[axis]
    found = []
    first = covers - 1 - low
    last = first + outputs - 1
    if op != "wgrad" and first >= 0 and last < inputs + covers - 1:
        # What wraps around falls in front of the first output, or is not there.
        least = max(inputs, covers, last + 1, inputs + covers - 1 - first)
        found += [Cut(length, 1, outputs, 0, first) for length in lengths(least, unit)[:2]]
    for length in _tiled_lengths(covers, outputs + covers - 1, unit):
        step = length - covers + 1
        found.append(Cut(length, -(-outputs // step), step, -low, covers - 1))
    return found


@functools.lru_cache(maxsize=1024)
def _tiled_lengths(covers: int, whole: int, unit: int) -> list[int]:
    """Return lengths of tiles that are not mostly overlap, from short ones to those that hold all or are long enough."""
    most = min(whole, max(16 * covers, LONG if unit > LONG // 64 else LONG // 16))
    able = sorted({length for factor in range(12) for length in lengths(max(unit, covers * 5 // 4 << factor), unit)})
    able = [length for length in able if covers < length <= max(most, lengths(max(unit, covers + 1), unit)[0])] or lengths(
        max(unit, covers + 1), unit
    )[:1]
    return sorted({able[(len(able) - 1) * i // (FEW - 1)] for i in range(FEW)})


def tiles_of(p: ConvProblem, op: Op, chosen: tuple[Cut, Cut, Cut]) -> Tiles:
    """Return what the kernels need to know of the three axes."""
    loads, stores, gradients = [], [], []
    for axis, cut in enumerate(chosen):
        step = 0 if cut.tiles == 1 else cut.step
        loads.append((cut.start, step, cut.length, p.input[axis], p.input_dilation[axis]))
        if op == "wgrad":
            stores.append((0, 0, p.filter[axis], p.dilation[axis]))
        else:
            stores.append((cut.first, step, p.output[axis], p.stride[axis]))
        gradients.append((0, step, cut.step, p.output[axis], p.stride[axis]))
    d, h, w = chosen
    arrays = [np.array(rows, np.int64) for rows in (loads, stores, gradients)]
    return Tiles((d.length, h.length, w.length), (d.tiles, h.tiles, w.tiles), *arrays)


def best(p: ConvProblem, op: Op, width: int, seconds: Any) -> Tiles | None:
    """Return the tiles for which ``seconds(elements, rows, tiles)`` is least, None if all are too large.

    A tile is a multiple of a square of vectors.
    """
    square = width * width
    thin = [p.input[a] == p.output[a] == p.filter[a] == 1 and p.low[a] == 0 for a in range(3)]
    found, least = None, math.inf
    for unit in (1, width):  # small images may have no tile of a whole square with rows of any number
        axes = [[Cut(1, 1, 1, 0, 0)] if thin[a] else cuts(p, op, a, unit) for a in (0, 1)]
        axes.append(cuts(p, op, 2, square if thin[0] and thin[1] else width))
        for chosen in itertools.product(axes[0], axes[1], axes[2]):
            elements = math.prod(cut.length for cut in chosen)
            if elements % square == 0 and elements <= LARGEST:
                estimate = seconds(elements, chosen[0].length * chosen[1].length, math.prod(cut.tiles for cut in chosen))
                if estimate < least:
                    found, least = chosen, estimate
        if found:
            break
    return tiles_of(p, op, found) if found else None


@inline
def clear(data, at, n):  # type: ignore[no-untyped-def]
    """Set n elements to 0."""
    for i in range(n):
        data[unsigned(at + i)] = 0


@inline
def load(data, at, plane, x, base, strides, axes, places, size, complex_):  # type: ignore[no-untyped-def]
    """Copy what a tile covers of an image into a plane, zeros elsewhere; return Σ|x|, Σx² and how many were copied.

    ``strides`` are those of the image's axes, ``axes`` the loads of `Tiles`, ``places`` the tile's number on each axis. Of complex numbers
    the imaginary parts go to a second plane.
    """
    total, squares, count = data.dtype.type(0), data.dtype.type(0), 0
    (D, H, W), u = size, axes[2, 4]
    left = axes[2, 0] + places[2] * axes[2, 1]
    start = min(W, max(0, -left))  # the places of the row that hold an element, each u apart
    start += (-(left + start)) % u
    stop = max(start, min(min(W, axes[2, 2]), (axes[2, 3] - 1) * u + 1 - left))
    n = max(0, (stop - start + u - 1) // u)
    for d in range(D):
        i = axes[0, 0] + places[0] * axes[0, 1] + d
        inside = d < axes[0, 2] and 0 <= i <= (axes[0, 3] - 1) * axes[0, 4] and i % axes[0, 4] == 0
        for h in range(H):
            j = axes[1, 0] + places[1] * axes[1, 1] + h
            to = at + (d * H + h) * W
            there = inside and h < axes[1, 2] and 0 <= j <= (axes[1, 3] - 1) * axes[1, 4] and j % axes[1, 4] == 0
            from_ = base + i // axes[0, 4] * strides[0] + j // axes[1, 4] * strides[1] + (left + start) // u * strides[2]
            for part in range(1 + complex_):
                if u > 1 or not there:
                    clear(data, to + part * plane, W)
                else:
                    clear(data, to + part * plane, min(start, W))
                    clear(data, to + part * plane + stop, W - stop)
            if not there:
                continue
            more, most = _copy(data, to + start, u, plane, x, from_, strides[2], n, complex_)
            total, squares, count = total + more, squares + most, count + n * (1 + complex_)
    return total, squares, count


@inline
def _copy(data, to, apart, plane, x, from_, step, n, complex_):  # type: ignore[no-untyped-def]
    """Copy n numbers of a row; return Σ|x| and Σx². The frequent strides have loops of their own, for LLVM to use vectors."""
    total, squares = data.dtype.type(0), data.dtype.type(0)
    if complex_ and step == 2 and apart == 1:
        for k in range(n):
            re, im = data.dtype.type(x[unsigned(from_ + 2 * k)]), data.dtype.type(x[unsigned(from_ + 2 * k + 1)])
            data[unsigned(to + k)], data[unsigned(to + plane + k)] = re, im
            total += abs(re) + abs(im)
            squares += re * re + im * im
    elif complex_:
        for k in range(n):
            re, im = data.dtype.type(x[unsigned(from_ + k * step)]), data.dtype.type(x[unsigned(from_ + k * step + 1)])
            data[unsigned(to + k * apart)], data[unsigned(to + plane + k * apart)] = re, im
            total += abs(re) + abs(im)
            squares += re * re + im * im
    elif step == 1 and apart == 1:
        for k in range(n):
            re = data.dtype.type(x[unsigned(from_ + k)])
            data[unsigned(to + k)] = re
            total += abs(re)
            squares += re * re
    else:
        for k in range(n):
            re = data.dtype.type(x[unsigned(from_ + k * step)])
            data[unsigned(to + k * apart)] = re
            total += abs(re)
            squares += re * re
    return total, squares


@inline
def store(y, base, strides, data, at, plane, axes, places, size, bias, channel, code, complex_):  # type: ignore[no-untyped-def]
    """Write the outputs of a tile that the stride picks; the tile is scratch afterwards."""
    H, W = size[1], size[2]
    s = axes[2, 3]
    first, last = span(axes[2], places[2])
    index = axes[2, 0] + first * s - places[2] * axes[2, 1]
    d0, d1 = span(axes[0], places[0])
    h0, h1 = span(axes[1], places[1])
    for d in range(d0, d1):
        slab = at + (axes[0, 0] + d * axes[0, 3] - places[0] * axes[0, 1]) * H * W
        for h in range(h0, h1):
            row = slab + (axes[1, 0] + h * axes[1, 3] - places[1] * axes[1, 1]) * W + index
            to = base + d * strides[0] + h * strides[1] + first * strides[2]
            if complex_ and s == 1 and strides[2] == 2:
                for q in range(last - first):
                    y[unsigned(to + 2 * q)] = data[unsigned(row + q)]
                    y[unsigned(to + 2 * q + 1)] = data[unsigned(row + plane + q)]
            elif complex_:
                for q in range(last - first):
                    y[unsigned(to + q * strides[2])] = data[unsigned(row + q * s)]
                    y[unsigned(to + q * strides[2] + 1)] = data[unsigned(row + plane + q * s)]
            else:
                if s > 1:
                    for q in range(last - first):
                        data[unsigned(row + q)] = data[unsigned(row + q * s)]
                store_row(y, to, strides[2], last - first, data, row, bias, channel, code)


@inline
def span(row, place):  # type: ignore[no-untyped-def]
    """Return the first output of a tile on an axis, of whose stores it is a row, and the one behind its last."""
    step, outputs, s = row[1], row[2], row[3]
    if step == 0:
        return 0, outputs
    return -(-place * step // s), min(outputs, -(-(place + 1) * step // s))
