"""The names that others build on."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_haul

SRC = Path(hf_haul.__file__).parents[1]

#: A name that goes from this list breaks somebody; a name that comes is a decision.
PUBLIC = [
    "AccelerationWarning",
    "BandwidthLimiter",
    "CachedRepositories",
    "CachedRepository",
    "CachedRevision",
    "CertificateError",
    "CheckedFile",
    "CleanResult",
    "ConnectionFailedError",
    "ConnectionPool",
    "DefaultPolicy",
    "Digest",
    "DiskFullError",
    "DownloadCancelledError",
    "DownloadHandle",
    "DownloadMetrics",
    "DownloadPlan",
    "DownloadPriority",
    "DownloadProgress",
    "DownloadState",
    "DownloadTask",
    "FilePlan",
    "FileProblem",
    "FileRequest",
    "FileSpec",
    "HaulError",
    "HaulFileSystem",
    "HttpStatusError",
    "IntegrityError",
    "KeptFile",
    "LinkExpiredError",
    "ModelDownloadQueue",
    "ParallelDownloadManager",
    "PartialFile",
    "PartialOwner",
    "PartialStatus",
    "PriorityPolicy",
    "QueueProgress",
    "RangeRefusedError",
    "RemoteFile",
    "RetriesExhaustedError",
    "ServerBusyError",
    "Settings",
    "SourceChangedError",
    "StalledError",
    "TransferError",
    "UnsafePathError",
    "VerifyProgress",
    "VerifyReport",
    "accelerate",
    "clean",
    "default_manager",
    "hf_hub_download",
    "list_cached",
    "plan",
    "register",
    "snapshot_download",
    "status",
    "unregister",
    "verify",
]


def test_the_public_names_are_these() -> None:
    assert list(hf_haul.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_described(name: str) -> None:
    value = getattr(hf_haul, name)
    assert value.__name__ == name
    assert inspect.getdoc(value), "a docstring"
    assert name in dir(hf_haul)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'hf_haul' has no attribute 'snapshot_upload'"):
        hf_haul.snapshot_upload  # type: ignore[attr-defined]  # noqa: B018  that is the point


def test_type_checkers_see_the_names_where_they_are_loaded_from() -> None:
    tree = ast.parse((SRC / "hf_haul/__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == hf_haul._HOMES
    assert sorted(typed) == list(hf_haul.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import hf_haul; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(SRC)!r}); {code}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert set(done.stdout.split()) <= {"hf_haul", *sys.stdlib_module_names}


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", hf_haul.__version__)


def test_what_is_in_the_cache_is_found_without_what_fetches() -> None:
    """Importing the engine and requests takes longer than the whole call."""
    code = (
        "import sys; from hf_haul import hf_hub_download, snapshot_download; "
        "print(sorted({'requests', 'tenacity', 'hf_haul.manager', 'hf_haul.engine.scheduler'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
