from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.transport import MemoryDestination

from hf_haul.cluster.assigner import JobAssigner
from hf_haul.cluster.bitmaps import bits_of
from hf_haul.cluster.node_state import NodeState
from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.assignment import AssignedRequest, Assigner, Assignment, AssignmentEnd
from hf_haul.errors import ConnectionFailedError, HttpStatusError, StopRequestedError, WrongBytesError
from hf_haul.ranges import ByteRange
from hf_haul.task import Digest, FileRequest, RemoteFile

SIZES = {"a": 35, "b": 10, "c": 10, "d": 7}
ETAGS = {name: hashlib.sha256(name.encode()).hexdigest() for name in SIZES}
NODES = ("n0", "n1")
TOKEN = "job-secret"


def wanted(name: str, **changes: Any) -> FileRequest:
    digest = Digest("sha256", ETAGS[name]) if name in ETAGS else None
    known: dict[str, Any] = {
        "size": SIZES.get(name, 1),
        "digest": digest,
        "headers": {"Authorization": "Bearer hf_x"},
    }
    remote = RemoteFile(f"{name}.bin", f"http://hub.test/{name}", **{**known, **changes})
    return FileRequest(remote, MemoryDestination(Path("/nowhere"), name))


class Rig:
    def __init__(self, me: str = "n0", **more: Any) -> None:
        self.clock = FakeClock()
        self.nudges = 0
        self.changes = 0
        stripes = Stripes([(ETAGS[name], size) for name, size in SIZES.items()], 10, NODES)
        self.job = JobAssigner(
            me,
            stripes,
            job_id="job 1",
            token=TOKEN,
            nudge=self.nudge,
            on_change=self.change,
            clock=self.clock,
            **more,
        )
        for name in NODES:
            if name != me:
                self.job.note_member(name, f"http://{name}.test:8000/")
        self.version = 0

    def nudge(self) -> None:
        assert not self.job._job.lock.locked()
        self.nudges += 1

    def change(self) -> None:
        self.changes += 1

    def file(self, name: str, *missing: tuple[int, int]) -> Assigner:
        (request,) = self.job.assigned([wanted(name)])
        assert isinstance(request, AssignedRequest)
        assigner = request.assigners.assigner_of(request)
        assert assigner is not None
        assigner.start([ByteRange(*each) for each in (missing or [(0, SIZES[name])])])
        return assigner

    def hear(self, name: str, *have: int, claims: tuple[int, ...] = (), **more: Any) -> None:
        self.version += 1
        self.job.note_state(name, NodeState(name, self.version, bits_of(have), frozenset(claims), **more))


def take(file: Assigner, *, idle: bool = False, origin: bool = True) -> Assignment | None:
    found = file.next(origin=origin, idle=idle)
    if found is not None:
        file.begin(found)
    return found


def bring(file: Assigner, assignment: Assignment | None) -> None:
    assert assignment is not None
    file.end(assignment, AssignmentEnd([], brought=True, error=None, seconds=1.0))


def lose(
    file: Assigner, assignment: Assignment | None, error: BaseException | None, *left: ByteRange
) -> None:
    assert assignment is not None
    how = AssignmentEnd(left or [assignment.span], brought=False, error=error, seconds=1.0)
    file.end(assignment, how)


def shown(assignment: Assignment | None) -> tuple[int, int, str | None] | None:
    if assignment is None:
        return None
    source = assignment.source
    return assignment.span.start, assignment.span.stop, source and source.url


def test_its_own_stripes_come_from_the_origin_and_those_of_others_from_them() -> None:
    rig = Rig()
    file = rig.file("a")
    rig.hear("n1", 1)
    url = f"http://n1.test:8000/haul/v1/jobs/job%201/blobs/{ETAGS['a']}"
    assert [shown(take(file)) for _ in range(4)] == [
        (0, 10, None),
        (10, 20, url),
        (20, 30, None),
        None,
    ]
    assert rig.job.state().claims == {0, 2}


def test_a_node_gets_the_jobs_token_only_and_no_proxy_comes_between() -> None:
    rig = Rig()
    file = rig.file("a")
    rig.hear("n1", 1)
    found = file.next(origin=False, idle=False)
    assert found is not None
    assert found.source is not None
    remote = found.source.stand_in(wanted("a").remote)
    assert dict(remote.headers) == {"Authorization": f"Bearer {TOKEN}"}
    assert remote.network is not None
    path = remote.network.path_to(remote.url)
    assert path is not None
    assert path.proxy is None
    assert TOKEN not in repr(found)


