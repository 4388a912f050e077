"""What every test runs under: no network but the loopback interface, no token, no cache of the user's."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.wants import NO_SKIP

#: huggingface_hub reads its environment when it is imported, so this has to come before any test does.
HOME = Path(tempfile.mkdtemp(prefix="hf-haul-tests-"))


def _isolate() -> None:
    for name in list(os.environ):
        if name == NO_SKIP:  # ours, and no setting of hf_haul
            continue
        if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.update(
        HF_HOME=str(HOME / "hf"),
        XDG_CACHE_HOME=str(HOME / "cache"),
        HF_ENDPOINT="http://127.0.0.1:9",  # nobody listens there: a test that forgets its endpoint fails at once
        HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_UPDATE_CHECK="1",
        HF_HUB_DISABLE_XET="1",
        NO_PROXY="*",
    )


_isolate()


class NetworkRefusedError(RuntimeError):
    """A test wanted to leave the machine."""


class _Guard:
    """Stands in for the ways out of this machine, and remembers who tried them."""

    def __init__(self) -> None:
        self.allowed = False
        self.tried: list[str] = []
        self._lock = threading.Lock()
        self._connect = socket.socket.connect
        self._connect_ex = socket.socket.connect_ex
        self._sendto = socket.socket.sendto
        self._getaddrinfo = socket.getaddrinfo

    def install(self, patch: pytest.MonkeyPatch) -> None:
        guard = self

        def connect(sock: socket.socket, address: Any) -> None:
            guard.check(sock.family, address)
            return guard._connect(sock, address)

        def connect_ex(sock: socket.socket, address: Any) -> int:
            guard.check(sock.family, address)
            return guard._connect_ex(sock, address)

        def sendto(sock: socket.socket, data: Any, *rest: Any) -> int:
            guard.check(sock.family, rest[-1])
            return guard._sendto(sock, data, *rest)

        def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if isinstance(name, str) and name.rpartition(".")[2] == "invalid":
                # Reserved for this (RFC 6761): it must not resolve, and no name server need be asked.
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            if name:
                guard.check(socket.AF_INET, (name, 0))
            return guard._getaddrinfo(host, *rest, **more)

        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        patch.setattr(socket.socket, "sendto", sendto)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)

    def check(self, family: int, address: Any) -> None:
        if self.allowed or family not in {socket.AF_INET, socket.AF_INET6} or _is_local(str(address[0])):
            return
        with self._lock:
            self.tried.append(f"{address!r} in thread {threading.current_thread().name}")
        raise NetworkRefusedError(f"tests stay on the loopback interface, {address!r} is not on it")


def _is_local(host: str) -> bool:
    if host in {"", "localhost"} or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


_guard = _Guard()


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        _guard.install(patch)
        yield


@pytest.fixture(autouse=True)
def _stay_on_loopback(request: pytest.FixtureRequest) -> Iterator[None]:
    """A refused connection fails its test, even where the code under test took the refusal for a bad network."""
    _guard.tried.clear()
    _guard.allowed = request.node.get_closest_marker("network") is not None
    yield
    _guard.allowed = False
    tried, _guard.tried[:] = list(_guard.tried), []
    if tried and request.node.get_closest_marker("refused_network") is None:
        pytest.fail(f"tried to leave the loopback interface: {'; '.join(tried)}")


@pytest.fixture(autouse=True)
def _fresh_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts with no settings of ours, whatever the one before it set."""
    for name in list(os.environ):
        if name.startswith("HF_HAUL_") and name != NO_SKIP:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HAUL_CONFIG", "")


@pytest.fixture(autouse=True)
def _fresh_default_manager() -> Iterator[None]:
    """The manager of the process ends with the test that made it: its settings are that test's, and its threads idle on."""
    yield
    module = sys.modules.get("hf_haul.manager")  # most tests of parts never import it
    if module is not None and module._default is not None:
        module._default.shutdown(wait=False)
        module._default = None


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
