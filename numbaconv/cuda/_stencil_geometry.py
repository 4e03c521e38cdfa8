"""What the kernels of stencils take by value: numbers that stay in the constant bank, where reading them costs nothing."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """What the kernel for channels first takes by value. A unit is a group of an image, its planes lie one after the other."""

    tiles_p: int
    tiles_q: int
    tile_rows: int
    tile_columns: int
    units: int  # of a block
    all_units: int
    groups: int
    channels: int  # of a group
    filters: int  # of a group
    across: int  # threads side by side in a tile
    down: int  # threads one below the other
    count_p: int
    count_q: int
    in_h: int
    in_w: int
    plane: int  # elements of x from one channel to the next
    delta_h: int
    delta_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    taps_h: int
    taps_w: int
    row_on: int  # elements of shared memory between the rows of a thread's tile
    column_on: int  # and between its columns, where they are not neighbours
    vector_in: int  # whether four neighbours of x, from a multiple of four on, can be loaded at once
    vector_out: int
    fill_w: int  # what a block loads: quads of columns, rows, planes
    fill_h: int
    fill_planes: int
    width: int  # columns that it keeps
    pitch: int
    part: int
    on_w: int  # how many quads, rows and planes further a thread's next quad is
    on_h: int
    on_planes: int
    w_first: int
    w_group: int
    w_k: int
    w_c: int
    w_row: int
    w_column: int
    y_first: int
    y_plane: int
    y_row: int
    y_column: int
    phases: int = 1
    has_bias: int = 0
    pieces: int = 1  # wgrad: of the sum; the tiles of all images, elements from channel to channel, and the size of dw
    tiles: int = 0
    x_channel: int = 0
    y_channel: int = 0
    w_size: int = 0


class LastGeometry(NamedTuple):
    """What the kernel for channels last takes by value."""

    tiles_p: int
    tiles_q: int
    chunks: int  # of channels
    tile_rows: int
    tile_columns: int
    lanes: int  # quads of channels of a block
    across: int
    down: int
    count_p: int
    count_q: int
    in_h: int
    in_w: int
    out_channels: int
    channels: int  # of a group
    filters: int  # of a group
    delta_h: int
    delta_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    taps_h: int
    taps_w: int
    row_on: int
    column_on: int
    vector: int  # whether four channels can be loaded and stored at once
    fill_w: int
    fill_h: int
    pitch: int
    column: int
    on_lanes: int
    on_w: int
    on_h: int
    x_n: int
    x_h: int
    x_w: int
    w_tap: int
    y_n: int
    y_first: int
    y_row: int
    y_column: int
    has_bias: int = 0
    pieces: int = 1  # wgrad: of the sum; the tiles of all images; where taps lie in dw, and its size
    tiles: int = 0
    w_first: int = 0
    w_row: int = 0
    w_column: int = 0
    w_size: int = 0
