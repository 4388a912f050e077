"""What ``distribute`` asks for, refuses and returns; with a cluster and a Hub that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.support.events import EventLog

import hf_haul.cluster
from hf_haul import __version__
from hf_haul.cluster import DistributionError, NodeResult, distribute, distributing
from hf_haul.cluster.census import Facts, Question, Worker
from hf_haul.cluster.control import ControlLostError, HowToEnd, OnDone
from hf_haul.cluster.node_work import NodeOrder
from hf_haul.cluster.plan import JobPlan
from hf_haul.errors import ConnectionFailedError, DiskFullError
from hf_haul.hub.metadata import ListedFile

CLIENT: Any = object()


class Cluster:
    """Two hosts whose nodes do as ``results`` says."""

    where = "the scheduler at tcp://s:8786"

    def __init__(self) -> None:
        self.hosts = ["a", "b"]
        self.missing: dict[str, Exception] = {}
        self.results: dict[str, NodeResult] = {}
        self.orders: list[NodeOrder] = []
        self.closed = False
        self.question: Question | None = None

    def workers(self) -> Mapping[str, Worker]:
        return {host: Worker(host, host, host) for host in self.hosts}

    def probe(self, worker: Worker, question: Question, on_done: OnDone) -> None:
        self.question = question
        error = self.missing.get(worker.name)

        def answer() -> Facts:
            if error is not None:
                raise error
            return Facts(__version__, worker.name, (worker.host, "boot"), "/c")

        on_done(answer)

    def start(self, worker: Worker, order: NodeOrder, plan_bytes: bytes, on_done: OnDone) -> None:
        self.orders.append(order)
        on_done(lambda: f"http://{worker.host}:1")

    def run(self, worker: Worker, order: NodeOrder, members: Mapping[str, str], on_done: OnDone) -> None:
        on_done(lambda: self.results.get(order.node, NodeResult(f"/c/{order.node}", 5, 6, 7)))

    def forget(self, order: NodeOrder) -> None:
        pass

    def end(self, workers: Sequence[Worker], job_id: str, how: HowToEnd, timeout: float) -> None:
        pass

    def listen(self, listener: Any) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(distributing, "_control", lambda *_: cluster)

    def make_plan(repo_id: str, *, nodes: Sequence[str], job_id: str, **_: Any) -> JobPlan:
        return JobPlan(
            job_id=job_id,
            endpoint="http://h",
            repo_type="model",
            repo_id=repo_id,
            revision="main",
            commit="c" * 40,
            files={"a": ListedFile(18, "a" * 40)},
            selection=("a",),
            stripe_bytes=10,
            nodes=tuple(nodes),
        )

    monkeypatch.setattr(distributing, "make_plan", make_plan)
    return cluster


def test_every_node_gets_its_order_and_its_result_is_returned(cluster: Cluster) -> None:
    log = EventLog()
    found = distribute(
        CLIENT, "org/m", cache_dir="/c/{node}", max_bandwidth="10MB/s", token="hf_x", on_event=log
    )
    assert (found.commit, found.origin_bytes, list(found.nodes)) == ("c" * 40, 10, ["a", "b"])
    one, two = cluster.orders
    assert (one.node, two.node, one.token) == ("a", "b", two.token)
    assert len(one.token) >= 32
    assert (one.hub_token, one.cache_dir, one.max_bandwidth) == ("hf_x", "/c/{node}", 5_000_000)
    assert cluster.question == Question("host", "/c/{node}")
    assert cluster.closed
    assert log.kinds[0] == "plan"
    assert log.kinds[-1] == "done"
    found.raise_for_errors()


def test_tokens_of_two_jobs_differ(cluster: Cluster) -> None:
    distribute(CLIENT, "org/m")
    distribute(CLIENT, "org/m")
    assert len({order.token for order in cluster.orders}) == 2


@pytest.mark.parametrize(
    ("token", "sent"), [(None, None), (False, False), (True, "hf_mine"), ("hf_x", "hf_x")]
)
def test_the_hubs_token_is_sent_only_where_that_is_asked_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, token: Any, sent: Any
) -> None:
    monkeypatch.setattr(distributing, "get_token", lambda: "hf_mine")
    distribute(CLIENT, "org/m", token=token)
    assert [order.hub_token for order in cluster.orders] == [sent] * 2


def test_nodes_that_fail_and_workers_that_are_none_are_named(cluster: Cluster) -> None:
    cluster.hosts.append("c")
    cluster.missing["c"] = ModuleNotFoundError("No module named 'hf_haul'", name="hf_haul")
    cluster.results["b"] = NodeResult(error=DiskFullError("/data is full"))
    log = EventLog()
    found = distribute(CLIENT, "org/m", on_event=log)
    assert found.nodes["a"].error is None
    with pytest.raises(DistributionError) as caught:
        found.raise_for_errors()
    assert str(caught.value).splitlines() == [
        "2 of 3 nodes failed", "b: /data is full", "c: hf-haul is not installed there",
    ]  # fmt: skip
    assert log.events[-1]["message"] == "2 of 3 nodes failed"


def test_a_cluster_without_workers_is_refused(cluster: Cluster) -> None:
    cluster.hosts = []
    with pytest.raises(DistributionError, match="the scheduler at tcp://s:8786 has no workers"):
        distribute(CLIENT, "org/m")
    assert cluster.closed


def test_a_cluster_where_no_worker_can_be_a_node_says_why_of_each(cluster: Cluster) -> None:
    cluster.missing = dict.fromkeys("ab", ImportError("half of it"))
    with pytest.raises(DistributionError) as caught:
        distribute(CLIENT, "org/m")
    assert list(caught.value.errors) == ["a", "b"]
    assert cluster.orders == []


def test_a_scheduler_that_does_not_answer_is_raised(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> Any:
        raise ControlLostError("the scheduler does not answer")

    monkeypatch.setattr(cluster, "workers", lost)
    with pytest.raises(ControlLostError):
        distribute(CLIENT, "org/m")


def test_a_hub_that_refuses_is_raised_before_anything_begins(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionFailedError("the Hub is away")

    monkeypatch.setattr(distributing, "make_plan", refuse)
    with pytest.raises(ConnectionFailedError):
        distribute(CLIENT, "org/m")
    assert cluster.orders == []
    assert cluster.closed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cache_dir": "a", "local_dir": "b"}, "cannot be used together"),
        ({"per": "rack"}, "per must be 'host' or 'worker'"),
        ({"max_bandwidth": -1}, "max_bandwidth must be greater than 0"),
        ({"max_send_rate": -5}, "max_send_rate must be greater than 0"),
        ({"worker_timeout": "soon"}, "worker_timeout"),
        ({"worker_timeout": -1}, "worker_timeout must be 0 or more seconds"),
        ({"repo_type": "zoo"}, "repo type"),
        ({"on_event": 5}, "on_event must be a function"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    cluster: Cluster, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        distribute(CLIENT, "org/m", **arguments)
    assert cluster.question is None


@pytest.mark.parametrize("client", [None, "dask", "tcp://s:8786", 5])
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match=r"client must be a dask.distributed.Client or 'ray'"):
        distribute(client, "org/m")


def test_the_package_has_its_public_names_and_no_others() -> None:
    assert {getattr(hf_haul.cluster, name) for name in hf_haul.cluster.__all__}
    with pytest.raises(AttributeError, match="no attribute 'distribution_of'"):
        hf_haul.cluster.distribution_of  # noqa: B018  it is what is tested
    assert "distribute" in dir(hf_haul.cluster)
