"""How connections are shared between small and large files."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.plans import planned
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import KiB, MiB, Settings
from hf_haul.descriptors import Descriptors
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.file_sources import FileSource
from hf_haul.engine.job_choice import Chooser
from hf_haul.engine.plan import MAX_PART
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.source_choice import SourceChoice
from hf_haul.engine.transfer import Part, Phase, Transfer
from hf_haul.metrics import DownloadMetrics, SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.task import DownloadTask, FileRequest
from hf_haul.transports.base import Transport
from hf_haul.transports.source_limits import SourceLimits

HUB = "http://hub.test"


class Lanes:
    """A queue of equal small and equal large files at one source, whose speed may be known."""

    def __init__(self, small: int, large: int, *, first_byte: float | None = 0.02) -> None:
        history = SourceHistory()
        if first_byte is not None:
            history.first_byte(HUB, first_byte, large=True)
            history.read(HUB, 20_000_000, 1.0)
        sources = self.sources = SourceLimits(Settings(initial_connections=16), history, clock=lambda: 0.0)
        self.queue = ModelDownloadQueue("org/m")
        for lane, count, size in [("small", small, 20 * KiB), ("large", large, 100 * MiB)]:
            for number in range(count):
                name = f"{lane}-{number}.bin"
                self.queue.add(DownloadTask("org/m", name, f"{HUB}/{name}", Path(name), size))
        self.chooser = Chooser(Settings(), sources, self.no_transport, lambda: 0.0)

    @staticmethod
    def no_transport(request: FileRequest) -> Transport:
        raise AssertionError(f"nothing of {request.remote.path} is fetched here")

    @property
    def share(self) -> int:
        return self.chooser._share_of_small(QueueRun(self.queue, planned(), None, clock=lambda: 0.0))


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        pytest.param(1000, 4, 8, id="as much of both"),  # 1,000 x 0.021 s, 4 x 5.24 s
        pytest.param(1000, 12, 4, id="three times as much of the large"),
        pytest.param(10, 100, 1, id="hardly any small: one all the same"),
        pytest.param(100_000, 1, 15, id="hardly any large: one all the same"),
        pytest.param(0, 10, 1, id="no small"),
    ],
)
def test_connections_are_shared_so_that_both_lanes_end_together(
    small: int, large: int, expected: int
) -> None:
    assert Lanes(small, large).share == expected


def test_a_quarter_is_for_small_files_while_no_speed_is_known() -> None:
    assert Lanes(1000, 4, first_byte=None).share == 4


def test_connections_to_a_source_of_other_queues_are_not_shared_out() -> None:
    lanes = Lanes(1000, 4)
    before = lanes.share
    lanes.sources._controller("http://other.test")._limit = 32
    assert lanes.share == before


class InFlight:
    """Two large files, each with three parts of 10 bytes under way, at a source with two connections too many."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, drops_excess: bool = True) -> None:
        lanes = Lanes(0, 2)
        self.chooser = lanes.chooser
        self.run = QueueRun(lanes.queue, planned(), None, clock=lambda: 0.0)
        for name in ("a", "b"):
            wanted = request(MemoryDestination(folder, name), FakeSource(bytes(30)))
            task = DownloadTask("org/m", name, wanted.remote.url, wanted.destination.path, size=30)
            transfer = Transfer(task, wanted, FakeSource(bytes(30)), DownloadMetrics())
            for start in (20, 0, 10):  # in the order in which they began
                transfer.parts.append(Part(transfer, ByteRange(start, start + 10), now=0.0))
            self.run.transfers[task.task_id] = transfer
        monkeypatch.setattr(lanes.sources, "drops_excess", lambda source: drops_excess)
        monkeypatch.setattr(lanes.sources, "limit", lambda source: 4)

    @property
    def leaving(self) -> list[tuple[str, int]]:
        parts = [part for transfer in self.run.transfers.values() for part in transfer.parts]
        return [(part.transfer.task.file_path, part.start) for part in parts if part.preempted]


def test_connections_of_no_use_leave_the_last_file_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = InFlight(tmp_path, monkeypatch)
    for _ in range(2):
        files.chooser.drop_excess([files.run])
        assert files.leaving == [("b", 20), ("b", 10)]


def test_nobody_leaves_where_all_may_be_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = InFlight(tmp_path, monkeypatch, drops_excess=False)
    files.chooser.drop_excess([files.run])
    assert files.leaving == []


def test_a_file_in_one_piece_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = InFlight(tmp_path, monkeypatch)
    for transfer in files.run.transfers.values():
        transfer.mode = "whole"
    files.chooser.drop_excess([files.run])
    assert files.leaving == []


