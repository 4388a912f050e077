"""Repositories know their files, their history and their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_haul.localhub.objects import BytesContent, lfs_pointer
from hf_haul.localhub.repository import DirEntry, FileEntry, Repo, Tree, default_lfs_rule

FILES = {"README.md": b"# hi", "w.safetensors": b"weights", "a/b/c.txt": b"c", "a/d.txt": b"d"}


def make() -> Repo:
    repo = Repo("org/tiny")
    repo.commit(FILES, "First")
    return repo


def test_the_same_content_and_history_give_the_same_ids_always() -> None:
    assert make().head.id == make().head.id == "ee44cfa1557be143fe7d09adca6ca82154447a76"
    other = Repo("org/tiny")
    other.commit({**FILES, "README.md": b"# ho"}, "First")
    assert other.head.id != make().head.id


def test_a_commit_changes_what_it_names_and_keeps_the_rest() -> None:
    repo = make()
    first = repo.head
    second = repo.commit({"README.md": b"# new", "a/d.txt": None, "e": b""}, "Second\n\nMore.")
    assert set(second.tree.files) == {"README.md", "w.safetensors", "a/b/c.txt", "e"}
    assert set(first.tree.files) == set(FILES)
    assert second.history() == [second, first]
    assert second.title == "Second"
    assert second.date > first.date
    only = repo.commit({"x": b"x"}, "Third", only=True)
    assert set(only.tree.files) == {"x"}


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


@pytest.mark.parametrize(
    "revision",
    [
        "main",
        "HEAD",
        "refs/heads/main",
        "v1",
        "refs/tags/v1",
        "feature/x",
        "refs/pr/1",
        "refs/convert/parquet",
    ],
)
def test_a_revision_may_be_any_name_of_a_commit(revision: str) -> None:
    repo = make()
    repo.tag("v1")
    for name in ("feature/x", "refs/pr/1", "refs/convert/parquet"):
        repo.branch(name)
    assert repo.resolve(revision) is repo.head


def test_a_revision_may_be_a_commit_id_whole_long_or_short() -> None:
    repo = make()
    head = repo.head
    repo.commit({"more": b""})
    assert repo.resolve(head.id) is repo.resolve(head.id[:7]) is repo.resolve(head.long_id) is head
    assert len(head.long_id) == 64
    for wrong in (head.id[:6], "0" * 40, "nope", "refs/pr/9", ""):
        assert repo.resolve(wrong) is None


def test_a_new_branch_starts_from_main_and_leaves_it_alone() -> None:
    repo = make()
    main = repo.head
    made = repo.commit({"x": b"x"}, branch="refs/pr/1")
    assert made.parent is main
    assert repo.head is main
    assert repo.refs == {"refs/heads/main": main, "refs/pr/1": made}


def test_a_tag_on_nothing_is_an_error() -> None:
    with pytest.raises(LookupError, match="nope"):
        make().tag("v1", "nope")
    with pytest.raises(LookupError, match="no commit"):
        _ = Repo("org/empty").head


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


def test_the_rule_for_lfs_can_be_given() -> None:
    patterns = Repo("o/r", lfs=["*.txt"])
    patterns.commit(FILES)
    assert [path for path, entry in patterns.head.tree.files.items() if entry.is_lfs] == [
        "a/b/c.txt",
        "a/d.txt",
    ]
    rule = Repo("o/r", lfs=lambda _path, size: size > 4)
    rule.commit(FILES)
    assert [path for path, entry in rule.head.tree.files.items() if entry.is_lfs] == ["w.safetensors"]


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


@pytest.mark.parametrize(("repo_id", "repo_type"), [("a/b/c", "model"), ("", "model"), ("a/b", "models")])
def test_ids_and_types_that_cannot_be_are_refused(repo_id: str, repo_type: str) -> None:
    with pytest.raises(ValueError, match=repr(repo_type if repo_type == "models" else repo_id)):
        Repo(repo_id, repo_type)


def test_a_folder_becomes_a_repository_named_after_it(tmp_path: Path) -> None:
    root = tmp_path / "org" / "name"
    for name in ("a.txt", "sub/b.bin", ".git/HEAD", ".cache/x", "sub/c.incomplete"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    repo = Repo.from_folder(root, sha256={"sub/b.bin": "ab" * 32}, private=True)
    assert repo.key == ("model", "org/name")
    assert repo.private
    assert set(repo.head.tree.files) == {"a.txt", "sub/b.bin"}
    assert repo.head.tree.files["sub/b.bin"].etag == "ab" * 32
    assert repo.lfs_object("ab" * 32) is repo.head.tree.files["sub/b.bin"].content


def test_a_file_with_a_xet_hash_is_in_lfs_too() -> None:
    repo = Repo("o/r")
    repo.commit({"x.txt": b"x"}, xet_hashes={"x.txt": "cd" * 32})
    entry = repo.head.tree.files["x.txt"]
    assert entry.is_lfs
    assert entry.xet_hash == "cd" * 32
