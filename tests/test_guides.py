"""Code and files that the guides name exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import hf_haul
from hf_haul.config.file import FILE_NAME

ROOT = Path(__file__).parents[1]
API_MAP = "examples/api-map.md"
GUIDES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("examples/*.md")), *sorted(ROOT.glob(".github/*.md")))
}
#: The API that was asked for: no name of it may be missing from the map.
ASKED_FOR = {
    "DownloadPriority", "DownloadTask", "DownloadProgress", "BandwidthLimiter", "acquire_tokens", "ConnectionPool",
    "_create_session", "get_session", "update_stats", "get_stats", "cleanup_stale_sessions", "close",
    "ModelDownloadQueue", "DownloadMetrics", "ParallelDownloadManager", "add_download_task", "queue_model_download",
    "download_model_parallel", "wait_for_model_completion", "get_download_stats", "get_model_queue_status",
    "cancel_model_download", "pause_downloads", "resume_downloads", "optimize_performance", "shutdown",
    "max_concurrent_downloads", "max_concurrent_files_per_model", "max_bandwidth_bps", "connection_pool_size", "chunk_size",
    "enable_resume", "enable_adaptive_chunking", "enable_compression", "queue_timeout",
}  # fmt: skip
HELPERS = (
    "queue worker", "metrics worker", "adaptive chunking", "header preparation", "fresh download", "basic download",
    "completion handling",
)  # fmt: skip

_MODULES = {name.name for name in pkgutil.walk_packages(hf_haul.__path__, "hf_haul.")}
_CODE = re.compile(r"`(?:hf_haul\.)?([a-z]\w*(?:\.\w+)+)`")
_PATH = re.compile(r"`(?!\d)((?:\.?[\w-]+/)+[\w.*-]*|[\w-]+\.(?:py|md|toml))`")


def _code_named(page: str) -> list[str]:
    """Dotted names whose first part is one of our modules; in the map all there are: a module may have gone."""
    tops = {name.split(".")[1] for name in _MODULES}
    names = [name for name in sorted(set(_CODE.findall(GUIDES[page]))) if not name.endswith((".py", ".md"))]
    return [name for name in names if page == API_MAP or name.split(".")[0] in tops]


def _missing(name: str) -> str | None:
    """What is wrong with ``name``, below hf_haul; ``None`` if it exists."""
    parts = ("hf_haul." + name).split(".")
    cut = next(cut for cut in range(len(parts), 0, -1) if ".".join(parts[:cut]) in {*_MODULES, "hf_haul"})
    found: object = importlib.import_module(".".join(parts[:cut]))
    for position, part in enumerate(parts[cut:], cut):
        if not hasattr(found, part):
            now = [home for home in sorted(_MODULES) for later in parts[position:] if _defines(home, later)]
            moved = f"; it is in {', '.join(now)}" if now else ""
            return f"{name}: {'.'.join(parts[:position])} has no {part}{moved}"
        found = getattr(found, part)
    return None


def _defines(module: str, name: str) -> bool:
    return getattr(getattr(importlib.import_module(module), name, None), "__module__", None) == module


@pytest.mark.parametrize("page", GUIDES)
def test_code_that_a_guide_names_exists(page: str) -> None:
    assert [fault for name in _code_named(page) if (fault := _missing(name))] == []


def test_classes_that_the_guide_for_contributors_names_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w*[a-z])(?:\([^`]*\))?`", GUIDES[".github/CONTRIBUTING.md"]))
    assert len(named) > 5
    ours = {
        name
        for module in [*_MODULES, "tests.benchmarks.harness"]
        for name in vars(importlib.import_module(module))
    }
    assert named - ours == set()


@pytest.mark.parametrize("page", GUIDES)
def test_a_path_that_a_guide_names_exists(page: str) -> None:
    paths = set(_PATH.findall(GUIDES[page])) - {FILE_NAME}  # which users write
    assert [path for path in sorted(paths) if not _is_there(path)] == []


def _is_there(path: str) -> bool:
    return any(
        next(base.glob(path.rstrip("/")), None) is not None
        for base in (ROOT, ROOT / "src/hf_haul", ROOT / ".github")
    )


def test_the_map_has_the_whole_api_that_was_asked_for() -> None:
    assert {name for name in ASKED_FOR if f"`{name}`" not in GUIDES[API_MAP]} == set()
    assert [name for name in HELPERS if not re.search(rf"^\| {name}", GUIDES[API_MAP], re.MULTILINE)] == []


def test_every_row_of_the_map_says_where() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", GUIDES[API_MAP], re.MULTILINE)
    rows = [(name, where) for name, where in rows if where not in {"Here", "---"}]
    assert len(rows) > 40
    assert [name for name, where in rows if not _CODE.search(where) and not re.search(r"`\w+`", where)] == []


def test_a_name_that_moved_is_told_with_where_it_is_now() -> None:
    assert _missing("errors.BandwidthLimiter") == (
        "errors.BandwidthLimiter: hf_haul.errors has no BandwidthLimiter; it is in hf_haul.limiter"
    )
    assert _missing("gone.BandwidthLimiter") == (
        "gone.BandwidthLimiter: hf_haul has no gone; it is in hf_haul.limiter"
    )
    assert _missing("limiter.BandwidthLimiter.gone") == (
        "limiter.BandwidthLimiter.gone: hf_haul.limiter.BandwidthLimiter has no gone"
    )
