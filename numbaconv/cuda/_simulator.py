"""Kernels without a GPU: every thread of a block is a generator that runs to the next barrier. For NUMBA_ENABLE_CUDASIM=1.

Numba brings a simulator too; this one takes microseconds a thread where that takes milliseconds, and finds what it lets pass: an index out
of bounds, a barrier that some threads of a block don't reach, and races, an element that one thread writes and another one touches with no
barrier between. A collective, a function of `_twins` that is marked as one, gets the arguments of all lanes of a warp.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import sys
import textwrap
import threading
from collections.abc import Callable, Generator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

WARP = 32
_one_at_a_time = threading.Lock()


class State(threading.local):
    """Who runs just now: the thread's number in the launch, and how many barriers its block has passed."""

    thread = 0
    epoch = 0


_now = State()


def running_thread() -> int:
    """Return the number of the running thread in its launch."""
    return _now.thread


class Memory:
    """A flat array as kernels see it. Touching an element out of its bounds, or racing with another thread for one, raises."""

    __slots__ = ("array", "pending", "read_at", "reader", "shared", "writer", "written_at")

    def __init__(self, array: Any, shared: bool = False) -> None:
        self.array, self.shared = array.reshape(-1), shared
        self.pending: dict[int, list[Any]] = {}  # copies to it that threads have started
        assert self.array.size == 0 or np.shares_memory(self.array, array), "kernels take contiguous arrays"
        # The last thread to write and to read each element, and in which epoch: −1 for never, −2 for several readers.
        self.writer, self.reader = np.full((2, self.array.size), -1)
        self.written_at, self.read_at = np.full((2, self.array.size), -1)

    def _checked(self, index: Any) -> Any:
        """Return one index, a slice or an array of indices as NumPy takes them."""
        if isinstance(index, slice):
            index = np.arange(index.start, index.stop)
        low, high = (index.min(), index.max()) if isinstance(index, np.ndarray) else (index, index)
        if not 0 <= low <= high < self.array.size:
            raise IndexError(f"a kernel touched elements {low} to {high} of {self.array.size}")
        return index

    def _race(self, at: Any, who: Any, when: Any, epoch: int) -> None:
        clash = (when[at] == epoch) & (who[at] != _now.thread)
        if clash.any() if isinstance(clash, np.ndarray) else clash:
            raise RuntimeError(f"a race: thread {_now.thread} touches {at}, as thread {who[at]} did since the last barrier (−2: several)")

    def __getitem__(self, index: Any) -> Any:
        """Return one element, or several."""
        at, now, epoch = self._checked(index), _now.thread, _now.epoch if self.shared else 0
        self._race(at, self.writer, self.written_at, epoch)
        others = (self.read_at[at] == epoch) & (self.reader[at] != now)
        self.reader[at] = np.where(others, -2, now) if isinstance(at, np.ndarray) else -2 if others else now
        self.read_at[at] = epoch
        return self.array[at]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write one element, or several."""
        at, epoch = self._checked(index), _now.epoch if self.shared else 0
        self._race(at, self.writer, self.written_at, epoch)
        self._race(at, self.reader, self.read_at, epoch)
        self.writer[at], self.written_at[at] = _now.thread, epoch
        self.array[at] = value


class Block:
    """What `cuda` is within a kernel: the indices of the running thread, and the block's shared memory."""

    def __init__(self, threads: int, grid: Sequence[int], at: Sequence[int], dynamic: int = 0) -> None:
        self.threadIdx = SimpleNamespace(x=0, y=0, z=0)
        self.blockIdx = SimpleNamespace(x=at[0], y=at[1], z=at[2])
        self.gridDim = SimpleNamespace(x=grid[0], y=grid[1], z=grid[2])
        self.blockDim = SimpleNamespace(x=threads, y=1, z=1)
        self.shared = SimpleNamespace(array=self._shared)
        self.local = SimpleNamespace(array=lambda shape, dtype: np.full(shape, 0x7F, np.dtype(_name(dtype))))
        self._arrays: dict[int, Memory] = {}
        self._dynamic = dynamic

    def _shared(self, shape: int, dtype: Any, alignment: int | None = None) -> Memory:
        """Return the array that is declared at the caller's line, at first full of what shows an element never written; 0: as the launch says."""
        line, kind = sys._getframe(1).f_lineno, np.dtype(_name(dtype))
        if line not in self._arrays:
            made = np.empty(shape or self._dynamic // kind.itemsize, kind)
            made.view(np.uint8)[:] = 0xFF
            self._arrays[line] = Memory(made, shared=True)
        return self._arrays[line]


def _name(dtype: Any) -> Any:
    return getattr(dtype, "name", dtype)


def collective(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a twin that works on a whole warp: it gets a list of every argument's values and returns a list, one of each lane."""
    function.is_collective = True  # type: ignore[attr-defined]
    return function


class _Barriers(ast.NodeTransformer):
    """Make every barrier and every collective of a kernel a place where its generator waits."""

    def __init__(self, collectives: set[str]) -> None:
        self.collectives = collectives

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802 - the name that ast calls
        """Replace f(…) by (yield f, …)."""
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name == "cuda.syncthreads":
            return ast.copy_location(ast.Yield(None), node)
        if name in self.collectives:
            return ast.copy_location(ast.Yield(ast.Tuple([node.func, *node.args], ast.Load())), node)
        return node


@functools.lru_cache(maxsize=256)
def _generator(kernel: Callable[..., None]) -> Callable[[Any], Callable[..., Any]]:
    """Return a function that makes, for a block, the kernel as a function that returns a generator."""
    source, first = inspect.getsourcelines(kernel)
    tree = ast.parse(textwrap.dedent("".join(source)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    closure = inspect.getclosurevars(kernel)
    known = {**closure.globals, **closure.nonlocals}
    collectives = {name for name, value in known.items() if getattr(value, "is_collective", False)}
    definition = _Barriers(collectives).visit(definition)
    definition.body.append(ast.parse("if False:\n    yield").body[0])  # a kernel without a barrier is a generator too
    names = [name for name in kernel.__code__.co_freevars if name != "cuda"]
    outer = ast.parse(f"def make(cuda, {', '.join(names)}):\n    return {definition.name}").body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body.insert(0, definition)
    tree = ast.fix_missing_locations(ast.increment_lineno(ast.Module([outer], []), first - 1))
    made: dict[str, Any] = {}
    exec(compile(tree, inspect.getsourcefile(kernel) or "kernel", "exec"), kernel.__globals__, made)  # noqa: S102 - the kernel's own source
    values = {name: closure.nonlocals[name] for name in names}
    return lambda block: made["make"](block, **values)


def launch(
    kernel: Callable[..., None], grid: Sequence[int], threads: int, arrays: Sequence[Any], integers: tuple[int, ...], dynamic: int = 0
) -> None:
    """Run a kernel's blocks one after the other, each with so many bytes of shared memory whose size the kernel does not say."""
    memories = [Memory(np.asarray(array)) for array in arrays]
    with _one_at_a_time, np.errstate(all="ignore"):
        for number, at in enumerate(itertools.product(*(range(size) for size in grid))):
            block = Block(threads, grid, at, dynamic)
            _run(block, [_generator(kernel)(block)(*memories, integers) for _ in range(threads)], number * threads)


def _run(block: Block, generators: list[Generator[Any, Any, None]], first: int) -> None:
    """Run the threads of a block from barrier to barrier, and warps from collective to collective."""
    _now.epoch = 0
    while True:
        ended = [_until_barrier(block, generators, warp, first) for warp in range(0, len(generators), WARP)]
        if any(ended):
            if not all(ended):
                raise RuntimeError("some threads of a block end while others wait at a barrier")
            return
        _now.epoch += 1


def _until_barrier(block: Block, generators: list[Generator[Any, Any, None]], warp: int, first: int) -> bool:
    """Run a warp until its threads wait at a barrier or have ended; say which."""
    lanes = range(warp, min(warp + WARP, len(generators)))
    answers = [None] * len(lanes)
    while True:
        asked, ended = [], []
        for lane, answer in zip(lanes, answers, strict=True):
            block.threadIdx.x, _now.thread = lane, first + lane
            try:
                asked.append(generators[lane].send(answer))
            except StopIteration:
                ended.append(lane)
        if ended:
            if asked and any(a is not None for a in asked):
                raise RuntimeError("some lanes of a warp end while others wait at a collective")
            if asked:
                raise RuntimeError("some threads of a block end while others wait at a barrier")
            return True
        functions = {None if a is None else a[0] for a in asked}
        if len(functions) > 1:
            raise RuntimeError("the lanes of a warp wait at different places")
        function = functions.pop()
        if function is None:
            return False
        answers = function(*(list(values) for values in zip(*(a[1:] for a in asked), strict=True)))
