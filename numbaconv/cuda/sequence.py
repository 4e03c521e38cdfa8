"""What a call enqueues, written down the first time and played back afterwards: a call of known shapes costs allocations and launches.

A launch is played back with the addresses of the arrays at hand. Where each address comes from is found out by where it lies: within an
operand, the result, the bias, packed weights, memory taken for the call, or a table that is kept. A call that touches other memory, or
does something else than to launch kernels, is not written down, and is carried out anew each time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numbaconv.cuda._backend import SIMULATED, Kernel, Launch, arrays, current_device, current_stream, recording
from numbaconv.problem import TENSORS, Options

PLAIN = Options()
FIXED = -1  # in place of an operand's number


class Source(NamedTuple):
    """Where a launch's array is: the number of an operand, or of memory taken after these, and how far into it; or a table and its address."""

    number: int
    offset: int
    bytes: int
    dtype: Any
    table: Any


class Step(NamedTuple):
    """A launch, and where its arrays are."""

    kernel: Kernel
    grid: tuple[int, int, int]
    integers: tuple[int, ...]
    bound: Launch | None  # on a GPU
    sources: tuple[Source, ...]
    places: tuple[tuple[int, int], ...]  # the sources' numbers and offsets


class Steps(NamedTuple):
    """All launches of a call, the bytes of each piece of memory that it takes, and the numbers of those that are zeros at first."""

    steps: tuple[Step, ...]
    workspace: tuple[int, ...]
    zeroed: tuple[int, ...]

    def play(self, operands: list[Any]) -> None:
        """Enqueue everything; memory is had first."""
        if SIMULATED:
            self._play_simulated(operands)
            return
        addresses, take = [array.data.ptr for array in operands], arrays().cuda.alloc
        taken = [take(size) for size in self.workspace]  # given back when this returns: later calls on this stream come after
        addresses += [piece.ptr for piece in taken]
        stream = current_stream()
        for number in self.zeroed:
            taken[number].memset_async(0, self.workspace[number])
        for step in self.steps:
            step.bound(stream, [addresses[number] + offset if number >= 0 else offset for number, offset in step.places])  # type: ignore[misc]

    def _play_simulated(self, operands: list[Any]) -> None:
        workspace = [np.full(size, 0 if i in self.zeroed else 0xFF, np.uint8) for i, size in enumerate(self.workspace)]
        memories = [array.reshape(-1).view(np.uint8) for array in operands] + workspace
        for step in self.steps:
            given = [
                source.table if source.number == FIXED else memories[source.number][source.offset :][: source.bytes].view(source.dtype)
                for source in step.sources
            ]
            step.kernel.launch(step.grid, given, step.integers)


class Sequence:
    """Computes a plan on a GPU: from two operands to a result, with or without a bias, an activation and packed weights."""

    def __init__(self, problem: Any, op: Any, run: Any) -> None:
        self.problem, self.op, self.run = problem, op, run
        self.shapes = [problem.shape(name) for name in TENSORS[op]]
        self.known: dict[Any, Steps | None] = {}

    def __call__(self, a: Any, b: Any, out: Any, options: Options = PLAIN) -> None:
        """Overwrite ``out``; all arrays are contiguous and on the current device."""
        bias, packed = options.bias, options.packed
        if packed is not None and not hasattr(packed, "nbytes"):  # several arrays, or one with a description
            self._run(a, b, out, options)
            return
        key = (current_device(), bias is None, packed is None, options.activation)
        operands = [array for array in (a, b, out, bias, packed) if array is not None]
        if key not in self.known:
            self._write_down(key, a, b, out, options, operands)
        elif (steps := self.known[key]) is None:
            self._run(a, b, out, options)
        else:
            steps.play(operands)

    def _run(self, a: Any, b: Any, out: Any, options: Options) -> None:
        a, b, out = (array.reshape(shape) for array, shape in zip((a, b, out), self.shapes, strict=True))
        self.run(self.problem, self.op, a, b, out, options)

    def _write_down(self, key: Any, a: Any, b: Any, out: Any, options: Options, operands: list[Any]) -> None:
        """Carry it out, and know what it enqueued from now on; None for what cannot be played back."""
        recording.launches, recording.workspace, recording.zeroed, recording.tables = [], [], [], []
        try:
            self._run(a, b, out, options)
            places = [span(array) for array in (*operands, *recording.workspace)]
            if not _overlapping(places):  # or this call does not say which array is which
                self.known[key] = self._steps(places)
        finally:
            recording.launches, recording.workspace, recording.zeroed, recording.tables = None, [], [], []

    def _steps(self, places: list[tuple[int, int]]) -> Steps | None:
        if any(end == start for start, end in places) or recording.launches is None:
            return None
        tables, steps = {span(table): table for table in recording.tables}, []
        for kernel, grid, used, integers in recording.launches:
            sources = [_source(array, places, tables) for array in used]
            if None in sources:
                return None
            bound = None if SIMULATED else kernel.bound(grid, integers)
            steps.append(Step(kernel, grid, integers, bound, tuple(sources), tuple((s.number, s.offset) for s in sources)))  # type: ignore[arg-type,union-attr]
        return Steps(tuple(steps), tuple(array.nbytes for array in recording.workspace), tuple(recording.zeroed))


def span(array: Any) -> tuple[int, int]:
    """Return the addresses of an array's first byte and of the one after its last."""
    start = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return start, start + array.nbytes


def _overlapping(places: list[tuple[int, int]]) -> bool:
    """Return whether two arrays share memory, so that an address could mean either."""
    places = sorted(places)
    return any(later[0] < earlier[1] for earlier, later in zip(places, places[1:], strict=False))


def _source(array: Any, places: list[tuple[int, int]], tables: dict[tuple[int, int], Any]) -> Source | None:
    place = first, last = span(array)
    for number, (start, end) in enumerate(places):
        if start <= first and last <= end:
            return Source(number, first - start, array.nbytes, array.dtype, None)
    return Source(FIXED, first, array.nbytes, array.dtype, tables[place]) if place in tables else None
