"""What is found on disk, and what follows it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from hf_haul.localhub.objects import DigestCache, blob_id
from hf_haul.localhub.sources import CacheRepo, FolderRepo, Holding, find_repos, scan_folder

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


LISTED = {
    "a/w.bin": {"size": 4, "blob_id": "1" * 40, "lfs_sha256": "ab" * 32, "lfs_size": 4},
    "config.json": {"size": 1, "blob_id": OTHER},
    "more.json": {"size": 9, "blob_id": "2" * 40},
}


def keep_listing(root: Path, files: object, commit: str = SHA) -> None:
    write(root / f"trees/{commit}.json", json.dumps({"format_version": 1, "files": files}).encode())


def test_the_listing_that_was_kept_tells_what_a_commit_has(tmp_path: Path) -> None:
    cache_file(tmp_path, SHA, "a/w.bin", "ab" * 32, b"data")
    cache_file(tmp_path, SHA, "config.json", OTHER)
    write(tmp_path / "snapshots" / SHA / "notes.txt", b"put there by somebody, it is no link")
    write(tmp_path / "refs" / "main", SHA.encode())
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r")
    files = repo.head.tree.files
    assert repo.head.listing == "whole"
    assert {path: entry.is_here for path, entry in files.items()} == {
        "a/w.bin": True,
        "config.json": True,
        "more.json": False,
    }
    assert {path: (entry.git_oid, entry.etag, entry.size) for path, entry in files.items()} == {
        "a/w.bin": ("1" * 40, "ab" * 32, 4),
        "config.json": (OTHER, OTHER, 1),
        "more.json": ("2" * 40, "2" * 40, 9),
    }
    assert repo.holdings() == [Holding(SHA, ["main"], 2, 3)]


@pytest.mark.parametrize("complete", [False, True])
def test_without_the_listing_nobody_knows_but_somebody_can_vouch(tmp_path: Path, complete: bool) -> None:
    cache_file(tmp_path, SHA, "a.txt", OTHER)
    repo = CacheRepo(tmp_path, "o/r", complete=complete)
    assert repo.head.listing == ("vouched" if complete else "unknown")
    assert set(repo.head.tree.files) == {"a.txt"}
    assert repo.holdings() == [Holding(SHA, [], 1, None)]


def test_a_listing_that_lacks_a_file_which_is_here_is_none(tmp_path: Path) -> None:
    cache_file(tmp_path, SHA, "config.json", OTHER)
    cache_file(tmp_path, SHA, "later.json", "e" * 40)
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r")
    assert repo.head.listing == "unknown"
    assert set(repo.head.tree.files) == {"config.json", "later.json"}


def test_in_a_cache_without_links_any_file_can_show_that_a_listing_lacks_it(tmp_path: Path) -> None:
    write(tmp_path / "snapshots" / SHA / "config.json")
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r", interval=0)
    assert repo.head.listing == "whole"
    assert repo.head.tree.files["config.json"].etag == OTHER, "the listing's, without hashing"
    write(tmp_path / "snapshots" / SHA / "later.json")
    assert repo.resolve("HEAD").listing == "unknown"  # type: ignore[union-attr]  it is there


@pytest.mark.parametrize(
    ("etag", "data"),
    [
        pytest.param(OTHER, b"too long", id="another size"),
        pytest.param("e" * 40, b"x", id="another blob"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_not_here(tmp_path: Path, etag: str, data: bytes) -> None:
    cache_file(tmp_path, SHA, "config.json", etag, data)
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r")
    assert not repo.head.tree.files["config.json"].is_here
    assert repo.head.tree.files["config.json"].size == 1


def test_what_a_cache_loses_is_here_no_more(tmp_path: Path) -> None:
    cache_file(tmp_path, SHA, "config.json", OTHER)
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r", interval=0)
    assert repo.head.tree.files["config.json"].is_here
    (tmp_path / "snapshots" / SHA / "config.json").unlink()
    assert not repo.resolve("HEAD").tree.files["config.json"].is_here  # type: ignore[union-attr]  it is there


def test_a_cache_gives_out_blobs_and_nothing_that_lies_elsewhere(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", b"key")
    root = tmp_path / "cache/models--o--r"
    cache_file(root, SHA, "config.json", OTHER)
    store = write(root.parent / "blobs/cd" / ("cd" * 32), b"shared")
    (root / "blobs" / ("ab" * 32)).symlink_to(os.path.relpath(store, root / "blobs"))
    for name, target in {
        "shared.bin": root / "blobs" / ("ab" * 32),
        "evil": secret,
        "evil-too": root / "blobs/evil",
    }.items():
        (root / "snapshots" / SHA / name).symlink_to(target)
    (root / "blobs/evil").symlink_to(secret)
    write(tmp_path / "ssh/id_rsa")
    (root / "snapshots" / OTHER).symlink_to(tmp_path / "ssh")
    write(root / "refs/main", SHA.encode())
    (root / "refs/evil").symlink_to(secret)
    repo = CacheRepo(root, "o/r")
    assert set(repo.head.tree.files) == {"config.json", "shared.bin"}
    assert repo.resolve(OTHER) is None
    assert repo.refs.keys() == {"refs/heads/main"}


def test_a_folder_shows_no_hidden_files_and_nothing_that_links_lead_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "served"
    write(root / "org/evil/config.json")
    write(root / "org/evil/.env")
    write(root / "org/evil/.git/config")
    write(root / "org/good/w.bin")
    write(tmp_path / "ssh/id_rsa")
    (root / "org/evil/key").symlink_to(tmp_path / "ssh/id_rsa")
    (root / "org/evil/git").symlink_to(".git/config")
    (root / "org/evil/env").symlink_to(".env")
    (root / "org/evil/inside").symlink_to("../good/w.bin")
    (root / "org/ssh").symlink_to(tmp_path / "ssh")
    (root / "org/same").symlink_to("good")
    repos = {repo.repo_id: repo for repo in find_repos(root)}
    assert repos.keys() == {"org/evil", "org/good", "org/same"}
    assert set(repos["org/evil"].head.tree.files) == {"config.json", "inside"}
    assert set(repos["org/same"].head.tree.files) == {"w.bin"}
    assert caplog.text.count("leads out") == 4
    shown = {repo.repo_id: repo for repo in find_repos(root, hidden=True)}
    assert set(shown["org/evil"].head.tree.files) == {"config.json", "inside", ".env", "env"}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["token", "stored_tokens"], id="two files"),
        pytest.param(["token", "hub/version.txt"], id="beside an empty cache"),
        pytest.param(["stored_tokens", "assets/x"], id="beside other things"),
        pytest.param(["token", "../huggingface/token"], id="by its usual name"),
    ],
)
def test_the_home_of_a_cache_without_repositories_gives_no_tokens_away(
    tmp_path: Path, files: list[str]
) -> None:
    home = tmp_path / "up" / ("huggingface" if "../huggingface/token" in files else "home")
    for name in files:
        write(home / name, b"hf_secret")
    assert find_repos(home) == []
    write(tmp_path / "up/README.md")
    (repo,) = find_repos(tmp_path / "up")
    assert not [path for path in repo.head.tree.files if "token" in path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no fifos here")
@pytest.mark.parametrize("linked", [False, True], ids=["fifo", "link"])
def test_what_stands_in_place_of_a_note_is_not_read(tmp_path: Path, linked: bool) -> None:
    write(tmp_path / "w.txt", b"data")
    note = tmp_path / ".cache/huggingface/download/w.txt.metadata"
    note.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / ".fifo" if linked else note)
    if linked:
        note.symlink_to(tmp_path / ".fifo")
    found: list[str] = []
    reader = threading.Thread(
        target=lambda: found.extend(entry.etag for entry in scan_folder(tmp_path, DigestCache())), daemon=True
    )
    reader.start()
    reader.join(10)
    assert found == [blob_id(b"data")]


def test_a_folder_that_was_downloaded_into_in_part_can_tell(tmp_path: Path) -> None:
    write(tmp_path / "config.json")
    write(tmp_path / "mine.txt")
    keep_listing(tmp_path / ".cache/huggingface", LISTED)
    assert FolderRepo(tmp_path, "o/r").holdings() == [Holding(SHA, [], 1, 3)]


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


def test_a_commit_that_is_not_all_here_is_looked_for_again_by_its_id(tmp_path: Path) -> None:
    clock = Clock()
    cache_file(tmp_path, SHA, "config.json", OTHER)
    repo = CacheRepo(tmp_path, "o/r", interval=5, clock=clock)
    looks = [repo.resolve(SHA)]
    keep_listing(tmp_path, LISTED)
    clock.now = 5
    looks.append(repo.resolve(SHA))
    cache_file(tmp_path, SHA, "a/w.bin", "ab" * 32, b"data")
    cache_file(tmp_path, SHA, "more.json", "2" * 40, b"nine more")
    clock.now = 10
    looks.append(repo.resolve(SHA))
    assert [look and (look.listing, look.is_settled) for look in looks] == [
        ("unknown", False),
        ("whole", False),
        ("whole", True),
    ]
    clock.now = 15
    assert repo.resolve(SHA) is looks[-1]


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
