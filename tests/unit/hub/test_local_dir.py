"""Which files of a ``local_dir`` need no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.support.cached_files import COMMIT, OTHER, cache_file, write

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StopRequestedError
from hf_haul.hub import local_dir
from hf_haul.hub.local_dir import is_current, reuse_file, reuse_files
from hf_haul.hub.metadata import FileMetadata
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder

DATA = b"right"
SHA = hashlib.sha256(DATA).hexdigest()
GIT = hashlib.sha1(b"blob 5\0" + DATA, usedforsecurity=False).hexdigest()
NAME = "deep/w.bin"


@pytest.fixture
def local(tmp_path: Path) -> LocalFolder:
    return LocalFolder(str(tmp_path / "out"))


@pytest.fixture
def cache(tmp_path: Path) -> RepoFolder:
    return RepoFolder(str(tmp_path / "hub"), "models--org--m")


def meta(etag: str = SHA, size: int | None = len(DATA), commit: str = COMMIT) -> FileMetadata:
    return FileMetadata(commit, etag, size)


@pytest.mark.parametrize(
    ("data", "noted", "wanted", "current"),
    [
        pytest.param(None, None, meta(), False, id="no file"),
        pytest.param(None, (COMMIT, SHA), meta(), False, id="a note, and no file"),
        pytest.param(b"wrong", (COMMIT, SHA), meta(), True, id="a note is believed"),
        pytest.param(b"wrong", (OTHER, SHA), meta(), True, id="so is one of the same content at another commit"),
        pytest.param(DATA, (OTHER, GIT), meta(), False, id="of other content then, and not hashed"),
        pytest.param(DATA, (COMMIT, GIT), meta(), True, id="a mirror's etag for it, and the right bytes"),
        pytest.param(b"wrong", (COMMIT, GIT), meta(), False, id="a mirror's etag for it, and wrong bytes"),
        pytest.param(DATA, None, meta(), True, id="no note, and the right bytes"),
        pytest.param(b"wrong", None, meta(), False, id="no note, and wrong bytes"),
        pytest.param(DATA, None, meta(size=None), True, id="of unknown size"),
        pytest.param(DATA, None, meta(size=4), False, id="of another size"),
        pytest.param(DATA, None, meta(GIT), False, id="no note, and git's digest, which nothing here is compared with"),
        pytest.param(DATA, None, meta("mirror-7"), False, id="no note, and an etag that is no digest"),
    ],
)  # fmt: skip
def test_a_note_is_believed_and_without_one_the_bytes_tell(
    local: LocalFolder, data: bytes | None, noted: tuple[str, str] | None, wanted: FileMetadata, current: bool
) -> None:
    if data is not None:
        write(Path(local.file(NAME)), data)
    if noted is not None:
        local.write_metadata(NAME, *noted)
    assert is_current(local, NAME, wanted, CancelToken()) is current


def test_hashing_ends_when_it_is_stopped(local: LocalFolder) -> None:
    write(Path(local.file(NAME)), DATA)
    token = CancelToken()
    token.set()
    with pytest.raises(StopRequestedError):
        is_current(local, NAME, meta(), token)


def test_what_the_cache_has_is_copied_and_noted(local: LocalFolder, cache: RepoFolder) -> None:
    cache_file(Path(cache.root), COMMIT, NAME, SHA, DATA)
    assert reuse_file(local, cache, NAME, meta(), CancelToken())
    assert Path(local.file(NAME)).read_bytes() == DATA
    assert not Path(local.file(NAME)).is_symlink()
    noted = local.read_metadata(NAME)
    assert noted is not None
    assert (noted.commit, noted.etag) == (COMMIT, SHA)


def test_a_file_that_is_right_is_noted_at_the_commit_that_was_asked_for(
    local: LocalFolder, cache: RepoFolder
) -> None:
    write(Path(local.file(NAME)), DATA)
    assert reuse_file(local, cache, NAME, meta(), CancelToken())
    assert {path: each.commit for path, each in local.all_noted().items()} == {NAME: COMMIT}


def test_what_neither_has_is_to_be_downloaded(local: LocalFolder, cache: RepoFolder) -> None:
    assert not reuse_file(local, cache, NAME, meta(), CancelToken())
    assert local.all_noted() == {}


def test_a_file_that_cannot_be_written_is_to_be_downloaded_and_that_is_said(
    local: LocalFolder, cache: RepoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    cache_file(Path(cache.root), COMMIT, NAME, SHA, DATA)
    write(Path(local.root, "deep"), b"a file where a folder should be")
    assert not reuse_file(local, cache, NAME, meta(), CancelToken())
    assert f"Could not reuse {NAME} in {local.root}" in caplog.text


def test_of_several_files_those_are_told_that_need_no_download(
    local: LocalFolder, cache: RepoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.bin" for number in range(20)]
    for name in names[::2]:
        write(Path(local.file(name)), DATA)
    assert reuse_files(local, cache, dict.fromkeys(names, meta())) == set(names[::2])
    monkeypatch.setattr(local_dir, "file_digest", lambda *_: pytest.fail("it is noted by now"))
    assert reuse_files(local, cache, dict.fromkeys(names[::2], meta())) == set(names[::2])
