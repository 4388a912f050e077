"""Repositories know their files, their history and their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_haul.localhub.repository import Repo

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
