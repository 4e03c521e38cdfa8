"""The geometry of a convolution: one equation, written here once.

    i·u + lo = o·s + r·d        on each spatial axis

i indexes the input, o the output, r the filter taps; u dilates the input, s is the stride, d dilates the filter and lo is
the low padding. The triples (i, o, r) that satisfy it define the trilinear sum Σ x[i]·w[r]·y[o]; fprop, dgrad and wgrad each
leave one of the three tensors out. The output size is stored and the high padding follows from it, so that a transposed
convolution's ``output_padding`` is no special case. 1-D and 2-D problems are 3-D ones with leading axes of size 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Triple = tuple[int, int, int]
Op = Literal["fprop", "dgrad", "wgrad"]
Padding = int | str | Sequence[int] | Sequence[tuple[int, int]]

OPS: tuple[Op, ...] = ("fprop", "dgrad", "wgrad")
TENSORS: dict[Op, tuple[Literal["x", "w", "y"], ...]] = {"fprop": ("x", "w", "y"), "dgrad": ("y", "w", "x"), "wgrad": ("y", "x", "w")}
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}
LARGEST = 2**50  # of a stride, dilation or padding: sums of a few then fit 64 bits
PADDING_NAMES = ("same", "same_lower", "valid")


class Unsupported(Exception):  # noqa: N818 - an answer of an algorithm, not a failure
    """Raised by an algorithm's ``cost`` for a problem that it cannot do; the message is the reason."""


@dataclass(frozen=True)
class Options:
    """What a call adds to its problem: bias and activation, applied as the output is stored; packed weights."""

    bias: Any = None
    activation: str | None = None
    packed: Any = None


Run = Callable[..., None]  # of an operation's two operands to its result; as a fourth, the second operand's packed form


