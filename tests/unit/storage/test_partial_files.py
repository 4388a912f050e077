from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.storage import DATA, SIZE, left_behind, put, stage

from hf_haul.storage import ownership, partial_files, sweeping
from hf_haul.storage.claiming import claim
from hf_haul.storage.ownership import current_owner
from hf_haul.storage.partial_files import PartialOnDisk
from hf_haul.storage.staging_places import staging_places

URI = "hf://org/name@c/a.bin"
DAY = 86400.0


def _found(folder: Path) -> dict[str, PartialOnDisk]:
    return {
        found.path.name: found
        for place in staging_places(folder)
        for found in partial_files.partial_files(place)
    }


def _only(folder: Path) -> PartialOnDisk:
    (found,) = _found(folder).values()
    return found


def _age(path: Path, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(path, (at, at))


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    folder = tmp_path / "hub/models--org--name/blobs"
    folder.mkdir(parents=True)
    return folder


def test_of_a_file_that_is_being_fetched_it_is_told_how_far_it_is_and_by_whom(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "etag", SIZE, uri=URI)) as staged:
        put(staged, 0, 100)
        put(staged, 300, 500)
        found = _only(tmp_path)
        assert (found.kind, found.key, found.size, found.done) == ("staged", "etag", SIZE, 300)
        assert (found.state, found.owner, found.uri) == ("alive", current_owner(), URI)
        assert 0 < found.on_disk <= 16384
        assert abs(found.modified - time.time()) < 60
        put(staged, 500, 600)
        assert _only(tmp_path).done == 400
    assert staged.path.exists()


def test_looking_changes_nothing_and_takes_nothing_from_its_owner(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    before = staged.path.read_bytes(), staged.path.stat().st_mtime_ns
    _found(tmp_path)
    assert (staged.path.read_bytes(), staged.path.stat().st_mtime_ns) == before
    put(staged, 400, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


@pytest.mark.parametrize("sequential", [False, True])
def test_what_an_owner_let_go_of_is_nobodys_however_fresh(tmp_path: Path, sequential: bool) -> None:
    staged = claim(tmp_path, "etag", SIZE, sequential=sequential)
    put(staged, 0, 400)
    staged.close()
    found = _only(tmp_path)
    assert (found.state, found.done, found.resumable) == ("dead", 400, True)
    assert found.size == (None if sequential else SIZE)
    assert abs(found.modified - time.time()) < 60  # not 1970


def test_what_a_killed_process_left_is_nobodys_and_can_be_resumed(tmp_path: Path) -> None:
    left_behind(tmp_path, uri=URI)
    found = _only(tmp_path)
    assert (found.state, found.done, found.size, found.resumable) == ("dead", 400, SIZE, True)
    assert (found.uri, found.owner and found.owner.pid) == (URI, 2**22 + 1)


def test_of_what_was_killed_before_its_first_record_nothing_can_be_used(tmp_path: Path) -> None:
    stage(tmp_path / "etag.haul.incomplete", b"x" * 100)
    _age(tmp_path / "etag.haul.incomplete", 60)
    found = _only(tmp_path)
    assert (found.state, found.done, found.size, found.resumable) == ("dead", 0, None, False)


@pytest.mark.parametrize(
    ("owner", "age", "local", "state"),
    [
        pytest.param({"boot": "other", "host": "other"}, 10, True, "alive", id="another host, a moment ago"),
        pytest.param(
            {"boot": "other", "host": "other"}, 3600, True, "unknown", id="another host, an hour ago"
        ),
        pytest.param(
            {"boot": "other", "host": "other"}, 25 * 3600, False, "dead", id="another host, a day ago"
        ),
        pytest.param({"boot": "other"}, 3600, True, "dead", id="this host before its last boot"),
        pytest.param({"boot": "other"}, 3600, False, "unknown", id="a host of this name, on a shared disk"),
        pytest.param(
            {"namespace": "pid:[1]"}, 3600, True, "dead", id="another container, which locks nothing"
        ),
    ],
)
def test_an_owner_that_cannot_be_seen_is_dead_only_where_that_is_certain(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: dict[str, Any],
    age: float,
    local: bool,
    state: str,
) -> None:
    monkeypatch.setattr(partial_files, "keeps_writes", lambda _: local)
    _age(left_behind(tmp_path, owner={"pid": os.getpid(), **owner}), age)
    assert _only(tmp_path).state == state


@pytest.mark.parametrize("age", [3600, 25 * 3600])
def test_where_locks_lie_a_silent_owner_in_another_container_is_unknown_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    monkeypatch.setattr(ownership, "try_lock", lambda _: True)
    _age(left_behind(tmp_path, owner={"pid": os.getpid(), "namespace": "pid:[1]"}), age)
    assert _only(tmp_path).state == ("unknown" if age < DAY else "dead")


def test_a_complete_file_that_was_about_to_be_published_is_nobodys_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, SIZE)
    staged.seal(durable=False)
    found = _only(tmp_path)
    assert (found.state, found.done, found.size, found.resumable) == ("unknown", SIZE, SIZE, True)
    later = time.time() + 130
    monkeypatch.setattr(time, "time", lambda: later)
    assert _only(tmp_path).state == "dead"
    monkeypatch.undo()
    staged.unseal()
    assert _only(tmp_path).state == "dead"


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere we do not know which file systems are this host's"
)
@pytest.mark.parametrize(
    ("age", "lock", "local", "state"),
    [
        pytest.param(25 * 3600, None, True, "dead", id="nobody ever locked it"),
        pytest.param(25 * 3600, "free", True, "dead", id="its lock is free"),
        pytest.param(25 * 3600, "held", True, "alive", id="its lock is held"),
        pytest.param(25 * 3600, "soft", True, "alive", id="its lock is a file with something in it"),
        pytest.param(25 * 3600, "link", True, "unknown", id="its lock is a link"),
        pytest.param(23 * 3600, "free", True, "unknown", id="changed today"),
        pytest.param(25 * 3600, "free", False, "unknown", id="other hosts may use the folder"),
    ],
)
@pytest.mark.parametrize("name", ["etag.incomplete", "etag.0123abcd.incomplete"])
def test_a_file_of_huggingface_hubs_is_nobodys_only_where_that_is_certain(
    blobs: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    age: float,
    lock: str | None,
    local: bool,
    state: str,
) -> None:
    monkeypatch.setattr(sweeping, "keeps_writes", lambda _: local)
    _age(stage(blobs / name, b"upstream's"), age)
    path = blobs.parents[1] / ".locks/models--org--name/etag.lock"
    if lock == "link":
        path.parent.mkdir(parents=True)
        path.symlink_to(stage(blobs.parent / "elsewhere", b""))
    elif lock is not None:
        stage(path, b"4711\nhost" if lock == "soft" else b"")
    holder = os.open(path, os.O_RDWR) if lock == "held" else -1
    assert holder < 0 or ownership.try_lock(holder)
    found = _only(blobs.parent)
    assert (found.kind, found.key, found.state, found.resumable) == ("huggingface_hub", "etag", state, False)
    if holder >= 0:
        os.close(holder)


