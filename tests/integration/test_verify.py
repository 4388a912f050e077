"""verify: what is found of broken files, and how they are repaired, against a local Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tests.support.hub import ServedRepo, hub_environment, serve_repo
from tests.support.repos import contents, random_bytes

import hf_haul
from hf_haul import CheckedFile, Settings, VerifyProgress, VerifyReport
from hf_haul.errors import StopRequestedError
from hf_haul.hub import verification, verify_checks
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.hub.verification import verify
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Corrupt, Stall, Status
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage import file_checks

PAGE = 4096
LARGE = "model-00001-of-00002.safetensors"
SMALL = "config.json"
SETTINGS = Settings(
    first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3, give_up_after=5.0, durable=False
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path_factory.mktemp("source"), shard_bytes=3 << 20) as served:
        yield served


@dataclass
class Place:
    """A downloaded repository, in a cache or in a folder.

    Attributes:
        served: Where it is from.
        folder: Where its files are.
        target: What ``verify`` is given.
        options: What else.
    """

    served: ServedRepo
    folder: Path
    target: str
    options: dict[str, Any]

    def verify(self, **more: Any) -> VerifyReport:
        return verify(self.target, **{**self.options, **more})

    def bytes_of(self, name: str) -> Path:
        """The file that has the bytes."""
        return (self.folder / name).resolve()

    def faults(self, **more: Any) -> dict[str, tuple[str, str | None]]:
        """What is wrong, by path."""
        return {
            each.path: (each.state, each.fault) for each in self.verify(**more).files if each.state != "ok"
        }

    def repair(self, **more: Any) -> dict[str, CheckedFile]:
        """What was wrong, after a repair, by path."""
        self.served.hub.requests.clear()
        return {each.path: each for each in self.verify(repair=True, **more).files if each.fault is not None}

    @property
    def is_whole(self) -> bool:
        return contents(self.folder) == self.served.contents


@pytest.fixture(scope="module")
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@pytest.fixture(params=["cache", "local_dir"])
def place(
    request: pytest.FixtureRequest, served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager
) -> Iterator[Place]:
    """Both kinds of places."""
    yield from _place(request.param, served, tmp_path, manager)


@pytest.fixture
def cached(served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager) -> Iterator[Place]:
    yield from _place("cache", served, tmp_path, manager)


@pytest.fixture
def local(served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager) -> Iterator[Place]:
    yield from _place("local_dir", served, tmp_path, manager)


def _place(
    kind: str, served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager
) -> Iterator[Place]:
    where: dict[str, Any] = {"endpoint": served.hub.url, "token": False, "manager": manager}
    there = {"cache_dir": tmp_path / "cache"} if kind == "cache" else {"local_dir": tmp_path / "files"}
    folder = Path(snapshot_download("org/tiny", **where, **there))
    served.hub.requests.clear()
    yield Place(served, folder, "org/tiny", {**where, **there})
    served.hub.faults.clear()


# ---- what is found


def test_what_was_downloaded_is_all_right_and_nobody_is_asked_and_nothing_is_written(
    place: Place, tmp_path: Path
) -> None:
    before = _everything_in(tmp_path)
    report = place.verify()
    assert report.is_ok
    assert report.counts == {
        "ok": len(place.served.contents),
        "wrong": 0,
        "missing": 0,
        "unknown": 0,
        "extra": 0,
    }
    assert {each.path for each in report.files} == place.served.contents.keys()
    assert report.bytes_read == sum(each.size or 0 for each in report.files)
    assert (report.repo_id, report.repo_type, report.asked_hub, report.hub_error) == (
        "org/tiny",
        "model",
        False,
        None,
    )
    assert report.commits == (place.served.repo.head.id,)
    assert {each.known_from for each in report.files} == {"listing"}
    assert len(place.served.hub.requests) == 0
    assert _everything_in(tmp_path) == before


def _everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        os.path.join(root, name): (about.st_mtime_ns, about.st_ino)
        for root, folders, names in os.walk(folder)
        for name in [*folders, *names]
        for about in [os.lstat(os.path.join(root, name))]
    }


Break = Callable[[Path, Path], None]


def _flip(file: Path, _: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)


def _zero(file: Path, _: Path) -> None:
    with file.open("r+b") as out:
        out.seek(len(file.read_bytes()) // 2 // PAGE * PAGE)
        out.write(bytes(2 * PAGE))


def _to_folder(file: Path, name: Path) -> None:
    del file
    name.unlink()
    name.mkdir()


def _to_pipe(file: Path, name: Path) -> None:
    del file
    name.unlink()
    os.mkfifo(name)


BREAKS: dict[str, tuple[Break, str, str]] = {
    "truncated": (lambda file, _: os.truncate(file, file.stat().st_size - PAGE), "wrong", "size"),
    "emptied": (lambda file, _: os.truncate(file, 0), "wrong", "size"),
    "grown": (lambda file, _: file.write_bytes(file.read_bytes() + b"more"), "wrong", "size"),
    "a flipped bit": (_flip, "wrong", "digest"),
    "lost pages": (_zero, "wrong", "digest"),
    "missing": (lambda _, name: name.unlink(), "missing", "absent"),
    "a folder": (_to_folder, "wrong", "folder"),
    "a pipe": (_to_pipe, "wrong", "not-a-file"),
    "a link to nothing": (
        lambda file, name: (file.unlink(), name.is_symlink() or name.symlink_to("nowhere"))[0],
        "missing",
        "broken-link",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_file_is_found_and_nothing_else_is(place: Place, broken: str) -> None:
    break_it, state, fault = BREAKS[broken]
    break_it(place.bytes_of(LARGE), place.folder / LARGE)
    report = place.verify()
    assert {each.path: (each.state, each.fault) for each in report.files if each.state != "ok"} == {
        LARGE: (state, fault)
    }
    assert not report.is_ok
    assert len(place.served.hub.requests) == 0


def test_a_finding_says_what_is_and_what_should_be(cached: Place) -> None:
    size = cached.bytes_of(LARGE).stat().st_size
    os.truncate(cached.bytes_of(LARGE), 7)
    _flip(cached.bytes_of(SMALL), cached.folder)
    (cached.folder / "README.md").unlink()
    found = {each.path: each for each in cached.verify().files if each.fault is not None}
    assert found[LARGE].finding == f"it has 7 bytes and should have {size}"
    wrong = found[SMALL]
    assert wrong.finding == f"its git-sha1 is {wrong.actual} and should be {cached.bytes_of(SMALL).name}"
    assert found["README.md"].finding == "it is not there"
    assert json.loads(json.dumps(cached.verify().as_dict()))["wrong"] == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_what_cannot_be_read_is_wrong(cached: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        cached.bytes_of(LARGE).chmod(0)
    else:  # root may read everything
        opened = os.open

        def refuse(path: Any, *args: Any, **more: Any) -> int:
            if os.path.basename(path) == LARGE:
                raise PermissionError(13, "Permission denied", path)
            return opened(path, *args, **more)

        monkeypatch.setattr(file_checks.os, "open", refuse)
    (found,) = [each for each in cached.verify().files if each.state != "ok"]
    assert (found.path, found.state, found.fault) == (LARGE, "wrong", "unreadable")
    assert found.finding == "it cannot be read: Permission denied"


def test_sizes_are_told_before_the_first_file_is_read(cached: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(cached.served.contents)
    for name in (names[0], names[-1]):
        with cached.bytes_of(name).open("ab") as file:
            file.write(b"x")
    told: list[str] = []

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verify_checks, "hex_digest", refuse)
    cached.verify(on_file=lambda file: told.append(f"{file.path} {file.fault}"))
    assert sorted(told[:2]) == sorted([f"{names[0]} size", f"{names[-1]} size"])
    assert all(each.endswith("unreadable") for each in told[2:])


def test_one_blob_of_several_names_and_snapshots_is_read_once(cached: Place) -> None:
    other = cached.folder.parent / ("d" * 40)
    shutil.copytree(cached.folder, other, symlinks=True)
    report = verify(cached.folder.parents[1])
    assert report.commits == tuple(sorted([cached.folder.name, other.name]))
    assert report.counts["ok"] == 2 * len(cached.served.contents)
    assert report.bytes_read == sum(
        blob.stat().st_size for blob in (cached.folder.parents[1] / "blobs").iterdir()
    )
    _flip(cached.bytes_of(LARGE), cached.folder)
    wrong = [each for each in verify(cached.folder.parents[1]).files if each.state == "wrong"]
    assert [(each.path, each.commit) for each in wrong] == [
        (LARGE, commit) for commit in sorted([cached.folder.name, other.name])
    ]


def test_without_a_listing_the_names_of_blobs_tell(cached: Place) -> None:
    shutil.rmtree(cached.folder.parents[1] / "trees")
    report = cached.verify()
    assert {each.known_from for each in report.files} == {"etag"}
    assert report.counts["ok"] == len(cached.served.contents)
    os.truncate(cached.bytes_of(LARGE), PAGE)  # only the digest can tell
    (cached.folder / SMALL).unlink()  # and nothing tells that it was there
    assert cached.faults() == {LARGE: ("wrong", "digest")}


def test_without_a_listing_notes_tell_what_a_local_dir_had(local: Place) -> None:
    shutil.rmtree(local.folder / ".cache/huggingface/trees")
    assert {each.known_from for each in local.verify().files} == {"etag"}
    (local.folder / LARGE).unlink()
    (local.folder / "mine.txt").write_text("hello")
    assert local.faults() == {LARGE: ("missing", "absent"), "mine.txt": ("unknown", None)}


def test_what_nobody_knows_is_counted_and_no_error(cached: Place) -> None:
    shutil.rmtree(cached.folder.parents[1] / "trees")
    blob = cached.bytes_of(LARGE)
    name = blob.with_name("W-a-mirrors-etag")
    blob.rename(name)
    (cached.folder / LARGE).unlink()
    (cached.folder / LARGE).symlink_to(os.path.relpath(name, cached.folder))
    report = cached.verify()
    assert report.is_ok
    assert report.counts["unknown"] == 1


def test_a_file_that_the_repository_does_not_have_is_extra_and_no_error(place: Place) -> None:
    (place.folder / "notes.txt").write_text("mine")
    report = place.verify()
    assert report.is_ok
    assert [each.path for each in report.files if each.state == "extra"] == ["notes.txt"]


def test_what_was_never_downloaded_is_missing_unless_only_a_part_is_wanted(cached: Place) -> None:
    for name in sorted(cached.served.contents)[3:]:
        (cached.folder / name).unlink()
    assert cached.verify().counts["missing"] == len(cached.served.contents) - 3
    report = cached.verify(partial=True)
    assert (report.is_ok, len(report.files)) == (True, 3)
    (cached.folder / min(cached.served.contents)).resolve().unlink()
    assert cached.verify(partial=True).counts["missing"] == 1, "its link says that it was there"


def test_patterns_and_presets_choose(cached: Place) -> None:
    assert [each.path for each in cached.verify(allow_patterns=SMALL).files] == [SMALL]
    chosen = {each.path for each in cached.verify(presets="no-weights").files}
    assert LARGE not in chosen
    assert SMALL in chosen


def test_a_file_changed_since_its_download_is_wrong(local: Place) -> None:
    (local.folder / SMALL).write_text('{"mine": true}')
    assert local.faults() == {SMALL: ("wrong", "size")}


def test_a_mirrors_etag_that_is_the_plain_sha1_is_no_fault(cached: Place) -> None:
    shutil.rmtree(cached.folder.parents[1] / "trees")
    blob = cached.bytes_of(SMALL)
    plain = hashlib.sha1(blob.read_bytes()).hexdigest()
    blob.rename(blob.with_name(plain))
    (cached.folder / SMALL).unlink()
    (cached.folder / SMALL).symlink_to(os.path.relpath(blob.with_name(plain), cached.folder))
    assert cached.verify().is_ok


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    cached: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = cached.bytes_of(LARGE).read_bytes()
    _flip(cached.bytes_of(LARGE), cached.folder)
    hash_it = verify_checks.hex_digest

    def replace_first(path: str, *args: Any) -> Any:
        found = hash_it(path, *args)
        if os.path.basename(path) == LARGE:
            (cached.folder / "new").write_bytes(right)
            os.replace(cached.folder / "new", cached.bytes_of(LARGE))
        return found

    monkeypatch.setattr(verify_checks, "hex_digest", replace_first)
    assert cached.verify().is_ok


# ---- which folder


def test_every_folder_that_is_known_can_be_verified(cached: Place, local: Place) -> None:
    count = len(cached.served.contents)
    for folder in (cached.folder, cached.folder.parents[1], local.folder):
        for target in (folder, str(folder)):
            assert verify(target).counts["ok"] == count, target
    assert {each.path for each in verify(cached.folder / "nested").files} == {
        name for name in cached.served.contents if name.startswith("nested/")
    }


def test_a_name_that_is_an_id_and_a_folder_means_the_folder_only_if_a_download_made_it(
    cached: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/tiny").mkdir(parents=True)
    assert cached.verify().path == str(cached.folder)
    options = {key: value for key, value in cached.options.items() if key != "cache_dir"}
    snapshot_download("org/tiny", local_dir="org/tiny", **options)
    assert verify("org/tiny").path == str(tmp_path / "org/tiny")


def test_what_is_not_there_is_told(tmp_path: Path, cached: Place) -> None:
    with pytest.raises(LocalEntryNotFoundError, match=r"model org/other is not in the cache"):
        verify("org/other", cache_dir=tmp_path)
    with pytest.raises(LocalEntryNotFoundError, match=r"but not at v9"):
        cached.verify(revision="v9")
    with pytest.raises(LocalEntryNotFoundError, match=r"neither a folder here nor the id"):
        verify("./nothing/here")
    with pytest.raises(ValueError, match=r"Name the repository that its files are from"):
        verify(tmp_path / "cache/models--org--tiny/refs")
    with pytest.raises(ValueError, match=r"is a whole cache"):
        verify(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"cannot be used together"):
        verify("org/tiny", cache_dir=tmp_path, local_dir=tmp_path)
    (tmp_path / "x/.cache/huggingface").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Nothing in .* tells which repository"):
        verify(tmp_path / "x", repair=True)


def test_a_folder_that_a_download_made_is_repaired_from_where_its_files_came(
    cached: Place, tmp_path: Path
) -> None:
    options = {key: value for key, value in cached.options.items() if key != "cache_dir"}
    folder = tmp_path / "plain"
    snapshot_download("org/tiny", local_dir=folder, **options)
    whole = (folder / SMALL).read_bytes()
    (folder / SMALL).write_bytes(whole[:1])
    found = verify(folder, repair=True, endpoint=cached.served.hub.url)
    assert (found.repo_id, found.is_ok) == ("org/tiny", True)
    assert (folder / SMALL).read_bytes() == whole


@pytest.mark.parametrize("repo", ["", "org/other", "../../x y", "datasets/org/tiny/more"])
def test_a_folder_whose_notes_do_not_agree_on_a_repository_has_none(
    cached: Place, tmp_path: Path, repo: str
) -> None:
    options = {key: value for key, value in cached.options.items() if key != "cache_dir"}
    folder = tmp_path / "plain"
    snapshot_download("org/tiny", local_dir=folder, **options)
    note = folder / ".cache/huggingface/download" / f"{SMALL}.metadata"
    lines = note.read_text().splitlines()
    assert lines[3] == "org/tiny"
    note.write_text("\n".join([*lines[:3], repo]))
    assert verify(folder).repo_id is None
    with pytest.raises(ValueError, match=r"Nothing in .* tells which repository"):
        verify(folder, repair=True)


def test_blobs_that_no_snapshot_uses_count_where_the_whole_repository_does(cached: Place) -> None:
    blob = cached.bytes_of(SMALL)
    (cached.folder / SMALL).unlink()
    shutil.rmtree(cached.folder.parents[1] / "trees")
    unused = f"blobs/{blob.name}"
    assert {each.path: each.state for each in verify(cached.folder.parents[1]).files}[unused] == "ok"
    _flip(blob, cached.folder)
    assert {each.path: each.state for each in verify(cached.folder.parents[1]).files}[unused] == "wrong"
    assert unused not in {each.path for each in cached.verify().files}
    found = verify(cached.folder.parents[1], repair=True, endpoint=cached.served.hub.url)
    (wrong,) = [each for each in found.files if each.state == "wrong"]
    assert "it can be deleted" in (wrong.repair_error or "")


# ---- the Hub's listing


def test_the_hubs_listing_counts_if_it_is_asked(place: Place) -> None:
    report = place.verify(ask_hub=True)
    assert report.asked_hub
    assert {each.known_from for each in report.files} == {"hub"}
    assert report.counts["ok"] == len(place.served.contents)


def test_a_hub_that_does_not_answer_leaves_what_the_disk_tells(
    cached: Place, caplog: pytest.LogCaptureFixture
) -> None:
    report = cached.verify(ask_hub=True, endpoint="http://127.0.0.1:9")
    assert not report.asked_hub
    assert report.hub_error
    assert report.counts["ok"] == len(cached.served.contents)
    assert "The Hub was not asked" in caplog.text


def test_a_folder_that_nothing_is_known_of_is_compared_with_the_hubs_listing(
    served: ServedRepo, tmp_path: Path
) -> None:
    shutil.copytree(served.folder, tmp_path / "clone")
    (tmp_path / "clone" / SMALL).unlink()
    report = verify("org/tiny", local_dir=tmp_path / "clone", endpoint=served.hub.url, token=False)
    assert report.asked_hub
    assert [each.path for each in report.files if each.state != "ok"] == [SMALL]
    assert not (tmp_path / "clone/.cache").exists()


def test_offline_nobody_is_asked(served: ServedRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(served.folder, tmp_path / "clone")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for ask in (True, False):
        report = verify("org/tiny", local_dir=tmp_path / "clone", endpoint=served.hub.url, ask_hub=ask)
        assert report.counts["unknown"] == len(served.contents)
    assert report.is_ok


# ---- repair

#: By kind of fault: how it is repaired, and how much of the large file is fetched at the most.
REPAIRS: dict[str, tuple[str, int]] = {
    "truncated": ("completed", PAGE),
    "emptied": ("fetched", 1 << 30),
    "grown": ("completed", 0),
    "a flipped bit": ("fetched", 1 << 30),
    "lost pages": ("completed", 2 * PAGE),
    "missing": ("fetched", 1 << 30),
    "a folder": ("fetched", 1 << 30),
    "a link to nothing": ("fetched", 1 << 30),
}


@pytest.mark.parametrize("broken", REPAIRS)
def test_a_broken_file_is_repaired_with_no_more_than_is_missing(place: Place, broken: str) -> None:
    BREAKS[broken][0](place.bytes_of(LARGE), place.folder / LARGE)
    how, most = REPAIRS[broken]
    if broken in {"missing", "a folder"} and "cache_dir" in place.options:
        how, most = "linked", 0  # the blob is still there
    report = place.verify(repair=True)
    assert report.is_ok
    (repaired,) = [each for each in report.files if each.fault is not None]
    assert (repaired.path, repaired.state, repaired.repair, repaired.repair_error) == (LARGE, "ok", how, None)
    assert report.bytes_fetched <= most
    assert repaired.bytes_kept == (
        (repaired.expected_size or 0) - report.bytes_fetched if how == "completed" else 0
    )
    assert place.is_whole
    assert place.verify().is_ok
    root = place.options.get("cache_dir", place.folder)
    assert [path.name for path in root.rglob("*.incomplete")] == []
    again = place.repair()
    assert (again, len(place.served.hub.requests)) == ({}, 0), "there is nothing left to be done"


def test_where_what_was_kept_is_not_right_all_of_it_is_fetched(place: Place) -> None:
    file = place.bytes_of(LARGE)
    _flip(file, file)
    _zero(file, file)
    os.truncate(file, file.stat().st_size - 10)
    found = place.repair()[LARGE]
    assert (found.state, found.repair, found.bytes_kept) == ("ok", "fetched", 0)
    assert place.is_whole


def test_what_stands_in_a_files_place_is_not_removed(place: Place) -> None:
    (place.folder / LARGE).unlink()
    (place.folder / LARGE).mkdir()
    (place.folder / LARGE / "mine.txt").write_text("mine")
    found = place.repair()[LARGE]
    assert (found.state, found.fault) == ("wrong", "folder")
    assert "move it away" in (found.repair_error or "")
    assert (place.folder / LARGE / "mine.txt").read_text() == "mine"


def test_a_repair_of_one_snapshot_is_one_of_all_that_share_the_blob(
    tmp_path: Path, manager: ParallelDownloadManager
) -> None:
    repo = Repo("org/two")
    files = {"large.bin": random_bytes(3 << 20, "large"), "small.txt": b"small"}
    commits = [repo.commit({**files, "card.md": card}, "it").id for card in (b"old", b"new")]
    with LocalHub(repo) as hub:
        where: dict[str, Any] = {"endpoint": hub.url, "token": False, "manager": manager}
        old, new = (
            Path(snapshot_download("org/two", revision=commit, cache_dir=tmp_path, **where))
            for commit in commits
        )
        _flip((old / "large.bin").resolve(), old)
        (new / "small.txt").unlink()
        _flip((old / "small.txt").resolve(), old)
        hub.requests.clear()
        report = verify(old.parents[1], repair=True, **where)
        assert report.is_ok, [each for each in report.files if each.state != "ok"]
        assert [(each.path, each.commit) for each in report.files if each.fault is not None] == [
            (name, commit) for name in ("large.bin", "small.txt") for commit in sorted(commits)
        ]
        assert {each.repair for each in report.files} == {None, "fetched", "linked"}
        assert sum(record.body_bytes for record in hub.requests.of("cdn", "large.bin")) < 6 << 20, "once"
    for folder in (old, new):
        assert {name: (folder / name).read_bytes() for name in files} == files


def test_a_blob_in_a_store_that_others_share_is_not_written_through(cached: Place, tmp_path: Path) -> None:
    blob = cached.bytes_of(LARGE)
    shared = tmp_path / "store/blob"
    shared.parent.mkdir()
    _flip(blob, blob)
    shutil.move(blob, shared)
    blob.symlink_to(shared)
    before = shared.read_bytes()
    assert cached.repair()[LARGE].state == "ok"
    assert shared.read_bytes() == before
    assert not blob.is_symlink()
    assert cached.is_whole


def test_a_file_that_is_open_while_it_is_repaired_is_as_it_was_for_its_reader(cached: Place) -> None:
    _flip(cached.bytes_of(LARGE), cached.folder)
    wrong = cached.bytes_of(LARGE).read_bytes()
    with cached.bytes_of(LARGE).open("rb") as reader:
        assert cached.repair()[LARGE].state == "ok"
        assert reader.read() == wrong
    assert cached.is_whole


def test_a_local_dir_is_repaired_from_the_cache_where_that_has_the_bytes(
    local: Place, served: ServedRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "the cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    hf_hub_download(
        "org/tiny",
        LARGE,
        cache_dir=cache,
        **{key: value for key, value in local.options.items() if key != "local_dir"},
    )
    _flip(local.folder / LARGE, local.folder)
    found = local.repair()[LARGE]
    assert (found.state, found.repair, found.bytes_kept) == ("ok", "copied", found.expected_size)
    assert served.hub.requests.of("cdn", LARGE) == []
    assert local.is_whole


def test_the_wrong_file_is_there_until_the_right_one_is(place: Place) -> None:
    """Also if the Hub sends wrong bytes, again and again."""
    _flip(place.bytes_of(LARGE), place.folder)
    wrong = place.bytes_of(LARGE).read_bytes()
    place.served.hub.faults.add(Corrupt(100_000), kind="cdn", path=LARGE, times=None)
    found = place.repair()[LARGE]
    assert (found.state, found.repair) == ("wrong", None)
    assert "digest does not match" in (found.repair_error or "")
    assert (place.folder / LARGE).read_bytes() == wrong


@pytest.mark.parametrize("how", ["gone", "busy", "refuses"])
def test_without_the_hub_what_can_be_repaired_is_and_the_rest_is_as_it_was(place: Place, how: str) -> None:
    file = place.bytes_of(LARGE)
    file.write_bytes(file.read_bytes() + b"more")  # needs nothing
    _flip(place.bytes_of(SMALL), place.folder)
    wrong = (place.folder / SMALL).read_bytes()
    more: dict[str, Any] = {}
    if how == "gone":
        more["endpoint"] = "http://127.0.0.1:9"
    else:
        place.served.hub.faults.add(Status(503 if how == "busy" else 403), times=None)
    found = place.repair(**more)
    assert (found[LARGE].state, found[LARGE].repair) == ("ok", "completed")
    assert (found[SMALL].state, found[SMALL].repair) == ("wrong", None)
    assert found[SMALL].repair_error
    assert (place.folder / SMALL).read_bytes() == wrong


def test_offline_a_repair_asks_nobody(cached: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _flip(cached.bytes_of(SMALL), cached.folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = cached.repair()[SMALL]
    assert (found.state, found.repair_error) == ("wrong", "HF_HUB_OFFLINE is set")
    assert len(cached.served.hub.requests) == 0


def test_without_a_size_the_hub_is_asked_for_it(cached: Place) -> None:
    shutil.rmtree(cached.folder.parents[1] / "trees")
    os.truncate(cached.bytes_of(LARGE), 2 << 20)
    found = cached.repair()[LARGE]
    assert (found.state, found.repair, found.bytes_kept) == ("ok", "completed", 2 << 20)


def test_without_room_on_the_disk_nothing_is_lost_and_that_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _flip(place.bytes_of(LARGE), place.folder)
    wrong = place.bytes_of(LARGE).read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1000))
    found = place.repair()[LARGE]
    assert (found.state, found.repair) == ("wrong", None)
    assert "disk space" in (found.repair_error or "")
    assert place.bytes_of(LARGE).read_bytes() == wrong


# ---- interrupted, and killed

_REPAIR = """
import sys
import hf_haul
print(hf_haul.verify("org/tiny", cache_dir=sys.argv[1], repair=True).is_ok)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_repair_that_is_ended_goes_on_from_there(tmp_path: Path, number: signal.Signals) -> None:
    with serve_repo(tmp_path / "src", shards=1, shard_bytes=8_000_000) as served:
        name = "model-00001-of-00001.safetensors"
        env = hub_environment(served.hub, tmp_path / "home", HF_HAUL_GIVE_UP_AFTER="30")
        folder = Path(
            snapshot_download("org/tiny", cache_dir=tmp_path / "cache", endpoint=served.hub.url, token=False)
        )
        blob = (folder / name).resolve()
        _flip(blob, folder)
        wrong = blob.read_bytes()
        stall = served.hub.faults.add(Stall(after=5_000_000), kind="cdn", path=name, times=None)
        command = [sys.executable, "-c", _REPAIR, str(tmp_path / "cache")]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert stall.wait(30)
                _wait_for_bytes(blob.parent, 4_000_000)
                began = time.monotonic()
                process.send_signal(number)
                process.wait(10)
                assert time.monotonic() - began < 3
            finally:
                process.kill()
        assert blob.read_bytes() == wrong, "the only copy is there"
        served.hub.faults.clear()
        served.hub.requests.clear()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "True\n", done.stderr
        assert served.hub.requests.body_bytes < 5_000_000, "what was fetched is not fetched again"
        assert contents(folder) == served.contents
        assert list(blob.parent.glob("*.incomplete")) == []


