"""How a kernel is compiled and where compiled code is kept: the one place that calls njit.

Numba's own ``cache=True`` is not used: it returns stale code when a callee in another file changes, fails on a read-only disk,
raises on a truncated file and unpickles before any check. The cache here is one file per compiled signature, in a folder
named by the hash of all kernel sources, the versions and the CPU; owner-only, written atomically, verified before it is
unpickled. Any trouble with it means that the kernel is compiled again, never an error.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import serialize
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock

from numbaconv import _share

try:
    from numbaconv._callee import OPTIONS as CALLEE
except ImportError:  # it builds on what is private to Numba: without it we merely compile for longer
    CALLEE = {}

# Sums may be reordered and multiply-adds contracted; NaN, Inf and signed zeros keep their meaning.
FASTMATH = {"reassoc", "contract"}
MAGIC = b"numbaconv-cache-1\n"
unsigned = np.uint64  # an index of this type spares Numba's check for negative ones, which would keep LLVM from using vectors


def named_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function a name that no other has, in this process or another; return the function.

    Numba numbers functions from 1 in every process and makes symbols of that. Kernels that two processes compiled and cached
    could then have symbols in common, and where a third loads both, one would call the other's functions. The name is drawn
    anew for each function, so that forked processes draw other ones.
    """
    function.__qualname__ += f"_{secrets.token_hex(8)}"
    return function


def inline(function: Callable[..., Any], fastmath: set[str] = FASTMATH) -> Any:
    """Compile a function that kernels call.

    It counts no references, so it can make views of its arguments but no arrays: Numba's code counts every array that a function is
    given, by two locked instructions each, which took a fifth of the time of small tiles. Numba's own functions use this option, too.
    """
    return numba.njit(nogil=True, fastmath=fastmath, inline="never", error_model="numpy", _nrt=False, **CALLEE)(named_apart(function))


def exact(function: Callable[..., Any]) -> Any:
    """Compile arithmetic whose order matters, and that LLVM must see inside the loops which call it."""
    return numba.njit(nogil=True, fastmath={"contract"}, forceinline=True, error_model="numpy", _nrt=False, **CALLEE)(named_apart(function))


class Kernel:
    """A kernel source, ``(first, last, workers, scratch, *arguments) -> None``, compiled on first use in either of two ways."""

    def __init__(self, function: Callable[..., None], variant: str = "", fastmath: set[str] = FASTMATH) -> None:
        self.function, self.fastmath = named_apart(function), fastmath
        self.__doc__, self.__name__ = function.__doc__, function.__module__.rpartition(".")[2] + function.__name__ + variant

    @cached_property
    def pooled(self) -> Any:
        """``(first, last, job, scratch, *arguments)``: its prange is a range, and all who share the job draw tiles; no one does if it is empty."""
        names = list(inspect.signature(self.function).parameters)[4:]
        return compiled(_share.entry(names, inline(self.function, self.fastmath)), f"{self.__name__}-pool", self.fastmath)

    @cached_property
    def parallel(self) -> Any:
        """Its prange is shared among Numba's own threads."""
        return compiled(self.function, f"{self.__name__}-numba", self.fastmath, parallel=True)


def compiled(function: Callable[..., Any], name: str, fastmath: set[str] = FASTMATH, parallel: bool = False) -> Any:
    """Compile what Python calls, without the GIL; the code is kept under that name. On _nrt see `inline`; what is parallel cannot do without."""
    dispatcher = numba.njit(named_apart(function), nogil=True, parallel=parallel, fastmath=fastmath, error_model="numpy", _nrt=parallel)
    if hasattr(dispatcher, "_cache"):  # private to Numba: without it we merely compile in every process
        dispatcher._cache = CodeCache(dispatcher, name)
    return dispatcher


def in_order(function: Callable[..., None]) -> Kernel:
    """Compile a kernel whose sums are rounded as they are written: nothing is reordered or contracted."""
    return Kernel(function, fastmath=set())


