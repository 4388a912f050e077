"""stdout carries results, and nobody has to read them."""

from __future__ import annotations

import ast
from pathlib import Path

import hf_haul.cli


def test_only_two_modules_print() -> None:
    """The others would end in a traceback where nobody reads what they write."""
    folder = Path(hf_haul.cli.__file__).parent
    printing = {
        path.stem
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= {"messages", "streams"}
