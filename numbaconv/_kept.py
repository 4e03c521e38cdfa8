"""The files of compiled code that are kept (see `_jit`): which they are, how large, and deleting them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = re.compile(r"[0-9a-f]{24}")  # the names that _jit gives to folders and files of compiled code
FILE = re.compile(r".+\.bin|\.new-.+|coefficients\.json")


@dataclass(frozen=True)
class Compiled:
    """One file of the cache."""

    path: Path
    size: int


def compiled_files(root: Path | None) -> Iterator[Compiled]:
    """Yield the files in the cache that this library wrote, tuned coefficients too: nothing else, and nothing through a link."""
    for folder in _entries(root):
        if FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            for path in _entries(folder):
                if FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    try:
                        yield Compiled(path, path.lstat().st_size)
                    except OSError:  # another process has cleared it
                        continue


def _entries(folder: Path | None) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder else []
    except OSError:
        return []


def clear(root: Path | None) -> tuple[int, int]:
    """Delete the compiled files, and their folders where nothing else is left; return how many went and how many could not."""
    removed = kept = 0
    folders = set()
    for file in compiled_files(root):
        folders.add(file.path.parent)
        try:
            file.path.unlink()
            removed += 1
        except OSError:
            kept += 1
    for folder in folders:
        if not _entries(folder):
            with contextlib.suppress(OSError):  # another process has just written to it
                folder.rmdir()
    return removed, kept


def size_of(files: Sequence[Compiled]) -> str:
    """Say how many files there are, and their size in MiB."""
    return f"{len(files)} file{'' if len(files) == 1 else 's'}, {sum(f.size for f in files) / 2**20:.1f} MiB"
