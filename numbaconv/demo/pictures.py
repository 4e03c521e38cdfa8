"""The demo's pictures: drawn with matplotlib's Agg backend, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# M. Okabe and K. Ito, "Color universal design", 2008.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
STYLE = {
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure and its axes (none for 0 rows); it needs no screen and leaves pyplot's state alone."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=size)
    return drawing, drawing.subplots(rows, columns, squeeze=False) if rows else None


def styled(draw: Callable[..., Path]) -> Callable[..., Path]:
    """Make a drawing function use STYLE, and nothing that the user's matplotlibrc says."""

    @functools.wraps(draw)
    def with_style(*arguments: Any) -> Path:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*arguments)

    return with_style


def save(drawing: Any, folder: Path, name: str) -> Path:
    """Write the figure as a PNG and return its path."""
    path = folder / name
    drawing.savefig(path, format="png")  # Agg
    return path


def image(axes: Any, values: Array, title: str, **options: Any) -> Any:
    """Show a picture without ticks."""
    shown = axes.imshow(values, interpolation="nearest", **options)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return shown


@styled
def photograph(folder: Path, photo: Array, results: dict[str, Array]) -> Path:
    """Draw the photograph and what the filters make of it."""
    drawing, grid = figure(2, 3, (10, 7.3))
    drawing.suptitle(f"One photograph through nc.conv2d: {photo.shape[0]} × {photo.shape[1]} pixels, float32\n", fontsize=12)
    sharp, head = results["Sharpen"][0], (slice(75, 185), slice(140, 360))
    detail = np.concatenate([photo[head], np.ones((4, 220), photo.dtype), sharp[head]])
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
    image(grid[0, 0], photo, "The photograph", **grey)
    image(grid[0, 1], np.hypot(*results["Sobel x and y"]), "Edges: √(Sobel x² + Sobel y²)", cmap="gray_r", vmin=0, vmax=1.5)
    shown = image(grid[0, 2], results["Laplacian"][0], "Laplacian: both sides of an edge", cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    inset = grid[0, 2].inset_axes((0.07, 0.04, 0.36, 0.03))
    drawing.colorbar(shown, cax=inset, orientation="horizontal", ticks=[-0.5, 0, 0.5])
    inset.xaxis.set_ticks_position("top")
    image(grid[1, 0], results["Gaussian 9 × 9"][0], "Blurred: Gaussian 9 × 9, σ = 2", **grey)
    image(grid[1, 1], sharp, "Sharpened", **grey)
    image(grid[1, 2], detail, "Detail: before (above) and sharpened (below)", **grey)
    return save(drawing, folder, "photograph.png")


@styled
def heartbeat(folder: Path, beats: Array, taps: Array, filtered: Array, band: tuple[float, float]) -> Path:
    """Draw the recording before and after, and the filter with its response."""
    drawing, grid = figure(3, 1, (9, 8))
    drawing.suptitle(f"One electrocardiogram through nc.conv1d: {len(beats)} samples, a band-pass filter of {len(taps)} taps\n", fontsize=12)
    for axes, values, colour, title in (
        (grid[0, 0], beats, GREY, "As recorded: a wandering baseline and a fine ripple"),
        (grid[1, 0], filtered, BLUE, f"Filtered: {band[0]:g} to {band[1]:g} cycles per sample"),
    ):
        axes.plot(values, color=colour, linewidth=1.2)
        axes.set(title=title, xlabel="sample", ylabel="recorded units", xlim=(0, len(beats) - 1))
        axes.grid(alpha=0.25)
    response = 20 * np.log10(np.maximum(np.abs(np.fft.rfft(taps, 8192)), 1e-5))
    axes = grid[2, 0]
    axes.axvspan(*band, color=GREEN, alpha=0.15, label="band to keep")
    axes.plot(np.fft.rfftfreq(8192), response, color=ORANGE, linewidth=1.2, label="the filter's response")
    axes.set(title="What the filter keeps", xlabel="cycles per sample", ylabel="gain (dB)", xlim=(0, 0.5), ylim=(-100, 5))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", frameon=False)
    return save(drawing, folder, "heartbeat.png")


@styled
def learned_filters(folder: Path, weights: Array) -> Path:
    """Draw the filters of the first layer, all on one scale."""
    columns = 8
    rows = -(-len(weights) // columns)
    drawing, grid = figure(rows, columns, (8.4, 1.0 * rows + 0.9))
    drawing.suptitle("What the first layer has learned: its 3 × 3 filters", fontsize=12)
    limit = float(np.abs(weights).max())
    for index, axes in enumerate(grid.flat):
        if index < len(weights):
            shown = image(axes, weights[index, 0], f"{index}", cmap="RdBu_r", vmin=-limit, vmax=limit)
        else:
            axes.set_axis_off()
    drawing.colorbar(shown, ax=grid, shrink=0.8, label="weight")
    return save(drawing, folder, "digits-filters.png")


@styled
def feature_maps(folder: Path, digit: Array, layers: list[tuple[str, Array]], scores: Array, label: int) -> Path:
    """Draw one digit's way through the network: the digit, the first channels after each layer and the ten probabilities."""
    shown = 8
    drawing, _ = figure(0, 0, (11, 0.85 * len(layers) + 0.9))
    drawing.suptitle(f"A held-back “{label}” on its way through the network", fontsize=12)
    first, middle, last = drawing.subfigures(1, 3, width_ratios=[1.1, 5, 1.5])
    image(first.subplots(), digit, f"In: {digit.shape[0]} × {digit.shape[1]} pixels", cmap="gray_r")
    grid = middle.subplots(len(layers), shown + 1, width_ratios=[1.5] + [1] * shown)
    for axes, (name, maps) in zip(grid, layers, strict=True):
        size = " × ".join(map(str, maps.shape[1:]))
        axes[0].text(0, 0.5, f"{name}\n{shown} of {len(maps)} maps,\n{size}", va="center", fontsize=8, transform=axes[0].transAxes)
        axes[0].set_axis_off()
        limit = float(np.abs(maps[:shown]).max())
        signed = bool((maps[:shown] < 0).any())
        for place, channel in zip(axes[1:], maps, strict=False):
            image(place, channel, "", cmap="RdBu_r" if signed else "Reds", vmin=-limit if signed else 0, vmax=limit)
    bars = last.subplots()
    bars.barh(range(len(scores)), scores, color=[ORANGE if k == scores.argmax() else GREY for k in range(len(scores))])
    bars.set(title="Out: probabilities", xlabel="probability", ylabel="digit", xlim=(0, 1), yticks=range(len(scores)))
    bars.invert_yaxis()
    return save(drawing, folder, "digits-feature-maps.png")


@styled
def learning_curve(folder: Path, losses: list[float], accuracies: list[float], wanted: float) -> Path:
    """Draw the training loss and the held-back accuracy over the epochs."""
    drawing, grid = figure(1, 2, (9, 3.6))
    epochs = range(1, len(losses) + 1)
    drawing.suptitle("Learning to read handwritten digits", fontsize=12)
    left, right = grid[0]
    left.plot(epochs, losses, "o-", color=BLUE, markersize=4)
    left.set(title="Loss on the digits to learn from", xlabel="epoch", ylabel="mean cross-entropy (nats)", yscale="log")
    right.plot(epochs, [100 * a for a in accuracies], "s-", color=ORANGE, markersize=4, label="held-back digits")
    right.axhline(100 * wanted, color=GREY, linestyle="--", linewidth=1, label=f"{100 * wanted:g} %, the demo's aim")
    right.set(title="Accuracy on digits never learned from", xlabel="epoch", ylabel="right (%)")
    right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return save(drawing, folder, "digits-learning.png")


@styled
def stream(folder: Path, beats: Array, noisy: Array, filtered: Array, delay: int) -> Path:
    """Draw the recording, what arrives of it and what comes out, late by the filter's delay."""
    drawing, grid = figure(3, 1, (10, 5.5))
    drawing.suptitle("A heartbeat through signal.StreamingConvolver, block by block\n", fontsize=12)
    shown = slice(0, len(beats))
    for axes, values, title, colour in (
        (grid[0, 0], beats, "The recording", GREY),
        (grid[1, 0], noisy, "What arrives: with noise and a drift", ORANGE),
        (grid[2, 0], filtered, f"What comes out, {delay} samples later (half the filter)", BLUE),
    ):
        axes.plot(values[shown], color=colour, linewidth=1)
        axes.set_title(title, loc="left")
        axes.margins(x=0)
    grid[2, 0].set_xlabel("sample")
    return save(drawing, folder, "stream.png")


@styled
def deblurring(folder: Path, photo: Array, blurred: Array, found: Array, losses: list[float]) -> Path:
    """Draw a part of the photograph, blurred and made sharp again, and the loss."""
    drawing, grid = figure(2, 2, (9, 8.5))
    drawing.suptitle("A photograph deblurred by gradient descent through signal.vjp.convolve2d\n", fontsize=12)
    part = (slice(60, 260), slice(130, 330))
    for axes, values, title in (
        (grid[0, 0], photo, "The photograph (a part of it)"),
        (grid[0, 1], blurred, "Blurred, with noise"),
        (grid[1, 0], found, f"Found in {len(losses)} steps"),
    ):
        image(axes, values[part], title, cmap="gray", vmin=0, vmax=1)
    grid[1, 1].semilogy(losses, color=BLUE)
    grid[1, 1].set_title("The loss")
    grid[1, 1].set_xlabel("step")
    return save(drawing, folder, "deblurring.png")
