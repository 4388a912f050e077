"""One node of one job: its life, and what becomes of it where there is nothing to be fetched."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from hf_haul.cancellation import CancelToken
from hf_haul.cluster import agent as agent_module
from hf_haul.cluster import polling
from hf_haul.cluster.agent import NodeAgent
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.polling import Poller
from hf_haul.cluster.results import NodeError
from hf_haul.cluster.stripes import Stripes
from hf_haul.config import Settings
from hf_haul.errors import DownloadCancelledError, TransferError
from hf_haul.hub.metadata import ListedFile
from hf_haul.waits import Waits

DATA = bytes(range(256)) * 10
SHA = hashlib.sha256(DATA).hexdigest()
PLAN = JobPlan(
    job_id="job-1",
    endpoint="http://127.0.0.1:9",  # nobody listens there
    repo_type="model",
    repo_id="org/m",
    revision="main",
    commit="c" * 40,
    files={"a.bin": ListedFile(130, "b" * 40, SHA, len(DATA))},
    selection=("a.bin",),
    stripe_bytes=1000,
    nodes=("n0",),
)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def made() -> Iterator[list[NodeAgent]]:
    agents: list[NodeAgent] = []
    yield agents
    for each in agents:
        each.close()


def agent(made: list[NodeAgent], cache: Path, plan: Any = PLAN, **options: Any) -> NodeAgent:
    settings = Settings(max_retries=0, first_retry_wait=0.0, durable=False)
    found = NodeAgent(
        plan, "n0", token="t", cache_dir=str(cache), hub_token=False, settings=settings, **options
    )
    made.append(found)
    return found


def ask(node: NodeAgent, name: str) -> None:
    """Ask a node, as one that listens where nobody does."""
    requests.get(
        f"{node._url}/haul/v1/jobs/job-1/state",
        headers={"Authorization": "Bearer t", "Haul-Node": name, "Haul-Node-Url": "http://127.0.0.1:7"},
        timeout=10,
    )


class Source:
    """Finds a plan, or does not."""

    job_id, repo_id = PLAN.job_id, PLAN.repo_id

    def __init__(self, found: JobPlan | Exception | None) -> None:
        self._found = found
        self.asked = threading.Event()

    awaits_another = False

    def find(self, asker: Poller, loop: LoopThread, waits: Waits, cancelled: CancelToken) -> JobPlan:
        self.asked.set()
        while self._found is None:
            cancelled.wait(0.05)
            cancelled.check()
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.mark.parametrize(
    ("token", "host", "said"),
    [
        ("", "0.0.0.0", "need a token"),
        ("", "::", "need a token"),
        ("two words", "127.0.0.1", "cannot be sent"),
        ("line\nbreak", "127.0.0.1", "cannot be sent"),
        ("häßlich", "127.0.0.1", "cannot be sent"),
    ],
)
def test_a_token_that_is_none_is_refused_before_anything_listens(token: str, host: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        NodeAgent(PLAN, "n0", listen=(host, 0), token=token)
    assert not token or token not in str(refused.value)


def test_it_listens_from_start_to_close_where_it_was_asked_to(made: list[NodeAgent], tmp_path: Path) -> None:
    node = agent(made, tmp_path)
    host, _, port = node.start().removeprefix("http://").partition(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), 5).close()
    began = time.monotonic()
    node.close()
    assert time.monotonic() - began < 1.0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 5)
    node.close()


def test_without_a_token_nothing_is_answered_under_a_name_that_is_not_this_machines(
    made: list[NodeAgent], tmp_path: Path
) -> None:
    node = NodeAgent(PLAN, "n0", token="", cache_dir=str(tmp_path), hub_token=False)
    made.append(node)
    url = node.start()
    for host, status in (("evil.example", 421), ("localhost", 200), (url.removeprefix("http://"), 200)):
        headers = {"Authorization": "Bearer ", "Host": host}
        assert requests.get(f"{url}/haul/v1/health", headers=headers, timeout=10).status_code == status


def test_one_that_was_never_started_is_closed_at_once(made: list[NodeAgent], tmp_path: Path) -> None:
    began = time.monotonic()
    agent(made, tmp_path).close()
    assert time.monotonic() - began < 0.5


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing(made: list[NodeAgent], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = agent(made, tmp_path, listen=taken.getsockname()[:2])
        with pytest.raises(OSError, match=r"cannot listen at address 127\.0\.0\.1"):
            node.start()
    assert not any(thread.name.startswith("hf-haul-node") for thread in threading.enumerate())


def test_what_fails_before_anything_has_begun_is_told_to_the_others_too(
    made: list[NodeAgent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    node = agent(made, tmp_path)
    url = node.start()
    assert node.run({"n0": url}).error is not None
    answer = requests.get(
        f"{url}/haul/v1/jobs/job-1/state", headers={"Authorization": "Bearer t"}, timeout=10
    ).json()
    assert answer["done"]
    assert "offline" in answer["error"].lower()


def test_what_fails_is_part_of_the_result_and_is_told_to_the_others(
    made: list[NodeAgent], tmp_path: Path
) -> None:
    events: list[Any] = []
    node = agent(made, tmp_path, on_event=events.append)
    result = node.run({"n0": node.start()})
    assert isinstance(result.error, TransferError)
    assert (result.path, result.origin_bytes, result.peer_bytes, result.present_bytes) == (None, 0, 0, 0)
    assert node._job.state()["done"]
    assert "Connection refused" in node._job.state()["error"]
    assert [event["ev"] for event in events if event["ev"] in {"plan", "done", "error"}] == ["plan", "error"]


def test_a_node_watches_those_whose_stripes_it_has_to_fetch_once_they_are_gone(
    made: list[NodeAgent], tmp_path: Path
) -> None:
    plan = replace(PLAN, nodes=("n0", "n1"))
    node = agent(made, tmp_path, plan)
    node.run({"n0": node.start()})
    assert node._poller is not None
    assert node._poller._watched == Stripes.of(plan).watched_by("n0") == {"n1"}


def test_without_files_there_is_nothing_to_do(made: list[NodeAgent], tmp_path: Path) -> None:
    node = agent(made, tmp_path, replace(PLAN, selection=()))
    result = node.run({"n0": node.start()})
    assert result.error is None
    assert result.path is not None


@pytest.mark.parametrize("plan", [PLAN, None])
def test_a_plan_is_found_once_the_node_can_be_asked(
    made: list[NodeAgent], tmp_path: Path, plan: JobPlan | None
) -> None:
    source = Source(replace(PLAN, selection=()) if plan else NodeError("nobody has one"))
    node = agent(made, tmp_path, source)
    result = node.run({"n0": node.start()})
    assert source.asked.is_set()
    assert (result.error is None) == (plan is not None)
    assert (node._job.plan() is not None) == (plan is not None)


def test_it_is_cancelled_wherever_it_is(made: list[NodeAgent], tmp_path: Path) -> None:
    source = Source(None)
    source.awaits_another = True
    node = agent(made, tmp_path, source)
    results: list[Any] = []
    url = node.start()
    running = threading.Thread(target=lambda: results.append(node.run({"n0": url})))
    running.start()
    assert source.asked.wait(10)
    health = requests.get(f"{url}/haul/v1/health", headers={"Authorization": "Bearer t"}, timeout=10)
    assert health.json()["awaits_plan"], "others have to know that it makes none"
    node.cancel()
    running.join(2)
    assert isinstance(results[0].error, DownloadCancelledError)


@pytest.mark.parametrize(
    ("is_listed", "found"), [(True, "http://127.0.0.1:9"), (False, "http://127.0.0.1:7")]
)
def test_nobody_says_of_a_node_that_is_listed_that_it_is_elsewhere(
    made: list[NodeAgent], tmp_path: Path, *, is_listed: bool, found: str
) -> None:
    plan = replace(PLAN, selection=())
    node = agent(made, tmp_path, Source(plan) if is_listed else plan)
    node.run({"n0": node.start(), "n1": "http://127.0.0.1:9"}, linger=0.0)
    ask(node, "n1")
    assert node._poller is not None
    assert node._poller.url_of("n1") == found


def test_whoever_asks_early_under_ever_new_names_takes_the_place_of_no_node(
    made: list[NodeAgent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (agent_module, polling):
        monkeypatch.setattr(module, "MOST_NODES", 3)
    node = agent(made, tmp_path, replace(PLAN, selection=()))
    url = node.start()
    for number in range(9):
        ask(node, f"x{number}")
    assert list(node._early) == ["x0", "x1", "x2"]
    node.run({"n0": url, "n1": "http://127.0.0.1:9", "n2": "http://127.0.0.1:9"}, linger=0.0)
    assert node._poller is not None
    assert [name for name in ("n1", "n2", "x0", "x1") if node._poller.url_of(name)] == ["n1", "n2", "x0"]


def test_it_waits_for_who_was_counted_on_and_no_longer_than_it_is_told(
    made: list[NodeAgent], tmp_path: Path
) -> None:
    told: list[list[str]] = []
    node = agent(made, tmp_path, replace(PLAN, selection=(), nodes=("n0", "n1")))
    members = {"n0": node.start(), "n1": "http://127.0.0.1:9"}
    began = time.monotonic()
    node.run(members, linger=0.5, absent_too=True, on_linger=told.append)
    assert told == [["n1"]]
    assert 0.5 <= time.monotonic() - began < 5.0


def test_it_is_needed_while_another_node_is_at_its_files(made: list[NodeAgent], tmp_path: Path) -> None:
    one = agent(made, tmp_path, replace(PLAN, selection=()))
    one.start()
    assert one.run({}).error is None
    assert not one.is_needed
    one._job.note_state("n1", {"name": "n1", "version": 0, "plan": None})  # it is preparing
    assert one.is_needed
    one._job.note_gone("n1", "nobody listens there")
    assert not one.is_needed


def test_who_is_gone_is_not_waited_for(made: list[NodeAgent], tmp_path: Path) -> None:
    node = agent(made, tmp_path, replace(PLAN, selection=(), nodes=("n0", "n1")))
    began = time.monotonic()
    node.run({"n0": node.start(), "n1": "http://127.0.0.1:9"}, linger=60.0)
    assert time.monotonic() - began < 10.0
