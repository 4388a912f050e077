"""Imports point one way, and third parties stay behind their fences."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hf_haul

SRC = Path(hf_haul.__file__).parent

#: From the ground up. A module imports only from rows above its own here; a folder counts as one module.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("headers",),
    ("errors", "forks"),
    ("urls", "descriptors"),
    ("digests", "waits"),
    ("cancellation", "redaction", "ranges", "task", "config", "processors", "retry_after", "threads"),
    ("limiter", "metrics", "finalizers", "failures"),
    ("storage", "transports"),
    ("engine", "reading"),
    ("manager",),
    ("hub",),
    ("filesystem",),
    ("lab",),
    ("cluster",),
    ("cli",),
)
#: Not written yet; a row of their own waits for them.
PLANNED: set[str] = set()
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}

#: Which modules may import what comes from elsewhere. A package not named here, nor in the standard library, is new:
#: a decision, to be written down here and in pyproject.toml.
FENCES: dict[str, set[str]] = {
    "requests": {"transports"},
    "urllib3": {"transports"},
    "tenacity": {"transports"},
    "hf_xet": {"transports"},
    "huggingface_hub": {"hub", "filesystem", "lab", "cluster", "cli"},
    "fsspec": {"filesystem"},
    "upath": {"filesystem"},  # never a dependency: whoever loads its entry point has it
    "pyarrow": {"reading"},  # never a dependency: used where the reader of the file has imported it already
    "tqdm": {"hub", "cli"},
    "platformdirs": {"config"},
    "tomli": {"config"},  # tomllib of Python 3.11, for 3.10
    "distributed": {"cluster"},  # the extra "dask"
    "ray": {"cluster"},  # the extra "ray"
    "aiohttp": {"localhub", "cluster"},
    "multidict": {"localhub", "cluster"},  # aiohttp's own headers
}
#: Who may import the local hub, which stands beside the layers.
LOCALHUB_IS_KNOWN_TO = {"lab", "cluster", "cli"}
#: What the local hub may know of the client: nothing that could share a bug with it.
LOCALHUB_KNOWS = {"errors", "config", "localhub"}
PURE = (
    "errors",
    "ranges",
    "urls",
    "task",
    "hub/presets",
    "transports/concurrency",
    "transports/load",
    "engine/priority",
    "engine/plan",
    "cluster/bitmaps",
    "cluster/homes",
    "cluster/known_nodes",
    "cluster/node_state",
    "cluster/shares",
    "cluster/stripes",
    "reading/readahead",
    "reading/siblings",
)


def _files() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _unit(path: Path) -> str:
    """The module a file belongs to: ``task`` for task.py, ``storage`` for all in that folder."""
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def _typing_only(tree: ast.Module) -> set[ast.AST]:
    """What stands below ``if TYPE_CHECKING``."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Full names of all that a file imports, and where; other people's types are free to use as types."""
    tree = _tree(path)
    typing_only = _typing_only(tree)
    for node in ast.walk(tree):
        if node in typing_only and not ast.unparse(node).startswith("from hf_haul"):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            if node.module == "hf_haul":
                for alias in node.names:
                    yield f"hf_haul.{alias.name}", node.lineno
            else:
                yield node.module, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "importlib.import_module",
            "__import__",
        }:
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield str(argument.value), node.lineno


