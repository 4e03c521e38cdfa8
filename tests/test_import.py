"""What ``import numbaconv`` offers, to the interpreter and to type checkers alike."""

from __future__ import annotations

import ast
from pathlib import Path

import numbaconv as nc


def test_type_checkers_see_what_the_interpreter_does() -> None:
    tree = ast.parse(Path(nc.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    listed = {alias.name for block in blocks for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert listed == set(nc.__all__) - {"__version__"}
    assert set(dir(nc)) == set(nc.__all__)
    for name in nc.__all__:
        assert getattr(nc, name) is not None
