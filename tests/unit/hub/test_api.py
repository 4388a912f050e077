from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi, RepoFile
from huggingface_hub.errors import (
    FileMetadataError,
)
from tests.support.hub_answers import ENDPOINT, SHA, SHA256, Waits, http, item, repository, serve_all

from hf_haul.errors import UnsafePathError
from hf_haul.hub import asking
from hf_haul.hub.api import HubApi


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"x"', id="a string"),
        pytest.param(b"5", id="a number"),
        pytest.param(b"{}", id="no id"),
        pytest.param(b'{"id": "a/b"}', id="no commit"),
        pytest.param(b'{"id": "a/b", "sha": {}}', id="an object for a commit"),
        pytest.param(b'{"id": "a/b", "sha": "\\ud800"}', id="half a surrogate for a commit"),
        pytest.param(b'{"id": "a/b", "sha": "x", "createdAt": "tomorrow"}', id="no date"),
        pytest.param(b'{"id": "a/b", "sha": "x", "siblings": 5}', id="a number for files"),
        pytest.param(b'{"id": "a/b", "sha": "x", "siblings": [5]}', id="a number for a file"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"id": ' + b"1" * 5000 + b"}", id="5000 digits"),
        pytest.param(b'{"id": "\xff"}', id="no encoding"),
    ],
)
def test_an_answer_about_a_revision_that_cannot_be_read_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, waits: Waits, answer: bytes
) -> None:
    serve_all(monkeypatch, lambda _: http.Response(200, content=answer))
    with pytest.raises((FileMetadataError, UnsafePathError), match=r"org/name|not a safe|commit"):
        repository().resolve("main", timeout=1)


def test_somebodys_web_page_is_an_error_that_names_it_after_some_patience(
    monkeypatch: pytest.MonkeyPatch, waits: Waits
) -> None:
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=b"<html>"))
    with pytest.raises(
        FileMetadataError, match=r"hub\.test:8080/org/name cannot be understood: JSONDecodeError"
    ):
        repository().resolve("main", timeout=1)
    with pytest.raises(FileMetadataError, match=f"tree/{SHA} cannot be understood: JSONDecodeError"):
        repository().list_files(SHA)
    assert len(asked) == 12


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"{}", id="an object"),
        pytest.param(b"[5]", id="a number"),
        pytest.param(b'[{"path": "a"}]', id="nothing but a name"),
        pytest.param(
            json.dumps([item("a", lfs={"oid": SHA256, "size": 5})]).encode(), id="no size of a pointer"
        ),
        pytest.param(json.dumps([item("a", lastCommit={"id": 1})]).encode(), id="half a commit"),
        pytest.param(json.dumps([item("a", securityFileStatus={})]).encode(), id="half a scan"),
    ],
)
def test_what_is_said_of_single_files_and_cannot_be_read_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    serve_all(monkeypatch, lambda _: http.Response(200, content=answer))
    with pytest.raises(FileMetadataError, match=f"paths-info/{SHA}.*cannot be"):
        HubApi(ENDPOINT, token=False).get_paths_info("org/name", ["a"], revision=SHA)


def test_single_files_are_asked_about_as_huggingface_hub_does_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=json.dumps([item("a b")])))
    for each in (HfApi(ENDPOINT, token=False), HubApi(ENDPOINT, token=False)):
        (found,) = each.get_paths_info(
            "org/name", "a b", revision="refs/pr/1", expand=True, repo_type="dataset"
        )
        assert isinstance(found, RepoFile)
        assert (found.path, found.size, found.blob_id) == ("a b", 7, SHA)
    theirs, ours = asked
    assert (ours.method, ours.url, ours.content) == (theirs.method, theirs.url, theirs.content)
    assert set(ours.extensions["timeout"].values()) == {asking.UNCACHED_TIMEOUT}


def test_a_revision_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    info = json.dumps({"id": "org/name", "sha": SHA}).encode()
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=info))
    assert HubApi(ENDPOINT, token=False).repo_info("org/name").sha == SHA
    assert set(asked[0].extensions["timeout"].values()) == {asking.UNCACHED_TIMEOUT}
