"""What only the Hub may see goes to the Hub only, through whichever door the file is asked for."""

from __future__ import annotations

import importlib
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import requests
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.listening import Heard, listening
from tests.support.repos import random_bytes
from tests.support.wire import Connection, Wire, answer

import hf_haul
from hf_haul.cli import command as cli
from hf_haul.config import Settings, Timings
from hf_haul.errors import InvalidUrlError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.testing.faults import Fault, Headers, Reset, Status
from hf_haul.manager import ParallelDownloadManager

TOKEN = "hf_secret"
SETTINGS = Settings(
    first_retry_wait=0.01,
    max_retry_wait=0.05,
    max_retries=1,
    durable=False,
    timings=Timings(ask_again=(0.01,)),
)
#: Redirects in which one parser or another takes the Hub for the host.
MISREAD = [
    "http://{thief}\\@{hub}/{file}",
    "http://{thief}\t@{hub}/{file}",
    "http://{hub}@{thief}/{file}",
    "http://{thief}#@{hub}/{file}",
    "http://{thief}?@{hub}/{file}",
    "//{thief}\\@{hub}/{file}",
    "/\\{thief}/{file}",
    "///{thief}/{file}",
]
#: Redirects to others that are just that.
ELSEWHERE = ["http://{thief}/{file}", "//{thief}/{file}", "http://localhost:{hub_port}/{file}"]


