"""Trees know what is in them, and commits what they changed."""

from __future__ import annotations

import pytest

from hf_haul.localhub.objects import BytesContent, lfs_pointer
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.trees import DirEntry, FileEntry, Tree, default_lfs_rule

FILES = {"README.md": b"# hi", "w.safetensors": b"weights", "a/b/c.txt": b"c", "a/d.txt": b"d"}


def make() -> Repo:
    repo = Repo("org/tiny")
    repo.commit(FILES, "First")
    return repo


def test_each_path_knows_the_commit_that_last_changed_it() -> None:
    repo = make()
    first = repo.head
    second = repo.commit({"a/b/c.txt": b"new"}, "Second")
    third = repo.commit({"z": b"z"}, "Third")
    assert third.last_change == {
        "README.md": first,
        "w.safetensors": first,
        "a/d.txt": first,
        "a": second,
        "a/b": second,
        "a/b/c.txt": second,
        "z": third,
    }


def test_lfs_files_are_known_to_git_by_their_pointer() -> None:
    entry = make().head.tree.files["w.safetensors"]
    content = BytesContent(b"weights")
    assert entry.is_lfs
    assert entry.etag == content.sha256()
    assert entry.git_oid == BytesContent(lfs_pointer(content.sha256(), 7)).git_sha1()
    plain = make().head.tree.files["README.md"]
    assert not plain.is_lfs
    assert plain.etag == plain.git_oid == BytesContent(b"# hi").git_sha1()


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        pytest.param("a/model.safetensors", 1, True, id="weights"),
        pytest.param("data.PARQUET", 1, True, id="upper case"),
        pytest.param("runs/events.out.tfevents.123", 1, True, id="tensorboard"),
        pytest.param("empty.safetensors", 0, False, id="an empty file is never LFS"),
        pytest.param("config.json", 10, False, id="text"),
        pytest.param("big.json", 10 << 20, True, id="large text"),
        pytest.param("safetensors", 10, True, id="a name that is only a suffix"),
        pytest.param("model.safetensors.index.json", 10, False, id="an index"),
    ],
)
def test_the_hubs_rule_for_lfs(path: str, size: int, expected: bool) -> None:
    assert default_lfs_rule(path, size) is expected


def test_a_listing_has_directories_first_and_is_relative_to_the_root() -> None:
    tree = make().head.tree
    assert [entry.path for entry in tree.listing()] == ["a", "README.md", "w.safetensors"]
    assert [entry.path for entry in tree.listing("a")] == ["a/b", "a/d.txt"]
    assert [entry.path for entry in tree.listing(recursive=True)] == [
        "a",
        "a/b",
        "README.md",
        "a/b/c.txt",
        "a/d.txt",
        "w.safetensors",
    ]
    assert isinstance(tree.get("a"), DirEntry)
    assert isinstance(tree.get("a/d.txt"), FileEntry)
    assert tree.get("") is None
    assert tree.get("nope") is None


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
def test_pages_of_any_size_hold_every_entry_once(limit: int) -> None:
    tree = make().head.tree
    found: list[str] = []
    after = None
    while True:
        rows, after = tree.page("", recursive=True, after=after, limit=limit)
        assert 0 < len(rows) <= limit
        found += [row.path for row in rows]
        if after is None:
            break
    assert found == [entry.path for entry in tree.listing(recursive=True)]


def test_a_path_cannot_be_a_file_and_a_directory() -> None:
    with pytest.raises(ValueError, match="'a'"):
        Tree([FileEntry("a", BytesContent(b""), False), FileEntry("a/b", BytesContent(b""), False)])
