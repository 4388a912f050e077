"""Nodes whose token of the Hub expires while they fetch a private repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.hub import sent_of_files
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.cluster.agent import NodeAgent
from hf_haul.cluster.plan import JobPlan, make_plan
from hf_haul.cluster.results import NodeResult, portable
from hf_haul.config import MiB
from hf_haul.failures import FailureKind, describe
from hf_haul.localhub import Account, LocalHub, Repo

FILES = {"a.safetensors": random_bytes(3 * MiB, 1), "b.safetensors": random_bytes(3 * MiB, 2)}
SIZE = sum(map(len, FILES.values()))
OLD, NEW = "hf_old", "hf_new"


def account(token: str) -> Account:
    return Account("ann", token, repos=("org/*",))


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/m", private=True)
    repo.commit(FILES)
    with LocalHub(repo, accounts=[account(OLD)]) as hub:
        yield hub


def expire(hub: LocalHub) -> None:
    """Let the token expire, and the signed links that it opened."""
    hub.accounts.revoke(OLD)
    hub.expire_urls()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[JobPlan, str, str], NodeAgent]]:
    agents: list[NodeAgent] = []

    def start(plan: JobPlan, name: str, token: str) -> NodeAgent:
        cache_dir = str(tmp_path / name)
        agents.append(NodeAgent(plan, name, token="job", hub_token=token, cache_dir=cache_dir))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def run(*agents: NodeAgent) -> list[NodeResult]:
    members = {agent.name: agent.start() for agent in agents}
    with ThreadPoolExecutor(len(agents)) as threads:
        return list(threads.map(lambda agent: agent.run(members, linger=10.0), agents))


def is_whole(result: NodeResult) -> bool:
    return result.path is not None and all(
        Path(result.path, name).read_bytes() == data for name, data in FILES.items()
    )


def plan_of(hub: LocalHub, token: str, *nodes: str) -> JobPlan:
    return make_plan("org/m", nodes=nodes, endpoint=hub.url, token=token, stripe_bytes=MiB // 4)


def test_a_token_that_expires_meanwhile_is_a_line_of_each_node_and_the_next_call_goes_on(
    hub: LocalHub, start: Callable[[JobPlan, str, str], NodeAgent]
) -> None:
    plan = plan_of(hub, OLD, "n0", "n1")
    hub.set_pace(None, total=4 * MiB)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run, *(start(plan, name, OLD) for name in plan.nodes))
        assert until(lambda: hub.body_bytes > SIZE / 4, 30)
        expire(hub)
        results = running.result(60)
    for result in results:
        assert result.error is not None
        failure = describe(portable(result).error or result.error)
        assert failure.kind in {FailureKind.NOT_FOUND, FailureKind.DENIED}
        assert "\n" not in failure.text
        assert OLD not in str(result.error)
    before = sent_of_files(hub)
    assert before < SIZE
    hub.set_pace(None)
    hub.accounts.add(account(NEW))
    plan = plan_of(hub, NEW, "n0", "n1")
    assert all(is_whole(result) for result in run(*(start(plan, name, NEW) for name in plan.nodes)))
    # What was under way on each connection when its link expired comes again.
    assert sent_of_files(hub) <= 1.3 * SIZE


def test_what_a_node_has_reaches_those_whose_token_has_expired(
    hub: LocalHub, start: Callable[[JobPlan, str, str], NodeAgent]
) -> None:
    (first,) = run(start(plan_of(hub, OLD, "n0"), "n0", OLD))
    assert is_whole(first)
    plan = plan_of(hub, OLD, "n0", "n1")
    expire(hub)
    before = sent_of_files(hub)
    results = run(*(start(plan, name, OLD) for name in plan.nodes))
    assert all(is_whole(result) for result in results)
    assert [result.origin_bytes for result in results] == [0, 0]
    assert sent_of_files(hub) == before
