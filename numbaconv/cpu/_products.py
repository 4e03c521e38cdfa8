"""The matrix products that make up an operation of `gemm`, and how each is cut into tiles: arithmetic alone, for problems of any size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from numbaconv.cpu import _grid, _isa, _parallel, _product
from numbaconv.cpu._grid import Grid, Reads
from numbaconv.cpu._panels import CHUNK, CHUNKS
from numbaconv.cpu._simd_tile import LINE, MOST, UNROLLED
from numbaconv.problem import ConvProblem, Op

SUMS_BYTES = 256 << 10  # of the sums of a tile: a quarter of a usual L2
BLOCKS, LINES = 32, 8  # blocks of rows and lines of columns of a tile, at most
# Of a tile's packed rows that are kept for the next tiles: with 640 KiB dgrad of 512→512 3 s2 @1599 took 6.4 ms instead of 6.0, others about as long.
PACKED_BYTES = 1600 << 10
# Lines of a product that does not pack its rows (512→2048 1×1 on 7×7 1071 → 814 µs, one line; on 14×14, of four, no slower), and of wgrad, whose rows
# are long (256→128 1×1 on 56×56 1.84 → 1.65 ms, 6 lines; 22 lines no slower). Measured on a Xeon with AVX-512, as what follows. Rows that can be
# kept serve the lines of all samples: 384→1536 1×1 on 14×14, 16 samples, 18.5 → 17.3 ms (Zen 5).
FEW_LINES, MORE_LINES = 4, 40
AHEAD = CHUNK + CHUNK // UNROLLED  # entries behind a table of steps, of what the caches are asked for
SHARES = 2  # tiles for each thread beside the first, at least: each packs its own lanes or rows, and with 4 or 8 two threads take 1.5 or 4 % longer
# Of packing an element of the rows, beside one of the lanes: 0.15 ns and 0.09, from L2; and of weights of several taps for the input's gradient,
# read here and there (each phase of a stride takes some of a cache line): 512→512 3 s2 @1599 7.0 → 6.4 ms, others the same or up to a tenth less.
ROWS_COST, APART_COST = 2, 6
PACK_MACS = 11  # multiply-adds in the time of packing an element of the lanes: 0.09 ns, and 121 of them take a nanosecond (Zen 5, float32)
PIECE = 256  # steps that are worth a piece of wgrad's sum: 1024→256 1×1 on 14×14, in two pieces of 98 pixels, took 1.2 ms instead of 0.92
# Steps of one table of several samples of wgrad: of 16 with 49 pixels, six chunks of 132 steps rather than eight of 98 (960→320 1×1 2.98 → 2.63 ms,
# 768→3072 17.9 → 17.0).
FILLED = 8 * CHUNK
MOST_STEPS = 1 << 16  # of one table: wgrad of larger images goes by planes or lines
MOST_IN_LANES = CHUNK * CHUNKS  # steps of a sum that may have columns left over: those are added up in one place
Parts = tuple[Reads, Reads, Reads]


class Shape(NamedTuple):
    """The sizes of one product.

    ``reps`` × ``steps`` terms are summed; ``together`` says which axes of pixels are steps, and ``phases`` how many there are among the rows.
    Two ``parts``, the outputs' even and odd columns, have a sum each, of the first and of the other steps.
    """

    parts: tuple[Parts, ...]
    phases: int
    outer: int
    blocks: int
    vectors: int
    tails: int  # columns left over, that would be less than half a vector
    lines: int
    scatters: bool
    reps: int
    steps: int
    together: tuple[int, int, int, int]
    blocks_each: int
    lines_each: int
    pieces: int
    packs: bool  # its rows are read from panels; few lines that read neighbours do with them where they lie
    ready: bool  # the panels are there already
    kept: bool  # a tile's rows are packed at once and serve the tiles that follow, of the same rows
    scratch: int
    entries: int


def channels_last(p: ConvProblem, op: Op) -> bool:
    """Return whether the kernel wants the channels of the input last."""
    return p.channels_last or op == "wgrad"


def copies(p: ConvProblem, op: Op, g: Grid) -> bool:
    """Return whether the kernel cannot read the input itself."""
    return g.copied or (channels_last(p, op) and (p.groups > 1 or not p.channels_last) and not turns(p, op, g))


def turns(p: ConvProblem, op: Op, g: Grid) -> bool:
    """Return whether the kernel transposes the input of wgrad itself, a panel at a time: of one tap, channels first, the steps from one sample."""
    plain = op == "wgrad" and not g.copied and not p.channels_last
    return plain and p.filter == p.stride == (1, 1, 1) and p.input == p.output and _together(p)[0] == 1


def pitch(p: ConvProblem, isa: _isa.Isa, dtype: np.dtype[Any]) -> int:
    """Elements of a step of transposed weights: whole vectors."""
    width = isa.width(dtype)
    return -(-(p.out_channels // p.groups) // width) * width


def shapes(p: ConvProblem, op: Op, isa: _isa.Isa, dtype: np.dtype[Any], threads: int = 1, ready: bool = False) -> tuple[Grid, list[Shape]]:
    """Return the grid of the input and the products that make up an operation, whose forward problem is p, cut for some threads.

    ``ready`` says that the panels of its rows are there already.
    """
    g, parts = _grid.grid(p, split=not channels_last(p, op), pieces=True, itemsize=dtype.itemsize)
    if op == "dgrad" and not p.channels_last and p.input_dilation != (1, 1, 1) and _alike(p, g, parts):  # type: ignore[arg-type]
        return g, [_shape(p, op, g, (parts[0],), len(parts), isa, dtype, threads, ready)]  # type: ignore[arg-type]
    together = 2 if p.input_dilation[2] == 2 and p.output[2] > 1 and not p.channels_last else 1
    products = [tuple(parts[n : n + together]) for n in range(0, len(parts), together)]
    return g, [_shape(p, op, g, some, 1, isa, dtype, threads, ready) for some in products]  # type: ignore[arg-type]


def _alike(p: ConvProblem, g: Grid, parts: list[Parts]) -> bool:
    """Return whether all phases read the same, with taps that follow each other from phase to phase: one product then has them among its rows.

    With several taps each, the weights of a row are evenly apart for a single channel only.
    """
    one_channel = p.out_channels == p.groups or len(parts) == math.prod(p.filter)
    if len(parts) == 1 or not one_channel or not all(r.taps for part in parts for r in part):
        return False
    if len({(*(r.outputs for r in part), *g.offsets(part)) for part in parts}) > 1:
        return False
    taps = np.array(sorted(_grid.taps(p, part).tolist() for part in parts))
    return taps.min() == 0 and np.array_equal(taps - taps[:1], np.broadcast_to(np.arange(len(parts))[:, None], taps.shape))


def _shape(
    p: ConvProblem, op: Op, g: Grid, parts: tuple[Parts, ...], phases: int, isa: _isa.Isa, dtype: np.dtype[Any], threads: int, ready: bool
) -> Shape:
    part, width, channels, filters, tails = parts[0], isa.width(dtype), p.in_channels // p.groups, p.out_channels // p.groups, 0
    steps, outer, reps, together, scatters = channels * count_taps(parts), p.batch, 1, (1, 1, 1, 1), False
    blocks = -(-filters * phases // isa.rows)
    if op == "wgrad":
        outer, runs, together = 1, lane_runs(p), _together(p)
        steps = math.prod(together)
        reps = p.batch * math.prod(p.output) // steps
        vectors = sum(-(-size // width) for size in runs)
        lines = sum(line_counts(-(-size // width), isa.vectors)[0] for size in runs)
        scatters = p.flipped and p.filter != (1, 1, 1)
    elif p.channels_last:
        z, q = pixel_lines(p, g, part)
        blocks, vectors = z * -(-q // isa.rows), pitch(p, isa, dtype) // width
        lines = line_counts(vectors, isa.vectors)[0]
    else:
        (vectors, tails), scatters = _vectors(p, g, parts, steps, width), any(r.every > 1 for r in part)
        each = row_vectors(g, part, vectors, tails, width)
        lines = vectors // each * line_counts(each, isa.vectors)[0] if starts_anew(each) else line_counts(vectors, isa.vectors)[0]
    fewest = _parallel.fewest_tiles(p.macs)
    shared = min(fewest, SHARES * (threads - 1))  # nobody to share with: what packs least
    kept_bytes = isa.rows * count_chunks(parts, channels) * CHUNK * dtype.itemsize  # of a block
    most_kept = 0 if op == "wgrad" else PACKED_BYTES // kept_bytes if kept_bytes else blocks
    apart = op == "dgrad" and not p.channels_last and math.prod(p.filter) > 1
    rows = 0 if ready else (APART_COST if apart else ROWS_COST) * blocks * isa.rows
    alike = 1 if op == "wgrad" or p.channels_last else outer  # products of the same rows
    sizes, cost = (blocks, lines), (rows, vectors * width, most_kept)
    pieces = 1
    if op == "wgrad":  # cut as for many threads, so that the pieces of the sum are the same for any number; what is transposed, rather into those
        blocks_each, lines_each = _tile_size(sizes, True, p.groups, 1 if turns(p, op, g) else fewest, 1, isa, cost, len(parts), 1)
        tiles = p.groups * -(-blocks // blocks_each) * max(1, -(-lines // lines_each))
        pieces = max(1, min(reps * -(-steps // PIECE), -(-fewest // tiles)))
        if fewest > 1 and lines > 1 and tiles * pieces % 2:  # rather even: with two threads 1024→256 1×1 @14 285 → 244 µs
            lines_each = -(-lines // (-(-lines // lines_each) + 1))
    if op != "wgrad" or not turns(p, op, g):
        blocks_each, lines_each = _tile_size(sizes, False, p.groups * outer * pieces, shared, threads, isa, cost, len(parts), alike)
    in_order = op == "fprop" and not p.channels_last and np.array_equal(_grid.taps(p, part), np.arange(math.prod(p.filter)))
    in_order |= op == "wgrad" and not p.channels_last and together[0] == 1
    keeps = blocks_each <= most_kept
    lie = in_order and lines * (alike if keeps else 1) <= (MORE_LINES if op == "wgrad" else FEW_LINES) and steps % UNROLLED == 0
    packs = ready or not lie
    kept = packs and not ready and keeps
    scratch = _product.scratch(blocks_each, lines_each, len(parts), tails, count_chunks(parts, channels) if kept else 1, isa, dtype)
    entries = 4 * steps + AHEAD + 4 * blocks + lines * (LINE + (MOST * width if scatters else 0))
    return Shape(
        parts, phases, outer, blocks, vectors, tails, lines, scatters, reps, steps, together, blocks_each, lines_each, pieces, packs, ready, kept,
        scratch, entries,
    )  # fmt: skip


def packings(shape: Shape, channels_last: bool) -> float:
    """Return how often the rows of a product are packed; several samples may have the same."""
    if not shape.packs or shape.ready:
        return 0
    if shape.kept:
        return 1 if channels_last else 1 / shape.outer
    return -(-shape.lines // max(1, shape.lines_each))


def count_taps(parts: tuple[Parts, ...]) -> int:
    return sum(math.prod(len(r.taps) for r in part) for part in parts)


def count_chunks(parts: tuple[Parts, ...], channels: int) -> int:
    """Return the chunks of the sums of an output."""
    return sum(-(-channels * count_taps((part,)) // CHUNK) for part in parts)


def _tile_size(
    sizes: tuple[int, int], whole: bool, products: int, fewest: int, threads: int, isa: _isa.Isa, cost: tuple[int, int, int], sums: int, alike: int
) -> tuple[int, int]:
    """Return how many blocks and lines a tile has at most: enough tiles for all threads, and of those what takes the least time.

    That counts packing and uneven shares of the threads. With ``whole`` all lines are together if they can: the sum is shared among threads,
    too. ``sizes`` are all blocks and lines, ``cost`` what packing the rows and the lanes costs, and the blocks whose rows may be kept: those are
    packed once for so many ``alike`` products.
    """
    (blocks, lines), (rows, lanes, most_kept) = sizes, cost
    blocks, block_bytes = max(1, blocks), isa.rows * MOST * isa.vector_bytes * sums  # of a block and a line
    first, found = isa.vectors * isa.vector_bytes // 4, []  # lanes that nothing is multiplied beside
    work = products * blocks * isa.rows * lanes / PACK_MACS
    for supers in _supers(blocks, products, threads):
        each = -(-blocks // supers)
        most = max(1, min(lines if whole else LINES, lines, SUMS_BYTES // (each * block_bytes)))
        for together in range(most if whole else 1, most + 1):
            groups = max(1, -(-lines // together))
            tiles = products * supers * (1 if whole else groups)
            packings = 1 / alike if each <= most_kept else groups
            packed = products * (rows * packings + lanes * supers + first * groups * supers)
            # The longest share of a thread beside the mean: of tiles, and of lines, of which some tiles have one more than others.
            uneven = max(-(-n // threads) * threads / max(1, n) for n in (tiles, products * supers * (1 if whole else lines)))
            found.append((-min(tiles, fewest), (work + packed) * uneven, -each, together))
    _, _, each, together = min(found)
    return -each, together


def _supers(blocks: int, products: int, threads: int) -> list[int]:
    """Return into how many parts blocks may be cut, of BLOCKS to about 4: a few numbers, and next to each one that threads share evenly."""
    found, parts, even = set[int](), -(-blocks // BLOCKS), threads // math.gcd(threads, products)
    while True:
        found |= {parts, min(blocks, -(-parts // even) * even)}
        if blocks <= 4 * parts:
            return sorted(found)
        parts *= 2


def _vectors(p: ConvProblem, g: Grid, parts: tuple[Parts, ...], steps: int, width: int) -> tuple[int, int]:
    """Return the vectors that cover a channel's outputs, and the columns left over.

    In one go, junk between the lines included, or line by line if those are fewer, or a tenth fewer if short lines share a tile.
    Columns are left over where they are too few for a vector.
    """
    (z, y, q), (_, h, w) = (r.outputs for r in parts[0]), g.axes
    each, flat = -(-q // width), ((z - 1) * h.pitch + y - 1) * w.pitch + q
    if not _gapless(g, parts[0]) and z * y * each <= (1 if starts_anew(each) else 0.9) * -(-flat // width):
        return z * y * each, 0
    return (flat // width, flat % width) if 0 < steps <= MOST_IN_LANES and flat % width <= width // 2 else (-(-flat // width), 0)


def row_vectors(g: Grid, part: Parts, vectors: int, tails: int, width: int) -> int:
    """Return the vectors of a line of pixels if so many cover the outputs line by line, else 0."""
    z, y, q = (r.outputs for r in part)
    each = -(-q // width)
    return each if vectors == z * y * each and not tails and not _gapless(g, part) else 0


def _gapless(g: Grid, part: Parts) -> bool:
    """Return whether the outputs' lines follow each other in what they read: one line then, in tiles as wide as can be.

    16→96 1×1 on 112×112, 16 samples: 7.0 → 3.8 ms, since lines of 112 were cut into 48, 32 and 32.
    """
    (z, y, q), (_, h, w) = (r.outputs for r in part), g.axes
    return z * y > 1 and w.pitch == q and (z == 1 or h.pitch == y)


def starts_anew(each: int) -> bool:
    """Return whether lines of so many vectors have tiles of their own, whose vectors are neighbours."""
    return each >= MOST


def pixel_lines(p: ConvProblem, g: Grid, part: Parts) -> tuple[int, int]:
    """Return the lines of pixels and their length, lines that follow each other evenly in both input and output taken as one."""
    (z, h, q), w = (r.outputs for r in part), g.axes[2]
    if not copies(p, "fprop", g) and all(r.every == 1 for r in part) and p.filter == (1, 1, 1) and w.step == g.axes[1].step == g.axes[0].step == 1:
        if (z, h, q) == p.input:
            return 1, z * h * q
    return z * h, q


def lane_runs(p: ConvProblem) -> list[int]:
    """Return the lengths of wgrad's runs of neighbouring lanes: (s, c) of each (t, r) where the taps are neighbours, else c."""
    T, R, S = p.filter
    channels = p.in_channels // p.groups
    return [S * channels] * (T * R) if p.dilation[2] == 1 else [channels] * (T * R * S)


