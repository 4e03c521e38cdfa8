"""A long filter applied to a signal as it arrives, without delay: its first taps directly, the others by transforms of partitions.

Level l cuts taps P_l … P_(l+1) − 1 into partitions of P_l taps. Whenever P_l samples are complete, the last 2·P_l are transformed, kept
in a ring, multiplied by the partitions' spectra, each with the window that its taps reach, and the sum transformed back: the level's
part of the next P_l outputs (W. G. Gardner, Efficient convolution without input-output delay, J. Audio Eng. Soc. 43, 1995). Two real
channels with one filter are the real and the imaginary part of one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _isa, _parallel, _transform
from numbaconv.cpu._overlap import clear
from numbaconv.cpu._simd_fft import products

RATIO = 8  # between the partitions of neighbouring levels
LARGEST = 1 << 15  # taps of a partition
SHORTEST = 32  # the same, at the least
SECONDS, SECONDS_PER_TAP = 1e-8, 5e-11  # for a sample of a channel, and for each tap summed directly: by eye, 2026-11; it decides threads alone
Array = np.ndarray[Any, Any]


class Level(NamedTuple):
    """Partitions of one size: taps of each, how many, elements from a tile's real to its imaginary part."""

    size: int
    partitions: int
    plane: int


class Partitions:
    """Filters cut into partitions, and what the signal left behind so far, for a number of channels."""

    def __init__(self, filters: Array, channels: int, dtype: np.dtype[Any], first: int) -> None:
        """Take filters, (1 or channels, taps); ``first`` is the least size of the smallest partitions."""
        isa, real = _isa.host(), np.dtype(dtype.char.lower())
        self.dtype, self.real, self.channels, self.taps = dtype, real, channels, filters.shape[1]
        self.first = max(first, isa.width(real) ** 2 // 2)
        self.levels = _levels(self.taps, self.first, real)
        shared = len(filters) == 1
        self.kind = 2 if dtype.kind == "c" else 0 if shared and channels > 1 else 1
        self.units = -(-channels // 2) if self.kind == 0 else channels
        largest = max([self.first, *(level.size for level in self.levels)])
        self.keep = max(2 * largest, self.first + 1)
        self.capacity = 4 * self.keep
        self._tables(filters, isa)
        self.memory = np.zeros((self.units, self.unit_size), real)
        self.kernel, self.scratch = _kernel(isa, real), np.empty((1, 0), real)
        self.position, self.written = 0, self.keep

    def _tables(self, filters: Array, isa: _isa.Isa) -> None:
        """Lay out the memory of a unit and transform the filters' partitions."""
        place = 2 * self.capacity
        work = 2 * max([self.first, *(level.plane for level in self.levels)])
        rows, stages, factors, spectra = [], [], [np.zeros(1, self.real)], []
        at, behind = 1, 2 * self.first
        for size, count, plane in self.levels:
            made = _transform.transform(isa, self.real, (1, 1, 2 * size))
            rows.append((size, count, plane, place, place + 2 * count * plane, behind, len(made.stages), *made.sizes))
            moved = np.zeros((16, 5), np.int64)
            moved[: len(made.stages)] = made.stages
            moved[:, 4] += at
            stages.append(moved)
            factors.append(made.factors)
            spectra.append(_spectra(filters, made, isa, self.real, size, count, plane))
            at, place, behind = at + len(made.factors), place + 2 * count * plane + 2 * size, behind + 2 * count * plane
        self.work, self.unit_size = place, place + work
        start = np.zeros((len(filters), 2, self.first), self.real)
        taps = min(self.taps, self.first)
        start[:, 0, :taps] = filters[:, :taps].real
        if filters.dtype.kind == "c":
            start[:, 1, :taps] = filters[:, :taps].imag
        parts = [start.reshape(len(filters), -1), *(each.reshape(len(filters), -1) for each in spectra)]
        self.filters = np.ascontiguousarray(np.concatenate(parts, 1))
        self.rows = np.array(rows, np.int64).reshape(-1, 12)
        self.stages = np.array(stages, np.int64).reshape(-1, 16, 5)
        self.factors = np.concatenate(factors)
        summed = taps if start.any() else 0  # a delay is a filter that begins with zeros
        self.seconds = SECONDS + SECONDS_PER_TAP * summed
        self.geometry = np.array([self.kind, self.channels, self.first, summed, int(filters.dtype.kind == "c"), self.capacity, self.keep,
                                  self.work, len(filters) > 1, 0, 0, 0, 0], np.int64)  # fmt: skip

    def process(self, x: Array, y: Array) -> None:
        """Filter the next samples, (channels, n), contiguous and of the dtype; y is overwritten."""
        n, start = x.shape[1], 0
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)
        if self.kind == 2:
            flat_x, flat_y = flat_x.view(self.real), flat_y.view(self.real)
        while start < n:
            count = min(n - start, self.capacity - self.keep)
            moved = self.written + count > self.capacity
            # position, samples in a row, first of them, how many, and where they are written: in front if the end was reached
            self.geometry[8:] = self.geometry[8], self.position, n, start, count
            written = self.keep if moved else self.written
            arguments = (flat_x, flat_y, self.memory, self.filters, self.rows, self.stages, self.factors, self.geometry, self.written, written)
            seconds = self.seconds * count * self.units
            if seconds < _parallel.SERIAL_SECONDS:
                self.kernel.pooled(0, self.units, _parallel.ALONE, self.scratch, *arguments)
            else:
                _parallel.run(self.kernel, self.units, (0, self.real), arguments, seconds)
            self.position, self.written, start = self.position + count, written + count, start + count


def _levels(taps: int, first: int, real: np.dtype[Any]) -> list[Level]:
    """Return the levels for a number of taps; those below ``first`` are summed directly."""
    levels, size = [], first
    while taps > size:
        following = size * RATIO
        last = taps <= 2 * following or following > LARGEST
        stop = taps if last else following
        levels.append(Level(size, -(-(stop - size) // size), _transform.plane(2 * size, real)))
        if last:
            break
        size = following
    return levels


def _spectra(filters: Array, made: _transform.Transform, isa: _isa.Isa, real: np.dtype[Any], size: int, count: int, plane: int) -> Array:
    """Return the spectra of a level's partitions, (filters, partitions, planes)."""
    spectra = np.zeros((len(filters), count, 2, plane), real)
    taps = filters[:, size : size + count * size] / (2 * size)
    padded = np.zeros((len(filters), count * size), taps.dtype)
    padded[:, : taps.shape[1]] = taps
    spectra[:, :, 0, :size] = padded.real.reshape(len(filters), count, size)
    if padded.dtype.kind == "c":
        spectra[:, :, 1, :size] = padded.imag.reshape(len(filters), count, size)
    tiles = spectra.reshape(-1)
    _parallel.run(_transformer(isa, real), len(filters) * count, (0, real), (tiles, plane, *made[1:]), len(filters) * count * size * 1e-8)
    return spectra


@functools.cache
def _transformer(isa: _isa.Isa, real: np.dtype[Any]) -> Kernel:
    forward = _transform.functions(isa, real, True)[0]

    def transform(first, last, workers, scratch, tiles, plane, sizes, stages, factors):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: the spectrum of each tile. THE SCHEDULE: in place, one after the other.
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                forward(tiles, tile * 2 * plane, plane, sizes, stages, factors, tiles, tile)

    return Kernel(transform, f"-{isa.name}-{real.name}")


@inline
def _direct(work, at, memory, past, planes, taps, filters, start, length, complex_, n):  # type: ignore[no-untyped-def]
    """Add the first taps' part of n outputs to both planes of work; ``past`` is where the first output's own sample lies."""
    for part in range(2):
        to, own, other = at + part * length, past + part * planes, past + (1 - part) * planes
        sign = memory.dtype.type(2 * part - 1)
        for r in range(taps):
            tap, imaginary = filters[start + r], sign * filters[start + length + r]
            if complex_:
                for j in range(n):
                    work[unsigned(to + j)] += tap * memory[unsigned(own + j - r)] + imaginary * memory[unsigned(other + j - r)]
            else:
                for j in range(n):
                    work[unsigned(to + j)] += tap * memory[unsigned(own + j - r)]


@functools.cache
def _kernel(isa: _isa.Isa, real: np.dtype[Any]) -> Kernel:
    """Make the kernel that takes a block of samples."""
    forward, inverse, _ = _transform.functions(isa, real, True)
    set_products, add_products, width = products(isa, real), products(isa, real, False, True), isa.width(real)

    @inline
    def update(data, filters, work, capacity, end, level, n, sizes, stages, factors):  # type: ignore[no-untyped-def]
        # Transform the newest window, and compute the level's part of the next outputs.
        size, count, plane, ring, ahead, spectra = level[0], level[1], level[2], level[3], level[4], level[5]
        newest, step, vectors = n // size % count, 2 * plane, 2 * size // width
        slot = ring + newest * step
        for part in range(2):
            for j in range(2 * size):
                data[unsigned(slot + part * plane + j)] = data[unsigned(part * capacity + end - 2 * size + j)]
        forward(data, slot, plane, sizes, stages, factors, data, slot)
        set_products(data, work, data, slot, filters, spectra, plane, vectors, newest + 1, -step, step)
        if count > newest + 1:
            last = ring + (count - 1) * step
            add_products(data, work, data, last, filters, spectra + (newest + 1) * step, plane, vectors, count - newest - 1, -step, step)
        inverse(data, work, plane, sizes, stages, factors, data, work)
        for part in range(2):
            for j in range(size):
                data[unsigned(ahead + part * size + j)] = data[unsigned(work + part * plane + size + j)]

    def take(first, last, workers, scratch, x, y, memory, filters, levels, stages, factors, geometry, before, written):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n] = Σ_(r < P_1) h[r] · x[n − r] + Σ_l (what level l computed ahead for n).
        # THE SCHEDULE: a unit is a channel or a pair of them; samples are taken up to the end of a smallest partition, written behind
        # the past ones and filtered; then every level whose partition is complete is brought up to date.
        kind, channels, smallest, taps, complex_ = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4] != 0
        capacity, keep, work, own = geometry[5], geometry[6], geometry[7], geometry[8]
        position, length, start, count = geometry[9], geometry[10], geometry[11], geometry[12]
        step = 2 if kind == 2 else 1
        for worker in prange(workers):
            for unit in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                data, taps_of, done, end, n = memory[unit], filters[unit * own], 0, written, position
                if written != before:
                    for part in range(2):
                        if before - keep != written - keep:
                            for j in range(keep):
                                data[unsigned(part * capacity + written - keep + j)] = data[unsigned(part * capacity + before - keep + j)]
                while done < count:
                    some = min(count - done, smallest - n % smallest)
                    for part in range(2):
                        row = 2 * unit + part if kind == 0 else unit
                        at, from_ = part * capacity + end, row * length * step + (start + done) * step + (part if kind == 2 else 0)
                        if (part == 1 and kind == 1) or row >= channels:
                            clear(data, at, some)
                        else:
                            for j in range(some):
                                data[unsigned(at + j)] = x[unsigned(from_ + j * step)]
                    clear(data, work, 2 * smallest)
                    for level in range(len(levels)):
                        size, ahead = levels[level, 0], levels[level, 4]
                        for part in range(2):
                            for j in range(some):
                                data[unsigned(work + part * smallest + j)] += data[unsigned(ahead + part * size + n % size + j)]
                    _direct(data, work, data, end, capacity, taps, taps_of, 0, smallest, complex_, some)
                    for part in range(2):
                        row = 2 * unit + part if kind == 0 else unit
                        to = row * length * step + (start + done) * step + (part if kind == 2 else 0)
                        if not ((part == 1 and kind == 1) or row >= channels):
                            for j in range(some):
                                y[unsigned(to + j * step)] = data[unsigned(work + part * smallest + j)]
                    done, end, n = done + some, end + some, n + some
                    for level in range(len(levels)):
                        if n % levels[level, 0] == 0:
                            update(data, taps_of, work, capacity, end, levels[level], n, levels[level, 7:12], stages[level], factors)

    return Kernel(take, f"-{isa.name}-{real.name}")
