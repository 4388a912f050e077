"""What a user sets on the session that a pool gives holds for every byte, whichever door it comes in by."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import HTTPDigestAuth
from tests.support.certs import Certificates, make_certificates
from tests.support.engine import PART, SMALL, TOKEN, WEIGHTS, Rig, serve_files
from tests.support.forking import in_child
from tests.support.repos import random_bytes
from tests.support.wire import BOUND, Connection, Wire, answer

import hf_haul
from hf_haul.cancellation import CancelToken
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    HttpStatusError,
    StopRequestedError,
    TransferError,
)
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.testing.faults import Cut, Redirects
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import OtherSource
from hf_haul.transports.pool import ConnectionPool
from hf_haul.urls import parse_url

BODY = random_bytes(100_000, "body")


class Counting(HTTPAdapter):
    """Counts what goes through it."""

    def __init__(self) -> None:
        self.asked: list[requests.PreparedRequest] = []
        super().__init__(pool_maxsize=16)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.asked.append(request)
        return super().send(request, *args, **options)

    @property
    def ranges(self) -> list[str]:
        """The ranges that were asked for."""
        return [each.headers["Range"] for each in self.asked if "Range" in each.headers]


class FromMemory(BaseAdapter):
    """Serves ranges of bytes without any network, of the first requests only a part."""

    def __init__(self, data: bytes, *, cut: int = 0) -> None:
        super().__init__()
        self.data = data
        self.cut = cut
        self.ranges: list[str] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        want = request.headers.get("Range", f"bytes=0-{len(self.data) - 1}")
        self.ranges.append(want)
        first, last = (int(each) for each in re.findall(r"\d+", want))
        body = self.data[first : last + 1]
        got = requests.Response()
        got.status_code, got.url, got.request = 206, str(request.url), request
        got.headers["Content-Length"] = str(len(body))
        got.headers["Content-Range"] = f"bytes {first}-{last}/{len(self.data)}"
        if self.cut:
            self.cut -= 1
            body = body[: len(body) // 2]
        got.raw = io.BytesIO(body)
        return got

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", lfs="redirect") as rig:
        yield rig


@pytest.fixture
def manager(rig: Rig) -> Iterator[ParallelDownloadManager]:
    with rig.manager() as manager:
        yield manager


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def session_of(manager: ParallelDownloadManager) -> requests.Session:
    return manager.connection_pool.get_session()


def cdn_of(rig: Rig) -> str:
    """The other origin, to which the hub redirects."""
    answer = requests.get(
        rig.url(WEIGHTS), headers={"Authorization": TOKEN}, allow_redirects=False, timeout=BOUND
    )
    return parse_url(answer.headers["Location"]).source


def filesystem(rig: Rig, manager: ParallelDownloadManager) -> HaulFileSystem:
    fs = HaulFileSystem(endpoint=rig.hub.url, token=False, skip_instance_cache=True)
    fs.manager = manager
    return fs


def get(pool: ConnectionPool, url: str, **headers: str) -> bytes:
    with pool.open(url, headers, CancelToken()) as response:
        return response.head(1 << 20)


# ---- adapters


def by_snapshot(rig: Rig, manager: ParallelDownloadManager, place: Path) -> bytes:
    got = hf_haul.snapshot_download(
        "org/m", endpoint=rig.hub.url, token=False, cache_dir=place, manager=manager
    )
    return Path(got, WEIGHTS).read_bytes()


def by_file(rig: Rig, manager: ParallelDownloadManager, place: Path) -> bytes:
    got = hf_haul.hf_hub_download(
        "org/m", WEIGHTS, endpoint=rig.hub.url, token=False, cache_dir=place, manager=manager
    )
    return Path(got).read_bytes()


def by_task(rig: Rig, manager: ParallelDownloadManager, place: Path) -> bytes:
    task = manager.add_download_task("m", WEIGHTS, rig.url(WEIGHTS), place / "got", len(rig.files[WEIGHTS]))
    assert manager.wait_for_model_completion(task, BOUND)["success"]
    return (place / "got").read_bytes()


def by_reading(rig: Rig, manager: ParallelDownloadManager, place: Path) -> bytes:
    fs = filesystem(rig, manager)
    with fs.open(f"org/m/{WEIGHTS}") as file:
        head = file.read(1000)
        file.seek(200_000)
        file.read(1000)
    assert head == rig.files[WEIGHTS][:1000]
    return bytes(fs.cat_file(f"org/m/{WEIGHTS}"))


def by_ranges(rig: Rig, manager: ParallelDownloadManager, place: Path) -> bytes:
    path, size = f"org/m/{WEIGHTS}", len(rig.files[WEIGHTS])
    starts = list(range(0, size, 50_000))
    stops = [*starts[1:], size]
    got = filesystem(rig, manager).cat_ranges([path] * len(starts), starts, stops)
    return b"".join(got)


DOORS: list[Callable[[Rig, ParallelDownloadManager, Path], bytes]] = [
    by_snapshot, by_file, by_task, by_reading, by_ranges,
]  # fmt: skip


@pytest.mark.parametrize("mounted", ["hub", "cdn", "all"])
@pytest.mark.parametrize("door", DOORS)
def test_bytes_go_through_the_adapter_that_is_mounted_for_them(
    rig: Rig, manager: ParallelDownloadManager, tmp_path: Path, door: Any, mounted: str
) -> None:
    adapter, cdn = Counting(), cdn_of(rig)
    for prefix in {"hub": [rig.hub.url], "cdn": [cdn], "all": ["http://"]}[mounted]:
        session_of(manager).mount(prefix, adapter)
    assert door(rig, manager, tmp_path / "place") == rig.files[WEIGHTS]
    origins = {parse_url(str(each.url)).source for each in adapter.asked}
    want = {"hub": {rig.hub.url}, "cdn": {cdn}, "all": {rig.hub.url, cdn}}[mounted]
    # What huggingface_hub asks of one file says where its bytes are.
    assert origins == want - ({rig.hub.url} if door is by_file else set())
    through = [
        record for record in rig.hub.requests if record.status in {200, 206} and record.path == WEIGHTS
    ]
    if mounted != "hub":
        assert {record.headers.get("range") for record in through} == {
            each.headers.get("Range") for each in adapter.asked if parse_url(str(each.url)).source == cdn
        }


def test_a_file_may_come_from_an_adapter_that_needs_no_network(
    rig: Rig, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    data = random_bytes(3 * PART + 17, "memory")
    adapter = FromMemory(data, cut=2)
    session_of(manager).mount("http://memory.invalid/", adapter)
    task = manager.add_download_task("m", "a", "http://memory.invalid/a", tmp_path / "a", len(data))
    result = manager.wait_for_model_completion(task, BOUND)
    assert result["success"], result
    assert (tmp_path / "a").read_bytes() == data
    halves = [each for each in adapter.ranges if int(re.findall(r"\d+", each)[0]) % PART]
    assert halves, "it went on from where the bytes were cut"


def test_a_body_that_is_cut_goes_on_through_the_same_adapter(
    rig: Rig, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    adapter = Counting()
    session_of(manager).mount(cdn_of(rig), adapter)
    rig.hub.faults.add(Cut(10_000), kind="cdn", path=WEIGHTS)
    assert by_task(rig, manager, tmp_path) == rig.files[WEIGHTS]
    starts = [int(re.findall(r"\d+", each)[0]) for each in adapter.ranges]
    assert [start % PART for start in starts if start % PART] == [10_000]


def test_what_an_adapter_raises_fails_its_file_and_no_other(
    rig: Rig, manager: ParallelDownloadManager
) -> None:
    class Broken(FromMemory):
        def send(self, *args: Any, **options: Any) -> requests.Response:
            raise LookupError("of the adapter's own")

    session_of(manager).mount(rig.url(WEIGHTS), Broken(b""))
    handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="org/m")
    assert handle.wait(BOUND)
    assert [(path, str(error)) for path, error in handle.errors()] == [(WEIGHTS, "of the adapter's own")]
    assert rig.is_whole(SMALL)


def test_a_download_through_an_adapter_that_hangs_stops_within_a_second(
    rig: Rig, manager: ParallelDownloadManager
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Hanging(FromMemory):
        def send(self, *args: Any, **options: Any) -> requests.Response:
            inside.set()
            go_on.wait(BOUND)
            raise ConnectionResetError

    session_of(manager).mount("http://", Hanging(b""))
    handle = manager.submit([rig.request(WEIGHTS)], model_id="org/m")
    assert inside.wait(BOUND)
    began = time.monotonic()
    assert handle.cancel()
    assert handle.wait(BOUND)
    assert time.monotonic() - began < 1.0
    go_on.set()


def test_a_body_that_stalls_under_an_adapter_of_urllib3_is_woken(certificates: Certificates) -> None:
    def serve(connection: Connection) -> None:
        if connection.request():
            connection.send(answer(BODY[:100], length=len(BODY)))
            connection.closed_by_client()

    cancel_token, errors = CancelToken(), []
    started = threading.Event()
    with Wire(serve, certificates) as wire, ConnectionPool(2, trust_env=False) as pool:
        pool.get_session().mount("https://", HTTPAdapter())
        pool.get_session().verify = str(certificates.ca)

        def ask() -> None:
            buffer = memoryview(bytearray(1 << 20))
            try:
                with pool.open(wire.url(), None, cancel_token) as response:
                    while response.readinto(buffer):
                        started.set()
            except StopRequestedError as error:
                errors.append(error)

        worker = threading.Thread(target=ask, daemon=True)
        worker.start()
        assert started.wait(BOUND)
        began = time.monotonic()
        cancel_token.set()
        worker.join(BOUND)
        assert len(errors) == 1
        assert time.monotonic() - began < 1.0


def test_connections_of_a_mounted_adapter_serve_again(rig: Rig, manager: ParallelDownloadManager) -> None:
    with Wire(lambda c: [c.send(answer(BODY)) for _ in iter(c.request, "")]) as wire:
        pool = manager.connection_pool
        pool.get_session().mount("http://", HTTPAdapter())
        for _ in range(5):
            assert get(pool, wire.url()) == BODY
        assert wire.accepted == 1
        assert pool.get_stats()["open_connections"] == 0, "the limits are not for them"


# ---- everything else that is set


def test_hooks_see_each_answer_of_a_download_and_of_its_redirect(
    rig: Rig, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    seen: list[int] = []

    def note(answer: requests.Response, **_: Any) -> None:
        seen.append(answer.status_code)
        answer.raise_for_status()

    session_of(manager).hooks["response"].append(note)
    assert by_task(rig, manager, tmp_path) == rig.files[WEIGHTS]
    assert seen[0] == 302
    assert set(seen[1:]) == {206}


def test_the_connection_of_an_answer_that_a_hook_replaces_is_free_for_others() -> None:
    def replace(came: requests.Response, **_: Any) -> requests.Response:
        other = requests.Response()
        other.status_code, other.request, other.raw = 200, came.request, io.BytesIO(b"other")
        return other

    serve = Wire(lambda c: [c.send(answer(BODY)) for _ in iter(c.request, "")])
    with serve as wire, ConnectionPool(1, trust_env=False) as pool:
        pool.get_session().hooks["response"].append(replace)
        assert get(pool, wire.url()) == b"other"
        assert pool.get_stats()["busy_connections"] == 0


def test_the_connection_of_an_answer_whose_hook_fails_is_free_for_others() -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("while a hook asked somebody else")

    serve = Wire(lambda c: [c.send(answer(BODY)) for _ in iter(c.request, "")])
    with serve as wire, ConnectionPool(2, trust_env=False) as pool:
        assert get(pool, wire.url()) == BODY
        pool.get_session().hooks["response"].append(fail)
        with pytest.raises(ConnectionFailedError):  # also if its connection had served before
            get(pool, wire.url())
        assert pool.get_stats()["busy_connections"] == 0


def test_a_refusal_is_told_the_same_if_a_hook_raises_for_it(
    rig: Rig, manager: ParallelDownloadManager
) -> None:
    session_of(manager).hooks["response"].append(lambda answer, **_: answer.raise_for_status())
    missing = rig.request(SMALL, url=rig.url("absent.bin"))
    handle = manager.submit([missing], model_id="org/m")
    assert handle.wait(BOUND)
    ((_, error),) = handle.errors()
    assert isinstance(error, HttpStatusError)
    assert error.status == 404


def test_secrets_of_a_session_stay_at_the_hub(
    rig: Rig, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    session = session_of(manager)

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = TOKEN
        return request

    session.auth = sign
    session.cookies.set("of_hub", "secret", domain="127.0.0.1")
    session.cookies.set("of_nobody", "secret")
    session.headers["X-Lab"] = "7"
    cdn, hub = cdn_of(rig), rig.hub.url
    by_task(rig, manager, tmp_path)
    by_host: dict[str, list[Any]] = {}
    for record in rig.hub.requests:
        if record.headers.get("x-lab") == "7":
            by_host.setdefault(f"http://{record.headers['host']}", []).append(record)
    assert set(by_host) == {hub, cdn}
    assert all(
        record.headers["authorization"] == TOKEN and record.headers["cookie"].count("secret") == 2
        for record in by_host[hub]
    )
    assert [record for record in by_host[cdn] if "authorization" in record.headers] == []
    assert [
        record.headers.get("cookie") for record in by_host[cdn] if "of_nobody" in repr(record.headers)
    ] == []


def test_secrets_of_a_session_go_to_no_other_source(
    rig: Rig, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    with Wire(lambda c: [c.send(answer(b"", "404 Not Found")) for _ in iter(c.request, "")]) as other:
        session = session_of(manager)
        session.headers.update({"Authorization": "Bearer secret", "X-Lab": "7"})
        session.auth = ("me", "secret")
        session.cookies.set("any", "secret")
        source = manager.open_source(
            OtherSource(other.url(""), joins_path=False).stand_in(rig.request(SMALL).remote)
        )
        with pytest.raises(HttpStatusError):
            source.open(None, CancelToken())
        (head,) = other.heads
    assert "X-Lab: 7" in head
    assert "secret" not in head
    assert "authorization" not in head.lower()


def test_digest_authentication_asks_once_more(rig: Rig, manager: ParallelDownloadManager) -> None:
    def serve(connection: Connection) -> None:
        while head := connection.request():
            if "Digest " in head:
                connection.send(answer(BODY))
            else:
                challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
                connection.send(answer(b"who?", "401 Who", WWW_Authenticate=challenge))

    with Wire(serve) as wire:
        pool = manager.connection_pool
        pool.get_session().auth = HTTPDigestAuth("me", "secret")
        assert [get(pool, wire.url()) for _ in range(3)] == [BODY] * 3
        assert (len(wire.heads), wire.accepted) == (4, 1), "the second knows what to say at once"
        assert pool.get_stats()["open_connections"] == 1


def test_a_proxy_that_is_set_on_a_session_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with (
        Wire(lambda c: [c.send(answer(BODY)) for _ in iter(c.request, "")]) as proxy,
        Wire(lambda c: [c.send(answer(b"direct")) for _ in iter(c.request, "")]) as wire,
        ConnectionPool(4, trust_env=False) as pool,
    ):
        assert get(pool, wire.url()) == b"direct"
        pool.get_session().proxies["http"] = proxy.url("")
        assert [get(pool, wire.url()), get(pool, wire.url())] == [BODY, BODY]
        assert proxy.heads[0].startswith(f"GET {wire.url()} ")
        pool.get_session().proxies.clear()
        assert get(pool, wire.url()) == b"direct"
        assert (proxy.accepted, wire.accepted) == (1, 1), "connections are kept for each way"
        monkeypatch.setenv("http_proxy", proxy.url(""))
        assert get(pool, wire.url()) == b"direct"
        pool.get_session().trust_env = True
        assert get(pool, wire.url()) == BODY


def test_certificates_that_are_set_on_a_session_are_trusted(certificates: Certificates) -> None:
    serve = lambda c: [c.send(answer(BODY)) for _ in iter(c.request, "")]  # noqa: E731  one line for each wire
    with Wire(serve, certificates) as wire, ConnectionPool(4, trust_env=False) as pool:
        with pytest.raises(CertificateError):
            get(pool, wire.url())
        pool.get_session().verify = str(certificates.ca)
        assert [get(pool, wire.url()), get(pool, wire.url())] == [BODY, BODY]
        assert pool.get_stats()["open_connections"] == 1
        pool.get_session().verify = True
        with pytest.raises(CertificateError):
            get(pool, wire.url())
        pool.get_session().verify = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert get(pool, wire.url()) == BODY


@pytest.mark.parametrize("spell", [Path, os.fsencode])
def test_a_path_of_certificates_is_the_same_however_it_is_spelled(
    certificates: Certificates, spell: Callable[[str], Any]
) -> None:
    serve = lambda c: [c.send(answer(BODY)) for _ in iter(c.request, "")]  # noqa: E731  one line for each wire
    ca, absent = spell(str(certificates.ca)), spell("/absent.pem")
    with Wire(serve, certificates) as wire, ConnectionPool(4, trust_env=False) as pool:
        session = pool.get_session()
        session.verify = ca
        assert [get(pool, wire.url()), get(pool, wire.url())] == [BODY, BODY]
        assert pool.get_stats()["open_connections"] == 1
        session.verify = absent  # and not the usual ones instead
        with pytest.raises(CertificateError, match=r"/absent\.pem"):
            get(pool, wire.url())
        session.verify, session.cert = True, absent
        with pytest.raises(CertificateError, match=r"/absent\.pem"):
            get(pool, wire.url())
        session.cert = [absent, absent]
        with pytest.raises(CertificateError, match=r"/absent\.pem"):
            get(pool, wire.url())
    with Wire(serve, certificates) as wire, ConnectionPool(4, trust_env=False, verify=ca) as pool:
        assert get(pool, wire.url()) == BODY


@pytest.mark.parametrize(("most", "works"), [(0, False), (2, False), (3, True), (4, True)])
def test_redirects_are_followed_as_often_as_a_session_says(
    rig: Rig, manager: ParallelDownloadManager, most: int, works: bool
) -> None:
    rig.hub.faults.add(Redirects(302, 302), kind="resolve", path=WEIGHTS)  # and one to the storage
    session_of(manager).max_redirects = most
    source = manager.open_source(rig.request(WEIGHTS).remote)
    if works:
        source.open(None, CancelToken()).close()
    else:
        with pytest.raises(TransferError, match=f"more than {most} redirects") as caught:
            source.open(None, CancelToken())
        assert not caught.value.retryable


# ---- other processes


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[ParallelDownloadManager]:
    """The process-wide manager."""
    monkeypatch.setattr("hf_haul.manager._default", None)
    manager = hf_haul.default_manager()
    yield manager
    manager.shutdown(wait=False)


def test_a_pickled_filesystem_reads_by_the_settings_of_the_process_that_loads_it(
    rig: Rig, default: ParallelDownloadManager
) -> None:
    adapter = Counting()
    session_of(default).mount("http://", adapter)
    fs = HaulFileSystem(endpoint=rig.hub.url, token=False, skip_instance_cache=True)
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(f"org/m/{WEIGHTS}") == rig.files[WEIGHTS]
    assert adapter.asked


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_the_settings_and_none_of_the_adapters_connections(
    default: ParallelDownloadManager, tmp_path: Path
) -> None:
    served: list[tuple[int, str]] = []

    def serve(connection: Connection) -> None:
        while head := connection.request():
            served.append((connection.number, head))
            connection.send(answer(BODY))

    adapter = Counting()
    with Wire(serve) as wire:
        pool = default.connection_pool
        session = pool.get_session()
        session.mount("http://", adapter)
        session.headers["X-Lab"] = "7"
        assert get(pool, wire.url()) == BODY
        assert in_child(lambda: _fetch(default, wire.url("/child"), tmp_path / "got") == BODY)
        assert get(pool, wire.url("/parent")) == BODY
    assert (tmp_path / "got").read_bytes() == BODY
    by_path = {head.split()[1]: number for number, head in served}
    assert by_path["/child"] != by_path["/file.bin"] == by_path["/parent"]
    assert all("\r\nX-Lab: 7" in head for _, head in served)


def _fetch(manager: ParallelDownloadManager, url: str, target: Path) -> bytes:
    digest = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    task = manager.add_download_task("m", "a", url, target, len(BODY), digest=digest)
    assert manager.wait_for_model_completion(task, BOUND)["success"]
    return target.read_bytes()
