"""The command line, ``python -m numbaconv``: demo, info, warmup, bench and cache."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numbaconv as nc
from numbaconv._kept import clear, compiled_files, size_of

PLAINER = {"−": "-", "·": "*", "×": "x", "∂": "d", "Σ": "sum ", "²": "^2", "σ": "sigma", "√": "sqrt", "’": "'", "…": "..."}
SIMD = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16", "amx-bf16", "neon", "dotprod", "sve")


def cpu_name() -> str:
    """Return the processor's name as the system gives it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def gpu() -> str:
    """Say which GPU ``device="cuda"`` would use, or why there is none."""
    from numbaconv import plan

    try:
        plan.room("cuda")
    except RuntimeError as reason:
        return f"none: {reason}"
    from numbaconv.cuda import describe

    return describe()


def info() -> int:
    """Print what the library runs on and what is compiled."""
    import llvmlite.binding as llvm

    from numbaconv import _jit, plan, tuning
    from numbaconv.cpu import _parallel

    features = llvm.get_host_cpu_features()
    root, tuned = _jit.cache_folder(), tuning.read(plan.room("cpu"))
    files = list(compiled_files(root))
    place = tuning.path()
    ours = [file for file in files if place and file.path.parent == place.parent and file.path != place]
    rows = [
        ("numbaconv", nc.__version__),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((package, _version(package.lower())) for package in ("NumPy", "SciPy", "Numba", "llvmlite")),
        ("CPU", f"{cpu_name()} (LLVM: {llvm.get_host_cpu_name()})"),
        ("SIMD", " ".join(name for name in SIMD if features.get(name)) or "none of those known here"),
        ("threads", f"{_parallel.available_threads()} available, {nc.get_num_threads()} used; threading {nc.get_threading()!r}"),
        ("GPU", gpu()),
        ("estimates", f"tuned on this machine, {tuned.date}" if tuned else "as shipped; `python -m numbaconv warmup --tune` measures this machine"),
        ("cache", f"{root or 'none: no folder can be written to'}"),
        ("cache size", f"{size_of(files)}; of this version on this CPU {size_of(ours)}"),
    ]
    for name, value in rows:
        print(f"{name:<12}{value}")
    print("compiled" + ("" if ours else f"{'':<4}nothing yet; `python -m numbaconv warmup` compiles the usual kernels"))
    for file in ours:
        print(f"  {file.size / 2**10:>7.0f} KiB  {file.path.name}")
    return 0


def cache(delete: bool) -> int:
    """Print where compiled code is kept and how large it is, or delete it."""
    from numbaconv import _jit

    root = _jit.cache_folder()
    if root is None:
        print("No folder can be written to: kernels are compiled anew in every process. NUMBACONV_CACHE_DIR sets another.")
        return 0
    files = list(compiled_files(root))
    print(f"{root}: {size_of(files)}")
    if not delete:
        return 0
    removed, kept = clear(root)
    print(f"{removed} deleted" + (f", {kept} could not be" if kept else ""))
    return 1 if kept else 0


def warmup(tune: bool) -> int:
    """Compile the usual kernels, of layers, of signals and of nopython code, in float32 and float64; then measure, if asked to."""
    import numpy as np

    import numbaconv.jit  # noqa: F401
    from numbaconv import plan
    from numbaconv.nopython import _warmup

    shapes: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "conv1d": ((1, 1, 64), (1, 1, 9), {}),
        "conv2d": ((1, 16, 12, 12), (16, 16, 3, 3), {"padding": 1}),
        "conv2d depthwise": ((1, 16, 12, 12), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
        "conv2d NHWC": ((1, 12, 12, 16), (16, 16, 3, 3), {"padding": 1, "layout": "NHWC"}),
        "conv3d": ((1, 4, 6, 6, 6), (4, 4, 3, 3, 3), {}),
        "conv_transpose2d": ((1, 8, 6, 6), (8, 8, 2, 2), {"stride": 2}),
    }
    jobs = list(product((np.float32, np.float64), shapes, plan.room("cpu")))
    calls = signal_calls() | _warmup.calls()
    total, start = len(jobs) + 2 * len(calls), time.perf_counter()
    for number, (dtype, name, method) in enumerate(jobs, 1):
        x_shape, w_shape, options = shapes[name]
        function, layout = name.split()[0], {key: value for key, value in options.items() if key == "layout"}
        x, w = np.ones(x_shape, dtype), np.ones(w_shape, dtype)
        began = time.perf_counter()
        done = []
        for kind in ("forward", "grad_input", "grad_weight", "grad_bias"):
            try:
                y = getattr(nc, function)(x, w, method=method if kind == "forward" else "auto", **options)
                if kind == "grad_input":
                    getattr(nc, f"{function}_grad_input")(y, w, x_shape, method=method, **options)
                elif kind == "grad_weight":
                    getattr(nc, f"{function}_grad_weight")(x, y, w_shape, method=method, **options)
                elif kind == "grad_bias":
                    getattr(nc, f"{function}_grad_bias")(y, **layout)
                done.append(kind)
            except NotImplementedError:  # the algorithm cannot do this one
                continue
        took = time.perf_counter() - began
        print(f"[{number:>3}/{total}] {dtype.__name__} {name:<16} {method:<9} {', '.join(done):<45} {took:6.2f} s", flush=True)
    for number, (dtype, (name, call)) in enumerate(product((np.float32, np.float64), calls.items()), len(jobs) + 1):
        began = time.perf_counter()
        call(np.ones(2000, dtype), np.ones(300, dtype))
        print(f"[{number:>3}/{total}] {dtype.__name__} {name:<72} {time.perf_counter() - began:6.2f} s", flush=True)
    print(f"All compiled in {time.perf_counter() - start:.1f} s.")
    return measure() if tune else 0


