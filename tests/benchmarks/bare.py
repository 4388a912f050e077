"""The least that fetches a file and checks it: what this machine allows, with nothing that can go wrong handled."""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

__all__ = ["fetch"]

_BUFFER: Final = 512 << 10
_BUFFERS: Final = 16


class _Consumer:
    """Does one thing with all that was received, on a thread of its own, in order."""

    def __init__(self, work: Callable[[memoryview], object]) -> None:
        self._work = work
        self._received: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (data := self._received.get()) is not None:
            self._work(data)
            self._done.put(None)

    def take(self, data: memoryview) -> None:
        self._received.put(data)

    def wait_for_one(self) -> None:
        """Wait until one more is done with."""
        self._done.get()

    def finish(self) -> None:
        self._received.put(None)
        self._thread.join()


def fetch(url: str, target: str, sha256: str) -> None:
    """Fetch a file over one connection: one thread receives, one writes and one hashes.

    Raises:
        ValueError: The bytes have another digest.
    """
    digest = hashlib.sha256()
    sock, left = _body_of(url)
    with sock, open(target, "wb", buffering=0) as out:
        consumers = (_Consumer(out.write), _Consumer(digest.update))
        for number, buffer in enumerate(itertools.cycle(_buffers())):
            if not left:
                break
            if number >= _BUFFERS:  # both have to be done with what it held
                for consumer in consumers:
                    consumer.wait_for_one()
            data = buffer[: min(_BUFFER, left)]
            _fill(data, sock)
            for consumer in consumers:
                consumer.take(data)
            left -= len(data)
        for consumer in consumers:
            consumer.finish()
    if digest.hexdigest() != sha256:
        raise ValueError(f"{url}: sha256 is {digest.hexdigest()}, expected {sha256}")


def _buffers() -> list[memoryview]:
    return [memoryview(bytearray(_BUFFER)) for _ in range(_BUFFERS)]


def _fill(data: memoryview, sock: socket.socket) -> None:
    got = 0
    while got < len(data):
        received = sock.recv_into(data[got:])
        if not received:
            raise ConnectionError("the body was cut short")
        got += received


def _body_of(url: str) -> tuple[socket.socket, int]:
    """A socket that stands at the first byte of the body, and the length of the body."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "", parts.port or 0))
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
        sock = context.wrap_socket(sock, server_hostname=parts.hostname)
    sock.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # no byte too many: the rest is the body's
        head += sock.recv(1)
    answer = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(head.decode())
    return sock, int({name.lower(): value for name, value in answer.items()}[b"content-length"])
