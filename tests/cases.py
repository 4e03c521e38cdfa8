"""The problems that the tests share: named cases, each with the reason why it is there, and random ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import numbaconv as nc
from numbaconv import reference
from numbaconv.cpu import stencil
from numbaconv.problem import LAYOUTS, ConvProblem, Op, Options
from numbaconv.recipe import TENSORS

FLOATS = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MODES = ("full", "same", "valid")  # of the functions of `signal`
COMPUTED = (*FLOATS, *COMPLEX, *INTEGERS)


@dataclass(frozen=True)
class Case:
    """A call of a layer function, by shapes and options."""

    name: str
    reason: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    transposed: bool = False

    @property
    def rank(self) -> int:
        """1, 2 or 3."""
        return len(self.w) - 2

    @property
    def function(self) -> str:
        """Name of the forward function."""
        return f"conv{'_transpose' * self.transposed}{self.rank}d"

    @property
    def problem(self) -> ConvProblem:
        """Its geometry."""
        options = dict(self.options)
        channels_last = options.pop("layout", None) == LAYOUTS[self.rank][1]
        make = ConvProblem.from_transposed_shapes if self.transposed else ConvProblem.from_shapes
        x = self.x if len(self.x) == self.rank + 2 else (1, *self.x)
        return make(x, self.w, rank=self.rank, channels_last=channels_last, **options)


NAMED = (
    Case("one", "the smallest problem there is", (1, 1, 1), (1, 1, 1)),
    Case("pointwise", "1×1 filters are a plain matrix product", (2, 5, 4, 3), (7, 5, 1, 1)),
    Case("textbook", "3×3, same size", (2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1}),
    Case("whole", "the filter covers all of the input: one output", (2, 3, 5, 4), (2, 3, 5, 4)),
    Case("stem", "few channels, large filter, stride 2", (1, 3, 19, 17), (8, 3, 7, 7), {"stride": 2, "padding": 3}),
    Case("stride-over-filter", "input is left out between the filters, and dgrad has gaps", (2, 2, 11, 10), (3, 2, 2, 1), {"stride": (3, 4)}),
    Case("strided-pointwise", "1×1 with stride, as in a shortcut of a ResNet", (2, 4, 8, 7), (6, 4, 1, 1), {"stride": 2}),
    Case("left-over", "the stride does not divide the input: its end is never read", (1, 2, 12), (2, 2, 3), {"stride": 5}),
    Case("dilated", "à trous", (1, 2, 12, 11), (3, 2, 3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
    Case("dilated-strided", "common factors of stride and dilation", (1, 2, 20), (3, 2, 4), {"dilation": 4, "stride": 6, "padding": 5}),
    Case("depthwise", "one filter per channel", (2, 6, 7, 7), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
    Case("multiplier", "depthwise with two filters per channel", (2, 3, 7, 7), (6, 1, 3, 3), {"groups": 3}),
    Case("grouped", "groups with odd channel counts", (2, 6, 5, 6), (9, 2, 3, 2), {"groups": 3, "padding": (1, 0)}),
    Case("five-filters", "one more than a tile of channels", (1, 3, 9), (5, 3, 3)),
    Case("asymmetric", "causal padding", (2, 2, 9), (3, 2, 4), {"padding": ((3, 0),)}),
    Case("asymmetric-2d", "four different sides", (1, 2, 5, 6), (2, 2, 3, 3), {"padding": ((1, 2), (0, 3))}),
    Case("wide-padding", "outputs that see padding alone", (1, 2, 3, 4), (2, 2, 2, 3), {"padding": 5}),
    Case("cropped", "negative padding", (1, 2, 9, 8), (2, 2, 3, 2), {"padding": ((-2, 1), (1, -3))}),
    Case("cropped-strided", "negative padding, stride", (1, 2, 14), (2, 2, 3), {"padding": ((-3, -2),), "stride": 2}),
    Case("same-even", "an even filter: odd padding", (1, 2, 7, 8), (3, 2, 4, 2), {"padding": "same"}),
    Case("same-strided", "padding that depends on size and stride", (1, 2, 7, 8), (3, 2, 3, 4), {"padding": "same", "stride": (3, 2)}),
    Case("same-lower", "the odd zero goes first", (1, 2, 8), (3, 2, 4), {"padding": "same_lower"}),
    Case("valid", "a name for no padding", (1, 2, 8), (3, 2, 4), {"padding": "valid", "stride": 2}),
    Case("volume", "three axes that all differ", (2, 2, 4, 5, 6), (3, 2, 2, 3, 1), {"stride": (1, 2, 3), "padding": (1, 0, 2)}),
    Case("thin-volume", "flat along two axes", (1, 2, 1, 1, 9), (2, 2, 1, 1, 3)),
    Case("thin-in-padding", "flat, and all of it padding", (2, 3, 1, 5, 4), (2, 3, 1, 2, 2), {"stride": (3, 1, 1), "padding": (1, 0, 0)}),
    Case("row-of-tiles", "rows longer than a tile of outputs", (1, 2, 700), (3, 2, 5), {"padding": 2}),
    Case("row-of-tiles-strided", "the same with stride and dilation", (1, 2, 1500), (5, 2, 3), {"stride": 2, "dilation": 3}),
    Case("many-taps", "more taps than a tile of taps, more terms than a chunk", (1, 2, 150), (3, 2, 100)),
    Case("many-channels", "more terms than two chunks", (2, 100, 6, 5), (9, 100, 3, 3), {"padding": 1}),
    Case("many-filters", "K much larger than C", (1, 2, 6, 6), (70, 2, 3, 3)),
    Case("long-batch", "many small images", (37, 2, 4, 4), (3, 2, 3, 3)),
    Case("no-images", "an empty batch", (0, 3, 6, 5), (4, 3, 3, 3)),
    Case("no-input-channels", "a sum of nothing is zero", (2, 0, 5, 4), (3, 0, 2, 2)),
    Case("no-filters", "an empty output", (2, 3, 5, 4), (0, 3, 2, 2)),
    Case("no-pixels", "an empty input, but for its padding", (2, 3, 0, 4), (4, 3, 1, 2), {"padding": (1, 0)}),
    Case("unbatched", "one sample without the batch axis", (3, 8, 7), (4, 3, 3, 3)),
    Case("last", "channels last", (2, 6, 5, 3), (4, 3, 3, 3), {"layout": "NHWC", "padding": 1}),
    Case("last-grouped", "channels last in groups", (2, 7, 6, 6), (9, 2, 3, 2), {"layout": "NHWC", "groups": 3, "stride": 2}),
    Case("last-depthwise", "channels last, each by itself", (1, 7, 6, 5), (5, 1, 3, 3), {"layout": "NHWC", "groups": 5}),
    Case("last-1d", "channels last in 1-D", (2, 11, 3), (4, 3, 4), {"layout": "NWC", "dilation": 2}),
    Case("last-3d", "channels last in 3-D", (1, 4, 5, 6, 2), (3, 2, 2, 2, 3), {"layout": "NDHWC"}),
    Case("last-unbatched", "one sample, channels last", (6, 5, 3), (4, 3, 3, 3), {"layout": "NHWC"}),
    Case("up", "transposed, stride 2: the usual upsampling", (2, 3, 5, 4), (3, 4, 4, 4), {"stride": 2, "padding": 1}, True),
    Case("up-extra", "output_padding adds rows that few inputs reach", (1, 3, 5, 4), (3, 2, 3, 2), {"stride": 3, "output_padding": (2, 1)}, True),
    Case("up-grouped", "transposed in groups, dilated", (2, 4, 5), (4, 3, 3), {"groups": 2, "dilation": 2, "padding": 1}, True),
    Case("up-holes", "stride over filter: outputs that no input reaches", (1, 2, 4, 5), (2, 3, 2, 1), {"stride": (3, 4)}, True),
    Case("up-same", "output = input · stride", (1, 2, 6, 5), (2, 3, 4, 3), {"stride": 2, "padding": "same"}, True),
    Case("up-asymmetric", "different sides", (1, 2, 6), (2, 3, 4), {"stride": 2, "padding": ((0, 3),)}, True),
    Case("up-negative", "negative padding adds zeros", (1, 2, 6), (2, 3, 3), {"stride": 2, "padding": ((-2, -1),)}, True),
    Case("up-last", "transposed, channels last", (2, 5, 4, 3), (3, 4, 3, 3), {"stride": 2, "layout": "NHWC"}, True),
    Case("up-3d", "transposed in 3-D", (1, 2, 3, 2, 3), (2, 3, 2, 3, 2), {"stride": (2, 1, 3)}, True),
    Case("up-1d-unbatched", "transposed, one sample", (3, 7), (3, 2, 4), {"stride": 3}, True),
)


def random_case(rng: np.random.Generator, transposed: bool | None = None, largest: int = 9) -> Case:
    """Return a call that some user could make; the output is at least 1 on each axis."""
    while True:
        rank, groups = int(rng.integers(1, 4)), int(rng.choice([1, 1, 1, 2, 3]))
        up = bool(rng.integers(2)) if transposed is None else transposed
        per_c, per_k = (int(v) for v in rng.integers(1, 6, 2))
        batch = int(rng.integers(0, 4)) if rng.random() < 0.1 else int(rng.integers(1, 4))
        size = [int(v) for v in rng.integers(1, largest + (3 - rank) * 5, rank)]
        taps, stride, dilation = ([int(v) for v in rng.integers(1, high, rank)] for high in (5, 5, 4))
        options: dict[str, Any] = {"stride": tuple(stride), "dilation": tuple(dilation), "groups": groups}
        choice = rng.integers(6)
        if choice < 2:
            options["padding"] = tuple(int(v) for v in rng.integers(0, 5, rank))
        elif choice < 4:
            options["padding"] = tuple((int(lo), int(hi)) for lo, hi in rng.integers(-3, 5, (rank, 2)))
        else:
            options["padding"] = str(rng.choice(["same", "same_lower", "valid"]))
        if up and rng.random() < 0.5:
            options["output_padding"] = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
        last = bool(rng.integers(2))
        options["layout"] = LAYOUTS[rank][last]
        x = (batch, *size, groups * per_c) if last else (batch, groups * per_c, *size)
        if rng.random() < 0.2:
            x = x[1:]
        w = (groups * per_c, per_k, *taps) if up else (groups * per_k, per_c, *taps)
        case = Case("random", "", x, w, options, up)
        try:
            case.problem  # noqa: B018
        except ValueError:
            continue
        return case


def random_problem(rng: np.random.Generator, generic: bool = False, largest: int = 8) -> ConvProblem:
    """Return a small random geometry; a ``generic`` one also dilates its input and flips its taps, as no layer does."""

    def triple(low: int, high: int) -> tuple[int, int, int]:
        a, b, c = (int(v) for v in rng.integers(low, high, 3))
        return a, b, c

    rank = int(rng.integers(1, 4))
    keep = [axis >= 3 - rank for axis in range(3)]

    def masked(values: tuple[int, int, int], fill: int) -> tuple[int, int, int]:
        a, b, c = (v if k else fill for v, k in zip(values, keep, strict=True))
        return a, b, c

    groups = int(rng.choice([1, 1, 1, 2, 3]))
    longer = largest + 4 * (3 - rank)
    taps, dilation = masked(triple(1, 5), 1), masked(triple(1, 4), 1)
    u = masked(triple(1, 4), 1) if generic else (1, 1, 1)
    low = tuple(int(rng.integers(-3, (r - 1) * d + 3)) for r, d in zip(taps, dilation, strict=True))
    batch = 0 if rng.random() < 0.03 else int(rng.integers(1, 4))
    return ConvProblem(
        batch, groups * int(rng.integers(1, 6)), groups * int(rng.integers(1, 10)), groups,
        masked(triple(1, longer), 1), taps, masked(triple(1, longer), 1), masked(triple(1, 5), 1), dilation, u,
        masked(low, 0), generic and bool(rng.integers(2)), bool(rng.integers(2)), rank,
    )  # type: ignore[arg-type]  # fmt: skip


def fill(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator, kind: str = "integers") -> np.ndarray[Any, Any]:
    """Return an array of small integers (exact in every dtype), of normal deviates ("signed") or of values in [0, 1) ("positive")."""
    dtype = np.dtype(dtype)

    def part() -> np.ndarray[Any, Any]:
        if kind == "integers":
            return rng.integers(0, 7, shape) - 3 * (dtype.kind != "u")
        return rng.standard_normal(shape) if kind == "signed" else rng.random(shape)

    values = part()
    return (values + 1j * part()).astype(dtype) if dtype.kind == "c" else values.astype(dtype)


def two_shapes(rng: np.random.Generator, rank: int, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return two shapes for `signal`, of which often one is at least as large as the other on every axis."""
    first, second = rng.integers(1, most, rank), rng.integers(1, most, rank)
    if rng.random() < 0.6:
        first, second = np.maximum(first, second), np.minimum(first, second)
    pair = tuple(map(int, first)), tuple(map(int, second))
    return pair if rng.random() < 0.7 else pair[::-1]


