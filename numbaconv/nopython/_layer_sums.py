"""The sums of layers in nopython code: Σ w · x · y over the products that the geometry allows, with one of the three left out.

Arrays are flat, with sizes as tuples of five: (N, C, D, H, W), (K, C/groups, T, R, S) and (N, K, Z, P, Q).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numbaconv._jit import unsigned
from numbaconv.nopython._compile import family, helper, kernel


@helper
def overlap(n, step, offset, outputs):  # type: ignore[no-untyped-def]
    """Return the first o and the one behind the last for which 0 ≤ o·step + offset < n."""
    return max(0, (step - 1 - offset) // step), max(0, min(outputs, (n - offset + step - 1) // step))


# For a tap and the outputs o = begin … end − 1 of a row of y, which meet x at at + o·step.


@helper
def add_to_y(x, at, step, w, tap, y, row, begin, end):  # type: ignore[no-untyped-def]
    """Add w · x to the outputs."""
    value = w[tap]
    if step == 1:
        for o in range(begin, end):
            y[unsigned(row + o)] += value * x[unsigned(at + o)]
    else:
        for o in range(begin, end):
            y[unsigned(row + o)] += value * x[unsigned(at + o * step)]


@helper
def add_to_x(x, at, step, w, tap, y, row, begin, end):  # type: ignore[no-untyped-def]
    """Add conj(w) · y to the inputs."""
    value = w[tap].conjugate()
    if step == 1:
        for o in range(begin, end):
            x[unsigned(at + o)] += value * y[unsigned(row + o)]
    else:
        for o in range(begin, end):
            x[unsigned(at + o * step)] += value * y[unsigned(row + o)]


@helper
def add_to_w(x, at, step, w, tap, y, row, begin, end):  # type: ignore[no-untyped-def]
    """Add Σ conj(x) · y to the tap."""
    total = w.dtype.type(0)
    for o in range(begin, end):
        total += y[unsigned(row + o)] * x[unsigned(at + o * step)].conjugate()
    w[tap] += total


ADD = {"x": add_to_x, "w": add_to_w, "y": add_to_y}


@family
def sums_in(result: str) -> Callable[..., Any]:
    """Make the kernel that adds to x, w or y what the products of the other two give."""
    add = ADD[result]

    def add_products(x, x_size, w, w_size, y, y_size, stride, dilation, low, groups):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,o] += Σ_c Σ_r w[k,c,r] · x[n,c,o·stride + r·dilation − low], or its adjoint in x or w.
        # THE SCHEDULE: a row of y and a tap at a time, in order.
        N, C, D, H, W = x_size
        K, per_group, T, R, S = w_size
        _, _, Z, P, Q = y_size
        for row in range(N * K * Z * P):
            rest, p = row // P, row % P
            rest, z = rest // Z, rest % Z
            n, k = rest // K, rest % K
            first = k // (K // groups) * per_group
            for tap in range(per_group * T * R):
                rest, r = tap // R, tap % R
                c, t = rest // T, rest % T
                d, h = z * stride[0] + t * dilation[0] - low[0], p * stride[1] + r * dilation[1] - low[1]
                if d < 0 or d >= D or h < 0 or h >= H:
                    continue
                line = (((n * C + first + c) * D + d) * H + h) * W
                for s in range(S):
                    offset = s * dilation[2] - low[2]
                    begin, end = overlap(W, stride[2], offset, Q)
                    add(x, line + offset, stride[2], w, (k * per_group * T * R + tap) * S + s, y, row * Q, begin, end)

    return add_products


@kernel
def fill_channels(y, y_size, bias):  # type: ignore[no-untyped-def]
    """Fill y with one number for each of its channels, or with zeros if there are none."""
    N, K, Z, P, Q = y_size
    pixels = Z * P * Q
    if bias.size not in (0, K):
        raise ValueError("bias must have one value per output channel")
    for plane in range(N * K):
        value = bias[plane % K] if bias.size else y.dtype.type(0)
        for j in range(pixels):
            y[plane * pixels + j] = value


@kernel
def add_up(dy, y_size, out):  # type: ignore[no-untyped-def]
    """Overwrite out[k] = Σ dy[:, k]."""
    N, K, Z, P, Q = y_size
    pixels = Z * P * Q
    for k in range(K):
        out[k] = 0
    for plane in range(N * K):
        total = dy.dtype.type(0)
        for j in range(pixels):
            total += dy[plane * pixels + j]
        out[plane % K] += total
