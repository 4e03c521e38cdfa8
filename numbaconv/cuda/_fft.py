"""The fused kernel of `fft`: a tile of a signal through both transforms in one block, for one channel a group and one axis.

Two tiles of real numbers are the real and the imaginary part of one complex transform: as the filter is real, so are both results.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda import _fft_tiles
from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._fft_prims import gathered, load2, spread, warp_sum
from numbaconv.cuda._fft_radix import EACH, Pass, for_sixteen, leaves_at, passes, place, shared_elements, transforms, turn_eights, turn_sixteen
from numbaconv.cuda._prims import divide, forgotten, int32, raise_flag

RESIDENT, FEWER = 1024, 768  # threads of a multiprocessor: 64 registers each, or 80 for complex numbers and strides
WARP = 32
UNEVEN = 2.0**10  # ratio of the energies of two tiles that are better computed apart


class Fused(NamedTuple):
    """What the kernel takes by value."""

    pairs: int  # of tiles of one channel; of complex numbers every tile is by itself
    members: int  # tiles of one channel, of all images
    tiles: int  # of one image
    valid: int  # outputs of a tile, before a stride leaves some of them out
    low: int
    size: int
    input_dilation: int
    outputs: int
    stride: int
    rows: int  # filters of a channel
    x_n: int  # elements of x from one image, channel, … to the next
    x_c: int
    x_w: int
    y_n: int
    y_k: int
    y_w: int
    taps: int
    dilation: int
    flipped: int
    has_bias: int = 0


def _turner(made: Pass, threads: int) -> Any:
    """Return what multiplies a thread's numbers with the factors of a pass."""
    before, first = made.before, made.factors
    apart = threads % before  # the second transform of 8 has factors of its own unless this is 0

    def read(table, power, at):  # type: ignore[no-untyped-def]
        return load2(table, int32(2 * (at % before)), 2 * (first + power * before))

    read = device(read)

    def turn(table, z, t):  # type: ignore[no-untyped-def]
        return turn_sixteen(z, read(table, 0, t), read(table, 1, t), read(table, 2, t), read(table, 3, t))

    def turn_twice(table, z, t):  # type: ignore[no-untyped-def]
        v1, v2, v4 = read(table, 0, t), read(table, 1, t), read(table, 2, t)
        w1, w2, w4 = v1, v2, v4
        if apart:
            u = int32(t + threads)
            w1, w2, w4 = read(table, 0, u), read(table, 1, u), read(table, 2, u)
        return turn_eights(z, v1, v2, v4, w1, w2, w4)

    return device(turn if made.radix == EACH else turn_twice)


def _leaver(made: Pass, threads: int, plane: int) -> Any:
    """Return what leaves a thread's results of a pass in shared memory."""
    before, radix, shift, pad = made.before, made.radix, made.shift, made.pad
    further = place(made, leaves_at(made, threads))  # from a thread's first transform of 8 to its second

    def leave(shared, z, t):  # type: ignore[no-untyped-def]
        block, rest = divide(t, before)
        at = int32(block * (before * radix) + rest)
        at = int32(at + (at >> shift) * pad)
        if radix == EACH:
            spread(shared, plane, at, before, z)
        else:
            spread(shared, plane, at, before, (z[0], z[2], z[4], z[6], z[8], z[10], z[12], z[14]))
            spread(shared, plane, int32(at + further), before, (z[1], z[3], z[5], z[7], z[9], z[11], z[13], z[15]))

    return device(leave)


def _taker(made: Pass, threads: int, plane: int) -> Any:
    """Return what reads the numbers of a thread's next pass."""
    shift, pad, one, two = made.shift, made.pad, place(made, threads), place(made, 2 * threads)

    def take(shared, t):  # type: ignore[no-untyped-def]
        return gathered(shared, plane, int32(t + (t >> shift) * pad), one, two)

    return device(take)


