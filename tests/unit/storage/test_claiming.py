from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.storage import DATA, SIZE, abandon, left_behind, owner, put

from hf_haul.ranges import ByteRange
from hf_haul.storage import (
    adoption,
    claiming,
    journal,
    left_file,
    ownership,
    regular_files,
    staged_file,
    staged_names,
)
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim, claim_new
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.storage.sweeping import sweep


def test_a_new_claim_lacks_everything_and_leaves_nothing_when_closed(tmp_path: Path) -> None:
    staged = claim(tmp_path / "blobs", "etag", SIZE)
    assert staged.missing() == [ByteRange(0, SIZE)]
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == ["etag.haul.incomplete"]
    staged.close()
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_new_claim_is_made_at_once_where_nothing_is_in_its_way(tmp_path: Path) -> None:
    assert claim_new(tmp_path / "blobs", "etag", SIZE) is None  # no folder
    staged = claim_new(tmp_path, "etag", SIZE, uri="hf://a/b")
    assert staged is not None
    assert staged.missing() == [ByteRange(0, SIZE)]
    assert claim_new(tmp_path, "etag", SIZE) is None
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    put(staged, 0, 300)
    staged.close()
    assert claim_new(tmp_path, "etag", SIZE) is None  # to be resumed
    again = claim(tmp_path, "etag", SIZE)
    assert (again.resumed, again.uri) == (300, "hf://a/b")
    again.close()


