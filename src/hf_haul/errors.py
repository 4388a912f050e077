"""Every exception that hf-haul raises on purpose.

Errors about the Hub itself (a missing repository, a gated file, offline mode) are huggingface_hub's own
classes, so that callers' ``except`` clauses keep working; they do not appear here.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from hf_haul.headers import Headers

__all__ = [
    "CertificateError",
    "ConnectionFailedError",
    "DiskFullError",
    "DownloadCancelledError",
    "HaulError",
    "HttpStatusError",
    "IntegrityError",
    "InvalidUrlError",
    "LinkExpiredError",
    "RangeRefusedError",
    "RetriesExhaustedError",
    "ServerBusyError",
    "SourceChangedError",
    "StalledError",
    "StopRequestedError",
    "TooManyOpenFilesError",
    "TransferError",
    "UnsafePathError",
    "WrongBytesError",
    "add_note",
    "name_file",
]


class HaulError(Exception):
    """Base of every error raised by hf-haul. Survives pickling, so it may cross a process border."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[HaulError], args: tuple[Any, ...], state: dict[str, Any]) -> HaulError:
    """Make an error anew without its ``__init__``, whose parameters are not those of the base class."""
    error = kind.__new__(kind, *args)
    (OSError if isinstance(error, OSError) else Exception).__init__(error, *args)
    error.__setstate__(state)
    return error


class UnsafePathError(HaulError, ValueError):
    """A repository path that would leave the folder it is meant for."""


class DownloadCancelledError(HaulError):
    """The download was cancelled by its owner; what was fetched stays on disk for a later resume."""


class StopRequestedError(HaulError):
    """Control flow inside a worker: its part was paused, cancelled, taken away or shut down."""


class IntegrityError(HaulError, OSError):
    """A complete file whose digest is not the one its source announced; it was not published.

    Attributes:
        file_path: Which file, as its repository names it.
        expected: Hex digest announced by the source.
        actual: Hex digest of the bytes received.
        resumed_bytes: How many of the bytes came from an earlier session.
    """

    def __init__(self, file_path: str, expected: str, actual: str, resumed_bytes: int = 0) -> None:
        self.file_path = file_path
        self.expected = expected
        self.actual = actual
        self.resumed_bytes = resumed_bytes
        super().__init__(
            f"{self.finding}. Nothing was published. The source, a proxy or the disk changes bytes; try again, or ask "
            "for another mirror."
        )

    @property
    def finding(self) -> str:
        """What was found, without what to do about it."""
        resumed = f", {self.resumed_bytes} bytes of it from an earlier session" if self.resumed_bytes else ""
        return (
            f"{self.file_path}: digest does not match (expected {self.expected}, got {self.actual}{resumed})"
        )


class DiskFullError(HaulError, OSError):
    """Not enough free space, seen before the first byte or in the middle of a file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)

    def __str__(self) -> str:
        return str(self.args[1])


class TooManyOpenFilesError(HaulError, OSError):
    """Nothing can be opened any more: this process has as many files and sockets open as it may."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EMFILE, message)

    def __str__(self) -> str:
        return str(self.args[1])


class TransferError(HaulError, OSError):
    """Fetching bytes from a source failed.

    Attributes:
        retryable: Whether another attempt can help.
        retry_after: Seconds the source asked us to wait, if it did.
        host: Which server it is about, ``host`` or ``host:port``, where that is known.
    """

    retryable: bool = False
    host: str | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConnectionFailedError(TransferError):
    """No connection, or it broke: refused, reset, timed out, cut short, name not resolved."""

    retryable = True


class StalledError(ConnectionFailedError):
    """A connection that delivered nothing, or far less than its peers, and was abandoned."""


class ServerBusyError(TransferError):
    """The server asked the client to wait: 408, 425, 429 or a 5xx status.

    Attributes:
        counts_requests: Whether it was 429: nothing is wrong, only the next request has to wait for its turn.
    """

    retryable = True
    counts_requests: bool = False


class InvalidUrlError(TransferError, ValueError):
    """No URL of http or https, or one that could be read in two ways.

    A server's may hold no user or password.
    """


class LinkExpiredError(TransferError):
    """A signed URL no longer answers (400, 401, 403, 404, 410); resolving it again may help."""

    retryable = True


class RangeRefusedError(TransferError):
    """The server did not send the range it was asked for.

    Not repeated as it is: the file is fetched in one stream then, from its first byte.
    """


class SourceChangedError(TransferError):
    """The source serves another file than expected: other size, other etag.

    Tried again a few times, because a broken proxy looks the same.
    """

    retryable = True


class WrongBytesError(TransferError):
    """A source sent other bytes than it announces itself; another one has to be asked."""


class HttpStatusError(TransferError):
    """A status that no retry will change.

    Attributes:
        status: The HTTP status code.
        url: What was asked for, without its query.
        headers: The answer's headers, by names in any case; a Hub says in them what is wrong.
        body: The first bytes of the answer's body.
        sent_token: Whether a token, or a password, was sent with the request.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        url: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        sent_token: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.url = url
        self.headers: Mapping[str, str] = _in_any_case(headers or {})
        self.body = body
        self.sent_token = sent_token

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        """Take up what was pickled, by older versions too: plain headers, and no ``sent_token``."""
        super().__setstate__({"sent_token": False, **(state or {})})
        self.headers = _in_any_case(self.headers)


def _in_any_case(headers: Mapping[str, str]) -> Headers:
    return Headers({name.lower(): value for name, value in headers.items()})


class CertificateError(TransferError):
    """The server's TLS certificate or handshake was refused; never retried."""


class RetriesExhaustedError(TransferError):
    """A fault that lasted: the message names file, host, what was tried and for how long."""


def name_file(error: Exception, path: str) -> None:
    """Make an error say which file it is about: in its message, or as a note on another library's error.

    Args:
        error: What a download ended in.
        path: The file, as its repository names it.
    """
    if hasattr(error, "named_file"):  # one error may end many files
        return
    error.named_file = path  # type: ignore[attr-defined]  # any error takes attributes
    if path in str(error):
        return
    if isinstance(error, HaulError) and error.args and isinstance(error.args[-1], str):
        error.args = (*error.args[:-1], f"{path}: {error.args[-1]}")
    elif isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = path  # "[Errno 5] Input/output error: 'model.bin'"
    else:
        add_note(error, f"The file is {path!r}.")


def add_note(error: BaseException, text: str) -> None:
    """Add a note, as 3.11's ``BaseException.add_note`` does, in Python 3.10 too."""
    if hasattr(error, "add_note"):
        error.add_note(text)
    else:
        notes = [*getattr(error, "__notes__", []), text]
        error.__notes__ = notes  # type: ignore[attr-defined]  # as 3.11 keeps them
