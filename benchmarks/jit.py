"""scipy.signal in nopython code beside what else there is, and what it costs: ``python -m benchmarks.jit``.

Loops over signals beside a Python loop over SciPy, numpy.convolve beside Numba's own, the first compile of a user's function in a fresh
process with and without kernels in the cache, and what everybody pays who has numbaconv installed. Bars are those of the issue.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.alternate import duration, markdown, medians

FIRST = """
import time
import numpy as np
import scipy.signal
import numba
import numbaconv.jit
numba.njit(lambda x: x + 1)(1.0)  # Numba's own first compile
x, h = np.ones(256), np.ones(31)
smooth = numba.njit(lambda x, h: scipy.signal.convolve(x, h, {options}))
start = time.perf_counter()
smooth(x, h)
print(time.perf_counter() - start)
"""
ENTRY = """
import time
import numba
import numpy
{imports}
numba.core.entrypoints._already_initialized = True
start = time.perf_counter()
from numbaconv._extension import register
register()
print(time.perf_counter() - start)
"""


def loops(signals: int, samples: int, taps: int) -> dict[str, Callable[[], Any]]:
    """Return a loop over signals in nopython code, parallel and not, and a Python loop over SciPy."""
    import numba
    import scipy.signal

    import numbaconv.jit  # noqa: F401

    rng = np.random.default_rng(0)
    xs, h = rng.standard_normal((signals, samples)), rng.standard_normal(taps)

    def body(xs: Any, h: Any) -> Any:
        out = np.empty_like(xs)
        for i in numba.prange(len(xs)):
            out[i] = scipy.signal.convolve(xs[i], h, "same")
        return out

    parallel, serial = numba.njit(body, parallel=True), numba.njit(body)
    by_scipy = [scipy.signal.convolve(x, h, "same") for x in xs]
    for function in (parallel, serial):
        np.testing.assert_allclose(function(xs, h), by_scipy, atol=1e-12)
    return {
        "parallel loop": lambda: parallel(xs, h),
        "loop": lambda: serial(xs, h),
        "Python loop over SciPy": lambda: [scipy.signal.convolve(x, h, "same") for x in xs],
    }


def numpys(size: int, taps: int, dtype: str) -> dict[str, Callable[[], Any]]:
    """Return numpy.convolve in nopython code by Numba and after `numbaconv.jit.accelerate_numpy`."""
    import numba

    import numbaconv.jit

    rng = np.random.default_rng(0)
    x, h = rng.standard_normal(size).astype(dtype), rng.standard_normal(taps).astype(dtype)
    own = numba.njit(lambda x, h: _before(x, h))
    numbaconv.jit.accelerate_numpy()
    fast = numba.njit(lambda x, h: np.convolve(x, h))
    np.testing.assert_allclose(fast(x, h), own(x, h), atol=1e-3)
    return {"after accelerate_numpy": lambda: fast(x, h), "Numba's own": lambda: own(x, h), "NumPy": lambda: np.convolve(x, h)}


def _before(x: Any, h: Any) -> Any:
    raise AssertionError("for compiled code alone")


def _register_numbas_own() -> None:
    """Give `_before` the body of Numba's own numpy.convolve, which is not to be had once it has been replaced."""
    from numba.extending import overload, register_jitable
    from numba.np.arraymath import np_convolve

    def own(x, h):  # type: ignore[no-untyped-def]
        body = register_jitable(np_convolve(x, h))
        return lambda x, h: body(x, h)

    overload(_before)(own)


def fresh(code: str, cache: str) -> float:
    """Return the seconds that a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBACONV_CACHE_DIR": cache}, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jit", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each comparison")
    parser.add_argument("--signals", type=int, default=1000)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3, help="processes for each figure of a first call; 0 for none")
    options = parser.parse_args(arguments)
    _register_numbas_own()
    rows = []
    comparisons = [(f"{options.signals} signals of 256 samples, 31 taps", loops(options.signals, 256, 31), "≥ 10×")]
    comparisons += [(f"np.convolve {options.size} × 101 {dtype}", numpys(options.size, 101, dtype), "≥ 3×") for dtype in ("float32", "float64")]
    for title, functions, bar in comparisons:
        times = medians(functions, options.seconds)
        (ours, best), *others = times.items()
        rows += [[f"{title}: {ours}", duration(best), ""], *([f"… {name}", duration(t), f"{t / best:.1f}×"] for name, t in others)]
        rows[-1 - (others[-1][0] == "NumPy")][2] += f", bar {bar}"
    print(markdown(("what", "time", "ratio"), rows))
    if options.repeat:
        print("", _first_calls(options.repeat), sep="\n")


def _first_calls(repeat: int) -> str:
    rows = []
    for title, literals in (("convolve(x, h)", ""), ('convolve(x, h, "same", "direct")', '"same", "direct"')):
        code, cold, warm = FIRST.format(options=literals), [], []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(fresh(code, folder))
                warm.append(fresh(code, folder))
        rows.append([f"first call of {title}", duration(min(cold)), duration(min(warm))])
    with tempfile.TemporaryDirectory() as folder:
        for title, imports in (
            ("the entry point, for everybody", ""),
            ("… where scipy.signal and scipy.ndimage are imported, for other uses", "import scipy.signal, scipy.ndimage"),
        ):
            cost = min(fresh(ENTRY.format(imports=imports), folder) for _ in range(repeat))
            rows.append([title, duration(cost), duration(cost)])
    return markdown(("what", "kernels compiled", "kernels in the cache"), rows)


if __name__ == "__main__":
    main()