def signal_calls() -> dict[str, Callable[[Any, Any], Any]]:
    """Return calls of a signal and a filter that compile what `signal` and `ndimage` use beside the algorithms of layers."""
    from numbaconv import ndimage, signal

    def gradients(x: Any, h: Any) -> None:
        y, pull = signal.vjp.fftconvolve(x, h)
        pull(y)

    return {
        "signal.convolve, short": lambda x, h: signal.convolve(x, h[:9]),
        "signal.fftconvolve and its gradients": gradients,
        "signal.StreamingConvolver": lambda x, h: signal.StreamingConvolver(h, dtype=x.dtype)(x),
        "signal.resample_poly": lambda x, h: signal.resample_poly(x, 160, 147),
        "ndimage.gaussian_filter": lambda x, h: ndimage.gaussian_filter(x.reshape(40, 50), 1),
        "ndimage.uniform_filter": lambda x, h: ndimage.uniform_filter(x.reshape(40, 50), 25),
    }


def measure() -> int:
    """Measure the coefficients of the cost models on one thread, and keep them for later processes."""
    from numbaconv import plan, tuning

    start = time.perf_counter()
    print("Timing every algorithm on one thread, for about two and a half minutes; best while nothing else runs.", flush=True)
    with nc.num_threads(1), _progress() as show:
        report = tuning.tune(plan.room("cpu"), show=show)
    for name, factors in report.off.items():
        off = f", estimates off by a factor of {statistics.median(factors):.2f} in the median" if factors else ""
        print(f"{name:<10}{len(factors):>4} timings{off}")
    if not report.losses:
        print("No case was timed with two algorithms in time: nothing was kept.")
        return 1
    for when, losses in (("before", report.losses_before), ("now", report.losses)):
        slower = math.exp(statistics.fmean(map(math.log, losses))) - 1
        print(f"{when:<7}the algorithm chosen takes {slower:.1%} longer than the fastest, in the mean of {len(losses)} cases")
    if not report.better:
        print("The estimates from before choose better and stay.")
        return 0
    place = tuning.keep(report.seconds)
    print(f"{place or 'No folder can be written to: nothing was kept'} ({time.perf_counter() - start:.0f} s)")
    return 0 if place else 1


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Yield what shows how far a loop is: tqdm's bar if it is installed, else a line for every tenth."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, total, what: None if done % max(1, total // 10) else print(f"{done:>4} of {total} {what}", flush=True)
        return
    with tqdm(unit="case") as bar:

        def show(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        yield show


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo; say in one line why it cannot start."""
    from numbaconv.demo import DemoError, run

    try:
        return run(arguments.output, arguments.seed, arguments.epochs, arguments.pictures)
    except DemoError as error:
        print(f"numbaconv demo: {error}", file=sys.stderr)
        return 2


def bench(arguments: argparse.Namespace) -> int:
    """Time it here; say in one line why it cannot start."""
    from numbaconv.bench import run

    file = arguments.plot
    if file and not importlib.util.find_spec("matplotlib"):
        print("numbaconv bench: --plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    if file and not file.absolute().parent.is_dir():
        print(f"numbaconv bench: --plot: there is no folder {file.absolute().parent}", file=sys.stderr)
        return 2
    run(arguments.dtype, arguments.threads, arguments.seconds, arguments.match, file)
    return 0


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:  # what scikit-learn takes
        raise ValueError
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_seed.__name__, _positive.__name__ = "32-bit unsigned int", "int of at least 1"  # argparse names them in its errors


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """Write what a terminal cannot show in letters that it can: a minus must not become a question mark."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAINER.get(c, "?") for c in error.object[error.start : error.end]), error.end


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m numbaconv", description=nc.__doc__.splitlines()[0] if nc.__doc__ else None)
    top.add_argument("--version", action="version", version=f"numbaconv {nc.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    one = commands.add_parser("demo", help="two layers by hand, a photograph and a heartbeat filtered, a network trained on handwritten digits")
    one.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for pictures and weights (default: ./demo-output)")
    one.add_argument("--seed", type=_seed, default=0, help="for split, initial weights and order of learning (default: 0)")
    one.add_argument("--epochs", type=_positive, default=15, help="how often each digit is learned from (default: 15)")
    one.add_argument("--no-pictures", dest="pictures", action="store_false", help="draw nothing; matplotlib is not needed then")
    commands.add_parser("info", help="versions, CPU features, threads, GPU, cache, what is compiled")
    three = commands.add_parser("warmup", help="compile the usual kernels now")
    three.add_argument("--tune", action="store_true", help="then measure for this machine which algorithm is the fastest (about 3 minutes)")
    four = commands.add_parser("bench", help="time typical layers, gradients and filters beside SciPy and, if installed, PyTorch")
    four.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios there, as .png or .svg; needs matplotlib")
    four.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    four.add_argument("--threads", type=_positive, default=1, help="for everybody (default: 1)")
    four.add_argument("--seconds", type=float, default=1.0, help="for each case, everybody together (default: 1)")
    four.add_argument("--match", default="", help="only cases whose name contains this")
    two = commands.add_parser("cache", help="where compiled code is kept and how large it is")
    two.add_argument("--clear", action="store_true", help="delete it")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = parser().parse_args(argv)
    codecs.register_error("numbaconv", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="numbaconv")
    try:
        if arguments.command == "demo":
            return demo(arguments)
        if arguments.command == "cache":
            return cache(arguments.clear)
        if arguments.command == "bench":
            return bench(arguments)
        return info() if arguments.command == "info" else warmup(arguments.tune)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
