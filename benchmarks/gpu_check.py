"""Everything that a machine with an NVIDIA GPU can say of numbaconv.cuda: ``python benchmarks/gpu_check.py``.

First the tests of the GPU room run on the device. Then layers are timed beside PyTorch (cuDNN, its autotuning on) in float32, TF32 and
bfloat16, both memory formats, forward and both gradients; and signals beside CuPy. Contenders take turns on fresh random operands, times are
medians between CUDA events, results must agree. One table is printed, and one JSON file written to benchmarks/results/ with the GPU's name and
the date. Ratios are a peer's time over numbaconv's: above 1, numbaconv is faster.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

import numbaconv as nc  # noqa: E402
from benchmarks.alternate import duration, geometric_mean, markdown  # noqa: E402
from benchmarks.cases import OPS, Layer, layer, random  # noqa: E402
from benchmarks.networks import LAYERS  # noqa: E402
from numbaconv.problem import LAYOUTS  # noqa: E402
from numbaconv.recipe import OPERATIONS  # noqa: E402

# What the bars are about: large dense layers, depthwise, FIR and images, long filters.
LAYERS_OF_THE_BARS = {name: replace(layer(name), x_shape=(batch, *layer(name).x_shape[1:])) for batch, names in {
    32: ("64→64 3×3 @56", "128→128 3×3 @28", "256→256 3×3 @14", "512→512 3×3 @7", "256→64 1×1 @56", "64→256 1×1 @56", "3→64 7×7 s2 @224",
         "128→128 3×3 g32 @56", "96→96 3×3 g96 @112", "144→144 3×3 s2 g144 @56", "96→96 7×7 g96 @56", "128→64 up 2×2 s2 @28"),
    8: ("64→64 3×3 @224", "64→128 2 d64 @16000", "512→512 3 s2 p0 @3199", "1→1 31 @1000000", "1→1 5×5 @1024", "1→1 31×31 @1024",
        "256→256 3×3×3 @4×14×14"),
}.items() for name in names}  # fmt: skip
AGREEMENT = {"float32": 1e-5, "tf32": 3e-3, "bfloat16": 2e-2}  # of ‖found − expected‖ / ‖expected‖, in float32 arithmetic
LONG = 5e-8  # as much more for each root of the terms of a sum: a library that adds 400,000 one after the other is that far off
BIASED = " with bias"  # of a contender's name
ASKED = {"tf32": "tf32", "bfloat16": "bf16"}  # numbaconv's names
WARMUPS, LEAST_SECONDS, MOST_CALLS = 3, 0.03, 50
FLUSH_BYTES = 256 << 20  # written before each call
TEST_SECONDS = 600  # for one process of tests
MOST_AGAIN = 64  # tests that failed, run again


class Clock:
    """Times one call between CUDA events; under the simulator, by the host's clock, so that the script itself can be tested.

    Before each call memory is written that is larger than the GPU's cache: operands come from memory, and the call is enqueued by the time
    that the GPU gets to it, so that the time is the GPU's alone, for everybody. What a call takes on the host is measured by itself.
    """

    def __init__(self) -> None:
        from numbaconv.cuda._backend import SIMULATED, arrays  # raises a RuntimeError that says what is missing

        self.simulated, self.xp = SIMULATED, arrays()
        self.memory = None if self.simulated else self.xp.empty(FLUSH_BYTES, np.uint8)

    def random(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        """Return normal numbers, drawn where they are used."""
        return random(shape, dtype) if self.simulated else self.xp.random.standard_normal(shape, dtype)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return the seconds of one call."""
        if self.simulated:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        start, stop = self.xp.cuda.Event(), self.xp.cuda.Event()
        for value in (1, 2):
            self.memory.fill(value)
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return float(self.xp.cuda.get_elapsed_time(start, stop)) / 1e3

    def medians(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Call in turn and return the median seconds of each."""
        for _ in range(1 if self.simulated else WARMUPS):
            first = {name: self.seconds(call) for name, call in calls.items()}
        rounds = 1 if self.simulated else int(min(MOST_CALLS, max(10, LEAST_SECONDS / max(first.values()))))
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(self.seconds(call))
        return {name: statistics.median(values) for name, values in times.items()}


def torch_calls(case: Layer, op: str, a: Any, b: Any, bias: Any, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield PyTorch's calls of an operation, in both memory formats, and with a bias; operands are converted beforehand."""
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    torch.backends.cudnn.benchmark = True
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    rest = (*(case.axes(n, d) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1))), case.transposed, (0,) * case.rank, case.groups)
    formats = {"NCHW": torch.contiguous_format} | ({"NHWC": (torch.channels_last, torch.channels_last_3d)[case.rank - 2]} if case.rank > 1 else {})
    for name, order in formats.items():
        first, second = (torch.as_tensor(t, device="cuda").to(dtype).contiguous(memory_format=order) for t in (a, b))
        like = torch.empty(case.x_shape if op == "grad_input" else case.w_shape, dtype=dtype, device="cuda").contiguous(memory_format=order)

        def call(first: Any = first, second: Any = second, like: Any = like, added: Any = None) -> Any:
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            with torch.inference_mode():
                if op == "forward":
                    return torch.convolution(first, second, added, *rest)
                if op == "grad_input":
                    return torch.ops.aten.convolution_backward(first, like, second, None, *rest, (True, False, False))[0]
                return torch.ops.aten.convolution_backward(second, first, like, None, *rest, (False, True, False))[1]

        yield f"torch {name}", call
        if op == "forward":
            yield f"torch {name}{BIASED}", partial(call, added=torch.as_tensor(bias, device="cuda").to(dtype))


