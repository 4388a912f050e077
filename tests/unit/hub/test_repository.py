from __future__ import annotations

import threading
from typing import Any

import pytest
from huggingface_hub import RepoFile, constants, file_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    RemoteEntryNotFoundError,
)
from tests.support.hub_answers import (
    ENDPOINT,
    SHA,
    SHA256,
    XET,
    Waits,
    error_of,
    head,
    http,
    repository,
    serve_all,
)

from hf_haul.digests import Digest
from hf_haul.hub import metadata
from hf_haul.hub.metadata import FileMetadata, ListedFile
from hf_haul.hub.repository import Repository


def test_only_files_without_a_digest_cost_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def metadata(self: Repository, path: str, revision: str, **_: Any) -> FileMetadata:
        asked.append(path)
        if path == "refused":
            raise FileMetadataError("no")
        return FileMetadata(revision, SHA256, 5)

    monkeypatch.setattr(Repository, "metadata", metadata)
    listing = {"plain": ListedFile(7, SHA), "odd": ListedFile(7, "?"), "refused": ListedFile(7, "?")}
    known, failed = repository().complete_metadata(listing, SHA, timeout=1)
    assert sorted(asked) == ["odd", "refused"]
    assert known == {"plain": FileMetadata(SHA, SHA, 7), "odd": FileMetadata(SHA, SHA256, 5)}
    assert [(path, str(error)) for path, error in failed.items()] == [("refused", "no")]


@pytest.mark.parametrize(
    ("size", "etag", "known"),
    [
        pytest.param(5, SHA, 5, id="a size"),
        pytest.param(0, SHA, None, id="0, of a file that is not empty"),
        pytest.param(0, SHA256, None, id="the same by sha256"),
        pytest.param(0, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", 0, id="an empty file"),
        pytest.param(0, "any", 0, id="0, of who knows what"),
        pytest.param(1 << 63, "any", None, id="more than any file has"),
        pytest.param(-1, "any", None, id="less"),
    ],
)
def test_a_size_that_cannot_be_the_files_is_unknown(
    monkeypatch: pytest.MonkeyPatch, size: int, etag: str, known: int | None
) -> None:
    answer_with(monkeypatch, head(etag=etag, size=size))
    found = repository().metadata("a", SHA, timeout=1)
    assert found.size == known
    assert repository().remote_file("a", found).size == known
    if etag == SHA and size >= 0:
        listed = metadata.metadata_from_listing(SHA, ListedFile(size, SHA))
        assert listed is not None
        assert listed.size == known


def test_every_request_names_the_caller_and_counts_as_a_download() -> None:
    headers = repository(library_name="lib", library_version="1", headers={"x-mine": "1"})
    sent = headers.request_headers
    assert sent["authorization"] == "Bearer hf_secret"
    assert sent["user-agent"].startswith("lib/1; ")
    assert sent["x-mine"] == "1"
    if constants.__dict__.get("X_HF_DOWNLOAD_COUNTER"):
        assert sent["X-HF-Download-Counter"] == "1"


def test_without_a_token_none_is_sent() -> None:
    assert "authorization" not in repository(token=False).request_headers


def test_a_remote_file_is_pinned_to_its_commit_and_carries_its_digest() -> None:
    file = repository(repo_type="dataset").remote_file("a b/c?.bin", FileMetadata(SHA, SHA256, 5, XET))
    assert file.url == f"{ENDPOINT}/datasets/org/name/resolve/{SHA}/a%20b/c%3F.bin"
    assert file.digest == Digest("sha256", SHA256)
    assert (file.size, file.etag, file.xet_hash) == (5, SHA256, XET)
    assert file.headers["authorization"] == "Bearer hf_secret"
    assert "hf_secret" not in repr(file)
    assert {ENDPOINT, "https://huggingface.co:443"} <= file.trusted_origins
    assert "http://huggingface.co:80" not in file.trusted_origins


def test_a_repository_never_prints_its_token() -> None:
    assert "secret" not in repr(repository(headers={"authorization": "Bearer hf_secret"}))


def answer_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def fake(**arguments: Any) -> Any:
        asked.append(arguments)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(file_download, "get_hf_file_metadata", fake)
    return asked


def test_metadata_come_from_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, head(size=None))
    found = repository().metadata("a", "refs/pr/1", timeout=3, retry=True)
    assert found == FileMetadata(SHA, SHA256, None, location="http://x")
    assert asked[0]["url"] == f"{ENDPOINT}/org/name/resolve/refs%2Fpr%2F1/a"
    assert (asked[0]["timeout"], asked[0]["retry_on_errors"]) == (3, False)


