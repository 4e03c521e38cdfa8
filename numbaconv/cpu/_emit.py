"""How kernels emit LLVM vector code: functions of vector instructions for compiled code to call.

LLVM's own vectoriser spills a register tile; written as vectors and phi nodes it runs at the speed of the FMA units.
"""

from __future__ import annotations

import functools
import inspect
import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbaconv.arrays import CACHE_LINE
from numbaconv.cpu._isa import Isa, features, widest

I64, I32, I8, I1, VOID = (*(ir.IntType(bits) for bits in (64, 32, 8, 1)), ir.VoidType())


class Vectors:
    """Writes loads, stores and arithmetic on vectors of one type into a function that is being generated."""

    def __init__(self, builder: Any, isa: Isa, dtype: np.dtype[Any]) -> None:
        self.builder, self.isa, self.width, self.size = builder, isa, isa.width(dtype), dtype.itemsize
        # Of another CPU's vectors, which tests force here, LLVM makes those that there are, but not of masks in registers.
        self.masks = "instruction" if isa.masks == "registers" != widest().masks else isa.masks
        self.scalar = ir.FloatType() if dtype == np.float32 else ir.DoubleType()
        self.type, self.bits = ir.VectorType(self.scalar, self.width), ir.VectorType(I1, self.width)
        self.suffix = f"v{self.width}{'f32' if dtype == np.float32 else 'f64'}"
        self.zero, self.none = self.constant(0.0), ir.Constant(self.bits, [0] * self.width)

    def constant(self, value: float) -> Any:
        """Return a vector of one number."""
        return ir.Constant(self.type, [ir.Constant(self.scalar, value)] * self.width)

    def at(self, pointer: Any, *terms: Any) -> Any:
        """Return the pointer moved by a sum of products of integers, each a value, a number or a pair of them to multiply."""
        total = I64(0)
        for term in terms:
            factors = term if isinstance(term, tuple) else (term,)
            value, *others = (I64(factor) if isinstance(factor, int) else factor for factor in factors)
            for other in others:
                value = self.builder.mul(value, other)
            total = self.builder.add(total, value)
        return self.builder.gep(pointer, [total])

    def load(self, pointer: Any, v: int = 0, mask: Any = None, others: Any = None) -> Any:
        """Load the v-th vector behind a pointer that need not be aligned; lanes outside of a mask are not touched, and 0 or those of ``others``."""
        pointer = self._cast(pointer, v)
        if mask is None:
            return self.builder.load(pointer, align=self.size)
        if self.masks != "none":
            return self._load_some(pointer, mask, others)
        whole, some = lambda: [self.builder.load(pointer, align=self.size)], lambda: [self._load_some(pointer, mask, others)]
        return self.choose(self.all(mask), whole, some)[0]

    def _load_some(self, pointer: Any, mask: Any, others: Any) -> Any:
        return self.call(f"llvm.masked.load.{self.suffix}.p0", self.type, pointer, I32(self.size), mask, self.zero if others is None else others)

    def store(self, value: Any, pointer: Any, v: int = 0, mask: Any = None, bits: tuple[Any, ...] = ()) -> None:
        """Store the v-th vector behind a pointer, or its lanes in a mask, or those whose bits are set in all of some integers."""
        pointer, builder = self._cast(pointer, v), self.builder
        if mask is None and not bits:
            builder.store(value, pointer, align=self.size)
        elif self.masks == "registers":
            self._store_some(value, pointer, self.mask(*bits) if bits else mask)
        else:
            with builder.if_else(self._all_bits(bits) if bits else self.all(mask)) as (whole, otherwise):
                with whole:
                    builder.store(value, pointer, align=self.size)
                with otherwise:
                    self._store_some(value, pointer, self.mask(*bits) if bits else mask)

    def spare(self, count: int) -> Any:
        """Return a pointer to memory of ``count`` vectors on the stack, for what nobody reads."""
        return cgutils.alloca_once(self.builder, self.scalar, count * self.width)

    def streams(self) -> bool:
        """Return whether a vector is a cache line, which `store_row` can write past the caches."""
        return self.isa.vector_bytes == CACHE_LINE == widest().vector_bytes and platform.machine() in ("x86_64", "AMD64")

    def store_row(self, values: list[Any], pointer: Any, past: bool = False) -> None:
        """Store vectors side by side; ``past`` the caches only where the pointer is that of a cache line.

        A store in the caches reads a line that they do not hold before it is written. Other threads see what passed them after `settle`.
        """
        for n, value in enumerate(values):
            if past:
                stored = self.builder.store(value, self._cast(pointer, n), align=CACHE_LINE)
                stored.set_metadata("nontemporal", self.builder.module.add_metadata([I32(1)]))
            else:
                self.store(value, pointer, n)

    def settle(self) -> None:
        """Wait until memory has what passed the caches."""
        if self.streams():
            self.call("llvm.x86.sse.sfence", VOID)

    def on_line(self, pointer: Any, *elements: Any) -> Any:
        """Return whether an address and so many elements more are those of cache lines."""
        builder = self.builder
        offsets = [builder.ptrtoint(pointer, I64), *(builder.mul(count, I64(self.size)) for count in elements)]
        return builder.icmp_signed("==", builder.and_(functools.reduce(builder.or_, offsets), I64(CACHE_LINE - 1)), I64(0))

    def _all_bits(self, bits: tuple[Any, ...]) -> Any:
        full = ir.IntType(self.width)(-1)
        return self.builder.icmp_unsigned("==", self.builder.trunc(functools.reduce(self.builder.and_, bits), full.type), full)

    def _store_some(self, value: Any, pointer: Any, mask: Any) -> None:
        self.call(f"llvm.masked.store.{self.suffix}.p0", VOID, value, pointer, I32(self.size), mask)

    def _cast(self, pointer: Any, v: int) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [I64(v * self.width)]), self.type.as_pointer())

    def mask(self, *bits: Any) -> Any:
        """Return a mask of the lanes whose bits are set in all of some integers."""
        builder = self.builder
        if self.masks == "registers":
            narrow = [builder.trunc(value, ir.IntType(self.width)) for value in bits]
            return builder.bitcast(functools.reduce(builder.and_, narrow), self.bits)
        # Without registers for masks LLVM would take a mask of bits apart bit by bit.
        kind = ir.IntType(8 * self.size)
        lanes = ir.Constant(ir.VectorType(kind, self.width), [1 << lane for lane in range(self.width)])
        there = lanes
        for value in reversed(bits):
            there = builder.and_(there, self.splat(value if kind.width == value.type.width else builder.trunc(value, kind)))
        return builder.icmp_signed("==", there, lanes)

    def first(self, count: Any) -> Any:
        """Return a mask of the first ``count`` lanes: none of a negative count, all of one above the width."""
        builder, lanes = self.builder, ir.Constant(ir.VectorType(I32, self.width), list(range(self.width)))
        for bound, sign in ((I64(0), ">"), (I64(self.width), "<")):
            count = builder.select(builder.icmp_signed(sign, count, bound), count, bound)
        return builder.icmp_signed("<", lanes, self.splat(builder.trunc(count, I32)))

    def between(self, start: Any, stop: Any) -> Any:
        """Return a mask of the lanes start ≤ lane < stop."""
        return self.builder.and_(self.first(stop), self.builder.not_(self.first(start)))

    def splat(self, value: Any) -> Any:
        """Return a vector of one value."""
        undefined = ir.Constant(ir.VectorType(value.type, self.width), ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, value, I32(0)), undefined, [0] * self.width)

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Return the lanes of two vectors, those of the second counted from the width on, in the order of a list."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

    def transpose(self, rows: list[Any]) -> list[Any]:
        """Return the elements of a power of two of vectors column after column: log₂ rounds, each of which interleaves the halves of the list."""
        half, n = len(rows) // 2, self.width
        low, high = ([start + i // 2 + n * (i % 2) for i in range(n)] for start in (0, n // 2))
        for _ in range(len(rows).bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [self.shuffle(a, b, lanes) for a, b in pairs for lanes in (low, high)]
        return rows

    def sums(self, rows: list[Any]) -> Any:
        """Return a vector of the sums of ``width`` vectors' lanes."""
        even, odd = (list(range(first, 2 * self.width, 2)) for first in (0, 1))
        while len(rows) > 1:
            rows = [self.add(self.shuffle(a, b, even), self.shuffle(a, b, odd)) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    # Sums and products have a flag that says nothing of them (it is for divisions). Without any, Numba gives them those of the kernel, and LLVM would
    # reorder and contract them as it likes in each place: kernels for the pool and for Numba's threads could differ in the last bit.

    def add(self, a: Any, b: Any) -> Any:
        """Return a + b."""
        return self.builder.fadd(a, b, flags=("arcp",))

    def multiply(self, a: Any, b: Any) -> Any:
        """Return a·b."""
        return self.builder.fmul(a, b, flags=("arcp",))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a·b + c."""
        return self.call(f"llvm.fmuladd.{self.suffix}", self.type, a, b, c)

    def reads_factors(self) -> bool:
        """Return whether `fma_memory` can be had."""
        return self.isa.masks == "registers" == widest().masks and platform.machine() in ("x86_64", "AMD64")

    def rows(self, first: Any, apart: Any, valid: Any) -> list[Any]:
        """Return pointers to ROWS rows that are ``apart`` elements from each other; from ``valid`` on to the last valid one."""
        found = [first]
        for r in range(1, self.isa.rows):
            found.append(self.at(found[-1], self.builder.select(self.builder.icmp_signed("<", I64(r), valid), apart, I64(0))))
        return found

    def fma_memory(self, pointer: Any, element: int, values: list[Any], sums: list[Any]) -> list[Any]:
        """Return pointer[element] · values + sums. AVX-512's instructions read it themselves: LLVM would load it once for all of them.

        As with `here`, what follows comes after it.
        """
        llvm.initialize_native_asmparser()
        count, letter = len(sums), "s" if self.size == 4 else "d"
        place = f"{element * self.size}(${2 * count})"
        text = [f"vfmadd231p{letter} {place}{{1to{self.width}}}, ${count + n}, ${n}" for n in range(count)]
        constraints = ["=&v"] * count + ["v"] * count + ["r"] + [str(n) for n in range(count)]
        return self._assembly("; ".join(text), constraints, [*values, pointer, *sums], count)

    def _assembly(self, text: str, constraints: list[str], arguments: list[Any], count: int) -> list[Any]:
        result = self.type if count == 1 else ir.LiteralStructType([self.type] * count)
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        found = self.builder.asm(kind, text, ",".join([*constraints, "~{memory}"]), arguments, True)
        found.attributes.add("convergent")
        return [found] if count == 1 else [self.builder.extract_value(found, n) for n in range(count)]

    def lower_bound(self, relu: Any) -> Any:
        """Return what `at_least` needs for a relu if an integer is not 0, and else to change nothing."""
        zero, lowest = (ir.Constant(self.scalar, bound) for bound in (0.0, float("-inf")))
        return self.splat(self.builder.select(self.builder.icmp_signed("!=", relu, I64(0)), zero, lowest))

    def at_least(self, value: Any, bound: Any) -> Any:
        """Return the larger of both, NaN for NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", value, bound), bound, value)

    def note_strange(self, value: Any, before: Any) -> Any:
        """Return ``before``, which is all zeros at first, with NaN in the lanes in which a value is not finite."""
        return self.fma(value, self.zero, before)

    def any_strange(self, noted: Any) -> Any:
        """Return 1 if `note_strange` met a value that is not finite, else 0."""
        return self.any(self.builder.fcmp_unordered("uno", noted, self.zero))

    def compress(self, value: Any, bits: Any) -> Any:
        """Return the lanes of a mask, given by its bits (an int64), side by side."""
        if self.isa.vector_bytes == 32 and "avx2" in features():
            return self._permuted(value, bits)
        mask = self.mask(bits)
        return self.call(f"llvm.experimental.vector.compress.{self.suffix}", self.type, value, mask, ir.Constant(self.type, ir.Undefined))

    def _permuted(self, value: Any, bits: Any) -> Any:
        """Do it by a table of which lanes come first: AVX2 has no instruction for it."""
        builder, words = self.builder, self.size // 4
        bytes_, indices = ir.VectorType(I8, 8), ir.VectorType(I32, 8)
        name = f"numbaconv.compress.{self.width}"
        if name not in builder.module.globals:
            rows = []
            for mask in range(1 << self.width):
                lanes = [lane for lane in range(self.width) if mask >> lane & 1]
                lanes += [0] * (self.width - len(lanes))
                rows += [lane * words + word for lane in lanes for word in range(words)]
            table = ir.GlobalVariable(builder.module, ir.ArrayType(I8, len(rows)), name)
            table.initializer, table.global_constant, table.linkage = ir.Constant(table.type.pointee, bytearray(rows)), True, "internal"
        row = builder.mul(builder.and_(bits, I64((1 << self.width) - 1)), I64(8))
        place = builder.gep(builder.module.globals[name], [I64(0), row])
        order = builder.zext(builder.load(builder.bitcast(place, bytes_.as_pointer()), align=1), indices)
        floats = ir.VectorType(ir.FloatType(), 8)
        moved = self.call("llvm.x86.avx2.permps", floats, builder.bitcast(value, floats), order)
        return builder.bitcast(moved, self.type)

    def choose(self, condition: Any, then: Callable[[], list[Any]], otherwise: Callable[[], list[Any]]) -> list[Any]:
        """Run one of two pieces of code, and return the values that it returns."""
        found = []
        with self.builder.if_else(condition) as branches:
            for branch, code in zip(branches, (then, otherwise), strict=True):
                with branch:
                    values = code()
                    found.append((values, self.builder.block))
        phis = [self.builder.phi(value.type) for value in found[0][0]]
        for values, block in found:
            for phi, value in zip(phis, values, strict=True):
                phi.add_incoming(value, block)
        return phis

    def all(self, mask: Any) -> Any:
        """Return whether all lanes of a mask are set."""
        bits = self.builder.bitcast(mask, ir.IntType(self.width))
        return self.builder.icmp_unsigned("==", bits, bits.type(-1))

    def any(self, mask: Any) -> Any:
        """Return 1 if a lane of a mask is set, else 0."""
        bits = self.builder.bitcast(mask, ir.IntType(self.width))
        return self.builder.zext(self.builder.icmp_unsigned("!=", bits, bits.type(0)), I64)

    def nonzero(self, value: Any) -> Any:
        """Return a mask of all lanes if an integer is not 0, else of none."""
        return self.splat(self.builder.icmp_signed("!=", value, I64(0)))

    def here(self, values: list[Any]) -> list[Any]:
        """Return the values unchanged, computed before any load that follows, and not in an unrolled loop.

        LLVM would load the factors of all rows first, or unroll, and then spill accumulators: half the speed. The assembly has
        no instruction, it only takes the values through registers.
        """
        letter = {"x86_64": "v", "AMD64": "v", "aarch64": "w", "arm64": "w"}.get(platform.machine())
        if letter is None or not values or self.isa.vector_bytes > widest().vector_bytes:  # vectors of another CPU, which tests force here
            return values
        constraints = [f"={letter}"] * len(values) + [str(n) for n in range(len(values))]
        return self._assembly("", constraints, values, len(values))

    def loop(self, count: Any, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]], perhaps: bool = False) -> list[Any]:
        """Run body(k, values) → values for k below count, the values in registers, and return them: at least once, unless ``perhaps`` not."""

        def step(k: Any, values: list[Any]) -> tuple[Any, list[Any]]:
            results = body(k, values)
            return self.builder.add(k, I64(1)), results

        def run() -> list[Any]:
            return self.until(count, initial, step)

        return self.choose(self.builder.icmp_signed("<", I64(0), count), run, lambda: initial) if perhaps else run()

    def until(self, stop: Any, initial: list[Any], body: Callable[[Any, list[Any]], tuple[Any, list[Any]]]) -> list[Any]:
        """Run body(k, values) → (next k, values) from k = 0 on, at least once, until k is at ``stop``, and return the values."""
        builder = self.builder
        before, loop, after = builder.block, builder.append_basic_block("until"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, phis = builder.phi(I64), [builder.phi(value.type) for value in initial]
        following, results = body(k, list(phis))
        for phi, first, later in zip((k, *phis), (I64(0), *initial), (following, *results), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, stop), loop, after)
        builder.position_at_end(after)
        return results

    def prefetch(self, pointer: Any, write: bool = False, level: int = 3) -> None:
        """Ask for a cache line that will soon be read or written, in all caches (3) or from L2 on (2); any address will do."""
        pointer = self.builder.bitcast(pointer, I8.as_pointer())
        self.call("llvm.prefetch.p0", VOID, pointer, I32(int(write)), I32(level), I32(1))

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call an LLVM intrinsic (llvmlite's own declarations take no vector types)."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)


def vector_code(isa: Isa, dtype: np.dtype[Any], parameters: str, returns: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that writes vector instructions one that compiled code can call.

    ``parameters`` are those of the function: "n" is an int64, "x[]" an array and an index, of which the body gets the address
    of that element, and "x." a number of type ``dtype``. The body takes a `Vectors` before them; with ``returns`` it returns an int64.
    """
    names = parameters.split()
    scalar = types.float32 if dtype == np.float32 else types.float64

    def decorate(body: Callable[..., Any]) -> Any:
        def typed(typing, *given):  # type: ignore[no-untyped-def]
            expected = []
            for name, kind in zip(flat, given, strict=True):
                expected.append(kind if name.endswith("[]") else scalar if name.endswith(".") else types.int64)
            return (types.int64 if returns else types.void)(*expected), generate

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            values, remaining = [], iter(zip(signature.args, arguments, strict=True))
            for name in names:
                kind, value = next(remaining)
                if name.endswith("[]"):
                    value = builder.gep(context.make_array(kind)(context, builder, value).data, [next(remaining)[1]])
                values.append(value)
            result = body(Vectors(builder, isa, dtype), *values)
            return result if returns else context.get_dummy_value()

        flat = [part for name in names for part in ((name, f"{name[:-2]}_at") if name.endswith("[]") else (name,))]
        # Numba looks the number of parameters up.
        parts = ["typing", *(name.rstrip("[].") for name in flat)]
        typed.__signature__ = inspect.Signature([inspect.Parameter(part, inspect.Parameter.POSITIONAL_ONLY) for part in parts])  # type: ignore[attr-defined]
        typed.__name__ = typed.__qualname__ = body.__name__
        return intrinsic(typed)

    return decorate