def test_only_what_is_missing_is_fetched_and_what_is_there_is_announced() -> None:
    rig = Rig()
    file = rig.file("a", (4, 6), (8, 10), (30, 35))
    assert rig.job.state().have == bits_of([1, 2])
    first = take(file)
    assert shown(first) == (4, 6, None)
    assert take(file) is None  # the rest of that stripe comes after it
    bring(file, first)
    assert rig.job.state().have == bits_of([1, 2])
    second = take(file)
    assert shown(second) == (8, 10, None)
    bring(file, second)
    assert rig.job.state().have == bits_of([0, 1, 2])


def test_a_file_that_is_begun_anew_forgets_what_was_under_way() -> None:
    rig = Rig()
    file = rig.file("a")
    old = take(file)
    file.start([ByteRange(0, 35)])
    assert rig.job.state().claims == frozenset()
    new = take(file)
    assert shown(new) == shown(old) == (0, 10, None)
    bring(file, old)  # comes too late
    assert rig.job.state().have == 0
    bring(file, new)
    assert rig.job.state().have == 1


@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(None, True, id="preempted"),
        pytest.param(StopRequestedError(), True, id="stopped"),
        pytest.param(ConnectionFailedError("reset"), False, id="broken"),
        pytest.param(HttpStatusError("404", status=404), False, id="absent"),
        pytest.param(WrongBytesError("wrong"), False, id="wrong"),
    ],
)
def test_what_was_not_brought_is_wanted_again_but_not_from_whoever_failed(
    error: BaseException | None, again: bool
) -> None:
    rig = Rig()
    file = rig.file("a")
    rig.hear("n1", 1)
    asked = take(file, origin=False)
    lose(file, asked, error, ByteRange(15, 20))
    assert (take(file, origin=False) is not None) is again


def test_a_refused_connection_makes_a_node_silent() -> None:
    rig = Rig()
    file = rig.file("a")
    rig.hear("n1", 1, 3)
    refused = ConnectionFailedError("refused")
    refused.__cause__ = ConnectionRefusedError()
    lose(file, take(file, origin=False), refused)
    assert [shown(take(file)) for _ in range(5)] == [
        (0, 10, None),
        (20, 30, None),
        (10, 20, None),
        (30, 35, None),
        None,
    ]


def test_the_origin_can_be_spared_while_others_may_bring_it() -> None:
    rig = Rig()
    file = rig.file("a")
    error = HttpStatusError("403", status=403)
    spared = []
    for _ in range(3):
        asked = take(file)
        assert asked is not None
        spared.append(file.can_spare(asked, error))
        lose(file, asked, error)
        rig.clock.advance(60.0)
    assert spared == [True, True, False]


def test_without_others_the_origin_cannot_be_spared() -> None:
    rig = Rig()
    rig.job.note_gone("n1")
    file = rig.file("a")
    asked = take(file)
    assert asked is not None
    assert not file.can_spare(asked, HttpStatusError("403", status=403))


def test_what_takes_long_is_asked_of_another_as_well() -> None:
    rig = Rig()
    rig.job.note_member("late", "http://late.test")
    file = rig.file("a")
    rig.hear("n1", 1)
    slow = take(file, origin=False)
    rig.hear("late", 1)
    rig.clock.advance(2.0)
    rig.hear("n1", 1)
    assert take(file, origin=False) is None
    hedge = take(file, origin=False, idle=True)
    assert hedge is not None
    assert hedge.hedges is slow
    assert hedge.source is not None
    assert hedge.source.name == "http://late.test"
    bring(file, hedge)
    assert rig.job.state().have == bits_of([1])
    assert slow is not None
    file.end(slow, AssignmentEnd([], brought=False, error=None, seconds=3.0))
    assert rig.job.state().have == bits_of([1])


def test_wrong_bytes_are_blamed_on_a_node_by_where_it_is_asked() -> None:
    rig = Rig()
    file = rig.file("a")
    assert file.piece_bytes == 10
    rig.hear("n1", 1, 3)
    wrong = [(ByteRange(10, 20), "http://n1.test:8000"), (ByteRange(30, 35), "http://n1.test:8000")]
    assert file.blame(wrong) == {"http://n1.test:8000"}
    assert take(file, origin=False) is None
    assert file.blame([(ByteRange(0, 10), "http://elsewhere.test")]) == set()