def operands(problem: ConvProblem, op: Op, dtype: Any, rng: np.random.Generator, kind: str = "integers") -> tuple[Any, Any]:
    """Return the two arrays that ``op`` reads."""
    a, b, _ = TENSORS[op]
    return fill(problem.shape(a), dtype, rng, kind), fill(problem.shape(b), dtype, rng, kind)


def poisoned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array that shows what was not written: NaN, or integers of 0xFF bytes."""
    out = np.empty(shape, dtype)
    out.reshape(-1).view(np.uint8)[:] = 0xFF
    return out


def to_gpu(array: Any) -> Any:
    """Return an array, or None, where the kernels of the GPU room read it."""
    from numbaconv.cuda import calls

    return None if array is None else calls.ready(array, array.dtype)


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """Return an array of the GPU room as NumPy's."""
    return array if isinstance(array, np.ndarray) else array.get()


def on_gpu(run: Any, problem: ConvProblem, op: Op, a: Any, b: Any, out: Any, options: Options | None = None) -> np.ndarray[Any, Any]:
    """Return what an algorithm of the GPU room makes of arrays in memory; ``out`` says what the result is filled with before."""
    options = options or Options()
    result = to_gpu(out)
    run(problem, op, to_gpu(a), to_gpu(b), result, replace(options, bias=to_gpu(options.bias)))
    return to_host(result)