@pytest.mark.parametrize("make", [claim, claim_new])
def test_without_memory_for_a_new_staged_file_nothing_is_left_open_or_behind(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def no_memory(path: Any, key: str, size: int, fd: int, **_: Any) -> StagedFile:
        given.append(fd)
        raise MemoryError

    monkeypatch.setattr(claiming, "StagedFile", no_memory)
    with pytest.raises(MemoryError):
        make(tmp_path, "etag", SIZE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given[0])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_let_go_is_resumed_with_all_it_had(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 300)
    put(staged, 600, 700)
    staged.close()
    again = claim(tmp_path, "etag", SIZE)
    assert again.missing() == [ByteRange(300, 600), ByteRange(700, SIZE)]
    assert again.resumed == 400
    put(again, 300, 600)
    put(again, 700, SIZE)
    assert again.seal(durable=False).read_bytes() == DATA


def test_a_file_of_the_current_folder_is_sealed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    staged = claim(Path(), "etag", 4)
    staged.write(0, memoryview(b"done"))
    staged.record(0, 4)
    sealed = staged.seal(durable=False)
    assert list(tmp_path.iterdir()) == [tmp_path / sealed]


def test_a_living_owner_in_this_process_keeps_its_file(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 10)
    with pytest.raises(StagedElsewhereError, match="another download of this process"):
        claim(tmp_path, "etag", SIZE)
    put(staged, 10, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


@pytest.mark.usefixtures("dead")
def test_another_size_or_content_is_never_resumed(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    abandon(staged)
    other = claim(tmp_path, "etag", SIZE + 1)
    assert other.done == 0
    other.delete()


@pytest.mark.usefixtures("dead")
def test_a_reboot_costs_the_bytes_only_where_no_digest_will_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for digest_known, resumed in [(True, 400), (False, 0)]:
        monkeypatch.setattr(ownership, "_me", owner(boot="before"))
        staged = claim(tmp_path, "etag", SIZE)
        put(staged, 0, 400)
        abandon(staged)
        monkeypatch.setattr(ownership, "_me", owner(boot="after"))
        again = claim(tmp_path, "etag", SIZE, digest_known=digest_known)
        assert again.resumed == resumed
        again.delete()


def test_without_resume_everything_starts_anew(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    staged.close()
    again = claim(tmp_path, "etag", SIZE, resume=False)
    assert again.done == again.resumed == 0
    again.delete()


def test_a_sequential_file_keeps_its_prefix_without_a_journal(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE, sequential=True)
    put(staged, 0, 400)
    assert staged.path.stat().st_size == 400
    staged.close()
    again = claim(tmp_path, "etag", SIZE, sequential=True)
    assert again.missing() == [ByteRange(400, SIZE)]
    put(again, 400, SIZE)
    assert again.seal(durable=False).read_bytes() == DATA
    assert len(list(tmp_path.iterdir())) == 1


def test_a_foreign_partial_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "etag.01234567.incomplete"
    foreign.write_bytes(b"another program's bytes")
    os.utime(foreign, (1, 1))  # however old
    assert scan_orphans(tmp_path) == {}
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.done == 0
    assert foreign.read_bytes() == b"another program's bytes"
    staged.delete()


class Killed(BaseException):
    """A process ends here; nothing after it happens."""


class MortalOs:
    """The ``os`` module of a process that is killed before its n-th call that changes something."""

    CHANGES = frozenset(
        {"open", "pwrite", "rename", "link", "unlink", "ftruncate", "fsync", "utime", "close"}
    )

    def __init__(self, lives: int) -> None:
        self.lives = lives
        self.fds: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.lives <= 0:  # and stays dead: no handler on the way out does anything either
                raise Killed
            self.lives -= 1
            result = real(*args, **kwargs)
            if name == "open":
                self.fds.add(result)
            if name == "close":
                self.fds.discard(args[0])
            return result

        return call

    def bury(self) -> None:
        for fd in self.fds:
            os.close(fd)


def _copy_folder(folder: Path, copy: Path) -> None:
    """Copy a folder with its hard links."""
    copy.mkdir()
    seen: dict[int, Path] = {}
    for path in folder.iterdir():
        inode = path.stat().st_ino
        if inode in seen:
            os.link(seen[inode], copy / path.name)
        else:
            seen[inode] = copy / path.name
            shutil.copy2(path, copy / path.name)


def _live(folder: Path, mortal: MortalOs, fetched: list[int], *, digest_known: bool = True) -> None:
    """One run of a program: claim what is there, fetch what is missing, publish."""
    if (folder / "final").exists():
        return
    orphans = scan_orphans(folder).get("etag")
    staged = claim(folder, "etag", SIZE, orphans=orphans, digest_known=digest_known)
    for run in staged.missing():
        for start in range(run.start, run.stop, 250):
            stop = min(start + 250, run.stop)
            staged.write(start, memoryview(DATA)[start:stop])
            fetched.append(stop - start)
            staged.record(start, stop)
    mortal.rename(staged.seal(durable=True), folder / "final")


@pytest.mark.usefixtures("dead")
@pytest.mark.parametrize("kills", [1, 2])
def test_killed_at_any_moment_once_or_twice_next_to_nothing_is_fetched_again_and_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    def run(folder: Path, lives: int, fetched: list[int]) -> bool:
        mortal = MortalOs(lives)
        for module in (staged_file, staged_names, journal, left_file, adoption, claiming, regular_files):
            monkeypatch.setattr(module, "os", mortal)
        try:
            _live(folder, mortal, fetched)
        except Killed:
            return False
        finally:
            for module in (staged_file, staged_names, journal, left_file, adoption, claiming, regular_files):
                monkeypatch.setattr(module, "os", os)
            mortal.bury()
        return True

    def die(folder: Path, left: int, fetched: list[int]) -> int:
        """Every way to be killed ``left`` more times, and then not; returns how many there are."""
        if not left:
            assert run(folder, 10**9, fetched)
            assert (folder / "final").read_bytes() == DATA
            assert [p.name for p in folder.iterdir()] == ["final"]
            assert sum(fetched) <= SIZE + 250 * kills
            return 1
        ways = 0
        for lives in range(10**9):
            copy = folder.with_name(f"{folder.name}-{lives}")
            _copy_folder(folder, copy)
            mine = list(fetched)
            over = run(copy, lives, mine)
            ways += die(copy, 0 if over else left - 1, mine)
            shutil.rmtree(copy)
            if over:
                return ways
        raise AssertionError

    (tmp_path / "run").mkdir()
    assert die(tmp_path / "run", kills, []) >= 15**kills


def test_a_file_let_go_without_the_room_to_say_so_is_taken_up_again_by_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        staged.close()
    again = claim(tmp_path, "etag", SIZE)
    assert again.resumed == 100
    again.delete()


def test_a_file_renamed_under_our_eyes_is_looked_for_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process adopts what we were about to adopt: it is alive, so we leave it the file."""
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)
    best_of = adoption.Adopter.best_of

    def adopt(self: adoption.Adopter, paths: list[Path]) -> StagedFile | None:
        if staged.path in paths and staged.path.exists():
            staged.path = staged.path.rename(tmp_path / "etag.01234567.haul.incomplete")
        return best_of(self, paths)

    monkeypatch.setattr(adoption.Adopter, "best_of", adopt)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
@pytest.mark.parametrize("scanned", [False, True], ids=["not listed", "listed"])
@pytest.mark.parametrize("leads", ["nowhere", "to another file", "to a released staged file", "to itself"])
def test_a_symlink_under_a_staged_name_is_neither_followed_nor_removed_and_nobody_waits_for_it(
    tmp_path: Path, leads: str, scanned: bool
) -> None:
    folder, elsewhere = tmp_path / "blobs", tmp_path / "elsewhere"
    folder.mkdir()
    before = b"theirs"
    if leads == "to a released staged file":
        released = claim(elsewhere, "etag", SIZE)
        put(released, 0, 400)
        released.close()
        before = (elsewhere / "etag.haul.incomplete").read_bytes()
    elif leads == "to another file":
        elsewhere.mkdir()
        (elsewhere / "etag.haul.incomplete").write_bytes(before)
    link = folder / "etag.haul.incomplete"
    link.symlink_to(link if leads == "to itself" else elsewhere / "etag.haul.incomplete")
    target = os.readlink(link)
    orphans = [link] if scanned else scan_orphans(folder).get("etag")
    staged = claim(folder, "etag", SIZE, orphans=orphans)
    assert not staged.path.is_symlink()
    assert staged.resumed == 0
    put(staged, 0, 500)
    staged.close()
    again = claim(folder, "etag", SIZE, orphans=scan_orphans(folder)["etag"])
    assert again.resumed == 500
    put(again, 500, SIZE)
    assert again.seal(durable=False).read_bytes() == DATA
    sweep(folder, {"etag": SIZE})
    assert os.readlink(link) == target
    if leads.startswith("to a"):
        assert (elsewhere / "etag.haul.incomplete").read_bytes() == before
    else:
        assert not elsewhere.exists()


@pytest.mark.parametrize("other", [SIZE - 1, SIZE + 1, 10 * SIZE])
@pytest.mark.parametrize("left", ["let go of", "left by a killed process"])
def test_what_was_staged_for_another_size_is_dropped_without_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, other: int
) -> None:
    old = claim(tmp_path, "url", SIZE)
    put(old, 0, 700)
    if left == "let go of":
        old.close()
    else:
        abandon(old)
        monkeypatch.setattr(staged_file, "_open_here", set())
    staged = claim(tmp_path, "url", other)
    assert staged.missing() == [ByteRange(0, other)]
    staged.delete()
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_stages_for_another_size_is_left_alone(tmp_path: Path) -> None:
    theirs = claim(tmp_path, "url", SIZE)
    put(theirs, 0, 10)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "url", SIZE + 1)
    theirs.delete()


def test_what_is_staged_under_a_former_key_goes_on_under_the_new_one(tmp_path: Path) -> None:
    left_behind(tmp_path, key="old")
    found = scan_orphans(tmp_path)["old"]
    staged = claim(tmp_path, "new", SIZE, orphans=found, former_keys=("old",))
    assert staged.resumed == 400
    put(staged, 400, 500)
    staged.close()
    assert [path.name for path in tmp_path.iterdir()] == ["new.haul.incomplete"]
    again = claim(tmp_path, "new", SIZE)
    assert again.resumed == 500
    again.delete()


def test_of_what_is_staged_under_both_keys_the_best_is_kept(tmp_path: Path) -> None:
    left_behind(tmp_path, 300, key="new")
    left_behind(tmp_path, 700, key="old")
    left_behind(tmp_path, 900, key="other")
    found = scan_orphans(tmp_path)
    staged = claim(tmp_path, "new", SIZE, orphans=[*found["new"], *found["old"]], former_keys=("old",))
    assert staged.resumed == 700
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new.haul.incomplete",
        "other.haul.incomplete",
    ]
    staged.delete()


def test_a_key_that_is_not_a_former_one_is_another_content(tmp_path: Path) -> None:
    left_behind(tmp_path, key="old")
    staged = claim(tmp_path, "new", SIZE, orphans=scan_orphans(tmp_path)["old"])
    assert staged.resumed == 0
    staged.delete()


@pytest.mark.parametrize("sequential", [False, True])
def test_a_staged_file_says_what_people_call_it_and_goes_on_saying_so(
    tmp_path: Path, sequential: bool
) -> None:
    def noted(path: Path) -> str:
        with path.open("rb") as file:
            if sequential:
                return ownership.read_uri_xattr(file.fileno())
            header = journal.read_header(file.fileno(), SIZE, ["etag"])
        assert header is not None
        return header.uri

    uri = "hf://org/name@c/a.bin"
    staged = claim(tmp_path, "etag", SIZE, sequential=sequential, uri=uri)
    put(staged, 0, 400)
    if sequential and ownership.read_owner_xattr(staged._fd) is None:
        pytest.skip("no extended attributes here")
    assert noted(staged.path) == uri
    staged.close()
    again = claim(tmp_path, "etag", SIZE, sequential=sequential)  # by who knows no name for it
    assert again.resumed == 400
    again.close()
    assert noted(again.path) == uri
    other = claim(tmp_path, "etag", SIZE, sequential=sequential, uri="hf://org/other@c/b.bin")
    assert (other.resumed, noted(other.path)) == (400, "hf://org/other@c/b.bin")
    other.delete()
