"""What the hub was asked and what it sent; tests read it while the hub runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

__all__ = ["RequestLog", "RequestRecord"]


@dataclass
class RequestRecord:
    """One request, filled in while the answer is sent; times are ``time.monotonic()``.

    Attributes:
        method: ``"GET"``, ``"HEAD"`` or ``"POST"``.
        kind: The route: ``"info"``, ``"tree"``, ``"resolve"``, ``"cdn"`` and so on.
        url: The request target, as it was sent (still percent-encoded).
        repo_id: The repository asked for, or ``""``.
        path: The file or directory in the repository, or ``""``.
        headers: What the client sent; names in lower case.
        connection: A number for the connection, unique in one hub.
        start: When the request was read, in seconds.
        range: The ``Range`` header, or ``""``.
        status: The status sent; 0 if none was.
        body_bytes: Body bytes handed to the network so far.
        first_byte: When the headers were sent, in seconds; ``None`` before that.
        end: When the answer was over, whole or not; ``None`` while it lasts.
        complete: Whether the whole answer went out as it was meant to.
        faults: Names of the faults that hit this request.
        client: Address of the client, or ``""``.
        arrived: Whether the body was, or is, sent while it is fetched from elsewhere.
        length: Body bytes of the whole answer, once that is known.
    """

    method: str
    kind: str
    url: str
    repo_id: str
    path: str
    headers: Mapping[str, str] = field(repr=False)  # a token, for instance
    connection: int
    start: float
    range: str = ""
    status: int = 0
    body_bytes: int = 0
    first_byte: float | None = None
    end: float | None = None
    complete: bool = False
    faults: list[str] = field(default_factory=list)
    client: str = ""
    arrived: bool = False
    length: int = 0

    @property
    def token(self) -> str | None:
        """The ``Authorization`` header the client sent, or ``None``."""
        return self.headers.get("authorization")


class RequestLog:
    """Every request in the order of arrival. Iterating gives those logged at that moment.

    Safe for threads: ``_changed`` guards the list. Records are written by the hub's thread only.

    Args:
        most: How many requests are kept, the latest; ``None`` for all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._changed = threading.Condition()
        self._records: deque[RequestRecord] = deque(maxlen=most)

    def __iter__(self) -> Iterator[RequestRecord]:
        with self._changed:
            return iter(list(self._records))

    def __len__(self) -> int:
        with self._changed:
            return len(self._records)

    def __getitem__(self, index: int) -> RequestRecord:
        with self._changed:
            return self._records[index]

    def of(self, kind: str | None = None, path: str = "*", method: str | None = None) -> list[RequestRecord]:
        """Return the requests of one kind, path (a glob, ``*`` crosses ``/``) and method."""
        return [
            record
            for record in self
            if (kind is None or record.kind == kind)
            and (method is None or record.method == method)
            and fnmatchcase(record.path, path)
        ]

    def clear(self) -> None:
        """Forget everything; requests that are still running are forgotten too."""
        with self._changed:
            self._records.clear()

    @property
    def body_bytes(self) -> int:
        """Body bytes sent for the requests in the log, counted up to now."""
        return sum(record.body_bytes for record in self)

    def peak(self, kind: str | None = None, path: str = "*") -> int:
        """Return the largest number of requests that were being answered at the same moment."""
        events: list[tuple[float, int]] = []
        for record in self.of(kind, path):
            events.append((record.start, 1))
            if record.end is not None:
                events.append((record.end, -1))
        running = most = 0
        for _when, step in sorted(events):
            running += step
            most = max(most, running)
        return most

    def wait_for(self, condition: Callable[[RequestLog], object], timeout: float = 10.0) -> bool:
        """Wait until ``condition(log)`` is true; it is tried whenever something is sent.

        Args:
            condition: Looks at the log.
            timeout: Seconds to wait at most.

        Returns:
            Whether it became true in time.
        """
        deadline = time.monotonic() + timeout
        while not condition(self):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                # Bytes are counted without a notification each, so look again now and then.
                self._changed.wait(min(left, 0.02))
        return True

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until no request is being answered, so that all counts are final.

        A client may have its last byte a moment before the hub has counted it.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether that came true in time.
        """
        return self.wait_for(lambda log: all(one.end is not None for one in log), timeout)

    def add(self, record: RequestRecord) -> None:
        """Append a request; called by the hub."""
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def touch(self) -> None:
        """Note that a record has changed; called by the hub."""
        with self._changed:
            self._changed.notify_all()
