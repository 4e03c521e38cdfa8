"""How threads share a kernel's tiles: in compiled code, without the GIL and without Python.

A job is a row of words, the same memory for all threads. Its caller packs the kernel's arguments there and opens the gate to so many helpers.
Each thread then draws tiles until none is left: half of a thread's share of what is left (C. Polychronopoulos, D. Kuck, 1987), so that
the first draws are few and all end together. The caller draws the first ones, helpers the last ones: neighbours often need the same, and
the next call finds more of what it needs in the caches of its core. The caller closes the gate and waits for the helpers that are inside.

Helpers look at the gates for a while after each job: one that looks sees a job within a microsecond, to wake one that sleeps takes 50 to
100 µs on a virtual machine, longer than many a layer. How many look is counted here, too, and not in Python: a helper that has to wait for the
GIL before it can say that it has stopped would not be woken for what its caller, who holds the GIL, shares next.

It is written as LLVM code: each kernel has a function that helpers know by its address alone, and unpacks arguments of its own types.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Words of a job. Those that several threads write have a cache line each.
GATE = 0  # how many helpers may come in yet, times `ONE`, plus how many are inside: 0 after the job
DRAWN, SLOT = 8, 9  # how many of the last tiles are drawn, times `ONE`, plus how many of the first; the row of the scratch for the next helper
LAST, LEAST, MOST, WORKERS = 16, 17, 18, 19  # tiles in all, at the least and at the most in a draw; threads
TURN, LOOKS = 20, 21  # tiles after which the caller goes back to Python, and how often it looks whether the helpers have left
WORK, DONE, FAILED = 24, 25, 26  # address of `work` (0: not opened); whether all is computed; whether a helper met an error
PACKED = 32  # from here on: the arguments
ONE = 1 << 32
WORDS = 512  # of a job
WORD, BYTES, INDEX = ir.IntType(64), ir.IntType(8).as_pointer(), ir.IntType(32)
PAUSES: dict[str, tuple[str, list[int]]] = {
    **dict.fromkeys(("x86_64", "AMD64"), ("llvm.x86.sse2.pause", [])),
    **dict.fromkeys(("aarch64", "arm64"), ("llvm.aarch64.hint", [1])),
}  # LLVM intrinsics for the core to know that its thread waits
WORK_TYPES = types.none, (types.voidptr, types.int64, types.int64)  # of `work` (the job, slot, turn), which each kernel has


class Job:
    """Writes what threads do with a job."""

    def __init__(self, builder: ir.IRBuilder, words: ir.Value) -> None:
        self.builder, self.words = builder, words

    def place(self, at: int) -> ir.Value:
        """Return the address of a word."""
        return self.builder.gep(self.words, [WORD(at)])

    def read(self, at: int) -> ir.Value:
        """Read a word that no other thread writes meanwhile."""
        return self.builder.load(self.place(at))

    def look(self, at: int) -> ir.Value:
        """Read a word that other threads write, and see what they wrote before it."""
        return self.builder.load_atomic(self.place(at), "acquire", 8)

    def write(self, at: int, value: ir.Value) -> None:
        """Write a word that other threads read."""
        self.builder.store_atomic(value, self.place(at), "release", 8)

    def add(self, at: int, value: int) -> ir.Value:
        """Add to a word that other threads write, too; return what it was."""
        return self.builder.atomic_rmw("add", self.place(at), WORD(value), "seq_cst")

    def swap(self, at: int, expected: ir.Value, value: ir.Value) -> ir.Value:
        """Write a word if it is what is expected; return whether it was."""
        return self.builder.extract_value(self.builder.cmpxchg(self.place(at), expected, value, "seq_cst", "seq_cst"), 1)

    @contextmanager
    def loop(self) -> Iterator[tuple[ir.Block, ir.Block]]:
        """Write a loop: its body gets the blocks to branch to, for the next turn and for the end, and ends with a branch."""
        turn, end = self.builder.append_basic_block("turn"), self.builder.append_basic_block("end")
        self.builder.branch(turn)
        self.builder.position_at_end(turn)
        yield turn, end
        self.builder.position_at_end(end)

    def look_at_drawn(self) -> tuple[ir.Value, ir.Value]:
        """Return how many of the first tiles are drawn, and how many of the last."""
        drawn = self.look(DRAWN)
        return self.builder.and_(drawn, WORD(ONE - 1)), self.builder.lshr(drawn, WORD(32))

    def draw(self, behind: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the first tile of those that are this thread's now, and the one after them: two that are equal when there are no more.

        They are the first that nobody has, or the last, if it draws from ``behind``.
        """
        b, last = self.builder, self.read(LAST)
        least, most, shares = self.read(LEAST), self.read(MOST), b.mul(self.read(WORKERS), WORD(2))
        with self.loop() as (turn, end):
            before, after = self.look_at_drawn()
            left = b.sub(last, b.add(before, after))
            some, none = b.append_basic_block("some"), b.basic_block
            b.cbranch(b.icmp_signed(">", left, WORD(0)), some, end)
            b.position_at_end(some)
            share = b.add(b.sdiv(b.sub(left, WORD(1)), shares), WORD(1))
            count = self._smaller(self._smaller(b.select(b.icmp_signed(">", share, least), share, least), most), left)
            first = b.select(behind, b.sub(b.sub(last, after), count), before)
            stop, more = b.add(first, count), b.select(behind, b.shl(count, WORD(32)), count)
            drawn = b.add(before, b.shl(after, WORD(32)))
            b.cbranch(self.swap(DRAWN, drawn, b.add(drawn, more)), end, turn)
        found = b.phi(WORD), b.phi(WORD)
        for phi, value in zip(found, (first, stop), strict=True):
            phi.add_incoming(last, none)
            phi.add_incoming(value, some)
        return found

    def _smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def join(self) -> ir.Value:
        """Go in by the gate, if it is open; return whether it was."""
        b = self.builder
        with self.loop() as (turn, end):
            gate, tries = self.look(GATE), b.append_basic_block("open")
            shut = b.basic_block
            b.cbranch(b.icmp_signed(">=", gate, WORD(ONE)), tries, end)
            b.position_at_end(tries)
            b.cbranch(self.swap(GATE, gate, b.add(gate, WORD(1 - ONE))), end, turn)
        joined = b.phi(ir.IntType(1))
        joined.add_incoming(ir.IntType(1)(0), shut)
        joined.add_incoming(ir.IntType(1)(1), tries)
        return joined

    def close(self) -> None:
        """Let nobody in any more, and wait for those who are inside for as long as the job says; note whether all have left."""
        b = self.builder
        b.atomic_rmw("and", self.place(GATE), WORD(ONE - 1), "seq_cst")
        before, looks = b.basic_block, self.read(LOOKS)
        with self.loop() as (turn, end):
            left = b.phi(WORD)
            left.add_incoming(looks, before)
            self.pause()
            inside = b.icmp_signed(">", self.look(GATE), WORD(0))
            fewer = b.sub(left, WORD(1))
            left.add_incoming(fewer, b.basic_block)
            b.cbranch(b.and_(inside, b.icmp_signed(">", fewer, WORD(0))), turn, end)
        b.store(b.zext(b.not_(inside), WORD), self.place(DONE))

    def pause(self) -> None:
        """Let the core's other thread work for a moment."""
        if platform.machine() in PAUSES:
            name, numbers = PAUSES[platform.machine()]
            module, kind = self.builder.module, ir.FunctionType(ir.VoidType(), [INDEX] * len(numbers))
            self.builder.call(module.globals.get(name) or ir.Function(module, kind, name), [INDEX(number) for number in numbers])


