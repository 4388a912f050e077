"""What the user told huggingface_hub about the network holds for the bytes, through every door."""

from __future__ import annotations

import importlib
import selectors
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from tests.support.engine import SETTINGS, SMALL, TOKEN, WEIGHTS, Rig, serve_files
from tests.support.hub import make_certificate
from tests.support.wire import Connection, Wire, answer

import hf_haul
from hf_haul.cancellation import CancelToken
from hf_haul.errors import CertificateError, ConnectionFailedError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub import asking
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import NetworkPath
from hf_haul.transports.pool import ConnectionPool

http: Any = asking.httpx  # httpx or httpx2, whichever huggingface_hub speaks
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    yield
    huggingface_hub.set_client_factory(
        importlib.import_module("huggingface_hub.utils._http").default_client_factory
    )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", weights=10_000, lfs="redirect") as rig:
        yield rig


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Rig]:
    cert, key = certificate
    with serve_files(tmp_path / "out", weights=10_000, lfs="redirect", certfile=cert, keyfile=key) as rig:
        yield rig


def forward(connection: Connection) -> None:
    """What a proxy does, for one request of plain http."""
    head = connection.request()
    method, url, _ = head.split(" ", 2)
    parts = urlsplit(url)
    lines = [
        line for line in head.split("\r\n")[1:] if not line.lower().startswith(("proxy-", "connection:"))
    ]
    with socket.create_connection((parts.hostname, parts.port)) as beyond:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        request = [f"{method} {target} HTTP/1.1", *lines, "Connection: close", "Via: 1.1 proxy"]
        beyond.sendall("\r\n".join(request).encode("latin-1") + b"\r\n\r\n")
        while data := beyond.recv(65536):
            connection.send(data)


def tunnel(connection: Connection) -> None:
    """What a proxy does for https: connect, and pass on whatever is said."""
    _, place, _ = connection.request().split(" ", 2)
    host, _, port = place.rpartition(":")
    connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    with socket.create_connection((host, int(port))) as beyond, selectors.DefaultSelector() as both:
        pairs = {connection.sock: beyond, beyond: connection.sock}
        for sock in pairs:
            both.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in both.select():
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]  # sockets only
                if not data:
                    return
                pairs[key.fileobj].sendall(data)  # type: ignore[index]  # the same


def use(**options: Any) -> None:
    huggingface_hub.set_client_factory(lambda: http.Client(follow_redirects=True, **options))


def all_doors(rig: Rig, folder: Path) -> None:
    """Fetch the repository through every door; each has to bring the right bytes."""
    token = TOKEN.removeprefix("Bearer ")
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        asked: dict[str, Any] = {"endpoint": rig.hub.url, "token": token}
        whole = hf_haul.snapshot_download("org/m", cache_dir=folder / "a", manager=manager, **asked)
        file = hf_haul.hf_hub_download("org/m", WEIGHTS, cache_dir=folder / "b", manager=manager, **asked)
        with hf_haul.accelerate(manager=manager):
            theirs = huggingface_hub.hf_hub_download("org/m", WEIGHTS, cache_dir=folder / "c", **asked)
        fs = HaulFileSystem(endpoint=rig.hub.url, token=token, skip_instance_cache=True)
        fs.manager = manager
        assert fs.cat_file(f"org/m/{WEIGHTS}") == rig.files[WEIGHTS]
    for path in (Path(whole, WEIGHTS), Path(file), Path(theirs)):
        assert path.read_bytes() == rig.files[WEIGHTS]
    assert Path(whole, SMALL).read_bytes() == rig.files[SMALL]


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, DEAD)


@pytest.mark.usefixtures("dead_proxy")
def test_a_client_that_reads_no_environment_has_no_proxies(rig: Rig, tmp_path: Path) -> None:
    use(trust_env=False)
    all_doors(rig, tmp_path)


