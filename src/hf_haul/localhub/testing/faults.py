"""Faults on demand: what can be wrong with an answer.

Faults are small values that change what is about to be sent (`Effects`); nothing here touches the network, so
every fault can be tried without one. Which requests they hit is said by `rules`.
"""

from __future__ import annotations

import gzip
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from multidict import CIMultiDict

from hf_haul.localhub.objects import BytesContent
from hf_haul.localhub.replies import Reply, text_reply
from hf_haul.localhub.sending import Delivery

__all__ = [
    "ChangedEtag",
    "Corrupt",
    "Cut",
    "Delay",
    "Effects",
    "Fault",
    "GzipBody",
    "Headers",
    "Html",
    "IgnoreRange",
    "Redirects",
    "Reset",
    "Stall",
    "Status",
    "TooLong",
    "Trickle",
    "WrongRange",
    "WrongTotal",
]

Change = Callable[[Reply], None]


@dataclass
class Effects:
    """The combined effects of all faults that hit one request.

    Attributes:
        released: Set when stalls are to end.
        delay: Seconds to wait before the headers.
        reset: Whether the connection is reset instead of an answer.
        instead: Makes the answer to give instead of the real one.
        redirects: Statuses of redirects to go through before the real answer.
        changes: Applied to the real answer, in order.
        delivery: How the body goes out.
    """

    released: threading.Event = field(default_factory=threading.Event)
    delay: float = 0.0
    reset: bool = False
    instead: Callable[[], Reply] | None = None
    redirects: tuple[int, ...] = ()
    changes: list[Change] = field(default_factory=list)
    delivery: Delivery = field(default_factory=Delivery)


class Fault(ABC):
    """Something that can be wrong with an answer."""

    @abstractmethod
    def apply(self, effects: Effects) -> None:
        """Add what this fault does to ``effects``."""


# -- instead of the answer


@dataclass(frozen=True)
class Status(Fault):
    """Another answer: an error, or anything else.

    Attributes:
        status: The HTTP status.
        body: The body, sent as plain text unless ``headers`` say otherwise.
        headers: More headers.
        retry_after: Seconds for ``Retry-After``.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None

    def apply(self, effects: Effects) -> None:
        """Replace the answer by this status."""
        effects.instead = self._reply

    def _reply(self) -> Reply:
        headers = CIMultiDict({"Content-Type": "text/plain", **self.headers})
        if self.retry_after is not None:
            headers["Retry-After"] = f"{self.retry_after:g}"
        return Reply(self.status, headers, BytesContent(self.body), 0, len(self.body))


@dataclass(frozen=True)
class Html(Fault):
    """A web page, as captive portals and broken proxies answer everything.

    Attributes:
        status: The HTTP status.
    """

    status: int = 200

    def apply(self, effects: Effects) -> None:
        """Replace the answer by a page."""
        page = "<!DOCTYPE html><html><body><h1>Please log in to the network</h1></body></html>"
        effects.instead = lambda: text_reply(page, self.status, "text/html")


@dataclass(frozen=True, init=False)
class Redirects(Fault):
    """Redirects to the same resource, one after the other, and then the real answer.

    Attributes:
        codes: Their statuses, such as ``301, 308``.
    """

    codes: tuple[int, ...]

    def __init__(self, *codes: int) -> None:
        object.__setattr__(self, "codes", codes)

    def apply(self, effects: Effects) -> None:
        """Redirect the client several times."""
        effects.redirects += self.codes


# -- before the answer


@dataclass(frozen=True)
class Delay(Fault):
    """A delay before the headers.

    Attributes:
        seconds: How long.
    """

    seconds: float

    def apply(self, effects: Effects) -> None:
        """Delay the answer."""
        effects.delay += self.seconds


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset (RST).

    Attributes:
        after: Body bytes that arrive before; ``None`` for no answer at all, not even headers.
    """

    after: int | None = None

    def apply(self, effects: Effects) -> None:
        """Reset the connection."""
        if self.after is None:
            effects.reset = True
        else:
            effects.delivery.reset_after = self.after


# -- while the body goes out


@dataclass(frozen=True)
class Cut(Fault):
    """The connection ends in order, after less than the announced length.

    Attributes:
        after: Body bytes that are sent.
    """

    after: int

    def apply(self, effects: Effects) -> None:
        """Close the connection early."""
        effects.delivery.cut_after = self.after


