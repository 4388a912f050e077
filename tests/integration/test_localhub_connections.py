"""Connections to a hub: more than it has descriptors for, silent ones, slow ones, and what is not meant for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import logging
import os
import socket
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from aiohttp import web
from tests.support.hub import make_certificate
from tests.support.waits import until

from hf_haul.localhub import LocalHub, Repo, share
from hf_haul.localhub.connections import Connections, _Connection, listen
from hf_haul.localhub.hosts import HostRule
from hf_haul.localhub.testing.faults import Stall
from hf_haul.localhub.timings import HubTimings

REQUEST = b"GET /api/models/org/m HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def repo() -> Repo:
    made = Repo("org/m")
    made.commit({"a.json": b"{}", "w.bin": b"w" * 200_000})
    return made


def connect(hub: LocalHub) -> socket.socket:
    host, _, port = hub.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def answer(sock: socket.socket, request: bytes = REQUEST) -> bytes:
    sock.sendall(request)
    return sock.recv(12)


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_silent_connections_make_room_for_new_ones_the_oldest_first(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.localhub.server.most_connections", lambda: 10)
    with LocalHub(repo) as hub, ExitStack() as stack:
        silent = [stack.enter_context(connect(hub)) for _ in range(30)]
        with connect(hub) as sock:
            assert answer(sock) == b"HTTP/1.1 200"
            assert hub.open_connections <= 10
            assert all(is_closed(each) for each in silent[:20])
            assert answer(silent[-1]) == b"HTTP/1.1 200"


def test_connections_that_begin_no_handshake_make_room_too(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.localhub.server.most_connections", lambda: 5)
    cert, key = make_certificate(tmp_path)
    timings = HubTimings(handshake_grace=0.05)
    with LocalHub(repo, certfile=cert, keyfile=key, timings=timings) as hub, ExitStack() as stack:
        host, _, port = hub.url.removeprefix("https://").rpartition(":")
        for _ in range(20):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        assert requests.get(f"{hub.url}/api/models/org/m", verify=str(cert), timeout=10).ok


def test_while_all_are_busy_a_new_one_waits(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_haul.localhub.server.most_connections", lambda: 2)
    with LocalHub(repo, lfs="direct") as hub, ExitStack() as stack:
        hub.faults.add(Stall(after=100_000), path="w.bin", times=2)
        busy = [stack.enter_context(connect(hub)) for _ in range(2)]
        for sock in busy:
            sock.sendall(b"GET /org/m/resolve/main/w.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert hub.requests.wait_for(lambda log: sum(each.body_bytes >= 100_000 for each in log) == 2, 30)
        with connect(hub) as waiting:
            waiting.sendall(REQUEST)
            waiting.settimeout(0.1)
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            hub.faults.release()
            waiting.settimeout(30)
            assert waiting.recv(12) == b"HTTP/1.1 200"
        for sock in busy:
            assert sock.recv(12) == b"HTTP/1.1 200"


BODY_MISSING = (
    b"POST /api/models/org/m/paths-info/main HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
)


def test_requests_whose_bodies_do_not_come_make_room_for_new_ones(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hf_haul.localhub.server.most_connections", lambda: 3)
    with LocalHub(repo, timings=HubTimings(body=3600.0)) as hub, ExitStack() as stack:
        slow = [stack.enter_context(connect(hub)) for _ in range(3)]
        for sock in slow:
            sock.sendall(BODY_MISSING)
        assert hub.requests.wait_for(lambda log: len(log) == 3, 30)
        with connect(hub) as sock:
            assert answer(sock) == b"HTTP/1.1 200"
            assert hub.open_connections <= 3
            assert is_closed(slow[0]), "the one that has been waited for longest"
    assert not caplog.records


@pytest.mark.parametrize("paced", [False, True], ids=["sendfile", "paced"])
def test_clients_that_take_no_more_of_their_answers_make_room_for_new_ones(
    tmp_path: Path, paced: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hf_haul.localhub.server.most_connections", lambda: 2)
    (tmp_path / "w.bin").write_bytes(bytes(64 << 20))
    large = Repo("org/m")
    large.commit({"w.bin": tmp_path / "w.bin"})
    timings = HubTimings(taking=0.2, handshake_grace=0.05)
    with LocalHub(large, lfs="direct", timings=timings) as hub, ExitStack() as stack:
        hub.set_pace(None, total=1e9 if paced else None)
        for _ in range(2):
            sock = stack.enter_context(connect(hub))
            sock.sendall(b"GET /org/m/resolve/main/w.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert hub.requests.wait_for(lambda log: {each.connection for each in log} == {1, 2}, 30)
        with connect(hub) as sock:
            assert answer(sock) == b"HTTP/1.1 200"
    assert not caplog.records


def test_a_connection_that_ends_when_its_request_has_just_come_fills_no_log(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class EndsAtOnce(_Connection):
        __slots__ = ()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.end()  # as if to make room for another one

    monkeypatch.setattr("hf_haul.localhub.connections._Connection", EndsAtOnce)
    with LocalHub(repo) as hub, connect(hub) as sock:
        sock.sendall(BODY_MISSING)
        assert is_closed(sock)
        assert hub.requests.settle()
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"GET /api", b"GET / HTTP/1.1\r\nHost: x\r\nX: "], ids=["line", "header"])
def test_a_request_that_takes_too_long_to_come_in_is_cut_off(repo: Repo, sent: bytes) -> None:
    timings = HubTimings(header=1.0, look=0.02)
    with LocalHub(repo, timings=timings) as hub, connect(hub) as silent, connect(hub) as slow:
        assert answer(silent) == b"HTTP/1.1 200"
        slow.sendall(sent)
        assert is_closed(slow)
        silent.recv(100_000)
        assert answer(silent) == b"HTTP/1.1 200", "nothing has begun to come in there meanwhile"


def test_a_connection_that_says_nothing_ends_after_a_while(repo: Repo) -> None:
    with LocalHub(repo, timings=HubTimings(keep_alive=0.05, look=0.02)) as hub, connect(hub) as silent:
        assert is_closed(silent)
        assert until(lambda: hub.open_connections == 0)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system does not look for it")
@pytest.mark.parametrize("paced", [False, True], ids=["sendfile", "paced"])
def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, paced: bool
) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64 << 20))
    large = Repo("org/large")
    large.commit({"w.bin": tmp_path / "w.bin"})
    with LocalHub(large, lfs="direct", timings=HubTimings(stalled=0.5)) as hub, connect(hub) as sock:
        hub.set_pace(None, total=1e9 if paced else None)
        sock.sendall(b"GET /org/large/resolve/main/w.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert until(lambda: hub.open_connections == 0)
    assert not caplog.records


def test_a_body_that_does_not_come_is_not_waited_for_and_a_large_one_is_refused(repo: Repo) -> None:
    start = b"POST /api/models/org/m/paths-info/main HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    with LocalHub(repo, timings=HubTimings(body=0.05)) as hub, connect(hub) as sock:
        assert answer(sock, start + b"100\r\n\r\npaths=") == b"HTTP/1.1 408"
    with LocalHub(repo) as hub, connect(hub) as sock:
        assert answer(sock, start + b"2000000\r\n\r\n" + b"x" * 2_000_000) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param("[" * 200_000, "json", id="nested"),
        pytest.param('{"paths": ' + "[" * 200_000, "json", id="nested paths"),
        pytest.param("{", "json", id="broken"),
        pytest.param("[]", "json", id="a list"),
        pytest.param('{"paths": [1]}', "json", id="a number for a path"),
        pytest.param('{"paths": {"a": 1}}', "json", id="an object for paths"),
        pytest.param('{"paths": null}', "json", id="no paths"),
    ],
)
def test_a_body_that_makes_no_sense_is_a_bad_request(
    repo: Repo, body: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalHub(repo) as hub:
        url = f"{hub.url}/api/models/org/m/paths-info/main"
        refused = requests.post(url, data=body, headers={"Content-Type": f"application/{kind}"}, timeout=30)
    assert refused.status_code == 400
    assert not caplog.records


@pytest.mark.parametrize("steps", range(6))
def test_a_hub_that_ends_at_any_step_of_accepting_a_connection_leaves_no_socket_open(steps: int) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError(request)

    async def accept() -> None:
        (listener,) = listen("127.0.0.1", 0)
        connections = Connections(8)
        connections.serve([listener], answer)
        await asyncio.sleep(0)
        with socket.create_connection(listener.getsockname(), timeout=30):
            for _ in range(steps):
                await asyncio.sleep(0)
            await connections.close()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(accept())
        gc.collect()
    assert [str(each.message) for each in told if each.category is ResourceWarning] == []


def test_a_compressed_body_is_refused_and_not_unpacked(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacking: list[object] = []
    make = zlib.decompressobj

    def note(*args: object, **options: object) -> object:
        unpacking.append((args, options))
        return make(*args, **options)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(zlib, "decompressobj", note)  # what aiohttp unpacks with, whichever its version
    head = b"POST /api/models/org/m/paths-info/main HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
    body = gzip.compress(bytes(1 << 20), 1)
    timings = HubTimings(keep_alive=1.0, look=0.02)  # or the connection would stay for a while
    with LocalHub(repo, timings=timings) as hub, connect(hub) as sock:
        assert answer(sock, head + b"Content-Length: %d\r\n\r\n" % len(body)) == b"HTTP/1.1 415"
        with contextlib.suppress(OSError):
            sock.sendall(body)
            while sock.recv(10_000):
                pass
    assert unpacking == []


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
def test_requests_that_cannot_be_read_fill_no_log(
    repo: Repo, level: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(level, "hf_haul"), LocalHub(repo) as hub:
        for sent in (
            b"no request at all\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAuth: Bearer hf_x\0\r\n\r\n",
        ):
            with connect(hub) as sock:
                assert answer(sock, sent) == b"HTTP/1.0 400"
    said = [record for record in caplog.records if record.name.startswith("hf_haul.localhub")]
    assert {record.levelno for record in said} == ({logging.DEBUG} if level == logging.DEBUG else set())
    assert "hf_x" not in caplog.text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "query",
    [
        "tree/main?cursor=" + "W1tb" * 1500,  # [[[[...
        "tree/main?cursor=W251bGwsIDFd",  # [null, 1]
        "tree/main?limit=" + "9" * 5000,
        "commits/main?p=-1",
        "commits/main?p=" + "9" * 5000,
    ],
)
def test_a_query_that_makes_no_sense_is_a_bad_request(
    repo: Repo, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalHub(repo) as hub:
        assert requests.get(f"{hub.url}/api/models/org/m/{query}", timeout=30).status_code == 400
    assert not caplog.records


def test_a_request_under_another_name_is_misdirected(repo: Repo) -> None:
    with LocalHub(repo, host_rule=HostRule(["models.lab"])) as hub:
        for name, status in {"models.lab": 200, "localhost:1": 200, "rebind.example": 421}.items():
            for path in ("api/models/org/m", "org/m/resolve/main/a.json", ""):
                got = requests.get(f"{hub.url}/{path}", headers={"Host": name}, timeout=30)
                assert got.status_code == status
        with connect(hub) as sock:
            assert answer(sock, b"GET / HTTP/1.0\r\n\r\n") in (b"HTTP/1.0 421", b"HTTP/1.1 421")


def test_what_is_shared_without_a_token_asks_for_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "top/org/m").mkdir(parents=True)
    (tmp_path / "top/org/m/a.json").write_text("{}")
    headers = {"Host": "rebind.example"}
    with share(tmp_path / "top") as hub:
        assert requests.get(f"{hub.url}/org/m/resolve/main/a.json", timeout=30).status_code == 200
        assert requests.get(hub.url, headers=headers, timeout=30).status_code == 421
    with share(tmp_path / "top", token="hf_t") as hub:
        url = f"{hub.url}/org/m/resolve/main/a.json"
        assert requests.get(url, headers={**headers, "Authorization": "Bearer hf_t"}, timeout=30).ok
        assert requests.get(url, headers=headers, timeout=30).status_code == 401


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        pytest.param("0.0.0.0", {}, "to other machines", id="everywhere"),
        pytest.param("::", {}, "to other machines", id="everywhere, of IPv6"),
        pytest.param("127.0.0.1", {"token": ""}, "empty", id="an empty token"),
        pytest.param("0.0.0.0", {"token": "a b"}, "cannot be sent", id="a blank in a token"),
        pytest.param("0.0.0.0", {"token": "t\n"}, "cannot be sent", id="a line end in a token"),
        pytest.param("0.0.0.0", {"token": "schlüssel"}, "cannot be sent", id="no ASCII"),
        pytest.param("0.0.0.0", {"token": "t", "allow_anyone": True}, "contradict", id="both"),
    ],
)
def test_a_folder_is_not_shared_with_others_unless_that_is_said(
    tmp_path: Path, host: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        share(tmp_path, host=host, **options)  # type: ignore[arg-type]  from a table


@contextmanager
def serving(folder: Path, tmp_path: Path, descriptors: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    import resource

    command = [sys.executable, "-m", "hf_haul.cli", "serve", str(folder), "--port", "0"]
    with (
        (tmp_path / "err").open("w") as err,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "xdg")},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rpartition(":")[2]), process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_more_idle_connections_than_descriptors_leave_it_serving_quiet_and_idle(tmp_path: Path) -> None:
    folder = tmp_path / "top"
    (folder / "org/m").mkdir(parents=True)
    (folder / "org/m/a.json").write_text("{}")
    with serving(folder, tmp_path, 256) as (port, process), ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            assert answer(sock) == b"HTTP/1.1 200"
            used = ticks(process)
            sock.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while sock.recv(10_000):
                    pass
            assert ticks(process) - used < 50, "it goes round in circles"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            assert answer(sock) == b"HTTP/1.1 200"
    assert "no connection can be accepted" not in (tmp_path / "err").read_text()
    assert len((tmp_path / "err").read_text().splitlines()) < 5


def ticks(process: subprocess.Popen[str]) -> int:
    """Processor time that it has used, in hundredths of a second."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
