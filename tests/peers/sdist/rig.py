"""A conftest for huggingface_hub's own tests: a writable Hub in this process instead of hub-ci.

It is put next to the tests as ``conftest.py``. Repositories that the tests make, they make in a local Hub;
repositories of the real Hub that they read exist in it under the same names and commit ids. With ``HAUL_DOOR=ours``
the tests' ``hf_hub_download`` and ``snapshot_download`` are hf_haul's.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul.localhub import Account, BytesContent, LocalHub, Repo
from hf_haul.localhub.trees import FileEntry, Tree

TOKEN = "hf_HubCITokenXXXXXXXXXXXXXXXXXXXXX"
OTHER_TOKEN = "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"
USER = "__DUMMY_HUB_USER__"
HOME = Path(tempfile.mkdtemp(prefix="sdist-suites-"))
GITATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _published() -> list[Repo]:
    """Repositories of the real Hub that the tests read."""
    dummy = Repo("julien-c/dummy-unknown")
    files = {
        "README.md": b"# dummy\n",
        ".gitattributes": GITATTRIBUTES,
        "config.json": b'{"model_type": "bert"}'.ljust(851),
        "merges.txt": b"#version: 0.2\n",
        "vocab.json": b"{}\n",
        "pytorch_model.bin": b"\x80\x02" + bytes(65_074),
        "tf_model.h5": bytes(2_000),
        "flax_model.msgpack": bytes(1_000),
    }
    for commit in (
        "44c70f043cfe8162efc274ff531575e224a0e6f0",
        "f2c752cfc5c0ab6f4bdec59acea69eefbee381c2",
        "60b8d3fe22aebb024b573f1cca224db3126d10f3",
    ):
        files = {**files, "README.md": f"# dummy at {commit}\n".encode()}
        _known(dummy, commit, files)
    dummy.branch("refs/pr/1")
    layout = Repo("hf-internal-testing/hfh-cache-layout")
    files = {".gitattributes": GITATTRIBUTES, "file_0.txt": b"File 0"}
    layout.commit({**files, "file_1.txt": b"File 1"}, "main")
    for number in (2, 3):
        layout.branch(f"file-{number}")
        layout.commit({f"file_{number}.txt": b"File %d" % number}, "more", branch=f"file-{number}")
    renamed = Repo("hf-internal-testing/dummy-renamed")
    renamed.commit(
        {"README.md": b"# renamed\n", "config.json": b"{}\n", "pytorch_model.bin": bytes(100)},
        "first",
    )
    return [dummy, layout, renamed]


def _known(repo: Repo, commit: str, files: dict[str, bytes]) -> None:
    entries = [
        FileEntry(path, BytesContent(data), path.endswith((".bin", ".h5", ".msgpack")))
        for path, data in files.items()
    ]
    repo.add_tree(Tree(entries), "published", known_id=commit)


PORT = _free_port()
HUB = LocalHub(
    *_published(),
    accounts=[Account(USER, TOKEN, repos=("*",)), Account("DVUser", OTHER_TOKEN)],
    cdn_port=PORT,
    # Another host name: huggingface_hub 1.x takes another port of one host for the same Hub.
    cdn_url=f"http://localhost:{PORT}",
).start()
HUB.catalog.rename("hf-internal-testing/dummy-will-be-renamed", "hf-internal-testing/dummy-renamed")

os.environ.update(
    HF_ENDPOINT=HUB.url,
    HF_HOME=str(HOME),
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HAUL_FIRST_RETRY_WAIT="0.01",
    HF_HAUL_MAX_RETRIES="2",
    HF_HAUL_DISK_CHECK="warn",
    NO_PROXY="*",
)

import huggingface_hub  # noqa: E402  it reads its environment when it is imported
from huggingface_hub import HfApi, file_download  # noqa: E402  the same
from huggingface_hub.hf_api import CommitInfo, RepoUrl  # noqa: E402  the same


def _repo(repo_id: str, repo_type: str | None = None) -> Repo:
    repo = HUB.catalog.get(repo_type or "model", repo_id)
    assert repo is not None, f"no {repo_type} {repo_id}"
    return repo


def _bytes(source: Any) -> bytes:
    if isinstance(source, bytes):
        return source
    if hasattr(source, "read"):
        return bytes(source.read())
    return Path(source).read_bytes()


def _create_repo(
    self: HfApi,
    repo_id: str,
    *,
    repo_type: str | None = None,
    private: bool | None = None,
    exist_ok: bool = False,
    **_: Any,
) -> RepoUrl:
    full = repo_id if "/" in repo_id else f"{USER}/{repo_id}"
    if HUB.catalog.get(repo_type or "model", full) is None:
        repo = Repo(full, repo_type or "model", private=bool(private))
        repo.commit({".gitattributes": GITATTRIBUTES}, "initial commit")
        HUB.add(repo)
    prefix = "" if repo_type in (None, "model") else f"{repo_type}s/"
    return RepoUrl(f"{HUB.url}/{prefix}{full}", endpoint=HUB.url)


def _create_commit(
    self: HfApi,
    repo_id: str,
    operations: Any,
    *,
    commit_message: str,
    revision: str | None = None,
    repo_type: str | None = None,
    **_: Any,
) -> CommitInfo:
    files = {each.path_in_repo: _bytes(each.path_or_fileobj) for each in operations}
    made = _repo(repo_id, repo_type).commit(files, commit_message, branch=revision or "main")
    return CommitInfo(
        commit_url=f"{HUB.url}/{repo_id}/commit/{made.id}",
        commit_message=commit_message,
        commit_description="",
        oid=made.id,
    )


def _upload_file(
    self: HfApi, *, path_or_fileobj: Any, path_in_repo: str, repo_id: str, **more: Any
) -> CommitInfo:
    operation = huggingface_hub.CommitOperationAdd(path_in_repo, _bytes(path_or_fileobj))
    kept = {name: more[name] for name in ("revision", "repo_type") if name in more}
    return _create_commit(self, repo_id, [operation], commit_message="upload", **kept)


def _create_branch(self: HfApi, repo_id: str, *, branch: str, revision: str | None = None, **_: Any) -> None:
    _repo(repo_id).branch(branch, revision or "main")


def _delete_repo(self: HfApi, repo_id: str, *, repo_type: str | None = None, **_: Any) -> None:
    repo = HUB.catalog.get(repo_type or "model", repo_id)
    if repo is not None:
        HUB.catalog.remove(repo)


def _update_repo_settings(
    self: HfApi, repo_id: str, *, private: bool | None = None, gated: Any = None, **_: Any
) -> None:
    repo = _repo(repo_id)
    if private is not None:
        repo.private = private
    if gated is not None:
        repo.gated = gated


def _move_repo(self: HfApi, from_id: str, to_id: str, **_: Any) -> None:
    repo = _repo(from_id)
    HUB.catalog.remove(repo)
    repo.repo_id = to_id
    HUB.add(repo)
    HUB.catalog.rename(from_id, to_id)


for _name, _function in {
    "create_repo": _create_repo,
    "create_commit": _create_commit,
    "upload_file": _upload_file,
    "create_branch": _create_branch,
    "delete_repo": _delete_repo,
    "update_repo_settings": _update_repo_settings,
    "move_repo": _move_repo,
}.items():
    setattr(HfApi, _name, _function)

# Waits between attempts are upstream's own and not what is tested here.
huggingface_hub.utils._http.time = SimpleNamespace(sleep=lambda _: None, time=time.time)

if os.environ["HAUL_DOOR"] == "ours":
    import hf_haul.hub.single_file as _our_file
    import hf_haul.hub.snapshot as _ours

    for _place in (huggingface_hub, file_download):
        _place.hf_hub_download = _our_file.hf_hub_download
    huggingface_hub.snapshot_download = _ours.snapshot_download


class RepoFactory:
    """Makes repositories, and removes them at the end of a test."""

    def __init__(self) -> None:
        self._made: list[tuple[str, str | None]] = []

    def __call__(self, repo_type: str | None = None, *, repo_id: str | None = None, **more: Any) -> RepoUrl:
        name = repo_id or f"repo-{time.monotonic_ns()}"
        url = HfApi(token=TOKEN).create_repo(name, repo_type=repo_type, **more)
        self._made.append((url.repo_id, repo_type))
        return url

    def close(self) -> None:
        for repo_id, repo_type in self._made:
            HfApi(token=TOKEN).delete_repo(repo_id, repo_type=repo_type)


@pytest.fixture(scope="session")
def api() -> HfApi:
    return HfApi(endpoint=HUB.url, token=TOKEN)


@pytest.fixture
def repo_factory() -> Iterator[RepoFactory]:
    factory = RepoFactory()
    yield factory
    factory.close()
