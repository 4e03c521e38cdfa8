"""A signal in blocks of any length gives what it gives as a whole."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cases import fill
from scipy import signal as scipy_signal

from numbaconv.cpu import _isa
from numbaconv.signal.streaming import StreamingConvolver

TAPS = (1, 2, 60, 128, 129, 1000, 5000)


def whole(x: Any, h: Any) -> Any:
    """Full convolution along the last axis, in double precision."""
    wide = np.complex128 if np.iscomplexobj(x) or np.iscomplexobj(h) else np.float64
    return scipy_signal.fftconvolve(x.astype(wide), np.broadcast_to(h, (*x.shape[:-1], h.shape[-1])).astype(wide), axes=-1)


def in_blocks(stream: StreamingConvolver, x: Any, rng: np.random.Generator, sizes: tuple[int, ...] = (0, 1, 7, 64, 300, 3000)) -> Any:
    parts, done = [], 0
    while done < x.shape[-1]:
        n = int(rng.choice(sizes))
        parts.append(stream.process(x[..., done : done + n]))
        done += n
    return np.concatenate(parts, -1)


def close(found: Any, expected: Any, eps: float) -> None:
    assert found.shape == expected.shape
    assert np.max(abs(found - expected), initial=0) <= 64 * eps * np.max(abs(expected), initial=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("taps", TAPS)
def test_blocks_of_any_length_give_the_whole(dtype, taps, rng):
    for shape, own in (((), False), ((1,), False), ((3,), False), ((2, 2), True)):
        x = fill((*shape, 4000), dtype, rng, "signed")
        rows = int(np.prod(shape))
        h = fill((rows, taps) if own else (taps,), dtype, rng, "signed")
        stream = StreamingConvolver(h, block=int(rng.choice([1, 64, 500])))
        found = np.concatenate([in_blocks(stream, x, rng), stream.flush()], -1)
        assert found.dtype == dtype
        close(found, whole(x, h.reshape(*shape, taps) if own else h), float(np.finfo(dtype).eps))


@pytest.mark.parametrize("name", list(_isa.ISAS))
def test_every_instruction_set(name, rng, monkeypatch):
    monkeypatch.setattr(_isa, "host", lambda: _isa.ISAS[name])
    x, h = fill((3, 2000), "float32", rng, "signed"), fill((700,), "float32", rng, "signed")
    close(in_blocks(StreamingConvolver(h), x, rng), whole(x, h)[:, :2000], 1.2e-7)


def test_latency_delays_the_output(rng):
    x, h = fill((2500,), "float64", rng, "signed"), fill((900,), "float64", rng, "signed")
    for latency in (0, 1, 31, 100, 256, 3000):
        stream = StreamingConvolver(h, latency=latency)
        found = np.concatenate([in_blocks(stream, x, rng), stream.flush()])
        close(found, np.concatenate([np.zeros(latency), whole(x, h)]), 2.3e-16)


def test_any_axis_and_memory_layout(rng):
    x, h = fill((300, 4), "float32", rng, "signed"), fill((50,), "float32", rng, "signed")
    expected = whole(x.T, h)[:, :300].T
    stream, out = StreamingConvolver(h, axis=0), np.full((300, 4), np.nan, np.float32)
    for start, stop in itertools.pairwise((0, 1, 130, 300)):
        assert stream.process(x[start:stop], out=out[start:stop]).base is out
    close(out, expected, 1.2e-7)
    stream = StreamingConvolver(h, axis=0)
    close(stream(np.asfortranarray(x)), expected, 1.2e-7)
    stream.reset()
    close(stream(x.astype(">f4")[:, ::-1]), expected[:, ::-1], 1.2e-7)


def test_dtypes(rng):
    h = fill((5,), "int64", rng)
    for block, dtype in ((np.int16, np.float64), (np.float32, np.float64), (np.complex64, np.complex128)):
        assert StreamingConvolver(h)(np.ones(3, block)).dtype == dtype
    assert StreamingConvolver(h.astype(np.float32))(np.ones(3, np.float16)).dtype == np.float32
    assert StreamingConvolver(h.astype(np.float16))(np.ones(3, np.float16)).dtype == np.float32
    assert StreamingConvolver(h, dtype=np.float32)(np.ones(3)).dtype == np.float32
    assert StreamingConvolver(h * 1j)(np.ones(3, np.float32)).dtype == np.complex128
    stream = StreamingConvolver(h)
    stream(np.ones(3))
    with pytest.raises(TypeError, match="block must hold numbers that float64 can"):
        stream(np.ones(3, complex))


def test_state_is_kept_and_set(rng):
    x, h = fill((2, 3000), "float64", rng, "signed"), fill((1500,), "float64", rng, "signed")
    first = StreamingConvolver(h)
    first(x[:, :1700])
    state = first.state
    rest = first(x[:, 1700:])
    for other in (StreamingConvolver(h), StreamingConvolver(h, block=1000), first):
        other.state = state
        close(other(x[:, 1700:]), rest, 2.3e-16)
    fresh = StreamingConvolver(h)
    empty = fresh.state
    fresh(x)
    fresh.state = empty
    close(fresh(x[:1, :100]), whole(x[:1], h)[:, :100], 2.3e-16)
    with pytest.raises(ValueError, match="state must be"):
        first.state = [1, 2]
    with pytest.raises(ValueError, match="state must hold the past of 2 channels"):
        first.state = {**state, "past": np.zeros((3, 4))}


def test_a_new_filter_from_the_next_sample_on(rng):
    x, h, g = (fill((n,), "float64", rng, "signed") for n in (2000, 300, 200))
    stream = StreamingConvolver(h)
    found = [stream(x[:777])]
    stream.set_filter(g)
    found.append(stream(x[777:]))
    close(np.concatenate(found), np.concatenate([whole(x, h)[:777], whole(x, g)[777:2000]]), 2.3e-16)


def test_a_crossfade_is_linear(rng):
    x, h, g = (fill((n,), "float64", rng, "signed") for n in (2000, 300, 300))
    stream = StreamingConvolver(h)
    found = [stream(x[:777])]
    stream.set_filter(g, crossfade=99)
    found.append(in_blocks(stream, x[777:], rng, (1, 50, 200)))
    weight = np.zeros(2000)
    weight[777:] = np.minimum(np.arange(1, 1224) / 100, 1)
    close(np.concatenate(found), (1 - weight) * whole(x, h)[:2000] + weight * whole(x, g)[:2000], 2.3e-16)


def test_nothing_is_allocated_with_out(rng):
    x, h = fill((2, 64), "float32", rng, "signed"), fill((4096,), "float32", rng, "signed")
    stream, out = StreamingConvolver(h), np.empty_like(x)
    for _ in range(200):
        stream.process(x, out=out)
    tracemalloc.start()
    try:
        for _ in range(200):
            stream.process(x, out=out)
        assert tracemalloc.get_traced_memory()[1] < 16 << 10
    finally:
        tracemalloc.stop()


def test_what_is_wrong_is_said_and_nothing_is_taken(rng):
    h = np.ones(3)
    for bad, message in (
        ({"h": np.zeros(0)}, "h must be"), ({"h": np.zeros((2, 2, 2))}, "h must be"), ({"h": h, "block": 0}, "block must be at least 1"),
        ({"h": h, "latency": -1}, "latency must be at least 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            StreamingConvolver(**bad)
    with pytest.raises(TypeError, match="block must be an int"):
        StreamingConvolver(h, block=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="h must hold"):
        StreamingConvolver(np.array(["a"]))
    with pytest.raises(TypeError, match="dtype must be complex"):
        StreamingConvolver(h * 1j, dtype=np.float32)(h)
    with pytest.raises(ValueError, match="h has 2 rows"):
        StreamingConvolver(np.ones((2, 3)))(np.ones((3, 5)))
    stream = StreamingConvolver(h)
    first = stream(np.arange(4.0))
    with pytest.raises(ValueError, match=r"block must have shape \(\) besides time"):
        stream(np.ones((2, 3)))
    with pytest.raises(ValueError, match="out must have shape"):
        stream(np.ones(3), out=np.empty(4))
    with pytest.raises(ValueError, match="overlap"):
        stream(first, out=first)
    with pytest.raises(ValueError, match="block must have an axis"):
        stream(np.float64(1))
    np.testing.assert_allclose(np.concatenate([first, stream(np.ones(2))]), np.convolve([0, 1, 2, 3, 1, 1], h)[:6])


def test_an_empty_stream_flushes_nothing():
    assert StreamingConvolver(np.ones(4)).flush().shape == (0,)
    stream = StreamingConvolver(np.ones(4))
    assert stream(np.zeros(0)).shape == (0,)
    assert stream.flush().shape == (3,)


def test_a_crossfade_within_a_crossfade_goes_on_from_the_mixture(rng):
    x, a, b, c = (fill((n,), "float64", rng, "signed") for n in (3000, 300, 200, 250))
    stream = StreamingConvolver(a)
    found = [in_blocks(stream, x[:500], rng)]
    stream.set_filter(b, crossfade=999)
    found.append(in_blocks(stream, x[500:1000], rng, (500,)))
    with pytest.raises(RuntimeError, match="no state while"):
        stream.state  # noqa: B018
    stream.set_filter(c, crossfade=99)
    found.append(in_blocks(stream, x[1000:], rng, (1, 50, 200)))
    n = np.arange(3000)
    first, second = np.clip((n - 499) / 1000, 0, 1), np.clip((n - 999) / 100, 0, 1)
    mixed = (1 - first) * whole(x, a)[:3000] + first * whole(x, b)[:3000]
    close(np.concatenate(found)[:3000], (1 - second) * mixed + second * whole(x, c)[:3000], 2.3e-16)
    assert stream.state["past"].shape[1] >= 299


def test_the_tail_of_a_fading_filter_is_flushed(rng):
    stream = StreamingConvolver(np.ones(50))
    stream(np.ones(10))
    stream.set_filter(np.ones(3), crossfade=1000)
    assert stream.flush().shape == (49,)


def test_a_refused_state_changes_nothing(rng):
    stream = StreamingConvolver(np.ones(3))
    for bad in ({"dtype": "int32", "shape": (), "past": np.zeros((1, 3))}, {"dtype": "f4", "shape": (2,), "past": np.zeros((3, 3))}):
        with pytest.raises(ValueError, match="state must"):
            stream.state = bad
    np.testing.assert_array_equal(stream(np.ones(4)), [1, 2, 3, 3])
