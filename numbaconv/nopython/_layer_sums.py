"""The sums of layers in nopython code: Σ w · x · y over the products that the geometry allows, with one of the three left out.

Arrays are flat, with sizes as tuples of five: (N, C, D, H, W), (K, C/groups, T, R, S) and (N, K, Z, P, Q), in this order whatever the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numbaconv._jit import unsigned
from numbaconv.cpu.bias import activate
from numbaconv.nopython._compile import family, helper, kernel


@helper
def overlap(n, step, offset, outputs):  # type: ignore[no-untyped-def]
    """Return the first o and the one behind the last for which 0 ≤ o·step + offset < n."""
    return max(0, (step - 1 - offset) // step), max(0, min(outputs, (n - offset + step - 1) // step))


@helper
def steps(size, last):  # type: ignore[no-untyped-def]
    """Return how far apart neighbours on each of five axes are; the channels may be the last axis in memory."""
    _, C, D, H, W = size
    if last:
        return C * D * H * W, 1, C * H * W, C * W, C
    return C * D * H * W, D * H * W, H * W, W, 1


@helper
def itself(value):  # type: ignore[no-untyped-def]
    """Return the value."""
    return value


@helper
def conjugated(value):  # type: ignore[no-untyped-def]
    """Return the conjugate."""
    return value.conjugate()


def adding(result: str, conjugate: str) -> Any:
    """Make a function of a tap and of count elements of x and y from at and row on, which adds to one of the three; another is conjugated."""
    of_x, of_w, of_y = (conjugated if name == conjugate else itself for name in "xwy")

    def add_to_y(x, at, step, w, tap, y, row, stride, count):  # type: ignore[no-untyped-def]
        value = of_w(w[tap])
        if step == 1 and stride == 1:
            for o in range(count):
                y[unsigned(row + o)] += value * x[unsigned(at + o)]
        else:
            for o in range(count):
                y[unsigned(row + o * stride)] += value * x[unsigned(at + o * step)]

    def add_to_x(x, at, step, w, tap, y, row, stride, count):  # type: ignore[no-untyped-def]
        value = of_w(w[tap])
        if step == 1 and stride == 1:
            for o in range(count):
                x[unsigned(at + o)] += value * y[unsigned(row + o)]
        else:
            for o in range(count):
                x[unsigned(at + o * step)] += value * y[unsigned(row + o * stride)]

    def add_to_w(x, at, step, w, tap, y, row, stride, count):  # type: ignore[no-untyped-def]
        total = w.dtype.type(0)
        for o in range(count):
            total += of_y(y[unsigned(row + o * stride)]) * of_x(x[unsigned(at + o * step)])
        w[tap] += total

    return helper({"x": add_to_x, "w": add_to_w, "y": add_to_y}[result])


@family
def sums_in(result: str, conjugate: str) -> Callable[..., Any]:
    """Make the kernel that adds to x, w or y what the products of the other two give, of which one is conjugated if its name is given."""
    add = adding(result, conjugate)

    def add_products(x, x_size, w, w_size, y, y_size, stride, dilation, low, groups, last):  # type: ignore[no-untyped-def]
        # THE ALGORITHM: y[n,k,o] += Σ_c Σ_r w[k,c,r] · x[n,c,o·stride + r·dilation − low], or its adjoint in x or w.
        # THE SCHEDULE: a row of y and a tap at a time, in order.
        N, C, D, H, W = x_size
        K, per_group, T, R, S = w_size
        _, _, Z, P, Q = y_size
        xN, xC, xD, xH, xW = steps(x_size, last)
        yN, yK, yZ, yP, yQ = steps(y_size, last)
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
                line, to = n * xN + (first + c) * xC + d * xD + h * xH, n * yN + k * yK + z * yZ + p * yP
                for s in range(S):
                    offset = s * dilation[2] - low[2]
                    begin, end = overlap(W, stride[2], offset, Q)
                    at = line + (offset + begin * stride[2]) * xW
                    add(x, at, stride[2] * xW, w, (k * per_group * T * R + tap) * S + s, y, to + begin * yQ, yQ, end - begin)

    return add_products


@kernel
def fill_channels(y, y_size, bias, last):  # type: ignore[no-untyped-def]
    """Fill y with one number for each of its channels, or with zeros if there are none."""
    N, K, Z, P, Q = y_size
    if bias.size not in (0, K):
        raise ValueError("bias must have one value per output channel")
    inner = 1 if last else Z * P * Q
    for j in range(y.size):
        y[j] = bias[j // inner % K] if bias.size else y.dtype.type(0)


@kernel
def add_up(dy, y_size, out, last):  # type: ignore[no-untyped-def]
    """Overwrite out[k] = Σ dy[:, k]."""
    N, K, Z, P, Q = y_size
    inner, outer = (1, N * Z * P * Q) if last else (Z * P * Q, N)
    for k in range(K):
        out[k] = 0
    for line in range(outer * K):
        total = dy.dtype.type(0)
        for j in range(inner):
            total += dy[line * inner + j]
        out[line % K] += total


@kernel
def activate_all(y, code):  # type: ignore[no-untyped-def]
    """Apply an activation to all of y."""
    activate(y, 0, y.size, code)
