"""Weights on disk: .safetensors or .npz, written whole or not at all, never unpickled."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from numbaconv.arrays import Array
from numbaconv.nn.module import Module


def save(path: Any, state: Any) -> None:
    """Write named arrays to a file; a file of that name is replaced once the new one is complete.

    ``numpy.save`` takes the path first and ``torch.save`` the object: here either order is understood.

    Parameters
    ----------
    path : path
        Ends in ".safetensors", which needs the package safetensors, or ".npz".
    state : Module or mapping of str to array_like
        A network, or what ``state_dict`` gives.

    Raises
    ------
    ValueError
        If the path has another ending.
    TypeError
        If a name is not a string or an array is not numeric.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from numbaconv import nn
    >>> layer = nn.Linear(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     nn.save(path, layer.state_dict())
    ...     layer.load_state_dict(nn.load(path))
    """
    if isinstance(state, (str, os.PathLike)):
        path, state = state, path
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or a path, got {type(path).__name__}")
    if isinstance(state, Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a Module or a mapping of names to arrays, got {type(state).__name__}")
    path = Path(path)
    write, _ = _format(path)
    arrays = {}
    for name, value in state.items():
        array = np.asarray(value)
        if not isinstance(name, str) or array.dtype.kind not in "biufc":
            raise TypeError(f"state must map strings to numeric arrays, got {name!r} with dtype {array.dtype}")
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    # Beside the target, since only a rename inside one file system is atomic.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(partial, "xb") as file:
            write(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read named arrays from a file, for ``load_state_dict``.

    Parameters
    ----------
    path : path
        A file that `save` or another program wrote; ends in ".safetensors" or ".npz". Pickled objects are refused.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If the path has another ending, or the file is damaged or of another kind.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     nn.save(path, {"0.bias": np.zeros(2)})
    ...     nn.load(path)
    {'0.bias': array([0., 0.])}
    """
    path = Path(path)
    _, read = _format(path)
    with open(path, "rb") as file:
        return read(file, str(path))


def _write_npz(file: BinaryIO, arrays: dict[str, Array]) -> None:
    # Not np.savez, whose keyword arguments are the names: it cannot store one called "file".
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(file: BinaryIO, path: str) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, AttributeError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npz file of arrays: {error}") from error


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("files ending in .safetensors need the package safetensors: pip install safetensors") from error
    return safetensors.numpy


def _write_safetensors(file: BinaryIO, arrays: dict[str, Array]) -> None:
    try:
        file.write(_safetensors().save(arrays))
    except KeyError as error:
        raise TypeError(f"a .safetensors file cannot hold dtype {error}; .npz can") from error


def _read_safetensors(file: BinaryIO, path: str) -> dict[str, Array]:
    package = _safetensors()
    try:
        return dict(package.load(file.read()))
    except Exception as error:  # the package raises its own class and, for dtypes unknown to NumPy, KeyError
        raise ValueError(f"{path} is not a readable .safetensors file of NumPy arrays: {error}") from error


_FORMATS: dict[str, tuple[Callable[[BinaryIO, dict[str, Array]], None], Callable[[BinaryIO, str], dict[str, Array]]]] = {
    ".safetensors": (_write_safetensors, _read_safetensors),
    ".npz": (_write_npz, _read_npz),
}


def _format(path: Path) -> tuple[Any, Any]:
    if path.suffix not in _FORMATS:
        raise ValueError(f"the file name must end in one of {tuple(_FORMATS)}, got {path.name!r}")
    return _FORMATS[path.suffix]