def _wait_for_bytes(folder: Path, nbytes: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(path.stat().st_blocks * 512 >= nbytes for path in folder.glob("*.incomplete")):
            return
        time.sleep(0.02)
    pytest.fail("nothing was staged")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_ends_hashing_within_a_second(cached: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = threading.Event()
    ended: list[type] = []

    def read_for_ever(path: str, algorithm: str, on_read: Any, check: Callable[[], None]) -> Any:
        del path, algorithm, on_read
        reading.set()
        try:
            for _ in range(3000):
                check()
                time.sleep(0.01)
        except StopRequestedError as error:
            ended.append(type(error))
            raise
        pytest.fail("was not ended")

    monkeypatch.setattr(verify_checks, "hex_digest", read_for_ever)

    def interrupt() -> None:
        reading.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cached.verify()
    assert time.monotonic() - began < 2
    interrupting.join(10)
    assert ended


def test_progress_never_goes_back_and_ends_at_all_of_it(cached: Place) -> None:
    seen: list[VerifyProgress] = []
    _flip(cached.bytes_of(LARGE), cached.folder)
    report = cached.verify(on_progress=seen.append, repair=True)
    checks = [each for each in seen if each.phase == "check"]
    assert [each.bytes_done for each in checks] == sorted(each.bytes_done for each in checks)
    assert checks[-1].bytes_done == checks[-1].bytes_total == report.bytes_read
    assert checks[-1].files_done == checks[-1].files_total == len(report.files)
    last = seen[-1]
    assert (last.phase, last.files_done, last.files_total) == ("repair", 1, 1)
    assert last.bytes_done == last.bytes_total


def test_the_public_names_are_those_of_the_library() -> None:
    assert hf_haul.verify is verification.verify


@pytest.mark.parametrize(("workers", "error"), [(0, ValueError), ("2", TypeError), (True, TypeError)])
def test_a_number_of_workers_is_checked(workers: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_workers"):
        verify("org/tiny", max_workers=workers)
