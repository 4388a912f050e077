"""Redacts secrets in what libraries log and raise while they work for us.

urllib3, httpx and their kin log whole URLs and whole headers, and quote them in their errors: the signature
of a storage's URL, an endpoint's password. What they do within :func:`redacting` is told without. What they
do for the application, in other threads or between our calls, is not touched.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from hf_haul.urls import redact

__all__ = ["redact_error", "redact_text", "redacting"]

#: Whose loggers are looked after, with all below them.
_LIBRARIES: Final = frozenset(
    {
        "urllib3",
        "requests",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "h2",
        "hpack",
        "huggingface_hub",
        "socks",
    }
)
#: Each pattern takes a time in proportion to the text: a name that somebody sends may have many letters.
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]{0,15}://[^\s\"'<>]*[^\s\"'<>),.:;\]]", re.IGNORECASE)
#: A query that holds no secret, as of a listing's URL; huggingface_hub's messages keep it.
_OPEN_QUERY: Final = re.compile(r"\w+=(true|false)(&\w+=(true|false))*", re.ASCII)
#: A query behind a path that stands alone, as in a request line.
_QUERY: Final = re.compile(r"\?[^\s\"'<>]*")
_CREDENTIALS: Final = re.compile(r"\b(bearer|basic)\s+[^\s\"',]+", re.IGNORECASE)
#: From where on a message quotes headers: httpcore's of an answer's, urllib3's of those it could not read.
_HEADERS: Final = re.compile(r", \[\(.*|, unparsed data: .*", re.DOTALL)

_for_us: Final[ContextVar[bool]] = ContextVar("hf_haul_redacting", default=False)


def redact_text(text: str) -> str:
    """Return ``text`` without credentials, and with every URL as :func:`hf_haul.urls.redact` shows it."""
    text = _URL.sub(lambda match: redact(match[0]) + _open_query(match[0]), text)
    return _CREDENTIALS.sub(r"\1 ...", _QUERY.sub(_shown_query, text))


def _shown_query(match: re.Match[str]) -> str:
    return _open_query(match[0]) if "=" in match[0] else match[0]


def _open_query(text: str) -> str:
    """Return the part of a query that may be shown, its question mark included."""
    _, mark, query = text.partition("?")
    return mark + query if _OPEN_QUERY.fullmatch(query.rstrip("),.:;]")) else ""


def redact_error(error: BaseException) -> None:
    """Redact the messages and notes of an error that a library raised, and of its causes."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        args = tuple(redact_text(each) if isinstance(each, str) else each for each in one.args)
        if args != one.args:
            one.args = args
        notes = getattr(one, "__notes__", None)
        if notes:
            notes[:] = [redact_text(each) for each in notes]
        made_from = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        pending += [each for each in made_from if isinstance(each, BaseException)]


class _Redaction(logging.Filter):
    """Redacts log records made on our behalf, and leaves all others alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not _for_us.get():
            return True
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  a record that cannot be formatted is the handler's to complain of
            return True
        if record.name.startswith("hpack"):  # every header, the token included
            message = message.partition(" ")[0]
        if record.exc_info and record.exc_info[1] is not None:
            message += "\n" + "".join(traceback.format_exception_only(record.exc_info[1])).rstrip()
        record.msg, record.args = redact_text(_HEADERS.sub("", message)), ()
        record.exc_info = record.exc_text = None
        return True


_redaction: Final = _Redaction()
_covered = 0


def _cover() -> None:
    """Add the filter to all loggers that exist by now; loggers are never removed."""
    global _covered
    known = logging.root.manager.loggerDict
    if len(known) == _covered:
        return
    count = len(known)
    for name in list(known):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(_redaction)  # does nothing if it is there
    _covered = count


@contextmanager
def redacting() -> Iterator[None]:
    """Redact what libraries log and raise in this thread while the block runs."""
    _cover()
    before = _for_us.set(True)
    try:
        yield
    except Exception as error:
        redact_error(error)
        raise
    finally:
        _for_us.reset(before)
