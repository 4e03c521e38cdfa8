"""The tensor cores' primitives in plain Python, for the simulator; `_tensor_intrinsics` says the same for GPUs.

Fragments are those of the PTX manual ("Matrix fragments for mma.m16n8k8" and "mma.m16n8k16"). In words of 32 bits, of one tf32 or two
16-bit elements, both are the same: 16 rows × 8 words are four registers of 32 lanes, one for each 8 × 4 quarter. For the first operand
the second quarter lies below the first one; for the second operand, of which an instruction takes 8 rows and two registers, beside it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from numbaconv.cuda._simulator import collective

_LANE = np.arange(32)
GROUP, IN_GROUP = _LANE // 4, _LANE % 4


def widened(bits: Any, kind: str) -> Any:
    """Return 16-bit patterns as float32."""
    bits = np.asarray(bits, np.uint16)
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(values: Any, kind: str) -> Any:
    """Return float32 rounded to the nearest 16-bit pattern, to the even one of two; NaN stays."""
    values = np.asarray(values, np.float32)
    if kind == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    nearest = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FFF, nearest).astype(np.uint16)


def rounded(values: Any) -> Any:
    """Return float32 with 10 bits of fraction, the nearest, or the larger of two: cvt.rna.tf32.f32."""
    values = np.asarray(values, np.float32)
    bits = (values.view(np.uint32).astype(np.uint64) + 0x1000 & 0xFFFFE000).astype(np.uint32)
    return np.where(np.isnan(values), np.float32(np.nan), bits.view(np.float32))


def round_tf32(value: Any) -> Any:
    """Return one value with 10 bits of fraction."""
    return rounded(value)[()] if value else value


@functools.cache
def widen(kind: str) -> Any:
    """Return a function from one 16-bit pattern to float32."""
    return lambda bits: widened(bits, kind)[()]


@functools.cache
def narrow(kind: str) -> Any:
    """Return a function from float32 to the nearest 16-bit pattern."""
    return lambda value: narrowed(value, kind)[()]


def store2(memory: Any, index: int, first: Any, second: Any) -> None:
    """Set memory[index : index + 2]; the address is a multiple of both elements' size."""
    assert index % 2 == 0, f"element {index} is not aligned"
    memory[index : index + 2] = np.array([first, second])


def put_vector(memory: Any, index: int, values: Any) -> None:
    """Set memory[index :] = values, 16 bytes; the address is a multiple of that."""
    assert index * memory.array.itemsize % 16 == 0 and len(values) * memory.array.itemsize == 16
    memory[index : index + len(values)] = np.array(values, memory.array.dtype)


def get_vector(memory: Any, index: int) -> Any:
    """Return the 16 bytes from memory[index] on; the address is a multiple of that."""
    assert index * memory.array.itemsize % 16 == 0, f"element {index} is not aligned"
    return memory[index : index + 16 // memory.array.itemsize]


def keep(shared: Any, to: int, flip: int, further: int, value: Any) -> None:
    """Set shared[(to ^ flip) + further]."""
    shared[(to ^ flip) + further] = value


def load_matrices(shared: Any, at: Any, transposed: bool) -> Any:
    """Return ldmatrix.x4's four words of each lane: lanes 8m to 8m + 7 say where the rows of matrix m lie, 16 bytes each."""
    count = 16 // shared.array.itemsize
    at = np.asarray(at)
    assert not (at % count).any(), "a row is not aligned"
    rows = shared[at[:, None] + np.arange(count)]
    if transposed:
        assert count == 8
        rows = rows.reshape(4, 8, 8).swapaxes(1, 2)
    words = np.ascontiguousarray(rows).view(np.uint32).reshape(4, 8, 4)
    return words[:, GROUP, IN_GROUP].T


def quarter(number: int, second: bool) -> tuple[int, int]:
    """Return how many quarters the one in a lane's so-many-th register lies below and beside the first."""
    return (number // 2, number % 2) if second else (number % 2, number // 2)


def load_fragment(shared: Any, at: Any, kind: str, slab: int, pixels: int, index: int, step: int, second: bool) -> Any:
    """Return the words of 16 rows × 8 words for each lane: the rows are ``index``-th after the first, the words ``step``-th of the slab."""
    at, word = np.asarray(at), 1 if kind == "tf32" else 2
    if not pixels:
        return load_matrices(shared, (at ^ step * 8 * word) + index * 16 * slab, False)
    if kind != "tf32":
        return load_matrices(shared, (at ^ 16 * index) + step * 16 * pixels, True)
    quarters = (quarter(q, second) for q in range(4))
    places = [(at ^ 16 * index ^ 8 * rows ^ 32 * deeper) + (step * 8 + deeper * 4) * pixels for rows, deeper in quarters]
    return np.stack([shared[place] for place in places], -1).view(np.uint32)


def matrix_of(words: Any, kind: str, second: bool) -> Any:
    """Return the 16 × 8 (tf32) or 16 × 16 matrix of which each lane holds four words."""
    whole = np.empty((16, 8), np.uint32)
    for number in range(4):
        below, beside = quarter(number, second)
        whole[GROUP + below * 8, IN_GROUP + beside * 4] = words[:, number]
    return whole.view(np.float32) if kind == "tf32" else widened(whole.view(np.uint16), kind)


@functools.cache
def multiply(kind: str, slab: int, pixels: int, x_first: bool) -> Any:
    """Return the product of a warp: acc + first operand · second operand transposed, 64 × 32, over one slab.

    acc[8r + 2j + e] is row lane//4 + 8r, column lane%4·2 + 8j + e. Weights lie by rows, x does too unless it has ``pixels`` in a row.
    """
    rows = (GROUP[:, None] + 8 * np.arange(8))[:, :, None, None]
    columns = (2 * IN_GROUP[:, None] + 8 * np.arange(4))[:, None, :, None] + np.arange(2)

    @collective
    def product(acc, shared, w_at, x_at):  # type: ignore[no-untyped-def]
        total = np.array(acc)
        for step in range(slab // (8 if kind == "tf32" else 16)):
            sides = []
            for count, of_x in ((4, x_first), (2, not x_first)):
                at, width = (x_at, pixels) if of_x else (w_at, 0)
                second = count == 2
                parts = [load_fragment(shared[0], at, kind, slab, width, i, step, second) for i in range(count)]
                side = np.concatenate([matrix_of(part, kind, second) for part in parts])
                sides.append(rounded(side) if kind == "tf32" and of_x else side)
            total = total + (sides[0] @ sides[1].T)[rows, columns].reshape(32, 64)
        return list(total)

    return product
