from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.storage import DATA, SIZE, abandon, left_behind, put

from hf_haul.config import Timings
from hf_haul.errors import StopRequestedError
from hf_haul.ranges import ByteRange
from hf_haul.storage import (
    adoption,
    left_file,
    ownership,
    staged_file,
)
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.ownership import OwnerWatch
from hf_haul.storage.staged_file import StagedFile, StagedLostError
from hf_haul.storage.staged_names import scan_orphans

HOLD = """
import sys
from pathlib import Path
from hf_haul.storage.claiming import claim
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
from hf_haul.config import Timings
from hf_haul.storage import adoption
from hf_haul.storage.claiming import claim
from hf_haul.storage.ownership import OwnerWatch
from hf_haul.storage.staged_names import scan_orphans
folder = Path(sys.argv[1])
try:
    watch = OwnerWatch(timings=Timings(takeover=600))  # however slow this machine is
    staged = claim(folder, "etag", 1000, orphans=scan_orphans(folder)["etag"], watch=watch)
    print("taken", staged.resumed)
except adoption.StagedElsewhereError:
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
    real = adoption._rename

    def rename(path: Path, private: Path) -> None:
        monkeypatch.setattr(adoption, "_rename", real)
        real(path, private)
        act(private)

    monkeypatch.setattr(adoption, "_rename", rename)


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
        with pytest.raises(StagedElsewhereError, match="another download of this process"):
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
    load, others = StagedFile.load, set(staged_file._open_here)

    def late(self: StagedFile, *, trust: bool) -> None:
        load(self, trust=trust)
        self.path.rename(tmp_path / "etag.01234567.haul.incomplete")

    monkeypatch.setattr(StagedFile, "load", late)
    with pytest.raises(StagedElsewhereError):
        claim(tmp_path, "etag", SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["etag.01234567.haul.incomplete"]
    assert staged_file._open_here == others


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
        monkeypatch.setattr(adoption, "_taking_over", set())  # from another process
        rivals.append(claim(tmp_path, "etag", SIZE))
        monkeypatch.setattr(left_file, "owner_status", lambda *_args, **_more: "alive")
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
    monkeypatch.setattr(left_file, "owner_status", lambda *_args, **_more: "stale")
    monkeypatch.setattr(left_file, "try_lock", lambda _fd: True)  # the sleeper's lock is not seen here
    mine = claim(tmp_path, "etag", SIZE)
    assert mine.missing() == [ByteRange(400, SIZE)]
    sleeper.write(0, memoryview(b"wrong" * 80))  # it wakes up, and its connection lies
    sleeper.record(400, SIZE)
    with pytest.raises(StagedLostError):
        sleeper.seal(durable=False)
    put(mine, 400, SIZE)
    assert mine.seal(durable=False).read_bytes() == DATA


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
            monkeypatch.setattr(adoption, "_is_shared", lambda status, _: status.st_ino == theirs)
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


@pytest.mark.usefixtures("dead")
def test_what_was_copied_from_an_owner_that_began_anew_meanwhile_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = claim(tmp_path, "etag", SIZE)
    put(sleeper, 0, 400)
    monkeypatch.setattr(left_file, "owner_status", lambda *_args, **_more: "stale")
    monkeypatch.setattr(left_file, "try_lock", lambda _fd: True)
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
    monkeypatch.setattr(adoption, "_is_shared", lambda *_: True)
    with monkeypatch.context() as patch:
        patch.setattr(StagedFile, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
        with pytest.raises(OSError, match="bad"):
            claim(tmp_path, "etag", SIZE)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert claim(tmp_path, "etag", SIZE).resumed == 400


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc")
@pytest.mark.parametrize(
    ("where", "step", "kind"),
    [
        (StagedFile, "__init__", "staged"),
        (StagedFile, "load", "staged"),
        (StagedFile, "take_over", "staged"),
        (StagedFile, "is_ours", "staged"),
        (StagedFile, "describe", "staged"),
        (StagedFile, "take_over", "complete"),
        (StagedFile, "record", "complete"),
        (StagedFile, "__init__", "to copy"),
        (StagedFile, "write", "to copy"),
        (adoption, "read_records", "to copy"),
        (adoption, "read_header", "to copy"),
    ],
)
def test_an_error_in_a_takeover_leaves_nothing_open_and_the_next_attempt_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, step: str, kind: str
) -> None:
    path = left_behind(tmp_path, 400 if kind != "complete" else SIZE)
    if kind == "complete":
        os.truncate(path, SIZE)
        path.rename(tmp_path / "etag.00000000.sealed.incomplete")
    monkeypatch.setattr(adoption, "_is_shared", lambda *_: kind == "to copy")
    monkeypatch.setattr(staged_file, "_open_here", set())
    opened = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(where, step, lambda *_, **_more: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
        with pytest.raises(OSError, match="bad"):
            claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"])
    assert len(os.listdir("/proc/self/fd")) == opened
    assert staged_file._open_here == set()
    staged = claim(tmp_path, "etag", SIZE, orphans=scan_orphans(tmp_path)["etag"])
    assert staged.resumed == (400 if kind != "complete" else SIZE)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


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
    watch = OwnerWatch(clock, Timings(asleep=30))
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
    watch = OwnerWatch(clock, Timings(asleep=30))
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
    monkeypatch.setattr(adoption, "_is_shared", lambda *_: True)

    def cancel() -> None:
        raise StopRequestedError

    with pytest.raises(StopRequestedError):
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
    watch = OwnerWatch(clock, Timings(asleep=30))
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
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    clock = FakeClock()
    watch = OwnerWatch(clock, Timings(asleep=30))
    for _ in range(2):
        with pytest.raises(StagedElsewhereError, match=f"process {os.getppid()} "):
            claim(tmp_path, "etag", SIZE, watch=watch, orphans=[path])
        clock.advance(15)
    assert claim(tmp_path, "etag", SIZE, watch=watch, orphans=[path]).resumed == SIZE


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