def _at(context: Any, builder: ir.IRBuilder, kind: Any, words: ir.Value) -> Job:
    return Job(builder, context.make_array(kind)(context, builder, words).data)


@intrinsic
def share(typing, job, body, scratch, arguments):  # type: ignore[no-untyped-def]
    """Compute a job's tiles with those who help; return after a turn, or when all are drawn, and note whether all are computed.

    ``body(first, last, 1, scratch, *arguments)`` computes tiles; scratch has a row for each thread.
    """
    kinds = (scratch, *arguments.types)
    called = typing.resolve_function_type(body, (types.int64, types.int64, types.literal(1), *kinds), {})  # as `enter` calls it

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        values = [given[2], *(builder.extract_value(given[3], n) for n in range(len(arguments.types)))]
        packed = ir.LiteralStructType([context.get_value_type(kind) for kind in kinds])
        if context.get_abi_sizeof(packed) > 8 * (WORDS - PACKED):
            raise NotImplementedError("a job has no room for so many arguments")
        work = _work(context, builder.module, kinds, packed, lambda b, values: context.get_function(body, called)(b, values))
        shared = _at(context, builder, job, given[0])
        with builder.if_then(builder.icmp_signed("==", shared.read(WORK), WORD(0))):
            at = builder.bitcast(shared.place(PACKED), packed.as_pointer())
            for n, value in enumerate(values):
                builder.store(value, builder.gep(at, [INDEX(0), INDEX(n)]), align=8)
            builder.store(builder.ptrtoint(work, WORD), shared.place(WORK))
            shared.write(GATE, builder.mul(builder.sub(shared.read(WORKERS), WORD(1)), WORD(ONE)))
        words = builder.bitcast(shared.words, BYTES)
        status, _ = context.call_conv.call_function(builder, work, *WORK_TYPES, [words, WORD(0), shared.read(TURN)])
        with builder.if_then(status.is_error, likely=False):
            context.call_conv.return_status_propagate(builder, status)
        before, after = shared.look_at_drawn()
        with builder.if_then(builder.icmp_signed(">=", builder.add(before, after), shared.read(LAST))):
            shared.close()
        return context.get_dummy_value()

    return types.void(job, body, scratch, arguments), generate


