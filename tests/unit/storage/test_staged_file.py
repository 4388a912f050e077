"""Staged files: what survives a kill, who may take over, what is published."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.disk import HungDisk

from hf_haul.errors import DiskFullError, HaltedError
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage import ownership, regular_files
from hf_haul.storage import staged_file as staging
from hf_haul.storage.ownership import Owner, OwnerWatch
from hf_haul.storage.staged_file import StagedElsewhereError, StagedFile, StagedLostError, claim, scan_orphans

SIZE = 1000
DATA = random.Random(7).randbytes(SIZE)


def put(staged: StagedFile, start: int, stop: int) -> None:
    staged.write(start, memoryview(DATA)[start:stop])
    staged.record(start, stop)


def abandon(staged: StagedFile) -> None:
    """Leave the file as a killed process does: descriptor closed by the kernel, nothing said."""
    os.close(staged._fd)
    staged._fd = -1


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every owner but a new one is dead, as after a kill."""
    monkeypatch.setattr(staging, "judge", lambda *_args, **_more: "dead")
    monkeypatch.setattr(staging, "is_running", lambda _pid: False)


def test_a_new_claim_lacks_everything_and_leaves_nothing_when_closed(tmp_path: Path) -> None:
    staged = claim(tmp_path / "blobs", "etag", SIZE)
    assert staged.missing() == [ByteRange(0, SIZE)]
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == ["etag.haul.incomplete"]
    staged.close()
    assert list((tmp_path / "blobs").iterdir()) == []


