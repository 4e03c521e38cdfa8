"""Which algorithm computes a problem, and why. Planning computes nothing: it asks every algorithm of a room for its cost."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from numbaconv import memory
from numbaconv.problem import TENSORS, ConvProblem, Op, Options, Run, Unsupported

DEVICES = {"cpu": "numbaconv.cpu", "cuda": "numbaconv.cuda"}
MACHINES = {"cpu": "one core", "cuda": "an H100"}  # whose time an estimate is
PRECISIONS = ("default", "highest")  # and what algorithms of a room name in PRECISIONS of their own
Array = np.ndarray[Any, Any]
MEASURED_SECONDS, MEASURED_CALLS = 0.3, 50  # `explain` measures an algorithm for so long, or so often, and at least 3 times


@dataclass(frozen=True)
class Plan:
    """The chosen algorithm of a problem, with the dtype that it computes in and the bytes that it will allocate."""

    problem: ConvProblem
    op: Op
    dtype: np.dtype[Any]
    name: str
    algorithm: ModuleType
    workspace: int
    device: str = "cpu"

    def bound(self) -> Run:
        """Return what computes it from two operands to a result, without bias or activation; shapes do not matter, only the order of elements.

        An algorithm with `bind` may look up beforehand what a short call would spend most of its time on. What it returns takes packed
        weights if the algorithm has any.
        """
        problem, op, run = self.problem, self.op, self.algorithm.run
        if self.device != "cpu":
            from numbaconv.cuda.sequence import Sequence

            return Sequence(problem, op, run)
        shape_a, shape_b, shape_out = (problem.shape(name) for name in TENSORS[op])

        def whole(a: Array, b: Array, out: Array, packed: Any = None) -> None:
            run(problem, op, a.reshape(shape_a), b.reshape(shape_b), out.reshape(shape_out), Options(packed=packed))

        bind = getattr(self.algorithm, "bind", None)
        return (bind and bind(problem, op, self.dtype, whole)) or whole


def room(device: str) -> dict[str, ModuleType]:
    """Return the algorithms of a device by name."""
    if device not in DEVICES:
        raise NotImplementedError(f"device must be one of {tuple(DEVICES)}, got {device!r}")
    return _tuned_room(device)


@functools.cache
def _tuned_room(device: str) -> dict[str, ModuleType]:
    from numbaconv import tuning

    module = importlib.import_module(DEVICES[device])
    algorithms: dict[str, ModuleType] = module.ALGORITHMS
    if device == "cpu":
        tuning.apply(algorithms)
    else:
        module.check()
    return algorithms


def candidates(problem: ConvProblem, op: Op, dtype: np.dtype[Any], device: str = "cpu") -> list[tuple[str, float | str]]:
    """Return every algorithm with its estimated seconds or the reason why it cannot do the problem."""
    found: list[tuple[str, float | str]] = []
    for name, algorithm in room(device).items():
        try:
            found.append((name, algorithm.cost(problem, op, dtype)))
        except Unsupported as reason:
            found.append((name, str(reason)))
    return found


def plan(problem: ConvProblem, op: Op, dtype: np.dtype[Any], method: str = "auto", precision: str = "default", device: str = "cpu") -> Plan:
    """Choose the cheapest algorithm, or the one that ``method`` names; ties go by the order of the room's table."""
    algorithms = room(device)
    if precision not in (known := precisions(device)):
        raise ValueError(f"precision must be one of {known}, got {precision!r}")
    found = [(name, _unless_asked_otherwise(answer, algorithms[name], dtype, precision)) for name, answer in candidates(problem, op, dtype, device)]
    if method == "auto":
        exact = precision == "highest"  # an algorithm that rounds more than the direct sum says EXACT = False
        able = [(c, n) for n, c in found if isinstance(c, float) and not (exact and not getattr(algorithms[n], "EXACT", True))]
        if not able:
            raise NotImplementedError(f"nothing on {device!r} can do this problem in {dtype.name}: " + "; ".join(f"{n} {c}" for n, c in found))
        # What an algorithm must save before its rounding is accepted, it says as WORTH.
        _, name = min(able, key=lambda entry: entry[0] + getattr(algorithms[entry[1]], "WORTH", 0.0))
    elif method in algorithms:
        name, answer = method, dict(found)[method]
        if isinstance(answer, str):
            raise NotImplementedError(f"method={method!r} cannot do this problem: it {answer}")
    else:
        raise ValueError(f"method must be 'auto' or one of {tuple(algorithms)}, got {method!r}")
    return Plan(problem, op, dtype, name, algorithms[name], algorithms[name].workspace(problem, op, dtype), device)