def _our_imports(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in _imports(path):
        root, _, rest = name.partition(".")
        if root == "hf_haul" and not rest.startswith("__"):
            yield rest.partition(".")[0], line


def _inner_files() -> list[object]:
    return [
        pytest.param(path, id=path.relative_to(SRC).as_posix())
        for path in _files()
        if path != SRC / "__init__.py"
    ]


def test_every_module_has_its_layer() -> None:
    units = {_unit(path) for path in _files()} - {"__init__", "localhub"}
    assert units - LEVEL.keys() == set(), "give it a row in LAYERS, and a line in hf_haul.__doc__"
    assert LEVEL.keys() - units <= PLANNED


def test_a_planned_module_that_exists_is_no_longer_planned() -> None:
    assert PLANNED.isdisjoint({_unit(path) for path in _files()})


@pytest.mark.parametrize("path", _inner_files())
def test_imports_point_down(path: Path) -> None:
    unit = _unit(path)
    if unit == "localhub":
        wrong = [f"{path}:{line}: {name}" for name, line in _our_imports(path) if name not in LOCALHUB_KNOWS]
    else:
        wrong = [
            f"{path}:{line}: {name}"
            for name, line in _our_imports(path)
            if not (name == unit or LEVEL.get(name, 99) < LEVEL[unit])
            and not (name == "localhub" and unit in LOCALHUB_IS_KNOWN_TO)
        ]
    assert wrong == []


@pytest.mark.parametrize("path", _inner_files())
def test_third_parties_stay_behind_their_fences(path: Path) -> None:
    wrong = [
        f"{path}:{line}: {name}"
        for name, line in _imports(path)
        if (root := name.partition(".")[0]) not in {"hf_haul", *sys.stdlib_module_names}
        and _unit(path) not in FENCES.get(root, set())
    ]
    assert wrong == []


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_knows_nothing_of_files_sockets_and_threads(name: str) -> None:
    path = SRC / f"{name}.py"
    forbidden = {
        "socket",
        "threading",
        "subprocess",
        "shutil",
        "tempfile",
        "requests",
        "huggingface_hub",
        "asyncio",
    }
    used = {imported.partition(".")[0] for imported, _ in _imports(path)}
    assert used & forbidden == set()


@pytest.mark.parametrize("path", _inner_files())
def test_only_the_command_prints(path: Path) -> None:
    calls = [
        f"{path}:{node.lineno}"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == [] or _unit(path) == "cli"


@pytest.mark.parametrize("path", _inner_files())
def test_only_config_reads_our_variables(path: Path) -> None:
    """Elsewhere ``HF_HAUL_`` may stand in prose, but not where the environment is read."""
    reads = [
        f"{path}:{node.lineno}"
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.Call, ast.Subscript))
        and "environ" in ast.unparse(node)
        and "HF_HAUL_" in ast.unparse(node)
    ]
    assert reads == [] or _unit(path) == "config"


@pytest.mark.parametrize("path", _inner_files())
def test_only_one_module_reads_urls(path: Path) -> None:
    """Two parsers differ sooner or later, and what differs is who gets the token."""
    readers = {"urlsplit", "urlparse", "urljoin", "urlunsplit", "urlunparse", "parse_url"}
    wrong = [
        f"{path}:{node.lineno}"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ImportFrom)
        and not str(node.module).startswith("hf_haul")
        and readers & {alias.name for alias in node.names}
    ]
    assert wrong == [] or _unit(path) in {"urls", "localhub"}


