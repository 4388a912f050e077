"""The listing of a repository's files: its pages as the Hub and its mirrors send them, and what can be wrong with them."""

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

from hf_haul.config import MiB, Settings
from hf_haul.errors import InvalidUrlError
from hf_haul.hub.asking import BODY_HEADERS, httpx, patient_timeout, raise_for_status, retry_busy
from hf_haul.hub.metadata import LARGEST, ListedFile
from hf_haul.hub.tokens import protect_secrets
from hf_haul.storage.safe_paths import MOST_FOLDERS
from hf_haul.urls import HttpUrl, join_url, parse_url, quote_header, redact

__all__ = [
    "BadListingError",
    "FileListing",
    "SamePageError",
    "is_encodable",
    "is_partial",
    "listed_file",
    "page_problem",
    "read_page",
    "too_many_entries",
    "tree_pages",
    "tree_url",
]

#: Bytes of one page of a listing, as sent and inflated, and seconds that it may take. The Hub sends a thousand entries of a
#: few hundred bytes each.
_PAGE_BYTES: Final = 256 * MiB
_PAGE_SECONDS: Final = 300.0
#: Bytes that are inflated at a time.
_INFLATED: Final = MiB
#: Pages in a row without an entry that are followed by another.
_EMPTY_PAGES: Final = 100
#: Of ``hf-haul serve``: what kind of listing this is, and that it knows of a file, or of a listing, that it lacks.
_LISTING_HEADER: Final = "X-Haul-Listing"


class FileListing(dict[str, ListedFile]):
    """The files of a commit by path.

    Attributes:
        partial: Whether the server said that it is not the Hub's own list; `serve` does so where somebody vouched
            for what there is.
    """

    partial = False

    def note_headers(self, response: Any) -> None:
        """Take notice of what an answer's headers say."""
        if str(response.headers.get(_LISTING_HEADER, "")).strip().lower() == "partial":
            self.partial = True


def is_partial(listing: Mapping[str, ListedFile]) -> bool:
    """Whether the server said that a listing is not the Hub's own: it is then good for one call, and is not kept."""
    return isinstance(listing, FileListing) and listing.partial


def listed_file(item: Mapping[str, Any]) -> ListedFile | None:
    """A file of a listing; ``None`` for a folder."""
    if item["type"] != "file":
        return None
    lfs = item.get("lfs")
    return ListedFile(
        size=item["size"],
        blob_id=item["oid"],
        lfs_sha256=lfs["oid"] if lfs else None,
        lfs_size=lfs["size"] if lfs else None,
        xet_hash=item.get("xetHash"),
    )


class SamePageError(FileMetadataError):
    """A listing that goes in a circle: asked for its next page, it gives one that was there before."""

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
    """The error for a listing of more entries than are read at the most."""
    return BadListingError(
        url, f"it has more than {most} entries; HF_HAUL_MAX_LISTING sets how many are read at the most"
    )


def tree_url(base: str, repo_type: str, repo_id: str, revision: str, folder: str) -> str:
    """Where the listing of a folder is asked for."""
    url = f"{base}/api/{repo_type}s/{repo_id}/tree/{quote(revision, safe='')}"
    return f"{url}/{quote(folder, safe='')}" if folder else url


def tree_pages(
    base: str,
    url: str,
    headers: dict[str, str],
    *,
    recursive: bool,
    expand: bool = False,
    patient: bool = True,
    most: int | None = None,
    on_answer: Callable[[Any], None] | None = None,
) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """The pages of a listing as the Hub sent them, and of each whether it is the last.

    All of them are asked of the same origin. Mirrors pass ``Link`` on as they got it. Followed to the letter it
    would lead past the mirror, and carry the token to whatever origin it names.

    Args:
        base: The Hub's URL.
        url: See :func:`tree_url`.
        headers: Sent with each request.
        recursive: Whether folders in the folder are listed too.
        expand: Whether to ask for commits and scans too.
        patient: Whether to try again where no connection is to be had at all.
        most: Entries that are read at the most; ``None`` for what the settings say.
        on_answer: Called with each answer's response.

    Raises:
        SamePageError: There are more pages, but this mirror gives one of them again and again.
        BadListingError: A page holds something else than a listing, or more than a listing may have.
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
            partial(_page, base, url, params, headers), patient=patient, what=redact(url)
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
            raise BadListingError(url, f"{empty} pages in a row have no entry, and each names another one")
        following = response.links.get("next", {}).get("url")
        yield page, following is None
        if following is None:
            return
        try:
            following = quote_header(following, response.headers.encoding)
            url = _on_own_origin(base, join_url(parse_url(url, userinfo=True), following))
        except InvalidUrlError as error:
            raise BadListingError(url, f"its next page has no address that can be asked: {error}") from None
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
        raise  # somebody's web page, perhaps for a moment only
    except RecursionError:
        raise BadListingError(url, "its JSON is nested too deeply") from None
    except ValueError as error:  # bytes of no encoding, a number of thousands of digits
        raise BadListingError(url, f"{type(error).__name__}: {error}") from None
    fault = page_problem(page)
    if fault is not None:
        raise BadListingError(url, fault)
    return response, page


def _get(url: str, *, params: dict[str, Any] | None, headers: dict[str, str]) -> Any:
    """Ask for a page of a listing; see :func:`read_page`."""
    return read_page(url, method="GET", params=params, headers=headers)


def read_page(url: str, *, headers: dict[str, str], **request: Any) -> Any:
    """Ask for a page of a listing, and read no more of the answer than a page may have.

    Args:
        url: Where.
        headers: Sent with it.
        request: ``method``, and what else huggingface_hub's client takes.

    Raises:
        BadListingError: It is larger, or takes longer, or is encoded in a way that was not asked for.
    """
    headers = {**headers, "Accept-Encoding": "gzip"}  # what can be inflated piece by piece
    deadline = monotonic() + _PAGE_SECONDS
    body = bytearray()
    with get_session().stream(url=url, headers=headers, timeout=patient_timeout(), **request) as response:
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
    """A body as it was before it was compressed, in pieces of a bounded size."""
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
    """What a page of a listing lacks to be one; ``None`` if nothing."""
    if not isinstance(page, list):
        return f"expected a list, got {reprlib.repr(page)}"
    for item in page:
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            return f"an entry without a path: {reprlib.repr(item)}"
        fault = _entry_problem(item)
        if fault is not None:
            return f"{reprlib.repr(item['path'])} {fault}"
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
    """Whether a name can be written anywhere; half a pair of surrogates cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _on_own_origin(base: str, page: HttpUrl) -> str:
    """The same page, asked of our own endpoint."""
    home = parse_url(base, userinfo=True)
    if page.origin == home.origin:
        target = page.target
    else:
        start = page.path.find("/api/")
        target = home.path.rstrip("/") + page.target[max(start, 0) :]
    return replace(home, target=target).with_userinfo
