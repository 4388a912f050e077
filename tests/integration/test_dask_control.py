"""Nodes on Dask's workers, all in this process, with agents that fetch nothing."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.dask_workers import NO_PROFILER
from tests.support.stand_in_agents import Agents, StandInAgent
from tests.support.wants import want_modules

from hf_haul.cluster import census
from hf_haul.cluster.census import Question
from hf_haul.cluster.control import ControlLostError
from hf_haul.cluster.coordinator import Coordinator
from hf_haul.cluster.node_work import NodeOrder, end_nodes
from hf_haul.cluster.progress import JobProgress
from hf_haul.cluster.results import NodeResult
from hf_haul.task import new_id

want_modules("distributed", extra="dask")

import dask  # noqa: E402  after the look whether it is there
from distributed import Client, Event, LocalCluster, Scheduler, Worker  # noqa: E402  the same

from hf_haul.cluster.dask import DaskControl, joined  # noqa: E402  the same

pytestmark = pytest.mark.filterwarnings(
    "default", "error:::hf_haul"
)  # what Dask says of itself is its business


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        dask.config.set(NO_PROFILER),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Agents:
    return Agents(monkeypatch)


class Job:
    """A job of which a thread takes care."""

    def __init__(self, client: Client, timeout: float = 20.0) -> None:
        self.job_id = new_id("job")
        self.events: list[dict[str, Any]] = []
        self.control = DaskControl(client, self.job_id, "org/model")
        progress = JobProgress("org/model", self.events.append)
        question = Question("worker", "/nowhere/{node}")
        self.coordinator = Coordinator(self.control, question, progress, worker_timeout=timeout)
        self._threads = ThreadPoolExecutor(1)
        self._results = self._threads.submit(self._run)

    def _run(self) -> dict[str, NodeResult]:
        try:
            self.coordinator.muster()
            return self.coordinator.run(NodeOrder(self.job_id, "", token="secret"), b"plan")
        finally:
            self.control.close()

    def results(self) -> dict[str, NodeResult]:
        found = self._results.result(30)
        self._threads.shutdown()
        return found


def finish(agents: list[StandInAgent]) -> None:
    for agent in agents:
        agent.finish()


def test_each_worker_is_a_node_with_the_urls_of_all(client: Client, agents: Agents) -> None:
    job = Job(client)
    made = agents.wait(2)
    agent = made[0]
    tasks = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    agent.on_event({"ev": "progress", "done": 0, "fetched": 0, "waits": [], "t": time.time()})
    finish(made)
    results = job.results()
    assert len(results) == 2
    assert all(result.error is None for result in results.values())
    assert made[0].members == made[1].members == {
        agent.order.node: f"http://127.0.0.1:1/{agent.order.node}" for agent in made
    }  # fmt: skip
    assert [event["node"] for event in job.events] == [agent.order.node]
    assert f"hf-haul-org/model-{agent.order.node}-run-{job.job_id}-0" in tasks
    assert all(agent.closed.is_set() and not agent.cancelled for agent in made)


def test_nodes_leave_the_threads_of_their_workers_to_others(client: Client, agents: Agents) -> None:
    job = Job(client)
    made = agents.wait(2)
    assert client.gather(client.map(lambda x: x + 1, range(4), pure=False)) == [1, 2, 3, 4]
    finish(made)
    job.results()


def test_nothing_of_a_job_stays_with_the_scheduler(client: Client, agents: Agents) -> None:
    job = Job(client)
    finish(agents.wait(2))
    job.results()
    deadline = time.monotonic() + 10
    while tasks := client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)):
        assert time.monotonic() < deadline, tasks
        threading.Event().wait(0.01)


def test_two_jobs_of_one_client_hear_of_their_own_nodes_only(client: Client, agents: Agents) -> None:
    one, two = Job(client), Job(client)
    made = agents.wait(4)
    for agent in made:
        agent.on_event(
            {"ev": "progress", "done": 0, "fetched": 0, "waits": [], "t": 0.0, "job": agent.order.job_id}
        )
    finish(made)
    for job in (one, two):
        job.results()
        assert [event["job"] for event in job.events] == [job.job_id] * 2


def test_a_busy_worker_is_told_of_and_joins_when_it_is_free(
    client: Client, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.cluster.coordinator._MUSTER", 0.5)
    monkeypatch.setattr("hf_haul.cluster.coordinator._SLOW", 0.2)
    free = Event(new_id("free"))
    name, address = next((w["name"], a) for a, w in client.scheduler_info()["workers"].items())
    busy = client.submit(lambda: free.wait(20), workers=[address], pure=False)
    job = Job(client)
    (first,) = agents.wait(1)
    deadline = time.monotonic() + 10
    waits = job.coordinator._progress.waits
    while not waits.has("slow"):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert (
        waits.current()[0]["message"]
        == f"waiting for worker {name} to begin: busy with other tasks, or loading hf-haul"
    )
    free.set()
    made = agents.wait(2)
    assert first.members is not None
    assert len(first.members) == 1
    assert made[1].members is not None
    assert len(made[1].members) == 2
    finish(made)
    assert all(result.error is None for result in job.results().values())
    assert busy.result(10)


def test_a_worker_that_is_retired_takes_its_node_with_it_and_the_others_finish(
    cluster: LocalCluster, client: Client, agents: Agents
) -> None:
    async def start() -> Worker:
        return await Worker(cluster.scheduler_address, name="more", nthreads=1)

    worker = cluster.sync(start)
    job = Job(client, timeout=0.5)
    made = agents.wait(3)
    client.retire_workers([worker.address], close_workers=True)
    gone = next(agent for agent in made if agent.order.node.endswith("-more"))
    assert gone.closed.wait(20)
    assert gone.cancelled
    finish([agent for agent in made if agent is not gone])
    results = job.results()
    assert [name for name, result in results.items() if result.error is not None] == [gone.order.node]
    assert "its worker more (tcp:" in str(results[gone.order.node].error)


def test_a_node_that_cannot_listen_says_so_and_is_not_taken_for_a_worker_that_vanished(
    client: Client, agents: Agents
) -> None:
    def fail(agent: StandInAgent) -> None:
        if agent.order.node.endswith("-1"):
            raise OSError(errno.EADDRNOTAVAIL, "cannot listen at address 127.0.0.1")

    agents.on_make = fail
    job = Job(client)
    finish(agents.wait(1))
    failed = {name: result.error for name, result in job.results().items() if result.error is not None}
    assert [name.rpartition("-")[2] for name in failed] == ["1"]
    (said,) = map(str, failed.values())
    assert "cannot listen at address" in said
    assert "memory" not in said


def test_a_client_that_is_closed_meanwhile_is_a_scheduler_that_is_gone(
    cluster: LocalCluster, agents: Agents
) -> None:
    with Client(cluster) as client:
        job = Job(client, timeout=0.5)
        finish_later = agents.wait(2)
        client.close()
        errors = [result.error for result in job.results().values()]
        control = job.control
    assert len(errors) == 2
    assert all("has gone away. Run it again" in str(error) for error in errors)
    with pytest.raises(ControlLostError):
        control.workers()
    control.end([census.Worker("tcp://127.0.0.1:1", "1", "127.0.0.1")], job.job_id, "cancel", 1.0)
    finish(finish_later)
    end_nodes(job_id=job.job_id, cancel=True)


def test_a_scheduler_that_restarts_has_its_nodes_run_on_the_workers_that_come_back(
    cluster: LocalCluster, agents: Agents
) -> None:
    async def start(port: int) -> tuple[Scheduler, Worker]:
        scheduler = await Scheduler(host="127.0.0.1", port=port, dashboard_address="127.0.0.1:0")
        return scheduler, await Worker(scheduler.address, name="one", nthreads=1)

    async def end(scheduler: Scheduler, worker: Worker) -> None:
        await worker.close()
        await scheduler.close()

    scheduler, _ = cluster.sync(start, 0)
    with Client(scheduler.address, set_as_default=False) as client:
        job = Job(client)
        (first,) = agents.wait(1)
        cluster.sync(scheduler.close)
        assert first.closed.wait(20), "Dask's workers end with their scheduler"
        assert first.cancelled
        both = cluster.sync(start, scheduler.port)
        made = agents.wait(2)
        finish(made)
        (result,) = job.results().values()
    cluster.sync(end, *both)
    assert result.error is None
    assert [agent.order.attempt for agent in made] == [0, 1]


@pytest.mark.parametrize(
    "address", ["garbage", "http://127.0.0.1:9", "tcp://127.0.0.1", "tls://127.0.0.1:1", ""]
)
def test_an_address_that_is_none_is_said_at_once_and_leaves_no_client(address: str) -> None:
    before = set(Client._instances)
    began = time.monotonic()
    with pytest.raises(ControlLostError, match="no Dask scheduler can be reached at"), joined(address):
        pass
    assert time.monotonic() - began < 5
    assert set(Client._instances) <= before


def test_the_scheduler_at_an_address_is_joined_for_the_block(cluster: LocalCluster) -> None:
    with joined(cluster.scheduler_address) as client:
        assert len(client.scheduler_info()["workers"]) == 2
    assert client.status == "closed"


def test_a_client_that_is_closed_or_asynchronous_is_refused(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        pass
    with pytest.raises(ValueError, match="the client is closed"):
        DaskControl(client, "job-1", "org/m")


def test_a_task_may_distribute_though_its_worker_has_one_thread(client: Client, agents: Agents) -> None:
    def distribute_here() -> list[str]:
        from distributed import get_client

        job_id = new_id("job")
        control = DaskControl(get_client(), job_id, "org/model")
        progress, question = JobProgress("org/model", None), Question("worker", "/nowhere/{node}")
        coordinator = Coordinator(control, question, progress, worker_timeout=20.0)
        try:
            coordinator.muster()
            return list(coordinator.run(NodeOrder(job_id, "", token="secret"), b"plan"))
        finally:
            control.close()

    future = client.submit(distribute_here, pure=False)
    finish(agents.wait(2))
    assert len(future.result(30)) == 2