def _work(context: Any, module: ir.Module, kinds: tuple[Any, ...], packed: ir.Type, body: Callable[..., Any]) -> ir.Function:
    """Write the function (job, slot, turn) that draws tiles and computes them with the job's arguments until so many are done or none is left.

    The first word of the thread's scratch is 0 before its first draw: there a kernel may note, for the next ones, what else the scratch holds.
    """
    work = ir.Function(module, context.call_conv.get_function_type(*WORK_TYPES), f"numbaconv_work_{secrets.token_hex(8)}")
    work.linkage = "internal"
    b = ir.IRBuilder(work.append_basic_block())
    address, slot, turn = context.call_conv.get_arguments(work)
    job = Job(b, b.bitcast(address, WORD.as_pointer()))
    at = b.bitcast(job.place(PACKED), packed.as_pointer())
    scratch, *others = (b.load(b.gep(at, [INDEX(0), INDEX(n)]), align=8) for n in range(len(kinds)))
    mine = context.make_array(kinds[0])(context, b, scratch)
    row = b.mul(slot, b.extract_value(mine.strides, 0))
    mine.data = b.bitcast(b.gep(b.bitcast(mine.data, BYTES), [row]), mine.data.type)
    mine.shape = b.insert_value(mine.shape, WORD(1), 0)
    size = b.mul(b.extract_value(mine.shape, 1), b.extract_value(mine.strides, 1))
    with b.if_then(b.icmp_signed(">=", size, WORD(8))):
        b.store(WORD(0), b.bitcast(mine.data, WORD.as_pointer()))
    before, behind = b.basic_block, b.icmp_signed(">", slot, WORD(0))
    with job.loop() as (again, end):
        left = b.phi(WORD)
        left.add_incoming(turn, before)
        some, computes = b.append_basic_block("some"), b.append_basic_block("computes")
        b.cbranch(b.icmp_signed(">", left, WORD(0)), some, end)
        b.position_at_end(some)
        first, stop = job.draw(behind)
        b.cbranch(b.icmp_signed("<", first, stop), computes, end)
        b.position_at_end(computes)
        body(b, [first, stop, WORD(1), mine._getvalue(), *others])
        left.add_incoming(b.sub(left, b.sub(stop, first)), b.basic_block)
        b.branch(again)
    context.call_conv.return_value(b, context.get_dummy_value())
    return work