@dataclass(frozen=True)
class TooLong(Fault):
    """More bytes follow than were announced.

    Attributes:
        extra: How many.
    """

    extra: int = 1000

    def apply(self, effects: Effects) -> None:
        """Send more bytes."""
        effects.delivery.extra = b"\xee" * self.extra


@dataclass(frozen=True)
class Stall(Fault):
    """The body stops, and the connection stays open, until `Faults.release` or the client leaves.

    Attributes:
        after: Body bytes that are sent before.
    """

    after: int = 0

    def apply(self, effects: Effects) -> None:
        """Stop sending."""
        effects.delivery.stall_after = self.after
        effects.delivery.released = effects.released


@dataclass(frozen=True)
class Trickle(Fault):
    """The body is sent slowly.

    Attributes:
        bytes_per_s: How slowly.
    """

    bytes_per_s: float

    def apply(self, effects: Effects) -> None:
        """Send slowly."""
        effects.delivery.trickle = self.bytes_per_s


# -- in what the answer says


@dataclass(frozen=True)
class Corrupt(Fault):
    """A byte of the file arrives with all its bits inverted.

    Attributes:
        offset: Which one, counted from the start of the file.
    """

    offset: int

    def apply(self, effects: Effects) -> None:
        """Invert the bits."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        reply.patches[self.offset] = 0xFF


@dataclass(frozen=True)
class WrongRange(Fault):
    """A 206 with other bytes than those asked for.

    Attributes:
        shift: How many bytes further on; negative for before.
        admits: Whether ``Content-Range`` says so. If not, only the bytes are wrong.
    """

    shift: int
    admits: bool = True

    def apply(self, effects: Effects) -> None:
        """Move the range."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        if reply.status != 206:
            return
        size, length = reply.content.size, reply.length
        reply.start = max(0, min(reply.start + self.shift, size - length))
        reply.stop = reply.start + length
        if self.admits:
            reply.headers["Content-Range"] = f"bytes {reply.start}-{reply.stop - 1}/{size}"


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """The whole file with a 200, although a range was asked for."""

    def apply(self, effects: Effects) -> None:
        """Send the whole file."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        if reply.status == 206:
            reply.status, reply.start, reply.stop = 200, 0, reply.content.size
            reply.headers.popall("Content-Range", None)


@dataclass(frozen=True)
class WrongTotal(Fault):
    """A ``Content-Range`` with another size of the whole file, and ``X-Linked-Size`` likewise.

    Attributes:
        total: The size it claims, in bytes.
    """

    total: int

    def apply(self, effects: Effects) -> None:
        """Announce a wrong size."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        for name in ("Content-Range", "X-Linked-Size"):
            if name in reply.headers:
                reply.headers[name] = re.sub(r"\d+$", str(self.total), reply.headers[name])


@dataclass(frozen=True)
class ChangedEtag(Fault):
    """Another ``ETag`` (and ``X-Linked-Etag``), as if the file had changed meanwhile.

    Attributes:
        etag: The value, with its quotes.
    """

    etag: str = '"0123456789abcdef"'

    def apply(self, effects: Effects) -> None:
        """Replace the etag."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        for name in ("ETag", "X-Linked-Etag"):
            if name in reply.headers:
                reply.headers[name] = self.etag


@dataclass(frozen=True)
class Headers(Fault):
    """Other headers.

    Attributes:
        values: New values by name; ``None`` to leave a header out. For ``Content-Length`` use
            `Cut` or `TooLong`.
    """

    values: Mapping[str, str | None]

    def apply(self, effects: Effects) -> None:
        """Replace the headers."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        for name, value in self.values.items():
            reply.headers.popall(name, None)
            if value is not None:
                reply.headers[name] = value


@dataclass(frozen=True)
class GzipBody(Fault):
    """A gzipped body with ``Content-Encoding: gzip``, even if only part of a file was asked for."""

    def apply(self, effects: Effects) -> None:
        """Compress the body."""
        effects.changes.append(self._change)

    def _change(self, reply: Reply) -> None:
        plain = reply.content.read(reply.start, reply.length)
        body = gzip.compress(plain, compresslevel=1, mtime=0)
        reply.content, reply.start, reply.stop = BytesContent(body), 0, len(body)
        reply.headers["Content-Encoding"] = "gzip"
