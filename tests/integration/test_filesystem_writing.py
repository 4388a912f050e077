"""Writing through haul://, which is huggingface_hub's own but for what it gets wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.writing import WritingApi

from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub import LocalHub, Repo

ROOT = "org/drafts"


@pytest.fixture
def fs() -> Iterator[HaulFileSystem]:
    repo = Repo(ROOT)
    repo.commit({"a.txt": b"a", "b.txt": b"b", "deep/c.txt": b"c", "deep/er/d.txt": b"d"}, "first")
    other = Repo("org/other")
    other.commit({"x.txt": b"x", "y.txt": b"y"}, "first")
    with LocalHub(repo, other) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs._api = WritingApi(hub)
        fs._api.repos = {each.repo_id: each for each in (repo, other)}
        yield fs


def test_a_list_of_files_goes_in_one_commit_for_each_repository(fs: HaulFileSystem) -> None:
    fs.rm([f"{ROOT}/a.txt", f"{ROOT}/deep", "org/other/x.txt"], recursive=True)
    assert fs.find(ROOT) == [f"{ROOT}/b.txt"]
    assert fs.find("org/other") == ["org/other/y.txt"]
    assert fs._api.commits_made == 2


def test_nothing_below_a_removed_folder_exists_any_more(fs: HaulFileSystem) -> None:
    fs.find(ROOT)
    assert fs.exists(f"{ROOT}/deep/er/d.txt")
    fs.rm(f"{ROOT}/deep", recursive=True)
    for name in ("deep", "deep/c.txt", "deep/er", "deep/er/d.txt"):
        assert not fs.exists(f"{ROOT}/{name}")
    assert fs.cat_file(f"{ROOT}/a.txt") == b"a"


def test_exclusive_mode_never_overwrites(fs: HaulFileSystem) -> None:
    with pytest.raises(FileExistsError):
        fs.open(f"{ROOT}/a.txt", "xb")
    with fs.open(f"{ROOT}/new.txt", "xb") as file:
        file.write(b"new")
    assert fs.cat_file(f"{ROOT}/new.txt") == b"new"


def test_what_was_written_is_what_is_read_next(fs: HaulFileSystem) -> None:
    with fs.open(f"{ROOT}/a.txt") as before:
        for content in (b"second", b"third, longer"):
            fs.pipe(f"{ROOT}/a.txt", content)
            assert fs.cat_file(f"{ROOT}/a.txt") == content
            assert fs.info(f"{ROOT}/a.txt")["size"] == len(content)
        assert before.read() == b"a"


def test_folders_are_copied_with_their_files(fs: HaulFileSystem) -> None:
    fs.copy(f"{ROOT}/deep", f"{ROOT}/copy", recursive=True)
    assert fs.cat(f"{ROOT}/copy", recursive=True) == {
        f"{ROOT}/copy/c.txt": b"c",
        f"{ROOT}/copy/er/d.txt": b"d",
    }
    fs.mv(f"{ROOT}/copy", f"{ROOT}/moved", recursive=True)
    assert fs.find(ROOT)[-2:] == [f"{ROOT}/moved/c.txt", f"{ROOT}/moved/er/d.txt"]


def test_appending_is_refused(fs: HaulFileSystem) -> None:
    with pytest.raises(NotImplementedError):
        fs.open(f"{ROOT}/a.txt", "ab")
