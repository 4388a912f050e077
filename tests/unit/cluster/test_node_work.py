"""Nodes in a worker's process: started once, run once, ended by whoever has them, or by themselves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.stand_in_agents import Agents

from hf_haul.cluster import node_work
from hf_haul.cluster.node_work import NodeOrder, begin_node, end_nodes, run_node
from hf_haul.cluster.results import NodeError, WorkerLostError
from hf_haul.errors import DiskFullError, DownloadCancelledError
from hf_haul.task import new_id

MEMBERS = {"a": "http://h:1/a", "b": "http://h:1/b"}


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Agents:
    return Agents(monkeypatch)


def order(node: str = "a", job_id: str | None = None) -> NodeOrder:
    return NodeOrder(job_id or new_id("job"), node, token="secret", hub_token="hf_secret")


def begin(wanted: NodeOrder, tell: Any = None, owner: str | None = None) -> str:
    return begin_node(wanted, b"plan", "h", tell or (lambda event: None), owner)


def test_what_is_started_or_run_again_is_found_running(agents: Agents) -> None:
    one = order()
    assert begin(one) == begin(one) == "http://h:1/a"
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(run_node, one.job_id, "a", MEMBERS) for _ in range(2)]
        agents.wait(1)[0].finish()
        results = [run.result(20) for run in runs]
    assert results[0] is results[1]
    assert (len(agents.made), agents.made[0].runs, agents.made[0].members) == (1, 1, MEMBERS)
    assert run_node(one.job_id, "a", MEMBERS) is results[0]  # also after its end, while it serves others
    end_nodes(job_id=one.job_id, cancel=False)
    assert agents.made[0].closed.is_set()
    assert not agents.made[0].cancelled


def test_an_error_of_the_agent_is_its_result_and_can_leave_the_process(agents: Agents) -> None:
    one = order()
    begin(one)
    error = DiskFullError("/data is full. Free some space")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    agents.made[0].finish(error)
    result = run_node(one.job_id, "a", MEMBERS)
    assert isinstance(result.error, NodeError)
    assert str(result.error) == "/data is full. Free some space"
    end_nodes(job_id=one.job_id, cancel=False)


def test_a_node_that_does_not_run_here_is_asked_for_again_by_its_coordinator(agents: Agents) -> None:
    with pytest.raises(WorkerLostError, match="started again"):
        run_node("job-of-before", "a", MEMBERS)


def test_cancelling_a_job_ends_its_nodes_and_no_others(agents: Agents) -> None:
    one, two = order(), order()
    begin(one)
    begin(two)
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(run_node, one.job_id, "a", MEMBERS)
        assert agents.made[0].begun.wait(20)
        end_nodes(job_id=one.job_id, cancel=True)
        assert isinstance(run.result(20).error, DownloadCancelledError)
    assert [agent.closed.is_set() for agent in agents.made] == [True, False]
    end_nodes(job_id=two.job_id, cancel=False)


def test_a_worker_that_ends_takes_its_own_nodes_with_it(agents: Agents) -> None:
    job_id = new_id("job")
    begin(order("a", job_id), owner="worker-1")
    begin(order("b", job_id), owner="worker-2")
    end_nodes(owner="worker-1", cancel=True)
    assert [agent.closed.is_set() for agent in agents.made] == [True, False]
    end_nodes(owner="worker-2", cancel=True)


def test_a_task_that_comes_after_the_end_of_its_job_starts_nothing(agents: Agents) -> None:
    one = order()
    end_nodes(job_id=one.job_id, cancel=True)
    with pytest.raises(DownloadCancelledError, match="ended before it began"):
        begin(one)
    assert agents.made[0].closed.is_set()


def test_an_agent_that_cannot_start_is_closed(agents: Agents) -> None:
    def refuse() -> str:
        raise OSError("no port")

    agents.on_make = lambda agent: setattr(agent, "start", refuse)
    with pytest.raises(OSError, match="no port"):
        begin(order())
    assert agents.made[0].closed.is_set()


def test_an_agent_whose_coordinator_is_gone_ends_by_itself(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_work, "_ABANDONED_SECONDS", 0.05)
    one = order()
    begin(one)
    agents.made[0].finish()
    run_node(one.job_id, "a", MEMBERS)
    assert agents.made[0].closed.wait(20)


def test_an_agent_whose_bytes_another_node_needs_goes_on_for_as_long(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it that the other one is slow, or that its worker was started again."""
    looks: list[bool] = []

    def needed() -> bool:
        looks.append(not agents.made[0].closed.is_set())
        return len(looks) < 6

    monkeypatch.setattr(node_work, "_ABANDONED_SECONDS", 0.01)
    agents.on_make = lambda agent: setattr(agent, "needed", needed)
    one = order()
    begin(one)
    agents.made[0].finish()
    run_node(one.job_id, "a", MEMBERS)
    assert agents.made[0].closed.wait(20)
    assert looks == [True] * 7, "it was looked at once more after nobody needed it"


def test_an_agent_that_nobody_runs_ends_by_itself(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_work, "_ABANDONED_SECONDS", 0.02)
    monkeypatch.setattr(node_work, "_UNUSED_SECONDS", 0.06)
    begin(order())
    assert agents.made[0].closed.wait(20)


def test_events_about_single_files_stay_on_the_node(agents: Agents) -> None:
    told: list[dict[str, Any]] = []
    one = order()
    begin(one, told.append)
    for kind in ("plan", "file", "verified", "progress", "wait", "done", "error"):
        agents.made[0].on_event({"ev": kind, "active": list(range(16))})
    assert [event["ev"] for event in told] == ["plan", "progress", "wait", "done", "error"]
    assert len(told[1]["active"]) == 4
    end_nodes(job_id=one.job_id, cancel=False)


def test_no_token_is_shown_where_an_order_is() -> None:
    """Dask's workers log the arguments of a task that fails."""
    assert "secret" not in repr(order())
