"""What a node knows of its job, and what it tells of itself."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock

from hf_haul.cluster import job_node
from hf_haul.cluster.assigner import JobAssigner
from hf_haul.cluster.bitmaps import decode_bits
from hf_haul.cluster.holdings import Holdings, NotHeldError
from hf_haul.cluster.job_node import JobNode
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.assignment import Assignment
from hf_haul.hub.metadata import ListedFile
from hf_haul.ranges import ByteRange
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import Digest, FileRequest, RemoteFile

DATA = bytes(range(256)) * 10
ETAG = hashlib.sha256(DATA).hexdigest()
PLAN = JobPlan(
    job_id="job-1",
    endpoint="http://hub",
    repo_type="model",
    repo_id="org/m",
    revision="main",
    commit="c" * 40,
    files={"a.bin": ListedFile(130, "b" * 40, ETAG, len(DATA))},
    selection=("a.bin",),
    stripe_bytes=1000,
    nodes=("a", "b", "c"),
)


class World:
    """A node, and what it calls."""

    def __init__(self, folder: Path, plan: JobPlan = PLAN, name: str = "a") -> None:
        (folder / "a.bin").write_bytes(DATA)
        self.called: list[Any] = []
        self.plan, self.folder = plan, folder
        self.node = JobNode(name, plan.job_id, on_member=lambda name, url: self.called.append((name, url)))
        self.assigner = JobAssigner(
            name,
            Stripes.of(plan),
            job_id=plan.job_id,
            token="t",
            nudge=lambda: self.called.append("nudge"),
            on_change=lambda: self.called.append("change"),
            clock=FakeClock(),
        )

    def begin(self, *have: int) -> JobNode:
        self.node.set_plan(self.plan)
        self.node.expect(self.plan.nodes)
        for name in ("b", "c"):
            self.assigner.note_member(name, f"http://{name}:1")
        self.assigner.note_stripes(have)
        holdings = Holdings({ETAG: ["a.bin"]}, lambda _etag: len(DATA), self.folder.joinpath, dict)
        self.node.begin(self.assigner, holdings)
        return self.node

    def next(self, missing: list[ByteRange], *, origin: bool = False) -> Assignment | None:
        """What its engine would fetch next of its file."""
        remote = RemoteFile("a.bin", "http://hub/a.bin", size=len(DATA), digest=Digest("sha256", ETAG))
        request = FileRequest(remote, FileDestination(self.folder / "x", ETAG))
        assigner = self.assigner.assigner_of(request)
        assert assigner is not None
        assigner.start(missing)
        return assigner.next(origin=origin, idle=False)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What another node announces."""

    def state(*have: int, plan: JobPlan = PLAN, done: bool = False, error: str | None = None) -> Any:
        world = World(tmp_path, plan, "b")
        node = world.begin(*have)
        if done or error:
            world.assigner.note_ended(error)
        return json.loads(json.dumps(node.state()))

    return state


def test_before_it_has_begun_a_node_says_that_it_is_preparing(world: World) -> None:
    assert world.node.state() == {"name": "a", "version": 0, "plan": None}
    assert world.node.plan() is None
    with pytest.raises(NotHeldError, match="still preparing"):
        world.node.size_of(ETAG)
    world.node.note_asker("b", "http://b")
    assert world.called == [("b", "http://b")]


def test_it_announces_what_it_has_and_by_which_plan(world: World) -> None:
    node = world.begin(0, 2)
    state = node.state()
    assert decode_bits(state["have"], 3) == 0b101
    assert (state["name"], state["version"], state["commit"]) == ("a", node.version, PLAN.commit)
    assert JobPlan.from_json(json.loads(node.plan() or b"")).selection == PLAN.selection


def test_only_what_was_announced_is_handed_out(world: World) -> None:
    node = world.begin(0, 2)
    for span in (ByteRange(0, 1000), ByteRange(10, 20), ByteRange(2000, len(DATA))):
        with closing(node.open(ETAG, span)) as held:
            held.file.seek(span.start)
            assert held.file.read(len(span)) == DATA[span.start : span.stop]
    for span in (ByteRange(0, 1001), ByteRange(999, 2001), ByteRange(1500, 1501)):
        with pytest.raises(NotHeldError):
            node.open(ETAG, span)
    world.assigner.note_stripes([1])
    node.open(ETAG, ByteRange(0, len(DATA))).close()


def test_what_others_announce_is_there_to_be_fetched(
    world: World, other: Callable[..., dict[str, Any]]
) -> None:
    node = world.begin()
    assert node.unheard() == ["b", "c"]
    node.note_state("b", other(1))
    assert node.unheard() == ["c"]
    assert world.called[-1] == "nudge"
    found = world.next([ByteRange(0, len(DATA))])
    assert found is not None
    assert found.source is not None
    assert found.source.name == "http://b:1"
    assert found.span == ByteRange(1000, 2000)


def test_a_node_that_is_preparing_is_alive_and_not_ready(world: World) -> None:
    node = world.begin()
    node.note_state("b", {"name": "b", "version": 0, "plan": None})
    assert node.unheard() == ["b", "c"]
    assert node.pending(absent_too=False) == ["b"]


