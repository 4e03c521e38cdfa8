"""The README's examples run and print what it says; its two command lines are run by .ci/run."""

from __future__ import annotations

import doctest
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_examples() -> None:
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert tried > 5 and not failed
