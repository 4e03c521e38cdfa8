"""What a signal's user gets beyond SciPy: a heartbeat filtered as it arrives, and a blurred photograph made sharp by gradients."""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import numpy as np

from numbaconv import signal
from numbaconv.demo.filters import BAND, TAPS, gaussian

Array = np.ndarray[Any, Any]
BLOCK = 8  # samples that arrive at a time
CLOSE = 1e-5  # a block's output beside that of the whole recording, relative to its largest value
STEPS, NOISE = 50, 0.002  # of the descent, and standard deviation of what the camera adds to the blurred picture


class Stream(NamedTuple):
    """A recording filtered in blocks."""

    beats: Array
    noisy: Array
    filtered: Array
    error: float  # beside the recording filtered as a whole
    seconds: float  # of a block, in the median


class Deblurred(NamedTuple):
    """A descent from a blurred picture."""

    photo: Array
    blurred: Array
    found: Array
    losses: list[float]
    before: float  # root mean square difference from the photograph, of the blurred picture
    after: float  # and of what was found
    seconds: float


def stream_heartbeat(seed: int = 0) -> Stream:
    """Add noise and a drift to the recording, and band-pass it block by block, as a monitor would.

    Raises
    ------
    RuntimeError
        If the blocks do not give what the whole recording gives.
    """
    import pywt

    beats = pywt.data.ecg().astype(np.float32)
    rng = np.random.default_rng(seed)
    drift = 60 * np.sin(np.arange(len(beats)) / 250)
    noisy = (beats + drift + 15 * rng.standard_normal(len(beats))).astype(np.float32)
    taps = signal.firwin(TAPS, BAND, pass_zero=False, fs=1.0).astype(np.float32)
    stream, filtered, times = signal.StreamingConvolver(taps, block=BLOCK), np.empty_like(noisy), []
    stream(noisy[:BLOCK])  # so that compiling is not timed
    stream.reset()
    for start in range(0, len(noisy), BLOCK):
        part = slice(start, start + BLOCK)
        began = time.perf_counter()
        stream.process(noisy[part], out=filtered[part])
        times.append(time.perf_counter() - began)
    whole = signal.convolve(noisy.astype(np.float64), taps.astype(np.float64))[: len(noisy)]
    error = float(np.max(np.abs(filtered - whole)) / np.max(np.abs(whole)))
    if not error < CLOSE:
        raise RuntimeError(f"the blocks differ from the whole recording by {error:.3g} of its largest value, beyond {CLOSE:.3g}")
    return Stream(beats, noisy, filtered, error, statistics.median(times))


def deblur_photograph(steps: int = STEPS, seed: int = 0) -> Deblurred:
    """Blur the photograph, then look for the picture that gives the blurred one, by gradient descent with momentum.

    The loss is half the sum of squares of convolve2d(picture, blur) − blurred; its gradient is what ``pull`` returns.

    Raises
    ------
    RuntimeError
        If the loss did not fall, or the picture found is no nearer to the photograph than the blurred one.
    """
    import pywt

    photo = pywt.data.camera().astype(np.float32) / 255
    blur = gaussian(9, 1.5).astype(np.float32)
    rng = np.random.default_rng(seed)
    blurred = signal.convolve2d(photo, blur, "same", "symm") + NOISE * rng.standard_normal(photo.shape, np.float32)
    picture, previous, losses, start = blurred.copy(), blurred, [], time.perf_counter()
    for step in range(steps):
        ahead = picture + step / (step + 3) * (picture - previous)  # Y. Nesterov's momentum
        y, pull = signal.vjp.convolve2d(ahead, blur, "same", "symm")
        losses.append(0.5 * float(np.sum((y - blurred) ** 2)))
        previous, picture = picture, ahead - pull(y - blurred)[0]  # the taps sum to 1: a step of 1 cannot diverge
    seconds = time.perf_counter() - start
    before, after = (float(np.sqrt(np.mean((image - photo) ** 2))) for image in (blurred, picture))
    if not losses[-1] < losses[0] or not after < before:
        raise RuntimeError(
            f"the descent failed: loss {losses[0]:.3g} to {losses[-1]:.3g}, difference from the photograph {before:.3g} to {after:.3g}"
        )
    return Deblurred(photo, blurred, picture, losses, before, after, seconds)