@pytest.mark.parametrize("path", _inner_files())
def test_every_module_says_what_it_is_and_what_it_offers(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "a module docstring"
    names = [
        target.id
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in names


@pytest.mark.parametrize("path", _inner_files())
def test_a_suppression_names_its_rule_and_its_reason(path: Path) -> None:
    """Rule and reason on one line: first the rule's number, then two blanks, then why."""
    wrong = [
        f"{path}:{number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"#\s*(noqa|type:\s*ignore)", line)
        and not re.search(
            r"#\s*(noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*|type: ignore\[[a-z, -]+\])\s+#?\s*[^\s#]", line
        )
    ]
    assert wrong == []


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in _files()}
    assert names.isdisjoint({"utils", "util", "helpers", "common", "misc"})


def test_the_map_names_every_module_in_an_order_that_its_imports_follow() -> None:
    assert hf_haul.__doc__ is not None
    mapped = re.findall(r"^- ``(\w+)``: ", hf_haul.__doc__, re.MULTILINE)
    units = {_unit(path) for path in _files()} - {"__init__"}
    assert sorted(mapped) == sorted(units)
    above: set[str] = set()
    for name in mapped:
        paths = [path for path in _files() if _unit(path) == name]
        known = {imported for path in paths for imported, _ in _our_imports(path)} - {name}
        assert known <= above, f"{name} imports {known - above}, which the map puts below it"
        above.add(name)


@pytest.mark.parametrize("path", _inner_files())
def test_only_forks_asks_to_be_called_in_a_forked_child(path: Path) -> None:
    """All else registers there: the order and what may be relied on are one module's business."""
    uses = [
        f"{path}:{n.lineno}" for n in ast.walk(_tree(path)) if getattr(n, "attr", "") == "register_at_fork"
    ]
    assert uses == [] or _unit(path) == "forks"


@pytest.mark.parametrize("path", _inner_files())
def test_no_lock_of_the_standard_library_is_held_over_all_instances(path: Path) -> None:
    """Until Python 3.11, ``functools.cached_property`` does, and nothing makes it anew in a forked child."""
    names = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(_tree(path))}
    assert "cached_property" not in names or _unit(path) == "localhub"


def _module(path: Path) -> str:
    """``storage.mounts`` for storage/mounts.py, ``storage`` for its __init__.py."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def _modules_imported(path: Path, known: set[str]) -> set[str]:
    """Our modules that a file imports anywhere: at its top, within functions, or for type checkers alone."""
    found = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:  # a module of a package, or what a module defines
                name = f"{node.module}.{alias.name}"
                found.add(name if name.removeprefix("hf_haul.") in known else str(node.module))
    return {name.removeprefix("hf_haul.") for name in found if name.startswith("hf_haul.")} & known


def _circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules that need each other."""
    reach = {name: set(below) for name, below in graph.items()}
    for middle, further in reach.items():
        for below in reach.values():
            if middle in below:
                below |= further
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in reach}
    return sorted((set(group) for group in groups if group), key=sorted)


def test_no_module_needs_one_that_needs_it() -> None:
    """Imports for type checkers count, and those within functions: two modules in a circle cannot be read one by one."""
    paths = {_module(path): path for path in _files() if path != SRC / "__init__.py"}
    graph = {name: _modules_imported(path, set(paths)) for name, path in paths.items()}
    assert _circles(graph) == []


def test_a_circle_is_found_however_long_it_is() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d", "f"}, "f": {"e"}, "g": {"a"}}
    assert _circles(graph) == [{"a", "b", "c"}, {"e", "f"}]


PACKAGES = (
    "config", "failures", "storage", "transports", "engine", "reading", "hub", "filesystem", "localhub", "lab",
    "cluster", "cli",
)  # fmt: skip


@pytest.mark.parametrize(
    "package", [each for each in PACKAGES if each != "cli"]
)  # it has a module for each command
def test_a_package_says_what_its_modules_are_for(package: str) -> None:
    text = ast.get_docstring(_tree(SRC / package / "__init__.py")) or ""
    modules = {path.stem for path in (SRC / package).glob("*.py")} - {"__init__", "__main__"}
    named = {name.partition(".")[0] for name in re.findall(r"`([a-z_.]+)`", text)}
    assert modules - named == set(), f"say in the docstring of hf_haul.{package} what they are for"


@pytest.mark.parametrize(
    "path", [path for path in _files() if len(path.read_bytes().splitlines()) > 500], ids=str
)
def test_a_file_of_more_than_500_lines_says_why(path: Path) -> None:
    first = (ast.get_docstring(_tree(path)) or "").split("\n\n")[:2]
    assert re.search(r"\b([Tt]his long because|Long because)\b", " ".join(first)), (
        "say in the first paragraph why it is long, or carve it"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_may_import(package: str) -> None:
    text = ast.get_docstring(_tree(SRC / package / "__init__.py")) or ""
    assert re.search(r"\b[Mm]ay\s+import\b", text)
