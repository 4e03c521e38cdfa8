"""Fit the shipped coefficients of the cost models: ``python -m benchmarks.calibrate``, after a change of kernels, on a quiet machine.

It is `numbaconv.tuning` with more time. It prints the SECONDS of every algorithm, how far the fit is off, and how often the
cheaper estimate is the faster algorithm; what it finds is written into numbaconv/cpu/_seconds.py by hand.
"""

from __future__ import annotations

import argparse

import numpy as np

import numbaconv as nc
from numbaconv import tuning
from numbaconv.plan import room


def main(arguments: list[str] | None = None) -> None:
    """Print SECONDS of every algorithm of the CPU room."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which no more cases are timed")
    parser.add_argument("--seconds", type=float, default=0.15, help="of each timing")
    options = parser.parse_args(arguments)
    with nc.num_threads(1):
        report = tuning.tune(room("cpu"), options.limit, options.seconds)
    for name, seconds in report.seconds.items():
        print(f"{name}: " + ", ".join(f'"{key}": {value:.2g}' for key, value in seconds.items()))
        if off := report.off[name]:
            print(f"  off by a factor of {np.median(off):.2f} (median), {np.quantile(off, 0.9):.2f} (9 in 10)")
        else:
            print("  not timed: as before")
    for when, losses in (("before", report.losses_before), ("now", report.losses)):
        within = np.mean(np.array(losses) <= 1.1)
        print(f"{when}: chosen within 10 % of the best in {within:.0%} of {len(losses)} cases; worst {max(losses):.2f} ×")


if __name__ == "__main__":
    main()
