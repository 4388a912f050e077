"""What a node answers, and whom."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hf_haul.cluster.holdings import HeldRange, Holdings
from hf_haul.cluster.serving import JobServer
from hf_haul.localhub.replies import Refusal, Reply
from hf_haul.ranges import ByteRange

TOKEN = "job-secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
DATA = bytes(range(256)) * 10
ETAG = hashlib.sha256(DATA).hexdigest()
STATE = "/haul/v1/jobs/job-1/state"
BLOB = f"/haul/v1/jobs/job-1/blobs/{ETAG}"

T = TypeVar("T")


class Served:
    job_id = "job-1"

    def __init__(self, folder: Path) -> None:
        (folder / "a.bin").write_bytes(DATA)
        self.holdings = Holdings({ETAG: ["a.bin"]}, lambda _etag: len(DATA), folder.joinpath, dict)
        self.version = 1
        self.made: bytes | None = b'{"plan": 1}'
        self.askers: list[tuple[str, str]] = []

    def state(self) -> Mapping[str, Any]:
        return {"name": "a", "version": self.version}

    def plan(self) -> bytes | None:
        return self.made

    def size_of(self, etag: str) -> int:
        return self.holdings.size(etag)

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        return self.holdings.open(etag, span)

    def note_asker(self, name: str, url: str) -> None:
        self.askers.append((name, url))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 10))


def answer(
    served: Served, target: str, headers: Mapping[str, str] = HEADERS, method: str = "GET"
) -> tuple[int, str | None, Any]:
    """Status, code and JSON, of an answer or of a refusal."""

    async def ask() -> Reply:
        try:
            return await JobServer(served, TOKEN).answer(method, target, headers)
        except Refusal as refusal:
            return refusal.reply(as_json=True)

    reply = run(ask())
    body = reply.content.read(0, reply.length)
    return reply.status, reply.headers.get("X-Error-Code"), json.loads(body)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": "Bearer other"}, id="another"),
        pytest.param({"Authorization": f"Basic {TOKEN}"}, id="another scheme"),
        pytest.param({"Authorization": "Bearer"}, id="an empty one"),
        pytest.param({"Authorization": f"Bearer {TOKEN[:-1]}"}, id="a part of it"),
        pytest.param({"Authorization": "Bearer \udcff"}, id="no text"),
    ],
)
@pytest.mark.parametrize("target", [STATE, BLOB, "/haul/v1/health", "/haul/v1/jobs/job-1/plan", "/", "*", ""])
def test_nothing_is_answered_without_the_jobs_token(
    served: Served, given: dict[str, str], target: str
) -> None:
    status, code, said = answer(
        served, target, {**given, "Haul-Node": "evil", "Haul-Node-Url": "http://evil"}
    )
    assert (status, code) == (401, "NoToken")
    assert "job-1" not in said["error"]
    assert served.askers == []


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/haul/v1/jobs/job-2/state", 404, "OtherJob"),
        ("/haul/v1/jobs/job-1", 404, "NotFound"),
        ("/haul/v1/jobs/job-1/other", 404, "NotFound"),
        ("/haul/v1/jobs/job-1/blobs", 404, "NotFound"),
        ("/haul/v1/jobs/job-1/blobs/x", 404, "NotHeld"),
        ("/haul/v1/jobs/job-1/blobs/..%2F..%2Fetc%2Fpasswd", 404, "NotHeld"),
        ("/haul/v2/jobs/job-1/state", 404, "NotFound"),
        ("/", 404, "NotFound"),
        ("/org/name/resolve/main/a.bin", 404, "NotFound"),
    ],
)
def test_what_is_not_there_is_refused_at_once_with_a_reason(
    served: Served, target: str, status: int, code: str
) -> None:
    assert answer(served, target)[:2] == (status, code)


def test_another_job_is_refused_with_both_names(served: Served) -> None:
    said = answer(served, "/haul/v1/jobs/job-2/state")[2]["error"]
    assert said == "this node works on the job job-1, and not on job-2"


def test_only_reading_is_allowed(served: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        assert answer(served, STATE, method=method)[0] == 405


def test_a_range_comes_with_its_own_digest(served: Served) -> None:
    async def ask() -> tuple[Reply, bytes]:
        reply = await JobServer(served, TOKEN).answer("GET", BLOB, {**HEADERS, "Range": "bytes=100-299"})
        arrival = reply.content.begin()  # type: ignore[attr-defined]  # it is one that arrives
        file, ready = await arrival.ready(reply.start, reply.stop)
        assert ready == 300
        file.seek(100)
        data = file.read(200)
        arrival.close()
        return reply, data

    reply, data = run(ask())
    assert reply.status == 206
    assert data == DATA[100:300]
    assert reply.headers["Content-Range"] == f"bytes 100-299/{len(DATA)}"
    assert reply.headers["ETag"] == f'"{ETAG}"'
    expected = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert reply.headers["Content-Digest"] == f"sha-256=:{expected}:"


def test_a_range_beyond_the_end_is_416(served: Served) -> None:
    status = run(
        JobServer(served, TOKEN).answer("GET", BLOB, {**HEADERS, "Range": f"bytes={len(DATA)}-"})
    ).status
    assert status == 416


def test_who_asks_becomes_known_by_its_name_and_address(served: Served) -> None:
    answer(served, STATE, {**HEADERS, "Haul-Node": "b", "Haul-Node-Url": "http://b:1"})
    answer(served, STATE, {**HEADERS, "Haul-Node": "c"})
    answer(served, STATE, {**HEADERS, "Haul-Node": "d" * 2000, "Haul-Node-Url": "http://d:1"})
    answer(served, "/haul/v1/jobs/job-2/state", {**HEADERS, "Haul-Node": "e", "Haul-Node-Url": "http://e:1"})
    assert served.askers == [("b", "http://b:1")]


def test_a_node_says_which_job_it_is_at_and_whether_it_has_a_plan(served: Served) -> None:
    health = answer(served, "/haul/v1/health")[2]
    assert health == {"status": "ok", "job": "job-1", "has_plan": True, "awaits_plan": False}
    served.made = None
    assert not answer(served, "/haul/v1/health")[2]["has_plan"]


@pytest.mark.parametrize("plan", [None, b"[1]"])
def test_a_node_says_that_it_waits_for_the_plan_of_another_one(served: Served, plan: bytes | None) -> None:
    served.made = plan

    async def ask() -> Any:
        server = JobServer(served, TOKEN)
        server.awaits_plan = True
        reply = await server.answer("GET", "/haul/v1/health", HEADERS)
        return json.loads(reply.content.read(0, reply.length))

    assert run(ask())["awaits_plan"] is (plan is None)


def test_a_plan_that_is_still_made_is_to_be_asked_for_again(served: Served) -> None:
    assert answer(served, "/haul/v1/jobs/job-1/plan")[2] == {"plan": 1}
    served.made = None
    assert answer(served, "/haul/v1/jobs/job-1/plan")[:2] == (503, "NoPlanYet")


@pytest.mark.parametrize("query", ["", "?after=0&wait=30", "?after=1", "?after=1&wait=-5", "?after=1&wait=x"])
def test_the_state_is_told_at_once_where_it_is_news_or_nobody_waits(served: Served, query: str) -> None:
    assert answer(served, STATE + query) == (200, None, {"name": "a", "version": 1})


def test_who_knows_the_state_is_answered_once_there_is_news(served: Served) -> None:
    async def ask() -> Any:
        server = JobServer(served, TOKEN)
        asking = asyncio.create_task(server.answer("GET", f"{STATE}?after=1&wait=30", HEADERS))
        for _turn in range(3):
            await asyncio.sleep(0)
        assert not asking.done()
        server.note_change()  # the same state: it goes on to wait
        for _turn in range(3):
            await asyncio.sleep(0)
        assert not asking.done()
        served.version = 2
        server.note_change()
        reply = await asking
        return json.loads(reply.content.read(0, reply.length))

    assert run(ask()) == {"name": "a", "version": 2}


def test_who_waits_in_vain_is_told_the_state_when_the_time_is_over(served: Served) -> None:
    assert answer(served, f"{STATE}?after=1&wait=0.01")[2] == {"name": "a", "version": 1}


@asynccontextmanager
async def turn_of(server: JobServer, target: str = BLOB) -> AsyncIterator[None]:
    """Inside, the answer would be sent."""
    reply = await server.answer("GET", target, HEADERS)
    async with server._turn(reply):
        yield
    if target == BLOB:
        reply.content.held.close()  # type: ignore[attr-defined]  # a range of a blob has it


def test_ranges_of_blobs_are_sent_a_bounded_number_at_once_in_the_order_of_requests(served: Served) -> None:
    async def ask() -> list[str]:
        server = JobServer(served, TOKEN, sent_at_once=1)
        order: list[str] = []
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def send(name: str) -> None:
            async with turn_of(server):
                order.append(f"{name} begins")
                begun.set()
                await go_on.wait()
                order.append(f"{name} ends")

        first = asyncio.create_task(send("first"))
        await begun.wait()
        second = asyncio.create_task(send("second"))
        async with turn_of(server, STATE):  # no range of a blob, which waits for nobody
            go_on.set()
        await asyncio.gather(first, second)
        return order

    assert run(ask()) == ["first begins", "first ends", "second begins", "second ends"]


def test_who_never_takes_what_is_sent_keeps_nobody_waiting_for_ever(served: Served) -> None:
    async def ask() -> None:
        server = JobServer(served, TOKEN, sent_at_once=1, longest_turn=0.01)
        async with turn_of(server), turn_of(server):
            pass
        async with turn_of(server):
            third = asyncio.create_task(server._turns.acquire())
            await asyncio.sleep(0)
            assert not third.done(), "the end of a turn that was over for long counted a second time"
            third.cancel()

    run(ask())


def test_a_file_is_closed_when_the_server_ends_before_its_turn(served: Served) -> None:
    async def ask() -> bool:
        server = JobServer(served, TOKEN, sent_at_once=1)
        async with turn_of(server):
            reply = await server.answer("GET", BLOB, HEADERS)

            async def wait() -> None:
                async with server._turn(reply):
                    pass

            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        return bool(reply.content.held.file.closed)  # type: ignore[attr-defined]  # as above

    assert run(ask())


@pytest.mark.parametrize("name", ["\x1b[2J", "a\udcff", "", "n" * 1001])
def test_a_name_that_cannot_be_shown_is_none(served: Served, name: str) -> None:
    answer(served, STATE, {**HEADERS, "Haul-Node": name, "Haul-Node-Url": "http://c:1"})
    assert served.askers == []
