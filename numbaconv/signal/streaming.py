"""A convolution of a signal that arrives in blocks."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from numbaconv.arrays import COMPUTE, Array, as_array, check_out, contiguous, result_type
from numbaconv.cpu.partitioned import SHORTEST, Partitions

DEFAULT_BLOCK = 128


class Fade(NamedTuple):
    """A filter that was replaced: samples of its crossfade that are done, and all."""

    filter: Partitions
    done: int
    length: int


class StreamingConvolver:
    """Convolve a signal with a long filter while it arrives, block by block, without delay.

    The outputs of all blocks, put one behind the other and followed by `flush`, are ``signal.convolve(whole, h, "full")``, whatever the
    lengths of the blocks. The first taps are summed directly, the others by transforms of partitions whose sizes grow with the
    distance (W. G. Gardner, J. Audio Eng. Soc. 43, 1995), so that a sample takes time that grows little with the number of taps.
    An object is used by one thread at a time. NaN, infinity and the rounding of a huge sample stay in the output until the partition ends
    in which they leave the filter: for at most about as many samples more as the filter has taps.

    Parameters
    ----------
    h : array_like, (taps,) or (channels, taps)
        The filter, or one for each channel.
    block : int, optional
        The usual length of a block, which the smallest partitions are made for; other lengths work too.
    latency : int
        Samples by which the output comes later than the input. With some latency fewer taps, or none, need the direct sum.
    axis : int
        The axis of a block that is time; the others are channels.
    dtype : dtype, optional
        Of the computation: float32, float64, complex64 or complex128. By default that of h and of the first block.

    Raises
    ------
    TypeError, ValueError
        For a filter that is not of numbers or has no taps, and for blocks of another shape or dtype than the first; nothing is
        taken then.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import signal
    >>> x, h = np.random.default_rng(0).standard_normal((2, 1000))
    >>> stream = signal.StreamingConvolver(h)
    >>> parts = [stream(x[:10]), stream(x[10:700]), stream(x[700:]), stream.flush()]
    >>> np.allclose(np.concatenate(parts), signal.convolve(x, h))
    True
    """

    def __init__(self, h: Any, *, block: int | None = None, latency: int = 0, axis: int = -1, dtype: Any = None) -> None:
        self._filters = _checked_filters(h)
        self.block = _at_least(1, DEFAULT_BLOCK if block is None else block, "block")
        self.latency = _at_least(0, latency, "latency")
        self.axis = operator.index(axis)
        self._asked = None if dtype is None else _floating(result_type(np.empty(0, dtype)), "dtype")
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] | None = None  # of a block, time left out
        self._now: Partitions | None = None
        self._fades: list[Fade] = []  # of filters that fade into the next one's, or the last into the present one
        self._inputs, self._taken = np.zeros((0, 0)), 0  # the last inputs: at least as many as the longest filter so far reaches back
        self._reach = 0

    @property
    def taps(self) -> int:
        """Taps of the filter."""
        return self._filters.shape[1]

    @property
    def state(self) -> dict[str, Any]:
        """What the object remembers: a copy, which can be kept and set again, in another object with the same filter too.

        While one filter fades into another there is none: RuntimeError.
        """
        if self._fades:
            raise RuntimeError("there is no state while one filter fades into another: it would have to hold both")
        return {"dtype": self._dtype, "shape": self._shape, "past": self._past().copy()}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        try:
            dtype, shape, past = state["dtype"], state["shape"], state["past"]
            if dtype is None:
                self.reset()
                return
            dtype, shape, past = np.dtype(dtype), tuple(map(operator.index, shape)), np.asarray(past)
        except (TypeError, KeyError):
            raise ValueError(f"state must be what `state` returned, got {state!r:.200}") from None
        if dtype.char not in "fdFD":
            raise ValueError(f"state must be of a floating or complex dtype, got {dtype}")
        channels = math.prod(shape)
        if past.ndim != 2 or len(past) != channels or not np.can_cast(past.dtype, dtype, "same_kind"):
            raise ValueError(f"state must hold the past of {channels} channels in {dtype}, got an array of shape {past.shape} and dtype {past.dtype}")
        self._start(dtype, shape)
        self._remember(past)

    def reset(self) -> None:
        """Forget the signal: the next block is the first, and may have another shape and dtype."""
        self._dtype = self._shape = self._now = None
        self._fades = []
        self._inputs, self._taken, self._reach = np.zeros((0, 0)), 0, 0

    def __call__(self, block: Any, out: Array | None = None) -> Array:
        """Do what `process` does."""
        return self.process(block, out)

    def process(self, block: Any, out: Array | None = None) -> Array:
        """Take the next samples and return as many outputs.

        Parameters
        ----------
        block : array_like, (…, n, …)
            Samples along ``axis``; n may be 0, and another number each time.
        out : ndarray, like block, optional
            Where the outputs go, of the dtype of the computation. Where both are contiguous, with time last, nothing is allocated.

        Returns
        -------
        ndarray, like block
            The outputs of these samples, ``latency`` samples late.
        """
        x = as_array(block, "block")
        axis = self._time(x)
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        if self._now is None:
            self._start(self._dtype_for(x), shape)
        self._check(x, shape)
        dtype = self._dtype
        assert dtype is not None and self._now is not None
        if out is not None:
            check_out(out, x.shape, dtype, {"block": x})
        last = axis == x.ndim - 1
        rows = contiguous(x if last else np.moveaxis(x, axis, -1), dtype).reshape(self._now.channels, x.shape[axis])
        ready = out is not None and last and out.flags.carray
        result: Array = out.reshape(rows.shape) if ready else np.empty(rows.shape, dtype)  # type: ignore[union-attr]
        self._filter(rows, result)
        if ready:
            return out  # type: ignore[return-value]
        result = result.reshape(*shape, x.shape[axis])
        if not last:
            result = np.moveaxis(result, -1, axis)
        if out is None:
            return np.ascontiguousarray(result)
        out[...] = result
        return out

    def flush(self) -> Array:
        """Return what is still to come after the last sample, taps − 1 + latency outputs, and `reset`."""
        if self._now is None or self._shape is None:
            return np.zeros(0, self._asked or COMPUTE[_floating(self._filters.dtype, "h")])
        axis = self.axis if self.axis >= 0 else self.axis + len(self._shape) + 1
        count = max([self.taps - 1 + self.latency, *(fade.filter.taps - 1 for fade in self._fades)])
        rest = self.process(np.zeros(self._shape[:axis] + (count,) + self._shape[axis:], self._dtype))
        self.reset()
        return rest

    def set_filter(self, h: Any, crossfade: int = 0) -> None:
        """Change the filter from the next sample on.

        Parameters
        ----------
        h : array_like, (taps,) or (channels, taps)
            The new filter; taps may be another number. It is applied to the past samples too, to those that the filters so far reached
            back to; earlier ones count as 0.
        crossfade : int
            Samples during which the output passes linearly from what it would be without the change to the new filter's.
        """
        filters = _checked_filters(h)
        crossfade = _at_least(0, crossfade, "crossfade")
        if self._now is None or self._shape is None or self._dtype is None:
            self._filters = filters
            return
        if filters.dtype.kind == "c" and self._dtype.kind != "c":
            raise TypeError(f"h is complex, but the stream computes in {self._dtype}: give it a complex dtype from the start")
        if len(filters) not in (1, self._now.channels):
            raise ValueError(f"h must have one row or one for each of {self._now.channels} channels, got shape {filters.shape}")
        self._filters, past, before = filters, np.ascontiguousarray(self._past()), self._now
        self._now = self._partitions(self._now.channels)
        self._remember(past)
        self._fades = [*self._fades, Fade(before, 0, crossfade)] if crossfade else []

    def _time(self, x: Array) -> int:
        axis = self.axis + x.ndim if self.axis < 0 else self.axis
        if not 0 <= axis < x.ndim:
            raise ValueError(f"block must have an axis {self.axis}, got shape {x.shape}")
        return axis

    def _dtype_for(self, x: Array) -> np.dtype[Any]:
        return self._asked or _floating(result_type(x, self._filters), "block")

    def _start(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        channels = int(np.prod(shape, dtype=object))
        if len(self._filters) not in (1, channels):
            raise ValueError(f"h has {len(self._filters)} rows, one for each channel, but block has {channels} channels (shape without time {shape})")
        if self._filters.dtype.kind == "c" and dtype.kind != "c":
            raise TypeError(f"h is complex: dtype must be complex too, got {dtype}")
        self._dtype, self._shape = dtype, shape
        self._now, self._fades = self._partitions(channels), []
        self._keep(np.zeros((channels, 0), dtype))

    def _check(self, x: Array, shape: tuple[int, ...]) -> None:
        if shape != self._shape:
            raise ValueError(f"block must have shape {self._shape} besides time, as the first one, got {shape}")
        if self._dtype is not None and not np.can_cast(x.dtype, self._dtype, "same_kind"):
            raise TypeError(f"block must hold numbers that {self._dtype} can, as the first one, got {x.dtype}")

    def _partitions(self, channels: int) -> Partitions:
        dtype = self._dtype
        assert dtype is not None
        real = np.dtype(dtype.char.lower())
        filters = self._filters.astype(np.result_type(real, self._filters) if self._filters.dtype.kind == "c" else real, copy=False)
        if self.latency:  # a delay is a filter that begins with zeros
            filters = np.concatenate([np.zeros((len(filters), self.latency), filters.dtype), filters], 1)
        first = 1 << (max(self.block, SHORTEST) - 1).bit_length()
        if self.latency:
            first = max(SHORTEST, 1 << (self.latency.bit_length() - 1))
        return Partitions(filters, channels, dtype, min(first, 1024))

    def _past(self) -> Array:
        return self._inputs[:, self._taken - self._reach : self._taken]

    def _keep(self, past: Array) -> None:
        """Keep past inputs, zeros before the first, in an array that has room for as many again."""
        self._reach = max(self.taps - 1 + self.latency, past.shape[1])
        self._inputs = np.zeros((len(past), 2 * self._reach + DEFAULT_BLOCK), past.dtype)
        self._taken = self._reach
        self._inputs[:, self._taken - past.shape[1] : self._taken] = past

    def _remember(self, past: Array) -> None:
        """Show the partitions past inputs, whose outputs were given already."""
        assert self._now is not None and self._dtype is not None
        past = contiguous(np.asarray(past), self._dtype)
        if past.ndim != 2 or len(past) != self._now.channels:
            raise ValueError(f"state must hold the past of {self._now.channels} channels, got an array of shape {past.shape}")
        self._keep(past)
        self._now.process(past, np.empty_like(past))

    def _filter(self, x: Array, y: Array) -> None:
        assert self._now is not None
        self._now.process(x, y)
        if self._fades:
            self._crossfade(x, y)
        new, reach, inputs = x.shape[1], self._reach, self._inputs
        if self._taken + new > inputs.shape[1]:  # go on in front
            old = max(0, reach - new)
            for row in inputs:  # NumPy would make a copy of all rows, for fear of overlap
                row[:old] = row[self._taken - old : self._taken]
            self._taken = old
        new = min(new, inputs.shape[1] - self._taken)
        inputs[:, self._taken : self._taken + new] = x[:, x.shape[1] - new :]
        self._taken += new

    def _crossfade(self, x: Array, y: Array) -> None:
        """Mix the present filter's output with those of the ones before, the oldest first."""
        n, outputs = x.shape[1], []
        for fade in self._fades:
            outputs.append(np.empty_like(y))
            fade.filter.process(x, outputs[-1])
        mixed = outputs[0]
        for fade, following in zip(self._fades, [*outputs[1:], y], strict=True):
            weight = np.minimum((fade.done + 1 + np.arange(n)) / (fade.length + 1), 1).astype(fade.filter.real)
            weight[max(0, fade.length - fade.done) :] = 1
            mixed = mixed + weight * (following - mixed)
        y[:] = mixed
        self._fades = [fade._replace(done=fade.done + n) for fade in self._fades]
        ended = max((i + 1 for i, fade in enumerate(self._fades) if fade.done >= fade.length), default=0)
        self._fades = self._fades[ended:]


def _checked_filters(h: Any) -> Array:
    filters = as_array(h, "h")
    if filters.ndim not in (1, 2) or 0 in filters.shape:
        raise ValueError(f"h must be (taps,) or (channels, taps), with at least one tap, got shape {filters.shape}")
    _floating(result_type(filters), "h")
    return filters.reshape(-1, filters.shape[-1]).copy()


def _floating(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """Return the dtype that a stream of these numbers computes in: integers in float64, float16 in float32."""
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    if dtype not in COMPUTE:
        raise TypeError(f"{name} must be of real or complex numbers, got {dtype}")
    return COMPUTE[dtype]


def _at_least(least: int, value: Any, name: str) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value
