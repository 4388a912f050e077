from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.hub_answers import ENDPOINT, SHA, SHA256, repository

from hf_haul.errors import UnsafePathError
from hf_haul.hub.file_listing import FileListing
from hf_haul.hub.known_files import KnownFiles
from hf_haul.hub.metadata import FileMetadata, ListedFile
from hf_haul.hub.snapshot_requests import SnapshotRequests
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.task import OtherSource

COMMIT = "d" * 40
LISTED = {
    "b/plain": ListedFile(7, SHA),
    "a": ListedFile(9, SHA, SHA256, 9),
    "b/unsized": ListedFile(0, SHA),
    "c/d/e": ListedFile(1, SHA),
}


def known(**asked: FileMetadata) -> KnownFiles:
    return KnownFiles(COMMIT, FileListing(LISTED), asked)


def into_cache(folder: Path) -> Callable[[str, FileMetadata], BlobDestination]:
    repo = RepoFolder(str(folder), "models--org--name")
    return lambda path, meta: BlobDestination(repo, meta.commit, path, meta.etag, meta.size, meta.xet_hash)


def into_local_dir(folder: Path) -> Callable[[str, FileMetadata], LocalDirDestination]:
    local = LocalFolder(str(folder))
    return lambda path, meta: LocalDirDestination(local, path, meta.commit, meta.etag)


def test_a_request_is_what_is_known_of_a_file_and_where_it_goes(tmp_path: Path) -> None:
    requests = SnapshotRequests(repository(), known(), ["b/plain", "c/d/e"], into_cache(tmp_path))
    wanted = requests[0]
    assert len(requests) == 2
    assert wanted.remote == repository().remote_file("b/plain", known()["b/plain"])
    assert wanted.destination == requests.destination("b/plain", known()["b/plain"])
    assert not wanted.fresh
    assert replace(requests, fresh=True)[1].fresh


def test_the_outline_of_a_file_says_what_its_request_says(tmp_path: Path) -> None:
    files = known(asked=FileMetadata(COMMIT, "e" * 40, 5), sure=FileMetadata(COMMIT, SHA, 5, listed=True))
    requests = SnapshotRequests(repository(), files, list(files), into_cache(tmp_path))
    assert list(requests.outlines()) == [
        (each.remote.path, each.remote.size, each.remote.is_checkable) for each in requests
    ]
    assert {path for path, _, is_checkable in requests.outlines() if not is_checkable} == {
        "b/unsized",
        "asked",
    }


@pytest.mark.parametrize("place", [into_cache, into_local_dir], ids=["cache", "local_dir"])
def test_every_folder_in_which_files_are_staged_is_named(
    tmp_path: Path, place: Callable[[Path], Callable[[str, FileMetadata], BlobDestination]]
) -> None:
    requests = SnapshotRequests(repository(), known(), list(LISTED), place(tmp_path))
    assert set(requests.staging_dirs()) == {each.destination.staging_dir for each in requests}
    assert SnapshotRequests(repository(), known(), [], place(tmp_path)).staging_dirs() == ()


def test_sources_are_told_as_the_engine_names_them(tmp_path: Path) -> None:
    more = (OtherSource("http://mirror.test/x"),)
    requests = SnapshotRequests(repository(), known(), list(LISTED), into_cache(tmp_path), more)
    assert (requests.origin, requests.other_sources) == (ENDPOINT, more)
    assert requests[0].remote.sources == more
    assert requests[0].remote.url.startswith(f"{requests.origin}/")


def test_an_etag_that_can_name_no_file_is_refused_before_anything_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError, match="it cannot name a file"):
        SnapshotRequests(
            repository(), known(asked=FileMetadata(COMMIT, "../x", 5)), ["asked"], into_cache(tmp_path)
        )


@pytest.mark.parametrize(
    ("paths", "case_counts"),
    [
        pytest.param(["a/B", "a/b"], False, id="case"),
        *(
            pytest.param(["a/b", other], True, id=other)
            for other in ("a//b", "./a/b", "a/./b", "a/b/", "a/b/.")
        ),
    ],
)
def test_two_files_that_go_to_one_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], case_counts: bool
) -> None:
    files = KnownFiles(COMMIT, FileListing(dict.fromkeys(paths, LISTED["a"])), {})
    SnapshotRequests(repository(), files, paths[:1], into_cache(tmp_path))
    if not case_counts:
        SnapshotRequests(repository(), files, paths, into_cache(tmp_path))
        monkeypatch.setattr(os.path, "normcase", str.lower)
    with pytest.raises(ValueError, match=rf"'{paths[1]}' is given twice: two files cannot go to .*b"):
        SnapshotRequests(repository(), files, paths, into_cache(tmp_path))


def test_a_blob_that_is_there_is_seen_unless_it_is_to_be_fetched_anew(tmp_path: Path) -> None:
    requests = SnapshotRequests(repository(), known(), list(LISTED), into_cache(tmp_path))
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / SHA256).write_bytes(b"123456789")
    assert [path for path in LISTED if requests.has_blob(path)] == ["a"]
    assert not replace(requests, fresh=True).has_blob("a")
    local = SnapshotRequests(repository(), known(), list(LISTED), into_local_dir(tmp_path))
    assert not local.has_blob("a")
