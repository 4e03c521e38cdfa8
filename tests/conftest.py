"""What every test gets: a generator seeded by the test's name, the room's algorithms, and thread settings put back afterwards."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

# Before Numba is imported: CUDA kernels run in the simulator, unless somebody who has a GPU says otherwise (NUMBA_ENABLE_CUDASIM=0).
os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")

from numbaconv import tuning  # noqa: E402
from numbaconv.plan import room  # noqa: E402


def pytest_configure() -> None:
    """Fill the room with the shipped coefficients: what is tested does not depend on what somebody has tuned."""
    gc.set_threshold(50_000, 20, 20)  # with Python's own, 19 s of 231 that test_rolls.py took were the collector's
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "apply", lambda algorithms: None)
        room("cpu")


@pytest.fixture(scope="module", autouse=True)
def compiled_code_is_left_alone() -> None:
    """Spare the collector what earlier files compiled and imported, millions of objects that it would go through again and again."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``algorithm`` once for each algorithm that the CPU room lists."""
    if "algorithm" in metafunc.fixturenames:
        metafunc.parametrize("algorithm", list(room("cpu")))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator that depends on the test's name alone, so that every test can be run by itself."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def threads_restored() -> Iterator[None]:
    """Put the threading mode and the number of threads back."""
    import numbaconv as nc

    mode, count = nc.get_threading(), nc.get_num_threads()
    yield
    nc.set_threading(mode)
    nc.set_num_threads(count)