class Late:
    """One file of 100 bytes, half of it under way for an hour, at a source that has answered others."""

    def __init__(self, folder: Path) -> None:
        lanes = Lanes(0, 1)
        self.clock = 0.0
        self.chooser = Chooser(Settings(), lanes.sources, lanes.no_transport, lambda: self.clock)
        self.run = QueueRun(lanes.queue, planned(), None, clock=lambda: self.clock)
        task = lanes.queue.first_of_lanes(prefer_small=False, may_begin=lambda _source: True)
        assert task is not None
        lanes.queue.start(task)
        wanted = request(MemoryDestination(folder, "a"), FakeSource(bytes(100)))
        self.transfer = Transfer(task, wanted, FakeSource(bytes(100)), DownloadMetrics())
        self.transfer.sources.origin.name = HUB
        self.transfer.staged = claim(folder, "a", 100)
        self.part = Part(self.transfer, ByteRange(0, 100), now=0.0)
        self.transfer.parts.append(self.part)
        self.run.transfers[task.task_id] = self.transfer
        lanes.sources.count(HUB, 1)
        lanes.sources.register([HUB], 1)
        self.clock = 3600.0

    def next_job(self) -> Part | Transfer | None:
        return self.chooser.next_job([self.run])


@pytest.mark.parametrize("why", ["needed", "on disk", "told to stop", "told to leave"])
def test_nobody_hedges_bytes_that_are_on_disk_or_that_nobody_wants(tmp_path: Path, why: str) -> None:
    late = Late(tmp_path)
    staged = late.transfer.staged
    assert staged is not None
    try:
        if why == "on disk":
            staged.write(0, memoryview(bytes(100)))
            staged.record(0, 100)
        elif why == "told to stop":
            late.part.cancel_token.set()
        elif why == "told to leave":
            late.part.preempt(late.clock)
        job = late.next_job()
        assert (isinstance(job, Part) and job.hedge is late.part) == (why == "needed")
    finally:
        staged.close()


def one_file(folder: Path, size: int, answer: float | None) -> tuple[Chooser, Transfer, SourceHistory]:
    """A file at a source with four connections that has answered in so many seconds, if it has."""
    history = SourceHistory()
    if answer is not None:
        history.first_byte(HUB, answer, large=True)
        history.read(HUB, 20_000_000, 1.0)
    sources = SourceLimits(Settings(initial_connections=4), history, clock=lambda: 0.0)
    chooser = Chooser(Settings(), sources, Lanes.no_transport, lambda: 0.0)
    wanted = request(MemoryDestination(folder, "a"), FakeSource(b""), size=size)
    task = DownloadTask("org/m", "a", f"{HUB}/a", folder / "a", size)
    transfer = Transfer(task, wanted, FakeSource(b""), DownloadMetrics())
    transfer.sources.origin.name = HUB
    transfer.pending = [ByteRange(0, size)]
    return chooser, transfer, history


@pytest.mark.parametrize(
    ("answer", "size", "part"),
    [
        pytest.param(0.02, 1000 * MiB, 8 * MiB, id="quick"),
        pytest.param(8.0, 1000 * MiB, 1000 * MiB, id="slow: one request"),
        pytest.param(8.0, 100_000 * MiB, 3200 * 10**6, id="slow, and large: as much as is long beside the answer"),
    ],
)  # fmt: skip
def test_parts_of_a_source_that_takes_long_to_answer_are_few(
    tmp_path: Path, answer: float, size: int, part: int
) -> None:
    chooser, transfer, _ = one_file(tmp_path, size, answer)
    taken = chooser.take(transfer)
    assert taken.stop - taken.start == part
    assert taken.oversized is (answer > 1.0)


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        pytest.param(0.02, 8 * MiB + 1000, id="quick: what is read and a part as usual"),
        pytest.param(8.0, 60 * MiB, id="slow: all of it"),
    ],
)
def test_where_nobody_knows_how_long_an_answer_takes_all_is_asked_for_and_shared_if_it_comes_quickly(
    tmp_path: Path, answer: float, stop: int
) -> None:
    chooser, transfer, history = one_file(tmp_path, 60 * MiB, None)
    history.first_byte(HUB, 0.01)  # of a small file, which says nothing of large ones
    taken = chooser.take(transfer)
    assert (taken.start, taken.stop, taken.oversized, transfer.pending) == (0, 60 * MiB, True, [])
    taken.position = 1000
    history.first_byte(HUB, answer, large=True)
    chooser.narrow(taken)
    assert (taken.stop, taken.oversized) == (stop, False)
    assert transfer.pending == ([ByteRange(stop, 60 * MiB)] if stop < 60 * MiB else [])


def test_the_first_request_of_a_huge_file_is_no_longer_than_the_largest_part(tmp_path: Path) -> None:
    chooser, transfer, _ = one_file(tmp_path, 60_000 * MiB, None)
    taken = chooser.take(transfer)
    assert (taken.start, taken.stop, taken.oversized) == (0, MAX_PART, True)