def exact_sum(problem: ConvProblem, op: Op, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the sum in a wider dtype than that of the arrays: float64 for 32 bits and less, extended precision for 64.

    Complex sums are put together from four real ones: NumPy's einsum of clongdouble corrupts memory (seen with 2.4.6).
    """
    wide = np.longdouble if a.dtype.itemsize // (1 + (a.dtype.kind == "c")) == 8 else np.float64
    if a.dtype.kind != "c":
        return reference.run(problem, op, a.astype(wide), b.astype(wide))
    (ar, ai), (br, bi) = ((t.real.astype(wide), t.imag.astype(wide)) for t in (a, b))
    real = reference.run(problem, op, ar, br) - reference.run(problem, op, ai, bi)
    return real + 1j * (reference.run(problem, op, ar, bi) + reference.run(problem, op, ai, br))


def check_stencil(p: ConvProblem, rng: np.random.Generator, dtype: Any = np.float32, ops: tuple[Op, ...] = ("fprop", "dgrad")) -> None:
    """Compare `stencil` with the reference on small integers, whose sums are exact, with one thread and three."""
    x, w, dy = (rng.integers(-4, 5, p.shape(t)).astype(dtype) for t in ("x", "w", "y"))
    for op in ops:
        a, b = {"fprop": (x, w), "dgrad": (dy, w), "wgrad": (dy, x)}[op]
        expected = reference.run(p, op, a, b)
        for threads in (1, 3):
            with nc.num_threads(threads):
                out = np.full(expected.shape, np.nan, dtype)
                stencil.run(p, op, a, b, out, Options())
                np.testing.assert_array_equal(out, expected, err_msg=f"{op} {p}")


def check_stencil_not_finite(p: ConvProblem, rng: np.random.Generator, ops: tuple[Op, ...] = ("fprop",)) -> None:
    """NaN and infinity reach the results that meet them and no others; padding times infinity is no term of any sum."""
    x, w, dy = (rng.integers(-3, 4, p.shape(t)).astype(np.float32) for t in ("x", "w", "y"))
    for op in ops:
        a, b = {"fprop": (x, w), "dgrad": (dy, w), "wgrad": (dy, x)}[op]
        for which, value in ((a, np.nan), (a, np.inf), (b, -np.inf), (b, np.nan)):
            before = which.flat[4]
            which.flat[4] = value
            expected = reference.run(p, op, a, b)
            out = np.full(expected.shape, 7, np.float32)
            stencil.run(p, op, a, b, out, Options())
            np.testing.assert_array_equal(out, expected, err_msg=f"{op} {p}")
            which.flat[4] = before
