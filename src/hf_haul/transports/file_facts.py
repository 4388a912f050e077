"""What a server says of a file before it sends it: its size, its version, and how it would call it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.config import Settings
from hf_haul.errors import RangeRefusedError, StalledError
from hf_haul.metrics import SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.task import RemoteFile
from hf_haul.transports.base import Body
from hf_haul.transports.http import HttpSource
from hf_haul.transports.retry import retrying
from hf_haul.transports.validators import normalize_etag
from hf_haul.urls import source_of

__all__ = ["FileFacts", "first_answer", "learn_facts", "suggested_name"]

AnyBody = TypeVar("AnyBody", bound=Body)

#: Characters that one system or another does not have in names.
_UNUSABLE: Final = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')
#: Names that are devices on Windows, whatever their ending.
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a server says of a file.

    Attributes:
        size: Bytes; ``None`` if it does not say.
        etag: Its version, without quotes.
        modified: When it was changed, in Unix seconds.
        name: How the server would call it; the name of one file, in no folder.
        ranges: Whether it may be asked for ranges: not where it sent all of the file when asked for one byte,
            and does not say that it knows any.
        location: What answered, after all redirects; it may be signed.
    """

    size: int | None = None
    etag: str | None = None
    modified: int | None = None
    name: str | None = None
    ranges: bool = True
    location: str | None = field(default=None, repr=False)


def learn_facts(
    source: HttpSource, settings: Settings, history: SourceHistory, cancel_token: CancelToken
) -> FileFacts:
    """Ask for the first byte of a file, again and again as settings allow, and return what the answer says.

    A HEAD would do, if it were answered alike: some servers refuse it, and signed URLs are for GET alone.

    Raises:
        StopRequestedError: The token was set.
        TransferError: The file cannot be had.
    """
    body = first_answer(source.open, source.remote, settings, history, cancel_token)
    headers = body.headers
    return FileFacts(
        body.total,
        normalize_etag(headers.get("ETag")),
        _modified(headers),
        suggested_name(headers.get("Content-Disposition")),
        not body.whole or headers.get("Accept-Ranges", "").strip().lower() == "bytes",
        body.url,
    )


def first_answer(
    open_range: Callable[[ByteRange | None, CancelToken], AnyBody],
    remote: RemoteFile,
    settings: Settings,
    history: SourceHistory,
    cancel_token: CancelToken,
) -> AnyBody:
    """Ask for the first byte of a file, again and again as settings allow; return the answer, closed.

    Args:
        open_range: A transport's.
        remote: The file.
        settings: How long to wait for an answer, and how often to ask.
        history: How long answers take.
        cancel_token: Ends the wait.

    Raises:
        StopRequestedError: The token was set.
        TransferError: The file cannot be had.
    """
    origin, unanswered = source_of(remote.url), 0

    def ask() -> AnyBody:
        nonlocal unanswered
        cancel_token.silence_limits = SilenceLimits(
            history.answer_timeout(origin, settings, unanswered), settings.stall_timeout
        )
        try:
            try:
                return open_range(ByteRange(0, 1), cancel_token)
            except RangeRefusedError:  # an empty file has no first byte
                return open_range(None, cancel_token)
        except StalledError:
            unanswered += 1
            raise

    body: AnyBody = retrying(
        cancel_token=cancel_token,
        progress=lambda: 0,
        settings=settings,
        on_retry=lambda _error, _seconds: None,
        server_wait=lambda: cancel_token.server_wait,
        subject=remote.path,
        source=origin,
    )(ask)
    body.close()
    return body


def _modified(headers: Mapping[str, str]) -> int | None:
    with suppress(ValueError, TypeError, OverflowError):
        return int(parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp())
    return None


def suggested_name(disposition: str | None) -> str | None:
    """Return the name in a ``Content-Disposition`` (RFC 6266), as one that cannot lead anywhere.

    Folders are dropped, and so are dots at its beginning, which would hide the file or make it somebody's
    configuration, and whatever no system takes.

    Returns:
        ``None`` if it has none that can be used.
    """
    if not disposition:
        return None
    with suppress(UnicodeError):  # as some send it, against the rules
        disposition = disposition.encode("latin-1").decode("utf-8")
    name = _name_in(disposition)
    name = _UNUSABLE.sub("_", re.split(r"[/\\]", name)[-1]).strip().lstrip(".").rstrip(". ")
    while len(name.encode("utf-8", "surrogatepass")) > 200:
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem[:-1]}{dot}{suffix}" if stem and len(suffix) < 20 else name[:-1]
    if not name or _DEVICES.fullmatch(name) or any("\ud800" <= letter <= "\udfff" for letter in name):
        return None
    return name


def _name_in(disposition: str) -> str:
    """Return the name as it stands there; what is encoded (``filename*``) goes before what is not."""
    message = Message()
    message["Content-Disposition"] = re.sub(r"[\r\n]+", " ", disposition)
    params: list[tuple[str, Any]] = message.get_params([], "content-disposition")
    found = [value for key, value in params if key == "filename"]
    encoded = [value for value in found if isinstance(value, tuple)]
    chosen = [*encoded, *found, ""][0]
    if isinstance(chosen, tuple):
        charset, _, text = chosen
        with suppress(LookupError, UnicodeError):
            return str(text.encode("latin-1").decode(charset or "us-ascii"))
        return ""
    return str(chosen)
