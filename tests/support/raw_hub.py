"""A Hub and its storage whose every header and every byte a test can change: for what no Hub would send."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.wire import Connection, Wire

__all__ = ["COMMIT", "RawAnswer", "RawHub"]

COMMIT = "a" * 40
_REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 404: "Not Found", 416: "Range Not Satisfiable"}


@dataclass
class RawAnswer:
    """One answer, about to be sent.

    Attributes:
        kind: What was asked: ``info``, ``tree``, ``paths-info``, ``resolve`` (redirect or file) or ``cdn``.
        method: How.
        path: Which file, where one was asked for.
        status: The HTTP status.
        headers: Name and value; a name may occur twice.
        body: The bytes; of a HEAD only their number is sent.
        before: Sent before the status line.
        raw: Sent instead of everything, if given.
        close: Whether the connection is closed behind it.
    """

    kind: str
    method: str
    path: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    before: bytes = b""
    raw: bytes | None = None
    close: bool = False

    def set(self, name: str, value: str | None) -> None:
        """Give a header another value, or leave it out."""
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def encode(self) -> bytes:
        """All of it, as it goes over the wire."""
        if self.raw is not None:
            return self.raw
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'X')}"]
        names = {name.lower() for name, _ in self.headers}
        if not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(self.body)}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        return self.before + head + (b"" if self.method == "HEAD" else self.body)


@dataclass
class RawHub:
    """The model ``org/m`` with some files; those called ``*.bin`` are LFS files, redirected to a storage of its own.

    A context manager.

    Attributes:
        files: Contents by path.
        tune: Changes each answer before it is sent.
        take_no_ranges: Whether it sends whole files only, and does not say otherwise.
        asked: Kind, method and path of every request, in order.
    """

    files: dict[str, bytes]
    tune: Callable[[RawAnswer], object] = lambda _answer: None
    take_no_ranges: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sent: list[int] = []

    def __enter__(self) -> RawHub:
        self._stack = ExitStack()
        self.hub = self._stack.enter_context(Wire(self._serve))
        self.cdn = self._stack.enter_context(Wire(self._serve))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where the Hub is; without a slash at its end."""
        return self.hub.url("")

    @property
    def sent(self) -> int:
        """Bytes of files sent so far."""
        return sum(self._sent)

    def file_url(self, path: str) -> str:
        """Where a file is asked for."""
        return f"{self.url}/org/m/resolve/main/{path}"

    def count(self, kind: str, method: str = "GET") -> int:
        """Requests of a kind so far."""
        return sum((k, m) == (kind, method) for k, m, _ in self.asked)

    def entry(self, path: str) -> dict[str, Any]:
        """What a listing says of a file."""
        data = self.files[path]
        found = {"type": "file", "path": path, "size": len(data), "oid": self.etag(path)}
        if path.endswith(".bin"):
            found["oid"] = "b" * 40
            found["lfs"] = {"oid": self.etag(path), "size": len(data), "pointerSize": 132}
        return found

    def etag(self, path: str) -> str:
        """The digest that the Hub calls a file's version by."""
        data = self.files[path]
        if path.endswith(".bin"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def _serve(self, connection: Connection) -> None:
        while head := connection.request():
            line, *fields = head.split("\r\n")
            method, target, _ = line.split(" ", 2)
            headers = {
                name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)
            }
            body = connection.body(int(headers.get("content-length", 0)))
            answer = self._answer(method, target, headers, body)
            self.asked.append((answer.kind, method, answer.path))
            self.tune(answer)
            if method == "GET" and answer.kind in {"resolve", "cdn"}:
                self._sent.append(len(answer.body))
            connection.send(answer.encode())
            if answer.raw is not None or answer.close:
                connection.sock.close()
                return

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> RawAnswer:
        path = unquote(target.partition("?")[0])
        if "/tree/" in path:
            return self._json("tree", method, [self.entry(each) for each in self.files])
        if "/paths-info/" in path:
            wanted = parse_qs(body.decode()).get("paths", [])
            return self._json(
                "paths-info", method, [self.entry(each) for each in wanted if each in self.files]
            )
        if path.startswith("/api/"):
            siblings = [{"rfilename": each} for each in self.files]
            return self._json("info", method, {"id": "org/m", "sha": COMMIT, "siblings": siblings})
        match = re.fullmatch(r"/org/m/resolve/[^/]+/(.*)", path)
        stored = {self._stored(each): each for each in self.files}
        name = match[1] if match else stored.get(path, "")
        if name not in self.files:
            return RawAnswer("resolve", method, name, 404, [("X-Error-Code", "EntryNotFound")], b"")
        return self._file(method, name, headers, stored=path in stored)

    @staticmethod
    def _stored(name: str) -> str:
        """Where the storage has a file, which says nothing of its name."""
        return f"/storage/{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()}"

    @staticmethod
    def _json(kind: str, method: str, value: object) -> RawAnswer:
        return RawAnswer(
            kind, method, "", 200, [("Content-Type", "application/json")], json.dumps(value).encode()
        )

    def _file(self, method: str, name: str, headers: dict[str, str], *, stored: bool) -> RawAnswer:
        data, etag = self.files[name], f'"{self.etag(name)}"'
        if name.endswith(".bin") and not stored:
            linked = [("X-Repo-Commit", COMMIT), ("X-Linked-Etag", etag), ("X-Linked-Size", str(len(data)))]
            # Under another host name: huggingface_hub 1.x takes another port for the same Hub.
            cdn = self.cdn.url("").replace("127.0.0.1", "localhost")
            location = f"{cdn}{self._stored(name)}?X-Amz-Date=20260101T000000Z&X-Amz-Expires=999999999"
            return RawAnswer("resolve", method, name, 302, [("Location", location), *linked], b"")
        more = [("ETag", etag)] if self.take_no_ranges else [("Accept-Ranges", "bytes"), ("ETag", etag)]
        if not stored:
            more.append(("X-Repo-Commit", COMMIT))
        kind, status = ("cdn" if stored else "resolve"), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked is not None and not self.take_no_ranges:
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            if start >= len(data):
                return RawAnswer(
                    kind, method, name, 416, [("Content-Range", f"bytes */{len(data)}"), *more], b""
                )
            more.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"))
            data, status = data[start:stop], 206
        return RawAnswer(kind, method, name, status, more, data)
