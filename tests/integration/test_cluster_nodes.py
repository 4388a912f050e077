"""Nodes that ask each other, over real connections: what they learn, and what they make of silence."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from tests.support.hearsay import Hearsay
from tests.support.listening import listening
from tests.support.waits import until

from hf_haul.cluster.holdings import HeldRange, Holdings
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.cluster.polling import Health, Poller, PollTimings
from hf_haul.cluster.serving import JobServer
from hf_haul.ranges import ByteRange

TOKEN = "job-s3cret"
DATA = bytes(range(256)) * 4096
TIMINGS = PollTimings(wait=0.5, answer=0.5, spacing=0.01, least=0.02, retry=0.05)


class Node(Hearsay):
    """A node that answers and asks, and notes what it is told."""

    def __init__(self, name: str, folder: Path, token: str = TOKEN, job: str = "job-1") -> None:
        super().__init__()
        self.name, self.job_id, self.token = name, job, token
        folder.mkdir(exist_ok=True)
        (folder / "a.bin").write_bytes(DATA)
        self.holdings = Holdings({"etag": ["a.bin"]}, lambda _etag: len(DATA), folder.joinpath, dict)
        self.version = 1
        self.states: dict[str, Mapping[str, Any]] = {}
        self.loop = LoopThread(f"node-{name}")
        self.loop.start()
        self.server = JobServer(self, token)
        self.port = self.loop.run(lambda: self.server.start("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.port}"
        self.poller = Poller(name, self.url, job, token, self, timings=TIMINGS)

    def change(self) -> None:
        self.version += 1
        self.loop.call(self.server.note_change)

    def meet(self, name: str, url: str) -> None:
        self.loop.call(self.poller.add, name, url)

    def close(self) -> None:
        async def last() -> None:
            await self.poller.close()
            await self.server.close()

        self.loop.close(last)

    def state(self) -> Mapping[str, Any]:
        return {"name": self.name, "version": self.version}

    def plan(self) -> bytes | None:
        return b"[1]"

    def size_of(self, etag: str) -> int:
        return self.holdings.size(etag)

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        return self.holdings.open(etag, span)

    def note_asker(self, name: str, url: str) -> None:
        self.poller.add(name, url)

    def note_state(self, name: str, state: Mapping[str, Any]) -> None:
        self.states[name] = state


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make_node(name: str, **options: Any) -> Node:
        made.append(Node(name, tmp_path / name, **options))
        return made[-1]

    yield make_node
    for each in made:
        each.close()


@contextmanager
def deaf() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_news_come_within_a_moment_and_both_sides_get_to_know_each_other(make: Callable[..., Node]) -> None:
    a, b = make("a"), make("b")
    a.meet("b", b.url)  # b learns of a by being asked
    assert until(lambda: "b" in a.states and "a" in b.states)
    for _turn in range(3):
        b.change()
        assert until(lambda: a.states["b"]["version"] == b.version, 2.0)
    assert a.told == b.told == []


def test_a_node_that_ends_is_gone_and_one_that_begins_again_is_there(make: Callable[..., Node]) -> None:
    a, b = make("a"), make("b")
    a.meet("b", b.url)
    assert until(lambda: "b" in a.states)
    b.close()
    assert until(lambda: any(each[:2] == ("gone", "b") for each in a.told))
    assert ("silent", "b") not in a.told
    a.states.clear()
    again = make("b")  # at another address: it says so itself
    again.meet("a", a.url)
    assert until(lambda: "b" in a.states)


def test_a_node_that_does_not_answer_is_silent(make: Callable[..., Node]) -> None:
    a = make("a")
    with deaf() as url:
        a.meet("b", url)
        assert until(lambda: ("silent", "b") in a.told)
        assert not any(each[0] == "gone" for each in a.told)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"token": "another"}, "refuses this node's token"), ({"job": "job-2"}, "not on job-1")],
)
def test_a_node_of_another_job_is_of_no_use_and_it_is_said_why(
    make: Callable[..., Node], options: dict[str, str], why: str
) -> None:
    a, b = make("a"), make("b", **options)
    a.meet("b", b.url)
    assert until(lambda: any(each[0] == "useless" and why in each[2] for each in a.told))
    assert "a" not in b.states


def test_more_nodes_than_are_asked_at_once_all_have_their_turn(make: Callable[..., Node]) -> None:
    a, b = make("a"), make("b")
    for number in range(100):
        a.meet(f"b{number}", b.url)
    assert until(lambda: len(a.states) >= 100)


def test_the_bytes_of_a_range_come_as_they_are(make: Callable[..., Node], tmp_path: Path) -> None:
    a = make("a")
    url = f"{a.url}/haul/v1/jobs/job-1/blobs/etag"
    headers = {"Authorization": f"Bearer {TOKEN}", "Range": f"bytes=1000-{len(DATA) - 1}"}
    answer = requests.get(url, headers=headers, timeout=10)
    assert answer.status_code == 206
    assert answer.content == DATA[1000:]
    headers["Range"] = "bytes=5-9"
    assert requests.get(url, headers=headers, timeout=10).content == DATA[5:10]
    (tmp_path / "a" / "a.bin").unlink()
    answer = requests.get(url, headers=headers, timeout=10)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "NotHeld")


def test_what_is_sent_keeps_to_its_rate_and_states_do_not_wait_for_it(
    make: Callable[..., Node], tmp_path: Path
) -> None:
    a = make("a")
    a.server._sender._pace.total = 100_000.0  # a megabyte takes ten seconds
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with requests.get(
        f"{a.url}/haul/v1/jobs/job-1/blobs/etag", headers=headers, timeout=10, stream=True
    ) as answer:
        next(answer.iter_content(1000))
        state = requests.get(f"{a.url}/haul/v1/jobs/job-1/state", headers=headers, timeout=2)
        assert state.json()["name"] == "a"
        assert a.server.body_bytes < len(DATA) / 2


def test_a_node_that_asks_for_a_plan_is_told_how_it_stands(make: Callable[..., Node]) -> None:
    a, b, other = make("a"), make("b"), make("c", job="job-2")
    assert a.loop.run(lambda: a.poller.health_of(b.url)) == Health(answers=True, has_plan=True)
    assert a.loop.run(lambda: a.poller.plan_of(b.url)) == [1]
    refusal = a.loop.run(lambda: a.poller.health_of(other.url)).refusal
    assert refusal == "it works on job-2, and not on job-1"
    refusal = a.loop.run(lambda: make("d", token="other").poller.health_of(b.url)).refusal
    assert refusal is not None
    assert "HF_HAUL_PEERS_TOKEN" in refusal
    b.close()
    assert a.loop.run(lambda: a.poller.health_of(b.url)) == Health()
    assert a.loop.run(lambda: a.poller.plan_of(b.url)) is None


def test_all_ends_within_a_second_while_answers_are_under_way(make: Callable[..., Node]) -> None:
    a, b = make("a"), make("b")
    a.server._sender._pace.total = 1000.0
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.get(f"{a.url}/haul/v1/jobs/job-1/blobs/etag", headers=headers, timeout=10, stream=True)
    a.meet("b", b.url)
    assert until(lambda: "b" in a.states)
    ended = threading.Thread(target=a.close)
    ended.start()
    ended.join(1.5)
    assert not ended.is_alive()
    with pytest.raises(requests.RequestException):
        for _piece in answer.iter_content(1 << 16):
            pass
    answer.close()


def test_the_token_is_told_nobody(make: Callable[..., Node]) -> None:
    with listening() as heard:
        a, b, c = make("a"), make("b", token="another-s3cret"), make("c")
        a.meet("b", b.url)
        a.meet("c", c.url)
        assert until(lambda: bool(a.told) and "c" in a.states)
        heard.hear("told", a.told, a.server, a.poller, c.poller)
        a.close()
    assert heard.holds("s3cret") == []


def test_a_node_asks_others_directly_whatever_proxy_the_environment_names(
    make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    a, b = make("a"), make("b")
    a.meet("b", b.url)
    assert until(lambda: "b" in a.states)


@contextmanager
def answering(loop: LoopThread, body: bytes, **headers: str) -> Iterator[str]:
    """A server of somebody else, which always says the same; yields its URL."""

    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body, headers=headers)

    async def serve() -> tuple[web.ServerRunner, str]:
        runner = web.ServerRunner(web.Server(handler))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    runner, url = loop.run(serve)
    yield url
    loop.run(runner.cleanup)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"\xff", b"", b"[" * 100_000, gzip.compress(b'{"version": 1}')],
    ids=["html", "no text", "nothing", "deep", "compressed"],
)
def test_an_answer_that_is_no_state_is_refused(make: Callable[..., Node], body: bytes) -> None:
    a = make("a")
    headers = {"Content-Encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    with answering(a.loop, body, **headers) as url:
        a.meet("b", url)
        assert until(
            lambda: any(each[0] == "useless" and "something else than JSON" in each[2] for each in a.told)
        )
        assert until(lambda: len(a.told) > 1)  # it is asked again
        assert a.loop.run(lambda: a.poller.health_of(url)).refusal is not None
        assert a.loop.run(lambda: a.poller.plan_of(url)) is None