class Listed:
    """Stands for the API of a mirror."""

    def __init__(self, found: list[Any] | Exception) -> None:
        self.found = found

    def get_paths_info(self, repo_id: str, paths: list[str], **_: Any) -> list[Any]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def repo_file(path: str) -> Any:
    return RepoFile(path=path, size=7, oid=SHA)


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(head(commit=None), id="no commit"),
        pytest.param(head(etag=None), id="no etag"),
        pytest.param("elsewhere", id="refused by a file server behind a redirect"),
    ],
)
def test_a_mirror_that_answers_no_hub_metadata_is_asked_for_its_listing(
    monkeypatch: pytest.MonkeyPatch, outcome: Any
) -> None:
    if outcome == "elsewhere":
        outcome = error_of(405, url=f"{ENDPOINT}/storage/a")
    answer_with(monkeypatch, outcome)
    repo = repository()
    repo.__dict__["_api"] = Listed([repo_file("other"), repo_file("a")])
    assert repo.metadata("a", SHA, timeout=1) == FileMetadata(SHA, SHA, 7)


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param([], id="not listed"),
        pytest.param([repo_file("other")], id="another file"),
        pytest.param(KeyError("size"), id="no proper listing"),
        pytest.param("refused", id="listing refused"),
    ],
)
def test_the_first_error_stands_where_the_listing_does_not_help(
    monkeypatch: pytest.MonkeyPatch, listed: Any
) -> None:
    answer_with(monkeypatch, head(commit=None))
    repo = repository()
    repo.__dict__["_api"] = Listed(error_of(500) if listed == "refused" else listed)
    with pytest.raises(FileMetadataError, match="X-Repo-Commit"):
        repo.metadata("a", SHA, timeout=1)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(404, "EntryNotFound", RemoteEntryNotFoundError), (403, "GatedRepo", GatedRepoError)],
)
def test_what_the_hub_itself_refuses_is_not_looked_up_elsewhere(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[Exception]
) -> None:
    answer_with(monkeypatch, error_of(status, url=f"{ENDPOINT}/elsewhere", X_Error_Code=code))
    repo = repository()
    repo.__dict__["_api"] = Listed([repo_file("a")])
    with pytest.raises(kind):
        repo.metadata("a", SHA, timeout=1)


def test_metadata_are_asked_for_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=10)

    def metadata(self: Repository, path: str, revision: str, **_: Any) -> FileMetadata:
        together.wait()
        return FileMetadata(revision, SHA256, 5)

    monkeypatch.setattr(Repository, "metadata", metadata)
    known, failed = repository().complete_metadata(
        {str(i): ListedFile(1, "?") for i in range(4)}, SHA, timeout=1
    )
    assert len(known) == 4
    assert failed == {}


@pytest.mark.parametrize(
    "error",
    [error_of(503), http.ReadError("reset"), http.ProxyError("refused"), http.TooManyRedirects("loop")],
)
def test_what_a_file_is_confirmed_by_is_asked_for_until_somebody_answers(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    asked: list[list[str]] = []

    def paths_info(self: Repository, paths: list[str], commit: str) -> dict[str, ListedFile]:
        asked.append(paths)
        if len(asked) == 1:
            raise error
        return {"a": ListedFile(7, SHA)}

    monkeypatch.setattr(Repository, "paths_info", paths_info)
    file = repository().remote_file("a", FileMetadata(SHA, "d" * 40, 7))
    assert file.digest_is_etag
    confirm = file.confirm
    assert confirm is not None
    with pytest.raises(type(error)):
        confirm()
    assert [confirm(), confirm()] == [Digest("git-sha1", SHA)] * 2
    assert asked == [["a"], ["a"]]


def test_no_message_about_an_answer_shows_a_password(monkeypatch: pytest.MonkeyPatch, waits: Waits) -> None:
    serve_all(monkeypatch, lambda _: http.Response(200, content=b"[]"))
    secret = repository(endpoint="http://user:secret@hub.test:8080")
    with pytest.raises(FileMetadataError) as caught:
        secret.resolve("main", timeout=1)
    assert "secret" not in str(caught.value)
    assert "secret" not in secret.remote_file("a", FileMetadata(SHA, SHA256, 5)).announced_by