@pytest.mark.parametrize("error", ["Offline mode is on", None])
def test_one_that_ends_before_it_has_begun_is_not_waited_for(
    world: World, caplog: pytest.LogCaptureFixture, error: str | None
) -> None:
    ended = JobNode("b", PLAN.job_id, on_member=lambda _name, _url: None)
    before = ended.version
    ended.note_ended(error)
    assert ended.version != before
    node = world.begin()
    with caplog.at_level(logging.WARNING):
        node.note_state("b", json.loads(json.dumps(ended.state())))
    assert node.unheard() == ["c"]
    assert node.pending(absent_too=False) == []
    assert ("node b cannot get all files: Offline" in caplog.text) == (error is not None)
    # What it is home to falls to others at once.
    node.note_gone("c", "connection refused")
    found = world.next([ByteRange(1000, 2000)], origin=True)
    assert found is not None
    assert (found.source, found.span) == (None, ByteRange(1000, 2000))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"commit": "d" * 40}, "it works on commit d{40}, and this node on c{40}"),
        ({"stripe_bytes": 500}, "cuts them in another way"),
        ({"selection": ()}, "it works on other files"),
    ],
)
def test_a_node_with_another_plan_is_of_no_use(
    world: World, other: Callable[..., dict[str, Any]], change: dict[str, Any], said: str
) -> None:
    node = world.begin()
    with pytest.raises(ValueError, match=said):
        node.note_state("b", other(plan=replace(PLAN, **change)))


def test_nodes_that_count_on_another_order_of_nodes_can_work_together(
    world: World, other: Callable[..., dict[str, Any]]
) -> None:
    node = world.begin()
    node.note_state("b", other(1, plan=replace(PLAN, job_id="x", nodes=("b", "a", "d"), endpoint="http://m")))
    assert node.unheard() == ["c"]


def test_who_is_waited_for_at_the_end(world: World, other: Callable[..., dict[str, Any]]) -> None:
    node = world.begin()
    assert node.pending(absent_too=True) == ["b", "c"]  # neither has begun
    assert node.pending(absent_too=False) == []
    node.note_gone("c", "connection refused")
    assert node.pending(absent_too=True) == ["b", "c"]  # it may come yet
    node.note_state("b", other())
    assert node.pending(absent_too=False) == ["b"]
    node.note_silent("b")
    assert node.pending(absent_too=True) == ["b", "c"]
    assert node.pending(absent_too=False) == []
    node.note_state("b", other(0, 1, 2, done=True))
    node.note_useless("c", "it works on another job")
    assert node.pending(absent_too=True) == []
    node.note_state("c", {**other(), "name": "c"})
    node.note_gone("c", "connection refused")  # it was there, and left
    assert node.pending(absent_too=True) == []


def test_who_has_asked_and_left_before_it_was_asked_itself_is_not_waited_for(world: World) -> None:
    node = world.begin()
    node.note_asker("b", "http://b")  # it has seen that this node is done, is done itself, and leaves
    node.note_gone("b", "connection refused")
    node.note_gone("c", "connection refused")
    assert node.pending(absent_too=True) == ["c"]


def test_whoever_asks_under_ever_new_names_is_forgotten_and_who_is_counted_on_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_node, "MOST_NODES", 3)
    for number in range(9):
        world.node.note_asker(f"x{number}", "http://x")
    node = world.begin()
    assert node.pending(absent_too=True) == ["x0", "x1", "x2", "b", "c"]
    node.note_asker("b", "http://b")
    assert node.pending(absent_too=False) == ["x0", "x1", "x2", "b"]


def test_who_failed_is_not_waited_for_and_it_is_said_why(
    world: World, other: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    node = world.begin()
    for _again in range(3):
        node.note_state("b", other(error="no space left"))
    assert node.pending(absent_too=False) == []
    assert caplog.text.count("node b cannot get all files: no space left") == 1


def test_what_is_told_again_and_again_is_news_once(world: World) -> None:
    node = world.begin()
    world.called.clear()
    for _again in range(3):
        node.note_gone("b", "refused")
        node.note_silent("c")
    assert world.called == ["nudge", "nudge"]


def test_who_waits_for_others_is_woken_by_news(world: World) -> None:
    node = world.begin()
    waiting = threading.Thread(target=node.wait, args=(30.0,))
    waiting.start()
    while waiting.is_alive():
        node.wake()
        waiting.join(0.01)


def test_a_state_that_is_none_is_refused(world: World, other: Callable[..., dict[str, Any]]) -> None:
    node = world.begin()
    for change in ({"have": 7}, {"claims": [99]}, {"done": "yes"}):
        with pytest.raises(ValueError, match="state"):
            node.note_state("b", {**other(), **change})


def test_a_node_that_answers_at_the_address_of_another_one_is_not_taken_for_it(
    world: World, other: Callable[..., dict[str, Any]]
) -> None:
    node = world.begin()
    with pytest.raises(ValueError, match="b answers at its address"):
        node.note_state("c", other(0))