def our_calls(case: Layer, op: str, a: Any, b: Any, bias: Any, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield numbaconv's calls, in both layouts, and with a bias; operands are converted beforehand."""
    how: dict[str, Any] = {"device": "cuda", "precision": ASKED.get(precision, "default")}
    if precision == "bfloat16":
        a, b, bias = (patterns(t) for t in (a, b, bias))
    yield "numbaconv NCHW", lambda: case.call(op, a, b, **how)
    if op == "forward":
        yield f"numbaconv NCHW{BIASED}", lambda: case.call(op, a, b, bias=bias, **how)
    if case.rank > 1:
        layout = LAYOUTS[case.rank][1]
        swap = {"forward": (True, False), "grad_input": (True, False), "grad_weight": (True, True)}[op]
        first, second = (np_or_cp(t).ascontiguousarray(np_or_cp(t).moveaxis(t, 1, -1)) if s else t for t, s in zip((a, b), swap, strict=True))
        last = Layer((case.x_shape[0], *case.x_shape[2:], case.x_shape[1]), case.w_shape, case.options, case.transposed)
        yield "numbaconv NHWC", lambda: last.call(op, first, second, layout=layout, **how)
        if op == "forward":  # packed beforehand, as PyTorch's weights are in that memory format
            weights = nc.prepare(second, first.shape, layout=layout, transposed=case.transposed, **last.options, **how)
            yield "numbaconv NHWC, prepared", lambda: last.call(op, first, weights, layout=layout, **how)


def patterns(array: Any) -> Any:
    """Return float32 numbers as the bit patterns of the nearest bfloat16."""
    return ((array.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def numbers(array: Any) -> Any:
    """Return the inverse of `patterns`, of other arrays themselves."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def np_or_cp(array: Any) -> Any:
    """Return the module that an array comes from."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy


def measured(name: str, case: Layer, op: str, precision: str, clock: Clock) -> dict[str, Any]:
    """Return `measure`, or what went wrong: one case's failure is not to lose the others."""
    try:
        return measure(name, case, op, precision, clock)
    except Exception as reason:  # of whatever library
        return {"case": name, "op": op, "precision": precision, "refused": f"{type(reason).__name__}: {reason}", "wrong": ["failed"]}


def measure(name: str, case: Layer, op: str, precision: str, clock: Clock) -> dict[str, Any]:
    """Time one case, or say why numbaconv does not compute it."""
    a, b = case.operands(op, draw=clock.random)
    bias = clock.random(case.y_shape[1:2])
    calls: dict[str, Callable[[], Any]] = {}
    try:
        for label, call in our_calls(case, op, a, b, bias, precision):
            call()
            calls[label] = call
    except (NotImplementedError, ValueError) as reason:
        return {"case": name, "op": op, "precision": precision, "refused": str(reason)}
    expected = numbers(calls["numbaconv NCHW"]())
    calls |= dict(torch_calls(case, op, a, b, bias, precision))
    most = 2 * AGREEMENT[precision] + LONG * case.problem.gemm_shape(OPERATIONS[case.transposed, op])[2] ** 0.5  # type: ignore[index]
    shifted = expected + bias.reshape(-1, *[1] * case.rank) if op == "forward" else expected
    wrong = [label for label, call in calls.items() if not agrees(call(), shifted if BIASED in label else expected, op, label, most)]
    seconds = clock.medians(calls)
    size, dtype = (2, "uint16") if precision == "bfloat16" else (4, "float32")
    method = case.plan(op, dtype, device="cuda", precision=ASKED.get(precision, "default")).name
    return {"case": name, "op": op, "precision": precision, "batch": case.x_shape[0], "seconds": seconds, "wrong": wrong,
            "flops": 2 * case.macs, "bytes": case.elements * size, "method": method}  # fmt: skip


def agrees(found: Any, expected: Any, op: str, label: str, most: float) -> bool:
    """Return whether a result is the expected one, but for a relative error of at most so much."""
    xp = np_or_cp(expected)
    found = numbers(xp.asarray(found.float() if hasattr(found, "float") else found))
    if "numbaconv NHWC" in label and op != "grad_weight":
        found = xp.moveaxis(found, -1, 1)
    scale = float(xp.linalg.norm(expected.ravel())) or 1.0
    return float(xp.linalg.norm((found - expected).ravel())) / scale <= most


def measure_signal(samples: int, taps: int, clock: Clock) -> dict[str, Any]:
    """Time a 1-D convolution beside CuPy's functions."""
    x, h = clock.random((samples,)), clock.random((taps,))
    flipped = h[::-1].reshape(1, 1, -1)
    calls: dict[str, Callable[[], Any]] = {"numbaconv": lambda: nc.conv1d(x.reshape(1, 1, -1), flipped, padding="same", device="cuda")}
    if not clock.simulated:
        from cupyx.scipy import signal

        for function in (signal.convolve, signal.fftconvolve, signal.oaconvolve):
            calls[f"cupyx {function.__name__}"] = partial(function, x, h, "same")
    return {"case": f"{samples} samples, {taps} taps", "op": "signal", "precision": "float32", "seconds": clock.medians(calls), "wrong": [],
            "flops": 2 * samples * taps, "bytes": 8 * samples, "method": ""}  # fmt: skip


def overhead(clock: Clock) -> float:
    """Return the seconds that a call of the smallest layer takes on the host."""
    x, w = (clock.random(shape) for shape in ((1, 8, 8, 8), (8, 8, 3, 3)))
    calls = 1 if clock.simulated else 1000
    for count in (min(calls, 20), calls):
        start = time.perf_counter()
        for _ in range(count):
            nc.conv2d(x, w, device="cuda")
        taken = (time.perf_counter() - start) / count
    return taken


def compile_ahead(jobs: list[tuple[Layer, str, str]]) -> None:
    """Compile the kernels of cases on all cores, which takes longer than to run them: they come from the disk afterwards."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(pool.map(called, jobs))


def called(job: tuple[Layer, str, str]) -> None:
    """Call numbaconv for one case; what is wrong with it is said when it is measured."""
    case, op, precision = job
    try:
        clock = Clock()
        for _, call in our_calls(case, op, *case.operands(op, draw=clock.random), clock.random(case.y_shape[1:2]), precision):
            call()
    except Exception:  # of whatever library
        pass


def pytest(*arguments: str) -> tuple[int, list[str]]:
    """Run tests on the device, in a process of their own, which an illegal address ends; return its status and what it printed."""
    # Warnings of the GPU's libraries are not errors, as they are elsewhere.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *arguments]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "PYTHONPATH": path}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        return 1, [f"stopped after {TEST_SECONDS} s"]
    return done.returncode, done.stdout.splitlines() or [done.stderr[-500:]]


def run_tests(folder: Path) -> dict[str, Any]:
    """Run the tests of the GPU room, a file on each core; those that fail run again, each alone: an illegal address fails all that follow it."""
    files = [file for file in sorted(folder.glob("test_cuda*.py")) if file.name != "test_cuda_code.py"]  # machine code: no GPU needed
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(zip(files, pool.map(lambda file: pytest(str(file)), files), strict=True))
        summaries = {file.name: lines[-1] for file, (_, lines) in done.items()}
        failed = []
        for file, (status, lines) in done.items():
            named = [line.split()[1] for line in lines if line.startswith(("FAILED", "ERROR")) and "::" in line]
            failed += named if named or not status else [str(file)]
        again = dict(zip(failed, pool.map(pytest, failed[:MOST_AGAIN]), strict=False))
    reasons = {name: [line for line in again[name][1] if line.startswith("E ")][:8] if name in again else ["not run again"] for name in failed}
    return {"summary": summaries, "failed": {name: reasons[name] for name in failed if name not in again or again[name][0]},
            "failed only after others": [name for name in failed if name in again and not again[name][0]]}  # fmt: skip


def line(row: dict[str, Any]) -> list[str]:
    """Format a row of the table."""
    head = [row["case"], row["op"], row["precision"]]
    if "refused" in row:
        return [*head, "", "", "", "", row["refused"]]
    ours, peers = split(row["seconds"])
    best = f"{min(peers.values()) / ours:.2f}" if peers else ""
    rest = [f"{row['flops'] / ours / 1e12:.1f}", f"{row['bytes'] / ours / 1e12:.2f}", best]
    return [*head, duration(ours), *rest, " ".join([row["method"], *(f"WRONG: {name}" for name in row["wrong"])])]


def split(seconds: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Return numbaconv's best time without a bias, and the peers'."""
    plain = {name: value for name, value in seconds.items() if BIASED not in name}
    ours = min(value for name, value in plain.items() if name.startswith("numbaconv"))
    return ours, {name: value for name, value in plain.items() if not name.startswith("numbaconv")}


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table, and for each operation and precision the geometric mean and the worst of the ratios."""
    print(markdown(["case", "operation", "precision", "time", "Tflop/s", "TB/s", "best peer", "method"], map(line, rows)))
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if "seconds" in row:
            ours, peers = split(row["seconds"])
            if peers:
                groups.setdefault((row["op"], row["precision"]), []).append(min(peers.values()) / ours)
        names = [f"{library} NCHW{BIASED}" for library in ("torch", "numbaconv")]
        if set(names) <= row.get("seconds", {}).keys():
            groups.setdefault((f"forward{BIASED} beside torch NCHW", row["precision"]), []).append(
                row["seconds"][names[0]] / row["seconds"][names[1]]
            )
    for (op, precision), ratios in groups.items():
        print(f"{op}, {precision}: geometric mean {geometric_mean(ratios):.2f} of {len(ratios)} cases, worst {min(ratios):.2f}")


def describe(clock: Clock) -> dict[str, Any]:
    """Return what was measured on, with which versions."""
    import numba

    found = {"python": sys.version.split()[0], "numba": numba.__version__, "numpy": np.__version__, "numbaconv": nc.__version__}
    if clock.simulated:
        return {"device": "simulator", **found}
    import numba_cuda

    properties = clock.xp.cuda.runtime.getDeviceProperties(clock.xp.cuda.runtime.getDevice())
    return {"device": properties["name"].decode(), "cupy": clock.xp.__version__, "numba-cuda": numba_cuda.__version__, **found}


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, measure, print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="*", default=["bars"], choices=["bars", *LAYERS], help="of layers; bars: those that the bars are about")
    parser.add_argument("--batch", type=int, default=32, help="of the suites of networks")
    parser.add_argument("--ops", nargs="*", default=list(OPS), choices=OPS)
    parser.add_argument("--precision", nargs="*", default=list(AGREEMENT), choices=list(AGREEMENT))
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no further layer is measured")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--only-tests", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON file")
    parser.add_argument("--read", type=Path, help="print the table of such a file, and do nothing else")
    settings = parser.parse_args(arguments)
    if settings.read:
        found = json.loads(settings.read.read_text())
        report(found["rows"])
        if "overhead" in found:  # else the run that wrote the file was cut off
            print(f"a call of the smallest layer takes {found['overhead'] * 1e6:.1f} µs on the host")
        return 0
    began, clock = time.perf_counter(), Clock()
    about = describe(clock)
    settings.results.mkdir(parents=True, exist_ok=True)
    date = datetime.date.today().isoformat()
    file = settings.results / f"{re.sub('[^a-z0-9]+', '-', about['device'].lower())}-{date}.json"
    found = {"about": about, "date": date, "tests": {}, "rows": []}

    def keep() -> None:
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False))

    print(*(f"{key} {value}" for key, value in about.items()), sep=", ")
    if not settings.no_tests:
        found["tests"] = tests = run_tests(ROOT / "tests")
        print(*(f"{name}: {summary}" for name, summary in tests["summary"].items()), sep="\n")
        print(*("\n".join([f"FAILED {name}", *reasons]) for name, reasons in tests["failed"].items()), sep="\n", flush=True)
        keep()
    suites = {"bars": LAYERS_OF_THE_BARS, **{n: {k: v.batched(settings.batch) for k, v in cases.items()} for n, cases in LAYERS.items()}}
    rows = found["rows"]
    cases = [(name, case) for suite in settings.suite if not settings.only_tests for name, case in suites[suite].items() if settings.match in name]
    jobs = list(itertools.product(settings.precision, settings.ops, cases))
    sizes = ((2000, 31),) if clock.simulated else ((10**6, 31), (10**7, 127), (10**7, 1023), (10**6, 8191))
    rows += [measure_signal(n, r, clock) for n, r in sizes if not settings.match and not settings.only_tests]
    if not clock.simulated:
        print(f"compiling ahead for {len(jobs)} cases", flush=True)
        compile_ahead([(case, op, precision) for precision, op, (_, case) in jobs])
    for precision, op, (name, case) in jobs:
        start = time.perf_counter()
        if start - began > settings.limit:
            print(f"stopped after {settings.limit:.0f} s, with {len(rows)} rows measured")
            break
        rows.append(measured(name, case, op, precision, clock))
        rows[-1]["took"] = round(time.perf_counter() - start, 2)
        keep()
    report(rows)
    took = overhead(clock)
    print(f"a call of the smallest layer takes {took * 1e6:.1f} µs on the host")
    found["overhead"] = took
    keep()
    print(f"written to {file}")
    return 1 if found["tests"].get("failed") or any(row.get("wrong") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
