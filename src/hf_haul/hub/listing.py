"""Listings of a repository's files: pages as the Hub and its mirrors send them, checked and bounded."""

from __future__ import annotations

import json
import reprlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from huggingface_hub.errors import (
    FileMetadataError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    get_session,
)

from hf_haul.config import DEFAULT_TIMINGS, MiB, Settings, Timings
from hf_haul.errors import InvalidUrlError
from hf_haul.hub.asking import BODY_HEADERS, httpx, raise_for_status, retry_busy, uncached_timeout
from hf_haul.hub.metadata import LARGEST
from hf_haul.hub.tokens import protect_secrets
from hf_haul.storage.safe_paths import MOST_FOLDERS
from hf_haul.urls import HttpUrl, join_url, parse_url, quote_header, redact
from hf_haul.waits import Waits, unattended

__all__ = [
    "BadListingError",
    "SamePageError",
    "is_encodable",
    "page_problem",
    "read_page",
    "too_many_entries",
    "tree_pages",
    "tree_url",
]

#: Most bytes of one page, compressed and inflated, and most seconds. The Hub sends a thousand entries of a
#: few hundred bytes each.
_PAGE_BYTES: Final = 256 * MiB
_PAGE_SECONDS: Final = 300.0
#: Bytes to inflate at a time.
_INFLATED: Final = MiB
#: Most empty pages in a row.
_EMPTY_PAGES: Final = 100


class SamePageError(FileMetadataError):
    """A mirror that answers with a page it has sent before when asked for the next one."""

    def __init__(self, base: str, entries: int, what: str) -> None:
        super().__init__(
            f"{redact(base)} lists only the first {entries} entries of {what!r} whichever page is asked for, and tells nothing of"
            " the others. Set HF_ENDPOINT to another mirror or to the Hub itself."
        )


