"""What `upfirdn` and `resample_poly` take lines to be beyond their ends, sample by sample; the names are those of numbaconv.signal."""

from __future__ import annotations

from numbaconv.nopython import _boundary
from numbaconv.nopython._boundary import source
from numbaconv.nopython._compile import helper

CONSTANT, SYMMETRIC, REFLECT, EDGE, WRAP = _boundary.CONSTANT, _boundary.REFLECT, _boundary.MIRROR, _boundary.NEAREST, _boundary.WRAP
SMOOTH, LINE, ANTISYMMETRIC, ANTIREFLECT = range(10, 14)
MODES = {
    "constant": CONSTANT, "symmetric": SYMMETRIC, "reflect": REFLECT, "edge": EDGE, "wrap": WRAP,
    "smooth": SMOOTH, "line": LINE, "antisymmetric": ANTISYMMETRIC, "antireflect": ANTIREFLECT,
}  # fmt: skip


@helper
def sample(line, first, n, i, mode, value):  # type: ignore[no-untyped-def]
    """Return what stands at place i of n samples that begin at line[first], for a place that is none of theirs."""
    last = n - 1
    if mode < SMOOTH:
        at = source(i, n, mode)
        return line[first + at] if at >= 0 else value
    if mode == ANTISYMMETRIC:
        rest = i % (2 * n)
        there = line[first + (rest if rest < n else 2 * n - 1 - rest)]
        return -there if i // n % 2 else there
    near, far = (0, last) if i < 0 else (last, 0)
    here = line[first + near]
    if last == 0:
        return here
    beyond = i if i < 0 else i - last
    if mode == LINE:
        return here + (line[first + last] - line[first]) * beyond / last
    if mode == SMOOTH:
        return here + (line[first + 1] - here if i < 0 else here - line[first + last - 1]) * beyond
    # Reflected in the end: each turn adds twice the difference of the ends.
    turns = abs(beyond) // (2 * last)
    rest = abs(beyond) - turns * 2 * last
    if rest > last:
        step, turns, sign = 2 * last - rest, turns + 1, -1
    else:
        step, sign = rest, 1
    mirrored = line[first + (step if i < 0 else last - step)]
    return here + (here - line[first + far]) * (2 * turns) + (here - mirrored) * sign
