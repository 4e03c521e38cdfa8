"""The demo: real data in, pictures out. Run it with ``python -m numbaconv demo``; it needs ``numbaconv[demo]`` and no network."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path

EXTRAS = {"sklearn": "scikit-learn", "pywt": "PyWavelets", "tqdm": "tqdm", "matplotlib": "matplotlib"}


class DemoError(Exception):
    """The demo cannot start: the message says why and what would help."""


def require_extras(pictures: bool) -> None:
    """Raise DemoError with the command to type if a package is missing."""
    missing = [name for module, name in EXTRAS.items() if (pictures or name != "matplotlib") and importlib.util.find_spec(module) is None]
    if missing:
        raise DemoError(f'the demo needs {", ".join(missing)}: pip install "numbaconv[demo]"')


def prepare_folder(output: Path) -> Path:
    """Create the output folder and return its full path; raise DemoError if files cannot be written there."""
    try:
        folder = output.expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        raise DemoError(f"cannot write to the output folder {output}: {error}; choose another with --output") from error
    return folder


def _heading(number: int, title: str) -> None:
    print(f"\n{number}. {title}\n{'=' * (len(title) + 3)}")


def run(output: Path, seed: int = 0, epochs: int = 15, pictures: bool = True) -> int:
    """Run the whole demo.

    Parameters
    ----------
    output : Path
        Folder for pictures and weights; created if need be.
    seed : int
        For the split of the digits, the initial weights and the order of learning.
    epochs : int
        How many times the network sees every digit that it learns from.
    pictures : bool
        Whether to draw.

    Returns
    -------
    int
        0, or 1 if the network read fewer held-back digits than `digits.WANTED`.

    Raises
    ------
    DemoError
        If a package is missing or the folder cannot be written to; nothing was computed.
    RuntimeError
        If a result is not what SciPy or the sum by hand gives.
    """
    require_extras(pictures)
    folder = prepare_folder(output)
    import numbaconv as nc
    from numbaconv.demo import textbook

    print(f"numbaconv {nc.__version__}, {nc.get_num_threads()} threads. Files go to {folder}")
    start = time.perf_counter()
    _heading(1, "Two layers by hand")
    textbook.show()
    _heading(2, "A photograph and a heartbeat")
    files = _filters(folder, pictures)
    _heading(3, "A heartbeat as it arrives, and a blurred photograph")
    files += _signals(folder, pictures)
    _heading(4, "Handwritten digits")
    status, more = _digits(folder, seed, epochs, pictures)
    print(f"\nDone in {time.perf_counter() - start:.1f} s. Written to {folder}:")
    for path in files + more:
        print(f"  {path.name}")
    return status


def _filters(folder: Path, draw: bool) -> list[Path]:
    from numbaconv.demo import filters, pictures

    photo, results, checks = filters.filter_photograph()
    beats, taps, filtered, check = filters.filter_heartbeat()
    print(
        f"\n  PyWavelets' photograph (camera, {photo.shape[0]} × {photo.shape[1]}) and electrocardiogram ({len(beats)} samples), in float32.\n"
        f"  Errors are against SciPy in float64; each output has its own bound, {filters.BOUND} eps · Σ|x||w|, and none exceeds it. Times are\n"
        f"  medians of {filters.ROUNDS} alternating calls in float32; SciPy's is that of its fastest function here, on one thread.\n"
    )
    print(filters.table([*checks, check]))
    if not draw:
        return []
    return [pictures.photograph(folder, photo, results), pictures.heartbeat(folder, beats, taps, filtered, filters.BAND)]


def _signals(folder: Path, draw: bool) -> list[Path]:
    from numbaconv.demo import pictures, signals

    stream, sharp = signals.stream_heartbeat(), signals.deblur_photograph()
    print(
        f"\n  The electrocardiogram with noise and a drift, through a band-pass of {signals.TAPS} taps in blocks of {signals.BLOCK} samples:\n"
        f"  {stream.seconds * 1e6:.0f} µs a block, and what comes out is that of the whole recording to {stream.error:.1e} of its largest value.\n\n"
        f"  The photograph blurred by a Gaussian, and found again by {len(sharp.losses)} steps of gradient descent in {sharp.seconds:.1f} s:\n"
        f"  the loss falls from {sharp.losses[0]:.3g} to {sharp.losses[-1]:.3g}, the difference from the photograph (root mean square) "
        f"from {sharp.before:.4f} to {sharp.after:.4f}."
    )
    if not draw:
        return []
    return [
        pictures.stream(folder, stream.beats, stream.noisy, stream.filtered, signals.TAPS // 2),
        pictures.deblurring(folder, sharp.photo, sharp.blurred, sharp.found, sharp.losses),
    ]


def _digits(folder: Path, seed: int, epochs: int, draw: bool) -> tuple[int, list[Path]]:
    from numbaconv.demo import digits as task
    from numbaconv.demo import pictures

    digits = task.load(seed)
    weights = folder / "digits.npz"
    print(f"\n  {len(digits.x)} images of 8 × 8 pixels to learn from, {len(digits.x_held)} held back, as many of each digit in proportion.")
    print("  " + repr(task.build(seed)).replace("\n", "\n  ") + "\n")
    trained = task.train(digits, epochs, seed)
    task.save_and_reload(trained, digits, seed, weights)
    right = round(trained.accuracy * len(digits.x_held))
    print(f"\n  {right} of {len(digits.x_held)} held-back digits read right: {100 * trained.accuracy:.2f} %.")
    print(f"  Training took {trained.seconds:.1f} s, compilation included.")
    print(f"  Saved as {weights.name}, loaded into a new network: the same scores, bit for bit.")
    passed = trained.accuracy >= task.WANTED
    if not passed:
        print(f"  That is below the {100 * task.WANTED:g} % that this demo aims at: exit status 1.")
    files = [weights]
    if draw:
        sample = int((digits.labels_held == 3).argmax())
        layers, scores = task.way_through(trained.network, digits.x_held[sample])
        files += [
            pictures.learned_filters(folder, trained.network.state_dict()["0.weight"]),
            pictures.feature_maps(folder, digits.x_held[sample, 0], layers, scores, int(digits.labels_held[sample])),
            pictures.learning_curve(folder, trained.losses, trained.accuracies, task.WANTED),
        ]
    return 0 if passed else 1, files