class BadListingError(FileMetadataError):
    """A page of a listing that is JSON, but not what a Hub sends."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            f"{redact(url)} cannot be read as a listing of files: {what}. If this is a mirror, set"
            " HF_ENDPOINT to another one or to the Hub itself."
        )


def too_many_entries(url: str, most: int) -> BadListingError:
    """Return the error for a listing with more than ``most`` entries."""
    return BadListingError(
        url, f"it has more than {most} entries; HF_HAUL_MAX_LISTING sets how many are read at the most"
    )


def tree_url(base: str, repo_type: str, repo_id: str, revision: str, folder: str) -> str:
    """Return the URL of the listing of a folder."""
    url = f"{base}/api/{repo_type}s/{repo_id}/tree/{quote(revision, safe='')}"
    return f"{url}/{quote(folder, safe='')}" if folder else url


def tree_pages(
    base: str,
    url: str,
    headers: dict[str, str],
    *,
    recursive: bool,
    expand: bool = False,
    retry_connect: bool = True,
    most: int | None = None,
    on_answer: Callable[[Any], None] | None = None,
    waits: Waits = unattended,
    timings: Timings = DEFAULT_TIMINGS,
) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """Yield the pages of a listing as the Hub sent them, each with whether it is the last.

    Requests all pages from the same origin. Mirrors pass on the Hub's ``Link`` header; followed to the
    letter, it would bypass the mirror, and carry the token to whatever origin it names.

    Args:
        base: The Hub's URL.
        url: See :func:`tree_url`.
        headers: Sent with each request.
        recursive: Whether folders in the folder are listed too.
        expand: Whether to ask for commits and scans too.
        retry_connect: Whether to repeat after a refused connection, too.
        most: Most entries to read; ``None`` for the setting.
        on_answer: Called with each answer's response.
        waits: Where waits are reported.
        timings: How long they are.

    Raises:
        SamePageError: The mirror sends the same page again and again.
        BadListingError: A page is not a listing, or the listing is too long.
        Exception: huggingface_hub's own errors.
    """
    params: dict[str, Any] | None = {"recursive": recursive, "expand": expand}
    most = Settings.from_environment().max_listing if most is None else most
    seen: set[str] = set()
    last: list[dict[str, Any]] = []
    first = url
    entries = empty = 0
    while url not in seen:
        seen.add(url)
        response, page = retry_busy(
            partial(_page, base, url, params, headers),
            retry_connect=retry_connect,
            what=redact(url),
            waits=waits,
            timings=timings,
        )
        if on_answer is not None:
            on_answer(response)
        if page and page == last:
            break
        entries += len(page)
        empty = 0 if page else empty + 1
        if entries > most:
            raise too_many_entries(url, most)
        if empty > _EMPTY_PAGES:
            raise BadListingError(url, f"{empty} consecutive pages are empty, and each links to another one")
        following = response.links.get("next", {}).get("url")
        yield page, following is None
        if following is None:
            return
        try:
            following = quote_header(following, response.headers.encoding)
            url = _on_own_origin(base, join_url(parse_url(url, userinfo=True), following))
        except InvalidUrlError as error:
            raise BadListingError(url, f"the URL of its next page is invalid: {error}") from None
        params, last = None, page
    raise SamePageError(base, len(last), redact(first).rpartition("/tree/")[2])


def _page(
    base: str, url: str, params: dict[str, Any] | None, headers: dict[str, str]
) -> tuple[Any, list[dict[str, Any]]]:
    with protect_secrets(base):
        response = _get(url, params=params, headers=headers)
        raise_for_status(response)
    try:
        page = response.json()
    except json.JSONDecodeError:
        raise  # a captive portal's page, perhaps
    except RecursionError:
        raise BadListingError(url, "its JSON is nested too deeply") from None
    except ValueError as error:  # bytes of no encoding, a number of thousands of digits
        raise BadListingError(url, f"{type(error).__name__}: {error}") from None
    problem = page_problem(page)
    if problem is not None:
        raise BadListingError(url, problem)
    return response, page


def _get(url: str, *, params: dict[str, Any] | None, headers: dict[str, str]) -> Any:
    """Ask for a page of a listing; see :func:`read_page`."""
    return read_page(url, method="GET", params=params, headers=headers)


def read_page(url: str, *, headers: dict[str, str], **request: Any) -> Any:
    """Request a page of a listing, and read no more than a page may have.

    Args:
        url: Where.
        headers: Sent with it.
        request: ``method``, and what else huggingface_hub's client takes.

    Raises:
        BadListingError: The page is too large, too slow, or in an encoding that was not asked for.
    """
    headers = {**headers, "Accept-Encoding": "gzip"}  # what can be inflated piece by piece
    deadline = monotonic() + _PAGE_SECONDS
    body = bytearray()
    with get_session().stream(url=url, headers=headers, timeout=uncached_timeout(), **request) as response:
        if response.is_stream_consumed:  # by a hook of the user's
            body += response.content
        else:
            for data in _inflated(url, response.iter_raw(), response.headers.get("Content-Encoding", "")):
                body += data
                if len(body) > _PAGE_BYTES:
                    raise BadListingError(url, f"one page of it has more than {_PAGE_BYTES >> 20} MiB")
                if monotonic() > deadline:
                    raise BadListingError(url, f"one page of it takes more than {_PAGE_SECONDS:.0f} s")
        return httpx.Response(
            response.status_code,
            headers=[
                (k, v) for k, v in response.headers.raw if k.lower().decode("latin-1") not in BODY_HEADERS
            ],
            content=bytes(body),
            request=response.request,
        )


def _inflated(url: str, pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield a decompressed body in pieces of a bounded size."""
    if encoding.strip().lower() in {"", "identity"}:
        yield from pieces
        return
    if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        raise BadListingError(
            url, f"its Content-Encoding is {reprlib.repr(encoding)}, which was not asked for"
        )
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either kind, by its first bytes
    try:
        for piece in pieces:
            rest = piece
            while rest:
                yield inflate.decompress(rest, _INFLATED)
                rest = inflate.unconsumed_tail
        yield inflate.flush()
    except zlib.error as error:
        raise BadListingError(url, f"it is not what its Content-Encoding says: {error}") from None


def page_problem(page: object) -> str | None:
    """Return what is wrong with a page of a listing; ``None`` if nothing."""
    if not isinstance(page, list):
        return f"expected a list, got {reprlib.repr(page)}"
    for item in page:
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            return f"an entry without a path: {reprlib.repr(item)}"
        problem = _entry_problem(item)
        if problem is not None:
            return f"{reprlib.repr(item['path'])} {problem}"
    return None


def _entry_problem(item: Mapping[str, Any]) -> str | None:
    if not is_encodable(item["path"]):
        return "is no text"
    if item["path"].count("/") > MOST_FOLDERS:
        return f"is in more than {MOST_FOLDERS} folders"
    if not isinstance(item.get("type"), str):
        return "has no type"
    if item["type"] != "file":
        return None
    lfs = item.get("lfs")
    for each in (item, *([lfs] if lfs else ())):
        if not isinstance(each, dict) or not isinstance(each.get("oid"), str):
            return "has no object id"
        # A bool is an int to Python, but no size.
        if type(each.get("size")) is not int or not 0 <= each["size"] <= LARGEST:
            return f"has a size of {reprlib.repr(each.get('size'))}"
    if not isinstance(item.get("xetHash"), str | None):
        return f"has a Xet hash of {reprlib.repr(item['xetHash'])}"
    return None


def is_encodable(name: str) -> bool:
    """Return whether a name can be encoded; lone surrogates cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _on_own_origin(base: str, page: HttpUrl) -> str:
    """Return the URL of the same page at our own endpoint."""
    own = parse_url(base, userinfo=True)
    if page.origin == own.origin:
        target = page.target
    else:
        start = page.path.find("/api/")
        target = own.path.rstrip("/") + page.target[max(start, 0) :]
    return replace(own, target=target).with_userinfo
