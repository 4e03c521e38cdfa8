"""The kernels around the library's transforms: planes are filled from images or filters, and outputs picked from planes.

An axis becomes a circle of L places on which the input starts at place `low` and output o is read at place o·s. Padding in front of the
input and behind it may be the same places. The second factor, filters or dy, is laid the other way round: tap r at −r·d. Then the
product of both spectra is the correlation for each of the three operations.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import next_fast_len

from numbaconv.cuda._backend import Kernel, cuda, device
from numbaconv.cuda._fft_prims import load2, store2
from numbaconv.cuda._prims import divide, int32, raise_flag
from numbaconv.cuda._store import THREADS
from numbaconv.cuda._store import activation as activation_of
from numbaconv.problem import ConvProblem, Op

ENDLESS = 2**30  # a circle that no index goes around
ROWS = 8  # planes of which a thread fills or reads one place


class Circle(NamedTuple):
    """One axis: its places, and what of the input is laid on them from where."""

    length: int
    from_: int  # of the input, dilated, at place 0
    wrap: int
    size: int  # elements of the input that an output sees


def circle(p: ConvProblem, op: Op, axis: int) -> Circle:
    """Return the smallest circle for an axis that has a fast transform."""
    s, u, d, lo = p.stride[axis], p.input_dilation[axis], p.dilation[axis], p.low[axis]
    covers, outputs = (p.filter[axis] - 1) * d + 1, (p.output[axis] - 1) * s + 1
    span = outputs + covers - 1  # places from the first that an output sees to the last
    size = max(0, min(p.input[axis], -(-(span - lo) // u)))
    if lo < 0:
        least = span
    else:  # places from L on are padding on their way around: those at the low end
        least = max(span - lo, lo + (size - 1) * u + 1 if size else 1, covers)
    if op == "wgrad":
        least = max(least, outputs)
    if least > 1:
        least = 2 * next_fast_len(-(-least // 2), real=True) if axis == 2 else next_fast_len(least, real=axis == 2)
    if lo < 0:
        return Circle(least, -lo, ENDLESS, size)
    return Circle(least, least - lo % least if size and lo else 0, least, size)


class Filling(NamedTuple):
    """What `fill` takes: the circle of each axis, and where the elements are."""

    rows: int  # planes: one of each image and channel, or of each filter and channel
    blocks: int  # of a plane
    length_d: int
    length_h: int
    length_w: int
    from_d: int
    from_h: int
    from_w: int
    wrap_d: int
    wrap_h: int
    wrap_w: int
    step_d: int
    step_h: int
    step_w: int
    size_d: int
    size_h: int
    size_w: int
    backward: int  # whether the elements are laid from the last to the first
    inners: int
    of_outer: int  # elements from one image, channel, … to the next
    of_inner: int
    of_d: int
    of_h: int
    of_w: int
    whole_d: int  # elements of the axis, of which `size` are laid
    whole_h: int
    whole_w: int


@device
def laid(j, from_, wrap, step, size, whole, backward):  # type: ignore[no-untyped-def]
    """Return the index of the element at a place of a circle, −1 for none."""
    at = int32(j + from_)
    if at >= wrap:
        at = int32(at - wrap)
    if step > int32(1):
        at, rest = divide(at, step)
        if rest != int32(0):
            return int32(-1)
    if at >= size:
        return int32(-1)
    return int32(whole - 1 - at) if backward else at


@device
def following(outer, inner, inners):  # type: ignore[no-untyped-def]
    """Return the numbers of the next plane."""
    inner = int32(inner + 1)
    return (int32(outer + 1), int32(0)) if inner == inners else (outer, inner)


@functools.cache
def _access(dtype: np.dtype[Any], complex_: bool) -> tuple[Any, Any]:
    """Return what reads and what writes one number, a pair if it is complex, if it is there; else it is 0."""
    zero = dtype.type(0)

    def read_real(memory, at, there):  # type: ignore[no-untyped-def]
        return memory[at] if there else zero

    def read_complex(memory, at, there):  # type: ignore[no-untyped-def]
        return load2(memory, int32(2 * at), 0) if there else (zero, zero)

    def write_real(memory, at, value, there):  # type: ignore[no-untyped-def]
        if there:
            memory[at] = value

    def write_complex(memory, at, value, there):  # type: ignore[no-untyped-def]
        if there:
            store2(memory, int32(2 * at), value)

    return (device(read_complex), device(write_complex)) if complex_ else (device(read_real), device(write_real))


@functools.cache
def fill(dtype: np.dtype[Any], complex_: bool) -> Kernel:
    """Return the kernel that lays images, or filters, on their planes."""
    read, write = _access(dtype, complex_)

    def fill_planes(x, planes, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: planes[row, j] = the element of the row's image that is laid at place j, or 0.
        # THE SCHEDULE: a thread owns one place of several planes, for which it works out once what is laid there.
        rows, block = divide(int32(cuda.blockIdx.x), geo.blocks)
        place, row = int32(block * THREADS + int32(cuda.threadIdx.x)), int32(rows * ROWS)
        places = int32(geo.length_d * geo.length_h * geo.length_w)
        if place < places:
            rest, w = divide(place, geo.length_w)
            d, h = divide(rest, geo.length_h)
            i = laid(d, geo.from_d, geo.wrap_d, geo.step_d, geo.size_d, geo.whole_d, geo.backward)
            j = laid(h, geo.from_h, geo.wrap_h, geo.step_h, geo.size_h, geo.whole_h, geo.backward)
            k = laid(w, geo.from_w, geo.wrap_w, geo.step_w, geo.size_w, geo.whole_w, geo.backward)
            there = i >= int32(0) and j >= int32(0) and k >= int32(0)
            offset = int32(i * geo.of_d + j * geo.of_h + k * geo.of_w)
            outer, inner = divide(row, geo.inners)
            for _ in range(ROWS // 4):  # four loads are on their way together
                at0, (outer, inner) = int32(outer * geo.of_outer + inner * geo.of_inner + offset), following(outer, inner, geo.inners)
                at1, (outer, inner) = int32(outer * geo.of_outer + inner * geo.of_inner + offset), following(outer, inner, geo.inners)
                at2, (outer, inner) = int32(outer * geo.of_outer + inner * geo.of_inner + offset), following(outer, inner, geo.inners)
                at3, (outer, inner) = int32(outer * geo.of_outer + inner * geo.of_inner + offset), following(outer, inner, geo.inners)
                left, target = int32(geo.rows - row), int32(row * places + place)
                v0, v1 = read(x, at0, there and left > int32(0)), read(x, at1, there and left > int32(1))
                v2, v3 = read(x, at2, there and left > int32(2)), read(x, at3, there and left > int32(3))
                write(planes, target, v0, left > int32(0))
                write(planes, int32(target + places), v1, left > int32(1))
                write(planes, int32(target + 2 * places), v2, left > int32(2))
                write(planes, int32(target + 3 * places), v3, left > int32(3))
                row = int32(row + 4)

    return Kernel(fill_planes, (dtype, dtype), Filling, THREADS)


def blocks_of(rows: int, places: int) -> tuple[int, int]:
    """Return the blocks of one plane, and of all."""
    return -(-places // THREADS), -(-places // THREADS) * -(-rows // ROWS)


class Picking(NamedTuple):
    """What `pick` takes: sizes of the output and of its planes, and where outputs are stored."""

    rows: int
    blocks: int  # of the outputs of a plane
    inners: int
    size_d: int
    size_h: int
    size_w: int
    length_d: int
    length_h: int
    length_w: int
    step_d: int
    step_h: int
    step_w: int
    of_outer: int
    of_inner: int
    of_d: int
    of_h: int
    of_w: int
    points: int  # of a transform, whose inverse is not yet divided by them
    has_bias: int


@functools.cache
def pick(dtype: np.dtype[Any], complex_: bool, activation: str | None) -> Kernel:
    """Return the kernel that stores outputs, with bias and activation."""
    zero, one, real, activate = dtype.type(0), dtype.type(1), dtype.type, activation_of(activation, dtype)

    read, _ = _access(dtype, complex_)

    def put_real(y, bias, outer, inner, offset, value, scale, there, geo):  # type: ignore[no-untyped-def]
        if not there:
            return zero
        shift = bias[inner] if geo.has_bias else zero
        y[int32(outer * geo.of_outer + inner * geo.of_inner + offset)] = activate(value * scale + shift)
        return value * zero

    def put_complex(y, bias, outer, inner, offset, value, scale, there, geo):  # type: ignore[no-untyped-def]
        if not there:
            return zero
        shift, target = (zero, zero), int32(2 * (outer * geo.of_outer + inner * geo.of_inner + offset))
        if geo.has_bias:
            shift = load2(bias, int32(2 * inner), 0)
        store2(y, target, (value[0] * scale + shift[0], value[1] * scale + shift[1]))
        return (value[0] + value[1]) * zero

    put = device(put_complex if complex_ else put_real)

    def pick_outputs(planes, bias, y, flags, geo):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n, k, o] = activation(planes[n, k, o·s] / points + bias[k]); a flag says that one is not finite.
        # THE SCHEDULE: a thread owns one output of several planes.
        rows, block = divide(int32(cuda.blockIdx.x), geo.blocks)
        at, row = int32(block * THREADS + int32(cuda.threadIdx.x)), int32(rows * ROWS)
        scale, strange = one / real(geo.points), zero
        if at < int32(geo.size_d * geo.size_h * geo.size_w):
            rest, w = divide(at, geo.size_w)
            d, h = divide(rest, geo.size_h)
            i, j = divide(int32(d * geo.step_d), geo.length_d)[1], divide(int32(h * geo.step_h), geo.length_h)[1]
            place = int32((i * geo.length_h + j) * geo.length_w + divide(int32(w * geo.step_w), geo.length_w)[1])
            places, offset = int32(geo.length_d * geo.length_h * geo.length_w), int32(d * geo.of_d + h * geo.of_h + w * geo.of_w)
            outer, inner = divide(row, geo.inners)
            for _ in range(ROWS // 4):
                left, source = int32(geo.rows - row), int32(row * places + place)
                v0, v1 = read(planes, source, left > int32(0)), read(planes, int32(source + places), left > int32(1))
                v2, v3 = read(planes, int32(source + 2 * places), left > int32(2)), read(planes, int32(source + 3 * places), left > int32(3))
                strange += put(y, bias, outer, inner, offset, v0, scale, left > int32(0), geo)
                outer, inner = following(outer, inner, geo.inners)
                strange += put(y, bias, outer, inner, offset, v1, scale, left > int32(1), geo)
                outer, inner = following(outer, inner, geo.inners)
                strange += put(y, bias, outer, inner, offset, v2, scale, left > int32(2), geo)
                outer, inner = following(outer, inner, geo.inners)
                strange += put(y, bias, outer, inner, offset, v3, scale, left > int32(3), geo)
                outer, inner = following(outer, inner, geo.inners)
                row = int32(row + 4)
        if not strange == zero:
            raise_flag(flags, int32(0))

    return Kernel(pick_outputs, (dtype, dtype, dtype, np.dtype(np.int32)), Picking, THREADS)