def _together(p: ConvProblem) -> tuple[int, int, int, int]:
    """Return how many samples, planes, lines and pixels of wgrad's sum one table of steps covers: enough for a chunk, where there are."""
    sizes, taken = (p.batch, *p.output), [1, 1, 1, 1]
    for axis in (3, 2, 1, 0):
        inner = math.prod(taken)
        if axis > 0 and (axis == 3 or inner * sizes[axis] <= MOST_STEPS):
            taken[axis] = sizes[axis]
        elif axis == 0 and math.prod(taken[1:]) == math.prod(p.output):
            taken[0] = _samples(p.batch, inner)
        else:
            break
    return taken[0], taken[1], taken[2], taken[3]


def _samples(batch: int, terms: int) -> int:
    """Return how many samples, of so many terms each, one table covers: the fewest that fill chunks best, one that fills a chunk alone."""
    most = 1 if terms >= CHUNK else min(batch, FILLED // max(1, terms))
    return min((m for m in range(1, most + 1) if batch % m == 0), key=lambda m: (-(-m * terms // CHUNK) / m, m))


def line_counts(vectors: int, most: int) -> tuple[int, list[int]]:
    """Return how many lines of at most ``most`` vectors there are, and the sizes of the last two, none of which is 1 if that can be."""
    lines = -(-vectors // most)
    if lines == 0:
        return 0, [0, 0]
    last = vectors - (lines - 1) * most
    return lines, [most - 1, 2] if most > 2 and last == 1 and lines > 1 else [most, last]
