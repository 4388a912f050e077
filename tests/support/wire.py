"""A server whose every byte is written by the test: for what no well-behaved server would do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.certs import Certificates

__all__ = ["Connection", "Wire", "answer", "blackhole", "until"]

BOUND = 20.0  # seconds after which a test has failed


def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Look until ``condition`` holds; for states of another thread that announce themselves in no other way."""
    deadline = time.monotonic() + BOUND
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.002)


def answer(body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """A whole answer as bytes; ``length`` lies about the body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.requests = 0
        self._buffer = b""

    def request(self) -> str:
        """The next request's head; ``""`` once the client has closed."""
        while b"\r\n\r\n" not in self._buffer:
            try:
                data = self.sock.recv(65536)
            except OSError:
                return ""
            if not data:
                return ""
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.requests += 1
        return head.decode("latin-1")

    def body(self, length: int) -> bytes:
        """What follows the last request's head."""
        while len(self._buffer) < length and (data := self.sock.recv(65536)):
            self._buffer += data
        found, self._buffer = self._buffer[:length], self._buffer[length:]
        return found

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def closed_by_client(self) -> bool:
        """Wait until the client closes; what it sends before is thrown away."""
        try:
            while self.sock.recv(65536):
                pass
        except OSError:
            pass
        return True


Handler = Callable[[Connection], object]


class Wire:
    """Listens on the loopback interface and runs ``handler`` for each connection, in a thread of its own.

    Attributes:
        port: Where it listens.
        accepted: Connections so far.
        open: Connections open now.
        peak: Most connections open at once.
        heads: Every request's head, in order of arrival, where the handler used ``Connection.request``.
    """

    def __init__(self, handler: Handler, certificates: Certificates | None = None) -> None:
        self.handler = handler
        self.accepted = self.open = self.peak = 0
        self.heads: list[str] = []
        self._context: ssl.SSLContext | None = None
        if certificates is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificates.cert, certificates.key)
        self._lock = threading.Lock()
        self._socks: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, path: str = "/file.bin", host: str = "127.0.0.1") -> str:
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self.open += 1
                self.peak = max(self.peak, self.open)
                self._socks.add(sock)
                number = self.accepted
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        raw = sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.getpeername()  # raises if the client is gone, where wrap_socket would leave it open
                sock = self._context.wrap_socket(sock, server_side=True)
            connection = _Logged(sock, number, self.heads)
            with contextlib.suppress(OSError):
                self.handler(connection)
        except OSError:
            pass
        finally:
            with self._lock:
                self.open -= 1
                self._socks.discard(raw)
            sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self._thread.join(BOUND)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Logged(Connection):
    def __init__(self, sock: socket.socket, number: int, heads: list[str]) -> None:
        super().__init__(sock, number)
        self._heads = heads

    def request(self) -> str:
        head = super().request()
        if head:
            self._heads.append(head)
        return head


@contextmanager
def blackhole() -> Iterator[int]:
    """A port that answers no connection attempt: its queue is full. Yields the port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.settimeout(0.0)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    try:
        yield int(listener.getsockname()[1])
    finally:
        for sock in (listener, *fillers):
            sock.close()
