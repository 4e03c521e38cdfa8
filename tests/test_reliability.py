"""DESIGN's reliability rules, done for real: threads, forks, spawn, nesting, Ctrl-C, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PACKAGE_PARENT = Path(__file__).parent.parent

# Every process computes this: large enough to be shared among threads, exact in float32.
COMMON = """
import os, sys, threading
import numpy as np
import numbaconv as nc
rng = np.random.default_rng(0)
x = rng.integers(-4, 5, (2, 16, 40, 40)).astype(np.float32)
w = rng.integers(-4, 5, (16, 16, 3, 3)).astype(np.float32)
def expected():
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwrs,kcrs->nkhw", windows, w, optimize=True)
want = expected()
def check(**options):
    assert np.array_equal(nc.conv2d(x, w, padding=1, precision="highest", **options), want)
nc.set_num_threads(4)
"""


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cache folder that holds the kernels of COMMON, so that each process starts fast."""
    folder = tmp_path_factory.mktemp("cache")
    run("check(method='direct'); check(method='gemm')", folder)
    return folder


def start(code: str, cache: Path, **environment: str) -> subprocess.Popen[str]:
    script = COMMON + textwrap.dedent(code)
    variables = {**os.environ, "NUMBACONV_CACHE_DIR": str(cache), "PYTHONPATH": str(PACKAGE_PARENT), **environment}
    return subprocess.Popen([sys.executable, "-c", script], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(code: str, cache: Path, **environment: str) -> str:
    """Run a script after COMMON in a process of its own; fail with what it printed unless it ends well."""
    process = start(code, cache, **environment)
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the process hung\n{out}\n{err}")
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return out


@pytest.mark.parametrize("mode", ["pool", "numba"])
def test_sixteen_threads_call_at_once(mode: str, warm_cache: Path) -> None:
    run(
        f"""
        nc.set_threading({mode!r})
        failures = []
        barrier = threading.Barrier(16)
        def work(i):
            try:
                barrier.wait()
                for _ in range(10):
                    check(method=("direct", "gemm")[i % 2])
            except BaseException as error:
                failures.append(repr(error))
        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert not failures, failures
        extra = [t.name for t in threading.enumerate() if t.name.startswith("numbaconv")]
        assert len(extra) <= 3, extra
        """,
        warm_cache,
    )


def test_sixteen_threads_compile_at_once(tmp_path: Path) -> None:
    run(
        """
        failures = []
        def work():
            try:
                check(method="direct")
            except BaseException as error:
                failures.append(repr(error))
        threads = [threading.Thread(target=work) for _ in range(16)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert not failures, failures
        """,
        tmp_path,
    )


FORK = """
def in_child(function):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(); status = 0
        finally:
            os._exit(status)
    return pid
def wait(pid):
    import time
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, status
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    raise AssertionError("the child hung")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("mode", ["pool", "numba"])
def test_fork_after_use(mode: str, warm_cache: Path) -> None:
    run(
        f"nc.set_threading({mode!r}); check(); check(method='direct')"
        + FORK
        + "pids = [in_child(check) for _ in range(3)]; [wait(p) for p in pids]; check()",
        warm_cache,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("mode", ["pool", "numba"])
def test_fork_while_another_thread_is_inside_a_call(mode: str, warm_cache: Path) -> None:
    code = """
    check()
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            check(method="direct")
    threads = [threading.Thread(target=busy) for _ in range(3)]
    [t.start() for t in threads]
    for _ in range(8):
        wait(in_child(check))
    stop.set(); [t.join() for t in threads]; check()
    """
    run(f"nc.set_threading({mode!r})\n" + FORK + textwrap.dedent(code), warm_cache)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fork_while_another_thread_compiles(tmp_path: Path) -> None:
    code = """
    import time
    thread = threading.Thread(target=lambda: check(method="direct"))
    thread.start()
    time.sleep(0.4)
    pids = []
    for _ in range(3):
        pids.append(in_child(lambda: check(method="direct")))
        time.sleep(0.1)
    [wait(p) for p in pids]
    thread.join(); check(method="direct")
    """
    run(FORK + textwrap.dedent(code), tmp_path)


def test_spawn(warm_cache: Path, tmp_path: Path) -> None:
    script = tmp_path / "spawned.py"
    body = "def work(i):\n    check(); return i\nif __name__ == '__main__':\n    import multiprocessing as mp\n    check()\n"
    script.write_text(COMMON + body + "    with mp.get_context('spawn').Pool(2) as pool:\n        assert pool.map(work, range(4)) == [0, 1, 2, 3]\n")
    variables = {**os.environ, "NUMBACONV_CACHE_DIR": str(warm_cache), "PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run([sys.executable, str(script)], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", ["pool", "numba"])
def test_nested_calls(mode: str, warm_cache: Path) -> None:
    # From tasks of an executor that itself runs beside a call, and from a signal handler in the middle of a call.
    run(
        f"""
        import signal
        from concurrent.futures import ThreadPoolExecutor
        nc.set_threading({mode!r})
        with ThreadPoolExecutor(4) as outer, ThreadPoolExecutor(4) as inner:
            def task(_):
                check()
                return [f.result() for f in [inner.submit(check) for _ in range(2)]]
            list(outer.map(task, range(8)))
        seen = []
        if {mode!r} == "pool":
            def handler(*_):
                check(method="direct")
                seen.append(1)
                signal.setitimer(signal.ITIMER_REAL, 0.01)  # anew each time: a slow machine would not keep up with an interval
            check(method="direct")
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            for _ in range(60):
                check(method="direct")
            while not seen:
                check(method="direct")
            signal.setitimer(signal.ITIMER_REAL, 0)
        """,
        warm_cache,
    )


def test_a_call_inside_another_librarys_parallel_loop(warm_cache: Path) -> None:
    run(
        """
        import numba
        @numba.njit(parallel=True)
        def loop(n, results):
            for i in numba.prange(n):
                with numba.objmode():
                    check(method="direct")
                    results[i] = 1
        results = np.zeros(8)
        loop(8, results)
        assert results.all()
        """,
        warm_cache,
    )


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("mode", ["pool", "numba"])
@pytest.mark.parametrize("method", ["direct", "gemm"])
def test_ctrl_c_ends_a_long_call_and_the_next_one_is_right(mode: str, method: str, warm_cache: Path) -> None:
    process = start(
        f"""
        nc.set_threading({mode!r})
        check(method={method!r})
        long_x, long_w = np.ones((8, 128, 400, 400), np.float32), np.ones((512, 128, 5, 5), np.float32)
        nc.conv2d(long_x[:1, :, :90, :90], long_w, method={method!r})  # compiles what the long call needs
        print("ready", flush=True)
        try:
            nc.conv2d(long_x, long_w, method={method!r})
            print("finished", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        check(method={method!r})
        print("right", flush=True)
        """,
        warm_cache,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready", process.communicate()[1]
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=20)  # the call itself would take minutes
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail("Ctrl-C was not seen within 20 s")
    assert out.split() == ["interrupted", "right"], out + err


def test_threads_end_with_the_interpreter(warm_cache: Path) -> None:
    run("t = threading.Thread(target=lambda: [check() for _ in range(200)], daemon=True); t.start(); check()", warm_cache)


def test_no_gil_is_held_while_a_kernel_runs(warm_cache: Path) -> None:
    run(
        """
        import time
        ticks, stop = [], threading.Event()
        def tick():
            while not stop.is_set():
                ticks.append(time.monotonic()); time.sleep(0.001)
        thread = threading.Thread(target=tick); thread.start()
        with nc.num_threads(1):
            nc.conv2d(np.ones((4, 64, 200, 200), np.float32), np.ones((64, 64, 3, 3), np.float32), method="direct")
        stop.set(); thread.join()
        assert len(ticks) > 20, len(ticks)
        """,
        warm_cache,
    )
