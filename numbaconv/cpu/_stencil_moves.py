"""What `stencil` reads, copied to a block in the caches with the zeros around it, and what it computed, stored; lanes are pixels or channels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv._jit import inline, unsigned
from numbaconv.cpu import _isa, _simd_stencil
from numbaconv.cpu.bias import activate, store_row

AHEAD = 4096  # elements between a copy and what it asks the cache for
soon = _simd_stencil.prefetch(False)


@inline
def clear(to, at, n):  # type: ignore[no-untyped-def]
    for i in range(n):
        to[unsigned(at + i)] = 0


@functools.cache
def copier(isa: _isa.Isa, dtype: np.dtype[Any]) -> Any:
    """Make the function that copies what a block reads."""
    move, every_second, zero = _simd_stencil.move(isa, dtype), _simd_stencil.move(isa, dtype, 2), dtype.type(0)
    lanes = isa.vector_bytes // dtype.itemsize

    @inline
    def clear_vectors(block, start, stop):  # type: ignore[no-untyped-def]
        for to in range(start, stop, lanes):
            for lane in range(lanes):
                block[unsigned(to + lane)] = 0

    @inline
    def copy(block, at, x, source, slices, n, group, z, p0, q0):  # type: ignore[no-untyped-def]
        # Phase after phase, row after row, with zeros where there is no input: whole vectors of them, before the data.
        xn, xc, xd, xh, xw, H, W, down, across = source[0], source[1], source[2], source[3], source[4], source[5], source[6], source[7], source[8]
        rows, pitch, C, T = source[11], source[12], source[13], source[14]
        for part in range(C * T * down * across):
            phase, rest = part % across, part // across
            shift, plane = rest % down, rest // down
            d, left, step = slices[z, plane % T], source[10] + q0 * source[16] + phase, across * xw
            start = min(pitch, max(0, -(left // across)))
            stop = max(start, min(pitch, -((left - W) // across)))
            first = n * xn + (group * C + plane // T) * xc + d * xd + (left + start * across) * xw
            to, i = at + part * rows * pitch, source[9] + p0 * down + shift
            for _ in range(rows):
                if d < 0 or i < 0 or i >= H:
                    clear_vectors(block, to, to + pitch)
                else:
                    clear_vectors(block, to, to + min(start, 1))
                    clear_vectors(block, to + stop // lanes * lanes, to + pitch)
                    from_ = first + i * xh
                    for j in range(0, stop - start, lanes):
                        soon(x, from_ + AHEAD + j * step)
                    if start > lanes:
                        clear_vectors(block, to, to + start)
                    if step == 1:
                        move(x, from_, block, to + start, stop - start, zero)
                    elif step == 2:
                        every_second(x, from_, block, to + start, stop - start, zero)
                    else:
                        for j in range(stop - start):
                            block[unsigned(to + start + j)] = x[unsigned(from_ + step * j)]
                to, i = to + pitch, i + down

    return copy


@functools.cache
def storer(isa: _isa.Isa, dtype: np.dtype[Any]) -> Any:
    """Make the function that writes a row of tiles."""
    move, zero = _simd_stencil.move(isa, dtype), dtype.type(0)

    @inline
    def store(y, target, sums, at, n, k, z, p0, q0, phase, rows, pitch, size, bias, code):  # type: ignore[no-untyped-def]
        # The phases along w are interleaved in a line in front of the sums.
        yn, yk, yd, yh, yw, P, Q, down, across = target[0], target[1], target[2], target[3], target[4], target[5], target[6], target[7], target[8]
        length, shift = min(across * pitch, Q - across * q0), bias[k] if bias.size else zero
        for row in range(rows):
            p = phase + down * (p0 + row)
            if p >= P:
                break
            to, first = n * yn + k * yk + z * yd + p * yh + across * q0 * yw, at + row * pitch
            if across == 2:
                for q in range((length + 1) // 2):
                    sums[unsigned(2 * q)] = sums[unsigned(first + q)]
                    sums[unsigned(2 * q + 1)] = sums[unsigned(first + size + q)]
            elif across > 2:
                for part in range(across):
                    for q in range(pitch):
                        sums[unsigned(part + across * q)] = sums[unsigned(first + part * size + q)]
            first = first if across == 1 else 0
            if code == 0 and yw == 1:
                move(sums, first, y, to, length, shift)
            else:
                store_row(y, to, yw, length, sums, first, bias, k, code)

    return store


@functools.cache
def channel_copier(isa: _isa.Isa, dtype: np.dtype[Any]) -> Any:
    """Make the function that copies what a block reads for neighbouring groups, their channels interleaved."""
    move, turn, zero, lanes = _simd_stencil.move(isa, dtype), _simd_stencil.transpose(isa, dtype), dtype.type(0), isa.vector_bytes // dtype.itemsize

    @inline
    def copy(block, at, x, source, slices, n, group, z, p0, q0):  # type: ignore[no-untyped-def]
        # Phase after phase of rows, row after row, with zeros where there is no input.
        xn, xc, xd, xh, xw, H, W, down = source[0], source[1], source[2], source[3], source[4], source[5], source[6], source[7]
        rows, pitch, C, T, lane_step, valid = source[11], source[12], source[13], source[14], source[15], min(lanes, source[17] - group)
        for part in range(C * T * down):
            shift, plane = part % down, part // down
            d, left, to, i = slices[z, plane % T], source[10] + q0 * source[16], at + part * rows * pitch, source[9] + p0 * down + shift
            start = min(pitch // lanes, max(0, -left))
            stop = max(start, min(pitch // lanes, W - left))
            first = n * xn + (group * C + plane // T) * xc + d * xd + left * xw
            for _ in range(rows):
                if d < 0 or i < 0 or i >= H:
                    clear(block, to, pitch)
                else:
                    clear(block, to, start * lanes)
                    from_ = first + i * xh
                    if xw == 1:
                        for j in range(start, stop, lanes):
                            turn(x, from_ + j, lane_step, valid, min(lanes, stop - j), block, to + j * lanes, lanes, lanes, lanes)
                    elif lane_step == 1:
                        for j in range(start, stop):
                            move(x, from_ + j * xw, block, to + j * lanes, valid, zero)
                    else:
                        for j in range(start, stop):
                            for lane in range(valid):
                                block[unsigned(to + j * lanes + lane)] = x[unsigned(from_ + j * xw + lane * lane_step)]
                    clear(block, to + stop * lanes, pitch - stop * lanes)
                to, i = to + pitch, i + down

    return copy


@functools.cache
def channel_storer(isa: _isa.Isa, dtype: np.dtype[Any]) -> Any:
    """Make the function that writes a row of tiles whose lanes are neighbouring groups."""
    turn, zero, lanes = _simd_stencil.transpose(isa, dtype), dtype.type(0), isa.vector_bytes // dtype.itemsize

    @inline
    def finish(sums, line, first, across, size, length, bias, k, step, valid, code):  # type: ignore[no-untyped-def]
        # Interleave the phases along w, add the bias and apply the activation.
        for lane in range(lanes):
            sums[unsigned(line + lane)] = bias[k + min(lane, valid - 1) * step] if bias.size else zero
        for q in range(length):
            at, to = first + q % across * size + q // across * lanes, line + (1 + q) * lanes
            for lane in range(lanes):
                sums[unsigned(to + lane)] = sums[unsigned(at + lane)] + sums[unsigned(line + lane)]
        if code:
            activate(sums, line + lanes, length * lanes, code)

    @inline
    def store(y, target, sums, at, n, k, z, p0, q0, phase, rows, pitch, size, bias, code):  # type: ignore[no-untyped-def]
        yn, yk, yd, yh, yw, P, Q, down, across = target[0], target[1], target[2], target[3], target[4], target[5], target[6], target[7], target[8]
        lane_step, per_group = target[9], target[9] // yk
        length, valid = min(across * pitch, Q - across * q0), min(lanes, target[10] - k // per_group)
        for row in range(rows):
            p = phase + down * (p0 + row)
            if p >= P:
                break
            to, first = n * yn + k * yk + z * yd + p * yh + across * q0 * yw, at + row * pitch * lanes
            finish(sums, 0, first, across, size, length, bias, k, per_group, valid, code)
            if yw == 1:
                for q in range(0, length, lanes):
                    count = min(lanes, length - q)
                    turn(sums, (1 + q) * lanes, lanes, count, lanes, y, to + q, lane_step, valid, count)
            elif lane_step == 1:
                for q in range(length):
                    for lane in range(valid):
                        y[unsigned(to + q * yw + lane)] = sums[unsigned((1 + q) * lanes + lane)]
            else:
                for q in range(length):
                    for lane in range(valid):
                        y[unsigned(to + q * yw + lane * lane_step)] = sums[unsigned((1 + q) * lanes + lane)]

    return store