@dataclass(frozen=True)
class ConvProblem:
    """Everything about a convolution but its numbers.

    Sizes are per axis, always three of them. ``flipped`` reverses the taps (a true convolution), ``channels_last`` is the
    layout of x and y; w is (K, C/groups, T, R, S) in either layout. ``derived`` keeps what an algorithm worked out from the
    rest (offset tables), so that a repeated problem does not pay for it twice.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input: Triple
    filter: Triple
    output: Triple
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    input_dilation: Triple = (1, 1, 1)
    low: Triple = (0, 0, 0)
    flipped: bool = False
    channels_last: bool = False
    rank: int = 3
    derived: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_shapes(
        cls,
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        *,
        rank: int,
        stride: Any = 1,
        padding: Padding = 0,
        dilation: Any = 1,
        groups: int = 1,
        channels_last: bool = False,
        names: tuple[str, str] = ("x", "w"),
    ) -> ConvProblem:
        """Check shapes and options as a user gave them, x batched, and build the problem; the only place that raises shape errors."""
        shapes, options = _checked(x_shape, w_shape, rank, stride, dilation, groups, channels_last, names)
        batch, channels, size, filters, per_group, taps = shapes
        s, d, groups = options
        if channels != per_group * groups:
            raise ValueError(
                f"{names[1]} has shape {tuple(w_shape)}, for inputs of {per_group} × groups={groups} = {per_group * groups} channels, "
                f"but {names[0]} of shape {tuple(x_shape)} has {channels}"
            )
        if filters % groups:
            raise ValueError(f"groups must divide the number of filters: {names[1]} has {filters}, groups={groups}")
        low, high = _paddings(padding, size, taps, s, d, rank)
        output = [conv_output_size(i, r, st, di, lo + hi) for i, r, st, di, lo, hi in zip(size, taps, s, d, low, high, strict=True)]
        if min(output) < 1:
            extent = tuple((r - 1) * di + 1 for r, di in zip(taps, d, strict=True))
            padded = tuple(i + lo + hi for i, lo, hi in zip(size, low, high, strict=True))
            raise ValueError(
                f"the filter must not be larger than the padded input: {names[1]} covers {extent} (dilation {d}), "
                f"{names[0]} is {padded} after padding {padding!r}"
            )
        return cls(
            batch, channels, filters, groups, _triple(size, 1), _triple(taps, 1), _triple(output, 1),
            _used(s, output), _used(d, taps), (1, 1, 1), _triple(low, 0), False, channels_last, rank,
        )  # fmt: skip

    @classmethod
    def from_transposed_shapes(
        cls,
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        *,
        rank: int,
        stride: Any = 1,
        padding: Padding = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        channels_last: bool = False,
        names: tuple[str, str] = ("x", "w"),
    ) -> ConvProblem:
        """Build the convolution whose dgrad is the transposed convolution of x with w: its *output* has the shape of x."""
        shapes, options = _checked(x_shape, w_shape, rank, stride, dilation, groups, channels_last, names)
        batch, channels, size, filters, per_group, taps = shapes
        s, d, groups = options
        if channels != filters:
            raise ValueError(
                f"a transposed {names[1]} is (in_channels, out_channels/groups, *filter); {tuple(w_shape)} is for "
                f"{filters} input channels, but {names[0]} of shape {tuple(x_shape)} has {channels}"
            )
        if channels % groups:
            raise ValueError(f"groups must divide the input channels: {names[0]} has {channels}, groups={groups}")
        extra = axis_values(output_padding, rank, "output_padding", minimum=0)
        for a, (e, st, di) in enumerate(zip(extra, s, d, strict=True)):
            if e >= max(st, di):
                raise ValueError(f"output_padding must be smaller than the stride or the dilation: on axis {a} it is {e}, they are {st} and {di}")
        full = [(i - 1) * st + (r - 1) * di + 1 + e for i, st, r, di, e in zip(size, s, taps, d, extra, strict=True)]
        if isinstance(padding, str) and padding != "valid":
            total = [f - i * st for f, i, st in zip(full, size, s, strict=True)]
            low, high = _split_named(padding, [max(t, 0) for t in total])
            high = tuple(t - lo for t, lo in zip(total, low, strict=True))
        else:
            low, high = _paddings(padding, size, taps, s, d, rank)
        output = [f - lo - hi for f, lo, hi in zip(full, low, high, strict=True)]
        if min(output) < 1:
            raise ValueError(f"padding {padding!r} leaves nothing of the output: its size would be {tuple(output)}")
        return cls(
            batch, per_group * groups, channels, groups, _triple(output, 1), _triple(taps, 1), _triple(size, 1),
            _used(s, size), _used(d, taps), (1, 1, 1), _triple(low, 0), False, channels_last, rank,
        )  # fmt: skip

    # The two involutions. Each returns the problem whose *fprop* is this one's dgrad or wgrad.

    def transpose(self) -> ConvProblem:
        """Exchange input and output: I↔O, u↔s, C↔K, lo → (R−1)d − lo, taps flipped. Its fprop is this problem's dgrad."""
        ld, lh, lw = ((r - 1) * d - lo for r, d, lo in zip(self.filter, self.dilation, self.low, strict=True))
        return replace(
            self, in_channels=self.out_channels, out_channels=self.in_channels, input=self.output, output=self.input,
            stride=self.input_dilation, input_dilation=self.stride, low=(ld, lh, lw), flipped=not self.flipped, derived={},
        )  # fmt: skip

    def swap_filter_output(self) -> ConvProblem:
        """Exchange filter and output: R↔O, d↔s, and the roles of batch and channels. Its fprop is this problem's wgrad.

        The tensors are read as x (C/groups, groups·N, I), w (K, N, O) = dy and y (C/groups, K, R) = dw.
        """
        if self.flipped:
            raise ValueError("swap_filter_output needs unflipped taps")
        return replace(
            self, batch=self.in_channels // self.groups, in_channels=self.groups * self.batch,
            filter=self.output, output=self.filter, stride=self.dilation, dilation=self.stride, derived={},
        )  # fmt: skip

    @property
    def high(self) -> Triple:
        """The padding after the last input element that the output size implies (negative: input never read)."""
        axes = zip(self.output, self.stride, self.filter, self.dilation, self.input, self.input_dilation, self.low, strict=True)
        d, h, w = ((o - 1) * s + (r - 1) * dil + 1 - ((i - 1) * u + 1) - lo for o, s, r, dil, i, u, lo in axes)
        return d, h, w

    def shape(self, tensor: Literal["x", "w", "y"], rank: int = 3) -> tuple[int, ...]:
        """Shape of a tensor with its last ``rank`` spatial axes, in this problem's layout."""
        if tensor == "w":
            return (self.out_channels, self.in_channels // self.groups, *self.filter[3 - rank :])
        channels, size = (self.in_channels, self.input) if tensor == "x" else (self.out_channels, self.output)
        spatial = size[3 - rank :]
        return (self.batch, *spatial, channels) if self.channels_last else (self.batch, channels, *spatial)

    def strides(self, tensor: Literal["x", "y"]) -> tuple[int, int, int, int, int]:
        """Return how many elements apart neighbours along N, C (or K), D, H and W are in a contiguous array."""
        if self.channels_last:
            _, d, h, w, c = self.shape(tensor)
            return d * h * w * c, 1, h * w * c, w * c, c
        _, c, d, h, w = self.shape(tensor)
        return c * d * h * w, d * h * w, h * w, w, 1

    def gemm_shape(self, op: Op) -> tuple[int, int, int]:
        """(M, N, K) of the matrix product, per group, that ``op`` amounts to; K is the contraction length."""
        pixels = self.batch * math.prod(self.output)
        k, taps = self.out_channels // self.groups, (self.in_channels // self.groups) * math.prod(self.filter)
        if op == "fprop":
            return pixels, k, taps
        if op == "dgrad":
            return self.batch * math.prod(self.input), self.in_channels // self.groups, k * math.prod(self.filter)
        return k, taps, pixels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of any of the three operations, padding counted as if it were data."""
        return self.batch * math.prod(self.output) * self.out_channels * (self.in_channels // self.groups) * math.prod(self.filter)


def conv_output_size(size: int, taps: int, stride: int, dilation: int, padding: int) -> int:
    """Return floor((size + padding − dilation·(taps − 1) − 1) / stride) + 1."""
    return (size + padding - dilation * (taps - 1) - 1) // stride + 1


def is_channels_last(layout: Any, rank: int) -> bool:
    """Return whether the layout (None: the default) is the one with the channels behind the spatial axes."""
    if layout is None:
        return False
    if not isinstance(layout, str) or layout not in LAYOUTS[rank]:
        raise ValueError(f"layout must be one of {LAYOUTS[rank]} for {rank}-D, got {layout!r}")
    return layout == LAYOUTS[rank][1]


def axis_values(value: Any, rank: int, name: str, minimum: int | None = None) -> tuple[int, ...]:
    """Expand an int, a 1-sequence or a sequence of ``rank`` ints to one int per axis."""
    try:
        values = (operator.index(value),) * rank
    except TypeError:
        try:
            values = tuple(operator.index(v) for v in value)
        except TypeError:
            raise TypeError(f"{name} must be an int or a sequence of {rank} ints, got {value!r}") from None
        if len(values) == 1:
            values *= rank
        if len(values) != rank:
            raise ValueError(f"{name} must be an int or one int per spatial axis ({rank}), got {value!r}") from None
    if max(map(abs, values)) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST} in size, got {value!r}")
    if minimum is not None and min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return values


def _checked(x_shape, w_shape, rank, stride, dilation, groups, channels_last, names):  # type: ignore[no-untyped-def]
    x_shape, w_shape = tuple(map(operator.index, x_shape)), tuple(map(operator.index, w_shape))
    layout = LAYOUTS[rank][channels_last]
    if len(x_shape) != rank + 2:
        raise ValueError(f"{names[0]} must be {layout} ({rank + 2} axes) or one sample of it ({rank + 1} axes), got shape {x_shape}")
    if len(w_shape) != rank + 2:
        raise ValueError(f"{names[1]} must have {rank + 2} axes, (filters, channels/groups, *{rank} filter sizes), got shape {w_shape}")
    try:
        groups = operator.index(groups)
    except TypeError:
        raise TypeError(f"groups must be an int, got {groups!r}") from None
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if min(x_shape) < 0 or min(w_shape) < 0:
        raise ValueError(f"sizes must not be negative, got {names[0]} {x_shape} and {names[1]} {w_shape}")
    if min(w_shape[2:]) < 1:
        raise ValueError(f"{names[1]} must have at least one tap on each axis, got shape {w_shape}")
    s = axis_values(stride, rank, "stride", minimum=1)
    d = axis_values(dilation, rank, "dilation", minimum=1)
    size = x_shape[1:-1] if channels_last else x_shape[2:]
    channels = x_shape[-1] if channels_last else x_shape[1]
    return (x_shape[0], channels, size, w_shape[0], w_shape[1], w_shape[2:]), (s, d, groups)


def _paddings(padding, size, taps, stride, dilation, rank):  # type: ignore[no-untyped-def]
    if isinstance(padding, str):
        if padding not in PADDING_NAMES:
            raise ValueError(f"padding must be an int, ints, (low, high) pairs or one of {PADDING_NAMES}, got {padding!r}")
        if padding == "valid":
            return (0,) * rank, (0,) * rank
        total = [max((-(-i // s) - 1) * s + (r - 1) * d + 1 - i, 0) for i, r, s, d in zip(size, taps, stride, dilation, strict=True)]
        return _split_named(padding, total)
    if not hasattr(padding, "__index__") and hasattr(padding, "__iter__"):
        padding = tuple(padding)
    pairs = _as_pairs(padding, rank)
    if pairs is not None:
        low = axis_values(tuple(lo for lo, _ in pairs), rank, "padding")
        return low, axis_values(tuple(hi for _, hi in pairs), rank, "padding")
    low = axis_values(padding, rank, "padding")
    return low, low


def _split_named(padding: str, total: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split the padding of each axis in two; the odd element goes after the data for "same", before it for "same_lower"."""
    if padding not in PADDING_NAMES:
        raise ValueError(f"padding must be an int, ints, (low, high) pairs or one of {PADDING_NAMES}, got {padding!r}")
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (small, large) if padding == "same" else (large, small)


def _as_pairs(padding: Any, rank: int) -> list[tuple[int, int]] | None:
    try:
        pairs = [(operator.index(lo), operator.index(hi)) for lo, hi in padding]
    except (TypeError, ValueError):
        if isinstance(padding, Sequence) and any(isinstance(p, Sequence) for p in padding):
            raise ValueError(f"padding must be an int, {rank} ints or {rank} (low, high) pairs, got {padding!r}") from None
        return None
    if len(pairs) == 1:
        pairs *= rank
    if len(pairs) != rank:
        raise ValueError(f"padding must have one (low, high) pair per spatial axis ({rank}), got {padding!r}")
    return pairs


def _used(steps: Sequence[int], counts: Sequence[int]) -> Triple:
    """Return the steps, 1 where there is nothing to step to: then neither its size nor an algorithm's dislike of it matters."""
    return _triple([step if count > 1 else 1 for step, count in zip(steps, counts, strict=True)], 1)


def _triple(values: Sequence[int], fill: int) -> Triple:
    d, h, w = (fill,) * (3 - len(values)) + tuple(values)
    return d, h, w