@intrinsic
def help_with(typing, job):  # type: ignore[no-untyped-def]
    """Go in by the gate, if it is open, and work until no tile is left; return whether it was."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        shared = _at(context, builder, job, given[0])
        joined = shared.join()
        with builder.if_then(joined):
            kind = context.call_conv.get_function_type(*WORK_TYPES).as_pointer()
            work, words = builder.inttoptr(shared.read(WORK), kind), builder.bitcast(shared.words, BYTES)
            status, _ = context.call_conv.call_function(builder, work, *WORK_TYPES, [words, shared.add(SLOT, 1), WORD((1 << 63) - 1)])
            with builder.if_then(status.is_error, likely=False):
                shared.write(FAILED, WORD(1))
            shared.add(GATE, -1)
        return joined

    return types.boolean(job), generate


@intrinsic
def pause(typing):  # type: ignore[no-untyped-def]
    """Let the core's other thread work for a moment."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        Job(builder, None).pause()
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def end(typing, job):  # type: ignore[no-untyped-def]
    """Leave no tiles to draw, let nobody in and wait for those who are inside, however long."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        shared = _at(context, builder, job, given[0])
        shared.write(DRAWN, shared.read(LAST))
        builder.store(WORD((1 << 63) - 1), shared.place(LOOKS))
        shared.close()
        return context.get_dummy_value()

    return types.void(job), generate


@intrinsic
def draw(typing, job, behind):  # type: ignore[no-untyped-def]
    """Return what `Job.draw` does, as a tuple."""
    pair = types.UniTuple(types.int64, 2)

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        return context.make_tuple(builder, pair, _at(context, builder, job, given[0]).draw(given[1]))

    return pair(job, types.boolean), generate


def count_drawn(job: Any) -> int:
    """Return how many tiles of a job are drawn."""
    last, first = divmod(int(job[DRAWN]), ONE)
    return last + first


@intrinsic
def count(typing, words, more):  # type: ignore[no-untyped-def]
    """Add to the first word."""

    def generate(context, builder, signature, given):  # type: ignore[no-untyped-def]
        builder.atomic_rmw("add", _at(context, builder, words, given[0]).place(0), given[1], "seq_cst")
        return context.get_dummy_value()

    return types.void(words, types.int64), generate


def serve(board, looks, longer, awake):  # type: ignore[no-untyped-def]
    """Help with every job of a board whose gate is open; return after so many looks at closed ones, and some ``longer``.

    It is counted in ``awake`` during the first ones: who saw it there, and so wakes nobody, mostly has opened the gate before it returns.
    """
    left, counted = looks + longer, False
    while left > 0:
        if counted != (left > longer):
            counted = not counted
            count(awake, 1 if counted else -1)
        left -= 1
        for n in range(len(board)):
            if help_with(board[n]):
                left = looks + longer
        pause()
    if counted:
        count(awake, -1)


def finish(board, n):  # type: ignore[no-untyped-def]
    """End job ``n``, early or not; return ``n``."""
    end(board[n])
    return n


ENTER = """
def enter(first, last, job, scratch, {names}):
    if job.size == 0:
        body(first, last, 1, scratch, {names})
    else:
        share(job, body, scratch, ({names},))
"""


def entry(names: Iterable[str], body: Any) -> Callable[..., None]:
    """Return the source of what Python calls: (first, last, job, scratch, *names), alone where the job is empty.

    It is text, since Numba takes named arguments faster than ``*arguments``.
    """
    scope: dict[str, Any] = {"__name__": __name__, "body": body, "share": share}  # the module is what the cache finds it by
    exec(ENTER.format(names=", ".join(names)), scope)
    enter: Callable[..., None] = scope["enter"]
    return enter
