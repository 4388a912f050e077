"""What is added to a hub: pages, a look at its requests, and files that arrive while they are sent."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
import requests

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.arriving import Arrival, ArrivingContent
from hf_haul.localhub.objects import FileContent
from hf_haul.localhub.replies import Refusal, Reply, text_reply
from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.routing import Route
from hf_haul.localhub.site import PageRequest, Site

DATA = bytes(range(256)) * 4096


class Coming(ArrivingContent):
    """Bytes that come in steps; after ``most`` of them it is said that the rest will not."""

    def __init__(self, step: int, most: int | None = None) -> None:
        self.size = len(DATA)
        self.step = step
        self.most = most
        self.streams: list[_Steps] = []

    def sha256(self) -> str:
        return "ab" * 32

    def git_sha1(self) -> str:
        return "ab" * 20

    def at_once(self) -> FileContent | None:
        return None

    def begin(self) -> Arrival:
        if self.most == 0:
            raise Refusal(502, "it cannot be had")
        self.streams.append(_Steps(self))
        return self.streams[-1]


class _Steps(Arrival):
    def __init__(self, content: Coming) -> None:
        self.content = content
        self.here = 0
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self.asked: list[tuple[int, int]] = []

    async def ready(self, start: int, stop: int) -> tuple[BinaryIO, int]:
        self.asked.append((start, stop))
        while self.here <= start:
            await asyncio.sleep(0)
            if self.content.most is not None and self.here >= self.content.most:
                raise Refusal(502, "no more will come")
            self.file.write(DATA[self.here : self.here + self.content.step])
            self.file.flush()
            self.here += self.content.step
        return self.file, min(self.here, stop)

    def close(self) -> None:
        self.file.close()


def served(content: ArrivingContent) -> Repo:
    repo = Repo("org/m", lfs=[])
    repo.commit({"a.bin": content})
    return repo


@pytest.mark.parametrize("step", [1000, 65536, len(DATA)])
@pytest.mark.parametrize(
    ("asked", "span"),
    [
        pytest.param("", slice(None), id="all"),
        pytest.param("bytes=500000-700000", slice(500_000, 700_001), id="a range"),
        pytest.param("bytes=500000-500009", slice(500_000, 500_010), id="a small range"),
    ],
)
def test_bytes_are_sent_as_they_come(step: int, asked: str, span: slice) -> None:
    content = Coming(step)
    with LocalHub(served(content), git_files="direct") as hub:
        answer = requests.get(
            f"{hub.url}/org/m/resolve/main/a.bin", headers={"Range": asked} if asked else {}, timeout=20
        )
        assert answer.content == DATA[span]
        assert hub.requests.settle()
        (record,) = hub.requests
    assert (record.arrived, record.complete, record.length) == (True, True, len(DATA[span]))
    assert content.streams[0].file.closed


def test_what_will_not_come_is_refused_before_the_first_byte_and_cut_off_after_it() -> None:
    for most, status in ((0, 502), (1, 200)):
        content = Coming(100_000, most)
        with LocalHub(served(content), git_files="direct") as hub:
            with requests.get(f"{hub.url}/org/m/resolve/main/a.bin", timeout=20, stream=True) as answer:
                assert answer.status_code == status
                if status == 200:
                    with pytest.raises(Exception, match=r"(?i)incomplete"):
                        answer.raw.read()
            assert hub.requests.settle()
            assert hub.requests[0].complete is (status == 502)
        assert all(each.file.closed for each in content.streams)


class Gone(Coming):
    """A file that was here when it was looked for, and is gone when it is opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(1000)
        self.path = folder / "a.bin"
        self.path.write_bytes(DATA)
        self.found: FileContent | None = FileContent(self.path)
        self.path.unlink()

    def at_once(self) -> FileContent | None:
        found, self.found = self.found, None
        return found


def test_what_goes_between_the_look_for_it_and_its_opening_is_fetched_anew(tmp_path: Path) -> None:
    with LocalHub(served(Gone(tmp_path)), git_files="direct") as hub:
        answer = requests.get(f"{hub.url}/org/m/resolve/main/a.bin", timeout=20)
        assert (answer.status_code, answer.content) == (200, DATA)