@pytest.mark.parametrize(
    ("path", "age", "state"),
    [
        ("blobs/tmp_0f6e", 3, "dead"),
        ("blobs/tmp_0f6e", 0, "unknown"),
        ("tmp_0f6e", 3, "dead"),
        ("../tmp_0f6e", 3, "dead"),
        ("tmpab_12cd9/", 130, "dead"),
        ("tmpab_12cd9/dummy_file_src", 130, "dead"),
        ("tmpab_12cd9/mine", 130, None),
        ("trees/tmpab_12cd9.tmp", 130, "dead"),
        ("trees/tmpab_12cd9.tmp", 60, "unknown"),
        ("snapshots/tmp_0f6e", 130, None),
        ("../files/tmp_0f6e", 130, None),
        ("../files/big.incomplete", 100 * 86400, None),
        ("blobs/.probe.00000000.haul.incomplete", 130, "dead"),
        ("blobs/.probe.00000000.haul.incomplete", 60, "unknown"),
        (f"blobs/.probe.{os.getpid():08x}.haul.incomplete", 130, "alive"),
    ],
)
def test_what_was_made_to_be_removed_at_once_is_known_by_its_name_and_its_place(
    blobs: Path, path: str, age: float, state: str | None
) -> None:
    made = blobs.parent / path
    if path.endswith("/"):
        made.mkdir()
    else:
        stage(made)
    _age(made, age)
    if made.parent.name.startswith("tmpab"):
        _age(made.parent, age)
    found = [each for each in _found(blobs.parents[1]).values() if each.kind == "temporary"]
    assert [each.state for each in found] == ([] if state is None else [state])


def test_of_a_local_dir_files_are_found_beside_their_metadata_and_beside_their_place(tmp_path: Path) -> None:
    left_behind(tmp_path / ".cache/huggingface/download/sub", key="hash.etag")
    left_behind(tmp_path / "got", key="a.bin.0123456789abcdef")
    found = _found(tmp_path)
    assert {each.place.kind for each in found.values()} == {"metadata", "files"}
    assert all(each.done == 400 for each in found.values())


def test_links_and_folders_with_the_names_of_staged_files_are_passed_over(
    blobs: Path, tmp_path: Path
) -> None:
    outside = left_behind(tmp_path / "outside")
    (blobs / "etag.haul.incomplete").symlink_to(outside)
    (blobs / "etag.incomplete").symlink_to(outside)
    (blobs / "tmp_1").symlink_to(outside)
    (blobs / "other.haul.incomplete").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(blobs / "pipe.haul.incomplete")
    assert _found(blobs.parent) == {}


def test_a_file_that_may_not_be_read_is_told_with_what_it_takes(
    blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(blobs)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(partial_files, "inspect_file", refuse)
    found = _only(blobs.parent)
    assert (found.state, found.owner, found.size, found.resumable) == ("unknown", None, None, False)
    assert found.on_disk > 0


def test_a_file_that_vanishes_while_it_is_looked_at_is_passed_over(
    blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(blobs)
    real = partial_files.inspect_file

    def late(*args: Any) -> Any:
        path.unlink()
        return real(*args)

    monkeypatch.setattr(partial_files, "inspect_file", late)
    assert _found(blobs.parent) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("words", "program"),
    [
        ((sys.executable, "{file}", "--token", "hf_secret"), "train.py"),
        ((sys.executable, "-m", "train", "--token", "hf_secret"), "python -m train"),
        ((sys.executable, "-c", "{text}", "hf_secret"), os.path.basename(sys.executable)),
    ],
)
def test_a_living_owners_program_is_named_without_its_arguments(
    tmp_path: Path, words: tuple[str, ...], program: str
) -> None:
    text = "import sys; print(flush=True); sys.stdin.read()"
    file = tmp_path / "train.py"
    file.write_text(text)
    filled = [word.format(file=file, text=text) for word in words]
    with subprocess.Popen(filled, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        owner = ownership.Owner(
            **{**{f: getattr(current_owner(), f) for f in ownership.Owner.__slots__}, "pid": child.pid}
        )
        assert ownership.program_of(owner) == program
        child.communicate()
    assert ownership.program_of(owner) is None
