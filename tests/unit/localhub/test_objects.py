"""Object ids agree with git's own, and files are hashed once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hf_haul.localhub.objects import (
    BytesContent,
    DigestCache,
    FileContent,
    blob_id,
    commit_id,
    lfs_pointer,
    tree_id,
)

GIT = shutil.which("git")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", id="empty"),
        pytest.param(b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a", id="hello"),
    ],
)
def test_a_blob_has_the_id_git_gives_it(data: bytes, expected: str) -> None:
    assert blob_id(data) == expected
    assert BytesContent(data).git_sha1() == expected


def test_the_empty_tree_has_the_id_git_gives_it() -> None:
    assert tree_id([]) == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@pytest.mark.skipif(GIT is None, reason="compares with git itself")
def test_trees_and_commits_have_the_ids_git_gives_them(tmp_path: Path) -> None:
    # "a-b" sorts between the file "a" and the directory "a/", which git writes as "a".
    files = {"a-b": b"1", "a/x": b"2", "a.txt": b"3", "zz": b"4", "ü": b"5"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    who = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    for role in ("AUTHOR", "COMMITTER"):
        who |= {
            f"GIT_{role}_NAME": "ann",
            f"GIT_{role}_EMAIL": "ann@users.noreply.localhub",
            f"GIT_{role}_DATE": "1700000000 +0000",
        }

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path, env=who, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "First\n\nMore.")
    nested = tree_id([("x", blob_id(b"2"), False)])
    rows = [(name, blob_id(data), False) for name, data in files.items() if "/" not in name]
    root = tree_id([*rows, ("a", nested, True)])

    assert root == git("rev-parse", "HEAD^{tree}")
    assert commit_id(root, [], "First\n\nMore.", "ann", 1_700_000_000) == git("rev-parse", "HEAD")


def test_a_pointer_is_what_git_lfs_writes() -> None:
    pointer = lfs_pointer("ab" * 32, 1048576)
    assert pointer.decode() == (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 1048576\n"
    )
    assert len(pointer) == 132  # as the Hub says in pointerSize for a file of this size


def test_a_file_and_the_same_bytes_have_the_same_digests(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(data)
    file, memory = FileContent(tmp_path / "f", digests=DigestCache()), BytesContent(data)
    assert file.sha256() == memory.sha256() == hashlib.sha256(data).hexdigest()
    assert file.git_sha1() == memory.git_sha1() == blob_id(data)
    assert file.read(1_000_000, 10) == memory.read(1_000_000, 10) == data[1_000_000:1_000_010]
    assert file.read(2_999_995, 10) == data[-5:]


def test_a_digest_that_was_given_is_not_computed(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert FileContent(path, sha256="ab" * 32).sha256() == "ab" * 32


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"first")
    os.utime(path, ns=(1, 1))
    digests = DigestCache()
    first = FileContent(path, digests=digests).sha256()
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    assert FileContent(path, digests=digests).sha256() == first  # the cache, not the bytes
    os.utime(path, ns=(2, 2))
    assert FileContent(path, digests=digests).sha256() == hashlib.sha256(b"other").hexdigest()


def test_digests_outlive_the_process_that_computed_them(tmp_path: Path) -> None:
    path, table = tmp_path / "f", tmp_path / "deep" / "digests.json"
    path.write_bytes(b"data")
    digests = DigestCache(table)
    FileContent(path, digests=digests).sha256()
    digests.save()
    key, value = next(iter(json.loads(table.read_text()).items()))
    table.write_text(json.dumps({key: "from the table"}))
    assert value == hashlib.sha256(b"data").hexdigest()
    assert FileContent(path, digests=DigestCache(table)).sha256() == "from the table"
    assert [child.name for child in table.parent.iterdir()] == ["digests.json"]


def test_a_table_of_digests_that_cannot_be_written_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    digests = DigestCache(tmp_path / "file" / "digests.json")
    content = FileContent(tmp_path / "file", digests=digests)
    assert content.sha256() == hashlib.sha256(b"data").hexdigest()
    digests.save()
    digests.save()
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_broken_table_of_digests_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "t").write_text(text)
    content = FileContent(tmp_path / "f", digests=DigestCache(tmp_path / "t"))
    assert content.sha256() == hashlib.sha256(b"data").hexdigest()