class Watching:
    """Notes what it sees of requests."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def begun(self, record: RequestRecord) -> None:
        self.seen.append(("begun", record.url, record.status))

    def ended(self, record: RequestRecord) -> None:
        self.seen.append(("ended", record.url, record.status))


class Elsewhere:
    """Another hub that has one repository."""

    name = "elsewhere"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find(self, route: Route) -> Repo | None:
        self.asked.append(route.repo_id)
        if route.repo_id == "org/busy":
            raise Refusal(504, "not now", "UpstreamAway")
        return served(Coming(1000)) if route.repo_id == "org/m" else None

    def close(self) -> None:
        """Nobody waits."""


class Silent:
    """Another hub that answers nobody."""

    name = "silent"

    def __init__(self) -> None:
        self.asked, self.closed = threading.Semaphore(0), threading.Event()
        self.ended = 0

    def find(self, route: Route) -> Repo | None:
        del route
        self.asked.release()
        assert self.closed.wait(20)
        self.ended += 1
        return None

    def close(self) -> None:
        self.closed.set()


def test_pages_and_requests_and_repositories_of_others() -> None:
    def page(request: PageRequest) -> Reply:
        return text_reply(
            f"{request.method} {request.path} {dict(request.query)} {request.body!r} {request.asks_token}"
        )

    watching, elsewhere = Watching(), Elsewhere()
    with LocalHub(site=Site({"/page": page}, watching, elsewhere), git_files="direct") as hub:
        answer = requests.post(f"{hub.url}/page?a=1", data=b"x", timeout=20)
        assert answer.text == "POST /page {'a': '1'} b'x' False"
        for path, status in (
            ("org/m/resolve/main/a.bin", 200),
            ("org/n/resolve/main/a", 401),
            ("org/busy/resolve/main/a", 504),
        ):
            assert requests.get(f"{hub.url}/{path}", timeout=20).status_code == status
        assert requests.head(f"{hub.url}/org/m/resolve/main/a.bin", timeout=20).status_code == 200
        assert elsewhere.asked == ["org/m", "org/n", "org/busy"]
        circle = requests.get(
            f"{hub.url}/org/n/resolve/main/a", headers={"X-Haul-Via": "elsewhere"}, timeout=20
        )
        assert circle.status_code == 508
        assert hub.requests.settle()
    assert watching.seen[:2] == [("begun", "/page?a=1", 0), ("ended", "/page?a=1", 200)]
    assert [what for what, *_ in watching.seen] == ["begun", "ended"] * 6


@pytest.mark.parametrize("size", [10, 300_000])
def test_pages_do_not_wait_for_the_rate_of_what_is_sent(size: int) -> None:
    def refusing(request: PageRequest) -> Reply:
        raise Refusal(400, request.path * 100)

    with LocalHub(site=Site({"/page": lambda _request: text_reply("x" * size), "/no": refusing})) as hub:
        hub.set_pace(1.0, total=1.0)
        assert requests.get(f"{hub.url}/page", timeout=20).text == "x" * size
        assert requests.get(f"{hub.url}/no", timeout=20).status_code == 400


def test_while_all_wait_for_another_hub_pages_are_answered_and_the_end_of_the_hub_ends_their_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hf_haul.localhub.app._SEARCH_THREADS", 2)
    silent = Silent()
    pages = {"/page": lambda request: text_reply(request.method)}
    with LocalHub(site=Site(pages, None, silent)) as hub, ThreadPoolExecutor(3) as clients:
        url = f"{hub.url}/org/m/resolve/main/a"
        waiting = [clients.submit(requests.get, url, timeout=30) for _ in range(3)]
        for _ in range(2):
            assert silent.asked.acquire(timeout=20)
        assert requests.get(f"{hub.url}/page", timeout=20).text == "GET"
        assert silent.ended == 0
        hub.close()
        assert silent.ended >= 2  # the third may have got the thread of one that ended
        for each in waiting:
            assert isinstance(each.exception(20), requests.ConnectionError)


def test_while_others_wait_for_another_hub_to_find_repositories_those_that_are_here_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hf_haul.localhub.server._WAITERS", 2)
    monkeypatch.setattr("hf_haul.localhub.app._SEARCH_THREADS", 2)
    here, silent = Repo("org/here"), Silent()
    here.commit({"a": b"x"})
    here.blocking = True
    with LocalHub(here, site=Site({}, None, silent)) as hub, ThreadPoolExecutor(3) as clients:
        waiting = [
            clients.submit(requests.get, f"{hub.url}/org/m{each}/resolve/main/a", timeout=30)
            for each in range(3)
        ]
        for _ in range(2):
            assert silent.asked.acquire(timeout=20)
        assert requests.get(f"{hub.url}/api/models/org/here", timeout=10).json()["id"] == "org/here"
        assert silent.ended == 0
        silent.close()
        for each in waiting:
            assert each.result(20).status_code == 401