@functools.cache
def kernel(dtype: np.dtype[Any], size: int, complex_: bool, plain: bool, activation: str | None, packing: bool = False) -> Kernel:
    """Return the kernel for tiles of ``size`` numbers, or the one that transforms filters (``packing``).

    ``plain`` ones are for signals without strides, of the output, of a dilated input or of channels that lie between.
    """
    threads, plane = size // EACH, shared_elements(size)
    both_planes, directions, warps = 2 * plane, 1 if packing else 2, threads // WARP
    one, two, three = passes(size)
    eights, sixteens = transforms(dtype)
    first, second, third = (eights if made.radix == 8 else sixteens for made in (one, two, three))
    leave_first, leave_second = _leaver(one, threads, plane), _leaver(two, threads, plane)
    take_second, take_third = _taker(one, threads, plane), _taker(two, threads, plane)
    turn_second, turn_third = _turner(two, threads), _turner(three, threads)
    load = _fft_tiles.tap_loader(dtype, size, complex_) if packing else _fft_tiles.loader(dtype, threads, complex_, plain)
    multiply, keep_all = for_sixteen(_fft_tiles.times_spectrum, threads), for_sixteen(_fft_tiles.keep, threads)
    store = _fft_tiles.storer(dtype, threads, complex_, plain, activation)
    energies, peaked, uneven = _fft_tiles.energies(dtype, complex_), _fft_tiles.peaked(dtype, size, complex_), dtype.type(UNEVEN)
    zero, most, watched, judged = dtype.type(0), dtype.type(_fft_tiles.PEAKED), not packing, not packing and dtype.itemsize == 4

    def overlap_save(x, spectra, table, y, bias, flags, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y = inverse(forward(x) · spectrum) on each tile; what wrapped around is left out. Or, packing: y = forward(x).
        # THE SCHEDULE: a block owns a pair of tiles of one channel and one filter, a thread 16 numbers of them in registers. Between the
        # three passes of a transform they change hands through shared memory; between the transforms, and between memory and the
        # first and last pass, no thread needs another's. The inverse is the forward transform with both parts exchanged.
        # Parts: 0 is the pair; if one tile is much louder than the other, it is left for 1 and 2, each with one tile alone.
        shared = cuda.shared.array(both_planes, dtype)
        sums = cuda.shared.array(16, dtype)
        t, part = int32(cuda.threadIdx.x), int32(0)
        while True:
            # Numbers of an address are made anew where they are needed, or there would be too few registers.
            k, pair = divide(forgotten(int32(cuda.blockIdx.x)), geo.pairs)
            z = load(x, k, pair, part, t, geo)
            if watched and part == int32(0):
                e = energies(z)
                a, b = warp_sum(e[0]), warp_sum(e[1])
                if int32(t % WARP) == int32(0):
                    sums[int32(t // WARP)], sums[int32(t // WARP + 8)] = a, b
                cuda.syncthreads()
                a, b = sums[0], sums[8]
                for w in range(1, warps):
                    a, b = a + sums[int32(w)], b + sums[int32(w + 8)]
                member = int32(pair if complex_ else 2 * pair)
                if judged and (e[0] * most > a or e[1] * most > b):
                    if peaked(z, a, b, member, geo):
                        raise_flag(flags, int32(0))
                        raise_flag(flags, int32(int32(cuda.blockIdx.x) + 1))
                if not complex_ and max(a, b) > uneven * min(a, b) and int32(member + 1) < geo.members:
                    part = int32(1)
                    continue
            for back in range(directions):
                z, t = first(z), forgotten(t)
                if back:
                    cuda.syncthreads()
                leave_first(shared, z, t)
                cuda.syncthreads()
                z = second(turn_second(table, take_second(shared, t), t))
                cuda.syncthreads()
                leave_second(shared, z, t)
                cuda.syncthreads()
                z, t = third(turn_third(table, take_third(shared, t), t)), forgotten(t)
                if not packing and not back:
                    z = multiply((spectra, int32(2 * (k * size + t))), z)
            if packing:
                keep_all((y, int32(2 * (k * size + t))), z)
                break
            k, pair = divide(forgotten(int32(cuda.blockIdx.x)), geo.pairs)
            if not store(y, bias, k, pair, part, t, z, geo) == zero:
                raise_flag(flags, int32(0))
                raise_flag(flags, int32(int32(cuda.blockIdx.x) + 1))
            if part != int32(1):
                break
            part = int32(2)
            cuda.syncthreads()

    resident = (RESIDENT if packing or (plain and not complex_) else FEWER) * 4 // dtype.itemsize // threads
    return Kernel(overlap_save, (dtype,) * 5 + (np.dtype(np.int32),), Fused, threads, max(1, resident))