@pytest.mark.usefixtures("dead_proxy")
def test_no_proxy_may_name_a_port(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [urlsplit(url).netloc for url in (rig.hub.url, rig.hub.cdn_url)]
    monkeypatch.setenv("NO_PROXY", ", ".join(hosts))
    huggingface_hub.close_session()
    all_doors(rig, tmp_path)


def test_a_client_that_trusts_a_certificate_is_followed(
    secure: Rig, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    use(verify=ssl.create_default_context(cafile=str(certificate[0])))
    all_doors(secure, tmp_path)


def test_a_certificate_that_nobody_trusts_is_refused(secure: Rig) -> None:
    error = secure.fetch(WEIGHTS).errors[WEIGHTS]
    assert isinstance(error, CertificateError)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_client_that_verifies_nothing_is_followed(secure: Rig, tmp_path: Path) -> None:
    use(verify=False)
    all_doors(secure, tmp_path)


def test_a_clients_proxy_is_used_with_what_it_is_told(rig: Rig, tmp_path: Path) -> None:
    with Wire(forward) as proxy:
        url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        use(proxy=http.Proxy(url, headers={"X-Team": "a"}))
        all_doors(rig, tmp_path)
        asked = [head.split(" ", 2)[1] for head in proxy.heads]
        assert all("proxy-authorization: basic dxnlcjpwqhnz" in head.lower() for head in proxy.heads)
        assert all("\r\nx-team: a" in head.lower() for head in proxy.heads)
    for origin in (rig.hub.url, rig.hub.cdn_url):
        assert sum(url.startswith(origin) for url in asked) >= 4
    assert all("Via" in record.headers or "via" in record.headers for record in rig.hub.requests)


def test_a_clients_proxy_tunnels_to_what_the_client_trusts(
    secure: Rig, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    with Wire(tunnel) as proxy:
        url = f"http://user:pass@127.0.0.1:{proxy.port}"
        use(proxy=url, verify=ssl.create_default_context(cafile=str(certificate[0])))
        all_doors(secure, tmp_path)
        places = {head.split(" ", 2)[1] for head in proxy.heads}
        assert all("proxy-authorization: basic dxnlcjpwyxnz" in head.lower() for head in proxy.heads)
    assert places == {urlsplit(url).netloc for url in (secure.hub.url, secure.hub.cdn_url)}


def test_a_mount_is_used_for_its_own_origin(rig: Rig, tmp_path: Path) -> None:
    with Wire(forward) as proxy:
        use(mounts={rig.hub.cdn_url: http.HTTPTransport(proxy=f"http://127.0.0.1:{proxy.port}")})
        all_doors(rig, tmp_path)
        assert proxy.heads
        assert all(head.split(" ", 2)[1].startswith(rig.hub.cdn_url) for head in proxy.heads)


def test_a_clients_headers_and_cookies_go_to_the_hub_and_nowhere_else(rig: Rig, tmp_path: Path) -> None:
    use(headers={"X-Team": "a"}, cookies={"session": "s"})
    all_doors(rig, tmp_path)
    fetched = [record for record in rig.hub.requests if record.method == "GET" and record.kind == "resolve"]
    assert len(fetched) >= 3
    for record in fetched:
        assert (record.headers["x-team"], record.headers["cookie"]) == ("a", "session=s")
        assert record.token == TOKEN
    on_storage = list(rig.hub.requests.of("cdn"))
    assert on_storage
    assert all({"x-team", "cookie", "authorization"}.isdisjoint(record.headers) for record in on_storage)


def test_what_cannot_be_carried_over_is_said_once_and_the_bytes_come(rig: Rig, tmp_path: Path) -> None:
    class Counting(http.HTTPTransport):  # type: ignore[misc]  # httpx or httpx2, known at run time only
        count = 0

        def handle_request(self, request: Any) -> Any:
            Counting.count += 1
            return super().handle_request(request)

    huggingface_hub.set_client_factory(lambda: http.Client(follow_redirects=True, transport=Counting()))
    with pytest.warns(UserWarning, match=r"what its transport does \(Counting\).*verify_tls=") as told:
        all_doors(rig, tmp_path)
    assert len([each for each in told if "set_client_factory" in str(each.message)]) == 1
    assert Counting.count


# ---- what the pool was told itself goes first


class Paths:
    """A caller who has everything reached in one way."""

    def __init__(self, **path: Any) -> None:
        self._path = NetworkPath(**path)

    def path_to(self, url: str) -> NetworkPath:
        return self._path


def well_behaved(connection: Connection) -> None:
    while connection.request():
        connection.send(answer(b"bytes"))


def read(pool: ConnectionPool, url: str, paths: Paths | None) -> bytes:
    with pool.open(url, None, CancelToken(), network=paths) as response:
        return response.head()


@pytest.mark.parametrize(
    ("options", "direct"), [({}, False), ({"proxies": {"http": ""}}, True), ({"trust_env": False}, True)]
)
def test_proxies_of_the_pool_go_before_those_of_a_client(options: dict[str, Any], direct: bool) -> None:
    with Wire(well_behaved) as wire, ConnectionPool(4, **options) as pool:
        if direct:
            assert read(pool, wire.url(), Paths(proxy=DEAD)) == b"bytes"
        else:
            with pytest.raises(ConnectionFailedError, match="its proxy"):
                read(pool, wire.url(), Paths(proxy=DEAD))


def test_certificates_of_the_pool_go_before_those_of_a_client(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    strict = ssl.create_default_context()
    both: list[tuple[Any, Paths, type[Exception] | None]] = [
        (True, Paths(tls=context), None),
        (True, Paths(tls=strict), CertificateError),
        (context, Paths(tls=strict), None),
        (str(certificate[0]), Paths(tls=strict), None),
        (context, Paths(), None),
    ]
    with serve_tls(certificate) as wire:
        for verify, paths, error in both:
            with ConnectionPool(4, verify=verify) as pool:
                if error is None:
                    assert read(pool, wire.url(), paths) == b"bytes"
                else:
                    with pytest.raises(error):
                        read(pool, wire.url(), paths)
    assert context.verify_mode is strict.verify_mode is ssl.CERT_REQUIRED


def serve_tls(certificate: tuple[Path, Path]) -> Wire:
    from tests.support.certs import Certificates

    return Wire(well_behaved, Certificates(certificate[0], certificate[0], certificate[1]))


def test_connections_made_in_one_way_serve_no_other(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with serve_tls(certificate) as wire, ConnectionPool(4) as pool:
        assert read(pool, wire.url(), Paths(tls=context)) == b"bytes"
        assert read(pool, wire.url(), Paths(tls=context)) == b"bytes"
        assert wire.accepted == 1
        with pytest.raises(CertificateError):
            read(pool, wire.url(), None)


def test_a_source_address_is_used() -> None:
    seen = []

    def serve(connection: Connection) -> None:
        seen.append(connection.sock.getpeername()[0])
        well_behaved(connection)

    with Wire(serve) as wire, ConnectionPool(4) as pool:
        with suppress(ConnectionFailedError):  # where only 127.0.0.1 exists
            read(pool, wire.url(), Paths(source_address="127.0.0.2"))
        read(pool, wire.url(), None)
    assert seen[-1] == "127.0.0.1"
    assert len(seen) == 1 or seen[0] == "127.0.0.2"
