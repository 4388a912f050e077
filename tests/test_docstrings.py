"""What docstrings point to exists, and the API reference made of them can be read."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.wants import want_modules

import hf_haul

SRC = Path(hf_haul.__file__).parent
ROOT = Path(__file__).parents[1]

#: Words that begin no sentence in the imperative, which is how docstrings of functions begin.
_NO_VERB = re.compile(
    r"(A|All|An|As|At|Before|Bytes|Every|From|Have|How|In|It|Many|No|None|Nothing|One|Seconds|Some|That|The|There|These"
    r"|They|This|What|When|Where|Whether|Which|Who|Why)\b"
)
_REFERENCE = re.compile(r":(?:mod|func|data|class|meth|attr|exc|obj):`~?([^`]+)`")


def _name_of(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules() -> list[object]:
    return [pytest.param(path, id=_name_of(path)) for path in sorted(SRC.rglob("*.py"))]


def _docstrings(node: ast.AST, within: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every docstring below ``node``, with the names of the classes it stands in."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for child in ast.iter_child_nodes(node):
        inner = (*within, child.name) if isinstance(child, ast.ClassDef) else within
        if isinstance(child, documented):
            yield inner, ast.get_docstring(child) or ""
        yield from _docstrings(child, inner)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _all_docstrings(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    tree = _tree(path)
    yield (), ast.get_docstring(tree) or ""
    yield from _docstrings(tree)


def _has(start: object, names: list[str]) -> bool:
    for position, name in enumerate(names):
        declared = {
            key for each in getattr(start, "__mro__", ()) for key in vars(each).get("__annotations__", {})
        }
        if position == len(names) - 1 and name in declared:
            return True  # an attribute that only instances have
        try:
            start = getattr(start, name)
        except AttributeError:
            return False
    return True


def _exists(target: str, module: str, within: tuple[str, ...]) -> bool:
    names = target.removesuffix("()").split(".")
    here: object = importlib.import_module(module)
    places = [here, hf_haul, builtins]
    for name in within:
        here = getattr(here, name)
        places.insert(0, here)
    if any(_has(place, names) for place in places):
        return True
    for cut in range(len(names), 0, -1):
        try:
            found = importlib.import_module(".".join(names[:cut]))
        except ImportError:
            continue
        return _has(found, names[cut:])
    return False


@pytest.mark.parametrize("path", _modules())
def test_what_a_docstring_points_to_exists(path: Path) -> None:
    module = _name_of(path)
    broken = [
        f"{module}{''.join('.' + name for name in within)}: {target}"
        for within, text in _all_docstrings(path)
        for target in _REFERENCE.findall(text)
        if not _exists(target, module, within)
    ]
    assert broken == []


def _verbless(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
            text = ast.get_docstring(node)
            if text and not is_property and _NO_VERB.match(text):
                yield f"{node.name}: {text.splitlines()[0]}"


@pytest.mark.parametrize("path", _modules())
def test_a_docstring_of_a_function_begins_with_a_verb(path: Path) -> None:
    assert list(_verbless(_tree(path))) == []


@pytest.mark.parametrize("path", _modules())
def test_a_docstring_has_no_markup_that_the_reference_would_show_as_it_stands(path: Path) -> None:
    """pdoc reads Markdown and the commonest of reStructuredText; tables and literal blocks are not among it."""
    wrong = [
        f"{_name_of(path)}: {line}"
        for _, text in _all_docstrings(path)
        for line in text.splitlines()
        if re.search(r"^\s*(={3,}|\.\. )|::$", line)
    ]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_api_reference_is_built_without_a_warning(tmp_path: Path) -> None:
    want_modules("pdoc", extra="docs")
    built = subprocess.run(
        [sys.executable, ROOT / ".ci/api_reference.py", tmp_path],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    pages = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    missing = {_name_of(path).replace(".", "/") + ".html" for path in SRC.rglob("*.py")} - pages
    assert missing == set()
    top = f"{hf_haul.__name__}.html"
    for page in pages - {
        "index.html",
        top,
        "hf_haul/cli/__main__.html",
    }:  # pdoc leads to no name with an underscore
        above, _, name = page.removesuffix(".html").rpartition("/")
        assert f"{above.rpartition('/')[2]}/{name}.html" in (tmp_path / f"{above}.html").read_text(
            encoding="utf-8"
        )
    first = (tmp_path / top).read_text(encoding="utf-8")
    assert [name for name in hf_haul.__all__ if f'id="{name}"' not in first] == []