@functools.cache
def precisions(device: str) -> tuple[str, ...]:
    """Return the precisions that can be asked for on a device."""
    return (*PRECISIONS, *sorted({p for module in room(device).values() for names in getattr(module, "PRECISIONS", {}).values() for p in names}))


def _unless_asked_otherwise(answer: float | str, algorithm: ModuleType, dtype: np.dtype[Any], precision: str) -> float | str:
    """Return an algorithm's answer, or why the precision that is asked for leaves it out.

    An algorithm says in PRECISIONS by which names a dtype has to be asked for; integers that are to be read as something else are for those
    algorithms alone.
    """
    needed = getattr(algorithm, "PRECISIONS", {}).get(dtype.name)
    if needed and precision not in needed:
        return f"needs precision={needed[0]!r} for {dtype.name}, got {precision!r}"
    if not needed and precision not in PRECISIONS and dtype.kind != "f":
        return f"needs numbers of {dtype.name}, not patterns of {precision!r}"
    return answer


class Explanation(str):
    """A table that prints as such at the prompt too."""

    def __repr__(self) -> str:
        """Return the table itself."""
        return str(self)


def explain_problem(
    problem: ConvProblem,
    op: Op,
    dtype: np.dtype[Any],
    title: str = "",
    method: str = "auto",
    precision: str = "default",
    device: str = "cpu",
    measure: bool = False,
) -> Explanation:
    """Return a printable table: every algorithm with its estimated time and workspace, or why it cannot do the problem.

    With ``measure`` every algorithm is run, and its time stands there too.
    """
    m, n, k = problem.gemm_shape(op)
    chosen = plan(problem, op, dtype, method, precision, device).name
    lines = [
        f"{title or op}, {dtype.name} on {device}",
        f"{2 * problem.macs / 1e9:.3g} Gflop; per group a product of {m} × {n} × {k}",
    ]
    algorithms = room(device)
    for name, answer in candidates(problem, op, dtype, device):
        answer = _unless_asked_otherwise(answer, algorithms[name], dtype, precision)
        mark = "→" if name == chosen else " "
        if isinstance(answer, str):
            lines.append(f"{mark} {name:<10} cannot: it {answer}")
        else:
            memory = algorithms[name].workspace(problem, op, dtype)
            taken = f" {_measured(problem, op, dtype, algorithms[name], answer, memory, device)}," if measure else ""
            estimate = f"{answer * 1e3:9.3f} ms on {MACHINES[device]} (estimated)"
            lines.append(f"{mark} {name:<10} {estimate},{taken} {memory / 2**20:.1f} MiB of workspace")
    return Explanation("\n".join(lines))


def _measured(problem: ConvProblem, op: Op, dtype: np.dtype[Any], algorithm: ModuleType, estimate: float, workspace: int, device: str) -> str:
    """Run an algorithm a few times on random numbers, and say how long a call took in the median."""
    from numbaconv import tuning

    if estimate > MEASURED_SECONDS:
        return "not measured, too slow"
    size = sum(int(np.prod(problem.shape(t), dtype=object)) for t in TENSORS[op]) * max(dtype.itemsize, 8)  # random numbers are float64 first
    memory.require(size * 2 + workspace, "measuring")
    a, b, out = tuning.operands(problem, op, dtype)
    if device == "cpu":
        taken = tuning.measured(lambda: algorithm.run(problem, op, a, b, out, Options()), MEASURED_SECONDS, MEASURED_CALLS)
    else:
        from numbaconv.cuda import calls

        arrays = [calls.ready(array, dtype) for array in (a, b, out)]
        call = lambda: calls.synchronized(lambda: algorithm.run(problem, op, *arrays, Options()))  # noqa: E731
        taken = tuning.measured(call, MEASURED_SECONDS, MEASURED_CALLS)
    return f"{taken * 1e3:9.3f} ms (measured)"
