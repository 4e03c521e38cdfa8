"""asv: what the first seconds cost: the import over NumPy's own, and the first call in a fresh process.

asv runs what a ``timeraw_`` function returns, (statement, set-up), in a process of its own and times the statement.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

INPUTS = "import numpy as np; r = np.random.default_rng(); x, w = r.random((1, 8, 32, 32), 'f'), r.random((8, 8, 3, 3), 'f')"
CALL = "nc.conv2d(x, w, padding=1)"


class Import:
    """Imports, NumPy already there."""

    number, rounds, repeat = 1, 1, (3, 10, 10.0)

    def timeraw_package(self) -> tuple[str, str]:
        """``import numbaconv``, which loads nothing else."""
        return "import numbaconv", "import numpy"

    def timeraw_function(self) -> tuple[str, str]:
        """``from numbaconv import conv2d``: the functions and their documentation; Numba comes with the first call."""
        return "from numbaconv import conv2d", "import numpy"


class FirstCall:
    """The first conv2d of a process: Numba's import, and kernels compiled or read."""

    number, rounds, repeat, timeout = 1, 1, (3, 5, 30.0), 300

    def setup(self) -> None:
        """Fill a cache of compiled code with what the call needs."""
        self.folder = tempfile.TemporaryDirectory(prefix="numbaconv-benchmark-")
        environment = {**os.environ, "NUMBACONV_CACHE_DIR": self.folder.name}
        subprocess.run([sys.executable, "-c", f"{INPUTS}; import numbaconv as nc; {CALL}"], env=environment, check=True)

    def teardown(self) -> None:
        """Remove the cache."""
        self.folder.cleanup()

    def timeraw_cold(self) -> tuple[str, str]:
        """Nothing in the cache: the kernels are compiled."""
        return CALL, _setup("(folder := tempfile.TemporaryDirectory()).name")

    def timeraw_warm(self) -> tuple[str, str]:
        """Kernels read from the cache."""
        return CALL, _setup(repr(self.folder.name))


def _setup(folder: str) -> str:
    return f"import os, tempfile; os.environ['NUMBACONV_CACHE_DIR'] = {folder}; {INPUTS}; import numbaconv as nc; nc.conv2d"