class Thief:
    """Serves the file to whoever comes, and keeps what they brought."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.wire = Wire(self._serve)
        self.host = f"127.0.0.1:{self.wire.port}"

    def _serve(self, connection: Connection) -> None:
        while head := connection.request():
            whole = answer(self._data)
            connection.send(whole.removesuffix(self._data) if head.startswith("HEAD ") else whole)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", weights=10_000, lfs="redirect") as rig:
        yield rig


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = importlib.import_module("huggingface_hub.utils._http")
    monkeypatch.setattr(upstream, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def thief(rig: Rig) -> Iterator[Thief]:
    thief = Thief(rig.files[WEIGHTS])
    with thief.wire:
        yield thief


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(
        settings=SETTINGS, headers={"Authorization": f"Bearer {TOKEN}", "Cookie": TOKEN}
    ) as manager:
        yield manager


def by_snapshot(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    hf_haul.snapshot_download("org/m", endpoint=rig.hub.url, token=TOKEN, cache_dir=tmp_path, manager=manager)


def by_file(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    hf_haul.hf_hub_download(
        "org/m", WEIGHTS, endpoint=rig.hub.url, token=TOKEN, cache_dir=tmp_path, manager=manager
    )


def by_acceleration(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    with hf_haul.accelerate(manager=manager):
        huggingface_hub.hf_hub_download(
            "org/m", WEIGHTS, endpoint=rig.hub.url, token=TOKEN, cache_dir=tmp_path
        )


def filesystem(rig: Rig, manager: ParallelDownloadManager) -> HaulFileSystem:
    fs = HaulFileSystem(endpoint=rig.hub.url, token=TOKEN, skip_instance_cache=True)
    fs.manager = manager
    return fs


def by_reading(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    filesystem(rig, manager).cat_file(f"org/m/{WEIGHTS}")


def by_getting(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    filesystem(rig, manager).get_file(f"org/m/{WEIGHTS}", str(tmp_path / "got"))


def by_manager(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    task = manager.add_download_task("m", WEIGHTS, rig.url(WEIGHTS), tmp_path / "got")
    manager.wait_for_model_completion(task)


def by_command(rig: Rig, manager: ParallelDownloadManager, tmp_path: Path) -> None:
    header = f"Authorization: Bearer {TOKEN}"
    cli.main(["get", rig.url(WEIGHTS), "-o", str(tmp_path / "got"), "-H", header, "-q"])


DOORS: list[Callable[[Rig, ParallelDownloadManager, Path], None]] = [
    by_snapshot, by_file, by_acceleration, by_reading, by_getting, by_manager, by_command,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_redirect_takes_the_token_to_nobody(
    rig: Rig,
    thief: Thief,
    manager: ParallelDownloadManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    door: Callable[[Rig, ParallelDownloadManager, Path], None],
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "1")
    monkeypatch.setenv("HF_HAUL_FIRST_RETRY_WAIT", "0.01")
    own, port = rig.hub.url.removeprefix("http://"), rig.hub.url.rpartition(":")[2]
    for number, form in enumerate([*MISREAD, *ELSEWHERE]):
        location = form.format(thief=thief.host, hub=own, hub_port=port, file=WEIGHTS)
        rig.hub.faults.clear()
        rig.hub.faults.add(Headers({"Location": location}), kind="resolve", path=WEIGHTS, times=None)
        place = tmp_path / str(number)
        place.mkdir()
        with suppress(OSError, huggingface_hub.errors.HfHubHTTPError):
            door(rig, manager, place)
    assert any("bearer" in (record.token or "").lower() for record in rig.hub.requests), "it had been sent"
    assert thief.wire.heads
    assert [head for head in thief.wire.heads if TOKEN in head] == []
    with_token = [record for record in rig.hub.requests if TOKEN in repr(record.headers)]
    assert {record.headers["host"] for record in with_token} == {own}


@pytest.mark.parametrize("form", MISREAD[:3])
def test_a_redirect_that_could_be_misread_fails_its_file_only(rig: Rig, thief: Thief, form: str) -> None:
    own = rig.hub.url.removeprefix("http://")
    location = form.format(thief=thief.host, hub=own, file=WEIGHTS)
    rig.hub.faults.add(Headers({"Location": location}), kind="resolve", path=WEIGHTS, times=None)
    errors = rig.fetch(WEIGHTS, SMALL).errors
    assert list(errors) == [WEIGHTS]
    assert isinstance(errors[WEIGHTS], InvalidUrlError)
    assert thief.wire.heads == []
    assert rig.is_whole(SMALL)


# ---- what is told


SIGNED = "x?Signature=verysecret&Expires=99999999999"
HIDDEN = ("verysecret", "hf_secret", "proxypass", "hubpass", "Signature=", "Basic ", "Bearer ")


def _odd_headers(connection: Connection) -> None:
    head = b"HTTP/1.1 200 OK\r\nLocation: http://cdn/?Signature=verysecret\r\nX-\xff: y\r\nSet-Cookie: verysecret\r\n"
    connection.request()  # and closes: what comes behind such a line, the length too, is not read
    connection.send(head + b"Content-Length: 10000\r\n\r\n" + random_bytes(10_000, "weights"))


def _no_end_of_headers(connection: Connection) -> None:
    if connection.request():
        connection.send(b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: verysecret\r\n" * 200)


def _refusing(connection: Connection) -> None:
    while connection.request():
        connection.send(answer(b"", "407 Who are you"))


def _by_wire(handler: Callable[[Connection], object]) -> Callable[[Rig, ExitStack], None]:
    def go_wrong(rig: Rig, stack: ExitStack) -> None:
        location = stack.enter_context(Wire(handler)).url(f"/{SIGNED}")
        rig.hub.faults.add(Headers({"Location": location}), kind="resolve", path=WEIGHTS, times=None)

    return go_wrong


def _by_fault(fault: Fault, **where: Any) -> Callable[[Rig, ExitStack], None]:
    return lambda rig, _: rig.hub.faults.add(fault, times=None, **where) and None


def _by_location(form: str) -> Callable[[Rig, ExitStack], None]:
    def go_wrong(rig: Rig, stack: ExitStack) -> None:
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        location = form.format(nobody=nobody.getsockname()[1], hub=rig.hub.url.rpartition(":")[2])
        rig.hub.faults.add(Headers({"Location": location}), kind="resolve", path=WEIGHTS, times=None)

    return go_wrong


def _by_option(**options: Any) -> Callable[[Rig, ExitStack], None]:
    def go_wrong(rig: Rig, _: ExitStack) -> None:
        for name, value in options.items():
            setattr(rig.hub.options, name, value)

    return go_wrong


WRONGS: dict[str, Callable[[Rig, ExitStack], None]] = {
    "nothing": lambda *_: None,
    "signed on the hub itself": _by_option(lfs="same_origin"),
    "signed on the hub itself, and refused": lambda rig, _: (
        _by_option(lfs="same_origin")(rig, _),
        _by_fault(Status(403), kind="cdn")(rig, _),
    )[0],
    "not there": _by_fault(Status(404), path=WEIGHTS),
    "refused": _by_fault(Status(401), path=WEIGHTS),
    "expired": _by_fault(Status(403), kind="cdn"),
    "busy": _by_fault(Status(503, retry_after=0), kind="cdn"),
    "the API is busy": _by_fault(Status(500), kind="tree"),
    "reset": _by_fault(Reset(), kind="cdn"),
    "headers that cannot be read": _by_wire(_odd_headers),
    "headers without an end": _by_wire(_no_end_of_headers),
    "closed at once": _by_wire(lambda connection: connection.request()),
    "nobody there": _by_location(f"http://127.0.0.1:{{nobody}}/{SIGNED}"),
    "no such name": _by_location(f"http://nowhere.invalid/{SIGNED}"),
    "no TLS": _by_location(f"https://127.0.0.1:{{hub}}/{SIGNED}"),
    "a backslash": _by_location(f"http://thief.test\\@127.0.0.1:{{hub}}/{SIGNED}"),
    "a password": _by_location("http://user:verysecret@127.0.0.1:{hub}/x"),
    "no address": _by_location(f"http://127.0.0.1:99999/{SIGNED}"),
    "a loop": _by_location(f"{{hub}}/{SIGNED}"),
}


class Bar:
    """A progress bar that tells what it is told."""

    heard: Heard

    def __init__(self, *_: Any, **options: Any) -> None:
        self.n = 0
        self.heard.hear("bar", options)

    def update(self, n: float = 1) -> None:
        self.heard.hear("bar", n)

    def close(self) -> None:
        pass


def tell_everything(rig: Rig, folder: Path, heard: Heard, base: str | None = None, **options: Any) -> None:
    """Go through every door, and have all heard that comes of it."""
    endpoint = base or rig.hub.url
    token = TOKEN
    tell = type("Tell", (Bar,), {"heard": heard})
    with ParallelDownloadManager(
        settings=SETTINGS, headers={"Authorization": f"Bearer {token}"}, **options
    ) as manager:
        manager.events.subscribe(lambda event: heard.hear("event", event))
        fs = HaulFileSystem(endpoint=endpoint, token=token, skip_instance_cache=True)
        fs.manager = manager
        url = f"{rig.url(WEIGHTS, endpoint)}?Signature=verysecret"
        request = rig.request(WEIGHTS, url=url, digest=None, etag=None)
        heard.hear("request", request, manager.settings, repr(manager), repr(fs))

        def in_a_queue() -> None:
            task = manager.add_download_task("m", "a", url, folder / "a", progress_callback=tell_progress)
            handle = manager.submit([request], model_id="m")
            for result in (
                manager.wait_for_model_completion(task, 60),
                handle.wait(60) and handle.progress(),
                manager.get_download_stats(),
                manager.get_model_queue_status(task),
            ):
                heard.hear("status", result)
            for _, error in handle.errors():
                heard.hear_error(error)

        def tell_progress(progress: object) -> None:
            heard.hear("progress", progress)

        asked = {"endpoint": endpoint, "token": token, "manager": manager, "tqdm_class": tell}
        for work in (
            lambda: hf_haul.snapshot_download("org/m", cache_dir=folder / "c", **asked),
            lambda: hf_haul.hf_hub_download("org/m", WEIGHTS, local_dir=folder / "l", **asked),
            lambda: hf_haul.hf_hub_download("org/m", WEIGHTS, cache_dir=folder / "d", dry_run=True, **asked),
            lambda: heard.hear("listing", fs.ls("org/m")),
            lambda: fs.cat_file(f"org/m/{WEIGHTS}", end=100),
            lambda: fs.get_file(f"org/m/{WEIGHTS}", str(folder / "g")),
            in_a_queue,
        ):
            try:
                work()
            except Exception as error:
                heard.hear_error(error)


def test_every_request_and_its_answer_is_told_over_whichever_connection(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "hf_haul.transports.http"), rig.manager() as manager:
        for _ in range(3):
            handle = manager.submit([rig.request(WEIGHTS, fresh=True)], model_id="m")
            assert handle.wait(60)
            assert handle.errors() == []
    told = [record.getMessage() for record in caplog.records]
    asked = [message.split(" ")[1] for message in told if message.startswith("GET ")]
    answered = [message.split(" from ")[1] for message in told if " from " in message]
    assert sorted(asked) == sorted(answered)
    assert len(asked) >= len(rig.hub.requests) > 3
    assert {message[:3] for message in told if " from " in message} <= {"200", "206", "302"}
    assert not any(secret in message for message in told for secret in HIDDEN)


@pytest.mark.parametrize("wrong", WRONGS)
def test_nothing_that_is_told_holds_a_secret(rig: Rig, tmp_path: Path, wrong: str) -> None:
    with ExitStack() as stack, listening() as heard:
        WRONGS[wrong](rig, stack)
        tell_everything(rig, tmp_path, heard)
    assert len(heard.told) > 30
    assert any(name.startswith("httpcore") for name, _ in heard.told)
    assert any(name.startswith("urllib3") for name, _ in heard.told)
    assert heard.holds(*HIDDEN) == []


def test_nothing_that_is_told_holds_the_password_of_the_endpoint(rig: Rig, tmp_path: Path) -> None:
    with listening() as heard:
        tell_everything(rig, tmp_path, heard, rig.hub.url.replace("//", "//user:hubpass@"))
    assert rig.hub.requests
    assert heard.holds(*HIDDEN) == []


@pytest.mark.parametrize(
    "form",
    [
        "http://user:proxypass@127.0.0.1:{proxy}", "http://user:proxypass@127.0.0.1:{nobody}",
        "http://user:proxypass@nowhere.invalid:1", "http://user:proxypass@[bad.invalid", "http://user:proxypass@127.0.0.1:99999",
        "ftp://user:proxypass@127.0.0.1:{proxy}", "socks9://user:proxypass@127.0.0.1:1", "socks5://user:proxypass@127.0.0.1:{nobody}",
        "user:proxypass@127.0.0.1:x",
    ],
)  # fmt: skip
def test_nothing_that_is_told_holds_the_password_of_a_proxy(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with ExitStack() as stack, listening() as heard:
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))
        proxy = form.format(proxy=stack.enter_context(Wire(_refusing)).port, nobody=nobody.getsockname()[1])
        tell_everything(rig, tmp_path / "1", heard, proxies={"http": proxy, "https": proxy})
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.setenv("NO_PROXY", "")
        huggingface_hub.close_session()  # its client reads the environment once
        tell_everything(rig, tmp_path / "2", heard)
    huggingface_hub.close_session()
    assert heard.holds(*HIDDEN) == []


def test_what_the_application_asks_for_itself_is_told_as_ever(rig: Rig, tmp_path: Path) -> None:
    url = f"{rig.url(WEIGHTS)}?Signature=theapplications"
    with listening() as heard:
        tell_everything(rig, tmp_path, heard)
        requests.get(url, timeout=10, allow_redirects=False)
        with suppress(huggingface_hub.errors.HfHubHTTPError):
            huggingface_hub.utils.http_backoff("GET", url)
    told = [name.partition(".")[0] for name, text in heard.told if "theapplications" in text]
    assert {"urllib3", "huggingface_hub"} < set(told)
    assert any(name.startswith("httpx") for name in told)


@pytest.mark.parametrize(
    "said",
    [
        b"GET /x?Signature=verysecret NONSENSE\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization Bearer hf_secret\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer hf_secret\0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + b"hf_secret" * 2000 + b"\r\n\r\n",
        b"G\0T /x?Signature=verysecret\r\n\r\n",
        b"GET http://user:verysecret@[/x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_the_local_hub_does_not_tell_what_it_cannot_read(rig: Rig, said: bytes) -> None:
    with (
        listening() as heard,
        socket.create_connection(("127.0.0.1", int(rig.hub.url.rpartition(":")[2]))) as sock,
    ):
        sock.settimeout(30)
        sock.sendall(said)
        assert b" 400 " in sock.recv(1000)
    assert heard.holds(*HIDDEN) == []
