"""Where a slab lies in shared memory, how a thread brings its part of x there and how a warp's lanes read it: for `_tensor`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import device
from numbaconv.cuda._prims import copy4, copy16, int32, load4, within
from numbaconv.cuda._tensor_prims import keep


def cell_of(kind: str) -> np.dtype[Any]:
    """Return the dtype of arrays as kernels take them: 16-bit formats as patterns."""
    return np.dtype(np.float32 if kind == "tf32" else np.uint16)


class Variant(NamedTuple):
    """What is frozen into a kernel."""

    kind: str  # tf32, bf16 or f16
    pixels: int
    columns: int
    slab: int  # rows of the contraction that are multiplied between two barriers: 8 or 16 words of each pixel and column
    channels_last: bool
    vectors: bool  # whether x is copied 16 bytes, neighbouring channels, at a time
    aligned: bool  # whether the channels of a group fill slabs
    depth: bool  # whether there is a third axis
    activation: str | None
    partial: bool  # whether y takes float32 sums that something is added to

    @property
    def cell(self) -> np.dtype[Any]:
        """The dtype of the arrays."""
        return cell_of(self.kind)

    @property
    def threads(self) -> int:
        """A warp owns 64 × 32 outputs."""
        return self.pixels * self.columns // 64


# The shared memory of a stage holds the weights' tile, then x's. The weights lie by columns and x, if copied by vectors, by pixels, the
# slab's rows side by side; which vector of 16 bytes of a line stands where is a permutation by the line's number, so that the eight lines
# that one ldmatrix reads lie in different banks: the 64-byte swizzle of Hopper's wgmma, or the 32-byte one of short slabs. Otherwise x
# lies by rows of the contraction, its pixels permuted in vectors of eight.


def vector_mask(slab: int, word: int, line: int) -> int:
    """Return what a vector's number within its line is xor-ed with; kernels call it too."""
    if slab == 32 * word:
        return int32(line & 7)
    return int32(line >> 1 & 3) if slab == 16 * word else int32(line >> 2 & 1)


vector_mask_of = device(vector_mask)


