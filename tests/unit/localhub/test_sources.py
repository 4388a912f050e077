"""What is found on disk, and what follows it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hf_haul.localhub.objects import DigestCache, blob_id
from hf_haul.localhub.sources import CacheRepo, FolderRepo, find_repos, scan_folder

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def cache_file(root: Path, commit: str, name: str, etag: str, data: bytes = b"x") -> None:
    blob = write(root / "blobs" / etag, data)
    link = root / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(["org/a/x", "org/b/x"], [("model", "org/a"), ("model", "org/b")], id="org and name"),
        pytest.param(
            ["models/o/a/x", "datasets/o/a/x", "spaces/o/a/x", "p/q/x"],
            [("model", "o/a"), ("dataset", "o/a"), ("space", "o/a"), ("model", "p/q")],
            id="below the types",
        ),
        pytest.param(["config.json", "sub/x"], [("model", "up/top")], id="one repository"),
        pytest.param([".hidden", "org/.git/x", ".cache/o/x", "org/a/x"], [("model", "org/a")], id="hidden"),
        pytest.param(
            ["models--o--a/snapshots/1/x", "datasets--squad/snapshots/1/x", "models--o--b/blobs/x"],
            [("model", "o/a"), ("dataset", "squad")],
            id="a cache",
        ),
        pytest.param(
            ["hub/models--o--a/snapshots/1/x", "token"], [("model", "o/a")], id="the home of a cache"
        ),
        pytest.param(["org/only-a-file"], [], id="nothing"),
    ],
)
def test_repositories_are_found_by_their_layout(
    tmp_path: Path, files: list[str], expected: list[tuple[str, str]]
) -> None:
    root = tmp_path / "up" / "top"
    for name in files:
        write(root / name)
    found = find_repos(root, private=True)
    assert sorted(repo.key for repo in found) == sorted(expected)
    assert all(repo.private for repo in found)


def test_what_does_not_belong_to_a_repository_is_left_out(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", ".gitattributes", ".git/x", ".cache/x", "b/w.bin.incomplete"):
        write(tmp_path / name)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert {entry.path for entry in scan_folder(tmp_path)} == {"a.txt", "b/c.txt", ".gitattributes"}


@pytest.mark.parametrize(
    ("note", "etag", "is_lfs"),
    [
        pytest.param(f"{SHA}\n{'ab' * 32}\n2000000000.0\n", "ab" * 32, True, id="LFS"),
        pytest.param(f"{SHA}\n{OTHER}\n2000000000.0\n", OTHER, False, id="git"),
        pytest.param(f"{SHA}\n{OTHER}\n5.0\n", None, False, id="older than the file"),
        pytest.param(f"{SHA}\nodd-etag\n2000000000.0\n", None, False, id="an odd etag"),
        pytest.param("broken", None, False, id="broken"),
    ],
)
def test_notes_of_a_download_are_believed_while_they_are_newer(
    tmp_path: Path, note: str, etag: str | None, is_lfs: bool
) -> None:
    os.utime(write(tmp_path / "w.txt", b"data"), (1_900_000_000, 1_900_000_000))
    write(tmp_path / ".cache/huggingface/download/w.txt.metadata", note.encode())
    (entry,) = scan_folder(tmp_path, DigestCache())
    assert entry.is_lfs is is_lfs
    assert entry.etag == (etag or blob_id(b"data"))


def test_a_cache_tells_digests_by_the_names_of_its_blobs(tmp_path: Path) -> None:
    cache_file(tmp_path, SHA, "a/w.bin", "ab" * 32)
    cache_file(tmp_path, SHA, "config.json", OTHER)
    write(tmp_path / "snapshots" / SHA / "plain.txt", b"no link")  # as on Windows
    write(tmp_path / "refs" / "main", SHA.encode())
    write(tmp_path / "refs" / "refs" / "pr" / "1", SHA.encode())
    write(tmp_path / "refs" / "gone", OTHER.encode())
    repo = CacheRepo(tmp_path, "o/r")
    assert repo.head.id == SHA
    assert {path: entry.etag for path, entry in repo.head.tree.files.items()} == {
        "a/w.bin": "ab" * 32,
        "config.json": OTHER,
        "plain.txt": blob_id(b"no link"),
    }
    assert repo.refs.keys() == {"refs/heads/main", "refs/pr/1"}


def test_a_cache_is_followed(tmp_path: Path) -> None:
    clock = Clock()
    cache_file(tmp_path, SHA, "a.txt", OTHER)
    repo = CacheRepo(tmp_path, "o/r", interval=5, clock=clock)
    assert set(repo.head.tree.files) == {"a.txt"}
    cache_file(tmp_path, SHA, "b.txt", "e" * 40)  # the download of this snapshot goes on
    cache_file(tmp_path, OTHER, "c.txt", "d" * 40)
    write(tmp_path / "refs" / "main", OTHER.encode())
    assert repo.resolve("main") is None
    clock.now = 5
    main = repo.resolve("main")
    assert main is not None
    assert set(main.tree.files) == {"c.txt"}
    first = repo.resolve(SHA)
    assert first is not None
    assert set(first.tree.files) == {"a.txt", "b.txt"}


def test_a_folder_has_one_commit_for_one_state(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path / "a.txt", b"one")
    repo = FolderRepo(tmp_path, "o/r", interval=5, clock=clock, digests=DigestCache())
    first = repo.head
    clock.now = 5
    assert repo.head is first
    write(tmp_path / "b.txt", b"two")
    clock.now = 10
    second = repo.head
    assert second.id != first.id
    (tmp_path / "b.txt").unlink()
    clock.now = 15
    assert repo.head.id == first.id


def test_one_thread_looks_while_all_others_wait_for_it(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    looks: list[int] = []
    go_on = threading.Event()

    class Counting(FolderRepo):
        def load(self) -> None:
            looks.append(1)
            go_on.wait(10)
            super().load()

    repo = Counting(tmp_path, "o/r", interval=1000)
    heads: list[str] = []
    askers = [threading.Thread(target=lambda: heads.append(repo.head.id)) for _ in range(8)]
    for asker in askers:
        asker.start()
    go_on.set()
    for asker in askers:
        asker.join(10)
    assert len(looks) == 1
    assert len(heads) == 8
    assert len(set(heads)) == 1


def test_a_folder_that_cannot_be_read_for_once_serves_what_it_had(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path / "a.txt")
    errors: list[OSError] = []

    class Sometimes(FolderRepo):
        def load(self) -> None:
            if errors:
                raise errors.pop()
            super().load()

    repo = Sometimes(tmp_path, "o/r", interval=5, clock=clock)
    first = repo.head
    write(tmp_path / "b.txt")
    errors.append(PermissionError("not now"))
    clock.now = 5
    assert repo.head is first
    clock.now = 10
    assert set(repo.head.tree.files) == {"a.txt", "b.txt"}