class CodeCache:
    """What Numba's dispatcher asks for compiled code; it has the interface of ``numba.core.caching._Cache``."""

    def __init__(self, dispatcher: Any, name: str) -> None:
        self.dispatcher, self.name = dispatcher, name

    def _file(self, signature: Any) -> Path | None:
        folder = version_folder(repr(self.dispatcher.targetctx.codegen().magic_tuple()))
        digest = hashlib.sha256(repr(signature).encode()).hexdigest()[:16]
        return folder and folder / f"{self.name}-{digest}.bin"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled code or None."""
        try:
            target_context.refresh()
            path = self._file(signature)
            payload = read_verified(path) if path else None
            return payload and CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep compiled code for later processes, if that can be done."""
        try:
            path = self._file(signature)
            if path and not result.lifted and not result.library.has_dynamic_globals:
                write_verified(path, serialize.dumps(result._reduce()))
        except Exception:
            return

    def enable(self) -> None:
        """Do nothing: there is no other state."""

    disable = flush = enable

    @property
    def cache_path(self) -> str:
        """Where the code is kept."""
        return str(cache_folder())


def read_verified(path: Path) -> bytes | None:
    """Return the payload of a cache file, or None unless the file is whole and nobody but us could have written it."""
    content = read_ours(path)
    if content is None:
        return None
    head, digest, payload = content[: len(MAGIC)], content[len(MAGIC) : len(MAGIC) + 32], content[len(MAGIC) + 32 :]
    return payload if head == MAGIC and hashlib.sha256(payload).digest() == digest else None


def read_ours(path: Path, most: int = -1) -> bytes | None:
    """Return the first ``most`` bytes of a file, or all; None if there is none or somebody else could have written it."""
    try:
        with open(path, "rb") as file:
            return file.read(most) if _only_ours(os.fstat(file.fileno())) else None
    except OSError:
        return None


def write_verified(path: Path, payload: bytes) -> None:
    """Write a cache file with what `read_verified` checks."""
    write_atomically(path, MAGIC + hashlib.sha256(payload).digest() + payload)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, so that a reader sees all of it or nothing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _only_ours(status: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):
        return True  # Windows: the folder lies under the user's profile
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def user_cache_folder() -> Path:
    """Return the folder that the user asked for (NUMBACONV_CACHE_DIR) or the platform's cache folder."""
    asked = os.environ.get("NUMBACONV_CACHE_DIR")
    if asked:
        return Path(asked)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "numbaconv" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "numbaconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numbaconv"


@cache
def cache_folder() -> Path | None:
    """Return the first of the user's cache folder and one in the temporary folder that is ours and can be written; else None."""
    owner = os.geteuid() if hasattr(os, "geteuid") else "user"
    for candidate in (user_cache_folder, lambda: Path(tempfile.gettempdir()) / f"numbaconv-{owner}"):
        try:
            folder = candidate()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _only_ours(os.stat(folder)) and os.access(folder, os.W_OK | os.X_OK):
                return folder
        except (OSError, RuntimeError):
            continue
    return None


@cache
def source_hash() -> str | None:
    """Hash of this file, of the compiler's, of what shares and of every kernel source, since a kernel's code may come from any of them."""
    here = Path(__file__).parent
    try:
        sources = [Path(__file__), here / "_callee.py", here / "_share.py", *sorted((here / "cpu").glob("*.py"))]
        return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
    except OSError:
        return None


@cache
def version_folder(target: str) -> Path | None:
    """Return the folder for the code of these sources, these versions and this CPU."""
    sources = source_hash()
    return folder_of((sources, sys.version, numba.__version__, llvmlite.__version__, np.__version__, target)) if sources else None


def folder_of(versions: tuple[str, ...]) -> Path | None:
    """Return the folder for code that depends on these, if there is a place for it that is ours."""
    root = cache_folder()
    if root is None:
        return None
    folder = root / hashlib.sha256(repr(versions).encode()).hexdigest()[:24]
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if _only_ours(os.stat(folder)) else None


# A fork while another thread compiles would leave the child with a lock that nobody will release.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