def reader(v: Variant, of_x: bool) -> Any:
    """Return where a lane reads its fragments of x or of the weights, from a first pixel or column on."""
    slab, pixels, tf32 = v.slab, v.pixels, v.kind == "tf32"
    word = 4 // v.cell.itemsize
    vector = 4 * word
    # Lanes 8m to 8m + 7 address the rows of ldmatrix's quarter m: see `_tensor_twins` for which quarter lies where.
    below, beside = (8, 16) if of_x == v.channels_last else (16, 8)

    def of_lines(lane, first):  # type: ignore[no-untyped-def]
        line, number = int32(int32(lane % 8) + int32(lane // below % 2 * 8)), int32(lane // beside % 2)
        return int32((first + line) * slab + int32(number ^ vector_mask_of(slab, word, line)) * vector)

    def of_pixels(lane, first):  # type: ignore[no-untyped-def]
        if tf32:
            k, pixel = int32(lane % 4), int32(lane // 4)
        else:
            k, pixel = int32(int32(lane % 8) + int32(lane // beside % 2 * 8)), int32(lane // below % 2 * 8)
        return int32(k * pixels + int32(int32(first + pixel) ^ int32(k % 8 * 8)))

    return device(of_pixels if of_x and not v.vectors else of_lines)


def gather(v: Variant) -> tuple[Any, Any]:
    """Return how a thread's part of a slab of x is read and how it is kept: at once by asynchronous copies, or through registers."""
    lanes = v.threads // v.pixels  # threads of a pixel
    each = v.slab // lanes  # rows of each
    vector = 16 // v.cell.itemsize  # elements
    aligned, depth, pixels, through_registers = v.aligned, v.depth, v.pixels, v.kind != "tf32"
    entries, channels = (0, 1) if aligned else (4, 0)  # how far the table and x go on from one row to the next
    zero = v.cell.type(0)

    def inside_of(table, geo, entry, d0, h0, w0):  # type: ignore[no-untyped-def]
        """Return where a tap leads and whether that is within the input."""
        tap = load4(table, entry)
        inside = within(int32(h0 + tap[2]), geo.in_h) and within(int32(w0 + tap[3]), geo.in_w)
        if depth:
            inside = inside and within(int32(d0 + tap[1]), geo.in_d)
        return tap[0], inside

    def by_vectors(x, shared, put, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        offset, inside = reached(table, geo, entry, d0, h0, w0)
        at = int32(base + offset)
        for j in range(0, each, vector):
            copy16(shared, put, int32(j * lanes), int32(0), x, int32(at + j * lanes), inside)

    def by_elements(x, shared, put, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        if aligned:
            offset, inside = reached(table, geo, entry, d0, h0, w0)
            at = int32(base + offset)
            for j in range(each):
                copy4(shared, put, int32(j % 8 * 8), int32(j * pixels), x, at, inside)
                at = int32(at + geo.x_c)
        else:
            for j in range(each):
                offset, inside = reached(table, geo, int32(entry + 4 * j), d0, h0, w0)
                copy4(shared, put, int32(j % 8 * 8), int32(j * pixels), x, int32(base + offset), inside)

    def four(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        if aligned:
            offset, inside = reached(table, geo, entry, d0, h0, w0)
            at, c = int32(base + offset), geo.x_c
            if inside:
                return x[at], x[int32(at + c)], x[int32(at + 2 * c)], x[int32(at + 3 * c)]
            return zero, zero, zero, zero
        i, e = reached(table, geo, entry, d0, h0, w0), reached(table, geo, int32(entry + 4), d0, h0, w0)
        v0, v1 = x[int32(base + i[0])] if i[1] else zero, x[int32(base + e[0])] if e[1] else zero
        i, e = reached(table, geo, int32(entry + 8), d0, h0, w0), reached(table, geo, int32(entry + 12), d0, h0, w0)
        return v0, v1, x[int32(base + i[0])] if i[1] else zero, x[int32(base + e[0])] if e[1] else zero

    def load8(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        a = four_of(x, table, geo, entry, base, d0, h0, w0)
        b = four_of(x, table, geo, int32(entry + 4 * entries), int32(base + 4 * channels * geo.x_c), d0, h0, w0)
        return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]

    def load16(x, table, geo, entry, base, d0, h0, w0):  # type: ignore[no-untyped-def]
        first = eight_of(x, table, geo, entry, base, d0, h0, w0)
        return first, eight_of(x, table, geo, int32(entry + 8 * entries), int32(base + 8 * channels * geo.x_c), d0, h0, w0)

    def keep8(shared, put, values):  # type: ignore[no-untyped-def]
        keep(shared, put, int32(0), int32(0), values[0])
        keep(shared, put, int32(8), int32(1 * pixels), values[1])
        keep(shared, put, int32(16), int32(2 * pixels), values[2])
        keep(shared, put, int32(24), int32(3 * pixels), values[3])
        keep(shared, put, int32(32), int32(4 * pixels), values[4])
        keep(shared, put, int32(40), int32(5 * pixels), values[5])
        keep(shared, put, int32(48), int32(6 * pixels), values[6])
        keep(shared, put, int32(56), int32(7 * pixels), values[7])

    def keep16(shared, put, values):  # type: ignore[no-untyped-def]
        keep_eight(shared, put, values[0])
        keep_eight(shared, int32(put + 8 * pixels), values[1])

    reached = device(inside_of)
    if v.vectors or not through_registers:
        return device(by_vectors if v.vectors else by_elements), None
    four_of, keep_eight = device(four), device(keep8)
    eight_of = device(load8)
    return (eight_of, keep_eight) if each == 8 else (device(load16), device(keep16))