def test_a_node_of_which_nobody_says_where_it_is_is_not_asked() -> None:
    rig = Rig()
    file = rig.file("a")
    rig.hear("stranger", 1)
    assert take(file, origin=False) is None


def test_a_file_in_place_is_announced_and_one_that_was_given_up_is_not() -> None:
    rig = Rig()
    file = rig.file("a")
    bring(file, take(file))
    file.settle(ok=True)
    assert rig.job.state().have == bits_of(range(4))
    file.settle(ok=False)
    assert rig.job.state().have == 0


def test_what_is_here_before_the_file_is_opened_is_announced() -> None:
    rig = Rig()
    rig.job.note_stripes([1, 3, 6])
    assert rig.job.state().have == bits_of([1, 3, 6])
    assert rig.job.bytes_here() == 10 + 5 + 7
    assert rig.job.has([1, 6])
    assert not rig.job.has([1, 2])
    rig.file("a", (5, 6), (20, 35))
    assert rig.job.state().have == bits_of([1, 6])


def test_each_change_of_the_state_is_told_and_nothing_else() -> None:
    rig = Rig()
    file = rig.file("a")
    assert rig.changes == 0
    first = take(file)
    assert rig.changes == 1
    bring(file, first)
    assert rig.changes == 2
    rig.hear("n1", 1)
    rig.job.note_silent("n1")
    assert rig.changes == 2
    rig.job.note_ended("no space")
    assert rig.changes == 3
    state = rig.job.state()
    assert (state.done, state.error, state.version) == (True, "no space", rig.job.version)


def test_whatever_is_learned_of_nodes_has_the_engine_look_for_work() -> None:
    rig = Rig()
    before = rig.nudges
    rig.hear("n1", 1)
    rig.job.note_gone("n1")
    rig.job.note_silent("n1")
    rig.job.note_member("n2", "http://n2.test")
    assert rig.nudges == before + 4


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"digest": None}, id="no digest"),
        pytest.param({"size": 34}, id="another size"),
        pytest.param({"digest": Digest("sha256", "0" * 64)}, id="another blob"),
        pytest.param({"digest_is_etag": True, "confirm": lambda: None}, id="an etag that may be a name"),
    ],
)
def test_a_file_that_is_none_of_the_jobs_is_left_to_the_engine_and_goes_first(
    changes: dict[str, Any],
) -> None:
    job = Rig().job
    (request,) = job.assigned([wanted("a", **changes)])
    assert isinstance(request, AssignedRequest)
    assert request.assigners.assigner_of(request) is None
    assert job.order_of(request) < min(job.order_of(wanted(name)) for name in SIZES)


def test_large_files_go_first_in_one_order_and_small_ones_begin_with_the_own() -> None:
    def order(me: str) -> list[str]:
        job = Rig(me).job
        requests = job.assigned([wanted(name) for name in SIZES])
        return [each.remote.path for each in sorted(requests, key=job.order_of)]

    assert order("n0") == ["a.bin", "b.bin", "d.bin", "c.bin"]
    assert order("n1") == ["a.bin", "c.bin", "b.bin", "d.bin"]
    assert order("late") == ["a.bin", "b.bin", "d.bin", "c.bin"]


def test_of_two_files_with_one_blob_the_second_is_had_from_the_first() -> None:
    rig = Rig(repeated={ETAGS["a"]})
    rig.job.note_own_url("http://n0.test:8000")
    first = rig.file("a")
    again = rig.job.assigner_of(wanted("a"))
    assert again is first  # in a cache both are one file
    elsewhere = replace(wanted("a"), destination=MemoryDestination(Path("/elsewhere"), "a"))
    copy = rig.job.assigner_of(elsewhere)
    assert copy is not None
    copy.start([ByteRange(0, 35)])
    assert copy.next(origin=True, idle=False) is None
    bring(first, take(first))
    found = copy.next(origin=True, idle=False)
    assert shown(found) == (0, 10, f"http://n0.test:8000/haul/v1/jobs/job%201/blobs/{ETAGS['a']}")
