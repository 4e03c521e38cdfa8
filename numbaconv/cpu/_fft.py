"""The kernels of `fft`: filters packed as spectra, tiles through both transforms, and the sums of wgrad."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline
from numbaconv.cpu import _isa, _transform
from numbaconv.cpu._overlap import clear, load, store
from numbaconv.cpu._simd_fft import products

UNEVEN = 2.0**10  # ratio of the energies of two tiles that are better computed apart
PEAKED = 200.0  # n·Σx² / (Σ|x|)² of a tile that a few numbers dominate: 1.6 of normal deviates
PEAK, SPIKE, STRANGE = 1, 2, 3  # flags of a tile: it is better computed in a higher precision, it must be, or by the direct sum
LARGE = {"float32": 1e30, "float64": 1e250}  # beyond it a spectrum, or a sum of squares, may overflow


@inline
def place_of(geometry, member):  # type: ignore[no-untyped-def]
    """Return the image of a tile and its number on each axis."""
    tiles, rows, columns = geometry[4], geometry[5], geometry[6]
    n, tile = member // tiles, member % tiles
    return n, (tile // (rows * columns), tile // columns % rows, tile % columns)


@functools.cache
def _loader(trouble: int, limit: Any) -> Any:
    """Make the function that loads one channel of a pair of tiles."""

    @inline
    def take(data, at, x, base, image, strides, loads, size, geometry, pair, part):  # type: ignore[no-untyped-def]
        # Part 0 is both tiles, 1 and 2 are one of them and zeros for the other; return Σx² of each and what is wrong with them.
        plane, complex_, members = geometry[7], geometry[8], geometry[3]
        first, second, flag = data.dtype.type(0), data.dtype.type(0), 0
        for half in range(2 - complex_):
            member = pair if complex_ else 2 * pair + half
            if member >= members or part == 2 - half:
                clear(data, at + half * plane, size[0] * size[1] * size[2])
                continue
            n, places = place_of(geometry, member)
            total, squares, count = load(data, at + half * plane, plane, x, base + n * image, strides, loads, places, size, complex_)
            if not squares < limit:
                flag = max(flag, trouble)
            elif squares * count > PEAKED * total * total:
                flag = max(flag, PEAK)
            first, second = (squares, second) if half == 0 else (first, squares)
        return first, second, flag

    return take


# An argument that is written as a number has a type of its own, for which Numba would compile a callee once more: ``origin`` is 0, an
# int64 as ``first`` is (``worker`` is unsigned in the kernel for Numba's threads).


@functools.cache
def kernels(isa: _isa.Isa, real: np.dtype[Any], flat: bool) -> tuple[Kernel, Kernel, Kernel]:
    """Make the kernels that pack filters, that compute fprop and that compute wgrad; ``flat`` ones are for one axis."""
    forward, inverse, both = _transform.functions(isa, real, flat)
    sum_of_products, add_conjugated = products(isa, real), products(isa, real, True, True)
    width, variant, limit = isa.width(real), f"-{isa.name}-{real.name}-{'flat' if flat else 'deep'}", real.type(LARGE[real.name])
    take = _loader(SPIKE if real == np.float32 else STRANGE, limit)

    def pack(first, last, workers, scratch, w, spectra, flags, geometry, filters, size, sizes, stages, factors):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: the spectrum of each filter, its taps the other way round for a correlation, scaled by 1/n.
        # THE SCHEDULE: a tile is one filter of one channel, transformed where its spectrum is kept.
        channels, rows, plane, complex_ = geometry[1], geometry[2], geometry[7], geometry[8]
        flipped, wk, wc, taps = geometry[20], geometry[21], geometry[22], geometry[23]
        (T, R, S), (dt, dr, ds) = filters[0], filters[1]
        scale = spectra.dtype.type(1) / sizes[0]
        for worker in prange(workers):
            for tile in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                k, c = tile // channels, tile % channels
                at, from_, largest = tile * 2 * plane, k // rows * rows * channels * taps + k % rows * wk + c * wc, scale * 0
                clear(spectra, at, 2 * plane)
                for row in range(T * R):
                    t, r = row // R, row % R
                    t, r, s, step = (t, r, 0, ds) if flipped else (T - 1 - t, R - 1 - r, S - 1, -ds)
                    to = at + (t * dt * size[1] + r * dr) * size[2] + s * ds
                    for half in range(1 + complex_):
                        for s in range(S):
                            value = w[from_ + (row * S + s) * (1 + complex_) + half]
                            spectra[to + half * plane + s * step] = value * scale
                            largest += abs(value)
                if not largest < limit:  # or NaN
                    flags[tile] = STRANGE
                forward(spectra, at, plane, sizes, stages, factors, spectra, at)

    def fprop(first, last, workers, scratch, x, spectra, y, bias, code, flags, jobs, geometry, loads, stores, size, sizes, stages, factors):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y_k = inverse(Σ_c forward(x_c) · w_kc) on each tile, two real tiles as one of complex numbers.
        # THE SCHEDULE: a job is a pair of tiles of one group, with all its channels; it is computed as a pair or, if one is much
        # larger than the other, one after the other (parts 1 and 2 for 0).
        channels, rows, plane, complex_, pairs = geometry[1], geometry[2], geometry[7], geometry[8], geometry[9]
        xn, xc, yn, yk = geometry[10], geometry[11], geometry[15], geometry[16]
        members, real, sums = geometry[3], scratch.dtype.type, channels * 2 * plane
        x_strides, y_strides = (geometry[12], geometry[13], geometry[14]), (geometry[17], geometry[18], geometry[19])
        for worker in prange(workers):
            data, origin = scratch[worker], first - first
            for number in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                job = jobs[number]
                group, pair = job // pairs, job % pairs
                part, parts = origin, 1
                while part < parts:
                    even, odd, flag = real(0), real(0), 0
                    for c in range(channels):
                        base = (group * channels + c) * xc
                        first_energy, second_energy, found = take(data, c * 2 * plane, x, base, xn, x_strides, loads, size, geometry, pair, part)
                        even, odd, flag = even + first_energy, odd + second_energy, max(flag, found)
                    flags[job] = max(flags[job], flag)
                    if flag > PEAK:
                        break
                    low, high = min(even, odd), max(even, odd)
                    if part == 0 and not complex_ and high > UNEVEN * low and 2 * pair + 1 < members:
                        part, parts = 1, 3
                        continue
                    if channels == rows == 1:
                        both(data, origin, plane, sizes, stages, factors, spectra, group * 2 * plane)
                    else:
                        for c in range(channels):
                            forward(data, c * 2 * plane, plane, sizes, stages, factors, data, origin)
                    for k in range(rows):
                        result, filter_ = 0, (group * rows + k) * channels * 2 * plane
                        if channels > 1 or rows > 1:
                            result = sums
                            sum_of_products(data, sums, data, 0, spectra, filter_, plane, sizes[0] // width, channels, 2 * plane, 2 * plane)
                            inverse(data, sums, plane, sizes, stages, factors, data, origin)
                        for half in range(2 - complex_):
                            member = pair if complex_ else 2 * pair + half
                            if member >= members or part == 2 - half:
                                continue
                            n, places = place_of(geometry, member)
                            base, channel = n * yn + (group * rows + k) * yk, group * rows + k
                            store(y, base, y_strides, data, result + half * plane, plane, stores, places, size, bias, channel, code, complex_)
                    part += 1

    def wgrad(first, last, workers, scratch, dy, x, pieces, flags, geometry, loads, gradients, stores, size, sizes, stages, factors):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw_kc = inverse(Σ_tiles conj(forward(dy_k)) · forward(x_c)); of complex numbers dy is conjugated beforehand.
        # Of a pair of real tiles the real part is the sum of both.
        # THE SCHEDULE: a job is a block of filters over one piece of the tiles, its sums kept as spectra; pieces are added up afterwards.
        groups, channels, rows, plane, complex_ = geometry[0], geometry[1], geometry[2], geometry[7], geometry[8]
        filters, blocks, splits, pairs = geometry[27], geometry[28], geometry[29], geometry[9]
        xn, xc, yn, yk = geometry[10], geometry[11], geometry[15], geometry[16]
        x_strides, y_strides = (geometry[12], geometry[13], geometry[14]), (geometry[17], geometry[18], geometry[19])
        taps, none, real = geometry[23], pieces[0, :0], scratch.dtype.type
        w_strides = (geometry[24], geometry[25], geometry[26])
        for worker in prange(workers):
            data, origin = scratch[worker], first - first
            gradient, sums = channels * 2 * plane, (channels + 1) * 2 * plane
            for job in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                piece, block = job // (groups * blocks), job % blocks
                group, k0 = job // blocks % groups, block * filters
                count = min(filters, rows - k0)
                clear(data, sums, count * channels * 2 * plane)
                for pair in range(pairs * piece // splits, pairs * (piece + 1) // splits):
                    for c in range(channels + count):
                        at = min(c, channels) * 2 * plane
                        if c < channels:
                            _, _, found = take(data, at, x, (group * channels + c) * xc, xn, x_strides, loads, size, geometry, pair, origin)
                        else:
                            base = (group * rows + k0 + c - channels) * yk
                            _, _, found = take(data, at, dy, base, yn, y_strides, gradients, size, geometry, pair, origin)
                        if found > PEAK:
                            flags[job] = STRANGE
                        if c >= channels and complex_:
                            for i in range(at + plane, at + plane + sizes[0]):
                                data[i] = -data[i]
                        forward(data, at, plane, sizes, stages, factors, data, origin)
                        if c >= channels:
                            for other in range(channels):
                                to = sums + ((c - channels) * channels + other) * 2 * plane
                                add_conjugated(data, to, data, other * 2 * plane, data, gradient, plane, sizes[0] // width, 1, 0, 0)
                for k in range(count):
                    for c in range(channels):
                        at = sums + (k * channels + c) * 2 * plane
                        inverse(data, at, plane, sizes, stages, factors, data, origin)
                        for i in range(2 * plane):
                            data[at + i] *= real(1) / sizes[0]
                        to = ((group * rows + k0 + k) * channels + c) * taps
                        store(pieces[piece], to, w_strides, data, at, plane, stores, (origin, origin, origin), size, none, origin, origin, complex_)

    return Kernel(pack, variant), Kernel(fprop, variant), Kernel(wgrad, variant)
