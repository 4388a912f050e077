"""Faults, as a client sees them on the wire."""

from __future__ import annotations

import gzip
import http.client
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from tests.support.repos import random_bytes

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import (
    ChangedEtag,
    Corrupt,
    Cut,
    Delay,
    Fault,
    GzipBody,
    Headers,
    Html,
    IgnoreRange,
    Redirects,
    Reset,
    Stall,
    Status,
    TooLong,
    Trickle,
    WrongRange,
    WrongTotal,
)

DATA = random_bytes(3_000_000, "faults")
SMALL = b"just a few words"


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/x")
    repo.commit({"w.bin": DATA, "a.txt": SMALL})
    with LocalHub(repo) as made:
        yield made


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def location(session: requests.Session, hub: LocalHub) -> str:
    return session.head(f"{hub.url}/org/x/resolve/main/w.bin").headers["Location"]


def read(url: str, timeout: float = 5.0) -> tuple[bytes, BaseException | None]:
    """All bytes that arrive, and what ended them if it was not the end."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    body = b""
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        while data := answer.read1(65536):
            body += data
        if answer.length:
            return body, EOFError(f"{answer.length} bytes short")
        return body, None
    except OSError as error:
        return body, error
    finally:
        connection.close()


@pytest.mark.parametrize("after", [0, 1, 100_000, 2_999_999])
def test_a_cut_body_ends_in_peace_and_too_early(hub: LocalHub, session: requests.Session, after: int) -> None:
    url = location(session, hub)
    hub.faults.add(Cut(after), kind="cdn")
    body, error = read(url)
    assert body == DATA[:after]
    assert isinstance(error, EOFError)
    assert hub.requests.settle()
    assert hub.requests[-1].body_bytes == after
    assert read(url) == (DATA, None)


@pytest.mark.parametrize("after", [0, 1, 100_000, 2_999_999])
def test_a_reset_comes_after_exactly_so_many_bytes(
    hub: LocalHub, session: requests.Session, after: int
) -> None:
    url = location(session, hub)
    hub.faults.add(Reset(after), kind="cdn")
    body, error = read(url)
    assert isinstance(error, ConnectionResetError)
    assert body == DATA[:after]
    assert read(url) == (DATA, None)


def test_a_reset_before_the_headers_leaves_no_answer(hub: LocalHub, session: requests.Session) -> None:
    url = location(session, hub)
    hub.faults.add(Reset())
    body, error = read(url)
    assert (body, type(error)) == (b"", ConnectionResetError)
    assert hub.requests.settle()
    assert (hub.requests[-1].status, hub.requests[-1].faults) == (0, ["Reset"])


def test_a_body_that_is_too_long_has_bytes_after_its_end(hub: LocalHub, session: requests.Session) -> None:
    url = location(session, hub)
    hub.faults.add(TooLong(500), kind="cdn")
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    stream = answer.fp
    assert answer.length == len(DATA)
    assert stream.read() == DATA + b"\xee" * 500
    answer.close()
    connection.close()


def test_a_stall_lasts_until_it_is_released(hub: LocalHub, session: requests.Session) -> None:
    url = location(session, hub)
    rule = hub.faults.add(Stall(50_000), kind="cdn")
    got: list[tuple[bytes, BaseException | None]] = []
    reader = threading.Thread(target=lambda: got.append(read(url, timeout=30)))
    reader.start()
    assert rule.wait()
    assert hub.requests.wait_for(lambda log: log[-1].body_bytes == 50_000)
    assert got == []
    hub.faults.release()
    reader.join(30)
    assert got == [(DATA, None)]


def test_a_stall_ends_when_the_client_leaves(hub: LocalHub, session: requests.Session) -> None:
    url = location(session, hub)
    hub.faults.add(Stall(50_000), kind="cdn")
    body, error = read(url, timeout=0.3)
    assert (body, type(error)) == (DATA[:50_000], TimeoutError)
    assert hub.requests.settle()
    assert not hub.requests[-1].complete


def test_a_stall_ends_when_the_hub_closes() -> None:
    repo = Repo("org/x")
    repo.commit({"a.txt": SMALL})
    with requests.Session() as session, LocalHub(repo, git_files="direct") as hub:
        rule = hub.faults.add(Stall(3))
        answer = session.get(f"{hub.url}/org/x/resolve/main/a.txt", stream=True)
        assert rule.hits == 1
        assert answer.raw.read(3) == SMALL[:3]
        started = time.monotonic()
        hub.close()
        assert time.monotonic() - started < 5
        answer.close()


def test_a_trickle_is_slow(hub: LocalHub, session: requests.Session) -> None:
    hub.options.git_files = "direct"
    hub.faults.add(Trickle(50))
    started = time.monotonic()
    assert session.get(f"{hub.url}/org/x/resolve/main/a.txt").content == SMALL
    assert time.monotonic() - started > 0.2  # 16 bytes, 50 a second


def test_a_delay_comes_before_the_headers(hub: LocalHub, session: requests.Session) -> None:
    hub.faults.add(Delay(0.2), kind="info")
    session.get(f"{hub.url}/api/models/org/x")
    record = hub.requests[-1]
    assert record.first_byte is not None
    assert record.first_byte - record.start >= 0.2


def test_one_byte_can_be_wrong_wherever_it_is_asked_for(hub: LocalHub, session: requests.Session) -> None:
    url = location(session, hub)
    hub.faults.add(Corrupt(1_234_567), kind="cdn", times=None)
    whole = session.get(url).content
    assert [i for i in range(len(DATA)) if whole[i] != DATA[i]] == [1_234_567]
    part = session.get(url, headers={"Range": "bytes=1234567-1234568"}).content
    assert part == bytes([DATA[1_234_567] ^ 0xFF, DATA[1_234_568]])
    other = session.get(url, headers={"Range": "bytes=0-999"}).content
    assert other == DATA[:1000]


@pytest.mark.parametrize(
    ("fault", "status", "content_range", "body"),
    [
        pytest.param(WrongRange(100), 206, "bytes 110-119/3000000", DATA[110:120], id="wrong range"),
        pytest.param(WrongRange(100, admits=False), 206, "bytes 10-19/3000000", DATA[110:120], id="secretly"),
        pytest.param(IgnoreRange(), 200, None, DATA, id="range ignored"),
        pytest.param(WrongTotal(5), 206, "bytes 10-19/5", DATA[10:20], id="wrong total"),
        pytest.param(ChangedEtag('"new"'), 206, "bytes 10-19/3000000", DATA[10:20], id="changed etag"),
        pytest.param(Headers({"Content-Range": None}), 206, None, DATA[10:20], id="header left out"),
        pytest.param(GzipBody(), 206, "bytes 10-19/3000000", DATA[10:20], id="gzip"),
    ],
)
def test_a_ranged_answer_can_be_wrong_in_every_way(
    hub: LocalHub,
    session: requests.Session,
    fault: Fault,
    status: int,
    content_range: str | None,
    body: bytes,
) -> None:
    url = location(session, hub)
    hub.faults.add(fault, kind="cdn")
    answer = session.get(url, headers={"Range": "bytes=10-19"}, stream=True)
    got = answer.raw.read(decode_content=False)
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    assert answer.headers["Content-Length"] == str(len(got))
    if isinstance(fault, GzipBody):
        got = gzip.decompress(got)
    assert got == body
    assert (answer.headers["ETag"] == '"new"') is isinstance(fault, ChangedEtag)


def test_a_status_can_be_anything(hub: LocalHub, session: requests.Session) -> None:
    hub.faults.add(Status(503, b"busy", {"X-Why": "test"}, retry_after=3), kind="tree", times=2)
    url = f"{hub.url}/api/models/org/x/tree/main"
    first, second, third = (session.get(url) for _ in range(3))
    assert (first.status_code, first.text) == (503, "busy")
    assert (first.headers["X-Why"], first.headers["Retry-After"]) == ("test", "3")
    assert (second.status_code, third.status_code) == (503, 200)


def test_a_page_can_come_instead_of_json(hub: LocalHub, session: requests.Session) -> None:
    hub.faults.add(Html(), kind="info")
    answer = session.get(f"{hub.url}/api/models/org/x")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize("kind", ["cdn", "resolve"])
def test_redirects_of_any_kind_lead_to_the_real_answer(
    hub: LocalHub, session: requests.Session, kind: str
) -> None:
    rule = hub.faults.add(Redirects(301, 302, 303, 307, 308), kind=kind)
    answer = session.get(f"{hub.url}/org/x/resolve/main/w.bin")
    assert answer.content == DATA
    codes = [hop.status_code for hop in answer.history]
    assert codes in ([302, 301, 302, 303, 307, 308], [301, 302, 303, 307, 308, 302])
    assert rule.hits == 1


def test_faults_can_be_added_from_any_thread_while_requests_run(hub: LocalHub) -> None:
    wrong: list[object] = []

    def ask() -> None:
        with requests.Session() as session:
            for _ in range(20):
                status = session.get(f"{hub.url}/api/models/org/x").status_code
                if status not in (200, 503):
                    wrong.append(status)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    rules = [hub.faults.add(Status(503), kind="info") for _ in range(20)]
    for asker in askers:
        asker.join(30)
    assert wrong == []
    # Rules that are there at the same time all count a request; each hits one and no more.
    assert all(rule.hits <= 1 for rule in rules)
    assert len(hub.requests.of("info")) == 80