class FewFiles(Descriptors):
    """A process that may open few files."""

    def __init__(self, most: int) -> None:
        super().__init__(limit=lambda: None)
        self.most = most

    def downloads(self, settled: int = 0) -> int:
        return max(1, self.most - settled)


class Scarce:
    """Some files at a source with many connections, in a process that may open few files."""

    def __init__(self, folder: Path, most: int, files: int = 6) -> None:
        history = SourceHistory()
        sources = SourceLimits(Settings(initial_connections=16), history, clock=lambda: 0.0)
        queue = ModelDownloadQueue("org/m")
        requests = []
        for number in range(files):
            wanted = request(MemoryDestination(folder, str(number)), FakeSource(b""), size=100 * MiB)
            requests.append(replace(wanted, remote=replace(wanted.remote, url=f"{HUB}/{number}")))
        made = planned(requests)
        queue.add_planned(made)
        self.run = QueueRun(queue, made, None, clock=lambda: 0.0)
        sources.register([HUB], 1)
        self.chooser = Chooser(Settings(), sources, lambda _: FakeSource(b""), lambda: 0.0, FewFiles(most))
        self.folder = folder

    def next(self) -> Part | Transfer | None:
        job = self.chooser.next_job([self.run])
        if isinstance(job, Transfer):  # as a worker would, at once
            job.move_to(Phase.FETCHING)
            job.sources.origin.name = HUB
            job.staged = claim(self.folder, job.task.file_path, 100)
            job.pending = [ByteRange(start, start + 10) for start in range(0, 100, 10)]
            return self.chooser.take(job)
        return job

    def close(self) -> None:
        for transfer in self.run.transfers.values():
            if transfer.staged is not None:
                transfer.staged.close()


def test_no_more_connections_and_files_are_in_use_than_can_be_opened(tmp_path: Path) -> None:
    with closing(Scarce(tmp_path, 3)) as scarce:
        parts = [scarce.next() for _ in range(5)]
        assert parts[3:] == [None, None]
        assert len(scarce.run.transfers) <= 3
        ended = parts[0]
        assert isinstance(ended, Part)
        ended.position = ended.stop
        ended.transfer.release(ended)
        assert scarce.next() is not None, "what one gives back another takes"
        assert scarce.next() is None


def test_where_no_file_can_be_opened_those_that_are_open_go_on(tmp_path: Path) -> None:
    with closing(Scarce(tmp_path, 2)) as scarce:
        for _ in range(2):
            scarce.next()
        opened = set(scarce.run.transfers)
        for transfer in scarce.run.transfers.values():
            for part in list(transfer.parts):
                part.position = part.stop
                transfer.release(part)
        again = [scarce.next() for _ in range(3)]
        assert again[2] is None
        assert set(scarce.run.transfers) == opened


def test_files_of_a_paused_queue_are_nobodys_to_count_on(tmp_path: Path) -> None:
    with closing(Scarce(tmp_path / "a", 4)) as paused, closing(Scarce(tmp_path / "b", 4)) as scarce:
        for _ in range(3):
            assert isinstance(paused.chooser.next_job([paused.run]), Transfer)
        paused.run.queue.paused = True
        jobs = [scarce.chooser.next_job([paused.run, scarce.run]) for _ in range(2)]
        assert isinstance(jobs[0], Transfer)
        assert jobs[1] is None


def test_where_many_files_can_be_opened_none_are_counted(tmp_path: Path) -> None:
    with closing(Scarce(tmp_path, 1000, files=20)) as scarce:
        assert None not in [scarce.next() for _ in range(16)]


@pytest.mark.parametrize(("answered", "size"), [(False, MiB), (True, 8_000_000)])
def test_a_source_that_nobody_has_heard_of_is_asked_for_little(
    tmp_path: Path, answered: bool, size: int
) -> None:
    lab, history = "http://10.0.0.7", SourceHistory()
    for source in (HUB, lab) if answered else (HUB,):
        history.first_byte(source, 0.02, large=True)
        history.read(source, 20_000_000, 1.0)
    limits = SourceLimits(Settings(initial_connections=4), history, clock=lambda: 0.0)
    choice = SourceChoice(limits, history, clock=lambda: 0.0)
    chooser = Chooser(Settings(), limits, Lanes.no_transport, lambda: 0.0, choice=choice)
    wanted = request(MemoryDestination(tmp_path, "a"), FakeSource(b""), size=1000 * MiB)
    task = DownloadTask("org/m", "a", f"{HUB}/a", tmp_path / "a", 1000 * MiB)
    other = FileSource(lab, lambda: FakeSource(b""))
    transfer = Transfer(task, wanted, FakeSource(b""), DownloadMetrics(), others=[other])
    transfer.pending = [ByteRange(0, 1000 * MiB)]
    part = chooser.take(transfer)
    assert (part.source, part.stop - part.start) == (other, size)
