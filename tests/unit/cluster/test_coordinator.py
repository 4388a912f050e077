"""Who is started where, and again, and what becomes of nodes whose workers vanish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from tests.support import event_samples
from tests.support.clock import FakeClock

from hf_haul import __version__
from hf_haul.cluster import coordinator as module
from hf_haul.cluster.census import Facts, Per, Question, Worker
from hf_haul.cluster.control import ControlLostError, HowToEnd, OnDone
from hf_haul.cluster.coordinator import Coordinator
from hf_haul.cluster.node_work import NodeOrder
from hf_haul.cluster.progress import JobProgress
from hf_haul.cluster.results import NodeResult, WorkerLostError

ORDER = NodeOrder("job-1", "", token="secret", cache_dir="/c/{node}")


def worker(name: str, port: int = 1, host: str | None = None) -> Worker:
    return Worker(f"tcp://{host or name}:{port}", name, host or name)


def failing(error: Exception) -> Any:
    raise error


class Cluster:
    """Stands for a scheduler; a second passes with each look at it.

    ``script`` is what happens at a second; ``results`` answer runs, and a run without one goes on for ever.
    """

    where = "the scheduler at tcp://s:8786"

    def __init__(self, clock: FakeClock, *workers: Worker) -> None:
        self.clock = clock
        self.present = {each.address: each for each in workers}
        self.script: dict[int, Callable[[], object]] = {}
        self.lost = False
        self.answers: dict[str, Facts | Exception] = {}  # by the worker's name
        self.started: list[tuple[str, str]] = []  # node and address
        self.members: dict[str, Mapping[str, str]] = {}
        self.running: dict[str, tuple[str, OnDone]] = {}  # by node: where
        self.starting: dict[str, OnDone] = {}
        self.slow: set[str] = set()  # workers that do not begin
        self.forgotten: list[str] = []
        self.ended: list[tuple[list[str], HowToEnd]] = []

    def workers(self) -> Mapping[str, Worker]:
        self.clock.advance(1.0)
        act = self.script.pop(round(self.clock.now - 1000.0), None)
        if act is not None:
            act()
        if self.lost:
            raise ControlLostError(f"{self.where} has gone away")
        return dict(self.present)

    def probe(self, worker: Worker, question: Question, on_done: OnDone) -> None:
        answer = self.answers.get(worker.name)
        if isinstance(answer, Exception):
            on_done(partial(failing, answer))
            return
        node = worker.host if question.per == "host" else worker.name
        on_done(lambda: answer or Facts(__version__, node, (worker.host, "boot"), f"/c/{node}"))

    def start(self, worker: Worker, order: NodeOrder, plan_bytes: bytes, on_done: OnDone) -> None:
        assert plan_bytes == b"plan"
        self.started.append((order.node, worker.address))
        if worker.name in self.slow:
            self.starting[order.node] = on_done
        else:
            on_done(lambda: f"http://{worker.address}/{order.node}")

    def run(self, worker: Worker, order: NodeOrder, members: Mapping[str, str], on_done: OnDone) -> None:
        self.members[order.node] = members
        self.running[order.node] = worker.address, on_done

    def finish(self, *names: str, error: Exception | None = None) -> None:
        for name in names:
            self.running.pop(name)[1](lambda: NodeResult("/c", origin_bytes=1, error=error))

    def remove(self, address: str) -> None:
        del self.present[address]

    def add(self, worker: Worker) -> None:
        self.present[worker.address] = worker

    def forget(self, order: NodeOrder) -> None:
        self.forgotten.append(order.node)

    def end(self, workers: Sequence[Worker], job_id: str, how: HowToEnd, timeout: float) -> None:
        assert job_id == ORDER.job_id
        self.ended.append(([each.name for each in workers], how))

    def listen(self, listener: Any) -> None:
        self.tell = listener

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    monkeypatch.setattr(module, "_LOOK", 0.0)
    return FakeClock()


def coordinator(cluster: Cluster, per: Per = "worker", timeout: float = 30.0) -> Coordinator:
    question = Question(per, "/c/{node}")
    return Coordinator(
        cluster, question, JobProgress("org/m", None), worker_timeout=timeout, clock=cluster.clock
    )


def run(coordinator: Coordinator) -> dict[str, NodeResult]:
    coordinator.muster()
    return coordinator.run(ORDER, b"plan")


def test_every_node_is_started_and_then_run_with_the_urls_of_all(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.script[5] = lambda: cluster.finish("a", "b")
    found = run(coordinator(cluster))
    assert {name: result.origin_bytes for name, result in found.items()} == {"a": 1, "b": 1}
    assert cluster.members["a"] == cluster.members["b"]
    assert cluster.members["a"] == {"a": "http://tcp://a:1/a", "b": "http://tcp://b:1/b"}
    assert cluster.ended == [(["a", "b"], "close")]


def test_nodes_have_one_order_and_the_same_names_whoever_answers_first(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("10", 1, "h2"), worker("w", 2, "h10"), worker("2", 3, "h2"))
    assert coordinator(cluster).muster() == ["2", "10", "w"]


def test_of_workers_of_one_host_one_is_taken_and_another_takes_over_when_it_is_gone(clock: FakeClock) -> None:
    first, second = worker("1", 1, "h"), worker("2", 2, "h")
    cluster = Cluster(clock, first, second)
    cluster.script[3] = lambda: cluster.remove(first.address)
    cluster.script[6] = lambda: cluster.finish("h")
    assert run(coordinator(cluster, "host"))["h"].error is None
    assert cluster.started == [("h", first.address), ("h", second.address)]
    assert cluster.forgotten == ["h"]


def test_a_worker_that_comes_back_at_another_address_serves_its_node_again(clock: FakeClock) -> None:
    before, after = worker("a", 1), worker("a", 2)
    cluster = Cluster(clock, before, worker("b"))
    cluster.script[4] = lambda: cluster.remove(before.address)
    cluster.script[8] = lambda: cluster.add(after)
    cluster.script[12] = lambda: cluster.finish("a", "b")
    found = run(coordinator(cluster))
    assert {name: result.error for name, result in found.items()} == {"a": None, "b": None}
    assert cluster.started[-1] == ("a", after.address)
    assert cluster.members["a"] == {"a": "http://tcp://a:2/a", "b": "http://tcp://b:1/b"}


def test_what_a_lost_worker_still_says_counts_no_more(clock: FakeClock) -> None:
    before, after = worker("a", 1), worker("a", 2)
    cluster = Cluster(clock, before)

    def vanish() -> None:
        cluster.remove(before.address)
        cluster.add(after)
        late = cluster.running["a"][1]
        cluster.script[8] = lambda: late(lambda: NodeResult(error=OSError("of before")))

    cluster.script[4] = vanish
    cluster.script[12] = lambda: cluster.finish("a")
    assert run(coordinator(cluster))["a"].error is None


def test_a_node_whose_worker_stays_away_fails_and_the_others_finish(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.script[4] = lambda: cluster.remove("tcp://a:1")
    cluster.script[6] = lambda: cluster.finish("b")
    found = run(coordinator(cluster, timeout=20.0))
    assert found["b"].error is None
    assert str(found["a"].error) == (
        "its worker a (tcp://a:1) has gone, and no other came within 20 s. "
        "Run it again: it goes on from what is there"
    )
    assert 1024.0 <= clock.now <= 1028.0


def test_what_is_waited_for_is_told(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.slow = {"b"}
    told: list[str] = []
    progress = JobProgress("org/m", None)
    of_all = Coordinator(cluster, Question("worker"), progress, worker_timeout=9.0, clock=clock)

    def look() -> None:
        told.extend(each["message"] for each in progress.waits.current())

    cluster.script[8] = look
    cluster.script[9] = lambda: cluster.remove("tcp://b:1")
    cluster.script[12] = look
    cluster.script[13] = lambda: setattr(cluster, "lost", True)
    cluster.script[15] = look
    cluster.script[16] = lambda: (setattr(cluster, "lost", False), cluster.finish("a"))
    run(of_all)
    assert told[0] == "waiting for worker b to begin: busy with other tasks, or loading hf-haul"
    assert told[1] == "node b: its worker b (tcp://b:1) has gone: waiting for a worker that takes its place"
    assert told[-1].endswith("has gone away: waiting for it to come back")


def test_a_node_that_says_nothing_is_told_of_until_it_does(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    progress = JobProgress("org/m", None)
    of_all = Coordinator(cluster, Question("worker"), progress, worker_timeout=9.0, clock=clock)
    told: list[list[str]] = []

    def look() -> None:
        told.append([each["message"] for each in progress.waits.current()])

    cluster.script[12] = lambda: cluster.tell("a", event_samples.progress(1, fetched=1))
    cluster.script[20] = look
    cluster.script[22] = lambda: cluster.tell("b", event_samples.ended())
    cluster.script[24] = lambda: cluster.tell("a", event_samples.progress(2, fetched=1))
    cluster.script[38] = look
    cluster.script[40] = lambda: cluster.finish("a", "b")
    run(of_all)
    assert told == [["node b (b at tcp://b:1) says nothing"], []]


def test_a_new_worker_becomes_a_node_while_the_job_runs(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"))
    cluster.script[5] = lambda: cluster.add(worker("b"))
    cluster.script[9] = lambda: cluster.finish("a")
    cluster.script[12] = lambda: cluster.finish("b")
    assert list(run(coordinator(cluster))) == ["a", "b"]
    assert set(cluster.members["b"]) == {"a", "b"}


def test_a_busy_worker_holds_up_the_others_for_a_moment_only(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.slow = {"b"}
    cluster.script[20] = lambda: cluster.finish("a")
    cluster.script[30] = lambda: cluster.starting["b"](lambda: "http://late")
    cluster.script[35] = lambda: cluster.finish("b")
    found = run(coordinator(cluster))
    assert [result.error for result in found.values()] == [None, None]
    assert set(cluster.members["a"]) == {"a"}
    assert cluster.members["b"] == {"a": "http://tcp://a:1/a", "b": "http://late"}  # it serves after its end


def test_a_node_that_fails_is_named_and_the_others_finish(clock: FakeClock) -> None:
    full = OSError(28, "No space left on device")
    cluster = Cluster(clock, worker("a"), worker("b"), worker("c"))
    cluster.answers["c"] = ModuleNotFoundError("No module named 'hf_haul'", name="hf_haul")
    cluster.script[5] = lambda: cluster.finish("a", error=full)
    cluster.script[6] = lambda: cluster.finish("b")
    of_all = coordinator(cluster)
    found = run(of_all)
    assert {name: result.error for name, result in found.items()} == {"a": full, "b": None}
    assert list(of_all.refused) == ["c-c"]


def test_what_goes_wrong_at_the_start_is_the_error_of_that_node(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.slow = {"b"}
    cluster.script[3] = lambda: cluster.starting["b"](partial(failing, OSError("no port")))
    cluster.script[9] = lambda: cluster.finish("a")
    found = run(coordinator(cluster))
    assert str(found["b"].error) == "no port"
    assert found["a"].error is None


def test_a_node_that_ends_its_worker_again_and_again_is_given_up(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"))

    def lose() -> None:
        cluster.running.pop("a")[1](partial(failing, WorkerLostError("its worker died")))
        cluster.script[round(clock.now - 1000.0) + 3] = lose

    cluster.script[4] = lose
    found = run(coordinator(cluster))
    assert str(found["a"].error).startswith("its worker died, 4 times. See that worker's log")
    assert len(cluster.started) == 4


@pytest.mark.parametrize(("back", "worker_back"), [(10, 10), (30, 55)], ids=["together", "each in its time"])
def test_a_scheduler_that_comes_back_gets_all_that_was_not_done(
    clock: FakeClock, back: int, worker_back: int
) -> None:
    before, after = worker("a", 1), worker("a", 2)
    cluster = Cluster(clock, before)

    def restart() -> None:
        cluster.running.pop("a")[1](partial(failing, WorkerLostError("forgotten")))
        cluster.lost = True

    def come_back() -> None:
        cluster.lost = False
        cluster.present = {}

    cluster.script[4] = restart
    cluster.script[back] = come_back
    cluster.script[worker_back + 1] = lambda: cluster.add(after)
    cluster.script[worker_back + 5] = lambda: cluster.finish("a")
    assert run(coordinator(cluster))["a"].error is None
    assert cluster.started == [("a", before.address), ("a", after.address)]


def test_a_scheduler_that_stays_away_fails_each_node_that_has_no_result(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.script[4] = lambda: cluster.finish("b")
    cluster.script[5] = lambda: setattr(cluster, "lost", True)
    found = run(coordinator(cluster, timeout=10.0))
    assert found["b"].error is None
    assert str(found["a"].error).startswith(
        "nothing is known of it, because the scheduler at tcp://s:8786 has gone away"
    )
    assert cluster.ended == []  # there is nobody to tell


def test_an_interrupt_cancels_all_nodes(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    cluster.script[5] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(coordinator(cluster))
    assert cluster.ended == [(["a", "b"], "cancel")]


def test_two_nodes_with_one_folder_are_refused_before_anything_begins(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a", 1, "h"), worker("b", 2, "h"))
    cluster.answers = dict.fromkeys("ab", Facts(__version__, "h", ("h", "boot"), "/c"))
    with pytest.raises(ValueError, match="have the same folder, /c"):
        coordinator(cluster).muster()
    assert cluster.started == []


def test_one_that_joins_and_would_share_a_folder_is_left_out(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(clock, worker("a", 1, "h"))
    cluster.answers = dict.fromkeys("ab", Facts(__version__, "h", ("h", "boot"), "/c"))
    cluster.script[5] = lambda: cluster.add(worker("b", 2, "h"))
    cluster.script[9] = lambda: cluster.finish("h")
    assert list(run(coordinator(cluster))) == ["h"]
    assert "a worker that has joined is left out" in caplog.text


def test_a_worker_that_did_not_answer_is_asked_again(clock: FakeClock) -> None:
    cluster = Cluster(clock, worker("a"), worker("b"))
    cluster.answers["b"] = WorkerLostError("it does not answer")
    cluster.script[5] = cluster.answers.clear
    cluster.script[9] = lambda: cluster.finish("a")
    cluster.script[12] = lambda: cluster.finish("b")
    of_all = coordinator(cluster)
    assert of_all.muster() == ["a"]
    assert list(of_all.run(ORDER, b"plan")) == ["a", "b"]
