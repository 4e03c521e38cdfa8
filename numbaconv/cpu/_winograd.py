"""The kernels of `winograd`: tiles transformed, multiplied and transformed back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from numbaconv._jit import Kernel, inline, unsigned
from numbaconv.cpu import _isa, _simd_move, _simd_winograd
from numbaconv.cpu._winograd_maps import AXES, Tile
from numbaconv.cpu.bias import activate

STRIP = 64  # columns of the image that are transposed at a time: 6 × 64 × 16 floats stay in L1, and the 9 rows of a stride of 2 nearly
CHUNK = 256  # steps summed in one accumulator
ALIGNMENT = 64  # bytes of a cache line
FAR = 1 << 20  # bytes of transformed weights that are not in L2 when a block of tiles meets them


@inline
def _line_start(array):  # type: ignore[no-untyped-def]
    """Return the first index at a cache line."""
    return (-array.ctypes.data % ALIGNMENT) // array.itemsize


@functools.cache
def kernels(isa: _isa.Isa, dtype: np.dtype[Any], tile: Tile) -> dict[str, Kernel]:
    """Make the kernels of an instruction set, a dtype and a tile: sizes and formulas are part of the code."""
    vertical, horizontal = AXES[tile[0]], AXES[tile[1]]
    mv, mh, nv, nh = vertical.outputs, horizontal.outputs, vertical.positions, horizontal.positions
    rv, width, height, most = 3 if nv > 1 else 1, isa.width(dtype), isa.rows, isa.vectors
    kv, kh = vertical.transformed, horizontal.transformed
    kinds = np.array([i * kh + j for i in vertical.kinds for j in horizontal.kinds])  # of each position, the transformed weights it meets
    repeated = np.array([kind in kinds[:position] for position, kind in enumerate(kinds)])  # by a position after another
    positions = len(kinds)
    transform = functools.partial(_simd_winograd.transform_tile, isa, dtype)
    to_positions = transform((vertical.inputs, vertical.input), (horizontal.inputs, horizontal.input))
    weights_to_kinds = transform((rv, vertical.filter), (3, horizontal.filter))
    to_outputs = transform((nv, vertical.output), (nh, horizontal.output))
    gradient_to_positions = transform((mv, vertical.gradient), (mh, horizontal.gradient))
    to_taps = transform((kv, vertical.taps), (kh, horizontal.taps))
    load_transposed, store_transposed = _simd_move.load_transposed(isa, dtype, width), _simd_winograd.store_transposed(isa, dtype)
    load_lanes, store_lanes = _simd_winograd.copy_lanes(isa, dtype, True), _simd_winograd.copy_lanes(isa, dtype, False)
    one, two, three = (_simd_winograd.multiply_strided(isa, dtype, min(v, most)) for v in (1, 2, 3))

    @inline
    def multiply(vectors, panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more, far):  # type: ignore[no-untyped-def]
        if vectors == 3:
            three(panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more, far)
        elif vectors == 2:
            two(panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more, far)
        else:
            one(panel, pi, ps, rows, ri, rr, rs, count, out, oi, os, more, far)

    def make_load(to_tile, rows, columns_each, step_v, step_h):  # type: ignore[no-untyped-def]
        extra = columns_each - step_h
        segment = (STRIP - extra) // step_h  # tiles of one row that are transposed together

        @inline
        def load(x, image, at, channels, first, count, t, r, strip, out, to, pitch, step):  # type: ignore[no-untyped-def]
            # Transform ``count`` tiles of ``channels`` channels: position i of a tile goes to out[to + i·step + tile·pitch + channel].
            Z, TH, TW, D, H, W, ld, lh, lw = image[0], image[1], image[2], image[3], image[4], image[5], image[6], image[7], image[8]
            sn, sc, sd, sh, sw, stride_d, stride_h = image[9], image[10], image[11], image[12], image[13], image[15], image[16]
            for c in range(0, channels, width):
                lanes, tile = min(width, channels - c), first
                while tile < first + count:
                    j, i, z = tile % TW, tile // TW % TH, tile // TW // TH % Z
                    run = min(first + count - tile, TW - j, segment)
                    d, w0, columns = z * stride_d + t - ld, j * step_h - lw, run * step_h + extra
                    for row in range(rows):
                        h, line = i * step_v * stride_h + row + r - lh, row * STRIP * width
                        source = at + tile // TW // TH // Z * sn + c * sc + d * sd + h * sh + w0 * sw
                        inside = 0 <= d < D and 0 <= h < H
                        if sw == 1 and inside:
                            for q in range(0, columns, width):
                                load_transposed(x, source + q, sc, lanes, -w0 - q, W - w0 - q, width * sc, strip, line + q * width)
                        else:
                            for q in range(columns):
                                load_lanes(x, source + q * sw, strip, line + q * width, lanes if inside and 0 <= w0 + q < W else 0)
                    for q in range(run):
                        place = to + (tile - first + q) * pitch + c
                        to_tile(strip, q * step_h * width, STRIP * width, width, out, place, nh * step, step)
                    tile += run

        return load

    load_input = make_load(to_positions, vertical.inputs, horizontal.inputs, vertical.step, horizontal.step)
    load_gradient = make_load(gradient_to_positions, mv, mh, mv, mh)

    @inline
    def load_weights(w, at, rows, channels, geometry, strip, out, to, lanes, step):  # type: ignore[no-untyped-def]
        # Transform a panel of ``lanes`` rows of some channels' weights: kind i of a step goes to out[to + i·step + s·lanes + row].
        outer, taps, inner = geometry[2], geometry[11], geometry[12]
        row_stride, channel_stride, flipped = geometry[13], geometry[14], geometry[15]
        many = max(1, STRIP * 8 // taps) if channel_stride == taps else 1  # channels that are transposed together
        sign = -1 if flipped else 1
        ahead = max(many, 4) * channel_stride
        for c0 in range(0, channels, many):
            columns = min(many, channels - c0) * taps
            for v in range(0, lanes, width):
                valid = min(width, rows - v)
                for q in range(0, columns, width):
                    load_transposed(w, at + v * row_stride + c0 * channel_stride + q, row_stride, valid, 0, columns - q, ahead, strip, q * width)
                for c in range(c0, min(c0 + many, channels)):
                    for o in range(outer):
                        tap = (c - c0) * taps + (taps - 1 - o * inner if flipped else o * inner)
                        place = to + (o * channels + c) * lanes + v
                        weights_to_kinds(strip, tap * width, sign * 3 * width, sign * width, out, place, kh * step, step)

    @inline
    def products(u, ui, us, vectors, v, vi, vs, pitch, tiles, steps, out, oi, os, lanes, more, far):  # type: ignore[no-untyped-def]
        # out[tile, lane] = Σ_s v[tile, s] · u[s, lane] at every position, for a panel of weights; added to what is there if ``more``. Weights that
        # are ``far`` are in L1 once the first tiles have met them.
        n = vectors * width
        for position in range(positions):
            for s in range(0, steps, CHUNK):
                ps, count = ui + kinds[position] * us + s * n, min(CHUNK, steps - s)
                for tile in range(0, tiles, height):
                    rows, to = vi + position * vs + tile * pitch + s, oi + position * os + tile * lanes
                    multiply(vectors, u, ps, n, v, rows, pitch, 1, count, out, to, lanes, s + more, int(far and tile == 0))

    @inline
    def store(m, mi, lanes, step, strip, y, image, group, k0, channels, first, count, bias, code):  # type: ignore[no-untyped-def]
        # Transform the products of ``count`` tiles to outputs and store them; return 0, or NaN if one is not finite.
        Z, TH, TW, P, Q = image[0], image[1], image[2], image[4], image[5]
        yn, yk, yd, yh, yw = image[9], image[10], image[11], image[12], image[13]
        zero = strip.dtype.type(0)
        for c in range(0, channels, width):
            valid, tile, k = min(width, channels - c), first, group * image[14] + k0 + c
            while tile < first + count:
                j, i, z = tile % TW, tile // TW % TH, tile // TW // TH % Z
                run = min(first + count - tile, TW - j, STRIP // mh)
                columns = min(run * mh, Q - j * mh)
                for q in range(run):
                    to_outputs(m, mi + (tile - first + q) * lanes + c, nh * step, step, strip, q * mh * width, STRIP * width, width)
                for row in range(min(mv, P - i * mv)):
                    line = row * STRIP * width
                    for e in range(columns * width):
                        zero += strip[unsigned(line + e)] * 0
                    if bias.size or code:
                        finish(strip, line, columns, bias, k, valid, code)
                    to = tile // TW // TH // Z * yn + k * yk + z * yd + (i * mv + row) * yh + j * mh * yw
                    if yw == 1:
                        for q in range(0, columns, width):
                            store_transposed(strip, line + q * width, y, to + q, yk, valid, columns - q, width * yk)
                    else:
                        for q in range(columns):
                            store_lanes(strip, line + q * width, y, to + q * yw, valid)
                tile += run
        return zero

    @inline
    def finish(strip, at, columns, bias, k, valid, code):  # type: ignore[no-untyped-def]
        if bias.size:
            for q in range(columns):
                for lane in range(valid):
                    strip[unsigned(at + q * width + lane)] += bias[unsigned(k + lane)]
        if code:
            activate(strip, at, columns * width, code)

    def weights(first, last, workers, scratch, w, packed, geometry):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: u = G g Gᵀ for all rows and steps.
        # THE SCHEDULE: a tile is a panel of a group: up to VECTORS vectors of rows, transposed and transformed in L1.
        rows, channels, outer, panels, step, taps = geometry[0], geometry[1], geometry[2], geometry[6], geometry[9], geometry[11]
        vectors = (rows + width - 1) // width
        for worker in prange(workers):
            start = _line_start(scratch[worker])
            strip = scratch[worker][start:]
            for job in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                group, panel = job // panels, job % panels
                v0, v1 = vectors * panel // panels, vectors * (panel + 1) // panels
                at = group * rows * channels * taps + v0 * width * geometry[13]
                to = group * kv * kh * step + v0 * width * channels * outer
                load_weights(w, at, rows - v0 * width, channels, geometry, strip, packed, to, (v1 - v0) * width, step)

    def by_tiles(first, last, workers, scratch, x, u, y, bias, code, flags, geometry, image, result):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y = Aᵀ [Σ_s u[s] ⊙ (Bᵀ d[s] B)] A, s = (outer tap, channel).
        # THE SCHEDULE: a tile of work is a block of tiles of one group, transformed once; its products with one panel of
        # weights after the other, at all positions, stay in L2 until they are transformed to outputs.
        rows, channels, outer, tiles, size, blocks = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        panels, pitch, lanes, weight_step, R = geometry[6], geometry[7], geometry[8], geometry[9], geometry[16]
        vectors, steps, step, far = (rows + width - 1) // width, channels * outer, geometry[10], u.size * u.itemsize > FAR
        for worker in prange(workers):
            start = _line_start(scratch[worker])
            strip, v, m = scratch[worker][start:], scratch[worker][start + geometry[17] :], scratch[worker][start + geometry[19] :]
            for job in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                group, tile = job // blocks, job % blocks * size
                count = min(size, tiles - tile)
                for o in range(outer):
                    load_input(x, image, group * channels * image[10], channels, tile, count, o // R, o % R, strip, v, o * channels, pitch, step)
                zero = strip.dtype.type(0)
                for panel in range(panels):
                    k0, k1 = vectors * panel // panels * width, vectors * (panel + 1) // panels * width
                    ui, valid = group * kv * kh * weight_step + k0 * steps, min(rows, k1) - k0
                    products(u, ui, weight_step, (k1 - k0) // width, v, 0, step, pitch, count, steps, m, 0, size * lanes + 16, lanes, 0, far)
                    zero += store(m, 0, lanes, size * lanes + 16, strip, y, result, group, k0, valid, tile, count, bias, code)
                flags[job] = zero

    def transform_tiles(first, last, workers, scratch, x, v, geometry, image):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: v = Bᵀ d B for all tiles and steps.
        # THE SCHEDULE: a tile of work is a vector of channels of a block of tiles of one group; all of them where the last one, of fewer
        # channels, reaches into the next outer tap, which must be written after it.
        channels, outer, tiles, size, blocks = geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        pitch, step, R = geometry[7], geometry[10], geometry[16]
        each = channels if outer > 1 and channels % width else width
        vectors = (channels + each - 1) // each
        for worker in prange(workers):
            strip = scratch[worker][_line_start(scratch[worker]) :]
            for job in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                c, block = job % vectors * each, job // vectors
                group, tile = block // blocks, block % blocks * size
                count, to = min(size, tiles - tile), block * positions * step + c
                for o in range(outer):
                    at = (group * channels + c) * image[10]
                    load_input(x, image, at, min(each, channels - c), tile, count, o // R, o % R, strip, v, to + o * channels, pitch, step)

    def by_panels(first, last, workers, scratch, v, w, packed, y, bias, code, flags, geometry, image, result):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: as in by_tiles.
        # THE SCHEDULE: a tile of work is a panel of weights; it meets all blocks of tiles. If they are not packed they are transformed,
        # as many channels at a time as stay in L2, if the products of all tiles do, too.
        rows, channels, outer, tiles, size, blocks = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        panels, pitch, lanes, step, taps = geometry[6], geometry[7], geometry[8], geometry[10], geometry[11]
        vectors, steps = (rows + width - 1) // width, channels * outer
        for worker in prange(workers):
            start = _line_start(scratch[worker])
            strip, m, local = scratch[worker][start:], scratch[worker][start + geometry[19] :], scratch[worker][start + geometry[17] :]
            buffer = scratch[worker][start + geometry[18] :]
            for job in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                group, panel = job // panels, job % panels
                k0, k1 = vectors * panel // panels * width, vectors * (panel + 1) // panels * width
                u, ui, weight_step, each, n = w, group * kv * kh * geometry[9] + k0 * steps, geometry[9], geometry[23], k1 - k0
                if not packed:
                    u, ui, weight_step = local, 0, n * each * outer + 16
                together, at_m = size * lanes + 16, positions * (size * lanes + 16) if each < channels else 0
                zero = strip.dtype.type(0)
                for c in range(0, channels, each):
                    some = min(each, channels - c)
                    if not packed:
                        at = group * rows * channels * taps + k0 * geometry[13] + c * geometry[14]
                        load_weights(w, at, rows - k0, some, geometry, buffer, local, 0, n, weight_step)
                    for block in range(blocks):
                        tile, vi = block * size, (group * blocks + block) * positions * step
                        count = min(size, tiles - tile)
                        for o in range(outer if some < channels else 1):
                            which, terms = ui + (o * channels + c if packed else o * some) * n, some if some < channels else steps
                            products(u, which, weight_step, n // width, v, vi + o * channels + c, step, pitch, count, terms, m, block * at_m,
                                     together, lanes, c + o, packed)  # fmt: skip
                        if c + some == channels:
                            zero += store(m, block * at_m, lanes, together, strip, y, result, group, k0, min(rows, k1) - k0, tile, count, bias, code)
                flags[job] = zero

    def wgrad(first, last, workers, scratch, x, dy, pieces, flags, geometry, image, result):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: dw[k, c] = Gᵀ [Σ_tiles (A dy Aᵀ) ⊙ (Bᵀ d B)] G.
        # THE SCHEDULE: a tile of work is a block of filters × a block of channels of one outer tap over one piece of the tiles' blocks;
        # the products of all positions stay in L2 while blocks of tiles of x and dy are transformed and multiplied.
        rows, channels, outer, tiles, size, blocks = geometry[0], geometry[1], geometry[2], geometry[3], geometry[4], geometry[5]
        columns, lanes, taps, inner, R = geometry[7], geometry[8], geometry[11], geometry[12], geometry[16]
        splits, row_blocks, column_blocks = geometry[20], geometry[21], geometry[22]
        for worker in prange(workers):
            start = _line_start(scratch[worker])
            strip, v = scratch[worker][start:], scratch[worker][start + geometry[17] :]
            g, m = scratch[worker][start + geometry[18] :], scratch[worker][start + geometry[19] :]
            for job in range(first + (last - first) * worker // workers, first + (last - first) * (worker + 1) // workers):
                c0, rest = job % column_blocks * columns, job // column_blocks
                k0, rest = rest % row_blocks * lanes, rest // row_blocks
                o, rest = rest % outer, rest // outer
                split, group = rest % splits, rest // splits
                c1, k1 = min(channels, c0 + columns), min(rows, k0 + lanes)
                vectors = (c1 - c0 + width - 1) // width
                panels, begin = (vectors + most - 1) // most, blocks * split // splits
                for block in range(begin, blocks * (split + 1) // splits):
                    tile = block * size
                    count, at_x, at_y = min(size, tiles - tile), (group * channels + c0) * image[10], (group * rows + k0) * result[10]
                    load_input(x, image, at_x, c1 - c0, tile, count, o // R, o % R, strip, v, 0, columns, size * columns + 16)
                    load_gradient(dy, result, at_y, k1 - k0, tile, count, 0, 0, strip, g, 0, lanes, size * lanes + 16)
                    for position in range(positions):
                        for panel in range(panels):
                            v0, v1 = vectors * panel // panels, vectors * (panel + 1) // panels
                            for k in range(0, k1 - k0, height):
                                multiply(
                                    v1 - v0, v, position * (size * columns + 16) + v0 * width, columns, g, position * (size * lanes + 16) + k, 1,
                                    lanes, count, m, kinds[position] * (lanes * columns + 16) + k * columns + v0 * width, columns,
                                    block - begin + repeated[position], 0,
                                )  # fmt: skip
                zero = strip.dtype.type(0)
                for k in range(k1 - k0):
                    for c in range(0, c1 - c0, width):
                        step = lanes * columns + 16
                        to_taps(m, k * columns + c, kh * step, step, strip, 0, 3 * width, width)
                        for e in range(inner * width):
                            zero += strip[unsigned(e)] * 0
                        to = ((group * rows + k0 + k) * channels + c0 + c) * taps + o * inner
                        for tap in range(0, inner, width):
                            store_transposed(strip, tap * width, pieces[split], to + tap, taps, min(width, c1 - c0 - c), inner - tap, width * taps)
                flags[job] = zero

    sources: dict[str, Callable[..., None]] = {
        "weights": weights,
        "tiles": transform_tiles,
        "by_tiles": by_tiles,
        "by_panels": by_panels,
        "wgrad": wgrad,
    }
    return {name: Kernel(function, f"-{isa.name}-{dtype.name}-{tile[0]}x{tile[1]}") for name, function in sources.items()}
