"""A file before its first part and after its last: what is found, claimed, checked and put into its place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.fetchers import quiet_fetcher
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import Settings
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.file_steps import close_file, open_file, sweep_up, verify_and_publish
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.transfer import Part, SupersededError, Transfer
from hf_haul.engine.verifier import Verifier
from hf_haul.errors import IntegrityError, SourceChangedError, StopRequestedError
from hf_haul.ranges import ByteRange
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.staged_file import StagedFile, StagedLostError
from hf_haul.task import Digest


@dataclass
class _Request:
    destination: Any


@dataclass
class _Transfer:
    """As much of a transfer as finishing takes."""

    staged: Any
    request: _Request
    verifier: None = None


class _Place:
    """A destination that fails after it has done something with the sealed file."""

    def __init__(self, error: OSError, *, takes: bool) -> None:
        self._error = error
        self._takes = takes

    def publish(self, staged: Path) -> None:
        if self._takes:
            staged.unlink()
        if self._error.filename == "itself":
            self._error.filename = os.fspath(staged)
        raise self._error


def finish(folder: Path, error: OSError, *, takes: bool = False) -> OSError | StagedLostError:
    staged = claim(folder, "etag", 4)
    staged.write(0, memoryview(b"done"))
    staged.record(0, 4)
    transfer = cast("Transfer", _Transfer(staged, _Request(_Place(error, takes=takes))))
    with pytest.raises((OSError, StagedLostError)) as caught:
        verify_and_publish(transfer, Settings(durable=False))
    return cast("OSError | StagedLostError", caught.value)


def test_a_file_that_is_gone_before_it_is_placed_was_taken(tmp_path: Path) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file", "itself")
    assert isinstance(finish(tmp_path, error, takes=True), StagedLostError)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "pointer"),
        FileNotFoundError(errno.ENOENT, "No such file", "folder of the pointer"),
        OSError(errno.ENAMETOOLONG, "File name too long", "note"),
    ],
    ids=lambda error: error.filename,
)
def test_what_fails_after_a_file_was_placed_is_no_theft(tmp_path: Path, error: OSError) -> None:
    assert finish(tmp_path, error, takes=True) is error


@pytest.mark.parametrize("code", ["ENAMETOOLONG", "ENOTDIR", "EISDIR", "EEXIST", "EINVAL", "EILSEQ"])
def test_of_a_file_that_has_no_place_nothing_is_left(tmp_path: Path, code: str) -> None:
    error = OSError(getattr(errno, code), "no place", "target")
    assert finish(tmp_path, error) is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES", "EROFS", "EIO", "ENOENT"])
def test_a_file_that_could_not_be_placed_this_time_is_kept_for_the_next(tmp_path: Path, code: str) -> None:
    error = OSError(getattr(errno, code), "not now", "target")
    assert finish(tmp_path, error) is error
    (left,) = tmp_path.iterdir()
    assert left.name == "etag.00000000.sealed.incomplete"
    assert left.read_bytes() == b"done"


# ---- before the first part

DATA = b"0123456789" * 100
SHA256 = Digest("sha256", hashlib.sha256(DATA).hexdigest())


class Bench:
    """One file of one queue, about to be opened."""

    def __init__(
        self,
        folder: Path,
        *,
        source: FakeSource | None = None,
        size: int | None = -1,
        digest: Digest | None = None,
    ) -> None:
        self.folder = folder
        self.settings = Settings(durable=False, first_retry_wait=0.0)
        self.source = source or FakeSource(DATA)
        self.destination = MemoryDestination(folder, "a.bin")
        wanted = request(self.destination, self.source, size=size, digest=digest)
        plan = make_plan(
            [wanted], model_id="m", policy=DefaultPolicy(), settings=self.settings, created_at=lambda: 0.0
        )
        queue = ModelDownloadQueue("m")
        self.run = QueueRun(queue, plan.files, None, clock=lambda: 0.0)
        self.task = plan.files[0].task
        queue.add(self.task)
        self.transfer = Transfer(self.task, wanted, self.source, self.run.metrics)
        self.probes: list[Part] = []
        self.stopped = False

    @contextlib.contextmanager
    def probing(self) -> Iterator[Part]:
        probe = Part(self.transfer, ByteRange(0, 0), now=0.0)
        self.probes.append(probe)
        if self.stopped:
            probe.cancel_token.set()
        yield probe

    def open(self) -> None:
        open_file(self.run, self.transfer, self.probing, quiet_fetcher(self.settings), self.settings)

    @property
    def staged(self) -> StagedFile:
        assert self.transfer.staged is not None
        return self.transfer.staged

    def fill(self, data: bytes) -> None:
        self.staged.write(0, memoryview(data))
        self.staged.record(0, len(data))


def test_a_file_whose_size_is_known_is_claimed_without_a_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path, digest=SHA256)
    bench.open()
    assert bench.source.log == []
    assert bench.staged.missing() == [ByteRange(0, len(DATA))]
    assert bench.transfer.verifier is not None
    bench.staged.delete()


def test_without_a_digest_or_a_wish_to_verify_nothing_is_hashed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, digest=SHA256)
    bench.settings = Settings(verify=False)
    bench.open()
    assert bench.transfer.verifier is None
    bench.staged.delete()


def test_a_file_in_place_is_not_claimed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.destination.content = DATA
    with pytest.raises(SupersededError):
        bench.open()
    assert bench.transfer.staged is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_published_between_our_look_and_our_claim_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    looks = iter([False, True])
    monkeypatch.setattr(bench.destination, "is_present", lambda check=None: next(looks))
    with pytest.raises(SupersededError):
        bench.open()
    assert bench.transfer.staged is None
    assert list(tmp_path.iterdir()) == []


def test_each_look_at_what_is_in_the_place_of_a_small_file_can_be_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.destination.path.write_bytes(b"of any size, and not the file")
    looks: list[int] = []
    bench.destination.on_look = lambda: looks.append(len(bench.probes))
    bench.open()
    assert looks == [1, 2]
    bench.staged.delete()


def test_a_file_that_somebody_fetches_is_waited_for_and_says_for_whom(tmp_path: Path) -> None:
    theirs = claim(tmp_path, "a.bin", len(DATA))
    bench = Bench(tmp_path)
    with pytest.raises(StagedElsewhereError, match="another download of this process"):
        bench.open()
    assert bench.transfer.staged is None
    theirs.delete()


@pytest.mark.parametrize("says_size", [True, False], ids=["told", "not told"])
def test_a_size_that_nobody_said_is_learned(tmp_path: Path, says_size: bool) -> None:
    bench = Bench(tmp_path, source=FakeSource(DATA, says_size=says_size), size=None)
    bench.open()
    assert bench.task.size == len(DATA)
    assert bench.run.total_bytes == len(DATA)
    assert bench.staged.missing() == ([ByteRange(0, len(DATA))] if says_size else [])
    bench.staged.delete()


def test_a_stream_of_unknown_size_that_breaks_for_good_leaves_nothing(tmp_path: Path) -> None:
    source = FakeSource(DATA, says_size=False)
    bench = Bench(tmp_path, source=source, size=None)
    source.faults = [None, OSError("disk full")]  # type: ignore[list-item]
    with pytest.raises(OSError, match="disk full"):
        bench.open()
    assert list(tmp_path.iterdir()) == []


def test_a_file_said_to_be_empty_is_asked_about_unless_a_digest_tells(tmp_path: Path) -> None:
    bench = Bench(tmp_path, size=0)
    with pytest.raises(SourceChangedError, match=f"has {len(DATA)} bytes, expected 0"):
        bench.open()


def test_a_halt_ends_what_takes_long_and_claims_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, size=None)
    bench.stopped = True
    with pytest.raises(StopRequestedError):
        bench.open()
    assert bench.transfer.staged is None
    assert list(tmp_path.iterdir()) == []


# ---- after the last part


def finished(bench: Bench, data: bytes) -> Bench:
    bench.open()
    bench.fill(data)
    return bench


def test_a_verified_file_is_put_in_place_and_nothing_else_is_left(tmp_path: Path) -> None:
    bench = finished(Bench(tmp_path, digest=SHA256), DATA)
    assert verify_and_publish(bench.transfer, bench.settings)
    assert bench.destination.content == DATA
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_are_dropped_once_and_the_second_time_they_are_an_error(tmp_path: Path) -> None:
    bench = finished(Bench(tmp_path, digest=SHA256), b"x" * len(DATA))
    assert not verify_and_publish(bench.transfer, bench.settings)
    assert bench.staged.missing() == [ByteRange(0, len(DATA))]
    bench.fill(b"y" * len(DATA))
    with pytest.raises(IntegrityError):
        verify_and_publish(bench.transfer, bench.settings)
    assert bench.destination.content is None
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_verifier_ends_the_last_step_and_keeps_the_bytes(tmp_path: Path) -> None:
    bench = finished(Bench(tmp_path, digest=SHA256), DATA)
    assert isinstance(bench.transfer.verifier, Verifier)
    bench.transfer.verifier.stop()
    with pytest.raises(StopRequestedError):
        verify_and_publish(bench.transfer, bench.settings)
    assert bench.destination.content is None
    close_file(bench.transfer)
    again = Bench(tmp_path, digest=SHA256)
    again.open()
    assert again.staged.missing() == []
    again.staged.delete()


def test_what_dead_processes_left_of_a_file_in_place_is_removed(tmp_path: Path) -> None:
    bench = finished(Bench(tmp_path, digest=SHA256), DATA)
    assert verify_and_publish(bench.transfer, bench.settings)
    left = claim(tmp_path, "a.bin", len(DATA))
    left.write(0, memoryview(DATA)[:10])
    left.record(0, 10)
    left.close()
    other = claim(tmp_path, "b.bin", 10)
    other.write(0, memoryview(DATA)[:10])
    other.record(0, 10)
    other.close()
    bench.run.queue.completed.append(bench.task)
    sweep_up(bench.run)
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin.haul.incomplete"]