def test_bytes_are_written_only_at_their_own_offset_and_writing_them_twice_is_harmless(
    tmp_path: Path,
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    for start, stop in [(500, 1000), (0, 200), (100, 600), (0, 1000)]:
        put(staged, start, stop)
    assert staged.missing() == []
    sealed = staged.seal(durable=True)
    assert sealed.read_bytes() == DATA


@pytest.mark.usefixtures("dead")
def test_a_journal_cut_at_any_byte_never_claims_too_much(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    for start in range(0, 800, 100):
        put(staged, start, start + 100)
    path = staged.path
    abandon(staged)
    whole = path.read_bytes()
    for cut in range(len(whole), SIZE - 1, -1):
        path.write_bytes(whole[:cut])
        again = claim(tmp_path, "etag", SIZE)
        records = max(0, cut - SIZE - 512) // 20
        expected = records * 100 if cut >= SIZE + 512 else 0
        assert again.done == again.resumed == expected
        again.delete()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("dead")
def test_a_damaged_record_claims_nothing(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    for start in range(0, 500, 100):
        put(staged, start, start + 100)
    path = staged.path
    abandon(staged)
    whole = path.read_bytes()
    rng = random.Random(1)
    for _ in range(200):
        at = rng.randrange(SIZE + 512, len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        again = claim(tmp_path, "etag", SIZE)
        lost = (at - SIZE - 512) // 20 * 100
        assert again.missing() == [
            ByteRange(lost, lost + 100),
            *([] if lost == 500 else [ByteRange(500, SIZE)]),
        ] or (lost == 400 and again.missing() == [ByteRange(400, SIZE)])
        again.delete()


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


def test_a_living_owner_in_this_process_keeps_its_file(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 10)
    with pytest.raises(StagedElsewhereError, match=f"process {os.getpid()}"):
        claim(tmp_path, "etag", SIZE)
    put(staged, 10, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


HOLD = """
import sys
from pathlib import Path
from hf_haul.storage.staged_file import claim
staged = claim(Path(sys.argv[1]), "etag", 1000)
staged.write(0, memoryview(b"x" * 400)); staged.record(0, 400)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_owners_file_is_adopted_at_once_and_a_living_ones_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(StagedElsewhereError, match=f"process {child.pid}") as caught:
            claim(tmp_path, "etag", SIZE)
        assert caught.value.owner is not None
        assert caught.value.owner.pid == child.pid
    finally:
        child.kill()
        child.communicate()
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.missing() == [ByteRange(400, SIZE)]
    assert [p.name for p in tmp_path.iterdir()] == ["etag.haul.incomplete"]
    staged.delete()


TAKE = """
import sys
from pathlib import Path
from hf_haul.storage import staged_file as staging
staging._TAKEOVER = 600  # however slow this machine is
folder = Path(sys.argv[1])
try:
    staged = staging.claim(folder, "etag", 1000, orphans=staging.scan_orphans(folder)["etag"])
    print("taken", staged.resumed)
except staging.StagedElsewhereError:
    print("elsewhere")
"""


def killed_owner(folder: Path) -> None:
    """Have a process fetch 400 bytes, and kill it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.kill()


def after_the_rename(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Have something happen when an adopter gave the file a private name, but did not say that it owns it."""
    real = staging._rename

    def rename(path: Path, private: Path) -> None:
        monkeypatch.setattr(staging, "_rename", real)
        real(path, private)
        act(private)

    monkeypatch.setattr(staging, "_rename", rename)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere locks tell, not process ids")
def test_who_looks_for_orphans_in_the_middle_of_a_takeover_leaves_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_owner(tmp_path)
    said: list[str] = []
    after_the_rename(
        monkeypatch,
        lambda _: said.append(
            subprocess.check_output([sys.executable, "-c", TAKE, str(tmp_path)], text=True, timeout=60)
        ),
    )
    staged = claim(tmp_path, "etag", SIZE)
    assert said == ["elsewhere\n"]
    assert staged.resumed == 400
    assert [p.name for p in tmp_path.iterdir()] == ["etag.haul.incomplete"]
    staged.delete()


def test_what_is_left_by_a_process_killed_in_the_middle_of_a_takeover_is_taken_at_once(
    tmp_path: Path,
) -> None:
    killed_owner(tmp_path)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    private = tmp_path / f"etag.{int(gone.stdout):08x}.haul.incomplete"
    (tmp_path / "etag.haul.incomplete").rename(private)
    staged = claim(tmp_path, "etag", SIZE, orphans=[private])
    assert staged.resumed == 400
    staged.delete()


def test_of_two_threads_only_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_owner(tmp_path)
    rivals: list[Path] = []

    def rival(private: Path) -> None:
        with pytest.raises(StagedElsewhereError, match=f"process {os.getpid()}"):
            claim(tmp_path, "etag", SIZE, orphans=[private])
        rivals.append(private)

    after_the_rename(monkeypatch, rival)
    staged = claim(tmp_path, "etag", SIZE)
    assert len(rivals) == 1
    assert staged.resumed == 400
    staged.delete()
    claim(tmp_path, "etag", SIZE).close()  # nobody is about it any more


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be renamed there")
def test_who_is_held_up_in_a_takeover_and_robbed_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_owner(tmp_path)
    load, others = StagedFile.load, set(staging._open_here)

    def late(self: StagedFile, *, trust: bool) -> None:
        load(self, trust=trust)
        self.path.rename(tmp_path / "etag.01234567.haul.incomplete")

    monkeypatch.setattr(StagedFile, "load", late)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["etag.01234567.haul.incomplete"]
    assert staging._open_here == others


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks there")
def test_a_file_that_another_adopter_has_locked_gets_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another container the process id in the name tells nothing, but the lock does."""
    killed_owner(tmp_path)
    locked: list[int] = []

    def lock(private: Path) -> None:
        locked.append(os.open(private, os.O_RDWR))
        assert ownership.try_lock(locked[0])

    after_the_rename(monkeypatch, lock)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    os.close(locked[0])
    assert [p.name for p in tmp_path.iterdir()] == ["etag.haul.incomplete"]
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.resumed == 400
    staged.delete()


@pytest.mark.usefixtures("dead")
def test_of_many_adopters_exactly_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 10)
    abandon(staged)
    real = os.rename
    rivals: list[StagedFile] = []

    def rename_late(source: object, target: object) -> None:
        monkeypatch.setattr(os, "rename", real)  # the rival comes between our look and our rename
        monkeypatch.setattr(staging, "_taking_over", set())  # from another process
        rivals.append(claim(tmp_path, "etag", SIZE))
        monkeypatch.setattr(staging, "judge", lambda *_args, **_more: "alive")
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", rename_late)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    assert rivals[0].done == 10
    put(rivals[0], 10, SIZE)
    assert rivals[0].seal(durable=False).read_bytes() == DATA


def test_a_file_whose_owner_cannot_be_seen_is_copied_and_the_sleeper_cannot_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = claim(tmp_path, "etag", SIZE)
    put(sleeper, 0, 400)
    monkeypatch.setattr(staging, "judge", lambda *_args, **_more: "stale")
    monkeypatch.setattr(staging, "try_lock", lambda _fd: True)  # the sleeper's lock is not seen here
    mine = claim(tmp_path, "etag", SIZE)
    assert mine.missing() == [ByteRange(400, SIZE)]
    sleeper.write(0, memoryview(b"wrong" * 80))  # it wakes up, and its connection lies
    sleeper.record(400, SIZE)
    with pytest.raises(StagedLostError):
        sleeper.seal(durable=False)
    put(mine, 400, SIZE)
    assert mine.seal(durable=False).read_bytes() == DATA


def owner(**changes: object) -> Owner:
    return Owner(**{**{f: getattr(ownership.this_process(), f) for f in Owner.__slots__}, **changes})  # type: ignore[arg-type]


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


def test_forgetting_drops_claims_for_good(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 1000)
    staged.forget([ByteRange(100, 200)])
    assert staged.missing() == [ByteRange(100, 200)]
    put(staged, 100, 150)
    staged.close()
    again = claim(tmp_path, "etag", SIZE)
    assert again.missing() == [ByteRange(150, 200)]
    again.forget()
    assert again.missing() == [ByteRange(0, SIZE)]
    again.close()


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


@pytest.mark.usefixtures("dead")
def test_what_an_adopter_was_killed_with_is_found_by_scanning(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    os.rename(staged.path, tmp_path / "etag.0a1b2c3d.haul.incomplete")
    abandon(staged)
    (tmp_path / "other.01234567.incomplete").write_bytes(b"upstream's")
    orphans = scan_orphans(tmp_path)
    assert set(orphans) == {"etag"}
    again = claim(tmp_path, "etag", SIZE, orphans=orphans["etag"])
    assert again.resumed == 400
    again.delete()
    assert [p.name for p in tmp_path.iterdir()] == ["other.01234567.incomplete"]


def test_a_foreign_partial_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "etag.01234567.incomplete"
    foreign.write_bytes(b"another program's bytes")
    os.utime(foreign, (1, 1))  # however old
    assert scan_orphans(tmp_path) == {}
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.done == 0
    assert foreign.read_bytes() == b"another program's bytes"
    staged.delete()


def test_a_header_names_owner_and_content_and_fits_its_place(tmp_path: Path) -> None:
    key = "f" * 150
    staged = claim(tmp_path, key, SIZE)
    raw = staged.path.read_bytes()[SIZE:]
    assert len(raw) == 512
    magic, status, length, _crc = struct.unpack_from("<8scxxxII", raw)
    assert (magic, status) == (b"hf-haul1", b"O")
    about = json.loads(raw[20 : 20 + length])
    assert about["owner"]["pid"] == os.getpid()
    staged.delete()


@pytest.mark.parametrize(
    "version",
    ["e" * 500, "\u00e9" * 500, '"' * 500, "\x7f" * 64, "\udcff" * 64],
    ids=["long", "not ASCII", "quotes", "control characters", "bytes"],
)
def test_a_version_in_any_script_is_kept_and_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    widest = ("\\xff" * 16)[:64]
    monkeypatch.setattr(
        ownership,
        "_me",
        owner(host=widest, boot=f"host:{widest}", started="9" * 20, namespace="pid:[9999999999]"),
    )
    staged = claim(tmp_path, "url", SIZE)
    assert staged.is_of_version(version)
    put(staged, 0, 400)
    staged.close()
    again = claim(tmp_path, "url", SIZE)
    assert again.resumed == 400
    assert again.is_of_version(version)
    assert not again.is_of_version("another")
    again.delete()


def test_range_sets_of_a_staged_file_are_its_own(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 1)
    assert staged._done == RangeSet([ByteRange(0, 1)])
    assert staged.frontier() == 1
    staged.close()


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
        for module in (staging, regular_files):
            monkeypatch.setattr(module, "os", mortal)
        try:
            _live(folder, mortal, fetched)
        except Killed:
            return False
        finally:
            for module in (staging, regular_files):
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


@pytest.mark.usefixtures("dead")
def test_a_private_name_is_never_one_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process's id leaves ten bits to chance, and a rename would replace what another thread of it staged."""
    chance = iter([5 << 22, 5 << 22, 6 << 22, 6 << 22, 7 << 22])
    monkeypatch.setattr(staging.secrets, "randbits", lambda bits: next(chance) if bits == 32 else 0)
    names = []
    for kind in (".haul.incomplete", ".haul.incomplete", ".sealed.incomplete"):
        path = staging._private_name(tmp_path, "etag", kind)
        path.touch()
        names.append(path.name)
    assert len(set(names)) == 3


@pytest.mark.usefixtures("dead")
def test_a_complete_file_that_was_never_published_is_not_trusted_without_a_digest(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, SIZE)
    staged.seal(durable=False)
    again = claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"], digest_known=False)
    assert again.done == 0
    again.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("dead")
def test_of_several_leftovers_the_one_that_holds_the_most_is_kept_and_the_others_go(tmp_path: Path) -> None:
    for name, stop in [("etag.00000000", 300), ("etag.11111111", 700), ("etag", 500)]:
        staged = claim(tmp_path, "etag", SIZE, resume=False)
        put(staged, 0, stop)
        abandon(staged)
        os.rename(staged.path, tmp_path / f"{name}.haul.incomplete.aside")
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_suffix(""))
    staged = claim(tmp_path, "etag", SIZE, sequential=True)
    put(staged, 0, 900)
    abandon(staged)
    best = claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"])
    assert best.resumed == 700
    assert [p.name for p in tmp_path.iterdir()] == ["etag.haul.incomplete"]
    best.close()


def test_a_full_disk_is_told_with_what_to_do_whatever_was_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)

    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFullError, match="free some space"):
            staged.write(100, memoryview(b"x"))
        with pytest.raises(DiskFullError, match="free some space"):
            staged.record(100, 101)
        with pytest.raises(DiskFullError, match="free some space"):
            claim(tmp_path, "other", SIZE)
    staged.close()
    assert [p.name for p in tmp_path.iterdir()] == ["etag.haul.incomplete"]
    again = claim(tmp_path, "etag", SIZE)
    assert again.resumed == 100
    again.delete()


def test_any_other_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = claim(tmp_path, "etag", SIZE)

    def broken(*_args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        with pytest.raises(OSError, match="etag") as caught:
            staged.write(0, memoryview(b"x"))
    assert caught.value.errno == errno.EIO
    staged.delete()


@pytest.mark.parametrize("length", [SIZE // 2, SIZE, SIZE + 100], ids=["bytes too", "all of it", "its end"])
def test_a_file_that_lost_its_header_blocks_nobody_for_long(tmp_path: Path, length: int) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, SIZE)
    path = staged.path
    os.truncate(path, length)
    os.utime(path, (time.time() - 5, time.time() - 5))
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)  # it is locked: somebody lives
    abandon(staged)
    again = claim(tmp_path, "etag", SIZE)
    assert again.missing() == [ByteRange(0, SIZE)]
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_even_a_header_blocks_nobody_for_long(tmp_path: Path) -> None:
    unborn = tmp_path / "etag.haul.incomplete"
    unborn.touch()
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    os.utime(unborn, (time.time() - 10, time.time() - 10))
    claim(tmp_path, "etag", SIZE).delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("dead")
def test_sweeping_removes_what_was_left_of_files_in_place_and_nothing_else(tmp_path: Path) -> None:
    sealed = claim(tmp_path, "done", SIZE)
    put(sealed, 0, SIZE)
    sealed.seal(durable=False)
    for key in ("done", "other"):
        staged = claim(tmp_path, key, SIZE)
        put(staged, 0, 10)
        abandon(staged)
    (tmp_path / "done.01234567.incomplete").write_bytes(b"upstream's")
    staging.sweep(tmp_path, {"done": SIZE})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["done.01234567.incomplete", "other.haul.incomplete"]


def test_sweeping_removes_probes_of_processes_that_were_killed(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    names = [f".probe.{pid:08x}.haul.incomplete" for pid in (int(gone.stdout), os.getppid())]
    for name in names:
        (tmp_path / name).touch()
    staging.sweep(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


def test_sweeping_leaves_what_a_living_process_fetches(tmp_path: Path) -> None:
    staged = claim(tmp_path, "done", SIZE)
    put(staged, 0, 10)
    staging.sweep(tmp_path, {"done": SIZE})
    put(staged, 10, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


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


def test_a_complete_file_is_left_to_the_living_process_that_is_about_to_publish_it(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, SIZE)
    staged.seal(durable=False)
    staged.path = staged.path.rename(tmp_path / f"etag.{os.getppid():08x}.sealed.incomplete")
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"])
    assert staged.path.read_bytes() == DATA
    staged.unseal()
    again = claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"])
    assert again.resumed == SIZE
    again.delete()


def test_a_file_renamed_under_our_eyes_is_looked_for_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process adopts what we were about to adopt: it is alive, so we leave it the file."""
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)
    best_of = staging._Adopter.best_of

    def adopt(self: staging._Adopter, paths: list[Path]) -> StagedFile | None:
        if staged.path in paths and staged.path.exists():
            staged.path = staged.path.rename(tmp_path / "etag.01234567.haul.incomplete")
        return best_of(self, paths)

    monkeypatch.setattr(staging._Adopter, "best_of", adopt)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("obstacle", ["a folder", "another user's file"])
def test_what_cannot_be_taken_over_is_left_alone_and_does_not_stop_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    theirs = tmp_path / "etag.haul.incomplete"
    if obstacle == "a folder":
        theirs.mkdir()
    else:
        theirs.write_bytes(b"theirs")
        real = os.open

        def open_with_rights(path: Any, flags: int, mode: int = 0o777) -> int:
            if Path(path) == theirs and not flags & os.O_EXCL:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, mode)

        monkeypatch.setattr(os, "open", open_with_rights)
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA
    assert theirs.exists()


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
    staging.sweep(folder, {"etag": SIZE})
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
        monkeypatch.setattr(staging, "_open_here", set())
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


def test_bytes_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "a.bin", 100)) as staged:
        assert staged.add(20, memoryview(b"a" * 20))
        assert staged.add(60, memoryview(b"b" * 10))
        assert not staged.add(30, memoryview(b"c" * 40)), "partly there"
        assert not staged.add(20, memoryview(b"d" * 20)), "all there"
        buffer = bytearray(50)
        staged.read_into(20, memoryview(buffer))
        assert buffer == b"a" * 20 + b"c" * 20 + b"b" * 10
        assert staged.missing() == [ByteRange(0, 20), ByteRange(70, 100)]
        staged.forget()
        assert staged.add(20, memoryview(b"e" * 50)), "what was forgotten is"
        staged.read_into(20, memoryview(buffer))
        assert buffer == b"e" * 50


@pytest.mark.skipif(sys.platform == "win32", reason="os.close is wrapped for Linux here")
@pytest.mark.parametrize("way", ["close", "delete"])
def test_a_system_that_complains_when_a_file_is_closed_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """NFS and quotas tell of a full disk there."""
    others = set(staging._open_here)
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    real, mine = os.close, staged._fd

    def close(fd: int) -> None:
        real(fd)
        if fd == mine:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", close)
    staged.close() if way == "close" else staged.delete()
    assert "Disk quota exceeded" in caplog.text
    assert staging._open_here == others
    monkeypatch.undo()
    again = claim(tmp_path, "etag", SIZE)
    assert again.resumed == (400 if way == "close" else 0)
    again.delete()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="tells files apart by /proc")
@pytest.mark.parametrize(
    ("call", "work"),
    [
        pytest.param("pwrite", lambda staged: staged.add(100, memoryview(DATA)[100:200]), id="bytes"),
        pytest.param("pwrite", lambda staged: staged.record(0, 100), id="a claim"),
        pytest.param("pwrite", lambda staged: staged.is_of_version("v2"), id="a version"),
        pytest.param("ftruncate", lambda staged: staged.forget([ByteRange(0, 50)]), id="taking claims back"),
        pytest.param("utime", lambda staged: staged.beat(), id="a sign of life"),
        pytest.param("fsync", lambda staged: staged.seal(durable=True), id="the last bytes"),
        pytest.param("rename", lambda staged: staged.seal(durable=False), id="a rename"),
        pytest.param("pwrite", lambda staged: staged.close(), id="letting go"),
    ],
)
def test_how_far_a_file_is_can_be_asked_while_its_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, work: Callable[[StagedFile], object]
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)
    disk = HungDisk(tmp_path, monkeypatch)
    disk.hang(call)
    working = threading.Thread(target=work, args=(staged,))
    working.start()
    asking = threading.Thread(
        target=lambda: (
            staged.done, staged.missing(), staged.frontier(), staged.needs_beat, staged.device,
        ),
        daemon=True,
    )  # fmt: skip
    try:
        assert disk.reached(call)
        asking.start()
        asking.join(10)
        assert not asking.is_alive()
    finally:
        disk.release()
        working.join(10)
    assert not working.is_alive()


def test_a_sign_of_life_is_due_now_and_then_and_not_given_for_a_file_that_was_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = claim(tmp_path, "etag", SIZE, sequential=True)
    put(staged, 0, 100)
    assert not staged.needs_beat
    monkeypatch.setattr(staging, "_BEAT_INTERVAL", 0.0)
    assert staged.needs_beat
    monkeypatch.undo()
    os.utime(staged.path, (1, 1))
    staged.beat()
    assert time.time() - staged.path.stat().st_mtime < 100
    assert not staged.needs_beat
    path = staged.path
    staged.close()
    staged.beat()
    assert path.stat().st_mtime == 0  # which is how such a file says that it is nobody's


# ---- what others may have put there


def left_behind(folder: Path, done: int = 400, key: str = "etag", **fields: object) -> Path:
    """A staged file that a killed process left, with a record of its owner that somebody may have forged."""
    with closing(claim(folder, key, SIZE)) as staged:
        put(staged, 0, done)
        path = staged.path
        raw = path.read_bytes()
        abandon(staged)
    length = struct.unpack_from("<8scxxxII", raw, SIZE)[2]
    about = json.loads(raw[SIZE + 20 : SIZE + 20 + length])
    about["owner"].update({"pid": 2**22 + 1, **fields.pop("owner", {})})  # type: ignore[call-overload]
    about.update(fields)
    body = json.dumps(about).encode()
    assert len(body) <= 512 - 20
    header = struct.pack("<8scxxxII", b"hf-haul1", b"O", len(body), zlib.crc32(body)) + body
    path.write_bytes(raw[:SIZE] + header.ljust(512, b"\0") + raw[SIZE + 512 :])
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


@pytest.mark.parametrize(
    "odd",
    [
        {"owner": {"pid": "../../etc/passwd"}},
        {"owner": {"pid": ["x"]}},
        {"owner": {"pid": "a\0b"}},
        {"owner": {"pid": True}},
        {"owner": {"pid": 0}},
        {"owner": {"pid": -1}},
        {"owner": {"pid": 1 << 70}},
        {"owner": {"pid": 1e300}},
        {"owner": {"host": 7}},
        {"owner": {"started": None}},
        {"owner": {"boot": "b" * 300}},
        {"nonce": "evil"},
        {"nonce": -5},
        {"nonce": 1 << 32},
        {"nonce": 1e308},
        {"nonce": True},
        {"version": 7},
        {"version": ["x"]},
    ],
    ids=repr,
)
def test_a_record_that_makes_no_sense_is_ignored_with_a_debug_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: dict[str, object]
) -> None:
    caplog.set_level(logging.DEBUG)
    left_behind(tmp_path, **odd)
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.resumed == 0
    assert "makes no sense" in caplog.text
    assert all(record.levelno <= logging.INFO for record in caplog.records)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_record_may_say_more_than_we_know(tmp_path: Path) -> None:
    left_behind(tmp_path, later="versions", owner={"later": "versions"})
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.resumed == 400
    staged.delete()


def test_the_name_of_another_host_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    left_behind(tmp_path, owner={"host": "\x1b[2Jhost\n", "boot": "another", "namespace": "another"})
    os.utime(tmp_path / "etag.haul.incomplete")
    with pytest.raises(StagedElsewhereError, match=r"on \?\[2Jhost\?") as caught:
        claim(tmp_path, "etag", SIZE)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes as Linux has them")
@pytest.mark.parametrize("signed", [b"[" * 2000, b"{}", b"\xff", b'{"pid": "../x"}', b"7"])
def test_a_signature_that_is_none_is_ignored(tmp_path: Path, signed: bytes) -> None:
    staged = claim(tmp_path, "etag", SIZE, sequential=True)
    put(staged, 0, 400)
    path = staged.path
    abandon(staged)
    try:
        os.setxattr(path, "user.hf_haul.owner", signed)
    except OSError:
        pytest.skip("no extended attributes on this file system")
    os.utime(path, (time.time() - 60, time.time() - 60))
    again = claim(tmp_path, "etag", SIZE, sequential=True)
    assert again.resumed == 400
    again.delete()


@pytest.mark.skipif(os.name == "nt", reason="no pipes with names there")
@pytest.mark.parametrize("kind", ["haul", "seq", "sealed"])
@pytest.mark.parametrize("what", ["a pipe", "a device"])
def test_a_staged_name_that_is_no_file_is_not_opened(tmp_path: Path, what: str, kind: str) -> None:
    planted = tmp_path / f"etag.{kind}.incomplete"
    try:
        os.mkfifo(planted) if what == "a pipe" else os.mknod(planted, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except OSError:
        pytest.skip("may not make one")
    staged = claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"], sequential=kind == "seq")
    put(staged, 0, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA
    assert planted.exists()


def test_a_hole_of_a_terabyte_is_no_journal(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    os.truncate(path, 1 << 40)
    for resumed in (400, 500, 600):
        staged = claim(tmp_path, "etag", SIZE)
        assert staged.resumed == resumed
        put(staged, resumed, resumed + 100)
        staged.close()


#: Ways in which somebody else may go on writing into a file that we find.
SHARED = ["a second hard link", "of another user", "of another user, who alone may rename it"]


@pytest.fixture(params=SHARED)
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Any]:
    """Makes a file one that others can write into; returns what reads their side of it."""

    def make(path: Path) -> Callable[[], bytes]:
        outside = tmp_path / "outside"
        os.link(path, outside)  # by which the test sees it, too
        if request.param != SHARED[0]:
            theirs = path.stat().st_ino
            monkeypatch.setattr(staging, "_is_shared", lambda status, _: status.st_ino == theirs)
        if request.param == SHARED[2]:
            real = os.rename

            def rename(source: Path, target: Path) -> None:
                if os.lstat(source).st_ino == theirs:
                    raise PermissionError(errno.EPERM, "Operation not permitted")
                real(source, target)

            monkeypatch.setattr(os, "rename", rename)
        return outside.read_bytes

    return make


@pytest.mark.skipif(os.name == "nt", reason="other rules there")
@pytest.mark.parametrize("sealed", [False, True], ids=["staged", "complete"])
def test_a_file_that_others_can_write_into_is_copied_and_never_published(
    tmp_path: Path, shared: Callable[[Path], Callable[[], bytes]], sealed: bool
) -> None:
    folder = tmp_path / "blobs"
    path = left_behind(folder, SIZE if sealed else 400)
    if sealed:
        os.truncate(path, SIZE)
        path = path.rename(folder / "etag.00000000.sealed.incomplete")
    inode = path.stat().st_ino
    theirs = shared(path)
    staged = claim(folder, "etag", SIZE, orphans=scan_orphans(folder)["etag"])
    assert staged.resumed == (SIZE if sealed else 400)
    put(staged, staged.done, SIZE)
    published = staged.seal(durable=False)
    assert published.read_bytes() == DATA
    assert published.stat().st_ino != inode
    before = theirs()
    assert before[:400] == DATA[:400]
    published.write_bytes(b"")
    assert theirs() == before, "what is theirs was written to"
    assert scan_orphans(folder).keys() == {"etag"}
    assert [each for each in folder.iterdir() if each.stat().st_ino == inode] == []


@pytest.mark.skipif(os.name == "nt", reason="other rules there")
def test_bytes_of_others_are_not_trusted_where_no_digest_will_tell(
    tmp_path: Path, shared: Callable[[Path], Callable[[], bytes]]
) -> None:
    folder = tmp_path / "blobs"
    shared(left_behind(folder))
    staged = claim(folder, "etag", SIZE, orphans=scan_orphans(folder)["etag"], digest_known=False)
    assert staged.resumed == 0
    staged.delete()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users as on POSIX")
def test_a_file_system_that_knows_one_owner_only_has_no_files_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    inode = left_behind(tmp_path).stat().st_ino
    staged = claim(tmp_path, "etag", SIZE)
    assert (staged.path.stat().st_ino, staged.resumed) == (inode, 400)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives a file to another user")
def test_another_users_file_is_told_by_its_owner(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    os.chown(path, 65534, 65534)
    staged = claim(tmp_path, "etag", SIZE)
    assert (staged.path.stat().st_uid, staged.resumed) == (0, 400)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
def test_a_link_to_our_own_file_is_not_sealed_in_its_place(tmp_path: Path) -> None:
    staged = claim(tmp_path / "blobs", "etag", SIZE)
    put(staged, 0, SIZE)
    moved = staged.path.rename(tmp_path / "theirs")
    staged.path.symlink_to(moved)
    with pytest.raises(StagedLostError):
        staged.seal(durable=False)
    staged.close()


@pytest.mark.usefixtures("dead")
def test_what_was_copied_from_an_owner_that_began_anew_meanwhile_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = claim(tmp_path, "etag", SIZE)
    put(sleeper, 0, 400)
    monkeypatch.setattr(staging, "judge", lambda *_args, **_more: "stale")
    monkeypatch.setattr(staging, "try_lock", lambda _fd: True)
    write = StagedFile.write

    def wake(self: StagedFile, offset: int, data: memoryview) -> None:
        monkeypatch.setattr(StagedFile, "write", write)
        sleeper.forget()
        write(self, offset, data)

    monkeypatch.setattr(StagedFile, "write", wake)
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.done == 0
    staged.delete()


@pytest.mark.usefixtures("dead")
def test_a_copy_that_fails_leaves_the_original_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path)
    monkeypatch.setattr(staging, "_is_shared", lambda *_: True)
    with monkeypatch.context() as patch:
        patch.setattr(StagedFile, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
        with pytest.raises(OSError, match="bad"):
            claim(tmp_path, "etag", SIZE)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert claim(tmp_path, "etag", SIZE).resumed == 400


# ---- owners that are there, and do nothing


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[int]:
    """A living process that has 400 bytes of a file and does nothing more."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child.pid
        child.kill()


def test_of_an_owner_that_stands_still_the_bytes_are_copied(
    tmp_path: Path, other_process: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = FakeClock()
    watch = OwnerWatch(clock, asleep_after=30)
    theirs = tmp_path / "etag.haul.incomplete"
    inode = theirs.stat().st_ino
    for _ in range(3):
        with pytest.raises(StagedElsewhereError, match=f"process {other_process} "):
            claim(tmp_path, "etag", SIZE, watch=watch)
        clock.advance(29)
        os.utime(theirs)  # it lives
    for _ in range(2):
        with pytest.raises(StagedElsewhereError):
            claim(tmp_path, "etag", SIZE, watch=watch)
        clock.advance(29)
    staged = claim(tmp_path, "etag", SIZE, watch=watch)
    assert staged.missing() == [ByteRange(400, SIZE)]
    assert staged.path == theirs
    assert theirs.stat().st_ino != inode
    assert f"process {other_process} on " in caplog.text
    staged.delete()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_wakes_up_while_it_is_copied_from_goes_on_and_finds_its_file_gone(
    tmp_path: Path,
) -> None:
    sleeper = claim(tmp_path, "etag", SIZE)
    put(sleeper, 0, 400)
    clock = FakeClock()
    watch = OwnerWatch(clock, asleep_after=30)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE, watch=watch)
    clock.advance(30)
    mine = claim(tmp_path, "etag", SIZE, watch=watch, check=lambda: put(sleeper, 400, 500))
    assert mine.resumed == 400
    put(sleeper, 500, SIZE)
    with pytest.raises(StagedLostError):
        sleeper.seal(durable=False)
    sleeper.close()
    put(mine, 400, SIZE)
    assert mine.seal(durable=False).read_bytes() == DATA
    assert len(list(tmp_path.iterdir())) == 1


def test_a_copy_of_much_ends_when_it_is_halted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left_behind(tmp_path)
    monkeypatch.setattr(staging, "_is_shared", lambda *_: True)

    def cancel() -> None:
        raise HaltedError

    with pytest.raises(HaltedError):
        claim(tmp_path, "etag", SIZE, check=cancel)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks there")
def test_an_adopter_that_was_stopped_in_the_middle_of_it_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_owner(tmp_path)
    fd = os.open(tmp_path / "etag.haul.incomplete", os.O_RDWR)
    assert ownership.try_lock(fd)  # in a container whose process ids mean nothing here
    clock = FakeClock()
    watch = OwnerWatch(clock, asleep_after=30)
    for _ in range(2):
        with pytest.raises(StagedElsewhereError):
            claim(tmp_path, "etag", SIZE, watch=watch)
        clock.advance(15)
    staged = claim(tmp_path, "etag", SIZE, watch=watch)
    os.close(fd)
    assert staged.resumed == 400
    staged.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere locks tell, not process ids")
@pytest.mark.parametrize("kind", ["haul", "sealed"])
def test_a_name_given_just_now_by_a_clock_that_runs_ahead_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = left_behind(tmp_path, SIZE)
    if kind == "sealed":
        os.truncate(path, SIZE)
    path = path.rename(tmp_path / f"etag.{os.getppid():08x}.{kind}.incomplete")
    now = time.time()
    monkeypatch.setattr(staging.time, "time", lambda: now - 3600)
    clock = FakeClock()
    watch = OwnerWatch(clock, asleep_after=30)
    for _ in range(2):
        with pytest.raises(StagedElsewhereError, match=f"process {os.getppid()} on "):
            claim(tmp_path, "etag", SIZE, watch=watch, orphans=[path])
        clock.advance(15)
    assert claim(tmp_path, "etag", SIZE, watch=watch, orphans=[path]).resumed == SIZE


# ---- other keys of the same content, and other versions of the same file


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


def test_what_cannot_be_read_hides_nothing_of_what_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = left_behind(tmp_path)
    ours = ours.rename(tmp_path / "etag.00000000.haul.incomplete")
    theirs = tmp_path / "etag.haul.incomplete"
    theirs.mkdir()
    staged = claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"])
    assert staged.resumed == 400
    put(staged, 400, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA
    assert theirs.is_dir()


def test_sweeping_removes_other_versions_of_a_file_in_place_unless_somebody_fetches_them(
    tmp_path: Path,
) -> None:
    for key in ("a.bin.1", "a.bin.2", "b.bin.1"):
        left_behind(tmp_path, key=key)
    alive = claim(tmp_path, "a.bin.3", 5 * SIZE)
    alive.write(0, memoryview(DATA))
    alive.record(0, SIZE)
    staging.sweep(tmp_path, {"a.bin.4": SIZE}, lambda key: key.startswith("a.bin."))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.bin.3.haul.incomplete",
        "b.bin.1.haul.incomplete",
    ]
    alive.close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere we do not know which file systems are this host's"
)
@pytest.mark.parametrize(
    ("name", "hours", "lock", "removed"),
    [
        pytest.param("etag.incomplete", 25, None, True, id="as older versions call it"),
        pytest.param("etag.0123abcd.incomplete", 25, "free", True, id="as newer versions call it"),
        pytest.param("etag.0123abcd.incomplete", 25, "held", False, id="somebody holds its lock"),
        pytest.param("etag.0123abcd.incomplete", 25, "soft", False, id="somebody holds a lock that is none"),
        pytest.param("etag.0123abcd.incomplete", 25, "link", False, id="its lock is a link"),
        pytest.param("etag.0123abcd.incomplete", 23, "free", False, id="touched today"),
        pytest.param("other.0123abcd.incomplete", 25, "free", False, id="of another file"),
        pytest.param("etag.more.incomplete", 25, "free", False, id="of a file of a longer name"),
    ],
)
def test_what_huggingface_hub_left_goes_only_where_it_is_surely_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hours: int, lock: str | None, removed: bool
) -> None:
    monkeypatch.setattr(staging, "keeps_writes", lambda _: True)
    (tmp_path / "blobs").mkdir()
    partial, path = tmp_path / "blobs" / name, tmp_path / "etag.lock"
    partial.write_bytes(b"upstream's")
    at = time.time() - hours * 3600
    os.utime(partial, (at, at))
    if lock == "link":
        (tmp_path / "elsewhere").touch()
        path.symlink_to(tmp_path / "elsewhere")
    elif lock is not None:
        path.write_bytes(b"4711\nhost" if lock == "soft" else b"")
    holder = os.open(path, os.O_RDWR) if lock == "held" else -1
    if lock == "held":
        assert ownership.try_lock(holder)
    staging.sweep_partials_of_upstream(tmp_path / "blobs", {"etag": path})
    assert partial.exists() != removed
    if lock == "held":
        os.close(holder)


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks there")
def test_on_a_file_system_of_other_hosts_all_that_huggingface_hub_left_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "keeps_writes", lambda _: False)
    partial = tmp_path / "etag.incomplete"
    partial.touch()
    os.utime(partial, (1, 1))
    staging.sweep_partials_of_upstream(tmp_path, {"etag": tmp_path / "etag.lock"})
    assert partial.exists()


def test_whether_a_file_is_still_ours_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(staging.time, "monotonic", clock)
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    staged.path.rename(tmp_path / "theirs")
    staged.require_ours()
    clock.advance(16)
    with pytest.raises(StagedLostError):
        staged.require_ours()
    (tmp_path / "theirs").rename(staged.path)
    clock.advance(16)
    staged.require_ours()
    staged.delete()
