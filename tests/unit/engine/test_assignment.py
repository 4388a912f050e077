"""Files whose parts somebody else chooses, without threads and without a network."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.cancellation import CancelToken
from hf_haul.config import Settings
from hf_haul.engine.assignment import AssignedBatch, AssignedRequest, Assignment, AssignmentEnd
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.file_batch import FileBatch, FileOutline
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.quiet import QuietWatch
from hf_haul.engine.scheduler import Scheduler
from hf_haul.engine.transfer import Transfer
from hf_haul.errors import HttpStatusError, WrongBytesError
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import DownloadMetrics
from hf_haul.ranges import ByteRange
from hf_haul.task import Digest, DownloadTask, FileRequest, OtherSource
from hf_haul.transports.base import Body, Transport

DATA = bytes(range(100))
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())
NODE = OtherSource("http://node.test/blob", joins_path=False)


class _Lying(FakeSource):
    """Sends other bytes than it announces."""

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> Body:
        assert want is not None
        body = super().open(want, cancel_token, fresh=fresh)
        body.headers = {"Content-Digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"}  # type: ignore[attr-defined]  # as those of HTTP have
        return body


class ScriptedAssigner:
    """Assigns what a test says, and keeps what it is told."""

    def __init__(self, *script: Assignment, order: tuple[int, ...] = ()) -> None:
        self.order = order
        self.script = deque(script)
        self.idle_script: deque[Assignment] = deque()
        self.missing: list[list[ByteRange]] = []
        self.begun: list[Assignment] = []
        self.ended: list[tuple[Assignment, list[ByteRange], bool, BaseException | None]] = []
        self.settled: list[bool] = []
        self.wrong: list[tuple[ByteRange, str]] = []
        self.spares = True

    def assigner_of(self, request: FileRequest) -> ScriptedAssigner:
        assert isinstance(request, AssignedRequest)
        return self

    def order_of(self, request: FileRequest) -> tuple[int, ...]:
        assert isinstance(request, AssignedRequest)
        return self.order

    piece_bytes = 20

    def start(self, missing: Sequence[ByteRange]) -> None:
        self.missing.append(list(missing))

    def next(self, *, origin: bool, idle: bool) -> Assignment | None:
        assert origin
        if idle:
            return self.idle_script[0] if self.idle_script else None
        return self.script[0] if self.script else None

    def begin(self, assignment: Assignment) -> None:
        for script in (self.script, self.idle_script):
            if script and script[0] is assignment:
                script.popleft()
        self.begun.append(assignment)

    def can_spare(self, assignment: Assignment, error: BaseException) -> bool:
        del assignment, error
        return self.spares

    def end(self, assignment: Assignment, how: AssignmentEnd) -> None:
        assert how.seconds >= 0.0
        self.ended.append((assignment, list(how.left), how.brought, how.error))

    def blame(self, wrong: Sequence[tuple[ByteRange, str]]) -> set[str]:
        self.wrong += wrong
        return {"http://somebody.test"}

    def settle(self, *, ok: bool) -> None:
        self.settled.append(ok)

    def waits_for(self) -> str:
        return "node n7, which is to fetch it"


class Bench:
    """A scheduler without threads, and one file whose parts are assigned."""

    def __init__(self, folder: Path, *script: Assignment, digest: Digest | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.assigner = ScriptedAssigner(*script)
        self.origin = FakeSource(DATA)
        self.node = FakeSource(DATA)
        self.destination = MemoryDestination(folder, "a")
        plain = request(self.destination, self.origin, digest=digest)
        self.request = AssignedRequest(
            plain.remote, plain.destination, plain.priority, plain.fresh, assigners=self.assigner
        )
        settings = Settings(max_retries=1, first_retry_wait=0.0, max_retry_wait=0.0)
        self.scheduler = Scheduler(settings, BandwidthLimiter(None), self._transport, threads=False)
        self.queue = ModelDownloadQueue("org/m")

    def _transport(self, wanted: FileRequest) -> Transport:
        return self.node if wanted.remote.url.startswith("http://node") else self.origin

    def run(self) -> None:
        plan = make_plan(
            [self.request],
            model_id="org/m",
            policy=DefaultPolicy(),
            settings=self.scheduler.settings,
            created_at=lambda: 0.0,
        )
        self.result = self.scheduler.submit(self.queue, plan.files, None)
        self.scheduler.drain()

    @property
    def is_whole(self) -> bool:
        return self.destination.content == DATA


def span(start: int, stop: int) -> ByteRange:
    return ByteRange(start, stop)


def test_what_is_assigned_is_fetched_in_that_order_and_from_there(tmp_path: Path) -> None:
    parts = [
        Assignment(span(40, 60), NODE),
        Assignment(span(0, 40)),
        Assignment(span(60, 100), NODE),
    ]
    bench = Bench(tmp_path, *parts)
    bench.run()
    assert bench.is_whole
    assert bench.node.log == [span(40, 60), span(60, 100)]
    assert bench.origin.log == [span(0, 40)]
    assert bench.assigner.missing[0] == [span(0, 100)]
    assert bench.assigner.ended == [(each, [], True, None) for each in parts]
    assert bench.assigner.settled == [True]
    assert bench.result.metrics.bytes_by_source["http://node.test"] == 60


def test_nothing_is_fetched_while_nothing_is_assigned_until_somebody_has_something(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    assert (bench.is_whole, bench.origin.log) == (False, [])
    bench.assigner.script.append(Assignment(span(0, 100)))
    bench.scheduler.nudge()
    bench.scheduler.drain()
    assert bench.is_whole


def test_what_a_node_does_not_bring_can_be_assigned_again(tmp_path: Path) -> None:
    error = HttpStatusError("404", status=404)
    bench = Bench(tmp_path, Assignment(span(0, 100), NODE), Assignment(span(0, 100)))
    bench.node.faults.append(error)
    bench.run()
    assert bench.is_whole
    (_, left, brought, caught), last = bench.assigner.ended
    assert (left, brought, caught) == ([span(0, 100)], False, error)
    assert last[1:] == ([], True, None)


def test_a_node_that_breaks_is_not_asked_again_by_whoever_fetches(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Assignment(span(0, 100), NODE), Assignment(span(30, 100)))
    bench.node.cut.append(30)
    bench.run()
    assert bench.is_whole
    assert bench.node.log == [None]  # all of it
    assert bench.assigner.ended[0][1] == [span(30, 100)]


def test_an_origin_that_fails_fails_the_file_unless_it_can_be_spared(tmp_path: Path) -> None:
    for spares in (True, False):
        bench = Bench(tmp_path / str(spares), Assignment(span(0, 100)), Assignment(span(0, 100), NODE))
        bench.assigner.spares = spares
        bench.origin.faults.append(HttpStatusError("403", status=403))
        bench.run()
        assert bench.is_whole is spares
        assert bench.assigner.settled == [spares]


def test_bytes_that_are_not_what_their_digest_says_do_not_stay(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, Assignment(span(0, 50)), Assignment(span(50, 100), NODE), Assignment(span(50, 100))
    )
    bench.node = _Lying(b"x" * 100)
    bench.run()
    assert bench.is_whole
    assert isinstance(bench.assigner.ended[1][3], WrongBytesError)
    assert bench.assigner.ended[1][1] == [span(50, 100)]


def test_a_file_whose_digest_is_wrong_comes_from_its_origin_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, Assignment(span(0, 50)), Assignment(span(50, 100), NODE), digest=DIGEST)
    bench.node.content = DATA[:70] + b"x" * 30
    bench.run()
    assert bench.is_whole
    assert bench.origin.log == [span(0, 50), span(50, 100)]
    second = [span(50, 100)]
    assert bench.assigner.missing == [[span(0, 100)], second, [], second, []]
    wrong = [(span(60, 80), "http://node.test"), (span(80, 100), "http://node.test")]
    assert bench.assigner.wrong == wrong
    assert "http://somebody.test sent wrong bytes of a" in caplog.text


def test_what_is_under_way_can_be_requested_again_if_there_is_nothing_else_to_do(tmp_path: Path) -> None:
    slow = Assignment(span(0, 100), NODE)
    bench = Bench(tmp_path, slow)
    bench.assigner.idle_script.append(Assignment(span(0, 100), None, slow))
    jobs: list[object] = []

    def fetch_beside(_at: int) -> None:
        if not jobs:
            job = bench.scheduler.next_job()
            jobs.append(job)
            assert job is not None
            assert job.part is not None
            assert job.part.hedge is not None
            bench.scheduler._workers.perform(job)

    bench.node.on_read = fetch_beside
    bench.run()
    assert bench.is_whole
    assert (bench.node.log, bench.origin.log) == ([None], [None])
    assert [ended[1:] for ended in bench.assigner.ended] == [([], True, None), ([], False, None)]


def test_a_file_that_its_origin_sends_only_as_a_whole_is_not_assigned(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.request = replace(bench.request, remote=replace(bench.request.remote, ranges=False))
    bench.run()
    assert bench.is_whole
    assert bench.origin.log == [None]


def test_a_file_may_say_its_place_in_the_queue(tmp_path: Path) -> None:
    plain = request(MemoryDestination(tmp_path, "z"), FakeSource(DATA))
    orders = [(2,), (0,), (1,)]
    wanted = [
        AssignedRequest(
            replace(plain.remote, path=f"{number}.bin"),
            MemoryDestination(tmp_path, f"{number}.bin"),
            assigners=ScriptedAssigner(order=order),
        )
        for number, order in enumerate(orders)
    ]
    plan = make_plan(
        wanted, model_id="m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 0.0
    )
    assert [each.task.order for each in plan.files] == sorted(orders)


def test_a_range_is_taken_out_of_what_is_to_be_fetched(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    wanted = bench.request
    task = DownloadTask("m", "a", wanted.remote.url, wanted.destination.path, size=100)
    transfer = Transfer(task, wanted, bench.origin, DownloadMetrics())
    transfer.pending = [span(0, 40), span(50, 100)]
    for taken, left in [
        (span(10, 20), [span(0, 10), span(20, 40), span(50, 100)]),
        (span(50, 60), [span(0, 10), span(20, 40), span(60, 100)]),
        (span(20, 40), [span(0, 10), span(60, 100)]),
    ]:
        transfer.take_assigned(Assignment(taken), 0.0, transfer.sources.origin)
        assert transfer.pending == left
    for wrong in (span(5, 15), span(40, 50), span(0, 100)):
        with pytest.raises(ValueError, match="is not to be fetched"):
            transfer.take_assigned(Assignment(wrong), 0.0, transfer.sources.origin)


def test_while_nothing_moves_it_says_what_it_waits_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    (transfer,) = bench.result.transfers.values()
    watch = QuietWatch(5.0)
    assert watch.look(0.0, (0,), [transfer], lambda _part: 9.0) is None
    wait = watch.look(6.0, (0,), [transfer], lambda _part: 9.0)
    assert wait is not None
    assert wait.message == "a: waits for node n7, which is to fetch it"


def test_the_bandwidth_limit_is_for_the_origin(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Assignment(span(0, 40)), Assignment(span(40, 100), NODE))
    reserved: list[int] = []

    class Counting(BandwidthLimiter):
        def wait(self, nbytes: int, cancel_token: CancelToken) -> float:
            reserved.append(nbytes)
            return super().wait(nbytes, cancel_token)

    bench.scheduler._fetcher._limiter = Counting(None)
    bench.run()
    assert bench.is_whole
    assert sum(reserved) == 40


class _Batch(FileBatch):
    origin = "http://source.test"
    other_sources = ()

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def outlines(self) -> Iterator[FileOutline]:
        return ((name, 100, True) for name in self._names)

    def staging_dirs(self) -> Collection[Path]:
        return [self._folder]

    def request(self, number: int) -> FileRequest:
        return request(MemoryDestination(self._folder, self._names[number]), FakeSource(DATA))


def test_a_batch_of_files_is_assigned_without_making_them_all(tmp_path: Path) -> None:
    class ByName(ScriptedAssigner):
        def order_of(self, request: FileRequest) -> tuple[int, ...]:
            return (-ord(request.remote.path),)

    batch = AssignedBatch(_Batch(tmp_path, "abc"), ByName())
    assert (len(batch), batch.origin, batch.other_sources) == (3, "http://source.test", ())
    assert list(batch.staging_dirs()) == [tmp_path]
    assert all(isinstance(each, AssignedRequest) for each in batch)
    plan = make_plan(batch, model_id="m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 0.0)
    assert plan.files.is_assigned
    assert [each.task.file_path for each in plan.files] == ["c", "b", "a"]
    assert [each.task.order for each in plan.files] == [(-99,), (-98,), (-97,)]
